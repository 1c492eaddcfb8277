# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes the files of a new migration; documented in the module of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import scaffold
from ansible_collections.whitecross.pgops.plugins.plugin_utils.tree_action import TreeAction


class ActionModule(TreeAction):
    """Writes on the controller only."""

    PLAYBOOK = "new_migration"
    VARIABLES = ("new_migration_name",)
    _VALID_ARGS = frozenset({"sql", "name"})

    def work(self, directory: Path, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the version, its folder and its files; in check mode as they would be."""
        new = scaffold.plan(directory, str(self._task.args.get("name") or ""))
        if not self._task.check_mode:
            scaffold.write(new)
        verb = "would be written" if self._task.check_mode else "written"
        self.say(f"    {new.folder} {verb}; edit its files, then type: {self.command('lint')}")
        return {
            "changed": True,
            "version": new.version,
            "name": new.name,
            "path": str(new.folder),
            "files": sorted(new.files),
            "next": [
                self.command("lint"),
                self.command("test_migration", "local", {"test_migration_version": new.version}),
            ],
            "diff": [
                {"before": "", "before_header": "(absent)", "after": text, "after_header": str(new.folder / name)}
                for name, text in sorted(new.files.items())
            ],
        }
