# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Databases as Sequelize and Prisma left them, made with SQL of our own.

Sequelize's chain has the columns of ours. What differs is made here: an `enum_*` type a column beside the named one, a
unique constraint beside each unique index, no comments, fewer indexes, all thirty types of a record from the start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_tree

from support import engine
from support.server import Server
from support.tree import SQL, shipped_chain

# The published files, as `sequelize-cli` writes their names down.
FILES = {
    "20250103000000": "20250103000000-create-base-schema.js",
    "20250103000001": "20250103000001-create-health-records-core.js",
    "20250103000002": "20250103000002-create-additional-critical-tables.js",
    "20250103000003": "20250103000003-create-system-configuration.js",
}
FIRST_THREE = tuple(FILES)[:3]
# What their chain did after those, statement by statement as its files make it: `sequelize/<version>.sql`.
LATER_FILES = {
    "20250104": "20250104-add-mfa-oauth-fields-to-users.js",
    "20251009013303": "20251009013303-enhance-system-configuration.js",
    "20251010000000": "20251010000000-complete-health-records-schema.js",
    "20251011000000": "20251011000000-performance-indexes.js",
    "20251103204744": "20251103204744-add-status-and-safety-type-to-incidents.js",
    "20251104160219": "20251104160219-add-deleted-at-to-users.js",
}
LATER = Path(__file__).parent / "sequelize"

# column -> (its twin, the named type), by version.
TWINS = {
    "20250103000000": {
        ("users", "role"): ("enum_users_role", "UserRole"),
        ("students", "gender"): ("enum_students_gender", "Gender"),
        ("contacts", "type"): ("enum_contacts_type", "ContactType"),
    },
    "20250103000001": {
        ("health_records", "recordType"): ("enum_health_records_recordType", "HealthRecordType"),
        ("allergies", "severity"): ("enum_allergies_severity", "AllergySeverity"),
        ("appointments", "status"): ("enum_appointments_status", "AppointmentStatus"),
    },
    "20250103000002": {
        ("incident_reports", "type"): ("enum_incident_reports_type", "IncidentType"),
        ("incident_reports", "severity"): ("enum_incident_reports_severity", "IncidentSeverity"),
    },
    "20250103000003": {
        ("system_configurations", "category"): ("enum_system_configurations_category", "ConfigCategory"),
    },
}
DOUBLED = {
    "20250103000000": [
        ("districts", "code"),
        ("schools", "code"),
        ("users", "email"),
        ("students", "studentNumber"),
    ],
    "20250103000003": [("system_configurations", "key")],
}
# Indexes that only our chain has.
OURS_ONLY = {
    "20250103000002": ["incident_reports_reportedById_idx"],
    "20250103000003": ["system_configurations_lastModifiedBy_idx"],
}
# The types of a record that our chain adds later, and theirs has at once.
MORE_RECORD_TYPES = (
    "EXAMINATION", "ALLERGY_DOCUMENTATION", "CHRONIC_CONDITION_REVIEW", "GROWTH_ASSESSMENT", "VITAL_SIGNS_CHECK",
    "EMERGENCY_VISIT", "FOLLOW_UP", "CONSULTATION", "DIAGNOSTIC_TEST", "PROCEDURE", "HOSPITALIZATION", "SURGERY",
    "COUNSELING", "THERAPY", "NUTRITION", "MEDICATION_REVIEW", "IMMUNIZATION", "LAB_RESULT", "RADIOLOGY", "OTHER",
)  # fmt: skip


def tree(folder: Path = SQL) -> list[dict[str, Any]]:
    """The migrations of a folder, by default the shipped ones, rendered."""
    return shipped_chain() if folder == SQL else migration_tree.render(migration_tree.read_tree(folder))


def run(target: Target, migration: Mapping[str, Any]) -> None:
    """The statements of a version's sql steps, without comments and without our ledger."""
    texts = [
        str(statement["sql"])
        for step in migration["steps"]
        if step["kind"] == "sql"
        for statement in step["up"]
        if not str(statement["sql"]).lstrip().upper().startswith("COMMENT ON")
    ]
    engine.do(target, *texts)


