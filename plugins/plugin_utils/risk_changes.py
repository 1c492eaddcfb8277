# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the statements of a version are, in the words of the risk matrix; read with PostgreSQL's own grammar, DO blocks included.

What a version makes itself nobody uses yet: a constraint or a foreign key in it changes nothing that is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_lint.procedural import UNKNOWN, steps_of
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, relation_name, walk

Change = dict[str, str]
# What neither keeps anybody waiting nor changes what is there.
# Functions of the server that stand in migrations, unqualified; of any other nobody knows what it does.
_HARMLESS = frozenset({
    "count", "max", "min", "sum", "coalesce", "format", "now", "clock_timestamp", "generate_series", "setval", "currval", "nextval",
    "set_config", "current_setting", "to_regclass", "pg_sleep", "pg_notify", "pg_get_serial_sequence", "pg_advisory_xact_lock",
})  # fmt: skip
_QUIET = ("CommentStmt", "VariableSetStmt", "SelectStmt", "LockStmt", "CreateSchemaStmt", "CreateExtensionStmt")


def changes_of(migration: Mapping[str, Any]) -> list[Change]:
    """:param migration: rendered.
    :return: ``change`` (a key of ``risk.OF_CHANGE``) and ``object`` of each thing that its way up does, each once, in order."""
    reader = _Reader()
    for step in migration["steps"]:
        reader.step(step)
    return [dict(pair) for pair in dict.fromkeys(tuple(sorted(change.items())) for change in reader.found)]


