# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module backup_pin and says what came of it; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.plugin_utils.backup_actions import KeptBackupsAction


class ActionModule(KeptBackupsAction):
    """A hold on a backup, or its release."""

    PHASE = "backup_pin"
    MODULE = "backup_pin"
    REMEMBERED = False

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: which backup, whether it is pinned or released, and who asks.

        :raises AnsibleActionFail: neither or both are asked for, or the reason was cut.
        """
        given = {name: str(value) for name, value in self._task.args.items() if value not in (None, "")}
        if "pin" not in given and "unpin" not in given:
            raise AnsibleActionFail(
                "No backup is named: give its id with -e backup_pin=ID -e \"backup_pin_reason='WHY'\", or -e backup_unpin=ID to "
                f"release it; the ids: {self.command(task_vars, 'backup_list.yml')}"
            )
        if "pin" in given and "unpin" in given:
            raise AnsibleActionFail(
                "Both backup_pin and backup_unpin are given; nothing was changed. Give one of them."
            )
        behind = str(task_vars.get("_raw_params") or "")
        if behind and given.get("reason"):
            # Ansible ends a value of -e at its first space and says nothing.
            whole = f"{given['reason']} {behind}"
            raise AnsibleActionFail(
                f"backup_pin_reason was taken as {given['reason']!r}, since a space ends a value; nothing was changed. Quote it twice: "
                f"-e \"backup_pin_reason='{whole}'\""
            )
        return {**given, "who": self.who(task_vars)}

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say what holds the backup now."""
        for database, found in (result.get("databases") or {}).items():
            pins = "; ".join(f"{pin['reason']} ({pin['who']}, {pin['when'][:10]})" for pin in found["pins"])
            held = f"is pinned: {pins}" if pins else "is not pinned any more"
            would = "would be so: " if self._task.check_mode and found["changed"] else ""
            self.say(f"{database}: {would}{found['id']} {held}{'' if found['changed'] else ' (as before)'}")
        return result
