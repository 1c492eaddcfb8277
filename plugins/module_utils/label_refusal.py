# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What refuses that labels go from an enum, looked at before the first step of a version goes down: a step that refuses
later has the others of its version gone already, with their rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    enum_types,
    existing,
    label_text,
    labels_beside,
    ledger,
    look_before,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.changing_parts import (
    always,
    changing,
    constraints,
    lost,
    own_functions,
    writes_rows,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.enum_types import Enum, Table
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.label_removal import Going
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import kept_objects, needs_down
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import DEFAULT_BUDGETS


def refuse_revert(
    conn: Connection,
    chosen: Sequence[tuple[ledger.Migration, Mapping[str, Any]]],
    rewrite_limit_mb: int | None,
    unlooked: dict[str, list[str]] | None = None,
) -> None:
    """Look at every label that these versions take away, and write nothing.

    What an earlier part of the same way down drops stands in nobody's way by then, and what it may change is left to the
    look of the step itself. So is a version that is half way down.

    :param chosen: the versions with their stored text, in the order in which they go.
    :param rewrite_limit_mb: in the place of what they declare.
    :param unlooked: takes in, by version, what would refuse it now and is left to the look of the step.
    :raises PgopsError: a label is in use, or something stands on its type that cannot be carried over.
    """
    before = _Before(own_functions(conn))
    for row, migration in chosen:
        for ordinal in range(len(migration["steps"]), 0, -1):
            step = migration["steps"][ordinal - 1]
            if not needs_down(row, ordinal):
                continue
            if step["kind"] == "sql" and step.get("labels"):
                if row.state != "reverting":
                    _look(conn, row, migration, ordinal, rewrite_limit_mb, before, unlooked)
            else:
                before.add(step, kept_objects(row, ordinal))


# Not names of anything, in what the server calls an object.
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "a and beside by clustered column composite constraint default domain each every expression fires for function has "
        "identity in index invalid is materialized of on or partitions policy predicate privilege publication reads replica "
        "row rows rule statistics table tablespace text that the trigger type value view which whose",
    )
)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text)) - _COMMON


@dataclass
class _Before:
    """What goes down before the labels.

    :ivar own: see :func:`changing_parts.own_functions`.
    :ivar gone: objects, in the words of :func:`existing.describe`.
    :ivar names: their names.
    :ivar perhaps: the names of constraints that go on some of the ways through a block, or get another name.
    :ivar changed: words of statements of which nobody knows what else they take away.
    :ivar changed_rows: words of those that may change rows, or take them away.
    :ivar lessened: words of those of both: columns or tables may go, with what stands on them.
    :ivar lost: of these the words of what goes or changes.
    """

    own: frozenset[str]
    gone: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    perhaps: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    changed_rows: set[str] = field(default_factory=set)
    lessened: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)

    def add(self, step: Mapping[str, Any], kept: set[str]) -> None:
        """Take in the way down of a step."""
        if step["kind"] == "indexes":
            self.names |= {str(index["name"]) for index in step["indexes"]}
        statements: Sequence[Mapping[str, Any]] = ()
        if step["kind"] == "sql":
            statements = step.get("down") or []
        elif step["kind"] == "backfill" and step.get("down"):
            statements = [step["down"]]
        for statement in statements:
            text, gone = str(statement["sql"]), statement.get("destroys")
            if gone and gone["kind"] != "rows":
                word = existing.describe(gone)
                if word not in kept:
                    self.gone.add(word)
                    self.names.add(str(gone["name"]))
                continue
            for part in changing(text, self.own):
                found = constraints(part)
                if found is not None:
                    self.perhaps |= found.renamed
                    (self.names if always(text) else self.perhaps).update(found.gone)
                    continue
                named = _words(lost(part))
                if named:
                    self.changed_rows |= _words(part)
                if not writes_rows(part):
                    self.changed |= _words(part)
                    self.lost |= named
                    self.lessened |= _words(part) if named else set()

    def left_of(self, enum: Enum) -> Enum:
        """:return: the type as it is when these have gone, as far as that can be told."""
        tables = [table for table in map(self._left_of, enum.tables) if table.columns]
        own = {enum.schema, enum.name}
        for table in enum.tables:
            own |= {table.schema, table.name, *(column.name for column in table.columns)}
        names = self.names | self.perhaps
        # A trigger goes with its table, and with a column that it is about.
        passing = ((names | self.changed) - own | self.lost - {enum.schema, enum.name}) - _COMMON
        return replace(
            enum,
            tables=tuple(tables),
            policies=tuple(item for item in enum.policies if item.name not in names and item.table not in self.changed),
            strangers=tuple(what for what in enum.strangers if not _words(what) & passing),
            rewritten=tuple(what for what in enum.rewritten if not _words(what) & passing),
        )

    def _left_of(self, table: Table) -> Table:
        name = f"{table.schema}.{table.name}"
        if f"table {name}" in self.gone:
            return replace(table, columns=())
        columns = tuple(column for column in table.columns if f"column {name}.{column.name}" not in self.gone)
        names = self.names | self.perhaps
        checks = tuple(check for check in table.checks if check.name not in names)
        late = tuple(item for item in table.late if item.name not in names)
        indexes = tuple(index for index in table.indexes if not {index.name} & (names | self.changed))
        if table.name in self.changed:
            columns, checks, late = tuple(replace(column, default=None) for column in columns), (), ()
        if table.name in self.lessened:
            indexes = ()
        return replace(table, columns=columns, checks=checks, indexes=indexes, late=late)

    def rows_of(self, enum: Enum) -> Enum:
        """:return: the type in the tables whose rows stay as they are."""
        return replace(enum, tables=tuple(table for table in enum.tables if table.name not in self.changed_rows))


