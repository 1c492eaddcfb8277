# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Is what a statement creates there already, and is it the same?

The wanted definition is not worked out from the text: the statement itself is run against a shadow schema inside a
savepoint, PostgreSQL describes both objects, and the savepoint is rolled back. So ``varchar(20)`` equals ``character
varying(20)`` and an expression equals its other spelling, by the server's own reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.index_definition import (
    index_definition,
    index_differences,
    word,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import RETRY_SQLSTATES
from psycopg2 import sql

SHADOW = "pgops_shadow"

_CLASS = "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
_OF_TABLE = f"JOIN {_CLASS} ON c.oid = {{}} WHERE c.relname = ANY(%(tables)s)"
# By kind: schema, table (or type) and name of those that have one of the names asked for. Only the kinds that a step has
# are put together to one query: planning costs more than looking.
PRESENT = {
    "table": f"n.nspname, NULL, c.relname FROM {_CLASS} WHERE c.relname = ANY(%(names)s) AND c.relkind IN ('r', 'p')",
    "materialized_view": f"n.nspname, NULL, c.relname FROM {_CLASS} WHERE c.relname = ANY(%(names)s) AND c.relkind = 'm'",
    "index": f"n.nspname, NULL, c.relname FROM {_CLASS} WHERE c.relname = ANY(%(names)s) AND c.relkind IN ('i', 'I')",
    "type": "n.nspname, NULL, t.typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace "
    "WHERE t.typname = ANY(%(names)s)",
    "enum_value": "n.nspname, t.typname, e.enumlabel FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid "
    "JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typname = ANY(%(tables)s) AND e.enumlabel = ANY(%(names)s)",
    "column": f"n.nspname, c.relname, a.attname FROM pg_attribute a {_OF_TABLE.format('a.attrelid')} "
    "AND a.attname = ANY(%(names)s) AND a.attnum > 0 AND NOT a.attisdropped",
    "constraint": f"n.nspname, c.relname, k.conname FROM pg_constraint k {_OF_TABLE.format('k.conrelid')} "
    "AND k.conname = ANY(%(names)s)",
    "trigger": f"n.nspname, c.relname, g.tgname FROM pg_trigger g {_OF_TABLE.format('g.tgrelid')} "
    "AND g.tgname = ANY(%(names)s) AND NOT g.tgisinternal",
    "policy": f"n.nspname, c.relname, y.polname FROM pg_policy y {_OF_TABLE.format('y.polrelid')} "
    "AND y.polname = ANY(%(names)s)",
    "function": "n.nspname, NULL, p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
    "WHERE p.proname = ANY(%(names)s)",
    "extension": "NULL, NULL, x.extname FROM pg_extension x WHERE x.extname = ANY(%(names)s)",
    "schema": "NULL, NULL, n.nspname FROM pg_namespace n WHERE n.nspname = ANY(%(names)s)",
}
_IN_A_TABLE = ("enum_value", "column", "constraint", "trigger", "policy")
_IN_NO_SCHEMA = ("extension", "schema")

_COLUMNS = """
SELECT a.attname::text AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
       pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS "default", a.attgenerated::text AS generated,
       a.attidentity::text AS identity,
       CASE WHEN a.attcollation <> t.typcollation THEN (SELECT collname::text FROM pg_collation WHERE oid = a.attcollation)
       END AS collation
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
"""
# Without NOT NULL constraints: since 18 they are rows of pg_constraint, with names made up by the server.
_CONSTRAINTS = """
SELECT k.conname::text AS name, pg_catalog.pg_get_constraintdef(k.oid) AS definition
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND k.contype IN ('c', 'f', 'p', 'u', 'x')
"""
_TYPE = """
SELECT t.typtype::text AS typtype,
       (SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid) AS labels,
       pg_catalog.format_type(nullif(t.typbasetype, 0), t.typtypmod) AS base, t.typnotnull AS not_null,
       t.typdefault AS "default",
       (SELECT array_agg(pg_catalog.pg_get_constraintdef(k.oid) ORDER BY 1) FROM pg_constraint k
         WHERE k.contypid = t.oid AND k.contype = 'c') AS checks,
       (SELECT array_agg(a.attname || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
          FROM pg_attribute a WHERE a.attrelid = nullif(t.typrelid, 0) AND a.attnum > 0 AND NOT a.attisdropped) AS attributes
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = %s AND t.typname = %s
"""
_FUNCTIONS = """
SELECT pg_catalog.pg_get_functiondef(p.oid) AS definition
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = %s AND p.proname = %s AND p.prokind IN ('f', 'p')
"""
_TRIGGER = """
SELECT pg_catalog.pg_get_triggerdef(g.oid) AS definition, g.tgenabled::text AS enabled
  FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND g.tgname = %s AND NOT g.tgisinternal
"""
_POLICY = """
SELECT y.polcmd::text AS command, y.polpermissive AS permissive, y.polroles::regrole[]::text AS roles,
       pg_catalog.pg_get_expr(y.polqual, y.polrelid) AS "using",
       pg_catalog.pg_get_expr(y.polwithcheck, y.polrelid) AS "check"
  FROM pg_policy y JOIN pg_class c ON c.oid = y.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND y.polname = %s
"""


