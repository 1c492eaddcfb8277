# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module backup_rekey with the private key and says what came of it; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.plugin_utils import identity, reporting


class ActionModule(identity.IdentityAction):
    """Old backups, encrypted to the keys of today."""

    PHASE = "backup_rekey"
    MODULE = "backup_rekey"
    REMEMBERED = False
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, with the key and the environment of the run.

        :raises AnsibleActionFail: there is no public key, or one of them is none.
        """
        identity.refuse_recipients(self._task.args.get("encrypt_to") or [])
        if not self._task.args.get("encrypt_to"):
            raise AnsibleActionFail(
                "backup_encrypt_to names no public key, so nothing can be encrypted to another one. Name the public keys that the backups "
                "are to be encrypted to; age-keygen -y FILE prints that of a private one."
            )
        arguments = super().module_arguments(task_vars)
        return {**arguments, "environment": str(self.run_fact(task_vars).get("environment") or "")}

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say what was encrypted anew, of a run that failed as well, and which copies were not."""
        checked = self._task.check_mode and not result.get("failed")
        verb = "would be encrypted anew" if checked else "encrypted anew"
        for database, found in (result.get("databases") or {}).items():
            self.say(
                f"{database}: {len(found['rekeyed'])} {verb}, {len(found['same'])} are to these keys already, "
                f"{len(found['left'])} left as they are in {found['folder']}"
            )
            for entry in found["rekeyed"]:
                proof = f"proof of level {entry['level']} holds" if entry["level"] else "not proved, as before"
                took = "" if checked else f" in {entry['seconds']:.1f} s"
                self.say(f"    {entry['id']} ({reporting.size(entry['bytes'])}){took}, {proof}")
                for place in entry["copies"]:
                    self.say(f"    {entry['id']}: its copy is encrypted to the keys from before: {place}")
            for entry in found["left"]:
                self.say(f"    left: {entry['id']}: {entry['told']}")
        return result
