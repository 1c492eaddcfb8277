# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Apply and revert versions: one runner, step by step, each step's end in the ledger, so that the next run goes on there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backfill,
    constraints,
    existing,
    indexes,
    ledger,
    locks,
    sql_step,
    statistics,
)
from ansible_collections.whitecross.pgops.plugins.module_utils import plan as planning
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import Run, transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import RunnerLock
from ansible_collections.whitecross.pgops.plugins.module_utils.monitor import Monitor
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import errorcodes, sql

# How soon the server notices that a killed module's socket is closed, and ends its statement. 14 and later.
_NOTICE_DEATH = "SET client_connection_check_interval = '1s'"
# The end of a version is on the disk before it is told; what comes before need not wait for the disk, commit by commit:
# a step and the ledger's row about it are one transaction, so a crash loses both or none, and the next run does it again.
_LAZY_COMMITS = "SET synchronous_commit = off"
_SURE_COMMIT = "SET LOCAL synchronous_commit = on"

MOVED = {
    "ledger_head": "the ledger",
    "catalog_fingerprint": "the catalog (an object was created, changed or dropped)",
    "rendered_checksum": "the rendered SQL of the pending versions",
}


def run_of(run_id: str | None, given: Mapping[str, Any], database: str) -> Run:
    """:param given: what the controller tells of the run; ``backup`` is by database.
    :return: the run for the ledger of one database; a module called outside a run gets an id of its own."""
    backup = given.get("backup") or {}
    return Run(
        id=run_id or f"manual-{int(time.time())}-{os.getpid()}",
        playbook=given.get("playbook"),
        environment=given.get("environment"),
        who=given.get("who"),
        ops_host=given.get("ops_host"),
        why=given.get("why"),
        backup=backup.get(database),
    )


@dataclass
class Way:
    """What a call needs beside the database: who asks, and how to tell and to end.

    :ivar lock_wait_s: seconds to wait politely for another run.
    """

    run: Run
    progress: Progress = field(default_factory=Progress)
    control: Control = field(default_factory=Control)
    lock_wait_s: float = 30.0
    sleep: Callable[[float], None] = time.sleep


@dataclass
class _Session:
    target: Target
    way: Way
    conn: Connection
    monitor: Monitor
    connect: Callable[[], Connection]
    who: str
    explained: existing.Explained = frozenset()


# ---------------------------------------------------------------------------------------------------------------- apply


def preview(
    target: Target, migrations: Sequence[Mapping[str, Any]], selection: planning.Selection, *, run_id: str = "preview"
) -> dict[str, Any]:
    """Tell what :func:`apply` would do, and write nothing, not even the ledger.

    :return: ``pending`` (what and how risky), ``later``, ``risk``, ``state`` (see plan.state), ``prepared`` (the SQL).
    :raises PgopsError: whatever would refuse the apply before its first write.
    """
    conn = connect(target, application_name=locks.application_name(run_id))
    try:
        found = ledger.read(conn)
        plan = _plan(conn, found, migrations, selection)
        return {
            "pending": [_summary(migration, found) for migration in plan.pending],
            "later": plan.later,
            "applied": [row.version for row in found.in_state("applied")],
            "risk": plan.risk,
            "state": planning.state(conn, found, plan),
            "tables": _tables(plan.pending),
            "prepared": "".join(
                text(conn, migration, found.get(str(migration["version"]))) for migration in plan.pending
            ),
        }
    finally:
        conn.close()


