# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Split SQL into statements with PostgreSQL's own grammar, and say what each one makes and removes.

A splitter of our own would stumble over dollar quotes, ``BEGIN ATOMIC`` bodies and nested comments; pglast wraps the
server's parser. It runs on the controller only: a database host needs psycopg2 and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding

# NAMEDATALEN - 1: the server cuts a longer name without an error, so that two long names may become one.
IDENTIFIER_BYTES = 63
DEFAULT_SCHEMA = "public"

# The names of pg_type against the names that format_type() prints; a definition is compared with the catalog's.
_SQL_TYPES = {
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "bool": "boolean",
    "varchar": "character varying",
    "bpchar": "character",
    "varbit": "bit varying",
    "timestamptz": "timestamp with time zone",
    "timestamp": "timestamp without time zone",
    "timetz": "time with time zone",
    "time": "time without time zone",
}
_CLOCK_FUNCTIONS = {
    "now",
    "clock_timestamp",
    "statement_timestamp",
    "transaction_timestamp",
    "timeofday",
    "age",
}
_CLOCK_WORDS = {"now", "today", "tomorrow", "yesterday"}
_CLOCK_TYPES = {"date", "time", "timetz", "timestamp", "timestamptz"}
_REFERENTIAL_ACTIONS = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


@dataclass(frozen=True)
class Statement:
    """One SQL statement of a migration, and the line of the template from which it came."""

    sql: str
    file: str
    line: int
    creates: dict[str, Any] | None = None
    destroys: dict[str, Any] | None = None
    # Of a backfill: which rows of its table it counts when it has run, see ``batch_bounds.Bounds.rows``.
    rows: str | None = None
    # The parsed statement, for lint. Not part of the plan that travels to the module.
    node: Any = field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """:return: the statement as plain data, as the apply module takes it."""
        return {
            "sql": self.sql,
            "file": self.file,
            "line": self.line,
            "creates": self.creates,
            "destroys": self.destroys,
            **({"rows": self.rows} if self.rows else {}),
        }


@lru_cache(maxsize=1)
def grammar() -> SimpleNamespace:
    """Load PostgreSQL's grammar.

    :raises PgopsError: if pglast is not installed for this Python, with the command that installs it.
    """
    try:
        from pglast import ast, enums, parser, stream
    except ImportError as exc:
        # Only here: the linter alone, as a hook before a commit, has no psycopg2, which the engine's errors know.
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

        raise PgopsError(
            f"The SQL of migrations is read with pglast, which {sys.executable} does not have: "
            f"{sys.executable} -m pip install 'pglast>=7,<9'",
            hint="make venv installs everything that the controller needs",
        ) from exc

    def text_of(node: Any) -> str:
        if isinstance(node, ast.A_Const) and isinstance(node.val, ast.Integer):
            return str(node.val.ival)
        # A stream keeps what it has printed: a new one for each node.
        return str(stream.RawStream()(node))

    return SimpleNamespace(ast=ast, enums=enums, parser=parser, print=text_of)


def quote(name: str) -> str:
    """:return: the name in double quotes where PostgreSQL would print it so (not a plain lower-case word)."""
    plain = name[:1].isalpha() or name[:1] == "_"
    if plain and name.isascii() and all(c.islower() or c.isdigit() or c in "_$" for c in name):
        return name
    return '"' + name.replace('"', '""') + '"'


def type_name(node: Any) -> str:
    """:return: a type as ``format_type()`` prints it under ``search_path = public``."""
    names: list[str] = [part.sval for part in node.names]
    if names[0] == "pg_catalog":
        names = names[1:]
    if len(names) == 2 and names[0] == DEFAULT_SCHEMA:
        names = names[1:]
    base = names[-1]
    arguments = [grammar().print(mod) for mod in node.typmods or ()]
    if len(names) == 1 and base == "interval":
        text = grammar().print(node).split("[", 1)[0].strip()
    elif len(names) == 1 and base in _SQL_TYPES:
        text = _SQL_TYPES[base]
        if arguments:
            head, _, tail = text.partition(" ")
            size = f"({','.join(arguments)})"
            # timestamp(3) with time zone, but character varying(200)
            text = f"{head}{size} {tail}" if tail.endswith("zone") else f"{text}{size}"
    else:
        text = ".".join(quote(name) for name in names) + (f"({','.join(arguments)})" if arguments else "")
    return f"{text}[]" if node.arrayBounds else text


