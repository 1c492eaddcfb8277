# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: swap
short_description: Put a staged restore in the place of the live database, or go back
version_added: 0.1.0
description:
  - Names whatever would block it before anything is touched - prepared transactions, active logical slots, subscriptions, sessions
    that this role may not end.
  - Carries the history (runs, audit) into the staged database, fences both, ends all sessions, and swaps the names in one
    transaction. The replaced database is kept as C(<database>_failed_<time>) and refuses connections.
  - On any failure the fence is lifted again.
  - With O(state=resumed) it looks after a swap that was cut off. Under its fence that is refused, unless what was asked for, and
    confirmed, is to finish or to undo it. Where somebody has let clients in again, its marks are taken off and nothing is swapped.
    Where the names were swapped, what is missing in the audit is written.
extends_documentation_fragment:
  - whitecross.pgops.pgops
options:
  state:
    description:
      - What to do.
    type: str
    choices: [swapped, resumed]
    default: swapped
  to:
    description:
      - The database that takes the name, where there is one to swap - a staged restore, or one that a swap has put aside.
    type: str
  strategy:
    description:
      - With O(state=resumed), what the rollback was asked for.
    type: str
    choices: [auto, down, restore, swap, undo_swap, unfence]
    default: down
  backup:
    description:
      - With O(state=resumed), the backup to go back to, where one was named.
    type: path
  confirmed:
    description:
      - With O(state=resumed), whether the databases were named. Filled by the action plugin, which takes O(answer).
    type: bool
    default: false
  answer:
    description:
      - With O(state=resumed), the name of the database, several with commas; anything else confirms nothing. Read by the action plugin.
    type: raw
  pgbouncer:
    description:
      - The PgBouncer whose clients wait while the names are swapped - C(host), C(port), C(user) of its console, C(database) as its
        clients name it, C(passfile), C(sslmode), C(connect_timeout) and C(pause_seconds). Empty where there is none.
    type: dict
    default: {}
  reason:
    description:
      - Why, for the audit. Filled by the action plugin with C(rollback_reason).
    type: str
  staged:
    description:
      - The same by database. Filled by the action plugin with those that this run has restored.
    type: dict
    default: {}
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Swap in what was restored
  whitecross.pgops.swap:
    databases: [white_cross]
    restore_user: postgres
    to: white_cross_restore_20260101_120000
"""

RETURN = r"""
databases:
  description: What was done, by database.
  returned: always
  type: dict
  contains:
    state:
      description: With O(state=resumed), V(nothing), V(completed), V(recorded), V(lifted), or in check mode V(opened) or V(swapped).
      type: str
    live:
      description: The database that was replaced, and has the name again.
      type: str
    aside:
      description: Where the replaced database is now.
      type: str
    why:
      description: With O(state=resumed), what was found.
      type: str
    drop:
      description: The statement that drops the staged copy, where one stays.
      type: str
    pool:
      description: What a PgBouncer did; with O(state=resumed), what was found of one that a killed run had left paused.
      type: str
    outage_ms:
      description: From the fence to the lifted fence, in milliseconds.
      type: float
    sessions_ended:
      description: How many sessions were ended.
      type: int
    standbys:
      description: Of each connected standby, that its readers stay in the replaced database, and the statement that ends them there.
      type: list
      elements: str
    history:
      description: Audit rows and runs that were carried across.
      type: dict
    sequences:
      description:
        - The sequences that were V(moved) on to where the replaced database had them, as C(sequence), C(from) and C(to); those that
          were V(left), as C(sequence) and C(why); and C(why) none could be.
      type: dict
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """Swap or resume every database, one after the other."""
    module = pgops_module.create_module(
        {
            "state": {"type": "str", "choices": ["swapped", "resumed"], "default": "swapped"},
            "to": {"type": "str"},
            "staged": {"type": "dict", "default": {}},
            "pgbouncer": {"type": "dict", "default": {}},
            "strategy": {
                "type": "str",
                "choices": ["auto", "down", "restore", "swap", "undo_swap", "unfence"],
                "default": "down",
            },
            "backup": {"type": "path"},
            "confirmed": {"type": "bool", "default": False},
            "answer": {"type": "raw"},
            "reason": {"type": "str"},
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import pgbouncer, swap
        from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import end_on_sigterm
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

        progress, control = pgops_module.job(module)
        end_on_sigterm(control)
        run_id = module.params["run_id"] or "by-hand"
        databases: dict[str, Any] = {}
        targets = pgops_module.targets(module)
        if module.params["to"]:
            pgops_module.refuse_several(targets, "database to swap in")
        pools = {name: pgbouncer.declared(target, module.params["pgbouncer"]) for name, target in targets.items()}
        if module.params["state"] == "resumed":
            asked = swap.Asked(*(module.params[name] for name in ("strategy", "to", "backup", "confirmed")))
            for target in targets.values():
                swap.refuse_pending(target, asked, run_id=run_id, check_only=module.check_mode)
            for database, target in targets.items():
                databases[database] = swap.resume(
                    target,
                    asked,
                    run_id=run_id,
                    check_only=module.check_mode,
                    progress=progress,
                    control=control,
                    pool=pools[database],
                )
                if asked.strategy != "down":
                    released = swap.release_pool(
                        target, pools[database], asked, run_id=run_id, check_only=module.check_mode
                    )
                    databases[database].update({"pool": released} if released else {})
            error = swap.not_what_was_asked(databases, asked)
            if error:
                raise error
            changed = any(found["state"] != swap.NOTHING for found in databases.values())
            return {"changed": changed and not module.check_mode, "databases": databases}
        for database, target in targets.items():
            staged = module.params["to"] or module.params["staged"].get(database)
            if not staged:
                raise PgopsError(f"No database is named to take the place of {database}.", database=database)
            swapping = swap.Swap(
                target,
                staged,
                run_id=run_id,
                progress=progress,
                control=control,
                pool=pools[database],
                reason=module.params["reason"],
            )
            try:
                databases[database] = swapping.preview() if module.check_mode else swapping.run()
            except PgopsError as error:
                # Those before it are swapped, and have a way back.
                error.extra["databases"] = {**databases, **error.extra.get("databases", {})}
                raise
        return {"changed": True, "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
