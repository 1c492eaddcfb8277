# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""How long the audit takes: 20 writers with 500 rows each into one chain, and a million rows checked offline and in the database.

    PYTHONPATH=collections:tests .venv/bin/python benchmarks/audit.py

ROWS, WRITERS and EACH make it smaller. Exits with 1 where a chain does not hold, or a million rows take a minute or more.
"""

from __future__ import annotations

import hashlib
import io
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import audit_export, audit_verifier, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from support.engine import target_of
from support.server import OWNER, discard, embedded_server

ROWS = int(os.environ.get("ROWS", "1000000"))
WRITERS = int(os.environ.get("WRITERS", "20"))
EACH = int(os.environ.get("EACH", "500"))
LIMIT_S = 60.0


def write(target: Any) -> None:
    with closing(connect(target, application_name="benchmark")) as conn:
        for number in range(EACH):
            ledger.append_audit(conn, "tested", run_id="benchmark", version="20260101000001", detail={"n": number})


def many_writers(target: Any) -> float:
    threads = [threading.Thread(target=write, args=(target,)) for _ in range(WRITERS)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - started


def fill(conn: Any, count: int) -> None:
    """Rows as the engine writes them, by COPY; a million by hand would take longer than what is measured."""
    head = ledger.audit_head(conn) or {"seq": 0, "hash": audit_verifier.GENESIS}
    seq, previous = int(head["seq"]), str(head["hash"])
    text = io.StringIO()
    for number in range(seq + 1, seq + count + 1):
        detail = f'{{"checksum": "{hashlib.sha256(str(number).encode()).hexdigest()}", "duration_s": {number % 97}}}'
        row = (
            number,
            "2026-01-01T00:00:00.000000Z",
            "20260101T000000Z-000001",
            "applied",
            "20260101000001",
            "migrator",
            detail,
            previous,
        )
        previous = audit_verifier.entry_hash(*row)
        text.write("\t".join(map(str, (*row, previous))) + "\n")
    text.seek(0)
    with conn.cursor() as cursor:
        cursor.copy_expert("COPY pgops.audit FROM STDIN", text)


def verified(*arguments: str) -> tuple[float, float, int]:
    """:return: seconds of the auditor's own command, of its processor time, and its exit code."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, audit_verifier.__file__, *arguments], capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 3):
        print(done.stdout, done.stderr)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, spent, done.returncode


def main() -> int:
    server = embedded_server()
    try:
        server.create_database("audit", OWNER)
        target = target_of(server, "audit")
        with closing(connect(target, application_name="benchmark")) as conn, tempfile.TemporaryDirectory() as folder:
            ledger.ensure(conn)
            took = many_writers(target)
            whole = ledger.broken_link(ledger.audit_rows(conn)) is None
            print(
                f"{WRITERS} writers x {EACH} rows: {took:.1f} s, {WRITERS * EACH / took:.0f} rows/s, {'one chain' if whole else 'BROKEN'}"
            )
            fill(conn, max(0, ROWS - WRITERS * EACH))
            export = str(Path(folder) / "audit.jsonl")
            started = time.monotonic()
            rows = audit_export.write(conn, export)["rows"]
            print(f"export of {rows} rows: {time.monotonic() - started:.1f} s")
            offline, spent, code = verified("--export", export)
            print(
                f"offline check: {offline:.1f} s ({spent:.1f} s of processor time), {rows / offline:.0f} rows/s, exit {code}"
            )
            live, spent, live_code = verified(
                "--dsn", f"host={server.host} port={server.port} dbname=audit user=postgres passfile={server.passfile}"
            )
            print(
                f"check in the database: {live:.1f} s ({spent:.1f} s of processor time), {rows / live:.0f} rows/s, exit {live_code}"
            )
            good = whole and (code, live_code) == (3, 3) and max(offline, live) < LIMIT_S
            return 0 if good else 1
    finally:
        discard(server)


if __name__ == "__main__":
    sys.exit(main())
