# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What comes back together with the row that it belongs to must find that row when the file is run, and not another one.

A key that was free when the rows were exported may have been given out by then. The insert of the row would pass over it, and what
belongs to it would be attached to a stranger's row. So the file begins with checks: of each such row the key is free, or the row
there is the one that was exported, by its hash. They see the same snapshot as the inserts behind them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ansible_collections.whitecross.pgops.plugins.module_utils import lost_sql
from ansible_collections.whitecross.pgops.plugins.module_utils.both_databases import Pair
from ansible_collections.whitecross.pgops.plugins.module_utils.common_tables import Common
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.foreign_keys import ForeignKey, bound_rows, foreign_keys
from ansible_collections.whitecross.pgops.plugins.module_utils.lost_rows import UPDATED, LostRow
from ansible_collections.whitecross.pgops.plugins.module_utils.taken_keys import Places
from psycopg2 import sql
from psycopg2.extensions import quote_ident

_TYPES = """
SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type
FROM pg_attribute AS a WHERE a.attrelid = %(table)s::regclass AND a.attnum > 0 AND NOT a.attisdropped
"""

# One line, as every statement of the file. The row that refers is looked for only where its parent is another one: where it is there
# already, the file was run before, and its insert does nothing.
_CHECK = (
    "#variable_conflict use_column DECLARE pgops_row record; BEGIN "
    "FOR pgops_row IN SELECT v.* FROM (VALUES {values}) AS v ({names}) "
    "JOIN (SELECT {referred}, {hash} FROM ONLY {parent}) AS p ({parent_names}) ON {equal} WHERE p.told <> v.told LOOP "
    "IF NOT EXISTS (SELECT FROM ONLY {child} WHERE {there}) THEN "
    "RAISE EXCEPTION USING MESSAGE = {message}, HINT = {hint}; END IF; END LOOP; END"
)

_HINT = (
    "Export again, then what belongs to that key stands apart: "
    "ansible-playbook lost_writes.yml -l ENVIRONMENT -e lost_writes_kept={kept} -e lost_writes_export=PATH."
)


class LostParents:
    """The rows that come back and that others which come back belong to."""

    def __init__(self, pair: Pair, tables: Sequence[Common], inserted: Mapping[str, Places]) -> None:
        """
        :param tables: those that both have, and whose rows stand in the file.
        :param inserted: by table the kept rows whose key the live database did not have.
        """
        self._pair, self._inserted = pair, inserted
        self._tables = {table.name: table for table in tables}
        self._keys = [key for key in foreign_keys(pair, self._tables) if inserted.get(key.parent) and self._common(key)]
        self._types: dict[str, dict[str, str]] = {}

    def checks(self, table: Common, rows: Sequence[LostRow]) -> Iterator[str]:
        """:param rows: of one kind, some hundreds.
        :return: a statement for each foreign key by which one of them refers to a row that comes back."""
        for key in self._keys:
            if rows and key.child == table.name:
                updated = rows[0].kind == UPDATED
                # A row without a key is known by all that it holds.
                known = (*table.key, *(key.columns if updated else ())) if table.key else ()
                bound = self._bound(key, [row.kept for row in rows], known)
                if bound:
                    yield self._check(key, known, bound)

    def _common(self, key: ForeignKey) -> bool:
        of_child, of_parent = ({name for name, _ in self._tables[table].columns} for table in (key.child, key.parent))
        return set(key.columns) <= of_child and set(key.referred) <= of_parent

    def _bound(self, key: ForeignKey, places: list[str], known: Sequence[str]) -> list[list[str]]:
        """:return: of each row and the one that it belongs to the values of ``known`` (or its hash), the key and the hash of the other."""
        child = self._tables[key.child]
        values = [lost_sql.value(sql.Identifier("c", name)) for name in (*known, *key.columns)]
        if not known:
            # The hash names its columns alone, and the parent may have the same ones.
            own = sql.SQL("(SELECT quote_literal({}) FROM (SELECT (c).*) AS alone)").format(child.row_hash())
            values.insert(0, own)
        question = bound_rows(
            key, self._tables, places, self._tables[key.parent].row_hash(),
            sql.SQL("ARRAY[{}]::text[]").format(sql.SQL(", ").join(values)),
        )  # fmt: skip
        inserted = self._inserted[key.parent]
        return [
            [*row["own"], f"'{row['told']}'"]
            for row in fetch_all(self._pair.kept.conn, question)
            if row["parent"] in inserted
        ]

    def _check(self, key: ForeignKey, known: Sequence[str], bound: Sequence[Sequence[str]]) -> str:
        child, parent = self._tables[key.child], self._tables[key.parent]
        owns = [f"k{number}" for number in range(len(known) or 1)]
        refers = [f"r{number}" for number in range(len(key.referred))]
        types = [
            *([self._type(child, name) for name in known] or ["bigint"]),
            *(self._type(parent, name) for name in key.referred),
            "bigint",
        ]
        # The first one tells the types of all.
        typed = [[f"{value}::{kind}" for value, kind in zip(bound[0], types)], *bound[1:]]
        there = [f"{self._quoted(name)} = pgops_row.{own}" for name, own in zip(known, owns)]
        shown = owns[: len(child.key)] if known else refers
        body = _CHECK.format(
            values=", ".join(f"({', '.join(row)})" for row in typed),
            names=", ".join([*owns, *refers, "told"]),
            referred=self._listed(key.referred),
            hash=self._hash(parent),
            parent=parent.name,
            parent_names=", ".join([*refers, "told"]),
            equal=" AND ".join(f"p.{name} = v.{name}" for name in refers),
            child=child.name,
            there=" AND ".join(there) or f"{self._hash(child)} = pgops_row.k0",
            message=self._literal(f"a row of {child.name} ({', '.join(child.key or key.columns)}) = (")
            + f" || concat_ws(', ', {', '.join(f'pgops_row.{name}' for name in shown)}) || "
            + self._literal(f") belongs to {parent.name} ({', '.join(key.referred)}) = (")
            + f" || concat_ws(', ', {', '.join(f'pgops_row.{name}' for name in refers)}) || "
            + self._literal("), which another row has here by now; nothing of this file was done"),
            hint=self._literal(_HINT.format(kept=self._pair.kept.database)),
        )
        quote = "$pgops$"
        while quote in body:
            quote = f"{quote[:-1]}_$"
        return f"DO {quote}{body}{quote};"

    def _type(self, table: Common, column: str) -> str:
        if table.name not in self._types:
            rows = fetch_all(self._pair.live.conn, _TYPES, {"table": table.name})
            self._types[table.name] = {str(row["name"]): str(row["type"]) for row in rows}
        return self._types[table.name][column]

    def _hash(self, table: Common) -> str:
        return str(table.row_hash().as_string(self._pair.live.conn))

    def _quoted(self, name: str) -> str:
        return str(quote_ident(name, self._pair.live.conn))

    def _listed(self, names: Sequence[str]) -> str:
        return ", ".join(self._quoted(name) for name in names)

    def _literal(self, text: str) -> str:
        return str(sql.Literal(text).as_string(self._pair.live.conn))
