# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What benchmarks keep of a run, and what they say of the next one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load() -> Any:
    spec = importlib.util.spec_from_file_location("figures", ROOT / "benchmarks" / "figures.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


figures = load()


def run(up: float = 1.0, **versions: float) -> dict[str, Any]:
    rows = {"20260101000000": up, **{name.removeprefix("v"): seconds for name, seconds in versions.items()}}
    return {
        "commit": "abc",
        "machine": {"name": "here"},
        "postgresql": "18.1",
        "versions": {name: {"up_s": seconds, "down_s": 0.5, "steps": []} for name, seconds in rows.items()},
    }


def test_a_run_is_kept_and_the_next_of_its_size_finds_it(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    assert figures.newest("chain", 200, folder) is None
    figures.keep("chain", 200, run(1.0), folder)
    second = figures.keep("chain", 200, run(2.0), folder)
    figures.keep("chain", 2000, run(9.0), folder)
    figures.keep("other", 200, run(8.0), folder)
    found = figures.newest("chain", 200, folder)
    assert found == json.loads(second.read_text())
    assert (found["versions"]["20260101000000"]["up_s"], found["size"], found["commit"]) == (2.0, 200, "abc")
    assert not list(folder.glob("*.partial"))


def test_a_file_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    figures.keep("chain", 5, run(1.0), tmp_path)
    (tmp_path / "chain-5-99990101T000000000000Z.json").write_text('{"versions": ')
    (tmp_path / "chain-5-99990101T000000000001Z.json").write_text("[]")
    assert figures.newest("chain", 5, tmp_path)["versions"]["20260101000000"]["up_s"] == 1.0


def test_a_run_that_dies_while_it_writes_leaves_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, _target: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        figures.keep("chain", 5, run(), tmp_path)
    assert figures.newest("chain", 5, tmp_path) is None


def test_each_version_is_told_beside_its_earlier_seconds() -> None:
    before = {**run(1.0, v20260101000001=3.0), "at": "2026-01-01T00:00:00+00:00"}
    now = {**run(2.5, v20260101000002=1.0), "postgresql": "18.2"}
    assert figures.compared(now, before) == [
        "compared with the run of 2026-01-01T00:00:00+00:00 at abc; not the same postgresql",
        "  20260101000000 up 1.00 to 2.50 s, down 0.50 to 0.50 s",
        "  20260101000002 is new",
        "  20260101000001 is gone",
    ]
    assert figures.compared(now, None) == ["no earlier run of this size to compare with"]


@pytest.mark.parametrize("kind", ["sql", "backfill", "indexes", "validate", "analyze"])
def test_only_a_long_step_that_is_not_split_is_a_fault(kind: str) -> None:
    steps = [{"step": 1, "kind": "sql", "duration_s": 60.0}, {"step": 2, "kind": kind, "duration_s": 60.4}]
    told = figures.too_long({"20260101000000": {"steps": steps}})
    if kind == "sql":
        assert told == [
            "20260101000000 takes 60.4 s in step 2 (sql), and 60 s are the most: split it, see docs/patterns/README.md"
        ]
    else:
        assert told == []


def test_the_commit_says_whether_files_were_changed_since(tmp_path: Path) -> None:
    assert figures.commit(tmp_path) == "unknown"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "a").write_text("1")
    for arguments in (["init", "-q"], ["add", "a"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True)
    clean = figures.commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "a").write_text("2")
    assert figures.commit(tmp_path) == f"{clean}+"
