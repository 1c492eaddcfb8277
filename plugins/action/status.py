# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the tree, starts the module status and shows its table; documented in the module of the same name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction, seconds, table

# Of a swap that keeps nobody out; another one is told in the place of the status.
_LEFT_TO_DO = {
    "fenced": "look again",
    "opened": "the next rollback.yml takes its marks off and swaps nothing",
    "swapped": "the next rollback.yml writes it",
}


class ActionModule(MigrationAction):
    """A look that changes nothing, and the first check of a connection."""

    PHASE = "status"
    MODULE = "status"
    # What is wrong with the tree; a look goes on all the same.
    _faults: Sequence[Mapping[str, Any]] = ()

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the folders of the tree, unrendered: a template that does not render hides no status."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import scan_tree

        try:
            tree = scan_tree(self.sql_directory(task_vars))
        except PgopsError as error:
            raise AnsibleActionFail(error.message) from None
        for finding in tree.findings:
            self.say(f"{finding}")
        self._faults = [finding.as_dict() for finding in tree.findings]
        given = {name: value for name, value in self._task.args.items() if value not in (None, "")}
        if "prefix" in given:
            given["prefix"] = str(given["prefix"])
        return {
            "migrations": [
                {
                    "version": migration.version,
                    "name": migration.name,
                    "title": migration.title,
                    "checksum": migration.checksum,
                    "files": migration.files,
                    "rollback": migration.rollback,
                }
                for migration in tree.migrations
            ],
            "unreadable": dict(tree.unreadable),
            **given,
        }

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show a table that a person reads."""
        for database, found in (result.get("databases") or {}).items():
            self._show(database, found)
            found["faults"] = self._faults
        return result

    def _show(self, database: str, found: dict[str, Any]) -> None:
        if found["baseline"]:
            self._show_baseline(database, found["baseline"])
        else:
            self._show_versions(database, found)
        if found["swap"]:
            self.say(f"    {found['swap']['told']}; {_LEFT_TO_DO[found['swap']['state']]}")
        beside = found.get("blue_green")
        if beside:
            told = (
                "is kept in step"
                if beside["active"]
                else "DOES NOT GO ON: blue_green.yml -e blue_green_stage=give_up takes it away"
            )
            self.say(
                f"    a blue-green change {told}; its slot {beside['slot']} holds back {beside['held'] / 1048576:,.0f} MB of WAL"
            )
        running = found["running"]
        if running:
            self.say(
                f"    running now: {running['run_id'] or running['application_name']} since {running['since']} "
                f"from {running['ops_host'] or running['client'] or 'an unknown host'}"
            )

    def _show_baseline(self, database: str, baseline: dict[str, Any]) -> None:
        self.say(
            f"{database}: on baseline {baseline['name']} since {baseline['at'][:19].replace('T', ' ')} UTC, recorded by "
            f"{baseline['who']}; its ids are text, so no version of the tree is for it"
        )
        self.say(f"    {baseline['tables']} tables, fingerprint {baseline['fingerprint'][:12]}")
        for ledger in baseline["ledgers"]:
            said = ", ".join(f"{number} {state}" for state, number in sorted(ledger["entries"].items()))
            self.say(f"    {ledger['tool'].capitalize()} said then: {said or 'nothing'}")

    def _show_versions(self, database: str, found: dict[str, Any]) -> None:
        counts = ", ".join(f"{number} {state}" for state, number in found["counts"].items()) or "no versions"
        self.say(f"{database}: {counts}" + ("" if found["ledger"] else "; it has no ledger yet"))
        rows = [
            [
                row["version"],
                row["name"],
                (row["applied_at"] or "")[:19].replace("T", " "),
                row["by"],
                seconds(row["duration_s"]) if row["state"] != "pending" else "",
                (row["rollback"] or {}).get("safety"),
                row["told"],
            ]
            for row in found["versions"]
        ]
        if rows:
            for line in table(["VERSION", "NAME", "APPLIED AT (UTC)", "BY", "DURATION", "ROLLBACK", "STATE"], rows):
                self.say(f"    {line}")
        for row in found["versions"]:
            if row["error"]:
                self.say(f"    {row['version']}: {row['error']}")
