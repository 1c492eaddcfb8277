# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The constraints, indexes and extended statistics that a step of SQL made, by the names that the server gave them.

A version's text does not tell them all: the server makes names up, LIKE copies them, a block puts them together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.going_down import words_of

# The key of a step's progress that holds them.
PROGRESS = "appeared"

# What a statement has in it that makes one.
_MAKES = re.compile(
    r"\b(CONSTRAINT|INDEX|UNIQUE|PRIMARY|CHECK|REFERENCES|EXCLUDE|STATISTICS|LIKE|PARTITION|INHERITS?)\b", re.IGNORECASE
)
# Of what such a statement calls or puts together its text does not tell the tables either.
_HIDES = re.compile(
    r"\bEXECUTE\b(?!\s+(FUNCTION|PROCEDURE)\b)|^(?:\s|--[^\n]*\n|/\*.*?\*/)*(CALL|SELECT|WITH|DO)\b",
    re.IGNORECASE | re.DOTALL,
)
_NEVER = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(COMMENT|GRANT|REVOKE|INSERT|UPDATE|DELETE|SET|LOCK|DROP)\b",
    re.IGNORECASE | re.DOTALL,
)
# By name and not by oid: a new type of its column makes a constraint or index anew. NOT NULL, since 18 a constraint, is a
# property of the column.
_THERE = """
SELECT n.nspname::text AS schema, c.relname::text AS "table", o.name
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgops')
 CROSS JOIN LATERAL (
    SELECT k.conname::text AS name FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype <> 'n'
     UNION
    SELECT x.relname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
     WHERE i.indrelid = c.oid
     UNION
    SELECT s.stxname::text FROM pg_catalog.pg_statistic_ext s WHERE s.stxrelid = c.oid) o
 WHERE c.relkind IN ('r', 'p', 'm', 'f') AND (%(tables)s::text[] IS NULL OR c.relname = ANY (%(tables)s::text[]))
 ORDER BY 1, 2, 3
"""


@dataclass(frozen=True)
class Before:
    """What was there before the statements of a way up.

    :ivar tables: the names that they speak of; None where any table may be meant.
    """

    tables: list[str] | None
    there: frozenset[tuple[str, str, str]]


def before(conn: Connection, statements: Sequence[Mapping[str, Any]]) -> Before | None:
    """:return: what is there before; None where the statements make none, or only what their text names. Takes no lock."""
    texts = [str(statement["sql"]) for statement in statements if not _is_told(statement)]
    if not any(_HIDES.search(text) or _MAKES.search(text) for text in texts):
        return None
    tables = (
        None
        if any(_HIDES.search(text) for text in texts)
        else sorted({word for text in texts for word in _names(text)})
    )
    return Before(tables, frozenset(_there(conn, tables)))


def since(conn: Connection, then: Before | None) -> list[list[str]]:
    """:return: schema, table and name of each that came after. Call in the transaction of the statements. Takes no lock."""
    if then is None:
        return []
    return [list(item) for item in _there(conn, then.tables) if item not in then.there]


def of(row: ledger.Migration) -> dict[int, list[list[str]]]:
    """:return: by step what was recorded when the version was applied; none for a step that is older than this record."""
    return {step.ordinal: step.progress[PROGRESS] for step in row.steps if PROGRESS in step.progress}


def _there(conn: Connection, tables: list[str] | None) -> list[tuple[str, str, str]]:
    return [(row["schema"], row["table"], row["name"]) for row in fetch_all(conn, _THERE, {"tables": tables})]


def _names(text: str) -> Iterator[str]:
    """:return: the words of a statement as they may be the name of a table."""
    yield from (word.lower() for word in re.findall(r"[\w$]+", text))
    yield from (name.replace('""', '"') for name in re.findall(r'"((?:[^"]|"")+)"', text))


def _is_told(statement: Mapping[str, Any]) -> bool:
    """:return: whether a statement makes none, or its text names all that it makes."""
    text, made = str(statement["sql"]), statement.get("creates")
    if _NEVER.match(text):
        return True
    if not made or made["kind"] in ("extension", "schema"):
        return False
    parts = [*([made] if made["kind"] in ("constraint", "index") else []), *(made.get("constraints") or [])]
    words = words_of(text) if parts else set()
    return all(str(part["name"]).lower() in words for part in parts)
