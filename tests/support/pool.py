# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A PgBouncer of the test's own, in transaction mode unless asked otherwise, in front of a test's server on this host."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2

from support.server import APP, BACKUP, RESTORE, Server, free_port


class Bouncer:
    """A running pool: its port, and where its clients' passwords are."""

    def __init__(self, server: Server, port: int, process: subprocess.Popen[bytes]) -> None:
        self.server, self.port, self.process = server, port, process

    @property
    def settings(self) -> dict[str, Any]:
        """As rollback_pgbouncer takes it."""
        return {"host": "127.0.0.1", "port": self.port, "user": RESTORE}

    def connect(self, database: str, user: str = APP) -> Any:
        conn = psycopg2.connect(
            host="127.0.0.1", port=self.port, dbname=database, user=user, passfile=str(self.server.passfile),
            connect_timeout=10,
        )  # fmt: skip
        conn.autocommit = True
        return conn

    def say(self, command: str) -> list[tuple[Any, ...]]:
        """A command of its console."""
        with closing(self.connect("pgbouncer", RESTORE)) as conn, conn.cursor() as cursor:
            cursor.execute(command)
            return cursor.fetchall() if cursor.description else []

    def paused(self, database: str) -> bool:
        with closing(self.connect("pgbouncer", RESTORE)) as conn, conn.cursor() as cursor:
            cursor.execute("SHOW DATABASES")
            columns = [column.name for column in cursor.description]
            rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
        return any(row["name"] == database and int(row["paused"]) for row in rows)


@contextmanager
def pgbouncer(server: Server, folder: Path, database: str, *, mode: str = "transaction") -> Iterator[Bouncer]:
    """Start one and stop it.

    :param folder: for its files; a user without privileges must reach it.
    :param database: is declared: one that only a wildcard serves is forgotten, and its PAUSE with it, as soon as nobody uses it.
    """
    program = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
    assert program, "pgbouncer is not installed; tests/setup/packages.sh does that"
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    words = dict(
        line.split(":", 3)[3].split(":", 1) for line in server.passfile.read_text(encoding="ascii").splitlines()
    )
    users = folder / "users"
    users.write_text("".join(f'"{role}" "{password}"\n' for role, password in words.items()), encoding="ascii")
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n{database} = host={server.host} port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"auth_type = scram-sha-256\nauth_file = {users}\nadmin_users = {RESTORE}\nstats_users = {BACKUP}\npool_mode = {mode}\nunix_socket_dir =\n"
        "ignore_startup_parameters = extra_float_digits,options\nserver_login_retry = 1\n",
        encoding="ascii",
    )
    uid = 65534 if os.geteuid() == 0 else None
    if uid is not None:
        for path in (folder, users, config):
            os.chown(path, uid, uid)
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", program, "--quiet", str(config)], stdin=subprocess.DEVNULL,
        **({"user": uid, "group": uid, "extra_groups": []} if uid is not None else {}),
    )  # fmt: skip
    bouncer = Bouncer(server, port, process)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                bouncer.say("SHOW VERSION")
                break
            except psycopg2.OperationalError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
        yield bouncer
    finally:
        process.terminate()
        process.wait(timeout=20)
