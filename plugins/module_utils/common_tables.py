# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The tables that two databases both have, with the columns and the key by which their rows can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import content
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.content import Table
from psycopg2 import sql

_NUMBERS = frozenset({"int2", "int4", "int8", "numeric", "float4", "float8"})

_DETAILS = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name, c.oid::bigint AS oid, c.reltuples::bigint AS rows,
       coalesce((SELECT jsonb_agg(jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
                    'generated', a.attgenerated <> '', 'identity', a.attidentity = 'a',
                    'needed', a.attnotnull AND NOT a.atthasdef AND a.attidentity = '') ORDER BY a.attnum)
          FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]') AS columns,
       coalesce((SELECT array_agg(a.attname::text ORDER BY k.n) FROM pg_index AS i
          CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, n)
          JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
         WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND k.n <= i.indnkeyatts), '{}') AS key
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND quote_ident(n.nspname) || '.' || quote_ident(c.relname) = ANY (%(names)s)
"""

# A partition has the keys of its table, and one that refers to a partitioned table refers to its partitions.
_REFERENCES = """
SELECT quote_ident(cn.nspname) || '.' || quote_ident(c.relname) AS child,
       quote_ident(pn.nspname) || '.' || quote_ident(p.relname) AS parent
FROM pg_constraint AS f JOIN pg_class AS c ON c.oid = f.conrelid JOIN pg_namespace AS cn ON cn.oid = c.relnamespace
CROSS JOIN LATERAL (SELECT f.confrelid AS oid UNION SELECT t.relid FROM pg_partition_tree(f.confrelid) AS t WHERE t.isleaf) AS r
JOIN pg_class AS p ON p.oid = r.oid JOIN pg_namespace AS pn ON pn.oid = p.relnamespace
WHERE f.contype = 'f' AND c.relkind = 'r' AND p.relkind = 'r'
"""


@dataclass(frozen=True)
class Common:
    """A table that both have.

    :ivar columns: by name sorted, those that both have and that are no expressions over others; with the kind that both
        can be hashed as.
    :ivar key: the columns of its primary key; empty where the two have none or not the same.
    :ivar always: columns whose value PostgreSQL makes (GENERATED ALWAYS AS IDENTITY).
    :ivar rows: the larger of the two estimates.
    :ivar notes: what of it cannot be compared as it is, or not be brought back.
    """

    name: str
    kept: Table
    live: Table
    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    always: frozenset[str]
    rows: int
    notes: list[str] = field(default_factory=list)

    def row_hash(self) -> sql.Composable:
        """:return: the hash of a row over the common columns, the same expression on both sides."""
        return content.row_hash(replace(self.live, columns=self.columns))

    def key_hash(self) -> sql.Composable:
        """:return: the hash by which rows are brought together: of the key, or of the row where there is no key."""
        if not self.key:
            return self.row_hash()
        return content.row_hash(
            replace(self.live, columns=tuple(column for column in self.columns if column[0] in self.key))
        )


def common_tables(
    kept: Connection, kept_tables: Mapping[str, Table], live: Connection, live_tables: Mapping[str, Table]
) -> list[Common]:
    """:return: the tables that both have with a column in common, parents before children as far as the keys of the live database allow it."""
    names = sorted(set(kept_tables) & set(live_tables))
    there, here = _details(kept, names), _details(live, names)
    found = {
        name: _common(name, kept_tables[name], live_tables[name], there[name], here[name])
        for name in names
        if name in there and name in here
    }
    return [found[name] for name in in_order(list(found), references(live)) if found[name].columns]


def references(conn: Connection) -> list[tuple[str, str]]:
    """:return: (child, parent) of each foreign key, also of one to its own table."""
    return sorted({(str(row["child"]), str(row["parent"])) for row in fetch_all(conn, _REFERENCES)})


def in_order(names: Sequence[str], keys: Sequence[tuple[str, str]]) -> list[str]:
    """:return: the names, each behind all that it refers to; those that refer to each other in a circle come last."""
    parents: dict[str, set[str]] = {name: set() for name in names}
    for child, parent in keys:
        if child in parents and parent in parents and child != parent:
            parents[child].add(parent)
    ordered: list[str] = []
    while parents:
        free = [name for name, waits in parents.items() if not waits & parents.keys()]
        ordered += free or list(parents)
        for name in free or list(parents):
            del parents[name]
    return ordered


def _details(conn: Connection, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {str(row["name"]): row for row in fetch_all(conn, _DETAILS, {"names": list(names)})}


def _common(name: str, kept: Table, live: Table, there: Mapping[str, Any], here: Mapping[str, Any]) -> Common:
    of_kept, of_live = dict(kept.columns), dict(live.columns)
    kept_columns = {column["name"]: column for column in there["columns"]}
    live_columns = {column["name"]: column for column in here["columns"]}
    columns, notes = [], []
    for column, entry in sorted(live_columns.items()):
        other = kept_columns.get(column)
        if other is None or entry["generated"] or other["generated"]:
            continue
        kind = of_live[column]
        if entry["type"] != other["type"]:
            notes.append(f"column {column} is {entry['type']} here and {other['type']} there")
            kinds = {kind, of_kept[column]}
            kind = content.NUMBER if kinds <= _NUMBERS else kind if len(kinds) == 1 else "text"
        columns.append((column, kind))
    lacking = [
        column
        for column, entry in live_columns.items()
        if entry["needed"] and (column not in kept_columns or kept_columns[column]["generated"])
    ]
    if lacking:
        notes.append(
            f"an inserted row needs a value of {', '.join(sorted(lacking))}, which the kept database does not have"
        )
    told = {column for column, _ in columns}
    key = tuple(here["key"])
    if set(key) != set(there["key"]) or not set(key) <= told:
        key = ()
    if not key:
        notes.append("without a primary key that both have: compared by whole rows")
    return Common(
        name,
        kept,
        live,
        tuple(columns),
        key,
        frozenset(column for column, entry in live_columns.items() if entry["identity"]),
        max(int(there["rows"]), int(here["rows"])),
        notes,
    )
