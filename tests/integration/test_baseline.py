# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A database with text ids, taken as it is: one entry in the ledger, and everything but the tree works on it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    adoption,
    catalog,
    connection,
    ledger,
    migrate,
    plan,
    statistics,
    verify,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from support import engine, legacy
from support.site import Playbook

EVERY_MAJOR = pytest.mark.majors(15, 16, 17, 18, slow=(15,))
CORE = tuple(legacy.FILES)
NAME = "text_ids"


@pytest.fixture(scope="module")
def core() -> list[dict[str, Any]]:
    return [migration for migration in legacy.tree() if migration["version"] in CORE]


@pytest.fixture
def site(playbook: Playbook, target: Any) -> Playbook:
    legacy.prisma(target)
    playbook.keep_versions(CORE)
    return playbook


def adopt(target: Any, tree: list[dict[str, Any]], run: int = 1, **asked: Any) -> dict[str, Any]:
    asked = {"baseline": NAME, **asked}
    return adoption.adopt(target, tree, adoption.Request(**asked), engine.way(f"20260101T000000Z-00000{run}"))


def written(target: Any) -> list[dict[str, Any]]:
    """Every row of ours, and when it was written."""
    if not engine.rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'"):
        return []
    tables = engine.rows(
        target,
        "SELECT oid::regclass::text AS name FROM pg_class WHERE relnamespace = 'pgops'::regnamespace AND relkind = 'r' "
        "ORDER BY 1",
    )
    return [
        {"table": table["name"], **row}
        for table in tables
        for row in engine.rows(target, f"SELECT ctid::text, xmin::text FROM {table['name']} ORDER BY 1")
    ]


def inventory(target: Any) -> catalog.Inventory:
    with closing(connection.connect(target, application_name="test")) as conn:
        return catalog.inventory(conn)


def read(target: Any) -> ledger.Ledger:
    with closing(connection.connect(target, application_name="test")) as conn:
        return ledger.read(conn)


# ------------------------------------------------------------------------------------------------------- the entry


@EVERY_MAJOR
@pytest.mark.parametrize(
    ("made", "tool", "said"),
    [
        (legacy.prisma, "prisma", {"applied": 2, "failed": 1}),
        (legacy.older_sequelize, "sequelize", {"applied": 2}),
    ],
)
def test_it_is_recorded_once_with_the_fingerprint_and_the_word_of_the_other_ledger(
    target: Any, core: Any, made: Callable[[Any], None], tool: str, said: dict[str, int]
) -> None:
    made(target)
    found = adopt(target, core)
    assert (found["baseline"]["new"], found["recorded"], found["pending"]) == (True, [], [])
    baseline = read(target).baseline
    assert baseline is not None
    assert (baseline.name, baseline.who) == (NAME, "tester")
    assert baseline.tables == sum(key.startswith("table ") for key in inventory(target)) >= 5
    assert baseline.fingerprint == catalog.fingerprint(inventory(target))
    assert baseline.ledgers == [{"tool": tool, "entries": said}]
    (kept,) = engine.rows(target, "SELECT objects, detail FROM pgops.baseline")
    assert catalog.compare(kept["objects"], inventory(target)) == []
    assert {table["table"] for table in kept["detail"]["text_ids"]} >= {"public.districts", "public.students"}
    assert "Maria" not in str(kept)
    (audited,) = engine.rows(target, "SELECT event, detail FROM pgops.audit")
    assert audited["event"] == "baseline"
    assert (audited["detail"]["name"], audited["detail"]["their_ledger"]) == (NAME, {tool: said})
    before = written(target)
    again = adopt(target, core, run=2)
    assert (again["baseline"]["new"], again["audit"]) == (False, None)
    assert written(target) == before


