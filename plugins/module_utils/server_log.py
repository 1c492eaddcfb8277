# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What PostgreSQL's own log holds of one run: read by SQL in pieces, found by application_name, told without any value of a row."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import server_log_format
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, connect, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.server_log_format import Entry
from ansible_collections.whitecross.pgops.plugins.module_utils.server_message import logged_message

# A server that logs every statement writes gigabytes; what is left out is told.
MOST_BYTES = 32 << 20
PIECE_BYTES = 1 << 20
# The run's id is told by the clock of the ops host.
CLOCKS_APART = timedelta(minutes=5)
_NAME = "pgops log"
_FUNCTIONS = (
    "pg_catalog.pg_current_logfile(text)",
    "pg_catalog.pg_ls_logdir()",
    "pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)",
)
_MAY = "SELECT bool_and(pg_catalog.has_function_privilege(f, 'EXECUTE')) AS may FROM pg_catalog.unnest(%s) AS f"
_SETTINGS = """
SELECT pg_catalog.current_setting('logging_collector') = 'on' AS collected, pg_catalog.current_setting('log_line_prefix') AS prefix,
       pg_catalog.current_setting('log_error_verbosity') = 'terse' AS terse, pg_catalog.current_setting('lc_messages') AS language,
       pg_catalog.current_setting('log_timezone') AS timezone
"""
_CURRENT = """
SELECT f AS format, pg_catalog.pg_current_logfile(f) AS path
  FROM pg_catalog.unnest(ARRAY['jsonlog', 'csvlog', 'stderr']) WITH ORDINALITY AS u(f, n) ORDER BY n
"""
_FILES = "SELECT name, size, extract(epoch FROM modification)::float8 AS modified FROM pg_catalog.pg_ls_logdir() ORDER BY modification, name"
_PIECE = "SELECT pg_catalog.pg_read_binary_file(%s, %s, %s, true) AS bytes"
_LOCAL = "SELECT pg_catalog.to_char(pg_catalog.to_timestamp(%s) AT TIME ZONE %s, 'YYYY-MM-DD HH24:MI:SS') AS text"

# What the tool provokes itself: a lock that it gives up to try again, a statement that it cancels.
PROVOKED = {"55P03": "lock timeout", "57014": "cancelled"}
ERRORS = ("ERROR", "FATAL", "PANIC")


@dataclass(frozen=True)
class Look:
    """What was found of a run.

    :ivar why_not: why the log was not looked at; None where it was.
    :ivar hint: what is to be done to have it.
    :ivar source: ``jsonlog``, ``csvlog`` or ``stderr``.
    :ivar gaps: what of the time of the run is not in what was read, a sentence each.
    :ivar entries: the lines of the run, oldest first.
    """

    why_not: str | None = None
    hint: str | None = None
    source: str | None = None
    gaps: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    def of(self, others: Collection[str] = ()) -> dict[str, Any]:
        """:param others: the databases whose lines are not wanted.
        :return: ``looked``, ``why``, ``hint``, ``source``, ``gaps``, ``errors`` (``severity``, ``sqlstate``, ``message``, ``database``,
            ``at``, ``times``) and ``provoked`` (how often, by what it was).
        """
        own = [entry for entry in self.entries if entry.severity in ERRORS and (entry.database or "") not in others]
        provoked = Counter(PROVOKED[str(entry.sqlstate)] for entry in own if entry.sqlstate in PROVOKED)
        errors: dict[tuple[Any, ...], dict[str, Any]] = {}
        for entry in own:
            if entry.sqlstate not in PROVOKED:
                shown = told(entry)
                key = (shown["severity"], shown["sqlstate"], shown["message"], shown["database"])
                errors.setdefault(key, {**shown, "times": 0})["times"] += 1
        return {
            "looked": self.why_not is None,
            "why": self.why_not,
            "hint": self.hint,
            "source": self.source,
            "gaps": self.gaps,
            "errors": list(errors.values()),
            "provoked": dict(provoked),
        }

    def elsewhere(self, databases: Collection[str]) -> set[str]:
        """:return: the other databases in which the run had sessions."""
        return {entry.database or "" for entry in self.entries} - set(databases)


