# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: restore_point
short_description: Make a named restore point and wait until its WAL is archived
version_added: 0.1.0
description:
  - Writes C(pgops_RUN) into the WAL, lets go of the segment, and waits for the archiver. A rollback by point-in-time recovery goes back to it.
  - Needs a superuser, or a role that may execute C(pg_create_restore_point) and C(pg_switch_wal).
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  restore_point:
    description:
      - What to call it; after the run where it is not set.
    type: str
  archive_timeout:
    description:
      - How long the archiver may take, in seconds.
    type: float
    default: 60
  hashes:
    description:
      - Count and hash every table in a snapshot of the restore point's own moment, and keep that in O(directory), so that a drill to it compares
        each row. Reads every table once; nobody is kept from writing.
    type: bool
    default: false
  directory:
    description:
      - With O(hashes), the folder on the host that holds the proofs of physical backups.
    type: path
  stanza:
    description:
      - With O(hashes), pgBackRest's name for the cluster.
    type: str
    default: main
  jobs:
    description:
      - With O(hashes), how many sessions count and hash.
    type: int
    default: 2
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Mark the moment before a change
  whitecross.pgops.restore_point:
    databases: [white_cross]
    restore_user: postgres
    restore_point: before_the_change
"""

RETURN = r"""
databases:
  description: The restore point, by database; it is the same one for all of a cluster.
  returned: always
  type: dict
  contains:
    name:
      description: Its name.
      type: str
    lsn:
      description: Where it stands in the WAL.
      type: str
    segment:
      description: The WAL segment that holds it.
      type: str
    timeline:
      description: The timeline of that.
      type: int
    at:
      description: When it was made.
      type: str
    archived_s:
      description: The seconds until its WAL was archived.
      type: float
    moment:
      description: With O(hashes), the file that tells what it holds.
      type: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """One restore point for the cluster."""
    module = pgops_module.create_module(
        {
            "restore_point": {"type": "str"},
            "archive_timeout": {"type": "float", "default": 60},
            "hashes": {"type": "bool", "default": False},
            "directory": {"type": "path"},
            "stanza": {"type": "str", "default": "main"},
            "jobs": {"type": "int", "default": 2},
        },
        required_if=[("hashes", True, ("directory",))],
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import locks, recorded_moment, restore_point
        from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect

        run_id = module.params["run_id"] or "by-hand"
        name = module.params["restore_point"] or restore_point.name_of(run_id)
        restore_point.refuse_name(name)
        targets = pgops_module.targets(module)
        progress, control = pgops_module.job(module)
        conn = connect(next(iter(targets.values())).maintenance(), application_name=locks.application_name(run_id))
        try:
            if module.check_mode:
                restore_point.refuse_unfit(conn)
                return {"changed": True, "databases": {database: {"name": name} for database in targets}}
            if not module.params["hashes"]:
                made = restore_point.create(conn, name, seconds=module.params["archive_timeout"])
                return {"changed": True, "databases": dict.fromkeys(targets, made)}
            moment = recorded_moment.record(
                conn,
                targets,
                name,
                seconds=module.params["archive_timeout"],
                workers=module.params["jobs"],
                application_name=locks.application_name(run_id),
                progress=progress,
                control=control,
            )
            path = recorded_moment.keep(module.params["directory"], module.params["stanza"], moment)
            made = {key: value for key, value in moment.items() if key not in ("databases", "format", "hash")}
            made["moment"] = path
        finally:
            conn.close()
        return {"changed": True, "databases": dict.fromkeys(targets, made)}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
