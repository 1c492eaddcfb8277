# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What going back to a backup loses: the rows written, changed and deleted since its snapshot, counted per table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    catalog,
    content,
    ledger,
    lost_large_objects,
    restored_from,
    row_versions,
    sealed_settings,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    database_oid,
    execute,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.content import Table
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.restored_from import RestoredFrom

_WHY_BOUNDS = (
    "the database was made of another backup, and which of its rows were written between the two cannot be told; where it says "
    "at least and at most, that is why"
)


@dataclass(frozen=True)
class Since:
    """How the rows of the live database are told from those of a backup.

    :ivar window: rows in it were written since, see :func:`row_versions.window`.
    :ivar kept: tables of which every other row is the backup's; None where that holds for all of them.
    """

    window: Mapping[str, Any]
    kept: frozenset[str] | None = None


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
        the database's own properties goes back; ``rows_written``: the sum; ``large_objects``: see
        :func:`lost_large_objects.since_backup`. Where the two numbers of a table are not known,
        they are the most that it can be, ``at_least`` has the least, and ``bounds`` says why.
    :raises PgopsError: a table cannot be read in full.
    """
    progress = progress or Progress(None)
    control = control or Control(None)
    manifest = backup.manifest
    with _tables_now(
        target, application_name, control, f"What a rollback of {target.database} would lose cannot be counted"
    ) as (conn, tables):
        known = counted(manifest)
        since = since_backup(conn, backup, known)
        lost = []
        for done, table in enumerate(tables):
            control.check()
            progress.emit(
                "counting what would be lost", database=target.database, done=done, total=len(tables), unit="tables"
            )
            entry = _table(conn, table, known.get(table.quoted), since)
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
            "large_objects": lost_large_objects.since_backup(
                conn, manifest["large_objects"], since.window, told_apart=since.kept is None
            ),
            "since": manifest["snapshot_time"],
            "bounds": _WHY_BOUNDS if any("at_least" in entry for entry in lost) else None,
            "ledger_is_read": history.exists,
        }


def written_since(target: Target, xid: int, *, application_name: str, control: Control | None = None) -> dict[str, Any]:
    """Count the rows that were written after a transaction, where there is no manifest to compare with.

    Reads every table once. Takes ACCESS SHARE on each, in one snapshot. Deletions leave no row to count.

    :param xid: of the swap, 64 bits.
    :return: ``tables``: table, rows_now and rows_written of those where there is any; ``rows_written``: the sum; ``large_objects``: see
        :func:`lost_large_objects.since`. Where the live
        database came out of a later backup, the number is the most that it can be and ``at_least`` has the least.
    """
    control = control or Control(None)
    with _tables_now(
        target, application_name, control, f"What was written to {target.database} since cannot be counted"
    ) as (conn, tables):
        restored = restored_from.look(conn)
        if restored and restored.xid <= xid:
            restored = None
        # A restore wrote each row anew; those of a backup from before the swap were written before it all the same.
        sure = restored is None or int(_manifest_of(restored).get("snapshot", {}).get("xmax", xid + 1)) <= xid
        window = _from(conn, restored.xid if restored else xid)
        found = []
        for table in tables:
            control.check()
            row = row_versions.count(conn, table.schema, table.name, window)
            most = row["written"] if sure else row["now"]
            if most:
                entry = {"table": table.quoted, "rows_now": row["now"], "rows_written": most}
                found.append(
                    {**entry, **({"at_least": {"rows_written": row["written"]}} if most != row["written"] else {})}
                )
        return {
            "tables": found,
            "rows_written": sum(entry["rows_written"] for entry in found),
            "large_objects": lost_large_objects.since(conn, window, told_apart=sure),
            "bounds": _WHY_BOUNDS if any("at_least" in entry for entry in found) else None,
        }


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


def counted(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """:return: the tables of a backup whose rows are counted; the ledger's own are not data."""
    return {
        name: entry
        for name, entry in manifest["tables"].items()
        if entry["kind"] == "table" and not name.startswith(catalog.LEDGER_SCHEMA + ".")
    }


def since_restore(conn: Connection, xid: int) -> Since:
    """:param xid: the first transaction whose rows are the database's own, 64 bits.
    :return: how these rows are told from those that it was made with."""
    return Since(_from(conn, xid))