@pytest.mark.slow
def test_the_other_ledger_and_the_tables_stay_as_they_were(target: Any, core: Any) -> None:
    legacy.prisma(target)
    tables = ("districts", "schools", "users", "students", "_prisma_migrations")
    queries = [f"SELECT id, xmin::text FROM {table} ORDER BY 1" for table in tables]
    before = [engine.rows(target, query) for query in queries], inventory(target)
    adopt(target, core)
    assert ([engine.rows(target, query) for query in queries], inventory(target)) == before


def test_what_changed_since_needs_a_new_name_and_takes_the_place_of_the_old(target: Any, core: Any) -> None:
    legacy.prisma(target)
    adopt(target, core)
    engine.do(target, "ALTER TABLE schools ADD COLUMN fax text")
    with pytest.raises(
        PgopsError, match=r"1 object is another since \(column public.schools.fax: found, not expected\)"
    ):
        adopt(target, core, run=2)
    found = adopt(target, core, run=3, baseline="with_fax")
    assert found["baseline"]["replaces"] == NAME
    baseline = read(target).baseline
    assert baseline is not None and baseline.name == "with_fax"
    with pytest.raises(PgopsError, match=f"had a baseline {NAME} before"):
        adopt(target, core, run=4)


@pytest.mark.parametrize("name", ["true", "Text", "a-b", "1st", "a" * 64])
def test_what_is_no_name_is_refused(target: Any, core: Any, name: str) -> None:
    legacy.prisma(target)
    with pytest.raises(PgopsError, match="a baseline has a name of small letters"):
        adopt(target, core, baseline=name)
    assert written(target) == []


@pytest.mark.parametrize(
    ("besides", "named"),
    [
        ({"mirror": "sequelize"}, "adopt_mirror_ledger"),
        ({"fence": False}, "adopt_fence_legacy"),
        ({"accept": ["index public.a"]}, "adopt_accept"),
    ],
)
def test_it_goes_with_nothing_that_is_about_the_tree(target: Any, core: Any, besides: Any, named: str) -> None:
    legacy.prisma(target)
    with pytest.raises(PgopsError, match=f"{named} does not go with it"):
        adopt(target, core, **besides)
    assert written(target) == []


def uuid_ids(target: Any) -> None:
    legacy.as_ours(target, CORE)


def nothing(target: Any) -> None:
    pass


@pytest.mark.parametrize(("made", "why"), [(uuid_ids, "ids are uuid"), (nothing, "there is no table of the tree")])
def test_a_database_that_the_tree_fits_gets_none(target: Any, core: Any, made: Callable[[Any], None], why: str) -> None:
    made(target)
    with pytest.raises(PgopsError, match=why):
        adopt(target, core)
    assert written(target) == []


def test_a_database_with_versions_of_the_tree_gets_none(target: Any, core: Any) -> None:
    """Half a mixture: a version of the tree was applied beside text ids."""
    legacy.prisma(target)
    tiny = {**core[0], "steps": []}
    migrate.apply(target, [tiny], Selection(), engine.way())
    before = written(target)
    with pytest.raises(PgopsError, match="is in the ledger of .*, which is on the tree"):
        adopt(target, core, run=2)
    assert written(target) == before


def test_another_application_is_refused_first(target: Any, core: Any) -> None:
    engine.do(target, "CREATE TABLE orders (id text PRIMARY KEY)")
    with pytest.raises(PgopsError, match="looks like the database of another application"):
        adopt(target, core)
    assert written(target) == []


@pytest.mark.slow
def test_what_moved_since_it_was_shown_is_not_recorded(target: Any, core: Any) -> None:
    legacy.prisma(target)
    request = adoption.Request(baseline=NAME)
    shown = adoption.look(target, core, request, engine.way())
    engine.do(target, "ALTER TABLE schools ADD COLUMN fax text")
    with pytest.raises(PgopsError, match="catalog_fingerprint moved"):
        adoption.adopt(target, core, request, engine.way(), expected=shown["state"])
    assert written(target) == []


