# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which safeguard of the HIPAA Security Rule has which evidence in the audit of a period. Where there is none, it says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from ansible_collections.whitecross.pgops.plugins.plugin_utils.audit_period import Period

TEMPLATE = Path(__file__).parents[2] / "roles" / "audit" / "templates" / "hipaa.html.j2"
SHOWN = 20
NONE = "No evidence in this period."


@dataclass(frozen=True)
class Safeguard:
    """A paragraph of 45 CFR part 164, what it asks for in our words, and the sentences that answer."""

    paragraph: str
    asks: str
    evidence: list[str]


def safeguards(period: Period, checked: Mapping[str, Any]) -> list[Safeguard]:
    """:param checked: the verifier's result, as a mapping.
    :return: in the order of the rule; each has at least one sentence."""
    rows = [
        ("164.308(a)(1)(ii)(D)", "Records of activity are reviewed regularly", _review(period)),
        ("164.308(a)(6)(ii)", "Incidents are answered and documented", _incidents(period)),
        ("164.308(a)(7)(ii)(A)", "Exact copies that can be retrieved", _backups(period)),
        ("164.308(a)(7)(ii)(B)", "Lost data can be restored", _restores(period)),
        ("164.312(a)(1)", "Only who is allowed has access", _access(period)),
        ("164.312(a)(2)(iv)", "Encryption at rest (addressable)", _window(period, "encryption_at_rest")),
        ("164.312(b)", "Activity in systems with PHI is recorded", _recorded(period, checked)),
        ("164.312(c)(1)", "PHI is not altered or destroyed improperly", _integrity(period)),
        ("164.312(e)(1)", "PHI is protected in transit", _window(period, "encryption_in_transit")),
        ("164.316(b)(2)(i)", "Documentation is kept for six years", _retention(period)),
    ]
    return [Safeguard(paragraph, asks, list(evidence) or [NONE]) for paragraph, asks, evidence in rows]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _review(period: Period) -> Iterator[str]:
    signed = sorted({str(record["run_id"]) for record in period.records if record.get("signed_off_by")})
    owed = sorted({str(record["run_id"]) for record in period.records if not record.get("signed_off_by")})
    if signed:
        yield f"{len(signed)} runs are signed off by a reviewer: {_listed(signed)}."
    if owed:
        yield f"NOT signed off by a reviewer: {_listed(owed)}."


def _incidents(period: Period) -> Iterator[str]:
    for run in period.runs:
        issues = (run.get("execution_log") or {}).get("issues") or []
        if issues:
            yield f"Run {run['run_id']} ({run.get('status')}): {issues[0]}"
        glass = run.get("break_glass")
        if glass:
            yield f"Run {run['run_id']}: {glass.get('told')}."
    count = period.events.get("break_glass", 0)
    if count:
        yield f"{count} rules were broken with a typed reason."
    if period.runs and not any((run.get("execution_log") or {}).get("issues") for run in period.runs):
        yield f"None of {len(period.runs)} runs had an issue."


def _backups(period: Period) -> Iterator[str]:
    made = [record for record in period.records if record.get("backup_location")]
    proved = [record for record in made if record.get("backup_proved_at")]
    if made:
        yield f"{len(made)} changes had a backup before them, {len(proved)} of these proved by a restore that was compared."
    bare = [
        str(record["migration"])
        for record in period.records
        if record.get("migration") and not record.get("backup_location")
    ]
    if bare:
        yield f"NO backup is recorded for {_listed(bare)}."
    if period.events.get("backup_deleted"):
        yield f"{period.events['backup_deleted']} backups were deleted by the rules of retention, each with a row."


def _restores(period: Period) -> Iterator[str]:
    for event, told in (
        ("database_swapped", "restores took the place of a database"),
        ("cluster_restored", "restores of the whole cluster to a point in time"),
        ("reverted", "versions went back by their way down"),
    ):
        if period.events.get(event):
            yield f"{period.events[event]} {told}."
    tested = [str(record["migration"]) for record in period.records if record.get("rollback_tested")]
    if tested:
        yield f"The way back was rehearsed on a restored copy for {_listed(tested)}."


def _access(period: Period) -> Iterator[str]:
    people = sorted({str(record["executor"]) for record in period.records if record.get("executor")})
    accounts = sorted({str(record["service_account"]) for record in period.records if record.get("service_account")})
    if people:
        yield f"Changes were made by {_listed(people)}, through the accounts {_listed(accounts)}."
    for run in period.runs:
        access = run.get("phi_access") or {}
        public = sorted(table for table, found in access.items() if "PUBLIC" in found["may_read"])
        if public:
            yield f"Run {run['run_id']} touched PHI that EVERYBODY may read: {_listed(public)}."
        bare = sorted(table for table, found in access.items() if not found["row_security"])
        if bare:
            yield f"Run {run['run_id']} touched PHI without row-level security: {_listed(bare)}."
        readers = sorted({role for found in access.values() for role in found["may_read"]} - {"PUBLIC"})
        if readers:
            yield f"Run {run['run_id']} touched PHI that these roles may read: {_listed(readers)}."
        window = run.get("phi_window") or {}
        if window.get("sessions"):
            others = [f"{one.get('user')} ({one.get('application_name') or 'no name'})" for one in window["sessions"]]
            yield f"Run {run['run_id']} touched PHI; sessions seen meanwhile: {_listed(others)}."


