# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nobody types away of production, which internals nobody types, and whose word on a migration's own rollback is believed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.whitecross.pgops.plugins.action import rollback_advice
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    part_of_run,
    production_guard,
    rollback_targets,
    typed_commands,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.environments import Refusal
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal
from support.actions import action, variables

RUN, LONG_AGO = "20260101T120000Z-0a1b2c", "2026-01-01T12:00:00.000Z"
OPEN = [{"opens": "*-*-* 00:00 UTC", "lasts": "24h"}]
INVENTORY = {"migrate_windows": [{"opens": "2020-01-01 22:00 UTC", "lasts": "1h"}]}


def guard(playbook: str, *, inventory: dict[str, Any] | None = None, part_of: str = "", **typed: Any) -> list[str]:
    """:return: the command that is told instead; nothing where it may begin."""
    given = {"variables": typed, "files": [], "inventory": [], "options": []}
    run = {"playbook": playbook, "environment": "production", "part_of": part_of, "given": given}
    run["command"] = f"ansible-playbook {playbook}.yml"
    kept: Any = SimpleNamespace(of=lambda host, names: INVENTORY if inventory is None else inventory)
    try:
        production_guard.refuse_eased(run, typed, ["db1"], kept, Templar(DataLoader()), "production")
        production_guard.refuse_internals(run, typed, "production")
    except Refusal as refusal:
        return refusal.next
    return []


def test_neither_which_are_environments_nor_which_are_production_is_typed() -> None:
    command = ["ansible-playbook backup.yml -l production"]
    assert guard("backup", pgops_environments=["web"]) == command
    assert guard("backup", pgops_environments="production,staging,local") == command
    assert guard("backup", pgops_production_environments="staging") == command
    assert (
        guard("backup", inventory={"pgops_production_environments": "production"}, pgops_production_environments="live")
        == command
    )
    assert (
        guard(
            "backup", pgops_environments="local,staging,production", pgops_production_environments="production,staging"
        )
        == []
    )


def test_an_internal_of_the_playbooks_is_not_typed() -> None:
    for playbook in ("rollback", "migrate", "backup", "stop"):
        assert guard(playbook, __pgops_only_tell=True) == [f"ansible-playbook {playbook}.yml -l production"]
        assert guard(playbook, __rollback_strategy="unfence") == [f"ansible-playbook {playbook}.yml -l production"]
    assert guard("rollback", __pgops_part_of=RUN) == ["ansible-playbook rollback.yml -l production"]
    assert guard("rollback", __pgops_part_of=RUN, part_of=RUN) == []
    # Called as the rollback was that was cut off.
    assert guard("hooks", __pgops_part_of=RUN) == guard("stop", __pgops_part_of=RUN) == []
    assert guard("rollback", __own=1, __site_x=2) == []


def test_windows_of_the_migration_keep_back_nothing_that_waits_for_none() -> None:
    assert guard("rollback", migrate_windows=OPEN) == ["ansible-playbook rollback.yml -l production"]
    assert guard("rollback", migrate_windows=OPEN, part_of=RUN, __pgops_part_of=RUN) == []
    for strategy in ("unfence", "swap", "undo_swap"):
        assert guard("rollback", migrate_windows=OPEN, rollback_strategy=strategy) == []
    assert guard("rollback", migrate_windows=OPEN, rollback_strategy="restore")
    # The other words of production stay the inventory's, whoever has begun it.
    assert guard("rollback", migrate_windows=OPEN, pgops_production_environments=["x"], part_of=RUN)


def test_a_rollback_is_not_told_with_the_windows_of_the_migration() -> None:
    given = {"variables": {"migrate_windows": OPEN, "pgops_database": "school"}}
    of_migration = {"command": "ansible-playbook site/migrate.yml", "given": given}
    back = typed_commands.other(of_migration, "rollback", "production", {"rollback_steps": "1"})
    assert back == "ansible-playbook site/rollback.yml -l production -e pgops_database=school -e rollback_steps=1"
    assert "migrate_windows" in typed_commands.again(of_migration, "production")
    assert "migrate_windows" in typed_commands.other(of_migration, "status", "production")
    for command in ("ansible-playbook rollback.yml", "ansible-playbook whitecross.pgops.rollback"):
        of_rollback = {"command": command, "given": given}
        assert typed_commands.again(of_rollback, "production") == f"{command} -l production -e pgops_database=school"
        assert "migrate_windows" not in typed_commands.before_limit(of_rollback, command)


