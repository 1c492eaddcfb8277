# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ids that are text where the tree has uuid: the era of a database, and what stands between it and the tree.

Reads whole columns under ACCESS SHARE, as the role that reads backups; tells counts and places, no value: a text id may be a name or an e-mail address.
"""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import catalog
from ansible_collections.whitecross.pgops.plugins.module_utils.bounded_look import reader
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.effects import Chain
from ansible_collections.whitecross.pgops.plugins.module_utils.repair import REWRITE_ROWS, Column
from psycopg2 import sql

UUID, TEXT, NONE = "uuid", "text", "none"

_TEXT_TYPE = re.compile(r"(?:text|character varying(?:\(\d+\))?|character\(\d+\))$")
_IS_UUID = "^[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$"
_VALUES = """
SELECT count({column}) AS rows, count(*) FILTER (WHERE {column} !~ {pattern}) AS unfit,
       (SELECT array_agg(place) FROM (SELECT ctid::text AS place FROM {table} WHERE {column} !~ {pattern} ORDER BY ctid
         LIMIT 10) AS first_ten) AS places
  FROM {table}
"""
_SAME_UUID = """
SELECT coalesce(sum(n), 0)::bigint AS n
  FROM (SELECT count(*) AS n FROM {table} WHERE {column} IS NOT NULL GROUP BY {column}::uuid HAVING count(*) > 1) AS same
"""
_SAME_BUT_FOR_CASE = """
SELECT coalesce(sum(n), 0)::bigint AS n FROM (SELECT count(*) AS n FROM {table} GROUP BY lower(btrim({column})) HAVING count(*) > 1) AS same
"""


def era(chain: Chain, found: catalog.Inventory) -> str:
    """:return: ``text`` where most ids of the tree's tables are text, ``uuid`` where they are uuid, ``none`` without tables."""
    ids = [
        found[key]["type"]
        for key in chain.states
        if key in found and key.endswith(".id") and any(state["type"] == "uuid" for state in chain.ever(key))
        if catalog.kind_of(key) == "column"
    ]
    if not ids:
        return NONE
    return TEXT if sum(bool(_TEXT_TYPE.match(name)) for name in ids) * 2 > len(ids) else UUID


def as_uuid(target: Target, schema: str, table: str, column: str) -> Column:
    """:return: how many values a text column has, how many of them are no uuid, and how many are the same one as another."""
    with reader(target, "pgops adopt") as conn:
        names = {
            "column": sql.Identifier(column),
            "table": sql.Identifier(schema, table),
            "pattern": sql.Literal(_IS_UUID),
        }
        row = fetch_one(conn, sql.SQL(_VALUES).format(**names))
        assert row is not None
        same = None
        if not row["unfit"] and row["rows"] <= REWRITE_ROWS:
            same = fetch_one(conn, sql.SQL(_SAME_UUID).format(**names))
    return Column(int(row["rows"]), int(row["unfit"]), tuple(row["places"] or ()), int(same["n"]) if same else 0)


def report(target: Target, chain: Chain, found: catalog.Inventory) -> list[dict[str, Any]]:
    """:return: table by table: type of the id, rows, ids that are no uuid, ids that differ only in case or blanks, and
    columns that hold ids (by the tree, or by their name) without a foreign key."""
    guarded = {
        (value["schema"], value["table"], column)
        for key, value in found.items()
        if catalog.kind_of(key) == "constraint" and value["form"] == "foreign key"
        for column in value.get("columns") or []
    }
    told = []
    with reader(target, "pgops adopt") as conn:
        for key in sorted(found):
            value = found[key]
            if catalog.kind_of(key) != "column" or value["column"] != "id" or not _TEXT_TYPE.match(value["type"]):
                continue
            table = sql.Identifier(value["schema"], value["table"])
            names = {"column": sql.Identifier("id"), "table": table, "pattern": sql.Literal(_IS_UUID)}
            rows = fetch_one(conn, sql.SQL(_VALUES).format(**names)) or {}
            same = fetch_one(conn, sql.SQL(_SAME_BUT_FOR_CASE).format(**names)) or {}
            loose = [
                other["column"]
                for name, other in sorted(found.items())
                if catalog.kind_of(name) == "column"
                and (other["schema"], other["table"]) == (value["schema"], value["table"])
                and _TEXT_TYPE.match(other["type"])
                and (other["schema"], other["table"], other["column"]) not in guarded
                and (other["column"].endswith("Id") or any(state["type"] == "uuid" for state in chain.ever(name)))
                and other["column"] != "id"
            ]
            told.append(
                {
                    "table": f"{value['schema']}.{value['table']}",
                    "type": value["type"],
                    "rows": int(rows.get("rows") or 0),
                    "ids_without_uuid": int(rows.get("unfit") or 0),
                    "ids_differing_only_in_case": int(same.get("n") or 0),
                    "columns_without_foreign_key": loose,
                    "in_the_tree": bool(chain.ever(f"table {key.removeprefix('column ').rsplit('.', 1)[0]}")),
                }
            )
    return told
