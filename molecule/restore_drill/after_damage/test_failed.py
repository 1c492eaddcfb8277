# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A damaged backup fails its drill: the evidence names the file, the backup is proved no more, and nothing is left behind."""

from __future__ import annotations

from support.drills import evidence, left_behind
from support.hosts import databases


def test_the_evidence_says_what_is_damaged(host):
    found, page = evidence(host)
    assert (found["verdict"], found["level"]) == ("failed", 0)
    assert [(entry["level"], entry["ok"]) for entry in found["levels"]] == [(0, False)]
    assert ".dat" in found["error"]
    assert found["error"].partition(".dat")[0].rpartition("/")[2] in page


def test_the_backup_is_proved_no_more(host):
    found, _page = evidence(host)
    assert not host.file(f"{found['backup']}/proof.json").exists


def test_nothing_is_left_behind_and_the_database_is_there(host):
    assert left_behind(host) == []
    assert "white_cross" in databases(host)
