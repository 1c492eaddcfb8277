# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the module rehearse with the backup and the versions of this run, and shows what it saw; documented in the module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import masked_lines, named_backup, proof_levels
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import RUN_FACT
from ansible_collections.whitecross.pgops.plugins.plugin_utils.declared_masking import read_masking
from ansible_collections.whitecross.pgops.plugins.plugin_utils.declared_queries import read_queries
from ansible_collections.whitecross.pgops.plugins.plugin_utils.identity import IdentityAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction, seconds, table
from ansible_collections.whitecross.pgops.plugins.plugin_utils.role_values import of_roles

# Variables of other roles with the options that they fill: where the backup lies, and how the apply will run.
_OF_ROLES = {
    "directory": "backup_directory",
    "jobs": "backup_jobs",
    "scratch_reason": "backup_scratch_reason",
    "scratch_roles": "backup_scratch_roles",
    "engine": "backup_engine",
    "orphans": "migrate_orphans",
    "index_workers": "migrate_index_workers",
    "index_memory_mb": "migrate_index_memory_mb",
    "index_disk_mb": "migrate_index_disk_mb",
    "index_timeout": "migrate_index_timeout",
    "waive": "migrate_waive",
}
BACKUP = "rehearse_backup"


class ActionModule(IdentityAction, MigrationAction):
    """Phase 5: what is pending has happened on a copy before it happens."""

    PHASE = "rehearse"
    MODULE = "rehearse"
    LIVE = True
    # The trace of a chain is long, and no task of this run needs it; see _remember.
    REMEMBERED = False

    # By database what was kept for a rehearsal that did not come.
    _left: dict[str, str]

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """In check mode no backup was made: then there is nothing to rehearse on, and the run goes on."""
        variables = task_vars or {}
        run = self.run_fact(variables)
        if self._truth(self._task.args.get("clean")):
            return self._clean(tmp, variables, run)
        made = run.get("backup") or {}
        if self._task.check_mode and any("path" not in entry for entry in made.values()):
            return {"changed": False, "skipped": True, "skip_reason": "check mode: no backup was made"}
        if made and not self._to_rehearse(variables):
            return {"changed": False, "skipped": True, "skip_reason": "nothing is pending"}
        return super().run(tmp, variables)

    def _clean(self, tmp: str | None, task_vars: dict[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
        """Drop what was kept for a rehearsal that this run has not come to."""
        proved = run.get("prove") or {}
        self._left = {
            name: str(found["scratch"])
            for name, found in proved.items()
            if (found or {}).get("scratch") and name not in (run.get("rehearse") or {})
        }
        if not self._left or self._task.check_mode:
            return {"changed": False, "skipped": True, "skip_reason": "nothing was kept"}
        self.PHASE, self.JOURNALLED, self.STOPPABLE = "rehearse_clean", False, False
        return super().run(tmp, task_vars)

    def _to_rehearse(self, task_vars: dict[str, Any]) -> list[str]:
        """:return: the databases of this run, without those where nothing is pending."""
        names = [str(name) for name in self.pgops(task_vars, "databases") or []]
        plan = self.run_fact(task_vars).get("plan")
        return names if plan is None else [name for name in names if (plan.get(name) or {}).get("pending")]

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, the rendered tree, the backups that this run made, and how the apply will run."""
        if self._truth(self._task.args.get("clean")):
            return {"clean": self._left, "databases": list(self._left)}
        run = self.run_fact(task_vars)
        made = run.get("backup") or {}
        if made and self._task.args.get("path"):
            raise AnsibleActionFail(
                f"{BACKUP} names {self._task.args['path']}, and this run makes a backup of its own, on which it rehearses; leave it out. "
                f"Then: {self.again(task_vars)}"
            )
        arguments = {name: value for name, value in super().module_arguments(task_vars).items() if value is not None}
        arguments.update(of_roles(self, _OF_ROLES, task_vars, arguments))
        arguments["backups"] = named_backup.of_this_run(made)
        arguments["databases"] = self._to_rehearse(task_vars)
        arguments["migrations"] = self.rendered_tree(task_vars)
        arguments.update(self.selection(task_vars))
        arguments["queries"] = self._queries(task_vars)
        if self._truth(arguments.pop("mask", False)):
            arguments["masking"] = self._masking(task_vars)
        arguments["run"] = {
            **self.run_of(task_vars),
            "host": str(task_vars["inventory_hostname"]),
            "hosts": run.get("hosts") or [],
        }
        production = self.in_production(task_vars)
        given = of_roles(self, {"level": proof_levels.VARIABLE}, task_vars, {})
        arguments["level_required"] = proof_levels.required(given.get("level"), str(run.get("environment")), production)
        arguments["other_cluster_only"] = proof_levels.other_cluster_only(arguments.get("scratch_reason"), production)
        return arguments

    def _masking(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        try:
            return read_masking(self.sql_directory(task_vars))
        except PgopsError as error:
            raise AnsibleActionFail(f"{error.message} Nothing was rehearsed.", result=error.as_dict()) from None

    def _queries(self, task_vars: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            return read_queries(self.sql_directory(task_vars))
        except PgopsError as error:
            self.refuse_tree(error, task_vars)

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show what each step did and will take, and what stops the run."""
        for database, found in (result.get("databases") or {}).items():
            if "would_rehearse" in found:
                self.say(f"{database}: would rehearse what is pending on {found['backup']} and drop the copy")
            elif "not_rehearsed" in found:
                self.say(f"{database}: not rehearsed: {found['not_rehearsed']}")
            else:
                self._show(database, found)
        if result.get("failed") and not self._truth(self._task.args.get("clean")):
            self.show_edited(result)
            self.tell_next(result, [("When it is mended", self.again(task_vars))])
        elif result.get("databases"):
            self._remember(result, task_vars)
        return result

    def _show(self, database: str, found: Mapping[str, Any]) -> None:
        record = found["rehearsal"]
        forecast = record["forecast"]
        if forecast:
            rows = [
                [
                    step["version"],
                    step["step"],
                    seconds(step["seconds"]),
                    f"{seconds(step['low'])} to {seconds(step['high'])}",
                    seconds(step["blocks_reads"]),
                    seconds(step["blocks_writes"]),
                ]
                for step in forecast["steps"]
            ]
            self.say(f"{database}: what the apply will take here, by its rehearsal on {record['scratch_server']}")
            for line in table(["VERSION", "STEP", "SECONDS", "BETWEEN", "READERS WAIT", "WRITERS WAIT"], rows):
                self.say(f"    {line}")
            lag = forecast["replica_lag_seconds"]
            told = (
                f"standbys behind by {seconds(lag)}"
                if lag is not None
                else "how far standbys fall behind cannot be told"
            )
            self.say(
                f"{database}: in all {seconds(forecast['seconds'])} ({seconds(forecast['low'])} to {seconds(forecast['high'])}), "
                f"{forecast['wal_bytes'] / 1048576:,.1f} MB of WAL, {forecast['disk_bytes'] / 1048576:,.1f} MB of disk, {told}"
            )
        for entry in record["steps"]:
            if entry["rewrites"]:
                self.say(
                    f"{database}: {entry['version']} rewrites {', '.join(entry['rewrites'])}: {entry['statement']}"
                )
        for query in record.get("queries") or []:
            if query["plan_changed"]:
                self.say(f"{database}: query {query['name']}: {', '.join(query['lost'])} -> {', '.join(query['came'])}")
        for sentence in record.get("slower") or []:
            self.say(f"{database}: warn: {sentence}")
        for sentence in record["over_budget"]:
            self.say(f"{database}: OVER BUDGET: {sentence}")
        for line in masked_lines.of(database, record.get("masked")):
            self.say(line)
        for sentence in record["reservations"]:
            self.say(f"{database}: {sentence}")
        turns = ["up", "verified"] if "up" in record["seconds"] else []
        turns += ["down, as before"] if record["down_equal"] else []
        turns += ["up again, cut off once and gone on with"] if record["resumed"] else []
        word = "REHEARSED" if record["ok"] else "REHEARSAL FAILED"
        self.say(f"{database}: {word}: {', '.join(turns) or 'nothing went through'}; kept in {found['file']}")

    def _remember(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """What later phases ask for; the whole of it is in the file and in the journal."""
        fact = self.run_fact(task_vars)
        fact["rehearse"] = {
            database: {
                "ok": True,
                "file": found.get("file"),
                "versions": (found.get("rehearsal") or {}).get("versions", []),
            }
            for database, found in result["databases"].items()
        }
        result.setdefault("ansible_facts", {})[RUN_FACT] = fact
