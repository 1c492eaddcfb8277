# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gate and the windows of an environment hold for a blue-green change too, and who types its command does not take them away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support import blue_green
from support.site import Playbook
from support.tree import TestTree

SHUT = [{"opens": "*-02-29 02:00 UTC", "lasts": "1h"}]
GLASS = {
    "gate_break_glass_by": "Ada Byron",
    "gate_break_glass_reason": "the vendor's key runs out tonight",
}


@pytest.fixture
def site(playbook: Playbook) -> Playbook:
    """An environment with a gate and a shut window, for which nothing is prepared: who gets past the gate hears of that."""
    tree = TestTree(playbook.folder / "tree")
    blue_green.versions(tree)
    playbook.variables |= {"gate_required": True, "migrate_windows": SHUT, "pgops_sql": str(tree.folder)}
    return playbook


def change_over(site: Playbook, *words: str, **typed: Any) -> Any:
    return site("blue_green.yml", *words, blue_green_stage="change_over", blue_green_confirm=site.database, **typed)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("typed", "named"),
    [
        # Whether there is a gate is told first.
        ({"gate_required": False, "migrate_windows": []}, ["gate_required"]),
        ({"migrate_windows": []}, ["migrate_windows"]),
        ({"pgops_production_environments": ["nowhere"]}, ["pgops_production_environments"]),
        ({"pgops_notify_events": ["failed"], "pgops_port": 1}, ["pgops_notify_events", "pgops_port"]),
        ({"blue_green_wal_limit_mb": 1_000_000}, ["blue_green_wal_limit_mb"]),
    ],
)
def test_who_types_the_command_does_not_choose_what_is_asked_for(
    site: Playbook, typed: dict[str, Any], named: list[str]
) -> None:
    past = change_over(site, **typed)
    told = f"{', '.join(named)} {'is' if len(named) == 1 else 'are'} typed with -e"
    assert past.rc == 2 and told in past.json["error"]["message"], past.output
    (command,) = past.json["error"]["next"]
    assert command.startswith("ansible-playbook blue_green.yml -l local") and not any(name in command for name in named)


def test_a_shut_window_and_the_gate_refuse_and_more_may_be_typed(site: Playbook) -> None:
    gated = change_over(site, migrate_blackouts=["2026-12-24..2027-01-02 UTC"])
    assert gated.rc == 2 and "this environment has a gate" in gated.json["error"]["message"], gated.output


def test_behind_a_broken_glass_what_is_typed_is_shouted(site: Playbook) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    glass = {**GLASS, "gate_break_glass_expires": soon}
    broken = change_over(site, **glass, migrate_windows=[])
    assert "WITHOUT the approvals of a rehearsal; what the inventory says of migrate_windows" in broken.stdout
    assert "There is nothing to change" in broken.json["error"]["message"]
    never = change_over(site, **glass, gate_required=False)
    assert never.rc == 2 and "gate_required is typed with -e" in never.json["error"]["message"]


@pytest.mark.slow
def test_nobody_hears_of_a_glass_before_the_change_over_so_it_lets_nothing_pass(site: Playbook) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    early = site("blue_green.yml", blue_green_stage="prepare", **GLASS, gate_break_glass_expires=soon, pgops_port=1)
    assert early.rc == 2 and "pgops_port is typed with -e" in early.json["error"]["message"], early.output


@pytest.mark.slow
def test_the_server_of_an_environment_with_a_gate_is_not_named_from_another_one(site: Playbook) -> None:
    site.variables["gate_required"] = False
    site.hosts["production"] = {"production-1": {"gate_required": True, "pgops_host": "db1.hospital.org"}}
    past = change_over(site, pgops_host="db1.hospital.org")
    assert past.rc == 2 and "names the server of production-1" in past.json["error"]["message"], past.output


@pytest.mark.parametrize("name", ["migrate.yml", "blue_green.yml"])
def test_a_playbook_does_not_pass_for_another_one(site: Playbook, name: str) -> None:
    past = site(name, guard_playbook="status", gate_required=False)
    assert past.rc == 2 and "guard_playbook is typed with -e" in past.json["error"]["message"], past.output
    assert not any("guard_playbook" in command for command in past.json["error"]["next"])
