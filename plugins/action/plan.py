# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the tree and starts the module plan; documented in the module of the same name."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils import risk
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.strategies_of_versions import BLUE_GREEN, ONLINE
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    blackouts,
    gate_verdict,
    promotion,
    run_parts,
    typed_commands,
    windows,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import of_versions
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction, table
from ansible_collections.whitecross.pgops.plugins.plugin_utils.plan_lint import pending_findings
from ansible_collections.whitecross.pgops.plugins.plugin_utils.rendered_tree import changes
from ansible_collections.whitecross.pgops.plugins.plugin_utils.reporting import size

# So many databases with the same plan are named; the others are counted.
NAMED = 5
# So many tables are named with their size.
NAMED_TABLES = 10
# The one whose versions are made in a new database.
PLAYBOOK = "blue_green"


class ActionModule(MigrationAction):
    """Says what is pending before anything else is asked of the database."""

    PHASE = "plan"
    MODULE = "plan"

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the rendered tree and what of it is asked for."""
        waivers = self._waivers()
        self._refuse_own_evidence(task_vars)
        return {
            "migrations": self.rendered_tree(task_vars),
            **self.selection(task_vars),
            "waive": waivers,
            "strategy": BLUE_GREEN if self._is_blue_green(task_vars) else ONLINE,
        }

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show the plan, or how an applied file was edited."""
        if result.get("failed"):
            self.show_edited(result)
            if result.get("reason") == "reverting":
                self.tell_next(result, [("To finish it", self.finish_revert(task_vars, result))])
            if result.get("reason") == "baseline":
                self.tell_next(result, [("To look", self.command(task_vars, "status.yml"))])
            if result.get("reason") == "schema":
                self.tell_next(result, [("Then", self.command(task_vars, "adopt.yml"))])
            self.tell_unknown_target(result, task_vars)
            self.tell_edited(result, task_vars)
            return result
        self._refuse_faults(result, task_vars)
        if result.get("failed"):
            return result
        self._rate(result, task_vars)
        self._show(result)
        self._tell_waived(result, "schema", "in another schema")
        self._refuse_left_out(result, task_vars)
        if result.get("failed"):
            return result
        self._refuse_unpromoted(result, task_vars)
        self._refuse_unreviewed(result, task_vars)
        self._refuse_shut(result, task_vars)
        return result

    def _is_blue_green(self, task_vars: dict[str, Any]) -> bool:
        """:return: whether the versions are made in a new database. A migration is let off nothing by a variable that somebody types."""
        return self.run_fact(task_vars).get("playbook") == PLAYBOOK and self._task.args.get("strategy") == BLUE_GREEN

    def _rate(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """R11.5: a level is declared, and read off the statements; the higher one counts."""
        if not any(found["pending"] for found in result["databases"].values()):
            return
        read = changes(self.sql_directory(task_vars), self._task.args.get("variables") or {})
        for found in result["databases"].values():
            for item in found["pending"]:
                item["changes"] = [] if item["unneeded"] else read.get(item["version"], [])
            rated = risk.of_database(found["pending"])
            for item in found["pending"]:
                item.update(rated[item["version"]])
            found["level"] = risk.highest(one["level"] for one in rated.values()) if rated else None

    def _show(self, result: dict[str, Any]) -> None:
        """Databases with the same plan, as a fleet's mostly have, are told at once."""
        alike: dict[str, list[str]] = {}
        for database, found in result["databases"].items():
            told = {name: found[name] for name in ("pending", "later", "waiting", "risk")}
            alike.setdefault(json.dumps([told, len(found["applied"])], sort_keys=True), []).append(database)
        for names in alike.values():
            found = result["databases"][names[0]]
            database = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
            for item in found["waiting"]:
                self.say(f"{database}: {item['version']}_{item['name']} waits: {item['why']}")
            if not found["pending"]:
                self.say(f"{database}: nothing pending, {len(found['applied'])} versions applied")
                continue
            self.say(f"{database}: {len(found['pending'])} pending, highest risk {found['level'].lower()}")
            rows = [
                [
                    item["version"],
                    item["name"],
                    item["phase"],
                    self._risk(item),
                    (item.get("rollback") or {}).get("safety"),
                    self._steps(item),
                    f"{item['expected_seconds']} s" if item.get("expected_seconds") else "",
                ]
                for item in found["pending"]
            ]
            headings = ["VERSION", "NAME", "PHASE", "RISK", "ROLLBACK", "STEPS", "EXPECTED"]
            if not any(row[-1] for row in rows):
                headings, rows = headings[:-1], [row[:-1] for row in rows]
            for line in table(headings, rows):
                self.say(f"    {line}")
            self._tell_expected(found["pending"])
            self._tell_tables(names[0] if len(names) > 1 else None, found)
            if found["later"]:
                self.say(f"    left for another run: {', '.join(found['later'])}")

    @staticmethod
    def _risk(item: dict[str, Any]) -> str:
        declared, level = str(item["risk"]), str(item["level"]).lower()
        return level if level == declared.lower() else f"{level} (declared {declared})"

    @staticmethod
    def _steps(item: dict[str, Any]) -> str:
        if item["unneeded"]:
            return "recorded, not run"
        if item["resume_at"]:
            return f"goes on at step {item['resume_at']} of {len(item['steps'])}"
        return f"{len(item['steps'])} steps"

    def _waivers(self) -> list[dict[str, Any]]:
        """:return: what this run is let off. :raises AnsibleActionFail: an entry that does not say of what, and why."""
        waivers = self._task.args.get("waive") or []
        wrong = promotion.wrong_waiver(waivers)
        if wrong:
            raise AnsibleActionFail(
                f'migrate_waive {wrong}; give it as -e \'{{"migrate_waive": [{{"check": "evidence", "version": '
                '"VERSION", "reason": "WHY", "by": "NAME", "until": "2027-01-31"}]}\'.'
            )
        return list(waivers)

    def _tell_waived(self, result: dict[str, Any], check: str, of: str) -> dict[str, str]:
        """:return: version -> reason of what is let off that check, told and recorded where it is pending."""
        given = self._waivers()
        waived = promotion.waived(given, check)
        signed = {str(item["version"]): item for item in given if item["check"] == check}
        for version, reason in waived.items():
            databases = [
                found
                for found in result["databases"].values()
                if version in [item["version"] for item in found["pending"]]
            ]
            if databases:
                self.say(f"    waived: {check} of {version} {of}, because {reason}")
            for found in databases:
                entry = {"check": check, "version": version, "reason": str(signed[version]["reason"])}
                entry |= {name: str(signed[version][name]) for name in ("by", "until") if signed[version].get(name)}
                found["waived"] = [*found.get("waived", []), entry]
        return waived

    def _refuse_own_evidence(self, task_vars: dict[str, Any]) -> None:
        """Before anything is applied: the verification would refuse it when all is done."""
        environment = str(self.run_fact(task_vars).get("environment") or "")
        given = self._task.args.get("own_evidence")
        if not environment or environment in self.pgops(task_vars, "production_environments"):
            return
        path = promotion.path_of(self.pgops(task_vars, "state_directory"), environment, given)
        try:
            promotion.refuse_another(path, environment)
        except PgopsError as fault:
            raise AnsibleActionFail(f"Nothing was applied: {fault.message}.") from None

    def _refuse_left_out(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """Before a backup is made and the application is taken away for an apply that would be refused."""
        run = self.run_fact(task_vars)
        # One that goes on has some of it from before.
        if run.get("resumed") or not any(found["pending"] for found in result["databases"].values()):
            return
        environment = str(run.get("environment") or "")
        given = self._templar.template(task_vars.get("gate_required"))
        missing = run_parts.left_out(
            run,
            production=self.in_production(task_vars),
            gated=gate_verdict.required(given, environment, self.pgops(task_vars, "production_environments")),
            assessed=False,
        )
        if missing:
            told = f"Nothing was begun: {run_parts.told(missing)}, and {environment} applies nothing without."
            result.update(failed=True, reason="left_out", msg=told)
            self.tell_next(result, [("Then", self.again_whole(task_vars))])

    def _refuse_unpromoted(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """Production takes what the environment before it has applied and verified, with the same files."""
        environment = str(self.run_fact(task_vars).get("environment") or "")
        order, production = self.pgops(task_vars, "environments"), self.pgops(task_vars, "production_environments")
        before = promotion.previous(environment, order, production)
        pending = {item["version"]: item for found in result["databases"].values() for item in found["pending"]}
        if before is None or not pending:
            return
        given = self._task.args.get("evidence")
        path = promotion.path_of(self.pgops(task_vars, "state_directory"), before, given)
        try:
            evidence = promotion.read(path) if given or path.exists() else None
        except PgopsError as fault:
            raise AnsibleActionFail(f"Nothing was applied: {fault.message}.") from None
        if evidence and evidence.get("environment") != before:
            raise AnsibleActionFail(
                f"Nothing was applied: {path} is the evidence of {evidence.get('environment')}, not of {before}."
            )
        waived = self._tell_waived(result, "evidence", f"from {before}")
        lacking = promotion.lacking(pending.values(), evidence, before, waived)
        for lack in lacking:
            self.say(f"    no evidence: {lack.version}_{lack.name} {lack.why}")
        if not lacking or self._only_tells(task_vars) or self._gate_decides(task_vars):
            return
        first, more = lacking[0], f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
        result.update(
            failed=True,
            reason="evidence",
            msg=f"Nothing was applied: {first.version}_{first.name} {first.why}{more}, says {path}.",
        )
        place = self.typed(task_vars)
        # What was typed says where production is, and would take the other environment's command there.
        bare = typed_commands.without(place, typed_commands.typed_variables(place))
        first_there = typed_commands.other(bare, "migrate", before)
        self.tell_next(result, [("First", first_there), ("then", self.again(task_vars))])

    def _applies_nothing(self, task_vars: dict[str, Any]) -> bool:
        """:return: whether the playbook is one that only looks. A migration is let off nothing by a variable that somebody types."""
        return not run_parts.migrates(self.run_fact(task_vars)) and self._truth(self._task.args.get("only_tell"))

    def _only_tells(self, task_vars: dict[str, Any]) -> bool:
        """Without a write there is nothing to refuse."""
        return bool(self._task.check_mode) or self._applies_nothing(task_vars)

    def _gate_decides(self, task_vars: dict[str, Any]) -> bool:
        """:return: whether window and evidence are left to the gate: it is to rehearse first, or somebody breaks the glass there."""
        run = self.run_fact(task_vars)
        given = self._templar.template(task_vars.get("gate_required"))
        production = self.pgops(task_vars, "production_environments")
        if "gate" not in (run.get("phases") or []) or not gate_verdict.required(
            given, str(run.get("environment")), production
        ):
            return False
        try:
            glass = self.break_glass(task_vars)
        except PgopsError as fault:
            raise AnsibleActionFail(f"{fault.message}; {fault.hint}") from None
        return glass is not None or self._truth(self._templar.template(task_vars.get("gate_rehearse_first")))

    def _refuse_unreviewed(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """R6.13: who has reviewed what is pending is recorded, and asked for where the environment says so."""
        found = [one for one in result["databases"].values() if one["pending"]]
        reviewer = str(self._task.args.get("reviewed_by") or "").strip()
        if reviewer:
            for one in found:
                one["reviewed_by"] = reviewer
        elif found and self._truth(self._task.args.get("review_required")):
            self.say("    not reviewed: nobody is named in migrate_reviewed_by")
            if not (self._only_tells(task_vars) or result.get("failed")):
                result.update(
                    failed=True,
                    reason="review",
                    msg="Nothing was applied: nobody is named who has reviewed what is pending, and this environment asks for it.",
                )
                self.tell_next(
                    result, [("When it is reviewed", self.again(task_vars, {"migrate_reviewed_by": "NAME"}))]
                )

    def _refuse_shut(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """R6.18 and R5.17: what needs a window begins in one."""
        try:
            declared = windows.read(self._task.args.get("windows") or [])
            days = blackouts.read(self._task.args.get("blackouts") or [])
        except (windows.NotUnderstood, blackouts.NotUnderstood) as fault:
            raise AnsibleActionFail(f"Nothing was applied: {fault}.") from None
        at_any_time = list(self._task.args.get("without_window", ["LOW"]))
        wrong = windows.wrong_risks(at_any_time)
        if wrong:
            raise AnsibleActionFail(f"Nothing was applied: migrate_without_window {wrong}.")
        environment = str(self.run_fact(task_vars).get("environment") or "")
        waived = self._tell_waived(result, "window", "to begin")
        plans = [found["pending"] for found in result["databases"].values() if found["pending"]]
        # One database after another, and so one host after another where there are more of them than forks.
        before = self.before_this_host(task_vars, sum(map(windows.expected, plans)))
        told: dict[str, windows.Shut] = {}
        for pending in plans:
            for one in windows.shut(
                sorted(pending, key=lambda item: str(item["version"])),
                declared,
                at_any_time=at_any_time,
                required=environment in self.pgops(task_vars, "production_environments"),
                waived=waived,
                now=datetime.now(UTC),
                blackouts=days,
                before=before,
            ):
                told.setdefault(one.version, one)
            before += windows.expected(pending)
        shut = [told[version] for version in sorted(told)]
        for one in shut:
            self.say(f"    no window: {one.version}_{one.name} {one.why}")
        if not shut or result.get("failed") or self._only_tells(task_vars) or self._gate_decides(task_vars):
            return
        first, more = shut[0], f" (and {len(shut) - 1} more)" if len(shut) > 1 else ""
        result.update(
            failed=True,
            reason="window",
            msg=f"Nothing was applied: {first.version}_{first.name} {first.why}{more}. An exception goes by name and reason, as check "
            "window in migrate_waive.",
        )
        self.tell_next(result, [("In a window", self.again(task_vars))])

    def _tell_expected(self, pending: list[dict[str, Any]]) -> None:
        """What the authors' estimates come to, and which version clients would wait for (an estimate is no promise)."""
        timed = [item for item in pending if item.get("expected_seconds")]
        if timed:
            rows = max(
                (item["expected_for_rows"] for item in timed if item.get("expected_for_rows") is not None), default=None
            )
            told = f" on tables of up to {rows:,} rows" if rows else ""
            some = "" if len(timed) == len(pending) else f" for {len(timed)} of {len(pending)}"
            self.say(f"    expected in all{some}: {sum(item['expected_seconds'] for item in timed)} s{told}")
        for item in pending:
            if item.get("to_be_split"):
                self.say(
                    f"    warn: {item['version']} is expected to take {item['expected_seconds']} s and is not in batches: "
                    "split it, see docs/patterns, or keep clients away meanwhile"
                )

    def _tell_tables(self, database: str | None, found: dict[str, Any]) -> None:
        """R5.4: the tables that are there and that the pending versions name, the largest first.

        :param database: whose sizes they are, where several databases are told at once.
        """
        there = sorted((found.get("table_bytes") or {}).items(), key=lambda one: (-one[1], one[0]))
        if there:
            named = ", ".join(f"{name} {size(number)}" for name, number in there[:NAMED_TABLES])
            more = f" and {len(there) - NAMED_TABLES} more" if len(there) > NAMED_TABLES else ""
            self.say(f"    tables that they name{f', in {database}' if database else ''}: {named}{more}")

    def _refuse_faults(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """What lint.yml would refuse is not applied; an applied version is past changing and is left alone."""
        findings = pending_findings(
            self.sql_directory(task_vars), self._task.args.get("variables") or {}, list(result["databases"].values())
        )
        for finding in findings:
            self.say(f"    {finding.severity}: {finding}")
        errors = [finding for finding in findings if finding.severity == "error"]
        for one in result["databases"].values():
            mine = of_versions(findings, {item["version"] for item in one["pending"]})
            if mine:
                one["findings"] = [finding.as_dict() for finding in mine]
        # An empty copy has no clients that would wait, and behind its preparation the text is fixed: there it is told.
        if errors and not self._is_blue_green(task_vars) and not self._applies_nothing(task_vars):
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            result.update(
                failed=True,
                reason="lint",
                findings=[finding.as_dict() for finding in findings],
                msg=f"Nothing was applied: {errors[0]}{more}. Then: {self.again(task_vars)}",
            )
