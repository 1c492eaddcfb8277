# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How much of a B-tree is air: first by an estimate, then by reading it (``pgstatindex``).

An estimate knows neither which entries share their key in one tuple nor that ``reltuples`` is stale, so it ranks and the measure
decides: the common estimate says -19 % of an index of which 70 % is free (measured).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import as_login_role
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_evidence import Index
from psycopg2 import sql

PAGE_HEADER, PAGE_OPAQUE = 24, 16
LINE_POINTER, TUPLE_HEADER, TID = 4, 8, 6
# A posting list has a sixth of a page at most.
POSTING_BYTES = 1344
# Of a table of which more than this share was changed since ANALYZE nothing is estimated.
STALE_SHARE = 0.2
LOCK_TIMEOUT_MS = 100

_EXTENSION = """
SELECT n.nspname::text AS schema, pg_catalog.has_function_privilege(current_user, p.oid, 'EXECUTE') AS own,
       pg_catalog.has_function_privilege(session_user, p.oid, 'EXECUTE') AS login, session_user::text AS role
  FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
  JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid AND p.proname = 'pgstatindex'
       AND p.proargtypes = ARRAY['pg_catalog.regclass'::pg_catalog.regtype::oid]::pg_catalog.oidvector
 WHERE e.extname = 'pgstattuple'
"""


@dataclass(frozen=True)
class Bloat:
    """How much of an index is air.

    :ivar estimate: percent by the estimate, negative where it is smaller than one would think; None where nothing is known.
    :ivar measured: percent by reading it, None where it was not read.
    :ivar why_not: why there is no measure, or why the estimate is none.
    """

    index: Index
    estimate: float | None
    measured: float | None = None
    why_not: str | None = None

    @property
    def percent(self) -> float | None:
        """What is known best."""
        return self.estimate if self.measured is None else self.measured

    @property
    def bytes(self) -> int:
        """That a rebuild gives back."""
        return int(self.index.bytes * max(0.0, self.percent or 0.0) / 100)


@dataclass(frozen=True)
class Reader:
    """How ``pgstatindex`` and ``pgstattuple_approx`` can be called here.

    :ivar schema: of the extension.
    :ivar as_login: whether only the role that logged in may.
    """

    schema: str
    as_login: bool


def reader(conn: Connection) -> tuple[Reader | None, str | None]:
    """:return: how to read an index, or why that cannot be done here, with what to type."""
    row = fetch_one(conn, _EXTENSION)
    if row is None:
        return None, "CREATE EXTENSION pgstattuple lets it be measured"
    if not (row["own"] or row["login"]):
        return None, f"GRANT pg_stat_scan_tables TO {quoted(row['role'])} lets it be measured"
    return Reader(str(row["schema"]), not row["own"]), None


def estimate(index: Index, *, block_size: int) -> float | None:
    """:return: percent of the index that is air, by the widths and the number of values that ANALYZE has found; None where they are
    not known, or are no longer true."""
    rows = index.reltuples
    if rows < 0 or index.known < index.columns or index.width is None or index.bytes == 0:
        return None
    if index.modified > STALE_SHARE * max(index.live, rows, 1):
        return None
    entry = _aligned(TUPLE_HEADER + index.width) + LINE_POINTER
    keys = min(rows, index.distinct_values or rows)
    needed = rows * entry
    if not (index.is_unique or index.never_deduplicates) and 0 < 2 * keys <= rows:
        lists = keys * math.ceil(rows / keys / max(1.0, (POSTING_BYTES - index.width) / TID))
        needed = lists * entry + rows * TID
    usable = (block_size - PAGE_HEADER - PAGE_OPAQUE) * index.fillfactor / 100
    leaves = math.ceil(needed / usable)
    # The first page tells where the root is; each inner page leads to some hundreds.
    pages = 1 + leaves + math.ceil(leaves * (entry + TUPLE_HEADER) / usable)
    return round(100 * (1 - pages * block_size / index.bytes), 1)


def _aligned(size: float) -> float:
    return float(8 * math.ceil(size / 8))


def measure(
    conn: Connection,
    found: Sequence[Bloat],
    using: Reader | None,
    why_not: str | None,
    *,
    budget_s: float,
    block_size: int,
    tell: Callable[[str], None] = lambda text: None,
    check: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Bloat]:
    """Read the indexes, in the order given, until the time is used up. Takes ACCESS SHARE on one index at a time.

    :param budget_s: seconds for all of them.
    :param check: raises where the job has to end.
    :return: the same with what was measured.
    """
    deadline, told = clock() + budget_s, []
    for number, bloat in enumerate(found):
        check()
        left_s = deadline - clock()
        if using is None:
            told.append(replace(bloat, why_not=why_not))
        elif left_s <= 0:
            told.append(replace(bloat, why_not=f"not measured within {budget_s:g} s (maintenance_measure_budget_s)"))
        else:
            tell(f"measuring index {bloat.index.full_name} ({number + 1} of {len(found)})")
            told.append(_measured(conn, bloat, using, left_s, block_size))
    return told


def _measured(conn: Connection, bloat: Bloat, using: Reader, left_s: float, block_size: int) -> Bloat:
    query = sql.SQL("SELECT * FROM {}(%s::oid::regclass)").format(sql.Identifier(using.schema, "pgstatindex"))
    try:
        with reading(conn, using, left_s):
            seen: dict[str, Any] = fetch_one(conn, query, (bloat.index.oid,)) or {}
    except psycopg2.Error as exc:
        if conn.closed or exc.pgcode is None:
            raise
        return replace(bloat, why_not=f"not measured (SQLSTATE {exc.pgcode})")
    return replace(bloat, measured=_percent(seen, bloat.index.fillfactor, block_size))


def _percent(seen: dict[str, Any], fillfactor: int, block_size: int) -> float:
    """What of its pages a rebuild would not need again: a deleted page is free for the index, and for nobody else."""
    pages = int(seen["index_size"]) // block_size
    density = float(seen["avg_leaf_density"])
    # An empty one has no density.
    filled = int(seen["leaf_pages"]) * (density if math.isfinite(density) else 0.0) / fillfactor
    needed = 1 + math.ceil(filled) + int(seen["internal_pages"]) * min(1.0, filled / max(1, int(seen["leaf_pages"])))
    return round(max(0.0, 100 * (1 - needed / pages)) if pages else 0.0, 1)


@contextmanager
def reading(conn: Connection, using: Reader, left_s: float) -> Iterator[None]:
    """The extension's functions may be called, for so many seconds, and wait for no lock."""
    execute(conn, f"SET lock_timeout = {LOCK_TIMEOUT_MS}; SET statement_timeout = {max(1, int(1000 * left_s))}")
    try:
        with as_login_role(conn) if using.as_login else nullcontext():
            yield
    finally:
        if not conn.closed:
            execute(conn, "SET lock_timeout = 0; SET statement_timeout = 0")
