# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The foreign keys of both databases, and which rows of the kept one they bind together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.whitecross.pgops.plugins.module_utils.both_databases import Pair
from ansible_collections.whitecross.pgops.plugins.module_utils.common_tables import Common
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from psycopg2 import sql

# A partition has the keys of its table, and what refers to a partitioned table refers to its partitions, by the same names.
_KEYS = """
SELECT DISTINCT quote_ident(cn.nspname) || '.' || quote_ident(c.relname) AS child,
       quote_ident(pn.nspname) || '.' || quote_ident(p.relname) AS parent, told.columns, told.referred, told.operators
FROM pg_constraint AS f JOIN pg_class AS c ON c.oid = f.conrelid JOIN pg_namespace AS cn ON cn.oid = c.relnamespace
CROSS JOIN LATERAL (
  SELECT array_agg(ca.attname::text ORDER BY k.n) AS columns, array_agg(pa.attname::text ORDER BY k.n) AS referred,
         array_agg(format('OPERATOR(%I.%s)', opn.nspname, o.oprname) ORDER BY k.n) AS operators
  FROM unnest(f.conkey, f.confkey, f.conpfeqop) WITH ORDINALITY AS k (child, parent, operator, n)
  JOIN pg_attribute AS ca ON ca.attrelid = f.conrelid AND ca.attnum = k.child
  JOIN pg_attribute AS pa ON pa.attrelid = f.confrelid AND pa.attnum = k.parent
  JOIN pg_operator AS o ON o.oid = k.operator JOIN pg_namespace AS opn ON opn.oid = o.oprnamespace) AS told
CROSS JOIN LATERAL (SELECT f.confrelid AS oid UNION SELECT t.relid FROM pg_partition_tree(f.confrelid) AS t WHERE t.isleaf) AS r
JOIN pg_class AS p ON p.oid = r.oid JOIN pg_namespace AS pn ON pn.oid = p.relnamespace
WHERE f.contype = 'f' AND c.relkind = 'r' AND p.relkind = 'r'
"""

_BOUND = """
SELECT c.ctid::text AS child, p.pgops_place AS parent, p.pgops_told AS told{of_child}
FROM ONLY {child} AS c
JOIN (SELECT {referred}, ctid::text AS pgops_place, {of_parent} AS pgops_told FROM ONLY {parent}) AS p ON {equal}
WHERE c.ctid = ANY ({places}::tid[])
"""


@dataclass(frozen=True)
class ForeignKey:
    """One of a table that both have, or of a partition of it.

    :ivar operators: empty where only the live database has the key; the values are compared as text then.
    """

    child: str
    parent: str
    columns: tuple[str, ...]
    referred: tuple[str, ...]
    operators: tuple[str, ...]


def foreign_keys(pair: Pair, tables: Mapping[str, Common]) -> list[ForeignKey]:
    """:return: those of either database between the tables, whose columns the kept one has: what refers to a row there does so
    whether or not the key is there still."""
    there = _keys_of(pair.kept.conn)
    told = {(key.child, key.parent, key.columns, key.referred) for key in there}
    found = there + [
        ForeignKey(key.child, key.parent, key.columns, key.referred, ())
        for key in _keys_of(pair.live.conn)
        if (key.child, key.parent, key.columns, key.referred) not in told
    ]
    return [key for key in found if {key.child, key.parent} <= tables.keys() and _is_there(key, tables)]


def bound_rows(
    key: ForeignKey,
    tables: Mapping[str, Common],
    places: Sequence[str],
    of_parent: sql.Composable,
    of_child: sql.Composable | None = None,
) -> sql.Composable:
    """:param places: of rows of the child in the kept database.
    :param of_parent: an expression over the parent's columns, in the result as ``told``.
    :param of_child: one over those of the child, whose alias is ``c``; in the result as ``own``.
    :return: the query for the kept database: child and parent, the places of each two rows that the key binds together."""
    child, parent = tables[key.child].kept, tables[key.parent].kept
    operators = key.operators or ("::text OPERATOR(pg_catalog.=) ",) * len(key.columns)
    cast = sql.SQL("" if key.operators else "::text")
    equal = [
        sql.Identifier("p", referred) + sql.SQL(operator) + sql.Identifier("c", column) + cast
        for column, referred, operator in zip(key.columns, key.referred, operators)
    ]
    return sql.SQL(_BOUND).format(
        child=sql.Identifier(child.schema, child.name),
        parent=sql.Identifier(parent.schema, parent.name),
        referred=sql.SQL(", ").join(sql.Identifier(name) for name in key.referred),
        of_parent=of_parent,
        of_child=sql.SQL("") if of_child is None else sql.SQL(", {} AS own").format(of_child),
        equal=sql.SQL(" AND ").join(equal),
        places=sql.Literal(list(places)),
    )


def _keys_of(conn: Connection) -> list[ForeignKey]:
    return [
        ForeignKey(row["child"], row["parent"], tuple(row["columns"]), tuple(row["referred"]), tuple(row["operators"]))
        for row in fetch_all(conn, _KEYS)
    ]


def _is_there(key: ForeignKey, tables: Mapping[str, Common]) -> bool:
    of_child, of_parent = ({name for name, _ in tables[table].kept.columns} for table in (key.child, key.parent))
    return set(key.columns) <= of_child and set(key.referred) <= of_parent
