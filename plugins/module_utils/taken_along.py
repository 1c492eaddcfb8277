# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What PostgreSQL would drop with a column or table on the way down and not say so, though no version that goes made it.

DROP COLUMN and DROP TABLE stop at a view, policy, trigger or foreign key of another table, and take constraints, indexes
and extended statistics along (pg_depend: ``a``, automatic). Nobody brings those back if they are somebody else's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import appeared, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.changing_parts import own_functions
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.drop_refusal import InTheWay, Refused, refusal
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.going_down import Drop, WayDown, words_of

# A column goes from the heirs and partitions of its table too. What belongs to a constraint or index of the parent is told
# there; NOT NULL, since 18 a constraint, is a property of the column.
_ALONG = """
WITH RECURSIVE asked AS (
    SELECT g.number, g.name, c.oid AS relid
      FROM jsonb_to_recordset(%s) AS g(number int, schema text, "table" text, name text)
      JOIN pg_catalog.pg_namespace n ON n.nspname = g.schema
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = g."table"
    UNION
    SELECT asked.number, asked.name, i.inhrelid
      FROM asked JOIN pg_catalog.pg_inherits i ON i.inhparent = asked.relid WHERE asked.name IS NOT NULL
)
SELECT DISTINCT asked.number, o.kind, o.type, o.name, n.nspname::text AS schema, c.relname::text AS "table"
  FROM asked
  JOIN pg_catalog.pg_class c ON c.oid = asked.relid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_depend d
    ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = asked.relid AND d.deptype = 'a'
   AND (asked.name IS NULL OR d.refobjsubid = (
        SELECT a.attnum FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = asked.relid AND a.attname = asked.name AND NOT a.attisdropped))
 CROSS JOIN LATERAL (
    SELECT 'constraint' AS kind, k.contype::text AS type, k.conname::text AS name
      FROM pg_catalog.pg_constraint k
     WHERE d.classid = k.tableoid AND d.objid = k.oid AND k.contype <> 'n' AND k.conparentid = 0 AND k.coninhcount = 0
     UNION ALL
    SELECT 'index', 'i', x.relname::text
      FROM pg_catalog.pg_class x
     WHERE d.classid = x.tableoid AND d.objid = x.oid AND x.relkind IN ('i', 'I') AND NOT x.relispartition
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = x.oid AND k.contype IN ('p', 'u', 'x'))
     UNION ALL
    SELECT 'statistics', 's', s.stxname::text
      FROM pg_catalog.pg_statistic_ext s WHERE d.classid = s.tableoid AND d.objid = s.oid
 ) o
 ORDER BY asked.number, o.kind, o.name
"""
# By pg_constraint.contype (and i for an index, s for statistics): how a name ends that the server makes up, and the word
# in whose statement it does. LIKE copies them all.
_MADE_UP = {
    "c": ("check", "CHECK"),
    "f": ("fkey", "REFERENCES"),
    "p": ("pkey", "PRIMARY"),
    "u": ("key", "UNIQUE"),
    "x": ("excl", "EXCLUDE"),
    "i": ("idx", "INDEX"),
    "s": ("stat", "STATISTICS"),
}
_CONTYPES = {"check": "c", "foreign_key": "f", "primary_key": "p", "unique": "u", "exclusion": "x"}
_COPIES = re.compile(
    r'\bCREATE\s+(?:UNLOGGED\s+)?TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?([\w$".]+)\s*\([^;]*?\bLIKE\b', re.IGNORECASE
)


