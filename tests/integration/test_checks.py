# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The named checks: each kind of expectation, green and red; the shipped ones on the shipped chain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import checks as named_checks
from ansible_collections.whitecross.pgops.plugins.module_utils import connection, inspection, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.plugin_utils import inspect_queries, migration_tree
from ansible_collections.whitecross.pgops.plugins.plugin_utils.named_checks import read_checks, scan_checks
from ansible_collections.whitecross.pgops.plugins.plugin_utils.verification import screen
from support.engine import way

SQL = Path(__file__).resolve().parents[2] / "sql"
EVERY_MAJOR = pytest.mark.majors(15, 16, 17, 18, slow=(15,))
VERSION = "20260101000000"


@pytest.fixture(scope="module")
def tree() -> migration_tree.Tree:
    return migration_tree.read_tree(SQL)


@pytest.fixture(scope="module")
def chain(tree: migration_tree.Tree) -> list[dict[str, Any]]:
    return migration_tree.render(tree)


@pytest.fixture(scope="module")
def shipped(tree: migration_tree.Tree) -> dict[str, dict[str, Any]]:
    found = read_checks(SQL, [migration.version for migration in tree.migrations])
    return {check["name"]: check for check in found}


@pytest.fixture
def db(target: Any) -> Iterator[Any]:
    conn = connection.connect(target, application_name="pgops test")
    yield conn
    conn.close()


def check(query: str, expect: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": "it",
        "title": "It",
        "versions": [VERSION],
        "level": "fail",
        "query": query,
        "expect": expect,
        **more,
    }


def run(db: Any, *checks: dict[str, Any], applied: Any = (VERSION,)) -> tuple[list[str], list[tuple[Any, ...]]]:
    """:return: the states, and (level, object, expected, found) of what differs."""
    lines, findings = named_checks.run(db, checks, applied, control=Control())
    return [line["state"] for line in lines], [(f.level, f.object, f.expected, f.found) for f in findings]


# --- each kind of expectation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expect", "differs"),
    [
        ("SELECT 'a', 'b', 'c' WHERE false", {"no_rows": True}, []),
        ("SELECT 'row 7', 'a name', 'none'", {"no_rows": True}, [("row 7", "a name", "none")]),
        ("SELECT 1", {"no_rows": True}, [("It", "object, expected, found", "1 columns")]),
        (
            "SELECT n::text, 'x', 'y' FROM generate_series(1, 101) AS n",
            {"no_rows": True},
            [*[(str(n), "x", "y") for n in range(1, 101)], ("It", "0", "1 more differences")],
        ),
        ("SELECT generate_series(1, 2)", {"rows": 2}, []),
        ("SELECT generate_series(1, 3)", {"rows": 2}, [("It", "2 rows", "3 rows")]),
        ("SELECT 1 WHERE false", {"rows": 2}, [("It", "2 rows", "0 rows")]),
        ("SELECT generate_series(1, 3)", {"at_least": 2}, []),
        ("SELECT 1", {"at_least": 2}, [("It", "at least 2 rows", "1 rows")]),
        ("VALUES ('a', 1), ('b', 2), ('c', 3)", {"contains": ["c", "a"]}, []),
        ("VALUES ('a'), ('b')", {"contains": ["b", "z"]}, [("z", "present", "missing, among 2")]),
        ("VALUES ('m', 'A'), ('m', 'B'), ('n', 'C')", {"in_order": {"m": ["A", "B"], "n": ["C"]}}, []),
        ("VALUES ('m', 'A'), ('m', 'NEW'), ('m', 'B')", {"in_order": {"m": ["A", "B"]}}, []),
        ("VALUES ('m', 'B'), ('m', 'A')", {"in_order": {"m": ["A", "B"]}}, [("m", ["A", "B"], ["B", "A"])]),
        ("VALUES ('m', 'A')", {"in_order": {"m": ["A", "B"]}}, [("m", ["A", "B"], ["A"])]),
        ("VALUES ('x', 'A')", {"in_order": {"m": ["A"]}}, [("m", ["A"], [])]),
        ("SELECT 1", {"in_order": {"m": ["A"]}}, [("It", "name, value", "1 columns")]),
        ("SELECT 'a', 1, true", {"equals": [["a", 1, True]]}, []),
        ("SELECT 'a', 1, false", {"equals": [["a", 1, True]]}, [("It", "a 1 true", "missing"), ("It", "no such row", "a 1 false")]),
    ],
)  # fmt: skip
def test_an_expectation_passes_or_names_what_differs(
    db: Any, query: str, expect: dict[str, Any], differs: list[tuple[Any, ...]]
) -> None:
    states, found = run(db, check(query, expect))
    assert found == [("fail", *difference) for difference in differs]
    assert states == ["failed" if differs else "passed"]


