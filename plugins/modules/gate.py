# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: gate
short_description: Decide whether what is pending may be applied
version_added: 0.1.0
description:
  - Computes the risk of what M(whitecross.pgops.plan) has found, from what is declared, what the statements are and what the newest rehearsal
    of the same SQL has shown, and looks for what an environment with a gate asks for - a rehearsal that ended well, the approvals of the
    level, an open window that the forecast fits into, and the signed evidence of the environment before.
  - What is missing is told with the command that gets it. In the stage V(gate) it ends the run; the same run goes on with C(pgops_run_id).
  - In an emergency C(gate_break_glass_reason), C(gate_break_glass_by) and C(gate_break_glass_expires), given with C(-e), let a run pass all of
    it; that is told in the report, the notification, the ledger and the audit.
  - The module reads rehearsals and the backup of the run on the inventory host; the action plugin decides on the ops host.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.tree.waiver
options:
  stage:
    description:
      - V(early) is right after the plan - what nobody signs away ends the run, and missing approvals are told.
      - V(gate) is before the apply. V(tell) tells the verdict of today and fails where it is a no, and V(look) never fails.
    type: str
    choices: [early, gate, tell, look]
    default: gate
  required:
    description:
      - Whether this environment asks for all of it. Those of C(pgops_production_environments) do where it is not given. Read by the action plugin.
    type: bool
  directory:
    description: The folder of the backups.
    type: path
    required: true
  environment:
    description: The run's environment; given by the action plugin.
    type: str
    default: ""
  wanted:
    description: For each database, version and checksum of its rendered SQL; given by the action plugin.
    type: dict
    default: {}
  backups:
    description: For each database, C(path) and C(manifest_sha256) of the backup that a run goes on with; given by the action plugin.
    type: dict
    default: {}
  backup_max_age_hours:
    description: An older backup is made anew when a run goes on. Read by the action plugin.
    type: float
    default: 24
  roles:
    description: Which roles approve a level, where not the platform's own. Read by the action plugin.
    type: dict
    default: {}
  signers:
    description: For each role, and for V(evidence), the allowed-signers file on the ops host. Read by the action plugin.
    type: dict
    default: {}
  approvals:
    description: The folder of the approvals on the ops host. Read by the action plugin.
    type: path
  rehearsal_required:
    description: Whether a rehearsal is asked for. Where the environment has the phase where it is not given. Read by the action plugin.
    type: bool
  rehearsal_max_age_hours:
    description: How old a rehearsal that is asked for may be. Read by the action plugin.
    type: float
    default: 168
  windows:
    description: As M(whitecross.pgops.plan) takes it. Read by the action plugin.
    type: list
    elements: dict
    default: []
  without_window:
    description: As M(whitecross.pgops.plan) takes it. Read by the action plugin.
    type: list
    elements: str
    default: [LOW]
  blackouts:
    description: As M(whitecross.pgops.plan) takes it. Read by the action plugin.
    type: list
    elements: str
    default: []
  evidence:
    description: As M(whitecross.pgops.plan) takes it. Read by the action plugin.
    type: path
  soak_hours:
    description: For how long a version has to have run in the environment before. Read by the action plugin.
    type: float
    default: 24
  rehearsed_before:
    description: Whether it has to have been rehearsed in the environment before. Read by the action plugin.
    type: bool
    default: true
  rehearse_first:
    description: Whether a shut window and lacking evidence are only told right after the plan, and end the run at the gate. Read by the action plugin.
    type: bool
    default: false
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Ask whether what is pending may be applied
  whitecross.pgops.gate:
    directory: /var/backups/pgops
    signers: {database_admin: /etc/pgops/signers/database_admin, executive: /etc/pgops/signers/executive}
"""

RETURN = r"""
databases:
  description: The verdict on each database that has something pending, under C(gate).
  returned: always
  type: dict
  contains:
    risk:
      description: V(LOW), V(MEDIUM), V(HIGH) or V(CRITICAL).
      type: str
    reasons:
      description: Why, the highest first, each with its C(level), C(source) and C(why).
      type: list
      elements: dict
    allowed:
      description: Whether it may be applied.
      type: bool
    missing:
      description: What is missing, each with C(kind), C(what) and the C(command) that gets it.
      type: list
      elements: dict
    roles:
      description: The roles that have to approve it.
      type: list
      elements: str
    approvals:
      description: The approvals that hold, each with C(role), C(by), C(key), C(made), C(expires) and C(file).
      type: list
      elements: dict
    window:
      description: Whether it may begin now (C(open)), and what is C(shut), version and why.
      type: dict
    promotion:
      description: C(from), the environment before, C(signed_by) and what is C(lacking).
      type: dict
    rehearsal:
      description: The rehearsal that was read, its C(id), C(at), C(ok) and C(forecast); V(null) without one.
      type: dict
    break_glass:
      description: V(null), or C(reason), C(by) and C(expires).
      type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Read what lies beside the backups and leave with it."""
    module = pgops_module.create_module(
        {
            **pgops_module.WAIVER_OPTIONS,
            "stage": {"type": "str", "choices": ["early", "gate", "tell", "look"], "default": "gate"},
            "required": {"type": "bool"},
            "directory": {"type": "path", "required": True},
            "environment": {"type": "str", "default": ""},
            "host": {"type": "str", "default": ""},
            "wanted": {"type": "dict", "default": {}},
            "backups": {"type": "dict", "default": {}},
            "backup_max_age_hours": {"type": "float", "default": 24},
            "roles": {"type": "dict", "default": {}},
            "signers": {"type": "dict", "default": {}},
            "approvals": {"type": "path"},
            "rehearsal_required": {"type": "bool"},
            "rehearsal_max_age_hours": {"type": "float", "default": 168},
            "windows": {"type": "list", "elements": "dict", "default": []},
            "without_window": {"type": "list", "elements": "str", "default": ["LOW"]},
            "blackouts": {"type": "list", "elements": "str", "default": []},
            "evidence": {"type": "path"},
            "soak_hours": {"type": "float", "default": 24},
            "rehearsed_before": {"type": "bool", "default": True},
            "rehearse_first": {"type": "bool", "default": False},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import gate_evidence

        given = module.params
        found: dict[str, dict[str, Any]] = {}
        for database, wanted in given["wanted"].items():
            backup = given["backups"].get(database)
            found[database] = {
                "rehearsal": gate_evidence.newest_rehearsal(
                    given["directory"], given["environment"], given["host"], database, wanted
                ),
                "backup": gate_evidence.kept_backup(backup["path"], backup.get("manifest_sha256")) if backup else None,
            }
        return {"changed": False, "databases": found}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
