# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A look at rows before a version goes down, which takes no longer than an index build may."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import CLOCKS, DEFAULT_BUDGETS
from psycopg2 import errorcodes


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
