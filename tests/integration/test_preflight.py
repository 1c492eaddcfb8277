# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The red matrix: for every check of preflight its fault is made on a real server, and exactly that check turns red."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    application,
    audit_rights,
    blue_green_state,
    connection,
    ledger,
    preflight,
    preflight_compare,
    preflight_facts,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.preflight_checks import Check, look
from ansible_collections.whitecross.pgops.plugins.plugin_utils import reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import without_secrets
from support import health, pool
from support.backups import proved, stage
from support.health import DISKS, PLENTY, World, blind, red, shipped
from support.podman import IMAGE, ROOT, podman
from support.server import BACKUP, MIGRATOR, OWNER, RESTORE, SUPERUSER, Server, free_port
from support.site import Playbook


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


# -- the faults -----------------------------------------------------------------------------------------------------------


def nothing_listens(world: World) -> None:
    world.target = world.target.with_(port="9")


def too_old(world: World) -> None:
    world.patch.setattr(connection, "OLDEST_MAJOR", 99)


def without_tls(world: World) -> None:
    # Reaches this machine, but nobody can tell by the name.
    world.target = world.target.with_(host="0.0.0.0")


def read_only(world: World) -> None:
    world.sql(f"ALTER DATABASE {world.database} SET default_transaction_read_only = on")


def other_encoding(world: World) -> None:
    name = f"{world.database}_latin1"
    world.server.create_database(name, encoding="LATIN1")
    world.target = world.target.with_(database=name)


def not_a_member_of_owner(world: World) -> None:
    world.undo(f"GRANT {OWNER} TO {MIGRATOR}")
    world.sql(f"REVOKE {OWNER} FROM {MIGRATOR}")


def no_create_in_database(world: World) -> None:
    world.sql(f"REVOKE CREATE ON DATABASE {world.database} FROM {OWNER}")


def no_create_in_schema(world: World) -> None:
    world.sql("REVOKE CREATE ON SCHEMA public FROM pg_database_owner")


def foreign_object(world: World) -> None:
    world.sql("CREATE TABLE public.loose (id int PRIMARY KEY)")


def foreign_schema(world: World) -> None:
    world.sql("CREATE SCHEMA extra")


def foreign_ledger(world: World) -> None:
    world.sql("CREATE SCHEMA pgops")


def unreadable_table(world: World) -> None:
    world.undo(f"GRANT pg_read_all_data TO {BACKUP}")
    world.sql(f"REVOKE pg_read_all_data FROM {BACKUP}")


def unreadable_large_object(world: World) -> None:
    world.sql("SELECT lo_create(0)")


def hidden_from_migrator(world: World) -> None:
    world.undo(f"ALTER ROLE {OWNER} BYPASSRLS")
    world.sql(f"ALTER ROLE {OWNER} NOBYPASSRLS", "ALTER TABLE public.students ENABLE ROW LEVEL SECURITY")


def hidden_from_backup(world: World) -> None:
    world.undo(f"ALTER ROLE {BACKUP} BYPASSRLS")
    world.sql(f"ALTER ROLE {BACKUP} NOBYPASSRLS", "ALTER TABLE public.students ENABLE ROW LEVEL SECURITY")


def hidden_from_restore(world: World) -> None:
    world.plain_restore_role(OWNER, "pg_monitor", "pg_signal_backend")
    world.sql("ALTER TABLE public.students ENABLE ROW LEVEL SECURITY")


def no_createdb(world: World) -> None:
    world.plain_restore_role(OWNER, "pg_monitor", "pg_signal_backend", attributes="NOCREATEDB")


def restore_not_member_of_owner(world: World) -> None:
    world.plain_restore_role("pg_monitor", "pg_signal_backend")


def untrusted_extension(world: World) -> None:
    world.plain_restore_role(OWNER, "pg_monitor", "pg_signal_backend")
    world.sql("CREATE EXTENSION pg_stat_statements")


def immortal_session(world: World) -> None:
    world.plain_restore_role(OWNER, "pg_monitor", "pg_signal_backend")
    world.session(SUPERUSER)


def nobody_sees(world: World) -> None:
    world.plain_restore_role(OWNER, "pg_signal_backend")


def fill_connections(world: World, free: int) -> None:
    """Open sessions until `free` are left of what is not reserved, the look's own two counted as used."""
    usable = int(world.server.execute("SELECT current_setting('max_connections')::int - 3")[0][0])
    used = int(
        world.server.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")[0][0]
    )
    for _ in range(usable - used - free - 1):
        world.session(SUPERUSER)


def hardly_any_connection_free(world: World) -> None:
    fill_connections(world, 4)


def many_connections(world: World) -> None:
    fill_connections(world, 12)


def long_transaction(world: World) -> None:
    world.thresholds["long_transaction_s"] = 0
    world.session(MIGRATOR, autocommit=False).cursor().execute("SELECT 1")


def lock_not_granted(world: World) -> None:
    world.session(SUPERUSER, autocommit=False).cursor().execute("LOCK TABLE public.students")
    waiting = world.session(MIGRATOR)

    def wait() -> None:
        with suppress(psycopg2.Error):
            waiting.cursor().execute(f"SET ROLE {OWNER}; SELECT count(*) FROM public.students")

    thread = threading.Thread(target=wait)
    thread.start()
    world.after.callback(thread.join)
    world.after.callback(waiting.cancel)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not world.server.execute("SELECT 1 FROM pg_locks WHERE NOT granted"):
        time.sleep(0.02)


