# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of a migration of many steps, as the phases of a rehearsed run leave it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

BEGAN = datetime(2026, 1, 5, 22, 0, tzinfo=UTC)
RUN = {
    "id": "20260105T220000Z-0a1b2c", "environment": "production", "playbook": "migrate", "command": "ansible-playbook migrate.yml",
    "limit": "production", "who": "ada", "ops_host": "ops1", "hosts": ["db1.example"],
    "phases": ["preflight", "plan", "backup", "prove", "rehearse", "apply", "analyze", "verify", "report"],
    "tags": ["all"], "skip_tags": [], "extra_variables": [], "check_mode": False,
}  # fmt: skip
KINDS = ("sql", "indexes", "backfill", "validate", "analyze")


def at(seconds: float) -> str:
    """:return: the moment so many seconds after the run began."""
    return (BEGAN + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def journal(versions: int = 50, steps: int = 10, objects: int = 600) -> list[dict[str, Any]]:
    """:param steps: of each version. :param objects: tables, indexes and constraints that the verification tells."""
    results = _results(versions, steps, objects)
    made: list[dict[str, Any]] = [{"event": "run_started", "time": at(0), **RUN}]
    spans = {"preflight": 3, "plan": 5, "backup": 60, "prove": 80, "rehearse": 300, "apply": 2.0 * versions * steps + 1, "analyze": 20, "verify": 15, "preflight_after": 4}  # fmt: skip
    second = 2.0
    for number, (phase, span) in enumerate(spans.items(), 1):
        shared = {"phase": phase, "host": "db1.example"}
        if phase == "apply":
            _date(results["apply"]["applied"], second)
        made.append({"event": "phase_started", "time": at(second), "step": f"({number}/8) {phase}", **shared})
        done = {
            "duration_s": span,
            "changed": phase in ("backup", "prove", "apply"),
            "result": {"white_cross": results[phase]},
        }
        made.append({"event": "phase_finished", "time": at(second + span), **shared, **done})
        if phase in ("apply", "analyze", "verify"):
            figures = {
                "white_cross": {"probe_ms": {"apply": 4.5, "analyze": 31.0, "verify": 5.0}[phase], "error_rate": 0.0}
            }
            made.append(
                {"event": "looked", "time": at(second + span), "host": "db1.example", "seen": {}, "figures": figures}
            )
        second += span + 2.0
    rehearsed = {"event": "phase_finished", "phase": "rehearsal_actual", "host": "db1.example", "time": at(second)}
    made.append({"event": "phase_started", "phase": "rehearsal_actual", "host": "db1.example", "time": at(second)})
    made.append({**rehearsed, "duration_s": 0.1, "result": {"white_cross": results["rehearsal_actual"]}})
    return made


def _date(applied: list[dict[str, Any]], begin: float) -> None:
    for version in applied:
        for step in version["step_durations"]:
            step["started"] = at(begin)
            begin += step["duration_s"]


def _name(number: int) -> str:
    return f"2026010{number // 100 + 1}{number % 100:06}"


def _results(versions: int, steps: int, objects: int) -> dict[str, dict[str, Any]]:
    pending, applied, foretold, traced, actual = [], [], [], [], []
    for number in range(versions):
        version = _name(number)
        timed = [
            {"step": n, "kind": KINDS[n % 5], "name": f"step_{n}_of_{number}", "duration_s": 1.0 + n / 10, **({"rows": 120_000, "batches": 24, "walked": 130_000} if n % 5 == 2 else {})}
            for n in range(1, steps + 1)
        ]  # fmt: skip
        pending.append({"version": version, "name": f"change_{number}", "title": f"Change number {number} of the platform", "risk": "medium", "phi": number % 2 == 0, "why": "A sentence that says why this is done, as each version has one. " * 2, "checksum": "ab" * 32, "phase": "core", "steps": [{"kind": step["kind"], "name": step["name"]} for step in timed], "rollback": {"safety": "complete", "stays": ""}, "state": "pending"})  # fmt: skip
        applied.append({"version": version, "name": f"change_{number}", "title": f"Change number {number}", "duration_s": sum(step["duration_s"] for step in timed), "expected_s": None, "steps": steps, "step_durations": timed, "skipped": [], "indexes": [{"schema": "public", "name": f"index_{number}", "bytes": 8_192_000, "duration_s": 0.5}], "notes": []})  # fmt: skip
        for step in timed:
            known = {"version": version, "ordinal": step["step"], "step": step["name"], "kind": step["kind"]}
            foretold.append({**known, "seconds": 0.9, "low": 0.5, "high": 2.5, "blocks_reads": 0.2 if step["kind"] == "sql" else 0.0, "blocks_writes": 0.4 if step["kind"] == "sql" else 0.0, "wal_bytes": 100_000})  # fmt: skip
            actual.append({**known, "forecast": 0.9, "low": 0.5, "high": 1.9, "actual": step["duration_s"], "within": step["duration_s"] <= 1.9})  # fmt: skip
            traced.append({"version": version, "step": step["name"], "kind": step["kind"], "direction": "up", "statement": "ALTER TABLE students ADD COLUMN x integer " * 3, "seconds": 0.9, "locks": [{"table": "public.students", "mode": "AccessExclusiveLock", "seconds": 0.2}] if step["kind"] == "sql" else [], "rewrites": [], "scans": [], "rows": 0})  # fmt: skip
    checks = [{"check": f"check_{n}", "title": f"what check {n} looks at", "level": "ok" if n else "warn", "evidence": "nothing found in 200 tables", "fix": "" if n else "VACUUM public.students;", "objects": 0} for n in range(45)]  # fmt: skip
    changes = [{"kind": "column", "change": "added" if n % 3 else "changed", "object": f'public.table_{n % 60}."column_{n}"', "before": None if n % 3 else "integer", "after": "character varying(255) NOT NULL"} for n in range(objects)]  # fmt: skip
    definitions = [{"kind": "index", "object": f"public.index_number_{n}", "definition": f"CREATE INDEX index_number_{n} ON public.table_{n % 60} USING btree (column_a, column_b) WHERE (NOT deleted) " * 2} for n in range(objects)]  # fmt: skip
    lines = [{"kind": "constraint", "object": f'public.table_{n % 60}."constraint_number_{n}_fkey"', "passed": True} for n in range(2 * objects)]  # fmt: skip
    health = {"level": "warn", "checks": checks, "facts": {"size_bytes": 8_000_000_000}}
    return {
        "preflight": health,
        "plan": {"pending": pending, "risk": "medium", "applied": []},
        "backup": {"path": "/srv/backups/white_cross/20260105_220010", "bytes": 1_234_567_890, "tables": 60},
        "prove": {"path": "/srv/backups/white_cross/20260105_220010", "proved_at": at(140), "level": 4, "ready_seconds": 71.5, "seconds": 80.0},
        "rehearse": {"file": "/srv/backups/white_cross/rehearsals/20260105T220000Z-0a1b2c.json", "rehearsal": {"ok": True, "why": None, "down_equal": True, "steps": traced, "forecast": {"steps": foretold, "seconds": 450.0, "low": 250.0, "high": 1250.0, "blocks_reads": 0.2, "blocks_writes": 0.4}, "reservations": []}},
        "rehearsal_actual": {"steps": actual, "forecast_s": round(sum(step["forecast"] for step in actual), 3), "actual_s": round(sum(step["actual"] for step in actual), 3)},
        "apply": {"applied": applied, "tables": ["public.students"], "model_changes": changes, "health": {"probe_ms": 3.0}},
        "analyze": {"analyzed": ["public.students"], "seconds": 20.0},
        "verify": {"passed": True, "lines": lines, "definitions": definitions, "findings": []},
        "preflight_after": {**health, "worse": [], "better": [], "rows": {"fewer": [], "more": [], "same": 60, "not_compared": []}},
    }  # fmt: skip
