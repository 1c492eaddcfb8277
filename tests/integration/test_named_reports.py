# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The reports on accounts and pupils: right counts, no person in them, small cells hidden, an index each, one sentence where nothing is there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import inspection
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import inspect_queries
from support.server import MIGRATOR

# Each report, the indexes that its plan can go by, and a column without which it counts nothing.
REPORTS = {
    "account_lockouts": (["idx_users_active_lockouts", "idx_users_failed_login_monitoring"], 'users."lockoutUntil"'),
    "password_rotation": (
        ["idx_users_password_rotation", "idx_users_force_password_change"],
        'users."lastPasswordChange"',
    ),
    "mfa_enrolment": (["idx_users_mfa_not_enabled", "idx_users_two_factor_enabled"], 'users."mfaEnabled"'),
    "unverified_accounts": (["idx_users_unverified_email", "idx_users_is_email_verified"], 'users."isEmailVerified"'),
    "open_tokens": (
        ["idx_users_password_reset_token", "idx_users_email_verification_token"],
        'users."passwordResetExpires"',
    ),
    "sign_in_providers": (["idx_users_oauth_provider"], 'users."oauthProvider"'),
    "education_plans": (
        ["idx_chronic_conditions_iep_compliance", "idx_chronic_conditions_504_compliance"],
        "chronic_conditions.requires504",
    ),
    "epipen_expiry": (["idx_allergies_epipen_expiration"], 'allergies."epiPenRequired"'),
    "medication_refills": (
        ["idx_student_medications_refill_tracking", "idx_student_medications_end_date_monitoring"],
        'student_medications."refillsRemaining"',
    ),
}
OF_PUPILS = ("education_plans", "epipen_expiry", "medication_refills")

# Accounts: one row a line, told by its address. What an account does not say is as the tables have it.
ACCOUNT = """
INSERT INTO users (email, password, "firstName", "lastName", "createdAt", {columns})
VALUES ('{name}@example.org', 'hash', 'Ada', 'Lovelace', now() - interval '{age}', {values});
"""
VERIFIED = '"emailVerified", "isEmailVerified"'


def account(name: str, columns: str, values: str, age: str = "1 hour") -> str:
    return ACCOUNT.format(name=name, columns=columns, values=values, age=age)


ACCOUNTS = "".join(
    account(*given)
    for given in [
        ("locked", f'{VERIFIED}, role, "lockoutUntil", "failedLoginAttempts"', "true, true, 'NURSE', now() + interval '1 hour', 6"),
        ("over", f'{VERIFIED}, role, "lockoutUntil", "failedLoginAttempts"', "true, true, 'NURSE', now() - interval '1 hour', 5"),
        ("guessed", f'{VERIFIED}, role, "failedLoginAttempts"', "true, true, 'NURSE', 3"),
        ("mistyped", f'{VERIFIED}, role, "failedLoginAttempts"', "true, true, 'NURSE', 2"),
        ("gone", f'{VERIFIED}, role, "failedLoginAttempts", "isActive"', "true, true, 'NURSE', 9, false"),
        ("deleted", f'{VERIFIED}, role, "failedLoginAttempts", "deletedAt"', "true, true, 'NURSE', 9, now()"),
        ("fresh", f'{VERIFIED}, role, "lastPasswordChange"', "true, true, 'VIEWER', now() - interval '75 days'"),
        ("due", f'{VERIFIED}, role, "lastPasswordChange"', "true, true, 'VIEWER', now() - interval '77 days'"),
        ("overdue", f'{VERIFIED}, role, "lastPasswordChange", "mustChangePassword"',
         "true, true, 'VIEWER', now() - interval '91 days', true"),
        ("legacy", f'{VERIFIED}, role, "twoFactorEnabled"', "true, true, 'ADMIN', true"),
        ("both", f'{VERIFIED}, role, "twoFactorEnabled", "mfaEnabled"', "true, true, 'ADMIN', true, true"),
        ("on", f'{VERIFIED}, role, "mfaEnabled"', "true, true, 'ADMIN', true"),
        ("neither", f"{VERIFIED}, role", "false, false, 'COUNSELOR'", "20 days"),
        ("newer", f"{VERIFIED}, role", "false, true, 'COUNSELOR'", "100 days"),
        ("older", f"{VERIFIED}, role", "true, false, 'COUNSELOR'", "100 days"),
        ("resets", f'{VERIFIED}, role, "passwordResetToken", "passwordResetExpires"',
         "true, true, 'COUNSELOR', 'sesame-1', now() + interval '1 hour'"),
        ("left", f'{VERIFIED}, role, "passwordResetToken", "passwordResetExpires", "isActive"',
         "true, true, 'COUNSELOR', 'sesame-2', now() + interval '1 hour', false"),
        ("late", f'{VERIFIED}, role, "emailVerificationToken", "emailVerificationExpires"',
         "true, true, 'COUNSELOR', 'sesame-3', now() - interval '2 days'"),
        ("google", f'{VERIFIED}, role, "oauthProvider", "oauthProviderId", "lastLogin"',
         "true, true, 'COUNSELOR', 'google', 'sub-4711', now()"),
        ("wrong", f'{VERIFIED}, role, "oauthProvider", "oauthProviderId"', "true, true, 'COUNSELOR', 'ada@example.org', 'sub-4712'"),
    ]
)  # fmt: skip

