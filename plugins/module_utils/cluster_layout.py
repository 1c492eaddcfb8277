# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A running cluster as it lies on its host: data directory, configuration, programs, who starts it; its stop and its start."""

from __future__ import annotations

import os
import re
import shlex
import time
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.os_user import OsUser, unit_of

# A fast shutdown ends the sessions and writes a checkpoint; then the archiver pushes what is left.
STOP_SECONDS = 600
# systemctl and pg_ctl have waited by then; only the last moments of the process are left, and clients are kept out meanwhile.
POLL_SECONDS = 0.05
START_SECONDS = 600
LOG = "/var/log/postgresql/pgops.log"

_SETTINGS = """
SELECT name, setting FROM pg_catalog.pg_settings
WHERE name IN ('data_directory', 'config_file', 'hba_file', 'ident_file', 'port', 'unix_socket_directories',
               'wal_segment_size', 'archive_mode', 'archive_command', 'archive_library', 'data_checksums')
"""


@dataclass(frozen=True)
class Layout:
    """What is to be known of a cluster to put another one in its place. Sizes are bytes."""

    data_directory: str
    config_file: str
    ident_file: str
    port: int
    socket_directory: str
    wal_segment_bytes: int
    archive_mode: str
    archive_command: str
    bindir: str
    system_identifier: str
    timeline: int
    major: int
    # The systemd unit that runs it, and without one the words with which its server was started.
    unit: str | None
    options: tuple[str, ...]
    # None in the state that an earlier version has written.
    data_checksums: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """:return: plain data, which :func:`layout_from` reads back."""
        return asdict(self)


def layout_from(plain: dict[str, Any]) -> Layout:
    """:return: the layout that :meth:`Layout.as_dict` told."""
    return Layout(**{**plain, "options": tuple(plain["options"])})


