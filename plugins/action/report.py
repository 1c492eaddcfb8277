# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends a run with its report; documented in the module of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import environments
from ansible_collections.whitecross.pgops.plugins.plugin_utils.unbroken import Screen, UnbrokenAction

display = Screen()


class ActionModule(UnbrokenAction):
    """Runs on the controller, once a play, after success and after failure."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"guard"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write what the run left, and say where."""
        variables = task_vars or {}
        super().run(tmp, variables)
        guard = self._task.args.get("guard") or {}
        if guard.get("failed") and guard.get("refused"):
            return self._refused(guard, variables)
        # Only now: the guard refuses a Python that is too old to import these.
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import failures, reporting

        run = self._run(variables)
        failure = failures.first() or (guard if guard.get("failed") else None)
        page: Path | None = None
        if run and not failure and self._next_batch(variables):
            # The run's last batch reports on all of them; a failure that a phase recorded ends the run with this one.
            told = reporting.build(self._recorded(variables, run), run=run)
            if told["ok"]:
                display.display(f"pgops run {run['id']}: {', '.join(variables['ansible_play_batch'])} done")
                return {"changed": False, "batch": True, "ok": True}
        if not run:
            # A tag that leaves out the guard, or a failure before it: there is no run to report on.
            report = reporting.build([], run={"playbook": environments.playbook_name()}, error=failure)
        elif self._task.check_mode:
            report = reporting.build(self._recorded(variables, run), run=run, error=failure)
        else:
            try:
                report, page = reporting.finish(self._state(variables), run, error=failure)
            except OSError as problem:
                return {
                    "failed": True,
                    "msg": f"The report of run {run['id']} cannot be written below {self._state(variables)}: {problem.strerror}; "
                    "what the run did to the database stands, and its journal is there as far as it could be written",
                }
        result = self._answer(reporting, report, page, variables)
        if page and report["ok"]:
            self._leave_evidence(run, variables)
        if run:
            for line in reporting.screen(report, str(page) if page else None):
                display.display(line)
        if page:
            result["notified"] = self._notify(report, variables)
            result["metrics"] = self._measure(report, variables)
        return result

    def _leave_evidence(self, run: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """What the next environment asks for: the versions that are applied and verified, now that nothing has failed after it."""
        from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import promotion

        environment, state = str(run["environment"]), self._state(task_vars)
        # Production is the last.
        if environment in self._production(task_vars):
            return
        try:
            for path in promotion.leave(state, environment, str(run["id"]), self._recorded(task_vars, run)):
                signed = self._sign_evidence(path, task_vars)
                display.display(f"evidence of {environment}: {path}{signed}")
        except (OSError, PgopsError) as fault:
            told = fault.message if isinstance(fault, PgopsError) else f"{fault.filename}: {fault.strerror}"
            display.warning(f"The run left no evidence for the next environment: {told}")

    def _sign_evidence(self, path: Path, task_vars: dict[str, Any]) -> str:
        """:return: what is told of it: a gate takes only what is signed. :raises PgopsError: the key does not sign."""
        key = self._text(task_vars, "verify_evidence_key")
        if not key:
            return ""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import gate_promotion

        return f", signed in {gate_promotion.sign(path, key).name}"

    def _production(self, task_vars: dict[str, Any]) -> list[str]:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import environment_names

        given = task_vars.get(environment_names.PRODUCTION)
        return environment_names.listed(environment_names.PRODUCTION, self._templar.template(given))

    def _notify(self, report: dict[str, Any], task_vars: dict[str, Any]) -> bool:
        """Tell whom the environment names how the run ended; whether that works changes nothing about the run."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import batches, notices

        try:
            databases = self._templar.template(task_vars.get("pgops_databases") or task_vars.get("pgops_database"))
            settings = {name: self._templar.template(task_vars.get(name)) for name in notices.VARIABLES}
            return notices.tell(report, settings, batches.names(databases))
        except notices.NotNotified as fault:
            display.warning(f"{notices.who_was(fault)} was notified of this run: {fault}")
        except Exception as fault:  # noqa: BLE001 -- its words may hold the address
            display.warning(
                f"Nobody was notified of this run: {type(fault).__name__} in pgops_webhook, its file or pgops_mail"
            )
        return False

    def _measure(self, report: dict[str, Any], task_vars: dict[str, Any]) -> str | None:
        """:return: the file in which Prometheus finds what the run tells; whether it can be written changes nothing about the run."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import metrics_files

        try:
            hosts = (task_vars.get("groups") or {}).get(str(report["environment"]))
            directory = self._text(task_vars, "pgops_metrics_directory")
            path = metrics_files.leave(report, self._state(task_vars), directory, hosts)
        except metrics_files.NotWritten as fault:
            display.warning(f"The metrics of this run were not written: {fault}")
            return None
        except Exception as fault:  # noqa: BLE001 -- whatever it is, the run ended as it ended
            display.warning(f"The metrics of this run were not written: {type(fault).__name__}: {fault}")
            return None
        return str(path) if path else None

    def _refused(self, guard: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        if "too old" not in guard["msg"]:
            from ansible_collections.whitecross.pgops.plugins.plugin_utils import reporting

            error = {"message": guard["msg"], "next": guard.get("next")}
            report = reporting.build([], run={"playbook": environments.playbook_name()}, error=error)
            return self._answer(reporting, report, None, task_vars)
        return {"changed": False}

    def _answer(
        self, reporting: Any, report: dict[str, Any], page: Path | None, task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        path = self._text(task_vars, "pgops_json")
        if path:
            try:
                reporting.write_result(path, reporting.result_document(report, str(page) if page else None))
            except OSError as problem:
                return {
                    "failed": True,
                    "msg": f"pgops_json={path} cannot be written: {problem.strerror}; name a file that can",
                }
        return {
            "changed": False,
            "ok": report["ok"],
            "report": str(page) if page else None,
            "duration_s": report["duration_s"],
        }

    def _run(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        facts = task_vars.get("ansible_facts") or {}
        return dict(facts.get("__pgops_run") or {})

    def _text(self, task_vars: dict[str, Any], variable: str) -> str:
        value = task_vars.get(variable)
        return str(self._templar.template(value)) if value else ""

    def _state(self, task_vars: dict[str, Any]) -> str:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.pgops_variables import SHARED_VARIABLES

        return self._text(task_vars, "pgops_state_directory") or str(SHARED_VARIABLES["pgops_state_directory"].default)

    @staticmethod
    def _next_batch(task_vars: dict[str, Any]) -> bool:
        return bool(task_vars["ansible_play_hosts_all"][-1] not in task_vars["ansible_play_batch"])

    def _recorded(self, task_vars: dict[str, Any], run: dict[str, Any]) -> list[dict[str, Any]]:
        """:return: the run's journal, or what stands for it."""
        if self._task.check_mode:
            return self._events(task_vars, run)
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal

        return Journal(self._state(task_vars), str(run["environment"]), str(run["id"])).events()

    def _events(self, task_vars: dict[str, Any], run: dict[str, Any]) -> list[dict[str, Any]]:
        """In check mode there is no journal: what the phases left in the hosts' facts stands for it."""
        events: list[dict[str, Any]] = [{"event": "run_started", "time": run.get("started")}]
        for host in task_vars["ansible_play_hosts_all"]:
            variables = task_vars["hostvars"].raw_get(host)
            facts = (variables.get("ansible_facts") or {}).get("__pgops_run") or {}
            for phase, result in facts.items():
                if isinstance(result, dict) and phase != "given":
                    shared = {"phase": phase, "host": host, "time": run.get("started")}
                    events.append({"event": "phase_started", **shared})
                    events.append({"event": "phase_finished", "result": result, **shared})
        return events
