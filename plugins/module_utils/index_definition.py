# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What makes an index what it is, as the server prints it, and how two of them differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all, fetch_one

_INDEX = """
SELECT n.nspname::text AS index_schema, c.relname::text AS name, i.indisunique AS "unique", i.indisvalid AS valid, m.amname::text AS method, i.indnkeyatts AS keys,
       (to_jsonb(i) ->> 'indnullsnotdistinct')::boolean AS nulls_not_distinct,
       pg_catalog.pg_get_expr(i.indpred, i.indrelid, true) AS "where",
       tn.nspname::text AS schema, tc.relname::text AS "table", i.indexrelid AS oid, i.indisprimary AS "primary",
       pg_catalog.obj_description(i.indexrelid, 'pg_class') AS comment,
       (SELECT jsonb_agg(jsonb_build_object(
            'column', pg_catalog.pg_get_indexdef(i.indexrelid, k, true),
            'key', k <= i.indnkeyatts,
            'opclass', CASE WHEN k <= i.indnkeyatts THEN (SELECT opcname FROM pg_opclass WHERE oid = i.indclass[k - 1]) END,
            'descending', CASE WHEN k <= i.indnkeyatts THEN (i.indoption[k - 1] & 1) = 1 END,
            'nulls_first', CASE WHEN k <= i.indnkeyatts THEN (i.indoption[k - 1] & 2) = 2 END,
            'collation', CASE WHEN k <= i.indnkeyatts
                              THEN (SELECT collname FROM pg_collation WHERE oid = i.indcollation[k - 1]) END) ORDER BY k)
          FROM generate_series(1, i.indnatts) AS k) AS columns
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_am m ON m.oid = c.relam JOIN pg_class tc ON tc.oid = i.indrelid JOIN pg_namespace tn ON tn.oid = tc.relnamespace
"""


def index_definition(conn: Connection, schema: str, name: str) -> dict[str, Any] | None:
    """:return: everything that makes an index what it is, without its name; None when there is none of that name."""
    return fetch_one(conn, f"{_INDEX} WHERE n.nspname = %s AND c.relname = %s", (schema, name))


def indexes_of(conn: Connection, tables: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """:param tables: (schema, table).
    :return: the same of every index of these tables, in the order of their names. No lock."""
    return fetch_all(
        conn,
        f"{_INDEX} WHERE (tn.nspname, tc.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[])) ORDER BY 1, 2",
        ([schema for schema, _ in tables], [table for _, table in tables]),
    )


def standing(conn: Connection, names: Collection[str]) -> set[str]:
    """:param names: each ``schema.name``.
    :return: those of which there is a valid index. No lock."""
    if not names:
        return set()
    query = (
        "SELECT n.nspname || '.' || c.relname AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.indisvalid AND n.nspname || '.' || c.relname = ANY (%s)"
    )
    return {str(row["name"]) for row in fetch_all(conn, query, (sorted(names),))}


def index_differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """:return: how two index definitions differ, in words."""
    told = []
    for name in ("table", "method", "unique", "nulls_not_distinct", "where"):
        if wanted[name] != found[name]:
            told.append(f"{name}: wanted {word(wanted[name])}, found {word(found[name])}")
    if wanted["columns"] != found["columns"]:
        told.append(f"columns: wanted ({_index_columns(wanted)}), found ({_index_columns(found)})")
    return told


def _index_columns(index: Mapping[str, Any]) -> str:
    parts = []
    for column in index["columns"]:
        text = str(column["column"])
        if not column["key"]:
            text = f"INCLUDE {text}"
        elif column["descending"] or column["nulls_first"]:
            text += (" DESC" if column["descending"] else " ASC") + (" NULLS FIRST" if column["nulls_first"] else "")
        if column["opclass"]:
            text += f" [{column['opclass']}]"
        parts.append(text)
    return ", ".join(parts)


def word(value: Any) -> str:
    """:return: a property of an object for a sentence."""
    if value is None or value == "":
        return "none"
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
