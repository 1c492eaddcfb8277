# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of modules that change a database in use, documented once."""

from __future__ import annotations


class ModuleDocFragment:
    """What a call may take of the server and its clients."""

    DOCUMENTATION = r"""
options:
  index_workers:
    description:
      - On how many tables indexes are built side by side. Never two on one table.
    type: int
    default: 2
  index_workers_busy:
    description:
      - The same while clients work - two sessions of others or more with a statement in the last second, or that may not be seen. It is
        looked at before each index.
    type: int
    default: 1
  index_memory_mb:
    description:
      - C(maintenance_work_mem) of all index builds that run at one time, in MB. Where it is not given, 512 (but no more than a quarter of
        what the server's host has available, where the module runs on it) or what the server gives one build, whichever is more.
    type: int
  index_disk_mb:
    description:
      - What index builds may take of the server's disk, in MB. For a server whose free space the module cannot see - without it that is
        known only where the module runs on the server's host. Where both are known, the smaller one counts.
    type: int
  index_timeout:
    description:
      - How long one index build, or the drop of an index, may take, in seconds, in the place of the C(index_timeout_s) that the versions
        declare.
    type: int
  throttle:
    description:
      - How much of what makes batches of a backfill pause or slow down; what is not given stays as it is, and 0 switches one off.
      - C(replica_lag_s) 10 seconds that a standby has not replayed, C(lock_wait_s) 1 second that somebody waits for a lock,
        C(active_sessions) 50 others that run a statement, C(requested_checkpoints) 1 before its time in a second, C(wal_mb_s) MB of WAL
        a second, off. C(except_standbys) lists standbys by C(application_name) that lag on purpose.
    type: dict
    default: {}
  terminate_idle_after:
    description:
      - End a session that idles in a transaction for so many seconds and holds a lock that a version needs. Nobody is ended without it,
        and never anybody who works, a backup of this collection or C(pg_dump).
      - Each session that is ended has a row of its own in the audit (C(blocker_terminated)). Needs membership in its role, or
        C(pg_signal_backend).
    type: float
"""
