# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A contract waits for the age of its expand and for the sessions of the old code; what sorts behind it waits with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, plan, preview
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import scan_tree
from support.engine import way
from support.server import Server
from support.site import Playbook
from support.tree import TestTree

EXPAND, CONTRACT, NEXT = "20260101000000", "20260101000001", "20260101000002"
TERMS = {"after": EXPAND, "min_age": "7 d", "no_sessions_of": ["school_web_1*"]}


def make(folder: Path, **terms: Any) -> TestTree:
    tree = TestTree(folder)
    tree.add_sql(EXPAND, "expand", "CREATE TABLE public.rooms (id integer);\n", "DROP TABLE public.rooms;\n")
    sql = {"up": "up.sql.j2", "down": "down.sql.j2"}
    tree.add(
        CONTRACT, "contract", [{"sql": sql}],
        {"up.sql.j2": "ALTER TABLE public.rooms ADD COLUMN note text;\n",
         "down.sql.j2": "ALTER TABLE public.rooms DROP COLUMN note;\n", "verify.sql.j2": "SELECT 'x', 'x', 'x' WHERE false;\n"},
        contract={**TERMS, **terms},
    )  # fmt: skip
    tree.add_sql(NEXT, "next", "CREATE TABLE public.beds (id integer);\n", "DROP TABLE public.beds;\n")
    return tree


@pytest.fixture
def tree(target: Target, tmp_path: Path) -> list[dict[str, Any]]:
    """The expand is applied."""
    rendered = make(tmp_path / "sql").render()
    migrate.apply(target, rendered[:1], plan.Selection(), way())
    return rendered


def asked(**waived: str) -> plan.Selection:
    return plan.Selection(contracts={f"{version[1:]}": reason for version, reason in waived.items()})


def aged(server: Server, target: Target, days: float) -> None:
    server.execute(f"UPDATE pgops.migration SET finished_at = now() - interval '{days} days'", database=target.database)


def applied(server: Server, target: Target) -> list[str]:
    rows = server.execute(
        "SELECT version FROM pgops.migration WHERE state = 'applied' ORDER BY 1", database=target.database
    )
    return [version for (version,) in rows]


def test_a_contract_waits_for_its_age_and_what_sorts_behind_it_with_it(
    server: Server, target: Target, tree: list[dict[str, Any]]
) -> None:
    aged(server, target, 2.5)
    found = preview.preview(target, tree, asked())
    why = f"{EXPAND} was applied 2 d ago, and it is to be 7 d"
    assert (found["pending"], found["later"]) == ([], [CONTRACT, NEXT])
    assert found["waiting"] == [{"version": CONTRACT, "name": "contract", "why": why}]
    assert migrate.apply(target, tree, asked(), way())["waiting"] == found["waiting"]
    assert applied(server, target) == [EXPAND]
    aged(server, target, 7.1)
    migrate.apply(target, tree, asked(), way())
    assert applied(server, target) == [EXPAND, CONTRACT, NEXT]


def test_a_contract_waits_for_the_sessions_of_the_old_code(
    server: Server, target: Target, tree: list[dict[str, Any]]
) -> None:
    aged(server, target, 8)
    planned = preview.preview(target, tree, asked())
    assert planned["waiting"] == []
    parameters = {"host": server.host, "port": server.port, "passfile": str(server.passfile), "user": "postgres"}
    old = psycopg2.connect(dbname=target.database, application_name="school_web_1.4", **parameters)
    new = psycopg2.connect(dbname=target.database, application_name="schoolXweb_1.4", **parameters)
    try:
        (waiting,) = preview.preview(target, tree, asked())["waiting"]
        assert waiting["why"] == "sessions that know the old shape are connected: 1 of school_web_1.4"
        # Come between the plan and the apply, it stops what the plan has promised.
        with pytest.raises(PgopsError, match=f"{CONTRACT} was planned and has to wait by now, for sessions"):
            migrate.apply(target, tree, asked(), way(), expected=planned["state"])
        assert applied(server, target) == [EXPAND]
        old.close()
        migrate.apply(target, tree, asked(), way())
        assert applied(server, target) == [EXPAND, CONTRACT, NEXT]
    finally:
        old.close()
        new.close()


