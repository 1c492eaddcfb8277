# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What is said of each version that was applied."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.action.apply import ActionModule


def test_what_was_there_and_what_was_not_are_told_in_words_that_fit_both(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(ActionModule, "say", lambda self, text: said.append(text))
    version: dict[str, Any] = {
        "version": "20260101000001",
        "name": "tidy",
        "duration_s": 1.5,
        "skipped": ["table public.v", "public.v has no constraint nix"],
        "terminated": [],
    }
    action = ActionModule.__new__(ActionModule)
    action.after({"databases": {"school": {"applied": [version]}}}, {})
    assert said[0].startswith("school: 20260101000001 tidy applied in 1.5")
    assert said[0].endswith(", already as wanted: table public.v, public.v has no constraint nix")
