# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The folder of an export: locked by its run while it is written, on the disk before it bears its name."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from typing import IO


def file_name(name: str) -> str:
    """:return: of a table's name what any file system takes."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.")[:100] or "table"


def locked(path: str) -> int:
    """Make a folder that bears its name only once it is locked, so that another export does not take it for a dead one's.

    :return: the descriptor that holds the lock.
    """
    making = f"{path}.{os.getpid()}"
    os.mkdir(making, 0o700)
    descriptor = os.open(making, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.rename(making, path)
    except OSError:
        os.close(descriptor)
        os.rmdir(making)
        raise
    return descriptor


def remove_dead(directory: str, kept: str) -> None:
    """What a killed export left holds rows, and nobody would look for it."""
    for name in os.listdir(directory):
        if not (name.startswith(f"{kept}_") and name.endswith(".partial")):
            continue
        path = os.path.join(directory, name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
        except OSError:
            continue  # removed a moment ago, or no folder of ours
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
        except BlockingIOError:
            pass  # its run lives
        finally:
            os.close(descriptor)


def to_disk(file: IO[bytes]) -> None:
    """Wait until a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync(path: str) -> None:
    """Wait until what a folder lists is on the disk."""
    descriptor = os.open(path or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
