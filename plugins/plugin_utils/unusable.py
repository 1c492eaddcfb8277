# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is typed after a refusal that no repetition passes: another backup, or the run without the name that was refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import BACKUP, NEW_DATABASE, SCRATCH_DATABASE
from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_commands

if TYPE_CHECKING:
    from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction

# The variables that name it.
NAMED_BY: Mapping[str, tuple[str, ...]] = {
    BACKUP: ("backup_path", "rollback_backup", "restore_from", "rehearse_backup", "drill_backup"),
    SCRATCH_DATABASE: ("backup_scratch_database", "rehearse_scratch_database", "drill_scratch_database"),
    NEW_DATABASE: ("restore_into",),
}
# They take the newest backup where none is named, which is the same one again.
_NEWEST = ("prove", "restore_drill")
# The backups that can be named.
PROVED = {"backup_list_only": "proved"}


def commands(action: PgopsAction, what: str, task_vars: dict[str, Any]) -> list[str]:
    """:param what: the error's ``unusable``.
    :return: the commands to type instead; none where the run that was typed may be typed again, as it makes what it uses anew."""
    run = action.typed(task_vars)
    named = [name for name in NAMED_BY[what] if name in typed_commands.typed_variables(run)]
    without = typed_commands.again(typed_commands.without(run, named), action.limit(task_vars))
    if what != BACKUP:
        return [without] if named else []
    if action.PHASE in ("prove", "rehearse") and run.get("backup"):
        return []
    playbook = run.get("playbook")
    if not named and playbook not in (*_NEWEST, "rollback"):
        return []
    look = action.command(task_vars, "backup_list.yml", PROVED)
    if playbook == "rollback":
        return [look, without] if named else [look]
    return [look, action.command(task_vars, "backup.yml")] if playbook in _NEWEST else [look]
