# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A content hash sees every change of a value and nothing else, and no row is left out without a word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import connection, content
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from support.server import APP, BACKUP, Server

MAJORS = (15, 16, 17, 18)

EVERY_TYPE = """
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN short AS varchar(5);
CREATE DOMAIN shorter AS short;
CREATE TABLE t (
  c_bool boolean, c_int2 smallint, c_int4 int, c_int8 bigint, c_numeric numeric, c_float4 real, c_float8 float8,
  c_text text, c_varchar varchar(20), c_char char(4), c_domain shorter, c_bytea bytea, c_uuid uuid, c_date date,
  c_time time, c_timestamp timestamp, c_timestamptz timestamptz, c_interval interval, c_json json, c_jsonb jsonb,
  c_array text[], c_enum mood, c_pair pair, c_range int4range, c_inet inet, c_money money, c_bit bit(3),
  c_regclass regclass, c_point point, c_tsvector tsvector
);
INSERT INTO t VALUES (
  true, 1, 1, 1, 1.0, 1.5, 0.1, 'a', 'a', 'a', 'a', '\\x00ff', '00000000-0000-0000-0000-000000000001', '2025-01-02',
  '03:04:05', '2025-01-02 03:04:05.000006', '2025-01-02 03:04:05.000006+00', '1 day', '{"a":1}', '{"a":1}',
  '{a,NULL,""}', 'glad', '(1,x)', '[1,5)', '10.0.0.1', '1.00', '101', 't', '(1,2)', 'a b'
);
"""

# One value of a row, changed as little as a flipped bit or a lost NULL changes it.
CHANGES = [
    "c_bool = false", "c_bool = NULL", "c_int2 = 0", "c_int2 = NULL", "c_int4 = 0", "c_int4 = -1", "c_int4 = NULL",
    "c_int8 = 4294967296", "c_int8 = 8589934595", "c_int8 = NULL", "c_numeric = 1.00", "c_numeric = NULL",
    "c_float4 = 1.5000001", "c_float8 = 0.10000000000000002", "c_float8 = 'NaN'", "c_text = ''", "c_text = NULL",
    "c_text = 'A'", "c_text = 'a '", "c_varchar = 'b'", "c_varchar = NULL", "c_varchar = ''", "c_char = 'b'",
    "c_domain = 'b'", "c_domain = NULL", "c_bytea = '\\x00fe'", "c_bytea = ''", "c_bytea = NULL",
    "c_uuid = '00000000-0000-0000-0000-000000000003'", "c_uuid = NULL", "c_date = '2025-01-03'", "c_date = 'infinity'",
    "c_date = NULL", "c_time = '03:04:06'", "c_timestamp = '2025-01-02 03:04:05.000007'", "c_timestamp = 'infinity'",
    "c_timestamp = '-infinity'", "c_timestamp = NULL", "c_timestamptz = '2025-01-02 03:04:05.000006+01'",
    "c_timestamptz = NULL", "c_interval = '24:00:00'", "c_json = '{\"a\": 1}'", "c_json = 'null'", "c_json = NULL",
    "c_jsonb = '{\"a\":1.0}'", "c_array = '{a,\"NULL\",\"\"}'", "c_array = '{a,NULL,NULL}'", "c_array = '{}'",
    "c_array = '[0:2]={a,NULL,\"\"}'", "c_enum = 'sad'", "c_pair = '(1,)'", "c_pair = NULL", "c_range = '[1,6)'",
    "c_range = 'empty'", "c_inet = '10.0.0.0'", "c_money = '1.01'", "c_bit = '100'",
    "c_regclass = 'pg_class'", "c_point = '(1,3)'", "c_tsvector = 'a c'",
    "c_text = c_varchar || c_varchar, c_varchar = ''", "c_int2 = NULL, c_int4 = NULL",
]  # fmt: skip


@pytest.fixture
def conn(server: Server, database: str) -> Iterator[Any]:
    with server.session(database) as session:
        yield session


def run(conn: Any, statement: str) -> None:
    with conn.cursor() as cursor:
        cursor.execute(statement)


def hash_of(conn: Any, table: str = "public.t") -> str:
    return content.table_contents(conn, [table])[table]["hash"]


