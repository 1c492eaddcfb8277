# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A step that stopped between two of its statements and goes on with another text behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    begun_steps,
    existing,
    ledger,
    sql_step,
    states_before,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext


def with_added(
    context: StepContext, step: ledger.Step, began: Mapping[str, Any], now: Mapping[str, Any]
) -> ledger.Step:
    """Look at what only the text of now speaks of, as the first statement of a version does for all, and record it. Call before
    that text takes the place of the other one in the ledger.

    Takes ACCESS SHARE for a moment on the table of a default, no other lock.

    :param step: the step as the ledger has it, of which some statements are committed.
    :param began: the version, rendered, as the ledger has it.
    :param now: as it goes on.
    :return: the step, with what was found in its progress.
    """
    committed = begun_steps.committed_statements(step)
    old, new = began["steps"][step.ordinal - 1], now["steps"][step.ordinal - 1]
    done = [one for one in now["steps"][: step.ordinal - 1] if one["kind"] == "sql"]
    executed = [*(statement for one in done for statement in one["up"]), *new["up"][:committed]]
    known = {existing.describe(item) for item in sql_step.undone(old["up"], old.get("down") or []) if item}
    # What they have made is there by now, and was not before.
    known |= {existing.describe(statement["creates"]) for statement in executed if statement.get("creates")}
    dropped = sql_step.undone(new["up"], new.get("down") or [])
    added = [item if item and existing.describe(item) not in known else None for item in dropped]

    def look() -> dict[str, Any]:
        with transaction(context.conn, context.limits(context.budget("statement_timeout_s"))) as ending:
            there = [existing.describe(added[number] or {}) for number in sorted(existing.present(context.conn, added))]
            states = states_before.Before(steps=now["steps"]).record_added(
                context.conn, states_before.Before(steps=began["steps"]), executed
            )
            found: dict[str, list[Any]] = {"there_before": there, states_before.PROGRESS: states}
            more = {name: [*step.progress.get(name, []), *items] for name, items in found.items() if items}
            if more:
                ending.append(context.saved("running", {**step.progress, **more}))
            return more

    return replace(step, progress={**step.progress, **context.patiently(look, wanted=[])})
