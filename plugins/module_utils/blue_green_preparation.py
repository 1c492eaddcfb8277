# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The steps that make the new database of a blue-green change, copy the rows, keep it in step and compare it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    blue_green_copy,
    blue_green_link,
    blue_green_properties,
    blue_green_record,
    blue_green_sequences,
    blue_green_state,
    blue_green_tables,
    blue_green_triggers,
    catalog,
    database_marks,
    locks,
    migrate,
    restore,
    strategies_of_versions,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_change import Change
from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_compare import Comparison, arrived
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import VERIFIED, Mark
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection

PREPARING = "preparing"
_TELL_SECONDS = 2.0

_MATERIALIZED = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'm' AND n.nspname !~ '^pg_' ORDER BY c.oid
"""


class Preparation:
    """The steps of :func:`blue_green.prepare` that write."""

    def __init__(
        self,
        change: Change,
        conn: Connection,
        migrations: Sequence[Mapping[str, Any]],
        versions: list[str],
        way: migrate.Way,
        connection: str,
    ) -> None:
        self.change = change
        self.conn = conn
        self.migrations = migrations
        self.versions = versions
        self.way = way
        self.connection = connection

    def run(self) -> dict[str, Any]:
        """:return: what was compared."""
        change = self.change
        with closing(change.connect(change.live_target)) as live:
            # No other run writes into the ledger or changes a table while both are copied.
            lock = locks.RunnerLock(live, control=change.work.control, tell=change.tell)
            lock.acquire()
            change.tell("freezing the schema of the live database")
            checksums = {
                str(v["version"]): str(v["rendered_checksum"])
                for v in self.migrations
                if str(v["version"]) in self.versions
            }
            # The run under which the ledger of the new database has the versions: their rows are looked for by it.
            record: dict[str, Any] = {
                "run_id": self.way.run.id, "at": _now(), "versions": self.versions, "checksums": checksums,
                **blue_green_record.declared(self.migrations, self.versions),
            }  # fmt: skip
            blue_green_state.freeze(live, record)
            change.after("frozen")
            mark = self._create(live)
            tables, record["applied"] = self._shape(live)
            with closing(change.connect(change.green_target)) as green:
                blue_green_properties.follow(live, green)
                record["triggers"] = blue_green_triggers.lower(green)
                change.tell("waiting for open transactions, then copying the rows")
                change.link.make(live, green, tables, self.connection, change.work.control)
                record["fingerprint"] = catalog.fingerprint(catalog.inventory(live))
                change.after("linked")
                self._wait_until_copied(green)
                change.after("copied")
                settle(change, live, green)
            change.tell("collecting statistics")
            restore.analyze(change.green_target, change.work)
            record["compared"] = compare(change, tables)
            blue_green_state.write(live, record)
            database_marks.set_mark(self.conn, change.green, replace(mark, state=VERIFIED))
            return dict(record["compared"])

    def _create(self, live: Connection) -> Mark:
        change = self.change
        properties = catalog.database_properties(live)
        shown = database_marks.read_mark(properties["comment"])
        properties["comment"] = shown.comment if shown else properties["comment"]
        mark = Mark(
            database_marks.GREEN, change.database, change.work.run_id, _now(), state=PREPARING, comment=properties["comment"]
        )  # fmt: skip
        change.tell(f"making {change.green}")
        restore.create(self.conn, change.green, properties, mark, whole=True)
        change.after("created")
        return mark

    def _shape(self, live: Connection) -> tuple[list[blue_green_tables.Carried], list[dict[str, Any]]]:
        """Make the live shape in the new database and apply the versions to it, while it is empty. :return: what is carried, and was applied."""
        change = self.change
        change.tell("copying the schema")
        blue_green_copy.copy_schema(change.live_target, change.green_target, change.work)
        blue_green_copy.copy_ledger(change.live_target, change.green_target, change.work)
        # The role that migrates has to come in.
        execute(
            self.conn,
            f"GRANT CONNECT ON DATABASE {_ident(self.conn, change.green)} TO {_ident(self.conn, str(change.target.user))}",
        )
        with closing(change.connect(change.green_target)) as green:
            before = blue_green_tables.shapes(green)
            change.tell(f"applying {', '.join(self.versions)} to {change.green}")
            where = change.target.with_(database=change.green)
            selection = Selection(target=self.versions[-1], strategy=strategies_of_versions.ANY)
            done = migrate.apply(where, self.migrations, selection, self.way)
            change.after("applied")
            after = blue_green_tables.shapes(green)
            carried = blue_green_tables.refuse_changes(
                live, green, before, after, change.database, more=blue_green_sequences.refused
            )
            return carried, blue_green_record.applied(done)

    def _wait_until_copied(self, green: Connection) -> None:
        change, told = self.change, 0.0
        while True:
            change.work.control.check()
            change.link.refuse_broken(self.conn, change.settings)
            ready, tables = change.link.copied(green)
            if tables and ready == tables:
                return
            if time.monotonic() - told >= _TELL_SECONDS:
                told = time.monotonic()
                size = fetch_one(self.conn, "SELECT pg_catalog.pg_database_size(%s) AS bytes", (change.green,))
                change.tell(
                    "copying the rows", done=ready, total=tables, unit="tables",
                    size_bytes=int(size["bytes"]) if size else None,
                )  # fmt: skip
            time.sleep(blue_green_link.POLL_SECONDS)


def settle(change: Change, live: Connection, green: Connection) -> None:
    """Wait until what was committed so far has come over, and fill the materialized views, of which no row is replicated.

    :raises PgopsError: it does not come within ``settings.catch_up_seconds``.
    """
    change.tell("waiting for what was written meanwhile")
    deadline = time.monotonic() + change.settings.catch_up_seconds
    while not arrived(live, green, blue_green_link.POLL_SECONDS * 5):
        change.work.control.check()
        change.link.refuse_broken(live, change.settings)
        if time.monotonic() > deadline:
            raise PgopsError(
                f"What is written into {change.database} does not come over into {change.green} within "
                f"{change.settings.catch_up_seconds:g} s.",
                database=change.database,
                hint="The server applies it slower than clients write; prepare it when there is less load, or raise blue_green_catch_up.",
                extra={"reason": "behind"},
            )
    forget = change.work.control.on_interrupt(green.cancel)
    try:
        for row in fetch_all(green, _MATERIALIZED):
            execute(green, f"REFRESH MATERIALIZED VIEW {row['name']}")
    finally:
        forget()


def compare(change: Change, tables: Sequence[blue_green_tables.Carried]) -> dict[str, Any]:
    """:return: as :meth:`Comparison.run`."""
    return Comparison(
        change.target, change.green, application_name=change.work.application_name, progress=change.work.progress,
        control=change.work.control,
    ).run(tables)  # fmt: skip


def _ident(conn: Connection, name: str) -> str:
    row = fetch_one(conn, "SELECT quote_ident(%s) AS name", (name,))
    assert row is not None
    return str(row["name"])


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
