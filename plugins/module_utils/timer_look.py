# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each timer has done last and does next: by its heartbeat, which is there whatever systemd remembers, and by systemd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import timer_state
from ansible_collections.whitecross.pgops.plugins.module_utils.timer_state import TimerPlace

TIMEOUT_S = 20
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def rows(place: TimerPlace, now: datetime) -> list[dict[str, Any]]:
    """:return: one for each timer that was installed, by name; empty where none was."""
    record = timer_state.read(place.record)
    if record is None:
        return []
    return [_row(place, record, name, job, now) for name, job in sorted(record["jobs"].items())]


def _row(place: TimerPlace, record: Mapping[str, Any], name: str, job: dict[str, Any], now: datetime) -> dict[str, Any]:
    heartbeat = timer_state.read(place.heartbeat(name))
    asked = _ask(record, job)
    judged = timer_state.judge(
        job, heartbeat, now=now, grace_s=int(record.get("grace_s") or 0), active=asked.get("active") if asked else None
    )
    known = heartbeat or {}
    return {
        "name": name,
        "playbook": job["playbook"],
        "on_calendar": job["on_calendar"],
        "unit": job.get("unit"),
        "state": judged.state,
        "why": judged.why,
        "last_run": known.get("at"),
        "result": known.get("result"),
        "exit_code": known.get("exit_code"),
        "last_success": known.get("last_success"),
        "expected_every_s": job["expected_every_s"],
        "next": (asked or {}).get("next"),
        "running": bool((asked or {}).get("running")),
        "look": look(record, job),
    }


def look(record: Mapping[str, Any], job: Mapping[str, Any]) -> str:
    """:return: the command that shows what a job said."""
    if not job.get("unit"):
        # cron mails what a job says to its user.
        return "crontab -l"
    scope = "--user " if record.get("scope") == "user" else ""
    return f"journalctl {scope}-u {job['unit']} -n 50"


def _ask(record: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any] | None:
    """:return: ``active``, ``next`` and ``running`` as systemd has them; None where it cannot be asked."""
    if not job.get("unit") or not shutil.which("systemctl") or not os.path.isdir("/run/systemd/system"):
        return None
    timer = str(job["unit"])[: -len(".service")] + ".timer"
    shown = _show(record, timer, "ActiveState", "NextElapseUSecRealtime")
    if shown is None:
        return None
    at = _MOMENT.search(shown.get("NextElapseUSecRealtime", ""))
    following = datetime.fromisoformat(at.group()).replace(tzinfo=timezone.utc) if at else None
    service = _show(record, str(job["unit"]), "ActiveState") or {}
    return {
        "active": shown.get("ActiveState") == "active",
        "next": timer_state.utc(following) if following else None,
        "running": service.get("ActiveState") in ("activating", "active", "deactivating"),
    }


def _show(record: Mapping[str, Any], unit: str, *names: str) -> dict[str, str] | None:
    scope = ["--user"] if record.get("scope") == "user" else []
    # It writes moments in the zone of who asks.
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["systemctl", *scope, "show", unit, *(f"--property={name}" for name in names)],
            capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    return dict(line.partition("=")[::2] for line in done.stdout.splitlines() if "=" in line)
