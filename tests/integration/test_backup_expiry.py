# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Old backups go by the policy and by nothing else; what a person, a proof or a rollback needs stays."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_catalogue,
    backup_pins,
    backup_store,
    connection,
    database_marks,
    retention,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.retention import Candidate, Policy
from support.backups import RUN, small
from support.expiry import DAY, NOW, audited, expire, five, ids, make_ledger, present, record, refused
from support.module import call
from support.server import OWNER, memory_folder


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


def two_clusters(directory: Path, database: str) -> list[Path]:
    """Of this cluster one a day, of another one a week that ended sixteen days ago."""
    for number in range(120):
        small(directory, database, NOW - number * DAY - timedelta(hours=1), system_identifier="7300000000000000001")
    return [
        small(directory, database, NOW - number * DAY - timedelta(hours=2), system_identifier="7300000000000000002")
        for number in range(16, 23)
    ]


def test_the_backups_of_one_cluster_stand_for_nothing_of_another(in_memory: Path, database: str) -> None:
    theirs = [path.name for path in two_clusters(in_memory, database)]
    found = backup_catalogue.entries(str(in_memory), database)
    decisions = {one.entry.id: one for one in backup_catalogue.decide(found, Policy(), NOW, environment="local")}
    assert decisions[theirs[0]].pinned == (retention.NEWEST_PROVED,)
    assert [name for name in theirs if decisions[name].expires] == []
    alone = [entry for entry in found if entry.id in theirs]
    by_itself = backup_catalogue.decide(alone, Policy(), NOW, environment="local")
    assert [decisions[one.entry.id] for one in by_itself] == by_itself


def test_what_another_cluster_may_need_is_left_to_its_own_host(
    server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    ((own,),) = server.execute("SELECT system_identifier::text FROM pg_control_system()")
    make_ledger(target)
    ours = [small(tmp_path, database, NOW - number * DAY, system_identifier=own) for number in range(5)]
    later = timedelta(hours=1)
    theirs = [small(tmp_path, database, NOW - number * DAY - later, system_identifier="73") for number in range(5)]
    done = expire(target, tmp_path)
    assert ids(done["expired"]) == [path.name for path in reversed(ours[2:])]
    assert sorted(ids(done["left"])) == sorted(path.name for path in theirs)
    assert "of another cluster (system identifier 73)" in done["left"][0]["told"]
    assert all(path.is_dir() for path in theirs)
    # That cluster is gone, and somebody says so.
    done = expire(target, tmp_path, offline=True)
    assert ids(done["expired"]) == [path.name for path in reversed(theirs[2:])]


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
