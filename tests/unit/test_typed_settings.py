# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each variable of the collection either makes no database easier to touch, and says why, or may not be eased with -e behind a gate."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_settings, waivers
from ansible_collections.whitecross.pgops.plugins.plugin_utils.pgops_variables import SHARED_VARIABLES
from ansible_collections.whitecross.pgops.plugins.plugin_utils.variables import role_options

# Ansible's own, which decide where a run goes.
OF_ANSIBLE = {name for name in typed_settings.RULES if name.startswith("ansible_")}
HARMLESS = {name: reason for reason, names in typed_settings.HARMLESS.items() for name in names}
OF_OTHERS = {name for name, option in role_options().items() if option["role"] in typed_settings.ELSEWHERE}
SOON = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}"
SIGNED = {"check": "window", "version": "1", "reason": "the vendor waits for it", "by": "Ada", "until": SOON}
# rule -> (what is stored, what is stricter or the same, what is eased)
CASES: dict[Any, tuple[Any, list[Any], list[Any]]] = {
    typed_settings.stored: ({"a": [1]}, [{"a": ["1"]}], [None, {}, {"a": [2]}, "x"]),
    typed_settings.on: (True, [True, "yes", 1], [False, "no", None, "", "nonsense"]),
    typed_settings.higher: (4, [4, "4", 5.5], [3, "0", None, "x", float("nan"), [9]]),
    typed_settings.lower: (4, [4, "4", 0], [5, None, "x", float("nan"), float("inf")]),
    typed_settings.watched: (None, [5, "9"], [0, 4, None]),
    typed_settings.fewer: (["LOW", "MEDIUM"], [["LOW"], []], [["HIGH"], ["LOW", "CRITICAL"], "LOW,HIGH", None]),
    typed_settings.more: (["a", "b"], [["a", "b"], "b, a,c"], [["a"], [], "", None, "ab"]),
    typed_settings.same_names: (["a", "b"], [["a", "b"], "a, b"], [["a"], ["b", "a"], "ab", "", None]),
    typed_settings.named: ([{"check": "x"}], [[{"check": "x"}], [], [SIGNED]], [[{"check": "y"}], "x", [SIGNED, {}], None]),
}  # fmt: skip


def test_each_variable_has_been_thought_of_once() -> None:
    known = {*role_options(), *SHARED_VARIABLES}
    places = [set(typed_settings.RULES) - OF_ANSIBLE, set(HARMLESS), OF_OTHERS]
    assert known - set.union(*places) == set(), "neither harmless with a reason, nor kept from being eased"
    assert set.union(*places) - known == set(), "there is no such variable"
    assert sum(map(len, places)) == len(known), "in two places"
    assert set(typed_settings.ELSEWHERE) <= {option["role"] for option in role_options().values()}
    assert all(len(reason) > 10 for reason in HARMLESS.values())


def test_each_rule_is_one_of_those_that_are_tried_here() -> None:
    choices = {name for name, rule in typed_settings.RULES.items() if rule not in CASES}
    assert choices == {"rehearse_query_regression", "migrate_orphans"}
    for name, strict, loose in (
        ("rehearse_query_regression", "stop", "warn"),
        ("migrate_orphans", "stop", "quarantine"),
    ):
        assert typed_settings.eased({name: strict}, [{name: loose}]) == []
        assert typed_settings.eased({name: loose}, [{name: strict}]) == [name]


@pytest.mark.parametrize("rule", CASES, ids=lambda rule: rule.__name__)
def test_more_may_be_asked_for_and_not_less(rule: Any) -> None:
    kept, stricter, easier = CASES[rule]
    for value in stricter:
        assert rule(value, kept), value
    for value in easier:
        assert not rule(value, kept), value


@pytest.mark.parametrize("name", sorted(name for name, rule in typed_settings.RULES.items() if rule in CASES))
def test_each_of_them_is_refused_where_it_is_eased(name: str) -> None:
    kept, stricter, easier = CASES[typed_settings.RULES[name]]
    assert typed_settings.eased({name: easier[0]}, [{name: kept}]) == [name]
    assert typed_settings.eased({name: stricter[0]}, [{name: kept}]) == []
    assert typed_settings.eased({name: easier[0]}, [{name: easier[0]}, {name: kept}]) == [name], (
        "one host of several is enough"
    )


def test_where_the_inventory_says_nothing_the_default_counts() -> None:
    assert typed_settings.eased({"rehearse_blocked_reads": 6}, [{}]) == ["rehearse_blocked_reads"]
    assert typed_settings.eased({"rehearse_blocked_reads": 5, "rehearse_duration": 60}, [{}]) == []
    assert typed_settings.eased({"pgops_phases": "plan,apply"}, [{}]) == ["pgops_phases"]
    assert typed_settings.eased({"__pgops_kept": ["rehearse"], "__own": 1, "site_x": 2}, [{}]) == ["__pgops_kept"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"by": None}, "has no by for 1"),
        ({"reason": "because"}, "of which nobody learns anything later"),
        ({"until": None}, "has no until for 1"),
        ({"until": "31.1.2027"}, "until takes a day"),
        ({"until": "2026-01-01"}, "which is over"),
        ({"until": "2026-02-09"}, "more than 7 days ahead"),
    ],
)
def test_an_exception_that_is_typed_has_a_name_a_reason_and_an_end(change: dict[str, Any], why: str) -> None:
    today = date(2026, 2, 1)
    good = {**SIGNED, "until": "2026-02-08"}
    assert waivers.unsigned([good], [], today) is None
    assert why in str(waivers.unsigned([{**good, **change}], [], today))
    assert waivers.in_force(good, date(2026, 2, 8)) and not waivers.in_force(good, date(2026, 2, 9))
