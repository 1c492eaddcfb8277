# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: query_statistics
short_description: Have a server count its statements
version_added: 0.2.0
description:
  - Adds C(pg_stat_statements) to C(shared_preload_libraries) by C(ALTER SYSTEM), keeping what is in it, and creates the extension in each database.
  - The server is never restarted by it. Nothing is counted until somebody does, and it says so.
  - Works as O(restore_user), which has to be a superuser.
extends_documentation_fragment:
  - whitecross.pgops.pgops
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Know the slow queries of tomorrow
  whitecross.pgops.query_statistics:
    databases: [white_cross]
    restore_user: postgres
"""

RETURN = r"""
databases:
  description: What was done, by database.
  returned: always
  type: dict
  contains:
    statements:
      description: What was run, in check mode what would be; what concerns the server stands with the first database.
      type: list
      elements: str
    libraries:
      description: The libraries that the server loads at its next start.
      type: list
      elements: str
    before:
      description: Those that it would have loaded otherwise.
      type: list
      elements: str
    restart:
      description: Whether nothing is counted before the server is restarted.
      type: bool
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Switch it on, once."""
    module = pgops_module.create_module({})

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import query_statistics

        databases = query_statistics.enable(list(pgops_module.targets(module).values()), check=module.check_mode)
        return {"changed": any(found["statements"] for found in databases.values()), "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
