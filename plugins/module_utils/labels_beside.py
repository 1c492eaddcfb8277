# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Take labels from an enum while clients read and write its tables, without rewriting them under a lock.

Beside each column of the type comes one of a new type without the labels, kept by a trigger; the rows are copied in
batches, a check proves that both are equal, the indexes are built on the new one, and one short transaction gives it the
names of the old. The catalog tells how far this came, so it goes on from wherever it was cut off. ALTER COLUMN ... TYPE
would keep every client out for as long as the rewrite takes (800,000 rows: 10 s, measured).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from dataclasses import replace as changed
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backfill,
    enum_statements,
    enum_types,
    index_build,
    label_removal,
    statistics,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.enum_types import Column, Enum, Index, Table, aside
from ansible_collections.whitecross.pgops.plugins.module_utils.label_removal import Going, Removal
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import rename_index, validate_constraint
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import errorcodes, sql

_LABELS = """
SELECT ARRAY(SELECT e.enumlabel::text FROM pg_enum AS e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) AS labels
  FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace WHERE n.nspname = %s AND t.typname = %s
"""
_COLUMNS = """
SELECT a.attname::text AS name, a.attnum AS number, n.nspname = %(schema)s AND t.typname = %(type)s AS ours
  FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid JOIN pg_namespace AS n ON n.oid = t.typnamespace
 WHERE a.attrelid = %(table)s AND a.attname = ANY (%(names)s) AND NOT a.attisdropped
"""
_CHECK = "SELECT k.convalidated AS validated FROM pg_constraint AS k WHERE k.conrelid = %s AND k.conname = %s"
_VALID = """
SELECT k.convalidated AS validated FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid
  JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s AND k.conname = %s
"""
_INDEX = """
SELECT pg_get_indexdef(c.oid) AS definition, i.indisvalid AS valid
  FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s
"""


def is_begun(conn: Connection, enum: Enum) -> bool:
    """:return: whether an earlier attempt went this way and was cut off."""
    return fetch_one(conn, _LABELS, (enum.schema, aside(enum.name))) is not None


def is_swapped(removal: Removal) -> bool:
    """:return: whether only what comes after the swap is to be done."""
    return "swapped" in removal.progress


def replace(removal: Removal, enum: Enum) -> None:
    """Go on from wherever an earlier attempt was cut off, to the end.

    Takes ACCESS EXCLUSIVE for moments, without reading a row; SHARE UPDATE EXCLUSIVE for the long work.

    :raises PgopsError: see :meth:`Removal.refuse_unfit` and :meth:`Removal.refuse_used`; nothing is changed then.
    """
    begun = is_begun(removal.conn, enum)
    removal.patiently(lambda _ending: removal.refuse_unfit(enum, beside=True, begun=begun), limit="index_timeout_s")
    for table in enum.tables:
        _beside(removal, table)
    removal.patiently(lambda _ending: removal.refuse_used(enum), limit="index_timeout_s")
    _make_type(removal, enum)
    for table in enum.tables:
        removal.context.control.check()
        _begin(removal, enum, table)
    # Rows that came between the first look and the trigger: told here by their ids, and no more can come.
    removal.patiently(lambda _ending: removal.refuse_used(enum), limit="index_timeout_s")
    for table in enum.tables:
        _copy(removal, table)
        _prove(removal, table)
        for index in table.indexes:
            removal.context.control.check()
            _build(removal, table, index)
    removal.context.control.check()
    _swap(removal, enum)
    finish(removal)


# --- beside -----------------------------------------------------------------------------------------------------------


def _make_type(removal: Removal, enum: Enum) -> None:
    kept = [label for label in enum.labels if label not in removal.labels]
    if _type_there(removal, kept):
        return

    def work(_ending: list[str]) -> None:
        removal.run(enum_statements.create_beside(enum, kept))
        removal.run(enum_statements.same_rights(removal.conn, enum))

    removal.patiently(work, limit="statement_timeout_s")


