# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the runs of the last weeks say of each database, read from their reports on the ops host. No database is asked."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import fleet_outcomes
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import is_run_id

# A report of the largest run has a few megabytes; what is larger is none.
LARGEST = 64 << 20
_STAMP = "%Y%m%dT%H%M%SZ"


@dataclass
class History:
    """What is known of one database, newest last in every list.

    :ivar version: the newest that is applied, and ``version_at`` since which run that is known.
    :ivar backups: ``at``, ``path``, ``bytes``, ``seconds``.
    :ivar proofs: ``at``, ``path``, ``level``, ``ready_seconds``.
    :ivar drills: ``at``, ``ok``, ``level``, ``ready_seconds``, ``why``.
    :ivar maintained: ``at``, ``done``, ``failed``, ``given_back``, ``seconds``, ``ended``.
    :ivar health: ``at``, ``level``, ``warn``, ``stop`` (names of checks).
    :ivar sizes: ``at``, ``bytes`` of the database.
    :ivar runs: ``run_id``, ``at``, ``playbook``, ``result``, ``state``, ``seconds``, ``versions``, ``page``.
    """

    environment: str
    host: str
    database: str
    version: str | None = None
    version_at: str | None = None
    backups: list[dict[str, Any]] = field(default_factory=list)
    proofs: list[dict[str, Any]] = field(default_factory=list)
    drills: list[dict[str, Any]] = field(default_factory=list)
    maintained: list[dict[str, Any]] = field(default_factory=list)
    health: list[dict[str, Any]] = field(default_factory=list)
    sizes: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Read:
    """:ivar databases: by environment, host and name. :ivar unreadable: ``file`` and ``why`` of each that told nothing.
    :ivar unfinished: runs that have left no report, by environment. :ivar nowhere: by environment and host the runs that came to
    no database of it. :ivar outcomes: what runs came to, as :mod:`fleet_outcomes` counts. :ivar looked_at: how many reports were read."""

    databases: dict[tuple[str, str, str], History] = field(default_factory=dict)
    unreadable: list[dict[str, str]] = field(default_factory=list)
    unfinished: list[dict[str, str]] = field(default_factory=list)
    nowhere: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    looked_at: int = 0

    def of(self, environment: str, host: str, database: str) -> History:
        """:return: the history of a database, begun where there was none."""
        return self.databases.setdefault((environment, host, database), History(environment, host, database))


def read(places: Iterable[tuple[str, str]], *, now: datetime, days: float) -> Read:
    """Read the reports of each environment's runs, oldest first. What cannot be read is named and stops nothing.

    :param places: state directory and environment of each.
    :param days: runs that began longer ago are left out.
    """
    found = Read()
    since = now - timedelta(days=days)
    for state, environment in dict.fromkeys(places):
        folder = Path(state).expanduser() / "reports" / environment
        runs = _runs(folder, ".json", since, found)
        for run_id in runs:
            path = folder / f"{run_id}.json"
            try:
                report = _load(path)
                _take(report, path, environment, found)
                found.looked_at += 1
            except OSError as fault:
                found.unreadable.append({"file": str(path), "why": fault.strerror or str(fault)})
            except (ValueError, RecursionError) as fault:
                found.unreadable.append({"file": str(path), "why": f"it is no report: {fault}"})
            except (TypeError, KeyError, AttributeError, IndexError):
                found.unreadable.append({"file": str(path), "why": "it is not made as a report is"})
        begun = _runs(Path(state).expanduser() / "journal" / environment, ".jsonl", since, found)
        found.unfinished += [
            {"environment": environment, "run_id": run_id} for run_id in sorted(set(begun) - set(runs))
        ]
    return found


