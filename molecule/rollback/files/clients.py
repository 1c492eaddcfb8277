#!/usr/bin/python3
# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Eight clients that write and connect again whenever they are thrown out; each write is a line of the log, failed ones too."""

import json
import os
import signal
import threading
import time

import psycopg2

LOG = "/var/log/molecule-clients.jsonl"
ended = threading.Event()
guard = threading.Lock()


def work(number, log):
    conn = None
    turn = 0
    while not ended.is_set():
        turn += 1
        code, began, error = f"client-{number}-{turn}", time.time(), None
        try:
            if conn is None or conn.closed:
                conn = psycopg2.connect(
                    host="127.0.0.1", dbname="white_cross", user="white_cross_app", passfile="/etc/pgops/passfile",
                    connect_timeout=10, application_name="molecule clients",
                )  # fmt: skip
            with conn, conn.cursor() as cursor:
                cursor.execute("INSERT INTO districts (name, code) VALUES ('written by a client', %s)", (code,))
        except psycopg2.Error as failed:
            error = f"{failed.pgcode} {str(failed).strip()}"
        with guard:
            log.write(json.dumps({"at": began, "seconds": time.time() - began, "code": code, "error": error}) + "\n")
        ended.wait(0.1)


def main():
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    # Root's password file belongs to root, as which systemd runs this.
    os.umask(0o022)
    with open(LOG, "w", encoding="utf-8", buffering=1) as log:
        threads = [threading.Thread(target=work, args=(number, log)) for number in range(8)]
        for thread in threads:
            thread.start()
        while not ended.wait(1):
            pass
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
