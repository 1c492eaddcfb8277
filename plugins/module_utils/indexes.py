# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A step of indexes: what is missing is built, what is there is told, and the way down drops what this version built."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import index_duties, index_schedule, index_space
from ansible_collections.whitecross.pgops.plugins.module_utils.analyze_step import analyze_tables
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.index_build import build, drop, full_name
from ansible_collections.whitecross.pgops.plugins.module_utils.index_definition import indexes_of
from ansible_collections.whitecross.pgops.plugins.module_utils.index_replacement import give_back, replace
from ansible_collections.whitecross.pgops.plugins.module_utils.index_state import IndexState
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import BEING_BUILT
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import aside, schema_of
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import errorcodes, sql

_INVALID_OF_OTHERS = f"""
SELECT n.nspname || '.' || c.relname AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_class t ON t.oid = i.indrelid
  JOIN pg_namespace tn ON tn.oid = t.relnamespace
 WHERE NOT i.indisvalid AND (tn.nspname, t.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
   AND NOT (n.nspname || '.' || c.relname) = ANY(%s)
   AND NOT {BEING_BUILT}
 ORDER BY 1
"""
# Of an index without a row here nobody has counted the values of its expressions. An empty table never has any.
_WITHOUT_STATISTICS = """
SELECT DISTINCT given.schema, given."table" FROM unnest(%s::text[], %s::text[], %s::text[]) AS given(schema, name, "table")
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_stats s WHERE s.schemaname = given.schema AND s.tablename = given.name)
 ORDER BY 1, 2
"""


