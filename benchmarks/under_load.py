# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""One change to three busy tables, by the tools that people use today, by an expert's hand and by the engine.

    ROWS=200000 PYTHONPATH=collections:tests .venv/bin/python benchmarks/under_load.py

Six indexes, a foreign key, a NOT NULL and a column, while eight clients read and write by a timetable (see timetable.py); once in quiet, and
once with a reader that comes when the foreign key is asked for and stays for six seconds. The peers send the change as it is written for
them, in one transaction. The expert's hand is psql, statement by statement: CREATE INDEX CONCURRENTLY in turn, NOT VALID and VALIDATE, a
CHECK before NOT NULL, lock_timeout of 100 ms and again until it gets its lock. Ours says the same as a migration, and runs through the
engine as the module calls it; at the end once as the whole `migrate.yml`, with its health checks, backup, proof and verification.

ROWS (2,000,000) is the size of each table, REPEATS (3), PERIOD_MS (40) the time from one transaction of a client to its next, CLIENT_TIMEOUT
(0: none) the clients' statement_timeout in seconds, ONLY names the sides to measure, split by commas. Where the clients cannot keep their
timetable in the calm before, what follows says nothing of the tools: such runs are named at the end, and it ends with 1. The sides take turns in each repeat, each on a fresh copy of the same database on one
durable server. The figures are kept below benchmarks/results/.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import figures as kept
import peers
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, migrate, plan
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from durable import make_durable
from support import server as servers
from support.clients import let_in
from support.site import Playbook
from support.tree import TestTree
from timetable import LATE_S, Seen, Timetable, Work, seen

ROWS = int(os.environ.get("ROWS", "2000000").replace(",", "").replace("_", ""))
REPEATS = int(os.environ.get("REPEATS", "3"))
PERIOD_MS = int(os.environ.get("PERIOD_MS", "40"))
CLIENT_TIMEOUT_S = float(os.environ.get("CLIENT_TIMEOUT", "0"))
ONLY = [name.strip() for name in os.environ.get("ONLY", "").split(",") if name.strip()]
CALM_S, AFTER_S, READER_S = 3.0, 1.0, 6.0
# A machine on which one of a hundred is as late as that with nothing going on is too busy to measure on.
CALM_P99_MS = 100
TEMPLATE = "bench_template"
EXPERT, ENGINE, COMMAND = "expert's hand", "engine", "migrate.yml"
REACHED = "benchmark: the foreign key is asked for"

TABLES = """
CREATE TABLE students (id bigserial PRIMARY KEY, school integer NOT NULL, last_name text NOT NULL, email text NOT NULL, seen timestamptz);
CREATE TABLE visits (id bigserial PRIMARY KEY, student_id bigint NOT NULL, at timestamptz NOT NULL, reason text, minutes integer);
CREATE TABLE doses (id bigserial PRIMARY KEY, visit_id bigint NOT NULL, given_at timestamptz NOT NULL, amount numeric(8, 2), note text);
"""
FILL = """
INSERT INTO students (school, last_name, email) SELECT g % 500, md5((g % 50000)::text), md5(g::text) || '@example.org'
    FROM generate_series(1, {rows}) g;
INSERT INTO visits (student_id, at, reason, minutes) SELECT 1 + (g * 7919) % {rows}, timestamptz '2026-01-01Z' + g * interval '7 s', 'checkup', g % 60
    FROM generate_series(1, {rows}::bigint) g;
INSERT INTO doses (visit_id, given_at, amount, note) SELECT 1 + (g * 6151) % {rows}, timestamptz '2026-01-01Z' + g * interval '5 s', g % 100, md5(g::text)
    FROM generate_series(1, {rows}::bigint) g
"""
# Told in the server's log at once, also from inside a transaction or of a script that is sent as one string; and what asks for the key waits
# the few milliseconds until a reader that is expected is there, or a quick side on small tables would be over before.
EXPECTED = 5151
MARK = f"""
CREATE FUNCTION bench_held(key bigint) RETURNS boolean LANGUAGE sql AS $$
    SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = key AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) $$;
CREATE FUNCTION bench_mark() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
    IF current_query() NOT LIKE '%visits_student_fk%' THEN RETURN; END IF;
    RAISE LOG '{REACHED}';
    WHILE bench_held({EXPECTED}) LOOP PERFORM pg_sleep(0.001); END LOOP;
END $$;
CREATE EVENT TRIGGER bench_mark ON ddl_command_start WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION bench_mark()
"""

