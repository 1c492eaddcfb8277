# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A step that validates constraints which were added NOT VALID."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    broken_rows,
    lock_forecast,
    orphans,
    time_limits,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import execute, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_modes import (
    ACCESS_EXCLUSIVE,
    ROW_SHARE,
    SHARE_UPDATE_EXCLUSIVE,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import schema_of, validate_constraint
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import errorcodes, sql

_CONSTRAINT = """
SELECT k.convalidated AS validated, k.contype::text AS type, pg_get_constraintdef(k.oid) AS definition,
       obj_description(k.oid, 'pg_constraint') AS comment,
       c.reltuples::bigint AS rows, pg_size_pretty(pg_table_size(c.oid)) AS size
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND k.conname = %s
"""


def up(context: StepContext, wanted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Validate each constraint that is not, in a transaction of its own.

    Takes SHARE UPDATE EXCLUSIVE on the table and ROW SHARE on one that a foreign key refers to: readers and writers go on.

    :return: constraints that were valid already.
    :raises PgopsError: there is no such constraint, or rows violate it (their values are not told).
    """
    valid: list[str] = []
    made: list[str] = list(context.progress_so_far.get("validated", []))
    for number, constraint in enumerate(wanted, 1):
        name = _full(constraint)
        found = _find(context, constraint)
        if found is None:
            raise PgopsError(
                f"{context.doing} failed: there is no constraint {name} to validate.",
                sqlstate="42704",
                database=context.database,
                object_name=name,
                hint="Add it as NOT VALID in an earlier step.",
            )
        if found["validated"]:
            if name not in made:
                valid.append(f"constraint {name}")
            continue

        # The server does not tell how far a validation is: how many are done, and how much this one has to read.
        what = (
            f"validating {name} ({number} of {len(wanted)}, about {max(int(found['rows']), 0)} rows, {found['size']})"
        )

        def validate(constraint: Mapping[str, Any] = constraint, name: str = name, what: str = what) -> None:
            with context.watched(what, cancel=True):
                execute(context.conn, validate_constraint(constraint))
            context.save("running", {"validated": [*made, name], "valid_before": valid})

        _patiently(context, constraint, validate, validate_constraint(constraint), (SHARE_UPDATE_EXCLUSIVE, ROW_SHARE))
        made.append(name)
    context.save("done", {"validated": made, "valid_before": valid})
    return valid


def down(
    context: StepContext,
    wanted: Sequence[Mapping[str, Any]],
    made: Mapping[str, Any],
    dropped: set[tuple[str, str, str]],
) -> list[str]:
    """Make not validated again what this version validated, unless this version's own way down drops it anyway.

    Takes ACCESS EXCLUSIVE on the table for a moment (the constraint is replaced by itself, NOT VALID), no scan.

    :param made: the progress of the step on the way up: ``validated``.
    :param dropped: (schema, table, constraint) that this version made itself.
    :return: constraints that stay valid, since they were before the version.
    """
    validated = set(made.get("validated", []))
    left: list[str] = []
    for constraint in reversed(wanted):
        key = (schema_of(constraint), str(constraint["table"]), str(constraint["constraint"]))
        found = _find(context, constraint)
        if key in dropped:
            continue
        if found is None or not found["validated"]:
            context.already.append(f"constraint {_full(constraint)}" + (" is not validated" if found else ""))
            continue
        if _full(constraint) not in validated:
            left.append(f"constraint {_full(constraint)}")
            continue
        statement = invalidate_constraint(constraint, str(found["definition"]), found["comment"])

        def invalidate(statement: sql.Composed = statement, name: str = _full(constraint)) -> None:
            with context.watched(f"marking {name} as not validated"):
                execute(context.conn, statement)

        _patiently(context, constraint, invalidate, statement, (ACCESS_EXCLUSIVE, ACCESS_EXCLUSIVE))
    context.save("done")
    return left


def invalidate_constraint(constraint: Mapping[str, Any], definition: str, comment: str | None = None) -> sql.Composed:
    """:return: one ALTER TABLE that replaces a valid constraint by itself, NOT VALID, and gives it back its comment."""
    name, table = sql.Identifier(constraint["constraint"]), sql.Identifier(schema_of(constraint), constraint["table"])
    replaced = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}, ADD CONSTRAINT {} {} NOT VALID").format(
        table, name, name, sql.SQL(definition)
    )
    if comment is None:
        return replaced
    again = sql.SQL("COMMENT ON CONSTRAINT {} ON {} IS {}").format(name, table, sql.Literal(comment))
    return sql.SQL("; ").join([replaced, again])


def _patiently(
    context: StepContext,
    constraint: Mapping[str, Any],
    work: Callable[[], None],
    statement: sql.Composed,
    modes: tuple[str, str],
) -> None:
    """:param modes: of the locks on the table, and on one that the constraint refers to."""
    table = {"schema": schema_of(constraint), "name": str(constraint["table"])}
    told = [
        {**table, "mode": modes[0], "follow": ["children"]},
        {**table, "mode": modes[1], "follow": ["referenced", "children"], "part": str(constraint["constraint"])},
    ]
    wanted = lock_forecast.strongest(lock_forecast.forecast(context.conn, {0: told}).get(0, []))
    # The scan may be long, the lock that it is asked for is not: the budget of builds.
    seconds = context.budget("index_timeout_s")
    since = 0.0

    def attempt() -> None:
        nonlocal since
        with transaction(context.conn, context.limits(seconds)):
            context.ask(wanted)
            since = time.monotonic()
            work()

    try:
        context.patiently(attempt, wanted=wanted)
    except psycopg2.Error as exc:
        if exc.pgcode is None:
            raise
        context.control.check()
        if exc.pgcode == errorcodes.FOREIGN_KEY_VIOLATION:
            orphans.refuse_existing(
                context, schema_of(constraint), str(constraint["table"]), str(constraint["constraint"])
            )
        if exc.pgcode in (errorcodes.CHECK_VIOLATION, errorcodes.NOT_NULL_VIOLATION):
            broken_rows.refuse_constraint(context, constraint, statement.as_string(context.conn), exc.pgcode)
        error = from_psycopg(
            exc,
            f"{context.doing} failed at constraint {_full(constraint)}",
            statement=statement.as_string(context.conn),
            database=context.database,
        )
        if context.timed_out(exc, since, seconds):
            time_limits.tell(context, error, "index_timeout_s", f"at constraint {_full(constraint)}")
        raise error from None


def _find(context: StepContext, constraint: Mapping[str, Any]) -> dict[str, Any] | None:
    return fetch_one(context.conn, _CONSTRAINT, (schema_of(constraint), constraint["table"], constraint["constraint"]))


def _full(constraint: Mapping[str, Any]) -> str:
    return f"{schema_of(constraint)}.{constraint['table']}.{constraint['constraint']}"
