# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module blue_green, says what there is and what to type next; documented in the module of the same name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.plugin_utils import batches, blue_green_gate, run_parts
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.role_values import of_roles

# By the word of blue_green_stage what the module is asked for.
BEGIN, GIVE_UP, STATUS = "begin", "give_up", "status"
NONE, READY, OVER = "none", "ready", "changed_over"
STATES = {run_parts.PREPARE: "prepared", BEGIN: "begun", run_parts.CHANGE_OVER: OVER, GIVE_UP: "absent", STATUS: "told"}
# Of a refusal whose way on is to begin anew.
_TO_GIVE_UP = ("broken", "moved", "different", "edited")
# Variables of the apply, by which the versions run in the empty copy too.
_OF_ROLES = {
    "index_workers": "migrate_index_workers",
    "index_timeout": "migrate_index_timeout",
    "pgbouncer": "rollback_pgbouncer",
}
PLAYBOOK = "blue_green.yml"


class ActionModule(MigrationAction):
    """One stage of a blue-green change."""

    PHASE = "blue_green"
    MODULE = "blue_green"
    LIVE = True
    # What the gate of a change-over has said, and what was gone past.
    _verdict: Mapping[str, Any] = MappingProxyType({})
    # Whether the databases were named.
    _confirmed = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """One stage; before a change-over its gate, which has nothing to say to who only looks."""
        # Instances are made for each task.
        self.PHASE = "gate" if self._is_gate else self.PHASE
        if self._is_gate and self._task.check_mode:
            return {"changed": False, "skipped": True}
        return super().run(tmp, task_vars)

    @property
    def _is_gate(self) -> bool:
        return str(self._task.args.get("stage")) == BEGIN

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the module's arguments, with the rendered tree. :raises AnsibleActionFail: the change-over may not begin now."""
        arguments = {name: value for name, value in super().module_arguments(task_vars).items() if value is not None}
        stage = str(arguments.pop("stage"))
        arguments["state"] = STATES[stage]
        answer = batches.names(arguments.pop("answer", None))
        given = {name: arguments.pop(name, None) for name in ("windows", "blackouts")}
        confirmed = self._confirmed = sorted(answer) == sorted(self.pgops(task_vars, "databases") or [])
        if self._is_gate:
            self._refuse_other_stage(task_vars, run_parts.CHANGE_OVER)
            self._verdict = blue_green_gate.verdict(self, task_vars, given) if confirmed else {}
            # Who has not named the databases is shown what would be done, and refused behind that.
            arguments["state"] = STATES[BEGIN] if confirmed else STATES[run_parts.CHANGE_OVER]
        elif stage in (run_parts.PREPARE, run_parts.CHANGE_OVER):
            self._refuse_other_stage(task_vars, stage)
            self._refuse_left_out(task_vars, stage)
            if stage == run_parts.CHANGE_OVER:
                arguments["confirmed"] = confirmed
        if stage in (BEGIN, run_parts.PREPARE, run_parts.CHANGE_OVER):
            arguments["migrations"] = self.rendered_tree(task_vars)
        if stage != STATUS:
            arguments["run"] = self.run_of(task_vars)
        arguments.update(of_roles(self, _OF_ROLES, task_vars, arguments))
        return arguments

    def _refuse_other_stage(self, task_vars: dict[str, Any], stage: str) -> None:
        """The guard asks for what a stage owes, by the variables as they were when the run began."""
        run = self.run_fact(task_vars)
        if run.get("stage") not in (stage, run_parts.CHANGE_OVER):
            raise AnsibleActionFail(
                f"Nothing was begun: this task is at the stage {stage}, and the run began as {run.get('stage') or 'another playbook'}. "
                f"Then: {self.command(task_vars, PLAYBOOK, {'blue_green_stage': stage})}"
            )

    def _refuse_left_out(self, task_vars: dict[str, Any], stage: str) -> None:
        """The plan tells what is reviewed and what touches PHI, and the gate whether it may begin at all."""
        run, owed = self.run_fact(task_vars), ["plan"]
        if stage == run_parts.CHANGE_OVER and not self._task.check_mode:
            owed.insert(0, "gate")
        missing = [phase for phase in owed if phase not in run]
        if missing:
            raise AnsibleActionFail(
                f"Nothing was begun: this run has no {' and no '.join(missing)} (left out by --start-at-task?). Then: {self.again_whole(task_vars)}"
            )

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say what was compared, what clients noticed, and the command that comes next."""
        commands: list[str] = []
        for database, found in (result.get("databases") or {}).items():
            if self._is_gate and self._verdict:
                found["gate"] = self._verdict
            commands += [one for one in self._tell(task_vars, database, found) if one not in commands]
        stage = str(self._task.args.get("stage"))
        if self._is_gate:
            stage = run_parts.CHANGE_OVER
        if result.get("failed"):
            if result.get("reason") == "strategy" or result.get("pending_swap"):
                return result
            result["next"] = [self._onward(task_vars, str(result.get("reason")), stage)]
        elif self._is_gate and self._verdict:
            return result
        elif (
            stage == run_parts.CHANGE_OVER
            and not (self._task.check_mode or self._confirmed)
            and any(found["state"] != NONE for found in result["databases"].values())
        ):
            names = ",".join(str(name) for name in result["databases"])
            command = self._named(task_vars)
            result.update(
                failed=True,
                msg=f"The change-over of {names} was not confirmed; nothing was changed. To do it: {command}",
            )
            result["next"] = [command]
        elif commands:
            result["next"] = commands
        return result

    def _tell(self, task_vars: dict[str, Any], database: str, found: Mapping[str, Any]) -> list[str]:
        for told in [*(found.get("told") or []), *(found.get("standbys") or [])]:
            self.say(f"{database}: {told}")
        compared = found.get("compared")
        if compared:
            self.say(
                f"{database}: {compared['rows']:,} rows of {compared['tables']} tables are equal in {found.get('green', 'both')}; "
                f"the writers of a table waited {compared['blocked_ms']:.0f} ms at most"
            )
        if found.get("removed"):
            self.say(f"{database}: taken away: {', '.join(found['removed'])}")
        if "aside" in found:
            return self._tell_over(task_vars, database, found)
        if self._is_gate and self._verdict:
            return []
        if found["state"] == OVER:
            command = self._named(task_vars)
            self.say(f"{database}: to finish it: {command}")
            return [command]
        if found.get("why"):
            self.say(f"{database}: LEFT: {found['green']} cannot go on: {found['why']}; its slot may hold back WAL")
            return [self._stage(task_vars, GIVE_UP)]
        link = found.get("link") or {}
        if link.get("there", {}).get("slot"):
            self.say(f"{database}: the slot holds back {link['held'] / 1048576:,.0f} MB of WAL")
        if found["state"] == READY:
            versions = found.get("versions") or (found.get("record") or {}).get("versions") or []
            self.say(
                f"{database}: {found['green']} is in step with {', '.join(versions)} in it; the schema of {database} is frozen"
            )
            return [self._stage(task_vars, run_parts.CHANGE_OVER), self._stage(task_vars, GIVE_UP)]
        if found["state"] == NONE:
            versions = found.get("versions")
            self.say(
                f"{database}: {'would be applied in a new database: ' + ', '.join(versions) if versions else 'nothing of it is there'}"
            )
        return []

    def _tell_over(self, task_vars: dict[str, Any], database: str, found: Mapping[str, Any]) -> list[str]:
        how = (
            f"clients were kept out for {found['outage_ms']:.0f} ms"
            if "outage_ms" in found
            else "by a run that was cut off"
        )
        self.say(
            f"{database}: changed over to {', '.join(found['versions'])}, {how}; the replaced database is kept as {found['aside']}, closed to "
            "clients"
        )
        for entry in (found.get("sequences") or {}).get("left") or []:
            self.say(f"{database}: the sequence {entry['sequence']} was not moved: {entry['why']}")
        if found.get("settings"):
            self.say(f"{database}: set on the database since the preparation, and kept: {', '.join(found['settings'])}")
        if found.get("left"):
            self.say(f"{database}: {found['left']}")
        back = {"rollback_strategy": "undo_swap", "rollback_confirm": database}
        command = self.rollback_of(task_vars, database, back)
        self.say(f"{database}: to go back, without what is written since: {command}")
        return [command]

    def _onward(self, task_vars: dict[str, Any], reason: str, stage: str) -> str:
        """:return: the command that leads on from a refusal."""
        if reason in _TO_GIVE_UP:
            return self._stage(task_vars, GIVE_UP)
        if reason == "not_prepared":
            return self._stage(task_vars, run_parts.PREPARE)
        again = reason == "over" or (stage == run_parts.CHANGE_OVER and self._confirmed)
        return self._named(task_vars) if again else self._stage(task_vars, stage)

    def _named(self, task_vars: dict[str, Any]) -> str:
        """:return: the change-over, with the databases named."""
        names = ",".join(str(name) for name in self.pgops(task_vars, "databases"))
        return self._stage(task_vars, run_parts.CHANGE_OVER, blue_green_confirm=names)

    def _stage(self, task_vars: dict[str, Any], stage: str, **more: str) -> str:
        return self.command(task_vars, PLAYBOOK, {"blue_green_stage": stage, **more})
