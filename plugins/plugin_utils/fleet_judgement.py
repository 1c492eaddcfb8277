# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is to be thought of each database of a fleet by its history, the worst first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import timer_state
from ansible_collections.whitecross.pgops.plugins.plugin_utils.fleet_history import History

OK, WARN, UNKNOWN, STOP = "ok", "warn", "unknown", "stop"
WORST_LAST = (OK, WARN, UNKNOWN, STOP)
DAY_S = 86_400.0
# Older than that, in days, it is told; the nightly and weekly timers of schedule.yml leave each of them time for one miss.
OLD = {"backup": 1.25, "drill": 15.0, "maintenance": 8.0, "preflight": 2.0}
LOST_BACKUP_DAYS = 7.0
RUNS_SHOWN = 20
# Fewer points are no trend.
TREND = 3
# A maintenance that failed, by how it ended.
_LEFT = {
    "freeze left": "a freeze that was due was not done",
    "nothing done": "nothing of what was due was done",
}
WIDTH, HEIGHT, EDGE = 120.0, 28.0, 4.0


def member(history: History, timers: Sequence[Mapping[str, Any]], now: datetime, *, known: bool) -> dict[str, Any]:
    """:param timers: those of its environment. :param known: the inventory has the host.
    :return: one database of the fleet as plain data, with its ``level`` and a sentence for each thing that is ``wrong``."""
    wrong = [
        *_of_runs(history), *_of_backup(history, now), *_of_drill(history, now), *_of_health(history, now),
        *_of_maintenance(history, now),
        *((WARN, f"timer {row['name']}: {row['why']}") for row in timers if row.get("state") in timer_state.BAD),
    ]  # fmt: skip
    if not history.runs:
        wrong = [
            (UNKNOWN, "no run of it has left a report here"),
            *(one for one in wrong if one[1].startswith("timer")),
        ]
    wrong.sort(key=lambda one: -WORST_LAST.index(one[0]))
    ready = [entry for entry in sorted([*history.proofs, *history.drills], key=lambda entry: str(entry["at"])) if entry.get("ready_seconds")]  # fmt: skip
    migrations = [run for run in history.runs if run["playbook"] == "migrate" and run["seconds"] is not None]
    return {
        "environment": history.environment,
        "host": history.host,
        "database": history.database,
        "known": known,
        "level": max((level for level, _ in wrong), key=WORST_LAST.index, default=OK),
        "wrong": [{"level": level, "told": told} for level, told in wrong],
        "version": history.version,
        "version_at": history.version_at,
        "backup": _last(history.backups),
        "proof": _proof(history),
        "drill": _last(history.drills),
        "maintenance": _last(history.maintained),
        "preflight": _last(history.health),
        "timers": len(timers),
        "timers_bad": [str(row["name"]) for row in timers if row.get("state") in timer_state.BAD],
        "last_run": _last(history.runs),
        "trends": {
            "restore": _trend("a restore is ready after", [entry["ready_seconds"] for entry in ready], "s"),
            "backup": _trend("a backup has", [entry["bytes"] for entry in history.backups], "bytes"),
            "size": _trend("the database has", [entry["bytes"] for entry in history.sizes], "bytes"),
            "migrate": _trend("a migration takes", [float(run["seconds"]) for run in migrations], "s"),
        },
        "runs": list(reversed(history.runs[-RUNS_SHOWN:])),
        "runs_in_all": len(history.runs),
    }


