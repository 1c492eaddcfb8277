# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one family of errors that the engine raises."""

from __future__ import annotations

import re
from typing import Any

import psycopg2

# Server messages that repeat a value of the user's data. Their shape is kept, the value is not: it may be PHI.
_VALUE_IN_MESSAGE = {"22P02", "22007", "22008", "22003", "22023"}
# What the server quotes is a name or a value. Whoever reads it has written the one into the statement, or the server tells
# it apart as the name of an object; the other came from a row. Other languages have other quotation marks.
_QUOTED = re.compile(r'"((?:[^"]|"")*)"|«\s*([^»]*?)\s*»|„([^“]*)“|“([^”]*)”')
_CLOSING = '"»“”'


class PgopsError(Exception):
    """An error told to a person: one sentence, and beside it what a machine needs.

    :param message: one sentence: what happened and where.
    :param sqlstate: the five characters of the server's error, where a statement failed.
    :param statement: the SQL that failed, as it was sent, without parameters.
    :param location: ``file:line`` of that statement in the migration's template.
    :param database: the database in which it happened.
    :param object_name: the table, index or other object concerned.
    :param hint: what to do about it.
    :param extra: further fields of the module's result.
    """

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str | None = None,
        statement: str | None = None,
        location: str | None = None,
        database: str | None = None,
        object_name: str | None = None,
        hint: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self.statement = statement
        self.location = location
        self.database = database
        self.object_name = object_name
        self.hint = hint
        self.extra = dict(extra or {})

    def as_dict(self) -> dict[str, Any]:
        """:return: every field that is set, for ``fail_json``."""
        fields = {
            "sqlstate": self.sqlstate,
            "statement": self.statement,
            "location": self.location,
            "database": self.database,
            "object": self.object_name,
            "hint": self.hint,
        }
        return {**self.extra, **{name: value for name, value in fields.items() if value is not None}}


class Interrupted(PgopsError):
    """The run was asked to stop, or its controller stopped renewing the lease."""


def primary_message(exc: psycopg2.Error, statement: str | None = None) -> str:
    """:param statement: what failed: of what the server quotes only that stays which stands in it, or names an object.
    :return: the server's primary message without DETAIL, CONTEXT or quoted values, which may hold patient data."""
    diag = exc.diag
    message = diag.message_primary or str(exc).strip().split("\n", 1)[0] or type(exc).__name__
    if exc.pgcode in _VALUE_IN_MESSAGE and ": " in message:
        # The first: the value may have one, too.
        message = message.split(": ", 1)[0].rstrip()
    if statement is None or exc.pgcode is None:
        return message
    objects = (diag.schema_name, diag.table_name, diag.column_name, diag.constraint_name, diag.datatype_name)
    # "public"."X" is quoted as a whole, and what stands without quotes is in small letters.
    known = "\n".join([statement, *(name for name in objects if name)]).replace('"', "").lower()

    def is_value(quoted: re.Match[str]) -> bool:
        name = next(part for part in quoted.groups() if part is not None)
        return name.replace('"', "").lower() not in known

    value = next((quoted.start() for quoted in _QUOTED.finditer(message) if is_value(quoted)), None)
    if value is None and message.count('"') % 2:
        value = message.index('"')
    if value is None:
        return message
    # To the last mark: the server doubles none within a value, so nobody knows where it ends.
    return f'{message[:value]}"…"{message[max(map(message.rfind, _CLOSING)) + 1 :]}'


def from_psycopg(
    exc: psycopg2.Error,
    doing: str,
    *,
    statement: str | None = None,
    location: str | None = None,
    database: str | None = None,
) -> PgopsError:
    """Turn a driver error into ours.

    :param doing: what was being done, as the start of the sentence, e.g. ``"Step 2 of 5 failed"``.
    :return: an error that keeps SQLSTATE and primary message and drops DETAIL, which may repeat a patient's row.
    """
    diag = exc.diag
    state = exc.pgcode
    message = primary_message(exc, statement)
    name = diag.constraint_name or diag.table_name or diag.datatype_name
    return PgopsError(
        f"{doing}: {message}" + (f" (SQLSTATE {state})" if state else ""),
        sqlstate=state,
        statement=statement,
        location=location,
        database=database,
        object_name=name,
        hint=diag.message_hint,
    )


def as_pgops_error(exc: PgopsError | psycopg2.Error, doing: str, *, database: str | None = None) -> PgopsError:
    """:param doing: as :func:`from_psycopg` takes it, for the driver's error.
    :return: an error of ours as it is, one of the driver turned into ours."""
    return exc if isinstance(exc, PgopsError) else from_psycopg(exc, doing, database=database)
