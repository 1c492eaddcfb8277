# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pgBackRest's configuration is what was declared and no more, its secrets are shown nowhere, its errors are one sentence."""

from __future__ import annotations

import getpass
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    pgbackrest,
    point_in_time,
    repository_cipher,
    restore_point,
    wal_archive,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.os_user import OsUser
from ansible_collections.whitecross.pgops.plugins.module_utils.wal_archive import Physical, Wal

CLUSTER = {"pg1-path": "/var/lib/postgresql/15/main", "pg1-port": "5432"}


def test_the_options_are_passed_through() -> None:
    text = pgbackrest.configuration(
        "main", CLUSTER, {"repo1-path": "/r", "archive-async": True, "exclude": ["a", "b"]}, {"repo1-s3-key": "s"}
    )
    assert text.splitlines()[1:] == [
        "[global]", "archive-async=y", "exclude=a", "exclude=b", "repo1-path=/r", "repo1-s3-key=s", "",
        "[main]", "pg1-path=/var/lib/postgresql/15/main", "pg1-port=5432",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("stanza", "options", "said"),
    [
        ("ma in", {"repo1-path": "/r"}, "backup_stanza"),
        ("main", {}, "backup_repository is empty"),
        ("main", {"repo1 path": "/r"}, "no option of a repository"),
        ("main", {"pg1-path": "/elsewhere"}, "no option of a repository"),
        ("main", {"repo1-path": "/r\n[other]"}, "no value of one line"),
        ("main", {"repo1-path": ""}, "no value of one line"),
        ("main", {"repo1-cipher-pass": "open"}, "a secret that would be shown"),
        ("main", {"repo1-s3-key-secret": "open"}, "a secret that would be shown"),
    ],
)
def test_what_is_no_option_is_refused(stanza: str, options: dict[str, str], said: str) -> None:
    with pytest.raises(PgopsError) as caught:
        pgbackrest.configuration(stanza, CLUSTER, options, {})
    assert said in caught.value.message
    assert "open" not in caught.value.message


def test_a_passphrase_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pass"
    path.write_text("a phrase\n")
    path.chmod(0o644)
    with pytest.raises(PgopsError, match="can be read by others"):
        repository_cipher.secrets(str(path), {}, {})
    path.chmod(0o600)
    assert repository_cipher.secrets(str(path), {}, {})["repo1-cipher-pass"] == "a phrase"
    path.write_text("")
    with pytest.raises(PgopsError, match="no passphrase of one line"):
        repository_cipher.secrets(str(path), {}, {})


def test_each_repository_is_encrypted_that_has_no_cipher_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "pass"
    path.write_text("a phrase\n")
    path.chmod(0o600)
    two = {"repo1-path": "/r", "repo2-path": "/s", "repo2-retention-full": 30}

    def ciphers(repository: dict[str, Any], given: dict[str, Any]) -> dict[str, str]:
        secrets = {**given, **repository_cipher.secrets(str(path), repository, given)}
        text = pgbackrest.configuration("main", CLUSTER, repository, secrets)
        found = pgbackrest.options_in(text.splitlines(), "main")
        assert text.count("-cipher-type=") == sum("cipher-type" in name for name in found)
        return {name: value for name, value in found.items() if "-cipher-" in name}

    whole = {f"repo{number}-cipher-{part}" for number in (1, 2) for part in ("type", "pass")}
    found = ciphers(two, {})
    assert set(found) == whole
    assert {found[f"repo{number}-cipher-pass"] for number in (1, 2)} == {"a phrase"}
    # One that is told of in the secrets only.
    assert "repo3-cipher-pass" in ciphers(two, {"repo3-s3-key": "k"})
    # What is declared is what is meant.
    assert ciphers({**two, "repo2-cipher-type": "none"}, {})["repo2-cipher-type"] == "none"
    assert "repo2-cipher-pass" not in ciphers({**two, "repo2-cipher-type": "none"}, {})
    own = ciphers({**two, "repo2-cipher-type": "aes-256-cbc"}, {"repo2-cipher-pass": "its own"})
    assert (own["repo1-cipher-pass"], own["repo2-cipher-pass"]) == ("a phrase", "its own")
    assert repository_cipher.secrets(None, two, {}) == {}


