# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The verdict of the gate on one database, made of plain data: what is there, what is missing, and the command that gets it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import risk
from ansible_collections.whitecross.pgops.plugins.plugin_utils import environments, typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.approvals import Approval
from ansible_collections.whitecross.pgops.plugins.plugin_utils.unread_values import is_template

# Only people can mend these, and they have to see the rehearsal first: right after the plan they are told, and end nothing.
LATER = frozenset({"approval", "rehearsal"})
# So many reasons of a verdict stand on the screen; the report has all.
SHOWN = 5

# How to get past what is asked for, by the playbook that asks.
_WAYS = {
    "migrate": "who has to pass it in an emergency breaks the glass",
    "blue_green": "who has to pass it in an emergency breaks the glass of the change-over",
}

Command = Callable[[str, Mapping[str, Any]], str]


def required(given: Any, environment: str, production: Iterable[str]) -> bool:
    """:param given: ``gate_required``; None where the environment says nothing.
    :return: whether an environment has a gate."""
    if given in (None, ""):
        return environment in list(production)
    return given is True or str(given).lower() in ("true", "yes", "on", "1")


def refuse_left_out(
    variables_of: Mapping[str, Mapping[str, Any]], phases: Iterable[str], environment: str, production: Iterable[str]
) -> None:
    """Before hours are spent on a backup that the apply would refuse.

    :param variables_of: host -> its variables, templates not done
    :raises environments.Refusal: ``pgops_phases`` leaves the gate out where there is one
    """
    if "gate" in phases:
        return
    for host, variables in variables_of.items():
        given = variables.get("gate_required")
        if not is_template(given) and required(given, environment, production):
            raise environments.Refusal(
                f"pgops_phases leaves out gate, and {environment} has one (gate_required, for {host}); take it back into pgops_phases"
            )


def is_gated(of_hosts: Iterable[Mapping[str, Any]], environment: str, production: Iterable[str]) -> bool:
    """:param of_hosts: what each host has without -e.
    :return: whether one of them has a gate; a template may say so."""
    known = list(production)
    given = [variables.get("gate_required") for variables in of_hosts]
    return any(is_template(one) or required(one, environment, known) for one in given)


def refuse_typed(run: Mapping[str, Any], eased: Sequence[str], why: str | None, limit: str) -> None:
    """Who types a command does not choose what the gate asks of it: a glass is broken by name, or not at all.

    :param run: what it has so far, for the command that it should have been.
    :param eased: the variables that make it easier, see :func:`typed_settings.eased`.
    :param why: what a typed exception lacks, as the end of a sentence.
    :raises environments.Refusal: there is one
    """
    if not eased:
        return
    verb = "is" if len(eased) == 1 else "are"
    way = _WAYS.get(str(run["playbook"]), "so does what is rehearsed for it")
    lack = f" ({why})" if why else ""
    raise environments.Refusal(
        f"{', '.join(eased)} {verb} typed with -e{lack}, and what the gate of {run['environment']} asks for stands in the inventory alone, "
        f"of which more may be typed and not less; {way} (docs/gate.md). Without it",
        typed_commands.again(typed_commands.without(run, eased), limit),
    )


def missing(kind: str, what: str, command: str) -> dict[str, str]:
    """:return: one thing that is missing."""
    return {"kind": kind, "what": what, "command": command}


def of_rehearsal(
    rehearsal: Mapping[str, Any] | None, is_required: bool, command: Command, *, now: datetime, longest: timedelta
) -> list[dict[str, str]]:
    """:param longest: for how long a rehearsal tells of the data that are there.
    :return: what is wrong with the rehearsal, or that there is none."""
    if rehearsal is None:
        if not is_required:
            return []
        return [missing("rehearsal", "a rehearsal of this very SQL", command("rehearse", {}))]
    if not rehearsal.get("ok"):
        why = str(rehearsal.get("why") or "it failed").rstrip(".")
        return [missing("rehearsal", f"a rehearsal that ends well ({rehearsal['id']}: {why})", command("rehearse", {}))]
    over = [str(sentence).rstrip(".") for sentence in rehearsal.get("over_budget") or []]
    if over:
        what = f"a forecast within the budget ({rehearsal['id']}: {'; '.join(over)})"
        return [missing("rehearsal", what, command("rehearse", {}))]
    if is_required and _is_older(rehearsal.get("at"), now - longest):
        what = f"a rehearsal of the last {longest.total_seconds() / 3600:g} hours ({rehearsal['id']} is of {rehearsal.get('at')})"
        return [missing("rehearsal", what, command("rehearse", {}))]
    return []


