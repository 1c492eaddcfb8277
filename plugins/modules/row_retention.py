# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: row_retention
short_description: Archive and delete the rows that a policy keeps no longer
version_added: 0.1.0
description:
  - Goes by a declared policy, table by table. A batch of rows is written to a file on the host where the module runs, deleted and entered
    into the audit in one transaction; its file is whole on the disk before that commits.
  - Rows at which others point stay, whatever the foreign key says of them, and are counted. Nothing is deleted by a cascade.
  - The ledger and its audit are refused - M(whitecross.pgops.audit_checkpoint) is for these.
  - In check mode it counts.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.ledger_run
options:
  policy:
    description:
      - Filled by the action plugin from the file that O(policy_file) names. Each with C(table), C(column), C(years), C(why) and perhaps C(schema).
    type: list
    elements: dict
    default: []
  policy_file:
    description:
      - The file on the ops host that declares it; C(retention.yml) of the tree that C(pgops_sql) names where it is not given. Read by the action plugin.
    type: path
  archive_directory:
    description:
      - Where the archives are written, C(<database>/<schema.table>/<run>-<number>.jsonl), mode 0600. Needed outside of check mode.
    type: path
  encrypt_to:
    description:
      - Public keys, as of C(backup_encrypt_to); the private half of any of them reads the archives. Without one they are plain files.
    type: list
    elements: str
    default: []
  batch_size:
    description:
      - Rows of one batch, which is one transaction and one file.
    type: int
    default: 5000
  budget_s:
    description:
      - Seconds for all databases of the call together; what is left is the next run's.
    type: float
    default: 3600
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Keep the policy of the tree
  whitecross.pgops.row_retention:
    databases: [white_cross]
    archive_directory: /var/lib/pgops/retired
    encrypt_to: [age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]
"""

RETURN = r"""
databases:
  description: What was due and what became of it, by database.
  returned: always
  type: dict
  contains:
    tables:
      description: >-
        Each with C(table), C(cutoff), C(due), C(referenced) (kept, since others point at them), C(oldest), C(deleted), C(files) and C(seconds).
      type: list
      elements: dict
    ended:
      description: V(done), or that its time was over.
      type: str
"""

import time
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Keep the policy in database after database."""
    module = pgops_module.create_module(
        {
            **pgops_module.LEDGER_RUN_OPTIONS,
            "policy": {"type": "list", "elements": "dict", "default": []},
            "policy_file": {"type": "path"},
            "archive_directory": {"type": "path"},
            "encrypt_to": {"type": "list", "elements": "str", "default": []},
            "batch_size": {"type": "int", "default": 5000},
            "budget_s": {"type": "float", "default": 3600},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, row_retention
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

        given = module.params
        rules = row_retention.rules_of(given["policy"])
        progress, control = pgops_module.job(module)
        ends_at = time.monotonic() + given["budget_s"]
        databases: dict[str, Any] = {}
        try:
            for name, target in pgops_module.targets(module).items():
                if module.check_mode:
                    run_id = given["run_id"] or "retention"
                    databases[name] = row_retention.look(target, rules, run_id=run_id, control=control)
                    continue
                way = row_retention.Way(
                    migrate.run_of(given["run_id"], given["run"], name), given["archive_directory"], given["encrypt_to"],
                    given["batch_size"], ends_at, progress, control, given["lock_wait"],
                )  # fmt: skip
                databases[name] = row_retention.retire(target, rules, way)
        except PgopsError as error:
            error.extra["databases"] = {**databases, **error.extra.get("databases", {})}
            raise
        finally:
            control.stop()
        due = any(table["due"] for found in databases.values() for table in found["tables"])
        changed = due if module.check_mode else any(found["changed"] for found in databases.values())
        return {"changed": changed, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
