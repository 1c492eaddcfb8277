# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the steps of a version that stopped half-way have done, and whether their text still asks for that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all

# Of the attempt that began the version, not of one that was taken back before it.
_APPLIED_BY_THE_RUN_THAT_BEGAN = """
SELECT DISTINCT version FROM pgops.audit
 WHERE event = 'applied'
   AND run_id = (SELECT run_id FROM pgops.audit WHERE event = 'apply_started' AND version = %s ORDER BY seq DESC LIMIT 1)
 ORDER BY version
"""


def beginning(conn: Connection, row: ledger.Migration, migration: Mapping[str, Any]) -> dict[str, Any]:
    """How a version began that stopped half-way.

    :param row: the version in the ledger.
    :param migration: the version as it is now, rendered.
    :return: ``with``: the versions that the same run applied, ``done``: the files whose steps are done, ``committed``: by file of a
        step that is half done the line of its first statement that is not committed, None where all are, ``mended``: whether the
        text is another one now.
    """
    edited = row.checksum != migration["checksum"]
    pairs = zip(ledger.stored(conn, row.version)["steps"], migration["steps"])
    done = {step.ordinal for step in row.steps if step.state == "done"}
    files = [_files(step) for ordinal, step in enumerate(migration["steps"], 1) if ordinal in done]
    return {
        "with": [str(found["version"]) for found in fetch_all(conn, _APPLIED_BY_THE_RUN_THAT_BEGAN, (row.version,))],
        "done": sorted({file for found in files for file in found}),
        "committed": {
            file: line
            for step in row.steps
            if committed_statements(step) and step.ordinal <= len(migration["steps"])
            for file, line in _first_lines(step, migration["steps"][step.ordinal - 1]).items()
        },
        "mended": edited or not all(same(old, new, edited) for old, new in pairs),
    }


def _first_lines(step: ledger.Step, text: Mapping[str, Any]) -> dict[str, int | None]:
    statements, committed = list(text.get("up") or []), committed_statements(step)
    files = {str(statement["file"]) for statement in statements[:committed]}
    lines = [(str(statement["file"]), int(statement["line"])) for statement in statements[committed:]]
    return {file: min((line for of, line in lines if of == file), default=None) for file in files}