def _is_older(at: Any, than: datetime) -> bool:
    try:
        return datetime.fromisoformat(str(at)) < than
    except (ValueError, TypeError):
        return True


def of_signers(roles: Sequence[str], signers: Mapping[str, Any], command: Command) -> list[dict[str, str]]:
    """:return: the roles that nobody could approve for: it is the inventory that has to be mended."""
    return [
        missing("signers", f"who may sign as {role} (gate_signers has no {role})", command("gate", {}))
        for role in roles
        if not signers.get(role)
    ]


def of_approvals(
    roles: Sequence[str],
    held: Sequence[Approval],
    taken: Sequence[Approval],
    void: Mapping[str, Sequence[str]],
    command: Command,
) -> list[dict[str, str]]:
    """:param held: those that hold. :param taken: of these one a role, each with its own key.
    :return: the roles that have not approved."""
    found = []
    for role in roles:
        if any(one.role == role for one in taken):
            continue
        what = f"the approval of {role}"
        if any(one.role == role for one in held):
            what += " with another key than that of the other role"
        elif void.get(role):
            what += f" ({void[role][-1]})"
        found.append(missing("approval", what, command("approve", {"approve_as": role, "approve_key": "FILE"})))
    return found


def timed(pending: Sequence[Mapping[str, Any]], rehearsal: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """:return: the versions with the seconds that their rehearsal expects at most, where there is one, in the place of their authors' word."""
    seconds: dict[str, float] = {}
    for step in ((rehearsal or {}).get("forecast") or {}).get("steps") or []:
        version = str(step["version"])
        seconds[version] = seconds.get(version, 0.0) + float(step.get("high") or step.get("seconds") or 0)
    return [
        {**item, "expected_seconds": math.ceil(seconds[str(item["version"])])} if str(item["version"]) in seconds else dict(item)
        for item in pending
    ]  # fmt: skip


def rehearsal_told(rehearsal: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """:return: of a rehearsal what a verdict repeats."""
    if rehearsal is None:
        return None
    told = {name: rehearsal.get(name) for name in ("id", "at", "ok", "why", "down_equal", "backup")}
    return {
        **told,
        "forecast": {name: value for name, value in (rehearsal.get("forecast") or {}).items() if name != "steps"},
    }


def reasons(rated: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """:return: why a database's versions have their levels, the highest first, each with its version."""
    found = [{"version": version, **reason} for version, one in rated.items() for reason in one["reasons"]]
    return sorted(found, key=lambda reason: -risk.rank(reason["level"]))


def broken(hosts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """:param hosts: host -> database -> phase -> result, as a report has them.
    :return: the sentence of each glass that was broken in the run."""
    found = [
        (phases.get(phase) or {}).get("gate") or {}
        for databases in hosts.values()
        for phases in databases.values()
        for phase in ("gate", "gate_early")
    ]
    return list(dict.fromkeys(str(one["break_glass"]["told"]) for one in found if one.get("break_glass")))


def lines(database: str, verdict: Mapping[str, Any]) -> list[str]:
    """:return: the verdict as a person reads it."""
    told = [f"{database}: risk {verdict['risk']}, {verdict['basis']}"]
    shown = [reason for reason in verdict["reasons"] if reason["level"] != risk.LOW] or verdict["reasons"][:1]
    told += [f"    {reason['level']:<9}{reason['version']} {reason['why']}" for reason in shown[:SHOWN]]
    if len(shown) > SHOWN:
        told.append(f"    and {len(shown) - SHOWN} more reasons in the report")
    if not verdict["required"]:
        return [*told, "    this environment has no gate: nothing is asked for"]
    for one in verdict["approvals"]:
        told.append(f"    approved by {one['by']} as {one['role']} at {one['made']}, until {one['expires']}")
    told += [f"    missing: {one['what']}" for one in verdict["missing"]]
    if verdict["break_glass"]:
        told.append(f"    {verdict['break_glass']['told']}")
    told.append(f"    {'may' if verdict['allowed'] else 'may NOT'} be applied")
    return told
