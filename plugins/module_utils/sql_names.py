# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names as a statement writes them, read where there is no parser of SQL.

The form: https://www.postgresql.org/docs/18/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS
"""

from __future__ import annotations

import re

# A regular expression without groups, for one part of a name.
NAME = r'(?:"(?:[^"]|"")+"|[A-Za-z_\u0080-\uffff][\w$]*)'
# The body of a function or of a DO block is kept: what it says is said to the server.
_SILENT = re.compile(
    r"--[^\n]*|/\*.*?\*/|\b[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
    r"|(?P<kept>\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)",
    re.DOTALL,
)


def folded(name: str) -> str:
    """:return: one part of a name as the catalog has it: without quotes, and in small letters where it had none."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def name_parts(name: str) -> list[str]:
    """:return: the parts of a qualified name, each as the catalog has it."""
    return [folded(part) for part in re.findall(NAME, name)]


def without_literals(statement: str) -> str:
    """:return: a statement without its comments, its strings between quotes and its quoted names: where key words can stand."""
    return _SILENT.sub(lambda found: found["kept"] or " ", statement)
