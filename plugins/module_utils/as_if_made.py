# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the way up of a version records, told for one that another tool has run: its way down asks for it.

Nobody saw the database before that version. The tree is run in an empty one, and what earlier versions have made there
right before a step is what the step would have found.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import catalog_states, existing, states_before
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.index_build import full_name
from ansible_collections.whitecross.pgops.plugins.module_utils.index_definition import index_definition
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import schema_of

# What makes a state the same one, whether it holds or not.
_STATE = ("kind", "schema", "table", "name")
_VALIDATED = """
SELECT n.nspname || '.' || c.relname || '.' || k.conname AS name
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE k.convalidated AND (n.nspname, c.relname, k.conname) IN (SELECT * FROM unnest(%s::text[], %s::text[], %s::text[]))
"""


def progress(conn: Connection, migration: Mapping[str, Any], ordinal: int) -> dict[str, Any]:
    """Call right before the step runs. Takes ACCESS SHARE for a moment on the table of a default, no other lock.

    :param conn: a session on a database in which the earlier versions and steps were run.
    :param ordinal: of the step, from 1.
    :return: the progress of the step as the way up would have left it in the ledger.
    """
    step = migration["steps"][ordinal - 1]
    if step["kind"] == "sql":
        return _sql(conn, migration, ordinal, step)
    if step["kind"] == "indexes":
        return _indexes(conn, step)
    if step["kind"] == "validate":
        return _validate(conn, step)
    return {}


def leaving(
    made: Sequence[Mapping[str, Any]], migration: Mapping[str, Any], words: Collection[str]
) -> list[dict[str, Any]]:
    """:param made: the progress of each step of the version.
    :param words: objects, in the words of :func:`existing.describe`, that this role may not drop.
    :return: the same, as if those had been there before the version: they stay."""
    kept = []
    for step, before in zip(migration["steps"], made):
        undone = [existing.describe(gone) for gone in map(existing.dropped, step.get("down") or []) if gone]
        stay = [word for word in undone if word in words and word not in before.get("there_before", [])]
        kept.append({**before, **({"there_before": [*before.get("there_before", []), *stay]} if stay else {})})
    return kept


def _sql(conn: Connection, migration: Mapping[str, Any], ordinal: int, step: Mapping[str, Any]) -> dict[str, Any]:
    """Whatever more :mod:`sql_step` comes to record on the way up belongs here too."""
    ups = step["up"]
    gone = existing.dropped_by(ups)
    made = [statement.get("creates") for statement in ups]
    made = [item if item and not item.get("replace") else None for item in made]
    undone = [existing.dropped(statement) for statement in step.get("down") or []]
    there = existing.present(conn, [*made, *undone])
    words = {number: existing.describe(item) for number, item in enumerate([*made, *undone]) if item}
    skipped = [words[number] for number in sorted(there) if number < len(made) and words[number] not in gone]
    before = [words[number] for number in sorted(there) if number >= len(made) and words[number] not in gone]
    holding = catalog_states.holding(conn, ups)
    changed: set[tuple[Any, ...]] = set()
    for number, statement in enumerate(ups):
        states = {tuple(state.get(part) for part in _STATE) for state in statement.get("states") or []}
        if number in holding and not states & changed:
            skipped += catalog_states.describe(statement)
        changed |= states
    found: dict[str, Any] = {"skipped": list(dict.fromkeys(skipped)), "there_before": before}
    recorded = states_before.up(migration, ordinal).record(conn)
    if recorded:
        found[states_before.PROGRESS] = recorded
    return found


def _indexes(conn: Connection, step: Mapping[str, Any]) -> dict[str, Any]:
    indexes = step["indexes"]
    there = existing.present(conn, [{**index, "kind": "index"} for index in indexes])
    replaced = {}
    for number in sorted(there):
        index = indexes[number]
        found = index_definition(conn, schema_of(index), index["name"]) if index.get("replaces") else None
        if found is not None:
            replaced[full_name(index)] = {"comment": found["comment"]}
    names = [full_name(index) for index in indexes]
    return {
        "built": [name for number, name in enumerate(names) if number not in there],
        "present": [f"index {names[number]}" for number in sorted(there) if names[number] not in replaced],
        **({"replaced": replaced} if replaced else {}),
    }


def _validate(conn: Connection, step: Mapping[str, Any]) -> dict[str, Any]:
    keys = [(schema_of(item), str(item["table"]), str(item["constraint"])) for item in step["constraints"]]
    valid = {row["name"] for row in fetch_all(conn, _VALIDATED, tuple(list(parts) for parts in zip(*keys)))}
    names = [".".join(key) for key in keys]
    return {
        "validated": [name for name in names if name not in valid],
        "valid_before": [f"constraint {name}" for name in names if name in valid],
    }
