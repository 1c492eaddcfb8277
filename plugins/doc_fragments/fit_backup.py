# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of the modules that go back to a backup, or weigh it, documented once."""

from __future__ import annotations


class ModuleDocFragment:
    """Where they lie, and which of them may be gone back to."""

    DOCUMENTATION = r"""
options:
  directory:
    description:
      - The folder on the host where the module runs that holds a folder of backups for each database.
    type: path
    required: true
  level_required:
    description:
      - The level to which the backup must be proved; see M(whitecross.pgops.prove). One below is refused.
    type: int
    default: 4
  break_glass:
    description:
      - Why a backup is restored although it is not proved or too old; the audit has it. An altered or foreign one is let off by no reason.
    type: str
    default: ""
  max_age_days:
    description:
      - From which age on a backup is too old; V(0) for never.
    type: float
    default: 0
"""
