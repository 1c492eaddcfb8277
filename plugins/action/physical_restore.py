# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module physical_restore, shows what would be lost, prints the way back; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    batches,
    cluster_lines,
    moved_sequences,
    proof_levels,
    reporting,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction

_PHASES = {"disclosed": "disclose", "resumed": "resume"}


class ActionModule(PgopsAction):
    """Looking, restoring, and the end of a change that was cut off are phases of their own."""

    PHASE = "restore"
    MODULE = "physical_restore"
    LIVE = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module as the phase that this task is."""
        self.PHASE = _PHASES.get(str(self._task.args.get("state")), "restore")
        return super().run(tmp, task_vars)

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments; whether the databases were named in the place of the answer; why, for the audit."""
        arguments = super().module_arguments(task_vars)
        if self.PHASE == "resume":
            answer = batches.names(arguments.pop("answer", None))
            arguments["confirmed"] = sorted(answer) == sorted(self.pgops(task_vars, "databases") or [])
            return arguments
        run = self.run_fact(task_vars)
        if self.PHASE == "restore" and run.get("why"):
            arguments.setdefault("reason", str(run["why"]))
        arguments["level_required"] = proof_levels.required(
            arguments.get("level_required"), str(run.get("environment")), self.in_production(task_vars)
        )
        return arguments

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """What goes back with the cluster, what was lost, where the old one is."""
        databases: dict[str, dict[str, Any]] = result.get("databases") or {}
        for database, found in databases.items():
            if found.get("state") in ("completed", "lifted", "cut_off"):
                word = {"completed": "; it was completed", "lifted": "; the old cluster runs again"}
                self.say(f"{database}: {found['why']}{word.get(found['state'], '')}")
            elif found.get("state") == "nothing" and found.get("why"):
                self.say(f"{database}: {found['why']}")
            if found.get("left"):
                self.say(
                    f"{database}: the restored cluster stays in {found['left']}; remove that folder where nobody needs it"
                )
            self._tell_plan(database, found)
            for line in cluster_lines.lost(database, found):
                self.say(line)
            if found.get("lost_unknown"):
                self.say(f"{database}: what was lost cannot be told: {found['lost_unknown']}")
            for line in moved_sequences.lines(database, found.get("sequences") or {}):
                self.say(line)
            history = found.get("history") or {}
            if history.get("carried") is False:
                self.say(f"{database}: the history was not carried across: {history.get('why')}")
        kept = next((found["kept"] for found in databases.values() if found.get("outage_ms") is not None), None)
        if kept:
            self._tell_way_back(databases, str(kept), result, task_vars)
        return result

    def _tell_plan(self, database: str, found: dict[str, Any]) -> None:
        if self.PHASE != "disclose":
            return
        plan = found.get("plan")
        if plan:
            level = found.get("proof_level")
            proved = "never proved" if level is None else f"proved to level {level}"
            self.say(
                f"{database}: back to {found['target']}: backup {plan['backup']} ({reporting.size(plan['backup_size'])}, {proved}), then "
                f"{reporting.size(plan['wal_bytes'])} of WAL on timeline {plan['timeline']}; every write since is lost here and kept "
                "in the folder of the cluster that is replaced"
            )
            if database in (found.get("unreadable") or []):
                self.say(
                    f"{database}: it cannot be read, so what is lost cannot be counted, and numbers that its sequences have given out since "
                    "are given out again"
                )
            else:
                self.say(
                    f"{database}: its sequences go on behind what they have given out by then; some numbers are left out"
                )
            if found.get("lets_off"):
                self.say(
                    f"{database}: {found['lets_off']}; it is taken all the same, for the reason in rollback_break_glass"
                )
        else:
            self.say(
                f"{database}: back to the cluster kept in {found['kept']} since {found['since']}; its sequences go on from where they were then, "
                "so that numbers given out since are given out again"
            )
        for other in found.get("others") or []:
            self.say(f"{database}: the database {other} goes back too")
        for line in cluster_lines.company(database, found):
            self.say(line)

    def _tell_way_back(
        self, databases: dict[str, dict[str, Any]], kept: str, result: dict[str, Any], task_vars: dict[str, Any]
    ) -> None:
        first = next(iter(databases))
        command = self.command(task_vars, "rollback.yml", _forth_again(databases, kept))
        outage = databases[first]["outage_ms"]
        self.say(
            f"{first}: changed over, clients were kept out for {outage:.0f} ms; the replaced cluster is kept in {kept}"
        )
        for line in cluster_lines.awaited(first, databases[first]):
            self.say(line)
        self.say(f"{first}: to go back: {command}")
        for found in databases.values():
            found["way_back"] = command
        if not result.get("failed"):
            result["next"] = [command]


def _forth_again(databases: dict[str, dict[str, Any]], kept: str) -> dict[str, Any]:
    """:return: the choice of a rollback that takes the kept cluster again; others go with it as they went with this one."""
    choice: dict[str, Any] = {
        "rollback_strategy": "pitr",
        "rollback_kept_cluster": kept,
        "rollback_confirm": ",".join(str(name) for name in databases),
    }
    if any(found.get("others") for found in databases.values()):
        choice["rollback_whole_cluster"] = True
    return choice
