# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A restored cluster beside the live one: in a folder of its own, on a socket of its own, reached by nobody else."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import cluster_layout, preloaded_libraries
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_layout import Layout
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.os_user import OsUser
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from psycopg2 import sql

# Both clusters are in the memory of one host for a while.
SHARED_BUFFERS = "128MB"
# Each look is a connection of its own, and a server in recovery tells nobody that it stands still.
POLL_SECONDS = 0.1
# What is left free on the file system of the data directory.
SPARE_BYTES = 64 << 20

# What a server does to others of its own accord, or lets its sessions wait for. The copy has the live one's subscriptions, and would log
# in at their publishers with its slots: what it confirmed there, they would never send the live one again.
_ALONE = {
    "max_logical_replication_workers": "0",
    "primary_conninfo": "",
    "primary_slot_name": "",
    "archive_cleanup_command": "",
    "recovery_end_command": "",
    # The standbys follow the live cluster.
    "synchronous_standby_names": "",
}
# Libraries whose workers act as soon as a recovery has ended: they run jobs, send requests, log in at other servers, some of them at this
# host and port. All others stay loaded: replay, indexes and event triggers may need them.
ACTING = frozenset(
    {"bdr", "pg_cron", "pg_failover_slots", "pg_later", "pg_net", "pg_partman_bgw", "pg_squeeze", "pg_task", "pgactive", "pgautofailover",
     "pglogical", "powa", "spock", "vectorize"}
)  # fmt: skip
# These have to stay loaded, and a setting keeps their workers from acting.
_HELD = {"timescaledb": ("timescaledb.max_background_workers", "0")}


