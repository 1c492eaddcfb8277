# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of modules that maintain tables, documented once."""

from __future__ import annotations


class ModuleDocFragment:
    """Who maintains, and when."""

    DOCUMENTATION = r"""
options:
  user_maintains:
    description:
      - The role that vacuums, analyzes and rebuilds, where that is not the one that migrates - for example one that is a member of
        C(pg_maintain) (17 and later). Before 17 it must own the tables, or the database.
      - The ledger is written by the role that migrates.
    type: str
  window:
    description:
      - When it may run, as V(02:00-04:00) or V(Sat,Sun 22:00-06:00 America/New_York), or a list of these or of windows with C(opens) and C(lasts).
        UTC where no time zone is named.
      - Read by the action plugin - outside of it nothing is planned or done, but in check mode; what is left of it is a part of the budget.
    type: raw
"""
