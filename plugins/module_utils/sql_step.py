# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A step of SQL statements: one transaction together with the ledger's row about it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    appeared,
    attributes_before,
    broken_rows,
    catalog_states,
    existing,
    ledger,
    lock_forecast,
    locks,
    made_again,
    orphans,
    states_before,
    time_limits,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.attributes_before import AttributesBefore
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_forecast import TableLock
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_modes import ACCESS_SHARE
from ansible_collections.whitecross.pgops.plugins.module_utils.made_again import MadeAgain
from ansible_collections.whitecross.pgops.plugins.module_utils.server_message import told_notices
from ansible_collections.whitecross.pgops.plugins.module_utils.states_before import Before
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import (
    StepContext,
    one_line,
    without_values,
)
from psycopg2 import errorcodes, sql

# What a DO block of a way down asks to learn what was there before the version: a JSON list of words.
THERE_BEFORE = "pgops.there_before"
# And what to learn which constraints, indexes and statistics the step itself made, where its text does not tell.
MADE = "pgops.made"

# After one of these a table that was found before the step may be gone, or have another name. A function may do anything.
_MOVES_TABLES = re.compile(r"\b(DROP|RENAME|SCHEMA|DO|CALL|SELECT|EXECUTE)\b", re.IGNORECASE)

NOTHING = Before()
NOT_AGAIN = MadeAgain()


def run(
    context: StepContext,
    statements: Sequence[Mapping[str, Any]],
    *,
    one_transaction: bool = True,
    down: Sequence[Mapping[str, Any]] = (),
    made: Mapping[str, Any] | None = None,
    states: Before = NOTHING,
    again: MadeAgain = NOT_AGAIN,
) -> list[str]:
    """Run the statements; what they would create and is there already with the same definition is skipped and told, and so is
    what would change nothing (:mod:`catalog_states`).

    Takes the locks of the statements themselves, under lock_timeout, and retries the whole transaction when it does
    not get them.

    :param one_transaction: False runs each statement in a transaction of its own and remembers how many are done.
    :param down: on the way up the step's way down: which of what that drops is there before is remembered.
    :param made: on the way down the step's progress on the way up: what was there before the version stays.
    :param states: NOT NULL, defaults and row level security before the version: what to record, or what stays.
    :param again: on the way down what of it is dropped and made again.
    :return: objects that were there already (or, on the way down, that stay).
    :raises locks.LockWaitExhausted: the locks could not be had in the budget; the step left nothing behind.
    :raises PgopsError: a statement failed, an object is there with another definition, a time limit was hit.
    """
    up = context.direction == "up"
    so_far = context.progress_so_far
    remembered = {name: value for name, value in so_far.items() if name != attributes_before.BEGINNING} if up else {}
    if up and not so_far.get("statements"):
        firing = made_again.record(context.conn, down)
        remembered |= {made_again.TRIGGERS: firing} if firing else {}
    kept = there_before(made) if made and not up else set()
    came = made.get(appeared.PROGRESS, []) if made and not up else []
    if up:
        attributes = attributes_before.up(statements, down, so_far)
    else:
        attributes = attributes_before.down(statements, made, so_far)
    if one_transaction:
        return _patiently(
            context,
            statements,
            0,
            last=True,
            down=down,
            kept=kept,
            came=came,
            remembered=remembered,
            made=made,
            states=states,
            again=again,
            attributes=attributes,
        )
    skipped = list(context.progress_so_far.get("skipped", []))
    first = int(context.progress_so_far.get("statements", 0))
    if first == 0:
        # What the way up drops itself is forgotten when that is committed.
        remembered["there_before"] = _there(context, undone((), down))
    parts = [(number, [statements[number]]) for number in range(first, len(statements))]
    if statements and not parts:
        # What failed was left out when the step was mended: nothing is to run, and the step has its end still.
        parts = [(len(statements), [])]
    for number, part in parts:
        last = number == parts[-1][0]
        skipped += _patiently(
            context,
            part,
            number,
            last=last,
            skipped=skipped,
            kept=kept,
            came=came,
            remembered=remembered,
            made=made if last else None,
            states=replace(states, steps=states.steps if number == 0 else ()),
            again=again,
            attributes=attributes,
        )
        skipped = _without(skipped, existing.dropped(part[0]) if up and part else None)
    if not statements:
        context.save("done")
    return skipped


