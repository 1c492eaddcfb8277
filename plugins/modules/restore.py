# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: restore
short_description: Restore a proved backup into a new database beside the live one
version_added: 0.1.0
description:
  - With O(state=disclosed) it only reads - it chooses the backup and counts, table by table, what going back to it would lose.
  - With O(state=staged) it restores the backup into C(<database>_restore_<time>), compares all of it with the manifest, gives it
    owner, privileges, settings and statistics, and leaves it ready for M(whitecross.pgops.swap). The live database is not touched.
  - Refused are backups that were never proved, were altered, are damaged, or come from another database, cluster or major version.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.fit_backup
  - whitecross.pgops.restoring
  - whitecross.pgops.identity
options:
  state:
    description:
      - What to do.
    type: str
    choices: [disclosed, staged]
    default: staged
  backup:
    description:
      - The backup to go back to, where there is one database.
      - The newest proved one from before the last apply, where none is named.
    type: path
  backups:
    description:
      - The backup of each database as a path. Filled by the action plugin with those that were disclosed and confirmed.
    type: dict
    default: {}
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Say what going back would lose
  whitecross.pgops.restore:
    databases: [white_cross]
    directory: /var/backups/postgres/migrations
    restore_user: postgres
    state: disclosed

- name: Restore beside the live database
  whitecross.pgops.restore:
    databases: [white_cross]
    directory: /var/backups/postgres/migrations
    restore_user: postgres
"""

RETURN = r"""
databases:
  description: What was found or done, by database.
  returned: always
  type: dict
  contains:
    backup:
      description: The backup.
      type: str
    why:
      description: Why it was chosen.
      type: str
    level:
      description: The level to which its proof came.
      type: int
    forecast:
      description: How long the restore will take, by those that were measured - C(seconds), C(low), C(high), C(measured), C(trend).
      returned: with O(state=disclosed), where one was measured
      type: dict
    lost:
      description: What going back to it loses; rows per table, large objects, versions, settings.
      type: dict
    staged:
      description: The new database.
      returned: with O(state=staged)
      type: str
    restore_seconds:
      description: How long the restore took.
      returned: with O(state=staged)
      type: float
    largest:
      description: The ten tables with the most rows, and how many.
      returned: with O(state=staged)
      type: dict
    ledger:
      description: The last ten versions of the restored ledger.
      returned: with O(state=staged)
      type: list
      elements: dict
    break_glass:
      description: What was let off with which reason, and whether the audit has it; null where nothing was.
      returned: with O(state=staged)
      type: dict
    reservations:
      description: What could not be recreated, and why.
      returned: with O(state=staged)
      type: list
      elements: str
"""

from dataclasses import replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module, restore_options


def main() -> None:
    """Disclose or stage every database, one after the other."""
    module = pgops_module.create_module(
        {
            "state": {"type": "str", "choices": ["disclosed", "staged"], "default": "staged"},
            **restore_options.FIT_OPTIONS,
            "backup": {"type": "path"},
            "backups": {"type": "dict", "default": {}},
            **restore_options.RESTORE_OPTIONS,
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import (
            backup_choice,
            encrypted_dump,
            lost_writes,
            restore,
            restore_times,
        )

        settings, identity = restore_options.begin(module)
        settings = replace(
            settings, break_glass=module.params["break_glass"], max_age_days=module.params["max_age_days"]
        )
        stage = module.params["state"] == "staged" and not module.check_mode
        databases: dict[str, Any] = {}
        targets = pgops_module.targets(module)
        if module.params["backup"]:
            pgops_module.refuse_several(targets, "backup")
        level = module.params["level_required"]
        for database, target in targets.items():
            backup, why = backup_choice.choose(
                target,
                module.params["directory"],
                module.params["backup"] or module.params["backups"].get(database),
                application_name=settings.application_name,
                level=level,
            )
            backup = encrypted_dump.unlock(backup, identity)
            found = {
                "backup": backup.path,
                "why": why,
                "proved_at": (backup.proof or {}).get("proved_at"),
                "level": backup.proof_level,
            }
            if stage:
                found["break_glass"] = restore.break_glass(target, backup, settings, level)
                found.update(restore.stage(target, backup, work=settings, level=level))
            else:
                restore.refuse_unfit(target, backup, settings, level)
                found["forecast"] = restore_times.forecast_for(backup, restore_times.place_of(target.maintenance()))
                found["lost"] = lost_writes.lost_writes(
                    target,
                    backup,
                    application_name=settings.application_name,
                    progress=settings.progress,
                    control=settings.control,
                )
            databases[database] = found
        return {"changed": module.params["state"] == "staged", "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
