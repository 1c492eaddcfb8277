# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of the modules that know how long a backup is kept, documented once."""

from __future__ import annotations


class ModuleDocFragment:
    """Where the backups lie, and the policy by which they are kept."""

    DOCUMENTATION = r"""
options:
  directory:
    description:
      - The folder on the host where the module runs that holds a folder for each database.
    type: path
    required: true
  environment:
    description:
      - The backups of another environment are left alone. Filled by the action plugin with that of the run.
    type: str
    default: ""
  production:
    description:
      - Refuse a policy that keeps backups from before a schema change for less than 90 days, or 7 years where it touches protected
        health information. Filled by the action plugin.
    type: bool
    default: false
  keep_last:
    description:
      - So many of the newest backups stay, whatever their day.
    type: int
    default: 7
  keep_daily:
    description:
      - Of so many of the newest days that have a backup one stays.
    type: int
    default: 14
  keep_weekly:
    description:
      - The same of ISO weeks.
    type: int
    default: 8
  keep_monthly:
    description:
      - The same of months.
    type: int
    default: 12
  keep_yearly:
    description:
      - The same of years.
    type: int
    default: 7
  keep_change_days:
    description:
      - Days that a backup from before a schema change stays at least.
    type: int
    default: 90
  keep_phi_years:
    description:
      - Years that it stays where the change touches protected health information, or where nobody has said.
    type: int
    default: 7
"""
