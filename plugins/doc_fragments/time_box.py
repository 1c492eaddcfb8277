# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of what a rollback does before it destroys, documented once."""

from __future__ import annotations


class ModuleDocFragment:
    """How long it may take, and whether the run goes on without."""

    DOCUMENTATION = r"""
options:
  timeout:
    description:
      - After so many seconds it ends without a result; V(0) waits for its end.
    type: float
    default: 0
  tolerated:
    description:
      - Whether the run goes on where this fails. Read by the action plugin, which then tells what is C(missed).
    type: bool
    default: false
"""
