# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes the files of a new migration; documented in the module of the same name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import patterns, scaffold
from ansible_collections.whitecross.pgops.plugins.plugin_utils.tree_action import TreeAction


class ActionModule(TreeAction):
    """Writes on the controller only."""

    PLAYBOOK = "new_migration"
    VARIABLES = (
        "new_migration_name",
        "new_migration_pattern",
        *(f"{patterns.PREFIX}{name}" for name in patterns.variables()),
    )
    _VALID_ARGS = frozenset({"sql", "name", "pattern", "variables"})

    def work(self, directory: Path, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the versions, their folders and files; in check mode as they would be."""
        args = self._task.args
        new = scaffold.plan(
            directory,
            str(args.get("name") or ""),
            pattern=str(args.get("pattern") or ""),
            variables=self._given(task_vars),
            command=lambda name: self.again({"new_migration_name": name}),
        )
        if not self._task.check_mode:
            scaffold.write_all(new)
        verb = "would be written" if self._task.check_mode else "written"
        for migration in new:
            self.say(f"    {migration.folder} {verb}")
        self.say(f"    edit the files, then type: {self.command('lint')}")
        made = [
            {
                "version": migration.version,
                "name": migration.name,
                "path": str(migration.folder),
                "files": sorted(migration.files),
            }
            for migration in new
        ]
        return {
            "changed": True,
            **made[0],
            "migrations": made,
            "next": [
                self.command("lint"),
                *(
                    self.command("test_migration", "local", {"test_migration_version": migration.version})
                    for migration in new
                ),
            ],
            "diff": [
                {
                    "before": "",
                    "before_header": "(absent)",
                    "after": text,
                    "after_header": str(migration.folder / name),
                }
                for migration in new
                for name, text in sorted(migration.files.items())
            ],
        }

    def _given(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """What the pattern is to be filled with: the task's own, else the variables of the playbook."""
        own = self._task.args.get("variables")
        if own is not None:
            if not isinstance(own, Mapping):
                raise PgopsError("'variables' is a mapping of what the pattern asks for")
            return dict(own)
        given = {name: self._value(task_vars, f"{patterns.PREFIX}{name}") for name in patterns.variables()}
        return {name: value for name, value in given.items() if value is not None}
