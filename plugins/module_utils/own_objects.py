# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether comments and privileges are given only to what the same step makes, read from the text of its statements."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import existing
from ansible_collections.whitecross.pgops.plugins.module_utils.sql_names import NAME, name_parts

_QUALIFIED = rf"{NAME}(?:\s*\.\s*{NAME}){{1,2}}"
_BEFORE = r"^(?:\s|--[^\n]*\n|/\*.*?\*/)*"
# Of a constraint, trigger or policy it is the table that counts.
_COMMENT = re.compile(
    rf"{_BEFORE}COMMENT\s+ON\s+(?P<kind>TABLE|COLUMN|TYPE|VIEW|MATERIALIZED\s+VIEW|SEQUENCE|INDEX"
    rf"|(?:CONSTRAINT|TRIGGER|POLICY|RULE)\s+{NAME}\s+ON)\s+(?P<names>{_QUALIFIED})\s+IS\b",
    re.IGNORECASE | re.DOTALL,
)
_GRANT = re.compile(
    rf"{_BEFORE}(?:GRANT|REVOKE)\b[^;']*?\sON\s+(?:(?:TABLE|SEQUENCE|TYPE)\s+)?"
    rf"(?P<names>{_QUALIFIED}(?:\s*,\s*{_QUALIFIED})*)\s+(?:TO|FROM)\b",
    re.IGNORECASE | re.DOTALL,
)
_MADE_WHOLE = ("table", "view", "type", "sequence", "index")


def only(
    spoken: Sequence[Mapping[str, Any]], statements: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]] | None:
    """:param spoken: those of the statements that may change a comment, a privilege or a function.
    :return: all that the statements make, where ``spoken`` is about nothing else and the catalog can be asked for each of it;
        else None."""
    made = [statement["creates"] for statement in statements if statement.get("creates")]
    if any(item["kind"] not in existing.PRESENT for item in made):
        return None
    whole = {(_schema(item), str(item["name"])) for item in made if item["kind"] in _MADE_WHOLE}
    columns = {(_schema(item), str(item["table"]), str(item["name"])) for item in made if item["kind"] == "column"}
    for statement in spoken:
        text = str(statement["sql"])
        match = _COMMENT.match(text) or _GRANT.match(text)
        if match is None:
            return None
        of_column = (match.groupdict().get("kind") or "").upper() == "COLUMN"
        for found in re.finditer(_QUALIFIED, match["names"]):
            name = tuple(name_parts(found.group()))
            if len(name) != (3 if of_column else 2) or not (name[:2] in whole or name in columns):
                return None
    return made


def _schema(made: Mapping[str, Any]) -> str:
    return str(made.get("schema") or "public")
