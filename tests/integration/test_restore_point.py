# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore point is only one when its WAL is archived; who may not make one, and a server that archives nothing, are told so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.engine import target_of
from support.module import call
from support.server import MIGRATOR, OWNER, RESTORE


def test_a_server_that_archives_nothing_is_refused_and_so_is_a_name_that_is_none(target: Any) -> None:
    refused = call("restore_point", target, run_id="20261122T120000Z-0a1b2c")
    assert "archives no WAL (archive_mode = off" in refused["msg"]
    assert "archive_mode = on" in refused["hint"]
    assert "archives no WAL" in call("restore_point", target, check_mode=True)["msg"]
    assert "is no name of a restore point" in call("restore_point", target, restore_point="a b")["msg"]


def test_it_is_archived_or_it_fails_and_the_right_to_make_one_can_be_granted(own_server: Any, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    archive.chmod(0o777)
    for parent in archive.parents:
        if parent.is_relative_to("/tmp/pytest-of-root"):
            parent.chmod(0o755)
    own_server.create_database("t_point", OWNER)
    own_server.execute("ALTER SYSTEM SET archive_mode = on")
    own_server.execute(f"ALTER SYSTEM SET archive_command = 'cp %p {archive}/%f'")
    own_server.stop()
    own_server.start()
    target = target_of(own_server, "t_point")
    made = call("restore_point", target, run_id="20261122T120000Z-0a1b2c")["databases"]["t_point"]
    assert made["name"] == "pgops_20261122T120000Z-0a1b2c"
    assert (archive / made["segment"]).exists()
    assert call("restore_point", target, check_mode=True, restore_point="later")["databases"]["t_point"] == {
        "name": "later"
    }
    # Without the right, and with it.
    own_server.execute(f"ALTER ROLE {RESTORE} NOSUPERUSER")
    refused = call("restore_point", target, restore_point="by_whom")
    assert "may not make a restore point" in refused["msg"]
    assert f"TO {RESTORE}" in refused["hint"]
    own_server.execute(
        f"GRANT EXECUTE ON FUNCTION pg_create_restore_point(text), pg_switch_wal() TO {RESTORE}, {MIGRATOR}"
    )
    assert "lsn" in call("restore_point", target, restore_point="by_grant")["databases"]["t_point"]
    # An archive that takes nothing is no way back.
    own_server.execute("ALTER SYSTEM SET archive_command = 'false'")
    own_server.execute("SELECT pg_reload_conf()")
    refused = call("restore_point", target, restore_point="never", archive_timeout=2)
    assert "was not archived within 2 s" in refused["msg"]
    assert "backup_archive_timeout" in refused["hint"]
