# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The shipped chain on tables with rows, while the application reads and writes: no lock above SHARE UPDATE EXCLUSIVE for
longer than a moment, no work under one that grows with the table, and no error of a client."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import connection, label_removal, migrate, sql_step
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.clients import TABLES, Clients, LockWatch, let_in, load_sample_data
from support.engine import Told, wait_for, way
from support.server import Server
from support.tree import TestTree, shipped_chain

SQL = Path(__file__).resolve().parents[2] / "sql"
SETTINGS, HEALTH, RESTRICT, GRANTS = (
    "20250103000003",
    "20251010000000",
    "20251104000000",
    "20251107000000",
)
STUDENTS = 400
# So many that a version that goes through a whole table under its lock holds that for seconds.
MANY_STUDENTS = 40_000

# How long a version may hold a strong lock on a table with rows. Not its lock_budget_s: that is how long it may wait for one.
LONGEST_HOLD_S = 1.0
# What a client takes for an answer: as long as the lock is waited for and held, and what the machine adds.
PATIENCE_S = 5

# What the server says (at debug1) when ALTER TABLE or CREATE INDEX goes through a whole table: only ever under such a lock,
# since builds and validations are steps of other kinds.
WHOLE_TABLE = re.compile(r'^DEBUG:  (?:(?:rewriting|verifying) table|building index ".*" on table) "(?P<table>.*?)"')
WHOLE_KEY = re.compile(r'^DEBUG:  validating foreign key constraint "(?P<key>.*)"')

# A check is validated in a step of SQL, by VALIDATE CONSTRAINT: writers go on. The step that needs it reads no row.
VALIDATED_UP = {(HEALTH, "chronic_conditions in step 8")}
# An enum goes back to text by one rewrite of a small table (one pupil in eight has a condition): a second at 200,000 rows, by
# measure. The migration says so.
GROWS_DOWN = {(HEALTH, "chronic_conditions in step 6")}
# The way back of this one validates its keys in a step of SQL, by VALIDATE CONSTRAINT: writers go on.
VALIDATED_DOWN = {
    (RESTRICT, f"key {name}_fkey_cascade")
    for name in (
        "schools_districtId",
        "appointments_nurseId",
        "student_medications_medicationId",
        "medication_logs_studentMedicationId",
        "medication_logs_nurseId",
        "incident_reports_reportedById",
        "students_schoolId",
        "students_districtId",
        "health_records_studentId",
        "allergies_studentId",
        "chronic_conditions_studentId",
        "vaccinations_studentId",
        "screenings_studentId",
        "growth_measurements_studentId",
        "vital_signs_studentId",
        "student_medications_studentId",
        "appointments_studentId",
        "appointment_waitlist_studentId",
        "incident_reports_studentId",
        "emergency_contacts_studentId",
        "appointment_reminders_appointmentId",
        "witness_statements_incidentReportId",
        "follow_up_actions_incidentReportId",
        "document_signatures_documentId",
    )
}


@pytest.fixture(scope="module")
def chain() -> list[dict[str, Any]]:
    """With each table taken for a large one: labels of enums go beside the clients."""
    return [{**item, "budgets": {**item["budgets"], "rewrite_limit_mb": 0}} for item in shipped_chain()]


@pytest.fixture(autouse=True)
def outspoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server tells the run when it goes through a whole table, and the run tells it on, as it does with no text of others."""
    monkeypatch.setitem(connection.PINNED_SETTINGS, "client_min_messages", "debug1")
    for module in (label_removal, sql_step):
        monkeypatch.setattr(module, "told_notices", lambda notices, _statement: list(notices))


class Watched(Told):
    """Tells the watch which version is at work, and keeps which tables with rows a step of SQL went through."""

    def __init__(self, watch: LockWatch) -> None:
        super().__init__()
        self.watch = watch
        self.whole: set[tuple[str, str]] = set()

    def emit(self, text: str, **fields: Any) -> None:
        super().emit(text, **fields)
        if fields.get("version") is None:
            return
        version = str(fields["version"])
        self.watch.doing = version
        table, key = WHOLE_TABLE.match(text), WHOLE_KEY.match(text)
        if table and table["table"] in self.watch.tables:
            self.whole.add((version, f"{table['table']} in step {fields.get('step')}"))
        if key:
            self.whole.add((version, f"key {key['key']}"))


def too_long(watch: LockWatch) -> list[str]:
    """:return: locks that were held for longer than a moment, by two looks that both saw them: a pause between two looks, on
    a slow machine, is nobody's lock."""
    return [
        f"{hold.doing}: {hold.mode} on {hold.table} for {hold.at_least_s:.1f} s"
        for hold in watch.holds
        if hold.at_least_s > LONGEST_HOLD_S
    ]


