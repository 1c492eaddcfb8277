# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What pgBackRest's repository holds of a cluster: backups and their chains, the WAL between them, restore points in it.

``pgbackrest info`` tells of backups whose folders are gone and of the first and the last WAL segment only, and
``pgbackrest verify`` does not miss a segment in between (2.45 and 2.55). So the files themselves are listed. Of several repositories
each has backups of its own, and WAL that one lacks is taken from another.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgbackrest
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.pgbackrest import FIRST, PgBackRest

_SEGMENT = re.compile(r"(?:^|/)([0-9A-F]{24})-[0-9a-f]{40}(?:\.\w+)?$")
_RESTORE_POINT = re.compile(r"lsn: ([0-9A-F]+/[0-9A-F]+), .*desc: RESTORE_POINT (.*)$")
NAMES_TOLD = 10


def lsn_number(lsn: str) -> int:
    """:return: ``0/5000028`` as a number of bytes."""
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


@dataclass(frozen=True)
class Physical:
    """One backup of the repository. Times are UTC."""

    label: str
    kind: str
    start: datetime
    stop: datetime
    first_wal: str
    last_wal: str
    stop_lsn: int
    size: int
    references: tuple[str, ...]
    damaged: bool
    repository: int = FIRST

    @property
    def timeline(self) -> int:
        """:return: the timeline on which it was finished."""
        return int(self.last_wal[:8], 16)


@dataclass(frozen=True)
class Found:
    """A restore point in the WAL."""

    name: str
    lsn: str
    segment: str

    @property
    def timeline(self) -> int:
        """:return: the timeline in whose WAL it stands."""
        return int(self.segment[:8], 16)


def backups(info: dict[str, Any], system_identifier: str | None = None) -> list[Physical]:
    """:param system_identifier: only those of this cluster.
    :return: the backups that ``info`` tells of, of all repositories, oldest first.
    :raises PgopsError: the stanza is of another cluster."""
    own = {_key(db, db["id"]): str(db["system-id"]) for db in info.get("db") or []}
    if system_identifier and own and system_identifier not in own.values():
        raise PgopsError(
            f"Stanza {info['name']} holds backups of another cluster (system identifier {', '.join(sorted(set(own.values())))}, this is "
            f"{system_identifier}); nothing was touched.",
            hint="Name the stanza of this cluster in backup_stanza.",
        )
    found = []
    for entry in info.get("backup") or []:
        of = _key(entry["database"], entry["database"]["id"])
        if system_identifier and own.get(of) != system_identifier:
            continue
        found.append(
            Physical(
                label=entry["label"],
                kind=entry["type"],
                start=datetime.fromtimestamp(entry["timestamp"]["start"], timezone.utc),
                stop=datetime.fromtimestamp(entry["timestamp"]["stop"], timezone.utc),
                first_wal=entry["archive"]["start"],
                last_wal=entry["archive"]["stop"],
                stop_lsn=lsn_number(entry["lsn"]["stop"]),
                size=int(entry["info"]["size"]),
                references=tuple(entry.get("reference") or ()),
                damaged=bool(entry.get("error")),
                repository=of[0],
            )
        )
    return sorted(found, key=lambda backup: backup.stop)


def archives(info: dict[str, Any], system_identifier: str) -> dict[int, str]:
    """:return: by the number of the repository pgBackRest's name for this cluster's archive; a repository that does not answer has none."""
    own = {_key(db, db["id"]): str(db["system-id"]) for db in info.get("db") or []}
    keys = {_key(entry["database"], entry["database"]["id"]): entry["id"] for entry in info.get("archive") or []}
    # The latest of several is the one that the running server fills.
    return {key[0]: keys[key] for key in sorted(keys) if own.get(key) == system_identifier}


def _key(of: dict[str, Any], number: int) -> tuple[int, int]:
    # Each repository numbers the clusters that its stanza has had by itself.
    return int(of.get("repo-key", FIRST)), number


