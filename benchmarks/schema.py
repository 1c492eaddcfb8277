# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Twelve versions that make 45 tables, 100 indexes and 60 enums in an empty database: the engine beside what people use today.

    PYTHONPATH=collections:tests .venv/bin/python benchmarks/schema.py

All have the same SQL. A peer's time is its whole command line, psql's that of a call a file. Ours is measured three times: the engine
from connecting to the lock given back, as the module calls it; the whole `migrate.yml`, with the health checks before and after, the
proved backup and the verification that no peer has; and its run with nothing to do, beside each peer's. REPEATS is 3.

One durable server; the sides take turns, after a round that warms up. The figures are kept below benchmarks/results/.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import figures as kept
import peers
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, migrate, plan
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from durable import make_durable
from support import server as servers
from support.site import Playbook
from support.tree import TestTree

REPEATS = int(os.environ.get("REPEATS", "3"))
TABLES, INDEXES, ENUMS, VERSIONS = 45, 100, 60, 12
LABELS = ("planned", "active", "paused", "done", "cancelled")
BASELINE = "psql -1"


def share(total: int, number: int) -> range:
    """:return: which of ``total`` things version ``number`` of twelve makes."""
    return range(total * number // VERSIONS, total * (number + 1) // VERSIONS)


def the_versions() -> list[peers.Version]:
    """:return: enums, tables with columns of them and a foreign key to an earlier table, and indexes, shared out over the versions."""
    indexes = {table: [index for index in range(INDEXES) if index % TABLES == table] for table in range(TABLES)}
    columns = ("state", "changed_at", "name")
    versions = []
    for number in range(VERSIONS):
        enums = []
        for enum in share(ENUMS, number):
            labels = ", ".join(f"'{label}_{enum}'" for label in LABELS)
            enums.append(f"CREATE TYPE kind_{enum} AS ENUM ({labels})")
        tables, keyed = [], []
        for table in share(TABLES, number):
            parent = f" REFERENCES record_{table - 1} (id) ON UPDATE CASCADE ON DELETE RESTRICT" if table else ""
            # An enum of this version or an earlier one.
            kind = table * ENUMS // TABLES
            tables.append(
                f"CREATE TABLE record_{table} (id uuid DEFAULT gen_random_uuid() PRIMARY KEY, parent_id uuid{parent}, "
                f"state kind_{kind} NOT NULL DEFAULT '{LABELS[0]}_{kind}', name varchar(100) NOT NULL, note text, amount numeric(10, 2), "
                "data jsonb, active boolean NOT NULL DEFAULT true, made_at timestamptz NOT NULL DEFAULT now(), changed_at timestamptz)"
            )
            for place, index in enumerate(indexes[table]):
                column = "parent_id" if place == 0 else columns[place % len(columns)]
                keyed.append(f"CREATE INDEX record_{table}_{column}_{index} ON record_{table} ({column})")
        versions.append(
            peers.Version(f"202601010000{number:02d}", f"make_part_{number + 1}", [*enums, *tables, *keyed])
        )
    return versions


def tree(folder: Path, versions: Sequence[peers.Version]) -> TestTree:
    """:return: the same versions as folders of ours, with a way down as lint wants it."""
    made = TestTree(folder)
    for version in versions:
        down = []
        for statement in reversed(version.statements):
            kind, name = statement.split()[1:3]
            if kind != "INDEX":
                down.append(f"DROP {kind} {name};\n")
        made.add_sql(version.number, version.name, version.script, "".join(down))
    return made


def engine(server: servers.Server, database: str, migrations: list[dict[str, Any]]) -> float:
    """:return: seconds of the engine, from connecting to the lock given back."""
    target = Target(
        host=server.host, port=str(server.port), user=servers.MIGRATOR, owner=servers.OWNER, database=database,
        passfile=str(server.passfile),
    )  # fmt: skip
    way = migrate.Way(ledger.Run(id=database, playbook="bench", environment="local", who="bench", ops_host="bench"))
    begun = time.monotonic()
    migrate.apply(target, migrations, plan.Selection(), way)
    return time.monotonic() - begun


def refuse_incomplete(server: servers.Server, database: str, name: str) -> None:
    """:raises SystemExit: the tool did not make what it was asked for."""
    ((tables, indexes, enums),) = server.execute(
        "SELECT (SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '^record_[0-9]+$'), "
        "(SELECT count(*) FROM pg_class WHERE relkind = 'i' AND relname ~ '^record_[0-9]+_.*_[0-9]+$'), "
        "(SELECT count(*) FROM pg_type WHERE typtype = 'e')",
        database=database,
    )
    if (tables, indexes, enums) != (TABLES, INDEXES, ENUMS):
        raise SystemExit(f"{name} made {tables} tables, {indexes} indexes and {enums} enums")


def whole_command(server: servers.Server, database: str, folder: Path, sql: Path) -> tuple[float, float]:
    """:return: seconds of `migrate.yml` on the empty database, and of the run after it with nothing to do."""
    playbook = Playbook(folder, server, database)
    playbook.variables["pgops_sql"] = str(sql)
    seconds = []
    for _run in range(2):
        begun = time.monotonic()
        result = playbook("migrate.yml")
        seconds.append(time.monotonic() - begun)
        if result.rc != 0:
            raise SystemExit(f"migrate.yml exited with {result.rc}:\n{result.output}")
    return seconds[0], seconds[1]


def main() -> None:
    """Print each repeat's seconds, then medians and ratios; keep them."""
    server = servers.embedded_server()
    try:
        make_durable(server)
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            versions = the_versions()
            ready, missing = peers.had(folder / "peers", server, versions)
            peers.act_as_owner(server)
            ours = tree(folder / "sql", versions)
            migrations = ours.render()
            sides: dict[str, Callable[[str], float]] = {peer.name: peer.run for peer in ready}
            sides["engine"] = lambda database: engine(server, database, migrations)
            first: dict[str, list[float]] = {name: [] for name in sides}
            again: dict[str, list[float]] = {name: [] for name in sides if name != BASELINE}
            for repeat in range(REPEATS + 1):
                for number, (name, side) in enumerate(sides.items()):
                    database = f"bench_{number}_{repeat}"
                    server.create_database(database)
                    server.execute("CHECKPOINT")
                    seconds = side(database)
                    refuse_incomplete(server, database, name)
                    nothing = side(database) if name in again else None
                    server.execute(f"DROP DATABASE {database}")
                    if repeat == 0:
                        continue  # warm-up
                    first[name].append(seconds)
                    if nothing is not None:
                        again[name].append(nothing)
                if repeat:
                    print(", ".join(f"{name} {first[name][-1] * 1000:.0f} ms" for name in sides), flush=True)
            commands = []
            for repeat in range(REPEATS):
                database = f"bench_whole_{repeat}"
                server.create_database(database)
                commands.append(whole_command(server, database, folder / f"ops-{repeat}", folder / "sql"))
                refuse_incomplete(server, database, "migrate.yml")
            first["migrate.yml"], again["migrate.yml"] = ([pair[place] for pair in commands] for place in (0, 1))
        base = statistics.median(first[BASELINE])
        print("\n| | empty database, s | against psql -1 -f a file | nothing to do, s |\n|---|---|---|---|")
        for name, seconds in first.items():
            # In turn, so that a repeat's own weather is in both.
            ratios = [one / psql for one, psql in zip(seconds, first[BASELINE], strict=True)]
            idle = f"{statistics.median(again[name]):.2f}" if name in again else "keeps no record"
            print(f"| {name} | {statistics.median(seconds):.2f} | {statistics.median(ratios):.2f} | {idle} |")
        print(f"psql -1 {base:.2f} s; load {', '.join(f'{value:.1f}' for value in os.getloadavg())}")
        file = kept.keep(
            "schema",
            TABLES,
            {
                "commit": kept.commit(peers.ROOT),
                "machine": kept.machine(),
                "postgresql": str(server.execute("SHOW server_version")[0][0]),
                "load": [round(value, 1) for value in os.getloadavg()],
                "peers": peers.versions_of_programs(),
                "left_out": missing,
                "first_s": {name: [round(one, 3) for one in seconds] for name, seconds in first.items()},
                "again_s": {name: [round(one, 3) for one in seconds] for name, seconds in again.items()},
            },
        )
        print(f"kept in {file.relative_to(peers.ROOT)}")
    finally:
        servers.discard(server)


if __name__ == "__main__":
    main()