@pytest.mark.majors(*MAJORS)
def test_every_change_of_a_value_changes_the_hash(conn: Any) -> None:
    run(conn, EVERY_TYPE)
    seen = {"unchanged": hash_of(conn)}
    for change in CHANGES:
        run(conn, f"BEGIN; UPDATE t SET {change}")
        seen[change] = hash_of(conn)
        run(conn, "ROLLBACK")
    assert seen["unchanged"] == hash_of(conn)
    same = [change for change in CHANGES if seen[change] == seen["unchanged"]]
    assert same == []
    assert len(set(seen.values())) == len(seen)


@pytest.mark.majors(15, 18)
def test_values_that_are_equal_under_other_defaults_hash_the_same(server: Server, database: str, conn: Any) -> None:
    """Acceptance 5: another TimeZone, DateStyle, float or bytea format of the role or database changes nothing."""
    run(conn, EVERY_TYPE)
    first = content.table_contents(conn)
    for setting in (
        "TimeZone = 'Pacific/Auckland'", "DateStyle = 'German, DMY'", "IntervalStyle = 'iso_8601'", "xmloption = 'document'",
        "extra_float_digits = -5", "bytea_output = 'escape'", "lc_monetary = 'C.UTF-8'", "search_path = 'pg_temp'",
    ):  # fmt: skip
        run(conn, f"ALTER DATABASE {database} SET {setting}")
    with server.session(database) as other:
        assert content.table_contents(other) == first
        with other.cursor() as cursor:
            # psycopg2 itself sets the DateStyle of its sessions.
            cursor.execute("SHOW TimeZone")
            assert cursor.fetchone() == ("Pacific/Auckland",)


def test_neither_the_order_of_rows_nor_of_columns_counts(conn: Any) -> None:
    run(conn, "CREATE TABLE t (a int, b text); INSERT INTO t VALUES (1, 'x'), (2, 'y'), (2, 'y')")
    first = content.table_contents(conn)["public.t"]
    run(conn, "DROP TABLE t; CREATE TABLE t (gone int, b text, a int); ALTER TABLE t DROP gone")
    run(conn, "INSERT INTO t VALUES ('y', 2), ('x', 1), ('y', 2)")
    assert content.table_contents(conn)["public.t"] == first == {"kind": "table", "rows": 3, "hash": first["hash"]}


def test_values_that_changed_places_are_seen(conn: Any) -> None:
    run(conn, "CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 2), (3, 4)")
    hashes = [hash_of(conn)]
    for rows in ("(2, 1), (3, 4)", "(1, 4), (3, 2)", "(1, 2), (1, 2)", "(1, 2)", "(1, 2), (3, 4), (NULL, NULL)"):
        run(conn, f"TRUNCATE t; INSERT INTO t VALUES {rows}")
        hashes.append(hash_of(conn))
    assert len(set(hashes)) == len(hashes)


def test_a_bit_flipped_on_disk_in_a_toasted_value_is_seen(conn: Any) -> None:
    run(conn, "CREATE TABLE t (a int, b bytea); ALTER TABLE t ALTER b SET STORAGE EXTERNAL")
    run(conn, "INSERT INTO t SELECT i, decode(repeat('00ff', 20000), 'hex') FROM generate_series(1, 20) i")
    first = hash_of(conn)
    run(conn, "UPDATE t SET b = set_bit(b, 123456, 1 - get_bit(b, 123456)) WHERE a = 13")
    second = hash_of(conn)
    assert first != second
    run(conn, "UPDATE t SET b = set_bit(b, 123456, 1 - get_bit(b, 123456)) WHERE a = 13")
    assert hash_of(conn) == first


