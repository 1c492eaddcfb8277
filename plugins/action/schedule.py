# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Puts the commands of the timers together, starts the module schedule and shows them; documented in the module of the same name."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils import timer_state
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    declared_retention,
    mailbox,
    notification,
    schedule_jobs,
    typed_commands,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import ROOT, display
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import table
from ansible_collections.whitecross.pgops.plugins.plugin_utils.ops_host_action import OpsHostAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.schedule_jobs import ScheduledPlaybook
from ansible_collections.whitecross.pgops.plugins.plugin_utils.variables import COLLECTION_ROOT, role_options

# What schedule.yml may be given with -e: of this run alone, and not of those that it has run.
_OF_THIS_RUN = ("schedule_", "pgops_json", "pgops_progress", "pgops_poll_interval")
_PROGRAM = "ansible_collections/whitecross/pgops/plugins/plugin_utils/scheduled_job.py"
# Files with secrets that each run needs, wherever the databases are.
_SECRET_FILES = ("backup_identity_file",)


class ActionModule(OpsHostAction):
    """Runs once for the whole environment; reaches no database."""

    PHASE = "schedule"
    MODULE = "schedule"
    REMEMBERED = False

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: what is to be, with whole paths. :raises AnsibleActionFail: something that cannot be meant"""
        args = dict(self._task.args)
        directory = str(args.get("directory") or Path.cwd())
        shared = {
            "environment": self.environment(task_vars),
            "state": args["state"],
            "manager": args["manager"],
            "run_as": str(args.get("run_as") or pwd.getpwuid(os.geteuid()).pw_name),
            "directory": directory,
            "state_directory": str(self.pgops(task_vars, "state_directory")),
        }
        if args["state"] == "absent":
            return shared
        self._refuse_typed(task_vars)
        try:
            jobs = self._jobs(directory, task_vars)
        except schedule_jobs.Refused as refused:
            raise AnsibleActionFail(f"{refused}; nothing was installed.") from None
        return {
            **shared,
            "jobs": self._commands(jobs, directory, task_vars),
            "needed": self._needed(jobs, task_vars),
            "program": [self._python(), "-P", f"{ROOT}/{_PROGRAM}"],
            "credentials": self._credentials(task_vars),
            **self._told(task_vars),
            "write_paths": self._write_paths(jobs, task_vars),
            "directives": [str(line) for line in args.get("directives") or []],
            "lock_wait": args["lock_wait"],
            "grace": args["grace"],
        }

    def _refuse_typed(self, task_vars: dict[str, Any]) -> None:
        """A timer types no -e of today: what was given so would quietly be another environment tomorrow."""
        given = self.typed(task_vars)[typed_commands.GIVEN]
        lost = sorted(name for name in given["variables"] if not name.startswith(_OF_THIS_RUN))
        lost += [f"@{path}" for path in given["files"]]
        if lost:
            raise AnsibleActionFail(
                f"{', '.join(lost)} was given with -e, which no timer would have; nothing was installed. Put it into "
                f"inventories/group_vars/{self.environment(task_vars)}/, or into schedule_variables."
            )

    def _jobs(self, directory: str, task_vars: dict[str, Any]) -> list[ScheduledPlaybook]:
        jobs, absent = schedule_jobs.chosen(
            self._templar.template(self._task.args.get("jobs")),
            self._task.args.get("variables") or {},
            lambda playbook: (Path(directory) / _found(directory, playbook)).is_file(),
            lambda job: self._lacks(job, task_vars),
        )
        for name, why in absent.items():
            self.say(f"    {name}: no timer, since {why}")
        if not jobs:
            raise schedule_jobs.Refused("schedule_jobs names no job")
        return jobs

    def _lacks(self, job: ScheduledPlaybook, task_vars: dict[str, Any]) -> str | None:
        """:return: why the job would fail each time; None where it need not."""
        if Path(job.playbook).name != "retention.yml":
            return None
        if not self._policy(job, task_vars):
            return "no policy is declared: retention.yml in the tree that pgops_sql names, or retention_policy_file"
        if not self._value("retention_archive_directory", job, task_vars):
            return "retention_archive_directory names no folder for the rows that it archives"
        return None

    def _policy(self, job: ScheduledPlaybook, task_vars: dict[str, Any]) -> str:
        """:return: the file of the policy for rows; empty where there is none."""
        named = self._value("retention_policy_file", job, task_vars)
        tree = self._value("pgops_sql", job, task_vars) or str(COLLECTION_ROOT / "sql")
        usual = Path(tree).expanduser() / declared_retention.FILE
        return named or (str(usual) if usual.is_file() else "")

    def _value(self, name: str, job: ScheduledPlaybook, task_vars: dict[str, Any]) -> str:
        """:return: a variable as the job's runs will have it, with what the role says where nobody does."""
        value = job.variables.get(name, task_vars.get(name))
        if value is None:
            value = (role_options().get(name) or {}).get("default")
        return str(self._templar.template(value) or "")

    def _commands(
        self, jobs: Sequence[ScheduledPlaybook], directory: str, task_vars: dict[str, Any]
    ) -> list[dict[str, Any]]:
        program, environment = self._ansible_playbook(), self.environment(task_vars)
        inventory = self._inventory(task_vars)
        return [
            {
                "name": job.name,
                "playbook": _found(directory, job.playbook),
                "command": job.command(program, _found(directory, job.playbook), inventory, environment),
                "on_calendar": job.on_calendar,
                "delay_s": job.delay,
                "timeout_s": job.timeout,
                "ping_url_file": self._whole(job.ping_url_file) if job.ping_url_file else None,
            }
            for job in jobs
        ]

    def _inventory(self, task_vars: dict[str, Any]) -> list[str]:
        # On another host the checkout lies at the same path.
        return [_whole(source) for source in self.typed(task_vars)[typed_commands.GIVEN]["inventory"]]

    def _needed(self, jobs: Sequence[ScheduledPlaybook], task_vars: dict[str, Any]) -> dict[str, str]:
        """:return: what a run reads besides its playbook and its secrets; the host of the timers has to have it."""
        needed = {f"retention_policy_file of {job.name}": self._whole(self._policy(job, task_vars)) for job in jobs
                  if Path(job.playbook).name == "retention.yml"}  # fmt: skip
        for number, source in enumerate(self._inventory(task_vars)):
            needed[f"inventory{f' {number + 1}' if number else ''}"] = source
        return {name: path for name, path in needed.items() if path and "," not in path}

    def _ansible_playbook(self) -> str:
        given = self._task.args.get("ansible_playbook")
        if given:
            return str(given)
        typed = shutil.which(sys.argv[0]) or sys.argv[0]
        if os.path.basename(typed) != "ansible-playbook":
            typed = shutil.which("ansible-playbook") or os.path.join(
                os.path.dirname(sys.executable), "ansible-playbook"
            )
        return os.path.abspath(typed)

    def _python(self) -> str:
        # On another host the one that is beside its ansible-playbook.
        return sys.executable if self.is_local else os.path.join(os.path.dirname(self._ansible_playbook()), "python3")

    def _credentials(self, task_vars: dict[str, Any]) -> dict[str, str]:
        """:return: variable -> file, of what systemd loads for each run."""
        # Elsewhere the password file is one of the database's host.
        shared = (*_SECRET_FILES, "pgops_passfile") if self._all_local(task_vars) else _SECRET_FILES
        # One for all hosts: the copy that is loaded takes the place of what each of them says.
        alike = {name: {str(seen.get(name) or "") for seen in self._hosts(task_vars)} for name in shared}
        found = {name: self._file(task_vars, name) for name, values in alike.items() if len(values) == 1}
        found[timer_state.VAULT] = self._whole(str(self._task.args.get("vault_password_file") or ""))
        given = {str(name): self._whole(str(path)) for name, path in (self._task.args.get("credentials") or {}).items()}
        return {name: path for name, path in {**found, **given}.items() if path}

    def _told(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: ``tell`` and ``told_with``: how a failure is told, and the files with the secrets of that."""
        mail = self.pgops(task_vars, "mail")
        files = {name: self._file(task_vars, name) for name in ("pgops_webhook_file", "pgops_webhook_secret_file")}
        tell: dict[str, Any] = {
            "pgops_webhook_form": str(self.pgops(task_vars, "webhook_form")),
            "pgops_notify_events": self.pgops(task_vars, "notify_events"),
        }
        if mail:
            try:
                mailbox.Mailbox.of(mail)
            except notification.NotNotified as fault:
                raise AnsibleActionFail(f"{fault}; nothing was installed.") from None
            tell["pgops_mail"] = {name: value for name, value in mail.items() if name != "password_file"}
            files["pgops_mail_password_file"] = self._whole(str(mail.get("password_file") or ""))
        if task_vars.get("pgops_webhook"):
            display.warning(
                "pgops_webhook is a secret, which no unit may hold: a failure of a timer is told to the address in pgops_webhook_file only"
            )
        return {"tell": tell, "told_with": {name: path for name, path in files.items() if path}}

    def _write_paths(self, jobs: Sequence[ScheduledPlaybook], task_vars: dict[str, Any]) -> list[str]:
        paths = [str(path) for path in self._task.args.get("write_paths") or []]
        if self._all_local(task_vars):
            default = role_options()["backup_directory"].get("default")
            paths.insert(0, str(self._templar.template(task_vars.get("backup_directory") or default)))
            places = self._templar.template(task_vars.get("backup_copies")) or []
            # Where nothing is mounted there, none is made: a copy on the same disk is none.
            paths += [f"-{place['path']}" for place in places if isinstance(place, Mapping) and place.get("path")]
        metrics = str(self.pgops(task_vars, "metrics_directory") or "")
        # It is node_exporter's, and may come later than the timers.
        paths += [f"-{metrics}"] if metrics else []
        by_playbook = {
            **schedule_jobs.WRITES_HERE,
            **(schedule_jobs.WRITES_THERE if self._all_local(task_vars) else {}),
        }
        for job in jobs:
            if name := by_playbook.get(Path(job.playbook).name):
                paths.append(self._value(name, job, task_vars))
        return [path for path in paths if path]

    def _all_local(self, task_vars: dict[str, Any]) -> bool:
        """:return: whether the modules of all hosts run on the host of the timers, this machine or another one."""
        return all(str(seen.get("ansible_connection")) == "local" for seen in self._hosts(task_vars))

    def _hosts(self, task_vars: dict[str, Any]) -> list[Mapping[str, Any]]:
        """:return: the variables of all hosts of the environment: each timer reaches all of them, whatever today's limit is."""
        return [task_vars["hostvars"].raw_get(host) for host in task_vars["groups"][self.environment(task_vars)]]

    def _file(self, task_vars: dict[str, Any], name: str) -> str:
        value = task_vars.get(name)
        return self._whole(str(self._templar.template(value))) if value else ""

    def _whole(self, path: str) -> str:
        """:return: the path from wherever; of another host, whose homes are not ours, as it is: the module makes it whole there."""
        return _whole(path) if self.is_local else path

    # -- what is shown ------------------------------------------------------------------------------------------------

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show each timer, and how far its service is shut in."""
        if result.get("failed"):
            return result
        environment, would = (
            self.environment(task_vars),
            "would be " if self._task.check_mode and result.get("changed") else "",
        )
        for note in result.pop("notes", []):
            display.warning(note)
        jobs = result.pop("jobs", [])
        if not jobs:
            state = f"{would}removed" if result.get("changed") else "not there"
            self.say(f"timers of {environment}: {state}")
            return result
        said = f"{would}installed" if result.get("changed") else "installed, as before"
        self.say(f"timers of {environment} ({result.get('manager')}): {said}")
        rows = [
            [
                job["name"],
                job["playbook"],
                job["on_calendar"],
                timer_state.span(job["delay_s"]),
                timer_state.span(job["expected_every_s"]),
            ]
            for job in jobs
        ]
        for line in table(["TIMER", "PLAYBOOK", "CALENDAR", "UP TO LATER", "EXPECTED EVERY"], rows):
            self.say(f"    {line}")
        for unit, found in (result.get("exposure") or {}).items():
            self.say(f"    systemd-analyze security {unit}: {found['score']} ({found['word']})")
        return result


def _found(directory: str, playbook: str) -> str:
    """:return: the playbook of the folder, else the collection's own of that name."""
    shipped = COLLECTION_ROOT / "playbooks" / playbook
    return str(shipped) if not (Path(directory) / playbook).is_file() and shipped.is_file() else playbook


def _whole(path: str) -> str:
    """:return: the path from wherever; what is no path, such as a list of hosts in the place of an inventory, stays."""
    return os.path.abspath(os.path.expanduser(path)) if path and "," not in path else path
