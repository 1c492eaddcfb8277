# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which tables of a backup were asked for, by its catalog and its manifest alone."""

from __future__ import annotations

import difflib
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, catalog, plain_sql
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.side_schema import Wanted

_NEAR = 5  # names that are told where there is none of the one that was typed
_MODULUS = 1 << 64


def wanted(backup: Backup, table: str, schema: str) -> tuple[list[Wanted], list[str]]:
    """:param table: ``name`` or ``schema.name``; or ``schema``, for all of its tables.
    :return: the tables to copy, and what of the schema is none.
    :raises PgopsError: both were named, or none, or there is no such table or schema; it says what is near."""
    if bool(table) == bool(schema):
        raise PgopsError(
            "One of restore_table and restore_schema says what to restore"
            + (", not both." if table else ", and none is set."),
            hint="-e restore_table=NAME, or -e restore_schema=NAME for all tables of a schema.",
        )
    inventory = backup_store.read_catalog(backup)
    everything = {key: entry for key, entry in inventory.items() if catalog.kind_of(key).endswith("table")}
    relations = {key: entry for key, entry in everything.items() if catalog.kind_of(key) == "table"}
    if schema:
        found = {key: entry for key, entry in relations.items() if entry["schema"] == schema}
        # A partition comes with its table.
        found = {key: entry for key, entry in found.items() if not entry.get("partition_bound")}
        known = sorted({str(entry["schema"]) for entry in relations.values()})
        what, typed = "schema", schema
    else:
        *above, name = plain_sql.parts(table) or ("",)
        found = {
            key: entry for key, entry in relations.items()
            if entry["table"] == name and (not above or entry["schema"] == above[-1])
        }  # fmt: skip
        known = sorted(catalog.name_of(key) for key in relations)
        what, typed = "table", table
    if not found:
        raise _unknown(backup, what, typed, known)
    if table and len(found) > 1:
        names = sorted(catalog.name_of(key) for key in found)
        raise PgopsError(
            f"{backup.path} holds several tables {table}: {', '.join(names)}; nothing was done.",
            hint=f"Name one with its schema: -e restore_table={names[0]}",
        )
    tables = [_table(backup, everything, key) for key in sorted(found)]
    others = ("view", "materialized view", "foreign table")
    passed = [
        key for key, entry in sorted(inventory.items())
        if schema and catalog.kind_of(key) in others and entry["schema"] == schema
    ]  # fmt: skip
    return tables, passed


def _unknown(backup: Backup, what: str, typed: str, known: list[str]) -> PgopsError:
    bare = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(typed, known, _NEAR) or [
        bare[name] for name in difflib.get_close_matches(typed.rpartition(".")[2], list(bare), _NEAR)
    ]
    told = f"; near it are {', '.join(near)}" if near else f"; it holds {len(known)} others"
    return PgopsError(
        f"{backup.path} holds no {what} {typed}{told}; nothing was done.",
        database=backup.manifest["database"],
        object_name=typed,
        hint=f"-e restore_{what}={near[0]}" if near else None,
        extra={"near": near},
    )


def _table(backup: Backup, relations: dict[str, Any], key: str) -> Wanted:
    """:return: the table with what the manifest says of it; of a partitioned one, of its partitions together."""
    entry, manifest = relations[key], backup.manifest["tables"]
    parts = _leaves(relations, catalog.name_of(key)) if entry.get("partition_key") else [catalog.name_of(key)]
    for part in parts:
        if part not in manifest or manifest[part]["kind"] != "table":
            raise PgopsError(
                f"{backup.path} holds no rows of {part}: it is a foreign table, or an unlogged one of a standby; nothing was done.",
                object_name=part,
                extra={"file": backup.path},
            )
    held = [manifest[part] for part in parts]
    total = sum(int(part["hash"], 16) for part in held) % _MODULUS
    return Wanted(
        str(entry["schema"]), str(entry["table"]), tuple(parts), sum(part["rows"] for part in held), f"{total:016x}"
    )


def _leaves(relations: dict[str, Any], name: str) -> list[str]:
    found: list[str] = []
    for key, entry in relations.items():
        if entry.get("partition_bound") and name in (entry.get("parents") or []):
            part = catalog.name_of(key)
            found += _leaves(relations, part) if entry.get("partition_key") else [part]
    return sorted(found)
