# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pins: a person's word, by name and with a reason, that a backup stays whatever the policy says.

They lie in the backup's own folder in ``pins.json``, with those that were released. A lock of its own keeps a pin and the deletion
of the same backup apart; the lock of all backups would let no hold be placed while one is made.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

FORMAT = 1
LOCK = ".pins.lock"
# Who has it writes a file or renames a folder, and lets go.
WAIT_S = 2.0
POLL_S = 0.05  # a lock that is waited for would know no end


def read(path: str) -> dict[str, Any]:
    """Read the pins of a backup.

    :param path: the backup's folder.
    :return: ``pins``, each with who, when (UTC) and reason, and ``released``, each with by whom and when as well.
    :raises PgopsError: there is a file and it cannot be read; then nobody knows that the backup may go.
    """
    file = os.path.join(path, backup_store.PINS)
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            found = json.loads(stream.read())
    except FileNotFoundError:
        return {"format": FORMAT, "pins": [], "released": []}
    except OSError as exc:
        raise PgopsError(f"The pins {file} cannot be read: {exc.strerror}.") from None
    except ValueError:
        found = None
    if not _is_sound(found):
        raise PgopsError(
            f"The pins {file} are damaged.",
            hint="Look at the file, and put it right or move it away; until then the backup stays.",
        )
    return dict(found)


def _is_sound(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and found.get("format") == FORMAT
        and all(isinstance(found.get(name), list) for name in ("pins", "released"))
        and all(isinstance(pin, dict) and {"who", "when", "reason"} <= set(pin) for pin in found["pins"])
    )


@contextlib.contextmanager
def held(folder: str) -> Iterator[None]:
    """Keep pins and deletions of a database's backups apart for a moment; free again as soon as the process is gone.

    A file is locked and not the backup's folder: of a folder, NFS locks nothing.

    :param folder: of the database.
    :raises PgopsError: another process does not let go of it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(os.path.join(folder, LOCK), flags, 0o600)
    try:
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as exc:
                if exc.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
            if time.monotonic() > deadline:
                raise PgopsError(
                    f"A backup in {folder} is being pinned, released or deleted by another process; nothing was done.",
                    hint="Run the same command again.",
                    extra={"locked": True},
                )
            time.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)


def change(
    directory: str,
    databases: Sequence[str],
    name: str,
    reason: str,
    *,
    release: bool,
    who: str,
    check_only: bool = False,
    now: datetime | None = None,
) -> dict[str, dict[str, Any]]:
    """Pin a backup, or release it.

    :param name: its id, the name of its folder.
    :param reason: why it is to stay; of a release which of its pins, where it has more than one.
    :param release: take a pin away instead.
    :param check_only: only look.
    :return: by database ``id``, ``path``, ``pins`` that it has now, and ``changed``; only of the one that has the backup.
    :raises PgopsError: no such backup or more than one, no reason, no such pin, or it cannot be written.
    """
    if not release and not reason.strip():
        raise PgopsError(
            f"No reason is given why {name} is to stay; nothing was pinned.",
            hint="Give it with -e \"backup_pin_reason='WHY'\".",
        )
    database, path = _find(directory, databases, name)
    moment = (now or datetime.now(timezone.utc)).astimezone(timezone.utc).isoformat(timespec="seconds")
    # Who only looks takes no lock.
    with contextlib.nullcontext() if check_only else held(os.path.dirname(path)):
        if not os.path.isdir(path):
            raise PgopsError(f"The backup {path} is gone: it was deleted a moment ago.", database=database)
        before = read(path)
        if release:
            after = _released(before, name, reason, {"released_by": who, "released_at": moment})
        else:
            pin = {"who": who, "when": moment, "reason": reason.strip()}
            known = any(one["reason"] == pin["reason"] for one in before["pins"])
            after = before if known else {**before, "pins": [*before["pins"], pin]}
        if after != before and not check_only:
            _write(path, after)
    return {database: {"id": name, "path": path, "pins": after["pins"], "changed": after != before}}


def _write(path: str, pins: Mapping[str, Any]) -> None:
    try:
        backup_store.write_json(os.path.join(path, backup_store.PINS), dict(pins))
    except OSError as exc:
        raise PgopsError(
            f"The pins of {path} cannot be written, they are as they were: {exc.strerror}.",
            hint="Free space there, or run it as the user that owns the folder.",
            extra={"errno": exc.errno},
        ) from None


def _released(before: Mapping[str, Any], name: str, reason: str, by: Mapping[str, str]) -> dict[str, Any]:
    wanted = reason.strip()
    going = [pin for pin in before["pins"] if not wanted or pin["reason"] == wanted]
    if not going:
        told = f"has no pin with the reason {wanted!r}" if before["pins"] else "is not pinned"
        raise PgopsError(
            f"{name} {told}; nothing was released.",
            hint="See the pins of each backup with backup_list.yml.",
        )
    if len(going) > 1:
        reasons = "; ".join(f"{pin['reason']} ({pin['who']})" for pin in going)
        raise PgopsError(
            f"{name} has {len(going)} pins: {reasons}; nothing was released.",
            hint="Say which one with -e \"backup_pin_reason='ITS REASON'\".",
        )
    return {
        **before,
        "pins": [pin for pin in before["pins"] if pin not in going],
        "released": [*before["released"], {**going[0], **by}],
    }


def _find(directory: str, databases: Sequence[str], name: str) -> tuple[str, str]:
    """:return: the database that has this backup, and its folder."""
    if name != os.path.basename(name) or name in ("", ".", "..") or name.endswith(backup_store.PARTIAL):
        raise PgopsError(
            f"{name!r} is no id of a backup; nothing was changed.", hint="The ids are listed by backup_list.yml."
        )
    known: dict[str, str] = {}
    there = []
    for database in databases:
        folder = backup_store.database_folder(directory, database)
        for entry in os.listdir(folder) if os.path.isdir(folder) else []:
            path = os.path.join(folder, entry)
            if os.path.isdir(path) and not os.path.islink(path) and not entry.endswith(backup_store.PARTIAL):
                known[entry] = path
                if entry == name:
                    there.append((database, path))
    if len(there) > 1:
        raise PgopsError(
            f"{' and '.join(database for database, _path in there)} each have a backup {name}; nothing was changed.",
            hint="Say which one with -e pgops_database=NAME.",
        )
    if not there:
        near = difflib.get_close_matches(name, known, 1)
        raise PgopsError(
            f"There is no backup {name} of {', '.join(databases)} in {directory}"
            + (f"; the nearest is {near[0]}." if near else "."),
            hint="The ids are listed by backup_list.yml.",
        )
    return there[0]