def parse_expression(text: str) -> Any:
    """Parse one expression, e.g. a predicate of ``indexes.yml``.

    :return: its syntax tree.
    :raises ValueError: with PostgreSQL's message if it is not one expression.
    """
    g = grammar()
    try:
        (raw,) = g.parser.parse_sql("SELECT (" + text + "\n)")
        (target,) = raw.stmt.targetList
    except (g.parser.ParseError, ValueError, TypeError) as exc:
        message = exc.args[0] if isinstance(exc, g.parser.ParseError) else "not one expression"
        raise ValueError(str(message)) from None
    clauses = (raw.stmt.fromClause, raw.stmt.whereClause, raw.stmt.groupClause, target.name)
    if any(clause is not None for clause in clauses):
        raise ValueError("not one expression")
    return target.val


def walk(node: Any) -> Iterator[Any]:
    """:return: the node and everything beneath it, outermost first."""
    g = grammar()
    if isinstance(node, tuple):
        for item in node:
            yield from walk(item)
    elif isinstance(node, g.ast.Node):
        yield node
        for slot in node:
            yield from walk(getattr(node, slot))


def clock_use(node: Any) -> str | None:
    """Find what makes an expression depend on the time at which it is evaluated.

    PostgreSQL refuses such an index (42P17), or freezes ``'today'::date`` on the day of the build, which is worse.

    :return: the function or word as written, or None.
    """
    g = grammar()
    for item in walk(node):
        if isinstance(item, g.ast.SQLValueFunction):
            op = str(item.op.name)
            if any(word in op for word in ("DATE", "TIME")):
                return op.removeprefix("SVFOP_").removesuffix("_N")
        elif isinstance(item, g.ast.FuncCall):
            name = item.funcname[-1].sval
            if name in _CLOCK_FUNCTIONS and not (name == "age" and len(item.args or ()) != 1):
                return f"{name}()"
        elif isinstance(item, g.ast.TypeCast) and isinstance(item.arg, g.ast.A_Const):
            word = getattr(item.arg.val, "sval", None)
            kind = item.typeName.names[-1].sval
            if isinstance(word, str) and word.strip().lower() in _CLOCK_WORDS and kind in _CLOCK_TYPES:
                return f"'{word}'::{kind}"
    return None


def split(text: str, file: str, line_at: Callable[[int], int] | None = None) -> tuple[list[Statement], list[Finding]]:
    """Split rendered SQL into statements.

    :param text: the SQL.
    :param file: the template's name for messages, relative to the tree.
    :param line_at: the template's line for a character offset of ``text``; by default the line of ``text`` itself.
    :return: the statements, and the faults found. With a syntax error there are no statements.
    """
    g = grammar()
    locate = line_at or (lambda offset: text.count("\n", 0, offset) + 1)
    try:
        raw_statements = g.parser.parse_sql(text)
        tokens = g.parser.scan(text)
    except g.parser.ParseError as exc:
        return [], [_syntax_error(text, file, locate, exc)]
    findings = [
        Finding(file, locate(token.start), "identifier-length", _too_long(name))
        for token in tokens
        if token.name in ("IDENT", "UIDENT")
        and len((name := _identifier(text[token.start : token.end + 1])).encode()) > IDENTIFIER_BYTES
    ]
    statements = []
    for raw in raw_statements:
        start = raw.stmt_location or 0
        end = start + raw.stmt_len if raw.stmt_len else len(text)
        sql = text[start:end]
        start += len(sql) - len(sql.lstrip())
        line = locate(start)
        refusal = _refusal(raw.stmt)
        if refusal:
            findings.append(Finding(file, line, "statement-refused", refusal))
        statements.append(
            Statement(
                sql=sql.strip(),
                file=file,
                line=line,
                creates=_creates(raw.stmt),
                destroys=_destroys(raw.stmt),
                node=raw.stmt,
            )
        )
    return statements, findings


def parameters(statement: Statement) -> set[int]:
    """:return: the numbers of the ``$n`` parameters that a statement uses."""
    param = grammar().ast.ParamRef
    return {node.number for node in walk(statement.node) if isinstance(node, param)}


