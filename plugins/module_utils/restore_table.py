# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring the rows of one table, or of one schema, from a backup beside the live ones: for the accident that is no migration.

The backup is restored into a scratch database, of its rows only those that are wanted, which are compared with the manifest there and
copied into a side schema of the live database. The live tables are not touched; what comes back into them a person decides.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, Callable

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    content,
    database_marks,
    disk_forecast,
    dump_source,
    encrypted_dump,
    locks,
    plain_sql,
    restore,
    restore_list,
    side_comparison,
    side_owner,
    side_schema,
    wanted_tables,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import POLL_SECONDS
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Target,
    client_tool,
    connect,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.encryption import Identity
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import BACKUP, PgopsError, as_pgops_error
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Restorer, Work
from ansible_collections.whitecross.pgops.plugins.module_utils.side_schema import Wanted

_SCHEMA_FREE = """
SELECT pg_catalog.to_regnamespace(%s) IS NULL AS free, pg_catalog.pg_is_in_recovery() AS standby,
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') AS able, current_user::text AS role
"""


@dataclass(frozen=True)
class Asked:
    """What was typed.

    :ivar path: the folder of a backup of this database, on this host.
    :ivar table: ``name`` or ``schema.name``; or ``schema``, for all of its tables.
    :ivar other_cluster_only: refuse to restore on the cluster that the backup comes from (production without a reason).
    :ivar identity: the private key, where the backup is encrypted.
    """

    path: str
    table: str = ""
    schema: str = ""
    other_cluster_only: bool = False
    identity: Identity | None = None


@dataclass(frozen=True)
class _Plan:
    backup: Backup
    tables: list[Wanted]
    passed_over: list[str]
    able: Restorer
    schema: str
    owner: str


def preview(
    target: Target, asked: Asked, work: Work, *, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
) -> dict[str, Any]:
    """:return: backup, schema (that would be made), owner, tables (name and rows), passed_over; writes nothing.
    :raises PgopsError: as :func:`run` before it begins."""
    return _told(_look(target, asked, work, now()))


def run(
    target: Target, asked: Asked, work: Work, *, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
) -> dict[str, Any]:
    """Make the side schema.

    :return: as :func:`preview`, and seconds, preamble, statements (by table: missing, changed, bring_back, set_back, note).
    :raises PgopsError: the backup is not of this database, is damaged, encrypted to another key or does not hold the table; or what failed: file, step and what
        remains are in the message and in ``extra``. There is no side schema then.

    Takes the runner lock of the database while the rows are written, and no lock on a live table.
    """
    began = time.monotonic()
    plan = _look(target, asked, work, now())
    step = ["restoring into a scratch database"]
    try:
        with restore.scratch_database(target, plan.backup, work=work) as scratch:
            work.progress.emit(step[0], database=target.database)
            _fill(scratch, plan, work)
            step[0] = "comparing with the manifest"
            work.progress.emit(step[0], database=target.database)
            _refuse_differences(scratch, plan, work)
            step[0] = f"copying into {plan.schema}"
            statements = _copy(target, scratch, plan, work)
    except (PgopsError, psycopg2.Error) as error:
        raise _failed(as_pgops_error(error, "The restore of the table failed"), plan, step[0], target) from None
    return {
        **_told(plan),
        "seconds": round(time.monotonic() - began, 3),
        "preamble": side_comparison.PREAMBLE,
        "statements": {entry.table: asdict(entry) for entry in statements},
    }


def _told(plan: _Plan) -> dict[str, Any]:
    return {
        "backup": plan.backup.path,
        "snapshot_time": plan.backup.manifest["snapshot_time"],
        "schema": plan.schema,
        "owner": plan.owner,
        "tables": [{"table": f"{table.schema}.{table.name}", "rows": table.rows} for table in plan.tables],
        "passed_over": plan.passed_over,
    }


# -- before anything is written ------------------------------------------------------------------------------------------


