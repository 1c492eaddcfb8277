# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What stands in the way of the statements of a repair, in the catalog and in the rows, while nothing is recorded yet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import integrity, unique_violation
from ansible_collections.whitecross.pgops.plugins.module_utils.bounded_look import reader
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.effects import Twin
from ansible_collections.whitecross.pgops.plugins.module_utils.going_down import words_of
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from psycopg2 import sql

_TARGET = """
WITH target AS (
    SELECT a.attrelid AS relid, a.attnum AS number, a.attcollation AS collation, a.attinhcount AS inherited
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND a.attname = %(column)s AND NOT a.attisdropped
)
"""
# For each of these PostgreSQL refuses to alter the type; the triggers of a foreign key stand on the key. A view is told for its rule.
_STANDS_ON_COLUMN = f"""{_TARGET}
, standing (classid, objid, objsubid) AS (
    SELECT CASE WHEN v.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass::oid END, coalesce(v.oid, d.objid), 0
      FROM target t
      JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.relid AND d.refobjsubid = t.number
       AND d.classid IN ('pg_rewrite'::regclass, 'pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_proc'::regclass,
                         'pg_publication_rel'::regclass)
      LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
      LEFT JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')
     WHERE NOT EXISTS (SELECT FROM pg_trigger g WHERE d.classid = 'pg_trigger'::regclass AND g.oid = d.objid AND g.tgisinternal)
     UNION
    SELECT 'pg_class'::regclass, f.adrelid, f.adnum
      FROM target t
      JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.relid AND d.refobjsubid = t.number
      JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid AND (f.adrelid, f.adnum) <> (t.relid, t.number)
     UNION
    SELECT 'pg_class'::regclass, u.attrelid, u.attnum
      FROM target t JOIN pg_type y ON y.typrelid = t.relid
      JOIN pg_attribute u ON u.atttypid IN (y.oid, y.typarray) AND NOT u.attisdropped
      JOIN pg_class c ON c.oid = u.attrelid AND c.relkind IN ('r', 'p', 'm')
     UNION
    SELECT 'pg_class'::regclass, i.inhparent, 0 FROM target t JOIN pg_inherits i ON i.inhrelid = t.relid WHERE t.inherited > 0
     UNION
    SELECT 'pg_class'::regclass, p.partrelid, 0
      FROM target t JOIN pg_partitioned_table p ON p.partrelid = t.relid AND t.number = ANY (p.partattrs)
)
SELECT i.type || ' ' || i.identity AS name
  FROM standing s CROSS JOIN LATERAL pg_identify_object(s.classid, s.objid, s.objsubid) i ORDER BY 1
"""
# PostgreSQL makes them again from their text, in which the other type may have no operator, no function or no operator class.
_MADE_AGAIN = f"""{_TARGET}
SELECT i.type || ' ' || i.identity AS name, made.plain, made.text
  FROM target t CROSS JOIN LATERAL (
    SELECT 'pg_class'::regclass::oid AS classid, x.indexrelid AS oid,
           concat_ws(' ', pg_get_expr(x.indexprs, x.indrelid), pg_get_expr(x.indpred, x.indrelid)) AS text,
           NOT x.indisexclusion AND NOT EXISTS (
               SELECT FROM generate_series(0, x.indnkeyatts - 1) AS k JOIN pg_opclass o ON o.oid = x.indclass[k]
                WHERE x.indkey[k] = t.number AND (NOT o.opcdefault OR m.amname NOT IN ('btree', 'hash', 'brin')
                      OR x.indcollation[k] NOT IN (0, t.collation))) AS plain
      FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_am m ON m.oid = c.relam WHERE x.indrelid = t.relid
     UNION ALL
    SELECT 'pg_constraint'::regclass, k.oid, pg_get_constraintdef(k.oid), true FROM pg_constraint k
     WHERE k.conrelid = t.relid AND k.contype = 'c' AND t.number = ANY (k.conkey)
     UNION ALL
    SELECT 'pg_statistic_ext'::regclass, e.oid, array_to_string(pg_get_statisticsobjdef_expressions(e.oid), ' '), true
      FROM pg_statistic_ext e WHERE e.stxrelid = t.relid AND e.stxexprs IS NOT NULL
  ) made CROSS JOIN LATERAL pg_identify_object(made.classid, made.oid, 0) i ORDER BY 1
"""
_FOREIGN_KEYS = f"""{_TARGET}
SELECT DISTINCT 'constraint ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname) || '.' || quote_ident(k.conname) AS key,
       obj_description(k.oid, 'pg_constraint') AS comment,
       'column ' || quote_ident(on_.nspname) || '.' || quote_ident(o.relname) || '.' || quote_ident(a.attname) AS other
  FROM target t JOIN pg_constraint k ON k.contype = 'f' AND k.conparentid = 0
 CROSS JOIN LATERAL unnest(k.conkey, k.confkey) AS pair (mine, theirs)
  JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (
    SELECT k.confrelid AS relid, pair.theirs AS number WHERE (k.conrelid, pair.mine) = (t.relid, t.number)
     UNION ALL
    SELECT k.conrelid, pair.mine WHERE (k.confrelid, pair.theirs) = (t.relid, t.number)) end_
  JOIN pg_class o ON o.oid = end_.relid JOIN pg_namespace on_ ON on_.oid = o.relnamespace
  JOIN pg_attribute a ON a.attrelid = end_.relid AND a.attnum = end_.number
 ORDER BY 1, 3
"""
_UNIQUE = f"""{_TARGET}
SELECT 1 AS found FROM target t JOIN pg_index x ON x.indrelid = t.relid
 WHERE x.indisunique AND x.indnkeyatts = 1 AND x.indkey[0] = t.number AND x.indpred IS NULL
"""
_STANDS_ON_TYPE = """
SELECT i.type || ' ' || i.identity AS name
  FROM pg_type t
  JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray) AND d.deptype IN ('n', 'a')
 CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) i
 WHERE t.oid = to_regtype(%s) ORDER BY 1
"""
_NAMED = """
SELECT i.type || ' ' || i.identity AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL pg_identify_object('pg_class'::regclass, c.oid, 0) i
 WHERE n.nspname = %s AND c.relname = %s AND c.relkind <> ALL (%s::"char"[])
"""
_CHECK = re.compile(r"CHECK \((.*)\)(?: NO INHERIT)?", re.DOTALL)
# What the rows cannot be asked for before another part of the repair has made it.
_NOT_YET = (
    psycopg2.errors.UndefinedColumn,
    psycopg2.errors.UndefinedTable,
    psycopg2.errors.UndefinedFunction,
    psycopg2.errors.UndefinedObject,
)


