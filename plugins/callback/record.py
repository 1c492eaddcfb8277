# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: record
type: notification
short_description: Write down the end of a run that never reached its report
version_added: 0.1.0
description:
  - Ansible skips C(always) for a host that cannot be reached, for an error of the play itself and after Ctrl-C. This callback then writes
    the report, the last event of the journal and the file of C(pgops_json), as the action P(whitecross.pgops.report#module) would have.
  - At the start of a run it puts a file that says so in the place of C(pgops_json), so that a run which is killed leaves no older result.
  - It says in one sentence what to do about a host that cannot be reached, and tells the report what failed outside a phase.
  - What a run has taken away from the application by its hooks and can no longer bring back itself is brought back by another
    ansible-playbook, after Ctrl-C and where a host was lost.
  - It notifies C(pgops_webhook) and C(pgops_mail) of such a run as the action would have, and of a migration that begins and is verified.
  - It never fails a play; what it cannot do, it says in a warning.
requirements:
  - "C(callbacks_enabled = whitecross.pgops.record) in ansible.cfg; a checkout of the collection has it"
author:
  - White Cross pgops contributors
"""

import atexit
import functools
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ansible.plugins.callback import CallbackBase

_GUARD = "whitecross.pgops.guard"
_REPORT = "whitecross.pgops.report"
_PLAN = "whitecross.pgops.plan"
_VERIFY = "whitecross.pgops.verify"


def _never_in_the_way(method: Callable[..., None]) -> Callable[..., None]:
    """A record that cannot be written must not change how a migration ends."""

    @functools.wraps(method)
    def guarded(self: CallbackModule, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the play goes on
            self._display.warning(f"The record of the run could not be written: {type(error).__name__}: {error}")

    return guarded


class CallbackModule(CallbackBase):
    """Follows the play in the main process."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "whitecross.pgops.record"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._process = os.getpid()
        self._play: Any = None
        self._run: dict[str, Any] = {}
        self._ours = False
        self._reported = False
        self._failed_after_report = False
        self._unreachable: dict[str, str] = {}
        # What is told when all hosts are through with it: host -> database -> versions to apply.
        self._pending: dict[str, dict[str, int]] = {}
        self._applied: dict[str, dict[str, int]] = {}
        self._verified: dict[str, list[str]] = {}
        self._over = False
        self._previous_handlers: dict[int, Any] = {}
        self._extra_variables: dict[str, Any] = {}

    # -- what happens -------------------------------------------------------------------------------------------------

    @_never_in_the_way
    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Whatever the file of pgops_json holds is an older run's: nobody may read it as this one's."""
        from ansible.utils.vars import load_extra_vars

        self._extra_variables = dict(load_extra_vars(playbook._loader))
        path = self._extra("pgops_json")
        if path:
            from ansible_collections.whitecross.pgops.plugins.plugin_utils import environments, reporting

            # A file that cannot be written fails the run where it is to be written at last.
            with suppress(OSError):
                reporting.write_begun(path, environments.playbook_name())

    @_never_in_the_way
    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Ansible takes that for a success."""
        from ansible import context
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import environments, reporting

        path = self._extra("pgops_json")
        if not path and not self._is_ours(self._play):
            return
        limit = str(context.CLIARGS.get("subset") or "")
        groups = list(self._play.get_variable_manager()._inventory.groups)
        sentence = environments.no_host(limit, groups, environments.typed_command())
        error = {"message": str(sentence), "next": sentence.next}
        self._display.display(str(sentence), color="red", stderr=True)
        if path:
            report = reporting.build([], run={"playbook": environments.playbook_name()}, error=error)
            reporting.write_result(path, reporting.result_document(report))

    @_never_in_the_way
    def v2_playbook_on_play_start(self, play: Any) -> None:
        """A new play is a new run, should it be one of ours."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import failures, unbroken

        if self._play is None or self._play._uuid != play._uuid:
            failures.forget()
            self._run, self._ours, self._reported = {}, False, False
            self._pending, self._applied, self._verified = {}, {}, {}
        # A batch of the same play belongs to the same run.
        self._play = play
        if not self._previous_handlers:
            atexit.register(self._at_exit)
            ansible = signal.getsignal(signal.SIGINT)
            if callable(ansible):
                unbroken.Interrupts(ansible).obey()
            # Ansible's own handler ends the process on the spot, so that nothing runs at its exit.
            self._previous_handlers[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._on_signal)
            # A terminal or an ssh session that closes; nohup has it ignored, and so it stays.
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                self._previous_handlers[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._on_signal)

    @_never_in_the_way
    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Any task of this collection makes the play ours to record; what all hosts have done by now is told."""
        self._tell_progress()
        self._ours = (
            self._ours or "whitecross.pgops" in str(task.get_path() or "") or self._is(task, "whitecross.pgops.")
        )

    @_never_in_the_way
    def v2_runner_on_ok(self, result: Any) -> None:
        """The guard tells the run; the report tells that nothing is left to do here."""
        if self._is(result._task, _GUARD):
            self._run = dict(result._result.get("run") or {})
        elif self._is(result._task, _REPORT):
            self._reported = not result._result.get("batch")
        elif self._is(result._task, _PLAN):
            found = (result._result.get("databases") or {}).items()
            pending = {str(name): len(plan["pending"]) for name, plan in found if plan.get("pending")}
            if pending and self._is_to_change():
                self._pending[result._host.get_name()] = pending
        elif self._is(result._task, _VERIFY) and result._host.get_name() in self._applied:
            self._verified[result._host.get_name()] = list(self._applied.pop(result._host.get_name()))

    @_never_in_the_way
    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Note what failed, for the report in ``always``."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import failures

        if not ignore_errors:
            failures.note(result._host.get_name(), result._task.get_name(), dict(result._result))
            if result._result.get("pgops_json"):
                # lint and new_migration have no run and no report: they have written their own file of pgops_json.
                self._reported = True

    @_never_in_the_way
    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Say what to do, once a host."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import failures, typed_commands

        host = result._host.get_name()
        command = typed_commands.ping(host)
        reason = str(result._result.get("msg") or "no answer").strip().splitlines()[0].rstrip(".")
        sentence = (
            f"Host {host} cannot be reached ({reason}), nothing was changed on it by this step; "
            f"repair the connection and type: {command}"
        )
        if host not in self._unreachable:
            self._unreachable[host] = sentence
            self._display.display(sentence, color="red", stderr=True)
        failures.note(host, result._task.get_name(), {"msg": sentence, "next": [command], "unreachable": True})

    @_never_in_the_way
    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The play is over: write what ``always`` did not."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import failures

        self._over = True
        first = failures.first()
        if not self._ours:
            return
        if self._reported:
            # The report knew of a failure, unless it came afterwards: a host that was lost in another one's report, say.
            self._bring_back(["hooks"], failure=first)
            return
        failed = first or (
            {"msg": "The run ended before it began; its output says why"}
            if any(
                stats.summarize(host)["failures"] or stats.summarize(host)["unreachable"] for host in stats.processed
            )
            else None
        )
        if failed:
            self._write(failed, interrupted=False)
            self._bring_back(["hooks"], failure=failed)

    def _on_signal(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            # A worker has inherited this; the words to all workers are not its own to pass on.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        # What closes a terminal comes twice, from the shell and from the kernel.
        for known in self._previous_handlers:
            signal.signal(known, signal.SIG_IGN)
        with suppress(OSError):  # the terminal is gone
            self._at_exit()
        # Ansible's own passes the word on to its workers; it has none for SIGHUP.
        ansible = self._previous_handlers.get(number)
        if not callable(ansible):
            number, ansible = signal.SIGTERM, self._previous_handlers.get(signal.SIGTERM)
        if callable(ansible):
            ansible(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @_never_in_the_way
    def _at_exit(self) -> None:
        """Ctrl-C, SIGTERM, SIGHUP and errors of the play itself end ansible-playbook without any further event."""
        if os.getpid() != self._process or self._over or self._reported or not self._ours:
            return
        # After the first Ctrl-C Ansible lets the second one kill this process. No SIG_IGN: what a hook starts would inherit it.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, lambda _number, _frame: None)
        self._over = True
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import failures

        failure = failures.first()
        try:
            self._write(failure, interrupted=failure is None)
        finally:
            # Also where the terminal is gone, to which nothing can be written. What runs in the database ends at its next
            # safe point; users come back after it.
            self._bring_back(["stop", "hooks"], failure=failure, interrupted=True)

    def _bring_back(self, playbooks: list[str], *, failure: dict[str, Any] | None, interrupted: bool = False) -> None:
        """What the application's hooks took away comes back, whatever ended the run; then its report knows of it."""
        if not self._run.get("hooks"):
            return
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import bring_back, reporting

        def say(line: str) -> None:
            with suppress(OSError):  # the terminal is gone
                self._display.display(line)
                # Whoever waits for a migration's end sees why; at the interpreter's end it would come too late.
                sys.stdout.flush()

        if bring_back.bring_back(self._run, sys.argv, playbooks, interrupted=interrupted, say=say):
            state = self._run["journal"].rsplit("/journal/", 1)[0]
            report, page = reporting.finish(state, self._run, error=failure, interrupted=interrupted and not failure)
            path = self._run.get("json") or self._extra("pgops_json")
            if path:
                reporting.write_result(path, reporting.result_document(report, str(page)))
            self._measure(report)

    # -- what is written ----------------------------------------------------------------------------------------------

    def _write(self, failure: dict[str, Any] | None, *, interrupted: bool) -> None:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import environments, reporting

        page = None
        if self._run.get("journal"):
            report, page = reporting.finish(
                self._run["journal"].rsplit("/journal/", 1)[0], self._run, error=failure, interrupted=interrupted
            )
        else:
            run = self._run or {"playbook": environments.playbook_name()}
            report = reporting.build([], run=run, error=failure, interrupted=interrupted)
        path = self._run.get("json") or self._extra("pgops_json")
        if path:
            reporting.write_result(path, reporting.result_document(report, str(page) if page else None))
        if page:
            for line in reporting.screen(report, str(page)):
                self._display.display(line)
            self._notify(report)
            self._measure(report)

    def _is_to_change(self) -> bool:
        """Whether this is a migration that applies what it finds, or a change-over."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import run_parts

        return run_parts.migrates(self._run) and run_parts.changes(self._run)

    def _tell_progress(self) -> None:
        """A migration that begins to change something, and one that is applied and verified, once for all hosts of a batch."""
        if not (self._pending or self._verified):
            return
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import notices

        # Workers are forked after this.
        if self._pending:
            begun = notices.of_migration(self._run, self._pending)
            self._applied, self._pending = self._pending, {}
            self._tell("that this run begins", lambda values: notices.deliver(begun, values, threads=False))
        if self._verified:
            done = notices.of_success(self._run, self._verified)
            self._verified = {}
            self._tell("that this run is verified", lambda values: notices.deliver(done, values, threads=False))

    def _notify(self, report: dict[str, Any]) -> None:
        """As the action report does."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import notices

        self._tell(
            "of this run",
            lambda values: notices.tell(report, values, [values["pgops_database"]] if values["pgops_database"] else []),
        )

    def _tell(self, of_what: str, deliver: Callable[[dict[str, Any]], bool]) -> None:
        """Whether it works changes nothing.

        :param deliver: gets the variables that say who is told, and ``pgops_database``
        """
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import notices

        try:
            deliver(self._variables(*notices.VARIABLES, "pgops_database"))
        except notices.NotNotified as fault:
            self._display.warning(f"{notices.who_was(fault)} was notified {of_what}: {fault}")
        except Exception as fault:  # noqa: BLE001 -- its words may hold the address
            self._display.warning(
                f"Nobody was notified {of_what}: {type(fault).__name__} in pgops_webhook, its file or pgops_mail"
            )

    def _measure(self, report: dict[str, Any]) -> None:
        """As the action report does."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import metrics_files

        try:
            groups = self._play.get_variable_manager()._inventory.groups
            group = groups.get(str(report["environment"]))
            hosts = [host.get_name() for host in group.get_hosts()] if group else None
            directory = str(self._variables("pgops_metrics_directory")["pgops_metrics_directory"] or "")
            state = self._run["journal"].rsplit("/journal/", 1)[0]
            metrics_files.leave(report, state, directory, hosts)
        except metrics_files.NotWritten as fault:
            self._display.warning(f"The metrics of this run were not written: {fault}")

    def _variables(self, *names: str) -> dict[str, Any]:
        """Where Ctrl-C left no task to template a variable, the play's own are read, as its first host has them."""
        from ansible.template import Templar

        manager = self._play.get_variable_manager()
        host = next(iter(manager._inventory.get_hosts(self._play.hosts)), None)
        variables = manager.get_vars(play=self._play, host=host)
        templar = Templar(loader=self._play.get_loader(), variables=variables)
        return {name: templar.template(variables.get(name)) for name in names}

    def _extra(self, name: str) -> str | None:
        """A variable given with -e, for a play that failed before the guard read the inventory's."""
        value = self._extra_variables.get(name)
        return str(value) if value and "{{" not in str(value) else None

    @classmethod
    def _is_ours(cls, play: Any) -> bool:
        """Whether a play that ran no task has one of this collection."""
        waiting = list(play.compile()) if play is not None else []
        while waiting:
            item = waiting.pop()
            if hasattr(item, "block"):
                waiting += [*item.block, *item.rescue, *item.always]
            elif cls._is(item, "whitecross.pgops."):
                return True
        return False

    @staticmethod
    def _is(task: Any, name: str) -> bool:
        return str(getattr(task, "resolved_action", None) or task.action).startswith(name)
