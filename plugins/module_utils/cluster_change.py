# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Put one cluster in the place of another by two renames, while no server runs in either, and back again.

The successor has lain beside, shut down cleanly. Then, each step written into a file beside the data directory before it is done:

1. ``fencing``: the live server is stopped; from the first moment of that it takes no connection, and it archives what is left;
2. ``fenced``: a standby.signal in its folder: whoever starts it by hand gets a server that takes no writes;
3. ``renamed``: its folder gets the name of a kept one, the successor's folder the name that the server is started by;
4. the server is started: same port, same configuration, same unit.

Whatever ends the process in between, :func:`finish` goes on from the file and from the folders that are there, and :func:`undo` goes back.
At no point can two servers take writes on that port: there is one folder that the port's server is started in.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any, Callable

from ansible_collections.whitecross.pgops.plugins.module_utils import cluster_layout, physical_folder
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_layout import Layout, Server, layout_from
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.os_user import OsUser

STATE = ".pgops_change.json"
LOCK = ".pgops_change.lock"
# Inside a kept data directory: what it was, and that a change has put it aside.
KEPT = "pgops_kept.json"
STANDBY = "standby.signal"
# In the name of a restored cluster's folder until it is live; one without it had been put aside.
NEW = ".pgops_new_"

RESTORING = "restoring"
FENCING = "fencing"
FENCED = "fenced"
RENAMED = "renamed"

Step = Callable[[str], None]


@dataclass(frozen=True)
class Change:
    """A change of clusters, as its file keeps it."""

    run_id: str
    step: str
    # Of the cluster whose place is taken: where it lies, how it is started.
    live: Layout
    incoming: str
    kept: str
    target: str
    databases: tuple[str, ...]
    since: str


def state_path(data_directory: str) -> str:
    """:return: the file that tells of a change of the cluster in this folder; beside it, for the folder is renamed."""
    return data_directory.rstrip("/") + STATE


@contextlib.contextmanager
def locked(data_directory: str) -> Iterator[None]:
    """Let one run at a time restore beside a cluster or change it; free again as soon as its process is gone.

    :raises PgopsError: another one is at it.
    """
    path = data_directory.rstrip("/") + LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PgopsError(
                f"Another run restores beside the cluster in {data_directory} or changes it; nothing was touched.",
                hint="Wait until it has ended, then run the same command again.",
                extra={"locked": True},
            ) from None
        yield
    finally:
        os.close(descriptor)


