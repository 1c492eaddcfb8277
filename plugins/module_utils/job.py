# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A module's work in a process of its own, which outlives the connection that started it.

Ansible's async wrapper does the same for any module, at the price of a copied file and four more commands on the host;
here the call itself answers when the work is over at once, and only longer work is polled for.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
import time
import traceback
from contextlib import suppress
from typing import Any, NoReturn

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

# As long as this the call waits for its work: whoever watches sees the first progress after it at the latest.
ATTENDED_S = 1.0
# What a killed controller left is looked at by nobody any more.
FORGOTTEN_S = 24 * 3600

PREFIX = "pgops."
PROGRESS, LEASE, PID, RESULT, ERRORS = "progress", "lease", "pid", "result", "stderr"


class Job:
    """The folder through which a job and its controller talk, mode 0700.

    ``lease`` is touched by the controller, ``lease.stop`` asks the job to end, ``progress`` and ``result`` are the
    job's, ``pid`` says who it is, ``stderr`` keeps what a job that broke off said.
    """

    def __init__(self, folder: str) -> None:
        self._folder = os.path.abspath(folder)

    def path(self, name: str) -> str:
        """:return: one of the folder's files."""
        return os.path.join(self._folder, name)

    def begin(self) -> dict[str, Any] | None:
        """Go on in a process of its own, in a session of its own.

        :return: None in that process. In the one that called: the result, where it was there within :data:`ATTENDED_S`
            seconds, with what was told meanwhile as ``job_progress``; else the folder as ``job``.
        :raises PgopsError: the controller was interrupted before the job began, or the folder cannot be made.
        """
        above = os.path.dirname(self._folder)
        try:
            os.makedirs(above, mode=0o700, exist_ok=True)
            _remove_forgotten(above)
            self._make()
            self._write(LEASE, "")
        except OSError as exc:
            raise PgopsError(
                f"Nothing was begun: the folder {above}, in which a running job is kept, cannot be written "
                f"({exc.strerror or exc}); name another with ansible_async_dir.",
                hint="ansible_async_dir is a variable of the host: a folder on it that its user may write.",
            ) from None
        sys.stdout.flush()
        sys.stderr.flush()
        seen, alive = os.pipe()
        keeper = os.fork()
        if keeper:
            os.close(alive)
            return self._attend(keeper, seen)
        os.close(seen)
        os.setsid()
        self._leave_the_connection()
        worker = os.fork()
        if worker:
            # Without it a killed job would stay a zombie, and look alive, where no init reaps.
            os.close(alive)
            os.waitpid(worker, 0)
            os._exit(0)
        # `alive` stays open: its end is the end of this process.
        self._write(PID, str(os.getpid()))
        return None

    def _make(self) -> None:
        try:
            os.mkdir(self._folder, 0o700)
        except FileExistsError:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise PgopsError(
                "Nothing was begun: the controller was interrupted (Ctrl-C).", extra={"reason": "interrupted"}
            ) from None

    def finish(self, result: dict[str, Any]) -> NoReturn:
        """End the job's process and leave its result; where nobody is left to read it, remove the folder."""
        stop = self.path(f"{LEASE}.stop")
        # One that names who asked comes from a controller that goes on to poll, an empty one from an interrupted one.
        if os.path.exists(stop) and not os.path.getsize(stop):
            shutil.rmtree(self._folder, ignore_errors=True)
        else:
            self._write(RESULT, json.dumps(result, default=str))
        os._exit(0)

    def break_off(self) -> NoReturn:
        """End the job's process without a result, with the exception in hand told in ``stderr``."""
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)

    def _attend(self, keeper: int, seen: int) -> dict[str, Any]:
        ready, _, _ = select.select([seen], [], [], ATTENDED_S)
        if ready:
            os.waitpid(keeper, 0)
            # Without a result it broke off; the controller that polls says how.
            with suppress(FileNotFoundError), open(self.path(RESULT), encoding="utf-8") as stream:
                result: dict[str, Any] = json.load(stream)
                result["job_progress"] = self._progress()
                # The folder stays for the controller to remove: an answer may be lost on its way.
                return result
        return {"changed": False, "job": self._folder}

    def _progress(self) -> list[Any]:
        try:
            with open(self.path(PROGRESS), encoding="utf-8") as stream:
                return [json.loads(line) for line in stream]
        except OSError:
            return []

    def _leave_the_connection(self) -> None:
        # A connection over ssh ends only when nobody holds its streams any more.
        for number, path, flags in (
            (0, os.devnull, os.O_RDONLY),
            (1, os.devnull, os.O_WRONLY),
            (2, self.path(ERRORS), os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        ):
            opened = os.open(path, flags, 0o600)
            os.dup2(opened, number)
            os.close(opened)

    def _write(self, name: str, text: str) -> None:
        partial = self.path(f"{name}.partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.rename(partial, self.path(name))


def _remove_forgotten(above: str) -> None:
    for entry in os.scandir(above):
        if not entry.name.startswith(PREFIX):
            continue
        lease = os.path.join(entry.path, LEASE)
        with suppress(OSError):
            if _age(lease if os.path.exists(lease) else entry.path) > FORGOTTEN_S:
                shutil.rmtree(entry.path, ignore_errors=True)


def _age(path: str) -> float:
    return time.time() - os.stat(path).st_mtime
