# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which versions a rollback takes back, whether they can go, and what goes with them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    adopted,
    bounded_look,
    dependents,
    existing,
    going_down,
    label_refusal,
    ledger,
    quarantine,
    row_versions,
    taken_along,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, connect, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import application_name
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import (
    down_text,
    kept_objects,
    needs_down,
    table_names,
)
from psycopg2 import sql


@dataclass(frozen=True)
class Reverts:
    """Which versions go: nothing set means the last one only.

    :ivar steps: the last so many.
    :ivar keep: every version after this one; this one stays applied.
    :ivar through: every version from the last down to this one, this one too.
    :ivar version: this one alone.
    """

    steps: int | None = None
    keep: str | None = None
    through: str | None = None
    version: str | None = None


def preview_revert(
    target: Target,
    selection: Reverts,
    *,
    run_id: str = "preview",
    rewrite_limit_mb: int | None = None,
    index_timeout_s: int | None = None,
) -> dict[str, Any]:
    """Tell exactly what :func:`revert` would do, and write nothing.

    :param rewrite_limit_mb: in the place of what the versions declare; ``index_timeout_s`` the same, for the looks at rows.
    :return: ``versions`` (newest first, with what stays), ``remaining`` (how many stay applied), ``loss`` (see
        :func:`data_loss`), ``unlooked`` (by version, what may stop it in its turn and cannot be told now), ``prepared`` (the SQL).
    :raises PgopsError: whatever would refuse the revert.
    """
    conn = connect(target, application_name=application_name(run_id))
    try:
        with bounded_look.bounded(conn, f"The way back in {target.database} could not be told"):
            found = ledger.read(conn)
            chosen = select_reverts(conn, found, selection)
            migrations = ledger.all_stored(conn, [row.version for row in chosen])
            if index_timeout_s is not None:
                given = {"index_timeout_s": index_timeout_s}
                migrations = [{**one, "budgets": {**(one.get("budgets") or {}), **given}} for one in migrations]
            adopted.refuse_revert(conn, list(zip(chosen, migrations)))
            unlooked: dict[str, list[str]] = {}
            label_refusal.refuse_revert(conn, list(zip(chosen, migrations)), rewrite_limit_mb, unlooked)
            quarantine.refuse_revert(conn, list(zip(chosen, migrations)))
            there = standing(conn, found) if chosen else {}
            taken_along.TakenAlong(list(zip(chosen, migrations)), there, found).refuse(conn)
            for drop in dependents.Dependents(list(zip(chosen, migrations)), there).refuse(conn):
                unlooked.setdefault(drop.version, []).append(f"what stands on {drop}")
            texts = []
            for row, migration in zip(chosen, migrations):
                there.pop(row.version)
                texts.append(down_text(conn, row, migration, there, rewrite_limit_mb, first=row is chosen[0]))
            return {
                "versions": [summary(row, migration) for row, migration in zip(chosen, migrations)],
                "loss": data_loss(conn, list(zip(chosen, migrations))),
                "remaining": len(begun(found)) - len(chosen),
                "ledger_head": found.head,
                "unlooked": [
                    {"version": row.version, "what": unlooked[row.version]} for row in chosen if row.version in unlooked
                ],
                "prepared": "".join(texts),
            }
    finally:
        conn.close()


def begun(found: ledger.Ledger) -> list[ledger.Migration]:
    """:return: the versions of which something may be in the database."""
    return found.in_state("applied", "applying", "failed", "reverting")


def standing(conn: Connection, found: ledger.Ledger) -> dict[str, dict[str, Any]]:
    """:return: those versions as they were rendered when they were applied."""
    versions = [row.version for row in begun(found)]
    return dict(zip(versions, ledger.all_stored(conn, versions)))


