# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rollback of production needs before it begins, on plain data."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import rehearsals, rollback_plan
from ansible_collections.whitecross.pgops.plugins.plugin_utils.environments import Refusal
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import read_tree
from ansible_collections.whitecross.pgops.plugins.plugin_utils.rollback_ranks import FILE, read_ranks
from support.podman import ROOT

# A Saturday.
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NEVER = [{"opens": "2020-01-01 22:00 UTC", "lasts": "1h"}]


def settled(*, production: bool = True, check: bool = False, **given: Any) -> dict[str, str]:
    typed = {name: value for name, value in given.items() if name.startswith("rollback_")}
    run = {"given": {"variables": {"rollback_reason": "why", **typed}, "files": [], "inventory": []}}
    run["command"] = "ansible-playbook rollback.yml"
    windows_of = {"db1": given.pop("migrate_windows", None)}
    return rollback_plan.settled(
        {"ansible_run_tags": ["all"], **given}, windows_of, production, check, run, "production"
    )


def refusal(**given: Any) -> tuple[str, list[str]]:
    with pytest.raises(Refusal) as refused:
        settled(**given)
    return str(refused.value), refused.value.next


@pytest.mark.parametrize(
    ("given", "typed"),
    [
        ({}, "-e rollback_reason=why -e rollback_strategy=auto"),
        ({"rollback_strategy": "down"}, "-e rollback_reason=why -e rollback_strategy=down -e rollback_steps=1"),
    ],
)
def test_production_says_where_it_goes(given: dict[str, Any], typed: str) -> None:
    sentence, commands = refusal(**given)
    assert "no version is named" in sentence
    assert commands == [f"ansible-playbook rollback.yml -l production {typed}"]
    assert settled(production=False, **given) == {"emergency": ""}


@pytest.mark.parametrize(
    "given",
    [
        {"rollback_steps": "1"}, {"rollback_keep": "1"}, {"rollback_through": "1"}, {"rollback_version": "1"},
        {"rollback_strategy": "auto"}, {"rollback_strategy": "restore"}, {"rollback_strategy": "pitr"},
    ],
)  # fmt: skip
def test_a_version_or_a_way_says_it(given: dict[str, Any]) -> None:
    assert settled(**given)["window"] == "at any time: no window is declared in migrate_windows"


@pytest.mark.parametrize(
    ("tags", "left_out"),
    [
        ({"ansible_skip_tags": ["verify"]}, "verify"),
        ({"ansible_run_tags": ["rollback"]}, "backup, prove, verify"),
        ({"ansible_run_tags": ["rollback", "backup", "verify"]}, "prove"),
    ],
)
def test_tags_leave_out_neither_backup_nor_proof_nor_verification(tags: dict[str, Any], left_out: str) -> None:
    sentence, commands = refusal(rollback_steps="1", **tags)
    assert f"leaves out {left_out}; without them" in sentence
    assert commands == ["ansible-playbook rollback.yml -l production -e rollback_reason=why -e rollback_steps=1"]
    assert settled(rollback_strategy="unfence", **tags)


def test_the_windows_of_each_host_have_to_be_open() -> None:
    always = [{"opens": "*-*-* 00:00 UTC", "lasts": "24h"}]
    assert rollback_plan.windows_told({"db1": always, "db2": always}, NOON)[0]
    assert rollback_plan.windows_told({"db1": None, "db2": None}, NOON)[0]
    for windows_of in ({"db1": always, "db2": NEVER}, {"db1": None, "db2": NEVER}):
        opens, told = rollback_plan.windows_told(windows_of, NOON)
        assert not opens
        assert told.startswith("outside of each window") and told.endswith("for db2")
    assert not rollback_plan.windows_told({"db1": NEVER, "db2": NEVER}, NOON)[1].endswith("for db1")


def test_it_begins_in_a_window_or_as_an_emergency_that_is_recorded() -> None:
    sentence, commands = refusal(rollback_steps="1", migrate_windows=NEVER)
    assert "begins in a window, and this is outside of each window at" in sentence and "none opens any more" in sentence
    assert commands[0].endswith("-e rollback_steps=1 -e rollback_emergency=true")
    shut = settled(rollback_steps="1", migrate_windows=NEVER, rollback_emergency="true")
    assert shut["emergency"] == "declared" and shut["window"].startswith("outside of each window")
    assert rollback_plan.line(shut).endswith("; emergency: declared")
    by_itself = settled(rollback_through="1", migrate_windows=NEVER, part_of="20260101T000000Z-aaaaaa")
    assert by_itself["emergency"] == "begun by itself, by run 20260101T000000Z-aaaaaa"
    assert settled(rollback_steps="1", migrate_windows=NEVER, check=True)["window"].startswith("outside")
    for strategy in ("unfence", "swap", "undo_swap"):
        assert settled(rollback_strategy=strategy, migrate_windows=NEVER)