INDEXES = (
    ("students_school_idx", "students", "school"),
    ("students_last_name_idx", "students", "last_name"),
    ("visits_student_idx", "visits", "student_id"),
    ("visits_at_idx", "visits", "at"),
    ("doses_visit_idx", "doses", "visit_id"),
    ("doses_given_at_idx", "doses", "given_at"),
)
FOREIGN_KEY = (
    "ALTER TABLE visits ADD CONSTRAINT visits_student_fk FOREIGN KEY (student_id) REFERENCES students (id) "
    "ON UPDATE CASCADE ON DELETE RESTRICT"
)
NOT_NULL = "ALTER TABLE visits ALTER COLUMN reason SET NOT NULL"
COLUMN = "ALTER TABLE students ADD COLUMN nickname text"
CHECK = "ALTER TABLE visits ADD CONSTRAINT visits_reason_check CHECK (reason IS NOT NULL) NOT VALID"
DROP_CHECK = "ALTER TABLE visits DROP CONSTRAINT visits_reason_check"

BASE = "20260101000000"
AS_PEERS_WRITE_IT = peers.Version(
    "20260101000001",
    "speed_up_visits",
    [*(f"CREATE INDEX {name} ON {table} ({column})" for name, table, column in INDEXES), FOREIGN_KEY, NOT_NULL, COLUMN],
)
# Each touches one table and writes before it reads: the other way round, a change in one transaction deadlocks with its clients.
CLIENT_WORK = (
    ("UPDATE students SET seen = now() WHERE id = %(id)s", "SELECT * FROM students WHERE id = %(id)s"),
    ("UPDATE visits SET minutes = minutes + 1 WHERE id = %(id)s", "SELECT * FROM visits WHERE id = %(id)s"),
    ("INSERT INTO visits (student_id, at, reason) VALUES (%(id)s, now(), 'accident')",),
    ("INSERT INTO doses (visit_id, given_at, amount) VALUES (%(id)s, now(), 1)", "SELECT * FROM doses WHERE id = %(id)s"),
)  # fmt: skip


