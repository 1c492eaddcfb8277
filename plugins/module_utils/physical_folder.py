# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A folder that pg_basebackup or pg_combinebackup has made, named where a backup of ours was meant: a cluster and no database.

It is restored by nothing here, and the refusal says what it is. Of an incremental one (17 and later) it also says whether what it stands
on is there: pg_combinebackup takes whatever folders it is given in their order, and one in the middle is easily forgotten.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import BACKUP, PgopsError

MANIFEST = "backup_manifest"
LABEL = "backup_label"
_TAR = re.compile(r"^base\.tar(?:\.(gz|lz4|zst))?$")
_BY_SUFFIX = {None: "not compressed", "gz": "gzip", "lz4": "lz4", "zst": "zstd"}
_UNPACKERS = {"lz4": "lz4", "zst": "zstd"}
_BINDIRS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
# pg_verifybackup reads tar from this version on.
_TAR_VERIFIED_SINCE = 18
_LONGEST_CHAIN = 1000
# What the name, the label and the manifest do not tell is looked at no longer than this.
_LOOK_SECONDS = 60

_PITR = (
    "What this collection restores of a whole cluster is pgBackRest's: rollback.yml -e rollback_strategy=pitr. By hand: restore this one into "
    "an empty folder{how}, start a server in there, and dump the database out of it with pg_dump; restore.yml takes that dump."
)


@dataclass(frozen=True)
class BaseBackup:
    """One folder as it tells of itself; what it does not tell is None.

    :ivar packed: how its tar is compressed, None where it is no tar.
    :ivar stands_on: where the backup began that an incremental one stands on.
    """

    path: str
    packed: str | None
    begin: str | None
    system_identifier: str | None
    stands_on: str | None

    @property
    def told(self) -> str:
        """:return: what it is."""
        shape = f"tar, {self.packed}" if self.packed else "plain"
        if self.stands_on:
            return f"an incremental base backup of a whole cluster ({shape}) that stands on the one begun at {self.stands_on}"
        return f"a base backup of a whole cluster ({shape}), made by pg_basebackup or pg_combinebackup"


def refuse(path: str) -> None:
    """:param path: a folder, or the tar in it.
    :raises PgopsError: it is a physical backup; what kind, whether it is whole as far as that can be seen, and what to do with it. Nothing
    is written, and of the files only names, labels and manifests are read."""
    path = os.path.abspath(path)
    if os.path.isfile(path) and _TAR.match(os.path.basename(path)):
        path = os.path.dirname(path)
    found = read(path)
    if found is None:
        inside = [backup for backup in _in(path).values() if backup.begin]
        if not inside:
            return
        found = max(inside, key=lambda backup: _number(str(backup.begin)))
        raise _refused(
            path, f"holds base backups of a whole cluster, the last of them {os.path.basename(found.path)}: ", found
        )
    raise _refused(path, f"is {found.told}; ", found)


def _refused(path: str, what: str, found: BaseBackup) -> PgopsError:
    chain, broken = chain_of(found)
    broken = broken or _mixed(chain) or _damaged(chain)
    if broken:
        return PgopsError(
            f"{path} {what}it cannot be restored: {broken}. Nothing was done.",
            object_name=path,
            hint="Take another backup. " + _PITR.format(how=""),
            unusable=BACKUP,
            extra={
                "reason": "physical_folder",
                "file": path,
                "chain": [backup.path for backup in chain],
                "broken": broken,
            },
        )
    how = ""
    if len(chain) > 1:
        how = f" (pg_combinebackup {' '.join(backup.path for backup in chain)} -o FOLDER)"
    elif found.packed:
        how = " (unpack base.tar into it, pg_wal.tar into its pg_wal, check it with pg_verifybackup)"
    return PgopsError(
        f"{path} {what}a restore of one database takes a dump. Nothing was done.",
        object_name=path,
        hint=_PITR.format(how=how),
        unusable=BACKUP,
        extra={"reason": "physical_folder", "file": path, "chain": [backup.path for backup in chain], "broken": None},
    )


def read(path: str) -> BaseBackup | None:
    """:return: what a folder tells of itself; None where it is no base backup. A running cluster is none: it has neither label nor manifest."""
    try:
        names = set(os.listdir(path))
    except OSError:
        return None
    tar = next((match for name in sorted(names) if (match := _TAR.match(name))), None)
    plain = "PG_VERSION" in names and bool(names & {LABEL, MANIFEST})
    if tar is None and not plain:
        return None
    manifest = _manifest(path)
    label = _label(path, tar)
    ranges = manifest.get("WAL-Ranges")
    begins = (
        [str(entry.get("Start-LSN")) for entry in ranges if isinstance(entry, dict)] if isinstance(ranges, list) else []
    )
    # In the label of an incremental one this is where it began, too; the manifest's ranges are those that it needs.
    began = re.search(r"^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+)", label, re.MULTILINE)
    on = re.search(r"^INCREMENTAL FROM LSN: ([0-9A-F]+/[0-9A-F]+)", label, re.MULTILINE)
    identifier = manifest.get("System-Identifier")
    return BaseBackup(
        path=path,
        packed=_BY_SUFFIX[tar.group(1)] if tar else None,
        begin=began.group(1)
        if began
        else next((begin for begin in begins if re.match(r"[0-9A-F]+/[0-9A-F]+$", begin)), None),
        system_identifier=str(identifier) if identifier is not None else None,
        stands_on=on.group(1) if on else None,
    )


