# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the module stop and tells what came of it; documented in the module of the same name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal, finished, is_alive, unfinished
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction, seconds

# Playbooks that go on to change something.
CHANGES = ("migrate", "rollback", "backup", "prove", "rehearse", "export", "restore", "restore_table", "restore_drill")
DEFAULT_WAIT_S = 120.0
POLL_S = 0.2


class ActionModule(MigrationAction):
    """Ends a running migration at its next safe point."""

    PHASE = "stop"
    MODULE = "stop"
    STOPPABLE = False

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: how long to wait, and who asks."""
        return {
            "by": self._by(task_vars),
            **{name: value for name, value in self._task.args.items() if value is not None},
        }

    def _by(self, task_vars: dict[str, Any]) -> str:
        run = self.run_fact(task_vars)
        return f"{run.get('who') or 'somebody'} on {run.get('ops_host') or 'an unknown host'}"

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """One line a database."""
        for database, found in (result.get("databases") or {}).items():
            if not found["was_running"]:
                found["before_its_lock"] = self._wait_for_runs(task_vars)
                self._tell_unlocked(database, found)
                continue
            run = (found["holder"] or {}).get("run_id") or "the run"
            if found["stopped"]:
                self.say(f"{database}: {run} has ended after {seconds(found['waited_s'])}; the next run goes on there")
            else:
                self.say(f"{database}: {run} is running and would be asked to end")
        still = [
            run
            for found in (result.get("databases") or {}).values()
            for run in found.get("before_its_lock") or []
            if not run["stopped"]
        ]
        if still and not self._task.check_mode and not result.get("failed"):
            result.update(
                failed=True,
                reason="running",
                msg=f"Run {still[0]['run_id']} has not ended yet; it was asked, and begins nothing more.",
            )
        if result.get("failed"):
            self.tell_next(result, [("Look again", self.command(task_vars, "status.yml"))])
        return result

    def _runs_of_this_machine(self, task_vars: dict[str, Any]) -> Iterator[Journal]:
        """Runs on this host's databases that hold no lock yet, or no longer: in the backup, say. Their journal reaches them."""
        own = self.run_fact(task_vars)
        host = task_vars.get("inventory_hostname")
        databases = set(self.pgops(task_vars, "databases") or [])
        state = str(self.pgops(task_vars, "state_directory"))
        for journal, events in unfinished(state, str(own.get("environment") or "")):
            if journal.run_id == own.get("id") or events[0].get("playbook") not in CHANGES:
                continue
            if host not in (events[0].get("hosts") or []):
                continue
            phases = [event for event in events if event.get("event") == "phase_started" and event.get("host") == host]
            # One that has begun no phase is at its guard, and does not say yet which databases it is about.
            if not phases or databases & {name for event in phases for name in event.get("databases") or []}:
                yield journal

    def _wait_for_runs(self, task_vars: dict[str, Any]) -> list[dict[str, Any]]:
        deadline = time.monotonic() + float(self._task.args.get("wait") or DEFAULT_WAIT_S)
        told = []
        for journal in list(self._runs_of_this_machine(task_vars)):
            if not self._task.check_mode:
                journal.ask_to_stop(self._by(task_vars))
            while not self._task.check_mode and not self._over(journal) and time.monotonic() < deadline:
                time.sleep(POLL_S)  # the other run says in its journal that it is over; nothing wakes this one
            told.append({"run_id": journal.run_id, "stopped": not self._task.check_mode and self._over(journal)})
        return told

    @staticmethod
    def _over(journal: Journal) -> bool:
        events = journal.events()
        return finished(events) or not is_alive(events[0].get("pid"))

    def _tell_unlocked(self, database: str, found: dict[str, Any]) -> None:
        for run in found["before_its_lock"]:
            if self._task.check_mode:
                self.say(f"{database}: {run['run_id']} is running, holds no lock yet, and would be asked to end")
            elif run["stopped"]:
                self.say(f"{database}: {run['run_id']} has ended before it took the lock")
        known = {run["run_id"] for run in found["before_its_lock"]}
        for run_id in found.get("sessions") or []:
            if run_id not in known:
                self.say(
                    f"{database}: {run_id} is connected but holds no lock (its backup, or a look): it changes nothing now, "
                    "and cannot be asked from this machine; type stop.yml on the one where it runs"
                )
                known.add(run_id)
        if not known:
            self.say(f"{database}: nothing is running")