def _files(value: Any) -> Iterator[str]:
    """:return: the files of what a step runs on the way up."""
    if isinstance(value, Mapping):
        if "sql" in value and "file" in value:
            yield str(value["file"])
        for key, item in value.items():
            if key != "down":
                yield from _files(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _files(item)


def done_otherwise(
    step: ledger.Step,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    edited: bool,
    standing: Callable[[Collection[str]], Collection[str]],
    one_transaction: bool,
) -> tuple[str, str] | None:
    """What failed may be mended, whatever the ledger remembers of the attempt.

    :param before: the step as the version began with it, rendered.
    :param after: as it is now; empty where it is no more.
    :param edited: the files of the version differ, and not only the values of its variables.
    :param standing: which of the indexes of these names (``schema.name``) are there and valid.
    :param one_transaction: whether the version as it is now runs the statements of a step in one transaction.
    :return: what the step has done that its text now asks for otherwise, and what to put back; None where there is nothing.
    """
    committed = committed_statements(step)
    if committed:
        first = f"{first_statements(committed)} committed,"
        if not same(_begun(before, committed), _begun(after, committed), edited):
            them = "that statement" if committed == 1 else "those statements"
            return f"the text of its step {step.ordinal}, of which {first}", them
        if one_transaction:
            return f"its `transaction: false`, under which of its step {step.ordinal} {first}", "that key"
        return None
    if same(before, after, edited):
        return None
    if step.state != "done" and step.kind == "indexes":
        tried = {*step.progress.get("built", []), *step.progress.get("replaced", {})}
        wanted, now = _by_name(before), _by_name(after)
        for name in sorted(standing(tried & wanted.keys())):
            if not same(wanted[name], now.get(name, {}), edited):
                how = "built already" if name in step.progress.get("built", []) else "begun to replace"
                return f"index {name}, which its step {step.ordinal} has {how},", "its definition"
        return None
    if step.state != "done" and step.kind == "backfill" and not step.progress.get("seen"):
        # It goes through the whole table again.
        return None
    how = "done already" if step.state == "done" else "half done"
    return f"the text of its step {step.ordinal}, which is {how},", "that step's text"


def committed_statements(step: ledger.Step) -> int:
    """:return: how many statements of a step are committed that runs each in a transaction of its own and is not done."""
    return int(step.progress.get("statements") or 0) if step.state != "done" and step.kind == "sql" else 0


def first_statements(number: int) -> str:
    """:return: so many statements of a step, for a sentence."""
    return "the first statement is" if number == 1 else f"the first {number} statements are"


def executed(steps: Iterable[ledger.Step], text: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """:param steps: of a version on the way up, as the ledger has them.
    :param text: the same, rendered.
    :return: those of which something is committed, with only those statements of SQL that are."""
    found: list[Mapping[str, Any]] = []
    for step in steps:
        number = None if step.state == "done" else committed_statements(step)
        if step.ordinal <= len(text) and number != 0:
            of = text[step.ordinal - 1]
            found.append({**of, "up": list(of.get("up") or [])[:number]})
    return found


def _begun(step: Mapping[str, Any], committed: int) -> dict[str, Any]:
    """:return: of a step of SQL what its first statements, which are committed, took of its text."""
    to_come = placeholders_to_come(step, committed)
    taken = [item for item in step.get("placeholders") or [] if item not in to_come]
    return {**step, "up": list(step.get("up") or [])[:committed], "placeholders": taken}


def placeholders_to_come(step: Mapping[str, Any], committed: int) -> list[Mapping[str, Any]]:
    """:return: the placeholders of a step for the keys that none of its first statements, which are committed, has added."""
    made = {(statement.get("creates") or {}).get("name") for statement in list(step.get("up") or [])[:committed]}
    return [item for item in step.get("placeholders") or [] if item["constraint"] not in made]


def how_far(step: ledger.Step, statements: int) -> str:
    """:param statements: how many the step has, of SQL.
    :return: how far a step is that is not done, for the end of a sentence; nothing where nothing of it is done."""
    committed = committed_statements(step)
    if committed:
        return f", {committed:,} of {statements:,} statements of this step are committed"
    done = int(step.progress.get("seen") or 0) if step.kind == "backfill" else 0
    total = max(int(step.progress.get("total") or 0), done) if step.kind == "backfill" else 0
    if not total:
        return ""
    return f", {done:,} of {total:,} rows done ({100 * done / total:.2f} %), {total - done:,} to go"


def what_must_stay(step: ledger.Step) -> str:
    """:return: what of the text of a step that failed may not be mended any more, as a sentence; see :func:`done_otherwise`."""
    committed = committed_statements(step)
    if committed:
        these = (
            "This one must stay as it is, what comes behind it"
            if committed == 1
            else f"These {committed} must stay as they are, what comes behind them"
        )
        return f" {these} may be mended."
    if step.state != "done" and step.kind == "backfill" and step.progress.get("seen"):
        return (
            " The text of this step must stay as it is, since rows were changed by it: mend the rows, or go back first."
        )
    return ""


def _by_name(step: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {f"{index.get('schema') or 'public'}.{index['name']}": index for index in step.get("indexes") or []}


def same(before: Mapping[str, Any], after: Mapping[str, Any], edited: bool) -> bool:
    """:return: whether two texts of a step run the same."""
    old, new = _essence(before), _essence(after)
    # Of the same files another release of this collection may tell more than the ledger keeps.
    keys = old.keys() | new.keys() if edited else old.keys() & new.keys()
    return all(old.get(key) == new.get(key) for key in keys)


_NOT_THE_UP = ("why", "phi", "name", "down", "labels")


def _essence(value: Any) -> Any:
    """What would run: lines may move, the SQL may not."""
    if isinstance(value, Mapping):
        if "sql" in value:
            return value["sql"]
        return {key: _essence(item) for key, item in value.items() if key not in _NOT_THE_UP}
    return [_essence(item) for item in value] if isinstance(value, (list, tuple)) else value
