# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: phi_window
short_description: Have statements logged while a migration touches PHI
version_added: 0.2.0
description:
  - C(assessed) refuses a migration that touches PHI for which nobody has named an assessment, a security review, the privacy officer who
    signed it off, and how the data are encrypted at rest. It reaches no host. A run that applies nothing is told so, and goes on.
  - C(open) has every statement of the cluster logged, by pgaudit where the server has loaded it and by C(log_statement) otherwise, and
    C(close) puts the settings back and tells which sessions were seen. What stood there is kept on the ops host before
    anything is changed; the end of any later run puts it back where a run was killed in between.
  - Works as O(restore_user), which has to be a superuser.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  state:
    description: V(assessed), V(open) or V(closed). The action plugin looks by V(look) first.
    type: str
    choices: [assessed, look, open, closed]
    default: look
  assessment:
    description: What was assessed, by name. The action plugin reads V(privacy_assessment), V(security_review), V(privacy_officer) and V(encryption_at_rest).
    type: dict
    default: {}
  logging:
    description: How it is logged. The action plugin fills it in.
    type: str
  before:
    description: The settings that are put back. The action plugin fills it in.
    type: dict
    default: {}
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Log what is done while PHI is touched
  whitecross.pgops.phi_window:
    state: open
"""

RETURN = r"""
databases:
  description: What was seen, by database.
  returned: always
  type: dict
  contains:
    phi_window:
      description: How it was logged, when it was opened and closed, the sessions seen (no text of a query), encryption in transit and at rest.
      type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Look, open or close on the cluster of the first database."""
    module = pgops_module.create_module(
        {
            "state": {"type": "str", "choices": ["assessed", "look", "open", "closed"], "default": "look"},
            "assessment": {"type": "dict", "default": {}},
            "logging": {"type": "str"},
            "before": {"type": "dict", "default": {}},
        }
    )

    def work() -> dict[str, Any]:
        from contextlib import closing

        from ansible_collections.whitecross.pgops.plugins.module_utils import locks, phi_window
        from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect

        given, targets = module.params, pgops_module.targets(module)
        first, names = next(iter(targets.values())), list(targets)
        with closing(
            connect(first.maintenance(), application_name=locks.application_name(given["run_id"] or "phi"))
        ) as conn:
            if given["state"] == "open":
                found = phi_window.open_window(conn, given["logging"], names)
            elif given["state"] == "closed":
                found = phi_window.close_window(conn, given["before"], names)
            else:
                found = phi_window.look(conn)
        return {"changed": False, "databases": {name: {"phi_window": found} for name in names}}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
