# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a swap did with the sequences, as lines that a person reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHOWN = 3


def lines(database: str, found: Mapping[str, Any]) -> list[str]:
    """:param found: ``sequences`` of a swap's result.
    :return: which ones go on from where the replaced database had them, and which do not; nothing where none differed."""
    told = []
    moved = found.get("moved") or []
    if moved:
        some = ", ".join(f"{entry['sequence']} from {entry['from']} to {entry['to']}" for entry in moved[:_SHOWN])
        more = f" and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
        told.append(f"{database}: sequences moved on, so that no number is given out twice: {some}{more}")
    told += [
        f"{database}: {entry['sequence']} was not moved on: {entry['why']}; it may give out a number of the replaced database again"
        for entry in found.get("left") or []
    ]
    if found.get("why"):
        told.append(f"{database}: {found['why']}; they may give out numbers of the replaced database again")
    return told