def there_before(made: Mapping[str, Any]) -> set[str]:
    """:param made: a step's progress on the way up.
    :return: the objects, in the words of :func:`existing.describe`, that were there before the version."""
    return {*made.get("skipped", []), *made.get("there_before", [])}


def _forget_dropped(progress: dict[str, Any], statements: Sequence[Mapping[str, Any]]) -> None:
    """What has the name on the way down of something that was there before and is dropped now, or has another name, is another."""
    gone = existing.dropped_by(statements)
    if "there_before" in progress:
        progress["there_before"] = [word for word in progress["there_before"] if word not in gone]
    for statement in statements:
        progress["skipped"] = _without(progress["skipped"], existing.dropped(statement))


def _without(words: Sequence[str], dropped: Mapping[str, Any] | None) -> list[str]:
    # A table that was skipped and renamed may get its name back on the way down.
    return [word for word in words if not dropped or word != existing.describe(dropped)]


def undone(
    statements: Sequence[Mapping[str, Any]], down: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any] | None]:
    """:return: what the way down drops, without what the way up drops too: see :func:`existing.dropped_by`."""
    gone = existing.dropped_by(statements)
    dropped = [existing.dropped(statement) for statement in down]
    return [None if made and existing.describe(made) in gone else made for made in dropped]


def _objects(statements: Sequence[Mapping[str, Any]], up: bool) -> list[Mapping[str, Any] | None]:
    """:return: by statement the object of which it is asked whether it is there already, or on the way down gone already."""
    if not up:
        return [existing.dropped(statement) for statement in statements]
    # CREATE OR REPLACE says itself what is to become of the old one.
    made = [statement.get("creates") for statement in statements]
    return [item if item and not item.get("replace") else None for item in made]


def _forecast(
    context: StepContext,
    statements: Sequence[Mapping[str, Any]],
    kept: Collection[str],
    own: Collection[tuple[str, str]],
    states: Before,
    again: MadeAgain,
) -> dict[int, list[TableLock]]:
    """The locks of each statement on tables that others use; none of a statement for which the catalog shows nothing to do,
    since PostgreSQL takes its lock even then (ADD COLUMN IF NOT EXISTS: ACCESS EXCLUSIVE)."""
    told = {number: lock_forecast.told_locks(statement) for number, statement in enumerate(statements)}
    if all((lock["schema"], lock["name"]) in own for of_statement in told.values() for lock in of_statement):
        return {}
    up = context.direction == "up"
    objects = _objects(statements, up)
    there = existing.present(context.conn, objects)
    settled = _settled(context, statements, states)
    gone: set[str] = set()
    changed: set[tuple[str, str]] = set()
    for number, statement in enumerate(statements):
        item = objects[number]
        if item is not None:
            word = existing.describe(item)
            idle = (
                (number in there and word not in gone)
                if up
                else (
                    (word in kept and not again.may_go(statement)) or (number not in there and not _several(statement))
                )
            )
            if idle and item["kind"] in existing.PRESENT:
                del told[number]
        tables = {(str(lock["schema"]), str(lock["name"])) for lock in told.get(number, [])}
        # What an earlier statement does to the table, only the look right before this one can see.
        if number in settled and not tables & changed:
            told.pop(number, None)
        else:
            changed |= tables
        gone |= existing.dropped_by([statement])
    return lock_forecast.forecast(context.conn, told, own)


def _several(statement: Mapping[str, Any]) -> bool:
    """:return: whether it has parts of which one may be done while another is not: what it drops is the first of them only."""
    return len(statement.get("states") or []) > 1


