# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The SQL of a migration's steps as it is sent and as it is shown, and what of the database a migration names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    attributes_before,
    begun_steps,
    existing,
    label_text,
    ledger,
    made_again,
    states_before,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.keyset import columns_of
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import RETRY_SQLSTATES, tables_in
from psycopg2 import sql

# Batches of 5,000 rows: 1.13 times one single UPDATE, worst client 15 ms instead of 3.9 s (measured).
DEFAULT_BATCH_SIZE = 5000
MAX_NAME_BYTES = 63


def schema_of(item: Mapping[str, Any]) -> str:
    """:return: the schema that an index, a constraint or a table of a migration is in."""
    return str(item.get("schema") or "public")


def create_index(index: Mapping[str, Any], *, concurrently: bool = True, schema: str | None = None) -> sql.Composed:
    """:param schema: another schema for the table, for a comparison.
    :return: CREATE INDEX. Expressions and the predicate are SQL of the reviewed tree, names are quoted."""
    columns = []
    for column in index["columns"]:
        part = (
            sql.SQL("({})").format(sql.SQL(column["expression"]))
            if column.get("expression")
            else sql.Identifier(column["column"])
        )
        if column.get("opclass"):
            part = sql.SQL(" ").join([part, sql.Identifier(*str(column["opclass"]).split("."))])
        if column.get("order"):
            part = sql.SQL(" ").join([part, sql.SQL("DESC" if str(column["order"]).lower() == "desc" else "ASC")])
        if column.get("nulls"):
            part = sql.SQL(" NULLS ").join(
                [part, sql.SQL("FIRST" if str(column["nulls"]).lower() == "first" else "LAST")]
            )
        columns.append(part)
    parts: list[sql.Composable] = [
        sql.SQL("CREATE UNIQUE INDEX" if index.get("unique") else "CREATE INDEX"),
        *([sql.SQL("CONCURRENTLY")] if concurrently else []),
        sql.Identifier(index["name"]),
        sql.SQL("ON"),
        sql.Identifier(schema or schema_of(index), index["table"]),
        sql.SQL("USING {} ({})").format(sql.Identifier(index.get("method") or "btree"), sql.SQL(", ").join(columns)),
    ]
    if index.get("include"):
        parts.append(sql.SQL("INCLUDE ({})").format(sql.SQL(", ").join(map(sql.Identifier, index["include"]))))
    if index.get("where"):
        parts.append(sql.SQL("WHERE {}").format(sql.SQL(index["where"])))
    return sql.SQL(" ").join(parts)


def aside(index: Mapping[str, Any]) -> dict[str, Any]:
    """:return: the index under the name that it is built with while another of its name still serves."""
    ending = "_pgops_new"
    kept = str(index["name"]).encode()[: MAX_NAME_BYTES - len(ending)].decode(errors="ignore")
    return {**index, "name": kept + ending}


def rename_index(schema: str, name: str, new_name: str) -> sql.Composed:
    """:return: ALTER INDEX ... RENAME TO."""
    return sql.SQL("ALTER INDEX {} RENAME TO {}").format(sql.Identifier(schema, name), sql.Identifier(new_name))


def drop_index(schema: str, name: str) -> sql.Composed:
    """:return: DROP INDEX CONCURRENTLY; without IF EXISTS, since the caller has looked."""
    return sql.SQL("DROP INDEX CONCURRENTLY {}").format(sql.Identifier(schema, name))


def validate_constraint(constraint: Mapping[str, Any]) -> sql.Composed:
    """:return: ALTER TABLE ... VALIDATE CONSTRAINT."""
    return sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(
        sql.Identifier(schema_of(constraint), constraint["table"]), sql.Identifier(constraint["constraint"])
    )