# Grade 3 has nine pupils with an IEP, five of whose reviews are overdue; four of grade 4 have a 504 plan; a grade of one pupil is no grade.
PUPILS = """
INSERT INTO students ("studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender)
SELECT 'N' || n, 'Grace', 'Hopper', '2015-01-01', CASE WHEN n <= 10 THEN '3' WHEN n < 20 THEN '4' ELSE 'Hopper' END, 'OTHER'
  FROM generate_series(1, 20) AS n;
CREATE TEMP TABLE p AS SELECT id, substr("studentNumber", 2)::int AS n FROM students;
INSERT INTO chronic_conditions ("studentId", "conditionName", "diagnosedDate", "requiresIEP", requires504, "nextReviewDate")
SELECT id, 'asthma', '2024-01-01', n <= 10 OR n = 20, n BETWEEN 11 AND 14,
       CASE WHEN n <= 5 THEN now() - interval '1 day' WHEN n <= 9 THEN now() + interval '1 day' END
  FROM p;
-- A second condition of a pupil does not count twice; neither do what is deleted and who has left.
INSERT INTO chronic_conditions ("studentId", "conditionName", "diagnosedDate", "requiresIEP", "nextReviewDate", "deletedAt")
SELECT id, 'diabetes', '2024-01-01', true, now() - interval '1 day', CASE WHEN n > 5 THEN now() END FROM p;
INSERT INTO allergies ("studentId", allergen, "epiPenRequired", "epiPenExpiration", "deletedAt")
SELECT id, 'nuts', true, now() + CASE WHEN n <= 5 THEN -10 WHEN n <= 9 THEN 10 WHEN n <= 16 THEN 45 ELSE 80 END * interval '1 day',
       CASE WHEN n > 16 THEN now() END
  FROM p;
INSERT INTO allergies ("studentId", allergen, "epiPenRequired", "epiPenExpiration")
SELECT id, 'bees', true, now() + interval '10 days' FROM p WHERE n = 9;
INSERT INTO medications (name) VALUES ('Ibuprofen');
INSERT INTO student_medications ("studentId", "medicationId", dosage, frequency, "startDate", "prescribedBy", "refillsRemaining", "endDate")
SELECT p.id, m.id, '1', 'daily', '2025-01-01', 'Dr Who', CASE WHEN n <= 6 THEN 0 WHEN n <= 10 THEN 2 ELSE 9 END,
       CASE WHEN n BETWEEN 12 AND 18 THEN now() - interval '1 day' END
  FROM p, medications AS m;
"""

MANY = """
INSERT INTO users (email, password, "firstName", "lastName", role, "mfaEnabled", "twoFactorEnabled", "emailVerified", "isEmailVerified",
    "lockoutUntil", "failedLoginAttempts", "lastPasswordChange", "mustChangePassword", "passwordResetToken", "emailVerificationToken",
    "oauthProvider", "oauthProviderId")
SELECT n || '@example.org', 'x', 'A', 'B', 'NURSE', n % 50 <> 1, n % 50 = 2, n % 50 <> 3, n % 50 <> 4,
    CASE WHEN n % 50 = 5 THEN now() END, CASE WHEN n % 50 = 6 THEN 4 ELSE 0 END, now() - CASE WHEN n % 50 = 7 THEN 95 ELSE 1 END * interval '1 day',
    n % 50 = 8, CASE WHEN n % 50 = 9 THEN n || 'r' END, CASE WHEN n % 50 = 10 THEN n || 'v' END,
    CASE WHEN n % 50 = 11 THEN 'google' END, CASE WHEN n % 50 = 11 THEN n::text END
  FROM generate_series(1, 5000) AS n;
INSERT INTO students ("studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender)
SELECT n::text, 'P', 'Q', '2015-01-01', (n % 12)::text, 'OTHER' FROM generate_series(1, 5000) AS n;
INSERT INTO chronic_conditions ("studentId", "conditionName", "diagnosedDate", "requiresIEP", requires504)
SELECT id, 'c', '2024-01-01', "studentNumber"::int % 50 = 1, "studentNumber"::int % 50 = 2 FROM students;
INSERT INTO allergies ("studentId", allergen, "epiPenRequired") SELECT id, 'a', "studentNumber"::int % 50 = 1 FROM students;
INSERT INTO medications (name) VALUES ('Drug');
INSERT INTO student_medications ("studentId", "medicationId", dosage, frequency, "startDate", "prescribedBy", "refillsRemaining", "endDate")
SELECT s.id, m.id, '1', 'daily', '2025-01-01', 'Dr', CASE WHEN "studentNumber"::int % 50 = 1 THEN 1 ELSE 9 END,
    CASE WHEN "studentNumber"::int % 50 = 2 THEN now() ELSE now() + interval '1 year' END
  FROM students AS s, medications AS m;
ANALYZE users, students, chronic_conditions, allergies, student_medications;
"""


