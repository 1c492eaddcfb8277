# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A limit of time that was hit, told with the place where a larger one is heard."""

from __future__ import annotations

from typing import Protocol

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

# By budget the variable that gives one run another one. On the way up a version's own migration.yml is read again.
_UP = {"index_timeout_s": "migrate_index_timeout"}
_DOWN = {**_UP, "statement_timeout_s": "rollback_statement_timeout", "lock_budget_s": "rollback_lock_budget"}
# What statement_timeout takes, in milliseconds of 32 bits.
MOST_S = 2_147_483


class Limited(Protocol):
    """What is asked of a step, see :class:`step_context.StepContext`."""

    direction: str
    on_a_copy: bool

    @property
    def doing(self) -> str:
        """:return: the step in words."""

    def budget(self, name: str) -> int:
        """:return: a budget of its version."""


def larger(step: Limited, budget: str) -> str:
    """:return: where more of a budget is given, for a hint."""
    variable = _variable(step, budget)
    ways = [f"-e {variable}=SECONDS"] if variable else []
    if not _by_stored_text(step):
        ways.append(f"budgets.{budget} in its migration.yml")
    return ", or ".join(ways)


def tell(step: Limited, error: PgopsError, budget: str, where: str, limit_s: float | None = None) -> None:
    """Make the error of a statement one of its limit.

    :param where: what ran then, as "when it built index x".
    :param limit_s: seconds, in the place of the budget's.
    """
    seconds = step.budget(budget)
    error.message = f"{step.doing} hit its time limit of {seconds if limit_s is None else limit_s:.0f} s {where} (SQLSTATE {error.sqlstate})"
    error.args = (error.message,)
    error.hint = _hint(step, budget)
    error.extra["reason"] = "time_limit"
    variable = _variable(step, budget)
    if variable and _by_stored_text(step):
        # The same command would run into the same limit.
        error.extra["larger"] = {variable: min(2 * seconds, MOST_S)}


def _hint(step: Limited, budget: str) -> str:
    if budget == "index_timeout_s":
        return f"Run it again in a quiet period, or with a larger limit: {larger(step, budget)}."
    if _by_stored_text(step):
        return (
            "The way down goes by what was stored when the version was applied, not by its migration.yml. Run it again with a larger limit: "
            f"{larger(step, budget)}; or go back to a backup: -e rollback_strategy=restore."
        )
    return f"Split the step, or raise {larger(step, budget)}."


def _by_stored_text(step: Limited) -> bool:
    return step.direction == "down" and not step.on_a_copy


def _variable(step: Limited, budget: str) -> str | None:
    return (_DOWN if _by_stored_text(step) else _UP).get(budget)
