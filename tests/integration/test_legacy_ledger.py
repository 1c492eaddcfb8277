# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The other tool's ledger after an adoption: kept in step where that is asked for, and a fence before its migrations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import adoption, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.command_text import is_sql
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils import legacy_names
from support import engine, legacy
from support.server import APP, OWNER, RESTORE

BASE, HEALTH, SETTINGS = "20250103000000", "20250103000001", "20250103000003"
NAMES = legacy_names.read_names(legacy.SQL)
REFUSED = r"This database is migrated by whitecross\.pgops now, so a migration by {} is refused"


@pytest.fixture(scope="module")
def core() -> list[dict[str, Any]]:
    return [migration for migration in legacy.tree() if migration["version"] in (BASE, HEALTH)]


def adopt(target: Any, tree: list[dict[str, Any]], run: int = 1, **asked: Any) -> dict[str, Any]:
    request = adoption.Request(NAMES, **asked)
    return adoption.adopt(target, tree, request, engine.way(f"20260101T000000Z-00000{run}"))


def names(target: Any) -> list[str]:
    return [row["name"] for row in engine.rows(target, 'SELECT name FROM public."SequelizeMeta" ORDER BY 1')]


# --------------------------------------------------------------------------------------------------------------- mirror


def test_a_mirrored_ledger_tells_the_truth_through_ups_and_downs(target: Any, core: Any) -> None:
    legacy.as_ours(target, (BASE,))
    # It knows nothing of what is there, claims what is not, and has a file that is none of ours.
    legacy.sequelize_ledger(target, [legacy.FILES[SETTINGS], "20250104-add-mfa-oauth-fields-to-users.js"])
    found = adopt(target, core, mirror="sequelize")
    assert found["mirror"] == {"on": True, "added": [legacy.FILES[BASE]], "removed": [legacy.FILES[SETTINGS]]}
    foreign = "20250104-add-mfa-oauth-fields-to-users.js"
    assert names(target) == [legacy.FILES[BASE], foreign]
    migrate.apply(target, core, Selection(), engine.way("20260101T000000Z-000002"))
    assert names(target) == [legacy.FILES[BASE], legacy.FILES[HEALTH], foreign]
    migrate.revert(target, Reverts(), engine.way("20260101T000000Z-000003"))
    assert names(target) == [legacy.FILES[BASE], foreign]
    assert adopt(target, core, run=4, mirror="sequelize")["mirror"] is None
    assert adopt(target, core, run=5, mirror="none")["mirror"] == {"on": False, "added": [], "removed": []}
    migrate.apply(target, core, Selection(), engine.way("20260101T000000Z-000006"))
    assert names(target) == [legacy.FILES[BASE], foreign]


def test_a_mirror_may_lie_in_a_schema_of_any_name(target: Any, server: Any, core: Any) -> None:
    legacy.as_ours(target, (BASE,))
    legacy.sequelize_ledger(target, [legacy.FILES[BASE]])
    adopt(target, core, mirror="sequelize")
    server.execute(
        'CREATE SCHEMA "50% s"; GRANT USAGE ON SCHEMA "50% s" TO white_cross_owner; ALTER TABLE public."SequelizeMeta" SET SCHEMA "50% s";'
        "UPDATE pgops.mirror SET schema = '50% s'",
        database=target.database,
    )
    written = 'SELECT name FROM "50% s"."SequelizeMeta" ORDER BY 1'
    migrate.apply(target, core, Selection(), engine.way("20260101T000000Z-000002"))
    assert [row["name"] for row in engine.rows(target, written)] == [legacy.FILES[BASE], legacy.FILES[HEALTH]]
    migrate.revert(target, Reverts(), engine.way("20260101T000000Z-000003"))
    assert [row["name"] for row in engine.rows(target, written)] == [legacy.FILES[BASE]]


