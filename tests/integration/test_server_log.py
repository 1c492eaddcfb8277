# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's own log of a run: its errors are found, told without a value, and never passed over where it cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import server_log
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect
from ansible_collections.whitecross.pgops.plugins.plugin_utils.verification import screen
from support import server as servers
from support.engine import target_of, wait_for
from support.module import call
from support.server import OWNER, RESTORE, Server

DATABASE = "clinic"
SECRET = "Dana Ferret"
SCHEMA = f"""
SET ROLE {OWNER};
CREATE TABLE pupil (id integer PRIMARY KEY, name text CONSTRAINT pupil_name UNIQUE);
INSERT INTO pupil VALUES (1, '{SECRET}');
CREATE FUNCTION tell() RETURNS void LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION USING MESSAGE = (SELECT name FROM pupil), ERRCODE = '23514'; END $$;
"""


@pytest.fixture(scope="module")
def logging() -> Iterator[Server]:
    """A server that collects its log, with a database."""
    server = servers.embedded_server(servers.memory_folder())
    try:
        server.stop()
        with (server.directory / "data" / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.write("logging_collector = on\nlog_destination = 'jsonlog'\n")
        server.start()
        server.create_database(DATABASE, OWNER)
        server.execute(SCHEMA, database=DATABASE)
        yield server
    finally:
        servers.discard(server)


@pytest.fixture
def clinic(logging: Server) -> Iterator[Target]:
    """The database, and a log of jsonlog again afterwards."""
    yield target_of(logging, DATABASE)
    for name in ("log_destination", "log_line_prefix", "log_statement", "log_error_verbosity"):
        logging.execute(f"ALTER SYSTEM RESET {name}")
    logging.execute("SELECT pg_reload_conf()")


_numbers = iter(range(1, 100))


def new_run(ago: float = 0) -> str:
    """An id that no other test has."""
    at = datetime.now(UTC) - timedelta(seconds=ago)
    return f"{at:%Y%m%dT%H%M%SZ}-{next(_numbers):06x}"


def fail(target: Target, run: str, *statements: str) -> None:
    """Each in a session of the run; it fails."""
    with closing(connect(target.with_(run_id=run), application_name="pgops tried")) as conn, conn.cursor() as cursor:
        for statement in statements:
            with suppress(psycopg2.Error):
                cursor.execute(statement)


def lock_not_had(server: Server, target: Target, run: str) -> None:
    with server.session(DATABASE, autocommit=False) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE pupil")
        fail(target, run, "SET lock_timeout = '20ms'", "SELECT count(*) FROM pupil")


TWICE = f"INSERT INTO pupil VALUES (2, '{SECRET}')"
CAST = f"SELECT '{SECRET}'::text::integer"


def found(target: Target, run: str, errors: int, **more: Any) -> dict[str, Any]:
    """What is told of a run, as soon as the collector has written it."""
    seen: dict[str, Any] = {}

    def written() -> bool:
        seen.update(server_log.look(target, run, **more).of())
        return sum(error["times"] for error in seen["errors"]) == errors

    wait_for(written, what=f"{errors} errors in the log, it has {seen}")
    assert SECRET not in str(seen)
    return seen


def to_stderr(server: Server) -> None:
    server.execute("ALTER SYSTEM SET log_line_prefix = '%m [%p] %-5e %q%u@%d %a '")
    write_into(server, "stderr")


def write_into(server: Server, destination: str) -> None:
    server.execute(f"ALTER SYSTEM SET log_destination = '{destination}'")
    server.execute("SELECT pg_reload_conf()")
    current = f"SELECT pg_current_logfile('{destination}') IS NOT NULL"
    wait_for(lambda: server.execute(current)[0][0], what=f"a log of {destination}")


FORMS: dict[str, Callable[[Server], None]] = {
    "jsonlog": lambda server: write_into(server, "jsonlog"),
    "csvlog": lambda server: write_into(server, "csvlog"),
    "stderr": to_stderr,
}


@pytest.mark.parametrize("form", FORMS)
def test_the_errors_of_a_run_are_found_and_told_without_a_value(logging: Server, clinic: Target, form: str) -> None:
    FORMS[form](logging)
    with suppress(psycopg2.Error):
        logging.execute("SELECT 1/0")  # so that the log has a line from before the run
    run, other = new_run(), new_run()
    fail(clinic, run, TWICE, TWICE, CAST, "SELECT tell()", f'SELECT * FROM "{SECRET}"')
    fail(clinic, other, TWICE)
    with suppress(psycopg2.Error):
        logging.execute(TWICE, database=DATABASE)
    lock_not_had(logging, clinic, run)

    seen = found(clinic, run, 5)
    assert (seen["looked"], seen["source"], seen["gaps"]) == (True, form, [])
    told = {(e["severity"], e["sqlstate"], e["message"], e["times"]) for e in seen["errors"]}
    assert told == {
        ("ERROR", "23505", 'duplicate key value violates unique constraint "pupil_name"', 2),
        ("ERROR", "22P02", "invalid text representation; its text is not shown, as it may hold values of a row", 1),
        ("ERROR", "23514", "check violation; its text is not shown, as it may hold values of a row", 1),
        ("ERROR", "42P01", 'relation "…" does not exist', 1),
    }
    assert {error["database"] for error in seen["errors"]} == {DATABASE}
    assert seen["provoked"] == {"lock timeout": 1}
    assert server_log.look(clinic, other).of([DATABASE])["errors"] == []
    assert found(clinic, new_run(), 0)["errors"] == []


def test_without_the_rights_it_says_so_and_the_grant_that_it_names_suffices(logging: Server, clinic: Target) -> None:
    run = new_run()
    fail(clinic, run, TWICE)
    logging.execute("CREATE ROLE reader LOGIN IN ROLE pg_monitor")
    servers_passfile = logging.passfile.read_text(encoding="ascii")
    logging.execute("ALTER ROLE reader PASSWORD 'nothing'")
    logging.passfile.write_text(servers_passfile + "*:*:*:reader:nothing\n", encoding="ascii")
    plain = clinic.with_(user="reader", owner=None, restore_user=None)
    seen = server_log.look(plain, run).of()
    assert (seen["looked"], seen["why"]) == (False, "its role may not read the log")
    assert server_log.place(plain) is None
    grant = seen["hint"].partition(": ")[2].partition(";")[0]
    assert grant.startswith("GRANT EXECUTE ON FUNCTION")
    logging.execute(grant, database=DATABASE)
    try:
        assert found(plain, run, 1)["errors"][0]["sqlstate"] == "23505"
    finally:
        logging.execute("DROP OWNED BY reader", database=DATABASE)
        logging.execute("DROP ROLE reader")


def test_a_server_that_collects_no_log_is_told_with_what_it_takes(target: Target) -> None:
    seen = server_log.look(target, new_run()).of()
    assert not seen["looked"]
    assert "logging_collector is off" in seen["why"]
    assert "restart" in seen["hint"]


def test_a_prefix_without_the_session_is_told(logging: Server, clinic: Target) -> None:
    logging.execute("ALTER SYSTEM SET log_line_prefix = '%m [%p] '")
    write_into(logging, "stderr")
    seen = server_log.look(clinic, new_run()).of()
    assert not seen["looked"]
    assert "log_line_prefix has no %a" in seen["why"]


def current(server: Server) -> Path:
    return server.directory / "data" / str(server.execute("SELECT pg_current_logfile('jsonlog')")[0][0])


def test_what_stood_in_the_log_before_a_rotation_is_found(logging: Server, clinic: Target) -> None:
    run, began = new_run(), server_log.place(clinic)
    fail(clinic, run, TWICE)
    found(clinic, run, 1, began=began)
    before = current(logging)
    # Another name has the collector rotate at once.
    logging.execute("ALTER SYSTEM SET log_filename = 'after-%s.log'")
    try:
        logging.execute("SELECT pg_reload_conf()")
        wait_for(lambda: current(logging) != before, what="a new file")
        fail(clinic, run, CAST)
        seen = found(clinic, run, 2, began=began)
        assert (seen["gaps"], len(seen["errors"])) == ([], 2)
        before.unlink()
        (gap,) = found(clinic, run, 1, began=began)["gaps"]
        assert before.name in gap
        assert "is gone" in gap
    finally:
        logging.execute("ALTER SYSTEM RESET log_filename")
        logging.execute("SELECT pg_reload_conf()")


def test_a_log_that_was_emptied_or_is_too_long_is_no_silent_pass(
    logging: Server, clinic: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, began = new_run(), server_log.place(clinic)
    assert began
    fail(clinic, run, TWICE)
    found(clinic, run, 1, began=began)
    with current(logging).open("r+b") as log:
        log.truncate(0)
    began["bytes"] += 1
    (gap,) = server_log.look(clinic, run, began=began).gaps
    assert "was emptied while the run went on" in gap
    # Without a place of the begin, the time of the first line tells.
    fail(clinic, run, CAST)
    early = new_run(ago=3600)
    for old in current(logging).parent.glob("*.json"):
        if old != current(logging):
            old.unlink()
    (gap,) = found(clinic, early, 0)["gaps"]
    assert "it reaches back to" in gap
    monkeypatch.setattr(server_log, "MOST_BYTES", 1 << 10)
    fail(clinic, run, *[CAST] * 20)
    wait_for(lambda: current(logging).stat().st_size > 1 << 11, what="a longer log")
    assert server_log.look(clinic, run, began={**began, "bytes": 0}).gaps


def test_verify_tells_the_errors_of_its_run_as_a_warning(logging: Server, clinic: Target) -> None:
    run = new_run()
    fail(clinic, run, TWICE)
    lock_not_had(logging, clinic, run)
    found(clinic, run, 1)
    result = call("verify", clinic, run_id=run, compare_schema=False)["databases"][DATABASE]
    (finding,) = [one for one in result["findings"] if one["check"] == "server log"]
    assert (result["passed"], finding["level"]) == (True, "warn")
    lines = "\n".join(screen(DATABASE, result))
    assert "server log    1 error of the run; not counted: 1 lock timeout" in lines
    assert "WARN   server log: ERROR 23505: expected no error of the run, found duplicate key value violates" in lines
    assert SECRET not in str(result)
    unread = call("verify", clinic.with_(restore_user=None), run_id=run, compare_schema=False)["databases"][DATABASE]
    assert "server log    not looked at, because its role may not read the log; to have it: " in "\n".join(
        screen(DATABASE, unread)
    )


def test_the_log_of_a_run_is_extracted_by_its_id(logging: Server, clinic: Target) -> None:
    run = new_run()
    logging.execute(f"ALTER ROLE {RESTORE} SET log_statement = 'all'")
    try:
        fail(clinic, run, TWICE, "SELECT tell()")
        fail(clinic.as_restore(), run, f"SELECT '{SECRET}'")
        found(clinic, run, 2)
    finally:
        logging.execute(f"ALTER ROLE {RESTORE} RESET log_statement")
    text = Path("sql/inspect/server_log.sql").read_text(encoding="utf-8")
    asked = {"query": "server_log", "text": text, "run": run}
    rows = call("inspect", clinic, **asked)["databases"][DATABASE]["rows"]
    assert [row["sqlstate"] for row in rows[:2]] == ["23505", "23514"]
    assert rows[0]["application"] == f"pgops {run} tried"
    assert "further lines, such as logged statements, are not shown" in rows[-1]["message"]
    assert SECRET not in str(rows)
    refused = call("inspect", clinic.with_(restore_user=None), **asked)
    assert refused["failed"]
    assert "because its role may not read the log" in refused["msg"]
    assert "GRANT EXECUTE ON FUNCTION" in refused["hint"]
