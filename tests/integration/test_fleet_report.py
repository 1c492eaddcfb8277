# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""report.yml makes one page of what real runs have left, and needs no database for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.site import Playbook
from support.tree import TestTree

VERSION = "20260101000001"


@pytest.fixture
def site(playbook: Playbook) -> Playbook:
    tree = TestTree(playbook.folder / "sql")
    tree.add_sql(
        VERSION, "rooms", "CREATE TABLE public.rooms (id integer PRIMARY KEY);\n", "DROP TABLE public.rooms;\n"
    )
    playbook.variables["pgops_sql"] = str(playbook.folder / "sql")
    return playbook


@pytest.mark.slow
def test_a_migration_stands_on_the_page_though_its_database_is_gone(site: Playbook) -> None:
    assert site("migrate.yml").rc == 0
    # A port on which nobody listens, and a fact that needs the host.
    site.variables.update(pgops_port=1, pgops_databases_query="SELECT 1")
    page = site.folder / "www" / "fleet.html"
    done = site("report.yml", limit=None, fleet_report_output=str(page))
    assert done.rc == 0, done.output
    assert "no database was asked" in done.output
    assert done.json and done.json["playbook"] == "report" and done.json["ok"]
    members = {one["host"]: one for one in done.json["fleet"]["members"]}
    assert set(members) == {"local-1", "staging-1", "production-1"}
    found = members["local-1"]
    assert (found["database"], found["version"]) == (site.database, VERSION)
    assert found["backup"]["bytes"] > 0
    assert found["proof"]["level"] == 4 and found["proof"]["of_newest"]
    assert found["last_run"]["playbook"] == "migrate"
    assert {wrong["told"] for wrong in found["wrong"] if wrong["level"] == "warn"} >= {
        "its restore was never drilled",
        "it was never maintained",
    }
    assert members["staging-1"]["level"] == "unknown"
    assert json.loads(page.with_suffix(".json").read_text(encoding="utf-8")) == done.json["fleet"]
    text = page.read_text(encoding="utf-8")
    assert VERSION in text and Path(found["last_run"]["page"]).name in text
    assert page.stat().st_mode & 0o777 == 0o600


def test_a_broken_report_is_named_and_a_check_writes_nothing(site: Playbook) -> None:
    folder = site.state / "reports" / "staging"
    folder.mkdir(parents=True)
    (folder / "20990101T000000Z-0a1b2c.json").write_text("{", encoding="utf-8")
    looked = site("report.yml", "--check", limit=None)
    assert looked.rc == 0, looked.output
    assert "20990101T000000Z-0a1b2c.json: it is no report" in looked.output
    assert looked.json and len(looked.json["fleet"]["unreadable"]) == 1
    assert sorted(site.state.rglob("fleet.*")) == []


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"fleet_report_output": "fleet.txt"}, "fleet_report_output=fleet.txt is no page; let it end in .html"),
        pytest.param({"fleet_report_days": 0}, "fleet_report_days is 0", marks=pytest.mark.slow),
        pytest.param(
            {"fleet_report_output": "/dev/null/x.html"},
            "The page cannot be written to /dev/null/x.html",
            marks=pytest.mark.slow,
        ),
        ({"fleet_report_day": 3}, "There is no variable fleet_report_day (did you mean fleet_report_days?)"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(site: Playbook, variables: dict[str, object], told: str) -> None:
    done = site("report.yml", limit=None, **variables)
    assert done.rc != 0
    assert done.json and done.json["error"]["message"].startswith(told)
    assert "Traceback" not in done.output
