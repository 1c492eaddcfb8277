# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The level that a physical proof reaches, and who needs which; the climb itself is in test_physical_ladder.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import physical_backup
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.wal_archive import Physical
from support.module import call


def test_the_module_refuses_a_level_that_it_does_not_reach_before_it_restores(target: Any) -> None:
    for check_mode in (True, False):
        refused = call("physical_prove", target, check_mode=check_mode, directory="/nowhere", level_required=6)
        assert refused["failed"]
        assert "reaches level 5 (indexes, constraints and the application's queries hold) and level 6" in refused["msg"]
        assert "backup_engine=logical" in refused["hint"]


def test_migrate_refuses_physical_alone_where_another_host_is_needed_before_anything_is_backed_up(
    playbook: Any, server: Any, database: str
) -> None:
    playbook.variables |= {"pgops_phases": ["plan", "backup", "prove", "apply"], "backup_engine": "physical"}
    done = playbook("migrate.yml", backup_level_required=6, backup_prove_level=6)
    assert done.rc == 2, done.output
    assert "A physical backup is proved to level 5" in done.json["error"]["message"]
    assert "and local needs level 6" in done.json["error"]["message"]
    logical, less = done.json["error"]["next"]
    assert "-e backup_engine=logical" in logical
    assert "-e backup_restore_point=true" in logical
    assert "-e backup_level_required=5" in less
    assert server.execute("SELECT to_regnamespace('pgops')", database=database) == [(None,)]


def test_a_cluster_goes_back_only_by_a_backup_that_is_proved_as_far_as_the_environment_needs(tmp_path: Path) -> None:
    def refuse(level: int, identifier: str = "4711") -> None:
        physical_backup.refuse_unproved(str(tmp_path), "main", backup, level, identifier)

    backup = Physical(**{name: None for name in Physical.__dataclass_fields__} | {"label": "20261122F"})
    with pytest.raises(
        PgopsError, match="Backup 20261122F was never proved, and level 4 .* is needed; nothing was touched"
    ) as caught:
        refuse(4)
    assert caught.value.extra["reason"] == "level"
    assert "rollback_break_glass" in str(caught.value.hint)
    physical_backup.write_proof(str(tmp_path), "main", {"label": "20261122F", "level": 2, "system_identifier": "4711"})
    refuse(2)
    with pytest.raises(PgopsError, match=r"is proved to level 2 \(restores\), and level 4"):
        refuse(4)
    with pytest.raises(PgopsError, match="was never proved"):
        refuse(2, "4712")
    path = Path(physical_backup.proof_path(str(tmp_path), "main", "20261122F"))
    path.write_text(json.dumps({"label": "another", "level": 5}))
    with pytest.raises(PgopsError, match="was never proved"):
        refuse(2)


@pytest.mark.slow
def test_the_playbooks_name_a_base_backup_that_is_given_in_the_place_of_a_dump(
    playbook: Any, server: Any, database: str, tmp_path: Path
) -> None:
    path = tmp_path / "monday"
    path.mkdir()
    (path / "PG_VERSION").write_text("97\n")
    (path / "backup_label").write_text("START WAL LOCATION: 0/7000028 (file 00)\nINCREMENTAL FROM LSN: 0/5000028\n")
    (path / "backup_manifest").write_text('{"System-Identifier": 4711, "Files": [], "WAL-Ranges": []}')
    before = server.execute("SELECT datname FROM pg_database ORDER BY 1")
    rolled_back = {"rollback_strategy": "restore", "rollback_backup": str(path), "rollback_confirm": database}
    for name, given in (("restore.yml", {"restore_from": str(path)}), ("rollback.yml", rolled_back)):
        done = playbook(name, **given)
        assert done.rc == 2, done.output
        message = done.json["error"]["message"]
        assert f"{path} is an incremental base backup of a whole cluster (plain)" in message
        assert (
            "it cannot be restored: monday stands on the backup of cluster 4711 that began at 0/5000028, which is not beside it"
            in message
        )
        assert "Traceback" not in done.output
    assert server.execute("SELECT datname FROM pg_database ORDER BY 1") == before
