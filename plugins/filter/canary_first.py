# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
name: canary_first
short_description: The hosts of a play with those in front that a change reaches first
version_added: 0.1.0
description:
  - Ansible takes the hosts of a play in the order of its patterns. This gives the canaries that are hosts, then C(all).
positional: canary
options:
  _input:
    description: The names of all hosts.
    type: list
    elements: str
    required: true
  canary:
    description: What C(migrate_canary) names, a list or a text with commas; a name that is no host is a database's, and passed over.
    type: raw
    default: ""
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Migrate
  hosts: "{{ groups['all'] | whitecross.pgops.canary_first(migrate_canary | default('')) }}"
"""

RETURN = r"""
_value:
  description: Patterns for C(hosts).
  type: list
  elements: str
"""

from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import batches


def canary_first(hosts: Sequence[str], canary: Any = "") -> list[str]:
    """:return: the canaries among the hosts, then ``all``."""
    return [*(name for name in batches.names(canary) if name in hosts), "all"]


class FilterModule:
    """The filter, by its name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """:return: name -> function."""
        return {"canary_first": canary_first}
