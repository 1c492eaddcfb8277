# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""In which batches a fleet is migrated: hosts by the play's ``serial``, the databases of a host by the same sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# A tenth finds what one tenant did not have, a third what is rare; then little is left to learn.
AFTER_A_CANARY = ("10%", "30%", "100%")
ALL_AT_ONCE = ("100%",)

_SIZE = re.compile(r"[1-9]\d*%?")


def names(value: Any) -> list[str]:
    """:return: a list that was given as one, or as text with commas."""
    parts = value if isinstance(value, (list, tuple)) else str(value or "").split(",")
    return list(dict.fromkeys(text for part in parts if (text := str(part).strip())))


def wrong_size(batches: Any) -> str | None:
    """:return: the first size that is neither a number from 1 on nor a percentage of it, or None."""
    given = batches if isinstance(batches, (list, tuple)) else str(batches or "").split(",")
    texts = [text for part in given if (text := str(part).strip())]
    return next((text for text in texts if not _SIZE.fullmatch(text)), None)


def sizes(batches: Any, canaries: int) -> list[str]:
    """The sizes of the batches, as Ansible's ``serial`` takes them: the last one goes on to the end.

    :param batches: ``migrate_batches``; one that cannot be meant is the guard's to refuse, and counts as not given here.
    :param canaries: how many go alone, before all others.
    """
    given = batches if isinstance(batches, (list, tuple)) else str(batches or "").split(",")
    texts = [text for part in given if (text := str(part).strip())]
    if not texts or wrong_size(texts):
        texts = list(AFTER_A_CANARY if canaries else ALL_AT_ONCE)
    return [str(canaries), *texts] if canaries else texts


def split(members: Sequence[str], canary: Sequence[str], batches: Any) -> list[list[str]]:
    """The members, canaries first, cut into batches the way ``serial`` cuts hosts: a percentage is one of all members.

    :return: no empty batch, every member once.
    """
    first = [name for name in canary if name in members]
    rest = [*first, *(name for name in members if name not in first)]
    steps = sizes(batches, len(first))
    cut: list[list[str]] = []
    number = 0
    while rest:
        text = steps[min(number, len(steps) - 1)]
        size = math.floor(len(members) * int(text[:-1]) / 100) or 1 if text.endswith("%") else int(text)
        cut.append(rest[:size])
        rest = rest[size:]
        number += 1
    return cut


def judged_again(canary: Sequence[str], plan: Mapping[str, Mapping[str, Any]], host: str) -> dict[str, list[str]]:
    """The canaries with nothing pending, behind which others follow: how an earlier run left them is looked at before that.

    :param plan: by database of ``host`` what the plan has found, ``applied`` and ``pending``.
    :return: by database of the canary, which may be all of this host, the versions that it has and others of this host have not.
    """
    awaited = {str(item["version"]) for found in plan.values() for item in found.get("pending") or []}
    again = {
        name: [str(version) for version in plan[name].get("applied") or [] if str(version) in awaited]
        for name in (plan if host in canary else canary)
        if name in plan and not plan[name].get("pending")
    }
    # Which versions another host awaits its own plan will tell; until then the canary's clients are what can be judged.
    return {name: versions for name, versions in again.items() if versions or host in canary}