def _look(target: Target, asked: Asked, work: Work, moment: datetime) -> _Plan:
    backup = _backup(asked, target.database)
    tables, passed_over = wanted_tables.wanted(backup, asked.table, asked.schema)
    schema = f"restored_{moment.strftime('%Y%m%d_%H%M%S')}"
    with closing(connect(target.as_restore(), application_name=work.application_name)) as conn:
        restore.refuse_other_major(backup, conn)
        row = fetch_one(conn, _SCHEMA_FREE, (schema,))
        if row and row["standby"]:
            raise PgopsError(f"{target} is a standby, which takes no schema.", database=target.database)
        if row and not row["free"]:
            raise PgopsError(
                f"There is a schema {schema} in {target.database} already, made in this very second; it was not touched.",
                database=target.database,
                hint="Type the command again.",
            )
        if row and not row["able"]:
            raise PgopsError(
                f"Role {row['role']} may not make a schema in {target.database}; nothing was done.",
                sqlstate="42501",
                database=target.database,
                hint=f"GRANT CREATE ON DATABASE {quoted(target.database)} TO {quoted(row['role'])}, or name another role in pgops_restore_user.",
            )
        owner = side_owner.of(conn, tables)
        takes = disk_forecast.of_rows(backup, sum(table.rows for table in tables))
        disk_forecast.refuse_full(
            conn, takes, f"The side schema in {target.database}", database=target.database, tablespace=None,
            hint="Free space there, then type the command again.",
        )  # fmt: skip
    with closing(connect(target.scratch(target.maintenance_database), application_name=work.application_name)) as conn:
        restore.refuse_other_major(backup, conn)
        able = restore.restorer(conn, backup)
        disk_forecast.refuse_full(
            conn, takes * (2 if able.same_cluster else 1), f"The scratch copy of {target.database}, with its side schema,", database=target.database,
            hint="Free space there, or set pgops_scratch_host to a server that has room, then type the command again.",
        )  # fmt: skip
    if asked.other_cluster_only and able.same_cluster:
        raise PgopsError(
            f"Rows of {target.database} would be restored on the production cluster itself, which sends them to archive and standbys; "
            "nothing was restored.",
            database=target.database,
            hint="Set pgops_scratch_host to another server, or give the reason with -e \"restore_scratch_reason='WHY'\".",
        )
    work.progress.emit("reading every file of the backup", database=target.database)
    backup_store.verify_files(backup, work.control.check)
    return _Plan(backup, tables, passed_over, able, schema, owner)


def _backup(asked: Asked, database: str) -> Backup:
    source = dump_source.identify(asked.path)
    if source.kind != dump_source.BACKUP:
        raise PgopsError(
            f"{source.path} is no backup of ours: without a manifest nothing tells whether a table came back whole; nothing was done.",
            database=database,
            hint="Restore all of it into a new database with restore.yml, and look there.",
            unusable=BACKUP,
        )
    backup = backup_store.read_backup(source.path)
    restore.refuse_altered(backup, None)
    if backup.manifest["database"] != database:
        raise PgopsError(
            f"{backup.path} is a backup of {backup.manifest['database']}, not of {database}.",
            database=database,
            hint="Name a backup of this database with -e restore_from=PATH.",
            unusable=BACKUP,
        )
    return encrypted_dump.unlock(backup, asked.identity)


# -- the scratch database ------------------------------------------------------------------------------------------------


def _fill(scratch: Target, plan: _Plan, work: Work) -> None:
    """Restore the whole structure, which is empty and quick, the rows that are wanted, and the keys of their tables."""
    with closing(connect(scratch, application_name=work.application_name)) as conn:
        restore.refuse_source(conn, plan.backup)
        tool = client_tool(scratch, conn, "pg_restore")
    with _selection(tool, plan) as listed:
        arguments = [
            "--exit-on-error", "--no-owner", "--no-privileges", "--no-tablespaces", "--no-comments", "--no-subscriptions",
            f"--use-list={listed}",
        ]  # fmt: skip
        client = restore.pg_restore(
            tool,
            arguments,
            scratch,
            plan.backup,
            work,
            restore.session_options(plan.able.superuser, plan.able.server[0]),
        )
        try:
            while not client.wait(POLL_SECONDS):
                work.control.check()
        finally:
            client.end()
        client.result(f"The restore of {plan.backup.path} failed", hints=lambda text: None)