def _look(
    conn: Connection,
    row: ledger.Migration,
    migration: Mapping[str, Any],
    ordinal: int,
    rewrite_limit_mb: int | None,
    before: _Before,
    unlooked: dict[str, list[str]] | None,
) -> None:
    step, budgets, database = migration["steps"][ordinal - 1], migration.get("budgets") or {}, str(conn.info.dbname)
    declared = budgets.get("rewrite_limit_mb")
    limit_mb = DEFAULT_BUDGETS["rewrite_limit_mb"] if declared is None else declared
    limit_mb = limit_mb if rewrite_limit_mb is None else rewrite_limit_mb
    doing = f"Step {ordinal} of {len(migration['steps'])} (sql) of version {row.version} on the way down in {database}"
    kept = kept_objects(row, ordinal)
    for (schema, name), added in label_text.added_labels(step).items():
        ours = tuple(label for label in added if label_text.word(schema, name, label) not in kept)
        mapping = {old: new for old, new in step["labels"]["mapping"].items() if old in ours}
        going = Going(conn, doing, limit_mb, schema, name, ours, mapping)
        with look_before.bounded(conn, migration, f"What refuses that labels go from {going.full}"):
            try:
                _refuse(going, before)
            except PgopsError as error:
                error.message += ". Nothing of this version was reverted."
                error.args = (error.message,)
                error.extra |= {"reason": "labels", "version": row.version}
                raise
            if unlooked is not None:
                left = _left_to_the_step(going, before)
                if left:
                    unlooked.setdefault(row.version, []).append(left)


def _refuse(going: Going, before: _Before) -> None:
    found = enum_types.find(going.conn, going.schema, going.name)
    if found is None:
        return
    going.keep_there(found)
    if not going.labels:
        return
    enum = before.left_of(found)
    beside = going.is_large(enum) or labels_beside.is_begun(going.conn, enum)
    going.refuse_unfit(enum, beside=beside)
    if beside:
        labels_beside.refuse_taken(going, enum)
    going.refuse_used(before.rows_of(enum))


def _left_to_the_step(going: Going, before: _Before) -> str | None:
    """:return: what would refuse it now, and no longer if what goes before it changes all that it may."""
    enum = enum_types.find(going.conn, going.schema, going.name)
    if enum is None or not going.labels or not (before.changed or before.changed_rows or before.perhaps):
        return None
    certain = replace(before, changed=set(), changed_rows=set(), lessened=set(), lost=set(), perhaps=set())
    now, then = certain.left_of(enum), before.left_of(enum)
    looked = {table.oid for table in before.rows_of(then).tables}
    execute(going.conn, "SAVEPOINT pgops_look")
    try:
        if now != then:
            going.refuse_unfit(now, beside=going.is_large(now))
        going.refuse_used(replace(now, tables=tuple(table for table in now.tables if table.oid not in looked)))
    except PgopsError as error:
        return error.message.removeprefix(f"{going.doing} was refused: ")
    except psycopg2.Error as error:
        if error.pgcode is None:
            raise
        execute(going.conn, "ROLLBACK TO SAVEPOINT pgops_look")
        return f"whether the labels {', '.join(going.labels)} can go from {going.full} (SQLSTATE {error.pgcode})"
    return None
