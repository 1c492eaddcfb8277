# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: timeline
short_description: Write the seven days before a migration
version_added: 0.1.0
description:
  - Works out from the moment for which it is planned what is due when (T-7 to T-0), tells what is done and what is late, and writes the plan
    that is submitted and the words in which each stakeholder is told, below C(timelines) of C(pgops_state_directory).
  - It runs once a play, on the controller, after M(whitecross.pgops.plan) and M(whitecross.pgops.gate).
options:
  planned_for:
    description: When the migration is to begin, with a time zone.
    type: str
    required: true
  done:
    description: What people have done, of V(submitted), V(security), V(notified) and V(go). A go without all signatures is none.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Shows the dates and writes nothing.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
notes:
  - This is an action plugin; nothing is sent to a host.
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Write the seven days before a migration
  whitecross.pgops.timeline:
    planned_for: "2026-12-05T22:00:00-05:00"
    done: [submitted]
"""

RETURN = r"""
file:
  description: The plan; a JSON file of the same name lies beside it.
  returned: outside of check mode
  type: str
timeline:
  description: C(planned_for), C(steps), C(places) and the C(texts) for stakeholders.
  returned: always
  type: dict
"""
