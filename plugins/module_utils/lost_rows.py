# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which rows of a kept database the live one lacks: keys and hashes of both, brought together in bounded memory.

First each side adds up the hashes of its rows in buckets, by the hash of the key; no row leaves the server. Then the rows
of the buckets that differ come in the order of that hash, and the two streams are merged. The hash and not the key gives
the order: it needs no index that is read row by row, no collation in which we would have to compare, and serves a table
without a key as well. Two keys of the same 64 bits beside each other are as good as impossible, and would be told as
one row that was updated.

A row that differs is lost where the kept database wrote it since the two parted, which its transaction tells on either side.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import content, row_versions
from ansible_collections.whitecross.pgops.plugins.module_utils.both_databases import Pair, Side
from ansible_collections.whitecross.pgops.plugins.module_utils.common_tables import Common
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.content import Table
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from psycopg2 import sql

INSERTED = "inserted"
UPDATED = "updated"
DELETED = "deleted"
BOTH = "both"  # written on both sides since
KINDS = (INSERTED, UPDATED, DELETED, BOTH)

BUCKET_ROWS = 256
# As many sums as are held for one table at most, whatever its size.
MOST_BUCKETS = 1 << 15
FETCHED = 2000

_SUMS = "SELECT {bucket}, count(*), coalesce(sum({row}), 0)::text FROM ONLY {table}"
_ROWS = (
    "DECLARE pgops_lost NO SCROLL CURSOR FOR SELECT {key}, {row}, ctid::text, {written}, {own} "
    "FROM ONLY {table}{where} ORDER BY 1, 2"
)
# By whom a row may have been written last: a step that inserts there, one that changes rows there.
_INSERTER, _UPDATER = 1, 2
_OWN = """(CASE WHEN xmin::text::bigint = ANY ({inserting}::bigint[]) THEN 1 ELSE 0 END
           + CASE WHEN xmin::text::bigint = ANY ({updating}::bigint[]) THEN 2 ELSE 0 END)"""


class Row(NamedTuple):
    """A row of one side, as the merge sees it."""

    key: int
    hash: int
    place: str
    written: bool
    own: int


@dataclass(frozen=True)
class LostRow:
    """One difference.

    :ivar own: a version's own transaction wrote the kept row last.
    :ivar kept: its place (ctid) in the kept database, empty where it is not there; likewise ``live``.
    :ivar same: how many rows of the kept database are like it, where there is no key.
    """

    kind: str
    own: bool
    kept: str
    live: str
    same: int = 1


@dataclass
class Lost:
    """What of one table is lost, in rows.

    :ivar change: ``rows``, or ``new table`` where the live database has no such table.
    :ivar both: of the updated and inserted ones, those whose key was written in the live database since, too.
    :ivar own_inserted: what versions wrote last, apart from the others; likewise ``own_updated``.
    :ivar held_back: how many refer to a key of ``both``, also by way of others; None where nothing was exported.
    """

    table: str
    change: str = "rows"
    key: list[str] = field(default_factory=list)
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    both: int = 0
    own_inserted: int = 0
    own_updated: int = 0
    held_back: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """:return: all of them."""
        return self.inserted + self.updated + self.deleted + self.both + self.own_inserted + self.own_updated

    def as_dict(self) -> dict[str, Any]:
        """:return: for a module's result."""
        return asdict(self)

    def add(self, row: LostRow) -> None:
        """Count one."""
        name = f"own_{row.kind}" if row.own and row.kind in (INSERTED, UPDATED) else row.kind
        setattr(self, name, getattr(self, name) + 1)


Found = Callable[[Common, LostRow], None]


def compare(
    pair: Pair, tables: Sequence[Common], found: Found | None, *, progress: Progress, control: Control
) -> list[Lost]:
    """Count what is lost in each table that both have. Reads every table once on each side, and twice where it differs.

    :param found: is given each difference, table by table in the order of ``tables``.
    :return: the tables in which something is lost, in that order.
    :raises PgopsError: a table cannot be read. :raises Interrupted: between two parts.
    """
    differing = _differing(pair, tables, progress, control)
    lost = []
    for table in tables:
        if table.name not in differing:
            continue
        control.check()
        progress.emit(f"comparing the rows of {table.name}", database=pair.live.database)
        entry = Lost(table.name, key=list(table.key), notes=table.notes)
        for row in _lost_rows(pair, table, differing[table.name]):
            entry.add(row)
            if found:
                found(table, row)
        if entry.rows:
            lost.append(entry)
    return lost


