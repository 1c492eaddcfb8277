# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: migration_lint
short_description: Check a tree of migrations without a database
version_added: 0.1.0
description:
  - Reads every migration of a tree, renders its templates, parses the SQL with PostgreSQL's own grammar, and lists every fault with
    its file and line.
  - It finds what is wrong with the files (unknown keys, missing files, two folders with one version, an undeclared template
    variable, a syntax error) and what would hurt a running database (an index that is not built concurrently, a constraint that is
    validated under its lock, a column whose default rewrites the table, a foreign key without an index).
  - The page write-a-migration of the documentation lists the rules by name.
options:
  sql:
    description:
      - The folder that holds C(migrations/).
      - Filled from C(pgops_sql); the collection's own C(sql/) where neither is set.
    type: path
  variables:
    description:
      - Values for variables that migrations declare, instead of their defaults.
    type: dict
    default: {}
attributes:
  check_mode:
    description: It reads only.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
notes:
  - This is an action plugin; nothing is sent to a host and no database is asked.
seealso:
  - module: whitecross.pgops.new_migration
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Check the migrations of this repository
  whitecross.pgops.migration_lint:
    sql: sql
"""

RETURN = r"""
directory:
  description: The folder that was read.
  returned: always
  type: str
versions:
  description: The versions found, in the order in which they run.
  returned: always
  type: list
  elements: str
errors:
  description: How many findings are errors; the task fails if there is one.
  returned: always
  type: int
warnings:
  description: How many findings are warnings.
  returned: always
  type: int
findings:
  description: What was found, sorted by place.
  returned: always
  type: list
  elements: dict
  contains:
    file:
      description: The file, below the folder of the migrations.
      type: str
    line:
      description: Its line, 0 where a fault has none.
      type: int
    rule:
      description: The name of the rule.
      type: str
    severity:
      description: V(error) or V(warning).
      type: str
    message:
      description: What is wrong and what to do about it.
      type: str
score:
  description: How many of the ten criteria of quality are met.
  returned: always
  type: int
criteria:
  description: The ten criteria.
  returned: always
  type: list
  elements: dict
  contains:
    title:
      description: What it asks for.
      type: str
    met:
      description: Whether no finding says otherwise, warnings included.
      type: bool
    rules:
      description: The rules whose findings say otherwise.
      type: list
      elements: str
"""
