# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the tree, starts the module apply and follows it; documented in the module of the same name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.whitecross.pgops.plugins.plugin_utils import batches, gate_verdict, reporting, typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import (
    MigrationAction,
    model_lines,
    seconds,
)

ASKED = ("lock_wait", "orphans", "waive", "throttle", "terminate_idle_after", "reconnect")
INDEX_LIMITS = ("index_workers", "index_workers_busy", "index_memory_mb", "index_disk_mb", "index_timeout")


class ActionModule(MigrationAction):
    """The only phase that changes the schema."""

    PHASE = "apply"
    MODULE = "apply"
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the rendered tree, what of it is asked for, and what must not have moved since the backup."""
        self._refuse_untried(task_vars)
        arguments = {
            "migrations": self.rendered_tree(task_vars),
            **self.selection(task_vars),
            "run": self.run_of(task_vars),
            "expected": self._task.args.get("expected") or self._expected(task_vars),
        }
        for name in (*ASKED, *INDEX_LIMITS):
            if self._task.args.get(name) is not None:
                arguments[name] = self._task.args[name]
        return {**arguments, **self._batches(task_vars)}

    def _batches(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """The databases of this host, canaries first, and what a batch may cost; nothing for a run that is not in batches."""
        canary, sizes = self.run_fact(task_vars).get("canary") or [], self._task.args.get("batches")
        if not canary and not sizes:
            return {}
        databases = [str(name) for name in self.pgops(task_vars, "databases")]
        return {
            "batches": batches.split(databases, canary, sizes),
            "health": self._task.args.get("health") or {"pause": 5},
            "judged_again": batches.judged_again(
                canary, self.run_fact(task_vars).get("plan") or {}, str(task_vars["inventory_hostname"])
            ),
        }

    def _refuse_untried(self, task_vars: dict[str, Any]) -> None:
        run = self.run_fact(task_vars)
        if self._task.check_mode:
            return
        if "plan" not in run and run.get("environment") in self.pgops(task_vars, "production_environments"):
            raise AnsibleActionFail(
                f"Nothing was applied in {run['environment']}: this run has no plan (left out by --tags or --skip-tags?), which "
                f"looks for the evidence of the environment before. Then: {self.again_whole(task_vars)}"
            )
        asked = self._templar.template(task_vars.get("audit_phi_required")) or False
        if "plan" not in run and boolean(asked, strict=False):
            raise AnsibleActionFail(
                f"Nothing was applied in {run.get('environment')}: this run has no plan (left out by --tags or --skip-tags?), which tells "
                f"whether PHI is touched, and audit_phi_required asks for its assessment. Then: {self.again_whole(task_vars)}"
            )
        pending = [name for name, found in (run.get("plan") or {}).items() if found.get("pending")]
        databases = pending if "plan" in run else self.pgops(task_vars, "databases") or []
        self._refuse_ungated(task_vars, databases)
        self.refuse_unproved(
            task_vars, databases, "applied to", "a version is only applied after its backup was proved"
        )
        unrehearsed = [name for name in databases if name not in (run.get("rehearse") or {})]
        if "rehearse" in (run.get("phases") or []) and unrehearsed:
            raise AnsibleActionFail(
                f"Nothing was applied to {unrehearsed[0]}: this run has no rehearsal (left out by --tags or --skip-tags?), and "
                f"{run.get('environment')} applies no version that was not rehearsed (pgops_phases). Then: {self.again_whole(task_vars)}"
            )

    def _refuse_ungated(self, task_vars: dict[str, Any], databases: Iterable[str]) -> None:
        """Tags and pgops_phases choose what a run shows, not whether its environment has a gate."""
        run = self.run_fact(task_vars)
        environment = str(run.get("environment") or "")
        given = self._templar.template(task_vars.get("gate_required"))
        if not gate_verdict.required(given, environment, self.pgops(task_vars, "production_environments")):
            return
        for database in databases:
            if not ((run.get("gate") or {}).get(database) or {}).get("gate", {}).get("allowed"):
                raise AnsibleActionFail(
                    f"Nothing was applied to {database}: {environment} has a gate, and this run has not passed it (left out by --tags, "
                    f"--skip-tags or pgops_phases?). Then: {self.again_whole(task_vars)}"
                )

    def _expected(self, task_vars: dict[str, Any]) -> dict[str, dict[str, str]]:
        """What plan and backup of this run saw; the backup's word counts where there is one."""
        run = self.run_fact(task_vars)
        plan, backup = run.get("plan") or {}, run.get("backup") or {}
        expected = {}
        for database in {*plan, *backup}:
            seen = dict((plan.get(database) or {}).get("state") or {})
            for name in ("ledger_head", "catalog_fingerprint"):
                value = (backup.get(database) or {}).get(name)
                if value:
                    seen[name] = value
            expected[database] = seen
        return expected

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """One line a version; after a failure the command to go on and the command to go back."""
        for database, found in (result.get("databases") or {}).items():
            self.say_reconnected(database, found)
            for item in found.get("applied") or []:
                told = f"{database}: {item['version']} {item['name']} applied in {seconds(item['duration_s'])}"
                if item["skipped"]:
                    told += f", already as wanted: {', '.join(item['skipped'])}"
                self.say(told)
                for note in item.get("notes") or []:
                    self.say(f"{database}: {note}")
                self.say_ended(database, item)
                self._say_settled(database, item)
            for item in found.get("stopped") or []:
                self._say_settled(database, item)
            if found.get("applied"):
                total = sum(item["duration_s"] for item in found["applied"])
                self.say(f"{database}: {len(found['applied'])} versions applied in {seconds(total)}")
            for line in model_lines(database, found.get("model_changes", [])):
                self.say(line)
            if found.get("health"):
                self.say(f"{database}: {reporting.clients(found['health'], 'after it')}")
        if result.get("failed"):
            self.show_edited(result)
            self._tell_next(result, task_vars)
        return result

    def _say_settled(self, database: str, item: Mapping[str, Any]) -> None:
        """Where rows without a parent went, or their parents came from, of a version that is applied or has stopped."""
        for moved in item.get("quarantined") or []:
            self.say(
                f"{database}: {moved['rows']} row(s) of {moved['table']} had no parent for {moved['constraint']} "
                f"and are now in {moved['quarantine']}; the way back of {item['version']} puts them back"
            )
        for made in item.get("placeholders") or []:
            self.say(
                f"{database}: {made['rows']} placeholder(s) made in {made['table']} for {made['constraint']} are listed "
                f"in {made['placeholders']}; the way back of {item['version']} takes those away that nobody changed or uses"
            )

    def _tell_next(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        target = self._task.args.get("target")
        given = self.typed(task_vars)["given"]["variables"]
        more = {"migrate_target": str(target)} if target and "migrate_target" not in given else {}
        on = ("To go on", self.again(task_vars, more))
        reason = result.get("reason")
        if self.tell_edited(result, task_vars) or self.tell_unknown_target(result, task_vars):
            return
        if reason == "busy":
            self.tell_next(result, [on, ("To end the other run", self.command(task_vars, "stop.yml"))])
        elif reason == "reverting":
            self.tell_next(result, [("To finish it", self.finish_revert(task_vars, result))])
        elif reason == "unwell":
            self.tell_next(
                result, [("To go on all the same", self._behind(task_vars, [], more)), *self._back(result, task_vars)]
            )
        elif result.get("not_looked_at"):
            behind = self._behind(task_vars, result["not_looked_at"], more)
            self.tell_next(result, [("To look again and go on", behind), *self._back(result, task_vars)])
        elif result.get("unknown"):
            planned = (self.run_fact(task_vars).get("plan") or {}).values()
            pending = sorted(str(item["version"]) for found in planned for item in found.get("pending") or [])
            look, first = ("To see how far it came", self.command(task_vars, "status.yml")), pending[:1]
            back = [("to go back", self.command(task_vars, "rollback.yml", {"rollback_through": one})) for one in first]
            self.tell_next(result, [look, ("to go on", on[1]), *back])
        elif result.get("not_applied"):
            first = [*result.get("applied", []), *result["not_applied"]][0]
            self.tell_next(
                result,
                [on, ("to go back", self.command(task_vars, "rollback.yml", {"rollback_through": str(first)}))],
            )
        else:
            self.tell_next(result, [("Then", self.again(task_vars, more))])

    def _back(self, result: dict[str, Any], task_vars: dict[str, Any]) -> list[tuple[str, str]]:
        if not result.get("applied"):
            return []
        return [
            ("to go back", self.command(task_vars, "rollback.yml", {"rollback_through": str(result["applied"][0])}))
        ]

    def _behind(self, task_vars: dict[str, Any], unjudged: list[str], more: dict[str, Any]) -> str:
        """:return: the command that goes on behind these databases of this host, after a look at them; behind none, without one."""
        run, host = self.run_fact(task_vars), str(task_vars["inventory_hostname"])
        own = [host, *(str(name) for name in self.pgops(task_vars, "databases"))]
        given = run.get("canary") or []
        canary = [name for name in given if name not in own]
        if unjudged:
            several = len(run.get("hosts") or []) > 1
            canary = [*([host] if several else []), *([] if several and unjudged == own[1:] else unjudged)]
        if canary == given:
            return self.again(task_vars, more)
        if canary:
            more = {**more, "migrate_canary": ",".join(canary)}
        elif not self._task.args.get("batches"):
            more = {**more, "migrate_batches": ",".join(batches.AFTER_A_CANARY)}
        return typed_commands.again(
            typed_commands.without(self.typed(task_vars), ["migrate_canary"]), self.limit(task_vars), more
        )
