# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Old backups go by the policy and by nothing else; each deletion is written down, and no kill leaves a half that looks whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_catalogue,
    backup_deletion,
    backup_expiry,
    backup_pins,
    backup_store,
    connection,
    database_marks,
    ledger,
    retention,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.retention import Candidate, Policy
from support.backups import RUN, small, start_python
from support.module import call
from support.server import OWNER, memory_folder

NOW = datetime(2026, 1, 14, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
# Keeps the two newest and nothing else.
TWO = Policy(last=2, daily=0, weekly=0, monthly=0, yearly=0)
STEPS = ("noted", "renamed", "emptied", "written", "gone")


def expire(target: Any, directory: Path, policy: Policy = TWO, **settings: Any) -> dict[str, Any]:
    asked = backup_expiry.Asked(
        policy,
        environment=settings.pop("environment", "local"),
        run_id=settings.pop("run_id", RUN),
        who="tester on here",
        offline=settings.pop("offline", False),
    )
    return backup_expiry.expire(target, str(directory), asked, now=lambda: NOW, **settings)


def refused(target: Any, directory: Path, policy: Policy = TWO, **settings: Any) -> PgopsError:
    """The refusal, after a look that nothing has gone."""
    before = present(directory, target.database)
    with pytest.raises(PgopsError) as caught:
        expire(target, directory, policy, **settings)
    assert present(directory, target.database) == before
    return caught.value


def present(directory: Path, database: str) -> list[str]:
    """The names in the database's folder, without what is no backup's."""
    own = {backup_store.LOCK, backup_pins.LOCK, backup_catalogue.DELETIONS}
    return sorted(path.name for path in (directory / database).iterdir() if path.name not in own)


def ids(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["id"] for entry in entries]


def record(directory: Path, database: str, event: str) -> list[str]:
    lines = [line for line in backup_deletion.recorded(str(directory / database)) if line["event"] == event]
    return [name for line in lines for name in line.get("ids", [line.get("id")])]


def audited(server: Any, database: str) -> list[str]:
    rows = server.execute(
        "SELECT detail ->> 'id' FROM pgops.audit WHERE event = 'backup_deleted' ORDER BY seq", database=database
    )
    return [name for (name,) in rows]


def make_ledger(target: Any) -> None:
    conn = connection.connect(target, application_name="test")
    ledger.ensure(conn)
    conn.close()


def five(directory: Path, database: str, **settings: Any) -> list[Path]:
    """Five backups, a day apart, the oldest first; the policy of two lets the first three go."""
    return [small(directory, database, NOW - (5 - day) * DAY, **settings) for day in range(5)]


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: each deletion waits for the disk several times."""
    above = memory_folder()
    folder = Path(tempfile.mkdtemp(prefix="pgops-expiry-", dir=above)) if above else tmp_path
    yield folder
    shutil.rmtree(folder)


# -- the set -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("since", "kept_backups"), [(2025, 29), pytest.param(2018, 34, marks=pytest.mark.slow)])
def test_of_years_of_daily_backups_exactly_the_documented_set_stays(
    server: Any, target: Any, database: str, in_memory: Path, since: int, kept_backups: int
) -> None:
    """Eight years, and for the short suite the last of them."""
    make_ledger(target)
    first = datetime(since, 1, 1, 2, 0, tzinfo=UTC)
    days = [first + number * DAY for number in range((NOW - first).days + 1)]
    path = {day: small(in_memory, database, day) for day in days}
    policy = Policy()
    kept = retention.kept([Candidate(path[day].name, day, True) for day in days], policy, NOW)

    shown = expire(target, in_memory, policy, check_only=True)
    assert len(present(in_memory, database)) == len(days)
    done = expire(target, in_memory, policy)

    stays = sorted(name for name, rules in kept.items() if rules)
    assert present(in_memory, database) == stays
    assert len(stays) == kept_backups
    gone = sorted(set(kept) - set(stays))
    assert ids(shown["expired"]) == ids(done["expired"]) == gone
    assert shown["kept"] == done["kept"]
    assert record(in_memory, database, "deleted") == gone == audited(server, database)
    again = expire(target, in_memory, policy)
    assert (again["expired"], again["audited"]) == ([], 0)


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_what_a_look_shows_is_what_a_real_run_deletes(server: Any, target: Any, database: str, tmp_path: Path) -> None:
    five(tmp_path, database)
    small(tmp_path, database, NOW - 30 * DAY, purpose="before_migration", phi=False)
    small(tmp_path, database, NOW - 91 * DAY, purpose="before_migration", phi=False)
    (tmp_path / database / "20250101_000000_manual_x.partial").mkdir()
    (tmp_path / database / "20250102_000000_manual_x").mkdir()
    (tmp_path / database / "notes.txt").write_text("mine")
    before = present(tmp_path, database)
    shown = expire(target, tmp_path, check_only=True)
    assert present(tmp_path, database) == before
    assert not (tmp_path / database / backup_store.LOCK).exists()
    done = expire(target, tmp_path)
    assert {**shown, "audited": 0} == {**done, "audited": 0, "not_audited": None}
    assert sorted([*ids(done["expired"]), *present(tmp_path, database)]) == before
    assert len(done["expired"]) == 5


def test_a_backup_before_a_change_stays_as_long_as_the_policy_says(target: Any, database: str, tmp_path: Path) -> None:
    five(tmp_path, database)
    old = {
        name: small(tmp_path, database, NOW - days * DAY, purpose="before_migration", run_id=name, **told).name
        for name, days, told in (
            ("young", 89, {"phi": False}),
            ("old", 91, {"phi": False}),
            ("touching-phi", 2500, {"phi": True}),
            ("unsaid", 2501, {}),
            ("older-than-seven-years", 2560, {"phi": True}),
        )
    }
    done = expire(target, tmp_path)
    assert {name for name, id in old.items() if id in ids(done["expired"])} == {"old", "older-than-seven-years"}
    by = {entry["id"]: entry["by"][0] for entry in done["kept"]}
    assert by[old["touching-phi"]].startswith("before a change, PHI, until 20")
    assert by[old["unsaid"]].startswith("before a change, PHI not ruled out, until 20")


def test_backups_of_another_environment_are_left_and_take_no_place(target: Any, database: str, tmp_path: Path) -> None:
    ours = five(tmp_path, database)
    theirs = [small(tmp_path, database, NOW - hours * timedelta(hours=1), environment="production") for hours in (1, 2)]
    done = expire(target, tmp_path)
    assert ids(done["expired"]) == [path.name for path in ours[:3]]
    assert [entry["told"] for entry in done["left"]] == ["of environment production"] * 2
    assert all(path.is_dir() for path in theirs)


# -- what never goes --------------------------------------------------------------------------------------------------------


def test_the_newest_proved_one_never_goes(target: Any, database: str, tmp_path: Path) -> None:
    backups = [small(tmp_path, database, NOW - (9 - day) * DAY, proved=day == 2) for day in range(8)]
    done = expire(target, tmp_path)
    assert present(tmp_path, database) == [backups[2].name, backups[6].name, backups[7].name]
    by = {entry["id"]: entry["by"] for entry in done["kept"]}
    assert retention.NEWEST_PROVED in by[backups[2].name]


def test_a_proof_of_another_manifest_keeps_nothing(target: Any, database: str, tmp_path: Path) -> None:
    backups = five(tmp_path, database, proved=False)
    (backups[0] / "proof.json").write_text(json.dumps({"manifest_sha256": "0" * 64}))
    expire(target, tmp_path)
    assert not backups[0].exists()


def test_a_pinned_one_never_goes_until_it_is_released(target: Any, database: str, tmp_path: Path) -> None:
    backups = five(tmp_path, database)
    pinned = backups[1].name
    backup_pins.change(str(tmp_path), [database], pinned, "case 4711", release=False, who="counsel")
    done = expire(target, tmp_path)
    assert pinned in present(tmp_path, database)
    assert {entry["id"]: entry["by"] for entry in done["kept"]}[pinned] == ["case 4711 (counsel)"]
    backup_pins.change(str(tmp_path), [database], pinned, "", release=True, who="counsel")
    assert ids(expire(target, tmp_path)["expired"]) == [pinned]


def test_one_whose_pins_cannot_be_read_never_goes(target: Any, database: str, tmp_path: Path) -> None:
    backups = five(tmp_path, database)
    (backups[0] / "pins.json").write_text("{")
    (backups[1] / "pins.json").symlink_to("/etc/passwd")
    done = expire(target, tmp_path)
    assert ids(done["expired"]) == [backups[2].name]
    assert backups[0].is_dir()
    assert backups[1].is_dir()


def test_a_pin_that_comes_between_the_look_and_the_deletion_is_obeyed(
    target: Any, database: str, tmp_path: Path
) -> None:
    backups = five(tmp_path, database)

    def pin(step: str) -> None:
        if step == "gone" and not (backups[1] / "pins.json").exists() and backups[1].exists():
            backup_pins.change(str(tmp_path), [database], backups[1].name, "wait", release=False, who="counsel")

    done = expire(target, tmp_path, after=pin)
    assert ids(done["expired"]) == [backups[0].name, backups[2].name]
    assert "was pinned a moment ago by counsel" in done["left"][0]["told"]
    assert backups[1].is_dir()


def test_while_somebody_pins_nothing_goes(
    target: Any, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups = five(tmp_path, database)
    monkeypatch.setattr(backup_pins, "WAIT_S", 0.1)
    with backup_pins.held(str(tmp_path / database)):
        done = expire(target, tmp_path)
    assert done["expired"] == []
    assert len(done["left"]) == 3
    assert all(path.is_dir() for path in backups)


@pytest.mark.parametrize("spoil", ["manifest", "no manifest", "file gone", "file cut", "file more", "link inside"])
def test_a_damaged_one_is_told_and_left_and_keeps_no_place(
    target: Any, database: str, tmp_path: Path, spoil: str
) -> None:
    backups = five(tmp_path, database)
    newest = backups[4]
    if spoil == "manifest":
        (newest / "manifest.json").write_text('{"format": 1, "database": ')
    elif spoil == "no manifest":
        (newest / "manifest.json").unlink()
    elif spoil == "file gone":
        (newest / "dump" / "toc.dat").unlink()
    elif spoil == "file cut":
        (newest / "dump" / "toc.dat").write_bytes(b"PG")
    elif spoil == "file more":
        (newest / "dump" / "letter.txt").write_text("mine")
    else:
        (newest / "dump" / "more").symlink_to("/etc")
    done = expire(target, tmp_path)
    assert newest.is_dir()
    assert ids(done["left"]) == [newest.name]
    assert done["left"][0]["told"].startswith("damaged: ")
    # The two newest whole ones stay, the newest of them proved.
    assert present(tmp_path, database) == [path.name for path in backups[2:]]


def test_links_and_foreign_files_are_told_and_left_with_what_is_behind_them(
    target: Any, database: str, tmp_path: Path
) -> None:
    five(tmp_path / "backups", database)
    behind = small(tmp_path / "elsewhere", database, NOW - 300 * DAY)
    folder = tmp_path / "backups" / database
    (folder / behind.name).symlink_to(behind)
    (folder / "20240101_000000_manual_x.partial").symlink_to(behind)
    (folder / "letter.txt").write_text("mine")
    half = folder / "20240102_000000_manual_x.partial"
    half.mkdir()
    (half / "link").symlink_to(behind)
    other = small(tmp_path / "backups", database, NOW - 301 * DAY, database="somebody_elses")
    done = expire(target, tmp_path / "backups")
    assert len(done["expired"]) == 3
    assert {entry["id"]: entry["told"] for entry in done["left"]} == {
        behind.name: "a link; nothing behind it is looked at",
        "20240101_000000_manual_x.partial": "a link; nothing behind it is looked at",
        "letter.txt": "a file that no backup has made",
        half.name: "damaged: half-written, and link in it is no plain file; look at it, and remove it by hand",
        other.name: "a backup of somebody_elses",
    }
    assert sorted(path.name for path in behind.iterdir()) == ["dump", "manifest.json", "proof.json"]
    assert (folder / "letter.txt").read_text() == "mine"


def test_a_link_that_takes_the_place_of_a_folder_leads_nowhere(target: Any, database: str, tmp_path: Path) -> None:
    """Between the look and the deletion somebody swaps the next backup for a link."""
    backups = five(tmp_path / "backups", database)
    behind = small(tmp_path / "elsewhere", database, NOW)

    def swap(step: str) -> None:
        if step == "gone" and not backups[1].is_symlink() and backups[1].exists():
            shutil.rmtree(backups[1])
            backups[1].symlink_to(behind)

    with pytest.raises(PgopsError) as caught:
        expire(target, tmp_path / "backups", after=swap)
    assert str(backups[1]) in caught.value.message
    assert (behind / "manifest.json").exists()
    assert ids(caught.value.extra["databases"][database]["expired"]) == [backups[0].name]


def test_a_folder_that_is_a_link_is_refused(target: Any, database: str, tmp_path: Path) -> None:
    five(tmp_path / "elsewhere", database)
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups" / database).symlink_to(tmp_path / "elsewhere" / database)
    for check_only in (True, False):
        error = refused(target, tmp_path / "backups", check_only=check_only)
        assert "is a link or no folder" in error.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give folders away")
def test_folders_of_another_user_are_refused(target: Any, database: str, tmp_path: Path) -> None:
    backups = five(tmp_path, database)
    os.chown(backups[1], 12345, 12345)
    for check_only in (True, False):
        error = refused(target, tmp_path, check_only=check_only)
        assert f"{backups[1]} belongs to user 12345 and this runs as 0" in error.message
    os.chown(backups[1], 0, 0)
    os.chown(tmp_path / database, 12345, 12345)
    assert f"{tmp_path / database} belongs to user 12345" in refused(target, tmp_path).message


# -- what a rollback needs ---------------------------------------------------------------------------------------------------


def test_the_backup_that_a_rollback_would_go_back_to_stays(
    server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    backups = five(tmp_path, database)
    make_ledger(target)
    own = json.dumps({"path": str(backups[0]), "manifest_sha256": "0" * 64})
    server.execute(
        f"INSERT INTO pgops.run (id, started_at, backup) VALUES ('{RUN}', '2026-01-10', '{own}');"
        "INSERT INTO pgops.migration VALUES ('20260101000000', 'a', 'a', '', '', '{}', '{}', 'applied', NULL, NULL, NULL, "
        f"'{RUN}', 'x', '2026-01-10')",
        database=database,
    )
    done = expire(target, tmp_path)
    assert ids(done["expired"]) == [path.name for path in backups[1:3]]
    by = {entry["id"]: entry["by"] for entry in done["kept"]}
    assert "the backup that the last apply" in by[backups[0].name][0]


@pytest.mark.parametrize(
    ("role", "state"),
    [
        (database_marks.SCRATCH, ""), (database_marks.RESTORED, database_marks.VERIFIED),
        (database_marks.LIVE, database_marks.FENCED), (database_marks.LIVE, database_marks.SWAPPED),
    ],
)  # fmt: skip
def test_a_backup_that_a_running_rollback_or_proof_needs_stays(
    server: Any, target: Any, database: str, tmp_path: Path, role: str, state: str
) -> None:
    backups = five(tmp_path, database)
    beside = f"{database}_beside"
    server.create_database(beside, OWNER)
    mark = database_marks.Mark(role, database, RUN, "2026-01-14", state=state, backup=str(backups[0]))
    conn = connection.connect(target.maintenance(), application_name="test")
    database_marks.set_mark(conn, beside, mark)
    done = expire(target, tmp_path)
    assert ids(done["expired"]) == [path.name for path in backups[1:3]]
    by = {entry["id"]: entry["by"] for entry in done["kept"]}
    assert by[backups[0].name] == [f"restored into {beside} by run {RUN}"]
    database_marks.set_comment(conn, beside, None)
    conn.close()
    assert ids(expire(target, tmp_path)["expired"]) == [backups[0].name]


def test_where_the_server_cannot_be_asked_nothing_goes_unless_it_is_said(
    target: Any, database: str, tmp_path: Path
) -> None:
    five(tmp_path, database)
    small(tmp_path, database, NOW - 400 * DAY, purpose="before_migration", phi=False)
    newest = small(tmp_path, database, NOW - 300 * DAY, purpose="before_migration", phi=False, proved=False)
    down = target.with_(port="1")
    for check_only in (True, False):
        error = refused(down, tmp_path, check_only=check_only)
        assert "What a rollback" in error.message
        assert "backup_expire_offline=true" in str(error.hint)
    shown = expire(down, tmp_path, offline=True, check_only=True)
    done = expire(down, tmp_path, offline=True)
    assert ids(shown["expired"]) == ids(done["expired"])
    assert len(done["expired"]) == 4
    assert newest.is_dir()
    assert done["audited"] == 0
    assert "Cannot connect" in done["not_audited"]
    assert "Cannot connect" in done["not_asked"]


def test_of_a_database_that_is_gone_the_marks_still_count(
    server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    gone = target.with_(database=f"{database}_gone")
    backups = five(tmp_path, gone.database)
    mark = database_marks.Mark(database_marks.RESTORED, gone.database, RUN, "2026-01-14", backup=str(backups[0]))
    conn = connection.connect(target.maintenance(), application_name="test")
    database_marks.set_mark(conn, database, mark)
    conn.close()
    assert "its ledger cannot be read" in refused(gone, tmp_path).message
    done = expire(gone, tmp_path, offline=True)
    assert ids(done["expired"]) == [path.name for path in backups[1:3]]


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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_on_a_full_file_system_it_makes_room_and_records_it(target: Any, database: str, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "pgops-test", str(folder)], check=True)
    try:
        backups = five(folder, database)
        (folder / database / backup_store.LOCK).write_text("x" * 100)
        with (folder / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError, match="No space left"):
            while True:
                ballast.write(b"x" * 4096)
        done = expire(target, folder)
        assert present(folder, database) == [path.name for path in backups[3:]]
        assert record(folder, database, "deleted") == ids(done["expired"]) == [path.name for path in backups[:3]]
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


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


# -- the module ---------------------------------------------------------------------------------------------------------------


def test_the_module_refuses_a_policy_below_that_of_production(target: Any, database: str, tmp_path: Path) -> None:
    five(tmp_path, database)
    options: dict[str, Any] = {"directory": str(tmp_path), "environment": "local", "keep_phi_years": 6}
    refusal = call("backup_expire", target, production=True, **options)
    assert refusal["failed"]
    assert "production keeps backups from before a schema change for 7 years at least" in refusal["msg"]
    assert call("backup_expire", target, check_mode=True, **options)["databases"][database]["expired"] == []


def test_of_several_databases_what_went_before_a_failure_is_told(
    server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    five(tmp_path, database)
    other = f"{database}_b"
    five(tmp_path, other)
    shutil.move(tmp_path / other, tmp_path / "moved")
    (tmp_path / other).symlink_to(tmp_path / "moved")
    told = call(
        "backup_expire", replace(target), databases=[database, other], directory=str(tmp_path), keep_last=2, keep_daily=0,
        keep_weekly=0, keep_monthly=0, keep_yearly=0,
    )  # fmt: skip
    assert told["failed"]
    assert len(told["databases"][database]["expired"]) == 3
