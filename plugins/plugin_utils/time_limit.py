# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A time limit for the main thread, where what it calls takes none."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def alarm(seconds: float, exception: type[Exception] = TimeoutError) -> Iterator[None]:
    """Raise the exception wherever the block is when the time is over.

    :param exception: one of the caller's own where the block catches OSError, of which TimeoutError is one.
    """

    def ring(_number: int, _frame: Any) -> None:
        raise exception

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
