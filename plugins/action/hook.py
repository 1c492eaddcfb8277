# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs one hook on the host that it names and writes down what became of it; documented in the module of the same name."""

from __future__ import annotations

import json
import shlex
import time
from datetime import datetime
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.whitecross.pgops.plugins.plugin_utils import application_hooks as hooks
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    application_metrics,
    index_watch,
    reporting,
    run_outcome,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal, now
from ansible_collections.whitecross.pgops.plugins.plugin_utils.taken_away import TakenAway
from ansible_collections.whitecross.pgops.plugins.plugin_utils.time_limit import alarm

# The module keeps the time limit itself; so much later its host is taken for one that does not answer.
GRACE_S = 15.0
_FIGURES = ("transactions", "error_rate", "deadlocks", "conflicts", "probe_ms", "replication_lag_s")
# A look at databases waits a minute for a standby that is behind.
DATABASES_TIMEOUT_S = 120.0
DEFAULT_TIMEOUT_S = 30.0
# For a run that was stopped to bring back what it took away.
ANOTHER_S = 60.0
POLL_S = 0.2


class ActionModule(PgopsAction):
    """One item of the loop of the role hooks."""

    PHASE = "hooks"
    MODULE = "hook"

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Do it, or show it in check mode. Nothing of the hook but its name, its host and its numbers is kept."""
        variables = task_vars or {}
        ActionBase.run(self, tmp, variables)
        given = self._task.args
        stage, kind, number = str(given.get("stage")), str(given.get("kind") or ""), int(given.get("number") or 0)
        step = self._templar.template(variables.get("__pgops_step")) or None
        if not kind:
            self.say(f"{variables['inventory_hostname']}: {step}: not applicable, no hook is due")
            return {"changed": False, "done": "not applicable"}
        run = self.run_fact(variables)
        if "id" not in run:
            raise AnsibleActionFail(
                "A hook is part of a run, and none has begun; put whitecross.pgops.guard before it."
            )
        hook = {} if number < 0 else self._declared(variables, kind, number)
        label = _UNDECLARED.get(number) or hooks.label(kind, hook)
        on = str(
            variables["inventory_hostname"] if number == hooks.DATABASES else hook.get("delegate_to") or "localhost"
        )
        told = f"{variables['inventory_hostname']}: {step + ': ' if step else ''}{label} on {on}"
        if self._task.check_mode:
            self.say(
                f"{told}: would be run, {'statistics and catalogs' if number == hooks.DATABASES else _shown(hook)}"
            )
            return {"changed": False, "done": "not applicable"}
        journal = Journal(str(self.pgops(variables, "state_directory")), str(run["environment"]), str(run["id"]))
        host = str(variables["inventory_hostname"])
        if stage not in ("back", "emergency") and _failed_before(journal, stage, host):
            return {"changed": False, "skipped": True, "done": "no"}
        # Without the number, two hooks of a kind that have no names could not be told apart.
        told_of: dict[str, Any] = {"stage": stage, "kind": kind, "number": number, "label": label, "on": on}
        if given.get("at") not in (None, ""):
            told_of["at"] = float(given["at"])
        event = {"phase": self.PHASE, "host": host, "hook": told_of}
        journal.append(
            {
                "event": "phase_started",
                "step": f"{step}: {label}" if step else label,
                "databases": self.pgops(variables, "databases"),
                **event,
            }
        )
        away = TakenAway(journal.state_directory, journal.environment)
        takes_away = kind in hooks.BROUGHT_BACK_BY and stage in ("before", "emergency")
        by = journal.stop_asked_by() if stage == "before" else None
        refused = f"{by} asked this run to stop" if by else None
        if takes_away and not refused:
            refused = self._wait_for_another(away, host, kind, journal, str(run.get("part_of") or ""))
        begun = time.monotonic()
        if refused:
            result = {"failed": True, "msg": f"it was not begun, as {refused}"}
        elif takes_away:
            # On the disk before anything is taken away: a run that is killed now is one that has taken it away.
            first = bool(given.get("first", True))
            away.note(host, kind, journal.run_id, first=first)
            self.say(f"{told} ...; should this run be killed, bring it back: {self.command(variables, 'stop.yml')}")
            result = self._do(hook, kind, number, variables)
            # Where the run was interrupted meanwhile, it may have been brought back before this was done.
            away.note(host, kind, journal.run_id, first=first)
        else:
            self._wait_for_its_time(journal, host)
            begun = time.monotonic()
            if number == hooks.DATABASES:
                result = self._look_at_databases(journal, host, variables)
            else:
                result = self._do(hook, kind, number, variables)
                if kind == "metrics" and self._task.args.get("at") not in (None, ""):
                    result.update(self._against_before(result, journal, host, number, variables))
        seconds = round(time.monotonic() - begun, 3)
        failed = bool(result.get("failed"))
        known: dict[str, Any] = {**told_of, "done": "no" if failed else "yes", "duration_s": seconds}
        known.update({name: result[name] for name in ("metrics", "signals") if result.get(name)})
        answer = {
            "changed": not failed and kind in {*hooks.BROUGHT_BACK_BY, *hooks.BRINGS_BACK},
            "done": known["done"],
            "seconds": seconds,
        }
        answer.update({name: result[name] for name in ("tries", "metrics") if name in result})
        self.say(
            f"{told}: {known['done']} ({seconds:.2f} s){_metrics(result.get('metrics'))}{result.get('told') or ''}"
        )
        back = hooks.BRINGS_BACK.get(kind)
        if failed:
            answer.update(self._failure(label, on, str(result.get("msg") or "failed"), stage, variables))
        ended = {**event, "hook": known, "duration_s": seconds, "changed": answer["changed"]}
        # Nobody is kept from the way back because nobody could be told of it.
        unheard = failed and stage == "emergency" and kind == "alert"
        if failed and not unheard:
            ended.update(event="phase_failed", error={"message": answer["msg"], "next": answer["next"]})
        else:
            ended["event"] = "phase_finished"
        owner = away.to_bring_back(host, journal.run_id, str(run.get("part_of") or "")).get(back or "")
        journal.append(ended)
        if owner and owner.run_id not in ("", journal.run_id):
            # The report of the run that took it away is to know that it is back.
            other = Journal(journal.state_directory, journal.environment, owner.run_id)
            other.append({"event": "hook", "hook": {**known, "by_run": journal.run_id}, "host": host})
        if back and given.get("last", True) and not _failed_before(journal, stage, host, kind):
            away.clear(host, back)
        if unheard:
            return {"changed": False, "done": "no", "warnings": [answer["msg"]]}
        return answer

    @staticmethod
    def _wait_for_another(away: TakenAway, host: str, kind: str, journal: Journal, part_of: str) -> str | None:
        """A run that has just been stopped brings back what it took; it would so undo what this one takes away now.

        :param part_of: the run that waits for this one
        :return: why this one may not begin, where that run goes on
        """
        deadline = time.monotonic() + ANOTHER_S
        while True:
            others = [taken for taken in away.all() if taken.host == host and taken.run_id != journal.run_id]
            others = [taken for taken in others if taken.run_id != part_of and away.is_live(taken.run_id)]
            if not others or time.monotonic() > deadline:
                break
            time.sleep(POLL_S)  # the other run says in its file that it has; nothing wakes this one
        same = [taken for taken in others if taken.kind == kind]
        return f"run {same[0].run_id} has done it for {host} and goes on" if same else None

    def _declared(self, task_vars: dict[str, Any], kind: str, number: int) -> dict[str, Any]:
        return dict(self._templar.template(task_vars[hooks.variable(kind)])[number])

    def _do(self, hook: dict[str, Any], kind: str, number: int, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the module's result; a host that cannot be reached has failed, so that the run's end still comes here."""
        if number == hooks.WEBHOOK:
            return self._tell_webhook(task_vars)
        arguments = {name: value for name, value in hook.items() if name not in hooks.CONTROLLERS and value is not None}
        limit = float(hook.get("timeout") or DEFAULT_TIMEOUT_S)
        name = str(hook.get("delegate_to") or "localhost")
        delegated = dict((task_vars.get("ansible_delegated_vars") or {}).get(name) or {})
        seen = {**task_vars, "ansible_python_interpreter": delegated.get("ansible_python_interpreter")}
        local = self._connection.transport == "local" and seen["ansible_python_interpreter"]
        try:
            with alarm(limit + GRACE_S, _NoAnswer):
                result = self._call(
                    "whitecross.pgops.hook", {**arguments, "metrics": kind == "metrics"}, seen if local else task_vars
                )
        except _NoAnswer:
            return {"failed": True, "msg": f"its host has not answered for {limit + GRACE_S:g} s"}
        except AnsibleError as error:
            return {"failed": True, "msg": f"its host cannot be used: {str(error.message).strip().splitlines()[0]}"}
        if result.get("unreachable"):
            return {"failed": True, "msg": f"its host cannot be reached: {str(result.get('msg')).strip()}"}
        return result

    def _look_at_databases(self, journal: Journal, host: str, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: failed where the clients of one are not well; a database that cannot be reached is one, too."""
        looks = [event for event in journal.events() if event.get("event") == "looked" and event.get("host") == host]
        seen = dict(looks[-1]["seen"]) if looks else {}
        if str(self._task.args.get("at")) in ("0", "0.0"):
            # What happened while the application was away and changed is no error of a client.
            seen = {name: {**one, "counters": None} for name, one in seen.items()}
        arguments = {
            **self.connection_arguments(task_vars),
            "health": self._templar.template(task_vars.get("migrate_health")) or {},
            "seen": seen,
            "indexes": index_watch.made(self.run_fact(task_vars).get("apply")),
        }
        try:
            with alarm(DATABASES_TIMEOUT_S, _NoAnswer):
                result = self._call("whitecross.pgops.watch", arguments, task_vars)
        except _NoAnswer:
            return {"failed": True, "msg": f"{host} has not answered for {DATABASES_TIMEOUT_S:g} s"}
        if result.get("failed") or result.get("unreachable"):
            return {"failed": True, "msg": str(result.get("msg") or "the look failed")}
        found = result["databases"]
        figures = {
            name: {figure: one.get(figure) for figure in _FIGURES}
            for name, one in found.items()
            if "transactions" in one
        }
        seen = {name: one["seen"] for name, one in found.items()}
        scans = {name: one["index_scans"] for name, one in found.items() if one.get("index_scans")}
        looked = {"event": "looked", "host": host, "seen": seen, "figures": figures}
        journal.append({**looked, "index_scans": scans} if scans else looked)
        findings = [f"{name}: {finding}" for name, one in found.items() for finding in one["findings"]]
        if findings:
            more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
            signals = [{**signal, "database": name} for name, one in found.items() for signal in one["signals"]]
            return {"failed": True, "msg": f"{findings[0]}{more}", "signals": signals}
        told = [
            f" {name} {reporting.clients(one, 'since the last look')}"
            for name, one in found.items()
            if "transactions" in one
        ]
        return {"told": ",".join(told)}

    def _against_before(
        self, result: dict[str, Any], journal: Journal, host: str, number: int, task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        """:return: failed where the application's own figures are worse than before the apply by more than is let pass."""
        before: dict[str, float] = next(
            (
                event["hook"]["metrics"]
                for event in journal.events()
                if event.get("host") == host
                and (event.get("hook") or {}).get("metrics")
                and (event["hook"]["stage"], event["hook"].get("number")) == ("before", number)
            ),
            {},
        )
        limits = self._templar.template(task_vars.get("migrate_health")) or {}
        signals = application_metrics.worse(
            before, result.get("metrics") or {}, limits, at=float(self._task.args.get("at") or 0)
        )
        if result.get("failed") or not signals:
            return {"signals": signals}
        return {"failed": True, "msg": str(signals[0]["told"]), "signals": signals}

    def _tell_webhook(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import notices

        run, host = self.run_fact(task_vars), str(task_vars["inventory_hostname"])
        databases = [str(name) for name in self.pgops(task_vars, "databases") or []]
        settings = {name: self.pgops(task_vars, name.removeprefix("pgops_")) for name in notices.VARIABLES}
        try:
            notices.deliver(notices.of_emergency(run, host, now(), databases), settings)
        except notices.NotNotified as fault:
            return {"failed": True, "msg": str(fault)}
        return {"changed": False}

    def _failure(self, label: str, on: str, why: str, stage: str, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the sentence: what failed, what is applied, what is away still, what to type."""
        applied, reverted = (
            sorted(
                str(item["version"])
                for found in (self.run_fact(task_vars).get(phase) or {}).values()
                for item in (found or {}).get(done) or []
            )
            for phase, done in (("apply", "applied"), ("revert", "reverted"))
        )
        playbook = self.run_fact(task_vars).get("playbook")
        # Of another host of the run, of an earlier batch say, the table at the end tells.
        here = f" on {task_vars['inventory_hostname']}" if len(self.run_fact(task_vars).get("hosts") or []) > 1 else ""
        stands = f"this run has {'reverted' if playbook == 'rollback' else 'applied'} no version{here}"
        if applied or reverted:
            stands = f"{', '.join(applied or reverted)} {'applied' if applied else 'reverted'} by this run stand{here}"
        else:
            stands = run_outcome.changed_over(self.run_fact(task_vars)) or stands
        sentence = f"The hook {label} on {on} failed: {why.rstrip('.')}; {stands}"
        onward = self.onward(task_vars)
        again = "; ".join(onward)
        if stage == "back":
            # Whatever comes next must not hide that users are kept out.
            command = self.command(task_vars, "hooks.yml")
            return {
                "failed": True,
                "msg": f"{sentence}; {hooks.IS_AWAY}{command}",
                "next": [command],
            }
        commands = [*onward]
        if applied:
            commands.append(self.command(task_vars, "rollback.yml", {"rollback_through": applied[0]}))
        if stage in hooks.KINDS:
            return {"failed": True, "msg": f"{sentence}. Then: {again}", "next": commands}
        return {
            "failed": True,
            "msg": f"{sentence}{hooks.COMES_BACK}. To go on: {again}"
            + (f"; to go back: {commands[-1]}" if applied else ""),
            "next": commands,
        }

    def _wait_for_its_time(self, journal: Journal, host: str) -> None:
        """A look of a watch comes so many seconds after the watch began."""
        at = self._task.args.get("at")
        if at in (None, ""):
            return
        begun = next(
            (
                event
                for event in journal.events()
                if event.get("event") == "watch_started" and event.get("host") == host
            ),
            None,
        ) or journal.append({"event": "watch_started", "host": host})
        since = (datetime.fromisoformat(now()) - datetime.fromisoformat(begun["time"])).total_seconds()
        left = float(at) - max(since, 0.0)
        while left > 0:
            # In slices, so that a word to stop is heard.
            if journal.stop_asked_by():
                return
            time.sleep(min(left, 1.0))
            left -= 1.0


class _NoAnswer(Exception):
    pass


def _failed_before(journal: Journal, stage: str, host: str, kind: str | None = None) -> bool:
    """Whether a hook of this stage, and of this kind where one is named, has failed in this run."""
    return any(
        hook.get("done") == "no" and hook["stage"] == stage and kind in (None, hook["kind"])
        for hook in (event.get("hook") or {} for event in journal.events() if event.get("host") == host)
    )


_UNDECLARED = {hooks.WEBHOOK: "alert (pgops_webhook)", hooks.DATABASES: hooks.DATABASES_LABEL}


def _shown(hook: dict[str, Any]) -> str:
    """What would be run; names of files with secrets, never the secrets."""
    if hook.get("argv"):
        return shlex.join(str(word) for word in hook["argv"])
    if hook.get("url"):
        from urllib.parse import urlsplit

        parts = urlsplit(str(hook["url"]))
        return f"{hook.get('method') or 'GET'} {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return f"{hook.get('method') or 'GET'} to the address in {hook.get('url_file') or 'pgops_webhook'}"


def _metrics(found: Any) -> str:
    return f" {json.dumps(found)}" if found else ""