def identifier_fault(name: str) -> str | None:
    """:return: what is wrong with a name as an identifier, or None."""
    if not name or "\0" in name:
        return f"'{name}' is not a name"
    if len(name.encode()) > IDENTIFIER_BYTES:
        return _too_long(name)
    return None


def _too_long(name: str) -> str:
    return (
        f"the name '{name}' has {len(name.encode())} bytes and PostgreSQL cuts names at {IDENTIFIER_BYTES}; shorten it"
    )


def _identifier(token: str) -> str:
    if token.startswith('"'):
        return token[1:-1].replace('""', '"')
    return token


def _syntax_error(text: str, file: str, locate: Callable[[int], int], exc: Any) -> Finding:
    message, offset = exc.args[0], exc.args[1] if len(exc.args) > 1 else None
    end = max(len(text.rstrip()) - 1, 0)
    # The parser's offset lies beyond the text for some unterminated constructs.
    place = end if offset is None else min(offset, max(len(text) - 1, 0))
    if text[place : place + 1] == "\\":
        word = text[place:].split(None, 1)[0]
        return Finding(
            file,
            locate(place),
            "psql-command",
            f"{word} is a command of psql, not SQL; the server does not know it, so write the SQL itself",
        )
    return Finding(file, locate(place), "syntax", str(message))


def qualified_name(names: tuple[Any, ...]) -> tuple[str, str]:
    """:return: schema and name of what a statement names by its parts."""
    parts = [part.sval for part in names]
    return (parts[-2] if len(parts) > 1 else DEFAULT_SCHEMA), parts[-1]


def relation_name(node: Any) -> tuple[str, str]:
    """:return: schema and name of a relation that a statement names."""
    return node.schemaname or DEFAULT_SCHEMA, node.relname


def _refusal(node: Any) -> str | None:
    """:return: why a statement cannot stand in a sql step, and where it belongs; None if it can."""
    g = grammar()
    ast, enums = g.ast, g.enums
    if isinstance(node, ast.TransactionStmt):
        word = node.kind.name.removeprefix("TRANS_STMT_").replace("_", " ")
        return f"{word}: the engine opens and commits the transaction of a sql step; remove the statement"
    if isinstance(node, ast.IndexStmt) and node.concurrent:
        return "CREATE INDEX CONCURRENTLY cannot run in a transaction: declare the index in an 'indexes' step"
    if isinstance(node, ast.DropStmt) and node.concurrent:
        return (
            "DROP INDEX CONCURRENTLY cannot run in a transaction: the down of an 'indexes' step does it; "
            "in a sql step write DROP INDEX"
        )
    if isinstance(node, ast.ReindexStmt):
        return "REINDEX is maintenance, not a migration: run maintenance.yml"
    if isinstance(node, ast.VacuumStmt):
        if node.is_vacuumcmd:
            return "VACUUM cannot run in a transaction and is maintenance: run maintenance.yml"
        return "ANALYZE belongs into an 'analyze' step, which runs outside the transaction"
    if isinstance(node, (ast.CreatedbStmt, ast.DropdbStmt)):
        return "CREATE and DROP DATABASE cannot run in a transaction, and a migration changes one database only"
    if isinstance(node, (ast.CreateTableSpaceStmt, ast.DropTableSpaceStmt)):
        return "a tablespace belongs to the whole cluster and cannot be made in a transaction: create it by hand first"
    if isinstance(node, ast.AlterSystemStmt):
        return "ALTER SYSTEM changes the whole cluster and cannot run in a transaction: set it in the server's role"
    if isinstance(node, (ast.AlterDatabaseStmt, ast.AlterDatabaseSetStmt)):
        return "ALTER DATABASE is lost by a restore into another database: set it in the server's role"
    if isinstance(node, ast.CopyStmt):
        return "COPY needs a file or a client's data stream: write INSERT, or a 'backfill' step for many rows"
    if isinstance(node, ast.VariableSetStmt) and not node.is_local:
        return f"SET {node.name or 'ALL'} would outlive the step: use budgets in migration.yml, or SET LOCAL"
    if isinstance(node, ast.VariableSetStmt) and node.name in ("role", "session_authorization", "search_path"):
        return f"SET LOCAL {node.name} changes who acts or where: name the schema in the statement instead"
    if isinstance(node, ast.ExplainStmt):
        return "EXPLAIN changes nothing that stays, and with ANALYZE it runs a statement that no plan tells of: remove the EXPLAIN"
    if isinstance(node, (ast.PrepareStmt, ast.ExecuteStmt, ast.DeallocateStmt)):
        return "a prepared statement outlives the step, and no plan tells what its EXECUTE does: write the statement itself"
    if isinstance(node, ast.DiscardStmt):
        return "DISCARD drops the engine's session state, the lock of the run among it; remove the statement"
    if isinstance(node, ast.AlterTableStmt):
        for command in node.cmds or ():
            if command.subtype == enums.AlterTableType.AT_ValidateConstraint:
                return "VALIDATE CONSTRAINT belongs into a 'validate' step, outside the transaction that holds the lock"
            if command.subtype == enums.AlterTableType.AT_DetachPartition and command.def_.concurrent:
                return "DETACH PARTITION CONCURRENTLY cannot run in a transaction; write it without CONCURRENTLY"
    return None


