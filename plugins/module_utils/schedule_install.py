# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the units of an environment in their place, switches their timers on, and takes exactly those away again.

What is to be is compared with what is; nothing that is right is touched, and nothing that is not ours is ever written or removed.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ansible_collections.whitecross.pgops.plugins.module_utils import timer_state
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.schedule_units import Setting

TIMEOUT_S = 90
SYSTEM_FOLDER = "/etc/systemd/system"
SYSTEM_STAMPS = "/var/lib/systemd/timers"
_EXPOSURE = re.compile(r"exposure level for (\S+): ([0-9.]+) (\w+)")


@dataclass(frozen=True)
class Change:
    """A file that is to be written, or removed where there is no text after."""

    path: str
    before: str
    after: str

    def diff(self) -> dict[str, str]:
        """:return: as ``--diff`` shows it."""
        return {
            "before": self.before,
            "after": self.after,
            "before_header": self.path if self.before else "/dev/null",
            "after_header": self.path if self.after else "/dev/null",
        }


def there_is_systemd() -> bool:
    """:return: whether systemd runs this host and can be asked."""
    return bool(shutil.which("systemctl")) and os.path.isdir("/run/systemd/system")


def unit_folder(system: bool, home: str) -> str:
    """:return: where units of the system or of a user belong."""
    return SYSTEM_FOLDER if system else os.path.join(home, ".config", "systemd", "user")


class Systemd:
    """The manager that runs an environment's units: the system's, or that of the user who asks."""

    def __init__(self, setting: Setting, folder: str) -> None:
        self.setting, self.folder = setting, folder
        self._scope = [] if setting.system else ["--user"]
        home = os.path.normpath(os.path.join(folder, "..", "..", ".."))
        self._stamps = SYSTEM_STAMPS if setting.system else os.path.join(home, ".local", "share", "systemd", "timers")

    def refuse_silence(self) -> None:
        """:raises PgopsError: the manager cannot be asked, as that of a user who is not logged in and does not linger"""
        code, _output, errors = self._systemctl("show", "--property=Version", check=False)
        if code != 0:
            told = (errors.strip().splitlines() or [f"exit code {code}"])[-1]
            raise PgopsError(
                f"The systemd of {self.setting.user} does not answer ({told.rstrip('.')}); nothing was installed.",
                hint=f"Type: loginctl enable-linger {self.setting.user}; or have root install them with -e schedule_become=true.",
            )

    # -- what is there ------------------------------------------------------------------------------------------------

    def ours(self) -> dict[str, str]:
        """:return: file name -> text, of the units here that carry our mark."""
        found = {}
        for path in sorted(glob.glob(os.path.join(glob.escape(self.folder), f"{glob.escape(self.setting.prefix)}*"))):
            name = os.path.basename(path)
            # Further dashes are those of another environment, whose name begins as ours does.
            if name.endswith((".service", ".timer")) and "-" not in name[len(self.setting.prefix) :]:
                text = _read(path)
                if text is not None and text.startswith(f"{self.setting.mark}\n"):
                    found[name] = text
        return found

    def changes(self, wanted: Mapping[str, str]) -> list[Change]:
        """:return: what is to be written and removed.

        :raises PgopsError: in the place of a unit is one of somebody else's
        """
        ours = self.ours()
        for name in wanted:
            path = os.path.join(self.folder, name)
            if name not in ours and os.path.lexists(path):
                raise PgopsError(
                    f"{path} is there and was not written by schedule.yml, so it is left as it is and nothing was installed.",
                    hint=f"Remove or rename it: {self.command('disable --now', name)}; rm {path}",
                )
        return [
            Change(os.path.join(self.folder, name), ours.get(name, ""), wanted.get(name, ""))
            for name in sorted({*ours, *wanted})
            if ours.get(name, "") != wanted.get(name, "")
        ]

    def is_on(self, timer: str) -> bool:
        """:return: whether a timer runs now and after the next start of the machine."""
        return all(
            self._systemctl(question, "--quiet", timer, check=False)[0] == 0 for question in ("is-active", "is-enabled")
        )

    def stale(self, timers: Sequence[str]) -> list[str]:
        """:return: the timers that systemd has read before they were written last."""
        services = [f"{timer[: -len('.timer')]}.service" for timer in timers]
        asked = "--property=NeedDaemonReload"
        return [
            timer
            for timer, service in zip(timers, services)
            if any("=yes" in self._systemctl("show", asked, unit, check=False)[1] for unit in (timer, service))
        ]

    # -- before anything is written -----------------------------------------------------------------------------------

    def verify(self, wanted: Mapping[str, str]) -> None:
        """Let ``systemd-analyze verify`` read the units before they are where systemd finds them.

        :raises PgopsError: it says a word against one of them
        """
        with tempfile.TemporaryDirectory(prefix="pgops-units-") as folder:
            for name, text in wanted.items():
                with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                    file.write(text)
            files = [os.path.join(folder, name) for name in sorted(wanted)]
            code, _output, errors = _run(["systemd-analyze", "verify", *self._scope, *files])
            # It reads what ours depend on as well, and has a word on many a distribution's own units.
            said = [line.replace(f"{folder}/", "") for line in errors.splitlines() if self.setting.prefix in line]
        if said or code != 0:
            told = said[0] if said else (errors.strip().splitlines() or [f"exit code {code}"])[-1]
            raise PgopsError(
                f"systemd-analyze verify refuses the units: {told.strip().rstrip('.')}; nothing was installed."
            )

    def exposure(self, wanted: Mapping[str, str]) -> dict[str, dict[str, object]]:
        """:return: unit -> ``score`` (0 safe, 10 open) and ``word`` of ``systemd-analyze security``; empty where it cannot be asked."""
        found: dict[str, dict[str, object]] = {}
        if not self.setting.system:
            return found
        with tempfile.TemporaryDirectory(prefix="pgops-units-") as folder:
            for name, text in wanted.items():
                if name.endswith(".service") and "@" not in name:
                    path = os.path.join(folder, name)
                    with open(path, "w", encoding="utf-8") as file:
                        file.write(text)
                    _code, output, _errors = _run(["systemd-analyze", "security", "--offline=true", "--no-pager", path])
                    for unit, score, word in _EXPOSURE.findall(output):
                        found[os.path.basename(unit)] = {"score": float(score), "word": word}
        return found

    # -- what is done -------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change], timers: Sequence[str]) -> None:
        """Write, remove, and have exactly these timers on.

        :raises PgopsError: systemd refuses
        """
        gone = [os.path.basename(change.path) for change in changes if not change.after]
        for name in sorted(gone, key=lambda name: not name.endswith(".timer")):
            self._remove(name)
        for change in changes:
            if change.after:
                _write(change.path, change.after)
        if changes:
            timer_state.sync_folder(self.folder)
        rewritten = {os.path.basename(change.path) for change in changes if change.after}
        stale = self.stale(timers)
        if changes or stale:
            # Also where an earlier run was cut off between the two.
            self._systemctl("daemon-reload")
        for timer in timers:
            if not self.is_on(timer):
                self._systemctl("enable", "--now", timer)
            elif timer in rewritten or timer in stale:
                # A timer that runs keeps the moment that it was waiting for.
                self._systemctl("restart", timer)

    def _remove(self, name: str) -> None:
        if name.endswith(".timer"):
            self._systemctl("disable", "--now", name)
            # When it was due last, which a timer of this name that comes later would take for its own.
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self._stamps, f"stamp-{name}"))
        elif "@" not in name and self._systemctl("is-active", "--quiet", name, check=False)[0] == 0:
            raise PgopsError(
                f"{name} runs just now and was not taken from under it; its timer is off.",
                hint=f"Wait until it has ended, or end it: {self.command('stop', name)}; then type the same again.",
            )
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self.folder, name))
        self._systemctl("reset-failed", name, check=False)

    def command(self, verb: str, unit: str) -> str:
        """:return: a command for people."""
        return " ".join(["systemctl", *self._scope, verb, unit])

    def _systemctl(self, *words: str, check: bool = True) -> tuple[int, str, str]:
        code, output, errors = _run(["systemctl", *self._scope, *words])
        if check and code != 0:
            told = (errors.strip().splitlines() or [f"exit code {code}"])[-1]
            raise PgopsError(f"systemctl {' '.join([*self._scope, *words])} failed: {told.rstrip('.')}.")
        return code, output, errors


