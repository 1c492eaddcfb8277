# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reaching a database: parameters, pinned session settings, refusals right after connecting, client tools."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from psycopg2 import errorcodes, sql

OLDEST_MAJOR = 15
# A peer that is not there any more is noticed after half a minute, by either side.
KEEPALIVES_IDLE_S = 10
KEEPALIVES_INTERVAL_S = 5
KEEPALIVES_COUNT = 4
TCP_USER_TIMEOUT_MS = 30_000
APPLICATION_NAME_LIMIT = 63  # NAMEDATALEN - 1

# Everything that a content hash, a definition's text or a lock depends on. row_security = off makes a role that a
# policy would hide rows from fail instead of counting zero. A server's limits would end whoever waits for a client tool.
PINNED_SETTINGS: dict[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmloption": "content",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
    "row_security": "off",
    "search_path": "public",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "client_min_messages": "notice",
    "session_replication_role": "origin",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "standard_conforming_strings": "on",
    "check_function_bodies": "on",
}
# Only a superuser may set this one, and only a value other than the default needs it.
_NEEDS_RIGHTS = frozenset({"session_replication_role"})
# The first major that knows it.
_SINCE = {"transaction_timeout": 17}

# SET ROLE to one that it is no member of, and to one that is not there; with any other word the session is lost.
_NO_SUCH_RIGHT = frozenset({errorcodes.INSUFFICIENT_PRIVILEGE, errorcodes.INVALID_PARAMETER_VALUE})

Connection = psycopg2.extensions.connection


@dataclass(frozen=True)
class Target:
    """One database and how to reach it. Holds no password: libpq reads the pass file, or the server asks for none."""

    host: str
    database: str
    port: str | None = None
    user: str | None = None
    owner: str | None = None
    sslmode: str = "prefer"
    sslrootcert: str | None = None
    passfile: str | None = None
    connect_timeout: int = 10
    maintenance_database: str = "postgres"
    bindir: str | None = None
    backup_user: str | None = None
    restore_user: str | None = None
    scratch_host: str | None = None
    scratch_port: str | None = None
    # Only shown: its sessions are named after it.
    run_id: str | None = None

    def with_(self, **changes: Any) -> Target:
        """:return: a copy with other values."""
        return replace(self, **changes)

    def as_backup(self) -> Target:
        """:return: the same database as the role that reads backups."""
        return replace(self, user=self.backup_user or self.user, owner=None)

    def as_restore(self) -> Target:
        """:return: the same database as the role that restores, renames and fences."""
        return replace(self, user=self.restore_user or self.user, owner=None)

    def maintenance(self) -> Target:
        """:return: the database from which databases are created, renamed and dropped, as the restore role."""
        return replace(self.as_restore(), database=self.maintenance_database)

    def scratch(self, database: str) -> Target:
        """:return: a database on the server for throw-away restores, as the restore role."""
        return replace(
            self.as_restore(),
            host=self.scratch_host or self.host,
            port=(self.scratch_port or self.port) if self.scratch_host or self.scratch_port else self.port,
            database=database,
        )

    def parameters(self) -> dict[str, Any]:
        """:return: libpq's keywords; more than one host means the one that takes writes."""
        values: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "dbname": self.database,
            "user": self.user,
            "sslmode": self.sslmode,
            "sslrootcert": self.sslrootcert,
            "passfile": self.passfile,
            "connect_timeout": self.connect_timeout,
            "keepalives_idle": KEEPALIVES_IDLE_S,
            "keepalives_interval": KEEPALIVES_INTERVAL_S,
            "keepalives_count": KEEPALIVES_COUNT,
            # Keepalives are sent when nothing is under way; what was sent and never acknowledged has a limit of its own,
            # without which the kernel tries for a quarter of an hour.
            "tcp_user_timeout": TCP_USER_TIMEOUT_MS,
            "client_encoding": "UTF8",
        }
        if "," in self.host:
            values["target_session_attrs"] = "read-write"
        return {name: value for name, value in values.items() if value is not None}

    def client_arguments(self) -> list[str]:
        """:return: connection arguments of psql, pg_dump and pg_restore, without the database and without secrets."""
        arguments = ["--host", self.host, "--no-password"]
        if self.port:
            arguments += ["--port", self.port]
        if self.user:
            arguments += ["--username", self.user]
        return arguments

    def client_environment(self) -> dict[str, str]:
        """:return: the environment of a client tool. A pass file is named, a password never (fact: environ is readable)."""
        keep = (
            "PATH",
            "HOME",
            "LD_LIBRARY_PATH",
            "PGHOSTADDR",
            "PGSYSCONFDIR",
            "PGSERVICEFILE",
            "KRB5CCNAME",
            "TMPDIR",
        )
        values = {name: os.environ[name] for name in keep if name in os.environ}
        values.update({"LC_ALL": "C", "PGSSLMODE": self.sslmode, "PGCONNECT_TIMEOUT": str(self.connect_timeout)})
        if self.passfile:
            values["PGPASSFILE"] = self.passfile
        if self.sslrootcert:
            values["PGSSLROOTCERT"] = self.sslrootcert
        if "," in self.host:
            values["PGTARGETSESSIONATTRS"] = "read-write"
        return values

    def __str__(self) -> str:
        return f"{self.database} on {self.host}" + (f":{self.port}" if self.port else "")


