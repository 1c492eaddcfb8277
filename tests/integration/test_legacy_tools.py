# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Mirror and fence against the real command lines of Sequelize and Prisma, which `npm ci` brings into `.local/`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import adoption, catalog, legacy_ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import legacy_names
from support import engine, legacy, legacy_tools
from support.legacy_tools import Prisma, Sequelize
from support.server import APP, OWNER
from support.site import Playbook

pytestmark = pytest.mark.slow

BASE, HEALTH, TABLES, SETTINGS = legacy.FILES
NAMES = legacy_names.read_names(legacy.SQL)
FILES: dict[str, str] = NAMES["sequelize"]
REFUSED = "This database is migrated by whitecross.pgops now, so a migration by {} is refused. Use ansible-playbook migrate.yml"


@pytest.fixture(scope="session")
def modules() -> Path:
    return legacy_tools.install()


@pytest.fixture(scope="module")
def chain() -> dict[str, dict[str, Any]]:
    return {migration["version"]: migration for migration in legacy.tree()}


def statements(migration: dict[str, Any], way: str = "up") -> list[str]:
    """What a version sends, without comments, which the tools before did not write."""
    steps = [step for step in migration["steps"] if step["kind"] == "sql"]
    texts = [str(one["sql"]) for step in steps for one in step.get(way) or []]
    return [text for text in texts if not text.lstrip().upper().startswith("COMMENT ON")]


@pytest.fixture
def sequelize(modules: Path, server: Any, database: str, tmp_path: Path) -> Sequelize:
    """A project of Sequelize's, on a database where the application's login may do what it could there."""
    server.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {APP}", database=database)
    return Sequelize(tmp_path / "their project", modules, server, database)


@pytest.fixture
def hand_over(server: Any, target: Any) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Their login owns all that it made. Adoption is refused and names the statement that helps, until it is not refused."""

    def do_as_told(tree: list[dict[str, Any]]) -> None:
        for refused in (r"may not read public.\w+.*: (GRANT .*?)\. Nothing", f"they belong to {APP}.*?: (GRANT .*?);"):
            with pytest.raises(PgopsError, match=refused) as caught:
                adoption.adopt(target, tree, adoption.Request(NAMES), engine.way())
            (statement,) = re.findall(refused, caught.value.message)
            server.execute(statement, database=target.database)

    yield do_as_told
    server.execute(f"REVOKE {APP} FROM {OWNER}")


def adopt(target: Any, tree: list[dict[str, Any]], run: int = 1, **asked: Any) -> dict[str, Any]:
    request = adoption.Request(NAMES, **asked)
    return adoption.adopt(target, tree, request, engine.way(f"20260101T000000Z-00000{run}"))


def state(target: Any) -> tuple[str, dict[str, int]]:
    """The catalog's fingerprint, and the rows of each table."""
    conn = connect(target, application_name="test")
    try:
        found = catalog.inventory(conn)
        tables = [key.removeprefix("table ") for key in found if key.startswith("table ")]
        rows = {name: engine.rows(target, f"SELECT count(*) AS n FROM {name}")[0]["n"] for name in tables}
        return catalog.fingerprint(found), rows
    finally:
        conn.close()


def as_app(target: Any, *texts: str) -> None:
    engine.do(target.with_(user=APP, owner=None), *texts)


# ---------------------------------------------------------------------------------------------------------------- fence

NEXT = "20251120000000-next.js"
UNWANTED = {
    "a table": "    await query.createTable('lockers', { id: { type: Types.INTEGER, primaryKey: true } });",
    "a table with an enum": "    await query.createTable('lockers', { size: { type: Types.ENUM('S', 'L') } });",
    "rows and a column, in a transaction": """
    await query.sequelize.transaction(async (transaction) => {
      await query.bulkInsert('districts', [{ name: 'B', code: 'B' }], { transaction });
      await query.addColumn('districts', 'motto', { type: Types.TEXT }, { transaction });
    });""",
    "a column": "    await query.addColumn('districts', 'motto', { type: Types.TEXT });",
    "a column less": "    await query.removeColumn('districts', 'city');",
    "an index": "    await query.addIndex('districts', ['name'], { name: 'districts_by_name' });",
    "an index, concurrently": "    await query.addIndex('districts', ['name'], { name: 'by_name', concurrently: true });",
    "a table less": "    await query.dropTable('allergies');",
    "another name": "    await query.renameTable('districts', 'counties');",
    "a value of an enum": """    await query.sequelize.query('ALTER TYPE "UserRole" ADD VALUE \\'JANITOR\\'');""",
    "a function": "    await query.sequelize.query('CREATE FUNCTION one() RETURNS integer LANGUAGE sql RETURN 1');",
    "nothing": "",
}

