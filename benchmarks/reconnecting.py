# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that connect again at once when they are thrown out, and know how long they had no answer."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import closing

import psycopg2
from support import server as servers

# A client that never pauses takes a core from the server.
PAUSE_S = 0.002
# A database that is away refuses at once; without a pause the refusals alone fill a core.
AGAIN_S = 0.001


class Client(multiprocessing.Process):
    """One client, in a process of its own: threads would wait for each other.

    :param statement: with ``%s`` where each execution takes a number of its own
    """

    def __init__(self, server: servers.Server, database: str, user: str, statement: str, number: int) -> None:
        super().__init__(daemon=True)
        self.server, self.database, self.user = server, database, user
        self.statement, self.number = statement, number
        self.counting, self.ended = multiprocessing.Event(), multiprocessing.Event()
        self._worst = multiprocessing.Value("d", 0.0)
        self._answered = multiprocessing.Value("l", 0)

    @property
    def worst(self) -> float:
        """The longest time between two answers since it is counting, in seconds."""
        return self._worst.value

    @property
    def answered(self) -> int:
        """How many statements were answered; each is a commit."""
        return self._answered.value

    def run(self) -> None:
        last, at = time.monotonic(), self.number * 1_000_000_000
        while not self.ended.is_set():
            try:
                with closing(self.server.connect(self.database, self.user)) as conn, conn.cursor() as cursor:
                    while not self.ended.is_set():
                        at += 1
                        cursor.execute(self.statement, (at,) if "%s" in self.statement else None)
                        self._answered.value += 1
                        moment = time.monotonic()
                        if self.counting.is_set():
                            self._worst.value = max(self._worst.value, moment - last)
                        last = moment
                        time.sleep(PAUSE_S)
            except psycopg2.Error:
                time.sleep(AGAIN_S)
