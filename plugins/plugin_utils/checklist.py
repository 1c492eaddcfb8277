# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The checklist of a run, to print: before, details, execution, after, rollback, and the list of a deployment to production.

A line has what the run has measured for it, and is ticked by nothing else; where a person has to see to it, it stays open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import checklist_evidence as evidence
from ansible_collections.whitecross.pgops.plugins.plugin_utils import checklist_outcome as outcome
from ansible_collections.whitecross.pgops.plugins.plugin_utils import run_outcome
from ansible_collections.whitecross.pgops.plugins.plugin_utils.checklist_run import (
    DONE,
    FAILED,
    OPEN,
    Phases,
    Run,
    Told,
    one_line,
    some,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import write_private_file
from ansible_collections.whitecross.pgops.plugins.plugin_utils.rollback_targets import bare

LEGEND = (
    "`[x]` is done, with what the run has measured and where that stands. `[ ]` is not done by the run: somebody sees to it, and ticks it "
    "on paper. `[!]` has failed."
)
_NOT_BY = "not by this run: "


@dataclass(frozen=True)
class Line:
    """A line of the checklist.

    :ivar what: the handbook's words
    :ivar by: who or what fills it in, as it stands in the empty form
    :ivar look: what the run has measured for it, by the run and ``by``; None where only a person knows
    """

    what: str
    by: str
    look: Callable[[Run, str], Told] | None = None


def _each(
    phases: Sequence[str], look: Callable[[Phases], Told | None], *, always: bool = False
) -> Callable[[Run, str], Told]:
    """:return: a look at each database of the run, see :meth:`Run.of_databases`."""
    return lambda run, by: run.of_databases(phases, look, by, always=always)


_BACKUP = Line("Backup made", "the phase backup", _each(("backup",), evidence.backup))
_PROVED = Line("Backup verified", "the phase prove", _each(("prove",), evidence.proof))
_TELL = "a person tells them"

PARTS: tuple[tuple[str, tuple[Line, ...]], ...] = (
    (
        "Before",
        (
            Line("Tested in development", "a person; test_migration.yml tests a version there"),
            Line("Tested in staging", "a gate that asks for the evidence of staging", outcome.staging),
            Line("Automated tests pass", "the pipeline of the tree"),
            Line("Performance assessed", "the phase rehearse", _each(("rehearse",), evidence.performance)),
            _BACKUP,
            _PROVED,
            Line(
                "Rollback documented", "the phase plan; of a rollback the way that was chosen",
                _each(("plan", "strategies"), evidence.way_back),
            ),
            Line("Stakeholders told", _TELL),
            Line("Approval given", "a gate that asks for it, or migrate_reviewed_by", _each(("gate_early", "gate"), evidence.approval)),
            Line("Emergency contacts confirmed", "a person calls them", outcome.contacts),
        ),
    ),
    (
        "Details",
        (
            Line("Tables", "the phase plan", outcome.tables),
            Line("Estimated minutes", "a rehearsal, expected_seconds of each version, or measured restores", outcome.minutes),
            Line("Downtime in seconds", "a hook that keeps users out, a rehearsal, or the chosen way back", outcome.downtime),
            Line("PHI", "the phase plan", outcome.phi),
            Line("Executor", "the run", outcome.executor),
            Line("Reviewers", "a gate that asks for approval, or migrate_reviewed_by", _each(("gate",), evidence.approval)),
            Line("Date", "the run", outcome.date),
        ),
    ),
    (
        "Execution",
        (
            _BACKUP,
            _PROVED,
            Line("Migration executed", "the phase apply", _each(("apply",), evidence.applied)),
            Line("Verification queries run", "the phase verify", _each(("verify",), evidence.verified, always=True)),
            Line("Metrics normal", "the health check after, a watch, or hooks_metrics", outcome.metrics),
            Line("Application healthy", "hooks_health, or preflight_health_url", outcome.application),
            Line("No errors in the logs", "the phase verify, where it may read the server's log", _each(("verify",), evidence.server_log, always=True)),
        ),
    ),
    (
        "After",
        (
            Line("Data integrity", "the named checks of the phase verify", _each(("verify",), evidence.integrity, always=True)),
            Line("Foreign keys", "the phase verify", _each(("verify",), evidence.keys, always=True)),
            Line("Indexes", "the phase verify", _each(("verify",), evidence.indexes, always=True)),
            Line("Row counts", "the health checks before and after", _each(("preflight_after",), evidence.rows)),
            Line("Smoke tests", "hooks_smoke_test", outcome.smoke),
            Line("Stakeholders told", _TELL),
            Line("Audit log", "the phases apply and revert", _each(("audit",), evidence.audit)),
            Line("Documents updated", "a person; make schema writes those of the shipped tree"),
        ),
    ),
    (
        "Rollback",
        (
            Line("Reason", "rollback_reason, or the watch that began it", outcome.reason),
            Line("Executed", "rollback.yml", outcome.reverted),
            Line("Verified", "the phase verify", outcome.verified_back),
            Line("Incident report", "the run, where it changed something", outcome.incident),
            Line("Post-mortem scheduled", "a person, by the time that the incident report names", outcome.post_mortem),
            Line("Notes", "a person"),
        ),
    ),
    (
        "Deployment to production",
        (
            Line("Backup", "the phases backup and prove", _each(("backup", "prove"), evidence.proof)),
            Line("Tested in staging", "a gate that asks for the evidence of staging", outcome.staging),
            Line("Order verified", "the phase plan", _each(("plan",), evidence.order, always=True)),
            Line("Rollback plan", "the phase plan; of a rollback the way that was chosen", _each(("plan", "strategies"), evidence.way_back)),
            Line("Maintenance window", "a gate that asks for one", outcome.window),
            Line("Performance monitored", "a watch: migrate_watch", outcome.watched),
            Line("ANALYZE of every changed table", "the phase analyze", _each(("analyze",), evidence.analyzed)),
            Line("Query metrics", "a watch with a probe, or hooks_metrics", outcome.queries),
            Line("Application works", "hooks_health and hooks_smoke_test", outcome.works),
            Line("Error logs", "the phase verify, where it may read the server's log", _each(("verify",), evidence.server_log, always=True)),
        ),
    ),
)  # fmt: skip


def is_due(report: Mapping[str, Any]) -> bool:
    """:return: whether a run leaves a checklist: a migration or a rollback that is no check."""
    return report.get("playbook") in run_outcome.WITH_HOOKS and not report.get("check_mode")


def of(report: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[tuple[Line, Told]]]]:
    """Fill each line in.

    :param report: as ``reporting.build`` makes it
    :param events: the journal of the run
    :return: the parts in their order, each line with what stands in it
    """
    run = Run(report, events)
    return [(title, [(line, _filled_in(line, run)) for line in lines]) for title, lines in PARTS]


