# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: drill
short_description: Drill a restore and leave evidence of it
version_added: 0.1.0
description:
  - Restores the newest backup of each database, or a named one, into a scratch database on C(scratch_host), climbs the whole ladder of
    M(whitecross.pgops.prove) with it, drops it, and returns what a reviewer asks for, of a drill that failed too.
  - The scratch database is dropped whatever happens; one that a killed run left is removed by the next.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.scratch
  - whitecross.pgops.restoring
  - whitecross.pgops.identity
options:
  directory:
    description:
      - The folder of the backups; the newest of each database is drilled where O(backup) does not name one.
    type: path
    required: true
  backup:
    description:
      - The backup to drill, where there is one database.
    type: path
  point_in_time:
    description:
      - A moment to restore. A logical backup has none but that of its snapshot, and is refused with one.
    type: str
  level:
    description:
      - The level below which the drill fails. It climbs as far as it can all the same.
    type: int
    default: 5
  rto_seconds:
    description:
      - In how many seconds the copy must be restored and compared; a drill that takes longer fails.
    type: float
  checks:
    description:
      - The named checks and writes of C(sql/checks); the action plugin reads them from the tree that C(pgops_sql) names.
    type: list
    elements: dict
    default: []
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
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Drill the newest backup on another server
  whitecross.pgops.drill:
    databases: [white_cross]
    directory: /var/backups/postgres/migrations
    scratch_host: scratch.example.org
    restore_user: postgres
    rto_seconds: 3600
"""

RETURN = r"""
databases:
  description: The evidence of each drill, by database.
  returned: always
  type: dict
  contains:
    verdict:
      description: Whether it C(passed) or C(failed).
      type: str
    backup:
      description: The backup.
      type: str
    level:
      description: The level that was reached.
      type: int
    levels:
      description: Each level that was climbed - C(level), C(name), C(ok), C(seconds), C(detail).
      type: list
      elements: dict
    ready_seconds:
      description: How long it took until the copy was restored and compared.
      type: float
    forecast:
      description: How long a restore of this backup takes, by those that were measured.
      type: dict
    history:
      description: The last ten measured restores.
      type: list
      elements: dict
    error:
      description: What went wrong, in one sentence; none where nothing did.
      type: str
    evidence:
      description: The page on the ops host; the same as JSON lies beside it.
      type: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module, restore_options


def main() -> None:
    """Drill every database, one after the other; one that fails keeps no other away."""
    module = pgops_module.create_module(
        {
            "directory": {"type": "path", "required": True},
            "backup": {"type": "path"},
            "point_in_time": {"type": "str"},
            "level": {"type": "int", "default": 5},
            "rto_seconds": {"type": "float"},
            "checks": {"type": "list", "elements": "dict", "default": []},
            "scratch_database": {"type": "str"},
            "scratch_roles": {"type": "str", "choices": ["refuse", "create"], "default": "refuse"},
            **pgops_module.SCRATCH_OPTIONS,
            **restore_options.RESTORE_OPTIONS,
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import (
            drill,
            restore,
            restore_times,
        )

        settings, identity = restore_options.begin(module)
        targets = pgops_module.targets(module)
        if module.params["backup"]:
            pgops_module.refuse_several(targets, "backup")
        chosen = {
            database: drill.choose(
                target,
                module.params["directory"],
                module.params["backup"],
                application_name=settings.application_name,
            )
            for database, target in targets.items()
        }
        for backup in chosen.values():
            drill.refuse_point_in_time(backup, module.params["point_in_time"])
        databases: dict[str, Any] = {}
        for database, target in targets.items():
            backup = chosen[database]
            if module.check_mode:
                restore.look_before(
                    target,
                    backup,
                    work=settings,
                    identity=identity,
                    other_cluster_only=module.params["other_cluster_only"],
                    make_roles=module.params["scratch_roles"] == "create",
                    level=module.params["level"],
                )
                where = restore_times.place_of(target.scratch(database))
                databases[database] = {
                    "backup": backup.path,
                    "scratch_server": where,
                    "forecast": restore_times.forecast_for(backup, where),
                    "would_drill": True,
                }
                continue
            databases[database] = drill.drill(
                target,
                backup,
                work=settings,
                least=module.params["level"],
                queries=module.params["checks"],
                rto_seconds=module.params["rto_seconds"],
                scratch_name=module.params["scratch_database"],
                scratch_reason=module.params["scratch_reason"] or "",
                other_cluster_only=module.params["other_cluster_only"],
                make_roles=module.params["scratch_roles"] == "create",
                identity=identity,
            )
            if databases[database].get("interrupted"):
                break
        result: dict[str, Any] = {"changed": True, "databases": databases}
        failed = {name: found for name, found in databases.items() if found.get("verdict") == drill.FAILED}
        for name, found in failed.items():
            more = f" ({len(failed) - 1} more drills failed)" if len(failed) > 1 else ""
            told = {key: found[key] for key in ("hint", "sqlstate", "unusable") if found.get(key)}
            return {**result, "failed": True, "msg": f"{found['error']}{more}", "database": name, **told}
        return result

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
