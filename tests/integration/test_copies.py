# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy in a second place is there whole or not at all, was read back there, and production waits for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, copies, copy_folder, copy_place
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from support.backups import back_up, fill, prove, small, start_python
from support.keys import age_key
from support.module import call
from support.small_disk import mounted
from support.ssh_host import SshHost, ssh_host


@pytest.fixture
def backup(server: Any, target: Any, database: str, tmp_path: Path) -> backup_store.Backup:
    fill(server, database, 50)
    return back_up(target, tmp_path / "backups", purpose="before_migration")


@pytest.fixture
def second(tmp_path: Path) -> dict[str, Any]:
    """A folder that stands for another disk."""
    (tmp_path / "second").mkdir()
    return {"path": str(tmp_path / "second"), "same_file_system": True}


def copy(backup: backup_store.Backup, *places: dict[str, Any], timeout: float = 120, **settings: Any) -> dict[str, Any]:
    return copies.copy(
        backup, copies.refuse_places(list(places)), timeout=timeout, sleep=lambda _seconds: None, **settings
    )


def below(place: dict[str, Any]) -> list[str]:
    """Every file in the place."""
    folder = Path(place["path"])
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# -- a folder --------------------------------------------------------------------------------------------------------------


def test_what_does_not_end_in_the_time_for_all_of_it_is_told_and_not_copied(
    backup: backup_store.Backup, second: dict[str, Any]
) -> None:
    late = copy(backup, second, whole_timeout=0.000001)
    assert (late["copies"], late["made"], below(second)) == ([], [], [])
    assert "took longer than rollback_emergency_backup_timeout" in late["not_copied"][0]["message"]
    assert copy(backup, second, whole_timeout=120)["made"] == [second["path"]]


