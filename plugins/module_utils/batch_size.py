# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How many rows a batch has: so few that nobody waits long for them, so many that the rows are the work."""

from __future__ import annotations

# 50,000 rows a batch: 116,000 rows/s and 681 ms, against 230,000 rows/s with 5,000 (measured).
MOST = 50_000
# What a batch costs beside its rows (round trips, ledger, commit): below a tenth, more rows gain little, and they hold
# their locks for longer. 20,000 rows a batch instead of 5,000 are 59 ms for the worst client instead of 15, and no
# faster (measured). So it grows to a fifth of its target only, and further where most of the time is on the way, as
# with a server that is far away.
OVERHEAD = 0.1
QUICK = 0.2
FAR = 0.5
# A batch that takes so many times its target is taken back and tried with fewer rows.
PATIENCE = 5


class BatchSize:
    """The size of the next batch, learned from how long the last ones took.

    The target is the most that a batch may take, not what it has to: clients wait for its rows as long as it lasts.
    """

    def __init__(self, first: int, target_s: float, *, fixed: bool = False) -> None:
        """:param first: rows of the first batch.
        :param target_s: seconds that a batch may take.
        :param fixed: it stays at ``first``."""
        self.rows = max(1, first)
        self.target_s = target_s
        self.fixed = fixed
        self._most = max(MOST, self.rows)

    @property
    def limit_s(self) -> float | None:
        """:return: seconds after which a batch is taken back and made smaller, None where it cannot be."""
        return None if self.fixed or self.rows == 1 else PATIENCE * self.target_s

    def learn(self, rows: int, seconds: float, worked: float) -> None:
        """Take in one batch that is done.

        :param rows: that it had; fewer than asked for says nothing.
        :param seconds: that its transaction took.
        :param worked: seconds of that in its statement.
        """
        if self.fixed or rows < self.rows or seconds <= 0:
            return
        beside, quick = seconds - worked, QUICK * self.target_s
        if worked > self.target_s:
            self._scale(max(0.1, self.target_s / worked))
        elif beside > FAR * seconds and worked > quick:
            self._scale(min(2.0, self.target_s / worked))
        elif beside > OVERHEAD * seconds and worked < quick:
            self._scale(min(2.0, quick / worked) if worked > 0 else 2.0)

    def took_too_long(self) -> None:
        """A batch ran into :attr:`limit_s`."""
        self._scale(0.1)

    def _scale(self, factor: float) -> None:
        self.rows = max(1, min(self._most, int(self.rows * factor)))
