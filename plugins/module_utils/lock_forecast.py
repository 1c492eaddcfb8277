# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which tables a statement will lock, found in the catalog before it runs, and who is in the way of that."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import lock_modes, locks
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_modes import ACCESS_EXCLUSIVE, ROW_EXCLUSIVE
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import Session
from psycopg2 import sql


@dataclass(frozen=True)
class TableLock:
    """A lock that will be asked for.

    :ivar mode: as SQL writes it.
    :ivar lockable: whether this role may ask for it by LOCK TABLE.
    :ivar guessed: the statement was only read by its words; it may ask for less.
    """

    oid: int
    schema: str
    name: str
    mode: str
    lockable: bool = True
    guessed: bool = False


# The planner takes milliseconds for each of these parts: a query has those that its statements need, by the words of `follow`.
_GIVEN = """
WITH RECURSIVE given AS MATERIALIZED (
    SELECT number, schema, name, mode, coalesce(follow, '[]') AS follow, part
      FROM jsonb_to_recordset(%s) AS entry(number int, schema text, name text, mode text, follow jsonb, part text)),
named AS (
    SELECT g.number, g.mode, g.follow, g.part, c.oid FROM given g
      JOIN pg_namespace n ON n.nspname = g.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = g.name
     WHERE NOT g.follow ?| '{table,domain,dependents}' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')"""
_NAMED = {
    "table": """
    UNION ALL
    SELECT g.number, g.mode, g.follow, g.part, i.indrelid FROM given g
      JOIN pg_namespace n ON n.nspname = g.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = g.name
      JOIN pg_index i ON i.indexrelid = c.oid WHERE g.follow ? 'table'""",
    "domain": """
    UNION ALL
    SELECT g.number, g.mode, g.follow, g.part, a.attrelid FROM given g
      JOIN pg_namespace n ON n.nspname = g.schema JOIN pg_type t ON t.typnamespace = n.oid AND t.typname = g.name
      JOIN pg_attribute a ON a.atttypid = t.oid AND NOT a.attisdropped
      JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'm') WHERE g.follow ? 'domain'""",
    # What CASCADE takes along, as findDependentObjects() goes: whatever depends on what goes, and what this is an internal
    # part of: of a view's rule the view. Whose row goes away locks the table that it belongs to.
    "dependents": """
    UNION ALL
    SELECT g.number, g.mode, g.follow, g.part, d.oid FROM given g CROSS JOIN LATERAL (
        WITH RECURSIVE gone(classid, objid, objsubid) AS (
            SELECT o.classid, o.objid, o.objsubid FROM (
                SELECT c.tableoid, c.oid, 0 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE g.follow ? 'relation' AND n.nspname = g.schema AND c.relname = g.name
                UNION ALL
                SELECT c.tableoid, c.oid, a.attnum FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = g.part
                 WHERE g.follow ? 'column' AND n.nspname = g.schema AND c.relname = g.name
                UNION ALL
                SELECT t.tableoid, t.oid, 0 FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
                 WHERE g.follow ? 'type' AND n.nspname = g.schema AND t.typname = g.name
                UNION ALL
                SELECT p.tableoid, p.oid, 0 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                 WHERE g.follow ? 'function' AND n.nspname = g.schema AND p.proname = g.name
                   AND (g.part IS NULL OR p.pronargs = g.part::int)
                UNION ALL
                SELECT n.tableoid, n.oid, 0 FROM pg_namespace n WHERE g.follow ? 'schema' AND n.nspname = g.name
                UNION ALL
                SELECT e.tableoid, e.oid, 0 FROM pg_extension e WHERE g.follow ? 'extension' AND e.extname = g.name
                UNION ALL
                SELECT s.classid, s.objid, s.objsubid FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid
                 WHERE g.follow ? 'owned' AND s.refclassid = 'pg_authid'::regclass AND s.deptype IN ('o', 'r')
                   AND s.dbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                   AND r.rolname = CASE g.part WHEN 'current' THEN current_user WHEN 'session' THEN session_user ELSE g.name END
            ) AS o(classid, objid, objsubid)
            UNION
            SELECT next.classid, next.objid, next.objsubid FROM gone CROSS JOIN LATERAL (
                SELECT d.classid, d.objid, d.objsubid FROM pg_depend d
                 WHERE d.refclassid = gone.classid AND d.refobjid = gone.objid
                   AND (gone.objsubid = 0 OR d.refobjsubid = gone.objsubid)
                UNION ALL
                SELECT d.refclassid, d.refobjid, d.refobjsubid FROM pg_depend d
                 WHERE d.classid = gone.classid AND d.objid = gone.objid AND d.deptype = 'i'
                   AND (gone.objsubid = 0 OR d.objsubid = gone.objsubid)) AS next)
        SELECT owner.oid FROM gone CROSS JOIN LATERAL (
            SELECT c.oid FROM pg_class c WHERE gone.classid = 'pg_class'::regclass AND c.oid = gone.objid
               AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
            UNION ALL
            SELECT i.indrelid FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid AND c.relkind <> 't'
             WHERE gone.classid = 'pg_class'::regclass AND i.indexrelid = gone.objid
            UNION ALL
            SELECT r.ev_class FROM pg_rewrite r WHERE gone.classid = 'pg_rewrite'::regclass AND r.oid = gone.objid
            UNION ALL
            SELECT k.conrelid FROM pg_constraint k
             WHERE gone.classid = 'pg_constraint'::regclass AND k.oid = gone.objid AND k.conrelid <> 0
            UNION ALL
            SELECT t.tgrelid FROM pg_trigger t WHERE gone.classid = 'pg_trigger'::regclass AND t.oid = gone.objid
            UNION ALL
            SELECT y.polrelid FROM pg_policy y WHERE gone.classid = 'pg_policy'::regclass AND y.oid = gone.objid
            UNION ALL
            SELECT f.adrelid FROM pg_attrdef f WHERE gone.classid = 'pg_attrdef'::regclass AND f.oid = gone.objid) AS owner
    ) AS d WHERE g.follow ? 'dependents'""",
}
_TREE = """),
tree AS (
    SELECT * FROM named"""
