# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the tree and starts the module plan; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import of_versions
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction, table
from ansible_collections.whitecross.pgops.plugins.plugin_utils.rendered_tree import lint_findings


class ActionModule(MigrationAction):
    """Says what is pending before anything else is asked of the database."""

    PHASE = "plan"
    MODULE = "plan"

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the rendered tree and what of it is asked for."""
        return {"migrations": self.rendered_tree(task_vars), **self.selection(task_vars)}

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show the plan, or how an applied file was edited."""
        if result.get("failed"):
            self.show_edited(result)
            if result.get("reason") == "reverting":
                self.tell_next(result, [("To finish it", self.command(task_vars, "rollback.yml"))])
            if result.get("reason") == "baseline":
                self.tell_next(result, [("To look", self.command(task_vars, "status.yml"))])
            self.tell_unknown_target(result, task_vars)
            self.tell_edited(result, task_vars)
            return result
        self._refuse_faults(result, task_vars)
        if result.get("failed"):
            return result
        for database, found in result["databases"].items():
            if not found["pending"]:
                self.say(f"{database}: nothing pending, {len(found['applied'])} versions applied")
                continue
            self.say(f"{database}: {len(found['pending'])} pending, highest risk {found['risk']}")
            rows = [
                [
                    item["version"],
                    item["name"],
                    item["phase"],
                    item["risk"],
                    (item.get("rollback") or {}).get("safety"),
                    f"goes on at step {item['resume_at']} of {len(item['steps'])}"
                    if item["resume_at"]
                    else f"{len(item['steps'])} steps",
                    f"{item['expected_seconds']} s" if item.get("expected_seconds") else "",
                ]
                for item in found["pending"]
            ]
            headings = ["VERSION", "NAME", "PHASE", "RISK", "ROLLBACK", "STEPS", "EXPECTED"]
            if not any(row[-1] for row in rows):
                headings, rows = headings[:-1], [row[:-1] for row in rows]
            for line in table(headings, rows):
                self.say(f"    {line}")
            if found["later"]:
                self.say(f"    left for another run: {', '.join(found['later'])}")
        return result

    def _refuse_faults(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """What lint.yml would refuse is not applied; an applied version is past changing and is left alone."""
        pending = {item["version"] for found in result["databases"].values() for item in found["pending"]}
        if not pending:
            return
        # What one version makes is new for the next only where every database runs both.
        together = set.intersection(
            *({item["version"] for item in found["pending"]} for found in result["databases"].values())
        )
        found = lint_findings(self.sql_directory(task_vars), self._task.args.get("variables") or {}, together)
        findings = of_versions(found, pending)
        for finding in findings:
            self.say(f"    {finding.severity}: {finding}")
        errors = [finding for finding in findings if finding.severity == "error"]
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            result.update(
                failed=True,
                reason="lint",
                findings=[finding.as_dict() for finding in findings],
                msg=f"Nothing was applied: {errors[0]}{more}. Then: {self.again(task_vars)}",
            )
