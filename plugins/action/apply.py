# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the tree, starts the module apply and follows it; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction, seconds


class ActionModule(MigrationAction):
    """The only phase that changes the schema."""

    PHASE = "apply"
    MODULE = "apply"
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the rendered tree, what of it is asked for, and what must not have moved since the backup."""
        arguments = {
            "migrations": self.rendered_tree(task_vars),
            **self.selection(task_vars),
            "run": self.run_of(task_vars),
            "expected": self._task.args.get("expected") or self._expected(task_vars),
        }
        if self._task.args.get("lock_wait") is not None:
            arguments["lock_wait"] = self._task.args["lock_wait"]
        return arguments

    def _expected(self, task_vars: dict[str, Any]) -> dict[str, dict[str, str]]:
        """What plan and backup of this run saw; the backup's word counts where there is one."""
        run = self.run_fact(task_vars)
        plan, backup = run.get("plan") or {}, run.get("backup") or {}
        expected = {}
        for database in {*plan, *backup}:
            seen = dict((plan.get(database) or {}).get("state") or {})
            for name in ("ledger_head", "catalog_fingerprint"):
                value = (backup.get(database) or {}).get(name)
                if value:
                    seen[name] = value
            expected[database] = seen
        return expected

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """One line a version; after a failure the command to go on and the command to go back."""
        for database, found in (result.get("databases") or {}).items():
            for item in found.get("applied") or []:
                told = f"{database}: {item['version']} {item['name']} applied in {seconds(item['duration_s'])}"
                if item["skipped"]:
                    told += f", was there already: {', '.join(item['skipped'])}"
                self.say(told)
            if found.get("applied"):
                total = sum(item["duration_s"] for item in found["applied"])
                self.say(f"{database}: {len(found['applied'])} versions applied in {seconds(total)}")
        if result.get("failed"):
            self.show_edited(result)
            self._tell_next(result, task_vars)
        return result

    def _tell_next(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        target = self._task.args.get("target")
        more = [f"-e migrate_target={target}"] if target else []
        on = ("To go on", self.again(task_vars, *more))
        reason = result.get("reason")
        if reason == "busy":
            self.tell_next(result, [on, ("To end the other run", self.other_playbook(task_vars, "stop"))])
        elif reason == "reverting":
            self.tell_next(result, [("To finish it", self.other_playbook(task_vars, "rollback"))])
        elif result.get("not_applied"):
            first = [*result.get("applied", []), *result["not_applied"]][0]
            self.tell_next(
                result,
                [on, ("to go back", self.other_playbook(task_vars, "rollback", f"-e rollback_through={first}"))],
            )
        else:
            self.tell_next(result, [("Then", self.again(task_vars, *more))])
