# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: status
short_description: Tell which versions are applied, pending, failed or edited
version_added: 0.1.0
description:
  - Tells every version of the ledger and of the tree, and who holds the runner lock; writes nothing, and works where there is no ledger.
  - The action plugin shows it as a table.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  migrations:
    description:
      - Version, name, title, checksum and files of each folder of the tree; the action plugin reads it from the folder that C(pgops_sql) names.
    type: list
    elements: dict
    default: []
  unreadable:
    description:
      - Version and name of each folder that is there and cannot be read; the action plugin sees them.
    type: dict
    default: {}
  prefix:
    description:
      - Only versions that begin with this text.
    type: str
  newest_first:
    description:
      - The newest version at the top.
    type: bool
    default: false
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: See where the database is
  whitecross.pgops.status:
    databases: [white_cross]
    newest_first: true
"""

RETURN = r"""
databases:
  description: The status, by database.
  returned: always
  type: dict
  contains:
    versions:
      description: Every version with name, state, time applied, by whom, duration in seconds, failed step and whether its files changed.
      type: list
      elements: dict
    counts:
      description: Number of versions by state.
      type: dict
    running:
      description: Who holds the runner lock now, if anybody.
      type: dict
    baseline:
      description: Where the database was taken as it is, V(name), V(at), V(who), V(fingerprint), V(tables) and what the V(ledgers) of
        other tools said then. Then no version of the tree is pending.
      type: dict
    swap:
      description: A swap of the database that was cut off and keeps nobody out, V(state), V(staged), V(aside) and what it is, V(told), if any.
      type: dict
    blue_green:
      description: The slot of a blue-green change of the database, V(slot), whether it is V(active), and V(held), bytes of WAL, if any.
      type: dict
    faults:
      description: What is wrong with the files of the tree, each with V(file), V(line), V(rule), V(severity) and V(message).
      type: list
      elements: dict
    ledger:
      description: Whether there is a ledger.
      type: bool
    ledger_head:
      description: sha256 over version, checksum and state of all rows of the ledger.
      type: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Read and leave with the rows of each database."""
    module = pgops_module.create_module(
        {
            "migrations": {"type": "list", "elements": "dict", "default": []},
            "unreadable": {"type": "dict", "default": {}},
            "prefix": {"type": "str"},
            "newest_first": {"type": "bool", "default": False},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import plan

        given = module.params
        return {
            "changed": False,
            "databases": {
                name: plan.status(
                    target,
                    given["migrations"],
                    prefix=given["prefix"],
                    newest_first=given["newest_first"],
                    unreadable=given["unreadable"],
                )
                for name, target in pgops_module.targets(module).items()
            },
        }

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