class _Reader:
    """Goes through a version and remembers what it has made."""

    def __init__(self) -> None:
        self.found: list[Change] = []
        self._made: set[tuple[str, str]] = set()
        self._keys: set[str] = set()

    def step(self, step: Mapping[str, Any]) -> None:
        kind = step["kind"]
        if kind == "indexes":
            for index in step["indexes"]:
                self._add("concurrent index", str(index["name"]))
        elif kind == "backfill":
            self._rows((str(step.get("schema") or "public"), str(step["table"])))
        elif kind == "validate":
            for item in step["constraints"]:
                key = str(item["constraint"]) in self._keys
                self._add("foreign key" if key else "validation", str(item["constraint"]))
        elif kind == "analyze":
            self._add("statistics", "")
        else:
            for statement in step.get("up") or []:
                self._statements(str(statement["sql"]))

    def _add(self, change: str, named: str) -> None:
        self.found.append({"change": change, "object": named})

    def _rows(self, relation: tuple[str, str]) -> None:
        self._add("seed" if relation in self._made else "data", _named(relation))

    def _statements(self, sql: str) -> None:
        g = grammar()
        try:
            parsed = g.parser.parse_sql(sql)
        except (g.parser.ParseError, ValueError):
            self._add("unread", sql.split("\n", 1)[0][:60])
            return
        for raw in parsed:
            self._statement(raw.stmt, sql)

    def _statement(self, node: Any, sql: str) -> None:
        ast = grammar().ast
        handled = {
            ast.CreateStmt: self._table,
            ast.AlterTableStmt: self._alter,
            ast.IndexStmt: self._index,
            ast.DropStmt: self._drop,
            ast.RenameStmt: self._rename,
        }
        if type(node) in handled:
            handled[type(node)](node)
        elif isinstance(node, (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)):
            self._rows(relation_name(node.relation))
        elif isinstance(node, ast.TruncateStmt):
            for relation in node.relations:
                self._add("removal", f"all rows of {_named(relation_name(relation))}")
        elif isinstance(node, (ast.AlterEnumStmt, ast.CreateEnumStmt)):
            new = isinstance(node, ast.CreateEnumStmt)
            self._add("new object" if new else "enum", ".".join(part.sval for part in node.typeName))
        elif isinstance(node, ast.DoStmt):
            self._block(sql)
        else:
            self._other(node, sql)

    def _other(self, node: Any, sql: str) -> None:
        ast = grammar().ast
        if isinstance(node, ast.CreateTrigStmt):
            self._on(relation_name(node.relation), "trigger")
        elif isinstance(node, (ast.CreatePolicyStmt, ast.AlterPolicyStmt)):
            self._on(relation_name(node.table), "access")
        elif isinstance(node, (ast.GrantStmt, ast.GrantRoleStmt, ast.AlterDefaultPrivilegesStmt, ast.AlterOwnerStmt)):
            self._add("access", sql.split("\n", 1)[0][:60])
        elif isinstance(node, (ast.CreateTableAsStmt, ast.ViewStmt, ast.CreateSeqStmt, ast.CreateFunctionStmt)):
            self._add("new object", sql.split("(", 1)[0].split("\n", 1)[0][:60].strip())
        elif isinstance(node, ast.SelectStmt) and _writes(node):
            for relation in _writes(node):
                self._rows(relation)
        elif isinstance(node, ast.SelectStmt) and calls_unknown(node):
            self._add("unread", sql.split("\n", 1)[0][:60])
        elif type(node).__name__ in _QUIET or type(node).__name__.startswith("Create"):
            self._add("other", sql.split("\n", 1)[0][:60])
        else:
            self._add("unread", sql.split("\n", 1)[0][:60])

    def _on(self, relation: tuple[str, str], change: str) -> None:
        self._add("new object" if relation in self._made else change, _named(relation))

    def _table(self, node: Any) -> None:
        relation = relation_name(node.relation)
        self._made.add(relation)
        self._add("new object", _named(relation))

    def _index(self, node: Any) -> None:
        relation = relation_name(node.relation)
        name = node.idxname or f"an index of {_named(relation)}"
        concurrent = bool(node.concurrent) and relation not in self._made
        change = "concurrent index" if concurrent else "new object" if relation in self._made else "blocking index"
        self._add(change, name)

    def _drop(self, node: Any) -> None:
        kinds = grammar().enums.ObjectType
        for target in node.objects:
            parts = (
                target
                if isinstance(target, tuple)
                else getattr(target, "names", None) or getattr(target, "objname", ())
            )
            words = (
                ".".join(str(part.sval) for part in parts)
                if isinstance(parts, tuple)
                else str(getattr(target, "sval", ""))
            )
            if node.removeType == kinds.OBJECT_INDEX:
                self._add("concurrent index" if node.concurrent else "blocking index", words)
            elif node.removeType in (kinds.OBJECT_TRIGGER, kinds.OBJECT_RULE):
                self._add("trigger", words)
            elif node.removeType == kinds.OBJECT_POLICY:
                self._add("access", words)
            else:
                self._add("removal", f"{node.removeType.name.removeprefix('OBJECT_').lower()} {words}")

    def _rename(self, node: Any) -> None:
        relation = relation_name(node.relation) if node.relation is not None else None
        if relation is not None and relation in self._made:
            self._add("other", f"renames {_named(relation)}")
            return
        kind = node.renameType.name.removeprefix("OBJECT_").lower()
        quiet = kind in ("index", "tabconstraint", "trigger", "policy", "sequence", "function")
        named = _named(relation) if relation is not None else str(node.newname)
        self._add("constraint" if quiet else "restructuring", f"{named} (a {kind} is renamed)")

    def _block(self, sql: str) -> None:
        try:
            inside = steps_of(sql)
        except ValueError:
            self._add("unread", "a DO block")
            return
        for step in inside:
            if step.kind in ("commit", "rollback"):
                continue
            if UNKNOWN in step.text:
                self._add("unread", "a DO block with statements that are put together when it runs")
            else:
                self._inside(step.text)

    def _inside(self, sql: str) -> None:
        g = grammar()
        try:
            parsed = g.parser.parse_sql(sql)
        except (g.parser.ParseError, ValueError):
            # An expression of PL/pgSQL, or a variable of it in the place of a name.
            return
        for raw in parsed:
            if not isinstance(raw.stmt, g.ast.SelectStmt) or _writes(raw.stmt):
                self._statement(raw.stmt, sql)

    def _alter(self, node: Any) -> None:
        g = grammar()
        relation = relation_name(node.relation)
        if relation in self._made:
            self._add("new object", _named(relation))
            return
        if node.objtype == g.enums.ObjectType.OBJECT_SEQUENCE:
            self._add("other", f"alters the sequence {_named(relation)}")
            return
        for command in node.cmds or ():
            change, part = self._command(command)
            named = f"{_named(relation)}.{part}" if part else _named(relation)
            if change == "foreign key" and part:
                self._keys.add(part)
            self._add(change, named)

    def _command(self, command: Any) -> tuple[str, str]:
        """:return: what one part of an ALTER TABLE is, and of which column or constraint."""
        g = grammar()
        kinds, subtype = g.enums.AlterTableType, command.subtype
        name = str(
            command.name or getattr(command.def_, "colname", None) or getattr(command.def_, "conname", None) or ""
        )
        if subtype == kinds.AT_AddColumn:
            return self._column(command.def_)
        if subtype in (kinds.AT_AddConstraint, kinds.AT_DropConstraint):
            return _constraint(command, name)
        for change, members in _OF_COMMAND.items():
            if subtype.name in members:
                return change, name
        return "unread", name or subtype.name

    def _column(self, node: Any) -> tuple[str, str]:
        g = grammar()
        kinds = g.enums.ConstrType
        types = {constraint.contype for constraint in node.constraints or ()}
        if kinds.CONSTR_FOREIGN in types:
            return "foreign key", str(node.colname)
        if types & {kinds.CONSTR_PRIMARY, kinds.CONSTR_UNIQUE}:
            return "blocking index", str(node.colname)
        strict = types & {kinds.CONSTR_NOTNULL, kinds.CONSTR_IDENTITY, kinds.CONSTR_CHECK} or node.is_not_null
        return ("not null" if strict else "nullable column"), str(node.colname)


