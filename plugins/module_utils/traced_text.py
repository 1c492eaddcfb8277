# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the text of a statement tells of its part in a trace; what the statement does, nobody asks its text."""

from __future__ import annotations

import re

from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import without_strings, without_values

WIDTH = 200

# What the engine sends around the statements of a step. Locks that it takes ahead belong to the statement that follows.
_AROUND = re.compile(
    r"\s*((BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|SET|RESET|LOCK|PREPARE|DEALLOCATE|DISCARD)\b"
    r"|SELECT\s+(pg_catalog\.)?(set_config|pg_(try_)?advisory\w*)\s*\("
    r"|(INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+pgops\.)",
    re.IGNORECASE,
)
_READS = re.compile(r"\s*(SELECT|WITH|TABLE|VALUES|SHOW|EXPLAIN)\b", re.IGNORECASE)
_COMMITS = re.compile(r"(^|;\s*)COMMIT\s*$", re.IGNORECASE)
_DO = re.compile(r"\s*DO\s+(LANGUAGE\s+\w+\s+)?\$(?P<tag>\w*)\$(?P<body>.*)\$(?P=tag)\$", re.IGNORECASE | re.DOTALL)


def commits(text: str) -> bool:
    """:return: whether its last statement is COMMIT."""
    return _COMMITS.search(text) is not None


def begins(text: str, word: str) -> bool:
    """:return: whether it begins with a word."""
    return text.lstrip()[: len(word)].upper() == word


def is_around(text: str) -> bool:
    """:return: whether it is the engine's own: transactions, settings, locks that are taken ahead, the ledger."""
    return _AROUND.match(text) is not None


def only_reads(text: str) -> bool:
    """:return: whether it is a query; one that calls a function may do anything."""
    return _READS.match(text) is not None


def shown(text: str) -> str:
    """:return: the start of a statement on one line, without any constant of a row; of a DO block what is in it."""
    body = _DO.match(text)
    told = f"DO {body['body']}" if body else text
    # Cut last: the beginning of a constant would not be known for one.
    told = without_strings(without_values(told, len(told) + 1))
    return told if len(told) <= WIDTH else told[: WIDTH - 1] + "…"
