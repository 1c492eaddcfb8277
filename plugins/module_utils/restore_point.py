# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A named restore point, and the certainty that its WAL is in the archive."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from psycopg2 import errorcodes

NAME_LIMIT = 63
# The archiver tells its statistics of a segment that is done, and wakes nobody; a segment takes it tenths of a second at least.
POLL_SECONDS = 0.2
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.:+-]*$")

_STATE = """
SELECT pg_catalog.pg_is_in_recovery() AS standby, pg_catalog.current_setting('archive_mode') AS archive_mode,
       pg_catalog.current_setting('wal_level') AS wal_level
"""
_MARK = """
SELECT lsn::text AS lsn, pg_catalog.pg_walfile_name(lsn) AS segment,
       to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at
FROM pg_catalog.pg_create_restore_point(%s) AS lsn
"""
_ARCHIVED = """
SELECT coalesce(last_archived_wal, '') AS archived, coalesce(last_failed_wal, '') AS failed,
       coalesce(last_failed_time > last_archived_time, last_failed_time IS NOT NULL) AS failing
FROM pg_catalog.pg_stat_archiver
"""


def name_of(run_id: str) -> str:
    """:return: the name of a run's restore point."""
    return f"pgops_{run_id}"[:NAME_LIMIT]


def refuse_name(name: str) -> None:
    """:raises PgopsError: a name that the server would cut, or that means something else in a configuration file."""
    if len(name) > NAME_LIMIT or not _NAME.match(name):
        raise PgopsError(
            f"{name!r} is no name of a restore point: letters, digits and _ . : + - only, {NAME_LIMIT} at most."
        )


def create(conn: Connection, name: str, *, seconds: float, control: Control | None = None) -> dict[str, Any]:
    """Write a restore point into the WAL and wait until it is archived.

    :param conn: as a superuser, or a role that may execute pg_create_restore_point and pg_switch_wal.
    :param seconds: how long the archiver may take.
    :return: name, lsn, segment, timeline, at, archived_s.
    :raises PgopsError: no right, a standby, no archive, or the archiver did not come so far in time.
    """
    refuse_name(name)
    with told(conn, name):
        refuse_unfit(conn)
        made = mark(conn, name)
        waited = archive_through(conn, made["segment"], seconds=seconds, control=control)
    return {**made, "archived_s": waited}


@contextlib.contextmanager
def told(conn: Connection, name: str) -> Iterator[None]:
    """:raises PgopsError: what the server refuses in the block; a missing right with the statement that gives it."""
    try:
        yield
    except psycopg2.Error as exc:
        if exc.pgcode != errorcodes.INSUFFICIENT_PRIVILEGE:
            raise from_psycopg(exc, f"The restore point {name} could not be made") from None
        role = (fetch_one(conn, "SELECT current_user::text AS name") or {})["name"]
        raise PgopsError(
            f"Role {role} may not make a restore point.",
            sqlstate=exc.pgcode,
            hint=f"GRANT EXECUTE ON FUNCTION pg_create_restore_point(text), pg_switch_wal() TO {quoted(role)}, or name a superuser in "
            "pgops_restore_user.",
        ) from None


def mark(conn: Connection, name: str) -> dict[str, Any]:
    """Write a restore point into the WAL, and wait for nothing.

    :return: name, lsn, segment, timeline, at.
    :raises psycopg2.Error: no right to.
    """
    made = fetch_one(conn, _MARK, (name,))
    assert made is not None
    return {"name": name, **made, "timeline": int(made["segment"][:8], 16)}


def refuse_unfit(conn: Connection) -> None:
    """:raises PgopsError: a server that archives nothing: no restore point of it would be a way back."""
    state = fetch_one(conn, _STATE)
    assert state is not None
    if state["standby"]:
        raise PgopsError("This server is a standby; a restore point is made on the primary.")
    if state["archive_mode"] == "off" or state["wal_level"] == "minimal":
        raise PgopsError(
            f"The server archives no WAL (archive_mode = {state['archive_mode']}, wal_level = {state['wal_level']}), so nothing "
            "leads to a restore point.",
            hint="Set archive_mode = on, wal_level = replica and an archive_command, then restart the server; docs/physical.md.",
        )


def archive_through(conn: Connection, segment: str, *, seconds: float, control: Control | None = None) -> float:
    """Let go of a WAL segment and wait until it is in the archive.

    :return: the seconds that took.
    :raises PgopsError: it was not archived in time, with what the archiver fails at.
    """
    began = time.monotonic()
    execute(conn, "SELECT pg_catalog.pg_switch_wal()")
    while True:
        found = fetch_one(conn, _ARCHIVED)
        assert found is not None
        # By its place in the WAL: a history file or an older timeline may be the last that was archived.
        done = found["archived"][8:24]
        if len(done) == 16 and found["archived"][:24] >= segment:
            return round(time.monotonic() - began, 3)
        if time.monotonic() - began > seconds:
            failing = f"; the archiver fails at {found['failed']}" if found["failing"] else ""
            raise PgopsError(
                f"{segment} was not archived within {seconds:g} s{failing}.",
                hint="Look into the server's log for what its archive_command says; backup_archive_timeout says how long to wait.",
            )
        if control:
            control.check()
        time.sleep(POLL_SECONDS)
