# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What a statement of a way down may change is read part by part; what its text does not show may be anything."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.changing_parts import (
    changing,
    constraints,
    puts_together,
)

# By the body of a block: the parts that may change something.
PARTS = {
    "BEGIN RAISE NOTICE 'DROP TABLE a'; END": [],
    "BEGIN -- DROP TABLE a;\n RETURN; END": [],
    "BEGIN COMMENT ON TABLE a IS NULL; GRANT UPDATE ON a TO b; END": [],
    'BEGIN SELECT count(*) INTO n FROM "update"; END': [],
    "BEGIN IF EXISTS (SELECT FROM a WHERE CASE WHEN b THEN c ELSE d END) THEN DROP VIEW v; ELSE DROP VIEW w; END IF; END": [
        "DROP VIEW v",
        "DROP VIEW w",
    ],
    "DECLARE n int := 0; BEGIN <<l>> FOR n IN SELECT id FROM a LOOP DELETE FROM b WHERE id = n; END LOOP; END": [
        "DELETE FROM b WHERE id = n"
    ],
    "BEGIN UPDATE a SET m = CASE WHEN b THEN 1 ELSE 2 END; END": ["UPDATE a SET m = CASE WHEN b THEN 1 ELSE 2 END"],
    "BEGIN FOR n IN DELETE FROM a RETURNING id LOOP END LOOP; END": ["n IN DELETE FROM a RETURNING id"],
    "BEGIN EXCEPTION WHEN others THEN DROP VIEW v; END": ["DROP VIEW v"],
    "BEGIN EXECUTE format('COMMENT ON INDEX %I.%I IS NULL', s, i); END": [],
    "BEGIN CREATE TRIGGER t BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION f(); END": [
        "CREATE TRIGGER t BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION f()"
    ],
}
# Of these nobody can tell: the whole block.
WHOLE = [
    "BEGIN EXECUTE 'DROP VIEW v'; END",
    "BEGIN EXECUTE format('COMMENT ON INDEX %s IS NULL', i); END",
    "BEGIN EXECUTE 'COMMENT ON TABLE a IS NULL; DROP TABLE a'; END",
    "BEGIN EXECUTE 'COMMENT ON ' || what; END",
    "BEGIN EXECUTE format('COMMENT ON TABLE %I IS NULL', a) || more; END",
    "BEGIN EXECUTE what; END",
    "BEGIN PERFORM mend('a'); END",
    "BEGIN IF public.mend('a') THEN RETURN; END IF; END",
    "DECLARE n int := mend(); BEGIN RETURN; END",
    "BEGIN n := mend ('a'); END",
    "BEGIN CALL mend(); END",
    'BEGIN PERFORM "lower"."count"(1); END',
]


@pytest.mark.parametrize("body", PARTS)
def test_the_parts_of_a_block_that_may_change_something(body: str) -> None:
    for text in (
        f"DO $$ {body} $$;",
        f"/* why */ do language plpgsql $x$ {body} $x$",
        f"-- why\nDO $$ {body} $$ LANGUAGE plpgsql",
    ):
        assert changing(text) == PARTS[body]
        assert not puts_together(text)


@pytest.mark.parametrize("body", WHOLE)
def test_a_block_whose_text_does_not_show_it_may_change_all_it_names(body: str) -> None:
    text = f"DO $$ {body} $$;"
    assert changing(text) == [text]
    assert puts_together(text) == ("EXECUTE" in body)


@pytest.mark.parametrize(
    "text", ["DO 'BEGIN END'", "DO LANGUAGE plpython3u $$ pass $$", "DO $$ BEGIN END $$ LANGUAGE plv8"]
)
def test_what_cannot_be_read_may_change_all_it_names(text: str) -> None:
    assert changing(text) == [text]
    assert puts_together(text)


def test_a_statement_of_its_own_is_one_part() -> None:
    assert changing("-- why\nCOMMENT ON TABLE a IS NULL") == []
    assert changing("ALTER TABLE a DROP COLUMN b") == ["ALTER TABLE a DROP COLUMN b"]


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ('ALTER TABLE public.a VALIDATE CONSTRAINT "B c"', set()),
        ('ALTER TABLE IF EXISTS ONLY a DROP CONSTRAINT IF EXISTS B, DROP CONSTRAINT "B c" RESTRICT;', {"b", "B c"}),
        ("ALTER TABLE a RENAME CONSTRAINT b TO c", {"b", "c"}),
        ("ALTER TABLE a ADD CONSTRAINT b CHECK (x IN (1, 2)), ADD CONSTRAINT c UNIQUE (x, y)", set()),
        ("ALTER TABLE a DROP CONSTRAINT b CASCADE", None),
        ("ALTER TABLE a DROP CONSTRAINT b, DROP COLUMN c", None),
        ("ALTER TABLE a RENAME TO b", None),
        ("UPDATE a SET b = 1", None),
    ],
)
def test_what_is_done_to_constraints_alone(part: str, names: set[str] | None) -> None:
    assert constraints(part) == names
