# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How fast a server is, by a probe of a second: so that what was measured on one can be told for another.

It sorts and hashes numbers, writes and reads a temporary table, and commits a few bytes to the WAL. Nothing stays of it.
"""

from __future__ import annotations

import statistics
import time
from contextlib import closing
from dataclasses import asdict, dataclass

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import disk_forecast
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_one,
    system_identifier,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

LIMIT_S = 20
ROUNDS = 3
COMMITS = 5
TABLE_BYTES = 16 << 20

# WAL at this rate means that a step does nothing but write.
BUSY_WRITING = 100 << 20  # bytes a second
MOST_OF_WRITING = 0.8

_CPU = """
SELECT count(DISTINCT h) FROM (SELECT hashtextextended(g::text, 0) AS h FROM generate_series(1, 60000) AS g ORDER BY 1) AS sorted
"""
# 16 MB, twice what temp_buffers is by default: most of it goes through the file system.
_WRITE = """
CREATE TEMPORARY TABLE pgops_probe ON COMMIT DROP AS
SELECT g AS n, repeat(encode(sha256(int4send(g)), 'hex'), 15) AS filler FROM generate_series(1, 16000) AS g
"""
_READ = "SELECT count(*), max(length(filler)) FROM pgops_probe"
_COMMIT = "SELECT pg_catalog.pg_logical_emit_message(true, 'pgops', 'probe')"


@dataclass(frozen=True)
class Speed:
    """Seconds that each part of the probe took; the best of a few rounds, since others can only make it slower.

    :ivar cpu_s: sort and hash.
    :ivar write_s: 16 MB into a temporary table.
    :ivar read_s: the same read.
    :ivar commit_s: until a commit is on the disk, the median.
    """

    cpu_s: float
    write_s: float
    read_s: float
    commit_s: float

    def as_dict(self) -> dict[str, float]:
        """:return: the fields."""
        return {name: round(value, 5) for name, value in asdict(self).items()}

    @property
    def write_bytes_per_s(self) -> float:
        """:return: bytes a second."""
        return TABLE_BYTES / max(self.write_s, 1e-6)


@dataclass(frozen=True)
class Servers:
    """The two servers.

    :ivar pair: their names, for the history: rehearsed on, applied to.
    :ivar same: they are one cluster; then no probe is needed.
    :ivar standbys: how many standbys stream from production.
    :ivar free_bytes: of production's disk, None where nobody can see it.
    """

    pair: tuple[str, str]
    same: bool
    scratch: Speed | None = None
    production: Speed | None = None
    standbys: int = 0
    free_bytes: int | None = None

    def factor(self, seconds: float, wal_bytes: int) -> float:
        """:return: by how much a step of so many seconds and bytes of WAL takes longer in production."""
        if self.same or self.scratch is None or self.production is None:
            return 1.0
        writing = min(MOST_OF_WRITING, wal_bytes / max(seconds, 0.001) / BUSY_WRITING)
        cpu = self.production.cpu_s / self.scratch.cpu_s
        disk = (self.production.write_s + self.production.read_s) / (self.scratch.write_s + self.scratch.read_s)
        return min(10.0, max(0.1, (1 - writing) * cpu + writing * disk))


def measure(target: Target, *, application_name: str) -> Speed:
    """:return: how fast the server of this database is for this role. Takes no lock on anything of others.
    :raises PgopsError: the role may not make a temporary table, or the probe took more than 20 s."""
    with closing(connect(target, application_name=application_name)) as conn:
        try:
            execute(
                conn,
                f"SET statement_timeout = '{LIMIT_S}s'; SET max_parallel_workers_per_gather = 0; SET synchronous_commit = on",
            )
            cpu = min(_seconds(conn, _CPU) for _round in range(ROUNDS))
            writes, reads = [], []
            for _round in range(ROUNDS):
                execute(conn, "BEGIN")
                writes.append(_seconds(conn, _WRITE))
                reads.append(_seconds(conn, _READ))
                execute(conn, "ROLLBACK")
            commits = statistics.median(_seconds(conn, _COMMIT) for _commit in range(COMMITS))
        except psycopg2.Error as exc:
            raise PgopsError(
                f"The speed of the server of {target} could not be measured (SQLSTATE {exc.pgcode}).",
                sqlstate=exc.pgcode,
                database=target.database,
                hint=f"GRANT TEMPORARY ON DATABASE {target.database} TO {target.owner or target.user}, or look what keeps the server busy.",
            ) from None
    return Speed(cpu, min(writes), min(reads), commits)


def _seconds(conn: Connection, statement: str) -> float:
    began = time.perf_counter()
    execute(conn, statement)
    return time.perf_counter() - began


def _if_allowed(target: Target, application_name: str) -> Speed | None:
    """:return: :func:`measure`, None where the role may not make a temporary table, or the server has no time for it."""
    try:
        return measure(target, application_name=application_name)
    except PgopsError:
        return None


def both(target: Target, copy: Target, *, application_name: str) -> Servers:
    """Look at both servers of a rehearsal.

    :param target: the database that a migration is for.
    :param copy: its copy.
    :return: how fast they are, and what is known of the first: its standbys and what its disk has free.
    """
    with (
        closing(connect(target, application_name=application_name)) as production,
        closing(connect(copy, application_name=application_name)) as scratch,
    ):
        same = system_identifier(production) == system_identifier(scratch)
        row = fetch_one(production, "SELECT count(*) AS standbys FROM pg_catalog.pg_stat_replication")
        free = disk_forecast.free_bytes(production, database=target.database)
    speed = _if_allowed(target, f"{application_name} probe")
    return Servers(
        pair=(f"{copy.host}:{copy.port or 5432}", f"{target.host}:{target.port or 5432}"),
        same=same,
        scratch=speed if same else _if_allowed(copy, f"{application_name} probe"),
        production=speed,
        standbys=int(row["standbys"]) if row else 0,
        free_bytes=free,
    )
