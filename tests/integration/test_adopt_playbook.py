# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""adopt.yml as an operator types it: what it shows, writes and records, and that migrate.yml goes on from there."""

from __future__ import annotations

from typing import Any

import pytest
from support import engine, legacy
from support.site import Playbook
from support.tree import TestTree

# The version that declares all types of a record, which their chain has at once.
TYPES_OF_RECORDS = "20251010000000"


@pytest.fixture
def site(playbook: Playbook) -> Playbook:
    playbook.keep_versions((*legacy.FILES, TYPES_OF_RECORDS))
    return playbook


def folders(site: Playbook) -> list[str]:
    return sorted(path.name for path in (site.folder / "sql" / "migrations").iterdir())


def schemas(target: Any) -> list[str]:
    return [
        row["n"] for row in engine.rows(target, "SELECT nspname::text AS n FROM pg_namespace WHERE nspname = 'pgops'")
    ]


def test_check_mode_shows_the_table_and_the_repair_and_writes_nothing(site: Playbook, target: Any) -> None:
    legacy.sequelize(target, legacy.FIRST_THREE)
    before = folders(site)
    result = site("adopt.yml", "--check", "--diff")
    assert result.rc == 0, result.output
    assert "VERSION         THEIR LEDGER  CATALOG" in result.stdout
    assert "20250103000000  applied       partly present" in result.stdout
    assert "adopt and repair" in result.stdout
    assert '+    ALTER TYPE public.enum_users_role RENAME TO "UserRole";' in result.stdout
    assert folders(site) == before
    assert schemas(target) == []
    assert result.json is not None
    found = result.json["hosts"]["local-1"][site.database]["adopt"]
    assert found["adopted"][:3] == list(legacy.FIRST_THREE)
    assert found["recorded"] == []


@pytest.mark.slow
@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_adopt_writes_the_repair_records_and_migrate_goes_on(site: Playbook, target: Any) -> None:
    legacy.sequelize(target, legacy.FIRST_THREE)
    before = folders(site)
    result = site("adopt.yml")
    assert result.rc == 0, result.output
    (repair,) = set(folders(site)) - set(before)
    assert repair == "20250103000004_repair_adopted_schema"
    assert "versions adopted" in result.stdout
    assert engine.state(target, "20250103000002")["state"] == "applied"
    status = site("status.yml")
    assert "applied (adopted)" in status.stdout
    migrated = site("migrate.yml")
    assert migrated.rc == 0, migrated.output
    again = site("adopt.yml")
    assert again.rc == 0, again.output
    assert "changed=0" in again.stdout
    assert set(folders(site)) == {*before, repair}


@pytest.mark.slow
def test_a_ledger_that_its_login_owns_stops_no_migration_and_is_kept_in_step(
    playbook: Playbook, server: Any, target: Any
) -> None:
    site = playbook
    site.copy_sql()
    legacy.sequelize(target, legacy.FIRST_THREE)
    for statement in (
        'ALTER TABLE public."SequelizeMeta" OWNER TO white_cross_app',
        'GRANT SELECT, INSERT, DELETE ON public."SequelizeMeta" TO white_cross_owner',
    ):
        server.execute(statement, database=site.database)
    result = site("adopt.yml", adopt_mirror_ledger="sequelize", adopt_fence_legacy=True)
    assert result.rc == 0, result.output
    assert "SequelizeMeta is kept in step" in result.stdout
    assert "fence up: event trigger, trigger" in result.stdout
    migrated = site("migrate.yml")
    assert migrated.rc == 0, migrated.output
    names = [row["name"] for row in engine.rows(target, 'SELECT name FROM public."SequelizeMeta" ORDER BY 1')]
    assert legacy.FILES["20250103000003"] in names


@pytest.mark.slow
def test_what_was_accepted_stops_no_migration_and_no_verification(site: Playbook, target: Any) -> None:
    legacy.sequelize(target, legacy.FIRST_THREE)
    engine.do(target, "DROP INDEX students_name_idx", 'CREATE INDEX students_name_idx ON students ("lastName")')
    adopted = site("adopt.yml", adopt_accept=["index public.students_name_idx"])
    assert adopted.rc == 0, adopted.output
    migrated = site("migrate.yml")
    assert migrated.rc == 0, migrated.output
    for result in (migrated, site("verify.yml")):
        assert result.rc == 0, result.output
        assert "WARN   schema: index public.students_name_idx (definition): expected" in result.stdout
        assert "(accepted at adoption by " in result.stdout
        assert f"{site.database}: PASSED" in result.stdout
    assert engine.rows(target, "SELECT count(*) AS n FROM pgops.migration WHERE state <> 'applied'") == [{"n": 0}]


@pytest.mark.slow
def test_a_refusal_shows_the_table_and_leaves_the_tree_alone(site: Playbook, target: Any) -> None:
    legacy.sequelize(target, legacy.FIRST_THREE)
    engine.do(target, 'ALTER TABLE schools ALTER COLUMN "totalEnrollment" TYPE text')
    before = folders(site)
    result = site("adopt.yml")
    assert result.rc == 2
    assert "20250103000000  applied       partly present" in result.stdout
    assert 'column public.schools."totalEnrollment"' in result.stdout
    assert (folders(site), schemas(target)) == (before, [])
    assert result.json is not None
    assert "cannot be adopted as it is" in result.json["error"]["message"]


@pytest.mark.slow
def test_a_repair_that_does_not_pass_lint_is_not_written_and_nothing_is_adopted(
    playbook: Playbook, target: Any
) -> None:
    playbook.keep_versions(())
    tables = (
        "CREATE TABLE public.schools (id bigint PRIMARY KEY);\n"
        "CREATE TABLE public.pupils (id integer PRIMARY KEY, school integer);"
    )
    # Both sides of a foreign key have one type, lint says.
    key = "ADD CONSTRAINT goes_to FOREIGN KEY (school) REFERENCES public.schools (id) ON UPDATE CASCADE ON DELETE RESTRICT"
    TestTree(playbook.folder / "sql").add_sql(
        "20250101000000",
        "pupils",
        f"{tables}\nALTER TABLE public.pupils {key};",
        "DROP TABLE public.pupils;\nDROP TABLE public.schools;",
    )
    engine.do(target, tables)
    before = folders(playbook)
    result = playbook("adopt.yml")
    assert result.rc == 2
    assert (
        "The repair that would be written does not pass lint: 20250101000001_repair_adopted_schema/up.sql.j2:"
        in result.output
    )
    assert (folders(playbook), schemas(target)) == (before, [])


@pytest.mark.slow
def test_another_application_is_refused_with_the_command_that_forces_it(site: Playbook, target: Any) -> None:
    engine.do(target, "CREATE TABLE orders (id integer)")
    result = site("adopt.yml")
    assert result.rc == 2
    assert f"adopt_force={site.database}" in result.output