def select_reverts(conn: Connection, found: ledger.Ledger, selection: Reverts) -> list[ledger.Migration]:
    """:return: the rows to revert, newest first.

    :raises PgopsError: a named version is not applied, an applied version depends on it, or one declares that it cannot
        be reverted.
    """
    database = str(conn.info.dbname)
    given = {name: value for name, value in vars(selection).items() if value is not None}
    if len(given) > 1:
        raise PgopsError(
            f"{' and '.join('rollback_' + name for name in given)} were given; give one of them.",
            database=database,
            extra={"reason": "not_one"},
        )
    there = sorted(begun(found), key=lambda row: row.version, reverse=True)
    named = selection.keep or selection.through or selection.version
    if named is not None and named not in [row.version for row in there]:
        row = found.get(named)
        raise PgopsError(
            f"Version {named} is not applied in {database}" + (f" (it is {row.state})." if row else "."),
            database=database,
            extra={"reason": "not_applied"},
        )
    if selection.steps is not None:
        if selection.steps < 1:
            raise PgopsError(f"rollback_steps is {selection.steps}; give 1 or more.", database=database)
        chosen = there[: selection.steps]
    elif selection.keep is not None:
        chosen = [row for row in there if row.version > selection.keep]
    elif selection.through is not None:
        chosen = [row for row in there if row.version >= selection.through]
    elif selection.version is not None:
        chosen = [row for row in there if row.version == selection.version]
    else:
        chosen = there[:1]
    _refuse_half_reverted(conn, there, chosen, selection)
    going = {row.version for row in chosen}
    for row in chosen:
        migration = ledger.stored(conn, row.version)
        if (migration.get("rollback") or {}).get("safety") == "none" and _begun(row):
            stays = (migration.get("rollback") or {}).get("stays") or "it says so itself"
            raise PgopsError(
                f"Version {row.version} cannot be reverted by its down ({stays}); restore the backup instead: "
                "-e rollback_strategy=restore.",
                database=database,
                extra={"reason": "one_way", "version": row.version},
            )
        for other in there:
            if other.version in going or other.version == row.version:
                continue
            why = _depends(ledger.stored(conn, other.version), migration)
            if why:
                through = [one.version for one in there if one.version >= row.version]
                raise PgopsError(
                    f"Version {row.version} cannot be reverted alone in {database}: version {other.version} {why}; "
                    f"-e rollback_through={row.version} reverts {', '.join(through)}, in this order.",
                    database=database,
                    extra={"reason": "needed", "version": row.version, "needed_by": other.version},
                )
    return chosen


def _refuse_half_reverted(
    conn: Connection, there: Sequence[ledger.Migration], chosen: Sequence[ledger.Migration], selection: Reverts
) -> None:
    """Who names no version means the one that is half reverted, and a number would count another one in its place."""
    if selection.keep or selection.through or selection.version:
        return
    half = next((row.version for row in there if row.state == "reverting" and row not in chosen), None)
    if half is not None:
        raise PgopsError(
            f"Nothing was reverted in {conn.info.dbname}: version {half} is half reverted, and this rollback would revert "
            f"{', '.join(row.version for row in chosen)} in its place; finish that one first, or name the version that you mean.",
            database=str(conn.info.dbname),
            extra={"reason": "reverting", "version": half},
        )


