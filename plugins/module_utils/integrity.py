# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Is a database sound in itself: rows without a parent, invalid indexes, constraints that are not in force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import key_scan
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import BEING_BUILT
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from psycopg2 import sql

# Up to how many rows a table is counted for its row count; a larger one is estimated, and told so.
EXACT_ROWS = 1_000_000
# How many rows without a parent are named by their key.
NAMED_ROWS = 10

_USER_SCHEMA = "n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname !~ '^pg_(toast_)?temp_'"

# conparentid: the parts of a key on or to a partitioned table follow the one that was declared.
_FOREIGN_KEYS = f"""
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) || '.' || quote_ident(k.conname) AS name,
       k.conname::text AS constraint_name,
       n.nspname::text AS schema, c.relname::text AS relation, c.relkind::text AS kind,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS table,
       pn.nspname::text AS target_schema, p.relname::text AS target_relation, p.relkind::text AS target_kind,
       quote_ident(pn.nspname) || '.' || quote_ident(p.relname) AS target,
       keys.columns, keys.target_columns, keys.operators, k.confmatchtype = 'f' AS match_full,
       coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true) AS enforced,
       coalesce((to_jsonb(k) ->> 'conperiod')::boolean, false) AS period, k.convalidated AS validated,
       (SELECT array_agg(a.attname::text ORDER BY key.place) FROM pg_index AS i
          CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS key (number, place)
          JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = key.number
          JOIN pg_type AS t ON t.oid = a.atttypid AND t.typname IN ('int2', 'int4', 'int8', 'uuid')
         WHERE i.indrelid = c.oid AND i.indisprimary HAVING count(*) = max(i.indnkeyatts)) AS identity,
       EXISTS (SELECT FROM pg_index AS i
                WHERE i.indrelid = c.oid AND i.indisvalid AND i.indnkeyatts >= cardinality(k.conkey)
                  AND (i.indpred IS NULL
                       OR (cardinality(k.conkey) = 1 AND pg_get_expr(i.indpred, i.indrelid)
                           = format('(%I IS NOT NULL)', (keys.columns)[1])))
                  AND (SELECT array_agg(number ORDER BY number) FROM (SELECT key.number
                         FROM unnest(i.indkey) WITH ORDINALITY AS key (number, place)
                        WHERE key.place <= cardinality(k.conkey)) AS first_columns)
                    = (SELECT array_agg(number ORDER BY number) FROM unnest(k.conkey) AS number)) AS indexed
  FROM pg_constraint AS k
  JOIN pg_class AS c ON c.oid = k.conrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_class AS p ON p.oid = k.confrelid JOIN pg_namespace AS pn ON pn.oid = p.relnamespace
 CROSS JOIN LATERAL (
       SELECT array_agg(a.attname::text ORDER BY place) AS columns,
              array_agg(r.attname::text ORDER BY place) AS target_columns,
              jsonb_agg(jsonb_build_array(opn.nspname, o.oprname) ORDER BY place) AS operators
         FROM unnest(k.conkey, k.confkey, k.conpfeqop) WITH ORDINALITY AS pair (number, target, operator, place)
         JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = pair.number
         JOIN pg_attribute AS r ON r.attrelid = k.confrelid AND r.attnum = pair.target
         JOIN pg_operator AS o ON o.oid = pair.operator JOIN pg_namespace AS opn ON opn.oid = o.oprnamespace) AS keys
 WHERE k.contype = 'f' AND k.conparentid = 0 AND {_USER_SCHEMA} AND n.nspname <> 'pgops'
 ORDER BY 1
"""

_INVALID_INDEXES = f"""
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
       quote_ident(tn.nspname) || '.' || quote_ident(t.relname) AS table,
       c.relpages::bigint * current_setting('block_size')::bigint AS bytes
  FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_class AS t ON t.oid = i.indrelid JOIN pg_namespace AS tn ON tn.oid = t.relnamespace
 WHERE NOT (i.indisvalid AND i.indisready AND i.indislive) AND {_USER_SCHEMA} AND NOT {BEING_BUILT}
 ORDER BY 1
"""

