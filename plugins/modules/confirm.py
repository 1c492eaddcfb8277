# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: confirm
short_description: Ask for the name of the database before something is taken away
version_added: 0.1.0
description:
  - Goes on only when the databases are named. At a terminal it asks; without one it refuses and says what to add.
  - Of a rollback that is confirmed it says when it begins, on the screen, in the journal and to C(pgops_webhook); in production it says before,
    also in check mode, what of it the environment before has rehearsed.
  - Runs on the controller. In check mode it says what it would ask for.
options:
  answer:
    description:
      - The name of the database, or several with commas; C(rollback_confirm) of the role.
    type: raw
  databases:
    description:
      - The databases that must be named; those of the play where it is not set.
    type: list
    elements: str
  variable:
    description:
      - The variable that gives the answer, for the command that is told to be typed next.
    type: str
    default: rollback_confirm
  what:
    description:
      - What is asked about, as it follows on "The".
    type: str
    default: rollback
author:
  - White Cross pgops contributors
attributes:
  check_mode:
    description: Can run in check_mode and asks nothing then.
    support: full
"""

EXAMPLES = r"""
- name: Ask before rows are lost
  whitecross.pgops.confirm:
    answer: "{{ rollback_confirm | default('') }}"
"""

RETURN = r"""
confirmed:
  description: Whether the databases were named.
  returned: always
  type: bool
"""
