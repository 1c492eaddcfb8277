# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What a statement is forecast to lock is what it locks: each kind is run, and pg_locks says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import lock_forecast, lock_modes
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar
from ansible_collections.whitecross.pgops.plugins.plugin_utils.statement_locks import locks_of

ZOO = """
CREATE TABLE parent (id integer PRIMARY KEY, code text UNIQUE, note text);
CREATE TABLE child (id integer PRIMARY KEY, parent_id integer CONSTRAINT child_parent REFERENCES parent, n integer,
    CONSTRAINT positive CHECK (n > 0) NOT VALID);
CREATE INDEX child_n ON child (n);
CREATE TABLE loose (id integer PRIMARY KEY, parent_id integer);
ALTER TABLE loose ADD CONSTRAINT loose_parent FOREIGN KEY (parent_id) REFERENCES parent NOT VALID;
CREATE TABLE many (id integer, year integer, parent_id integer CONSTRAINT many_parent REFERENCES parent,
    PRIMARY KEY (id, year)) PARTITION BY LIST (year);
CREATE TABLE many_2025 PARTITION OF many FOR VALUES IN (2025);
CREATE TABLE many_2026 PARTITION OF many FOR VALUES IN (2026);
CREATE TABLE many_rest PARTITION OF many DEFAULT;
CREATE TABLE many_2027 (LIKE many INCLUDING ALL);
CREATE INDEX many_year ON many (year);
CREATE TABLE of_many (id integer, year integer, CONSTRAINT of_many_many FOREIGN KEY (id, year) REFERENCES many);
CREATE TABLE other (id integer) PARTITION BY LIST (id);
CREATE TABLE other_1 PARTITION OF other FOR VALUES IN (1);
CREATE TABLE other_rest PARTITION OF other DEFAULT;
CREATE TABLE base (id integer, name text);
CREATE TABLE heir (more text) INHERITS (base);
CREATE TABLE alone (id integer, name text);
CREATE DOMAIN short AS text CHECK (length(value) < 9);
CREATE TABLE shorts (id integer, s short);
CREATE VIEW children AS SELECT id FROM child;
CREATE MATERIALIZED VIEW stored AS SELECT id FROM child;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER old_trigger AFTER INSERT ON child FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE TRIGGER many_trigger AFTER INSERT ON many FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE POLICY old_policy ON child USING (true);
CREATE SCHEMA elsewhere;
CREATE VIEW singles AS SELECT id, name FROM alone;
CREATE VIEW of_singles AS SELECT id FROM singles;
CREATE TYPE feeling AS ENUM ('a');
CREATE TABLE moods (id integer, m feeling, n integer);
CREATE VIEW moody AS SELECT id, m FROM moods;
CREATE VIEW not_moody AS SELECT id, n FROM moods;
CREATE TYPE pair AS (a integer, b integer);
CREATE TABLE pairs (id integer, p pair[]);
CREATE FUNCTION plain() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE FUNCTION plain(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE TABLE by_default (id integer DEFAULT plain());
CREATE TABLE by_check (id integer CHECK (id > plain()));
CREATE TABLE by_index (id integer);
CREATE INDEX ON by_index ((id + plain()));
CREATE TABLE by_policy (id integer);
CREATE POLICY plain_ids ON by_policy USING (id = plain());
CREATE TABLE by_another (id integer DEFAULT plain(1));
CREATE VIEW by_view AS SELECT plain() AS id FROM alone;
CREATE TABLE elsewhere.there (id integer, child_id integer REFERENCES child);
CREATE VIEW from_there AS SELECT id FROM elsewhere.there;
"""

