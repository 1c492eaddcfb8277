# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What would stop a repair after an adoption was recorded is looked for before: nothing is recorded, and the list names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import adoption, migrate, verify
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_lint, migration_tree
from support import engine
from support.tree import TestTree

BASE, LATER = "20250103000000", "20250103000002"
PUPIL, OTHER = "3f2504e0-4f89-41d3-9a0c-0305e82c3301", "3f2504e0-4f89-41d3-9a0c-0305e82c3302"
UP = """
CREATE TYPE public.level AS ENUM ('low', 'high');
CREATE TABLE public.pupils (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(100), email text, card uuid, level public.level DEFAULT 'low'
);
CREATE UNIQUE INDEX pupils_email_idx ON public.pupils (email);
CREATE INDEX pupils_name_idx ON public.pupils (name);
CREATE TABLE public.visits (
    id uuid PRIMARY KEY, "pupilId" uuid,
    CONSTRAINT "visits_pupilId_fkey" FOREIGN KEY ("pupilId") REFERENCES public.pupils (id) ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE INDEX "visits_pupilId_idx" ON public.visits ("pupilId");
"""
DOWN = "DROP TABLE public.visits;\nDROP TABLE public.pupils;\nDROP TYPE public.level;\n"
KEY = '"visits_pupilId_fkey" FOREIGN KEY ("pupilId") REFERENCES pupils (id) ON UPDATE CASCADE ON DELETE CASCADE'

TEXT_CARD = ("ALTER TABLE pupils ALTER COLUMN card TYPE text",)
SHORT_NAME = ("ALTER TABLE pupils ALTER COLUMN name TYPE varchar(50)",)
TEXT_IDS = (
    'ALTER TABLE visits DROP CONSTRAINT "visits_pupilId_fkey"',
    'ALTER TABLE visits ALTER COLUMN "pupilId" TYPE text',
    "ALTER TABLE pupils ALTER COLUMN id DROP DEFAULT, ALTER COLUMN id TYPE text",
    f"ALTER TABLE visits ADD CONSTRAINT {KEY}",
)
TWIN = (
    "CREATE TYPE enum_pupils_level AS ENUM ('low', 'high')",
    "ALTER TABLE pupils ALTER COLUMN level DROP DEFAULT",
    "ALTER TABLE pupils ALTER COLUMN level TYPE enum_pupils_level USING level::text::enum_pupils_level",
    "ALTER TABLE pupils ALTER COLUMN level SET DEFAULT 'low'",
)
ROWS = (
    f"INSERT INTO pupils (id, name, email) VALUES ('{PUPIL}', 'A', 'a@x')",
    f"INSERT INTO visits VALUES ('{OTHER}', '{PUPIL}')",
)


@pytest.fixture
def tree(tmp_path: Path) -> TestTree:
    made = TestTree(tmp_path / "sql")
    made.add_sql(BASE, "pupils", UP, DOWN)
    return made


def left(target: Any, tree: TestTree, *damage: str) -> None:
    """The database as another tool has left it."""
    migrate.apply(target, tree.render(), Selection(), engine.way())
    engine.do(target, "DROP SCHEMA pgops CASCADE", *ROWS, *damage)


def adopt(target: Any, tree: TestTree, run: int = 2, **asked: Any) -> dict[str, Any]:
    return adoption.adopt(
        target, tree.render(), adoption.Request({}, **asked), engine.way(f"20260101T000000Z-00000{run}")
    )


def carry(target: Any, tree: TestTree) -> dict[str, Any]:
    """Adopt, write the repairs, apply what is pending and hold the result against the tree."""
    found = adopt(target, tree)
    for repair in found["repairs"]:
        path = tree.folder / "migrations" / f"{repair['version']}_{repair['name']}"
        path.mkdir()
        for name, text in repair["files"].items():
            (path / name).write_text(text, encoding="utf-8")
    assert migration_lint.lint(migration_tree.read_tree(tree.folder), {}) == []
    migrate.apply(target, tree.render(), Selection(), engine.way("20260101T000000Z-000009"))
    assert verify.verify({target.database: target})[target.database]["passed"]
    return found


def told(found: dict[str, Any]) -> dict[str, str | None]:
    return {item["object"]: item["repair"] for verdict in found["versions"] for item in verdict["differences"]}


def refusals(target: Any, tree: TestTree, **asked: Any) -> str:
    """:return: why it is refused, all reasons; nothing is recorded."""
    with pytest.raises(PgopsError) as caught:
        adopt(target, tree, **asked)
    assert caught.value.extra["reason"] == "differences", caught.value.message
    assert engine.rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []
    return "\n".join(f"{item['object']}: {item['difference']}" for item in caught.value.extra["differences"])


def test_a_database_that_quotes_all_names_is_adopted_and_verified(target: Any, server: Any, tree: TestTree) -> None:
    """Sessions of ours print names as the server does by itself: they are keys of an inventory, and verifications compare them."""
    definition = "pg_get_indexdef('public.pupils_card_idx'::regclass)"
    wanted = "'CREATE INDEX pupils_card_idx ON public.pupils USING btree (card)'"
    tree.add(
        LATER,
        "more",
        [
            {
                "backfill": {
                    "table": "pupils",
                    "key": "id",
                    "statement": "rows.sql.j2",
                    "ends_as": "name",
                    "irreversible": "a test",
                }
            },
            {"indexes": "indexes.yml"},
        ],
        {
            "rows.sql.j2": "UPDATE public.pupils SET name = 'B' WHERE id BETWEEN $1 AND $2 AND name IS NULL;\n",
            "indexes.yml": [
                {"name": "pupils_card_idx", "table": "pupils", "columns": ["card"], "phi": False, "why": "a test"}
            ],
            "verify.sql.j2": f"SELECT 'card' AS object, {wanted} AS expected, {definition} AS found WHERE {definition} <> {wanted};\n",
        },
        rollback={"safety": "partial", "stays": "a test"},
    )
    left(target, tree, "DROP INDEX pupils_name_idx")
    server.execute(f'ALTER DATABASE "{target.database}" SET quote_all_identifiers = on', database=target.database)
    assert told(carry(target, tree)) == {"index public.pupils_name_idx": "built concurrently"}
