# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: restore_table
short_description: Restore one table or one schema of a backup beside the live one
version_added: 0.1.0
description:
  - For the accident that is no migration. The rows that a backup has of a table are put into the schema C(restored_<YYYYMMDD_HHMMSS>)
    of the live database, as plain tables with the columns and the primary key of the backup. No live table is touched.
  - The rows are restored into a scratch database first and compared there with the manifest, then copied through a pipe and compared
    again. One transaction makes the side schema, so there is never a half of it.
  - Only the owner of the live table may read the side schema.
  - The result has, for each table, the SQL that shows what differs by primary key and the SQL that would bring rows back.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.scratch
  - whitecross.pgops.restoring
  - whitecross.pgops.identity
options:
  from:
    description:
      - The folder of a backup of this database, on the host where the module runs.
    type: path
    required: true
  table:
    description:
      - The table, C(name) or C(schema.name).
    type: str
  schema:
    description:
      - All tables of this schema, in the place of O(table).
    type: str
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Bring back what the table was this morning, beside it
  whitecross.pgops.restore_table:
    databases: [white_cross]
    restore_user: postgres
    from: /var/backups/postgres/migrations/white_cross/20260101_120000_manual_20260101T120000Z-0a1b2c
    table: health_records
"""

RETURN = r"""
databases:
  description: What was put where, by database; in check mode what would be.
  returned: always
  type: dict
  contains:
    backup:
      description: The backup.
      type: str
    snapshot_time:
      description: The moment that it shows.
      type: str
    schema:
      description: The side schema.
      type: str
    owner:
      description: The role that alone may read it.
      type: str
    tables:
      description: Each table and its rows.
      type: list
      elements: dict
    passed_over:
      description: What of the schema is no table.
      type: list
      elements: str
    seconds:
      description: How long it took.
      type: float
    preamble:
      description: What to type before the statements.
      type: str
    statements:
      description: By table, C(missing) and C(changed), which look, C(bring_back) and C(set_back), which write, and C(note).
      type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module, restore_options


def main() -> None:
    """Restore the rows of one database's table or schema."""
    module = pgops_module.create_module(
        {
            "from": {"type": "path", "required": True},
            "table": {"type": "str"},
            "schema": {"type": "str"},
            **pgops_module.SCRATCH_OPTIONS,
            **restore_options.RESTORE_OPTIONS,
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import restore_table

        settings, identity = restore_options.begin(module)
        targets = pgops_module.targets(module)
        pgops_module.refuse_several(targets, "backup")
        asked = restore_table.Asked(
            module.params["from"],
            table=module.params["table"] or "",
            schema=module.params["schema"] or "",
            other_cluster_only=module.params["other_cluster_only"],
            identity=identity,
        )
        do = restore_table.preview if module.check_mode else restore_table.run
        databases = {database: do(target, asked, settings) for database, target in targets.items()}
        return {"changed": True, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
