# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Decides whether what is pending may be applied; documented in the module of the same name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils import risk
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    approvals,
    blackouts,
    break_glass,
    gate_promotion,
    gate_verdict,
    promotion,
    resumed_run,
    windows,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import RUN_FACT
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction

EARLY, GATE, TELL, LOOK = "early", "gate", "tell", "look"
# What of the task the module has no use for.
_OURS = frozenset({"approvals", "evidence", "signers"})
_HOURS = {"soak_hours": 24, "backup_max_age_hours": 24, "rehearsal_max_age_hours": 168}
LONGEST_HOURS = 10 * 366 * 24
# What stands in the way of others must be mended before somebody signs.
_FIRST = {"signers": 0, "promotion": 1, "window": 2, "rehearsal": 3, "approval": 4}


class ActionModule(MigrationAction):
    """Phase 6, and a look at it right after the plan."""

    PHASE = "gate"
    MODULE = "gate"

    # What the run had made before it stopped, and what of it is taken up.
    _before: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    _kept: dict[str, Any] | None = None

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Right after the plan nothing is to be told where there is no gate; what a run goes on with is remembered."""
        variables = task_vars or {}
        run = self.run_fact(variables)
        if self._stage == EARLY:
            self.PHASE = "gate_early"
            if not self._pending(variables) or not (self._required(variables) or run.get("resumed")):
                return {"changed": False}
        result = super().run(tmp, variables)
        if self._kept is not None and not result.get("failed"):
            result.setdefault("ansible_facts", {}).setdefault(RUN_FACT, run).update(self._kept)
        return result

    @property
    def _stage(self) -> str:
        return str(self._task.args.get("stage") or GATE)

    def _hours(self, name: str) -> timedelta:
        """:raises PgopsError: an option of hours that none can be."""
        given = self._task.args.get(name, _HOURS[name])
        hours = float(given)
        if not 0 <= hours <= LONGEST_HOURS:
            raise PgopsError(f"gate_{name} is {given}, and takes hours from 0 to {LONGEST_HOURS}")
        return timedelta(hours=hours)

    def _required(self, task_vars: dict[str, Any]) -> bool:
        environment = str(self.run_fact(task_vars).get("environment") or "")
        return gate_verdict.required(
            self._task.args.get("required"), environment, self.pgops(task_vars, "production_environments")
        )

    def _pending(self, task_vars: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
        plan = self.run_fact(task_vars).get("plan") or {}
        return {str(database): found["pending"] for database, found in plan.items() if found.get("pending")}

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: what the module is to look for. :raises AnsibleActionFail: there is no plan to judge."""
        run = self.run_fact(task_vars)
        if "plan" not in run:
            raise AnsibleActionFail(
                "The gate judges what the plan has found, and this run has no plan (left out by --tags or --skip-tags?). "
                f"Then: {self.again_whole(task_vars)}"
            )
        wanted = {
            database: {str(item["version"]): str(item["rendered_checksum"]) for item in pending}
            for database, pending in self._pending(task_vars).items()
        }
        given = {name: value for name, value in self._task.args.items() if name not in _OURS and value is not None}
        backups = {}
        if self._stage == EARLY and run.get("resumed"):
            self._before = resumed_run.kept(self._journal_of(task_vars).events(), str(task_vars["inventory_hostname"]))
            backups = {name: dict(one) for name, one in (self._before.get("backup") or {}).items() if one.get("path")}
        return {
            **given,
            "environment": str(run.get("environment") or ""),
            "host": str(task_vars["inventory_hostname"]),
            "wanted": wanted,
            "backups": backups,
        }

    def _journal_of(self, task_vars: dict[str, Any]) -> Journal:
        run = self.run_fact(task_vars)
        return Journal(str(self.pgops(task_vars, "state_directory")), str(run["environment"]), str(run["id"]))

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Judge each database; the first thing that is missing ends the run, in the stages in which it does."""
        if result.get("failed"):
            return result
        looked = result["databases"]
        try:
            if self._stage == EARLY and self.run_fact(task_vars).get("resumed"):
                self._go_on(looked, task_vars)
            verdicts = self._verdicts(looked, task_vars)
        except (PgopsError, windows.NotUnderstood, blackouts.NotUnderstood) as fault:
            told = fault.message if isinstance(fault, PgopsError) else str(fault)
            hint = getattr(fault, "hint", None)
            raise AnsibleActionFail(f"{told.rstrip('.')}{f'; {hint}' if hint else ''}") from None
        result["databases"] = {database: {"gate": verdict} for database, verdict in verdicts.items()}
        for database, verdict in verdicts.items():
            self._tell(database, verdict)
        self._refuse(result, verdicts, task_vars)
        return result

    # -- the verdict --------------------------------------------------------------------------------------------------

    def _verdicts(
        self, looked: Mapping[str, Mapping[str, Any]], task_vars: dict[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """Databases are changed one after another, and share what is left of a window."""
        found = self._pending(task_vars)
        seconds = {
            database: windows.expected(gate_verdict.timed(pending, (looked.get(database) or {}).get("rehearsal")))
            for database, pending in found.items()
        }
        before, verdicts = self.before_this_host(task_vars, sum(seconds.values())), {}
        for database, pending in found.items():
            verdicts[database] = self._judge(database, pending, looked.get(database) or {}, before, task_vars)
            before += seconds[database]
        return verdicts

    def _judge(
        self, database: str, pending: Sequence[dict[str, Any]], looked: Mapping[str, Any], before: int, task_vars: dict[str, Any]
    ) -> dict[str, Any]:  # fmt: skip
        run, given = self.run_fact(task_vars), self._task.args
        environment, now = str(run.get("environment") or ""), datetime.now(UTC)
        rehearsal = looked.get("rehearsal")
        rated = risk.of_database(pending, rehearsal)
        level = risk.highest(one["level"] for one in rated.values())
        required = self._required(task_vars)
        verdict: dict[str, Any] = {
            "risk": level,
            "reasons": gate_verdict.reasons(rated),
            "basis": f"with the rehearsal {rehearsal['id']}"
            if rehearsal
            else "without a rehearsal, from what is declared and read",
            "required": required,
            "rehearsal": gate_verdict.rehearsal_told(rehearsal),
            "roles": approvals.roles_of(level, given.get("roles")),
            "place": approvals.place(str(task_vars["inventory_hostname"]), database, pending, level, rehearsal),
            "approvals": [],
            "window": {},
            "promotion": {},
            "missing": [],
            "break_glass": None,
            "allowed": True,
        }
        if not required:
            return verdict

        def command(name: str, choice: Mapping[str, Any]) -> str:
            return self.command(task_vars, f"{name}.yml", choice)

        known = given.get("signers") or {}
        needed = self._truth(given["rehearsal_required"]) if given.get("rehearsal_required") is not None else None
        lacking = gate_verdict.of_signers(verdict["roles"], known, command)
        verdict["promotion"], found = self._promotion(pending, environment, now, task_vars)
        lacking += found
        verdict["window"], found = self._window(gate_verdict.timed(pending, rehearsal), rated, now, before, task_vars)
        lacking += found
        is_needed = "rehearse" in (run.get("phases") or []) if needed is None else needed
        lacking += gate_verdict.of_rehearsal(
            rehearsal, is_needed, command, now=now, longest=self._hours("rehearsal_max_age_hours")
        )
        where = approvals.folder(str(self.pgops(task_vars, "state_directory")), environment, given.get("approvals"))
        held, void = approvals.find(
            where,
            environment=environment,
            wanted=verdict["place"],
            rehearsal=rehearsal,
            roles=verdict["roles"],
            signers=known,
            now=now,
        )
        taken = approvals.distinct(held, verdict["roles"])
        verdict["approvals"] = [one.as_dict() for one in taken]
        lacking += gate_verdict.of_approvals(verdict["roles"], held, taken, void, command)
        verdict["missing"] = sorted(lacking, key=lambda one: _FIRST[one["kind"]])
        glass = self.break_glass(task_vars)
        if glass:
            past = [*(one["what"] for one in verdict["missing"]), *(run.get("past") or [])]
            verdict["break_glass"] = {**glass, "told": break_glass.shout(glass, past), "past": past}
        verdict["allowed"] = not verdict["missing"] or glass is not None
        return verdict

    def _window(
        self, pending: Sequence[Mapping[str, Any]], rated: Mapping[str, Mapping[str, Any]], now: datetime, before: int,
        task_vars: dict[str, Any],
    ) -> tuple[dict[str, Any], list[dict[str, str]]]:  # fmt: skip
        given = self._task.args
        declared, days = windows.read(given.get("windows") or []), blackouts.read(given.get("blackouts") or [])
        shut = windows.shut(
            [{**item, "level": rated[str(item["version"])]["level"]} for item in pending],
            declared,
            at_any_time=list(given.get("without_window", ["LOW"])),
            required=True,
            waived=promotion.waived(given.get("waive") or [], "window"),
            now=now,
            blackouts=days,
            before=before,
        )
        told = {
            "open": not shut,
            "at": windows.moment(now),
            "shut": [{"version": one.version, "why": one.why} for one in shut],
        }
        again = self._onward(task_vars)
        more = f" (and {len(shut) - 1} more)" if len(shut) > 1 else ""
        lacking = [
            gate_verdict.missing("window", f"an open window: {one.version}_{one.name} {one.why}{more}", again)
            for one in shut[:1]
        ]
        return told, lacking

    def _promotion(
        self, pending: Sequence[Mapping[str, Any]], environment: str, now: datetime, task_vars: dict[str, Any]
    ) -> tuple[dict[str, Any], list[dict[str, str]]]:
        given = self._task.args
        before = promotion.previous(
            environment, self.pgops(task_vars, "environments"), self.pgops(task_vars, "production_environments")
        )
        if before is None:
            return {"from": None, "lacking": []}, []
        found = gate_promotion.look(
            promotion.path_of(self.pgops(task_vars, "state_directory"), before, given.get("evidence")),
            before,
            pending,
            waived=promotion.waived(given.get("waive") or [], "evidence"),
            signers=(given.get("signers") or {}).get("evidence"),
            soak=self._hours("soak_hours"),
            rehearsed=self._truth(given.get("rehearsed_before", True)),
            now=now,
        )
        command = gate_promotion.command(found, before, self.typed(task_vars)) or self.command(task_vars, "gate.yml")
        return found, [
            gate_verdict.missing("promotion", f"evidence of {before}: {one['why']}", command)
            for one in found["lacking"][:1]
        ]

    def _tell(self, database: str, verdict: Mapping[str, Any]) -> None:
        for line in gate_verdict.lines(database, verdict):
            self.say(line)

    def _refuse(
        self, result: dict[str, Any], verdicts: Mapping[str, Mapping[str, Any]], task_vars: dict[str, Any]
    ) -> None:
        """End the run for what is missing: right after the plan for what nobody signs away, later for anything."""
        shut = {database: verdict for database, verdict in verdicts.items() if not verdict["allowed"]}
        if self._stage == EARLY:
            ends = [] if self._truth(self._task.args.get("rehearse_first")) else [
                one for verdict in shut.values() for one in verdict["missing"] if one["kind"] not in gate_verdict.LATER
            ]  # fmt: skip
        else:
            ends = [one for verdict in shut.values() for one in verdict["missing"]]
        # gate.yml runs nothing, with or without --check, and its exit code is the verdict.
        if not ends or self._stage == LOOK or (self._task.check_mode and self._stage != TELL):
            return
        named = list(dict.fromkeys(one["what"] for one in ends))
        commands = list(dict.fromkeys(one["command"] for one in ends))
        onward = self._onward(task_vars)
        told = f"{'Nothing was applied: ' if self._stage != TELL else ''}{', '.join(shut)} may not be changed, for there is missing "
        result.update(failed=True, reason="gate", msg=told + "; ".join(named) + ".", missing=ends)
        words = [("To get it" if number == 0 else "and", command) for number, command in enumerate(commands)]
        if onward not in commands:
            words.append(("then", onward))
        self.tell_next(result, words)

    def _onward(self, task_vars: dict[str, Any]) -> str:
        """:return: the command that goes on when what is missing is there: the same run, where it has something to go on with."""
        run = self.run_fact(task_vars)
        if self._stage == TELL:
            return self.command(task_vars, "migrate.yml")
        if self._stage == EARLY or self._task.check_mode or not run.get("backup"):
            return self.again(task_vars)
        return self.again(task_vars, {"pgops_run_id": str(run["id"])})

    # -- a run that goes on -------------------------------------------------------------------------------------------

    def _go_on(self, looked: Mapping[str, Mapping[str, Any]], task_vars: dict[str, Any]) -> None:
        """Take up what the run has made before it stopped, or say why all of it is made anew."""
        run, plan = self.run_fact(task_vars), self.run_fact(task_vars).get("plan") or {}
        oldest = datetime.now(UTC) - self._hours("backup_max_age_hours")
        for database in self._pending(task_vars):
            why = resumed_run.outdated(
                database,
                self._before,
                plan[database].get("state") or {},
                (looked.get(database) or {}).get("backup"),
                phases=run.get("phases") or [],
                oldest=oldest,
            )
            if why:
                self.say(f"{database}: run {run['id']} begins anew with its backup, for {why}")
                self._kept = {"kept": []}
                return
        kept = {phase: dict(found) for phase, found in self._before.items() if phase in resumed_run.KEPT}
        for database in self._pending(task_vars):
            backup = kept["backup"][database]
            self.say(
                f"{database}: run {run['id']} goes on with its proved backup {backup['path']} of {backup['finished']}"
            )
        if "rehearse" in kept:
            # Its trace is long, and no task of this run needs it.
            kept["rehearse"] = {
                database: {name: found.get(name) for name in ("ok", "file", "versions")}
                for database, found in kept["rehearse"].items()
            }
        self._kept = {**kept, "kept": sorted(kept)}
