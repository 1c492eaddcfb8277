# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: stop
short_description: End a running migration at its next safe point
version_added: 0.1.0
description:
  - Marks the run that holds the database's lock to end after the statement in hand, and waits, bounded, until the lock is free.
  - A concurrent index build is cancelled and what it left is dropped. What was done is recorded, and the next run goes on there.
  - Where nothing runs it says so and changes nothing.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  wait:
    description:
      - How long to wait for the run to end, in seconds.
    type: float
    default: 120
  by:
    description:
      - Who asks, as the stopped run will record it. Filled by the action plugin.
    type: str
    default: somebody
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: End the migration that runs
  whitecross.pgops.stop:
    databases: [white_cross]
    wait: 60
"""

RETURN = r"""
databases:
  description: What was found and what came of it, by database.
  returned: always
  type: dict
  contains:
    was_running:
      description: Whether a run held the lock.
      type: bool
    stopped:
      description: Whether it has ended.
      type: bool
    sessions:
      description: Where no run holds the lock, the ids of runs that are connected all the same, in their backup for example.
      type: list
      elements: str
    before_its_lock:
      description: Runs of this machine that were asked before they took the lock, each with V(run_id) and V(stopped). Added by the action plugin.
      type: list
      elements: dict
    holder:
      description: The run - id, since, host, who, server process.
      type: dict
    waited_s:
      description: Seconds until the lock was free.
      type: float
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Ask in each database, then wait for each."""
    module = pgops_module.create_module(
        {
            "wait": {"type": "float", "default": 120},
            "by": {"type": "str", "default": "somebody"},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import stopping

        found = {
            name: stopping.stop(
                target, by=module.params["by"], wait_s=module.params["wait"], check_mode=module.check_mode
            )
            for name, target in pgops_module.targets(module).items()
        }
        return {"changed": any(item["was_running"] for item in found.values()), "databases": found}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
