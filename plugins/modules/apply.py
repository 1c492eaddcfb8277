# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: apply
short_description: Apply the pending versions of the tree of migrations to a database
version_added: 0.1.0
description:
  - Applies version after version, step after step, and stops at the first failure. A step of SQL is one transaction together with the
    ledger's row about it; indexes are built concurrently, data is changed in batches, constraints are validated outside.
  - Asks for locks with a short C(lock_timeout) and gives way, until a budget is used up; waits for another run, bounded, and names it.
  - What failed or was cut off (also by C(kill -9) of the module or the server) goes on at its step when it is run again. With
    O(reconnect) a run whose connection is lost goes on by itself.
  - With nothing pending it writes nothing. In check mode it returns the exact SQL as a diff and writes nothing.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.tree
  - whitecross.pgops.tree.selection
  - whitecross.pgops.tree.waiver
  - whitecross.pgops.ledger_run
  - whitecross.pgops.limits
options:
  expected:
    description:
      - The state of each database when its backup was taken, by database - C(ledger_head), C(catalog_fingerprint), C(rendered_checksum).
      - Compared under the lock before the first write; if something moved, nothing is applied. Filled by the action plugin.
    type: dict
    default: {}
  orphans:
    description:
      - What becomes of rows without a parent when a version adds a foreign key. V(stop) counts them before and stops, with ten ids and
        the query; V(quarantine) moves them, in the transaction that adds the foreign key, to a table in the schema C(pgops). The way
        down of that version puts them back. V(placeholder) makes, in that transaction, the parent that the version declares; the way
        down takes away those that nobody changed or uses. Where a version declares none, V(placeholder) stops.
    type: str
    choices: [stop, quarantine, placeholder]
    default: stop
  reconnect:
    description:
      - For how long after a lost connection the run waits for a server that takes writes, in seconds. It takes the lock again, looks in the
        ledger what became of the step in hand, and goes on there; what was committed is not done twice.
      - It ends instead where another run has taken over or changed the ledger, where what it had applied is not there (a failover lost
        it), where another cluster answers, and where a step loses the connection a second time with nothing done in between.
      - V(0) never connects again; the next run goes on.
    type: float
    default: 0
  batches:
    description:
      - The databases in batches, in their order; one batch of all O(databases) where it is not given. Filled by the action plugin from
        C(migrate_canary) and C(migrate_batches).
    type: list
    elements: list
    default: []
  health:
    description:
      - What a batch may cost the clients. Given, they are looked at after each batch, and the next one is begun only where they are well.
      - Besides, no index may have become invalid, the clients may not all be gone, and the applied versions' own verification must pass.
      - Filled by the action plugin for a run in batches.
    type: dict
    suboptions:
      pause:
        description: For how long clients are watched after a batch, in seconds.
        type: float
        default: 5
      error_rate:
        description: How many of a database's transactions may roll back meanwhile, in percent; twice its usual share where that is more, but no more than so many beyond it.
        type: float
        default: 5
      probe:
        description: A query of the application, which is run read-only and must not fail.
        type: str
      probe_limit:
        description: How long the probe may take, in milliseconds, in the median of three.
        type: float
        default: 1000
      replication_lag:
        description: How far a standby may be behind, in seconds; it gets a minute to catch up.
        type: float
        default: 30
      performance:
        description: How much slower the probe may be than before, in percent; only a watch knows what it was.
        type: float
        default: 50
  judged_again:
    description:
      - Databases of the canary with nothing pending, each with versions that it has and others of this call have not. They are looked at as
        after a batch before the others follow. Filled by the action plugin.
    type: dict
    default: {}
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Apply what is pending
  whitecross.pgops.apply:
    databases: [white_cross]
"""

RETURN = r"""
databases:
  description: What was applied, by database.
  returned: always
  type: dict
  contains:
    applied:
      description:
        - Versions applied by this call, each with its duration in seconds, the seconds that it expects, the objects that were there already, the rows that were
          moved to quarantine and the placeholders that were made, the indexes that were built with their bytes and seconds, under C(indexes_by_sql)
          the names of those that its SQL made, and notes - an index that is there under another name, an invalid one of somebody else.
          Under C(step_durations) when each step began and its seconds; of a backfill also its rows, batches and last batch size, what was left before
          and after, and how long it paused or slowed down for what. Under C(terminated) the idle sessions that were ended.
      type: list
      elements: dict
    stopped:
      description: The version that stopped - V(version), V(name), V(state), V(duration_s), and of what is done of it C(step_durations), the rows that were
        moved to quarantine and the placeholders that were made.
      returned: on failure
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
    tables:
      description: Tables that the applied versions name.
      type: list
      elements: str
    health:
      description: How the clients were after the batch - V(error_rate), V(transactions), V(probe_ms), V(replication_lag_s), V(findings).
      returned: with O(health), where something was applied
      type: dict
    audit:
      description: Number and hash of the last audit row, to be kept outside the database.
      type: dict
    model_changes:
      description: What the application's models are to follow - tables, views, columns, enum values, foreign keys; C(kind), C(change), C(object),
        C(before), C(after). Columns of a table that is new or gone are not told one by one. Null where somebody held a table for longer than a second.
      type: list
      elements: dict
    reconnected:
      description: Each loss of the connection after which the run went on - V(version) and V(step) in hand, V(lost_at) in UTC, V(waited_s).
      type: list
      elements: dict
    client_waits:
      description: What a look each second has seen of clients that waited for a lock of the run - V(looks), V(waits), V(longest_s) as far as it was
        seen, and the V(seconds) of work that they cover. A wait between two looks is not seen.
      type: dict
    ledger_head:
      description: sha256 over version, checksum and state of all rows of the ledger.
      type: str
