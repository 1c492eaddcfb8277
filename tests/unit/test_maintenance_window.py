# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The window of a maintenance: how long it is open, over midnight too, and when it opens again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils import maintenance_window, windows

SATURDAY_NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "hours"),
    [
        (None, None),
        ("", None),
        ([], None),
        ("11:00-13:00", 1.0),
        ("11:00-13:00 UTC", 1.0),
        ("22:00-14:00", 2.0),
        ("07:00-08:00 America/New_York", 1.0),
        ("Sat,Sun 11:30-12:30", 0.5),
        ("Sun 11:30-12:30", 0.0),
        ("13:00-14:00", 0.0),
        ("00:00-00:00", 12.0),
        (["13:00-14:00", "11:00-12:30"], 0.5),
        ([{"opens": "Sat 10:00 UTC", "lasts": "4h"}], 2.0),
    ],
)
def test_how_long_it_is_open(given: Any, hours: float | None) -> None:
    found = maintenance_window.look(given, SATURDAY_NOON)
    assert found.seconds == (None if hours is None else hours * 3600)


def test_where_it_is_shut_it_says_when_it_opens() -> None:
    found = maintenance_window.look("02:00-04:00", SATURDAY_NOON)
    assert (found.seconds, found.opens_next) == (0.0, datetime(2026, 11, 22, 2, 0, tzinfo=UTC))


@pytest.mark.parametrize(
    "given", ["at night", "02:00", "02:00-25:00", "02:00-04:00 Nowhere", "Someday 02:00-04:00", {"opens": "x"}]
)
def test_what_says_nothing_is_refused(given: Any) -> None:
    with pytest.raises(windows.NotUnderstood):
        maintenance_window.look(given, SATURDAY_NOON)


@pytest.mark.parametrize(
    ("given", "now", "hours"),
    [
        # 8 March 2026, New York: 02:00 is followed by 03:00, so that the night is an hour shorter ...
        ("01:00-05:00 America/New_York", datetime(2026, 3, 8, 6, 0, tzinfo=UTC), 3.0),
        ("Sun 01:00-05:00 America/New_York", datetime(2026, 3, 8, 8, 30, tzinfo=UTC), 0.5),
        ("01:00-05:00 America/New_York", datetime(2026, 3, 8, 9, 30, tzinfo=UTC), 0.0),
        ("22:00-06:00 America/New_York", datetime(2026, 3, 8, 3, 0, tzinfo=UTC), 7.0),
        ("02:00-04:00 America/New_York", datetime(2026, 3, 8, 7, 0, tzinfo=UTC), 1.0),
        ("02:15-03:10 America/New_York", datetime(2026, 3, 8, 7, 20, tzinfo=UTC), 0.0),
        # ... and 1 November: 01:59 is followed by 01:00, so that it is an hour longer.
        ("00:00-05:00 America/New_York", datetime(2026, 11, 1, 4, 0, tzinfo=UTC), 6.0),
        ("00:00-05:00 America/New_York", datetime(2026, 11, 1, 9, 30, tzinfo=UTC), 0.5),
        ("22:00-06:00 America/New_York", datetime(2026, 11, 1, 2, 0, tzinfo=UTC), 9.0),
        ("22:00-06:00 America/New_York", datetime(2026, 11, 1, 11, 0, tzinfo=UTC), 0.0),
        # What the clock says twice ends the first time.
        ("00:30-01:30 America/New_York", datetime(2026, 11, 1, 4, 30, tzinfo=UTC), 1.0),
        ("00:30-01:30 America/New_York", datetime(2026, 11, 1, 6, 0, tzinfo=UTC), 0.0),
        # Where a duration is declared it is one.
        ({"opens": "01:00 America/New_York", "lasts": "4h"}, datetime(2026, 3, 8, 6, 0, tzinfo=UTC), 4.0),
        # A day is from midnight to midnight.
        ("00:00-24:00 Europe/Berlin", datetime(2026, 10, 24, 22, 0, tzinfo=UTC), 25.0),
    ],
)
def test_it_closes_when_the_clock_there_says_so_when_the_clocks_change_too(
    given: Any, now: datetime, hours: float
) -> None:
    found = maintenance_window.look([given], now)
    assert found.seconds == hours * 3600
