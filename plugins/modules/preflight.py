# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Look at the health of a server and its databases
version_added: 0.1.0
description:
  - Reads, and never writes, what a migration, its backup and its way back depend on; each check is ok, warn or stop, with what
    was seen and what to type against it.
  - It ends the run when a check says stop, unless O(waive) names that check with a reason.
  - Given O(before), it looks at the same list again and says what is worse or better, and which tables have fewer or more rows.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  waive:
    description:
      - Checks that may say stop without ending the run. Each needs a reason, which is recorded.
      - Only a stop is waived. A server that cannot be reached ends the run all the same.
    type: list
    elements: dict
    default: []
    suboptions:
      check:
        description: The name of the check, as the report shows it.
        type: str
      reason:
        description: Why it may be passed this time.
        type: str
  backup_directory:
    description:
      - Where dumps go on the host where the module runs; its free space is compared with the size of the database.
    type: path
  health_url:
    description:
      - Where the application is asked, from the host where the module runs, whether it is well. Another answer than 2xx within
        5 seconds stops; without the option nobody is asked. Redirects are not followed, and no proxy is used.
    type: str
  before:
    description:
      - The RV(databases) of an earlier look, to compare with.
    type: dict
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Look before anything is changed
  whitecross.pgops.preflight:
    databases: [white_cross]
    waive:
      - check: prepared_transactions
        reason: the payment gateway's, ends before midnight
"""

RETURN = r"""
databases:
  description: What was seen, by database.
  returned: always
  type: dict
  contains:
    level:
      description: The gravest level of all checks; a waived stop counts as warn.
      type: str
      sample: ok
    checks:
      description: Every check in the order in which it was made.
      type: list
      elements: dict
      contains:
        check:
          description: Its name, for O(waive).
          type: str
        title:
          description: What it looks at.
          type: str
        level:
          description: V(ok), V(warn) or V(stop).
          type: str
        evidence:
          description: What was seen; object names, ids and numbers only.
          type: str
        fix:
          description: What to type against it.
          type: str
        objects:
          description: How many objects the finding has.
          type: int
        waived:
          description: The reason, where a stop was waived.
          type: str
    facts:
      description: Size in bytes, sessions, locks not granted, server version, the ten largest tables, and the rows of each table
        (counted up to 100,000, else the planner's estimate).
      type: dict
    worse:
      description: Checks that are worse than before.
      returned: with O(before)
      type: list
      elements: dict
    better:
      description: Checks that are better than before.
      returned: with O(before)
      type: list
      elements: dict
    rows:
      description:
        - Tables that have V(fewer) or V(more) rows than before, how many have the V(same), and which could not be compared.
        - Fewer make the level V(warn) and never end a run, for other clients write meanwhile.
      returned: with O(before), where rows were counted both times
      type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Look at every database and leave with the report, failed where a check stops."""
    module = pgops_module.create_module(
        {
            "waive": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"check": {"type": "str"}, "reason": {"type": "str"}},
            },
            "backup_directory": {"type": "path"},
            "health_url": {"type": "str"},
            "before": {"type": "dict"},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import preflight

        databases = preflight.look_at(
            pgops_module.targets(module),
            waivers=module.params["waive"],
            application_name="pgops preflight",
            backup_directory=module.params["backup_directory"],
            health_url=module.params["health_url"],
            before=module.params["before"],
        )
        return {"changed": False, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