def test_a_mirror_that_cannot_be_written_is_refused_before_anything(target: Any, server: Any, core: Any) -> None:
    legacy.as_ours(target, (BASE,))
    with pytest.raises(PgopsError, match="There is no SequelizeMeta"):
        adopt(target, core, mirror="sequelize")
    server.execute('CREATE TABLE public."SequelizeMeta" (name text)', database=target.database)
    server.execute('GRANT SELECT ON public."SequelizeMeta" TO white_cross_owner', database=target.database)
    with pytest.raises(
        PgopsError, match='GRANT SELECT, INSERT, DELETE ON "public"."SequelizeMeta" TO white_cross_owner'
    ):
        adopt(target, core, mirror="sequelize")
    assert engine.rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []


def test_a_ledger_that_names_a_version_by_another_file_is_not_mirrored_beside_it(target: Any, core: Any) -> None:
    legacy.as_ours(target, (BASE,))
    typed = legacy.FILES[BASE].replace(".js", ".ts")
    # A file of theirs that only has the number of one of ours is none of its names.
    own = f"{BASE}-their-own.js"
    legacy.sequelize_ledger(target, [typed])
    for look in (adoption.look, adoption.adopt):
        with pytest.raises(PgopsError, match=rf"{BASE} as {typed}, .*legacy_names.yml as {legacy.FILES[BASE]}"):
            look(target, core, adoption.Request(NAMES, mirror="sequelize"), engine.way())
    assert engine.rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []
    legacy.sequelize_ledger(target, [legacy.FILES[BASE]])
    with pytest.raises(PgopsError, match=f"as {legacy.FILES[BASE]} and {typed}, "):
        adopt(target, core, mirror="sequelize")
    engine.do(target, f"""UPDATE "SequelizeMeta" SET name = '{own}' WHERE name = '{typed}'""")
    assert adopt(target, core, mirror="sequelize")["mirror"] == {"on": True, "added": [], "removed": []}
    migrate.revert(target, Reverts(), engine.way("20260101T000000Z-000002"))
    assert names(target) == [own]


def test_of_several_names_the_mirror_goes_on_with_the_one_that_is_there(target: Any, core: Any) -> None:
    legacy.as_ours(target, (BASE,))
    typed = legacy.FILES[BASE].replace(".js", ".ts")
    legacy.sequelize_ledger(target, [typed])
    request = adoption.Request({"sequelize": {BASE: [legacy.FILES[BASE], typed]}}, mirror="sequelize")
    found = adoption.adopt(target, core, request, engine.way("20260101T000000Z-000001"))
    assert found["mirror"] == {"on": True, "added": [], "removed": []}
    migrate.revert(target, Reverts(), engine.way("20260101T000000Z-000002"))
    assert names(target) == []
    # The row is away, and its name is remembered.
    assert adoption.adopt(target, core, request, engine.way("20260101T000000Z-000003"))["mirror"] is None
    migrate.apply(target, core, Selection(target=BASE), engine.way("20260101T000000Z-000004"))
    assert names(target) == [typed]
    legacy.sequelize_ledger(target, [legacy.FILES[BASE]])
    with pytest.raises(PgopsError, match=f"as {legacy.FILES[BASE]} and {typed}"):
        adoption.adopt(target, core, request, engine.way("20260101T000000Z-000005"))


# ---------------------------------------------------------------------------------------------------------------- fence


@pytest.fixture
def legacy_database(target: Any, server: Any) -> Any:
    """The base schema, and Sequelize's ledger, which its login owns as it would."""
    legacy.as_ours(target, (BASE,))
    legacy.sequelize_ledger(target, [legacy.FILES[BASE]])
    for statement in (
        f'ALTER TABLE public."SequelizeMeta" OWNER TO {APP}',
        'GRANT SELECT ON public."SequelizeMeta" TO white_cross_owner',
        f"GRANT CREATE, USAGE ON SCHEMA public TO {APP}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {APP}",
    ):
        server.execute(statement, database=target.database)
    return target


