# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The lock modes of tables, and which of them exclude each other."""

from __future__ import annotations

ACCESS_SHARE = "ACCESS SHARE"
ROW_SHARE = "ROW SHARE"
ROW_EXCLUSIVE = "ROW EXCLUSIVE"
SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
SHARE = "SHARE"
SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
EXCLUSIVE = "EXCLUSIVE"
ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"

# From the weakest to the strongest; the number of a mode in the server's own code is its place here, from 1.
MODES = (
    ACCESS_SHARE,
    ROW_SHARE,
    ROW_EXCLUSIVE,
    SHARE_UPDATE_EXCLUSIVE,
    SHARE,
    SHARE_ROW_EXCLUSIVE,
    EXCLUSIVE,
    ACCESS_EXCLUSIVE,
)

# "Conflicting Lock Modes" of the chapter on explicit locking.
_EXCLUDED_FROM = {
    ACCESS_SHARE: 8,
    ROW_SHARE: 7,
    ROW_EXCLUSIVE: 5,
    SHARE_UPDATE_EXCLUSIVE: 4,
    SHARE_ROW_EXCLUSIVE: 3,
    EXCLUSIVE: 2,
    ACCESS_EXCLUSIVE: 1,
}


def conflicts(mode: str) -> tuple[str, ...]:
    """:return: the modes that another session may not hold while we have this one."""
    if mode == SHARE:
        # The one mode that does not exclude itself and yet excludes one that is weaker.
        return (ROW_EXCLUSIVE, SHARE_UPDATE_EXCLUSIVE, *MODES[5:])
    return MODES[_EXCLUDED_FROM[mode] - 1 :]


def strength(mode: str) -> int:
    """:return: the place of a mode, 1 for the weakest."""
    return MODES.index(mode) + 1


def in_pg_locks(mode: str) -> str:
    """:return: the mode as ``pg_locks`` writes it, ``AccessExclusiveLock``."""
    return "".join(word.capitalize() for word in mode.split()) + "Lock"
