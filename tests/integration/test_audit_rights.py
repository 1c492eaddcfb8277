# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The audit with an owner of its own: who migrates adds rows, and changes nothing; a backup of it is still a backup."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import audit_rights, history, ledger, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from support.backups import back_up, prove
from support.engine import rows, way
from support.module import call
from support.server import APP, MIGRATOR, OWNER, SUPERUSER
from support.tree import TestTree

V1 = "20260101000001"


@pytest.fixture
def role(server: Any, database: str) -> Iterator[str]:
    """A name of this test's own: roles are the cluster's."""
    name = f"audit_{database}"
    yield name
    server.drop_databases(f"{database}_")
    server.execute(
        f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC; DROP OWNED BY {name} CASCADE", database=database
    )
    server.execute(f"DROP ROLE IF EXISTS {name}")


@pytest.fixture
def protected(target: Any, role: str) -> Any:
    conn = connect(target, application_name="test")
    ledger.ensure(conn)
    ledger.append_audit(conn, "old")
    conn.close()
    with closing(connect(target.as_restore(), application_name="test")) as admin:
        found = audit_rights.protect(admin, role, APP)
        assert found["changed"]
        assert audit_rights.protect(admin, role, APP)["done"] == []
    return target


@pytest.mark.majors(15, 18, slow=(15,))
@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE pgops.audit DISABLE TRIGGER ALL",
        "DROP TABLE pgops.audit",
        "DROP SCHEMA pgops CASCADE",
        "TRUNCATE pgops.audit",
        "DELETE FROM pgops.audit",
        "UPDATE pgops.audit SET event = 'x'",
        "ALTER SCHEMA pgops RENAME TO gone",
        "CREATE OR REPLACE FUNCTION pgops.refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER eat BEFORE INSERT ON pgops.audit FOR EACH ROW EXECUTE FUNCTION pgops.refuse_audit_change()",
        "CREATE RULE eat AS ON INSERT TO pgops.audit DO INSTEAD NOTHING",
    ],
)
def test_who_migrates_cannot_touch_what_is_written(protected: Any, statement: str) -> None:
    with closing(connect(protected, application_name="test")) as conn:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            execute(conn, statement)
        ledger.append_audit(conn, "new")
    assert [row["event"] for row in rows(protected, "SELECT event FROM pgops.audit ORDER BY seq")] == ["old", "new"]


@pytest.mark.majors(15, 18, slow=(15,))
def test_a_migration_a_backup_its_proof_and_a_restore_go_as_before(protected: Any, server: Any, tmp_path: Path) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "create_people", "CREATE TABLE people (id int PRIMARY KEY);\n", "DROP TABLE people;\n")
    migrate.apply(protected, tree.render(), Selection(), way())
    backup = back_up(protected, tmp_path)
    assert prove(protected, backup)["tables"] >= 1
    copy = f"{protected.database}_copy"
    server.create_database(copy, OWNER, template=protected.database)
    with (
        closing(connect(protected, application_name="test")) as source,
        closing(connect(replace(protected, database=copy).as_restore(), application_name="test")) as restored,
    ):
        ledger.append_audit(source, "later")
        assert history.carry(source, restored, owner=OWNER)["audit_rows"] == 1
        assert ledger.ensure(source) is False