_STORAGE = """
SELECT coalesce((SELECT string_agg(option, ', ' ORDER BY option) FROM unnest(reloptions) AS option), 'none') AS storage
  FROM pg_class WHERE oid = %s
"""


class Unequal(PgopsError):
    """An object of that name is there with another definition."""


# What later versions add to an object: (kind, schema, table or type, name).
Explained = frozenset[tuple[str, str, str, str]]


def explained_by(migrations: Sequence[Mapping[str, Any]]) -> Explained:
    """:return: columns and enum values that the given migrations add, so that an object that has them already is no
    stranger to the version that made it first."""
    found = set()
    for migration in migrations:
        for step in migration["steps"]:
            for statement in step.get("up", []):
                made = statement.get("creates")
                if made and made["kind"] in ("column", "enum_value"):
                    found.add((made["kind"], _schema(made), str(_table(made)), str(made["name"])))
    return frozenset(found)


def present(conn: Connection, objects: Sequence[Mapping[str, Any] | None]) -> set[int]:
    """:param objects: ``creates`` of statements or what :func:`dropped` gave, None where a statement has none.
    :return: the positions of those that exist. One query, no lock."""
    given = {number: key(made) for number, made in enumerate(objects) if made and made["kind"] in PRESENT}
    if not given:
        return set()
    for number in given:
        if (objects[number] or {}).get("materialized"):
            given[number] = ("materialized_view", *given[number][1:])
    kinds = sorted({one[0] for one in given.values()})
    query = " UNION ALL ".join(f"SELECT '{kind}', {PRESENT[kind]}" for kind in kinds)
    names = {
        "names": sorted({one[3] for one in given.values()}),
        "tables": sorted({one[2] for one in given.values() if one[2] is not None}),
    }
    with conn.cursor() as cursor:
        cursor.execute(query, names)
        there = {tuple(row) for row in cursor.fetchall()}
    return {number for number, one in given.items() if one in there}


def key(made: Mapping[str, Any]) -> tuple[str, str | None, str | None, str]:
    """:return: kind, schema, table (or type) and name of an object, by which it is one and no other."""
    kind = str(made["kind"])
    return (
        kind,
        None if kind in _IN_NO_SCHEMA else _schema(made),
        _table(made) if kind in _IN_A_TABLE else None,
        str(made.get("name") or _table(made)),
    )


def compare(
    conn: Connection, statement: Mapping[str, Any], explained: Explained = frozenset(), *, exactly: bool = False
) -> list[str]:
    """Compare the object that ``statement`` creates with the one that exists. Call inside a transaction.

    Takes ACCESS SHARE on the table, and on one that a foreign key refers to: that is made to refer to an empty twin, since
    ADD FOREIGN KEY would keep writers of the real one out.

    :param exactly: tell apart what is validated or fires from what is not or does not, and the storage of indexes, too.
    :return: differences, ``"column a: wanted integer, found text"``; empty when they are equal.
    :raises Unequal: the wanted object cannot be built for comparison.
    """
    made = statement["creates"]
    kind = made["kind"]
    if kind in ("extension", "schema", "enum_value"):
        return []
    with _shadow(conn) as shadow:
        try:
            wanted_table, twins = _build(conn, shadow, statement, made)
        except psycopg2.Error as exc:
            if exc.pgcode in RETRY_SQLSTATES:
                raise
            told = from_psycopg(
                exc,
                f"{describe(made)} exists already, and the wanted one cannot be built to compare them",
                statement=str(statement["sql"]),
            )
            raise Unequal(
                told.message,
                sqlstate=exc.pgcode,
                statement=statement["sql"],
                location=location(statement),
                object_name=describe(made),
            ) from None
        execute(conn, "SET LOCAL search_path = pg_catalog")
        return _differences(conn, made, shadow, wanted_table, explained, twins, exactly)


