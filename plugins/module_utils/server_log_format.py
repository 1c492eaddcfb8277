# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The three forms in which PostgreSQL writes its log: jsonlog, csvlog, and stderr by its log_line_prefix."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

# In the order of write_csvlog(), the same since PostgreSQL 14.
_AT, _DATABASE, _SEVERITY, _SQLSTATE, _MESSAGE, _CONTEXT, _APPLICATION = 0, 2, 11, 12, 13, 18, 22
_RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.MULTILINE)
_ESCAPE = re.compile(r"%(-?\d*)([A-Za-z%])")
_STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \S+"
_PATTERNS = {
    "a": ("application", r".*?"),
    "d": ("database", r".*?"),
    "e": ("sqlstate", r"\w*"),
    "m": ("at", _STAMP),
    "t": ("at", _STAMP),
    "p": ("pid", r"\d*"),
}
_SEVERITIES = r"DEBUG[1-5]?|INFO|NOTICE|WARNING|ERROR|LOG|FATAL|PANIC"
_PARTS = r"DETAIL|HINT|QUERY|CONTEXT|STATEMENT|LOCATION|BACKTRACE"
# What stderr alone adds: where in the statement it is.
_POSITION = re.compile(r" at character \d+$")
# Without %e a line does not tell its SQLSTATE; these the server alone writes, and in these words.
_KNOWN = {
    "canceling statement due to lock timeout": "55P03",
    "canceling statement due to statement timeout": "57014",
    "canceling statement due to user request": "57014",
}


@dataclass(frozen=True)
class Entry:
    """One message of the log.

    :ivar at: its time as the server writes it, in log_timezone.
    :ivar sqlstate: None where the log does not tell it.
    :ivar context: where in a function it arose; empty for nowhere, None where the log does not tell.
    """

    at: str | None
    severity: str
    sqlstate: str | None
    message: str
    database: str | None
    application: str
    context: str | None


def unusable(prefix: str, language: str) -> tuple[str | None, str | None]:
    """:return: why lines of stderr cannot be told by run, and what to do; twice None where they can."""
    if not any(escape == "a" for _width, escape in _ESCAPE.findall(prefix)):
        return (
            "log_line_prefix has no %a, so that a line does not tell its run",
            "ALTER SYSTEM SET log_destination = 'jsonlog'; or put %a and %e into log_line_prefix; then SELECT pg_reload_conf();",
        )
    if language.split(".")[0].split("_")[0] not in ("", "C", "POSIX", "en"):
        return (
            f"the server writes its log in the language of lc_messages = {language}",
            "ALTER SYSTEM SET log_destination = 'jsonlog'; SELECT pg_reload_conf();",
        )
    return None, None


def is_of(entry: Entry, run_id: str) -> bool:
    """:return: whether a session of that run wrote it."""
    return (entry.application + " ").startswith(f"pgops {run_id} ")


def parse(form: str, text: str, prefix: str, *, terse: bool) -> Iterator[Entry]:
    """:param form: ``jsonlog``, ``csvlog`` or ``stderr``.
    :param text: of a file, from anywhere on: what is cut at either end is left out.
    :param prefix: log_line_prefix, for stderr.
    :param terse: log_error_verbosity is ``terse``: no entry tells its context.
    """
    entries = {"jsonlog": _json, "csvlog": _csv}[form](text) if form != "stderr" else _stderr(text, prefix)
    for entry in entries:
        yield replace(entry, context=None) if terse else entry


def _json(text: str) -> Iterator[Entry]:
    for line in text.splitlines():
        try:
            found = json.loads(line)
            yield _entry(
                found.get("timestamp"), found["error_severity"], found.get("state_code"), str(found.get("message", "")),
                found.get("dbname"), str(found.get("application_name", "")), str(found.get("context", "")),
            )  # fmt: skip
        except (ValueError, KeyError, AttributeError):
            continue  # the first or the last line, cut


def _csv(text: str) -> Iterator[Entry]:
    begin = _RECORD.search(text)
    if begin is None:
        return
    reader = csv.reader(io.StringIO(text[begin.start() :].replace("\0", ""), newline=""))
    try:
        for row in reader:
            if len(row) > _APPLICATION:
                yield _entry(
                    row[_AT], row[_SEVERITY], row[_SQLSTATE], row[_MESSAGE], row[_DATABASE], row[_APPLICATION], row[_CONTEXT],
                )  # fmt: skip
    except csv.Error:
        return  # a quotation that has no end: the last record, cut


def _entry(
    at: str | None, severity: str, sqlstate: str | None, message: str, database: str | None, application: str, context: str
) -> Entry:  # fmt: skip
    if not re.fullmatch(_SEVERITIES, severity):
        # In another language the SQLSTATE tells: its classes 00 to 02 are no errors.
        severity = "LOG" if (sqlstate or "00")[:2] in ("00", "01", "02") else "ERROR"
    return Entry(at, severity, sqlstate or None, message, database or None, application, context)


def _stderr(text: str, prefix: str) -> Iterator[Entry]:
    line_of = _line(prefix)
    last: Entry | None = None
    for line in text.splitlines():
        found = line_of.match(line)
        if found is None:
            continue  # a message goes on behind a tabulator
        known = found.groupdict()
        if found["severity"]:
            if last is not None:
                yield last
            message = _POSITION.sub("", str(found["message"]))
            state = known.get("sqlstate") or known["code"] or _KNOWN.get(message)
            last = Entry(
                known.get("at"), str(found["severity"]), state, message, known.get("database"),
                str(known.get("application") or ""), "",
            )  # fmt: skip
        elif found["part"] == "CONTEXT" and last is not None:
            # Of another session, where two write at a time: then it hides a message that could have been shown.
            last = replace(last, context=str(found["message"]))
    if last is not None:
        yield last


def _line(prefix: str) -> re.Pattern[str]:
    seen: set[str] = set()
    pattern, place = "", 0
    for escape in _ESCAPE.finditer(prefix):
        pattern += re.escape(prefix[place : escape.start()])
        place = escape.end()
        name, own = _PATTERNS.get(escape[2], ("", r".*?"))
        if escape[2] == "%":
            pattern += "%"
        elif escape[2] != "q":
            own = f"(?P<{name}>{own})" if name and name not in seen else f"(?:{own})"
            seen.add(name)
            pattern += rf" *{own} *" if escape[1] else own
    pattern += re.escape(prefix[place:])
    return re.compile(
        rf"{pattern}(?:(?P<severity>{_SEVERITIES})|(?P<part>{_PARTS})):  (?:(?P<code>[0-9A-Z]{{5}}): )?(?P<message>.*)"
    )
