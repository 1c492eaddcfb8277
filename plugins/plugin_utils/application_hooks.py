# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application's hooks as they are declared, and which of them are due where in a run; decided on plain data."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.unread_values import is_encrypted, is_template

# In the order in which a report lists them.
KINDS: Mapping[str, str] = {
    "divert_traffic": "divert traffic",
    "maintenance_on": "maintenance mode on",
    "stop": "stop",
    "start": "start",
    "maintenance_off": "maintenance mode off",
    "health": "health",
    "smoke_test": "smoke test",
    "restore_traffic": "restore traffic",
    "metrics": "metrics",
    "alert": "alert",
}
# What a run takes away from the application's users, and the hook that brings it back.
BROUGHT_BACK_BY: Mapping[str, str] = {
    "divert_traffic": "restore_traffic",
    "maintenance_on": "maintenance_off",
    "stop": "start",
}
BRINGS_BACK: Mapping[str, str] = {back: taken for taken, back in BROUGHT_BACK_BY.items()}
# The metrics before are what those after are compared with. Nobody new comes, then nobody at all, then it is stopped.
BEFORE = ("metrics", "divert_traffic", "maintenance_on", "stop")
# The way back is the reverse; users come last, to an application that was looked at.
AFTER = ("start", "maintenance_off", "health", "smoke_test", "restore_traffic", "metrics")
BACK = ("start", "maintenance_off", "restore_traffic")
EMERGENCY = ("maintenance_on", "alert")
PROBES = ("health", "metrics")
# Minutes in which the errors of an application are to show themselves.
LEAST_WATCH = 5.0
# The webhook of the environment, which is told by the same stage as the alert hooks.
WEBHOOK = -1
# A look at the databases of a host, in a watch.
DATABASES = -2
DATABASES_LABEL = "health (databases)"

# What the message of a hook that fails promises; a report that knows better takes it out.
COMES_BACK = ", and what it took away comes back at its end"
# What that of one which fails to bring back says, of itself alone; the report names everything that is away.
IS_AWAY = "it is NOT brought back. Mend it and type: "

# What a hook may say; the argument specs of the role say the same. These only the controller reads.
CONTROLLERS = frozenset({"name", "delegate_to", "each_host"})
_COMMAND = {"argv", "environment", "environment_files"}
_REQUEST = {
    "url",
    "url_file",
    "method",
    "status",
    "headers",
    "header_files",
    "body",
    "ca_path",
    "client_cert",
    "client_key",
}
OPTIONS = frozenset({*_COMMAND, *_REQUEST, *CONTROLLERS, "timeout", "retries", "delay", "limits"})
_WAYS = ("argv", "url", "url_file")


def variable(kind: str) -> str:
    """:return: the variable in which the hooks of a kind are declared."""
    return f"hooks_{kind}"


def declared(variables: Mapping[str, Any]) -> list[str]:
    """:return: the kinds that have a hook; a template counts as one."""
    return [kind for kind in KINDS if variables.get(variable(kind))]


def refusal(variables: Mapping[str, Any]) -> str | None:
    """Why these hooks cannot be meant, in one sentence without a full stop, or None. Templates are left out.

    :param variables: name -> value, as they are set
    """
    kinds = declared(variables)
    for kind in kinds:
        wrong = next(_wrong(kind, variables[variable(kind)]), None)
        if wrong:
            return wrong
    for taken, back in BROUGHT_BACK_BY.items():
        if taken in kinds and back not in kinds:
            return f"{variable(taken)} is set and {variable(back)} is not, so nothing would bring it back"
    return None


def _wrong(kind: str, hooks: Any) -> Iterator[str]:
    name = variable(kind)
    if is_template(hooks):
        return
    if not isinstance(hooks, (list, tuple)):
        yield f"{name} is no list of hooks"
        return
    for number, hook in enumerate(hooks, 1):
        if is_template(hook):
            continue
        where = f"hook {number} of {name}"
        if not isinstance(hook, Mapping):
            yield f"{where} is no mapping with argv, url or url_file"
            continue
        for key in hook:
            if str(key) not in OPTIONS:
                near = difflib.get_close_matches(str(key), sorted(OPTIONS), 1)
                yield f"{where} has {key}, which is no part of a hook" + (f" (did you mean {near[0]}?)" if near else "")
        ways = [way for way in _WAYS if hook.get(way)]
        if len(ways) != 1:
            yield f"{where} has {' and '.join(ways) or 'none'} of argv, url and url_file, and needs exactly one"
        argv = hook.get("argv")
        if argv and not is_template(argv) and not isinstance(argv, (list, tuple)):
            yield f"{where} has an argv that is no list; there is no shell that would take a line apart"
        words = argv if isinstance(argv, (list, tuple)) else [argv]
        if any(is_encrypted(word) for word in [*words, hook.get("url")]):
            yield (
                f"{where} has a secret in argv or url, where others see it; give it in environment or headers, or name a file "
                "that holds it"
            )
        for option in ("timeout", "retries", "delay"):
            if option in hook and not is_template(hook[option]) and not _is_number(hook[option], option == "timeout"):
                yield f"{where} has a {option} that is no number of {'tries' if option == 'retries' else 'seconds'}"
        if hook.get("limits") and kind != "metrics":
            yield f"{where} has limits, which are for hooks_metrics"


