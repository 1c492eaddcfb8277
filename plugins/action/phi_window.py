# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks for the assessment, has statements logged while PHI is touched, and puts the settings back; documented in the module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.plugin_utils import phi_state, run_parts
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction


class ActionModule(PgopsAction):
    """Does nothing where no pending version touches PHI."""

    PHASE = "phi_close"
    MODULE = "phi_window"
    STOPPABLE = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Assess, open or close."""
        variables = task_vars or {}
        state = str(self._task.args.get("state"))
        # Instances are made for each task.
        self.PHASE = {"assessed": "phi_assessment", "open": "phi_open"}.get(state, "phi_close")
        versions = self._versions(variables)
        fact = self.run_fact(variables)
        if self._task.check_mode and state != "assessed":
            return {"changed": False, "skipped": True}
        if (not versions and state != "closed") or (state == "closed" and "phi_open" not in fact):
            return {"changed": False, "skipped": True}
        if state == "assessed":
            self._refuse_unassessed(variables, versions)
            return {"changed": False}
        self._holder = {
            "run_id": fact.get("id"),
            "environment": fact.get("environment"),
            "host": str(variables["inventory_hostname"]),
        }
        return super().run(tmp, variables)

    def _versions(self, task_vars: dict[str, Any]) -> list[str]:
        plans = (self.run_fact(task_vars).get("plan") or {}).values()
        pending = [item for found in plans for item in (found or {}).get("pending") or [] if isinstance(item, Mapping)]
        return sorted({str(item["version"]) for item in pending if item.get("phi", True)})

    def _refuse_unassessed(self, task_vars: dict[str, Any], versions: list[str]) -> None:
        """Who only looks is told what will be missing, and shown the SQL that has to be assessed."""
        lacking = phi_state.missing(self._task.args.get("assessment") or {})
        if lacking:
            asked = "; ".join(f"audit_{name}: {phi_state.ASSESSED[name]}" for name in lacking)
            if self._task.check_mode or not run_parts.touches(self.run_fact(task_vars)):
                self.say(f"    PHI: {', '.join(versions)}: nobody has named {asked}; a run that applies is refused")
                return
            raise AnsibleActionFail(
                f"Nothing was begun: {', '.join(versions)} touch PHI, and nobody has named {asked}. Fill that in where the environment's "
                f"variables are. Then: {self.again(task_vars)}"
            )

    def _call(self, module: str, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Looked at, kept on the ops host, and only then changed; each run puts back what it holds, the last one for all."""
        state, directory = arguments["state"], str(self.pgops(task_vars, "state_directory"))
        first = str((self.pgops(task_vars, "databases") or [""])[0])
        found = super()._call(module, {**arguments, "state": "look"}, task_vars)
        if found.get("failed"):
            return found
        looked = found["databases"][first]["phi_window"]
        cluster = phi_state.Cluster.of(directory, looked["system_identifier"])
        try:
            with cluster.locked():
                if state == "open":
                    known = cluster.hold(looked, self._holder)
                    self._logging = str(known["logging"])
                    done = super()._call(module, {**arguments, "logging": self._logging}, task_vars)
                    if done.get("failed"):
                        self._put_back(cluster, module, arguments, task_vars)
                    return done
                return self._put_back(cluster, module, arguments, task_vars) or found
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise AnsibleActionFail(
                f"What stood there before statements were logged cannot be read or kept in {cluster.path} ({fault}); look at log_statement "
                "of the cluster (ALTER SYSTEM), put back what the last audit of a run tells, and remove the file."
            ) from None

    def _put_back(
        self, cluster: phi_state.Cluster, module: str, arguments: dict[str, Any], task_vars: dict[str, Any]
    ) -> dict[str, Any] | None:
        known = cluster.let_go(self._holder)
        if known is None:
            return None
        done = super()._call(module, {**arguments, "state": "closed", "before": known["before"]}, task_vars)
        if not done.get("failed"):
            cluster.forget()
        return done

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say what is logged, and by which sessions the databases were used meanwhile."""
        if result.get("failed"):
            return result
        opened = self.run_fact(task_vars).get("phi_open") or {}
        rest = str((self._task.args.get("assessment") or {}).get("encryption_at_rest") or "")
        for database, found in result["databases"].items():
            window = found["phi_window"]
            if self.PHASE == "phi_open":
                window["logging"] = self._logging
                told = (
                    f"; not of {', '.join(window['exceptions'])}, which have settings of their own"
                    if window["exceptions"]
                    else ""
                )
                self.say(
                    f"{database}: PHI is touched: every statement of the cluster is logged by {window['logging']}{told}"
                )
                continue
            before = (opened.get(database) or {}).get("phi_window") or {}
            sessions = {
                (one["user"], one["application_name"], one["client"], one["since"]): one
                for one in [*before.get("sessions", []), *window.get("sessions", [])]
            }
            found["phi_window"] = {
                "logging": before.get("logging"),
                "opened": before.get("at"),
                "closed": window.get("at"),
                "exceptions": before.get("exceptions", []),
                "sessions": list(sessions.values()),
                "encryption_in_transit": before.get("encryption_in_transit"),
                "encryption_at_rest": f"attested: {rest}" if rest else "not attested (audit_encryption_at_rest)",
                "assessment": {
                    name: value for name, value in (self._task.args.get("assessment") or {}).items() if value
                },
            }
            self.say(f"{database}: logging is put back; {len(sessions)} sessions were seen, the report has them")
        return result