def since_backup(conn: Connection, backup: Backup, known: Mapping[str, Any]) -> Since:
    """:return: how the rows of a database are told from a backup's. A restore writes every row anew, so a row's transaction
    is older than a backup only where that was taken of this very database."""
    manifest = backup.manifest
    restored = restored_from.look(conn)
    if restored and backup.was(restored.manifest_sha256):
        return Since(_from(conn, restored.xid))
    taken_here = manifest.get("database_oid", database_oid(conn)) == database_oid(conn)
    if taken_here and (restored is None or restored.xid <= manifest["snapshot"]["xmax"]):
        return Since(row_versions.window(conn, manifest["snapshot"]))
    if restored is None:
        return Since(_nothing(conn), frozenset())
    return Since(_from(conn, restored.xid), _same_tables(restored, known))


def _from(conn: Connection, xid: int) -> dict[str, Any]:
    return row_versions.window(conn, {"xmax": xid, "xip": []})


def _nothing(conn: Connection) -> dict[str, Any]:
    return _from(conn, row_versions.next_xid(conn))


def _same_tables(restored: RestoredFrom, known: Mapping[str, Any]) -> frozenset[str]:
    """:return: the tables that were the same in the backup that made the database as in the other one."""
    tables = _manifest_of(restored).get("tables", {})
    return frozenset(
        name
        for name, entry in known.items()
        if name in tables and (tables[name]["rows"], tables[name]["hash"]) == (entry["rows"], entry["hash"])
    )


def _manifest_of(restored: RestoredFrom) -> dict[str, Any]:
    """:return: empty where the backup is gone or is not the one any more."""
    try:
        backup = backup_store.read_backup(restored.backup)
    except PgopsError:
        return {}
    return backup.manifest if backup.was(restored.manifest_sha256) else {}


def _table(conn: Connection, table: Table, then: dict[str, Any] | None, since: Since) -> dict[str, Any] | None:
    row = row_versions.count(conn, table.schema, table.name, since.window)
    now, written = row["now"], row["written"]
    if then is None:
        return {"table": table.quoted, "change": "new table", "rows_then": 0, "rows_now": now,
                "rows_written": now, "rows_gone": 0}  # fmt: skip
    entry = {"table": table.quoted, "change": "rows", "rows_then": then["rows"], "rows_now": now}
    if since.kept is not None and table.quoted not in since.kept:
        return _bounded(conn, entry, then, written)
    if written == 0 and now == then["rows"]:
        return None
    entry["rows_written"] = written
    # Rows of the backup that are still there as they were: now - written.
    entry["rows_gone"] = max(then["rows"] - (now - written), 0)
    if _has_same_contents(conn, entry, then):
        # ALTER TABLE that rewrites, or an UPDATE to the same values: nothing is lost.
        entry["change"] = "rewritten"
    return entry


def _bounded(conn: Connection, entry: dict[str, Any], then: Mapping[str, Any], written: int) -> dict[str, Any] | None:
    """All that is sure of a table where a row that was not written since may be the backup's or not.

    :param written: rows that were surely written since.
    """
    if _has_same_contents(conn, entry, then):
        return None
    rows_then, now = then["rows"], entry["rows_now"]
    # At most these rows are still the backup's; and where all of them were, the contents would be the same.
    kept = min(rows_then, now - written)
    if kept == rows_then == now:
        kept -= 1
    least = {"rows_written": now - kept, "rows_gone": rows_then - kept}
    most = {"rows_written": now, "rows_gone": rows_then}
    return {**entry, **most, **({"at_least": least} if least != most else {})}


def _has_same_contents(conn: Connection, entry: Mapping[str, Any], then: Mapping[str, Any]) -> bool:
    if entry["rows_now"] != then["rows"]:
        return False
    return bool(content.table_contents(conn, [entry["table"]])[entry["table"]]["hash"] == then["hash"])


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
    encrypted = sealed_settings.withheld(then)  # where the key is not at hand
    for role in sorted(set(here) | set(there)):
        ours, theirs = set(here.get(role, [])), set(there.get(role, []))
        if encrypted:
            ours, theirs = set(map(sealed_settings.name_of, ours)), set(map(sealed_settings.name_of, theirs))
        if ours != theirs:
            names = sorted(set(map(sealed_settings.name_of, ours ^ theirs)))
            told.append({"attribute": f"settings of role {role}" if role else "settings", "names": names})
    return told