_OF_COMMAND: Mapping[str, Sequence[str]] = {
    "column removal": ("AT_DropColumn",),
    "not null": ("AT_SetNotNull",),
    "restructuring": ("AT_AlterColumnType", "AT_AttachPartition", "AT_DetachPartition", "AT_SetLogged", "AT_SetUnLogged",
                      "AT_AddInherit", "AT_DropInherit", "AT_SetAccessMethod", "AT_SetTableSpace"),
    "access": ("AT_EnableRowSecurity", "AT_DisableRowSecurity", "AT_ForceRowSecurity", "AT_NoForceRowSecurity", "AT_ChangeOwner"),
    "trigger": ("AT_EnableTrig", "AT_DisableTrig", "AT_EnableAlwaysTrig", "AT_EnableReplicaTrig", "AT_EnableTrigAll",
                "AT_DisableTrigAll", "AT_EnableTrigUser", "AT_DisableTrigUser", "AT_EnableRule", "AT_DisableRule"),
    "constraint": ("AT_AlterConstraint", "AT_ReplicaIdentity"),
    "validation": ("AT_ValidateConstraint",),
    "other": ("AT_ColumnDefault", "AT_DropNotNull", "AT_SetStatistics", "AT_SetStorage", "AT_SetOptions", "AT_ResetOptions",
              "AT_SetRelOptions", "AT_ResetRelOptions", "AT_DropExpression", "AT_SetIdentity", "AT_DropIdentity",
              "AT_SetCompression", "AT_CookedColumnDefault", "AT_ReplaceRelOptions"),
}  # fmt: skip


def _constraint(command: Any, name: str) -> tuple[str, str]:
    g = grammar()
    kinds = g.enums.ConstrType
    if command.subtype == g.enums.AlterTableType.AT_DropConstraint:
        # The statement does not say of which kind; platform names of foreign keys do.
        key = name.startswith("fk_") or name.endswith(("_fkey", "_fk"))
        return ("foreign key" if key else "constraint"), name
    kind = command.def_.contype
    if kind == kinds.CONSTR_FOREIGN:
        return "foreign key", name
    if kind == kinds.CONSTR_NOTNULL:
        return "not null", name
    if kind in (kinds.CONSTR_PRIMARY, kinds.CONSTR_UNIQUE, kinds.CONSTR_EXCLUSION):
        return ("constraint" if command.def_.indexname else "blocking index"), name
    return "constraint", name


def _writes(node: Any) -> list[tuple[str, str]]:
    """:return: the relations that a WITH of a query writes to."""
    ast = grammar().ast
    writing = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)
    return list(dict.fromkeys(relation_name(item.relation) for item in walk(node) if isinstance(item, writing)))


def calls_unknown(node: Any) -> bool:
    """:return: whether a query calls what may do anything: no function that the server brings along."""
    ast = grammar().ast
    names = [item.funcname for item in walk(node) if isinstance(item, ast.FuncCall)]
    return any(parts[0].sval != "pg_catalog" and parts[-1].sval not in _HARMLESS for parts in names)


def _named(relation: tuple[str, str]) -> str:
    return ".".join(relation)
