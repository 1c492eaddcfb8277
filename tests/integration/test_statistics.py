# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""ANALYZE: believed when the server says that it happened, not when it says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, statistics
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from support.engine import Told, do, rows, way
from support.module import call
from support.server import APP, Server
from support.tree import NO_DIFFERENCE, TestTree


@pytest.fixture(autouse=True)
def tables(target: Any) -> None:
    do(
        target,
        "CREATE TABLE a (id integer)",
        "CREATE TABLE b (id integer)",
        "INSERT INTO a SELECT generate_series(1, 100)",
    )


def refresh(target: Any, names: list[str] | None, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"progress": Progress(), "control": Control(), **more}
    return statistics.refresh(target, names, run_id="test", **given)


def analyzed(target: Any) -> list[str]:
    found = rows(target, "SELECT relname::text AS t FROM pg_stat_user_tables WHERE last_analyze IS NOT NULL ORDER BY 1")
    return [row["t"] for row in found]


@pytest.mark.majors(15, 18)
def test_the_tables_named_are_analyzed_and_no_others(target: Any) -> None:
    told = Told()
    assert refresh(target, ["public.a"], progress=told)["analyzed"] == ["public.a"]
    assert analyzed(target) == ["a"]
    assert told.texts == ["analyzing public.a"]


def test_all_tables_but_the_ledger(target: Any) -> None:
    do(target, "CREATE SCHEMA pgops", "CREATE TABLE pgops.run (id integer)")
    assert refresh(target, None)["analyzed"] == ["public.a", "public.b"]


def test_a_table_that_is_gone_is_left_out(target: Any) -> None:
    assert refresh(target, ["public.gone", "public.b"])["analyzed"] == ["public.b"]


@pytest.mark.majors(15, 18)
def test_a_role_without_the_right_fails_where_the_server_only_warns(target: Any) -> None:
    app = target.with_(user=APP, owner=None)
    conn = connect(app, application_name="test")
    with conn.cursor() as cursor:
        cursor.execute("ANALYZE a")
    assert conn.notices[0].startswith("WARNING"), "the server warns and succeeds"
    conn.close()
    with pytest.raises(PgopsError, match="the server did not analyze public.a") as caught:
        refresh(app, ["public.a"])
    assert "white_cross_owner" in (caught.value.hint or "")


@pytest.fixture
def uncounted(target: Any, server: Server) -> None:
    server.execute(f'ALTER DATABASE "{target.database}" SET track_counts = off')


@pytest.mark.majors(15, 18)
@pytest.mark.usefixtures("uncounted")
def test_where_the_server_counts_nothing_the_right_counts_and_the_setting_is_named(target: Any) -> None:
    found = refresh(target, None)
    assert found["analyzed"] == ["public.a", "public.b"] and analyzed(target) == []
    assert "public.a, public.b, and track_counts is off" in found["unproved"]
    assert "ALTER SYSTEM SET track_counts = on" in found["unproved"] and "rights" not in found["unproved"]
    assert rows(target, "SELECT reltuples::int AS n FROM pg_class WHERE relname = 'a'") == [{"n": 100}]
    result = call("analyze", target, all_tables=True)
    assert result["databases"][target.database]["unproved"] == found["unproved"]


@pytest.mark.majors(15, 18)
@pytest.mark.usefixtures("uncounted")
def test_where_the_server_counts_nothing_a_role_without_the_right_fails_all_the_same(
    target: Any, server: Server
) -> None:
    app = target.with_(user=APP, owner=None)
    with pytest.raises(PgopsError, match="the server did not analyze public.a") as caught:
        refresh(app, ["public.a"])
    assert "white_cross_owner" in (caught.value.hint or "")
    if server.major >= 17:
        do(target, f"GRANT MAINTAIN ON a TO {APP}")
        assert "track_counts is off" in refresh(app, ["public.a"])["unproved"]


@pytest.mark.usefixtures("uncounted")
def test_where_the_server_counts_nothing_a_step_goes_on_with_a_note(target: Any, tmp_path: Path) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add("20260101000001", "fresh", [{"analyze": ["a"]}], {"verify.sql.j2": NO_DIFFERENCE})
    (applied,) = migrate.apply(target, tree.render(), Selection(), way())["applied"]
    (note,) = applied["notes"]
    assert "public.a, and track_counts is off" in note


def test_check_mode_analyzes_nothing(target: Any) -> None:
    assert refresh(target, ["public.a"], check_mode=True)["analyzed"] == ["public.a"]
    assert analyzed(target) == []


def test_it_ends_between_two_tables_when_asked_to(target: Any) -> None:
    control = Control()
    control.request("a test asked for it")
    with pytest.raises(Interrupted):
        refresh(target, ["public.a"], control=control)
    assert analyzed(target) == []
