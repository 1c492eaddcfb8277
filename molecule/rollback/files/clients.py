#!/usr/bin/python3
# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Eight clients that write; what each write is called is in the log, so that it can be looked for."""

import working_clients


def write(cursor, number, turn, line):
    line["code"] = f"client-{number}-{turn}"
    cursor.execute("INSERT INTO districts (name, code) VALUES ('written by a client', %s)", (line["code"],))


if __name__ == "__main__":
    working_clients.run(8, write, pause=0.1)
