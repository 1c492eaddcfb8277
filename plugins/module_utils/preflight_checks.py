# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The questions of the health report: what one is, and how many of them are asked in one round trip.

They are data: sql/preflight has a file for each query, whose rows are what is wrong, and one with the words for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger_rights
from ansible_collections.whitecross.pgops.plugins.module_utils.command_text import is_command, is_sql, together
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import BEING_BUILT
from ansible_collections.whitecross.pgops.plugins.module_utils.owned_objects import (
    ALL_OWNERS,
    NOT_OF_COLUMN,
    RELATION_NOT_OF_EXTENSION,
    ROUTINES,
    TYPES,
    USER_SCHEMA,
    not_of_extension,
)

OK = "ok"
WARN = "warn"
STOP = "stop"
# The level of a row that says what could not be seen; its check warns.
UNKNOWN = "unknown"

# How many objects a sentence names; the number of all of them is always told.
SHOWN = 5
# How many are mended by what is to be typed where a check stops the run: with five at a time nobody gets on.
MENDED = 100
INSUFFICIENT_PRIVILEGE = "42501"
# Of a question that is asked alone, after all of them together have failed.
ALONE_TIMEOUT_MS = 5_000

# What the queries share with other questions to the catalogs, {{NAME}} in their files.
FRAGMENTS: dict[str, str] = {
    "ALL_OWNERS": ALL_OWNERS,
    "BEING_BUILT": BEING_BUILT,
    "LEDGER_OF_OTHERS": ledger_rights.FOREIGN,
    "NOT_OF_COLUMN": NOT_OF_COLUMN,
    "RELATION_NOT_OF_EXTENSION": RELATION_NOT_OF_EXTENSION,
    "ROUTINES": ROUTINES,
    "SCHEMA_NOT_OF_EXTENSION": not_of_extension("pg_namespace", "n.oid"),
    "TYPES": TYPES,
    "USER_SCHEMA": USER_SCHEMA,
}
# What is made of the rows of a question: as many, those that are well with the level ``ok`` and a ``remark``.
Judge = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
NO_JUDGES: Mapping[str, Judge] = {}
_FRAGMENT = re.compile(r"\{\{([A-Z_]+)\}\}")
_FIELD = re.compile(r"\{([a-z_]+)(:I|!r)?\}")


@dataclass(frozen=True)
class Need:
    """A right that a check is blind without.

    :param holds: SQL that is true in a session that has it
    :param grant: what to type, with ``{role:I}``
    """

    name: str
    holds: str
    grant: str


@dataclass(frozen=True)
class Check:
    """One question.

    :param name: how it is waived and tested; never changes
    :param title: what is looked at, for the table
    :param levels: what a finding may mean, ``warn`` and ``stop``; where both, a row says which in its column ``level``
    :param scope: ``server`` where the answer is the same for each of its databases, else ``database``
    :param query: returns a row for each finding, no row when all is well; empty where the engine looks by itself
    :param found: the sentence for one row, with its columns in braces
    :param fix: what to type against one row; ``{…}`` as in ``found``
    :param well: what is said when nothing was found
    :param since: the first major version that has what the query reads, 0 for every one
    :param waivable: False where nothing can be done without it, whatever is waived
    """

    name: str
    title: str
    levels: tuple[str, ...] = (WARN,)
    scope: str = "database"
    query: str = ""
    found: str = ""
    fix: str = ""
    well: str = ""
    need: Need | None = None
    since: int = 0
    waivable: bool = True

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Check:
        """:param data: one entry as the controller has read it. :raises PgopsError: a fragment that does not exist."""
        need = data.get("need")
        return cls(
            name=str(data["name"]),
            title=str(data["title"]),
            levels=tuple(data["level"]),
            scope=str(data["scope"]),
            query=expand(str(data.get("query") or "")),
            found=str(data.get("found") or ""),
            fix=str(data.get("fix") or ""),
            well=str(data.get("well") or ""),
            need=Need(str(need["name"]), str(need["holds"]), str(need["grant"])) if need else None,
            since=int(data.get("since") or 0),
            waivable=bool(data.get("waivable", True)),
        )

    def entry(
        self, level: str, evidence: str, fix: str = "", objects: int | None = None, *, unknown: bool = False
    ) -> dict[str, Any]:
        """:return: what the report has of it, ``{"check", "title", "level", "evidence", "fix", "objects"}``; with ``unknown`` where
        nobody could look."""
        number = (0 if level == OK or unknown else 1) if objects is None else objects
        told = {
            "check": self.name,
            "title": self.title,
            "level": level,
            "evidence": evidence,
            "fix": fix,
            "objects": number,
        }
        return {**told, "unknown": True} if unknown else told

    def unknown(self, evidence: str, fix: str) -> dict[str, Any]:
        """:return: that it could not be looked at, which is a warning and never an ok."""
        return self.entry(WARN, evidence, fix, unknown=True)


@dataclass
class Session:
    """A connection that questions are put to, and which of the needs it has."""

    conn: Connection
    role: str
    rights: frozenset[str] = field(default_factory=frozenset)

    def sees(self, check: Check) -> bool:
        """:return: whether the check is not blind here."""
        return check.need is None or check.need.name in self.rights


def expand(query: str) -> str:
    """:return: the query with the SQL that it shares. :raises PgopsError: there is none of that name."""

    def text(found: re.Match[str]) -> str:
        if found.group(1) not in FRAGMENTS:
            raise PgopsError(
                f"A query of preflight names {found.group(0)}, and there is no such SQL; choose from {', '.join(FRAGMENTS)}."
            )
        return FRAGMENTS[found.group(1)]

    return _FRAGMENT.sub(text, query)


