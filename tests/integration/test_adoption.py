# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Taking over a database that Sequelize or Prisma migrated: what is found, what is recorded, what is repaired."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    adoption,
    catalog,
    connection,
    ledger,
    migrate,
    preview,
    verify,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils import legacy_names, migration_lint, migration_tree
from support import engine, legacy
from support.tree import TestTree

BASE, HEALTH, CRITICAL, SETTINGS, INCIDENTS = (
    "20250103000000",
    "20250103000001",
    "20250103000002",
    "20250103000003",
    "20251103204744",
)
CORE = (BASE, HEALTH, CRITICAL, SETTINGS)
NAMES = legacy_names.read_names(legacy.SQL)
EVERY_MAJOR = pytest.mark.majors(15, 16, 17, 18, slow=(15,))


@pytest.fixture(scope="module")
def chain() -> list[dict[str, Any]]:
    return legacy.tree()


@pytest.fixture(scope="module")
def core(chain: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The core and one version after it: a short tree is compared sooner."""
    return [migration for migration in chain if migration["version"] in (*CORE, INCIDENTS)]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A tree of this test's own, with the versions of `core`."""
    folder = tmp_path / "sql"
    for version in (*CORE, INCIDENTS):
        (source,) = (legacy.SQL / "migrations").glob(f"{version}_*")
        shutil.copytree(source, folder / "migrations" / source.name)
    return folder


def look(target: Any, tree: list[dict[str, Any]], **asked: Any) -> adoption.Assessment:
    return adoption.assess(target, tree, adoption.Request(NAMES, **asked), engine.way())


def adopt(target: Any, tree: list[dict[str, Any]], run: int = 1, **asked: Any) -> dict[str, Any]:
    return adoption.adopt(target, tree, adoption.Request(NAMES, **asked), engine.way(f"20260101T000000Z-00000{run}"))


def actions(found: adoption.Assessment) -> dict[str, str]:
    return {verdict.version: verdict.action for verdict in found.verdicts}


def differences(found: adoption.Assessment) -> dict[str, str | None]:
    return {item["object"]: item["repair"] for verdict in found.verdicts for item in verdict.differences}


def inventory(target: Any) -> catalog.Inventory:
    with closing(connection.connect(target, application_name="test")) as conn:
        return catalog.inventory(conn)


def write(folder: Path, repairs: list[dict[str, Any]]) -> None:
    for repair in repairs:
        path = folder / "migrations" / f"{repair['version']}_{repair['name']}"
        path.mkdir()
        for name, text in repair["files"].items():
            (path / name).write_text(text, encoding="utf-8")


def carry(target: Any, folder: Path, tree: list[dict[str, Any]], **asked: Any) -> dict[str, Any]:
    """Adopt, write the repair, apply what is pending and hold the result against the tree."""
    found = adopt(target, tree, **asked)
    write(folder, [repair for repair in found["repairs"] if not repair["exists"]])
    assert migration_lint.lint(migration_tree.read_tree(folder), {}) == []
    migrate.apply(target, legacy.tree(folder), Selection(), engine.way("20260101T000000Z-000009"))
    assert verify.verify({target.database: target})[target.database]["passed"]
    return found


# ------------------------------------------------------------------------------------------------------ what is there


@EVERY_MAJOR
def test_what_is_wholly_there_is_recorded_with_its_fingerprint_and_audited(target: Any, core: Any) -> None:
    legacy.as_ours(target, CORE)
    legacy.sequelize_ledger(target, [legacy.FILES[version] for version in CORE])
    found = adopt(target, core)
    assert (found["recorded"], found["repairs"], found["pending"]) == (list(CORE), [], [INCIDENTS])
    rows = engine.rows(
        target,
        "SELECT version, state, applied_by, adopted ->> 'their_ledger' AS word, length(adopted ->> 'fingerprint') AS n "
        "FROM pgops.migration ORDER BY 1",
    )
    assert [tuple(row.values()) for row in rows] == [(version, "applied", "tester", "applied", 64) for version in CORE]
    audit = engine.rows(target, "SELECT version, detail FROM pgops.audit WHERE event = 'adopted' ORDER BY seq")
    assert [row["version"] for row in audit] == list(CORE)
    assert audit[0]["detail"]["who"] == "tester"
    with closing(connection.connect(target, application_name="test")) as conn:
        assert ledger.broken_link(ledger.audit_rows(conn)) is None


def test_a_second_adoption_changes_nothing(target: Any, core: Any) -> None:
    legacy.as_ours(target, CORE)
    adopt(target, core)
    before = engine.rows(target, "SELECT * FROM pgops.audit ORDER BY seq")
    again = adopt(target, core, run=2)
    assert (again["recorded"], again["repairs"]) == ([], [])
    assert engine.rows(target, "SELECT * FROM pgops.audit ORDER BY seq") == before
    assert engine.rows(target, "SELECT count(*) AS n FROM pgops.adoption") == [{"n": 1}]


def test_an_empty_database_has_nothing_to_adopt(target: Any, core: Any) -> None:
    found = adopt(target, core)
    assert (found["recorded"], found["era"]) == ([], "none")
    assert inventory(target).keys() == {"schema public", "extension plpgsql"} & inventory(target).keys()
    assert engine.rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []


def test_the_catalog_decides_and_not_the_other_ledger(target: Any, core: Any) -> None:
    legacy.as_ours(target, (BASE, HEALTH))
    # It claims a version that is not there and knows nothing of two that are.
    legacy.sequelize_ledger(target, [legacy.FILES[SETTINGS]])
    found = look(target, core)
    words = {verdict.version: (verdict.ledger, verdict.catalog, verdict.action) for verdict in found.verdicts}
    assert words[BASE] == ("", adoption.WHOLLY, adoption.ADOPT)
    assert words[SETTINGS] == ("applied", adoption.NOT, adoption.PENDING)


def test_the_old_ledger_stays_as_it_was(target: Any, core: Any) -> None:
    legacy.sequelize(target, record_types=False)
    before = engine.rows(target, 'SELECT name, xmin::text FROM public."SequelizeMeta" ORDER BY 1')
    adopt(target, core)
    assert engine.rows(target, 'SELECT name, xmin::text FROM public."SequelizeMeta" ORDER BY 1') == before


@pytest.mark.slow
@EVERY_MAJOR
def test_R2_7_a_database_with_the_first_three_is_carried_to_the_end_and_keeps_its_rows(
    target: Any, chain: Any, tmp_path: Path
) -> None:
    legacy.sequelize(target, legacy.FIRST_THREE)
    engine.do(
        target,
        "INSERT INTO users (email, password, \"firstName\", \"lastName\", role) VALUES ('n@x', 'x', 'N', 'N', 'NURSE')",
    )
    shutil.copytree(legacy.SQL, tmp_path / "sql")
    found = carry(target, tmp_path / "sql", chain)
    assert found["recorded"][:3] == list(legacy.FIRST_THREE)
    # The missing tables that stopped the other tool are pending versions of ours.
    assert {SETTINGS, "20250104000005"} <= set(found["pending"])
    tables = {key for key in inventory(target) if key.startswith("table ")}
    assert {"table public.system_configurations", "table public.inventory_items"} <= tables
    assert engine.rows(target, "SELECT role::text AS role FROM users") == [{"role": "NURSE"}]


# ------------------------------------------------------------------------------------------------------------- repairs


@EVERY_MAJOR
def test_columns_on_twin_types_get_the_named_type_without_a_rewrite(target: Any, core: Any, work: Path) -> None:
    legacy.sequelize(target, record_types=False)
    before = engine.rows(
        target, "SELECT relname, relfilenode FROM pg_class WHERE relname IN ('users', 'incident_reports')"
    )
    carry(target, work, core)
    types = [key for key in inventory(target) if key.startswith("type ")]
    assert not [key for key in types if "enum_" in key]
    assert inventory(target)["column public.users.role"]["type"] == 'public."UserRole"'
    # SAFETY, which a pending version adds, reaches the column.
    assert "SAFETY" in inventory(target)['type public."IncidentType"']["labels"]
    after = engine.rows(
        target, "SELECT relname, relfilenode FROM pg_class WHERE relname IN ('users', 'incident_reports')"
    )
    assert after == before


Damage = Callable[[Any, Any], None]


def drop_index(target: Any, server: Any) -> None:
    engine.do(target, "DROP INDEX students_name_idx")


def drop_partial_index(target: Any, server: Any) -> None:
    """A version's SQL declares it: there, in a repair and in PostgreSQL its predicate has three spellings."""
    engine.do(target, "DROP INDEX system_configurations_category_active_idx")


def invalidate_index(target: Any, server: Any) -> None:
    server.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'public.students_name_idx'::regclass",
        database=target.database,
    )


