# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: audit_checkpoint
short_description: Archive the beginning of an audit and put a signed checkpoint in its place
version_added: 0.2.0
description:
  - Rows that are older than O(retention_years) go into an archive, a file on the ops host that C(audit_verifier.py) checks like any
    export. The archive is checked against the anchors first; what does not hold is never cut.
  - A document that names the environment, the host, the database, the system identifier of the cluster, the archive, its sha256, the hash
    of its last row and the last anchor before it is signed with O(key), and takes the place of the rows in one transaction. The last row of an audit always stays.
  - Works as O(restore_user), which has to own the audit or be a superuser.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  retention_years:
    description: So many years rows stay in the database; no less than six, which is what HIPAA asks of documentation.
    type: int
    default: 7
  directory:
    description: The folder of the archives on the ops host.
    type: path
  key:
    description: The SSH key on the ops host that signs; a public one where an agent holds the private half.
    type: str
  before:
    description: Rows from before this moment are due. The action plugin works it out.
    type: str
  archives:
    description: The file of each database. The action plugin fills it in.
    type: dict
    default: {}
  place:
    description: Environment and host as the inventory has them. The action plugin fills it in.
    type: dict
    default: {}
  documents:
    description: The signed document of each database. The action plugin fills it in.
    type: dict
    default: {}
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Archive what is past its retention
  whitecross.pgops.audit_checkpoint:
    databases: [white_cross]
    directory: /srv/audit-archives
    key: /etc/pgops/audit_key
"""

RETURN = r"""
databases:
  description: What went into an archive, by database; empty where nothing is due.
  returned: always
  type: dict
  contains:
    seq:
      description: The last row that is archived.
      type: int
    rows:
      description: How many rows.
      type: int
    archive:
      description: The file on the ops host.
      type: str
    head:
      description: The new head of the audit.
      type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Write the archives, or put the signed documents in their place."""
    module = pgops_module.create_module(
        {
            "retention_years": {"type": "int", "default": 7},
            "directory": {"type": "path"},
            "key": {"type": "str", "no_log": False},
            "before": {"type": "str"},
            "archives": {"type": "dict", "default": {}},
            "place": {"type": "dict", "default": {}},
            "documents": {"type": "dict", "default": {}},
        }
    )

    def work() -> dict[str, Any]:
        from contextlib import closing

        from ansible_collections.whitecross.pgops.plugins.module_utils import audit_checkpoint, locks
        from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect

        given, databases = module.params, {}
        for name, target in pgops_module.targets(module).items():
            with closing(
                connect(target.as_restore(), application_name=locks.application_name(given["run_id"] or "audit"))
            ) as conn:
                if given["documents"]:
                    document = given["documents"].get(name)
                    databases[name] = audit_checkpoint.cut(conn, document, given["run_id"]) if document else {}
                else:
                    databases[name] = (
                        audit_checkpoint.archive(
                            conn, given["before"], given["archives"][name], given["place"], check=module.check_mode
                        )
                        or {}
                    )
        return {"changed": bool(given["documents"]), "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
