# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The corpus of lint, piece by piece on a server: what is called dangerous hurts, what is called safe does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import lint_facts
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_sampler import BLOCKS_WRITES
from ansible_collections.whitecross.pgops.plugins.module_utils.trace import Trace
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_lint import files, reading, rules, script
from support.lint_corpus import Piece, copy_of, pieces, with_schema
from support.server import SUPERUSER, Server

STRONG = "('AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock')"
LONGEST_MS = 5000
# What can only be seen with the piece's own transactions, in a database that is thrown away.
OWN_TRANSACTIONS = ("skips", "waits_invalid", "advisory", "loses_change")


@pytest.fixture(scope="module")
def base(embedded_server: Server) -> Iterator[str]:
    """A database with the schema of the corpus."""
    with with_schema(embedded_server, "t_lint_corpus") as name:
        yield name


@pytest.fixture
def clone(embedded_server: Server, base: str) -> Iterator[str]:
    """A copy of it."""
    with copy_of(embedded_server, base) as name:
        yield name


def statements(piece: Piece) -> list[str]:
    text = piece.text
    read = script.read(text, piece.id)
    # A piece that is no SQL at all goes to the server as it is.
    return [part.text for part in read.parts] if not any(f[1] == "syntax" for f in read.faults) else [text]


def is_transaction(statement: str) -> bool:
    return statement.upper().split(None, 1)[0].rstrip(";") in ("BEGIN", "START", "COMMIT", "ROLLBACK")


def needs_own_transactions(piece: Piece) -> bool:
    if piece.does.startswith("fails"):
        # Refused in any transaction; of a partitioned table the reason is another one outside.
        return piece.catalog
    upper = piece.text.upper()
    words = ("CONCURRENTLY", "VACUUM", "COMMIT;\n    ROUNDS", "ROLLBACK", "SAVEPOINT")
    return piece.does.partition(" ")[0] in OWN_TRANSACTIONS or any(word in upper for word in words)


class Watch:
    """What a session does to the tables of the corpus between two looks in one transaction."""

    TABLES = """SELECT c.oid::regclass::text, c.oid, pg_relation_filenode(c.oid), pg_stat_get_xact_tuples_returned(c.oid),
      pg_stat_get_xact_tuples_updated(c.oid) + pg_stat_get_xact_tuples_deleted(c.oid), c.reltuples
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname IN ('public', 'archive') AND c.relkind IN ('r', 'p', 'm')"""

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        self.before = {row[0]: row[1:] for row in self.ask(self.TABLES)}

    def ask(self, query: str) -> list[Any]:
        with self.conn.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def after(self) -> dict[str, tuple[Any, ...]]:
        by_oid = {row[1]: row[1:] for row in self.ask(self.TABLES)}
        return {name: by_oid.get(row[0]) or () for name, row in self.before.items()}

    def rewritten(self) -> set[str]:
        after = self.after()
        return {name for name, row in self.before.items() if row[1] and after[name] and after[name][1] != row[1]}

    def reads(self) -> dict[str, int]:
        """:return: the rows that were read of each table."""
        return {name: row[2] - self.before[name][2] for name, row in self.after().items() if row}

    def scanned(self, times: int = 1) -> set[str]:
        """:return: the tables that were read whole, so many times or more."""
        after = self.after()
        rows = {name: max(row[4], 1) for name, row in self.before.items()}
        return {
            n
            for n, r in self.before.items()
            if after[n] and after[n][2] - r[2] >= rows[n] * (times - 0.1) and rows[n] > 10
        }

    def changed(self) -> set[str]:
        after = self.after()
        rows = {name: max(row[4], 1) for name, row in self.before.items()}
        return {n for n, r in self.before.items() if after[n] and after[n][3] - r[3] > rows[n] * 0.5 and rows[n] > 10}

    def locked(self) -> set[str]:
        oids = {row[0]: name for name, row in self.before.items()}
        found = self.ask(f"SELECT DISTINCT relation FROM pg_locks WHERE pid = pg_backend_pid() AND mode IN {STRONG}")
        return {oids[row[0]] for row in found if row[0] in oids}

    def lock_timeout(self) -> float:
        ((value,),) = self.ask("SELECT setting::int FROM pg_settings WHERE name = 'lock_timeout'")
        return float(value)


