# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The way back of a version that another tool has applied and ours has taken over."""

from __future__ import annotations

from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError


def refuse_revert(conn: Connection, row: ledger.Migration) -> None:
    """Let an adopted version go down only while its objects are as it declares them: the way down was written for those.

    :raises PgopsError: names the differences.
    """
    if not row.adopted:
        return
    objects: catalog.Inventory = row.adopted.get("objects") or {}
    found = catalog.inventory(conn)
    differences = [
        difference
        for difference in catalog.compare(
            objects, {key: found[key] for key in objects if key in found}, ignore=catalog.ATTENDANT
        )
        if not (difference.attribute == "labels" and set(difference.expected or ()) <= set(difference.found or ()))
    ]
    if not differences:
        return
    first = [str(difference) for difference in differences[:5]]
    more = f", and {len(differences) - 5} more" if len(differences) > 5 else ""
    repaired = row.adopted.get("repaired_by")
    hint = (
        f"Apply its repair {repaired} first, or restore a backup."
        if repaired
        else "Restore a backup instead, or put these right."
    )
    raise PgopsError(
        f"Version {row.version} was adopted in {conn.info.dbname}, and what is there is not what its way down was written for: "
        f"{'; '.join(first)}{more}. Nothing of it was reverted.",
        database=str(conn.info.dbname),
        object_name=differences[0].object,
        hint=hint,
        extra={"reason": "adopted", "version": row.version, "differences": [item.as_dict() for item in differences]},
    )
