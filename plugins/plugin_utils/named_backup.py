# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A backup that ``backup_path`` names is for a run that makes none: another one says nothing of the state that a run is about to change."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction

VARIABLE = "backup_path"


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