# A NOT NULL constraint (18) is named by its column: its own name is generated.
_NOT_IN_FORCE = f"""
SELECT CASE WHEN k.contype = 'n' THEN 'column ' ELSE 'constraint ' END
         || quote_ident(n.nspname) || '.' || quote_ident(c.relname) || '.'
         || CASE WHEN k.contype = 'n' THEN (SELECT quote_ident(a.attname) FROM pg_attribute AS a
              WHERE a.attrelid = c.oid AND a.attnum = k.conkey[1]) ELSE quote_ident(k.conname) END AS name,
       CASE WHEN coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true) THEN 'validated' ELSE 'enforced' END AS attribute
  FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE NOT k.convalidated AND k.conparentid = 0 AND {_USER_SCHEMA}
 ORDER BY 1
"""

# A trigger of a foreign key is told as its constraint; each has several.
_DISABLED_TRIGGERS = f"""
SELECT DISTINCT CASE WHEN t.tgconstraint <> 0 AND t.tgisinternal THEN 'constraint ' ELSE 'trigger ' END
         || quote_ident(n.nspname) || '.' || quote_ident(c.relname) || '.'
         || quote_ident(coalesce((SELECT k.conname FROM pg_constraint AS k
              WHERE k.oid = t.tgconstraint AND t.tgisinternal), t.tgname)) AS name
  FROM pg_trigger AS t
  LEFT JOIN pg_constraint AS fk ON fk.oid = t.tgconstraint AND t.tgisinternal
  JOIN pg_class AS c ON c.oid = coalesce(fk.conrelid, t.tgrelid) JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE t.tgenabled = 'D' AND {_USER_SCHEMA}
 ORDER BY 1
"""

# A table holds PHI if its comment or one of its columns' says so. Its audit is told by the comment of the trigger's
# function: AUDIT writes each change down, APPEND-ONLY lets none happen. tgtype: 4 INSERT, 8 DELETE, 16 UPDATE, 32 TRUNCATE.
_PHI_TABLES = f"""
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
       c.relrowsecurity AND c.relforcerowsecurity AS row_security,
       coalesce(bit_or(t.tgtype::int) FILTER (WHERE t.tag = 'AUDIT') & 60 = 60, false)
         OR coalesce(bit_or(t.tgtype::int) FILTER (WHERE t.tag = 'APPEND-ONLY') & 56 = 56, false) AS audited,
       EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname IN ('deletedAt', 'deleted_at')
                  AND NOT a.attisdropped) AS soft_delete
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN LATERAL (
       SELECT g.tgtype, substring(obj_description(g.tgfoid, 'pg_proc') FROM '^(AUDIT|APPEND-ONLY)\\y') AS tag
         FROM pg_trigger AS g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A')) AS t ON true
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND {_USER_SCHEMA} AND n.nspname <> 'pgops'
   AND EXISTS (SELECT FROM pg_description AS d WHERE d.classoid = 'pg_class'::regclass AND d.objoid = c.oid
                  AND d.description ~ '^PHI\\y')
 GROUP BY n.nspname, c.oid, c.relname
 ORDER BY 1
"""

# A table is told by its columns in their order. A NOT NULL constraint (18) is told there.
_DEFINITIONS = f"""
SELECT 'table' AS kind, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS object,
       coalesce((SELECT string_agg(quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
                  || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
                  || CASE WHEN a.attidentity <> '' THEN ' GENERATED AS IDENTITY'
                          WHEN a.attgenerated <> '' THEN ' GENERATED AS (' || pg_get_expr(d.adbin, d.adrelid) || ')'
                          WHEN d.oid IS NOT NULL THEN ' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid) ELSE '' END,
                  ', ' ORDER BY a.attnum)
          FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '') AS definition
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND {_USER_SCHEMA} AND n.nspname <> 'pgops'
 UNION ALL
SELECT 'constraint', quote_ident(n.nspname) || '.' || quote_ident(c.relname) || '.' || quote_ident(k.conname),
       pg_get_constraintdef(k.oid)
  FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE k.contype <> 'n' AND {_USER_SCHEMA} AND n.nspname <> 'pgops'
 UNION ALL
SELECT 'index', quote_ident(n.nspname) || '.' || quote_ident(c.relname), pg_get_indexdef(c.oid)
  FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE {_USER_SCHEMA} AND n.nspname <> 'pgops'
 ORDER BY 1 DESC, 2
"""

