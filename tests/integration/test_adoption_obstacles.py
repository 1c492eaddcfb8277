# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What would stop a repair after an adoption was recorded is looked for before: nothing is recorded, and the list names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import adoption, bounded_look, migrate, verify
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
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(100), email text, card uuid, level public.level DEFAULT 'low',
    CONSTRAINT pupils_named CHECK (name <> '')
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


def carry(target: Any, tree: TestTree, **way: Any) -> dict[str, Any]:
    """Adopt, write the repairs, apply what is pending and hold the result against the tree."""
    found = adopt(target, tree)
    for repair in found["repairs"]:
        path = tree.folder / "migrations" / f"{repair['version']}_{repair['name']}"
        path.mkdir()
        for name, text in repair["files"].items():
            (path / name).write_text(text, encoding="utf-8")
    assert migration_lint.lint(migration_tree.read_tree(tree.folder), {}) == []
    migrate.apply(target, tree.render(), Selection(), engine.way("20260101T000000Z-000009", **way))
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


def test_both_ends_of_a_foreign_key_are_converted_in_one(target: Any, tree: TestTree) -> None:
    left(target, tree, *TEXT_IDS, "COMMENT ON CONSTRAINT \"visits_pupilId_fkey\" ON visits IS 'who came'")
    found = told(carry(target, tree))
    again = 'converted from text, 1 rows; foreign key public.visits."visits_pupilId_fkey" made again; validated'
    assert found["column public.pupils.id"] == f"default set; {again}"
    assert found['column public.visits."pupilId"'] == again
    (key,) = engine.rows(
        target,
        "SELECT convalidated AS valid, pg_get_constraintdef(oid) AS text, obj_description(oid) AS comment FROM pg_constraint "
        "WHERE conname = 'visits_pupilId_fkey'",
    )
    assert (key["valid"], key["comment"]) == (True, "who came")
    assert key["text"].endswith("ON UPDATE CASCADE ON DELETE CASCADE")
    assert engine.rows(target, 'SELECT "pupilId"::text AS id FROM visits') == [{"id": PUPIL}]


def test_a_foreign_key_of_which_one_end_stays_text_is_refused_by_its_name(target: Any, tree: TestTree) -> None:
    accept = ['column public.visits."pupilId"']
    mine = "CREATE TABLE mine (pupil text CONSTRAINT mine_pupil_fkey REFERENCES pupils (id))"
    left(target, tree, *TEXT_IDS, mine, f"INSERT INTO pupils (id) VALUES ('{PUPIL.upper()}')")
    assert "2 of 2 values would be the same uuid as another one" in refusals(target, tree, accept=accept)

    engine.do(target, f"DELETE FROM pupils WHERE id = '{PUPIL.upper()}'")
    assert "under constraint public.mine.mine_pupil_fkey:" in refusals(target, tree, accept=accept)

    engine.do(target, "DROP TABLE mine")
    assert "the foreign key visits_pupilId_fkey ties it to" in refusals(target, tree, accept=accept)