def _column(node: Any) -> tuple[dict[str, Any], list[Any]]:
    """:return: a column as [name, type, not_null, default], and its constraints that stand for the table."""
    g = grammar()
    kinds = g.enums.ConstrType
    not_null, default, others = bool(node.is_not_null), None, []
    for constraint in node.constraints or ():
        if constraint.contype == kinds.CONSTR_NOTNULL:
            not_null = True
        elif constraint.contype == kinds.CONSTR_DEFAULT:
            default = g.print(constraint.raw_expr)
        elif constraint.contype == kinds.CONSTR_IDENTITY:
            not_null = True
        elif constraint.contype in (
            kinds.CONSTR_PRIMARY,
            kinds.CONSTR_UNIQUE,
            kinds.CONSTR_CHECK,
            kinds.CONSTR_FOREIGN,
        ):
            not_null = not_null or constraint.contype == kinds.CONSTR_PRIMARY
            others.append(constraint)
    column = {"name": node.colname, "type": type_name(node.typeName), "not_null": not_null, "default": default}
    return column, others


def _constraint(node: Any, table: str, column: str | None = None) -> dict[str, Any]:
    """:return: a constraint, under the name that PostgreSQL would give it if it has none."""
    g = grammar()
    kinds = g.enums.ConstrType
    entry: dict[str, Any] = {"name": node.conname, "not_valid": bool(node.skip_validation)}
    if node.contype == kinds.CONSTR_FOREIGN:
        columns = [part.sval for part in node.fk_attrs or ()] or [str(column)]
        schema, target = relation_name(node.pktable)
        entry |= {
            "type": "foreign_key",
            "columns": columns,
            "references": {
                "schema": schema,
                "table": target,
                "columns": [part.sval for part in node.pk_attrs or ()],
            },
            "on_update": _REFERENTIAL_ACTIONS[node.fk_upd_action],
            "on_delete": _REFERENTIAL_ACTIONS[node.fk_del_action],
        }
        suffix = "fkey"
    elif node.contype == kinds.CONSTR_CHECK:
        entry |= {"type": "check", "columns": [], "definition": g.print(node.raw_expr)}
        columns, suffix = [column] if column else [], "check"
    elif node.contype in (kinds.CONSTR_PRIMARY, kinds.CONSTR_UNIQUE):
        primary = node.contype == kinds.CONSTR_PRIMARY
        columns = [part.sval for part in node.keys or ()] or ([column] if column else [])
        entry |= {"type": "primary_key" if primary else "unique", "columns": columns, "index": node.indexname}
        suffix = "pkey" if primary else "key"
        columns = [] if primary else columns
    else:
        entry |= {"type": "exclusion", "columns": [], "definition": g.print(node)}
        columns, suffix = [], "excl"
    entry["name"] = entry["name"] or "_".join([table, *[str(name) for name in columns], suffix])
    return entry