def _window(period: Period, key: str) -> Iterator[str]:
    for run in period.runs:
        told = (run.get("phi_window") or {}).get(key)
        if told:
            yield f"Run {run['run_id']}: {told}."


def _recorded(period: Period, checked: Mapping[str, Any]) -> Iterator[str]:
    words = {0: "holds", 1: "was TAMPERED WITH", 3: "holds as far as can be seen, and something needs an explanation"}
    yield (
        f"{period.rows} rows of the audit in this period; the chain of {checked['rows']} rows {words.get(checked['exit_code'], 'was not checked')}, "
        f"against {checked['anchors']} anchors outside of the database."
    )
    yield from (finding["sentence"] for finding in checked["findings"][:SHOWN])
    touched = sorted({str(record["run_id"]) for record in period.records if record.get("phi_impact")})
    for run in period.runs:
        window = run.get("phi_window") or {}
        if window.get("logging"):
            yield f"Run {run['run_id']}: statements were logged by {window['logging']} from {window.get('opened')} to {window.get('closed')}."
    yield from _searches(period)
    logged = {str(run["run_id"]) for run in period.runs if (run.get("phi_window") or {}).get("logging")}
    bare = [run for run in touched if run not in logged]
    if bare:
        yield f"NO logging of statements is recorded for runs that touched PHI: {_listed(bare)}."


def _searches(period: Period) -> Iterator[str]:
    """As the newest run has found it: what stood there before is that run's own row."""
    run = next((run for run in reversed(period.runs) if run.get("phi_searches")), None)
    if run is None:
        return
    found = run["phi_searches"]
    if found["not_logged"]:
        yield f"Queries through indexes of PHI are NOT logged: {_listed(found['not_logged'])} (run {run['run_id']})."
    else:
        yield f"Every query through indexes of PHI is logged by {found['logged_by']}: {_listed(found['indexes'])} (run {run['run_id']})."
    if found["exceptions"]:
        yield f"Set otherwise for {_listed(found['exceptions'])}."


def _integrity(period: Period) -> Iterator[str]:
    for run in period.runs:
        for version in run.get("migrations") or []:
            if version.get("phi") and version.get("transformations"):
                steps = [_step(step) for step in version["transformations"]]
                yield f"Version {version['version']} ({version.get('name')}, run {run['run_id']}) did to PHI: {_listed(steps)}."
    for word in ("passed", "failed", "not run"):
        runs = sorted({str(record["run_id"]) for record in period.records if record.get("verification_status") == word})
        if runs:
            yield f"Verification {word} after {len(runs)} runs: {_listed(runs)}."


def _step(step: Mapping[str, Any]) -> str:
    rows = f", {step['rows']} rows" if step.get("rows") is not None else ""
    return f"{step.get('name') or step.get('step')} ({step.get('kind')}{rows})"


def _retention(period: Period) -> Iterator[str]:
    for run in period.runs:
        kept = run.get("retention")
        if kept and kept["fewer"]:
            fewer = [f"{item['table']} from {item['before']} to {item['after']}" for item in kept["fewer"]]
            yield f"Run {run['run_id']} touched PHI; FEWER rows than before: {_listed(fewer)}."
        elif kept:
            told = (
                "no table has fewer rows than before" if kept["compared"] else "rows before and after were NOT compared"
            )
            yield f"Run {run['run_id']} touched PHI; {told}."
    if period.first:
        yield (
            f"The first row of the chain in the database is of {period.first[:10]}. Six years are the law's; the platform keeps seven by "
            "its own choice, and the law sets no period for backups."
        )


def context(period: Period, checked: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """:return: what both forms of the page are made of."""
    return {
        "period": period,
        "database": head.get("database"),
        "safeguards": safeguards(period, checked),
        "checked": checked,
    }


def as_page(period: Period, checked: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    """:return: one page of HTML that needs nothing else."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**context(period, checked, head))


def as_markdown(period: Period, checked: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    """:return: the same as Markdown."""
    lines = [f"# HIPAA safeguards of {head.get('database')}, {period.since} to {period.until}", ""]
    for safeguard in safeguards(period, checked):
        lines += [
            f"## {safeguard.paragraph} {safeguard.asks}",
            "",
            *(f"- {sentence}" for sentence in safeguard.evidence),
            "",
        ]
    return "\n".join(lines)
