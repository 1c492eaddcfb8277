# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: maintenance
short_description: Work through a plan of maintenance, inside its time and without harm
version_added: 0.1.0
description:
  - Vacuums, freezes, analyzes and rebuilds what M(whitecross.pgops.maintenance_plan) has planned, in its order, on several tables side by
    side. Nothing begins that is expected to take longer than what is left of its time; at its end what runs is cancelled, and what a
    cancelled rebuild has left is dropped.
  - Believes nothing that the server does not say - C(last_vacuum), C(last_analyze), another index, or a size that moved. VACUUM and ANALYZE
    by a role without the right only warn.
  - Fails where a freeze that is due, or nothing of all that is due, was done, with what kept it; succeeds where nothing is due, or a part was
    done, and tells the rest.
  - Begins nothing, and ends what runs, while somebody migrates the database, while a backup runs, or while a query of the application
    suffers; begins nothing while a standby lags, while anybody waits for a lock, or on a table that an autovacuum is at. Gives way to
    whoever waits for a lock that it has.
  - Each rebuild, and each run that did something, has a row in the audit. What they say there - when an index was rebuilt, how fast it went,
    what was cut off - is what the next run goes by.
  - In check mode nothing is done.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.ledger_run
  - whitecross.pgops.maintenance
options:
  plan:
    description:
      - The plan by database, as M(whitecross.pgops.maintenance_plan) returned it. Filled by the action plugin.
    type: dict
    required: true
  budget_s:
    description:
      - Seconds for all databases of the call together.
    type: float
    default: 3600
  budget_ends:
    description:
      - What is told where its time is over. Filled by the action plugin, which knows of a window.
    type: str
    default: its time was over
  jobs:
    description:
      - On how many tables it works side by side. Never two on one table.
    type: int
    default: 2
  pause_s:
    description:
      - Seconds without a break for which somebody may keep it from beginning anything, before it leaves the rest for the next run.
    type: float
    default: 300
  lock_timeout_ms:
    description:
      - Milliseconds for which it stands in line for a lock; it looks first who is there, and gives way.
    type: int
    default: 100
  cost_delay_ms:
    description:
      - C(vacuum_cost_delay) of VACUUM and ANALYZE in milliseconds; 0 works at full speed.
    type: float
    default: 2
  canary:
    description:
      - A query of the application, asked twice a second, read-only.
    type: str
    default: SELECT 1
  canary_limit_ms:
    description:
      - Milliseconds that it may take, or three times what it took before, whichever is more. Nothing begins while it takes longer; after five
        seconds of it what runs is ended.
    type: float
    default: 100
  replica_lag_s:
    description:
      - Seconds that a standby may be behind; 0 switches it off.
    type: float
    default: 10
  lock_wait_s:
    description:
      - Seconds for which anybody may wait for a lock; 0 switches it off.
    type: float
    default: 1
  active_sessions:
    description:
      - How many other sessions may run a statement; 0 switches it off.
    type: int
    default: 50
  except_standbys:
    description:
      - Standbys by C(application_name) that lag on purpose.
    type: list
    elements: str
    default: []
  old_snapshot_s:
    description:
      - Seconds for which a rebuild waits for transactions that began meanwhile, before it gives up for now.
    type: float
    default: 30
  truncate:
    description:
      - Whether VACUUM gives the empty end of a table's file back to the disk, where the table's own C(vacuum_truncate) lets it.
      - It takes ACCESS EXCLUSIVE for that. Whoever reads or writes the table waits for as long as it cuts, a third of a second was seen at 256
        MB, and queries of a standby that use the table are cancelled.
    type: bool
    default: false
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Look what needs maintenance
  whitecross.pgops.maintenance_plan:
    databases: [white_cross]
  register: found

- name: Do it within ten minutes
  whitecross.pgops.maintenance:
    databases: [white_cross]
    plan: "{{ found.databases }}"
    budget_s: 600
"""

RETURN = r"""
databases:
  description: What was done in each database.
  returned: always
  type: dict
  contains:
    items:
      description: >-
        Each with C(state) (V(done), V(skipped), V(cancelled), V(failed), V(not begun)), C(why) of all but the first, C(seconds),
        C(bytes_before), C(bytes_after), C(given_back) and what the plan says of it.
      type: list
      elements: dict
    counts:
      description: How many items are in which state.
      type: dict
    given_back:
      description: Bytes that the server's disk has back.
      type: int
    ended:
      description: >-
        V(nothing due), V(done), or V(left some) where a part of what is due was done. V(nothing done) where none of it was, V(freeze left)
        where a freeze was not, V(failed) and V(interrupted) end the run as failed.
      type: str
    verdict:
      description: What is due still, a sentence; none where nothing is.
      type: str
    remains:
      description: Invalid indexes of ours, of a rebuild that was cut off, that were C(dropped), and those that are C(left) for the next run.
      type: dict
    invalid_indexes:
      description: All that are invalid when it ends, whoever's they are.
      type: list
      elements: dict
    held_up_by:
      description: What it has waited for or given way to, a sentence each.
      type: list
      elements: str
    seconds:
      description: How long it took.
      type: float
"""

import time
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Maintain database after database, in one time."""
    module = pgops_module.create_module(
        {
            **pgops_module.LEDGER_RUN_OPTIONS,
            "user_maintains": {"type": "str"},
            "window": {"type": "raw"},
            "plan": {"type": "dict", "required": True},
            "budget_s": {"type": "float", "default": 3600},
            "budget_ends": {"type": "str", "default": "its time was over"},
            "jobs": {"type": "int", "default": 2},
            "pause_s": {"type": "float", "default": 300},
            "lock_timeout_ms": {"type": "int", "default": 100},
            "cost_delay_ms": {"type": "float", "default": 2},
            "canary": {"type": "str", "default": "SELECT 1"},
            "canary_limit_ms": {"type": "float", "default": 100},
            "replica_lag_s": {"type": "float", "default": 10},
            "lock_wait_s": {"type": "float", "default": 1},
            "active_sessions": {"type": "int", "default": 50},
            "except_standbys": {"type": "list", "elements": "str", "default": []},
            "old_snapshot_s": {"type": "float", "default": 30},
            "truncate": {"type": "bool", "default": False},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import (
            maintenance,
            maintenance_watch,
            migrate,
        )
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError

        given = module.params
        care = maintenance_watch.of(given)
        if module.check_mode:
            return {"changed": False, "databases": {}, "skipped": True}
        progress, control = pgops_module.job(module)
        ends_at = time.monotonic() + given["budget_s"]
        databases: dict[str, Any] = {}
        first: PgopsError | None = None
        try:
            for name, target in pgops_module.targets(module).items():
                run = migrate.run_of(given["run_id"], given["run"], name)
                todo = maintenance.Work(
                    run, care, ends_at, given["budget_ends"], progress, control,
                    jobs=given["jobs"], pause_s=given["pause_s"], lock_wait_s=given["lock_wait"], user=given["user_maintains"],
                )  # fmt: skip
                try:
                    databases[name] = maintenance.of_plan(target, given["plan"].get(name) or {}, todo)
                except PgopsError as error:
                    databases.update(error.extra.get("databases", {}))
                    first = error if isinstance(error, Interrupted) else first or error
                    if isinstance(error, Interrupted):
                        break
        finally:
            control.stop()
        if first is not None:
            # What one database lacks keeps no other one from its maintenance.
            first.extra["databases"] = databases
            raise first
        return {"changed": any(found["changed"] for found in databases.values()), "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
