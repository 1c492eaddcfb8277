# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rehearsal by the engine: a proved backup of the test's database, its copy, and what was seen on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import kept_scratch, ledger, migrate, rehearse, restore
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.rehearsal_forecast import Budget

from support.backups import RUN, proved


def rehearsed(
    target: Any,
    directory: Path,
    migrations: list[dict[str, Any]],
    *,
    budget: Budget | None = None,
    run_id: str = RUN,
    backup: Any = None,
    control: Control | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """The record of a rehearsal on a copy that is restored for it."""
    found = backup or proved(target, directory)
    work = restore.Work(run_id, progress=progress or Progress(), control=control or Control())
    who = ledger.Run(run_id, "rehearse", "local", "tester", "ops-1")
    how = rehearse.Settings(
        lambda: migrate.Way(who, work.progress, work.control), budget or Budget(), "local", **settings
    )
    with kept_scratch.opened(target, found, work=work) as copy:
        return rehearse.rehearse(target, copy, found, migrations, Selection(), work=work, settings=how)


def locks_of(record: dict[str, Any], version: str | None = None) -> dict[tuple[str, str], float]:
    """Each lock that was seen, by table and mode, with its longest seconds."""
    found: dict[tuple[str, str], float] = {}
    for entry in record["steps"]:
        if version in (None, entry["version"]):
            for lock in entry["locks"]:
                key = (lock["table"], lock["mode"])
                found[key] = max(lock["seconds"], found.get(key, 0.0))
    return found
