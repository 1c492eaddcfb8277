# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The platform's application at work while versions run, and a look at the locks that these take meanwhile."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import Any, Self

import psycopg2
from psycopg2 import sql

from support.podman import ROOT
from support.server import APP, Server

SAMPLE_DATA = ROOT / "demo" / "sample_data.sql"
ROWS_A_STUDENT = 17.125
ADMIN = "00000000-0000-0000-0000-0000000000ad"

# What the sample data fills, and the settings; all have rows when the fifth version comes.
TABLES = (
    "districts",
    "schools",
    "users",
    "students",
    "contacts",
    "emergency_contacts",
    "health_records",
    "allergies",
    "chronic_conditions",
    "appointments",
    "medications",
    "student_medications",
    "medication_logs",
    "incident_reports",
    "system_configurations",
)
# In the platform's own words: columns that each version has.
INSERTS = {
    "health_records": """INSERT INTO health_records ("studentId", "recordType", title, description, "recordDate")
        SELECT id, 'CHECKUP', 't', 'd', now() FROM students WHERE id = %(students)s""",
    "allergies": """INSERT INTO allergies ("studentId", allergen, reaction)
        SELECT id, 'nuts', 'rash' FROM students WHERE id = %(students)s""",
    "chronic_conditions": """INSERT INTO chronic_conditions ("studentId", "conditionName", "diagnosedDate", status)
        SELECT id, 'asthma', now(), 'MANAGED' FROM students WHERE id = %(students)s""",
    "medication_logs": """INSERT INTO medication_logs ("studentMedicationId", "nurseId", "timeGiven", "dosageGiven")
        SELECT id, %(users)s, now(), '1' FROM student_medications WHERE id = %(student_medications)s""",
    "appointments": """INSERT INTO appointments ("studentId", "nurseId", "scheduledAt", reason)
        SELECT id, %(users)s, now(), 'r' FROM students WHERE id = %(students)s""",
    "incident_reports": """INSERT INTO incident_reports ("studentId", "reportedById", type, severity, "occurredAt", description)
        SELECT id, %(users)s, 'OTHER', 'LOW', now(), 'd' FROM students WHERE id = %(students)s""",
}
# No version says who may do what with the settings, so the login's own right stays.
AS_LOGIN = ("system_configurations",)


def load_sample_data(server: Server, database: str, students: int) -> None:
    """The demo's rows and an administrator, into the tables of the first four versions."""
    with server.session(database, autocommit=False) as conn:
        with conn.cursor() as cursor:
            # As the demo loads them: each key is right by its making.
            cursor.execute("SET LOCAL session_replication_role = replica")
            cursor.execute("SET LOCAL demo.rows = %s", (str(int(students * ROWS_A_STUDENT)),))
            cursor.execute(SAMPLE_DATA.read_text(encoding="utf-8"))
            cursor.execute(
                'INSERT INTO users (id, email, password, "firstName", "lastName", role, "createdAt", "updatedAt") '
                "VALUES (%s, 'admin@example.org', '!', 'A', 'A', 'ADMIN', '2024-07-15Z', '2024-07-15Z')",
                (ADMIN,),
            )
        conn.commit()
        conn.autocommit = True
        with conn.cursor() as cursor:
            cursor.execute("VACUUM (ANALYZE)")


def let_in(server: Server, database: str) -> None:
    """The application's login may use the tables that are there."""
    server.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {APP}", database=database)


@dataclass(frozen=True)
class Statement:
    """One statement of a client: when it began, how long it took, and what was wrong with it."""

    began: float
    seconds: float
    table: str
    kind: str
    fault: str | None = None


