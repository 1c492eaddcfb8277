# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: kept_databases
short_description: List the databases that rollbacks have put aside or left, or drop those that are old enough
version_added: 0.1.0
description:
  - A swap keeps the database that it replaces. This says how old and how large each is and which rollback put it aside.
  - So it does of a copy that a restore was killed at, or that was never swapped in. Half a copy goes at any age, a whole one as the others.
  - With O(state=dropped) it drops exactly those that were shown, and of them only one that is old enough, in which nobody is, and while
    no swap of that database is under way or was cut off. The audit of the live database has each.
  - In check mode it drops nothing.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  state:
    description:
      - What to do.
    type: str
    choices: [listed, dropped]
    default: listed
  keep_days:
    description:
      - How many days old one has to be to go, by the server's clock.
    type: float
    default: 7
  names:
    description:
      - With O(state=dropped), what was shown and confirmed, by database. Filled by the action plugin.
    type: dict
    default: {}
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: What is kept
  whitecross.pgops.kept_databases:
    databases: [white_cross]
    restore_user: postgres
    keep_days: 30
"""

RETURN = r"""
databases:
  description: What is kept, by database.
  returned: always
  type: dict
  contains:
    kept:
      description: Each kept database - C(name), C(since), C(age_days), C(bytes), C(run_id), C(backup), C(due), C(why) it stays,
        C(slots) that go with it, and C(copy), whether a restore left it.
      type: list
      elements: dict
    dropped:
      description: Those that were dropped.
      type: list
      elements: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """List or drop for every database, one after the other."""
    module = pgops_module.create_module(
        {
            "state": {"type": "str", "choices": ["listed", "dropped"], "default": "listed"},
            "keep_days": {"type": "float", "default": 7},
            "names": {"type": "dict", "default": {}},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import kept_databases
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

        progress, control = pgops_module.job(module)
        days = module.params["keep_days"]
        databases: dict[str, Any] = {}
        for database, target in pgops_module.targets(module).items():
            names = list(module.params["names"].get(database) or [])
            dropped: list[str] = []
            if module.params["state"] == "dropped" and not module.check_mode:
                try:
                    dropped = kept_databases.drop(
                        target,
                        names,
                        days,
                        run_id=module.params["run_id"] or "by-hand",
                        progress=progress,
                        control=control,
                    )
                except PgopsError as error:
                    error.extra["databases"] = databases
                    raise
            found = kept_databases.listed(target, days)
            databases[database] = {"kept": [one.as_dict() for one in found], "dropped": dropped, "keep_days": days}
        return {"changed": any(found["dropped"] for found in databases.values()), "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
