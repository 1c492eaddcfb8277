# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The red matrix, its second half: what is in the database, settings, standbys, clocks, backups and timers.

The first half, about the connection, roles and who is busy, is test_preflight.py. A check without a fault in either is refused.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    database_marks,
    preflight,
    preflight_checks,
    preflight_compare,
    preflight_looks,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.command_text import is_command
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import reporting
from psycopg2.extras import PhysicalReplicationConnection
from support import health
from support.backups import proved
from support.engine import target_of
from support.health import PLENTY, World, blind, red, shipped
from support.server import MIGRATOR, OWNER, SUPERUSER, Server
from support.standby import standby_of


@pytest.fixture(scope="module")
def sound() -> Iterator[Callable[[Server], None]]:
    with health.durable() as make:
        yield make


@pytest.fixture
def world(
    server: Server, database: str, target: Target, monkeypatch: pytest.MonkeyPatch, sound: Callable[[Server], None]
) -> Iterator[World]:
    sound(server)
    with health.made(server, database, target, monkeypatch) as made:
        yield made


def owned(world: World, *statements: str) -> None:
    """As the role that owns what the migrations make."""
    world.sql(f"SET ROLE {OWNER}; " + "; ".join(statements))


def system(world: World, name: str, value: str) -> None:
    """A setting of the whole server, for the time of the test."""

    def reload(statement: str) -> None:
        world.server.execute(statement)
        world.server.execute("SELECT pg_reload_conf()")

    kept = world.server.execute(
        f"SELECT 1 FROM pg_file_settings WHERE name = '{name}' AND sourcefile LIKE '%auto.conf'"
    )
    ((before,),) = world.server.execute(f"SELECT setting FROM pg_settings WHERE name = '{name}'")
    as_before = f"SELECT 1 FROM pg_settings WHERE name = '{name}' AND NOT pending_restart AND setting = '{before}'"
    if not kept:
        world.after.callback(reload, f"ALTER SYSTEM RESET {name}")
    # A change that waits for a restart is taken back by its old value, and by no RESET.
    world.after.callback(world.until, as_before)
    world.after.callback(reload, f"ALTER SYSTEM SET {name} = '{before}'")
    reload(f"ALTER SYSTEM SET {name} = '{value}'")
    world.until(f"SELECT 1 FROM pg_settings WHERE name = '{name}' AND (setting = '{value}' OR pending_restart)")


# -- the faults -----------------------------------------------------------------------------------------------------------


def clock_is_off(world: World) -> None:
    world.changes["clock"] = lambda: time.time() + 30


def idle_in_a_transaction(world: World) -> None:
    world.thresholds["idle_in_transaction_s"] = 0
    world.session(MIGRATOR, autocommit=False).cursor().execute("SELECT 1")


def vacuum_takes_long(world: World) -> None:
    world.thresholds["maintenance_s"] = 0
    world.sql("INSERT INTO public.students SELECT i, repeat('x', 500) FROM generate_series(10, 3000) i", "ANALYZE")
    vacuuming = world.session(SUPERUSER)

    def vacuum() -> None:
        with suppress(psycopg2.Error), vacuuming.cursor() as cursor:
            cursor.execute("SET vacuum_cost_delay = 100")
            cursor.execute("SET vacuum_cost_limit = 1")
            cursor.execute("VACUUM (DISABLE_PAGE_SKIPPING) public.students")

    thread = threading.Thread(target=vacuum)
    thread.start()
    world.after.callback(thread.join)
    world.after.callback(vacuuming.cancel)
    world.until("SELECT 1 FROM pg_stat_progress_vacuum WHERE datname = current_database()")


def query_spills(world: World) -> None:
    world.thresholds["temp_bytes"] = 100_000
    cursor = world.session(MIGRATOR, autocommit=False).cursor()
    cursor.execute("SET work_mem = '64kB'")
    cursor.execute(
        "DECLARE sorted CURSOR FOR SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i ORDER BY i % 997, i"
    )
    cursor.execute("FETCH 1 FROM sorted")