def ask(target: Any, name: str) -> list[dict[str, Any]]:
    query = inspect_queries.choose(name, {})
    assert query.reads_rows, "it would be counted as a role from which policies hide rows"
    found = inspection.inspect(target.as_backup(), query.text, {"table": None, "enum": None}, name=name)
    return found["rows"]


def counted(target: Any, name: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in ask(target, name)]


@pytest.mark.begins()
def test_accounts_are_counted_by_what_a_campaign_asks(target: Any, server: Any, database: str) -> None:
    server.execute("DELETE FROM users; " + ACCOUNTS, database=database)
    assert [row[:3] for row in counted(target, "account_lockouts")] == [
        ("locked now", 1, 6), ("lock is over", 1, 5), ("three failures or more, never locked", 1, 3),
    ]  # fmt: skip
    assert [row[:2] for row in counted(target, "password_rotation")] == [
        ("must change it at the next sign-in", 1), ("never changed", 14),
        ("overdue, older than 90 days", 1), ("due within 14 days", 1),
    ]  # fmt: skip
    factors = {row["role"]: (row["off"], row["legacy_only"], row["on"]) for row in ask(target, "mfa_enrolment")}
    assert factors == {"ADMIN": (0, 1, 2), "NURSE": (4, 0, 0), "VIEWER": (3, 0, 0), "COUNSELOR": (7, 0, 0)}
    (since,) = server.execute(
        "SELECT min(\"createdAt\")::date::text FROM users WHERE role = 'COUNSELOR'", database=database
    )
    assert {row["role"]: row["off_since"] for row in ask(target, "mfa_enrolment")}["COUNSELOR"] == since[0]
    assert counted(target, "unverified_accounts") == [
        ("up to 7 days", 0, 0, 0), ("8 to 30 days", 1, 0, 0), ("31 to 90 days", 0, 0, 0), ("older", 0, 1, 1),
    ]  # fmt: skip
    assert [row for row in counted(target, "open_tokens") if row[2]] == [
        ("password reset", "live", 2, 1), ("e-mail verification", "expired in the last 30 days", 1, 0),
    ]  # fmt: skip
    assert counted(target, "sign_in_providers") == [("(no name of a provider)", 1, 1), ("google", 1, 0)]


@pytest.mark.begins()
def test_pupils_are_counted_once_and_fewer_than_five_are_not_told(target: Any, server: Any, database: str) -> None:
    server.execute(PUPILS, database=database)
    assert counted(target, "education_plans") == [
        ("IEP", "3", "5", "< 5", "< 5"), ("IEP", "4", "< 5", "< 5", "< 5"), ("IEP", "other", "< 5", "< 5", "< 5"),
        ("504", "3", "< 5", "< 5", "< 5"), ("504", "4", "< 5", "< 5", "< 5"), ("504", "other", "< 5", "< 5", "< 5"),
    ]  # fmt: skip
    assert counted(target, "epipen_expiry") == [
        ("expired", "5"), ("expires within 30 days", "< 5"), ("expires in 31 to 60 days", "7"),
        ("expires in 61 to 90 days", "< 5"), ("expires later", "< 5"), ("no date", "< 5"),
    ]  # fmt: skip
    assert counted(target, "medication_refills") == [
        ("refill overdue: none left", "6"), ("refill due soon: 1 or 2 left", "< 5"),
        ("has ended, still marked active", "7"), ("ends within 30 days", "< 5"),
    ]  # fmt: skip
    server.execute('UPDATE students SET "isActive" = false WHERE "studentNumber" = \'N1\'', database=database)
    assert counted(target, "epipen_expiry")[0] == ("expired", "< 5")
    assert counted(target, "medication_refills")[0] == ("refill overdue: none left", "5")
    assert counted(target, "education_plans")[0] == ("IEP", "3", "< 5", "< 5", "< 5")


