# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rows without a parent, where a foreign key is to be added: counted before and told by id, moved to quarantine, or given a
placeholder for a parent.

A quarantine is a table in the ledger's schema with the columns of the child. The rows go there in the transaction that
adds the foreign key, and come back in the one that drops it. A placeholder is a row of the parent that the version
declares; a table in the ledger's schema keeps how it was made, so that the way down takes away what nobody changed or uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import existing, integrity, locks
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import execute, fetch_all, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.quarantine import COMMON_COLUMNS, put_back
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import errorcodes, sql

SCHEMA = "pgops"
# The event in the audit.
SETTLED = "orphans_settled"
STOP, QUARANTINE, PLACEHOLDER = CHOICES = ("stop", "quarantine", "placeholder")
# What a text of a declared placeholder may hold: the key that the parent is missing under.
KEY_WORD = "{key}"

# Both tables with all columns of the key, or no row: before the step that adds a column there is nothing to count.
_TABLES = """
SELECT c.relkind::text AS kind, p.relkind::text AS target_kind,
       (SELECT array_agg(a.attname::text ORDER BY key.place) FROM pg_index i
          CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS key (number, place)
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = key.number
         WHERE i.indrelid = p.oid AND i.indisprimary) AS target_columns,
       (SELECT array_agg(a.attname::text ORDER BY key.place) FROM pg_index i
          CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS key (number, place)
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = key.number
          JOIN pg_type t ON t.oid = a.atttypid AND t.typname IN ('int2', 'int4', 'int8', 'uuid')
         WHERE i.indrelid = c.oid AND i.indisprimary HAVING count(*) = max(i.indnkeyatts)) AS identity
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN pg_class p JOIN pg_namespace pn ON pn.oid = p.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND pn.nspname = %(target_schema)s AND p.relname = %(target)s
   AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = ANY(%(columns)s)
           AND NOT a.attisdropped) = cardinality(%(columns)s)
"""
_FOREIGN_KEYS_TO = """
SELECT k.confdeltype IN ('c', 'n', 'd') AS follows, n.nspname::text AS schema, c.relname::text AS table, k.conname::text AS name,
       (SELECT array_agg(a.attname::text ORDER BY place) FROM unnest(k.conkey) WITH ORDINALITY AS key (number, place)
          JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = key.number) AS columns,
       (SELECT array_agg(a.attname::text ORDER BY place) FROM unnest(k.confkey) WITH ORDINALITY AS key (number, place)
          JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = key.number) AS target_columns
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
 WHERE k.contype = 'f' AND k.conparentid = 0
   AND pn.nspname = %s AND p.relname = %s
"""
_TYPES = """
SELECT a.attname::text AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
"""


