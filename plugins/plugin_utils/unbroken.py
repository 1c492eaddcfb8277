# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker sends to the process that the person watches arrives whole, also when somebody presses Ctrl-C meanwhile; and
none is lost.

Ansible (2.19) ends its workers at once then. One that is ended while it writes into the queue to the main process keeps the queue's
lock, or leaves half a message: the main process waits for the rest of it for ever, and no report is written. So our own actions write
to the end, and the main process tells no worker while any of them writes.

Where it comes while the main process forks a worker, Python calls the handler within what it has to put right after a fork, and
drops the KeyboardInterrupt that Ansible raises there; where it comes before, Ansible's handler fails itself. The run would go on as
if nobody had pressed it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_display = Display()
# By then the fork is over, and Ansible knows the new worker, which it has to end as well.
_AGAIN_S = 0.2
# A display that cannot be written to, say a terminal that is paused, does not keep a Ctrl-C away for ever.
_PUT_OFF_S, _PUT_OFF_AT_MOST = 0.05, 20
# A result is written within milliseconds; a worker of Ansible's own is gone within milliseconds, one that ends a statement in the
# database is not waited for.
_WRITTEN_WITHIN_S, _GONE_WITHIN_S = 1.0, 0.5
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


class Interrupts:
    """How the main process takes a Ctrl-C: nothing that is being written to it is torn, and the Ctrl-C is not dropped."""

    def __init__(self, ansible: Callable[[int, Any], None]) -> None:
        self._process = os.getpid()
        self._ansible = ansible
        manager = getattr(ansible, "__self__", None)
        self._writing: Any = getattr(getattr(manager, "_final_q", None), "_wlock", None)
        self._workers: list[Any] = getattr(manager, "_workers", [])
        self._put_off = 0
        self._unraisable = sys.unraisablehook

    def obey(self) -> None:
        """Take it from now on."""
        signal.signal(signal.SIGINT, self._on_interrupt)
        sys.unraisablehook = self._on_unraisable

    def _on_interrupt(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            # A worker that has inherited this, before it has a handler of its own: it has not begun.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if _display._lock._is_owned() and self._put_off < _PUT_OFF_AT_MOST:
            # Perhaps a worker is being forked: one that Ansible does not know yet would go on.
            self._put_off += 1
            self._again(_PUT_OFF_S)
            return
        held = self._writing is not None and self._writing.acquire(timeout=_WRITTEN_WITHIN_S)
        self._forget_closed()
        try:
            self._ansible(number, frame)
        finally:
            if held:
                self._wait_for_the_end()
                self._writing.release()

    def _forget_closed(self) -> None:
        """Ansible's handler fails at a worker whose successor is being made, and what it raises is then taken for a task's failure."""
        for place, worker in enumerate(self._workers):
            try:
                if worker is not None:
                    worker.is_alive()
            except ValueError:
                self._workers[place] = None

    def _wait_for_the_end(self) -> None:
        """While no worker can begin to write: one that is told may take a moment to hear it."""
        ends = time.monotonic() + _GONE_WITHIN_S
        for worker in self._workers:
            if worker is not None and worker.is_alive():
                worker.join(max(0.0, ends - time.monotonic()))

    def _on_unraisable(self, what: Any) -> None:
        if os.getpid() != self._process or not issubclass(what.exc_type, KeyboardInterrupt):
            self._unraisable(what)
            return
        # Ansible lets a second one kill the process where it stands.
        signal.signal(signal.SIGINT, self._on_interrupt)
        self._again(_AGAIN_S)

    def _again(self, seconds: float) -> None:
        again = threading.Timer(seconds, os.kill, (self._process, signal.SIGINT))
        again.daemon = True
        again.start()


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