def as_app(target: Any, *statements: str) -> None:
    engine.do(target.with_(user=APP, owner=None), *statements)


DISTRICT = "INSERT INTO districts (name, code) VALUES ('A', gen_random_uuid())"
META = 'CREATE TABLE IF NOT EXISTS "SequelizeMeta" (name varchar(255) NOT NULL PRIMARY KEY)'


def test_the_event_trigger_refuses_the_old_tools_ddl_and_nothing_else(legacy_database: Any, core: Any) -> None:
    target = legacy_database
    assert adopt(target, core, fence=True)["fence"] == ["event trigger", "trigger"]
    for statement in (
        "CREATE TABLE lockers (id integer)",
        'CREATE INDEX ON "SequelizeMeta" (lower(name))',
        'ALTER TABLE "SequelizeMeta" ADD COLUMN x integer',
        'DROP TABLE "SequelizeMeta"',
        "CREATE TYPE mood AS ENUM ('a')",
        f"INSERT INTO \"SequelizeMeta\" VALUES ('{legacy.FILES[HEALTH]}')",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match=REFUSED.format("Sequelize")):
            as_app(target, statement)
    # Its status command and the application's rows.
    for statement in (META, DISTRICT):
        as_app(target, statement)
    migrate.apply(target, core, Selection(), engine.way("20260101T000000Z-000002"))
    assert adopt(target, core, run=3, fence=True)["fence"] == []
    assert adopt(target, core, run=4, fence=False)["fence"] == ["event trigger", "trigger"]
    as_app(target, "CREATE TABLE lockers (id integer)")
    events = engine.rows(target, "SELECT event FROM pgops.audit WHERE event LIKE 'fence%%' ORDER BY seq")
    assert [row["event"] for row in events] == ["fence_up", "fence_down"]


@pytest.mark.parametrize(
    ("switched", "again"),
    [
        (["ALTER EVENT TRIGGER pgops_fence_legacy_ddl_command_end DISABLE"], ["event trigger"]),
        (["ALTER EVENT TRIGGER pgops_fence_legacy_ddl_command_end ENABLE REPLICA"], ["event trigger"]),
        (['ALTER TABLE "SequelizeMeta" DISABLE TRIGGER pgops_fence_legacy'], ["trigger"]),
        (["CREATE OR REPLACE FUNCTION pgops.refuse_legacy_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"], ["trigger"]),
    ],
    ids=["event", "replica", "row", "function"],
)  # fmt: skip
def test_a_fence_that_somebody_switched_off_is_put_up_again(
    legacy_database: Any, server: Any, core: Any, switched: list[str], again: list[str]
) -> None:
    target = legacy_database
    server.execute(f"GRANT CREATE ON SCHEMA public TO {APP}", database=target.database)
    adopt(target, core, fence=True)
    refused = {
        "event trigger": "CREATE TABLE lockers (id integer)",
        "trigger": "INSERT INTO \"SequelizeMeta\" VALUES ('20990101000000-x.js')",
    }[again[0]]
    for statement in switched:
        server.execute(statement, database=target.database)
    as_app(target, refused)
    server.execute("DROP TABLE IF EXISTS lockers", database=target.database)
    assert adopt(target, core, run=2, fence=True)["fence"] == again
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match=REFUSED.format("Sequelize")):
        as_app(target, refused)
    assert adopt(target, core, run=3, fence=True)["fence"] == []


def test_their_ddl_is_refused_before_it_fails_or_locks_for_a_reason_of_its_own(
    legacy_database: Any, server: Any, core: Any
) -> None:
    target = legacy_database
    server.execute(f"ALTER TABLE public.districts OWNER TO {APP}", database=target.database)
    server.execute(f"GRANT {APP} TO {OWNER}")
    try:
        adopt(target, core, fence=True)
    finally:
        server.execute(f"REVOKE {APP} FROM {OWNER}")
    temporary = "CREATE TEMPORARY TABLE t (id integer)"
    for statements in (
        ("DROP TABLE districts",),  # schools refer to it
        ("DROP TABLE students",),  # not its own
        (temporary, "CREATE INDEX CONCURRENTLY by_city ON districts (city)"),
        (temporary, "CREATE INDEX by_city ON districts (city)"),
        (temporary, "ALTER TABLE districts DROP COLUMN city"),
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match=REFUSED.format("Sequelize")):
            as_app(target, *statements)
    assert engine.rows(target, "SELECT 1 FROM pg_class WHERE relname = 'by_city'") == []


