# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: physical_drill
short_description: Drill a recovery of a physical backup to a restore point or a moment
version_added: 0.1.0
description:
  - Lets pgBackRest verify the repository and restore the backup before O(point_in_time) into a folder beside the data directory, replays its
    WAL up to there on a socket of its own, reads each row, page and index of the databases, throws it away, and returns what a reviewer asks for,
    of a drill that failed too.
  - That climbs to level 2 of M(whitecross.pgops.prove) - the backup restores. Where it was recorded what the restore point holds, as
    M(whitecross.pgops.physical_prove) does and M(whitecross.pgops.restore_point) where it is asked to, it climbs to level 5.
  - A restore point that is not in the archive, a moment without a backup before it, a broken chain and a gap in the WAL are refused before
    anything is restored.
  - The recovered cluster is removed whatever happens; one that a killed run left is removed by the next drill or proof.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.physical
options:
  point_in_time:
    description:
      - The name of a restore point, or a moment with its offset, as 2026-11-22T14:05:00+00:00.
    type: str
    required: true
  rto_seconds:
    description:
      - In how many seconds the cluster must stand there; a drill that takes longer fails.
    type: float
  directory:
    description:
      - The folder on the host that holds the proofs, and what restore points hold.
    type: path
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
- name: Drill a recovery to the restore point of a migration
  whitecross.pgops.physical_drill:
    databases: [white_cross]
    restore_user: postgres
    stanza: main
    point_in_time: pgops_20261122T211440Z-d29b15
"""

RETURN = r"""
databases:
  description: The evidence, by database; as of M(whitecross.pgops.drill), and what is named here.
  returned: always
  type: dict
  contains:
    verdict:
      description: Whether it C(passed) or C(failed).
      type: str
    recovered_to:
      description: What was asked for, and where the recovery stood still - C(target), C(lsn), C(timeline).
      type: dict
    tables:
      description: How many tables were there.
      type: int
    rows:
      description: How many rows they had.
      type: int
    levels:
      description: Each level that was climbed - C(level), C(name), C(ok), C(seconds), C(detail).
      type: list
      elements: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Recover once, and read every database."""
    module = pgops_module.create_module(
        {
            "point_in_time": {"type": "str", "required": True},
            "rto_seconds": {"type": "float"},
            "directory": {"type": "path"},
            "jobs": {"type": "int", "default": 2},
            "checks": {"type": "list", "elements": "dict", "default": []},
            **pgops_module.PHYSICAL_OPTIONS,
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import (
            drill,
            locks,
            pgbackrest,
            physical_backup,
            physical_drill,
            proof_ladder,
        )
        from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import end_on_sigterm

        given = module.params
        run_id = given["run_id"] or "by-hand"
        proof_ladder.refuse_no_time(given["rto_seconds"])
        targets = pgops_module.targets(module)
        progress, control = pgops_module.job(module)
        end_on_sigterm(control)
        tool = pgbackrest.of(given, progress, control)
        to, seconds = given["point_in_time"], given["archive_timeout"]
        with physical_backup.session(next(iter(targets.values())), run_id) as (conn, layout):
            if module.check_mode:
                found = physical_drill.plan(tool, layout, conn, to, seconds=seconds, pretend=True)
                told = {
                    "backup": f"{found.backup} to {found.told}",
                    "scratch_server": f"the host of {layout.data_directory}, beside it",
                    "forecast": None,
                    "would_drill": True,
                }
                return {"changed": True, "databases": {name: told for name in targets}}
            databases = physical_drill.drill(
                tool,
                layout,
                conn,
                targets,
                to,
                physical_drill.Asked(given["rto_seconds"], given["directory"], given["checks"], given["jobs"]),
                run_id=run_id,
                seconds=seconds,
                application_name=locks.application_name(run_id),
            )
        result: dict[str, Any] = {"changed": True, "databases": databases}
        first = next((found for found in databases.values() if found["verdict"] == drill.FAILED), None)
        if first:
            told = {key: first[key] for key in ("hint", "sqlstate") if first.get(key)}
            return {**result, "failed": True, "msg": first["error"], **told}
        return result

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
