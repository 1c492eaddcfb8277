# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compare two databases that are kept in step, table by table by hash, while clients go on writing.

Both have to be read as of one moment. For that writers of one table wait until what they have committed has come over, which takes
milliseconds; then each side has its snapshot, and they go on while the table is read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import blue_green_state, content
from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_tables import Carried
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from psycopg2 import sql

# Writers wait behind the lock for no longer than these two together.
LOCK_TIMEOUT_MS = 100
ARRIVE_SECONDS = 0.5
ARRIVE_POLL_SECONDS = 0.002
_TRIES = 300
# Each try holds the writers of a table up; between two of them they work.
_AGAIN_SECONDS = 2.0
_TOLD = 5
_MODULUS = 1 << 64


class Comparison:
    """The sessions that a comparison needs, for its length."""

    def __init__(
        self, target: Target, green: str, *, application_name: str, progress: Progress, control: Control
    ) -> None:
        self._target = target.as_restore()
        self._green = green
        self._application_name = application_name
        self._progress = progress
        self._control = control

    def run(self, tables: Sequence[Carried]) -> dict[str, Any]:
        """:return: ``tables`` and ``rows`` that were compared, and ``blocked_ms``, the longest that writers of a table waited.
        :raises PgopsError: a table differs, each with the number of its rows; or what is written does not come over."""
        rows, blocked = 0, 0.0
        different = []
        with (
            closing(self._connect(self._target.database)) as locking,
            closing(self._connect(self._target.database)) as live,
            closing(self._connect(self._green)) as green,
        ):
            forgets = [self._control.on_interrupt(conn.cancel) for conn in (live, green)]
            try:
                for number, table in enumerate(tables, 1):
                    self._progress.emit(
                        f"comparing {table.live.name}", database=self._target.database, done=number, total=len(tables)
                    )
                    blocked = max(blocked, self._at_one_moment(locking, live, green, table))
                    here, there = _content(live, table, live=True), _content(green, table, live=False)
                    execute(live, "COMMIT")
                    execute(green, "COMMIT")
                    rows += here[0]
                    if here != there:
                        different.append({"table": table.live.name, "live_rows": here[0], "green_rows": there[0]})
                    self._control.check()
            finally:
                for forget in forgets:
                    forget()
        if different:
            told = "; ".join(
                f"{e['table']} has {e['live_rows']} rows here and {e['green_rows']} there" for e in different[:_TOLD]
            )
            raise PgopsError(
                f"{self._green} differs from {self._target.database}: {told}.",
                database=self._target.database,
                object_name=str(different[0]["table"]),
                hint="A version that changes values, or somebody who wrote into the new database. Give it up and prepare it again.",
                extra={"reason": "different", "differences": different},
            )
        return {"tables": len(tables), "rows": rows, "blocked_ms": round(blocked * 1000, 1)}

    def _connect(self, database: str) -> Connection:
        return connect(self._target.with_(database=database), application_name=self._application_name)

    def _at_one_moment(self, locking: Connection, live: Connection, green: Connection, table: Carried) -> float:
        """Open a snapshot on both sides that has the same transactions of the table. :return: seconds that its writers waited at most."""
        longest = 0.0
        name = sql.Identifier(table.live.schema, table.live.table)
        for _try in range(_TRIES):
            self._control.check()
            began = time.monotonic()
            try:
                execute(
                    locking, sql.SQL("BEGIN; SET LOCAL lock_timeout = {}").format(sql.Literal(f"{LOCK_TIMEOUT_MS}ms"))
                )
                execute(locking, sql.SQL("LOCK TABLE {} IN SHARE MODE").format(name))
                if arrived(live, green, ARRIVE_SECONDS):
                    for conn in (live, green):
                        execute(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                        fetch_one(conn, "SELECT 1 AS snapshot")
                    return max(longest, time.monotonic() - began)
            except psycopg2.errors.LockNotAvailable:
                pass
            finally:
                execute(locking, "ROLLBACK")
            longest = max(longest, time.monotonic() - began)
            time.sleep(_AGAIN_SECONDS)
        raise PgopsError(
            f"{table.live.name} could not be compared: in {_TRIES} tries its writers were never all over within {ARRIVE_SECONDS:g} s.",
            database=self._target.database,
            object_name=table.live.name,
            hint="A long transaction holds it, or the replication does not keep up; run the same command again when there is less load.",
            extra={"reason": "not_compared"},
        )


def arrived(live: Connection, green: Connection, seconds: float, poll: float = ARRIVE_POLL_SECONDS) -> bool:
    """Write a marker here and wait for it there. :return: whether it came in time, and with it all that was committed before it."""
    beat = f"{time.time_ns()}"
    blue_green_state.set_marker(live, beat)
    deadline = time.monotonic() + seconds
    while blue_green_state.marker(green) != beat:
        if time.monotonic() > deadline:
            return False
        time.sleep(poll)
    return True


def _content(conn: Connection, table: Carried, *, live: bool) -> tuple[int, int]:
    """:return: number of rows, and the sum of their hashes over the columns that both have."""
    shape = table.live if live else table.green
    expressions, kinds = [], []
    for name in sorted(table.columns):
        expression, kind = _column(table.live.named[name], table.green.named[name], name, live=live)
        expressions.append(sql.SQL("{} AS {}").format(expression, sql.Identifier(name)))
        kinds.append((name, kind))
    row = fetch_one(
        conn,
        sql.SQL(
            "SELECT count(*) AS rows, coalesce(sum({}), 0)::text AS total FROM (SELECT {} FROM {}{}) AS compared"
        ).format(
            content.chain_of(kinds),
            sql.SQL(", ").join(expressions),
            sql.SQL("" if shape.partitioned else "ONLY "),
            sql.Identifier(shape.schema, shape.table),
        ),
    )
    assert row is not None
    return int(row["rows"]), int(row["total"]) % _MODULUS


def _column(here: Mapping[str, Any], there: Mapping[str, Any], name: str, *, live: bool) -> tuple[sql.Composable, str]:
    """A value goes over as text and is read by the other type: the same is done here, on the side that knows both types.

    :return: the expression of a column, and by what it is hashed.
    """
    column = sql.Identifier(name)
    if here["type"] == there["type"]:
        return column, str(here["base"]) if here["builtin"] else "text"
    if not here["builtin"] and not there["builtin"]:
        return column, "text"
    wanted = there if there["builtin"] else here
    if live == bool(there["builtin"]):
        return sql.SQL("({}::text)::{}").format(column, sql.SQL(str(wanted["type"]))), str(wanted["base"])
    return column, str(wanted["base"])