class Beside:
    """A data directory that pgBackRest restores into, and the server that is started in it."""

    def __init__(
        self,
        layout: Layout,
        folder: str,
        user: OsUser,
        target: Target,
        *,
        application_name: str,
        progress: Progress | None = None,
        control: Control | None = None,
    ) -> None:
        """
        :param folder: its data directory, on the file system of the live one's.
        :param target: the live database; of it the role that restores is taken.
        """
        self.layout = layout
        self.folder = folder
        self.user = user
        self._target = target
        self.application_name = application_name
        self.progress = progress or Progress(None)
        self.control = control or Control(None)
        self.private = ""

    @property
    def log(self) -> str:
        """:return: the log of its server."""
        return self.folder + ".log"

    def refuse_full(self, needed: int) -> None:
        """:param needed: bytes of the restored cluster. :raises PgopsError: they do not fit."""
        place = os.path.dirname(self.folder)
        free = shutil.disk_usage(place).free
        if free < needed + SPARE_BYTES:
            raise PgopsError(
                f"{place} has {free >> 20} MB free, and the restored cluster needs {(needed + SPARE_BYTES) >> 20} MB; nothing was touched.",
                hint="Free space on that file system, then run the same command again.",
            )

    def start(self, *, archiving: bool) -> None:
        """Start the server where only this host's root and the database's user get at it.

        :param archiving: keep its WAL for the archive. It is pushed when the cluster is the live one, and never before.
        """
        self.private = tempfile.mkdtemp(prefix="pgops-")  # 0700; below /tmp, for a socket's path has 107 bytes
        self.user.own(self.private)
        hba = os.path.join(self.private, "pg_hba.conf")
        # Who can reach the socket is said by the folder.
        self.user.write(hba, "local all all trust\n")
        config = self.layout.config_file
        if config.startswith(self.layout.data_directory + "/"):
            config = self.folder + config[len(self.layout.data_directory) :]
        settings = {
            "config_file": config,
            "data_directory": self.folder,
            "hba_file": hba,
            "external_pid_file": "",
            "listen_addresses": "",
            "unix_socket_directories": self.private,
            "unix_socket_permissions": "0700",
            "port": str(self.layout.port),
            "ssl": "off",
            "hot_standby": "on",
            "shared_buffers": SHARED_BUFFERS,
            "logging_collector": "off",
            "log_destination": "stderr",
            "log_min_error_statement": "panic",
            "archive_mode": "on" if archiving else "off",
            "archive_command": "",
            "archive_library": "",
            **_ALONE,
        }
        if self.layout.major < 15:
            del settings["archive_library"]
        settings.update(self._preloaded(settings))
        cluster_layout.start(self.layout.bindir, self.folder, _options(settings), self.log, self.user, wait=False)

    def _preloaded(self, settings: dict[str, str]) -> dict[str, str]:
        """:return: the settings that keep preloaded libraries from acting; none where the server cannot say which it loads, for then it does
        not start either."""
        program = [f"{self.layout.bindir}/postgres", "-C", preloaded_libraries.SETTING, "-D", self.folder]
        done = self.user.run([*program, *_options(settings)])
        if done.code or not done.lines:
            return {}
        loaded = preloaded_libraries.names(done.lines[-1])
        kept = [name for name in loaded if preloaded_libraries.bare(name) not in ACTING]
        held = dict(_HELD[library] for library in map(preloaded_libraries.bare, kept) if library in _HELD)
        if kept != loaded:
            held[preloaded_libraries.SETTING] = preloaded_libraries.as_setting(kept)
        return held

    def target(self, database: str) -> Target:
        """:return: how to reach one of its databases."""
        role = self._target.as_restore().user
        return self._target.with_(
            host=self.private, port=str(self.layout.port), user=role, owner=None, database=database, sslmode="disable",
            passfile=None, sslrootcert=None,
        )  # fmt: skip

    def connect(self, database: str | None = None) -> Connection:
        """:return: a session on it."""
        return connect(
            self.target(database or self._target.maintenance_database), application_name=self.application_name
        )

    def wait_until_paused(self, seconds: float) -> dict[str, Any]:
        """Wait until it stands still at its recovery target.

        :param seconds: how long that may take.
        :return: ``lsn`` and ``time`` of what was replayed last.
        :raises PgopsError: it died before, most often since the WAL ended before the target.
        """
        deadline = time.monotonic() + seconds
        told = ""
        while True:
            self.control.check()
            found = self._state()
            if found and found["paused"] == "paused":
                return {"lsn": found["lsn"], "time": found["time"]}
            if found and not found["standby"]:
                raise PgopsError(
                    "The restored cluster went past its target without standing still; it was thrown away."
                )
            if found and found["lsn"] != told:
                told = str(found["lsn"])
                self.progress.emit(f"replaying WAL, at {told}")
            if cluster_layout.running(self.folder) is None and not self._is_starting():
                why = cluster_layout.reason_in(self.log) or "its log says nothing"
                raise PgopsError(f"The restored cluster did not reach its target: {why}.", extra={"recovery": why})
            if time.monotonic() > deadline:
                raise PgopsError(f"The restored cluster did not reach its target within {seconds:g} s.")
            time.sleep(POLL_SECONDS)

    def _is_starting(self) -> bool:
        # pg_ctl -W is back before the server has written its pid file.
        with contextlib.suppress(OSError):
            return time.time() - os.stat(self.private).st_mtime < 2 and cluster_layout.reason_in(self.log) is None
        return False

    def _state(self) -> dict[str, Any] | None:
        try:
            with contextlib.closing(self.connect()) as conn:
                return fetch_one(
                    conn,
                    "SELECT pg_is_in_recovery() AS standby, pg_last_wal_replay_lsn()::text AS lsn,"
                    " CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END AS paused,"
                    """ to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS time""",
                )
        except (PgopsError, psycopg2.Error):
            return None

    def promote(self, seconds: float = 600) -> None:
        """End the recovery where it stands. Its settings go, so that no later start looks for the target again.

        :raises PgopsError: it did not become a primary.
        """
        try:
            with contextlib.closing(self.connect()) as conn:
                # At a target that was reached, this ends the recovery there; nothing further is replayed.
                execute(conn, "SELECT pg_catalog.pg_wal_replay_resume()")
                deadline = time.monotonic() + seconds
                while (fetch_one(conn, "SELECT pg_catalog.pg_is_in_recovery() AS still") or {})["still"]:
                    if time.monotonic() > deadline:
                        raise PgopsError(f"The restored cluster was not promoted within {seconds:g} s.")
                    time.sleep(POLL_SECONDS)
                names = fetch_all(
                    conn,
                    "SELECT DISTINCT name FROM pg_catalog.pg_file_settings WHERE name LIKE 'recovery\\_target%'"
                    " AND sourcefile LIKE '%postgresql.auto.conf'",
                )
                for row in names:
                    execute(conn, sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(row["name"])))
        except psycopg2.Error as exc:
            raise from_psycopg(exc, "The restored cluster could not be promoted") from None

    def stop(self) -> None:
        """Stop it cleanly and remove its socket's folder; nothing where it does not run."""
        if cluster_layout.running(self.folder) is not None:
            cluster_layout.stop(self.layout.bindir, self.folder, self.user)
        if self.private:
            shutil.rmtree(self.private, ignore_errors=True)

    def remove(self) -> None:
        """Throw it away, whatever state it is in."""
        discard(self.layout.bindir, self.folder, self.user)
        if self.private:
            shutil.rmtree(self.private, ignore_errors=True)


def _options(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


def discard(bindir: str, folder: str, user: OsUser) -> None:
    """Stop what runs in a folder of ours and remove it with its log."""
    if cluster_layout.running(folder) is not None:
        cluster_layout.stop(bindir, folder, user, mode="immediate")
    if os.path.isdir(folder) and not os.path.islink(folder):
        shutil.rmtree(folder)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder + ".log")