class TakenAlong:
    """The look of one rollback.

    :ivar chosen: its versions with their stored text, in the order in which they go.
    :ivar standing: the versions in the database, those that go may be among them: to name who made an object.
    :ivar found: their rows, with what each of them made.
    """

    def __init__(
        self,
        chosen: Sequence[tuple[ledger.Migration, Mapping[str, Any]]],
        standing: Mapping[str, Mapping[str, Any]],
        found: ledger.Ledger,
    ) -> None:
        self.chosen = list(chosen)
        self.standing = dict(standing)
        self.found = found
        self._made = _Made(chosen)

    def refuse(self, conn: Connection, version: str | None = None) -> None:
        """Look at what goes with the columns and tables that the way down drops, and write nothing. Takes no lock.

        What a version declares or names in its way down is its own: it comes back when it is applied again.

        :param version: this one alone, those before it are gone; None: all, but for columns and tables that change their
            names on the way, which are looked at in their turn.
        :raises PgopsError: names what no version of this rollback made.
        """
        way_down = WayDown(self.chosen, self.standing, own_functions(conn))
        drops = [
            drop for drop in way_down.drops(version) if drop.kind in ("table", "view", "column") and not drop.later
        ]
        if not drops:
            return
        asked = [
            {
                "number": number,
                "schema": drop.schema,
                "table": drop.table or drop.name,
                "name": drop.name if drop.table else None,
            }
            for number, drop in enumerate(drops)
        ]
        found = [row for row in fetch_all(conn, _ALONG, (json.dumps(asked),)) if not self._made.has(row)]
        if found:
            drop = drops[found[0]["number"]]
            going = [row for row in found if drops[row["number"]].version == drop.version]
            raise self._refusal(conn, drop, going)

    def _refusal(self, conn: Connection, drop: Drop, found: Sequence[Mapping[str, Any]]) -> PgopsError:
        going = {row.version for row, _ in self.chosen}
        later = {
            version: _Made([(self.found.get(version), migration)])
            for version, migration in self.standing.items()
            if version > drop.version and version not in going
        }
        objects = [
            InTheWay(
                f"{what['kind']} {what['name']} on {what['schema']}.{what['table']}",
                max((version for version, made in later.items() if made.has(what)), default=None),
            )
            for what in found
        ]
        refused = Refused(
            but="PostgreSQL would drop with it",
            why="no version of this rollback made",
            yours=f"What no version made is yours to drop first: \\d {drop.schema}.{drop.table or drop.name} in psql shows its definition to "
            "keep; then type it again.",
            reason="taken_along",
        )
        return refusal(str(conn.info.dbname), drop, objects, self.chosen, self.standing, refused)


class _Made:
    """Which constraints, indexes and statistics versions made: by what was recorded when they were applied, by what they
    declare and by what their way down names. A step of which nothing was recorded is asked for by its text alone."""

    def __init__(self, versions: Sequence[tuple[ledger.Migration | None, Mapping[str, Any]]]) -> None:
        self.names: set[str] = set()
        self.recorded: set[tuple[str, ...]] = set()
        self.renamed = False
        self.unnamed: set[tuple[str, str]] = set()
        self.copied: set[str] = set()
        for row, migration in versions:
            records = appeared.of(row) if row else {}
            for ordinal, step in enumerate(migration["steps"], 1):
                self.names |= {str(index["name"]).lower() for index in step.get("indexes", [])}
                if step["kind"] != "sql":
                    continue
                recorded = records.get(ordinal)
                self.recorded |= {tuple(item) for item in recorded or ()}
                for statement in [*step["up"], *(step.get("down") or [])]:
                    self.renamed = self.renamed or "rename" in words_of(str(statement["sql"]))
                for statement in step["up"]:
                    self._add(statement, recorded is not None, up=True)
                for statement in step.get("down") or []:
                    self._add(statement, recorded is not None)

    def _add(self, statement: Mapping[str, Any], recorded: bool, *, up: bool = False) -> None:
        text = str(statement["sql"])
        made, gone = statement.get("creates"), statement.get("destroys")
        for item in (made, gone):
            if item and item["kind"] in ("constraint", "index", "trigger"):
                self.names.add(str(item["name"]).lower())
        if made:
            table = str(made.get("table") or made["name"]).lower()
            parts = [*([made] if made["kind"] == "constraint" else []), *(made.get("constraints") or [])]
            words = words_of(text) if parts else set()
            for part in parts:
                name = str(part["name"]).lower()
                if name in words:
                    self.names.add(name)
                elif not recorded:
                    self.names.add(name)
                    self.unnamed.add((table, _CONTYPES.get(str(part.get("type")), "")))
        elif not (up and recorded) and (not gone or gone["kind"] == "column"):
            # A block, or several changes at once: nobody has told what it makes, so that each word may be a name.
            words = words_of(text)
            if gone and "constraint" not in words:
                return
            types = [kind for kind, (_, word) in _MADE_UP.items() if {word.lower(), "like"} & words]
            if types or {"constraint", "drop", "rename"} & words:
                self.names |= words
            if not recorded:
                self.unnamed |= {(word, kind) for kind in types for word in words}
                self.copied |= {word for match in _COPIES.finditer(text) for word in words_of(match[1])}

    def has(self, found: Mapping[str, Any]) -> bool:
        """:param found: a row of what goes along."""
        name, table = str(found["name"]).lower(), str(found["table"]).lower()
        place = (str(found["schema"]), str(found["table"]), str(found["name"]))
        if name in self.names or place in self.recorded or table in self.copied:
            return True
        if self.renamed and place[2] in {item[2] for item in self.recorded}:
            return True
        ending, _ = _MADE_UP.get(str(found["type"]), ("", ""))
        return (table, str(found["type"])) in self.unnamed and bool(re.search(rf"_{ending}\d*$", name))