def prepared_transaction(world: World) -> None:
    conn = world.session(SUPERUSER, autocommit=False)
    xid = conn.xid(1, world.database, "b")
    conn.tpc_begin(xid)
    conn.cursor().execute("SELECT 1")
    conn.tpc_prepare()


def index_is_built(world: World) -> None:
    """By a role whose work the migrator may not see; the index is invalid until it is done."""
    world.sql(
        "CREATE FUNCTION public.slow(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT pg_sleep(60)::text'",
        f"ALTER FUNCTION public.slow(text) OWNER TO {OWNER}",
    )
    building = world.session(SUPERUSER)

    def build() -> None:
        with suppress(psycopg2.Error):
            building.cursor().execute("CREATE INDEX CONCURRENTLY slow ON public.students (public.slow(name))")

    thread = threading.Thread(target=build)
    thread.start()
    world.after.callback(thread.join)
    world.after.callback(building.cancel)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not world.server.execute(
        "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'building%'"
    ):
        time.sleep(0.02)


def invalid_index(world: World) -> None:
    with pytest.raises(psycopg2.errors.UniqueViolation):
        world.sql("CREATE UNIQUE INDEX CONCURRENTLY students_name ON public.students (name)")


def not_valid(world: World) -> None:
    world.sql("ALTER TABLE public.students ADD CONSTRAINT named CHECK (name <> '') NOT VALID")


def old(world: World) -> None:
    world.thresholds["xid_age_warn"] = 0


def very_old(world: World) -> None:
    world.thresholds["xid_age_stop"] = 0