def _runs(folder: Path, suffix: str, since: datetime, found: Read) -> list[str]:
    """:return: the ids of the runs that have such a file, oldest first; nothing where there is no folder."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as fault:
        found.unreadable.append({"file": str(folder), "why": fault.strerror or str(fault)})
        return []
    ids = [name.removesuffix(suffix) for name in names if name.endswith(suffix)]
    return sorted(run_id for run_id in ids if is_run_id(run_id) and run_id[:16] >= since.strftime(_STAMP))


def _load(path: Path) -> dict[str, Any]:
    # A pipe would not open, and a link leads elsewhere.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no file")
        if about.st_size > LARGEST:
            raise ValueError(f"it has {about.st_size} bytes, and {LARGEST} are read at most")
        found = json.loads(stream.read())
    if not isinstance(found, dict) or not isinstance(found.get("results"), dict):
        raise ValueError("it has no results")  # noqa: TRY004 -- of what a file says, not of an argument
    return found


def _take(report: Mapping[str, Any], path: Path, environment: str, found: Read) -> None:
    """All of a report or nothing of it: what is odd in its middle must not leave a half."""
    at = str(report.get("finished") or report.get("started"))
    page = path.with_suffix(".html")
    run = {
        "run_id": str(report.get("run_id")),
        "at": at,
        "playbook": str(report.get("playbook")),
        "result": str(report.get("result")),
        "state": report.get("state"),
        "seconds": _number(report.get("duration_s")),
        "page": str(page) if page.is_file() else None,
        "why": str((report.get("error") or {}).get("message") or "") or None,
    }
    outcome = fleet_outcomes.of(report)
    taken: list[tuple[History, Callable[[], object]]] = []
    for host, databases in report["results"].items():
        for database, phases in databases.items():
            known = found.databases.get((environment, str(host), str(database)))
            history = known or History(environment, str(host), str(database))
            place = (host, database)
            versions = [v for v in report.get("versions") or [] if (v.get("host"), v.get("database")) == place]
            acts: list[Callable[[], object]] = [
                *_phases(history, dict(phases), at),
                partial(history.runs.append, {**run, "versions": len(versions)}),
            ]
            taken += [(history, act) for act in acts]
    for host in set(map(str, report.get("hosts") or [])) - set(map(str, report["results"])):
        found.nowhere.setdefault((environment, host), []).append({**run, "versions": 0})
    if outcome:
        found.outcomes.append(outcome)
    for history, act in taken:
        found.databases[(history.environment, history.host, history.database)] = history
        act()


def _phases(history: History, phases: Mapping[str, Any], at: str) -> list[Callable[[], object]]:
    """:return: what the phases of a run add to what is known, to be done when all of it was understood."""
    done: list[Callable[[], object]] = []

    def add(kept: list[dict[str, Any]], entry: dict[str, Any]) -> None:
        done.append(partial(kept.append, entry))

    backup, proof = phases.get("backup") or {}, phases.get("prove") or {}
    if backup.get("path"):
        taken = {name: _number(backup.get(name)) for name in ("bytes", "seconds")}
        add(history.backups, {"at": str(backup.get("finished") or at), "path": str(backup["path"]), **taken})
    if proof.get("proved_at"):
        ready = {"level": proof.get("level"), "ready_seconds": _number(proof.get("ready_seconds"))}
        add(
            history.proofs,
            {"at": str(proof["proved_at"]), "path": str(proof.get("path") or backup.get("path")), **ready},
        )
    drill = phases.get("drill") or {}
    if drill.get("verdict"):
        ready = {"level": drill.get("level"), "ready_seconds": _number(drill.get("ready_seconds"))}
        add(history.drills, {"at": at, "ok": drill["verdict"] == "passed", **ready, "why": drill.get("error")})
    work = phases.get("maintenance") or {}
    if "counts" in work:
        counts = dict(work["counts"])
        told = {"done": int(counts.get("done") or 0), "failed": int(counts.get("failed") or 0)}
        seconds = {
            "given_back": _number(work.get("given_back")),
            "seconds": _number(work.get("seconds")),
            "ended": work.get("ended"),
        }
        add(history.maintained, {"at": at, **told, **seconds})
    # The last look of a run is what counts.
    looks = [phases[name] for name in ("preflight", "preflight_again", "preflight_after") if phases.get(name)]
    if looks and looks[-1].get("level"):
        by_level = {
            level: [str(check["check"]) for check in looks[-1].get("checks") or [] if check.get("level") == level]
            for level in ("warn", "stop")
        }
        add(history.health, {"at": at, "level": str(looks[-1]["level"]), **by_level})
        size = _number((looks[-1].get("facts") or {}).get("size_bytes"))
        if size:
            add(history.sizes, {"at": at, "bytes": size})
    version = _version(phases)
    if version is not None:
        done.append(partial(_now_at, history, version or None, at))
    return done


def _now_at(history: History, version: str | None, at: str) -> None:
    history.version, history.version_at = version, at


def _version(phases: Mapping[str, Any]) -> str | None:
    """:return: the newest version that is applied; an empty text where none is; None where the run did not look."""
    applied = [str(item["version"]) for item in (phases.get("apply") or {}).get("applied") or []]
    if phases.get("verify") and isinstance(phases["verify"].get("versions"), list):
        return max(map(str, phases["verify"]["versions"]), default="")
    if phases.get("status") and isinstance(phases["status"].get("versions"), list):
        there = [str(row["version"]) for row in phases["status"]["versions"] if row.get("state") == "applied"]
        return max([*there, *applied], default="")
    if phases.get("plan") and isinstance(phases["plan"].get("applied"), list):
        return max([*map(str, phases["plan"]["applied"]), *applied], default="")
    return max(applied) if applied else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
