# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: guard
short_description: Refuse a run that should not start
version_added: 0.1.0
description:
  - Looks at the command line, the inventory and the variables of a play, and ends it in one sentence that says what to type
    where the run would reach the wrong database.
  - It refuses a run without C(--limit) while a production host is in reach, C(-l all), a limit that spans two environments or names
    nothing, a host in no environment or in two, a misspelt C(pgops_*) or role variable, a value that a role does not take, an empty
    one on the command line that would count as no choice, a selection of another C(rollback_strategy), a phase that does not exist, with C(-e)
    which environments there are and which are production, or an internal variable of the collection's playbooks, a missing C(pgops_database), a
    migration of production for which C(pgops_contacts) names nobody to call or C(migrate_auto_rollback) no reason, one that requires copies
    (C(backup_copies_required)) and names no place for them, a rollback of production without C(rollback_reason) or without saying where it goes, with
    tags that leave out its backup or its verification, or outside C(migrate_windows) where no emergency is declared, folders for journal, reports and
    backups inside an execution environment, and an ansible-core or Python of the controller that is too old.
  - A run that may start gets an id, a journal on the ops host and the fact C(__pgops_run), which the phases extend.
  - It runs once a play, on the controller, and opens no connection to any host.
options:
  playbook:
    description:
      - The name under which the run is recorded.
      - That of the playbook on the command line where it is not set.
    type: str
attributes:
  check_mode:
    description: Refuses the same runs, and writes no journal.
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
- name: Refuse a run that should not start
  whitecross.pgops.guard:
"""

RETURN = r"""
run:
  description: The run, as the journal has it.
  returned: when the run may start
  type: dict
  contains:
    id:
      description: Its id, which sorts by time.
      type: str
      sample: 20260101T120000Z-0a1b2c
    environment:
      description: The one environment of all its hosts.
      type: str
      sample: staging
    phases:
      description: The phases that C(pgops_phases) switches on, in their order.
      type: list
      elements: str
next:
  description: The command that the sentence says to type, where it has one.
  returned: when the guard itself ended the run
  type: list
  elements: str
refused:
  description: Whether the guard itself ended the run.
  returned: when it did
  type: bool
"""