def test_a_large_table_in_parts_and_by_several_sessions_hashes_the_same(
    server: Server, database: str, conn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(
        conn,
        "CREATE TABLE t AS SELECT i, md5(i::text) AS b FROM generate_series(1, 20000) i; DELETE FROM t WHERE i < 3000",
    )
    run(conn, "CREATE TABLE empty (); CREATE TABLE u AS SELECT 1 AS one")
    whole = content.table_contents(conn)
    monkeypatch.setattr(content, "PART_PAGES", 7)
    told: list[tuple[int, int]] = []
    assert content.table_contents(conn, progress=lambda done, total: told.append((done, total))) == whole
    assert len(told) > 10
    assert told[-1][0] == told[-1][1]
    with ExitStack() as stack:
        others = [stack.enter_context(server.session(database)) for _ in range(2)]
        assert content.table_contents(conn, connections=others) == whole
    assert whole["public.t"]["rows"] == 17001


def test_all_sessions_read_the_exported_snapshot(server: Server, database: str) -> None:
    server.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)", database=database)
    with server.session(database) as owner, server.session(database) as first, server.session(database) as second:
        run(owner, "BEGIN ISOLATION LEVEL REPEATABLE READ")
        with owner.cursor() as cursor:
            cursor.execute("SELECT pg_export_snapshot()")
            snapshot = cursor.fetchone()[0]
        server.execute("INSERT INTO t VALUES (2)", database=database)
        then = content.table_contents(owner)["public.t"]["rows"]
        shared = content.table_contents(first, connections=[second], snapshot=snapshot)["public.t"]["rows"]
        assert (then, shared, content.table_contents(second)["public.t"]["rows"]) == (1, 1, 2)
        run(owner, "COMMIT")


@pytest.mark.majors(15, 18)
def test_rows_of_partitions_and_children_count_once(conn: Any) -> None:
    run(
        conn,
        "CREATE TABLE p (a int) PARTITION BY RANGE (a); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE p2 PARTITION OF p DEFAULT; INSERT INTO p SELECT generate_series(1, 15);"
        "CREATE TABLE mother (a int); CREATE TABLE child () INHERITS (mother);"
        "INSERT INTO mother VALUES (1); INSERT INTO child VALUES (2), (3)",
    )
    found = {name: entry["rows"] for name, entry in content.table_contents(conn).items()}
    assert found == {"public.p1": 9, "public.p2": 6, "public.mother": 1, "public.child": 2}


@pytest.mark.majors(15, 18)
def test_every_kind_of_relation_is_told(server: Server, conn: Any) -> None:
    """Acceptance 6: unlogged, materialised view, foreign table, generated columns, quoted names."""
    virtual = ", v int GENERATED ALWAYS AS (a * 3) VIRTUAL" if server.major >= 18 else ""
    run(
        conn,
        'CREATE UNLOGGED TABLE u (a int); CREATE SCHEMA "Odd One"; CREATE TABLE "Odd One"."select" ("a ""b""" text, "%" int);'
        f"CREATE TABLE g (a int, s int GENERATED ALWAYS AS (a * 2) STORED{virtual});"
        'INSERT INTO u VALUES (1); INSERT INTO g VALUES (1); INSERT INTO "Odd One"."select" VALUES (\'x\', 1);'
        "CREATE MATERIALIZED VIEW full_one AS SELECT a FROM g; CREATE MATERIALIZED VIEW empty_one AS SELECT 1 WITH NO DATA;"
        "CREATE FOREIGN DATA WRAPPER d; CREATE SERVER far FOREIGN DATA WRAPPER d; CREATE FOREIGN TABLE f (a int) SERVER far;"
        "CREATE VIEW v AS SELECT 1; CREATE TEMPORARY TABLE gone (a int)",
    )
    found = content.table_contents(conn)
    assert {name: (entry["kind"], entry["rows"]) for name, entry in found.items()} == {
        "public.u": ("table", 1), '"Odd One"."select"': ("table", 1), "public.g": ("table", 1),
        "public.full_one": ("materialized view", 1), "public.empty_one": ("materialized view", None),
        "public.f": ("foreign table", None),
    }  # fmt: skip
    assert (found["public.full_one"]["populated"], found["public.empty_one"]["populated"]) == (True, False)
    assert found["public.f"]["hash"] is None
    before = found["public.g"]["hash"]
    run(conn, "ALTER TABLE g ALTER s DROP EXPRESSION; UPDATE g SET s = 3")
    assert content.table_contents(conn)["public.g"]["hash"] != before


