# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: rollback_advice
short_description: Roll back by itself what a migration has changed
version_added: 0.1.0
description:
  - Judges what the run has recorded by the six criteria of docs/incident.md. Where they say to roll back and O(automatic) allows it, it runs
    C(rollback.yml), as it was called itself, for each host and its databases that this run has changed, and shows what that says.
  - Nothing older goes back than what this run has applied. A version without a way down goes back to the backup that this run has made and
    proved, and to no other one.
  - The advice itself is in the report of each migration that began to apply and failed, or was watched; for that this module is not needed.
  - A rollback that fails ends it, and is in the report with what to type. It is not begun where somebody has asked the run to stop.
options:
  automatic:
    description:
      - Whether it may be done without a question.
    type: bool
    default: false
  reason:
    description:
      - Why it may; recorded with the rollback.
    type: str
attributes:
  check_mode:
    description: Says what would be done after a failure.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
notes:
  - This is an action plugin; nothing is sent to a host.
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Roll back what this run has changed, where that is advised and allowed
  whitecross.pgops.rollback_advice:
    automatic: "{{ migrate_auto_rollback }}"
"""

RETURN = r"""
rolled_back:
  description: What was rolled back, with V(host), V(databases) and whether it came to its end.
  returned: always
  type: list
  elements: dict
"""
