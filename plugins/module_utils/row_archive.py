# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files of rows that leave a table: a line of JSON each, 0600, whole or not at all, encrypted where keys are given."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, encryption, export_folder
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

SUFFIX = ".jsonl"


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
        for part in (self._directory, os.path.dirname(folder), folder):
            _make(part)
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
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as exc:
        raise PgopsError(
            f"The folder {folder} for the archive cannot be made: {exc.strerror}; nothing was deleted without it.",
            hint="Set retention_archive_directory to a folder that the connecting user may write, or make it.",
        ) from None