def refuse_broken_chain(tool: PgBackRest, backup: Physical) -> None:
    """:raises PgopsError: the backup or one that it stands on is not whole in the repository."""
    if backup.damaged:
        raise PgopsError(
            f"Backup {backup.label} holds pages that were damaged already when it was taken (page checksums); nothing was touched.",
            hint="Take an older one, or mend the database and take a full one: backup.yml -e backup_physical_type=full.",
        )
    there = tool.files(f"backup/{tool.stanza}", backup.repository)
    for label in (*backup.references, backup.label):
        if f"{label}/backup.manifest" not in there:
            raise PgopsError(
                f"Backup {backup.label} stands on {label}, which is not in {_told(tool, backup)} any more; nothing was touched.",
                hint="Take a full backup now: backup.yml -e backup_physical_type=full.",
                extra={"missing": label},
            )


def refuse_other_checksums(tool: PgBackRest, backup: Physical, now: bool | None) -> None:
    """Data checksums are switched in a server that is down (pg_checksums), and no WAL tells of it: what a backup from before brings back is
    in the other state, and an incremental one on top of it holds pages of both.

    :param now: whether the live cluster has them; None where nobody knows.
    :raises PgopsError: the backup was taken in the other state."""
    then = tool.manifest_option(backup.label, backup.repository, "option-checksum-page")
    # Where they are left unread by declaration the manifest says nothing of the cluster.
    if now is None or then is None or pgbackrest.options(tool.config, tool.stanza).get("checksum-page") == "n":
        return
    if (then in ("true", "y")) != now:
        states = ("off", "on") if now else ("on", "off")
        raise PgopsError(
            f"Backup {backup.label} was taken with data checksums {states[0]}, and the cluster has them {states[1]}; nothing was touched.",
            hint="Take a full backup now: backup.yml -e backup_physical_type=full. To go back to before it all the same, switch the live "
            f"cluster to what the backup has: stop it and run pg_checksums --{'disable' if now else 'enable'}.",
            extra={"reason": "checksums", "backup": backup.label},
        )


def _told(tool: PgBackRest, backup: Physical) -> str:
    return f"repository {backup.repository}" if len(tool.repositories()) > 1 else "the repository"


