# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked for of timers, on this host: who runs them, from where, and what of it there is already."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import schedule_install, timer_state
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.schedule_units import Setting
from ansible_collections.whitecross.pgops.plugins.module_utils.timer_state import TimerPlace

SYSTEMD, CRON, AUTO = "systemd", "cron", "auto"
# What Ansible itself writes below the home of who runs it.
_OF_ANSIBLE = (".ansible", ".ansible_async")


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    :ivar user: who runs the playbooks
    :ivar state_directory: ``pgops_state_directory``; a ``~`` is the home of that user
    :ivar jobs: each ``name``, ``playbook``, ``command``, ``on_calendar``, ``delay_s``, ``timeout_s``, ``ping_url_file``
    :ivar program: Python and the script of a job, as words
    :ivar credentials: variable -> file on this host
    :ivar needed: what else a run reads, by name
    :ivar told_with: the same, for who tells of a failure
    :ivar tell: how a failure is told, no secrets
    :ivar lock_wait_s: how long a job waits for another one
    :ivar grace_s: how much later than its schedule a run may end
    """

    environment: str
    user: str
    directory: str
    state_directory: str
    manager: str = AUTO
    jobs: Sequence[Mapping[str, Any]] = ()
    program: Sequence[str] = ()
    credentials: Mapping[str, str] = field(default_factory=dict)
    needed: Mapping[str, str] = field(default_factory=dict)
    told_with: Mapping[str, str] = field(default_factory=dict)
    tell: Mapping[str, Any] = field(default_factory=dict)
    write_paths: Sequence[str] = ()
    directives: Sequence[str] = ()
    lock_wait_s: int = 21600
    grace_s: int = 3600


class Ground:
    """What is asked for, on this host: who, where, and what of it there is."""

    def __init__(self, wanted: Wanted, user: pwd.struct_passwd) -> None:
        self.wanted, self.user = wanted, user
        self.wanted = self._with_whole_paths(wanted)
        self.system = os.geteuid() == 0
        self.place = TimerPlace(self._whole(wanted.state_directory), wanted.environment)
        self.unit_folder = schedule_install.unit_folder(self.system, user.pw_dir)
        self.mark = f"pgops {wanted.environment}, written by schedule.yml"
        # Recorded once: what is not there yet differs from nothing.
        self._before = timer_state.read(self.place.record)

    @staticmethod
    def of(wanted: Wanted) -> Ground:
        """:raises PgopsError: no such user, or one that the asking user cannot become"""
        try:
            user = pwd.getpwnam(wanted.user)
        except KeyError:
            raise PgopsError(
                f"There is no user {wanted.user} on this host; nothing was installed.",
                hint="Name who is to run the playbooks with -e schedule_user=USER.",
            ) from None
        if os.geteuid() not in (0, user.pw_uid):
            raise PgopsError(
                f"Only root can install timers that run as {wanted.user}; nothing was installed.",
                hint="Type it as that user, or with -e schedule_become=true.",
            )
        if os.geteuid() != 0 and not os.environ.get("XDG_RUNTIME_DIR") and os.path.isdir(f"/run/user/{user.pw_uid}"):
            # A session by su or ssh may not have it, and systemctl finds its manager by it.
            os.environ["XDG_RUNTIME_DIR"] = f"/run/user/{user.pw_uid}"
        return Ground(wanted, user)

    def _whole(self, path: str) -> str:
        if path == "~" or path.startswith("~/"):
            return os.path.normpath(self.user.pw_dir + path[1:])
        return os.path.normpath(os.path.join(self.wanted.directory, path))

    def _with_whole_paths(self, wanted: Wanted) -> Wanted:
        def whole(given: Mapping[str, str]) -> dict[str, str]:
            return {name: self._whole(path) for name, path in given.items()}

        jobs = [
            {**job, "ping_url_file": self._whole(job["ping_url_file"])} if job.get("ping_url_file") else job
            for job in wanted.jobs
        ]
        return replace(
            wanted, jobs=jobs, credentials=whole(wanted.credentials), needed=whole(wanted.needed), told_with=whole(wanted.told_with)
        )  # fmt: skip

    def refuse_absent_files(self) -> None:
        """:raises PgopsError: a playbook, a program or a file with a secret is not here, or not for its owner alone"""
        where = f"{self.wanted.directory} of {os.uname().nodename}"
        if not os.path.isdir(self.wanted.directory):
            raise PgopsError(
                f"There is no folder {where}, from which the playbooks are to be run; nothing was installed.",
                hint="Name the checkout on that host with -e schedule_directory=FOLDER.",
            )
        for job in self.wanted.jobs:
            path = os.path.join(self.wanted.directory, job["playbook"])
            if not os.path.isfile(path):
                raise PgopsError(
                    f"The job {job['name']} names the playbook {job['playbook']}, which is not in {where}; nothing was installed.",
                    hint=f"Correct schedule_jobs.{job['name']}.playbook, or take the job out of schedule_jobs.",
                )
        for program in (
            self.wanted.program[0],
            self.wanted.program[-1],
            *(job["command"][0] for job in self.wanted.jobs),
        ):
            if not os.path.isfile(program):
                raise PgopsError(
                    f"{program} is not on {os.uname().nodename}, where the timers are to run; nothing was installed.",
                    hint="Name ansible-playbook on that host with -e schedule_ansible_playbook=PATH.",
                )
        for name, path in self.wanted.needed.items():
            if not os.path.exists(path):
                raise PgopsError(
                    f"{name}={path} is not on {os.uname().nodename}, where the timers are to run; nothing was installed.",
                    hint="Bring the checkout to that host, at the same path as here.",
                )
        pings = {
            f"schedule_jobs.{job['name']}.ping_url_file": job["ping_url_file"]
            for job in self.wanted.jobs
            if job.get("ping_url_file")
        }
        for name, path in {**self.wanted.credentials, **self.wanted.told_with, **pings}.items():
            self._refuse_open(name, path)

    def refuse_foreign_state(self) -> None:
        """:raises PgopsError: who is to run the playbooks could not write what each run writes"""
        if not os.path.isdir(self.place.state):
            return
        owner = os.stat(self.place.state).st_uid
        # Root may write everywhere, and what root has written nobody else reads.
        if self.user.pw_uid not in (0, owner):
            raise PgopsError(
                f"{self.place.state} does not belong to {self.user.pw_name}, who is to run the playbooks and writes there; nothing was "
                "installed.",
                hint=f"Type it as {self.user.pw_name} with -e schedule_become=true, or leave schedule_user out.",
            )

    def _refuse_open(self, name: str, path: str) -> None:
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            raise PgopsError(
                f"{name}={path} cannot be read: {error.strerror}; nothing was installed.",
                hint=f"A run reads it on {os.uname().nodename}, where the timers are to run: bring it there, mode 0600.",
            ) from None
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise PgopsError(
                f"{name}={path} holds a secret and is no file of its owner alone; nothing was installed.",
                hint=f"chmod 600 {path}",
            )

    def manager(self, check_mode: bool) -> str:
        """:return: systemd, and cron only where there is none. :raises PgopsError: what was asked for by name is not here"""
        asked, there = self.wanted.manager, schedule_install.there_is_systemd()
        if asked == SYSTEMD and not there and not check_mode:
            raise PgopsError(
                "schedule_with=systemd, and systemd does not run this host; nothing was installed.",
                hint="Leave schedule_with out for cron, or look at the units with --check --diff.",
            )
        return asked if asked != AUTO else SYSTEMD if there else CRON

    def setting(self) -> Setting:
        """:return: what the units have in common."""
        wanted = self.wanted
        return Setting(
            environment=wanted.environment, system=self.system, user=self.user.pw_name, directory=wanted.directory,
            program=wanted.program, record=self.place.record, writable=self._writable(), credentials=wanted.credentials,
            told_with=wanted.told_with, directives=wanted.directives,
        )  # fmt: skip

    def _writable(self) -> list[str]:
        own = [self.place.state, *(os.path.join(self.user.pw_dir, name) for name in _OF_ANSIBLE)]
        # One with a dash may be missing, as systemd has it.
        given = [f"{'-' * path.startswith('-')}{self._whole(path.lstrip('-'))}" for path in self.wanted.write_paths]
        return list(dict.fromkeys([*own, *given]))

    # -- what is known of the timers ----------------------------------------------------------------------------------

    def record(self, manager: str, longest: Mapping[str, int]) -> dict[str, Any]:
        """:return: what the runs and status.yml read; a job whose calendar stays keeps the moment of its installation."""
        wanted, setting = self.wanted, self.setting()
        known = (self._before or {}).get("jobs") or {}
        now = timer_state.utc(datetime.now(timezone.utc))
        jobs = {}
        for job in wanted.jobs:
            name = str(job["name"])
            before = known.get(name) or {}
            same = before.get("on_calendar") == job["on_calendar"] and before.get("installed_at")
            jobs[name] = {
                "playbook": str(job["playbook"]),
                "on_calendar": str(job["on_calendar"]),
                "delay_s": int(job["delay_s"]),
                "expected_every_s": longest[name] + int(job["delay_s"]),
                "ping_url_file": job.get("ping_url_file") or None,
                "unit": setting.unit(name) if manager == SYSTEMD else None,
                "installed_at": before["installed_at"] if same else now,
            }
        return {
            "format": timer_state.FORMAT, "environment": wanted.environment, "manager": manager,
            "scope": "system" if self.system else "user", "user": self.user.pw_name, "directory": wanted.directory,
            "lock_wait_s": wanted.lock_wait_s, "grace_s": wanted.grace_s, "credentials": dict(wanted.credentials),
            "told_with": dict(wanted.told_with), "tell": dict(wanted.tell), "jobs": jobs,
        }  # fmt: skip

    @property
    def before(self) -> dict[str, Any] | None:
        """What was recorded when this began."""
        return self._before

    def write_record(self, record: dict[str, Any]) -> None:
        """:raises OSError: it cannot be written"""
        if record != self._before:
            with self.as_user():
                timer_state.write(self.place.record, record)

    def state_files(self, keep: Mapping[str, Any] | None = None) -> list[str]:
        """:return: what is kept of jobs that are to be no more. :param keep: those that stay; None where none does"""
        kept = {f"{name}.json" for name in keep or {}}
        # Whatever lies there: a job that ran when it was taken away was left in no record.
        gone = [os.path.join(self.place.heartbeats, name) for name in _names(self.place.heartbeats) if name not in kept]
        files = [*gone, self.place.record, self.place.lock] if keep is None else gone
        return [path for path in files if os.path.lexists(path)]

    def forget(self, paths: Sequence[str]) -> None:
        """Remove files, and the folders that only timers use once they are empty."""
        for path in paths:
            with suppress(FileNotFoundError):
                os.unlink(path)
        for folder in {os.path.dirname(path) for path in paths}:
            with suppress(OSError):
                os.rmdir(folder)

    def missing_folders(self) -> list[str]:
        """:return: what a unit of systemd would not start without."""
        return [path for path in self._writable() if not path.startswith("-") and not os.path.isdir(path)]

    def make_folders(self, paths: Sequence[str]) -> None:
        """Make them for their user, 0700."""
        with self.as_user():
            for path in paths:
                timer_state.make_private_folder(path)

    @contextmanager
    def as_user(self) -> Iterator[None]:
        """What is written in the block belongs to who runs the playbooks."""
        if os.geteuid() != 0 or self.user.pw_uid == 0:
            yield
            return
        os.setegid(self.user.pw_gid)
        os.seteuid(self.user.pw_uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
