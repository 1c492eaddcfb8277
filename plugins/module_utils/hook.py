# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""One hook of the application: a command without a shell, or a request, within a time limit; numbers at most come back."""

from __future__ import annotations

import http.client
import json
import math
import os
import re
import signal
import ssl
import stat
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

# What a metrics hook may tell, as one JSON object; anything else in its answer is not kept.
METRICS = ("error_rate", "p50_ms", "p95_ms", "p99_ms", "throughput")
# The one of which more is better.
_MORE_IS_BETTER = frozenset({"throughput"})
# Of an answer or a command's output so much is read.
_READ_BYTES = 65536
# A shorter secret is found in any sentence.
_SHORTEST_SECRET = 4
# Of what a command says last before it fails, so much is told.
_TOLD_CHARACTERS = 200
_SECRET_BYTES = 65536
# How PostgreSQL's clients begin a server's error; libpq has two spaces, and a driver's traceback the class.
_SERVER_ERROR = re.compile(r"\b(?:ERROR|FATAL|PANIC):\s|\bpsycopg\d?\.errors\.\w+[:)]")
_WHOLE_SERVER_ERROR = re.compile(r"\b(?:ERROR|FATAL|PANIC): {2}|\bpsycopg\d?\.errors\.\w+[:)]")
# A field of it that may repeat a row over several lines, and one that has a line of its own.
_ROW_FIELD = re.compile(r"\b(?:DETAIL|CONTEXT|QUERY|STATEMENT):\s|^\W*(?i:detail|context|query|statement|where)\W*:")
_OTHER_FIELD = re.compile(r"\b(?:HINT|LOCATION|LINE \d+):\s|^\W*(?i:hint|location)\W*:|^[\s^~]*$")
# What a server's message quotes is an object's name after one of these words, and may come from a row elsewhere.
_QUOTED = re.compile(
    r"(\b(?:column|constraint|database|encoding|extension|function|host|index|key|parameter|policy|publication|relation|role|"
    r"schema|sequence|server at|subscription|table|tablespace|trigger|type|user|view) )?\"(?:[^\"]|\"\")*(?:\"|$)"
)
# The place of a function or trigger that wrote the message: its text may hold values of a row, whatever it looks like.
_FUNCTION = re.compile(r"\bPL/\w+ (?:function|anonymous)(?: [\w.]+\([\w, .]*\) line \d+ at \w+)?|\bSQL function")


class HookFailed(Exception):
    """Why a hook did not do what it is for, in one clause without a full stop; no secret is in it."""


@dataclass
class Call:
    """What to run or to ask.

    :ivar argv: a command and its arguments, handed to the kernel as they are
    :ivar environment: variables beside those that the module has
    :ivar url: http or https; certificates are always checked
    :ivar called: what a sentence calls that address, which is a secret then
    :ivar status: the status codes that count as done; any 2xx where it is empty
    :ivar ca_path: certificate authority beside the machine's own
    :ivar timeout: seconds for all tries together
    :ivar retries: tries after the first
    :ivar delay: seconds between two tries
    :ivar limits: metric -> its limit; a throughput below it, any other metric above it, fails the hook
    :ivar secrets: what is taken out of a command's words before they are told
    """

    argv: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    url: str | None = None
    called: str | None = None
    method: str = "GET"
    status: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    ca_path: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    timeout: float = 30.0
    retries: int = 0
    delay: float = 1.0
    metrics: bool = False
    limits: dict[str, float] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)