# What an application does beside reading and writing rows.
APPLICATION = (
    "INSERT INTO sessions (token) VALUES ('a')",
    "UPDATE sessions SET token = 'b' RETURNING id",
    "TRUNCATE sessions RESTART IDENTITY",
    "CREATE TEMPORARY TABLE mine (id serial PRIMARY KEY, grade text)",
    "CREATE INDEX ON mine (grade)",
    "ALTER TABLE mine ADD COLUMN n bigint",
    "INSERT INTO mine (grade, n) SELECT grade, count(*) FROM students GROUP BY grade",
    "CREATE TEMPORARY VIEW more AS SELECT * FROM mine",
    "SELECT * INTO TEMPORARY other FROM mine",
    "DROP VIEW more",
    "DROP TABLE mine, other",
    "REFRESH MATERIALIZED VIEW per_grade",
    "REFRESH MATERIALIZED VIEW CONCURRENTLY per_grade",
    "ANALYZE sessions",
)


@pytest.fixture
def taken_over(sequelize: Sequelize, hand_over: Any, target: Any, chain: Any) -> list[dict[str, Any]]:
    """Two versions, run by Sequelize and handed over; the tree that adopts them."""
    for version in (BASE, HEALTH):
        sequelize.add_sql(FILES[version], statements(chain[version]), statements(chain[version], "down"))
    migrated = sequelize("db:migrate")
    assert migrated.returncode == 0, migrated.stdout
    tree = [chain[BASE], chain[HEALTH]]
    hand_over(tree)
    as_app(target, "INSERT INTO districts (name, code) VALUES ('A', 'A')")
    return tree


def test_behind_the_event_trigger_their_migrations_fail_with_the_reason_and_leave_nothing(
    sequelize: Sequelize, target: Any, taken_over: Any
) -> None:
    assert adopt(target, taken_over, fence=True, login=APP)["fence"] == ["event trigger", "trigger"]
    before = state(target)
    wrong = {}
    for what, up in UNWANTED.items():
        sequelize.add(NEXT, up)
        done = sequelize("db:migrate")
        if done.returncode == 0 or REFUSED.format("Sequelize") not in done.stdout or state(target) != before:
            wrong[what] = done.stdout
    assert wrong == {}


def test_behind_the_fence_a_migration_of_rows_fails_at_its_row_and_its_rows_stay(
    sequelize: Sequelize, target: Any, taken_over: Any
) -> None:
    adopt(target, taken_over, fence=True, login=APP)
    sequelize.add(NEXT, "    await query.bulkInsert('districts', [{ name: 'B', code: 'B' }]);")
    done = sequelize("db:migrate")
    assert (done.returncode, REFUSED.format("Sequelize") in done.stdout) == (1, True), done.stdout
    assert sequelize.status()[NEXT] == "down"
    # It has committed them before anything tells it from the application; docs/adopt.md says so.
    assert engine.rows(target, "SELECT 1 FROM districts WHERE code = 'B'")


def test_behind_the_fence_their_undo_fails_and_their_status_goes_on(
    sequelize: Sequelize, target: Any, taken_over: Any
) -> None:
    adopt(target, taken_over, fence=True, login=APP)
    before, told = state(target), sequelize.status()
    for down in ("    await query.dropTable('students');", ""):
        sequelize.add(FILES[HEALTH], "", down)
        done = sequelize("db:migrate:undo")
        assert (done.returncode, REFUSED.format("Sequelize") in done.stdout) == (1, True), done.stdout
    assert state(target) == before
    assert sequelize.status() == told
    assert sequelize("db:migrate").returncode == 0  # nothing is pending


