# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What lies in a database's backup folder, all of it: whole backups, damaged and half-written ones, and what is none.

Reads the folder only, so it works while the database server is down.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Callable

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_pins,
    backup_store,
    cluster_backups,
    retention,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.retention import Candidate

# States of an entry.
WHOLE = "whole"
DAMAGED = "damaged"
HALF_WRITTEN = "half-written"
FOREIGN = "foreign"

DELETIONS = "deletions.jsonl"
# What the collection itself keeps beside the backups.
_OWN_FILES = frozenset({backup_store.LOCK, backup_pins.LOCK, DELETIONS, "restores.jsonl", "rehearsals"})
# A proof that says no level compared everything that was restored.
_LEVEL_WITHOUT_A_WORD = 4
_PURPOSES_OF_A_CHANGE = ("before_", "emergency")


@dataclass(frozen=True)
class Entry:
    """Something in a database's backup folder.

    :ivar state: ``whole``, ``damaged``, ``half-written`` or ``foreign``.
    :ivar told: what is the matter with it, without a full stop; empty of a whole backup.
    :ivar moment: of a whole backup when its snapshot was taken, UTC.
    :ivar pins: of a whole or damaged backup; each with who, when and reason.
    """

    id: str
    path: str
    state: str
    told: str = ""
    backup: Backup | None = None
    moment: datetime | None = None
    pins: tuple[dict[str, Any], ...] = ()
    bytes: int = 0
    copies: Any = None
    owner: int = field(default=-1, compare=False)

    @property
    def manifest(self) -> dict[str, Any]:
        """Its manifest, empty where none can be read."""
        return self.backup.manifest if self.backup else {}

    @property
    def proof(self) -> dict[str, Any]:
        """Its proof, empty where none of this very manifest is there."""
        proof = self.backup.proof if self.backup else None
        return proof if self.backup and proof and proof.get("manifest_sha256") == self.backup.manifest_sha256 else {}

    @property
    def level(self) -> int:
        """How far up the ladder the proof went, 0 where no proof holds."""
        level = self.proof.get("level", _LEVEL_WITHOUT_A_WORD) if self.proof else 0
        return level if isinstance(level, int) else 0

    @property
    def proved(self) -> bool:
        """Everything was restored and compared."""
        return self.backup is not None and self.backup.proved

    def candidate(self) -> Candidate:
        """:return: what the policy looks at; only of a whole backup."""
        assert self.moment is not None
        phi = self.manifest.get("phi")
        purpose = str(self.manifest.get("purpose") or "")
        return Candidate(
            self.id,
            self.moment,
            self.proved,
            change=isinstance(phi, bool) or purpose.startswith(_PURPOSES_OF_A_CHANGE),
            phi=phi if isinstance(phi, bool) else None,
        )


def entries(directory: str, database: str) -> list[Entry]:
    """:return: everything in the folder of a database, newest name first; empty where there is none.

    :raises PgopsError: the folder cannot be read.
    """
    folder = backup_store.database_folder(directory, database)
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise PgopsError(
            f"The backups of {database} in {folder} cannot be read: {exc.strerror}.",
            database=database,
            hint="Run it as the user that makes the backups, or name another folder with -e backup_directory=FOLDER.",
        ) from None
    found = [_entry(folder, name, database) for name in sorted(names, reverse=True) if name not in _OWN_FILES]
    return [entry for entry in found if entry is not None]


def _entry(folder: str, name: str, database: str) -> Entry | None:
    path = os.path.join(folder, name)
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None  # gone since the folder was listed
    owner = status.st_uid
    if stat.S_ISLNK(status.st_mode):
        return Entry(name, path, FOREIGN, "a link; nothing behind it is looked at", owner=owner)
    if not stat.S_ISDIR(status.st_mode):
        return Entry(name, path, FOREIGN, "a file that no backup has made", bytes=status.st_size, owner=owner)
    sizes, strange = backup_store.list_files(path)
    size = sum(sizes.values())
    if name.endswith(backup_store.PARTIAL) and strange:
        return Entry(name, path, DAMAGED, f"half-written, and {strange[0]} in it is no plain file", owner=owner)
    if name.endswith(backup_store.PARTIAL):
        return Entry(name, path, HALF_WRITTEN, "never finished, or half deleted", bytes=size, owner=owner)
    told, pins = "", []
    try:
        pins = backup_pins.read(path)["pins"]
    except PgopsError as error:
        # Nobody knows who holds it, so it is held.
        pins, told = [{"who": "", "when": "", "reason": "its pins cannot be read"}], error.message.rstrip(".")
    shared: dict[str, Any] = {"pins": tuple(pins), "bytes": size, "owner": owner}
    try:
        backup = backup_store.read_backup(path)
    except PgopsError as error:
        return Entry(name, path, DAMAGED, error.message.rstrip("."), **shared)
    wrong = _wrong_manifest(backup.manifest)
    if wrong:
        return Entry(name, path, DAMAGED, f"its manifest has no {wrong} that can be read", **shared)
    shared["copies"] = _copies(path)
    if backup.manifest["database"] != database:
        return Entry(name, path, FOREIGN, f"a backup of {backup.manifest['database']}", backup, **shared)
    moment = _moment(backup.manifest["snapshot_time"])
    differing = backup_store.differing_files(backup)
    if differing:
        first = min(differing)
        more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
        return Entry(name, path, DAMAGED, f"{first} {differing[first]}{more}", backup, moment, **shared)
    return Entry(name, path, WHOLE, told, backup, moment, **shared)


