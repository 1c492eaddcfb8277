# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which parts of a playbook a run takes, by its tags and ``pgops_phases``: whether it changes anything, and what it may not leave out then.

Each phase of migrate.yml has a tag of its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.environments import NEVER_OFF_IN_PRODUCTION

# The tag of what changes a database.
CHANGES_BY_TAG = {"migrate": "apply", "rollback": "rollback", "blue_green": "blue_green"}
# The stages of a blue-green change that work on a database: the first makes a copy of it, the second lets that take its place.
PREPARE, CHANGE_OVER = "prepare", "change_over"
_CALLED = {"rehearse": "rehearsal"}


def is_taken(tag: str, run: Mapping[str, Any]) -> bool:
    """:param run: ``tags`` and ``skip_tags`` of its command line.
    :return: whether tasks with this tag are among those that run."""
    tags, skipped = set(run.get("tags") or ["all"]), set(run.get("skip_tags") or [])
    return bool(tags & {"all", "tagged", tag}) and not skipped & {"all", "tagged", tag}


def may_change(run: Mapping[str, Any]) -> bool:
    """:return: whether a run was to change a database: no check, and tags do not leave out what changes it."""
    if run.get("playbook") == "blue_green" and run.get("stage") != CHANGE_OVER:
        return False
    tag = CHANGES_BY_TAG.get(str(run.get("playbook")))
    return not run.get("check_mode") and (tag is None or is_taken(tag, run))


def changes(run: Mapping[str, Any]) -> bool:
    """:return: whether a run is one that changes what it finds to change, by its tags and by its phases."""
    phases = run.get("phases")
    applies = run.get("playbook") != "migrate" or phases is None or "apply" in phases
    return may_change(run) and applies


def migrates(run: Mapping[str, Any]) -> bool:
    """:return: whether a run brings versions to the live database, or would without --check, tags and phases."""
    return run.get("playbook") == "migrate" or (run.get("playbook") == "blue_green" and run.get("stage") == CHANGE_OVER)


def touches(run: Mapping[str, Any]) -> bool:
    """:return: whether a run works on the rows of a database: one that changes it, and one that makes a second copy of them."""
    prepares = run.get("playbook") == "blue_green" and run.get("stage") == PREPARE and not run.get("check_mode")
    return changes(run) or (prepares and is_taken("blue_green", run))


def left_out(run: Mapping[str, Any], *, production: bool, gated: bool, assessed: bool) -> list[str]:
    """:param run: a migration, with its ``phases``, or a change-over.
    :param production: whether its environment holds production data, which are not changed without a look before and after.
    :param gated: whether its environment has a gate.
    :param assessed: whether what touches PHI has to be assessed, which a plan tells.
    :return: the phases that its tags leave out and without which nothing is applied there, in their order."""
    if not changes(run):
        return []
    if run.get("playbook") == "blue_green":
        # Its plan and its gate have one tag with the change itself.
        return ["verify"] if production and not is_taken("verify", run) else []
    if run.get("playbook") != "migrate":
        return []
    phases = list(run.get("phases") or [])
    owed = {"backup", "prove", "rehearse"}
    if production:
        owed |= set(NEVER_OFF_IN_PRODUCTION) - {"report"}
    if gated:
        owed |= {"plan", "gate"}
    if assessed:
        owed.add("plan")
    return [phase for phase in phases if phase in owed and not is_taken(phase, run)]


def told(missing: list[str]) -> str:
    """:return: the beginning of a sentence, of phases that are left out."""
    names = [f"no {_CALLED.get(phase, phase)}" for phase in missing]
    named = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"this run has {named} (left out by --tags or --skip-tags)"
