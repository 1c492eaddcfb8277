# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the module verify and shows what passed and what did not; documented in the module of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import promotion, verification
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.unbroken import Screen

display = Screen()


class ActionModule(MigrationAction):
    """Verify; a difference fails the task after everything was shown."""

    PHASE = "verify"
    MODULE = "verify"
    LIVE = True
    REMEMBERED = False

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's own, the checks of the tree, and what this run has applied: it must be applied still.

        :raises AnsibleActionFail: a check that cannot be read, or a file of evidence that is another environment's.
        """
        applied = self._applied(task_vars)
        self._refuse_evidence(task_vars)
        checks = self.named_checks(task_vars)
        own = {name: value for name, value in self._task.args.items() if name != "evidence"}
        began = self._log_began(task_vars)
        return {
            **own,
            "checks": checks,
            **({"applied": applied} if applied else {}),
            **({"log_began": began} if began else {}),
        }

    def _log_began(self, task_vars: dict[str, Any]) -> dict[str, Any] | None:
        """:return: where the server's log was when the run first looked at a database."""
        seen = self.run_fact(task_vars).get("preflight") or {}
        places = (((found or {}).get("facts") or {}).get("server_log") for found in seen.values())
        return next((place for place in places if place), None)

    def begun(self) -> dict[str, Any]:
        """:return: where the evidence goes if not to its usual place; the run's report writes it."""
        given = self._task.args.get("evidence")
        return {"evidence": str(given)} if given else {}

    def _applied(self, task_vars: dict[str, Any]) -> dict[str, list[str]]:
        run = self.run_fact(task_vars)
        done = run.get("apply") or run.get("blue_green") or {}
        return {
            database: [item["version"] for item in (found or {}).get("applied") or []]
            for database, found in done.items()
        }

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show one line an object, or one a kind where all passed, and the end in one word; what to type after a failure."""
        verbose = boolean(self._task.args.get("verbose", False), strict=False)
        for database, found in (result.get("databases") or {}).items():
            for line in verification.screen(database, found, verbose=verbose):
                self.say(line)
        if not self._task.check_mode:
            self._withdraw_evidence(result, task_vars)
        if result.get("failed") and result.get("databases"):
            commands = [self.command(task_vars, "verify.yml")]
            applied = sorted(version for versions in self._applied(task_vars).values() for version in versions)
            if applied and "apply" in self.run_fact(task_vars) and self._is_of_versions(result):
                # The first of this run, so that all of it goes.
                commands.append(self.command(task_vars, "rollback.yml", {"rollback_through": applied[0]}))
            result.setdefault("next", commands)
        return result

    @staticmethod
    def _is_of_versions(result: dict[str, Any]) -> bool:
        """:return: whether something failed that a version makes: what none makes stays where one goes back."""
        findings = [finding for found in result["databases"].values() for finding in found.get("findings") or []]
        return any(finding["level"] == "fail" and finding["declared"] for finding in findings)

    def _evidence(self, task_vars: dict[str, Any]) -> tuple[Path, str] | None:
        """:return: the file for the next environment and whose it is; None where there is no next one."""
        environment = str(self.run_fact(task_vars).get("environment") or "")
        # A run that named no environment is nobody's evidence, nor is one of production: it is the last.
        if not environment or environment in self.pgops(task_vars, "production_environments"):
            return None
        given = self._task.args.get("evidence")
        return promotion.path_of(self.pgops(task_vars, "state_directory"), environment, given), environment

    def _refuse_evidence(self, task_vars: dict[str, Any]) -> None:
        evidence = self._evidence(task_vars)
        try:
            if evidence is not None:
                promotion.refuse_another(*evidence)
        except PgopsError as fault:
            raise AnsibleActionFail(f"Nothing was verified: {fault.message}.") from None

    def _withdraw_evidence(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """What holds no longer goes now; what this run has applied counts when the run has ended well, by its report."""
        evidence, host = self._evidence(task_vars), str(task_vars.get("inventory_hostname"))
        if evidence is None:
            return
        applied = self._applied(task_vars)
        try:
            for database, found in (result.get("databases") or {}).items():
                ledger = found.get("ledger") if found.get("passed") else None
                of_before = {
                    version: row for version, row in (ledger or {}).items() if version not in applied.get(database, [])
                }
                promotion.withdraw(*evidence, host, database, of_before)
        except (OSError, PgopsError) as fault:
            told = fault.message if isinstance(fault, PgopsError) else f"{fault.filename}: {fault.strerror}"
            display.warning(f"The evidence for the next environment is as it was before this verification: {told}")
