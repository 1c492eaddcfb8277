# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ends a run in the audit of its databases and keeps the heads on the ops host; documented in the module of the same name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    audit_anchor,
    audit_run,
    failures,
    phi_state,
    reporting,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction, display
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal, now

_SETTINGS = ("justification", "ticket", "reviewer", "issues", "resolutions")
# Phases that write into the audit themselves, so that the database was there.
_WRITING = ("apply", "revert", "adopt", "maintenance", "retention", "blue_green")
# A run that found no server does not wait for it again for long.
_PATIENCE_S = 3
_CLUSTER = ("system_identifier", "timeline", "database_oid")


class ActionModule(PgopsAction):
    """Runs once a host, before the report, whatever happened; a run that is well and leaves no anchor is not well."""

    PHASE = "audit"
    MODULE = "audit_record"
    JOURNALLED = False
    REMEMBERED = False
    STOPPABLE = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write and anchor; a run that has failed before is told what could not be recorded, and keeps its own failure."""
        variables = task_vars or {}
        run = self.run_fact(variables)
        if self._task.check_mode or "id" not in run:
            return {"changed": False, "skipped": True}
        failed = failures.first()
        self.look_back(variables, run, failed)
        try:
            result = super().run(tmp, variables)
        except AnsibleError as fault:
            result = {"failed": True, "msg": str(fault.message if hasattr(fault, "message") else fault)}
        result.pop("databases", None)
        if not (result.get("failed") or result.get("unreachable")):
            return result
        told = str(result.get("msg") or "no answer")
        if failed or not self._report["ok"] or not (result.get("owed") or self._wrote()):
            # Its own failure counts; and what needs no database, such as a list of backups, goes without one.
            display.warning(f"The end of run {run['id']} is not in the audit: {told}")
            return {"changed": False, "not_recorded": told}
        if result.get("cut"):
            return result
        done = "what the run did stands and is in its journal"
        return {**result, "msg": f"The end of run {run['id']} could not be recorded in the audit ({done}): {told}"}

    def _wrote(self) -> bool:
        return any(row["phase"] in _WRITING and row["result"] == "changed" for row in self._report["steps"])

    def look_back(self, task_vars: dict[str, Any], run: Mapping[str, Any], failed: Mapping[str, Any] | None) -> None:
        """What the run came to, as far as its journal and what failed outside a phase tell."""
        self._state = str(self.pgops(task_vars, "state_directory"))
        self._environment, self._host = str(run["environment"]), str(task_vars["inventory_hostname"])
        self._journal_of_run = Journal(self._state, self._environment, str(run["id"]))
        self._report = reporting.build(self._journal_of_run.events(), run=run, error=failed)
        self._settings = {name: self._given(task_vars, name) for name in _SETTINGS}

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the last row of each database, and what the ops host has of its audit."""
        entries: dict[str, Any] = {}
        kept: dict[str, Any] = {}
        # What the database is held against; another run may anchor meanwhile. Its rows lie there before its anchor.
        self._seen: dict[str, tuple[list[dict[str, Any]], bool]] = {}
        for database in map(str, self.pgops(task_vars, "databases") or []):
            place = self._place(database)
            entries[database] = audit_run.entry(self._report, self._host, database, self._settings)
            try:
                to, anchors = audit_anchor.kept_to(place), audit_anchor.heads(place)
            except OSError as fault:
                raise AnsibleActionFail(f"The anchors cannot be read: {fault.filename}: {fault.strerror}") from None
            kept[database] = {"heads": [{name: one[name] for name in ("seq", "hash")} for one in anchors], "to": to}
            self._seen[database] = (anchors, to is not None)
        return {"entries": entries, "kept": kept}

    def connection_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: those of the module; after a failure with less patience."""
        arguments = super().connection_arguments(task_vars)
        if not self._report["ok"]:
            arguments["connect_timeout"] = min(_PATIENCE_S, int(arguments.get("connect_timeout") or _PATIENCE_S))
        return arguments

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Keep each head; the first that cannot be kept, or that was cut, is the task's failure."""
        faults = []
        for database, found in (result.get("databases") or {}).items():
            if found.get("lacking"):
                told = f"The audit of {database} lacks the rows of {', '.join(found['lacking'])}, which this run has worked on"
                faults.append({"msg": told, "cut": True, "owed": True})
            try:
                cut = self._anchor(database, found, task_vars)
            except (audit_anchor.NotAnchored, OSError) as fault:
                why = f"{fault.filename}: {fault.strerror}" if isinstance(fault, OSError) else str(fault)
                faults.append({"msg": f"The head of the audit of {database} is not anchored: {why}", "owed": True})
                continue
            if cut:
                look = self.command(task_vars, "audit_export.yml")
                faults.append({"msg": f"{cut}. To look: {look}", "next": [look], "cut": True, "owed": True})
        faults += self._log_as_before(result.get("databases") or {}, task_vars)
        result["changed"] = False
        return {**result, "failed": True, **faults[0]} if faults else result

    def _log_as_before(self, databases: Mapping[str, Any], task_vars: dict[str, Any]) -> list[dict[str, Any]]:
        """What a run that was killed has left logged, for PHI, is put back by whichever run comes next to the cluster."""
        faults = []
        for identifier in {found["cluster"].get("system_identifier") for found in databases.values()}:
            cluster = phi_state.Cluster.of(self._state, identifier)
            if not cluster.path.exists():
                continue
            with cluster.locked():
                try:
                    known = cluster.let_go({"run_id": self._report["run_id"], "host": self._host})
                except (OSError, ValueError, KeyError) as fault:
                    faults.append(
                        {"msg": f"What was logged for a run that touched PHI is unknown: {cluster.path}: {fault}"}
                    )
                    continue
                if known is None:
                    continue
                arguments = {**self.connection_arguments(task_vars), "state": "closed", "before": known["before"]}
                done = self._call("whitecross.pgops.phi_window", arguments, task_vars)
                if done.get("failed"):
                    faults.append({"msg": f"What was logged for a run that touched PHI is logged still: {done['msg']}"})
                    continue
                cluster.forget()
                self.say(f"{self._host}: logging is put back as it was before a run that touched PHI and was cut off")
        return faults

    def _anchor(self, database: str, found: Mapping[str, Any], task_vars: dict[str, Any]) -> str | None:
        place, report = self._place(database), self._report
        cut, parted = self._parted(database, found)
        anchor = {
            "time": now(),
            **{name: report[name] for name in ("run_id", "playbook", "environment", "who", "result")},
            "host": self._host,
            "database": database,
            **(found["head"] or {"seq": None, "hash": None}),
            **{name: found["cluster"].get(name) for name in _CLUSTER},
            **({"parted": parted} if parted else {}),
        }
        key, command = self._given(task_vars, "anchor_key"), self._given(task_vars, "anchor_command")
        sign = audit_anchor.signer(str(key)) if key else None
        written = audit_anchor.append(place, anchor, found["rows"], sign)
        told = {name: written.get(name) for name in ("seq", "hash", "parted")}
        self._journal_of_run.append({"event": "anchored", "host": self._host, "database": database, **told})
        if command:
            audit_anchor.hand_over([command] if isinstance(command, str) else list(command), written)
        return cut

    def _parted(self, database: str, found: Mapping[str, Any]) -> tuple[str | None, dict[str, Any] | None]:
        """:return: a sentence where rows are gone that nothing explains, and what the anchor keeps of it."""
        anchors, copied = self._seen[database]
        if not anchors:
            told = f"The anchors of {database} are gone from this ops host, and the copy of its rows is there: somebody took them away"
            return told if copied else None, None
        # A run on another server of this name may have anchored since: this cluster is held against what it was itself.
        last = next((one for one in anchors if _same_cluster(one, found["cluster"])), anchors[0])
        held = set(found.get("held") or [])
        if last["hash"] in held:
            return None, None
        common = int((found["common"] or {}).get("seq") or 0)
        moved = [name for name in _CLUSTER if last.get(name) and found["cluster"].get(name) != last[name]]
        by_us = audit_run.explained(self._state, self._environment, self._host, database, last.get("run_id"))
        if not moved and any(found["cluster"].get(name) for name in _CLUSTER):
            by_us = None  # each way back makes another database or another timeline
        parted: dict[str, Any] = {
            "common": common,
            "explained": by_us[0] if by_us else None,
            "by": by_us[1] if by_us else None,
        }
        if by_us or (moved and not found["there"]):
            return None, parted
        told = (
            f"The audit of {database} has not the row {last['seq']} that run {last.get('run_id')} anchored at {last.get('time')}, and "
            f"agrees with the anchors up to row {common}"
        )
        if not moved:
            return (
                f"{told}: it was cut or rewritten, or a snapshot put its files back; no rollback of this ops host explains it",
                parted,
            )
        known = any(one["hash"] in held and _same_cluster(one, last) for one in anchors)
        display.warning(f"{told}: {_why_moved(last, found['cluster'], moved, known=known)}")
        return None, parted

    def _place(self, database: str) -> audit_anchor.Place:
        return audit_anchor.Place.of(self._state, self._environment, self._host, database)

    def _given(self, task_vars: dict[str, Any], name: str) -> Any:
        # The report belongs to every playbook, and the role whose variables these are to none of them.
        return self._templar.template(task_vars.get(f"audit_{name}") or "") or None


def _same_cluster(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    names = one.get("system_identifier"), other.get("system_identifier")
    return not all(names) or names[0] == names[1]


def _why_moved(last: Mapping[str, Any], cluster: Mapping[str, Any], moved: Sequence[str], *, known: bool) -> str:
    """:param known: whether the database has a row that was anchored in the cluster of before: only a restore brings it along."""
    if "system_identifier" not in moved:
        names = " and ".join(name.replace("_", " ") for name in moved)
        return f"its {names} changed since, so it was restored outside of this tool"
    now = f"it lies in cluster {cluster['system_identifier']}, and was anchored in cluster {last['system_identifier']}"
    if known:
        return f"{now}, of which it has rows: it was restored into a new cluster outside of this tool"
    return (
        f"{now}, of which it has no anchored row: this is another server with a database of this name, or a server without this history took "
        "its place; nothing says that it was restored"
    )
