# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fresh statistics for tables inside a step of a version."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import statistics
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import errorcodes


def analyze_tables(context: StepContext, tables: Sequence[tuple[str, str]]) -> None:
    """Analyze each table, and prove it, telling how far it is. Takes SHARE UPDATE EXCLUSIVE on one table at a time.

    :param tables: (schema, table).
    :raises PgopsError: see :func:`statistics.analyze`.
    :raises Interrupted: asked to end; the table in hand keeps its statistics of before.
    """
    pid = context.conn.info.backend_pid

    def before(name: str) -> None:
        context.control.check()
        context.tell(f"analyzing {name}")
        context.monitor.started(pid, f"analyzing {name}", context.tell)

    try:
        with context.stoppable(context.conn):
            statistics.analyze(
                context.conn,
                tables,
                doing=context.doing,
                before=before,
                after=lambda name: context.monitor.ended(pid),
                unproved=context.note,
            )
    except (psycopg2.Error, PgopsError) as exc:
        if errorcodes.QUERY_CANCELED in (getattr(exc, "pgcode", None), getattr(exc, "sqlstate", None)):
            context.control.check()
        raise
