# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hands the private key of a backup from the ops host to the host where a restore runs, for as long as it takes to read it.

There it lies in a file system in memory, mode 0600, and the module removes it before it does anything else: a key that stayed on the
database's host would open every backup to whoever takes that host.
"""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible_collections.whitecross.pgops.plugins.module_utils import encryption
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction

MEMORY = "/dev/shm"
PREFIX = "pgops-identity."
# One that a killed run has left; a key is read within seconds.
FORGOTTEN_MIN = 60


class IdentityAction(PgopsAction):
    """Base of the actions whose module takes ``identity_file``."""

    _handed_over: str | None = None

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """As ever; the key is taken back however it ends."""
        try:
            return super().run(tmp, task_vars)
        finally:
            self._take_back()

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, with the key where the module can read it."""
        arguments = super().module_arguments(task_vars)
        given = str(arguments.pop("identity_file", None) or "")
        if given:
            path = os.path.abspath(os.path.expanduser(given))
            data = _checked(path)
            if self._connection.transport == "local" and not self._connection.become:
                arguments["identity_file"] = path
            else:
                arguments.update(identity_file=self._hand_over(data, task_vars), identity_once=True)
        return arguments

    def _hand_over(self, data: bytes, task_vars: dict[str, Any]) -> str:
        # By the connection's own shell: whatever a module is given lies in a file on the host's disk before the module runs, and
        # only a command has an input that lies nowhere.
        command = (
            f"umask 077; find {MEMORY} -maxdepth 1 -name '{PREFIX}*' -user \"$(id -u)\" -mmin +{FORGOTTEN_MIN} "
            f'-exec rm -rf {{}} + ; d=$(mktemp -d {MEMORY}/{PREFIX}XXXXXXXXXX) && printf \'%s\' "$d" && cat > "$d/key"'
        )
        done = self._low_level_execute_command(command, in_data=data)
        folder = str(done.get("stdout", "")).strip().rpartition("\n")[2].strip()
        if folder.startswith(f"{MEMORY}/{PREFIX}"):
            self._handed_over = folder
        if done.get("rc") != 0 or self._handed_over is None:
            raise AnsibleActionFail(
                f"The private key was not handed to {task_vars.get('inventory_hostname')}: nothing can be kept in memory there "
                f"({MEMORY} cannot be written)."
            )
        return f"{folder}/key"

    def _take_back(self) -> None:
        if self._handed_over:
            with suppress(AnsibleConnectionFailure):  # the next one removes it
                self._low_level_execute_command(f"rm -rf {shlex.quote(self._handed_over)}")
            self._handed_over = None


def _checked(path: str) -> bytes:
    try:
        return encryption.read_identity(path)
    except PgopsError as error:
        raise AnsibleActionFail(error.message, result={"msg": error.message, **error.as_dict()}) from None


def refuse_recipients(recipients: Any) -> None:
    """Look at public keys before they are shown or sent anywhere.

    :raises AnsibleActionFail: one is none, or a private one, which is not repeated.
    """
    try:
        encryption.refuse_recipients(recipients)
    except PgopsError as error:
        raise AnsibleActionFail(error.message, result={"msg": error.message, **error.as_dict()}) from None