def drop_label(target: Any, server: Any) -> None:
    legacy.make_twin(target, "users", "role", "other", "UserRole")
    engine.do(
        target,
        'DROP TYPE public."UserRole"',
        "CREATE TYPE public.\"UserRole\" AS ENUM ('ADMIN', 'SCHOOL_ADMIN', 'DISTRICT_ADMIN', 'VIEWER')",
        "ALTER TABLE users ALTER COLUMN role DROP DEFAULT",
        'ALTER TABLE users ALTER COLUMN role TYPE public."UserRole" USING role::text::public."UserRole"',
        "ALTER TABLE users ALTER COLUMN role SET DEFAULT 'ADMIN'",
        "DROP TYPE public.other",
    )


def drop_table(target: Any, server: Any) -> None:
    engine.do(target, "DROP TABLE emergency_contacts")


def drop_column(target: Any, server: Any) -> None:
    engine.do(target, 'ALTER TABLE users DROP COLUMN "mustChangePassword"')


def drop_json_column(target: Any, server: Any) -> None:
    """Lint wants jsonb on a table in use; the repair makes what the tree declares."""
    engine.do(target, "ALTER TABLE health_records DROP COLUMN attachments")


def drop_foreign_key(target: Any, server: Any) -> None:
    engine.do(target, 'ALTER TABLE students DROP CONSTRAINT "students_nurseId_fkey"')


def not_validated(target: Any, server: Any) -> None:
    engine.do(
        target,
        'ALTER TABLE students DROP CONSTRAINT "students_nurseId_fkey", ADD CONSTRAINT "students_nurseId_fkey" '
        'FOREIGN KEY ("nurseId") REFERENCES users (id) ON UPDATE CASCADE ON DELETE SET NULL NOT VALID',
    )


def other_default(target: Any, server: Any) -> None:
    engine.do(target, "ALTER TABLE users ALTER COLUMN role SET DEFAULT 'NURSE'")


def shorter_text(target: Any, server: Any) -> None:
    engine.do(target, "ALTER TABLE students ALTER COLUMN photo TYPE varchar(255)")


def missing_rows(target: Any, server: Any) -> None:
    engine.do(target, "DELETE FROM system_configurations WHERE key = 'MAX_LOGIN_ATTEMPTS'")


