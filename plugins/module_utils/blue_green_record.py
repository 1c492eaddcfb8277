# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a change-over is recorded with: the versions that it brought, as an apply tells them, the newest backup, and its run in the ledger.

The versions were applied by the run that has prepared them. What that run knew stands in the record in the live database, which goes aside
with it; so a run that only finishes a change-over that was killed tells them too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    blue_green_change,
    blue_green_state,
    database_marks,
    ledger,
    pending_swap,
    standby_readers,
    swap,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_change import OVER, Change
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import SWAPPED
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, as_pgops_error
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import tables_of

# What the audit keeps of an applied version, and of what its manifest says.
_APPLIED = ("version", "name", "duration_s", "step_durations", "indexes", "indexes_by_sql", "notes")
_DECLARED = ("version", "name", "checksum", "rendered_checksum", "title", "why", "risk", "phi")

_CUT_OFF = "was changed over by a run that was cut off, and the rest of it, with what the audit keeps, is not done"


def applied(done: Mapping[str, Any]) -> list[dict[str, Any]]:
    """:param done: as ``migrate.apply`` returns it. :return: what the record keeps of it."""
    return [{name: item.get(name) for name in _APPLIED if name in item} for item in done["applied"]]


def over(change: Change, conn: Connection) -> dict[str, Any] | None:
    """:param conn: of ``blue_green_change.alone``, or one that only looks.
    :return: of a change-over that was killed behind its renames, what ``swap.resume`` tells of one; None where the old database is live."""
    pending = pending_swap.look(conn, change.database)
    aside = next((entry.name for entry in database_marks.set_aside(conn, change.database)), None)
    if aside is None or (pending.state != SWAPPED if pending else database_marks.database(conn, change.green)):
        return None
    with closing(change.connect(change.live_target)) as live:
        # Only the new database has the marker and no record.
        if not blue_green_state.has_marker(live) or blue_green_state.read(live) is not None:
            return None
    return {
        "state": swap.RECORDED,
        "live": change.database,
        "aside": aside,
        "swapped_in": change.green,
        "standbys": standby_readers.look(conn, aside),
    }


def told_over(change: Change, conn: Connection) -> dict[str, Any]:
    """:return: for who only looks, that it is over, with its ``state``, and how it is told; without one where it is not."""
    if over(change, conn) is None:
        return {"told": []}
    return {
        "state": OVER,
        "green": change.green,
        "why": None,
        "told": [_CUT_OFF],
        "changed": True,
    }


def refuse_over(change: Change, conn: Connection) -> None:
    """What a change-over has left behind its renames says which versions it brought.

    :raises PgopsError: one was cut off there.
    """
    if over(change, conn):
        raise PgopsError(
            f"{change.database} {_CUT_OFF}; nothing was prepared.",
            database=change.database,
            hint="Finish it first with -e blue_green_stage=change_over.",
            extra={"reason": "over"},
        )


def replaced(change: Change, conn: Connection, aside: str) -> dict[str, Any] | None:
    """:return: the record of the run that has prepared it, in the database that went aside; None where that is not there any more."""
    with (
        blue_green_change.opened(change, conn, [aside]),
        closing(change.connect(change.live_target.with_(database=aside))) as session,
    ):
        return blue_green_state.read(session)


def told(record: Mapping[str, Any], migrations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """:param record: of the run that has prepared it.
    :return: ``versions``; ``applied``, as an apply tells them, each with the ``run_id`` whose rows the audit has; ``planned``, what their
        manifests declare; ``tables`` that they name."""
    versions = [str(version) for version in record.get("versions") or []]
    # Who gives it up has no tree.
    found = {
        **declared(migrations, versions),
        **{name: record[name] for name in ("planned", "tables") if name in record},
    }
    names = {str(version["version"]): version.get("name") for version in found["planned"]}
    known = {str(item["version"]): item for item in record.get("applied") or []}
    return {
        "versions": versions,
        "applied": [
            {"version": version, "name": names.get(version), **known.get(version, {}), "run_id": record.get("run_id")}
            for version in versions
        ],
        **found,
    }


def declared(migrations: Sequence[Mapping[str, Any]], versions: Sequence[str]) -> dict[str, Any]:
    """:return: ``planned``, what the manifests of these versions declare, and ``tables`` that they name."""
    tree = [version for version in migrations if str(version["version"]) in versions]
    return {
        "planned": [{name: version.get(name) for name in _DECLARED} for version in tree],
        "tables": tables_of(tree),
    }


def newest_backup(directory: str | None, database: str) -> dict[str, Any] | None:
    """:param directory: the folder of the backups, on the host of the module.
    :return: the newest backup of a database, by path, ``finished`` and checksum, with ``level`` and ``proved_at`` of its proof; None
        where there is none."""
    if not directory:
        return None
    try:
        found = backup_store.backups_of(os.path.abspath(os.path.expanduser(directory)), database)
    except (PgopsError, OSError):
        return None
    if not found:
        return None
    newest = found[0]
    return {
        "path": newest.path,
        "manifest_sha256": newest.manifest_sha256,
        "finished": newest.manifest.get("finished"),
        "level": newest.proof_level,
        "proved_at": (newest.proof or {}).get("proved_at") if newest.proof_level else None,
    }


def keep_run(change: Change, run: ledger.Run) -> list[str]:
    """Write the run that has changed over into the ledger, which is the new database's by now.

    :return: that it could not be, in words. The names are swapped, and what is left behind them is taken away all the same.
    """
    try:
        with closing(change.connect(change.target)) as conn:
            if ledger.schema_version(conn):
                with ledger.transaction(conn):
                    ledger.start_run(conn, run)
                    ledger.finish_run(conn, run.id, "changed_over")
    except (PgopsError, psycopg2.Error) as exc:
        why = as_pgops_error(exc, f"Run {run.id} cannot be written").message
        return [f"the ledger does not name this run: {why}"]
    return []
