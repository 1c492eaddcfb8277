# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""pg_dump, pg_restore and psql as child processes: followed, ended with us, their messages kept without row contents."""

from __future__ import annotations

import abc
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from typing import IO, Any, BinaryIO, Callable, cast

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control

# Between two looks whether a client has ended and whether the job has to. The end itself wakes who waits for it.
POLL_SECONDS = 0.05
KEPT_LINES = 40
LINE_LIMIT = 300  # characters of one message
END_SECONDS = 10.0  # how long a client may take to cancel its workers before it is killed
# Becomes the client, after it has asked the kernel for SIGTERM at its parent's death: a pg_dump that outlives its killed
# parent would write on into a folder that the next run removes. In a process of its own and not in preexec_fn, which may
# deadlock where there are threads.
_STARTER = """
import ctypes, os, signal, sys
if sys.platform.startswith("linux"):
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG
if sys.argv[2] == "own group":
    os.setpgid(0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[3], sys.argv[3:])
"""
# Waits for the death of the process that holds the other end of its standard input, then wakes a group that may be stopped, so that
# it sees the SIGTERM. The kernel does so by itself, but not where init is of the same session, as in most containers.
_WAKER = """
import os, signal, sys
os.read(0, 1)
for number in (signal.SIGCONT, signal.SIGTERM):
    try:
        os.killpg(int(sys.argv[1]), number)
    except ProcessLookupError:
        break
"""

# A client's own message, the server's primary message behind it, and the first line of the command that failed. DETAIL
# and CONTEXT (`COPY students, line 5: "…"`) repeat rows and are left out.
_TOLD = re.compile(
    r"^pg_\w+: (error|warning|detail|hint): |^psql(:<stdin>:\d+)?: (error|ERROR|FATAL|PANIC): |^(ERROR|FATAL|PANIC): |^Command was: "
)
# What a client does, as --verbose tells it: names of objects and no rows.
_STEP = re.compile(r"^pg_\w+: (?!error: |warning: |detail: |hint: )")
_UNTOLD = re.compile(r"\b(DETAIL|CONTEXT|QUERY|STATEMENT): ")
# `invalid input syntax for type integer: "Ann …"`: the value is the end of the message.
_VALUE = re.compile(r': ".*$')
_SERVER_ERROR = re.compile(r"\b(?:ERROR|FATAL|PANIC):  ?")
# What the server quotes is an object's name after one of these words; elsewhere it may come from a row.
_QUOTED = re.compile(
    r"(\b(?:class|collation|column|configuration|constraint|database|encoding|enum|extension|family|file|function|index|key|"
    r"language|method|option|parameter|policy|publication|relation|role|rule|schema|sequence|server|server at|statistics object|"
    r'subscription|table|tablespace|trigger|type|user|version|view|wrapper) )?"(?:[^"]|"")*(?:"|$)'
)
# The place of a function whose text may be anything: what a CHECK, an index expression or a view calls.
_FUNCTION = re.compile(r"^(?:CONTEXT:  )?(PL/\w+ (?:function|anonymous)|SQL function )")


def told_line(line: str) -> str | None:
    """:return: a line of a client's error output as it may be shown, or None where it may repeat a row."""
    if not _TOLD.match(line) or _UNTOLD.search(line):
        return None
    error = _SERVER_ERROR.search(line)
    if error:
        message = _VALUE.sub(': "…"', line[error.end() :].rstrip())
        line = line[: error.end()] + _QUOTED.sub(lambda quoted: quoted[0] if quoted[1] else '"…"', message)
    return _VALUE.sub(': "…"', line.rstrip())[:LINE_LIMIT]


def told_lines(lines: Iterable[str]) -> Iterator[str]:
    """:return: of a client's error output what may be shown. The server says behind its message whether a function of the
    database wrote it; of such a one only the function is told."""
    waiting: str | None = None
    for line in lines:
        told = told_line(line)
        function = _FUNCTION.match(line) if waiting is not None else None
        if function and waiting is not None:
            error = _SERVER_ERROR.search(waiting)
            place = line.removeprefix("CONTEXT:  ").rstrip()
            if error:
                waiting = f"{waiting[: error.end()]}{place} raised an error, and its text may hold values of a row"[
                    :LINE_LIMIT
                ]
        if told is not None:
            if waiting is not None:
                yield waiting
            waiting = told
    if waiting is not None:
        yield waiting


