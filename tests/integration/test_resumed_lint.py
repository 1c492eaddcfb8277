# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A version that was let begin goes on: lint does not stop behind its own steps what it let pass before them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, preview
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.plugin_utils import plan_lint
from support.engine import do, rows, way
from support.site import Playbook
from support.tree import NO_DIFFERENCE, TestTree

V1, V2 = "20260101000001", "20260101000002"
CHECK = "ALTER TABLE public.person ADD CONSTRAINT person_code_there CHECK (code IS NOT NULL);"
# More than what counts as small.
MANY = 4000


def add_person(tree: TestTree) -> None:
    up = "CREATE TABLE public.person (\n    id integer PRIMARY KEY,\n    name text,\n    code text\n);\n"
    tree.add_sql(V1, "person", up, "DROP TABLE public.person;\n")


def add_codes(tree: TestTree, *, check: str = CHECK, code: str = "'same'", unique: bool = True) -> Path:
    """Rows, their codes in batches, a CHECK that reads them all, an index: of version 1's table, which is new for it."""
    steps = [
        {"sql": {"up": "rows.sql.j2", "down": "rows_down.sql.j2"}},
        {"backfill": {"table": "person", "key": "id", "statement": "fill.sql.j2"}},
        {"sql": {"up": "check.sql.j2", "down": "check_down.sql.j2"}},
        {"indexes": "indexes.yml"},
    ]
    index = {"name": "person_code_key", "table": "person", "columns": ["code"], "why": "a test"}
    files = {
        "rows.sql.j2": f"INSERT INTO public.person (id, name)\nSELECT n, repeat('x', 40) FROM generate_series(1, {MANY}) AS n;\n",
        "rows_down.sql.j2": "TRUNCATE public.person;\n",
        "fill.sql.j2": f"UPDATE public.person SET code = {code} WHERE id BETWEEN $1 AND $2;\n",
        "check.sql.j2": f"{check}\n",
        "check_down.sql.j2": "ALTER TABLE public.person DROP CONSTRAINT person_code_there;\n",
        "indexes.yml": [index | ({"unique": True} if unique else {})],
        "verify.sql.j2": NO_DIFFERENCE,
    }
    rollback = {"safety": "partial", "stays": "what was filled"}
    return tree.add(V2, "codes", steps, files, rollback=rollback, risk="high")


@pytest.fixture
def site(playbook: Playbook) -> Playbook:
    shutil.rmtree(playbook.copy_sql() / "migrations")
    playbook.variables["pgops_phases"] = ["plan", "apply", "report"]
    return playbook


@pytest.mark.slow
def test_the_printed_command_goes_on_with_a_version_that_failed_behind_what_lint_had_let_pass(site: Playbook) -> None:
    tree = TestTree(site.folder / "sql")
    add_person(tree)
    add_codes(tree)
    failed = site("migrate.yml")
    assert failed.rc == 2 and "Step 4 of 4" in failed.json["error"]["message"], failed.output
    (to_go_on, _) = failed.json["error"]["next"]
    assert to_go_on == "ansible-playbook migrate.yml -l local"
    site.server.execute("UPDATE person SET code = id::text", database=site.database)
    again = site("migrate.yml")
    assert again.rc == 0, again.output
    assert "goes on at step 4 of 4" in again.stdout
    # A folder that is gone is not mended by a new version.
    shutil.rmtree(tree.folder / "migrations" / f"{V1}_person")
    gone = site("migrate.yml")
    assert gone.rc == 2 and "bring the folder back" in gone.json["error"]["message"]
    assert "write a new version" not in gone.output and gone.json["error"]["next"] == [
        "ansible-playbook status.yml -l local"
    ]


def findings(target: Any, tree: TestTree, *others: dict[str, Any]) -> list[tuple[str, str]]:
    plan = preview.preview(target, tree.render(), Selection())
    return [(f.rule, f.severity) for f in plan_lint.pending_findings(tree.folder, {}, [plan, *others])]


@pytest.fixture
def tree(tmp_path: Path) -> TestTree:
    tree = TestTree(tmp_path / "sql")
    add_person(tree)
    return tree


