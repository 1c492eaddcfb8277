# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: physical_restore
short_description: Take a cluster back to a restore point or a moment, by pgBackRest
version_added: 0.1.0
description:
  - Looks for the restore point in the archived WAL, for the backup before it, its chain and every WAL segment between. What is missing is
    refused before anything is touched.
  - Restores into a folder beside the live data directory and stops at the target. Looks that it was reached, promotes, compares, carries
    the history across.
  - Stops the live server, puts the restored folder in its place by two renames, and starts it - same port, same configuration. The old
    folder is kept, and a server that is started in it takes no writes.
  - With O(state=resumed) a change that was cut off is finished, or undone. Where another target is given than that of the change, it is
    refused. What was cut off before the live server was stopped is not finished - the server has served on.
  - The whole cluster goes back. Other databases in it than those that are named are refused unless O(whole_cluster).
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.physical
options:
  state:
    description:
      - What to do.
    type: str
    choices: [disclosed, restored, resumed]
    default: restored
  restore_point:
    description:
      - The name of the restore point to go back to.
    type: str
  time:
    description:
      - The moment to go back to, with its offset.
    type: str
  kept_cluster:
    description:
      - The folder of a cluster that an earlier call has put aside; it takes the place again.
    type: path
  whole_cluster:
    description:
      - Go on though databases go back that were not named.
    type: bool
    default: false
  reason:
    description:
      - Why, for the audit. Filled by the action plugin with C(rollback_reason).
    type: str
  directory:
    description:
      - The folder on the host that holds the proofs of the backups.
    type: path
  level_required:
    description:
      - The level of M(whitecross.pgops.physical_prove) to which the backup that is restored must have been proved. Of several backups before the
        target the newest that was is taken; where none was, it is refused. Filled by the action plugin, in production with 4 at least.
    type: int
  break_glass:
    description:
      - Why a backup is taken that is not proved so far. It is in the audit of the restored database and in the report.
    type: str
    default: ""
  strategy:
    description:
      - With O(state=resumed), what the rollback was asked for.
    type: str
    choices: [pitr, unfence]
    default: pitr
  confirmed:
    description:
      - With O(state=resumed), whether the databases were named. Filled by the action plugin, which takes O(answer).
    type: bool
    default: false
  answer:
    description:
      - With O(state=resumed), the name of the database, several with commas; anything else confirms nothing. Read by the action plugin.
    type: raw
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Go back to before the migration
  whitecross.pgops.physical_restore:
    databases: [white_cross]
    restore_user: postgres
    stanza: main
    restore_point: pgops_20261122T120000Z-0a1b2c
