# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A plan of maintenance and what became of it, as lines for people; the report has the same as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.reporting import seconds, size

SHOWN = 40
REPORTED = 5


def plan(database: str, found: Mapping[str, Any]) -> list[str]:
    """:param found: of one database, as the module maintenance_plan returns it."""
    items, looked = found["items"], found["looked_at"]
    about = f"looked at {looked.get('tables', 0)} tables and {looked.get('indexes', 0)} indexes"
    if not items:
        lines = [f"    {database}: nothing needs maintenance; {about}"]
    else:
        lines = [
            f"    {database}: {len(items)} to do, about {seconds(found['forecast_s'])} one after the other; {about}"
        ]
        width = max(len(item["object"]) for item in items[:SHOWN])
        for item in items[:SHOWN]:
            back = f"; gives back about {size(item['gain_bytes'])}" if item["gain_bytes"] else ""
            lines.append(
                f"    {item['rank']:>4}  {_action(item):<16} {item['object']:<{width}}  about {seconds(item['forecast_s']):>8}  "
                f"{'; '.join(item['reasons'])}{back}"
            )
            if item["lacks"]:
                lines.append(f"{'':>10}cannot be done: {item['lacks']}")
        lines += _more(len(items) - SHOWN)
    left = found["left_out"]
    lines += [f"    left: {one['object']}: {one['why']}" for one in left[:REPORTED]] + _more(len(left) - REPORTED)
    return lines


def report(database: str, found: Mapping[str, Any], migration: Callable[[Mapping[str, Any]], str]) -> list[str]:
    """:param found: the ``report`` of one database.
    :param migration: the command that writes the migration which drops an index.
    :return: what maintenance does not mend."""
    lines = []
    for table in found["table_bloat"][:REPORTED]:
        lines.append(
            f"    {database}: {size(table['free_bytes'])} of table {table['table']} ({table['percent']:.0f} % of {size(table['bytes'])}, by "
            f"{table['by']}) are free: {table['way_out']}"
        )
    for index in [*found["duplicate_indexes"], *found["unused_indexes"]][:REPORTED]:
        told = f"    {database}: index {index['index']} ({size(index['bytes'])}): {index['why']}"
        lines.append(
            f"{told}; but {'; '.join(index['against'])}" if index["against"] else f"{told}: {migration(index)}"
        )
    for index in found["invalid_indexes"][:REPORTED]:
        lines.append(
            f"    {database}: index {index['name']} is invalid: nobody uses it, and each write keeps it; it is left as it is"
        )
    return lines


def work(database: str, found: Mapping[str, Any]) -> list[str]:
    """:param found: of one database, as the module maintenance returns it.
    :return: the table of before and after."""
    items = found["items"]
    if not items:
        return _remains(database, found)
    counts = ", ".join(f"{number} {state}" for state, number in found["counts"].items())
    lines = [f"    {database}: {counts} in {seconds(found['seconds'])}; {size(found['given_back'])} given back"]
    width = max(len(item["object"]) for item in items[:SHOWN])
    for item in items[:SHOWN]:
        told = f"    {item['state']:<10}{_action(item):<16} {item['object']:<{width}}"
        if item["state"] == "done":
            told += f"  {seconds(item['seconds']):>9}  {size(item['bytes_before'])} -> {size(item['bytes_after'])}"
        lines.append("  ".join([told, *([str(item["why"])] if item["why"] else []), *item["notes"]]))
    lines += _more(len(items) - SHOWN)
    lines += [f"    {database}: {told}" for told in (found["verdict"], *found["held_up_by"]) if told]
    return lines + _remains(database, found)


def _remains(database: str, found: Mapping[str, Any]) -> list[str]:
    remains = found["remains"]
    lines = [
        f"    {database}: dropped {name}, which a rebuild that was cut off had left" for name in remains["dropped"]
    ]
    return lines + [
        f"    {database}: {name} is still there, its table is in use; the next run drops it" for name in remains["left"]
    ]


def _action(item: Mapping[str, Any]) -> str:
    return f"{item['action']} + analyze" if item["with_analyze"] else str(item["action"])


def _more(number: int) -> list[str]:
    return [f"    and {number} more in the report"] if number > 0 else []
