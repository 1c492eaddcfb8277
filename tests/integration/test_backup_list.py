# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every backup that there is can be seen, with what is known of it, also while the server is down; and a person can hold one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.action.backup_list import ActionModule, expires, places
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_catalogue, backup_pins, backup_store
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.retention import Policy
from ansible_collections.whitecross.pgops.plugins.plugin_utils.backup_actions import age
from support.backups import back_up, small
from support.module import call
from support.site import Playbook
from support.tree import TestTree

NOW = datetime(2026, 1, 14, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
DATABASE = "white_cross"
KEY = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"


def listed(directory: Path, **settings: Any) -> dict[str, dict[str, Any]]:
    """The rows of the list by their ids."""
    found = backup_catalogue.listing(str(directory), DATABASE, Policy(), now=NOW, **settings)
    return {row["id"]: row for row in found["backups"]}


def pin(directory: Path, name: str, reason: str = "case 4711", **settings: Any) -> dict[str, Any]:
    settings = {"release": False, "who": "counsel", **settings}
    return backup_pins.change(str(directory), settings.pop("databases", [DATABASE]), name, reason, **settings)


def refused(directory: Path, name: str, reason: str = "case 4711", **settings: Any) -> PgopsError:
    with pytest.raises(PgopsError) as caught:
        pin(directory, name, reason, **settings)
    return caught.value


# -- the list -----------------------------------------------------------------------------------------------------------------


def test_a_real_backup_is_listed_as_it_is(server: Any, target: Any, database: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path, purpose="before_migration", environment="local", phi=True)
    found = backup_catalogue.listing(str(tmp_path), database, Policy(), environment="local")
    (row,) = found["backups"]
    assert (row["id"], row["state"], row["kind"]) == (Path(backup.path).name, "whole", "logical")
    assert (row["database"], row["purpose"], row["phi"]) == (database, "before_migration", True)
    assert (row["version"], row["level"], row["proved_at"]) == (None, 0, None)
    assert row["bytes"] >= backup.manifest["bytes"]
    assert 0 <= row["age_s"] < 3600
    assert row["kept_by"][0].startswith("before a change, PHI, until ")
    assert row["pinned_by"] == ["newest from before a change"]
    assert found["counts"] == {"whole": 1, "proved": 0, "pinned": 1, "damaged": 0}


def test_it_says_which_version_which_proof_which_key_and_where(tmp_path: Path) -> None:
    path = small(tmp_path, DATABASE, NOW - DAY, level=5, encryption={"tool": "age", "recipients": [KEY]})
    (path / "copies.json").write_text(json.dumps([{"place": "backup.example.org:/srv/backups", "path": "x"}]))
    old = small(tmp_path, DATABASE, NOW - 2 * DAY)
    rows = listed(tmp_path)
    assert (rows[path.name]["version"], rows[path.name]["level"], rows[old.name]["level"]) == ("20260101000000", 5, 4)
    assert rows[path.name]["proved_at"][:10] == "2026-01-13"
    assert rows[path.name]["encrypted_to"] == [KEY]
    assert rows[path.name]["state"] == "whole"
    assert places(rows[path.name]["copies"]) == ["backup.example.org:/srv/backups"]
    assert rows[path.name]["age_s"] == 86400
    assert rows[path.name]["pinned_by"] == ["newest proved"]


def test_it_says_of_which_cluster_each_is_where_there_are_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day, cluster in enumerate(("7300000000000000001", "7300000000000000001", "7300000000000000002")):
        small(tmp_path, DATABASE, NOW - day * DAY, system_identifier=cluster)
    found = backup_catalogue.listing(str(tmp_path), DATABASE, Policy(), now=NOW)
    assert found["clusters"] == ["7300000000000000001", "7300000000000000002"]
    assert [row["system_identifier"][-1] for row in found["backups"]] == ["1", "1", "2"]
    assert [row["pinned_by"] for row in found["backups"]] == [["newest proved"], [], ["newest proved"]]
    header, _line, *rows = shown(found, monkeypatch)
    assert "CLUSTER" in header
    assert "7300000000000000002" in rows[-1]
    (of_one,) = [row for row in found["backups"] if row["system_identifier"].endswith("2")]
    header, _line, row = shown({**found, "clusters": ["7300000000000000002"], "backups": [of_one]}, monkeypatch)
    assert "CLUSTER" not in header
    assert "7300000000000000002" not in row


def shown(found: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of the table that a person reads."""
    said: list[str] = []
    action = ActionModule.__new__(ActionModule)
    monkeypatch.setattr(action, "say", said.append)
    action.after({"databases": {DATABASE: found}}, {})
    return said[1:]


def test_nothing_in_the_folder_is_hidden(tmp_path: Path) -> None:
    folder = tmp_path / DATABASE
    whole = small(tmp_path, DATABASE, NOW - DAY)
    cut = small(tmp_path, DATABASE, NOW - 2 * DAY)
    (cut / "dump" / "toc.dat").write_bytes(b"P")
    (folder / "20260110_000000_manual_x.partial").mkdir()
    (folder / "20260109_000000_manual_x").mkdir()
    (folder / "a-link").symlink_to(whole)
    (folder / ".hidden").write_text("x")
    (folder / "deletions.jsonl").write_text("")
    rows = listed(tmp_path)
    assert {name: row["state"] for name, row in rows.items()} == {
        whole.name: "whole", cut.name: "damaged", "20260110_000000_manual_x.partial": "half-written",
        "20260109_000000_manual_x": "damaged", "a-link": "foreign", ".hidden": "foreign",
    }  # fmt: skip
    assert rows[cut.name]["told"] == "dump/toc.dat has 1 bytes, the manifest says 5"
    assert "manifest.json cannot be read: No such file" in rows["20260109_000000_manual_x"]["told"]


@pytest.mark.parametrize(
    "manifest",
    [
        b"", b"[]", b"\xff\xfe", b'{"format": 2}', b'{"format": 1}', b'{"format": 1, "snapshot_time": "soon"}',
        b'{"format": 1, "snapshot_time": "2026-01-01T00:00:00Z", "files": {"a": 1}}',
        b'{"format": 1, "snapshot_time": "2026-01-01T00:00:00Z", "files": {}, "ledger": [1]}',
        b'{"format": 1, "snapshot_time": "2026-01-01T00:00:00Z", "files": {}, "ledger": {}}',
        b'{"format": 1, "snapshot_time": "9999-12-31T23:59:59-23:59", "files": {}}',
        b'{"format": 1, "snapshot_time": "2026-01-01T00:00:00Z", "files": {}}',
    ],
)  # fmt: skip
def test_nonsense_in_a_manifest_is_a_damaged_backup_and_no_crash(tmp_path: Path, manifest: bytes) -> None:
    path = small(tmp_path, DATABASE, NOW - DAY)
    (path / "manifest.json").write_bytes(manifest)
    (row,) = listed(tmp_path).values()
    assert row["state"] == "damaged"
    assert row["told"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("encryption", "age"), ("encryption", {"recipients": "x"}), ("phi", "yes"), ("kind", 7), ("purpose", None)],
)
def test_nonsense_in_what_is_optional_is_passed_over(tmp_path: Path, key: str, value: Any) -> None:
    small(tmp_path, DATABASE, NOW - DAY, **{key: value} if key != "purpose" else {"environment": None})
    (row,) = listed(tmp_path).values()
    assert row["state"] == "whole"
    assert row["encrypted_to"] == []


@pytest.mark.parametrize("copies", [None, 7, "x", [], {}, {"copies": 7}, [7, None], [{}], [{"place": None}]])
def test_nonsense_about_copies_is_no_copy(copies: Any) -> None:
    assert places(copies) == []


def test_the_filters_narrow_the_list(tmp_path: Path) -> None:
    backups = [small(tmp_path, DATABASE, NOW - hours * timedelta(hours=1), proved=hours > 2) for hours in range(1, 11)]
    (backups[0] / "manifest.json").unlink()
    names = [path.name for path in backups]

    def only(which: str, **settings: Any) -> list[str]:
        return list(listed(tmp_path, only=which, **settings))

    assert only("all") == names
    assert only("damaged") == names[:1]
    assert only("unproved") == names[1:2]
    assert only("proved") == names[2:]
    assert only("pinned") == names[2:3]
    assert only("expiring") == names[8:]
    assert only("proved", newest=2) == names[2:4]


def test_the_list_and_a_real_expiry_agree_on_what_goes(target: Any, database: str, tmp_path: Path) -> None:
    for number in range(12):
        small(tmp_path, database, datetime.now(UTC) - number * timedelta(minutes=1))
    options: dict[str, Any] = {"directory": str(tmp_path), "environment": "local"}
    going = [
        row["id"] for row in call("backup_list", target, only="expiring", **options)["databases"][database]["backups"]
    ]
    gone = [row["id"] for row in call("backup_expire", target, **options)["databases"][database]["expired"]]
    assert sorted(going) == gone
    assert gone


def test_in_a_few_words_when_a_backup_goes() -> None:
    row = {"expires": False, "left": None, "pinned_by": [], "kept_by": ["month 2026-01", "day 2026-01-14"]}
    assert expires(row) == "month 2026-01"
    assert expires({**row, "pinned_by": ["case"]}) == "pinned"
    assert expires({**row, "left": "damaged"}) == "by hand"
    assert expires({**row, "expires": True}) == "now"


def test_an_age_is_told_in_its_largest_unit() -> None:
    assert [age(value) for value in (None, 5, 119, 120, 7200, 86400 * 2, 86400 * 400, 86400 * 800, -3)] == [
        "", "5 s", "119 s", "2 min", "2 h", "2 d", "13 mon", "2 y", "0 s",
    ]  # fmt: skip


def test_a_folder_that_cannot_be_read_is_told_and_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_text("")
    with pytest.raises(
        PgopsError, match=f"The backups of {DATABASE} in {tmp_path}/{DATABASE} cannot be read: Not a dir"
    ) as caught:
        listed(tmp_path)
    assert "backup_directory" in str(caught.value.hint)


# -- pins -----------------------------------------------------------------------------------------------------------------------


def test_a_pin_says_who_when_and_why_and_its_release_stays_on_record(tmp_path: Path) -> None:
    path = small(tmp_path, DATABASE, NOW - DAY)
    done = pin(tmp_path, path.name, now=NOW)
    expected = {"who": "counsel", "when": "2026-01-14T12:00:00+00:00", "reason": "case 4711"}
    assert done[DATABASE] == {"id": path.name, "path": str(path), "pins": [expected], "changed": True}
    assert (path / "pins.json").stat().st_mode & 0o777 == 0o600
    assert listed(tmp_path)[path.name]["pins"] == [expected]
    assert pin(tmp_path, path.name)[DATABASE]["changed"] is False
    released = pin(tmp_path, path.name, "", release=True, who="judge", now=NOW + DAY)
    assert (released[DATABASE]["pins"], released[DATABASE]["changed"]) == ([], True)
    kept = json.loads((path / "pins.json").read_text())
    by = {"released_by": "judge", "released_at": "2026-01-15T12:00:00+00:00"}
    assert kept == {"format": 1, "pins": [], "released": [{**expected, **by}]}


def test_a_pinned_backup_is_still_whole_for_its_proof(target: Any, database: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    backup_pins.change(str(tmp_path), [database], Path(backup.path).name, "case", release=False, who="counsel")
    backup_store.verify_files(backup)


def test_of_two_pins_only_the_named_one_is_released(tmp_path: Path) -> None:
    name = small(tmp_path, DATABASE, NOW - DAY).name
    pin(tmp_path, name, "case 1")
    pin(tmp_path, name, "case 2", who="auditor")
    error = refused(tmp_path, name, "", release=True)
    assert "has 2 pins: case 1 (counsel); case 2 (auditor)" in error.message
    assert "backup_pin_reason" in str(error.hint)
    assert "no pin with the reason 'case 3'" in refused(tmp_path, name, "case 3", release=True).message
    left = pin(tmp_path, name, "case 1", release=True)[DATABASE]["pins"]
    assert [one["reason"] for one in left] == ["case 2"]


def test_what_cannot_be_pinned_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = small(tmp_path, DATABASE, NOW - DAY)
    half = path.with_name("20260101_000000_manual_x.partial")
    half.mkdir()
    (path.parent / "a-link").symlink_to(path)
    assert "No reason is given" in refused(tmp_path, path.name, "  ").message
    assert "is not pinned" in refused(tmp_path, path.name, "", release=True).message
    assert f"the nearest is {path.name}" in refused(tmp_path, path.name[:-1]).message
    for name in ("../" + path.name, str(path), "", ".", "..", half.name):
        assert "is no id of a backup" in refused(tmp_path, name).message
    assert "There is no backup a-link" in refused(tmp_path, "a-link").message
    small(tmp_path, "other", NOW - DAY)
    assert "each have a backup" in refused(tmp_path, path.name, databases=[DATABASE, "other"]).message
    assert not (path / "pins.json").exists()


def test_damaged_pins_are_told_and_not_written_over(tmp_path: Path) -> None:
    path = small(tmp_path, DATABASE, NOW - DAY)
    for text in ("{", "[]", '{"format": 2}', '{"format": 1, "pins": [1], "released": []}'):
        (path / "pins.json").write_text(text)
        assert "are damaged" in refused(tmp_path, path.name).message
        assert (path / "pins.json").read_text() == text
        assert listed(tmp_path)[path.name]["pinned_by"][0] == "its pins cannot be read"


def test_a_pin_that_cannot_be_written_is_told(small_disk: Path) -> None:
    path = small(small_disk, DATABASE, NOW - DAY)
    (path.parent / backup_pins.LOCK).touch()
    with (small_disk / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError, match="No space left"):
        while True:
            ballast.write(b"x" * 4096)
    assert "cannot be written, they are as they were: No space left" in refused(small_disk, path.name).message
    assert [file.name for file in path.iterdir() if file.name.startswith(backup_store.PINS)] == []


def test_pins_behind_a_link_are_not_read(tmp_path: Path) -> None:
    path = small(tmp_path, DATABASE, NOW - DAY)
    (tmp_path / "elsewhere").write_text('{"format": 1, "pins": [], "released": []}')
    (path / "pins.json").symlink_to(tmp_path / "elsewhere")
    assert f"The pins {path}/pins.json cannot be read" in refused(tmp_path, path.name).message
    assert listed(tmp_path)[path.name]["pinned_by"][0] == "its pins cannot be read"


def test_a_backup_that_goes_just_before_it_is_pinned_is_not_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(tmp_path, DATABASE, NOW - DAY)
    held = backup_pins.held

    @contextmanager
    def held_after_a_deletion(folder: str) -> Iterator[None]:
        shutil.rmtree(path)
        with held(folder):
            yield

    monkeypatch.setattr(backup_pins, "held", held_after_a_deletion)
    assert f"The backup {path} is gone: it was deleted a moment ago." in refused(tmp_path, path.name).message
    assert not path.exists()


def test_while_another_process_has_the_pins_none_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small(tmp_path, DATABASE, NOW - DAY)
    monkeypatch.setattr(backup_pins, "WAIT_S", 0.1)
    with backup_pins.held(str(path.parent)):
        error = refused(tmp_path, path.name)
    assert error.extra["locked"]
    assert "being pinned, released or deleted" in error.message


def test_a_look_pins_nothing(target: Any, database: str, tmp_path: Path) -> None:
    path = small(tmp_path, database, NOW - DAY)
    told = call("backup_pin", target, check_mode=True, directory=str(tmp_path), pin=path.name, reason="case")
    assert told["changed"]
    assert not (path / "pins.json").exists()


# -- the playbooks ---------------------------------------------------------------------------------------------------------------


def twenty_days(playbook: Playbook, environment: str = "local") -> list[str]:
    """Two backups a day from twenty days ago until now; the ids, the oldest first."""
    now = datetime.now(UTC)
    made = [
        small(playbook.backups, playbook.database, now - half * timedelta(hours=12), environment=environment)
        for half in range(40, 0, -1)
    ]
    for path in made:
        os.chmod(path, 0o700)
    return [path.name for path in made]


@pytest.mark.slow
def test_from_the_list_to_the_expiry(playbook: Playbook) -> None:
    """The shipped playbooks: a list while the server is down, a hold, a look, the real run, its record."""
    names = twenty_days(playbook)
    database = playbook.database
    folder = playbook.backups / database

    down = playbook("backup_list.yml", pgops_port="1", backup_list_newest=3)
    assert down.rc == 0, down.output
    assert f"{database}: 40 backups in {folder}, 40 proved, 1 pinned, 0 not whole" in down.stdout
    assert "3 of 40 listed" in down.stdout
    assert [row["id"] for row in down.json["hosts"]["local-1"][database]["backup_list"]["backups"]] == names[:-4:-1]
    assert names[-1] in down.stdout
    assert "newest proved" in down.stdout

    held = playbook("backup_pin.yml", pgops_port="1", backup_pin=names[0], backup_pin_reason="legal hold, case 4711")
    assert held.rc == 0, held.output
    assert f"{names[0]} is pinned: legal hold, case 4711 (" in held.stdout
    assert "changed=1" in held.stdout

    shown = playbook("backup_expire.yml", "--check")
    assert shown.rc == 0, shown.output
    assert len(list(folder.glob("2*"))) == 40
    done = playbook("backup_expire.yml")
    assert done.rc == 0, done.output
    going, gone = (result.json["hosts"]["local-1"][database]["backup_expire"]["expired"] for result in (shown, done))
    assert going == gone
    left = {path.name for path in folder.glob("2*")}
    assert left == set(names) - {entry["id"] for entry in gone}
    assert names[0] in left
    assert f"{database}: {len(gone)} would be deleted (" in shown.stdout
    assert f"{database}: {len(gone)} deleted (" in done.stdout
    (journal,) = (playbook.state / "journal" / "local").glob(f"{done.json['run_id']}.jsonl")
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [line["id"] for line in lines if line["event"] == "backup_deleted"] == [entry["id"] for entry in gone]
    assert {line["database"] for line in lines if line["event"] == "backup_deleted"} == {database}


@pytest.mark.slow
def test_a_second_run_changes_nothing_and_a_release_is_told(playbook: Playbook) -> None:
    name = twenty_days(playbook)[0]
    for changed in (1, 0):
        held = playbook("backup_pin.yml", backup_pin=name, backup_pin_reason="case")
        assert f"changed={changed}" in held.stdout
        assert f"changed={changed}" in playbook("backup_expire.yml").stdout
    freed = playbook("backup_pin.yml", backup_unpin=name)
    assert f"{name} is not pinned any more" in freed.stdout


@pytest.mark.slow
def test_what_is_asked_for_wrongly_is_refused_with_the_command_to_type(playbook: Playbook) -> None:
    nothing = playbook("backup_pin.yml")
    assert nothing.rc == 2
    assert "No backup is named" in nothing.output
    assert "ansible-playbook backup_list.yml -l local" in nothing.output
    both = playbook("backup_pin.yml", backup_pin="a", backup_unpin="b")
    assert "Both backup_pin and backup_unpin are given" in both.output
    cut = playbook("backup_pin.yml", "-e", "backup_pin_reason=legal hold, case 4711", backup_pin="a")
    assert "was taken as 'legal', since a space ends a value; nothing was changed" in cut.output
    assert "backup_pin_reason='legal hold, case 4711'" in cut.output
    wrong = playbook("backup_list.yml", backup_list_only="prooved")
    assert "one of all, proved, unproved, pinned, expiring, damaged" in wrong.output
    assert "backup_list_newest is 0" in playbook("backup_list.yml", backup_list_newest=0).output


@pytest.mark.slow
def test_production_keeps_what_the_platform_asks_for(playbook: Playbook) -> None:
    twenty_days(playbook, "production")
    short = playbook("backup_expire.yml", limit="production", backup_keep_change_days=30)
    assert short.rc == 2
    assert "production keeps backups from before a schema change for 90 days at least" in short.output
    other = playbook("backup_expire.yml", "--check")
    assert "40 left as they are" in other.stdout
    assert "of environment production" in other.stdout


@pytest.mark.slow
@pytest.mark.parametrize("phi", [True, False])
def test_a_backup_and_its_run_know_of_each_other(playbook: Playbook, phi: bool) -> None:
    """The manifest says whether the change touches PHI, the audit and the log name the backup."""
    shutil.rmtree(playbook.copy_sql() / "migrations")
    tree = TestTree(playbook.folder / "sql")
    up, down = "CREATE TABLE public.rooms (\n    name text PRIMARY KEY\n);\n", "DROP TABLE public.rooms;\n"
    tree.add_sql("20260101000000", "rooms", up, down, phi=phi)
    made = playbook("migrate.yml")
    assert made.rc == 0, made.output
    path = Path(made.json["hosts"]["local-1"][playbook.database]["backup"]["path"])
    assert json.loads((path / "manifest.json").read_text())["phi"] is phi
    found = playbook("backup_list.yml").json["hosts"]["local-1"][playbook.database]["backup_list"]
    (row,) = found["backups"]
    assert row["kept_by"][0].startswith("before a change, PHI, until" if phi else "before a change, until")
    shown = playbook("backup_expire.yml", "--check").json["hosts"]["local-1"][playbook.database]["backup_expire"]
    assert any("that the last apply" in why for why in shown["kept"][0]["by"])
    (log,) = (playbook.state / "reports" / "local").glob(f"{made.json['run_id']}.log")
    assert f"BACKUP local-1 {playbook.database}: {path} (" in log.read_text()
    assert f"PROVED local-1 {playbook.database}: {path} at " in log.read_text()
    query = "SELECT detail -> 'backup' ->> 'path' FROM pgops.audit WHERE event = 'apply_started'"
    assert playbook.server.execute(query, database=playbook.database) == [(str(path),)]
    back = playbook("rollback.yml", rollback_confirm=playbook.database)
    assert back.rc == 0, back.output
    own = back.json["hosts"]["local-1"][playbook.database]["backup"]["path"]
    query = query.replace("apply_started", "revert_started")
    assert playbook.server.execute(query, database=playbook.database) == [(own,)]
