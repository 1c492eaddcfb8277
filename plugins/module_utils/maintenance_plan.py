# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which tables and indexes need work, in which order, why, and how long it will take. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    index_bloat,
    index_rebuilds,
    locks,
    maintenance_evidence,
    maintenance_history,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, connect, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.index_bloat import Bloat
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_evidence import Index, Server, Table
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_history import Known
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_partitions import Below
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress

FREEZE, VACUUM, ANALYZE, REINDEX = "freeze", "vacuum", "analyze", "reindex"
ORDER = (FREEZE, VACUUM, ANALYZE, REINDEX)
DAY_S = 86400.0
LOCK_TIMEOUT_MS = 1000
# An estimate that nobody has measured must say so much more, since it is often wrong.
UNMEASURED_MARGIN = 20.0


@dataclass(frozen=True)
class Needs:
    """From when on something needs work; each is a variable ``maintenance_<name>``.

    :ivar modified_percent: of a table's rows, since the last ANALYZE; at least ``rows_least`` rows.
    :ivar analyze_after_days: statistics of a table of which any row was modified are no older.
    :ivar dead_percent: of a table's rows, at least ``rows_least``.
    :ivar inserted_percent: since the last VACUUM, so that index-only scans need not read the table.
    :ivar freeze_percent: of ``autovacuum_freeze_max_age``, from which on a table is frozen before the server forces it.
    :ivar index_bloat_percent: of an index that is air, measured; of one that cannot be measured 20 more.
    :ivar index_least_mb: smaller indexes stay as they are.
    :ivar reindex_after_days: days between two rebuilds of one index.
    :ivar measure_budget_s: seconds for reading indexes.
    :ivar exclude: ``schema.table``, with ``*`` for anything, that are left alone.
    """

    modified_percent: float = 10.0
    analyze_after_days: float = 7.0
    dead_percent: float = 10.0
    inserted_percent: float = 20.0
    rows_least: int = 1000
    freeze_percent: float = 50.0
    index_bloat_percent: float = 40.0
    index_least_mb: float = 10.0
    reindex_after_days: float = 10.0
    measure_budget_s: float = 60.0
    exclude: Sequence[str] = ()

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Needs:
        """:param given: the module's options.
        :return: the defaults with what is given in their place.
        :raises PgopsError: a number below 0."""
        values = {item.name: given[item.name] for item in fields(cls) if given.get(item.name) is not None}
        for name, value in values.items():
            if name != "exclude" and not value >= 0:
                raise PgopsError(f"maintenance_{name} is {value}, and takes a number of 0 or more; nothing was done.")
        return cls(**values)


@dataclass(frozen=True)
class Item:
    """One piece of work.

    :ivar action: ``freeze`` or ``vacuum`` (both VACUUM), ``analyze``, ``reindex``.
    :ivar with_analyze: whether the VACUUM analyzes as well.
    :ivar object: ``schema.name`` of the table, or of the index.
    :ivar bytes: that are read.
    :ivar gain_bytes: that a rebuild is expected to give back.
    :ivar weight: which of two of the same action comes first: the larger.
    :ivar due: of a table that is frozen, ``xid_age``, ``multixact_age`` or both: what has to fall.
    :ivar lacks: the right that the role lacks, with what to type; None where it may.
    """

    action: str
    schema: str
    name: str
    table_schema: str
    table_name: str
    oid: int
    table_oid: int
    kind: str
    reasons: Sequence[str]
    bytes: int
    forecast_s: float
    with_analyze: bool = False
    gain_bytes: int = 0
    weight: float = 0.0
    due: Sequence[str] = ()
    lacks: str | None = None
    rank: int = 0

    @property
    def object(self) -> str:
        """``schema.name``."""
        return f"{self.schema}.{self.name}"

    @property
    def table(self) -> str:
        """``schema.name`` of the table that it works on."""
        return f"{self.table_schema}.{self.table_name}"

    def as_dict(self) -> dict[str, Any]:
        """:return: plain data, which :meth:`of` takes."""
        plain = {"reasons": list(self.reasons), "due": list(self.due), "object": self.object, "table": self.table}
        return {**asdict(self), **plain}

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Item:
        """:return: the item that :meth:`as_dict` has made plain."""
        return cls(**{item.name: given[item.name] for item in fields(cls) if item.name in given})


