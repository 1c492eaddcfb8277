# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rollback of production needs before it begins: where it goes, a proved backup, a verification, and a window or an emergency.

The reason, which it needs too, is asked for by :mod:`incident_rules`; that the copy is made and proved, by the rollback itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_commands, windows
from ansible_collections.whitecross.pgops.plugins.plugin_utils.environments import Refusal
from ansible_collections.whitecross.pgops.plugins.plugin_utils.incident_rules import WITHOUT_REASON

# Each says which versions a way down takes.
SELECTIONS = ("rollback_steps", "rollback_keep", "rollback_through", "rollback_version")
UNFENCE = "unfence"
# What the guard reads for it.
VARIABLES = (
    "rollback_strategy",
    *SELECTIONS,
    "rollback_emergency",
    "ansible_run_tags",
    "ansible_skip_tags",
)
# Strategies that may destroy, and so make and prove a backup first.
_BACKED_UP = ("down", "auto")


def settled(
    given: Mapping[str, Any],
    windows_of: Mapping[str, Any],
    is_production: bool,
    check_mode: bool,
    run: Mapping[str, Any],
    limit: str,
) -> dict[str, str]:
    """:param given: :data:`VARIABLES`, as far as they are set, and ``part_of``, the migration that goes back by it
    :param windows_of: host -> ``migrate_windows``; each host's own have to be open
    :return: what is recorded: ``emergency``, who has declared one (empty without), and of production ``window``
    :raises Refusal: there is no plan, or no window and no emergency; in check mode a window that is shut is only told"""
    by_itself = str(given.get("part_of") or "")
    declared = boolean(given.get("rollback_emergency") or False, strict=False)
    emergency = "declared" if declared else f"begun by itself, by run {by_itself}" if by_itself else ""
    if not is_production:
        return {"emergency": emergency}
    tags, skipped = (list(given.get(f"ansible_{kind}_tags") or []) for kind in ("run", "skip"))
    refuse_unplanned(given, tags, skipped, run, limit)
    try:
        opens, told = windows_told(windows_of, datetime.now(UTC))
    except windows.NotUnderstood as fault:
        raise Refusal(f"{fault}; correct it where it is set") from None
    if not opens and not emergency and not check_mode:
        refuse_shut(given.get("rollback_strategy"), told, run, limit)
    return {"emergency": emergency, "window": told}


def line(facts: Mapping[str, str]) -> str:
    """:return: what :func:`settled` found, for the screen."""
    return f"rollback of production {facts['window']}" + (
        f"; emergency: {facts['emergency']}" if facts["emergency"] else ""
    )


def refuse_unplanned(
    chosen: Mapping[str, Any], tags: Iterable[str], skipped: Iterable[str], run: Mapping[str, Any], limit: str
) -> None:
    """A rollback of production says where it goes, and leaves out none of what makes it safe.

    :param chosen: ``rollback_strategy`` and :data:`SELECTIONS`, as far as they are set
    :param tags: those of ``--tags``, ``skipped`` those of ``--skip-tags``
    :raises Refusal: it does not
    """
    strategy = str(chosen.get("rollback_strategy") or "down")
    if strategy == "down" and not any(chosen.get(name) not in (None, "") for name in SELECTIONS):
        typed = "rollback_strategy" in typed_commands.typed_variables(run)
        raise Refusal(
            "A rollback of production says where it goes, and no version is named: rollback_steps=1 takes the last version, "
            "rollback_strategy=auto the last change; say which",
            _with(run, limit, {"rollback_steps": "1"} if typed else {"rollback_strategy": "auto"}),
        )
    wanted, skipped = set(tags) or {"all"}, set(skipped)
    due = ["backup", "prove"] * (strategy in _BACKED_UP) + ["verify"] * (strategy != UNFENCE)
    left_out = [tag for tag in due if tag in skipped or not wanted & {"all", tag}]
    if left_out:
        raise Refusal(
            f"A rollback of production is not let off its proved backup and its verification, and --tags or --skip-tags leaves out "
            f"{', '.join(left_out)}; without them",
            typed_commands.again(typed_commands.whole(run), limit),
        )


def windows_told(windows_of: Mapping[str, Any], now: datetime) -> tuple[bool, str]:
    """:param windows_of: host -> ``migrate_windows``
    :return: whether a rollback of all these hosts may begin, and why, as :func:`window` tells it; of hosts that differ, the first that is shut
    :raises NotUnderstood: a window says nothing"""
    looked = {host: window(given, now) for host, given in windows_of.items()}
    shut = next((host for host, (opens, _) in looked.items() if not opens), None)
    if shut is None:
        return next(iter(looked.values()), window([], now))
    alike = len(set(looked.values())) == 1
    return False, looked[shut][1] + ("" if alike else f" for {shut}")


def window(given: Any, now: datetime) -> tuple[bool, str]:
    """:param given: ``migrate_windows``
    :return: whether a rollback of production may begin, and why, as the end of a sentence
    :raises NotUnderstood: a window says nothing"""
    declared = windows.read(given or [])
    if not declared:
        return True, "at any time: no window is declared in migrate_windows"
    closes = max((at for one in declared if (at := one.closes(now))), default=None)
    if closes:
        return True, f"in a window that closes at {windows.moment(closes)}"
    opens = min((at for one in declared if (at := one.next(now))), default=None)
    following = f"the next one opens at {windows.moment(opens)}" if opens else "none opens any more"
    return False, f"outside of each window at {windows.moment(now)}, {following}"


def refuse_shut(strategy: Any, told: str, run: Mapping[str, Any], limit: str) -> None:
    """For a rollback of production outside of its windows that is no emergency.

    :param told: as :func:`window` gives it
    :raises Refusal: it waits for a window; what only ends an earlier rollback, or takes it back, waits for none
    """
    if str(strategy or "down") in WITHOUT_REASON:
        return
    raise Refusal(
        f"A rollback of production begins in a window, and this is {told}; an emergency is declared, which is recorded, ends the running "
        "migration, switches maintenance mode on and alerts",
        _with(run, limit, {"rollback_emergency": "true"}),
    )


def _with(run: Mapping[str, Any], limit: str, more: Mapping[str, Any]) -> str:
    """:return: the command that was typed, with these besides."""
    given = dict(run[typed_commands.GIVEN])
    given["variables"] = {**given["variables"], **more}
    return typed_commands.again({**run, typed_commands.GIVEN: given}, limit)
