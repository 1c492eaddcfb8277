# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Does a statement find all that it would bring about? Then it is not run, for PostgreSQL takes its lock even so.

Who looks and passes over a statement leaves what it would have left if it had run at that moment: somebody who changes it
right afterwards comes after us either way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all

# A table with heirs is left to the statement: they may differ from it. Since 18 a NOT NULL is a constraint, which may be
# not validated, inherited or without heirs, and SET NOT NULL changes that. A default is compared as the server prints it:
# a literal with the type of its column, a negative number as a literal; of others that mean the same nobody knows. What
# ALTER TABLE says of a view or of a system column, or of a table that another of the name stands before, is for the server.
_HOLDING = """
SELECT g.number
  FROM jsonb_to_recordset(%s) AS g(
       number int, kind text, schema text, "table" text, unqualified boolean, name text, there boolean, expression text)
  LEFT JOIN (pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid)
    ON n.nspname = g.schema AND c.relname = g."table"
  LEFT JOIN pg_catalog.pg_attribute a
    ON a.attrelid = c.oid AND a.attname = g.name AND NOT a.attisdropped
   AND g.kind IN ('column', 'not_null', 'default')
 GROUP BY g.number
HAVING bool_and(c.oid IS NOT NULL
   AND (g.unqualified IS NULL OR c.oid = to_regclass(quote_ident(g."table")))
   AND (c.relkind IN ('r', 'p') OR g.kind IN ('trigger', 'rule'))
   AND coalesce(CASE g.kind
    WHEN 'column' THEN (a.attnum IS NOT NULL) = g.there AND coalesce(a.attnum, 1) > 0
    WHEN 'not_null' THEN a.attnotnull = g.there AND NOT c.relhassubclass AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum]
           AND NOT (k.convalidated AND k.conislocal AND NOT k.connoinherit))
    WHEN 'default' THEN a.attgenerated = '' AND a.attidentity = '' AND NOT c.relhassubclass AND CASE WHEN g.there THEN (
        SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) IN (g.expression, g.expression || '::' || type.name,
               CASE WHEN g.expression ~ '^-[0-9.]+$' THEN quote_literal(g.expression) || '::' || type.name END)
          FROM pg_catalog.pg_attrdef d, pg_catalog.format_type(a.atttypid, NULL) AS type(name)
         WHERE d.adrelid = c.oid AND d.adnum = a.attnum) ELSE NOT a.atthasdef END
    WHEN 'row_security' THEN c.relrowsecurity = g.there
    WHEN 'forced_row_security' THEN c.relforcerowsecurity = g.there
    WHEN 'constraint' THEN NOT EXISTS (
        SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.conname = g.name)
    WHEN 'trigger' THEN NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = g.name)
    WHEN 'policy' THEN NOT EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid AND p.polname = g.name)
    WHEN 'rule' THEN NOT EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename = g.name)
    END, false))
"""
_WORDS = {
    "not_null": "NOT NULL",
    "default": "default",
    "row_security": "row level security",
    "forced_row_security": "forced row level security",
}


def holding(conn: Connection, statements: Sequence[Mapping[str, Any]]) -> set[int]:
    """Look which statements have nothing to do, one query.

    Takes ACCESS SHARE for a moment on the table of a default, no other lock.

    :param statements: with ``states`` as the controller told them; one without is never among them.
    :return: the positions of those whose states all hold.
    """
    asked = [
        {"number": number, **state} for number, item in enumerate(statements) for state in item.get("states") or []
    ]
    if not asked:
        return set()
    return {int(row["number"]) for row in fetch_all(conn, _HOLDING, (json.dumps(asked),))}


def describe(statement: Mapping[str, Any]) -> list[str]:
    """:return: the states of a statement in words, ``public.students.grade has NOT NULL``. None of them is the word of an
    object (:func:`existing.describe`) but for a column that is there: nothing else was there before the version."""
    return [word(state) for state in statement.get("states") or []]


def thing(state: Mapping[str, Any]) -> str:
    """:return: what a state of NOT NULL, a default or row level security is of, whether it is on or off."""
    where = f"{state['schema']}.{state['table']}" + (f".{state['name']}" if state.get("name") else "")
    return f"{'the ' if state['kind'] == 'default' else ''}{_WORDS[str(state['kind'])]} of {where}"


def word(state: Mapping[str, Any]) -> str:
    kind, table, name, there = (
        str(state["kind"]),
        f"{state['schema']}.{state['table']}",
        state.get("name"),
        state["there"],
    )
    if kind == "column" and there:
        return f"column {table}.{name}"
    where = f"{table}.{name}" if kind in ("not_null", "default") else table
    article = ("the " if kind == "default" else "") if there else "no "
    return f"{where} has {article}{_WORDS.get(kind) or f'{kind} {name}'}"
