# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The ledger: made and upgraded under the lock, read without writing, its audit append-only and chained."""

from __future__ import annotations

import json
import threading
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, execute, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from support.engine import rows


@pytest.fixture
def conn(target: Any) -> Any:
    conn = connect(target, application_name="test")
    ledger.ensure(conn)
    yield conn
    conn.close()


def test_reading_writes_nothing(target: Any) -> None:
    conn = connect(target, application_name="test")
    found = ledger.read(conn)
    assert (found.exists, found.migrations, found.head) == (False, [], ledger.EMPTY_HEAD)
    assert fetch_one(conn, "SELECT count(*) AS n FROM pg_namespace WHERE nspname = 'pgops'") == {"n": 0}
    conn.close()


def test_an_empty_ledger_has_the_head_of_a_missing_one(conn: Any) -> None:
    found = ledger.read(conn)
    assert (found.exists, found.head) == (True, ledger.EMPTY_HEAD)


@pytest.mark.majors(15, 18)
def test_it_is_made_once_by_a_member_of_the_owner_role(target: Any) -> None:
    conn = connect(target, application_name="test")
    assert fetch_one(conn, "SELECT usesuper FROM pg_user WHERE usename = session_user") == {"usesuper": False}
    assert ledger.ensure(conn) is True
    assert ledger.ensure(conn) is False
    owners = rows(
        target,
        "SELECT DISTINCT pg_get_userbyid(relowner)::text AS o FROM pg_class WHERE relnamespace = 'pgops'::regnamespace",
    )
    assert owners == [{"o": "white_cross_owner"}]
    conn.close()


def test_no_right_to_make_it_names_the_grant(server: Any, database: str, target: Any) -> None:
    server.execute(f"ALTER DATABASE {database} OWNER TO postgres")
    conn = connect(target, application_name="test")
    with pytest.raises(PgopsError, match=f"GRANT CREATE ON DATABASE {database} TO white_cross_owner") as caught:
        ledger.ensure(conn)
    assert caught.value.sqlstate == "42501"
    conn.close()


def test_an_empty_schema_of_another_role_is_told_with_what_helps(server: Any, database: str, target: Any) -> None:
    server.execute("CREATE SCHEMA pgops", database=database)
    server.execute("GRANT ALL ON SCHEMA pgops TO white_cross_owner", database=database)
    conn = connect(target, application_name="test")
    with pytest.raises(PgopsError, match="schema pgops belongs to postgres") as caught:
        ledger.ensure(conn)
    assert (caught.value.sqlstate, caught.value.hint) == ("42501", "ALTER SCHEMA pgops OWNER TO white_cross_owner;")
    server.execute(caught.value.hint, database=database)
    assert ledger.ensure(conn) is True
    conn.close()


