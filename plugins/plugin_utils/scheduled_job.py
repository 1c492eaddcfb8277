# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a timer starts: ``python3 -P scheduled_job.py run|ended|tell|cron RECORD JOB [-- COMMAND...]``.

``run`` waits until no other job of the environment works and becomes ansible-playbook, whose exit code is so the unit's own. ``ended``
leaves the heartbeat, whatever ended it. ``tell`` tells people of a failure. ``cron`` is the three of them, where there is no systemd.
Secrets come as files: those of systemd's LoadCredential, or the ones that the record names.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

# Started by its path: the packages of the collection are found from here.
sys.path.append(str(Path(__file__).absolute().parents[5]))

from ansible_collections.whitecross.pgops.plugins.module_utils import timer_look, timer_state
from ansible_collections.whitecross.pgops.plugins.module_utils.timer_state import TimerPlace

# As sysexits.h has them: try again later; what is to be run is not there.
TEMPORARY, UNCONFIGURED = 75, 78
POLL_S = 1.0
PING_TIMEOUT_S = 10


class Job:
    """One job of a record."""

    def __init__(self, record: str, name: str) -> None:
        """:raises SystemExit: the timers are there no more, or not this one"""
        found = timer_state.read(record)
        job = ((found or {}).get("jobs") or {}).get(name)
        if found is None or job is None:
            told = f"{record} knows no job {name}: its timer was removed, or is to be installed anew by schedule.yml"
            print(told, file=sys.stderr)
            raise SystemExit(UNCONFIGURED)
        self.name, self.record, self.given = name, found, dict(job)
        self.place = TimerPlace.of_record(record)

    @staticmethod
    def _loaded(name: str) -> str | None:
        """:return: the copy of a secret that systemd has made for this run alone."""
        path = os.path.join(os.environ.get("CREDENTIALS_DIRECTORY", "/nowhere"), name)
        return path if os.path.exists(path) else None

    def command(self, given: Sequence[str]) -> list[str]:
        """:return: the command, with where its secrets lie; never with a secret."""
        files = {name: self._loaded(name) or path for name, path in (self.record.get("credentials") or {}).items()}
        vault = files.pop(timer_state.VAULT, None)
        words = list(given)
        if vault:
            words += ["--vault-password-file", vault]
        if files:
            words += ["-e", json.dumps(files)]
        return words

    def lock(self) -> int:
        """Wait until no other job of the environment works.

        :return: the descriptor that holds the lock, as long as anybody has it open
        :raises SystemExit: the other one has not ended in time
        """
        timer_state.make_private_folder(os.path.dirname(self.place.lock))
        descriptor = os.open(self.place.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        wait = float(self.record.get("lock_wait_s") or 0)
        deadline, told = time.monotonic() + wait, False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another job"
            if time.monotonic() >= deadline:
                print(f"{self.name} was not begun: {holder} still works on {self.place.environment}", file=sys.stderr)
                raise SystemExit(TEMPORARY)
            if not told:
                print(f"{self.name} waits for {holder}, at most {timer_state.span(wait)}", flush=True)
                told = True
            time.sleep(POLL_S)  # a lock that is set free wakes nobody who does not block on it
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{self.name} (process {os.getpid()})".encode(), 0)
        return descriptor

    def ended(self, *, ok: bool, exit_code: int | None) -> dict[str, Any]:
        """:return: the heartbeat that was left. :raises OSError: it could not be"""
        every = int(self.given["expected_every_s"])
        known = timer_state.beat(self.place, self.name, every, ok=ok, at=datetime.now(UTC), exit_code=exit_code)
        self._measure()
        self._ping(ok)
        return known

    def _measure(self) -> None:
        """The run has written its metrics before this heartbeat was there; whether that works changes nothing."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import metrics_files

        try:
            metrics_files.leave_timers(self.place.state, self.place.environment)
        except metrics_files.NotWritten as fault:
            print(f"The metrics of the timers were not written: {fault}", file=sys.stderr)

    def _ping(self, ok: bool) -> None:
        """Ask an address, as healthchecks.io and its like want it; whether that answers changes nothing."""
        path = self._loaded("ping_url") or self.given.get("ping_url_file")
        if not path:
            return
        from ansible.module_utils.urls import open_url

        try:
            url = Path(path).read_text(encoding="utf-8").strip()
            open_url(
                url if ok else f"{url.rstrip('/')}/fail",
                timeout=PING_TIMEOUT_S, follow_redirects="none", use_netrc=False, http_agent="whitecross.pgops",
            ).close()  # fmt: skip
        except Exception as error:  # noqa: BLE001 -- its words may hold the address, which is a secret
            told = getattr(error, "code", None) or type(getattr(error, "reason", error)).__name__
            print(f"The end of {self.name} was not heard at its ping address: {told}", file=sys.stderr)

    def tell(self) -> bool:
        """:return: whether all who are named were told of a failure of this job."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import notices

        settings = dict(self.record.get("tell") or {})
        for name, given in (self.record.get("told_with") or {}).items():
            path = self._loaded(name) or given
            if name == "pgops_mail_password_file":
                settings["pgops_mail"] = {**settings["pgops_mail"], "password_file": path}
            else:
                settings[name] = path
        notice = self._notice(notices.FAILED)
        print(notice.text, flush=True)
        try:
            if not notices.deliver(notice, settings):
                print("Nobody is named to be told: set pgops_webhook_file or pgops_mail", file=sys.stderr)
        except notices.NotNotified as fault:
            print(f"{notices.who_was(fault)} was told of it: {fault}", file=sys.stderr)
            return False
        return True

    def _notice(self, event: str) -> Any:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.notices import Notice

        heartbeat = timer_state.read(self.place.heartbeat(self.name)) or {}
        environment, host = self.place.environment, os.uname().nodename
        code = heartbeat.get("exit_code")
        lines = [
            f"pgops: timer {self.name} in {environment} FAILED{f' with exit code {code}' if code is not None else ''}",
            f"at: {heartbeat.get('at') or timer_state.utc(datetime.now(UTC))} on {host}",
            f"last success: {heartbeat.get('last_success') or 'none'}",
        ]
        lines.append(f"look: {timer_look.look(self.record, self.given)}")
        lines.append(f"next: ansible-playbook status.yml -l {environment}")
        facts = {
            "playbook": self.given["playbook"].rpartition("/")[2].removesuffix(".yml"), "environment": environment, "timer": self.name,
            "ops_host": host, "result": "failed", "exit_code": code, "last_success": heartbeat.get("last_success"),
        }  # fmt: skip
        return Notice(event, "\n".join(lines), facts)


def run(job: Job, command: Sequence[str]) -> NoReturn:
    """Become the command, with the lock held until its end."""
    descriptor = job.lock()
    os.set_inheritable(descriptor, True)
    words = job.command(command)
    sys.stdout.flush()
    os.execv(words[0], words)


def ended(job: Job) -> int:
    """Called by systemd at each end, which tells it how."""
    # A unit that was told to stop has not done its work either, whatever its process says of that.
    ok = os.environ.get("SERVICE_RESULT") == "success" and os.environ.get("EXIT_STATUS") == "0"
    status = os.environ.get("EXIT_STATUS", "")
    known = job.ended(ok=ok, exit_code=int(status) if status.isdigit() else None)
    print(f"{job.name} of {job.place.environment}: {known['result']}, last success {known['last_success'] or 'never'}")
    return 0


def cron(job: Job, command: Sequence[str]) -> int:
    """Without systemd: the delay by chance, the run, its heartbeat, and who is told of a failure."""
    time.sleep(random.uniform(0, float(job.given.get("delay_s") or 0)))  # so that not all hosts begin at once
    try:
        descriptor = job.lock()
        code = subprocess.run(job.command(command), check=False, stdin=subprocess.DEVNULL).returncode
        os.close(descriptor)
    except SystemExit as locked:
        code = int(locked.code or 0)
    except OSError as error:
        print(f"{command[0]} cannot be started: {error.strerror}", file=sys.stderr)
        code = UNCONFIGURED
    code = code if code >= 0 else 128 - code
    job.ended(ok=code == 0, exit_code=code)
    if code != 0:
        job.tell()
    return code


def main(arguments: Sequence[str]) -> int:
    """:return: the exit code, unless the process has become the command's."""
    if len(arguments) < 3 or arguments[0] not in ("run", "ended", "tell", "cron"):
        print(__doc__, file=sys.stderr)
        return 64
    verb, record, name = arguments[:3]
    command = list(arguments[4:])
    job = Job(record, name)
    if verb == "run":
        run(job, command)
    if verb == "cron":
        return cron(job, command)
    if verb == "ended":
        return ended(job)
    return 0 if job.tell() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
