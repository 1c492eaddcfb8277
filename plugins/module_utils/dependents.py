# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What stands on the objects that the way down of versions drops, so that it would stop half-way, or break what calls them.

DROP stops at a view, a foreign key, a trigger, a policy, a default or a column of a type (pg_depend: ``n``, normal). It does
not stop at a function whose body names what goes: a body is text until it runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.changing_parts import own_functions
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.drop_refusal import InTheWay, Refused, refusal
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.going_down import Drop, WayDown, words_of
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import without_comments

# place: how soon the version of a drop goes; what goes sooner, or with it, is no obstacle. An object goes with what it is a
# part of (a and i: a table and its rows' type, a constraint and its index; P and S: a partition; e: an extension's member).
_GOING = """
WITH RECURSIVE asked AS (
    SELECT * FROM jsonb_to_recordset(%(asked)s)
        AS a(number int, place int, kind text, schema text, "table" text, name text, arguments text, count int)
), target AS (
    SELECT a.number, c.tableoid AS classid, c.oid AS objid, 0 AS objsubid, c.oid AS relid, age(t.xmin) AS age
      FROM asked a JOIN pg_catalog.pg_namespace n ON n.nspname = a.schema
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = a.name
       AND c.relkind = ANY (CASE a.kind WHEN 'table' THEN '{r,p,f,m}' WHEN 'view' THEN '{v,m}' WHEN 'sequence' THEN '{S}'
                            ELSE '{i,I}' END::"char"[])
     CROSS JOIN LATERAL (
        SELECT t.xmin FROM pg_catalog.pg_attribute t WHERE t.attrelid = c.oid ORDER BY t.attnum LIMIT 1) t
     WHERE a.kind IN ('table', 'view', 'sequence', 'index')
     UNION ALL
    SELECT a.number, c.tableoid, c.oid, t.attnum, c.oid, age(t.xmin)
      FROM asked a JOIN pg_catalog.pg_namespace n ON n.nspname = a.schema
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = a."table"
      JOIN pg_catalog.pg_attribute t ON t.attrelid = c.oid AND t.attname = a.name AND t.attnum > 0 AND NOT t.attisdropped
     WHERE a.kind = 'column'
     UNION ALL
    SELECT a.number, t.tableoid, t.oid, 0, NULL, age(t.xmin)
      FROM asked a JOIN pg_catalog.pg_namespace n ON n.nspname = a.schema
      JOIN pg_catalog.pg_type t ON t.typnamespace = n.oid AND t.typname = a.name WHERE a.kind = 'type'
     UNION ALL
    SELECT a.number, p.tableoid, p.oid, 0, NULL, age(p.xmin)
      FROM asked a JOIN pg_catalog.pg_namespace n ON n.nspname = a.schema
      JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid AND p.proname = a.name
     WHERE a.kind = 'function'
       AND (1 = (SELECT count(*) FROM pg_catalog.pg_proc o WHERE o.pronamespace = n.oid AND o.proname = a.name)
            OR lower(a.arguments) = pg_catalog.oidvectortypes(p.proargtypes)
            OR (a.count = p.pronargs AND 1 = (
                SELECT count(*) FROM pg_catalog.pg_proc o
                 WHERE o.pronamespace = n.oid AND o.proname = a.name AND o.pronargs = a.count)))
     UNION ALL
    SELECT a.number, n.tableoid, n.oid, 0, NULL, NULL
      FROM asked a JOIN pg_catalog.pg_namespace n ON n.nspname = a.name WHERE a.kind = 'schema'
     UNION ALL
    SELECT a.number, x.tableoid, x.oid, 0, NULL, NULL
      FROM asked a JOIN pg_catalog.pg_extension x ON x.extname = a.name WHERE a.kind = 'extension'
     UNION ALL
    SELECT a.number, o.classid, o.objid, 0, NULL, NULL
      FROM asked a JOIN pg_catalog.pg_namespace n ON n.nspname = a.schema
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = a."table"
     CROSS JOIN LATERAL (
        SELECT k.tableoid AS classid, k.oid AS objid FROM pg_catalog.pg_constraint k
         WHERE a.kind = 'constraint' AND k.conrelid = c.oid AND k.conname = a.name
         UNION ALL
        SELECT g.tableoid, g.oid FROM pg_catalog.pg_trigger g
         WHERE a.kind = 'trigger' AND g.tgrelid = c.oid AND g.tgname = a.name
         UNION ALL
        SELECT y.tableoid, y.oid FROM pg_catalog.pg_policy y
         WHERE a.kind = 'policy' AND y.polrelid = c.oid AND y.polname = a.name) o
), going AS (
    SELECT t.number, t.classid, t.objid, t.objsubid FROM target t
     UNION
    SELECT g.number, d.classid, d.objid, d.objsubid
      FROM going g
      JOIN pg_catalog.pg_depend d ON d.refclassid = g.classid AND d.refobjid = g.objid
       AND (g.objsubid = 0 OR d.refobjsubid = g.objsubid) AND d.deptype IN ('a', 'i', 'P', 'S', 'e')
), gone AS (
    SELECT g.classid, g.objid, g.objsubid, min(a.place) AS place
      FROM going g JOIN asked a ON a.number = g.number GROUP BY 1, 2, 3
)
"""
# A rule of a view is told as the view. Before 15 a generated column goes along with the one that it is computed from.
_CATALOG = (
    _GOING
    + """
, standing AS (
    SELECT DISTINCT g.number, a.place, d.classid, d.objid, d.objsubid, r.ev_class
      FROM going g
      JOIN asked a ON a.number = g.number
      JOIN pg_catalog.pg_depend d ON d.refclassid = g.classid AND d.refobjid = g.objid
       AND (g.objsubid = 0 OR d.refobjsubid = g.objsubid) AND d.deptype = 'n'
      LEFT JOIN pg_catalog.pg_rewrite r ON d.classid = r.tableoid AND d.objid = r.oid
), told AS (
    SELECT s.number, coalesce(s.ev_class, s.objid) AS objid,
           CASE WHEN s.ev_class IS NULL THEN s.classid ELSE 'pg_catalog.pg_class'::regclass::oid END AS classid,
           CASE WHEN s.ev_class IS NULL THEN s.objsubid ELSE 0 END AS objsubid
      FROM standing s
     WHERE NOT EXISTS (
        SELECT FROM gone m
         WHERE m.classid = s.classid AND m.objid = s.objid AND m.objsubid IN (0, s.objsubid) AND m.place <= s.place)
       AND NOT EXISTS (
        SELECT FROM gone m
         WHERE m.classid = 'pg_catalog.pg_class'::regclass AND m.objid = s.ev_class AND m.objsubid = 0 AND m.place <= s.place)
     UNION
    SELECT g.number, g.objid, g.classid, g.objsubid
      FROM going g
     WHERE g.classid = 'pg_catalog.pg_class'::regclass AND g.objsubid > 0
       AND NOT EXISTS (SELECT FROM target t WHERE t.classid = g.classid AND t.objid = g.objid AND t.objsubid IN (0, g.objsubid))
)
SELECT s.number, i.type, i.identity, coalesce(o.name, i.name, i.identity) AS name, c.relname::text AS "table"
  FROM told s
 CROSS JOIN LATERAL pg_catalog.pg_identify_object(s.classid, s.objid, s.objsubid) i
 LEFT JOIN LATERAL (
    SELECT k.conrelid AS relid, k.conname::text AS name FROM pg_catalog.pg_constraint k
     WHERE s.classid = k.tableoid AND s.objid = k.oid
     UNION ALL
    SELECT g.tgrelid, g.tgname::text FROM pg_catalog.pg_trigger g WHERE s.classid = g.tableoid AND s.objid = g.oid
     UNION ALL
    SELECT y.polrelid, y.polname::text FROM pg_catalog.pg_policy y WHERE s.classid = y.tableoid AND s.objid = y.oid
     UNION ALL
    SELECT t.attrelid, t.attname::text FROM pg_catalog.pg_attrdef f
      JOIN pg_catalog.pg_attribute t ON t.attrelid = f.adrelid AND t.attnum = f.adnum
     WHERE s.classid = f.tableoid AND s.objid = f.oid
     UNION ALL
    SELECT t.attrelid, t.attname::text FROM pg_catalog.pg_attribute t
     WHERE s.classid = 'pg_catalog.pg_class'::regclass AND s.objsubid > 0 AND t.attrelid = s.objid AND t.attnum = s.objsubid
     UNION ALL
    SELECT NULL, p.proname::text FROM pg_catalog.pg_proc p WHERE s.classid = p.tableoid AND s.objid = p.oid
 ) o ON true
  LEFT JOIN pg_catalog.pg_class c ON c.oid = o.relid
 WHERE i.schema IS DISTINCT FROM 'pgops' AND i.identity NOT LIKE 'pgops.%%' AND i.identity NOT LIKE '%% on pgops.%%'
   AND i.identity NOT LIKE '%% for pgops.%%'
 ORDER BY s.number, i.type, i.identity
"""
)
# A function that was there before the object means another one by that name: whose row is older (age of xmin) is left out.
_BODIES = (
    _GOING
    + """
, bodies AS MATERIALIZED (
    SELECT p.tableoid AS classid, p.oid AS objid, p.proname::text AS name, p.prosrc AS body, lower(p.prosrc) AS lowered,
           age(p.xmin) AS age
      FROM pg_catalog.pg_proc p
      JOIN pg_catalog.pg_language l ON l.oid = p.prolang AND l.lanname NOT IN ('internal', 'c')
      JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgops')
     WHERE NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend d WHERE d.classid = p.tableoid AND d.objid = p.oid AND d.deptype = 'e')
)
SELECT a.number, b.objid::regprocedure::text AS identity, b.name, b.body, EXISTS (
           SELECT FROM pg_catalog.pg_trigger g WHERE g.tgfoid = b.objid AND g.tgrelid = t.relid) AS of_table
  FROM asked a
  JOIN target t ON t.number = a.number
  JOIN bodies b ON strpos(b.lowered, lower(a.name)) > 0 AND b.age < t.age
 WHERE a.kind IN ('table', 'column', 'view', 'sequence', 'type', 'function')
   AND NOT EXISTS (SELECT FROM gone m WHERE m.classid = b.classid AND m.objid = b.objid AND m.place <= a.place)
 ORDER BY a.number, identity
"""
)
_STANDS_ON = Refused(
    but="on it stands",
    why="this rollback does not take away before",
    yours="What no version made is yours to drop first, or to change so that it does without; keep its definition to make it again, then type "
    "it again.",
    reason="stands_on",
)