def up(context: StepContext, wanted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Build what is missing: the largest table first, several side by side, on each its GIN indexes last.

    Takes SHARE UPDATE EXCLUSIVE on each table while it builds: no reader and no writer waits.

    :return: indexes that were there already.
    :raises PgopsError: an index of that name is there with another definition, a table is partitioned, the disk has no room,
        an index cannot take the place of another, a build failed or hit its limit.
    :raises Interrupted: asked to end; the build in hand is cancelled and its remains are dropped.
    """
    state = IndexState(context)
    replacing = [index for index in wanted if state.replaces(index)]
    taken = _taken_names(context, wanted)
    missing = [
        index
        for index in wanted
        if index not in replacing and (full_name(index) not in taken or state.is_missing(index))
    ]
    todo = [*missing, *replacing]
    tables = index_schedule.tables(context.conn, todo)
    _refuse_partitioned(context, todo, tables)
    for index in replacing:
        _refuse_unfit(context, state, index)
    _note_invalid_of_others(context, wanted)
    _note_duplicates(context, state, missing)

    def work(conn: Connection, index: Mapping[str, Any], place: str, again: bool) -> None:
        if index in replacing:
            _replace(context, state, conn, index, index["replaces"], place)
        elif not again or state.is_missing(index, conn):
            table = tables.get((schema_of(index), str(index["table"])))
            _build(context, state, conn, index, place=place, empty=table is not None and not table.bytes)

    empty = not any(table.bytes for table in tables.values())
    index_schedule.run(context, index_schedule.queues(todo, tables), work, empty=empty)
    _note_sizes(context)
    _analyze_expressions(
        context, [index for index in wanted if {full_name(index), full_name(aside(index))} & set(state.built)]
    )
    state.save("done")
    return state.present


def down(context: StepContext, wanted: Sequence[Mapping[str, Any]], made: Mapping[str, Any]) -> list[str]:
    """Drop what this version built, in reverse order. What was there before it stays, and so does what a later version
    made of it; what it replaced comes back, unless the version that made that is gone.

    Takes SHARE UPDATE EXCLUSIVE, and waits for transactions that use the index.

    :param made: the progress of the step on the way up: ``built``, ``present``, ``replaced`` and ``taken``.
    :return: indexes that stay.
    """
    built, replaced = set(made.get("built", [])), made.get("replaced", {})
    state = IndexState(context, built)
    skipped = []
    for index in reversed(wanted):
        name = full_name(index)
        if name in replaced and index["replaces"]["version"] in context.applied:
            _replace(context, state, context.conn, index["replaces"], index)
            give_back(context, index, replaced[name])
            continue
        beside = state.found(aside(index)) if name in replaced and full_name(aside(index)) in built else None
        if beside is not None:
            index_duties.refuse_drop(context, beside)
            drop(context, context.conn, schema_of(index), aside(index)["name"])
        found = state.found(index)
        if found is None:
            context.tell(f"index {name} is gone already: skipped")
            context.already.append(f"index {name}")
            continue
        if name not in built and name not in replaced:
            context.tell(f"index {name} was there before this version: it stays")
            skipped.append(f"index {name}")
            continue
        if state.is_another(index, found):
            context.tell(f"index {name} is not as this version made it, a later one's or somebody's own: it stays")
            skipped.append(f"index {name}")
            continue
        context.control.check()
        index_duties.refuse_drop(context, found)
        drop(context, context.conn, schema_of(index), index["name"])
    context.save("done")
    return skipped


def _build(
    context: StepContext,
    state: IndexState,
    conn: Connection,
    index: Mapping[str, Any],
    *,
    place: str = "",
    empty: bool = False,
    named: Mapping[str, Any] | None = None,
) -> None:
    """:param empty: its table has no row, so no disk is looked at.
    :param named: what it is called in the end, where it is built beside one of its name."""
    if not empty:
        index_space.check(context, conn, index)
    begun = time.monotonic()
    build(context, state, conn, index, place)
    made = {"schema": schema_of(index), "name": str((named or index)["name"]), "bytes": 0}
    context.built.append({**made, "duration_s": round(time.monotonic() - begun, 3)})
    if context.builds.disk_mb is not None:
        context.builds.took(_sizes(conn, [(schema_of(index), str(index["name"]))])[0])


def _sizes(conn: Connection, names: Sequence[tuple[str, str]]) -> list[int]:
    rows = fetch_all(
        conn,
        "SELECT coalesce(pg_catalog.pg_relation_size(to_regclass(name)), 0) AS bytes FROM unnest(%s::text[]) "
        "WITH ORDINALITY AS given(name, place) ORDER BY place",
        ([sql.Identifier(*name).as_string(conn) for name in names],),
    )
    return [int(row["bytes"]) for row in rows]


def _note_sizes(context: StepContext) -> None:
    """How large each index is that was built, in one query."""
    names = [(item["schema"], item["name"]) for item in context.built]
    for item, size in zip(context.built, _sizes(context.conn, names) if names else []):
        item["bytes"] = size


def _replace(
    context: StepContext,
    state: IndexState,
    conn: Connection,
    wanted: Mapping[str, Any],
    other: Mapping[str, Any],
    place: str = "",
) -> None:
    def beside(index: Mapping[str, Any]) -> None:
        _build(context, state, conn, index, place=place, named=wanted)

    replace(context, state, conn, wanted, other, beside)


def _refuse_partitioned(
    context: StepContext, todo: Sequence[Mapping[str, Any]], tables: Mapping[tuple[str, str], index_schedule.Table]
) -> None:
    for index in todo:
        table = tables.get((schema_of(index), str(index["table"])))
        if table is None or table.kind != "p":
            continue
        name = f"{schema_of(index)}.{index['table']}"
        raise PgopsError(
            f"{context.doing} failed: {name} is a partitioned table, on which PostgreSQL builds no index concurrently; "
            "nothing of this step was built.",
            sqlstate=errorcodes.FEATURE_NOT_SUPPORTED,
            database=context.database,
            object_name=full_name(index),
            hint=f"Name its partitions in the place of {name} in indexes.yml, an index each; then join them in a step of SQL "
            f"with CREATE INDEX {index['name']} ON ONLY {name} and ALTER INDEX ... ATTACH PARTITION.",
            extra={"reason": "partitioned"},
        )


def _refuse_unfit(context: StepContext, state: IndexState, index: Mapping[str, Any]) -> None:
    """Before the first build of the step: each may take hours."""
    found = state.found(index)
    if found is not None and state.differences(index, found):
        index_duties.refuse_unfit(context, context.conn, found, index)


def _note_invalid_of_others(context: StepContext, wanted: Sequence[Mapping[str, Any]]) -> None:
    ours = [*wanted, *(aside(index) for index in wanted if index.get("replaces"))]
    rows = fetch_all(
        context.conn,
        _INVALID_OF_OTHERS,
        (
            [schema_of(index) for index in wanted],
            [index["table"] for index in wanted],
            [full_name(index) for index in ours],
        ),
    )
    for row in rows:
        context.note(f"index {row['name']} is invalid and not ours: it is left alone, drop or rebuild it yourself")


def _taken_names(context: StepContext, wanted: Sequence[Mapping[str, Any]]) -> set[str]:
    """:return: those of the names that a relation has, whatever it is: only these are looked at one by one."""
    rows = fetch_all(
        context.conn,
        "SELECT n.nspname || '.' || c.relname AS name FROM unnest(%s::text[], %s::text[]) AS given(schema, name) "
        "JOIN pg_namespace n ON n.nspname = given.schema "
        "JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = given.name",
        ([schema_of(index) for index in wanted], [index["name"] for index in wanted]),
    )
    return {str(row["name"]) for row in rows}


def _note_duplicates(context: StepContext, state: IndexState, missing: Sequence[Mapping[str, Any]]) -> None:
    """Tell of each index that is to be built which other one of its table is the same under another name. Before the build,
    so that whoever watches may end it."""
    if not missing:
        return
    there = indexes_of(context.conn, list(dict.fromkeys((schema_of(index), str(index["table"])) for index in missing)))
    for index in missing:
        for other in there:
            name = f"{other['index_schema']}.{other['name']}"
            if (
                name in (full_name(index), full_name(aside(index)))
                or not other["valid"]
                or not _may_equal(index, other)
            ):
                continue
            if not state.is_another(index, other):
                context.note(
                    f"index {full_name(index)} has the same definition as {name}: it is built all the same, "
                    "drop the one that nobody needs"
                )


def _may_equal(index: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether it is worth to have the server compare them, which makes a table and an index: all that needs no parsing is
    equal."""
    keys = [column for column in other["columns"] if column["key"]]
    included = [column["column"] for column in other["columns"] if not column["key"]]
    return (
        (other["schema"], other["table"]) == (schema_of(index), index["table"])
        and other["method"] == (index.get("method") or "btree")
        and other["unique"] == bool(index.get("unique"))
        and (other["where"] is None) == (not index.get("where"))
        and [_bare(text) for text in included] == list(index.get("include") or [])
        and len(keys) == len(index["columns"])
        and all(_may_be(column, found) for column, found in zip(index["columns"], keys))
    )


def _may_be(column: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    if bool(found["descending"]) != (str(column.get("order") or "").lower() == "desc"):
        return False
    # An expression is printed in parentheses or as a call.
    return bool(column.get("expression")) == ("(" in found["column"]) and (
        bool(column.get("expression")) or _bare(found["column"]) == column["column"]
    )


def _bare(text: str) -> str:
    return text[1:-1].replace('""', '"') if text.startswith('"') else text


def _analyze_expressions(context: StepContext, ours: Sequence[Mapping[str, Any]]) -> None:
    """The values of an expression are counted by ANALYZE once its index is there; until then the planner guesses them.

    Whether it is done is read in the catalog, so a run that was cut off before is made up for.
    """
    listed = [index for index in ours if any(column.get("expression") for column in index["columns"])]
    if not listed:
        return
    names = (
        [schema_of(index) for index in listed],
        [str(index["name"]) for index in listed],
        [str(index["table"]) for index in listed],
    )
    rows = fetch_all(context.conn, _WITHOUT_STATISTICS, names)
    analyze_tables(context, [(row["schema"], row["table"]) for row in rows])
