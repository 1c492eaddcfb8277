# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the guard refuses, decided on plain data, so that nothing here can reach a host.

Every refusal is one sentence: what is wrong, where, and what to type. This file must import on any Python 3 and any
ansible-core, or nobody would be told that theirs is too old.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

OLDEST_ANSIBLE = (2, 17)
OLDEST_PYTHON = (3, 11)

# The phases that exist, in their order, with the number and name of the platform's steps that they hold (R6.5).
PHASES = ("preflight", "plan", "backup", "prove", "rehearse", "gate", "apply", "analyze", "verify", "report")

# Any of these says which databases a host has.
DATABASE_VARIABLES = ("pgops_database", "pgops_databases", "pgops_databases_query")
# Ansible cuts a play into batches before it reads the variables of a host.
BATCH_VARIABLES = ("migrate_canary", "migrate_batches")

# A part of --limit that says more than a plain name: an exclusion, an intersection, a file, a regex, a glob or a slice.
_PATTERN_SIGNS = re.compile(r"^[!&@~]|[*?\[\]]")


class Refusal(Exception):
    """The run does not start; the message is the one sentence that the user reads.

    :param sentence: what is wrong
    :param command: what to type instead, which ends the sentence and which machines find in :attr:`next`
    """

    def __init__(self, sentence: str, command: str | None = None) -> None:
        super().__init__("{0}; type: {1}".format(sentence, command) if command else sentence)
        self.next = [command] if command else []


def typed_command() -> str:
    """The command as the user typed it, without its options: ``ansible-playbook migrate.yml``."""
    from ansible import context

    return " ".join(["ansible-playbook"] + [shlex.quote(str(name)) for name in (context.CLIARGS.get("args") or [])[:1]])


def playbook_name() -> str:
    """What was asked for: ``migrate`` for ``migrate.yml``, ``playbooks/migrate.yml`` and ``whitecross.pgops.migrate``."""
    typed = shlex.split(typed_command())[-1].rsplit("/", 1)[-1]
    return re.sub(r"\.ya?ml$", "", typed).rsplit(".", 1)[-1]


