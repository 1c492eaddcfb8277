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
# A name with its schema, and before that with its database.
QUALIFIED = rf"{NAME}(?:\s*\.\s*{NAME}){{0,2}}"
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


def schema_and_name(name: str) -> tuple[str, str]:
    """:return: of a name as it is written; without a schema it is in public."""
    parts = name_parts(name)
    return (parts[-2] if len(parts) > 1 else "public", parts[-1])


def without_parentheses(text: str) -> str:
    """:return: a text without what stands in parentheses, however deep: where its commas part what is listed."""
    before = None
    while text != before:
        before, text = text, re.sub(r"\([^()]*\)", " ", text)
    return text


def without_literals(statement: str) -> str:
    """:return: a statement without its comments, its strings between quotes and its quoted names: where key words can stand."""
    return _SILENT.sub(lambda found: found["kept"] or " ", statement)