STATEMENTS = [
    "ALTER TABLE child ADD COLUMN a integer",
    "ALTER TABLE child ADD COLUMN a integer REFERENCES alone2",
    "ALTER TABLE child ADD COLUMN IF NOT EXISTS n integer",
    "ALTER TABLE loose ADD CONSTRAINT f FOREIGN KEY (id) REFERENCES parent NOT VALID",
    "ALTER TABLE many ADD CONSTRAINT f FOREIGN KEY (id) REFERENCES child",
    "ALTER TABLE loose ADD CONSTRAINT f FOREIGN KEY (id, parent_id) REFERENCES many",
    "ALTER TABLE child ADD CONSTRAINT c CHECK (id > 0) NOT VALID",
    "ALTER TABLE base ADD CONSTRAINT c CHECK (id > 0)",
    "ALTER TABLE ONLY base ALTER COLUMN name SET DEFAULT 'x'",
    "ALTER TABLE child ADD CONSTRAINT u UNIQUE (n)",
    "ALTER TABLE child VALIDATE CONSTRAINT positive",
    "ALTER TABLE loose VALIDATE CONSTRAINT loose_parent",
    "ALTER TABLE child DROP CONSTRAINT child_parent",
    "ALTER TABLE many DROP CONSTRAINT many_parent",
    "ALTER TABLE of_many DROP CONSTRAINT of_many_many",
    "ALTER TABLE child DROP CONSTRAINT positive",
    "ALTER TABLE child DROP COLUMN parent_id",
    "ALTER TABLE parent DROP COLUMN id CASCADE",
    "ALTER TABLE parent DROP CONSTRAINT parent_pkey CASCADE",
    "ALTER TABLE child ALTER COLUMN n SET NOT NULL",
    "ALTER TABLE child ALTER COLUMN n SET DEFAULT 1",
    "ALTER TABLE child ALTER COLUMN n SET STATISTICS 200",
    "ALTER TABLE child ALTER COLUMN n TYPE bigint",
    "ALTER TABLE child ALTER COLUMN parent_id TYPE bigint",
    "ALTER TABLE parent ALTER COLUMN id TYPE bigint",
    "ALTER TABLE child ALTER CONSTRAINT child_parent DEFERRABLE",
    "ALTER TABLE child SET (fillfactor = 90)",
    "ALTER TABLE child SET (autovacuum_vacuum_scale_factor = 0.1)",
    "ALTER TABLE child ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE child DISABLE TRIGGER old_trigger",
    "ALTER TABLE child ADD COLUMN b integer, ALTER COLUMN n SET STATISTICS 100",
    "ALTER TABLE child CLUSTER ON child_n",
    "ALTER TABLE child REPLICA IDENTITY FULL",
    "ALTER TABLE child RENAME TO kid",
    "ALTER TABLE child RENAME COLUMN n TO m",
    "ALTER TABLE base RENAME COLUMN name TO label",
    "ALTER TABLE child RENAME CONSTRAINT positive TO above_zero",
    "ALTER INDEX child_n RENAME TO child_m",
    "ALTER TABLE child SET SCHEMA elsewhere",
    "ALTER TABLE alone INHERIT base",
    "ALTER TABLE heir NO INHERIT base",
    "ALTER TABLE many ATTACH PARTITION many_2027 FOR VALUES IN (2027)",
    "ALTER TABLE many DETACH PARTITION many_2026",
    "CREATE TABLE fresh (id integer PRIMARY KEY, child integer REFERENCES child)",
    "CREATE TABLE many_2028 PARTITION OF many FOR VALUES IN (2028)",
    "CREATE TABLE fresh () INHERITS (base)",
    "CREATE INDEX i ON child (id)",
    "CREATE INDEX i ON many (parent_id)",
    "CREATE STATISTICS both_columns ON id, n FROM child",
    "CREATE TRIGGER t AFTER UPDATE ON child FOR EACH ROW EXECUTE FUNCTION nothing()",
    "CREATE TRIGGER t AFTER UPDATE ON many FOR EACH ROW EXECUTE FUNCTION nothing()",
    "CREATE TRIGGER t AFTER UPDATE ON many FOR EACH STATEMENT EXECUTE FUNCTION nothing()",
    "ALTER TRIGGER old_trigger ON child RENAME TO new_trigger",
    "CREATE POLICY p ON child USING (true)",
    "ALTER POLICY old_policy ON child USING (false)",
    "CREATE RULE r AS ON DELETE TO alone DO INSTEAD NOTHING",
    "DROP TRIGGER old_trigger ON child",
    "DROP TRIGGER many_trigger ON many",
    "DROP POLICY old_policy ON child",
    "DROP INDEX child_n",
    "DROP INDEX many_year",
    "DROP TABLE loose",
    "DROP TABLE other_1",
    "DROP TABLE of_many",
    "DROP TABLE parent CASCADE",
    "DROP TABLE many CASCADE",
    "DROP VIEW children",
    "TRUNCATE loose",
    "TRUNCATE parent CASCADE",
    "TRUNCATE base",
    "COMMENT ON TABLE child IS 'x'",
    "COMMENT ON COLUMN child.n IS 'x'",
    "COMMENT ON CONSTRAINT positive ON child IS 'x'",
    "COMMENT ON TRIGGER old_trigger ON child IS 'x'",
    "ALTER DOMAIN short ADD CONSTRAINT not_empty CHECK (value <> '')",
    "ALTER DOMAIN short SET NOT NULL",
    "REFRESH MATERIALIZED VIEW stored",
    "LOCK TABLE child IN SHARE MODE",
    "INSERT INTO child SELECT id, id, 1 FROM alone",
    "UPDATE child SET n = 2 FROM alone WHERE alone.id = child.id",
    "DELETE FROM base",
    "GRANT SELECT ON child TO PUBLIC",
    "CREATE TYPE mood AS ENUM ('a')",
    "CREATE VIEW v AS SELECT * FROM child",
    "CREATE OR REPLACE VIEW v AS SELECT * FROM child",
    "CREATE OR REPLACE VIEW singles AS SELECT id, upper(name) AS name FROM alone",
    "ALTER VIEW singles SET (security_barrier)",
    "ALTER VIEW singles RESET (security_barrier)",
    "ALTER VIEW singles ALTER COLUMN name SET DEFAULT 'x'",
    "ALTER VIEW singles RENAME TO doubles",
    "ALTER MATERIALIZED VIEW stored SET (autovacuum_enabled = false)",
    "COMMENT ON VIEW singles IS 'x'",
    "DROP VIEW singles CASCADE",
    "DROP TABLE alone CASCADE",
    "DROP TABLE child CASCADE",
    "ALTER TABLE moods DROP COLUMN m CASCADE",
    "DROP TYPE feeling CASCADE",
    "DROP TYPE pair CASCADE",
    "DROP DOMAIN short CASCADE",
    "DROP FUNCTION nothing() CASCADE",
    "DROP FUNCTION plain() CASCADE",
    "DROP FUNCTION plain(integer) CASCADE",
    "DROP ROUTINE nothing CASCADE",
    "DROP SCHEMA elsewhere CASCADE",
    "DROP OWNED BY white_cross_owner CASCADE",
    "DROP OWNED BY CURRENT_USER",
    "CREATE PUBLICATION news FOR TABLE base, ONLY child",
    "DROP TYPE IF EXISTS no_such_type CASCADE",
    "DROP FUNCTION IF EXISTS unknown(integer) CASCADE",
]

