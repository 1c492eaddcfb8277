# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker sends to the process that the person watches arrives whole, also when somebody presses Ctrl-C meanwhile; and
none is lost.

Ansible (2.19) ends its workers at once then. One that is ended while it writes into the queue to the main process keeps the queue's
lock, or leaves half a message: the main process waits for the rest of it for ever, and no report is written.

Where it comes while the main process forks a worker, Python calls the handler within what it has to put right after a fork, and
drops the KeyboardInterrupt that Ansible raises there: the run would go on as if nobody had pressed it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_display = Display()
# By then the fork is over, and Ansible knows the new worker, which it has to end as well.
_AGAIN_S = 0.2
# How the worker takes them while an action works.
_working: dict[int, Any] = {}


@contextmanager
def unbroken() -> Iterator[None]:
    """Put SIGINT and SIGTERM off until the block has ended; they are obeyed then."""
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may say how they are taken, and only there they are.
        yield
        return
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda got, _frame: arrived.append(got)) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for got in dict.fromkeys(arrived):
            os.kill(os.getpid(), got)


def insist() -> None:
    """See to it that a Ctrl-C which Python drops in this process is given again. Called in the main process, with Ansible's own
    handler in place."""
    process, handler, dropped = os.getpid(), signal.getsignal(signal.SIGINT), sys.unraisablehook

    def give_again(what: Any) -> None:
        if os.getpid() != process or not issubclass(what.exc_type, KeyboardInterrupt):
            dropped(what)
            return
        # Ansible lets a second one kill the process where it stands.
        signal.signal(signal.SIGINT, handler)
        again = threading.Timer(_AGAIN_S, os.kill, (process, signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = give_again


class Screen:
    """Ansible's display, for an action."""

    def display(self, text: str) -> None:
        """Show a line to the person who watches, under any stdout callback."""
        with unbroken():
            _display.display(text)

    def warning(self, text: str) -> None:
        """Show a warning."""
        with unbroken():
            _display.warning(text)


class UnbrokenAction(ActionBase):
    """An action whose result arrives, too: once it has ended, its worker has nothing more to do than to hand that over."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        # The next item of a loop has the same worker.
        for number, handler in _working.items():
            signal.signal(number, handler)
        _working.clear()

    def cleanup(self, force: bool = False) -> None:
        """Remove what it left on the host; from now on the worker is not to be ended any more, it ends by itself."""
        super().cleanup(force)
        if multiprocessing.parent_process() is not None and not _working:
            for number in _NUMBERS:
                handler = signal.signal(number, signal.SIG_IGN)
                _working[number] = signal.SIG_DFL if handler is None else handler
