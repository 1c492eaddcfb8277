# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The indexes of three tables: the engine against one ``CREATE INDEX CONCURRENTLY`` after the other by psql.

    PYTHONPATH=collections:tests .venv/bin/python benchmarks/indexes.py [ROWS]

2,000,000 rows a table unless another number is given, two indexes each, of which every third is partial. One durable server
with PostgreSQL's own settings for memory and workers, both sides in turn, five repeats after one that warms up. psql gets the
statements that the engine sends. Both sides are whole calls: psql's process and connection, ours from connecting to the lock
given back, with the ledger. Sizes and seconds of each index are the engine's own. The figures are kept below benchmarks/results/.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import figures
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, migrate, plan, statements
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from durable import make_durable
from support import server as servers

ROOT = Path(__file__).resolve().parents[1]
ROWS = 2_000_000
REPEATS = 5
AIM, LIMIT = 0.75, 0.85
DATABASE = "bench_indexes"
TABLES = ("students", "visits", "doses")

FILL = """
CREATE TABLE {table} (id bigint PRIMARY KEY, name text NOT NULL, at timestamptz NOT NULL, kind integer NOT NULL, note text);
INSERT INTO {table} SELECT n, md5(n::text), timestamptz '2026-01-01' + (n::bigint * 7919 % {rows}) * interval '1 s', n % 97,
    repeat('x', (n % 60)::integer) FROM generate_series(1, {rows}) n;
"""


def indexes() -> list[dict[str, Any]]:
    """:return: six indexes, table by table, as a migration declares them."""
    made: list[dict[str, Any]] = []
    for table in TABLES:
        for columns in (["name"], ["kind", "at"]):
            index = {"name": f"{table}_{'_'.join(columns)}", "schema": "public", "table": table, "method": "btree"}
            partial = {"where": "kind < 50"} if len(made) % 3 == 2 else {}
            made.append({**index, "columns": [{"column": name} for name in columns], **partial})
    return made


def migration(made: list[dict[str, Any]]) -> dict[str, Any]:
    """:return: the one version that declares them, as the controller renders it."""
    steps = [{"kind": "indexes", "name": "indexes", "indexes": made}]
    return {
        "version": "20260101000000", "name": "bench_indexes", "title": "", "why": "", "steps": steps, "files": {},
        "checksum": "0" * 64, "rendered_checksum": "0" * 64, "budgets": {}, "depends_on": [], "transaction": True,
    }  # fmt: skip


def by_psql(server: servers.Server, script: Path) -> float:
    """:return: seconds of psql with the six statements, one after the other."""
    begun = time.monotonic()
    subprocess.run(
        [server.bindir / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", script]
        + ["-h", server.host, "-p", str(server.port), "-U", servers.MIGRATOR, "-d", DATABASE],
        check=True, env={"PGPASSFILE": str(server.passfile), "PGOPTIONS": f"-c role={servers.OWNER}"},
    )  # fmt: skip
    return time.monotonic() - begun


def by_engine(target: Target, given: dict[str, Any], repeat: int) -> tuple[float, list[dict[str, Any]]]:
    """:return: seconds of the engine, and each index with its bytes and seconds."""
    run = ledger.Run(id=f"bench-{repeat}", playbook="bench", environment="local", who="bench", ops_host="bench")
    begun = time.monotonic()
    result = migrate.apply(target, [given], plan.Selection(), migrate.Way(run))
    return time.monotonic() - begun, result["applied"][0]["indexes"]


def take_away(server: servers.Server, made: list[dict[str, Any]]) -> None:
    """As before the build: no index, no ledger, nothing for a checkpoint to write."""
    for index in made:
        server.execute(f'DROP INDEX IF EXISTS "{index["name"]}"', database=DATABASE)
    server.execute("DROP SCHEMA IF EXISTS pgops CASCADE", database=DATABASE)
    server.execute("CHECKPOINT")


def worth(server: servers.Server, rows: int) -> dict[str, float]:
    """:return: milliseconds of a look for one name and of one row that is written, as a client has them, and MB of the table
    with its indexes; R7.9 asks to measure these, not to promise them."""
    with server.session(DATABASE) as conn, conn.cursor() as cursor:

        def each(statement: str, count: int) -> float:
            begun = time.monotonic()
            for number in range(count):
                cursor.execute(statement, (number * 7919 % rows,))
            return (time.monotonic() - begun) / count * 1000

        found = {"query_ms": each("SELECT id FROM students WHERE name = md5(%s::text)", 20)}
        cursor.execute("BEGIN")
        found["write_ms"] = each("INSERT INTO students VALUES (-1 - %s, md5(random()::text), now(), 1, '')", 5000)
        cursor.execute("ROLLBACK")
        cursor.execute("SELECT pg_total_relation_size('students')")
        row = cursor.fetchone()
        found["size_mb"] = (row[0] if row else 0) / 1e6
    return found


def main() -> None:
    """Print each repeat's seconds and ratio, then the median."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    server = servers.embedded_server()
    try:
        make_durable(server)
        server.create_database(DATABASE)
        for table in TABLES:
            server.execute(FILL.format(table=table, rows=rows), database=DATABASE)
            server.execute(f"ALTER TABLE {table} OWNER TO {servers.OWNER}", database=DATABASE)
        server.execute("VACUUM (ANALYZE)", database=DATABASE)
        target = Target(
            host=server.host, port=str(server.port), user=servers.MIGRATOR, owner=servers.OWNER, database=DATABASE,
            passfile=str(server.passfile),
        )  # fmt: skip
        made = indexes()
        given = migration(made)
        size = server.execute("SELECT pg_relation_size('students')", database=DATABASE)[0][0]
        print(f"PostgreSQL {server.major}, {len(TABLES)} tables of {rows:,} rows, {size / 1e6:.0f} MB each")
        repeats: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder, "indexes.sql")
            with server.session(DATABASE) as conn:
                text = "".join(f"{statements.create_index(index).as_string(conn)};\n" for index in made)
            script.write_text(text, encoding="utf-8")
            for repeat in range(REPEATS + 1):
                take_away(server, made)
                psql = by_psql(server, script)
                take_away(server, made)
                ours, built = by_engine(target, given, repeat)
                if repeat == 0:
                    continue  # warm-up
                repeats.append({"psql_s": psql, "engine_s": ours, "ratio": ours / psql, "indexes": built})
                print(f"psql in turn {psql:.2f} s, engine {ours:.2f} s: {ours / psql:.2f}")
        for index in repeats[-1]["indexes"]:
            print(f"  {index['name']} {index['bytes'] / 1e6:.0f} MB in {index['duration_s']:.2f} s")
        with_them = worth(server, rows)
        take_away(server, made)
        without = worth(server, rows)
        print(
            f"students without and with its two: a query {without['query_ms']:.1f} and {with_them['query_ms']:.2f} ms, a row written "
            f"{without['write_ms']:.3f} and {with_them['write_ms']:.3f} ms, {without['size_mb']:.0f} and {with_them['size_mb']:.0f} MB"
        )
        ratio = statistics.median(item["ratio"] for item in repeats)
        print(f"median of {REPEATS}: {ratio:.2f} x (owed {LIMIT}, aim {AIM})")
        postgresql = server.execute("SHOW server_version")[0][0]
        figures.keep(
            "indexes", rows,
            {"commit": figures.commit(ROOT), "machine": figures.machine(), "postgresql": postgresql, "ratio": ratio, "repeats": repeats,
             "without": without, "with": with_them},
        )  # fmt: skip
    finally:
        servers.discard(server)


if __name__ == "__main__":
    main()
