# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The placeholders of Flyway and Liquibase, ``${schema}``, which the tool replaces before it sends a statement.

What is put in their place is as long as they are, so that each place in the text stays where it was.
"""

from __future__ import annotations

import re

# A name in quotes stays as it is; $${...} begins a text in dollar quotes.
_PLACEHOLDER = re.compile(r'"[^"\n]*"|(?<!\$)\$\{[ \t]*([\w.:-]+)[ \t]*\}')
_JOINED = re.compile(r"[\w${}]")


def places(text: str) -> list[tuple[int, int]]:
    """:return: where each placeholder begins and ends."""
    return [match.span() for match in _PLACEHOLDER.finditer(text) if match.group(1)]


def as_names(text: str) -> str:
    """:return: the text with a name for each placeholder, of which its neighbours may be parts: app_${env}."""

    def name(match: re.Match[str]) -> str:
        if match.group(1) is None:
            return match.group(0)
        if _is_joined(match):
            return re.sub(r"\W", "_", match.group(0))
        return f'"{match.group(1)}"'.ljust(len(match.group(0)))

    return _PLACEHOLDER.sub(name, text)


def with_number(text: str, place: tuple[int, int]) -> str:
    """:return: the text with a number in the place of a placeholder, where SQL takes no name: varchar(${length})."""
    begin, end = place
    return text[:begin] + "1".ljust(end - begin) + text[end:]


def _is_joined(match: re.Match[str]) -> bool:
    before, after = match.string[match.start() - 1 : match.start()], match.string[match.end() : match.end() + 1]
    return bool(_JOINED.match(before) or _JOINED.match(after))
