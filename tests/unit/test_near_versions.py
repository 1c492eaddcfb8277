# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The version that somebody may have meant is the one next to it in time."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.near_versions import nearest

VERSIONS = ["20260104000000", "20260101000000", "20260102000000", "local"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("20990101000000", "20260104000000"),
        ("20250101000000", "20260101000000"),
        ("20260102000001", "20260102000000"),
        ("20260103120000", "20260104000000"),
        ("20260102", "20260102000000"),
        ("202601040000000", "20260104000000"),
        ("latest", None),
        ("", None),
        ("２０２６", None),
    ],
)  # fmt: skip
def test_it_is_found_by_its_number(typed: str, meant: str | None) -> None:
    assert nearest(typed, VERSIONS) == meant


def test_of_no_version_there_is_none() -> None:
    assert nearest("20260101000000", []) is None