@pytest.mark.parametrize("upgraded", [False, True])
def test_a_ledger_of_another_role_is_told_with_what_helps(
    server: Any, database: str, conn: Any, upgraded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.execute("ALTER SCHEMA pgops OWNER TO postgres", database=database)
    with pytest.raises(PgopsError, match="may not read the ledger .* schema pgops belongs to postgres") as caught:
        ledger.read(conn)
    server.execute(str(caught.value.hint), database=database)
    server.execute("ALTER TABLE pgops.run OWNER TO postgres", database=database)
    assert ledger.read(conn).exists
    if upgraded:
        monkeypatch.setattr(ledger, "SCHEMA_VERSION", 5)
        monkeypatch.setattr(ledger, "UPGRADES", {4: "ALTER TABLE pgops.run ADD COLUMN a integer"})
    with pytest.raises(PgopsError, match="ledger of database .* pgops.run belongs to postgres") as caught:
        ledger.ensure(conn)
    assert caught.value.hint == "ALTER TABLE pgops.run OWNER TO white_cross_owner;"
    server.execute(caught.value.hint, database=database)
    assert ledger.ensure(conn) is upgraded


def test_a_newer_ledger_is_refused(conn: Any) -> None:
    execute(conn, "UPDATE pgops.meta SET schema_version = 99")
    for call in (ledger.read, ledger.ensure):
        with pytest.raises(PgopsError, match="schema version 99.*knows 4 at most"):
            call(conn)


def test_an_older_ledger_is_upgraded_in_one_transaction(conn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "SCHEMA_VERSION", 6)
    monkeypatch.setattr(
        ledger,
        "UPGRADES",
        {4: "ALTER TABLE pgops.run ADD COLUMN a integer", 5: "ALTER TABLE pgops.run ADD COLUMN a integer"},
    )
    with pytest.raises(psycopg2.errors.DuplicateColumn):
        ledger.ensure(conn)
    assert ledger.schema_version(conn) == 4
    assert fetch_one(
        conn, "SELECT count(*) AS n FROM pg_attribute WHERE attrelid = 'pgops.run'::regclass AND attname = 'a'"
    ) == {"n": 0}
    ledger.UPGRADES[5] = "ALTER TABLE pgops.run ADD COLUMN b integer"
    assert ledger.ensure(conn) is True
    assert ledger.schema_version(conn) == 6


@pytest.mark.parametrize("part", ["first", "block", "last"])
def test_a_transaction_that_fails_anywhere_leaves_nothing_and_an_idle_session(conn: Any, part: str) -> None:
    run = "INSERT INTO pgops.run (id) VALUES ('{}')"
    first = run.format("first") + ("; SELECT 1/0" if part == "first" else "")
    with pytest.raises(psycopg2.errors.DivisionByZero), ledger.transaction(conn, first) as last:
        execute(conn, run.format("block") + ("; SELECT 1/0" if part == "block" else ""))
        last += [run.format("last"), "SELECT 1/0"]
    assert conn.info.transaction_status == TRANSACTION_STATUS_IDLE
    assert fetch_one(conn, "SELECT count(*) AS n FROM pgops.run") == {"n": 0}


def test_a_transaction_keeps_what_begins_and_ends_it(conn: Any) -> None:
    run = "INSERT INTO pgops.run (id) VALUES ('{}')"
    with ledger.transaction(conn, run.format("first")) as last:
        execute(conn, run.format("block"))
        last.append(run.format("last"))
    assert fetch_one(conn, "SELECT string_agg(id, ' ' ORDER BY id) AS ids FROM pgops.run") == {
        "ids": "block first last"
    }


def test_the_audit_is_a_chain(conn: Any) -> None:
    heads = [ledger.append_audit(conn, "tested", version=str(n), detail={"n": n, "größe": 0.1}) for n in range(3)]
    found = ledger.audit_rows(conn)
    assert [row["seq"] for row in found] == [1, 2, 3]
    assert ledger.broken_link(found, heads[-1]) is None
    assert ledger.audit_head(conn) == heads[-1]


# The server writes the hash and Python checks it: both must escape a text alike.
ODD = [
    "quoted \"twice\", 'once', \\ and \\n, 100 % {x} :y",
    "".join(map(chr, range(1, 32))),
    "\x7f\x80\x9f\xa0\xad",
    "\u2028\u2029\ufeff\ufffd",
    "Zoë 学校 \U0001f3e5",
    "",
]


@pytest.mark.majors(15, 18)
@pytest.mark.parametrize("odd", ODD, ids=["quotes", "controls", "latin", "separators", "wide", "empty"])
def test_the_server_hashes_as_python_does(conn: Any, odd: str) -> None:
    for run_id, version in ((odd, None), (None, odd)):
        head = ledger.append_audit(conn, f"tested {odd}", run_id=run_id, version=version, detail={odd: [odd]})
    found = ledger.audit_rows(conn)
    assert found[-1]["detail"] == json.dumps({odd: [odd]}, ensure_ascii=False)
    assert ledger.broken_link(found, head) is None


@pytest.mark.parametrize(
    "statement", ["UPDATE pgops.audit SET event = 'x'", "DELETE FROM pgops.audit", "TRUNCATE pgops.audit"]
)
@pytest.mark.parametrize("replica", [False, True])
def test_the_audit_takes_no_change(conn: Any, superuser_connection: Any, statement: str, replica: bool) -> None:
    ledger.append_audit(conn, "tested")
    with superuser_connection.cursor() as cursor:
        if replica:
            cursor.execute("SET session_replication_role = replica")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="append-only"):
            cursor.execute(statement)


def _tamper(connection: Any, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE pgops.audit DISABLE TRIGGER ALL; {statement}")


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("""UPDATE pgops.audit SET detail = '{"n": 7}' WHERE seq = 2""", "row 2 was changed"),
        ("DELETE FROM pgops.audit WHERE seq = 2", "row 2 is missing"),
        ("DELETE FROM pgops.audit WHERE seq = 3", "ends at row 2, but row 3 was anchored"),
        ("TRUNCATE pgops.audit", "ends at row 0"),
        ("UPDATE pgops.audit SET at = at + interval '1 s' WHERE seq = 1", "row 1 was changed"),
    ],
)
def test_what_is_forced_into_the_audit_is_seen(conn: Any, superuser_connection: Any, statement: str, told: str) -> None:
    for n in range(3):
        anchor = ledger.append_audit(conn, "tested", detail={"n": n})
    _tamper(superuser_connection, statement)
    assert told in (ledger.broken_link(ledger.audit_rows(conn), anchor) or "")


def test_a_full_rewrite_is_seen_by_the_anchor_only(conn: Any, superuser_connection: Any) -> None:
    anchor = ledger.append_audit(conn, "tested", detail={"n": 1})
    _tamper(superuser_connection, "TRUNCATE pgops.audit; ALTER TABLE pgops.audit ENABLE TRIGGER ALL")
    ledger.append_audit(conn, "forged", detail={"n": 1})
    found = ledger.audit_rows(conn)
    assert ledger.broken_link(found) is None
    assert ledger.broken_link(found, anchor) == "audit row 1 is not the one that was anchored"


def test_many_writers_keep_one_chain(target: Any, conn: Any) -> None:
    def write() -> None:
        own = connect(target, application_name="test")
        for _ in range(5):
            ledger.append_audit(own, "tested")
        own.close()

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = ledger.audit_rows(conn)
    assert len(found) == 40
    assert ledger.broken_link(found) is None


def test_the_head_moves_with_version_checksum_and_state() -> None:
    base = ledger.head_of([("1", "a", "applied")])
    assert (
        len(
            {
                base,
                *(
                    ledger.head_of([row])
                    for row in (("2", "a", "applied"), ("1", "b", "applied"), ("1", "a", "failed"))
                ),
            }
        )
        == 4
    )
    assert ledger.head_of([("1", "a", "applied"), ("2", "b", "applied")]) == ledger.head_of(
        [("2", "b", "applied"), ("1", "a", "applied")]
    )
