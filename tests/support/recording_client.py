# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A client that writes whatever happens, and keeps book of what the server has confirmed: none of that may be lost."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Any, Self

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

_BOOK = "CREATE TABLE public.client_book (n bigint PRIMARY KEY)"
# Rows of a table that is migrated, as many as it goes through in turn.
FIRST, COUNT = 101, 50


class RecordingClient:
    """One session after another, each transaction with the next number: as a row of its own, and in a row of `table`.

    :param table: has an integer column ``id`` and a text column ``name``, and rows from FIRST on.
    """

    def __init__(self, target: Any, table: str | None = None, *, pause_s: float = 0.01) -> None:
        self.confirmed: list[int] = []
        # Sent, and no answer came: either is right.
        self.in_doubt: set[int] = set()
        self._target, self._table, self._pause = target, table, pause_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        with closing(connect(self._target, application_name="a client")) as conn:
            execute(conn, _BOOK)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join(timeout=60)

    def nothing_is_lost(self, target: Any = None) -> None:
        """Ends its work. What was confirmed is there, and nothing that was never sent; its own table goes then.

        :param target: where to look, if that is another server by now.
        """
        self.__exit__()
        assert not self._thread.is_alive(), "the client hangs"
        assert self.confirmed, "the client was never heard"
        with closing(connect(target or self._target, application_name="the client's auditor")) as conn:
            there = {int(row["n"]) for row in fetch_all(conn, "SELECT n FROM public.client_book")}
            lost = sorted(set(self.confirmed) - there)
            assert not lost, f"{len(lost)} committed rows are lost, the first {lost[0]} of {len(self.confirmed)}"
            unknown = sorted(there - set(self.confirmed) - self.in_doubt)
            assert not unknown, f"{len(unknown)} rows were refused and are there, the first {unknown[0]}"
            if self._table:
                self._compare(conn, there)
            execute(conn, "DROP TABLE public.client_book")

    def _compare(self, conn: Any, there: set[int]) -> None:
        last: dict[int, str] = {}
        for number in sorted(there):
            last[_row(number)] = f"client {number}"
        found = fetch_all(
            conn, f"SELECT id, name FROM {self._table} WHERE id BETWEEN %s AND %s", (FIRST, FIRST + COUNT - 1)
        )
        names = {int(row["id"]): row["name"] for row in found}
        other = {number: names.get(number) for number in last if names.get(number) != last[number]}
        assert not other, f"of {len(other)} rows not the last value is there: {other}"

    def _work(self) -> None:
        conn: Any = None
        number = 0
        while not self._ended.wait(self._pause):
            number += 1
            try:
                if conn is None or conn.closed:
                    conn = connect(self._target, application_name="a client")
                self._write(conn, number)
            except (psycopg2.Error, PgopsError):
                # No server at this moment: the next look is as good.
                time.sleep(0.05)
        if conn is not None:
            conn.close()

    def _write(self, conn: Any, number: int) -> None:
        statements = [f"INSERT INTO public.client_book VALUES ({number})"]
        if self._table:
            statements.append(f"UPDATE {self._table} SET name = 'client {number}' WHERE id = {_row(number)}")
        try:
            with conn.cursor() as cursor:
                cursor.execute("; ".join(["BEGIN", *statements, "COMMIT"]))
        except psycopg2.Error as exc:
            if exc.pgcode is None or conn.closed:
                self.in_doubt.add(number)
                conn.close()
            else:
                execute(conn, "ROLLBACK")
            raise
        self.confirmed.append(number)


def _row(number: int) -> int:
    return FIRST + number % COUNT
