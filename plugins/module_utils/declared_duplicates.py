# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Of two indexes that are the same, which an applied version declares: dropped by hand, it would be missing at each verification."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import existing, preflight_facts
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted

_LEDGER = "SELECT pg_catalog.to_regclass('pgops.migration') IS NOT NULL AS there"
# Only the versions that may name one of them.
_VERSIONS = """
SELECT m.version, m.rendered -> 'steps' AS steps
  FROM pgops.migration AS m, LATERAL (SELECT (m.rendered -> 'steps')::text AS steps) AS t
 WHERE m.state <> 'reverted'
   AND EXISTS (SELECT FROM unnest(%(words)s::text[]) AS word WHERE pg_catalog.strpos(t.steps, word) > 0)
 ORDER BY m.version COLLATE "C"
"""


def judged(target: Target, limit: str, application_name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """:param rows: of the check ``duplicate_indexes``.
    :param limit: what commands are typed with behind ``-l``.
    :return: the same where no applied version declares the index that is to go. Where one does, its twin is to go if nobody
        declares that and it does no more; else nothing is wrong with the database, and a remark says what the versions have."""
    try:
        with closing(connect(target, application_name=application_name)) as conn:
            preflight_facts.prepare(conn)
            versions = _declared(conn, rows)
    except (PgopsError, psycopg2.Error):
        # Somebody else's ledger: what is dropped must not be one of its own.
        return [
            {**row, "todo": f"see that no applied version of the ledger declares {row['object']}, then {row['todo']}"}
            for row in rows
        ]
    return [_judged(row, versions, limit) for row in rows]


def _judged(row: Mapping[str, Any], versions: Mapping[tuple[str, str, bool], str], limit: str) -> dict[str, Any]:
    goes, stays = (versions.get(key) for key in _keys(row))
    if goes is None:
        return dict(row)
    if stays is None and row["kept_todo"]:
        twin = f"{quoted(str(row['schema']))}.{quoted(str(row['kept']))}"
        return {**row, "object": twin, "kept": row["name"], "todo": row["kept_todo"]}
    of = f" of version {stays}" if stays else ""
    remark = (
        f"index {row['object']} of version {goes} is the same as {row['kept']}{of}; only a version of its own drops one"
    )
    if not row["of_constraint"]:
        remark += f", by the command that ansible-playbook maintenance.yml -l {shlex.quote(limit)} --check shows"
    return {**row, "level": "ok", "remark": remark}


def _keys(row: Mapping[str, Any]) -> tuple[tuple[str, str, bool], tuple[str, str, bool]]:
    table = str(row["of_table"])
    return (table, str(row["name"]), bool(row["of_constraint"])), (
        table,
        str(row["kept"]),
        bool(row["kept_of_constraint"]),
    )


def _declared(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, bool], str]:
    """:return: table, name and whether it is a constraint's -> the first version that names it; without a ledger nothing.

    Names, wherever they stand in a way up: a block of PL/pgSQL and a RENAME make indexes too. A constraint may have got its
    name from the server, when its table was made.
    """
    if not (fetch_one(conn, _LEDGER) or {}).get("there"):
        return {}
    keys = {key for row in rows for key in _keys(row)}
    words = sorted({name for _, name, _ in keys} | {table for table, _, constraint in keys if constraint})
    found: dict[tuple[str, str, bool], str] = {}
    for migration in fetch_all(conn, _VERSIONS, {"words": words}):
        for step in migration["steps"]:
            _note(found, keys, str(migration["version"]), step)
    return found


def _note(
    found: dict[tuple[str, str, bool], str],
    keys: Iterable[tuple[str, str, bool]],
    version: str,
    step: Mapping[str, Any],
) -> None:
    built = {str(index["name"]) for index in step.get("indexes") or []}
    for key in keys:
        table, name, constraint = key
        if name in built:
            found.setdefault(key, version)
        whole = re.compile(rf"(?<![\w$]){re.escape(name)}(?![\w$])")
        for statement in step.get("up") or []:
            made, gone = statement.get("creates") or {}, existing.dropped(statement) or {}
            if gone.get("name") == name and gone.get("kind") in ("index", "constraint"):
                found.pop(key, None)
            elif whole.search(str(statement["sql"])) or (
                constraint and made.get("kind") == "table" and made.get("name") == table
            ):
                found.setdefault(key, version)