def test_a_copy_lies_below_purpose_day_and_database_and_can_be_read_as_a_backup(
    backup: backup_store.Backup, second: dict[str, Any], target: Any
) -> None:
    made = copy(backup, second)
    day = datetime.fromisoformat(backup.manifest["started"]).strftime("%Y/%m/%d")
    cluster = backup.manifest["system_identifier"]
    where = f"{second['path']}/pre-migration/{day}/{target.database}/{cluster}/{Path(backup.path).name}"
    (entry,) = made["copies"]
    assert entry["path"] == where
    assert entry["place"] == second["path"]
    assert entry["manifest_sha256"] == backup.manifest_sha256
    assert entry["bytes"] == sum(path.stat().st_size for path in Path(where).rglob("*") if path.is_file())
    assert (made["made"], made["not_copied"]) == ([second["path"]], [])
    assert copies.read(backup.path) == made["copies"]
    backup_store.verify_files(backup_store.read_backup(where))
    # What was written beside the manifest is no foreign file.
    backup_store.verify_files(backup)
    for path in [Path(where), *Path(where).rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize(
    ("purpose", "word"),
    [("before_migration", "pre-migration"), ("before_rollback", "pre-rollback"), ("manual", "manual"),
     ("emergency", "emergency"), ("../..", "manual")],
)  # fmt: skip
def test_the_purpose_is_the_first_word(purpose: str, word: str) -> None:
    manifest = {"purpose": purpose, "started": "2026-11-21T23:30:00-02:00", "database": "a/b"}
    backup = backup_store.Backup("/backups/x/20261122_013000_p_r", manifest, "", None)
    assert copies.location(backup) == f"{word}/2026/11/22/a%2Fb/20261122_013000_p_r"
    of_cluster = backup_store.Backup(backup.path, {**manifest, "system_identifier": "7300000000000000001"}, "", None)
    assert copies.location(of_cluster) == f"{word}/2026/11/22/a%2Fb/7300000000000000001/20261122_013000_p_r"


def hosts_of_one_run(folder: Path) -> list[backup_store.Backup]:
    """Of two hosts that back up a database of one name in the same second of one run."""
    moment = datetime(2026, 11, 23, 12, 0, 5, tzinfo=UTC)
    return [
        backup_store.read_backup(
            str(small(folder / cluster, "white_cross", moment, system_identifier=cluster, started=moment.isoformat()))
        )
        for cluster in ("7300000000000000001", "7300000000000000002")
    ]


def test_hosts_of_one_run_copy_to_one_place_side_by_side(second: dict[str, Any], tmp_path: Path) -> None:
    hosts = hosts_of_one_run(tmp_path)
    assert Path(hosts[0].path).name == Path(hosts[1].path).name
    for host in hosts:
        result = copy(host, second)
        assert (result["made"], result["not_copied"]) == ([second["path"]], [])
    for host in hosts:
        (entry,) = copies.read(host.path)
        assert backup_store.read_backup(entry["path"]).manifest == host.manifest


def test_a_copy_from_before_the_cluster_was_in_the_path_is_found_where_it_lies(
    second: dict[str, Any], tmp_path: Path
) -> None:
    (host, other) = hosts_of_one_run(tmp_path)
    (entry,) = copy(host, second)["copies"]
    cluster = host.manifest["system_identifier"]
    older = Path(entry["path"].replace(f"/{cluster}/", "/"))
    Path(entry["path"]).rename(older)
    (Path(host.path) / "copies.json").write_text(json.dumps([{**entry, "path": str(older)}]))
    result = copy(host, second)
    assert (result["made"], [one["path"] for one in result["copies"]]) == ([], [str(older)])
    assert copies.would_be(host, copies.refuse_places([second])) == [str(older)]
    assert not Path(entry["path"]).exists()
    # It keeps no other host from copying.
    assert copy(other, second)["not_copied"] == []


def test_a_second_run_reads_back_and_sends_nothing_but_a_new_proof(
    backup: backup_store.Backup, second: dict[str, Any], target: Any
) -> None:
    first = copy(backup, second)
    again = copy(backup, second)
    assert again["made"] == []
    assert [entry["path"] for entry in again["copies"]] == [entry["path"] for entry in first["copies"]]
    prove(target, backup)
    assert copy(backup, second)["made"] == [second["path"]]
    assert backup_store.read_backup(first["copies"][0]["path"]).proved


def test_damage_in_the_copy_is_found_and_left_to_a_person(backup: backup_store.Backup, second: dict[str, Any]) -> None:
    (entry,) = copy(backup, second)["copies"]
    catalog = Path(entry["path"]) / "catalog.json.gz"
    catalog.write_bytes(b"other")
    found = copy(backup, second)
    assert found["copies"] == []
    assert copies.read(backup.path) == []
    (missing,) = found["not_copied"]
    assert missing["message"] == f"The copy in {entry['path']} is not what was sent: catalog.json.gz is another one."
    assert catalog.read_bytes() == b"other"


def test_what_the_place_writes_wrong_is_never_published(
    backup: backup_store.Backup, second: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A medium that takes every byte and gives back others."""
    right = copy_folder._copy_file

    def wrong(source: str, destination: str, check: Any) -> None:
        right(source, destination, check)
        if destination.endswith("manifest.json"):
            Path(destination).write_text("{}", encoding="ascii")

    monkeypatch.setattr(copy_folder, "_copy_file", wrong)
    (missing,) = copy(backup, second)["not_copied"]
    assert "manifest.json is another one" in missing["message"]
    assert below(second) == []


def test_a_damaged_backup_is_not_spread(backup: backup_store.Backup, second: dict[str, Any]) -> None:
    (Path(backup.path) / "catalog.json.gz").write_bytes(b"")
    with pytest.raises(PgopsError, match=r"is damaged: catalog\.json\.gz"):
        copy(backup, second)
    assert below(second) == []


def test_one_place_that_fails_does_not_keep_the_copy_from_the_other(
    backup: backup_store.Backup, second: dict[str, Any], tmp_path: Path
) -> None:
    found = copy(backup, {"path": str(tmp_path / "not mounted")}, second)
    assert [entry["place"] for entry in found["copies"]] == [second["path"]]
    (missing,) = found["not_copied"]
    assert "There is no folder" in missing["message"]
    assert not (tmp_path / "not mounted").exists()


def test_the_disk_of_the_backups_themselves_is_no_second_place(backup: backup_store.Backup, tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    (missing,) = copy(backup, {"path": str(tmp_path / "beside")})["not_copied"]
    assert "which is no second place" in missing["message"]
    assert "not mounted" in str(missing["hint"])


def test_a_full_place_keeps_nothing_under_a_final_name(
    server: Any, target: Any, backup: backup_store.Backup, tmp_path: Path
) -> None:
    with mounted(tmp_path / "small", "16k") as small:
        (missing,) = copy(backup, {"path": str(small)})["not_copied"]
        assert "No space left on device" in missing["message"]
        assert all(".partial/" in name for name in below({"path": str(small)}))


def test_another_backup_under_its_name_is_left_as_it_is(backup: backup_store.Backup, second: dict[str, Any]) -> None:
    (entry,) = copy(backup, second)["copies"]
    manifest = Path(entry["path"]) / "manifest.json"
    manifest.write_text("{}", encoding="ascii")
    (missing,) = copy(backup, second)["not_copied"]
    assert "another backup" in missing["message"]
    assert manifest.read_text(encoding="ascii") == "{}"


def test_killed_in_the_middle_only_partial_is_left_and_the_next_run_completes_it(
    backup: backup_store.Backup, second: dict[str, Any], target: Any
) -> None:
    killed = start_python(
        """
        from ansible_collections.whitecross.pgops.plugins.module_utils import copies, copy_folder
        right = copy_folder._copy_file
        def slow(source, destination, check):
            right(source, destination, check)
            if destination.endswith("manifest.json"):
                print("sent", flush=True)
                signal.pause()
        copy_folder._copy_file = slow
        copies.copy(backup_store.read_backup(values["path"]), copies.refuse_places([values["place"]]), timeout=60)
        """,
        target,
        path=backup.path,
        place=second,
    )
    assert killed.stdout is not None
    assert killed.stdout.readline() == "sent\n"
    with pytest.raises(PgopsError, match="Another run copies"):
        copy(backup, second)
    killed.kill()
    killed.communicate()
    assert below(second) and all(".partial/" in name for name in below(second))
    assert copies.read(backup.path) == []
    assert copy(backup, second)["not_copied"] == []
    assert not any(".partial" in name for name in below(second))


def test_asked_to_end_or_out_of_time_it_publishes_nothing(
    backup: backup_store.Backup, second: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (missing,) = copy(backup, second, timeout=0)["not_copied"]
    assert "took longer than backup_copies_timeout" in missing["message"]
    control = Control(None)
    monkeypatch.setattr(copy_folder, "_copy_file", lambda *_: control.request("the job was told to end (SIGTERM)"))
    with pytest.raises(Interrupted):
        copy(backup, second, control=control)
    assert all(".partial/" in name for name in below(second))


# -- nonsense --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("/mnt/x", "is none"),
        ({}, "is none"),
        ({"path": "/a", "rsync": "h:/b"}, "is none"),
        ({"path": "relative"}, "no whole path"),
        ({"path": "/a", "ssh_config": "x"}, "has ssh_config, which path does not take"),
        ({"rsync": "host"}, "not [user@]host:/whole/path"),
        ({"rsync": "-oProxyCommand=x:/a"}, "not [user@]host:/whole/path"),
        ({"rsync": "host;id:/a"}, "not [user@]host:/whole/path"),
        ({"rclone": "bucket"}, "not remote:bucket/prefix"),
        ({"rclone": ":s3,secret_access_key=Hush4711:bucket"}, "holds options of its remote"),
    ],
)
def test_a_place_that_is_none_is_refused_by_its_number(place: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(PgopsError) as caught:
        copies.refuse_places([{"path": str(tmp_path)}, place])
    assert "Place 2 of backup_copies" in caught.value.message
    assert told in caught.value.message
    assert "Hush4711" not in json.dumps(caught.value.as_dict())


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["no-such-rclone", "lsf"], "There is no no-such-rclone on "),
        (["sh", "-c", "exit 7"], "sh ended with 7: it said nothing."),
        (
            ["sh", "-c", "echo begun >&2; echo rsync error: some >&2; echo more >&2; exit 1"],
            "sh ended with 1: rsync error: some.",
        ),
        (["sh", "-c", "echo begun >&2; echo the last >&2; exit 1"], "sh ended with 1: the last."),
    ],
)
def test_a_program_that_is_missing_or_fails_is_told_by_its_most_telling_line(command: list[str], told: str) -> None:
    with pytest.raises(PgopsError) as caught:
        copy_place.run(command, lambda: None)
    assert caught.value.message.startswith(told)
    assert ("final" in caught.value.extra) == (command[0] != "sh")


# -- an object store, by a remote on this disk ----------------------------------------------------------------------------------


def test_in_an_object_store_the_manifest_comes_last(
    backup: backup_store.Backup, target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove(target, backup)
    (tmp_path / "rclone.conf").write_text("[vault]\ntype = local\n", encoding="ascii")
    place = {"rclone": f"vault:{tmp_path}/bucket", "config": str(tmp_path / "rclone.conf")}
    (store,) = copies.refuse_places([place])
    with monkeypatch.context() as patch:
        patch.setattr(
            type(store), "publish", lambda *_: (_ for _ in ()).throw(PgopsError("cut off", extra={"final": True}))
        )
        (missing,) = copy(backup, place)["not_copied"]
        assert missing["message"] == "cut off"
        assert any(name.endswith("proof.json") for name in below({"path": str(tmp_path / "bucket")}))
        assert not any(name.endswith("manifest.json") for name in below({"path": str(tmp_path / "bucket")}))
    made = copy(backup, place)
    (entry,) = made["copies"]
    assert made["made"] == [f"vault:{tmp_path}/bucket"]
    assert entry["path"].startswith(f"vault:{tmp_path}/bucket/pre-migration/")
    whole = Path(entry["path"].partition(":")[2])
    copied = backup_store.read_backup(str(whole))
    backup_store.verify_files(copied)
    assert copied.proved
    assert copy(backup, place)["made"] == []
    (whole / "catalog.json.gz").write_bytes(b"other")
    (missing,) = copy(backup, place)["not_copied"]
    assert "catalog.json.gz is another one" in missing["message"]


def test_an_object_store_that_nobody_declared_is_told(backup: backup_store.Backup) -> None:
    (missing,) = copy(backup, {"rclone": "nowhere:bucket"})["not_copied"]
    assert "rclone ended with 1" in missing["message"]
    assert "nowhere" in missing["message"]


# -- another host -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    with ssh_host(tmp_path_factory.mktemp("vault")) as host:
        yield host


@pytest.mark.container
def test_over_ssh_it_is_sent_read_back_and_renamed_there(
    backup: backup_store.Backup, vault: SshHost, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.run("mkdir -p '/srv/second place'")
    place = {"rsync": "vault:/srv/second place", "ssh_config": str(vault.config)}
    (remote,) = copies.refuse_places([place])
    with monkeypatch.context() as patch:
        patch.setattr(
            type(remote), "publish", lambda *_: (_ for _ in ()).throw(PgopsError("cut off", extra={"final": True}))
        )
        assert copy(backup, place)["not_copied"][0]["message"] == "cut off"
    sent = vault.run("find '/srv/second place' -type f").splitlines()
    assert sent and all(".partial/" in name for name in sent)
    made = copy(backup, place)
    assert made["not_copied"] == []
    (entry,) = made["copies"]
    whole = entry["path"].partition(":")[2]
    assert vault.run(f"cd '{whole}' && sha256sum manifest.json").split()[0] == backup.manifest_sha256
    assert vault.run("find '/srv/second place' -name '*.partial'") == ""
    assert set(vault.run(f"find '{whole}' -type f -printf '%m\\n'").split()) == {"600"}
    assert set(vault.run(f"find '{whole}' -type d -printf '%m\\n'").split()) == {"700"}
    assert copy(backup, place)["made"] == []
    prove(target, backup)
    assert copy(backup, place)["made"] == ["vault:/srv/second place"]
    assert vault.run(f"ls '{whole}/proof.json'")
    # A bit that fell over there.
    vault.run(f"printf x >> '{whole}/catalog.json.gz'")
    (missing,) = copy(backup, place)["not_copied"]
    assert "catalog.json.gz is another one" in missing["message"]


@pytest.mark.container
def test_over_ssh_a_place_that_is_not_there_or_does_not_let_us_in_is_told(
    backup: backup_store.Backup, vault: SshHost, tmp_path: Path
) -> None:
    (missing,) = copy(backup, {"rsync": "vault:/srv/none", "ssh_config": str(vault.config)})["not_copied"]
    assert "There is no folder /srv/none on vault that may be written" in missing["message"]
    stranger = tmp_path / "stranger"
    age_key(tmp_path)
    stranger.write_text(vault.config.read_text(encoding="ascii").replace("/client\n", "/none\n"), encoding="ascii")
    (missing,) = copy(backup, {"rsync": "vault:/srv/backups", "ssh_config": str(stranger)})["not_copied"]
    assert "ssh ended with 255" in missing["message"]
    assert "denied" in missing["message"]


# -- as it is called -------------------------------------------------------------------------------------------------------------


def test_the_module_fails_where_a_copy_is_required_and_warns_elsewhere(
    backup: backup_store.Backup, second: dict[str, Any], target: Any, tmp_path: Path
) -> None:
    arguments = {"path": backup.path, "places": [{"path": str(tmp_path / "none")}]}
    told = call("backup_copy", target, **arguments)
    assert not told.get("failed")
    assert len(told["databases"][target.database]["not_copied"]) == 1
    refused = call("backup_copy", target, required=True, **arguments)
    assert refused["failed"]
    assert f"{target.database}: there is no verified copy in {tmp_path / 'none'}" in refused["msg"]
    would = call("backup_copy", target, check_mode=True, path=backup.path, places=[second])
    assert would["databases"][target.database]["would_copy"][0].startswith(f"{second['path']}/pre-migration/")
    assert below(second) == []


def test_the_backup_of_the_run_comes_before_the_one_that_is_named(
    backup: backup_store.Backup, second: dict[str, Any], target: Any, tmp_path: Path
) -> None:
    older, database = back_up(target, tmp_path / "older"), target.database
    recorded = {"path": backup.path, "manifest_sha256": backup.manifest_sha256}
    arguments = {"path": older.path, "places": [second]}
    assert (
        call("backup_copy", target, backups={database: recorded}, **arguments)["databases"][database]["path"]
        == backup.path
    )
    recorded["manifest_sha256"] = "0" * 64
    refused = call("backup_copy", target, backups={database: recorded}, **arguments)
    assert refused["failed"]
    assert "altered" in refused["msg"]


def test_the_copy_of_an_encrypted_backup_needs_no_key(
    server: Any, target: Any, database: str, tmp_path: Path, second: dict[str, Any]
) -> None:
    fill(server, database, 50)
    key = age_key(tmp_path)
    backup = back_up(target, tmp_path / "backups", encrypt_to=[key.public])
    (entry,) = copy(backup, second)["copies"]
    shutil.rmtree(backup.path)
    assert prove(target, backup_store.read_backup(entry["path"]), identity=key.identity)["tables"] == 3