_ESTIMATES = f"""
SELECT n.nspname::text AS schema, c.relname::text AS table,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
       -- reltuples is -1 before the first ANALYZE; pages are always known.
       CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint
            ELSE pg_relation_size(c.oid) / current_setting('block_size')::bigint * 100 END AS rows,
       c.reltuples >= 0 AS analyzed
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND {_USER_SCHEMA} AND n.nspname <> 'pgops'
   AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                      AND d.deptype = 'e')
"""


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key and what its check found.

    ``orphans`` is the number of rows without a parent, None where it could not be read (``error`` says why); ``ids``
    names at most ten by the values of an integer or uuid primary key, else by ctid. ``indexed``: a valid index leads
    with its columns.
    """

    name: str
    table: str
    columns: list[str]
    target: str
    target_columns: list[str]
    validated: bool
    indexed: bool
    orphans: int | None
    ids: list[str]
    error: str | None

    def as_dict(self) -> dict[str, Any]:
        """The foreign key as plain data for a module's result."""
        return dict(vars(self))


def foreign_keys(conn: Connection, *, control: Control, progress: Progress, database: str) -> list[ForeignKey]:
    """Count, for every foreign key of the database but the ledger's own, the rows without a parent.

    Valid ones are counted too: a disabled trigger, replication, or VALIDATE under row-level security leaves orphans
    behind a constraint that says it is valid.

    :param conn: a session with ``row_security = off`` whose role reads every row; in autocommit.
    :return: these foreign keys by name. One that cannot be read has an error, none is left out.
    :raises Interrupted: asked to end, between two keys or because the caller cancelled the statement in hand.

    Takes ACCESS SHARE on both tables, one key after the other.
    """
    keys = fetch_all(conn, _FOREIGN_KEYS)
    found = []
    for number, key in enumerate(keys, 1):
        control.check()
        progress.emit("rows without a parent", database=database, done=number, total=len(keys), unit="foreign keys")
        found.append(_foreign_key(conn, key, control))
    return found


def _foreign_key(conn: Connection, key: Mapping[str, Any], control: Control) -> ForeignKey:
    orphans: int | None = None
    ids: list[str] = []
    error = None
    try:
        orphans, ids = count_orphans(conn, key)
    except psycopg2.Error as exc:
        control.check()
        query = orphans_query(key).as_string(conn)
        error = from_psycopg(exc, f"{key['name']} could not be checked", statement=query).message
    return ForeignKey(
        name=key["name"],
        table=key["table"],
        columns=key["columns"],
        target=key["target"],
        target_columns=key["target_columns"],
        validated=key["validated"],
        indexed=key["indexed"],
        orphans=orphans,
        ids=ids,
        error=error,
    )


def count_orphans(conn: Connection, key: Mapping[str, Any]) -> tuple[int, list[str]]:
    """:param key: a foreign key as :func:`find_foreign_key` gives it.
    :return: how many rows have no parent, and at most ten of them by id, or by ctid where the id may be a name.
    Takes ACCESS SHARE on both tables."""
    row = fetch_one(conn, key_scan.in_order(conn, key) + sql.SQL("SELECT count(*) AS number") + orphans_from(key))
    number = int(row["number"]) if row else 0
    if not number:
        return 0, []
    return number, [str(row["id"]) for row in fetch_all(conn, orphans_query(key, NAMED_ROWS))]


