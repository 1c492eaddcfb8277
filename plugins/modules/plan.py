# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: plan
short_description: Compare the ledger of a database with the tree of migrations
version_added: 0.1.0
description:
  - Tells which versions are pending, which of them goes on at which step, and how risky they are; writes nothing, not even the ledger.
  - Refuses an applied version whose files were edited (with the difference to the stored text) or are missing, a new version that
    sorts before an applied one, a version that is half reverted, and an unknown target.
  - Refuses as well a database that is not encoded in UTF8, and one that has the tables of the first version in another schema.
  - Returns the state that must not move until the versions are applied.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.tree
  - whitecross.pgops.tree.selection
  - whitecross.pgops.tree.waiver
options:
  evidence:
    description:
      - The file on the ops host in which the environment before told what it has applied and verified. In an environment of
        C(pgops_production_environments), a pending version that is not in it with the same files ends the run.
      - Read by the action plugin; C(evidence/<environment>.json) below C(pgops_state_directory) where it is not given.
    type: path
  windows:
    description:
      - When a version may begin, each with C(opens), a moment in the calendar syntax of systemd with a time zone, C(lasts), and
        C(risks) where it is not for all of them. Read by the action
        plugin, which refuses what needs a window while all are shut or does not fit into what is left of it.
    type: list
    elements: dict
    default: []
  without_window:
    description:
      - The risks that need no window. A version that is expected to make clients wait for more than a minute always needs one, and in
        an environment of C(pgops_production_environments) also where none is declared. Read by the action plugin.
    type: list
    elements: str
    default: [LOW]
  blackouts:
    description:
      - Days on which nothing begins, each with a time zone; V(2026-12-24..2027-01-02 Europe/Berlin). Read by the action plugin.
    type: list
    elements: str
    default: []
  strategy:
    description:
      - V(blue_green) tells what C(blue_green.yml) would apply, or bring by a change-over that is prepared; O(target), O(steps) and
        O(allow_out_of_order) choose nothing there.
    type: str
    choices: [online, blue_green]
    default: online
  only_tell:
    description:
      - Tell what would end the run, lint included, and go on; for a playbook that applies nothing. C(migrate.yml) and a change-over are not let
        off by it. Read by the action plugin.
    type: bool
    default: false
  reviewed_by:
    description:
      - Which database administrator has reviewed the pending versions; kept in the ledger and the report. Read by the action plugin.
    type: str
  review_required:
    description:
      - Refuse pending versions that nobody has reviewed. Read by the action plugin.
    type: bool
    default: false
  own_evidence:
    description:
      - The file that M(whitecross.pgops.verify) is given in this run. One that is another environment's ends the run before anything is applied.
      - Read by the action plugin.
    type: path
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: See what is pending
  whitecross.pgops.plan:
    databases: [white_cross]
    target: "20251103204744"
"""

RETURN = r"""
databases:
  description: The plan, by database.
  returned: always
  type: dict
  contains:
    pending:
      description: Versions to apply, in order, each with the checksum of its files and of its rendered SQL, title, why, risk, phi, rollback,
        expected seconds (and the rows they are for), whether it is to be split, steps, the step to resume at, and how it began where it
        stopped half-way. The action plugin adds C(changes), what its statements are, and C(level) and C(reasons), the risk that is
        computed from these and what is declared.
      type: list
      elements: dict
    later:
      description: Pending versions that O(target), O(steps) or a contract that waits leave for another run.
      type: list
      elements: str
    waiting:
      description: The contract whose time has not come, with V(version), V(name) and V(why); what sorts behind it is in RV(databases.later).
      type: list
      elements: dict
    applied:
      description: Versions that are applied.
      type: list
      elements: str
    risk:
      description: The highest risk that the pending versions declare.
      type: str
    findings:
      description: What lint finds in the pending versions. Added by the action plugin.
      returned: where it finds something
      type: list
      elements: dict
    level:
      description: The highest of their computed levels, V(LOW), V(MEDIUM), V(HIGH) or V(CRITICAL). Added by the action plugin.
      returned: where something is pending
      type: str
    waived:
      description: What the run was let off, with version and reason.
      returned: where O(waive) names a pending version
      type: list
      elements: dict
    reviewed_by:
      description: Who has reviewed the pending versions.
      returned: where O(reviewed_by) is given and a version is pending
      type: str
    state:
      description: Ledger head, catalog fingerprint and checksum of the rendered SQL.
      type: dict
    tables:
      description: Tables that the pending versions name.
      type: list
      elements: str
    table_bytes:
      description: Of those that are there the bytes, with indexes and partitions.
      type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Compare and leave with the plan of each database."""
    module = pgops_module.create_module(
        {
            **pgops_module.TREE_OPTIONS,
            **pgops_module.SELECTION_OPTIONS,
            **pgops_module.WAIVER_OPTIONS,
            "evidence": {"type": "path"},
            "windows": {"type": "list", "elements": "dict", "default": []},
            "without_window": {"type": "list", "elements": "str", "default": ["LOW"]},
            "blackouts": {"type": "list", "elements": "str", "default": []},
            "strategy": {"type": "str", "choices": ["online", "blue_green"], "default": "online"},
            "only_tell": {"type": "bool", "default": False},
            "reviewed_by": {"type": "str"},
            "review_required": {"type": "bool", "default": False},
            "own_evidence": {"type": "path"},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import plan, preview, strategies_of_versions

        given = module.params
        run_id = given["run_id"] or "plan"
        selection = plan.Selection(
            given["target"],
            given["steps"],
            given["allow_out_of_order"],
            pgops_module.waived(module, "contract"),
            list(pgops_module.waived(module, "schema")),
        )
        databases = {}
        diff = []
        for name, target in pgops_module.targets(module).items():
            if given["strategy"] == strategies_of_versions.BLUE_GREEN:
                # Most plans are none of these, and each import costs.
                from ansible_collections.whitecross.pgops.plugins.module_utils import blue_green_versions

                found = blue_green_versions.planned(blue_green_versions.looking(target, run_id), given["migrations"])
            else:
                found = preview.preview(target, given["migrations"], selection, run_id=run_id)
            prepared = found.pop("prepared")
            if prepared:
                diff.append({"prepared": prepared})
            databases[name] = found
        return {"changed": False, "databases": databases, "diff": diff}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
