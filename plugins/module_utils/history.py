# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a rollback by restore carries from the replaced database into its successor: runs, the audit chain, a baseline.

A restore takes the ledger back in time, which is right for the versions (they equal the restored schema) and wrong for
the history: the runs and audit rows since the backup would be gone, and a chain alone does not show its cut tail.
"""

from __future__ import annotations

import io
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import audit_checkpoint, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from psycopg2 import sql

_AUDIT_AFTER = """
COPY (SELECT seq, at, run_id, event, version, actor, detail, previous, hash FROM pgops.audit WHERE seq > {} ORDER BY seq)
TO STDOUT
"""
_AUDIT_IN = "COPY pgops.audit (seq, at, run_id, event, version, actor, detail, previous, hash) FROM STDIN"
_BASELINE_OUT = """
COPY (SELECT name, at, run_id, who, why, fingerprint, objects, detail FROM pgops.baseline WHERE name = {}) TO STDOUT
"""
_BASELINE_IN = "COPY pgops.baseline (name, at, run_id, who, why, fingerprint, objects, detail) FROM STDIN"
_COLUMNS = """
SELECT attname::text AS name FROM pg_catalog.pg_attribute
WHERE attrelid = 'pgops.run'::regclass AND attnum > 0 AND NOT attisdropped
"""


def carry(source: Connection, destination: Connection, *, owner: str | None) -> dict[str, Any]:
    """Append to ``destination`` the audit rows and runs that only ``source`` has. The versions stay as restored.

    Call it with the runner lock of the source held, so that nothing is written meanwhile. Doing it twice adds nothing.

    :param owner: the role that owns the objects; it makes the ledger where the backup is older than the first run.
    :return: carried, audit_rows, run_rows, and why where the chains do not join (then the audit is left as restored,
        and the replaced database keeps the other).
    """
    if ledger.schema_version(source) == 0:
        return {"carried": True, "audit_rows": 0, "run_rows": 0}
    if owner:
        execute(destination, sql.SQL("SET ROLE {}").format(sql.Identifier(owner)))
    with ledger.transaction(source), ledger.transaction(destination):
        kept = ledger.read(source).baseline
        if ledger.schema_version(destination) < (ledger.SCHEMA_VERSION if kept else 1):
            _create(destination)
        if kept:
            _carry_baseline(source, destination, kept.name)
        runs = _carry_runs(source, destination)
        head = ledger.audit_head(destination)
        why = _parted(source, head)
        audited = 0 if why else _carry_audit(source, destination, int(head["seq"]) if head else 0)
        why = why or ledger.broken_link(ledger.audit_rows(destination), start=audit_checkpoint.start(destination))
    if owner:
        execute(destination, "RESET ROLE")
    told: dict[str, Any] = {"carried": why is None, "audit_rows": audited, "run_rows": runs}
    if why:
        told["why"] = why
    return told


def _create(conn: Connection) -> None:
    # ensure() opens a transaction of its own; ours has to end first.
    execute(conn, "COMMIT")
    ledger.ensure(conn)
    execute(conn, "BEGIN")


def _carry_baseline(source: Connection, destination: Connection, name: str) -> None:
    """A backup that is older than the baseline has the same text ids, and must not be taken for a database of the tree."""
    if any(row.state != "reverted" for row in ledger.read(destination).migrations):
        return
    text = io.StringIO()
    with source.cursor() as cursor:
        cursor.copy_expert(sql.SQL(_BASELINE_OUT).format(sql.Literal(name)), text)
    text.seek(0)
    if ledger.read(destination).baseline is None:
        with destination.cursor() as cursor:
            cursor.copy_expert(_BASELINE_IN, text)


def _parted(source: Connection, head: dict[str, Any] | None) -> str | None:
    """:return: why the source's chain does not go on from this head, or None where it does."""
    if head is None:
        return None
    row = fetch_one(source, "SELECT hash FROM pgops.audit WHERE seq = %s", (head["seq"],))
    if row is None and int(head["seq"]) < audit_checkpoint.start(source)[0]:
        return f"the replaced database's audit begins behind row {head['seq']} of the backup: what is between lies in its archive"
    if row is None:
        return f"the replaced database's audit ends before row {head['seq']} of the backup: its tail was cut"
    if row["hash"] != head["hash"]:
        return f"the replaced database's audit differs from the backup's at row {head['seq']}: it was rewritten"
    return None


def _carry_audit(source: Connection, destination: Connection, after: int) -> int:
    text = io.StringIO()
    with source.cursor() as cursor:
        cursor.copy_expert(sql.SQL(_AUDIT_AFTER).format(sql.Literal(after)), text)
    text.seek(0)
    with destination.cursor() as cursor:
        cursor.copy_expert(_AUDIT_IN, text)
        return int(cursor.rowcount)


def _carry_runs(source: Connection, destination: Connection) -> int:
    """Runs are told by their id; of one that both have, the later state (the source's) is kept."""
    names = [row["name"] for row in fetch_all(destination, _COLUMNS)]
    there = {row["name"] for row in fetch_all(source, _COLUMNS)}
    columns = [name for name in names if name in there]
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    text = io.StringIO()
    with source.cursor() as cursor:
        cursor.copy_expert(sql.SQL("COPY (SELECT {} FROM pgops.run) TO STDOUT").format(listed), text)
    text.seek(0)
    execute(
        destination,
        "CREATE TEMPORARY TABLE pgops_runs ON COMMIT DROP AS SELECT * FROM pgops.run LIMIT 0",
    )
    with destination.cursor() as cursor:
        cursor.copy_expert(sql.SQL("COPY pgops_runs ({}) FROM STDIN").format(listed), text)
    updates = sql.SQL(", ").join(
        sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in columns if name != "id"
    )
    return execute(
        destination,
        sql.SQL(
            "INSERT INTO pgops.run ({0}) SELECT {0} FROM pgops_runs "
            "EXCEPT SELECT {0} FROM (SELECT {0} FROM pgops.run) AS known ON CONFLICT (id) DO UPDATE SET {1}"
        ).format(listed, updates),
    )


def record_swap(conn: Connection, *, run_id: str, detail: dict[str, Any]) -> None:
    """Add the swap to the audit of the database that is live now; a database without a ledger has no history to keep."""
    if ledger.schema_version(conn):
        ledger.append_audit(conn, "database_swapped", run_id=run_id, detail=detail)
