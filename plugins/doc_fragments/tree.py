# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of modules that read the tree of migrations, documented once."""

from __future__ import annotations


class ModuleDocFragment:
    """The rendered tree; with ``.selection``, how much of what is pending is asked for; with ``.waiver``, what it is let off."""

    DOCUMENTATION = r"""
options:
  migrations:
    description:
      - The whole tree of migrations, rendered; the action plugin reads it from the folder that C(pgops_sql) names.
    type: list
    elements: dict
    default: []
  variables:
    description:
      - Values for variables that migrations declare, instead of their defaults. Used by the action plugin.
    type: dict
    default: {}
"""

    SELECTION = r"""
options:
  target:
    description:
      - The last version to apply; later ones stay pending. All pending versions where it is not set.
    type: str
  steps:
    description:
      - Apply at most so many versions.
    type: int
  allow_out_of_order:
    description:
      - Take a new version that sorts before an applied one. The action plugin refuses it outside the environment C(local).
    type: bool
    default: false
"""

    WAIVER = r"""
options:
  waive:
    description:
      - Versions that are let off a check, each with the reason, which is recorded.
    type: list
    elements: dict
    default: []
    suboptions:
      check:
        description:
          - V(evidence) of the environment before and V(window), in which it may begin, which only the plan asks for; V(contract), whose time has
            not come; V(schema), whose tables stand in another schema than the version makes them in.
        type: str
      version:
        description: The version.
        type: str
      reason:
        description: Why.
        type: str
      by:
        description: Who answers for it. Asked for where it is typed and the environment has a gate, as the next one is.
        type: str
      until:
        description: The last day on which it counts, V(2027-01-31).
        type: str
"""