# What an application does beside reading and writing rows.
TEMPORARY = (
    "CREATE TEMPORARY TABLE mine (id serial PRIMARY KEY, grade text DEFAULT 'x')",
    "CREATE INDEX ON mine (grade)",
    "ALTER TABLE mine ADD COLUMN n bigint",
    "CREATE TEMPORARY VIEW more AS SELECT * FROM mine",
    "CREATE TEMPORARY SEQUENCE numbers",
    "SELECT * INTO TEMPORARY other FROM mine",
    "DROP VIEW more",
    "DROP TABLE mine, other",
)
REFRESH = ("REFRESH MATERIALIZED VIEW per_grade", "REFRESH MATERIALIZED VIEW CONCURRENTLY per_grade")
OWN = (
    "CREATE TABLE sessions (id serial PRIMARY KEY, token text)",
    "CREATE MATERIALIZED VIEW per_grade AS SELECT grade, count(*) AS n FROM students GROUP BY grade",
    "CREATE UNIQUE INDEX ON per_grade (grade)",
    "CREATE VIEW names AS SELECT name FROM districts",
)
SESSIONS = ("INSERT INTO sessions (token) VALUES ('a')", "DELETE FROM sessions", "TRUNCATE sessions")


@pytest.mark.majors(15, 18)
def test_behind_the_event_trigger_the_application_keeps_temporary_objects_and_refreshes(
    legacy_database: Any, core: Any
) -> None:
    as_app(legacy_database, *OWN)
    adopt(legacy_database, core, fence=True)
    as_app(legacy_database, *SESSIONS, *TEMPORARY)
    as_app(legacy_database, *REFRESH)


def test_a_way_down_without_ddl_does_not_take_its_row_away(legacy_database: Any, server: Any, core: Any) -> None:
    server.execute(f'GRANT INSERT, DELETE ON public."SequelizeMeta" TO {OWNER}', database=legacy_database.database)
    adopt(legacy_database, core, fence=True, mirror="sequelize")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match=REFUSED.format("Sequelize")):
        as_app(legacy_database, 'DELETE FROM "SequelizeMeta"')
    migrate.apply(legacy_database, core, Selection(), engine.way("20260101T000000Z-000002"))
    migrate.revert(legacy_database, Reverts(), engine.way("20260101T000000Z-000003"))
    assert names(legacy_database) == [legacy.FILES[BASE]]


@pytest.fixture
def admin(legacy_database: Any, server: Any, tmp_path: Path) -> Iterator[Any]:
    """No superuser, member of the owner and of the old tool's login."""
    with legacy.managed(server, legacy_database, tmp_path, OWNER, APP) as target:
        yield target


def test_without_a_superuser_the_login_loses_what_ddl_needs_and_keeps_its_rows(admin: Any, core: Any) -> None:
    assert adopt(admin, core, fence=True)["fence"] == ["ownership and CREATE", "trigger"]
    for statement in ("CREATE TABLE lockers (id integer)", 'ALTER TABLE "SequelizeMeta" ADD COLUMN x integer'):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            as_app(admin, statement)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match=REFUSED.format("Sequelize")):
        as_app(admin, f"INSERT INTO \"SequelizeMeta\" VALUES ('{legacy.FILES[HEALTH]}')")
    as_app(admin, DISTRICT)
    assert adopt(admin, core, run=2, fence=True, login=APP)["fence"] == []


