# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: prove
short_description: Prove a backup by restoring it and comparing everything
version_added: 0.1.0
description:
  - Reads every file of the backup, restores it into a scratch database, compares every table's count and content hash, the
    sequences, the large objects and the whole catalog with the manifest, drops the scratch database, and writes C(proof.json).
  - A proof climbs a ladder of levels - 0 complete and checksummed, 1 readable to the end, 2 restores, 3 counts and catalog equal, 4 content
    hashes equal, 5 indexes, constraints and the application's queries hold, 6 restored on another host within the RTO.
  - C(pg_restore --list) is no proof - it returns 0 on a dump of which 80 % is missing.
  - The scratch database is dropped whatever happens; one that a killed run left is removed by the next.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.time_box
  - whitecross.pgops.scratch
  - whitecross.pgops.restoring
  - whitecross.pgops.identity
options:
  directory:
    description:
      - The folder of the backups; the newest of each database is proved where O(backups) does not name one.
    type: path
  path:
    description:
      - The backup to prove, where there is one database and O(backups) does not name it.
    type: path
  backups:
    description:
      - The backup of each database - C(path), and C(manifest_sha256) as the run recorded it. Filled by the action plugin with
        those that this run has made.
    type: dict
    default: {}
  scratch_database:
    description:
      - What to call the scratch database; it must not exist. A name of the collection's own where it is not set.
    type: str
  scratch_roles:
    description:
      - What to do where the scratch server lacks roles that policies of the backup name. V(refuse) ends before anything is made; V(create)
        makes them without any right for as long as the copy is there.
    type: str
    choices: [refuse, create]
    default: refuse
  level:
    description:
      - How far to climb. V(1) reads the dump and restores nothing; V(3) and V(4) are one pass.
      - A lower climb does not take a higher proof away.
    type: int
    choices: [1, 2, 3, 4, 5, 6]
    default: 4
  level_required:
    description:
      - The level below which it fails; what O(level) is where it is not set. The action plugin sets it where a migration or a rollback
        needs a level of its own.
    type: int
  checks:
    description:
      - The named checks and writes of C(sql/checks), for level 5; the action plugin reads them from the tree that C(pgops_sql) names.
    type: list
    elements: dict
    default: []
  keep:
    description:
      - Let the scratch database stay for the rehearsal of the same run; M(whitecross.pgops.rehearse) drops it. Set by the action plugin.
    type: bool
    default: false
  rto_seconds:
    description:
      - In how many seconds a copy must be restored and compared, for level 6.
    type: float
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Prove the newest backup on another server
  whitecross.pgops.prove:
    databases: [white_cross]
    directory: /var/backups/postgres/migrations
    scratch_host: scratch.example.org
    restore_user: postgres
"""

RETURN = r"""
databases:
  description: Each proof, by database.
  returned: always
  type: dict
  contains:
    path:
      description: The backup.
      type: str
    proved_at:
      description: When.
      type: str
    seconds:
      description: How long it took in all.
      type: float
    level:
      description: The level that was reached.
      type: int
    levels:
      description: Each level that was climbed - C(level), C(name), C(ok), C(seconds), C(detail).
      type: list
      elements: dict
    restore_seconds:
      description: How long the restore took.
      type: float
    ready_seconds:
      description: How long it took until the copy was restored and compared - the time that a real one will take.
      type: float
    forecast:
      description: How long a restore of this backup takes, by those that were measured - C(seconds), C(low), C(high), C(measured), C(trend).
      returned: from level 4 on
      type: dict
    tables:
      description: How many tables were compared.
      type: int
    rows:
      description: How many rows they have.
      type: int
    objects:
      description: How many objects of the catalog were compared.
      type: int
    scratch:
      description: The scratch database that stays for the rehearsal.
      returned: with O(keep)
      type: str
    manifest_sha256:
      description: The manifest that was proved.
      type: str
    reservations:
      description: What could not be recreated or compared, and why.
      type: list
      elements: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module, restore_options


def main() -> None:
    """Prove the backup of every database, one after the other."""
    module = pgops_module.create_module(
        {
            "directory": {"type": "path"},
            "path": {"type": "path"},
            "backups": {"type": "dict", "default": {}},
            "scratch_database": {"type": "str"},
            "scratch_roles": {"type": "str", "choices": ["refuse", "create"], "default": "refuse"},
            **pgops_module.SCRATCH_OPTIONS,
            **restore_options.RESTORE_OPTIONS,
            "level": {"type": "int", "default": 4, "choices": [1, 2, 3, 4, 5, 6]},
            "level_required": {"type": "int"},
            "checks": {"type": "list", "elements": "dict", "default": []},
            "keep": {"type": "bool", "default": False},
            "rto_seconds": {"type": "float"},
            **pgops_module.TIME_BOX_OPTIONS,
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import (
            backup_store,
            cluster_backups,
            kept_scratch,
            restore,
        )

        settings, identity = restore_options.begin(module)
        settings.control.end_after(module.params["timeout"])
        databases: dict[str, Any] = {}
        targets = pgops_module.targets(module)
        if module.params["path"]:
            pgops_module.refuse_several(targets, "backup")
        for database, target in targets.items():
            named = module.params["backups"].get(database) or {}
            path = named.get("path") or module.params["path"]
            if not path:
                path = cluster_backups.newest_own(
                    target,
                    module.params["directory"] or "",
                    application_name=settings.application_name,
                    hint="Make one with backup.yml, or name one with -e backup_path=PATH.",
                ).path
            if module.check_mode:
                restore.look_before(
                    target,
                    backup_store.read_backup(path),
                    work=settings,
                    identity=identity,
                    other_cluster_only=module.params["other_cluster_only"],
                    make_roles=module.params["scratch_roles"] == "create",
                    level=module.params["level"],
                )
                databases[database] = {"path": path, "would_prove": True}
                continue
            climb = kept_scratch.prove if module.params["keep"] else restore.prove
            databases[database] = climb(
                target,
                path,
                work=settings,
                manifest_sha256=named.get("manifest_sha256"),
                scratch_name=module.params["scratch_database"],
                scratch_reason=module.params["scratch_reason"] or "",
                other_cluster_only=module.params["other_cluster_only"],
                make_roles=module.params["scratch_roles"] == "create",
                identity=identity,
                level=module.params["level"],
                needed=module.params["level_required"],
                queries=module.params["checks"],
                rto_seconds=module.params["rto_seconds"],
            )
        return {"changed": True, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
