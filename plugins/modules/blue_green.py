# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: blue_green
short_description: Make a change in a new database that is kept in step, and let it take the place of the live one
version_added: 0.1.0
description:
  - With O(state=prepared) it makes a new database with the schema of the live one, applies the pending versions that declare
    C(strategy) V(blue_green) to it while it is empty, copies the rows by logical replication, keeps it in step and compares it by hashes. Clients
    work on; the schema is frozen from then on.
  - With O(state=begun) it looks whether the change-over can begin, and lifts the fence of one that was killed.
  - With O(state=changed_over) it compares once more, carries the ledger across, fences both, waits for the last row, moves the sequences and swaps
    the names. The replaced database is kept, as by M(whitecross.pgops.swap).
  - With O(state=absent) it takes away whatever there is of it, and brings a change-over to its end that was killed behind its renames. With
    O(state=told) it only looks.
  - On any failure nothing of a preparation is left, and a change-over leaves the live database as it was. What a killed run has left is taken away,
    or finished, by the next.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.tree
  - whitecross.pgops.ledger_run
  - whitecross.pgops.limits
options:
  state:
    description:
      - What to do.
    type: str
    choices: [prepared, begun, changed_over, absent, told]
    default: told
  connection:
    description:
      - How the server reaches itself, in libpq's keywords C(host), C(hostaddr), C(port), C(user), C(passfile), C(sslmode), C(sslrootcert) and
        C(connect_timeout). By default its first socket folder and O(restore_user). A password is refused, since it would stay in the catalog.
    type: dict
    default: {}
  wal_limit_mb:
    description:
      - Give the preparation up when its slot holds back more WAL than this, in MB.
    type: int
    default: 10240
  catch_up:
    description:
      - How long what is committed may take to come over, in seconds.
    type: float
    default: 60
  pgbouncer:
    description:
      - The PgBouncer whose clients wait while the names are swapped, as in M(whitecross.pgops.swap).
    type: dict
    default: {}
  confirmed:
    description:
      - With O(state=changed_over), whether the databases were named. Filled by the action plugin.
    type: bool
    default: false
  directory:
    description:
      - The folder of the backups. The newest one of the database is told with O(state=changed_over), for the audit; none is made.
    type: path
  reason:
    description:
      - Why, for the audit.
    type: str
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Prepare the new database
  whitecross.pgops.blue_green:
    databases: [white_cross]
    restore_user: postgres
    state: prepared
    connection: {host: /var/run/postgresql, user: postgres}
"""

RETURN = r"""
databases:
  description: What there is and what was done, by database.
  returned: always
  type: dict
  contains:
    state:
      description: V(none), V(left) (only to be taken away), V(ready) or V(changed_over), also where a run was cut off behind it.
      type: str
    green:
      description: The name of the new database.
      type: str
    versions:
      description: The versions that are applied in it.
      type: list
      elements: str
    compared:
      description: How many tables and rows were equal, and how long the writers of a table waited at most, in milliseconds.
      type: dict
    applied:
      description: Of a change-over the versions that it brought, as M(whitecross.pgops.apply) tells them, each with V(run_id), the run that
        has prepared it and whose rows the audit has.
      type: list
      elements: dict
    planned:
      description: What the manifests of these versions declare, with their checksums.
      type: list
      elements: dict
    tables:
      description: The tables that they name.
      type: list
      elements: str
    backup:
      description: The newest backup of the database when it was changed over, with the level of its proof; V(null) where there is none.
      type: dict
    aside:
      description: Where the replaced database is now.
      type: str
    outage_ms:
      description: From the fence to the lifted fence, in milliseconds.
      type: float
    standbys:
      description: Of each connected standby, that its readers stay in the replaced database, and the statement that ends them there.
      type: list
      elements: str
    settings:
      description: What was set on the live database itself since the preparation and is set on the new one, by name.
      type: list
      elements: str
    left:
      description: What could not be taken away behind a change-over, and V(null) where nothing is left.
      type: str
    told:
      description: What else should be known, and what was done of a run that was killed.
      type: list
      elements: str
    removed:
      description: What was taken away.
      type: list
      elements: str
    why:
      description: Why it cannot go on.
      type: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module


def main() -> None:
    """One stage of a blue-green change, database after database."""
    module = pgops_module.create_module(
        {
            "state": {
                "type": "str",
                "choices": ["prepared", "begun", "changed_over", "absent", "told"],
                "default": "told",
            },
            "connection": {"type": "dict", "default": {}},
            "wal_limit_mb": {"type": "int", "default": 10240},
            "catch_up": {"type": "float", "default": 60},
            "pgbouncer": {"type": "dict", "default": {}},
            "confirmed": {"type": "bool", "default": False},
            "directory": {"type": "path"},
            "reason": {"type": "str"},
            **pgops_module.TREE_OPTIONS,
            **pgops_module.LEDGER_RUN_OPTIONS,
            **pgops_module.LIMIT_OPTIONS,
        }
    )

    def work() -> dict[str, Any]:
        from dataclasses import replace

        from ansible_collections.whitecross.pgops.plugins.module_utils import (
            blue_green,
            blue_green_record,
            migrate,
            pgbouncer,
            run_limits,
        )
        from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_change import Change
        from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_link import Settings
        from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import end_on_sigterm
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
        from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work

        given = module.params
        for name, least in (("wal_limit_mb", 1), ("catch_up", 1)):
            if not given[name] >= least:
                raise PgopsError(
                    f"blue_green_{name} is {given[name]:g}, and it takes {least} or more; nothing was done."
                )
        progress, control = pgops_module.job(module)
        end_on_sigterm(control)
        limits = run_limits.of(given)
        settings = Settings(
            {str(k): str(v) for k, v in given["connection"].items()}, given["wal_limit_mb"], given["catch_up"]
        )
        databases: dict[str, Any] = {}
        for name, target in pgops_module.targets(module).items():
            change = Change(
                target,
                Work(given["run_id"] or "by-hand", progress=progress, control=control),
                settings,
                pgbouncer.declared(target, given["pgbouncer"]),
                given["reason"],
            )
            try:
                run = migrate.run_of(given["run_id"], given["run"], name)
                if given["state"] == "prepared":
                    way = migrate.Way(run, progress, control, lock_wait_s=given["lock_wait"], **limits)
                    databases[name] = blue_green.prepare(change, given["migrations"], way, check_only=module.check_mode)
                elif given["state"] == "begun":
                    databases[name] = {**blue_green.begin(change, given["migrations"]), "changed": False}
                elif given["state"] in ("changed_over", "absent"):
                    # Seen before, so that the ledger names it; the swap makes none.
                    backup = blue_green_record.newest_backup(given["directory"], name)
                    kept = replace(run, backup=backup)
                    if given["state"] == "absent":
                        found = blue_green.give_up(change, check_only=module.check_mode, run=kept)
                    else:
                        found = blue_green.change_over(
                            change, given["migrations"], confirmed=given["confirmed"], check_only=module.check_mode, run=kept
                        )  # fmt: skip
                    databases[name] = {**found, "backup": backup} if "versions" in found else found
                else:
                    databases[name] = blue_green.status(change)
            except PgopsError as error:
                error.extra["databases"] = databases
                raise
        return {"changed": any(found["changed"] for found in databases.values()), "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