def sequelize(target: Target, versions: Sequence[str] = tuple(FILES), *, record_types: bool = True) -> None:
    """A database on which Sequelize has run these versions.

    :param record_types: with the types of a record that a later version of ours declares.
    """
    chain = {migration["version"]: migration for migration in tree()}
    for version in versions:
        run(target, chain[version])
        engine.do(target, *(f'DROP INDEX public."{name}"' for name in OURS_ONLY.get(version, [])))
        for table, column in DOUBLED.get(version, []):
            engine.do(target, f'ALTER TABLE public.{table} ADD CONSTRAINT "{table}_{column}_key" UNIQUE ("{column}")')
        if version == "20250103000001" and record_types:
            engine.do(
                target,
                *(f"""ALTER TYPE public."HealthRecordType" ADD VALUE '{label}'""" for label in MORE_RECORD_TYPES),
            )
        for (table, column), (twin, named) in TWINS[version].items():
            make_twin(target, table, column, twin, named)
    sequelize_ledger(target, [FILES[version] for version in versions])


def sequelize_later(target: Target, *versions: str) -> None:
    """The versions that Sequelize ran after those of :func:`sequelize`."""
    for version in versions:
        text = (LATER / f"{version}.sql").read_text(encoding="utf-8")
        engine.do(target, *(part for part in re.split(r";\n", text) if part.strip()))
    sequelize_ledger(target, [LATER_FILES[version] for version in versions])


def sequelize_ledger(target: Target, names: Sequence[str]) -> None:
    engine.do(
        target,
        'CREATE TABLE IF NOT EXISTS public."SequelizeMeta" (name varchar(255) NOT NULL PRIMARY KEY)',
        *(f"""INSERT INTO public."SequelizeMeta" VALUES ('{name}')""" for name in names),
    )


def make_twin(target: Target, table: str, column: str, twin: str, named: str) -> None:
    """A private copy of an enum, used by the column; the named type stays behind, used by nothing."""
    (found,) = engine.rows(
        target,
        f"""
        SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) AS labels,
               (SELECT split_part(pg_get_expr(d.adbin, d.adrelid), '''', 2) FROM pg_attrdef d JOIN pg_attribute a
                    ON a.attrelid = d.adrelid AND a.attnum = d.adnum
                 WHERE d.adrelid = 'public.{table}'::regclass AND a.attname = '{column}') AS fallback
          FROM pg_enum e WHERE e.enumtypid = 'public."{named}"'::regtype
        """,
    )
    partial = engine.rows(
        target,
        f"SELECT pg_get_indexdef(indexrelid) AS text, indexrelid::regclass::text AS name FROM pg_index "
        f"WHERE indrelid = 'public.{table}'::regclass AND indpred IS NOT NULL",
    )
    engine.do(
        target,
        *(f"DROP INDEX {index['name']}" for index in partial),
        f'CREATE TYPE public."{twin}" AS ENUM ({found["labels"]})',
        f'ALTER TABLE public.{table} ALTER COLUMN "{column}" DROP DEFAULT',
        f'ALTER TABLE public.{table} ALTER COLUMN "{column}" TYPE public."{twin}" USING "{column}"::text::public."{twin}"',
        *(
            [f"""ALTER TABLE public.{table} ALTER COLUMN "{column}" SET DEFAULT '{found["fallback"]}'"""]
            if found["fallback"]
            else []
        ),
        *(index["text"] for index in partial),
    )


def as_ours(target: Target, versions: Sequence[str]) -> None:
    """The versions exactly as ours make them, comments and indexes too, without our ledger."""
    chosen = [migration for migration in tree() if migration["version"] in versions]
    texts = [str(made["sql"]) for migration in chosen for step in migration["steps"] for made in step.get("up", [])]
    engine.do(target, *texts)


@contextmanager
def managed(server: Server, target: Target, folder: Path, *members: str) -> Iterator[Target]:
    """The target with an admin role as a managed server has it: no superuser, member of `members`."""
    role, password = f"{target.database}_admin", "not-a-secret"
    server.execute(f"CREATE ROLE {role} LOGIN CREATEDB PASSWORD '{password}' IN ROLE {', '.join(members)}")
    passfile = folder / "passfile"
    passfile.write_text(Path(server.passfile).read_text() + f"*:*:*:{role}:{password}\n")
    passfile.chmod(0o600)
    yield target.with_(restore_user=role, passfile=str(passfile))
    server.execute(f"DROP OWNED BY {role}", database=target.database)
    server.execute(f"DROP ROLE {role}")