def _index(node: Any) -> dict[str, Any]:
    """:return: an index in the shape of ``indexes.yml``."""
    g = grammar()
    schema, table = relation_name(node.relation)
    order, nulls = g.enums.SortByDir, g.enums.SortByNulls
    columns = []
    for element in node.indexParams or ():
        entry: dict[str, Any] = {"column": element.name} if element.name else {"expression": g.print(element.expr)}
        entry["opclass"] = ".".join(part.sval for part in element.opclass) if element.opclass else None
        entry["order"] = "desc" if element.ordering == order.SORTBY_DESC else None
        entry["nulls"] = {nulls.SORTBY_NULLS_FIRST: "first", nulls.SORTBY_NULLS_LAST: "last"}.get(
            element.nulls_ordering
        )
        columns.append(entry)
    return {
        "kind": "index",
        "schema": schema,
        "name": node.idxname,
        "table": table,
        "method": node.accessMethod or "btree",
        "unique": bool(node.unique),
        "columns": columns,
        "include": [element.name for element in node.indexIncludingParams or ()],
        "where": g.print(node.whereClause) if node.whereClause is not None else None,
    }


def _table(node: Any) -> dict[str, Any]:
    ast = grammar().ast
    schema, table = relation_name(node.relation)
    columns, constraints = [], []
    for element in node.tableElts or ():
        if isinstance(element, ast.ColumnDef):
            column, attached = _column(element)
            columns.append(column)
            constraints += [_constraint(item, table, element.colname) for item in attached]
        elif isinstance(element, ast.Constraint):
            constraints.append(_constraint(element, table))
    primary = {name for item in constraints if item["type"] == "primary_key" for name in item["columns"]}
    for column in columns:
        column["not_null"] = column["not_null"] or column["name"] in primary
    return {"kind": "table", "schema": schema, "name": table, "columns": columns, "constraints": constraints}


def _creates(node: Any) -> dict[str, Any] | None:
    """:return: the one object that a statement makes, with its definition; None if it makes none or several."""
    g = grammar()
    ast, enums = g.ast, g.enums
    if isinstance(node, ast.CreateStmt):
        # A temporary table is gone before anyone could compare it, LIKE and INHERITS hide columns.
        whole = all(isinstance(e, (ast.ColumnDef, ast.Constraint)) for e in node.tableElts or ())
        plain = node.relation.relpersistence != "t" and not node.inhRelations and not node.ofTypename and whole
        return _table(node) if plain else None
    if isinstance(node, ast.CreateEnumStmt):
        schema, name = qualified_name(node.typeName)
        return {"kind": "type", "schema": schema, "name": name, "labels": [label.sval for label in node.vals or ()]}
    if isinstance(node, ast.AlterEnumStmt) and node.oldVal is None:
        schema, name = qualified_name(node.typeName)
        neighbour = node.newValNeighbor
        return {
            "kind": "enum_value",
            "schema": schema,
            "type": name,
            "name": node.newVal,
            "before": neighbour if neighbour and not node.newValIsAfter else None,
            "after": neighbour if neighbour and node.newValIsAfter else None,
        }
    if isinstance(node, ast.IndexStmt):
        return _index(node) if node.idxname else None
    if isinstance(node, ast.AlterTableStmt):
        return _alter_creates(node)
    if isinstance(node, ast.CreateFunctionStmt):
        schema, name = qualified_name(node.funcname)
        modes = enums.FunctionParameterMode
        inputs = [p for p in node.parameters or () if p.mode not in (modes.FUNC_PARAM_OUT, modes.FUNC_PARAM_TABLE)]
        return {
            "kind": "function",
            "schema": schema,
            "name": name,
            "arguments": [type_name(parameter.argType) for parameter in inputs],
            "returns": type_name(node.returnType) if node.returnType else None,
            "replace": bool(node.replace),
        }
    if isinstance(node, ast.CreateTrigStmt):
        schema, table = relation_name(node.relation)
        return {
            "kind": "trigger",
            "schema": schema,
            "table": table,
            "name": node.trigname,
            "replace": bool(node.replace),
        }
    if isinstance(node, ast.CreatePolicyStmt):
        schema, table = relation_name(node.table)
        return {"kind": "policy", "schema": schema, "table": table, "name": node.policy_name}
    if isinstance(node, ast.CreateExtensionStmt):
        return {"kind": "extension", "schema": None, "name": node.extname}
    if isinstance(node, ast.CreateSchemaStmt):
        return {"kind": "schema", "schema": node.schemaname, "name": node.schemaname} if node.schemaname else None
    return None


