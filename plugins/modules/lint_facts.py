# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: lint_facts
short_description: Look up what lint cannot read in SQL
version_added: 0.1.0
description:
  - Reads the catalog in one read-only transaction. It gives sizes, columns, keys, checks and partitions of the tables that SQL files
    name, and the source of the functions that they call. No row of a table is read.
  - M(whitecross.pgops.migration_lint) starts it where a database is named on the command line.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  relations:
    description:
      - Tables, views, indexes and domains, each V(schema.name). Those that are not there are left out of the result.
    type: list
    elements: str
    default: []
  functions:
    description:
      - Names of functions, without their schemas.
    type: list
    elements: str
    default: []
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: See how large a table is
  whitecross.pgops.lint_facts:
    databases: [white_cross]
    relations: [public.students]
"""

RETURN = r"""
databases:
  description: What was found, by database.
  returned: always
  type: dict
  contains:
    tables:
      description: Bytes, estimated rows, columns, indexes and checks of each table, by V(schema.name).
      type: dict
    indexes:
      description: The table of each index, by V(schema.name).
      type: dict
    domains:
      description: Whether a domain has a constraint, by V(schema.name).
      type: dict
    functions:
      description: Language, volatility and source of each function, by name.
      type: dict
    timezone:
      description: The TimeZone that a session of this role and database begins with.
      type: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Ask every database and leave with what it said."""
    module = pgops_module.create_module(
        {
            "relations": {"type": "list", "elements": "str", "default": []},
            "functions": {"type": "list", "elements": "str", "default": []},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import lint_facts

        return {
            "changed": False,
            "databases": {
                database: lint_facts.read_facts(target, module.params["relations"], module.params["functions"])
                for database, target in pgops_module.targets(module).items()
            },
        }

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
