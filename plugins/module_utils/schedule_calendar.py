# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd makes of a calendar: whether it is one, and how long it is silent at most."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

PROGRAM = "systemd-analyze"
TIMEOUT_S = 30
# Enough for a year of weeks, and for working days over a leap year's end.
_ASKED = 60
_MOMENT = re.compile(r"(?:Next elapse|Iter(?:ation|\.) #\d+): \w{3} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d+)? UTC")


@dataclass(frozen=True)
class Calendar:
    """A calendar that systemd understands.

    :ivar text: as it was given. :ivar longest_s: the longest time between two of its moments, in seconds.
    """

    text: str
    longest_s: int


def calendar(name: str, text: str) -> Calendar:
    """Ask ``systemd-analyze`` of this host.

    :param name: of the job, for the sentence
    :raises PgopsError: it is no calendar, or none that has two moments to come
    """
    environment = {"PATH": os.environ.get("PATH", os.defpath), "TZ": "UTC", "LC_ALL": "C"}
    try:
        asked = subprocess.run(
            [PROGRAM, "calendar", f"--iterations={_ASKED}", "--", text],
            capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PgopsError(
            f"{PROGRAM} of this host does not answer ({type(error).__name__}); nothing was installed."
        ) from None
    if asked.returncode != 0 or "\n" in text:
        # Its own sentence repeats the calendar.
        told = (asked.stderr.strip().splitlines() or ["no reason given"])[-1].rpartition(": ")[2]
        raise PgopsError(
            f"The calendar {text!r} of the job {name} is none that systemd understands ({told}); nothing was installed.",
            hint=f"Try one with: {PROGRAM} calendar 'Mon..Fri *-*-* 01:30'.",
        )
    moments = [datetime.fromisoformat(found).replace(tzinfo=timezone.utc) for found in _MOMENT.findall(asked.stdout)]
    if len(moments) < 2:
        raise PgopsError(
            f"The calendar {text!r} of the job {name} has no two moments to come, so nobody could tell a missed one; nothing was "
            "installed.",
            hint="Give one that comes again, such as '*-*-* 01:30'.",
        )
    gaps = [(after - before).total_seconds() for before, after in zip(moments, moments[1:])]
    return Calendar(text, int(max(gaps)))
