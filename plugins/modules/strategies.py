# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: strategies
short_description: Weigh every way back of a database before anything happens, and choose one
version_added: 0.1.0
description:
  - For each way - down, restore, undo_swap - it says what that needs and whether it is there, what is lost, for how long clients are kept
    out, and how it is taken back. It writes nothing.
  - With V(auto) it chooses the one that undoes the last change and nothing more, and says why this one and why not the others.
  - What stands in the way of the one that was asked for is named before anything begins - prepared transactions, active logical slots,
    subscriptions, sessions that may not be ended, missing rights, connection limits, low disk, a server that takes no writes.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.fit_backup
options:
  strategy:
    description:
      - What the rollback was asked for.
    type: str
    choices: [auto, down, restore, swap, undo_swap]
    default: down
  to:
    description:
      - With V(swap), the database that takes the name.
    type: str
  backup:
    description:
      - With V(restore), the backup where one was named.
    type: path
  steps:
    description:
      - With V(down), as M(whitecross.pgops.revert) takes it.
    type: int
  keep:
    description:
      - With V(down), as M(whitecross.pgops.revert) takes it.
    type: str
  through:
    description:
      - With V(down), as M(whitecross.pgops.revert) takes it.
    type: str
  version:
    description:
      - With V(down), as M(whitecross.pgops.revert) takes it.
    type: str
  jobs:
    description:
      - Processes that a restore would have.
    type: int
    default: 2
  takes_backups:
    description:
      - Whether the way down is preceded by a proved backup. Filled by the action plugin.
    type: bool
    default: true
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Which way back
  whitecross.pgops.strategies:
    databases: [white_cross]
    directory: /var/backups/postgres/migrations
    strategy: auto
"""

RETURN = r"""
databases:
  description: What was weighed, by database.
  returned: always
  type: dict
  contains:
    chosen:
      description: The way that is taken.
      type: str
    why:
      description: Why this one.
      type: str
    why_not:
      description: With V(auto), why not each of the others.
      type: dict
    ways:
      description: Each way - C(possible), C(why_not), C(needs), C(lost), C(lost_rows), C(outage), C(seconds), C(back), C(blockers).
      type: dict
    through:
      description: With V(auto), the version down to which it reverts.
      type: str
    to:
      description: The kept database that is swapped in.
      type: str
    backup:
      description: The backup that is restored.
      type: str
    cannot_move:
      description: What of the replication stays behind, with what its consumers have to do; and the standbys whose readers stay there.
      type: list
      elements: str
    last_change:
      description: What was done to the database last.
      type: dict
    unreadable:
      description: Why the database or its ledger cannot be read; empty where they can.
      type: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module, restore_options


def main() -> None:
    """Weigh the ways back of every database, one after the other."""
    module = pgops_module.create_module(
        {
            "strategy": {"type": "str", "choices": ["auto", "down", "restore", "swap", "undo_swap"], "default": "down"},
            **restore_options.FIT_OPTIONS,
            "to": {"type": "str"},
            "backup": {"type": "path"},
            "steps": {"type": "int"},
            "keep": {"type": "str"},
            "through": {"type": "str"},
            "version": {"type": "str"},
            "jobs": {"type": "int", "default": 2},
            "takes_backups": {"type": "bool", "default": True},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import restore, strategies, way_back
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

        progress, control = pgops_module.job(module)
        given = module.params
        settings = restore.Work(
            given["run_id"] or "by-hand", given["jobs"], progress, control, given["break_glass"], given["max_age_days"]
        )
        selection = way_back.Reverts(given["steps"], given["keep"], given["through"], given["version"])
        asked = strategies.Asked(
            given["strategy"], given["to"], given["backup"], selection, given["takes_backups"], given["level_required"]
        )
        databases: dict[str, Any] = {}
        for database, target in pgops_module.targets(module).items():
            try:
                databases[database] = strategies.weigh(target, asked, directory=given["directory"], work=settings)
            except PgopsError as error:
                error.extra["databases"] = {**databases, **error.extra.get("databases", {})}
                raise
        strategies.refuse_several(databases)
        return {"changed": False, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
