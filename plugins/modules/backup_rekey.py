# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: backup_rekey
short_description: Encrypt backups that are there already to other public keys
version_added: 0.1.0
description:
  - Decrypts and encrypts each file of a backup through pipes, so that nothing of it is ever plain on a disk, reads the new one back, and
    gives it the backup's name by one exchange of the two folders.
  - What comes out of it is the same as before, bit by bit, so a proof that it had holds on. The keys from before stay in its manifest.
  - It reaches the folder only, so it works while the server is down. Copies in other places are told, and are as they were.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.identity
options:
  directory:
    description:
      - The folder on the host where the module runs that holds a folder for each database.
    type: path
    required: true
  backups:
    description:
      - The ids of the backups; V(all) for all that are encrypted to other keys.
    type: list
    elements: str
    default: [all]
  encrypt_to:
    description:
      - The public keys that they are to be encrypted to. The private key must open what it was encrypted to, and what it is to be.
    type: list
    elements: str
    required: true
  environment:
    description:
      - The backups of another environment are left. Filled by the action plugin.
    type: str
    default: ""
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Encrypt all backups to the key that is used from now on
  whitecross.pgops.backup_rekey:
    databases: [white_cross]
    directory: /var/backups/postgres/migrations
    encrypt_to: [age1x9h43wgr2ng28sswzrxwcd2gjyc6ss2qqa770uzeypdpuk2tgp0sk7whp2]
    identity_file: /etc/pgops/both_keys
"""

RETURN = r"""
databases:
  description: What became of the backups, by database.
  returned: always
  type: dict
  contains:
    folder:
      description: The folder of the database.
      type: str
    rekeyed:
      description:
        - Those that were encrypted anew, or would be - C(id), C(path), C(bytes), C(seconds), C(recipients_before), C(level) of the proof,
          and C(copies), the places whose copy is as it was.
      type: list
      elements: dict
    same:
      description: The ids of those that are encrypted to these keys already.
      type: list
      elements: str
    left:
      description: What was left as it is, V(id) and V(told) why.
      type: list
      elements: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Encrypt the backups of every database anew, one after the other."""
    module = pgops_module.create_module(
        {
            "directory": {"type": "path", "required": True},
            "backups": {"type": "list", "elements": "str", "default": ["all"]},
            # Public ones; Ansible takes every option of such a name for a secret.
            "encrypt_to": {"type": "list", "elements": "str", "required": True},
            "environment": {"type": "str", "default": ""},
            **pgops_module.IDENTITY_OPTIONS,
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import encryption, rekey
        from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import end_on_sigterm
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

        given = module.params
        # First of all: a key that was handed over is gone from here on.
        identity = encryption.open_identity(given["identity_file"], once=given["identity_once"])
        progress, control = pgops_module.job(module)
        end_on_sigterm(control)
        if given["backups"] != [rekey.ALL]:
            pgops_module.refuse_several(given["databases"], "backup")
        asked = rekey.Asked(
            encryption.usable_recipients(given["encrypt_to"]),
            identity,
            given["backups"],
            given["environment"],
            given["run_id"] or "by-hand",
        )
        databases: dict[str, Any] = {}
        for database in given["databases"]:
            try:
                databases[database] = rekey.rekey(
                    given["directory"],
                    database,
                    asked,
                    check_only=module.check_mode,
                    progress=progress,
                    control=control,
                )
            except PgopsError as error:
                error.extra["databases"] = {**databases, **error.extra.get("databases", {})}
                raise
        return {"changed": any(found["rekeyed"] for found in databases.values()), "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
