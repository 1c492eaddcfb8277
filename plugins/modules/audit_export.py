# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: audit_export
short_description: Export the audit of each database for an auditor
version_added: 0.2.0
description:
  - Writes the whole chain of C(pgops.audit) in one snapshot as JSON lines, with what protects it in the database.
  - The action plugin leaves beside it, on the ops host, the anchors, the copy of the rows, what was done in a period as JSON lines and
    CSV, a page of the safeguards of HIPAA with their evidence, and C(audit_verifier.py), which checks all of it without Ansible.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  directory:
    description:
      - The folder for the files on the ops host; the action plugin makes one for each database and moment below it.
      - For the module itself, the folder on the host it runs on.
    type: path
  folders:
    description: The folder of each database. The action plugin fills it in.
    type: dict
    default: {}
  place:
    description: Environment and host as the inventory has them. The action plugin fills it in.
    type: dict
    default: {}
  since:
    description: The first day of the period, C(YYYY-MM-DD); the audit's beginning where it is not given.
    type: str
  until:
    description: Its last day; today where it is not given.
    type: str
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Export what an auditor asks for
  whitecross.pgops.audit_export:
    databases: [white_cross]
    directory: /srv/audit
    since: "2026-01-01"
"""

RETURN = r"""
databases:
  description: The export of each database.
  returned: always
  type: dict
  contains:
    folder:
      description: Where the files are on the ops host.
      type: str
    rows:
      description: Rows of the chain.
      type: int
    sha256:
      description: Of the file of the chain.
      type: str
    records:
      description: What was done in the period.
      type: int
    files:
      description: The names of the files.
      type: list
      elements: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Write the chain of every database and leave with where."""
    module = pgops_module.create_module(
        {
            "directory": {"type": "path"},
            "folders": {"type": "dict", "default": {}},
            "place": {"type": "dict", "default": {}},
            "since": {"type": "str"},
            "until": {"type": "str"},
        }
    )

    def work() -> dict[str, Any]:
        import os
        from contextlib import closing

        from ansible_collections.whitecross.pgops.plugins.module_utils import audit_export, backup_store, locks
        from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect

        databases: dict[str, Any] = {}
        for name, target in pgops_module.targets(module).items():
            folder = str(module.params["folders"].get(name) or module.params["directory"] or ".")
            with closing(
                connect(target, application_name=locks.application_name(module.params["run_id"] or "audit"))
            ) as conn:
                if module.check_mode:
                    databases[name] = {"folder": folder, "database": audit_export.head(conn)["database"]}
                    continue
                backup_store.make_private_folder(folder)
                written = audit_export.write(conn, os.path.join(folder, "audit.jsonl"), place=module.params["place"])
                databases[name] = {"folder": folder, **written}
        return {"changed": not module.check_mode, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