def text_key(target: Any, server: Any) -> None:
    """A foreign key column of type text that holds uuids, so without its foreign key."""
    engine.do(
        target,
        'ALTER TABLE system_configurations DROP CONSTRAINT "system_configurations_lastModifiedBy_fkey"',
        'ALTER TABLE system_configurations ALTER COLUMN "lastModifiedBy" TYPE text',
        'INSERT INTO users (id, email, password, "firstName", "lastName") VALUES '
        "('3f2504e0-4f89-41d3-9a0c-0305e82c3301', 'n@x', 'x', 'N', 'N')",
        "UPDATE system_configurations SET \"lastModifiedBy\" = '3f2504e0-4f89-41d3-9a0c-0305e82c3301'",
    )


def no_comment(target: Any, server: Any) -> None:
    engine.do(target, "COMMENT ON COLUMN students.grade IS NULL")


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (drop_index, {"index public.students_name_idx": "built concurrently"}),
        (invalidate_index, {"index public.students_name_idx": "dropped and built again, it is INVALID"}),
        pytest.param(drop_label, {'type public."UserRole"': "2 values added"}, marks=pytest.mark.slow),
        (drop_table, {"table public.emergency_contacts": "created"}),
        pytest.param(drop_column, {'column public.users."mustChangePassword"': "added"}, marks=pytest.mark.slow),
        pytest.param(drop_json_column, {"column public.health_records.attachments": "added"}, marks=pytest.mark.slow),
        pytest.param(
            drop_foreign_key,
            {'constraint public.students."students_nurseId_fkey"': "added; validated"},
            marks=pytest.mark.slow,
        ),
        (not_validated, {'constraint public.students."students_nurseId_fkey"': "validated"}),
        pytest.param(other_default, {"column public.users.role": "default set"}, marks=pytest.mark.slow),
        pytest.param(shorter_text, {"column public.students.photo": "made longer"}, marks=pytest.mark.slow),
        (missing_rows, {"setting MAX_LOGIN_ATTEMPTS": "its rows are inserted"}),
        pytest.param(
            text_key,
            {
                'column public.system_configurations."lastModifiedBy"': "converted from text, 12 rows",
                'constraint public.system_configurations."system_configurations_lastModifiedBy_fkey"': "added; validated",
            },
            marks=pytest.mark.slow,
        ),
        pytest.param(
            drop_partial_index,
            {"index public.system_configurations_category_active_idx": "built concurrently"},
            marks=pytest.mark.slow,
        ),
        pytest.param(no_comment, {"1 comment": "added"}, marks=pytest.mark.slow),
    ],
)
def test_what_is_certain_is_repaired_and_equals_the_tree(
    damage: Damage, told: dict[str, str], target: Any, server: Any, core: Any, work: Path
) -> None:
    legacy.as_ours(target, CORE)
    whole = inventory(target)
    damage(target, server)
    found = look(target, core)
    assert found.refused == []
    assert told.items() <= differences(found).items()
    found_again = carry(target, work, [migration for migration in core if migration["version"] != INCIDENTS])
    assert found_again["recorded"] == list(CORE)
    engine_made = {key: value for key, value in inventory(target).items() if key in whole}
    ignored = ("owner", "acl")
    wanted = {key: value for key, value in whole.items() if "incident_reports" not in key and "IncidentType" not in key}
    assert (
        catalog.compare(wanted, {key: engine_made[key] for key in wanted if key in engine_made}, ignore=ignored) == []
    )


def test_a_repair_does_nothing_in_a_database_that_is_whole(
    target: Any, server: Any, database: str, core: Any, work: Path
) -> None:
    legacy.sequelize(target, record_types=False)
    drop_column(target, server)
    write(work, adopt(target, core)["repairs"])
    server.create_database(f"{database}_new")
    fresh = target.with_(database=f"{database}_new")
    migrate.apply(fresh, core[:4], Selection(), engine.way())
    before = inventory(fresh)
    repair = [migration for migration in legacy.tree(work) if "repair" in migration["name"]]
    done = migrate.apply(fresh, [*core[:4], *repair], Selection(), engine.way("20260101T000000Z-000002"))
    assert [item["version"] for item in done["applied"]] == ["20250103000004"]
    assert catalog.compare(before, inventory(fresh), ignore=()) == []
    # Nor does its way back take away what it did not make.
    migrate.revert(fresh, Reverts(), engine.way("20260101T000000Z-000003"))
    assert catalog.compare(before, inventory(fresh), ignore=()) == []


@pytest.mark.slow
def test_the_same_repair_serves_the_next_database(
    target: Any, server: Any, database: str, core: Any, work: Path
) -> None:
    legacy.sequelize(target, record_types=False)
    write(work, adopt(target, core)["repairs"])
    server.create_database(f"{database}_two")
    second = target.with_(database=f"{database}_two")
    legacy.sequelize(second, record_types=False)
    found = look(second, legacy.tree(work))
    assert [(repair["version"], repair["exists"]) for repair in found.repairs] == [("20250103000004", True)]
    assert found.pending == ["20250103000004", INCIDENTS]


FURTHER = "20260101000000"


