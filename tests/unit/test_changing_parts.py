# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What a statement of a way down may change is read part by part; what its text does not show may be anything."""

from __future__ import annotations

import re

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.changing_parts import (
    Constraints,
    always,
    changing,
    constraints,
    lost,
    puts_together,
    writes_rows,
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
    "BEGIN GRANT EXECUTE ON FUNCTION f(int) TO b; REVOKE GRANT OPTION FOR EXECUTE ON FUNCTION f(int) FROM b; END": [],
    "BEGIN INSERT INTO a (x, y) VALUES (lower('A'), 1) ON CONFLICT (x) DO UPDATE SET (x, y) = (2, 3); END": [
        "INSERT INTO a (x, y) VALUES (lower(''), 1) ON CONFLICT (x) DO UPDATE SET (x, y) = (2, 3)"
    ],
    "BEGIN CREATE UNIQUE INDEX i ON public.a USING btree (x) INCLUDE (y); ALTER TABLE a ADD PRIMARY KEY (x); "
    "ALTER TABLE a ADD CONSTRAINT k FOREIGN KEY (x) REFERENCES db.public.b (y); END": [
        "CREATE UNIQUE INDEX i ON public.a USING btree (x) INCLUDE (y)",
        "ALTER TABLE a ADD PRIMARY KEY (x)",
        "ALTER TABLE a ADD CONSTRAINT k FOREIGN KEY (x) REFERENCES db.public.b (y)",
    ],
    "BEGIN CREATE TABLE a (x varchar(3), y numeric(5, 2) DEFAULT 0, CHECK (y > 0)); DROP FUNCTION f(int), g(); END": [
        "CREATE TABLE a (x varchar(3), y numeric(5, 2) DEFAULT 0, CHECK (y > 0))",
        "DROP FUNCTION f(int), g()",
    ],
    # A variable may be called so.
    "DECLARE comment text; BEGIN FOR comment IN DELETE FROM a RETURNING x LOOP END LOOP; END": [
        "comment IN DELETE FROM a RETURNING x"
    ],
    "DECLARE grant int := 1; analyze int; BEGIN analyze := 2; ANALYZE a; ANALYZE; END": [],
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
    "BEGIN comment := mend('a'); END",
    "DECLARE n int; revoke int := mend(); BEGIN END",
    "BEGIN IF comment = mend() THEN RETURN; END IF; END",
    "BEGIN WHILE grant < mend() LOOP END LOOP; END",
    "BEGIN DO $x$ BEGIN UPDATE a SET b = 1; END $x$; END",
    "BEGIN IF b THEN DO LANGUAGE plpgsql 'BEGIN DROP VIEW v; END'; END IF; END",
    "BEGIN /* a /* b */ isn't it */ UPDATE a SET b = 'c'; END",
    "BEGIN PERFORM U&\"m\\0065nd\"('a'); END",
    "BEGIN INSERT INTO a SELECT mend('b'); END",
    "BEGIN UPDATE a SET b = c WHERE mend(b); END",
    "BEGIN ALTER TABLE a ALTER COLUMN b TYPE text USING mend(b); END",
    "BEGIN CREATE INDEX i ON a (mend(b)); END",
    "BEGIN PERFORM db.public.mend('a'); END",
    "BEGIN PERFORM db . public . lower('a'); END",
    "BEGIN PERFORM public.lower('a'); END",
    "BEGIN PERFORM upper('a'); END",
]
# What an own function is called as well.
OWN = frozenset({"upper", "mend"})
NOT_SEEN = re.compile(r"EXECUTE|DO [$L]|/\*|U&")


@pytest.mark.parametrize("body", PARTS)
def test_the_parts_of_a_block_that_may_change_something(body: str) -> None:
    for text in (
        f"DO $$ {body} $$;",
        f"/* why */ do language plpgsql $x$ {body} $x$",
        f"-- why\nDO $$ {body} $$ LANGUAGE plpgsql",
        f"DO -- it's $$\n $$ {body} $$ LANGUAGE 'plpgsql' /* why $$ */;",
        f'DO LANGUAGE "plpgsql" /* isn\'t it */ $$ {body} $$; -- $$',
    ):
        assert changing(text, OWN) == PARTS[body]
        assert not puts_together(text)


@pytest.mark.parametrize("body", WHOLE)
def test_a_block_whose_text_does_not_show_it_may_change_all_it_names(body: str) -> None:
    text = f"DO $$ {body} $$;"
    assert changing(text, OWN) == [text]
    assert puts_together(text) == bool(NOT_SEEN.search(body))


@pytest.mark.parametrize(
    "text",
    [
        "DO 'BEGIN END'",
        "DO LANGUAGE plpython3u $$ pass $$",
        "DO $$ BEGIN END $$ LANGUAGE plv8",
        "/* a /* b */ c */ DO $$ BEGIN DROP VIEW v; END $$",
    ],
)
def test_what_cannot_be_read_may_change_all_it_names(text: str) -> None:
    assert changing(text, OWN) == [text]
    assert puts_together(text)


