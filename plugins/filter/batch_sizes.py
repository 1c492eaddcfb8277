# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: batch_sizes
short_description: How many hosts each batch of a play has
version_added: 0.1.0
description:
  - The canaries that are hosts are a batch of their own, the others follow in growing ones; without a canary and without sizes all
    hosts are one batch.
  - For C(serial), where only variables that are given with C(-e) are known.
positional: canary, hosts
options:
  _input:
    description: What C(migrate_batches) says, numbers or percentages of all hosts, a list or a text with commas; the last goes on to the end.
    type: raw
    required: true
  canary:
    description: What C(migrate_canary) names, a list or a text with commas.
    type: raw
    default: ""
  hosts:
    description: The names of all hosts.
    type: list
    elements: str
    default: []
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Migrate
  hosts: all
  serial: "{{ migrate_batches | default('') | whitecross.pgops.batch_sizes(migrate_canary | default(''), groups['all']) }}"
"""

RETURN = r"""
_value:
  description: Sizes for C(serial).
  type: list
  elements: str
"""

from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import batches


def batch_sizes(sizes: Any, canary: Any = "", hosts: Sequence[str] = ()) -> list[str]:
    """:return: the sizes of the batches; see :func:`batches.sizes`."""
    return batches.sizes(sizes, sum(name in hosts for name in batches.names(canary)))


class FilterModule:
    """The filter, by its name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """:return: name -> function."""
        return {"batch_sizes": batch_sizes}
