# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: databases
short_description: Ask a server which of its databases a run is for
version_added: 0.1.0
description:
  - Runs a query of one column and takes its rows for the names of databases, in their order; writes nothing.
  - A run for which C(pgops_databases_query) is set begins with it, and every later phase works on what it gave.
  - Fails where the query gives none, gives one twice, or names a database that is not there or takes no connections.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  query:
    description:
      - The query, run read-only in the one database of O(databases), which is C(pgops_maintenance_database).
    type: str
    required: true
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Every database of a tenant
  whitecross.pgops.databases:
    databases: [postgres]
    query: SELECT datname FROM pg_database WHERE datname LIKE 'tenant\_%' ORDER BY datname
"""

RETURN = r"""
databases:
  description: The databases of the run, in the order of the query.
  returned: always
  type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Ask, and leave with the names."""
    module = pgops_module.create_module({"query": {"type": "str", "required": True}})

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import tenants

        (target,) = pgops_module.targets(module).values()
        names = tenants.named_by(target, module.params["query"])
        return {"changed": False, "databases": {name: {"place": place} for place, name in enumerate(names, 1)}}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
