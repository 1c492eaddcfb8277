# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks for the name of the database that is about to be rolled back; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsiblePromptInterrupt, AnsiblePromptNoninteractive
from ansible.utils.display import Display
from ansible_collections.whitecross.pgops.plugins.module_utils.extra_variables import extra_variables_argument
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import without_secrets

# What says which rollback it is, in the command that is told to be typed next.
_ASKED_FOR = (
    "rollback_strategy",
    "rollback_steps",
    "rollback_keep",
    "rollback_through",
    "rollback_version",
    "rollback_backup",
    "rollback_swap_to",
    "rollback_restore_point",
    "rollback_to_time",
    "rollback_kept_cluster",
    "rollback_whole_cluster",
)

display = Display()


class ActionModule(PgopsAction):
    """Runs on the controller; starts no module."""

    _requires_connection = False
    _VALID_ARGS = frozenset({"answer", "databases", "variable", "what"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Go on when every database is named; ask at a terminal, refuse without one."""
        variables = task_vars or {}
        databases = list(self._task.args.get("databases") or self.pgops(variables, "databases") or [])
        answer = self._task.args.get("answer")
        wanted = ",".join(databases)
        if self._task.check_mode:
            return {"changed": False, "confirmed": False, "msg": f"check mode: would ask for {wanted}"}
        if not answer:
            try:
                given = display.prompt_until(
                    f"Type the name of the database ({wanted}) to go on, anything else to stop: "
                )
                answer = given.decode("utf-8", "replace").strip() if isinstance(given, bytes) else str(given).strip()
            except AnsiblePromptNoninteractive:
                return self._refused(variables, wanted, "nobody is there to be asked")
            except AnsiblePromptInterrupt:
                return self._refused(variables, wanted, "it was interrupted")
        if self._names(answer) != sorted(databases):
            return self._refused(variables, wanted, f"{answer!s} was given")
        return {"changed": False, "confirmed": True}

    @staticmethod
    def _names(answer: Any) -> list[str]:
        names = answer if isinstance(answer, list) else str(answer).split(",")
        return sorted(str(name).strip() for name in names)

    def _refused(self, task_vars: dict[str, Any], wanted: str, why: str) -> dict[str, Any]:
        host = task_vars.get("inventory_hostname")
        variable = str(self._task.args.get("variable") or "rollback_confirm")
        what = str(self._task.args.get("what") or "rollback")
        choice = {}
        for name in _ASKED_FOR if variable == "rollback_confirm" else ("rollback_keep_days",):
            value = self._templar.template(task_vars.get(name))
            if value not in (None, "") and (name, value) != ("rollback_strategy", "down"):
                choice[name] = value
        confirmed = {variable: wanted}
        return {
            "failed": True,
            "msg": f"The {what} of {wanted} on {host} was not confirmed ({why}); nothing was changed. Read what is lost, "
            f"then add {extra_variables_argument(confirmed)}",
            "next": [self.again(task_vars, without_secrets({**choice, **confirmed}))],
        }
