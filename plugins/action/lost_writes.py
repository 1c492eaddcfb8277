# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module lost_writes and shows what is lost beside what was shown before; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import identity, run_outcome
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.losses import lost_rows


class ActionModule(PgopsAction):
    """What a rollback has lost: behind it, or days later."""

    PHASE = "lost_writes"
    MODULE = "lost_writes"
    LIVE = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module, behind a rollback only where it has put a database aside; before it, only to look whether it could."""
        if self._task.args.get("state") == "able":
            self.PHASE, self.REMEMBERED, self.LIVE = "export_able", False, False
        if self._task.args.get("of_this_run") and not self._put_aside(task_vars or {}):
            self._tell_of_cluster(task_vars or {})
            return {"changed": False, "skipped": True}
        return super().run(tmp, task_vars)

    def _put_aside(self, task_vars: dict[str, Any]) -> dict[str, str]:
        run = self.run_fact(task_vars)
        return {
            database: str(found["aside"])
            for phase in ("resume", "swap")
            for database, found in (run.get(phase) or {}).items()
            if found.get("aside")
        }

    def _tell_of_cluster(self, task_vars: dict[str, Any]) -> None:
        """A database of a cluster that was replaced can be compared no more, for its server is down: what was counted is said again."""
        for database, found in (self.run_fact(task_vars).get("restore") or {}).items():
            if found.get("lost") and run_outcome.kept_cluster({"restore": found}):
                self.say(
                    f"{database}: tables with another number of rows than before: {len(found['lost'])}; counted before the change, and "
                    f"kept in the cluster {found['kept']}"
                )

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, with the databases that this run has put aside.
        :raises AnsibleActionFail: a recipient is no public key."""
        arguments = super().module_arguments(task_vars)
        if arguments.get("encrypt_to"):
            identity.refuse_recipients(arguments["encrypt_to"])
        if arguments.get("of_this_run"):
            arguments["kept_of"] = self._put_aside(task_vars)
        return arguments

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show it, and the command that exports it where nothing was written."""
        if result.get("failed") and self._task.args.get("state") == "able":
            result["msg"] = f"{result.get('msg')} Nothing was changed."
            result["hint"] = (
                f"{result.get('hint') or ''} Without the export the rollback keeps these rows all the same, in the database that it puts "
                "aside: leave rollback_export_writes out, and export them later with lost_writes.yml."
            ).strip()
            return result
        for database, found in (result.get("databases") or {}).items():
            estimate = self._shown_before(task_vars, database)
            if estimate:
                found["estimate"] = estimate
            for line in lost_rows(database, found):
                self.say(line)
            if found.get("tables") and not found.get("export"):
                self.say(f"{database}: to have these rows as SQL and CSV: {self._export(task_vars, found)}")
        if result.get("failed") and self._task.args.get("of_this_run"):
            kept = next(iter(self._put_aside(task_vars).values()))
            result["next"] = [self._export(task_vars, {"kept": kept})]
        return result

    def _export(self, task_vars: dict[str, Any], found: dict[str, Any]) -> str:
        choice = {"lost_writes_kept": str(found["kept"]), "lost_writes_export": "PATH"}
        return self.command(task_vars, "lost_writes.yml", choice)

    def _shown_before(self, task_vars: dict[str, Any], database: str) -> list[dict[str, Any]] | None:
        """:return: what this run had shown before it was confirmed, by table; None where it was another run."""
        if not self._task.args.get("of_this_run"):
            return None
        run = self.run_fact(task_vars)
        shown = (run.get("disclose") or {}).get(database, {}).get("lost") or (run.get("swap") or {}).get(
            database, {}
        ).get("shown_before")
        return list(shown["tables"]) if shown else None