@pytest.fixture
def pupils(db: Any) -> Any:
    execute(db, "CREATE TABLE pupils AS SELECT n AS id, n % 5000 AS school FROM generate_series(1, 20000) AS n")
    execute(db, "ANALYZE pupils")
    return db


USES: dict[str, Any] = {"uses": [["other_idx", "pupils_idx"]], "from": {"table": "public.pupils", "rows": 10000}}
ONE_SCHOOL = "SELECT id FROM pupils WHERE school = 7"


@EVERY_MAJOR
def test_a_plan_uses_one_of_the_indexes_or_is_told(pupils: Any) -> None:
    assert run(pupils, check(ONE_SCHOOL, USES)) == (["failed"], [("fail", "It", "other_idx or pupils_idx", "no index")])
    execute(pupils, "CREATE INDEX pupils_idx ON pupils (school)")
    assert run(pupils, check(ONE_SCHOOL, USES)) == (["passed"], [])
    both = {**USES, "uses": [["pupils_idx"], ["logs_idx"]]}
    assert run(pupils, check(ONE_SCHOOL, both))[1] == [("fail", "It", "logs_idx", "pupils_idx")]


def test_a_small_table_or_one_without_statistics_is_not_judged(pupils: Any) -> None:
    lines, findings = named_checks.run(
        pupils,
        [
            check(ONE_SCHOOL, {**USES, "from": {"table": "public.pupils", "rows": 30000}}),
            check("SELECT 1", {**USES, "from": {"table": "public.nobody", "rows": 1}}),
        ],
        {VERSION},
        control=Control(),
    )
    assert [line["why"] for line in lines] == [
        "public.pupils has about 20000 rows; plans are judged from 30000",
        "public.nobody has no statistics; plans are judged from 1",
    ]
    assert [line["state"] for line in lines] == ["left out", "left out"]
    assert findings == []


def test_a_slow_query_is_a_warning(pupils: Any) -> None:
    execute(pupils, "CREATE INDEX pupils_idx ON pupils (school)")
    slow = check(f"{ONE_SCHOOL} AND pg_sleep(0.01) IS NOT NULL", {**USES, "within_ms": 2})
    states, ((level, _, expected, _),) = run(pupils, slow)
    assert (states, level, expected) == (["passed"], "warn", "below 2 ms")
    assert run(pupils, check(ONE_SCHOOL, {**USES, "within_ms": 5000})) == (["passed"], [])


def test_a_warning_does_not_fail(db: Any) -> None:
    states, found = run(db, check("SELECT 1", {"rows": 2}, level="warn"))
    assert (states, found) == (["passed"], [("warn", "It", "2 rows", "1 rows")])


def test_a_check_waits_for_the_versions_that_it_needs(db: Any) -> None:
    red = check("SELECT 1", {"rows": 2}, versions=[VERSION, "20260101000001"])
    lines, findings = named_checks.run(db, [red], [VERSION], control=Control())
    assert lines == [{"name": "it", "title": "It", "state": "left out", "why": "needs 20260101000001"}]
    assert findings == []
    assert run(db, red, applied=red["versions"])[0] == ["failed"]


def test_a_query_that_fails_or_writes_is_a_finding_and_the_others_go_on(db: Any) -> None:
    execute(db, "CREATE TABLE kept (id integer)")
    states, found = run(
        db,
        check("SELECT nothing FROM nowhere", {"rows": 0}),
        check("INSERT INTO kept VALUES (1) RETURNING id", {"rows": 1}),
        check("SELECT 1", {"rows": 1}),
    )
    assert states == ["failed", "failed", "passed"]
    assert '"nowhere" does not exist' in found[0][3]
    assert "read-only transaction" in found[1][3]
    with db.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM kept")
        assert cursor.fetchone() == (0,)


