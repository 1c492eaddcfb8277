# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the way up of migrations says of a function, by its text: who made it, to whom it belongs and who may call it.

A name without a schema is in public: lint refuses a migration that sets another search_path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import catalog
from ansible_collections.whitecross.pgops.plugins.module_utils.changing_parts import BLOCK, puts_together
from ansible_collections.whitecross.pgops.plugins.module_utils.sql_names import (
    NAME,
    QUALIFIED,
    folded,
    name_parts,
    schema_and_name,
    without_parentheses,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import without_comments

_KIND = r"(?:FUNCTION|PROCEDURE|ROUTINE|AGGREGATE)"
_MADE = re.compile(rf"\bCREATE\s+(?P<replace>OR\s+REPLACE\s+)?{_KIND}\s+(?P<name>{QUALIFIED})\s*\(", re.IGNORECASE)
_DROPPED = re.compile(rf"\bDROP\s+{_KIND}\s+(?:IF\s+EXISTS\s+)?(?P<names>[^;]*)", re.IGNORECASE)
_GRANTED = re.compile(
    rf"\b(?:GRANT|REVOKE)\b[^;]*?\bON\s+(?:{_KIND}\s+(?P<names>[^;]*?)"
    rf"|ALL\s+(?P<all>FUNCTIONS|PROCEDURES|ROUTINES)\s+IN\s+SCHEMA\s+(?P<schemas>{NAME}(?:\s*,\s*{NAME})*))\s+(?:TO|FROM)\b",
    re.IGNORECASE,
)
_OWNED = re.compile(
    rf"\bALTER\s+{_KIND}\s+(?P<name>{QUALIFIED})\s*(?:\([^;]*\))?\s*OWNER\s+TO\s+(?P<owner>{NAME})", re.IGNORECASE
)
_OWNS = r"\b(?:OWNER\s+TO|(?P<acts>SET\s+(?:LOCAL\s+|SESSION\s+)?(?:ROLE|SESSION\s+AUTHORIZATION)|OWNED\s+BY\b[^;]*\bTO))\s+(?P<owner>{0})"
_EVENTS = (_MADE, _DROPPED, _GRANTED, _OWNED)
# These name whoever runs it.
_SELF = ("current_role", "current_user", "session_user")
_ALL_OF = {"FUNCTIONS": ("function", "aggregate"), "PROCEDURES": ("procedure",)}


@dataclass
class Said:
    """What the versions say of one function.

    :ivar maker: the version that makes it; None where no text shows it.
    :ivar rights: the versions that say who may call it.
    :ivar owner: the role that one of them names as its owner.
    """

    maker: str | None = None
    rights: set[str] = field(default_factory=set)
    owner: str | None = None

    @property
    def versions(self) -> set[str]:
        """:return: those by which it is decided who may call it."""
        return self.rights | ({self.maker} if self.maker else set())


class FunctionStatements:
    """What migrations say of functions, read once.

    :param migrations: rendered, in their order.
    """

    def __init__(self, migrations: Sequence[Mapping[str, Any]]) -> None:
        self._ups = list(_ups(migrations))
        self._events: list[tuple[str, re.Match[str]]] = []
        self._unseen: list[tuple[str, set[str]]] = []
        for version, text in self._ups:
            bare = without_comments(text).strip()
            if not BLOCK.match(text):
                self._events += [(version, event) for event in (pattern.match(bare) for pattern in _EVENTS) if event]
                continue
            found = [event for pattern in _EVENTS for event in pattern.finditer(bare)]
            self._events += [(version, event) for event in sorted(found, key=lambda event: event.start())]
            if puts_together(text):
                self._unseen.append((version, set(re.findall(r"[\w$]+", bare))))

    def said(self, key: str) -> Said:
        """:param key: the function in an inventory; others of its name in its schema are not told from it."""
        told, place = Said(), _place(catalog.name_of(key))
        for version, event in self._events:
            if event.re is _MADE:
                if _place(event["name"]) == place and not (event["replace"] and told.maker):
                    told = Said(version)
            elif event.re is _DROPPED:
                if place in _places(event["names"]):
                    told = Said()
            elif event.re is _OWNED:
                if _place(event["name"]) == place:
                    owner = folded(event["owner"])
                    told.owner = None if owner in _SELF else owner
            elif _is_about(event, catalog.kind_of(key), place):
                told.rights.add(version)
        told.rights |= {version for version, words in self._unseen if place[1] in words}
        return told

    def acts_as(self, role: str) -> bool:
        """:return: whether something that they make may belong to a role without a statement that says so of it."""
        named = re.compile(_OWNS.format(rf'"{re.escape(role)}"|{re.escape(role)}\b'), re.IGNORECASE)
        found = ((text, owns) for _, text in self._ups for owns in named.finditer(text))
        return any(owns["acts"] or puts_together(text) for text, owns in found)


def _ups(migrations: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for migration in migrations:
        for step in migration["steps"]:
            statements = step.get("up") or []
            for statement in [statements] if isinstance(statements, Mapping) else statements:
                yield str(migration["version"]), str(statement["sql"])


def _is_about(granted: re.Match[str], kind: str, place: tuple[str, str]) -> bool:
    if granted["all"]:
        kinds = _ALL_OF.get(granted["all"].upper(), ("function", "procedure", "aggregate"))
        return kind in kinds and place[0] in name_parts(granted["schemas"])
    return place in _places(granted["names"])


def _place(name: str) -> tuple[str, str]:
    """:return: schema and name of what the text begins with."""
    found = re.match(rf"\s*({QUALIFIED})", name)
    return schema_and_name(found[1]) if found else ("public", name)


def _places(names: str) -> set[tuple[str, str]]:
    return {_place(name) for name in without_parentheses(names).split(",") if name.strip()}
