# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which ports libpq would refuse, told before it is asked."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils.refused_values import wrong_value


@pytest.mark.parametrize("name", ["pgops_port", "pgops_scratch_port", "backup_standby_port"])
@pytest.mark.parametrize("value", ["abc", "0", 65536, "-1", "5432;5433", "5432,abc", "５４３２", True])
def test_what_is_no_port_is_refused(name: str, value: object) -> None:
    wrong = wrong_value({name: value}, {})
    assert wrong is not None
    assert (wrong.name, wrong.instead) == (name, None)


@pytest.mark.parametrize("value", [5432, "5432", "1", "65535", "5432,5433", "5432,,5433", "", None, "{{ port }}"])
def test_what_libpq_takes_passes(value: object) -> None:
    assert wrong_value({"pgops_port": value}, {}) is None
