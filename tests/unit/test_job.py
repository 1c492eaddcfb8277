# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A module's work in a process of its own: answered at once when it is short, polled for when it is long."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.job import Job
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
CALL = """
import json, sys, time
from ansible_collections.whitecross.pgops.plugins.module_utils import job, progress
work = job.Job(sys.argv[1])
answer = work.begin()
if answer is None:
    progress.Progress(work.path(job.PROGRESS)).emit("at work")
    {work}
print(json.dumps(answer))
"""


def call(folder: Path, work: str) -> dict[str, Any]:
    """:return: what the process that was called answers; it must not wait for the job's streams to close."""
    done = subprocess.run(
        [sys.executable, "-c", CALL.format(work=work), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "collections")}, capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 15
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.05)  # between two looks at a file that another process makes
    return path.read_text(encoding="utf-8")


def test_short_work_is_answered_by_the_call_with_what_it_told(tmp_path: Path) -> None:
    answer = call(tmp_path / "pgops.a", "work.finish({'changed': True})")
    assert answer["changed"] is True
    assert [event["text"] for event in answer["job_progress"]] == ["at work"]
    assert json.loads((tmp_path / "pgops.a" / "result").read_text()) == {"changed": True}, "the answer may be lost"


def test_long_work_goes_on_after_the_call_and_leaves_its_result(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "pgops.a"
    begun = time.monotonic()
    # Longer than the call waits for it, so that it is still at work when the call has answered.
    answer = call(folder, "time.sleep(3); work.finish({'changed': True})")
    assert time.monotonic() - begun < 2.9
    assert answer == {"changed": False, "job": str(folder)}
    os.kill(int((folder / "pid").read_text()), 0)
    assert not (folder / "result").exists()
    assert json.loads(wait_for(folder / "result")) == {"changed": True}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in folder.iterdir()} == {0o600}


def test_a_killed_job_is_gone_and_no_zombie(tmp_path: Path) -> None:
    folder = tmp_path / "pgops.a"
    call(folder, "time.sleep(60)")  # never reached: it is killed
    pid = int((folder / "pid").read_text())
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.02)  # until the keeper has reaped it
    assert not (folder / "result").exists()


def test_work_that_breaks_off_leaves_what_it_said(tmp_path: Path) -> None:
    folder = tmp_path / "pgops.a"
    work = "\n    try: raise RuntimeError('no such thing')\n    except RuntimeError: work.break_off()"
    assert call(folder, work)["job"] == str(folder)
    assert (folder / "stderr").read_text().splitlines()[-1] == "RuntimeError: no such thing"
    assert not (folder / "result").exists()


def test_a_job_whose_controller_was_interrupted_meanwhile_does_not_begin(tmp_path: Path) -> None:
    folder = tmp_path / "pgops.a"
    folder.mkdir()
    (folder / "lease.stop").touch()
    with pytest.raises(subprocess.CalledProcessError) as caught:
        call(folder, "work.finish({})")
    assert "Nothing was begun: the controller was interrupted" in caught.value.stderr
    assert not folder.exists()


def test_what_killed_controllers_left_is_removed_and_what_lives_is_not(tmp_path: Path) -> None:
    old, living, foreign = tmp_path / "pgops.old", tmp_path / "pgops.living", tmp_path / "j1.2"
    for folder in (old, living, foreign):
        folder.mkdir()
        (folder / "lease").touch()
    long_ago = time.time() - 25 * 3600
    for path in (old / "lease", foreign / "lease", living):
        os.utime(path, (long_ago, long_ago))
    call(tmp_path / "pgops.new", "work.finish({})")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["j1.2", "pgops.living", "pgops.new"]


def test_a_job_whose_controller_is_gone_leaves_nothing_and_one_that_was_asked_leaves_its_result(tmp_path: Path) -> None:
    for name, by, left in (("pgops.a", "", False), ("pgops.b", "ann on ops", True)):
        folder = tmp_path / name
        # Still at work when the word to stop is left.
        call(folder, "time.sleep(2); work.finish({'changed': True})")
        (folder / "lease.stop").write_text(by, encoding="utf-8")
        if left:
            assert json.loads(wait_for(folder / "result")) == {"changed": True}
        else:
            deadline = time.monotonic() + 15
            while folder.exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)  # between two looks at what another process removes


def test_a_folder_with_nothing_but_the_word_to_stop_is_forgotten_too(tmp_path: Path) -> None:
    old = tmp_path / "pgops.old"
    old.mkdir()
    (old / "lease.stop").touch()
    long_ago = time.time() - 25 * 3600
    os.utime(old, (long_ago, long_ago))
    call(tmp_path / "pgops.new", "work.finish({})")
    assert not old.exists()


@pytest.mark.parametrize("above", ["/proc/nowhere", "file"])
def test_a_folder_that_cannot_be_made_is_named_with_its_variable(tmp_path: Path, above: str) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / above
    with pytest.raises(PgopsError) as raised:
        Job(str(folder / "pgops.a")).begin()
    assert f"the folder {folder}, in which a running job is kept, cannot be written" in raised.value.message
    assert "name another with ansible_async_dir" in raised.value.message


def test_a_line_that_cannot_be_written_ends_no_work() -> None:
    Progress("/dev/full").emit("at work")
    Progress("/proc/nothing/progress").emit("at work")
