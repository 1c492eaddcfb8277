# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is named to be restored, looked at before any host is asked."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.unusable import PROVED


def whole_path(action: PgopsAction, given: Any, task_vars: dict[str, Any]) -> str:
    """:param given: ``restore_from``.
    :return: the path, as it was given.
    :raises AnsibleActionFail: none was given, or one that means another place wherever it is read."""
    look = {"next": [action.command(task_vars, "backup_list.yml", PROVED)]}
    if not given:
        raise AnsibleActionFail(
            "restore_from is not set; name a backup's folder or a dump on the inventory host with -e restore_from=PATH.",
            result=look,
        )
    path = str(given)
    if not path.startswith(("/", "~", "$")):
        raise AnsibleActionFail(
            f"restore_from={path} is relative to wherever the module runs; give the whole path of a backup's folder or a dump on the "
            "inventory host.",
            result=look,
        )
    return path
