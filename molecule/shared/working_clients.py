# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that work until they are asked to end and connect again when they are thrown out; a line of the log for each transaction,
failed ones too."""

import json
import os
import signal
import threading
import time

import psycopg2

LOG = "/var/log/molecule-clients.jsonl"
ended = threading.Event()
guard = threading.Lock()


def work(number, log, transaction, pause, options):
    conn = None
    turn = 0
    while not ended.is_set():
        turn += 1
        line = {"at": time.time(), "error": None}
        try:
            if conn is None or conn.closed:
                conn = psycopg2.connect(
                    host="127.0.0.1", dbname="white_cross", user="white_cross_app", passfile="/etc/pgops/passfile",
                    connect_timeout=10, application_name="molecule clients", options=options,
                )  # fmt: skip
            with conn, conn.cursor() as cursor:
                transaction(cursor, number, turn, line)
        except psycopg2.Error as failed:
            line["error"] = f"{failed.pgcode} {str(failed).strip()}"
        with guard:
            log.write(json.dumps({**line, "seconds": time.time() - line["at"]}) + "\n")
        ended.wait(pause)


def run(clients, transaction, *, pause, options=""):
    """Let them work until SIGTERM.

    :param transaction: called with cursor, number of the client, number of its turn, and the line of the log, to which it may add.
    :param pause: seconds between two transactions of a client.
    :param options: settings of the session, as libpq takes them.
    """
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    # The tests read it as another user than root, as which systemd runs this.
    os.umask(0o022)
    with open(LOG, "w", encoding="utf-8", buffering=1) as log:
        threads = [
            threading.Thread(target=work, args=(number, log, transaction, pause, options)) for number in range(clients)
        ]
        for thread in threads:
            thread.start()
        while not ended.wait(1):
            pass
        for thread in threads:
            thread.join()
        log.write(json.dumps({"at": time.time(), "seconds": 0, "error": None, "end": True}) + "\n")
