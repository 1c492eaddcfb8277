# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What psql has around SQL: its own commands, its variables, rows of COPY, branches and other connections."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_COPIED_ROWS = re.compile(
    r"^(\s*copy\b[^;]*\bfrom\s+stdin\b[^;]*;)(.*?)^\\\.[ \t]*$", re.IGNORECASE | re.MULTILINE | re.DOTALL
)
_META_COMMAND = re.compile(r"^[ \t]*\\([a-z!?]+)[^\n]*$", re.IGNORECASE | re.MULTILINE)
_INCLUDE = re.compile(r"^[ \t]*\\(?:ir?|include(?:_relative)?)[ \t]+([^\s;]+)", re.MULTILINE)
_GEXEC = re.compile(r"\\(?:gexec|gset|gx?|crosstabview)\b[^\n;]*;?", re.IGNORECASE)
_VARIABLE = re.compile(r"(?<![:\w]):(?:'(\w+)'|\"(\w+)\"|(\w+))")
# Behind these stands the name of something.
_BEFORE_A_NAME = re.compile(
    r"\b(?:table|from|update|into|join|only|exists|index|on|schema|concurrently|view|function|role|user|owner\s+to)\s*$",
    re.IGNORECASE,
)
_BRANCHES = ("if", "elif", "else", "endif")


@dataclass
class Cleaned:
    """A text without what is psql's, each place where it was."""

    # With a parameter, $1, for each variable that stands for a value.
    text: str
    # With a name for each variable, where that is what can be read.
    named: str
    # The places of each \\gexec.
    results: set[int] = field(default_factory=set)
    # The places of each \\connect.
    connects: list[int] = field(default_factory=list)
    # The places of \\if, \\elif, \\else and \\endif.
    branches: list[tuple[int, str]] = field(default_factory=list)


def included(text: str) -> list[tuple[int, str]]:
    """:return: the files that are run by ``\\i``, with the place of the name."""
    return [(match.start(1), match.group(1)) for match in _INCLUDE.finditer(text)]


def blank(match: re.Match[str]) -> str:
    """:return: spaces in the place of a match, its lines kept."""
    return re.sub(r"[^\n]", " ", match.group(0))


def clean(text: str) -> Cleaned:
    """:return: the text without psql's own commands and variables, and what they mean for the statements."""
    found = Cleaned(text, text)

    def command(match: re.Match[str]) -> str:
        if match.group(0).lower().startswith("\\gexec"):
            found.results.add(match.start())
        return ";" + " " * (len(match.group(0)) - 1)

    def meta(match: re.Match[str]) -> str:
        word = match.group(1).lower()
        if word in ("c", "connect"):
            found.connects.append(match.start())
        elif word in _BRANCHES:
            found.branches.append((match.start(), word))
        return blank(match)

    def name(match: re.Match[str]) -> str:
        quoted, identifier, plain = match.groups()
        if quoted:
            return f" '{quoted}'"
        return f' "{identifier}"' if identifier else f" {plain}"

    def value(match: re.Match[str]) -> str:
        before, after = match.string[: match.start()], match.string[match.end() : match.end() + 1]
        if match.group(3) is None or after == "." or before.endswith(".") or _BEFORE_A_NAME.search(before[-40:]):
            return name(match)
        return "$1".ljust(len(match.group(0)))

    text = _COPIED_ROWS.sub(lambda m: m.group(1) + re.sub(r"[^\n]", " ", m.group(0)[len(m.group(1)) :]), text)
    text = _GEXEC.sub(command, text)
    text = _META_COMMAND.sub(meta, text)
    # Sent together with what follows, but statements of their own.
    text = text.replace("\\;", " ;")
    found.text, found.named = _VARIABLE.sub(value, text), _VARIABLE.sub(name, text)
    return found


def arms(branches: list[tuple[int, str]], place: int) -> tuple[tuple[int, int], ...]:
    """:param branches: as ``Cleaned`` has them.
    :return: the arms around a place, from the outermost: the place of each ``\\if``, and which of its arms it is, from 0."""
    around: list[tuple[int, int]] = []
    for start, word in branches:
        if start > place:
            break
        if word == "if":
            around.append((start, 0))
        elif around and word == "endif":
            around.pop()
        elif around:
            around[-1] = (around[-1][0], around[-1][1] + 1)
    return tuple(around)
