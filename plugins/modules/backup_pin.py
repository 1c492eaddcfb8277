# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: backup_pin
short_description: Pin a backup, or release it
version_added: 0.1.0
description:
  - A pinned backup is never deleted by M(whitecross.pgops.backup_expire), however old it gets.
  - The pin lies in the backup's folder, with who, when and why; a released one stays on record there.
  - It reads and writes the folder only, so it works while the server is down.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  directory:
    description:
      - The folder on the host where the module runs that holds a folder for each database.
    type: path
    required: true
  pin:
    description:
      - The id of the backup that is to stay, the name of its folder.
    type: str
  unpin:
    description:
      - The id of the backup that is released.
    type: str
  reason:
    description:
      - Why it is to stay. With O(unpin) which of its pins goes, where it has more than one.
    type: str
    default: ""
  who:
    description:
      - Who pins or releases it. Filled by the action plugin.
    type: str
    default: ""
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Keep a backup for as long as a court case goes on
  whitecross.pgops.backup_pin:
    databases: [white_cross]
    directory: /var/backups/postgres/migrations
    pin: 20260101_020000_manual_20260101T020000Z-0a1b2c
    reason: legal hold, case 4711
"""

RETURN = r"""
databases:
  description: The database that has the backup.
  returned: always
  type: dict
  contains:
    id:
      description: The backup.
      type: str
    path:
      description: Its folder.
      type: str
    pins:
      description: Its pins now, each with V(who), V(when) and V(reason).
      type: list
      elements: dict
    changed:
      description: Whether that is new.
      type: bool
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Pin or release one backup."""
    module = pgops_module.create_module(
        {
            "directory": {"type": "path", "required": True},
            "pin": {"type": "str"},
            "unpin": {"type": "str"},
            "reason": {"type": "str", "default": ""},
            "who": {"type": "str", "default": ""},
        },
        required_one_of=[("pin", "unpin")],
        mutually_exclusive=[("pin", "unpin")],
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import backup_pins

        found = backup_pins.change(
            module.params["directory"],
            module.params["databases"],
            module.params["pin"] or module.params["unpin"],
            module.params["reason"],
            release=not module.params["pin"],
            who=module.params["who"],
            check_only=module.check_mode,
        )
        return {"changed": any(entry["changed"] for entry in found.values()), "databases": found}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
