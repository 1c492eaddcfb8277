# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The physical backups of a cluster, as pgBackRest tells of them, with the proofs that were kept; no server is asked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Callable

from ansible_collections.whitecross.pgops.plugins.module_utils import physical_backup, wal_archive
from ansible_collections.whitecross.pgops.plugins.module_utils.pgbackrest import PgBackRest
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import EQUAL

# Nothing pins one, and what expires is pgBackRest's to say (repo1-retention-full): none is pinned or expiring by the policy.
_FILTERS: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "all": lambda listed: True,
    "proved": lambda listed: bool(listed["proved"]),
    "unproved": lambda listed: not listed["proved"],
    "pinned": lambda listed: False,
    "expiring": lambda listed: False,
    "damaged": lambda listed: bool(listed["damaged"]),
}


def listing(
    tool: PgBackRest, directory: str, *, only: str = "all", newest: int | None = None, now: datetime | None = None
) -> dict[str, Any]:
    """List the backups of the stanza in all its repositories, newest first.

    :param directory: where the proofs lie on this host.
    :param only: as :data:`backup_catalogue.FILTERS`.
    :param newest: at most so many.
    :return: stanza, backups (each as :func:`physical_backup.told`, with ``repository``, ``age_s``, ``damaged``, ``level``, ``proved`` and
        ``proved_at``), total, ``proved`` and ``damaged``: how many of all are.
    :raises PgopsError: pgBackRest does not answer, or knows no such stanza.
    """
    moment = now or datetime.now(timezone.utc)
    info = tool.info()
    clusters = {str(entry["system-id"]) for entry in info.get("db") or []}
    rows = []
    for backup in reversed(wal_archive.backups(info)):
        proof = physical_backup.read_proof(directory, tool.stanza, backup.label) or {}
        # Hosts may share the folder, and two clusters begin backups in one second.
        of_another = proof.get("system_identifier") and str(proof["system_identifier"]) not in clusters
        level = proof.get("level")
        if of_another or not isinstance(level, int):
            level = 0
        rows.append(
            {
                **physical_backup.told(backup),
                "repository": backup.repository,
                "age_s": round((moment - backup.stop).total_seconds()),
                "damaged": backup.damaged,
                "level": level,
                "proved": level >= EQUAL,
                "proved_at": proof.get("proved_at") if level else None,
            }
        )
    shown = [listed for listed in rows if _FILTERS[only](listed)]
    return {
        "stanza": tool.stanza,
        "backups": shown[:newest] if newest else shown,
        "total": len(rows),
        "proved": sum(listed["proved"] for listed in rows),
        "damaged": sum(listed["damaged"] for listed in rows),
    }
