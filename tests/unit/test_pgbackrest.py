# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pgBackRest's configuration is what was declared and no more, its secrets are shown nowhere, its errors are one sentence."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import pgbackrest, point_in_time, restore_point
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.os_user import OsUser
from ansible_collections.whitecross.pgops.plugins.module_utils.wal_archive import Wal

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
        pgbackrest.cipher_secrets(str(path))
    path.chmod(0o600)
    assert pgbackrest.cipher_secrets(str(path))["repo1-cipher-pass"] == "a phrase"
    path.write_text("")
    with pytest.raises(PgopsError, match="no passphrase of one line"):
        pgbackrest.cipher_secrets(str(path))


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

    def files(self, path: str) -> dict[str, dict[str, object]]:
        assert path == "archive/main/15-1"
        return {name: {} for name in self.names}


def test_segments_are_numbered_across_logs() -> None:
    digest = "a" * 40
    wal = Wal(Listed([f"0000000100000000/0000000100000000000000FF-{digest}.gz", "00000002.history"]), "15-1", 16 << 20)
    assert wal.segments == ["0000000100000000000000FF"]
    assert wal.name(1, wal.number(wal.segments[0]) + 1) == "000000010000000100000000"