def test_without_a_superuser_what_the_login_owns_goes_and_the_application_goes_on(
    admin: Any, server: Any, core: Any
) -> None:
    as_app(admin, *OWN)
    server.execute(f"CREATE SCHEMA extra AUTHORIZATION {APP}", database=admin.database)
    # The owner of the database is a member of pg_database_owner, to which the schema public belongs by default.
    server.execute("ALTER SCHEMA public OWNER TO pg_database_owner", database=admin.database)
    server.execute(f"ALTER DATABASE {admin.database} OWNER TO {APP}")
    server.execute("GRANT CREATE ON SCHEMA public TO PUBLIC", database=admin.database)
    server.execute(f"GRANT CREATE ON DATABASE {admin.database} TO {OWNER}")
    assert adopt(admin, core, fence=True)["fence"] == ["ownership and CREATE", "trigger"]
    for statement in (
        "CREATE TABLE lockers (id integer)",
        "CREATE TABLE extra.lockers (id integer)",
        "ALTER TABLE sessions ADD COLUMN x integer",
        "DROP TABLE sessions",
        "DROP TABLE students CASCADE",
        "DROP SCHEMA extra",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            as_app(admin, statement)
    as_app(admin, DISTRICT, *SESSIONS, *TEMPORARY)
    # A view reads with its owner's rights, and ours would pass the policies of the application.
    as_app(admin, "SELECT * FROM names", *REFRESH)
    owners = engine.rows(admin, "SELECT pg_get_userbyid(relowner)::text AS role FROM pg_class WHERE relname = 'names'")
    assert owners == [{"role": APP}]
    migrate.apply(admin, core, Selection(), engine.way("20260101T000000Z-000002"))
    assert adopt(admin, core, run=3, fence=True, login=APP)["fence"] == []


def test_without_a_superuser_rights_through_another_role_are_refused_before_anything(
    admin: Any, server: Any, core: Any
) -> None:
    role = f"{admin.database}_builders"
    server.execute(f"CREATE ROLE {role}")
    server.execute(f"GRANT CREATE ON SCHEMA public TO {role}", database=admin.database)
    server.execute(f"GRANT {role} TO {APP} WITH INHERIT TRUE")
    try:
        with pytest.raises(PgopsError, match=f"as a member of {role}: REVOKE {role} FROM {APP}"):
            adopt(admin, core, fence=True)
        assert engine.rows(admin, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []
    finally:
        server.execute(f"DROP OWNED BY {role}", database=admin.database)
        server.execute(f"DROP ROLE {role}")


def test_without_a_superuser_a_fence_that_stops_nothing_is_no_fence(admin: Any, server: Any, core: Any) -> None:
    # Nobody but its owner can take back what is granted on it, and to revoke it is only a warning.
    server.execute("CREATE SCHEMA theirs AUTHORIZATION postgres", database=admin.database)
    server.execute(f"GRANT CREATE, USAGE ON SCHEMA theirs TO {APP}", database=admin.database)
    server.execute(f"GRANT USAGE ON SCHEMA theirs TO {admin.restore_user} WITH GRANT OPTION", database=admin.database)
    with pytest.raises(PgopsError, match=f"{APP} can still create objects in theirs of {admin.database}"):
        adopt(admin, core, fence=True)


@pytest.fixture
def keeper(admin: Any, server: Any) -> Iterator[str]:
    """A third role, to which the ledger belongs; their login writes it."""
    role = f"{admin.database}_keeper"
    for statement in (
        f"CREATE ROLE {role}",
        f'ALTER TABLE public."SequelizeMeta" OWNER TO {role}',
        f'GRANT SELECT, INSERT, DELETE ON public."SequelizeMeta" TO {APP}',
    ):
        server.execute(statement, database=admin.database)
    yield role
    server.execute(f"DROP OWNED BY {role}", database=admin.database)
    server.execute(f"DROP ROLE {role}")


def untouched(target: Any) -> bool:
    """Nothing of ours is there, and their login has what it had."""
    (found,) = engine.rows(
        target,
        f"SELECT to_regnamespace('pgops') IS NULL AS empty, has_schema_privilege('{APP}', 'public', 'CREATE') AS creates",
    )
    return bool(found["empty"] and found["creates"])


@pytest.mark.majors(15, 18)
def test_without_a_superuser_the_ledger_of_a_third_role_is_looked_at_before_anything(
    admin: Any, server: Any, core: Any, keeper: str
) -> None:
    for look in (adoption.look, adoption.adopt):
        with pytest.raises(PgopsError) as caught:
            look(admin, core, adoption.Request(NAMES, fence=True, login=APP), engine.way())
        assert f"take ownership from {keeper} and give it to {OWNER}" in caught.value.message
        assert caught.value.message.endswith("Nothing was written.")
        assert untouched(admin)
    (grant,) = re.findall(r"GRANT \S+ TO \w+", caught.value.message)
    server.execute(grant)
    assert adopt(admin, core, fence=True, login=APP)["fence"] == ["ownership and CREATE", "trigger"]
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match=REFUSED.format("Sequelize")):
        as_app(admin, f"INSERT INTO \"SequelizeMeta\" VALUES ('{legacy.FILES[HEALTH]}')")
    assert adopt(admin, core, run=2, fence=True, login=APP)["fence"] == []


def test_without_a_superuser_nobody_is_made_a_member_of_one_for_a_ledger(admin: Any, server: Any, core: Any) -> None:
    server.execute('ALTER TABLE public."SequelizeMeta" OWNER TO postgres', database=admin.database)
    with pytest.raises(PgopsError, match="take ownership from postgres") as caught:
        adopt(admin, core, fence=True, login=APP)
    assert untouched(admin)
    assert "GRANT" not in caught.value.message
    (alter,) = re.findall(r"ALTER TABLE \S+ OWNER TO \w+", caught.value.message)
    server.execute(alter, database=admin.database)
    assert adopt(admin, core, fence=True, login=APP)["fence"] == ["ownership and CREATE", "trigger"]


def test_without_a_superuser_what_the_login_owns_is_looked_at_before_anything(
    legacy_database: Any, server: Any, core: Any, tmp_path: Path
) -> None:
    as_app(legacy_database, *OWN)
    with legacy.managed(server, legacy_database, tmp_path, OWNER) as target:
        with pytest.raises(PgopsError, match=f"GRANT {APP} TO {target.restore_user}, or"):
            adopt(target, core, fence=True)
        assert untouched(target)


def test_without_a_superuser_the_ledgers_schema_must_admit_our_owner(admin: Any, server: Any, core: Any) -> None:
    for statement in (
        "CREATE SCHEMA theirs",
        f"GRANT USAGE ON SCHEMA theirs TO {APP}, {OWNER}",
        'ALTER TABLE public."SequelizeMeta" SET SCHEMA theirs',
    ):
        server.execute(statement, database=admin.database)
    with pytest.raises(PgopsError) as caught:
        adopt(admin, core, fence=True)
    assert untouched(admin)
    (grant,) = re.findall(r"GRANT CREATE ON SCHEMA \S+ TO \w+", caught.value.message)
    server.execute(grant, database=admin.database)
    assert adopt(admin, core, fence=True)["fence"] == ["ownership and CREATE", "trigger"]


def test_a_fence_that_only_a_superuser_may_take_away_is_not_told_to_be_gone(admin: Any, server: Any, core: Any) -> None:
    superuser = admin.with_(restore_user=RESTORE)
    assert adopt(superuser, core, fence=True)["fence"] == ["event trigger", "trigger"]
    server.execute(f'ALTER TABLE public."SequelizeMeta" OWNER TO {RESTORE}', database=admin.database)
    for look in (adoption.look, adoption.adopt):
        with pytest.raises(PgopsError) as caught:
            look(admin, core, adoption.Request(NAMES, fence=False), engine.way("20260101T000000Z-000002"))
        assert f"they belong to {RESTORE}" in caught.value.message
        told = caught.value.extra["statements"]
        assert len(told) == 4 and all(map(is_sql, told)), "each can be typed in psql"
        assert " ".join(told) in caught.value.message
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match=REFUSED.format("Sequelize")):
        as_app(admin, "CREATE TABLE lockers (id integer)")
    drops = re.findall(r"DROP [^;.]+(?:\.[^;.]+)?(?=[;.])", caught.value.message)
    assert len(drops) == 4
    for drop in drops:
        server.execute(drop, database=admin.database)
    as_app(admin, "CREATE TABLE lockers (id integer)")
    assert adopt(admin, core, run=3, fence=False)["fence"] == []
    adopt(superuser, core, run=4, fence=True, login=APP)
    assert adopt(superuser, core, run=5, fence=False)["fence"] == ["event trigger", "trigger"]


