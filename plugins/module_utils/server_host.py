# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Is the server a process of this host, and what can be seen of the host then. No privilege is needed for any of it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one

_SESSION = """
SELECT pg_catalog.pg_backend_pid() AS pid, session_user::text AS "user", current_database()::text AS database,
       (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory') AS data_directory
"""


class ServerHost:
    """The host that the module runs on, where the server is a process of it too.

    :ivar folders: where the data directory may be looked at, the best first; the path itself is hidden from most roles.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self.folders = list(folders)

    def free_bytes(self, tablespace: str) -> int | None:
        """:param tablespace: its folder, empty for the data directory.
        :return: bytes that a process without privileges may still write there, None where it cannot be seen."""
        for folder in [tablespace] if tablespace else self.folders:
            try:
                found = os.statvfs(folder)
            except OSError:
                continue
            return found.f_bavail * found.f_frsize
        return None

    def available_memory_bytes(self) -> int | None:
        """:return: what the kernel holds to be available without swapping (``MemAvailable``), None where it does not tell."""
        try:
            with open("/proc/meminfo", encoding="ascii") as stream:
                found = re.search(r"^MemAvailable:\s+(\d+) kB", stream.read(), re.MULTILINE)
        except OSError:
            return None
        return int(found.group(1)) * 1024 if found else None


def of(conn: Connection) -> ServerHost | None:
    """:return: this host, None where the server runs elsewhere, or in a container, or it cannot be told."""
    session = fetch_one(conn, _SESSION)
    assert session is not None
    process = f"/proc/{session['pid']}"
    try:
        with open(f"{process}/cmdline", "rb") as stream:
            title = stream.read().decode(errors="replace")
    except OSError:
        return None
    # The number alone is no proof: a container or another host counts its processes anew.
    if "postgres" not in title or f" {session['user']} {session['database']} " not in title:
        return None
    # A session's working directory is the data directory; to look there takes the same user or root.
    return ServerHost([f"{process}/cwd", *([session["data_directory"]] if session["data_directory"] else [])])