def _wrong_manifest(manifest: Mapping[str, Any]) -> str:
    """:return: the first thing that a list needs of a manifest and does not find; empty where all is there."""
    if _moment(manifest.get("snapshot_time")) is None:
        return "snapshot_time"
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("bytes"), int) for entry in files.values()
    ):
        return "files"
    ledger = manifest.get("ledger", [])
    if not isinstance(ledger, list) or not all(isinstance(row, dict) for row in ledger):
        return "ledger"
    return "" if isinstance(manifest.get("database"), str) else "database"


def _moment(text: Any) -> datetime | None:
    try:
        # Python 3.9 takes no Z.
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


def _copies(path: str) -> Any:
    try:
        with open(os.path.join(path, backup_store.COPIES), "rb") as stream:
            return json.loads(stream.read())
    except (OSError, ValueError):
        return None


# -- what keeps them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """Whether a backup goes.

    :ivar rules: of the policy, that keep it.
    :ivar pinned: pins that keep it, of people and of what a rollback needs.
    :ivar left: why it is not the policy's to delete, without a full stop; empty where it is.
    """

    entry: Entry
    rules: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    left: str = ""

    @property
    def expires(self) -> bool:
        """Nothing keeps it."""
        return not (self.rules or self.pinned or self.left)


def decide(
    found: Sequence[Entry],
    policy: retention.Policy,
    now: datetime,
    *,
    environment: str = "",
    cluster: str = "",
    needed: Mapping[str, str] | None = None,
    ledger_read: bool = False,
) -> list[Decision]:
    """Say of each entry what keeps it. Deletes nothing.

    The policy is applied to the backups of each cluster by themselves: those of another one stand for nothing of this one.

    :param now: UTC.
    :param environment: the backups of another one are not this run's to delete; every one is where it is empty.
    :param cluster: the system identifier of the server that was asked. What a rollback on another one needs nobody has told, so the
        backups of that are not this run's to delete; every one is where it is empty.
    :param needed: id -> why, of what a rollback needs as the server tells it.
    :param ledger_read: the ledger has told what a rollback would go back to; where it has not, the newest backup from before a
        change is kept in its place.
    :return: in the order of the entries.
    """
    own = {
        entry.id
        for entry in found
        if entry.state == WHOLE
        and (not environment or str(entry.manifest.get("environment") or "") in ("", environment))
    }
    foreign = {entry.id for entry in found if not cluster_backups.may_be_of(entry.manifest, cluster)}
    clusters: dict[str, list[Candidate]] = {}
    for entry in found:
        if entry.id in own:
            clusters.setdefault(cluster_backups.cluster_of(entry.manifest), []).append(entry.candidate())
    rules: dict[str, list[str]] = {}
    newest: dict[str, str] = {}
    for candidates in clusters.values():
        rules.update(retention.kept(candidates, policy, now))
        newest.update({} if ledger_read else _newest_of_a_change(candidates))
    needed = {**newest, **(needed or {})}
    decisions = []
    for entry in found:
        pins = [_told_pin(pin) for pin in entry.pins]
        if entry.id in needed:
            pins.append(needed[entry.id])
        kept_by = rules.get(entry.id, [])
        if retention.NEWEST_PROVED in kept_by:
            pins.append(retention.NEWEST_PROVED)
        left = ""
        if entry.state == DAMAGED:
            left = f"damaged: {entry.told}; look at it, and remove it by hand"
        elif entry.state == FOREIGN:
            left = entry.told
        elif entry.state == WHOLE and entry.id not in own:
            left = f"of environment {entry.manifest['environment']}"
        elif entry.state == WHOLE and entry.id in foreign:
            left = (
                f"of another cluster (system identifier {cluster_backups.cluster_of(entry.manifest)}), whose own host deletes it; "
                "-e backup_expire_offline=true does it without asking"
            )
        decisions.append(
            Decision(entry, tuple(rule for rule in kept_by if rule != retention.NEWEST_PROVED), tuple(pins), left)
        )
    return decisions


def _newest_of_a_change(candidates: Sequence[Candidate]) -> dict[str, str]:
    changes = [candidate for candidate in candidates if candidate.change]
    if not changes:
        return {}
    newest = max(changes, key=lambda candidate: (candidate.moment, candidate.id))
    return {newest.id: "newest from before a change"}


def _told_pin(pin: Mapping[str, Any]) -> str:
    by = f" ({pin['who']})" if pin.get("who") else ""
    return f"{pin['reason']}{by}"


# -- the list -------------------------------------------------------------------------------------------------------------


def row(decision: Decision, policy: retention.Policy, now: datetime) -> dict[str, Any]:
    """:return: what the list tells of one entry."""
    entry, manifest = decision.entry, decision.entry.manifest
    until = retention.kept_until(entry.candidate(), policy) if entry.state == WHOLE else None
    encryption = manifest.get("encryption")
    recipients = encryption.get("recipients") if isinstance(encryption, dict) else None
    return {
        "id": entry.id,
        "path": entry.path,
        "state": entry.state,
        "told": entry.told or None,
        "kind": str(manifest.get("kind") or "logical") if manifest else None,
        "database": manifest.get("database"),
        "purpose": manifest.get("purpose"),
        "environment": manifest.get("environment"),
        "system_identifier": cluster_backups.cluster_of(manifest) or None,
        "run_id": manifest.get("run_id"),
        "phi": manifest.get("phi"),
        "version": _last_applied(manifest),
        "bytes": entry.bytes,
        "snapshot_time": manifest.get("snapshot_time"),
        "age_s": round((now - entry.moment).total_seconds()) if entry.moment else None,
        "level": entry.level,
        "proved": entry.proved,
        "proved_at": entry.proof.get("proved_at"),
        "pinned_by": list(decision.pinned),
        "pins": [dict(pin) for pin in entry.pins],
        "kept_by": list(decision.rules),
        "left": decision.left or None,
        "expires": decision.expires,
        "not_before": until.isoformat(timespec="seconds") if until else None,
        "encrypted_to": [str(one) for one in recipients] if isinstance(recipients, list) else [],
        "copies": entry.copies,
    }


def _last_applied(manifest: Mapping[str, Any]) -> str | None:
    versions = [str(line.get("version")) for line in manifest.get("ledger") or [] if line.get("state") == "applied"]
    return max(versions, default=None)


_FILTERS: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "all": lambda listed: True,
    "proved": lambda listed: bool(listed["proved"]),
    "unproved": lambda listed: listed["state"] == WHOLE and not listed["proved"],
    "pinned": lambda listed: bool(listed["pinned_by"]),
    "expiring": lambda listed: bool(listed["expires"]),
    "damaged": lambda listed: listed["state"] != WHOLE,
}
FILTERS = tuple(_FILTERS)


def listing(
    directory: str,
    database: str,
    policy: retention.Policy,
    *,
    environment: str = "",
    only: str = "all",
    newest: int | None = None,
    now: datetime | None = None,
) -> dict[str, Any]:
    """List the backups of a database, from its folder alone.

    :param only: one of :data:`FILTERS`.
    :param newest: at most so many, the newest.
    :return: folder, backups (as :func:`row`), total, clusters (the system identifiers of all), and how many of all are whole, proved and pinned, with their bytes.
    """
    moment = now or datetime.now(timezone.utc)
    decisions = decide(entries(directory, database), policy, moment, environment=environment)
    rows = [row(decision, policy, moment) for decision in decisions]
    shown = [listed for listed in rows if _FILTERS[only](listed)]
    return {
        "folder": backup_store.database_folder(directory, database),
        "backups": shown[:newest] if newest else shown,
        "total": len(rows),
        "clusters": sorted({listed["system_identifier"] for listed in rows if listed["system_identifier"]}),
        "counts": {
            "whole": sum(listed["state"] == WHOLE for listed in rows),
            "proved": sum(listed["proved"] for listed in rows),
            "pinned": sum(bool(listed["pinned_by"]) for listed in rows),
            "damaged": sum(listed["state"] != WHOLE for listed in rows),
        },
        "bytes": sum(listed["bytes"] for listed in rows),
    }