def _settled(context: StepContext, statements: Sequence[Mapping[str, Any]], states: Before) -> set[int]:
    """:return: the positions of statements that would have nothing to do now; none where somebody keeps even that look waiting."""
    if not states.turned and not any(statement.get("states") for statement in statements):
        return set()
    try:
        with transaction(context.conn, context.limits(context.budget("statement_timeout_s"))):
            rest = [states.without(context.conn, statement).statement for statement in statements]
            settled = catalog_states.holding(context.conn, [statement or {} for statement in rest])
            return settled | {number for number, statement in enumerate(rest) if statement is None}
    except psycopg2.Error as exc:
        if exc.pgcode not in locks.RETRY_SQLSTATES:
            raise
        return set()


def _orphans(
    context: StepContext, statements: Sequence[Mapping[str, Any]], wanted: Mapping[int, Sequence[TableLock]]
) -> dict[int, dict[str, Any]]:
    """See :func:`orphans.refuse`. It only reads, yet somebody may hold both tables in ACCESS EXCLUSIVE."""
    adding = [
        number
        for number, statement in enumerate(statements)
        if (statement.get("creates") or {}).get("type") == "foreign_key"
    ]
    if not adding:
        return {}

    def attempt() -> dict[int, dict[str, Any]]:
        with transaction(context.conn, context.limits(context.budget("index_timeout_s"))):
            return orphans.refuse(context, statements)

    read = [replace(lock, mode=ACCESS_SHARE) for number in adding for lock in wanted.get(number, [])]
    return context.patiently(attempt, wanted=lock_forecast.strongest(read))


def _there(context: StepContext, objects: Sequence[Mapping[str, Any] | None]) -> list[str]:
    return [existing.describe(objects[number] or {}) for number in sorted(existing.present(context.conn, objects))]


def _patiently(
    context: StepContext,
    statements: Sequence[Mapping[str, Any]],
    before: int,
    *,
    last: bool,
    skipped: Sequence[str] = (),
    down: Sequence[Mapping[str, Any]] = (),
    kept: Collection[str] = (),
    came: Collection[Sequence[str]] = (),
    remembered: dict[str, Any],
    made: Mapping[str, Any] | None,
    states: Before,
    again: MadeAgain,
    attributes: AttributesBefore,
) -> list[str]:
    own: set[tuple[str, str]] = set()
    for statement in statements:
        created = statement.get("creates")
        if created and created["kind"] == "table":
            # Nobody else holds a lock on what this step makes.
            own.add((str(created.get("schema") or "public"), str(created["name"])))
    wanted = _forecast(context, statements, kept, own, states, again)
    # What keeps writers out of what goes, from before the last look at it on.
    shut = context.copy.wanted(context.conn, statements, kept) if context.copy else []

    limits = context.limits(context.budget("statement_timeout_s"))
    up = context.direction == "up"
    keys = _orphans(context, statements, wanted) if up else {}

    def whole(runs: Sequence[Sequence[int]]) -> list[str]:
        with transaction(context.conn, limits) as ending:
            settled: list[dict[str, Any]] = []
            recorded = states.record(context.conn)
            before_it = appeared.before(context.conn, statements) if up else None
            if context.copy and shut:
                context.hold(shut)
                with context.watched("looking for rows of which there is no copy", cancel=True):
                    context.copy.refuse(context.conn, statements, kept, context.doing)
            attributes.begin(context.conn, before == 0, before == 0 and last)
            _tell_what_was_there(context, kept, came, states)
            now, there = _statements(context, statements, runs, down, kept, keys, settled, wanted, states, again)
            if made is not None:
                orphans.take_back(context, made)
            progress = {**remembered, "statements": before + len(statements), "skipped": [*skipped, *now]}
            if up:
                _forget_dropped(progress, statements)
            progress |= attributes.end(context.conn, last, context.tell)
            if down:
                progress["there_before"] = there
            if recorded:
                progress[states_before.PROGRESS] = recorded
            if up:
                own_now = appeared.since(context.conn, before_it)
                progress[appeared.PROGRESS] = [*remembered.get(appeared.PROGRESS, []), *own_now]
            parts = orphans.kinds(settled)
            for word, entries in parts.items():
                progress[word] = [*remembered.get(word, []), *entries]
            if parts:
                # With the rows: whatever becomes of the version, who looks for them finds where they went.
                ledger.append_audit(
                    context.conn,
                    orphans.SETTLED,
                    run_id=context.run_id,
                    version=context.version,
                    detail={"step": context.ordinal, **parts},
                )
            ending.append(context.saved("done" if last else "running", progress))
        kept_words = (*parts, states_before.PROGRESS, appeared.PROGRESS, "there_before")
        remembered.update({word: progress[word] for word in kept_words if word in progress})
        context.settled.extend(settled)
        context.appeared = progress.get(appeared.PROGRESS, [])
        return now

    def attempt() -> list[str]:
        runs = _quick_runs(statements, own) if up else []
        try:
            return whole(runs)
        except _RunFailed:
            # Nothing of it is left. Which statement it was, only one at a time can tell; that way then counts.
            return whole([])

    try:
        return context.patiently(
            attempt, wanted=lock_forecast.strongest([*chain.from_iterable(wanted.values()), *shut])
        )
    except PgopsError as error:
        if error.sqlstate == errorcodes.DEPENDENT_OBJECTS_STILL_EXIST:
            # The server's own hint is CASCADE, which drops what nobody named.
            error.hint = _what_stands_on(context, statements, error.statement)
        if error.sqlstate in (errorcodes.NOT_NULL_VIOLATION, errorcodes.STRING_DATA_RIGHT_TRUNCATION):
            broken_rows.refuse_altered(context, error)
        raise


