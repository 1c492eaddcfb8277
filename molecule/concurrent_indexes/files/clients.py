#!/usr/bin/python3
# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Four clients that read and write the tables whose indexes are built."""

import working_clients


def visit(cursor, number, turn, line):
    pupil = 1 + (turn * 7919 + number * 50021) % 200000
    cursor.execute("UPDATE pupils SET changed = changed + 1 WHERE id = %s", (pupil,))
    cursor.execute("INSERT INTO visits (pupil, minutes) VALUES (%s, %s)", (pupil, number))
    cursor.execute("SELECT count(*) FROM doses WHERE id BETWEEN %s AND %s", (pupil, pupil + 50))
    cursor.fetchall()


if __name__ == "__main__":
    working_clients.run(4, visit, pause=0.02, options="-c statement_timeout=10s")
