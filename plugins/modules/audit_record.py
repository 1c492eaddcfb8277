# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: audit_record
short_description: End a run in the audit of its databases and anchor the head outside
version_added: 0.2.0
description:
  - Adds a row to C(pgops.audit) that says who did what, when, where, why and with what result, in each database that the run has
    written to. A run that wrote nothing leaves nothing there.
  - The action plugin makes this row from the run's journal. It keeps the head of each audit, and a copy of the rows that are new, on the
    ops host below C(pgops_state_directory), in files that are only added to; with C(audit_anchor_key) each is signed, and
    C(audit_anchor_command) is given each.
  - Fails where an audit was cut or rewritten since the last run, and nothing that this tool did explains it.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  entries:
    description: The detail of the row, by database. The action plugin fills it in.
    type: dict
    default: {}
  kept:
    description: The newest anchors (V(heads)) and the row that was copied last (V(to)), by database. The action plugin fills it in.
    type: dict
    default: {}
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: End the run in the audit
  whitecross.pgops.audit_record:
"""

RETURN = r"""
databases:
  description: What is to be anchored, by database.
  returned: always
  type: dict
  contains:
    there:
      description: Whether the database has an audit.
      type: bool
    recorded:
      description: Whether the run has written into this database, and so has its last row.
      type: bool
    head:
      description: Number and hash of the last row.
      type: dict
    common:
      description: The newest anchor that the database still has.
      type: dict
    held:
      description: The hashes of all anchored rows that the database still has.
      type: list
      elements: str
    rows:
      description: Rows that the ops host does not have yet.
      type: list
      elements: dict
    cluster:
      description: System identifier, timeline and OID of the database.
      type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Write the last row of the run and leave with what is to be anchored."""
    module = pgops_module.create_module(
        {
            "entries": {"type": "dict", "default": {}},
            "kept": {"type": "dict", "default": {}},
        }
    )

    def work() -> dict[str, Any]:
        from contextlib import closing

        from ansible_collections.whitecross.pgops.plugins.module_utils import audit_entry, locks
        from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect

        run_id, given = str(module.params["run_id"] or ""), module.params
        databases = {}
        for name, target in pgops_module.targets(module).items():
            with closing(connect(target, application_name=locks.application_name(run_id or "audit"))) as conn:
                kept = audit_entry.Kept(**(given["kept"].get(name) or {}))
                entry = None if module.check_mode else given["entries"].get(name)
                databases[name] = audit_entry.settle(conn, run_id, entry, kept)
        return {"changed": False, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