def _tell_what_was_there(
    context: StepContext, kept: Collection[str], came: Collection[Sequence[str]], states: Before
) -> None:
    """To the DO blocks of the way down, in the transaction in hand: what was there before, and what the way up made."""
    for name, words in (
        (THERE_BEFORE, {*kept, *states.words(context.conn)}),
        (MADE, {".".join(parts) for parts in came}),
    ):
        if words:
            told = sql.SQL("SET LOCAL {} = {}").format(sql.SQL(name), sql.Literal(json.dumps(sorted(words))))
            execute(context.conn, told)


# Foreign keys to a table and views over it, but for those of the tables that go before it.
_STANDS_ON = """
SELECT pg_catalog.format('%%s (%%s) through %%I', k.conrelid::regclass, (
           SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY p.place)
             FROM unnest(k.conkey) WITH ORDINALITY AS p (number, place)
             JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = p.number), k.conname) AS what
  FROM pg_constraint AS k
 WHERE k.contype = 'f' AND k.confrelid = to_regclass(%(table)s) AND k.conrelid <> k.confrelid
   AND k.conrelid <> ALL (SELECT to_regclass(name)::oid FROM unnest(%(gone)s::text[]) AS name WHERE to_regclass(name) IS NOT NULL)
UNION
SELECT 'the view ' || r.ev_class::regclass
  FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid
 WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = to_regclass(%(table)s) AND r.ev_class <> d.refobjid
 ORDER BY 1
"""


def _what_stands_on(context: StepContext, statements: Sequence[Mapping[str, Any]], failed: str | None) -> str:
    """:return: what has to go before the object that ``failed`` drops, as advice; names only, after the step was taken back."""
    gone: list[str] = []
    for statement in statements:
        dropped = statement.get("destroys") or {}
        table = None
        if dropped.get("kind") == "table":
            schema, name = str(dropped.get("schema") or "public"), str(dropped["name"])
            table = sql.Identifier(schema, name).as_string(context.conn)
        if str(statement["sql"]) == failed:
            found = fetch_all(context.conn, _STANDS_ON, {"table": table, "gone": gone}) if table else []
            if found:
                told = "; ".join(str(row["what"]) for row in found)
                return f"On {table} stands: {told}. Drop what is named, or take back the version that made it, then run it again."
        if table:
            gone.append(table)
    return "Something that this version did not make stands on it; drop that first, then run it again."


class _RunFailed(Exception):
    """Several statements sent at once failed, and the server does not say which of them."""


