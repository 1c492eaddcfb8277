# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What rollbacks have put aside: listed with its age and size, and dropped only when it is old enough and was shown."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    connection,
    database_marks,
    kept_databases,
    ledger,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import Mark
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from support.backups import RUN, names, start_python
from support.server import APP, OWNER


def put_aside(server: Any, database: str, name: str, days: float, **mark: Any) -> str:
    """A database as a swap leaves it, so many days ago."""
    kept = marked(server, database, f"failed_{name}", days, Mark("failed", database, "of-that-run", "", xid=1), **mark)
    server.execute(f"ALTER DATABASE {kept} ALLOW_CONNECTIONS false")
    return kept


def left_by_a_restore(server: Any, database: str, name: str, days: float, **mark: Any) -> str:
    """A database as a staged restore that died so many days ago leaves it."""
    return marked(server, database, f"restore_{name}", days, Mark("restored", database, "of-that-run", ""), **mark)


def marked(server: Any, database: str, name: str, days: float, told: Mark, **mark: Any) -> str:
    kept = f"{database}_{name}"
    server.execute(f"CREATE DATABASE {kept} OWNER {OWNER} STRATEGY file_copy")
    since = server.execute(
        f"SELECT to_char((clock_timestamp() - interval '{days} days') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
    )[0][0]
    with closing(server.connect()) as conn:
        database_marks.set_mark(conn, kept, replace(told, **{"since": since, **mark}))
    return kept


def due(target: Any, days: float = 7) -> dict[str, str]:
    return {kept.name: "due" if kept.due else kept.why for kept in kept_databases.listed(target, days)}


def drop(target: Any, *kept: str, days: float = 7) -> list[str]:
    return kept_databases.drop(target, kept, days, run_id=RUN)


@pytest.fixture
def with_ledger(target: Any, database: str) -> str:
    with closing(connection.connect(target, application_name="test")) as conn:
        ledger.ensure(conn)
    return database


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_only_what_is_old_enough_goes_and_the_audit_has_it(server: Any, target: Any, with_ledger: str) -> None:
    old, young = put_aside(server, with_ledger, "old", 7.1), put_aside(server, with_ledger, "young", 6.9)
    (first, second) = kept_databases.listed(target, 7)
    assert (first.name, first.due, first.run_id, round(first.age_days or 0, 1)) == (old, True, "of-that-run", 7.1)
    assert first.bytes > 1_000_000
    assert (second.name, second.due, second.why) == (young, False, "younger than 7 days")
    assert drop(target, old) == [old]
    assert names(server, with_ledger) == [with_ledger, young]
    events = server.execute("SELECT event, detail ->> 'database' FROM pgops.audit ORDER BY seq", database=with_ledger)
    assert events == [("kept_database_dropping", old), ("kept_database_dropped", old)]


def test_one_that_is_younger_or_none_of_ours_is_never_dropped_whoever_names_it(
    server: Any, target: Any, database: str
) -> None:
    young = put_aside(server, database, "young", 1)
    mine = f"{database}_failed_mine"
    server.execute(f"CREATE DATABASE {mine} STRATEGY file_copy")
    for name, said in (
        (young, "younger than 7 days"),
        (database, "no database that a swap"),
        (mine, "no database that a swap"),
    ):
        with pytest.raises(PgopsError, match=said):
            drop(target, name)
    assert names(server, database) == sorted([database, mine, young])
    with pytest.raises(PgopsError, match="give 0 or more days"):
        kept_databases.listed(target, -1)
    assert drop(target, young, days=0) == [young]


def test_one_whose_swap_is_not_at_its_end_stays(server: Any, target: Any, database: str) -> None:
    cut_off = put_aside(server, database, "a", 30, state="fenced")
    assert "a swap is not at its end" in due(target)[cut_off]
    other = put_aside(server, database, "b", 30)
    assert due(target)[other] == "due"
    with closing(server.connect()) as conn:
        database_marks.set_mark(conn, database, Mark("live", database, "killed", "x", state="fenced", aside=other))
    assert "was cut off" in due(target)[other]
    with pytest.raises(PgopsError, match="was cut off"):
        drop(target, other)


def test_one_that_somebody_looks_into_stays(server: Any, target: Any, database: str) -> None:
    kept = put_aside(server, database, "a", 30)
    server.execute(f"ALTER DATABASE {kept} ALLOW_CONNECTIONS true")
    with closing(server.connect(kept, APP)):
        assert f"of {APP} is in it" in due(target)[kept]
        with pytest.raises(PgopsError, match="is in it; dropped before it: none"):
            drop(target, kept)
    assert kept in names(server, database)


def test_a_mark_without_a_time_and_one_of_the_future_stay(server: Any, target: Any, database: str) -> None:
    strange = put_aside(server, database, "a", 30, since="yesterday")
    future = put_aside(server, database, "b", -30)
    assert due(target, 0) == {
        strange: "since when it is kept cannot be read ('yesterday')",
        future: "younger than 0 days",
    }


def test_nothing_goes_while_a_swap_runs_or_where_the_audit_cannot_be_written(
    server: Any, target: Any, with_ledger: str
) -> None:
    kept = put_aside(server, with_ledger, "a", 30)
    with closing(server.connect()) as conn:
        assert database_marks.try_lock(conn, f"swap {with_ledger}")
        with pytest.raises(PgopsError, match="A swap of .* is running"):
            drop(target, kept)
    server.execute("ALTER TABLE pgops.audit RENAME TO audit_gone", database=with_ledger)
    with pytest.raises(PgopsError, match="audit of .* cannot be written, so nothing is dropped"):
        drop(target, kept)
    assert kept in names(server, with_ledger)