def told(entry: Entry) -> dict[str, Any]:
    """:return: a line of the log as a person may see it: no statement, no DETAIL, no value."""
    return {
        "at": entry.at,
        "severity": entry.severity,
        "sqlstate": entry.sqlstate,
        "message": logged_message(entry.message, entry.sqlstate, entry.context),
        "database": entry.database,
        "application": entry.application,
    }


def look(target: Target, run_id: str, *, began: Mapping[str, Any] | None = None) -> Look:
    """Read what the server has logged of the sessions of a run.

    :param run_id: its id, which is in their application_name and begins with the time.
    :param began: what :func:`place` has told when the run began; without it the files are taken by their time.
    :return: what was found, or why nothing could be. Reads files of the server through SQL, takes no lock on tables.
    """
    try:
        conn = _reader(target)
    except PgopsError as fault:
        return Look(f"no session could be had for it: {fault.message}")
    with closing(conn):
        try:
            return _look(conn, target, run_id, began)
        except psycopg2.Error as exc:
            # Of a file that went while it was read, or a right that covers functions and not the folder.
            return Look(f"the server refused it with SQLSTATE {exc.pgcode}", _grant(target, conn))


def place(target: Target) -> dict[str, Any] | None:
    """:return: the file that the server logs into (``file``) and how long it is (``bytes``); None where that cannot be seen."""
    try:
        conn = _reader(target)
    except PgopsError:
        return None
    with closing(conn):
        try:
            if not _may(conn):
                return None
            source = _source(conn)
            return source and {
                "file": posixpath.basename(source[1]),
                "bytes": next((f["size"] for f in _files(conn, source[1]) if f["path"] == source[1]), 0),
            }
        except psycopg2.Error:
            return None


def _look(conn: Connection, target: Target, run_id: str, began: Mapping[str, Any] | None) -> Look:
    settings = fetch_all(conn, _SETTINGS)[0]
    if not settings["collected"]:
        return Look(
            "logging_collector is off, so the server's log goes to whatever started the server",
            "ALTER SYSTEM SET logging_collector = on; ALTER SYSTEM SET log_destination = 'jsonlog'; and a restart in a window",
        )
    if not _may(conn):
        return Look("its role may not read the log", _grant(target, conn))
    source = _source(conn)
    if source is None:
        return Look(
            "the server writes none of jsonlog, csvlog and stderr",
            "ALTER SYSTEM SET log_destination = 'jsonlog'; SELECT pg_reload_conf();",
        )
    if source[0] == "stderr":
        why, hint = server_log_format.unusable(str(settings["prefix"]), str(settings["language"]))
        if why:
            return Look(why, hint)
    begin = _begin_of(run_id)
    since = fetch_all(conn, _LOCAL, (begin.timestamp(), settings["timezone"]))[0]["text"] if begin else None
    reading = _Reading(conn, _files(conn, source[1]), began, begin)
    entries: list[Entry] = []
    first: str | None = None
    for text in reading.texts():
        found = server_log_format.parse(source[0], text, str(settings["prefix"]), terse=bool(settings["terse"]))
        for entry in found:
            first = first or entry.at
            if server_log_format.is_of(entry, run_id):
                entries.append(entry)
    gaps = list(reading.gaps)
    if not began and not gaps and since and not reading.reaches_back and (first is None or first[:19] > since):
        gaps.append(f"it reaches back to {first or 'now'} only, and the run began at {since} {settings['timezone']}")
    return Look(source=source[0], gaps=gaps, entries=entries)