def up_text(conn: Connection, migration: Mapping[str, Any], row: ledger.Migration | None = None) -> str:
    """:return: the exact SQL of the way up, with a line of comment for each step; what is done or committed is named only."""
    begun = row.steps if row is not None and row.state in ("applying", "failed") else []
    done = {step.ordinal for step in begun if step.state == "done"}
    committed = {step.ordinal: begun_steps.committed_statements(step) for step in begun}
    lines = [f"-- {migration['version']} {migration['name']}: {migration.get('title') or ''}"]
    for ordinal, step in enumerate(migration["steps"], 1):
        lines.append(
            f"-- step {ordinal} of {len(migration['steps'])}: {step['kind']} {step.get('name') or ''}".rstrip()
        )
        if ordinal in done:
            lines.append("-- done already")
        elif step["kind"] == "sql":
            lines += _sql_text(conn, step, bool(migration.get("transaction", True)), committed.get(ordinal, 0))
        else:
            lines += _step_text(conn, step)
    return "\n".join(lines) + "\n"


def _sql_text(conn: Connection, step: Mapping[str, Any], one_transaction: bool, committed: int) -> list[str]:
    declared = [
        f"-- rows that {item['constraint']} finds without a parent, with migrate_orphans=placeholder: a parent "
        + ", ".join(f"{column} = {_value(conn, value)}" for column, value in item["row"].items())
        for item in begun_steps.placeholders_to_come(step, committed)
    ]
    text = [_terminated(statement) for statement in step["up"][committed:]]
    if one_transaction:
        return [*declared, "BEGIN;", *text, "COMMIT;"]
    past = [f"-- {begun_steps.first_statements(committed)} committed already"] if committed else []
    if not text:
        return ["-- all of its statements are committed already"]
    return [*past, *declared, "-- each in a transaction of its own", *text]


def _step_text(conn: Connection, step: Mapping[str, Any]) -> list[str]:
    kind = step["kind"]
    if kind == "indexes":
        return [line for index in step["indexes"] for line in _index_text(conn, index)]
    if kind == "backfill":
        size, first = step.get("batch_size") or DEFAULT_BATCH_SIZE, "" if step.get("adapt") is False else " at first"
        return [
            f"-- in batches of {size} rows{first} by key {', '.join(columns_of(step))}",
            _terminated(step["statement"]),
        ]
    if kind == "validate":
        return [validate_constraint(item).as_string(conn) + ";" for item in step["constraints"]]
    return [
        sql.SQL("ANALYZE {};").format(sql.Identifier(schema_of(item), str(item["table"]))).as_string(conn)
        for item in step["tables"]
    ]


def _value(conn: Connection, value: Any) -> str:
    # A line of comment ends with its line.
    return sql.Literal(value).as_string(conn).replace("\n", "\\n")


def _index_text(conn: Connection, index: Mapping[str, Any]) -> list[str]:
    if not index.get("replaces"):
        return [create_index(index).as_string(conn) + ";"]
    told = f"-- {index['name']} takes the place of the one that version {index['replaces']['version']} made"
    return [told, *_swap_text(conn, index)]


def _swap_text(conn: Connection, index: Mapping[str, Any]) -> list[str]:
    schema, new = schema_of(index), aside(index)
    parts = (create_index(new), drop_index(schema, index["name"]), rename_index(schema, new["name"], index["name"]))
    return [part.as_string(conn) + ";" for part in parts]


