# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The limiter's own account, on a clock that only the test moves."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import rate_limit
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.rate_limit import Allowance, Brake


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Dump:
    """A dump that writes so fast as long as it is not stopped."""

    def __init__(self, clock: Clock, bytes_s: int) -> None:
        self.clock, self.bytes_s = clock, bytes_s
        self.written = 0
        self.stopped = False

    def pause(self) -> None:
        self.stopped = True

    def go_on(self) -> None:
        self.stopped = False

    def live(self, seconds: float) -> None:
        self.clock.now += seconds
        if not self.stopped:
            self.written += int(self.bytes_s * seconds)


def test_what_is_taken_is_owed_in_seconds_of_the_limit() -> None:
    clock = Clock()
    allowance = Allowance(1000, clock)
    assert allowance.taken(2000) == pytest.approx(2.0)
    clock.now += 1.5
    assert allowance.taken(0) == pytest.approx(0.5)
    assert allowance.taken(500) == pytest.approx(1.0)
    clock.now += 1.0
    assert allowance.taken(0) == 0


def test_an_hour_of_rest_does_not_let_it_run_for_an_hour() -> None:
    clock = Clock()
    allowance = Allowance(1000, clock)
    clock.now += 3600
    assert allowance.taken(2000) == pytest.approx(2.0 - rate_limit.SAVED_S)


@pytest.mark.parametrize("speed", [2_000, 50_000, 1_000_000, 200_000_000], ids="{} B/s".format)
def test_a_dump_of_any_speed_comes_to_the_limit_and_not_above(speed: int) -> None:
    clock = Clock()
    dump = Dump(clock, speed)
    brake = Brake(dump, Allowance(1_000_000, clock), lambda: dump.written)
    for _look in range(20_000):
        dump.live(0.05)
        brake.look()
    elapsed = clock.now - 100.0
    # One look's worth may be ahead of it.
    assert dump.written <= 1_000_000 * elapsed + speed * 0.05
    assert dump.written >= min(speed, 1_000_000) * elapsed * 0.95


def test_a_file_that_shrinks_is_not_paid_back() -> None:
    clock = Clock()
    dump = Dump(clock, 0)
    brake = Brake(dump, Allowance(1000, clock), lambda: dump.written)
    for written in (5000, 1000, 5000):
        dump.written = written
        brake.look()
        assert dump.stopped
    clock.now += 5.1
    brake.look()
    assert not dump.stopped


@pytest.mark.parametrize("limit_mb", [-1, 0.0001, float("nan"), float("inf")])
def test_a_limit_that_nobody_can_mean_is_refused(limit_mb: float) -> None:
    with pytest.raises(PgopsError, match="backup_rate_limit_mb is"):
        rate_limit.refuse_nonsense(limit_mb)


@pytest.mark.parametrize("limit_mb", [0, 0.001, 50, 1e6])
def test_others_are_taken(limit_mb: float) -> None:
    rate_limit.refuse_nonsense(limit_mb)