@dataclass(frozen=True)
class Plan:
    """:ivar at: the server's time when it was made.
    :ivar items: in the order in which they are worked on.
    :ivar left_out: indexes that looked like work and are left, with ``why``.
    :ivar looked_at: how many ``tables`` and ``indexes``.
    """

    at: str
    items: Sequence[Item]
    left_out: Sequence[Mapping[str, Any]] = ()
    looked_at: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """:return: plain data for a result."""
        return {
            "at": self.at,
            "items": [item.as_dict() for item in self.items],
            "left_out": [dict(one) for one in self.left_out],
            "looked_at": dict(self.looked_at),
            "forecast_s": round(sum(item.forecast_s for item in self.items), 1),
        }


def make(
    target: Target, needs: Needs, *, user: str | None = None, run_id: str, progress: Progress, control: Control
) -> Plan:
    """Look and plan.

    Takes ACCESS SHARE on one table or index at a time, and waits for it no longer than a second.

    :param user: the role that is to do it, where that is not the one that migrates.
    :raises PgopsError: the server counts nothing (``track_counts``), so that no work could be proved.
    :raises Interrupted: asked to end.
    """
    name = f"{locks.application_name(run_id)} maintenance plan"
    with closing(connect(target, application_name=name)) as book:
        known = maintenance_history.read(book)
        recent = index_rebuilds.recent(book, needs.reindex_after_days)
    with closing(connect(as_user(target, user), application_name=name)) as conn:
        execute(conn, f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
        server = replace(maintenance_evidence.server(conn), migrates=target.owner or target.user)
        if not server.counts:
            raise PgopsError(
                f"Nothing was planned in {target.database}: track_counts is off, so the server tells of no table what it needs, nor "
                "whether work on it was done.",
                database=target.database,
                hint="ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf()",
            )
        tables = [
            table
            for table in maintenance_evidence.tables(
                conn,
                xid_age=int(server.freeze_max_age * needs.freeze_percent / 100),
                multixact_age=int(server.multixact_freeze_max_age * needs.freeze_percent / 100),
            )
            if not maintenance_evidence.excluded(table.full_name, needs.exclude)
        ]
        items = [item for table in tables if (item := of_table(table, needs, server, known, conn))]
        seen = [
            index
            for index in maintenance_evidence.indexes(conn, least_bytes=int(needs.index_least_mb * 2**20))
            if not maintenance_evidence.excluded(index.table, needs.exclude)
        ]
        bloats, left_out = _bloats(conn, target, seen, recent, needs, server, progress, control)
        for bloat in bloats:
            decided = of_index(bloat, needs, known, conn, server)
            if isinstance(decided, Item):
                items.append(decided)
            elif decided:
                left_out.append({"object": bloat.index.full_name, "table": bloat.index.table, "why": decided})
        return Plan(server.now, ranked(items), left_out, {"tables": len(tables), "indexes": len(seen)})


def as_user(target: Target, user: str | None) -> Target:
    """:return: the same database as the role that maintains; without one as the role that migrates."""
    return target.with_(user=user, owner=None) if user else target


def _bloats(
    conn: Connection,
    target: Target,
    seen: Sequence[Index],
    recent: Mapping[str, str],
    needs: Needs,
    server: Server,
    progress: Progress,
    control: Control,
) -> tuple[list[Bloat], list[dict[str, Any]]]:
    """:return: B-trees with what is known of them, and those that nobody can say anything of."""
    wanted: list[Bloat] = []
    left_out: list[dict[str, Any]] = []
    for index in seen:
        if not index.valid or index.exclusion or index.method != "btree":
            continue  # an invalid one is told elsewhere; REINDEX CONCURRENTLY knows no exclusion constraints
        if index.full_name in recent:
            why = f"rebuilt at {recent[index.full_name]}, and not again within {needs.reindex_after_days:g} days"
            left_out.append({"object": index.full_name, "table": index.table, "why": why})
            continue
        wanted.append(Bloat(index, index_bloat.estimate(index, block_size=server.block_size)))
    # What gives most back by the estimate is read first; of what it knows nothing it may be all.
    wanted.sort(key=lambda bloat: -(bloat.index.bytes if bloat.estimate is None else bloat.bytes))
    using, why_not = index_bloat.reader(conn)

    def tell(text: str) -> None:
        progress.emit(text, database=target.database)

    found = index_bloat.measure(
        conn, wanted, using, why_not,
        budget_s=needs.measure_budget_s, block_size=server.block_size, tell=tell, check=control.check,
    )  # fmt: skip
    return found, left_out


def of_table(table: Table, needs: Needs, server: Server, known: Known, conn: Connection) -> Item | None:
    """:return: what a table needs, None where it needs nothing."""
    due = [] if table.kind == "p" else _due(table, needs, server)
    vacuum = [] if table.kind == "p" else _vacuum_reasons(table, needs)
    analyze = _analyze_reasons(table, needs, known)
    if not (due or vacuum or analyze):
        return None
    action = FREEZE if due else VACUUM if vacuum else ANALYZE
    size = table.bytes + table.index_bytes if action != ANALYZE else _sampled(table, server)
    weights = {
        FREEZE: max((share for _, share, _ in due), default=0.0),
        VACUUM: table.dead,
        # The whole comes before its parts, which it does as well.
        ANALYZE: table.modified if table.below is None else table.rows,
    }
    return Item(
        action,
        table.schema,
        table.name,
        table.schema,
        table.name,
        table.oid,
        table.oid,
        table.kind,
        [*(reason for _, _, reason in due), *vacuum, *analyze],
        size,
        known.forecast(action, size, table.full_name),
        with_analyze=bool(analyze) and action != ANALYZE,
        weight=float(weights[action]),
        due=[age for age, _, _ in due],
        lacks=None
        if table.may
        else maintenance_evidence.right_wanted(conn, (table.schema, table.name), table.owner, server),
    )


def _sampled(table: Table, server: Server) -> int:
    if table.below is not None:
        # It does all of its partitions as well.
        return table.below.sampled + min(table.below.bytes, 300 * server.statistics_target * server.block_size)
    # ANALYZE reads as many pages as it wants rows.
    return min(table.bytes, 300 * server.statistics_target * server.block_size)


def _due(table: Table, needs: Needs, server: Server) -> list[tuple[str, float, str]]:
    """:return: which of its ages has to fall, its share of what the server bears, and that in words."""
    told = []
    for age, years, most, what, setting in (
        ("xid_age", table.xid_age, server.freeze_max_age, "transaction id", "autovacuum_freeze_max_age"),
        ("multixact_age", table.multixact_age, server.multixact_freeze_max_age, "multixact",
         "autovacuum_multixact_freeze_max_age"),
    ):  # fmt: skip
        if years >= most * needs.freeze_percent / 100:
            reason = f"its oldest {what} is {years:,} old, {100 * years / most:.0f} % of {setting}, where the server forces a VACUUM"
            told.append((age, years / most, reason))
    return told


def _vacuum_reasons(table: Table, needs: Needs) -> list[str]:
    told = []
    if table.dead >= needs.rows_least and table.dead >= table.rows * needs.dead_percent / 100:
        told.append(f"{table.dead:,} dead rows beside {table.rows:,}")
    if table.inserted >= needs.rows_least and table.inserted >= table.rows * needs.inserted_percent / 100:
        told.append(
            f"{table.inserted:,} rows inserted since the last VACUUM, which index-only scans look up in the table"
        )
    return told


def _analyze_reasons(table: Table, needs: Needs, known: Known) -> list[str]:
    if table.below is not None:
        return _reasons_from_below(table, table.below, needs, known.written.get(table.full_name))
    if table.catalog:
        return []
    if table.analyzed_s is None:
        return [f"never analyzed, with about {max(table.rows, table.modified):,} rows"] if table.bytes else []
    if table.modified >= needs.rows_least and table.modified >= table.rows * needs.modified_percent / 100:
        return [f"{table.modified:,} rows modified since the last ANALYZE, of {table.rows:,}"]
    if table.modified and table.analyzed_s >= needs.analyze_after_days * DAY_S:
        return [
            f"statistics are {table.analyzed_s / DAY_S:.0f} days old, and {table.modified:,} rows were modified since"
        ]
    return []


def _reasons_from_below(table: Table, below: Below, needs: Needs, told: tuple[int, float] | None) -> list[str]:
    """Nobody else does it: autovacuum passes over partitioned tables, whose plans go by the statistics of the whole."""
    if table.reltuples < 0:
        return ["a partitioned table that was never analyzed"]
    # What was told before somebody else analyzed it is no beginning to count from.
    written = told[0] if told and table.analyzed_s is not None and table.analyzed_s >= told[1] else None
    modified = below.since(written, table.reltuples)
    if modified >= needs.rows_least and modified >= table.rows * needs.modified_percent / 100:
        return [f"{modified:,} rows modified below it since the last ANALYZE, of {table.rows:,}"]
    age = float("inf") if table.analyzed_s is None else table.analyzed_s
    if age >= needs.analyze_after_days * DAY_S and below.any_since(modified, age):
        old = "of an unknown age" if table.analyzed_s is None else f"{age / DAY_S:.0f} days old"
        return [f"statistics of the whole are {old}, and rows below it were modified since"]
    return []


def of_index(bloat: Bloat, needs: Needs, known: Known, conn: Connection, server: Server) -> Item | str | None:
    """:return: the rebuild that an index needs; why one that looks like it gets none; None where nothing is wrong with it."""
    index, limit = bloat.index, needs.index_bloat_percent
    if bloat.measured is None:
        limit = min(limit + UNMEASURED_MARGIN, 95.0)
        if bloat.estimate is None:
            return f"nobody knows how much of it is air: its table has no fresh statistics, and {bloat.why_not}"
    percent = bloat.percent or 0.0
    if percent < limit:
        if bloat.estimate is not None and bloat.estimate >= needs.index_bloat_percent:
            if bloat.measured is None:
                return f"{bloat.estimate:.0f} % of it are air by the estimate, which alone must say {limit:.0f} %: {bloat.why_not}"
            return f"the estimate says {bloat.estimate:.0f} % air, the measure {bloat.measured:.0f} %: it is well"
        return None
    if bloat.measured is None:
        reason = f"{percent:.0f} % of it are air by the estimate alone ({bloat.why_not})"
    else:
        by = "nothing" if bloat.estimate is None else f"{bloat.estimate:.0f} %"
        reason = f"{percent:.0f} % of it are air as measured (the estimate says {by})"
    size = index.table_bytes + index.bytes
    return Item(
        REINDEX,
        index.schema,
        index.name,
        index.table_schema,
        index.table_name,
        index.oid,
        index.table_oid,
        "i",
        [reason],
        size,
        known.forecast(REINDEX, size, index.full_name),
        gain_bytes=bloat.bytes,
        weight=float(bloat.bytes),
        lacks=None
        if index.may
        else maintenance_evidence.right_wanted(conn, (index.table_schema, index.table_name), index.owner, server),
    )


def ranked(items: Sequence[Item]) -> list[Item]:
    """:return: what the server would force first, oldest first; then what has most dead rows, what was modified most, and the rebuilds
    that give most back."""
    in_order = sorted(items, key=lambda item: (ORDER.index(item.action), -item.weight, item.object))
    return [replace(item, rank=number) for number, item in enumerate(in_order, 1)]