def _unused_passfile(target: Target) -> str | None:
    """Why libpq passed over the password file, of which it says nothing or only on stderr; None where it read it."""
    path = target.passfile
    if not path:
        return None
    where = f"the password file {path} (pgops_passfile)"
    line = f"HOST:PORT:DATABASE:{target.user}:PASSWORD"
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
            return (
                f"{where} has the mode {stat.S_IMODE(mode):04o}, and one that others may use is ignored; "
                f"chmod 600 {shlex.quote(path)}"
            )
        with open(path, "rb"):
            return None
    except FileNotFoundError:
        return f"{where} does not exist on {os.uname().nodename}; make it there with the mode 0600 and the line {line}"
    except OSError as exc:
        return (
            f"{where} cannot be read on {os.uname().nodename} by the user with the id {os.geteuid()}, as which the module "
            f"runs ({exc.strerror}); give that user a file of its own"
        )


# A connection refusal by its text, since libpq gives no SQLSTATE before the session exists.
_REFUSALS: tuple[tuple[str, str, str], ...] = (
    (
        r"password authentication failed|no password supplied|SCRAM",
        "28P01",
        "the password for role {user} was not accepted; check pgops_passfile",
    ),
    (
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        "28000",
        "the server's pg_hba.conf has no entry that lets role {user} in from here",
    ),
    (
        r"permission denied for database",
        "42501",
        "role {user} may not connect; GRANT CONNECT ON DATABASE {quoted_database} TO {quoted_user}",
    ),
    (r"role .* does not exist", "28000", "role {user} does not exist on the server; check pgops_user"),
    (r"role .* is not permitted to log in", "28000", "role {user} may not log in; name a LOGIN role in pgops_user"),
    (
        r"database .* is not currently accepting",
        "55000",
        "the database is fenced (ALLOW_CONNECTIONS false); where a swap was cut off, status.yml says how to finish or undo it",
    ),
    (r"database .* does not exist", "3D000", "there is no database of that name on the server; check pgops_database"),
    (r"too many (clients|connections)|remaining connection slots", "53300", "the server has no free connection slot"),
    (
        r"starting up|shutting down|in recovery mode|not yet accepting",
        "57P03",
        "the server is starting, stopping or recovering; try again in a moment",
    ),
    (
        r"server does not support SSL|SSL is not enabled",
        "08001",
        "the server has no TLS but pgops_sslmode is {sslmode}",
    ),
    (
        r"certificate|SSL error|root certificate",
        "08001",
        "the server's TLS certificate was not accepted with pgops_sslmode {sslmode}; check pgops_sslrootcert and the host name",
    ),
    (
        r"could not translate host name|Name or service not known|nodename nor servname|name resolution",
        "08001",
        "the host name does not resolve; check pgops_host",
    ),
    (
        r"timeout expired|timed out",
        "08001",
        "the server did not answer within {connect_timeout} s; check pgops_host, pgops_port and the network",
    ),
    (r"Connection refused", "08001", "nothing listens there; check pgops_host and pgops_port and that PostgreSQL runs"),
    (
        r"session is read-only|server is in hot standby|not in hot standby",
        "25006",
        "no host of pgops_host takes writes; all of them are standbys",
    ),
)


def _connection_error(exc: psycopg2.Error, target: Target) -> PgopsError:
    text = str(exc).strip()
    for pattern, state, sentence in _REFUSALS:
        if re.search(pattern, text, re.IGNORECASE):
            told = (_unused_passfile(target) if state == "28P01" else None) or sentence.format(
                user=target.user,
                database=target.database,
                quoted_user=quoted(target.user),
                quoted_database=quoted(target.database),
                sslmode=target.sslmode,
                connect_timeout=target.connect_timeout,
            )
            return PgopsError(
                f"Cannot connect to {target}: {told}.", sqlstate=exc.pgcode or state, database=target.database
            )
    first = text.split("\n", 1)[0]
    return PgopsError(f"Cannot connect to {target}: {first}.", sqlstate=exc.pgcode or "08001", database=target.database)