def test_without_a_superuser_prismas_ledger_of_its_login_gets_the_trigger(
    target: Any, server: Any, core: Any, tmp_path: Path
) -> None:
    legacy.as_ours(target, (BASE,))
    legacy.prisma_ledger(target, ["20251002163331_test_migration"])
    server.execute(f"ALTER TABLE public._prisma_migrations OWNER TO {APP}", database=target.database)
    server.execute("GRANT SELECT ON public._prisma_migrations TO white_cross_owner", database=target.database)
    with legacy.managed(server, target, tmp_path, OWNER, APP) as managed:
        assert adopt(managed, core, fence=True)["fence"] == ["trigger"]
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match=REFUSED.format("Prisma")):
        as_app(target, "INSERT INTO _prisma_migrations (id, checksum, migration_name) VALUES ('1', 'x', 'next')")
    as_app(target, "UPDATE _prisma_migrations SET rolled_back_at = now()")
    with legacy.managed(server, target, tmp_path, OWNER) as managed:
        server.execute(f"ALTER TABLE public._prisma_migrations OWNER TO {APP}", database=target.database)
        server.execute(f"GRANT SELECT ON public._prisma_migrations TO {OWNER}", database=target.database)
        with pytest.raises(PgopsError, match=f"nor may it take ownership from {APP}"):
            adopt(managed, core, run=2, fence=True)