@dataclass(frozen=True)
class Tie:
    """A foreign key that has a column as one of its ends.

    :ivar key: as an inventory has it.
    :ivar other: the column at the other end, likewise.
    """

    key: str
    other: str
    comment: str | None


@dataclass(frozen=True)
class Obstacles:
    """Looks at the database that is to be repaired, and writes nothing. Takes no lock but ACCESS SHARE where rows are counted."""

    target: Target
    conn: Connection

    def of_type_change(self, wanted: Mapping[str, Any], *, to_uuid: bool) -> list[str]:
        """:param wanted: the column, as an inventory has it.
        :return: the objects that PostgreSQL does not alter along with the type of the column, foreign keys apart."""
        column = {name: wanted[name] for name in ("schema", "table", "column")}
        found = [str(row["name"]) for row in fetch_all(self.conn, _STANDS_ON_COLUMN, column)]
        if to_uuid:
            found += [
                str(row["name"])
                for row in fetch_all(self.conn, _MADE_AGAIN, column)
                if not row["plain"] or _reads(str(row["text"] or ""), wanted["column"])
            ]
        return found

    def ties(self, wanted: Mapping[str, Any]) -> list[Tie]:
        """:return: the foreign keys of which the column is an end."""
        column = {name: wanted[name] for name in ("schema", "table", "column")}
        return [Tie(row["key"], row["other"], row["comment"]) for row in fetch_all(self.conn, _FOREIGN_KEYS, column)]

    def is_unique(self, wanted: Mapping[str, Any]) -> bool:
        """:return: whether two rows may not have the same value in the column."""
        column = {name: wanted[name] for name in ("schema", "table", "column")}
        return bool(fetch_all(self.conn, _UNIQUE, column))

    def of_twins(self, twins: Sequence[Twin]) -> list[Twin]:
        """:return: the twins; the named type of which cannot go, since something stands on it, with that as their clash."""
        told = []
        for twin in twins:
            standing = [] if twin.clash else fetch_all(self.conn, _STANDS_ON_TYPE, (twin.named,))
            names = ", ".join(dict.fromkeys(str(row["name"]) for row in standing))
            told.append(replace(twin, clash=f"{names} uses the type {twin.named}, which would go") if names else twin)
        return told

    def named(self, schema: str, name: str, kinds: str) -> str | None:
        """:param kinds: relkinds that are no obstacle.
        :return: what else has that name."""
        row = fetch_one(self.conn, _NAMED, (schema, name, list(kinds)))
        return str(row["name"]) if row else None

    def duplicates(self, index: Mapping[str, Any]) -> str | None:
        """:param index: an entry of an indexes file.
        :return: the rows that a unique index does not take, by id and without their values; None where there are none."""
        columns = [{"column": column} if isinstance(column, str) else column for column in index["columns"]]
        with reader(self.target, "pgops adopt") as conn:
            query = unique_violation.duplicates_query(conn, {**index, "columns": columns})
            count = sql.SQL('SELECT count(*) AS "rows", coalesce(max("key"), 0) AS "keys" FROM ({}) AS found').format(
                query
            )
            try:
                row = fetch_one(conn, count) or {}
                if not row.get("rows"):
                    return None
                rows = fetch_all(conn, query + sql.SQL(f" LIMIT {integrity.NAMED_ROWS}"))
            except _NOT_YET:
                return None
            ids = ", ".join(str(item["id"]) for item in rows) + (", …" if row["rows"] > len(rows) else "")
            listed = query.as_string(conn)
        return f"{row['rows']} rows share {row['keys']} key(s), by id {ids}; list them: {listed}"

    def broken(self, schema: str, table: str, definition: str) -> str | None:
        """:param definition: of a check.
        :return: how many rows it does not take, by their place; None where there are none, or it cannot be asked for now."""
        condition = _CHECK.fullmatch(definition)
        if condition is None:
            return None
        rows = sql.SQL(" FROM {} WHERE ({}) IS FALSE").format(sql.Identifier(schema, table), sql.SQL(condition[1]))
        with reader(self.target, "pgops adopt") as conn:
            try:
                row = fetch_one(conn, sql.SQL("SELECT count(*) AS n") + rows)
            except _NOT_YET:
                return None
            listed = (sql.SQL("SELECT ctid, *") + rows).as_string(conn)
        return f"{row['n']} rows break it; list them: {listed}" if row and row["n"] else None

    def orphans(self, scratch: Connection, schema: str, table: str, name: str) -> int:
        """:param scratch: the session on the database in which the tree was run: it has the foreign key.
        :return: how many rows have no parent, as far as that can be asked for now."""
        key = integrity.find_foreign_key(scratch, schema, table, name)
        if key is None:
            return 0
        with reader(self.target, "pgops adopt") as conn:
            try:
                return integrity.count_orphans(conn, key)[0]
            except _NOT_YET:
                return 0


def _reads(text: str, column: str) -> bool:
    """:return: whether an expression has the column, other than to ask whether there is a value."""
    name = quoted(column)
    either = {re.escape(name), re.escape('"' + column.replace('"', '""') + '"'), rf"\b{re.escape(column)}\b"}
    rest = re.sub(rf"(?:{'|'.join(sorted(either, key=len, reverse=True))})\s+IS\s+(?:NOT\s+)?NULL", "", text)
    return words_of('"' + column.replace('"', '""') + '"') <= words_of(rest)