def refuse(context: StepContext, statements: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """Look for orphans of each foreign key that the statements add, before any of them runs.

    Takes ACCESS SHARE on both tables.

    :return: by position the keys whose orphans :func:`settle` is to take care of.
    :raises PgopsError: there are orphans, and nobody said what is to become of them.
    """
    found = {}
    for number, statement in enumerate(statements):
        made = statement.get("creates")
        if not made or made["kind"] != "constraint" or made.get("type") != "foreign_key":
            continue
        key = _key(context, made)
        if key is None or existing.present(context.conn, [made]):
            continue
        with context.watched(f"counting rows of {key['table']} without a parent", cancel=True):
            count, ids = integrity.count_orphans(context.conn, key)
        key["placeholder"] = context.placeholders.get(str(made["name"]))
        asked = context.orphans == QUARANTINE or (context.orphans == PLACEHOLDER and key["placeholder"] is not None)
        if count and not asked:
            raise _error(context, key, count, ids, existing.location(statement))
        if asked:
            found[number] = key
    return found


def refuse_existing(context: StepContext, schema: str, table: str, name: str) -> None:
    """:raises PgopsError: rows violate a foreign key that is there, NOT VALID. Takes ACCESS SHARE on both tables."""
    key = integrity.find_foreign_key(context.conn, schema, table, name)
    if key is None:
        return
    count, ids = integrity.count_orphans(context.conn, key)
    if count:
        raise _error(context, key, count, ids, None)


def settle(context: StepContext, key: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    """Do with the orphans of a foreign key that was just added what was asked for, in the open transaction.

    The lock of ADD FOREIGN KEY keeps new ones out meanwhile.

    :return: what was done, nothing or one entry: ``table``, ``constraint``, ``rows`` and ``quarantine``, or ``table`` (that of
        the parents), ``constraint``, ``rows`` and ``placeholders``.
    :raises PgopsError: rows of other tables hang on the orphans and would go or change with them; a placeholder cannot be made.
    """
    if not integrity.count_orphans(context.conn, key)[0]:
        return []
    return _move(context, key, number) if context.orphans == QUARANTINE else _make_parents(context, key, number)


def kinds(settled: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """:return: what :func:`settle` gave, under ``quarantined`` and ``placeholders``; only what there is."""
    words = {
        "quarantined": [entry for entry in settled if "quarantine" in entry],
        "placeholders": [entry for entry in settled if "placeholders" in entry],
    }
    return {word: entries for word, entries in words.items() if entries}


def _move(context: StepContext, key: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    conn = context.conn
    child = sql.Identifier(key["schema"], key["relation"])
    source = integrity.orphans_from(key)
    # Foreign keys to the child that would change or delete rows of another table when an orphan is moved.
    for follower in fetch_all(conn, _FOREIGN_KEYS_TO, (key["schema"], key["relation"])):
        if not follower["follows"]:
            continue
        pairs = sql.SQL(" AND ").join(
            sql.SQL("follower.{} = child.{}").format(sql.Identifier(mine), sql.Identifier(theirs))
            for mine, theirs in zip(follower["columns"], follower["target_columns"])
        )
        hanging = fetch_one(
            conn,
            sql.SQL("SELECT count(*) AS number FROM {} AS follower WHERE EXISTS (SELECT").format(
                sql.Identifier(follower["schema"], follower["table"])
            )
            + source
            + sql.SQL(" AND {})").format(pairs),
        )
        if hanging and hanging["number"]:
            raise PgopsError(
                f"{context.doing} moved nothing to quarantine: {hanging['number']} row(s) of "
                f"{follower['schema']}.{follower['table']} hang on rows of {key['table']} without a parent, by "
                f"{follower['name']}, and would go or change with them.",
                sqlstate=errorcodes.FOREIGN_KEY_VIOLATION,
                database=context.database,
                object_name=key["name"],
                hint="Give the rows without a parent a new one, or decide about the rows that hang on them first.",
                extra={"reason": "orphans"},
            )
    name = f"quarantine_{context.version}_{context.ordinal}_{number + 1}"
    quarantine = sql.Identifier(SCHEMA, name)
    execute(conn, sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING COMMENTS)").format(quarantine, child))
    execute(
        conn,
        sql.SQL("COMMENT ON TABLE {} IS {}").format(
            quarantine,
            sql.Literal(
                f"Rows of {key['table']} that had no parent for {key['name']}, moved by version {context.version}"
            ),
        ),
    )
    rows = execute(
        conn,
        sql.SQL("WITH moved AS (DELETE FROM ONLY {child} AS gone WHERE gone.ctid IN (SELECT child.ctid").format(
            child=child
        )
        + source
        + sql.SQL(") RETURNING gone.*) INSERT INTO {} SELECT * FROM moved").format(quarantine),
    )
    context.tell(f"{rows} row(s) of {key['table']} without a parent moved to {SCHEMA}.{name}")
    return [
        {
            "schema": key["schema"],
            "relation": key["relation"],
            "table": key["table"],
            "constraint": key["name"],
            "quarantine": f"{SCHEMA}.{name}",
            "rows": rows,
        }
    ]


def _make_parents(context: StepContext, key: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    conn = context.conn
    parent = sql.Identifier(key["target_schema"], key["target_relation"])
    types = {
        row["name"]: row["type"] for row in fetch_all(conn, _TYPES, (key["target_schema"], key["target_relation"]))
    }
    missing = sql.SQL(" || '/' || ").join(
        sql.SQL("missing.{}::text").format(sql.Identifier(column)) for column in key["columns"]
    )
    names, values = (
        list(key["target_columns"]),
        [sql.SQL("missing.{}").format(sql.Identifier(c)) for c in key["columns"]],
    )
    for column, value in key["placeholder"].items():
        if column not in types:
            raise PgopsError(
                f"{context.doing} can make no placeholder in {key['target']} for {key['name']}: it has no column {column}.",
                database=context.database,
                object_name=key["name"],
                extra={"reason": "orphans"},
            )
        text = str(value).lower() if isinstance(value, bool) else None if value is None else str(value)
        whole: sql.Composable = sql.Literal(text)
        if text is not None and KEY_WORD in text:
            whole = sql.SQL("replace({}, {}, {})").format(whole, sql.Literal(KEY_WORD), missing)
        names.append(column)
        # As text, which every type can be read from.
        values.append(sql.SQL("({}::text)::{}").format(whole, sql.SQL(types[column])))
    name = f"placeholder_{context.version}_{context.ordinal}_{number + 1}"
    kept = sql.Identifier(SCHEMA, name)
    execute(conn, sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING COMMENTS)").format(kept, parent))
    told = f"Placeholders that version {context.version} made in {key['target']} for {key['name']}, as they were made"
    execute(conn, sql.SQL("COMMENT ON TABLE {} IS {}").format(kept, sql.Literal(told)))
    query = sql.SQL(
        "WITH made AS (INSERT INTO {} ({}) SELECT {} FROM (SELECT DISTINCT {}{}) AS missing RETURNING *) "
        "INSERT INTO {} SELECT * FROM made"
    ).format(
        parent,
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join(values),
        sql.SQL(", ").join(sql.SQL("child.{}").format(sql.Identifier(column)) for column in key["columns"]),
        integrity.orphans_from(key),
        kept,
    )
    try:
        rows = execute(conn, query)
    except psycopg2.Error as exc:
        if exc.pgcode in locks.RETRY_SQLSTATES or exc.pgcode is None:
            raise
        raise from_psycopg(
            exc,
            f"{context.doing} can make no placeholder in {key['target']} for {key['name']}",
            statement=query.as_string(conn),
            database=context.database,
        ) from None
    context.tell(f"{rows} placeholder(s) made in {key['target']} for rows of {key['table']} without a parent")
    return [
        {
            "schema": key["target_schema"],
            "relation": key["target_relation"],
            "table": key["target"],
            "constraint": key["name"],
            "columns": list(key["target_columns"]),
            "placeholders": f"{SCHEMA}.{name}",
            "rows": rows,
        }
    ]


def take_back(context: StepContext, made: Mapping[str, Any]) -> None:
    """Put the rows of each quarantine back into their table, and take each placeholder away that nobody changed since or
    refers to, in the transaction that dropped the foreign key.

    :param made: the step's progress on the way up.
    """
    for entry in reversed(made.get("placeholders", [])):
        _take_parents_away(context, entry)
    for entry in reversed(made.get("quarantined", [])):
        put_back(context, entry)


def _take_parents_away(context: StepContext, entry: Mapping[str, Any]) -> None:
    kept = sql.Identifier(*entry["placeholders"].split("."))
    columns = fetch_all(context.conn, COMMON_COLUMNS, (entry["table"], entry["placeholders"]))
    if not columns:
        context.tell(f"no placeholder is taken out of {entry['table']}: it, or {entry['placeholders']}, is gone")
        return
    # By jsonb, since json, which a column may be, has no equality.
    unchanged: list[sql.Composable] = [
        sql.SQL("to_jsonb(parent.{column}) IS NOT DISTINCT FROM to_jsonb(kept.{column})").format(
            column=sql.Identifier(row["name"])
        )
        for row in columns
    ]
    unused: list[sql.Composable] = [
        sql.SQL("NOT EXISTS (SELECT FROM {} AS child WHERE {})").format(
            sql.Identifier(other["schema"], other["table"]),
            sql.SQL(" AND ").join(
                sql.SQL("child.{} = parent.{}").format(sql.Identifier(mine), sql.Identifier(theirs))
                for mine, theirs in zip(other["columns"], other["target_columns"])
            ),
        )
        for other in fetch_all(context.conn, _FOREIGN_KEYS_TO, (entry["schema"], entry["relation"]))
    ]
    rows = execute(
        context.conn,
        sql.SQL("DELETE FROM {} AS parent USING {} AS kept WHERE {}").format(
            sql.Identifier(entry["schema"], entry["relation"]), kept, sql.SQL(" AND ").join([*unchanged, *unused])
        ),
    )
    execute(context.conn, sql.SQL("DROP TABLE {}").format(kept))
    stay = entry["rows"] - rows
    context.tell(
        f"{rows} placeholder(s) taken out of {entry['table']}"
        + (f"; {stay} stay, which somebody has changed, deleted or uses" if stay else "")
    )


def _key(context: StepContext, made: Mapping[str, Any]) -> dict[str, Any] | None:
    """:return: a foreign key to be, in the form of :func:`integrity.find_foreign_key`; None before its tables or columns."""
    schema, table, target = str(made.get("schema") or "public"), str(made["table"]), made["references"]
    found = fetch_one(
        context.conn,
        _TABLES,
        {
            "schema": schema,
            "table": table,
            "target_schema": target["schema"],
            "target": target["table"],
            "columns": list(made["columns"]),
        },
    )
    if found is None:
        return None
    return {
        "name": f"{schema}.{table}.{made['name']}",
        "schema": schema,
        "relation": table,
        "kind": found["kind"],
        "table": _quoted(context, schema, table),
        "target_schema": target["schema"],
        "target_relation": target["table"],
        "target_kind": found["target_kind"],
        "target": _quoted(context, target["schema"], target["table"]),
        "columns": list(made["columns"]),
        "target_columns": list(target["columns"] or found["target_columns"] or []),
        "operators": [["pg_catalog", "="]] * len(made["columns"]),
        "match_full": False,
        "period": False,
        "identity": found["identity"],
    }


def _quoted(context: StepContext, schema: str, table: str) -> str:
    row = fetch_one(context.conn, "SELECT quote_ident(%s) || '.' || quote_ident(%s) AS name", (schema, table))
    return str(row["name"]) if row else f"{schema}.{table}"


def _error(
    context: StepContext, key: Mapping[str, Any], count: int, ids: Sequence[str], location: str | None
) -> PgopsError:
    query = integrity.orphans_query(key).as_string(context.conn)
    ways = f"with -e migrate_orphans={QUARANTINE}, which moves them to a table in the schema {SCHEMA}"
    if key.get("placeholder") is not None:
        ways += f", or with -e migrate_orphans={PLACEHOLDER}, which makes the parent that the version declares"
    shown = ", ".join(ids) + (", ..." if count > len(ids) else "")
    return PgopsError(
        f"{context.doing} stopped at the foreign key {key['name']}: {count} row(s) of {key['table']} have no parent in "
        f"{key['target']}, by id {shown} (SQLSTATE {errorcodes.FOREIGN_KEY_VIOLATION}).",
        sqlstate=errorcodes.FOREIGN_KEY_VIOLATION,
        database=context.database,
        location=location,
        object_name=key["name"],
        hint=f"List them all: {query}; give them a parent or delete them, then run it again; or run it {ways}.",
        extra={
            "reason": "orphans",
            "orphans": {
                "table": key["table"],
                "target": key["target"],
                "rows": count,
                "ids": list(ids),
                "query": query,
            },
        },
    )