class ExpertsHand:
    """What somebody types who knows how each statement locks: psql, one statement a call."""

    name = EXPERT

    def __init__(self, server: servers.Server) -> None:
        self.server = server

    def run(self, database: str) -> float:
        """:return: seconds of the whole change."""
        begun = time.monotonic()
        for name, table, column in INDEXES:
            self._type(database, f"CREATE INDEX CONCURRENTLY {name} ON {table} ({column})")
        self._until_it_gets_its_lock(database, f"{FOREIGN_KEY} NOT VALID")
        self._until_it_gets_its_lock(database, "ALTER TABLE visits VALIDATE CONSTRAINT visits_student_fk")
        self._until_it_gets_its_lock(database, CHECK)
        self._until_it_gets_its_lock(database, "ALTER TABLE visits VALIDATE CONSTRAINT visits_reason_check")
        self._until_it_gets_its_lock(database, NOT_NULL)
        self._until_it_gets_its_lock(database, DROP_CHECK)
        self._until_it_gets_its_lock(database, COLUMN)
        return time.monotonic() - begun

    def _until_it_gets_its_lock(self, database: str, statement: str) -> None:
        while not self._type(database, statement, "SET lock_timeout = '100ms'"):
            # Not in step with anything.
            time.sleep(random.uniform(0.2, 0.6))

    def _type(self, database: str, statement: str, before: str = "SET lock_timeout = 0") -> bool:
        """:return: whether it was done; False where it did not get its lock in time."""
        done = subprocess.run(
            [self.server.bindir / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose",
             "-h", self.server.host, "-p", str(self.server.port), "-U", servers.MIGRATOR, "-d", database,
             "-c", before, "-c", statement],
            env={"PGPASSFILE": str(self.server.passfile)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0 and "55P03" not in done.stderr:
            raise RuntimeError(f"{statement}: {done.stderr.strip()}")
        return done.returncode == 0


def tree(folder: Path) -> TestTree:
    """:return: the same change as a migration of ours, after the one that made the tables."""
    made = TestTree(folder)
    made.add_sql(BASE, "make_tables", TABLES, "DROP TABLE doses;\nDROP TABLE visits;\nDROP TABLE students;\n")
    made.add(
        AS_PEERS_WRITE_IT.number,
        AS_PEERS_WRITE_IT.name,
        [
            {"indexes": "indexes.yml"},
            {"sql": {"up": "key.sql.j2", "down": "key_down.sql.j2"}},
            {"validate": [{"table": "visits", "constraint": "visits_student_fk"}]},
            {"sql": {"up": "check.sql.j2", "down": "check_down.sql.j2"}},
            {"validate": [{"table": "visits", "constraint": "visits_reason_check"}]},
            {"sql": {"up": "not_null.sql.j2", "down": "not_null_down.sql.j2"}},
            {"sql": {"up": "column.sql.j2", "down": "column_down.sql.j2"}},
        ],
        {
            "indexes.yml": [
                {"name": name, "table": table, "columns": [column], "phi": False, "why": "a benchmark"}
                for name, table, column in INDEXES
            ],
            "key.sql.j2": f"{FOREIGN_KEY} NOT VALID;\n",
            "key_down.sql.j2": "ALTER TABLE visits DROP CONSTRAINT visits_student_fk;\n",
            "check.sql.j2": f"{CHECK};\n",
            "check_down.sql.j2": "ALTER TABLE visits DROP CONSTRAINT IF EXISTS visits_reason_check;\n",
            "not_null.sql.j2": f"{NOT_NULL};\n{DROP_CHECK};\n",
            "not_null_down.sql.j2": "ALTER TABLE visits ALTER COLUMN reason DROP NOT NULL;\n",
            "column.sql.j2": f"{COLUMN};\n",
            "column_down.sql.j2": "ALTER TABLE students DROP COLUMN nickname;\n",
            "verify.sql.j2": "SELECT 'x' AS object, 'x' AS expected, 'x' AS found WHERE false;\n",
        },
    )
    return made


class Reader:
    """Comes when the foreign key is asked for, reads both tables, and stays in its transaction."""

    def __init__(self, server: servers.Server, database: str, *, stays_s: float = READER_S) -> None:
        self.came = False
        self._stays_s = stays_s
        self._log = server.directory / "log"
        self._from = self._log.stat().st_size
        self._conn = server.connect(database, autocommit=False)
        with self._conn.cursor() as cursor:
            cursor.execute(f"SELECT pg_advisory_lock({EXPECTED})")
        self._conn.rollback()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join(timeout=self._stays_s + 30)
        self._conn.close()

    def _watch(self) -> None:
        with self._log.open(encoding="utf-8", errors="replace") as log:
            log.seek(self._from)
            text = ""
            while not self._ended.is_set():
                text += log.read()
                if REACHED in text:
                    self.came = True
                    with self._conn.cursor() as cursor:
                        cursor.execute(
                            "SELECT FROM visits JOIN students ON students.id = visits.student_id LIMIT 1; "
                            f"SELECT pg_advisory_unlock({EXPECTED}); SELECT pg_sleep({self._stays_s})"
                        )
                    self._conn.rollback()
                    return
                time.sleep(0.002)


def engine(server: servers.Server, migrations: list[dict[str, Any]]) -> Callable[[str], float]:
    """:return: what applies the migration through the engine and says how long it took, from connecting to the lock given back."""

    def run(database: str) -> float:
        target = Target(
            host=server.host, port=str(server.port), user=servers.MIGRATOR, owner=servers.OWNER, database=database,
            passfile=str(server.passfile),
        )  # fmt: skip
        way = migrate.Way(ledger.Run(id=database, playbook="bench", environment="local", who="bench", ops_host="bench"))
        begun = time.monotonic()
        migrate.apply(target, migrations, plan.Selection(), way)
        return time.monotonic() - begun

    return run


def whole_command(server: servers.Server, folder: Path, sql: Path) -> Callable[[str], float]:
    """:return: what runs `migrate.yml` as an operator types it."""

    def run(database: str) -> float:
        playbook = Playbook(folder / database, server, database)
        playbook.variables["pgops_sql"] = str(sql)
        begun = time.monotonic()
        result = playbook("migrate.yml", timeout=3600)
        seconds = time.monotonic() - begun
        if result.rc != 0:
            raise RuntimeError(f"migrate.yml exited with {result.rc}:\n{result.output}")
        return seconds

    return run


def fill(server: servers.Server, migrations: list[dict[str, Any]]) -> None:
    """Make the database that each side gets a copy of: its tables by our first version, their rows, the clients' rights."""
    engine(server, migrations[:1])(TEMPLATE)
    for statement in FILL.format(rows=ROWS).split(";\n"):
        server.execute(statement, database=TEMPLATE, user=servers.MIGRATOR)
    for statement in ("VACUUM (FREEZE, ANALYZE)", MARK):
        server.execute(statement, database=TEMPLATE)
    let_in(server, TEMPLATE)
    server.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {servers.APP}", database=TEMPLATE)


def refuse_incomplete(server: servers.Server, database: str) -> None:
    """:raises SystemExit: a side did not make the whole change."""
    names = ", ".join(f"'{name}'" for name, _table, _column in INDEXES)
    ((made,),) = server.execute(
        f"SELECT (SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname IN ({names}) "
        "AND indisvalid) + (SELECT count(*) FROM pg_constraint WHERE conname = 'visits_student_fk' AND convalidated) "
        "+ (SELECT count(*) FROM pg_attribute WHERE attrelid IN ('visits'::regclass, 'students'::regclass) "
        "AND (attname = 'reason' AND attnotnull OR attname = 'nickname'))",
        database=database,
    )
    if made != len(INDEXES) + 3:
        raise SystemExit(f"{database} has {made} of the {len(INDEXES) + 3} things that were asked for")


def measured(server: servers.Server, database: str, run: Callable[[str], float], *, reader: bool) -> dict[str, Any]:
    """Let a side change a fresh copy while the clients work. :return: its seconds and what the clients saw before and meanwhile."""
    server.execute(f"CREATE DATABASE {database} TEMPLATE {TEMPLATE} OWNER {servers.OWNER} STRATEGY file_copy")
    server.execute("CHECKPOINT")
    work = Work(
        {"host": server.host, "port": server.port, "dbname": database, "user": servers.APP, "passfile": str(server.passfile)},
        CLIENT_WORK, ROWS, period_s=PERIOD_MS / 1000, timeout_s=CLIENT_TIMEOUT_S,
    )  # fmt: skip
    arrival = Reader(server, database) if reader else None
    log = server.directory / "log"
    logged = log.stat().st_size
    try:
        with Timetable(work) as clients:
            time.sleep(CALM_S)
            begun = time.monotonic()
            if arrival is None:
                seconds = run(database)
            else:
                with arrival:
                    seconds = run(database)
            ended = time.monotonic()
            time.sleep(AFTER_S)
        refuse_incomplete(server, database)
    finally:
        server.execute(f"DROP DATABASE {database} WITH (FORCE)")
    if arrival is not None and not arrival.came:
        raise SystemExit("the reader was never called")
    # The first second is for plans and caches.
    calm = seen(clients.transactions, begun - CALM_S + 1, begun)
    meanwhile = seen(clients.transactions, begun, ended + AFTER_S)
    with log.open("rb") as told:
        told.seek(logged)
        # Of a second or more, deadlock_timeout. Late without one was late for want of a processor or a disk.
        stuck = sum(b"still waiting for" in one and b" on relation " in one for one in told)
    return {"seconds": seconds, "calm": calm, "meanwhile": meanwhile, "lock_waits": stuck}


def line(name: str, reader: bool, found: dict[str, Any]) -> str:
    """:return: one run for a person."""
    calm, meanwhile = found["calm"], found["meanwhile"]
    return (
        f"{name}{', with the reader' if reader else ''}: {found['seconds']:.1f} s; {meanwhile.transactions} transactions, "
        f"{meanwhile.failed} failed, {meanwhile.late} late, worst {meanwhile.worst_ms:.0f} ms, p99 {meanwhile.p99_ms:.1f} ms "
        f"(calm {calm.p99_ms:.1f}), {found['lock_waits']} waits of a second for a lock"
        + "".join(f"; {fault}" for fault in meanwhile.faults)
    )


def middle(runs: Sequence[dict[str, Any]], what: Callable[[dict[str, Any]], float]) -> float:
    """:return: the median of a figure over the repeats."""
    return statistics.median(what(run) for run in runs)


def table(results: dict[str, dict[bool, list[dict[str, Any]]]]) -> list[str]:
    """:return: medians, and ratios against the expert's hand of the same repeat, as a table."""
    lines = []
    for reader in (False, True):
        head = "with the reader" if reader else "without a reader"
        lines += [
            f"\n| {head} | failed | late | worst client ms | against the hand | p99 ms, and of the calm | total s | against the hand |",
            "|---|---|---|---|---|---|---|---|",
        ]
        hand = results.get(EXPERT, {}).get(reader)
        for name, found in results.items():
            runs = found[reader]
            if not runs:
                continue
            ratios = ["", ""]
            if hand:
                pairs = list(zip(runs, hand, strict=False))
                worst = statistics.median(one["meanwhile"].worst_ms / two["meanwhile"].worst_ms for one, two in pairs)
                total = statistics.median(one["seconds"] / two["seconds"] for one, two in pairs)
                ratios = [f"{worst:.2f}", f"{total:.2f}"]
            lines.append(
                f"| {name} | {middle(runs, lambda run: run['meanwhile'].failed):.0f} | "
                f"{middle(runs, lambda run: run['meanwhile'].late):.0f} | {middle(runs, lambda run: run['meanwhile'].worst_ms):.0f} | "
                f"{ratios[0]} | {middle(runs, lambda run: run['meanwhile'].p99_ms):.1f}, "
                f"{middle(runs, lambda run: run['calm'].p99_ms):.1f} | {middle(runs, lambda run: run['seconds']):.2f} | {ratios[1]} |"
            )
    return lines


def unrest(results: dict[str, dict[bool, list[dict[str, Any]]]]) -> list[str]:
    """:return: a sentence for each run before which the clients could not keep their timetable."""
    return [
        f"{name}: the calm before had a p99 of {run['calm'].p99_ms:.0f} ms, {CALM_P99_MS} ms are the most: measure on a quieter machine, "
        "or with a greater PERIOD_MS"
        for name, found in results.items()
        for runs in found.values()
        for run in runs
        if run["calm"].p99_ms > CALM_P99_MS
    ]


def plain(found: dict[str, Any]) -> dict[str, Any]:
    """:return: one run as it is kept."""
    return {key: asdict(value) if isinstance(value, Seen) else round(value, 3) for key, value in found.items()}


def main() -> None:
    """Print each run, then the table; keep the figures."""
    server = servers.embedded_server()
    try:
        # As in production: the tests' server does without.
        make_durable(server, log_lock_waits="on")
        server.create_database(TEMPLATE)
        begun = time.monotonic()
        peers.act_as_owner(server)
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            migrations = tree(folder / "sql").render()
            fill(server, migrations)
            print(f"three tables of {ROWS:,} rows loaded in {time.monotonic() - begun:.0f} s", flush=True)
            ready, missing = peers.had(folder / "peers", server, [AS_PEERS_WRITE_IT])
            sides: dict[str, Callable[[str], float]] = {peer.name: peer.run for peer in ready}
            sides |= {EXPERT: ExpertsHand(server).run, ENGINE: engine(server, migrations)}
            sides = {name: run for name, run in sides.items() if not ONLY or name in ONLY}
            results: dict[str, dict[bool, list[dict[str, Any]]]] = {name: {False: [], True: []} for name in sides}
            for repeat in range(REPEATS):
                for number, (name, run) in enumerate(sides.items()):
                    for reader in (False, True):
                        found = measured(server, f"bench_{repeat}_{number}_{reader:d}", run, reader=reader)
                        results[name][reader].append(found)
                        print(line(name, reader, found), flush=True)
            if not ONLY or COMMAND in ONLY:
                run = whole_command(server, folder / "ops", folder / "sql")
                results[COMMAND] = {
                    reader: [measured(server, f"bench_whole_{reader:d}", run, reader=reader)]
                    for reader in (False, True)
                }
                for reader in (False, True):
                    print(line(COMMAND, reader, results[COMMAND][reader][0]), flush=True)
        print("\n".join(table(results)))
        print(
            f"late: more than {LATE_S:g} s after it was due; load {', '.join(f'{value:.1f}' for value in os.getloadavg())}"
        )
        file = kept.keep(
            "under-load",
            ROWS,
            {
                "commit": kept.commit(peers.ROOT),
                "machine": kept.machine(),
                "postgresql": str(server.execute("SHOW server_version")[0][0]),
                "load": [round(value, 1) for value in os.getloadavg()],
                "peers": peers.versions_of_programs(),
                "left_out": missing,
                "client_timeout_s": CLIENT_TIMEOUT_S,
                "period_ms": PERIOD_MS,
                "unrest": unrest(results),
                "runs": {
                    name: {
                        "reader" if reader else "quiet": [plain(run) for run in found[reader]]
                        for reader in (False, True)
                    }
                    for name, found in results.items()
                },
            },
        )
        print(f"kept in {file.relative_to(peers.ROOT)}")
        if found_unrest := unrest(results):
            raise SystemExit("\n".join(found_unrest))
    finally:
        servers.discard(server)


if __name__ == "__main__":
    main()
