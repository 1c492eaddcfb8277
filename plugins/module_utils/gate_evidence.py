# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What lies beside the backups and decides whether a run may apply: rehearsals of the same SQL, and the backup that a run goes on with."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

FOLDER = "rehearsals"
FORMAT = 1
_NAME = re.compile(r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}(-[0-9a-f]{8})?\.json$")
# So many are read, the newest first; each version that is edited and rehearsed again leaves one.
LOOKED_BACK = 50


def newest_rehearsal(
    directory: str, environment: str, host: str, database: str, wanted: Mapping[str, str]
) -> dict[str, Any] | None:
    """:param directory: of the backups.
    :param host: the inventory's name of it; another one's database of the same name has other data, in a store that both write to.
    :param wanted: version -> checksum of its rendered SQL, of all that is pending.
    :return: the newest rehearsal of exactly this SQL for this database, whether it ended well or not; None where there is none."""
    folder = os.path.join(backup_store.database_folder(directory, database), FOLDER)
    try:
        names = sorted((name for name in os.listdir(folder) if _NAME.match(name)), reverse=True)
    except OSError:
        return None
    found: list[dict[str, Any]] = []
    for name in names[:LOOKED_BACK]:
        try:
            with open(os.path.join(folder, name), "rb") as stream:
                document = json.loads(stream.read())
        except (OSError, ValueError):
            continue
        if is_of(document, environment, host, database, wanted):
            found.append(dict(document))
    # A run that goes on rehearses anew under its old id.
    return max(found, key=lambda one: (str(one.get("at")), str(one.get("id"))), default=None)


def is_of(document: Any, environment: str, host: str, database: str, wanted: Mapping[str, str]) -> bool:
    """:return: whether something is a rehearsal of this SQL."""
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        return False
    checksums = document.get("checksums")
    if not isinstance(document.get("forecast") or {}, Mapping) or not isinstance(document.get("steps") or [], list):
        return False
    return (
        document.get("environment") == environment
        and document.get("host") == host
        and document.get("database") == database
        and isinstance(checksums, Mapping)
        and bool(wanted)
        and all(checksums.get(version) == checksum for version, checksum in wanted.items())
    )


def kept_backup(path: str, manifest_sha256: str | None) -> dict[str, Any]:
    """Look whether the backup that a run has made is still what it was; its files are not read, only their names and sizes.

    :param manifest_sha256: as the run has recorded it.
    :return: ``path``, and ``why`` it does not hold any more, as the end of a sentence; None where it does.
    """
    why = None
    try:
        backup = backup_store.read_backup(path)
        wrong = backup_store.differing_files(backup)
        if manifest_sha256 and backup.manifest_sha256 != manifest_sha256:
            why = "has another manifest than the run has recorded"
        elif not backup.proved:
            why = "has no proof any more"
        elif wrong:
            why = f"is damaged: {min(wrong)} {wrong[min(wrong)]}"
    except PgopsError as error:
        why = f"cannot be read: {error.message.rstrip('.')}"
    return {"path": path, "why": why}
