# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files of rows that leave a table: a line of JSON each, 0600, whole or not at all, encrypted where keys are given.

Whole numbers, booleans and texts are those of JSON; every other value is a text, as PostgreSQL writes it: a number keeps its zeros, JSON its
repeated keys and its spaces, an array its bounds. ``docs/examples/bring_back.sql`` reads that.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, encryption, export_folder
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from psycopg2 import sql

SUFFIX = ".jsonl"
# What a session may write in another way, so that what is read back is the same wherever it is read.
WRITTEN_AS = (
    "SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL TimeZone = 'UTC'; SET LOCAL IntervalStyle = 'postgres'; "
    "SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 3"
)
_COLUMNS = """
SELECT a.attname::text AS name, t.typname IN ('int2', 'int4', 'int8', 'bool', 'text', 'varchar') AS plain
  FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
 WHERE a.attrelid = pg_catalog.to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""


def line_of(conn: Connection, table: sql.Identifier, alias: str) -> sql.Composable:
    """:param alias: by which the query, which has parameters, names the table.
    :return: an expression that gives a row as a line of an archive, under the settings of :data:`WRITTEN_AS`."""
    columns = []
    for row in fetch_all(conn, _COLUMNS, (table.as_string(conn),)):
        name = row["name"].replace("%", "%%")  # the query has parameters
        as_text = sql.SQL("" if row["plain"] else "::text")
        columns.append(sql.SQL("{}{} AS {}").format(sql.Identifier(alias, name), as_text, sql.Identifier(name)))
    return sql.SQL("(SELECT pg_catalog.row_to_json(line)::text FROM (SELECT {}) AS line)").format(
        sql.SQL(", ").join(columns)
    )


class Archive:
    """The files of one run."""

    def __init__(self, directory: str, database: str, run_id: str, recipients: list[str]) -> None:
        """:param directory: made where it is missing, 0700.
        :param recipients: public keys, of which each one's private key reads the rows; none for plain files.
        :raises PgopsError: no recipient, or age is not there."""
        self._directory, self._run_id = directory, run_id
        self._database = export_folder.file_name(database)
        self._recipients = encryption.usable_recipients(recipients) if recipients else []
        self._number = 0

    def write(self, schema: str, table: str, rows: Sequence[str]) -> dict[str, Any]:
        """Write the rows of a batch.

        :param rows: each as JSON on one line.
        :return: ``file``, ``sha256`` of what is on the disk, ``rows``.
        :raises PgopsError: age failed. OSError: it could not be written; nothing is left of it.
        """
        folder = os.path.join(self._directory, self._database, export_folder.file_name(f"{schema}.{table}"))
        _make(folder)
        self._number += 1
        name = f"{export_folder.file_name(self._run_id)}-{self._number:05d}{SUFFIX}"
        path = os.path.join(folder, name + (encryption.SUFFIX if self._recipients else ""))
        data = "".join(f"{row}\n" for row in rows).encode()
        if self._recipients:
            data = encryption.encrypt(data, self._recipients)
        partial = path + backup_store.PARTIAL
        try:
            digest = backup_store.write_private(partial, data)
            os.rename(partial, path)
            backup_store.sync_folder(folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(partial)
            raise
        return {"file": path, "sha256": digest, "rows": len(rows)}

    def remove(self, written: Mapping[str, Any]) -> None:
        """Take back a file whose rows are still in their table."""
        with suppress(OSError):
            os.unlink(str(written["file"]))


def _make(folder: str) -> None:
    """Make a folder and what is missing above it, 0700, each durable: its rows are deleted next."""
    try:
        if os.path.isdir(folder):
            return
        above = os.path.dirname(folder) or "."
        _make(above)
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
            os.chmod(folder, 0o700)
        if not os.path.isdir(folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder)
        backup_store.sync_folder(above)
    except OSError as exc:
        raise PgopsError(
            f"The folder {folder} for the archive cannot be made: {exc.strerror}; nothing was deleted without it.",
            hint="Set retention_archive_directory to a folder that the connecting user may write, or make it.",
        ) from None
