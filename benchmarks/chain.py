# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The whole chain on the demo's sample data, version by version up and down, while clients read and write.

    PYTHONPATH=collections:tests .venv/bin/python benchmarks/chain.py [STUDENTS]

200,000 students unless another number is given, 17 rows each. The first four versions make the tables that the data goes
into; the others find them full. A lock is one above SHARE UPDATE EXCLUSIVE on a table with rows, seen by a look at
pg_locks every few milliseconds: it was held for no longer than what is printed.

The figures are kept below benchmarks/results/ and printed beside those of the last run of that size. Ends with 1, and names the
version, where one step takes more than a minute and is neither in batches nor concurrent (R13.10).
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

import figures as kept
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, migrate, plan
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import read_tree, render
from durable import make_durable
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


def timed(work: Callable[[], dict[str, Any]]) -> tuple[float, list[dict[str, Any]]]:
    """:return: seconds of the whole call, from connecting to the lock given back, and those of each step on the way up."""
    begun = time.monotonic()
    done = work()
    seconds = time.monotonic() - begun
    return seconds, [step for item in done.get("applied", []) for step in item["step_durations"]]


def main() -> None:
    """Print a row as soon as a version is up, then the table with the ways down."""
    students = int(sys.argv[1].replace(",", "").replace("_", "")) if len(sys.argv) > 1 else STUDENTS
    migrations = render(read_tree(ROOT / "sql"))
    versions = [str(migration["version"]) for migration in migrations]
    server = servers.embedded_server()
    try:
        make_durable(server, max_wal_size="2GB")
        server.create_database(DATABASE)
        target = Target(
            host=server.host, port=str(server.port), user=servers.MIGRATOR, owner=servers.OWNER, database=DATABASE,
            passfile=str(server.passfile),
        )  # fmt: skip
        way = migrate.Way(
            ledger.Run(id="bench", playbook="bench", environment="local", who="bench", ops_host="bench"),
        )
        figures: dict[str, list[str]] = {version: [] for version in versions}
        measurements: dict[str, dict[str, Any]] = {version: {} for version in versions}

        def size() -> int:
            return int(server.execute(f"SELECT pg_database_size('{DATABASE}')")[0][0]) // 1_000_000

        def up(version: str) -> dict[str, Any]:
            return migrate.apply(target, migrations, plan.Selection(target=version), way)

        def down() -> dict[str, Any]:
            return migrate.revert(target, Reverts(), way)

        for version in versions[: versions.index(LAST_EMPTY) + 1]:
            seconds, steps = timed(partial(up, version))
            measurements[version] = {"up_s": round(seconds, 3), "steps": steps}
            figures[version] += [f"{seconds:.2f}", "no rows", "no clients"]
        begun = time.monotonic()
        load_sample_data(server, DATABASE, students)
        let_in(server, DATABASE)
        print(f"{students:,} students loaded in {time.monotonic() - begun:.0f} s: {size()} MB", flush=True)
        later = versions[versions.index(LAST_EMPTY) + 1 :]
        sizes: dict[str, int] = {}
        with LockWatch(server, DATABASE, interval_s=LOOK_S) as watch, Clients(server, DATABASE) as clients:

            def measured(version: str, way: str, work: Callable[[], dict[str, Any]]) -> None:
                watch.look_again()
                watch.doing, seen = version, len(watch.holds)
                begun = time.monotonic()
                seconds, steps = timed(work)
                measurements[version] |= {f"{way}_s": round(seconds, 3), **({"steps": steps} if steps else {})}
                # A statement that waits for the last lock of the version ends after it.
                time.sleep(0.2)
                holds = watch.holds[seen:]
                longest = max(holds, key=lambda hold: hold.at_most_s, default=None)
                lock = f"{longest.at_most_s * 1000:.0f} {longest.table}" if longest else "none seen"
                waits = [wait * 1000 for wait in clients.since(begun)]
                told = f"{waits[len(waits) // 2]:.1f} / {waits[-1]:.0f}" if waits else "none"
                figures[version] += [f"{seconds:.2f}", lock, told]
                measurements[version] |= {
                    f"{way}_lock_ms": round(longest.at_most_s * 1000) if longest else None,
                    f"{way}_client_max_ms": round(waits[-1]) if waits else None,
                }
                print(f"{version}: {', '.join(figures[version])}", file=sys.stderr, flush=True)

            for version in later:
                measured(version, "up", partial(up, version))
                sizes[version] = size()
                if version == GRANTS:
                    clients.act_as("white_cross_admin")
            for version in reversed(later):
                if version == GRANTS:
                    clients.act_as(None)
                measured(version, "down", down)
        for version in reversed(versions[: versions.index(LAST_EMPTY) + 1]):
            seconds, _ = timed(down)
            measurements[version]["down_s"] = round(seconds, 3)
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
        result = {
            "commit": kept.commit(ROOT),
            "machine": kept.machine(),
            "postgresql": str(server.execute("SHOW server_version")[0][0]),
            "load": [round(value, 1) for value in os.getloadavg()],
            "versions": {
                version: {**measurements[version], **({"size_mb": sizes[version]} if version in sizes else {})}
                for version in versions
            },
        }
        earlier = kept.newest("chain", students)
        file = kept.keep("chain", students, result)
        print("\n".join(kept.compared(result, earlier)))
        print(f"kept in {file.relative_to(ROOT)}")
        faults = kept.too_long(result["versions"])
        if clients.faults:
            faults.append("clients had errors")
        if faults:
            raise SystemExit("\n".join(faults))
    finally:
        servers.discard(server)


if __name__ == "__main__":
    main()
