# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy for a less trusted server: nothing of a declared column is left in it, and its shape is that of before."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import masking, masking_check, restore
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from psycopg2 import sql
from support.backups import PATIENT, RUN, fill
from support.engine import do, rows
from support.server import OWNER

SHAPE = """
SELECT count(*) AS rows, count(DISTINCT name) AS names, sum(length(name)) AS length, count(note) AS notes, count(DISTINCT seen) AS moments,
       count(*) FILTER (WHERE name ~ '^[A-Z][a-z]+-[A-Z][a-z]+-[0-9]+$') AS class, max(seen) - min(seen) AS span
  FROM students
"""
DECLARED = {"public.students": {"name": "text", "seen": "moment"}}


@pytest.fixture
def filled(server: Any, target: Any, database: str) -> str:
    fill(server, database)
    do(
        target,
        "UPDATE students SET note = NULL WHERE id % 3 = 0",
        "UPDATE students SET seen = seen + id * interval '1 hour'",
        "CREATE UNIQUE INDEX students_name ON students (name)",
        "CREATE TABLE aliases (name text REFERENCES students (name), note text)",
        "INSERT INTO aliases SELECT name, 'x' FROM students",
        "INSERT INTO students (name) VALUES ('Ødegård Ирина 学生'), ('')",
    )
    return database


def mask(target: Any, declared: dict[str, Any], **more: Any) -> dict[str, Any]:
    return masking.mask(target.as_restore(), declared, work=restore.Work(RUN), **more)


def test_type_length_class_uniqueness_and_nulls_stay_and_no_value_does(target: Any, filled: str) -> None:
    do(target, "CREATE MATERIALIZED VIEW known AS SELECT name FROM students")
    do(target, "CREATE MATERIALIZED VIEW longest AS SELECT max(name) FROM known")
    before = rows(target, SHAPE)
    keys = rows(target, "SELECT count(*) AS n FROM aliases JOIN students USING (name)")
    with_alias = {**DECLARED, "public.aliases": {"name": "text"}}
    done = mask(target, with_alias)
    assert (done["tables"], done["columns"]) == (2, 3)
    assert rows(target, SHAPE) == before
    assert rows(target, "SELECT count(*) AS n FROM aliases JOIN students USING (name)") == keys
    everything = json.dumps(
        [rows(target, f"SELECT t::text FROM {table} t") for table in ("students", "aliases", "known", "longest")],
        ensure_ascii=False,
    )
    for part in ("Sentinel", "Patient", PATIENT, "Ødegård", "Ирина", "学生"):
        assert part not in everything
    looked = done["looked"]
    assert (looked["distinct"], looked["drawn"], looked["left_out"]) == (502, [], [])
    # '' and what has five letters or digits too few are not looked for; what the mask makes of another value cannot be.
    assert looked["short"] + looked["ambiguous"] + looked["looked_for"] == 502
    assert looked["looked_for"] > 400
    assert looked["tables"] >= 6


