# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuses a run that should not start, and starts the one that may; documented in the module of the same name."""

from __future__ import annotations

import getpass
import os
import shlex
import sys
from typing import Any

from ansible import context
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.release import __version__ as ansible_version
from ansible.utils.display import Display
from ansible.utils.vars import load_extra_vars
from ansible_collections.whitecross.pgops.plugins.plugin_utils import environments

# Everything else of the collection is imported after the versions were looked at: it needs the Python that is missing.

display = Display()

# Set by Ansible itself beside what the user gave with -e.
_NOT_EXTRA = ("ansible_version",)


class ActionModule(ActionBase):
    """Runs on the controller, once a play; starts no module, so no host is reached."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"playbook"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Refuse in one sentence, or start the run."""
        variables = task_vars or {}
        super().run(tmp, variables)
        try:
            environments.check_versions(ansible_version, sys.version_info)
            return self._start(variables)
        except environments.Refusal as refusal:
            return {"failed": True, "refused": True, "msg": str(refusal)}

    def _value(self, task_vars: dict[str, Any], variable: str) -> Any:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.pgops_variables import SHARED_VARIABLES

        value = task_vars.get(variable)
        if value is not None:
            value = self._templar.template(value)
        return SHARED_VARIABLES[variable].default if value in (None, "", []) else value

    def _start(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_commands
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal, new_run_id, now

        hosts = list(task_vars["ansible_play_hosts_all"])
        variables_of = {host: self._variables_of(host, task_vars) for host in hosts}
        self._check_names(variables_of)

        limit = str(task_vars.get("ansible_limit") or context.CLIARGS.get("subset") or "")
        groups = task_vars["groups"]
        given = typed_commands.given(self._loader)
        command = typed_commands.before_limit({typed_commands.GIVEN: given}, environments.typed_command())
        production = list(self._value(task_vars, "pgops_production_environments"))
        environment = environments.choose_environment(
            hosts,
            {host: list(variables_of[host]["group_names"]) for host in hosts},
            limit,
            list(self._value(task_vars, "pgops_environments")),
            production,
            {*groups, *groups["all"]},
            command,
        )
        phases = environments.choose_phases(task_vars.get("pgops_phases") and self._value(task_vars, "pgops_phases"))
        environments.refuse_unproved_production(phases, environment, production)
        for host in hosts:
            if not variables_of[host].get("pgops_database") and not variables_of[host].get("pgops_databases"):
                raise environments.Refusal(
                    f"pgops_database is not set for {host}; name it in inventories/group_vars/{environment}/ or type: "
                    f"{command} -l {shlex.quote(limit or environment)} -e pgops_database=NAME"
                )

        try:
            who = os.environ.get("SUDO_USER") or getpass.getuser()
        except (KeyError, OSError):
            who = str(os.getuid())
        run: dict[str, Any] = {
            "id": new_run_id(),
            "environment": environment,
            "playbook": str(self._task.args.get("playbook") or environments.playbook_name()),
            "command": environments.typed_command(),
            "limit": limit,
            "who": who,
            "ops_host": os.uname().nodename,
            "started": now(),
            "check_mode": bool(self._task.check_mode),
            "hosts": [str(host) for host in hosts],
            "phases": phases,
            "tags": [str(tag) for tag in task_vars.get("ansible_run_tags") or []],
            "skip_tags": [str(tag) for tag in task_vars.get("ansible_skip_tags") or []],
            # Names only: a value may be a password.
            "extra_variables": sorted(str(name) for name in load_extra_vars(self._loader) if name not in _NOT_EXTRA),
        }
        if task_vars.get("pgops_json"):
            run["json"] = str(self._templar.template(task_vars["pgops_json"]))
        if not self._task.check_mode:
            state = str(self._value(task_vars, "pgops_state_directory"))
            try:
                journal = Journal(state, environment, run["id"])
                journal.append(
                    {"event": "run_started", "pid": os.getppid(), **{key: run[key] for key in run if key != "started"}}
                )
            except OSError as error:
                raise AnsibleActionFail(
                    f"Cannot write the journal of the run below {error.filename or state}: {error.strerror}; name a folder "
                    "that you may write with -e pgops_state_directory=FOLDER."
                ) from error
            run["journal"] = str(journal.path)
        # Not in the journal: only this run prints commands.
        run[typed_commands.GIVEN] = given
        display.display(
            f"pgops run {run['id']}: {run['playbook']} in {environment} ({', '.join(run['hosts'])}) by {who} on {run['ops_host']}"
            f", started {run['started']}{', check mode: nothing is written' if self._task.check_mode else ''}"
        )
        return {"changed": False, "run": run, "ansible_facts": {"__pgops_run": run}}

    @staticmethod
    def _variables_of(host: str, task_vars: dict[str, Any]) -> Any:
        if host == task_vars["inventory_hostname"]:
            return task_vars
        # raw: a template in somebody else's variable is none of the guard's business.
        return task_vars["hostvars"].raw_get(host)

    @staticmethod
    def _check_names(variables_of: dict[str, Any]) -> None:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.variables import (
            known_variables,
            unknown_variables,
        )

        known = known_variables()
        for host, variables in variables_of.items():
            unknown = unknown_variables(variables, known)
            if unknown:
                listed = ", ".join(map(str, unknown))
                verb = "is no variable" if len(unknown) == 1 else "are no variables"
                raise environments.Refusal(
                    f"{listed} {verb} of this collection (set for {host}); correct the name where it is set, "
                    "ansible-doc -t role whitecross.pgops.migrate lists a role's variables"
                )