def test_what_the_server_has_reads_whatever_the_own_functions_are_called() -> None:
    assert changing("DO $$ BEGIN PERFORM pg_catalog.upper('a'); END $$", OWN) == []


def test_a_statement_of_its_own_is_one_part() -> None:
    assert changing("-- why\nCOMMENT ON TABLE a IS NULL", OWN) == []
    assert changing("-- of b\nALTER TABLE a DROP COLUMN c", OWN) == ["ALTER TABLE a DROP COLUMN c"]
    assert changing("/* /* */ it's */ DROP VIEW v", OWN) == ["/* /* */ it's */ DROP VIEW v"]


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        ("DROP VIEW v", True),
        ("DO $$ BEGIN DROP VIEW v; RAISE EXCEPTION 'IF'; END $$", True),
        ("DO $$ BEGIN IF b THEN DROP VIEW v; END IF; END $$", False),
        ("DO $$ BEGIN CASE b WHEN 1 THEN DROP VIEW v; END CASE; END $$", False),
        ("DO $$ BEGIN FOR n IN 1..m LOOP DROP VIEW v; END LOOP; END $$", False),
        ("DO $$ BEGIN DROP VIEW v; EXCEPTION WHEN others THEN NULL; END $$", False),
        ("DO $$ BEGIN RETURN; DROP VIEW v; END $$", False),
        ("DO 'BEGIN DROP VIEW v; END'", False),
    ],
)
def test_what_a_statement_does_on_each_of_its_ways(text: str, certain: bool) -> None:
    assert always(text) is certain


@pytest.mark.parametrize(
    ("part", "names", "renamed"),
    [
        ('ALTER TABLE public.a VALIDATE CONSTRAINT "B c"', set(), set()),
        (
            'ALTER TABLE IF EXISTS ONLY a DROP CONSTRAINT IF EXISTS B, DROP CONSTRAINT "B c" RESTRICT;',
            {"b", "B c"},
            set(),
        ),
        ("ALTER TABLE db.public.a DROP CONSTRAINT b", {"b"}, set()),
        ("ALTER TABLE a RENAME CONSTRAINT b TO c", set(), {"b", "c"}),
        ("ALTER TABLE a ADD CONSTRAINT b CHECK (x IN (1, 2)), ADD CONSTRAINT c UNIQUE (x, y)", set(), set()),
    ],
)
def test_what_is_done_to_constraints_alone(part: str, names: set[str], renamed: set[str]) -> None:
    assert constraints(part) == Constraints(frozenset(names), frozenset(renamed))


@pytest.mark.parametrize(
    "part",
    [
        "ALTER TABLE a DROP CONSTRAINT b CASCADE",
        "ALTER TABLE a DROP CONSTRAINT b, DROP COLUMN c",
        "ALTER TABLE a RENAME TO b",
        "UPDATE a SET b = 1",
    ],
)
def test_what_may_do_more_than_that(part: str) -> None:
    assert constraints(part) is None


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("DROP TABLE IF EXISTS a, b", "DROP TABLE IF EXISTS a, b"),
        ("DROP FUNCTION f() CASCADE", "DROP FUNCTION f() CASCADE"),
        ("DROP VIEW v", ""),
        ("ALTER TABLE a DROP COLUMN b", "DROP COLUMN b"),
        ("ALTER TABLE db.s.a DROP b", "DROP b"),
        ("ALTER TABLE a ALTER b TYPE text", "ALTER b TYPE text"),
        ("ALTER TABLE a DETACH PARTITION b", "DETACH PARTITION b"),
        ('ALTER TABLE a ALTER COLUMN "type" DROP DEFAULT, ALTER b DROP NOT NULL', ""),
        ("ALTER TABLE a ADD COLUMN b text", ""),
        ("CREATE INDEX i ON a USING gin (b)", ""),
        ("UPDATE a SET b = 1", "UPDATE a SET b = 1"),
        ("DO $$ BEGIN PERFORM mend(); END $$", "DO $$ BEGIN PERFORM mend(); END $$"),
    ],
)
def test_what_takes_or_changes_rows(part: str, named: str) -> None:
    assert lost(part) == named


@pytest.mark.parametrize(
    ("part", "rows"),
    [
        ("/* why */ UPDATE a SET b = 1", True),
        ("WITH b AS (DELETE FROM a RETURNING id) INSERT INTO c SELECT id FROM b", True),
        ("n, m IN UPDATE a SET b = 1 RETURNING b, c", True),
        ("MERGE INTO a USING b ON a.id = b.id WHEN MATCHED THEN DELETE", True),
        ("SELECT drop_view()", False),
        ("CASE b WHEN 1 THEN DROP TABLE a", False),
        ("ALTER TABLE a DETACH PARTITION b", False),
        ("DO $$ BEGIN UPDATE a SET b = 1; EXECUTE c; END $$", False),
    ],
)
def test_what_changes_rows_and_no_object(part: str, rows: bool) -> None:
    assert writes_rows(part) is rows
