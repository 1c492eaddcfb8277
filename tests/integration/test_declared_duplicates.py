# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Of two indexes that are the same, none that an applied version declares is called one to drop: verification would miss it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import declared_duplicates, migrate, preflight, verify
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.preflight_checks import expand
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import do, rows, way
from support.health import shipped
from support.tree import TestTree

V1, V2, V3 = "20260101000001", "20260101000002", "20260101000003"
TABLE = "CREATE TABLE public.kept (id integer PRIMARY KEY, a integer, b integer UNIQUE);"


def apply(target: Any, tmp_path: Any, *made: str) -> None:
    """A version for the table, and one for each of the statements, which name what they make."""
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "kept", TABLE, "DROP TABLE public.kept;")
    for version, statement in zip((V2, V3), made):
        down = "CREATE INDEX one ON public.kept (a);" if statement.startswith("DROP") else "DROP INDEX public.{};"
        tree.add_sql(version, "index", statement, down.format(statement.split()[2]))
    migrate.apply(target, tree.render(), Selection(), way())


def seen(target: Any) -> list[dict[str, Any]]:
    found = rows(target, expand(shipped().by_name["duplicate_indexes"].query).replace("%%", "%"))
    return declared_duplicates.judged(target, "local", "test", found)


ONE, TWO = "CREATE INDEX one ON public.kept (a);", "CREATE INDEX two ON public.kept (a);"


def test_two_that_versions_declare_are_well_and_the_way_to_drop_one_is_told(target: Any, tmp_path: Any) -> None:
    apply(target, tmp_path, ONE, TWO)
    look = shipped(backup_directory=str(tmp_path), free_bytes=lambda path: 1 << 50)
    report = preflight.report(target, look, application_name="test")
    (check,) = [check for check in report["checks"] if check["check"] == "duplicate_indexes"]
    assert (check["level"], check["fix"], check["objects"]) == ("ok", "", 0)
    assert check["evidence"] == (
        f"index public.two of version {V3} is the same as one of version {V2}; only a version of its own drops one, "
        "by the command that ansible-playbook maintenance.yml -l local --check shows"
    )


@pytest.mark.parametrize("by_hand_first", [True, False])
def test_the_one_that_nobody_declares_goes_also_where_it_is_the_older(
    target: Any, tmp_path: Any, by_hand_first: bool
) -> None:
    if by_hand_first:
        apply(target, tmp_path, ONE)
        do(target, "DROP INDEX one", "CREATE INDEX two ON kept (a)", "CREATE INDEX one ON kept (a)")
    else:
        apply(target, tmp_path, ONE)
        do(target, "CREATE INDEX two ON kept (a)")
    (row,) = seen(target)
    assert (row["object"], row["kept"], row.get("level")) == ("public.two", "one", None)
    do(target, row["todo"])
    assert seen(target) == []
    assert verify.verify({target.database: target})[target.database]["passed"]


def test_one_that_a_stricter_one_of_nobody_makes_needless_is_a_version_s_all_the_same(
    target: Any, tmp_path: Any
) -> None:
    apply(target, tmp_path, ONE)
    do(target, "CREATE UNIQUE INDEX strict ON kept (a)")
    (row,) = seen(target)
    assert row["remark"].startswith(f"index public.one of version {V2} is the same as strict; only a version")


def test_the_index_of_a_constraint_that_the_server_has_named_is_its_table_s(target: Any, tmp_path: Any) -> None:
    apply(target, tmp_path)
    do(target, "ALTER TABLE kept ADD CONSTRAINT a_first UNIQUE (b)")
    (row,) = seen(target)
    # By hand, and of a table that a version makes: nothing tells it from one of the version's, and verification tells it.
    assert row["level"] == "ok"
    assert row["remark"].endswith("only a version of its own drops one")


def test_what_a_later_version_drops_is_declared_no_more(target: Any, tmp_path: Any) -> None:
    apply(target, tmp_path, ONE, "DROP INDEX public.one;")
    do(target, "CREATE INDEX one ON kept (a)", "CREATE INDEX two ON kept (a)")
    assert [row["todo"] for row in seen(target)] == ["DROP INDEX CONCURRENTLY public.two;"]


def test_a_version_that_was_reverted_declares_nothing(target: Any, tmp_path: Any) -> None:
    apply(target, tmp_path, ONE, TWO)
    migrate.revert(target, Reverts(version=V3), way())
    do(target, "CREATE INDEX two ON kept (a)")
    assert [row["todo"] for row in seen(target)] == ["DROP INDEX CONCURRENTLY public.two;"]


def test_without_a_ledger_the_younger_one_goes(target: Any) -> None:
    do(target, TABLE, ONE, TWO)
    assert [row["todo"] for row in seen(target)] == ["DROP INDEX CONCURRENTLY public.two;"]


def test_a_ledger_that_may_not_be_read_is_to_be_looked_at_first(server: Any, target: Any, tmp_path: Any) -> None:
    apply(target, tmp_path, ONE, TWO)
    server.execute("REVOKE ALL ON pgops.migration FROM PUBLIC; ALTER TABLE pgops.migration OWNER TO postgres; "
                   f"REVOKE ALL ON pgops.migration FROM {target.owner}", database=target.database)  # fmt: skip
    (row,) = seen(target)
    assert row["todo"].startswith("see that no applied version of the ledger declares public.two, then DROP INDEX")
