# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The servers that all other tests stand on are what they claim to be."""

from __future__ import annotations

import subprocess

import psycopg2
import pytest
from support.server import MIGRATOR, OWNER, SUPERUSER, Server


@pytest.mark.majors(15, 16, 17, 18)
def test_a_server_of_each_major_has_clients_of_its_own_build(server: Server, database: str) -> None:
    ((number,),) = server.execute("SHOW server_version_num", database=database)
    assert int(number) // 10000 == server.major
    told = subprocess.run([server.bindir / "pg_dump", "--version"], capture_output=True, text=True, check=True).stdout
    assert f" {server.major}.{int(number) % 10000}" in told


def test_the_migrator_is_no_superuser_and_acts_as_the_owner(server: Server, database: str) -> None:
    rows = server.execute(
        "SELECT rolsuper, pg_has_role(oid, %s, 'SET') FROM pg_roles WHERE rolname = current_user".replace(
            "%s", f"'{OWNER}'"
        ),
        user=MIGRATOR,
        database=database,
    )
    assert rows == [(False, True)]


def test_a_wrong_password_is_refused(server: Server) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(host=server.host, port=server.port, dbname="postgres", user=SUPERUSER, password="wrong")


def test_a_killed_server_comes_back(server: Server, database: str) -> None:
    server.execute("CREATE TABLE kept AS SELECT 1 AS a", database=database)
    server.kill()
    with pytest.raises(psycopg2.OperationalError):
        server.connect()
    server.start()
    assert server.execute("SELECT a FROM kept", database=database) == [(1,)]
