# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a path is that somebody wants restored: a backup of ours, an archive of pg_dump, or its SQL; and whether it is whole.

``pg_restore --list`` returns 0 on an archive of which 80 % is missing (fact 1), so each one is read to its end before anything of it
is written anywhere.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Callable, cast

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, physical_folder, plain_sql
from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import first_error, told_lines
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import BACKUP as UNUSABLE
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plain_sql import Scan

BACKUP = "backup"
DIRECTORY = "directory"
CUSTOM = "custom"
PLAIN = "plain"

SHA256 = ".sha256"
_TOC = "toc.dat"
_ARCHIVE = b"PGDMP"
_GZIP = b"\x1f\x8b"
_HEAD_BYTES = 4096
_CHECK_LINES = 20_000  # between two looks at whether to go on


@dataclass(frozen=True)
class Source:
    """A dump on this host.

    :ivar kind: ``backup`` (a folder of ours), ``directory``, ``custom`` or ``plain``.
    :ivar compressed: of SQL, whether it is gzip.
    """

    path: str
    kind: str
    compressed: bool = False

    @property
    def archive(self) -> bool:
        """Whether pg_restore reads it."""
        return self.kind in (DIRECTORY, CUSTOM)


def identify(path: str) -> Source:
    """Tell what a path is by what it holds, and not by its name.

    :raises PgopsError: there is nothing, it cannot be read, it was never finished, or it is nothing that is restored here.
    """
    path = os.path.abspath(path)
    if path.endswith(backup_store.PARTIAL):
        raise _refused(path, "was never finished", "Name one that is whole.")
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, backup_store.MANIFEST)):
            return Source(path, BACKUP)
        if os.path.exists(os.path.join(path, _TOC)):
            return Source(path, DIRECTORY)
        physical_folder.refuse(path)
        raise _refused(path, f"holds neither {backup_store.MANIFEST} nor {_TOC}: it is no backup and no dump", _WHAT)
    if os.path.lexists(path) and not os.path.isfile(path):
        raise _refused(path, "is no plain file and no folder", _WHAT)  # a pipe would be waited for
    physical_folder.refuse(path)
    try:
        with open(path, "rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as exc:
        raise _refused(
            path, f"cannot be read on this host: {exc.strerror}", "Name a path on the inventory host."
        ) from None
    compressed = head.startswith(_GZIP)
    if compressed:
        # As much as these bytes hold; whether the file is whole is looked at later.
        with contextlib.suppress(zlib.error):
            head = zlib.decompressobj(wbits=31).decompress(head, _HEAD_BYTES)
    if head.startswith(_ARCHIVE):
        if compressed:
            raise _refused(
                path, "is an archive inside of gzip, which pg_restore does not read", "Unpack it with gunzip."
            )
        return Source(path, CUSTOM)
    if head[257:262] == b"ustar":
        raise _refused(path, "is a tar archive", "Unpack it into a folder, or make it with pg_dump --format=custom.")
    if re.search(rb"^-- PostgreSQL database (cluster )?dump", head, re.MULTILINE):
        return Source(path, PLAIN, compressed)
    raise _refused(path, "is nothing that pg_dump has made", _WHAT)


_WHAT = "Name a backup's folder, or a dump that pg_dump made (custom, directory or plain, the last also with gzip)."


def _refused(path: str, why: str, hint: str) -> PgopsError:
    return PgopsError(
        f"{path} {why}; nothing was done.", object_name=path, hint=hint, unusable=UNUSABLE, extra={"file": path}
    )


# -- whole or not --------------------------------------------------------------------------------------------------------


def examine(source: Source, tool: str, check: Callable[[], None] = lambda: None) -> Scan:
    """Read a dump to its end.

    :param tool: pg_restore, which reads the archives.
    :param check: called now and then; raises to end it.
    :return: what it says of itself.
    :raises PgopsError: it is cut off or damaged, newer than the client can read, or psql would be told to do more than to restore.
    """
    refuse_other_sums(source, check)
    try:
        with text_of(source, tool) as lines:
            found = plain_sql.scan(_checked(lines, check), source.path)
    except (OSError, EOFError, zlib.error) as exc:
        told = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise _damaged(source.path, told) from None
    if not found.complete:
        raise _damaged(source.path, f"it ends at line {found.lines} without the line that pg_dump writes last")
    return found


def refuse_cut_off(source: Source, tool: str) -> None:
    """Read a dump to its end as fast as that goes, and look for nothing else.

    :raises PgopsError: it is cut off or damaged.
    """
    if source.archive:
        with read_archive(source.path, tool, [f"--file={os.devnull}"]) as stream:
            stream.read()
        return
    last = b""
    try:
        with open_plain(source) as stream:
            while block := stream.read(backup_store.READ_BLOCK):
                last = (last + block)[-_HEAD_BYTES:]
    except (EOFError, zlib.error) as exc:
        raise _damaged(source.path, str(exc)) from None
    if plain_sql.COMPLETE not in last:
        raise _damaged(source.path, "the line is missing that pg_dump writes last")


def _checked(lines: Iterator[bytes], check: Callable[[], None]) -> Iterator[bytes]:
    for number, line in enumerate(lines):
        if number % _CHECK_LINES == 0:
            check()
        yield line


@contextlib.contextmanager
def text_of(source: Source, tool: str) -> Iterator[Iterator[bytes]]:
    """The SQL of a dump, line by line; of an archive what ``pg_restore --file=-`` makes of it.

    :raises PgopsError: pg_restore cannot read it to its end.
    """
    if source.kind == PLAIN:
        with open_plain(source) as stream:
            yield iter(stream)
        return
    with read_archive(source.path, tool, ["--file=-"]) as stream:
        yield iter(stream)


def open_plain(source: Source) -> IO[bytes]:
    """:return: the SQL of a plain dump, unpacked where it is gzip."""
    return cast("IO[bytes]", gzip.open(source.path, "rb")) if source.compressed else open(source.path, "rb")


@contextlib.contextmanager
def read_archive(path: str, tool: str, arguments: list[str]) -> Iterator[IO[bytes]]:
    """Run pg_restore over an archive without a database. The one place where an archive is read for its text.

    :param path: the archive.
    :return: what it writes.
    :raises PgopsError: it could not read the archive to its end; naming the file.
    """
    # A file and no pipe: nobody reads it while the archive is read.
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [tool, *arguments, path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
        )  # fmt: skip
        assert process.stdout is not None
        try:
            yield process.stdout
            process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()
        errors.seek(0)
        said = list(told_lines(errors.read().decode("utf-8", "replace").splitlines()))
    if process.returncode:
        raise _unreadable(path, tool, first_error(said) or f"pg_restore ended with {process.returncode}")


def _unreadable(path: str, tool: str, told: str) -> PgopsError:
    newer = re.search(r"unsupported version \(([\d.]+)\)", told)
    if newer:
        return _refused(
            path,
            f"was made by a newer pg_dump than {tool} can read (archive version {newer[1]})",
            "Restore it on a server of the version that it was made for.",
        )
    return _damaged(path, told)


def _damaged(path: str, told: str) -> PgopsError:
    return _refused(path, f"is damaged or cut off: {told}", "Use another dump; this one cannot be restored whole.")


# -- sha256 beside it ----------------------------------------------------------------------------------------------------


def refuse_other_sums(source: Source, check: Callable[[], None] = lambda: None) -> bool:
    """Compare a dump with the sha256 file beside it, where there is one.

    :return: whether there is one.
    :raises PgopsError: a file that has other contents, is missing, or is not in it.
    """
    listed = read_sums(source.path)
    if listed is None:
        return False
    if os.path.isdir(source.path):
        sizes, strange = backup_store.list_files(source.path)
        name = os.path.basename(source.path)
        there = {f"{name}/{file}": os.path.join(source.path, file) for file in sizes}
        wrong = {f"{name}/{file}": "is no plain file" for file in strange}
    else:
        there, wrong = {os.path.basename(source.path): source.path}, {}
    for name in sorted({*there, *listed}):
        check()
        if name not in there:
            wrong[name] = "is missing"
        elif name not in listed:
            wrong[name] = f"is not in {os.path.basename(source.path)}{SHA256}"
        elif backup_store.hash_file(there[name]) != listed[name]:
            wrong[name] = "has other contents than its sha256 says"
    if wrong:
        first = min(wrong)
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise PgopsError(
            f"{source.path} is damaged: {first} {wrong[first]}{more}; nothing was done.",
            object_name=first,
            hint="Use another dump; this one cannot be restored whole.",
            unusable=UNUSABLE,
            extra={"file": source.path, "files": wrong},
        )
    return True


def read_sums(path: str) -> dict[str, str] | None:
    """:return: the sha256 of each file by its name, as sha256sum writes them beside a dump; None where there is no such file.
    :raises PgopsError: there is one that cannot be read."""
    try:
        with open(path + SHA256, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise _refused(path + SHA256, f"cannot be read: {exc}", "Remove it where it is not the dump's.") from None
    found = {line[66:]: line[:64] for line in lines if re.match(r"[0-9a-f]{64}  \S", line)}
    if len(found) != len(lines) or not found:
        raise _refused(path + SHA256, "is no list of sha256 sums", "Remove it where it is not the dump's.")
    return found
