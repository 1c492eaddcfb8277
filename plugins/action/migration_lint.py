# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lists what is wrong with a migration tree; documented in the module of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    migration_lint,
    migration_tree,
    named_checks,
    quality,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.tree_action import TreeAction


class ActionModule(TreeAction):
    """Reads files on the controller only."""

    PLAYBOOK = "lint"
    _VALID_ARGS = frozenset({"sql", "variables"})

    def work(self, directory: Path, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: every finding; failed if one of them is an error."""
        tree = migration_tree.scan_tree(directory)
        findings = migration_lint.lint(tree, self._task.args.get("variables") or {})
        findings += named_checks.scan_checks(directory, [migration.version for migration in tree.migrations])[1]
        errors = sum(1 for finding in findings if finding.severity == "error")
        warnings = len(findings) - errors
        for finding in findings:
            self.say(f"    {finding.severity:<7}  {finding.location}  {finding.message} [{finding.rule}]")
        count = f"{len(tree.migrations)} migrations, {errors} errors, {warnings} warnings"
        self.say(f"    {count} in {tree.directory}")
        criteria = quality.score(findings)
        met = sum(criterion["met"] for criterion in criteria)
        self.say(f"    quality: {met} of {len(criteria)} criteria are met")
        for criterion in criteria:
            if not criterion["met"]:
                self.say(f"    not met: {criterion['title']} ({', '.join(criterion['rules'])})")
        result: dict[str, Any] = {
            "changed": False,
            "directory": str(tree.directory),
            "versions": [migration.version for migration in tree.migrations],
            "errors": errors,
            "warnings": warnings,
            "findings": [finding.as_dict() for finding in findings],
            "score": met,
            "criteria": criteria,
        }
        if errors:
            first = next(finding for finding in findings if finding.severity == "error")
            more = f", and {errors - 1} more" if errors > 1 else ""
            result |= {
                "failed": True,
                "msg": f"{first}{more}",
                "next": [f"correct the files and type: {self.command('lint')}"],
            }
        return result