_CHILDREN = {
    "children": """
    UNION
    SELECT t.number, t.mode, t.follow, t.part, i.inhrelid FROM tree t
      JOIN pg_inherits i ON i.inhparent = t.oid WHERE t.follow ? 'children'""",
}
_ENDS = """),
ends AS (
    SELECT DISTINCT number, mode, follow, oid FROM tree WHERE NOT follow ?| '{referenced,referencing,parent,default}'"""
_OTHERS = {
    "referenced": """
    UNION
    SELECT t.number, t.mode, t.follow, k.confrelid FROM tree t JOIN pg_constraint k ON k.conrelid = t.oid AND k.contype = 'f'
     WHERE t.follow ? 'referenced' AND (t.part IS NULL OR k.conname = t.part OR EXISTS (
           SELECT FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attname = t.part AND a.attnum = ANY (k.conkey)))""",
    "referencing": """
    UNION
    SELECT t.number, t.mode, t.follow, k.conrelid FROM tree t JOIN pg_constraint k ON k.confrelid = t.oid AND k.contype = 'f'
     WHERE t.follow ? 'referencing' AND (t.part IS NULL
           OR EXISTS (SELECT FROM pg_class i WHERE i.oid = k.conindid AND i.relname = t.part)
           OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attname = t.part AND a.attnum = ANY (k.confkey)))""",
    "parent": """
    UNION
    SELECT t.number, t.mode, t.follow, p.oid FROM tree t JOIN pg_class c ON c.oid = t.oid AND c.relispartition
      JOIN pg_inherits i ON i.inhrelid = t.oid JOIN pg_partitioned_table d ON d.partrelid = i.inhparent,
           unnest(ARRAY[i.inhparent, d.partdefid]) AS p(oid) WHERE t.follow ? 'parent' AND p.oid <> 0""",
    "default": """
    UNION
    SELECT t.number, t.mode, t.follow, d.partdefid FROM tree t JOIN pg_partitioned_table d ON d.partrelid = t.oid
     WHERE t.follow ? 'default' AND d.partdefid <> 0""",
}
_REACHED = """),
reached AS (
    SELECT * FROM ends"""
_FURTHER = """
    UNION
    SELECT r.number, r.mode, r.follow, next.oid FROM reached r
     CROSS JOIN LATERAL (SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = r.oid
                          UNION ALL
                         SELECT k.conrelid FROM pg_constraint k
                          WHERE k.confrelid = r.oid AND k.contype = 'f' AND r.follow ? 'cascade') AS next(oid)
     WHERE r.follow ?| '{referenced,referencing}'"""
# LOCK TABLE needs a right to write for whatever is stronger than ROW EXCLUSIVE.
_FOUND = """)
SELECT DISTINCT r.number, r.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name, r.mode,
       c.relkind IN ('r', 'p') AND has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE') AS lockable,
       r.follow ? 'guessed' AS guessed
  FROM reached r JOIN pg_class c ON c.oid = r.oid JOIN pg_namespace n ON n.oid = c.relnamespace
 ORDER BY 1, 2
"""

_STILL_THERE = """
SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY (%s::oid[])
"""

# Who waits for a lock counts too: whoever asks for less is queued behind it.
_IN_THE_WAY = """
SELECT DISTINCT coalesce(l.pid, 0) AS pid FROM pg_catalog.pg_locks l
  JOIN unnest(%s::oid[], %s::text[]) AS wanted(oid, mode) ON wanted.oid = l.relation AND wanted.mode = l.mode
 WHERE l.locktype = 'relation' AND l.pid IS DISTINCT FROM pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
"""