def session_name(target: Target, name: str) -> str:
    """:param name: ``pgops status``, or one that tells its run already.
    :return: ``pgops RUN status`` where the target knows its run, no longer than the server shows."""
    own, _, purpose = name.partition(" ")
    if target.run_id and own == "pgops" and target.run_id not in purpose:
        name = f"{own} {target.run_id} {purpose}"
    return name[:APPLICATION_NAME_LIMIT]


def connect(
    target: Target, *, application_name: str, autocommit: bool = True, allow_pooler: bool = False
) -> Connection:
    """Open a session with pinned settings, as the owner role where one is named.

    :param application_name: shown in pg_stat_activity, so that whoever waits for us can see who we are; see :func:`session_name`.
    :param allow_pooler: only for the probe of a pooler itself.
    :return: a connection, in autocommit unless asked otherwise.
    :raises PgopsError: no connection (each cause told apart), a server older than 15, a pooler in transaction mode, no
        right to act as the owner role.
    """
    try:
        conn: Connection = psycopg2.connect(
            **target.parameters(), application_name=session_name(target, application_name)
        )
    except (psycopg2.Error, UnicodeDecodeError) as exc:
        if not isinstance(exc, psycopg2.Error):
            exc = psycopg2.OperationalError("the server sent an unreadable message")
        raise _connection_error(exc, target) from None
    try:
        conn.autocommit = True
        major, minor = server_version(conn)
        if major < OLDEST_MAJOR:
            raise PgopsError(
                f"The server of {target} is PostgreSQL {major}.{minor}; {OLDEST_MAJOR} or later is needed.",
                database=target.database,
                hint="Upgrade the server first (pg_upgrade).",
            )
        if not allow_pooler:
            refuse_transaction_pooler(target, conn)
        _pin(conn, target)
        conn.autocommit = autocommit
    except psycopg2.Error as exc:
        conn.close()
        raise from_psycopg(exc, f"The session on {target} could not be prepared", database=target.database) from None
    except BaseException:
        conn.close()
        raise
    return conn


def _pin(conn: Connection, target: Target) -> None:
    major, _ = server_version(conn)
    settings = {
        name: value
        for name, value in PINNED_SETTINGS.items()
        if name not in _NEEDS_RIGHTS and major >= _SINCE.get(name, 0)
    }
    with conn.cursor() as cursor:
        cursor.execute(
            sql.SQL("; ").join(
                sql.SQL("SET {} = {}").format(
                    sql.Identifier(name), sql.SQL("public, pg_catalog") if name == "search_path" else sql.Literal(value)
                )
                for name, value in settings.items()
            )
        )
        if target.owner and target.owner != target.user:
            try:
                cursor.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(target.owner)))
            except psycopg2.Error as exc:
                if exc.pgcode not in _NO_SUCH_RIGHT:
                    raise
                raise _no_owner(target, conn, str(exc.pgcode)) from None


def _no_owner(target: Target, conn: Connection, sqlstate: str) -> PgopsError:
    """Why the session cannot act as the owner: GRANT would not help, or would give more than the owner's objects."""
    row = fetch_one(conn, "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = %s", (target.owner,))
    if row is None:
        told = f"There is no role {target.owner} on {target}, whose objects pgops_owner says these are"
        way = "set pgops_owner to the role that owns them"
    elif row["rolsuper"]:
        told = f"The owner role {target.owner} on {target} is a superuser, as which {target.user} may not act"
        way = "set pgops_owner to a role without superuser, and give the objects to that one with ALTER ... OWNER TO"
    else:
        told = f"Role {target.user} may not act as the owner role {target.owner} on {target}"
        way = f"GRANT {quoted(target.owner)} TO {quoted(target.user)}"
    return PgopsError(f"{told}; {way}.", sqlstate=sqlstate, database=target.database)


