# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run as the lines of its checklist ask it: a line is done only where each of its databases has the evidence."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.rollback_targets import bare

DONE, OPEN, FAILED = "x", " ", "!"
# So many databases, tables or versions stand in a line; the report has all.
SHOWN = 3
_LONGEST_FAULT = 240
# What such a phase has done before it failed is not all that it should have done.
_CHANGES = frozenset({"apply", "revert", "resume", "restore", "swap"})
_PART_OF = {"gate_early": "gate", "preflight_after": "preflight"}
_LEFT_OUT = frozenset({"preflight", "backup", "prove", "rehearse", "gate", "apply", "analyze", "verify"})
_NOT_OF_A_ROLLBACK = frozenset({"plan", "gate_early", "gate", "rehearse", "apply", "preflight_after", "analyze"})

Phases = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Told:
    """What stands in a line.

    :ivar mark: ``x``, `` `` or ``!``
    :ivar text: the evidence, or who has to see to it
    :ivar source: the phase of the report that says it, or a file
    """

    mark: str
    text: str
    source: str = ""


@dataclass(frozen=True)
class Place:
    """A database of the run; ``database`` is None on a host of which nothing is known."""

    host: str
    database: str | None
    phases: Phases

    def __str__(self) -> str:
        return f"{self.database} on {self.host}" if self.database else self.host


class Run:
    """A report as the lines of a checklist ask it.

    :param report: as ``reporting.build`` makes it
    :param events: the journal
    """

    def __init__(self, report: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> None:
        self.report = report
        self.events = events
        self.places = list(_places(report))

    @property
    def is_rollback(self) -> bool:
        return bool(self.report["playbook"] == "rollback")

    def pending(self) -> list[Place]:
        """:return: the databases in which something was to be done; a rollback has no plan, and all are."""
        return [place for place in self.places if "plan" not in place.phases or place.phases["plan"].get("pending")]

    def fault(self, host: str, phases: Iterable[str]) -> Told | None:
        """:return: why one of these phases has failed on a host, or that it was cut off."""
        for row in self.report["steps"]:
            if row["host"] == host and row["phase"] in phases and row["result"] in ("failed", "unfinished"):
                error = bare((row.get("error") or {}).get("message") or "")
                why = textwrap.shorten(error, _LONGEST_FAULT, placeholder=" …") or "it was cut off, or goes on"
                return Told(FAILED, f"{row['phase']}: {why}", str(row["phase"]))
        return None

    def of_databases(
        self, phases: Sequence[str], look: Callable[[Phases], Told | None], otherwise: str, *, always: bool = False
    ) -> Told:
        """Ask each database, and put the answers into one.

        :param phases: whose failure is that of the line; the first is what it waits for
        :param look: None where this database has no evidence
        :param otherwise: what a line says that nothing was measured for
        :param always: also of a database in which nothing was pending
        """
        places = self.places if always else self.pending()
        if not places:
            return Told(OPEN, "nothing was pending")
        return _one_of([(place, self._of(place, phases, look, otherwise)) for place in places])

    def _of(self, place: Place, phases: Sequence[str], look: Callable[[Phases], Told | None], otherwise: str) -> Told:
        found, fault = look(place.phases), self.fault(place.host, phases)
        # Of a host with several databases, those before the one that failed have their evidence; of a change it is not all.
        if fault is not None and (found is None or _CHANGES & set(phases)):
            return fault
        return found or Told(OPEN, self._why_not(place, phases, otherwise))

    def _why_not(self, place: Place, phases: Sequence[str], otherwise: str) -> str:
        if self.is_rollback and set(phases) <= _NOT_OF_A_ROLLBACK:
            return f"a rollback has none ({otherwise})"
        # Of what looks twice the second look has a name of its own.
        asked = {_PART_OF.get(phase, phase) for phase in phases}
        known = set(self.report.get("phases") or asked)
        if not asked & known and asked <= _LEFT_OUT:
            return f"left out by pgops_phases ({otherwise})"
        begun = any(row["host"] == place.host and row["phase"] in phases for row in self.report["steps"])
        return otherwise if self.report["ok"] or begun else f"the run ended before it ({otherwise})"


def one_line(text: Any) -> str:
    """:return: the text as one line of Markdown."""
    return " ".join(str(text).split())


def some(names: Iterable[Any], shown: int = SHOWN) -> str:
    """:return: the first of these names, and how many more there are."""
    known = [str(name) for name in names]
    more = f" and {len(known) - shown} more" if len(known) > shown else ""
    return ", ".join(known[:shown]) + more


def _places(report: Mapping[str, Any]) -> Iterator[Place]:
    results = report.get("results") or {}
    for host in dict.fromkeys([*(report.get("hosts") or []), *results]):
        databases = results.get(host) or {}
        for database, phases in databases.items():
            yield Place(host, database, {name: found for name, found in phases.items() if isinstance(found, Mapping)})
        if not databases:
            yield Place(host, None, {})


def _one_of(told: Sequence[tuple[Place, Told]]) -> Told:
    """The worst is the line's; a database more without evidence and it is not done."""
    for mark in (FAILED, OPEN, DONE):
        found = [(place, one) for place, one in told if one.mark == mark]
        if found:
            break
    texts = list(dict.fromkeys(one.text for _, one in found))
    source = next((one.source for _, one in found if one.source), "")
    if len(told) == 1:
        return found[0][1]
    if len(texts) == 1:
        where = f"all {len(told)} databases" if len(found) == len(told) else some(place for place, _ in found)
        return Told(mark, f"{where}: {texts[0]}", source)
    return Told(
        mark, "; ".join(f"{place}: {one.text}" for place, one in found[:SHOWN]) + more(len(found) - SHOWN), source
    )


def more(number: int) -> str:
    return f"; and {number} more" if number > 0 else ""
