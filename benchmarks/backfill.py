# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A backfill step against one UPDATE of the same rows, in turn, while eight clients read and write the table.

    PYTHONPATH=collections:tests .venv/bin/python benchmarks/backfill.py [ROWS]

One durable server; a table of ROWS rows (1,000,000 by default), made anew for each measurement; three repeats after one
that warms up, the order of the two turned each time. A client changes one row by its key every 20 ms; its clock runs by
that timetable, so a client that is stuck is late with all that it should have done meanwhile. The ratio is that of the
step, first batch to last; beside it the whole call, from connecting to the lock given back, which makes a ledger and costs
the same for any number of rows. Kept in ``benchmarks/results``.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import figures
import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, migrate, plan
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from durable import make_durable
from support import server as servers
from support.tree import TestTree

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 3
CLIENTS = 8
EACH_S = 0.02
SLOWEST_MS = 25.0
RATIO = 1.15
VERSION = "20260101000001"

TABLE = """
CREATE TABLE doses (id bigint PRIMARY KEY, pupil bigint NOT NULL, amount numeric(8, 2), note text NOT NULL,
                    unit text, seen integer NOT NULL DEFAULT 0) WITH (fillfactor = 90);
INSERT INTO doses (id, pupil, amount, note) SELECT n, n % 50000, n % 100, 'note ' || n FROM generate_series(1, {rows}) n;
"""
CHANGE = "UPDATE public.doses SET unit = 'mg' WHERE unit IS NULL"


class Client(multiprocessing.Process):
    """One client, in a process of its own: threads would wait for each other."""

    def __init__(self, server: servers.Server, database: str, rows: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.server, self.database, self.rows, self.seed = server, database, rows, seed
        self.ended = multiprocessing.Event()
        self.reader, self.writer = multiprocessing.Pipe(duplex=False)

    def run(self) -> None:
        """Change a row at each moment of the timetable, and tell at the end how late each answer was."""
        pick = random.Random(self.seed)
        late, failed = [], 0
        with closing(self.server.connect(self.database)) as conn, conn.cursor() as cursor:
            due = time.monotonic() + pick.random() * EACH_S
            while not self.ended.is_set():
                time.sleep(max(0.0, due - time.monotonic()))
                try:
                    cursor.execute("UPDATE doses SET seen = seen + 1 WHERE id = %s", (pick.randint(1, self.rows),))
                except psycopg2.Error:
                    failed += 1
                late.append(time.monotonic() - due)
                due += EACH_S
        self.writer.send((late, failed))


class Load:
    """Eight clients at work; ``slowest`` has each one's worst answer in ms afterwards."""

    def __init__(self, server: servers.Server, database: str, rows: int) -> None:
        self.clients = [Client(server, database, rows, seed) for seed in range(CLIENTS)]
        self.slowest: list[float] = []
        self.failed = 0

    def __enter__(self) -> Self:
        for client in self.clients:
            client.start()
        time.sleep(1)
        return self

    def __exit__(self, *exc: object) -> None:
        for client in self.clients:
            client.ended.set()
        for client in self.clients:
            late, failed = client.reader.recv()
            self.slowest.append(max(late, default=0.0) * 1000)
            self.failed += failed
            client.join()


def fresh(server: servers.Server, database: str, rows: int) -> None:
    """A new table, in the same state each time."""
    server.create_database(database)
    server.execute(TABLE.format(rows=rows), database=database)
    server.execute("ALTER TABLE doses OWNER TO white_cross_owner", database=database)
    server.execute("VACUUM (ANALYZE) doses", database=database)
    server.execute("CHECKPOINT")


def whole(server: servers.Server, database: str) -> float:
    """:return: seconds of one UPDATE of all rows."""
    began = time.monotonic()
    server.execute(CHANGE, database=database)
    return time.monotonic() - began


def engine(server: servers.Server, database: str, migrations: list[dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    """:return: seconds from connecting to the lock given back, and what the step tells, its own seconds too."""
    target = Target(
        host=server.host, port=str(server.port), user=servers.MIGRATOR, owner=servers.OWNER, database=database,
        passfile=str(server.passfile),
    )  # fmt: skip
    way = migrate.Way(ledger.Run(id=database, playbook="bench", environment="local", who="bench", ops_host="bench"))
    began = time.monotonic()
    result = migrate.apply(target, migrations, plan.Selection(), way)
    return time.monotonic() - began, result["applied"][0]["step_durations"][0]


def measured(
    server: servers.Server, rows: int, name: str, migrations: list[dict[str, Any]] | None
) -> tuple[float, Load, dict[str, Any]]:
    """:return: seconds, what the clients saw, and what the step tells."""
    database = f"bench_{name}"
    fresh(server, database, rows)
    step: dict[str, Any] = {}
    with Load(server, database, rows) as load:
        if migrations is None:
            seconds = whole(server, database)
        else:
            seconds, step = engine(server, database, migrations)
    left = server.execute("SELECT count(*) FROM doses WHERE unit IS NULL", database=database)[0][0]
    server.drop_databases(database)
    if left:
        raise SystemExit(f"{left} rows were not changed")
    return seconds, load, step


def main() -> None:
    """Print each repeat's times, ratio and worst client, then the medians."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    server = servers.embedded_server()
    try:
        make_durable(server)
        with tempfile.TemporaryDirectory() as folder:
            tree = TestTree(Path(folder))
            step = {"table": "doses", "key": "id", "statement": "fill.sql.j2", "irreversible": "a benchmark"}
            tree.add(
                VERSION, "fill", [{"backfill": step}], {"fill.sql.j2": f"{CHANGE} AND id BETWEEN $1 AND $2;"},
                rollback={"safety": "partial", "stays": "the units"},
            )  # fmt: skip
            migrations = tree.render()
        found: list[dict[str, Any]] = []
        for repeat in range(REPEATS + 1):
            ways = [("one_update", None), ("backfill", migrations)]
            row: dict[str, Any] = {}
            for name, given in ways if repeat % 2 else reversed(ways):
                seconds, load, told = measured(server, rows, name, given)
                row[name] = {"seconds": seconds, "slowest_ms": max(load.slowest), "failed": load.failed, **told}
            if repeat == 0:
                continue  # warm-up
            row["ratio"] = row["backfill"]["duration_s"] / row["one_update"]["seconds"]
            row["whole_ratio"] = row["backfill"]["seconds"] / row["one_update"]["seconds"]
            found.append(row)
            ours, theirs = row["backfill"], row["one_update"]
            print(
                f"one UPDATE {theirs['seconds']:.2f} s, worst client {theirs['slowest_ms']:.0f} ms; backfill "
                f"{ours['duration_s']:.2f} s (the whole call {ours['seconds']:.2f} s) in {ours['batches']} batches (the last of {ours['batch_size']}), worst client "
                f"{ours['slowest_ms']:.0f} ms; ratio {row['ratio']:.2f}; failed {theirs['failed']} and {ours['failed']}"
            )
        ratio = statistics.median(row["ratio"] for row in found)
        slowest = statistics.median(row["backfill"]["slowest_ms"] for row in found)
        print(
            f"median ratio {ratio:.2f} (aim: {RATIO} or less), worst client {slowest:.0f} ms (aim: {SLOWEST_MS:.0f} or less)"
        )
        figures.keep(
            "backfill",
            rows,
            {
                "commit": figures.commit(ROOT),
                "machine": figures.machine(),
                "postgresql": str(server.major),
                "ratio": ratio,
                "slowest_ms": slowest,
                "repeats": found,
            },
        )
    finally:
        servers.discard(server)


if __name__ == "__main__":
    main()
