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
from functools import partial, wraps
from typing import Any, TypeVar

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    adopted,
    backfill,
    begun_steps,
    catalog,
    constraints,
    dependents,
    duration_forecast,
    existing,
    indexes,
    label_refusal,
    labels,
    ledger,
    legacy_mirror,
    locks,
    made_again,
    mended_step,
    model_changes,
    quarantine,
    sql_step,
    states_before,
    taken_along,
    uncopied,
    way_back,
)
from ansible_collections.whitecross.pgops.plugins.module_utils import plan as planning
from ansible_collections.whitecross.pgops.plugins.module_utils.accepted_differences import Accepted
from ansible_collections.whitecross.pgops.plugins.module_utils.analyze_step import analyze_tables
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    KEEPALIVES_COUNT,
    KEEPALIVES_IDLE_S,
    KEEPALIVES_INTERVAL_S,
    TCP_USER_TIMEOUT_MS,
    Connection,
    Target,
    connect,
    execute,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError, as_pgops_error
from ansible_collections.whitecross.pgops.plugins.module_utils.index_builds import IndexBuilds
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import Run, transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import RunnerLock
from ansible_collections.whitecross.pgops.plugins.module_utils.lost_session import is_broken, is_lost
from ansible_collections.whitecross.pgops.plugins.module_utils.monitor import Monitor
from ansible_collections.whitecross.pgops.plugins.module_utils.preview import planned
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.reconnect import LATER, NotRegained, Reconnect
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import (
    constraints_made_by,
    needs_down,
    replacements,
    tables_of,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import Replacements, StepContext
from ansible_collections.whitecross.pgops.plugins.module_utils.step_watch import StepWatch
from ansible_collections.whitecross.pgops.plugins.module_utils.throttle import Limits
from ansible_collections.whitecross.pgops.plugins.module_utils.version_result import VersionResult, moment
from psycopg2 import errorcodes

# How soon the server notices that a killed module's socket is closed, and ends its statement. 14 and later.
_NOTICE_DEATH = "SET client_connection_check_interval = '1s'"
# A module that hangs between two statements, or whose network is gone, holds no lock for longer than this: the server ends it.
_NOTICE_SILENCE = "SET idle_in_transaction_session_timeout = '60s'"
_NOTICE_LOST_NETWORK = (
    f"SET tcp_keepalives_idle = {KEEPALIVES_IDLE_S}; SET tcp_keepalives_interval = {KEEPALIVES_INTERVAL_S}; "
    f"SET tcp_keepalives_count = {KEEPALIVES_COUNT}; SET tcp_user_timeout = {TCP_USER_TIMEOUT_MS}"
)
# The end of a version is on the disk before it is told; what comes before need not wait for the disk, commit by commit:
# a step and the ledger's row about it are one transaction, so a crash loses both or none, and the next run does it again.
_LAZY_COMMITS = "SET synchronous_commit = off"
_SURE_COMMIT = "SET LOCAL synchronous_commit = on"

T = TypeVar("T")

# Of a run with a backup, and of one whose environment makes none.
_SINCE_BACKUP = ("its backup was proved", "the backup fits what is changed")
_SINCE_PLAN = ("it was planned", "what is changed is what was shown")
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
    :ivar orphans: ``stop``, ``quarantine`` or ``placeholder``: what becomes of rows without a parent when a foreign key is added.
    :ivar rewrite_limit_mb: in the place of what the versions declare.
    :ivar statement_timeout_s: seconds, in the place of what the versions declare; ``lock_budget_s`` the same.
    :ivar on_a_copy: see :class:`StepContext`.
    :ivar builds: what index builds may take.
    :ivar throttle: what makes batches wait.
    :ivar terminate_idle_after_s: seconds after which a session that idles in a transaction and holds a lock that is needed is
        ended; None ends nobody.
    :ivar reconnect_s: seconds within which a run goes on in another session where its own is lost; 0 never.
    :ivar watch: is shown each session and each step; a rehearsal traces by it.
    """

    run: Run
    progress: Progress = field(default_factory=Progress)
    control: Control = field(default_factory=Control)
    lock_wait_s: float = 30.0
    orphans: str = "stop"
    rewrite_limit_mb: int | None = None
    statement_timeout_s: int | None = None
    lock_budget_s: int | None = None
    on_a_copy: bool = False
    builds: IndexBuilds = field(default_factory=IndexBuilds)
    throttle: Limits = field(default_factory=Limits)
    terminate_idle_after_s: float | None = None
    reconnect_s: float = 0.0
    watch: StepWatch | None = None
    sleep: Callable[[float], None] = time.sleep


@dataclass
class _Session:
    target: Target
    way: Way
    conn: Connection
    lock: RunnerLock
    reconnect: Reconnect
    monitor: Monitor
    connect: Callable[[], Connection]
    who: str
    explained: existing.Explained = frozenset()
    accepted: frozenset[str] = frozenset()
    replacements: Replacements = field(default_factory=dict)
    applied: frozenset[str] = frozenset()
    mirrored: frozenset[str] = frozenset()
    terminated: list[dict[str, Any]] = field(default_factory=list)
    copy: uncopied.Copy | None = None


# ---------------------------------------------------------------------------------------------------------------- apply


def apply(
    target: Target,
    migrations: Sequence[Mapping[str, Any]],
    selection: planning.Selection,
    way: Way,
    *,
    expected: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Apply what is pending, in order, and stop at the first failure.

    Holds the runner lock of the database all the way. With nothing pending it writes nothing. Where its session is lost it
    goes on in another one within ``way.reconnect_s``, with what it had planned and no more; see :class:`Reconnect`.

    :param migrations: the whole tree, rendered.
    :param expected: ``ledger_head``, ``catalog_fingerprint``, ``rendered_checksum`` as they were when the backup was
        taken; compared under the lock before the first write, keys that are missing are not compared.
    :return: ``applied`` (each with duration in seconds and what was skipped), ``tables``, ``model_changes``, ``ledger_head``,
        ``audit``, ``reconnected`` (each loss of the session that it went on after).
    :raises PgopsError: refused, failed, interrupted or out of patience; ``extra`` says what is applied and what is not.
    """
    with _session(target, way) as session:
        found, plan, shape = _steadily(
            session, lambda: _begun(session, migrations, selection, expected), f"The apply to {target.database}"
        )
        done: list[dict[str, Any]] = []
        for number, migration in enumerate(plan.pending):
            if str(migration["version"]) in plan.unneeded:
                where = f"The record of {migration['version']} in {target.database}"
                done.append(_steadily(session, partial(_record_unneeded, session, migration), where, done))
                continue
            row = found.get(str(migration["version"]))
            done.append(_apply_one(session, migration, row, done, plan.pending[number + 1 :]))

        def ended() -> dict[str, Any]:
            head, audit = found.head, None
            followed: list[dict[str, Any]] | None = []
            if plan.pending:
                ledger.finish_run(session.conn, way.run.id, "applied")
                followed = _followed(session.conn, shape)
                head = ledger.head(session.conn)
            if found.exists or plan.pending:
                audit = ledger.audit_head(session.conn)
            return {"model_changes": followed, "ledger_head": head, "audit": audit}

        with _told_if_lost(session, "applied", done):
            end = _steadily(session, ended, f"The end of the run in {target.database}", done)
        return {
            "applied": done,
            "later": plan.later,
            "waiting": plan.waiting,
            "tables": tables_of(plan.pending),
            "reconnected": session.reconnect.happened,
            "client_waits": session.monitor.client_waits(),
            **end,
        }


def _begun(
    session: _Session,
    migrations: Sequence[Mapping[str, Any]],
    selection: planning.Selection,
    expected: Mapping[str, str] | None,
) -> tuple[ledger.Ledger, planning.Plan, model_changes.Shape | None]:
    """What is to be applied, with the run in the ledger, and no version begun."""
    conn = session.conn
    found = ledger.read(conn)
    plan = planned(conn, found, migrations, selection)
    refuse_moved(conn, found, plan, expected, since=_SINCE_BACKUP if session.way.run.backup else _SINCE_PLAN)
    session.explained = existing.explained_by(migrations)
    session.accepted = Accepted.read(conn, found.migrations).words if plan.pending else frozenset()
    session.replacements = replacements(migrations)
    shape = None
    if plan.pending:
        shape = model_changes.read(conn)
        ledger.ensure(conn)
        ledger.start_run(conn, session.way.run)
        session.mirrored = legacy_mirror.versions(conn)
        session.reconnect.begun(conn, found)
    return found, plan, shape


def _steadily(
    session: _Session,
    work: Callable[[], T],
    where: str,
    done: Sequence[Mapping[str, Any]] = (),
    *,
    word: str = "applied",
) -> T:
    """Do what may be done again from its beginning, in another session where this one is lost.

    :raises psycopg2.Error: it was lost, and there is no other.
    """
    while True:
        try:
            return work()
        except (PgopsError, psycopg2.Error) as exc:
            if not session.reconnect.is_due(session.conn, exc):
                raise
            try:
                _go_on(session, where, done=done)
            except PgopsError as error:
                if done:
                    raise exc from None
                if isinstance(error, NotRegained):
                    error.message += f" Nothing was {word}."
                    error.args = (error.message,)
                raise


def _go_on(
    session: _Session,
    where: str,
    *,
    version: str | None = None,
    step: int | None = None,
    done: Sequence[Mapping[str, Any]] = (),
) -> ledger.Ledger:
    """See :meth:`Reconnect.again`. :return: the ledger as it is now."""
    applied = [str(item["version"]) for item in done]
    regained = session.reconnect.again(session.conn, where, version=version, step=step, done=applied)
    session.conn, session.lock = regained.conn, regained.lock
    return regained.found


def _gone_on(
    session: _Session,
    migration: Mapping[str, Any],
    direction: str,
    ordinal: int,
    exc: PgopsError | psycopg2.Error,
    done: Sequence[Mapping[str, Any]],
) -> ledger.Migration | None:
    """After a step that broke off: connect again where that is why.

    :return: the version as the ledger has it now, None where it does not.
    :raises PgopsError, psycopg2.Error: ``exc``, where the session was not lost; else why no other could go on.
    """
    if not session.reconnect.is_due(session.conn, exc):
        raise exc
    where, version = _where(session, migration, ordinal, direction), str(migration["version"])
    return _go_on(session, where, version=version, step=ordinal, done=done).get(version)


def _followed(conn: Connection, before: model_changes.Shape | None) -> list[dict[str, Any]] | None:
    after = model_changes.read(conn) if before is not None else None
    if before is None or after is None:
        return None
    return [change.as_dict() for change in model_changes.changes(before, after)]


def refuse_moved(
    conn: Connection,
    found: ledger.Ledger,
    plan: planning.Plan,
    expected: Mapping[str, str] | None,
    *,
    since: tuple[str, str] = _SINCE_BACKUP,
) -> None:
    """:param since: the moment of which ``expected`` is, in words, and why it is to be run again.
    :raises PgopsError: something is not as it was at that moment; names what moved."""
    _refuse_waiting(conn, plan, expected or {})
    if not expected or not plan.pending:
        return
    _refuse_moved(conn, found, planning.state(conn, found, plan), expected, "applied to", since)


def _refuse_waiting(conn: Connection, plan: planning.Plan, expected: Mapping[str, str]) -> None:
    """A client of the old shape came between the plan and the apply."""
    if plan.waiting and expected.get("rendered_checksum") not in (None, plan.rendered_checksum()):
        raise PgopsError(
            f"Nothing was applied to {conn.info.dbname}: {plan.waiting[0]['version']} was planned and has to wait by now, for "
            f"{plan.waiting[0]['why']}.",
            database=conn.info.dbname,
            extra={"reason": "waiting"},
        )


def _refuse_moved(
    conn: Connection,
    found: ledger.Ledger,
    now: Mapping[str, str],
    expected: Mapping[str, Any],
    done: str,
    since: tuple[str, str] = _SINCE_BACKUP,
) -> None:
    moved = [name for name in MOVED if name in now and expected.get(name) and expected[name] != now[name]]
    if not moved:
        return
    told = [MOVED[name] for name in moved]
    if "ledger_head" in moved:
        last = max(found.migrations, key=lambda row: row.finished_at or row.started_at or "", default=None)
        if last is not None:
            told[0] += f" (version {last.version} is {last.state} by run {last.run_id})"
    raise PgopsError(
        f"Nothing was {done} {conn.info.dbname}: since {since[0]}, {' and '.join(told)} moved; "
        f"run it again from the start, so that {since[1]}.",
        database=conn.info.dbname,
        extra={"reason": "moved", "moved": moved},
    )


def _backup_of(run: Run) -> dict[str, Any]:
    """What the audit says of the backup that was made before the change; nothing where the run made none."""
    return {"backup": dict(run.backup)} if run.backup else {}


def _record_unneeded(session: _Session, migration: Mapping[str, Any]) -> dict[str, Any]:
    """Write a repair as applied of which there is nothing to do. Its steps are not begun, so its way down does nothing."""
    conn, run, version = session.conn, session.way.run, str(migration["version"])
    told = "recorded and not run: what it repairs is whole here, and later versions are applied"
    beginning = ledger.begin_text(conn, migration, run, applied_by=session.who, resume=False, again=True)
    finish = ledger.finish_text(conn, version, "applied", 0.0)
    with transaction(conn, f"{_SURE_COMMIT}; {beginning}; {finish}"):
        detail = {"duration_s": 0.0, "unneeded": told, "checksum": migration["checksum"]}
        ledger.append_audit(conn, "applied", run_id=run.id, version=version, detail=detail)
    session.way.progress.emit(f"{version} {migration['name']}: {told}", database=session.target.database)
    return {**VersionResult(migration, False).as_dict(), "notes": [told], "terminated": []}


def _apply_one(
    session: _Session,
    migration: Mapping[str, Any],
    row: ledger.Migration | None,
    done: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    version = str(migration["version"])
    result = VersionResult(migration, row is not None and row.state in ("applying", "failed"))
    ended_before = len(session.terminated)
    while True:
        try:
            _apply_steps(session, migration, row, result)
            break
        except (PgopsError, psycopg2.Error) as exc:
            try:
                row = _gone_on(session, migration, "up", result.ordinal, exc, done)
            except (PgopsError, psycopg2.Error) as reason:
                raise _stopped(
                    session,
                    migration,
                    "failed",
                    result.ordinal,
                    len(migration["steps"]),
                    reason,
                    result.started,
                    done,
                    after,
                    result.so_far(),
                ) from None
            result.reconnected = True
    session.way.progress.emit(
        f"{version} {migration['name']}: applied in {result.duration_s:.2f} s", database=session.target.database
    )
    return {**result.as_dict(), "terminated": session.terminated[ended_before:]}


def _apply_steps(
    session: _Session, migration: Mapping[str, Any], row: ledger.Migration | None, result: VersionResult
) -> None:
    """From where the ledger says that it is to its end, in the session in hand."""
    conn, run, version = session.conn, session.way.run, str(migration["version"])
    if result.reconnected and row is not None and row.state == "applied":
        for finished in row.steps:
            result.done_already(finished)
        result.duration_s = round(row.duration_s, 3)
        return
    resume = row is not None and row.state in ("applying", "failed")
    known = {step.ordinal: step for step in row.steps} if row is not None and resume else {}
    steps: Sequence[Mapping[str, Any]] = migration["steps"]
    undone = [number for number in range(1, len(steps) + 1) if number not in known or known[number].state != "done"]
    result.ordinal = undone[0] if undone else len(steps)
    session.way.control.check()
    again: dict[int, ledger.Step] = {}
    if known:
        kind = str(steps[result.ordinal - 1]["kind"])
        context = _context(session, migration, "up", result.ordinal, kind, known.get(result.ordinal))
        again = mended_step.looked_again(context, known.values(), ledger.stored(conn, version), migration)
        known |= again
    if result.expected_s is None:
        result.expected_s, _ = duration_forecast.forecast(conn, migration)
    beginning = ledger.begin_text(
        conn, migration, run, applied_by=session.who, resume=resume, again=row is not None and not resume
    )
    beginning = "; ".join(
        [beginning, *(ledger.step_progress_text(conn, version, "up", step) for step in again.values())]
    )
    with transaction(conn, beginning):
        ledger.append_audit(
            conn,
            "apply_resumed" if resume else "apply_started",
            run_id=run.id,
            version=version,
            detail={
                "checksum": migration["checksum"],
                "rendered_checksum": migration["rendered_checksum"],
                **_replaced(row, migration, resume),
                **_backup_of(run),
            },
        )
    for ordinal, step in enumerate(steps, 1):
        past = known.get(ordinal)
        if past is not None and past.state == "done":
            result.done_already(past)
            continue
        result.ordinal = ordinal
        session.way.control.check()
        context = _context(session, migration, "up", ordinal, str(step["kind"]), past)
        result.begin(context)
        result.done(_step_up(context, migration, step))
    result.duration_s = round(time.monotonic() - result.started, 3)
    with transaction(conn, f"{_SURE_COMMIT}; {ledger.finish_text(conn, version, 'applied', result.duration_s)}"):
        if version in session.mirrored:
            legacy_mirror.applied(conn, version)
        ledger.append_audit(
            conn,
            "applied",
            run_id=run.id,
            version=version,
            detail={"duration_s": result.duration_s, "skipped": result.skipped, **result.settled},
        )


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
        context.placeholders = {item["constraint"]: item["row"] for item in step.get("placeholders") or []}
        return sql_step.run(
            context,
            step["up"],
            one_transaction=bool(migration.get("transaction", True)),
            down=step.get("down") or [],
            states=states_before.up(migration, context.ordinal),
        )
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
    analyze_tables(context, [(str(table.get("schema") or "public"), str(table["table"])) for table in tables])
    context.save("done")


# --------------------------------------------------------------------------------------------------------------- revert


def revert(
    target: Target,
    selection: way_back.Reverts,
    way: Way,
    *,
    versions: Sequence[str] | None = None,
    expected: Mapping[str, Any] | None = None,
    lose_writes: bool = False,
) -> dict[str, Any]:
    """Revert versions, newest first, by the text that the ledger kept when they were applied; needs no files.

    Holds the runner lock of the database all the way.

    :param versions: the exact list that was shown and confirmed; refused when the selection now means another one.
    :param expected: the database when its backup was taken: ``ledger_head``, ``catalog_fingerprint``, ``snapshot`` (``xmax``
        and ``xip``), ``path``. Refused when something moved since, or rows were written since that would go; each step looks for
        these again under the lock of its drop.
    :param lose_writes: let rows go that were written since the backup, of which there is no copy.
    :return: ``reverted`` (each with duration in seconds, what stays and what was gone already), ``loss``, ``model_changes``, ``ledger_head``, ``audit``.
    :raises PgopsError: refused, failed, interrupted or out of patience; ``extra`` says what is reverted and what is not.
    """
    with _session(target, way, "down") as session:
        found, chosen, migrations, loss = _steadily(
            session,
            lambda: _chosen(session, selection, versions, expected, lose_writes),
            f"The revert in {target.database}",
            word="reverted",
        )
        if expected and expected.get("snapshot") and not lose_writes:
            session.copy = uncopied.Copy(expected["snapshot"], _path_of(expected))
        done: list[dict[str, Any]] = []
        shape = None
        if chosen:
            conn = session.conn
            shape = model_changes.read(conn)
            ledger.ensure(conn)
            ledger.start_run(conn, way.run)
            session.reconnect.begun(conn, found)
            session.mirrored = legacy_mirror.versions(conn)
            there = way_back.standing(conn, found)
            looks = (
                taken_along.TakenAlong(list(zip(chosen, migrations)), there, found),
                dependents.Dependents(list(zip(chosen, migrations)), there),
            )
            for number, (row, migration) in enumerate(zip(chosen, migrations)):
                _refuse(session, row, migration, done, chosen[number:], looks)
                there.pop(row.version)
                session.applied = frozenset(there)
                session.replacements = replacements([item for key, item in there.items() if key > row.version])
                done.append(_revert_one(session, row, migration, done, migrations[number + 1 :]))

        def ended() -> dict[str, Any]:
            followed: list[dict[str, Any]] | None = []
            if chosen:
                ledger.finish_run(session.conn, way.run.id, "reverted")
                followed = _followed(session.conn, shape)
            return {
                "model_changes": followed,
                "ledger_head": ledger.head(session.conn) if chosen else found.head,
                "audit": ledger.audit_head(session.conn) if found.exists else None,
            }

        with _told_if_lost(session, "reverted", done):
            end = _steadily(session, ended, f"The end of the revert in {target.database}", done, word="reverted")
        return {
            "reverted": done,
            "loss": loss,
            "tables": tables_of(migrations),
            "reconnected": session.reconnect.happened,
            "client_waits": session.monitor.client_waits(),
            **end,
        }


def _chosen(
    session: _Session,
    selection: way_back.Reverts,
    versions: Sequence[str] | None,
    expected: Mapping[str, Any] | None,
    lose_writes: bool,
) -> tuple[ledger.Ledger, list[ledger.Migration], list[dict[str, Any]], list[dict[str, Any]]]:
    """:return: the ledger, the versions that go, their stored text, and what data goes with them. Writes nothing."""
    conn, database = session.conn, session.target.database
    found = ledger.read(conn)
    chosen = way_back.select_reverts(conn, found, selection)
    if versions is not None and [row.version for row in chosen] != list(versions):
        raise PgopsError(
            f"Nothing was reverted in {database}: {', '.join(versions) or 'nothing'} was confirmed, and it would "
            f"be {', '.join(row.version for row in chosen) or 'nothing'} by now; look again and confirm that.",
            database=database,
            extra={"reason": "moved", "versions": [row.version for row in chosen]},
        )
    migrations = ledger.all_stored(conn, [row.version for row in chosen])
    loss = way_back.data_loss(conn, list(zip(chosen, migrations)), (expected or {}).get("snapshot"))
    if chosen and expected:
        now = {"ledger_head": found.head, "catalog_fingerprint": catalog.fingerprint(catalog.inventory(conn))}
        _refuse_moved(conn, found, now, expected, "reverted in")
        if not lose_writes:
            _refuse_uncopied(database, loss, _path_of(expected))
    return found, chosen, migrations, loss


def _path_of(expected: Mapping[str, Any]) -> str:
    return str(expected.get("path") or "the backup")


def _refuse_uncopied(database: str, loss: Sequence[Mapping[str, Any]], backup: str) -> None:
    written = [f"{entry['written']} of {entry['table']}" for entry in loss if entry.get("written")]
    if written:
        raise PgopsError(
            f"Nothing was reverted in {database}: rows that would go were written since {backup} was taken, so there is no "
            f"copy of them: {', '.join(written)}. Stop what writes there and type it again, it takes a new backup; or "
            "let them go with -e rollback_lose_writes=true.",
            database=database,
            extra={"reason": "written_since", "loss": [dict(entry) for entry in loss]},
        )


def _in_another_where_lost(look: Callable[..., None]) -> Callable[..., None]:
    """Look again, at the same, where the session is lost over it."""

    @wraps(look)
    def steadily(session: _Session, row: ledger.Migration, migration: Any, done: Any, rest: Any, *more: Any) -> None:
        while True:
            try:
                return look(session, row, migration, done, rest, *more)
            except (PgopsError, psycopg2.Error) as exc:
                if not session.reconnect.is_due(session.conn, exc):
                    raise
            try:
                _go_on(session, f"The look before version {row.version} goes in {session.target.database}", done=done)
            except PgopsError as error:
                error.extra |= _half_way_down(done, rest)
                raise

    return steadily


def _half_way_down(done: Sequence[Mapping[str, Any]], rest: Sequence[ledger.Migration]) -> dict[str, Any]:
    return {
        "reverted": [item["version"] for item in done],
        "not_reverted": [item.version for item in rest],
        "partial": {"reverted": [dict(item) for item in done]},
    }


@_in_another_where_lost
def _refuse(
    session: _Session,
    row: ledger.Migration,
    migration: Mapping[str, Any],
    done: Sequence[Mapping[str, Any]],
    rest: Sequence[ledger.Migration],
    looks: Sequence[taken_along.TakenAlong | dependents.Dependents],
) -> None:
    """Before its first write, since a refusal is no half way down; newer versions of the same run are gone by then."""
    asked = {**migration, "budgets": _budgets(session.way, migration)}
    try:
        adopted.refuse_revert(session.conn, [(row, migration)])
        label_refusal.refuse_revert(session.conn, [(row, asked)], session.way.rewrite_limit_mb)
        quarantine.refuse_revert(session.conn, [(row, asked)])
        for look in looks:
            look.refuse(session.conn, row.version if done else None)
    except PgopsError as error:
        with transaction(session.conn, _SURE_COMMIT):
            ledger.finish_run(session.conn, session.way.run.id, "refused")
        error.extra |= _half_way_down(done, rest)
        raise


def _revert_one(
    session: _Session,
    row: ledger.Migration,
    migration: Mapping[str, Any],
    done: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    version, back = row.version, _WayDown(len(migration["steps"]))
    ended_before = len(session.terminated)
    now = row
    while True:
        try:
            _revert_steps(session, migration, now, back)
            break
        except (PgopsError, psycopg2.Error) as exc:
            try:
                found = _gone_on(session, migration, "down", back.ordinal, exc, done)
            except (PgopsError, psycopg2.Error) as reason:
                raise _stopped(
                    session,
                    migration,
                    "reverting",
                    back.ordinal,
                    len(migration["steps"]),
                    reason,
                    back.started,
                    done,
                    after,
                    back.so_far(),
                ) from None
            # A version that the ledger has lost is refused by then: it is not as this run left it.
            assert found is not None
            now = found
            back.lost.add(back.ordinal)
    session.way.progress.emit(
        f"{version} {row.name}: reverted in {back.duration_s:.2f} s", database=session.target.database
    )
    return {
        **way_back.summary(row, migration),
        "state": "reverted",
        "duration_s": back.duration_s,
        **back.told(),
        **back.so_far(),
        "terminated": session.terminated[ended_before:],
    }


@dataclass
class _WayDown:
    """How far a version is on its way down, over all sessions that it takes.

    :ivar lost: the steps that a session was lost in; what is gone there is our own doing.
    """

    ordinal: int
    left: list[str] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    started: float = field(default_factory=time.monotonic)
    duration_s: float = 0.0
    _begun: dict[int, float] = field(default_factory=dict)
    _began_at: dict[int, str] = field(default_factory=dict)
    _timed: dict[int, dict[str, Any]] = field(default_factory=dict)

    def begin(self, ordinal: int) -> None:
        """A step is begun, or gone on with in another session."""
        self.ordinal = ordinal
        self._begun.setdefault(ordinal, time.monotonic())
        self._began_at.setdefault(ordinal, moment())

    def done(self, step: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
        """The step in hand is done."""
        seconds = round(time.monotonic() - self._begun[self.ordinal], 3)
        told = {"step": self.ordinal, "kind": step["kind"], "name": step.get("name")}
        timed = {"started": self._began_at[self.ordinal], "duration_s": seconds}
        self._timed.setdefault(self.ordinal, {**told, **timed, **outcome})

    def so_far(self) -> dict[str, Any]:
        """:return: the seconds of the steps that went, in their order, for the version's entry in the run's result."""
        return {"step_durations": list(self._timed.values())}

    def told(self) -> dict[str, Any]:
        # A step that waited for its locks looked more than once.
        return {"left": self.left, "already": list(dict.fromkeys(self.already))}


def _revert_steps(session: _Session, migration: Mapping[str, Any], row: ledger.Migration, back: _WayDown) -> None:
    """From where the ledger says that it is to its end, in the session in hand."""
    conn, run, version = session.conn, session.way.run, row.version
    steps: Sequence[Mapping[str, Any]] = migration["steps"]
    if not back.lost or row.state != "reverted":
        session.way.control.check()
        with transaction(conn, ledger.begin_down_text(conn, version, steps, run)):
            asked = {"from": row.state, **_backup_of(run), **({"reason": run.why} if run.why else {})}
            ledger.append_audit(conn, "revert_started", run_id=run.id, version=version, detail=asked)
        for ordinal in range(len(steps), 0, -1):
            back.begin(ordinal)
            session.way.control.check()
            past_down = next((step for step in row.down_steps if step.ordinal == ordinal), None)
            step = steps[ordinal - 1]
            context = _context(session, migration, "down", ordinal, str(step["kind"]), past_down)
            context.already = [] if ordinal in back.lost else back.already
            if not needs_down(row, ordinal):
                context.save("done")
                if ordinal in back.lost:
                    # Its COMMIT came through, and its answer did not.
                    back.done(step, {})
                continue
            past_up = next((item for item in row.steps if item.ordinal == ordinal), None)
            back.left += _step_down(context, migration, step, past_up.progress if past_up else {}, row)
            back.done(step, context.outcome)
    back.duration_s = round(time.monotonic() - back.started, 3)
    if back.lost and row.state == "reverted":
        return
    with transaction(conn, f"{_SURE_COMMIT}; {ledger.finish_text(conn, version, 'reverted', 0.0)}"):
        if version in session.mirrored:
            legacy_mirror.reverted(conn, version)
        detail = {"duration_s": back.duration_s, **back.told()}
        ledger.append_audit(conn, "reverted", run_id=run.id, version=version, detail=detail)


def _step_down(
    context: StepContext,
    migration: Mapping[str, Any],
    step: Mapping[str, Any],
    made: Mapping[str, Any],
    row: ledger.Migration,
) -> list[str]:
    kind = step["kind"]
    if kind == "sql" and step.get("labels"):
        return labels.down(context, step, made)
    if kind == "sql":
        return sql_step.run(
            context,
            step.get("down") or [],
            one_transaction=bool(migration.get("transaction", True)),
            made=made,
            states=states_before.down(migration, row),
            again=made_again.of(migration, step, sql_step.there_before(made), made),
        )
    if kind == "indexes":
        return indexes.down(context, step["indexes"], made)
    if kind == "validate":
        return constraints.down(context, step["constraints"], made, constraints_made_by(migration))
    if kind == "backfill" and step.get("down"):
        backfill.run(context, step, step["down"])
        return []
    if step.get("irreversible"):
        context.save("done")
        return [f"what {step.get('name') or 'a backfill'} changed: {step['irreversible']}"]
    context.save("done")
    return []


# --------------------------------------------------------------------------------------------------------------- common


@contextmanager
def _closed_unless_ready(conn: Connection) -> Iterator[None]:
    """A session that fails before anybody has it is closed at once, and keeps no place on the server."""
    try:
        yield
    except BaseException:
        conn.close()
        raise


@contextmanager
def _session(target: Target, way: Way, direction: str = "up") -> Iterator[_Session]:
    """The session that works and holds the runner lock, and the monitor beside it; both closed at the end."""
    name = locks.application_name(way.run.id)

    def open_session(connect_s: int | None = None) -> Connection:
        conn = connect(target.with_(connect_timeout=connect_s or target.connect_timeout), application_name=name)
        with _closed_unless_ready(conn):
            execute(conn, f"{_LAZY_COMMITS}; {_NOTICE_SILENCE}; {_NOTICE_LOST_NETWORK}")
            # A server on a system that cannot look at its sockets refuses it; there an orphan's statement runs to its end.
            with suppress(psycopg2.DataError):
                execute(conn, _NOTICE_DEATH)
        return conn

    def open_worker() -> Connection:
        conn = open_session()
        with _closed_unless_ready(conn):
            locks.join_run(conn)
            if way.watch:
                way.watch.session(conn)
        return conn

    def tell(told: str) -> None:
        way.progress.emit(told, database=target.database)

    conn = open_session()
    session: _Session | None = None
    try:
        lock = RunnerLock(conn, wait_s=way.lock_wait_s, control=way.control, tell=tell, sleep=way.sleep)
        again = Reconnect(
            target, way.run, open_session, way.reconnect_s, way.control, tell, way.sleep, direction=direction
        )
        with lock, Monitor(open_session, way.control, way.run.id) as monitor:
            session = _Session(target, way, conn, lock, again, monitor, open_worker, _who(conn, way.run))
            if way.watch:
                way.watch.session(conn)
            try:
                yield session
            finally:
                if session.lock is not lock:
                    session.lock.release()
    finally:
        conn.close()
        if session is not None:
            session.conn.close()


@contextmanager
def _told_if_lost(session: _Session, word: str, done: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """After the last version nothing can fail but the connection; what is done is on the disk, and said."""
    try:
        yield
    except psycopg2.Error as exc:
        if not done:
            raise
        versions = [str(item["version"]) for item in done]
        rest = "not_applied" if word == "applied" else "not_reverted"
        raise PgopsError(
            f"All is {word} in {session.target.database} and recorded, but the connection to {session.target} was lost before the "
            f"run's end was. {word.capitalize()} in this run: {', '.join(versions)}.",
            sqlstate=exc.pgcode or errorcodes.CONNECTION_FAILURE,
            database=session.target.database,
            hint="Run it again when the server is back: it finds nothing left to do.",
            extra={
                "reason": "connection_lost",
                word: versions,
                rest: [],
                "partial": {
                    word: [dict(item) for item in done],
                    "stopped": [],
                    "reconnected": list(session.reconnect.happened),
                    "client_waits": session.monitor.client_waits(),
                },
                "recorded": True,
            },
        ) from None


def _context(
    session: _Session,
    migration: Mapping[str, Any],
    direction: str,
    ordinal: int,
    kind: str,
    past: ledger.Step | None,
) -> StepContext:
    context = StepContext(
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
        budgets=_budgets(session.way, migration),
        explained=session.explained,
        accepted=session.accepted,
        replacements=session.replacements,
        applied=session.applied,
        on_a_copy=session.way.on_a_copy,
        copy=session.copy if direction == "down" else None,
        progress_so_far=dict(past.progress) if past else {},
        orphans=session.way.orphans,
        builds=session.way.builds,
        throttle=session.way.throttle,
        run_id=session.way.run.id,
        terminate_idle_after_s=session.way.terminate_idle_after_s,
        terminated=session.terminated,
        sleep=session.way.sleep,
    )
    if session.way.watch:
        session.way.watch.step(context, migration["steps"][ordinal - 1])
    return context


def _budgets(way: Way, migration: Mapping[str, Any]) -> dict[str, int]:
    given = {
        "rewrite_limit_mb": way.rewrite_limit_mb,
        "statement_timeout_s": way.statement_timeout_s,
        "lock_budget_s": way.lock_budget_s,
        "index_timeout_s": way.builds.timeout_s,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    return {**(migration.get("budgets") or {}), **asked}


def _where(session: _Session, migration: Mapping[str, Any], ordinal: int, way: str = "up") -> str:
    down = "" if way == "up" else " on the way down"
    return f"Step {ordinal} of {len(migration['steps'])} of version {migration['version']}{down} in {session.target.database}"


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
    so_far: Mapping[str, Any],
) -> PgopsError:
    """Record where it stopped, as far as the server can still be reached.

    :param so_far: what is done of the version, for its entry in the run's result.
    :return: the error to raise.
    """
    version, database = str(migration["version"]), session.target.database
    way = "up" if state == "failed" else "down"
    where = _where(session, migration, ordinal, way)
    error = as_pgops_error(exc, f"{where} failed", database=database)
    control = session.way.control
    if control.reason is not None and (isinstance(exc, Interrupted) or error.sqlstate == errorcodes.QUERY_CANCELED):
        error = Interrupted(f"{where} was interrupted: {control.reason}.", database=database)
        error.extra["reason"] = "interrupted"
    elif not isinstance(exc, NotRegained) and is_lost(session.conn, exc):
        error = PgopsError(
            f"{where} broke off: the connection to {session.target} was lost.",
            sqlstate=error.sqlstate or errorcodes.CONNECTION_FAILURE,
            database=database,
            hint=LATER,
            extra={"reason": "connection_lost"},
        )
    reason = str(error.extra.setdefault("reason", "failed"))
    ended = [item for one in done for item in one.get("terminated") or []]
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
                        "terminated": [item for item in session.terminated if item not in ended],
                        **so_far,
                    }
                ],
                "reconnected": list(session.reconnect.happened),
                "client_waits": session.monitor.client_waits(),
            },
            "recorded": recorded is not None,
            "audit": recorded,
        }
    )
    error.database = database
    words = ("Applied", "not applied") if way == "up" else ("Reverted", "not reverted")
    far, stays = _half_done(session, migration, way, ordinal) if steps else ("", "")
    error.message = (
        f"{error.message.rstrip('.')}. {words[0]} in this run: {', '.join(finished) or 'none'}; "
        f"{words[1]}: {version} (stopped at step {ordinal} of {steps}{far})"
        + "".join(f", {item}" for item in rest[1:])
        + "."
        # What was only cut off has nothing to mend.
        + (stays if way == "up" and reason == "failed" else "")
    )
    error.args = (error.message,)
    return error


