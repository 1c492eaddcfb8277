# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which sequence of the live database gives the numbers that one of the new database gives on: names change, columns stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import blue_green_state, catalog
from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_tables import Carried
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all

# A column has its numbers from the sequence that it owns, or from the one that its default names.
_FED = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS sequence, q.seqincrement > 0 AS ascending,
       quote_ident(tn.nspname) || '.' || quote_ident(t.relname) AS table, a.attname::text AS column
FROM (SELECT d.objid AS sequence, d.refobjid AS relation, d.refobjsubid AS number FROM pg_catalog.pg_depend AS d
       WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
         AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
      UNION
      SELECT d.refobjid, e.adrelid, e.adnum FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_attrdef AS e ON e.oid = d.objid
       WHERE d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass) AS f
JOIN pg_catalog.pg_sequence AS q ON q.seqrelid = f.sequence
JOIN pg_catalog.pg_class AS c ON c.oid = f.sequence JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class AS t ON t.oid = f.relation JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.relation AND a.attnum = f.number
WHERE NOT q.seqcycle AND c.relpersistence <> 't' AND tn.nspname NOT IN (%(ledger)s, %(own)s)
ORDER BY 1, 3, 4
"""
_EXCLUDED = {"ledger": catalog.LEDGER_SCHEMA, "own": blue_green_state.SCHEMA}


def followed(live: Connection, green: Connection) -> dict[str, tuple[str, ...]]:
    """:return: by each sequence of the new database that feeds a column those of the live one whose numbers it must not give again: that of
    its own name, and those of the column."""
    here, there = _fed(live), _fed(green)
    return {
        name: tuple(dict.fromkeys([name, *(row["sequence"] for row in _of_columns(here, rows))]))
        for name, rows in _by_sequence(there).items()
    }


def refused(live: Connection, green: Connection, tables: Sequence[Carried]) -> list[tuple[str, str]]:
    """:return: each column with values that would be given numbers from the beginning, and what to do."""
    carried = {(table.live.name, name) for table in tables for name in table.columns}
    here, found = _fed(live), []
    directions = {row["sequence"]: row["ascending"] for row in here}
    for row in _fed(green):
        if (row["table"], row["column"]) not in carried:
            continue
        known = [one["ascending"] for one in _of_columns(here, [row])] + [directions.get(row["sequence"])]
        if row["ascending"] not in known:
            found.append(
                (
                    f"the column {row['column']} of {row['table']}, whose numbers would begin anew with {row['sequence']}",
                    "give it that sequence in a later version, online, and set it there",
                )
            )
    return found


def _fed(conn: Connection) -> list[dict[str, Any]]:
    return fetch_all(conn, _FED, _EXCLUDED)


def _by_sequence(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(str(row["sequence"]), []).append(row)
    return found


def _of_columns(rows: Iterable[Mapping[str, Any]], same: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    columns = {(row["table"], row["column"]) for row in same}
    return [row for row in rows if (row["table"], row["column"]) in columns]