def test_what_stands_on_a_column_that_is_to_change_is_named(target: Any, tree: TestTree) -> None:
    left(
        target,
        tree,
        *TEXT_CARD,
        *SHORT_NAME,
        "CREATE VIEW cards AS SELECT card FROM pupils",
        "CREATE INDEX mine_plain ON pupils (card)",
        "CREATE INDEX mine_there ON pupils (name) WHERE card IS NOT NULL",
        "CREATE INDEX mine_lower ON pupils (lower(card))",
        "CREATE INDEX mine_where ON pupils (name) WHERE card <> 'x'",
        "CREATE INDEX mine_pattern ON pupils (card text_pattern_ops)",
        'CREATE INDEX mine_collated ON pupils (card COLLATE "C")',
        "ALTER TABLE pupils ADD CONSTRAINT mine_check CHECK (card <> 'x')",
        "CREATE INDEX mine_name ON pupils (lower(name))",
        "CREATE POLICY mine_policy ON pupils USING (name <> 'x')",
        "ALTER TABLE pupils ADD COLUMN shout text GENERATED ALWAYS AS (upper(name)) STORED",
        "CREATE TRIGGER mine_trigger BEFORE UPDATE OF name ON pupils FOR EACH ROW "
        "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    )
    why = refusals(target, tree)
    (card,) = [line for line in why.splitlines() if line.startswith("column public.pupils.card:")]
    (name,) = [line for line in why.splitlines() if line.startswith("column public.pupils.name:")]
    for part in ("view public.cards", "mine_lower", "mine_where", "mine_pattern", "mine_collated", "mine_check"):
        assert part in card
    assert "mine_plain" not in card and "mine_there" not in card
    for part in ("policy mine_policy", "column public.pupils.shout", "trigger mine_trigger"):
        assert part in name
    assert "index" not in name


def test_what_uses_the_named_type_of_a_twin_is_named(target: Any, tree: TestTree) -> None:
    left(
        target,
        tree,
        *TWIN,
        "CREATE FUNCTION mine(level public.level) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE DOMAIN mine_domain AS public.level",
    )
    why = refusals(target, tree)
    assert "function public.mine(" in why and "type public.mine_domain" in why


def test_a_name_that_another_kind_of_object_has_is_told(target: Any, tree: TestTree) -> None:
    left(
        target,
        tree,
        "DROP INDEX pupils_name_idx",
        "CREATE TABLE pupils_name_idx (a int)",
        "DROP TABLE visits",
        "CREATE SEQUENCE visits",
        "ALTER TABLE pupils DROP COLUMN level",
        "DROP TYPE level",
        "CREATE TABLE level (a int)",
    )
    why = refusals(target, tree)
    assert "index public.pupils_name_idx: it is missing, and table public.pupils_name_idx has its name" in why
    assert "type public.level: it is missing, and table public.level has its name" in why
    assert "table public.visits: it is missing, and sequence public.visits has its name" in why


def test_rows_that_an_index_or_a_check_does_not_take_are_refused_and_orphans_are_told(
    target: Any, tree: TestTree
) -> None:
    left(
        target,
        tree,
        "DROP INDEX pupils_email_idx",
        f"INSERT INTO pupils (id, email) VALUES ('{OTHER}', 'a@x'), (gen_random_uuid(), 'b@x')",
        'ALTER TABLE visits DROP CONSTRAINT "visits_pupilId_fkey"',
        "INSERT INTO visits VALUES (gen_random_uuid(), gen_random_uuid())",
        "ALTER TABLE pupils DROP CONSTRAINT pupils_named",
        f"UPDATE pupils SET name = '' WHERE id = '{PUPIL}'",
    )
    why = refusals(target, tree)
    assert "constraint public.pupils.pupils_named: it is missing, and 1 rows break it; list them: SELECT ctid, *" in why
    assert f"2 rows share 1 key(s), by id {PUPIL}, {OTHER}; list them: SELECT" in why
    assert "a@x" not in why
    engine.do(target, f"DELETE FROM pupils WHERE id = '{OTHER}'", "UPDATE pupils SET name = NULL")
    found = told(carry(target, tree, orphans="quarantine"))
    assert found["index public.pupils_email_idx"] == "built concurrently"
    assert found['constraint public.visits."visits_pupilId_fkey"'] == (
        "added; validated; 1 rows have no parent: give them one, or run migrate.yml with -e migrate_orphans=quarantine"
    )


def test_adoption_waits_for_no_table_lock_for_ever_and_names_who_holds_it(
    target: Any, tree: TestTree, monkeypatch: Any
) -> None:
    left(target, tree)
    monkeypatch.setattr(bounded_look, "LOOK_LOCK_TIMEOUT_S", 1)
    with engine.holding(target, "LOCK TABLE pupils IN ACCESS EXCLUSIVE MODE"), pytest.raises(PgopsError) as caught:
        adopt(target, tree)
    assert caught.value.sqlstate == "55P03"
    assert "for more than 1 s" in caught.value.message
    assert "the reporting job" in caught.value.message
    assert engine.rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []
    assert adopt(target, tree)["recorded"] == [BASE]
