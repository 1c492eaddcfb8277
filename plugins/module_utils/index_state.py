# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which indexes a step has made, which are there, and whether they are the wanted ones."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    existing,
    index_build,
    index_builders,
    index_duties,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.index_build import full_name
from ansible_collections.whitecross.pgops.plugins.module_utils.index_definition import (
    index_definition,
    index_differences,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import create_index, schema_of
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import errorcodes


class IndexState:
    """What this step has built, remembered in the ledger as soon as it is known: the way down drops that and no more."""

    def __init__(self, context: StepContext, built: Collection[str] = ()) -> None:
        self._context = context
        self._lock = threading.Lock()
        self.built: list[str] = [*context.progress_so_far.get("built", [])]
        self.built += [name for name in sorted(built) if name not in self.built]
        self.present: list[str] = []
        self.replaced: dict[str, Any] = dict(context.progress_so_far.get("replaced", {}))
        # Ours, but as a later version makes it: the way down of that one may make it ours again.
        self.taken: list[str] = list(context.progress_so_far.get("taken", []))

    def replaces(self, index: Mapping[str, Any]) -> bool:
        """:return: whether the one that it replaces is there, or was when this step began to replace it."""
        name = full_name(index)
        if index.get("replaces") and name not in self.replaced:
            found = self.found(index)
            if found is not None and not self.differences(index["replaces"], found):
                # These are the index's own and go with it.
                self.replaced[name] = index_duties.remembered(self._context.conn, found)
        return name in self.replaced

    def found(self, index: Mapping[str, Any], conn: Connection | None = None) -> dict[str, Any] | None:
        """:param conn: the session to ask on, where a build is beside the one that has the ledger.
        :return: the index of that name as it is in the database."""
        return index_definition(conn or self._context.conn, schema_of(index), index["name"])

    def is_missing(self, index: Mapping[str, Any], conn: Connection | None = None) -> bool:
        """Drop what is left of a build of ours that was cut off.

        :return: whether the index is still to be built.
        :raises PgopsError: another relation has its name, or somebody may be building it.
        """
        conn, name = conn or self._context.conn, full_name(index)
        found = index_definition(conn, schema_of(index), index["name"])
        if found is None:
            other = fetch_one(
                conn,
                "SELECT c.relkind::text AS kind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE n.nspname = %s AND c.relname = %s",
                (schema_of(index), index["name"]),
            )
            if other:
                raise self.unequal(index, [f"wanted an index, found another relation (relkind {other['kind']})"])
            return True
        differences = self.differences(index, found, conn)
        on_ours = (found["schema"], found["table"]) == (schema_of(index), index["table"])
        if differences and found["valid"] and f"index {name}" in self._context.accepted:
            self.present.append(f"index {name}")
            self._context.tell(f"index {name} is there as it was accepted when the database was adopted: skipped")
            return False
        if differences and not (not found["valid"] and name in self.built and on_ours):
            if found["valid"] and self._is_replaced_later(index, found, conn):
                self.built += [name] if name not in self.built else []
                self.taken += [name] if name not in self.taken else []
                self.present.append(f"index {name}")
                self._context.tell(f"index {name} is there as a later version makes it: skipped")
                return False
            raise self.unequal(index, differences)
        if not found["valid"]:
            if self._waited_for_builders(index, conn):
                # Theirs may have become valid, or be gone.
                return self.is_missing(index, conn)
            # Same name and same definition, or begun by us: the remains of a build that was cut off.
            self._context.tell(f"index {name} is invalid, left by a build that was cut off: dropped and built again")
            index_build.drop(self._context, conn, schema_of(index), index["name"])
            return True
        if name not in self.built:
            self.present.append(f"index {name}")
            self._context.tell(f"index {name} is there already, with the same definition: skipped")
        return False

    def _waited_for_builders(self, index: Mapping[str, Any], conn: Connection) -> bool:
        """:return: whether somebody was there who may have been building it.
        :raises PgopsError: somebody still may be when the time for a build is over."""
        table, name = (schema_of(index), str(index["table"])), full_name(index)
        if not index_builders.builders(conn, *table):
            return False
        limit = self._context.budget("index_timeout_s")
        try:
            index_builders.wait(self._context, conn, table, limit, index=name, failing=f"looked again at index {name}")
        except PgopsError as error:
            if error.sqlstate != errorcodes.OBJECT_IN_USE:
                raise
            there = index_builders.named(index_builders.builders(conn, *table)) or "somebody"
            error.message = f"{self._context.doing} failed: index {name} is invalid, and {there} may be building it."
            error.args = (error.message,)
            error.object_name = name
            error.hint = (
                "Wait for it, then run it again: an index that has become valid is taken over, another is built anew."
            )
            raise
        return True

    def is_another(self, index: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
        """:return: whether the index of that name is not the wanted one, on another table or with another definition."""
        try:
            return bool(self.differences(index, found))
        except (psycopg2.errors.UndefinedColumn, psycopg2.errors.UndefinedTable):
            return True  # what it would be made of is gone

    def began(self, index: Mapping[str, Any]) -> None:
        """From now on what has that name is ours."""
        with self._lock:
            if full_name(index) not in self.built:
                self.built.append(full_name(index))
            self._write("running")

    def forget(self, index: Mapping[str, Any]) -> None:
        """It is not ours after all: somebody made one of that name before us."""
        with self._lock:
            self.built.remove(full_name(index))
            self._write("running")

    def _is_replaced_later(self, index: Mapping[str, Any], found: Mapping[str, Any], conn: Connection) -> bool:
        later = self._context.replacements.get((schema_of(index), str(index["name"])), ())
        return any(not self.differences(other, found, conn) for other in later)

    def differences(
        self, index: Mapping[str, Any], found: Mapping[str, Any], conn: Connection | None = None
    ) -> list[str]:
        """:return: how ``found`` differs from the wanted definition; empty when they are equal, whatever their names."""
        conn = conn or self._context.conn
        with transaction(conn), existing.shadow(conn) as shadow:
            existing.shadow_table(conn, shadow, schema_of(index), index["table"])
            execute(conn, create_index(index, concurrently=False, schema=shadow))
            wanted = index_definition(conn, shadow, index["name"])
            # In the shadow's transaction too, so that both print under one search_path.
            again = index_definition(conn, str(found["index_schema"]), str(found["name"]))
        return index_differences(wanted or {}, again or found)

    def unequal(self, index: Mapping[str, Any], differences: list[str]) -> existing.Unequal:
        """:return: the error of an index whose name another one has."""
        name = full_name(index)
        return existing.Unequal(
            f"{self._context.doing} failed: index {name} exists already with another definition: {'; '.join(differences)}",
            sqlstate=errorcodes.DUPLICATE_OBJECT,
            database=self._context.database,
            object_name=name,
            hint="Drop or rename that index if nobody needs it, or give the wanted one another name.",
            extra={"differences": differences},
        )

    def save(self, state: str) -> None:
        """Record the step's state with what was built, found there, replaced and taken."""
        with self._lock:
            self._write(state)

    def _write(self, state: str) -> None:
        progress: dict[str, Any] = {"built": self.built, "present": self.present}
        progress.update({key: value for key, value in (("replaced", self.replaced), ("taken", self.taken)) if value})
        self._context.save(state, progress)
