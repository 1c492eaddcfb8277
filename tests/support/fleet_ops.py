# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An ops host on which runs have left their reports."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import timer_state
from ansible_collections.whitecross.pgops.plugins.plugin_utils import fleet_page, reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOST = {"host": "db1", "environment": "staging", "databases": ["school"]}
WELL: dict[str, dict[str, Any]] = {
    "preflight": {"level": "ok", "checks": [{"check": "server", "level": "ok"}], "facts": {"size_bytes": 9_000_000}},
    "backup": {"path": "/b/1", "bytes": 1_000_000, "seconds": 4.0},
    "prove": {"path": "/b/1", "level": 4, "ready_seconds": 5.0},
    "drill": {"verdict": "passed", "level": 5, "ready_seconds": 6.0, "error": None},
    "maintenance": {"counts": {"done": 3, "failed": 0}, "given_back": 2_000_000, "seconds": 30.0},
    "verify": {"passed": True, "versions": ["20260101000000", "20260102000000"]},
}


class Ops:
    """An ops host: its state directory, and runs that have left their reports there as real runs do."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.number = 0

    def run(
        self, playbook: str, phases: dict[str, Any], *, days: float = 0.1, failed: str | None = None, reaches: bool = True,
        database: str = "school", host: str = "db1",
    ) -> Path:  # fmt: skip
        """A run so many days ago. :return: its report."""
        self.number += 1
        ended = NOW - timedelta(days=days)
        run_id = f"{ended:%Y%m%dT%H%M%SZ}-{self.number:06x}"
        run = {"id": run_id, "environment": "staging", "playbook": playbook, "command": f"ansible-playbook {playbook}.yml", "limit": "staging", "who": "ada", "ops_host": "ops1", "hosts": [host], "phases": [], "check_mode": False}  # fmt: skip
        time = timer_state.utc(ended)
        events: list[dict[str, Any]] = [{"event": "run_started", "time": time, **run}]
        for phase, found in phases.items() if reaches else ():
            shared = {"phase": phase, "host": host, "time": time}
            result = {
                **found,
                **({"proved_at": time} if phase == "prove" else {"finished": time} if phase == "backup" else {}),
            }
            events.append({"event": "phase_started", **shared})
            events.append({"event": "phase_finished", "result": {database: result}, "duration_s": 1.0, **shared})
        report = reporting.build(events, run=run, error={"message": failed} if failed else None)
        report.update(finished=time, duration_s=60.0 + self.number)
        files = reporting.files(self.state, "staging", run_id)
        files["json"].parent.mkdir(parents=True, exist_ok=True)
        files["json"].write_text(json.dumps(report), encoding="utf-8")
        files["html"].touch()
        journal = Journal(self.state, "staging", run_id).path
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.touch()
        return files["json"]

    def fleet(self, *hosts: dict[str, Any], days: float = 90, faults: tuple[str, ...] = ()) -> dict[str, Any]:
        """:return: what the page is made of, after it was made."""
        given = [{**host, "state": str(self.state)} for host in hosts or (HOST,)]
        fleet = fleet_page.document(given, faults, now=NOW, days=days)
        json.dumps(fleet)
        self.page = fleet_page.page(fleet, self.state / "reports")
        return fleet