def test_a_window_that_is_open_is_told_and_one_that_says_nothing_refused() -> None:
    saturday = [{"opens": "Sat 11:00 UTC", "lasts": "2h"}]
    assert rollback_plan.window(saturday, NOON) == (True, "in a window that closes at Sat 2026-11-21 13:00 UTC")
    sentence, _commands = refusal(rollback_steps="1", migrate_windows=[{"opens": "whenever", "lasts": "2h"}])
    assert "window 1 of migrate_windows opens at 'whenever'" in sentence


# -- order and rank ------------------------------------------------------------------------------------------------------

# As the handbook has them.
BACKWARDS = [
    "20251103204744", "20251011000000", "20251010000000", "20251009013303",
    "20250103000003", "20250103000002", "20250103000001", "20250103000000",
]  # fmt: skip


def test_the_shipped_chain_goes_back_in_the_order_of_the_handbook() -> None:
    page = (ROOT / "docs" / "order.md").read_text(encoding="utf-8")
    versions = [migration.version for migration in read_tree(ROOT / "sql").migrations]
    backwards = list(reversed(versions))
    assert [version for version in backwards if version in BACKWARDS] == BACKWARDS
    batch = [version for version in backwards if version.startswith("20251106")]
    assert len(batch) == 5 and backwards.index(batch[-1]) < backwards.index(BACKWARDS[0])
    assert "go back in the reverse order" in page
    places = [page.index(f"| [`{version}`]") for version in versions]
    assert places == sorted(places), "the page lists them in their order"


def test_the_shipped_versions_are_ranked_as_the_handbook_ranks_them() -> None:
    ranks = read_ranks(ROOT / "sql")
    known = {migration.version for migration in read_tree(ROOT / "sql").migrations}
    assert set(ranks) <= known
    order = ["20251011000000", "20251010000000", "20251009013303", "20251009011130", "20251003162519"]
    assert [ranks[version].partition(",")[0] for version in order] == ["1", "2", "3", "4", "by hand"]


def test_a_tree_without_ranks_has_none_and_one_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    assert read_ranks(tmp_path) == {}
    for wrong in ("- versions: [1]", "a: b: c", "7"):
        (tmp_path / FILE).write_text(wrong)
        with pytest.raises(PgopsError, match="rollback_rank"):
            read_ranks(tmp_path)


# -- rehearsals ----------------------------------------------------------------------------------------------------------


def went_back(state: Path, run: str, strategy: str, *versions: str, ok: bool = True) -> None:
    journal = Journal(state, "staging", run)
    reverted = [{"version": version} for version in versions]
    phase, result = ("revert", {"school": {"reverted": reverted}}) if versions else (strategy, {"school": {}})
    for event in (
        {"event": "run_started", "playbook": "rollback"},
        {"event": "announced", "strategy": strategy},
        {"event": "phase_finished", "phase": phase, "result": result},
        {"event": "run_finished" if ok else "run_failed"},
    ):
        journal.append(event)


def test_what_the_environment_before_has_gone_back_by_is_known_by_its_journals(tmp_path: Path) -> None:
    first, second, third = (f"2026010{day}T000000Z-aaaaaa" for day in (1, 2, 3))
    went_back(tmp_path, first, "down", "20260101000001")
    went_back(tmp_path, second, "down", "20260101000002", ok=False)
    went_back(tmp_path, third, "restore")
    done, failed = rehearsals.told(tmp_path, "staging", "down", ["20260101000001", "20260101000002"])
    assert done.startswith("rehearsed: staging has gone back by 20260101000001 at ") and f"(run {first})" in done
    assert failed.startswith("NOT REHEARSED: no rollback by 20260101000002 in staging")
    assert failed.endswith("ansible-playbook rollback.yml -l staging -e rollback_through=20260101000002")
    assert rehearsals.told(tmp_path, "staging", "restore", [])[0].startswith("rehearsed: ")
    assert rehearsals.told(tmp_path, "staging", "pitr", [])[0].endswith("-l staging -e rollback_strategy=pitr")


def test_how_often_going_back_went_well_is_counted_and_not_claimed(tmp_path: Path) -> None:
    assert rehearsals.rate(tmp_path, "staging") is None
    went_back(tmp_path, "20260101T000000Z-aaaaaa", "down", "20260101000001")
    assert rehearsals.rate(tmp_path, "staging") == "1 of the last 1 rollbacks in staging came to their end (100 %)"
    went_back(tmp_path, "20260102T000000Z-aaaaaa", "restore", ok=False)
    went_back(tmp_path, "20260103T000000Z-aaaaaa", "down", "20260101000001")
    refused = Journal(tmp_path, "staging", "20260104T000000Z-aaaaaa")
    refused.append({"event": "run_started", "playbook": "rollback"})
    refused.append({"event": "run_failed"})
    assert rehearsals.rate(tmp_path, "staging") == "2 of the last 3 rollbacks in staging came to their end (66 %)"
