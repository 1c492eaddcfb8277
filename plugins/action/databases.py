# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the module databases; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction

_CANNOT_CONNECT = ("08", "57P")


def _cannot_connect(result: dict[str, Any]) -> bool:
    return str(result.get("sqlstate") or "").startswith(_CANNOT_CONNECT)


class ActionModule(PgopsAction):
    """Once a host, before its first phase."""

    PHASE = "databases"
    MODULE = "databases"

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the query, and the database in which it runs."""
        return {"query": self._task.args["query"], "databases": [self.pgops(task_vars, "maintenance_database")]}

    def connection_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: those of every module; which databases there are is yet to be asked."""
        self._task.args.setdefault("databases", [self.pgops(task_vars, "maintenance_database")])
        return super().connection_arguments(task_vars)

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say how many there are. :raises AnsibleActionFail: the canary is none of them, nor a host."""
        if result.get("failed") and _cannot_connect(result) and self.run_fact(task_vars).get("playbook") == "rollback":
            # A rollback that was cut off leaves the server down; what finishes it needs no query.
            result["hint"] = (
                "A server that a rollback has stopped answers no query: name the databases in its place, with "
                '-e \'{"pgops_databases": ["NAME"]}\', several with commas.'
            )
        names = list(result.get("databases") or {})
        if result.get("failed") or not names:
            return result
        run, host = self.run_fact(task_vars), task_vars["inventory_hostname"]
        hosts, canary = run.get("hosts") or [], run.get("canary") or []
        unknown = [name for name in canary if name not in names and name not in hosts]
        # The host that goes first is the one whose databases are meant; of two that do, either may have it.
        first = [name for name in canary if name in hosts] or list(hosts)
        if unknown and first == [host]:
            raise AnsibleActionFail(
                f"migrate_canary names {', '.join(unknown)}, which pgops_databases_query does not give on {host}; nothing was done."
            )
        self.say(f"{host}: {len(names)} databases by pgops_databases_query")
        return result
