# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes what a version does and what it needs; documented in the module of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.plugin_utils import request_page
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction


class ActionModule(MigrationAction):
    """Runs on the controller, once a play; starts no module."""

    PHASE = "request"
    _requires_connection = False
    _VALID_ARGS = frozenset({"version", "page", "by"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write page and JSON, and say where they are."""
        variables = task_vars or {}
        run = self.run_fact(variables)
        version = str(self._task.args["version"])
        by = str(self._task.args.get("by") or run.get("who") or "")
        document = request_page.document(run, version, by, self._places(variables))
        for line in request_page.lines(document):
            self.say(line)
        if self._task.check_mode:
            return {"changed": False, "request": document}
        state = str(self.pgops(variables, "state_directory"))
        given = self._task.args.get("page")
        page = Path(str(given)).expanduser() if given else request_page.path_of(state, document)
        if page.suffix == ".json":
            raise AnsibleActionFail(
                f"request_page is {page}, and the JSON file beside the page has that name; let it end in .html"
            )
        try:
            request_page.write(page, document)
        except OSError as fault:
            raise AnsibleActionFail(f"The page cannot be written ({fault.filename}): {fault.strerror}") from None
        self.say(f"page: {page}")
        return {"changed": True, "page": str(page), "request": document}

    def _places(self, task_vars: dict[str, Any]) -> list[dict[str, Any]]:
        places = []
        for host in map(str, task_vars["ansible_play_hosts_all"]):
            variables = task_vars if host == task_vars["inventory_hostname"] else task_vars["hostvars"].raw_get(host)
            run = self.run_fact(variables)
            for database, plan in (run.get("plan") or {}).items():
                verdict = ((run.get("gate") or {}).get(database) or {}).get("gate")
                places.append({"host": host, "database": str(database), "plan": plan, "verdict": verdict})
        return places
