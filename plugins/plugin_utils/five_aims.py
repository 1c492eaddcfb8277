# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The five aims of a run that changes a database: no loss, no outage, HIPAA, a way back, its speed; each by what the run has measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.application_hooks import BRINGS_BACK, BROUGHT_BACK_BY

NOT_MEASURED = "not measured"
# The platform's target: users are kept out for less.
OUTAGE_S = 30.0
# A proof of less than the comparison of all rows does not show that the backup is the database.
EQUAL = 4
# As a watch judges: of a query that takes a millisecond the noise alone is half as much again.
SLOWER_PERCENT, SLOWER_MS = 50.0, 20.0

Hosts = Mapping[str, Mapping[str, Mapping[str, Any]]]


def due(playbook: Any, rows: Iterable[Mapping[str, Any]]) -> bool:
    """:param rows: the phases of the run, as the report has them
    :return: whether the run has begun to change something; a run with nothing to do has no aim to meet"""
    begun = any(row["phase"] == "apply" and row["result"] != "skipped" for row in rows)
    return playbook == "rollback" or (playbook == "migrate" and begun)


def of(events: Sequence[Mapping[str, Any]], hosts: Hosts) -> list[dict[str, Any]]:
    """:param events: the journal of the run
    :param hosts: host -> database -> phase -> result
    :return: of each aim ``aim``, ``met`` (None where nothing was measured) and ``figure``, a sentence of what was measured"""
    aims = (
        ("zero loss", _loss(hosts)),
        ("outage", _outage(events, hosts)),
        ("HIPAA", _hipaa(hosts)),
        ("way back", _way_back(hosts)),
        ("speed", _speed(events)),
    )
    return [{"aim": aim, "met": met, "figure": figure} for aim, (met, figure) in aims]


def lines(aims: Iterable[Mapping[str, Any]]) -> list[str]:
    """:return: a line an aim, for a person."""
    words = {True: "met", False: "NOT MET", None: ""}
    return [f"    {aim['aim']:<10} {words[aim['met']]:<8}{aim['figure']}" for aim in aims]


def _phases(hosts: Hosts) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for databases in hosts.values():
        yield from databases.items()


def _inner(phases: Mapping[str, Any], *path: str) -> Any:
    found: Any = phases
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _loss(hosts: Hosts) -> tuple[bool | None, str]:
    """A version that deletes rows on purpose has fewer, too: the aim is not met, and its reader knows why."""
    compared = [rows for _, phases in _phases(hosts) if (rows := _inner(phases, "preflight_after", "rows"))]
    if not compared:
        return None, f"{NOT_MEASURED}: the rows were not counted before and after"
    fewer = [str(table["table"]) for rows in compared for table in rows.get("fewer") or []]
    same = sum(int(rows.get("same") or 0) + len(rows.get("more") or []) for rows in compared)
    left = sum(len(rows.get("not_compared") or []) for rows in compared)
    told = (
        f"fewer rows than before in {', '.join(fewer)}" if fewer else f"no table of {same} has fewer rows than before"
    )
    if left:
        told += f", {left} were not counted both times"
    if not fewer and not same:
        return None, f"{NOT_MEASURED}: {left} tables were not counted both times"
    return not fewer, told


def _outage(events: Sequence[Mapping[str, Any]], hosts: Hosts) -> tuple[bool | None, str]:
    away = _kept_out(events)
    foretold = [
        float(seconds)
        for _, phases in _phases(hosts)
        for word in ("blocks_reads", "blocks_writes")
        if (seconds := _inner(phases, "rehearse", "rehearsal", "forecast", word)) is not None
    ]
    more = f"; the rehearsal foretold {max(foretold):.1f} s of waiting for locks" if foretold else ""
    longest, waits = _waits(hosts)
    if away is None and longest is None:
        return None, f"{NOT_MEASURED}: no hook kept users out{more}"
    if away is not None and away < 0:
        return False, f"users are kept out still{waits}{more}"
    kept = "no hook kept users out" if away is None else f"users were kept out for {away:.1f} s"
    return max(away or 0.0, longest or 0.0) < OUTAGE_S, f"{kept}{waits}, and {OUTAGE_S:g} s are the target{more}"


