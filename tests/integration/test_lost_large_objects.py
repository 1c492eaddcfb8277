# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Large objects that a way back takes away are told before it is confirmed, as rows are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    lost_large_objects,
    lost_writes,
    restore,
    strategies,
    swap,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.plugin_utils import losses
from support.backups import RUN, back_up, believed, fill, stage
from support.server import BACKUP, MIGRATOR, OWNER

KEPT, DAMAGED = 4711, 4712


@pytest.fixture
def filled(server: Any, database: str) -> str:
    """Two scans in large objects beside the tables."""
    fill(server, database, 10)
    for number in (KEPT, DAMAGED):
        make(server, database, number, "scan" * 2000)
    return database


def make(server: Any, database: str, number: int, text: str) -> None:
    """A large object that the backup has in it."""
    server.execute(f"SELECT lo_from_bytea({number}, convert_to('{text}', 'UTF8'))", database=database)
    server.execute(
        f"ALTER LARGE OBJECT {number} OWNER TO {OWNER}; GRANT SELECT ON LARGE OBJECT {number} TO {BACKUP}",
        database=database,
    )


def look(target: Any, backup: Any) -> dict[str, Any]:
    return lost_writes.lost_writes(target, backup, application_name="test")


def lines(found: dict[str, Any], database: str) -> str:
    return "\n".join(losses.restore_losses(database, {"backup": "B", "why": "w", "lost": found}))


def test_large_objects_written_overwritten_and_deleted_since_are_counted(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    make(server, filled, 4713, "gone soon")
    backup = back_up(target, tmp_path)
    found = look(target, backup)
    assert found["large_objects"] is None
    assert "no row was written since; no data is lost" in lines(found, filled)
    server.execute(f"SELECT lo_put({DAMAGED}, 4000, 'a newer scan')", database=filled)
    server.execute("SELECT lo_unlink(4713)", database=filled)
    server.execute("SELECT lo_from_bytea(0, 'abc') FROM generate_series(1, 5)", database=filled)
    found = look(target, backup)
    assert found["large_objects"] == {"then": 3, "now": 7, "written": 6, "gone": 2, "unread": None}
    assert "no data is lost" not in lines(found, filled)
    assert (
        f"{filled}: of 7 large objects 6 were written since and are lost; of 3 in the backup 2 were overwritten or deleted since and come back"
    ) in lines(found, filled)


def test_the_same_contents_written_anew_are_no_loss(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    server.execute(f"SELECT lo_put({DAMAGED}, 0, 'scan')", database=filled)
    server.execute(f"SELECT lo_truncate(lo_open({KEPT}, 131072), 8000)", database=filled)
    assert look(target, backup)["large_objects"] is None
    server.execute(f"SELECT lo_truncate(lo_open({KEPT}, 131072), 4096)", database=filled)
    assert look(target, backup)["large_objects"]["gone"] == 2


def test_who_may_not_read_the_pages_is_told_bounds(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    managed = target.with_(restore_user=MIGRATOR)
    assert look(managed, backup)["large_objects"] is None
    server.execute(f"SELECT lo_put({DAMAGED}, 0, 'a newer scan')", database=filled)
    found = look(managed, backup)["large_objects"]
    assert (found["written"], found["gone"], found["at_least"]) == (2, 2, {"written": 1, "gone": 1})
    # One that it may not read at all.
    server.execute("SELECT lo_from_bytea(4713, 'private')", database=filled)
    told = lines(look(managed, backup), filled)
    assert "of 3 large objects at least 1, at most 3 were written since" in told
    assert "their contents could not be compared: " in told


def test_the_ways_back_count_them_before_one_is_chosen(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    believed(target, tmp_path)
    server.execute("SELECT lo_from_bytea(0, 'abc') FROM generate_series(1, 5)", database=filled)
    asked = strategies.Asked("restore")
    way = strategies.weigh(target, asked, directory=str(tmp_path), work=restore.Work(RUN))["ways"]["restore"]
    assert way["lost"] == "5 large objects written since, kept"
    assert tuple(way["lost_rows"]) == (5, 5)


def test_what_was_written_since_a_swap_is_told_before_it_is_undone(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = backup_store.read_backup(believed(target, tmp_path).path)
    done = swap.Swap(target, stage(target, backup), run_id=RUN).run()
    undo = swap.Swap(target, done["aside"], run_id=RUN)
    assert undo.preview()["lost"]["large_objects"] is None
    server.execute(f"SELECT lo_put({DAMAGED}, 0, 'a newer scan')", database=filled)
    shown = undo.preview()
    assert shown["lost"]["large_objects"] == {"now": 2, "written": 1}
    assert f"{filled}: of 2 large objects 1 were written since and are lost" in losses.swap_losses(filled, shown)
    # The restore wrote each anew: after a second one of the same backup nothing was written.
    again = swap.Swap(target, stage(target, backup), run_id=RUN).run()
    assert look(target, backup)["large_objects"] is None
    assert again["live"] == filled


def test_without_any_nothing_is_read(target: Any, database: str) -> None:
    conn = connect(target, application_name="test")
    try:
        assert (
            lost_large_objects.since_backup(
                conn, {"count": 0, "hash": "0"}, {"xmax": 3, "window": 5, "xip": []}, told_apart=False
            )
            is None
        )
        assert lost_large_objects.since(conn, {"xmax": 3, "window": 5, "xip": []}, told_apart=True) is None
    finally:
        conn.close()
