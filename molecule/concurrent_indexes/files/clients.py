#!/usr/bin/python3
# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Four clients that read and write until they are asked to end; each transaction is a line of the log, failed ones too."""

import json
import os
import signal
import threading
import time

import psycopg2

LOG = "/var/log/molecule-clients.jsonl"
PATIENCE = "10s"
ended = threading.Event()
guard = threading.Lock()


def work(number, log):
    conn = None
    turn = 0
    while not ended.is_set():
        turn += 1
        pupil = 1 + (turn * 7919 + number * 50021) % 200000
        began, error = time.time(), None
        try:
            if conn is None or conn.closed:
                conn = psycopg2.connect(
                    host="127.0.0.1", dbname="white_cross", user="white_cross_app", passfile="/etc/pgops/passfile",
                    options=f"-c statement_timeout={PATIENCE}", application_name="molecule clients",
                )  # fmt: skip
            with conn, conn.cursor() as cursor:
                cursor.execute("UPDATE pupils SET changed = changed + 1 WHERE id = %s", (pupil,))
                cursor.execute("INSERT INTO visits (pupil, minutes) VALUES (%s, %s)", (pupil, number))
                cursor.execute("SELECT count(*) FROM doses WHERE id BETWEEN %s AND %s", (pupil, pupil + 50))
                cursor.fetchall()
        except psycopg2.Error as failed:
            error = f"{failed.pgcode} {type(failed).__name__}"
        with guard:
            log.write(json.dumps({"at": began, "seconds": time.time() - began, "error": error}) + "\n")
        ended.wait(0.02)


def main():
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    # Root's password file belongs to root, as which systemd runs this.
    os.umask(0o022)
    with open(LOG, "w", encoding="ascii", buffering=1) as log:
        threads = [threading.Thread(target=work, args=(number, log)) for number in range(4)]
        for thread in threads:
            thread.start()
        while not ended.wait(1):
            pass
        for thread in threads:
            thread.join()
        log.write(json.dumps({"at": time.time(), "seconds": 0, "error": None, "end": True}) + "\n")


if __name__ == "__main__":
    main()
