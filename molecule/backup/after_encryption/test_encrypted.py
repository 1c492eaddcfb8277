# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An encrypted backup holds nobody's name, its private key stays with the ops host, and a dump that was killed is not one."""

from __future__ import annotations

import os
from pathlib import Path

from support.backups_of_hosts import FOLDER, ids, manifest, proof

NAME = "Wilhelmina-Quux"
PLACES = "/var/backups /tmp /var/tmp /dev/shm"


def plain(host):
    # The first one is the migration's, of an empty database.
    return ids(host)[1]


def test_a_killed_dump_is_published_by_nobody_and_the_next_one_is(host):
    # The migration's, the plain one, the one behind the kill, the proved one.
    assert len(ids(host)) == 4
    assert host.run("find /var/backups -name '*.partial*'").stdout == ""
    assert ".partial/" in host.file("/root/half_written").content_string


def test_the_dumps_are_encrypted_to_the_key_and_the_last_one_is_proved_by_it(host):
    _migration, _plain, unproved, proved = ids(host)
    for backup in (unproved, proved):
        assert host.run(f"head --bytes=22 {FOLDER}/{backup}/dump.age").stdout == "age-encryption.org/v1\n"
        assert manifest(host, backup)["encryption"]["recipients"]
        assert not host.file(f"{FOLDER}/{backup}/dump").exists
    assert manifest(host, plain(host))["encryption"] is None
    assert proof(host, unproved) is None
    assert proof(host, proved)["level"] == 4


def test_the_patient_is_named_in_the_plain_dump_alone(host):
    found = host.run(f"grep -rlF {NAME} {PLACES}").stdout.split()
    # That one shows that a look for the name finds it.
    assert found
    assert {Path(file).parents[1].name for file in found} == {plain(host)}


def test_it_was_so_while_the_dump_was_being_made(host):
    found = host.file("/root/seen_while_dumping").content_string.split()
    assert {Path(file).parents[1].name for file in found} == {plain(host)}


def test_the_private_key_is_not_on_the_host(host):
    assert host.run(f"grep -rlF AGE-SECRET-KEY {PLACES} /root /etc /home").stdout == ""


def test_neither_name_nor_key_is_in_what_the_ops_host_keeps(host):
    state = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "state"
    files = [file for file in state.rglob("*") if file.is_file()]
    assert files
    for file in files:
        text = file.read_bytes()
        assert NAME.encode() not in text, file
        assert b"AGE-SECRET-KEY" not in text, file