def down_text(
    conn: Connection,
    row: ledger.Migration,
    migration: Mapping[str, Any],
    standing: Mapping[str, Mapping[str, Any]] | None = None,
    rewrite_limit_mb: int | None = None,
    *,
    first: bool = True,
) -> str:
    """:param standing: the other versions that are in the database by then.
    :param first: no other version goes down before it.
    :param rewrite_limit_mb: in the place of what the version declares.
    :return: the exact SQL of the way down, steps in reverse order, as far as they left anything."""
    later = replacements([item for version, item in (standing or {}).items() if version > row.version])
    lines = [f"-- {row.version} {row.name}: way down"]
    made = constraints_made_by(migration)
    ran: list[Mapping[str, Any]] | None = [] if first else None
    for ordinal in range(len(migration["steps"]), 0, -1):
        step = migration["steps"][ordinal - 1]
        lines.append(
            f"-- step {ordinal} of {len(migration['steps'])}: {step['kind']} {step.get('name') or ''}".rstrip()
        )
        up = next((item for item in row.steps if item.ordinal == ordinal), None)
        if not needs_down(row, ordinal):
            lines.append("-- nothing to take back")
        elif step["kind"] == "sql" and step.get("labels"):
            limit = rewrite_limit_mb
            if limit is None:
                limit = (migration.get("budgets") or {}).get("rewrite_limit_mb")
            lines += label_text.down_text(conn, step, kept_objects(row, ordinal), limit)
        elif step["kind"] == "sql":
            kept, before = kept_objects(row, ordinal), states_before.down(migration, row)
            again = made_again.of(migration, step, kept, up.progress if up else {})
            lines.append("BEGIN;")
            for statement in step.get("down") or []:
                stays = _stays(conn, statement, kept, again, ran)
                lines += [f"-- {sentence}" for sentence in stays or []]
                if stays is None:
                    if ran is not None:
                        ran.append(statement)
                    rest = before.without(conn, statement)
                    lines += [f"-- {sentence}" for sentence in rest.told]
                    lines += [_terminated(rest.statement)] if rest.statement else []
                    firing = again.firing(statement)
                    lines += [f"{firing.as_string(conn)};"] if firing else []
            if up and step.get("down"):
                lines += [f"-- {sentence}" for sentence in attributes_before.told(up.progress)]
            lines += [
                f"-- {entry['rows']} row(s) are put back from {entry['quarantine']} into {entry['table']}"
                for entry in (up.progress if up else {}).get("quarantined", [])
            ]
            lines += [
                f"-- of {entry['rows']} placeholder(s) in {entry['table']} those go that nobody has changed or uses"
                for entry in (up.progress if up else {}).get("placeholders", [])
            ]
            lines.append("COMMIT;")
        elif step["kind"] == "indexes":
            progress = up.progress if up else {}
            built, replaced = set(progress.get("built", [])), progress.get("replaced", {})
            for index in reversed(step["indexes"]):
                schema = schema_of(index)
                name = f"{schema}.{index['name']}"
                if name in built and (schema, str(index["name"])) in later:
                    lines.append(f"-- {name} is as a later version makes it: it stays")
                elif name in replaced and index["replaces"]["version"] in (standing or {}):
                    lines.append(
                        f"-- {index['name']} as version {index['replaces']['version']} made it takes its place"
                    )
                    lines += _swap_text(conn, index["replaces"])
                elif name in built or name in replaced:
                    lines.append(drop_index(schema, index["name"]).as_string(conn) + ";")
        elif step["kind"] == "validate":
            validated = set((up.progress if up else {}).get("validated", []))
            for item in reversed(step["constraints"]):
                key = (schema_of(item), str(item["table"]), str(item["constraint"]))
                if ".".join(key) in validated and key not in made:
                    lines.append(f"-- {'.'.join(key)} is marked as not validated again")
        elif step["kind"] == "backfill" and step.get("down"):
            lines += [f"-- in batches by key {', '.join(columns_of(step))}", _terminated(step["down"])]
        elif step.get("irreversible"):
            lines.append(f"-- not taken back: {' '.join(str(step['irreversible']).split())}")
        else:
            lines.append("-- nothing to take back")
    return "\n".join(lines) + "\n"