"""

RETURN = r"""
databases:
  description: What was found or done, by database.
  returned: always
  type: dict
  contains:
    state:
      description: With O(state=resumed), V(nothing), V(completed), V(lifted), or in check mode V(cut_off). V(nothing) also where a change was
        cut off before the server was stopped; the rollback begins anew.
      type: str
    left:
      description: With O(state=resumed), the folder of the restored cluster that was not taken.
      type: str
    target:
      description: Where it goes back to, in words.
      type: str
    plan:
      description: With O(state=disclosed), the backup, the timeline, and how much WAL.
      type: dict
    proof_level:
      description: With O(state=disclosed), the level to which the backup is proved; null where it never was.
      type: int
    lets_off:
      description: With O(state=disclosed), what O(break_glass) lets off.
      type: str
    break_glass:
      description: Reason and what it has let off, where O(break_glass) was needed.
      type: dict
    standbys:
      description: With O(state=disclosed), the standbys that have to be made anew.
      type: list
      elements: str
    synchronous:
      description: C(synchronous_standby_names), where commits wait for standbys. Behind a change the restored cluster's own.
      type: str
    slots:
      description: With O(state=disclosed), C(name), C(plugin) and C(database) of the slots of logical replication, which do not go along.
      type: list
      elements: dict
    subscriptions:
      description: With O(state=disclosed), C(name) and C(database) of the subscriptions, and whether each is C(enabled).
      type: list
      elements: dict
    others:
      description: The databases that go back too; with O(state=restored) also those that were there before.
      type: list
      elements: str
    lost:
      description:
        - With O(state=restored), by table its rows before (V(now)) and after (V(then)), where they differ; null where the live database
          cannot be read.
      type: dict
    lost_unknown:
      description: Why it is not known what was lost.
      type: str
    unreadable:
      description: With O(state=disclosed), the databases that cannot be read, so that what their sequences have given out is not known.
      type: list
      elements: str
    sequences:
      description:
        - With O(state=restored), the sequences that go on behind what the live database has given out - C(moved), each with C(from) and C(to),
          and C(left), each with C(why). Only C(why) where it is not known what they have given out.
      type: dict
    versions:
      description: With O(state=restored), the versions that the restored ledger has applied.
      type: list
      elements: str
    history:
      description: Audit rows and runs that were carried across, or why they were not.
      type: dict
    outage_ms:
      description: From the stop of the live server to the answer of its successor, in milliseconds.
      type: float
    restore_seconds:
      description: How long it took to restore, replay and compare.
      type: float
    kept:
      description: The folder of the cluster that was replaced.
      type: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Disclose, restore or resume; the cluster of all the databases is one."""
    module = pgops_module.create_module(
        {
            **pgops_module.PHYSICAL_OPTIONS,
            "state": {"type": "str", "choices": ["disclosed", "restored", "resumed"], "default": "restored"},
            "restore_point": {"type": "str"},
            "time": {"type": "str"},
            "kept_cluster": {"type": "path"},
            "whole_cluster": {"type": "bool", "default": False},
            "reason": {"type": "str"},
            "directory": {"type": "path"},
            "level_required": {"type": "int"},
            "break_glass": {"type": "str", "default": ""},
            "strategy": {"type": "str", "choices": ["pitr", "unfence"], "default": "pitr"},
            "confirmed": {"type": "bool", "default": False},
            "answer": {"type": "raw"},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import (
            cluster_company,
            cluster_comparison,
            cluster_resume,
            locks,
            pgbackrest,
            physical_rollback,
        )
        from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import end_on_sigterm

        progress, control = pgops_module.job(module)
        end_on_sigterm(control)
        given = module.params
        targets = pgops_module.targets(module)
        tool = pgbackrest.of(given, progress, control)
        if given["state"] == "resumed":
            asked = cluster_resume.Asked(
                given["strategy"], given["confirmed"], given["restore_point"], given["time"], given["kept_cluster"]
            )
            found = cluster_resume.resume(
                tool.config, tool.stanza, tool.user, list(targets), asked, pretend=module.check_mode
            )
            noted: dict[str, Any] = {}
            if found.get("returned_to"):
                record = cluster_comparison.Record(given["run_id"] or "by-hand", found["returned_to"])
                noted = cluster_comparison.record_return(targets.values(), record)
            if found["state"] == "completed":
                name = locks.application_name(given["run_id"] or "by-hand")
                found["synchronous"] = cluster_company.awaited(next(iter(targets.values())), name)
            databases = {name: {**found, **noted.get(name, {})} for name in targets}
            return {"changed": found["state"] in ("completed", "lifted"), "databases": databases}
        request = physical_rollback.Request(
            given["run_id"] or "by-hand",
            given["restore_point"],
            given["time"],
            given["kept_cluster"],
            given["whole_cluster"],
            given["archive_timeout"],
            given["reason"],
            given["directory"],
            given["level_required"] or 0,
            given["break_glass"],
        )
        asked_for = physical_rollback.Work(targets, tool, request)
        if given["state"] == "disclosed" or module.check_mode:
            found = physical_rollback.disclose(asked_for)
            return {"changed": given["state"] != "disclosed", "databases": dict.fromkeys(targets, found)}
        done = physical_rollback.roll_back(asked_for)
        compared = done.pop("databases", {})
        return {"changed": True, "databases": {name: {**done, **compared.get(name, {})} for name in targets}}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
