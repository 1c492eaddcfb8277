# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A version that stopped half-way and goes on with another text: what only that speaks of was not looked at when it began."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    appeared,
    attributes,
    attributes_before,
    begun_steps,
    catalog_states,
    existing,
    ledger,
    sql_step,
    states_before,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.changing_parts import own_functions
from ansible_collections.whitecross.pgops.plugins.module_utils.committed_effects import CommittedEffects
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.sql_names import name_parts
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import schema_of
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext

Statement = Mapping[str, Any]


class MendedVersion:
    """The text that a version began with and the one that it goes on with.

    :param steps: its steps on the way up as the ledger has them.
    :param began: the version, rendered, as the ledger has it.
    :param now: as it goes on; what is committed of it is the same.
    """

    def __init__(self, steps: Iterable[ledger.Step], began: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        differs = began["steps"] != now["steps"]
        self._began, self._now = began["steps"], now["steps"]
        # A step that has left nothing looks at all that it speaks of when it begins.
        self.steps = [step for step in steps if differs and step.kind == "sql" and _left(step)]
        came = [step.progress.get(appeared.PROGRESS) for step in self.steps]
        self._executed = list(chain.from_iterable(map(self._have_run, self.steps)))
        self.effects = CommittedEffects(
            self._executed, None if None in came else [item for items in came for item in items or []]
        )

    def _have_run(self, step: ledger.Step) -> list[Statement]:
        """:return: the statements that are committed, without those that found there what they would have made."""
        (of,) = begun_steps.executed([step], self._now)
        found = step.progress.get("skipped", [])
        ran: list[Statement] = []
        for statement in of["up"]:
            made = statement.get("creates") or {}
            if made.get("replace") and made["kind"] == "function" and _is_new(step, made):
                ran.append({**statement, "creates": {**made, "replace": False}})
            elif not made or existing.describe(made) not in found:
                ran.append(statement)
        return ran

    def drops(self, step: ledger.Step) -> list[tuple[Mapping[str, Any], Statement]]:
        """:return: what only the way down of now drops and the version has not made for sure, and the statements."""
        old, new = self._began[step.ordinal - 1], self._now[step.ordinal - 1]
        # A step of which only some statements are committed has looked at all that its way down dropped, a done one at what is left of that.
        undone = sql_step.undone(old.get("up") or [] if step.state == "done" else (), old.get("down") or [])
        known = {existing.describe(item) for item in undone if item}
        (ran,) = begun_steps.executed([step], self._now)
        down = new.get("down") or []
        return [
            (item, statement)
            for item, statement in zip(sql_step.undone(ran["up"], down), down)
            if item
            and item["kind"] in existing.PRESENT
            and existing.describe(item) not in known
            and not self.effects.has_made(item)
        ]

    def added_states(self) -> list[tuple[Mapping[str, Any], Statement]]:
        """:return: NOT NULL, defaults and row level security of which only the text of now speaks, by the names of before, and the
        first statement that does."""
        if not self.steps:
            return []
        text = [
            (part["state"], statement)
            for step in self._now
            for statement in [*(step.get("up") or []), *(step.get("down") or [])]
            for part in (statement.get("alters") or {}).get("parts", [])
            if part["state"]
        ]
        added = states_before.Before(steps=self._now).added(states_before.Before(steps=self._began), self._executed)
        spoken = [[one for one in text if states_before.key_of(one[0]) in names] for names in added.items()]
        return [found[0] for found in spoken if found]

    def record_states(self, conn: Connection) -> list[dict[str, Any]]:
        """:return: those that are as the text of now would make them; see :meth:`states_before.Before.record`."""
        if not self.steps:
            return []
        known = {
            states_before.key_of(state)
            for step in self.steps
            for state in step.progress.get(states_before.PROGRESS, [])
        }
        began = states_before.Before(steps=self._began)
        found = states_before.Before(steps=self._now).record_added(conn, began, self._executed)
        return [state for state in found if states_before.key_of(state) not in known]


def looked_again(
    context: StepContext, steps: Iterable[ledger.Step], began: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[int, ledger.Step]:
    """Look at what only the text of now speaks of, as a version does at its beginning for all.

    Takes ACCESS SHARE for a moment on the table of a default, no other lock.

    :return: by ordinal the steps whose progress is another one by it, to be saved when that text takes the place of the other one
        in the ledger; see :class:`MendedVersion` for the arguments.
    """
    mended = MendedVersion(steps, began, now)
    if not mended.steps:
        return {}

    def look() -> dict[int, ledger.Step]:
        with transaction(context.conn, context.limits(context.budget("statement_timeout_s"))):
            found = {step.ordinal: _what_stays(context.conn, mended, step) for step in mended.steps}
            first = mended.steps[0]
            states = mended.record_states(context.conn)
            if states:
                found[first.ordinal][states_before.PROGRESS] = [
                    *first.progress.get(states_before.PROGRESS, []),
                    *states,
                ]
        return {
            step.ordinal: replace(step, progress={**step.progress, **found[step.ordinal]})
            for step in mended.steps
            if found[step.ordinal]
        }

    return context.patiently(look, wanted=[])


def refuse(conn: Connection, row: ledger.Migration, began: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """:raises PgopsError: nobody can tell whether something that only the text of now speaks of was so before the version, since what a
    committed statement did is not told by its text. Takes no lock."""
    if row.rendered_checksum == now["rendered_checksum"]:
        # Of the same text another release of this collection may tell more than the ledger keeps.
        return
    mended = MendedVersion(row.steps, began, now)
    own = own_functions(conn) if mended.steps else frozenset()
    for step in mended.steps:
        drops = mended.drops(step)
        there = existing.present(conn, [item for item, _ in drops])
        for number, (item, statement) in enumerate(drops):
            doubt = mended.effects.doubt(item, own) if number in there else None
            if doubt:
                raise _untold(
                    conn,
                    row,
                    f"its mended way down drops {existing.describe(item)} ({existing.location(statement)}), of which nobody can tell "
                    f"whether it was there before: the statement at {existing.location(doubt)}, which is committed, may have made it; "
                    "leave that drop out",
                )
    for state, statement in mended.added_states():
        doubt = mended.effects.doubt_of_state(state, own)
        if doubt:
            raise _untold(
                conn,
                row,
                f"its mended text speaks of {catalog_states.thing(state)} ({existing.location(statement)}), of which nobody can tell how "
                f"it was before: the statement at {existing.location(doubt)}, which is committed, may have changed it; leave that out",
            )


def _untold(conn: Connection, row: ledger.Migration, what: str) -> PgopsError:
    database = str(conn.info.dbname)
    stopped_at = row.failed_step or next((step.ordinal for step in row.steps if step.state != "done"), len(row.steps))
    return PgopsError(
        f"Version {row.version} stopped at step {stopped_at} in {database}, and {what} or revert the version first.",
        database=database,
        extra={"reason": "edited", "version": row.version, "files": [], "step": stopped_at},
    )


def _left(step: ledger.Step) -> bool:
    return step.state == "done" or begun_steps.committed_statements(step) > 0


def _is_new(step: ledger.Step, function: Mapping[str, Any]) -> bool:
    """:return: whether no function had its name when the step began, by what that recorded."""
    made, beginning = attributes_before.PROGRESS in step.progress, attributes_before.BEGINNING in step.progress
    if not made and not beginning:
        return False
    listed = (
        step.progress[attributes_before.PROGRESS]["made"]
        if made
        else attributes.unpacked(step.progress[attributes_before.BEGINNING]).named[attributes.PRIVILEGES]
    )
    names = [name_parts(word.split(" ", 1)[-1].split("(")[0]) for word in listed if "(" in word]
    return made == ([schema_of(function), str(function["name"])] in names)


def _what_stays(conn: Connection, mended: MendedVersion, step: ledger.Step) -> dict[str, Any]:
    """:return: of a step's progress what was there before, where that is more by now."""
    drops = [item for item, _ in mended.drops(step)]
    there = [existing.describe(drops[number]) for number in sorted(existing.present(conn, drops))]
    known = step.progress.get("there_before", [])
    return {"there_before": [*known, *(word for word in dict.fromkeys(there) if word not in known)]} if there else {}
