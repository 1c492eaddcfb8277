# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: backup_expire
short_description: Delete the backups that neither the policy nor a pin keeps
version_added: 0.1.0
description:
  - Keeps the newest backups, one a day, week, month and year for a while, and those from before a schema change by their age.
  - Never deletes the newest proved backup, a pinned one, one that a rollback needs, one that is damaged, a link, a file that no
    backup has made, or a folder of another user.
  - Each deletion is in C(deletions.jsonl) in the database's folder, and in the ledger's audit as soon as the database can be reached.
  - With C(--check) it tells exactly what a real run would delete.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.retention
options:
  offline:
    description:
      - Delete also where the server cannot be asked what a rollback needs. The newest backup from before a change is kept then.
    type: bool
    default: false
  who:
    description:
      - Who runs it, for the record. Filled by the action plugin.
    type: str
    default: ""
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Delete what is not kept any longer
  whitecross.pgops.backup_expire:
    databases: [white_cross]
    directory: /var/backups/postgres/migrations
    keep_daily: 30
"""

RETURN = r"""
databases:
  description: What went and what stays, by database.
  returned: always
  type: dict
  contains:
    folder:
      description: Where they lie.
      type: str
    expired:
      description: What was deleted, or would be - V(id), V(bytes), V(snapshot_time) and V(why).
      type: list
      elements: dict
    kept:
      description: What stays, V(id), and V(by) which rules and pins.
      type: list
      elements: dict
    left:
      description: What is not the policy's to delete, V(id) and V(told) why.
      type: list
      elements: dict
    not_asked:
      description: Why the server was not asked what a rollback needs, if it was not.
      type: str
    audited:
      description: How many rows were written into the ledger's audit, of this run and of earlier ones that could not.
      type: int
    not_audited:
      description: Why not all could be written; the next run writes them.
      type: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module
from ansible_collections.whitecross.pgops.plugins.module_utils.retention_options import RETENTION_OPTIONS, policy_of


def main() -> None:
    """Expire the backups of every database, one after the other."""
    module = pgops_module.create_module(
        {**RETENTION_OPTIONS, "offline": {"type": "bool", "default": False}, "who": {"type": "str", "default": ""}}
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import backup_expiry
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

        progress, control = pgops_module.job(module)
        asked = backup_expiry.Asked(
            policy_of(module.params),
            environment=module.params["environment"],
            run_id=module.params["run_id"] or "by-hand",
            who=module.params["who"],
            offline=module.params["offline"],
        )
        databases: dict[str, Any] = {}
        for database, target in pgops_module.targets(module).items():
            try:
                databases[database] = backup_expiry.expire(
                    target,
                    module.params["directory"],
                    asked,
                    check_only=module.check_mode,
                    progress=progress,
                    control=control,
                )
            except PgopsError as error:
                # What went before it is gone, whatever became of this one.
                error.extra["databases"] = {**databases, **error.extra.get("databases", {})}
                raise
        return {"changed": any(found["expired"] for found in databases.values()), "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
