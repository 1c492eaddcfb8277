# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run leaves behind: its report as JSON and as a page, its log, the file of ``pgops_json``, lines on the screen.

All of it is made from the run's journal, so that a run that was killed has the same report as one that ended, and the
action ``report`` and the callback ``record`` cannot tell different stories.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.command_text import is_command
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    application_hooks,
    checklist,
    contacts,
    failed_rollback,
    five_aims,
    fleet_summary,
    gate_verdict,
    incident,
    index_watch,
    report_page,
    report_timeline,
    resumed_run,
    rollback_advice,
    run_outcome,
    run_parts,
    six_steps,
    typed_commands,
    unlooked_versions,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import (
    Journal,
    now,
    without_secrets,
    write_private_file,
)

SUCCEEDED = "succeeded"
FAILED = "failed"
INTERRUPTED = "interrupted"

# How many tables whose rows changed a line on the screen names; the report has all.
ROWS_SHOWN = 5

# Phases of a migration that have nothing to do when nothing is pending.
_ONLY_WITH_PENDING = ("backup", "prove", "rehearse", "gate", "apply", "analyze")
# What the journal keeps of a run besides its phases.
_RUN_KEYS = (
    "environment",
    "playbook",
    "command",
    "limit",
    "who",
    "ops_host",
    "hosts",
    "phases",
    "tags",
    "skip_tags",
    "extra_variables",
    "check_mode",
    "hooks",
    "production",
    "contacts",
    "why",
    "emergency",
    "window",
    "part_of",
    "stage",
)


def _seconds_between(start: str | None, end: str | None) -> float | None:
    try:
        return round((datetime.fromisoformat(str(end)) - datetime.fromisoformat(str(start))).total_seconds(), 3)
    except ValueError:
        return None


def as_list(value: Any) -> list[str]:
    """``value`` as a list of texts: commands come as one, as several, or not at all."""
    if value in (None, "", [], {}):
        return []
    if isinstance(value, Mapping):
        value = list(value.values())
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]


def error_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """The error of a failed task's result or journal event, with what a machine needs and no traceback.

    :returns: ``message``, ``sqlstate`` (None where no statement failed), ``next`` (commands; what is none is the ``hint``), and of ``statement``,
        ``location``, ``database``, ``hint``, ``applied``, ``not_applied`` what there is; ``statements``, what :func:`build`
        puts before the commands
    """
    message = str(result.get("message") or result.get("msg") or "failed").strip()
    error: dict[str, Any] = {
        "message": message,
        "sqlstate": result.get("sqlstate"),
        "next": [command for command in as_list(result.get("next")) if is_command(command)],
    }
    for name in ("statement", "location", "database", "object", "hint", "applied", "not_applied", "phase", "host"):
        if result.get(name) not in (None, ""):
            error[name] = result[name]
    if result.get("statements"):
        error["statements"] = as_list(result["statements"])
    told = [text for text in as_list(result.get("next")) if not is_command(text)]
    if told:
        error.setdefault("hint", "; ".join(told))
    return dict(without_secrets(error))


