# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The newest backup was restored on the other host to the last level; evidence of it is on the ops host, and nothing is left behind."""

from __future__ import annotations

import hashlib
import json

from support.drills import evidence, left_behind
from support.hosts import major, value

ELSEWHERE = {15: "pgops-drill-18:5433", 18: "pgops-drill-15:5433"}


def test_the_evidence_says_the_last_level_on_the_other_host(host):
    found, page = evidence(host)
    assert (found["verdict"], found["error"], found["level"], found["same_cluster"]) == ("passed", None, 6, False)
    assert [(entry["level"], entry["ok"]) for entry in found["levels"]] == [(level, True) for level in range(7)]
    assert found["scratch_server"] == ELSEWHERE[major(host)]
    assert found["server_version"][0] == major(host)
    assert 0 < found["ready_seconds"] < found["rto_seconds"]
    assert "restored on another host within the RTO" in page
    assert "failed" not in page.partition("<body>")[2]


def test_what_was_restored_is_what_the_database_holds(host):
    found, _page = evidence(host)
    # One question for all tables, whatever they are.
    tables = value(
        host,
        "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace IN ('public'::regnamespace, 'pgops'::regnamespace)",
    )
    assert found["tables"] == tables
    assert found["rows"] > value(host, "SELECT count(*) FROM students") > 0


def test_the_backup_is_proved_to_that_level_with_this_very_manifest(host):
    found, _page = evidence(host)
    manifest = host.run(f"cat {found['backup']}/manifest.json").stdout
    proof = json.loads(host.file(f"{found['backup']}/proof.json").content_string)
    assert proof["level"] == 6
    assert proof["manifest_sha256"] == found["manifest_sha256"] == hashlib.sha256(manifest.encode()).hexdigest()


def test_nothing_is_left_behind(host):
    assert left_behind(host) == []