@pytest.mark.parametrize(
    ("old", "new", "state", "said"),
    [
        ("", "repo2-cipher-type=aes-256-cbc\nrepo2-cipher-pass=x\n", 0, "Repository 2 of stanza main was made without encryption"),
        ("repo2-cipher-type=aes-256-cbc\nrepo2-cipher-pass=x\n", "repo2-cipher-type=aes-256-cbc\nrepo2-cipher-pass=y\n", 2,
         "Repository 2 of stanza main is encrypted, and is to be used with another passphrase"),
        ("repo2-cipher-type=aes-256-cbc\nrepo2-cipher-pass=x\n", "", 0, "is to be used without encryption"),
        # No stanza in it, and one that was never the right one.
        ("", "repo2-cipher-type=aes-256-cbc\nrepo2-cipher-pass=x\n", 1, None),
        ("repo2-cipher-type=aes-256-cbc\nrepo2-cipher-pass=x\n", "", 99, None),
        ("", "repo2-retention-full=3\n", 0, None),
        # Another place is another repository.
        ("", "repo2-path=/elsewhere\nrepo2-cipher-type=aes-256-cbc\nrepo2-cipher-pass=x\n", 0, None),
    ],
)  # fmt: skip
def test_the_cipher_of_a_repository_that_is_there_is_not_changed_behind_the_archiver(
    tmp_path: Path, old: str, new: str, state: int, said: str | None
) -> None:
    repositories = [{"key": 1, "status": {"code": 0}}, {"key": 2, "status": {"code": state}}]
    tool = of_two_repositories(tmp_path, f"echo '{json.dumps([{'name': 'main', 'repo': repositories}])}'")
    begin = Path(tool.config).read_text()
    Path(tool.config).write_text(begin.replace("[main]", f"{old}[main]"))
    text = begin.replace("[main]", f"{new}[main]")
    if said is None:
        repository_cipher.refuse_changed(tool, text)
        return
    with pytest.raises(PgopsError, match=said) as caught:
        repository_cipher.refuse_changed(tool, text)
    assert "nothing was written" in caught.value.message
    assert "repo2-path" in str(caught.value.hint)
    assert "=x" not in f"{caught.value.message}{caught.value.hint}"


def test_a_repository_is_looked_at_only_where_its_cipher_would_change(tmp_path: Path) -> None:
    tool = of_two_repositories(tmp_path, "exit 1")
    text = Path(tool.config).read_text()
    repository_cipher.refuse_changed(tool, text)
    assert not (tmp_path / "asked").exists()
    repository_cipher.refuse_changed(tool, text.replace("[main]", "repo2-cipher-type=aes-256-cbc\n[main]"))
    assert (tmp_path / "asked").exists()


def test_a_file_of_somebody_else_is_left_as_it_is(tmp_path: Path) -> None:
    user = OsUser(getpass.getuser())
    path = tmp_path / "pgops.conf"
    path.write_text("[global]\n")
    with pytest.raises(PgopsError, match="was not written by"):
        pgbackrest.write_configuration(str(path), pgbackrest.HEADER, user)
    path.unlink()
    assert pgbackrest.write_configuration(str(path), pgbackrest.HEADER, user, pretend=True)
    assert not path.exists()
    assert pgbackrest.write_configuration(str(path), pgbackrest.HEADER, user)
    assert path.stat().st_mode & 0o777 == 0o600
    assert not pgbackrest.write_configuration(str(path), pgbackrest.HEADER, user)


def test_an_error_is_its_first_sentence() -> None:
    lines = [
        "P00   WARN: something",
        "ERROR: [029]: raised from local-1 protocol: zlib threw error: [-3] data error",
        "       HINT: x",
    ]
    assert pgbackrest.told_error(lines) == ("029", "zlib threw error: [-3] data error")
    assert pgbackrest.told_error(["nothing"]) == ("", "")


def test_a_program_that_is_not_there_is_named() -> None:
    tool = pgbackrest.PgBackRest("/nowhere/pgbackrest", "/c", "main", OsUser(getpass.getuser()))
    with pytest.raises(PgopsError, match="/nowhere/pgbackrest does not answer") as caught:
        tool.version()
    assert "backup_pgbackrest" in str(caught.value.hint)


def test_a_moment_needs_an_offset() -> None:
    assert point_in_time.moment("2026-11-22T14:05:00+02:00").isoformat() == "2026-11-22T12:05:00+00:00"
    assert point_in_time.moment("2026-11-22T14:05:00Z").isoformat() == "2026-11-22T14:05:00+00:00"
    for text in ("2026-11-22T14:05:00", "yesterday", ""):
        with pytest.raises(PgopsError):
            point_in_time.moment(text)


@pytest.mark.parametrize("name", ["", "a b", "x'", "-x", "n" * 64, "a\nb"])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(PgopsError):
        restore_point.refuse_name(name)


