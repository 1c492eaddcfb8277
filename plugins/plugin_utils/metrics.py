# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus is told of runs and timers: which metrics there are, and their values from a report and from the heartbeats.

A label is a name of ours, of an inventory host or of a database; nobody's words, no statement and no value of a row is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import timer_state


@dataclass(frozen=True)
class Metric:
    """A gauge.

    :ivar told: the line HELP
    :ivar keys: labels that say of what it is
    :ivar kind: the label that tells its values apart, of which all are replaced together
    """

    told: str
    keys: tuple[str, ...]
    kind: str | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, in their order."""
        return (*self.keys, *((self.kind,) if self.kind else ()))


_RUN = ("environment", "playbook")
_DATABASE = ("environment", "host", "database")
_TIMER = ("environment", "timer")

STATES = ("succeeded", "complete", "partial", "rolled_back", "failed", "interrupted")
LEVELS = ("ok", "warn", "stop", "waived")

METRICS: dict[str, Metric] = {
    "pgops_run_end_timestamp_seconds": Metric("When the last run of the playbook ended.", _RUN),
    "pgops_run_duration_seconds": Metric("How long the last run of the playbook took.", _RUN),
    "pgops_run_success": Metric("Whether the last run of the playbook did all that it was to do.", _RUN),
    "pgops_run_state": Metric("The state of the last run of the playbook: 1 for the one that it is.", _RUN, "state"),
    "pgops_run_slow_versions": Metric(
        "Versions that took longer than was expected, in the last run of the playbook.", _RUN
    ),
    "pgops_last_success_timestamp_seconds": Metric(
        "When a run of the playbook that did all that it was to do last ended.", (*_DATABASE, "playbook")
    ),
    "pgops_backup_timestamp_seconds": Metric("When the newest backup was whole.", _DATABASE),
    "pgops_backup_size_bytes": Metric("Size of the newest backup.", _DATABASE),
    "pgops_backup_duration_seconds": Metric("How long the newest backup took.", _DATABASE),
    "pgops_backup_proof_timestamp_seconds": Metric("When a backup was last proved.", _DATABASE),
    "pgops_backup_proof_level": Metric("Level of the last proof of a backup, 0 to 6.", _DATABASE),
    "pgops_drill_timestamp_seconds": Metric("When a restore was last drilled.", _DATABASE),
    "pgops_drill_success": Metric("Whether the last drill passed.", _DATABASE),
    "pgops_drill_proof_level": Metric("Level that the last drill reached, 0 to 6.", _DATABASE),
    "pgops_drill_rto_seconds": Metric(
        "How long the last drill took until the copy was restored and compared.", _DATABASE
    ),
    "pgops_preflight_checks": Metric("Checks of the last preflight, by level.", _DATABASE, "level"),
    "pgops_verify_failures": Metric("What the last verification found that is not as it should be.", _DATABASE),
    "pgops_pending_versions": Metric("Versions that are not applied.", _DATABASE),
    "pgops_failed_versions": Metric("Versions that failed and are neither done nor taken back.", _DATABASE),
    "pgops_maintenance_items": Metric("What the last maintenance had to do, by what became of it.", _DATABASE, "state"),
    "pgops_maintenance_given_back_bytes": Metric("Bytes that the last maintenance gave back to the disk.", _DATABASE),
    "pgops_timer_installed_timestamp_seconds": Metric("When the timer was installed.", _TIMER),
    "pgops_timer_expected_interval_seconds": Metric("The longest time between two successes by the calendar.", _TIMER),
    "pgops_timer_end_timestamp_seconds": Metric("When the last run of the timer ended.", _TIMER),
    "pgops_timer_success": Metric("Whether the last run of the timer succeeded.", _TIMER),
    "pgops_timer_last_success_timestamp_seconds": Metric("When the timer last succeeded.", _TIMER),
}


@dataclass(frozen=True)
class Sample:
    """One value of a metric."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, ...]:
        """What a newer sample takes the place of."""
        return (self.name, *(self.labels[label] for label in METRICS[self.name].keys))


def of_report(report: Mapping[str, Any]) -> list[Sample]:
    """:param report: as ``reporting.build`` makes it, of a run that was no check.
    :return: what it tells; of a phase that failed or never came, nothing."""
    ended = _moment(report["finished"])
    run = {"environment": str(report["environment"]), "playbook": str(report["playbook"])}
    state = str(report.get("state") or report["result"]).replace(" ", "_")
    found = [
        *_some("pgops_run_end_timestamp_seconds", ended, run),
        *_some("pgops_run_duration_seconds", report["duration_s"], run),
        Sample("pgops_run_success", float(bool(report["ok"])), run),
        *(Sample("pgops_run_state", float(name == state), {**run, "state": name}) for name in STATES),
        Sample("pgops_run_slow_versions", float(sum(1 for item in report["versions"] if item.get("slower"))), run),
    ]
    given = report.get("extra_variables") or {}
    for host, databases in report["results"].items():
        for database, phases in databases.items():
            place = {"environment": run["environment"], "host": str(host), "database": str(database)}
            if report["ok"]:
                labels = {**place, "playbook": run["playbook"]}
                found += _some("pgops_last_success_timestamp_seconds", ended, labels)
            found += _of_backups(phases, place, ended)
            found += _of_state(phases, place, given)
    return found


