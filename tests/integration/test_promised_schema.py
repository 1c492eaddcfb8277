# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What the platform's handbook promises of the chain, by name: promised_schema.yml against a real server, order, keys."""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, preview
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from support import engine
from support.server import OWNER, SUPERUSER
from support.tree import shipped_chain

SQL = Path(__file__).resolve().parents[2] / "sql"
PROMISED: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("promised_schema.yml").read_text(encoding="utf-8")
)
BASE, HEALTH, CRITICAL, SETTINGS = "20250103000000", "20250103000001", "20250103000002", "20250103000003"

# The versions that the handbook names, in its order.
CHAIN = [
    "20250103000000_create_base_schema",
    "20250103000001_create_health_records_core",
    "20250103000002_create_additional_critical_tables",
    "20250103000003_create_system_configuration",
    "20251003162519_add_viewer_counselor_roles",
    "20251009011130_add_administration_features",
    "20251009013303_enhance_system_configuration",
    "20251010000000_complete_health_records_schema",
    "20251011000000_performance_indexes",
    "20251103204744_add_status_and_safety_type_to_incidents",
    "20251106000000_add_medication_log_foreign_key",
    "20251106000001_add_missing_critical_indexes",
    "20251106000002_add_user_security_indexes",
    "20251106000003_add_fulltext_search_indexes",
]
# version -> what it needs.
NEEDS = {
    HEALTH: BASE,
    CRITICAL: BASE,
    SETTINGS: BASE,
    "20251009013303": SETTINGS,
    "20251010000000": HEALTH,
    "20251103204744": CRITICAL,
}
# key -> value, category, rules.
SETTINGS_OF_A_NEW_PLATFORM = {
    "MAX_LOGIN_ATTEMPTS": ("5", "SECURITY", {"type": "number", "min": 1, "max": 10}),
    "LOCKOUT_DURATION_MINUTES": ("30", "SECURITY", {"type": "number", "min": 5, "max": 1440}),
    "SESSION_TIMEOUT_MINUTES": ("60", "SECURITY", {"type": "number", "min": 15, "max": 480}),
    "PASSWORD_MIN_LENGTH": ("12", "SECURITY", {"type": "number", "min": 8, "max": 128}),
    "PASSWORD_REQUIRE_SPECIAL_CHAR": ("true", "SECURITY", {"type": "boolean"}),
    "PASSWORD_EXPIRY_DAYS": ("90", "SECURITY", {"type": "number", "min": 0, "max": 365}),
    "EMAIL_NOTIFICATION_ENABLED": ("true", "NOTIFICATION", {"type": "boolean"}),
    "SMS_NOTIFICATION_ENABLED": ("false", "NOTIFICATION", {"type": "boolean"}),
    "SYSTEM_NAME": ("White Cross Healthcare Platform", "GENERAL", {"type": "string", "maxLength": 200}),
    "SUPPORT_EMAIL": ("support@whitecross.health", "GENERAL", {"type": "email"}),
    "MAINTENANCE_MODE": ("false", "GENERAL", {"type": "boolean"}),
    "MAX_FILE_UPLOAD_SIZE_MB": ("10", "GENERAL", {"type": "number", "min": 1, "max": 100}),
}

RULES = "CASE {} WHEN 'c' THEN 'CASCADE' WHEN 'r' THEN 'RESTRICT' WHEN 'n' THEN 'SET NULL' ELSE 'NO ACTION' END"
KEYS = f"""
SELECT c.conname AS name, c.conrelid::regclass || '.' || a.attname AS "column",
       c.confrelid::regclass || ' ' || {RULES.format("c.confupdtype")} || ' ' || {RULES.format("c.confdeltype")} AS rule,
       c.conrelid::regclass::text AS "table", a.attname AS own
  FROM pg_constraint AS c
  JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]
 WHERE c.contype = 'f' AND c.connamespace = 'public'::regnamespace
 ORDER BY 1
"""
COLUMNS = """
SELECT c.relname AS "table", a.attname AS name, a.attnotnull AS required, format_type(a.atttypid, a.atttypmod) AS type,
       pg_get_expr(d.adbin, d.adrelid) AS value, col_description(c.oid, a.attnum) AS comment, t.typtype = 'e' AS enum
  FROM pg_attribute AS a
  JOIN pg_class AS c ON c.oid = a.attrelid
  JOIN pg_type AS t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
"""
INDEXES = """
SELECT c.relname AS name, i.indrelid::regclass || CASE WHEN i.indisunique THEN ' unique ' ELSE ' ' END
       || substring(pg_get_indexdef(c.oid) FROM 'USING (.*)') AS line
  FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
 WHERE c.relnamespace = 'public'::regnamespace AND i.indisvalid
"""
ENUMS = """
SELECT t.typname AS name, string_agg(e.enumlabel, ' ' ORDER BY e.enumsortorder) AS labels
  FROM pg_enum AS e JOIN pg_type AS t ON t.oid = e.enumtypid
 WHERE t.typnamespace = 'public'::regnamespace GROUP BY 1
"""
TABLES = """
SELECT c.relname AS name, obj_description(c.oid) AS comment FROM pg_class AS c
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
"""


