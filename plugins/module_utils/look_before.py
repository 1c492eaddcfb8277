# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Looks before a change: none waits for ever behind a lock, and one at rows takes no longer than an index build may."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import CLOCKS, DEFAULT_BUDGETS
from psycopg2 import errorcodes

# A look does not wait for ever behind a rewrite or a TRUNCATE that nobody ends.
LOCK_TIMEOUT_S = 10


@contextmanager
def patient(conn: Connection, what: str) -> Iterator[None]:
    """:param what: what cannot be told then, as the start of a sentence.
    :raises PgopsError: somebody held a lock for too long."""
    database = str(conn.info.dbname)
    try:
        execute(conn, f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'")
        yield
    except psycopg2.errors.LockNotAvailable as exc:
        raise PgopsError(
            f"{what} in {database} could not be told: a table has been locked by somebody else for more than "
            f"{LOCK_TIMEOUT_S} s, and the catalog cannot be read past that lock.",
            sqlstate=exc.pgcode,
            database=database,
            hint="SELECT pid, relation::regclass FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation IS NOT NULL; "
            "tells who; end or wait for that session, then run it again.",
            extra={"reason": "lock_wait"},
        ) from None


@contextmanager
def bounded(conn: Connection, migration: Mapping[str, Any], what: str) -> Iterator[None]:
    """:param migration: the version; ``index_timeout_s`` of its budgets is the limit of each statement.
    :param what: what cannot be told then, as the start of a sentence.
    :raises PgopsError: the look failed, or hit the limit.
    """
    given = (migration.get("budgets") or {}).get("index_timeout_s")
    seconds = int(DEFAULT_BUDGETS["index_timeout_s"] if given is None else given)
    since = time.monotonic()
    try:
        with transaction(conn, f"SET LOCAL statement_timeout = '{seconds}s'"):
            yield
    except psycopg2.Error as exc:
        if exc.pgcode is None:
            raise
        error = from_psycopg(exc, f"{what} could not be told", database=str(conn.info.dbname))
        if exc.pgcode == errorcodes.QUERY_CANCELED and time.monotonic() - since >= CLOCKS * seconds:
            error.message = f"{what} could not be told in the time limit of {seconds} s (SQLSTATE {exc.pgcode}); nothing of this version was reverted"
            error.args = (error.message,)
            error.hint = (
                "Run it again in a quiet period, or with a larger limit: -e migrate_index_timeout=SECONDS; or go back to a backup: "
                "-e rollback_strategy=restore."
            )
        raise error from None
