# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A step that changes many rows: keyset batches, each a transaction with the ledger's word on how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import keyset
from ansible_collections.whitecross.pgops.plugins.module_utils.batch_size import BatchSize
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import execute, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.existing import location
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.sql_step import statement_error
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import DEFAULT_BATCH_SIZE
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from ansible_collections.whitecross.pgops.plugins.module_utils.throttle import Throttle
from psycopg2 import errorcodes, sql

# Of the rows that are behind it when it comes to its end, those are done again that its own query still counts.
PASSES = 2

# Each batch is planned for its keys: a plan for any keys would take a part of the table for a batch. A row comparison
# is estimated by its first column alone, so with a key of several columns the planner takes the whole table for near.
_PLANNED = "SET LOCAL plan_cache_mode = force_custom_plan"
_BY_INDEX = "; SET LOCAL enable_seqscan = off"

# A worker that is cut off between two statements of a batch leaves its rows locked; so long at most.
IDLE_S = 5

# What this session did since it last reported to the statistics, whatever clients do meanwhile. It reports between two
# transactions, at the latest after each batch since it is told to: so this is the batch's own. 0 where nobody counts
# (track_counts).
_REPORT = "SELECT pg_stat_force_next_flush()"
_REMOVED = "SELECT pg_stat_get_xact_tuples_deleted(%(oid)s) AS n, pg_stat_force_next_flush()"
_REMOVED_OF_PARTITIONS = """
SELECT coalesce(sum(pg_stat_get_xact_tuples_deleted(part)), 0) AS n, pg_stat_force_next_flush()
  FROM (SELECT %(oid)s::oid UNION SELECT relid FROM pg_partition_tree(%(oid)s)) AS parts(part)
"""

# Of a statement whose only condition is the keys: a row that was there before its transaction, by the oldest one that was
# under way then, and still has the version of then.
_NOTE_BEFORE = "SELECT set_config('pgops.before', pg_snapshot_xmin(pg_current_snapshot())::text, true)"
_AS_BEFORE = "age(t.xmin) > age(current_setting('pgops.before')::xid8::xid)"

T = TypeVar("T")


@dataclass
class _Walk:
    """How far the walk over the table is; the ledger has the same."""

    last: list[str] | None = None
    changed: int = 0
    seen: int = 0
    total: int = 0
    batches: int = 0
    more: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_ledger(cls, progress: Mapping[str, Any]) -> _Walk:
        last = progress.get("last")
        return cls(
            [last] if isinstance(last, str) else last,
            int(progress.get("rows", 0)),
            int(progress.get("seen", 0)),
            batches=int(progress.get("batches", 0)),
            more={name: progress[name] for name in ("remaining_before", "pass") if name in progress},
        )

    def to_ledger(self, size: int) -> dict[str, Any]:
        last = self.last[0] if self.last is not None and len(self.last) == 1 else self.last
        return {
            "last": last,
            "rows": self.changed,
            "seen": self.seen,
            "total": max(self.total, self.seen),
            "batches": self.batches,
            "size": size,
            **self.more,
        }