def test_the_tree_takes_over_once_the_ids_are_uuid(target: Any, core: Any) -> None:
    legacy.prisma(target)
    adopt(target, core)
    engine.do(
        target,
        "DROP TABLE districts, schools, users, students, _prisma_migrations CASCADE",
        'DROP TYPE "UserRole"',
        'DROP TYPE "Gender"',
    )
    uuid_ids(target)
    found = adopt(target, core, run=2, baseline=None)
    assert found["recorded"] == list(CORE)
    assert read(target).baseline is None
    events = [row["event"] for row in engine.rows(target, "SELECT event FROM pgops.audit ORDER BY seq")]
    assert events == ["baseline", "baseline_ended", *["adopted"] * len(CORE)]
    assert migrate.apply(target, core, Selection(), engine.way("20260101T000000Z-000003"))["applied"] == []


# ---------------------------------------------------------------------------------------------- the tree stays away


def test_no_version_of_the_tree_is_applied(target: Any, core: Any) -> None:
    legacy.prisma(target)
    adopt(target, core)
    before = written(target), inventory(target)
    with pytest.raises(PgopsError, match=f"is on baseline {NAME} .*, so no version of the tree is applied") as caught:
        migrate.apply(target, core, Selection(), engine.way("20260101T000000Z-000002"))
    assert caught.value.extra["reason"] == "baseline"
    assert (written(target), inventory(target)) == before


def test_status_tells_the_baseline_and_nothing_pending(target: Any, core: Any) -> None:
    legacy.prisma(target)
    assert [row["told"] for row in plan.status(target, core)["versions"]] == ["pending"] * len(CORE)
    adopt(target, core)
    found = plan.status(target, core)
    assert (found["versions"], found["counts"]) == ([], {})
    assert found["baseline"]["name"] == NAME


# ------------------------------------------------------------------------------------------------- what works on it


def verified(target: Any) -> dict[str, Any]:
    try:
        return verify.verify({target.database: target})[target.database]
    except PgopsError as error:
        return dict(error.extra["databases"][target.database])


@EVERY_MAJOR
def test_verify_holds_the_database_against_the_baseline(target: Any, core: Any) -> None:
    legacy.prisma(target)
    adopt(target, core)
    found = verified(target)
    assert (found["passed"], found["baseline"], found["versions"]) == (True, NAME, [])
    assert {"kind": "table", "object": "public.students", "passed": True} in found["lines"]
    engine.do(target, "ALTER TABLE students ALTER grade DROP NOT NULL", "ALTER TABLE schools ADD COLUMN fax text")
    found = verified(target)
    assert found["passed"] is False
    told = {(item["object"], item["level"]) for item in found["findings"] if item["check"] == "schema"}
    assert ("column public.students.grade", "fail") in told
    assert ("column public.schools.fax", "warn") in told


def test_a_foreign_key_without_an_index_is_the_other_tools_and_no_failure(target: Any, core: Any) -> None:
    def levels() -> set[str]:
        return {item["level"] for item in verified(target)["findings"] if item["check"] == "foreign key index"}

    legacy.prisma(target)
    assert levels() == {"fail"}
    adopt(target, core)
    assert levels() == {"warn"}


def test_a_row_without_a_parent_is_a_failure_as_anywhere(target: Any, core: Any, superuser_connection: Any) -> None:
    legacy.prisma(target)
    adopt(target, core)
    with superuser_connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica; UPDATE schools SET \"districtId\" = 'nobody'")
    found = verified(target)
    assert [item["check"] for item in found["findings"] if item["level"] == "fail"] == ["orphans"]


def test_maintenance_works_on_it(target: Any, core: Any) -> None:
    legacy.prisma(target)
    adopt(target, core)
    before = engine.rows(target, "SELECT xmin::text FROM pgops.baseline")
    statistics.refresh(target, None, run_id="test", progress=Progress(), control=Control())
    analyzed = "SELECT relname::text AS t FROM pg_stat_user_tables WHERE last_analyze IS NOT NULL"
    assert {row["t"] for row in engine.rows(target, analyzed)} >= {"districts", "schools", "users", "students"}
    assert engine.rows(target, "SELECT xmin::text FROM pgops.baseline") == before


