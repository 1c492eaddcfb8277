# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The outage of a blue-green change, as the worst of eight writers sees it that connect again and again.

    PYTHONPATH=collections:tests .venv/bin/python benchmarks/blue_green.py

A table of 500,000 rows (ROWS) whose key goes from integer to bigint, three times, with durable settings. Each client writes a row every
two milliseconds; its outage is the longest time between two commits, and its rows are counted afterwards. Beside it the same ALTER TABLE
in the live database: for as long nobody reads or writes the table.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from ansible_collections.whitecross.pgops.plugins.module_utils import blue_green
from durable import make_durable
from reconnecting import Client
from support import server as servers
from support.blue_green import change_of, fill, versions
from support.engine import target_of, way
from support.tree import TestTree

ROWS = int(os.environ.get("ROWS", "500000"))
REPEATS = int(os.environ.get("REPEATS", "3"))
CLIENTS = 8
DATABASE = "bench_blue_green"
ALTER = "ALTER TABLE students ALTER COLUMN id TYPE bigint; ALTER TABLE visits ALTER COLUMN id TYPE bigint, ALTER COLUMN student_id TYPE bigint"


def change(server: servers.Server, folder: Path) -> tuple[float, float, float]:
    """:return: what the worst client saw and what the tool says, in ms, and the seconds of the preparation."""
    server.create_database(DATABASE, servers.OWNER)
    target = target_of(server, DATABASE)
    tree = versions(TestTree(folder))
    fill(server, target, tree, ROWS)
    server.execute("CREATE TABLE sent (id bigint PRIMARY KEY)", database=DATABASE)
    clients = [
        Client(server, DATABASE, servers.SUPERUSER, "INSERT INTO sent VALUES (%s)", number)
        for number in range(1, CLIENTS + 1)
    ]
    for client in clients:
        client.start()
    began = time.monotonic()
    blue_green.prepare(change_of(server, target), tree, way())
    prepared = time.monotonic() - began
    for client in clients:
        client.counting.set()
    done = blue_green.change_over(change_of(server, target), tree, confirmed=True)
    time.sleep(0.3)
    for client in clients:
        client.ended.set()
    for client in clients:
        client.join()
    there = int(server.execute("SELECT count(*) FROM sent", database=DATABASE)[0][0])
    acknowledged = sum(client.answered for client in clients)
    print(
        f"  {acknowledged} commits acknowledged, {there} rows there (one more a client may have been answered too late)"
    )
    if not acknowledged <= there <= acknowledged + CLIENTS:
        raise SystemExit("rows were lost or doubled")
    server.drop_databases(DATABASE)
    return max(client.worst for client in clients) * 1000, done["outage_ms"], prepared


def main() -> None:
    """Print each change, then the medians and the time of the ALTER TABLE."""
    server = servers.embedded_server()
    try:
        make_durable(server)
        seen, told = [], []
        for number in range(REPEATS):
            with tempfile.TemporaryDirectory() as folder:
                worst, fenced, prepared = change(server, Path(folder))
            seen.append(worst)
            told.append(fenced)
            print(
                f"change {number + 1}: worst client {worst:.0f} ms, fenced {fenced:.0f} ms; prepared in {prepared:.1f} s"
            )
        server.create_database(DATABASE, servers.OWNER)
        with tempfile.TemporaryDirectory() as folder:
            fill(server, target_of(server, DATABASE), versions(TestTree(Path(folder))), ROWS)
        server.execute("DROP MATERIALIZED VIEW busy", database=DATABASE)
        began = time.monotonic()
        server.execute(ALTER, database=DATABASE)
        altered = (time.monotonic() - began) * 1000
        print(
            f"worst of {CLIENTS} writers: p50 {statistics.median(seen):.0f} ms, max {max(seen):.0f} ms; fenced: p50 "
            f"{statistics.median(told):.0f} ms, max {max(told):.0f} ms; ALTER TABLE in the live database: {altered:.0f} ms"
        )
    finally:
        servers.discard(server)


if __name__ == "__main__":
    main()
