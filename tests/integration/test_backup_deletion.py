# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each deletion of a backup is written down, and no kill and no full disk leaves a half that looks whole."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_catalogue,
    backup_deletion,
    backup_pins,
    backup_store,
    connection,
    ledger,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from support.backups import RUN, start_python
from support.expiry import NOW, audited, expire, five, ids, make_ledger, present, record, refused

# What a deletion has done when it tells a test so.
STEPS = ("noted", "renamed", "emptied", "written", "gone")


# -- the record --------------------------------------------------------------------------------------------------------------


def test_each_deletion_is_in_the_record_and_in_the_audit(
    server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    make_ledger(target)
    backups = five(tmp_path, database)
    previous = os.umask(0)
    try:
        done = expire(target, tmp_path)
    finally:
        os.umask(previous)
    file = tmp_path / database / backup_catalogue.DELETIONS
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    gone = [path.name for path in backups[:3]]
    assert [record(tmp_path, database, event) for event in ("deleting", "deleted", "audited")] == [gone] * 3
    assert audited(server, database) == gone
    assert done["audited"] == 3
    line = next(line for line in backup_deletion.recorded(str(file.parent)) if line["event"] == "deleted")
    assert (line["who"], line["run_id"], line["database"]) == ("tester on here", RUN, database)
    assert line["why"] == "no rule of the policy keeps it"
    assert (line["purpose"], line["level"], line["time"][:10]) == ("manual", 4, "2026-01-14")
    conn = connection.connect(target, application_name="test")
    assert ledger.broken_link(ledger.audit_rows(conn)) is None
    conn.close()


def test_what_the_audit_could_not_take_the_next_run_writes(
    server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    backups = five(tmp_path, database)
    first = expire(target, tmp_path)
    assert (first["audited"], first["not_audited"]) == (0, f"{database} has no ledger")
    make_ledger(target)
    second = expire(target, tmp_path)
    assert (second["expired"], second["audited"]) == ([], 3)
    assert audited(server, database) == [path.name for path in backups[:3]]
    assert expire(target, tmp_path)["audited"] == 0


def test_a_torn_line_takes_no_other_with_it(target: Any, database: str, tmp_path: Path) -> None:
    five(tmp_path, database)
    file = tmp_path / database / backup_catalogue.DELETIONS
    file.write_text('{"event": "deleting", "id": "ol')
    expire(target, tmp_path)
    assert len(record(tmp_path, database, "deleted")) == 3
    assert file.read_text().startswith('{"event": "deleting", "id": "ol\n')


def test_a_record_that_is_a_link_is_not_written_and_nothing_goes(target: Any, database: str, tmp_path: Path) -> None:
    five(tmp_path / "backups", database)
    foreign = tmp_path / "foreign"
    foreign.write_text("")
    (tmp_path / "backups" / database / backup_catalogue.DELETIONS).symlink_to(foreign)
    error = refused(target, tmp_path / "backups")
    assert "could not be deleted" in error.message
    assert foreign.read_text() == ""


# -- what happens in the middle ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("then", ["expire", "backup"])
def test_killed_after_each_step_it_leaves_no_half_that_looks_whole(
    server: Any, target: Any, database: str, tmp_path: Path, step: str, then: str
) -> None:
    make_ledger(target)
    backups = five(tmp_path, database)
    code = """
    from datetime import datetime
    from ansible_collections.whitecross.pgops.plugins.module_utils import backup_expiry, retention
    policy = retention.Policy(last=2, daily=0, weekly=0, monthly=0, yearly=0)
    def after(step):
        if step == values["step"]:
            os.kill(os.getpid(), signal.SIGKILL)
    backup_expiry.expire(
        target, values["directory"], backup_expiry.Asked(policy, "local", values["run"], "tester on here"),
        now=lambda: datetime.fromisoformat(values["now"]), after=after,
    )
    """
    process = start_python(code, target, directory=str(tmp_path), step=step, run=RUN, now=NOW.isoformat())
    _out, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    for backup in backup_store.backups_of(str(tmp_path), database):
        backup_store.verify_files(backup)
    assert len(backup_store.backups_of(str(tmp_path), database)) == (5 if step == "noted" else 4)
    if then == "backup":
        # The next backup removes what was left half deleted.
        with backup_store.locked(str(tmp_path), database, "test") as folder:
            backup_store.remove_partials(folder)
    expire(target, tmp_path)
    assert present(tmp_path, database) == [path.name for path in backups[3:]]
    gone = [path.name for path in backups[:3]]
    assert sorted(set(record(tmp_path, database, "deleting"))) == gone
    assert sorted(audited(server, database)) == gone


def test_a_backup_that_cannot_be_removed_ends_it_and_says_what_went(
    target: Any, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups = five(tmp_path, database)
    real = os.rename

    def rename(source: Any, *given: Any, **named: Any) -> None:
        if source == backups[1].name:
            raise PermissionError(13, "Permission denied")
        real(source, *given, **named)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(PgopsError) as caught:
        expire(target, tmp_path)
    assert f"{backups[1]} could not be deleted: Permission denied; 1 were deleted before it" in caught.value.message
    assert ids(caught.value.extra["databases"][database]["expired"]) == [backups[0].name]
    assert present(tmp_path, database) == [path.name for path in backups[1:]]


def test_another_folder_that_has_the_name_by_now_is_not_deleted(
    target: Any, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups = five(tmp_path, database)
    held = backup_pins.held

    @contextmanager
    def held_after_an_exchange(folder: str) -> Iterator[None]:
        backups[0].rename(tmp_path / "away")
        backups[0].mkdir()
        with held(folder):
            yield

    monkeypatch.setattr(backup_pins, "held", held_after_an_exchange)
    error = refused(target, tmp_path)
    assert f"{backups[0]} is not the folder any more that was looked at" in error.message
    assert record(tmp_path, database, "deleting") == []


def test_on_a_full_file_system_it_makes_room_and_records_it(target: Any, database: str, small_disk: Path) -> None:
    backups = five(small_disk, database)
    (small_disk / database / backup_store.LOCK).write_text("x" * 100)
    with (small_disk / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError, match="No space left"):
        while True:
            ballast.write(b"x" * 4096)
    done = expire(target, small_disk)
    assert present(small_disk, database) == [path.name for path in backups[3:]]
    assert record(small_disk, database, "deleted") == ids(done["expired"]) == [path.name for path in backups[:3]]


def test_while_a_backup_is_made_it_is_refused_in_a_look_as_well(target: Any, database: str, tmp_path: Path) -> None:
    five(tmp_path, database)
    with backup_store.locked(str(tmp_path), database, "backup 4711"):
        for check_only in (True, False):
            assert "are locked by backup 4711" in refused(target, tmp_path, check_only=check_only).message


def test_asked_to_stop_it_ends_between_two_backups(target: Any, database: str, tmp_path: Path) -> None:
    backups = five(tmp_path, database)
    control = Control()
    with pytest.raises(PgopsError) as caught:
        expire(
            target, tmp_path, control=control, after=lambda step: control.request("Ctrl-C") if step == "gone" else None
        )
    assert "Ctrl-C" in caught.value.message
    assert present(tmp_path, database) == [path.name for path in backups[1:]]
    assert ids(caught.value.extra["databases"][database]["expired"]) == [backups[0].name]


def test_a_database_without_backups_is_no_error(target: Any, database: str, tmp_path: Path) -> None:
    assert expire(target, tmp_path)["expired"] == []
    assert not (tmp_path / database).exists()
