# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the tree and starts the module test_migration; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction, seconds

VERSION = "test_migration_version"


def _newest(tree: list[dict[str, Any]]) -> dict[str, str]:
    """:return: the choice of the tree's last version; none in an empty tree."""
    versions = sorted(str(migration["version"]) for migration in tree)
    return {VERSION: versions[-1]} if versions else {}


class ActionModule(MigrationAction):
    """Up, down, up - never where production data is."""

    PHASE = "test_migration"
    MODULE = "test_migration"
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the rendered tree and the version. :raises AnsibleActionFail: in production, or without a version."""
        environment = self.run_fact(task_vars).get("environment")
        version = str(self._task.args.get("version") or "")
        if environment in self.pgops(task_vars, "production_environments"):
            command = self.local(task_vars, version)
            raise AnsibleActionFail(
                f"A version is not tested in {environment}, where production data is; type: {command}",
                result={"next": [command]},
            )
        tree = self.rendered_tree(task_vars)
        if not version:
            command = self.again(task_vars, _newest(tree))
            raise AnsibleActionFail(f"Which version? The newest, type: {command}", result={"next": [command]})
        return {"version": version, "migrations": tree}

    def local(self, task_vars: dict[str, Any], version: str) -> str:
        """:return: the command for the environment local, without the database of another environment."""
        choice = {VERSION: version} if version else _newest(self.rendered_tree(task_vars))
        return typed_commands.again({**self.typed(task_vars), typed_commands.GIVEN: {}}, "local", choice)

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """A few lines a database."""
        for database, found in (result.get("databases") or {}).items():
            self.say(
                f"{database}: {found['version']} {found['name']}: up {seconds(found['up_s'])}, down {seconds(found['down_s'])}, "
                f"up again {seconds(found['again_s'])}: {'PASSED' if found['passed'] else 'FAILED'}"
            )
            for difference in found["after_down"]:
                self.say(f"    after the way down: {difference}")
            for difference in found["after_again"]:
                self.say(f"    after the second way up: {difference}")
            if found["after_down"] and found["stays"]:
                self.say(f"    declared ({found['safety']}): {found['stays']}")
        return result
