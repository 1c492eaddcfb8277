# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: audit_sign_off
short_description: Sign a run off in the audit
version_added: 0.2.0
description:
  - Adds a row to C(pgops.audit) with which a person signs off a run, and what was found and done about it. Nothing of the run's own
    rows changes.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  signed_run:
    description: The id of the run.
    type: str
  signed_by:
    description: Who signs.
    type: str
  role:
    description: As what, such as V(reviewer) or V(executor).
    type: str
    default: reviewer
  note:
    description: What there is to say about it.
    type: str
  typed_by:
    description: The account of the ops host that typed it. The action plugin fills it in.
    type: str
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Sign a run off
  whitecross.pgops.audit_sign_off:
    databases: [white_cross]
    signed_run: 20260101T000000Z-000001
    signed_by: Grace Murray
"""

RETURN = r"""
databases:
  description: The new head of each audit.
  returned: always
  type: dict
  contains:
    head:
      description: Number and hash of the row; null in check mode.
      type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Sign the run off in every database that it wrote to."""
    module = pgops_module.create_module(
        {
            "signed_run": {"type": "str"},
            "signed_by": {"type": "str"},
            "role": {"type": "str", "default": "reviewer"},
            "note": {"type": "str"},
            "typed_by": {"type": "str"},
        }
    )

    def work() -> dict[str, Any]:
        from contextlib import closing

        from ansible_collections.whitecross.pgops.plugins.module_utils import audit_entry, locks
        from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect

        given = module.params
        signed = audit_entry.SignOff(
            *(str(given[name] or "").strip() for name in ("signed_run", "signed_by", "role", "note", "typed_by"))
        )
        databases = {}
        for name, target in pgops_module.targets(module).items():
            with closing(connect(target, application_name=locks.application_name(given["run_id"] or "audit"))) as conn:
                databases[name] = {"head": audit_entry.sign_off(conn, given["run_id"], signed, check=module.check_mode)}
        return {"changed": True, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