def run(conn: Any, statement: str) -> None:
    with conn.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.parametrize("piece", [p for p in pieces("dangerous") if p.does == "waits"], ids=lambda p: p.id)
def test_it_waits_behind_a_client_without_a_useful_limit(embedded_server: Server, base: str, piece: Piece) -> None:
    with embedded_server.session(base, SUPERUSER) as client, embedded_server.session(base, SUPERUSER) as conn:
        run(client, "BEGIN")
        run(client, "LOCK TABLE users IN ROW EXCLUSIVE MODE")
        limit = None
        try:
            for statement in statements(piece):
                ended_early = conn.info.transaction_status == 3
                if not ended_early:
                    limit = Watch(conn).lock_timeout()
                stop = threading.Timer(0.25, conn.cancel)
                stop.start()
                try:
                    run(conn, statement)
                finally:
                    stop.cancel()
            pytest.fail("it never waited")
        except psycopg2.Error as error:
            assert error.pgcode == "57014", error
        finally:
            run(conn, "ROLLBACK")
            run(client, "ROLLBACK")
    assert limit is not None
    assert limit == 0 or limit > LONGEST_MS


IN_ONE_TRANSACTION = [p for p in pieces("dangerous") if p.does != "waits" and not needs_own_transactions(p)]


@pytest.mark.parametrize("piece", IN_ONE_TRANSACTION, ids=lambda p: p.id)
def test_it_does_what_it_is_called_dangerous_for(embedded_server: Server, base: str, piece: Piece) -> None:
    with embedded_server.session(base, SUPERUSER) as conn:
        run(conn, "BEGIN")
        watch = Watch(conn)
        failed = None
        try:
            for statement in statements(piece):
                if not is_transaction(statement):
                    run(conn, statement)
        except psycopg2.Error as error:
            failed = error.pgcode
        if failed or piece.does.startswith("fails"):
            assert f"fails {failed}" == piece.does
        else:
            see(watch, piece)
        run(conn, "ROLLBACK")


def see(watch: Watch, piece: Piece) -> None:
    word, _, what = piece.does.partition(" ")
    what = piece.table or what
    if word == "rewrites":
        assert what in watch.rewritten()
    elif word == "scans" and what.endswith(" twice"):
        # VALIDATE under its weak lock is one; the other is what the piece is about.
        assert what.removesuffix(" twice") in watch.scanned(2)
    elif word == "scans":
        assert what in watch.scanned() | watch.rewritten()
        assert watch.locked()
    elif word == "locks":
        assert what in watch.locked()
    elif word == "many":
        assert len(watch.locked()) > 1
    elif word == "changes":
        assert what in watch.changed() or watch.ask("SELECT count(*) = 0 FROM users WHERE status = 'new'") == [(True,)]
    elif word == "loses" and what.startswith("rows "):
        assert watch.ask(f"SELECT count(*) FROM {what.split()[1]}") == [(0,)]
    elif word == "loses" and what == "archive.users":
        assert watch.ask("SELECT to_regclass('archive.users')") == [(None,)]
    elif word == "loses" and "." in what:
        table, column = what.split(".")
        query = f"SELECT count(*) FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attname = '{column}' AND NOT attisdropped"
        assert watch.ask(query) == [(0,)]
    elif word == "loses":
        assert watch.ask(f"SELECT to_regclass('public.{what}')") == [(None,)]
    elif word == "hides":
        run(watch.conn, "CREATE ROLE t_lint_reader")
        run(watch.conn, f"GRANT SELECT ON {what} TO t_lint_reader")
        run(watch.conn, "SET LOCAL ROLE t_lint_reader")
        assert watch.ask(f"SELECT count(*) FROM {what}") == [(0,)]
    elif word == "sets":
        assert watch.ask(f"SHOW {what}") == [("replica",)]
    elif word == "refuses":
        with pytest.raises(psycopg2.errors.NotNullViolation):
            run(watch.conn, f"INSERT INTO {what} (id) VALUES (-1)")
    elif word == "nullable":
        table, column = what.split(".")
        query = f"SELECT attnotnull FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attname = '{column}'"
        assert watch.ask(query) == [(False,)]
    elif word == "drops_constraint":
        assert watch.ask(f"SELECT count(*) FROM pg_constraint WHERE conname = '{what}'") == [(0,)]
    elif word == "truncates":
        assert watch.ask(
            "SELECT count(*) FROM pg_class WHERE length(relname) = 63 AND relname LIKE 'a_table_with%'"
        ) == [(1,)]
    else:
        raise AssertionError(f"nothing sees '{piece.does}'")