def _waits(hosts: Hosts) -> tuple[float | None, str]:
    """:return: seconds for which the client waited longest of those that were seen waiting for a lock of the run, and the same in
    words; None where no phase has looked."""
    found = [
        waits
        for _, phases in _phases(hosts)
        for phase in ("apply", "revert")
        if (waits := _inner(phases, phase, "client_waits"))
    ]
    if not found:
        return None, ""
    longest, waited = max(float(one["longest_s"]) for one in found), sum(int(one["waits"]) for one in found)
    looks = sum(int(one["looks"]) for one in found)
    if waited:
        return (
            longest,
            f", clients waited for its locks {waited} times in {looks} looks, the longest for {longest:.1f} s",
        )
    if looks:
        return longest, f", no client was seen waiting for its locks in {looks} looks, one each second"
    # Over before the first look.
    longest = max(float(one["seconds"]) for one in found)
    return longest, f", no client can have waited for its locks longer than the {longest:.1f} s that it worked"


def _kept_out(events: Sequence[Mapping[str, Any]]) -> float | None:
    """:return: seconds of the host that was away for longest; None where none was, -1 where one is still."""
    took: list[float] = []
    gone: dict[tuple[str, str], str] = {}
    for event in events:
        hook = event.get("hook") or {}
        host = str(event.get("host"))
        if hook.get("kind") in BROUGHT_BACK_BY and event.get("event") == "phase_started":
            gone.setdefault((host, str(hook["kind"])), str(event["time"]))
        elif hook.get("kind") in BRINGS_BACK and hook.get("done") == "yes":
            begun = gone.pop((host, BRINGS_BACK[hook["kind"]]), None)
            if begun:
                ended = datetime.fromisoformat(str(event["time"]))
                took.append((ended - datetime.fromisoformat(begun)).total_seconds())
    return -1.0 if gone else max(took, default=None)


def _hipaa(hosts: Hosts) -> tuple[bool | None, str]:
    """Each state by its name, and not met as soon as one is not as it has to be."""
    told: dict[str, bool] = {}
    for _, phases in _phases(hosts):
        if _inner(phases, "audit", "seq") or _inner(phases, "apply", "audit") or _inner(phases, "revert", "audit"):
            told["the run is in the audit"] = True
        window = _inner(phases, "phi_close", "phi_window")
        if window:
            told[f"statements were logged by {window.get('logging')}"] = True
            said = window.get("encryption_in_transit")
            if said is not None:
                told[f"in transit: {said}"] = "not encrypted" not in str(said) and ", 0 of " in str(said)
            rest = str(window.get("encryption_at_rest") or "")
            told[f"at rest: {rest or 'not attested'}"] = rest.startswith("attested")
        touched = any(version.get("phi") for version in _inner(phases, "plan", "pending") or [])
        if touched and not window:
            told["health data were changed without a log of the statements"] = False
        if _inner(phases, "backup", "path"):
            sealed = bool(_inner(phases, "backup", "encryption"))
            told["the backup is encrypted" if sealed else "the backup is not encrypted"] = sealed
    if not told:
        return None, NOT_MEASURED
    return all(told.values()), "; ".join(told)


def _way_back(hosts: Hosts) -> tuple[bool | None, str]:
    levels = [int(level) for _, phases in _phases(hosts) if (level := _inner(phases, "prove", "level")) is not None]
    downs = [
        down
        for _, phases in _phases(hosts)
        if isinstance(down := _inner(phases, "rehearse", "rehearsal", "down_equal"), bool)
    ]
    told = [f"the backup is proved at level {min(levels)} of 6" if levels else "no backup was proved by this run"]
    if downs:
        told.append("the way down left nothing in its rehearsal" if all(downs) else "the way down left something")
    else:
        told.append("the way down was not rehearsed by this run")
    if not levels and not downs:
        return None, f"{NOT_MEASURED}: {', '.join(told)}"
    return (not levels or min(levels) >= EQUAL) and all(downs), ", ".join(told)


def _speed(events: Sequence[Mapping[str, Any]]) -> tuple[bool | None, str]:
    """The probe of the watch before the apply, and at its last look."""
    last: dict[str, tuple[float, float]] = {}
    for event in events:
        for database, figures in (event.get("figures") or {}).items() if event.get("event") == "looked" else ():
            before = _inner(event, "seen", database, "before", "probe_ms")
            if before and figures.get("probe_ms"):
                last[f"{database} on {event.get('host')}"] = (float(before), float(figures["probe_ms"]))
    if not last:
        return None, f"{NOT_MEASURED}: no probe was asked before and after"
    slower = [
        where
        for where, (then, now) in last.items()
        if now - then >= SLOWER_MS and 100 * (now / then - 1) > SLOWER_PERCENT
    ]
    told = [
        f"{where}: the probe took {then:.1f} ms before and {now:.1f} ms after" for where, (then, now) in last.items()
    ]
    return not slower, "; ".join(told)
