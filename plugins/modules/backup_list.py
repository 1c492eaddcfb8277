# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: backup_list
short_description: List the backups of databases
version_added: 0.1.0
description:
  - Reads the folder of the backups and no database, so it works while the server is down. With O(engine=physical) it also asks pgBackRest,
    which reads its repositories.
  - Damaged and half-written backups, links and files that no backup has made are listed as such.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.retention
  - whitecross.pgops.physical
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
  engine:
    description:
      - With V(physical), the backups of pgBackRest's stanza are listed beside those of each database.
    type: str
    choices: [logical, physical]
    default: logical
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
        V(environment), V(system_identifier) of its cluster, V(run_id), V(phi), V(version), V(bytes), V(snapshot_time), V(age_s), V(level), V(proved) and V(proved_at) of the proof,
        V(pinned_by), V(pins), V(kept_by), V(left), V(expires), V(not_before), V(encrypted_to) and V(copies).
      type: list
      elements: dict
    total:
      description: How many there are, listed or not.
      type: int
    clusters:
      description: The system identifiers of the clusters that they were taken of.
      type: list
      elements: str
    counts:
      description: How many of all are V(whole), V(proved), V(pinned), V(damaged).
      type: dict
    bytes:
      description: The size of all.
      type: int
physical:
  description: The backups of the whole cluster - V(stanza), V(backups), V(total), and how many of all are V(proved) and V(damaged). Each backup
    has V(label), V(type), V(started), V(finished), V(database_bytes), V(wal), V(references), V(repository), V(age_s), V(damaged), V(level),
    V(proved) and V(proved_at).
  returned: with O(engine=physical)
  type: dict
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
            "engine": {"type": "str", "default": "logical", "choices": ["logical", "physical"]},
            **pgops_module.PHYSICAL_OPTIONS,
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import (
            backup_catalogue,
            pgbackrest,
            physical_list,
        )
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

        policy = policy_of(module.params)
        shown = {"only": module.params["only"], "newest": module.params["newest"]}
        found: dict[str, Any] = {
            "databases": {
                database: backup_catalogue.listing(
                    module.params["directory"],
                    database,
                    policy,
                    environment=module.params["environment"],
                    **shown,
                )
                for database in module.params["databases"]
            }
        }
        if module.params["engine"] == "physical":
            try:
                tool = pgbackrest.of(module.params)
                found["physical"] = physical_list.listing(tool, module.params["directory"], **shown)
            except PgopsError as error:
                # Those of the databases can be read all the same.
                error.message = f"The physical backups cannot be listed: {error.message}"
                error.extra.update(found)
                raise
        return {"changed": False, **found}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
