# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits of time that a server or a role sets for sessions end none of ours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import audit_verifier, backup_store, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from psycopg2 import sql
from support.backups import back_up, fill, names, prove, stage
from support.server import APP, BACKUP, MIGRATOR, OWNER, RESTORE

LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout")
LIMITS_17 = (*LIMITS, "transaction_timeout")

# While the first is filled, one process of pg_restore and the session that drops what fails have nothing to do; then both
# processes have.
SLOW_TO_RESTORE = f"""
SET ROLE {OWNER};
CREATE MATERIALIZED VIEW first AS SELECT 1 AS n FROM pg_sleep(2);
CREATE MATERIALIZED VIEW second AS SELECT n FROM first;
CREATE MATERIALIZED VIEW third AS SELECT n FROM first;
"""


@contextmanager
def limited(server: Any, role: str, limits: dict[str, str]) -> Iterator[None]:
    """A role whose sessions the server ends after these times."""
    for name, value in limits.items():
        server.execute(
            sql.SQL("ALTER ROLE {} SET {} = {}").format(sql.Identifier(role), sql.Identifier(name), sql.Literal(value))
        )
    try:
        yield
    finally:
        for name in limits:
            server.execute(sql.SQL("ALTER ROLE {} RESET {}").format(sql.Identifier(role), sql.Identifier(name)))


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_no_session_of_ours_has_a_limit_of_its_role(server: Any, target: Any) -> None:
    with connect(target, application_name="test") as conn:
        known = [name for name in LIMITS_17 if name in LIMITS or conn.server_version >= 170000]
    with limited(server, MIGRATOR, dict.fromkeys(known, "1h")):
        conn = connect(target, application_name="test")
        found = fetch_all(conn, "SELECT name, setting FROM pg_settings WHERE name = ANY (%s)", (list(LIMITS_17),))
        conn.close()
    assert {row["name"]: row["setting"] for row in found} == dict.fromkeys(known, "0")


def test_a_proof_and_a_staged_restore_outlast_the_limit_of_idle_sessions(
    server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    fill(server, database, 50)
    server.execute(SLOW_TO_RESTORE, database=database)
    backup = back_up(target, tmp_path)
    with limited(server, RESTORE, {"idle_session_timeout": "1s"}):
        assert prove(target, backup)["level"] == 4
        staged = stage(target, backup_store.read_backup(backup.path))
    assert names(server, database) == [database, staged]
    assert server.execute("SELECT n FROM third", database=staged) == [(1,)]


class Slow(Control):
    """Takes longer than the limit where it is asked for the first time: right after the snapshot was taken."""

    waited = False

    def check(self) -> None:
        if not self.waited:
            self.waited = True
            time.sleep(1.5)
        super().check()


def test_a_backup_outlasts_the_limit_of_transactions(server: Any, target: Any, database: str, tmp_path: Path) -> None:
    fill(server, database, 50)
    control = Slow()
    with limited(server, BACKUP, {"transaction_timeout": "1s"}):
        back_up(target, tmp_path, control=control)
    assert control.waited


def test_who_checks_the_audit_outlasts_the_limits_of_its_role(server: Any, target: Any, database: str) -> None:
    with connect(target, application_name="test") as conn:
        ledger.ensure(conn)
    server.execute(
        f"GRANT USAGE ON SCHEMA pgops TO {APP}; GRANT SELECT ON pgops.audit TO {APP}; "
        f"ALTER ROLE {APP} IN DATABASE {database} SET idle_in_transaction_session_timeout = '1s'",
        database=database,
    )
    dsn = f"host={server.host} port={server.port} dbname={database} user={APP} passfile={server.passfile}"
    with audit_verifier.from_database(dsn) as (head, rows):
        time.sleep(1.5)
        assert (head["database"], list(rows)) == (database, [])
