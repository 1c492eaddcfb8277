# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rules as a table (``rules.yml``), and the functions that look for what breaks them, by the rule's id."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

if TYPE_CHECKING:
    from .session import Seen

ERROR, WARNING, NOTE, OFF = "error", "warning", "note", "off"
LEVELS = (ERROR, WARNING, NOTE, OFF)


class Found(NamedTuple):
    """What a rule's function has to say of a statement."""

    message: str
    # Where the rule is broken in another degree than its own level says.
    level: str | None = None
    # The table whose size decides how much it hurts.
    table: tuple[str, str] | None = None


Check = Callable[["Seen"], Iterator[Found]]


@dataclass(frozen=True)
class Rule:
    """One line of the table; the keys are explained at its head."""

    id: str
    title: str
    why: str
    instead: str
    level: str
    source: str
    squawk: tuple[str, ...] = ()
    large: bool = False
    engine: bool = True
    tree: str | None = None
    step: str | None = None
    file: str | None = None


@dataclass
class _Registry:
    """The functions by the kind of statement that they look at, ``*`` for each."""

    checks: dict[str, list[tuple[str, Check]]] = field(default_factory=dict)


_REGISTRY = _Registry()


def rule(rule_id: str, *kinds: str) -> Callable[[Check], Check]:
    """Register a function under a rule's id, for statements of some kinds (pglast's names, ``*`` for all)."""

    def register(check: Check) -> Check:
        for kind in kinds:
            _REGISTRY.checks.setdefault(kind, []).append((rule_id, check))
        return check

    return register


def checks_of(kind: str) -> list[tuple[str, Check]]:
    """:return: the functions that look at a kind of statement, each with the id of its rule."""
    return [*_REGISTRY.checks.get(kind, ()), *_REGISTRY.checks.get("*", ())]


@lru_cache(maxsize=1)
def table() -> dict[str, Rule]:
    """:return: every rule by its id."""
    document: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("rules.yml").read_text("utf-8"))
    return {
        name: Rule(id=name, **{**entry, "squawk": tuple(entry.get("squawk", ()))}) for name, entry in document.items()
    }


def levels_of(given: Mapping[str, Any] | None) -> dict[str, str]:
    """:param given: rule id to level, instead of the table's.
    :return: the level of every rule.
    :raises ValueError: a rule or a level that there is not, with the nearest."""
    levels = {name: entry.level for name, entry in table().items()}
    for name, level in (given or {}).items():
        if name not in levels:
            raise ValueError(f"there is no rule '{name}'{_nearest(name, levels)}")
        # YAML reads a plain off as false.
        word = OFF if level is False else str(level)
        if word not in LEVELS:
            raise ValueError(f"'{word}' is no level of {name}: it is {', '.join(LEVELS)}")
        levels[name] = word
    return levels


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.4)
    return f"; did you mean '{close[0]}'?" if close else ""
