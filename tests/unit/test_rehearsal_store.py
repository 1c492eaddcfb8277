# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rehearsals lie beside the backups, whole or not at all; what an apply took is learnt from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_catalogue,
    rehearsal_actual,
    rehearsal_forecast,
    rehearsal_store,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils.declared_masking import read_masking
from ansible_collections.whitecross.pgops.plugins.plugin_utils.declared_queries import read_queries, scan_queries
from support.backups import small

RUN = "20261121T120000Z-0a1b2c"
PAIR = ["s:1", "p:1"]
STEP = {
    "version": "1",
    "ordinal": 1,
    "step": "up",
    "kind": "sql",
    "plain": 2.0,
    "seconds": 2.0,
    "low": 1.0,
    "high": 4.0,
    "wal_bytes": 7,
}
RECORD = {"format": 1, "id": RUN, "database": "school", "servers": {"pair": PAIR}, "forecast": {"steps": [STEP]}}


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    from datetime import UTC, datetime

    return small(tmp_path, "school", datetime(2026, 1, 1, tzinfo=UTC))


def applied(seconds: float) -> list[dict[str, Any]]:
    return [{"version": "1", "step_durations": [{"step": 1, "duration_s": seconds}, {"step": 2, "duration_s": 1.0}]}]


def test_a_rehearsal_is_private_and_no_backup(backup: Path) -> None:
    path = Path(rehearsal_store.write(str(backup), RECORD))
    assert path == backup.parent / "rehearsals" / f"{RUN}.json"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert rehearsal_store.read(str(path)) == RECORD
    assert [entry.id for entry in backup_catalogue.entries(str(backup.parents[1]), "school")] == [backup.name]


def test_one_that_cannot_be_written_leaves_nothing(backup: Path) -> None:
    (backup.parent / "rehearsals").write_text("a file in its way")
    with pytest.raises(PgopsError, match="cannot be (kept|made)"):
        rehearsal_store.write(str(backup), RECORD)
    assert sorted(os.listdir(backup.parent)) == [backup.name, "rehearsals"]


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "", ".hidden", "a/b"])
def test_what_is_no_run_id_names_no_file(backup: Path, run_id: str) -> None:
    with pytest.raises(PgopsError, match="is no run id"):
        rehearsal_store.write(str(backup), {**RECORD, "id": run_id})


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 2}', "null"])
def test_one_that_is_damaged_is_refused(backup: Path, text: str) -> None:
    path = Path(rehearsal_store.write(str(backup), RECORD))
    path.write_text(text)
    with pytest.raises(PgopsError, match="cannot be read|has format"):
        rehearsal_store.read(str(path))


def test_what_an_apply_took_is_noted_and_feeds_the_next_forecast(backup: Path) -> None:
    path = rehearsal_store.write(str(backup), RECORD)
    found = rehearsal_actual.compare(path, applied(3.0))
    assert (found["forecast_s"], found["actual_s"]) == (2.0, 3.0)
    assert [(step["ordinal"], step["within"]) for step in found["steps"]] == [(1, True)]
    assert rehearsal_actual.compare(path, applied(9.0), keep=False)["steps"][0]["within"] is False
    rehearsal_actual.compare(path, applied(3.0))
    history = backup.parent / "rehearsals" / "history.jsonl"
    # A line that a crash has torn takes no later one with it.
    with history.open("a") as stream:
        stream.write('{"torn": ')
    rehearsal_actual.compare(path, applied(6.0))
    lines = rehearsal_store.history(str(backup))
    assert [line["actual"] for line in lines] == [3.0, 3.0, 6.0]
    assert history.stat().st_mode & 0o777 == 0o600
    assert rehearsal_forecast.correction(lines, PAIR, "sql") == (1.5, 1.0, 2.0)


def test_a_history_that_cannot_be_written_fails_nothing(backup: Path) -> None:
    path = rehearsal_store.write(str(backup), RECORD)
    (backup.parent / "rehearsals" / "history.jsonl").symlink_to("/etc/hostname")
    assert "could not be noted" in rehearsal_actual.compare(path, applied(3.0))["told"]


# -- what the tree declares -----------------------------------------------------------------------------------------------

GOOD = {
    "title": "t",
    "query": "SELECT 1 FROM t WHERE a = %(a)s",
    "sample": {"table": "public.t"},
    "parameters": {"a": "a"},
}


def declare(folder: Path, **changes: Any) -> Path:
    place = folder / "checks" / "queries"
    place.mkdir(parents=True, exist_ok=True)
    (place / "one.yml").write_text(json.dumps({**GOOD, **changes}))
    return folder


def test_a_declared_query_is_read(tmp_path: Path) -> None:
    assert read_queries(tmp_path) == []
    assert read_queries(declare(tmp_path)) == [{"name": "one", **GOOD}]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"query": "DELETE FROM t WHERE a = %(a)s"}, "only reads"),
        ({"query": "SELECT %(a)s; SELECT 2"}, "one query stands in a file"),
        ({"query": "SELECT FROM WHERE %(a)s"}, ""),
        ({"query": "SELECT 1"}, "the query does not ask for it"),
        ({"parameters": {}}, "has no column under 'parameters'"),
        ({"sample": {}}, "'sample' names the table"),
        ({"sample": {"tabel": "x"}}, ""),
        ({"title": 1}, ""),
    ],
)
def test_a_query_that_cannot_be_meant_is_refused(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    queries, findings = scan_queries(declare(tmp_path, **changes))
    assert queries == []
    assert any(why in finding.message for finding in findings)
    with pytest.raises(PgopsError, match=r"checks/queries/one\.yml"):
        read_queries(tmp_path)


def test_what_is_to_be_masked_is_read_and_nonsense_refused(tmp_path: Path) -> None:
    with pytest.raises(PgopsError, match="cannot be read"):
        read_masking(tmp_path)
    file = tmp_path / "masking.yml"
    file.write_text("public.students: {name: text}\npublic.audit: empty\n")
    assert read_masking(tmp_path) == {"public.students": {"name": "text"}, "public.audit": "empty"}
    for text, why in (
        ("", "declares nothing"),
        ("[]", "declares nothing"),
        ("public.t: {a: upside_down}", "there is text, moment, empty"),
        ("public.t: gone", "has neither columns"),
        ("a: [", "masking.yml"),
    ):
        file.write_text(text)
        with pytest.raises(PgopsError, match=why):
            read_masking(tmp_path)
