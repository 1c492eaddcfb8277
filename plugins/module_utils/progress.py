# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a running job tells its controller, and how the controller keeps it alive or ends it."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from typing import Any, Callable

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted


class Progress:
    """Appends one JSON line an event to a file that the controller reads while the job runs; without a path, nothing."""

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()

    def emit(
        self,
        text: str,
        *,
        database: str | None = None,
        version: str | None = None,
        step: int | None = None,
        steps: int | None = None,
        done: int | None = None,
        total: int | None = None,
        unit: str | None = None,
        left_s: float | None = None,
        size_bytes: int | None = None,
    ) -> None:
        """Tell what is being done. A line that cannot be written, on a full disk say, is left out: it must not end what it is about.

        :param text: what, in a few words; never row contents.
        :param done: how far, in ``unit`` (rows, blocks, bytes), of ``total`` where that is known.
        :param left_s: a forecast of the seconds until it is done.
        :param size_bytes: how large what is made is so far.
        """
        if self._path is None:
            return
        event: dict[str, Any] = {"time": time.time(), "text": text}
        for name, value in (
            ("database", database), ("version", version), ("step", step), ("steps", steps),
            ("done", done), ("total", total), ("unit", unit), ("left_s", left_s), ("size_bytes", size_bytes),
        ):  # fmt: skip
            if value is not None:
                event[name] = value
        line = json.dumps(event) + "\n"
        with self._lock, suppress(OSError):
            # The file lies in the job's own 0700 folder, which the controller made before it started the job.
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)


class Control:
    """Ends a job whose controller has gone away, or that was asked to stop.

    The controller touches the lease file at each poll. A thread watches its age; when it is older than the lease, or
    somebody calls :meth:`request`, the callbacks run (cancel the statement in hand) and :meth:`check` raises.
    """

    def __init__(self, lease_path: str | None = None, lease_seconds: float = 60.0, interval: float = 1.0) -> None:
        self._lease_path = lease_path
        self._lease_seconds = lease_seconds
        self._interval = interval
        self._reason: str | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def reason(self) -> str | None:
        """Why the job has to end, or None."""
        return self._reason

    def start(self) -> Control:
        """Watch the lease in a thread of its own."""
        if self._lease_path and self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="pgops-lease", daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """End the watch."""
        self._ended.set()

    def request(self, reason: str) -> None:
        """Ask the job to end; the first reason stays."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def end_after(self, seconds: float) -> None:
        """Ask the job to end when its time is over. :param seconds: 0 for never."""
        if seconds > 0:
            timer = threading.Timer(seconds, self.request, [f"its time of {seconds:g} s is over"])
            timer.daemon = True
            timer.start()

    def on_interrupt(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Run ``callback`` in the watching thread when the job has to end.

        :return: a function that takes the callback back.
        """
        with self._lock:
            self._callbacks.append(callback)

        def forget() -> None:
            with self._lock:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)

        return forget

    def check(self) -> None:
        """:raises Interrupted: the job has to end; call between statements and batches."""
        if self._reason is not None:
            raise Interrupted(f"Interrupted: {self._reason}.")

    def _watch(self) -> None:
        path = self._lease_path
        renewed, clock_then = 0.0, 0.0
        while path and not self._ended.wait(self._interval):
            stop_path = path + ".stop"
            try:
                with open(stop_path, encoding="utf-8") as stream:
                    by = stream.read().strip()
            except FileNotFoundError:
                pass
            else:
                self.request(f"{by} asked it to stop" if by else "the controller was interrupted (Ctrl-C)")
                return
            try:
                renewal = os.stat(path).st_mtime
            except OSError:
                self.request("the job's folder is gone")
                return
            # The file has the time of the wall clock; by how much that was set meanwhile, the other clock tells.
            clock = time.time() - time.monotonic()
            if renewal != renewed:
                renewed, clock_then = renewal, clock
            age = time.time() - renewal - (clock - clock_then)
            if age > self._lease_seconds:
                self.request(f"the controller has not been heard of for {int(age)} s (pgops_lease)")
                return