def run(context: StepContext, step: Mapping[str, Any], statement: Mapping[str, Any]) -> int:
    """Run the statement over the whole table, batch by batch, from where an earlier attempt stopped.

    Rows that come into being behind the keys that are done are not seen: a default or a trigger must care for new rows,
    and ``remaining`` counts what is left. Takes row locks of one batch at a time, under lock_timeout with retries, and
    none between two. The size follows :class:`BatchSize`, the pauses :class:`Throttle`.

    :param statement: uses ``$1`` to ``$n``, the first key of a batch, and ``$n+1`` to ``$2n``, the last one, both
        inclusive, for a key of n columns.
    :return: rows changed, over all attempts.
    :raises PgopsError: the key is not fit (nullable, no index), a batch failed, removed rows, changed others than its own or
        left some of its own, rows are left; earlier batches stay done.
    """
    schema, table = str(step.get("schema") or "public"), str(step["table"])
    walked = keyset.find(
        context.conn, schema, table, keyset.columns_of(step), doing=context.doing, database=context.database
    )
    walk = _Walk.from_ledger(context.progress_so_far)
    first, fixed = int(step.get("batch_size") or DEFAULT_BATCH_SIZE), step.get("adapt") is False
    size = BatchSize(
        first if fixed else int(context.progress_so_far.get("size") or first),
        context.budget("batch_target_ms") / 1000,
        fixed=fixed,
    )
    throttle = Throttle(
        context.conn,
        context.throttle,
        tell=lambda told: context.tell(f"backfilling {walked.full} {told}"),
        check=context.control.check,
        sleep=context.sleep,
    )
    remaining = step.get("remaining") if context.direction == "up" else None
    left = _left(context, remaining)
    if left is not None:
        walk.more.setdefault("remaining_before", left)
    if left != 0:
        walk.total = _asked(context, lambda: walked.count(context.conn))
        _prepare(context, walked, statement)
        try:
            _through(context, step, statement, walked, walk, size, throttle)
            left = _left(context, remaining)
            while left and int(walk.more.get("pass", 1)) < PASSES:
                # Rows that came behind the keys while it went through.
                context.tell(f"backfilling {walked.full} once more, for {left} rows that came meanwhile")
                walk.more["pass"] = int(walk.more.get("pass", 1)) + 1
                walk.last, walk.seen = None, 0
                context.save("running", walk.to_ledger(size.rows))
                _through(context, step, statement, walked, walk, size, throttle)
                left = _left(context, remaining)
        finally:
            if not context.conn.closed:
                execute(context.conn, "DEALLOCATE pgops_backfill")
    if left and remaining:
        walk.last, walk.seen, walk.more = None, 0, {}
        context.save("running", walk.to_ledger(size.rows))
        raise PgopsError(
            f"{context.doing} went through {walked.full}, and the query at {location(remaining)} still counts {left} rows; "
            "what it changed stays",
            database=context.database,
            object_name=walked.full,
            hint="See why the statement leaves them or who writes them anew, then run it again: it goes through the table again.",
            extra={"remaining": left},
        )
    walk.total = walk.seen
    if left is not None:
        walk.more["remaining"] = left
    told = throttle.summary()
    context.outcome.update(
        rows=walk.changed,
        walked=walk.seen,
        batches=walk.batches,
        batch_size=size.rows,
        **{name: walk.more[name] for name in ("remaining_before", "remaining") if name in walk.more},
        **({"throttle": told} if told else {}),
    )
    # A key may be a name, and nobody goes on behind it any more.
    walk.last = None
    context.save("done", {**walk.to_ledger(size.rows), **({"throttle": told} if told else {})})
    return walk.changed


def _through(
    context: StepContext,
    step: Mapping[str, Any],
    statement: Mapping[str, Any],
    walked: keyset.Keyset,
    walk: _Walk,
    size: BatchSize,
    throttle: Throttle,
) -> None:
    """Go through the table once, from where the walk is."""
    pause_s = int(step.get("pause_ms") or 0) / 1000
    while True:
        context.control.check()
        throttle.before_batch()
        batch = _next(context, walked, walk, size)
        if batch is None:
            return
        seconds = _batch(context, statement, walked, batch, walk, size)
        if seconds is None:
            context.tell(f"backfilling {walked.full} in batches of {size.rows} rows, since the last one took too long")
            continue
        total = max(walk.total, walk.seen)
        context.tell(f"backfilling {walked.full}", done=walk.seen, total=total, unit="rows")
        rest = max(throttle.rest(seconds), pause_s if batch.rows >= size.rows else 0.0)
        if rest:
            context.sleep(rest)


def _next(context: StepContext, walked: keyset.Keyset, walk: _Walk, size: BatchSize) -> keyset.Batch | None:
    limits = context.limits(0)
    return _waited_for(context, lambda: walked.next_batch(context.conn, walk.last, size.rows, limits))


def _prepare(context: StepContext, walked: keyset.Keyset, statement: Mapping[str, Any]) -> None:
    def prepare() -> None:
        with context.conn.cursor() as cursor:
            cursor.execute(_REPORT)
            cursor.execute(f"PREPARE pgops_backfill ({', '.join(walked.types * 2)}) AS {statement['sql']}")

    try:
        _asked(context, prepare)
    except psycopg2.Error as exc:
        if exc.pgcode is None:
            raise
        raise statement_error(context, exc, statement) from None


