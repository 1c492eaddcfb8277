# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How long a backup will take, by those that were made of the same database."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store

# Of the newest; hardware and settings change.
TAKEN = 5
# Where none was made yet: a slow disk, or a slow network.
FIRST_BYTES_S = 10_000_000


def seconds(directory: str, database: str, size: int, *, rate_limit_mb: float = 0) -> float:
    """:param directory: where the backups lie on this host.
    :param size: of the database, in bytes.
    :param rate_limit_mb: MB a second of its tables that are read at most, 0 for any number.
    :return: seconds, by the slowest of the newest ones."""
    rates = [_rate(backup.manifest) for backup in backup_store.backups_of(directory, database)[:TAKEN]]
    known = [rate for rate in rates if rate]
    found = size * max(known) if known else size / FIRST_BYTES_S
    return max(found, size / (rate_limit_mb * 1_000_000)) if rate_limit_mb > 0 else found


def _rate(manifest: dict[str, Any]) -> float:
    """:return: seconds for a byte of the database; 0 where the manifest does not tell."""
    try:
        return float(manifest["seconds"]) / float(manifest["database_bytes"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 0.0