# --- the files ----------------------------------------------------------------------------------------------------------

FILE = """\
title: It
versions: ["20260101000000"]
query: |
  SELECT 1
expect:
  rows: 1
"""


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("it.yml", FILE, None),
        ("it.yml", FILE.replace("rows: 1", "uses: [[a, b]]\n  from: {table: t, rows: 5}\n  within_ms: 9"), None),
        ("It.yml", FILE, "only files <lower_case_name>.yml"),
        ("it.sql", FILE, "only files <lower_case_name>.yml"),
        ("it.yml", "title: [", "not valid YAML"),
        ("it.yml", FILE.replace("title", "titel"), "unknown key 'titel'; did you mean 'title'?"),
        ("it.yml", FILE.replace("rows: 1", "row: 1"), "unknown key 'row' under 'expect'"),
        ("it.yml", FILE.replace("rows: 1", "rows: 1\n  at_least: 1"), "this one rows and at_least"),
        ("it.yml", FILE.replace("rows: 1", "within_ms: 1"), "unknown key 'within_ms'"),
        ("it.yml", FILE.replace("rows: 1", "no_rows: false"), "'no_rows' is not written as it should be"),
        ("it.yml", FILE.replace("rows: 1", "contains: [1]"), "'contains' is not written"),
        ("it.yml", FILE.replace("rows: 1", "in_order: {a: b}"), "'in_order' is not written"),
        ("it.yml", FILE.replace("rows: 1", "equals: [a]"), "'equals' is not written"),
        ("it.yml", FILE.replace("rows: 1", "uses: [a]\n  from: {table: t, rows: 5}"), "'uses' is not written"),
        ("it.yml", FILE.replace("rows: 1", "uses: [[a]]"), "the key 'from' is missing under 'expect'"),
        ("it.yml", FILE.replace("SELECT 1", "DELETE FROM x"), "a check only reads"),
        ("it.yml", FILE.replace("SELECT 1", "SELECT 1; SELECT 2"), "one query, not 2 statements"),
        ("it.yml", FILE.replace("SELECT 1", "SELEC 1"), "checks/it.yml:4"),
        ("it.yml", FILE.replace('"20260101000000"', "next"), "'next' is no version"),
    ],
)
def test_a_file_is_read_or_refused_with_its_line(tmp_path: Path, name: str, text: str, told: str | None) -> None:
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks" / name).write_text(text, encoding="utf-8")
    found, findings = scan_checks(tmp_path, ["20250101000000", "20260101000000"])
    if told is None:
        assert findings == []
        assert [(item["name"], item["level"], item["versions"]) for item in found] == [
            ("it", "fail", ["20260101000000"])
        ]
    else:
        assert found == []
        assert told in "; ".join(map(str, findings))
        with pytest.raises(PgopsError):
            read_checks(tmp_path, ["20250101000000", "20260101000000"])


def test_a_version_that_is_not_there_is_a_warning_unless_it_is_still_to_come(tmp_path: Path) -> None:
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks" / "it.yml").write_text(FILE, encoding="utf-8")
    for newest, warned in (("20250101000000", False), ("20260101000001", True)):
        found, findings = scan_checks(tmp_path, [newest])
        assert [item["name"] for item in found] == ["it"]
        assert [(finding.severity, finding.location) for finding in findings] == [
            ("warning", "checks/it.yml:2")
        ] * warned


def test_a_link_that_leaves_the_tree_is_no_check(tmp_path: Path) -> None:
    (tmp_path / "checks").mkdir()
    (tmp_path / "elsewhere.yml").write_text(FILE, encoding="utf-8")
    (tmp_path / "checks" / "it.yml").symlink_to(tmp_path / "elsewhere.yml")
    found, findings = scan_checks(tmp_path, ["20260101000000"])
    assert (found, [finding.rule for finding in findings]) == ([], ["symlink"])


