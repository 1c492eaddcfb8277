# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people are told of a run, and the webhook that takes it. Whoever knows that address may write there, so it is shown nowhere.

What is told leaves the house: environment, databases, the end, seconds and a command; no error, which may hold a statement.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import shlex
import stat
import threading
import urllib.error
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.urls import open_url
from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.time_limit import alarm

NOTIFIED = ("migrate", "rollback", "blue_green")
# A chat that is down may cost a run so much and no more.
TIMEOUT_S = 5.0

_WORDS = {"succeeded": "complete", "failed": "FAILED", "interrupted": "INTERRUPTED"}
# What a command may tell of its values: versions, numbers, names of databases.
_PLAIN_VALUES = re.compile(
    r"(rollback_(through|keep|version|steps|strategy|confirm)|migrate_(target|steps)|blue_green_(stage|confirm))=[\w.:-]*"
)


class NotNotified(Exception):
    """Why nobody was told; never holds the address."""


def address(url: str, file: str) -> str | None:
    """Where to tell it, or None where nobody wants to know.

    :param url: ``pgops_webhook``, which wins
    :param file: ``pgops_webhook_file`` on the ops host
    :raises NotNotified: a file that cannot be read or that others may read, or no address
    """
    name, found = "pgops_webhook", url.strip()
    if not found and file:
        name = "pgops_webhook_file"
        found = secret_in(name, file, "who knows the address may write there")
    if not found and not file:
        return None
    try:
        parts = urlsplit(found)
        plain = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        plain = False
    if not plain or any(character.isspace() for character in found):
        raise NotNotified(f"{name} holds no address that begins with https:// or http://")
    return found