def test_a_trace_sees_every_strong_lock_and_every_rewrite_of_all_of_it(embedded_server: Server, base: str) -> None:
    """Also where no rule finds anything, since it asks the session and reads no SQL."""
    target = Target(
        host=embedded_server.host, port=str(embedded_server.port), database=base, user=SUPERUSER, passfile=str(embedded_server.passfile)
    )  # fmt: skip
    waiting = [piece for piece in pieces("dangerous") if piece.does == "waits" and not needs_own_transactions(piece)]
    missed, looked_at = [], 0
    with Trace(lambda: connect(target, application_name="trace")) as trace:
        for piece in [*waiting, *IN_ONE_TRANSACTION]:
            with embedded_server.session(base, SUPERUSER) as conn:
                trace.session(conn)
                run(conn, "BEGIN")
                watch = Watch(conn)
                try:
                    for statement in statements(piece):
                        if not is_transaction(statement):
                            run(conn, statement)
                except psycopg2.Error:
                    run(conn, "ROLLBACK")
                    continue
                work = trace._sessions[conn.info.backend_pid]
                names = {row[0]: name for name, row in watch.before.items()}
                locked = {names[oid] for oid, mode in work.held if mode in BLOCKS_WRITES and oid in names}
                rewritten = {names[oid] for done in work.statements for oid in done.rewrites if oid in names}
                missed += [(piece.id, name) for name in watch.locked() - locked | watch.rewritten() - rewritten]
                looked_at += bool(watch.locked())
                run(conn, "ROLLBACK")
    assert missed == []
    assert looked_at > 80


ON_THEIR_OWN = [p for p in pieces("dangerous") if p.does != "waits" and needs_own_transactions(p)]


