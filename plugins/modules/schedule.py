# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: schedule
short_description: Have the playbooks of an environment run by themselves
version_added: 0.1.0
description:
  - Writes a systemd timer and a service for each job, and one that tells of a failure, and switches the timers on; for root in the system's
    manager, for another user in that user's own. Where there is no systemd, writes the lines of a crontab.
  - C(systemd-analyze verify) reads the units before any is written. A unit that is right is not touched, and one of somebody else's never.
  - Reaches no database. The action plugin puts the commands together.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  environment:
    description:
      - The environment whose timers these are; it is part of their names.
    type: str
    required: true
  state:
    description:
      - V(absent) removes exactly what was installed for this environment.
    type: str
    choices: [present, absent]
    default: present
  manager:
    description:
      - V(auto) takes systemd where it runs the host, and cron where not.
    type: str
    choices: [auto, systemd, cron]
    default: auto
  run_as:
    description:
      - Who runs the playbooks.
    type: str
    required: true
  directory:
    description:
      - The folder on the host from which they are run, with the inventory.
    type: path
    required: true
  state_directory:
    description:
      - C(pgops_state_directory); a C(~) is the home of O(run_as).
    type: str
    required: true
  jobs:
    description:
      - Each C(name), C(playbook), C(command), C(on_calendar), C(delay_s), C(timeout_s) and C(ping_url_file).
    type: list
    elements: dict
    default: []
  program:
    description:
      - Python and the script that keeps jobs apart and leaves their heartbeats, as words.
    type: list
    elements: str
    default: []
  credentials:
    description:
      - Variable and the file on the host that systemd loads for each run, so that no other process sees it.
    type: dict
    default: {}
  needed:
    description:
      - What a run reads besides its playbook, such as the inventory, by name. What is not on the host is refused.
    type: dict
    default: {}
  told_with:
    description:
      - The same for who tells of a failure.
    type: dict
    default: {}
  tell:
    description:
      - How a failure is told; no secrets.
    type: dict
    default: {}
  write_paths:
    description:
      - Folders besides the state in which a run writes; all others are read-only to it.
    type: list
    elements: str
    default: []
  directives:
    description:
      - Lines that end the section [Service] of each job.
    type: list
    elements: str
    default: []
  lock_wait:
    description:
      - How long a job waits for another one of the environment, in seconds.
    type: int
    default: 21600
  grace:
    description:
      - How much later than its schedule a run may end before it is told as missed, in seconds.
    type: int
    default: 3600
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Remove the timers of staging
  whitecross.pgops.schedule:
    databases: [white_cross]
    environment: staging
    state: absent
    run_as: pgops
    directory: /srv/pgops
    state_directory: /var/lib/pgops
"""

RETURN = r"""
manager:
  description: V(systemd) or V(cron).
  returned: always
  type: str
jobs:
  description: Each with C(name), C(playbook), C(on_calendar), C(unit), C(expected_every_s) and C(installed_at).
  returned: always
  type: list
  elements: dict
exposure:
  description: Of each service that changed, C(score) and C(word) of C(systemd-analyze security).
  returned: always
  type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Install or remove, and leave with what there is now."""
    module = pgops_module.create_module(
        {
            "environment": {"type": "str", "required": True},
            "state": {"type": "str", "default": "present", "choices": ["present", "absent"]},
            "manager": {"type": "str", "default": "auto", "choices": ["auto", "systemd", "cron"]},
            # Not "user": that is the role of the database.
            "run_as": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "state_directory": {"type": "str", "required": True},
            "jobs": {"type": "list", "elements": "dict", "default": []},
            "program": {"type": "list", "elements": "str", "default": []},
            "credentials": {"type": "dict", "default": {}, "no_log": False},
            "needed": {"type": "dict", "default": {}},
            "told_with": {"type": "dict", "default": {}},
            "tell": {"type": "dict", "default": {}},
            "write_paths": {"type": "list", "elements": "str", "default": []},
            "directives": {"type": "list", "elements": "str", "default": []},
            "lock_wait": {"type": "int", "default": 21600},
            "grace": {"type": "int", "default": 3600},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import schedule
        from ansible_collections.whitecross.pgops.plugins.module_utils.schedule_ground import Wanted

        given = module.params
        wanted = Wanted(
            user=given["run_as"],
            lock_wait_s=given["lock_wait"],
            grace_s=given["grace"],
            **{
                name: given[name]
                for name in (
                    "environment", "directory", "state_directory", "manager", "jobs", "program", "credentials", "needed", "told_with", "tell",
                    "write_paths", "directives",
                )
            },
        )  # fmt: skip
        act = schedule.install if given["state"] == "present" else schedule.remove
        found = act(wanted, check_mode=module.check_mode)
        told = {name: found[name] for name in ("manager", "jobs", "exposure")}
        return {**found, "databases": {name: told for name in given["databases"]}}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
