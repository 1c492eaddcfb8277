# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each lint, as a test: the longest takes one processor for a minute, beside which others run."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
from support.podman import ROOT


def script() -> ModuleType:
    """What `make lint` runs."""
    spec = importlib.util.spec_from_file_location("lint", ROOT / "tests" / "setup" / "lint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LINT = script()


@pytest.mark.parametrize("check", LINT.CHECKS)
def test_lint(check: str) -> None:
    done = LINT.done(check)
    assert done.returncode == 0, done.stdout
