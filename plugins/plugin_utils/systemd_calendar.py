# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The whole calendar syntax of systemd, told by ``systemd-analyze`` where the ops host has it: ``Sat *-*~07/1 22:00 UTC``, ``monthly UTC``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

PROGRAM = "systemd-analyze"
TIMEOUT_S = 10
# It is asked for so many moments at a time, the first time for a few.
_FEW, _MANY = 4, 200
_MOMENT = re.compile(r"(?:Next elapse|Iter(?:ation|\.) #\d+): \w{3} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d+)? UTC")


@dataclass(frozen=True)
class SystemdCalendar:
    """:ivar text: as systemd takes it, with its zone. :ivar zone: that zone."""

    text: str
    zone: tzinfo

    @classmethod
    def of(cls, text: str, zone: tzinfo) -> SystemdCalendar | None:
        """:return: the calendar; None where this machine cannot ask, or systemd does not understand it either."""
        calendar = cls(text, zone)
        if shutil.which(PROGRAM) is None or calendar._asked(datetime(2026, 1, 1, tzinfo=UTC), 1) is None:
            return None
        return calendar

    def moments(self, first: date, days: int) -> Iterator[datetime]:
        """:return: those of so many days in the calendar's own zone, from the first on."""
        begin = datetime.combine(first, time(), self.zone).astimezone(UTC)
        end = datetime.combine(first + timedelta(days=days), time(), self.zone).astimezone(UTC)
        # A moment that is the base itself is not told.
        at, count = begin - timedelta(seconds=1), _FEW
        while found := self._asked(at, count):
            for moment in found:
                if moment >= end:
                    return
                yield moment
            at, count = found[-1], _MANY

    def _asked(self, after: datetime, count: int) -> list[datetime] | None:
        """:return: the next moments; None where the text is not understood."""
        base = f"{after.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        environment = {"PATH": os.environ.get("PATH", os.defpath), "TZ": "UTC", "LC_ALL": "C"}
        try:
            done = subprocess.run(
                [PROGRAM, "calendar", f"--iterations={count}", f"--base-time={base}", "--", self.text],
                capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode != 0:
            return None
        return [datetime.fromisoformat(found).replace(tzinfo=UTC) for found in _MOMENT.findall(done.stdout)]