def vacuum_against_wraparound(world: World) -> None:
    world.undo("ALTER SYSTEM RESET autovacuum_naptime", "SELECT pg_reload_conf()")
    world.sql("ALTER SYSTEM SET autovacuum_naptime = '1s'", "SELECT pg_reload_conf()")
    world.sql(
        # So that nothing but the forced vacuum comes; so slow that it is still there when it is looked for.
        "ALTER TABLE public.students SET (autovacuum_vacuum_threshold = 2147483647, autovacuum_vacuum_insert_threshold = -1,"
        " autovacuum_freeze_max_age = 100000, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)",
        "INSERT INTO public.students SELECT i, repeat('x', 500) FROM generate_series(10, 20000) i",
        "ANALYZE public.students",
        "DO $$ BEGIN FOR i IN 1..110000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$",
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not world.server.execute(
        f"SELECT 1 FROM pg_stat_activity WHERE datname = '{world.database}' AND query LIKE '%to prevent wraparound%' AND backend_type = 'autovacuum worker'"
    ):
        time.sleep(0.1)


def dump_runs(world: World) -> None:
    world.session(BACKUP).cursor().execute("SET application_name = 'pg_dump'")


def slot_holds_wal(world: World) -> None:
    world.thresholds["slot_wal_bytes"] = -1
    world.undo("SELECT pg_drop_replication_slot('forgotten')")
    world.sql("SELECT pg_create_physical_replication_slot('forgotten', true)")


def no_synchronous_standby(world: World) -> None:
    def name(standby: str) -> None:
        world.server.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{standby}'")
        world.server.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and world.server.execute("SHOW synchronous_standby_names") != [(standby,)]:
            time.sleep(0.05)  # the postmaster reads it in its own time

    world.after.callback(name, "")
    name("nobody")


def archiving_fails(world: World) -> None:
    @contextmanager
    def archiving() -> Iterator[None]:
        usual = list(world.server.postgres)
        world.server.stop()
        world.server.postgres += ["-c", "archive_mode=on", "-c", "archive_command=false"]
        world.server.start()
        try:
            yield
        finally:
            world.server.stop()
            world.server.postgres[:] = usual
            world.server.start()

    world.after.enter_context(archiving())
    world.sql("SELECT pg_switch_wal()")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not world.server.execute(
        "SELECT 1 FROM pg_stat_archiver WHERE failed_count > 0"
    ):
        time.sleep(0.1)


def damaged_page(world: World) -> None:
    world.sql(
        "CREATE TABLE public.damaged (id int PRIMARY KEY)",
        "INSERT INTO public.damaged VALUES (1)",
        f"ALTER TABLE public.damaged OWNER TO {OWNER}",
        "CHECKPOINT",
    )
    path = world.server.execute("SELECT pg_relation_filepath('public.damaged')", database=world.database)[0][0]
    world.server.stop()
    file = os.open(world.server.directory / "data" / path, os.O_WRONLY)
    os.pwrite(file, b"\xff" * 64, 4096)
    os.close(file)
    world.server.start()
    with pytest.raises(psycopg2.Error):
        world.sql("SELECT * FROM public.damaged")
    time.sleep(0.2)  # the session that saw it tells the statistics as it ends


def other_collation(world: World) -> None:
    world.sql(f"UPDATE pg_database SET datcollversion = '0.1' WHERE datname = '{world.database}'")


def backup_may_not_connect(world: World) -> None:
    world.sql(
        f"REVOKE CONNECT ON DATABASE {world.database} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {world.database} TO {MIGRATOR}",
    )


def no_maintenance_database(world: World) -> None:
    world.target = world.target.with_(maintenance_database="nowhere")


def data_disk_full(world: World) -> None:
    data = str(world.server.directory / "data")
    world.free = lambda path: 1000 if path == data else PLENTY


def backup_disk_full(world: World) -> None:
    world.backup_directory = "/var/backups/of/pgops"
    world.free = lambda path: 1000 if path.startswith("/var") else PLENTY


@contextmanager
def answering(status: int, *, headers: dict[str, str] | None = None, delay_s: float = 0) -> Iterator[str]:
    """An application that answers every GET with this status; gives its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(delay_s)
            with suppress(OSError):
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/api/health"
        finally:
            http.shutdown()


def application_is_ill(world: World) -> None:
    world.health_url = world.after.enter_context(answering(503))


MATRIX: dict[str, tuple[Callable[[World], None], str, str, str]] = {
    # check: (the fault, level, a part of the evidence, a part of the fix)
    "server": (nothing_listens, "stop", "nothing listens there", ""),
    "version": (too_old, "stop", "99 or later is needed", "Upgrade"),
    "tls": (without_tls, "warn", "is not encrypted", "verify-full"),
    "primary": (read_only, "stop", "read-only", "pgops_host"),
    "encoding": (other_encoding, "stop", "is encoded in LATIN1", "ENCODING 'UTF8'"),
    "owner_role": (
        not_a_member_of_owner,
        "stop",
        f"{OWNER} may not be taken by {MIGRATOR}",
        f"GRANT {OWNER} TO {MIGRATOR};",
    ),
    "create_in_database": (no_create_in_database, "stop", f"{OWNER} may not CREATE", "GRANT CREATE ON DATABASE"),
    "schema_public": (
        no_create_in_schema,
        "stop",
        f"{OWNER} has no CREATE",
        f"GRANT CREATE ON SCHEMA public TO {OWNER};",
    ),
    "ownership": (
        foreign_object,
        "stop",
        "public.loose belongs to postgres",
        f"ALTER TABLE public.loose OWNER TO {OWNER};",
    ),
    "schema_rights": (
        foreign_schema,
        "stop",
        f"{OWNER} may not use, or not create in, schema extra of postgres",
        f"GRANT USAGE, CREATE ON SCHEMA extra TO {OWNER};",
    ),
    "ledger_rights": (foreign_ledger, "stop", "pgops belongs to postgres", f"ALTER SCHEMA pgops OWNER TO {OWNER};"),
    "backup_rights": (unreadable_table, "stop", "public.students", f"GRANT pg_read_all_data TO {BACKUP};"),
    "backup_large_objects": (unreadable_large_object, "stop", "1 large objects", "GRANT SELECT ON LARGE OBJECT"),
    "row_security_migrator": (hidden_from_migrator, "stop", "public.students", f"ALTER ROLE {OWNER} BYPASSRLS;"),
    "row_security_backup": (hidden_from_backup, "stop", "public.students", f"ALTER ROLE {BACKUP} BYPASSRLS;"),
    "row_security_restore": (hidden_from_restore, "stop", "public.students", f"ALTER ROLE {RESTORE} BYPASSRLS;"),
    "restore_createdb": (no_createdb, "stop", f"{RESTORE} may not create", f"ALTER ROLE {RESTORE} CREATEDB;"),
    "restore_owner": (restore_not_member_of_owner, "stop", OWNER, f"GRANT {OWNER} TO {RESTORE};"),
    "restore_extensions": (untrusted_extension, "warn", "pg_stat_statements", "pgops_restore_user"),
    "restore_sessions": (immortal_session, "warn", "1 sessions", "pg_signal_backend"),
    "monitor_rights": (nobody_sees, "warn", MIGRATOR, f"GRANT pg_monitor TO {MIGRATOR};"),
    "connections": (hardly_any_connection_free, "stop", "are free", "max_connections"),
    "connections_share": (many_connections, "warn", "percent", "max_connections"),
    "long_transactions": (long_transaction, "warn", MIGRATOR, "pg_terminate_backend"),
    "waiting_locks": (lock_not_granted, "warn", "AccessShareLock on public.students", "pg_stat_activity"),
    "prepared_transactions": (prepared_transaction, "stop", "holds its locks", "ROLLBACK PREPARED"),
    "index_builds": (index_is_built, "warn", "builds an index of public.students", "wait until it is done"),
    "invalid_indexes": (
        invalid_index,
        "warn",
        "public.students_name is INVALID",
        "DROP INDEX CONCURRENTLY public.students_name;",
    ),
    "unvalidated_constraints": (not_valid, "warn", "named on public.students", "VALIDATE CONSTRAINT named;"),
    "wraparound": (old, "warn", "old", "vacuumdb --freeze"),
    "wraparound_near": (very_old, "stop", "refuses writes", "vacuumdb --freeze"),
    "vacuum_wraparound": (vacuum_against_wraparound, "warn", "students", "wait"),
    "dump_running": (dump_runs, "warn", "pg_dump runs", "wait"),
    "replication_slots": (slot_holds_wal, "warn", "forgotten", "pg_drop_replication_slot('forgotten')"),
    "synchronous_standby": (no_synchronous_standby, "stop", "synchronous_standby_names = 'nobody'", "bring it back"),
    "archiver": (archiving_fails, "warn", "archive command fails", "archive_command"),
    "checksum_failures": (damaged_page, "stop", "wrong checksum", "restore"),
    "collation": (other_collation, "warn", "0.1", "REFRESH COLLATION VERSION"),
    "backup_connect": (backup_may_not_connect, "stop", f"{BACKUP} may not connect", f"TO {BACKUP};"),
    "restore_connect": (no_maintenance_database, "stop", "nowhere", ""),
    "disk_data": (data_disk_full, "stop", "free at", "free at least"),
    "disk_backup": (backup_disk_full, "stop", "1000 bytes free at /var", "free at least"),
    "application": (application_is_ill, "stop", "/api/health answers 503", "application's log"),
}
# As on a managed server, where nobody may read these.
MANAGED = {"hba_trust", "md5_passwords"}
# What the fault of a check also hides.
BLIND: dict[str, set[str]] = {
    **dict.fromkeys(
        ("row_security_restore", "restore_createdb", "restore_owner", "restore_extensions", "restore_sessions"), MANAGED
    ),
    "tls": DISKS,
    "monitor_rights": {check.name for check in shipped().checks if check.need} | DISKS,
}
# Shown by a test of its own below, in front of a real pooler.
ELSEWHERE = {"pooler"}


def test_the_documentation_lists_every_check_in_order() -> None:
    page = (ROOT / "docs" / "preflight.md").read_text()
    told = [name for name in re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) if not name.startswith("preflight_")]
    assert told == shipped().names


@pytest.mark.parametrize("check", MATRIX)
def test_exactly_this_check_turns_red(world: World, check: str) -> None:
    fault, level, evidence, fix = MATRIX[check]
    fault(world)
    report = world.look()
    found = red(report)
    assert set(found) == {check}, found
    assert set(blind(report)) == BLIND.get(check, set())
    assert found[check]["level"] == level
    assert report["level"] in (level, "warn")
    assert evidence in found[check]["evidence"]
    assert fix in found[check]["fix"]
    assert found[check]["objects"] >= 1


@pytest.mark.majors(15, 16, 17, 18)
def test_a_sound_server_is_all_green(server: Server, world: World) -> None:
    report = world.look()
    assert red(report) == {}
    # The disks of a container are nobody's here.
    assert set(blind(report)) == (DISKS if server.container else set())
    assert [check["check"] for check in report["checks"]] == shipped().names
    assert report["facts"]["size_bytes"] > 1_000_000
    assert report["facts"]["largest_tables"][0]["name"] == "public.students"


def test_a_check_that_cannot_be_made_is_no_ok(world: World) -> None:
    broken = Check("x", "x", ("stop",), query="SELECT no_such_column", well="well")
    with world.server.session(world.database) as conn:
        found = look(broken, conn, {})
    assert (found["level"], found["unknown"]) == ("warn", True)


def test_an_application_that_answers_is_well_and_one_that_is_not_named_is_not_asked(world: World) -> None:
    with answering(204) as url:
        world.health_url = url
        found = world.look()["checks"][-1]
        assert (found["check"], found["level"], found["evidence"]) == ("application", "ok", f"{url} answers 204")
    world.health_url = None
    found = world.look()["checks"][-1]
    assert (found["level"], found["evidence"]) == ("ok", "not asked: preflight_health_url is not set")


def test_whatever_is_no_2xx_is_not_well() -> None:
    with answering(200) as well, answering(302, headers={"Location": well}) as elsewhere:
        assert application.ask(f"{well}?key=secret") == (True, f"{well} answers 200")
        assert application.ask(elsewhere) == (False, f"{elsewhere} answers 302")
    with answering(200, delay_s=1) as slow:
        assert application.ask(slow, timeout=0.1) == (False, f"{slow} has not answered for 0.1 s")
    ok, told = application.ask(f"http://127.0.0.1:{free_port()}/")
    assert (ok, "does not answer: Connection refused" in told) == (False, True)
    for wrong in ("file:///etc/passwd", "app/health", "http://", "http://a b/", "http://[::1", "http://me:secret@app/"):
        ok, told = application.ask(wrong)
        assert (ok, "preflight_health_url" in told) == (False, True), told
        assert "secret" not in told


def test_many_findings_are_counted_five_are_named_and_what_is_typed_mends_all(world: World) -> None:
    world.sql(
        "DO $$ BEGIN FOR i IN 1..8 LOOP EXECUTE 'CREATE TABLE public.loose_' || i || ' (id int PRIMARY KEY)'; END LOOP; END $$"
    )
    found = red(world.look())["ownership"]
    assert found["objects"] == 8
    assert found["evidence"].count("belongs to") == 5
    assert "and 3 more" in found["evidence"]
    world.sql(found["fix"])
    assert red(world.look()) == {}


def test_what_is_typed_against_very_many_findings_can_be_typed_too(world: World) -> None:
    world.sql(
        "DO $$ BEGIN FOR i IN 1..103 LOOP EXECUTE 'CREATE TABLE public.loose_' || i || ' (id int PRIMARY KEY)'; END LOOP; END $$"
    )
    found = red(world.look())["ownership"]
    assert found["fix"].endswith("; -- and 3 more")
    world.sql(found["fix"])
    assert red(world.look())["ownership"]["objects"] == 3


def test_what_a_blue_green_change_keeps_in_a_database_is_nobody_elses(world: World) -> None:
    """Its record and its marker are the restore role's, and go with it."""
    with closing(world.server.connect(world.database, RESTORE)) as conn:
        conn.autocommit = True
        blue_green_state.freeze(conn, {})
    assert red(world.look()) == {}


def test_what_only_warns_names_five_statements(world: World) -> None:
    for number in range(7):
        world.sql(f"CREATE TABLE public.bare_{number} (id int); ALTER TABLE public.bare_{number} OWNER TO {OWNER}")
    fix = red(world.look())["primary_keys"]["fix"]
    assert fix.count("ADD PRIMARY KEY") == 5
    assert fix.endswith(" -- and 2 more")


@pytest.mark.parametrize(
    ("made", "evidence", "fix"),
    [
        ("CREATE TYPE public.kind AS ENUM ('A')", "type public.kind", "ALTER TYPE public.kind"),
        ("CREATE TYPE public.pair AS (a int, b int)", "type public.pair", "ALTER TYPE public.pair"),
        ("CREATE TYPE public.span AS RANGE (subtype = int)", "type public.span", "ALTER TYPE public.span"),
        ("CREATE DOMAIN public.mail AS text", "type public.mail", "ALTER DOMAIN public.mail"),
        (
            "CREATE FUNCTION public.\"F\"(a int, text) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            'function public."F"(a integer, text)',
            'ALTER ROUTINE public."F"(a integer, text)',
        ),
        (
            "CREATE PROCEDURE public.p() LANGUAGE sql AS 'SELECT 1'",
            "function public.p()",
            "ALTER ROUTINE public.p()",
        ),
        ("CREATE TABLE public.counted (id serial PRIMARY KEY)", "public.counted", "ALTER TABLE public.counted"),
        (
            "CREATE TABLE public.counted (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
            "public.counted",
            "ALTER TABLE public.counted",
        ),
    ],
)
def test_what_belongs_to_another_role_is_named_and_what_is_typed_helps(
    world: World, made: str, evidence: str, fix: str
) -> None:
    world.sql(made)
    found = red(world.look())
    assert list(found) == ["ownership"]
    assert found["ownership"]["evidence"] == f"{evidence} belongs to postgres, not to {OWNER}"
    assert found["ownership"]["fix"] == f"{fix} OWNER TO {OWNER};"
    world.sql(found["ownership"]["fix"])
    assert red(world.look()) == {}


def test_what_has_another_owner_on_purpose_is_passed_over(world: World) -> None:
    world.sql(
        "CREATE SCHEMA pooler",
        "CREATE FUNCTION pooler.asked(text) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT $1'",
        "CREATE SCHEMA hash",
        "CREATE EXTENSION citext SCHEMA hash",
        "CREATE EXTENSION hstore",
        "CREATE FUNCTION public.watched() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
    )
    assert red(world.look()) == {}


def test_a_schema_of_another_role_that_holds_something_of_ours(world: World) -> None:
    world.sql(
        "CREATE SCHEMA extra", "CREATE TABLE extra.y (id int PRIMARY KEY)", f"ALTER TABLE extra.y OWNER TO {OWNER}"
    )
    found = red(world.look())
    assert list(found) == ["schema_rights"]
    world.sql(found["schema_rights"]["fix"])
    assert red(world.look()) == {}


@pytest.mark.parametrize("foreign", ["TABLE pgops.run", "SCHEMA pgops", "everything"])
def test_a_ledger_of_another_role_is_named_and_what_is_typed_helps(world: World, foreign: str) -> None:
    with closing(connection.connect(world.target, application_name="t")) as conn:
        ledger.ensure(conn)
    assert red(world.look()) == {}
    if foreign == "everything":
        world.sql(f"REASSIGN OWNED BY {OWNER} TO postgres", f"ALTER TABLE public.students OWNER TO {OWNER}")
        world.sql(f"ALTER DATABASE {world.database} OWNER TO {OWNER}")
    else:
        world.sql(f"ALTER {foreign} OWNER TO postgres")
    found = red(world.look())
    assert list(found) == ["ledger_rights"]
    world.sql(found["ledger_rights"]["fix"])
    assert red(world.look()) == {}


def test_an_audit_with_an_owner_of_its_own_keeps_it(world: World) -> None:
    with closing(connection.connect(world.target, application_name="t")) as conn:
        ledger.ensure(conn)
    role = f"audit_{world.database}"
    world.undo(
        f"REVOKE CONNECT ON DATABASE {world.database} FROM PUBLIC", f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}"
    )
    with closing(connection.connect(world.target.as_restore(), application_name="t")) as conn:
        audit_rights.protect(conn, role, None)
    assert red(world.look()) == {}


