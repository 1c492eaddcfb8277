# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies of a backup in a second place: published there whole or not at all, and believed only once read back there.

``<place>/pre-migration/YYYY/MM/DD/<database>/<system identifier>/<backup>/``; where a backup has been copied to stands in its ``copies.json``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import posixpath
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Callable

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, cluster_backups
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.copy_place import Place
from ansible_collections.whitecross.pgops.plugins.module_utils.copy_places import place_of
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress

# How often a place is tried; what it has got by then stays there and is gone on with.
ATTEMPTS = 3
PAUSE_SECONDS = 2.0
TOLD = 5
# What bounds one place, and what bounds backup, proof and copies together.
PLACE, WHOLE = "backup_copies_timeout", "rollback_emergency_backup_timeout"
_WORD = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True)
class _Limit:
    """Until when a copy may take, on the monotonic clock, and the variable that says so."""

    end: float | None
    variable: str
    backup: Backup
    place: str
    control: Control

    def check(self) -> None:
        """:raises PgopsError: its time is over. Interrupted: the job has to end."""
        self.control.check()
        if self.end is not None and time.monotonic() > self.end:
            raise PgopsError(
                f"The copy of {self.backup.path} to {self.place} took longer than {self.variable}.",
                database=str(self.backup.manifest["database"]),
                hint=f"Raise {self.variable}, or copy it again: what is there already is gone on with where the place can.",
                extra={"reason": "timeout", "final": True},
            )


def refuse_places(places: Sequence[Any]) -> list[Place]:
    """:return: the places of ``backup_copies``. :raises PgopsError: one of them is none; nothing was copied anywhere."""
    return [place_of(number, given) for number, given in enumerate(places, 1)]


def location(backup: Backup) -> str:
    """Where below a place a backup lies: the purpose's own words, the day on which it was begun, database, cluster, name.

    Hosts of one run back up a database of one name in one second, so its name alone tells none of them from the others.

    :return: ``pre-migration/YYYY/MM/DD/<database>/<system identifier>/<name>``; a manual one lies below ``manual/``, one whose manifest
        tells no cluster right below its database.
    """
    above, name = posixpath.split(_older_location(backup))
    return posixpath.join(above, _WORD.sub("-", cluster_backups.cluster_of(backup.manifest)), name)


def _older_location(backup: Backup) -> str:
    """:return: where a copy lies that was made before the cluster was part of the path."""
    manifest = backup.manifest
    purpose = _WORD.sub("-", str(manifest.get("purpose") or "manual").replace("_", "-")).strip("-.") or "manual"
    if purpose.startswith("before-"):
        purpose = "pre-" + purpose[len("before-") :]
    begun = datetime.fromisoformat(str(manifest["started"])).astimezone(timezone.utc)
    database = os.path.basename(backup_store.database_folder("", str(manifest["database"])))
    return posixpath.join(purpose, begun.strftime("%Y/%m/%d"), database, os.path.basename(backup.path))


def would_be(backup: Backup, places: Sequence[Place]) -> list[str]:
    """:return: where the copies would lie."""
    known = {entry["path"]: entry for entry in read(backup.path)}
    return [place.whole(_below(place, backup, known)) for place in places]


def contents(backup: Backup) -> dict[str, dict[str, Any]]:
    """:return: size and sha256 of each file that a copy has; the manifest says those of the dump, its own and the proof's are read."""
    found = {name: dict(entry) for name, entry in backup.manifest["files"].items()}
    for name in (backup_store.MANIFEST, backup_store.PROOF):
        path = os.path.join(backup.path, name)
        if os.path.isfile(path):
            found[name] = {"bytes": os.path.getsize(path), "sha256": backup_store.hash_file(path)}
    return found


