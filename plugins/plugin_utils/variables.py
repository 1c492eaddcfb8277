# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which variables the collection knows, and which of those that are defined it does not.

Argument specs pass over a variable that they do not name, so ``-e migrate_targt=…`` would quietly migrate everything.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.whitecross.pgops.plugins.plugin_utils.pgops_variables import SHARED_VARIABLES

COLLECTION_ROOT = Path(__file__).parents[2]

SHARED_PREFIX = "pgops_"
# The cutoff of difflib.get_close_matches.
CLOSE_ENOUGH = 0.6
# Of a prefix alone: `migration` and `migrate` have 0.75, `pg` and `pgops` 0.57.
CLOSE_PREFIX = 0.7
# Of a name without any underscore: one letter in ten or more.
CLOSE_LETTERS = 0.9


@dataclass(frozen=True)
class Unknown:
    """A defined variable that nothing in the collection reads."""

    name: str
    nearest: str | None

    def __str__(self) -> str:
        return f"{self.name} (did you mean {self.nearest}?)" if self.nearest else self.name


@cache
def role_options(root: Path = COLLECTION_ROOT) -> Mapping[str, Mapping[str, Any]]:
    """Every variable of a role with its option in ``meta/argument_specs.yml``, and under ``role`` whose it is."""
    found: dict[str, Mapping[str, Any]] = {}
    for spec in sorted((root / "roles").glob("*/meta/argument_specs.yml")):
        role = spec.parts[-3]
        entries = (yaml.safe_load(spec.read_text(encoding="utf-8")) or {}).get("argument_specs") or {}
        for entry in entries.values():
            for name, option in ((entry or {}).get("options") or {}).items():
                found.setdefault(str(name), {**(option or {}), "role": role})
    return found


@cache
def role_names(root: Path = COLLECTION_ROOT) -> tuple[str, ...]:
    """The roles of the collection; a variable that starts with one of them and ``_`` is taken for theirs."""
    return tuple(sorted(folder.name for folder in (root / "roles").glob("*") if folder.is_dir()))


@cache
def known_variables(root: Path = COLLECTION_ROOT) -> Mapping[str, str]:
    """Every variable that the collection reads, with where it is documented.

    :returns: the union of the options in the roles' ``meta/argument_specs.yml`` and of the shared ``pgops_*`` variables
    """
    of_roles = {name: f"role {option['role']}" for name, option in role_options(root).items()}
    return {**{name: "shared variable" for name in SHARED_VARIABLES}, **of_roles}


@cache
def playbook_prefixes(root: Path = COLLECTION_ROOT) -> tuple[str, ...]:
    """What the variables of a playbook begin with that no role declares, such as ``test_migration_``."""
    own = set()
    for file in sorted((root / "playbooks").glob("*.yml")):
        prefix = f"{file.stem}_"
        if file.stem not in role_names(root) and re.search(rf"\{{\{{ *{prefix}", file.read_text(encoding="utf-8")):
            own.add(prefix)
    return tuple(sorted(own))


def nearest(name: str, candidates: Iterable[str], prefixes: Iterable[str]) -> str | None:
    """The candidate that ``name`` is most likely a misspelling of, or None when none is close.

    Names are compared without their prefix, which would make any two of a role alike; ``pgops_target`` so finds
    ``migrate_target``.
    """

    def bare(variable: str) -> str:
        return variable.removeprefix(max((p for p in prefixes if variable.startswith(p)), key=len, default=""))

    def likeness(candidate: str) -> tuple[float, float]:
        return (
            difflib.SequenceMatcher(None, bare(name), bare(candidate)).ratio(),
            difflib.SequenceMatcher(None, name, candidate).ratio(),
        )

    best = max(sorted(candidates), key=likeness, default=None)
    return best if best is not None and likeness(best)[0] >= CLOSE_ENOUGH else None


def unknown_variables(
    defined: Iterable[str], known: Iterable[str] | None = None, roles: Iterable[str] | None = None
) -> list[Unknown]:
    """The defined variables with one of our prefixes that the collection does not know, sorted by name.

    Names that start with ``__`` are internals and never looked at; nor are those with a prefix of somebody else.

    :param defined: names of all variables in scope
    :param known: what is known, by default :func:`known_variables`
    :param roles: the roles whose names are prefixes, by default :func:`role_names`
    """
    names = set(known_variables() if known is None else known)
    prefixes = (SHARED_PREFIX, *(f"{role}_" for role in (role_names() if roles is None else roles)))
    return [
        Unknown(name, nearest(name, names, prefixes))
        for name in sorted(set(defined) - names)
        if name.startswith(prefixes) and not name.startswith("__")
    ]


def misspelt_prefixes(
    typed: Iterable[str], known: Iterable[str] | None = None, roles: Iterable[str] | None = None
) -> list[Unknown]:
    """The names given with ``-e`` that are not ours as they stand but were meant so: ``migration_target``, ``migrate-target``.

    A name of somebody else's, in an inventory or with ``-e``, is left alone unless what follows its first word is close to a
    variable of ours too.
    """
    names = set(known_variables() if known is None else known)
    prefixes = [f"{role}_" for role in (role_names() if roles is None else roles)] + [SHARED_PREFIX]
    found = []
    for name in sorted(set(typed) - names):
        # What has one of our prefixes as it stands is told by unknown_variables.
        if name.startswith((*prefixes, "__", "ansible_")):
            continue
        meant = _meant(name, names, prefixes)
        if meant:
            found.append(Unknown(name, meant))
    return found


def _meant(name: str, names: set[str], prefixes: list[str]) -> str | None:
    """The variable of ours that was meant by a name in any writing."""
    by_letters = {_letters(known): known for known in names}
    if _letters(name) in by_letters:
        return by_letters[_letters(name)]
    spelt = _underscored(name)
    if "_" not in spelt:
        close = difflib.get_close_matches(spelt, by_letters, 1, CLOSE_LETTERS)
        return by_letters[close[0]] if close else None
    own = max((prefix for prefix in prefixes if spelt.startswith(prefix)), key=len, default=None)
    word = own or spelt.partition("_")[0] + "_"
    rest = spelt.removeprefix(word)
    meant = [
        prefix + one
        for prefix in ([own] if own else prefixes)
        if rest and _alike(word, prefix) >= CLOSE_PREFIX
        for one in difflib.get_close_matches(
            rest, [known.removeprefix(prefix) for known in names if known.startswith(prefix)], 1, 0.8
        )
    ]
    return max(meant, key=lambda candidate: _alike(spelt, candidate), default=None)


def _letters(name: str) -> str:
    return re.sub(r"[_.\-]", "", name).lower()


def _underscored(name: str) -> str:
    """``migrateTarget``, ``MIGRATE_TARGET`` and ``migrate-target`` as ``migrate_target``."""
    return re.sub(r"[_.\-]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).lower()


def _alike(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
