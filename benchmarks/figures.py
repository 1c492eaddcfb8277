# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a benchmark measured, kept in a file a run: where, when and of what, so that the next run can be held against it."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
# Requirement R13.10: what takes longer in one step is to be split.
LONGEST_STEP_S = 60.0
# Clients read and write all the while: a batch is a transaction of its own, the others take SHARE UPDATE EXCLUSIVE.
SPLIT = frozenset({"backfill", "indexes", "validate", "analyze"})


def commit(root: Path) -> str:
    """:return: the commit that was measured, with ``+`` behind it where files were changed since; ``unknown`` outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> dict[str, Any]:
    """:return: what seconds depend on: name, processors, memory in GB, system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "name": platform.node(),
        "processors": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "system": platform.platform(),
    }


def keep(benchmark: str, size: int, measured: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write what was measured as ``<benchmark>-<size>-<time>.json``, whole or not at all.

    :param size: rows, or whatever the benchmark is scaled by; runs of one size are compared.
    :return: the file.
    """
    at = datetime.now(UTC)
    document = {"benchmark": benchmark, "size": size, "at": at.isoformat(timespec="seconds"), **measured}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{benchmark}-{size}-{at:%Y%m%dT%H%M%S%fZ}.json"
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    partial.replace(file)
    return file


def newest(benchmark: str, size: int, folder: Path = RESULTS) -> dict[str, Any] | None:
    """:return: the last run of this size that can be read, None where there is none."""
    name = re.compile(rf"{re.escape(benchmark)}-{size}-\d{{8}}T\d+Z\.json")
    for file in sorted((path for path in folder.glob("*.json") if name.fullmatch(path.name)), reverse=True):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and isinstance(found.get("versions"), dict):
            return found
    return None


def compared(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[str]:
    """:return: lines for a person: seconds up and down of each version beside those of an earlier run."""
    if before is None:
        return ["no earlier run of this size to compare with"]
    other = [name for name in ("machine", "postgresql") if before.get(name) != now.get(name)]
    told = f"; not the same {' and '.join(other)}" if other else ""
    lines = [f"compared with the run of {before['at']} at {before.get('commit')}{told}"]
    for version, row in now["versions"].items():
        old = before["versions"].get(version)
        if old is None:
            lines.append(f"  {version} is new")
            continue
        parts = [f"{way} {old[f'{way}_s']:.2f} to {row[f'{way}_s']:.2f} s" for way in ("up", "down")]
        lines.append(f"  {version} {', '.join(parts)}")
    gone = sorted(set(before["versions"]) - set(now["versions"]))
    return lines + [f"  {version} is gone" for version in gone]


def too_long(versions: Mapping[str, Mapping[str, Any]], limit_s: float = LONGEST_STEP_S) -> list[str]:
    """:return: a sentence for each step that takes longer than it may and is not in batches or concurrent already."""
    return [
        f"{version} takes {step['duration_s']:.1f} s in step {step['step']} ({step['kind']}), and {limit_s:g} s are the most: "
        "split it, see docs/patterns/README.md"
        for version, row in versions.items()
        for step in row["steps"]
        if step["kind"] not in SPLIT and step["duration_s"] > limit_s
    ]
