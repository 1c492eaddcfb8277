# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""All checks of preflight on databases of 200 and of 10,000 tables, at the module: from connecting to the answer.

    PYTHONPATH=collections:tests .venv/bin/python benchmarks/preflight.py

``TABLES=200,10000`` names the sizes, ``REPEATS=3`` how often. Each table has a primary key, a foreign key, two more indexes, a sequence
and some rows, and was analyzed. Owed: at most 2 s on 200 tables and 10 s on 10,000; the run ends with 1 where one took longer.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

import figures

ROOT = Path(__file__).resolve().parents[1]
SIZES = [int(size) for size in os.environ.get("TABLES", "200,10000").split(",")]
REPEATS = int(os.environ.get("REPEATS", "3"))
OWED_S = {200: 2.0, 10_000: 10.0}
# Tables a transaction: a lock for each of their parts must fit into the table of locks.
TOGETHER = 100

MADE = """
DO $$ BEGIN FOR i IN {first}..{last} LOOP
    EXECUTE format('CREATE TABLE public.t%1$s (id bigserial PRIMARY KEY, parent bigint REFERENCES public.t%1$s, name text, at timestamptz)', i);
    EXECUTE format('CREATE INDEX ON public.t%1$s (parent)', i);
    EXECUTE format('CREATE INDEX ON public.t%1$s (name)', i);
    EXECUTE format('INSERT INTO public.t%1$s (parent, name, at) SELECT NULL, g::text, now() FROM generate_series(1, 20) g', i);
END LOOP; END $$
"""


def busy(pid: int) -> float:
    """:return: the processor seconds of the sessions of a server that have ended, which a busy machine lets last longer and not cost
    more."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def measure(tables: int) -> tuple[list[float], list[float]]:
    """:return: the seconds of each look at a database of so many tables, and the processor's, of client and server."""
    from ansible_collections.whitecross.pgops.plugins.module_utils import preflight
    from support import health
    from support import server as servers
    from support.engine import target_of

    server = servers.embedded_server()
    try:
        server.create_database("many")
        target = target_of(server, "many")
        for first in range(1, tables + 1, TOGETHER):
            last = min(first + TOGETHER - 1, tables)
            server.execute(f"SET ROLE {servers.OWNER}; " + MADE.format(first=first, last=last), database="many")
        server.execute("ANALYZE", database="many")
        look = health.shipped(count_rows=False, backup_directory=str(server.directory))
        took, cost = [], []
        assert server.process is not None
        for repeat in range(REPEATS + 1):
            begun, before = time.monotonic(), time.process_time() + busy(server.process.pid)
            found = preflight.report(target, look, application_name="pgops benchmark")
            seconds = time.monotonic() - begun
            time.sleep(0.5)  # the sessions end after their client has gone
            if repeat:  # the first fills the caches of the server
                took.append(seconds)
                cost.append(time.process_time() + busy(server.process.pid) - before)
        assert len(found["checks"]) == len(look.names)
        blind = [check["check"] for check in found["checks"] if check.get("unknown")]
        assert not blind, blind
        return took, cost
    finally:
        servers.discard(server)


def main() -> None:
    """Print the median of each size, and keep it."""
    late = False
    for tables in SIZES:
        took, cost = measure(tables)
        median = statistics.median(took)
        owed = OWED_S.get(tables)
        late = late or (owed is not None and median > owed)
        told = f" (owed: at most {owed:.0f} s)" if owed else ""
        print(
            f"{tables} tables: {median:.2f} s in the median of {len(took)}, {max(took):.2f} s at most{told}; {statistics.median(cost):.2f} s of a processor"
        )
        figures.keep(
            "preflight",
            tables,
            {
                "commit": figures.commit(ROOT),
                "machine": figures.machine(),
                "seconds": took,
                "processor_seconds": cost,
                "load": os.getloadavg(),
            },
        )
    sys.exit(1 if late else 0)


if __name__ == "__main__":
    main()