@contextmanager
def _selection(tool: str, plan: _Plan) -> Iterator[str]:
    """A table of contents for ``pg_restore --use-list``: all that comes before rows, these rows, and primary keys.

    ``pg_restore --table`` would leave out the types and functions that the table needs.
    """
    data = tuple(f" TABLE DATA {_bare(part)} " for table in plan.tables for part in table.parts)
    keys = tuple(f" CONSTRAINT {table.schema} {table.name} " for table in plan.tables)
    inventory = backup_store.read_catalog(plan.backup)
    with tempfile.NamedTemporaryFile("w", prefix="pgops-list-", encoding="utf-8") as stream:
        for section, wanted in (("pre-data", None), ("data", data), ("post-data", keys)):
            for line in restore_list.without(_listed(tool, plan.backup, section), plan.able.left_out, inventory):
                taken = any(text in line for text in wanted) if wanted is not None else True
                if taken and not line.startswith(";") and " FK CONSTRAINT " not in line:
                    stream.write(line)
        stream.flush()
        yield stream.name


def _bare(quoted: str) -> str:
    return " ".join(plain_sql.parts(quoted))


def _listed(tool: str, backup: Backup, section: str) -> list[str]:
    if backup.encrypted:
        listed = encrypted_dump.listed(tool, backup, f"--section={section}")
        if listed.returncode != 0:
            raise PgopsError(f"The table of contents of {backup.path} cannot be read.")
        return listed.stdout.splitlines(keepends=True)
    archive = os.path.join(backup.path, backup_store.DUMP)
    with dump_source.read_archive(archive, tool, ["--list", f"--section={section}"]) as stream:
        return stream.read().decode("utf-8", "replace").splitlines(keepends=True)


def _refuse_differences(scratch: Target, plan: _Plan, work: Work) -> None:
    parts = [part for table in plan.tables for part in table.parts]
    with closing(connect(scratch, application_name=f"{work.application_name} compare")) as conn:
        forget = work.control.on_interrupt(conn.cancel)
        try:
            found = content.table_contents(conn, parts, check=work.control.check)
        finally:
            forget()
    expected = {part: plan.backup.manifest["tables"][part] for part in parts}
    different = content.compare_contents(expected, found)
    if different:
        first = different[0]
        raise PgopsError(
            f"{first['object']} of {plan.backup.path} differs from the manifest: {first['attribute']} expected {first['expected']}, "
            f"found {first['found']}",
            object_name=str(first["object"]),
            hint="The backup cannot be trusted; take another one.",
            extra={"differences": different},
        )


# -- the side schema -----------------------------------------------------------------------------------------------------


def _copy(target: Target, scratch: Target, plan: _Plan, work: Work) -> list[side_comparison.Statements]:
    with (
        closing(connect(scratch, application_name=f"{work.application_name} read")) as source,
        closing(connect(target.as_restore(), application_name=work.application_name)) as live,
    ):
        forgets = [work.control.on_interrupt(conn.cancel) for conn in (source, live)]
        try:
            # A migration that is under way has looked at the catalog, and would find a schema more.
            with locks.RunnerLock(live, wait_s=0, control=work.control):
                shapes = side_schema.copy(
                    source, live, plan.tables, plan.schema, owner=plan.owner, comment=_comment(plan, work),
                    tell=lambda table: work.progress.emit(
                        f"copying {table.schema}.{table.name}", database=target.database, total=table.rows, unit="rows"
                    ),
                    check=work.control.check,
                )  # fmt: skip
        finally:
            for forget in forgets:
                forget()
        return [
            side_comparison.statements(
                live, table, plan.schema, shapes[table.name], side_schema.primary_key(source, table)
            )
            for table in plan.tables
        ]


def _comment(plan: _Plan, work: Work) -> str:
    return (
        f"{database_marks.PREFIX.strip()}: rows of {plan.backup.path}, as of {plan.backup.manifest['snapshot_time']}, put here by run "
        f"{work.run_id}; nothing of the application reads them, drop it when it is done with"
    )


def _failed(error: PgopsError, plan: _Plan, step: str, target: Target) -> PgopsError:
    remains = f"there is no schema {plan.schema}, the scratch database was dropped and no live table was touched"
    file = "" if plan.backup.path in error.message else f" of {plan.backup.path}"
    error.message = f"{error.message.rstrip('.')} (at the step '{step}'{file}); {remains}."
    error.database = error.database or target.database
    error.extra.update({"file": plan.backup.path, "step": step, "remains": remains})
    return error
