# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of a rollback that cannot be meant are refused before anything is reached."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils import refused_values
from ansible_collections.whitecross.pgops.plugins.plugin_utils.variables import role_options


@pytest.mark.parametrize(
    "name", ["rollback_keep_days", "rollback_emergency_backup_timeout", "rollback_max_backup_age_days"]
)
def test_a_time_that_is_less_than_nothing(name: str) -> None:
    for value in (-1, "-0.5", "soon", "nan"):
        found = refused_values.wrong_value({name: value}, role_options())
        assert found is not None
        assert found.sentence == f"{name} is {value}, and it takes a number from 0 on"
    assert refused_values.wrong_value({name: 0}, role_options()) is None


@pytest.mark.parametrize("name", ["pgops_lease", "pgops_connect_timeout"])
@pytest.mark.parametrize("value", [0, -1, "-1", "0"])
def test_a_lease_and_a_timeout_have_at_least_a_second(name: str, value: object) -> None:
    found = refused_values.wrong_value({name: value}, role_options())
    assert found is not None
    assert (found.sentence, found.instead) == (f"{name} is {value}, and it takes a whole number from 1 on", None)
    assert refused_values.wrong_value({name: 1}, role_options()) is None


def test_a_poll_is_not_made_before_the_last_one() -> None:
    found = refused_values.wrong_value({"pgops_poll_interval": "-1"}, role_options())
    assert found is not None
    assert found.sentence == "pgops_poll_interval is -1, and it takes a number from 0 on"
    assert refused_values.wrong_value({"pgops_poll_interval": 0.05}, role_options()) is None


def test_a_choice_of_the_copy_that_there_is_not() -> None:
    found = refused_values.wrong_value({"rollback_emergency_backup": "requiree"}, role_options())
    assert found is not None
    assert (found.sentence, found.instead) == (
        "rollback_emergency_backup is requiree, and it takes one of require, try, skip", "require",
    )  # fmt: skip


@pytest.mark.parametrize("strategy", ["auto", "undo_swap"])
def test_what_a_way_passes_over_is_refused(strategy: str) -> None:
    given = {"rollback_strategy": strategy, "rollback_keep": "20260101000001"}
    assert refused_values.stray_selection(given) == ("rollback_keep", "down", strategy)
