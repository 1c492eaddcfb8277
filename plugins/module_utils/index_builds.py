# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the index builds of a run may take."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

# Two tables side by side take 0.85 of one after the other on two processors (benchmarks/indexes.py); each build has parallel workers of
# its own.
WORKERS = 2
# While clients work: two builds on two processors leave them none, and their slowest transaction took 19 ms instead of 11
# (benchmarks/under_load.py).
WORKERS_BUSY = 1
# For what gains by memory, as GIN does; a B-tree takes less.
MEMORY_MB = 512


@dataclass
class IndexBuilds:
    """The limits of all index builds of a run together, and how much of one of them is used up.

    :ivar workers: how many tables are built on side by side, each in a session of its own, while no clients work.
    :ivar workers_busy: the same while they do.
    :ivar memory_mb: maintenance_work_mem of all builds that run at one time; None is the larger of :data:`MEMORY_MB`
        and what the server gives one build.
    :ivar disk_mb: what they may take of the server's disk, for a server whose disk the module cannot see.
    :ivar timeout_s: seconds for one build, in the place of what the versions declare.
    :ivar took_bytes: what they took of the disk so far.
    """

    workers: int = WORKERS
    memory_mb: int | None = None
    disk_mb: int | None = None
    timeout_s: int | None = None
    workers_busy: int = WORKERS_BUSY
    took_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __post_init__(self) -> None:
        smallest = {"workers": 1, "workers_busy": 1, "memory_mb": 1, "disk_mb": 0, "timeout_s": 1}
        for name, least in smallest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                variable = f"migrate_index_{name.removesuffix('_s')}"
                raise PgopsError(f"{variable} is {value}, and {least} is the least; nothing was changed.")

    def took(self, size: int) -> None:
        """:param size: bytes of an index that was built."""
        with self._lock:
            self.took_bytes += size
