# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every Molecule scenario, as a test, so that one command ends with one count and two run side by side."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.podman import ROOT, environment

SCENARIOS = sorted(p.parent.name for p in (ROOT / "molecule").glob("*/molecule.yml"))
# On two majors, a host at a time; of the other scenarios all hosts work together.
BY_HOST = ("default", "backup", "rollback")
# What `make test` takes: the whole path. The rest is for `make test-all`.
QUICK = "pgops-default-18"


def platforms(scenario: str) -> list[str]:
    """:return: the names of its hosts."""
    return [str(item["name"]) for item in yaml.safe_load(path(scenario).read_text())["platforms"]]


def path(scenario: str) -> Path:
    return ROOT / "molecule" / scenario / "molecule.yml"


def runs() -> Iterator[object]:
    """:return: each scenario, and each host of those that go by host."""
    for scenario in SCENARIOS:
        if scenario not in BY_HOST:
            yield pytest.param(scenario, None, id=scenario, marks=pytest.mark.slow)
            continue
        for host in platforms(scenario):
            marks = [] if host == QUICK else pytest.mark.slow
            yield pytest.param(scenario, host, id=host.removeprefix("pgops-"), marks=marks)


@pytest.mark.container
@pytest.mark.parametrize(("scenario", "host"), list(runs()))
def test_scenario(scenario: str, host: str | None) -> None:
    values = {k: v for k, v in environment().items() if not k.startswith(("ANSIBLE_", "MOLECULE_", "PG", "PYTEST"))}
    values["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{values.get('PATH', os.defpath)}"
    values["NO_COLOR"] = "1"
    command = ["molecule", "test", "--scenario-name", scenario]
    if host is not None:
        command += ["--platform-name", host]
        values["MOLECULE_TESTED_HOSTS"] = f"podman://{host}"
    # Molecule keeps the state of a scenario in one folder of the user, whatever its host.
    with (Path(tempfile.gettempdir()) / f"pgops-molecule-{os.getuid()}-{scenario}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            command, cwd=ROOT, env=values, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20000:]
    # Molecule passes a scenario that does nothing: all of these are warnings only.
    for nothing in ("no hosts matched", "no tests found", "missing playbook"):
        assert nothing not in done.stdout.lower(), done.stdout[-20000:]
    if host is not None:
        assert host in done.stdout
