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


@pytest.mark.parametrize(
    "value", [5432, "5432", "1", "65535", "5432,5433,5434", "5432,,5433", "5432,,", "", None, "{{ port }}"]
)
def test_what_libpq_takes_passes(value: object) -> None:
    assert wrong_value({"pgops_port": value, "pgops_host": "db1,db2,db3"}, {}) is None
    assert wrong_value({"pgops_port": value, "pgops_host": "{{ hosts }}"}, {}) is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"pgops_port": "54320,"}, "pgops_port is 54320,, 2 ports with commas, and pgops_host names one host"),
        (
            {"pgops_port": "1,2", "pgops_host": "db1"},
            "pgops_port is 1,2, 2 ports with commas, and pgops_host names one host",
        ),
        (
            {"pgops_port": "1,2", "pgops_host": "a,b,c"},
            "pgops_port is 1,2, 2 ports with commas, and pgops_host names 3 hosts",
        ),
        (
            {"pgops_scratch_port": "1,", "pgops_scratch_host": "a"},
            "pgops_scratch_port is 1,, 2 ports with commas, and pgops_scratch_host names one host",
        ),
        (
            {"pgops_scratch_port": "1,2,3", "pgops_host": "a,b"},
            "pgops_scratch_port is 1,2,3, 3 ports with commas, and pgops_host names 2 hosts",
        ),
    ],
)
def test_as_many_ports_as_hosts_or_one_for_all(given: dict[str, object], told: str) -> None:
    wrong = wrong_value(given, {})
    assert wrong is not None
    assert wrong.sentence == f"{told}; it takes one port, or one for each"


def test_ports_of_the_source_and_of_the_scratch_server_are_counted_apart() -> None:
    given = {"pgops_host": "a,b", "pgops_port": "1,2", "pgops_scratch_host": "c", "pgops_scratch_port": "3"}
    assert wrong_value(given, {}) is None
