# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of a run: private, whole lines, readable after any crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils import journal as journals
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal, is_run_id, new_run_id

ROOT = Path(__file__).parents[2]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "state", "staging", new_run_id())


def test_run_ids_sort_by_time_and_differ_within_a_second() -> None:
    made = {new_run_id() for _ in range(50)}
    assert len(made) == 50
    assert all(is_run_id(name) for name in made)
    assert not is_run_id("../20260101T000000Z-aaaaaa")


def test_events_come_back_in_order_with_their_time(journal: Journal) -> None:
    journal.append({"event": "run_started"})
    journal.append({"event": "phase_started", "phase": "plan"})
    assert [event["event"] for event in journal.events()] == ["run_started", "phase_started"]
    assert all(event["time"].endswith("Z") for event in journal.events())


def test_folders_and_file_are_private_whatever_the_umask(journal: Journal) -> None:
    old = os.umask(0)
    try:
        journal.append({"event": "run_started"})
    finally:
        os.umask(old)
    assert journal.path.stat().st_mode & 0o777 == 0o600
    for folder in (journal.path.parent, journal.path.parents[1], journal.path.parents[2]):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_torn_last_line_loses_itself_and_nothing_else(journal: Journal) -> None:
    journal.append({"event": "run_started"})
    with journal.path.open("ab") as file:
        file.write(b'{"event":"phase_fin')
    assert [event["event"] for event in journal.events()] == ["run_started"]
    journal.append({"event": "interrupted"})
    assert [event["event"] for event in journal.events()] == ["run_started", "interrupted"]


def test_events_of_several_processes_never_mix(journal: Journal) -> None:
    code = (
        "import sys; from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal\n"
        "j = Journal(sys.argv[1], 'staging', sys.argv[2])\n"
        "for i in range(20): j.append({'event': 'phase_started', 'phase': sys.argv[3] * 3000, 'n': i})"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(journal.state_directory), journal.run_id, letter],
            env={**os.environ, "PYTHONPATH": str(ROOT / "collections")},
        )
        for letter in "abcd"
    ]
    assert [process.wait() for process in running] == [0, 0, 0, 0]
    events = journal.events()
    assert len(events) == 80
    assert all(len(set(event["phase"])) == 1 for event in events)


def test_the_value_of_a_key_that_names_a_secret_is_not_written(journal: Journal) -> None:
    journal.append(
        {"event": "phase_finished", "result": {"db": {"password": "geheim", "list": [{"api_token": "geheim"}]}}}
    )
    assert "geheim" not in journal.path.read_text()


@pytest.mark.parametrize(("environment", "run_id"), [("../etc", "a"), ("staging", "../../x"), ("", "a"), ("a/b", "c")])
def test_a_name_that_would_leave_the_folder_is_refused(tmp_path: Path, environment: str, run_id: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        Journal(tmp_path, environment, run_id)


def test_a_database_named_like_a_secret_keeps_its_versions(journal: Journal) -> None:
    journal.append({"event": "phase_started", "phase": "revert", "versions": {"clinic_tokens": ["20260101000001"]}})
    assert journal.events()[-1]["versions"] == {"clinic_tokens": ["20260101000001"]}


def test_runs_are_listed_by_environment_oldest_first(tmp_path: Path) -> None:
    for run_id in ("20260102T000000Z-bbbbbb", "20260101T000000Z-aaaaaa"):
        Journal(tmp_path, "local", run_id).append({"event": "run_started"})
    (tmp_path / "journal" / "local" / "notes.jsonl").write_text("{}")
    assert journals.runs(tmp_path, "local") == ["20260101T000000Z-aaaaaa", "20260102T000000Z-bbbbbb"]
    assert journals.latest(tmp_path, "local") == "20260102T000000Z-bbbbbb"
    assert journals.latest(tmp_path, "staging") is None


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    journals.write_private_file(path, "first")

    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journals.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        journals.write_private_file(path, json.dumps({"second": 1}))
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
