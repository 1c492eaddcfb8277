# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How often indexes have been scanned, by the statistics of the server that is asked: each standby counts on its own."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect, fetch_all

_SCANS = """
SELECT s.schemaname || '.' || s.indexrelname AS name, s.idx_scan AS scans FROM pg_catalog.pg_stat_user_indexes s
 WHERE s.schemaname || '.' || s.indexrelname = ANY (%s)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = s.indexrelid AND k.contype IN ('p', 'u', 'x'))
"""


def scans(target: Target, names: Collection[str]) -> dict[str, int]:
    """:param names: indexes as ``schema.name``.
    :return: their scans since the statistics began. One that is not there is left out, and so is the index of a constraint: each
        write of its table uses it. No lock on tables."""
    if not names:
        return {}
    with closing(connect(target, application_name="pgops health")) as conn:
        return {str(row["name"]): int(row["scans"]) for row in fetch_all(conn, _SCANS, (list(names),))}
