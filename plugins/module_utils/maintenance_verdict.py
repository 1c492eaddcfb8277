# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a maintenance has come to. It succeeds when something that was due was done, or nothing was due; never over a freeze that was not done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_plan import FREEZE
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_work import (
    CANCELLED,
    DONE,
    FAILED,
    NOT_BEGUN,
    SKIPPED,
    Outcome,
)

NOTHING_DUE, ALL_DONE, LEFT_SOME = "nothing due", "done", "left some"
SOME_FAILED, FREEZE_LEFT, NOTHING_DONE, INTERRUPTED = "failed", "freeze left", "nothing done", "interrupted"
# The next run may find the time, and nobody has done anything about the others.
BAD = (SOME_FAILED, FREEZE_LEFT, NOTHING_DONE, INTERRUPTED)


def of(outcomes: Sequence[Outcome], interrupted: bool) -> str:
    """:return: one of the states above."""
    left = _left(outcomes)
    if interrupted:
        return INTERRUPTED
    if not outcomes:
        return NOTHING_DUE
    if any(outcome.state == FAILED for outcome in outcomes):
        return SOME_FAILED
    if any(outcome.item.action == FREEZE for outcome in left):
        return FREEZE_LEFT
    if left and not any(outcome.state == DONE for outcome in outcomes):
        return NOTHING_DONE
    return LEFT_SOME if left else ALL_DONE


def _left(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """:return: what is due still; what somebody else has done, or does, is not."""
    return [one for one in outcomes if one.state in (NOT_BEGUN, CANCELLED, SKIPPED) and not one.settled]


def sentence(outcomes: Sequence[Outcome]) -> str | None:
    """:return: what is left where the rest was done, as a sentence; None where nothing is."""
    left = _left(outcomes)
    if not left:
        return None
    first = left[0]
    return (
        f"{len(left)} of {len(outcomes)} pieces of work that are due are left, {first.item.action} of {first.item.object} first: "
        f"{first.why}; the next run goes on there"
    )


def refuse(database: str, result: Mapping[str, Any], outcomes: Sequence[Outcome], interrupted: str | None) -> None:
    """:param result: of the database; the error carries it.
    :param interrupted: why it was asked to end.
    :raises PgopsError: something failed, a freeze was not done, or nothing was.
    :raises Interrupted: asked to end."""
    extra = {"databases": {database: result}}
    done = f"{sum(outcome.state == DONE for outcome in outcomes)} of {len(outcomes)} pieces of work are done"
    ended = result["ended"]
    if ended == INTERRUPTED:
        raise Interrupted(
            f"Interrupted: {interrupted}. In {database} {done}; what ran was ended, and the next run goes on there.",
            database=database,
            extra=extra,
        )
    if ended == SOME_FAILED:
        failed = [outcome for outcome in outcomes if outcome.state == FAILED]
        first = failed[0]
        raise PgopsError(
            f"Maintenance of {database} failed: {first.item.action} of {first.item.object}: {first.why}{_more(failed)}. {done}.",
            sqlstate=first.sqlstate,
            database=database,
            object_name=first.item.object,
            hint="Mend it and run it again: what is done is not done again; or leave it out with maintenance_exclude.",
            extra=extra,
        )
    left = _left(outcomes)
    if ended == FREEZE_LEFT:
        freezes = [outcome for outcome in left if outcome.item.action == FREEZE]
        first = freezes[0]
        raise PgopsError(
            f"The freeze of {first.item.object} is due and was not done: {first.why}{_more(freezes)}. In {database} {done}.",
            database=database,
            object_name=first.item.object,
            hint=f"{_way_out(freezes)}. {_age(first)}",
            extra=extra,
        )
    if ended == NOTHING_DONE:
        first = left[0]
        raise PgopsError(
            f"None of {len(left)} pieces of work that are due in {database} was done: {first.item.action} of {first.item.object}: "
            f"{first.why}.",
            database=database,
            object_name=first.item.object,
            hint=f"{_way_out(left)}.",
            extra=extra,
        )


def _more(outcomes: Sequence[Outcome]) -> str:
    return f", and {len(outcomes) - 1} more" if len(outcomes) > 1 else ""


def _way_out(left: Sequence[Outcome]) -> str:
    longest = max(outcome.item.forecast_s for outcome in left)
    return (
        "Run it again when what is named there is over, or give it more time by maintenance_window and maintenance_budget_s: the "
        f"longest piece is expected to take {longest:.0f} s"
    )


def _age(outcome: Outcome) -> str:
    return f"At the end of its age the server refuses writes: {outcome.item.reasons[0]}" if outcome.item.reasons else ""