def two_indexes_are_one(world: World) -> None:
    owned(world, "CREATE INDEX once ON public.students (name)", "CREATE INDEX twice ON public.students (name)")


def key_without_an_index(world: World) -> None:
    world.thresholds["small_table_rows"] = 1
    owned(
        world,
        "CREATE TABLE public.visits (id int PRIMARY KEY, student int REFERENCES public.students)",
        "INSERT INTO public.visits VALUES (1, 1)",
    )
    world.sql("ANALYZE")


def table_without_a_key(world: World) -> None:
    owned(world, "CREATE TABLE public.loose (id int)")


def never_analyzed(world: World) -> None:
    world.thresholds["small_table_rows"] = 1
    world.until("SELECT 1 FROM pg_stat_user_tables WHERE relname = 'students' AND n_live_tup = 2")


def analyzed_long_ago(world: World) -> None:
    world.thresholds["small_table_rows"] = 1
    # What is inserted later leaves no dead rows.
    world.sql("ANALYZE", "INSERT INTO public.students VALUES (3, 'c'), (4, 'd')")
    world.until("SELECT 1 FROM pg_stat_user_tables WHERE relname = 'students' AND n_mod_since_analyze = 2")


def dead_rows(world: World) -> None:
    world.thresholds["dead_rows"] = 1
    world.sql("UPDATE public.students SET name = 'b'")
    world.until("SELECT 1 FROM pg_stat_user_tables WHERE relname = 'students' AND n_dead_tup = 2")


def autovacuum_is_off(world: World) -> None:
    owned(world, "ALTER TABLE public.students SET (autovacuum_enabled = off)")


def table_is_hollow(world: World) -> None:
    world.thresholds["bloat_bytes"] = 500_000
    world.sql(
        "INSERT INTO public.students SELECT i, repeat('x', 500) FROM generate_series(10, 3000) i",
        # The last row stays, so that VACUUM cannot cut the end off.
        "DELETE FROM public.students WHERE id < 3000",
        "VACUUM (ANALYZE) public.students",
    )


def index_is_hollow(world: World) -> None:
    world.thresholds["bloat_bytes"] = 200_000
    world.sql(
        "INSERT INTO public.students (id) SELECT i FROM generate_series(10, 20000) i",
        # The end of the table is cut off; an index keeps its pages.
        "DELETE FROM public.students WHERE id > 100",
        "VACUUM (ANALYZE) public.students",
    )


def sequence_is_used_up(world: World) -> None:
    # The sequence of a bigserial would go on; the column does not.
    owned(
        world,
        "CREATE SEQUENCE public.counted AS bigint",
        "CREATE TABLE public.entries (id int PRIMARY KEY DEFAULT nextval('public.counted'))",
        "ALTER SEQUENCE public.counted OWNED BY public.entries.id",
        "SELECT setval('public.counted', 2100000000)",
    )


def extension_is_old(world: World) -> None:
    world.sql("CREATE EXTENSION pg_trgm VERSION '1.5'")


def everybody_may(world: World) -> None:
    owned(world, "GRANT SELECT, UPDATE ON public.students TO PUBLIC")


def role_carries_a_limit(world: World) -> None:
    world.undo(f"ALTER ROLE {MIGRATOR} RESET lock_timeout")
    world.sql(f"ALTER ROLE {MIGRATOR} SET lock_timeout = '2s'")


def multixacts_are_old(world: World) -> None:
    world.thresholds["multixact_age_warn"] = 0
    for user in (SUPERUSER, MIGRATOR):
        cursor = world.session(user, autocommit=False).cursor()
        cursor.execute(f"SET ROLE {OWNER}; SELECT 1 FROM public.students FOR SHARE")


def not_durable(world: World) -> None:
    world.changes["production"] = True
    system(world, "full_page_writes", "off")


def restart_is_due(world: World) -> None:
    system(world, "max_worker_processes", "17")


