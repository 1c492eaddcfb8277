# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which groups are environments and which are production, however the inventory or a command line writes it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible.parsing.vault import EncryptedString
from ansible_collections.whitecross.pgops.plugins.action import test_migration as any_action
from ansible_collections.whitecross.pgops.plugins.plugin_utils import environment_names, typed_settings
from ansible_collections.whitecross.pgops.plugins.plugin_utils.environment_names import ENVIRONMENTS, PRODUCTION
from ansible_collections.whitecross.pgops.plugins.plugin_utils.environments import Refusal
from support.actions import action, variables
from support.podman import ROOT

# Where the variables may stand by name: who reads them, who has their defaults and rules, and a sentence.
READERS = {"environment_names.py", "environments.py", "pgops_variables.py", "typed_settings.py"}


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("production", ["production"]),
        ("live, staging", ["live", "staging"]),
        (["live"], ["live"]),
        (("live",), ["live"]),
        (None, ["production"]),
        ("", ["production"]),
        (" , ", ["production"]),
        ([], ["production"]),
    ],
)
def test_a_text_is_a_list_with_commas_and_nothing_is_the_default(value: Any, names: list[str]) -> None:
    assert environment_names.listed(PRODUCTION, value) == names
    environment_names.refuse_no_list(PRODUCTION, value, "db1")
    made, of_host = action(any_action.ActionModule), variables(["school"], environment="production")
    of_host[PRODUCTION] = value
    assert made.pgops(of_host, "production_environments") == names
    assert made.in_production(of_host) is ("production" in names)


@pytest.mark.parametrize(
    "value", [True, False, 7, {"production": True}, [["production"]], [None], "['production']", ["a b"]]
)
def test_what_is_no_list_of_names_is_refused_and_switches_nothing_off(value: Any) -> None:
    with pytest.raises(
        Refusal, match=rf"^{PRODUCTION} is .*, and it takes a list of groups, or their names with commas"
    ) as refused:
        environment_names.of_run(
            {"db1": {}, "db2": {PRODUCTION: value}}, "db1", {PRODUCTION: None, ENVIRONMENTS: None}.get
        )
    assert "(set for db2)" in str(refused.value)
    with pytest.raises(Refusal, match="set for db1") as of_template:
        environment_names.of_run({"db1": {PRODUCTION: "{{ a }}"}}, "db1", {PRODUCTION: value, ENVIRONMENTS: None}.get)
    assert "{{" not in str(of_template.value)
    assert environment_names.listed(PRODUCTION, value) == ["production"]


@pytest.mark.parametrize(
    "raw", ["{{ a }}", ["{{ a }}", "b"], "{% if a %}live{% endif %}", EncryptedString(ciphertext="x")]
)
def test_what_is_told_by_a_template_or_a_vault_is_judged_by_what_that_comes_to(raw: Any) -> None:
    found = environment_names.of_run(
        {"db1": {PRODUCTION: raw}, "db2": {PRODUCTION: raw}},
        "db1",
        {PRODUCTION: ["live"], ENVIRONMENTS: "live,web"}.get,
    )
    assert found == (["live", "web"], ["live"])


def test_what_was_typed_is_held_against_the_inventory_in_either_writing() -> None:
    assert (
        typed_settings.eased({PRODUCTION: "production"}, [{PRODUCTION: ["production"]}, {PRODUCTION: "production"}])
        == []
    )
    assert typed_settings.eased({PRODUCTION: "live"}, [{PRODUCTION: "production"}]) == [PRODUCTION]
    assert typed_settings.eased({ENVIRONMENTS: "local,staging,production"}, [{}]) == []
    assert typed_settings.eased({ENVIRONMENTS: "web"}, [{}]) == [ENVIRONMENTS]
    assert typed_settings.eased({"pgops_phases": "plan,apply"}, [{"pgops_phases": "plan, apply"}]) == []


def test_no_place_reads_the_two_variables_by_itself() -> None:
    read = re.compile(rf"(?<!C\()\b({ENVIRONMENTS}|{PRODUCTION})\b")
    files = [
        file
        for folder in ("plugins", "roles", "playbooks")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".yml", ".j2")
    ]
    assert len(files) > 300
    found = {
        f"{file.relative_to(ROOT)}:{number}"
        for file in files
        if file.name not in READERS
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if read.search(line) and "param" not in line and '"""' not in line
    }
    assert found == set()