def test_a_repair_stops_no_database_that_is_further_on_and_changes_nothing_there(
    target: Any, server: Any, database: str, core: Any, work: Path
) -> None:
    # A later version changes what the repair sets, so that to run it there would do harm.
    TestTree(work).add_sql(
        FURTHER,
        "grade",
        "COMMENT ON COLUMN public.students.grade IS 'PHI: where a pupil is in school';",
        "COMMENT ON COLUMN public.students.grade IS 'PHI';",
    )
    server.create_database(f"{database}_staging")
    staging = target.with_(database=f"{database}_staging")
    migrate.apply(staging, legacy.tree(work), Selection(), engine.way())
    before = inventory(staging)

    legacy.sequelize(target, record_types=False)
    engine.do(target, "DROP INDEX students_name_idx")
    carry(target, work, legacy.tree(work))

    tree = legacy.tree(work)
    (shown,) = pending(staging, tree)
    assert (shown["version"], shown["unneeded"]) == ("20250103000004", True)
    done = migrate.apply(staging, tree, Selection(), engine.way("20260101T000000Z-000003"))
    assert [item["version"] for item in done["applied"]] == ["20250103000004"]
    assert "recorded and not run" in done["applied"][0]["notes"][0]
    assert verify.verify({staging.database: staging})[staging.database]["passed"]
    assert catalog.compare(before, inventory(staging), ignore=()) == []
    # Nor does its way back.
    migrate.revert(staging, Reverts(version="20250103000004"), engine.way("20260101T000000Z-000004"))
    assert catalog.compare(before, inventory(staging), ignore=()) == []


def pending(target: Any, tree: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = preview.preview(target, tree, Selection())["pending"]
    return found


def test_a_new_version_that_calls_itself_no_repair_is_still_a_newcomer(target: Any, work: Path) -> None:
    migrate.apply(target, legacy.tree(work), Selection(), engine.way())
    TestTree(work).add_sql(
        "20250103000004", "repair_adopted_schema", "CREATE TABLE public.late (id integer);", "DROP TABLE public.late;"
    )
    with pytest.raises(PgopsError, match="sorts before version"):
        migrate.apply(target, legacy.tree(work), Selection(), engine.way("20260101T000000Z-000002"))


def test_the_repair_of_another_database_is_no_repair_of_this_one(
    target: Any, server: Any, database: str, core: Any, work: Path
) -> None:
    legacy.as_ours(target, CORE)
    drop_index(target, server)
    write(work, adopt(target, core)["repairs"])
    server.create_database(f"{database}_two")
    second = target.with_(database=f"{database}_two")
    legacy.as_ours(second, CORE)
    drop_column(second, server)
    found = look(second, legacy.tree(work))
    assert actions(found)["20250103000004"] == adoption.UNNEEDED
    assert found.pending == ["20250103000005", INCIDENTS]
    found_again = carry(second, work, legacy.tree(work))
    assert found_again["recorded"] == list(CORE)
    assert engine.state(second, "20250103000004")["state"] == "applied"


ODD = ("enum_o'neil", "enum_{{ x }}", "enum_{% endraw %}{#", "enum_$repair$", "enum_\\", "enum_\"'")


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ODD)
def test_a_twin_of_any_name_is_repaired(name: str, target: Any, core: Any, work: Path) -> None:
    legacy.sequelize(target, (BASE,), record_types=False)
    quoted = '"' + name.replace('"', '""') + '"'
    engine.do(target, f"ALTER TYPE public.enum_contacts_type RENAME TO {quoted}")
    carry(target, work, core)
    assert inventory(target)["column public.contacts.type"]["type"] == 'public."ContactType"'


def test_an_enum_without_values_gets_them(target: Any, core: Any, work: Path) -> None:
    legacy.sequelize(target, (BASE,), record_types=False)
    engine.do(
        target,
        "ALTER TABLE contacts DROP COLUMN type",
        "DROP TYPE public.enum_contacts_type",
        'DROP TYPE public."ContactType"',
        'CREATE TYPE public."ContactType" AS ENUM ()',
        'ALTER TABLE contacts ADD COLUMN type public."ContactType" NOT NULL',
    )
    found = carry(target, work, core)
    assert found["recorded"][:1] == [BASE]
    assert inventory(target)['type public."ContactType"']["labels"][0] == "GUARDIAN"


@pytest.mark.parametrize("damage", ["DROP TRIGGER seen ON pupils", "ALTER TABLE pupils ENABLE TRIGGER seen"])
def test_a_trigger_is_repaired_with_what_makes_it_fire(damage: str, target: Any, tmp_path: Path) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(
        BASE,
        "pupils",
        "CREATE TABLE public.pupils (id integer PRIMARY KEY);\n"
        "CREATE TRIGGER seen AFTER INSERT ON public.pupils FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();\n"
        "ALTER TABLE public.pupils ENABLE ALWAYS TRIGGER seen;",
        "DROP TABLE public.pupils;",
    )
    migrate.apply(target, tree.render(), Selection(), engine.way())
    engine.do(target, "DROP SCHEMA pgops CASCADE", damage)
    carry(target, tree.folder, tree.render())
    assert inventory(target)["trigger public.pupils.seen"]["enabled"] == "always"


def test_a_later_repair_goes_on_from_what_an_earlier_one_makes(target: Any, tmp_path: Path) -> None:
    tree = TestTree(tmp_path / "sql")
    table = "CREATE TABLE public.{} (id integer PRIMARY KEY, grade text DEFAULT 'K');"
    tree.add_sql(BASE, "pupils", table.format("pupils"), "DROP TABLE public.pupils;")
    tree.add_sql(CRITICAL, "visitors", table.format("visitors"), "DROP TABLE public.visitors;")
    other = "ALTER TABLE public.pupils ALTER COLUMN grade SET DEFAULT '{}';"
    tree.add_sql(
        INCIDENTS, "others", table.format("others") + other.format("1"), other.format("K") + "DROP TABLE public.others;"
    )
    engine.do(target, table.format("pupils"), table.format("others"), "ALTER TABLE pupils DROP COLUMN grade")
    found = carry(target, tree.folder, tree.render())
    assert [repair["version"] for repair in found["repairs"]] == ["20250103000001", "20251103204745"]
    assert "'1'" in inventory(target)["column public.pupils.grade"]["default"]