def look(db: Any, before: set[str]) -> dict[str, Any]:
    """:return: what the database has, in the words of promised_schema.yml."""
    tables = {row["name"]: row["comment"] for row in fetch_all(db, TABLES)}
    found: dict[str, Any] = {
        "tables": set(tables) - before,
        "columns": {},
        "required": {},
        "defaults": {},
        "enums": {row["name"]: row["labels"].split() for row in fetch_all(db, ENUMS)},
        "foreign_keys": {row["column"]: row["rule"] for row in fetch_all(db, KEYS)},
        "indexes": {row["name"]: row["line"] for row in fetch_all(db, INDEXES)},
        "comments": {name for name, comment in tables.items() if comment},
    }
    for row in fetch_all(db, COLUMNS):
        table, name = row["table"], row["name"]
        found["columns"].setdefault(table, set()).add(name)
        if row["required"]:
            found["required"].setdefault(table, set()).add(name)
        value = row["value"]
        if value is not None:
            # 'PASS'::"ScreeningOutcome" is PASS.
            quoted = re.fullmatch(r"'(.*)'::[\w \"]+", value)
            value = quoted[1] if quoted else value
        found["defaults"][f"{table}.{name}"] = value
        if row["comment"]:
            found["comments"].add(f"{table}.{name}")
    return found


