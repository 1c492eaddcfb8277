# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A table of PHI is split: the people of the platform go on, by their group roles, and the new table lets each of them see
and do what the column did, in the same rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate
from ansible_collections.whitecross.pgops.plugins.module_utils import verify as verification
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_tree, scaffold
from support.engine import do, rows, way
from support.server import APP, GROUPS, OWNER, Server

SQL = Path(__file__).resolve().parents[2] / "sql"
OLD, NEW = "incident_reports", "incident_follow_ups"
SPLIT = {"table": OLD, "column": "followUpNotes", "to": NEW, "type": "text", "comment": "PHI"}

PEOPLE = """
    INSERT INTO districts (id, name, code) VALUES ('00000000-0000-0000-0000-0000000000d1', 'NORTH', 'NORTH');
    INSERT INTO schools (id, name, code, "districtId") SELECT v.s::uuid, v.name, v.name, d.id FROM districts AS d, (VALUES
        ('00000000-0000-0000-0000-00000000000a', 'A'), ('00000000-0000-0000-0000-00000000000b', 'B')) AS v (s, name);
    INSERT INTO users (email, password, "firstName", "lastName", role, "schoolId", "districtId")
        SELECT lower(r || '.' || s.code), 'secret', r, s.code, r::"UserRole", s.id, NULL
        FROM schools AS s, unnest(ARRAY['SCHOOL_ADMIN', 'NURSE', 'COUNSELOR', 'VIEWER']) AS r
        UNION ALL SELECT 'district_admin.a', 'secret', 'D', d.code, 'DISTRICT_ADMIN', NULL, d.id FROM districts AS d
        UNION ALL SELECT 'admin.a', 'secret', 'A', 'A', 'ADMIN', NULL, NULL;
    INSERT INTO students ("studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender, "schoolId", "districtId")
        SELECT s.code || n, 'P' || n, s.code, '2015-01-01', '3', 'OTHER', s.id, s."districtId"
        FROM schools AS s, generate_series(1, 2) AS n;
    INSERT INTO incident_reports ("studentId", "reportedById", type, severity, "occurredAt", description, "followUpNotes")
        SELECT p.id, u.id, 'OTHER', 'LOW', now(), 'd', 'note of ' || p."studentNumber"
        FROM students AS p JOIN users AS u ON u."schoolId" = p."schoolId" AND u.role = 'NURSE';
"""
ADD = """
    INSERT INTO incident_reports ("studentId", "reportedById", type, severity, "occurredAt", description{column})
    SELECT p.id, u.id, 'OTHER', 'LOW', now(), 'd'{value} FROM students AS p, users AS u
    WHERE p."studentNumber" = 'A1' AND u.email = 'nurse.a' RETURNING id
"""
OLD_CODE = ADD.format(column=', "followUpNotes"', value=", 'rest'")
NEW_CODE = ADD.format(column="", value="")
WRITE_NEW = (
    'INSERT INTO incident_follow_ups (id, "followUpNotes") VALUES (%s, %s) '
    'ON CONFLICT (id) DO UPDATE SET "followUpNotes" = excluded."followUpNotes"'
)


class School:
    """The shipped schema with people of two schools, and the three versions that split the incidents."""

    def __init__(self, server: Server, target: Target, folder: Path) -> None:
        self.server, self.target = server, target
        do(target, PEOPLE)
        tree = folder / "sql"
        shutil.copytree(SQL / "migrations", tree / "migrations")
        scaffold.write_all(scaffold.plan(tree, "move_incident_follow_up", pattern="split_table", variables=SPLIT))
        self.migrations = migration_tree.render(migration_tree.scan_tree(tree))
        self.run = 0

    def up(self, parts: int = 1) -> None:
        self.run += 1
        migrate.apply(self.target, self.migrations, Selection(steps=parts), way(f"20260101T000000Z-{self.run:06d}"))

    def down(self) -> None:
        self.run += 1
        migrate.revert(self.target, Reverts(), way(f"20260101T000000Z-{self.run:06d}"))

    @contextmanager
    def acting(self, account: str) -> Iterator[Any]:
        """The application's session, in a transaction for one account."""
        (found,) = rows(self.target, f"SELECT id FROM users WHERE email = '{account}'")
        with self.server.session(self.target.database, APP) as conn:
            execute(conn, "BEGIN")
            execute(conn, f"SET LOCAL ROLE white_cross_{account.partition('.')[0]}")
            execute(conn, f"SET LOCAL app.user_id = '{found['id']}'")
            yield conn
            if conn.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_INTRANS:
                execute(conn, "COMMIT")

    def adds(self, account: str, statement: str = OLD_CODE) -> str:
        with self.acting(account) as conn:
            return str(fetch_all(conn, statement)[0]["id"])

    def seen(self, account: str, query: str) -> list[Any]:
        with self.acting(account) as conn:
            return sorted(next(iter(row.values())) for row in fetch_all(conn, query))

    def warnings(self) -> list[str]:
        result = verification.verify({self.target.database: self.target})[self.target.database]
        return [verification.sentence(found) for found in result["findings"] if found["level"] != "notice"]


