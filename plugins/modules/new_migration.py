# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: new_migration
short_description: Write the files of a new migration
version_added: 0.1.0
description:
  - Makes a folder below C(migrations/) with metadata, up, down and verification, under a version that is the time in UTC and later
    than every version that exists.
  - The files explain themselves, pass M(whitecross.pgops.migration_lint), and can be applied and reverted at once; they change
    nothing until they are edited.
  - With a pattern the files are those of C(sql/scaffold/patterns/), filled in with the variables that the pattern asks for; some
    patterns make several versions, which are deployed one after the other. The page of each is in C(docs/patterns/).
  - It never overwrites a migration.
options:
  name:
    description:
      - What the migration does, in lower case letters, digits and underscores, such as V(add_student_nickname).
      - Filled from C(new_migration_name) by the playbook of the same name.
    type: str
    required: true
  pattern:
    description:
      - A change that is done without downtime, such as V(rename_column); the name of a page in C(docs/patterns/).
      - Filled from C(new_migration_pattern) by the playbook of the same name.
    type: str
  variables:
    description:
      - What the pattern asks for, such as C(table) and C(column); C(sql/scaffold/patterns/patterns.yml) lists it.
      - Filled from C(new_migration_table), C(new_migration_column) and so on where it is not set.
      - A name is given without quotes and gets them where it needs them.
    type: dict
  sql:
    description:
      - The folder that holds C(migrations/).
      - Filled from C(pgops_sql); the collection's own C(sql/) where neither is set.
    type: path
attributes:
  check_mode:
    description: Writes nothing.
    support: full
  diff_mode:
    description: Shows each file.
    support: full
notes:
  - This is an action plugin; nothing is sent to a host and no database is asked.
  - Each run makes another migration, so it is not idempotent; a name that exists already is refused.
seealso:
  - module: whitecross.pgops.migration_lint
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Write the files of a migration
  whitecross.pgops.new_migration:
    name: add_student_nickname

- name: Write the three migrations that rename a column
  whitecross.pgops.new_migration:
    name: rename_student_gender
    pattern: rename_column
    variables:
      table: students
      column: gender
      to: sex
      type: public."Gender"
"""

RETURN = r"""
version:
  description: The version, the first of several.
  returned: success
  type: str
name:
  description: The name.
  returned: success
  type: str
path:
  description: The folder.
  returned: success
  type: str
files:
  description: The files in it.
  returned: success
  type: list
  elements: str
migrations:
  description: Each migration that was written, in their order.
  returned: success
  type: list
  elements: dict
  contains:
    version:
      description: The version.
      type: str
    name:
      description: The name.
      type: str
    path:
      description: The folder.
      type: str
    files:
      description: The files in it.
      type: list
      elements: str
next:
  description: What to type next.
  returned: success
  type: list
  elements: str
"""
