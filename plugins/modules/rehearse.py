# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: rehearse
short_description: Rehearse the pending versions on a restored copy
version_added: 0.1.0
description:
  - Takes the copy that M(whitecross.pgops.prove) has kept in this run, or restores a proved backup into a scratch database, and there applies
    what is pending, verifies it, reverts it, compares the catalog, applies it again, cut off once and gone on with.
  - Each statement of the first way up is traced - locks and for how long, rewrites, scans, rows, WAL, temporary files. From that, the speed of
    both servers and earlier forecasts it tells what the apply will take, and fails where that is more than is allowed.
  - The database itself is read only. The copy is dropped whatever happens; one that a killed run left is removed by the next.
extends_documentation_fragment:
  - whitecross.pgops.pgops
  - whitecross.pgops.tree
  - whitecross.pgops.tree.selection
  - whitecross.pgops.tree.waiver
  - whitecross.pgops.ledger_run
  - whitecross.pgops.limits
  - whitecross.pgops.scratch
  - whitecross.pgops.restoring
  - whitecross.pgops.identity
options:
  directory:
    description:
      - The folder of the backups. The rehearsal is kept beside those of its database.
    type: path
  path:
    description:
      - The backup to rehearse on, where there is one database and O(backups) does not name it; else the newest that is proved.
    type: path
  backups:
    description:
      - The backup of each database - C(path), and C(manifest_sha256) as the run recorded it. Filled by the action plugin with those that this
        run has made.
    type: dict
    default: {}
  level_required:
    description:
      - The level to which the backup must be proved.
    type: int
    default: 4
  scratch_database:
    description:
      - What to call the scratch database where one is made; it must not exist.
    type: str
  scratch_roles:
    description:
      - What to do where the scratch server lacks roles that policies of the backup name; as in M(whitecross.pgops.prove).
    type: str
    choices: [refuse, create]
    default: refuse
  orphans:
    description:
      - What becomes of rows without a parent when a foreign key is added; as in M(whitecross.pgops.apply).
    type: str
    choices: [stop, quarantine, placeholder]
    default: stop
  blocked_reads:
    description:
      - How long one transaction of the apply may keep readers of a table waiting, in seconds.
    type: float
  blocked_writes:
    description:
      - The same of writers.
    type: float
  duration:
    description:
      - How long all of the apply may take, in seconds.
    type: float
  wal_mb:
    description:
      - How much WAL all of the apply may write, in MB.
    type: float
  replica_lag:
    description:
      - How far a standby may fall behind, in seconds.
    type: float
  queries:
    description:
      - The application's queries of C(sql/checks/queries), run before and after the versions; the action plugin reads them from the tree that
        C(pgops_sql) names.
    type: list
    elements: dict
    default: []
  queries_recorded:
    description:
      - How many more are taken from C(pg_stat_statements) of the database, by the time that they take. They are planned and not run, since nobody
        knows their parameters. Needs PostgreSQL 16.
    type: int
    default: 0
  query_ratio:
    description:
      - By how much a query may become slower.
    type: float
    default: 2
  query_regression:
    description:
      - What becomes of the run where a query becomes slower than that, or fails.
    type: str
    choices: [warn, stop]
    default: warn
  mask:
    description:
      - Whether O(masking) is read from the tree. Read by the action plugin.
    type: bool
    default: false
  masking:
    description:
      - What is masked in the copy before anything else happens to it, for a scratch server that is less trusted - table -> column -> V(text),
        V(moment), V(empty) or V(keep), or table -> V(empty). The action plugin reads it from C(masking.yml) of the tree that C(pgops_sql) names.
    type: dict
    default: {}
  engine:
    description:
      - With V(physical) the backups of this environment are copies of the whole cluster, on which nothing is rehearsed; that is told.
    type: str
    choices: [logical, physical]
    default: logical
  clean:
    description:
      - Rehearse nothing; drop what the proof of this run has kept for it, a scratch database by the name of each database.
    type: dict
    default: {}
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Rehearse on the newest proved backup
  whitecross.pgops.rehearse:
    databases: [white_cross]
    directory: /var/backups/postgres/migrations
    scratch_host: scratch.example.org
    restore_user: postgres
    run_id: 20261121T120000Z-0a1b2c
    blocked_reads: 5
"""

RETURN = r"""
databases:
  description: Each rehearsal, by database.
  returned: always
  type: dict
  contains:
    rehearsal:
      description:
        - What was seen - C(ok), C(why), C(versions) with their C(checksums), C(steps) (each statement with its locks, rewrites, scans, rows, WAL),
          C(forecast), C(budget), C(over_budget), C(down_equal), C(resumed), C(queries), C(reservations).
      type: dict
    file:
      description: Where it is kept, beside the backups.
      type: str
    not_rehearsed:
      description: Why nothing was rehearsed.
      type: str
next:
  description: What to type when it is mended.
  returned: on failure
  type: list
  elements: str