def secret_of(path: str, what: str) -> str:
    """The content of a file that only its owner may read, without the line's end.

    :param what: the option that names it
    :raises HookFailed: it cannot be read, or others may read it
    """
    try:
        # A pipe would wait for a writer.
        with open(os.open(os.path.expanduser(path), os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise HookFailed(f"{what} names {path}, which is no file")
            if mode & 0o077:
                raise HookFailed(f"{what} names {path}, which others may read; chmod 600 {path}")
            return file.read(_SECRET_BYTES).strip()
    except OSError as error:
        raise HookFailed(f"{what} names {path}, which cannot be read: {error.strerror}") from None
    except ValueError:
        raise HookFailed(f"{what} names {path}, which is no text") from None


def without(text: str, secrets: Iterable[str]) -> str:
    """``text`` in which no secret stands that a command may have repeated, and no line of one."""
    parts = {part.strip() for secret in secrets for part in (secret, *secret.splitlines())}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= _SHORTEST_SECRET:
            text = text.replace(part, "***")
    return text


def last_words(errors: str) -> str:
    """The last line of a command's errors that repeats no row of a database.

    :param errors: what it wrote to stderr, without secrets
    :return: at most 200 characters; of a PostgreSQL error its message without DETAIL, CONTEXT and quoted values, and only its
        place where a function of the database wrote it; empty where no line can be told
    """
    last, begin = "", ""
    telling = True
    for line in errors.splitlines():
        error = _SERVER_ERROR.search(line)
        row = _ROW_FIELD.search(line, error.end() if error else 0)
        begin = line[: error.end()].rstrip() if error else begin
        # Behind the message only: a value may read like that too.
        function = None if error and not row else _FUNCTION.search(line, row.start() if row else 0)
        if function and begin:
            last, begin, telling = f"{begin} {function[0]} raised an error", "", False
        elif error:
            message = line[: row.start()] if row else line
            last = _QUOTED.sub(lambda quoted: quoted[0] if quoted[1] else '"…"', message)
            # A value may hold a line's end, so whatever follows may belong to it.
            telling = not row and not _WHOLE_SERVER_ERROR.search(line)
        elif row:
            telling = False
        elif telling and not _OTHER_FIELD.search(line):
            last = line
    return last.strip()[:_TOLD_CHARACTERS]


def run(
    call: Call, *, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
) -> dict[str, Any]:
    """Do it, again after a failure as often as it says, and at most for its time limit.

    :return: ``seconds``, ``tries``, and ``metrics`` where it was asked for them
    :raises HookFailed: the last try's failure
    """
    begun = clock()
    tries = 0
    while True:
        tries += 1
        left = call.timeout - (clock() - begun)
        try:
            output = _command(call, left) if call.argv else _request(call, left)
            metrics = _metrics_in(output, call.limits) if call.metrics else None
            break
        except HookFailed:
            if tries > call.retries or clock() - begun + call.delay >= call.timeout:
                raise
            sleep(call.delay)
    found: dict[str, Any] = {"seconds": round(clock() - begun, 3), "tries": tries}
    return found if metrics is None else {**found, "metrics": metrics}


def _command(call: Call, left: float) -> bytes:
    # Files and not pipes: what a start command leaves running in the background holds a pipe open for ever.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                call.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**os.environ, **call.environment},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise HookFailed(f"{call.argv[0]} cannot be started: {reason}") from None
        try:
            code = process.wait(timeout=left)
        except subprocess.TimeoutExpired:
            raise HookFailed(f"{call.argv[0]} was not done within {call.timeout:g} s and was killed") from None
        finally:
            # Also where this process is told to end: nobody would wait for the command any more.
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code != 0:
            begin = errors.seek(max(0, errors.seek(0, os.SEEK_END) - _READ_BYTES))
            if begin:
                errors.readline()  # half a line may hold half a secret
            last = last_words(without(errors.read().decode("utf-8", "replace"), call.secrets))
            said = f" and said: {last}" if last else ""
            ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise HookFailed(f"{call.argv[0]} {ended}{said}")
        output.seek(0)
        return output.read(_READ_BYTES)


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like another: behind it stands a login page as often as the application."""

    def redirect_request(self, *_args: Any, **_keywords: Any) -> None:
        return None


def _shown(url: str) -> str:
    """The address without user and query, which may hold a secret."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _request(call: Call, left: float) -> bytes:
    url = str(call.url)
    try:
        parts = urllib.parse.urlsplit(url)
        plain = parts.scheme in ("http", "https") and bool(parts.hostname) and not any(map(str.isspace, url))
    except ValueError:
        plain = False
    if not plain:
        raise HookFailed("its address is none that begins with https:// or http://")
    if "@" in parts.netloc:
        raise HookFailed("its address has a user in it; give the secret as a header from header_files")
    told = call.called or _shown(url)
    request = urllib.request.Request(url, method=call.method, headers=call.headers)
    if call.body is not None:
        request.data = call.body.encode()
    try:
        # A proxy is for the world outside; the application is asked itself.
        handlers: list[Any] = [urllib.request.ProxyHandler({}), _Stay()]
        if parts.scheme == "https":
            handlers.append(urllib.request.HTTPSHandler(context=_tls(call)))
        # The time limit of a socket begins anew with each byte.
        with _alarm(left):
            try:
                with urllib.request.build_opener(*handlers).open(request, timeout=left) as answer:
                    status, body = int(answer.status), bytes(answer.read(_READ_BYTES))
            except urllib.error.HTTPError as error:
                with error:
                    status, body = error.code, b""
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise HookFailed(f"{told} has not answered for {call.timeout:g} s") from None
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise HookFailed(f"{told} shows a certificate that is not believed: {reason.verify_message}") from None
        raise HookFailed(f"{told} does not answer: {getattr(reason, 'strerror', None) or reason}") from None
    except (ValueError, http.client.HTTPException) as error:  # a header or an answer that is none
        raise HookFailed(f"{told} cannot be asked ({type(error).__name__})") from None
    if status not in call.status if call.status else not 200 <= status < 300:
        expected = " or ".join(map(str, call.status)) or "2xx"
        raise HookFailed(f"{told} answered {status}, expected {expected}")
    return body


def _tls(call: Call) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=call.ca_path)
        if call.client_cert:
            context.load_cert_chain(call.client_cert, call.client_key)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise HookFailed(f"its ca_path, client_cert or client_key cannot be used: {reason}") from None
    return context


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """A time limit for all of a block in the main thread. :raises TimeoutError: it is over."""

    def ring(_number: int, _frame: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _metrics_in(output: bytes, limits: Mapping[str, float]) -> dict[str, float]:
    """The metrics of one JSON object, and nothing else of it.

    :raises HookFailed: it tells none, or one beyond its limit
    """
    try:
        answer = json.loads(output)
    except ValueError:
        answer = None
    found = {}
    for name in METRICS:
        value = answer.get(name) if isinstance(answer, dict) else None
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            found[name] = float(value)
    if not found:
        raise HookFailed(f"its answer is no JSON object with a number for one of {', '.join(METRICS)}")
    for name, limit in limits.items():
        if name not in found:
            raise HookFailed(f"{name} has a limit and is not told")
        if found[name] < limit if name in _MORE_IS_BETTER else found[name] > limit:
            word = "below" if name in _MORE_IS_BETTER else "above"
            raise HookFailed(f"{name} is {found[name]:g}, {word} its limit of {limit:g}")
    return found
