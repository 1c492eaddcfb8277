# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""In which batches hosts and databases go, and who of a fleet is where at the end."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.filter.batch_sizes import batch_sizes
from ansible_collections.whitecross.pgops.plugins.filter.canary_first import canary_first
from ansible_collections.whitecross.pgops.plugins.plugin_utils import batches, fleet_summary

TENANTS = [f"t{number}" for number in range(1, 21)]


def lengths(cut: list[list[str]]) -> list[int]:
    return [len(batch) for batch in cut]


def test_the_canary_goes_alone_and_the_others_in_growing_batches() -> None:
    cut = batches.split(TENANTS, ["t7"], None)
    assert cut[0] == ["t7"]
    assert lengths(cut) == [1, 2, 6, 11]
    assert sorted(name for batch in cut for name in batch) == sorted(TENANTS)


def test_without_a_canary_and_sizes_all_go_at_once() -> None:
    assert batches.split(TENANTS, [], None) == [TENANTS]
    assert batch_sizes("", "", TENANTS) == ["100%"]


def test_the_last_size_goes_on_to_the_end() -> None:
    assert lengths(batches.split(TENANTS, [], "1,8")) == [1, 8, 8, 3]
    assert lengths(batches.split(TENANTS, ["t1", "t2"], [1, "50%"])) == [2, 1, 10, 7]
    assert lengths(batches.split(TENANTS[:3], [], "10%")) == [1, 1, 1]


def test_a_canary_that_is_no_host_changes_no_batch_of_hosts() -> None:
    assert batch_sizes("", "tenant_1", ["h1", "h2"]) == ["100%"]
    assert canary_first(["h1", "h2"], "tenant_1") == ["all"]
    assert batch_sizes("3", "h2,tenant_1", ["h1", "h2"]) == ["1", "3"]
    assert canary_first(["h1", "h2"], "h2,tenant_1") == ["h2", "all"]


@pytest.mark.parametrize("size", ["0", "-1", "ten", "1.5", "%", "0%"])
def test_a_size_that_cannot_be_meant_is_told(size: str) -> None:
    assert batches.wrong_size(f"1,{size}") == size
    assert batches.sizes(f"1,{size}", 0) == ["100%"], "which the guard has refused by then"


def phase(host: str, name: str, database: str, result: dict[str, Any] | None, **error: Any) -> dict[str, Any]:
    kind = "phase_failed" if error else "phase_finished"
    found = {"event": kind, "phase": name, "host": host, "result": {database: result} if result else None}
    return {**found, "error": error} if error else found


def test_a_phase_that_names_no_database_failed_for_its_whole_host() -> None:
    events = [
        {"event": "phase_started", "phase": "plan", "host": "h1", "databases": ["a", "b"]},
        phase("h1", "plan", "a", None, message="no answer"),
    ]
    found = fleet_summary.members(events, ["h1", "h2"], {})
    assert [(item["host"], item["database"], item["state"], item["why"]) for item in found] == [
        ("h1", "a", "failed", "plan"), ("h1", "b", "failed", "plan"), ("h2", None, "not begun", None)
    ]  # fmt: skip


def test_one_whose_clients_are_not_well_is_migrated_and_not_taken_again() -> None:
    done = {"applied": [{"version": "2"}], "health": {"findings": ["slow"]}}
    events = [phase("h1", "apply", "a", done, message="a is not well", unwell={"a": ["slow"]})]
    plan = {"applied": ["1"], "pending": [{"version": "2"}]}
    results = {"h1": {"a": {"plan": plan, "apply": done}, "b": {"plan": plan}}}
    found = fleet_summary.members(events, ["h1"], results)
    assert [(item["database"], item["version"], item["state"]) for item in found] == [
        ("a", "2", "not well"), ("b", "1", "untouched")
    ]  # fmt: skip
    assert fleet_summary.only_failed({}, found) == []


