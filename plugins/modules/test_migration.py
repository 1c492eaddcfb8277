# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: test_migration
short_description: Take one version up, down and up again in a throw-away database
version_added: 0.1.0
description:
  - Makes an empty database on the scratch server, applies every earlier version and then this one, reverts it, applies it again, and
    compares the whole catalog at each turn. The database is dropped, whatever happens.
  - It fails when the way down leaves a difference that the version does not declare, or the second way up one to the first.
  - The action plugin refuses it in a production environment.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.tree
options:
  version:
    description:
      - The version to test.
    type: str
    required: true
attributes:
  check_mode:
    description: Makes no database and tests nothing.
    support: full
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Up, down, up
  whitecross.pgops.test_migration:
    databases: [white_cross]
    version: "20251103204744"
"""

RETURN = r"""
databases:
  description: What the test saw, by the database whose scratch server it used.
  returned: always
  type: dict
  contains:
    passed:
      description: Whether nothing is left that the version does not declare.
      type: bool
    up_s:
      description: Seconds of the first way up; also C(down_s) and C(again_s).
      type: float
    after_down:
      description: Differences between before the version and after its way down.
      type: list
      elements: str
    after_again:
      description: Differences between the first way up and the second.
      type: list
      elements: str
    safety:
      description: What the version declares of its rollback.
      type: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Test the version for each database; a difference fails after all were told."""
    module = pgops_module.create_module({"version": {"type": "str", "required": True}, **pgops_module.TREE_OPTIONS})

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, up_down_up
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

        given = module.params
        if module.check_mode:
            return {"changed": False, "databases": {}, "msg": "check mode: no throw-away database is made"}
        progress, control = pgops_module.job(module)
        found: dict[str, Any] = {}
        try:
            for name, target in pgops_module.targets(module).items():
                way = migrate.Way(migrate.run_of(given["run_id"], {}, name), progress, control)
                found[name] = up_down_up.run(target, given["migrations"], given["version"], way)
        finally:
            control.stop()
        failed = [item for item in found.values() if not item["passed"]]
        if failed:
            turn = "up again" if failed[0]["after_again"] else "down"
            differences = failed[0]["after_again"] or failed[0]["after_down"]
            more = f" and {len(differences) - 1} more" if len(differences) > 1 else ""
            raise PgopsError(
                f"Version {given['version']} differs after its way {turn}: {differences[0]}{more}; mend its down, or declare "
                "in its migration.yml what stays.",
                extra={"databases": found, "reason": "differs"},
            )
        return {"changed": False, "databases": found}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
