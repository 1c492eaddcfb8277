# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The ladder that a proof climbs: seven levels, each stronger than the one before, and the record of how far it came.

A level is reached where it and all below it hold. A listing of the dump is none of them: it passes over a dump of which
80 % is missing (fact 1), as an exit code of 0 and the right row counts pass over a flipped bit (fact 2).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import HIGHEST, PROVED
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

CHECKSUMMED, READABLE, RESTORES, COUNTED, EQUAL, SOUND, ELSEWHERE = range(7)
NAMES = (
    "complete and checksummed",
    "readable to the end",
    "restores",
    "counts and catalog equal",
    "content hashes equal",
    "indexes, constraints and the application's queries hold",
    "restored on another host within the RTO",
)
# What the proof of a physical backup reaches: it is restored beside the live cluster, on the same host.
PHYSICAL = SOUND
assert EQUAL == PROVED and ELSEWHERE == HIGHEST == len(NAMES) - 1


@dataclass
class Step:
    """One level while it is climbed; ``detail`` is told with it."""

    detail: str = ""


@dataclass
class Ladder:
    """What was found on each level, in the order in which they were climbed."""

    levels: list[dict[str, Any]] = field(default_factory=list)

    def record(self, level: int, ok: bool, seconds: float, detail: str) -> None:
        """Note one level: ``level``, ``name``, ``ok``, ``seconds``, ``detail``."""
        self.levels.append(
            {"level": level, "name": NAMES[level], "ok": ok, "seconds": round(seconds, 3), "detail": detail}
        )

    @contextlib.contextmanager
    def climbing(self, level: int) -> Iterator[Step]:
        """Note a level with its seconds: it holds where the block comes to its end, else the error says why not."""
        began, step = time.monotonic(), Step()
        try:
            yield step
        except BaseException as error:
            told = error.message if isinstance(error, PgopsError) else type(error).__name__
            self.record(level, False, time.monotonic() - began, told)
            raise
        self.record(level, True, time.monotonic() - began, step.detail)

    @property
    def reached(self) -> int:
        """The highest level that holds with all below it; 0 also where not even that one does."""
        holding = {entry["level"] for entry in self.levels if entry["ok"]}
        return next((level - 1 for level in range(1, HIGHEST + 1) if level not in holding), HIGHEST)

    @property
    def failed(self) -> dict[str, Any] | None:
        """The first level that was climbed and does not hold, None where all do."""
        return next((entry for entry in self.levels if not entry["ok"]), None)

    def seconds(self, *levels: int) -> float:
        """:return: how long these levels took together."""
        return sum(float(entry["seconds"]) for entry in self.levels if entry["level"] in levels)

    def judge_elsewhere(self, same_cluster: bool, ready: float, rto_seconds: float | None) -> bool:
        """Note level 6: restored on a cluster with another system identifier, and in time.

        :param ready: seconds until the copy was restored and compared.
        :param rto_seconds: in how many it must be; None where nobody has said so.
        :return: whether it was in time, wherever it was.
        """
        in_time = not rto_seconds or ready <= rto_seconds
        limit = f"backup_rto_seconds is {rto_seconds:g}" if rto_seconds else "no backup_rto_seconds is set"
        where = "the cluster that it comes from" if same_cluster else "another cluster"
        detail = f"ready after {ready:.1f} s on {where}, {limit}"
        if same_cluster:
            detail += "; pgops_scratch_host names another server"
        self.record(ELSEWHERE, in_time and not same_cluster, 0.0, detail)
        return in_time

    def refuse_late(self, what: str, database: str) -> None:
        """:raises PgopsError: the restore that :meth:`judge_elsewhere` was told of was not ready in time."""
        raise PgopsError(
            f"The restore of {what} took too long: {self.levels[-1]['detail']}.",
            database=database,
            hint="Give pg_restore more processes (backup_jobs) or faster disks, or agree on another RTO.",
            extra={"reason": "late"},
        )

    def refuse_below(self, wanted: int, path: str, database: str) -> None:
        """:raises PgopsError: a level that is needed was not reached; it says what stopped the climb."""
        refuse_below(wanted, self.reached, path, database, why=str((self.failed or {}).get("detail") or ""))


def refuse_no_time(rto_seconds: float | None) -> None:
    """:raises PgopsError: a limit that nothing keeps; leaving it out means that there is none."""
    if rto_seconds is not None and not rto_seconds > 0:
        raise PgopsError(
            f"backup_rto_seconds is {rto_seconds:g}, and it takes a number above 0; nothing was restored.",
            hint="Leave it out where there is no limit.",
        )


def refuse_below(wanted: int, reached: int, path: str, database: str, *, why: str = "") -> None:
    """:param wanted: the level that is needed.
    :param path: of the backup, which is proved to another.
    :raises PgopsError: it is proved to less; ``extra["reason"]`` is ``level``."""
    if reached >= wanted:
        return
    raise PgopsError(
        f"The backup {path} is proved to level {reached} ({NAMES[reached]}), and level {wanted} ({NAMES[wanted]}) is needed"
        + (f": {why}." if why else "."),
        database=database,
        hint=f"Climb with prove.yml -e backup_prove_level={wanted}"
        + (", where pgops_scratch_host is another server." if wanted == ELSEWHERE else "."),
        extra={"reason": "level", "path": path, "level": reached, "level_required": wanted},
    )
