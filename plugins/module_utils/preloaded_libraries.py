# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The libraries of ``shared_preload_libraries``: a list with commas, each name quoted or not, with its folder or without."""

from __future__ import annotations

import re
from collections.abc import Iterable

SETTING = "shared_preload_libraries"
_ENTRY = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,"]+))\s*(?:,|$)')


def names(setting: str) -> list[str]:
    """:return: the libraries as they are named there, in their order, without quotes."""
    found = [
        entry[1].replace('""', '"') if entry[1] is not None else entry[2].strip() for entry in _ENTRY.finditer(setting)
    ]
    return [name for name in found if name]


def bare(name: str) -> str:
    """:return: the library without its folder and its ending."""
    return name.rpartition("/")[2].removesuffix(".so")


def as_setting(libraries: Iterable[str]) -> str:
    """:return: the list as a file or a command line of the server takes it."""
    return ",".join('"' + name.replace('"', '""') + '"' for name in libraries)
