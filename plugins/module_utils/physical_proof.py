# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The proof of a physical backup: restored beside, started, its rows compared with what the source said, its pages and indexes read."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import cluster_change, point_in_time, restore_point
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_beside import Beside, discard
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_comparison import counts
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_layout import Layout
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    fetch_all,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.pgbackrest import PgBackRest
from ansible_collections.whitecross.pgops.plugins.module_utils.physical_rollback import restore_beside
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import NAMES, PHYSICAL

# What a folder of a proof is called behind the name of the data directory.
PROOF = ".pgops_proof_"
# Rows that a table's counter says were written; equal before and after, nobody wrote in between.
_WRITTEN = """
SELECT quote_ident(schemaname) || '.' || quote_ident(relname) AS name, n_tup_ins + n_tup_upd + n_tup_del AS written
FROM pg_catalog.pg_stat_user_tables
"""


def refuse_below(needed: int | None) -> None:
    """:raises PgopsError: a physical proof does not reach that level of the ladder; nothing was restored."""
    if needed is not None and needed > PHYSICAL:
        raise PgopsError(
            f"A physical proof reaches level {PHYSICAL} ({NAMES[PHYSICAL]}) and level {needed} ({NAMES[needed]}) is needed; nothing was restored.",
            hint="Take a logical backup for it: backup_engine=logical. The physical one stays for point-in-time recovery.",
        )


def prove(
    tool: PgBackRest,
    layout: Layout,
    conn: Connection,
    targets: Mapping[str, Target],
    *,
    run_id: str,
    seconds: float,
    application_name: str,
) -> dict[str, Any]:
    """Restore the newest backup to a restore point made for it, beside the live cluster, compare, and throw it away.

    :param conn: on the live cluster, as a superuser.
    :param targets: the databases whose rows are counted, before and after the restore point.
    :param seconds: how long the archiver may take.
    :return: label, restore_point, level, databases, seconds, restore_seconds.
    :raises PgopsError: anything that would make a rollback from it fail; nothing of the proof is left.
    """
    with cluster_change.locked(layout.data_directory):
        for name in dead_proofs(layout.data_directory):
            discard(layout.bindir, name, tool.user)
        return _prove(tool, layout, conn, targets, run_id, seconds, application_name)


def dead_proofs(data_directory: str) -> list[str]:
    """:return: what proofs that were killed have left beside the live cluster. Call it under the lock: none of them is alive then."""
    place, begin = os.path.split(data_directory + PROOF)
    return sorted(
        os.path.join(place, name) for name in os.listdir(place) if name.startswith(begin) and not name.endswith(".log")
    )


def _prove(
    tool: PgBackRest,
    layout: Layout,
    conn: Connection,
    targets: Mapping[str, Target],
    run_id: str,
    seconds: float,
    application_name: str,
) -> dict[str, Any]:
    began = time.monotonic()
    tool.verify()
    said = {name: _count(target, application_name, tool.control) for name, target in targets.items()}
    name = f"pgops_proof_{run_id}_{int(time.time())}"[: restore_point.NAME_LIMIT]
    point = restore_point.create(conn, name, seconds=seconds, control=tool.control)
    again = {name: _count(target, application_name, tool.control) for name, target in targets.items()}
    found = point_in_time.plan(tool, layout, conn, name=name, time=None, seconds=seconds)
    folder, _kept = cluster_change.names(layout.data_directory, run_id, cluster_change.now())
    folder = folder.replace(".pgops_new_", PROOF)
    beside = Beside(
        layout, folder, tool.user, next(iter(targets.values())), application_name=application_name,
        progress=tool.progress, control=tool.control,
    )  # fmt: skip
    beside.refuse_full(found.backup_size + found.wal_bytes)
    restoring = time.monotonic()
    try:
        restore_beside(tool, found, beside, archiving=False)
        restored = round(time.monotonic() - restoring, 1)
        beside.promote()
        databases = {name: _compare(beside, name, said[name], again[name]) for name in targets}
        tool.progress.emit("reading pages and indexes (pg_amcheck)")
        refuse_damaged(tool, layout, beside, list(targets))
    finally:
        beside.remove()
    return {
        "level": PHYSICAL,
        "label": found.backup,
        "stanza": tool.stanza,
        "restore_point": point["name"],
        "lsn": point["lsn"],
        "proved_at": cluster_change.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        "restore_seconds": restored,
        "seconds": round(time.monotonic() - began, 1),
        "databases": databases,
    }


def _count(target: Target, application_name: str, control: Control | None = None) -> dict[str, tuple[int, int]]:
    """:return: by table its rows and how much was written to it by then."""
    with contextlib.closing(connect(target.as_restore(), application_name=application_name)) as conn:
        rows = counts_of(conn, control)
        written = {row["name"]: int(row["written"]) for row in fetch_all(conn, _WRITTEN)}
    return {table: (count, written.get(table, 0)) for table, count in rows.items()}


def counts_of(conn: Connection, control: Control | None) -> dict[str, int]:
    """:return: the rows of each table. :raises PgopsError: the job has to end; the statement in hand is cancelled."""
    control = control or Control(None)
    forget = control.on_interrupt(conn.cancel)
    try:
        return counts(conn, control)
    finally:
        forget()


def _compare(
    beside: Beside, database: str, before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]
) -> dict[str, Any]:
    """:raises PgopsError: a table that nobody wrote to while the restore point was made has other rows, or there is none such."""
    with contextlib.closing(beside.connect(database)) as conn:
        found = counts_of(conn, beside.control)
    still = {table for table in before if before[table] == after.get(table)}
    wrong = sorted(table for table in still if found.get(table) != before[table][0])
    if wrong:
        first = wrong[0]
        raise PgopsError(
            f"The restored {first} of {database} has {found.get(first, 'no')} rows, the source had {before[first][0]}; the backup is "
            "not proved.",
            database=database,
            object_name=first,
            extra={"tables": wrong},
        )
    if not still and (before or after or found):
        raise PgopsError(
            f"Each of the {len(found)} tables of {database} was written to while the restore point was made, so none could be compared; "
            "the backup is not proved.",
            database=database,
            hint="Prove it again when less is written.",
        )
    return {
        "tables": len(found),
        "rows": sum(found.values()),
        "level": PHYSICAL,
        "detail": f"restores, counts of {len(still)} of {len(found)} tables equal, pages sound",
        "compared": len(still),
        "moving": sorted({*after} - still),
    }


def refuse_damaged(tool: PgBackRest, layout: Layout, beside: Beside, databases: list[str]) -> None:
    """:raises PgopsError: pg_amcheck finds a page or an index of one of these that is damaged."""
    role = beside.target(databases[0]).user
    for name in databases:
        done = tool.user.run(
            [
                f"{layout.bindir}/pg_amcheck", "--install-missing=pg_catalog", f"--host={beside.private}",
                f"--port={layout.port}", f"--username={role}", "--no-password", f"--database={name}",
            ],
            control=tool.control,
        )  # fmt: skip
        if done.code:
            # What it says names relations and blocks, no rows.
            told = next((line for line in done.lines if line.strip()), f"it ended with {done.code}")
            raise PgopsError(
                f"The restored {name} is damaged, says pg_amcheck: {told.strip()[:300]}.",
                database=name,
                hint="The live database may be so too: run pg_amcheck there, before the backups without the damage expire.",
            )
