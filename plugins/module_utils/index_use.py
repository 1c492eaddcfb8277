# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How often indexes have been scanned, by the statistics of the server that is asked: each standby counts on its own."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect, fetch_all

_SCANS = """
SELECT schemaname || '.' || indexrelname AS name, idx_scan AS scans FROM pg_catalog.pg_stat_user_indexes
 WHERE schemaname || '.' || indexrelname = ANY (%s)
"""


def scans(target: Target, names: Collection[str]) -> dict[str, int]:
    """:param names: indexes as ``schema.name``.
    :return: their scans since the statistics began; one that is not there is left out. No lock on tables."""
    if not names:
        return {}
    with closing(connect(target, application_name="pgops health")) as conn:
        return {str(row["name"]): int(row["scans"]) for row in fetch_all(conn, _SCANS, (list(names),))}
