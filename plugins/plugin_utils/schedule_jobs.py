# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which playbooks run by themselves, and when: what is declared, over what is usual, decided on plain data."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.timer_state import JOB_NAME
from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_commands

OPTIONS = ("playbook", "on_calendar", "delay", "timeout", "variables", "ping_url_file")


class Refused(Exception):
    """A job that cannot be meant; the message is the sentence for people."""


@dataclass(frozen=True)
class ScheduledPlaybook:
    """:ivar delay: by chance, so many seconds after the calendar at most. :ivar timeout: in seconds, 0 for none."""

    name: str
    playbook: str
    on_calendar: str
    delay: int = 900
    timeout: int = 0
    variables: Mapping[str, Any] = field(default_factory=dict)
    ping_url_file: str | None = None

    def command(self, ansible_playbook: str, playbook: str, inventory: Sequence[str], environment: str) -> list[str]:
        """:param playbook: where it is. :return: what is typed, as words."""
        words = [ansible_playbook, playbook]
        for source in inventory:
            words += ["-i", source]
        words += ["-l", environment]
        return [*words, "-e", json.dumps(dict(self.variables), ensure_ascii=False)] if self.variables else words


# One after another through a night; what is left of one's time is not waited for, but two never overlap.
USUAL = {
    job.name: job
    for job in (
        # Each run leaves the head of the audit outside the database; a look is the cheapest one.
        ScheduledPlaybook("audit_anchor", "status.yml", "*-*-* 00:15", 300),
        ScheduledPlaybook("backup", "backup.yml", "*-*-* 01:30", 900),
        ScheduledPlaybook("maintenance", "maintenance.yml", "*-*-* 03:00", 300),
        ScheduledPlaybook("retention", "retention.yml", "*-*-01 04:30", 900),
        ScheduledPlaybook("drill", "restore_drill.yml", "Sun *-*-* 05:00", 900),
        ScheduledPlaybook("preflight", "preflight.yml", "*-*-* 06:30", 300),
    )
}


# Playbooks that write besides the state and the backups, with the variable that names the folder: where the database is, ...
WRITES_THERE = {"retention.yml": "retention_archive_directory", "export.yml": "export_directory"}
# ... and on the ops host.
WRITES_HERE = {"audit_export.yml": "audit_export_directory", "audit_checkpoint.yml": "audit_archive_directory"}


def chosen(
    given: Any,
    shared: Mapping[str, Any],
    is_there: Callable[[str], bool],
    lacks: Callable[[ScheduledPlaybook], str | None] = lambda job: None,
) -> tuple[list[ScheduledPlaybook], dict[str, str]]:
    """The jobs that are to be.

    :param given: ``schedule_jobs``; without it all the usual ones whose playbook is there
    :param shared: ``schedule_variables``, for all of them
    :param is_there: whether a playbook is
    :param lacks: why a job cannot succeed, as the end of a sentence; None where it can
    :return: the jobs, and of the usual ones those that are not to be, each with why
    :raises Refused: one that cannot be meant, or is named and cannot succeed
    """
    _refuse_variables("schedule_variables", shared)
    if given in (None, "", {}):
        usual = [_with(job, {}, shared) for job in USUAL.values()]
        absent = {job.name: f"{job.playbook} is not here" for job in usual if not is_there(job.playbook)}
        absent |= {job.name: why for job in usual if job.name not in absent and (why := lacks(job))}
        return [job for job in usual if job.name not in absent], absent
    if not isinstance(given, Mapping):
        raise Refused(
            "schedule_jobs is a mapping of the name of each job and its options, such as {backup: {on_calendar: '*-*-* 01:30'}}"
        )
    jobs = [_job(str(name), options, shared) for name, options in given.items()]
    for job in jobs:
        if why := lacks(job):
            raise Refused(f"The job {job.name} cannot succeed, since {why}")
    return jobs, {}


def _job(name: str, options: Any, shared: Mapping[str, Any]) -> ScheduledPlaybook:
    if not JOB_NAME.fullmatch(name):
        raise Refused(
            f"schedule_jobs names the job {name!r}; a name begins with a letter and has small letters, digits and _ only"
        )
    if name == "failed":
        raise Refused(
            "schedule_jobs names the job failed, which is the name of the unit that tells of a failure; choose another one"
        )
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise Refused(f"schedule_jobs.{name} is a mapping of {', '.join(OPTIONS)}")
    for option in options:
        if option not in OPTIONS:
            near = difflib.get_close_matches(str(option), OPTIONS, 1)
            raise Refused(
                f"schedule_jobs.{name} has no option {option}"
                + (f" (did you mean {near[0]}?)" if near else f"; it has {', '.join(OPTIONS)}")
            )
    usual = USUAL.get(name)
    if usual is None and not (options.get("on_calendar") and options.get("playbook")):
        near = difflib.get_close_matches(name, list(USUAL), 1)
        meant = f" (did you mean {near[0]}?)" if near else f"; without any {', '.join(USUAL)} are known"
        raise Refused(f"The job {name} needs a playbook and an on_calendar{meant}")
    return _with(usual or ScheduledPlaybook(name, "", ""), options, shared)


def _with(usual: ScheduledPlaybook, options: Mapping[str, Any], shared: Mapping[str, Any]) -> ScheduledPlaybook:
    name = usual.name
    own = options.get("variables") or {}
    _refuse_variables(f"schedule_jobs.{name}.variables", own)
    return ScheduledPlaybook(
        name=name,
        playbook=str(options.get("playbook") or usual.playbook),
        on_calendar=" ".join(str(options.get("on_calendar") or usual.on_calendar).split()),
        delay=_seconds(name, "delay", options.get("delay"), usual.delay),
        timeout=_seconds(name, "timeout", options.get("timeout"), usual.timeout),
        variables={**shared, **own},
        ping_url_file=str(options["ping_url_file"]) if options.get("ping_url_file") else None,
    )


def _seconds(name: str, option: str, given: Any, usual: int) -> int:
    if given in (None, ""):
        return usual
    if isinstance(given, bool) or not str(given).isdigit():
        raise Refused(f"schedule_jobs.{name}.{option} is {given}; it is a number of seconds")
    return int(given)


def _refuse_variables(where: str, variables: Any) -> None:
    if not isinstance(variables, Mapping):
        raise Refused(f"{where} is a mapping of variables and their values")
    # What may not be printed may not stand in a unit either, which everybody can read.
    lost = sorted(set(map(str, variables)) - set(typed_commands.tellable(variables)))
    if lost:
        raise Refused(
            f"{where} has {', '.join(lost)}, which is a secret or no variable of this collection; a unit can be read by everybody, so "
            "put it into the inventory or name a file in schedule_credentials"
        )
