# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""How a batch learns its size from the time that the last one took."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.batch_size import MOST, BatchSize


@pytest.mark.parametrize(
    ("why", "seconds", "worked", "rows"),
    [
        ("over its target it shrinks to it", 0.2, 0.19, 526),
        ("far over it, to a tenth at most", 5.0, 5.0, 100),
        ("round trips and ledger are a third of the time: it grows", 0.003, 0.002, 2000),
        ("but to a fifth of its target at most", 0.02, 0.016, 1250),
        ("its rows are the work: nothing is gained by more", 0.015, 0.014, 1000),
        ("over a fifth it stays, whatever lies beside", 0.05, 0.03, 1000),
        ("a server far away: most of the time is on the way, so it grows to its target", 0.2, 0.06, 1666),
        ("and no further", 0.3, 0.1, 1000),
    ],
)
def test_a_batch_learns_from_its_time(why: str, seconds: float, worked: float, rows: int) -> None:
    size = BatchSize(1000, 0.1)
    size.learn(1000, seconds, worked)
    assert size.rows == rows, why


def test_a_fixed_size_stays_and_has_no_limit_of_its_own() -> None:
    size = BatchSize(1000, 0.1, fixed=True)
    for worked in (0.0001, 9.0):
        size.learn(1000, 2 * worked, worked)
    assert (size.rows, size.limit_s) == (1000, None)


def test_the_last_batch_of_a_table_says_nothing() -> None:
    size = BatchSize(1000, 0.1)
    size.learn(3, 0.001, 0.0001)
    assert size.rows == 1000


def test_it_ends_at_one_row_and_at_the_most() -> None:
    size = BatchSize(20, 0.1)
    for _ in range(5):
        size.took_too_long()
    assert (size.rows, size.limit_s) == (1, None)
    for _ in range(50):
        size.learn(size.rows, 0.002, 0.0001)
    assert size.rows == MOST
    assert BatchSize(2 * MOST, 0.1).rows == 2 * MOST


def test_a_batch_is_taken_back_after_five_times_its_target() -> None:
    assert BatchSize(1000, 0.1).limit_s == pytest.approx(0.5)