def test_behind_the_fence_the_application_goes_on(
    sequelize: Sequelize, server: Any, target: Any, taken_over: Any
) -> None:
    as_app(
        target,
        "CREATE MATERIALIZED VIEW per_grade AS SELECT grade, count(*) AS n FROM students GROUP BY grade",
        "CREATE UNIQUE INDEX ON per_grade (grade)",
        "CREATE TABLE sessions (id serial PRIMARY KEY, token text)",
    )
    adopt(target, taken_over, fence=True, login=APP)
    as_app(target, *APPLICATION)


@pytest.fixture
def without_superuser(server: Any, target: Any, taken_over: Any, tmp_path: Path) -> Iterator[Any]:
    with legacy.managed(server, target, tmp_path, OWNER, APP) as found:
        yield found


def test_without_a_superuser_their_migrations_fail_for_want_of_rights_and_leave_nothing(
    sequelize: Sequelize, server: Any, target: Any, taken_over: Any, without_superuser: Any
) -> None:
    server.execute(f"ALTER DATABASE {target.database} OWNER TO {APP}")
    as_app(
        target,
        "CREATE MATERIALIZED VIEW per_grade AS SELECT grade, count(*) AS n FROM students GROUP BY grade",
        "CREATE UNIQUE INDEX ON per_grade (grade)",
        "CREATE TABLE sessions (id serial PRIMARY KEY, token text)",
    )
    # The tables belong to the owner now; it goes on without being a member of the old login.
    assert adopt(without_superuser, taken_over, fence=True, login=APP)["fence"] == ["ownership and CREATE", "trigger"]
    server.execute(f"REVOKE {APP} FROM {OWNER}")
    before = state(target)
    # PostgreSQL's own words: without a superuser nothing can speak before the command is refused.
    reasons = ("permission denied for schema public", "must be owner of", REFUSED.format("Sequelize"))
    wrong = {}
    for what, up in UNWANTED.items():
        sequelize.add(NEXT, up)
        done = sequelize("db:migrate")
        if done.returncode == 0 or not any(reason in done.stdout for reason in reasons) or state(target) != before:
            wrong[what] = done.stdout
    assert wrong == {}
    assert sequelize.status()[FILES[HEALTH]] == "up"
    as_app(target, *(text.replace(" RESTART IDENTITY", "") for text in APPLICATION))
    assert adopt(without_superuser, taken_over, run=2, fence=True, login=APP)["fence"] == []


# --------------------------------------------------------------------------------------------------------------- mirror


SETTINGS_TABLE = """
    await query.createTable('system_configurations', {
      id: { type: Types.UUID, primaryKey: true, defaultValue: Types.literal('gen_random_uuid()') },
      key: { type: Types.STRING(200), allowNull: false, unique: true },
      value: { type: Types.TEXT, allowNull: false },
      category: { type: Types.ENUM('GENERAL', 'SECURITY', 'NOTIFICATION'), allowNull: false, defaultValue: 'GENERAL' },
      description: { type: Types.TEXT },
      isActive: { type: Types.BOOLEAN, allowNull: false, defaultValue: true },
      displayName: { type: Types.STRING(200) },
      validationRules: { type: Types.JSONB, defaultValue: {} },
      lastModifiedBy: {
        type: Types.UUID,
        references: { model: 'users', key: 'id' },
        onUpdate: 'CASCADE',
        onDelete: 'SET NULL',
      },
      createdAt: { type: Types.DATE, allowNull: false, defaultValue: Types.literal('CURRENT_TIMESTAMP') },
      updatedAt: { type: Types.DATE, allowNull: false, defaultValue: Types.literal('CURRENT_TIMESTAMP') },
    });
    await query.addIndex('system_configurations', ['category']);"""