@pytest.fixture
def school(server: Server, target: Target, tmp_path: Path) -> School:
    return School(server, target, tmp_path)


pytestmark = pytest.mark.begins


@pytest.mark.majors(15, 18, slow=(15,))
def test_a_nurse_goes_on_in_old_code_and_in_new(school: School) -> None:
    in_old, in_new = ('SELECT "followUpNotes" AS n FROM ' + table for table in (OLD, NEW))
    for _ in range(2):
        school.up()
        added = school.adds("nurse.a")
        with school.acting("nurse.a") as conn:
            assert fetch_all(conn, f"{in_new} WHERE id = %s", (added,)) == [{"n": "rest"}]
            execute(conn, f"UPDATE {OLD} SET \"followUpNotes\" = 'more' WHERE id = %s", (added,))
            assert fetch_all(conn, f"{in_new} WHERE id = %s", (added,)) == [{"n": "more"}]
    added = school.adds("nurse.a", NEW_CODE)
    with school.acting("nurse.a") as conn:
        execute(conn, WRITE_NEW, (added, "new"))
        assert fetch_all(conn, f"{in_old} WHERE id = %s", (added,)) == [{"n": "new"}]
    school.up()
    added = school.adds("nurse.a", NEW_CODE)
    with school.acting("nurse.a") as conn:
        execute(conn, WRITE_NEW, (added, "last"))
    assert school.seen("nurse.a", in_new) == ["last", "more", "more", "new", "note of A1", "note of A2"]
    school.down()
    assert school.seen("nurse.a", in_old) == ["last", "more", "more", "new", "note of A1", "note of A2"]
    added = school.adds("nurse.a")
    with school.acting("nurse.a") as conn:
        execute(conn, WRITE_NEW, (added, "both"))
        assert fetch_all(conn, f"{in_old} WHERE id = %s", (added,)) == [{"n": "both"}]


def test_each_sees_the_rows_of_the_new_table_that_he_sees_of_the_old_one(school: School) -> None:
    school.up(2)
    for group in (name.removeprefix("white_cross_") for name in GROUPS):
        for account in [f"{group}.a"] + [f"{group}.b"] * (group not in ("admin", "district_admin")):
            assert school.seen(account, f"SELECT id FROM {NEW}") == school.seen(account, f"SELECT id FROM {OLD}")
    assert school.seen("nurse.b", f'SELECT "followUpNotes" AS n FROM {NEW}') == ["note of B1", "note of B2"]
    with school.acting("viewer.a") as conn, pytest.raises(psycopg2.errors.InsufficientPrivilege):
        execute(conn, f'SELECT "followUpNotes" FROM {NEW}')