@pytest.mark.begins()
def test_no_report_has_a_person_an_address_an_id_or_a_token(target: Any, server: Any, database: str) -> None:
    server.execute("DELETE FROM users; " + ACCOUNTS + PUPILS, database=database)
    told = json.dumps({name: ask(target, name) for name in REPORTS})
    ids = server.execute("SELECT id::text FROM users UNION SELECT id::text FROM students", database=database)
    assert len(ids) == 40
    people = "Ada Lovelace Grace Hopper Who @ sesame sub- N1 asthma nuts Ibuprofen"
    assert [word for word in people.split() if word in told] == []
    assert [one for (one,) in ids if one in told] == []


@pytest.mark.begins()
def test_each_report_can_go_by_its_indexes_and_answers_in_time(target: Any, server: Any, database: str) -> None:
    server.execute(MANY, database=database)
    with server.session(database, target.backup_user) as conn, conn.cursor() as cursor:
        cursor.execute("SET row_security = off; SET enable_seqscan = off")
        for name, (indexes, _) in REPORTS.items():
            cursor.execute("EXPLAIN " + inspect_queries.choose(name, {}).text, {})
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert [index for index in indexes if index not in plan] == [], f"{name}:\n{plan}"
    for name in REPORTS:
        assert ask(target, name)


@pytest.mark.begins()
def test_what_a_report_counts_is_missing_in_one_sentence_with_the_version_that_makes_it(
    target: Any, server: Any, database: str
) -> None:
    for name, (_, column) in REPORTS.items():
        table, _, field = column.partition(".")
        server.execute(f"ALTER TABLE {table} RENAME {field} TO other", database=database)
        with pytest.raises(PgopsError) as refused:
            ask(target, name)
        server.execute(f"ALTER TABLE {table} RENAME other TO {field}", database=database)
        assert str(refused.value).startswith(f"The query {name} counts nothing in {database} on ")
        assert field.strip('"') in str(refused.value)
        assert "does not exist (SQLSTATE 42703)" in str(refused.value)
        assert "is there from version 20" in str(refused.value.hint)
        ask(target, name)
    server.execute("ALTER TABLE users RENAME TO staff", database=database)
    with pytest.raises(PgopsError, match=r'open_tokens counts nothing in .*"public.users" does not exist'):
        ask(target, "open_tokens")


@pytest.mark.parametrize("name", [*REPORTS, "data_age"])
def test_the_version_that_a_report_names_makes_what_it_counts(
    target: Any, server: Any, database: str, name: str
) -> None:
    with pytest.raises(PgopsError, match=f"{name} counts nothing") as refused:
        ask(target, name)
    assert "is there from version 20" in str(refused.value.hint)


@pytest.mark.begins()
def test_a_role_from_which_a_policy_hides_rows_is_refused_and_counts_none(
    target: Any, server: Any, database: str
) -> None:
    server.execute(f"{PUPILS} GRANT SELECT ON allergies, students TO {MIGRATOR}", database=database)
    text = inspect_queries.choose("epipen_expiry", {}).text
    told = "epipen_expiry counts nothing .*row-level security policy for table"
    with pytest.raises(PgopsError, match=told) as refused:
        inspection.inspect(target.with_(owner=None), text, {}, name="epipen_expiry")
    assert MIGRATOR in str(refused.value.hint)


@pytest.mark.begins()
def test_inspect_yml_shows_a_report_of_a_database(playbook: Any, server: Any, database: str) -> None:
    server.execute("DELETE FROM users; " + ACCOUNTS, database=database)
    done = playbook("inspect.yml", inspect_query="account_lockouts")
    assert done.rc == 0, done.output
    assert "changed=0" in done.stdout
    assert f"{database}: account_lockouts: 3 rows" in done.stdout
    assert "locked now" in done.stdout
    rows = done.json["hosts"]["local-1"][database]["inspect"]["rows"]
    assert [row["accounts"] for row in rows] == [1, 1, 1]
    server.execute('ALTER TABLE users RENAME "mfaEnabled" TO other', database=database)
    missing = playbook("inspect.yml", inspect_query="mfa_enrolment")
    assert missing.rc != 0
    assert "The query mfa_enrolment counts nothing in" in missing.output
    assert "Traceback" not in missing.output