def test_a_repair_that_comes_too_late_for_a_version_in_between_is_refused(target: Any, core: Any, work: Path) -> None:
    """No number is free between these versions, so the second would use the type before it is put right."""
    tree = TestTree(work)
    tree.add_sql(
        "20250103000004",
        "use_the_type",
        'CREATE TABLE public.visitors (id integer PRIMARY KEY, gender public."Gender");',
        "DROP TABLE public.visitors;",
    )
    legacy.sequelize(target, record_types=False)
    with pytest.raises(PgopsError, match="version 20250103000004 is applied before its repair") as caught:
        adopt(target, legacy.tree(work))
    assert [item["object"] for item in caught.value.extra["differences"]] == ["type public.enum_students_gender"]
    assert engine.rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []


def kinds_tree(folder: Path, fill: str) -> TestTree:
    """The second version gives rows that exist a kind, and leaves new ones to say their own."""
    tree = TestTree(folder)
    tree.add_sql(BASE, "pupils", "CREATE TABLE public.pupils (id integer PRIMARY KEY);", "DROP TABLE public.pupils;")
    tree.add_sql(
        CRITICAL,
        "kinds",
        f"ALTER TABLE public.pupils ADD COLUMN note text;\nDO $up$\nBEGIN\n    {fill}\nEND\n$up$;",
        'ALTER TABLE public.pupils DROP COLUMN note;\nALTER TABLE public.pupils DROP COLUMN "theKind";',
    )
    return tree


def test_a_repaired_column_gives_rows_what_the_version_gave_them(target: Any, tmp_path: Path) -> None:
    tree = kinds_tree(
        tmp_path / "sql",
        "ALTER TABLE public.pupils ADD COLUMN \"theKind\" text DEFAULT 'it''s, other';\n"
        '    ALTER TABLE public.pupils ALTER COLUMN "theKind" DROP DEFAULT;',
    )
    migrate.apply(target, tree.render(), Selection(), engine.way())
    damage = ("DROP SCHEMA pgops CASCADE", 'ALTER TABLE pupils DROP COLUMN "theKind"', "INSERT INTO pupils VALUES (1)")
    engine.do(target, *damage)
    carry(target, tree.folder, tree.render())
    assert engine.rows(target, 'SELECT "theKind" AS kind FROM pupils') == [{"kind": "it's, other"}]
    assert inventory(target)['column public.pupils."theKind"'].get("default") is None


@pytest.mark.parametrize(
    "fill",
    [
        (
            'ALTER TABLE public.pupils ADD COLUMN "theKind" text DEFAULT gen_random_uuid()::text;'
            ' ALTER TABLE public.pupils ALTER COLUMN "theKind" DROP DEFAULT;'
        ),
        'ALTER TABLE public.pupils ADD COLUMN "theKind" text; UPDATE public.pupils SET note = note, "theKind" = id::text;',
    ],
    ids=["default", "update"],
)
def test_a_column_whose_rows_have_values_of_their_own_is_not_made_empty(fill: str, target: Any, tmp_path: Path) -> None:
    tree = kinds_tree(tmp_path / "sql", fill)
    migrate.apply(target, tree.render(), Selection(), engine.way())
    engine.do(target, "DROP SCHEMA pgops CASCADE", 'ALTER TABLE pupils DROP COLUMN "theKind"')
    with pytest.raises(PgopsError, match="gives the rows that exist a value of their own"):
        adopt(target, tree.render())


def test_the_difference_is_told_from_the_state_that_is_nearest(target: Any, tmp_path: Path) -> None:
    """Row level security is on as a later version has it, but is not forced: nobody is told to switch it off."""
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(BASE, "pupils", "CREATE TABLE public.pupils (id integer PRIMARY KEY);", "DROP TABLE public.pupils;")
    tree.add_sql(
        CRITICAL,
        "close",
        "ALTER TABLE public.pupils ENABLE ROW LEVEL SECURITY;\nALTER TABLE public.pupils FORCE ROW LEVEL SECURITY;\n"
        "CREATE TABLE public.staff (id integer PRIMARY KEY);",
        "DROP TABLE public.staff;\nALTER TABLE public.pupils NO FORCE ROW LEVEL SECURITY;\n"
        "ALTER TABLE public.pupils DISABLE ROW LEVEL SECURITY;",
    )
    migrate.apply(target, tree.render(), Selection(), engine.way())
    engine.do(target, "DROP SCHEMA pgops CASCADE", "ALTER TABLE pupils NO FORCE ROW LEVEL SECURITY")
    with pytest.raises(PgopsError) as caught:
        adopt(target, tree.render())
    assert f"force_row_security expected true, found false (as version {CRITICAL} makes it)" in caught.value.message
    assert "expected false, found true" not in caught.value.message


# ------------------------------------------------------------------------------------------------------------ refusals


def other_type(target: Any, server: Any) -> None:
    engine.do(target, 'ALTER TABLE schools ALTER COLUMN "totalEnrollment" TYPE text')


def other_index(target: Any, server: Any) -> None:
    engine.do(target, "DROP INDEX students_name_idx", 'CREATE INDEX students_name_idx ON students ("lastName")')


def no_uuid(target: Any, server: Any) -> None:
    text_key(target, server)
    engine.do(target, "UPDATE system_configurations SET \"lastModifiedBy\" = 'admin' WHERE key = 'MAX_LOGIN_ATTEMPTS'")


def name_of_two_lines(target: Any, server: Any) -> None:
    legacy.make_twin(target, "contacts", "type", "enum_contacts\rtype", "ContactType")


