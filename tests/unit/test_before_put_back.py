# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Which parts of a way down may give a table rows, or change those that it has, before others come back from quarantine."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.before_put_back import Before, gives_rows, writes_to

VETS = {("public", "vets"), ("public", "vets_2026")}
# By what a part says: whether it may give a parent, referred to by id and site, and whether it may change rows.
PARTS = {
    "INSERT INTO vets (id) VALUES (7)": (True, True),
    "INSERT INTO db.public.Vets SELECT 7": (True, True),
    'INSERT INTO public."vets" SELECT 7': (True, True),
    "INSERT INTO vets_2026 SELECT 7": (True, True),
    "WITH n AS (DELETE FROM notes RETURNING id) INSERT INTO vets SELECT id FROM n": (True, True),
    "n IN INSERT INTO vets SELECT 7 RETURNING id": (True, True),
    "MERGE INTO ONLY vets USING notes ON true WHEN NOT MATCHED THEN INSERT VALUES (7)": (True, True),
    "UPDATE vets SET id = 7": (True, True),
    "UPDATE ONLY public.vets AS v SET name = upper(name), Site = 7 WHERE id = 3": (True, True),
    "UPDATE vets SET (name, id) = (SELECT 'x', 7)": (True, True),
    "UPDATE vets SET id = id + 1": (True, True),
    "UPDATE vets SET id = id, name = 'x' WHERE site = 3": (False, True),
    "UPDATE vets SET name = id::text FROM notes n WHERE n.id = vets.id": (False, True),
    "DELETE FROM vets": (False, True),
    "TRUNCATE notes, ONLY vets": (False, True),
    "TRUNCATE notes CASCADE": (False, True),
    "UPDATE public.notes SET vets = 1, id = 2": (False, False),
    "UPDATE other.vets SET id = 7": (False, False),
    "INSERT INTO other.vets SELECT 7": (False, False),
    'INSERT INTO "Vets" SELECT 7': (False, False),
    "INSERT INTO notes SELECT id FROM vets": (False, False),
    "DELETE FROM notes USING vets WHERE true": (False, False),
    "DROP TABLE IF EXISTS notes, public.vets CASCADE": (True, True),
    "DROP SCHEMA public CASCADE": (True, True),
    "DROP TABLE other.vets": (False, False),
    "ALTER TABLE vets ATTACH PARTITION vets_2027 FOR VALUES IN (7)": (True, False),
    "ALTER TABLE vets ALTER COLUMN id TYPE bigint USING id + 7": (True, False),
    "ALTER TABLE vets DETACH PARTITION vets_2025": (False, True),
    "ALTER TABLE notes DROP COLUMN vets": (False, False),
    "ALTER TABLE vets ADD COLUMN note text": (False, False),
    "CREATE INDEX i ON vets (name)": (False, False),
    # What they do, their text does not show.
    "DO $$ BEGIN EXECUTE format('INSERT INTO %I VALUES (7)', 'vets'); END $$": (True, True),
    "SELECT refill('notes')": (False, False),
    "CALL refill('vets')": (True, True),
}


@pytest.mark.parametrize("part", PARTS)
def test_what_a_part_may_do_to_the_rows_of_a_table(part: str) -> None:
    assert (gives_rows(part, VETS, {"id", "site"}), writes_to(part, VETS)) == PARTS[part]


@pytest.mark.parametrize(
    ("statement", "may"),
    [
        ("INSERT INTO log SELECT public.fix(id) FROM vets", True),
        ('WITH x AS (SELECT id FROM vets) INSERT INTO log SELECT "Fix"(id) FROM x', True),
        ("INSERT INTO log SELECT lower(name) FROM vets", False),
        ("INSERT INTO log SELECT fix(id) FROM dogs", False),
    ],
)
def test_a_function_of_somebodys_own_may_do_anything_to_what_the_statement_names(statement: str, may: bool) -> None:
    before = Before(own=frozenset({"fix", "Fix"}))
    before.add({"down": [{"sql": statement}]}, set())
    assert before.may_give_parents(VETS, {"id"}) is may
    assert before.may_lift(VETS, None, ["id"]) is may