@pytest.mark.parametrize(
    "name", ["สมชาย ใจดี", "राहुल शर्मा", "Łukasz Żółć", "Արամ Խաչատրյան", "გიორგი", "ᏣᎳᎩ", "Ǆorđe", "𠮷野家"]
)
def test_no_script_is_left_as_it_was(target: Any, filled: str, name: str) -> None:
    do(
        target,
        "DELETE FROM aliases",
        "DELETE FROM visits",
        "DELETE FROM students",
        f"INSERT INTO students (name) VALUES ('{name}')",
    )
    mask(target, DECLARED)
    (found,) = rows(target, "SELECT name FROM students")
    assert len(found["name"]) == len(name)
    assert not [one for one, other in zip(name, found["name"], strict=True) if one == other and one.isalpha()]


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_in_another_encoding_is_masked_and_looked_at(target: Any, server: Any, encoding: str) -> None:
    name = f"{target.database}_{encoding.lower()}"
    server.execute(f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    there = replace(target, database=name)
    do(there, "CREATE TABLE people (name text)", "INSERT INTO people VALUES ('Zoë Ødegård-Nyström'), ('Grace Hopperson')",
       "CREATE TABLE elsewhere AS SELECT 'seen ' || name AS held FROM people WHERE name LIKE 'Z%'")  # fmt: skip
    with pytest.raises(PgopsError, match=r"^public\.elsewhere\.held still holds"):
        mask(there, {"public.people": {"name": "text"}})
    do(there, "DROP TABLE elsewhere", "DELETE FROM people", "INSERT INTO people VALUES ('Zoë Ødegård-Nyström')")
    mask(there, {"public.people": {"name": "text"}})
    (found,) = rows(there, "SELECT name FROM people")
    same = [one for one, other in zip("Zoë Ødegård-Nyström", found["name"], strict=True) if one == other]
    assert same == [" ", "-"]
    server.drop_databases(name)


SPREAD = {
    "text": ("text", "'seen by ' || name || ', who came late'"),
    "other case": ("text", "upper(name)"),
    "varchar of a domain": ("told", "name"),
    "array": ("text[]", "ARRAY['x', name]"),
    "json": ("json", "json_build_object('who', name)"),
    "key of jsonb": ("jsonb", "jsonb_build_object(name, 1)"),
    "escaped in json": ("json", "('{\"a\": \"\\n' || name || '\\n\"}')::json"),
    "bytes": ("bytea", "convert_to('x ' || name, 'UTF8')"),
    "bytes that are no text": ("bytea", "'\\x00ff'::bytea || convert_to(name, 'UTF8') || '\\x00'::bytea"),
    "row": ("pair", "ROW(1, name)::pair"),
    "search vector": ("tsvector", "to_tsvector('english', 'about ' || name)"),
}


@pytest.mark.parametrize("who", ["Grace Hopperson", "Zoë Ødegård-Nyström"])
@pytest.mark.parametrize("kind", SPREAD)
def test_a_value_is_found_wherever_a_trigger_has_put_it(target: Any, filled: str, kind: str, who: str) -> None:
    """In any kind of column of another table, whichever row of the masked one it comes from."""
    type_, made = SPREAD[kind]
    do(
        target,
        "DELETE FROM aliases",
        "CREATE DOMAIN told AS varchar(99)",
        "CREATE TYPE pair AS (n int, who text)",
        f"INSERT INTO students (name) VALUES ('{who}')",
        f"CREATE TABLE elsewhere (id int, held {type_})",
        f"INSERT INTO elsewhere SELECT 1, {made} FROM students WHERE name = '{who}'",
    )
    with pytest.raises(PgopsError, match=r"^public\.elsewhere\.held still holds a value") as caught:
        mask(target, DECLARED)
    told = json.dumps([caught.value.message, caught.value.as_dict()], ensure_ascii=False)
    assert "Hopperson" not in told
    assert "Ødegård" not in told
    # Where the words are nobody's, somebody says so, and the result says that nobody looked.
    done = mask(target, {"public.elsewhere": {"held": "keep"}})
    assert (done["looked"]["left_out"], done["tables"]) == (["public.elsewhere.held"], 0)


@pytest.mark.majors(15, slow=(15,))
def test_a_value_is_found_in_xml(target: Any, filled: str) -> None:
    """Of a server that is built with it."""
    do(
        target,
        "CREATE TABLE elsewhere AS SELECT xmlelement(name who, name) AS held FROM aliases",
        "DELETE FROM aliases",
    )
    with pytest.raises(PgopsError, match=r"^public\.elsewhere\.held still holds a value"):
        mask(target, DECLARED)


def test_what_is_derived_from_a_masked_column_is_made_anew_or_emptied(target: Any, filled: str) -> None:
    """Triggers are off while it is masked: a vector that one of them keeps would have the old words."""
    do(
        target,
        "DELETE FROM aliases",
        "ALTER TABLE students ADD COLUMN found tsvector, ADD COLUMN nothing tsvector, ADD COLUMN made tsvector "
        "GENERATED ALWAYS AS (to_tsvector('simple', name)) STORED, ADD COLUMN shout text GENERATED ALWAYS AS (upper(name)) STORED",
        "CREATE TRIGGER found BEFORE INSERT OR UPDATE ON students FOR EACH ROW EXECUTE FUNCTION "
        "tsvector_update_trigger(found, 'pg_catalog.english', name)",
        "UPDATE students SET name = name",
    )
    done = mask(target, DECLARED)
    assert done["vectors"] == ["public.students.found", "public.students.nothing"]
    assert rows(
        target,
        "SELECT count(*) AS n, count(found) AS kept, count(nothing) AS nulls, sum(length(found)) AS words FROM students",
    ) == [{"n": 502, "kept": 502, "nulls": 0, "words": 0}]
    text = json.dumps(rows(target, "SELECT made::text, shout FROM students"), ensure_ascii=False).lower()
    assert "sentinel" not in text
    assert "patient" not in text
    assert rows(target, "SELECT count(*) AS n FROM students WHERE shout = upper(name)") == [{"n": 502}]


def test_statistics_have_no_value_of_before(target: Any, filled: str) -> None:
    do(target, "DELETE FROM aliases", "UPDATE students SET note = 'Sentinel note'", "ANALYZE")
    query = "SELECT count(*) AS n FROM pg_stats WHERE most_common_vals::text || coalesce(histogram_bounds::text, '') ~ 'Sentinel'"
    assert rows(target, query) != [{"n": 0}]
    mask(target, {"public.students": {"name": "text", "seen": "moment", "note": "text"}})
    assert rows(target, query.replace("most_common_vals::text ||", "coalesce(most_common_vals::text, '') ||")) == [
        {"n": 0}
    ]


def test_a_value_of_any_length_is_masked_and_looked_for(target: Any, filled: str) -> None:
    do(
        target,
        "DELETE FROM aliases",
        "UPDATE students SET note = (SELECT string_agg('Sentinel word ' || g, ' ') FROM generate_series(1, 2000) g) WHERE id = 1",
    )
    mask(target, {"public.students": {"name": "text", "note": "text"}})
    assert rows(target, "SELECT count(*) AS n FROM students WHERE note LIKE '%Sentinel%'") == [{"n": 0}]


def test_of_a_column_with_very_many_values_a_random_sample_is_looked_for_and_said_so(target: Any, filled: str) -> None:
    do(target, "DELETE FROM aliases")
    looked = mask(target, DECLARED, sample=100)["looked"]
    assert (looked["drawn"], looked["distinct"]) == (["public.students.name"], 100)


def test_what_the_mask_makes_of_a_value_that_was_not_drawn_is_no_leak(target: Any, filled: str) -> None:
    """Of very many short values some become others; what is masked says so itself."""
    students = sql.Identifier("students")
    with closing(connect(target.as_restore(), application_name="test")) as conn:
        look = masking_check.Look(conn, sample=100)
        look.note(students, ["name"], "public.students")
        look.prepare("reverse(value)")
        looked_for = look.looked.looked_for
        assert "public.students.name" in look.left([], lambda _table: None)
        look.pass_over(students, ["name"])
        assert look.looked.ambiguous == looked_for > 90
        assert look.left([], lambda _table: None) == []


def test_odd_names_and_partitions_are_masked_and_looked_at(target: Any, filled: str) -> None:
    do(
        target,
        "DELETE FROM aliases",
        """CREATE TABLE "odd %s; --" (id int, "100% "" who" text) PARTITION BY LIST (id)""",
        """CREATE TABLE "part %" PARTITION OF "odd %s; --" FOR VALUES IN (1)""",
        """INSERT INTO "odd %s; --" SELECT 1, name FROM students""",
    )
    with pytest.raises(PgopsError, match=r'^public\.part %\.100% " who still holds'):
        mask(target, DECLARED)
    restored = {"public.students": {"name": "text"}, "odd %s; --": {'100% " who': "text"}}
    with pytest.raises(PgopsError, match="has no such table"):
        mask(target, {"public.odd": {"x": "text"}})
    assert mask(target, restored)["rows"] == 1004


def test_the_key_is_in_no_statement_and_no_hash_is_md5(target: Any, filled: str, server: Any) -> None:
    """As on a server in FIPS mode, where md5 is refused; and as its log would have it."""
    do(target, "DELETE FROM aliases")
    text = Path(masking.__file__).read_text(encoding="utf-8") + Path(masking_check.__file__).read_text(encoding="utf-8")
    assert "md5" not in text
    server.execute("ALTER SYSTEM SET log_statement = 'all'")
    server.execute("SELECT pg_reload_conf()")
    try:
        mask(target, DECLARED)
    finally:
        server.execute("ALTER SYSTEM RESET log_statement")
        server.execute("SELECT pg_reload_conf()")
    log = "".join(path.read_text(errors="replace") for path in server.directory.rglob("*log*") if path.is_file())
    assert "pgops_mask" in log
    assert not re.search(r"\b[0-9a-f]{32,}\b", log)


def test_a_value_that_survives_elsewhere_is_found_and_not_told(target: Any, filled: str) -> None:
    with pytest.raises(PgopsError) as caught:
        mask(target, DECLARED)
    assert caught.value.message.startswith("public.aliases.name still holds a value that masking.yml masks elsewhere")
    assert "Sentinel" not in json.dumps([caught.value.message, caught.value.as_dict()])


def test_what_is_tagged_as_phi_and_not_declared_is_named(target: Any, filled: str) -> None:
    do(
        target,
        "CREATE TABLE calls (id int, why text, place text, seen text)",
        "COMMENT ON COLUMN calls.why IS 'PHI: why a pupil came'",
        "COMMENT ON COLUMN calls.place IS 'PHI: possible'",
        "COMMENT ON COLUMN calls.seen IS 'when; no PHI'",
    )
    base = {"public.students": {"name": "text"}, "public.aliases": {"name": "text"}}
    assert mask(target, base)["bare"] == ["public.calls.why", "public.calls.place"]
    assert mask(target, {**base, "calls": {"why": "text", "place": "keep"}})["bare"] == []
    assert mask(target, {**base, "public.calls": "empty"})["bare"] == []


def test_a_table_may_go_and_what_cannot_be_is_refused(target: Any, filled: str) -> None:
    for declared, why in (
        ({"public.nowhere": {"name": "text"}}, "has no such table"),
        ({"public.students": {"nothing": "text"}}, "no column of it"),
        ({"public.students": {"score": "text"}}, "which is double precision"),
        ({"public.students": {"name": "moment"}}, "which is text"),
    ):
        with pytest.raises(PgopsError, match=why):
            mask(target, declared)
    with pytest.raises(PgopsError, match="cannot mask a copy"):
        masking.mask(target, DECLARED, work=restore.Work(RUN))
    mask(target, {"public.aliases": "empty", "public.students": {"name": "text", "note": "empty"}})
    assert rows(target, "SELECT count(*) AS n FROM aliases") == [{"n": 0}]
    assert rows(target, "SELECT count(note) AS n FROM students") == [{"n": 0}]