def _phases(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    running: dict[tuple[Any, Any], dict[str, Any]] = {}
    for event in events:
        kind, key = event.get("event"), (event.get("phase"), event.get("host"))
        if kind == "phase_started":
            row = {
                "phase": event.get("phase"),
                "host": event.get("host"),
                "step": event.get("step"),
                "started": event.get("time"),
                "ended": None,
                "duration_s": None,
                "result": "unfinished",
                "error": None,
            }
            rows.append(row)
            running[key] = row
        elif kind in ("phase_finished", "phase_failed") and key in running:
            row = running.pop(key)
            row["duration_s"], row["ended"] = event.get("duration_s"), event.get("time")
            if kind == "phase_failed":
                row["result"] = "failed"
                for word in ("refused", "unknown"):
                    if (event.get("error") or {}).get(word):
                        row[word] = True
                row["error"] = error_of(
                    {**(event.get("error") or {}), "phase": event.get("phase"), "host": event.get("host")}
                )
            else:
                row["result"] = "skipped" if event.get("skipped") else "changed" if event.get("changed") else "ok"
    return rows


def _results(events: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """host -> database -> phase -> result."""
    hosts: dict[str, dict[str, dict[str, Any]]] = {}
    for event in events:
        if event.get("event") in ("phase_finished", "phase_failed") and event.get("host"):
            databases = hosts.setdefault(str(event["host"]), {})
            for database, result in (event.get("result") or {}).items():
                databases.setdefault(database, {})[str(event["phase"])] = result
    return hosts


def _versions(hosts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Every version that was worked on, with its seconds: in any phase's result, a list of mappings that have both."""
    found = []
    for host, databases in hosts.items():
        for database, phases in databases.items():
            for phase, result in phases.items():
                if phase not in ("apply", "revert") or not isinstance(result, Mapping):
                    continue
                for items in result.values():
                    for item in items if isinstance(items, list) else []:
                        if isinstance(item, Mapping) and item.get("version") and item.get("duration_s") is not None:
                            version = {"host": host, "database": database, "phase": phase, **item}
                            if phase == "apply":
                                _tell_forecast(version, phases.get("rehearsal_actual") or {})
                            expected = version.get("expected_s")
                            if expected is not None:
                                version["slower"] = float(version["duration_s"]) > float(expected)
                            found.append(version)
    return found


def _tell_forecast(version: dict[str, Any], rehearsed: Mapping[str, Any]) -> None:
    """Put what its rehearsal foretold beside the seconds of each step."""
    foretold = {
        step["ordinal"]: step["forecast"]
        for step in rehearsed.get("steps") or []
        if step["version"] == version["version"]
    }
    if foretold:
        version["step_durations"] = [
            {**step, "forecast_s": foretold[step["step"]]} if step["step"] in foretold else step
            for step in version.get("step_durations") or []
        ]


def pending(hosts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> bool:
    """Whether a plan of the run found anything to apply; True where no plan was made."""
    plans = [phases["plan"] for databases in hosts.values() for phases in databases.values() if "plan" in phases]
    return not plans or any(plan.get("pending") for plan in plans)


def missing_phase(run: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], is_pending: bool) -> str | None:
    """The first phase of a migration that was due and left no trace, or None.

    What fails outside a phase, such as a role's argument of the wrong type, leaves no event; without this the run would
    be taken for a success.
    """
    if run.get("playbook") != "migrate":
        return None
    tags = set(run.get("tags") or ["all"])
    skipped = set(run.get("skip_tags") or [])
    # In check mode a phase that cannot be foretold (there is no backup to prove) leaves nothing.
    is_pending = is_pending and not run.get("check_mode")
    seen = {row["phase"] for row in rows if row["result"] != "unfinished"}
    for phase in run.get("phases") or []:
        if phase == "report" or phase in seen or phase in skipped or not (phase in tags or "all" in tags):
            continue
        if is_pending or phase not in _ONLY_WITH_PENDING:
            return str(phase)
    return None


def build(
    events: list[dict[str, Any]],
    *,
    run: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
    interrupted: bool = False,
) -> dict[str, Any]:
    """The report of a run.

    :param events: its journal
    :param run: the guard's record of it; in check mode there is no journal that has it
    :param error: what failed outside a phase; where a phase failed, that is the error
    :param interrupted: the run ended by Ctrl-C or a signal
    :returns: plain data, see docs/report.md
    """
    began = next((event for event in events if event.get("event") == "run_started"), {})
    facts = {**(run or {}), **{key: began[key] for key in _RUN_KEYS if key in began}}
    if resumed_run.has_begun_to_apply(events) and typed_commands.GIVEN in facts:
        # What goes on now is a run of its own.
        facts = typed_commands.without(facts, ["pgops_run_id"])
    rows = _phases(events)
    hosts = _results(events)
    failures = [row["error"] for row in rows if row["error"]]
    ended = next((event for event in reversed(events) if event.get("event") in ("run_failed", "interrupted")), None)
    cause = failures[0] if failures else error_of(error) if error else None
    if error and error.get("unreachable"):
        # The phase knows ssh's words only, the callback says what to do.
        cause = error_of(error)
    if cause is None and ended is not None and ended.get("error"):
        cause = error_of(ended["error"])
    interrupted = interrupted or bool(ended and ended["event"] == "interrupted")
    if cause is None and not interrupted:
        broken = next((row["phase"] for row in rows if row["result"] == "unfinished"), None)
        missing = broken or (missing_phase(facts, rows, pending(hosts)) if facts.get("id") or began else None)
        if missing:
            cause = error_of({"message": f"The run ended before the phase {missing} was done; its output says why"})
    if cause is None and interrupted:
        cause = _interruption(facts, rows, hosts)
    if cause is not None:
        _go_no_further_back(cause, facts, rows, hosts)
    if cause is not None and not cause["next"]:
        cause["next"] = next_commands(facts, way_back(facts, rows, hosts), confirmed_reverts(events))
    if cause is not None:
        cause["next"] = list(dict.fromkeys([*cause.pop("statements", []), *cause["next"]]))
    ok = cause is None and not interrupted
    started = began.get("time") or facts.get("started")
    finished = now()
    fleet = fleet_summary.members(events, facts.get("hosts") or [], hosts)
    if cause is not None and facts.get("playbook") == "migrate" and facts.get("environment"):
        again = fleet_summary.only_failed(facts, fleet)
        if again and (error or {}).get("unreachable"):
            # What mends the host is not all: the others wait for the command that was typed.
            again.insert(0, typed_commands.again(facts, str(facts.get("limit") or facts["environment"])))
        cause["next"] = list(dict.fromkeys([*cause["next"], *again]))
    hooks = run_outcome.hooks(facts.get("playbook"), ok, facts.get("hooks") or [], events)
    if cause is not None and facts.get("environment"):
        _tell_away(cause, run_outcome.not_brought_back(hooks), facts)
    known = {**facts, "id": began.get("run_id") or facts.get("id") or began.get("id")}
    advice = rollback_advice.advise(known, events, rows, hosts, interrupted=interrupted)
    automatic = incident.rolled_back_by_itself(events)
    if cause is not None and automatic:
        _gone_back(cause, advice, automatic)
    return {
        "run_id": began.get("run_id") or facts.get("id") or began.get("id"),
        **{key: facts.get(key) for key in _RUN_KEYS if key != "hooks"},
        "started": started,
        "finished": finished,
        "duration_s": _seconds_between(started, finished),
        "result": INTERRUPTED if interrupted else FAILED if cause else SUCCEEDED,
        "ok": ok,
        "state": run_outcome.ROLLED_BACK
        if automatic and automatic["ok"]
        else run_outcome.final_state(facts.get("playbook"), ok, rows, hosts)
        if run_parts.may_change(facts)
        else None,
        "steps": rows,
        "six_steps": six_steps.of(rows, hosts, ok=ok, goes_back=run_parts.may_change(facts))
        if facts.get("playbook") == "rollback" and not facts.get("check_mode")
        else [],
        "versions": _versions(hosts),
        "results": hosts,
        "hooks": hooks,
        "latency": report_timeline.latency(events),
        "fleet": fleet if facts.get("playbook") == "migrate" else [],
        "aims": five_aims.of(events, hosts)
        if five_aims.due(facts.get("playbook"), rows) and run_parts.may_change(facts)
        else [],
        "index_use": index_watch.of(events),
        "break_glass": gate_verdict.broken(hosts),
        "advice": advice,
        "automatic": automatic,
        "error": cause,
        "next": cause["next"] if cause else _after_success(facts, rows, hosts),
    }


def _after_success(
    run: Mapping[str, Any], rows: list[dict[str, Any]], hosts: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> list[str]:
    """What is typed after a run that did what was asked for: that very thing after a check, else the look and the way back."""
    if not run.get("environment") or run.get("playbook") not in run_outcome.WITH_HOOKS:
        return []
    limit = str(run.get("limit") or run["environment"])
    if run.get("check_mode"):
        return [typed_commands.again(typed_commands.whole(run), limit)]
    back = way_back(run, rows, hosts)
    return [typed_commands.other(run, "status", limit), *([back] if back else [])]


def _tell_away(cause: dict[str, Any], away: Sequence[str], run: Mapping[str, Any]) -> None:
    """Whatever ended the run: that users are kept out is said at its end, and what mends that is typed first."""
    if not away:
        return
    command = typed_commands.other(run, "hooks", str(run.get("limit") or run["environment"]))
    message = cause["message"].replace(application_hooks.COMES_BACK, "")
    message = message.replace(f"; {application_hooks.IS_AWAY}{command}", "").rstrip(".")
    message += f". NOT brought back: {', '.join(away)}. Mend it and type: {command}"
    cause.update(message=message, next=list(dict.fromkeys([command, *cause["next"]])))


def _gone_back(cause: dict[str, Any], advice: dict[str, Any] | None, automatic: Mapping[str, Any]) -> None:
    """Nobody is told to go back where the run has done so itself; where that failed, what it says comes first."""
    if not automatic["ok"]:
        cause["next"] = list(dict.fromkeys([*automatic["next"], *cause["next"]]))
        return
    back = [command for command in cause["next"] if "rollback" in command.partition(" -")[0]]
    cause["next"] = [command for command in cause["next"] if command not in back]
    for command in back:
        for words in (f"; to go back: {command}", f" to go back: {command}"):
            cause["message"] = cause["message"].replace(words, "")
    if advice:
        advice["commands"] = []


def _pending_versions(hosts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """The versions that the plan of the run had still to apply, of all its databases."""
    return sorted(
        {
            str(item["version"])
            for databases in hosts.values()
            for phases in databases.values()
            for item in (phases.get("plan") or {}).get("pending") or []
            if isinstance(item, Mapping) and item.get("version")
        }
    )


def _unfinished(rows: Iterable[Mapping[str, Any]]) -> str | None:
    return next((str(row["phase"]) for row in rows if row["result"] == "unfinished"), None)


def _interruption(
    run: Mapping[str, Any],
    rows: list[dict[str, Any]],
    hosts: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> dict[str, Any]:
    """What the journal knows of a run that Ctrl-C or a signal has ended."""
    phase = _unfinished(rows)
    versions = _pending_versions(hosts)
    last = f"after the phase {rows[-1]['phase']}" if rows else "before its first phase"
    told = f"The run was interrupted {f'in the phase {phase}' if phase else last}; "
    if versions:
        told += f"the plan had pending {', '.join(versions)}; "
    if run.get("playbook") == "migrate" and not any(row["phase"] == "apply" for row in rows):
        told += "nothing was applied by it; "
    told += "what had begun ends at its next safe point, and status.yml tells how far it is"
    cause = error_of({"message": told, "phase": phase})
    if versions:
        cause["pending"] = versions
    return cause


def way_back(
    run: Mapping[str, Any],
    rows: Iterable[Mapping[str, Any]],
    hosts: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> str | None:
    """The command that undoes a migration that began to apply, or None where there is nothing to undo."""
    versions = _pending_versions(hosts)
    began = any(row["phase"] == "apply" and not row.get("refused") for row in rows)
    if run.get("playbook") != "migrate" or run.get("check_mode") or not (began and versions and run.get("environment")):
        return None
    limit = str(run.get("limit") or run["environment"])
    return typed_commands.other(run, "rollback", limit, {"rollback_through": versions[0]})


def _go_no_further_back(
    cause: dict[str, Any],
    run: Mapping[str, Any],
    rows: Iterable[Mapping[str, Any]],
    hosts: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> None:
    """Behind a swap the command that was typed would choose anew, from a ledger that is the backup's by now: in its place stand
    the look and the way back, and where nobody knows whether names were swapped, the backup is named."""
    if run.get("playbook") != "rollback" or run.get("check_mode") or not run.get("environment"):
        return
    back, named = [], []
    unknown = {str(row["host"]) for row in rows if row["phase"] == "swap" and row["result"] in ("unfinished", "failed")}
    for host, databases in hosts.items():
        limit = host if len(run.get("hosts") or hosts) > 1 else str(run.get("limit") or run["environment"])
        for database, phases in databases.items():
            swapped = [
                str(found["way_back"])
                for found in phases.values()
                if isinstance(found, Mapping) and found.get("way_back")
            ]
            backup = (phases.get("disclose") or {}).get("backup")
            back += swapped
            if host in unknown and backup and not swapped:
                choice: dict[str, Any] = {"rollback_strategy": "restore", "rollback_backup": str(backup)}
                if len(databases) > 1:
                    choice["pgops_databases"] = [database]
                named.append(typed_commands.other(run, "rollback", limit, choice))
    if not back and not named:
        return
    again = typed_commands.again(run, str(run.get("limit") or run["environment"]))
    own = [command for command in cause["next"] if command != again]
    look = typed_commands.other(run, "verify" if back else "status", str(run.get("limit") or run["environment"]))
    cause["next"] = list(dict.fromkeys([*own, look, *back, *named]))


def confirmed_reverts(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """The versions that a rollback by down migrations had confirmed when it began to revert, of all its databases, oldest first."""
    return sorted(
        {
            str(version)
            for event in events
            if event.get("event") == "phase_started" and event.get("phase") == "revert"
            for versions in (event.get("versions") or {}).values()
            for version in versions
        }
    )


def next_commands(run: Mapping[str, Any], back: str | None = None, reverting: Sequence[str] = ()) -> list[str]:
    """What to type after a failure that names no command itself: look, then go on, or go back where that is known.

    :param reverting: versions that a rollback may have reverted in part. The command that was typed would choose anew, from
        what is applied by now, and go further back than was asked for: so the oldest of them is named.
    """
    if not run.get("environment"):
        return []
    limit = str(run.get("limit") or run["environment"])
    known = {
        "command": f"ansible-playbook {run.get('playbook') or 'migrate'}.yml",
        **{k: v for k, v in run.items() if v},
    }
    named = {f"rollback_{name}" for name in ("keep", "through", "version")} & set(typed_commands.typed_variables(known))
    choice = {"rollback_through": reverting[0]} if reverting and not named else {}
    look, on = typed_commands.other(known, "status", limit), typed_commands.again(known, limit, choice)
    return list(dict.fromkeys([look, on, *([back] if back else [])]))


# -- for machines -------------------------------------------------------------------------------------------------------


def result_document(report: Mapping[str, Any], report_file: str | None = None) -> dict[str, Any]:
    """The content of ``pgops_json``; docs/json.md is its schema.

    :param report: as :func:`build` makes it
    :param report_file: where the page is, None where none was written
    """
    error = report["error"]
    return {
        "playbook": report["playbook"],
        "ok": report["ok"],
        "environment": report["environment"],
        "hosts": report["results"],
        "error": error,
        "run_id": report["run_id"],
        "duration_s": report["duration_s"],
        "state": report["state"],
        "check_mode": bool(report["check_mode"]),
        "hooks": report["hooks"],
        "report": report_file,
        **({"fleet": report["fleet"]} if report["fleet"] else {}),
        **({"steps": report["six_steps"]} if report.get("six_steps") else {}),
        **{
            name: report[name]
            for name in (
                "aims",
                "index_use",
                "break_glass",
                "advice",
                "automatic",
                "incident",
                "checklist",
                "after_failure",
                "emergency",
                "window",
            )
            if report.get(name)
        },
        **({"contacts": report["contacts"]} if report["contacts"] and not report["ok"] else {}),
    }


def write_result(path: str | Path, document: Mapping[str, Any]) -> None:
    """Write the file of ``pgops_json``: whole or not at all, 0600, in a folder that may have to be made.

    :raises OSError: it cannot be written
    """
    write_private_file(
        Path(path).expanduser(), json.dumps(without_secrets(document), indent=2, ensure_ascii=False) + "\n"
    )


def write_begun(path: str | Path, playbook: str) -> None:
    """Write the file of ``pgops_json`` of a run that begins; the run's end puts its result in the place.

    :raises OSError: it cannot be written
    """
    told = f"The run that began at {now()} has not ended, or was killed before it could tell its result"
    write_result(path, result_document(build([], run={"playbook": playbook}, error={"message": told})))


# -- for people ---------------------------------------------------------------------------------------------------------


def size(number: Any) -> str:
    """Bytes as a person reads them."""
    try:
        amount = float(number or 0)
    except (TypeError, ValueError):
        return str(number)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 10240:
            return f"{amount:.0f} {unit}"
        amount /= 1024
    return f"{amount:.0f} TB"


def seconds(number: Any) -> str:
    """A duration as a person reads it; empty where it is not known."""
    if number is None:
        return ""
    try:
        value = float(number)
    except (TypeError, ValueError):
        return str(number)
    if value < 60:
        return f"{value:.2f} s"
    return f"{int(value // 60)} min {value % 60:.0f} s"


def health_table(database: str, found: Mapping[str, Any]) -> list[str]:
    """The lines of a preflight report: one for all that is well, two for each check that is not."""
    checks = found.get("checks") or []
    facts = found.get("facts") or {}
    count = {level: sum(1 for check in checks if check["level"] == level) for level in ("ok", "warn", "stop")}
    told = ", ".join(f"{number} {level}" for level, number in count.items() if number or level == "ok")
    about = ""
    if facts:
        about = (
            f" (PostgreSQL {facts.get('server_version')}, {size(facts.get('size_bytes'))}, {facts.get('connections')} connections, "
            f"{facts.get('waiting_locks')} locks not granted, {facts.get('long_transactions')} transactions over 5 minutes)"
        )
    lines = [f"    health of {database}: {told}{about}"]
    # What cannot be seen for one reason is one line, however many checks are blind for it.
    blind: dict[tuple[str, str], list[str]] = {}
    for check in checks:
        if check.get("unknown") and not check.get("waived"):
            blind.setdefault((check["evidence"], check["fix"]), []).append(check["check"])
    for check in checks:
        hidden = check.get("unknown") and not check.get("waived")
        names = blind.pop((check["evidence"], check["fix"]), []) if hidden else [check["check"]]
        if check["level"] == "ok" or not names:
            continue
        level = "waived" if check.get("waived") else "unknown" if check.get("unknown") else check["level"]
        # One word a column, as long as there is one.
        lines.append(f"    {level:<7}{' ' if len(level) > 6 else ''}{', '.join(names):<24} {check['evidence']}")
        if check.get("waived"):
            lines.append(f"    {'':<31} waived: {check['waived']}")
            continue
        if check.get("waiver_expired"):
            lines.append(f"    {'':<31} its waiver is no longer in force: {check['waiver_expired']}")
        if check.get("fix"):
            lines.append(f"    {'':<31} fix: {check['fix']}")
    if "worse" in found:
        changes = [f"{change['check']} {change['before']} -> {change['after']}" for change in found["worse"]]
        lines.append(f"    compared with before: {'worse: ' + ', '.join(changes) if changes else 'nothing is worse'}")
        if found.get("better"):
            lines[-1] += "; better: " + ", ".join(change["check"] for change in found["better"])
    if "rows" in found:
        lines += [f"    {line}" for line in _rows_lines(found["rows"])]
    return lines


def clients(health: Mapping[str, Any], since: str) -> str:
    """How the clients of a database are, ``well: 14 transactions after it; standbys 0 s behind``.

    :param since: since when they were watched
    """
    told = f"{health['transactions']} transactions {since}"
    if health["error_rate"] is not None:
        told += f", {health['error_rate']:.1f} % rolled back"
    if health["probe_ms"] is not None:
        told += f"; probe {health['probe_ms']:.1f} ms"
    lag = health["replication_lag_s"]
    told += (
        "; standbys unseen (GRANT pg_read_all_stats TO the migrator)"
        if lag is None
        else f"; standbys {lag:.0f} s behind"
    )
    return f"not well: {'; '.join(health['findings'])} ({told})" if health["findings"] else f"well: {told}"


def rows_changed(tables: Sequence[Mapping[str, Any]], shown: int | None = None) -> str:
    """Tables whose rows are not those of before, ``public.a 12 to 7``; the first ``shown`` of them."""

    def told(table: Mapping[str, Any]) -> str:
        about = "about " if table["estimate"] else ""
        if table["before"] is None:
            return f"{table['table']} is new with {about}{table['after']:,}"
        now = "gone" if table["after"] is None else f"{about}{table['after']:,}"
        return f"{table['table']} {about}{table['before']:,} to {now}"

    more = f" and {len(tables) - shown} more" if shown is not None and len(tables) > shown else ""
    return ", ".join(told(table) for table in tables[:shown]) + more


def _rows_lines(rows: Mapping[str, Any]) -> list[str]:
    """A fall stands as a warning, since rows seldom go by themselves; a rise is what the migration or a client wrote."""
    lines = []
    if rows["fewer"]:
        lines.append(f"{'warn':<7}{'rows':<24} fewer than before: {rows_changed(rows['fewer'], ROWS_SHOWN)}")
    told = f"rows compared with before: the same in {rows['same']} tables"
    if rows["more"]:
        told += f"; more: {rows_changed(rows['more'], ROWS_SHOWN)}"
    if rows["not_compared"]:
        told += f"; {len(rows['not_compared'])} not compared, as they were not counted both times"
    return [*lines, told]


def _slower(version: Mapping[str, Any]) -> str:
    return f"took {float(version['duration_s']):.1f} s, expected {version['expected_s']} s"


def screen(report: Mapping[str, Any], page: str | None) -> list[str]:
    """The last lines of a run: seconds a version and in all (R1.27), what failed and what to type, where the report is."""
    lines = []
    several = len({(item["host"], item["database"]) for item in [*report["versions"], *report["fleet"]]}) > 1
    for version in report["versions"]:
        where = f" in {version['database']} on {version['host']}" if several else ""
        done = version.get("state") or ("reverted" if version["phase"] == "revert" else "applied")
        name = f" {version['name']}" if version.get("name") else ""
        lines.append(f"    {version['version']}{name}{where}: {done} in {float(version['duration_s']):.2f} s")
        if version.get("slower"):
            lines.append(f"    warn   {version['version']}{where}: {_slower(version)}")
    unlooked = unlooked_versions.of_check(report)
    ended = "ended, with versions not looked at," if unlooked and report["ok"] else report["result"]
    lines.append(
        f"pgops run {report['run_id']}: {report['playbook']} in {report['environment']} {ended} "
        f"{'in check mode, nothing was written, ' if report['check_mode'] and report['ok'] else ''}after {seconds(report['duration_s'])}, at {report['finished']}"
    )
    lines += [f"    {told}" for told in unlooked]
    lines += six_steps.lines(report.get("six_steps") or [])
    lines += five_aims.lines(report.get("aims") or [])
    lines += [f"    {told}" for told in index_watch.lines(report.get("index_use") or [])]
    lines += [f"    {told}" for told in report.get("break_glass") or []]
    if report["state"]:
        lines.append(f"    state: {report['state']}")
    hooks = run_outcome.hooks_line(report["hooks"])
    if hooks:
        lines.append(f"    {hooks}")
    lines += fleet_summary.lines(report["fleet"])
    error = report["error"]
    if error:
        lines.append(f"    {error['message']}")
        if error.get("hint") and str(error["hint"]) not in error["message"]:
            lines.append(f"    hint: {error['hint']}")
        lines.extend(f"    next: {command}" for command in error["next"])
    if report["advice"]:
        lines += rollback_advice.lines(report["advice"])
    if report["automatic"]:
        lines.append(f"    {report['automatic']['told']}")
    if report.get("after_failure"):
        lines += ["    the rollback failed; what is done now:", *failed_rollback.lines(report["after_failure"])]
    if error and report["contacts"]:
        lines += ["    call:", *(f"        {line}" for line in contacts.lines(report["contacts"]))]
    if report.get("incident"):
        lines.append(f"    incident record: {report['incident']}")
    if report.get("checklist"):
        lines.append(f"    checklist: {report['checklist']}")
    if page:
        lines.append(f"    report: {page}")
    return lines


def as_log(report: Mapping[str, Any]) -> str:
    """The run as a log that a person reads: banners, time stamps, steps (R6.7)."""
    rule = "=" * 78
    lines = [
        rule,
        f"{report['started']} START {report['playbook']} in {report['environment']}, run {report['run_id']}",
        f"{report['started']} by {report['who']} on {report['ops_host']}, hosts {', '.join(report['hosts'] or [])}",
        rule,
    ]
    for row in report["steps"]:
        label = f"{row['step']} ({row['phase']})" if row.get("step") else row["phase"]
        lines.append(f"{row['started']} {row['host']} {label}: {row['result']} {seconds(row['duration_s'])}".rstrip())
        # What is not stamped by itself is known to be done when its phase ended.
        ended = row["ended"] or report["finished"]
        lines.extend(f"{ended} {line}" for line in _done_by(row, report))
        if row["error"]:
            lines.append(f"{ended} {row['host']} {row['error']['message']}")
    for hook in report["hooks"]:
        where = f"{hook['host']} on {hook['on']} " if hook.get("on") else ""
        lines.append(f"{report['finished']} HOOK {where}{hook['label']}: {hook['done']}")
    lines += [f"{report['finished']} {line.strip()}" for line in six_steps.lines(report.get("six_steps") or [])]
    lines += [f"{report['finished']} AIM {line.strip()}" for line in five_aims.lines(report.get("aims") or [])]
    lines += [f"{report['finished']} INDEXES {told}" for told in index_watch.lines(report.get("index_use") or [])]
    lines += [f"{report['finished']} {told}" for told in report.get("break_glass") or []]
    if report["state"]:
        lines.append(f"{report['finished']} STATE {report['state']}")
    if report["error"]:
        lines.append(f"{report['finished']} ERROR {report['error']['message']}")
        if report["error"].get("hint"):
            lines.append(f"{report['finished']} HINT {report['error']['hint']}")
        lines.extend(f"{report['finished']} NEXT {command}" for command in report["error"]["next"])
    if report["advice"]:
        lines += [f"{report['finished']} ADVICE {line.strip()}" for line in rollback_advice.lines(report["advice"])]
    if report["automatic"]:
        lines.append(f"{report['finished']} ROLLBACK {report['automatic']['told']}")
    for line in failed_rollback.lines(report.get("after_failure") or []):
        lines.append(f"{report['finished']} NOW {line.strip()}")
    if report["error"] and report["contacts"]:
        lines += [f"{report['finished']} CALL {line}" for line in contacts.lines(report["contacts"])]
    lines += [rule, f"{report['finished']} END {report['result']} after {seconds(report['duration_s'])}", rule]
    return "\n".join(lines) + "\n"


def _done_by(row: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    """The backups that a phase has made, proved and deleted, and its versions."""
    lines = []
    host, phase = row["host"], row["phase"]
    for database, phases in (report["results"].get(str(host)) or {}).items():
        found = phases.get(phase) or {}
        if phase == "backup" and found.get("path"):
            lines.append(f"BACKUP {host} {database}: {found['path']} ({size(found.get('bytes'))})")
        if phase == "prove" and found.get("proved_at"):
            path = found.get("path") or (phases.get("backup") or {}).get("path")
            lines.append(f"PROVED {host} {database}: {path} at {found['proved_at']}")
        gone = (found.get("expired") or []) if phase == "backup_expire" else []
        lines.extend(f"DELETED {host} {database}: {entry['id']} ({entry['why']})" for entry in gone)
    for version in report["versions"]:
        if (version["host"], version["phase"]) == (host, phase):
            done = version.get("state") or ("reverted" if phase == "revert" else "applied")
            lines.append(f"{version['version']} {done} in {version['duration_s']} s")
            if version.get("slower"):
                lines.append(f"WARN {version['version']} {_slower(version)}")
    return lines


def as_page(report: Mapping[str, Any]) -> str:
    """The report as one page of HTML that needs nothing else."""
    filters: dict[str, Callable[..., Any]] = {
        "size": size,
        "seconds": seconds,
        "rows_changed": rows_changed,
        "advice_lines": rollback_advice.lines,
        "contact_lines": contacts.lines,
        "failure_lines": failed_rollback.lines,
        "index_lines": index_watch.lines,
    }
    return report_page.render(report, filters)


def files(state_directory: str | Path, environment: str, run_id: str) -> dict[str, Path]:
    """Where the report of a run lies: ``json``, ``html``, ``log``."""
    folder = Path(state_directory).expanduser() / "reports" / environment
    return {kind: folder / f"{run_id}.{kind}" for kind in ("json", "html", "log")}


def write(state_directory: str | Path, report: Mapping[str, Any]) -> dict[str, Path]:
    """Write the report: folder 0700, files 0600, each whole or not at all.

    :returns: kind -> file
    :raises OSError: they cannot be written
    """
    report = without_secrets(report)
    paths = files(state_directory, str(report["environment"]), str(report["run_id"]))
    if report.get("incident"):
        incident.write(state_directory, report, paths["json"])
    write_private_file(paths["json"], json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    write_private_file(paths["log"], as_log(report))
    write_private_file(paths["html"], as_page(report))
    return paths


def finish(
    state_directory: str | Path,
    run: Mapping[str, Any],
    *,
    error: Mapping[str, Any] | None = None,
    interrupted: bool = False,
) -> tuple[dict[str, Any], Path]:
    """End a run: its report from its journal, then the last event of the journal.

    Safe to call twice; the second call sees the first one's last event and only writes the report again.

    :returns: the report, and where its page is
    :raises OSError: the state directory cannot be written
    """
    journal = Journal(state_directory, str(run["environment"]), str(run["id"]))
    report = build(journal.events(), run=run, error=error, interrupted=interrupted)
    event = {SUCCEEDED: "run_finished", FAILED: "run_failed", INTERRUPTED: "interrupted"}[report["result"]]
    if not any(known.get("event") == event for known in journal.events()):
        last = {"event": event, "result": report["result"], "duration_s": report["duration_s"]}
        journal.append({**last, "error": report["error"]} if report["error"] else last)
    report["after_failure"] = incident.after_failure(state_directory, run, report)
    path = files(state_directory, str(report["environment"]), str(report["run_id"]))["json"]
    if incident.is_due(report):
        report["incident"] = str(path.with_suffix(".incident.md"))
    if checklist.is_due(report):
        report["checklist"] = str(checklist.file_of(path))
    written = write(state_directory, report)
    if report.get("checklist"):
        checklist.write(path, without_secrets(report), journal.events())
    return report, written["html"]
