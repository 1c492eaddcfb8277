# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_report
short_description: Leave one page over all hosts, from what their runs have left
version_added: 0.2.0
description:
  - Reads the reports, journals and timers of every environment that the inventory has hosts of, on the ops host, and leaves a page and the same as
    JSON, the worst database first.
  - No host and no database is asked. A file that is broken or missing is named on the page and fails nothing.
options:
  output:
    description: The page; its name ends in C(.html), and the JSON gets the same name with C(.json).
    type: path
  days:
    description: How many days back runs are read.
    type: float
    default: 90
attributes:
  check_mode:
    description: Reads and tells, and writes nothing.
    support: full
notes:
  - This is an action plugin; nothing is sent to a host.
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Leave the page of the last month
  whitecross.pgops.fleet_report:
    output: /srv/www/fleet.html
    days: 30
"""

RETURN = r"""
fleet:
  description: >-
    V(at), V(days), V(reports) that were read, V(levels) with how many databases are at each, V(members) with the worst first, V(timers), by month
    how migrations and rollbacks ended as V(outcomes), the runs without a
    report as V(unfinished), and the files that could not be read as V(unreadable).
  returned: always
  type: dict
page:
  description: Where the page is; null in check mode.
  returned: always
  type: str
"""