def read(data_directory: str) -> Change | None:
    """:return: the change that was cut off here, or None. :raises PgopsError: the file cannot be read."""
    path = state_path(data_directory)
    try:
        with open(path, encoding="utf-8") as stream:
            plain = json.load(stream)
        return Change(**{**plain, "live": layout_from(plain["live"]), "databases": tuple(plain["databases"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise PgopsError(f"The state of a change of clusters in {path} cannot be read: {exc}.") from None


def write(change: Change, user: OsUser) -> Change:
    """Keep the change in its file. :return: it."""
    user.write(
        state_path(change.live.data_directory), json.dumps({**asdict(change), "live": change.live.as_dict()}, indent=1)
    )
    return change


def forget(change: Change) -> None:
    """The change has come to its end."""
    with suppress(FileNotFoundError):
        os.unlink(state_path(change.live.data_directory))


def names(data_directory: str, run_id: str, now: datetime) -> tuple[str, str]:
    """:return: the folder of the successor and that of the kept cluster, beside the live one; none of them is there."""
    stamp = now.strftime("%Y%m%d_%H%M%S")
    number = 1
    while True:
        more = f"_{number}" if number > 1 else ""
        incoming, kept = f"{data_directory}{NEW}{stamp}{more}", f"{data_directory}.pgops_kept_{stamp}{more}"
        if not os.path.lexists(incoming) and not os.path.lexists(kept):
            return incoming, kept
        number += 1


def refuse_unmovable(layout: Layout) -> None:
    """:raises PgopsError: a data directory whose name cannot be given to another, or with parts elsewhere."""
    folder = layout.data_directory
    if os.path.islink(folder) or os.path.ismount(folder):
        raise PgopsError(
            f"The data directory {folder} is a {'link' if os.path.islink(folder) else 'mount point'}, which cannot be renamed; nothing was touched.",
            hint="Put the cluster into a folder below the mount point.",
        )
    if os.path.islink(os.path.join(folder, "pg_wal")):
        raise PgopsError(f"pg_wal of {folder} is a link; a restore beside it would share it. Nothing was touched.")
    spaces = os.listdir(os.path.join(folder, "pg_tblspc"))
    if spaces:
        raise PgopsError(
            f"The cluster in {folder} has {len(spaces)} tablespace(s) outside of it, which two clusters cannot share; nothing was touched.",
            hint="Restore with pgBackRest's own --tablespace-map by hand, or move the tables to pg_default first.",
        )


def finish(change: Change, user: OsUser, after: Step = lambda step: None) -> dict[str, Any]:
    """Do what is left of a change, from wherever it stands. Idempotent.

    :param after: is told each step that has been done; the tests kill the process there.
    :return: ``outage_ms`` from the stop of the live server to the answer of its successor, ``kept``.
    :raises PgopsError: the live server did not stop cleanly, or the successor did not start; then the former one runs again.
    """
    live = change.live
    server = Server(live, user)
    began = time.monotonic()
    if change.step == FENCING:
        server.stop()
        after("stopped")
        if not cluster_layout.is_shut_down(live, live.data_directory, user):
            server.start()
            forget(change)
            raise PgopsError(
                f"The server in {live.data_directory} did not shut down cleanly; it was started again and nothing was changed."
            )
        _mark_kept(change, live.data_directory, user)
        after("marked")
        change = write(replace(change, step=FENCED), user)
        after(FENCED)
    if change.step == FENCED:
        if not os.path.isdir(change.kept):
            os.rename(live.data_directory, change.kept)
            after("live renamed")
        if os.path.isdir(change.incoming):
            for name in (STANDBY, KEPT):
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(change.incoming, name))
            os.rename(change.incoming, live.data_directory)
        _sync(os.path.dirname(live.data_directory))
        after("incoming renamed")
        change = write(replace(change, step=RENAMED), user)
        after(RENAMED)
    try:
        server.start()
    except PgopsError as error:
        undo(change, user)
        raise PgopsError(
            f"The restored cluster did not start in the place of the live one, which runs again as it was: {error.message}",
            hint=f"The restored one is kept in {change.incoming}.",
        ) from None
    after("started")
    outage = round((time.monotonic() - began) * 1000, 1)
    forget(change)
    return {"outage_ms": outage, "kept": change.kept}


def undo(change: Change, user: OsUser) -> None:
    """Go back to the cluster that was live when the change began, and start it. Idempotent."""
    live = change.live
    if change.step in (FENCED, RENAMED) and os.path.isdir(change.kept):
        if os.path.isdir(live.data_directory):
            # The successor may have been started already.
            Server(live, user).stop()
            if not os.path.isdir(change.incoming):
                os.rename(live.data_directory, change.incoming)
        os.rename(change.kept, live.data_directory)
        _sync(os.path.dirname(live.data_directory))
    for name in (STANDBY, KEPT):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(live.data_directory, name))
    # Whoever starts the other by hand must not get a second server that takes writes.
    if os.path.isdir(change.incoming) and not os.path.exists(os.path.join(change.incoming, STANDBY)):
        _mark_kept(change, change.incoming, user)
    Server(live, user).start()
    forget(change)


def _mark_kept(change: Change, folder: str, user: OsUser) -> None:
    told = {"run_id": change.run_id, "since": change.since, "was": change.live.data_directory, "target": change.target,
            "system_identifier": change.live.system_identifier}  # fmt: skip
    user.write(os.path.join(folder, KEPT), json.dumps(told, indent=1))
    user.write(os.path.join(folder, STANDBY), "")


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_ASIDE = re.compile(r"\.pgops_kept_[0-9_]+$")


def refuse_unkept(layout: Layout, path: str) -> dict[str, Any]:
    """:param path: the folder of a cluster that a change has put aside.
    :return: what it says of itself.
    :raises PgopsError: it is none, or one of another cluster."""
    try:
        with open(os.path.join(path, KEPT), encoding="utf-8") as stream:
            told: dict[str, Any] = json.load(stream)
    except (OSError, ValueError):
        physical_folder.refuse(path)
        raise PgopsError(
            f"{path} is no cluster that a rollback has put aside; nothing was touched.",
            hint=f"Those that are there: {', '.join(kept_beside(layout.data_directory)) or 'none'}.",
        ) from None
    if told.get("was") != layout.data_directory or told.get("system_identifier") != layout.system_identifier:
        raise PgopsError(
            f"{path} was put aside by another cluster than the one in {layout.data_directory}; nothing was touched."
        )
    return told


def kept_beside(data_directory: str) -> list[str]:
    """:return: the clusters that changes have put aside here."""
    place = os.path.dirname(data_directory)
    begin = os.path.basename(data_directory)
    return sorted(
        os.path.join(place, name) for name in os.listdir(place) if name.startswith(begin) and _ASIDE.search(name)
    )


def now() -> datetime:
    """:return: this moment, UTC."""
    return datetime.now(timezone.utc)
