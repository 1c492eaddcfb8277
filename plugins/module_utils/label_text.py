# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a step that added labels to enums takes back, told before it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import enum_types, existing
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction

MB = 1024 * 1024
# The same number as the tree's default, for a version that was applied before there was one.
DEFAULT_LIMIT_MB = 1


def added_labels(step: Mapping[str, Any]) -> dict[tuple[str, str], list[str]]:
    """:return: the labels that a step adds, by schema and type."""
    found: dict[tuple[str, str], list[str]] = {}
    for statement in step["up"]:
        made = statement["creates"]
        found.setdefault((str(made.get("schema") or "public"), str(made["type"])), []).append(str(made["name"]))
    return found


def word(schema: str, name: str, label: str) -> str:
    """:return: a label as the ledger has it."""
    return existing.describe({"kind": "enum_value", "schema": schema, "type": name, "name": label})


def down_text(conn: Connection, step: Mapping[str, Any], kept: set[str], limit_mb: int | None) -> list[str]:
    """:param kept: what was there before the version, in the words of :func:`existing.describe`.
    :param limit_mb: ``rewrite_limit_mb`` of the version, where it has one.
    :return: what the way down of the step does to each type, as lines of comment."""
    limit = DEFAULT_LIMIT_MB if limit_mb is None else limit_mb
    lines = []
    for (schema, name), added in added_labels(step).items():
        ours = [label for label in added if word(schema, name, label) not in kept]
        lines += [
            f"-- {word(schema, name, label)} was there before this version: it stays"
            for label in added
            if label not in ours
        ]
        if not ours:
            continue
        lines.append(f"-- {', '.join(ours)} go from type {schema}.{name}: one without them takes its place")
        mapping = {old: new for old, new in step["labels"]["mapping"].items() if old in ours}
        lines += [f"-- rows with {old} become {new}" for old, new in sorted(mapping.items())]
        if len(mapping) < len(ours):
            lines.append(
                "-- refused while a row has one of them"
                if not mapping
                else "-- refused while a row has another of them"
            )
        with transaction(conn):
            enum = enum_types.find(conn, schema, name)
        for table in enum.tables if enum else ():
            columns = ", ".join(column.name for column in table.columns)
            lines.append(f"-- {table.full} ({columns}): {_size(table.size)}")
        if enum and enum.tables:
            lines.append(f"-- {_way(enum.size, limit)}")
    return lines


def _way(size: int, limit_mb: int) -> str:
    if size > limit_mb * MB:
        return (
            f"more than {limit_mb} MB together, so beside the running clients: a new column, a trigger that keeps it, rows "
            "in batches, indexes CONCURRENTLY, then the names change in a short transaction; the column becomes the last one"
        )
    return f"at most {limit_mb} MB together, so rewritten in one transaction under ACCESS EXCLUSIVE"


def _size(size: int) -> str:
    return f"{size / MB:.1f} MB"