@pytest.mark.parametrize(
    "given_away",
    [
        "CREATE TYPE public.kind AS ENUM ('A'); ALTER TYPE public.kind OWNER TO {dba}",
        "CREATE DOMAIN public.mail AS text; ALTER DOMAIN public.mail OWNER TO {dba}",
        "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; ALTER FUNCTION public.f() OWNER TO {dba}",
        "CREATE SCHEMA extra AUTHORIZATION {dba}; GRANT ALL ON SCHEMA extra TO {owner}",
        "ALTER SCHEMA public OWNER TO {dba}; GRANT ALL ON SCHEMA public TO {owner}",
        "CREATE STATISTICS public.s ON id, name FROM public.students; ALTER STATISTICS public.s OWNER TO {dba}",
        "CREATE COLLATION public.c (locale = 'C'); ALTER COLLATION public.c OWNER TO {dba}",
        "CREATE TEXT SEARCH CONFIGURATION public.t (COPY = simple); ALTER TEXT SEARCH CONFIGURATION public.t OWNER TO {dba}",
        "CREATE PUBLICATION p; GRANT CREATE ON DATABASE {database} TO {dba}; ALTER PUBLICATION p OWNER TO {dba}",
        "ALTER DATABASE {database} OWNER TO {dba}",
    ],
)
def test_whoever_owns_anything_is_named_where_the_restore_role_is_no_member(world: World, given_away: str) -> None:
    dba = f"dba_{world.database}"
    world.sql(f"CREATE ROLE {dba}", f"GRANT CREATE ON SCHEMA public TO {dba}")
    world.undo(f"REASSIGN OWNED BY {dba} TO postgres", f"DROP OWNED BY {dba}", f"DROP ROLE {dba}")
    world.plain_restore_role(
        OWNER, "pg_monitor", "pg_signal_backend", "pg_read_all_data", attributes="CREATEDB BYPASSRLS"
    )
    assert "restore_owner" not in red(world.look())
    world.sql(given_away.format(dba=dba, owner=OWNER, database=world.database))
    found = red(world.look())["restore_owner"]
    assert f"{RESTORE} may not give restored objects back to their owner {dba}" in found["evidence"]
    # What is in a schema of another role is given to nobody who may create there by a grant alone.
    alone = "SCHEMA extra" in given_away or "PUBLICATION" in given_away
    assert (f"GRANT {dba} TO {RESTORE};" in found["fix"]) is (
        alone or "DATABASE {database} OWNER" in given_away or "SCHEMA public O" in given_away
    )
    if alone:
        world.sql(found["fix"])
        assert "restore_owner" not in red(world.look())


