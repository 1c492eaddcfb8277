# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The options of modules that write a run into the ledger, documented once."""

from __future__ import annotations


class ModuleDocFragment:
    """Who runs what, and how long it waits for another run."""

    DOCUMENTATION = r"""
options:
  run:
    description:
      - Who runs what, for the ledger - playbook, environment, who, ops_host, why, and backup by database. Filled by the action plugin.
    type: dict
    default: {}
  lock_wait:
    description:
      - How long to wait politely for another run of the same database, in seconds.
    type: float
    default: 30
"""
