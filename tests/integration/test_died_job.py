# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A job that is killed leaves no result: what the run says of it is that the database may be changed, and how to find out."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from support.engine import way
from support.site import Playbook
from support.tree import TestTree

V1, V2, V3 = "20260101000001", "20260101000002", "20260101000003"
SLEEP = "SELECT pg_sleep(60);"


@pytest.fixture
def site(playbook: Playbook, tmp_path: Path) -> Playbook:
    tree = TestTree(tmp_path / "own sql")
    tree.add_sql(V1, "people", "CREATE TABLE people (id int);", "DROP TABLE people;")
    tree.add_sql(V2, "pets", "CREATE TABLE pets (id int);", f"DROP TABLE pets;\n{SLEEP}")
    playbook.variables |= {
        "pgops_sql": str(tree.folder),
        "pgops_phases": ["plan", "apply", "report"],
        "ansible_async_dir": str(tmp_path / "jobs"),
    }
    return playbook


def killed(site: Playbook, name: str, **given: Any) -> tuple[dict[str, Any], str]:
    """Run it, and kill the module where it sleeps. Returns the result and what was said."""
    document = site.folder / f"{name}.json"
    process = site.start(name, pgops_json=str(document), **given)
    site.wait_for_its_sleep(process)
    (pid,) = Path(site.variables["ansible_async_dir"]).glob("*/pid")
    os.kill(int(pid.read_text()), signal.SIGKILL)
    output, _nothing = process.communicate(timeout=60)
    assert process.returncode == 2, output
    return json.loads(document.read_text()), output


def test_a_killed_apply_may_have_changed_the_database(site: Playbook, tmp_path: Path) -> None:
    TestTree(tmp_path / "own sql").add_sql(V3, "beds", f"CREATE TABLE beds (id int);\n{SLEEP}", "DROP TABLE beds;")
    result, output = killed(site, "migrate.yml")
    assert "died without a result" in result["error"]["message"]
    assert result["state"] == "partial"
    assert result["error"]["next"] == [
        "ansible-playbook status.yml -l local",
        "ansible-playbook migrate.yml -l local",
        f"ansible-playbook rollback.yml -l local -e rollback_through={V1}",
    ]
    (target,) = result["advice"]["targets"]
    assert target["versions"] == [V1, V2, V3]
    assert "changed nothing" not in output


def test_a_killed_way_back_leaves_a_record(site: Playbook, target: Any, tmp_path: Path) -> None:
    migrate.apply(target, TestTree(tmp_path / "own sql").render(), Selection(), way())
    result, _output = killed(
        site,
        "rollback.yml",
        rollback_through=V1,
        rollback_confirm=site.database,
        rollback_emergency_backup="skip",
        rollback_emergency="true",
        rollback_reason="a test",
    )
    assert result["state"] == "partial"
    assert Path(result["incident"]).exists()
