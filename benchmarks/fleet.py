# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Many databases of one server in one run of ``migrate.yml``, beside a shell loop of ``psql -1`` over the same files.

    PYTHONPATH=collections:tests .venv/bin/python benchmarks/fleet.py [--databases 20 200] [--repeats 3]

A server of its own, on loopback, with fresh databases for each side of each repeat; the sides take turns. The tree has five small
versions: four tables and a column. Seconds are of the whole command; memory is the largest resident set of any process of
it. ``growth`` is the seconds of the last size over those of the first, over the ratio of their numbers: 1 is linear.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from durable import make_durable
from support.server import MIGRATOR, OWNER, Server, discard, embedded_server
from support.site import Playbook
from support.tree import TestTree

VERSIONS = [
    ("rooms", "CREATE TABLE public.rooms (id integer PRIMARY KEY, name text NOT NULL);", "DROP TABLE public.rooms;"),
    ("beds", "CREATE TABLE public.beds (id integer PRIMARY KEY, room integer NOT NULL);", "DROP TABLE public.beds;"),
    ("floor", "ALTER TABLE public.rooms ADD COLUMN floor integer;", "ALTER TABLE public.rooms DROP COLUMN floor;"),
    ("wards", "CREATE TABLE public.wards (id integer PRIMARY KEY);", "DROP TABLE public.wards;"),
    ("nurses", "CREATE TABLE public.nurses (id integer PRIMARY KEY, room integer);", "DROP TABLE public.nurses;"),
]


def lay_out(folder: Path, server: Server) -> Playbook:
    """:return: an operator's folder with the tree, which applies and reports: psql neither backs up nor verifies."""
    site = Playbook(folder, server, "postgres")
    shutil.rmtree(site.copy_sql() / "migrations")
    tree = TestTree(site.folder / "sql")
    for number, (name, up, down) in enumerate(VERSIONS):
        tree.add_sql(f"2026010100000{number}", name, f"{up}\n", f"{down}\n")
    site.variables["pgops_phases"] = ["plan", "apply", "report"]
    site.variables["migrate_health"] = {"pause": 0}
    return site


@contextmanager
def databases(server: Server, number: int) -> Iterator[list[str]]:
    """Fresh ones, dropped afterwards."""
    names = [f"fleet_{place:03d}" for place in range(number)]
    for name in names:
        server.create_database(name, OWNER)
    try:
        yield names
    finally:
        server.drop_databases("fleet_")


def measured(command: list[str], env: dict[str, str], cwd: Path | None = None) -> tuple[float, float]:
    """:return: seconds of the command, and MB of the largest process that it has begun."""
    token = secrets.token_hex(8)
    largest = [0]
    ended = threading.Event()
    with tempfile.TemporaryFile() as output:
        begun = time.monotonic()
        process = subprocess.Popen(
            command, cwd=cwd, env={**env, "FLEET_BENCHMARK": token}, stdout=output, stderr=subprocess.STDOUT
        )

        def watch() -> None:
            while not ended.wait(0.05):
                largest[0] = max([largest[0], *(resident(pid) for pid in begun_by(token))])

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        seconds = time.monotonic() - begun
        ended.set()
        watcher.join()
        if code:
            output.seek(0)
            raise SystemExit(f"{shlex.join(command)[:200]} ended with {code}:\n{output.read().decode()[-4000:]}")
    return seconds, largest[0] / 1024


def begun_by(token: str) -> list[int]:
    """:return: the processes of one command; a job of Ansible's leaves its session, and keeps the environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if token.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def resident(pid: int) -> int:
    """:return: its resident set, in kB."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:")), 0)


def ours(site: Playbook, names: list[str]) -> tuple[float, float]:
    """One run over all of them, the canary and three batches."""
    site.write_inventory()
    command = site.command("migrate.yml", pgops_databases=names, migrate_canary=names[0])
    return measured(command, cwd=site.folder, env=site.environment())


def shell_loop(site: Playbook, names: list[str]) -> tuple[float, float]:
    """What a person types: each file of each version, one transaction each, database after database."""
    files = " ".join(
        shlex.quote(str(path)) for path in sorted((site.folder / "sql" / "migrations").glob("*/up.sql.j2"))
    )
    psql = f"{shlex.quote(str(site.server.bindir / 'psql'))} -X -q -v ON_ERROR_STOP=1 -1"
    loop = f'for d in {" ".join(names)}; do for f in {files}; do {psql} -d "$d" -f "$f" || exit 1; done; done'
    server = site.server
    values = {"PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": MIGRATOR, "PGPASSFILE": str(server.passfile)}
    return measured(["sh", "-c", loop], env={**os.environ, **values, "PGOPTIONS": f"-c role={OWNER}"})


def main() -> None:
    """Print a line a repeat, then the medians and the growth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--databases", type=int, nargs="+", default=[20, 200])
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    sides: dict[str, Callable[[Playbook, list[str]], tuple[float, float]]] = {"pgops": ours, "psql loop": shell_loop}
    seconds: dict[tuple[str, int], list[float]] = {}
    memory: dict[tuple[str, int], list[float]] = {}
    server = embedded_server()
    try:
        make_durable(server)
        with tempfile.TemporaryDirectory() as folder:
            site = lay_out(Path(folder) / "ops", server)
            for repeat in range(asked.repeats):
                for number in asked.databases:
                    for name, side in sides.items():
                        with databases(server, number) as names:
                            took, largest = side(site, names)
                        seconds.setdefault((name, number), []).append(took)
                        memory.setdefault((name, number), []).append(largest)
                        print(
                            f"repeat {repeat + 1}: {number:4d} databases, {name:9s} {took:7.2f} s, {largest:6.0f} MB",
                            flush=True,
                        )
    finally:
        discard(server)
    first, last = asked.databases[0], asked.databases[-1]
    for name in sides:
        for number in asked.databases:
            took, largest = statistics.median(seconds[name, number]), statistics.median(memory[name, number])
            print(
                f"median: {number:4d} databases, {name:9s} {took:7.2f} s, {1000 * took / number:6.0f} ms each, {largest:6.0f} MB"
            )
    growth = statistics.median(seconds["pgops", last]) / statistics.median(seconds["pgops", first]) / (last / first)
    ratio = statistics.median(seconds["pgops", last]) / statistics.median(seconds["psql loop", last])
    more = statistics.median(memory["pgops", last]) - statistics.median(memory["pgops", first])
    print(
        f"growth {growth:.2f} (1 is linear), {ratio:.2f} x the psql loop at {last}, {1024 * more / (last - first):.0f} kB more a database"
    )


if __name__ == "__main__":
    sys.exit(main())