PRISMA_LEDGER = """
CREATE TABLE public._prisma_migrations (
    id varchar(36) PRIMARY KEY, checksum varchar(64) NOT NULL, finished_at timestamptz, migration_name varchar(255) NOT NULL,
    logs text, rolled_back_at timestamptz, started_at timestamptz NOT NULL DEFAULT now(),
    applied_steps_count integer NOT NULL DEFAULT 0
)
"""
FAILED_PRISMA = "20251011_performance_indexes"


def prisma_ledger(target: Target, applied: Sequence[str], failed: str | None = None) -> None:
    """Prisma's own table; a failed row has no finished_at and the error in its logs."""
    engine.do(
        target,
        PRISMA_LEDGER,
        *(
            "INSERT INTO public._prisma_migrations (id, checksum, migration_name, finished_at, applied_steps_count) "
            f"VALUES ('{number}', 'x', '{name}', now(), 1)"
            for number, name in enumerate(applied)
        ),
    )
    if failed:
        engine.do(
            target,
            "INSERT INTO public._prisma_migrations (id, checksum, migration_name, logs) VALUES ('failed', 'x', "
            f"'{failed}', 'Database error code: 42703 ERROR: column \"schoolId\" does not exist, row (Maria)')",
        )


def prisma(target: Target) -> None:
    """A few tables as Prisma has them: ids are text, times have no zone, nothing has a default id."""
    engine.do(
        target,
        "CREATE TYPE public.\"UserRole\" AS ENUM ('ADMIN', 'NURSE', 'SCHOOL_ADMIN', 'DISTRICT_ADMIN', 'VIEWER', 'COUNSELOR')",
        "CREATE TYPE public.\"Gender\" AS ENUM ('MALE', 'FEMALE', 'OTHER', 'PREFER_NOT_TO_SAY')",
        """
        CREATE TABLE public.districts (
            id text PRIMARY KEY, name text NOT NULL, code text NOT NULL, address text, city text, state text, "zipCode" text,
            phone text, email text, "isActive" boolean NOT NULL DEFAULT true,
            "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, "updatedAt" timestamp(3) NOT NULL
        )
        """,
        """
        CREATE TABLE public.schools (
            id text PRIMARY KEY, name text NOT NULL, code text NOT NULL, address text, city text, state text, "zipCode" text,
            phone text, email text, principal text, "isActive" boolean NOT NULL DEFAULT true,
            "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, "updatedAt" timestamp(3) NOT NULL,
            "districtId" text NOT NULL REFERENCES public.districts (id) ON UPDATE CASCADE ON DELETE RESTRICT
        )
        """,
        """
        CREATE TABLE public.users (
            id text PRIMARY KEY, email text NOT NULL, password text NOT NULL, "firstName" text NOT NULL,
            "lastName" text NOT NULL, role public."UserRole" NOT NULL, "isActive" boolean NOT NULL DEFAULT true,
            "lastLogin" timestamp(3), "schoolId" text REFERENCES public.schools (id) ON UPDATE CASCADE ON DELETE SET NULL,
            "districtId" text, "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, "updatedAt" timestamp(3) NOT NULL
        )
        """,
        """
        CREATE TABLE public.students (
            id text PRIMARY KEY, "studentNumber" text NOT NULL, "firstName" text NOT NULL, "lastName" text NOT NULL,
            "dateOfBirth" timestamp(3) NOT NULL, grade text NOT NULL, gender public."Gender" NOT NULL, photo text,
            "medicalRecordNum" text, "isActive" boolean NOT NULL DEFAULT true,
            "enrollmentDate" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, "nurseId" text REFERENCES public.users (id),
            "createdBy" text, "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, "updatedAt" timestamp(3) NOT NULL
        )
        """,
        # Two ids that differ only in case, as text may.
        'INSERT INTO public.districts (id, name, code, "updatedAt") VALUES '
        "('cabcdefghijklmnopqrstuvwx', 'A', 'A', now()), ('CABCDEFGHIJKLMNOPQRSTUVWX', 'B', 'B', now())",
        'INSERT INTO public.schools (id, name, code, "districtId", "updatedAt") VALUES '
        "('3f2504e0-4f89-41d3-9a0c-0305e82c3301', 'A', 'A', 'cabcdefghijklmnopqrstuvwx', now())",
    )
    prisma_ledger(target, ["20251002163331_test_migration", "20251010_complete_health_records_schema"], FAILED_PRISMA)