def refuse_transaction_pooler(target: Target, conn: Connection) -> None:
    """Refuse a pooler that hands each transaction to another server session: locks and settings would be lost.

    A proxy answers with a process id of its own (libpq's) that differs from the server session's. Session pooling is
    fine; in transaction mode a second client that opens a transaction is given the session that the first just left. In
    statement mode the pooler cuts it off as soon as it opens one.

    :raises PgopsError: the probe saw two clients share one server session, or no transaction come about.
    """
    own = _backend_pid(conn)
    if own == conn.info.backend_pid:
        return
    other = psycopg2.connect(**target.parameters(), application_name=session_name(target, "pgops pooler probe"))
    try:
        other.autocommit = False
        for _attempt in range(5):
            first = _backend_pid(conn)
            try:
                shared = _backend_pid(other) == first
            except psycopg2.OperationalError:
                # Whether it was the transaction: the first client, which opens none, is still served.
                _backend_pid(conn)
                raise _pooled(target, "statement") from None
            second = _backend_pid(conn)
            other.rollback()
            if shared or second != first:
                raise _pooled(target, "transaction")
    finally:
        other.close()


def _pooled(target: Target, mode: str) -> PgopsError:
    return PgopsError(
        f"{target} is reached through a connection pooler in {mode} mode, "
        "where session locks and settings are lost; point pgops_host and pgops_port at the server itself.",
        database=target.database,
    )


def _backend_pid(conn: Connection) -> int:
    with conn.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.pg_backend_pid()")
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def server_version(conn: Connection) -> tuple[int, int]:
    """:return: major and minor, e.g. ``(18, 6)``."""
    number = conn.info.server_version
    return number // 10000, number % 10000


def system_identifier(conn: Connection) -> str:
    """:return: the cluster's identity, the same on all its standbys, other on every initdb."""
    row = fetch_one(conn, "SELECT system_identifier::text AS id FROM pg_catalog.pg_control_system()")
    return str(row["id"]) if row else ""


def database_oid(conn: Connection) -> int:
    """:return: the identity of the connected database in its cluster, which a rename keeps and a restore does not."""
    row = fetch_one(
        conn, "SELECT oid::bigint AS oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
    )
    return int(row["oid"]) if row else 0


def fetch_all(conn: Connection, query: str | sql.Composable, params: Any = None) -> list[dict[str, Any]]:
    """:return: every row as a dictionary."""
    with conn.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        cursor.execute(query, params)
        return [dict(row) for row in cursor.fetchall()]


def fetch_one(conn: Connection, query: str | sql.Composable, params: Any = None) -> dict[str, Any] | None:
    """:return: the first row as a dictionary, or None."""
    rows = fetch_all(conn, query, params)
    return rows[0] if rows else None


def execute(conn: Connection, query: str | sql.Composable, params: Any = None) -> int:
    """:return: the number of rows that the statement touched, -1 where it has none."""
    with conn.cursor() as cursor:
        cursor.execute(query, params)
        return int(cursor.rowcount)


def client_tool(target: Target, conn: Connection, name: str) -> str:
    """Find pg_dump, pg_restore or another client that fits the server.

    Only the server's own major reads and writes its dumps safely, and an older minor can write a dump that does not
    restore (15.19 against 15.20 writes the hidden option pg_attver).

    :return: an absolute path.
    :raises PgopsError: none found, another major, or an older minor than the server.
    """
    major, minor = server_version(conn)
    places = (
        [os.path.join(target.bindir, name)]
        if target.bindir
        else [
            f"/usr/lib/postgresql/{major}/bin/{name}",
            f"/usr/pgsql-{major}/bin/{name}",
            shutil.which(name) or "",
        ]
    )
    seen = []
    for path in places:
        if not path or not os.access(path, os.X_OK):
            continue
        found = _client_version(path)
        if found is None:
            continue
        if found[0] == major and found[1] >= minor:
            return path
        seen.append(f"{path} is {found[0]}.{found[1]}")
    if seen:
        told = "; ".join(seen)
    else:
        told = "looked at " + ", ".join(p for p in places if p)
    raise PgopsError(
        f"No {name} for PostgreSQL {major}.{minor} of {target}: {told}; "
        f"install the client of {major}.{minor} or later in {major}, or set pgops_bindir.",
        database=target.database,
    )


_CLIENT_VERSIONS: dict[str, tuple[int, int] | None] = {}


def _client_version(path: str) -> tuple[int, int] | None:
    if path not in _CLIENT_VERSIONS:
        try:
            done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
            found = re.search(r"(\d+)\.(\d+)", done.stdout)
        except (OSError, subprocess.SubprocessError):
            found = None
        _CLIENT_VERSIONS[path] = (int(found.group(1)), int(found.group(2))) if found else None
    return _CLIENT_VERSIONS[path]
