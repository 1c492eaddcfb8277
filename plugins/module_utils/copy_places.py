# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Places that backups are copied to: a mounted folder, a host over SSH, an object store.

Each sends under a name that nobody takes for a backup, reads back what has arrived, and publishes by one last step: a rename, or, where
there is none, the manifest behind everything else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.copy_folder import Folder
from ansible_collections.whitecross.pgops.plugins.module_utils.copy_place import Place
from ansible_collections.whitecross.pgops.plugins.module_utils.copy_remote import ObjectStore, OverSsh
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

EXAMPLES = "{path: /mnt/second}, {rsync: 'backup@vault.example.org:/srv/backups'} or {rclone: 'vault:bucket/prefix'}"
# What each kind of place takes beside its own key.
KINDS: dict[str, frozenset[str]] = {
    "path": frozenset({"same_file_system"}),
    "rsync": frozenset({"ssh_config"}),
    "rclone": frozenset({"config"}),
}
_OVER_SSH = re.compile(r"(?P<host>(?:[A-Za-z0-9_][\w.-]*@)?[A-Za-z0-9_][\w.-]*):(?P<path>/[^\x00-\x1f]*)")
_REMOTE = re.compile(r"(?:[A-Za-z0-9_][\w.+ -]*|:[a-z0-9]+):[^\x00-\x1f]*")


def place_of(number: int, given: Any) -> Place:
    """:return: the place that an entry of ``backup_copies`` names. :raises PgopsError: it names none."""
    kinds = [kind for kind in KINDS if isinstance(given, Mapping) and given.get(kind)]
    if len(kinds) != 1:
        raise PgopsError(f"Place {number} of backup_copies is none.", hint=f"It is one of {EXAMPLES}.")
    kind = kinds[0]
    strange = sorted(set(given) - {kind} - KINDS[kind])
    if strange:
        raise PgopsError(
            f"Place {number} of backup_copies has {strange[0]}, which {kind} does not take.",
            hint=f"Beside {kind} it takes {', '.join(sorted(KINDS[kind]))}.",
        )
    value = str(given[kind])
    if kind == "path":
        if not os.path.isabs(value):
            raise PgopsError(f"Place {number} of backup_copies is {value}, which is no whole path.")
        return Folder(os.path.normpath(value), given.get("same_file_system") in (True, "true", "yes", "True"))
    if kind == "rsync":
        match = _OVER_SSH.fullmatch(value)
        if match is None:
            raise PgopsError(f"Place {number} of backup_copies is {value}, which is not [user@]host:/whole/path.")
        return OverSsh(match["host"], match["path"].rstrip("/") or "/", given.get("ssh_config") or None)
    if value.startswith(":") and "," in value.partition("/")[0]:
        # It would be readable on the command line, and may hold a key.
        raise PgopsError(
            f"Place {number} of backup_copies holds options of its remote.",
            hint="Declare the remote in a file of rclone's (rclone config), and name that with config.",
        )
    if not _REMOTE.fullmatch(value):
        raise PgopsError(f"Place {number} of backup_copies is {value}, which is not remote:bucket/prefix.")
    return ObjectStore(value.rstrip("/"), given.get("config") or None)
