# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: backup_copy
short_description: Copy backups to a second place and read them back there
version_added: 0.1.0
description:
  - Copies a backup to C(<place>/pre-migration/YYYY/MM/DD/<database>/<system identifier>/<backup>/), reads every file of the copy back at the place, compares
    it with the manifest, and publishes it there by one last step - a rename, in an object store the manifest.
  - A copy that is there already is read back again, and nothing is sent. One that was cut off is begun or gone on with.
  - Where each copy is stands in C(copies.json) of the backup.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  directory:
    description:
      - The folder of the backups; the newest of each database is copied where O(backups) does not name one. In C(migrate.yml) and
        C(rollback.yml) the action plugin leaves those databases out of which the run has made no backup.
    type: path
  path:
    description:
      - The backup to copy, where there is one database and O(backups) does not name it.
    type: path
  backups:
    description:
      - The backup of each database - C(path), and C(manifest_sha256) as the run recorded it. Filled by the action plugin with those
        that this run has made.
    type: dict
    default: {}
  places:
    description:
      - Where to - each is one of C(path) (a mounted folder), C(rsync) (V(user@host:/path)) and C(rclone) (V(remote:bucket/prefix)).
      - Beside C(path) stands C(same_file_system), beside C(rsync) C(ssh_config), beside C(rclone) C(config).
    type: list
    elements: dict
    required: true
  required:
    description:
      - Fail where a place has no verified copy; else that is told as C(not_copied).
    type: bool
    default: false
  timeout:
    description:
      - How long one place may take, in seconds.
    type: int
    default: 14400
  whole_timeout:
    description:
      - How long all of it may take, in seconds; a place that is not done by then has no copy. V(0) for any number.
    type: float
    default: 0
  tolerated:
    description:
      - Whether the run goes on where this fails, and no copy is required. Read by the action plugin, which then tells what is C(missed).
    type: bool
    default: false
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Copy the newest backup to a mounted share and to another host
  whitecross.pgops.backup_copy:
    databases: [white_cross]
    directory: /var/backups/postgres/migrations
    places:
      - path: /mnt/second
      - rsync: backup@vault.example.org:/srv/backups
    required: true
"""

RETURN = r"""
databases:
  description: What was copied, by database.
  returned: always
  type: dict
  contains:
    path:
      description: The backup.
      type: str
    copies:
      description: Each verified copy - C(place), C(path), C(verified_at), C(bytes), C(manifest_sha256), C(seconds).
      type: list
      elements: dict
    made:
      description: The places to which something was sent.
      type: list
      elements: str
    not_copied:
      description: The places without a verified copy - C(place), C(message), C(hint).
      type: list
      elements: dict
"""

import time
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Copy the backup of every database, one after the other."""
    module = pgops_module.create_module(
        {
            "directory": {"type": "path"},
            "path": {"type": "path"},
            "backups": {"type": "dict", "default": {}},
            "places": {"type": "list", "elements": "dict", "required": True},
            "required": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 14400},
            "whole_timeout": {"type": "float", "default": 0},
            "tolerated": {"type": "bool", "default": False},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import (
            backup_store,
            cluster_backups,
            copies,
            locks,
            restore,
        )
        from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import end_on_sigterm
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

        places = copies.refuse_places(module.params["places"])
        progress, control = pgops_module.job(module)
        end_on_sigterm(control)
        targets = pgops_module.targets(module)
        names = list(targets)
        if module.params["path"]:
            pgops_module.refuse_several(names, "backup")
        databases: dict[str, Any] = {}
        until = time.monotonic() + module.params["whole_timeout"]
        for database in names:
            recorded = module.params["backups"].get(database) or {}
            path = recorded.get("path") or module.params["path"]
            if path:
                backup = backup_store.read_backup(path)
            else:
                backup = cluster_backups.newest_own(
                    targets[database],
                    module.params["directory"] or "",
                    application_name=locks.application_name(module.params["run_id"] or "by-hand"),
                    hint="Make one with backup.yml.",
                )
            restore.refuse_altered(backup, recorded.get("manifest_sha256"))
            if module.check_mode:
                databases[database] = {
                    "path": backup.path,
                    "would_copy": copies.would_be(backup, places),
                }
                continue
            databases[database] = copies.copy(
                backup,
                places,
                timeout=module.params["timeout"],
                whole_timeout=max(until - time.monotonic(), 0.001) if module.params["whole_timeout"] > 0 else 0,
                progress=progress,
                control=control,
            )
        changed = module.check_mode or any(found["made"] for found in databases.values())
        missing = [] if module.check_mode else [name for name, found in databases.items() if found["not_copied"]]
        if missing and module.params["required"] and not module.params["tolerated"]:
            first = databases[missing[0]]["not_copied"][0]
            raise PgopsError(
                f"{missing[0]}: there is no verified copy in {first['place']}: {first['message']}",
                database=missing[0],
                hint=f"{first['hint'] or ''} Nothing was changed in the database; without the copy this environment goes no further "
                "(backup_copies_required).".strip(),
                extra={"databases": databases},
            )
        return {"changed": changed, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
