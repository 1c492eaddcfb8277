# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""ANALYZE: believed when the server says that it happened, not when it says nothing."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import statistics
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from support.engine import Told, do, rows
from support.server import APP


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


def test_check_mode_analyzes_nothing(target: Any) -> None:
    assert refresh(target, ["public.a"], check_mode=True)["analyzed"] == ["public.a"]
    assert analyzed(target) == []


def test_it_ends_between_two_tables_when_asked_to(target: Any) -> None:
    control = Control()
    control.request("a test asked for it")
    with pytest.raises(Interrupted):
        refresh(target, ["public.a"], control=control)
    assert analyzed(target) == []