def test_a_contract_that_was_begun_goes_on_though_the_old_code_has_come_back(
    server: Server, target: Target, tree: list[dict[str, Any]]
) -> None:
    aged(server, target, 8)
    server.execute("ALTER TABLE public.rooms ADD COLUMN note integer", database=target.database)
    with pytest.raises(PgopsError, match="note"):
        migrate.apply(target, tree, asked(), way())
    server.execute("ALTER TABLE public.rooms DROP COLUMN note", database=target.database)
    parameters = {"host": server.host, "port": server.port, "passfile": str(server.passfile), "user": "postgres"}
    old = psycopg2.connect(dbname=target.database, application_name="school_web_1.4", **parameters)
    try:
        migrate.apply(target, tree, asked(), way())
    finally:
        old.close()
    assert applied(server, target) == [EXPAND, CONTRACT, NEXT]


def test_a_contract_goes_before_its_time_where_somebody_says_why(
    server: Server, target: Target, tree: list[dict[str, Any]]
) -> None:
    migrate.apply(target, tree, asked(v20260101000001="nothing uses it yet"), way())
    assert applied(server, target) == [EXPAND, CONTRACT, NEXT]


def test_a_database_without_a_version_is_made_at_once(server: Server, target: Target, tmp_path: Path) -> None:
    migrate.apply(target, make(tmp_path / "sql").render(), asked(), way())
    assert applied(server, target) == [EXPAND, CONTRACT, NEXT]


def test_where_its_expand_is_pending_too_only_that_is_applied(server: Server, target: Target, tmp_path: Path) -> None:
    first = TestTree(tmp_path / "sql").add_sql("20250101000000", "older", "SELECT 1;\n", "SELECT 1;\n")
    assert first.is_dir()
    migrate.apply(target, TestTree(tmp_path / "sql").render(), plan.Selection(), way())
    done = migrate.apply(target, make(tmp_path / "sql").render(), asked(), way())
    assert [item["version"] for item in done["applied"]] == [EXPAND]
    assert done["waiting"][0]["why"] == f"{EXPAND} has to be applied 7 d before it"


@pytest.mark.parametrize(
    ("terms", "fault"),
    [
        ({"min_age": "soon"}, "'min_age' is 'soon'; give a number and min, h or d, such as 7 d"),
        ({"after": "20200101000000"}, "depends_on names 20200101000000, which is not in the tree"),
        ({"after": NEXT}, f"depends_on names {NEXT}, which does not come before {CONTRACT}"),
        ({"no_sessions_of": ["*"]}, "'no_sessions_of' names the application_name of the old code"),
        ({"minage": "7 d"}, "unknown key 'minage' under 'contract'; did you mean 'min_age'?"),
    ],
    ids=["age", "unknown", "later", "everybody", "misspelt"],
)
def test_terms_that_cannot_be_meant_are_refused(tmp_path: Path, terms: dict[str, Any], fault: str) -> None:
    make(tmp_path / "sql", **terms)
    assert fault in "\n".join(str(finding) for finding in scan_tree(tmp_path / "sql").findings)


def test_the_expand_is_not_reverted_below_its_contract(tmp_path: Path) -> None:
    assert make(tmp_path / "sql").render()[1]["depends_on"] == [EXPAND]


@pytest.mark.slow
def test_the_playbook_says_what_waits_and_succeeds(playbook: Playbook) -> None:
    shutil.rmtree(playbook.copy_sql() / "migrations")
    make(playbook.folder / "sql")
    assert playbook("migrate.yml", migrate_target=EXPAND).rc == 0
    waits = playbook("migrate.yml")
    assert waits.rc == 0, waits.output
    assert f"{CONTRACT}_contract waits: {EXPAND} was applied" in waits.stdout
    waiver = {"check": "contract", "version": CONTRACT, "reason": "a test"}
    now = playbook("migrate.yml", migrate_waive=[waiver])
    assert now.rc == 0, now.output
    assert playbook.server.execute("SELECT count(*) FROM pgops.migration", database=playbook.database) == [(3,)]