def own_label(target: Any, server: Any) -> None:
    engine.do(target, "ALTER TYPE public.\"UserRole\" ADD VALUE 'JANITOR'")


def two_twins(target: Any, server: Any) -> None:
    legacy.make_twin(target, "incident_reports", "type", "enum_incident_reports_type", "IncidentType")
    engine.do(target, 'ALTER TABLE contacts ADD COLUMN kind public."IncidentType"')


def required_column(target: Any, server: Any) -> None:
    engine.do(target, "ALTER TABLE students DROP COLUMN grade")


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (other_type, 'column public.schools."totalEnrollment"'),
        (other_index, "index public.students_name_idx"),
        (no_uuid, "1 of 12 values are none (by ctid (0,"),
        (name_of_two_lines, "cannot be written into a file"),
        (own_label, "it has values that no version declares: JANITOR"),
        (two_twins, 'public.contacts.kind has the type public."IncidentType" already'),
        (required_column, "NOT NULL without a default"),
    ],
)
def test_what_is_not_certain_is_refused_with_the_list(
    damage: Damage, part: str, target: Any, server: Any, core: Any
) -> None:
    legacy.as_ours(target, CORE)
    damage(target, server)
    with pytest.raises(PgopsError) as caught:
        adopt(target, core)
    assert caught.value.extra["reason"] == "differences"
    assert part in str([f"{item['object']} {item['difference']}" for item in caught.value.extra["differences"]])
    assert engine.rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []


NAME_INDEX, NURSE_INDEX = "index public.students_name_idx", 'index public."students_nurseId_idx"'
ACCEPTED = r"accepted at adoption by tester at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def warnings(target: Any) -> list[str]:
    """What a verification that passes tells as a warning, but for the protection that the short tree does not bring."""
    found = verify.verify({target.database: target})[target.database]
    assert found["passed"]
    told = [item for item in found["findings"] if item["level"] == "warn" and item["check"] != "PHI"]
    return [f"{item['check']}: {verify.sentence(item)}" for item in told]


def test_what_was_accepted_is_a_warning_while_it_is_the_difference_of_then(target: Any, server: Any, core: Any) -> None:
    legacy.as_ours(target, CORE)
    other_index(target, server)
    found = adopt(target, core, accept=(NAME_INDEX,))
    assert (found["recorded"], found["accepted"]) == (list(CORE), [NAME_INDEX])
    (told,) = warnings(target)
    assert re.fullmatch(
        rf'schema: {NAME_INDEX} \(definition\): expected .*"firstName".*, found .* \({ACCEPTED}\)', told
    )
    engine.do(target, "DROP INDEX students_name_idx", "CREATE INDEX students_name_idx ON students (photo)")
    with pytest.raises(PgopsError, match=rf"found .*photo.* \(another difference than the one {ACCEPTED}\)"):
        verify.verify({target.database: target})


def test_what_no_version_makes_cannot_be_accepted(target: Any, server: Any, core: Any) -> None:
    legacy.as_ours(target, CORE)
    other_index(target, server)
    with pytest.raises(
        PgopsError, match=f"names index students_name_idx, which no version makes; the nearest is {NAME_INDEX}"
    ):
        adopt(target, core, accept=(NAME_INDEX, "index students_name_idx"))
    assert engine.rows(target, "SELECT to_regclass('pgops.adoption') AS t") == [{"t": None}]


def test_an_index_that_is_accepted_as_missing_is_missed_by_no_check(target: Any, server: Any, core: Any) -> None:
    legacy.as_ours(target, CORE)
    engine.do(target, 'DROP INDEX "students_nurseId_idx"')
    adopt(target, core, accept=(NURSE_INDEX,))
    told = warnings(target)
    assert [line.partition(":")[0] for line in told] == ["schema", f"verify of {BASE}", "foreign key index"]
    assert all(re.search(rf"\({ACCEPTED}\)$", line) for line in told)
    # It came, so it is not the difference of then when it is another one.
    engine.do(target, 'CREATE INDEX "students_nurseId_idx" ON students (photo)')
    with pytest.raises(PgopsError, match=r"students_nurseId_idx.* and 1 more") as caught:
        verify.verify({target.database: target})
    failed = [item for item in caught.value.extra["databases"][target.database]["findings"] if item["level"] == "fail"]
    assert [item["check"] for item in failed] == ["schema", "foreign key index"]


def test_a_label_that_was_accepted_stays_so_when_a_later_version_adds_another(target: Any, core: Any) -> None:
    legacy.as_ours(target, CORE)
    engine.do(target, "ALTER TYPE public.\"IncidentType\" ADD VALUE 'DROPPED_TRAY'")
    adopt(target, core, accept=('type public."IncidentType"',))
    migrate.apply(target, core, Selection(), engine.way("20260101T000000Z-000009"))
    (told,) = warnings(target)
    assert "DROPPED_TRAY" in told and "SAFETY" in told and re.search(ACCEPTED, told)


def test_tables_and_columns_of_the_users_own_are_listed_and_left_alone(target: Any, core: Any) -> None:
    legacy.as_ours(target, CORE)
    engine.do(target, "CREATE TABLE lockers (id integer PRIMARY KEY)", "ALTER TABLE students ADD COLUMN locker integer")
    found = adopt(target, core)
    assert found["strangers"] == ["column public.students.locker", "table public.lockers"]
    assert {"table public.lockers", "column public.students.locker"} <= inventory(target).keys()