def _of_backups(phases: Mapping[str, Any], place: Mapping[str, str], ended: float | None) -> Iterator[Sample]:
    backup, proof, drill = (phases.get(phase) or {} for phase in ("backup", "prove", "drill"))
    yield from _some("pgops_backup_timestamp_seconds", _moment(backup.get("finished")), place)
    if backup.get("finished"):
        yield from _some("pgops_backup_size_bytes", backup.get("bytes"), place)
        yield from _some("pgops_backup_duration_seconds", backup.get("seconds"), place)
    if proof.get("proved_at"):
        yield from _some("pgops_backup_proof_timestamp_seconds", _moment(proof["proved_at"]), place)
        yield from _some("pgops_backup_proof_level", proof.get("level"), place)
    if drill.get("verdict"):
        yield from _some("pgops_drill_timestamp_seconds", ended, place)
        yield Sample("pgops_drill_success", float(drill["verdict"] == "passed"), place)
        yield from _some("pgops_drill_proof_level", drill.get("level"), place)
        # A drill that stopped early was quick for no good reason.
        if drill["verdict"] == "passed":
            yield from _some("pgops_drill_rto_seconds", drill.get("ready_seconds"), place)


def _of_state(phases: Mapping[str, Any], place: Mapping[str, str], given: Mapping[str, Any]) -> Iterator[Sample]:
    for phase in ("preflight_after", "preflight_again", "preflight"):
        checks = (phases.get(phase) or {}).get("checks")
        if checks is not None:
            seen = [LEVELS[-1] if check.get("waived") else check.get("level") for check in checks]
            for level in LEVELS:
                yield Sample("pgops_preflight_checks", float(seen.count(level)), {**place, "level": level})
            break
    findings = (phases.get("verify") or {}).get("findings")
    if findings is not None:
        failed = sum(1 for finding in findings if finding.get("level") == "fail")
        yield Sample("pgops_verify_failures", float(failed), place)
    counts = (phases.get("status") or {}).get("counts")
    # With a prefix the others were not counted.
    if counts is not None and "status_prefix" not in given:
        yield Sample("pgops_pending_versions", float(counts.get("pending", 0)), place)
        yield Sample("pgops_failed_versions", float(counts.get("failed", 0)), place)
    items = (phases.get("maintenance") or {}).get("counts")
    if items is not None:
        for state, number in items.items():
            yield from _some("pgops_maintenance_items", number, {**place, "state": str(state).replace(" ", "_")})
        yield from _some("pgops_maintenance_given_back_bytes", phases["maintenance"].get("given_back"), place)


def of_timers(environment: str, record: Mapping[str, Any], heartbeats: Mapping[str, Mapping[str, Any]]) -> list[Sample]:
    """:param record: which timers there are, as schedule.yml has left it
    :param heartbeats: job -> what its last run left
    :return: what each tells; of one that never ran, when it was installed and how often it is to run."""
    found: list[Sample] = []
    for name, job in (record.get("jobs") or {}).items():
        labels = {"environment": environment, "timer": str(name)}
        beat = heartbeats.get(name) or {}
        found += [
            *_some("pgops_timer_installed_timestamp_seconds", _moment(job.get("installed_at")), labels),
            *_some("pgops_timer_expected_interval_seconds", job.get("expected_every_s"), labels),
            *_some("pgops_timer_end_timestamp_seconds", _moment(beat.get("at")), labels),
            *_some("pgops_timer_last_success_timestamp_seconds", _moment(beat.get("last_success")), labels),
        ]
        if beat.get("result"):
            found.append(Sample("pgops_timer_success", float(beat["result"] == "success"), labels))
    return found


def merged(known: Iterable[Sample], new: Iterable[Sample], hosts: Iterable[str] | None = None) -> list[Sample]:
    """What is known after a run: its own values, and of all that it has not looked at the older ones.

    :param hosts: those of the environment's inventory; what is known of another one is forgotten. None keeps all.
    """
    new = list(new)
    replaced = {sample.key for sample in new}
    there = None if hosts is None else set(hosts)
    kept = [
        sample
        for sample in known
        if sample.key not in replaced and (there is None or sample.labels.get("host", None) in {None, *there})
    ]
    return sorted([*kept, *new], key=lambda sample: (sample.name, *sample.labels.values()))


def _moment(text: Any) -> float | None:
    found = timer_state.moment(text) if text else None
    return found.timestamp() if found else None


def _some(name: str, value: Any, labels: Mapping[str, str]) -> list[Sample]:
    """:return: the sample, or none where there is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return []
    return [Sample(name, float(value), labels)]
