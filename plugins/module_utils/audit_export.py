# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The whole chain of a database in a file that ``audit_verifier.py`` checks without the database."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import IO, Any

import psycopg2.extras
from ansible_collections.whitecross.pgops.plugins.module_utils import audit_verifier, backup_store, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


def head(conn: Connection) -> dict[str, Any]:
    """:return: database, cluster, checkpoint and what protects the audit, as the verifier takes it.

    :raises PgopsError: there is no audit.
    """
    with conn.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        try:
            return audit_verifier.head_of(cursor)
        except audit_verifier.CannotLook as fault:
            raise PgopsError(
                f"Database {conn.info.dbname} cannot be audited: {fault}.", database=conn.info.dbname
            ) from None


def write(
    conn: Connection, path: str, upto: int | None = None, place: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Write the chain in one snapshot: 0600, ``.partial``, fsync, rename.

    :param upto: the last row; all of them where it is not given.
    :param place: ``environment`` and ``host`` as the inventory has them, which the database does not know.
    :return: ``path``, ``rows``, ``first`` and ``last`` number, ``sha256``.
    :raises PgopsError: there is no audit. :raises OSError: the file cannot be written.
    """
    ledger.schema_version(conn)
    partial = f"{path}{backup_store.PARTIAL}"
    numbers: list[int] = []
    execute(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        told = {"format": 1, "kind": "pgops.audit", "exported_at": _now(), **(place or {}), **head(conn), "upto": upto}
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            written = _Hashed(file)
            written.line(told)
            count = _write_rows(conn, written, numbers, upto)
            written.line({"end": count, "sha256": written.digest.hexdigest()})
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        backup_store.sync_folder(os.path.dirname(os.path.abspath(path)))
    finally:
        if not conn.closed:
            execute(conn, "ROLLBACK")
        with suppress(OSError):
            os.unlink(partial)  # it is there only where something failed
    first, last = numbers or (None, None)
    return {"path": path, "rows": count, "first": first, "last": last, "sha256": backup_store.hash_file(path)}


class _Hashed:
    """Lines of JSON, and the sha256 of those that were written."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def line(self, value: Mapping[str, Any]) -> None:
        text = _ENCODE(value) + "\n"
        self.digest.update(text.encode())
        self._file.write(text)


def _write_rows(conn: Connection, file: _Hashed, numbers: list[int], upto: int | None) -> int:
    count, last = 0, 0
    for row in rows(conn):
        if upto is not None and int(row["seq"]) > upto:
            break
        file.line(row)
        count, last = count + 1, int(row["seq"])
        if count == 1:
            numbers.append(last)
    if count:
        numbers.append(last)
    return count


def rows(conn: Connection) -> Iterator[Mapping[str, Any]]:
    """:return: the chain, oldest first, in the transaction in hand; not all of it at once."""
    # psycopg2 takes a session in autocommit for one without a transaction; held or not, it goes with the transaction's end.
    with conn.cursor("pgops_audit_export", withhold=True) as cursor:
        cursor.itersize = 10000
        cursor.execute(audit_verifier.ROWS)
        for values in cursor:
            yield dict(zip(audit_verifier.COLUMNS, values))


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
