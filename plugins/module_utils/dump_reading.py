# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read a dump to its last byte without restoring it: pg_restore writes it as SQL to nowhere.

It fails on a dump that was cut or lacks a data file, on which ``pg_restore --list`` returns 0 (fact 1). It finds no flipped bit
where the dump is not compressed.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import closing

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, encrypted_dump
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import (
    POLL_SECONDS,
    first_error,
    told_lines,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, client_tool, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control


def read_to_the_end(target: Target, backup: Backup, control: Control) -> None:
    """Read every entry of the dump with the scratch server's own pg_restore.

    :raises PgopsError: it cannot be read; its messages are in ``extra["client_output"]``, without rows.
    :raises Interrupted: asked to end; the reader is ended first.
    """
    database = backup.manifest["database"]
    with closing(connect(target.scratch(target.maintenance_database), application_name="pgops prove")) as conn:
        tool = client_tool(target, conn, "pg_restore")
    if not backup.encrypted:
        path = os.path.join(backup.path, backup_store.DUMP)
        code, lines = _read([tool, "--file=/dev/null", path], subprocess.DEVNULL, control)
    else:
        dump = encrypted_dump.Decryption(backup)
        try:
            path = dump.path
            arguments = [tool, "--file=/dev/null", f"--format={encrypted_dump.FORMAT}"]
            code, lines = _read(arguments, dump.reading, control)
            dump.finish(whole=code == 0)
        finally:
            dump.close()
        dump.refuse_failure()
    if code:
        raise PgopsError(
            f"{path} cannot be read to its end: {first_error(lines) or f'pg_restore ended with {code}'}.",
            database=database,
            hint="A file of the dump is damaged; take another backup.",
            extra={"client_output": lines, "client_exit": code},
        )


def _read(arguments: list[str], source: int, control: Control) -> tuple[int, list[str]]:
    """:return: how pg_restore ended, and what it said, without rows."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        reader = subprocess.Popen(
            arguments,
            stdin=source,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env={"PATH": os.defpath, "LC_ALL": "C"},
        )
        try:
            while _runs(reader):
                control.check()
        finally:
            if reader.poll() is None:
                reader.kill()
                reader.wait()
        said.seek(0)
        return reader.returncode, list(told_lines(said))


def _runs(reader: subprocess.Popen[bytes]) -> bool:
    try:
        reader.wait(timeout=POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False
