# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compare the live database with one that a swap has put aside, and export what it lost."""

from __future__ import annotations

import errno
import os
import time
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import both_databases, encryption, lost_rows
from ansible_collections.whitecross.pgops.plugins.module_utils.both_databases import Pair
from ansible_collections.whitecross.pgops.plugins.module_utils.common_tables import common_tables
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.lost_export import Export
from ansible_collections.whitecross.pgops.plugins.module_utils.lost_rows import Lost
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress

LARGE_OBJECTS = "large objects are not compared"


def look(
    target: Target,
    name: str | None,
    *,
    application_name: str,
    export: str | None = None,
    encrypt_to: list[str] | None = None,
    sessions: int = 2,
    progress: Progress | None = None,
    control: Control | None = None,
) -> dict[str, Any]:
    """Say exactly which rows of a kept database the live one lacks; reads only, on both sides.

    Opens the kept database for as long as it takes to connect. Takes ACCESS SHARE on every table of both, and holds one
    snapshot of each while it reads.

    :param name: of the kept database; the one that was put aside last, where None.
    :param export: a folder below which the rows are written; None writes nothing.
    :param encrypt_to: public keys that the environment encrypts patients' data to; the rows are encrypted to them.
    :return: kept, put_aside, backup, tables (see :class:`lost_rows.Lost`), ``rows`` (the sums, with ``application`` and
        ``versions``), ``held_back`` (rows that an export wrote as comments for their reference; None without one),
        ``comes_back`` (tables that only the live one has), bounds, notes, export, encrypted, seconds.
    :raises PgopsError: no such kept database, no right to read all of either, or no way to encrypt the export.
    """
    progress, control = progress or Progress(None), control or Control(None)
    recipients = encryption.usable_recipients(encrypt_to) if export and encrypt_to else []
    began = time.monotonic()
    conn = connect(target.maintenance(), application_name=application_name)
    try:
        kept = both_databases.choose(conn, target.database, name)
    finally:
        conn.close()
    with both_databases.opened(
        target, kept, sessions=sessions, application_name=application_name, control=control
    ) as pair:
        told, written = _compare(pair, export, recipients, progress, control)
    return {
        **told,
        "export": written,
        "encrypted": bool(written and recipients),
        "seconds": round(time.monotonic() - began, 3),
    }


def refuse_unable(export: str, encrypt_to: list[str]) -> None:
    """Look whether an export could be written, and write nothing.

    :raises PgopsError: it could not be encrypted, or there can be no such folder.
    """
    if encrypt_to:
        encryption.usable_recipients(encrypt_to)
    there = os.path.abspath(export)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK):
        return
    why = os.strerror(errno.EACCES if os.path.isdir(there) else errno.ENOTDIR)
    raise PgopsError(f"The lost writes cannot be exported below {export}: {there}: {why}.", object_name=export)


def preview(target: Target, name: str | None, *, application_name: str) -> dict[str, Any]:
    """:return: which kept database would be compared with; it is closed, and to open it would be a change.

    :raises PgopsError: no such kept database."""
    conn = connect(target.maintenance(), application_name=application_name)
    try:
        kept = both_databases.choose(conn, target.database, name)
    finally:
        conn.close()
    assert kept.mark is not None
    return {"kept": kept.name, "live": target.database, "put_aside": kept.mark.since, "backup": kept.mark.backup}


def _compare(
    pair: Pair, directory: str | None, recipients: list[str], progress: Progress, control: Control
) -> tuple[dict[str, Any], str | None]:
    tables = common_tables(pair.kept.conn, pair.kept.tables, pair.live.conn, pair.live.tables)
    compared = {table.name for table in tables}
    only_kept = [table for name, table in sorted(pair.kept.tables.items()) if name not in compared]
    export = _begin(directory, pair, recipients, progress, control)
    try:
        lost = lost_rows.compare(pair, tables, export.found if export else None, progress=progress, control=control)
        whole = [(table, lost_rows.whole_table(pair, table)) for table in only_kept]
        gone = [(table, entry) for table, entry in whole if entry.rows]
        told = _told(pair, [*lost, *(entry for _, entry in gone)])
        told["comes_back"] = sorted(set(pair.live.tables) - compared - set(pair.kept.tables))
        written = None
        if export and told["tables"]:
            written = export.write(tables, [table for table, _ in gone], told)
        return told, written
    finally:
        if export:
            export.discard()


def _begin(
    directory: str | None, pair: Pair, recipients: list[str], progress: Progress, control: Control
) -> Export | None:
    if not directory:
        return None
    try:
        return Export(directory, pair, control=control, progress=progress, encrypt_to=recipients)
    except OSError as exc:
        raise PgopsError(
            f"The lost writes cannot be exported below {directory}: {exc.strerror}; nothing was read.",
            database=pair.live.database,
            hint="Name another folder with -e lost_writes_export=PATH and run lost_writes.yml.",
        ) from None


def _told(pair: Pair, lost: list[Lost]) -> dict[str, Any]:
    rows = {kind: sum(getattr(entry, kind) for entry in lost) for kind in lost_rows.KINDS}
    return {
        "kept": pair.kept.database,
        "live": pair.live.database,
        "put_aside": pair.put_aside,
        "backup": pair.backup,
        "tables": [entry.as_dict() for entry in sorted(lost, key=lambda entry: entry.table)],
        "rows": {
            **rows,
            "application": sum(rows.values()),
            "versions": sum(entry.own_inserted + entry.own_updated for entry in lost),
        },
        "held_back": None,
        "bounds": pair.bounds,
        "notes": _notes(pair),
    }


def _notes(pair: Pair) -> list[str]:
    row = fetch_one(pair.kept.conn, "SELECT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata) AS there")
    return [LARGE_OBJECTS] if row and row["there"] else []
