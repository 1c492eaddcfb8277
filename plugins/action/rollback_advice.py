# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs rollback.yml for what a migration has changed, where that is advised and allowed; documented in the module of the same name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    bring_back,
    failures,
    part_of_run,
    reporting,
    rollback_advice,
    rollback_targets,
    typed_commands,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal, make_private_folder
from ansible_collections.whitecross.pgops.plugins.plugin_utils.pgops_variables import SHARED_VARIABLES
from ansible_collections.whitecross.pgops.plugins.plugin_utils.unbroken import Screen, UnbrokenAction

# Between two looks at what the rollback has said.
POLL_S = 0.2

display = Screen()


class ActionModule(UnbrokenAction):
    """Runs on the controller, once for all hosts of a batch, and never fails: what comes behind it brings the users back."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"automatic", "reason"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Judge what the run has recorded, and do what is advised."""
        variables = task_vars or {}
        super().run(tmp, variables)
        run = dict((variables.get("ansible_facts") or {}).get("__pgops_run") or {})
        answer: dict[str, Any] = {"changed": False, "rolled_back": []}
        if not run or not boolean(self._task.args.get("automatic") or False, strict=False):
            return answer
        if self._task.check_mode:
            display.display(
                "migrate_auto_rollback: what this run changes would be rolled back by rollback.yml without a question, should it fail "
                "or be found unwell; its way down, or its own proved backup where a version has none"
            )
            return answer
        try:
            return self._as_advised(run, answer, variables)
        except OSError as fault:
            # What comes behind it brings the users back and reports, also where the disk is full.
            display.warning(
                f"This migration is not rolled back by itself: {fault.filename or 'its record'}: {fault.strerror or fault}; the report "
                "says what to type"
            )
            return answer

    def _as_advised(self, run: dict[str, Any], answer: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        journal = Journal(self._state(variables), str(run["environment"]), str(run["id"]))
        advice = reporting.build(journal.events(), run=run, error=failures.first())["advice"]
        if not advice or not advice["roll_back"]:
            return answer
        by = journal.stop_asked_by()
        if by:
            display.warning(f"This migration is not rolled back by itself: {by} asked it to stop, and so decides")
            return answer
        for line in rollback_advice.lines({**advice, "commands": []}):
            display.display(line)
        targets = [
            rollback_targets.Target(**{**target, "versions": tuple(target["versions"])})
            for target in advice["targets"]
            if self._is_allowed(str(target["host"]), variables)
        ]
        for target in targets:
            if not rollback_targets.goes_by_itself(target):
                display.warning(f"{target.database} on {target.host} is not rolled back by itself: {target.why}")
        reason = self._reason(advice, run)
        for number, rollback in enumerate(rollback_targets.rollbacks(targets), 1):
            kept = variables["hostvars"][rollback.host].get("pgops_state_directory")
            done = self._roll_back(journal, run, rollback, number, reason, advice, kept=str(kept or ""))
            answer["changed"] = True
            answer["rolled_back"].append({"host": rollback.host, "databases": list(rollback.databases), "ok": done})
            if not done:
                break
        return answer

    def _is_allowed(self, host: str, task_vars: dict[str, Any]) -> bool:
        """This is done once for all hosts, and what the first one allows another one need not."""
        given = task_vars["hostvars"].raw_get(host).get("migrate_auto_rollback")
        return bool(boolean(self._templar.template(given) or False, strict=False))

    def _reason(self, advice: dict[str, Any], run: dict[str, Any]) -> str:
        allowed = " ".join(str(self._task.args.get("reason") or "").split())
        told = f"{advice['why']} (run {run['id']}); by itself"
        return f"{told}, as {allowed}" if allowed else told

    def _roll_back(
        self,
        journal: Journal,
        run: dict[str, Any],
        rollback: rollback_targets.Rollback,
        number: int,
        reason: str,
        advice: dict[str, Any],
        *,
        kept: str,
    ) -> bool:
        """Run the playbook that a person would type, with its disclosure, its backup, its verification and its own report.

        :param kept: ``pgops_state_directory`` of the host, empty where it has none; the rollback has to find the journal of this run
        :return: whether it came to its end
        """
        folder = reporting.files(journal.state_directory, journal.environment, journal.run_id)["json"].parent
        result, log = (folder / f"{journal.run_id}.rollback-{number}.{kind}" for kind in ("json", "log"))
        variables: dict[str, Any] = {
            "rollback_strategy": "down",
            **rollback.choice,
            "rollback_confirm": ",".join(rollback.databases),
            "rollback_reason": reason,
            "pgops_databases": list(rollback.databases),
            "pgops_json": str(result),
            part_of_run.VARIABLE: journal.run_id,
        }
        of_host = kept or str(SHARED_VARIABLES["pgops_state_directory"].default)
        if Path(of_host).expanduser() != journal.state_directory:
            variables["pgops_state_directory"] = str(journal.state_directory)
        if variables["rollback_strategy"] == "down":
            variables["rollback_only"] = list(rollback.versions)
        command = bring_back.another(sys.argv, str(run["command"]), typed_commands.sibling(run, "rollback"))
        command += ["-l", rollback.host, "-e", json.dumps(variables)]
        told = {"number": number, "host": rollback.host, "databases": list(rollback.databases), "log": str(log)}
        severity = (advice["severity"] or {}).get("level")
        journal.append({"event": "rollback_started", "reason": reason, "severity": severity, **told})
        display.display(
            f"{rollback.host}: rolling back {', '.join(rollback.databases)} by itself, as migrate_auto_rollback allows"
        )
        try:
            code = self._follow(command, log)
            found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
        except (OSError, ValueError) as fault:
            code, found = 1, {"error": {"message": f"rollback.yml could not be run: {fault}", "next": []}}
        ok = code == 0 and bool(found.get("ok"))
        error = (
            None if ok else found.get("error") or {"message": f"rollback.yml ended with {code}; its output is in {log}"}
        )
        known = {name: found.get(name) for name in ("run_id", "state", "report")}
        journal.append({"event": "rollback_finished", "ok": ok, "error": error, **told, **known})
        return ok

    @staticmethod
    def _follow(command: list[str], log: Path) -> int:
        """Show what it says. It says so to a file, not to a pipe: it goes on to its end where this run is killed.

        :raises OSError: it cannot be started
        """
        make_private_folder(log.parent)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as said, log.open("rb") as reader:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, **bring_back.ALL_TAGS},
            )  # fmt: skip
            for line in _lines(process, reader):
                display.display(f"    {line}")
            return process.returncode

    def _state(self, task_vars: dict[str, Any]) -> str:
        given = task_vars.get("pgops_state_directory")
        return str(self._templar.template(given) or SHARED_VARIABLES["pgops_state_directory"].default)


def _lines(process: subprocess.Popen[bytes], reader: Any) -> Iterator[str]:
    """:return: each line that has come to its end, until the process has."""
    left = b""
    while True:
        over = process.poll() is not None
        left += reader.read()
        *whole, left = left.split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in whole if line.strip())
        if over:
            if left.strip():
                yield left.decode("utf-8", "replace")
            return
        time.sleep(POLL_S)  # a process says nothing by itself when it writes to a file