class _Reading:
    """The files that may hold lines of the run, oldest first, no more than :data:`MOST_BYTES` of them."""

    def __init__(
        self,
        conn: Connection,
        files: Sequence[Mapping[str, Any]],
        began: Mapping[str, Any] | None,
        begin: datetime | None,
    ) -> None:
        self._conn = conn
        self.gaps: list[str] = []
        after = (begin - CLOCKS_APART).timestamp() if begin else 0.0
        chosen = [file for file in files if file["modified"] >= after]
        self.reaches_back = len(chosen) < len(files)
        start = self._noted(files, began) if began else {}
        left, parts = MOST_BYTES, []
        for file in reversed(chosen):
            offset = min(int(start.get(file["path"], 0)), int(file["size"]))
            taken = min(int(file["size"]) - offset, left)
            if taken < int(file["size"]) - offset:
                self.gaps.append(f"only the last {MOST_BYTES >> 20} MB of it were read")
            left -= taken
            parts.append((str(file["path"]), int(file["size"]) - taken, taken))
            if not left:
                break
        self._parts = list(reversed(parts))

    def _noted(self, files: Sequence[Mapping[str, Any]], began: Mapping[str, Any]) -> dict[str, int]:
        known = next((file for file in files if posixpath.basename(str(file["path"])) == began.get("file")), None)
        if known is None:
            self.gaps.append(f"the file {began.get('file')}, into which it went when the run began, is gone")
        elif int(known["size"]) < int(began.get("bytes") or 0):
            self.gaps.append(f"the file {began.get('file')} was emptied while the run went on")
        else:
            return {str(known["path"]): int(began.get("bytes") or 0)}
        return {}

    def texts(self) -> list[str]:
        """:return: the text of each file. A file that is gone by now is a gap."""
        return [self._text(*part) for part in self._parts]

    def _text(self, path: str, offset: int, length: int) -> str:
        pieces = []
        while length > 0:
            row = fetch_all(self._conn, _PIECE, (path, offset, min(PIECE_BYTES, length)))[0]
            if row["bytes"] is None:
                self.gaps.append(f"the file {posixpath.basename(path)} went while it was read")
                break
            piece = bytes(row["bytes"])
            if not piece:
                break
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return b"".join(pieces).decode("utf-8", errors="replace")


def _reader(target: Target) -> Connection:
    """:return: a session of the first of migrator and restore role that may read the log; the migrator's where neither may."""
    conn = connect(target.with_(owner=None), application_name=_NAME)
    if target.restore_user in (None, target.user) or _may(conn):
        return conn
    try:
        other = connect(target.as_restore(), application_name=_NAME)
    except PgopsError:
        return conn
    if _may(other):
        conn.close()
        return other
    other.close()
    return conn


def _may(conn: Connection) -> bool:
    return bool(fetch_all(conn, _MAY, (list(_FUNCTIONS),))[0]["may"])


def _grant(target: Target, conn: Connection) -> str:
    role = quoted(target.restore_user or conn.info.user)
    return (
        f"in the database {target.database}: GRANT EXECUTE ON FUNCTION {', '.join(_FUNCTIONS)} TO {role}; "
        "it lets that role read the server's files"
    )


def _source(conn: Connection) -> tuple[str, str] | None:
    """:return: the format that is told most of, and the file that it goes into now."""
    return next(((row["format"], row["path"]) for row in fetch_all(conn, _CURRENT) if row["path"]), None)


def _files(conn: Connection, current: str) -> list[dict[str, Any]]:
    """:return: the files of the folder that end as the current one does, oldest first."""
    folder, ending = posixpath.dirname(current), posixpath.splitext(current)[1]
    return [
        {**row, "path": posixpath.join(folder, row["name"])}
        for row in fetch_all(conn, _FILES)
        if posixpath.splitext(row["name"])[1] == ending
    ]


def _begin_of(run_id: str) -> datetime | None:
    """:return: when a run began, as its id tells."""
    found = re.match(r"\d{8}T\d{6}Z", run_id)
    return datetime.strptime(f"{found[0]}+0000", "%Y%m%dT%H%M%SZ%z") if found else None
