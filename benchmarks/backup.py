# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A backup with its manifest against ``pg_dump -Fd -j2`` at its default; a proof against ``pg_restore -j2``; in turn.

    PYTHONPATH=collections:tests .venv/bin/python benchmarks/backup.py [MEGABYTES]

One durable server, one database (700 MB by default), three repeats after one that warms up. Both sides are whole calls:
pg_dump's own, and ours from connecting to the published folder; createdb, pg_restore and dropdb, and ours from reading the
backup's files to the scratch database that is dropped again.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, dump, restore
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from durable import make_durable
from support import server as servers

REPEATS = 3
DATABASE = "bench_backup"
RUN = "20260101T000000Z-bbbbbb"

# Four tables of a health record's kinds: text, json, numbers and times, with keys and an index each.
FILL = """
CREATE TABLE people (id bigserial PRIMARY KEY, name text NOT NULL, born date, note text, changed timestamptz DEFAULT now());
CREATE TABLE records (id bigserial PRIMARY KEY, person bigint, kind text, data jsonb, at timestamptz DEFAULT now());
CREATE TABLE doses (id uuid DEFAULT gen_random_uuid() PRIMARY KEY, person bigint, amount numeric(8, 2), at timestamp);
CREATE TABLE visits (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, person int, minutes int, note text);
INSERT INTO people (name, born, note) SELECT 'person ' || g, date '2005-01-01' + g % 5000, repeat(md5(g::text), 3)
    FROM generate_series(1, {n}) g;
INSERT INTO records (person, kind, data) SELECT g, 'kind ' || g % 9, jsonb_build_object('a', g, 'b', md5(g::text), 'c', g % 7)
    FROM generate_series(1, {n}) g;
INSERT INTO doses (person, amount, at) SELECT g, g % 1000 / 7.0, timestamp '2026-01-01' + g * interval '1 s'
    FROM generate_series(1, {n}) g;
INSERT INTO visits (person, minutes, note) SELECT g, g % 60, md5(g::text) || md5((g + 1)::text) FROM generate_series(1, {n}) g;
CREATE INDEX ON records (person);
CREATE INDEX ON doses (person, at);
CREATE INDEX ON visits (note);
ANALYZE;
"""
BYTES_OF_FOUR_ROWS = 1010


def timed(call: Callable[..., object], *arguments: object, **more: object) -> float:
    """How long a call takes, in seconds."""
    began = time.monotonic()
    call(*arguments, **more)
    return time.monotonic() - began


def main() -> None:
    """Print each repeat's times and ratios, then the medians."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 700
    server = servers.embedded_server()
    try:
        make_durable(server)
        server.create_database(DATABASE)
        server.execute(FILL.format(n=megabytes * 1_000_000 // BYTES_OF_FOUR_ROWS), database=DATABASE)
        size = server.execute(f"SELECT pg_database_size('{DATABASE}')")[0][0]
        print(f"PostgreSQL {server.major}, database of {size / 1e6:.0f} MB")
        target = Target(
            host=server.host, port=str(server.port), user=servers.RESTORE, database=DATABASE, passfile=str(server.passfile),
            bindir=str(server.bindir),
        )  # fmt: skip
        connection = ["-h", server.host, "-p", str(server.port), "-U", servers.RESTORE]
        environment = {"PGPASSFILE": str(server.passfile)}

        def client(name: str, *arguments: str) -> None:
            subprocess.run([server.bindir / name, *connection, *arguments], check=True, env=environment)

        backups, proofs = [], []
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder, "plain")
            for repeat in range(REPEATS + 1):
                theirs = timed(client, "pg_dump", "-Fd", "-j2", "-f", str(plain), DATABASE)
                ours = timed(dump.create_backup, target, directory=folder, run_id=f"{RUN}{repeat}")
                (path,) = Path(folder, DATABASE).glob(f"*{RUN}{repeat}")
                server.execute("CHECKPOINT")
                back = timed(client, "createdb", "-T", "template0", "bench_restored")
                back += timed(client, "pg_restore", "-j2", "-d", "bench_restored", str(plain))
                server.execute("DROP DATABASE bench_restored WITH (FORCE)")
                server.execute("CHECKPOINT")
                proof = timed(restore.prove, target, str(path), work=restore.Work(RUN))
                server.execute("CHECKPOINT")
                if repeat:
                    backups.append(ours / theirs)
                    proofs.append(proof / back)
                    parts = backup_store.read_backup(str(path)).proof or {}
                    print(
                        f"pg_dump -Fd -j2 {theirs:.2f} s, backup with manifest {ours:.2f} s: {ours / theirs:.2f}; "
                        f"pg_restore -j2 {back:.2f} s, prove {proof:.2f} s (restore {parts['restore_seconds']:.2f}, compare "
                        f"{parts['compare_seconds']:.2f}): {proof / back:.2f}"
                    )
                shutil.rmtree(plain)
                shutil.rmtree(path)
        print(
            f"median: backup {statistics.median(backups):.2f} x (owed 1.0), prove {statistics.median(proofs):.2f} x (owed 1.3)"
        )
    finally:
        servers.discard(server)


if __name__ == "__main__":
    main()