def _type_there(going: Going, kept: Sequence[str]) -> bool:
    found = fetch_one(going.conn, _LABELS, (going.schema, aside(going.name)))
    if found is not None and found["labels"] != kept:
        raise going.refusal(
            f"type {aside(going.name)} is there with other labels, ours of before the type got another label, or somebody's own",
            f"Drop it with the columns that use it, and the trigger {enum_types.trigger_name(0)[:-1]}… of their tables.",
            sqlstate=errorcodes.DUPLICATE_OBJECT,
        )
    return found is not None


def refuse_taken(going: Going, enum: Enum) -> None:
    """Call inside a transaction.

    :raises PgopsError: somebody has a name that something beside would have."""
    _type_there(going, [label for label in enum.labels if label not in going.labels])
    for table in enum.tables:
        _beside(going, table)
        for index in table.indexes:
            _index_built(going, table, index)


def _beside(removal: Going, table: Table) -> dict[str, int]:
    """:return: the columns beside that are there, by name, with their numbers."""
    given = {
        "schema": removal.schema,
        "type": aside(removal.name),
        "table": table.oid,
        "names": [aside(column.name) for column in table.columns],
    }
    found = fetch_all(removal.conn, _COLUMNS, given)
    for row in found:
        if not row["ours"]:
            raise removal.refusal(
                f"a column {table.full}.{row['name']} is there, and the one beside would have that name",
                "Rename it for the time, then run it again.",
                sqlstate=errorcodes.DUPLICATE_COLUMN,
            )
    return {str(row["name"]): int(row["number"]) for row in found}


def _begin(removal: Removal, enum: Enum, table: Table) -> None:
    """The columns beside, the trigger that keeps them, and the check that holds for new rows: one transaction."""
    conn, name = removal.conn, enum_types.trigger_name(table.oid)
    there = _beside(removal, table)
    checked = fetch_one(conn, _CHECK, (table.oid, name)) is not None
    if checked and len(there) == len(table.columns):
        return
    new = sql.Identifier(enum.schema, aside(enum.name))
    function = sql.Identifier(table.schema, name)
    columns = [sql.Identifier(aside(column.name)) for column in table.columns]
    statements: list[sql.Composable] = []
    if checked:
        # Another column came to use the type since: all of it anew.
        statements += _drop_trigger(table)
        statements += [
            sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(table.identifier, sql.Identifier(column))
            for column in there
        ]
    added = sql.SQL(", ").join(sql.SQL("ADD COLUMN {} {}").format(column, new) for column in columns)
    trigger = sql.Identifier(name)
    statements += [
        sql.SQL("ALTER TABLE {} {}").format(table.identifier, added),
        sql.SQL("CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS {}").format(
            function, sql.Literal(_body(removal, table))
        ),
        sql.SQL("CREATE TRIGGER {} BEFORE INSERT OR UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION {}()").format(
            trigger, table.identifier, function
        ),
        sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(table.identifier, trigger),
        sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK ({}) NOT VALID").format(
            table.identifier, trigger, sql.SQL(" AND ").join(_equal(column) for column in table.columns)
        ),
    ]
    removal.patiently(lambda _ending: removal.run(statements), limit="statement_timeout_s", tables=[table])


def _body(removal: Removal, table: Table) -> str:
    """The function of the trigger. It assigns text, so that no writer needs a right on the schema of the type."""
    parts = []
    for column in table.columns:
        old = sql.SQL("NEW.{}").format(sql.Identifier(column.name))
        if removal.unmapped:
            parts.append(
                sql.SQL(
                    "IF {}::text IN ({}) THEN RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = {} || {}::text; END IF;"
                ).format(
                    old,
                    enum_statements.literals(removal.unmapped),
                    sql.Literal(
                        f"{table.full}.{column.name} takes no label that is being removed from {removal.full}: "
                    ),
                    old,
                )
            )
        if removal.mapping:
            parts.append(
                sql.SQL("IF {}::text IN ({}) THEN {} := {}; END IF;").format(
                    old,
                    enum_statements.literals(sorted(removal.mapping)),
                    old,
                    label_removal.case_of(old, removal.mapping),
                )
            )
        parts.append(sql.SQL("NEW.{} := {}::text;").format(sql.Identifier(aside(column.name)), old))
    text = sql.SQL("BEGIN {} RETURN NEW; END").format(sql.SQL(" ").join(parts))
    return text.as_string(removal.conn)