def whole_table(pair: Pair, table: Table) -> Lost:
    """:return: the rows of a table that the live database does not have at all."""
    row = fetch_one(
        pair.kept.conn,
        sql.SQL("SELECT count(*) AS rows, count(*) FILTER (WHERE {} & 1 = 1) AS own FROM ONLY {}").format(
            _own(pair, table), _named(table)
        ),
    )
    assert row is not None
    return Lost(
        table.quoted, "new table", inserted=int(row["rows"]) - int(row["own"]), own_inserted=int(row["own"]),
        notes=["the live database has no such table: the rows are in the CSV alone"],
    )  # fmt: skip


# -- sums ---------------------------------------------------------------------------------------------------------------


def _buckets(table: Common) -> int:
    wanted = max(table.rows, (table.kept.pages + table.live.pages) * 10) // BUCKET_ROWS
    return min(1 << wanted.bit_length(), MOST_BUCKETS) if wanted else 1


def _bucket(table: Common) -> sql.Composable:
    number = _buckets(table)
    if number == 1:
        return sql.SQL("0")
    return sql.SQL("({} & {})::int").format(table.key_hash(), sql.Literal(number - 1))


@dataclass(frozen=True)
class _Part:
    """A range of pages of one side's table."""

    pages: int
    table: Common
    side: Side
    relation: Table
    sign: int
    range: tuple[int, int | None]


def _differing(pair: Pair, tables: Sequence[Common], progress: Progress, control: Control) -> dict[str, list[int]]:
    """:return: of each table that differs the buckets that do."""
    work = []
    for table in tables:
        for side, relation, sign in ((pair.kept, table.kept, 1), (pair.live, table.live, -1)):
            for first, end in content.parts(relation):
                pages = max((relation.pages if end is None else end) - first, 1)
                work.append(_Part(pages, table, side, relation, sign, (first, end)))
    # Largest first, so that the sessions end together.
    adding = _Adding(sorted(work, key=lambda part: -part.pages), pair.live.database, progress, control)
    adding.share(len(pair.kept.conns))
    return {
        name: sorted(bucket for bucket, difference in sums.items() if difference != (0, 0))
        for name, sums in adding.sums.items()
        if any(difference != (0, 0) for difference in sums.values())
    }


class _Adding:
    """Adds the kept side's counts and sums up and takes the live side's away, by several sessions at once."""

    def __init__(self, work: list[_Part], database: str, progress: Progress, control: Control) -> None:
        self.work: queue.SimpleQueue[_Part] = queue.SimpleQueue()
        for part in work:
            self.work.put(part)
        self.database = database
        self.pages = sum(part.pages for part in work)
        self.done = 0
        self.progress, self.control = progress, control
        self.sums: dict[str, dict[int, tuple[int, int]]] = {}
        self.lock = threading.Lock()
        self.failure: BaseException | None = None

    def share(self, sessions: int) -> None:
        threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(1, sessions)]
        for thread in threads:
            thread.start()
        self._run(0)
        for thread in threads:
            thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self, number: int) -> None:
        try:
            while self.failure is None:
                try:
                    part = self.work.get_nowait()
                except queue.Empty:
                    return
                self.control.check()
                self._add(part, part.side.conns[number])
        except BaseException as exc:  # noqa: BLE001 - raised again by the thread that waits
            with self.lock:
                self.failure = self.failure or exc

    def _add(self, part: _Part, conn: Connection) -> None:
        question = sql.SQL(_SUMS).format(
            bucket=_bucket(part.table), row=part.table.row_hash(), table=_named(part.relation)
        ) + content.within(part.range)  # fmt: skip
        if _buckets(part.table) > 1:
            question += sql.SQL(" GROUP BY 1")
        with conn.cursor() as cursor:
            try:
                cursor.execute(question)
                counted = cursor.fetchall()
            except psycopg2.Error as exc:
                self.control.check()
                raise from_psycopg(exc, f"Reading {part.table.name} of {part.side.database} failed") from None
        with self.lock:
            sums = self.sums.setdefault(part.table.name, {})
            for bucket, rows, total in counted:
                before = sums.get(bucket, (0, 0))
                sums[bucket] = (before[0] + part.sign * rows, before[1] + part.sign * int(total))
            self.done += part.pages
            self.progress.emit(
                "comparing with the kept database", database=self.database, done=self.done, total=self.pages,
                unit="pages",
            )  # fmt: skip


# -- rows ---------------------------------------------------------------------------------------------------------------


def _named(table: Table) -> sql.Composable:
    return sql.Identifier(table.schema, table.name)


