# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Applied versions run again in an empty database: a backfill goes over the rows that an earlier version has put there."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import declared, effects, migrate, verify
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from support.engine import do, rows, way
from support.tree import NO_DIFFERENCE, TestTree

SEED = "20260101000001"
FILL = "20260101000002"
KEYS = {
    "integer": ("n", "id integer PRIMARY KEY", "id", "id BETWEEN $1 AND $2"),
    "uuid": ("md5(n::text)::uuid", "id uuid PRIMARY KEY", "id", "id BETWEEN $1 AND $2"),
    "composite": (
        "'s' || n % 2, n",
        "school text, pupil integer, PRIMARY KEY (school, pupil)",
        ["school", "pupil"],
        "(school, pupil) BETWEEN ($1, $2) AND ($3, $4)",
    ),
}
PARTIAL = {"safety": "partial", "stays": "what was filled"}


def seeded(tmp_path: Any, key: str = "integer", fill: str = "value = 'none', touched = touched + 1") -> list[Any]:
    """Seven rows, filled two at a time, then constraints that hold only where each was filled once."""
    values, columns, named, between = KEYS[key]
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(
        SEED,
        "seed",
        f"CREATE TABLE public.kept ({columns}, value text, touched integer NOT NULL DEFAULT 0);\n"
        f"INSERT INTO public.kept SELECT {values} FROM generate_series(1, 7) AS n;",
        "DROP TABLE public.kept;",
    )
    steps: list[dict[str, Any]] = [
        {"backfill": {"table": "kept", "key": named, "batch_size": 2, "statement": "fill.sql.j2"}},
        {"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}},
        {"validate": [{"table": "kept", "constraint": "kept_filled"}]},
    ]
    files = {
        "fill.sql.j2": f"UPDATE public.kept SET {fill} WHERE {between};",
        "up.sql.j2": "ALTER TABLE public.kept ADD CONSTRAINT kept_filled "
        "CHECK (value IS NOT NULL AND touched = 1) NOT VALID;",
        "down.sql.j2": "ALTER TABLE public.kept DROP CONSTRAINT IF EXISTS kept_filled;",
        "verify.sql.j2": NO_DIFFERENCE,
    }
    tree.add(FILL, "fill", steps, files, rollback=PARTIAL)
    return tree.render()


@pytest.mark.parametrize("key", sorted(KEYS))
def test_seeded_rows_are_filled_before_their_constraint_is_read(target: Any, tmp_path: Any, key: str) -> None:
    migrate.apply(target, seeded(tmp_path, key), Selection(), way())
    result = verify.verify({target.database: target})[target.database]
    assert (result["passed"], result["findings"]) == (True, [])


def test_an_adoption_reads_such_a_tree_as_well(target: Any, tmp_path: Any) -> None:
    tree = seeded(tmp_path)
    with (
        closing(connect(target, application_name="test")) as conn,
        effects.replayed(target, conn, tree, control=Control()) as (chain, other),
    ):
        assert "constraint public.kept.kept_filled" in chain.effects[FILL]
        assert fetch_all(other, "SELECT count(*) AS n FROM kept WHERE touched = 1") == [{"n": 7}]


def test_a_batch_that_cannot_be_done_again_is_named(target: Any, tmp_path: Any) -> None:
    _, fill = seeded(tmp_path, fill="touched = 1 / touched")
    do(
        target,
        "CREATE TABLE kept (id integer PRIMARY KEY, value text, touched integer NOT NULL DEFAULT 0)",
        "INSERT INTO kept VALUES (1)",
    )
    with (
        closing(connect(target, application_name="test")) as conn,
        pytest.raises(PgopsError, match=r"fill\.sql\.j2:1 cannot be run again in an empty database.*division by zero"),
    ):
        declared.replay(conn, fill)


@pytest.mark.parametrize("made", [None, "CREATE TABLE kept (id integer)"], ids=["no_table", "no_rows"])
def test_without_rows_there_is_nothing_to_do(target: Any, tmp_path: Any, made: str | None) -> None:
    """The table may be one that no version makes; nor does anything serve its key."""
    _, fill = seeded(tmp_path)
    if made:
        do(target, made)
    with closing(connect(target, application_name="test")) as conn:
        declared.replay(conn, {**fill, "steps": fill["steps"][:1]})


def test_rows_that_no_index_leads_to_are_filled_all_the_same(target: Any, tmp_path: Any) -> None:
    """The database itself may have the index from elsewhere."""
    _, fill = seeded(tmp_path)
    do(
        target,
        "CREATE TABLE kept (id integer, value text, touched integer NOT NULL DEFAULT 0)",
        "INSERT INTO kept SELECT generate_series(1, 5)",
    )
    with closing(connect(target, application_name="test")) as conn:
        declared.replay(conn, fill)
    assert rows(target, "SELECT DISTINCT value, touched FROM kept") == [{"value": "none", "touched": 1}]
