# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one family of errors that the engine raises."""

from __future__ import annotations

from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.server_message import (
    failing_function,
    is_foreign_text,
    primary_message,
)
from psycopg2 import errorcodes

# What a run may be given by name and never can use.
BACKUP = "backup"
SCRATCH_DATABASE = "scratch_database"
NEW_DATABASE = "new_database"


class PgopsError(Exception):
    """An error told to a person: one sentence, and beside it what a machine needs.

    :param message: one sentence: what happened and where.
    :param sqlstate: the five characters of the server's error, where a statement failed.
    :param statement: the SQL that failed, as it was sent, without parameters.
    :param location: ``file:line`` of that statement in the migration's template.
    :param database: the database in which it happened.
    :param object_name: the table, index or other object concerned.
    :param hint: what to do about it.
    :param unusable: what was named and is refused however often it is typed: :data:`BACKUP`, :data:`SCRATCH_DATABASE` or
        :data:`NEW_DATABASE`. The controller prints no command that names it again.
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
        unusable: str | None = None,
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
        self.unusable = unusable
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
            "unusable": self.unusable,
        }
        return {**self.extra, **{name: value for name, value in fields.items() if value is not None}}


class Interrupted(PgopsError):
    """The run was asked to stop, or its controller stopped renewing the lease."""


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
    name, hint = diag.constraint_name or diag.table_name or diag.datatype_name, diag.message_hint
    function = failing_function(exc)
    if is_foreign_text(exc):
        name, hint = None, "The server's log has the text; mend what it refuses, then run it again."
    elif _is_no_text(exc):
        message += " in a database that is encoded in SQL_ASCII, which takes bytes that are no text; make it a UTF8 one (docs/preflight.md)"
    elif function and (state or "")[:2] == "42":
        hint = f"It is {function} that fails, not the statement: mend the function, then run it again."
    return PgopsError(
        f"{doing}: {message}" + (f" (SQLSTATE {state})" if state else ""),
        sqlstate=state,
        statement=statement,
        location=location,
        database=database,
        object_name=name,
        hint=hint,
    )


def _is_no_text(exc: psycopg2.Error) -> bool:
    """SQL_ASCII takes any bytes, and the server looks at them when they are read as UTF8."""
    if exc.pgcode != errorcodes.CHARACTER_NOT_IN_REPERTOIRE or exc.cursor is None:
        return False
    return bool(exc.cursor.connection.info.parameter_status("server_encoding") == "SQL_ASCII")


def as_pgops_error(exc: PgopsError | psycopg2.Error, doing: str, *, database: str | None = None) -> PgopsError:
    """:param doing: as :func:`from_psycopg` takes it, for the driver's error.
    :return: an error of ours as it is, one of the driver turned into ours."""
    return exc if isinstance(exc, PgopsError) else from_psycopg(exc, doing, database=database)
