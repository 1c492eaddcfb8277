# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What it takes to say which rows a rollback has lost: 1,000 changed ones among many, against ``count(*)`` of the same tables.

    ROWS=1000000 PYTHONPATH=collections:tests .venv/bin/python benchmarks/lost_writes.py

Two databases with the same table of ``ROWS`` rows (10 million by default), as a restore and a swap leave them; then 1,000 rows
spread over the kept one are inserted, updated and deleted. Each round counts both tables as psql would, compares them by two
sessions a side, and says the ratio; the memory of this process is held against that before the first round.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from contextlib import closing

from ansible_collections.whitecross.pgops.plugins.module_utils import database_marks, lost_comparison, row_versions
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from durable import make_durable
from support import server as servers

ROWS = int(os.environ.get("ROWS") or 10_000_000)
REPEATS = int(os.environ.get("REPEATS") or 3)
CHANGED = 1000
DATABASE, KEPT = "bench_lost", "bench_lost_failed_20260101_000000"
TABLE = """
CREATE TABLE t (id uuid PRIMARY KEY, name text, note text, at timestamptz DEFAULT now(), n int);
INSERT INTO t SELECT md5(g::text)::uuid, 'name ' || g, repeat('x', 40), now(), g FROM generate_series(1, {rows}) g;
VACUUM ANALYZE t
"""


def megabytes() -> float:
    """:return: the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make(server: servers.Server) -> None:
    """The live database and the kept one, of which 1,000 rows have changed."""
    server.create_database(KEPT)
    for statement in TABLE.format(rows=ROWS).split(";"):
        server.execute(statement, database=KEPT)
    server.create_database(DATABASE, template=KEPT)
    with closing(server.connect()) as conn:
        mark = database_marks.Mark(
            database_marks.FAILED, DATABASE, "bench", "2026-01-01T00:00:00Z", xid=row_versions.next_xid(conn)
        )
        database_marks.set_mark(conn, KEPT, mark)
    step = ROWS // (CHANGED // 2)
    server.execute(f"UPDATE t SET note = 'changed' WHERE n % {step} = 1", database=KEPT)
    server.execute(f"DELETE FROM t WHERE n % {step * 2} = 2", database=KEPT)
    server.execute(
        f"INSERT INTO t SELECT gen_random_uuid(), 'new', 'new', now(), 0 FROM generate_series(1, {CHANGED // 4})",
        database=KEPT,
    )


def counted(server: servers.Server) -> float:
    """:return: seconds of ``count(*)`` in both databases, one after the other."""
    begun = time.monotonic()
    for database in (KEPT, DATABASE):
        server.execute("SELECT count(*) FROM t", database=database)
    return time.monotonic() - begun


def main() -> None:
    """Print each round, then the median."""
    server = servers.embedded_server()
    try:
        make_durable(server)
        make(server)
        target = Target(
            host=server.host, port=str(server.port), user=servers.RESTORE, database=DATABASE,
            passfile=str(server.passfile), bindir=str(server.bindir),
        )  # fmt: skip
        counted(server)  # warm-up
        ratios, before = [], megabytes()
        for _ in range(REPEATS):
            plain = counted(server)
            begun = time.monotonic()
            found = lost_comparison.look(target, None, application_name="bench")
            took = time.monotonic() - begun
            ratios.append(took / plain)
            print(
                f"{ROWS} rows, {found['rows']['application']} lost: {took:.2f} s, count(*) of both {plain:.2f} s, "
                f"ratio {ratios[-1]:.1f}; memory {before:.0f} MB before, {megabytes():.0f} MB at most"
            )
        print(f"median ratio {statistics.median(ratios):.1f}, {ROWS / took / 1e6:.2f} million rows a second")
    finally:
        servers.discard(server)


if __name__ == "__main__":
    main()
