# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run may take of the server and its clients, up or down, from the options of its module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.index_builds import IndexBuilds
from ansible_collections.whitecross.pgops.plugins.module_utils.throttle import Limits


def of(given: Mapping[str, Any]) -> dict[str, Any]:
    """:param given: the options of the fragment ``limits``, by their names.
    :return: the fields of :class:`migrate.Way` that they fill, one and the same for every database of the call.
    :raises PgopsError: a value that cannot be meant; names the variable that gave it."""
    after_s = given["terminate_idle_after"]
    if after_s is not None and not after_s > 0:
        raise PgopsError("migrate_terminate_idle_after must be more than 0 seconds; leave it out to end nobody.")
    return {
        "builds": IndexBuilds(
            given["index_workers"],
            given["index_memory_mb"],
            given["index_disk_mb"],
            given["index_timeout"],
            given["index_workers_busy"],
        ),
        "throttle": Limits.of(given["throttle"]),
        "terminate_idle_after_s": after_s,
    }