"""

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module, restore_options


def main() -> None:
    """Rehearse database after database; the first that fails ends it."""
    module = pgops_module.create_module(
        {
            "directory": {"type": "path"},
            "path": {"type": "path"},
            "backups": {"type": "dict", "default": {}},
            "level_required": {"type": "int", "default": 4},
            "scratch_database": {"type": "str"},
            "scratch_roles": {"type": "str", "choices": ["refuse", "create"], "default": "refuse"},
            "orphans": {"type": "str", "choices": ["stop", "quarantine", "placeholder"], "default": "stop"},
            "blocked_reads": {"type": "float"},
            "blocked_writes": {"type": "float"},
            "duration": {"type": "float"},
            "wal_mb": {"type": "float"},
            "replica_lag": {"type": "float"},
            "queries": {"type": "list", "elements": "dict", "default": []},
            "queries_recorded": {"type": "int", "default": 0},
            "query_ratio": {"type": "float", "default": 2},
            "query_regression": {"type": "str", "choices": ["warn", "stop"], "default": "warn"},
            "mask": {"type": "bool", "default": False},
            "masking": {"type": "dict", "default": {}},
            "engine": {"type": "str", "choices": ["logical", "physical"], "default": "logical"},
            "clean": {"type": "dict", "default": {}},
            **pgops_module.TREE_OPTIONS,
            **pgops_module.SELECTION_OPTIONS,
            **pgops_module.WAIVER_OPTIONS,
            **pgops_module.LEDGER_RUN_OPTIONS,
            **pgops_module.LIMIT_OPTIONS,
            **pgops_module.SCRATCH_OPTIONS,
            **restore_options.RESTORE_OPTIONS,
        }
    )

    def work() -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.module_utils import (
            backup_store,
            encrypted_dump,
            kept_scratch,
            masking,
            migrate,
            plan,
            rehearsal_forecast,
            rehearsal_store,
            rehearse,
            restore,
            run_limits,
        )
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

        given = module.params
        targets = pgops_module.targets(module)
        if given["engine"] == "physical" and not given["path"]:
            why = "its backups are physical, and a rehearsal restores a logical one; name one with rehearse.yml -e rehearse_backup=PATH"
            return {"changed": False, "skipped": True, "databases": {name: {"not_rehearsed": why} for name in targets}}
        if given["path"]:
            pgops_module.refuse_several(targets, "backup")
        limits = run_limits.of(given)
        budget = rehearsal_forecast.Budget(
            given["blocked_reads"], given["blocked_writes"], given["duration"], given["wal_mb"], given["replica_lag"]
        )
        selection = plan.Selection(
            given["target"], given["steps"], given["allow_out_of_order"], pgops_module.waived(module, "contract"),
            list(pgops_module.waived(module, "schema")),
        )  # fmt: skip
        settings, identity = restore_options.begin(module)
        if given["clean"]:
            dropped = [kept_scratch.drop(targets[name], left, settings) for name, left in given["clean"].items()]
            return {"changed": any(dropped), "databases": {}}
        for name in ("blocked_reads", "blocked_writes", "duration", "wal_mb", "replica_lag", "query_ratio"):
            if given[name] is not None and not given[name] >= 0:
                raise PgopsError(f"rehearse_{name} is {given[name]:g}, and it takes 0 or more; nothing was rehearsed.")
        chosen: dict[str, backup_store.Backup] = {}
        for name in targets:
            made = given["backups"].get(name) or {}
            path = made.get("path") or given["path"]
            chosen[name] = kept_scratch.choose(
                targets[name], given["directory"] or "", path, given["level_required"],
                application_name=settings.application_name,
            )  # fmt: skip
            restore.refuse_altered(chosen[name], made.get("manifest_sha256"))
        databases: dict[str, Any] = {}
        alone = len(given["run"].get("hosts") or []) <= 1
        for name, target in targets.items():
            backup = chosen[name]
            if module.check_mode:
                backup_store.verify_files(encrypted_dump.unlock(backup, identity))
                databases[name] = {"backup": backup.path, "would_rehearse": True}
                continue

            def way(name: str = name) -> migrate.Way:
                return migrate.Way(
                    migrate.run_of(given["run_id"], given["run"], name), settings.progress, settings.control,
                    lock_wait_s=given["lock_wait"], orphans=given["orphans"], **limits,
                )  # fmt: skip

            with kept_scratch.opened(
                target, backup, work=settings, identity=identity, make_roles=given["scratch_roles"] == "create",
                other_cluster_only=given["other_cluster_only"], name=given["scratch_database"],
            ) as copy:  # fmt: skip
                masked = masking.mask(copy.admin, given["masking"], work=settings) if given["masking"] else None
                record = rehearse.rehearse(
                    target, copy, backup, given["migrations"], selection, work=settings,
                    settings=rehearse.Settings(
                        way, budget, given["run"].get("environment"), given["run"].get("host"), given["queries"],
                        given["queries_recorded"], given["query_ratio"], given["query_regression"] == "stop",
                    ),
                )  # fmt: skip
            record["masked"] = masked
            if not record["versions"]:
                databases[name] = {"not_rehearsed": f"nothing is pending in {backup.path}"}
                continue
            databases[name] = {"rehearsal": record, "file": rehearsal_store.write(backup.path, record, alone=alone)}
            if not record["ok"]:
                told = {word: record[word] for word in ("hint", "sqlstate") if record.get(word)}
                return {
                    "changed": True,
                    "databases": databases,
                    "failed": True,
                    "msg": record["why"],
                    "database": name,
                    **told,
                }
        return {"changed": any("rehearsal" in found for found in databases.values()), "databases": databases}

    pgops_module.run(module, work)


if __name__ == "__main__":
    main()
