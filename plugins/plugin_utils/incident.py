# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of an incident: what happened when, who did what, what is lost and kept, and what is due by when.

Made of the journals of the rollback and of the migration that it takes back, so that nobody has to take notes. It goes to people who may
see no data: objects and counts, no statement, no key and no value of a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    contacts,
    failed_rollback,
    losses,
    run_outcome,
    severity,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import (
    Journal,
    runs,
    without_secrets,
    write_private_file,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.rollback_targets import bare

# Of a rollback, what changes something. All else looks, asks or keeps: a run that came no further has changed nothing.
_CHANGES = frozenset({"revert", "restore", "swap", "lost_writes"})
# So many runs back the migration is looked for that a rollback takes back.
_LOOKED_BACK = 50


def rolled_back_by_itself(events: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """:return: of a migration that has begun a rollback itself: ``ok``, ``told``, ``next`` and its ``runs``; None where it has not."""
    events = list(events)
    started = [event for event in events if event.get("event") == "rollback_started"]
    if not started:
        return None
    ended = {event.get("number"): event for event in events if event.get("event") == "rollback_finished"}
    kept = ("ok", "run_id", "report", "state", "error")
    found: list[dict[str, Any]] = [
        {
            **{name: event.get(name) for name in ("host", "databases", "reason", "log")},
            **{name: (ended.get(event.get("number")) or {}).get(name) for name in kept},
        }
        for event in started
    ]
    failed = [one for one in found if not one["ok"]]
    told = "rolled back by itself: " + ", ".join(f"{', '.join(one['databases'])} on {one['host']}" for one in found)
    if failed:
        one = failed[0]
        why = (one["error"] or {}).get("message") or f"it was cut off, or goes on; its output is in {one['log']}"
        told = f"THE ROLLBACK of {', '.join(one['databases'])} on {one['host']} FAILED and nothing more is done by itself: {why}"
    commands = [command for one in failed for command in (one["error"] or {}).get("next") or []]
    return {"ok": not failed, "told": told, "next": commands, "runs": found}


def is_due(report: Mapping[str, Any]) -> bool:
    """Whether a run is one of which a record is kept: a rollback that began to change something, a migration that was rolled back or
    failed in production after it had begun to apply. What was refused before it began is none."""
    if report.get("check_mode") or not report.get("run_id"):
        return False
    phases = {str(row["phase"]) for row in report["steps"] if not row.get("refused")}
    if report["playbook"] == "rollback":
        return bool(phases & _CHANGES) or _resumed(report["steps"]) or report["state"] == run_outcome.PARTIAL
    if report["playbook"] != "migrate":
        return False
    return bool(report["automatic"]) or (bool(report.get("production")) and not report["ok"] and "apply" in phases)


def _resumed(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a change that had been cut off was brought to an end; each rollback looks for one, and nearly all find none."""
    return any(row["phase"] == "resume" and row["result"] == "changed" for row in rows)


def after_failure(
    state_directory: str | Path, run: Mapping[str, Any], report: Mapping[str, Any]
) -> list[dict[str, str]]:
    """:return: what is done now, where a rollback has failed in its middle; nothing for any other run."""
    if not failed_rollback.is_one(report):
        return []
    migration = _migration(state_directory, report)
    began = str(migration[0].get("time")) if migration else str(report["started"])
    return failed_rollback.steps(run, migration, report.get("contacts"), severity.post_mortem_by("P0", began))


def write(state_directory: str | Path, report: Mapping[str, Any], path: Path) -> None:
    """Write it beside the report, as JSON and as Markdown.

    :param path: the JSON file of the report
    :raises OSError: it cannot be written
    """
    made = record(state_directory, report)
    write_private_file(
        path.with_suffix(".incident.json"), json.dumps(without_secrets(made), indent=2, ensure_ascii=False) + "\n"
    )
    write_private_file(path.with_suffix(".incident.md"), as_markdown(made))


def record(state_directory: str | Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """:return: plain data, see docs/incident.md."""
    own = Journal(state_directory, str(report["environment"]), str(report["run_id"])).events()
    migration = _migration(state_directory, report) if report["playbook"] == "rollback" else None
    children = [
        Journal(state_directory, str(report["environment"]), str(one["run_id"])).events()
        for one in (report["automatic"] or {}).get("runs") or []
        if one.get("run_id")
    ]
    journals = [events for events in [migration or [], own, *children] if events]
    level = _level(report, state_directory, migration)
    began = str(journals[0][0].get("time") or report["started"])
    known = severity.SEVERITIES[level]
    error = report["error"]
    return {
        "incident": report["run_id"],
        "environment": report["environment"],
        "production": bool(report.get("production")),
        "severity": known.as_dict(),
        "what": _what(report, journals),
        "reason": report.get("why"),
        "emergency": report.get("emergency"),
        "window": report.get("window"),
        "result": report["result"],
        "state": report["state"],
        "error": bare(error["message"]) if error else None,
        "began": began,
        "ended": report["finished"],
        "who": list(dict.fromkeys(f"{events[0].get('who')} on {events[0].get('ops_host')}" for events in journals)),
        "runs": [_run(events) for events in journals],
        "timeline": _timeline(journals),
        "versions": [_version(one) for events in journals for one in _worked_on(events)],
        **_kept(journals),
        "due": severity.due(level, began),
        "post_mortem_by": severity.post_mortem_by(level, began),
        "next": list(report["next"]),
        "after_failure": list(report.get("after_failure") or []),
        "contacts": report.get("contacts") or {},
    }


def _migration(state_directory: str | Path, report: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """:return: the journal of the migration that this rollback takes back: the one that has begun it, or the last one that applied
    something to one of its hosts."""
    environment = str(report["environment"])
    if report.get("part_of"):
        return Journal(state_directory, environment, str(report["part_of"])).events()
    before = [run for run in runs(state_directory, environment) if run < str(report["run_id"])]
    for run in reversed(before[-_LOOKED_BACK:]):
        events = Journal(state_directory, environment, run).events()
        hosts = {event.get("host") for event in events if event.get("phase") == "apply"}
        if events and events[0].get("playbook") == "migrate" and hosts & set(report["hosts"] or []):
            return events
    return None


def _level(report: Mapping[str, Any], state_directory: str | Path, migration: list[dict[str, Any]] | None) -> str:
    """A rollback that fails is the worst there is; else it is as bad as what it takes back."""
    if (report["playbook"] == "rollback" and not report["ok"]) or (
        report["automatic"] and not report["automatic"]["ok"]
    ):
        return "P0"
    advice = report.get("advice") or _advice_of(state_directory, migration)
    return str(((advice or {}).get("severity") or {}).get("level") or severity.CRITERIA["migration_failed"].level)


def _advice_of(state_directory: str | Path, migration: list[dict[str, Any]] | None) -> Mapping[str, Any] | None:
    if not migration:
        return None
    begun = [event for event in migration if event.get("event") == "rollback_started"]
    if begun:
        return {"severity": {"level": begun[0].get("severity")}}
    first = migration[0]
    folder = Path(state_directory).expanduser() / "reports" / str(first.get("environment"))
    try:
        told = json.loads((folder / f"{first.get('run_id') or first.get('id')}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    advice = told.get("advice") if isinstance(told, dict) else None
    return advice if isinstance(advice, dict) else None


def _what(report: Mapping[str, Any], journals: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    databases = sorted({f"{name} on {host}" for host, found in report["results"].items() for name in found})
    where = ", ".join(databases) or "no database"
    if report["playbook"] == "rollback":
        if report["ok"] and _only_undone(report):
            return f"{where}: a change that was cut off was undone"
        done = "was rolled back" if report["ok"] else "was NOT rolled back to its end"
        return f"{where} {done}"
    if report["automatic"]:
        done = "rolled back by itself" if report["automatic"]["ok"] else "its rollback FAILED"
        return (
            f"the migration of {where} was not well and was {done}" if report["automatic"]["ok"] else f"{where}: {done}"
        )
    return f"the migration of {where} failed"


def _only_undone(report: Mapping[str, Any]) -> bool:
    """Whether a rollback has put nothing back, and only ended what an earlier one had left in the middle."""
    ended = [
        phases["resume"] for found in report["results"].values() for phases in found.values() if "resume" in phases
    ]
    lifted = bool(ended) and all(found.get("state") in ("nothing", "lifted") for found in ended)
    return lifted and not _CHANGES & {str(row["phase"]) for row in report["steps"]}


def _run(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = events[0]
    return {
        "run_id": first.get("run_id") or first.get("id"),
        "playbook": first.get("playbook"),
        "command": f"{first.get('command')} -l {first.get('limit') or first.get('environment')}",
        "who": first.get("who"),
        "ops_host": first.get("ops_host"),
    }


def _timeline(journals: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """:return: what began when and how it ended, in the order of time, in UTC."""
    rows = [row for events in journals for row in _rows(events)]
    return sorted(rows, key=lambda row: str(row["time"]))


def _rows(events: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    running: dict[tuple[Any, ...], dict[str, Any]] = {}
    playbook = events[0].get("playbook")
    for event in events:
        kind, host = event.get("event"), event.get("host")
        key = (host, event.get("phase"), (event.get("hook") or {}).get("label"))
        row = {"time": event.get("time"), "run": playbook, "host": host, "seconds": None, "result": ""}
        if kind == "run_started":
            yield {**row, "what": f"{playbook}.yml begun by {event.get('who')} on {event.get('ops_host')}"}
        elif kind == "phase_started":
            running[key] = {
                **row,
                "what": event.get("step") or (event.get("hook") or {}).get("label") or event.get("phase"),
            }
            running[key]["result"] = "did not end"
            yield running[key]
        elif kind in ("phase_finished", "phase_failed") and key in running:
            begun = running.pop(key)
            begun["seconds"] = event.get("duration_s")
            begun["result"] = "done"
            if kind == "phase_failed":
                begun["result"] = "FAILED: " + bare((event.get("error") or {}).get("message") or "no message")
        elif kind == "announced":
            yield {**row, "what": "the start was announced", "result": str(event.get("result"))}
        elif kind == "watch_started":
            yield {**row, "what": "watch begun"}
        elif kind == "rollback_started":
            told = f"rollback of {', '.join(event.get('databases') or [])} begun by itself: {event.get('reason')}"
            yield {**row, "what": told}
        elif kind == "rollback_finished":
            yield {**row, "what": "that rollback ended", "result": "done" if event.get("ok") else "FAILED"}
        elif kind in ("run_finished", "run_failed", "interrupted"):
            yield {**row, "what": f"{playbook}.yml ended", "result": str(event.get("result"))}


def _results(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """Phase, host, database and result, of each phase that ended."""
    for event in events:
        if event.get("event") in ("phase_finished", "phase_failed"):
            for database, found in (event.get("result") or {}).items():
                if isinstance(found, Mapping):
                    yield str(event.get("phase")), str(event.get("host")), database, found


def _worked_on(events: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for phase, host, database, found in _results(events):
        if phase not in ("apply", "revert"):
            continue  # the same words mean other things there: ``stopped`` of stop says that a run was ended
        for word in ("applied", "reverted", "stopped"):
            for item in found.get(word) or []:
                if isinstance(item, Mapping) and item.get("version"):
                    yield {"host": host, "database": database, "state": word, **item}


def _version(item: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("host", "database", "version", "name", "state", "duration_s")
    steps = [
        {name: step.get(name) for name in ("step", "kind", "name", "duration_s")}
        for step in item.get("step_durations") or []
    ]
    return {**{name: item.get(name) for name in kept}, "steps": steps}


def _kept(journals: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """What is lost, the backups there are, and the databases or clusters that were put aside."""
    lost: list[dict[str, Any]] = []
    backups: list[dict[str, Any]] = []
    aside: list[dict[str, Any]] = []
    for events in journals:
        playbook = events[0].get("playbook")
        for phase, host, database, found in _results(events):
            where = {"host": host, "database": database}
            if phase == "disclose" and isinstance(found.get("lost"), Mapping):
                lost += [{**where, **_counts(entry)} for entry in found["lost"].get("tables") or []]
            if phase == "revert":
                lost += [{**where, **_counts(entry)} for entry in found.get("loss") or []]
            if phase == "disclose" and found.get("backup"):
                backups.append({**where, "path": found["backup"], "what": "went back to"})
            if phase == "backup" and found.get("path"):
                what = "before the migration" if playbook == "migrate" else "before the rollback"
                backups.append({**where, "path": found["path"], "what": what})
            cluster = run_outcome.kept_cluster({phase: found})
            if cluster:
                lost += [{**where, **_counts(entry)} for entry in losses.cluster_rows(cluster)]
                aside.append({**where, "kept_as": cluster["kept"], "way_back": found.get("way_back")})
            if found.get("aside"):
                aside.append({**where, "kept_as": found["aside"], "way_back": found.get("way_back")})
    return {"lost": lost, "backups": backups, "kept": list({json.dumps(one): one for one in aside}.values())}


def _counts(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Names and numbers only."""
    named = {"table", "change", "columns", "version"}
    return {name: value for name, value in entry.items() if name in named or isinstance(value, (int, float))}


def as_markdown(made: Mapping[str, Any]) -> str:
    """:return: the record, ready to paste into a ticket."""
    how_bad = made["severity"]
    lines = [
        f"# Incident {made['incident']}: {_cell(made['what'])}",
        "",
        f"- environment: {made['environment']}",
        f"- severity: {how_bad['level']} {how_bad['name']}",
        f"- from {made['began']} to {made['ended']} (UTC)",
        f"- by: {', '.join(made['who'])}",
        *(f"- {name}: {_cell(made[name])}" for name in ("reason", "emergency", "window") if made[name]),
        f"- post-mortem by: {made['post_mortem_by'] or 'none is held'}",
        f"- result: {made['result']}" + (f", {made['state']}" if made["state"] else ""),
    ]
    if made["error"]:
        lines.append(f"- error: {_cell(made['error'])}")
    lines += [f"- run {run['run_id']}: `{run['command']}`" for run in made["runs"]]
    lines += [
        "",
        "## Time line (UTC)",
        "",
        "| time | run | host | what | seconds | result |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['time']} | {row['run']} | {row['host'] or ''} | {_cell(row['what'])} | "
        f"{'' if row['seconds'] is None else row['seconds']} | {_cell(row['result'])} |"
        for row in made["timeline"]
    ]
    lines += _section("Versions", [_version_line(version) for version in made["versions"]])
    lines += _section("Lost", [_lost_line(entry) for entry in made["lost"]], "nothing that was counted")
    lines += _section("Backups", [f"{one['database']}: {one['path']} ({one['what']})" for one in made["backups"]])
    kept = [f"{one['database']} is kept as {one['kept_as']}; to go back: `{one['way_back']}`" for one in made["kept"]]
    lines += _section("Kept", kept)
    lines += _section("Due", [f"{one['by']}: {one['what']}" for one in made["due"]])
    lines += _section("Next", [f"`{command}`" for command in made["next"]])
    told = [one["what"] + (f": `{one['command']}`" if one["command"] else "") for one in made["after_failure"]]
    lines += _section("The rollback failed: what is done now", told)
    lines += _section("Call", contacts.lines(made["contacts"]))
    return "\n".join(lines) + "\n"


def _section(title: str, items: Sequence[str], nothing: str = "") -> list[str]:
    if not items and not nothing:
        return []
    return ["", f"## {title}", "", *(f"- {item}" for item in items or [nothing])]


def _version_line(version: Mapping[str, Any]) -> str:
    steps = ", ".join(
        f"step {step['step']} {step['kind']}{' ' + str(step['name']) if step['name'] else ''} {step['duration_s']} s"
        for step in version["steps"]
    )
    told = f"{version['version']} {version['name'] or ''} in {version['database']}: {version['state']}"
    return f"{told}, {version['duration_s']} s{f' ({steps})' if steps else ''}"


def _lost_line(entry: Mapping[str, Any]) -> str:
    numbers = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in entry.items() if isinstance(value, (int, float))
    )
    columns = entry.get("columns")
    if isinstance(columns, Mapping) and columns:
        told = ", ".join(f"{count} values of column {name}" for name, count in columns.items())
        numbers = f"{numbers}, {told}" if numbers else told
    return f"{entry['database']}: {entry.get('table')}: {numbers or 'no number'}"


def _cell(text: Any) -> str:
    """One line in a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")
