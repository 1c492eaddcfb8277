# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backups the policy keeps, of eight years with one a day and of any history that there may be."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import retention
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.retention import Candidate, Policy
from hypothesis import given, settings
from hypothesis import strategies as st

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backup.md"
FIRST = datetime(2018, 1, 1, 2, 0, tzinfo=UTC)
NOW = datetime(2026, 1, 14, 12, 0, tzinfo=UTC)


def daily(first: datetime, last: datetime, *, proved: bool = True) -> list[Candidate]:
    """One a day, each named after its day."""
    days = (last - first).days + 1
    return [
        Candidate(f"{first + timedelta(days=day):%Y-%m-%d}", first + timedelta(days=day), proved) for day in range(days)
    ]


def remaining(found: list[Candidate], policy: Policy, now: datetime) -> list[Candidate]:
    rules = retention.kept(found, policy, now)
    return [candidate for candidate in found if rules[candidate.id]]


def expected(first: date, today: date, policy: Policy) -> set[str]:
    """The documented set, counted another way: on the calendar, for one backup a day."""
    days = {today - timedelta(days=back) for back in range(max(policy.daily, policy.last))}
    # Of a week its Sunday, of the running one today.
    sunday = today + timedelta(days=7 - today.isoweekday())
    days |= {min(today, sunday - timedelta(weeks=back)) for back in range(policy.weekly)}
    ends = {min(today, date(today.year + 1, 1, 1) - timedelta(days=1))}
    ends |= {date(today.year - back, 12, 31) for back in range(1, policy.yearly)}
    month = date(today.year, today.month, 1)
    for _ in range(policy.monthly):
        following = date(month.year + (month.month == 12), month.month % 12 + 1, 1)
        ends.add(min(today, following - timedelta(days=1)))
        month = (month - timedelta(days=1)).replace(day=1)
    return {day.isoformat() for day in days | ends if day >= first}


def test_eight_years_of_daily_backups_leave_the_documented_set_each_day() -> None:
    policy = Policy()
    here: list[Candidate] = []
    for day in range((NOW.date() - FIRST.date()).days + 1):
        moment = FIRST + timedelta(days=day)
        here.append(Candidate(moment.date().isoformat(), moment, True))
        here = remaining(here, policy, moment + timedelta(hours=1))
        assert {candidate.id for candidate in here} == expected(FIRST.date(), moment.date(), policy), moment
    # 14 days, 6 Sundays before them, 8 month ends that are neither, 6 year ends.
    assert len(here) == 34


