# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The whole chain on the demo's sample data, version by version up and down, while clients read and write.

    PYTHONPATH=collections:tests .venv/bin/python benchmarks/chain.py [STUDENTS]

200,000 students unless another number is given, 17 rows each. The first four versions make the tables that the data goes
into; the others find them full. A lock is one above SHARE UPDATE EXCLUSIVE on a table with rows, seen by a look at
pg_locks every few milliseconds: it was held for no longer than what is printed.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, migrate, plan
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import read_tree, render
from support import server as servers
from support.clients import Clients, LockWatch, let_in, load_sample_data

ROOT = Path(__file__).resolve().parents[1]
STUDENTS = 200_000
DATABASE = "bench_chain"
LAST_EMPTY = "20250103000003"
# From the one on, the application takes a group's role; from the other on, it must.
GRANTS = "20251107000000"
LOOK_S = 0.005

HEAD = "| version | up s | longest lock ms | p50 / max client ms | down s | longest lock ms | p50 / max client ms | size MB |"


def rss() -> int:
    """:return: the peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def timed(work: Callable[[], dict[str, Any]]) -> float:
    """:return: seconds of the whole call, from connecting to the lock given back."""
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def main() -> None:
    """Print a row as soon as a version is up, then the table with the ways down."""
    students = int(sys.argv[1].replace(",", "").replace("_", "")) if len(sys.argv) > 1 else STUDENTS
    migrations = render(read_tree(ROOT / "sql"))
    versions = [str(migration["version"]) for migration in migrations]
    server = servers.embedded_server()
    try:
        # As in production: the tests' server does without.
        for setting, value in (("fsync", "on"), ("full_page_writes", "on"), ("max_wal_size", "'2GB'")):
            server.execute(f"ALTER SYSTEM SET {setting} = {value}")
        server.execute("SELECT pg_reload_conf()")
        server.create_database(DATABASE)
        target = Target(
            host=server.host, port=str(server.port), user=servers.MIGRATOR, owner=servers.OWNER, database=DATABASE,
            passfile=str(server.passfile),
        )  # fmt: skip
        way = migrate.Way(
            ledger.Run(id="bench", playbook="bench", environment="local", who="bench", ops_host="bench"),
        )
        figures: dict[str, list[str]] = {version: [] for version in versions}

        def size() -> int:
            return int(server.execute(f"SELECT pg_database_size('{DATABASE}')")[0][0]) // 1_000_000

        def up(version: str) -> dict[str, Any]:
            return migrate.apply(target, migrations, plan.Selection(target=version), way)

        def down() -> dict[str, Any]:
            return migrate.revert(target, Reverts(), way)

        for version in versions[: versions.index(LAST_EMPTY) + 1]:
            seconds = timed(partial(up, version))
            figures[version] += [f"{seconds:.2f}", "no rows", "no clients"]
        begun = time.monotonic()
        load_sample_data(server, DATABASE, students)
        let_in(server, DATABASE)
        print(f"{students:,} students loaded in {time.monotonic() - begun:.0f} s: {size()} MB", flush=True)
        later = versions[versions.index(LAST_EMPTY) + 1 :]
        sizes: dict[str, int] = {}
        with LockWatch(server, DATABASE, interval_s=LOOK_S) as watch, Clients(server, DATABASE) as clients:

            def measured(version: str, work: Callable[[], dict[str, Any]]) -> None:
                watch.look_again()
                watch.doing, seen = version, len(watch.holds)
                begun = time.monotonic()
                seconds = timed(work)
                # A statement that waits for the last lock of the version ends after it.
                time.sleep(0.2)
                holds = watch.holds[seen:]
                longest = max(holds, key=lambda hold: hold.at_most_s, default=None)
                lock = f"{longest.at_most_s * 1000:.0f} {longest.table}" if longest else "none seen"
                waits = [wait * 1000 for wait in clients.since(begun)]
                told = f"{waits[len(waits) // 2]:.1f} / {waits[-1]:.0f}" if waits else "none"
                figures[version] += [f"{seconds:.2f}", lock, told]
                print(f"{version}: {', '.join(figures[version])}", file=sys.stderr, flush=True)

            for version in later:
                measured(version, partial(up, version))
                sizes[version] = size()
                if version == GRANTS:
                    clients.act_as("white_cross_admin")
            for version in reversed(later):
                if version == GRANTS:
                    clients.act_as(None)
                measured(version, down)
        for version in reversed(versions[: versions.index(LAST_EMPTY) + 1]):
            seconds = timed(down)
            figures[version] += [f"{seconds:.2f}", "no clients", "no clients"]
        print(f"{HEAD}\n|---|---|---|---|---|---|---|---|")
        for version in versions:
            print(f"| {version} | {' | '.join(figures[version])} | {sizes.get(version, '')} |")
        ups, downs = (sum(float(figures[version][column]) for version in versions) for column in (0, 3))
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        print(
            f"up {ups:.0f} s, down {downs:.0f} s; {len(clients.statements):,} statements of clients, "
            f"{len(clients.faults)} errors; peak memory of this process {rss()} MB; "
            f"{watch.looks:,} looks at the locks, the longest pause between two {watch.longest_gap_s * 1000:.0f} ms; "
            f"load {load} on {os.cpu_count()} processors, {shutil.disk_usage(server.directory).free // 10**9} GB free"
        )
        for fault in clients.faults[:10]:
            print(fault)
        if clients.faults:
            raise SystemExit("clients had errors")
    finally:
        servers.discard(server)


if __name__ == "__main__":
    main()
