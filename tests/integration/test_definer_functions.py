# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Functions of the chain that run with the owner's rights: nobody reaches them but by the way that they are made for."""

from __future__ import annotations

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, execute, fetch_all
from support.engine import do, rows
from support.server import BACKUP, GROUPS, OWNER, Server

WHOLE_CHAIN = pytest.mark.begins()
MAJORS = pytest.mark.majors(15, 18, slow=(15,))

# A table of one's own with the trigger of another one: what the function writes, it writes with the owner's rights.
FORGED_SETTING = (
    'CREATE TEMP TABLE forged (key text, value text, "lastModifiedBy" uuid, id uuid)',
    "CREATE TRIGGER f AFTER UPDATE ON forged FOR EACH ROW EXECUTE FUNCTION public.log_configuration_change()",
    "INSERT INTO forged SELECT key, '5', gen_random_uuid(), id FROM system_configurations WHERE key = 'MAX_LOGIN_ATTEMPTS'",
    "UPDATE forged SET value = '1000000'",
)
FORGED_PUPIL = (
    "CREATE TEMP TABLE students (id uuid)",
    "CREATE TRIGGER f AFTER DELETE ON students FOR EACH ROW EXECUTE FUNCTION public.audit_phi_change()",
    "INSERT INTO students VALUES (gen_random_uuid())",
    "DELETE FROM students",
)
# Nothing would be written, but the school of any account told.
ASKED_SCHOOL = (
    'CREATE TEMP TABLE messages ("senderId" uuid, "schoolId" uuid, "districtId" uuid)',
    "CREATE TRIGGER f BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION public.bind_to_school()",
    'INSERT INTO messages ("senderId") VALUES (gen_random_uuid())',
)
FORGED = {
    "log_configuration_change": (FORGED_SETTING, "SELECT count(*) AS n FROM configuration_history"),
    "audit_phi_change": (FORGED_PUPIL, "SELECT count(*) AS n FROM audit_logs WHERE \"entityType\" = 'students'"),
    "bind_to_school": (ASKED_SCHOOL, "SELECT count(*) AS n FROM messages"),
}
OF_THE_OWNERS_RIGHTS = f"""
    SELECT p.oid::regproc::text AS name, p.prorettype = 'trigger'::regtype AS of_trigger, p.proconfig AS settings,
           coalesce((SELECT array_agg(CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END ORDER BY 1)
                       FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
                      WHERE a.grantee <> p.proowner), '{{}}') AS others
      FROM pg_proc AS p
     WHERE p.prosecdef AND p.pronamespace = 'public'::regnamespace AND p.proowner = '{OWNER}'::regrole
     ORDER BY 1
"""


def forge(server: Server, database: str, statements: tuple[str, ...]) -> None:
    with server.session(database, BACKUP) as conn:
        for statement in statements:
            execute(conn, statement)


@WHOLE_CHAIN
@MAJORS
@pytest.mark.parametrize("function", FORGED)
def test_a_role_that_may_only_read_forges_no_history(server: Server, target: Target, function: str) -> None:
    statements, written = FORGED[function]
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match=f"permission denied for function .*{function}"):
        forge(server, target.database, statements)
    assert rows(target, written) == [{"n": 0}]


@WHOLE_CHAIN
@pytest.mark.parametrize("function", FORGED)
def test_a_trigger_of_another_table_is_refused_by_the_function_itself(
    server: Server, target: Target, function: str
) -> None:
    """What default privileges of the owner may have given away."""
    statements, written = FORGED[function]
    do(target, f"GRANT EXECUTE ON FUNCTION {function}() TO {BACKUP}")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="is no table of"):
        forge(server, target.database, statements)
    assert rows(target, written) == [{"n": 0}]


@WHOLE_CHAIN
def test_each_of_them_is_closed_and_looks_nowhere_but_where_it_says(target: Target) -> None:
    found = rows(target, OF_THE_OWNERS_RIGHTS)
    assert {row["name"] for row in found} >= {"acting_user", "audit_phi_change", "log_configuration_change"}
    for row in found:
        # Without pg_temp at the end a temporary table or type of the caller's comes first.
        assert row["settings"] == ["search_path=pg_catalog, pg_temp"], row["name"]
        assert set(row["others"]) <= (set() if row["of_trigger"] else set(GROUPS)), row["name"]


@WHOLE_CHAIN
@MAJORS
def test_a_setting_that_is_changed_where_it_belongs_is_still_kept(server: Server, target: Target) -> None:
    do(target, "UPDATE system_configurations SET value = '7' WHERE key = 'MAX_LOGIN_ATTEMPTS'")
    assert rows(target, 'SELECT "configKey", "oldValue", "newValue" FROM configuration_history') == [
        {"configKey": "MAX_LOGIN_ATTEMPTS", "oldValue": "5", "newValue": "7"}
    ]
    with server.session(target.database, BACKUP) as conn:
        assert len(fetch_all(conn, "SELECT FROM configuration_history")) == 1