def _is_number(value: Any, positive: bool) -> bool:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return False
    return number > 0 or (number == 0 and not positive)


def has_work(run: Mapping[str, Any]) -> bool:
    """Whether a run changes a host, as the conditions in migrate.yml and rollback.yml say: one that it leaves alone runs no hooks.

    :param run: what the run knows of that host
    """
    plan = run.get("plan")
    if plan is not None and not any(found.get("pending") for found in plan.values()):
        return False
    # A swap that had been killed was completed in the place of what was asked for.
    return not any(found.get("state") == "completed" for found in (run.get("resume") or {}).values())


def watch_minutes(given: Any, *, probes: bool, automatic: bool) -> float:
    """:return: for how many minutes a migration is watched.

    :param given: ``migrate_watch``; None where nobody has set it
    :param probes: whether anything is declared that a watch could ask
    :param automatic: whether the migration rolls back by itself, for which a shorter watch would be none
    """
    if given in (None, ""):
        return LEAST_WATCH if probes or automatic else 0.0
    return max(float(given), LEAST_WATCH) if automatic else float(given)


def watch_times(minutes: float, interval: float) -> list[float]:
    """:return: the seconds after its beginning at which a watch looks, the last at its end.

    :param interval: seconds between two looks
    """
    seconds = minutes * 60
    if seconds <= 0:
        return []
    looks = max(1, round(seconds / max(interval, 0.1)))
    return [round(seconds * number / looks, 3) for number in range(1, looks + 1)]


def due(
    stage: str,
    hooks: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    first: Collection[str],
    out: Mapping[str, bool],
    watch: Iterable[float] = (),
) -> list[dict[str, Any]]:
    """The hooks that a stage runs for one inventory host, in their order.

    :param stage: ``before``, ``after``, ``back``, ``emergency``, or the kind that is asked for by hand
    :param hooks: kind -> the hooks that are declared
    :param first: the kinds of which this is the first host of its batch; it runs the hooks that are not for each host
    :param out: what this run has to bring back here -> whether the first host took it away
    :param watch: when the probes look again, from :func:`watch_times`
    :return: what the loop of the role goes over; no item holds anything of a hook that may be secret
    """
    kinds = {"before": BEFORE, "after": AFTER, "back": BACK, "emergency": EMERGENCY}.get(stage, (stage,))
    items = []
    for kind in kinds:
        mine = kind in first
        taken = BRINGS_BACK.get(kind)
        if taken and stage in ("after", "back") and (stage == "back" or hooks.get(taken)):
            if taken not in out:
                continue
            mine = out[taken]
        if stage == "before" and kind in out:
            continue  # the emergency stage of this very run has done it
        items += _of_kind(kind, hooks, mine)
    for at in watch if stage == "after" else ():
        items += [{**item, "at": at} for kind in PROBES for item in _of_kind(kind, hooks, kind in first)]
    return items


def looks_at_databases(stage: str, host: str, watch: Sequence[float]) -> list[dict[str, Any]]:
    """What a watch of the databases goes over: a look before the apply says what is usual, those after it judge.

    :param watch: when it looks again, from :func:`watch_times`
    """
    shared = {"kind": "health", "number": DATABASES, "last": True, "first": True, "on": host, "label": DATABASES_LABEL}
    if not watch:
        return []
    if stage == "before":
        return [shared]
    return [{**shared, "at": at} for at in (0.0, *watch)] if stage == "after" else []


def _of_kind(kind: str, hooks: Mapping[str, Sequence[Mapping[str, Any]]], first: bool) -> list[dict[str, Any]]:
    chosen = [
        (number, hook) for number, hook in enumerate(hooks.get(kind) or []) if first or _truth(hook.get("each_host"))
    ]
    return [
        {
            "kind": kind,
            "number": number,
            "last": number == chosen[-1][0],
            "first": first,
            "on": str(hook.get("delegate_to") or "localhost"),
            "label": label(kind, hook),
        }
        for number, hook in chosen
    ]


def _truth(value: Any) -> bool:
    return value is True or str(value).lower() in ("true", "yes", "on", "1")


def label(kind: str, hook: Mapping[str, Any]) -> str:
    """:return: what a hook is called on the screen and in the report."""
    name = str(hook.get("name") or "")
    return f"{KINDS[kind]} ({name})" if name else KINDS[kind]