applied:
  description: Versions of this call that are applied.
  returned: on failure
  type: list
  elements: str
not_applied:
  description: Versions of this call that are not applied; the first is the one that stopped.
  returned: on failure
  type: list
  elements: str
reason:
  description: >-
    V(failed), V(lock_wait), V(time_limit), V(interrupted), V(connection_lost), V(busy), V(moved), V(orphans), V(broken_rows), V(disk),
    V(duplicates), V(deadlock), V(partitioned), V(unwell), V(not_looked_at) or why the plan was refused.
  returned: on failure
  type: str
untouched:
  description: Databases of this call that were not begun.
  returned: on failure
  type: list
  elements: str
unwell:
  description: By database what was found after its batch.
  returned: when O(health) ended the call
  type: dict
not_looked_at:
  description: Databases in which all is applied and whose clients could not be watched to the end.
  returned: when the server was away, or the call was asked to end, in the look after a batch
  type: list
  elements: str
blockers:
  description: Sessions that held the locks - pid, application_name, role, since, digest of the query without its literals.
  returned: when the budget for lock waits was used up
  type: list
  elements: dict
next:
  description: The command to go on and the command to go back.
  returned: on failure
  type: list
  elements: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Apply to database after database; the first failure ends it."""
    module = pgops_module.create_module(
        {
            **pgops_module.TREE_OPTIONS,
            **pgops_module.SELECTION_OPTIONS,
            **pgops_module.LEDGER_RUN_OPTIONS,
            **pgops_module.WAIVER_OPTIONS,
            **pgops_module.LIMIT_OPTIONS,
            "expected": {"type": "dict", "default": {}},
            "orphans": {"type": "str", "choices": ["stop", "quarantine", "placeholder"], "default": "stop"},
            "reconnect": {"type": "float", "default": 0},
            "batches": {"type": "list", "elements": "list", "default": []},
            "judged_again": {"type": "dict", "default": {}},
            "health": {
                "type": "dict",
                "options": {
                    "pause": {"type": "float", "default": 5},
                    "error_rate": {"type": "float", "default": 5},
                    "probe": {"type": "str"},
                    "probe_limit": {"type": "float", "default": 1000},
                    "replication_lag": {"type": "float", "default": 30},
                    "performance": {"type": "float", "default": 50},
                },
            },
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import (
            batch_health,
            fleet,
            migrate,
            plan,
            preview,
            run_limits,
        )
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

        given = module.params
        limits = run_limits.of(given)
        if not given["reconnect"] >= 0:
            raise PgopsError("migrate_reconnect must be 0 seconds or more; 0 never connects again.")
        selection = plan.Selection(
            given["target"],
            given["steps"],
            given["allow_out_of_order"],
            pgops_module.waived(module, "contract"),
            list(pgops_module.waived(module, "schema")),
        )
        databases: dict[str, Any] = {}
        diff = []
        if module.check_mode:
            for name, target in pgops_module.targets(module).items():
                found = preview.preview(target, given["migrations"], selection, run_id=given["run_id"] or "check")
                prepared = found.pop("prepared")
                if prepared:
                    diff.append({"prepared": prepared})
                databases[name] = {
                    "applied": [],
                    "pending": found["pending"],
                    "later": found["later"],
                    "waiting": found["waiting"],
                    "tables": found["tables"],
                }
            return {"changed": bool(diff), "databases": databases, "diff": diff}
        progress, control = pgops_module.job(module)

        def way_of(name: str) -> migrate.Way:
            return migrate.Way(
                migrate.run_of(given["run_id"], given["run"], name),
                progress,
                control,
                lock_wait_s=given["lock_wait"],
                orphans=given["orphans"],
                **limits,
                reconnect_s=given["reconnect"],
            )

        health = given["health"]
        try:
            databases = fleet.apply(
                pgops_module.targets(module),
                given["migrations"],
                selection,
                way_of,
                batches=given["batches"] or [given["databases"]],
                expected=given["expected"],
                limits=batch_health.Limits(**health) if health else None,
                judged_again=given["judged_again"],
            )
        finally:
            control.stop()
        return {"changed": any(found["applied"] for found in databases.values()), "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
