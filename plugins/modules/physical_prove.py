# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: physical_prove
short_description: Prove the newest physical backup by restoring it beside the live cluster
version_added: 0.1.0
description:
  - Lets pgBackRest verify each repository, makes a restore point, restores up to it into a folder beside the data directory, starts that on
    a socket of its own, climbs the ladder of M(whitecross.pgops.prove) with it, and throws it away.
  - Counts and hashes are taken in a snapshot of the restore point's own moment, without keeping anybody from writing. A table that a transaction
    wrote to whose commit lay on neither side of the restore point for sure is named and not compared.
  - Unlogged tables are empty after a recovery; they are named and not compared.
  - Level V(6), another host, is none that a restore beside the live cluster could reach.
  - The proof is kept in O(directory) under pgBackRest's label of the backup, with what the restore point holds, so that a drill to it compares too.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.time_box
  - whitecross.pgops.physical
options:
  directory:
    description:
      - The folder on the host that holds the proofs.
    type: path
    required: true
  level:
    description:
      - How far to climb. V(2) restores and reads pages and indexes (V(1) does the same), V(3) and V(4) compare counts, catalog and the contents of
        every table, V(5) also checks every constraint and runs O(checks).
    type: int
    choices: [1, 2, 3, 4, 5]
    default: 4
  level_required:
    description:
      - The level that the proof has to reach, where that is less. Filled by the action plugin in C(migrate.yml) and C(rollback.yml).
    type: int
  jobs:
    description:
      - How many sessions count and hash.
    type: int
    default: 2
  checks:
    description:
      - The application's own queries and writes for level 5. Filled by the action plugin with those of C(sql/checks).
    type: list
    elements: dict
    default: []
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Prove the newest physical backup
  whitecross.pgops.physical_prove:
    databases: [white_cross]
    restore_user: postgres
    stanza: main
    directory: /var/backups/postgres/migrations
"""

RETURN = r"""
databases:
  description: The proof, by database.
  returned: always
  type: dict
  contains:
    label:
      description: pgBackRest's name for the backup.
      type: str
    restore_point:
      description: Up to where it was restored.
      type: str
    proved_at:
      description: When it was proved.
      type: str
    tables:
      description: How many tables were there.
      type: int
    rows:
      description: How many rows they had.
      type: int
    compared:
      description: How many tables had to have, and had, the rows of the source.
      type: int
    level:
      description: The level that was reached.
      type: int
    levels:
      description: Each level that was climbed - C(level), C(name), C(ok), C(seconds), C(detail).
      type: list
      elements: dict
    detail:
      description: What that level was reached by, in a few words.
      type: str
    unlogged:
      description: Tables that a recovery empties.
      type: list
      elements: str
    moving:
      description: Tables that were written to meanwhile.
      type: list
      elements: str
    restore_seconds:
      description: How long it took until the restored cluster stood still at the restore point.
      type: float
    seconds:
      description: How long all of it took.
      type: float
    proof:
      description: The file that tells it.
      type: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Prove the newest backup of the cluster."""
    module = pgops_module.create_module(
        {
            **pgops_module.PHYSICAL_OPTIONS,
            "directory": {"type": "path", "required": True},
            "level": {"type": "int", "default": 4, "choices": [1, 2, 3, 4, 5]},
            "level_required": {"type": "int"},
            "jobs": {"type": "int", "default": 2},
            "checks": {"type": "list", "elements": "dict", "default": []},
            **pgops_module.TIME_BOX_OPTIONS,
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import (
            locks,
            pgbackrest,
            physical_backup,
            physical_proof,
        )
        from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import end_on_sigterm

        given = module.params
        run_id = given["run_id"] or "by-hand"
        targets = pgops_module.targets(module)
        physical_proof.refuse_below(given["level_required"])
        if module.check_mode:
            return {"changed": True, "databases": {name: {} for name in targets}}
        progress, control = pgops_module.job(module)
        end_on_sigterm(control)
        control.end_after(given["timeout"])
        tool = pgbackrest.of(given, progress, control)
        asked = physical_proof.Asked(
            given["directory"], given["level"], given["level_required"], given["checks"], given["jobs"]
        )
        with physical_backup.session(next(iter(targets.values())), run_id) as (conn, layout):
            proof = physical_proof.prove(
                tool,
                layout,
                conn,
                targets,
                asked,
                run_id=run_id,
                seconds=given["archive_timeout"],
                application_name=locks.application_name(run_id),
            )
        databases = proof.pop("databases")
        return {"changed": True, "databases": {name: {**proof, **found} for name, found in databases.items()}}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
