# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What going back to a backup loses: the rows written, changed and deleted since its snapshot, counted per table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, content, ledger, row_versions
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.content import Table
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress


def lost_writes(
    target: Target,
    backup: Backup,
    *,
    application_name: str,
    progress: Progress | None = None,
    control: Control | None = None,
) -> dict[str, Any]:
    """Compare the live database with a backup and say what a restore of it would take away.

    Reads every table once. Takes ACCESS SHARE on each, in one snapshot.

    :return: ``tables``: those where something is lost, with ``rows_then``, ``rows_now``, ``rows_written`` (new and
        changed since), ``rows_gone`` (of the backup's rows, those changed or deleted since; they come back as they
        were), and ``change``: ``rows``, ``new table`` (is lost whole), ``dropped table`` (comes back) or ``rewritten``
        (same contents, other storage); ``versions``: migrations that will not be applied any more; ``settings``: what of
        the database's own properties goes back; ``rows_written``: the sum.
    :raises PgopsError: a table cannot be read in full.
    """
    progress = progress or Progress(None)
    control = control or Control(None)
    manifest = backup.manifest
    with _tables_now(
        target, application_name, control, f"What a rollback of {target.database} would lose cannot be counted"
    ) as (conn, tables):
        known = {
            name: entry
            for name, entry in manifest["tables"].items()
            if entry["kind"] == "table" and not name.startswith(catalog.LEDGER_SCHEMA + ".")
        }
        snapshot = row_versions.window(conn, manifest["snapshot"])
        lost = []
        for done, table in enumerate(tables):
            control.check()
            progress.emit(
                "counting what would be lost", database=target.database, done=done, total=len(tables), unit="tables"
            )
            entry = _table(conn, table, known.get(table.quoted), snapshot)
            if entry:
                lost.append(entry)
        present = {table.quoted for table in tables}
        lost += [
            {"table": name, "change": "dropped table", "rows_then": known[name]["rows"], "rows_now": 0,
             "rows_written": 0, "rows_gone": known[name]["rows"]}
            for name in sorted(set(known) - present)
        ]  # fmt: skip
        history = ledger.read(conn)
        then = {row["version"]: row["state"] for row in manifest["ledger"]}
        return {
            "tables": lost,
            "rows_written": sum(entry["rows_written"] for entry in lost if entry["change"] != "rewritten"),
            "versions": [
                {"version": row.version, "name": row.name, "state": row.state, "state_after": then.get(row.version)}
                for row in history.migrations
                if then.get(row.version) != row.state
            ],
            "settings": _settings(conn, manifest["properties"]),
            "since": manifest["snapshot_time"],
            "ledger_is_read": history.exists,
        }


def written_since(target: Target, xid: int, *, application_name: str, control: Control | None = None) -> dict[str, Any]:
    """Count the rows that were written after a transaction, where there is no manifest to compare with.

    Reads every table once. Takes ACCESS SHARE on each, in one snapshot. Deletions leave no row to count.

    :param xid: of the swap, 64 bits.
    :return: ``tables``: table, rows_now and rows_written of those where there is any; ``rows_written``: the sum.
    """
    control = control or Control(None)
    with _tables_now(
        target, application_name, control, f"What was written to {target.database} since cannot be counted"
    ) as (conn, tables):
        window = row_versions.window(conn, {"xmax": xid, "xip": []})
        found = []
        for table in tables:
            control.check()
            row = row_versions.count(conn, table.schema, table.name, window)
            if row["written"]:
                found.append({"table": table.quoted, "rows_now": row["now"], "rows_written": row["written"]})
        return {"tables": found, "rows_written": sum(entry["rows_written"] for entry in found)}


@contextmanager
def _tables_now(
    target: Target, application_name: str, control: Control, failing: str
) -> Iterator[tuple[Connection, list[Table]]]:
    """A session in one snapshot, with the tables whose rows can be counted; ended with it, also by an interrupt."""
    conn = connect(target.as_restore(), application_name=application_name)
    forget = control.on_interrupt(conn.cancel)
    try:
        execute(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        tables = [
            table
            for table in content.user_tables(conn, exclude_schemas=(catalog.LEDGER_SCHEMA,))
            if table.kind == "table" and not table.condition
        ]
        # The ledger's own tables are not data: what they say of the past is carried across.
        content.refuse_unreadable(tables)
        yield conn, tables
    except psycopg2.Error as exc:
        raise from_psycopg(exc, failing, database=target.database) from None
    finally:
        forget()
        conn.close()


def _table(
    conn: Connection, table: Table, then: dict[str, Any] | None, snapshot: dict[str, Any]
) -> dict[str, Any] | None:
    row = row_versions.count(conn, table.schema, table.name, snapshot)
    now, written = row["now"], row["written"]
    if then is None:
        return {"table": table.quoted, "change": "new table", "rows_then": 0, "rows_now": now,
                "rows_written": now, "rows_gone": 0}  # fmt: skip
    if written == 0 and now == then["rows"]:
        return None
    entry = {
        "table": table.quoted,
        "change": "rows",
        "rows_then": then["rows"],
        "rows_now": now,
        "rows_written": written,
        # Rows of the backup that are still there as they were: now - written.
        "rows_gone": max(then["rows"] - (now - written), 0),
    }
    if now == then["rows"] and content.table_contents(conn, [table.quoted])[table.quoted]["hash"] == then["hash"]:
        # ALTER TABLE that rewrites, or an UPDATE to the same values: nothing is lost.
        entry["change"] = "rewritten"
    return entry


def _settings(conn: Connection, then: dict[str, Any]) -> list[dict[str, Any]]:
    """What of the database's own properties goes back. Of settings only the names: a value may be a secret."""
    now = catalog.database_properties(conn)
    told = [
        {"attribute": name, "now": now.get(name), "after": then.get(name)}
        for name in ("owner", "acl", "connection_limit")
        if now.get(name) != then.get(name)
    ]
    here = {"": now["settings"], **now["role_settings"]}
    there = {"": then["settings"], **then["role_settings"]}
    for role in sorted(set(here) | set(there)):
        changed = set(here.get(role, [])) ^ set(there.get(role, []))
        if changed:
            names = sorted({setting.partition("=")[0] for setting in changed})
            told.append({"attribute": f"settings of role {role}" if role else "settings", "names": names})
    return told
