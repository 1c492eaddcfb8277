# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which versions a blue-green change applies, and whether they still are those that it was prepared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    blue_green_change,
    blue_green_record,
    ledger,
    preview,
    strategies_of_versions,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_change import READY, Change
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work

_NOTHING: Mapping[str, Any] = {
    "pending": [], "later": [], "waiting": [], "applied": [], "risk": None, "state": {}, "tables": [], "table_bytes": {}, "prepared": "",
}  # fmt: skip
_NOT_EXPECTED = {"expected_seconds": None, "expected_for_rows": None, "to_be_split": False}


def pending(change: Change, migrations: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """:return: the versions to apply, in order. :raises PgopsError: one of them works on rows, of which the empty copy has none."""
    selection = Selection(strategy=strategies_of_versions.BLUE_GREEN)
    found = preview.preview(change.target, migrations, selection, run_id=change.work.run_id)["pending"]
    wanted = {str(item["version"]) for item in found}
    chosen = [version for version in migrations if str(version["version"]) in wanted]
    for version in chosen:
        for work in version.get("row_work") or ():
            raise PgopsError(
                f"Nothing was begun for {change.database}: {work['where']} of {version['version']} {work['what']}, and a blue-green version "
                "is applied while its tables are empty.",
                database=change.database,
                hint="Do it by a version of its own, which is applied online, before or behind it.",
                extra={"reason": "writes_rows", "version": str(version["version"])},
            )
    return chosen


def is_left(change: Change, migrations: Sequence[Mapping[str, Any]]) -> bool:
    """:return: whether a pending version is one for a blue-green change, also behind others that are applied online."""
    selection = Selection(strategy=strategies_of_versions.ANY)
    with closing(change.connect(change.target)) as conn:
        # What the others lack is no matter of a change that does not bring them.
        plan = preview.listed(conn, ledger.read(conn), migrations, selection)
    return any(version.get("strategy") == strategies_of_versions.BLUE_GREEN for version in plan.pending)


def _applied(change: Change) -> list[str]:
    with closing(change.connect(change.target)) as conn:
        return [str(row.version) for row in ledger.read(conn).in_state("applied")]


def looking(target: Target, run_id: str) -> Change:
    """:return: a change that is only looked at."""
    return Change(target, Work(run_id))


def planned(change: Change, migrations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """:return: as ``preview.preview``, of the versions that a change-over would bring, or a preparation would apply; where only the end of a
    change-over that was killed is missing, nothing is pending. What a version would take in the live database keeps nobody waiting: it is
    made in the new one, which is empty."""
    plan = _planned(change, migrations)
    return {**plan, "pending": [{**item, **_NOT_EXPECTED} for item in plan["pending"]]}


def _planned(change: Change, migrations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    with closing(change.connect(change.target.maintenance())) as conn:
        if blue_green_record.over(change, conn):
            return dict(_NOTHING)
        found = blue_green_change.look(change, conn)
    if found["state"] != READY:
        if not is_left(change, migrations):
            return {**_NOTHING, "applied": _applied(change)}
        selection = Selection(strategy=strategies_of_versions.BLUE_GREEN)
        return preview.preview(change.target, migrations, selection, run_id=change.work.run_id)
    versions = [str(version) for version in found["record"]["versions"]]
    selection = Selection(target=versions[-1], strategy=strategies_of_versions.ANY)
    plan = preview.preview(change.target, migrations, selection, run_id=change.work.run_id)
    return {**plan, "pending": [item for item in plan["pending"] if str(item["version"]) in versions]}


def refuse_edited(change: Change, record: Mapping[str, Any], migrations: Sequence[Mapping[str, Any]]) -> None:
    """:param record: of the run that has prepared it. :raises PgopsError: a version has another text by now."""
    tree = {str(version["version"]): str(version["rendered_checksum"]) for version in migrations}
    edited = [version for version, checksum in record["checksums"].items() if tree.get(version) != checksum]
    if edited:
        raise PgopsError(
            f"{change.green} was prepared with another text of {', '.join(edited)} than the tree has now; nothing was touched.",
            database=change.database,
            hint="Give it up with -e blue_green_stage=give_up and prepare it again, or bring the text back.",
            extra={"reason": "edited", "versions": edited},
        )
