# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the models of an application are to follow: tables, columns, enum values and foreign keys, before and after.

Far less than an inventory (:mod:`catalog`) and so far quicker: it is read twice in each apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction

# Nobody waits longer for a list than a client would notice.
LOCK_TIMEOUT_MS = 1000

# kind -> by oid -> name and definition. A name may move to another oid (a column that is copied beside and swapped), and
# an oid may get another name (a rename); both are read, to tell the one from the other.
Shape = dict[tuple[str, str], tuple[str, str]]

_SHAPE = """
WITH relations AS (
    SELECT c.oid, c.relkind, format('%I.%I', n.nspname, c.relname) AS name
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND NOT c.relispartition
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgops') AND n.nspname !~ '^pg_(toast|temp)'
)
SELECT CASE WHEN relkind IN ('v', 'm') THEN 'view' ELSE 'table' END AS kind, oid::text AS id, name, '' AS definition
FROM relations
UNION ALL
SELECT 'column', a.attrelid::text || '.' || a.attnum, format('%s.%I', r.name, a.attname),
       format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
       || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
FROM relations AS r
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
UNION ALL
SELECT 'enum value', e.oid::text, format('%I.%I %L', n.nspname, t.typname, e.enumlabel), ''
FROM pg_catalog.pg_enum AS e
JOIN pg_catalog.pg_type AS t ON t.oid = e.enumtypid
JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
WHERE n.nspname <> 'pgops'
UNION ALL
SELECT 'foreign key', k.oid::text, format('%s %I', r.name, k.conname), pg_get_constraintdef(k.oid)
FROM relations AS r
JOIN pg_catalog.pg_constraint AS k ON k.conrelid = r.oid AND k.contype = 'f' AND k.conparentid = 0
"""
_ORDER = ("table", "view", "column", "enum value", "foreign key")


@dataclass(frozen=True)
class Change:
    """One thing that models are to follow.

    :ivar kind: table, view, column, enum value or foreign key
    :ivar change: added, dropped, renamed or changed
    :ivar before: its definition, or of a rename its name; None where it was not there
    """

    kind: str
    change: str
    object: str
    before: str | None = None
    after: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """:return: the fields, for a result."""
        return asdict(self)


def read(conn: Connection) -> Shape | None:
    """:return: the shape of the database; None where somebody holds a table that has a default for longer than a moment, since
    printing the default takes ACCESS SHARE on it. :raises psycopg2.Error: anything else that the server gives."""
    try:
        with transaction(conn, f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"):
            return {(row["kind"], row["id"]): (row["name"], row["definition"]) for row in fetch_all(conn, _SHAPE)}
    except psycopg2.errors.LockNotAvailable:
        return None


def changes(
    before: Mapping[tuple[str, str], tuple[str, str]], after: Mapping[tuple[str, str], tuple[str, str]]
) -> list[Change]:
    """What differs, by kind and name. Of a table that is new or gone its columns are not told one by one.

    :param before: as :func:`read` gives it; so ``after``
    """
    found = []
    renamed_tables = {
        before[key][0]: after[key][0]
        for key in before.keys() & after.keys()
        if key[0] in ("table", "view") and before[key][0] != after[key][0]
    }
    was_named = {(kind, name): text for (kind, _), (name, text) in before.items()}
    now_named = {(kind, name): text for (kind, _), (name, text) in after.items()}
    moved: set[tuple[str, str]] = set()
    for key in before.keys() & after.keys():
        kind = key[0]
        (old, was), (new, now) = before[key], after[key]
        if old == new or (kind, old) in now_named or (kind, new) in was_named:
            continue
        moved |= {(kind, old), (kind, new)}
        table = next(
            (name for name in renamed_tables if kind != "table" and old.startswith((f"{name}.", f"{name} "))), None
        )
        if table is None or new != renamed_tables[table] + old[len(table) :]:
            found.append(Change(kind, "renamed", new, old, new))
        if was != now:
            found.append(Change(kind, "changed", new, was, now))
    for kind, name in was_named.keys() | now_named.keys():
        if (kind, name) in moved:
            continue
        was_text, now_text = was_named.get((kind, name)), now_named.get((kind, name))
        if was_text == now_text:
            continue
        change = "added" if was_text is None else "dropped" if now_text is None else "changed"
        if kind == "column" and change != "changed":
            table = name.rpartition(".")[0]
            known = was_named if change == "added" else now_named
            if ("table", table) not in known and ("view", table) not in known:
                continue
        found.append(Change(kind, change, name, was_text or None, now_text or None))
    return sorted(found, key=lambda item: (_ORDER.index(item.kind), item.object, item.change))
