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