def apply(
    target: Target,
    migrations: Sequence[Mapping[str, Any]],
    selection: planning.Selection,
    way: Way,
    *,
    expected: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Apply what is pending, in order, and stop at the first failure.

    Holds the runner lock of the database all the way. With nothing pending it writes nothing.

    :param migrations: the whole tree, rendered.
    :param expected: ``ledger_head``, ``catalog_fingerprint``, ``rendered_checksum`` as they were when the backup was
        taken; compared under the lock before the first write, keys that are missing are not compared.
    :return: ``applied`` (each with duration in seconds and what was skipped), ``tables``, ``ledger_head``, ``audit``.
    :raises PgopsError: refused, failed, interrupted or out of patience; ``extra`` says what is applied and what is not.
    """
    with _session(target, way) as session:
        found = ledger.read(session.conn)
        plan = _plan(session.conn, found, migrations, selection)
        refuse_moved(session.conn, found, plan, expected)
        session.explained = existing.explained_by(migrations)
        done: list[dict[str, Any]] = []
        audit = None
        if plan.pending:
            ledger.ensure(session.conn)
            ledger.start_run(session.conn, way.run)
            for number, migration in enumerate(plan.pending):
                done.append(_apply_one(session, migration, found, done, plan.pending[number + 1 :]))
            ledger.finish_run(session.conn, way.run.id, "applied")
        if found.exists or plan.pending:
            audit = ledger.audit_head(session.conn)
        return {
            "applied": done,
            "later": plan.later,
            "tables": _tables(plan.pending),
            "ledger_head": ledger.read(session.conn).head,
            "audit": audit,
        }


def refuse_moved(
    conn: Connection, found: ledger.Ledger, plan: planning.Plan, expected: Mapping[str, str] | None
) -> None:
    """:raises PgopsError: something is not as it was when the backup was taken; names what moved."""
    if not expected or not plan.pending:
        return
    now = planning.state(conn, found, plan)
    moved = [name for name in MOVED if expected.get(name) and expected[name] != now[name]]
    if not moved:
        return
    told = [MOVED[name] for name in moved]
    if "ledger_head" in moved:
        last = max(found.migrations, key=lambda row: row.finished_at or row.started_at or "", default=None)
        if last is not None:
            told[0] += f" (version {last.version} is {last.state} by run {last.run_id})"
    raise PgopsError(
        f"Nothing was applied to {conn.info.dbname}: since its backup was proved, {' and '.join(told)} moved; "
        "run it again from the start, so that the backup fits what is changed.",
        database=conn.info.dbname,
        extra={"reason": "moved", "moved": moved},
    )


def _plan(
    conn: Connection, found: ledger.Ledger, migrations: Sequence[Mapping[str, Any]], selection: planning.Selection
) -> planning.Plan:
    return planning.make(
        found,
        migrations,
        selection,
        stored=lambda version: ledger.stored(conn, version),
        database=str(conn.info.dbname),
    )


def _apply_one(
    session: _Session,
    migration: Mapping[str, Any],
    found: ledger.Ledger,
    done: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    conn, run, version = session.conn, session.way.run, str(migration["version"])
    row = found.get(version)
    resume = row is not None and row.state in ("applying", "failed")
    known = {step.ordinal: step for step in row.steps} if row is not None and resume else {}
    started = time.monotonic()
    steps: Sequence[Mapping[str, Any]] = migration["steps"]
    skipped: list[str] = []
    timed: list[dict[str, Any]] = []
    ordinal = next((n for n in range(1, len(steps) + 1) if n not in known or known[n].state != "done"), len(steps))
    try:
        session.way.control.check()
        with transaction(conn):
            ledger.begin(
                conn, migration, run, applied_by=session.who, resume=resume, again=row is not None and not resume
            )
            ledger.append_audit(
                conn,
                "apply_resumed" if resume else "apply_started",
                run_id=run.id,
                version=version,
                detail={
                    "checksum": migration["checksum"],
                    "rendered_checksum": migration["rendered_checksum"],
                    **_replaced(row, migration, resume),
                },
            )
        for ordinal, step in enumerate(steps, 1):
            past = known.get(ordinal)
            if past is not None and past.state == "done":
                continue
            session.way.control.check()
            context = _context(session, migration, "up", ordinal, str(step["kind"]), past)
            begun = time.monotonic()
            skipped += _step_up(context, migration, step)
            seconds = round(time.monotonic() - begun, 3)
            timed.append({"step": ordinal, "kind": step["kind"], "name": step.get("name"), "duration_s": seconds})
        duration = round(time.monotonic() - started, 3)
        with transaction(conn, _SURE_COMMIT):
            ledger.finish(conn, version, "applied", duration)
            ledger.append_audit(
                conn, "applied", run_id=run.id, version=version, detail={"duration_s": duration, "skipped": skipped}
            )
    except (PgopsError, psycopg2.Error) as exc:
        raise _stopped(session, migration, "failed", ordinal, len(steps), exc, started, done, after) from None
    session.way.progress.emit(
        f"{version} {migration['name']}: applied in {duration:.2f} s", database=session.target.database
    )
    return {
        "version": version,
        "name": migration["name"],
        "title": migration.get("title"),
        "duration_s": duration,
        "steps": len(steps),
        # Only those of this run, where it went on from an earlier one.
        "step_durations": timed,
        "skipped": skipped,
        "resumed": resume,
    }


def _replaced(row: ledger.Migration | None, migration: Mapping[str, Any], resume: bool) -> dict[str, Any]:
    """The files of a broken version that were mended before it was ever applied, as they were: the audit keeps them aside."""
    if row is None or not resume or row.checksum == migration["checksum"]:
        return {}
    now = migration["files"]
    old = {name: file for name, file in row.files.items() if name not in now or now[name]["sha256"] != file["sha256"]}
    return {"replaced_files": old}


def _step_up(context: StepContext, migration: Mapping[str, Any], step: Mapping[str, Any]) -> list[str]:
    kind = step["kind"]
    if kind == "sql":
        return sql_step.run(context, step["up"], one_transaction=bool(migration.get("transaction", True)))
    if kind == "indexes":
        return indexes.up(context, step["indexes"])
    if kind == "backfill":
        backfill.run(context, step, step["statement"])
        return []
    if kind == "validate":
        return constraints.up(context, step["constraints"])
    if kind == "analyze":
        _analyze(context, step["tables"])
        return []
    raise PgopsError(f"{context.doing}: unknown kind of step.", database=context.database)


def _analyze(context: StepContext, tables: Sequence[Mapping[str, Any]]) -> None:
    pid = context.conn.info.backend_pid

    def before(name: str) -> None:
        context.control.check()
        context.tell(f"analyzing {name}")
        context.monitor.started(pid, f"analyzing {name}", context.tell)

    statistics.analyze(
        context.conn,
        [(str(table.get("schema") or "public"), str(table["table"])) for table in tables],
        doing=context.doing,
        before=before,
        after=lambda name: context.monitor.ended(pid),
    )
    context.save("done")


# --------------------------------------------------------------------------------------------------------------- revert


@dataclass(frozen=True)
class Reverts:
    """Which versions go: nothing set means the last one only.

    :ivar steps: the last so many.
    :ivar keep: every version after this one; this one stays applied.
    :ivar through: every version from the last down to this one, this one too.
    :ivar version: this one alone.
    """

    steps: int | None = None
    keep: str | None = None
    through: str | None = None
    version: str | None = None


def preview_revert(target: Target, selection: Reverts, *, run_id: str = "preview") -> dict[str, Any]:
    """Tell exactly what :func:`revert` would do, and write nothing.

    :return: ``versions`` (newest first, with what stays), ``remaining`` (how many stay applied), ``loss`` (see
        :func:`data_loss`), ``prepared`` (the SQL).
    :raises PgopsError: whatever would refuse the revert.
    """
    conn = connect(target, application_name=locks.application_name(run_id))
    try:
        found = ledger.read(conn)
        chosen = select_reverts(conn, found, selection)
        migrations = [_stored(conn, row) for row in chosen]
        return {
            "versions": [_revert_summary(row, migration) for row, migration in zip(chosen, migrations)],
            "loss": data_loss(conn, list(zip(chosen, migrations))),
            "remaining": len(found.in_state("applied", "applying", "failed", "reverting")) - len(chosen),
            "ledger_head": found.head,
            "prepared": "".join(text_down(conn, row, migration) for row, migration in zip(chosen, migrations)),
        }
    finally:
        conn.close()


def revert(target: Target, selection: Reverts, way: Way, *, versions: Sequence[str] | None = None) -> dict[str, Any]:
    """Revert versions, newest first, by the text that the ledger kept when they were applied; needs no files.

    Holds the runner lock of the database all the way.

    :param versions: the exact list that was shown and confirmed; refused when the selection now means another one.
    :return: ``reverted`` (each with duration in seconds and what stays), ``loss``, ``ledger_head``, ``audit``.
    :raises PgopsError: refused, failed, interrupted or out of patience; ``extra`` says what is reverted and what is not.
    """
    with _session(target, way) as session:
        conn = session.conn
        found = ledger.read(conn)
        chosen = select_reverts(conn, found, selection)
        if versions is not None and [row.version for row in chosen] != list(versions):
            raise PgopsError(
                f"Nothing was reverted in {target.database}: {', '.join(versions) or 'nothing'} was confirmed, and it would "
                f"be {', '.join(row.version for row in chosen) or 'nothing'} by now; look again and confirm that.",
                database=target.database,
                extra={"reason": "moved", "versions": [row.version for row in chosen]},
            )
        migrations = [_stored(conn, row) for row in chosen]
        loss = data_loss(conn, list(zip(chosen, migrations)))
        done: list[dict[str, Any]] = []
        if chosen:
            ledger.ensure(conn)
            ledger.start_run(conn, way.run)
            for number, (row, migration) in enumerate(zip(chosen, migrations)):
                done.append(_revert_one(session, row, migration, done, migrations[number + 1 :]))
            ledger.finish_run(conn, way.run.id, "reverted")
        return {
            "reverted": done,
            "loss": loss,
            "tables": _tables(migrations),
            "ledger_head": ledger.read(conn).head,
            "audit": ledger.audit_head(conn) if found.exists else None,
        }


def select_reverts(conn: Connection, found: ledger.Ledger, selection: Reverts) -> list[ledger.Migration]:
    """:return: the rows to revert, newest first.

    :raises PgopsError: a named version is not applied, an applied version depends on it, or one declares that it cannot
        be reverted.
    """
    database = str(conn.info.dbname)
    given = {name: value for name, value in vars(selection).items() if value is not None}
    if len(given) > 1:
        raise PgopsError(
            f"{' and '.join('rollback_' + name for name in given)} were given; give one of them.", database=database
        )
    there = sorted(
        found.in_state("applied", "applying", "failed", "reverting"), key=lambda row: row.version, reverse=True
    )
    named = selection.keep or selection.through or selection.version
    if named is not None and named not in [row.version for row in there]:
        row = found.get(named)
        raise PgopsError(
            f"Version {named} is not applied in {database}" + (f" (it is {row.state})." if row else "."),
            database=database,
            extra={"reason": "not_applied"},
        )
    if selection.steps is not None:
        if selection.steps < 1:
            raise PgopsError(f"rollback_steps is {selection.steps}; give 1 or more.", database=database)
        chosen = there[: selection.steps]
    elif selection.keep is not None:
        chosen = [row for row in there if row.version > selection.keep]
    elif selection.through is not None:
        chosen = [row for row in there if row.version >= selection.through]
    elif selection.version is not None:
        chosen = [row for row in there if row.version == selection.version]
    else:
        chosen = there[:1]
    going = {row.version for row in chosen}
    for row in chosen:
        migration = ledger.stored(conn, row.version)
        if (migration.get("rollback") or {}).get("safety") == "none" and _begun(row):
            stays = (migration.get("rollback") or {}).get("stays") or "it says so itself"
            raise PgopsError(
                f"Version {row.version} cannot be reverted by its down ({stays}); restore the backup instead: "
                "-e rollback_strategy=restore.",
                database=database,
                extra={"reason": "one_way", "version": row.version},
            )
        for other in there:
            if other.version in going or other.version == row.version:
                continue
            why = _depends(ledger.stored(conn, other.version), migration)
            if why:
                raise PgopsError(
                    f"Version {row.version} cannot be reverted alone in {database}: version {other.version} {why}; revert both "
                    f"with -e rollback_through={row.version}.",
                    database=database,
                    extra={"reason": "needed", "version": row.version, "needed_by": other.version},
                )
    return chosen


def data_loss(conn: Connection, chosen: Sequence[tuple[ledger.Migration, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Count what the way down destroys: rows of dropped tables, values of dropped columns.

    Reads whole tables under ACCESS SHARE; counts only, never contents.

    :return: per table ``{"table", "rows", "columns": {name: values that are not NULL}, "version"}``; ``rows`` is None
        where only columns or some rows go, and ``some_rows`` says that a statement deletes rows.
    """
    lost: dict[str, dict[str, Any]] = {}
    for row, migration in chosen:
        for number, step in enumerate(migration["steps"], 1):
            if not _needs_down(row, number):
                continue
            for statement in _down_statements(step):
                gone = statement.get("destroys")
                if not gone or gone["kind"] not in ("table", "column", "rows"):
                    continue
                schema, table = str(gone.get("schema") or "public"), str(gone.get("table") or gone["name"])
                if not fetch_one(
                    conn,
                    "SELECT 1 AS yes FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                    "WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'm')",
                    (schema, table),
                ):
                    continue
                entry = lost.setdefault(
                    f"{schema}.{table}",
                    {
                        "table": f"{schema}.{table}",
                        "rows": None,
                        "columns": {},
                        "some_rows": False,
                        "version": row.version,
                    },
                )
                if gone["kind"] == "table":
                    entry["rows"] = _count(conn, schema, table, sql.SQL("*"))
                elif gone["kind"] == "rows":
                    entry["some_rows"] = True
                elif existing.present(conn, [gone]):
                    entry["columns"][gone["name"]] = _count(conn, schema, table, sql.Identifier(str(gone["name"])))
    return [entry for entry in lost.values() if entry["rows"] or entry["some_rows"] or any(entry["columns"].values())]