def orphans_query(key: Mapping[str, Any], limit: int | None = None) -> sql.Composable:
    """:return: the SELECT of the ids of rows without a parent."""
    # A key of another type may be a name or an e-mail address: then the row's place in the table is told.
    identity: sql.Composable = sql.SQL(" || '/' || ").join(
        sql.SQL("child.{}").format(sql.Identifier(name)) for name in key["identity"] or ["ctid"]
    )
    query = sql.SQL("SELECT ({})::text AS id").format(identity) + orphans_from(key) + sql.SQL(" ORDER BY 1")
    return query + sql.SQL(" LIMIT {}").format(sql.Literal(limit)) if limit is not None else query


def find_foreign_key(conn: Connection, schema: str, table: str, name: str) -> dict[str, Any] | None:
    """:return: what the catalog says of one foreign key, None where there is none. No lock."""
    return next(
        (
            key
            for key in fetch_all(conn, _FOREIGN_KEYS)
            if (key["schema"], key["relation"]) == (schema, table) and key["constraint_name"] == name
        ),
        None,
    )


def foreign_keys_of(conn: Connection, schema: str, table: str) -> list[dict[str, Any]]:
    """:return: what the catalog says of the foreign keys of one table, as :func:`find_foreign_key` does. No lock."""
    return [key for key in fetch_all(conn, _FOREIGN_KEYS) if (key["schema"], key["relation"]) == (schema, table)]


def orphans_from(key: Mapping[str, Any]) -> sql.Composable:
    """``FROM child WHERE no parent``. ONLY, since a key does not reach the children of plain inheritance."""
    child = sql.SQL("" if key["kind"] == "p" else "ONLY ") + sql.Identifier(key["schema"], key["relation"])
    parent = sql.SQL("" if key["target_kind"] == "p" else "ONLY ") + sql.Identifier(
        key["target_schema"], key["target_relation"]
    )
    pairs = list(zip(key["columns"], key["target_columns"], key["operators"]))
    equal: list[sql.Composable] = [
        sql.SQL("parent.{} OPERATOR({}.{}) child.{}").format(
            sql.Identifier(target), sql.Identifier(operator[0]), sql.SQL(operator[1]), sql.Identifier(column)
        )
        for column, target, operator in pairs
    ]
    present: list[sql.Composable] = [
        sql.SQL("child.{} IS NOT NULL").format(sql.Identifier(column)) for column in key["columns"]
    ]
    if key["period"]:
        # A temporal key (18) wants the parent's periods together to cover the child's.
        column, target, _operator = pairs[-1]
        parentless = sql.SQL(
            "NOT coalesce(child.{} <@ (SELECT range_agg(parent.{}) FROM {} AS parent WHERE {}), false)"
        ).format(sql.Identifier(column), sql.Identifier(target), parent, sql.SQL(" AND ").join(equal[:-1]))
    else:
        parentless = sql.SQL("NOT EXISTS (SELECT FROM {} AS parent WHERE {})").format(
            parent, sql.SQL(" AND ").join(equal)
        )
    where: sql.Composable = sql.SQL("{} AND {}").format(sql.SQL(" AND ").join(present), parentless)
    if key["match_full"] and len(pairs) > 1:
        nulls = sql.SQL("num_nulls({})").format(
            sql.SQL(", ").join(sql.SQL("child.{}").format(sql.Identifier(column)) for column in key["columns"])
        )
        where = sql.SQL("({} OR {} BETWEEN 1 AND {})").format(where, nulls, sql.Literal(len(pairs) - 1))
    return sql.SQL(" FROM {} AS child WHERE {}").format(child, where)


def invalid_indexes(conn: Connection) -> list[dict[str, Any]]:
    """Indexes that no query uses although they cost every write: ``name``, ``table``, ``bytes``. No lock on tables."""
    return fetch_all(conn, _INVALID_INDEXES)


