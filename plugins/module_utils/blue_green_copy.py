# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What goes into the new database by pg_dump and not by replication: the schema before the versions, and the ledger.

The ledger goes twice. The versions need it when they are applied to the empty copy; and when the copy takes over, runs and audit have gone
on in the live database. Its chain is taken over whole then, and what was done in the copy is appended to it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import blue_green_state, catalog, ledger, restore
from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import POLL_SECONDS, ClientProcess
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    client_tool,
    connect,
    execute,
    fetch_all,
    fetch_one,
    server_version,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work
from psycopg2 import sql

# Where the ledger that the versions wrote stands while the live one is taken over.
_OWN_LEDGER = "pgops_green"

_LOCK_TIMEOUT_MS = 5000

_AUDITED = """
SELECT event, version, detail FROM pgops_green.audit WHERE run_id = %s AND version = ANY (%s) AND event = 'applied' ORDER BY seq
"""


def copy_schema(source: Target, destination: Target, work: Work) -> None:
    """Make the objects of a database in an empty one, without rows and without what a blue-green change has put there.

    :raises PgopsError: pg_dump or pg_restore fails. Takes ACCESS SHARE on every table, for the dump.
    """
    _copy(source, destination, work, ["--schema-only"])
    with closing(connect(destination, application_name=work.application_name)) as conn:
        blue_green_state.remove(conn)
        execute(
            conn,
            "CREATE SCHEMA pgops_blue_green; CREATE TABLE pgops_blue_green.marker (only_row boolean PRIMARY KEY DEFAULT true, beat text NOT NULL)",
        )


def copy_ledger(source: Target, destination: Target, work: Work) -> None:
    """Copy the rows of the ledger into one that is empty, where there is one."""
    with closing(connect(source, application_name=work.application_name)) as conn:
        if ledger.schema_version(conn) == 0:
            return
    _copy(source, destination, work, ["--data-only", f"--schema={catalog.LEDGER_SCHEMA}"])


def take_over_ledger(
    source: Target, destination: Target, work: Work, *, run_id: str, versions: Sequence[str]
) -> dict[str, Any]:
    """Give the new database the live one's ledger, with the versions that were applied in it behind. Doing it again is fine.

    Call it with the runner lock of the live database held.

    :param run_id: the run that has applied the versions.
    :return: as ``history.carry``, with the versions.
    """
    with closing(connect(source, application_name=work.application_name)) as live:
        here = ledger.schema_version(live)
        rows = fetch_one(live, "SELECT count(*) AS n FROM pgops.audit") if here else None
    with closing(connect(destination, application_name=work.application_name)) as green:
        if not here:
            return {"carried": True, "audit_rows": 0, "run_rows": 0, "versions": list(versions)}
        _put_own_aside(green)
    _copy(source, destination, work, [f"--schema={catalog.LEDGER_SCHEMA}"])
    with closing(connect(destination, application_name=work.application_name)) as green:
        runs = _append(green, run_id, list(versions))
    return {"carried": True, "audit_rows": int(rows["n"]) if rows else 0, "run_rows": runs, "versions": list(versions)}


def _put_own_aside(green: Connection) -> None:
    """A run that died in between has put it aside, and the other one may be half there."""
    there = fetch_one(green, "SELECT to_regnamespace(%s) IS NOT NULL AS yes", (_OWN_LEDGER,))
    if there and there["yes"]:
        execute(green, sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(catalog.LEDGER_SCHEMA)))
    else:
        execute(
            green,
            sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(
                sql.Identifier(catalog.LEDGER_SCHEMA), sql.Identifier(_OWN_LEDGER)
            ),
        )


def _append(green: Connection, run_id: str, versions: list[str]) -> int:
    with ledger.transaction(green):
        for table, key in (("run", "id"), ("migration", "version"), ("step", "version")):
            wanted = [run_id] if table == "run" else versions
            columns = sql.SQL(", ").join(
                sql.Identifier(row["name"])
                for row in fetch_all(
                    green,
                    "SELECT attname::text AS name FROM pg_catalog.pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 "
                    "AND NOT attisdropped ORDER BY attnum",
                    (f"{catalog.LEDGER_SCHEMA}.{table}",),
                )
            )
            parts = {
                "table": sql.Identifier(catalog.LEDGER_SCHEMA, table),
                "own": sql.Identifier(_OWN_LEDGER, table),
                "key": sql.Identifier(key),
                "columns": columns,
            }
            execute(green, sql.SQL("DELETE FROM {table} WHERE {key} = ANY (%s)").format(**parts), (wanted,))
            execute(
                green,
                sql.SQL("INSERT INTO {table} ({columns}) SELECT {columns} FROM {own} WHERE {key} = ANY (%s)").format(
                    **parts
                ),
                (wanted,),
            )
        for row in fetch_all(green, _AUDITED, (run_id, versions)):
            detail = {**row["detail"], "blue_green": True}
            ledger.append_audit(green, row["event"], run_id=run_id, version=row["version"], detail=detail)
        runs = fetch_one(green, "SELECT count(*) AS n FROM pgops.run")
        execute(green, sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(_OWN_LEDGER)))
    return int(runs["n"]) if runs else 0


def _copy(source: Target, destination: Target, work: Work, arguments: list[str]) -> None:
    folder = tempfile.mkdtemp(prefix="pgops-blue-green-")  # 0700
    try:
        archive = os.path.join(folder, "dump")
        with closing(connect(source, application_name=work.application_name)) as conn:
            dump, load = (client_tool(source, conn, name) for name in ("pg_dump", "pg_restore"))
            major, _ = server_version(conn)
        _run(
            ClientProcess(
                dump,
                ["--format=custom", f"--file={archive}", f"--lock-wait-timeout={_LOCK_TIMEOUT_MS}", "--no-subscriptions", *arguments],
                source, application_name=f"{work.application_name} blue-green",
            ),
            f"The dump of {source.database} failed", work,
        )  # fmt: skip
        _run(
            ClientProcess(
                load, ["--exit-on-error", archive], destination, application_name=f"{work.application_name} blue-green",
                options=restore.session_options(True, major),
            ),
            f"Making the objects of {destination.database} failed", work,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(client: ClientProcess, doing: str, work: Work) -> None:
    try:
        while not client.wait(POLL_SECONDS):
            work.control.check()
    finally:
        client.end()
    client.result(doing, hints=lambda text: "See its messages in the report; nothing is left of it.")
