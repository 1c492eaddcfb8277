# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which backup a run works on: its own, or the one that ``backup_path`` names, and never both.

A named one says nothing of the state that a run is about to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction

VARIABLE = "backup_path"


def of_this_run(made: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """:param made: what the task that backs up left in the run, by database.
    :return: of those that have a backup its path, and the manifest that it had then."""
    return {
        name: {"path": entry["path"], "manifest_sha256": entry["manifest_sha256"]}
        for name, entry in made.items()
        if "path" in entry
    }


def refuse_beside_own(action: PgopsAction, task_vars: dict[str, Any], path: Any) -> None:
    """For a task of a run that makes a backup, or has made one.

    :param path: what ``backup_path`` names; empty where it is not set.
    :raises AnsibleActionFail: it names one.
    """
    if not path:
        return
    run = typed_commands.without(action.typed(task_vars), [VARIABLE])
    command = typed_commands.again(run, action.limit(task_vars))
    raise AnsibleActionFail(
        f"{VARIABLE} names {path}, and this run makes a backup of its own, which is the one that is proved and copied; leave it out. "
        f"Then: {command}",
        result={"next": [command]},
    )