def _equal(column: Column) -> sql.Composed:
    old, new = sql.Identifier(column.name), sql.Identifier(aside(column.name))
    if column.not_null:
        # SET NOT NULL reads no row where a valid check says this.
        return sql.SQL("{} IS NOT NULL AND {}::text = {}::text").format(new, new, old)
    return sql.SQL("{}::text IS NOT DISTINCT FROM {}::text").format(new, old)


def _drop_trigger(table: Table) -> list[sql.Composable]:
    name = enum_types.trigger_name(table.oid)
    return [
        sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(name), table.identifier),
        sql.SQL("DROP FUNCTION {}()").format(sql.Identifier(table.schema, name)),
    ]


# --- the rows ---------------------------------------------------------------------------------------------------------


@dataclass
class _Batches(StepContext):
    """The step as a backfill sees it: what that writes of its progress is a part of ours."""

    removal: Removal | None = None
    kept: dict[str, Any] = field(default_factory=dict)

    def saved(self, state: str, progress: Mapping[str, Any] | None = None) -> str:
        assert self.removal is not None
        self.kept.update(progress or {})
        self.kept["done"] = state == "done"
        return self.removal.context.saved("running", self.removal.all_progress)


def _copy(removal: Removal, table: Table) -> None:
    numbers = sorted(_beside(removal, table).values())
    all_kept = removal.progress.setdefault("batches", {})
    if all_kept.get(str(table.oid), {}).get("columns") != numbers:
        # Of columns that are gone: those of now have not been copied.
        all_kept[str(table.oid)] = {"columns": numbers}
    kept = all_kept[str(table.oid)]
    if kept.get("done"):
        return
    context = removal.context
    inner = _Batches(
        **{item.name: getattr(context, item.name) for item in fields(StepContext)}, removal=removal, kept=kept
    )
    inner.progress_so_far = dict(kept)
    key = sql.Identifier(str(table.key))
    names = [(sql.Identifier(column.name), sql.Identifier(aside(column.name))) for column in table.columns]
    # The trigger gives the value; a row that a client wrote meanwhile has it already.
    statement = sql.SQL("UPDATE {} SET {} WHERE {} BETWEEN $1 AND $2 AND ({})").format(
        table.identifier,
        sql.SQL(", ").join(sql.SQL("{} = NULL").format(new) for _, new in names),
        key,
        sql.SQL(" OR ").join(sql.SQL("{}::text IS DISTINCT FROM {}::text").format(old, new) for old, new in names),
    )
    backfill.run(
        inner,
        {"schema": table.schema, "table": table.name, "key": table.key},
        {"sql": statement.as_string(context.conn), "file": f"the copy of {table.full}", "line": 1},
    )


def _prove(removal: Removal, table: Table) -> None:
    """Validate the check: every row has the same label in both columns, and NOT NULL needs no scan later."""
    context, name = removal.context, enum_types.trigger_name(table.oid)
    found = fetch_one(context.conn, _CHECK, (table.oid, name))
    if found and found["validated"]:
        return
    _validate(removal, table.schema, table.name, name)


def _validate(removal: Removal, schema: str, table: str, name: str) -> None:
    statement = validate_constraint({"schema": schema, "table": table, "constraint": name})

    def work(_ending: list[str]) -> None:
        with removal.context.watched(f"validating {schema}.{table}.{name}", cancel=True):
            execute(removal.conn, statement)

    removal.patiently(work, limit="index_timeout_s")


# --- indexes ----------------------------------------------------------------------------------------------------------


def _build(removal: Removal, table: Table, index: Index) -> None:
    found = removal.patiently(lambda _ending: _index_built(removal, table, index), limit="statement_timeout_s")
    if found is not None and found["valid"]:
        return
    text = re.sub(r"^(CREATE (?:UNIQUE )?INDEX) ", r"\1 CONCURRENTLY ", _index_beside(removal, table, index))
    beside = {"schema": index.schema, "table": table.name, "name": aside(index.name), "statement": text}
    index_build.build_by_text(removal.context, beside)