def fill(template: str, row: Mapping[str, Any]) -> str:
    """:return: the sentence with the row's columns: ``{a}``, ``{a:I}`` as an identifier, ``{a!r}`` as a literal."""

    def value(found: re.Match[str]) -> str:
        told = str(row.get(found.group(1), "?"))
        if found.group(2) == ":I":
            return quoted(told)
        return "'" + told.replace("'", "''") + "'" if found.group(2) == "!r" else told

    return _FIELD.sub(value, template)


def rights(conn: Connection, needs: Iterable[Need]) -> frozenset[str]:
    """:return: the names of the needs that the session's role has, asked in one round trip; all NULL is no."""
    asked = {need.name: need.holds for need in needs}
    if not asked:
        return frozenset()
    row = fetch_one(conn, "SELECT " + ", ".join(f'({holds}) AS "{name}"' for name, holds in asked.items())) or {}
    return frozenset(name for name, holds in row.items() if holds)


def ask(
    sessions: Sequence[Session],
    checks: Sequence[Check],
    parameters: Mapping[str, Any],
    major: int,
    judges: Mapping[str, Judge] = NO_JUDGES,
) -> dict[str, dict[str, Any]]:
    """Put each question to the first session that is not blind for it: one statement a session.

    Where that statement fails, for a lock or a right that is missing, each of its questions is asked alone: one that fails hides no
    other.

    :param parameters: ``%(name)s`` of the queries
    :param major: of the server; what it is too old for has nothing to find
    :param judges: check -> what is made of its rows, where there are any
    :return: check -> entry
    """
    found: dict[str, dict[str, Any]] = {}
    batches: list[list[Check]] = [[] for _ in sessions]
    for check in checks:
        if check.since > major:
            found[check.name] = check.entry(
                OK, f"PostgreSQL {major} does not tell; {check.since} is the first that does"
            )
            continue
        place = next((place for place, session in enumerate(sessions) if session.sees(check)), None)
        if place is None:
            assert check.need is not None
            role = sessions[0].role
            found[check.name] = check.unknown(f"{role} may not see it", fill(check.need.grant, {"role": role}))
        else:
            batches[place].append(check)
    for session, batch in zip(sessions, batches):
        if batch:
            found.update(_ask_together(session, batch, parameters, judges))
    return found


def _ask_together(
    session: Session, checks: Sequence[Check], parameters: Mapping[str, Any], judges: Mapping[str, Judge]
) -> dict[str, dict[str, Any]]:
    statement = "\nUNION ALL\n".join(_question(place, check) for place, check in enumerate(checks))
    try:
        answers = fetch_all(session.conn, statement, dict(parameters))
    except psycopg2.Error:
        if not session.conn.closed:
            execute(session.conn, f"SET statement_timeout = {ALONE_TIMEOUT_MS}")
        return {check.name: look(check, session.conn, parameters, judges) for check in checks}
    return {checks[answer["place"]].name: _entry(checks[answer["place"]], answer, judges) for answer in answers}


def _question(place: int, check: Check) -> str:
    # A window without an order numbers the rows as they come.
    return (
        f"SELECT {place} AS place, count(*) AS objects, pg_catalog.json_agg(q) FILTER (WHERE q.its_place <= {MENDED}) AS rows\n"
        f"  FROM (SELECT pg_catalog.row_number() OVER () AS its_place, a.* FROM (\n{check.query}\n) AS a) AS q"
    )


def look(
    check: Check, conn: Connection, parameters: Mapping[str, Any], judges: Mapping[str, Judge] = NO_JUDGES
) -> dict[str, Any]:
    """Ask one question alone.

    :return: its entry; a query that the role may not run or that fails is unknown, never ok
    """
    try:
        answer = fetch_one(conn, _question(0, check), dict(parameters)) or {"objects": 0}
    except psycopg2.Error as exc:
        error = from_psycopg(exc, "could not be looked at")
        fix = "ask a superuser for the right" if error.sqlstate == INSUFFICIENT_PRIVILEGE else "look at it by hand"
        return check.unknown(error.message, fix)
    return _entry(check, answer, judges)


def _entry(check: Check, answer: Mapping[str, Any], judges: Mapping[str, Judge]) -> dict[str, Any]:
    """What the rows of one question mean; the gravest come first. Those that are well are told where all of them are."""
    number = int(answer["objects"])
    if not number:
        return check.entry(OK, check.well)
    rows: list[dict[str, Any]] = answer["rows"]
    if check.name in judges:
        judged = judges[check.name](rows)
        well = [str(row["remark"]) for row in judged if row.get("level") == OK]
        number -= len(well)
        if number <= 0:
            more = f" (and {len(well) - SHOWN} more)" if len(well) > SHOWN else ""
            return check.entry(OK, "; ".join(well[:SHOWN]) + more)
        rows = [row for row in judged if row.get("level") != OK]
    levels = [str(row.get("level") or check.levels[-1]) for row in rows]
    more = f" (and {number - SHOWN} more)" if number > SHOWN else ""
    mended = rows if STOP in check.levels else rows[:SHOWN]
    fixes = dict.fromkeys(fill(check.fix, row) for row in mended)
    mends = together(fixes)
    # A comment of SQL or of the shell, so that the line can be typed as it is.
    sign = "--" if is_sql(mends) or not is_command(mends) else "#"
    rest = f" {sign} and {number - len(mended)} more" if number > len(mended) and len(fixes) > 1 else ""
    return check.entry(
        STOP if STOP in levels else WARN,
        "; ".join(fill(check.found, row) for row in rows[:SHOWN]) + more,
        mends + rest,
        number,
        unknown=set(levels) == {UNKNOWN},
    )
