# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The time of a run as bars: its phases, the steps of its versions, what they held up, and what clients felt meanwhile.

Everything is in percent of a chart's width, so that a page draws it at any width without a script. A report may come from an
older release or from a run that was killed: what has no time that can be read is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

# More rows are no picture any longer; the tables of the page have the rest.
ROWS = 60
CHARTS = 12
# With more steps than this a version is one bar.
BARS = 600
# In percent: what is shorter could not be seen.
NARROWEST = 0.3
# A span from which a label has a round number of seconds.
_ROUND = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)
TICKS = 4
_METRICS = ("p95_ms", "p99_ms", "p50_ms")


def latency(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What clients felt, as the run measured it: the probe of each look at the databases, and the application's own figures.

    :param events: a run's journal
    :return: ``time``, ``host``, ``of`` (a database, or the label of a hook), ``ms``
    """
    found: list[dict[str, Any]] = []
    for event in events:
        time, host = event.get("time"), event.get("host")
        if event.get("event") == "looked":
            for database, figures in (event.get("figures") or {}).items():
                if isinstance(figures, Mapping) and figures.get("probe_ms") is not None:
                    found.append({"time": time, "host": host, "of": str(database), "ms": figures["probe_ms"]})
        elif event.get("event") in ("phase_finished", "phase_failed"):
            hook = event.get("hook") or {}
            metrics = hook.get("metrics") or {}
            name = next((name for name in _METRICS if metrics.get(name) is not None), None)
            if name:
                found.append({"time": time, "host": host, "of": f"{hook.get('label')} {name[:3]}", "ms": metrics[name]})
            for database, result in (event.get("result") or {}).items():
                health = result.get("health") if isinstance(result, Mapping) else None
                if event.get("phase") == "apply" and isinstance(health, Mapping) and health.get("probe_ms") is not None:
                    found.append({"time": time, "host": host, "of": str(database), "ms": health["probe_ms"]})
    return found


def of_run(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """:param report: of a run.
    :return: a chart of its phases, a row each, or a row each host where there are several; None where nothing was timed."""
    timed = [(row, *span) for row in report.get("steps") or [] if (span := _span(row, report.get("finished")))]
    if not timed:
        return None
    several = len({row.get("host") for row, *_ in timed}) > 1
    window = _window([(begin, end) for _, begin, end in timed], report)
    rows: dict[str, dict[str, Any]] = {}
    for row, begin, end in timed:
        label = str(row.get("host") if several else row.get("phase"))
        made = rows.setdefault(label, {"label": label, "seconds": 0.0, "bars": [], "foretold": None})
        made["seconds"] += end - begin
        where = f" on {row.get('host')}" if several else ""
        told = f"{row.get('phase')}{where}: {end - begin:.2f} s, {row.get('result')}"
        made["bars"].append({**_bar(begin, end, window), "kind": str(row.get("result")), "told": told})
    return {
        "title": "Phases of each host" if several else "Phases",
        **_shown(list(rows.values())),
        **_scale(window),
        "latency": _curve(report.get("latency") or [], window),
    }


def of_versions(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """:return: a chart each database whose versions were applied or reverted: a row each version, a bar each step, with the locks and
    the seconds that a rehearsal had foretold."""
    places: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for version in report.get("versions") or []:
        place = (str(version.get("host")), str(version.get("database")), str(version.get("phase")))
        places.setdefault(place, []).append(version)
    number = sum(len(version.get("step_durations") or []) for version in report.get("versions") or [])
    charts = [
        _chart(report, *place, versions, whole=number > BARS) for place, versions in list(places.items())[:CHARTS]
    ]
    return [chart for chart in charts if chart]


def _chart(
    report: Mapping[str, Any],
    host: str,
    database: str,
    phase: str,
    versions: Sequence[Mapping[str, Any]],
    *,
    whole: bool,
) -> dict[str, Any] | None:
    result = ((report.get("results") or {}).get(host) or {}).get(database) or {}
    foretold = _foretold(result)
    began: Mapping[str, Any] = next(
        (row for row in report.get("steps") or [] if (row.get("phase"), row.get("host")) == (phase, host)), {}
    )
    span = _span(began, report.get("finished"))
    placed = list(_placed(versions, span))
    if not placed:
        return None
    window = _window([(begin, end) for *_, begin, end in placed], {})
    rows: dict[str, dict[str, Any]] = {}
    for version, step, begin, end in placed:
        number = str(version.get("version"))
        label = f"{number} {version.get('name') or ''}".strip()
        row = rows.setdefault(
            number, {"label": label, "seconds": float(version.get("duration_s") or 0.0), "bars": [], "foretold": None, "begin": begin}
        )  # fmt: skip
        known = foretold.get((number, step.get("step"))) or {}
        name = step.get("name") or step.get("kind")
        told = f"step {step.get('step')}, {name}: {end - begin:.2f} s"
        bar = {**_bar(begin, end, window), "kind": str(step.get("kind")), "told": told}
        row["end"] = max(row.get("end", end), end)
        if not whole:
            row["bars"].append({**bar, **_locks(known, begin, end, window)})
        if known.get("seconds") is not None:
            row["foretold_s"] = row.get("foretold_s", 0.0) + float(known["seconds"])
    for row in rows.values():
        begin, end = row.pop("begin"), row.pop("end")
        if whole:
            row["bars"].append({**_bar(begin, end, window), "kind": "version", "told": f"{end - begin:.2f} s"})
        if "foretold_s" in row:
            row["foretold"] = _bar(begin, min(begin + row["foretold_s"], window[1]), window)
    word = "reverted" if phase == "revert" else "applied"
    return {
        "title": f"Versions {word} to {database} on {host}" if word == "applied" else f"Versions {word} in {database} on {host}",
        **_shown(list(rows.values())),
        **_scale(window),
        "locks": any("writes" in bar or "reads" in bar for row in rows.values() for bar in row["bars"]),
        "rehearsed": bool(foretold),
        "latency": None,
    }  # fmt: skip


def _foretold(result: Mapping[str, Any]) -> dict[tuple[str, Any], Mapping[str, Any]]:
    """The forecast of each step by its rehearsal, by version and number of the step."""
    found = result.get("rehearse")
    rehearsed = (found.get("rehearsal") or {}) if isinstance(found, Mapping) else {}
    steps = (rehearsed.get("forecast") or {}).get("steps") or []
    return {(str(step.get("version")), step.get("ordinal")): step for step in steps}


def _locks(foretold: Mapping[str, Any], begin: float, end: float, window: tuple[float, float]) -> dict[str, Any]:
    """Locks are held to the COMMIT, so what was traced stands at the end of its step, and is never longer than it."""
    found = {}
    for word, key in (("writes", "blocks_writes"), ("reads", "blocks_reads")):
        held = float(foretold.get(key) or 0.0)
        if held > 0.0:
            found[word] = {**_bar(max(begin, end - held), end, window), "seconds": held}
    return found


def _placed(
    versions: Iterable[Mapping[str, Any]], span: tuple[float, float] | None
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any], float, float]]:
    """Each step with its seconds; by the clock where the step has told it, else one after the other."""
    cursor = span[0] if span else 0.0
    for version in versions:
        for step in version.get("step_durations") or [
            {"step": 1, "kind": "version", "duration_s": version.get("duration_s")}
        ]:
            begin = _moment(step.get("started"))
            # A clock that differs from this host's would put the step outside its phase.
            if begin is None or (span and not span[0] - 1 <= begin <= span[1] + 1):
                begin = cursor
            end = begin + _number(step.get("duration_s"))
            cursor = max(cursor, end)
            yield version, step, begin, end


def _shown(rows: list[dict[str, Any]]) -> dict[str, Any]:
    if len(rows) <= ROWS:
        return {"rows": rows, "left_out": 0}
    longest = {id(row) for row in sorted(rows, key=lambda row: -float(row["seconds"]))[:ROWS]}
    return {"rows": [row for row in rows if id(row) in longest], "left_out": len(rows) - ROWS}


def _window(spans: Iterable[tuple[float, float]], report: Mapping[str, Any]) -> tuple[float, float]:
    begins, ends = zip(*spans, strict=True)
    first, last = min(begins), max(ends)
    started, finished = _moment(report.get("started")), _moment(report.get("finished"))
    first, last = min(first, started or first), max(last, finished or last)
    return first, max(last, first + 0.001)


def _bar(begin: float, end: float, window: tuple[float, float]) -> dict[str, float]:
    whole = window[1] - window[0]
    width = min(max(100 * (end - begin) / whole, NARROWEST), 100.0)
    return {"x": round(min(max(100 * (begin - window[0]) / whole, 0.0), 100 - width), 2), "width": round(width, 2)}


def _scale(window: tuple[float, float]) -> dict[str, Any]:
    whole = window[1] - window[0]
    every = next((step for step in _ROUND if whole / step <= TICKS), whole)
    ticks = [{"x": round(100 * every * n / whole, 2), "at": _label(every * n)} for n in range(int(whole / every) + 1)]
    return {"seconds": whole, "ticks": ticks}


def _label(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:g} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours and minutes else f"{hours} h" if hours else f"{minutes} min"


def _curve(points: Sequence[Mapping[str, Any]], window: tuple[float, float]) -> dict[str, Any] | None:
    """A line for each that was measured, the highest value at its top."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        at = _moment(point.get("time"))
        if at is not None and isinstance(point.get("ms"), (int, float)):
            lines.setdefault(f"{point.get('of')} on {point.get('host')}", []).append((at, float(point["ms"])))
    if not lines:
        return None
    top = max(value for line in lines.values() for _, value in line) or 1.0
    whole = window[1] - window[0]

    def placed(at: float, value: float) -> dict[str, float]:
        x = min(max(100 * (at - window[0]) / whole, 0.0), 100.0)
        return {"x": round(x, 2), "y": round(100 - 100 * value / top, 1), "ms": value}

    return {
        "top_ms": top,
        "lines": [{"of": of, "points": [placed(*point) for point in sorted(line)]} for of, line in lines.items()],
    }


def _span(row: Mapping[str, Any], finished: Any) -> tuple[float, float] | None:
    """:return: begin and end in seconds since 1970; a phase that has no end went on to that of the run."""
    begin = _moment(row.get("started"))
    if begin is None:
        return None
    end = _moment(row.get("ended"))
    if end is None:
        end = begin + _number(row["duration_s"]) if row.get("duration_s") is not None else _moment(finished) or begin
    return begin, max(begin, end)


def _moment(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


def _number(value: Any) -> float:
    return max(float(value), 0.0) if isinstance(value, (int, float)) else 0.0
