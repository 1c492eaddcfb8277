# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The SQL that a person runs over a side table: what differs from the live table by primary key, and what would bring rows back."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.side_schema import Column, Wanted, is_there
from psycopg2 import sql

_LIVE_COLUMNS = """
SELECT a.attname::text AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type, a.attgenerated <> '' AS generated,
       a.attidentity = 'a' AS identity
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped
"""

# Under a policy a role that is not let off would take hidden rows for missing ones.
PREAMBLE = "SET row_security = off;"


@dataclass(frozen=True)
class Statements:
    """What to type about one table. ``bring_back`` and ``set_back`` write into the live table, nothing else does.

    :ivar note: what a person has to know first; empty where there is nothing.
    """

    table: str
    missing: str = ""
    changed: str = ""
    bring_back: str = ""
    set_back: str = ""
    note: str = ""


def statements(live: Connection, table: Wanted, schema: str, shape: list[Column], key: list[str]) -> Statements:
    """:param shape: the columns of the side table, ``key`` its primary key.
    :return: the statements; each ends with a semicolon."""
    side, there = sql.Identifier(schema, table.name), sql.Identifier(table.schema, table.name)
    name = there.as_string(live)
    if not is_there(live, table):
        note = (
            f"{name} is not there any more: make it first, by the migration that made it or from restore.yml, with its keys, policies "
            f"and privileges; a copy without them would show these rows to others"
        )
        return Statements(name, note=note)
    now = {row["name"]: row for row in fetch_all(live, _LIVE_COLUMNS, (table.regclass,))}
    shared = [column for column in shape if column.name in now]
    gone = [column.name for column in shape if column.name not in now]
    note = f"the live table has no column {', '.join(gone)} any more" if gone else ""
    if not key or not set(key) <= set(now):
        every = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column.name)) for column in shared)
        missing = sql.SQL("SELECT {c} FROM {s} EXCEPT ALL SELECT {c} FROM {t};").format(c=every, s=side, t=there)
        why = "there is no primary key to tell rows apart by: what is to come back is chosen by hand"
        return Statements(name, missing=missing.as_string(live), note="; ".join(filter(None, (note, why))))
    types = {column.name: column.type for column in shape}
    same = sql.SQL(" AND ").join(
        sql.SQL("l.{c} = {r}").format(c=sql.Identifier(c), r=_value(c, types[c], now[c]["type"])) for c in key
    )
    absent = sql.SQL("NOT EXISTS (SELECT FROM {t} AS l WHERE {same})").format(t=there, same=same)
    rest = [column for column in shared if column.name not in key]
    written = [column for column in shared if not now[column.name]["generated"]]
    ids = sql.SQL(", ").join(sql.SQL("r.{}").format(sql.Identifier(c)) for c in key)
    missing = sql.SQL("SELECT {ids} FROM {s} AS r WHERE {absent} ORDER BY {ids};").format(
        ids=ids, s=side, absent=absent
    )
    insert = sql.SQL("INSERT INTO {t} ({c}){over} SELECT {v} FROM {s} AS r WHERE {absent};").format(
        t=there, s=side, absent=absent,
        c=sql.SQL(", ").join(sql.Identifier(column.name) for column in written),
        over=sql.SQL(" OVERRIDING SYSTEM VALUE" if any(now[c.name]["identity"] for c in written) else ""),
        v=sql.SQL(", ").join(_value(c.name, c.type, now[c.name]["type"]) for c in written),
    )  # fmt: skip
    changed: sql.Composable = sql.SQL("")
    update: sql.Composable = sql.SQL("")
    # As text: a json or a point has no equality, and a type may be another one by now.
    differ = sql.SQL(" OR ").join(
        sql.SQL("l.{c}::text IS DISTINCT FROM r.{c}::text").format(c=sql.Identifier(column.name)) for column in rest
    )
    settable = [column for column in rest if not now[column.name]["generated"] and not now[column.name]["identity"]]
    if rest:
        names = sql.SQL(", ").join(
            sql.SQL("CASE WHEN l.{c}::text IS DISTINCT FROM r.{c}::text THEN {n} END").format(
                c=sql.Identifier(column.name), n=sql.Literal(column.name)
            )
            for column in rest
        )
        changed = sql.SQL(
            "SELECT {ids}, array_remove(ARRAY[{names}], NULL) AS changed FROM {s} AS r JOIN {t} AS l ON {same} "
            "WHERE {differ} ORDER BY {ids};"
        ).format(ids=ids, names=names, s=side, t=there, same=same, differ=differ)
    if settable:
        update = sql.SQL("UPDATE {t} AS l SET {sets} FROM {s} AS r WHERE {same} AND ({differ});").format(
            t=there, s=side, same=same, differ=differ,
            sets=sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(c.name), _value(c.name, c.type, now[c.name]["type"])) for c in settable
            ),
        )  # fmt: skip
    return Statements(
        name,
        missing=missing.as_string(live),
        changed=changed.as_string(live),
        bring_back=insert.as_string(live),
        set_back=update.as_string(live),
        note=note,
    )


def _value(name: str, kept_as: str, wanted: str) -> sql.Composable:
    column = sql.SQL("r.{}").format(sql.Identifier(name))
    # What the side table keeps as text is entered as what the live column takes now.
    return column if kept_as == wanted else column + sql.SQL(f"::{wanted}")
