# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the timers of the ops host leave of themselves: a file each, written anew at the end of every run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_KEPT = ("name", "last_success", "expected_every_s", "result")


def folder_of(state_directory: str | Path, environment: str) -> Path:
    """:return: where they lie: beside the journals of the environment's runs."""
    return Path(state_directory).expanduser() / "journal" / environment / "timers"


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
