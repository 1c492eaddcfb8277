# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The way back of a version that another tool has applied and ours has taken over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.going_down import words_of
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import table_names


def refuse_revert(conn: Connection, chosen: Sequence[tuple[ledger.Migration, Mapping[str, Any]]]) -> None:
    """Let adopted versions go down only while their objects are as the tree declares them: the way down was written for those.

    What a newer version of the same rollback changes back first is left to the look right before its version; so is a
    version that is half way down. Takes ACCESS SHARE on system catalogs, and on the table of an expression that prints
    otherwise than it was written down.

    :param chosen: the versions with their stored text, in the order in which they go.
    :raises PgopsError: names the differences of the first version that has any.
    """
    if not any(row.adopted for row, _ in chosen):
        return
    found = catalog.inventory(conn)
    gone: set[str] = set()
    changed: set[str] = set()
    for row, migration in chosen:
        if not row.adopted:
            changed |= _words(migration)
        elif row.state != "reverting":
            differences = [
                difference
                for key, definition in (row.adopted.get("objects") or {}).items()
                if not (changed & words_of(_name(key, definition)))
                for difference in _differences(conn, key, list(_states(conn, row.adopted, key, gone)), found.get(key))
            ]
            if differences:
                raise _refusal(conn, row, differences)
        gone.add(row.version)


def _words(migration: Mapping[str, Any]) -> set[str]:
    """:return: in lower case what a version of ours may change: no adoption has seen what it makes of it."""
    words = {table.lower() for _, table in table_names([migration])}
    for step in migration["steps"]:
        for statement in step.get("up", []):
            words |= words_of(str(statement["sql"]))
    return words


def _name(key: str, definition: Mapping[str, Any]) -> str:
    """:return: the table of an object, or where it has none its own name, quoted."""
    if definition.get("table") is not None:
        return '"' + str(definition["table"]).replace('"', '""') + '"'
    return catalog.name_of(key).partition("(")[0].rpartition(".")[2]


def _states(
    conn: Connection, proof: Mapping[str, Any], key: str, gone: set[str]
) -> Iterator[catalog.Definition | None]:
    """:return: in what forms an object may be, what its version makes of it last; None where it may be missing."""
    first, since = proof["objects"][key], (proof.get("since") or {}).get(key, [])
    taken = {}
    if key in (proof.get("accepted") or {}):
        # In what no version has ever made it; that stays, whatever a later one has made of the rest.
        made = [state for state in since if state is not None]
        taken = {name: value for name, value in first.items() if all(state.get(name) != value for state in made)}
    for state in [first, *since]:
        yield state
        if taken and state is not None:
            yield {**state, **taken}
    unrepaired = (proof.get("unrepaired") or {}).get(key)
    if unrepaired is not None and any(_is_gone(conn, version, gone) for version in _repairs(proof)):
        yield unrepaired
        if catalog.kind_of(key) == "index":
            yield None  # the repair built it anew


def _repairs(proof: Mapping[str, Any] | None) -> list[str]:
    """:return: the versions that complete an adopted one; an older ledger has one, or none."""
    found = (proof or {}).get("repaired_by") or []
    return [found] if isinstance(found, str) else list(found)


def _is_gone(conn: Connection, version: str, gone: set[str]) -> bool:
    row = fetch_one(conn, "SELECT state FROM pgops.migration WHERE version = %s", (version,))
    return version in gone or bool(row and row["state"] == "reverted")


def _differences(
    conn: Connection, key: str, states: Sequence[catalog.Definition | None], now: catalog.Definition | None
) -> list[catalog.Difference]:
    """:return: how an object differs from the nearest of these states; none where it is one of them."""

    def compare(state: catalog.Definition | None, reparse: Connection | None) -> list[catalog.Difference]:
        told = catalog.compare(
            {} if state is None else {key: state},
            {} if now is None else {key: now},
            reparse=reparse,
            ignore=catalog.ATTENDANT,
        )
        return [item for item in told if not _has_more_labels(item)]

    # Only what is not equal as it stands there is worth to be parsed again.
    for reparse in (None, conn):
        told = [compare(state, reparse) for state in states]
        if not all(told):
            return []
    return min(told, key=lambda differences: (differences[0].kind == "unexpected", len(differences)))


def _has_more_labels(difference: catalog.Difference) -> bool:
    return difference.attribute == "labels" and set(difference.expected or ()) <= set(difference.found or ())


def _refusal(conn: Connection, row: ledger.Migration, differences: Sequence[catalog.Difference]) -> PgopsError:
    database = str(conn.info.dbname)
    first = [str(difference) for difference in differences[:5]]
    more = f", and {len(differences) - 5} more" if len(differences) > 5 else ""
    repaired = " and ".join(_repairs(row.adopted))
    hint = (
        f"Apply its repair {repaired} first, or restore a backup."
        if repaired
        else "Restore a backup instead, or put these right."
    )
    return PgopsError(
        f"Version {row.version} was adopted in {database}, and what is there is not what its way down was written for: "
        f"{'; '.join(first)}{more}. Nothing of it was reverted.",
        database=database,
        object_name=differences[0].object,
        hint=hint,
        extra={"reason": "adopted", "version": row.version, "differences": [item.as_dict() for item in differences]},
    )