def ready(server: Server, target: Any, chain: list[dict[str, Any]], students: int = STUDENTS) -> None:
    migrate.apply(target, chain, Selection(target=SETTINGS), way())
    load_sample_data(server, target.database, students)
    let_in(server, target.database)


def up(target: Any, chain: list[dict[str, Any]], clients: Clients, progress: Watched) -> None:
    migrate.apply(target, chain, Selection(target=GRANTS), way(progress=progress))
    # The application is deployed between this version, which lets it take a role, and the next, which asks for one.
    clients.act_as("white_cross_admin")
    migrate.apply(target, chain, Selection(), way(progress=progress))


def under_load(
    server: Server, target: Any, chain: list[dict[str, Any]], *, and_back: bool, students: int = STUDENTS
) -> None:
    ready(server, target, chain, students)
    with (
        LockWatch(server, target.database) as watch,
        Clients(server, target.database, patience_s=PATIENCE_S) as clients,
    ):
        assert set(watch.tables) == set(TABLES)
        clients.act_as(None)
        progress = Watched(watch)
        up(target, chain, clients, progress)
        assert progress.whole == VALIDATED_UP
        if and_back:
            progress = Watched(watch)
            migrate.revert(target, Reverts(keep=GRANTS), way(progress=progress))
            clients.act_as(None)
            migrate.revert(target, Reverts(keep=SETTINGS), way(progress=progress))
            assert progress.whole == GROWS_DOWN | VALIDATED_DOWN
        # As long as it takes until each kind of statement has met each table.
        met = {(table, kind) for table in TABLES for kind in ("read", "write")}
        wait_for(lambda: {(one.table, one.kind) for one in list(clients.statements)} >= met, 120, "every statement")
    assert clients.faults == []
    assert too_long(watch) == []


def test_the_chain_goes_up_while_clients_read_and_write(
    server: Server, target: Any, chain: list[dict[str, Any]]
) -> None:
    under_load(server, target, chain, and_back=False)


@pytest.mark.slow
def test_the_chain_goes_up_and_down_while_clients_read_and_write(
    server: Server, target: Any, chain: list[dict[str, Any]]
) -> None:
    under_load(server, target, chain, and_back=True)


@pytest.mark.slow
def test_the_chain_goes_up_on_large_tables_while_clients_read_and_write(
    server: Server, target: Any, chain: list[dict[str, Any]]
) -> None:
    under_load(server, target, chain, and_back=False, students=MANY_STUDENTS)


@pytest.mark.slow
@pytest.mark.majors(15, 16, 17)
def test_the_chain_goes_up_while_clients_read_and_write_on_the_other_majors(
    server: Server, target: Any, chain: list[dict[str, Any]]
) -> None:
    under_load(server, target, chain, and_back=False)


# What would be seen.


@pytest.mark.parametrize(
    ("statement", "whole"),
    [
        ("ALTER TABLE public.people ADD COLUMN more text;", set()),
        ("ALTER TABLE public.people ALTER age TYPE bigint;", {"people in step 1"}),
        ("ALTER TABLE public.people ADD COLUMN made uuid DEFAULT gen_random_uuid();", {"people in step 1"}),
        ("ALTER TABLE public.people ALTER age SET NOT NULL;", {"people in step 1"}),
        ("ALTER TABLE public.people ADD CONSTRAINT adult CHECK (age > 17);", {"people in step 1"}),
        ("ALTER TABLE public.people ADD CONSTRAINT adult CHECK (age > 17) NOT VALID;", set()),
        ("CREATE INDEX people_age ON public.people (age);", {"people in step 1"}),
        ("ALTER TABLE public.people ADD CONSTRAINT boss FOREIGN KEY (age) REFERENCES public.people;", {"key boss"}),
        ("ALTER TABLE public.nobody ALTER age TYPE bigint;", set()),
    ],
)
def test_work_that_grows_with_the_table_is_seen(
    server: Server, target: Any, tmp_path: Path, statement: str, whole: set[str]
) -> None:
    migrations = people(server, target, tmp_path, statement)
    progress = Watched(LockWatch(server, target.database))
    migrate.apply(target, migrations, Selection(), way(progress=progress))
    assert progress.whole == {("20260101000002", name) for name in whole}