def _index_built(going: Going, table: Table, index: Index) -> dict[str, Any] | None:
    fetch_one(going.conn, "SELECT set_config('search_path', 'pg_catalog', true)")
    found = fetch_one(going.conn, _INDEX, (index.schema, aside(index.name)))
    if found is not None and found["definition"] != _index_beside(going, table, index):
        raise going.refusal(
            f"index {index.schema}.{aside(index.name)} is there with another definition, and the one beside would have that name",
            "Rename or drop it, then run it again.",
            sqlstate=errorcodes.DUPLICATE_TABLE,
        )
    return found


def _index_beside(removal: Going, table: Table, index: Index) -> str:
    """:return: the definition of an index as the server prints it, under another name and on the columns beside."""

    def quoted(name: str) -> str:
        row = fetch_one(removal.conn, "SELECT quote_ident(%s) AS name", (name,))
        return str(row["name"]) if row else name

    head, rest = index.definition.split(" USING ", 1)
    before, name = quoted(index.name), quoted(aside(index.name))
    head = head.replace(f"INDEX {before} ON ", f"INDEX {name} ON ", 1)
    method, rest = rest.split(" (", 1)
    new = {quoted(column.name): quoted(aside(column.name)) for column in table.columns}
    return f"{head} USING {method} ({_renamed(rest, new)}"


_PART = re.compile(r""""(?:[^"]|"")*"|'(?:[^']|'')*'|[\w$]+|.""", re.DOTALL)


def _renamed(text: str, new: Mapping[str, str]) -> str:
    """:param text: the columns of an index and what follows, after the first parenthesis.
    :return: the same with other names for its plain columns: a name that begins an item of the first level. What stands
        deeper is an expression, which does not read these columns."""
    depth, listed, first, word, done = 1, True, True, "", []
    for part in _PART.findall(text):
        if part == "(":
            depth += 1
            if depth == 1:
                listed = first = word == "INCLUDE"
        elif part == ")":
            depth -= 1
        elif depth == 0 and not part.isspace():
            word = part
        elif depth == 1 and part == ",":
            first = listed
        elif depth == 1 and not part.isspace():
            part = new.get(part, part) if first else part
            first = False
        done.append(part)
    return "".join(done)


# --- the swap ---------------------------------------------------------------------------------------------------------


def _swap(removal: Removal, enum: Enum) -> None:
    """One transaction that reads no row: what is beside gets the names of the old."""
    swapped = {
        "tables": [[table.schema, table.name] for table in enum.tables],
        "checks": [
            [table.schema, table.name, check.name] for table in enum.tables for check in table.checks if check.validated
        ],
    }

    def work(ending: list[str]) -> None:
        names = sql.SQL(", ").join(table.identifier for table in enum.tables)
        if enum.tables:
            removal.run([sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(names)])
        _refuse_changed(removal, enum)
        removal.run(enum_statements.drop_policies(enum))
        for table in enum.tables:
            removal.run(_take_place(table))
            for column in table.columns:
                _name_not_null(removal, table, column)
                _name_in_indexes(removal, table, column)
        removal.run(enum_statements.take_name(enum))
        for table in enum.tables:
            removal.run(enum_statements.set_defaults(table))
            removal.run(enum_statements.add_checks(table, validate=False))
            for column in table.columns:
                removal.run(enum_statements.of_column(table, column))
        removal.run(enum_statements.create_policies(enum))
        ending.append(saved(removal, swapped))

    removal.patiently(work, limit="statement_timeout_s", tables=enum.tables)
    removal.progress.clear()
    removal.progress["swapped"] = swapped


def saved(removal: Removal, swapped: Mapping[str, Any]) -> str:
    """:return: the statement that ends the transaction in which the new type took the name."""
    everything = {**removal.all_progress, f"{removal.schema}.{removal.name}": {"swapped": swapped}}
    return removal.context.saved("running", everything)