def _batch(
    context: StepContext,
    statement: Mapping[str, Any],
    walked: keyset.Keyset,
    batch: keyset.Batch,
    walk: _Walk,
    size: BatchSize,
) -> float | None:
    """Change the rows of one batch, in a transaction with the ledger's row about it.

    :return: seconds that its transaction took, without the waiting for locks before; None where it took too long and
        was taken back, to be tried with fewer rows.
    """
    limit_s, target_size = size.limit_s, size.rows
    limits = f"{context.limits(context.budget('statement_timeout_s'))}; {_PLANNED}"
    limits += f"; SET LOCAL idle_in_transaction_session_timeout = '{IDLE_S}s'"
    if limit_s is not None:
        limits += f"; SET LOCAL statement_timeout = '{max(1, int(limit_s * 1000))}ms'"
    if len(walked.columns) > 1:
        limits += _BY_INDEX
    if statement.get("rows") == "all":
        limits += f"; {_NOTE_BEFORE}"
    values = sql.SQL(", ").join(map(sql.Literal, (*batch.first, *batch.last)))
    question = sql.SQL("EXECUTE pgops_backfill({})").format(values)
    since = 0.0

    def attempt() -> tuple[_Walk, float, float]:
        nonlocal since
        began = time.monotonic()
        with transaction(context.conn, limits) as ending:
            # What an attempt that had to give way removed and put back is counted too.
            deletes = _deletes(statement)
            before = _removed(context, walked) if deletes else 0
            held = walked.between(context.conn, batch) if deletes else batch.rows
            since = time.monotonic()
            rows = max(execute(context.conn, question), 0)
            worked = time.monotonic() - since
            if statement.get("rows") and rows > held and not deletes:
                # A key that repeats has more rows than were counted up to it, and clients add some.
                held = walked.between(context.conn, batch)
            _refuse_removed(context, statement, walked, held, before)
            _refuse_others(context, statement, walked, held, rows)
            _refuse_left(context, statement, walked, batch, rows)
            now = _Walk(
                list(batch.last), walk.changed + rows, walk.seen + held, walk.total, walk.batches + 1, walk.more
            )
            ending.append(context.saved("running", now.to_ledger(target_size)))
        return now, time.monotonic() - began, worked

    try:
        with context.watched(f"backfilling {walked.full}", rows=(walk.seen, max(walk.total, walk.seen))):
            now, seconds, worked = context.patiently(attempt)  # row locks only
    except psycopg2.Error as exc:
        if exc.pgcode is None:
            raise
        if exc.pgcode == errorcodes.QUERY_CANCELED:
            context.control.check()
        if limit_s is not None and context.timed_out(exc, since, limit_s):
            size.took_too_long()
            return None
        raise _failed(context, exc, statement, walked, since) from None
    walk.last, walk.changed, walk.seen, walk.batches = now.last, now.changed, now.seen, now.batches
    size.learn(batch.rows, seconds, worked)
    return seconds


def _failed(
    context: StepContext, exc: psycopg2.Error, statement: Mapping[str, Any], walked: keyset.Keyset, since: float
) -> PgopsError:
    error = statement_error(context, exc, statement, since)
    if exc.pgcode == errorcodes.DISK_FULL:
        error.hint = f"Free room for {walked.full}, its indexes and the WAL, then run it again: it goes on behind its last batch."
    return error


def _refuse_removed(
    context: StepContext,
    statement: Mapping[str, Any],
    walked: keyset.Keyset,
    held: int,
    before: int,
) -> None:
    """A batch changes rows; it removes none but those that a DELETE says, and these are the batch's.

    :param held: how many rows have a key of the batch.
    :raises PgopsError: it removed others, also by a trigger or a cascade; the batch is taken back.
    """
    removed = _removed(context, walked) - before
    allowed = held if _deletes(statement) else 0
    if removed > allowed:
        raise PgopsError(
            f"{context.doing} failed at {location(statement)}: a batch of {held} rows removed {removed} rows of "
            f"{walked.full}, and {'no more than its own' if allowed else 'none'} may go; that batch is taken back",
            database=context.database,
            object_name=walked.full,
            hint="Look at the statement and at the triggers of the table; to remove rows in batches write a DELETE.",
            extra={"removed": removed},
        )