@pytest.mark.parametrize("parts", [2, 3])
def test_nobody_writes_a_row_of_another_school_through_the_new_table(school: School, parts: int) -> None:
    school.up(parts)
    do(school.target, f"DELETE FROM {NEW} WHERE \"followUpNotes\" = 'note of B1'")
    (gone,) = rows(
        school.target, f"SELECT id::text FROM {OLD} AS o WHERE NOT EXISTS (SELECT FROM {NEW} AS n WHERE n.id = o.id)"
    )
    with (
        school.acting("nurse.a") as conn,
        pytest.raises(psycopg2.errors.InsufficientPrivilege, match="row-level security"),
    ):
        execute(conn, WRITE_NEW, (gone["id"], "mine"))
    with school.acting("nurse.a") as conn:
        assert fetch_all(conn, f"UPDATE {NEW} SET \"followUpNotes\" = 'mine' RETURNING 1 AS one") == [{"one": 1}] * 2
    # What she may not do with the report she may not do with its notes.
    with school.acting("nurse.a") as conn, pytest.raises(psycopg2.errors.InsufficientPrivilege):
        execute(conn, f"DELETE FROM {NEW}")
    with school.acting("district_admin.a") as conn, pytest.raises(psycopg2.errors.InsufficientPrivilege):
        execute(conn, f"UPDATE {NEW} SET \"followUpNotes\" = 'mine'")


def test_the_new_table_is_protected_and_audited_as_the_old_one(school: School) -> None:
    assert school.warnings() == []
    school.up()
    assert school.warnings() == []
    added = school.adds("nurse.a")
    told = rows(
        school.target,
        "SELECT \"entityType\" AS t, action::text AS a, changes ->> 'role' AS r FROM audit_logs "
        f"WHERE \"entityId\"::text = '{added}' ORDER BY 1",
    )
    assert told == [{"t": name, "a": "CREATE", "r": "white_cross_nurse"} for name in (NEW, OLD)]
    enabled = rows(
        school.target,
        f"SELECT tgname::text AS name, tgenabled::text AS state FROM pg_trigger WHERE tgrelid = '{NEW}'::regclass "
        "AND tgname LIKE 'phi%' ORDER BY 1",
    )
    assert enabled == [{"name": name, "state": "A"} for name in ("phi_audit", "phi_audit_truncate")]


def test_who_may_only_add_goes_on_as_well(school: School) -> None:
    do(school.target, f"REVOKE UPDATE ON {OLD} FROM white_cross_nurse")
    school.up()
    assert school.adds("nurse.a") in school.seen("nurse.a", f"SELECT id::text FROM {NEW}")


def test_default_privileges_open_nothing_that_was_closed(school: School) -> None:
    do(
        school.target,
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} IN SCHEMA public GRANT SELECT ON TABLES TO white_cross_viewer, PUBLIC",
    )
    do(school.target, f'GRANT SELECT (id, "followUpNotes") ON {OLD} TO {APP} WITH GRANT OPTION')
    school.up()
    may = [
        f"has_column_privilege('{role}', '{NEW}', '{column}', '{right}') AS \"{role} {column} {right}\""
        for role, column, right in (
            ("white_cross_viewer", "id", "select"),
            ("white_cross_viewer", "followUpNotes", "select"),
            ("public", "id", "select"),
            (APP, "followUpNotes", "select with grant option"),
            (APP, "followUpNotes", "update"),
        )
    ]
    assert list(rows(school.target, f"SELECT {', '.join(may)}")[0].values()) == [True, False, False, True, False]
    run = "SELECT has_function_privilege('public', '\"incident_reports_followUpNotes_split\"()', 'execute') AS may"
    assert rows(school.target, run) == [{"may": False}]


HINDRANCES = {
    "policy quiet names the column": "CREATE POLICY quiet ON {} AS RESTRICTIVE FOR SELECT USING (\"followUpNotes\" <> 'x')",
    "trigger odd has a condition": "CREATE TRIGGER odd AFTER UPDATE ON {} FOR EACH ROW WHEN (OLD.location IS NULL) "
    "EXECUTE FUNCTION audit_phi_change()",
    "trigger odd refuses changes": "CREATE TRIGGER odd BEFORE UPDATE ON {} FOR EACH STATEMENT "
    "EXECUTE FUNCTION keep_audit_logs()",
}


@pytest.mark.parametrize("told", HINDRANCES)
def test_it_stops_where_a_protection_cannot_be_carried_over(school: School, told: str) -> None:
    do(school.target, HINDRANCES[told].format(OLD))
    with pytest.raises(PgopsError, match=f"What protects {OLD} cannot protect {NEW} as well: {told}"):
        school.up()
    assert rows(school.target, f"SELECT to_regclass('{NEW}') IS NULL AS none") == [{"none": True}]
