# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller half of a phase: fill in the connection, start the module, show it live, write it down."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError, AnsibleTemplateError
from ansible_collections.whitecross.pgops.plugins.module_utils.job import LEASE
from ansible_collections.whitecross.pgops.plugins.module_utils.job import PREFIX as JOB_PREFIX
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    batches,
    environment_names,
    typed_commands,
    unusable,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.checked_variables import cause
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal
from ansible_collections.whitecross.pgops.plugins.plugin_utils.pgops_variables import SHARED_VARIABLES
from ansible_collections.whitecross.pgops.plugins.plugin_utils.unbroken import Screen, UnbrokenAction

RUN_FACT = "__pgops_run"
# As database_marks has it, which needs psycopg2.
GREEN = "green"
FIRST_POLL_S = 0.05
# A poll later than the job's end by no more than this share of its time: short jobs are not waited for.
POLL_SHARE = 0.15
REPEAT_S = 2.0
# Between two tries to reach a host again.
RECONNECT_S = 1.0
DEAD_AFTER_S = 3.0

display = Screen()


# Where the packages of this collection are imported from.
ROOT = str(Path(__file__).absolute().parents[5])


def _plain(value: Any) -> Any:
    """:return: the value in JSON's own types; what Ansible made of it may carry tags and templates yet to be done."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _is_this_python(interpreter: str) -> bool:
    # python and python3 of one environment; that of another one may be a link to the same file.
    folders = {os.path.realpath(os.path.dirname(path)) for path in (interpreter, sys.executable)}
    return len(folders) == 1 and os.path.realpath(interpreter) == os.path.realpath(sys.executable)


class ControllerInterrupted(BaseException):
    """The worker was told to end: not an error of the task, so nothing may catch it by accident."""


class PgopsAction(UnbrokenAction):
    """Base of every action plugin that starts a module of the same name.

    Subclasses set :attr:`PHASE` and :attr:`MODULE` and override :meth:`module_arguments` and :meth:`after`.
    """

    PHASE = ""
    MODULE = ""
    LIVE = False
    # Phases that write nothing anywhere keep quiet about themselves in check mode as well.
    JOURNALLED = True
    # Whether a later phase reads what it found: each fact is carried into every task that follows. In check mode the report
    # does, since there is no journal.
    REMEMBERED = True
    # Whether it is left out when the run was asked to stop.
    STOPPABLE = True

    TRANSFERS_FILES = False
    _requires_connection = True
    _supports_check_mode = True
    _supports_diff = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the module's own arguments; the task's by default. May raise AnsibleError in one sentence."""
        return dict(self._task.args)

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Work on the module's result on the controller: tables for people, further fields. :return: the result."""
        return result

    def begun(self) -> dict[str, Any]:
        """:return: what the journal keeps of the task from its beginning on, for a run that never comes to its end."""
        return {}

    # -- what a subclass asks for -------------------------------------------------------------------------------------

    def pgops(self, task_vars: dict[str, Any], name: str) -> Any:
        """:return: the templated value of ``pgops_<name>``, or its default.

        :raises AnsibleActionFail: its template fails; Ansible does not say whose it is
        """
        variable = f"pgops_{name}"
        value = task_vars.get(variable)
        if value is not None:
            try:
                value = self._templar.template(value)
            except AnsibleTemplateError as error:
                raise AnsibleActionFail(
                    f"{variable} is set for {task_vars.get('inventory_hostname')}, and its template has no value: {cause(error)}; correct "
                    "it where it is set, or behind -e."
                ) from None
        if variable in (environment_names.ENVIRONMENTS, environment_names.PRODUCTION):
            return environment_names.listed(variable, value)
        if value is None or value == "":
            value = SHARED_VARIABLES[variable].default
        asked = self.run_fact(task_vars).get("databases") if name == "databases" else None
        if asked:
            return list(asked)
        if name == "databases":
            # -e pgops_databases=NAME is a text.
            value = batches.names(value)
            database = None if value else self.pgops(task_vars, "database")
            value = value or ([database] if database else None)
        return value

    def run_fact(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: what the run knows so far: id, environment and each phase's results."""
        facts = task_vars.get("ansible_facts") or {}
        return dict(facts.get(RUN_FACT) or task_vars.get(RUN_FACT) or {})

    def in_production(self, task_vars: dict[str, Any]) -> bool:
        """:return: whether the run's environment is one that holds production data."""
        return self.run_fact(task_vars).get("environment") in (self.pgops(task_vars, "production_environments") or [])

    def limit(self, task_vars: dict[str, Any]) -> str:
        """:return: what the user gave as ``-l``, else the environment or the host's name."""
        return str(
            task_vars.get("ansible_limit")
            or self.run_fact(task_vars).get("environment")
            or task_vars["inventory_hostname"]
        )

    def typed(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the run with what was given with -e and -i, also where no guard has looked."""
        run = self.run_fact(task_vars)
        if typed_commands.GIVEN not in run:
            run = {**run, typed_commands.GIVEN: typed_commands.given(self._loader)}
        # Once a migration has begun to apply, what goes on is a run of its own.
        return typed_commands.without(run, ["pgops_run_id"]) if self.PHASE == "apply" or run.get("apply") else run

    def command(self, task_vars: dict[str, Any], playbook: str, variables: Mapping[str, Any] | None = None) -> str:
        """:return: a command to type next, e.g. ``ansible-playbook status.yml -l staging``, for the place of this run.

        :param variables: the choice that it makes; that of this run is left out.
        """
        name = playbook.removesuffix(".yml")
        return typed_commands.other(self.typed(task_vars), name, self.limit(task_vars), variables)

    def again(self, task_vars: dict[str, Any], variables: Mapping[str, Any] | None = None) -> str:
        """:return: the command that was typed, to type it again."""
        return typed_commands.again(self.typed(task_vars), self.limit(task_vars), variables)

    def again_whole(self, task_vars: dict[str, Any]) -> str:
        """:return: the same without --check and --tags, where one of these is what is wrong."""
        return typed_commands.again(typed_commands.whole(self.typed(task_vars)), self.limit(task_vars))

    def onward(self, task_vars: dict[str, Any]) -> list[str]:
        """:return: the commands with which this run goes on. Behind a swap, or a restore that took the place of the cluster, the one
        that was typed would go further back: to look, and the way back."""
        run = self.run_fact(task_vars)
        back = [
            str(found["way_back"])
            for phase in ("resume", "swap", "restore")
            for found in (run.get(phase) or {}).values()
            if found.get("way_back")
        ]
        # The databases of a cluster have one way back.
        return list(dict.fromkeys([self.command(task_vars, "verify.yml"), *back])) if back else [self.again(task_vars)]

    def rollback_of(self, task_vars: dict[str, Any], database: str, choice: Mapping[str, Any]) -> str:
        """:return: the command of a rollback of one database of this host and of no other."""
        chosen = dict(choice)
        if list(self.pgops(task_vars, "databases") or []) != [database]:
            chosen["pgops_databases"] = [str(database)]
        run = self.typed(task_vars)
        limit = str(task_vars["inventory_hostname"]) if len(run.get("hosts") or []) > 1 else self.limit(task_vars)
        return typed_commands.other(run, "rollback", limit, chosen)

    def say(self, text: str) -> None:
        """Show a line to the person who watches, under any stdout callback."""
        display.display(text)

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Start the module and return its result; record the phase in the run's journal."""
        variables: dict[str, Any] = task_vars or {}
        super().run(tmp, variables)
        started = time.monotonic()
        journal = self._journal(variables)
        host = variables.get("inventory_hostname")
        # The play numbers the steps that the platform's handbook asks for (R6.5); a phase alone has no number.
        step = self._templar.template(variables.get("__pgops_step")) or None
        if step:
            self.say(f"{host}: {step}")
        if journal:
            journal.append(
                {
                    "event": "phase_started",
                    "phase": self.PHASE,
                    "host": host,
                    "step": step,
                    "databases": self.pgops(variables, "databases"),
                    **self.begun(),
                }
            )
        untouched: list[str] = []
        refused = True
        try:
            by = journal.stop_asked_by() if journal and self.STOPPABLE else None
            if by:
                if not self.run_fact(variables).get("apply"):
                    untouched = [str(name) for name in self.pgops(variables, "databases") or []]
                raise AnsibleActionFail(
                    f"{self.PHASE} was not begun: {by} asked this run to stop. Then: {'; '.join(self.onward(variables))}"
                )
            arguments = {**self.connection_arguments(variables), **self.module_arguments(variables)}
            module = f"whitecross.pgops.{self.MODULE}"
            refused = False
            if self.LIVE and not self._task.check_mode:
                result = self._run_live(module, arguments, variables)
            else:
                result = self._call(module, arguments, variables)
            result.pop("invocation", None)
            if not result.get("unreachable"):
                result = self.after(result, variables)
            if result.get("pending_swap"):
                self._tell_pending(result, variables)
            if result.get("unusable") and not result.get("next"):
                result["next"] = unusable.commands(self, str(result["unusable"]), variables)
        except AnsibleError as error:
            told = str(error.message if hasattr(error, "message") else error)
            commands = (getattr(error, "result", None) or {}).get("next")
            self._record_failure(
                journal, host, started,
                {"msg": told, "untouched": untouched or None, "next": commands, "refused": refused or None},
            )  # fmt: skip
            raise
        duration = round(time.monotonic() - started, 3)
        if result.get("failed") or result.get("unreachable"):
            self._record_failure(journal, host, started, result)
            # The journal has them; Ansible would print all of it, a line of hundreds of kilobytes, behind the one sentence.
            result.pop("databases", None)
            return result
        databases = result.get("databases", {})
        if journal:
            journal.append(
                {
                    "event": "phase_finished",
                    "phase": self.PHASE,
                    "host": host,
                    "duration_s": duration,
                    "changed": bool(result.get("changed")),
                    "skipped": bool(result.get("skipped")),
                    "result": databases,
                }
            )
        if self.REMEMBERED or self._task.check_mode:
            fact = self.run_fact(variables)
            fact[self.PHASE] = databases
            result.setdefault("ansible_facts", {})[RUN_FACT] = fact
        return result

    def _tell_pending(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """Whatever was asked for: the application is down, so what ends that is said first."""
        pending = result["pending_swap"]
        database = str(pending["database"])
        confirmed = {"rollback_confirm": database}
        finish = {"rollback_strategy": "swap", "rollback_swap_to": pending["staged"], **confirmed}
        words = [
            ("Finish it", self.rollback_of(task_vars, database, finish)),
            ("Or undo it", self.rollback_of(task_vars, database, {"rollback_strategy": "unfence", **confirmed})),
        ]
        if pending["role"] == GREEN:
            choice = {"blue_green_stage": "change_over", "blue_green_confirm": database}
            words[0] = ("Finish it", self.command(task_vars, "blue_green.yml", choice))
        if pending["running"]:
            words = [("Look again", self.command(task_vars, "status.yml"))]
        elif not pending["role"]:
            words = [(f"{pending['staged']} is gone; undo it", words[1][1])]
        result["msg"] = f"{pending['told']}. " + "; ".join(f"{word}: {command}" for word, command in words)
        result["next"] = [command for _, command in words]
        result.pop("hint", None)

    def _record_failure(
        self, journal: Journal | None, host: str | None, started: float, result: dict[str, Any]
    ) -> None:
        if journal is None:
            return
        error = {
            name: result[name]
            for name in (
                "msg",
                "sqlstate",
                "statement",
                "location",
                "database",
                "hint",
                "next",
                "statements",
                "applied",
                "not_applied",
                "untouched",
                "refused",
                "unknown",
                "unwell",
                "not_looked_at",
            )
            if result.get(name) is not None
        }
        error["message"] = error.pop("msg", "failed")
        if result.get("reason") in ("busy", "moved") and not result.get("applied") and not result.get("reverted"):
            error["refused"] = True  # another run is at work, or was; this one has begun nothing
        journal.append(
            {
                "event": "phase_failed",
                "phase": self.PHASE,
                "host": host,
                "duration_s": round(time.monotonic() - started, 3),
                "error": error,
                "result": result.get("databases"),
            }
        )

    def _journal(self, task_vars: dict[str, Any]) -> Journal | None:
        run = self.run_fact(task_vars)
        if not self.JOURNALLED or self._task.check_mode or "id" not in run:
            return None
        return Journal(str(self.pgops(task_vars, "state_directory")), str(run["environment"]), str(run["id"]))

    def connection_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the connection options of the module, from the ``pgops_*`` variables; the task's own win."""
        arguments: dict[str, Any] = {}
        for name, variable in SHARED_VARIABLES.items():
            if variable.option is None:
                continue
            own = self._task.args.get(variable.option)
            value = own if own not in (None, "") else self.pgops(task_vars, name.removeprefix("pgops_"))
            if value is not None:
                arguments[variable.option] = value
        if not arguments.get("databases"):
            raise AnsibleActionFail(
                f"pgops_database is not set for {task_vars.get('inventory_hostname')}; name it in the environment's "
                "group_vars or give -e pgops_database=NAME."
            )
        run_id = self.run_fact(task_vars).get("id")
        if run_id:
            arguments["run_id"] = run_id
        return arguments

    def _call(self, module: str, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Run a module of this collection; where that is on this machine under this Python, from where it lies.

        Ansible packs a module with everything that it imports, and the host compiles all of it again: more than half of a
        second each time, several times what the engine needs (benchmarks/no_op_run.py).
        """
        interpreter = str(self._templar.template(task_vars.get("ansible_python_interpreter") or ""))
        if self._connection.transport != "local" or self._connection.become or not _is_this_python(interpreter):
            return dict(self._execute_module(module_name=module, module_args=arguments, task_vars=task_vars))
        self._update_module_args(module, arguments, task_vars)
        start = f"import runpy, sys; sys.path = [{ROOT!r}, *filter(None, sys.path)]; "
        start += f"runpy.run_module({'ansible_collections.' + module.replace('pgops.', 'pgops.plugins.modules.')!r}, run_name='__main__')"
        command = f"{self._compute_environment_string()} {shlex.quote(interpreter)} -c {shlex.quote(start)}".strip()
        done = self._low_level_execute_command(
            command, in_data=json.dumps({"ANSIBLE_MODULE_ARGS": _plain(arguments)}).encode()
        )
        output = str(done.get("stdout", ""))
        try:
            return dict(json.loads(output[output.index("{") :]))
        except ValueError:
            errors = str(done.get("stderr", "")).strip()
            told = errors.splitlines()[-1] if errors else output.strip() or "no output"
            return {"failed": True, "msg": f"The module {self.MODULE} broke off: {told}", "module_stderr": errors}

    # -- a long module, live ------------------------------------------------------------------------------------------

    def _run_live(self, module: str, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        above = str(self.get_shell_option("async_dir", default="~/.ansible_async"))
        if not above.startswith(("/", "~", "$")):
            raise AnsibleActionFail(
                f"ansible_async_dir is {above}, which is relative to wherever the module runs; give the whole path of a folder."
            )
        directory = f"{above}/{JOB_PREFIX}{secrets.token_hex(8)}"
        job = _Job(self, directory, task_vars)
        previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            try:
                begun = self._call(module, {**arguments, "job_directory": directory}, task_vars)
            except AnsibleConnectionFailure:
                if not job.has_begun():
                    raise
                begun = {"job": None}
            if "job" in begun:
                return job.follow(begun["job"])
            if "job_progress" in begun:
                job.display(begun.pop("job_progress"))
                job.clean()
            return begun
        except ControllerInterrupted:
            try:
                job.ask_to_stop()
            finally:
                os._exit(1)  # the parent is going down; what Ansible's own handler would do
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _interrupt(_number: int, _frame: Any) -> None:
    # Ansible sends SIGINT and, a moment later, SIGTERM: the second one must not cut off the word to the job.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise ControllerInterrupted


@dataclass(frozen=True)
class _Polled:
    events: list[dict[str, Any]]
    result: dict[str, Any] | None
    alive: bool
    errors: str


class _Job:
    """A module that runs on its own on the host: followed by one cheap command a poll, which also renews its lease."""

    def __init__(self, action: PgopsAction, directory: str, task_vars: dict[str, Any]) -> None:
        self._action = action
        # Until the job has said where it is, the shell on the host finds its home.
        self._quoted = f"~/{shlex.quote(directory[2:])}" if directory.startswith("~/") else shlex.quote(directory)
        self._task_vars = task_vars
        self._offset = 1
        self._parent = os.getppid()
        self._shown_at = time.monotonic()
        self._last: dict[str, Any] | None = None
        self._began: dict[str, float] = {}
        mode = str(action.pgops(task_vars, "progress"))
        if mode not in ("always", "terminal", "never"):
            raise AnsibleActionFail(f"pgops_progress is {mode}; it is one of always, terminal and never.")
        self._show = mode == "always" or (mode == "terminal" and _parent_has_terminal(self._parent))

    def has_begun(self) -> bool:
        """Ask, for as long as its lease, about a job whose connection broke before it could say anything.

        Who makes the folder first has the word: a job that has not begun by now finds it there, and does not begin.
        """
        d = self._quoted
        question = f"umask 077; mkdir -p $(dirname {d}); if mkdir {d} 2>/dev/null; then : > {d}/{LEASE}.stop; else [ -d {d} ]; fi"
        question += f" && [ -e {d}/{LEASE} ]"
        deadline = time.monotonic() + float(self._action.pgops(self._task_vars, "lease"))
        while True:
            try:
                return bool(self._action._low_level_execute_command(question)["rc"] == 0)
            except AnsibleConnectionFailure:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RECONNECT_S)  # a host that has just broken off is not asked in a tight loop

    def follow(self, directory: str | None) -> dict[str, Any]:
        """Poll until the module has left its result.

        :param directory: where the job says it is, None where it could not say so.
        :return: that result, as if the module had run in the task.
        """
        if directory is not None:
            self._quoted = shlex.quote(directory)
        journal = self._action._journal(self._task_vars)
        asked = False
        begun = time.monotonic()
        longest = float(self._action.pgops(self._task_vars, "poll_interval"))
        silent_since: float | None = None
        lost_since: float | None = None
        while True:
            # The job says nothing by itself: it is asked, the less often the longer it takes.
            time.sleep(min(max(FIRST_POLL_S, (time.monotonic() - begun) * POLL_SHARE), longest))
            if os.getppid() != self._parent:
                # ansible-playbook was killed: an orphan that went on renewing the lease would keep the job alive.
                raise ControllerInterrupted
            by = journal.stop_asked_by() if journal and not asked and self._action.STOPPABLE else None
            if by:
                # A word that a broken connection has swallowed is left again at the next poll.
                with suppress(AnsibleConnectionFailure):
                    self.ask_to_stop(by)
                    asked = True
            polled = self._poll()
            if polled is None:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > float(self._action.pgops(self._task_vars, "lease")):
                    return {
                        "failed": True,
                        "msg": f"The host of the running {self._action.MODULE} has not answered for "
                        f"{self._action.pgops(self._task_vars, 'lease')} s; its job ends at the next safe point, and records what "
                        "it has done.",
                        "unknown": True,
                    }
                continue
            lost_since = None
            self.display(polled.events)
            if polled.result is not None:
                self.clean()
                return polled.result
            if polled.alive:
                silent_since = None
                continue
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > DEAD_AFTER_S:
                self.clean()
                return self._died(polled.errors)

    def _poll(self) -> _Polled | None:
        d = self._quoted
        question = (
            f"touch {d}/lease; tail -c +{self._offset} {d}/progress 2>/dev/null; printf '\\n@@@\\n'; "
            f"cat {d}/result 2>/dev/null; printf '\\n@@@\\n'; "
            f'if kill -0 "$(cat {d}/pid)" 2>/dev/null; then echo alive; else cat {d}/stderr 2>/dev/null; fi'
        )
        try:
            answer = self._action._low_level_execute_command(question)
        except AnsibleConnectionFailure:
            return None  # the job does not need the connection; the next poll may have one again
        # A command over ssh may have a terminal, which ends its lines with CR LF.
        parts = answer.get("stdout", "").replace("\r\n", "\n").split("\n@@@\n")
        if answer.get("rc") != 0 or len(parts) != 3:
            return None
        text = parts[0]
        whole = text[: text.rfind("\n") + 1] if not text.endswith("}") else text
        self._offset += len(whole.encode())
        events = []
        for line in whole.splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        state = parts[2].strip()
        result = json.loads(parts[1]) if parts[1].strip() else None
        return _Polled(events, result, state == "alive", "" if state == "alive" else state)

    def display(self, events: list[dict[str, Any]]) -> None:
        """Show what the job told, each step once and then every :data:`REPEAT_S` seconds."""
        if not self._show:
            return
        now = time.monotonic()
        for event, following in zip_longest(events, events[1:]):
            if following is not None and event.get("step") and _place(event) == _place(following):
                continue  # over at once, and so is a line about it
            new_step = self._last is None or event.get("text") != self._last.get("text")
            if new_step:
                self._began[event["text"]] = now
            self._last = event
            if new_step or now - self._shown_at >= REPEAT_S / 2:
                self._action.say(self._line(event, now))
                self._shown_at = now
        if self._last is not None and now - self._shown_at >= REPEAT_S - 0.2:
            self._action.say(self._line(self._last, now))
            self._shown_at = now

    def _line(self, event: dict[str, Any], now: float) -> str:
        parts = []
        if event.get("database"):
            parts.append(str(event["database"]))
        if event.get("version"):
            parts.append(str(event["version"]))
        if event.get("step") and event.get("steps"):
            parts.append(f"step {event['step']} of {event['steps']}")
        parts.append(str(event["text"]))
        if event.get("done") is not None:
            done = f"{event['done']:,}"
            if event.get("total"):
                done += f" of {event['total']:,}"
            parts.append(f"{done} {event.get('unit', '')}".strip())
        if event.get("size_bytes"):
            parts.append(f"{event['size_bytes'] / 1e6:,.1f} MB so far")
        elapsed = now - self._began.get(event["text"], now)
        if elapsed >= 1:
            parts.append(f"{elapsed:.0f} s")
        if event.get("left_s") is not None:
            parts.append(f"about {event['left_s']:.0f} s left")
        return "    " + " | ".join(parts)

    def ask_to_stop(self, by: str = "") -> None:
        """Leave the job a word to end at the next safe point, or not to begin.

        :param by: who asks; where nobody is named the controller was interrupted.
        """
        self._action._low_level_execute_command(
            f"umask 077; mkdir -p {self._quoted}; printf %s {shlex.quote(by)} > {self._quoted}/said"
            f" && mv {self._quoted}/said {self._quoted}/{LEASE}.stop"
        )

    def clean(self) -> None:
        """Remove the folder, of which all is read."""
        with suppress(AnsibleConnectionFailure):  # a later job removes what is forgotten
            self._action._low_level_execute_command(f"rm -rf {self._quoted}")

    def _died(self, errors: str) -> dict[str, Any]:
        if errors:
            return {
                "failed": True,
                "msg": f"The module {self._action.MODULE} broke off: {errors.splitlines()[-1]}",
                "module_stderr": errors,
                "unknown": True,
            }
        return {
            "failed": True,
            "msg": f"The job of {self._action.MODULE} on {self._task_vars.get('inventory_hostname')} died without a result "
            "(killed, its host went down, or ansible_async_dir is full); what it had done is recorded.",
            "died": True,
            "unknown": True,
            "died_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _place(event: Mapping[str, Any]) -> tuple[Any, ...]:
    return event.get("database"), event.get("version"), event.get("step")


def _parent_has_terminal(parent: int) -> bool:
    # The worker's own streams are /dev/null; whether a person watches is told by the main process's stdout.
    try:
        return os.readlink(f"/proc/{parent}/fd/1").startswith(("/dev/pts/", "/dev/tty"))
    except OSError:
        return False
