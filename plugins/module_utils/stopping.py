# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ask the run that holds a database's lock to end at its next safe point."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, locks
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

# The run that is to end lets go of its lock and tells nobody; a person waits for the answer.
POLL_S = 0.2
# Playbooks that only look, and whoever asks a run to stop: nobody has to end them. A name is "pgops RUN PURPOSE".
_LOOKS = ("databases", "inspect", "lint", "status", "stop")


def stop(
    target: Target,
    *,
    by: str,
    wait_s: float = 120.0,
    check_mode: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Mark the run and wait, bounded, until the lock is free. Takes no lock itself.

    :param by: who asks; the stopped run records it.
    :param wait_s: seconds to wait.
    :return: ``was_running``, ``stopped``, ``holder``, ``waited_s``, and ``sessions``: runs that are connected where none
        holds the lock.
    :raises PgopsError: the holder is no run that could be asked, or it has not ended in time.
    """
    conn = connect(target, application_name="pgops stop")
    try:
        holder = locks.holder(conn)
        if holder is None or check_mode:
            return {
                "was_running": holder is not None,
                "stopped": False,
                "holder": holder.as_dict() if holder else None,
                "sessions": _sessions_without_lock(target) if holder is None else [],
                "waited_s": 0.0,
            }
        started = clock()
        asked = False
        while True:
            # A run that has just begun takes the lock first and writes its row then.
            if not asked and holder.run_id and ledger.read(conn).exists:
                asked = ledger.ask_to_stop(conn, holder.run_id, by)
            now = locks.holder(conn)
            waited = round(clock() - started, 3)
            if now is None or now.run_id != holder.run_id:
                return {"was_running": True, "stopped": True, "holder": holder.as_dict(), "waited_s": waited}
            if waited >= wait_s:
                break
            sleep(POLL_S)
        told = (
            "it was asked, and ends after the statement in hand"
            if asked
            else f"it could not be asked; end its session with SELECT pg_terminate_backend({holder.session.pid})"
        )
        raise PgopsError(
            f"{holder.sentence()} still works on {target.database} after {wait_s:g} s: {told}.",
            database=target.database,
            extra={"reason": "running", "holder": holder.as_dict()},
        )
    finally:
        conn.close()


def _sessions_without_lock(target: Target) -> list[str]:
    """The ids of runs that have a session of any of the collection's roles; a role sees the names of its own sessions only."""
    found: set[str] = set()
    for role in (target, target.as_backup(), target.as_restore()):
        try:
            conn = connect(role, application_name="pgops stop")
        except PgopsError:
            continue
        try:
            rows = fetch_all(
                conn,
                "SELECT application_name AS name FROM pg_catalog.pg_stat_activity WHERE datname = %s",
                (target.database,),
            )
        finally:
            conn.close()
        names = [str(row["name"]) for row in rows]
        found.update(run_id for name in names if (run_id := locks.run_id_of(name)) and name.split()[-1] not in _LOOKS)
    return sorted(found)