def _half_done(session: _Session, migration: Mapping[str, Any], way: str, ordinal: int) -> tuple[str, str]:
    """:return: how far the step is that has stopped, and what of its text must stay, in words; nothing where nobody can tell."""
    try:
        found = None if is_broken(session.conn) else ledger.read(session.conn).get(str(migration["version"]))
    except (PgopsError, psycopg2.Error):
        return "", ""
    steps = (found.steps if way == "up" else found.down_steps) if found else []
    step = next((one for one in steps if one.ordinal == ordinal), None)
    if step is None:
        return "", ""
    return begun_steps.how_far(step, len(migration["steps"][ordinal - 1].get(way) or [])), begun_steps.what_must_stay(
        step
    )


def _record(
    session: _Session, version: str, state: str, ordinal: int, reason: str, error: PgopsError, duration: float
) -> dict[str, Any] | None:
    """Write the failure down; where the server is gone it stays ``applying``, which the next run takes for the same."""
    run = session.way.run
    conn = session.conn
    opened: Connection | None = None
    try:
        if is_broken(conn):
            # The runner lock went with its session; who holds it by now may have gone on, and has the word.
            conn = opened = session.connect()
            RunnerLock(conn, wait_s=0.0).acquire()
        with transaction(conn, _SURE_COMMIT):
            # Its last COMMIT may have come through without an answer, or another run have gone on.
            if opened is None or ledger.is_in_hand(conn, version, run.id):
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