class Clients:
    """Threads that read and write the tables of the sample data, one statement a transaction, each of them timed.

    :param patience_s: a statement that takes longer is an error; without it they wait for ever.
    """

    def __init__(
        self, server: Server, database: str, *, count: int = 3, pause_s: float = 0.02, patience_s: int = 0
    ) -> None:
        self.statements: list[Statement] = []
        self._server, self._database, self._pause, self._patience = server, database, pause_s, patience_s
        self._group: str | None = None
        self._ended = threading.Event()
        self._rounds = [0] * count
        self._ids = self._known_ids()
        self._threads = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=120)

    @property
    def faults(self) -> list[str]:
        return [found.fault for found in self.statements if found.fault]

    def act_as(self, group: str | None) -> None:
        """From now on each transaction takes that role as the administrator; None goes back to the login itself. Returns
        when no statement of before is under way."""
        self._group = group
        before = list(self._rounds)
        deadline = time.monotonic() + 120
        while any(now < then + 2 for now, then in zip(self._rounds, before, strict=True)):
            if self._ended.is_set() or time.monotonic() > deadline:
                raise AssertionError("a client does not go on")
            # Threads of this process, so there is nothing to wait on but their counters.
            time.sleep(0.005)

    def since(self, moment: float) -> list[float]:
        """:return: the seconds of each statement that ended after the moment (of time.monotonic), in order."""
        return sorted(found.seconds for found in self.statements if found.began + found.seconds >= moment)

    def _known_ids(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        with self._server.session(self._database) as conn, conn.cursor() as cursor:
            for table in TABLES:
                cursor.execute(sql.SQL("SELECT id::text FROM {} ORDER BY id LIMIT 500").format(sql.Identifier(table)))
                found[table] = [row[0] for row in cursor.fetchall()]
        # Two clients at one row of two tables are the application's deadlock, not ours: the administrator stays as he is.
        found["users"].remove(ADMIN)
        return found

    def _work(self, number: int) -> None:
        chance = random.Random(number)
        conn: Any = None
        while not self._ended.is_set():
            if conn is None or conn.closed:
                conn = self._server.connect(self._database, APP)
                with conn.cursor() as cursor:
                    cursor.execute("SET statement_timeout = %s", (f"{self._patience}s",))
            # Each client has the tables in another order.
            table = TABLES[(self._rounds[number] + 5 * number) % len(TABLES)]
            kind = chance.choice(("read", "write", "insert"))
            statement, values = self._statement(chance, kind, table)
            group = self._group if table not in AS_LOGIN else None
            taken = f"SET LOCAL ROLE {group}; SET LOCAL app.user_id = '{ADMIN}'; " if group else ""
            fault = None
            began = time.monotonic()
            try:
                with conn.cursor() as cursor:
                    cursor.execute(taken + statement, values)
                    if cursor.rowcount != 1:
                        fault = f"{table}: {cursor.rowcount} rows instead of one: {statement}"
            except psycopg2.Error as error:
                fault = f"{table}: {str(error).strip()} ({error.pgcode}): {statement}"
            self.statements.append(Statement(began, time.monotonic() - began, table, kind, fault))
            self._rounds[number] += 1
            self._ended.wait(self._pause)
        if conn is not None:
            conn.close()

    def _statement(self, chance: random.Random, kind: str, table: str) -> tuple[str, dict[str, str]]:
        ids = {name: chance.choice(known) for name, known in self._ids.items()}
        if kind == "insert" and table in INSERTS:
            return INSERTS[table], ids
        if kind == "read":
            return f"SELECT * FROM {table} WHERE id = %({table})s", ids
        written = '"createdAt"' if table == "medication_logs" else '"updatedAt"'
        return f"UPDATE {table} SET {written} = {written} WHERE id = %({table})s", ids


@dataclass
class Hold:
    """A lock on a table with rows, as it was seen: it was held for `at_least_s` and not longer than `at_most_s`."""

    table: str
    mode: str
    doing: Any
    first: float
    last: float
    before: float
    after: float | None = None

    @property
    def at_least_s(self) -> float:
        return self.last - self.first

    @property
    def at_most_s(self) -> float:
        return (self.after if self.after is not None else self.last) - self.before


# Whoever holds one of these on a table keeps writers out, or readers too.
STRONG = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")

# Locks on an index count for its table: who plans a query of that has to look at all of them.
_LOCKS = """
SELECT l.pid, a.xact_start, coalesce(i.indrelid, l.relation) AS relation, l.mode
  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid LEFT JOIN pg_index i ON i.indexrelid = l.relation
 WHERE l.locktype = 'relation' AND l.granted AND l.mode = ANY (%s) AND a.application_name LIKE 'pgops %%'
   AND a.datname = current_database() AND coalesce(i.indrelid, l.relation) = ANY (%s)
"""


class LockWatch:
    """Looks every few milliseconds which strong locks a run holds on tables that have rows now."""

    def __init__(self, server: Server, database: str, *, interval_s: float = 0.02) -> None:
        self.holds: list[Hold] = []
        # What the run does, as the test or the benchmark says it.
        self.doing: Any = None
        self.looks = 0
        self.longest_gap_s = 0.0
        self._server, self._database, self._interval = server, database, interval_s
        self._names = self._tables_with_rows()
        self._ended = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._look, daemon=True)

    @property
    def tables(self) -> list[str]:
        return sorted(self._names.values())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join(timeout=60)
        if self._failed is not None:
            raise self._failed

    def look_again(self) -> None:
        """Other tables have rows by now."""
        self._names = self._tables_with_rows()

    def _tables_with_rows(self) -> dict[int, str]:
        with self._server.session(self._database) as conn, conn.cursor() as cursor:
            cursor.execute(
                "SELECT oid, oid::regclass::text FROM pg_class "
                "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            )
            found = {}
            for oid, name in cursor.fetchall():
                cursor.execute(f"SELECT EXISTS (SELECT FROM {name})")
                if cursor.fetchone()[0]:
                    found[int(oid)] = str(name)
            return found

    def _look(self) -> None:
        try:
            with self._server.session(self._database) as conn, conn.cursor() as cursor:
                open_holds: dict[tuple[Any, ...], Hold] = {}
                before = time.monotonic()
                while not self._ended.is_set():
                    asked = time.monotonic()
                    cursor.execute(_LOCKS, (list(STRONG), list(self._names)))
                    seen = {tuple(row) for row in cursor.fetchall()}
                    answered = time.monotonic()
                    # Read after the look: a run says what it does before it takes a lock for it.
                    doing = self.doing
                    for key in seen - open_holds.keys():
                        open_holds[key] = Hold(self._names[key[2]], key[3], doing, answered, asked, before)
                        self.holds.append(open_holds[key])
                    for key in seen & open_holds.keys():
                        open_holds[key].last = max(asked, open_holds[key].first)
                    for key in open_holds.keys() - seen:
                        open_holds.pop(key).after = answered
                    self.longest_gap_s = max(self.longest_gap_s, answered - before)
                    self.looks += 1
                    before = asked
                    self._ended.wait(self._interval)
        except (psycopg2.Error, KeyError) as error:
            # The test has to hear of it: what nobody looked at is not proved.
            self._failed = error