def _quick_runs(statements: Sequence[Mapping[str, Any]], made: Container[tuple[str, str]]) -> list[list[int]]:
    """:return: the positions of neighbours that are over at once whatever the size of the database: new types and tables,
    indexes of tables that this step makes, comments. A round trip costs more than each of them."""
    runs: list[list[int]] = [[]]
    for number, statement in enumerate(statements):
        created = statement.get("creates")
        if created:
            kind = created["kind"]
            table = (str(created.get("schema") or "public"), str(created.get("table")))
            quick = kind in ("type", "table") or (kind == "index" and table in made)
        else:
            quick = not statement.get("destroys") and one_line(str(statement["sql"])).upper().startswith("COMMENT ON ")
        if quick:
            runs[-1].append(number)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if len(run) > 1]


def _statements(
    context: StepContext,
    statements: Sequence[Mapping[str, Any]],
    runs: Sequence[Sequence[int]],
    down: Sequence[Mapping[str, Any]],
    kept: Collection[str],
    keys: Mapping[int, Mapping[str, Any]],
    settled: list[dict[str, Any]],
    wanted: Mapping[int, Sequence[TableLock]],
    states: Before,
    again: MadeAgain,
) -> tuple[list[str], list[str]]:
    sent: set[int] = set()
    run_from = {run[0]: run for run in runs}
    up = context.direction == "up"
    objects = _objects(statements, up)
    dropped = undone(statements, down)
    found = existing.present(context.conn, [*objects, *dropped])
    there = {number for number in found if number < len(objects)}
    undone_there = [
        existing.describe(dropped[number - len(objects)] or {}) for number in sorted(found) if number >= len(objects)
    ]
    skipped: list[str] = []
    gone: set[str] = set()
    moved = False

    def ask(positions: Sequence[int]) -> None:
        locks_of = lock_forecast.strongest(chain.from_iterable(wanted.get(position, []) for position in positions))
        context.ask(lock_forecast.still_there(context.conn, locks_of) if moved else locks_of)

    for number, statement in enumerate(statements):
        if number in sent:
            continue
        context.control.check()
        run = run_from.get(number, [])
        if run and not there.intersection(run):
            ask(run)
            _execute_run(context, [statements[position] for position in run], f"[{number + 1}/{len(statements)}]")
            sent.update(run)
            continue
        made = objects[number]
        if made is not None and up and number in there and existing.describe(made) not in gone:
            word, how = existing.describe(made), "with the same definition"
            if word in context.accepted:
                how = "as it was accepted when the database was adopted"
            else:
                _refuse_unequal(context, statement)
            skipped.append(word)
            context.tell(f"{word} is there already, {how}: skipped")
            continue
        if (
            made is not None
            and not up
            and existing.describe(made) in kept
            and not again.is_to_go(context.conn, statement)
        ):
            skipped.append(existing.describe(made))
            context.tell(f"{existing.describe(made)} was there before this version: it stays")
            continue
        differences = None if up else again.differences(context.conn, statement)
        if differences:
            raise _is_another(context, statement, differences)
        if differences is not None:
            word = existing.describe(made_again.makes(statement) or {})
            context.tell(f"{word} was there before this version and stays: skipped")
            continue
        missing = made is not None and number not in there and not _several(statement)
        if not up and made is not None and missing and not existing.present(context.conn, [made]):
            context.already.append(existing.describe(made))
            context.tell(f"{existing.describe(made)} is gone already: skipped")
            continue
        rest = states.without(context.conn, statement)
        skipped += rest.stays
        for sentence in rest.told:
            context.tell(sentence)
        if rest.statement is None:
            continue
        statement = rest.statement
        if catalog_states.holding(context.conn, [statement]):
            words = catalog_states.describe(statement)
            (skipped if up else context.already).extend(words)
            context.tell(f"nothing to do, {', '.join(words)}: skipped")
            continue
        ask([number])
        with context.watched(f"[{number + 1}/{len(statements)}] {one_line(str(statement['sql']))}"):
            _execute(context, statement)
            firing = None if up else again.firing(statement)
            if firing:
                _execute(context, {**statement, "sql": firing.as_string(context.conn)})
        moved = moved or bool(_MOVES_TABLES.search(str(statement["sql"])))
        gone |= existing.dropped_by([statement])
        if number in keys:
            settled += orphans.settle(context, keys[number], number)
    return skipped, undone_there


