# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A lease runs out with time that passes, not with a clock that is set."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import progress
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The wall clock as the job reads it, with the seconds by which somebody sets it."""
    told = SimpleNamespace(set_by=0.0, monotonic=time.monotonic)
    told.time = lambda: time.time() + told.set_by
    monkeypatch.setattr(progress, "time", told)
    return told


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_a_clock_that_is_set_ends_no_job_and_saves_none(tmp_path: Path, clock: SimpleNamespace, seconds: float) -> None:
    lease = tmp_path / "lease"
    lease.touch()
    control = Control(str(lease), lease_seconds=1.5, interval=0.05).start()
    time.sleep(0.3)
    clock.set_by = seconds
    time.sleep(0.4)
    assert control.reason is None
    deadline = time.monotonic() + 20
    while control.reason is None and time.monotonic() < deadline:
        time.sleep(0.05)
    control.stop()
    assert "has not been heard of" in str(control.reason)


def test_a_lease_that_is_old_from_the_start_ends_the_job(tmp_path: Path, clock: SimpleNamespace) -> None:
    lease = tmp_path / "lease"
    lease.touch()
    os.utime(lease, (0, 0))
    control = Control(str(lease), lease_seconds=60, interval=0.05).start()
    deadline = time.monotonic() + 20
    while control.reason is None and time.monotonic() < deadline:
        time.sleep(0.05)
    control.stop()
    assert "has not been heard of" in str(control.reason)
