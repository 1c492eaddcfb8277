# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of the modules that restore, documented once."""

from __future__ import annotations


class ModuleDocFragment:
    """How much of the server a restore takes."""

    DOCUMENTATION = r"""
options:
  jobs:
    description:
      - Processes of C(pg_restore), and sessions that count, hash and compare.
    type: int
    default: 2
"""
