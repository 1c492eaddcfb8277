# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rehearsal has held the lock on a copy; neither database has seen anything of the version."""

import json

from support.hosts import databases, query, value

FLOOR = (
    "SELECT count(*) FROM pg_attribute WHERE attrelid = 'rooms'::regclass AND attname = 'floor' AND NOT attisdropped"
)


def name(host):
    return host.run("hostname").stdout.strip()


def test_no_database_has_the_version_or_a_ledger(host):
    assert value(host, FLOOR) == 0
    assert value(host, "SELECT to_regnamespace('pgops')::text") is None


def test_no_copy_is_left(host):
    assert databases(host) == ["postgres", "white_cross"]


def test_the_lock_was_seen_where_it_was_rehearsed(host):
    found = host.run("cat /var/backups/pgops/white_cross/rehearsals/*.json")
    if name(host) == "pgops-gate-production":
        assert found.rc != 0, "without staging's evidence nothing is even backed up"
        assert not host.file("/var/backups/pgops").exists
        return
    record = json.loads(found.stdout)
    assert record["ok"] is False
    assert record["forecast"]["blocks_reads"] > 30
    locks = [lock for step in record["steps"] for lock in step["locks"]]
    assert ("public.rooms", "AccessExclusiveLock") in [(lock["table"], lock["mode"]) for lock in locks]


def test_no_session_waits_for_anything(host):
    assert (
        query(host, "SELECT pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()") == []
    )
