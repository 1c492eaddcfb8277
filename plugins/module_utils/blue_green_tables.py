# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which tables are replicated with which columns, and what logical replication could not carry; told before the copy begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import blue_green_state, catalog
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

_TOLD = 5

# Partitions come with their root, whose name the rows have. The key is by what UPDATE and DELETE are told apart: of a partitioned table
# that of every partition, since each has its own.
_TABLES = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name, n.nspname AS schema, c.relname AS table, c.oid::bigint AS oid,
       c.relkind = 'p' AS partitioned, c.relpersistence = 'u' AS unlogged,
       (SELECT jsonb_agg(jsonb_build_object('name', a.attname, 'number', a.attnum, 'type', format_type(a.atttypid, a.atttypmod),
                'base', t.typname, 'builtin', t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype <> 'd',
                'generated', a.attgenerated <> '',
                'needed', a.attnotnull AND NOT a.atthasdef AND a.attidentity = '') ORDER BY a.attnum)
          FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       (SELECT jsonb_agg(jsonb_build_object('leaf', l.oid::regclass::text, 'foreign', l.relkind = 'f', 'unlogged', l.relpersistence = 'u',
                'full', l.relreplident = 'f', 'key', (SELECT jsonb_agg(a.attname) FROM pg_catalog.pg_index AS i
                    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = l.oid AND a.attnum = ANY (i.indkey)
                   WHERE i.indrelid = l.oid AND i.indisvalid AND i.indimmediate
                     AND (l.relreplident = 'i' AND i.indisreplident OR l.relreplident = 'd' AND i.indisprimary)),
                'deferrable', EXISTS (SELECT FROM pg_catalog.pg_index AS i
                   WHERE i.indrelid = l.oid AND i.indisprimary AND NOT i.indimmediate)))
          FROM pg_catalog.pg_class AS l
         WHERE l.oid = c.oid AND c.relkind = 'r'
            OR c.relkind = 'p' AND l.oid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(c.oid) AS p WHERE p.isleaf)) AS leaves
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', %(ledger)s, %(own)s)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
"""
_FOREIGN_KEYS = """
SELECT conrelid::regclass::text AS table, conname::text AS name, pg_catalog.pg_get_constraintdef(oid) AS definition
FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conparentid = 0
"""
_EXCLUDED = {"ledger": catalog.LEDGER_SCHEMA, "own": blue_green_state.SCHEMA}


@dataclass(frozen=True)
class Shape:
    """A table as one of the two databases has it."""

    name: str
    schema: str
    table: str
    oid: int
    partitioned: bool
    unlogged: bool
    columns: tuple[Mapping[str, Any], ...]
    leaves: tuple[Mapping[str, Any], ...]

    @property
    def named(self) -> dict[str, Mapping[str, Any]]:
        """:return: the columns by name."""
        return {str(column["name"]): column for column in self.columns}


@dataclass(frozen=True)
class Carried:
    """A table that is replicated.

    :ivar columns: those that both have and that are no expressions, in the order of the live one.
    :ivar narrowed: the live one has more: the publication has to name the columns.
    """

    live: Shape
    green: Shape
    columns: tuple[str, ...]
    narrowed: bool


def shapes(conn: Connection) -> dict[str, Shape]:
    """:return: the tables of a database by quoted name, without the ledger and the members of extensions."""
    return {
        str(row["name"]): Shape(
            row["name"],
            row["schema"],
            row["table"],
            row["oid"],
            row["partitioned"],
            row["unlogged"],
            tuple(row["columns"] or ()),
            tuple(row["leaves"] or ()),
        )
        for row in fetch_all(conn, _TABLES, _EXCLUDED)
    }


def refuse_live(conn: Connection, database: str) -> None:
    """:raises PgopsError: the live database has what logical replication does not carry, each with the statement that mends it."""
    found: list[tuple[str, str]] = []
    for shape in shapes(conn).values():
        found += _unfit(shape)
    row = fetch_one(conn, "SELECT count(*) AS n FROM pg_catalog.pg_largeobject_metadata")
    if row and row["n"]:
        found.append((f"{row['n']} large objects", "move them into bytea columns, or drop them (vacuumlo)"))
    _refuse(found, database)


def _unfit(shape: Shape) -> list[tuple[str, str]]:
    found = []
    for leaf in shape.leaves:
        name = str(leaf["leaf"])
        if leaf["foreign"]:
            found.append(
                (f"the foreign table {name} as a partition", f"ALTER TABLE {shape.name} DETACH PARTITION {name}")
            )
        elif leaf["unlogged"]:
            found.append((f"the unlogged table {name}", f"ALTER TABLE {name} SET LOGGED, or drop it"))
        elif not leaf["full"] and not leaf["key"]:
            # From the moment it is published, PostgreSQL refuses UPDATE and DELETE of it: the application would fail.
            why = (
                "whose primary key is deferrable and so no replica identity"
                if leaf["deferrable"]
                else "which has no replica identity"
            )
            key = "make its primary key NOT DEFERRABLE" if leaf["deferrable"] else "give it a primary key"
            found.append((f"{name}, {why}", f"{key}, or ALTER TABLE {name} REPLICA IDENTITY FULL"))
    return found


def carried(live: Mapping[str, Shape], green: Mapping[str, Shape]) -> list[Carried]:
    """:return: what both have, by name sorted."""
    result = []
    for name in sorted(set(live) & set(green)):
        there = green[name].named
        ours = [column for column in live[name].columns if not column["generated"]]
        both = [str(c["name"]) for c in ours if c["name"] in there and not there[str(c["name"])]["generated"]]
        result.append(Carried(live[name], green[name], tuple(both), len(both) < len(ours)))
    return result


def refuse_changes(
    live: Connection,
    green: Connection,
    before: Mapping[str, Shape],
    after: Mapping[str, Shape],
    database: str,
    *,
    more: Callable[[Connection, Connection, Sequence[Carried]], list[tuple[str, str]]],
) -> list[Carried]:
    """Look at what the versions have made of the empty copy.

    :param before: the copy's tables before the versions; :param after: behind them.
    :param more: what else is in the way of what is replicated, and what to do.
    :return: what is replicated.
    :raises PgopsError: rows could not be carried into it, or would be there unchecked.
    """
    of_live = shapes(live)
    pairs = carried(of_live, after)
    found = _renamed(before, after)
    for pair in pairs:
        found += _unreachable(pair)
    found += more(live, green, pairs)
    known = {(row["table"], row["name"], row["definition"]) for row in fetch_all(live, _FOREIGN_KEYS)}
    for row in fetch_all(green, _FOREIGN_KEYS):
        if (row["table"], row["name"], row["definition"]) not in known:
            found.append(
                (
                    f"the new foreign key {row['name']} of {row['table']}, which replication does not check",
                    "add it in a later version, which is applied online",
                )
            )
    for pair in pairs:
        rows = fetch_one(green, f"SELECT EXISTS (SELECT FROM {pair.green.name}) AS yes")
        if rows and rows["yes"]:
            found.append(
                (
                    f"rows that a version has written into {pair.green.name}",
                    "write them by a version that is applied online",
                )
            )
    _refuse(found, database)
    return pairs


def _renamed(before: Mapping[str, Shape], after: Mapping[str, Shape]) -> list[tuple[str, str]]:
    found = []
    now = {shape.oid: shape for shape in after.values()}
    for shape in before.values():
        same = now.get(shape.oid)
        if same is None:
            continue
        if same.name != shape.name:
            found.append(
                (
                    f"{shape.name}, which is renamed to {same.name}: rows go by name",
                    "rename it in a later version, online",
                )
            )
        numbers = {column["number"]: str(column["name"]) for column in same.columns}
        for column in shape.columns:
            name = numbers.get(column["number"])
            if name is not None and name != column["name"]:
                found.append(
                    (
                        f"the column {column['name']} of {shape.name}, which is renamed to {name}: values go by name",
                        "rename it in a later version, online",
                    )
                )
    return found


def _unreachable(pair: Carried) -> list[tuple[str, str]]:
    name, found = pair.live.name, []
    for column in pair.green.columns:
        before = pair.live.named.get(str(column["name"]))
        if before and before["generated"] and not column["generated"]:
            found.append(
                (
                    f"the column {column['name']} of {name}, which is computed now and has no expression in the new one",
                    "keep the expression, and drop it in a later version, online",
                )
            )
        if column["needed"] and column["name"] not in pair.columns:
            found.append(
                (
                    f"the column {column['name']} of {name}, which is new, NOT NULL and has no default",
                    "give it a default",
                )
            )
    of_live = [set(leaf["key"] or ()) for leaf in pair.live.leaves if not leaf["full"]]
    if pair.narrowed and len(of_live) < len(pair.live.leaves):
        found.append((f"{name}, whose replica identity is FULL and loses a column", "give it a primary key first"))
    for key in of_live:
        gone = sorted(key - set(pair.columns))
        if gone:
            found.append(
                (
                    f"{name}, which loses {', '.join(gone)} of its replica identity",
                    "keep the column, and drop it online later",
                )
            )
    for leaf in pair.green.leaves:
        wanted = set(leaf["key"] or ())
        if not of_live:
            continue
        if not wanted and not leaf["full"]:
            found.append((f"{leaf['leaf']}, which loses its primary key", "keep the key, and let it not be deferrable"))
        for key in of_live:
            if wanted and not wanted <= key:
                found.append(
                    (
                        f"{leaf['leaf']}, by whose new key ({', '.join(sorted(wanted))}) the rows of {name} cannot be found",
                        f"ALTER TABLE {name} REPLICA IDENTITY FULL in the live database, before",
                    )
                )
                break
    return found


def _refuse(found: Sequence[tuple[str, str]], database: str) -> None:
    if not found:
        return
    told = "; ".join(what for what, _fix in found[:_TOLD])
    more = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    raise PgopsError(
        f"No blue-green change of {database}: logical replication does not carry {told}{more}; nothing of it is left.",
        database=database,
        object_name=found[0][0],
        hint=f"{found[0][1]}; then run the same command again.",
        extra={"reason": "not_carried", "not_carried": [{"what": what, "fix": fix} for what, fix in found]},
    )
