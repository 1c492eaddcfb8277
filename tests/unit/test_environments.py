# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the guard decides, on plain data; tests/integration/test_guards.py shows it through ansible-playbook."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils.environments import (
    PHASES,
    Refusal,
    check_versions,
    choose_environment,
    choose_phases,
    limit_parts,
    refuse_unproved_production,
)


def choose(limit: str | None, groups_of: dict[str, list[str]]) -> str:
    names = {
        "all",
        "local",
        "staging",
        "production",
        *groups_of,
        *(name for groups in groups_of.values() for name in groups),
    }
    return choose_environment(
        list(groups_of),
        groups_of,
        limit,
        ["local", "staging", "production"],
        ["production"],
        names,
        "ansible-playbook migrate.yml",
    )


@pytest.mark.parametrize(
    ("limit", "hosts", "environment"),
    [
        ("staging", {"s1": ["staging"], "s2": ["staging"]}, "staging"),
        ("s1", {"s1": ["staging"]}, "staging"),
        (None, {"l1": ["local"]}, "local"),
        ("production:!p2", {"p1": ["production"]}, "production"),
        ("prod*", {"p1": ["production"]}, "production"),
    ],
)
def test_one_environment_that_was_named_is_taken(
    limit: str | None, hosts: dict[str, list[str]], environment: str
) -> None:
    assert choose(limit, hosts) == environment


@pytest.mark.parametrize(
    ("limit", "hosts", "sentence"),
    [
        (None, {"p1": ["production"]}, "No -l was given and production is in reach"),
        ("", {"p1": ["production"], "l1": ["local"]}, "No -l was given and production is in reach"),
        (None, {"s1": ["staging"], "l1": ["local"]}, "reaches two environments, local and staging"),
        ("all", {"l1": ["local"]}, "-l all names no environment"),
        ("*", {"l1": ["local"]}, "names no environment"),
        ("local,staging", {"l1": ["local"], "s1": ["staging"]}, "-l local,staging reaches two environments"),
        ("local:staging", {"l1": ["local"], "s1": ["staging"]}, "reaches two environments"),
        ("local,qa", {"l1": ["local"]}, "-l names qa, which is no environment, group or host"),
        ("x1", {"x1": ["staging", "production"]}, "Host x1 is in two environments, staging and production"),
        ("x1", {"x1": ["qa"]}, "Host x1 is in no environment"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(
    limit: str | None, hosts: dict[str, list[str]], sentence: str
) -> None:
    with pytest.raises(Refusal) as refused:
        choose(limit, hosts)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_limit_splits_at_commas_and_colons_but_not_inside_a_slice() -> None:
    assert limit_parts("a,b:c") == ["a", "b:c"]
    assert limit_parts("staging:&web:!s2") == ["staging", "&web", "!s2"]
    assert limit_parts("staging[0:2]") == ["staging[0:2]"]


@pytest.mark.parametrize(
    ("ansible", "python", "sentence"),
    [
        ("2.16.14", (3, 12), "ansible-core 2.16.14 is too old, 2.17 or later is needed"),
        ("2.17.0", (3, 10, 4), "Python 3.10 on the controller is too old, 3.11 or later is needed"),
    ],
)
def test_old_versions_are_refused(ansible: str, python: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(Refusal, match=sentence):
        check_versions(ansible, python)


@pytest.mark.parametrize("ansible", ["2.17.0", "2.19.14", "2.20.0rc1", "3.0.0"])
def test_new_versions_pass(ansible: str) -> None:
    check_versions(ansible, (3, 11))


def test_phases_keep_their_order_and_unknown_ones_are_refused() -> None:
    assert choose_phases(None) == list(PHASES)
    assert choose_phases(["verify", "plan"]) == ["plan", "verify"]
    assert choose_phases("plan, apply") == ["plan", "apply"]
    with pytest.raises(Refusal, match="pgops_phases names rehearsal, which is no phase; choose from preflight"):
        choose_phases(["plan", "rehearsal"])


def test_production_may_not_switch_off_its_backup() -> None:
    with pytest.raises(Refusal, match="pgops_phases leaves out backup, prove, which production holds real data"):
        refuse_unproved_production(["preflight", "plan", "apply", "verify", "report"], "production", ["production"])
    refuse_unproved_production(["plan", "apply"], "local", ["production"])
    refuse_unproved_production(PHASES, "production", ["production"])
