# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Four clients of an application; one line a transaction: how it ended, and in how many milliseconds."""

import random
import threading
import time

import psycopg2

LOG = "/var/lib/postgresql/clients.log"
TRANSACTIONS = (
    "INSERT INTO rooms (name) VALUES ('a room')",
    "UPDATE rooms SET name = 'another' WHERE id = %(id)s",
    "SELECT name FROM rooms WHERE id = %(id)s",
    "DELETE FROM rooms WHERE id = %(id)s",
)


def work(log):
    conn = psycopg2.connect(dbname="white_cross", host="/var/run/postgresql", application_name="clients")
    conn.autocommit = True
    with conn.cursor() as cursor:
        while True:
            begun = time.monotonic()
            try:
                cursor.execute(random.choice(TRANSACTIONS), {"id": random.randint(1, 2000)})
                ended = "ok"
            except psycopg2.Error as error:
                ended = f"failed {error.pgcode}"
                if conn.closed:
                    raise
            finally:
                log.write(f"{time.time():.3f} {ended} {1000 * (time.monotonic() - begun):.0f}\n")
            time.sleep(0.01)


with open(LOG, "a", buffering=1, encoding="ascii") as log:
    clients = [threading.Thread(target=work, args=(log,)) for _ in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
