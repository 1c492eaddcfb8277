# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Signs what is pending as one of the roles that approve it; documented in the module of the same name."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import approvals, signature
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction


class ActionModule(MigrationAction):
    """Runs on the controller, once a play; starts no module."""

    PHASE = "approve"
    _requires_connection = False
    _VALID_ARGS = frozenset({"role", "key", "hours", "approvals", "signers"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Show the statement, sign it, see that the gate would take it, and keep it."""
        variables = task_vars or {}
        role, key = str(self._task.args["role"]), str(self._task.args["key"])
        try:
            made, told = self._statement(role, variables)
            for line in told:
                self.say(line)
            if self._task.check_mode:
                return {"changed": False, "msg": "check mode: nothing was signed"}
            return self._signed(made, role, key, variables)
        except PgopsError as fault:
            raise AnsibleActionFail(
                f"Nothing was signed: {fault.message}.{f' {fault.hint}' if fault.hint else ''}"
            ) from None
        except OSError as fault:
            raise AnsibleActionFail(f"The approval cannot be kept ({fault.filename}): {fault.strerror}") from None

    def _statement(self, role: str, task_vars: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """:return: what is signed, and how a person reads it."""
        run = self.run_fact(task_vars)
        environment, now = str(run["environment"]), datetime.now(UTC)
        hours = float(self._task.args.get("hours", 168))
        if not 0 < hours <= approvals.LONGEST_HOURS:
            raise PgopsError(f"approve_hours is {hours:g}, and takes more than 0 and at most {approvals.LONGEST_HOURS}")
        places, asked = [], set()
        for host in task_vars["ansible_play_hosts_all"]:
            for found in self._verdicts(str(host), task_vars).values():
                places.append(found["place"])
                asked |= set(found["roles"])
        if not places:
            raise PgopsError(f"Nothing is pending in {environment}, so there is nothing to approve")
        if role not in asked:
            raise PgopsError(
                f"{role} is not asked to approve this, which needs {' and '.join(sorted(asked))}",
                hint="Name one of these in approve_as.",
            )
        made = approvals.statement(environment, role, places, now, hours)
        return made, self._shown(made)

    def _verdicts(self, host: str, task_vars: dict[str, Any]) -> dict[str, dict[str, Any]]:
        variables = task_vars if host == task_vars["inventory_hostname"] else task_vars["hostvars"].raw_get(host)
        found = self.run_fact(variables).get("gate") or {}
        return {database: one["gate"] for database, one in found.items()}

    @staticmethod
    def _shown(made: dict[str, Any]) -> list[str]:
        told = [f"{made['role']} approves in {made['environment']}, until {made['expires']}:"]
        for place in made["places"]:
            seen = f"as rehearsed in {place['rehearsal']}" if place["rehearsal"] else "WITHOUT A REHEARSAL"
            told.append(f"    {place['database']} on {place['host']}: risk {place['risk']}, {seen}")
            told += [f"        {one['version']}  sha256 {one['rendered_checksum']}" for one in place["versions"]]
            if place["budget"]:
                words = {"seconds": "in all", "blocks_reads": "readers wait", "blocks_writes": "writers wait"}
                budget = ", ".join(f"{words[name]} {seconds:.1f} s" for name, seconds in place["budget"].items())
                told.append(f"        at most {budget}")
        return told

    def _signed(self, made: dict[str, Any], role: str, key: str, task_vars: dict[str, Any]) -> dict[str, Any]:
        data = signature.canonical(made)
        signed = signature.sign(data, key, approvals.NAMESPACE)
        signers = (self._task.args.get("signers") or {}).get(role)
        if not signers:
            raise PgopsError(f"gate_signers has no {role}, so nobody may sign as that")
        try:
            who = signature.verify(data, signed, str(signers), approvals.NAMESPACE)
        except signature.NotSigned as fault:
            raise PgopsError(f"The statement {fault.message}, so the gate would not take it") from None
        state = str(self.pgops(task_vars, "state_directory"))
        where = approvals.folder(state, str(made["environment"]), self._task.args.get("approvals"))
        path = approvals.store(where, made, signed)
        self.say(f"approved by {who.principal} as {role} with the key {who.key}: {path}")
        journal = self._journal(task_vars)
        if journal:
            about = {"role": role, "by": who.principal, "signed_with": who.key, "statement": made, "file": str(path)}
            journal.append({"event": "approved", **about})
        self.say(f"to ask what is missing still: {self.command(task_vars, 'gate.yml')}")
        return {"changed": True, "file": str(path), "by": who.principal, "statement": made}
