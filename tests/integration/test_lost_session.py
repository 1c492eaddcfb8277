# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A session is asked whether it stands, and one that is lost while it is opened is no reason to give up."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import index_schedule, migrate, monitor
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.lost_session import answers, is_broken, is_lost
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from support.cut import Network
from support.engine import Told, When, do, rows, state, wait_for, way
from support.index_steps import PEOPLE_NAME, PETS_NAME, people_and_pets, wanted
from support.index_steps import VERSION as V1
from support.server import APP, SUPERUSER, Server

# --- set up -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["_NOTICE_SILENCE", "_NOTICE_DEATH"])
def test_a_session_that_fails_as_it_is_set_up_keeps_no_place(
    target: Any, migrations: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(migrate, part, "SELECT nobody()")
    with pytest.raises(psycopg2.errors.UndefinedFunction) as caught:
        migrate.apply(target, migrations, Selection(), way())
    # The error still has the session in its frames.
    assert caught.tb is not None
    ours = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pgops %'"
    wait_for(lambda: rows(target, ours) == [], seconds=5, what="a session that is closed")


# --- asked -------------------------------------------------------------------------------------------------------------


def test_a_session_whose_transaction_an_error_has_broken_off_stands(target: Any) -> None:
    with closing(connect(target, application_name="test")) as conn:
        execute(conn, "BEGIN")
        with pytest.raises(Exception, match="division by zero"):
            execute(conn, "SELECT 1 / 0")
        assert answers(conn)
        assert conn.info.transaction_status == TRANSACTION_STATUS_IDLE
        assert answers(conn)


def test_a_session_that_was_just_ended_is_known_as_lost_once_it_is_asked(server: Server, target: Any) -> None:
    with closing(connect(target, application_name="test")) as conn:
        server.execute(f"SELECT pg_terminate_backend({conn.info.backend_pid}, 5000)")
        assert not is_broken(conn)
        assert is_lost(conn, PgopsError("Cannot connect."))
        assert is_broken(conn)
        assert not answers(conn)


def test_a_statement_that_failed_asks_nobody(server: Server, target: Any) -> None:
    with closing(connect(target, application_name="test")) as conn:
        server.execute(f"SELECT pg_terminate_backend({conn.info.backend_pid}, 5000)")
        assert not is_lost(conn, PgopsError("A row is there twice.", sqlstate="23505"))
        assert not is_broken(conn)


def test_a_network_that_is_cut_without_a_word_is_not_waited_for(server: Server, target: Any) -> None:
    """What is sent is taken, as by a proxy, so that the kernel has no reason to give up."""
    found: list[bool] = []
    with (
        Network(server.host, server.port) as network,
        closing(connect(target.with_(port=str(network.port)), application_name="test")) as conn,
    ):
        assert answers(conn)
        network.freeze()
        began = time.monotonic()
        asking = threading.Thread(target=lambda: found.append(answers(conn, within_s=0.5)))
        asking.start()
        asking.join(timeout=5)
        took_s = time.monotonic() - began
        network.thaw()
        asking.join()
        assert found == [False]
        assert 0.4 < took_s < 5
        assert is_broken(conn)


# --- as it is opened ---------------------------------------------------------------------------------------------------


def test_a_connection_that_is_cut_in_set_role_is_not_told_as_a_missing_right(server: Server, target: Any) -> None:
    with (
        Network(server.host, server.port, lose_answer=lambda data: b"SET ROLE" in data) as network,
        pytest.raises(PgopsError, match="could not be prepared") as caught,
    ):
        connect(target.with_(port=str(network.port)), application_name="test")
    assert "GRANT" not in caught.value.message
    assert caught.value.sqlstate is None


@pytest.mark.parametrize(
    ("owner", "sqlstate", "told", "way"),
    [
        (APP, "42501", f"may not act as the owner role {APP} on ", f"; GRANT {APP} TO "),
        ("nobody_of_that_name", "22023", "There is no role nobody_of_that_name on ", "; set pgops_owner to the role that owns"),
        (SUPERUSER, "42501", f"The owner role {SUPERUSER} on ", "; set pgops_owner to a role without superuser"),
    ],
)  # fmt: skip
def test_an_owner_role_that_it_may_not_act_as_is_told(
    target: Any, owner: str, sqlstate: str, told: str, way: str
) -> None:
    """Nobody is told to make the migrator a superuser, or to grant what there is not."""
    with pytest.raises(PgopsError) as caught:
        connect(target.with_(owner=owner), application_name="test")
    assert told in caught.value.message
    assert way in caught.value.message
    assert caught.value.sqlstate == sqlstate
    assert ("GRANT" in caught.value.message) is (owner == APP)


# --- of those that build side by side ----------------------------------------------------------------------------------


@pytest.fixture
def migrations(target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    # The session that tells how far they are is not the one to be cut.
    monkeypatch.setattr(monitor, "REPORT_S", 600.0)
    tree = people_and_pets(target, tmp_path)
    do(target, "INSERT INTO pets SELECT n, 'p' || n FROM generate_series(1, 500) n")
    return wanted(tree, PEOPLE_NAME, PETS_NAME)


def as_they_are_opened(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Something happens once, before the first of them is opened."""
    original, acts = index_schedule._SideBySide._open, [act]

    def opened(self: Any, count: int) -> None:
        if acts:
            acts.pop()()
        original(self, count)

    monkeypatch.setattr(index_schedule._SideBySide, "_open", opened)


class Once:
    """Whether what is sent holds a text, once, from the moment on that it is armed."""

    def __init__(self, text: str) -> None:
        self.text, self.armed = text.encode(), False

    def arm(self) -> None:
        self.armed = True

    def __call__(self, data: bytes) -> bool:
        found = self.armed and self.text in data
        self.armed = self.armed and not found
        return found


def through(target: Any, network: Network) -> Any:
    return target.with_(port=str(network.port))


def built(target: Any) -> None:
    found = rows(
        target,
        "SELECT indexrelid::regclass::text AS name, indisvalid AS valid FROM pg_index "
        "WHERE NOT indisprimary AND indrelid IN ('people'::regclass, 'pets'::regclass) ORDER BY 1",
    )
    assert found == [{"name": name, "valid": True} for name in ("people_name", "pets_name")]
    assert state(target, V1)["state"] == "applied"


def dead_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_server_that_is_away_as_they_are_opened_is_waited_for(
    server: Server, target: Any, migrations: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    with Network(server.host, server.port) as network:

        def go_away() -> None:
            network.lead_to("127.0.0.1", dead_port())
            network.reset()
            threading.Timer(0.5, network.lead_to, args=(server.host, server.port)).start()

        as_they_are_opened(monkeypatch, go_away)
        result = migrate.apply(through(target, network), migrations, Selection(), way(progress=told, reconnect_s=30.0))
    (lost,) = result["reconnected"]
    assert (lost["version"], lost["step"]) == (V1, 1)
    assert lost["waited_s"] > 0.4
    # Our own was lost with it: nothing is built without the lock.
    assert not told.said("once more")
    built(target)


@pytest.mark.parametrize("statement", ["SET synchronous_commit", "SET ROLE"])
def test_one_that_is_cut_as_it_is_opened_is_opened_once_more(
    server: Server,
    target: Any,
    migrations: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
) -> None:
    told, cut = Told(), Once(statement)
    as_they_are_opened(monkeypatch, cut.arm)
    with Network(server.host, server.port, lose_answer=cut) as network:
        result = migrate.apply(through(target, network), migrations, Selection(), way(progress=told, reconnect_s=30.0))
    assert told.said("a session was lost while it was opened to build an index: once more")
    assert result["reconnected"] == []
    built(target)


@pytest.mark.parametrize("statement", ["SET synchronous_commit", "SET ROLE"])
def test_where_every_session_is_cut_as_they_are_opened_the_run_goes_on_in_another(
    server: Server,
    target: Any,
    migrations: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
) -> None:
    cut = Once(statement)
    as_they_are_opened(monkeypatch, cut.arm)
    watch = lambda network, data: network.reset() if cut(data) else None
    with Network(server.host, server.port, watch) as network:
        result = migrate.apply(through(target, network), migrations, Selection(), way(reconnect_s=30.0))
    assert [lost["step"] for lost in result["reconnected"]] == [1]
    built(target)


def test_without_a_budget_a_lost_connection_is_told_as_one(
    server: Server, target: Any, migrations: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Once("SET ROLE")
    as_they_are_opened(monkeypatch, cut.arm)
    watch = lambda network, data: network.reset() if cut(data) else None
    with Network(server.host, server.port, watch) as network, pytest.raises(PgopsError) as caught:
        migrate.apply(through(target, network), migrations, Selection(), way())
    assert "broke off: the connection to" in caught.value.message
    assert "it goes on at that step" in (caught.value.hint or "")
    assert caught.value.extra["reason"] == "connection_lost"
    migrate.apply(target, migrations, Selection(), way("20260101T000000Z-000002"))
    built(target)


def test_one_that_is_cut_as_it_looks_for_clients_is_followed_by_another(
    server: Server, target: Any, migrations: list[dict[str, Any]]
) -> None:
    told, cut = Told(), Once("state_change > clock_timestamp()")
    cut.arm()
    with Network(server.host, server.port, lose_answer=cut) as network:
        result = migrate.apply(through(target, network), migrations, Selection(), way(progress=told, reconnect_s=30.0))
    assert told.said(" was lost: another one looks what became of it")
    assert result["reconnected"] == []
    built(target)


@pytest.mark.slow
def test_a_network_that_is_cut_without_a_word_as_they_are_opened_is_given_up_for_another(
    server: Server, target: Any, migrations: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Network(server.host, server.port) as network:
        as_they_are_opened(monkeypatch, network.freeze)
        told = When("connection lost at", network.thaw)
        began = time.monotonic()
        result = migrate.apply(
            through(target, network).with_(connect_timeout=2),
            migrations,
            Selection(),
            way(progress=told, reconnect_s=30.0),
        )
    assert time.monotonic() - began < 25
    assert len(result["reconnected"]) == 1
    built(target)