def not_in_force(conn: Connection) -> list[dict[str, Any]]:
    """Constraints never validated or not enforced: ``name`` (with its kind), ``attribute``. No lock on tables."""
    return fetch_all(conn, _NOT_IN_FORCE)


def disabled_triggers(conn: Connection) -> list[str]:
    """Triggers that are switched off, and foreign keys whose triggers are, by kind and name. No lock on tables."""
    return [str(row["name"]) for row in fetch_all(conn, _DISABLED_TRIGGERS)]


def phi_tables(conn: Connection) -> list[dict[str, Any]]:
    """Tables whose comment, or that of a column, begins with ``PHI``.

    :return: ``name``, ``row_security`` (enabled and forced), ``audited`` (every kind of change leaves a trace or is
        refused), ``soft_delete`` (a deletion can be marked instead of done). No lock on tables.
    """
    return fetch_all(conn, _PHI_TABLES)


def row_counts(conn: Connection, *, exact_rows: int = EXACT_ROWS) -> list[dict[str, Any]]:
    """How many rows each table has, largest first.

    :param exact_rows: tables estimated larger than this are not counted; their number is the planner's estimate.
    :return: ``name``, ``rows``, ``estimate`` (whether it is one). A table that cannot be read is an estimate.
    Takes ACCESS SHARE on each table that is counted.
    """
    tables = fetch_all(conn, _ESTIMATES)
    counted = {table["name"]: table for table in tables if table["rows"] <= exact_rows}
    exact = _count(conn, list(counted.values()))
    rows = [
        {
            "name": table["name"],
            "rows": exact.get(table["name"], int(table["rows"])),
            "estimate": table["name"] not in exact,
        }
        for table in tables
    ]
    return sorted(rows, key=lambda row: (-row["rows"], row["name"]))


def rows_to_compare(conn: Connection, *, exact_rows: int) -> list[dict[str, Any]]:
    """How many rows each table has, for a comparison with another moment.

    :param exact_rows: tables estimated larger than this are not counted; below zero none is.
    :return: ``name``, ``rows``, ``estimate``. ``rows`` is None for what is neither counted nor analyzed: a guess by pages
        says nothing about what has changed.
    Takes ACCESS SHARE on each table that is counted.
    """
    tables = fetch_all(conn, _ESTIMATES)
    exact = _count(conn, [table for table in tables if table["rows"] <= exact_rows])
    return [
        {
            "name": table["name"],
            "rows": exact.get(table["name"], int(table["rows"]) if table["analyzed"] else None),
            "estimate": table["name"] not in exact,
        }
        for table in sorted(tables, key=lambda table: str(table["name"]))
    ]


def _count(conn: Connection, tables: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    counts: list[sql.Composable] = [
        sql.SQL("SELECT {} AS name, count(*) AS rows FROM ONLY {}").format(
            sql.Literal(table["name"]), sql.Identifier(table["schema"], table["table"])
        )
        for table in tables
    ]
    if not counts:
        return {}
    try:
        return {row["name"]: int(row["rows"]) for row in fetch_all(conn, sql.SQL(" UNION ALL ").join(counts))}
    except (psycopg2.errors.InsufficientPrivilege, psycopg2.errors.LockNotAvailable):
        if len(tables) == 1:
            return {}
        # One by one: only the one that cannot be read, or not now, stays an estimate.
        found: dict[str, int] = {}
        for table in tables:
            found.update(_count(conn, [table]))
        return found


def definitions(conn: Connection) -> list[dict[str, Any]]:
    """Every table with its columns, every index and every constraint: ``kind``, ``object``, ``definition``. No lock on tables
    but ACCESS SHARE, for a moment, on one whose expression is printed."""
    return fetch_all(conn, _DEFINITIONS)


def extensions(conn: Connection) -> list[dict[str, Any]]:
    """Installed extensions: ``name``, ``version``."""
    return fetch_all(conn, "SELECT extname::text AS name, extversion AS version FROM pg_extension ORDER BY 1")