def test_prisma_is_stopped_at_its_own_ledger(target: Any, core: Any) -> None:
    legacy.as_ours(target, (BASE,))
    legacy.prisma_ledger(target, ["20251002163331_test_migration"])
    assert adopt(target, core, fence=True, login=APP)["fence"] == ["trigger"]
    row = "INSERT INTO _prisma_migrations (id, checksum, migration_name) VALUES ('1', 'x', 'next')"
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match=REFUSED.format("Prisma")):
        engine.do(target, row)
    assert adopt(target, core, run=2, fence=False)["fence"] == ["trigger"]
    engine.do(target, row)


def test_a_fence_that_would_shut_us_out_is_refused_before_anything(target: Any, core: Any) -> None:
    legacy.as_ours(target, (BASE,))
    with pytest.raises(PgopsError, match="nothing to fence"):
        adopt(target, core, fence=True)
    legacy.sequelize_ledger(target, [legacy.FILES[BASE]])
    with pytest.raises(PgopsError, match="would shut out white_cross_owner, which this tool uses itself"):
        adopt(target, core, fence=True)
    with pytest.raises(PgopsError, match="There is no role nobody_of_that_name"):
        adopt(target, core, fence=True, login="nobody_of_that_name")
    assert engine.rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []


def test_a_table_that_only_has_the_name_is_no_ledger(target: Any, core: Any) -> None:
    engine.do(target, "CREATE TABLE _prisma_migrations (id integer)")
    found = adoption.assess(target, core, adoption.Request(force=target.database), engine.way())
    assert found.ledgers == []
    assert found.strangers == ["table public._prisma_migrations"]
