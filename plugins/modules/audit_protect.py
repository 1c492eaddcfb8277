# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: audit_protect
short_description: Give the audit of each database an owner of its own
version_added: 0.2.0
description:
  - Hands C(pgops.audit), its schema and its trigger function to a role without login. The role that migrates may then read and add
    rows, and can no longer switch the triggers off, empty or drop the table.
  - Works as O(restore_user), which has to be a superuser or may do all of it. A superuser can still do anything; that is what the
    anchors outside of the database are for.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  role:
    description: The role that is to own the audit; it is made where it is missing.
    type: str
    default: pgops_audit
  auditor:
    description: A role that is there and may read the audit from now on.
    type: str
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Keep the audit from the role that migrates
  whitecross.pgops.audit_protect:
    databases: [white_cross]
    auditor: auditor
"""

RETURN = r"""
databases:
  description: Who owns and who reads the audit of each database.
  returned: always
  type: dict
  contains:
    owner:
      description: The role that owns it.
      type: str
    migrator:
      description: The role that migrates.
      type: str
    auditor:
      description: The role that may only read.
      type: str
    done:
      description: What was done, a sentence each; in check mode what would be.
      type: list
      elements: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Protect the audit of every database."""
    module = pgops_module.create_module({"role": {"type": "str", "default": "pgops_audit"}, "auditor": {"type": "str"}})

    def work() -> dict[str, Any]:
        from contextlib import closing

        from ansible_collections.whitecross.pgops.plugins.module_utils import audit_rights, locks
        from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect

        given, databases = module.params, {}
        for name, target in pgops_module.targets(module).items():
            with closing(
                connect(target.as_restore(), application_name=locks.application_name(given["run_id"] or "audit"))
            ) as conn:
                databases[name] = audit_rights.protect(
                    conn, given["role"], given["auditor"] or None, check=module.check_mode
                )
        return {"changed": any(found["changed"] for found in databases.values()), "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
