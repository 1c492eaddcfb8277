# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The outage of a swap, as the worst of eight clients sees it that connect again and again.

    PYTHONPATH=collections:tests .venv/bin/python benchmarks/swap.py

Ten swaps, back and forth between a database and its staged restore. Each client holds a session, runs a query every two
milliseconds and connects again at once when it is thrown out; its outage is the longest time between two answers. One of
the eight is a superuser. Beside it, what the tool itself says: from the fence to the fence lifted.
"""

from __future__ import annotations

import statistics
import tempfile
import time

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, dump, restore, swap
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from durable import make_durable
from reconnecting import Client
from support import server as servers

SWAPS = 10
CLIENTS = 8
DATABASE = "bench_swap"
ASKS = "SELECT count(*) FROM pg_class"
RUN = "20260101T000000Z-cccccc"


def main() -> None:
    """Print each swap, then median and maximum."""
    server = servers.embedded_server()
    try:
        make_durable(server)
        server.create_database(DATABASE)
        server.execute("CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 100000) g", database=DATABASE)
        target = Target(
            host=server.host, port=str(server.port), user=servers.RESTORE, database=DATABASE, passfile=str(server.passfile),
            bindir=str(server.bindir),
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            made = dump.create_backup(target, directory=folder, run_id=RUN)
            restore.prove(target, made["path"], work=restore.Work(RUN))
            other = restore.stage(target, backup_store.read_backup(made["path"]), work=restore.Work(RUN))["staged"]
        seen, told = [], []
        for number in range(SWAPS):
            clients = [
                Client(server, DATABASE, servers.SUPERUSER if n == 0 else servers.APP, ASKS, n) for n in range(CLIENTS)
            ]
            for client in clients:
                client.start()
            time.sleep(1)
            for client in clients:
                client.counting.set()
            done = swap.Swap(target, other, run_id=RUN).run()
            time.sleep(0.3)
            for client in clients:
                client.ended.set()
            for client in clients:
                client.join()
            other = done["aside"]
            seen.append(max(client.worst for client in clients) * 1000)
            told.append(done["outage_ms"])
            print(
                f"swap {number + 1}: worst client {seen[-1]:.0f} ms, fenced {told[-1]:.0f} ms, {done['sessions_ended']} sessions"
            )
        print(
            f"worst of {CLIENTS} clients: p50 {statistics.median(seen):.0f} ms, max {max(seen):.0f} ms; "
            f"fenced: p50 {statistics.median(told):.0f} ms, max {max(told):.0f} ms"
        )
    finally:
        servers.discard(server)


if __name__ == "__main__":
    main()