def _refuse_changed(removal: Removal, enum: Enum) -> None:
    """Under the lock: what was made ready is still all that there is."""
    conn = removal.conn
    now = enum_types.find(conn, removal.schema, removal.name)
    ready = now is not None and _essence(now) == _essence(enum)
    for table in enum.tables:
        found = fetch_one(conn, _CHECK, (table.oid, enum_types.trigger_name(table.oid)))
        ready = ready and bool(found and found["validated"])
        for index in table.indexes:
            built = fetch_one(conn, _INDEX, (index.schema, aside(index.name)))
            ready = ready and bool(built and built["valid"])
    if not ready:
        raise removal.refusal(
            "something on the type or its tables was changed while the rows were copied",
            "Run it again: it is looked at anew, and what is copied stays.",
        )


def _essence(enum: Enum) -> Enum:
    return changed(enum, tables=tuple(changed(table, size=0) for table in enum.tables))


def _take_place(table: Table) -> list[sql.Composable]:
    alter = sql.SQL("ALTER TABLE {} ").format(table.identifier)
    made: list[sql.Composable] = [
        alter + sql.SQL("ALTER COLUMN {} SET NOT NULL").format(sql.Identifier(aside(column.name)))
        for column in table.columns
        if column.not_null
    ]
    made += _drop_trigger(table)
    made += [alter + sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(check.name)) for check in table.checks]
    # Its indexes, its default and the check that both are equal go with the old column.
    gone = sql.SQL(", ").join(sql.SQL("DROP COLUMN {}").format(sql.Identifier(column.name)) for column in table.columns)
    made.append(alter + gone)
    made += [
        alter
        + sql.SQL("RENAME COLUMN {} TO {}").format(sql.Identifier(aside(column.name)), sql.Identifier(column.name))
        for column in table.columns
    ]
    for index in table.indexes:
        made.append(rename_index(index.schema, aside(index.name), index.name))
        made += enum_statements.comment_index(index)
    return made


_NOT_NULL = """
SELECT k.conname::text AS name FROM pg_constraint AS k
  JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND k.conkey = ARRAY[a.attnum]
 WHERE k.conrelid = %s AND k.contype = 'n' AND a.attname = %s
"""


def _name_not_null(removal: Removal, table: Table, column: Column) -> None:
    """Since 18 NOT NULL has a name."""
    found = fetch_one(removal.conn, _NOT_NULL, (table.oid, column.name))
    if found and column.not_null_name and found["name"] != column.not_null_name:
        removal.run(
            [
                sql.SQL("ALTER TABLE {} RENAME CONSTRAINT {} TO {}").format(
                    table.identifier, sql.Identifier(found["name"]), sql.Identifier(column.not_null_name)
                )
            ]
        )


_IN_INDEXES = """
SELECT n.nspname::text AS schema, c.relname::text AS name
  FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_attribute AS a ON a.attrelid = c.oid
 WHERE i.indrelid = %s AND a.attname = %s ORDER BY 1, 2
"""


def _name_in_indexes(removal: Removal, table: Table, column: Column) -> None:
    """The columns of an index have names of their own, which follow no rename of the table's."""
    new = aside(column.name)
    removal.run(
        [
            sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(
                sql.Identifier(row["schema"], row["name"]), sql.Identifier(new), sql.Identifier(column.name)
            )
            for row in fetch_all(removal.conn, _IN_INDEXES, (table.oid, new))
        ]
    )


def finish(removal: Removal) -> None:
    """After the swap: the checks are valid again, and the planner knows the columns, whose statistics went."""
    context, swapped = removal.context, removal.progress["swapped"]
    for schema, table, name in swapped["checks"]:
        found = fetch_one(context.conn, _VALID, (schema, table, name))
        if found and not found["validated"]:
            _validate(removal, schema, table, name)

    def before(name: str) -> None:
        context.control.check()
        context.tell(f"analyzing {name}")

    tables = [(schema, table) for schema, table in swapped["tables"]]
    statistics.analyze(context.conn, tables, doing=context.doing, before=before, unproved=context.note)
