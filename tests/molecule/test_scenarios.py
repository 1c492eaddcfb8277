# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every Molecule scenario, as a test, so that one command ends with one count and two run side by side."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.podman import ROOT, environment

SCENARIOS = sorted(p.parent.name for p in (ROOT / "molecule").glob("*/molecule.yml"))
# More than a minute on a quiet machine: only in make test-all.
SLOW = ("concurrent_indexes", "staged_apply")


@pytest.mark.container
@pytest.mark.parametrize(
    "scenario", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in SCENARIOS]
)
def test_scenario(scenario: str) -> None:
    values = {k: v for k, v in environment().items() if not k.startswith(("ANSIBLE_", "MOLECULE_", "PG", "PYTEST"))}
    values["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{values.get('PATH', os.defpath)}"
    values["NO_COLOR"] = "1"
    done = subprocess.run(
        ["molecule", "test", "--scenario-name", scenario], cwd=ROOT, env=values, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20000:]
    # Molecule passes a scenario that does nothing: all of these are warnings only.
    for nothing in ("no hosts matched", "no tests found", "missing playbook"):
        assert nothing not in done.stdout.lower(), done.stdout[-20000:]