def test_one_whose_clients_were_not_watched_is_no_failed_one_and_neither_is_one_that_was_not_begun() -> None:
    done = {"applied": [{"version": "2"}]}
    plan = {"applied": ["1"], "pending": [{"version": "2"}]}
    results = {"h1": {"a": {"plan": plan, "apply": done}, "b": {"plan": plan}, "c": {"plan": plan}}}
    cut_off = phase("h1", "apply", "a", done, message="server away", not_looked_at=["a"], untouched=["b", "c"])
    cut_off["error"]["database"] = "a"
    found = fleet_summary.members([cut_off], ["h1"], results)
    assert [(item["database"], item["state"], item["why"]) for item in found] == [
        ("a", "not looked at", "apply"), ("b", "untouched", None), ("c", "untouched", None)
    ]  # fmt: skip
    asked_to_end = phase("h1", "apply", "a", done, message="asked to stop", untouched=["b", "c"])
    asked_to_end["error"]["database"] = "b"
    found = fleet_summary.members([asked_to_end], ["h1"], results)
    assert [(item["database"], item["state"]) for item in found] == [
        ("a", "migrated"), ("b", "untouched"), ("c", "untouched")
    ]  # fmt: skip


def test_a_canary_with_nothing_pending_is_judged_by_what_the_others_are_about_to_get() -> None:
    plan = {
        "a": {"applied": ["1", "2", "3"], "pending": []},
        "b": {"applied": ["1"], "pending": [{"version": "2"}, {"version": "3"}]},
        "c": {"applied": ["1", "2"], "pending": [{"version": "3"}]},
    }
    assert batches.judged_again(["a"], plan, "h1") == {"a": ["2", "3"]}
    assert batches.judged_again(["b", "h2"], plan, "h1") == {}, "it is migrated first, and watched then"
    done = {"a": plan["a"], "b": plan["a"]}
    assert batches.judged_again(["a"], done, "h1") == {}, "nobody follows"
    assert batches.judged_again(["h1"], done, "h1") == {"a": [], "b": []}, "other hosts may"


def test_the_command_for_the_failed_ones_names_them_and_no_canary() -> None:
    run = {
        "command": "ansible-playbook migrate.yml",
        "given": {"variables": {"migrate_canary": "a", "pgops_port": "5433"}},
    }
    fleet = [
        {"host": "h1", "database": "a", "state": "migrated"},
        {"host": "h2", "database": "a", "state": "failed"},
        {"host": "h3", "database": "a", "state": "failed"},
    ]
    assert fleet_summary.only_failed(run, fleet) == ["ansible-playbook migrate.yml -l h2,h3 -e pgops_port=5433"]
    assert fleet_summary.only_failed(run, fleet[:1]) == []
    assert fleet_summary.only_failed(run, fleet[1:]) == [], "the command as typed is the same"


def test_hosts_on_which_other_databases_failed_have_a_command_each() -> None:
    """One list of names for both would take on each host what failed on the other."""
    outcome = {"h1": "ab-", "h2": "b", "h3": "b", "h4": "ab", "h5": ""}
    fleet = [
        {"host": host, "database": database, "state": "failed" if database in failed else "migrated"}
        for host, failed in outcome.items()
        for database in ("ab" if "-" in failed else "abc" if host != "h4" else "ab")
    ]
    assert fleet_summary.only_failed({}, fleet) == [
        "ansible-playbook migrate.yml -l h1,h4",
        """ansible-playbook migrate.yml -l h2,h3 -e '{"pgops_databases": ["b"]}'""",
    ]
    other = [{**item, "state": "migrated"} if item["host"] == "h3" else item for item in fleet]
    other = [{**item, "state": "failed"} if (item["host"], item["database"]) == ("h5", "a") else item for item in other]
    assert fleet_summary.only_failed({}, other)[1:] == [
        """ansible-playbook migrate.yml -l h2 -e '{"pgops_databases": ["b"]}'""",
        """ansible-playbook migrate.yml -l h5 -e '{"pgops_databases": ["a"]}'""",
    ]
