# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a restore of a whole cluster means for those who live with it, and what it has lost, as lines that a person reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# In a session of a superuser on the restored cluster; waiting commits end with the second one.
NOBODY_AWAITED = "ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();"


def company(database: str, found: Mapping[str, Any]) -> list[str]:
    """:param found: what the module physical_restore has found beforehand.
    :return: who does not go back with the cluster, and what has to be done for each."""
    lines = [
        f"{database}: standby {standby} has to be made anew afterwards; promoted, it would replay all that it has received"
        for standby in found.get("standbys") or []
    ]
    if found.get("synchronous"):
        lines.append(
            f"{database}: commits wait for synchronous_standby_names = '{found['synchronous']}', and no standby follows behind the change: "
            f"clients hang until one is made anew, or until a superuser types there: {NOBODY_AWAITED}"
        )
    lines += [
        f"{database}: the logical slot {slot['name']} of {slot['database']} does not go along; its reader has to begin anew, with a slot of its "
        f"own ({slot['plugin']}) and all rows"
        for slot in found.get("slots") or []
    ]
    lines += [
        f"{database}: what the publisher of subscription {held['name']} in {held['database']} has sent since, it does not send again: make the "
        f"subscription anew with its tables emptied, or compare them{'' if held['enabled'] else ' (it is disabled)'}"
        for held in found.get("subscriptions") or []
    ]
    return lines


def awaited(database: str, found: Mapping[str, Any]) -> list[str]:
    """:return: behind a change of clusters, that commits wait for standbys that do not follow, and what ends that."""
    if not found.get("synchronous"):
        return []
    told = f"commits wait for synchronous_standby_names = '{found['synchronous']}', and no standby follows until it is made anew"
    return [f"{database}: {told}; what ends the waiting, as a superuser: {NOBODY_AWAITED}"]


def lost(database: str, found: Mapping[str, Any]) -> list[str]:
    """:return: a line a table whose rows are others, one for the empty ones that are gone, and what counts do not tell; none where nothing
    was compared."""
    if found.get("lost") is None:
        return []
    lines = []
    empty = []
    for table, rows in found["lost"].items():
        if rows["then"] is None and not rows["now"]:
            empty.append(table)
        elif rows["then"] is None:
            lines.append(f"{table} had {rows['now']} rows and is not there any more")
        else:
            lines.append(f"{table} had {rows['now'] or 0} rows and has {rows['then']} now")
    if empty:
        lines.append(
            f"{len(empty)} empty tables are not there any more: {', '.join(empty[:5])}{' …' if len(empty) > 5 else ''}"
        )
    told = "these are counts" if lines else "no table has another number of rows"
    lines.append(f"{told}; what was updated since is lost too and is not told here; the replaced cluster has it")
    return [f"{database}: {line}" for line in lines]