def test_the_database_of_another_application_is_refused_unless_forced_by_its_name(target: Any, core: Any) -> None:
    engine.do(target, "CREATE TABLE users (id integer)", "CREATE TABLE orders (id integer)")
    with pytest.raises(PgopsError, match="looks like the database of another application") as caught:
        adopt(target, core)
    assert caught.value.extra["reason"] == "stranger"
    with pytest.raises(PgopsError, match="adopt_force names other"):
        adopt(target, core, force="other")
    with pytest.raises(PgopsError, match="cannot be adopted as it is"):
        adopt(target, core, force=target.database)


def test_the_tables_in_another_schema_are_named_and_nothing_is_forced(target: Any, server: Any, core: Any) -> None:
    legacy.as_ours(target, CORE)
    engine.do(target, "DROP SCHEMA IF EXISTS pgops CASCADE")
    server.execute("ALTER SCHEMA public RENAME TO app", database=target.database)
    server.execute("CREATE SCHEMA public AUTHORIZATION white_cross_owner", database=target.database)
    told = rf"Nothing was written to {target.database}: the tables of version {BASE} stand in the schema app \(5 of 5: app\."
    with pytest.raises(PgopsError, match=told) as caught:
        adopt(target, core)
    assert caught.value.extra["reason"] == "schema"
    assert engine.rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []


def test_a_database_of_another_encoding_is_not_taken_over(target: Any, server: Any, core: Any) -> None:
    other = target.with_(database=f"{target.database}_latin1")
    server.create_database(other.database, encoding="LATIN1")
    with pytest.raises(PgopsError, match=f"Nothing was written to {other.database}: it is encoded in LATIN1"):
        adopt(other, core)


def test_tables_of_another_owner_are_named_before_any_change(target: Any, server: Any, core: Any) -> None:
    legacy.as_ours(target, CORE)
    server.execute("ALTER TABLE public.students OWNER TO white_cross_app", database=target.database)
    with pytest.raises(PgopsError, match="REASSIGN OWNED BY white_cross_app TO white_cross_owner") as caught:
        adopt(target, core)
    # The other way takes nothing from the application.
    assert "As a superuser: GRANT white_cross_app TO white_cross_owner; or" in caught.value.message
    assert engine.rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []


@pytest.mark.slow
def test_what_a_superuser_owns_is_given_over_and_nobody_is_made_his_member(target: Any, server: Any, core: Any) -> None:
    legacy.as_ours(target, CORE)
    server.execute(
        'ALTER TABLE public.students OWNER TO postgres; ALTER TYPE public."Gender" OWNER TO postgres',
        database=target.database,
    )
    with pytest.raises(PgopsError) as caught:
        adopt(target, core)
    assert "GRANT postgres" not in caught.value.message
    told = re.search(r"As a superuser, in \w+: (.*)\. Nothing was written", caught.value.message)
    assert told is not None
    server.execute(told[1], database=target.database)
    assert adopt(target, core)["recorded"]


@pytest.mark.slow
def test_types_of_another_owner_that_a_version_or_the_repair_changes_are_named_too(
    target: Any, server: Any, core: Any
) -> None:
    legacy.sequelize(target, legacy.FIRST_THREE, record_types=False)
    server.execute(
        "ALTER TYPE public.enum_users_role OWNER TO white_cross_app; "
        'ALTER TYPE public."Gender" OWNER TO white_cross_app',
        database=target.database,
    )
    with pytest.raises(PgopsError, match="REASSIGN OWNED BY white_cross_app TO white_cross_owner") as caught:
        adopt(target, core)
    types = 'public."Gender", public.enum_users_role'
    assert f"may not change 2 types of {target.database} ({types}): they belong to" in caught.value.message
    assert engine.rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []
    server.execute("ALTER TABLE public.students OWNER TO white_cross_app", database=target.database)
    with pytest.raises(PgopsError) as caught:
        adopt(target, core)
    assert f"1 table and 2 types of {target.database} (public.students, {types})" in caught.value.message
    assert (caught.value.extra["tables"], caught.value.extra["types"]) == (["public.students"], types.split(", "))
    # A type that no version knows may be anybody's.
    server.execute(
        "REASSIGN OWNED BY white_cross_app TO white_cross_owner; "
        "CREATE TYPE public.enum_lockers_kind AS ENUM ('TALL'); "
        "ALTER TYPE public.enum_lockers_kind OWNER TO white_cross_app",
        database=target.database,
    )
    assert adopt(target, core)["recorded"] == list(legacy.FIRST_THREE)


def test_a_failed_row_of_prisma_is_understood(target: Any, core: Any) -> None:
    legacy.as_ours(target, CORE)
    legacy.prisma_ledger(target, ["20251002163331_test_migration"], legacy.FAILED_PRISMA)
    found = look(target, core)
    assert {entry.name: str(entry) for entry in found.ledgers[0].entries} == {
        "20251002163331_test_migration": "applied",
        legacy.FAILED_PRISMA: "failed (42703)",
    }
    assert found.verdicts[0].ledger == "applied"
    assert "Maria" not in str(found.as_dict())


@EVERY_MAJOR
def test_text_ids_are_told_table_by_table_and_refused(target: Any, core: Any) -> None:
    legacy.prisma(target)
    with pytest.raises(PgopsError, match="The ids of .* are text") as caught:
        adopt(target, core)
    told = {item["table"]: item for item in caught.value.extra["databases"][target.database]["text_ids"]}
    assert set(told) >= {"public.districts", "public.schools", "public.users", "public.students"}
    districts, schools, students = told["public.districts"], told["public.schools"], told["public.students"]
    assert (districts["rows"], districts["ids_without_uuid"], districts["ids_differing_only_in_case"]) == (2, 2, 2)
    assert schools["ids_without_uuid"] == 0
    assert students["columns_without_foreign_key"] == ["createdBy"]
    assert told["public.users"]["columns_without_foreign_key"] == ["districtId"]
    assert engine.rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []


