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
      - Checks that may say stop without ending the run, or warn without being a warning. Each needs a reason, which is recorded.
      - A server that cannot be reached ends the run all the same.
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
      by:
        description: Who answers for it.
        type: str
      until:
        description: The last day on which it counts, C(2027-01-31). After it the check is shown with the waiver, and is not let off.
        type: str
  checks:
    description:
      - The checks. The action plugin reads them from C(sql/preflight).
    type: list
    elements: dict
    default: []
  thresholds:
    description:
      - Where a check begins to warn or to stop, by its name. The action plugin fills in those of the role.
    type: dict
    default: {}
  versions:
    description:
      - When a major version ends, and minor versions that nobody should run. The action plugin reads them from C(sql/preflight).
    type: dict
    default: {}
  environment:
    description:
      - The environment of the run; V(local) asks for no backup and no timer.
    type: str
    default: local
  production:
    description:
      - Whether the data are the real ones. Some findings stop there and warn elsewhere.
    type: bool
    default: false
  limit:
    description:
      - What the commands that help are typed with behind C(-l).
    type: str
    default: local
  timers:
    description:
      - What the ops host knows of its timers; without it, nothing was ever scheduled. The action plugin reads it from the state directory.
    type: list
    elements: dict
  again:
    description:
      - Whether it is the look just before something is changed; the action plugin gives it a phase of its own in the journal.
    type: bool
    default: false
  count_rows:
    description:
      - Whether the rows of each table are counted, for a later comparison.
    type: bool
    default: true
  backup_directory:
    description:
      - Where dumps go on the host where the module runs; its free space is compared with the size of the database.
    type: path
  backup_engine:
    description:
      - What makes the backups; those of V(physical) are pgBackRest's own and are not looked at. The action plugin takes the role's.
    type: str
    default: logical
    choices: [logical, physical]
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
        until: "2027-01-31"
"""

RETURN = r"""
databases:
  description: What was seen, by database.
  returned: always
  type: dict
  contains:
    level:
      description: The gravest level of all checks; what is waived counts one level less.
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
        unknown:
          description: True where nobody could look; such a check warns.
          type: bool
        waived:
          description: The reason, where it was waived.
          type: str
        waiver_expired:
          description: The reason of a waiver that is no longer in force.
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
                "options": {name: {"type": "str"} for name in ("check", "reason", "by", "until")},
            },
            "checks": {"type": "list", "elements": "dict", "default": []},
            "thresholds": {"type": "dict", "default": {}},
            "versions": {"type": "dict", "default": {}},
            "environment": {"type": "str", "default": "local"},
            "production": {"type": "bool", "default": False},
            "limit": {"type": "str", "default": "local"},
            "timers": {"type": "list", "elements": "dict"},
            "again": {"type": "bool", "default": False},
            "count_rows": {"type": "bool", "default": True},
            "backup_directory": {"type": "path"},
            "backup_engine": {"type": "str", "default": "logical", "choices": ["logical", "physical"]},
            "health_url": {"type": "str"},
            "before": {"type": "dict"},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import preflight
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
        from ansible_collections.whitecross.pgops.plugins.module_utils.preflight_checks import Check

        given = module.params
        if not given["checks"]:
            raise PgopsError(
                "No check is given; the action plugin whitecross.pgops.preflight reads them from sql/preflight."
            )
        look = preflight.Look(
            checks=[Check.of(check) for check in given["checks"]],
            thresholds={name: float(value) for name, value in given["thresholds"].items()},
            **{
                name: given[name]
                for name in (
                    "versions",
                    "backup_engine",
                    "environment",
                    "production",
                    "limit",
                    "backup_directory",
                    "health_url",
                    "timers",
                    "count_rows",
                )
            },
        )
        databases = preflight.look_at(
            pgops_module.targets(module),
            look,
            waivers=given["waive"],
            application_name="pgops preflight",
            before=given["before"],
        )
        return {"changed": False, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
