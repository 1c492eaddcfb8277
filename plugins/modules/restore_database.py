# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: restore_database
short_description: Restore any dump into a new database
version_added: 0.1.0
description:
  - Takes a folder of M(whitecross.pgops.backup), or a dump of pg_dump in the custom, the directory or the plain format, the last also
    with gzip. It is read to its end before anything is written, and refused where it is cut off, altered or newer than the server.
  - The text of a plain dump is read as psql reads it. Backslash commands, and statements that reach beyond the database, are refused
    with their line. psql runs it in one transaction and ends at the first error.
  - Goes into a new database that is compared with the manifest of the backup, or by its numbers of rows with what the dump holds, and
    gets statistics. Where that fails the new database is dropped.
  - With O(replace=true) it takes the place of the target afterwards, by the swap of M(whitecross.pgops.swap), which keeps the replaced
    database.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.restoring
  - whitecross.pgops.identity
options:
  from:
    description:
      - The backup or the dump, on the host where the module runs.
    type: path
    required: true
  into:
    description:
      - The new database; it must not exist. C(<database>_restored_<YYYYMMDD_HHMMSS>) where it is not set.
    type: str
  replace:
    description:
      - Put it in the place of the target.
    type: bool
    default: false
  confirm:
    description:
      - The name of the target, where O(replace=true).
    type: str
  roles:
    description:
      - What to do about roles of a backup that the server lacks. V(leave) makes none and restores without owners and privileges where
        they need one; V(create) makes them with attributes, memberships, settings and comments, and with a password where the
        backup holds its hash.
      - A role that is there is never altered, and what the restoring role may not give is left out; both are told.
    type: str
    choices: [leave, create]
    default: leave
  mask:
    description:
      - Whether O(masking) is read from the tree. Read by the action plugin.
    type: bool
    default: false
  masking:
    description:
      - What is masked, after the comparison and before anybody but superusers may connect, as in M(whitecross.pgops.rehearse). The action plugin
        reads it from C(masking.yml) of the tree that C(pgops_sql) names. Not with O(replace=true).
    type: dict
    default: {}
  key_tables:
    description:
      - Tables whose rows are told one by one, without their schema.
    type: list
    elements: str
    default: [users, students]
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Restore an export beside the live database
  whitecross.pgops.restore_database:
    databases: [white_cross]
    restore_user: postgres
    from: /var/backups/postgres/exports/white_cross/white_cross_20260101_120000.dump

- name: Restore a backup, and the roles that it needs, onto an empty server
  whitecross.pgops.restore_database:
    databases: [white_cross]
    host: db-new
    restore_user: postgres
    from: /var/backups/postgres/migrations/white_cross/20260101_120000_manual_20260101T120000Z-0a1b2c
    into: white_cross
    roles: create
"""

RETURN = r"""
databases:
  description: What was restored, by database; in check mode what would be.
  returned: always
  type: dict
  contains:
    source:
      description: What was restored.
      type: str
    kind:
      description: V(backup), V(custom), V(directory) or V(plain).
      type: str
    into:
      description: The new database.
      type: str
    tables:
      description: How many tables it has rows for.
      type: int
    rows:
      description: How many rows they have.
      type: int
    owners:
      description: Whether owners, privileges and settings are restored.
      type: bool
    needed_bytes:
      description: What it takes on the server - the size of the database that was backed up, of a dump without a manifest its own at the least.
      type: int
    free_bytes:
      description: What its tablespace has free; null where that cannot be seen from the host of the module.
      type: int
    reservations:
      description: What could not be recreated or compared, and why.
      type: list
      elements: str
    standbys:
      description: Of each connected standby, that its readers stay in the replaced database, and the statement that ends them there.
      returned: with C(--check) and O(replace)
      type: list
      elements: str
    restore_seconds:
      description: How long the restore took.
      type: float
    key_tables:
      description: Rows of the key tables; null where there is none of that name.
      type: dict
    sizes:
      description: Each table with its rows and bytes, the largest first.
      type: list
      elements: dict
    ledger:
      description: The latest ten entries of the ledger.
      type: list
      elements: dict
    roles:
      description:
        - Of a backup's roles those that are C(missing) on the server, those that were C(made), the C(statements) that make them without
          any hash, what was C(not_made) of them, and C(differences) of those that are there.
      type: dict
    masked:
      description: With O(masking), how many C(tables), C(columns) and C(rows), and what was C(looked) for, as in M(whitecross.pgops.rehearse).
      type: dict
    swap:
      description: With O(replace=true), what the swap did.
      type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module, restore_options


def main() -> None:
    """Restore into one new database."""
    module = pgops_module.create_module(
        {
            "from": {"type": "path", "required": True},
            "into": {"type": "str"},
            "replace": {"type": "bool", "default": False},
            "confirm": {"type": "str"},
            "mask": {"type": "bool", "default": False},
            "masking": {"type": "dict", "default": {}},
            "key_tables": {"type": "list", "elements": "str", "default": ["users", "students"]},
            "roles": {"type": "str", "choices": ["leave", "create"], "default": "leave"},
            **restore_options.RESTORE_OPTIONS,
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import (
            restore_database,
            restore_plan,
        )

        settings, identity = restore_options.begin(module)
        targets = pgops_module.targets(module)
        pgops_module.refuse_several(targets, "dump")
        asked = restore_plan.Asked(
            module.params["from"],
            into=module.params["into"] or "",
            replace=module.params["replace"],
            confirm=module.params["confirm"] or "",
            key_tables=tuple(module.params["key_tables"]),
            identity=identity,
            roles=module.params["roles"],
            masking=module.params["masking"],
        )
        do = restore_database.preview if module.check_mode else restore_database.run
        databases = {database: do(target, asked, settings) for database, target in targets.items()}
        return {"changed": True, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