OLDER_FILE = "20241002000000-init-database-schema.js"


def older_sequelize(target: Target) -> None:
    """The lineage of Sequelize before the one with uuid ids: five tables with short texts as ids, columns on private enums."""
    times = '"createdAt" timestamptz NOT NULL, "updatedAt" timestamptz NOT NULL'
    place = 'address text, city varchar(255), state varchar(255), "zipCode" varchar(255), phone varchar(255), email varchar(255)'
    person = '"firstName" varchar(255) NOT NULL, "lastName" varchar(255) NOT NULL'
    engine.do(
        target,
        "CREATE TYPE public.\"UserRole\" AS ENUM ('ADMIN', 'NURSE', 'SCHOOL_ADMIN', 'DISTRICT_ADMIN')",
        "CREATE TYPE public.enum_users_role AS ENUM ('ADMIN', 'NURSE', 'SCHOOL_ADMIN', 'DISTRICT_ADMIN')",
        "CREATE TYPE public.enum_students_gender AS ENUM ('MALE', 'FEMALE', 'OTHER', 'PREFER_NOT_TO_SAY')",
        "CREATE TYPE public.enum_emergency_contacts_priority AS ENUM ('PRIMARY', 'SECONDARY', 'EMERGENCY_ONLY')",
        f"""
        CREATE TABLE public.districts (
            id varchar(255) PRIMARY KEY, name varchar(255) NOT NULL, code varchar(255) NOT NULL UNIQUE, {place},
            website varchar(255), "isActive" boolean NOT NULL DEFAULT true, {times}
        )
        """,
        f"""
        CREATE TABLE public.schools (
            id varchar(255) PRIMARY KEY, name varchar(255) NOT NULL, code varchar(255) NOT NULL UNIQUE, {place},
            principal varchar(255), "studentCount" integer, "isActive" boolean NOT NULL DEFAULT true,
            "districtId" varchar(255) NOT NULL REFERENCES public.districts (id) ON UPDATE CASCADE ON DELETE RESTRICT, {times}
        )
        """,
        f"""
        CREATE TABLE public.users (
            id varchar(255) PRIMARY KEY, email varchar(255) NOT NULL UNIQUE, password varchar(255) NOT NULL, {person},
            role public.enum_users_role NOT NULL, "isActive" boolean NOT NULL DEFAULT true, "lastLogin" timestamptz, {times}
        )
        """,
        f"""
        CREATE TABLE public.students (
            id varchar(255) PRIMARY KEY, "studentNumber" varchar(255) NOT NULL UNIQUE, {person},
            "dateOfBirth" timestamptz NOT NULL, grade varchar(255) NOT NULL, gender public.enum_students_gender NOT NULL,
            photo text, "medicalRecordNum" varchar(255) UNIQUE, "isActive" boolean NOT NULL DEFAULT true,
            "enrollmentDate" timestamptz NOT NULL,
            "nurseId" varchar(255) REFERENCES public.users (id) ON UPDATE CASCADE ON DELETE SET NULL, {times}
        )
        """,
        f"""
        CREATE TABLE public.emergency_contacts (
            id varchar(255) PRIMARY KEY, {person}, relationship varchar(255) NOT NULL, "phoneNumber" varchar(255) NOT NULL,
            email varchar(255), address text, priority public.enum_emergency_contacts_priority NOT NULL,
            "isActive" boolean NOT NULL DEFAULT true,
            "studentId" varchar(255) NOT NULL REFERENCES public.students (id) ON UPDATE CASCADE ON DELETE CASCADE, {times}
        )
        """,
        "INSERT INTO public.districts (id, name, code, \"createdAt\", \"updatedAt\") VALUES ('north', 'N', 'N', now(), now())",
    )
    sequelize_ledger(target, [OLDER_FILE, "20251003162519-add-viewer-counselor-roles.js"])
