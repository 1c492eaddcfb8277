# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The server's clock beside that of the ops host, which the host of the module cannot see: over SSH it is the server's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import preflight_data

CHECK = "clock"


def compare(found: dict[str, Any], asked: float, answered: float, warn_s: float) -> None:
    """Let the check of the clock warn where the server's time lies outside the time between question and answer.

    How much it is off inside that time nobody can tell, so the difference is told as the least that it is.

    :param found: a report with ``facts.clock``, seconds since 1970; its check and its level are changed in place
    :param asked: when the module was started, and ``answered`` when its result was there, by this clock
    """
    # Its time of then is of no use to whoever reads the report.
    told = (found.get("facts") or {}).pop(CHECK, None)
    check = next((check for check in found.get("checks") or () if check["check"] == CHECK), None)
    if told is None or check is None or check["level"] != "ok":
        return
    off = max(asked - float(told), float(told) - answered)
    if off <= warn_s:
        return
    way = "behind" if float(told) < asked else "ahead of"
    check.update(
        level="warn",
        evidence=f"the server's clock is at least {off:.0f} s {way} that of the ops host {os.uname().nodename}",
        fix=_fix(),
        objects=1,
    )
    if found["level"] == "ok":
        found["level"] = "warn"


def _fix() -> str:
    entry: Mapping[str, Any] = next(check for check in preflight_data.read().checks if check["name"] == CHECK)
    return str(entry["fix"])