EXCLUSIVE = "AccessExclusiveLock on people"


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("statement", "seen"),
    [
        ("ALTER TABLE public.people ALTER age TYPE bigint USING public.slow(age);", EXCLUSIVE),
        (
            "ALTER TABLE public.people ADD COLUMN older integer; UPDATE public.people SET older = public.slow(age);",
            EXCLUSIVE,
        ),
        ("ALTER TABLE public.people ADD CONSTRAINT adult CHECK (public.slow(age) > 17);", EXCLUSIVE),
        ("CREATE INDEX people_age ON public.people (public.slow(age));", "ShareLock on people"),
        (
            "LOCK TABLE public.people IN SHARE ROW EXCLUSIVE MODE; SELECT pg_sleep(2);",
            "ShareRowExclusiveLock on people",
        ),
        ("LOCK TABLE public.people IN SHARE UPDATE EXCLUSIVE MODE; SELECT pg_sleep(2);", None),
        ("LOCK TABLE public.nobody IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(2);", None),
        ("UPDATE public.people SET age = public.slow(age);", None),
    ],
)
def test_a_lock_that_is_held_for_longer_than_a_moment_is_seen(
    server: Server, target: Any, tmp_path: Path, statement: str, seen: str | None
) -> None:
    migrations = people(server, target, tmp_path, statement)
    # A tenth of a second for each of 20 rows: what goes through a table takes longer the more it has.
    server.execute(
        "CREATE FUNCTION public.slow(age integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS "
        "'BEGIN PERFORM pg_sleep(0.1); RETURN age; END'",
        database=target.database,
    )
    with LockWatch(server, target.database) as watch:
        migrate.apply(target, migrations, Selection(), way(progress=Watched(watch)))
    found = too_long(watch)
    assert [line for line in found if seen is not None and f"20260101000002: {seen} for " in line] == found
    assert bool(found) is (seen is not None)


@pytest.mark.slow
def test_a_rewrite_of_a_large_table_is_held_for_longer_than_a_moment(
    server: Server, target: Any, tmp_path: Path
) -> None:
    """The bound is one that the platform's own tables would break, without any pause."""
    migrations = people(server, target, tmp_path, "ALTER TABLE public.people ALTER age TYPE bigint;")
    server.execute("INSERT INTO people SELECT n, 18 FROM generate_series(21, 3000000) AS n", database=target.database)
    with LockWatch(server, target.database) as watch:
        migrate.apply(target, migrations, Selection(), way(progress=Watched(watch)))
    assert any(f"20260101000002: {EXCLUSIVE} for " in line for line in too_long(watch))


def people(server: Server, target: Any, folder: Path, statement: str, **keys: Any) -> list[dict[str, Any]]:
    """Two tables of which one has rows, and a version that does something to them."""
    first, second = "20260101000001", "20260101000002"
    tree = TestTree(folder / "sql")
    tree.add_sql(
        first,
        "people",
        "CREATE TABLE public.people (id integer PRIMARY KEY, age integer);\nCREATE TABLE public.nobody (age integer);",
        "DROP TABLE public.nobody;\nDROP TABLE public.people;",
    )
    tree.add_sql(second, "changes", statement, "SELECT 1;", **keys)
    migrations = tree.render()
    migrate.apply(target, migrations, Selection(target=first), way())
    server.execute("INSERT INTO people SELECT n, 18 FROM generate_series(1, 20) AS n", database=target.database)
    return migrations


def test_an_error_of_a_client_is_seen(server: Server, target: Any, chain: list[dict[str, Any]]) -> None:
    ready(server, target, chain)
    with Clients(server, target.database) as clients:
        clients.act_as(None)
        assert clients.faults == []
        server.execute("ALTER TABLE students ENABLE ROW LEVEL SECURITY", database=target.database)
        wait_for(lambda: clients.faults, 60, "the application that sees no pupils")
    assert "0 rows instead of one" in clients.faults[0]
    assert "students" in clients.faults[0]
