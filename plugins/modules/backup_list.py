# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: backup_list
short_description: List the backups of databases
version_added: 0.1.0
description:
  - Reads the folder of the backups and no database, so it works while the server is down.
  - Damaged and half-written backups, links and files that no backup has made are listed as such.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.retention
options:
  only:
    description:
      - Which to list - all, those that are proved or not, pinned, that the policy would delete now, or those that are no whole backup.
    type: str
    choices: [all, proved, unproved, pinned, expiring, damaged]
    default: all
  newest:
    description:
      - At most so many, the newest.
    type: int
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: See how far back the database can go
  whitecross.pgops.backup_list:
    databases: [white_cross]
    directory: /var/backups/postgres/migrations
    only: proved
"""

RETURN = r"""
databases:
  description: The list, by database.
  returned: always
  type: dict
  contains:
    folder:
      description: Where they lie.
      type: str
    backups:
      description: Each with V(id), V(path), V(state) (whole, damaged, half-written, foreign), V(told), V(kind), V(database), V(purpose),
        V(environment), V(run_id), V(phi), V(version), V(bytes), V(snapshot_time), V(age_s), V(level), V(proved) and V(proved_at) of the proof,
        V(pinned_by), V(pins), V(kept_by), V(left), V(expires), V(not_before), V(encrypted_to) and V(copies).
      type: list
      elements: dict
    total:
      description: How many there are, listed or not.
      type: int
    counts:
      description: How many of all are V(whole), V(proved), V(pinned), V(damaged).
      type: dict
    bytes:
      description: The size of all.
      type: int
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module
from ansible_collections.whitecross.pgops.plugins.module_utils.retention_options import RETENTION_OPTIONS, policy_of


def main() -> None:
    """Read the folders and leave with what is in them."""
    module = pgops_module.create_module(
        {
            **RETENTION_OPTIONS,
            "only": {
                "type": "str",
                "default": "all",
                "choices": ["all", "proved", "unproved", "pinned", "expiring", "damaged"],
            },
            "newest": {"type": "int"},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import backup_catalogue

        policy = policy_of(module.params)
        return {
            "changed": False,
            "databases": {
                database: backup_catalogue.listing(
                    module.params["directory"],
                    database,
                    policy,
                    environment=module.params["environment"],
                    only=module.params["only"],
                    newest=module.params["newest"],
                )
                for database in module.params["databases"]
            },
        }

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