def check_versions(ansible_version: str, python_version: Sequence[Any]) -> None:
    """Refuse an ansible-core or a Python of the controller that is too old.

    :param ansible_version: such as ``2.19.14`` or ``2.20.0rc1``
    :param python_version: ``sys.version_info``
    :raises Refusal: with the command that brings a newer one
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", ansible_version)[:2])
    if numbers < OLDEST_ANSIBLE:
        raise Refusal(
            "ansible-core {0} is too old, {1}.{2} or later is needed".format(ansible_version, *OLDEST_ANSIBLE),
            "pip install 'ansible-core>={0}.{1}'".format(*OLDEST_ANSIBLE),
        )
    if tuple(python_version[:2]) < OLDEST_PYTHON:
        raise Refusal(
            "Python {0}.{1} on the controller is too old, {2}.{3} or later is needed".format(
                *python_version[:2], *OLDEST_PYTHON
            ),
            "python{0}.{1} -m venv .venv && .venv/bin/pip install ansible-core".format(*OLDEST_PYTHON),
        )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def limit_parts(limit: str) -> list[str]:
    """The patterns in ``--limit``; ``:`` and ``,`` separate them, except inside a slice or an IPv6 address."""
    parts = limit.split(",") if "," in limit else re.split(r":(?![^\[]*\])", limit)
    return [part.strip() for part in parts if part.strip()]


def is_pattern(part: str) -> bool:
    """Whether a part of ``--limit`` is more than a name, so that what it matches cannot be told by looking."""
    return bool(_PATTERN_SIGNS.search(part))


def no_host(limit: str, names: Sequence[str], command: str) -> Refusal:
    """What to say of a run that reaches no host at all.

    :param limit: what was typed after ``-l``, empty without
    :param names: the groups of the inventory
    :param command: the command as typed, without its limit
    """
    known = sorted(set(names) - {"all", "ungrouped"})
    if not known:
        return Refusal("The inventory has no host, so nothing was done; name one with -i INVENTORY")
    listed = "the inventory has {0}".format(_listed(known))
    near = difflib.get_close_matches(limit, known, 1)
    if not limit:
        return Refusal("The play has no host, so nothing was done; {0}".format(listed))
    sentence = "-l {0} matches no host, so nothing was done; {1}".format(limit, listed)
    return Refusal(sentence, "{0} -l {1}".format(command, near[0])) if near else Refusal(sentence)


def choose_environment(
    hosts: Sequence[str],
    groups_of: Mapping[str, Sequence[str]],
    limit: str | None,
    environments: Sequence[str],
    production: Sequence[str],
    inventory_names: set[str],
    command: str,
) -> str:
    """The one environment of the run.

    :param hosts: the hosts of the play
    :param groups_of: host -> the groups that it is in
    :param limit: what was typed after ``-l``, None or empty without
    :param environments: the environments there are (``pgops_environments``)
    :param production: those of them that count as production (``pgops_production_environments``)
    :param inventory_names: all names of hosts and groups in the inventory
    :param command: the command as typed, without its limit, for the sentences
    :returns: the environment's name
    :raises Refusal: unless all hosts are in one environment that was named when production is in reach
    """
    parts = limit_parts(limit or "")
    for part in parts:
        if part in ("all", "*"):
            raise Refusal(
                "-l {0} names no environment, a run has one of {1}".format(part, _listed(environments)),
                "{0} -l {1}".format(command, environments[0]),
            )
        if not is_pattern(part) and part not in inventory_names:
            raise Refusal(
                "-l names {0}, which is no environment, group or host of the inventory".format(part),
                "{0} -l {1}".format(command, environments[0]),
            )

    environment_of = {}
    for host in hosts:
        found = [name for name in environments if name in groups_of[host]]
        if not found:
            raise Refusal(
                "Host {0} is in no environment; put it into one of the groups {1} in the inventory, or name another "
                "group in pgops_environments".format(host, _listed(environments))
            )
        if len(found) > 1:
            raise Refusal(
                "Host {0} is in {1} environments, {2}; take it out of all but one of these groups in the inventory".format(
                    host, {2: "two"}.get(len(found), len(found)), _listed(found)
                )
            )
        environment_of[host] = found[0]

    reached = [name for name in environments if name in environment_of.values()]
    in_production = [name for name in reached if name in production]
    if not parts and in_production:
        raise Refusal(
            "No -l was given and {0} is in reach, so name the environment".format(_listed(in_production)),
            "{0} -l {1}".format(command, next((name for name in environments if name not in production), reached[0])),
        )
    if len(reached) > 1:
        raise Refusal(
            "{0} reaches {1} environments, {2}, and a run has one".format(
                f"-l {limit}" if parts else "This run", {2: "two"}.get(len(reached), len(reached)), _listed(reached)
            ),
            "{0} -l {1}".format(command, reached[0]),
        )
    return reached[0]


def choose_phases(wanted: Iterable[str] | str | None) -> list[str]:
    """The phases that are switched on, in the order in which they run.

    :param wanted: ``pgops_phases``; None means all
    :raises Refusal: a name that is no phase
    """
    if wanted is None:
        return list(PHASES)
    if isinstance(wanted, str):
        wanted = [name.strip() for name in wanted.split(",")]
    for name in wanted:
        if name not in PHASES:
            raise Refusal("pgops_phases names {0}, which is no phase; choose from {1}".format(name, ", ".join(PHASES)))
    return [name for name in PHASES if name in wanted]


# What a production run is not let off, whatever pgops_phases says.
NEVER_OFF_IN_PRODUCTION = ("preflight", "plan", "backup", "prove", "verify", "report")


def refuse_unproved_production(phases: Iterable[str], environment: str, production: Iterable[str]) -> None:
    """No migration of production without a proved backup and a verification.

    :raises Refusal: ``pgops_phases`` switches one of them off where real data is
    """
    if environment not in production:
        return
    off = [name for name in NEVER_OFF_IN_PRODUCTION if name not in phases]
    if off:
        raise Refusal(
            "pgops_phases leaves out {0}, which {1} holds real data and may not go without; take them back into "
            "pgops_phases".format(", ".join(off), environment)
        )
