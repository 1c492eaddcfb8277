# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What keeps rows in quarantine out of their table by now: a client may have taken their key since they were moved, or somebody
have added a rule that they do not fit. What they hold is never told: it may be PHI.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import integrity
from ansible_collections.whitecross.pgops.plugins.module_utils.before_put_back import Before, Table, words
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from psycopg2 import sql

# A column that came since is NULL in a row of then, unless it fills itself: of that value nobody can tell before.
_COLUMNS = """
SELECT a.attname::text AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
       q.attnum IS NOT NULL AS kept, (q.atttypid, q.atttypmod) IS NOT DISTINCT FROM (a.atttypid, a.atttypmod) AS same,
       q.attnum IS NOT NULL OR NOT (a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL) AS known,
       CASE WHEN a.attgenerated <> '' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END AS generated
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  LEFT JOIN pg_attribute q ON q.attrelid = to_regclass(%s) AND q.attname = a.attname AND q.attnum > 0 AND NOT q.attisdropped
 WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
# indisready: an index of a build that failed refuses doubles as well.
_UNIQUE = """
SELECT c.relname::text AS name, i.indisprimary AS is_primary, i.indisexclusion AS excludes,
       pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS predicate,
       coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) AS nulls_are_equal, keys.expressions, keys.operators,
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum > 0 AND (a.attnum = ANY(i.indkey)
                OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                              AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
                              AND d.refobjsubid = a.attnum))) AS columns
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
  LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
 CROSS JOIN LATERAL (
       SELECT array_agg(pg_catalog.pg_get_indexdef(i.indexrelid, place, false) ORDER BY place) AS expressions,
              array_agg(format('OPERATOR(%%I.%%s)', n.nspname, o.oprname) ORDER BY place) AS operators
         FROM generate_series(1, i.indnkeyatts::int) AS place
         JOIN pg_opclass oc ON oc.oid = i.indclass[place - 1]
         LEFT JOIN pg_amop m ON m.amopfamily = oc.opcfamily AND m.amopstrategy = 3 AND m.amoppurpose = 's'
                            AND m.amoplefttype = oc.opcintype AND m.amoprighttype = oc.opcintype
         JOIN pg_operator o ON o.oid = CASE WHEN i.indisexclusion THEN k.conexclop[place] ELSE m.amopopr END
         JOIN pg_namespace n ON n.oid = o.oprnamespace) AS keys
 WHERE i.indrelid = to_regclass(%s) AND (i.indisunique OR i.indisexclusion) AND i.indisready
   AND cardinality(keys.operators) = i.indnkeyatts
 ORDER BY i.indisprimary DESC, 1
"""
_CHECKS = """
SELECT k.conname::text AS name, pg_catalog.pg_get_expr(k.conbin, k.conrelid) AS holds,
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = k.conrelid AND a.attnum = ANY(k.conkey)) AS columns
  FROM pg_constraint k
 WHERE k.contype = 'c' AND k.conrelid = to_regclass(%s) AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
 ORDER BY 1
"""
# A key of another type may be a name or an e-mail address: then the row's place in the quarantine is told.
_IDENTITY = """
SELECT array_agg(a.attname::text ORDER BY key.place) AS columns FROM pg_index i
 CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS key (number, place)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = key.number
  JOIN pg_attribute q ON q.attrelid = to_regclass(%s) AND q.attname = a.attname AND NOT q.attisdropped
  JOIN pg_type t ON t.oid = q.atttypid AND t.typname IN ('int2', 'int4', 'int8', 'uuid')
 WHERE i.indrelid = to_regclass(%s) AND i.indisprimary HAVING count(*) = max(i.indnkeyatts)