def test_a_run_names_its_restore_point() -> None:
    assert restore_point.name_of("20261122T120000Z-0a1b2c") == "pgops_20261122T120000Z-0a1b2c"


class Listed(pgbackrest.PgBackRest):
    """A repository of which only the list is asked for."""

    def __init__(self, names: list[str]) -> None:
        self.stanza = "main"
        self.names = names

    def files(self, path: str, repository: int = 1) -> dict[str, dict[str, object]]:
        assert path == "archive/main/15-1"
        return {name: {} for name in self.names}


def test_segments_are_numbered_across_logs() -> None:
    digest = "a" * 40
    wal = Wal(
        Listed([f"0000000100000000/0000000100000000000000FF-{digest}.gz", "00000002.history"]), {1: "15-1"}, 16 << 20
    )
    assert wal.segments == ["0000000100000000000000FF"]
    assert wal.name(1, wal.number(wal.segments[0]) + 1) == "000000010000000100000000"


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    user = OsUser(getpass.getuser())
    with pytest.raises(PgopsError, match=f"The passphrase file {tmp_path}/none cannot be read"):
        repository_cipher.secrets(str(tmp_path / "none"), {}, {})
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(PgopsError, match=f"The passphrase file {tmp_path}/pipe is no plain file"):
        repository_cipher.secrets(str(tmp_path / "pipe"), {}, {})
    with pytest.raises(PgopsError, match=f"The configuration {tmp_path} cannot be read: Is a directory"):
        pgbackrest.write_configuration(str(tmp_path), pgbackrest.HEADER, user)
    (tmp_path / "binary").write_bytes(b"\x7fELF\xff\xfe")
    with pytest.raises(PgopsError, match="was not written by"):
        pgbackrest.write_configuration(str(tmp_path / "binary"), pgbackrest.HEADER, user)
    below = tmp_path / "missing" / "further" / "pgops.conf"
    with pytest.raises(PgopsError, match=f"The configuration {below} cannot be written") as caught:
        pgbackrest.write_configuration(str(below), pgbackrest.HEADER, user)
    assert "backup_config" in str(caught.value.hint)
    assert not below.parent.parent.exists()


def answering(folder: Path, says: str, code: int = 0) -> pgbackrest.PgBackRest:
    """A program in the place of pgBackRest that says this and ends so, whatever it is asked."""
    path = folder / "pgbackrest"
    (folder / "says").write_text(says)
    path.write_text(f'#!/bin/sh\n[ "$2" ] || {{ echo pgBackRest 2.45; exit; }}\ncat {folder}/says\nexit {code}\n')
    path.chmod(0o755)
    return pgbackrest.PgBackRest(str(path), "/c", "main", OsUser(getpass.getuser()))


@pytest.mark.parametrize(
    ("says", "code", "said", "hint"),
    [
        ("[]", 0, "pgBackRest knows no stanza main in this repository.", "backup_engine=physical"),
        ("nothing that reads as JSON", 0, "pgBackRest's answer is no JSON", ""),
        ("ERROR: [050]: unable to acquire lock", 50, "info failed: unable to acquire lock.", "wait until it has ended"),
        ("ERROR: [046]: unexpected control version", 46, "pgBackRest 2.45 (", "backup_pgbackrest"),
        ("ERROR: [051]: system-id 1 do not match", 51, "info failed: system-id 1 do not match.", "stanza-upgrade"),
        (
            "ERROR: [095]: unable to load info file '/r/a' or '/r/b':\n       CryptoError: cipher header invalid",
            95,
            "info failed: unable to load info file '/r/a' or '/r/b'.",
            "was made with another passphrase, or without one",
        ),
        ("", 3, "ended with 3 and said nothing.", ""),
    ],
)
def test_what_pgbackrest_cannot_do_is_one_sentence_with_what_to_do(
    tmp_path: Path, says: str, code: int, said: str, hint: str
) -> None:
    with pytest.raises(PgopsError) as caught:
        answering(tmp_path, says, code).info()
    assert said in caught.value.message
    assert hint in str(caught.value.hint)
    assert caught.value.extra.get("locked", False) == (code == 50)


def test_damage_in_the_repository_is_found_although_verify_ends_well(tmp_path: Path) -> None:
    said = "backup: 20261122F, status: invalid, total files checked: 9\nINFO: invalid checksum 'base/5/1'\n"
    with pytest.raises(PgopsError, match=r"stanza main is damaged: invalid checksum 'base/5/1'\.") as caught:
        answering(tmp_path, said).verify()
    assert len(caught.value.extra["damage"]) == 2
    assert "type=full" in str(caught.value.hint)


