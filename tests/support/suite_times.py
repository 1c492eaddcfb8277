# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the whole suite takes, kept a line a run and told beside earlier runs of the same selection on this machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

FILE = Path(".local") / "test-times.jsonl"
COMPARED = 5

_BEGUN = pytest.StashKey[float]()


def is_whole(config: pytest.Config) -> bool:
    """Whether a run takes all that its marks select: no path, no -k, none left out, none of the last failures only."""
    option = config.option
    narrowed = option.keyword or option.deselect or option.ignore or option.ignore_glob or option.collectonly
    last = getattr(option, "lf", False) or getattr(option, "stepwise", False)
    return config.args_source == pytest.Config.ArgsSource.TESTPATHS and not (narrowed or last)


def selection(config: pytest.Config) -> dict[str, Any]:
    """:return: what makes the seconds of two runs comparable."""
    return {
        "marks": config.option.markexpr,
        "workers": getattr(config.option, "numprocesses", None) or 1,
        "machine": f"{platform.node()}, {os.cpu_count()} processors",
    }


def read(file: Path) -> list[dict[str, Any]]:
    """:return: the runs in the file, oldest first; a torn line is left out."""
    runs = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    for line in lines:
        try:
            run = json.loads(line)
        except ValueError:
            continue
        if isinstance(run, dict) and isinstance(run.get("seconds"), (int, float)):
            runs.append(run)
    return runs


def sentence(run: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> str:
    """:return: this run's time beside the median of the last passed ones that it can be held against."""
    like = [
        float(other["seconds"])
        for other in earlier
        if other.get("passed") and all(other.get(name) == run[name] for name in ("marks", "workers", "machine"))
    ][-COMPARED:]
    told = f"the suite took {run['seconds']:.0f} s"
    if not like:
        return f"{told}; no earlier run of this selection on this machine to compare with"
    median = statistics.median(like)
    change = f" ({(run['seconds'] / median - 1) * 100:+.0f} %)" if median > 0 else ""
    return f"{told}, the median of the last {len(like)} was {median:.0f} s{change}"


def record(file: Path, run: Mapping[str, Any]) -> str | None:
    """Append a run. :return: why it could not be, or None: a clock that cannot write must not fail the tests."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(run) + "\n")
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


# -- pytest's hooks; of xdist's workers none has a terminal to tell it on ------------------------------------------------


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_BEGUN] = time.monotonic()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: pytest.ExitCode, config: pytest.Config
) -> None:
    ended = (
        exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not terminalreporter._session.shouldfail
    )
    if hasattr(config, "workerinput") or _BEGUN not in config.stash or not (ended and is_whole(config)):
        return
    file = config.rootpath / FILE
    run = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - config.stash[_BEGUN], 1),
        "passed": exitstatus == pytest.ExitCode.OK,
        **selection(config),
    }
    terminalreporter.write_line(sentence(run, read(file)))
    fault = record(file, run)
    if fault:
        terminalreporter.write_line(f"its time was not recorded in {FILE}: {fault}")
