#!/usr/bin/python3
# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill_module.py restore|swap: kill -9 the process that goes back, in the middle of its restore or under its fence."""

import os
import re
import signal
import subprocess
import sys
import time

import psycopg2

RESTORES = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname LIKE 'white\\_cross\\_restore\\_%' AND application_name LIKE 'pgops %'
               AND backend_type = 'client backend' AND query ~ '^(COPY|CREATE INDEX|ALTER TABLE)')
"""
VERIFIED = "SELECT EXISTS (SELECT FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE '%\"state\": \"verified\"%')"
FENCED = "SELECT NOT datallowconn FROM pg_database WHERE datname = 'white_cross'"
# The module's own session: it is in the maintenance database all the while.
PORTS = (
    "SELECT array_agg(client_port) FROM pg_stat_activity WHERE datname = 'postgres' AND application_name LIKE 'pgops %'"
)
# Whoever started this asks for its end.
PATIENCE_S = 120


def connect(database):
    conn = psycopg2.connect(
        host="127.0.0.1", dbname=database, user="white_cross_restore", passfile="/etc/pgops/passfile",
        application_name="molecule killer",
    )  # fmt: skip
    conn.autocommit = True
    return conn


def ask(conn, statement):
    with conn.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def wait_for(conn, statement):
    until = time.monotonic() + PATIENCE_S
    while not ask(conn, statement):
        if time.monotonic() > until:
            sys.exit(f"waited {PATIENCE_S} s in vain for: {statement}")
        time.sleep(0.002)  # what is waited for may be over after some ten milliseconds


def kill_module(conn):
    ports = ask(conn, PORTS)
    sockets = subprocess.run(
        ["ss", "-Htnp", "dport = :5432"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    pids = {
        int(re.search(r"pid=(\d+)", line)[1]) for line in sockets if int(line.split()[3].rpartition(":")[2]) in ports
    }
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert pids, sockets
    wait_for(conn, PORTS.replace("array_agg(client_port)", "count(*) = 0"))


def main():
    conn = connect("postgres")
    if sys.argv[1] == "restore":
        wait_for(conn, RESTORES)
        kill_module(conn)
        return
    wait_for(conn, VERIFIED)
    held = connect("white_cross")
    backend = ask(held, "SELECT pg_backend_pid()")
    # A session that does not end: the fence stays up until we have seen it.
    os.kill(backend, signal.SIGSTOP)
    try:
        wait_for(conn, FENCED)
        kill_module(conn)
    finally:
        os.kill(backend, signal.SIGCONT)


if __name__ == "__main__":
    main()
