# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What tracing adds to the same up, down, up: the shipped chain behind its tables, with rows, traced and not, in turn.

    PYTHONPATH=collections:tests .venv/bin/python benchmarks/trace.py [STUDENTS]

20,000 students unless another number is given, 17 rows each. The first four versions make the tables and are not measured. The first
repeat warms up and is thrown away. Ends with 1 where the median of the pairs is above 1.30. The figures are kept below benchmarks/results/.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

import figures as kept
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.trace import Trace
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import read_tree, render
from durable import make_durable
from support import server as servers
from support.clients import load_sample_data

ROOT = Path(__file__).resolve().parents[1]
STUDENTS = 20_000
REPEATS = int(os.environ.get("REPEATS", "3"))
LAST_EMPTY = "20250103000003"
LIMIT = 1.30


def main() -> int:
    """Print each pair's times and ratio, then the median."""
    students = int(sys.argv[1].replace(",", "").replace("_", "")) if len(sys.argv) > 1 else STUDENTS
    migrations = render(read_tree(ROOT / "sql"))
    first_down = next(str(migration["version"]) for migration in migrations if str(migration["version"]) > LAST_EMPTY)
    server = servers.embedded_server()
    try:
        make_durable(server, max_wal_size="2GB")
        server.create_database("bench_trace")
        target = Target(
            host=server.host, port=str(server.port), user=servers.MIGRATOR, owner=servers.OWNER, database="bench_trace",
            passfile=str(server.passfile),
        )  # fmt: skip

        def way(trace: Trace | None = None) -> migrate.Way:
            who = ledger.Run(id="bench", playbook="bench", environment="local", who="bench", ops_host="bench")
            return migrate.Way(who, watch=trace)

        migrate.apply(target, migrations, Selection(target=LAST_EMPTY), way())
        load_sample_data(server, "bench_trace", students)

        def up(traced: bool) -> float:
            begun = time.monotonic()
            if traced:
                with Trace(lambda: connect(target, application_name="trace")) as trace:
                    migrate.apply(target, migrations, Selection(), way(trace))
            else:
                migrate.apply(target, migrations, Selection(), way())
            return time.monotonic() - begun

        def down() -> float:
            begun = time.monotonic()
            migrate.revert(target, Reverts(through=first_down), way())
            return time.monotonic() - begun

        def up_down_up(traced: bool) -> float:
            seconds = up(traced) + down() + up(traced=False)
            down()
            return seconds

        pairs = []
        for repeat in range(REPEATS + 1):
            order = (False, True) if repeat % 2 else (True, False)
            times = {traced: up_down_up(traced) for traced in order}
            if repeat:
                pairs.append((times[False], times[True]))
                print(
                    f"untraced {times[False]:.2f} s, traced {times[True]:.2f} s: {times[True] / times[False]:.2f}",
                    flush=True,
                )
        ratio = statistics.median(traced / untraced for untraced, traced in pairs)
        print(f"{students:,} students: tracing takes {ratio:.2f} of the same up, down, up (at most {LIMIT:.2f})")
        kept.keep(
            "trace",
            students,
            {"commit": kept.commit(ROOT), "machine": kept.machine(), "pairs": pairs, "ratio": round(ratio, 3)},
        )
        return 0 if ratio <= LIMIT else 1
    finally:
        servers.discard(server)


if __name__ == "__main__":
    sys.exit(main())