class Wal:
    """The archived WAL of one cluster: which segments there are, and on which timelines they lie."""

    def __init__(self, tool: PgBackRest, archives: Mapping[int, str], segment_bytes: int) -> None:
        """
        :param archives: by the number of the repository pgBackRest's name for the cluster's archive in it, e.g. ``15-1``.
        :param segment_bytes: the cluster's wal_segment_size.
        """
        self._tool = tool
        self.segment_bytes = segment_bytes
        self._per_log = (1 << 32) // segment_bytes
        names = [name for number, of in archives.items() for name in tool.files(f"archive/{tool.stanza}/{of}", number)]
        self.segments = sorted({match.group(1) for name in names if (match := _SEGMENT.search(name))})
        self._histories: dict[int, list[tuple[int, int]]] = {}

    def number(self, segment: str) -> int:
        """:return: the place of a segment in the WAL, whatever its timeline."""
        return int(segment[8:16], 16) * self._per_log + int(segment[16:], 16)

    def name(self, timeline: int, number: int) -> str:
        """:return: the name of the segment at that place."""
        return f"{timeline:08X}{number // self._per_log:08X}{number % self._per_log:08X}"

    def ancestors(self, timeline: int) -> list[tuple[int, int]]:
        """:return: the timelines that lead to this one, each with the LSN at which it was left, oldest first.
        :raises PgopsError: the timeline's history is not in the archive."""
        if timeline == 1:
            return []
        if timeline not in self._histories:
            with fetching(self._tool) as folder:
                path = self._tool.fetch_wal(f"{timeline:08X}.history", folder)
                if path is None:
                    raise PgopsError(
                        f"The history of timeline {timeline} is not in the archive; nothing was touched.",
                        hint="Take a full backup now: backup.yml -e backup_physical_type=full.",
                    )
                with open(path, encoding="utf-8") as stream:
                    words = [line.split() for line in stream if line.strip() and not line.startswith("#")]
            self._histories[timeline] = [(int(word[0]), lsn_number(word[1])) for word in words]
        return self._histories[timeline]

    def is_on_the_way(self, backup: Physical, timeline: int) -> bool:
        """:return: whether WAL leads from the backup onto the timeline."""
        if backup.timeline == timeline:
            return True
        return any(of == backup.timeline and backup.stop_lsn <= left for of, left in self.ancestors(timeline))

    def refuse_gap(self, backup: Physical, segment: str) -> None:
        """:param segment: the last that is needed, on its timeline.
        :raises PgopsError: one of those from the backup's start to it is missing, by name."""
        name = self.missing(backup.first_wal, segment)
        if name:
            raise PgopsError(
                f"WAL segment {name} is missing in the archive between backup {backup.label} and the target; nothing was touched.",
                hint="Name a target before it; then take a full backup: backup.yml -e backup_physical_type=full.",
                extra={"missing": name},
            )

    def missing(self, first: str, last: str) -> str | None:
        """:return: the first segment that is not in the archive, on the way from one to another and on the timelines that lead to it."""
        there = set(self.segments)
        ancestors = self.ancestors(int(last[:8], 16))
        for number in range(self.number(first), self.number(last) + 1):
            timeline = int(last[:8], 16)
            for of, left in ancestors:
                # The segment in which a timeline was left is archived under the new one.
                if number < left // self.segment_bytes:
                    timeline = of
                    break
            name = self.name(timeline, number)
            if name not in there:
                return name
        return None

    def find(self, name: str, oldest: str, pg_waldump: str) -> tuple[Found | None, list[Found]]:
        """Look for a restore point in the WAL itself, newest first: a recovery to a name that is not there starts, replays
        everything, and dies at the end of the WAL.

        :param oldest: the segment before which nothing is looked at.
        :return: it, or None; and the others that were seen on the way.
        """
        seen: list[Found] = []
        wanted = [segment for segment in self.segments if self.number(segment) >= self.number(oldest)]
        with fetching(self._tool) as folder:
            for done, segment in enumerate(sorted(wanted, key=lambda s: (s[8:], s[:8]), reverse=True)):
                self._tool.progress.emit(
                    "looking for the restore point in the WAL", done=done, total=len(wanted), unit="segments"
                )
                for found in self._points(segment, folder, pg_waldump):
                    seen.append(found)
                    if found.name == name:
                        return found, seen
        return None, seen

    def _points(self, segment: str, folder: str, pg_waldump: str) -> list[Found]:
        path = self._tool.fetch_wal(segment, folder)
        if path is None:
            return []
        # A record may end in the next segment, which is there from the step before; its own end is no error to us.
        done = self._tool.user.run(
            [pg_waldump, "--rmgr=XLOG", f"--path={folder}", f"--timeline={int(segment[:8], 16)}", segment]
        )
        following = os.path.join(folder, self.name(int(segment[:8], 16), self.number(segment) + 2))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(following)
        return [
            Found(match.group(2), match.group(1), segment)
            for line in done.lines
            if (match := _RESTORE_POINT.search(line))
            # What stands in the next segment was told with that.
            and lsn_number(match.group(1)) // self.segment_bytes == self.number(segment)
        ]


@contextlib.contextmanager
def fetching(tool: PgBackRest) -> Iterator[str]:
    """A folder for what is fetched out of the archive, for nobody but the database's user, gone afterwards."""
    folder = tempfile.mkdtemp(prefix="pgops-wal-")
    try:
        tool.user.own(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def told(points: list[Found]) -> str:
    """:return: the names of restore points, for a sentence."""
    names = [found.name for found in points][:NAMES_TOLD]
    return ", ".join(names) if names else "none"
