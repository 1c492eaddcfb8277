# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: revert
short_description: Revert applied versions by their way down
version_added: 0.1.0
description:
  - Without a selection it reverts the last applied version only; otherwise by one of O(steps), O(keep), O(through) and O(version).
  - It runs the text that the ledger kept when the version was applied, steps in reverse order, so it needs no files. Indexes that the
    version built are dropped concurrently, what was there before stays.
  - A way down that was cut off goes on at its step when it is run again. With O(reconnect) one whose connection is lost goes on by itself.
  - In check mode it returns the exact list, the SQL as a diff, and what data would be lost, and writes nothing.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.ledger_run
  - whitecross.pgops.limits
options:
  steps:
    description:
      - Revert the last so many versions.
    type: int
  keep:
    description:
      - Revert every version after this one; this one stays applied.
    type: str
  through:
    description:
      - Revert every version from the last one down to this one; this one is reverted too.
    type: str
  version:
    description:
      - Revert this version alone; refused if an applied one depends on it.
    type: str
  versions:
    description:
      - The exact list that was shown and confirmed, newest first, by database. Refused if the selection means another list by now.
    type: dict
    default: {}
  expected:
    description:
      - Each database when its backup was taken, by database - C(ledger_head), C(catalog_fingerprint), C(snapshot), C(path).
      - Compared under the lock. If something moved since, or rows that would go were written since, nothing is reverted. Filled by the
        action plugin.
    type: dict
    default: {}
  lose_writes:
    description:
      - Revert although rows that would go were written since the backup, so that there is no copy of them.
    type: bool
    default: false
  rewrite_limit_mb:
    description:
      - Up to how many MB together the tables of an enum are rewritten in one transaction to take a label away; above that it is done beside
        the clients. What each version declares, where it is not set.
    type: int
  statement_timeout:
    description:
      - How long one statement of the way down may take, in seconds, in the place of the C(statement_timeout_s) that the versions declared
        when they were applied.
    type: int
  lock_budget:
    description:
      - How long the way down may wait for the locks of one transaction, over all its attempts, in seconds, in the place of the
        C(lock_budget_s) that the versions declared when they were applied.
    type: int
  reconnect:
    description:
      - For how long after a lost connection the way down waits for a server that takes writes, in seconds. It takes the lock again, looks in
        the ledger what became of the step in hand, and goes on there; what was committed is not done twice.
      - It ends instead where another run has taken over or changed the ledger, where what it had reverted is not so (a failover lost it),
        where another cluster answers, and where a step loses the connection a second time with nothing done in between.
      - V(0) never connects again; who types it again goes on.
    type: float
    default: 0
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: See what would be reverted and lost
  whitecross.pgops.revert:
    databases: [white_cross]
    through: "20250103000003"
  check_mode: true
  register: shown

- name: Revert exactly that
  whitecross.pgops.revert:
    databases: [white_cross]
    through: "20250103000003"
    versions:
      white_cross: "{{ shown.databases.white_cross.versions | map(attribute='version') }}"
"""

RETURN = r"""
databases:
  description: What was reverted, by database.
  returned: always
  type: dict
  contains:
    versions:
      description: In check mode, the versions that would be reverted, newest first, each with its safety and what stays.
      type: list
      elements: dict
    reverted:
      description: Versions reverted, newest first, each with its duration in seconds, under C(left) what stays, under C(already) what was gone or as it
        was to become before anything was done, under C(step_durations) when each step began and its seconds, and under C(terminated) the idle sessions that
        were ended.
      type: list
      elements: dict
    stopped:
      description: The version that stopped - V(version), V(name), V(state), V(duration_s), and C(step_durations) of the steps that went.
      returned: on failure
      type: list
      elements: dict
    loss:
      description: By table, the rows of dropped tables and the values of dropped columns that are not NULL.
      type: list
      elements: dict
    unlooked:
      description: In check mode, the versions that may stop in their turn - V(version), and C(what) could not be looked at, since what goes before it may
        change it.
      type: list
      elements: dict
    tables:
      description: Tables that the reverted versions name.
      type: list
      elements: str
    audit:
      description: Number and hash of the last audit row, to be kept outside the database.
      type: dict
    model_changes:
      description: What the application's models are to follow - tables, views, columns, enum values, foreign keys; C(kind), C(change), C(object),
        C(before), C(after). Columns of a table that is new or gone are not told one by one. Null where somebody held a table for longer than a second.
      type: list
      elements: dict
    reconnected:
      description: Each loss of the connection after which it went on - V(version) and V(step) in hand, V(lost_at) in UTC, V(waited_s).
      type: list
      elements: dict
    client_waits:
      description: What a look each second has seen of clients that waited for a lock of the run - V(looks), V(waits), V(longest_s) as far as it was
        seen, and the V(seconds) of work that they cover. A wait between two looks is not seen.
      type: dict
    ledger_head:
      description: sha256 over version, checksum and state of all rows of the ledger.
      type: str
