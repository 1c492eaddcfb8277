# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the ops host keeps of its timers: which there are, and the heartbeat that each run of one leaves at its end.

A timer that stands still says nothing. Its heartbeat grows old, and that is what is looked at.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

FORMAT = 1
JOB_NAME = re.compile(r"[a-z][a-z0-9_]*")

OK, FAILED, MISSED, STOPPED, WAITING = "ok", "failed", "missed", "stopped", "waiting"
# The credential that no variable of Ansible takes.
VAULT = "vault_password"
# What somebody has to look at.
BAD = (FAILED, MISSED, STOPPED)


@dataclass(frozen=True)
class TimerPlace:
    """Where an environment's timers keep what they know, below ``pgops_state_directory`` of the ops host.

    :ivar state: that folder, whole
    """

    state: str
    environment: str

    @property
    def record(self) -> str:
        """The file that says which timers there are and what each of them runs."""
        return os.path.join(self.state, "schedule", f"{self.environment}.json")

    @property
    def lock(self) -> str:
        """The file that the job which runs has locked: two of one environment never overlap."""
        return os.path.join(self.state, "schedule", f"{self.environment}.lock")

    @property
    def heartbeats(self) -> str:
        """The folder of the heartbeats, beside the journals of the environment's runs."""
        return os.path.join(self.state, "journal", self.environment, "timers")

    def heartbeat(self, name: str) -> str:
        """:return: the file of one job."""
        return os.path.join(self.heartbeats, f"{name}.json")

    @staticmethod
    def of_record(path: str) -> TimerPlace:
        """:return: the place that a record lies in."""
        folder, name = os.path.split(os.path.abspath(path))
        return TimerPlace(os.path.dirname(folder), name[: -len(".json")])


def read(path: str) -> dict[str, Any] | None:
    """:return: the object in a file; None where there is none or it cannot be understood."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write(path: str, value: dict[str, Any]) -> None:
    """Write an object whole or not at all: 0600, ``.partial``, fsync, rename, fsync of the folder.

    :raises OSError: it cannot be written
    """
    folder = os.path.dirname(path)
    make_private_folder(folder)
    partial = f"{path}.{os.getpid()}.partial"
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            json.dump(value, file, indent=1, ensure_ascii=False, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        raise
    sync_folder(folder)


def make_private_folder(path: str) -> None:
    """Make a folder and what is missing above it, each 0700 whatever the umask says."""
    if os.path.isdir(path):
        return
    make_private_folder(os.path.dirname(path))
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)


def sync_folder(path: str) -> None:
    """Make a new, renamed or removed entry survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def utc(moment: datetime) -> str:
    """:return: the moment as all files here have it, ``2026-11-23T01:30:12Z``."""
    return moment.astimezone(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


def moment(text: Any) -> datetime | None:
    """:return: the moment that :func:`utc` wrote; None of anything else."""
    try:
        # Python 3.9 and 3.10 do not know the Z.
        found = datetime.fromisoformat(re.sub(r"Z$", "+00:00", str(text)))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def beat(
    place: TimerPlace, name: str, expected_every_s: int, *, ok: bool, at: datetime, exit_code: int | None
) -> dict[str, Any]:
    """Leave the heartbeat of a run that has just ended; the last success stays known through failures.

    :param expected_every_s: after so many seconds the next success is overdue
    :param at: when it ended
    :param exit_code: that of ansible-playbook, None where there is none
    :raises OSError: it cannot be written
    """
    before = read(place.heartbeat(name)) or {}
    known = {
        "name": name,
        "last_success": utc(at) if ok else before.get("last_success"),
        "expected_every_s": int(expected_every_s),
        "result": "success" if ok else "failed",
        "at": utc(at),
        "exit_code": exit_code,
    }
    write(place.heartbeat(name), known)
    return known


@dataclass(frozen=True)
class Judged:
    """What is to be thought of a timer.

    :ivar state: one of the five above. :ivar why: a sentence where it is bad.
    """

    state: str
    why: str | None = None


def judge(
    job: dict[str, Any], heartbeat: dict[str, Any] | None, *, now: datetime, grace_s: int, active: bool | None
) -> Judged:
    """Tell a timer that stands still from one that has nothing to do yet.

    :param job: of the record: ``installed_at``, ``expected_every_s``
    :param heartbeat: what its last run left
    :param grace_s: how much later than the schedule a run may end
    :param active: whether the timer is switched on; None where nobody can be asked
    """
    every = int(job["expected_every_s"])
    success = moment((heartbeat or {}).get("last_success"))
    since = success or moment(job.get("installed_at"))
    overdue = since is None or (now - since).total_seconds() > every + grace_s
    if overdue:
        due = f"and is expected every {span(every)}"
        if success is None:
            return Judged(MISSED, f"it has never succeeded since it was installed ({job.get('installed_at')}) {due}")
        return Judged(
            MISSED, f"its last success was {span((now - success).total_seconds())} ago ({utc(success)}) {due}"
        )
    if active is False:
        return Judged(STOPPED, "it is not switched on, so it will not run")
    if heartbeat and heartbeat.get("result") != "success":
        code = heartbeat.get("exit_code")
        return Judged(
            FAILED,
            f"its last run failed at {heartbeat.get('at')}{f' with exit code {code}' if code is not None else ''}",
        )
    return Judged(OK if heartbeat else WAITING)


def span(seconds: float) -> str:
    """:return: a time as people say it: the two largest units."""
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number or parts:
            parts.append(f"{number} {unit}" if number else "")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part) or "0 s"