@dataclass(frozen=True)
class _Dependent:
    """An object that stands on another: ``name`` and, where it is part of a table, ``table`` are what a text would say."""

    told: str
    name: str
    table: str | None


class Dependents:
    """The look of one rollback.

    :ivar chosen: its versions with their stored text, in the order in which they go.
    :ivar standing: the versions in the database, those that go may be among them: to name who made an object.
    """

    def __init__(
        self,
        chosen: Sequence[tuple[ledger.Migration, Mapping[str, Any]]],
        standing: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.chosen = list(chosen)
        self.standing = dict(standing)

    def refuse(self, conn: Connection, version: str | None = None) -> list[Drop]:
        """Look at what stands on the objects that the way down drops, and write nothing. Takes no lock.

        What goes sooner or together with them is no obstacle, and what the way down names in a statement of another kind is
        its own affair: it may take it away first.

        :param version: this one alone, those before it are gone; None: all, but for what is another object by its name when
            its turn comes, and for what comes after a block that puts its statements together: that is looked at in its turn.
        :return: those drops at which this did not look.
        :raises PgopsError: names what stands on it.
        """
        way_down = WayDown(self.chosen, self.standing, own_functions(conn))
        drops: list[Drop] = []
        unlooked: list[Drop] = []
        for drop in way_down.drops(version):
            if not way_down.unseen:
                drops.append(drop)
            if way_down.unseen or drop.later:
                unlooked.append(drop)
        if not drops:
            return unlooked
        places = {row.version: place for place, (row, _) in enumerate(self.chosen)}
        asked = [
            {
                "number": number,
                "place": places[drop.version],
                "kind": drop.kind,
                "schema": drop.schema,
                "table": drop.table,
                "name": drop.name,
                "arguments": drop.arguments[1:-1].strip() if drop.arguments else None,
                "count": _count(drop.arguments),
            }
            for number, drop in enumerate(drops)
        ]
        found: dict[int, list[_Dependent]] = {}
        for row in fetch_all(conn, _CATALOG, {"asked": json.dumps(asked)}):
            dependent = _Dependent(f"{_kind(row['type'])} {row['identity']}", str(row["name"]).strip('"'), row["table"])
            found.setdefault(row["number"], []).append(dependent)
        own = self._functions()
        for row in fetch_all(conn, _BODIES, {"asked": json.dumps(asked)}):
            if row["name"] not in own and _speaks_of(row, drops[row["number"]]):
                dependent = _Dependent(f"function {row['identity']}, whose body names it", str(row["name"]), None)
                found.setdefault(row["number"], []).append(dependent)
        for number, drop in enumerate(drops):
            if drop.later:
                continue
            names = [words for version_, words in way_down.names if places[version_] <= places[drop.version]]
            if drop.cascade:
                names += self._made_by_those_that_go()
            strangers = [one for one in found.get(number, []) if not any(_names(words, one) for words in names)]
            if strangers:
                raise self._refusal(conn, drop, strangers)
        return unlooked

    def _functions(self) -> set[str]:
        """:return: the functions that the versions of this rollback make, or replace: what becomes of them is their affair."""
        made = [
            statement.get("creates") or {}
            for _, migration in self.chosen
            for step in migration["steps"]
            for statement in step.get("up") or []
        ]
        return {str(item["name"]) for item in made if item.get("kind") == "function"}

    def _made_by_those_that_go(self) -> list[set[str]]:
        return [words_of(text) for _, migration in self.chosen for text in _ups(migration)]

    def _refusal(self, conn: Connection, drop: Drop, found: Sequence[_Dependent]) -> PgopsError:
        going = {row.version for row, _ in self.chosen}

        def maker(one: _Dependent) -> str | None:
            by = (
                version
                for version, migration in self.standing.items()
                if version > drop.version
                and version not in going
                and any(_names(words_of(text), one) for text in _ups(migration))
            )
            return max(by, default=None)

        objects = [InTheWay(one.told, maker(one)) for one in found]
        return refusal(str(conn.info.dbname), drop, objects, self.chosen, self.standing, _STANDS_ON)


def _ups(migration: Mapping[str, Any]) -> list[str]:
    return [str(statement["sql"]) for step in migration["steps"] for statement in step.get("up") or []]


def _names(words: set[str], one: _Dependent) -> bool:
    return one.name.lower() in words and (one.table is None or one.table.lower() in words)


def _kind(kind: str) -> str:
    return {"table constraint": "constraint", "default value": "the default", "table column": "column"}.get(kind, kind)


def _count(arguments: str | None) -> int | None:
    if arguments is None:
        return None
    text = arguments[1:-1].strip()
    return len(re.sub(r"\([^)]*\)", "", text).split(",")) if text else 0


def _speaks_of(row: Mapping[str, Any], drop: Drop) -> bool:
    """:return: whether the body of a function names what goes: a function with the parenthesis of its call, a column together
    with its table or in a trigger of it."""
    body = without_comments(str(row["body"])).lower()
    name = drop.name.lower()
    if drop.kind == "function":
        return bool(re.search(rf'(?<![\w$"])"?{re.escape(name)}"?\s*\(', body))
    words = words_of(body)
    if drop.table is not None:
        return name in words and (bool(row["of_table"]) or drop.table.lower() in words)
    return name in words