def secret_in(name: str, file: str, why: str) -> str:
    """:param name: the variable that names the file, for the sentence. :param why: nobody else may read it
    :return: what a file of the ops host holds, without its line end
    :raises NotNotified: it cannot be read, or others may read it
    """
    path = Path(file).expanduser()
    try:
        # A pipe would wait for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise NotNotified(f"{name}={path} is no file")
            if mode & 0o077:
                raise NotNotified(f"{path} may be read by others, and {why}; chmod 600 {path}")
            return stream.read(4096).strip()
    except OSError as error:
        raise NotNotified(f"{name}={path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise NotNotified(f"{name}={path} is no text") from None


def message(report: Mapping[str, Any], databases: Sequence[str] = ()) -> str:
    """:param databases: told where the run reached none of its own.
    :return: the sentences for people: who, what, how it ended, what to type."""
    word = _WORDS.get(str(report["result"]), str(report["result"]))
    seconds = report["duration_s"]
    lines = [
        f"pgops: {report['playbook']} in {report['environment']} {word}"
        + (f" after {float(seconds):.0f} s" if seconds is not None else "")
        + (f", at {report['finished']}" if report.get("finished") else "")
    ]
    reached = [f"{database} on {host}" for host, found in report["results"].items() for database in found]
    lines.append(f"database: {', '.join(reached or databases) or 'none was reached'}")
    # Who and until when; why is somebody's own words, and stays in the house.
    lines += [told.partition(": ")[0] for told in report.get("break_glass") or []]
    phase = (report["error"] or {}).get("phase")
    if phase:
        lines.append(f"phase: {phase}")
    lines += _severity(report)
    lines.append(f"run: {report['run_id']} by {report['who']} on {report['ops_host']}")
    limit = str(report.get("limit") or report["environment"])
    command = next((line for line in report["next"] if line.startswith("ansible-playbook ")), None)
    lines.append(f"next: {_without_values(command or typed_commands.other(report, 'status', limit))}")
    return "\n".join(lines)


def beginning(run: Mapping[str, Any], at: str, strategy: str, databases: Sequence[str]) -> str:
    """:param at: when it begins.
    :return: the sentences for people, of a rollback that begins."""
    return "\n".join(
        [
            f"pgops: {run['playbook']} in {run['environment']} BEGINS at {at}",
            f"database: {', '.join(databases)}",
            f"strategy: {strategy}",
            f"run: {run['id']} by {run['who']} on {run['ops_host']}",
        ]
    )


def _severity(report: Mapping[str, Any]) -> list[str]:
    """How bad it is and what is advised; the words of the criteria, none of what was found."""
    advice = report.get("advice") or {}
    severity = advice.get("severity")
    lines = []
    if severity:
        head = "roll back: " if advice["roll_back"] else ""
        lines.append(f"severity: {severity['level']} {severity['name']}, {head}{advice['why']}")
    if report.get("automatic"):
        lines.append("rolled back by itself" if report["automatic"]["ok"] else "ITS ROLLBACK FAILED")
    return lines


def _without_values(command: str) -> str:
    """A value given with -e may be anything; here only those are told that say how far to go."""
    words = shlex.split(command)
    for number, word in enumerate(words):
        if number and words[number - 1] == "-e" and not _PLAIN_VALUES.fullmatch(word):
            words[number] = f"{word.partition('=')[0]}=..." if re.match(r"^\w+=", word) else "..."
    return " ".join(word if word.endswith("...") else shlex.quote(word) for word in words)


def send(
    url: str,
    text: str,
    *,
    timeout: float = TIMEOUT_S,
    document: Mapping[str, Any] | None = None,
    key: str | None = None,
    threads: bool = True,
) -> None:
    """Post ``{"text": ...}``, the form of Slack, which others take too; no redirect is followed.

    :param timeout: seconds for all of it, however slowly it answers
    :param document: posted in the place of that form
    :param key: signs the body: ``X-Pgops-Signature: sha256=<HMAC-SHA256 of the body, in hex>``
    :raises NotNotified: it was not taken
    """
    # Slack takes <...> for a link or for a call to everybody.
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    body = json.dumps({"text": escaped} if document is None else document).encode()
    headers = {"Content-Type": "application/json"}
    if document is not None:
        headers["X-Pgops-Event"] = str(document.get("event"))
    if key:
        headers["X-Pgops-Signature"] = f"sha256={hmac.new(key.encode(), body, hashlib.sha256).hexdigest()}"
    in_time("the webhook", lambda: _post(url, body, headers, timeout), timeout, threads)


def in_time(whom: str, work: Callable[[], str | None], timeout: float, threads: bool = True) -> None:
    """Wait for no more than so many seconds.

    :param whom: who is told, for the sentence
    :param work: returns why it was not taken
    :param threads: not in a process that forks after it: one that still waits would leave its locks taken in each child
    :raises NotNotified: it was not taken
    """
    outcome: list[str | None] = []

    def told() -> None:
        outcome.append(work())

    # The time limit of a socket begins anew with each byte.
    worker = threading.Thread(target=told, daemon=True)
    try:
        if threads:
            worker.start()
    except RuntimeError:  # the interpreter ends, and takes no new one
        threads = False
    if threads:
        worker.join(timeout)
    else:
        with alarm(timeout):
            told()
    fault = outcome[0] if outcome else f"{whom} has not answered for {timeout:g} s"
    if fault:
        raise NotNotified(fault)


def _post(url: str, body: bytes, headers: dict[str, str], timeout: float) -> str | None:
    """:return: why it was not taken, without the address, which an exception's own words may hold."""
    try:
        open_url(
            url,
            method="POST",
            data=body,
            headers=headers,
            http_agent="whitecross.pgops",
            timeout=timeout,
            follow_redirects="none",
            use_netrc=False,
        ).close()
    except urllib.error.HTTPError as error:
        return f"the webhook answered {error.code}"
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return f"the webhook has not answered for {timeout:g} s"
        told = getattr(reason, "strerror", None)
        return f"the webhook does not answer: {told or type(reason).__name__}"
    except Exception as error:  # noqa: BLE001 -- whatever it is, the run ended as it ended
        return f"the webhook cannot be reached ({type(error).__name__})"
    return None
