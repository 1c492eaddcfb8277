# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a dry run named is what the real run deleted, no more and no less; what is pinned stays, and each deletion is on record."""

from __future__ import annotations

import json
import os
from pathlib import Path

from support.backups_of_hosts import FOLDER, ids, manifest
from support.hosts import query


def expired(host, file):
    """The ids that a run named."""
    found = json.loads((Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / file).read_text(encoding="utf-8"))
    assert found["ok"] is True
    name = host.run("hostname").stdout.strip()
    return [entry["id"] for entry in found["hosts"][name]["white_cross"]["backup_expire"]["expired"]]


def test_the_dry_run_named_what_the_real_one_deleted(host):
    gone = expired(host, "gone.json")
    assert len(gone) == 1
    assert expired(host, "would_go.json") == gone
    assert gone[0] not in ids(host)


def test_the_pinned_one_and_the_newest_proved_one_stay_whole(host):
    _migration, pinned, newest = ids(host)
    assert manifest(host, pinned)["encryption"] is None
    assert "legal hold" in host.file(f"{FOLDER}/{pinned}/pins.json").content_string
    for backup in (pinned, newest):
        found = host.run(f"find {FOLDER}/{backup} -type f -printf '%P %s\\n'").stdout.splitlines()
        assert {f"{name} {entry['bytes']}" for name, entry in manifest(host, backup)["files"].items()} <= set(found)
    assert manifest(host, newest)["encryption"]


def test_the_deletion_is_on_record_beside_the_backups_and_in_the_ledger(host):
    (gone,) = expired(host, "gone.json")
    assert gone in host.file(f"{FOLDER}/deletions.jsonl").content_string
    recorded = query(host, "SELECT detail::text FROM pgops.audit WHERE event = 'backup_deleted'")
    assert len(recorded) == 1
    assert gone in recorded[0][0]