def _stays(
    conn: Connection,
    statement: Mapping[str, Any],
    kept: Collection[str],
    again: made_again.MadeAgain,
    ran: Sequence[Mapping[str, Any]] | None,
) -> list[str] | None:
    """:param ran: what runs before it; None where that is not known.
    :return: what is told in the place of a statement that would drop what was there before, or make it again; None where it runs."""
    gone, made = existing.dropped(statement), made_again.makes(statement)
    drops = gone is not None and existing.describe(gone) in kept
    item = gone if drops else made
    word = existing.describe(item) if item else None
    if word is None or word not in kept:
        return None
    before, comment = f"{word} was there before this version", _terminated(statement).splitlines()
    if again.is_open(statement, ran):
        if drops:
            return [f"{before}: where it is another one by then, it is dropped and made again", *comment]
        if again.is_dropped_open(statement):
            return comment
        return [f"{before}: where it is another one by then than this one, the way down stops here", *comment]
    try:
        with ledger.transaction(conn):
            if drops:
                return None if again.is_to_go(conn, statement) else [f"{before}: it stays"]
            differences = again.differences(conn, statement)
    except (PgopsError, psycopg2.Error) as error:
        if isinstance(error, psycopg2.Error) and (error.pgcode is None or error.pgcode in RETRY_SQLSTATES):
            raise
        return [f"what becomes of it cannot be told now: {' '.join(str(error).split())}", *comment]
    if differences:
        return [f"stops: {before}, and is not as it would be made again: {line}" for line in differences]
    return None if differences is None else [f"{before}: it stays"]


def _terminated(statement: Mapping[str, Any]) -> str:
    text_ = str(statement["sql"]).rstrip()
    return text_ if text_.endswith(";") else text_ + ";"


def constraints_made_by(migration: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    """:return: (schema, table, name) of the constraints that its own statements add."""
    found = set()
    for step in migration["steps"]:
        for statement in step.get("up", []):
            made = statement.get("creates")
            if made and made["kind"] == "constraint":
                found.add((schema_of(made), str(made["table"]), str(made["name"])))
    return found


def needs_down(row: ledger.Migration, ordinal: int) -> bool:
    """:return: whether a step left anything that the way down must take back, and has not yet."""
    up = next((step for step in row.steps if step.ordinal == ordinal), None)
    down = next((step for step in row.down_steps if step.ordinal == ordinal), None)
    if row.state == "reverting" and down is not None and down.state == "done":
        return False
    # A step of SQL in one transaction that is not done left nothing; the others save progress as they go.
    return up is None or up.state == "done" or bool(up.progress)


def kept_objects(row: ledger.Migration, ordinal: int) -> set[str]:
    """:return: what a step of SQL found there, in the words of ``existing.describe``: its way down leaves that alone."""
    up = next((step for step in row.steps if step.ordinal == ordinal), None)
    progress = up.progress if up else {}
    return {*progress.get("skipped", []), *progress.get("there_before", [])}


def replacements(migrations: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """:return: what versions put in the place of an index of an earlier one, so that a database which has that already
    is no stranger to the version that made the index first."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for migration in migrations:
        for step in migration["steps"]:
            for index in step.get("indexes", []):
                if index.get("replaces"):
                    found.setdefault((schema_of(index), str(index["name"])), []).append(index)
    return found


def table_names(migrations: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """:return: (schema, table) of what they touch, each once, as far as their text tells."""
    names: list[tuple[str, str]] = []
    for migration in migrations:
        for step in migration["steps"]:
            found: list[tuple[str, str]] = []
            for statement in step.get("up", []):
                found += tables_in(str(statement["sql"]))
            for item in [*step.get("indexes", []), *step.get("constraints", []), *step.get("tables", [])]:
                found.append((schema_of(item), str(item["table"])))
            if step["kind"] == "backfill":
                found.append((schema_of(step), str(step["table"])))
            names += [name for name in dict.fromkeys(found) if name not in names]
    return names


def tables_of(migrations: Sequence[Mapping[str, Any]]) -> list[str]:
    """:return: the same as ``schema.table``."""
    return [f"{schema}.{table}" for schema, table in table_names(migrations)]
