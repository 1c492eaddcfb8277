# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""maintenance.yml: `--check` shows the plan and writes nothing, a run does it, shows before and after, and is audited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.engine import rows, target_of
from support.maintained import do, filled
from support.server import Server
from support.site import Playbook

QUICKLY = {"maintenance_rows_least": 100, "maintenance_index_least_mb": 0, "maintenance_cost_delay_ms": 0}


@pytest.fixture
def target(server: Server, database: str) -> Any:
    """With a table that is worn, another that was never analyzed, and an index that another one makes needless."""
    made = target_of(server, database)
    filled(made, "worn", 20000)
    do(
        made,
        "CREATE TABLE twice (id integer, more integer) WITH (autovacuum_enabled = off)",
        "INSERT INTO twice VALUES (1, 1)",
        "CREATE INDEX twice_id ON twice (id)",
        "CREATE INDEX twice_both ON twice (id, more)",
        "DELETE FROM worn WHERE id % 2 = 0",
    )
    return made


def catalogs(target: Any) -> list[dict[str, Any]]:
    return rows(
        target,
        "SELECT c.oid::int, c.relname::text, c.relfilenode::int, pg_stat_get_last_vacuum_time(c.oid)::text AS at "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname NOT IN ('pg_catalog', 'pg_toast') ORDER BY 1",
    )


def test_check_shows_what_a_run_then_does_and_the_second_run_has_nothing_to_do(target: Any, playbook: Playbook) -> None:
    before = catalogs(target)
    shown = playbook("maintenance.yml", "--check", **QUICKLY, maintenance_window="00:00-00:01 UTC")
    assert shown.rc == 0, shown.output
    assert "vacuum + analyze" in shown.stdout, shown.stdout
    assert "10,000 dead rows beside 10,000" in shown.stdout
    assert "public.twice_id" in shown.stdout and "its columns are the first of public.twice_both" in shown.stdout
    assert catalogs(target) == before
    assert "changed=0" in shown.stdout
    plan = shown.json["hosts"]["local-1"][target.database]["maintenance_plan"]
    assert plan["items"][0]["object"] == "public.worn"

    done = playbook("maintenance.yml", **QUICKLY)
    assert done.rc == 0, done.output
    found = done.json["hosts"]["local-1"][target.database]["maintenance"]
    assert found["counts"] == {"done": len(plan["items"])}
    assert "given back" in done.stdout
    page = Path(done.json["report"]).read_text(encoding="utf-8")
    assert "Maintenance, before and after" in page and "public.worn" in page
    events = [row["event"] for row in rows(target, "SELECT event FROM pgops.audit ORDER BY seq")]
    assert events[-2:] == ["maintained", "run_ended"]

    again = playbook("maintenance.yml", **QUICKLY)
    assert again.rc == 0 and "nothing needs maintenance" in again.stdout
    assert "changed=0" in again.stdout
    assert len(rows(target, "SELECT 1 FROM pgops.audit")) == len(events)


def test_outside_its_window_it_begins_nothing_and_says_when_it_opens(target: Any, playbook: Playbook) -> None:
    before = catalogs(target)
    done = playbook("maintenance.yml", **QUICKLY, maintenance_window={"opens": "2099-01-01 02:00 UTC", "lasts": "1h"})
    assert done.rc == 2
    assert "is shut; it opens no more" in done.json["error"]["message"] and done.json["error"]["next"][0].endswith(
        "--check"
    )
    assert catalogs(target) == before


@pytest.mark.slow
def test_a_role_without_the_right_makes_the_run_fail(target: Any, playbook: Playbook) -> None:
    done = playbook("maintenance.yml", **QUICKLY, maintenance_user="white_cross_app")
    assert done.rc == 2
    assert "is not its owner white_cross_owner" in done.json["error"]["message"]
    assert done.json["error"]["sqlstate"] == "42501"
    states = {item["state"] for item in done.json["hosts"]["local-1"][target.database]["maintenance"]["items"]}
    assert states == {"failed"}