def _dbname(database: str) -> str:
    # A bare name with a = in it would be taken for a connection string.
    return "dbname='" + database.replace("\\", "\\\\").replace("'", "\\'") + "'"


def end_on_sigterm(control: Control) -> None:
    """Let SIGTERM end the job at its next safe point, so that what it has half done is put away."""
    signal.signal(signal.SIGTERM, lambda *_: control.request("the job was told to end (SIGTERM)"))


def start_with_us(arguments: list[str], *, own_group: bool = False, **streams: Any) -> subprocess.Popen[Any]:
    """Start a program that gets SIGTERM when this process dies, however that happens.

    :param own_group: with its children in a process group of their own, which can be stopped as one; see :func:`wake_with_us`.
    :param streams: of ``subprocess.Popen``.
    :raises PgopsError: it cannot be started.
    """
    try:
        return subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                "-c",
                _STARTER,
                str(os.getpid()),
                "own group" if own_group else "",
                *arguments,
            ],
            umask=0o077,
            **streams,
        )
    except OSError as exc:
        raise PgopsError(f"{arguments[0]} cannot be started: {exc.strerror}.") from None


def wake_with_us(group: int) -> subprocess.Popen[bytes]:
    """:param group: a process group that may be stopped.
    :return: what wakes and ends it when this process dies; kill it when the group has ended.
    :raises PgopsError: it cannot be started."""
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WAKER, str(group)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Whoever ends our whole process group is not to end it before it has done its work.
            start_new_session=True,
        )
    except OSError as exc:
        raise PgopsError(f"{sys.executable} cannot be started: {exc.strerror}.") from None


class HeardProcess(abc.ABC):
    """A running program whose errors are read as it tells them. Start it in the thread that stays until it ends: its death
    takes the program along."""

    def __init__(self, arguments: list[str], **streams: Any) -> None:
        """
        :param streams: of ``subprocess.Popen``, without that for errors.
        :raises PgopsError: it cannot be started.
        """
        self._process = start_with_us(
            arguments, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace", **streams
        )
        self._reader = threading.Thread(target=self._read, args=(self._process.stderr,), daemon=True)
        self._reader.start()

    @abc.abstractmethod
    def _read(self, stream: IO[str]) -> None:
        """Read its errors to their end, in a thread of their own."""

    @property
    def process_id(self) -> int:
        """Its process id, for who wants to look."""
        return self._process.pid

    def wait(self, seconds: float) -> bool:
        """Wait for a while. :return: whether it has ended."""
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(timeout=END_SECONDS)
        return True