def _execute_run(context: StepContext, statements: Sequence[Mapping[str, Any]], place: str) -> None:
    first = one_line(str(statements[0]["sql"]))
    with context.watched(f"{place} {first} and {len(statements) - 1} more"):
        try:
            with context.conn.cursor() as cursor:
                # A line of its own, since a statement may end with a comment.
                cursor.execute("\n;\n".join(str(statement["sql"]) for statement in statements))
        except psycopg2.Error as exc:
            if exc.pgcode in locks.RETRY_SQLSTATES or exc.pgcode is None:
                raise
            raise _RunFailed from None


def _execute(context: StepContext, statement: Mapping[str, Any]) -> None:
    context.conn.notices.clear()
    since = time.monotonic()
    try:
        with context.conn.cursor() as cursor:
            # Without parameters psycopg2 leaves every % alone.
            cursor.execute(statement["sql"])
        for line in told_notices(context.conn.notices, str(statement["sql"])):
            context.tell(line)
    except psycopg2.Error as exc:
        if exc.pgcode in locks.RETRY_SQLSTATES or exc.pgcode is None:
            raise
        raise statement_error(context, exc, statement, since) from None


def statement_error(
    context: StepContext, exc: psycopg2.Error, statement: Mapping[str, Any], since: float | None = None
) -> PgopsError:
    """:param since: ``time.monotonic()`` when it was sent, where it had ``statement_timeout_s`` to run.
    :return: the error of a statement with its place in the template; a time limit told apart from a failure."""
    error = from_psycopg(
        exc,
        f"{context.doing} failed at {existing.location(statement)}",
        statement=str(statement["sql"]),
        location=existing.location(statement),
        database=context.database,
    )
    seconds = context.budget("statement_timeout_s")
    if since is not None and context.timed_out(exc, since, seconds):
        time_limits.tell(context, error, "statement_timeout_s", f"at {existing.location(statement)}")
    if exc.pgcode == errorcodes.UNDEFINED_TABLE and not error.hint and context.direction == "up":
        error.hint = "No version before this one made it: the one that does is missing, or its number is later; depends_on names it."
    if exc.pgcode == errorcodes.INSUFFICIENT_PRIVILEGE and not error.hint:
        error.hint = (
            "It is another role's, or a right on it is missing: preflight (--tags preflight) names what belongs to others; a superuser types "
            "ALTER ... OWNER TO, or GRANT, for the owner role."
        )
    error.message += f', in the statement "{without_values(str(statement["sql"]))}"'
    error.args = (error.message,)
    return error


def _refuse_unequal(context: StepContext, statement: Mapping[str, Any]) -> None:
    differences = existing.compare(context.conn, statement, context.explained)
    if differences:
        name = existing.describe(statement["creates"])
        raise existing.Unequal(
            f"{context.doing} failed at {existing.location(statement)}: {name} exists already with another definition: "
            + "; ".join(differences),
            sqlstate="42710",
            statement=str(statement["sql"]),
            location=existing.location(statement),
            database=context.database,
            object_name=name,
            hint="Bring the object to the wanted definition with a migration of its own, or drop it if nobody needs it.",
            extra={"differences": differences},
        )


def _is_another(context: StepContext, statement: Mapping[str, Any], differences: Sequence[str]) -> existing.Unequal:
    name = existing.describe(made_again.makes(statement) or {})
    return existing.Unequal(
        f"{context.doing} failed at {existing.location(statement)}: {name} was there before this version and is not dropped, and it is not "
        f"as it would be made again: {'; '.join(differences)}",
        sqlstate=errorcodes.DUPLICATE_OBJECT,
        statement=str(statement["sql"]),
        location=existing.location(statement),
        database=context.database,
        object_name=name,
        hint="Bring it to that definition, or drop it if nobody needs it, then run the rollback again: it goes on from there.",
        extra={"differences": differences},
    )