def of_two_repositories(folder: Path, script: str) -> pgbackrest.PgBackRest:
    """A program in the place of pgBackRest whose configuration has two repositories; `$repo` is the one that it is asked about."""
    path, config = folder / "pgbackrest", folder / "pgops.conf"
    config.write_text(
        f"{pgbackrest.HEADER}[global]\nrepo1-path=/r\nrepo2-path=/s\nrepo2-type=s3\n[main]\npg1-path=/d\n"
    )
    path.write_text(
        f"""#!/bin/sh
case "$*" in *--repo=2*) repo=2;; *--repo=1*) repo=1;; *) repo=none;; esac
echo "$repo" >> {folder}/asked
{script}
"""
    )
    path.chmod(0o755)
    return pgbackrest.PgBackRest(str(path), str(config), "main", OsUser(getpass.getuser()))


def test_every_repository_is_verified_and_the_damaged_one_is_named(tmp_path: Path) -> None:
    tool = of_two_repositories(tmp_path, 'if [ $repo = 2 ]; then echo "INFO: invalid checksum base/5/1"; fi')
    assert tool.repositories() == [1, 2]
    with pytest.raises(
        PgopsError, match=r"Repository 2 of stanza main is damaged: invalid checksum base/5/1\."
    ) as caught:
        tool.verify()
    assert (tmp_path / "asked").read_text().split() == ["1", "2"]
    assert caught.value.extra["repositories"] == [2]
    assert "backup_copies_required=true" in str(caught.value.hint)


def test_damage_is_told_before_a_repository_that_does_not_answer_and_that_is_told_where_there_is_none(
    tmp_path: Path,
) -> None:
    silent = 'if [ $repo = 1 ]; then echo "ERROR: [049]: unable to connect"; exit 49; fi'
    with pytest.raises(PgopsError, match="Repository 1 could not be verified: unable to connect"):
        of_two_repositories(tmp_path, silent).verify()
    with pytest.raises(PgopsError, match="Repository 2 of stanza main is damaged"):
        of_two_repositories(tmp_path, f'{silent}; echo "INFO: invalid checksum x"').verify()


def test_each_repository_has_backups_and_an_archive_of_its_own() -> None:
    db = [
        {"id": 1, "repo-key": 1, "system-id": 8},
        {"id": 1, "repo-key": 2, "system-id": 3},
        {"id": 2, "repo-key": 2, "system-id": 8},
    ]
    archive = [
        {"database": {"id": entry["id"], "repo-key": entry["repo-key"]}, "id": f"15-{entry['id']}"} for entry in db
    ]
    times, lsn = {"start": 1, "stop": 2}, {"start": "0/1", "stop": "0/2"}
    backup = [
        {"database": entry["database"], "label": f"of {entry['database']['repo-key']}/{entry['id']}", "type": "full", "timestamp": times,
         "lsn": lsn, "archive": {"start": segment(1), "stop": segment(1)}, "info": {"size": 1}}
        for entry in archive
    ]  # fmt: skip
    info = {"name": "main", "db": db, "archive": archive, "backup": backup}
    assert wal_archive.archives(info, "8") == {1: "15-1", 2: "15-2"}
    assert [(one.label, one.repository) for one in wal_archive.backups(info, "8")] == [
        ("of 1/15-1", 1),
        ("of 2/15-2", 2),
    ]


class OfTwo(Listed):
    """Two repositories; a backup is whole in those that are given, and so is the WAL."""

    def __init__(self, whole: set[int]) -> None:
        super().__init__([])
        self.whole = whole
        self.progress = SimpleNamespace(emit=lambda text: self.told.append(text))
        self.told: list[str] = []
        self.config = "/c"

    def repositories(self) -> list[int]:
        return [1, 2]

    def files(self, path: str, repository: int = 1) -> dict[str, dict[str, object]]:
        if path.startswith("archive"):
            return {f"{segment(number)}-{'a' * 40}": {} for number in (1, 2)} if repository == 2 else {}
        return {f"{repository}F/backup.manifest": {}} if repository in self.whole else {}

    def manifest_option(self, label: str, repository: int, name: str) -> str | None:
        return "true"


def way(tool: Any, *, checksums: bool = True) -> point_in_time._Way:
    wal = Wal(tool, {1: "15-1", 2: "15-1"}, 16 << 20)
    return point_in_time._Way(tool, SimpleNamespace(data_checksums=checksums), wal, segment(2), 1)


