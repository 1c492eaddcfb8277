# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What maintenance does not mend and a person has to decide: told with its evidence and the way out. Writes nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    index_bloat,
    integrity,
    locks,
    maintenance_evidence,
    maintenance_history,
    needless_indexes,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.index_bloat import Reader
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_plan import LOCK_TIMEOUT_MS, Needs, as_user
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from psycopg2 import sql

# By an estimate a table has to look so airy before it is read.
WORTH_READING_PERCENT = 20.0

_TABLES = """
SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name, pg_catalog.pg_relation_size(c.oid) AS bytes,
       greatest(c.reltuples, 0)::float8 AS rows, w.width::float8 AS width, w.known = w.columns AS known,
       coalesce((SELECT option_value::int FROM pg_catalog.pg_options_to_table(c.reloptions)
                  WHERE option_name = 'fillfactor'), 100) AS fillfactor,
       pg_catalog.pg_stat_get_mod_since_analyze(c.oid) AS modified
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (SELECT count(*) AS columns, count(s.avg_width) AS known, coalesce(sum(s.avg_width * (1 - s.null_frac)), 0) AS width
                       FROM pg_catalog.pg_attribute a
                       LEFT JOIN pg_catalog.pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname
                             AND s.attname = a.attname AND NOT s.inherited
                      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS w
 WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND c.reltuples >= 0
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgops') AND n.nspname !~ '^pg_(toast|temp)'
   AND c.relpages::bigint * pg_catalog.current_setting('block_size')::bigint >= %s
 ORDER BY c.relpages DESC
"""


@dataclass(frozen=True)
class Reported:
    """From when on something is reported; each is a variable ``maintenance_<name>``.

    :ivar table_bloat_percent: of a table that is free, ``table_least_mb`` or more large.
    :ivar unused_after_days: for which the server must have counted.
    :ivar standbys: whose counts are added, ``host`` or ``host:port``.
    """

    table_bloat_percent: float = 40.0
    table_least_mb: float = 100.0
    unused_after_days: float = 30.0
    standbys: Sequence[str] = ()

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Reported:
        """:param given: the module's options.
        :return: the defaults with what is given in their place.
        :raises PgopsError: a number below 0."""
        values = {item.name: given[item.name] for item in fields(cls) if given.get(item.name) is not None}
        for name, value in values.items():
            if name != "standbys" and not value >= 0:
                raise PgopsError(f"maintenance_{name} is {value}, and takes a number of 0 or more; nothing was done.")
        return cls(**values)


def make(
    target: Target,
    needs: Needs,
    reported: Reported,
    *,
    user: str | None = None,
    run_id: str,
    progress: Progress,
    control: Control,
) -> dict[str, Any]:
    """:param user: as with :func:`maintenance_plan.make`, as are its locks.
    :return: ``table_bloat``, ``unused_indexes``, ``duplicate_indexes``, ``invalid_indexes`` and ``evidence``."""
    name = f"{locks.application_name(run_id)} maintenance report"
    with closing(connect(as_user(target, user), application_name=name)) as conn:
        execute(conn, f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
        tables = _bloated(conn, target, needs, reported, progress, control)
        execute(conn, f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
        evidence = needless_indexes.gather(conn, target, reported.standbys, name)
        found = [
            index
            for index in needless_indexes.indexes(conn)
            if not maintenance_evidence.excluded(str(index["table"]), needs.exclude)
        ]
        duplicates = needless_indexes.duplicates(found, evidence)
        twice = {one["index"] for one in duplicates}
        unused = needless_indexes.unused(found, evidence, reported.unused_after_days)
        return {
            "table_bloat": tables,
            "unused_indexes": [one for one in unused if one["index"] not in twice],
            "duplicate_indexes": duplicates,
            "invalid_indexes": integrity.invalid_indexes(conn),
            "evidence": {"servers": [dict(one) for one in evidence.servers], "missing": list(evidence.missing)},
        }


def _bloated(
    conn: Connection, target: Target, needs: Needs, reported: Reported, progress: Progress, control: Control
) -> list[dict[str, Any]]:
    block_size = maintenance_evidence.server(conn).block_size
    using, why_not = index_bloat.reader(conn)
    deadline = time.monotonic() + needs.measure_budget_s
    told = []
    for table in fetch_all(conn, _TABLES, (int(reported.table_least_mb * 2**20),)):
        full_name = f"{table['schema']}.{table['name']}"
        if maintenance_evidence.excluded(full_name, needs.exclude):
            continue
        control.check()
        estimate = _free_by_estimate(table, block_size)
        if estimate is not None and estimate < min(WORTH_READING_PERCENT, reported.table_bloat_percent):
            continue
        left_s = deadline - time.monotonic()
        if using is not None and left_s > 0:
            progress.emit(f"measuring table {full_name}", database=target.database)
            measured = _measured(conn, int(table["oid"]), using, left_s)
        else:
            measured = None
        percent = estimate if measured is None else measured
        if percent is None or percent < reported.table_bloat_percent:
            continue
        by = f"an estimate ({why_not or 'it was not measured in time'})" if measured is None else "pgstattuple_approx"
        told.append(_told((str(table["schema"]), str(table["name"])), int(table["bytes"]), percent, by))
    return told


def _free_by_estimate(table: Mapping[str, Any], block_size: int) -> float | None:
    """:return: percent; None where the widths of its columns are not known, or the rows have changed since."""
    if not table["known"] or not table["bytes"] or table["modified"] > index_bloat.STALE_SHARE * max(table["rows"], 1):
        return None
    row = 8 * math.ceil((24 + table["width"]) / 8) + 4
    pages = math.ceil(table["rows"] * row / ((block_size - index_bloat.PAGE_HEADER) * table["fillfactor"] / 100))
    free: float = 100 * (1 - pages * block_size / int(table["bytes"]))
    return round(free, 1)


def _measured(conn: Connection, oid: int, using: Reader, left_s: float) -> float | None:
    """Reads only the pages that the visibility map does not vouch for."""
    query = sql.SQL("SELECT * FROM {}(%s::oid::regclass)").format(sql.Identifier(using.schema, "pgstattuple_approx"))
    try:
        with index_bloat.reading(conn, using, left_s):
            seen = fetch_one(conn, query, (oid,)) or {}
    except psycopg2.Error as exc:
        if conn.closed or exc.pgcode is None:
            raise
        return None
    return round(float(seen["approx_free_percent"]) + float(seen["dead_tuple_percent"]), 1)


def _told(table: tuple[str, str], size: int, percent: float, by: str) -> dict[str, Any]:
    free = int(size * percent / 100)
    seconds = max(1, round((size - free) / maintenance_history.SPEEDS["reindex"]))
    return {
        "table": ".".join(table),
        "bytes": size,
        "free_bytes": free,
        "percent": percent,
        "by": by,
        "way_out": "VACUUM makes it usable for new rows of this table and gives it to nobody else; what is free at the end of its file it gives "
        "back with maintenance_truncate, under ACCESS EXCLUSIVE, for which readers and writers wait; if that is not enough, rewrite it online "
        f"with pg_repack or pg_squeeze, or in a window, in which nobody reads or writes it for about {seconds} s and the disk holds it "
        f"twice: VACUUM (FULL, ANALYZE) {'.'.join(map(quoted, table))}",
    }