def test_a_logical_slot_that_goes_along_is_named(server: Any, target: Any, database: str) -> None:
    kept = put_aside(server, database, "a", 30)
    server.execute(f"ALTER DATABASE {kept} ALLOW_CONNECTIONS true")
    server.execute(f"SELECT pg_create_logical_replication_slot('{database}_s', 'pgoutput')", database=kept)
    server.execute(f"ALTER DATABASE {kept} ALLOW_CONNECTIONS false")
    (found,) = kept_databases.listed(target, 7)
    assert found.slots == [f"{database}_s"]
    assert drop(target, kept) == [kept]
    assert server.execute(f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{database}_s'") == []


@pytest.mark.slow
def test_killed_before_the_drop_the_audit_tells_what_was_meant_and_the_next_run_drops_it(
    server: Any, target: Any, with_ledger: str
) -> None:
    kept = put_aside(server, with_ledger, "a", 30)
    killed = """
    from ansible_collections.whitecross.pgops.plugins.module_utils import kept_databases
    kept_databases._drop = lambda *unused: os.kill(os.getpid(), signal.SIGKILL)
    kept_databases.drop(target, [values["kept"]], 7, run_id="killed")
    """
    process = start_python(killed, target, kept=kept)
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert server.execute("SELECT event FROM pgops.audit", database=with_ledger) == [("kept_database_dropping",)]
    assert kept in names(server, with_ledger)
    assert drop(target, kept) == [kept]


def test_the_playbook_shows_the_same_set_that_it_drops(
    playbook: Any, server: Any, database: str, tmp_path: Path
) -> None:
    old, young = put_aside(server, database, "old", 40), put_aside(server, database, "young", 20)
    more = {"rollback_keep_days": 30}
    shown = playbook("rollback_cleanup.yml", "--check", **more)
    assert shown.rc == 0, shown.output
    unnamed = playbook("rollback_cleanup.yml", **more)
    assert unnamed.rc == 2
    assert f"The cleanup of {database} on local-1 was not confirmed" in unnamed.json["error"]["message"]
    assert f"-e rollback_cleanup_confirm={database}" in unnamed.json["error"]["next"][0]
    assert names(server, database) == sorted([database, old, young])
    done = playbook("rollback_cleanup.yml", rollback_cleanup_confirm=database, **more)
    assert done.rc == 0, done.output
    assert "changed=1" in done.stdout
    for result in (shown, unnamed, done):
        assert f"{old} " in result.stdout
        assert "40.0 days" in result.stdout
        assert "stays: younger than 30 days" in result.stdout
    assert f"{database}: dropped {old}" in done.stdout
    assert done.json["hosts"]["local-1"][database]["cleanup"]["dropped"] == [old]
    assert names(server, database) == [database, young]


@pytest.mark.slow
def test_the_playbook_changes_nothing_where_nothing_is_due(playbook: Any, server: Any, database: str) -> None:
    young = put_aside(server, database, "young", 6)
    done = playbook("rollback_cleanup.yml")
    assert done.rc == 0, done.output
    assert "changed=0" in done.stdout
    assert names(server, database) == [database, young]


def test_a_copy_that_a_killed_restore_left_goes_at_any_age_and_a_whole_one_when_it_is_old(
    server: Any, target: Any, with_ledger: str
) -> None:
    half = left_by_a_restore(server, with_ledger, "half", 0.01, state="restoring")
    young = left_by_a_restore(server, with_ledger, "young", 6, state=database_marks.VERIFIED)
    old = left_by_a_restore(server, with_ledger, "old", 8, state=database_marks.VERIFIED)
    fenced = left_by_a_restore(server, with_ledger, "fenced", 8, state=database_marks.FENCED)
    assert due(target) == {half: "due", young: "younger than 7 days", old: "due"}
    assert {(kept.copy, kept.run_id) for kept in kept_databases.listed(target, 7)} == {(True, "of-that-run")}
    with pytest.raises(PgopsError, match="younger than 7 days; dropped before it: none"):
        drop(target, young)
    assert drop(target, half, old) == [half, old]
    assert names(server, with_ledger) == sorted([with_ledger, young, fenced])
    dropped = server.execute("SELECT detail ->> 'database' FROM pgops.audit ORDER BY seq", database=with_ledger)
    assert dropped == [(half,), (half,), (old,), (old,)]


def test_a_copy_that_a_run_is_at_stays(server: Any, target: Any, database: str) -> None:
    copy = left_by_a_restore(server, database, "a", 30, state="restoring")
    with closing(server.connect()) as conn:
        assert database_marks.try_lock(conn, f"restore {copy}")
        assert due(target) == {copy: "a run restores it now"}
        with pytest.raises(PgopsError, match="a run restores it now"):
            drop(target, copy)
    assert due(target) == {copy: "due"}


def test_the_playbook_drops_a_copy_that_a_restore_left(playbook: Any, server: Any, database: str) -> None:
    copy = left_by_a_restore(server, database, "a", 0.5, state="restoring")
    shown = playbook("rollback_cleanup.yml", "--check")
    assert shown.rc == 0, shown.output
    assert f"{copy} " in shown.stdout
    assert "goes: a restore left it" in shown.stdout
    assert copy in names(server, database)
    done = playbook("rollback_cleanup.yml", rollback_cleanup_confirm=database)
    assert done.rc == 0, done.output
    assert f"{database}: dropped {copy}" in done.stdout
    assert names(server, database) == [database]