def describe(made: Mapping[str, Any]) -> str:
    """:return: the object in words, ``column public.students.grade``."""
    kind, name = made["kind"], made.get("name")
    if kind in ("extension", "schema"):
        return f"{kind} {name}"
    if kind in ("column", "constraint", "trigger", "policy", "enum_value"):
        return f"{kind.replace('_', ' ')} {_schema(made)}.{_table(made)}.{name}"
    return f"{kind} {_schema(made)}.{name}"


def dropped(statement: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """:return: the object that a statement drops; None where it drops nothing, or rows only. A materialized view is told as a table,
    and as ``materialized``."""
    gone: Mapping[str, Any] | None = statement.get("destroys")
    return gone if gone and gone["kind"] != "rows" else None


def dropped_by(statements: Sequence[Mapping[str, Any]]) -> set[str]:
    """:return: in words what the statements of a way up drop, or give another name. It does not stay: what has its name on the
    way down is another, made by the version or on the way down itself."""
    renamed = [rename for statement in statements for rename in statement.get("renames") or []]
    moved = [
        {**rename, "kind": "column", "name": rename["column"]}
        if rename.get("column")
        else {**rename, "kind": "table", "name": rename["table"]}
        for rename in renamed
    ]
    aside = [item for statement in statements for item in statement.get("named_aside") or []]
    return {describe(gone) for gone in [*map(dropped, statements), *moved, *aside] if gone}


def location(statement: Mapping[str, Any]) -> str | None:
    """:return: ``file:line`` of a statement."""
    return f"{statement['file']}:{statement['line']}" if statement.get("file") else None


@contextmanager
def _shadow(conn: Connection) -> Iterator[str]:
    execute(conn, "SAVEPOINT pgops_shadow")
    try:
        execute(conn, sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SHADOW)))
        yield SHADOW
    finally:
        # Also gives back every lock that the comparison took.
        execute(conn, "ROLLBACK TO SAVEPOINT pgops_shadow; RELEASE SAVEPOINT pgops_shadow")


def shadow_table(conn: Connection, shadow: str, schema: str, table: str) -> None:
    """Make an empty twin of a table in the shadow schema: columns and types, no constraint, no index."""
    execute(
        conn,
        sql.SQL("CREATE TABLE {}.{} (LIKE {}.{})").format(*map(sql.Identifier, (shadow, table, schema, table))),
    )


@contextmanager
def shadow(conn: Connection) -> Iterator[str]:
    """A schema for comparisons that is rolled back at the end of the block. Call inside a transaction."""
    with _shadow(conn) as name:
        yield name


def _build(
    conn: Connection, shadow: str, statement: Mapping[str, Any], made: Mapping[str, Any]
) -> tuple[str | None, dict[str, str]]:
    """:return: the table that was made, and by the name of each twin the table for which it stands, as the server prints it."""
    kind, schema = made["kind"], _schema(made)
    table = str(made["name"]) if kind == "table" else _table(made)
    if kind in ("column", "constraint", "index", "trigger", "policy"):
        if table is None:
            found = index_definition(conn, schema, str(made["name"]))
            table = found["table"] if found else None
        assert table is not None
        shadow_table(conn, shadow, schema, table)
        if kind == "column":
            execute(
                conn,
                sql.SQL("ALTER TABLE {}.{} DROP COLUMN {}").format(*map(sql.Identifier, (shadow, table, made["name"]))),
            )
    anchor, name = {
        "table": (r"CREATE\s+(?:UNLOGGED\s+)?TABLE", table),
        "column": (r"ALTER\s+TABLE", table),
        "constraint": (r"ALTER\s+TABLE", table),
        "index": (r"\bON", table),
        "trigger": (r"\bON", table),
        "policy": (r"\bON", table),
        "type": (r"CREATE\s+(?:TYPE|DOMAIN)", made["name"]),
        "function": (r"CREATE\s+(?:OR\s+REPLACE\s+)?(?:FUNCTION|PROCEDURE)", made["name"]),
    }[kind]
    text, twins = _with_twins(conn, shadow, str(statement["sql"]), made)
    text = _moved(text, anchor, schema, str(name), shadow)
    with conn.cursor() as cursor:
        cursor.execute(re.sub(r"(?i)\bINDEX\s+CONCURRENTLY\b", "INDEX", text) if kind == "index" else text)
    return table, twins


