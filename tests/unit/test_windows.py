# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a window is open, and what may begin in it."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils import blackouts, windows
from ansible_collections.whitecross.pgops.plugins.plugin_utils.windows import Calendar, NotUnderstood, Window

# A Saturday.
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def window(opens: str, lasts: str = "4h") -> Window:
    return Window.of({"opens": opens, "lasts": lasts})


@pytest.mark.parametrize(
    "text",
    [
        "Sat 22:00 UTC", "Mon..Fri 02:30 UTC", "Sat,Sun 01:00:30 Europe/Berlin", "*-*-01..07 03:00 UTC", "Sun *-*-* 05:00 America/New_York",
        "*-02-29 00:00 UTC", "2027-01,07-15 23:59 UTC", "00,12:15 UTC", "Mon *-*-1..7 04:00 Asia/Tokyo",
    ],
)  # fmt: skip
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_a_window_opens_when_systemd_says_so(text: str) -> None:
    asked = subprocess.run(
        ["systemd-analyze", "calendar", "--iterations=3", "--base-time=2026-11-21 12:00:00 UTC", text],
        capture_output=True, text=True, check=True, env={"TZ": "UTC", "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    ).stdout  # fmt: skip
    told = [
        line.rsplit(" UTC", 1)[0].split()[-2:]
        for line in asked.splitlines()
        if ("elapse" in line or "teration #" in line or "in UTC" in line) and "UTC" in line
    ]
    expected = sorted({datetime.fromisoformat(" ".join(found)).replace(tzinfo=UTC) for found in told})
    at, found = NOON, []
    for _ in expected:
        following = window(text).next(at)
        assert following is not None
        found.append(following)
        at = following
    assert expected and found == expected


@pytest.mark.parametrize(
    ("opens", "now", "closes"),
    [
        ("Fri 22:00 UTC", NOON.replace(hour=1, minute=59), NOON.replace(hour=2)),
        ("Fri 22:00 UTC", NOON.replace(hour=2), None),
        ("Fri 22:00 UTC", NOON - timedelta(hours=14, seconds=1), None),
        # 22:00 in New York is 03:00 UTC of the next day, in winter.
        ("Fri 22:00 America/New_York", NOON.replace(hour=3), NOON.replace(hour=7)),
        ("Fri 22:00 America/New_York", NOON.replace(hour=2, minute=59), None),
    ],
)
def test_a_window_over_midnight_is_open_until_it_closes(opens: str, now: datetime, closes: datetime | None) -> None:
    assert window(opens).closes(now) == closes


def test_the_hour_that_the_clocks_leave_out_and_the_one_that_they_repeat() -> None:
    # Berlin: on 2027-03-28 there is no 02:30, on 2026-10-25 there are two.
    calendar = Calendar.of("02:30 Europe/Berlin")
    spring = [at.hour * 60 + at.minute for at in calendar.moments(datetime(2027, 3, 28).date(), 1)]
    autumn = list(calendar.moments(datetime(2026, 10, 25).date(), 1))
    assert spring == [90] and autumn == [datetime(2026, 10, 25, 0, 30, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("Sat 22:00", "migrate_windows is no list"),
        ([{"opens": "Sat 22:00 UTC"}], "window 1 of migrate_windows has to have opens and lasts"),
        ([{"opens": "Sat 22:00", "lasts": "4h"}], "has to end with one time zone"),
        ([{"opens": "Sat 22:00 Mars/Base", "lasts": "4h"}], "'Mars/Base', which is not known on this machine"),
        ([{"opens": "Caturday 22:00 UTC", "lasts": "4h"}], "the weekday 'Caturday'"),
        ([{"opens": "Fri..Mon 22:00 UTC", "lasts": "4h"}], "whose end comes before"),
        ([{"opens": "Sat 25:00 UTC", "lasts": "4h"}], "numbers from 0 to 23"),
        ([{"opens": "Sat 22:61 UTC", "lasts": "4h"}], "there is no such time"),
        ([{"opens": "*-13-* 22:00 UTC", "lasts": "4h"}], "numbers from 1 to 12"),
        ([{"opens": "daily", "lasts": "4h"}], "has to name a time of day"),
        ([{"opens": "Sat 22:00 UTC", "lasts": "a while"}], "lasts 'a while'"),
        ([{"opens": "Sat 22:00 UTC", "lasts": "8 days"}], "at most seven days"),
    ],
)
def test_what_cannot_be_meant_is_told(given: Any, why: str) -> None:
    with pytest.raises(NotUnderstood, match=why):
        windows.read(given)


def pending(version: str = "1", risk: str = "HIGH", **more: Any) -> dict[str, Any]:
    return {"version": version, "name": "v", "risk": risk, "to_be_split": False, "expected_seconds": None, **more}


def refused(items: list[dict[str, Any]], opens: list[Window], now: datetime = NOON, **more: Any) -> list[str]:
    given = {"at_any_time": ["LOW"], "required": True, "waived": [], **more}
    return [f"{found.version} {found.why}" for found in windows.shut(items, opens, now=now, **given)]


def test_outside_a_window_only_what_needs_none_may_begin() -> None:
    items = [pending("1", "LOW"), pending("2"), pending("3", "LOW", to_be_split=True, expected_seconds=90)]
    night = [window("Sat 22:00 UTC"), window("Sun 03:00 UTC")]
    why = "needs a window, and it is Sat 2026-11-21 12:00 UTC: the next one opens at Sat 2026-11-21 22:00 UTC"
    assert refused(items, night) == [f"2 {why}", f"3 {why}"]
    assert refused(items, night, now=NOON.replace(hour=23)) == []
    assert refused(items, night, waived=["2", "3"]) == []


def test_what_is_expected_has_to_end_before_the_window_closes() -> None:
    items = [
        pending("1", expected_seconds=100),
        pending("2", expected_seconds=30),
        pending("3", "LOW", expected_seconds=999),
    ]
    late = NOON.replace(hour=1, minute=58)
    assert refused(items, [window("Fri 22:00 UTC")], now=late) == [
        "2 is expected to end after 130 s, and the window closes in 120 s, at Sat 2026-11-21 02:00 UTC"
    ]


def test_without_any_window_only_what_clients_wait_for_is_refused_where_that_is_required() -> None:
    items = [pending("1"), pending("2", to_be_split=True, expected_seconds=90)]
    assert refused(items, []) == [
        "2 is expected to make clients wait for 90 s, and no window is declared in migrate_windows"
    ]
    assert refused(items, [], required=False) == []


def test_a_window_that_is_over_for_good_is_told() -> None:
    assert refused([pending()], [window("2020-01-01 22:00 UTC")])[0].endswith("none opens any more")


def test_a_window_is_for_the_risks_that_it_names() -> None:
    night = [
        windows.read([{"opens": "Sat 11:00 UTC", "lasts": "2h", "risks": ["MEDIUM"]}, {"opens": "Sun 22:00 UTC", "lasts": "2h"}])
    ][0]  # fmt: skip
    assert refused([pending("1", "MEDIUM")], night) == []
    assert refused([pending("1", "HIGH")], night) == [
        "1 needs a window, and it is Sat 2026-11-21 12:00 UTC: the next one opens at Sun 2026-11-22 22:00 UTC"
    ]
    assert refused([pending("1", "CRITICAL")], night[:1]) == [
        "1 needs a window, and none of migrate_windows is for the risk CRITICAL"
    ]
    assert refused([pending("1", "MEDIUM", level="CRITICAL")], night[:1]) != [], "the computed level counts"
    with pytest.raises(NotUnderstood, match="is for the risks"):
        windows.read([{"opens": "Sat 22:00 UTC", "lasts": "4h", "risks": ["SMALL"]}])


def test_on_a_blackout_day_nothing_begins() -> None:
    days = blackouts.read(["2026-11-21..2026-11-22 UTC"])
    noon = [window("Sat 11:00 UTC")]
    why = "may not begin on a blackout day (2026-11-21..2026-11-22 UTC), which ends at Mon 2026-11-23 00:00 UTC"
    assert refused([pending("1"), pending("2", "LOW")], noon, blackouts=days) == [f"1 {why}", f"2 {why}"]
    assert refused([pending("1", "LOW")], [], blackouts=days) == [f"1 {why}"]
    assert refused([pending("1")], noon, blackouts=days, waived=["1"]) == []
    tomorrow = blackouts.read(["2026-11-22 UTC"])
    late = [window("Sat 11:00 UTC", "1 day")]
    assert refused([pending("1", expected_seconds=43201)], late, blackouts=tomorrow) == [
        "1 is expected to end after 43201 s, and the window closes in 43200 s, at Sun 2026-11-22 00:00 UTC"
    ]
    daily = [window("13:00 UTC", "1h")]
    assert windows.opens_next(daily, days, NOON) == datetime(2026, 11, 23, 13, tzinfo=UTC)


@pytest.mark.parametrize(
    "given",
    ["2026-11-21", ["2026-11-21"], ["2026-11-21 Mars/Base"], ["2026-02-30 UTC"], ["2026-11-22..2026-11-21 UTC"]],
)
def test_a_blackout_that_cannot_be_meant_is_told(given: Any) -> None:
    with pytest.raises(blackouts.NotUnderstood, match="migrate_blackouts"):
        blackouts.read(given)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_what_only_systemd_understands_is_asked_of_it() -> None:
    last_saturday = window("Sat *-*~07/1 22:00 UTC")
    assert last_saturday.next(NOON) == datetime(2026, 11, 28, 22, tzinfo=UTC)
    assert last_saturday.closes(datetime(2026, 11, 29, 1, 59, 59, tzinfo=UTC)) == datetime(2026, 11, 29, 2, tzinfo=UTC)
    assert last_saturday.closes(NOON) is None
    assert window("monthly Europe/Berlin").next(NOON) == datetime(2026, 11, 30, 23, tzinfo=UTC)
    assert window("2020-01-01 00:00/15:00 UTC").next(NOON) is None
