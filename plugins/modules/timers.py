# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: timers
short_description: Tell when each timer of an environment has run, and which one stands still
version_added: 0.1.0
description:
  - Reads what M(whitecross.pgops.schedule) has left on this host and the heartbeat of each run, and asks systemd for the next one.
  - Reaches no database and writes nothing.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  environment:
    description:
      - The environment whose timers these are.
    type: str
    required: true
  state_directory:
    description:
      - C(pgops_state_directory) of this host.
    type: path
    required: true
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Look at the timers of staging
  whitecross.pgops.timers:
    databases: [white_cross]
    environment: staging
    state_directory: /var/lib/pgops
"""

RETURN = r"""
timers:
  description:
    - Each with C(name), C(on_calendar), C(unit), C(state), C(why), C(last_run), C(result), C(last_success), C(expected_every_s), C(next)
      and C(look), the command that shows more.
    - C(state) is V(ok), V(waiting) where its first run is still to come, V(failed), V(missed) or V(stopped).
  returned: always
  type: list
  elements: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Read and leave with a row a timer."""
    module = pgops_module.create_module(
        {"environment": {"type": "str", "required": True}, "state_directory": {"type": "path", "required": True}}
    )

    def work() -> dict[str, Any]:
        from datetime import datetime, timezone

        from ansible_collections.whitecross.pgops.plugins.module_utils import timer_look
        from ansible_collections.whitecross.pgops.plugins.module_utils.timer_state import TimerPlace

        place = TimerPlace(module.params["state_directory"], module.params["environment"])
        rows = timer_look.rows(place, datetime.now(timezone.utc))
        return {"changed": False, "timers": rows}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
