# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The client that keeps book notices what is taken from it."""

from __future__ import annotations

from typing import Any

import pytest
from support.engine import do, rows, wait_for
from support.recording_client import FIRST, RecordingClient


@pytest.fixture
def people(target: Any) -> None:
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY, name text)",
        "INSERT INTO people SELECT n, 'p' || n FROM generate_series(1, 200) n",
    )


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("DELETE FROM client_book WHERE n = 2", "1 committed rows are lost, the first 2 of"),
        ("INSERT INTO client_book VALUES (-5)", "1 rows were refused and are there, the first -5"),
        (f"UPDATE people SET name = 'p' WHERE id = {FIRST + 2}", "'p'"),
    ],
)
def test_what_is_lost_is_told(target: Any, people: None, fault: str, told: str) -> None:
    with RecordingClient(target, "people") as client:
        wait_for(lambda: len(client.confirmed) > 4, what="the client's work")
        client.__exit__()
        do(target, fault)
        with pytest.raises(AssertionError, match=told):
            client.nothing_is_lost()


def test_a_session_that_is_ended_costs_it_nothing(target: Any, people: None, superuser_connection: Any) -> None:
    with RecordingClient(target, "people") as client:
        wait_for(lambda: client.confirmed, what="the client's work")
        with superuser_connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'a client'"
            )
        count = len(client.confirmed)
        wait_for(lambda: len(client.confirmed) > count + 3, what="its going on")
        client.nothing_is_lost()
    assert rows(target, "SELECT to_regclass('client_book') AS book") == [{"book": None}]
