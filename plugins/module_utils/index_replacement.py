# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""An index in the place of one of its name: queries have one of the two at any time.

It is built under a name of its own, is given what the other one is to the table, then the other is dropped, then it is renamed.
Wherever this is cut off, the two names tell how far it came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import index_build, index_duties
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection
from ansible_collections.whitecross.pgops.plugins.module_utils.index_build import full_name
from ansible_collections.whitecross.pgops.plugins.module_utils.index_definition import index_definition
from ansible_collections.whitecross.pgops.plugins.module_utils.index_state import IndexState
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import aside, rename_index, schema_of
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import sql

Build = Callable[[Mapping[str, Any]], None]


def replace(
    context: StepContext,
    state: IndexState,
    conn: Connection,
    wanted: Mapping[str, Any],
    other: Mapping[str, Any],
    build: Build,
) -> None:
    """Bring the index of that name from the other definition to the wanted one, from wherever it was left.

    Takes SHARE UPDATE EXCLUSIVE on the table, and ACCESS EXCLUSIVE for a moment where the index is its replica identity; the drop
    waits for transactions that use the index.

    :param conn: the session that works.
    :param build: builds one index on that session.
    :raises PgopsError: neither of the two definitions has that name, somebody else's index has the name beside, the wanted one
        cannot be what the other is to the table, or a build, a drop or the renaming failed.
    """
    schema, name, new = schema_of(wanted), str(wanted["name"]), aside(wanted)
    context.control.check()
    found, beside = state.found(wanted, conn), state.found(new, conn)
    if beside is not None and full_name(new) not in state.built:
        raise state.unequal(new, [f"it is not ours, and {name} is to be built under that name first"])
    ready = beside is not None and beside["valid"] and not state.differences(new, beside, conn)
    is_wanted = found is not None and not state.differences(wanted, found, conn)
    if found is not None and is_wanted and not found["valid"]:
        index_build.drop(context, conn, schema, name)
        found = None
    if found is not None and is_wanted:
        if beside is not None:
            index_duties.hand_over(context, conn, beside, found)
            index_build.drop(context, conn, schema, new["name"])
        return
    if found is None and not ready:
        # Neither serves under its name: the wanted one needs no other name. What is beside it serves until then.
        if beside is not None and not beside["valid"]:
            index_build.drop(context, conn, schema, new["name"])
            beside = None
        if beside is not None:
            index_duties.refuse_unfit(context, conn, beside, wanted)
        build(wanted)
        if beside is not None:
            _hand_over(context, state, conn, beside, wanted)
            index_build.drop(context, conn, schema, new["name"])
        return
    if found is not None:
        differences = state.differences(other, found, conn)
        if differences:
            raise state.unequal(other, differences)
        index_duties.refuse_unfit(context, conn, found, wanted)
        if not ready:
            if beside is not None:
                index_duties.hand_over(context, conn, beside, found)
                index_build.drop(context, conn, schema, new["name"])
            build(new)
        context.control.check()
        _hand_over(context, state, conn, found, new)
        index_build.drop(context, conn, schema, name)
        context.control.check()
    index_build.alter(
        context,
        conn,
        (schema, new["name"]),
        rename_index(schema, new["name"], name),
        telling=f"renaming index {schema}.{new['name']} to {name}",
        failing=f"renamed index {schema}.{new['name']} to {name}",
    )


def _hand_over(
    context: StepContext, state: IndexState, conn: Connection, found: Mapping[str, Any], index: Mapping[str, Any]
) -> None:
    other = state.found(index, conn)
    if other is not None:
        index_duties.hand_over(context, conn, found, other)


def give_back(context: StepContext, index: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    """Give an index that was built anew the comment that it had, and what the one between could not be."""
    found = index_definition(context.conn, schema_of(index), index["name"])
    if found is None:
        return
    index_duties.give_back(context, found, kept)
    comment = kept.get("comment")
    if found["comment"] == comment:
        return
    full = sql.Identifier(schema_of(index), index["name"])
    statement = sql.SQL("COMMENT ON INDEX {} IS {}").format(full, sql.Literal(comment))
    telling = f"commenting on index {full_name(index)}"
    failing = f"commented on index {full_name(index)}"
    given = (schema_of(index), str(index["name"]))
    index_build.alter(context, context.conn, given, statement, telling=telling, failing=failing)
