# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: migration_lint
short_description: Check migrations, and SQL files of any tool, before they run
version_added: 0.1.0
description:
  - Reads every migration of a tree, renders its templates, parses the SQL with PostgreSQL's own grammar, and lists every fault with
    its file and line.
  - It finds what is wrong with the files (unknown keys, missing files, two folders with one version, an undeclared template
    variable, a syntax error) and what would hurt a running database (an index that is not built concurrently, a constraint that is
    validated under its lock, a column whose default rewrites the table, a foreign key without an index).
  - With O(paths) it reads SQL files of any other tool instead, a statement at a time as a session would run them.
  - The pages write-a-migration and lint of the documentation list the rules by name.
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
  paths:
    description:
      - SQL files, and folders that hold C(*.sql) at any depth, in the place of the tree.
    type: list
    elements: path
    default: []
  report:
    description:
      - Files to write besides. C(.sarif) is SARIF 2.1.0, C(.xml) JUnit, C(.json) JSON.
    type: list
    elements: path
    default: []
  levels:
    description:
      - Another level for a rule of SQL files by its id - V(error), V(warning), V(note) or V(off).
    type: dict
    default: {}
  together:
    description:
      - The files of O(paths) run one after the other on one database, so that a table of one is new for the next.
    type: bool
    default: false
  catalog:
    description:
      - Whether the database is asked that C(pgops_host) and C(pgops_database) name. Without it, where one of them is given on the command
        line; V(false) reads the files alone.
    type: bool
  transaction:
    description:
      - How a file of O(paths) is run whose own marks do not tell.
      - With V(auto) its name and its folder tell - C(V1__x.sql) of Flyway, C(000001_x.up.sql) of golang-migrate, C(2024_x/migration.sql)
        of Prisma and others are one transaction each, any other file is run a statement at a time.
      - With V(file) each file is one transaction, with V(statement) none is.
    type: str
    choices: [auto, file, statement]
    default: auto
  ways_down:
    description:
      - Read the ways down among O(paths) too, C(x.down.sql) and Flyway's C(U1__x.sql), which are left out otherwise.
    type: bool
    default: false
attributes:
  check_mode:
    description: It reads only.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
notes:
  - This is an action plugin. A database is asked only with O(catalog), by M(whitecross.pgops.lint_facts), in one read-only transaction.
seealso:
  - module: whitecross.pgops.new_migration
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Check the migrations of this repository
  whitecross.pgops.migration_lint:
    sql: sql

- name: Check the files of another tool, and leave a report for the code review
  whitecross.pgops.migration_lint:
    paths: [db/migrations]
    report: [lint.sarif]
"""

RETURN = r"""
directory:
  description: The folder that was read.
  returned: without O(paths)
  type: str
versions:
  description: The versions found, in the order in which they run.
  returned: without O(paths)
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
notes:
  description: How many findings are notes.
  returned: with O(paths)
  type: int
files:
  description: How many files were read.
  returned: with O(paths)
  type: int
left_out:
  description: How many ways down were left out.
  returned: with O(paths)
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
    level:
      description: V(error), V(warning) or V(note).
      type: str
    severity:
      description: The same, for a tree.
      type: str
    message:
      description: What is wrong and what to do about it.
      type: str
score:
  description: How many of the ten criteria of quality are met.
  returned: without O(paths)
  type: int
criteria:
  description: The ten criteria.
  returned: without O(paths)
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