def test_of_an_extension_only_its_configuration_rows_count(conn: Any) -> None:
    run(
        conn,
        "CREATE EXTENSION hstore; CREATE TABLE config (a int, mine boolean); CREATE TABLE inner_table (a int);"
        "INSERT INTO config VALUES (1, true), (2, false);"
        "ALTER EXTENSION hstore ADD TABLE config; ALTER EXTENSION hstore ADD TABLE inner_table;"
        "UPDATE pg_extension SET extconfig = ARRAY['config'::regclass::oid], extcondition = ARRAY['WHERE mine']"
        " WHERE extname = 'hstore'",
    )
    assert {name: entry["rows"] for name, entry in content.table_contents(conn).items()} == {"public.config": 1}


@pytest.mark.majors(15, 18)
def test_a_table_that_the_role_cannot_read_is_refused_by_name(server: Server, database: str) -> None:
    server.execute(
        "CREATE TABLE open_one (a int); CREATE TABLE closed (a int); CREATE SCHEMA hidden; CREATE TABLE hidden.t (a int);"
        "CREATE TABLE half (a int, b int); GRANT SELECT ON open_one TO white_cross_app;"
        "GRANT SELECT ON hidden.t TO white_cross_app; GRANT SELECT (a) ON half TO white_cross_app",
        database=database,
    )
    with server.session(database, APP) as conn:
        with pytest.raises(PgopsError, match="no SELECT on hidden.t, public.closed, public.half") as caught:
            content.table_contents(conn)
        assert caught.value.sqlstate == "42501"
        assert content.table_contents(conn, ["public.open_one"])["public.open_one"]["rows"] == 0
        with pytest.raises(PgopsError, match="no table public.nothing"):
            content.table_contents(conn, ["public.nothing"])


@pytest.mark.majors(15, 18)
def test_rows_behind_a_policy_are_never_left_out_silently(server: Server, database: str) -> None:
    """Fact 5: with row-level security a role without BYPASSRLS sees nothing, and no error, unless it is told to fail."""
    server.execute(
        "CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2); ALTER TABLE t ENABLE ROW LEVEL SECURITY;"
        "ALTER TABLE t FORCE ROW LEVEL SECURITY; GRANT SELECT ON t TO white_cross_app",
        database=database,
    )
    with server.session(database, APP) as conn, pytest.raises(PgopsError, match="would hide rows of public.t"):
        content.table_contents(conn)
    with server.session(database, BACKUP) as conn:
        assert content.table_contents(conn)["public.t"]["rows"] == 2


def test_an_interrupt_ends_the_reading_and_gives_the_session_back(server: Server, database: str, conn: Any) -> None:
    run(conn, "CREATE TABLE t (a int)")

    def interrupted() -> None:
        raise Interrupted("Interrupted: asked to.")

    with server.session(database) as other, pytest.raises(Interrupted):
        content.table_contents(conn, connections=[other], check=interrupted)
    assert content.table_contents(conn)["public.t"]["rows"] == 0


def test_what_no_dump_holds_is_not_read(conn: Any) -> None:
    """A virtual column is computed by whoever reads it, and may fail for a row that is sound."""
    run(
        conn,
        "CREATE TABLE t (a int PRIMARY KEY, x int, v int GENERATED ALWAYS AS (1 / x) VIRTUAL); INSERT INTO t VALUES (1, 0)",
    )
    with pytest.raises(psycopg2.errors.DivisionByZero):
        run(conn, "SELECT v FROM t")
    before = hash_of(conn)
    run(conn, "UPDATE t SET x = 1")
    assert hash_of(conn) != before


def test_a_failing_table_is_named_without_its_rows(conn: Any) -> None:
    run(
        conn,
        "CREATE TYPE person AS (name text, born text);"
        "CREATE FUNCTION told(person) RETURNS text LANGUAGE sql AS 'SELECT make_date(length($1.name), 99, 1)::text';"
        "CREATE CAST (person AS text) WITH FUNCTION told(person);"
        "CREATE TABLE t (who person); INSERT INTO t VALUES (('Jane Roe', '2015-02-03'))",
    )
    with pytest.raises(PgopsError, match="Reading public.t failed") as caught:
        content.table_contents(conn)
    assert caught.value.sqlstate == "22008"
    assert "Jane" not in str(caught.value.as_dict()) + caught.value.message