def test_where_the_first_repository_lacks_the_backup_that_of_the_next_is_taken_with_its_wal() -> None:
    kept = [physical(label="1F"), physical(label="2F", repository=2)]
    target: dict[str, Any] = {"name": "p", "time": None, "lsn": "0/2"}
    both, second, none = OfTwo({1, 2}), OfTwo({2}), OfTwo(set())
    assert way(both).choose(kept, lambda backup: None, **target).backup == "1F"
    assert way(second).choose(kept, lambda backup: None, **target).repository == 2
    assert "which is not in repository 1 any more" in second.told[0]
    assert "Taking 2F of repository 2" in second.told[0]
    with pytest.raises(PgopsError, match="which is not in repository 1 any more; nothing was touched"):
        way(none).choose(kept, lambda backup: None, **target)


def test_a_backup_of_the_other_checksum_state_is_refused() -> None:
    target: dict[str, Any] = {"name": "p", "time": None, "lsn": "0/2"}
    with pytest.raises(
        PgopsError,
        match="Backup 1F was taken with data checksums on, and the cluster has them off; nothing was touched",
    ) as caught:
        way(OfTwo({1, 2}), checksums=False).choose([physical(label="1F")], lambda backup: None, **target)
    assert "pg_checksums --enable" in str(caught.value.hint)


def test_a_timeline_is_named_in_decimal() -> None:
    """PostgreSQL reads ``A`` as timeline 0, which there is not."""
    plan = point_in_time.Plan("20261122F", 1, "p", None, "0/2", 10, segment(2), 1)
    assert "--target-timeline=10" in plan.arguments()


def test_backups_of_another_cluster_are_refused() -> None:
    info = {"name": "main", "db": [{"id": 1, "system-id": 4711}]}
    assert wal_archive.backups(info, "4711") == []
    with pytest.raises(PgopsError, match=r"system identifier 4711, this is 8\); nothing was touched") as caught:
        wal_archive.backups(info, "8")
    assert "backup_stanza" in str(caught.value.hint)


def segment(number: int) -> str:
    """The name of a segment of the first timeline."""
    return f"{1:08X}{number:016X}"


def physical(**more: Any) -> Physical:
    """A backup on the first timeline, at its begin."""
    first, moment = segment(1), datetime(2026, 11, 22, tzinfo=UTC)
    told = {
        "label": "20261122F",
        "kind": "full",
        "start": moment,
        "stop": moment,
        "first_wal": first,
        "last_wal": first,
    }
    return Physical(**{**told, "stop_lsn": 1, "size": 1, "references": (), "damaged": False, **more})


def test_a_timeline_whose_history_is_gone_is_told() -> None:
    listed = Listed([])
    listed.user = OsUser(getpass.getuser())
    listed.fetch_wal = lambda segment, folder: None
    with pytest.raises(PgopsError, match="The history of timeline 2 is not in the archive; nothing was touched"):
        Wal(listed, {1: "15-1"}, 16 << 20).is_on_the_way(physical(), 2)


def test_a_backup_with_damaged_pages_and_one_behind_the_restore_point_are_refused() -> None:
    with pytest.raises(PgopsError, match="holds pages that were damaged already when it was taken"):
        wal_archive.refuse_broken_chain(Listed([]), physical(damaged=True))
    wal = Wal(Listed([]), {1: "15-1"}, 16 << 20)
    wal.find = lambda name, oldest, program: (wal_archive.Found(name, "0/2", segment(1)), [])
    layout = SimpleNamespace(bindir="/nowhere")
    with pytest.raises(
        PgopsError, match="No backup that is kept lies before restore point early on its timeline"
    ) as late:
        point_in_time._to_name(Listed([]), layout, wal, [physical(stop_lsn=3)], "early", lambda backup: None)
    assert late.value.hint == "The oldest is 20261122F."
    wal.find = lambda name, oldest, program: (None, [])
    with pytest.raises(PgopsError, match="There is no restore point never in the archived WAL") as never:
        point_in_time._to_name(Listed([]), layout, wal, [physical()], "never", lambda backup: None)
    assert "none" in str(never.value.hint)


def test_a_gap_in_the_wal_is_named() -> None:
    wal = Wal(Listed([f"{segment(1)}-{'a' * 40}", f"{segment(3)}-{'a' * 40}"]), {1: "15-1"}, 16 << 20)
    with pytest.raises(PgopsError, match=f"WAL segment {segment(2)} is missing in the archive") as caught:
        wal.refuse_gap(physical(), segment(3))
    assert caught.value.extra == {"missing": segment(2)}
