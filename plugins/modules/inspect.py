# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: inspect
short_description: Look something up in the catalog by the name of a query
version_added: 0.1.0
description:
  - Runs one of the queries of C(sql/inspect) in a read-only transaction. They read the catalog and the server's
    statistics; C(data_age) and the reports on accounts and pupils count rows, and none shows what stands in one.
  - C(tables), C(columns), C(required_columns), C(enums), C(enum_values), C(indexes), C(index_usage), C(largest_indexes), C(foreign_keys),
    C(constraints), C(extensions), C(sizes), C(schema_counts), C(phi_tables), C(phi_objects) and C(data_age) are there.
  - C(account_lockouts), C(password_rotation), C(mfa_enrolment), C(unverified_accounts), C(open_tokens) and C(sign_in_providers) count
    accounts. C(education_plans), C(epipen_expiry) and C(medication_refills) count pupils, and tell fewer than five of them as C(< 5).
  - C(server_log) shows what PostgreSQL's own log has of the sessions of a run, from warnings on, without statements and values.
  - The action plugin reads the query and shows the rows as a table.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  query:
    description:
      - The name of the query. Without it, or with one that is not there, the task ends with the list of them.
    type: str
  table:
    description:
      - Only of this table, C(name) or C(schema.name).
    type: str
  enum:
    description:
      - The enum type, C(name) or C(schema.name).
    type: str
  run:
    description:
      - The id of the run whose lines in the server's log are wanted, by C(server_log).
    type: str
  text:
    description:
      - The SQL of the query; the action plugin reads it from its file.
    type: str
  reads_rows:
    description:
      - Whether the query counts rows; it then runs as O(backup_user), which sees all of them, and is refused where a policy hides some.
        The action plugin reads it from the file.
    type: bool
    default: false
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: See the indexes of a table
  whitecross.pgops.inspect:
    databases: [white_cross]
    query: indexes
    table: students
"""

RETURN = r"""
databases:
  description: What was found, by database.
  returned: always
  type: dict
  contains:
    query:
      description: The name of the query.
      type: str
    columns:
      description: The names of its columns, in their order.
      type: list
      elements: str
    rows:
      description: Its rows, each with a value for every column.
      type: list
      elements: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Ask every database and leave with the rows."""
    module = pgops_module.create_module(
        {
            "query": {"type": "str"},
            "table": {"type": "str"},
            "enum": {"type": "str"},
            "run": {"type": "str"},
            "text": {"type": "str"},
            "reads_rows": {"type": "bool", "default": False},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import inspection
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

        name, text = module.params["query"], module.params["text"]
        if not (name and text):
            raise PgopsError("No query is named; the action plugin whitecross.pgops.inspect reads it from its file.")
        parameters = {parameter: module.params[parameter] for parameter in ("table", "enum", "run")}
        targets = pgops_module.targets(module)
        if module.params["reads_rows"]:
            targets = {database: target.as_backup() for database, target in targets.items()}
        return {
            "changed": False,
            "databases": {
                database: {"query": name, **inspection.inspect(target, text, parameters, name=name)}
                for database, target in targets.items()
            },
        }

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