"""
_PARTITIONS = """
SELECT pn.nspname::text AS schema, p.relname::text AS relation FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL pg_catalog.pg_partition_tree(c.oid) t JOIN pg_class p ON p.oid = t.relid JOIN pg_namespace pn ON pn.oid = p.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND c.relkind = 'p'
"""
# When a column of two keys is the same.
_PAIRS = {
    "=": "there.{name} {operator} back.{name}",
    "null": "there.{name} IS NULL AND back.{name} IS NULL",
    "or": "(there.{name} {operator} back.{name} OR num_nulls(there.{name}, back.{name}) = 2)",
}
# So many columns of a key are looked at with and without a value each: 8 sets.
_SETS = 3
# Of these the look cannot tell; the put-back itself does.
_UNTOLD = ("22", "42")


@dataclass(frozen=True)
class Conflict:
    """Rows in quarantine that a rule of their table keeps out.

    :ivar why: the rule, as a clause.
    :ivar way_out: what to do about it.
    :ivar query: the SELECT of all their ids.
    """

    why: str
    way_out: str
    rows: int
    ids: list[str]
    query: str

    def __str__(self) -> str:
        more = ", ..." if self.rows > len(self.ids) else ""
        return f"{self.rows} row(s), by id {', '.join(self.ids)}{more}, since {self.why}"


def quarantine_of(entry: Mapping[str, Any]) -> sql.Identifier:
    """:return: the name of the table that the rows are in."""
    return sql.Identifier(*str(entry["quarantine"]).split("."))


def conflicts(conn: Connection, entry: Mapping[str, Any], before: Before | None = None) -> list[Conflict]:
    """Look which rules of its table the rows of a quarantine break, in the open transaction.

    Takes ACCESS SHARE on both tables and on those that the child refers to.

    :param entry: what :func:`orphans.settle` gave.
    :param before: what may be gone when they are put back; None where they are put back now.
    """
    columns = _with_generated(fetch_all(conn, _COLUMNS, (entry["quarantine"], entry["table"])))
    if not any(column["kept"] for column in columns):
        return []
    before = before or Before()
    known = {column["name"] for column in columns if column["known"]}
    tables = _with_partitions(conn, (str(entry["schema"]), str(entry["relation"])))
    found = []
    for rule in _rules(conn, entry, columns):
        if not set(rule.columns) <= known or before.may_lift(tables, rule.name, rule.columns):
            continue
        if rule.parent and before.may_give_parents(_with_partitions(conn, rule.parent), rule.parent_columns):
            continue
        conflict = _conflict(conn, rule)
        if conflict is not None:
            found.append(conflict)
    return found


def _with_partitions(conn: Connection, table: Table) -> set[Table]:
    return {table, *((row["schema"], row["relation"]) for row in fetch_all(conn, _PARTITIONS, table))}


def _with_generated(columns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """:return: the same; of what the server computes the value that was kept tells nothing, only the columns that it comes from."""
    unknown = [words(column["name"]) for column in columns if not column["generated"] and not column["known"]]
    return [
        {**column, "known": not any(named <= words(column["generated"]) for named in unknown)}
        if column["generated"]
        else column
        for column in columns
    ]


@dataclass(frozen=True)
class _Rule:
    """:ivar name: None for NOT NULL.
    :ivar broken: ``FROM ... WHERE`` of the rows that break it.
    :ivar parent: the table that a foreign key refers to, by ``parent_columns``.
    """

    name: str | None
    columns: Sequence[str]
    why: str
    way_out: str
    identity: sql.Composable
    broken: sql.Composable
    parent: Table | None = None
    parent_columns: Sequence[str] = ()


def _rules(conn: Connection, entry: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> Iterator[_Rule]:
    names = _key(conn, entry)
    identity = _identity(names)
    rows = _as_now(entry, columns)
    fill = f"give them a value in {entry['quarantine']} or delete them there"
    change = f"change in {entry['quarantine']} what it is computed from or delete them there"
    for index in fetch_all(conn, _UNIQUE, (entry["table"],)):
        what = (
            "the primary key" if index["is_primary"] else "the constraint" if index["excludes"] else "the unique index"
        )
        yield _Rule(
            index["name"],
            index["columns"],
            f"{what} {index['name']} has another row in their place",
            f"give them another value in {entry['quarantine']} or delete them there, or do so with the other rows",
            sql.SQL("back.id"),
            _taken(conn, entry, index, rows, identity),
        )
    for column in columns:
        if column["not_null"]:
            yield _Rule(
                None,
                [column["name"]],
                f"the column {column['name']} is NOT NULL, and they have no value there",
                change
                if column["generated"]
                else fill
                if column["kept"]
                else f"ALTER TABLE {entry['quarantine']} ADD COLUMN {_written(conn, column['name'])} {column['type']}, and fill it",
                identity,
                sql.SQL(" FROM {} WHERE {} IS NULL").format(rows, sql.Identifier(column["name"])),
            )
    for check in fetch_all(conn, _CHECKS, (entry["table"],)):
        yield _Rule(
            check["name"],
            check["columns"],
            f"they break the constraint {check['name']}",
            f"bring them in line with it in {entry['quarantine']} or delete them there",
            identity,
            sql.SQL(" FROM {} WHERE ({}) IS FALSE").format(rows, sql.SQL(check["holds"])),
        )
    kept = {column["name"] for column in columns if column["kept"] and not column["generated"]}
    for key in integrity.foreign_keys_of(conn, str(entry["schema"]), str(entry["relation"])):
        own = f"{entry['schema']}.{entry['relation']}.{key['constraint_name']}" == entry["constraint"]
        if own or not key["enforced"] or not set(key["columns"]) <= kept:
            continue
        yield _Rule(
            key["constraint_name"],
            key["columns"],
            f"they have no parent in {key['target']} for the foreign key {key['constraint_name']}",
            f"give them a parent, or delete them in {entry['quarantine']}",
            _identity(names, "child"),
            _parentless(entry, key),
            (key["target_schema"], key["target_relation"]),
            key["target_columns"],
        )


def ids_query(conn: Connection, entry: Mapping[str, Any]) -> sql.Composable:
    """:return: the SELECT of the ids of all rows in a quarantine."""
    return sql.SQL("SELECT {} AS id FROM {} ORDER BY 1").format(_identity(_key(conn, entry)), quarantine_of(entry))


def _key(conn: Connection, entry: Mapping[str, Any]) -> list[str]:
    row = fetch_one(conn, _IDENTITY, (entry["quarantine"], entry["table"]))
    return list((row or {}).get("columns") or [])


def _identity(names: Sequence[str], table: str | None = None) -> sql.Composable:
    parts = [sql.Identifier(table, name) if table else sql.Identifier(name) for name in names or ["ctid"]]
    return sql.SQL("({})::text").format(sql.SQL(" || '/' || ").join(parts))


def _written(conn: Connection, name: str) -> str:
    row = fetch_one(conn, "SELECT quote_ident(%s) AS name", (name,))
    return str(row["name"]) if row else name


def _as_now(entry: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> sql.Composable:
    """:return: the rows of the quarantine in the shape that their table has now."""
    if all(column["kept"] and column["same"] and not column["generated"] for column in columns):
        return quarantine_of(entry)
    shaped = [
        sql.SQL("{}::{} AS {}").format(
            sql.Identifier(column["name"]) if column["kept"] else sql.SQL("NULL"),
            sql.SQL(column["type"]),
            sql.Identifier(column["name"]),
        )
        for column in columns
        if column["known"] and not column["generated"]
    ]
    rows = sql.SQL("(SELECT ctid, {} FROM {}) AS shaped").format(sql.SQL(", ").join(shaped), quarantine_of(entry))
    computed = [
        sql.SQL("({}) AS {}").format(sql.SQL(column["generated"]), sql.Identifier(column["name"]))
        for column in columns
        if column["known"] and column["generated"]
    ]
    return (
        sql.SQL("(SELECT *, {} FROM {}) AS computed").format(sql.SQL(", ").join(computed), rows) if computed else rows
    )


def _taken(
    conn: Connection,
    entry: Mapping[str, Any],
    index: Mapping[str, Any],
    rows: sql.Composable,
    identity: sql.Composable,
) -> sql.Composable:
    """:return: the rows of the quarantine that the index takes for the same as one of the table, or as one another."""
    kind = fetch_one(conn, "SELECT relkind::text AS kind FROM pg_class WHERE oid = to_regclass(%s)", (entry["table"],))
    only = sql.SQL("" if kind and kind["kind"] == "p" else "ONLY ")
    keys = sql.SQL(", ").join(
        sql.SQL("({}) AS {}").format(sql.SQL(expression), sql.Identifier(f"k{number}"))
        for number, expression in enumerate(index["expressions"])
    )
    where = sql.SQL(" WHERE {}").format(sql.SQL(index["predicate"])) if index["predicate"] else sql.SQL("")
    back = sql.SQL("(SELECT {} AS id, ctid AS place, {} FROM {}{}) AS back").format(identity, keys, rows, where)
    in_table = sql.SQL("(SELECT {} FROM {}{}{}) AS there").format(
        keys, only, sql.Identifier(entry["schema"], entry["relation"]), where
    )
    in_quarantine = sql.SQL("(SELECT ctid AS place, {} FROM {}{}) AS there").format(keys, rows, where)
    # One at a time: both in one condition, or NULL equal to NULL within it, would make the server compare each row with each.
    halves = [
        sql.SQL("SELECT back.id, back.place FROM {} WHERE EXISTS (SELECT FROM {} WHERE {})").format(back, *half)
        for same in _same(index)
        for half in ((in_table, same), (in_quarantine, sql.SQL("there.place <> back.place AND {}").format(same)))
    ]
    return sql.SQL(" FROM ({}) AS back").format(sql.SQL(" UNION ").join(halves))


def _same(index: Mapping[str, Any]) -> list[sql.Composable]:
    """:return: when two keys are the same; with NULLS NOT DISTINCT a condition for each set of columns that are NULL."""
    operators, equal = index["operators"], bool(index["nulls_are_equal"])
    choices = [
        ["null", "="] if equal and number < _SETS else ["or"] if equal else ["="] for number in range(len(operators))
    ]
    return [
        sql.SQL(" AND ").join(
            sql.SQL(_PAIRS[form]).format(name=sql.Identifier(f"k{number}"), operator=sql.SQL(operator))
            for number, (operator, form) in enumerate(zip(operators, forms))
        )
        for forms in itertools.product(*choices)
    ]


def _parentless(entry: Mapping[str, Any], key: Mapping[str, Any]) -> sql.Composable:
    schema, relation = str(entry["quarantine"]).split(".")
    without = integrity.orphans_from({**key, "schema": schema, "relation": relation, "kind": "r"})
    if (key["target_schema"], key["target_relation"]) != (entry["schema"], entry["relation"]):
        return without
    # A row of the same table that comes back with it is a parent as well.
    same = [
        sql.SQL("parent.{} OPERATOR({}.{}) child.{}").format(
            sql.Identifier(target), sql.Identifier(operator[0]), sql.SQL(operator[1]), sql.Identifier(column)
        )
        for column, target, operator in zip(key["columns"], key["target_columns"], key["operators"])
    ]
    return without + sql.SQL(" AND NOT EXISTS (SELECT FROM {} AS parent WHERE {})").format(
        quarantine_of(entry), sql.SQL(" AND ").join(same)
    )


def _conflict(conn: Connection, rule: _Rule) -> Conflict | None:
    query = sql.SQL("SELECT {} AS id").format(rule.identity) + rule.broken + sql.SQL(" ORDER BY 1")
    execute(conn, "SAVEPOINT pgops_rule")
    try:
        row = fetch_one(conn, sql.SQL("SELECT count(*) AS number") + rule.broken)
        number = int(row["number"]) if row else 0
        ids = fetch_all(conn, query + sql.SQL(f" LIMIT {integrity.NAMED_ROWS}")) if number else []
    except psycopg2.Error as exc:
        if exc.pgcode is None or exc.pgcode[:2] not in _UNTOLD:
            raise
        execute(conn, "ROLLBACK TO SAVEPOINT pgops_rule")
        return None
    execute(conn, "RELEASE SAVEPOINT pgops_rule")
    if not number:
        return None
    return Conflict(rule.why, rule.way_out, number, [str(item["id"]) for item in ids], query.as_string(conn))
