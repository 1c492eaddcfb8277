# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""One version up, down and up again in a throw-away database, with the catalog compared at each turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, encoding, migrate, scratch
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.reconnect import LATER
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from psycopg2 import sql


def run(target: Target, migrations: Sequence[Mapping[str, Any]], version: str, way: migrate.Way) -> dict[str, Any]:
    """Apply every earlier version and this one, revert it, apply it again. Nothing of the target is read but its encoding.

    Where the scratch server is the target's own, the versions run as the role that migrates, owner of the database and no
    superuser, as they will later; on another server that role may not exist, so the restore role runs them.

    :return: ``up_s``, ``down_s``, ``again_s`` (seconds), ``after_down`` and ``after_again`` (differences, in words),
        ``safety`` as the version declares it, ``passed``.
    :raises PgopsError: there is no such version, it has no way down, or a step fails; the throw-away database is gone then too.
    """
    chosen = next((migration for migration in migrations if str(migration["version"]) == version), None)
    if chosen is None:
        known = ", ".join(str(migration["version"]) for migration in migrations)
        raise PgopsError(f"There is no version {version} in the tree; it holds {known}.", database=target.database)
    rollback = chosen.get("rollback") or {}
    if rollback.get("safety") == "none":
        raise PgopsError(
            f"Version {version} declares safety: none ({rollback.get('stays') or 'it says so itself'}), so there is no way down to "
            "try; nothing was made.",
            database=target.database,
            hint="Apply it to a copy of the database to see its way up: restore.yml makes one.",
        )
    tree = [migration for migration in migrations if str(migration["version"]) <= version]
    with closing(connect(target, application_name="pgops test_migration")) as conn:
        encoding.refuse(conn, "tried for")
    with _begins_again(), scratch.empty_database(target, encoding=encoding.NEEDED, run_id=way.run.id) as empty:
        where = _as_migrator(target, empty)
        if len(tree) > 1:
            migrate.apply(where, tree, Selection(target=str(tree[-2]["version"]), strategy="any"), way)
        before = _inventory(where)
        up = migrate.apply(where, tree, Selection(strategy="any"), way)["applied"][-1]
        after = _inventory(where)
        down = migrate.revert(where, Reverts(version=version), replace(way, on_a_copy=True))["reverted"][-1]
        after_down = _told(catalog.compare(before, _inventory(where), ignore=()))
        again = migrate.apply(where, tree, Selection(strategy="any"), way)["applied"][-1]
        after_again = _told(catalog.compare(after, _inventory(where), ignore=()))
    safety = str(rollback.get("safety") or "complete")
    return {
        "version": version,
        "name": chosen["name"],
        "safety": safety,
        "stays": rollback.get("stays") or "",
        "up_s": up["duration_s"],
        "down_s": down["duration_s"],
        "again_s": again["duration_s"],
        "after_down": after_down,
        "after_again": after_again,
        # A version that declares what stays may leave that; one that declares nothing leaves nothing.
        "passed": not after_again and (not after_down or safety != "complete"),
    }


@contextmanager
def _begins_again() -> Iterator[None]:
    """What is recorded in a throw-away database is of use to no later run."""
    try:
        yield
    except PgopsError as error:
        if error.hint == LATER:
            error.hint = "Run it again when the server is back: the test begins again, in a new throw-away database."
        raise


def _as_migrator(target: Target, empty: Target) -> Target:
    if target.scratch_host or target.scratch_port:
        return empty
    owner = target.owner or target.user
    if owner:
        with closing(connect(empty, application_name="pgops test_migration")) as conn:
            execute(
                conn,
                sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(empty.database), sql.Identifier(owner)),
            )
    return target.with_(database=empty.database)


def _inventory(where: Target) -> catalog.Inventory:
    with closing(connect(where, application_name="pgops test_migration")) as conn:
        return catalog.inventory(conn)


def _told(differences: Sequence[catalog.Difference]) -> list[str]:
    return [str(difference) for difference in differences]
