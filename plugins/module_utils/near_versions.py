# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which version somebody may have meant: the one next to it in time, not the one that is spelled most alike."""

from __future__ import annotations

from collections.abc import Iterable

_DIGITS = 14


def nearest(version: str, versions: Iterable[str]) -> str | None:
    """:param version: as it was typed; a date alone is its midnight.
    :return: the nearest by its number; None where there is none, or where what was typed is no number."""
    if not _is_number(version):
        return None
    wanted = int(version[:_DIGITS].ljust(_DIGITS, "0"))
    return min(filter(_is_number, sorted(versions)), key=lambda known: abs(int(known) - wanted), default=None)


def _is_number(version: str) -> bool:
    return version.isascii() and version.isdecimal()
