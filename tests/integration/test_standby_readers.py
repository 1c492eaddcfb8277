# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readers on a hot standby stay in the replaced database; who swaps is told of them before and after, with what ends them."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from ansible_collections.whitecross.pgops.plugins.action.swap import ActionModule
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    restore,
    restore_database,
    restore_plan,
    standby_readers,
    strategies,
    swap,
)
from support.backups import RUN, believed, fill, stage
from support.engine import target_of, wait_for
from support.server import SUPERUSER, Server
from support.standby import standby_of

DATABASE = "clinic"


def answer(conn: Any, query: str) -> Any:
    with conn.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def told(server: Server) -> list[str]:
    with closing(server.connect("postgres")) as conn:
        return standby_readers.look(conn, DATABASE)


def said(found: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    action = ActionModule.__new__(ActionModule)
    monkeypatch.setattr(action, "say", lines.append)
    monkeypatch.setattr(action, "run_fact", lambda task_vars: {})
    monkeypatch.setattr(action, "way_back", lambda *given: "rollback.yml")
    action.after({"databases": {DATABASE: found}}, {})
    return lines


def test_readers_on_a_standby_are_named_before_and_after_with_what_ends_them(
    own_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_server.create_database(DATABASE)
    fill(own_server, DATABASE, 5)
    target = target_of(own_server, DATABASE)
    backup = believed(target, tmp_path)
    assert told(own_server) == []
    with standby_of(own_server) as standby:
        # The restore waits for nobody.
        own_server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        own_server.execute("SELECT pg_reload_conf()")
        staged = stage(target, backup)
        with closing(standby.connect(DATABASE)) as reader:
            answer(reader, "SELECT count(*) FROM students")
            weighed = strategies.weigh(
                target, strategies.Asked("restore"), directory=str(tmp_path), work=restore.Work(RUN)
            )
            (before,) = weighed["cannot_move"]
            assert before.startswith("sessions on standby walreceiver")
            asked = restore_plan.Asked(backup.path, replace=True)
            assert restore_database.preview(target, asked, restore.Work(RUN))["standbys"] == [before]
            done = swap.Swap(target, staged, run_id=RUN).run()
            assert done["standbys"] == [before]
            assert f"{DATABASE}: {before}" in said(done, monkeypatch)
            wait_for(
                lambda: answer(reader, "SELECT current_database()") == done["aside"], what="the rename on the standby"
            )
            statement = re.search(r"SELECT .*;$", before)
            assert statement
            with closing(standby.connect("postgres")) as conn:
                assert answer(conn, statement[0]) is True
            with pytest.raises(psycopg2.OperationalError):
                answer(reader, "SELECT 1")
        with closing(standby.connect(DATABASE)) as reader:
            assert answer(reader, "SELECT current_database()") == DATABASE


def test_who_only_receives_wal_or_replicates_rows_is_no_standby(own_server: Server) -> None:
    own_server.create_database(DATABASE)
    own_server.execute("SELECT pg_create_logical_replication_slot('rows', 'test_decoding')", database=DATABASE)
    given = {
        "host": own_server.host, "port": own_server.port, "dbname": DATABASE, "user": SUPERUSER,
        "passfile": str(own_server.passfile),
    }  # fmt: skip
    rows = psycopg2.connect(connection_factory=psycopg2.extras.LogicalReplicationConnection, **given)
    wal = psycopg2.connect(
        connection_factory=psycopg2.extras.PhysicalReplicationConnection, application_name="pg_receivewal", **given
    )
    with closing(rows), closing(wal):
        rows.cursor().start_replication(slot_name="rows", decode=True)
        wal.cursor().start_replication()
        wait_for(lambda: own_server.execute("SELECT 1 FROM pg_stat_replication HAVING count(*) = 2"), what="both")
        assert told(own_server) == []
