# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The shipped migrations on empty tables: the engine against ``psql -1 -f`` of the same SQL on one durable server.

    PYTHONPATH=collections:tests .venv/bin/python benchmarks/apply.py

psql runs in one transaction, so its indexes are plain ones; ours build the same two CONCURRENTLY and keep a ledger.
Both sides are whole calls: psql's process and connection, ours from connecting to the lock given back.
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


def plain(server: servers.Server, database: str, script: Path) -> float:
    """:return: seconds of psql with the script in a new database."""
    server.create_database(database)
    server.execute("CHECKPOINT")
    begun = time.monotonic()
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
        # As in production: the tests' server does without.
        for setting in ("fsync", "full_page_writes"):
            server.execute(f"ALTER SYSTEM SET {setting} = on")
        server.execute("SELECT pg_reload_conf()")
        ratios = []
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder, "all.sql")
            with server.session() as conn:
                script.write_text(plain_sql(migrations, conn), encoding="utf-8")
            for repeat in range(REPEATS + 1):
                psql, first, later = (
                    measure(server, f"{name}_{repeat}")
                    for name, measure in (
                        ("bench_psql", lambda server, name: plain(server, name, script)),
                        ("bench_first", lambda server, name: engine(server, name, migrations)),
                        ("bench_later", lambda server, name: engine(server, name, migrations, with_ledger=True)),
                    )
                )
                if repeat == 0:
                    continue  # warm-up
                ratios.append((first / psql, later / psql))
                print(
                    f"psql -1 -f {psql * 1000:.0f} ms, engine {first * 1000:.0f} ms, ratio {ratios[-1][0]:.2f}; "
                    f"where its ledger is there already {later * 1000:.0f} ms, ratio {ratios[-1][1]:.2f}"
                )
        both = [statistics.median(column) for column in zip(*ratios, strict=True)]
        print(f"median ratio {both[0]:.2f}, where the ledger is there already {both[1]:.2f} (aim: 1.2 or less)")
    finally:
        servers.discard(server)


if __name__ == "__main__":
    main()