@pytest.mark.parametrize("piece", ON_THEIR_OWN, ids=lambda p: p.id)
def test_it_does_so_with_its_own_transactions(embedded_server: Server, clone: str, piece: Piece) -> None:
    word, _, what = piece.does.partition(" ")
    with embedded_server.session(clone, SUPERUSER) as conn, embedded_server.session(clone, SUPERUSER) as other:
        watch = Watch(conn)
        run(conn, "SET deadlock_timeout = '100ms'")
        if word == "skips":
            run(conn, "CREATE INDEX broken_idx ON users (age)")
            run(conn, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken_idx'::regclass")
        elif word == "waits_invalid":
            run(other, "BEGIN")
            run(other, "UPDATE users SET status = 'held' WHERE id = 1")
        failed = None
        waiter = None
        try:
            for statement in statements(piece):
                run(conn, statement)
                if word == "advisory" and waiter is None:
                    waiter = threading.Thread(target=wait_for_advisory, args=(other,))
                    waiter.start()
                    time.sleep(0.2)
        except psycopg2.Error as error:
            failed = error.pgcode
        if word == "fails":
            assert failed == what
        elif word == "advisory":
            assert failed == "40P01"
            run(conn, "SELECT pg_advisory_unlock_all()")
            assert waiter is not None
            waiter.join()
        elif word == "waits_invalid":
            # lock_timeout, or statement_timeout
            assert failed in ("55P03", "57014")
            assert watch.ask(f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{what}'::regclass") == [(False,)]
            run(other, "ROLLBACK")
        elif word == "skips":
            assert failed is None
            assert watch.ask("SELECT indisvalid FROM pg_index WHERE indexrelid = 'broken_idx'::regclass") == [(False,)]
        elif word == "rewrites":
            assert failed is None
            assert what in watch.rewritten()
        elif word == "loses_change":
            query = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'phone'"
            assert Watch(other).ask(query) == [(0,)]
        else:
            see(watch, piece)


def wait_for_advisory(conn: Any) -> None:
    try:
        run(conn, "SELECT pg_advisory_lock(42)")
    except psycopg2.Error:
        pass


@pytest.mark.parametrize("piece", pieces("safe"), ids=lambda p: p.id)
def test_what_is_called_safe_hurts_nobody(embedded_server: Server, base: str, piece: Piece, request: Any) -> None:
    own = needs_own_transactions(piece)
    database = request.getfixturevalue("clone") if own else base
    with embedded_server.session(database, SUPERUSER) as conn:
        if not own:
            run(conn, "BEGIN")
        watch = Watch(conn)
        for statement in statements(piece):
            limit = watch.lock_timeout()
            held = watch.locked()
            reads = watch.reads()
            if own or not is_transaction(statement):
                run(conn, statement.replace("'id'", "'200'") if ":'id'" in piece.text else statement)
            if not own:
                new = watch.locked() - held
                limit = limit or watch.lock_timeout()
                assert not new or "NOWAIT" in statement or 0 < limit <= LONGEST_MS, (statement, new)
                whole = {
                    n
                    for n, read in watch.reads().items()
                    if read - reads.get(n, 0) >= max(watch.before[n][4], 11) * 0.9
                }
                # In the one transaction of this test the locks of the earlier statements are still there.
                assert not (whole & (new if "VALIDATE" in statement else watch.locked())), (
                    statement,
                    "reads it locked",
                )
        assert watch.rewritten() == set()
        # The one whose comment tells why.
        assert watch.changed() <= ({"orgs"} if "pgops: allow" in piece.text else set())
        rows = watch.ask("SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM orders) > 2000")
        assert rows == [(3000, True)]
        if not own:
            run(conn, "ROLLBACK")


@pytest.fixture(scope="module")
def facts(embedded_server: Server, base: str) -> dict[str, Any]:
    """What the catalog says of all that the corpus names."""
    read = [script.read(piece.text, piece.id) for name in ("dangerous", "safe") for piece in pieces(name)]
    relations, functions = files.names_in(read)
    return lint_facts.read_facts(target(embedded_server, base), relations, functions)


def target(server: Server, database: str) -> Target:
    return Target(
        database=database, host=server.host, port=str(server.port), user=SUPERUSER, passfile=str(server.passfile)
    )


def with_catalog(piece: Piece, facts: dict[str, Any]) -> dict[str, str]:
    found, _ = reading.lint_script(script.read(piece.text, piece.id), rules.levels_of({}), facts)
    return {problem.rule: problem.level for problem in found if problem.level != rules.NOTE}


@pytest.mark.parametrize("piece", pieces("dangerous"), ids=lambda p: p.id)
def test_with_the_catalog_at_hand_everything_is_found(facts: dict[str, Any], piece: Piece) -> None:
    assert piece.rule in with_catalog(piece, facts)


@pytest.mark.parametrize("piece", pieces("safe"), ids=lambda p: p.id)
def test_with_the_catalog_at_hand_there_is_no_false_alarm(facts: dict[str, Any], piece: Piece) -> None:
    assert with_catalog(piece, facts) == {}


def test_a_small_table_lowers_the_level_and_an_empty_one_does_not(embedded_server: Server, base: str) -> None:
    made = "CREATE TABLE tiny AS SELECT g AS id FROM generate_series(1, 50) g; CREATE TABLE nobody (id int); ANALYZE tiny, nobody;"
    embedded_server.execute(made, database=base, user=SUPERUSER)
    known = lint_facts.read_facts(target(embedded_server, base), ["public.tiny", "public.nobody"], [])
    for table, level in (("tiny", rules.WARNING), ("nobody", rules.ERROR)):
        piece = Piece(table, f"SET lock_timeout = '1s';\nALTER TABLE {table} ALTER COLUMN id TYPE bigint;\n")
        assert with_catalog(piece, known) == {"R24": level}