def told_locks(statement: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """:return: what the controller read out of the statement; of one that a ledger kept from before, what its words tell."""
    known = statement.get("locks")
    if known is not None:
        return list(known)
    text = str(statement["sql"])
    mode = ROW_EXCLUSIVE if text.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE") else ACCESS_EXCLUSIVE
    return [
        {"schema": schema, "name": name, "mode": mode, "follow": ["guessed", "children"]}
        for schema, name in locks.tables_in(text)
    ]


def forecast(
    conn: Connection,
    told: Mapping[int, Sequence[Mapping[str, Any]]],
    made: Iterable[tuple[str, str]] = (),
) -> dict[int, list[TableLock]]:
    """Find the tables in the catalog, as it is now. One query, no lock.

    :param told: what the controller told of each statement, by its number.
    :param made: (schema, table) that nobody else can have locked, since this run makes them.
    :return: the locks of each statement on tables that are there, one a table, the strongest, ordered by oid.
    """
    passed_over = set(made)
    entries = [
        {"number": number, **entry}
        for number, locks_told in told.items()
        for entry in locks_told
        if (entry["schema"], entry["name"]) not in passed_over
    ]
    if not entries:
        return {}
    found: dict[int, dict[int, TableLock]] = {}
    follow = {word for entry in entries for word in entry.get("follow") or ()}
    for row in fetch_all(conn, _query(follow), (json.dumps(entries),)):
        if (row["schema"], row["name"]) in passed_over:
            continue
        number = int(row.pop("number"))
        lock, of_statement = TableLock(**row), found.setdefault(number, {})
        of_statement[lock.oid] = stronger(of_statement.get(lock.oid), lock)
    return {number: list(of_statement.values()) for number, of_statement in found.items()}


def _query(follow: AbstractSet[str]) -> str:
    def needed(parts: Mapping[str, str]) -> str:
        return "".join(part for word, part in parts.items() if word in follow)

    further = _FURTHER if follow & {"referenced", "referencing"} else ""
    return _GIVEN + needed(_NAMED) + _TREE + needed(_CHILDREN) + _ENDS + needed(_OTHERS) + _REACHED + further + _FOUND


def stronger(first: TableLock | None, second: TableLock) -> TableLock:
    """:return: that of two locks on one table which excludes more; what is known counts more than what is guessed."""
    if first is None:
        return second
    return max(first, second, key=lambda lock: (not lock.guessed, lock_modes.strength(lock.mode)))


def strongest(found: Iterable[TableLock]) -> list[TableLock]:
    """:return: of several statements together one lock a table, ordered by oid."""
    tables: dict[int, TableLock] = {}
    for lock in found:
        tables[lock.oid] = stronger(tables.get(lock.oid), lock)
    return [tables[oid] for oid in sorted(tables)]


def in_the_way(conn: Connection, wanted: Sequence[TableLock]) -> list[Session]:
    """Look who holds, or waits for, what excludes one of these locks. Takes no lock.

    :return: the sessions, the oldest transaction first; a prepared transaction has no session and shows as pid 0.
    """
    pairs = [(lock.oid, lock_modes.in_pg_locks(mode)) for lock in wanted for mode in lock_modes.conflicts(lock.mode)]
    if not pairs:
        return []
    rows = fetch_all(conn, _IN_THE_WAY, ([oid for oid, _ in pairs], [mode for _, mode in pairs]))
    return locks.sessions_of(conn, [int(row["pid"]) for row in rows])


def still_there(conn: Connection, wanted: Sequence[TableLock]) -> list[TableLock]:
    """Find again what was found before the transaction in hand dropped or renamed tables. One query, no lock.

    :return: the locks on those that it has left, under the names that they have now; on the others it holds the strongest
        lock already, or they are its own.
    """
    if not wanted:
        return []
    now = {row["oid"]: row for row in fetch_all(conn, _STILL_THERE, ([lock.oid for lock in wanted],))}
    return [replace(lock, **now[lock.oid]) for lock in wanted if lock.oid in now]


def ask(conn: Connection, wanted: Sequence[TableLock], *, wait: bool = False) -> None:
    """Take these locks in the open transaction, or none: nobody is ever made to wait behind this.

    What is weaker than SHARE UPDATE EXCLUSIVE is left to the statement itself, since no reader or writer waits behind
    that; so are tables on which this role may not ask by LOCK TABLE.

    :param wait: stand in line for them, for lock_timeout at most; then others do wait behind this.
    :raises psycopg2.Error: 55P03, somebody holds a lock that excludes one of them.
    """
    by_mode: dict[str, list[TableLock]] = {}
    for lock in wanted:
        if lock.lockable and not lock.guessed and lock_modes.strength(lock.mode) > lock_modes.strength(ROW_EXCLUSIVE):
            by_mode.setdefault(lock.mode, []).append(lock)
    statements = [
        sql.SQL("LOCK TABLE {} IN {} MODE{}").format(
            sql.SQL(", ").join(sql.SQL("ONLY {}").format(sql.Identifier(lock.schema, lock.name)) for lock in of_mode),
            sql.SQL(mode),
            sql.SQL("" if wait else " NOWAIT"),
        )
        for mode, of_mode in by_mode.items()
    ]
    if statements:
        execute(conn, sql.SQL("; ").join(statements))
