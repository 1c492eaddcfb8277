# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module backup and says what it left; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    emergency_backup,
    identity,
    named_backup,
    proof_levels,
    reporting,
)

# The purpose is in the folder's name, so that one sees years later why it was made.
_PURPOSES = {"migrate": "before_migration", "rollback": "before_rollback"}


class ActionModule(emergency_backup.TolerantAction):
    """The backup of a run."""

    PHASE = "backup"
    MODULE = "backup"
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, with the purpose that the playbook gives."""
        run = self.run_fact(task_vars)
        arguments = super().module_arguments(task_vars)
        named_backup.refuse_beside_own(
            self, task_vars, self._templar.template(task_vars.get(named_backup.VARIABLE) or "")
        )
        arguments["purpose"] = arguments.get("purpose") or _purpose(run)
        arguments.setdefault("environment", str(run.get("environment") or ""))
        arguments["phi"] = {
            database: any(bool(version.get("phi", True)) for version in found.get("pending") or [])
            for database, found in (run.get("plan") or {}).items()
        }
        if arguments.get("encrypt_to"):
            identity.refuse_recipients(arguments["encrypt_to"])
            if not self.tolerated():  # there the proof is missed, and that is told
                self._refuse_unprovable(run, task_vars)
        return arguments

    def _refuse_unprovable(self, run: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """A backup of an hour that its own run cannot prove is told before it is begun; one that was asked for without is made."""
        given = self._templar.template(task_vars.get("backup_identity_file") or "")
        if proof_levels.proves(run, task_vars) and not given:
            raise AnsibleActionFail(
                "backup_encrypt_to is set and backup_identity_file is not: the backup of this run could not be proved, so it was "
                "not begun. Name the file of a private key on the ops host with -e backup_identity_file=FILE."
            )

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say where the backups are, and what no dump holds."""
        result = self.told_missed(result, task_vars, "backup")
        for database, found in (result.get("databases") or {}).items():
            if "path" not in found:
                for line in _would_read(found):
                    self.say(f"{database}: {line}")
                continue
            self.say(
                f"{database}: backed up {found['tables']} tables, {found['rows']} rows in {found['seconds']:.1f} s "
                f"to {found['path']} ({reporting.size(found['bytes'])}{_encrypted(found)})"
            )
            for line in _was_read(found):
                self.say(f"{database}: {line}")
            if found["globals"]["role_passwords"]:
                self.say(f"{database}: with the password hashes of its roles")
            for entry in found["not_included"]:
                self.say(f"{database}: not in the backup: {entry['object']} ({entry['why']})")
        return result


def _purpose(run: dict[str, Any]) -> str:
    """:return: by the playbook that was typed; in one of the site's own, which imports a migration, by the plan that it has made."""
    return _PURPOSES.get(str(run.get("playbook"))) or (_PURPOSES["migrate"] if "plan" in run else "manual")


def _was_read(found: dict[str, Any]) -> list[str]:
    standby = found.get("standby")
    if standby:
        where = f"{standby['host']}:{standby['port']}"
        after = f"{standby['waited_seconds']:.1f} s"
        return [
            f"read from the standby {where}, which after {after} had replayed all that was written before the backup began"
        ]
    why = found.get("primary_because")
    return [f"read from the primary. {why}"] if why else []


def _would_read(found: dict[str, Any]) -> list[str]:
    if "standby" not in found:
        return []
    if found["standby"]:
        return [f"would be read from the standby {found['standby']}"]
    return [f"would be read from the primary: {'; '.join(found['unfit'])}"]


def _encrypted(found: dict[str, Any]) -> str:
    encryption = found.get("encryption")
    keys = len(encryption["recipients"]) if encryption else 0
    return f", encrypted to {keys} key{'' if keys == 1 else 's'}" if keys else ""