# -- whose part it is ------------------------------------------------------------------------------------------------------


@pytest.fixture
def migration() -> Iterator[int]:
    """A process that goes on and is an ansible-playbook by its name."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "ansible-playbook"])
    yield process.pid
    process.kill()
    process.wait()


def begun(state: Path, pid: int, **more: Any) -> Journal:
    journal = Journal(state, "production", RUN)
    journal.append({"event": "run_started", "playbook": "migrate", "pid": pid})
    journal.append({"event": "rollback_started", "number": 1, "host": "db1", "databases": ["school", "clinic"], **more})
    return journal


def believed(state: Path, given: Any = RUN, hosts: Any = ("db1",), databases: Any = ("school", "clinic")) -> str:
    return part_of_run.believed(given, state, "production", hosts, databases)


def test_the_rollback_that_a_living_migration_has_begun_is_its_part(tmp_path: Path, migration: int) -> None:
    assert believed(tmp_path) == "", "there is no such run"
    journal = begun(tmp_path, migration)
    assert believed(tmp_path) == RUN
    assert believed(tmp_path, hosts=["db2"]) == believed(tmp_path, hosts=["db1", "db2"]) == ""
    assert believed(tmp_path, databases=["school"]) == believed(tmp_path, databases=[]) == ""
    assert believed(tmp_path, "../x") == believed(tmp_path, None) == believed(tmp_path, ["x"]) == ""
    assert part_of_run.believed(RUN, tmp_path, "staging", ["db1"], ["school", "clinic"]) == ""
    journal.append({"event": "rollback_finished", "number": 1, "ok": True})
    assert believed(tmp_path) == "", "it has ended"


def test_the_word_of_a_run_that_is_over_is_not_believed(tmp_path: Path, migration: int) -> None:
    begun(tmp_path, migration).append({"event": "run_failed"})
    assert believed(tmp_path) == ""
    gone = subprocess.Popen(["true"])
    gone.wait()
    begun(tmp_path / "killed", gone.pid, time=LONG_AGO)
    assert believed(tmp_path / "killed") == ""
    begun(tmp_path / "starting", gone.pid)
    assert believed(tmp_path / "starting") == RUN, "it was killed while its rollback was being started, which goes on"
    begun(
        tmp_path / "another",
        os.getpid() if b"ansible" not in Path("/proc/self/cmdline").read_bytes() else 1,
        time=LONG_AGO,
    )
    assert believed(tmp_path / "another") == "", "the number is another process's"


@pytest.mark.parametrize("of_host", ["", "the same", "another"])
def test_the_rollback_finds_the_journal_of_its_migration_whatever_folder_its_host_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_host: str
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(sys, "argv", ["ansible-playbook", "migrate.yml", "-l", "staging"])
    task = action(rollback_advice.ActionModule)
    monkeypatch.setattr(
        rollback_advice.ActionModule, "_follow", staticmethod(lambda command, log: called.append(command) or 1)
    )
    run = variables(["school"], command="ansible-playbook migrate.yml")["ansible_facts"]["__pgops_run"]
    rollback = rollback_targets.Rollback("db2", ("school",), {"rollback_strategy": "down"}, ("1",))
    kept = {"the same": str(tmp_path), "another": str(tmp_path / "db2")}.get(of_host, "")
    journal = Journal(tmp_path, "staging", run["id"])
    task._roll_back(journal, run, rollback, 1, "a reason", {"severity": None}, kept=kept)
    given = json.loads(called[0][-1])
    assert given.get("pgops_state_directory") == (None if of_host == "the same" else str(tmp_path))
    assert given[part_of_run.VARIABLE] == run["id"]
