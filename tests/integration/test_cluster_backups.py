# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that share a backup folder have databases of one name; each proves, copies, drills and goes back to its own backups only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_choice,
    cluster_backups,
    drill,
    kept_scratch,
    preflight_looks,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.preflight_checks import Check
from support.backups import small
from support.module import call

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)
OTHER = "7300000000000000002"


@pytest.fixture
def own_id(server: Any) -> str:
    ((found,),) = server.execute("SELECT system_identifier::text FROM pg_control_system()")
    return str(found)


def choices(target: Any, folder: Path) -> list[str]:
    """The folder that each of those chooses who was told no path."""
    place, name = str(folder), {"application_name": "test"}
    return [
        backup_choice.choose(target, place, None, **name)[0].path,
        drill.choose(target, place, None, **name).path,
        kept_scratch.choose(target, place, None, **name).path,
        cluster_backups.newest_own(target, place, hint="", **name).path,
    ]


def test_only_a_backup_of_the_own_cluster_is_chosen(target: Any, database: str, own_id: str, tmp_path: Path) -> None:
    small(tmp_path, database, NOW - HOUR, system_identifier=OTHER)
    own = small(tmp_path, database, NOW - 2 * HOUR, system_identifier=own_id)
    assert choices(target, tmp_path) == [str(own)] * 4
    # One from before manifests had it may be anybody's.
    untold = small(tmp_path, database, NOW - HOUR / 2)
    assert choices(target, tmp_path) == [str(untold)] * 4


def test_that_only_another_cluster_has_backups_is_told(target: Any, database: str, tmp_path: Path) -> None:
    small(tmp_path, database, NOW - HOUR, system_identifier=OTHER)
    with pytest.raises(PgopsError, match=": 0 backups are there, 0 of them proved, and 1 of another cluster"):
        backup_choice.choose(target, str(tmp_path), None, application_name="test")
    for choose in (drill.choose, kept_scratch.choose):
        with pytest.raises(PgopsError, match=f"no backup of {database} of this cluster, only 1 of another one, in "):
            choose(target, str(tmp_path), None, application_name="test")
    for module, options in (("prove", {}), ("backup_copy", {"places": [{"path": str(tmp_path)}]})):
        result = call(module, target, directory=str(tmp_path), **options)
        assert result["failed"]
        assert f"no backup of {database} of this cluster, only 1 of another one, in " in result["msg"]


def test_while_the_server_is_down_only_those_of_several_clusters_have_to_be_named(
    target: Any, database: str, own_id: str, tmp_path: Path
) -> None:
    down = target.with_(port="1")
    own = small(tmp_path, database, NOW - HOUR, system_identifier=own_id)
    assert drill.choose(down, str(tmp_path), None, application_name="test").path == str(own)
    small(tmp_path, database, NOW - 2 * HOUR, system_identifier=OTHER)
    with pytest.raises(PgopsError, match="There are backups of 2 clusters that have a database") as caught:
        drill.choose(down, str(tmp_path), None, application_name="test")
    assert "backup_list.yml says of which cluster each is" in str(caught.value.hint)


def test_preflight_takes_no_other_cluster_s_backup_for_a_fresh_one(own_id: str, tmp_path: Path) -> None:
    small(tmp_path, "white_cross", NOW - HOUR, system_identifier=OTHER)
    small(tmp_path, "white_cross", NOW - 30 * HOUR, system_identifier=own_id)
    check = Check("backup_age", "the last backup")
    age, _proof = preflight_looks.backups(
        check, check, str(tmp_path), "white_cross", cluster=own_id, engine="logical", environment="production", limit="",
        thresholds={"backup_age_h": 24, "backup_level": 4}, now=NOW,
    )  # fmt: skip
    assert "the last is 30 hours old" in age["evidence"]