def _own(pair: Pair, table: Table) -> sql.Composable:
    return sql.SQL(_OWN).format(
        inserting=sql.Literal(pair.own.inserting(table)), updating=sql.Literal(pair.own.updating(table))
    )


def _lost_rows(pair: Pair, table: Common, buckets: list[int]) -> Iterator[LostRow]:
    with ThreadPoolExecutor(2) as pool:
        # Each sorts before its first row; both at a time.
        asked = [
            pool.submit(_Stream, pair.kept, table, table.kept, buckets, _own(pair, table.kept)),
            pool.submit(_Stream, pair.live, table, table.live, buckets, _NOBODY),
        ]
        kept, live = (future.result() for future in asked)
    for ours, theirs in _groups(iter(kept), iter(live)):
        yield from _of_one_key(ours, theirs)


_NOBODY = sql.SQL("0")


class _Stream:
    """The rows of one side in the order of their hashes, some thousands at a time."""

    def __init__(self, side: Side, table: Common, relation: Table, buckets: list[int], own: sql.Composable) -> None:
        self._conn = side.conn
        self._table = table.name
        where: sql.Composable = sql.SQL("")
        if _buckets(table) > 1 and len(buckets) < _buckets(table):
            where = sql.SQL(" WHERE {} = ANY ({})").format(_bucket(table), sql.Literal(buckets))
        sure = side.since.kept is None or table.name in side.since.kept
        # Of a row of which nobody knows, the kept one counts as written since and the live one as the backup's.
        window = side.since.window if sure or own is _NOBODY else row_versions.all_rows()
        self._ask(
            sql.SQL(_ROWS).format(
                key=table.key_hash(), row=table.row_hash(), written=row_versions.written(window), own=own,
                table=_named(relation), where=where,
            )
        )  # fmt: skip
        self._rows = self._fetch()

    def _ask(self, question: sql.Composable) -> None:
        try:
            execute(self._conn, question)
        except psycopg2.Error as exc:
            raise from_psycopg(exc, f"Reading {self._table} failed") from None

    def _fetch(self) -> list[Row]:
        with self._conn.cursor() as cursor:
            try:
                cursor.execute(f"FETCH {FETCHED} FROM pgops_lost")
                return [Row(*row) for row in cursor.fetchall()]
            except psycopg2.Error as exc:
                raise from_psycopg(exc, f"Reading {self._table} failed") from None

    def __iter__(self) -> Iterator[Row]:
        while self._rows:
            yield from self._rows
            self._rows = self._fetch()
        self._ask(sql.SQL("CLOSE pgops_lost"))


def _groups(kept: Iterator[Row], live: Iterator[Row]) -> Iterator[tuple[list[Row], list[Row]]]:
    """:return: by key the rows of both sides."""
    ours, theirs = next(kept, None), next(live, None)
    while ours or theirs:
        key = min(row.key for row in (ours, theirs) if row)
        mine: list[Row] = []
        others: list[Row] = []
        while ours and ours.key == key:
            mine.append(ours)
            ours = next(kept, None)
        while theirs and theirs.key == key:
            others.append(theirs)
            theirs = next(live, None)
        yield mine, others


def _of_one_key(kept: list[Row], live: list[Row]) -> Iterator[LostRow]:
    """Where there is no key, these are all the equal rows of both sides."""
    alone, left = _without_pairs(kept, live)
    for row in alone:
        other = left.pop() if left else None
        if not row.written:
            # The live database has changed or deleted it since; nothing is lost.
            continue
        if other is None:
            yield LostRow(INSERTED, bool(row.own & _INSERTER), row.place, "", len(kept))
        else:
            yield LostRow(BOTH if other.written else UPDATED, bool(row.own & _UPDATER), row.place, other.place)
    for other in left:
        if not other.written:
            yield LostRow(DELETED, False, "", other.place, len(kept))


def _without_pairs(kept: list[Row], live: list[Row]) -> tuple[list[Row], list[Row]]:
    """:return: the rows that have none like them on the other side; of equal ones those that were written since stay over."""
    if len(kept) == len(live) == 1:
        return ([], []) if kept[0].hash == live[0].hash else (kept, live)
    twins = Counter(row.hash for row in kept) & Counter(row.hash for row in live)
    over = []
    # The pairs are made of the kept rows that were there before, and of the live ones that came since.
    for rows in (sorted(kept, key=lambda row: row.written), sorted(live, key=lambda row: not row.written)):
        paired = Counter(twins)
        alone = []
        for row in rows:
            if paired[row.hash]:
                paired[row.hash] -= 1
            else:
                alone.append(row)
        over.append(alone)
    return over[0], over[1]
