# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The SQL that makes an enum beside another, gives it the name, and puts back what stood on it under the same names."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection
from ansible_collections.whitecross.pgops.plugins.module_utils.enum_types import (
    Column,
    Enum,
    Index,
    Table,
    aside,
    rights,
)
from psycopg2 import sql


def literals(labels: Sequence[str]) -> sql.Composed:
    """:return: labels as a list of constants."""
    return sql.SQL(", ").join(map(sql.Literal, labels))


def create_beside(enum: Enum, kept: Sequence[str]) -> list[sql.Composable]:
    """:return: the statements that make the type without labels, under its other name; grants and owner not yet."""
    name = sql.Identifier(enum.schema, aside(enum.name))
    made: list[sql.Composable] = [sql.SQL("CREATE TYPE {} AS ENUM ({})").format(name, literals(kept))]
    if enum.comment is not None:
        made.append(sql.SQL("COMMENT ON TYPE {} IS {}").format(name, sql.Literal(enum.comment)))
    return made


def same_rights(conn: Connection, enum: Enum) -> list[sql.Composable]:
    """:return: the statements that give the new type the grants and the owner of the old one."""
    name = sql.Identifier(enum.schema, aside(enum.name))
    made: list[sql.Composable] = []
    # ALTER DEFAULT PRIVILEGES may have granted something that the old type does not grant.
    owner, given = rights(conn, enum.schema, aside(enum.name))
    for grantee, grantable in given:
        if (grantee, grantable) not in enum.grants:
            made.append(sql.SQL("REVOKE ALL ON TYPE {} FROM {}").format(name, _grantee(grantee)))
    for grantee, grantable in enum.grants:
        if (grantee, grantable) in given:
            continue
        option = sql.SQL(" WITH GRANT OPTION" if grantable else "")
        made.append(sql.SQL("GRANT USAGE ON TYPE {} TO {}{}").format(name, _grantee(grantee), option))
    if owner != enum.owner:
        made.append(sql.SQL("ALTER TYPE {} OWNER TO {}").format(name, sql.Identifier(enum.owner)))
    return made


def _grantee(name: str | None) -> sql.Composable:
    return sql.SQL("PUBLIC") if name is None else sql.Identifier(name)


def take_name(enum: Enum) -> list[sql.Composable]:
    """:return: the statements that drop the old type, which nothing uses any more, and give its name to the new one.

    No CASCADE: what came to use the type meanwhile stops this instead of being dropped."""
    new = sql.Identifier(enum.schema, aside(enum.name))
    return [
        sql.SQL("DROP TYPE {}").format(enum.identifier),
        sql.SQL("ALTER TYPE {} RENAME TO {}").format(new, sql.Identifier(enum.name)),
    ]


def drop_policies(enum: Enum) -> list[sql.Composable]:
    """:return: the statements that take away the policies, in the transaction that puts them back."""
    return [
        sql.SQL("DROP POLICY {} ON {}").format(sql.Identifier(item.name), sql.Identifier(item.schema, item.table))
        for item in enum.policies
    ]


def create_policies(enum: Enum) -> list[sql.Composable]:
    """:return: the statements that put them back."""
    made: list[sql.Composable] = []
    for item in enum.policies:
        made.append(sql.SQL(item.definition))
        if item.comment is not None:
            made.append(
                sql.SQL("COMMENT ON POLICY {} ON {} IS {}").format(
                    sql.Identifier(item.name), sql.Identifier(item.schema, item.table), sql.Literal(item.comment)
                )
            )
    return made


def set_defaults(table: Table) -> list[sql.Composable]:
    """:return: the statements that put back the defaults of the columns, when the new type has the name."""
    return [
        sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}").format(
            table.identifier, sql.Identifier(column.name), sql.SQL(column.default)
        )
        for column in table.columns
        if column.default is not None
    ]


def add_checks(table: Table, *, validate: bool) -> list[sql.Composable]:
    """:return: the statements that put back the checks; without ``validate`` all of them NOT VALID, which reads no row."""
    made: list[sql.Composable] = []
    for check in table.checks:
        late = "NOT ENFORCED" not in check.definition and not (check.validated and validate)
        made.append(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(
                table.identifier,
                sql.Identifier(check.name),
                sql.SQL(check.definition + (" NOT VALID" if late else "")),
            )
        )
        if check.comment is not None:
            made.append(
                sql.SQL("COMMENT ON CONSTRAINT {} ON {} IS {}").format(
                    sql.Identifier(check.name), table.identifier, sql.Literal(check.comment)
                )
            )
    return made


def comment_index(index: Index) -> list[sql.Composable]:
    """:return: the comment of an index that was built anew."""
    if index.comment is None:
        return []
    name = sql.Identifier(index.schema, index.name)
    return [sql.SQL("COMMENT ON INDEX {} IS {}").format(name, sql.Literal(index.comment))]


def of_column(table: Table, column: Column) -> list[sql.Composable]:
    """:return: the statements that give a column made anew what belongs to the column itself, the default apart."""
    name = sql.Identifier(column.name)
    made: list[sql.Composable] = [sql.SQL(statement) for statement in column.grants]
    if column.comment is not None:
        made.append(
            sql.SQL("COMMENT ON COLUMN {} IS {}").format(
                sql.Identifier(table.schema, table.name, column.name), sql.Literal(column.comment)
            )
        )
    alter = sql.SQL("ALTER TABLE {} ALTER COLUMN {} ").format(table.identifier, name)
    if column.statistics is not None:
        made.append(alter + sql.SQL("SET STATISTICS {}").format(sql.Literal(column.statistics)))
    if column.options:
        made.append(alter + sql.SQL("SET ({})").format(sql.SQL(", ".join(column.options))))
    return made