reverted:
  description: Versions of this call that are reverted.
  returned: on failure
  type: list
  elements: str
not_reverted:
  description: Versions of this call that are not reverted; the first is the one that stopped.
  returned: on failure
  type: list
  elements: str
larger:
  description: The variable that gives another run more than the limit of time that was hit, with twice the seconds of it.
  returned: on failure
  type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module

# Limits of the way down alone: on the way up a version's own file is read again, and reviewed.
SECONDS = ("statement_timeout", "lock_budget")


def main() -> None:
    """Revert in database after database; the first failure ends it."""
    module = pgops_module.create_module(
        {
            "steps": {"type": "int"},
            "keep": {"type": "str"},
            "through": {"type": "str"},
            "version": {"type": "str"},
            "versions": {"type": "dict", "default": {}},
            "expected": {"type": "dict", "default": {}},
            "lose_writes": {"type": "bool", "default": False},
            "rewrite_limit_mb": {"type": "int"},
            **{name: {"type": "int"} for name in SECONDS},
            "reconnect": {"type": "float", "default": 0},
            **pgops_module.LEDGER_RUN_OPTIONS,
            **pgops_module.LIMIT_OPTIONS,
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, run_limits, way_back
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
        from ansible_collections.whitecross.pgops.plugins.module_utils.time_limits import MOST_S

        given = module.params
        limits = run_limits.of(given)
        if not given["reconnect"] >= 0:
            raise PgopsError("rollback_reconnect must be 0 seconds or more; 0 never connects again.")
        for name in SECONDS:
            if given[name] is not None and not 1 <= given[name] <= MOST_S:
                raise PgopsError(
                    f"rollback_{name} is {given[name]}, and it takes 1 to {MOST_S} seconds; nothing was changed."
                )
        selection = way_back.Reverts(given["steps"], given["keep"], given["through"], given["version"])
        databases: dict[str, Any] = {}
        diff = []
        if module.check_mode:
            for name, target in pgops_module.targets(module).items():
                databases[name] = way_back.preview_revert(
                    target,
                    selection,
                    run_id=given["run_id"] or "check",
                    rewrite_limit_mb=given["rewrite_limit_mb"],
                    index_timeout_s=given["index_timeout"],
                )
                prepared = databases[name].pop("prepared")
                if prepared:
                    diff.append({"prepared": prepared})
            return {"changed": bool(diff), "databases": databases, "diff": diff}
        progress, control = pgops_module.job(module)
        try:
            for name, target in pgops_module.targets(module).items():
                way = migrate.Way(
                    migrate.run_of(given["run_id"], given["run"], name),
                    progress,
                    control,
                    lock_wait_s=given["lock_wait"],
                    rewrite_limit_mb=given["rewrite_limit_mb"],
                    statement_timeout_s=given["statement_timeout"],
                    lock_budget_s=given["lock_budget"],
                    **limits,
                    reconnect_s=given["reconnect"],
                )
                databases[name] = migrate.revert(
                    target,
                    selection,
                    way,
                    versions=given["versions"].get(name),
                    expected=given["expected"].get(name),
                    lose_writes=given["lose_writes"],
                )
        except PgopsError as error:
            partial = error.extra.pop("partial", None)
            if partial and error.database:
                databases[error.database] = partial
            error.extra["databases"] = databases
            raise
        finally:
            control.stop()
        return {"changed": any(found["reverted"] for found in databases.values()), "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