def test_their_status_tells_the_truth_through_adopt_migrate_and_rollback(
    sequelize: Sequelize, hand_over: Any, playbook: Playbook, target: Any, chain: Any
) -> None:
    playbook.copy_sql()
    for version in legacy.FIRST_THREE:
        sequelize.add_sql(FILES[version], statements(chain[version]))
    sequelize.add(FILES[SETTINGS], SETTINGS_TABLE)
    done = sequelize("db:migrate")
    assert done.returncode == 0, done.stdout
    for version in set(FILES) - set(legacy.FILES):
        sequelize.add(FILES[version], "    await query.createTable('never', { id: { type: Types.INTEGER } });")
    applied = set(legacy.FILES)

    def told() -> set[str]:
        ups = {name for name, state in sequelize.status().items() if state == "up"}
        return {version for version, name in FILES.items() if name in ups}

    assert told() == applied
    hand_over(list(chain.values()))
    asked = {"adopt_mirror_ledger": "sequelize", "adopt_fence_legacy": True, "adopt_legacy_login": APP}
    adopted = playbook("adopt.yml", **asked)
    assert adopted.rc == 0, adopted.output
    # What 20251003162519 adds is in the tree's base schema already: by the catalog it is there, whatever their ledger said.
    applied.add("20251003162519")
    assert told() == applied
    migrated = playbook("migrate.yml", migrate_target="20251009013303")
    assert migrated.rc == 0, migrated.output
    assert told() == applied | {"20251009011130", "20251009013303"}
    back = playbook("rollback.yml", rollback_keep="20251009011130", rollback_confirm=target.database)
    assert back.rc == 0, back.output
    assert told() == applied | {"20251009011130"}
    accident = sequelize("db:migrate")
    assert accident.returncode == 1
    assert REFUSED.format("Sequelize") in accident.stdout
    assert told() == applied | {"20251009011130"}


# --------------------------------------------------------------------------------------------------------------- prisma

PRISMA_FIRST = NAMES["prisma"][BASE]
PENDING = "20251120000000_next"


@pytest.fixture
def prisma(modules: Path, server: Any, database: str, tmp_path: Path, chain: Any) -> Prisma:
    """A project of Prisma's with one migration that is applied, on a database with uuid ids."""
    server.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {APP}", database=database)
    project = Prisma(tmp_path / "their project", modules, server, database)
    project.add(
        PRISMA_FIRST, ";\n".join(text for version in (BASE, HEALTH) for text in statements(chain[version])) + ";"
    )
    deployed = project("migrate", "deploy")
    assert deployed.returncode == 0, deployed.stdout
    return project


def test_a_migration_that_prisma_failed_at_is_read_as_it_says(prisma: Prisma, server: Any, target: Any) -> None:
    server.execute(f"GRANT {APP} TO {OWNER}")
    try:
        prisma.add(PENDING, 'CREATE INDEX ON students ("noSuchColumn");')
        failed = prisma("migrate", "deploy")
        assert failed.returncode == 1
        # Over a driver adapter Prisma writes down no code of the error.
        assert ledger_of(target) == {PRISMA_FIRST: "applied", PENDING: "failed"}
    finally:
        server.execute(f"REVOKE {APP} FROM {OWNER}")


def ledger_of(target: Any) -> dict[str, str]:
    conn = connect(target, application_name="test")
    try:
        (found,) = legacy_ledger.find(conn)
        return {entry.name: str(entry) for entry in found.entries}
    finally:
        conn.close()


@pytest.mark.parametrize("superuser", [True, False])
def test_behind_the_fence_deploy_fails_with_the_reason_and_leaves_nothing(
    prisma: Prisma, hand_over: Any, server: Any, target: Any, chain: Any, tmp_path: Path, superuser: bool
) -> None:
    tree = [chain[BASE], chain[HEALTH]]
    hand_over(tree)
    with legacy.managed(server, target, tmp_path, OWNER, APP) as managed:
        assert adopt(target if superuser else managed, tree, fence=True)["fence"] == ["trigger"]
    before = state(target)
    assert prisma("migrate", "deploy").returncode == 0  # nothing is pending
    prisma.add(PENDING, "CREATE TABLE lockers (id integer PRIMARY KEY);")
    deployed = prisma("migrate", "deploy")
    assert deployed.returncode == 1
    assert REFUSED.format("Prisma") in " ".join(deployed.stdout.split())
    assert state(target) == before
    status = prisma("migrate", "status").stdout
    assert f"not yet been applied:\n{PENDING}" in status
    as_app(target, "INSERT INTO districts (name, code) VALUES ('A', 'A')")