def _refuse_others(
    context: StepContext, statement: Mapping[str, Any], walked: keyset.Keyset, held: int, rows: int
) -> None:
    """A statement that changes the table itself changes each row of the batch once at most.

    :raises PgopsError: it changed others too, and clients wait for these; the batch is taken back.
    """
    if statement.get("rows") and rows > held:
        raise PgopsError(
            f"{context.doing} failed at {location(statement)}: a batch of {held} rows changed {rows} rows of {walked.full}, "
            "and no more than its own may change; that batch is taken back",
            database=context.database,
            object_name=walked.full,
            hint="See that a row changes only where its own key lies between those of the batch.",
            extra={"changed": rows, "held": held},
        )


def _refuse_left(
    context: StepContext, statement: Mapping[str, Any], walked: keyset.Keyset, batch: keyset.Batch, rows: int
) -> None:
    """A statement that names no condition but the keys changes every row of the batch that is still there.

    :raises PgopsError: it passed some over; the batch is taken back.
    """
    if statement.get("rows") != "all" or rows >= batch.rows:
        return
    left = walked.between(context.conn, batch, also=_AS_BEFORE)
    if left:
        raise PgopsError(
            f"{context.doing} failed at {location(statement)}: a batch of {batch.rows} rows left {left} rows of {walked.full} "
            "as they were, and the statement has no condition but the keys; that batch is taken back",
            database=context.database,
            object_name=walked.full,
            hint="Look at the triggers and rules of the table; where rows are left on purpose, say so in a condition.",
            extra={"left": left},
        )


def _deletes(statement: Mapping[str, Any]) -> bool:
    return (statement.get("destroys") or {}).get("kind") == "rows"


def _removed(context: StepContext, walked: keyset.Keyset) -> int:
    found = fetch_one(context.conn, _REMOVED_OF_PARTITIONS if walked.partitioned else _REMOVED, {"oid": walked.oid})
    return int(found["n"]) if found else 0


def _asked(context: StepContext, question: Callable[[], T], statement_timeout_s: int = 0) -> T:
    """Ask something beside the batches, in a transaction of its own that waits for its locks as a batch does.

    :param statement_timeout_s: seconds; 0 for no limit.
    :raises LockWaitExhausted: somebody held the table until the budget was used up.
    :raises Interrupted: the run was stopped; the statement in hand is cancelled.
    :raises psycopg2.Error: anything else.
    """

    def attempt() -> T:
        with transaction(context.conn, context.limits(statement_timeout_s)):
            return question()

    return _waited_for(context, attempt)


def _waited_for(context: StepContext, attempt: Callable[[], T]) -> T:
    """As :func:`_asked`, of a question that brings its own transaction and limits."""
    try:
        with context.stoppable(context.conn):
            return context.patiently(attempt)
    except psycopg2.Error as exc:
        if exc.pgcode == errorcodes.QUERY_CANCELED:
            context.control.check()
        raise


def _left(context: StepContext, question: Mapping[str, Any] | None) -> int | None:
    """:return: how many rows are still to be changed, by the step's own query; None where it has none."""
    if not question:
        return None
    try:
        row = _asked(
            context, lambda: fetch_one(context.conn, str(question["sql"])) or {}, context.budget("statement_timeout_s")
        )
    except psycopg2.Error as exc:
        if exc.pgcode is None:
            raise
        raise from_psycopg(
            exc,
            f"{context.doing} could not count what is left at {location(question)}",
            statement=str(question["sql"]),
            location=location(question),
            database=context.database,
        ) from None
    (value,) = row.values() if len(row) == 1 else (None,)
    if not isinstance(value, int):
        raise PgopsError(
            f"{context.doing}: the query at {location(question)} must return one row with one whole number, the rows that are left",
            database=context.database,
        )
    return value