def _with_twins(conn: Connection, shadow: str, text: str, made: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """:return: the statement with its foreign keys to empty twins, and the twins as :func:`_build` returns them."""
    twins: dict[str, str] = {}
    parts = [made, *(made.get("constraints") or [])]
    parents = [part["references"] for part in parts if part.get("type") == "foreign_key" and part.get("references")]
    for schema, table in dict.fromkeys((_schema(parent), str(parent["table"])) for parent in parents):
        real = fetch_one(
            conn,
            "SELECT format('%%I.%%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = %s AND c.relname = %s AND has_table_privilege(c.oid, 'SELECT')",
            (schema, table),
        )
        if real is None:
            continue
        twin = f"pgops_twin_{len(twins) + 1}"
        execute(
            conn,
            sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING INDEXES)").format(
                sql.Identifier(shadow, twin), sql.Identifier(schema, table)
            ),
        )
        text = _moved(text, "REFERENCES", schema, table, shadow, twin)
        twins[twin] = real["name"]
    return text, twins


def _moved(text: str, anchor: str, schema: str, name: str, shadow: str, new_name: str | None = None) -> str:
    def spelled(identifier: str) -> str:
        quoted = re.escape('"' + identifier.replace('"', '""') + '"')
        return (
            f'(?:{quoted}|(?i:{re.escape(identifier)})(?![A-Za-z0-9_$"]))'
            if identifier.lower() == identifier
            else quoted
        )

    pattern = rf"(?P<before>(?i:{anchor})\s+(?:(?i:IF\s+(?:NOT\s+)?EXISTS)\s+)?(?:(?i:ONLY)\s+)?)(?:{spelled(schema)}\s*\.\s*)?{spelled(name)}"
    replacement = f'"{shadow}"."' + (new_name or name).replace('"', '""') + '"'
    return re.sub(pattern, lambda match: match.group("before") + replacement, text)


