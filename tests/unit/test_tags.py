# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`ansible-playbook X.yml --list-tags` reads as the phases of X, and `--list-tasks` shows them in their order."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils.pgops_variables import SHARED_VARIABLES

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = sorted(path.name for path in ROOT.glob("playbooks/*.yml"))
PHASES = [str(phase) for phase in SHARED_VARIABLES["pgops_phases"].default]
# They reach no host, and are one step.
OF_ONE_STEP = {"lint.yml", "new_migration.yml", "audit_verify.yml", "report.yml"}
# Those that have more than a guard, one thing that they are named after, and a report.
OWN = {
    "migrate.yml": {*PHASES} - {"report"},
    "rollback.yml": {"backup", "prove", "rollback", "verify"},
    "backup.yml": {"backup", "prove"},
    "blue_green.yml": {"blue_green", "verify"},
}


@cache
def listed(option: str) -> dict[str, list[str]]:
    """What Ansible prints of each shim at the root, by one process for all; the lines, by playbook."""
    printed = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), option, *PLAYBOOKS],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    parts = re.split(r"^playbook: (\S+)$", printed, flags=re.MULTILINE)[1:]
    return {name: text.splitlines() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def tags(line: str) -> list[str]:
    found = re.search(r"TAGS: \[(.*)\]$", line)
    return [tag.strip() for tag in found[1].split(",") if tag.strip()] if found else []


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_the_tags_of_a_playbook_are_its_phases(name: str) -> None:
    told = {tag for line in listed("--list-tags")[name] for tag in tags(line)}
    if name in OF_ONE_STEP:
        assert told <= {"always"}
        return
    assert "always" in told
    own = told - {"always"}
    if name in OWN:
        assert own == OWN[name]
    else:
        # One word, and the playbook's own.
        (word,) = own
        assert word in name.removesuffix(".yml")


def test_the_phases_of_a_migration_begin_in_their_order() -> None:
    begun: list[str] = []
    for line in listed("--list-tasks")["migrate.yml"]:
        begun += [tag for tag in tags(line) if tag != "always" and tag not in begun]
    assert begun == [phase for phase in PHASES if phase != "report"]


@pytest.mark.parametrize("name", sorted(set(PLAYBOOKS) - OF_ONE_STEP))
def test_every_task_of_a_playbook_has_a_tag(name: str) -> None:
    """One without would be left out by `--tags`, and a guard of it with it."""
    assert [line for line in listed("--list-tasks")[name] if line.endswith("TAGS: []") and "play #" not in line] == []