def data_loss(
    conn: Connection,
    chosen: Sequence[tuple[ledger.Migration, Mapping[str, Any]]],
    since: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Count what the way down destroys: rows of dropped tables, values of dropped columns.

    Reads whole tables under ACCESS SHARE; counts only, never contents.

    :param since: a snapshot, see :func:`row_versions.window`; then ``written`` counts the rows of each table written since.
    :return: per table ``{"table", "rows", "columns": {name: values that are not NULL}, "version"}``; ``rows`` is None
        where only columns or some rows go, and ``some_rows`` says that a statement deletes rows.
    """
    lost: dict[str, dict[str, Any]] = {}
    window = row_versions.window(conn, since) if since else None
    for row, migration in chosen:
        for number, step in enumerate(migration["steps"], 1):
            if not needs_down(row, number):
                continue
            kept = kept_objects(row, number)
            for statement in _down_statements(step):
                gone = statement.get("destroys")
                if not gone or gone["kind"] not in ("table", "column", "rows") or existing.describe(gone) in kept:
                    continue
                schema, table = str(gone.get("schema") or "public"), str(gone.get("table") or gone["name"])
                if not fetch_one(
                    conn,
                    "SELECT 1 AS yes FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                    "WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'm')",
                    (schema, table),
                ):
                    continue
                entry = lost.setdefault(
                    f"{schema}.{table}",
                    {
                        "table": f"{schema}.{table}",
                        "rows": None,
                        "columns": {},
                        "some_rows": False,
                        "version": row.version,
                    },
                )
                if window is not None and "written" not in entry:
                    entry["written"] = row_versions.count(conn, schema, table, window, tree=True)["written"]
                if gone["kind"] == "table":
                    entry["rows"] = _count(conn, schema, table, sql.SQL("*"))
                elif gone["kind"] == "rows":
                    entry["some_rows"] = True
                elif existing.present(conn, [gone]):
                    entry["columns"][gone["name"]] = _count(conn, schema, table, sql.Identifier(str(gone["name"])))
    return [entry for entry in lost.values() if entry["rows"] or entry["some_rows"] or any(entry["columns"].values())]


def _count(conn: Connection, schema: str, table: str, what: sql.Composable) -> int:
    row = fetch_one(conn, sql.SQL("SELECT count({}) AS n FROM {}").format(what, sql.Identifier(schema, table)))
    return int(row["n"]) if row else 0


def _down_statements(step: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if step["kind"] == "sql":
        return list(step.get("down") or [])
    if step["kind"] == "backfill" and step.get("down"):
        return [step["down"]]
    return []


def _begun(row: ledger.Migration) -> bool:
    return row.state == "applied" or any(step.state == "done" or step.progress for step in row.steps)


def _depends(later: Mapping[str, Any], earlier: Mapping[str, Any]) -> str | None:
    if str(earlier["version"]) in [str(version) for version in later.get("depends_on") or []]:
        return "declares that it depends on it"
    if str(later["version"]) < str(earlier["version"]):
        return None
    tables, columns, types = set(), set(), set()
    for step in earlier["steps"]:
        for statement in step.get("up", []):
            made = statement.get("creates")
            if not made:
                continue
            schema = str(made.get("schema") or "public")
            if made["kind"] == "table":
                tables.add((schema, str(made["name"])))
            elif made["kind"] == "column":
                columns.add((schema, str(made["table"]), str(made["name"])))
            elif made["kind"] == "type":
                types.add(str(made["name"]))
    own = [
        drop
        for step in earlier["steps"]
        for statement in (step.get("down") or [] if step["kind"] == "sql" else [])
        for drop in going_down.dropped(str(earlier["version"]), statement)
        if drop.kind in ("function", "view", "sequence", "type")
    ]
    for table in table_names([later]):
        if table in tables:
            return f"uses its table {'.'.join(table)}"
    for step in later["steps"]:
        for index in step.get("indexes", []):
            table = (str(index.get("schema") or "public"), str(index["table"]))
            named = _columns_of(index)
            for key in sorted(columns):
                if key[:2] == table and key[2].lower() in named:
                    return f"has an index on its column {'.'.join(key)}"
        statements = [*step.get("up", []), *([step["statement"]] if step["kind"] == "backfill" else [])]
        for key in sorted(columns):
            if any(_names(statement, key) for statement in statements):
                return f"names its column {'.'.join(key)}"
        for statement in step.get("up", []):
            for name in types:
                if f'"{name}"' in statement["sql"] or f" {name} " in statement["sql"]:
                    return f"uses its type {name}"
            for drop in own:
                if _uses(str(statement["sql"]), drop):
                    return f"uses its {drop}"
    return None


def _uses(text: str, drop: going_down.Drop) -> bool:
    """:return: whether a statement names a function with the parenthesis of its call, a type with its schema, a view or
    sequence at all."""
    name = rf'"?{re.escape(drop.name)}"?(?![\w$"])'
    if drop.kind == "function":
        return bool(re.search(rf'(?<![\w$"]){name}\s*\(', text, re.IGNORECASE))
    if drop.kind == "type":
        return bool(re.search(rf'(?<![\w$])"?{re.escape(drop.schema)}"?\s*\.\s*{name}', text, re.IGNORECASE))
    return drop.name.lower() in going_down.words_of(text)


def _names(statement: Mapping[str, Any], column: tuple[str, str, str]) -> bool:
    schema, table, name = column
    if not {table.lower(), name.lower()} <= going_down.words_of(str(statement["sql"])):
        return False
    made = statement.get("creates") or {}
    if made.get("kind") not in ("table", "column", "constraint", "index"):
        return True
    # It speaks of the columns of its own table, and of those that a foreign key refers to.
    if (str(made.get("schema") or "public"), str(made.get("table"))) == (schema, table):
        return True
    referred = [part.get("references") or {} for part in (made, *(made.get("constraints") or []))]
    return any(
        (str(item.get("schema") or "public"), item.get("table")) == (schema, table) and name in item["columns"]
        for item in referred
    )


def _columns_of(index: Mapping[str, Any]) -> set[str]:
    """:return: in lower case the columns of an index, and the words of its expressions and its condition."""
    texts = [str(index.get("where") or ""), *(str(column.get("expression") or "") for column in index["columns"])]
    names = [*(column.get("column") or "" for column in index["columns"]), *(index.get("include") or [])]
    return going_down.words_of(" ".join(texts)) | {str(name).lower() for name in names}


def summary(row: ledger.Migration, migration: Mapping[str, Any]) -> dict[str, Any]:
    """:return: a version on its way back in a few fields: what it is, how safe its down is, what stays."""
    rollback = migration.get("rollback") or {}
    return {
        "version": row.version,
        "name": row.name,
        "title": row.title,
        "state": row.state,
        "safety": rollback.get("safety"),
        "stays": rollback.get("stays") or "",
    }