def test_a_restore_with_its_owners_is_refused_where_preflight_stops_and_only_there(
    world: World, tmp_path: Path
) -> None:
    dba = f"dba_{world.database}"
    world.sql(f"CREATE ROLE {dba}", f"GRANT CREATE ON SCHEMA public TO {dba}")
    world.undo(f"REASSIGN OWNED BY {dba} TO postgres", f"DROP OWNED BY {dba}", f"DROP ROLE {dba}")
    world.plain_restore_role(
        OWNER, "pg_monitor", "pg_signal_backend", "pg_read_all_data", attributes="CREATEDB BYPASSRLS"
    )
    world.sql("CREATE TYPE public.kind AS ENUM ('A')", f"ALTER TYPE public.kind OWNER TO {dba}")
    backup = proved(world.target, tmp_path)
    stop = red(world.look())["restore_owner"]
    assert "give what belongs to" in stop["fix"]
    with pytest.raises(PgopsError, match=f"cannot restore .* with its owners: it is no member of {dba}"):
        stage(world.target, backup)
    # The GRANT alone is not enough, though a right to create there is in the dump.
    world.sql(f"GRANT {dba} TO {RESTORE}")
    assert red(world.look())["restore_owner"]["fix"] == stop["fix"]
    with pytest.raises(PgopsError, match="permission denied for schema public"):
        stage(world.target, backup)
    world.sql(f"ALTER TYPE public.kind OWNER TO {OWNER}")
    assert red(world.look()) == {}
    world.server.execute(f"DROP DATABASE {stage(world.target, proved(world.target, tmp_path / 'again'))}")


