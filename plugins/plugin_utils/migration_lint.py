# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a migration tree does that would hurt a running database, or that could not be undone, told without one.

Each rule is a function from the rendered tree to findings; docs/write-a-migration.md lists them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import sql_statements
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding, nearest
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration import METADATA
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_steps import CLOCK_ADVICE
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import (
    RenderedMigration,
    Tree,
    scan_render,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_lint import steps
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import Statement

Relation = tuple[str, str]

# How PostgreSQL 18 ends the name of a NOT NULL constraint, after table and column.
NOT_NULL_NAME = "_not_null"
COLUMN_OF_SERIAL = {
    "serial": "integer",
    "serial4": "integer",
    "bigserial": "bigint",
    "serial8": "bigint",
    "smallserial": "smallint",
    "serial2": "smallint",
}


def lint(
    tree: Tree,
    variables: Mapping[str, Any] | None = None,
    together: Collection[str] = (),
    small_tables: Collection[str] = (),
) -> list[Finding]:
    """Check a whole tree.

    :param tree: as ``migration_tree.scan_tree`` or ``read_tree`` gives it.
    :param variables: ``migrate_variables``.
    :param together: versions that are applied in one run: what an earlier one makes nobody uses yet in the later ones.
    :param small_tables: tables that are small in every database that the versions are for, each ``schema.name``: what hurts by size is a warning there.
    :return: the tree's own faults, those of its SQL, and what the rules find, sorted by place.
    """
    rendered, faults = scan_render(tree, variables)
    found = [*tree.findings, *faults]
    for rule in RULES:
        found.extend(rule(rendered))
    found.extend(steps.lint_steps(rendered, together, small_tables))
    return sorted(set(found))


def lint_statement(statement: Statement) -> list[Finding]:
    """Check one statement on a table that is in use, by the rules that need no more than it.

    :return: what the rules find that is more than a warning.
    """
    alone: Any = SimpleNamespace(steps=[{"kind": "sql", "up": [statement], "down": []}])
    named = [finding for finding in not_null_names([alone]) if finding.severity == "error"]
    return [*named, *steps.lint_statement(statement)]


# --- completeness -----------------------------------------------------------------------------------------------------


def verification_present(rendered: list[RenderedMigration]) -> Iterator[Finding]:
    """``verify-missing``: without a verification nobody notices that a migration did not do what it says."""
    for item in rendered:
        written = any(step["kind"] in ("sql", "backfill") for step in item.migration.steps)
        if written and item.migration.verify is None:
            yield Finding(
                item.migration.location(METADATA),
                1,
                "verify-missing",
                "there is no verify.sql.j2; write SELECTs that return one row (object, expected, found) a difference",
            )


def verification_columns(rendered: list[RenderedMigration]) -> Iterator[Finding]:
    """``verify-columns``: a difference is told as object, expected, found."""
    for item in rendered:
        for statement in item.verify:
            targets = getattr(statement.node, "targetList", None)
            # With a star the number of columns is known to the server only.
            if targets is not None and len(targets) != 3 and not _has_star(targets):
                yield _at(
                    statement,
                    "verify-columns",
                    f"a verification returns the three columns object, expected, found, this one returns {len(targets)}",
                )


def _has_star(targets: Any) -> bool:
    ast = _ast()
    return any(isinstance(t.val, ast.ColumnRef) and isinstance(t.val.fields[-1], ast.A_Star) for t in targets)


# --- keys and indexes ---------------------------------------------------------------------------------------------------


@dataclass
class _Key:
    """A foreign key, and where it was declared."""

    table: Relation
    columns: list[str]
    finding: Finding


@dataclass
class _Index:
    table: Relation
    columns: list[str | None]
    where: str | None
    definition: str = ""


class _Schema:
    """The foreign keys and indexes that stand after all ups, as far as statements declare them."""

    def __init__(self) -> None:
        self.keys: dict[tuple[Relation, str], _Key] = {}
        self.indexes: dict[Relation, _Index] = {}
        self.twice: list[Finding] = []

    def run(self, item: RenderedMigration) -> None:
        for source, step in zip(item.migration.steps, item.steps, strict=True):
            if step["kind"] == "sql":
                for statement in step["up"]:
                    self._destroy(statement)
                    self._create(statement)
            elif step["kind"] == "indexes":
                file = item.migration.location(source["file"])
                for index in source["indexes"]:
                    self._index(index, Finding(file, index["line"], "duplicate-index", ""))

    def _create(self, statement: Statement) -> None:
        made = statement.creates
        if made is None:
            return
        if made["kind"] == "index":
            self._index(made, _at(statement, "duplicate-index", ""))
        elif made["kind"] in ("table", "column"):
            table = (made["schema"], made["name"] if made["kind"] == "table" else made["table"])
            for constraint in made["constraints"]:
                self._constraint(table, constraint, statement)
        elif made["kind"] == "constraint":
            self._constraint((made["schema"], made["table"]), made, statement)

    def _constraint(self, table: Relation, constraint: dict[str, Any], statement: Statement) -> None:
        if constraint["type"] == "foreign_key":
            columns = constraint["columns"]
            listed = ", ".join(columns)
            finding = _at(
                statement,
                "foreign-key-index",
                f"the foreign key {constraint['name']} of {table[1]} has no index that leads with {listed}; "
                "without it deleting a parent scans the child, so add one",
            )
            self.keys[table, constraint["name"]] = _Key(table, columns, finding)
        elif constraint["type"] in ("primary_key", "unique") and constraint["columns"]:
            self.indexes[table[0], constraint["name"]] = _Index(table, list(constraint["columns"]), None)

    def _index(self, index: dict[str, Any], place: Finding) -> None:
        key = (index["schema"], index["name"])
        parts = ("method", "unique", "columns", "include", "where")
        definition = repr([index["table"], *[index.get(part) for part in parts]])
        # The same index once more is a version for databases that do not have it yet; the engine skips it elsewhere.
        # One that replaces it is looked at where it is rendered.
        if key in self.indexes and self.indexes[key].definition != definition and not index.get("replaces"):
            self.twice.append(
                Finding(
                    place.file,
                    place.line,
                    place.rule,
                    f"an index named '{index['name']}' exists already by then, with another definition",
                )
            )
        columns = [column.get("column") for column in index["columns"]]
        self.indexes[key] = _Index((index["schema"], index["table"]), columns, index["where"], definition)

    def _destroy(self, statement: Statement) -> None:
        gone = statement.destroys
        if gone is None:
            return
        schema, table, name = gone["schema"], gone["table"], gone["name"]
        if gone["kind"] == "index":
            self.indexes.pop((schema, name), None)
        elif gone["kind"] == "constraint":
            self.keys.pop(((schema, table), name), None)
            self.indexes.pop((schema, name), None)
        elif gone["kind"] == "table":
            self.keys = {key: value for key, value in self.keys.items() if value.table != (schema, name)}
            self.indexes = {key: value for key, value in self.indexes.items() if value.table != (schema, name)}
        elif gone["kind"] == "column":
            relation = (schema, table)
            self.keys = {k: v for k, v in self.keys.items() if v.table != relation or name not in v.columns}
            self.indexes = {k: v for k, v in self.indexes.items() if v.table != relation or name not in v.columns}

    def led(self, key: _Key) -> bool:
        """:return: whether an index leads with the key's columns, in whatever order, and covers every row."""
        wanted = set(key.columns)
        for index in self.indexes.values():
            leads = index.table == key.table and set(index.columns[: len(wanted)]) == wanted
            if leads and (index.where is None or _only_not_null(index.where, wanted)):
                return True
        return False


def _only_not_null(where: str, columns: set[str]) -> bool:
    """A row whose key is NULL has no parent, so leaving it out of the index costs nothing."""
    ast = _ast()
    try:
        node = sql_statements.parse_expression(where)
    except ValueError:
        return False
    return (
        isinstance(node, ast.NullTest)
        and node.nulltesttype.name == "IS_NOT_NULL"
        and isinstance(node.arg, ast.ColumnRef)
        and getattr(node.arg.fields[-1], "sval", None) in columns
    )


def foreign_key_indexes(rendered: list[RenderedMigration]) -> Iterator[Finding]:
    """``foreign-key-index``, ``duplicate-index``: looked at over the whole tree, an index may come in a later version."""
    schema = _Schema()
    for item in rendered:
        schema.run(item)
    yield from schema.twice
    for key in schema.keys.values():
        if not schema.led(key):
            yield key.finding


def foreign_key_rules(rendered: list[RenderedMigration]) -> Iterator[Finding]:
    """``foreign-key-rules``, ``foreign-key-types``: what happens to children is a decision, and both sides are compared as they are.

    NO ACTION is what one gets by saying nothing, and refuses like RESTRICT, so whoever wants that writes RESTRICT. Types
    are compared where the tree tells both.
    """
    declared = _Types()
    for _, _, statement in _ups(rendered):
        for table, constraint in declared.run(statement):
            unsaid = [word for word in ("on_update", "on_delete") if constraint[word] == "NO ACTION"]
            if unsaid:
                listed = " and ".join(word.replace("_", " ").upper() for word in unsaid)
                yield _at(
                    statement,
                    "foreign-key-rules",
                    f"the foreign key {constraint['name']} of {table[1]} does not say what happens {listed}: "
                    "write CASCADE, SET NULL or RESTRICT",
                )
            target = (constraint["references"]["schema"], constraint["references"]["table"])
            theirs = constraint["references"]["columns"] or declared.primary.get(target, [])
            for column, other in zip(constraint["columns"], theirs, strict=False):
                here, there = declared.of(table, column), declared.of(target, other)
                if here and there and here != there:
                    yield _at(
                        statement,
                        "foreign-key-types",
                        f"the foreign key {constraint['name']} joins {table[1]}.{column} ({here}) to {target[1]}.{other} "
                        f"({there}): give both the same type",
                    )


class _Types:
    """The types of columns, as far as statements tell them; what is changed in another way is forgotten."""

    def __init__(self) -> None:
        self.columns: dict[Relation, dict[str, str]] = {}
        self.primary: dict[Relation, list[str]] = {}

    def of(self, table: Relation, column: str) -> str | None:
        found = self.columns.get(table, {}).get(column)
        return COLUMN_OF_SERIAL.get(found, found) if found else None

    def run(self, statement: Statement) -> Iterator[tuple[Relation, dict[str, Any]]]:
        """:return: the foreign keys that the statement declares, each with its table."""
        node, made, gone = statement.node, statement.creates, statement.destroys
        if gone and gone["kind"] in ("table", "column"):
            self._forget((gone["schema"], gone["name"] if gone["kind"] == "table" else gone["table"]))
        changed = isinstance(node, _ast().AlterTableStmt) and any(
            command.subtype == _enums().AlterTableType.AT_AlterColumnType for command in node.cmds or ()
        )
        if changed or (isinstance(node, _ast().RenameStmt) and node.relation is not None):
            self._forget(sql_statements.relation_name(node.relation))
        if made is None or made["kind"] not in ("table", "column", "constraint"):
            return
        table = (made["schema"], made["name"] if made["kind"] == "table" else made["table"])
        constraints = [made] if made["kind"] == "constraint" else made["constraints"]
        if made["kind"] == "table":
            self.columns[table] = {column["name"]: column["type"] for column in made["columns"]}
        elif made["kind"] == "column":
            self.columns.setdefault(table, {})[made["name"]] = made["type"]
        for constraint in constraints:
            if constraint["type"] == "primary_key":
                self.primary[table] = constraint["columns"]
        for constraint in constraints:
            if constraint["type"] == "foreign_key":
                yield table, constraint

    def _forget(self, table: Relation) -> None:
        self.columns.pop(table, None)
        self.primary.pop(table, None)


def index_clock(rendered: list[RenderedMigration]) -> Iterator[Finding]:
    """``index-clock`` in CREATE INDEX statements; ``indexes.yml`` is checked where it is read."""
    for _, _, statement in _ups(rendered):
        node = statement.node
        if isinstance(node, _ast().IndexStmt):
            clock = sql_statements.clock_use((node.whereClause, node.indexParams))
            if clock:
                yield _at(statement, "index-clock", f"the index uses {clock}: {CLOCK_ADVICE}")


# --- constraints and columns ------------------------------------------------------------------------------------------


def not_null_names(rendered: list[RenderedMigration]) -> Iterator[Finding]:
    """``not-null-name``: since 18 NOT NULL is a constraint too, with a name that the server makes; no two have one name."""
    for _, _, statement in _ups(rendered):
        made = statement.creates
        if made is None or made["kind"] not in ("table", "column", "constraint"):
            continue
        table = made["name"] if made["kind"] == "table" else made["table"]
        for constraint in [made] if made["kind"] == "constraint" else made["constraints"]:
            name = constraint["name"]
            if name.startswith(f"{table}_") and name.endswith(NOT_NULL_NAME):
                yield _at(
                    statement,
                    "not-null-name",
                    f"{name} is what PostgreSQL 18 calls the NOT NULL of a column of {table}, and taken where the column has "
                    f"one: call it {name.removesuffix(NOT_NULL_NAME)}_required",
                )


# --- care -------------------------------------------------------------------------------------------------------------


def destructive_ups(rendered: list[RenderedMigration]) -> Iterator[Finding]:
    """``destructive``: what takes data away in an up must say so in its risk, which the gate and the plan read."""
    for item, _, statement in _ups(rendered):
        gone = statement.destroys
        if not gone or gone["kind"] not in ("table", "column", "rows") or item.migration.risk in ("high", "critical"):
            continue
        if (gone["schema"], gone["table"]) in _own_tables(item):
            continue
        what = {"table": "drops the table", "column": f"drops {gone['name']} of", "rows": "removes rows of"}
        yield _at(
            statement,
            "destructive",
            f"the up {what[gone['kind']]} {gone['table']} while its risk is '{item.migration.risk}'; "
            "declare risk: high (or critical), so that nobody is surprised",
        )


def one_object_a_drop(rendered: list[RenderedMigration]) -> Iterator[Finding]:
    """``one-drop``: the plan names what each statement takes away, and can only name one object for one statement."""
    ast = _ast()
    for item in rendered:
        for step in item.steps:
            for statement in [*(step.get("up") or []), *(step["down"] if step["kind"] == "sql" else [])]:
                node = statement.node
                many = (isinstance(node, ast.DropStmt) and len(node.objects) > 1) or (
                    isinstance(node, ast.TruncateStmt) and len(node.relations) > 1
                )
                if many:
                    yield _at(statement, "one-drop", "drop or truncate one object a statement, so that each is named")
                if isinstance(node, ast.AlterTableStmt) and len(node.cmds) > 1 and statement.destroys:
                    yield _at(
                        statement,
                        "one-drop",
                        f"drop the {statement.destroys['kind']} {statement.destroys['name']} in an ALTER TABLE of its own: where it was "
                        "there before, or is gone already, that one is passed over and no other",
                    )
                if len(sql_statements.deleted_from(node)) > 1:
                    yield _at(statement, "one-drop", "delete rows of one table a statement, so that each is named")
                if getattr(node, "behavior", None) == _enums().DropBehavior.DROP_CASCADE and isinstance(
                    node, (ast.DropStmt, ast.TruncateStmt)
                ):
                    yield _at(
                        statement,
                        "cascade",
                        "CASCADE takes whatever stands on the object with it, unseen; drop the dependents by name",
                    )


def if_not_exists(rendered: list[RenderedMigration]) -> Iterator[Finding]:
    """``if-not-exists``: it takes an object of another definition, or an INVALID index, for done."""
    ast, subtype = _ast(), _enums().AlterTableType
    for _, _, statement in _ups(rendered):
        node = statement.node
        if isinstance(node, ast.AlterTableStmt):
            found = any(c.subtype == subtype.AT_AddColumn and c.missing_ok for c in node.cmds or ())
        else:
            found = isinstance(node, (ast.CreateStmt, ast.IndexStmt)) and bool(node.if_not_exists)
        if found:
            yield _at(
                statement,
                "if-not-exists",
                "IF NOT EXISTS passes over an object with another definition; leave it out, the engine compares and "
                "skips what is already there and equal",
                "warning",
            )


def validations(rendered: list[RenderedMigration]) -> Iterator[Finding]:
    """``not-validated``, ``validate-unknown``: what is added NOT VALID is validated, under its right name."""
    waiting: dict[tuple[Relation, str], Finding] = {}
    tables: set[Relation] = set()
    names: set[tuple[Relation, str]] = set()
    for item in rendered:
        tables |= _own_tables(item)
        for source, step in zip(item.migration.steps, item.steps, strict=True):
            for statement in step["up"] if step["kind"] == "sql" else []:
                made = statement.creates or {}
                if made.get("kind") == "table":
                    names |= {((made["schema"], made["name"]), c["name"]) for c in made["constraints"]}
                elif made.get("kind") == "column":
                    names |= {((made["schema"], made["table"]), c["name"]) for c in made["constraints"]}
                elif made.get("kind") == "constraint":
                    key = ((made["schema"], made["table"]), made["name"])
                    names.add(key)
                    if made["not_valid"]:
                        waiting[key] = _at(
                            statement,
                            "not-validated",
                            f"the constraint {made['name']} is added NOT VALID and no 'validate' step names it",
                        )
                gone = statement.destroys or {}
                if gone.get("kind") == "constraint":
                    waiting.pop(((gone["schema"], gone["table"]), gone["name"]), None)
            for constraint in step.get("constraints", []):
                key = ((constraint["schema"], constraint["table"]), constraint["constraint"])
                waiting.pop(key, None)
                if key[0] in tables and key not in names:
                    yield Finding(
                        item.migration.location(METADATA),
                        source["line"],
                        "validate-unknown",
                        f"no migration adds a constraint '{constraint['constraint']}' to {constraint['table']}"
                        + nearest(constraint["constraint"], [name for table, name in names if table == key[0]]),
                    )
    yield from waiting.values()


def rows_apart(rendered: list[RenderedMigration]) -> Iterator[Finding]:
    """``data-apart``: rows that change in the transaction of DDL hold its locks for as long as they take."""
    ast = _ast()
    rows = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)
    for item in rendered:
        for step in item.steps:
            statements = step["up"] if step["kind"] == "sql" else []
            changing = [statement for statement in statements if isinstance(statement.node, rows)]
            made = {_named(s.creates) for s in statements if s.creates and s.creates["kind"] == "table"}
            if len(changing) == len(statements):
                continue
            for statement in changing:
                if sql_statements.relation_name(statement.node.relation) not in made:
                    yield _at(
                        statement,
                        "data-apart",
                        "rows change in one step with the schema; give them a step of their own, a 'backfill' where they are many",
                        "warning",
                    )