def passwords_as_md5(world: World) -> None:
    world.sql(f"ALTER DATABASE {world.database} SET password_encryption = 'md5'")


def md5_password(world: World) -> None:
    role = f"old_{world.database}"
    world.undo(f"DROP ROLE {role}")
    # That of a password which nobody has.
    world.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'md5{'0' * 32}'")


def another_superuser(world: World) -> None:
    role = f"root_{world.database}"
    world.undo(f"DROP ROLE {role}")
    world.sql(f"CREATE ROLE {role} LOGIN SUPERUSER")


def anybody_comes_in(world: World) -> None:
    world.changes["production"] = True
    file = world.server.directory / "data" / "pg_hba.conf"
    text = file.read_text()
    world.after.callback(file.write_text, text)
    # Read by the view as it is in the file; the server itself never reads it again here.
    file.write_text(text + "host all all 203.0.113.0/24 trust\n")


def version_has_ended(world: World) -> None:
    world.changes["now"] = lambda: datetime(2031, 1, 1, tzinfo=UTC)


def version_is_known_to_be_bad(world: World) -> None:
    major, minor = str(world.server.execute("SHOW server_version")[0][0]).split(".")[:2]
    bad = {"major": int(major), "minor": int(minor), "mended": int(minor) + 1, "why": "its planets are wrong"}
    world.changes["versions"] = {**shipped().versions, "bad_minors": [bad]}


def slot_without_a_consumer(world: World) -> None:
    world.thresholds["slot_idle_s"] = 0
    world.undo("SELECT pg_drop_replication_slot('forgotten')")
    world.sql("SELECT pg_create_physical_replication_slot('forgotten')")