def test_the_older_lineage_of_sequelize_is_known_by_its_short_text_ids_and_refused(target: Any, core: Any) -> None:
    legacy.older_sequelize(target)
    found = look(target, core)
    assert (found.era, [item.tool for item in found.ledgers]) == ("text", ["sequelize"])
    told = {item["table"]: item for item in found.text_ids}
    assert {table: told[table]["type"] for table in sorted(told)} == {
        f"public.{table}": "character varying(255)"
        for table in ("districts", "emergency_contacts", "schools", "students", "users")
    }
    assert told["public.districts"]["ids_without_uuid"] == 1
    with pytest.raises(PgopsError, match="The ids of .* are text: 5 tables, 1 ids that are no uuid"):
        adopt(target, core)
    assert engine.rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []


def test_a_run_that_stands_half_way_is_finished_first(target: Any, core: Any) -> None:
    migrate.apply(target, core, Selection(target=BASE), engine.way())
    engine.do(target, "UPDATE pgops.migration SET state = 'failed', failed_step = 1")
    with pytest.raises(PgopsError, match="finish that run first"):
        adopt(target, core)


def test_nothing_is_recorded_when_something_moved_since_it_was_shown(target: Any, core: Any) -> None:
    legacy.as_ours(target, CORE)
    state = look(target, core).state
    engine.do(target, "CREATE TABLE lockers (id integer)")
    with pytest.raises(PgopsError, match="catalog_fingerprint moved"):
        adoption.adopt(target, core, adoption.Request(), engine.way(), expected=state)


# ----------------------------------------------------------------------------------------------------------- afterwards


def test_an_adopted_version_goes_down_by_our_way(target: Any, core: Any) -> None:
    legacy.as_ours(target, CORE)
    adopt(target, core)
    done = migrate.revert(target, Reverts(through=CRITICAL), engine.way("20260101T000000Z-000002"))
    assert [item["version"] for item in done["reverted"]] == [SETTINGS, CRITICAL]
    left = {key for key in inventory(target) if key.startswith("table ")}
    assert "table public.students" in left
    assert "table public.medications" not in left


def test_an_adopted_version_that_replaced_a_check_puts_the_earlier_one_back(target: Any, work: Path) -> None:
    tree = TestTree(work)
    add = 'ALTER TABLE public.students ADD CONSTRAINT numbered CHECK (length("studentNumber") > {});'
    drop = "ALTER TABLE public.students DROP CONSTRAINT numbered;"
    tree.add_sql("20251104000000", "number", add.format(1), drop)
    tree.add_sql("20251104000001", "longer_number", drop + add.format(3), drop + add.format(1))
    legacy.as_ours(target, (*CORE, INCIDENTS))
    engine.do(target, add.format(3))
    adopt(target, tree.render())
    assert engine.state(target, "20251104000001")["state"] == "applied"
    migrate.revert(target, Reverts(), engine.way("20260101T000000Z-000002"))
    check = "SELECT pg_get_constraintdef(oid) AS made FROM pg_constraint WHERE conname = 'numbered'"
    assert "> 1" in engine.rows(target, check)[0]["made"]


def test_an_adopted_version_that_changed_since_is_not_reverted(target: Any, core: Any) -> None:
    legacy.as_ours(target, CORE)
    adopt(target, core)
    engine.do(target, "ALTER TABLE system_configurations ALTER COLUMN description TYPE varchar(900)")
    for revert in (
        lambda: migrate.revert(target, Reverts(), engine.way("20260101T000000Z-000002")),
        lambda: migrate.way_back.preview_revert(target, Reverts()),
    ):
        with pytest.raises(
            PgopsError, match=r"column public\.system_configurations\.description: type expected text"
        ) as caught:
            revert()
        assert caught.value.extra["reason"] == "adopted"
    assert engine.state(target, SETTINGS)["state"] == "applied"


def test_versions_that_were_missing_are_no_newcomers_and_others_are(target: Any, core: Any) -> None:
    legacy.as_ours(target, (BASE, HEALTH, SETTINGS))
    found = adopt(target, core)
    assert found["pending"] == [CRITICAL, INCIDENTS]
    newcomer = {**core[0], "version": "20250103000001", "name": "newcomer", "steps": []}
    with pytest.raises(PgopsError, match="was applied to|sorts before"):
        migrate.apply(
            target,
            sorted([*core, {**newcomer, "version": "20250102000000"}], key=lambda migration: migration["version"]),
            Selection(),
            engine.way(),
        )
    done = migrate.apply(target, core, Selection(), engine.way("20260101T000000Z-000002"))
    assert [item["version"] for item in done["applied"]] == [CRITICAL, INCIDENTS]


def test_a_ledger_of_version_1_is_read_and_upgraded(target: Any, core: Any) -> None:
    migrate.apply(target, core, Selection(target=BASE), engine.way())
    engine.do(
        target,
        "DROP TABLE pgops.adoption, pgops.mirror, pgops.baseline, pgops.step_transaction",
        "ALTER TABLE pgops.migration DROP COLUMN adopted",
        "UPDATE pgops.meta SET schema_version = 1",
    )
    with closing(connection.connect(target, application_name="test")) as conn:
        assert ledger.read(conn).migrations[0].adopted is None
    done = migrate.apply(target, core, Selection(target=HEALTH), engine.way("20260101T000000Z-000002"))
    assert [item["version"] for item in done["applied"]] == [HEALTH]
    assert engine.rows(target, "SELECT count(*) AS n FROM pgops.adoption") == [{"n": 0}]