def copy(
    backup: Backup,
    places: list[Place],
    *,
    timeout: float,
    whole_timeout: float = 0,
    progress: Progress | None = None,
    control: Control | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Copy a backup to every place, read each copy back there, and write down where it is.

    A place that has it already is read back again and nothing is sent. One that fails does not keep it from the others.

    :param timeout: how long one place may take, in seconds.
    :param whole_timeout: how long all of it may take, in seconds, 0 for any number; a place that comes too late has no copy.
    :return: path, copies (those of ``copies.json``), made (places that it was sent to), not_copied (place, message, hint).
    :raises PgopsError: another run copies this backup, or it is damaged here. Interrupted: it was asked to end.
    """
    progress, control = progress or Progress(None), control or Control(None)
    database = str(backup.manifest["database"])
    end = time.monotonic() + whole_timeout if whole_timeout > 0 else None
    with only_one(backup):
        progress.emit("reading every file of the backup", database=database)
        # What is damaged here is not spread.
        try:
            backup_store.verify_files(backup, _Limit(end, WHOLE, backup, "any place", control).check)
        except PgopsError as error:
            if error.extra.get("reason") != "timeout":
                raise
            none = [{"place": place.shown, "message": error.message, "hint": error.hint} for place in places]
            return {"path": backup.path, "copies": read(backup.path), "made": [], "not_copied": none}
        wanted = contents(backup)
        known = {entry["path"]: entry for entry in read(backup.path)}
        made, failed = [], []
        for place in places:
            below = _below(place, backup, known)
            began = time.monotonic()
            own = began + timeout
            name = PLACE if end is None or own < end else WHOLE
            limit = _Limit(own if name == PLACE else end, name, backup, place.shown, control)
            try:
                sent = _to_place(place, backup, below, wanted, progress, limit.check, sleep)
            except Interrupted:
                raise
            except PgopsError as error:
                if error.extra.get("differs"):
                    known.pop(place.whole(below), None)  # one that cannot be reached may still be there
                failed.append({"place": place.shown, "message": error.message, "hint": error.hint})
                continue
            known[place.whole(below)] = {
                "place": place.shown,
                "path": place.whole(below),
                "verified_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "bytes": sum(int(entry["bytes"]) for entry in wanted.values()),
                "manifest_sha256": backup.manifest_sha256,
                "seconds": round(time.monotonic() - began, 3),
            }
            if sent:
                made.append(place.shown)
        entries = [known[path] for path in sorted(known)]
        _write(backup, entries)
    return {"path": backup.path, "copies": entries, "made": made, "not_copied": failed}


def _below(place: Place, backup: Backup, known: Mapping[str, Mapping[str, Any]]) -> str:
    """:return: where at a place the copy lies, or is to lie."""
    older = _older_location(backup)
    made = known.get(place.whole(older))
    return older if made and made.get("manifest_sha256") == backup.manifest_sha256 else location(backup)


def _to_place(
    place: Place,
    backup: Backup,
    below: str,
    wanted: Mapping[str, Mapping[str, Any]],
    progress: Progress,
    check: Callable[[], None],
    sleep: Callable[[float], None],
) -> bool:
    """:return: whether it was sent, and not there already. :raises PgopsError: of the last attempt."""
    database = str(backup.manifest["database"])
    for attempt in range(1, ATTEMPTS + 1):
        check()
        try:
            place.look(backup.path, check)
            if place.has(below, backup.manifest_sha256, check):
                return _look_again(place, backup, below, wanted, progress, check)
            progress.emit(f"copying to {place.shown}", database=database)
            names = place.before(sorted(wanted))
            place.send(backup.path, below, names, check)
            progress.emit(f"reading the copy in {place.shown} back", database=database)
            wrong = _differing(place.read_back(below, names, check), {name: wanted[name] for name in names})
            if wrong:
                place.discard(below, check)
                raise _differs(place, below, wrong, database)
            place.publish(backup.path, below, check)
            if not place.has(below, backup.manifest_sha256, check):
                raise PgopsError(f"{place.whole(below)} is not there after it was published.")
            return True
        except Interrupted:
            raise
        except PgopsError as error:
            error.database = error.database or database
            if attempt == ATTEMPTS or error.extra.get("final"):
                raise
            progress.emit(f"trying {place.shown} again", database=database)
        sleep(PAUSE_SECONDS * attempt)
    raise AssertionError("not reached")


def _look_again(
    place: Place,
    backup: Backup,
    below: str,
    wanted: Mapping[str, Mapping[str, Any]],
    progress: Progress,
    check: Callable[[], None],
) -> bool:
    """A copy that is there already: only its proof may be an older one. :return: whether that was sent."""
    database = str(backup.manifest["database"])
    progress.emit(f"reading the copy in {place.shown} back", database=database)
    wrong = _differing(place.read_back(below, sorted(wanted), check, published=True), wanted)
    renewed = set(wrong) == {backup_store.PROOF}
    if renewed:
        place.renew(backup.path, below, backup_store.PROOF, check)
        wrong = _differing(
            place.read_back(below, list(wrong), check, published=True), {name: wanted[name] for name in wrong}
        )
    if wrong:
        # It was whole once: what became of it is for a person to see, not to be written over.
        error = _differs(place, below, wrong, database)
        error.extra["final"] = True
        raise error
    return renewed


def _differing(found: Mapping[str, str], wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """:param found: the sha256 of each file as it was read at the place. :return: what is wrong with each that is."""
    return {
        name: "is missing" if name not in found else "is another one"
        for name in sorted(wanted)
        if found.get(name) != wanted[name]["sha256"]
    }


def _differs(place: Place, below: str, wrong: Mapping[str, str], database: str) -> PgopsError:
    told = ", ".join(f"{name} {what}" for name, what in list(wrong.items())[:TOLD])
    return PgopsError(
        f"The copy in {place.whole(below)} is not what was sent: {told}.",
        database=database,
        object_name=next(iter(wrong)),
        hint="See whether that place is full or damaged, remove the copy there, and copy it again.",
        extra={"differs": dict(wrong)},
    )


# -- where the copies are ----------------------------------------------------------------------------------------------------


def read(path: str) -> list[dict[str, Any]]:
    """:return: the copies of a backup: place, path, verified_at, bytes, manifest_sha256, seconds. None where none is known."""
    try:
        with open(os.path.join(path, backup_store.COPIES), encoding="utf-8") as stream:
            entries = json.load(stream)
    except (OSError, ValueError):
        return []
    return (
        [entry for entry in entries if isinstance(entry, dict) and entry.get("path")]
        if isinstance(entries, list)
        else []
    )


def _write(backup: Backup, entries: list[dict[str, Any]]) -> None:
    try:
        backup_store.write_json(os.path.join(backup.path, backup_store.COPIES), entries)
    except OSError as exc:
        raise PgopsError(
            f"Where {backup.path} was copied to cannot be written there: {exc.strerror or exc}.",
            database=backup.manifest.get("database"),
            hint="Free space in that folder, or make it writable; then copy it again: what is at its place is only read back.",
            extra={"errno": exc.errno},
        ) from None


@contextlib.contextmanager
def only_one(backup: Backup) -> Iterator[None]:
    """Two runs that copy one backup would each write over what the other has sent; nor may it change meanwhile.

    :raises PgopsError: another run copies it.
    """
    descriptor = os.open(backup.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise PgopsError(
                f"Another run copies {backup.path}; nothing was done.",
                database=backup.manifest.get("database"),
                hint="Wait until it has ended.",
                extra={"locked": True},
            ) from None
        yield
    finally:
        os.close(descriptor)