def test_a_tree_needs_no_checks(tmp_path: Path) -> None:
    assert read_checks(tmp_path) == []


def test_the_shipped_checks_have_the_counts_of_the_handbook(shipped: dict[str, dict[str, Any]]) -> None:
    assert len(shipped["required_tables"]["expect"]["contains"]) == 20
    assert len(shipped["platform_tables"]["expect"]["contains"]) == 42
    assert len(shipped["required_enums"]["expect"]["in_order"]) == 22
    assert len(shipped["configuration_rows"]["expect"]["contains"]) == 12
    assert len(shipped["critical_security_and_search_indexes"]["expect"]["contains"]) == 34


# --- the shipped ones on the shipped chain -------------------------------------------------------------------------------


def versions(chain: list[dict[str, Any]]) -> list[str]:
    return [item["version"] for item in chain]


@EVERY_MAJOR
@pytest.mark.begins()
def test_every_shipped_check_passes_on_the_chain(
    db: Any, chain: list[dict[str, Any]], shipped: dict[str, dict[str, Any]]
) -> None:
    lines, findings = named_checks.run(db, list(shipped.values()), versions(chain), control=Control())
    assert [finding for finding in findings] == []
    # Left out: what waits for a version that is still to come, and plans of empty tables.
    assert {line["name"] for line in lines if line["state"] != "passed"} == {
        name
        for name, item in shipped.items()
        if "uses" in item["expect"] or not set(item["versions"]) <= set(versions(chain))
    }


@pytest.mark.slow
def test_every_shipped_check_holds_from_the_version_on_that_it_names_last(
    target: Any, db: Any, chain: list[dict[str, Any]], shipped: dict[str, dict[str, Any]]
) -> None:
    for version in versions(chain):
        migrate.apply(target, chain, Selection(target=version), way())
        done = [item for item in versions(chain) if item <= version]
        _, findings = named_checks.run(db, list(shipped.values()), done, control=Control())
        assert findings == [], version


@pytest.mark.slow
@pytest.mark.begins()
def test_the_ledger_of_the_tool_before_does_not_fail_the_check_of_keys(
    db: Any, shipped: dict[str, dict[str, Any]]
) -> None:
    execute(db, 'CREATE TABLE "SequelizeMeta" (name varchar(255) PRIMARY KEY)')
    execute(db, "CREATE TABLE _prisma_migrations (id varchar(36) PRIMARY KEY)")
    item = shipped["key_types"]
    assert run(db, item, applied=item["versions"])[1] == []


DAMAGE = [
    ("required_tables", "ALTER TABLE contacts RENAME TO people", "contacts"),
    ("platform_tables", "ALTER TABLE vendors RENAME TO sellers", "vendors"),
    ("required_enums", "ALTER TYPE \"Gender\" RENAME VALUE 'OTHER' TO 'MORE'", "Gender"),
    ("required_enums", 'ALTER TYPE "ConfigScope" RENAME TO "Scope"', "ConfigScope"),
    ("incident_types", "ALTER TYPE \"IncidentType\" RENAME VALUE 'SAFETY' TO 'DANGER'", "IncidentType"),
    ("configuration_rows", "DELETE FROM system_configurations WHERE key = 'SYSTEM_NAME'", "SYSTEM_NAME"),
    ("configuration_trigger", "ALTER TABLE system_configurations DISABLE TRIGGER USER",
     "system_configurations.configuration_change_trigger O"),
    ("key_types", "ALTER TABLE performance_metrics ALTER id DROP DEFAULT, ALTER id TYPE text", "performance_metrics.id"),
    ("health_table_keys", "ALTER TABLE screenings ALTER id DROP DEFAULT",
     "The four tables of the complete health records make their own uuid keys"),
    ("clinical_columns", 'ALTER TABLE vaccinations RENAME "cvxCode" TO code', "vaccinations.cvxCode"),
    ("enum_columns", "ALTER TABLE students ALTER gender TYPE text", "students.gender Gender"),
    ("enum_twins", "CREATE TYPE enum_x AS ENUM ('A'); CREATE TABLE twin (id uuid, x enum_x)", "twin.x"),
    ("tenant_keys", 'ALTER TABLE students DROP CONSTRAINT "students_schoolId_fkey"', "students.schoolId to schools"),
    ("medication_log_key", "ALTER TABLE medication_logs DROP CONSTRAINT fk_medication_logs_medication_id",
     "Each log of a dose refers to a drug, which cannot be deleted any more"),
    ("restricted_deletes", 'ALTER TABLE schools DROP CONSTRAINT "schools_districtId_fkey"',
     "No delete takes records of pupils along"),
    ("direct_rights", "GRANT SELECT ON students TO white_cross_app", "white_cross_app on students"),
    ("phi_marks", "COMMENT ON TABLE students IS 'Pupils.'", "students"),
    ("phi_deleted_at", 'ALTER TABLE vital_signs DROP COLUMN "deletedAt"', "vital_signs.deletedAt"),
    ("phi_authors", 'ALTER TABLE vital_signs DROP COLUMN "updatedBy"', "vital_signs.updatedBy"),
    ("phi_authors", 'ALTER TABLE consent_signatures ALTER "createdAt" TYPE timestamp', "consent_signatures.createdAt"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "told"), DAMAGE)