def _count(conn: Connection, schema: str, table: str, what: sql.Composable) -> int:
    row = fetch_one(conn, sql.SQL("SELECT count({}) AS n FROM {}").format(what, sql.Identifier(schema, table)))
    return int(row["n"]) if row else 0


def _down_statements(step: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if step["kind"] == "sql":
        return list(step.get("down") or [])
    if step["kind"] == "backfill" and step.get("down"):
        return [step["down"]]
    return []


def _begun(row: ledger.Migration) -> bool:
    return row.state == "applied" or any(step.state == "done" or step.progress for step in row.steps)


def _needs_down(row: ledger.Migration, ordinal: int) -> bool:
    """Whether a step left anything that the way down must take back, and has not yet."""
    up = next((step for step in row.steps if step.ordinal == ordinal), None)
    down = next((step for step in row.down_steps if step.ordinal == ordinal), None)
    if row.state == "reverting" and down is not None and down.state == "done":
        return False
    # A step of SQL in one transaction that is not done left nothing; the others save progress as they go.
    return up is None or up.state == "done" or bool(up.progress)


def _depends(later: Mapping[str, Any], earlier: Mapping[str, Any]) -> str | None:
    if str(earlier["version"]) in [str(version) for version in later.get("depends_on") or []]:
        return "declares that it depends on it"
    if str(later["version"]) < str(earlier["version"]):
        return None
    tables, columns, types = set(), set(), set()
    for step in earlier["steps"]:
        for statement in step.get("up", []):
            made = statement.get("creates")
            if not made:
                continue
            schema = str(made.get("schema") or "public")
            if made["kind"] == "table":
                tables.add((schema, str(made["name"])))
            elif made["kind"] == "column":
                columns.add((schema, str(made["table"]), str(made["name"])))
            elif made["kind"] == "type":
                types.add(str(made["name"]))
    for table in _table_names([later]):
        if table in tables:
            return f"uses its table {'.'.join(table)}"
    for step in later["steps"]:
        for index in step.get("indexes", []):
            for column in index["columns"]:
                key = (str(index.get("schema") or "public"), str(index["table"]), str(column.get("column")))
                if key in columns:
                    return f"has an index on its column {'.'.join(key)}"
        for statement in step.get("up", []):
            for name in types:
                if f'"{name}"' in statement["sql"] or f" {name} " in statement["sql"]:
                    return f"uses its type {name}"
    return None


def _revert_one(
    session: _Session,
    row: ledger.Migration,
    migration: Mapping[str, Any],
    done: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    conn, run, version = session.conn, session.way.run, row.version
    steps: Sequence[Mapping[str, Any]] = migration["steps"]
    started = time.monotonic()
    ordinal = len(steps)
    left: list[str] = []
    try:
        session.way.control.check()
        with transaction(conn):
            ledger.begin_down(conn, version, steps, run)
            ledger.append_audit(conn, "revert_started", run_id=run.id, version=version, detail={"from": row.state})
        for ordinal in range(len(steps), 0, -1):
            session.way.control.check()
            past_down = next((step for step in row.down_steps if step.ordinal == ordinal), None)
            step = steps[ordinal - 1]
            context = _context(session, migration, "down", ordinal, str(step["kind"]), past_down)
            if not _needs_down(row, ordinal):
                context.save("done")
                continue
            past_up = next((item for item in row.steps if item.ordinal == ordinal), None)
            left += _step_down(context, migration, step, past_up.progress if past_up else {})
        duration = round(time.monotonic() - started, 3)
        with transaction(conn, _SURE_COMMIT):
            ledger.finish(conn, version, "reverted", 0.0)
            ledger.append_audit(
                conn, "reverted", run_id=run.id, version=version, detail={"duration_s": duration, "left": left}
            )
    except (PgopsError, psycopg2.Error) as exc:
        raise _stopped(session, migration, "reverting", ordinal, len(steps), exc, started, done, after) from None
    session.way.progress.emit(f"{version} {row.name}: reverted in {duration:.2f} s", database=session.target.database)
    return {**_revert_summary(row, migration), "duration_s": duration, "left": left}


def _step_down(
    context: StepContext, migration: Mapping[str, Any], step: Mapping[str, Any], made: Mapping[str, Any]
) -> list[str]:
    kind = step["kind"]
    if kind == "sql":
        return sql_step.run(context, step.get("down") or [], one_transaction=bool(migration.get("transaction", True)))
    if kind == "indexes":
        return indexes.down(context, step["indexes"], made)
    if kind == "validate":
        return constraints.down(context, step["constraints"], made, _constraints_of(migration))
    if kind == "backfill" and step.get("down"):
        backfill.run(context, step, step["down"])
        return []
    context.save("done")
    return []


def _constraints_of(migration: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    found = set()
    for step in migration["steps"]:
        for statement in step.get("up", []):
            made = statement.get("creates")
            if made and made["kind"] == "constraint":
                found.add((str(made.get("schema") or "public"), str(made["table"]), str(made["name"])))
    return found


# --------------------------------------------------------------------------------------------------------------- common


@contextmanager
def _session(target: Target, way: Way) -> Iterator[_Session]:
    """The session that works and holds the runner lock, and the monitor beside it; both closed at the end."""
    name = locks.application_name(way.run.id)

    def open_session() -> Connection:
        conn = connect(target, application_name=name)
        execute(conn, _LAZY_COMMITS)
        # A server on a system that cannot look at its sockets refuses it; there an orphan's statement runs to its end.
        with suppress(psycopg2.DataError):
            execute(conn, _NOTICE_DEATH)
        return conn

    def open_worker() -> Connection:
        conn = open_session()
        locks.join_run(conn)
        return conn

    conn = open_session()
    try:
        lock = RunnerLock(
            conn,
            wait_s=way.lock_wait_s,
            control=way.control,
            tell=lambda told: way.progress.emit(told, database=target.database),
            sleep=way.sleep,
        )
        with lock, Monitor(open_session, way.control, way.run.id) as monitor:
            yield _Session(target, way, conn, monitor, open_worker, _who(conn, way.run))
    finally:
        conn.close()


def _context(
    session: _Session,
    migration: Mapping[str, Any],
    direction: str,
    ordinal: int,
    kind: str,
    past: ledger.Step | None,
) -> StepContext:
    return StepContext(
        conn=session.conn,
        connect=session.connect,
        monitor=session.monitor,
        control=session.way.control,
        progress=session.way.progress,
        database=session.target.database,
        version=str(migration["version"]),
        direction=direction,
        ordinal=ordinal,
        steps=len(migration["steps"]),
        kind=kind,
        budgets=migration.get("budgets") or {},
        explained=session.explained,
        progress_so_far=dict(past.progress) if past else {},
        sleep=session.way.sleep,
    )


def _stopped(
    session: _Session,
    migration: Mapping[str, Any],
    state: str,
    ordinal: int,
    steps: int,
    exc: PgopsError | psycopg2.Error,
    started: float,
    done: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
) -> PgopsError:
    """Record where it stopped, as far as the server can still be reached. :return: the error to raise."""
    version, database = str(migration["version"]), session.target.database
    way = "up" if state == "failed" else "down"
    where = f"Step {ordinal} of {steps} of version {version}{'' if way == 'up' else ' on the way down'} in {database}"
    lost = bool(session.conn.closed)
    if isinstance(exc, PgopsError):
        error = exc
    else:
        error = from_psycopg(exc, f"{where} failed", database=database)
    control = session.way.control
    if control.reason is not None and (isinstance(exc, Interrupted) or error.sqlstate == errorcodes.QUERY_CANCELED):
        error = Interrupted(f"{where} was interrupted: {control.reason}.", database=database)
        error.extra["reason"] = "interrupted"
    elif lost or error.sqlstate in (errorcodes.ADMIN_SHUTDOWN, errorcodes.CRASH_SHUTDOWN):
        lost = True
        error = PgopsError(
            f"{where} broke off: the connection to {session.target} was lost.",
            sqlstate=error.sqlstate or errorcodes.CONNECTION_FAILURE,
            database=database,
            hint="What it had done is recorded; run it again when the server is back, it goes on at that step.",
            extra={"reason": "connection_lost"},
        )
    reason = str(error.extra.setdefault("reason", "failed"))
    done_name, rest_name = ("applied", "not_applied") if way == "up" else ("reverted", "not_reverted")
    rest = [version, *(str(item["version"]) for item in after)]
    finished = [str(item["version"]) for item in done]
    recorded = _record(session, version, state, ordinal, reason, error, time.monotonic() - started)
    error.extra.update(
        {
            "version": version,
            "step": ordinal,
            "steps": steps,
            done_name: finished,
            rest_name: rest,
            # The report has the seconds of what was done before, and of what was not done to its end.
            "partial": {
                done_name: [dict(item) for item in done],
                "stopped": [
                    {
                        "version": version,
                        "name": migration["name"],
                        "duration_s": round(time.monotonic() - started, 3),
                        "state": f"{reason} at step {ordinal} of {steps}",
                    }
                ],
            },
            "recorded": recorded is not None,
            "audit": recorded,
        }
    )
    error.database = database
    words = ("Applied", "not applied") if way == "up" else ("Reverted", "not reverted")
    error.message = (
        f"{error.message.rstrip('.')}. {words[0]} in this run: {', '.join(finished) or 'none'}; "
        f"{words[1]}: {version} (stopped at step {ordinal} of {steps})"
        + "".join(f", {item}" for item in rest[1:])
        + "."
    )
    error.args = (error.message,)
    return error


def _record(
    session: _Session, version: str, state: str, ordinal: int, reason: str, error: PgopsError, duration: float
) -> dict[str, Any] | None:
    """Write the failure down; where the server is gone it stays ``applying``, which the next run takes for the same."""
    run = session.way.run
    conn = session.conn
    opened: Connection | None = None
    try:
        if conn.closed:
            # The runner lock went with its session; who holds it by now may have gone on, and has the word.
            conn = opened = session.connect()
            RunnerLock(conn, wait_s=0.0).acquire()
        with transaction(conn, _SURE_COMMIT):
            ledger.fail(conn, version, state, ordinal, reason, error.message, round(duration, 3))
            head = ledger.append_audit(
                conn,
                reason,
                run_id=run.id,
                version=version,
                detail={"step": ordinal, "state": state, "sqlstate": error.sqlstate, "error": error.message},
            )
            ledger.finish_run(conn, run.id, reason)
        return head
    except (PgopsError, psycopg2.Error):
        return None
    finally:
        if opened is not None:
            opened.close()


def _who(conn: Connection, run: Run) -> str:
    if run.who:
        return run.who
    row = fetch_one(conn, "SELECT session_user::text AS who")
    return str(row["who"]) if row else "unknown"


def _stored(conn: Connection, row: ledger.Migration) -> dict[str, Any]:
    return ledger.stored(conn, row.version)


def _summary(migration: Mapping[str, Any], found: ledger.Ledger) -> dict[str, Any]:
    row = found.get(str(migration["version"]))
    resume_at = None
    if row is not None and row.state in ("applying", "failed"):
        undone = [step.ordinal for step in row.steps if step.state != "done"]
        resume_at = undone[0] if undone else len(row.steps)
    return {
        **{
            name: migration.get(name)
            for name in ("version", "name", "title", "why", "risk", "phi", "phase", "rollback")
        },
        "steps": [{"kind": step["kind"], "name": step.get("name")} for step in migration["steps"]],
        "resume_at": resume_at,
        "state": "resume" if resume_at else "pending",
    }


def _revert_summary(row: ledger.Migration, migration: Mapping[str, Any]) -> dict[str, Any]:
    rollback = migration.get("rollback") or {}
    return {
        "version": row.version,
        "name": row.name,
        "title": row.title,
        "state": row.state,
        "safety": rollback.get("safety"),
        "stays": rollback.get("stays") or "",
    }


def _table_names(migrations: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    names: list[tuple[str, str]] = []
    for migration in migrations:
        for step in migration["steps"]:
            found: list[tuple[str, str]] = []
            for statement in step.get("up", []):
                found += locks.tables_in(str(statement["sql"]))
            for item in [*step.get("indexes", []), *step.get("constraints", []), *step.get("tables", [])]:
                found.append((str(item.get("schema") or "public"), str(item["table"])))
            if step["kind"] == "backfill":
                found.append((str(step.get("schema") or "public"), str(step["table"])))
            names += [name for name in dict.fromkeys(found) if name not in names]
    return names


def _tables(migrations: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{schema}.{table}" for schema, table in _table_names(migrations)]


def text(conn: Connection, migration: Mapping[str, Any], row: ledger.Migration | None = None) -> str:
    """:return: the exact SQL of the way up, with a line of comment for each step; steps that are done are named only."""
    done = (
        {step.ordinal for step in row.steps if step.state == "done"}
        if row is not None and row.state in ("applying", "failed")
        else set()
    )
    lines = [f"-- {migration['version']} {migration['name']}: {migration.get('title') or ''}"]
    for ordinal, step in enumerate(migration["steps"], 1):
        lines.append(
            f"-- step {ordinal} of {len(migration['steps'])}: {step['kind']} {step.get('name') or ''}".rstrip()
        )
        lines += ["-- done already"] if ordinal in done else _step_text(conn, step)
    return "\n".join(lines) + "\n"


def _step_text(conn: Connection, step: Mapping[str, Any]) -> list[str]:
    kind = step["kind"]
    if kind == "sql":
        return ["BEGIN;", *(_terminated(statement) for statement in step["up"]), "COMMIT;"]
    if kind == "indexes":
        return [indexes.create_statement(index).as_string(conn) + ";" for index in step["indexes"]]
    if kind == "backfill":
        return [
            f"-- in batches of {step.get('batch_size') or backfill.DEFAULT_BATCH_SIZE} rows by key {step['key']}",
            _terminated(step["statement"]),
        ]
    if kind == "validate":
        return [constraints.validate_statement(item).as_string(conn) + ";" for item in step["constraints"]]
    return [
        sql.SQL("ANALYZE {};")
        .format(sql.Identifier(str(item.get("schema") or "public"), str(item["table"])))
        .as_string(conn)
        for item in step["tables"]
    ]


def text_down(conn: Connection, row: ledger.Migration, migration: Mapping[str, Any]) -> str:
    """:return: the exact SQL of the way down, steps in reverse order, as far as they left anything."""
    lines = [f"-- {row.version} {row.name}: way down"]
    made = _constraints_of(migration)
    for ordinal in range(len(migration["steps"]), 0, -1):
        step = migration["steps"][ordinal - 1]
        lines.append(
            f"-- step {ordinal} of {len(migration['steps'])}: {step['kind']} {step.get('name') or ''}".rstrip()
        )
        up = next((item for item in row.steps if item.ordinal == ordinal), None)
        if not _needs_down(row, ordinal):
            lines.append("-- nothing to take back")
        elif step["kind"] == "sql":
            lines += ["BEGIN;", *(_terminated(statement) for statement in step.get("down") or []), "COMMIT;"]
        elif step["kind"] == "indexes":
            built = set((up.progress if up else {}).get("built", []))
            for index in reversed(step["indexes"]):
                schema = str(index.get("schema") or "public")
                if f"{schema}.{index['name']}" in built:
                    lines.append(indexes.drop_statement(schema, index["name"]).as_string(conn) + ";")
        elif step["kind"] == "validate":
            validated = set((up.progress if up else {}).get("validated", []))
            for item in reversed(step["constraints"]):
                key = (str(item.get("schema") or "public"), str(item["table"]), str(item["constraint"]))
                if ".".join(key) in validated and key not in made:
                    lines.append(f"-- {'.'.join(key)} is marked as not validated again")
        elif step["kind"] == "backfill" and step.get("down"):
            lines += [f"-- in batches by key {step['key']}", _terminated(step["down"])]
        else:
            lines.append("-- nothing to take back")
    return "\n".join(lines) + "\n"


def _terminated(statement: Mapping[str, Any]) -> str:
    text_ = str(statement["sql"]).rstrip()
    return text_ if text_.endswith(";") else text_ + ";"