def lingers(user: str) -> bool:
    """:return: whether a user's units run while the user is not logged in."""
    # loginctl knows only users that are logged in, and answers nobody who is not.
    return os.path.exists(f"/var/lib/systemd/linger/{user}")


class Crontab:
    """The crontab of the user who asks."""

    def read(self) -> str:
        """:return: all of it; a user without one has an empty one.

        :raises PgopsError: there is no cron either
        """
        if not shutil.which("crontab"):
            raise PgopsError(
                "Neither systemd nor cron is here: systemd does not run this host, and there is no crontab; nothing was installed.",
                hint="Let another scheduler run the playbooks, or name the host of the timers with -e schedule_host=HOST.",
            )
        code, output, errors = _run(["crontab", "-l"])
        if code != 0 and "no crontab" not in errors:
            raise PgopsError(
                f"crontab -l failed: {(errors.strip().splitlines() or ['no reason given'])[-1]}; nothing was installed."
            )
        return output if code == 0 else ""

    def write(self, table: str) -> None:
        """:raises PgopsError: cron refuses it, and keeps the old one"""
        code, _output, errors = _run(["crontab", "-"], table)
        if code != 0:
            raise PgopsError(
                f"cron refuses the crontab: {(errors.strip().splitlines() or ['no reason given'])[-1]}; it is as it was."
            )


def _run(command: Sequence[str], given: str = "") -> tuple[int, str, str]:
    environment = {**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"}
    try:
        done = subprocess.run(
            list(command), input=given, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        told = (
            f"has not answered for {TIMEOUT_S} s"
            if isinstance(error, subprocess.TimeoutExpired)
            else "cannot be started"
        )
        raise PgopsError(
            f"{command[0]} of this host {told}; look at what is there with: systemctl list-timers 'pgops-*'."
        ) from None
    return done.returncode, done.stdout, done.stderr


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError):
        return None


def _write(path: str, text: str) -> None:
    # Others may read a unit: there is no secret in it, and systemctl cat of any user shows it.
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        raise
