# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gate reads: rehearsals beside the backups, the signed evidence of the environment before."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import gate_evidence
from ansible_collections.whitecross.pgops.plugins.plugin_utils import gate_promotion, promotion
from support import rehearsal_file
from support.signers import People

V1 = "20260101000000"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
PENDING = [{"version": V1, "name": "rooms", "checksum": "files", "rendered_checksum": "sql"}]


def test_the_newest_rehearsal_of_exactly_this_sql_counts(tmp_path: Path) -> None:
    def newest(wanted: dict[str, str], environment: str = "local", host: str = "local-1") -> str | None:
        found = gate_evidence.newest_rehearsal(str(tmp_path), environment, host, "a", wanted)
        return found["id"] if found else None

    assert newest({V1: "sql"}) is None
    first = rehearsal_file.write(tmp_path, "a", PENDING)
    rehearsal_file.write(tmp_path, "a", [{**PENDING[0], "rendered_checksum": "other"}])
    folder = tmp_path / "a" / "rehearsals"
    (folder / "20990101T000000Z-000000.json").write_text("no json")
    (folder / "20990101T000000Z-000001.json").write_text(json.dumps({**first, "format": 2}))
    (folder / "20990101T000000Z-000002.json").write_text(json.dumps({**first, "at": "2100", "forecast": [1]}))
    (folder / "zzz.json").write_text(json.dumps(first))
    assert newest({V1: "sql"}) == first["id"]
    assert newest({V1: "sql", "20260101000001": "sql"}) is None, "a version that was not in it was not rehearsed"
    assert newest({V1: "sql"}, "staging") is None
    assert newest({V1: "sql"}, host="local-2") is None, "the database of the same name on another host has other data"
    theirs = rehearsal_file.write(tmp_path, "a", PENDING, host="local-2", at="2098-01-01T00:00:00Z")
    (folder / f"{theirs['id']}.json").rename(folder / f"{theirs['id']}-0123abcd.json")
    assert newest({V1: "sql"}, host="local-2") == theirs["id"]
    assert newest({V1: "sql"}) == first["id"]
    assert newest({}) is None
    # A run that goes on rehearses anew, under the id of the day on which it began.
    again = {**first, "id": "20000101T000000Z-000000", "at": "2099-01-01T00:00:00Z"}
    (folder / f"{again['id']}.json").write_text(json.dumps(again))
    assert newest({V1: "sql"}) == again["id"]


def look(path: Path, **more: Any) -> list[str]:
    given: dict[str, Any] = {
        "waived": [],
        "signers": None,
        "soak": timedelta(hours=24),
        "rehearsed": True,
        "now": NOW,
        **more,
    }
    return [lack["kind"] for lack in gate_promotion.look(path, "staging", PENDING, **given)["lacking"]]


def test_evidence_is_signed_rehearsed_and_soaked(tmp_path: Path) -> None:
    people, path = People(tmp_path / "people"), tmp_path / "staging.json"
    signers = people.signers("evidence", "staging")
    assert look(path) == ["version"]
    row = {"checksum": "files", "applied_at": (NOW - timedelta(hours=23)).isoformat(), "duration_s": 1.0}
    promotion.record(path, "staging", "s1", "a", "run", {V1: row})
    assert look(path) == ["signature", "rehearsal", "soak"]
    assert look(path, waived=[V1]) == []
    rehearsal = {"id": "r1", "ok": True, "files": {V1: "files"}}
    promotion.record(
        path,
        "staging",
        "s1",
        "a",
        "run",
        {V1: {**row, "applied_at": (NOW - timedelta(hours=24)).isoformat()}},
        rehearsal,
    )
    gate_promotion.sign(path, people.key("staging"))
    assert gate_promotion.signature_of(path).stat().st_mode & 0o777 == 0o600
    assert look(path, signers=signers) == []
    found = gate_promotion.look(
        path, "staging", PENDING, waived=[], signers=signers, soak=timedelta(), rehearsed=True, now=NOW
    )
    assert found["signed_by"] == "staging@hospital.org"
    # A later verification without a rehearsal keeps it, while the files are the same.
    promotion.record(path, "staging", "s1", "a", "run2", {V1: row})
    assert promotion.read(path)["versions"][V1]["rehearsed"] == "r1"
    assert look(path, signers=signers) == ["signature", "soak"], "what was written after it was signed is not signed"
    promotion.record(path, "staging", "s1", "a", "run3", {V1: {**row, "checksum": "others"}}, rehearsal)
    assert "rehearsed" not in promotion.read(path)["versions"][V1]


def test_a_rehearsal_of_what_is_applied_already_is_noted_and_one_of_other_files_is_not(tmp_path: Path) -> None:
    path = tmp_path / "evidence" / "staging.json"
    promotion.record(path, "staging", "s1", "a", "run", {V1: {"checksum": "files", "applied_at": NOW.isoformat()}})

    def left(**rehearsal: Any) -> list[Path]:
        result = {"a": {"rehearsal": {"id": "r1", "ok": True, "files": {V1: "files"}, **rehearsal}}}
        events = [{"event": "phase_finished", "phase": "rehearse", "host": "s1", "result": result}]
        return promotion.leave(tmp_path, "staging", "r1", events)

    for other in ({"files": {V1: "others"}}, {"files": {}}, {"ok": False}):
        assert left(**other) == []
        assert "rehearsed" not in promotion.read(path)["versions"][V1]
    assert left() == [path]
    assert promotion.read(path)["versions"][V1]["rehearsed"] == "r1"


def test_each_lack_has_the_command_that_mends_it() -> None:
    run = {"command": "ansible-playbook migrate.yml", "given": {"variables": {"pgops_host": "prod"}}}

    def command(*kinds: str) -> str | None:
        return gate_promotion.command({"lacking": [{"kind": kind} for kind in kinds]}, "staging", run)

    assert command("version") == "ansible-playbook migrate.yml -l staging"
    assert command("signature") == "ansible-playbook verify.yml -l staging -e verify_evidence_key=FILE"
    assert command("rehearsal", "soak") == (
        "ansible-playbook rehearse.yml -l staging -e rehearse_backup=BACKUP_OF_BEFORE -e verify_evidence_key=FILE"
    )
    assert command("soak") is None
