# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: analyze
short_description: Refresh planner statistics, and prove that it happened
version_added: 0.1.0
description:
  - Analyzes the tables named, or all of them, and believes it only when the server's C(last_analyze) says so; by a role without the
    right ANALYZE only warns and succeeds. Where C(track_counts) is off the server keeps none; then the role must have the right, and
    RV(databases) tells that it is not proved.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  tables:
    description:
      - Tables as C(schema.table), by database; those that are gone are left out. Filled by the action plugin with what the run changed.
    type: dict
    default: {}
  all_tables:
    description:
      - Analyze every table and materialised view of the database instead.
    type: bool
    default: false
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Fresh statistics for one table
  whitecross.pgops.analyze:
    databases: [white_cross]
    tables:
      white_cross: [public.students]
"""

RETURN = r"""
databases:
  description: What was analyzed, by database.
  returned: always
  type: dict
  contains:
    analyzed:
      description: The tables, in order.
      type: list
      elements: str
    seconds:
      description: How long it took.
      type: float
    unproved:
      description: Which tables the server does not say of that they were analyzed, and the setting that keeps it from it (C(track_counts)).
      returned: where there are any
      type: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Analyze database after database."""
    module = pgops_module.create_module(
        {
            "tables": {"type": "dict", "default": {}},
            "all_tables": {"type": "bool", "default": False},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import statistics

        given = module.params
        progress, control = pgops_module.job(module)
        try:
            databases = {
                name: statistics.refresh(
                    target,
                    None if given["all_tables"] else given["tables"].get(name, []),
                    run_id=given["run_id"] or "analyze",
                    progress=progress,
                    control=control,
                    check_mode=module.check_mode,
                )
                for name, target in pgops_module.targets(module).items()
            }
        finally:
            control.stop()
        # Statistics are the server's own affair: fresh ones are no change of the database.
        return {"changed": False, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
