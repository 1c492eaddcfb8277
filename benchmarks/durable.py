# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A server that keeps what it commits, as one in production does: that of the tests goes without."""

from __future__ import annotations

import time

from support.server import Server

SETTINGS = {"fsync": "on", "full_page_writes": "on", "max_wal_size": "4GB"}
# The server hears of the new settings by a signal.
HEARD_S = 10.0


def make_durable(server: Server, **more: str) -> None:
    """Set it, with ``more`` settings that need no restart, and see that it holds: a setting of the command line stays.

    :raises RuntimeError: what is measured on it would not be what was promised.
    """
    wanted = {**SETTINGS, **more}
    for name, value in wanted.items():
        server.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    server.execute("SELECT pg_reload_conf()")
    until = time.monotonic() + HEARD_S
    while True:
        found = {name: server.execute(f"SHOW {name}")[0][0] for name in wanted}
        if found == wanted:
            return
        if time.monotonic() > until:
            raise RuntimeError(f"the server has {found}, not {wanted}: what is measured on it says nothing")
        time.sleep(0.05)  # until the signal has come through