def chain_of(last: BaseBackup) -> tuple[list[BaseBackup], str | None]:
    """Follow an incremental backup back to its full one, among the folders beside it.

    :return: those that were found, the full one first; and what is missing, None where nothing is.
    """
    beside = _in(os.path.dirname(last.path))
    chain = [last]
    while chain[0].stands_on and len(chain) < _LONGEST_CHAIN:
        wanted = chain[0].stands_on
        known = {entry.path for entry in chain}
        fit = [backup for backup in beside.values() if backup.begin == wanted and backup.path not in known]
        # One of another cluster may have begun at the same place.
        fit = [backup for backup in fit if _same_cluster(backup, last)]
        if not fit:
            return chain, (
                f"{os.path.basename(chain[0].path)} stands on the backup of cluster {last.system_identifier or 'unknown'} that began at "
                f"{wanted}, which is not beside it"
            )
        chain.insert(0, fit[0])
    return chain, None


def _same_cluster(one: BaseBackup, other: BaseBackup) -> bool:
    return None in (one.system_identifier, other.system_identifier) or one.system_identifier == other.system_identifier


def _in(folder: str) -> dict[str, BaseBackup]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return {}
    paths = [os.path.join(folder, name) for name in names if os.path.isdir(os.path.join(folder, name))]
    return {path: found for path in paths if (found := read(path))}


def _number(lsn: str) -> int:
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def _manifest(path: str) -> dict[str, Any]:
    try:
        with open(os.path.join(path, MANIFEST), encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _label(path: str, tar: re.Match[str] | None) -> str:
    try:
        if tar is None:
            with open(os.path.join(path, LABEL), encoding="utf-8", errors="replace") as stream:
                return stream.read(8192)
        with _unpacked(os.path.join(path, tar.group(0)), tar.group(1)) as stream:
            archive = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115 - the stream is closed by who has opened it
            # The server sends it before everything else.
            first = archive.next()
            member = archive.extractfile(first) if first and os.path.basename(first.name) == LABEL else None
            return member.read(8192).decode("utf-8", "replace") if member else ""
    except (OSError, tarfile.TarError, EOFError, ValueError):
        return ""


@contextlib.contextmanager
def _unpacked(path: str, suffix: str | None) -> Iterator[IO[bytes]]:
    """The beginning of a tar, as far as a reader wants it."""
    if suffix is None:
        with open(path, "rb") as stream:
            yield stream
        return
    if suffix == "gz":
        with gzip.open(path, "rb") as packed:
            yield cast("IO[bytes]", packed)
        return
    process = subprocess.Popen(
        [_UNPACKERS[suffix], "-dc", path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def _mixed(chain: list[BaseBackup]) -> str | None:
    """:return: which of a chain have data checksums and which have none, where both are among them: pg_combinebackup looks at none of it."""
    states: dict[bool, str] = {}
    for backup in chain:
        said = _said("pg_controldata", backup, ["-D", backup.path]) if backup.packed is None else None
        found = re.search(r"^Data page checksum version:\s+(\d+)$", said[1], re.MULTILINE) if said else None
        if found:
            states.setdefault(found.group(1) != "0", os.path.basename(backup.path))
    if len(states) == 2:
        return f"its chain mixes data checksums: {states[True]} has them on and {states[False]} off"
    return None


def _damaged(chain: list[BaseBackup]) -> str | None:
    """:return: what pg_verifybackup finds missing, cut, or without its WAL, where that program is here. No contents are compared."""
    for backup in chain:
        if not os.path.exists(os.path.join(backup.path, MANIFEST)):
            return f"{os.path.basename(backup.path)} has no {MANIFEST}, so nobody can say what belongs to it"
        wal = os.path.join(backup.path, "pg_wal")
        whole = os.path.isdir(wal) and any(len(name) == 24 for name in os.listdir(wal))
        arguments = ["--skip-checksums", *([] if whole else ["--no-parse-wal"]), backup.path]
        said = _said("pg_verifybackup", backup, arguments)
        if said and said[0]:
            told = next((line.partition("error: ")[2] for line in said[1].splitlines() if "error: " in line), "")
            return (
                f"pg_verifybackup finds {os.path.basename(backup.path)} damaged: {told or 'it gives no reason'}".rstrip(
                    "."
                )
            )
    return None


def _said(program: str, backup: BaseBackup, arguments: list[str]) -> tuple[int, str] | None:
    """:return: how a program of the backup's version ended, and what it said; None where there is none, or it took too long."""
    path = _program(program, backup)
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
            timeout=_LOOK_SECONDS, env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.returncode, done.stdout + done.stderr


def _program(name: str, backup: BaseBackup) -> str | None:
    """:return: the program of the backup's own version; of a tar, which does not show it, one that can read tar."""
    found: dict[int, str] = {}
    for pattern in _BINDIRS:
        for path in glob.glob(f"{pattern}/{name}"):
            major = re.search(r"(\d+)/bin/", path)
            if major and os.access(path, os.X_OK):
                found[int(major.group(1))] = path
    if backup.packed is not None:
        return found[max(found)] if found and max(found) >= _TAR_VERIFIED_SINCE else None
    try:
        with open(os.path.join(backup.path, "PG_VERSION"), encoding="utf-8") as stream:
            return found.get(int(stream.read().strip()))
    except (OSError, ValueError):
        return None
