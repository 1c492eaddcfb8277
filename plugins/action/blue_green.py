# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module blue_green, says what there is and what to type next; documented in the module of the same name."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    batches,
    blackouts,
    break_glass,
    gate_verdict,
    windows,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.role_values import of_roles

# By the word of blue_green_stage what the module is asked for.
STATES = {"prepare": "prepared", "change_over": "changed_over", "give_up": "absent", "status": "told"}
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
    # What this change-over has gone past, in the words of the gate.
    _glass: Mapping[str, Any] | None = None

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the module's arguments, with the rendered tree. :raises AnsibleActionFail: the change-over may not begin now."""
        arguments = {name: value for name, value in super().module_arguments(task_vars).items() if value is not None}
        stage = str(arguments.pop("stage"))
        arguments["state"] = STATES[stage]
        answer = batches.names(arguments.pop("answer", None))
        declared, days = arguments.pop("windows", None), arguments.pop("blackouts", None)
        if stage == "change_over":
            arguments["confirmed"] = sorted(answer) == sorted(self.pgops(task_vars, "databases") or [])
            if arguments["confirmed"] and not self._task.check_mode:
                self._refuse_now(task_vars, declared or [], days or [])
        if stage in ("prepare", "change_over"):
            arguments["migrations"] = self.rendered_tree(task_vars)
            arguments["run"] = self.run_of(task_vars)
        arguments.update(of_roles(self, _OF_ROLES, task_vars, arguments))
        return arguments

    def _refuse_now(self, task_vars: dict[str, Any], declared: list[Any], days: list[Any]) -> None:
        """Approvals of the gate hold for a rehearsal, and such a version has none: there the change-over needs the broken glass."""
        again = self.again(task_vars)
        try:
            glass = self.break_glass(task_vars)
            open_windows, standing = windows.read(declared), blackouts.read(days)
        except PgopsError as fault:
            raise AnsibleActionFail(f"{fault.message}; {fault.hint}") from None
        except (windows.NotUnderstood, blackouts.NotUnderstood) as fault:
            raise AnsibleActionFail(f"Nothing was changed over: {fault}.") from None
        given = self._templar.template(task_vars.get("gate_required"))
        environment = str(self.run_fact(task_vars).get("environment") or "")
        gated = gate_verdict.required(given, environment, self.pgops(task_vars, "production_environments"))
        change = {"version": "change_over", "name": "", "risk": "HIGH"}
        shut = windows.shut(
            [change], open_windows, at_any_time=(), required=False, waived=(), now=datetime.now(UTC), blackouts=standing
        )
        if glass is not None:
            past = [
                *(["the approvals of a rehearsal"] if gated else []),
                *(f"an open window: it {one.why}" for one in shut),
                *(self.run_fact(task_vars).get("past") or []),
            ]
            self._glass = {**glass, "told": break_glass.shout(glass, past), "past": past}
            self.say(self._glass["told"])
            return
        if gated:
            raise AnsibleActionFail(
                "Nothing was changed over: this environment has a gate, whose approvals hold for a rehearsal, and a blue-green version has "
                f"none. With -e gate_break_glass_by, _expires and _reason, which the audit keeps: {again}"
            )
        if shut:
            raise AnsibleActionFail(f"Nothing was changed over: it {shut[0].why}. In a window: {again}")

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say what was compared, what clients noticed, and the command that comes next."""
        commands: list[str] = []
        for database, found in (result.get("databases") or {}).items():
            if self._glass:
                found["gate"] = {"break_glass": self._glass}
            commands += self._tell(task_vars, database, found)
        stage = str(self._task.args.get("stage"))
        if result.get("failed"):
            if result.get("reason") == "strategy" or result.get("pending_swap"):
                return result
            again = "give_up" if result.get("reason") in ("broken", "moved", "different", "edited") else stage
            result["next"] = [self._stage(task_vars, again)]
        elif stage == "change_over" and not any("outage_ms" in f or f.get("left") for f in result["databases"].values()) and not (
            self._task.check_mode
        ):  # fmt: skip
            names = ",".join(str(name) for name in result["databases"])
            command = self._stage(task_vars, "change_over", blue_green_confirm=names)
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
        if "outage_ms" in found:
            return self._tell_over(task_vars, database, found)
        if found.get("why"):
            self.say(f"{database}: LEFT: {found['green']} cannot go on: {found['why']}; its slot may hold back WAL")
            return [self._stage(task_vars, "give_up")]
        link = found.get("link") or {}
        if link.get("there", {}).get("slot"):
            self.say(f"{database}: the slot holds back {link['held'] / 1048576:,.0f} MB of WAL")
        if found["state"] == "ready":
            versions = found.get("versions") or (found.get("record") or {}).get("versions") or []
            self.say(
                f"{database}: {found['green']} is in step with {', '.join(versions)} in it; the schema of {database} is frozen"
            )
            return [self._stage(task_vars, "change_over"), self._stage(task_vars, "give_up")]
        if found["state"] == "none":
            versions = found.get("versions")
            self.say(
                f"{database}: {'would be applied in a new database: ' + ', '.join(versions) if versions else 'nothing of it is there'}"
            )
        return []

    def _tell_over(self, task_vars: dict[str, Any], database: str, found: Mapping[str, Any]) -> list[str]:
        self.say(
            f"{database}: changed over to {', '.join(found['versions'])}, clients were kept out for {found['outage_ms']:.0f} ms; the replaced "
            f"database is kept as {found['aside']}, closed to clients"
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

    def _stage(self, task_vars: dict[str, Any], stage: str, **more: str) -> str:
        return self.command(task_vars, PLAYBOOK, {"blue_green_stage": stage, **more})