def _alter_creates(node: Any) -> dict[str, Any] | None:
    g = grammar()
    subtype = g.enums.AlterTableType
    commands: tuple[Any, ...] = node.cmds or ()
    if node.objtype != g.enums.ObjectType.OBJECT_TABLE or len(commands) != 1:
        return None
    command = commands[0]
    schema, table = relation_name(node.relation)
    if command.subtype == subtype.AT_AddColumn:
        column, attached = _column(command.def_)
        return {
            "kind": "column",
            "schema": schema,
            "table": table,
            **column,
            "constraints": [_constraint(item, table, column["name"]) for item in attached],
        }
    if command.subtype == subtype.AT_AddConstraint:
        definition = _constraint(command.def_, table)
        return {"kind": "constraint", "schema": schema, "table": table, **definition}
    return None


def _destroys(node: Any) -> dict[str, Any] | None:
    """:return: what a statement removes; of several objects the first (lint asks for one a statement)."""
    g = grammar()
    ast, enums = g.ast, g.enums
    if isinstance(node, ast.TruncateStmt):
        schema, table = relation_name(node.relations[0])
        return {"kind": "rows", "schema": schema, "table": table, "name": table}
    emptied = deleted_from(node)
    if emptied:
        schema, table = emptied[0]
        return {"kind": "rows", "schema": schema, "table": table, "name": table}
    if isinstance(node, ast.AlterTableStmt):
        schema, table = relation_name(node.relation)
        kinds = {
            enums.AlterTableType.AT_DropColumn: "column",
            enums.AlterTableType.AT_DropConstraint: "constraint",
        }
        dropped = [command for command in node.cmds or () if command.subtype in kinds]
        # Of several, a column: it is the one that takes data with it.
        dropped.sort(key=lambda command: kinds[command.subtype] != "column")
        if dropped:
            first = dropped[0]
            return {"kind": kinds[first.subtype], "schema": schema, "table": table, "name": first.name}
        return None
    if isinstance(node, ast.DropStmt):
        return _drop(node)
    return None


def deleted_from(node: Any) -> list[tuple[str, str]]:
    """:return: schema and table of what a statement deletes rows of, be it in a WITH or by MERGE; each once."""
    g = grammar()
    ast, delete = g.ast, g.enums.CmdType.CMD_DELETE
    # The body of a function or rule is not run when it is made.
    run = (ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt, ast.CreateTableAsStmt)
    found = [
        relation_name(item.relation)
        for item in (walk(node) if isinstance(node, run) else ())
        if isinstance(item, ast.DeleteStmt)
        or (isinstance(item, ast.MergeStmt) and any(w.commandType == delete for w in item.mergeWhenClauses))
    ]
    return list(dict.fromkeys(found))


def _drop(node: Any) -> dict[str, Any] | None:
    kinds = grammar().enums.ObjectType
    target = node.objects[0]
    if node.removeType in (kinds.OBJECT_TRIGGER, kinds.OBJECT_POLICY):
        schema, table = qualified_name(target[:-1])
        kind = "trigger" if node.removeType == kinds.OBJECT_TRIGGER else "policy"
        return {"kind": kind, "schema": schema, "table": table, "name": target[-1].sval}
    if node.removeType == kinds.OBJECT_EXTENSION:
        return {"kind": "extension", "schema": None, "table": None, "name": target.sval}
    if node.removeType in (kinds.OBJECT_TYPE, kinds.OBJECT_DOMAIN):
        schema, name = qualified_name(target.names)
        return {"kind": "type", "schema": schema, "table": None, "name": name}
    if node.removeType in (kinds.OBJECT_FUNCTION, kinds.OBJECT_PROCEDURE, kinds.OBJECT_ROUTINE):
        schema, name = qualified_name(target.objname)
        return {"kind": "function", "schema": schema, "table": None, "name": name}
    if node.removeType in (kinds.OBJECT_TABLE, kinds.OBJECT_MATVIEW):
        schema, name = qualified_name(target)
        gone = {"kind": "table", "schema": schema, "table": name, "name": name}
        return {**gone, "materialized": True} if node.removeType == kinds.OBJECT_MATVIEW else gone
    if node.removeType == kinds.OBJECT_INDEX:
        schema, name = qualified_name(target)
        return {"kind": "index", "schema": schema, "table": None, "name": name}
    return None