def test_a_step_that_is_not_done_is_judged_as_the_run_did_that_began_it(target: Any, tree: TestTree) -> None:
    add_codes(tree, code="NULL")
    assert findings(target, tree) == []
    with pytest.raises(PgopsError, match="Step 3 of 4"):
        migrate.apply(target, tree.render(), Selection(), way())
    assert findings(target, tree) == []
    add_codes(tree, code="NULL", check=CHECK.replace("code IS", "name IS"))
    assert findings(target, tree) == [], "mended, and the table is as new for it as it was"
    migrate.apply(target, tree.render(), Selection(), way("20260101T000000Z-0000bb"))


def test_a_grown_table_is_in_use_for_a_version_that_has_not_begun(target: Any, tree: TestTree) -> None:
    migrate.apply(target, tree.render(), Selection(), way())
    add_codes(tree)
    assert findings(target, tree) == [("constraint-blocking", "warning")], "empty: told, and let pass"
    empty = preview.preview(target, tree.render(), Selection())
    do(target, "INSERT INTO person SELECT n, 'x' FROM generate_series(1, 3) n")
    assert findings(target, tree) == [("constraint-blocking", "warning")]
    do(target, f"INSERT INTO person SELECT n, repeat('x', 40) FROM generate_series(4, {MANY}) n")
    assert findings(target, tree) == [("constraint-blocking", "error")]
    assert findings(target, tree, empty) == [("constraint-blocking", "error")], "one tenant that has grown is enough"


def test_what_was_let_begin_beside_a_small_table_is_not_refused_when_it_has_filled_it(
    target: Any, tree: TestTree
) -> None:
    migrate.apply(target, tree.render(), Selection(), way())
    add_codes(tree, code="NULL")
    with pytest.raises(PgopsError, match="Step 3 of 4"):
        migrate.apply(target, tree.render(), Selection(), way("20260101T000000Z-0000bb"))
    assert findings(target, tree) == [("constraint-blocking", "warning")]
    # What is written anew can be written as it is right for a table of that size.
    add_codes(tree, code="NULL", check=CHECK.replace("code IS", "name IS"))
    assert findings(target, tree) == [("constraint-blocking", "error")]
    assert rows(target, "SELECT state FROM pgops.migration WHERE version = %s", (V2,)) == [{"state": "failed"}]


def test_a_database_with_nothing_to_do_does_not_decide_what_is_new_for_another(target: Any, tree: TestTree) -> None:
    add_codes(tree)
    plan = preview.preview(target, tree.render(), Selection())
    done = {"pending": [], "table_bytes": {}}
    assert plan_lint.pending_findings(tree.folder, {}, [done, plan]) == []


def several(tree: TestTree, *statements: str) -> None:
    """A step of which each statement is committed for itself."""
    up = "".join(f"{one}\n" for one in statements)
    tree.add_sql(V2, "several", up, "SELECT 1;\n", transaction=False, rollback={"safety": "partial", "stays": "all"})


def test_a_committed_statement_of_a_mended_step_is_past_mending(target: Any, tree: TestTree) -> None:
    migrate.apply(target, tree.render(), Selection(), way())
    other = CHECK.replace("_there", "_other")
    filled = "-- Two lines.\nUPDATE public.person SET nom = 'x';"
    several(tree, CHECK, filled)
    with pytest.raises(PgopsError, match="1 of 2 statements"):
        migrate.apply(target, tree.render(), Selection(), way("20260101T000000Z-0000bb"))
    do(target, f"INSERT INTO person SELECT n, repeat('x', 40), '' FROM generate_series(1, {MANY}) n")
    several(tree, CHECK, filled.replace("nom", "name"))
    found = dict.fromkeys(findings(target, tree))
    assert ("constraint-blocking", "warning") in found and ("constraint-blocking", "error") not in found
    # What is behind it is judged as the table is now.
    several(tree, CHECK, other, filled.replace("nom", "name"))
    plan = preview.preview(target, tree.render(), Selection())
    told = plan_lint.pending_findings(tree.folder, {}, [plan])
    assert [(f.line, f.severity) for f in told if f.rule == "constraint-blocking"] == [(1, "warning"), (2, "error")]
    several(tree, CHECK)
    assert ("constraint-blocking", "error") not in findings(target, tree), "what failed was left out"
