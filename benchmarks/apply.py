# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The shipped migrations on empty tables: the engine against ``psql -1 -f`` of the same SQL on one durable server.

    PYTHONPATH=collections:tests .venv/bin/python benchmarks/apply.py

psql runs in two ways: a file a version, each its own call and transaction, as a version is with us; and all versions as one script in one
transaction, which is the least that can be done. Its indexes are plain ones; ours build the same two CONCURRENTLY and keep a ledger.
All sides are whole calls: psql's process and connection, ours from connecting to the lock given back.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, migrate, plan
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import create_index
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import read_tree, render
from durable import make_durable
from support import server as servers

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 3
FIVE = ("20250103000000", "20250103000001", "20250103000002", "20250103000003", "20251103204744")


def plain_sql(migrations: list[dict], conn) -> str:
    """The statements of all versions as one script, indexes plain, constraints validated, tables analyzed."""
    lines = []
    for migration in migrations:
        for step in migration["steps"]:
            if step["kind"] == "sql":
                lines += [statement["sql"].rstrip(";") + ";" for statement in step["up"]]
            elif step["kind"] == "indexes":
                for index in step["indexes"]:
                    text = create_index(index).as_string(conn)
                    lines.append(text.replace(" CONCURRENTLY", "") + ";")
            elif step["kind"] == "validate":
                lines += [
                    f'ALTER TABLE {c["schema"]}.{c["table"]} VALIDATE CONSTRAINT "{c["constraint"]}";'
                    for c in step["constraints"]
                ]
            elif step["kind"] == "analyze":
                lines += [f"ANALYZE {table['schema']}.{table['table']};" for table in step["tables"]]
    return "\n".join(lines) + "\n"


def plain(server: servers.Server, database: str, scripts: list[Path]) -> float:
    """:return: seconds of psql with each script in turn, in a new database."""
    server.create_database(database)
    server.execute("CHECKPOINT")
    begun = time.monotonic()
    for script in scripts:
        subprocess.run(
            [server.bindir / "psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-f", script]
            + ["-h", server.host, "-p", str(server.port), "-U", servers.MIGRATOR, "-d", database],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={"PGPASSFILE": str(server.passfile), "PGOPTIONS": f"-c role={servers.OWNER}"},
        )  # fmt: skip
    return time.monotonic() - begun


def engine(server: servers.Server, database: str, migrations: list[dict], *, with_ledger: bool = False) -> float:
    """:return: seconds of the engine in a new database, from connecting to the lock given back."""
    server.create_database(database)
    target = Target(
        host=server.host, port=str(server.port), user=servers.MIGRATOR, owner=servers.OWNER, database=database,
        passfile=str(server.passfile),
    )  # fmt: skip
    if with_ledger:
        conn = connect(target, application_name="bench")
        ledger.ensure(conn)
        conn.close()
    server.execute("CHECKPOINT")
    way = migrate.Way(ledger.Run(id=database, playbook="bench", environment="local", who="bench", ops_host="bench"))
    begun = time.monotonic()
    result = migrate.apply(target, migrations, plan.Selection(), way)
    seconds = time.monotonic() - begun
    if len(result["applied"]) != len(migrations):
        raise SystemExit("not every version was applied")
    return seconds


def main() -> None:
    """Print each repeat's times and ratio, then the median."""
    migrations = [migration for migration in render(read_tree(ROOT / "sql")) if migration["version"] in FIVE]
    server = servers.embedded_server()
    try:
        make_durable(server)
        ratios = []
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder, "all.sql")
            files = []
            with server.session() as conn:
                whole.write_text(plain_sql(migrations, conn), encoding="utf-8")
                for migration in migrations:
                    files.append(Path(folder, f"{migration['version']}.sql"))
                    files[-1].write_text(plain_sql([migration], conn), encoding="utf-8")
            ways = (
                ("bench_files", lambda name: plain(server, name, files)),
                ("bench_script", lambda name: plain(server, name, [whole])),
                ("bench_first", lambda name: engine(server, name, migrations)),
                ("bench_later", lambda name: engine(server, name, migrations, with_ledger=True)),
            )
            for repeat in range(REPEATS + 1):
                by_file, script, first, later = (measure(f"{name}_{repeat}") for name, measure in ways)
                if repeat == 0:
                    continue  # warm-up
                ratios.append((first / by_file, later / by_file, first / script, later / script))
                print(
                    f"psql -1 -f a file {by_file * 1000:.0f} ms, all in one transaction {script * 1000:.0f} ms, "
                    f"engine {first * 1000:.0f} ms, where its ledger is there already {later * 1000:.0f} ms"
                )
        medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
        print(f"against a file a version: {medians[0]:.2f}, with the ledger there {medians[1]:.2f} (aim: 1.2 or less)")
        print(f"against one script in one transaction: {medians[2]:.2f}, with the ledger there {medians[3]:.2f}")
    finally:
        servers.discard(server)


if __name__ == "__main__":
    main()