# --------------------------------------------------------------------------------------------------- as it is typed


@pytest.mark.slow
def test_the_refusal_names_the_command_that_takes_it_as_it_is(site: Playbook, target: Any) -> None:
    result = site("adopt.yml")
    assert result.rc == 2
    assert "public.districts: text ids, 2 rows, 2 ids are no uuid, 2 differ only in case" in result.stdout
    assert result.json is not None
    assert result.json["error"]["next"] == ["ansible-playbook adopt.yml -l local -e adopt_baseline=text_ids"]
    checked = site("adopt.yml", "--check", adopt_baseline=NAME)
    assert checked.rc == 0, checked.output
    assert f"baseline {NAME}, to be recorded: 5 tables" in checked.stdout
    assert written(target) == []


@pytest.mark.slow
@EVERY_MAJOR
def test_everything_but_the_tree_works_on_it(site: Playbook, target: Any, database: str) -> None:
    folders = sorted(path.name for path in (site.folder / "sql" / "migrations").iterdir())
    adopted = site("adopt.yml", adopt_baseline=NAME)
    assert adopted.rc == 0, adopted.output
    assert f"baseline {NAME} recorded: 5 tables" in adopted.stdout
    assert sorted(path.name for path in (site.folder / "sql" / "migrations").iterdir()) == folders
    again = site("adopt.yml", adopt_baseline=NAME)
    assert again.rc == 0, again.output
    assert "changed=0" in again.stdout
    assert "recorded already, and nothing differs" in again.stdout

    status = site("status.yml")
    assert status.rc == 0, status.output
    assert f"{database}: on baseline {NAME} since" in status.stdout
    assert "Prisma said then: 2 applied, 1 failed" in status.stdout

    migrated = site("migrate.yml")
    assert migrated.rc == 2
    assert migrated.json is not None
    assert f"{database} is on baseline {NAME}" in migrated.json["error"]["message"]
    assert migrated.json["error"]["next"] == ["ansible-playbook status.yml -l local"]
    plain = site("adopt.yml")
    assert plain.rc == 2
    assert f"it stays on baseline {NAME}" in plain.output

    for name in ("backup.yml", "prove.yml", "verify.yml"):
        done = site(name)
        assert done.rc == 0, f"{name}: {done.output}"
    assert f"verification of {database}: baseline {NAME}" in done.stdout

    engine.do(target, "DELETE FROM schools", "ALTER TABLE students DROP COLUMN photo")
    assert site("verify.yml").rc == 2
    back = site("rollback.yml", rollback_strategy="restore", rollback_confirm=database)
    assert back.rc == 0, back.output
    assert engine.rows(target, "SELECT name FROM schools") == [{"name": "A"}]
    baseline = read(target).baseline
    assert baseline is not None and baseline.name == NAME
    assert site("verify.yml").rc == 0
    assert "changed=0" in site("adopt.yml", adopt_baseline=NAME).stdout


@pytest.mark.slow
def test_a_restore_from_before_it_keeps_it(site: Playbook, target: Any, database: str) -> None:
    for name, asked in (("backup.yml", {}), ("prove.yml", {}), ("adopt.yml", {"adopt_baseline": NAME})):
        done = site(name, **asked)
        assert done.rc == 0, f"{name}: {done.output}"
    back = site("rollback.yml", rollback_strategy="restore", rollback_confirm=database)
    assert back.rc == 0, back.output
    baseline = read(target).baseline
    assert baseline is not None and baseline.name == NAME
    assert f"on baseline {NAME}" in site("status.yml").stdout
    assert site("migrate.yml").rc == 2