def _filled_in(line: Line, run: Run) -> Told:
    if line.look is None:
        return Told(OPEN, line.by)
    try:
        return line.look(run, line.by)
    except Exception as exc:  # noqa: BLE001 -- a line that cannot be read stays open; the run, which has ended, must not fail for it
        return Told(OPEN, f"{line.by} (its evidence could not be read: {type(exc).__name__}: {exc})")


def as_markdown(report: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
    """:return: the checklist of a run, to print."""
    parts = of(report, events)
    run_id = report["run_id"]
    marks = [told.mark for _, lines in parts for _, told in lines]
    error = report.get("error")
    ended = report["result"] + (f", {report['state']}" if report.get("state") else "")
    lines = [
        f"# Checklist of run {run_id}",
        "",
        f"- {report['playbook']}.yml in {report['environment']}, hosts {some(report.get('hosts') or ['none'])}",
        f"- [{FAILED if error else DONE}] result: {ended}" + (f": {one_line(bare(error['message']))}" if error else ""),
        f"- {marks.count(DONE)} done, {marks.count(OPEN)} open, {marks.count(FAILED)} failed; the figures are those of `{run_id}.json`",
        "",
        LEGEND,
    ]
    for title, told in parts:
        lines += ["", f"## {title}", "", *(_line(line, one) for line, one in told)]
    return "\n".join([*lines, "", "Signed: ______________________________   Date: ______________", ""])


def _line(line: Line, told: Told) -> str:
    text = told.text if told.mark != OPEN else f"{_NOT_BY}{told.text}"
    source = f" ({told.source})" if told.source else ""
    return f"- [{told.mark}] {line.what}: {one_line(text)}{source}"


def empty() -> str:
    """:return: the parts without a run, for docs/checklist.md: each line with who or what fills it in."""
    return "\n\n".join(
        f"## {title}\n\n" + "\n".join(f"- [ ] {line.what}: {line.by}" for line in lines) for title, lines in PARTS
    )


def write(path: Path, report: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> None:
    """Write it beside the report, 0600, whole or not at all.

    :param path: the JSON file of the report
    :raises OSError: it cannot be written
    """
    write_private_file(file_of(path), as_markdown(report, events))


def file_of(path: Path) -> Path:
    """:param path: the JSON file of a report. :return: the checklist beside it."""
    return path.with_suffix(".checklist.md")