@pytest.mark.begins()
def test_a_shipped_check_sees_its_damage(
    db: Any, shipped: dict[str, dict[str, Any]], name: str, damage: str, told: str
) -> None:
    item = shipped[name]
    assert run(db, item, applied=item["versions"])[1] == []
    execute(db, damage)
    found = run(db, item, applied=item["versions"])[1]
    assert told in {thing for _, thing, _, _ in found}
    assert {level for level, *_ in found} == {item["level"]}


# Which rows of which tables a soft delete has left as they were.
HALF_DELETED = """
INSERT INTO students ("studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender, "isActive", "deletedAt")
    VALUES ('1', 'P', 'Q', '2015-01-01', '3', 'OTHER', {pupil});
INSERT INTO allergies ("studentId", allergen, active, "deletedAt") SELECT id, 'a', {pupils} FROM students;
INSERT INTO chronic_conditions ("studentId", "conditionName", "diagnosedDate", "isActive", "deletedAt")
    SELECT id, 'c', '2025-01-01', {pupils} FROM students;
INSERT INTO users (email, password, "firstName", "lastName", role, "isActive", "deletedAt")
    VALUES ('a@example.org', 'x', 'A', 'B', 'NURSE', {other});
INSERT INTO medications (name, "isActive", "deletedAt") VALUES ('m', {other});
INSERT INTO inventory_items (name, category, "isActive", "deletedAt") VALUES ('i', 'c', {other});
"""
ACTIVE, DELETED, BOTH = "true, NULL", "false, now()", "true, now()"


@pytest.mark.begins()
def test_a_row_that_is_deleted_and_active_is_told_in_each_table_whose_partial_index_leaves_it_out(
    db: Any, shipped: dict[str, dict[str, Any]]
) -> None:
    item = shipped["deleted_and_active"]
    with db.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT indrelid::regclass::text FROM pg_index WHERE indrelid::regclass::text !~ '^(pg_|pgops)' "
            "AND pg_get_expr(indpred, indrelid) ~ 'deletedAt' ORDER BY 1"
        )
        tables = [table for (table,) in cursor.fetchall()]
    assert len(tables) == 6
    for well in (ACTIVE, DELETED):
        execute(db, HALF_DELETED.format(pupil=well, pupils=well, other=well))
        assert run(db, item, applied=item["versions"]) == (["passed"], [])
        execute(db, "TRUNCATE students, users, medications, inventory_items CASCADE")
    execute(db, HALF_DELETED.format(pupil=BOTH, pupils=BOTH, other=BOTH))
    told = [("warn", table, "no row with deletedAt that is still active", "1 rows") for table in tables]
    assert run(db, item, applied=item["versions"]) == (["passed"], told)


