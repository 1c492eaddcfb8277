# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: lost_writes
short_description: Say which rows of a kept database the live one lacks, and export them
version_added: 0.1.0
description:
  - Compares the live database with one that a swap has put aside, over the columns that both have - keys and hashes of every row, each
    side in one snapshot. A row counts as lost where the kept database wrote it since the two parted, and the live one has not.
  - What a version's own transactions wrote last is counted apart.
  - Both are only read. The kept database lets clients in for as long as it takes to connect, and is closed again.
  - With O(export) it writes a CSV for each table and kind, and one SQL file to be read and run with psql, of mode 0600.
  - In check mode it only names the database that it would compare with.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  state:
    description:
      - With V(able) nothing is compared; it is only looked whether O(export) could be written, encrypted where that is asked for.
    type: str
    choices: [compared, able]
    default: compared
  kept:
    description:
      - The database that a swap has put aside, where there is one live database. The one that was put aside last, where none is named.
    type: str
  kept_of:
    description:
      - The same by database. Filled by the action plugin with those that this run has put aside.
    type: dict
    default: {}
  of_this_run:
    description:
      - Compare with what this run has put aside, and do nothing where it has put nothing aside. Read by the action plugin.
    type: bool
    default: false
  export:
    description:
      - A folder on the host where the module runs, below which the lost rows are written. Nothing is written where it is not set.
    type: path
  encrypt_to:
    description:
      - The public keys that backups are encrypted to. Where there is one, lost rows are encrypted to all of them before they reach a disk,
        in files whose names end in C(.age).
    type: list
    elements: str
    default: []
  jobs:
    description:
      - Sessions on each side that count and hash.
    type: int
    default: 2
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Say what the last rollback has lost, and export it
  whitecross.pgops.lost_writes:
    databases: [white_cross]
    restore_user: postgres
    export: /var/lib/pgops/lost_writes
"""

RETURN = r"""
databases:
  description: What was found, by database.
  returned: always
  type: dict
  contains:
    kept:
      description: The database that was compared with.
      type: str
    put_aside:
      description: When a swap put it aside.
      type: str
    backup:
      description: The backup that both come from.
      type: str
    tables:
      description: The tables in which something is lost, with V(inserted), V(updated), V(deleted), V(both), V(own_inserted), V(own_updated).
      type: list
      elements: dict
    rows:
      description: The sums, with V(application) and V(versions).
      type: dict
    held_back:
      description:
        - How many rows stand in the SQL as comments because they refer to a key that both databases wrote since; null where nothing was
          exported. Each table has its own V(held_back).
      type: int
    comes_back:
      description: Tables that only the live database has.
      type: list
      elements: str
    bounds:
      description: Why something is not exact, or null.
      type: str
    notes:
      description: What was not compared.
      type: list
      elements: str
    export:
      description: The folder that was written, or null.
      type: str
    encrypted:
      description: Whether what was written is encrypted.
      type: bool
    seconds:
      description: How long it took.
      type: float
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Compare every database, one after the other."""
    module = pgops_module.create_module(
        {
            "state": {"type": "str", "choices": ["compared", "able"], "default": "compared"},
            "kept": {"type": "str"},
            "kept_of": {"type": "dict", "default": {}},
            "of_this_run": {"type": "bool", "default": False},
            "export": {"type": "path"},
            "encrypt_to": {"type": "list", "elements": "str", "default": []},
            "jobs": {"type": "int", "default": 2},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import locks, lost_comparison
        from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import end_on_sigterm

        progress, control = pgops_module.job(module)
        end_on_sigterm(control)
        given = module.params
        if given["state"] == "able":
            lost_comparison.refuse_unable(given["export"], given["encrypt_to"])
            return {"changed": False, "databases": {}}
        name = locks.application_name(given["run_id"] or "by-hand")
        targets = pgops_module.targets(module)
        if given["of_this_run"]:
            targets = {database: targets[database] for database in given["kept_of"]}
        if given["kept"]:
            pgops_module.refuse_several(targets, "kept database")
        databases: dict[str, Any] = {}
        for database, target in targets.items():
            kept = given["kept"] or given["kept_of"].get(database)
            if module.check_mode:
                databases[database] = lost_comparison.preview(target, kept, application_name=name)
                continue
            databases[database] = lost_comparison.look(
                target,
                kept,
                application_name=name,
                export=given["export"],
                encrypt_to=given["encrypt_to"],
                sessions=given["jobs"],
                progress=progress,
                control=control,
            )
        written = any(found.get("export") for found in databases.values())
        return {"changed": written, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