# Beyond what the owner of the tables may do.
OF_OTHERS = [
    "DROP OWNED BY white_cross_app",
    "DROP OWNED BY white_cross_app CASCADE",
]

# What a DO block runs by EXECUTE, as far as it is written down.
BLOCKS = [
    "EXECUTE 'ALTER TABLE child ADD COLUMN z integer'",
    "EXECUTE 'ALTER TABLE child ' || 'ADD COLUMN z integer; DROP VIEW children'",
    "EXECUTE format('ALTER TABLE %I ADD COLUMN %I integer', 'child', 'z')",
    "EXECUTE 'CREATE OR REPLACE VIEW singles AS SELECT id, upper(name) AS name FROM alone'",
    "IF true THEN EXECUTE 'DROP TYPE feeling CASCADE'; END IF",
]

_THERE = """
SELECT oid::bigint AS oid, relname::text AS name FROM pg_class
 WHERE oid >= 16384 AND relkind IN ('r', 'p', 'v', 'm') AND relnamespace::regnamespace::text IN ('public', 'elsewhere')
"""
_HELD = """
SELECT relation::bigint AS oid, mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted
"""


@pytest.fixture(scope="module")
def zoo(server: Any) -> Iterator[Any]:
    server.create_database("t_forecast")
    from support.engine import target_of

    with closing(connect(target_of(server, "t_forecast"), application_name="test")) as conn:
        execute(conn, ZOO)
        execute(conn, "CREATE TABLE alone2 (id integer PRIMARY KEY)")
        yield conn
    server.drop_databases("t_forecast")