def faults(promised: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """:return: each thing that was promised and is not so."""
    told = []
    if "tables" in promised and set(promised["tables"].split()) != found["tables"]:
        told.append(f"tables: {sorted(found['tables'] ^ set(promised['tables'].split()))}")
    for table, names in promised.get("columns", {}).items():
        if set(names.split()) != found["columns"].get(table):
            told.append(f"columns of {table}: {sorted(set(names.split()) ^ found['columns'].get(table, set()))}")
    for kind, there in (("more", "columns"), ("required", "required")):
        for table, names in promised.get(kind, {}).items():
            lacking = set(names.split()) - found[there].get(table, set())
            told += [f"{there} of {table}: {name} is missing" for name in sorted(lacking)]
    for name, labels in promised.get("enums", {}).items():
        if labels.split() != found["enums"].get(name):
            told.append(f"enum {name}: {found['enums'].get(name)}")
    for kind in ("defaults", "foreign_keys", "indexes"):
        for name, wanted in promised.get(kind, {}).items():
            if name not in found[kind] or found[kind][name] != wanted:
                told.append(f"{kind} {name}: wanted {wanted}, found {found[kind].get(name)}")
    told += [f"no comment on {name}" for name in promised.get("comments", "").split() if name not in found["comments"]]
    return told


@pytest.fixture(scope="module")
def chain() -> list[dict[str, Any]]:
    return shipped_chain()


@pytest.fixture(scope="module")
def whole(server: Any, chain: list[dict[str, Any]]) -> Iterator[tuple[Any, dict[str, dict[str, Any]]]]:
    """A database with the whole chain, as superuser, and what it had after each version that something is promised of."""
    name = f"t_promised_{secrets.token_hex(4)}"
    server.create_database(name, OWNER)
    target = engine.target_of(server, name)
    seen = {}
    with server.session(name, SUPERUSER) as conn:
        before: set[str] = set()
        for item in chain:
            version = item["version"]
            if version in {promised["version"] for promised in PROMISED.values()}:
                earlier = [other["version"] for other in chain if other["version"] < version]
                if earlier:
                    migrate.apply(target, chain, Selection(target=earlier[-1]), engine.way())
                before = {row["name"] for row in fetch_all(conn, TABLES)}
                migrate.apply(target, chain, Selection(target=version), engine.way())
                seen[version] = look(conn, before)
        migrate.apply(target, chain, Selection(), engine.way())
        yield conn, seen
    server.drop_databases(name)


# --- what is there ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", list(PROMISED))
def test_each_promise_holds_after_its_version(whole: tuple[Any, dict[str, dict[str, Any]]], number: str) -> None:
    promised = PROMISED[number]
    found = whole[1][promised["version"]]
    assert faults(promised, found) == []
    # And each kind of it would be missed: a promise that nothing can break says nothing.
    for kind in set(promised) - {"version"}:
        bare = copy.deepcopy(found)
        bare["columns" if kind == "more" else kind] = {} if kind != "comments" else set()
        if kind == "defaults" and set(promised[kind].values()) == {None}:
            bare[kind] = dict.fromkeys(promised[kind], "something")
        if kind == "tables":
            bare[kind] = set()
        assert faults({kind: promised[kind]}, bare), kind


def test_the_settings_of_a_new_platform_have_these_values_and_rules(
    whole: tuple[Any, dict[str, dict[str, Any]]],
) -> None:
    rows = fetch_all(
        whole[0],
        'SELECT key, value, category::text, "validationRules" AS rules, description, "displayName" AS shown '
        "FROM system_configurations",
    )
    assert {row["key"]: (row["value"], row["category"], row["rules"]) for row in rows} == SETTINGS_OF_A_NEW_PLATFORM
    assert all(len(row["description"]) > 10 and len(row["shown"]) > 5 for row in rows)


def test_a_setting_of_a_district_and_one_of_a_school_stand_beside_that_of_the_system(
    whole: tuple[Any, dict[str, dict[str, Any]]],
) -> None:
    conn, _ = whole
    execute(conn, "BEGIN")
    try:
        execute(
            conn,
            """
            INSERT INTO system_configurations (key, value, scope, "scopeId")
            VALUES ('MAX_LOGIN_ATTEMPTS.north', '3', 'DISTRICT', 'north'), ('MAX_LOGIN_ATTEMPTS.hill', '4', 'SCHOOL', 'hill')
            """,
        )
        found = fetch_all(
            conn,
            "SELECT scope::text, value FROM system_configurations AS c WHERE key LIKE 'MAX_LOGIN%%' ORDER BY c.scope",
        )
    finally:
        execute(conn, "ROLLBACK")
    assert [(row["scope"], row["value"]) for row in found] == [("SYSTEM", "5"), ("DISTRICT", "3"), ("SCHOOL", "4")]


# --- in which order ---------------------------------------------------------------------------------------------------


def test_the_versions_that_are_named_are_there_in_their_order(chain: list[dict[str, Any]]) -> None:
    found = [f"{item['version']}_{item['name']}" for item in chain]
    assert [name for name in found if name in CHAIN] == CHAIN
    assert CHAIN == sorted(CHAIN)


def test_a_version_names_what_it_needs(chain: list[dict[str, Any]]) -> None:
    tree = {item["version"]: item for item in chain}

    def needs(version: str) -> set[str]:
        direct = set(tree[version]["depends_on"])
        return direct.union(*(needs(other) for other in direct))

    for version, needed in NEEDS.items():
        assert needed in needs(version), version
    made = {
        statement["creates"]["name"]: item["version"]
        for item in chain
        for step in item["steps"]
        if step["kind"] == "sql"
        for statement in step["up"]
        if (statement.get("creates") or {}).get("kind") == "table"
    }
    assert len(made) >= 62
    # All tables are older than the performance indexes, which are older than the last four.
    assert max(made.values()) < "20251011000000"
    for version in ("20251011000000", "20251106000001", "20251106000002", "20251106000003"):
        indexed = {index["table"] for step in tree[version]["steps"] for index in step.get("indexes", [])}
        assert {made[table] for table in indexed} <= needs(version), version


def test_a_version_needs_those_whose_columns_it_names(chain: list[dict[str, Any]]) -> None:
    """Otherwise the one is rolled back alone, and what the other granted on the column does not come back with it."""
    made: dict[tuple[str, str], str] = {}
    needs: dict[str, set[str]] = {}
    missing, seen = set(), 0
    for item in chain:
        version = item["version"]
        needs[version] = set(item["depends_on"]).union(*(needs[other] for other in item["depends_on"]))
        for step in item["steps"]:
            statements = step.get("up") if step["kind"] == "sql" else []
            texts = [statement["sql"] for statement in statements] + [str(index) for index in step.get("indexes", [])]
            for words in (set(re.findall(r"\w+", text)) for text in texts):
                named = [made[key] for key in made if words.issuperset(key)]
                seen += len(named)
                missing |= {(version, other) for other in named if other not in {version, *needs[version]}}
            for created in (statement.get("creates") or {} for statement in statements):
                if created.get("kind") == "column":
                    made[created["table"], created["name"]] = version
    assert not missing
    assert len(made) > 100
    assert seen > 50


def test_the_plan_says_phase_and_reason_of_each_version(target: Any, chain: list[dict[str, Any]]) -> None:
    pending = preview.preview(target, chain, Selection())["pending"]
    phases = {item["version"]: item["phase"] for item in pending}
    assert {version for version, phase in phases.items() if phase == "core"} == {BASE, HEALTH, CRITICAL, SETTINGS}
    assert set(phases.values()) == {"core", "enhancement"}
    why = {item["version"]: item["why"] for item in pending}
    assert "First the foreign key, then these, then security, the large search indexes last" in why["20251106000001"]
    assert "fewer look-ups row by row, quicker dashboards and search" in why["20251011000000"]
    assert all(len(text) > 50 for text in why.values())


def test_the_plans_of_security_and_search_have_their_limits_of_time() -> None:
    limits = {
        name: yaml.safe_load((SQL / "checks" / f"{name}.yml").read_text(encoding="utf-8"))["expect"].get("within_ms")
        for name in ("plan_of_locked_accounts", "plan_of_a_drug_search")
    }
    assert limits == {"plan_of_locked_accounts": 100, "plan_of_a_drug_search": 200}


# --- keys -------------------------------------------------------------------------------------------------------------


def value_of(column: dict[str, Any]) -> str:
    """An expression for a column that must have a value."""
    kind = column["type"]
    if column["enum"]:
        return f"(enum_range(NULL::{kind}))[1]"
    for beginning, value in (
        ("uuid", "gen_random_uuid()"),
        ("timestamp", "now()"),
        ("date", "current_date"),
        ("boolean", "true"),
        ("json", "'{}'"),
        ("text[]", "'{}'"),
    ):
        if kind.startswith(beginning):
            return value
    return "'1'"


def orphans_taken(conn: Any) -> list[str]:
    """:return: the foreign keys of the schema that let a row without a parent in."""
    columns: dict[str, list[dict[str, Any]]] = {}
    for row in fetch_all(conn, COLUMNS):
        columns.setdefault(row["table"], []).append(row)
    keys = fetch_all(conn, KEYS)
    taken = []
    for key in keys:
        needed = [c for c in columns[key["table"]] if (c["required"] and c["value"] is None) or c["name"] == key["own"]]
        names = ", ".join(f'"{column["name"]}"' for column in needed)
        values = ", ".join(value_of(column) for column in needed)
        execute(conn, "BEGIN")
        # Alone, or another key of the table would refuse the row first.
        for other in keys:
            if other["table"] == key["table"] and other["name"] != key["name"]:
                execute(conn, f'ALTER TABLE {key["table"]} DROP CONSTRAINT "{other["name"]}"')
        try:
            execute(conn, f"INSERT INTO {key['table']} ({names}) VALUES ({values})")
        except psycopg2.errors.ForeignKeyViolation as refused:
            assert refused.diag.constraint_name == key["name"]
        else:
            taken.append(key["name"])
        finally:
            execute(conn, "ROLLBACK")
    return taken


def test_R14_21_every_foreign_key_refuses_a_row_without_a_parent(
    whole: tuple[Any, dict[str, dict[str, Any]]],
) -> None:
    conn, _ = whole
    (counted,) = fetch_all(
        conn,
        "SELECT count(*) AS n FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace",
    )
    assert len(fetch_all(conn, KEYS)) == counted["n"] > 50
    assert orphans_taken(conn) == []
    # What only says that it is there is seen: keys whose triggers are off.
    execute(conn, "ALTER TABLE witness_statements DISABLE TRIGGER ALL")
    try:
        keys = [key["name"] for key in fetch_all(conn, KEYS) if key["table"] == "witness_statements"]
        assert "witness_statements_incidentReportId_fkey" in keys
        assert orphans_taken(conn) == keys
    finally:
        execute(conn, "ALTER TABLE witness_statements ENABLE TRIGGER ALL")
