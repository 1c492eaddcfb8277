# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pgBackRest is told of the target of a recovery."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.point_in_time import Plan


@pytest.mark.parametrize("timeline", [1, 10, 26])
def test_the_timeline_is_told_as_postgresql_reads_it(timeline: int) -> None:
    """The tests of a rollback to a point in time meet timeline 10 where they share a cluster: there PostgreSQL itself refuses A."""
    plan = Plan("20261122-010101F", 1, "before", None, "0/1", timeline, f"{timeline:08X}0000000000000001", 16)
    (told,) = [option for option in plan.arguments() if option.startswith("--target-timeline=")]
    assert int(told.partition("=")[2], 0) == timeline
