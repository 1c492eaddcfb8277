# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Labels that are to go from an enum: what is refused before anything is changed, and how the statements are run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    enum_statements,
    enum_types,
    label_text,
    locks,
    row_identity,
    time_limits,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.enum_types import Column, Enum, Table
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.server_message import told_notices
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext, one_line
from psycopg2 import errorcodes, sql

SHOWN_IDS = 10

T = TypeVar("T")


@dataclass
class Going:
    """Labels of one type that go, and whatever refuses that.

    :ivar doing: the step in words, for errors.
    :ivar limit_mb: ``rewrite_limit_mb``.
    :ivar labels: those that go, as far as the type has them.
    :ivar mapping: what becomes of rows with one of them: label to label.
    """

    conn: Connection
    doing: str
    limit_mb: int
    schema: str
    name: str
    labels: tuple[str, ...]
    mapping: Mapping[str, str]

    @property
    def full(self) -> str:
        """:return: the type as a person says it."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"

    @property
    def unmapped(self) -> list[str]:
        """:return: labels for whose rows nothing is declared."""
        return [label for label in self.labels if label not in self.mapping]

    def keep_there(self, enum: Enum) -> None:
        """Forget the labels that the type does not have."""
        self.labels = tuple(label for label in enum.labels if label in self.labels)
        self.mapping = {old: new for old, new in self.mapping.items() if old in self.labels}

    def is_large(self, enum: Enum) -> bool:
        """:return: whether rewriting the tables would be felt."""
        return enum.size > self.limit_mb * label_text.MB

    def refusal(
        self, why: str, hint: str, *, sqlstate: str = errorcodes.OBJECT_NOT_IN_PREREQUISITE_STATE
    ) -> PgopsError:
        """:return: the error of labels that stay."""
        listed = ", ".join(self.labels)
        return PgopsError(
            f"{self.doing} was refused: the labels {listed} cannot be removed from {self.full}: {why}",
            sqlstate=sqlstate,
            database=str(self.conn.info.dbname),
            object_name=f"{self.schema}.{self.name}",
            hint=hint,
        )

    def refuse_unfit(self, enum: Enum, *, beside: bool, begun: bool = False) -> None:
        """:param beside: whether the way with a column beside is gone.
        :param begun: whether it is gone already, so that another limit changes nothing.
        :raises PgopsError: something stands on the type that cannot be carried over, each of it by name."""
        kept = [label for label in enum.labels if label not in self.labels]
        wrong = sorted({label for label in self.mapping.values() if label not in kept})
        if wrong:
            raise self.refusal(
                f"the mapping turns rows into {', '.join(wrong)}, which the type will not have",
                f"Map to one of {', '.join(kept)}.",
            )
        hidden = [table.full for table in enum.tables if table.hidden]
        if hidden:
            raise self.refusal(
                f"row level security hides rows of {', '.join(hidden)} from this login",
                "Migrate as the owner of the table without FORCE ROW LEVEL SECURITY, or as a login with BYPASSRLS.",
            )
        self._refuse_strange(enum, beside)
        if enum.strangers:
            raise self.refusal(
                f"this stands on the type or a column of it: {'; '.join(enum.strangers)}",
                "Drop what is named, or take back the version that made it, then run it again.",
            )
        named = self._named(enum)
        if named:
            raise self.refusal(
                f"this names one of them: {'; '.join(named)}",
                "Let what is named use another label, then run it again.",
            )
        if not beside:
            return
        keyless = [
            f"table {table.full}, which has no NOT NULL column with an index" for table in enum.tables if not table.key
        ]
        late = self._broken(enum)
        if enum.rewritten or keyless or late:
            why = f"its tables are larger than {self.limit_mb} MB together, and a column beside cannot take over"
            hint = (
                "Drop or disable what is named for the time and run it again; or let the tables be rewritten while every client is "
                "kept out: -e rollback_rewrite_limit_mb with their size."
            )
            if begun:
                why = "the columns beside are begun, and cannot take over"
                hint = "Drop or disable what is named for the time and run it again."
            raise self.refusal(f"{why}: {'; '.join([*enum.rewritten, *keyless, *late])}", hint)

    def _refuse_strange(self, enum: Enum, beside: bool) -> None:
        strange = [f"type {self.full} of {enum.stranger}"] if enum.stranger else []
        strange += [f"table {table.full} of {table.stranger}" for table in enum.tables if table.stranger]
        strange += [
            f"policy {item.name} on {item.schema}.{item.table} of {item.stranger}"
            for item in enum.policies
            if item.stranger
        ]
        if strange:
            raise self.refusal(
                f"this belongs to roles of which this login is no member: {'; '.join(dict.fromkeys(strange))}",
                "Give what is named to the role that migrates, then run it again.",
                sqlstate=errorcodes.INSUFFICIENT_PRIVILEGE,
            )
        closed = [] if enum.room else [enum.schema]
        closed += [
            table.schema
            for table in enum.tables
            if not table.room and (beside or any(index.texts for index in table.indexes))
        ]
        if closed:
            raise self.refusal(
                f"this login may not create in the schema {', '.join(dict.fromkeys(closed))}",
                "Grant CREATE on what is named to the role that migrates, then run it again.",
                sqlstate=errorcodes.INSUFFICIENT_PRIVILEGE,
            )

    def _named(self, enum: Enum) -> list[str]:
        """:return: what would be made anew with a label that is no more."""
        texts: list[tuple[str, str]] = []
        for table in enum.tables:
            texts += [
                (f"the default of {table.full}.{_written(column.name)}", column.default or "")
                for column in table.columns
            ]
            texts += [(f"check {check.name} of {table.full}", check.definition) for check in table.checks]
            texts += [
                (f"index {index.name} of {table.full}", index.definition) for index in table.indexes if index.texts
            ]
        texts += [(f"policy {item.name} on {item.schema}.{item.table}", item.definition) for item in enum.policies]
        return [what for what, text in texts if _labels_in(text, enum.written).intersection(self.labels)]

    def _broken(self, enum: Enum) -> list[str]:
        """:return: checks and NOT NULL that are NOT VALID, and that the copy of a row of before would fail."""
        told = []
        for table in enum.tables:
            own = {column.not_null_name for column in table.columns}
            for late in table.late:
                query = sql.SQL("SELECT count(*) AS rows FROM {} WHERE NOT ({})").format(
                    table.identifier, sql.SQL(late.condition)
                )
                found = fetch_one(self.conn, query.as_string(self.conn)) or {}
                if found.get("rows"):
                    told.append(
                        f"{late.name} of {table.full}, which is NOT VALID: {found['rows']} row(s) break it and cannot be copied"
                    )
                elif late.name in own:
                    told.append(f"{late.name} of {table.full}, which is NOT VALID")
        return told

    def refuse_used(self, enum: Enum) -> None:
        """:raises PgopsError: rows use a label for which nothing is declared; with their number and ten of their ids."""
        if not self.unmapped:
            return
        told, queries = [], []
        for table in enum.tables:
            for column in table.columns:
                used = self._uses(enum, table, column)
                if used is not None:
                    told.append(used[0])
                    queries.append(used[1])
        if told:
            raise self.refusal(
                f"they are in use: {'; '.join(told)}",
                f"Give these rows another value, then roll back again; they are found by: {'; '.join(queries)}; "
                "or declare a mapping before the version is applied.",
                sqlstate=errorcodes.OBJECT_IN_USE,
            )

    def _uses(self, enum: Enum, table: Table, column: Column) -> tuple[str, str] | None:
        conn, name = self.conn, sql.Identifier(column.name)
        where = sql.SQL("FROM {} WHERE {} IN ({})").format(
            table.identifier, name, enum_statements.literals(self.unmapped)
        )
        counted = fetch_one(conn, (sql.SQL("SELECT count(*) AS rows ") + where).as_string(conn))
        rows = int(counted["rows"]) if counted else 0
        if not rows:
            return None
        told = f"{rows} row(s) of {table.full}.{_written(column.name)}"
        names = row_identity.columns(conn, table.identifier)
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        first_ten = sql.SQL("SELECT {} AS id {} ORDER BY {} LIMIT {}").format(
            row_identity.told(names), where, columns, sql.Literal(SHOWN_IDS)
        )
        ids = fetch_all(conn, first_ten.as_string(conn), None)
        told += f", {'/'.join(names)} " + ", ".join(str(row["id"]) for row in ids)
        return told, sql.SQL("SELECT {} {}").format(columns, where).as_string(conn)


@dataclass
class Removal(Going):
    """The same on its way.

    :ivar progress: what the ledger knows of this type; changed here, written by :meth:`save`.
    :ivar all_progress: the progress of the whole step, of which it is a part.
    """

    context: StepContext
    progress: dict[str, Any] = field(default_factory=dict)
    all_progress: dict[str, Any] = field(default_factory=dict)
    _limit: str = "statement_timeout_s"

    def save(self) -> None:
        """Write the progress, in the transaction that is open, or at once."""
        self.context.save("running", self.all_progress)

    def patiently(self, work: Callable[[list[str]], T], *, limit: str, tables: Sequence[Table] = ()) -> T:
        """Run one transaction, again and again until it gets its locks. :param limit: the budget of a statement."""
        context, since, self._limit = self.context, 0.0, limit

        def attempt() -> T:
            nonlocal since
            with transaction(context.conn, context.limits(context.budget(limit))) as ending:
                since = time.monotonic()
                return work(ending)

        try:
            return context.patiently(attempt, [(table.schema, table.name) for table in tables])
        except psycopg2.Error as exc:
            if exc.pgcode is None:
                raise
            raise self.error(exc, since=since) from None

    def read(self) -> Enum | None:
        """:return: the type as it is now, see :func:`enum_types.find`."""
        conn = self.context.conn
        return self.patiently(lambda _ending: enum_types.find(conn, self.schema, self.name), limit="index_timeout_s")

    def run(self, statements: Sequence[sql.Composable]) -> None:
        """Run statements in the transaction that is open, each of them told."""
        conn = self.context.conn
        for statement in statements:
            text = statement.as_string(conn)
            with self.context.watched(one_line(text)):
                since = time.monotonic()
                try:
                    conn.notices.clear()
                    execute(conn, text)
                    for line in told_notices(conn.notices, text):
                        self.context.tell(line)
                except psycopg2.Error as exc:
                    if exc.pgcode is None or exc.pgcode in locks.RETRY_SQLSTATES:
                        raise
                    raise self.error(exc, text, since=since) from None

    def error(self, exc: psycopg2.Error, statement: str | None = None, *, since: float) -> PgopsError:
        """:param since: ``time.monotonic()`` when it was sent.
        :return: the error of a statement of this removal."""
        context = self.context
        error = from_psycopg(
            exc,
            f"{context.doing} failed when it took labels from {self.full}",
            statement=statement,
            database=context.database,
        )
        if exc.pgcode == errorcodes.DEPENDENT_OBJECTS_STILL_EXIST:
            # The server's own hint is CASCADE, which drops what nobody named.
            error.hint = "Something came to use the type meanwhile; run it again, it is looked at anew."
        if context.timed_out(exc, since, context.budget(self._limit)):
            time_limits.tell(context, error, self._limit, f"when it took labels from {self.full}")
        return error


def _labels_in(text: str, written: str) -> set[str]:
    """:return: the labels of a type that an expression names, as the server prints it; in constant arrays too."""
    found: set[str] = set()
    literal = re.compile(r"(E?)'((?:[^']|'')*)'::" + re.escape(written) + r"(\[\])?(?!\w)")
    for escaped, inside, array in literal.findall(text):
        value = inside.replace("''", "'")
        if escaped:
            value = value.replace("\\\\", "\\")
        if array:
            for quoted, plain in re.findall(r'"((?:[^"\\]|\\.)*)"|([^{},"]+)', value):
                found.add(re.sub(r"\\(.)", r"\1", quoted) if quoted else plain)
        else:
            found.add(value)
    return found


def _written(name: str) -> str:
    """:return: the name as it is typed in SQL."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def case_of(column: sql.Composable, mapping: Mapping[str, str]) -> sql.Composed:
    """:return: a label as text after the mapping."""
    if not mapping:
        return sql.SQL("{}::text").format(column)
    parts = [
        sql.SQL("WHEN {} THEN {}").format(sql.Literal(old), sql.Literal(new)) for old, new in sorted(mapping.items())
    ]
    return sql.SQL("CASE {}::text {} ELSE {}::text END").format(column, sql.SQL(" ").join(parts), column)
