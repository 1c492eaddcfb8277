# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: rehearsal_actual
short_description: Hold what an apply took against its rehearsal
version_added: 0.1.0
description:
  - Puts the seconds of each step beside those that the rehearsal of the same run foretold, and notes both beside the rehearsal, so that the
    next forecast for the same two servers knows how far this one was off. No database is asked.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  files:
    description:
      - The rehearsal of each database, as M(whitecross.pgops.rehearse) has kept it. Filled by the action plugin.
    type: dict
    default: {}
  applied:
    description:
      - What M(whitecross.pgops.apply) has applied, by database. Filled by the action plugin.
    type: dict
    default: {}
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Learn from an apply
  whitecross.pgops.rehearsal_actual:
    databases: [white_cross]
"""

RETURN = r"""
databases:
  description: Forecast and actual, by database.
  returned: always
  type: dict
  contains:
    steps:
      description: Each step with C(version), C(step), C(forecast), C(low), C(high) and C(actual) seconds, and whether it was C(within) its band.
      type: list
      elements: dict
    forecast_s:
      description: Seconds that were foretold for all of them.
      type: float
    actual_s:
      description: Seconds that they took.
      type: float
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Compare, note and leave with both."""
    module = pgops_module.create_module(
        {"files": {"type": "dict", "default": {}}, "applied": {"type": "dict", "default": {}}}
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import rehearsal_actual

        given = module.params
        databases = {
            name: rehearsal_actual.compare(given["files"][name], applied, keep=not module.check_mode)
            for name, applied in given["applied"].items()
            if name in given["files"]
        }
        return {"changed": False, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