def sorted_by_worst(members: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """:return: the worst first; among those of one level those with most that is wrong, then by name."""
    return sorted(
        members,
        key=lambda one: (
            -WORST_LAST.index(one["level"]), -len(one["wrong"]), one["environment"], one["host"], one["database"],
        ),
    )  # fmt: skip


def _last(entries: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    return max(entries, key=lambda entry: str(entry["at"])) if entries else None


def _proof(history: History) -> dict[str, Any] | None:
    """The newest proof, and whether it is that of the newest backup."""
    newest, proof = _last(history.backups), _last(history.proofs)
    return {**proof, "of_newest": newest is None or proof["path"] == newest["path"]} if proof else None


def _of_runs(history: History) -> Iterator[tuple[str, str]]:
    changing = [run for run in history.runs if run["playbook"] in ("migrate", "rollback")]
    last, any_last = _last(changing), _last(history.runs)
    if last and last["result"] != "succeeded":
        yield STOP, f"its last {last['playbook']} {_ended(last)}"
    if any_last and any_last is not last and any_last["result"] != "succeeded":
        yield WARN, f"its last run, {any_last['playbook']}, {_ended(any_last)}"


def _ended(run: Mapping[str, Any]) -> str:
    why = f": {run['why']}" if run.get("why") else ""
    return f"{'was ' if run['result'] == 'interrupted' else ''}{run['result']} at {run['at'][:16]}{why}"


def _of_backup(history: History, now: datetime) -> Iterator[tuple[str, str]]:
    newest = _last(history.backups)
    if newest is None:
        yield STOP, "no backup of it is in any report"
        return
    days = _days(newest, now)
    if days is not None and days > OLD["backup"]:
        yield STOP if days > LOST_BACKUP_DAYS else WARN, f"its newest backup is {_told(days)} old"
    proof = _proof(history)
    if proof is None or not proof["of_newest"]:
        yield WARN, f"its newest backup is not proved{'' if proof else ', nor is any other'}"


def _of_drill(history: History, now: datetime) -> Iterator[tuple[str, str]]:
    last = _last(history.drills)
    days = _days(last, now)
    if last is None:
        yield WARN, "its restore was never drilled"
    elif not last["ok"]:
        why = f": {last['why']}" if last.get("why") else ""
        yield STOP, f"its last drill failed at {last['at'][:16]}{why}"
    elif days is not None and days > OLD["drill"]:
        yield WARN, f"its last drill was {_told(days)} ago"


def _of_health(history: History, now: datetime) -> Iterator[tuple[str, str]]:
    last = _last(history.health)
    days = _days(last, now)
    if last is None:
        yield WARN, "its health was never looked at"
        return
    for level in (STOP, WARN):
        if last[level]:
            yield level, f"preflight says {level}: {', '.join(last[level])}"
    if days is not None and days > OLD["preflight"]:
        yield WARN, f"its health was last looked at {_told(days)} ago"


def _of_maintenance(history: History, now: datetime) -> Iterator[tuple[str, str]]:
    last = _last(history.maintained)
    days = _days(last, now)
    if last is None:
        yield WARN, "it was never maintained"
    elif last["failed"]:
        yield WARN, f"{last['failed']} of its last maintenance failed"
    elif last.get("ended") in _LEFT:
        yield WARN, f"{_LEFT[last['ended']]} by its last maintenance"
    elif days is not None and days > OLD["maintenance"]:
        yield WARN, f"it was last maintained {_told(days)} ago"


def _days(entry: Mapping[str, Any] | None, now: datetime) -> float | None:
    at = timer_state.moment(entry["at"]) if entry else None
    return (now - at).total_seconds() / DAY_S if at else None


def _told(days: float) -> str:
    return f"{days:.0f} days" if days >= 2 else f"{24 * days:.0f} hours"


def _trend(told: str, values: Sequence[float | None], unit: str) -> dict[str, Any] | None:
    """:return: ``points`` of a line of 120 by 28, ``values``, and the last against the median of those before, in percent."""
    known = [value for value in values if value is not None][-30:]
    if len(known) < TREND:
        return None
    low, high = min(known), max(known)
    step = (WIDTH - 2 * EDGE) / (len(known) - 1)
    span = high - low or 1.0
    points = [
        {"x": round(EDGE + step * n, 1), "y": round(HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * (value - low) / span, 1)}
        for n, value in enumerate(known)
    ]
    before = sorted(known[:-1])[(len(known) - 1) // 2]
    change = round(100 * (known[-1] / before - 1)) if before else None
    return {"what": told, "unit": unit, "values": known, "low": low, "high": high, "last": known[-1], "change_percent": change, "points": points}  # fmt: skip
