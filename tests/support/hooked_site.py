# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An operator's folder with one small version and every hook of an application, and what tests ask of a run with hooks."""

from __future__ import annotations

import shutil

from ansible_collections.whitecross.pgops.plugins.plugin_utils.taken_away import Taken, TakenAway

from support.application import Application
from support.site import Playbook, Result
from support.tree import TestTree

VERSION = "20260101000000"
AWAY = ["POST /drain", "POST /maintenance/on", "POST /stop"]
BACK = ["POST /start", "POST /maintenance/off", "POST /undrain"]
PATHS = {
    "divert_traffic": "/drain", "maintenance_on": "/maintenance/on", "stop": "/stop", "start": "/start",
    "maintenance_off": "/maintenance/off", "smoke_test": "/smoke", "restore_traffic": "/undrain",
}  # fmt: skip


def with_hooks(playbook: Playbook, application: Application) -> Playbook:
    """No backup, which has nothing to do with them."""
    application.body = (
        b'{"error_rate": 0.0, "p50_ms": 3, "p95_ms": 9, "p99_ms": 20, "throughput": 80, "note": "Ada Lovelace"}'
    )
    shutil.rmtree(playbook.copy_sql() / "migrations")
    up = "CREATE TABLE public.rooms (id integer PRIMARY KEY);\n"
    TestTree(playbook.folder / "sql").add_sql(VERSION, "rooms", up, "DROP TABLE public.rooms;\n")
    playbook.variables["pgops_phases"] = ["plan", "apply", "report"]
    # Minutes, where probes are declared and nobody says so.
    playbook.variables["migrate_watch"] = 0
    for kind, path in PATHS.items():
        playbook.variables[f"hooks_{kind}"] = [{"url": application.url + path, "method": "POST"}]
    playbook.variables["hooks_health"] = [{"name": "web", "url": f"{application.url}/health", "retries": 3}]
    playbook.variables["hooks_metrics"] = [{"url": f"{application.url}/metrics"}]
    return playbook


def without_hooks(site: Playbook) -> Playbook:
    """The same folder of an environment that declares none."""
    for name in [name for name in site.variables if name.startswith("hooks_")]:
        site.variables.pop(name)
    return site


def taken_away(site: Playbook) -> list[Taken]:
    """What is away by now, by host and kind."""
    return TakenAway(site.state, "local").all()


def away(site: Playbook) -> list[str]:
    """The kinds of it."""
    return sorted(taken.kind for taken in taken_away(site))


def recorded(result: Result) -> dict[str, str]:
    """By kind what the file of `pgops_json` says became of it; of several hooks the last."""
    assert result.json is not None
    return {hook["kind"]: hook["done"] for hook in result.json["hooks"]}
