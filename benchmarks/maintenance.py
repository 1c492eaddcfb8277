# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Maintenance of 200 worn tables against ``vacuumdb --analyze -j2`` on the same work, and what a client notices of each.

    PYTHONPATH=collections:tests .venv/bin/python benchmarks/maintenance.py

TABLES=200 and ROWS=20000 are the tables and the rows of each; REPEATS=3. The plan is made before, as ``--check`` makes it; its time is told.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_plan import Needs
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_watch import Care
from support import server as servers
from support.engine import target_of
from support.maintained import maintain, plan
from support.server import OWNER, SUPERUSER, Server

TABLES, ROWS, REPEATS = (
    int(os.environ.get(name, value)) for name, value in (("TABLES", 200), ("ROWS", 20000), ("REPEATS", 3))
)
JOBS = 2
AIM = 1.1
# No index is rebuilt: vacuumdb rebuilds none.
NEEDS = Needs(index_least_mb=1e6, rows_least=10)
AT_FULL_SPEED = Care(cost_delay_ms=0)


def wear(server: Server, database: str) -> None:
    """Tables of which a fifth is dead, of two sizes; autovacuum leaves them alone."""
    server.create_database(database, OWNER)
    target = target_of(server, database)
    conn = connect(target, application_name="benchmark")
    for number in range(TABLES):
        rows = ROWS if number % 10 == 0 else ROWS // 10
        execute(conn, f"CREATE TABLE t{number} (id integer PRIMARY KEY, word text) WITH (autovacuum_enabled = off)")
        execute(conn, f"INSERT INTO t{number} SELECT n, repeat('x', 60) || n FROM generate_series(1, {rows}) n")
        execute(conn, f"DELETE FROM t{number} WHERE id % 5 = 0")
        execute(conn, "SELECT pg_stat_force_next_flush()")
    conn.close()


class Client(threading.Thread):
    """Reads and writes one row after the other until it is told to stop; the milliseconds of each."""

    def __init__(self, target: Any) -> None:
        super().__init__(daemon=True)
        self.conn, self.took, self.ended = connect(target, application_name="a client"), [], threading.Event()

    def run(self) -> None:
        number = 0
        while not self.ended.wait(0.005):
            number = number % (ROWS // 10 - 1) + 1
            begun = time.monotonic()
            execute(self.conn, f"UPDATE t1 SET word = word WHERE id = {number}")
            self.took.append(1000 * (time.monotonic() - begun))
        self.conn.close()

    def stop(self) -> str:
        self.ended.set()
        self.join()
        took = sorted(self.took)
        return f"client p99 {took[int(0.99 * (len(took) - 1))]:.1f} ms, max {took[-1]:.1f} ms"


def ours(server: Server, database: str) -> tuple[float, str]:
    """:return: seconds of the work, and what a client noticed."""
    target = target_of(server, database)
    begun = time.monotonic()
    made = plan(target, NEEDS)
    planned = time.monotonic() - begun
    client = Client(target)
    client.start()
    begun = time.monotonic()
    result = maintain(target, plan=made, care=AT_FULL_SPEED, jobs=JOBS, budget_s=3600)
    took = time.monotonic() - begun
    assert result["counts"] == {"done": TABLES}, result["counts"]
    return took, f"{client.stop()}; plan {planned:.2f} s"


def vacuumdb(server: Server, database: str) -> tuple[float, str]:
    """:return: the same of vacuumdb."""
    client = Client(target_of(server, database))
    client.start()
    begun = time.monotonic()
    subprocess.run(
        [server.bindir / "vacuumdb", "--analyze", f"--jobs={JOBS}", "--quiet", "--host", server.host, "--port", str(server.port), "--username", SUPERUSER,
         "--no-password", database],
        check=True, env={**os.environ, "PGPASSFILE": str(server.passfile)},
    )  # fmt: skip
    took = time.monotonic() - begun
    return took, client.stop()


def main() -> None:
    """Print each repeat, then the median ratio; in turn, each on a copy of its own."""
    server = servers.embedded_server()
    try:
        server.execute("ALTER SYSTEM SET autovacuum = off")
        server.execute("SELECT pg_reload_conf()")
        ratios = []
        for repeat in range(REPEATS):
            for name in ("theirs", "ours"):
                wear(server, f"{name}_{repeat}")
            server.execute("CHECKPOINT")
            theirs, their_clients = vacuumdb(server, f"theirs_{repeat}")
            server.execute("CHECKPOINT")
            own, own_clients = ours(server, f"ours_{repeat}")
            ratios.append(own / theirs)
            print(
                f"maintenance {own:.2f} s ({own_clients}), vacuumdb {theirs:.2f} s ({their_clients}), ratio {ratios[-1]:.2f}"
            )
        print(f"median ratio {statistics.median(ratios):.2f} (aim: {AIM} or less)")
    finally:
        servers.discard(server)


if __name__ == "__main__":
    main()