def test_the_example_of_the_page_is_what_the_policy_keeps() -> None:
    block = re.search(
        r"<!-- kept -->\n+```text\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert block is not None
    found = daily(FIRST, NOW)
    kept = {candidate.id for candidate in remaining(found, Policy(), NOW)}
    assert set(re.findall(r"\d{4}-\d\d-\d\d", block.group(1))) == kept
    assert "2,936 backups" in block.group(1)
    assert len(found) == 2936


def test_a_gap_in_the_backups_takes_no_place() -> None:
    found = daily(FIRST, FIRST + timedelta(days=400))
    later = FIRST + timedelta(days=4000)
    assert len(remaining(found, Policy(), later)) == len(remaining(found, Policy(), found[-1].moment))


def test_a_backup_before_a_change_stays_ninety_days_and_seven_years_where_it_touches_phi() -> None:
    def stays(phi: bool | None, after: timedelta) -> bool:
        old = Candidate("old", FIRST, False, change=True, phi=phi)
        newer = daily(FIRST + timedelta(days=1), FIRST + timedelta(days=30))
        policy = Policy(last=1, daily=1, weekly=0, monthly=0, yearly=0)
        return bool(retention.kept([old, *newer], policy, FIRST + after)["old"])

    day = timedelta(days=1)
    assert stays(False, 90 * day - day)
    assert not stays(False, 90 * day)
    seven = datetime(2025, 1, 1, 2, 0, tzinfo=UTC) - FIRST
    for phi in (True, None):
        assert stays(phi, seven - day)
        assert not stays(phi, seven)


def test_a_backup_of_a_leap_day_stays_until_the_first_of_march() -> None:
    leap = Candidate("leap", datetime(2024, 2, 29, 1, tzinfo=UTC), True, change=True, phi=True)
    assert retention.kept_until(leap, Policy()) == datetime(2031, 3, 1, 1, tzinfo=UTC)


def test_of_a_day_the_proved_one_stays() -> None:
    early = Candidate("early", FIRST, True)
    late = Candidate("late", FIRST + timedelta(hours=3), False)
    policy = Policy(last=0, daily=1, weekly=0, monthly=0, yearly=0)
    assert [one.id for one in remaining([early, late], policy, NOW)] == ["early"]
    assert [one.id for one in remaining([replace(early, proved=False), late], policy, NOW)] == ["late"]


def test_one_of_the_future_stays_and_takes_no_place() -> None:
    ahead = Candidate("ahead", NOW + timedelta(days=300), True)
    here = Candidate("here", NOW - timedelta(days=1), True)
    rules = retention.kept([ahead, here], Policy(last=1, daily=0, weekly=0, monthly=0, yearly=0), NOW)
    assert rules == {"ahead": ["of the future"], "here": ["last 1", retention.NEWEST_PROVED]}


def test_a_policy_that_keeps_nothing_or_too_little_is_refused() -> None:
    def told(production: bool = False, **values: int) -> str:
        with pytest.raises(PgopsError) as caught:
            retention.refuse_unfit(replace(Policy(), **values), production=production)
        return caught.value.message

    assert "keep no backup" in told(last=0, daily=0, weekly=0, monthly=0, yearly=0)
    assert "backup_keep_daily is -1" in told(daily=-1)
    assert "backup_keep_yearly is 101" in told(yearly=101)
    assert "for 90 days at least" in told(True, change_days=89)
    assert "for 7 years at least" in told(True, phi_years=6)
    retention.refuse_unfit(replace(Policy(), change_days=0, phi_years=0), production=False)
    retention.refuse_unfit(Policy(), production=True)


# -- any history -------------------------------------------------------------------------------------------------------

COUNTS = st.integers(0, 5)
POLICIES = st.builds(
    Policy, last=COUNTS, daily=COUNTS, weekly=COUNTS, monthly=COUNTS, yearly=COUNTS,
    change_days=st.integers(0, 120), phi_years=st.integers(0, 8),
)  # fmt: skip
HISTORIES = st.lists(
    st.tuples(st.integers(0, 24 * 3000), st.booleans(), st.booleans(), st.sampled_from([True, False, None])),
    max_size=40, unique_by=lambda row: row[0],
).map(
    lambda rows: [
        Candidate(f"{hour:06d}", FIRST + timedelta(hours=hour), proved, change, phi)
        for hour, proved, change, phi in sorted(rows)
    ]
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(HISTORIES, POLICIES)
def test_each_day_again_keeps_what_once_at_the_end_keeps(history: list[Candidate], policy: Policy) -> None:
    """An expiry that ran each day deletes nothing that one run at the end would keep, and the other way round."""
    here: list[Candidate] = []
    for candidate in history:
        here.append(candidate)
        here = remaining(here, policy, candidate.moment)
    now = history[-1].moment if history else NOW
    assert remaining(here, policy, now) == remaining(history, policy, now)


@settings(max_examples=100, deadline=None)
@given(HISTORIES, POLICIES, st.integers(0, 24 * 3000))
def test_what_must_stay_stays(history: list[Candidate], policy: Policy, hour: int) -> None:
    now = FIRST + timedelta(hours=hour)
    rules = retention.kept(history, policy, now)
    past = [candidate for candidate in history if candidate.moment <= now]
    proved = [candidate for candidate in past if candidate.proved]
    assert not proved or rules[proved[-1].id]
    assert all(rules[candidate.id] for candidate in past[len(past) - policy.last :])
    for candidate in history:
        until = retention.kept_until(candidate, policy)
        assert until is None or until <= now or rules[candidate.id]
    if policy.daily and past:
        # Of the newest day one stays.
        assert any(rules[one.id] for one in past if one.moment.date() == past[-1].moment.date())


@settings(max_examples=50, deadline=None)
@given(HISTORIES, POLICIES)
def test_a_larger_policy_keeps_no_less(history: list[Candidate], policy: Policy) -> None:
    larger = replace(policy, daily=policy.daily + 1, yearly=policy.yearly + 1)
    few, many = (remaining(history, one, NOW) for one in (policy, larger))
    assert set(few) <= set(many)


@settings(max_examples=50, deadline=None)
@given(st.permutations(daily(FIRST, FIRST + timedelta(days=30))), POLICIES)
def test_the_order_of_the_folder_does_not_count(history: list[Candidate], policy: Policy) -> None:
    ordered = sorted(history, key=lambda one: one.moment)
    assert retention.kept(history, policy, NOW) == retention.kept(ordered, policy, NOW)


@pytest.mark.parametrize("name", ["last", "daily", "weekly", "monthly", "yearly", "change_days", "phi_years"])
def test_a_number_that_no_policy_has_is_refused_by_its_variable(name: str) -> None:
    for value in (-1, 10**9):
        with pytest.raises(
            PgopsError, match=f"backup_keep_{name} is {value}, and it takes 0 to [0-9]+; nothing was deleted"
        ):
            retention.refuse_unfit(replace(Policy(), **{name: value}), production=False)