def test_a_table_locked_by_another_is_an_error_of_ours(server: Server, database: str, conn: Any) -> None:
    run(conn, "CREATE TABLE t (a text)")
    run(conn, "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
    with server.session(database) as other:
        run(other, "SET lock_timeout = '50ms'")
        with pytest.raises(PgopsError) as caught:
            content.table_contents(other)
        assert caught.value.sqlstate == "55P03"
        run(conn, "ROLLBACK")
        assert content.table_contents(other)["public.t"]["rows"] == 0


def test_a_row_of_many_columns(conn: Any) -> None:
    run(conn, f"CREATE TABLE t ({', '.join(f'c{n} text' for n in range(1500))}); INSERT INTO t (c7) VALUES ('x')")
    first = hash_of(conn)
    run(conn, "UPDATE t SET c1499 = 'y'")
    assert hash_of(conn) != first


def test_sequences(server: Server, database: str, conn: Any) -> None:
    run(conn, "CREATE SEQUENCE s; CREATE SEQUENCE \"Odd\" START 7; CREATE TABLE t (id serial); SELECT nextval('s')")
    assert content.sequences(conn) == {
        "public.s": {"last_value": 1, "is_called": True},
        'public."Odd"': {"last_value": 7, "is_called": False},
        "public.t_id_seq": {"last_value": 1, "is_called": False},
    }
    with server.session(database, APP) as other, pytest.raises(PgopsError, match="cannot read the sequences public."):
        content.sequences(other)


@pytest.mark.majors(15, 18)
def test_large_objects_are_compared_by_content(server: Server, database: str, conn: Any) -> None:
    assert content.large_objects(conn) == {"count": 0, "hash": "0" * 16}
    run(conn, "SELECT lo_from_bytea(77, '\\x010203'), lo_create(78)")
    first = content.large_objects(conn)
    assert first["count"] == 2
    run(conn, "SELECT lo_put(77, 1, '\\x03')")
    assert content.large_objects(conn)["hash"] != first["hash"]
    run(conn, "SELECT lo_put(77, 1, '\\x02'), lo_put(78, 3000, '\\x01')")
    hole = content.large_objects(conn)
    assert hole["hash"] != first["hash"]
    # The same bytes, written out: a restore fills the hole.
    run(conn, "SELECT lo_unlink(78), lo_from_bytea(78, decode(repeat('00', 3000) || '01', 'hex'))")
    assert content.large_objects(conn) == hole
    with server.session(database, APP) as other, pytest.raises(PgopsError, match="large objects"):
        content.large_objects(other)


def test_through_the_collections_own_connection(target: Any, server: Server, database: str) -> None:
    server.execute("CREATE TABLE t AS SELECT 1 AS a", database=database)
    conn = connection.connect(target.as_backup(), application_name="pgops test")
    assert content.table_contents(conn)["public.t"]["rows"] == 1
    conn.close()


def test_the_comparison_names_table_and_numbers() -> None:
    table = {"kind": "table", "rows": 3, "hash": "a"}
    view = {"kind": "materialized view", "rows": 3, "hash": "a", "populated": True}
    foreign = {"kind": "foreign table", "rows": None, "hash": None}
    expected = {"public.a": table, "public.b": table, "public.c": view, "public.d": foreign, "public.e": table}
    found = {
        "public.a": {**table, "rows": 2, "hash": "b"},
        "public.b": table,
        "public.c": {**view, "rows": 4, "hash": "b"},
        "public.d": foreign,
        "public.f": table,
    }
    assert content.compare_contents(expected, found) == [
        {"object": "public.a", "attribute": "rows", "expected": 3, "found": 2},
        {"object": "public.a", "attribute": "hash", "expected": "a", "found": "b"},
        {"object": "public.e", "attribute": "presence", "expected": "present", "found": "absent"},
        {"object": "public.f", "attribute": "presence", "expected": "absent", "found": "present"},
    ]
    assert content.compare_contents({"c": view}, {"c": {**view, "populated": False}})[0]["attribute"] == "populated"
