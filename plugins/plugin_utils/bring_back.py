# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings back what a run took away where the run itself no longer can: after Ctrl-C, a signal, or the loss of a host.

Ansible runs no further task then, so another ansible-playbook does it, called as this one was: the same inventory, the
same variables, the same vault.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import application_hooks, typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal
from ansible_collections.whitecross.pgops.plugins.plugin_utils.taken_away import Taken, TakenAway

# Of the output of a run that could not bring it back.
_LINES_SHOWN = 12
# What makes a run begin in the middle or ask; of a long option any beginning is enough for ansible-playbook.
_LEFT_OUT = ("--tags", "--skip-tags", "--start-at-task", "--step")
# The short options that take no value, so that another one may follow in the same word.
_FLAGS = "bChDJkKv"
# Before the tags of ansible.cfg, too.
ALL_TAGS = {"ANSIBLE_RUN_TAGS": "all", "ANSIBLE_SKIP_TAGS": ""}


def left_by(run: Mapping[str, Any]) -> list[Taken]:
    """:return: what a run has taken away and not brought back, but what it has tried to and failed, and has said so."""
    if not run.get("journal") or run.get("check_mode") or not run.get("hooks"):
        return []
    journal = _journal(run)
    failed = {
        (event.get("host"), application_hooks.BRINGS_BACK.get(str(hook.get("kind"))))
        for event, hook in ((event, event.get("hook") or {}) for event in journal.events())
        if hook.get("stage") == "back" and hook.get("done") == "no"
    }
    return [taken for taken in _still_away(run) if (taken.host, taken.kind) not in failed]


def bring_back(
    run: Mapping[str, Any],
    command_line: Sequence[str],
    playbooks: Sequence[str],
    *,
    interrupted: bool,
    say: Callable[[str], None],
) -> bool:
    """Run the playbooks in turn until nothing is away; say what is, and the command, where they do not help.

    :param command_line: ``sys.argv`` of the run that ended
    :param playbooks: names without .yml; ``stop`` waits for what still runs in the database, ``hooks`` reaches no database
    :param interrupted: leave the run's workers a word that they begin nothing more
    :return: whether anything had to be brought back
    """
    left = left_by(run)
    if not left:
        return False
    if interrupted:
        _journal(run).ask_to_stop("an interrupt")
    output = ""
    for name in playbooks:
        say(f"Bringing back what run {run['id']} took away ({_told(left)}) by {name}.yml")
        done = subprocess.run(
            another(command_line, str(run["command"]), typed_commands.sibling(run, name)),
            # In a session of its own, the next Ctrl-C does not end it half way.
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **ALL_TAGS}, check=False, text=True,
        )  # fmt: skip
        output = done.stdout
        # All of it, also what the run itself has tried in vain: whoever reads this is to know of everything.
        left = _still_away(run)
        if not left:
            say("It is back.")
            return True
    for line in output.strip().splitlines()[-_LINES_SHOWN:]:
        say(f"    {line}")
    _note_not_tried(run, left)
    limit = str(run.get("limit") or run["environment"])
    say(f"NOT brought back: {_told(left)}; type: {typed_commands.other(run, 'hooks', limit)}")
    return True


def _note_not_tried(run: Mapping[str, Any], left: Sequence[Taken]) -> None:
    """A run that could not so much as begin has left no word in the journal, from which the report is made."""
    journal = _journal(run)
    hooks = [(event.get("host"), event.get("hook") or {}) for event in journal.events()]
    tried = {(host, hook.get("kind")) for host, hook in hooks if hook.get("stage") == "back"}
    for taken in left:
        kind = application_hooks.BROUGHT_BACK_BY[taken.kind]
        if (taken.host, kind) not in tried:
            told = {"stage": "back", "kind": kind, "label": application_hooks.KINDS[kind], "on": "", "done": "no"}
            journal.append({"event": "hook", "host": taken.host, "hook": told})


def another(command_line: Sequence[str], command: str, instead: str) -> list[str]:
    """:return: the command line with another playbook, and without what makes a run begin in the middle or ask.

    :param command: the playbook's command as it was typed, without options
    :param instead: that of the other playbook
    """
    typed, other = shlex.split(command)[-1], shlex.split(instead)[-1]
    words = []
    rest = iter(command_line[1:])
    for word in rest:
        name, _, value = word.partition("=")
        if len(name) > len("--") and any(option.startswith(name) for option in _LEFT_OUT):
            if not value and not "--step".startswith(name):
                next(rest, None)
            continue
        flags, letter, value = _short(word)
        if letter == "t":
            words += [f"-{flags}"] if flags else []
            if not value:
                next(rest, None)
            continue
        words.append(other if word == typed else word)
        if letter and not value:
            words += [value for value in [next(rest, None)] if value is not None]
    return [sys.executable, "-m", "ansible", "playbook", *words]


def _short(word: str) -> tuple[str, str, str]:
    """:return: of a word such as -vvtapply the flags, the letter of the option that takes a value, and that value."""
    if not word.startswith("-") or word.startswith("--"):
        return "", "", ""
    rest = word[1:].lstrip(_FLAGS)
    return word[1 : len(word) - len(rest)], rest[:1], rest[1:]


def _told(left: Sequence[Taken]) -> str:
    return ", ".join(f"{application_hooks.KINDS[taken.kind]} for {taken.host}" for taken in left)


def _journal(run: Mapping[str, Any]) -> Journal:
    return Journal(str(run["journal"]).rsplit("/journal/", 1)[0], str(run["environment"]), str(run["id"]))


def _still_away(run: Mapping[str, Any]) -> list[Taken]:
    journal = _journal(run)
    there = TakenAway(journal.state_directory, journal.environment).all()
    return [taken for taken in there if taken.run_id == journal.run_id]
