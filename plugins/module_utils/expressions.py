# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Expressions that one server prints in two ways, brought to one print."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.output_settings import pin
from psycopg2 import sql


class Reparser:
    """Prints an expression again after the server has parsed its own print of it.

    Everything happens on a temporary copy of the table, under the table's own name (a subquery in a policy refers to it
    by name), in a transaction that is rolled back: no lock but ACCESS SHARE on the table, no right but SELECT on it.
    """

    # Four rounds: two are the most that a print was seen to need.
    ROUNDS = 4

    WAYS: ClassVar[dict[tuple[str, str], str]] = {
        ("constraint", "definition"): "_constraint",
        ("domain constraint", "definition"): "_domain_constraint",
        ("type", "default"): "_domain_default",
        ("column", "default"): "_column_default",
        ("index", "definition"): "_index",
        ("policy", "using"): "_policy_using",
        ("policy", "check"): "_policy_check",
        ("view", "definition"): "_view",
        ("materialized view", "definition"): "_view",
        ("trigger", "definition"): "_trigger",
        ("rule", "definition"): "_rule",
        ("statistics", "definition"): "_statistics",
        ("table", "partition_key"): "_partition_key",
        ("function", "definition"): "_function",
        ("procedure", "definition"): "_function",
    }

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        self.cursor = conn.cursor()

    @classmethod
    @contextlib.contextmanager
    def on(cls, conn: Any) -> Iterator[Reparser]:
        """A re-parser on an idle connection; what it makes is rolled back at the end."""
        reparser = cls(conn)
        cursor = reparser.cursor
        cursor.execute("BEGIN" if conn.autocommit else "SAVEPOINT pgops_reparse")
        try:
            pin(cursor)
            yield reparser
        finally:
            if not conn.closed:
                cursor.execute("ROLLBACK" if conn.autocommit else "ROLLBACK TO SAVEPOINT pgops_reparse")
            cursor.close()

    @classmethod
    def knows(cls, kind: str, attribute: str) -> bool:
        """Whether this attribute of this kind of object is an expression."""
        return (kind, attribute) in cls.WAYS

    def stable(self, kind: str, attribute: str, definition: Mapping[str, Any]) -> Any:
        """The print that does not change any more, or None where the server does not take it."""
        way = getattr(self, self.WAYS[(kind, attribute)])
        text = definition[attribute]
        for _unused in range(self.ROUNDS):
            self.cursor.execute("SAVEPOINT pgops_expression")
            try:
                again = way(text, definition)
            except psycopg2.Error:
                return None
            finally:
                self.cursor.execute("ROLLBACK TO SAVEPOINT pgops_expression; RELEASE SAVEPOINT pgops_expression")
            if again == text:
                return text
            text = again
        return text

    def _print(self, query: sql.Composable, parameters: Sequence[Any] | None = None) -> Any:
        self.cursor.execute(query, parameters)
        return self.cursor.fetchone()[0]

    def _copy(self, definition: Mapping[str, Any], suffix: str = "") -> sql.Composed:
        """A temporary copy of the object's table; returns its name in SQL."""
        name = sql.SQL("pg_temp.{}").format(sql.Identifier(definition["table"]))
        self.cursor.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {})" + suffix).format(
                sql.Identifier(definition["table"]), sql.Identifier(definition["schema"], definition["table"])
            )
        )
        return name

    def _constraint(self, text: str, definition: Mapping[str, Any]) -> Any:
        copy = self._copy(definition)
        self.cursor.execute(sql.SQL("ALTER TABLE {} ADD CONSTRAINT pgops_expression ").format(copy) + sql.SQL(text))
        return self._print(
            sql.SQL("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'pgops_expression'")
        )

    def _domain_constraint(self, text: str, definition: Mapping[str, Any]) -> Any:
        self.cursor.execute(
            sql.SQL("CREATE DOMAIN pg_temp.pgops_domain AS {} CONSTRAINT pgops_expression {}").format(
                sql.SQL(definition["base"]), sql.SQL(text)
            )
        )
        return self._print(
            sql.SQL("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'pgops_expression'")
        )

    def _domain_default(self, text: str, definition: Mapping[str, Any]) -> Any:
        self.cursor.execute(
            sql.SQL("CREATE DOMAIN pg_temp.pgops_domain AS {} DEFAULT {}").format(
                sql.SQL(definition["base"]), sql.SQL(text)
            )
        )
        return self._print(
            sql.SQL(
                "SELECT coalesce(pg_get_expr(typdefaultbin, 0), typdefault) FROM pg_type"
                " WHERE oid = 'pg_temp.pgops_domain'::regtype"
            )
        )

    def _column_default(self, text: str, definition: Mapping[str, Any]) -> Any:
        copy = self._copy(definition)
        column = definition["column"]
        if definition.get("generated"):
            # A generated column cannot be altered into one: it is added anew, beside the copied plain columns.
            self.cursor.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN pgops_expression {} GENERATED ALWAYS AS ({}) STORED").format(
                    copy, sql.SQL(definition["type"]), sql.SQL(text)
                )
            )
            column = "pgops_expression"
        else:
            self.cursor.execute(
                sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}").format(
                    copy, sql.Identifier(column), sql.SQL(text)
                )
            )
        return self._print(
            sql.SQL(
                "SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef AS d JOIN pg_attribute AS a"
                " ON a.attrelid = d.adrelid AND a.attnum = d.adnum"
                " WHERE d.adrelid = {}::regclass AND a.attname = {}"
            ).format(sql.Literal(copy.as_string(self.conn)), sql.Literal(column))
        )

    def _index(self, text: str, definition: Mapping[str, Any]) -> Any:
        copy = self._copy(definition)
        head, using, tail = text.partition(" USING ")
        unique = " UNIQUE" if head.startswith("CREATE UNIQUE ") else ""
        self.cursor.execute(
            sql.SQL("CREATE" + unique + " INDEX pgops_expression ON {} USING ").format(copy) + sql.SQL(tail)
        )
        again = self._print(sql.SQL("SELECT pg_get_indexdef('pg_temp.pgops_expression'::regclass)"))
        return head + using + again.partition(" USING ")[2]

    def _policy(self, text: str, definition: Mapping[str, Any], clause: str, column: str) -> Any:
        copy = self._copy(definition)
        self.cursor.execute(
            sql.SQL("CREATE POLICY pgops_expression ON {} " + clause + " ({})").format(copy, sql.SQL(text))
        )
        return self._print(
            sql.SQL("SELECT pg_get_expr({}, polrelid) FROM pg_policy WHERE polname = 'pgops_expression'").format(
                sql.Identifier(column)
            )
        )

    def _policy_using(self, text: str, definition: Mapping[str, Any]) -> Any:
        return self._policy(text, definition, "USING", "polqual")

    def _policy_check(self, text: str, definition: Mapping[str, Any]) -> Any:
        return self._policy(text, definition, "WITH CHECK", "polwithcheck")

    def _view(self, text: str, definition: Mapping[str, Any]) -> Any:
        self.cursor.execute(sql.SQL("CREATE TEMPORARY VIEW pgops_expression AS ") + sql.SQL(text))
        return self._print(sql.SQL("SELECT pg_get_viewdef('pg_temp.pgops_expression'::regclass)"))

    def _plain(self, definition: Mapping[str, Any]) -> str:
        """The table's name as a definition prints it: quoted only where it must be."""
        return str(
            self._print(
                sql.SQL("SELECT quote_ident({}) || '.' || quote_ident({})").format(
                    sql.Literal(definition["schema"]), sql.Literal(definition["table"])
                )
            )
        )

    def _on_copy(self, text: str, definition: Mapping[str, Any], query: str) -> Any:
        """Runs a definition that names its table on a copy of it; ``query`` prints it again."""
        copy = self._copy(definition)
        plain = self._plain(definition)
        if plain not in text:
            raise psycopg2.ProgrammingError("the definition does not name its table")
        self.cursor.execute(sql.SQL(text.replace(plain, copy.as_string(self.conn), 1)))
        again = self._print(
            sql.SQL(
                "SELECT " + query + " JOIN pg_class AS c ON c.oid = x.relation"
                " WHERE c.relnamespace = pg_my_temp_schema()"
            )
        )
        # The server prints its own temporary schema under its alias.
        table = self._print(sql.SQL("SELECT quote_ident({})").format(sql.Literal(definition["table"])))
        return str(again).replace(f"pg_temp.{table}", plain, 1)

    def _trigger(self, text: str, definition: Mapping[str, Any]) -> Any:
        return self._on_copy(
            text,
            definition,
            "pg_get_triggerdef(x.oid)"
            " FROM (SELECT oid, tgrelid AS relation FROM pg_trigger WHERE NOT tgisinternal) AS x",
        )

    def _rule(self, text: str, definition: Mapping[str, Any]) -> Any:
        return self._on_copy(
            text, definition, "pg_get_ruledef(x.oid) FROM (SELECT oid, ev_class AS relation FROM pg_rewrite) AS x"
        )

    def _statistics(self, text: str, definition: Mapping[str, Any]) -> Any:
        copy = self._copy(definition)
        head, kinds_and_columns = text.split(" ON ", 1)
        columns = kinds_and_columns.rpartition(" FROM ")[0]
        kinds = head[head.index(" (") :] if head.endswith(")") and " (" in head else ""
        self.cursor.execute(
            sql.SQL("CREATE STATISTICS pg_temp.pgops_expression" + kinds + " ON ")
            + sql.SQL(columns)
            + sql.SQL(" FROM {}").format(copy)
        )
        again = self._print(
            sql.SQL("SELECT pg_get_statisticsobjdef(oid) FROM pg_statistic_ext WHERE stxname = 'pgops_expression'")
        )
        columns_again = again.split(" ON ", 1)[1].rpartition(" FROM ")[0]
        return head + " ON " + columns_again + " FROM " + kinds_and_columns.rpartition(" FROM ")[2]

    def _partition_key(self, text: str, definition: Mapping[str, Any]) -> Any:
        copy = self._copy(definition, " PARTITION BY " + text.replace("{", "{{").replace("}", "}}"))
        return self._print(
            sql.SQL("SELECT pg_get_partkeydef({}::regclass)").format(sql.Literal(copy.as_string(self.conn)))
        )

    def _function(self, text: str, definition: Mapping[str, Any]) -> Any:
        # Only a body that is stored parsed (BEGIN ATOMIC, RETURN) is printed from expressions.
        if not definition.get("sql_body"):
            return text
        head, parenthesis, tail = text.partition("(")
        verb = head.rpartition(" ")[0]
        self.cursor.execute(sql.SQL(verb + " pg_temp.pgops_expression" + parenthesis + tail))
        again = self._print(
            sql.SQL("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = pg_my_temp_schema()")
        )
        return head + parenthesis + str(again).partition("(")[2]
