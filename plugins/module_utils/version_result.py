# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What comes of applying one version, step by step, by however many sessions it takes."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import chain
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import appeared, existing, ledger, orphans
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext

# Figures of a backfill: the word in the result, and in the ledger.
_OF_BACKFILL = {
    "rows": "rows",
    "walked": "seen",
    "batches": "batches",
    "batch_size": "size",
    "remaining_before": "remaining_before",
    "remaining": "remaining",
    "throttle": "throttle",
}


@dataclass
class _Step:
    skipped: list[str]
    settled: list[dict[str, Any]]
    built: list[dict[str, Any]]
    by_sql: list[str]
    notes: list[str]
    timed: dict[str, Any]


@dataclass
class VersionResult:
    """Collects the steps of a version in the session in hand; a step that is done anew counts once.

    :ivar resumed: an earlier run had begun it.
    :ivar ordinal: of the step in hand.
    :ivar reconnected: a session was lost since it began.
    """

    migration: Mapping[str, Any]
    resumed: bool
    ordinal: int = 1
    expected_s: int | None = None
    duration_s: float = 0.0
    reconnected: bool = False
    started: float = field(default_factory=time.monotonic)
    _begun: float = 0.0
    _began_at: str = ""
    _in_hand: StepContext | None = None
    _steps: dict[int, _Step] = field(default_factory=dict)
    _settled_before: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    def begin(self, context: StepContext) -> None:
        """A step is begun, or gone on with in another session: what it had told by then stays told."""
        before = self._in_hand
        if before is not None and before.ordinal == context.ordinal:
            context.built, context.notes, context.appeared = before.built, before.notes, before.appeared
        else:
            self._begun, self._began_at = time.monotonic(), moment()
        # What is committed of the step, by whichever run or session, the ledger has.
        context.settled = _settled(context.progress_so_far)
        self.ordinal, self._in_hand = context.ordinal, context

    def done(self, skipped: list[str]) -> None:
        """The step in hand is done. :param skipped: objects that were there already."""
        context = self._in_hand
        assert context is not None
        self._keep(context, skipped, context.settled, context.outcome)

    def done_already(self, step: ledger.Step) -> None:
        """The ledger says that a step is done: by an earlier run, or, where it is the one in hand, its COMMIT came through and
        its answer did not."""
        context = self._in_hand
        if step.ordinal in self._steps:
            return
        told = step.progress
        if not self.reconnected or context is None or context.ordinal != step.ordinal:
            self._settled_before[step.ordinal] = _settled(told)
            return
        figures = {word: told[key] for word, key in _OF_BACKFILL.items() if step.kind == "backfill" and key in told}
        skipped = [*told.get("skipped", []), *told.get("present", []), *told.get("valid_before", [])]
        context.appeared = told.get(appeared.PROGRESS, [])
        self._keep(context, skipped, _settled(told) or context.settled, figures)

    def _keep(
        self, context: StepContext, skipped: list[str], settled: list[dict[str, Any]], outcome: Mapping[str, Any]
    ) -> None:
        step = self.migration["steps"][context.ordinal - 1]
        seconds = round(time.monotonic() - self._begun, 3)
        # An index whose build a crash took back was built twice.
        built = {(item["schema"], item["name"]): item for item in context.built}
        self._steps[context.ordinal] = _Step(
            skipped,
            settled,
            list(built.values()),
            _indexes_by_sql(step, skipped, context.appeared),
            list(dict.fromkeys(context.notes)),
            {
                "step": context.ordinal,
                "kind": step["kind"],
                "name": step.get("name"),
                "started": self._began_at,
                "duration_s": seconds,
                **outcome,
            },
        )

    def _in_order(self) -> list[_Step]:
        return [self._steps[ordinal] for ordinal in sorted(self._steps)]

    @property
    def skipped(self) -> list[str]:
        """:return: objects that were there already."""
        return list(chain.from_iterable(step.skipped for step in self._in_order()))

    @property
    def settled(self) -> dict[str, list[Mapping[str, Any]]]:
        """:return: see :func:`orphans.kinds`; also what an earlier run did, and what is done of the step in hand."""
        found = {**self._settled_before, **{ordinal: step.settled for ordinal, step in self._steps.items()}}
        if self._in_hand is not None:
            found.setdefault(self._in_hand.ordinal, self._in_hand.settled)
        return orphans.kinds(list(chain.from_iterable(found[ordinal] for ordinal in sorted(found))))

    def so_far(self) -> dict[str, Any]:
        """:return: what is done of a version that stopped, for its entry in the run's result."""
        durations = [step.timed for step in self._in_order()]
        return {"step_durations": durations, "quarantined": [], "placeholders": [], **self.settled}

    def as_dict(self) -> dict[str, Any]:
        """:return: the version's entry in the run's result."""
        steps = self._in_order()
        return {
            "version": str(self.migration["version"]),
            "name": self.migration["name"],
            "title": self.migration.get("title"),
            "duration_s": self.duration_s,
            "expected_s": self.expected_s,
            "steps": len(self.migration["steps"]),
            # Only those of this run, where it went on from an earlier one.
            "step_durations": [step.timed for step in steps],
            "skipped": self.skipped,
            # Rows without a parent that were moved aside for a foreign key, and parents that were made for them.
            "quarantined": [],
            "placeholders": [],
            **self.settled,
            "indexes": list(chain.from_iterable(step.built for step in steps)),
            "indexes_by_sql": list(dict.fromkeys(chain.from_iterable(step.by_sql for step in steps))),
            "notes": list(chain.from_iterable(step.notes for step in steps)),
            "resumed": self.resumed,
        }


def moment() -> str:
    """:return: now by the clock of this host, UTC, ISO 8601 with milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _indexes_by_sql(step: Mapping[str, Any], skipped: Collection[str], made: Iterable[Sequence[str]]) -> list[str]:
    """:return: ``schema.name`` of what a step of SQL made that may be an index: those of its text, and what the server saw appear."""
    created = [statement.get("creates") or {} for statement in step.get("up") or [] if step["kind"] == "sql"]
    named = [
        f"{index.get('schema') or 'public'}.{index['name']}"
        for index in created
        if index.get("kind") == "index" and existing.describe(index) not in skipped
    ]
    return [*named, *(f"{schema}.{name}" for schema, _, name in made)]


def _settled(progress: Mapping[str, Any]) -> list[dict[str, Any]]:
    """:param progress: of a step in the ledger. :return: what it did with rows without a parent."""
    return [entry for word in ("quarantined", "placeholders") for entry in progress.get(word, [])]