def blue_green_was_killed(world: World) -> None:
    name = "pgops_bg_0123456789abcdef"
    world.undo(f"SELECT pg_drop_replication_slot('{name}')")
    world.sql(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")


def restore_was_killed(world: World) -> None:
    left_copy(world, "killed", state="restoring")


def left_copy(world: World, name: str, **mark: Any) -> str:
    """A database as a staged restore that died two hours ago leaves it."""
    copy = f"{world.database}_restore_{name}"
    since = (datetime.now(UTC) - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    world.server.execute(f"CREATE DATABASE {copy} OWNER {OWNER} STRATEGY file_copy")
    world.after.callback(world.server.drop_databases, copy)
    told = database_marks.Mark("restored", world.database, "of-that-run", since)
    with closing(world.server.connect()) as conn:
        database_marks.set_mark(conn, copy, replace(told, **mark))
    return copy


def standby(world: World) -> Any:
    conn = psycopg2.connect(
        host=world.server.host,
        port=world.server.port,
        user=SUPERUSER,
        passfile=str(world.server.passfile),
        application_name="standby1",
        connection_factory=PhysicalReplicationConnection,
    )
    return world.after.enter_context(closing(conn))


def standby_is_behind(world: World) -> None:
    """It has confirmed what there was, and nothing since."""
    world.thresholds["replication_lag_bytes"] = 100_000
    ((lsn, written),) = world.server.execute("SELECT pg_current_wal_lsn(), pg_current_wal_lsn() - '0/0'::pg_lsn")
    cursor = standby(world).cursor()
    cursor.start_replication(start_lsn=lsn)
    cursor.send_feedback(write_lsn=int(written), flush_lsn=int(written), apply_lsn=int(written), force=True)
    world.sql("CREATE TABLE public.written AS SELECT i FROM generate_series(1, 20000) i", "DROP TABLE public.written")
    world.until("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn IS NOT NULL")


def standby_has_not_begun(world: World) -> None:
    standby(world)
    world.until("SELECT 1 FROM pg_stat_replication WHERE state = 'startup'")


def wal_disk_full(world: World) -> None:
    world.free = lambda path: 1000 if path.endswith("pg_wal") else PLENTY


def temp_disk_full(world: World) -> None:
    world.free = lambda path: 1000 if path.endswith("base") else PLENTY


def backup_is_old(world: World) -> None:
    with_backup(world)
    world.changes["now"] = lambda: datetime.now(UTC) + timedelta(hours=30)


def backup_is_not_proved(world: World) -> None:
    with_backup(world)
    (backup,) = backup_store.backups_of(world.backup_directory, world.database)
    backup_store.remove_proof(backup)


def with_backup(world: World) -> None:
    world.changes["environment"] = "staging"
    world.changes["timers"] = []
    folder = world.server.directory / f"backups_{world.database}"
    folder.mkdir()
    proved(world.target, folder)
    world.backup_directory = str(folder)


def timer_is_late(world: World) -> None:
    then = (datetime.now(UTC) - timedelta(days=3)).isoformat()
    world.changes["timers"] = [
        {
            "name": "drill",
            "last_success": datetime.now(UTC).isoformat(),
            "expected_every_s": 86400,
            "result": "success",
        },
        {"name": "backup", "last_success": then, "expected_every_s": 86400, "result": "success"},
    ]


MATRIX: dict[str, tuple[Callable[[World], None], str, str, str]] = {
    # check: (the fault, level, a part of the evidence, a part of the fix)
    "clock": (clock_is_off, "warn", "30 s behind that of", "NTP"),
    "idle_in_transaction": (idle_in_a_transaction, "warn", "does nothing inside a transaction", "pg_terminate_backend"),
    "maintenance_running": (vacuum_takes_long, "warn", "VACUUM of public.students runs", "pg_cancel_backend"),
    "temp_files": (query_spills, "warn", "in the tablespace pg_default", "work_mem"),
    "duplicate_indexes": (two_indexes_are_one, "warn", "public.twice is the same as once", "DROP INDEX CONCURRENTLY public.twice;"),
    "foreign_key_indexes": (
        key_without_an_index, "warn", "visits_student_fkey of public.visits", "CREATE INDEX CONCURRENTLY ON public.visits (student);",
    ),
    "primary_keys": (table_without_a_key, "warn", "table public.loose has no primary key", "ALTER TABLE public.loose ADD PRIMARY KEY"),
    "missing_statistics": (never_analyzed, "warn", "public.students with 2 rows", "ANALYZE public.students;"),
    "stale_statistics": (analyzed_long_ago, "warn", "2 rows of public.students", "ANALYZE public.students;"),
    "dead_rows": (dead_rows, "warn", "public.students has 2 dead rows (50 percent), vacuumed never", "VACUUM public.students;"),
    "autovacuum_off": (autovacuum_is_off, "warn", "public.students", "ALTER TABLE public.students RESET (autovacuum_enabled);"),
    "table_bloat": (table_is_hollow, "warn", "of public.students", "pgstattuple_approx('public.students')"),
    "index_bloat": (index_is_hollow, "warn", "index public.students_pkey", "REINDEX INDEX CONCURRENTLY public.students_pkey;"),
    "sequences": (sequence_is_used_up, "stop", "public.counted has given out", "bigint"),
    "extension_updates": (extension_is_old, "warn", "pg_trgm is at 1.5", "ALTER EXTENSION pg_trgm UPDATE;"),
    "public_rights": (
        everybody_may, "warn", "SELECT, UPDATE on TABLE public.students", "REVOKE SELECT, UPDATE ON TABLE public.students FROM PUBLIC;",
    ),
    "role_settings": (role_carries_a_limit, "warn", f"role {MIGRATOR} has lock_timeout = 2s", f"ALTER ROLE {MIGRATOR} RESET lock_timeout;"),
    "multixact": (multixacts_are_old, "warn", "the oldest multixact of database", "vacuumdb --freeze"),
    "unsafe_settings": (not_durable, "stop", "full_page_writes is off", "ALTER SYSTEM RESET full_page_writes;"),
    "pending_restart": (restart_is_due, "warn", "max_worker_processes was changed", "restart"),
    "password_encryption": (passwords_as_md5, "warn", "is md5", "ALTER SYSTEM SET password_encryption"),
    "md5_passwords": (md5_password, "warn", "the password of old_", "password"),
    "superusers": (another_superuser, "warn", "3 superusers", "NOSUPERUSER"),
    "hba_trust": (anybody_comes_in, "stop", "host all all 203.0.113.0 trust", "scram-sha-256"),
    "end_of_life": (version_has_ended, "warn", "no fix since 2030-11-14", "upgrade"),
    "known_bad_minor": (version_is_known_to_be_bad, "warn", "planets are wrong; mended in", "install the latest"),
    "idle_slots": (slot_without_a_consumer, "warn", "physical replication slot forgotten", "pg_drop_replication_slot('forgotten')"),
    "blue_green": (blue_green_was_killed, "warn", "does not go on, and its slot pgops_bg_0123456789abcdef", "blue_green_stage=give_up"),
    "restored_copies": (
        restore_was_killed, "warn", "half restored, is 2.0 hours old and no run is at it (of run of-that-run)",
        "ansible-playbook rollback_cleanup.yml -l local -e rollback_cleanup_confirm=",
    ),
    "replication_lag": (standby_is_behind, "warn", "standby standby1", "caught up"),
    "replication_state": (standby_has_not_begun, "warn", "standby standby1 (127.0.0.1/32) is in state startup", "streaming"),
    "disk_wal": (wal_disk_full, "stop", "pg_wal, max_wal_size is 256 MB", "free at least 64 MB"),
    "disk_temp": (temp_disk_full, "warn", "1000 bytes free at", "free"),
    "backup_age": (backup_is_old, "warn", "the last is 30 hours old", "ansible-playbook backup.yml -l local"),
    "backup_proof": (backup_is_not_proved, "warn", "level 0", "ansible-playbook prove.yml -l local -e backup_path="),
    "timers": (timer_is_late, "warn", "backup succeeded last 72 hours ago and should every 24 hours", "journalctl"),
}  # fmt: skip


def test_every_check_has_a_fault_and_none_has_two() -> None:
    spec = importlib.util.spec_from_file_location("first_half", Path(__file__).with_name("test_preflight.py"))
    assert spec and spec.loader
    first_half = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(first_half)
    ours, theirs = set(MATRIX), set(first_half.MATRIX) | first_half.ELSEWHERE
    assert ours | theirs == set(shipped().names)
    assert not ours & theirs


@pytest.mark.parametrize("check", MATRIX)
def test_exactly_this_check_turns_red(world: World, check: str) -> None:
    fault, level, evidence, fix = MATRIX[check]
    fault(world)
    report = world.look()
    found = red(report)
    assert set(found) == {check}, found
    assert blind(report) == {}
    assert found[check]["level"] == level == report["level"]
    assert evidence in found[check]["evidence"]
    assert fix in found[check]["fix"]
    assert found[check]["objects"] >= 1


def test_a_copy_of_another_database_one_that_a_run_is_at_and_one_of_a_swap_are_not_told(world: World) -> None:
    left_copy(world, "other", database="another", state="restoring")
    left_copy(world, "fenced", state=database_marks.FENCED)
    running = left_copy(world, "running", state="restoring")
    with closing(world.server.connect()) as conn:
        assert database_marks.try_lock(conn, f"restore {running}")
        assert red(world.look()) == {}
    ((name, told),) = red(world.look()).items()
    assert (name, told["objects"]) == ("restored_copies", 1)
    assert told["evidence"].startswith(f"{running}, ")


def test_a_whole_copy_that_was_never_swapped_in_is_told_with_both_ways(world: World) -> None:
    copy = left_copy(world, "whole", state=database_marks.VERIFIED)
    (told,) = red(world.look()).values()
    assert told["objects"] == 1
    assert re.search(rf"^{copy}, [0-9]+ [kM]B, restored and never swapped in", told["evidence"])
    assert f"rollback_strategy=swap with rollback_swap_to={copy} swaps it in" in told["evidence"]
    left_copy(world, "another", state=database_marks.VERIFIED)
    (told,) = red(world.look()).values()
    assert told["objects"] == 2
    assert is_command(told["fix"]) and "&&" not in told["fix"], "one command takes both"


# -- levels between -------------------------------------------------------------------------------------------------------


def test_what_endangers_stops_in_production_alone(world: World) -> None:
    anybody_comes_in(world)
    not_durable(world)
    assert {name: found["level"] for name, found in red(world.look()).items()} == {
        "hba_trust": "stop", "unsafe_settings": "stop",
    }  # fmt: skip
    world.changes["production"] = False
    assert {found["level"] for found in red(world.look()).values()} == {"warn"}


def test_a_sequence_warns_before_it_stops_and_one_that_may_not_be_read_is_unknown(world: World) -> None:
    sequence_is_used_up(world)
    world.sql("SELECT setval('public.counted', 1800000000)")
    assert red(world.look())["sequences"]["level"] == "warn"
    world.sql("SELECT setval('public.counted', 1000)")
    assert red(world.look()) == {}
    world.sql("CREATE SEQUENCE public.secret", "REVOKE ALL ON SEQUENCE public.secret FROM PUBLIC")
    report = world.look()
    assert blind(report)["sequences"]["evidence"] == "sequence public.secret may not be read"
    assert blind(report)["sequences"]["fix"] == f"GRANT SELECT ON SEQUENCE public.secret TO {MIGRATOR};"


def test_what_restores_are_asked_for_outside_local_and_where_the_backups_are_not_told(world: World) -> None:
    world.changes["environment"] = "staging"
    found = red(world.look())
    assert {"backup_age", "backup_proof", "timers"} == set(found)
    assert "there is no backup of" in found["backup_age"]["evidence"]
    assert found["timers"]["evidence"] == "nothing is scheduled"
    world.changes["timers"] = []
    world.backup_directory = None
    assert set(blind(world.look())) == {"backup_age", "backup_proof", "disk_backup"}
    world.backup_directory = "/tmp"
    world.changes["backup_engine"] = "physical"
    assert set(blind(world.look())) == {"backup_age", "backup_proof"}


def test_the_backup_to_prove_is_told_as_one_word_whatever_its_folder_is_called(world: World) -> None:
    with_backup(world)
    assert world.backup_directory is not None
    folder = Path(world.backup_directory).rename(world.server.directory / f"it's one {world.database}")
    world.backup_directory = str(folder)
    (backup,) = backup_store.backups_of(world.backup_directory, world.database)
    backup_store.remove_proof(backup)
    command = red(world.look())["backup_proof"]["fix"]
    words = shlex.split(command)
    assert json.loads(words[words.index("-e") + 1]) == {"backup_path": backup.path}


def test_a_function_that_somebody_has_made_is_not_called(world: World) -> None:
    """The restore role looks, and it may be a superuser."""
    world.sql(
        "CREATE TABLE public.called (by text PRIMARY KEY)",
        f"ALTER TABLE public.called OWNER TO {OWNER}; GRANT CREATE, USAGE ON SCHEMA public TO {MIGRATOR}",
    )
    for name, arguments, result in (("cardinality", "anyarray", "int"), ("count", "text", "int")):
        owned(
            world,
            f"CREATE FUNCTION public.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS "
            "$$ BEGIN INSERT INTO public.called VALUES (current_user) ON CONFLICT DO NOTHING; RETURN 1; END $$",
        )
    key_without_an_index(world)
    world.look()
    assert world.server.execute("SELECT * FROM public.called", database=world.database) == []


def test_a_timer_that_failed_never_ran_or_wrote_nonsense_is_told() -> None:
    now = datetime(2026, 11, 1, 12, tzinfo=UTC)
    well = {"last_success": "2026-11-01T03:00:00Z", "expected_every_s": 86400, "result": "success"}
    check = shipped().by_name["timers"]

    def told(**changes: Any) -> str:
        return str(preflight_looks.timers(check, [{"name": "x", **well, **changes}], "staging", now)["evidence"])

    assert told() == "1 ran in time"
    assert told(last_success="2026-11-01T03:00:00") == "1 ran in time"
    assert told(result="failed") == "x failed; x succeeded last 9 hours ago"
    assert told(last_success=None) == "x has never succeeded"
    assert told(expected_every_s="daily") == "x has never succeeded"
    assert told(expected_every_s=3600) == "x succeeded last 9 hours ago and should every 1 hours"
    assert told(fault="/t/x.json is no JSON object") == "x: /t/x.json is no JSON object"
    # Of those that are installed what status.yml thinks of them is told.
    assert told(state="missed", why="it has never succeeded", last_success=None) == "x: it has never succeeded"
    assert (
        told(state="stopped", why="it is not switched on, so it will not run")
        == "x: it is not switched on, so it will not run"
    )
    assert told(state="waiting", last_success=None) == "0 ran in time, 1 wait for their first run"
    assert told(state="ok") == "1 ran in time"
    assert told(elsewhere=True).startswith("timers are those of x, which preflight reaches only when")


def test_a_chain_of_waiting_sessions_names_the_first(world: World) -> None:
    first = world.session(SUPERUSER, autocommit=False)
    first.cursor().execute("LOCK TABLE public.students IN ACCESS SHARE MODE")
    threads = []
    for mode in ("ACCESS EXCLUSIVE", "ROW SHARE"):
        waiting = world.session(SUPERUSER, autocommit=False)

        def wait(conn: Any = waiting, mode: str = mode) -> None:
            with suppress(psycopg2.Error):
                conn.cursor().execute(f"LOCK TABLE public.students IN {mode} MODE")

        thread = threading.Thread(target=wait)
        thread.start()
        threads.append(thread)
        world.after.callback(thread.join)
        world.after.callback(waiting.cancel)
        number = len(threads)
        world.until(f"SELECT 1 FROM pg_locks WHERE NOT granted HAVING count(*) = {number}")
    found = red(world.look())["waiting_locks"]
    assert found["objects"] == 2
    assert f"(first in the chain: session {first.info.backend_pid})" in found["evidence"]
    assert f"look at session {first.info.backend_pid} in pg_stat_activity" in found["fix"]


@pytest.mark.slow
def test_a_standby_that_pauses_is_behind_and_may_be_looked_at_itself(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_server.create_database("lagging", OWNER)
    with health.durable() as make, ExitStack() as after:
        make(own_server)
        standby_server = after.enter_context(standby_of(own_server))
        world = after.enter_context(health.made(own_server, "lagging", target_of(own_server, "lagging"), monkeypatch))
        world.thresholds["replication_lag_bytes"] = 100_000
        assert red(world.look()) == {}
        standby_server.execute("SELECT pg_wal_replay_pause()")
        world.sql(
            "CREATE TABLE public.written AS SELECT i FROM generate_series(1, 20000) i", "DROP TABLE public.written"
        )
        found = red(world.look())
        assert set(found) == {"replication_lag"}
        assert "standby walreceiver" in found["replication_lag"]["evidence"]
        standby_server.execute("SELECT pg_wal_replay_resume()")
        world.target = target_of(standby_server, "lagging")
        report = world.look()
        assert set(red(report)) == {"primary"}
        assert blind(report) == {}


# -- few round trips, and one question that fails hides no other ----------------------------------------------------------


def test_all_questions_are_one_statement_for_each_session(world: World) -> None:
    statements: list[str] = []
    original = preflight_checks.fetch_all

    def counting(conn: Any, statement: Any, parameters: Any = None) -> Any:
        statements.append(str(statement))
        return original(conn, statement, parameters)

    world.patch.setattr(preflight_checks, "fetch_all", counting)
    world.look()
    # The migrator's, and what the restore role sees better.
    assert len(statements) == 2


def test_a_question_that_fails_is_unknown_and_hides_no_other(world: World) -> None:
    two_indexes_are_one(world)
    broken = replace(shipped().by_name["collation"], query="SELECT 1 / 0 AS found")
    checks = [broken if check.name == "collation" else check for check in shipped().checks]
    world.changes["checks"] = checks
    report = world.look()
    assert set(red(report)) == {"duplicate_indexes"}
    assert "division by zero" in blind(report)["collation"]["evidence"]
    assert report["level"] == "warn"


def test_what_a_server_is_too_old_for_has_nothing_to_find(world: World) -> None:
    late = replace(shipped().by_name["collation"], query="SELECT no_such_column", since=99)
    world.changes["checks"] = [late if check.name == "collation" else check for check in shipped().checks]
    found = {check["check"]: check for check in world.look()["checks"]}["collation"]
    assert (found["level"], found["evidence"]) == ("ok", "PostgreSQL 18 does not tell; 99 is the first that does")


def test_what_is_the_server_s_is_asked_once_for_all_its_databases(world: World) -> None:
    other = f"{world.database}_b"
    world.server.create_database(other)
    asked: list[list[str]] = []
    original = preflight.ask

    def recording(sessions: Any, checks: Any, *given: Any) -> Any:
        asked.append([check.scope for check in checks])
        return original(sessions, checks, *given)

    world.patch.setattr(preflight, "ask", recording)
    targets = {name: world.target.with_(database=name) for name in (world.database, other)}
    found = preflight.look_at(targets, world.seen(), waivers=[], application_name="t")
    assert ["server" in scopes for scopes in asked] == [True, False]
    assert [check["check"] for check in found[other]["checks"]] == shipped().names


def test_a_role_without_rights_is_told_what_to_grant_and_sees_no_ok(world: World) -> None:
    world.target = world.target.with_(restore_user=None)
    report = world.look()
    needing = {check.name: check.need for check in shipped().checks if check.need}
    assert set(blind(report)) == {*needing, *health.DISKS}
    for name, need in needing.items():
        assert need is not None
        assert blind(report)[name]["evidence"] == f"{MIGRATOR} may not see it"
        assert blind(report)[name]["fix"] == need.grant.replace("{role:I}", MIGRATOR)
    # What is typed helps.
    world.undo(f"REVOKE pg_monitor FROM {MIGRATOR}")
    world.sql(f"GRANT pg_monitor TO {MIGRATOR}")
    assert set(blind(world.look())) == {"hba_trust", "md5_passwords"}
    (lines,) = [line for line in reporting.health_table("x", report) if "long_transactions" in line]
    assert "connections, connections_share" in lines


# -- waivers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "level"), [(1, "ok"), (0, "ok"), (-1, "warn")])
def test_a_waiver_counts_to_the_end_of_its_last_day_and_is_shown_after_it(world: World, days: int, level: str) -> None:
    table_without_a_key(world)
    until = (datetime.now(UTC) + timedelta(days=days)).date().isoformat()
    waiver = {"check": "primary_keys", "reason": "a staging table", "until": until}
    found = preflight.look_at({"x": world.target}, world.seen(), waivers=[waiver], application_name="t")["x"]
    check = red(found)["primary_keys"]
    assert found["level"] == level
    told = f"a staging table (until {until})"
    assert check.get("waived" if days >= 0 else "waiver_expired") == told
    assert (f"its waiver is no longer in force: {told}" in "\n".join(reporting.health_table("x", found))) is (days < 0)


def test_a_waiver_that_has_expired_lets_a_stop_stop(world: World) -> None:
    sequence_is_used_up(world)
    waiver = {"check": "sequences", "reason": "widened next week", "until": "2026-01-31"}
    with pytest.raises(
        PgopsError, match=r"stops .* at sequences.*no longer in force: widened next week \(until 2026-01-31\)"
    ):
        preflight.look_at({"x": world.target}, world.seen(), waivers=[waiver], application_name="t")


def test_an_end_that_is_no_day_is_refused() -> None:
    with pytest.raises(PgopsError, match="ends sequences on 'soon', which is no day"):
        preflight_compare.check_waivers([{"check": "sequences", "reason": "x", "until": "soon"}], shipped().names)