# --- shared -----------------------------------------------------------------------------------------------------------


def _ast() -> Any:
    return sql_statements.grammar().ast


def _enums() -> Any:
    return sql_statements.grammar().enums


def _at(statement: Statement, rule: str, message: str, severity: str = "error") -> Finding:
    return Finding(statement.file, statement.line, rule, message, severity)


def _named(made: Mapping[str, Any]) -> Relation:
    return made["schema"], made["name"]


def _ups(rendered: list[RenderedMigration]) -> Iterator[tuple[RenderedMigration, dict[str, Any], Statement]]:
    for item in rendered:
        for step in item.steps:
            for statement in step["up"] if step["kind"] == "sql" else []:
                yield item, step, statement


def _own_tables(item: RenderedMigration) -> set[Relation]:
    """:return: the tables that this migration creates: nobody uses them yet, nothing on them blocks."""
    made = set()
    for step in item.steps:
        for statement in step["up"] if step["kind"] == "sql" else []:
            node = statement.node
            if isinstance(node, _ast().CreateStmt):
                made.add(sql_statements.relation_name(node.relation))
            elif isinstance(node, _ast().CreateTableAsStmt):
                made.add(sql_statements.relation_name(node.into.rel))
    return made


RULES: tuple[Callable[[list[RenderedMigration]], Iterator[Finding]], ...] = (
    verification_present,
    verification_columns,
    foreign_key_indexes,
    foreign_key_rules,
    index_clock,
    not_null_names,
    destructive_ups,
    one_object_a_drop,
    if_not_exists,
    rows_apart,
    validations,
)
