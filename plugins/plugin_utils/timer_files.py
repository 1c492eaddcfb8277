# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the ops host knows of its timers: which are installed, and a file each, written anew at the end of every run."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import timer_look, timer_state

_KEPT = ("name", "last_success", "expected_every_s", "result")
_LOOKED = (*_KEPT, "state", "why")


def folder_of(state_directory: str | Path, environment: str) -> Path:
    """:return: where they lie: beside the journals of the environment's runs."""
    return Path(state_directory).expanduser() / "journal" / environment / "timers"


def known(state_directory: str | Path, environment: str, now: datetime) -> list[dict[str, Any]] | None:
    """What is to be thought of the environment's timers, one that never ran among them: it has left no heartbeat to look at.

    :return: each timer that is installed with ``state`` and ``why`` as status.yml has them, then the heartbeats of others as :func:`read`
        has them. None where nothing was ever scheduled"""
    place = timer_state.TimerPlace(str(Path(state_directory).expanduser().absolute()), environment)
    beats = read(Path(place.heartbeats))
    if not os.path.lexists(place.record):
        return beats
    try:
        rows = {row["name"]: {key: row[key] for key in _LOOKED} for row in timer_look.rows(place, now)}
    except (KeyError, TypeError, ValueError, AttributeError):
        rows = {}
    if not rows:
        fault = f"{place.record} cannot be read, or is no record of timers"
        return [{"name": f"timers of {environment}", "fault": fault}, *(beats or [])]
    told = {timer["name"]: timer for timer in beats or [] if timer["name"] not in rows or timer.get("fault")}
    return list({**rows, **told}.values())


def read(folder: Path) -> list[dict[str, Any]] | None:
    """:param folder: see :func:`folder_of`.
    :return: what each timer wrote, by name; with ``fault`` where that cannot be understood. None where nothing was ever scheduled."""
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix == ".json")
    except FileNotFoundError:
        return None
    except OSError as exc:
        return [{"name": str(folder), "fault": f"cannot be read: {exc.strerror}"}]
    return [_timer(file) for file in files]


def _timer(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        return {"name": file.stem, "fault": f"{file} cannot be read: {exc.strerror}"}
    except ValueError:
        told = None
    if not isinstance(told, dict):
        return {"name": file.stem, "fault": f"{file} is no JSON object"}
    return {"name": file.stem, **{key: told[key] for key in _KEPT if key in told}}