@pytest.mark.begins()
def test_what_a_deleted_pupil_left_behind_is_a_warning(db: Any, shipped: dict[str, dict[str, Any]]) -> None:
    item = shipped["left_behind_by_a_pupil"]
    for pupil, pupils in ((ACTIVE, ACTIVE), (DELETED, DELETED), (DELETED, "false, NULL")):
        execute(db, HALF_DELETED.format(pupil=pupil, pupils=pupils, other=ACTIVE))
        assert run(db, item, applied=item["versions"]) == (["passed"], [])
        execute(db, "TRUNCATE students, users, medications, inventory_items CASCADE")
    execute(db, HALF_DELETED.format(pupil=DELETED, pupils=ACTIVE, other=ACTIVE))
    expected = "no row of a deleted pupil that is not deleted"
    told = [("warn", table, expected, "1 rows") for table in ("allergies", "chronic_conditions")]
    assert run(db, item, applied=item["versions"]) == (["passed"], told)


TABLES = ("required_tables", "platform_tables")


@pytest.mark.begins()
def test_the_key_of_every_table_of_the_chain_is_looked_at_and_nobody_elses(
    db: Any, shipped: dict[str, dict[str, Any]]
) -> None:
    for table in ('"SequelizeMeta" (name varchar(255) PRIMARY KEY)', "lunch (id bigint PRIMARY KEY)"):
        execute(db, f"CREATE TABLE public.{table}")
    item = shipped["key_types"]
    assert run(db, item, applied=item["versions"])[1] == []
    # The same query, made to tell the keys that are uuid.
    with db.cursor() as cursor:
        cursor.execute(item["query"].replace("<> 'uuid'::regtype", "= 'uuid'::regtype"))
        looked_at = {thing.partition(".")[0] for thing, _, _ in cursor.fetchall()}
    assert looked_at == {name for check in TABLES for name in shipped[check]["expect"]["contains"]}


MANY = """
    INSERT INTO districts (name, code) VALUES ('North', 'N');
    INSERT INTO schools (name, code, "districtId") SELECT 'S' || n, n::text, d.id FROM districts AS d, generate_series(1, 200) AS n;
    INSERT INTO users (email, password, "firstName", "lastName", role, "lockoutUntil")
        SELECT n || '@example.org', 'x', 'A', 'B', 'NURSE', CASE WHEN n % 500 = 0 THEN now() + interval '1 hour' END
        FROM generate_series(1, 12000) AS n;
    INSERT INTO students ("studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender, "schoolId")
        SELECT n::text, 'P' || n, 'Q' || n % 700, '2015-01-01', '3', 'OTHER', s.id
        FROM generate_series(1, 12000) AS n JOIN schools AS s ON s.code = (1 + n % 200)::text;
    INSERT INTO health_records ("studentId", "recordType", title, description, "recordDate")
        SELECT id, 'CHECKUP', 't', 'd', '2025-01-01' FROM students;
    INSERT INTO medications (name) SELECT CASE WHEN n % 1000 = 0 THEN 'Ibuprofen ' ELSE 'Drug' END || n
        FROM generate_series(1, 12000) AS n;
    INSERT INTO student_medications ("studentId", "medicationId", dosage, frequency, "startDate", "prescribedBy")
        SELECT s.id, m.id, '1', 'daily', '2025-01-01', 'Dr'
        FROM (SELECT id, row_number() OVER () AS n FROM students) AS s
        JOIN (SELECT id, row_number() OVER () AS n FROM medications) AS m ON m.n = s.n;
    INSERT INTO medication_logs ("studentMedicationId", "nurseId", "timeGiven", "dosageGiven")
        SELECT p.id, (SELECT id FROM users LIMIT 1), '2025-01-02', '1' FROM student_medications AS p, generate_series(1, 2);
    ANALYZE;
"""