def test_the_auditor_reads_and_no_more(protected: Any, server: Any) -> None:
    with server.session(protected.database, APP) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pgops.audit")
        assert cursor.fetchone() == (1,)
        for statement in ("INSERT INTO pgops.audit SELECT * FROM pgops.audit", "SELECT * FROM pgops.migration"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(statement)


def test_a_right_that_was_given_beyond_is_taken_back(protected: Any, server: Any, role: str) -> None:
    server.execute(
        f"GRANT ALL ON pgops.audit TO {OWNER}; GRANT UPDATE, TRIGGER ON pgops.audit TO {APP}; GRANT TRUNCATE ON pgops.audit TO PUBLIC",
        database=protected.database,
    )
    with closing(connect(protected.as_restore(), application_name="test")) as admin:
        assert audit_rights.protect(admin, role, None)["changed"]
        assert audit_rights.protect(admin, role, None)["done"] == []


def test_it_is_refused_where_it_would_protect_nothing(target: Any, server: Any, role: str) -> None:
    with closing(connect(target.as_restore(), application_name="test")) as admin:
        with pytest.raises(PgopsError, match="has no audit yet"):
            audit_rights.protect(admin, role, None)
        with closing(connect(target, application_name="test")) as conn:
            ledger.ensure(conn)
        with pytest.raises(PgopsError, match=f"{OWNER} migrates database"):
            audit_rights.protect(admin, OWNER, None)
        with pytest.raises(PgopsError, match="There is no role nobody_there"):
            audit_rights.protect(admin, role, "nobody_there")
        server.execute(f"CREATE ROLE {role}; GRANT {role} TO {OWNER}")
        with pytest.raises(PgopsError, match=f"{OWNER} is a member of {role}"):
            audit_rights.protect(admin, role, None)
    assert rows(
        target, "SELECT relowner::regrole::text AS owner FROM pg_class WHERE oid = 'pgops.audit'::regclass"
    ) == [{"owner": OWNER}]


def test_a_role_without_the_rights_is_told_and_changes_nothing(target: Any, server: Any, role: str) -> None:
    with closing(connect(target, application_name="test")) as conn:
        ledger.ensure(conn)
    result = call("audit_protect", replace(target, restore_user=MIGRATOR), role=role)
    assert result["failed"]
    assert f"Role {MIGRATOR} may not give the audit of {target.database} its own owner" in result["msg"]
    assert server.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'") == []
    server.execute(f"CREATE ROLE {role}")


def test_check_mode_tells_and_writes_nothing(target: Any, server: Any, role: str) -> None:
    with closing(connect(target, application_name="test")) as conn:
        ledger.ensure(conn)
    told = call("audit_protect", target, check_mode=True, role=role)
    assert told["changed"]
    assert told["databases"][target.database]["done"][0] == f"role {role} made, without login"
    assert server.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'") == []
    done = call("audit_protect", target, role=role)
    assert (done["changed"], call("audit_protect", target, role=role)["changed"]) == (True, False)
    assert SUPERUSER not in done["databases"][target.database]["done"][1]


# -- a sign-off -----------------------------------------------------------------------------------------------------------------


def test_a_run_is_signed_off_by_a_row_of_its_own(target: Any) -> None:
    with closing(connect(target, application_name="test")) as conn:
        ledger.ensure(conn)
        ledger.append_audit(conn, "applied", run_id="one")
    given = {"signed_run": "one", "signed_by": "Grace Murray", "note": "as planned", "typed_by": "grace"}
    assert call("audit_sign_off", target, check_mode=True, **given)["databases"][target.database] == {"head": None}
    assert call("audit_sign_off", target, **given)["databases"][target.database]["head"]["seq"] == 2
    (row,) = rows(target, "SELECT detail FROM pgops.audit WHERE event = 'signed_off'")
    assert row["detail"] == {
        "run": "one",
        "name": "Grace Murray",
        "role": "reviewer",
        "note": "as planned",
        "typed_by": "grace",
    }
    for wrong, told in (
        ({"signed_run": "two"}, "knows no run two"),
        ({"signed_by": " "}, "names the run and who signs"),
    ):
        result = call("audit_sign_off", target, **{**given, **wrong})
        assert (result["failed"], told in result["msg"]) == (True, True)


def test_the_playbooks_protect_and_sign_off(playbook: Any, target: Any, role: str) -> None:
    with closing(connect(target, application_name="test")) as conn:
        ledger.ensure(conn)
        ledger.append_audit(conn, "applied", run_id="one")
    done = playbook("audit_protect.yml", audit_owner=role)
    assert (done.rc, f"pgops.audit and its schema belong to {role}" in done.stdout) == (0, True), done.output
    signed = playbook("audit_sign_off.yml", audit_sign_off_run="one", audit_sign_off_name="Grace Murray")
    assert signed.rc == 0, signed.output
    assert "run one is signed off by Grace Murray (reviewer)" in signed.stdout
    (row,) = rows(target, "SELECT detail ->> 'typed_by' AS typed_by FROM pgops.audit WHERE event = 'signed_off'")
    assert row["typed_by"]
