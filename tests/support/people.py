# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A small school with pupils, allergies and conditions, kept before and after a version that enhances the core."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection

from support import engine
from support.kept import chain_before, keep
from support.tree import shipped_chain

# The first version that makes the status of a condition an enum.
HEALTH = "20251010000000"

PEOPLE = """
    INSERT INTO districts (name, code) VALUES ('North', 'N');
    INSERT INTO schools (name, code, "districtId") SELECT 'Hill', 'H', id FROM districts;
    INSERT INTO users (email, password, "firstName", "lastName", role, "emailVerified")
        VALUES ('nurse@example.org', 'x', 'A', 'B', 'NURSE', true), ('new@example.org', 'x', 'C', 'D', 'ADMIN', false);
    INSERT INTO students ("studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender, "schoolId")
        SELECT n::text, 'P' || n, 'Q', '2015-01-01', '3', 'OTHER', schools.id
        FROM schools, generate_series(1, 20) AS n;
    INSERT INTO health_records ("studentId", "recordType", title, description, "recordDate", diagnosis)
        SELECT id, 'CHECKUP', 't', 'd', '2025-01-01', 'x' FROM students;
    INSERT INTO allergies ("studentId", allergen, reaction, notes, "isActive")
        SELECT id, 'nuts', CASE WHEN "studentNumber"::int % 2 = 0 THEN 'rash' END, 'n', "studentNumber"::int > 5
        FROM students;
    INSERT INTO chronic_conditions ("studentId", "conditionName", "diagnosedDate", "managementPlan", status)
        SELECT id, 'asthma', '2025-01-01', 'plan ' || "studentNumber",
            (ARRAY['ACTIVE', 'INACTIVE', 'MANAGED', 'inactive', ' Resolved ', 'ACTIVE', 'MONITORING'])
                [1 + "studentNumber"::int % 7]
        FROM students;
    INSERT INTO medications (name) VALUES ('A'), ('B');
    INSERT INTO student_medications ("studentId", "medicationId", dosage, frequency, "startDate", "prescribedBy")
        SELECT s.id, m.id, '1', 'daily', '2025-01-01', 'Dr' FROM students AS s, medications AS m;
    INSERT INTO medication_logs ("studentMedicationId", "nurseId", "timeGiven", "dosageGiven")
        SELECT p.id, u.id, '2025-01-02', '1' FROM student_medications AS p, users AS u WHERE u.role = 'NURSE';
"""


def ready(server: Any, version: str) -> str:
    """A database with people in it, one version before the one to test. The rows come while the status is still text."""
    first = min(version, HEALTH)
    people = keep(
        server, f"people_before_{first}", lambda target: engine.do(target, PEOPLE), begin=chain_before(server, first)
    )
    if version == first:
        return people
    return keep(
        server,
        f"people_before_{version}",
        lambda target: _up_to(target, max(item["version"] for item in shipped_chain() if item["version"] < version)),
        begin=people,
    )


def enhanced(server: Any, version: str) -> str:
    """The same people after that version."""
    begin = ready(server, version)
    return keep(server, f"people_after_{version}", lambda target: _up_to(target, version), begin=begin)


def _up_to(target: Any, version: str) -> None:
    migrate.apply(target, shipped_chain(), Selection(target=version), engine.way())
