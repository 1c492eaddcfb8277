# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which variables of an inventory are a known one with a misspelt first word: ``bakup_directory``, ``pgop_phases``.

An inventory holds the variables of a whole site, so what is typed with ``-e`` is judged more freely (:mod:`.variables`). Here a name is
a misspelling only where all of it is next to one variable of the collection: ``backups_host``, ``migration_user`` and
``app_directory`` are somebody else's. In prefix and rest together there are two slips of the keyboard at most.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from ansible_collections.whitecross.pgops.plugins.plugin_utils.variables import (
    SHARED_PREFIX,
    Unknown,
    known_variables,
    role_names,
)

# A word of this many letters may have two slips: `maintainance`. In a shorter one two make another word: `ops` of `pgops`, `import` of
# `export`, `store` of `restore`, `callback` of `rollback`, `reverse` of `rehearse`.
LONG_WORD = 9
# A rest of fewer letters is another word with one letter changed: `host` and `post`.
LONG_REST = 5

# Words of other tools and sites that are next to one of ours all the same; a digit makes one of a site's own, too: `backup2_directory`.
FOREIGN = frozenset({
    "adapt", "adept", "approved", "approver", "approves", "attention", "audio", "auditd", "books", "cooks", "date", "detention",
    "emigrate", "expert", "exports", "game", "gated", "grill", "insect", "inspec", "intention", "last_writes", "late", "looks",
    "mate", "migrated", "migrates", "props", "rate", "requests", "restored", "restorer", "restores", "scheduled", "scheduler",
    "schedules", "verity",
})  # fmt: skip
_DIGIT = re.compile(r"\d")


def slips(one: str, other: str) -> int:
    """How many letters are missing, too many, wrong or changed with their neighbour (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        earlier, before, row = before, row, [i]
        for j, wanted in enumerate(other, 1):
            row.append(min(row[j - 1] + 1, before[j] + 1, before[j - 1] + (letter != wanted)))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                row[j] = min(row[j], earlier[j - 2] + 1)
    return row[-1]


def near_variables(defined: Iterable[str]) -> list[Unknown]:
    """The names of an inventory that are a known variable but for a slip in its first word, sorted.

    What has a prefix of the collection's is told by :func:`.variables.unknown_variables`; what begins with ``_`` is switched off on
    purpose, and names in capitals are those of an environment file.

    :param defined: names of all variables in scope
    """
    return [Unknown(name, meant) for name in sorted(set(defined)) if (meant := _meant(name))]


@cache
def _known() -> dict[str, list[str]]:
    """The words that variables of the collection begin with, and what follows each."""
    words = {SHARED_PREFIX.rstrip("_"), *role_names()}
    found: dict[str, list[str]] = {word: [] for word in words}
    for name in sorted(known_variables()):
        word = max((word for word in words if name.startswith(f"{word}_")), key=len, default=None)
        if word:
            found[word].append(name.removeprefix(f"{word}_"))
    return found


@cache
def _by_letters() -> dict[str, str]:
    return {name.replace("_", ""): name for name in known_variables()}


@cache
def _near_words(typed: str) -> dict[str, int]:
    """The words of the collection that a first word may have been meant for, each with its slips."""
    if typed in FOREIGN or _DIGIT.search(typed):
        return {}
    allowed = {word: 2 if len(word) >= LONG_WORD else 1 for word in _known() if abs(len(word) - len(typed)) <= 2}
    return {word: count for word, most in allowed.items() if (count := slips(typed, word)) <= most}


@cache
def _meant(name: str) -> str | None:
    if name.startswith(("_", "ansible_", *(f"{word}_" for word in _known()))) or name.isupper():
        return None
    # Such as gateRequired and gaterequired.
    written_otherwise = _by_letters().get(name.replace("_", "").lower())
    if written_otherwise:
        return written_otherwise
    candidates = [
        (in_word + in_rest, f"{word}_{rest}")
        for cut in re.finditer("_", name)
        for word, in_word in _near_words(name[: cut.start()]).items()
        for rest in _known()[word]
        if (in_rest := _slips_in_rest(name[cut.end() :], rest)) is not None and in_word + in_rest <= 2
    ]
    return min(candidates, default=(0, None))[1]


def _slips_in_rest(typed: str, rest: str) -> int | None:
    """0 or 1, or None where it is another word."""
    if typed == rest:
        return 0
    near = len(rest) >= LONG_REST and abs(len(typed) - len(rest)) <= 1 and slips(typed, rest) == 1
    return 1 if near else None