def _differences(
    conn: Connection,
    made: Mapping[str, Any],
    shadow: str,
    table: str | None,
    explained: Explained,
    twins: Mapping[str, str],
    exactly: bool,
) -> list[str]:
    kind, schema, name = made["kind"], _schema(made), str(made["name"])

    def plain(value: Any) -> Any:
        # What the server prints of the shadow's own sequences and types, as if they were in the real schema.
        if isinstance(value, str):
            for twin, real in twins.items():
                value = value.replace(f"{shadow}.{twin}(", f"{real}(")
            value = value.replace(f"{shadow}.", f"{schema}.")
            return value if exactly else value.replace(" NOT VALID", "")
        return value

    def rows(query: str, schema_name: str, object_name: str) -> dict[str, dict[str, Any]]:
        return {
            row["name"]: {key: plain(value) for key, value in row.items()}
            for row in fetch_all(conn, query, (schema_name, object_name))
        }

    if kind in ("table", "column", "constraint"):
        assert table is not None
        told = []
        if kind in ("table", "column"):
            wanted, found = rows(_COLUMNS, shadow, table), rows(_COLUMNS, schema, table)
            if kind == "column":
                wanted, found = ({key: all_[key] for key in all_ if key == name} for all_ in (wanted, found))
            told += _column_differences(wanted, found)
            told += [
                f"column {extra}: wanted none, found {found[extra]['type']}"
                for extra in sorted(set(found) - set(wanted))
                if ("column", schema, table, extra) not in explained
            ]
        wanted, found = rows(_CONSTRAINTS, shadow, table), rows(_CONSTRAINTS, schema, table)
        for key, constraint in sorted(wanted.items()):
            other = found.get(key)
            if other is None or other["definition"] != constraint["definition"]:
                told.append(
                    f"constraint {key}: wanted {constraint['definition']}, "
                    f"found {other['definition'] if other else 'none'}"
                )
        return told
    if kind == "index":
        wanted_index, found_index = index_definition(conn, shadow, name), index_definition(conn, schema, name)
        if wanted_index is None or found_index is None:
            return [f"index {name}: it is not an index of {table}"]
        told = index_differences(wanted_index, found_index)
        if exactly:
            stored = [fetch_one(conn, _STORAGE, (item["oid"],)) or {} for item in (wanted_index, found_index)]
            if stored[0] != stored[1]:
                told.append("storage parameters: wanted {}, found {}".format(*(row["storage"] for row in stored)))
        return told if found_index["valid"] or told else [f"index {schema}.{name} is invalid"]
    if kind == "type":
        return _type_differences(
            fetch_one(conn, _TYPE, (shadow, name)), fetch_one(conn, _TYPE, (schema, name)), made, explained
        )
    if kind == "trigger":
        wanted_trigger = fetch_one(conn, _TRIGGER, (shadow, table, name))
        found_trigger = fetch_one(conn, _TRIGGER, (schema, table, name))
        left = plain(wanted_trigger["definition"]) if wanted_trigger else None
        right = plain(found_trigger["definition"]) if found_trigger else None
        told = [] if left == right else [f"wanted {left}, found {right}"]
        if exactly and wanted_trigger and found_trigger and wanted_trigger["enabled"] != found_trigger["enabled"]:
            told.append(f"enabled: wanted {wanted_trigger['enabled']}, found {found_trigger['enabled']}")
        return told
    if kind == "policy":
        wanted_policy = fetch_one(conn, _POLICY, (shadow, table, name)) or {}
        found_policy = fetch_one(conn, _POLICY, (schema, table, name)) or {}
        return [
            f"{attribute}: wanted {word(wanted_policy[attribute])}, found {word(found_policy.get(attribute))}"
            for attribute in wanted_policy
            if plain(wanted_policy[attribute]) != plain(found_policy.get(attribute))
        ]
    wanted_functions = [plain(row["definition"]) for row in fetch_all(conn, _FUNCTIONS, (shadow, name))]
    found_functions = [plain(row["definition"]) for row in fetch_all(conn, _FUNCTIONS, (schema, name))]
    missing = [text for text in wanted_functions if text not in found_functions]
    return [f"no function {name} has the wanted definition ({len(found_functions)} of that name)"] if missing else []


def _column_differences(wanted: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    told = []
    for name, column in sorted(wanted.items()):
        other = found.get(name)
        if other is None:
            told.append(f"column {name}: wanted {column['type']}, found none")
            continue
        for attribute in ("type", "not_null", "default", "generated", "identity", "collation"):
            if column[attribute] != other[attribute]:
                if attribute == "not_null":
                    words = {True: "NOT NULL", False: "NULL"}
                    told.append(f"column {name}: wanted {words[column[attribute]]}, found {words[other[attribute]]}")
                else:
                    label = "" if attribute == "type" else f" {attribute}"
                    told.append(
                        f"column {name}{label}: wanted {word(column[attribute])}, found {word(other[attribute])}"
                    )
    return told


def _type_differences(
    wanted: Mapping[str, Any] | None, found: Mapping[str, Any] | None, made: Mapping[str, Any], explained: Explained
) -> list[str]:
    if wanted is None or found is None:
        return ["wanted a type, found none"]
    told = []
    for name in ("typtype", "base", "not_null", "default", "checks", "attributes"):
        if wanted[name] != found[name]:
            told.append(f"{name}: wanted {word(wanted[name])}, found {word(found[name])}")
    if wanted["labels"] != found["labels"]:
        added = {key[3] for key in explained if key[:3] == ("enum_value", _schema(made), made["name"])}
        kept = [label for label in found["labels"] or [] if label in (wanted["labels"] or []) or label not in added]
        if kept != wanted["labels"]:
            told.append(f"values: wanted {', '.join(wanted['labels'] or [])}; found {', '.join(found['labels'] or [])}")
    return told


def _schema(made: Mapping[str, Any]) -> str:
    return str(made.get("schema") or "public")


def _table(made: Mapping[str, Any]) -> str | None:
    # For a value of an enum the contract keeps the type's name where a column has its table.
    table = made.get("table") or made.get("type")
    return str(table) if table is not None else None
