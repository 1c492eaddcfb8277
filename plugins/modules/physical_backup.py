# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: physical_backup
short_description: Back up a cluster by pgBackRest
version_added: 0.1.0
description:
  - Writes pgBackRest's configuration from what is declared, makes the stanza, checks that the server archives through it, and backs up.
  - Installs nothing and sets nothing in the server; what is missing is refused with the line to write.
  - A physical backup is of the whole cluster. It is told by each database that was named.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.time_box
  - whitecross.pgops.physical
options:
  type:
    description:
      - What pgBackRest copies. Without a full backup before, it makes one whatever is asked for.
    type: str
    choices: [full, diff, incr]
    default: incr
  repository:
    description:
      - pgBackRest's own options of the repository, by name - on disk, by SFTP or in object storage, compression, retention.
    type: dict
    required: true
  repository_secrets:
    description:
      - Those of them that are secret - keys of object storage, passphrases.
    type: dict
    default: {}
  cipher_passfile:
    description:
      - A file of this host, 0600, that holds a passphrase, by which pgBackRest encrypts (aes-256-cbc) each repository whose C(repoN-cipher-type)
        is not declared. A repository that was made otherwise is refused before the configuration is written.
    type: path
  copies_required:
    description:
      - Whether each further repository that O(repository) declares (C(repo2-path) and so on) has to have a backup of this run, too. WAL goes
        to all of them by itself, backups do not.
    type: bool
    default: false
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Back up the cluster
  whitecross.pgops.physical_backup:
    databases: [white_cross]
    restore_user: postgres
    stanza: main
    repository:
      repo1-path: /var/lib/pgbackrest
      repo1-retention-full: 30
      repo1-retention-full-type: time
"""

RETURN = r"""
databases:
  description: The backup, by database; it is the same one for all of a cluster.
  returned: always
  type: dict
  contains:
    label:
      description: pgBackRest's name for it.
      type: str
    path:
      description: Stanza and label, as the ledger names the backup.
      type: str
    type:
      description: V(full), V(diff) or V(incr).
      type: str
    started:
      description: When it was begun.
      type: str
    finished:
      description: When it was whole.
      type: str
    database_bytes:
      description: The size of the cluster.
      type: int
    references:
      description: The backups that it stands on.
      type: list
      elements: str
    wal:
      description: The first and the last WAL segment that it needs.
      type: list
      elements: str
    copies:
      description: By its number the label of the backup in each further repository, where O(copies_required) is set.
      type: dict
    pgbackrest:
      description: The version of pgBackRest.
      type: str
    configuration_changed:
      description: Whether the configuration file was, or would be, written.
      type: bool
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Back the cluster up."""
    module = pgops_module.create_module(
        {
            **pgops_module.PHYSICAL_OPTIONS,
            "type": {"type": "str", "choices": ["full", "diff", "incr"], "default": "incr"},
            "repository": {"type": "dict", "required": True},
            "repository_secrets": {"type": "dict", "default": {}, "no_log": True},
            "cipher_passfile": {"type": "path"},
            "copies_required": {"type": "bool", "default": False},
            **pgops_module.TIME_BOX_OPTIONS,
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import pgbackrest, physical_backup
        from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import end_on_sigterm

        progress, control = pgops_module.job(module)
        end_on_sigterm(control)
        given = module.params
        control.end_after(given["timeout"])
        tool = pgbackrest.of(given, progress, control)
        declared = physical_backup.Declared(given["repository"], given["repository_secrets"], given["cipher_passfile"])
        targets = pgops_module.targets(module)
        with physical_backup.session(next(iter(targets.values())), given["run_id"] or "by-hand") as (_conn, layout):
            written = physical_backup.prepare(tool, layout, declared, pretend=module.check_mode)
            found: dict[str, Any] = {"stanza": tool.stanza, "configuration_changed": written}
            if not module.check_mode:
                further = physical_backup.further_repositories(declared) if given["copies_required"] else []
                found.update(physical_backup.back_up(tool, layout, given["type"], further))
                found["path"] = f"pgbackrest:{tool.stanza}/{found['label']}"
        return {"changed": True, "databases": dict.fromkeys(targets, found)}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