def test_a_superuser_is_granted_to_nobody(world: World) -> None:
    world.sql("CREATE TYPE public.kind AS ENUM ('A')")
    world.plain_restore_role(OWNER, "pg_monitor", "pg_signal_backend")
    found = red(world.look())["restore_owner"]
    assert "owner postgres" in found["evidence"]
    assert found["fix"] == "name a superuser in pgops_restore_user, or give what belongs to postgres to another owner"


def test_what_an_extension_brought_asks_for_no_owner(world: World) -> None:
    world.sql("CREATE EXTENSION hstore", "CREATE EXTENSION citext", "CREATE EXTENSION btree_gist")
    world.plain_restore_role(OWNER, "pg_monitor", "pg_signal_backend")
    assert red(world.look()) == {}


# -- waivers, comparison, the phase ------------------------------------------------------------------------------------


def look_at(
    world: World, waivers: Sequence[dict[str, Any]] = (), before: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What the module does for one database."""
    found = preflight.look_at(
        {world.database: world.target},
        world.seen(),
        waivers=waivers,
        application_name="t",
        before={world.database: before} if before else None,
    )
    return found[world.database]


def test_a_stop_ends_the_look_with_the_grant_to_type(world: World) -> None:
    not_a_member_of_owner(world)
    with pytest.raises(PgopsError) as stopped:
        look_at(world)
    assert f"GRANT {OWNER} TO {MIGRATOR};" in stopped.value.message
    assert stopped.value.extra["stopped_at"] == ["owner_role"]


def test_a_stop_is_waived_by_name_with_a_reason_that_is_kept(world: World) -> None:
    foreign_object(world)
    waiver = [{"check": "ownership", "reason": "the audit team's table"}]
    found = look_at(world, waiver)
    assert found["level"] == "warn"
    assert red(found)["ownership"]["waived"] == "the audit team's table"


def test_waiving_one_stop_waives_no_other(world: World) -> None:
    foreign_object(world)
    no_create_in_schema(world)
    with pytest.raises(PgopsError) as stopped:
        look_at(world, [{"check": "ownership", "reason": "x"}])
    assert stopped.value.extra["stopped_at"] == ["schema_public"]


@pytest.mark.parametrize(
    ("waiver", "sentence"),
    [
        ({"check": "ownreship", "reason": "x"}, "preflight_waive names 'ownreship', which is no check"),
        ({"check": "ownership", "reason": " "}, "preflight_waive gives no reason for ownership"),
        ({"check": "ownership"}, "preflight_waive gives no reason for ownership"),
        ({"reason": "x"}, "which is no check"),
    ],
)
def test_a_waiver_of_nothing_or_without_a_reason_is_refused(waiver: dict[str, str], sentence: str) -> None:
    with pytest.raises(PgopsError, match=sentence):
        preflight_compare.check_waivers([waiver], shipped().names)


def test_two_looks_compare(world: World) -> None:
    before = world.look()["checks"]
    invalid_index(world)
    after = world.look()["checks"]
    assert [change["check"] for change in preflight_compare.compare(before, after)["worse"]] == ["invalid_indexes"]
    assert [change["check"] for change in preflight_compare.compare(after, before)["better"]] == ["invalid_indexes"]
    assert preflight_compare.compare(before, before) == {"worse": [], "better": []}


def looks(world: World, between: Callable[[], None]) -> dict[str, Any]:
    """The second of two looks, with what was done between them."""
    before = look_at(world)
    between()
    return look_at(world, before=before)


def test_a_table_that_lost_rows_is_a_warning_and_one_that_won_is_told(world: World) -> None:
    for name in ("visits", "left", "dropped"):
        world.sql(f"CREATE TABLE public.{name} AS SELECT generate_series(1, 3) AS id")
        world.sql(f"ALTER TABLE public.{name} OWNER TO {OWNER}")

    def between() -> None:
        world.sql("DELETE FROM public.students WHERE id = 2", "DROP TABLE public.dropped")
        world.sql("INSERT INTO public.visits VALUES (4)", "CREATE TABLE public.seeded AS SELECT 1 AS id")
        world.sql(f"ALTER TABLE public.seeded OWNER TO {OWNER}")

    found = looks(world, between)
    assert found["rows"] == {
        "fewer": [
            {"table": "public.dropped", "before": 3, "after": None, "estimate": False},
            {"table": "public.students", "before": 2, "after": 1, "estimate": False},
        ],
        "more": [
            {"table": "public.seeded", "before": None, "after": 1, "estimate": False},
            {"table": "public.visits", "before": 3, "after": 4, "estimate": False},
        ],
        "same": 1,
        "not_compared": [],
    }
    assert (found["level"], found["worse"]) == ("warn", [])
    told = reporting.health_table(world.database, found)
    assert (
        "    warn   rows                     fewer than before: public.dropped 3 to gone, public.students 2 to 1"
        in told
    )
    assert told[-1] == (
        "    rows compared with before: the same in 1 tables; more: public.seeded is new with 1, public.visits 3 to 4"
    )


def test_rows_are_the_same_where_nothing_was_written(world: World) -> None:
    found = looks(world, lambda: None)
    assert (found["level"], found["rows"]["same"]) == ("ok", 1)


def test_the_rows_of_a_table_with_any_name_reach_the_journal(world: World) -> None:
    # A key that names a secret loses its value there, so a table's name is none.
    world.sql("CREATE TABLE public.password_resets (id int)", f"ALTER TABLE public.password_resets OWNER TO {OWNER}")
    found = looks(world, lambda: world.sql("INSERT INTO public.password_resets VALUES (1)"))
    assert without_secrets(found) == found
    assert found["rows"]["more"][0]["table"] == "public.password_resets"


def test_rows_behind_a_policy_are_counted(world: World) -> None:
    world.sql(
        "ALTER TABLE public.students FORCE ROW LEVEL SECURITY; ALTER TABLE public.students ENABLE ROW LEVEL SECURITY"
    )
    assert world.look()["facts"]["rows"] == [{"name": "public.students", "rows": 2, "estimate": False}]


def test_a_large_table_is_estimated_and_compared_beyond_the_error_of_a_sample(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight_facts, "EXACT_ROWS", 1)
    world.sql("ANALYZE public.students")
    assert world.look()["facts"]["rows"] == [{"name": "public.students", "rows": 2, "estimate": True}]
    found = looks(world, lambda: world.sql("DELETE FROM public.students WHERE id = 1", "ANALYZE public.students"))
    # One row is few enough to be counted: a count says nothing about an estimate.
    assert found["rows"]["not_compared"] == ["public.students"]
    sides = ([{"name": "a", "rows": rows, "estimate": True}] for rows in (1000, 950, 850))
    first, second, third = sides
    assert preflight_compare.compare_rows(first, second)["same"] == 1
    assert preflight_compare.compare_rows(second, third)["fewer"][0]["after"] == 850
    assert preflight_compare.compare_rows(first, [{"name": "a", "rows": None, "estimate": True}])["not_compared"] == [
        "a"
    ]


def test_a_table_that_somebody_holds_is_not_waited_for_and_not_counted(world: World) -> None:
    world.sql("CREATE TABLE public.free (id int)", f"ALTER TABLE public.free OWNER TO {OWNER}", "ANALYZE")
    world.session(autocommit=False).cursor().execute("LOCK TABLE public.students IN ACCESS EXCLUSIVE MODE")
    begun = time.monotonic()
    rows = preflight_facts.rows(world.target, "t")
    assert time.monotonic() - begun < 5
    assert rows == [
        {"name": "public.free", "rows": 0, "estimate": False},
        {"name": "public.students", "rows": 2, "estimate": True},
    ]


PHASE = """\
- name: Health
  hosts: all
  gather_facts: false
  any_errors_fatal: true
  tasks:
    - name: Health
      block:
        - name: Guard
          ansible.builtin.import_role: {name: whitecross.pgops.guard}
        - name: Before
          ansible.builtin.import_role: {name: whitecross.pgops.preflight}
        - name: After
          ansible.builtin.import_role: {name: whitecross.pgops.preflight, tasks_from: compare}
      always:
        - name: Report
          ansible.builtin.import_role: {name: whitecross.pgops.report}
"""


@pytest.fixture
def healthy(server: Server, sound: Callable[[Server], None], playbook: Playbook) -> Playbook:
    sound(server)
    (playbook.folder / "health.yml").write_text(PHASE)
    return playbook


def test_the_phase_shows_a_table_and_compares(healthy: Playbook) -> None:
    result = healthy("health.yml")
    assert result.rc == 0, result.output
    assert "changed=0" in result.stdout
    assert f"health of {healthy.database}: {len(shipped().names)} ok" in result.stdout
    assert "compared with before: nothing is worse" in result.stdout
    assert "rows compared with before: the same in 0 tables" in result.stdout


def test_the_phase_asks_the_application_that_the_environment_names(healthy: Playbook) -> None:
    with answering(500) as url:
        result = healthy("health.yml", preflight_health_url=url)
    assert result.rc != 0
    assert f"Preflight stops {healthy.database} at application: {url} answers 500" in result.output


def test_the_phase_stops_the_play_with_one_sentence(healthy: Playbook, server: Server) -> None:
    server.execute("CREATE TABLE public.loose (id int PRIMARY KEY)", database=healthy.database)
    result = healthy("health.yml")
    assert result.rc == 2, result.output
    message = result.json["error"]["message"]
    assert message == (
        f"Preflight stops {healthy.database} at ownership: public.loose belongs to postgres, not to {OWNER}; "
        f"type: ALTER TABLE public.loose OWNER TO {OWNER};"
    )
    assert result.json["error"]["next"] == [
        f"ALTER TABLE public.loose OWNER TO {OWNER};",
        "ansible-playbook health.yml -l local",
    ]
    waived = healthy("health.yml", preflight_waive=[{"check": "ownership", "reason": "of the audit team"}])
    assert waived.rc == 0, waived.output
    assert "waived: of the audit team" in waived.stdout


@pytest.fixture
def pooler(server: Server, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """`pooler("transaction")` starts pgbouncer in front of the server and returns its port."""
    name = f"pgops-test-bouncer-{os.getpid()}-{secrets.token_hex(3)}"
    password = re.search(rf":{MIGRATOR}:(.*)$", server.passfile.read_text(), re.MULTILINE)
    assert password is not None

    def start(mode: str) -> str:
        port = free_port()
        config = tmp_path / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host={server.host} port={server.port} user={MIGRATOR} password={password.group(1)}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n"
            "ignore_startup_parameters = extra_float_digits\n"
        )
        for folder in (config, *list(config.parents)[:3]):
            folder.chmod(0o755)  # pgbouncer is another user in the container
        podman("run", "--detach", "--name", name, "--label", "pgops-test=1", "--network", "host", "--user", "postgres",
               "--volume", f"{config}:/pgbouncer.ini:ro", IMAGE, "pgbouncer", "/pgbouncer.ini")  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return str(port)
            time.sleep(0.1)
        raise AssertionError(podman("logs", name))

    yield start
    podman("rm", "--force", "--ignore", "--time", "0", name)


def test_a_pooler_in_statement_mode_is_refused(world: World) -> None:
    folder = Path(tempfile.mkdtemp(prefix="pgops-pool-"))
    world.after.callback(shutil.rmtree, folder)
    bouncer = world.after.enter_context(pool.pgbouncer(world.server, folder, world.database, mode="statement"))
    world.target = world.target.with_(port=str(bouncer.port))
    found = red(world.look())
    assert list(found) == ["pooler"]
    assert "connection pooler in statement mode" in found["pooler"]["evidence"]
    with pytest.raises(PgopsError, match="connection pooler in statement mode.*point pgops_host"):
        connection.connect(world.target, application_name="t")


@pytest.mark.container
def test_a_pooler_in_transaction_mode_is_refused(world: World, pooler: Callable[[str], str]) -> None:
    world.target = world.target.with_(port=pooler("transaction"))
    found = red(world.look())
    assert list(found) == ["pooler"]
    assert found["pooler"]["level"] == "stop"
    assert "connection pooler in transaction mode" in found["pooler"]["evidence"]
    assert "pgops_port" in found["pooler"]["fix"]


@pytest.mark.container
def test_a_pooler_in_session_mode_passes(world: World, pooler: Callable[[str], str]) -> None:
    world.target = world.target.with_(port=pooler("session"), backup_user=None, restore_user=None)
    report = world.look()
    assert "pooler" not in red(report)