def told(statement: str) -> list[dict[str, Any]]:
    (raw,) = grammar().parser.parse_sql(statement)
    return locks_of(raw.stmt, statement)


def held(conn: Any, there: dict[int, str]) -> dict[str, str]:
    """The strongest lock of the session on each of these tables, but for that of a plain reader."""
    modes = {lock_modes.in_pg_locks(mode): mode for mode in lock_modes.MODES}
    found: dict[str, str] = {}
    for row in fetch_all(conn, _HELD):
        name, mode = there.get(row["oid"]), modes[row["mode"]]
        if name and lock_modes.strength(mode) > lock_modes.strength(found.get(name, lock_modes.ACCESS_SHARE)):
            found[name] = mode
    return found


@pytest.mark.majors(15, 16, 17, 18)
@pytest.mark.parametrize("statement", STATEMENTS)
def test_the_forecast_of_a_statement_is_what_it_locks(zoo: Any, statement: str) -> None:
    there = {row["oid"]: row["name"] for row in fetch_all(zoo, _THERE)}
    found = lock_forecast.forecast(zoo, {0: told(statement)}).get(0, [])
    forecast = {lock.name: lock.mode for lock in found if lock_modes.strength(lock.mode) > 1}
    execute(zoo, "BEGIN")
    try:
        lock_forecast.ask(zoo, found)
        # What is asked for ahead is no more than what the statement takes, and nothing is left to wait for.
        assert held(zoo, there).items() <= forecast.items()
        execute(zoo, "ROLLBACK; BEGIN")
        execute(zoo, statement)
        taken = held(zoo, there)
    finally:
        execute(zoo, "ROLLBACK")
    assert forecast == taken


@pytest.mark.parametrize("statement", OF_OTHERS)
def test_what_drop_owned_takes_of_a_role_that_owns_a_little_is_what_it_locks(
    superuser_connection: Any, statement: str
) -> None:
    conn = superuser_connection
    execute(
        conn,
        "CREATE TABLE theirs (id integer PRIMARY KEY); ALTER TABLE theirs OWNER TO white_cross_app; CREATE TABLE read_by (id integer);"
        "CREATE POLICY of_app ON read_by TO white_cross_app USING (true); CREATE TABLE granted (id integer);"
        "GRANT SELECT ON granted TO white_cross_app; CREATE TABLE ours (id integer)",
    )
    if "CASCADE" in statement:
        execute(
            conn, "ALTER TABLE ours ADD FOREIGN KEY (id) REFERENCES theirs; CREATE VIEW seen AS SELECT id FROM theirs"
        )
    there = {row["oid"]: row["name"] for row in fetch_all(conn, _THERE)}
    forecast = {lock.name: lock.mode for lock in lock_forecast.forecast(conn, {0: told(statement)}).get(0, [])}
    execute(conn, "BEGIN")
    try:
        execute(conn, statement)
        assert held(conn, there) == forecast
    finally:
        execute(conn, "ROLLBACK")


@pytest.mark.parametrize("block", BLOCKS)
def test_what_a_block_executes_from_a_text_is_looked_for_and_not_asked_for(zoo: Any, block: str) -> None:
    there = {row["oid"]: row["name"] for row in fetch_all(zoo, _THERE)}
    statement = f"DO $$ BEGIN {block}; END $$"
    found = lock_forecast.forecast(zoo, {0: told(statement)}).get(0, [])
    execute(zoo, "BEGIN")
    try:
        lock_forecast.ask(zoo, found)
        assert held(zoo, there) == {}
        execute(zoo, statement)
        taken = held(zoo, there)
    finally:
        execute(zoo, "ROLLBACK")
    assert {lock.name: lock.mode for lock in found if lock_modes.strength(lock.mode) > 1} == taken
    assert all(lock.guessed for lock in found)