def read_layout(conn: Connection, target: Target) -> Layout:
    """Look at the running cluster and at its host.

    :param conn: on the maintenance database, as a superuser.
    :raises PgopsError: a standby, a role that does not see the settings, or another host than this one.
    """
    facts = fetch_one(
        conn,
        "SELECT pg_catalog.pg_is_in_recovery() AS standby, rolsuper AS superuser, (pg_catalog.pg_control_system()).system_identifier::text"
        " AS id, (pg_catalog.pg_control_checkpoint()).timeline_id AS timeline FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )
    assert facts is not None
    if not facts["superuser"]:
        raise PgopsError(
            f"Role {target.user} is no superuser on {target.host}: a physical backup and a restore of the cluster need one.",
            hint="Name a superuser in pgops_restore_user.",
        )
    if facts["standby"]:
        raise PgopsError(
            f"{target.host} is a standby; a paused or delayed standby is no way back, since it replays all the WAL that it has "
            "received when it is promoted.",
            hint="Point pgops_host at the primary.",
        )
    settings = {row["name"]: row["setting"] or "" for row in fetch_all(conn, _SETTINGS)}
    folder = settings["data_directory"].rstrip("/")
    pid = _postmaster(folder, facts["id"], target)
    program, options = _started_with(folder)
    return Layout(
        data_directory=folder,
        config_file=settings["config_file"],
        ident_file=settings["ident_file"],
        port=int(settings["port"]),
        socket_directory=settings["unix_socket_directories"].split(",")[0].strip(' "'),
        wal_segment_bytes=int(settings["wal_segment_size"]),
        archive_mode=settings["archive_mode"],
        archive_command=settings["archive_command"] or settings.get("archive_library", ""),
        bindir=os.path.dirname(program),
        system_identifier=facts["id"],
        timeline=int(facts["timeline"]),
        major=conn.info.server_version // 10000,
        unit=unit_of(pid),
        options=options,
        data_checksums=settings["data_checksums"] == "on",
    )


def _postmaster(folder: str, system_identifier: str, target: Target) -> int:
    """:return: the process that runs the cluster in this folder of this very host."""
    pid = running(folder)
    if pid is None:
        raise PgopsError(
            f"The cluster of {target.host} (system identifier {system_identifier}) does not run on {os.uname().nodename} in {folder}.",
            hint="Physical backups run on the host of the database: name that host in the inventory.",
        )
    return pid


def running(folder: str) -> int | None:
    """:return: the process id of the server that runs in a data directory, or None."""
    try:
        with open(os.path.join(folder, "postmaster.pid"), encoding="utf-8") as stream:
            pid = int(stream.readline())
        # Its words are there for everybody to read, its program is not; a zombie has none.
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            program = stream.read().split(b"\0")[0]
    except (OSError, ValueError):
        return None
    return pid if b"postgres" in os.path.basename(program) else None


def is_stopping(folder: str) -> bool:
    """:return: whether the server of a data directory was told to stop; it takes no connection any more."""
    try:
        with open(os.path.join(folder, "postmaster.pid"), encoding="utf-8") as stream:
            return stream.read().splitlines()[7].strip() == "stopping"
    except (OSError, IndexError):
        return False


def _started_with(folder: str) -> tuple[str, tuple[str, ...]]:
    """:return: the program in postmaster.opts, and its words without the data directory."""
    with open(os.path.join(folder, "postmaster.opts"), encoding="utf-8") as stream:
        program, _, rest = stream.read().strip().partition(' "')
    # The server quotes its arguments there, and not the program, whose path may hold blanks.
    words = shlex.split(f'"{rest}') if rest else []
    kept = []
    skip = False
    for word in words:
        if skip or word.startswith(("-D", "--data-directory", "data_directory=")):
            skip = word == "-D"
            continue
        kept.append(word)
    return program, tuple(kept)


class Server:
    """Stops and starts the cluster of a layout, by its unit where systemd runs it."""

    def __init__(self, layout: Layout, user: OsUser) -> None:
        self.layout = layout
        self.user = user
        if layout.unit and "patroni" in layout.unit:
            raise PgopsError(
                f"The cluster is run by Patroni ({layout.unit}), which would start it again behind our back.",
                hint="Restore it by Patroni's own way (patronictl pause, then pgBackRest as its bootstrap method).",
            )
        if layout.unit and os.geteuid() != 0:
            raise PgopsError(
                f"The cluster is run by systemd ({layout.unit}), and only root may stop and start that.",
                hint="Give ansible_become=true to the host, without ansible_become_user.",
            )

    def _systemctl(self, verb: str) -> None:
        # As root: the unit is not the database user's to stop.
        done = OsUser("root").run(["systemctl", verb, str(self.layout.unit)])
        if done.code:
            raise PgopsError(
                f"systemctl {verb} {self.layout.unit} ended with {done.code}: {(done.lines or ('',))[-1]}."
            )

    def stop(self) -> None:
        """Refuse new connections, end the sessions, write a checkpoint, archive what is left; nothing where it is down.

        :raises PgopsError: it did not come down cleanly.
        """
        folder = self.layout.data_directory
        if running(folder) is not None:
            if self.layout.unit:
                self._systemctl("stop")
            else:
                stop(self.layout.bindir, folder, self.user)
        deadline = time.monotonic() + STOP_SECONDS
        while running(folder) is not None:
            if time.monotonic() > deadline:
                raise PgopsError(f"The server in {folder} did not stop within {STOP_SECONDS} s.")
            time.sleep(POLL_SECONDS)

    def start(self) -> None:
        """Start what lies in the data directory, as it was started before; nothing where it runs."""
        layout = self.layout
        if running(layout.data_directory) is not None:
            return
        if layout.unit:
            self._systemctl("start")
            return
        # pg_ctl starts nothing where the server's user cannot write the log.
        log = LOG if self.user.run(["touch", LOG]).code == 0 else os.path.join(layout.data_directory, "pgops.log")
        start(layout.bindir, layout.data_directory, list(layout.options), log, self.user, wait=True)


def stop(bindir: str, folder: str, user: OsUser, mode: str = "fast") -> None:
    """Stop the server of a data directory and wait. :raises PgopsError: pg_ctl could not."""
    done = user.run([f"{bindir}/pg_ctl", "-D", folder, "-m", mode, "-w", "-t", str(STOP_SECONDS), "stop"])
    if done.code and running(folder) is not None:
        raise PgopsError(
            f"The server in {folder} could not be stopped: {(done.lines or ('pg_ctl said nothing',))[-1]}."
        )


def start(bindir: str, folder: str, options: list[str], log: str, user: OsUser, *, wait: bool) -> None:
    """Start a server.

    :param wait: until it takes connections.
    :raises PgopsError: it did not come up; with the reason out of its log.
    """
    begins = os.path.getsize(log) if os.path.exists(log) else 0
    command = [f"{bindir}/pg_ctl", "-D", folder, "-l", log, "-o", shlex.join(options)]
    done = user.run([*command, *(["-w", "-t", str(START_SECONDS)] if wait else ["-W"]), "start"])
    if done.code:
        told = reason_in(log, begins) or (done.lines or ("pg_ctl said nothing",))[-1].rstrip(".")
        raise PgopsError(f"The server in {folder} did not start: {told}.")


_REASON = re.compile(r"(?:FATAL|PANIC):  (.*)$")


def reason_in(log: str, begins: int = 0) -> str | None:
    """:param begins: how long the log was before, in bytes: what stands there is of another start.
    :return: the last reason for an end in the tail of a server's log; a server's own words about itself hold no rows."""
    try:
        with open(log, encoding="utf-8", errors="replace") as stream:
            stream.seek(begins)
            found = [match.group(1) for line in stream.readlines()[-200:] if (match := _REASON.search(line))]
    except OSError:
        return None
    # Clients that come too early are told FATAL too.
    telling = [line for line in found if "the database system is" not in line]
    return telling[-1][:300] if telling else None


def is_shut_down(layout: Layout, folder: str, user: OsUser) -> bool:
    """:return: whether the cluster in a folder was shut down cleanly, by its own control file."""
    done = user.run([f"{layout.bindir}/pg_controldata", "-D", folder])
    return (
        done.code == 0
        and re.search(r"^Database cluster state:\s+shut down(?: in recovery)?$", done.text, re.MULTILINE) is not None
    )