class ClientProcess(HeardProcess):
    """A running client tool."""

    def __init__(
        self,
        tool: str,
        arguments: list[str],
        target: Target,
        *,
        application_name: str,
        options: dict[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        log: IO[str] | None = None,
        stoppable: bool = False,
    ) -> None:
        """
        :param tool: absolute path, from ``connection.client_tool``.
        :param arguments: all but the connection's and the database's.
        :param application_name: shown in pg_stat_activity for the client and its workers.
        :param options: settings of the client's sessions (``PGOPTIONS``).
        :param stdin: what the client reads, a descriptor or ``subprocess.PIPE`` (then :attr:`stdin` is its other end).
        :param stdout: a descriptor that it writes an archive to.
        :param log: takes what the client tells with ``--verbose``, and its messages without row contents.
        :param stoppable: whether :meth:`pause` may be called.
        """
        self._stopped = False
        self.name = os.path.basename(tool)
        environment = {**target.client_environment(), "PGAPPNAME": application_name}
        if options:
            environment["PGOPTIONS"] = " ".join(f"-c {name}={value}" for name, value in options.items())
        self._lines: list[str] = []
        self._log = log
        super().__init__(
            [tool, *target.client_arguments(), "--dbname", _dbname(target.database), *arguments],
            own_group=stoppable,
            stdin=stdin,
            stdout=stdout,
            env=environment,
        )
        self._waker = wake_with_us(self._process.pid) if stoppable else None

    def wait(self, seconds: float) -> bool:
        """Wait for a while. :return: whether it has ended."""
        ended = super().wait(seconds)
        if ended:
            self._dismiss_waker()
        return ended

    def _dismiss_waker(self) -> None:
        if self._waker is not None:
            self._waker.kill()
            self._waker.communicate()
            self._waker = None

    def _read(self, stream: IO[str]) -> None:
        for told in told_lines(self._logged(stream)):
            self._write_log(told)
            if len(self._lines) < KEPT_LINES:
                self._lines.append(told)

    def _logged(self, stream: IO[str]) -> Iterator[str]:
        for line in stream:
            if _STEP.match(line):
                self._write_log(line.rstrip("\n"))
            yield line

    def _write_log(self, line: str) -> None:
        if self._log is not None:
            # A full disk must not end the reader: the client would wait for it for ever.
            with contextlib.suppress(OSError):
                print(line, file=self._log)

    @property
    def stdin(self) -> BinaryIO:
        """The other end of the client's input, where it was started with ``subprocess.PIPE``."""
        assert self._process.stdin is not None
        # The buffer below: what a client reads has the encoding of a database, and not ours.
        return cast("BinaryIO", cast("TextIOWrapper", self._process.stdin).buffer)

    @property
    def returncode(self) -> int | None:
        """How it ended, None as long as it runs."""
        return self._process.poll()

    @property
    def messages(self) -> list[str]:
        """What the client said so far, without row contents."""
        return list(self._lines)

    def pause(self) -> None:
        """Stop the client and its workers until :meth:`go_on`. The server waits for them to read on."""
        if not self._stopped:
            self._stopped = True
            self._signal_group(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a stopped client go on."""
        if self._stopped:
            self._stopped = False
            self._signal_group(signal.SIGCONT)

    def _signal_group(self, number: int) -> None:
        # As long as nobody has waited for it, its number is nobody else's.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def end(self) -> None:
        """End the client and its workers if it still runs; SIGTERM makes it cancel their statements."""
        if self._process.poll() is None:
            self._process.terminate()
            self.go_on()  # what is stopped sees no signal but SIGKILL
            if not self.wait(END_SECONDS):
                self._process.kill()
                self._process.wait()
        self._dismiss_waker()

    def result(self, doing: str, *, database: str | None = None, hints: Callable[[str], str | None]) -> None:
        """Look at how the client ended.

        :param hints: gives the hint that fits a message, or None.
        :raises PgopsError: it was killed or said that it failed; with its messages in ``extra["client_output"]``.
        """
        code = self._process.returncode
        if code == 0:
            return
        lines = self.messages
        if code is not None and code < 0:
            reason = f"{self.name} was killed by signal {-code} ({signal.Signals(-code).name})"
        else:
            reason = first_error(lines) or f"{self.name} ended with {code} and said nothing"
        raise PgopsError(
            f"{doing}: {reason}.",
            database=database,
            hint=hints("\n".join(lines)),
            extra={"client_output": lines, "client_exit": code},
        )


def first_error(lines: list[str]) -> str | None:
    """:return: the most telling line: the server's message where there is one, else the client's first error."""
    errors = [line for line in lines if ": error: " in line or ": detail: " in line]
    for line in errors:
        if re.search(r"\b(ERROR|FATAL|PANIC): ", line):
            return _plain(line)
    return _plain(errors[0]) if errors else (_plain(lines[0]) if lines else None)


def _plain(line: str) -> str:
    line = re.sub(r"^psql:<stdin>:(\d+): (\w+:  ?)?", r"line \1: ", line)
    return re.sub(r"^(pg_\w+|psql): (error|detail): ", "", line).rstrip(".")
