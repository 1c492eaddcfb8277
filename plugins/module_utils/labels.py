# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The way down of a step that added labels to enums: they go again.

PostgreSQL cannot drop a label. A type without it takes the place of the old one in every column of the database. Small
tables are rewritten together in one transaction; for larger ones that would keep every client out, see
:mod:`labels_beside`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    enum_statements,
    enum_types,
    label_removal,
    label_text,
    labels_beside,
    sql_step,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.enum_types import Enum, Table
from ansible_collections.whitecross.pgops.plugins.module_utils.label_removal import Removal
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import sql


def down(context: StepContext, step: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    """Remove the labels that the step added; what was there before it stays.

    Takes ACCESS EXCLUSIVE on the tables that use a type: for as long as a rewrite takes where they are smaller than
    ``rewrite_limit_mb`` together, else for moments without reading a row.

    :param made: the progress of the step on the way up.
    :return: labels that stay.
    :raises PgopsError: rows use a label and no mapping is declared, or something stands on a type that no way carries
        over; nothing is changed then.
    """
    kept = sql_step.there_before(made)
    progress: dict[str, Any] = dict(context.progress_so_far)
    left: list[str] = []
    for (schema, name), added in label_text.added_labels(step).items():
        context.control.check()
        ours = [label for label in added if label_text.word(schema, name, label) not in kept]
        left += [label_text.word(schema, name, label) for label in added if label not in ours]
        part = progress.setdefault(f"{schema}.{name}", {})
        mapping = {old: new for old, new in step["labels"]["mapping"].items() if old in ours}
        removal = Removal(
            context.conn,
            context.doing,
            context.budget("rewrite_limit_mb"),
            schema,
            name,
            tuple(ours),
            mapping,
            context,
            part,
            progress,
        )
        if labels_beside.is_swapped(removal):
            labels_beside.finish(removal)
            continue
        enum = removal.read()
        there = [label for label in (enum.labels if enum else ()) if label in ours]
        context.already += [label_text.word(schema, name, label) for label in ours if label not in there]
        if enum is None or not there:
            context.tell(f"type {removal.full} has no label of this version: nothing to remove")
            continue
        removal.keep_there(enum)
        if removal.is_large(enum) or labels_beside.is_begun(context.conn, enum):
            labels_beside.replace(removal, enum)
        else:
            _together(removal, enum)
    context.save("done", progress)
    return left


def _together(removal: Removal, seen: Enum) -> None:
    """One transaction: lock, map, refuse, rewrite every column that uses the type, give the new type the name."""
    conn = removal.context.conn

    def work(ending: list[str]) -> None:
        _lock(removal, seen)
        # Nobody may use a label between this look and the end.
        enum = enum_types.find(conn, removal.schema, removal.name)
        if enum is None or {table.oid for table in enum.tables} != {table.oid for table in seen.tables}:
            raise removal.refusal("other tables use the type by now", "Run it again.")
        removal.refuse_unfit(enum, beside=False)
        removal.run([_mapped(removal, table) for table in enum.tables if removal.mapping])
        removal.refuse_used(enum)
        removal.run(
            enum_statements.create_beside(enum, [label for label in enum.labels if label not in removal.labels])
        )
        removal.run(enum_statements.same_rights(conn, enum))
        removal.run(enum_statements.drop_policies(enum))
        for table in enum.tables:
            removal.run(_rewrite(enum, table))
        removal.run(enum_statements.take_name(enum))
        for table in enum.tables:
            removal.run(enum_statements.set_defaults(table))
            removal.run(enum_statements.add_checks(table, validate=True))
            for index in table.indexes:
                if index.texts:
                    removal.run([sql.SQL(index.definition), *enum_statements.comment_index(index)])
        removal.run(enum_statements.create_policies(enum))
        ending.append(labels_beside.saved(removal, swapped))

    swapped = {"tables": [[table.schema, table.name] for table in seen.tables], "checks": []}
    removal.refuse_unfit(seen, beside=False)
    removal.patiently(work, limit="statement_timeout_s", tables=seen.tables)
    removal.progress["swapped"] = swapped
    labels_beside.finish(removal)


def _lock(removal: Removal, enum: Enum) -> None:
    if enum.tables:
        names = sql.SQL(", ").join(table.identifier for table in enum.tables)
        removal.run([sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(names)])


def _mapped(removal: Removal, table: Table) -> sql.Composed:
    sets, wheres = [], []
    enum = sql.Identifier(removal.schema, removal.name)
    for column in table.columns:
        name = sql.Identifier(column.name)
        sets.append(sql.SQL("{} = ({})::{}").format(name, label_removal.case_of(name, removal.mapping), enum))
        wheres.append(sql.SQL("{} IN ({})").format(name, enum_statements.literals(sorted(removal.mapping))))
    return sql.SQL("UPDATE {} SET {} WHERE {}").format(
        table.identifier, sql.SQL(", ").join(sets), sql.SQL(" OR ").join(wheres)
    )


def _rewrite(enum: Enum, table: Table) -> list[sql.Composable]:
    new = sql.Identifier(enum.schema, enum_types.aside(enum.name))
    made: list[sql.Composable] = []
    for index in table.indexes:
        if index.texts:
            made.append(sql.SQL("DROP INDEX {}").format(sql.Identifier(index.schema, index.name)))
    for check in table.checks:
        made.append(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(table.identifier, sql.Identifier(check.name)))
    changes = []
    for column in table.columns:
        name = sql.Identifier(column.name)
        if column.default is not None:
            made.append(sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP DEFAULT").format(table.identifier, name))
        changes.append(sql.SQL("ALTER COLUMN {} TYPE {} USING {}::text::{}").format(name, new, name, new))
    made.append(sql.SQL("ALTER TABLE {} {}").format(table.identifier, sql.SQL(", ").join(changes)))
    return made
