# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A migration begins in a window, and after somebody has reviewed it, where its environment asks for that."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.site import Playbook, Result
from support.tree import TestTree

V1 = "20260101000000"


@pytest.fixture
def site(playbook: Playbook) -> Playbook:
    shutil.rmtree(playbook.copy_sql() / "migrations")
    playbook.variables["pgops_phases"] = ["plan", "apply", "report"]
    return playbook


def add(site: Playbook, **keys: Any) -> None:
    up = "CREATE TABLE public.rooms (\n    id integer PRIMARY KEY\n);\n"
    TestTree(site.folder / "sql").add_sql(V1, "rooms", up, "DROP TABLE public.rooms;\n", **keys)


def window(begins_in: timedelta) -> dict[str, str]:
    """Open for two hours, on that day alone."""
    return {"opens": f"{datetime.now(UTC) + begins_in:%Y-%m-%d %H:%M} UTC", "lasts": "2h"}


def is_open() -> dict[str, str]:
    return window(-timedelta(hours=1))


def is_shut() -> dict[str, str]:
    return window(timedelta(hours=3))


def refused(site: Playbook, result: Result, why: str) -> list[str]:
    """The plan ended the run, and nothing was written."""
    assert result.rc == 2, result.output
    assert why in result.json["error"]["message"] and result.json["error"]["message"].startswith(
        "Nothing was applied: "
    )
    assert result.json["error"]["phase"] == "plan"
    assert site.server.execute("SELECT to_regnamespace('pgops'), to_regclass('rooms')", database=site.database) == [
        (None, None)
    ]
    assert "Traceback" not in result.output
    return list(result.json["error"]["next"])


def test_what_needs_a_window_waits_for_it(site: Playbook) -> None:
    add(site, risk="high")
    closed = site("migrate.yml", migrate_windows=[is_shut()])
    commands = refused(site, closed, f"{V1}_rooms needs a window, and it is ")
    assert (
        f"the next one opens at {datetime.now(UTC) + timedelta(hours=3):%a %Y-%m-%d}" in closed.json["error"]["message"]
    )
    assert commands[0].startswith("ansible-playbook migrate.yml -l local")
    shown = site("migrate.yml", "--check", migrate_windows=[is_shut()])
    assert shown.rc == 0 and f"no window: {V1}_rooms needs a window" in shown.stdout
    applied = site("migrate.yml", migrate_windows=[is_shut(), is_open()])
    assert applied.rc == 0, applied.output


@pytest.mark.slow
def test_a_low_risk_needs_none_and_an_exception_has_a_name_and_a_reason(site: Playbook) -> None:
    add(site, risk="medium")
    waiver = {"check": "window", "version": V1, "reason": "the outage needs it now"}
    for wrong, why in (
        (
            {"migrate_windows": [{"opens": "whenever", "lasts": "2h"}]},
            "window 1 of migrate_windows opens at 'whenever'",
        ),
        ({"migrate_without_window": ["SMALL"]}, "migrate_without_window is ['SMALL'], and takes a list of LOW"),
    ):
        refused(site, site("migrate.yml", **wrong), why)
    let = site("migrate.yml", migrate_windows=[is_shut()], migrate_waive=[waiver])
    assert let.rc == 0, let.output
    assert let.json["hosts"]["local-1"][site.database]["plan"]["waived"] == [waiver]
    assert site("rollback.yml", rollback_confirm=site.database).rc == 0, "a way back waits for no window"
    add(site, risk="low")
    assert site("migrate.yml", migrate_windows=[is_shut()]).rc == 0


def test_what_is_expected_to_take_longer_than_the_window_is_open_waits(site: Playbook) -> None:
    add(site, risk="high", expected_seconds=7200)
    refused(
        site,
        site("migrate.yml", migrate_windows=[is_open()]),
        "is expected to end after 7200 s, and the window closes in 3",
    )


def test_what_comes_one_after_another_has_to_fit_into_the_window_together(site: Playbook) -> None:
    add(site, risk="high", expected_seconds=2400)
    second = f"{site.database}_2"
    site.server.create_database(second)
    site.variables |= {"pgops_databases": [site.database, second], "migrate_windows": [is_open()]}
    refused(site, site("migrate.yml"), f"{V1}_rooms is expected to end after 4800 s, and the window closes in 3")
    # Two hosts, of which one fork changes one after the other.
    site.hosts["local"] = {
        "local-1": {"pgops_databases": [site.database]},
        "local-2": {"pgops_databases": [second]},
    }
    assert site("migrate.yml", "--tags", "plan").rc == 0
    late = site("migrate.yml", "--tags", "plan", "--forks", "1")
    refused(site, late, "is expected to end after 4800 s, and the window closes in 3")


@pytest.mark.slow
def test_production_has_a_window_for_what_clients_wait_for(site: Playbook) -> None:
    add(site, risk="low", expected_seconds=90)
    waived = {"migrate_waive": [{"check": "evidence", "version": V1, "reason": "a test"}]}
    site.variables["pgops_phases"] = ["preflight", "plan", "backup", "prove", "apply", "verify", "report"]
    result = site("migrate.yml", limit="production", **waived)
    refused(
        site,
        result,
        "is expected to make clients wait for 90 s, and no window is declared in migrate_windows",
    )
    assert site("migrate.yml").rc == 0, "elsewhere it is a warning"


def test_who_has_reviewed_it_is_asked_for_and_recorded(site: Playbook) -> None:
    add(site)
    site.variables["migrate_review_required"] = True
    commands = refused(site, site("migrate.yml"), "nobody is named who has reviewed what is pending")
    assert "-e migrate_reviewed_by=NAME" in commands[0]
    applied = site("migrate.yml", migrate_reviewed_by="Ada")
    assert applied.rc == 0, applied.output
    assert applied.json["hosts"]["local-1"][site.database]["plan"]["reviewed_by"] == "Ada"
    assert site.server.execute("SELECT why FROM pgops.run", database=site.database) == [("reviewed by Ada",)]
    assert site("migrate.yml").rc == 0, "nothing is pending, and nothing to be reviewed"