@pytest.mark.slow
@pytest.mark.begins()
def test_plans_are_judged_on_a_realistic_volume(
    db: Any, chain: list[dict[str, Any]], shipped: dict[str, dict[str, Any]]
) -> None:
    execute(db, MANY)
    plans = [
        item for item in shipped.values() if "uses" in item["expect"] and set(item["versions"]) <= set(versions(chain))
    ]
    assert len(plans) >= 2
    lines, findings = named_checks.run(db, plans, versions(chain), control=Control())
    assert [(line["name"], line["state"]) for line in lines] == [(item["name"], "passed") for item in plans]
    assert [finding for finding in findings if finding.attribute == "plan"] == []
    # Without its indexes the same check says so.
    names = [name for item in plans for group in item["expect"]["uses"] for name in group]
    with db.cursor() as cursor:
        cursor.execute("SELECT indexname FROM pg_indexes WHERE indexname = ANY (%s)", (names,))
        for (name,) in cursor.fetchall():
            cursor.execute(f'DROP INDEX "{name}"')
    _, findings = named_checks.run(db, plans, versions(chain), control=Control())
    assert {finding.check for finding in findings if finding.attribute == "plan"} >= {
        f"check {item['name']}" for item in plans
    }


# --- on the screen, in verify.yml, in inspect.yml ------------------------------------------------------------------------


def test_the_screen_counts_the_checks_or_names_each() -> None:
    lines = [
        {"name": "a", "title": "A", "state": "passed", "why": None},
        {"name": "b", "title": "B", "state": "failed", "why": None},
        {"name": "c", "title": "C", "state": "left out", "why": "needs 2"},
    ]
    told = screen("db", {"checks": lines, "passed": False, "findings": []})
    assert "    check             1 passed, 1 FAILED, 1 left out" in told
    told = screen("db", {"checks": lines, "passed": False, "findings": []}, verbose=True)
    assert [line.strip() for line in told if "check " in line] == [
        "pass   check a: A", "FAIL   check b: B", "-      check c: C (left out: needs 2)",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.begins()
def test_verify_yml_runs_the_checks_of_the_tree(playbook: Any, target: Any, server: Any) -> None:
    done = playbook("verify.yml")
    assert done.rc == 0, done.output
    found = done.json["hosts"]["local-1"][target.database]["verify"]
    assert {line["name"] for line in found["checks"] if line["state"] == "passed"} >= {
        "required_tables",
        "required_enums",
    }
    server.execute("DELETE FROM system_configurations WHERE key = 'MAINTENANCE_MODE'", database=target.database)
    done = playbook("verify.yml", verify_compare_schema=False)
    assert done.rc != 0
    assert "check configuration_rows: MAINTENANCE_MODE: expected present, found missing" in done.stdout


@pytest.mark.slow
@pytest.mark.begins()
def test_what_only_informs_is_a_query_of_inspect(target: Any, db: Any) -> None:
    execute(db, MANY)

    def ask(name: str, **given: str) -> list[dict[str, Any]]:
        query = inspect_queries.choose(name, given)
        asked = target.as_backup() if query.reads_rows else target
        return inspection.inspect(asked, query.text, {"table": None, "enum": None, **given}, name=name)["rows"]

    used = {row["name"]: row for row in ask("index_usage", table="students")}
    assert used["students_pkey"]["unique"] is True
    assert used["students_pkey"]["bytes"] > 0
    assert ask("sizes")[0]["total_bytes"] >= ask("sizes")[1]["total_bytes"] > 0
    age = {row["table"]: row for row in ask("data_age")}
    assert (age["students"]["rows"], age["health_records"]["rows"], age["medications"]["rows"]) == (12000, 12000, 12000)
    assert age["students"]["oldest"] <= age["students"]["newest"]
    assert "studentNumber" in [row["column"] for row in ask("required_columns", table="students")]
    assert "createdAt" not in [row["column"] for row in ask("required_columns", table="students")]
    (public,) = [row for row in ask("schema_counts") if row["schema"] == "public"]
    assert public["tables"] >= 62
    assert public["enums"] >= 22
    phi = {row["name"]: row for row in ask("phi_tables")}
    assert phi["students"]["certain"] is True
    assert phi["students"]["lacks"] is None
    assert phi["documents"]["certain"] is False
    assert [row["name"] for row in phi.values() if row["certain"] and row["lacks"]] == []
    execute(db, 'ALTER TABLE medication_logs DROP COLUMN "createdBy", DROP COLUMN "updatedBy"')
    (logs,) = [row for row in ask("phi_tables") if row["name"] == "medication_logs"]
    assert logs["lacks"] == "createdBy, updatedBy"
    assert "PHI" in {row["name"]: row for row in ask("tables")}["students"]["comment"]
