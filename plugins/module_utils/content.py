# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the tables of a database hold, as a count and a hash that two databases can be compared by.

The hash of a row chains its columns, by name sorted, each as the seed of the next; the hash of a table is the 64-bit
sum over its rows, so their order does not matter and a large table can be read in parts. Types whose own hash keeps
every value apart are hashed as they are, all others as text: that is about twice as fast as hashing the whole row as
text (measured: 1.0 M rows of 8 columns 0.7 s for text by column, 0.3 s with the types' own hashes, 1.3 s for the row).

PostgreSQL does not promise that its hash functions stay the same in the next major version: compare on one major.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.output_settings import pin
from ansible_collections.whitecross.pgops.plugins.module_utils.rate_limit import Pace
from psycopg2 import extensions, sql

# Named in a manifest: hashes made by another rule are not comparable.
ALGORITHM = "pgops-row-2"

# Pages of one part of a large table: 256 MB at 8 kB a page, some seconds of work between two looks at an interrupt.
PART_PAGES = 32768

_MODULUS = 1 << 64

# A NULL is hashed as a value that the type does not have, or that nobody stores. Nothing else would do without
# evaluating the chain twice.
_NULL_TEXT = "\x01pgops-null-7d1f4a92c3"
_NULL_INTEGER = -2004318071
_NULL_UUID = "7d1f4a92-c35e-4b08-9a67-e0d2b1f39c84"
_NULL_TIMESTAMP = "4713-01-01 00:00:00.000001 BC"

# Types whose extended hash is of every bit of the value; {0} the column, {1} the seed. bigint and timestamp fold their
# value to 32 bits before hashing: bigint goes as text, and for a timestamp the chance of 2^-32 a cell is taken for its
# speed. numeric, float, jsonb and enums hash what is equal (1.0 and 1.00) or an OID: those go as text.
_TYPED = {
    "bool": f"hashint4extended(coalesce({{0}}::int4, {_NULL_INTEGER}), {{1}})",
    "int2": f"hashint4extended(coalesce({{0}}::int4, {_NULL_INTEGER}), {{1}})",
    "int4": f"hashint4extended(coalesce({{0}}, {_NULL_INTEGER}), {{1}})",
    "uuid": f"uuid_hash_extended(coalesce({{0}}, '{_NULL_UUID}'), {{1}})",
    "timestamp": f"timestamp_hash_extended(coalesce({{0}}, '{_NULL_TIMESTAMP}'), {{1}})",
    "timestamptz": f"timestamp_hash_extended(coalesce({{0}} AT TIME ZONE 'UTC', '{_NULL_TIMESTAMP}'), {{1}})",
}
# Of a column that is one number type here and another one there.
NUMBER = "number of any type"
_TYPED[NUMBER] = f"""hashtextextended(coalesce(trim_scale({{0}}::numeric)::text, '{_NULL_TEXT}') COLLATE "C", {{1}})"""
_AS_TEXT = f"""hashtextextended(coalesce({{0}}::text, '{_NULL_TEXT}') COLLATE "C", {{1}})"""

# Nested calls deeper than this come near max_stack_depth; longer rows are several chains.
_CHAIN = 200


@dataclass(frozen=True)
class Table:
    """A relation that can hold rows. Partitioned tables are not among them: their partitions are.

    ``kind`` is ``table``, ``materialized view`` or ``foreign table``; ``condition`` is set for the configuration table
    of an extension, of which a dump carries only those rows.
    """

    schema: str
    name: str
    kind: str
    quoted: str
    persistence: str
    columns: tuple[tuple[str, str], ...]
    pages: int
    populated: bool
    readable: bool
    row_security: bool
    heap: bool
    condition: str

    def as_dict(self) -> dict[str, Any]:
        """The table as plain data."""
        return asdict(self)


_TABLES = """
WITH RECURSIVE base (oid, type) AS (
  SELECT t.oid, t.oid FROM pg_type AS t WHERE t.typtype <> 'd'
  UNION ALL
  SELECT t.oid, b.type FROM pg_type AS t JOIN base AS b ON b.oid = t.typbasetype WHERE t.typtype = 'd'
), member AS (
  SELECT d.objid AS oid,
         coalesce((SELECT c.condition FROM unnest(e.extconfig, e.extcondition) AS c (oid, condition)
                    WHERE c.oid = d.objid), 'not dumped') AS condition
    FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
   WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
)
SELECT n.nspname, c.relname,
       CASE c.relkind WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' ELSE 'table' END,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname),
       CASE c.relpersistence WHEN 'u' THEN 'unlogged' ELSE 'permanent' END,
       coalesce((SELECT jsonb_agg(jsonb_build_array(a.attname, t.typname) ORDER BY a.attname COLLATE "C")
          FROM pg_attribute AS a JOIN base AS b ON b.oid = a.atttypid
          JOIN pg_type AS t ON t.oid = b.type
         -- 18: a virtual column is computed as it is read, and no dump holds it.
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'), '[]'),
       CASE WHEN c.relkind = 'f' THEN 0
            ELSE coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::int END,
       c.relispopulated,
       has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT')
         AND (has_table_privilege(c.oid, 'SELECT') OR NOT EXISTS (SELECT FROM pg_attribute AS a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                AND NOT has_column_privilege(c.oid, a.attnum, 'SELECT'))),
       row_security_active(c.oid),
       coalesce((SELECT am.amname = 'heap' FROM pg_am AS am WHERE am.oid = c.relam), false),
       coalesce(m.condition, '')
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace LEFT JOIN member AS m ON m.oid = c.oid
 WHERE c.relkind IN ('r', 'm', 'f') AND c.relpersistence <> 't'
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname <> ALL (%s)
   AND coalesce(m.condition, '') <> 'not dumped'
 ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"
"""


@contextlib.contextmanager
def _reading(conn: Any, snapshot: str | None = None) -> Iterator[Any]:
    """A cursor with pinned settings on one snapshot; the session is as before afterwards.

    In a transaction of the caller its snapshot is used and a savepoint gives the settings back.
    """
    own = conn.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE and conn.autocommit
    cursor = conn.cursor()
    try:
        if own:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            if snapshot is not None:
                cursor.execute("SET TRANSACTION SNAPSHOT %s", [snapshot])
        else:
            cursor.execute("SAVEPOINT pgops_content")
        pin(cursor)
        yield cursor
    finally:
        if not conn.closed and conn.info.transaction_status != extensions.TRANSACTION_STATUS_UNKNOWN:
            cursor.execute(
                "ROLLBACK" if own else "ROLLBACK TO SAVEPOINT pgops_content; RELEASE SAVEPOINT pgops_content"
            )
        cursor.close()


def user_tables(conn: Any, *, exclude_schemas: Sequence[str] = ()) -> list[Table]:
    """The relations of the database whose rows a backup has to carry, sorted by schema and name.

    :param exclude_schemas: schemas to leave out; none by default, the ledger's rows are data too.
    :returns: tables and partitions, materialised views and foreign tables. Left out are the members of extensions, but
        for the rows of configuration tables that a dump carries, and temporary tables.
    :raises PgopsError: the list cannot be read. Takes ACCESS SHARE for a moment on each table, for its size.
    """
    with _reading(conn) as cursor:
        return _user_tables(cursor, exclude_schemas)


def _user_tables(cursor: Any, exclude_schemas: Sequence[str]) -> list[Table]:
    try:
        cursor.execute(_TABLES, [list(exclude_schemas)])
    except psycopg2.Error as exc:
        raise from_psycopg(exc, "Reading the list of tables failed") from None
    return [
        Table(
            row[0], row[1], row[2], row[3], row[4], tuple((name, kind) for name, kind in row[5]), int(row[6]), *row[7:]
        )
        for row in cursor.fetchall()
    ]


def refuse_unreadable(tables: Sequence[Table]) -> None:
    """Refuse by name what this role cannot read in full: an unseen row is a row lost without a word.

    :raises PgopsError: SQLSTATE 42501, with every table concerned.
    """
    hidden = [table.quoted for table in tables if table.kind != "foreign table" and not table.readable]
    filtered = [table.quoted for table in tables if table.row_security and table.readable]
    if not hidden and not filtered:
        return
    parts = []
    if hidden:
        parts.append(f"no SELECT on {', '.join(hidden)}")
    if filtered:
        parts.append(f"row-level security would hide rows of {', '.join(filtered)}")
    raise PgopsError(
        f"The role cannot read every row: {'; '.join(parts)}.",
        sqlstate="42501",
        object_name=(hidden + filtered)[0],
        hint="GRANT SELECT (or pg_read_all_data) and, where a table has row-level security, ALTER ROLE ... BYPASSRLS.",
        extra={"unreadable": hidden, "row_security": filtered},
    )


def row_hash(table: Table) -> sql.Composable:
    """The SQL expression of one row's hash, for a query that reads ``FROM ONLY`` the table."""
    return chain_of(table.columns)


def chain_of(columns: Sequence[tuple[str, str]]) -> sql.Composable:
    """:param columns: name and type of each, in the order in which both sides have them.
    :return: the SQL expression of their hash."""
    chains: list[sql.Composable] = []
    for start in range(0, len(columns), _CHAIN):
        chain: sql.Composable = sql.SQL("{}::int8").format(sql.Literal(start + 1))
        for name, kind in columns[start : start + _CHAIN]:
            chain = sql.SQL(_TYPED.get(kind, _AS_TEXT)).format(sql.Identifier(name), chain)
        chains.append(chain)
    return sql.SQL(" # ").join(chains) if chains else sql.SQL("0::int8")


def parts(table: Table, part_pages: int = PART_PAGES) -> list[tuple[int, int | None]]:
    """:return: page ranges of the table; the last has no end, since the size and the snapshot are of two moments."""
    if not table.heap or table.kind != "table" or table.pages <= part_pages:
        return [(0, None)]
    starts = list(range(0, table.pages, part_pages))
    return [(start, end) for start, end in zip(starts, [*starts[1:], None])]


def within(part: tuple[int, int | None]) -> sql.Composable:
    """:return: the condition of a page range, with its WHERE; nothing for the whole table."""
    conditions: list[sql.Composable] = []
    first, end = part
    if first:
        conditions.append(sql.SQL("ctid >= {}::tid").format(sql.Literal(f"({first},0)")))
    if end is not None:
        conditions.append(sql.SQL("ctid < {}::tid").format(sql.Literal(f"({end},0)")))
    return sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")


def _hash_query(table: Table, part: tuple[int, int | None]) -> sql.Composable:
    # ONLY: the rows of a child table are counted there, once.
    where = within(part)
    if part == (0, None) and table.condition:
        where = sql.SQL(" ") + sql.SQL(table.condition)
    return (
        sql.SQL("SELECT count(*), coalesce(sum({}), 0)::text FROM ONLY {}").format(
            row_hash(table), sql.Identifier(table.schema, table.name)
        )
        + where
    )


def table_contents(
    conn: Any,
    tables: Sequence[str] | None = None,
    *,
    connections: Sequence[Any] = (),
    snapshot: str | None = None,
    exclude_schemas: Sequence[str] = (),
    check: Callable[[], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    pace: Pace | None = None,
) -> dict[str, dict[str, Any]]:
    """Count and hash of every table, all in one snapshot.

    :param conn: an open connection; in a transaction of the caller its snapshot is used.
    :param tables: quoted, qualified names (``public.students``); all by default.
    :param connections: further idle connections in autocommit that share the work, on the same snapshot.
    :param snapshot: the name of an exported snapshot for ``connections`` (and for ``conn`` where it is idle); by
        default ``conn`` exports its own.
    :param check: called between two parts (at most some seconds each); it raises to interrupt.
    :param progress: called with (pages done, pages in all).
    :param pace: how fast tables are read; as fast as it goes by default.
    :returns: ``{"public.students": {"kind": "table", "rows": 3, "hash": "16 hex digits"}}``. A materialised view also
        has ``populated``; rows and hash are None where it is not, and for a foreign table, whose rows are elsewhere.
    :raises PgopsError: a table that this role cannot read in full (named), or one that fails to be read.

    Takes ACCESS SHARE on each table until the end of the transaction.
    """
    with _reading(conn, snapshot) as cursor:
        wanted = _user_tables(cursor, exclude_schemas)
        if tables is not None:
            asked = set(tables)
            wanted = [table for table in wanted if table.quoted in asked]
            absent = asked - {table.quoted for table in wanted}
            if absent:
                raise PgopsError(f"There is no table {', '.join(sorted(absent))} to read.", sqlstate="42P01")
        refuse_unreadable(wanted)
        result: dict[str, dict[str, Any]] = {}
        work: list[tuple[int, Table, tuple[int, int | None]]] = []
        for table in wanted:
            entry: dict[str, Any] = {"kind": table.kind, "rows": None, "hash": None}
            if table.kind == "materialized view":
                entry["populated"] = table.populated
            result[table.quoted] = entry
            if table.kind != "foreign table" and table.populated:
                for part in parts(table, min(pace.part_pages, PART_PAGES) if pace else PART_PAGES):
                    pages = (part[1] if part[1] is not None else table.pages) - part[0]
                    work.append((max(pages, 1), table, part))
        # Largest first, so that the workers end together.
        work.sort(key=lambda item: -item[0])
        if connections and work and snapshot is None:
            cursor.execute("SELECT pg_export_snapshot()")
            snapshot = cursor.fetchone()[0]
        sums = _Sums(work, check, progress, pace)
        sums.share(cursor, connections, snapshot)
        for quoted, (rows, total) in sums.totals.items():
            result[quoted].update(rows=rows, hash=f"{total % _MODULUS:016x}")
    return result


class _Sums:
    """Adds up the parts of the tables, by one cursor or by several on one snapshot."""

    def __init__(
        self,
        work: list[tuple[int, Table, tuple[int, int | None]]],
        check: Callable[[], None] | None,
        progress: Callable[[int, int], None] | None,
        pace: Pace | None,
    ) -> None:
        self.pace = pace
        self.work: queue.SimpleQueue[tuple[int, Table, tuple[int, int | None]]] = queue.SimpleQueue()
        for item in work:
            self.work.put(item)
        self.pages = sum(item[0] for item in work)
        self.done = 0
        self.check = check
        self.progress = progress
        self.totals: dict[str, tuple[int, int]] = {item[1].quoted: (0, 0) for item in work}
        self.lock = threading.Lock()
        self.failure: BaseException | None = None

    def share(self, cursor: Any, connections: Sequence[Any], snapshot: str | None) -> None:
        threads = [
            threading.Thread(target=self._help, args=(conn, snapshot), name="pgops content", daemon=True)
            for conn in connections
        ]
        if threads:
            cursor.execute("SELECT set_config('max_parallel_workers_per_gather', '0', true)")
        for thread in threads:
            thread.start()
        try:
            self._run(cursor)
        except BaseException as exc:  # noqa: BLE001 - the helpers must end before it is raised
            self._fail(exc)
        for thread in threads:
            thread.join()
        if self.failure is not None:
            raise self.failure

    def _help(self, conn: Any, snapshot: str | None) -> None:
        try:
            with _reading(conn, snapshot) as cursor:
                cursor.execute("SELECT set_config('max_parallel_workers_per_gather', '0', true)")
                self._run(cursor)
        except BaseException as exc:  # noqa: BLE001 - raised again by the thread that waits
            self._fail(exc)

    def _fail(self, exc: BaseException) -> None:
        with self.lock:
            self.failure = self.failure or exc

    def _run(self, cursor: Any) -> None:
        while self.failure is None:
            try:
                pages, table, part = self.work.get_nowait()
            except queue.Empty:
                return
            if self.check is not None:
                self.check()
            try:
                cursor.execute(_hash_query(table, part))
                rows, total = cursor.fetchone()
            except psycopg2.Error as exc:
                raise from_psycopg(exc, f"Reading {table.quoted} failed") from None
            with self.lock:
                before = self.totals[table.quoted]
                self.totals[table.quoted] = (before[0] + int(rows), before[1] + int(total))
                self.done += pages
                if self.progress is not None:
                    self.progress(self.done, self.pages)
            if self.pace is not None:
                self.pace.read(table.quoted, pages, table.pages)


_SEQUENCES = """
SELECT n.nspname, c.relname, quote_ident(n.nspname) || '.' || quote_ident(c.relname),
       has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(c.oid, 'SELECT')
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname <> ALL (%s)
   AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                      AND d.deptype = 'e')
 ORDER BY 3
"""


def sequences(conn: Any, *, exclude_schemas: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """The value of every sequence.

    :returns: ``{"public.x_id_seq": {"last_value": 7, "is_called": true}}``. A sequence obeys no snapshot: under load,
        read before and after a dump, and what the dump holds lies between.
    :raises PgopsError: sequences that this role cannot read, by name. Takes ACCESS SHARE on each.
    """
    with _reading(conn) as cursor:
        cursor.execute(_SEQUENCES, [list(exclude_schemas)])
        found = cursor.fetchall()
        hidden = [quoted for _schema, _name, quoted, readable in found if not readable]
        if hidden:
            raise PgopsError(
                f"The role cannot read the sequences {', '.join(hidden)}.",
                sqlstate="42501",
                object_name=hidden[0],
                hint="GRANT SELECT ON ALL SEQUENCES, or pg_read_all_data.",
                extra={"unreadable": hidden},
            )
        if not found:
            return {}
        cursor.execute(
            sql.SQL(" UNION ALL ").join(
                sql.SQL("SELECT {}, last_value, is_called FROM {}").format(
                    sql.Literal(quoted), sql.Identifier(schema, name)
                )
                for schema, name, quoted, _readable in found
            )
        )
        return {quoted: {"last_value": last, "is_called": called} for quoted, last, called in cursor.fetchall()}


# By content and never by page: a restore writes pages that the original left out as holes.
_LARGE_OBJECTS = """
SELECT count(DISTINCT o.oid), coalesce(sum(hashtextextended(
         o.oid || ' ' || piece || ' ' || encode(sha256(lo_get(o.oid, piece * 16777216, 16777216)), 'hex'), 0)), 0)::text
  FROM (SELECT m.oid, (SELECT lo_lseek64(fd, 0, 2) + 0 * lo_close(fd)
                         FROM (SELECT lo_open(m.oid, 262144) AS fd OFFSET 0) AS opened) AS size
          FROM pg_largeobject_metadata AS m OFFSET 0) AS o
 CROSS JOIN LATERAL generate_series(0, o.size / 16777216) AS piece
"""


def large_objects(conn: Any) -> dict[str, Any]:
    """Number and content hash of the large objects.

    :returns: ``{"count": 2, "hash": "16 hex digits"}``.
    :raises PgopsError: one that this role may not read. Takes ACCESS SHARE on pg_largeobject.
    """
    with _reading(conn) as cursor:
        try:
            cursor.execute(_LARGE_OBJECTS)
        except psycopg2.Error as exc:
            raise from_psycopg(exc, "Reading the large objects failed") from None
        count, total = cursor.fetchone()
    return {"count": int(count), "hash": f"{int(total) % _MODULUS:016x}"}


def compare_contents(
    expected: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The differences between two results of :func:`table_contents`, sorted by table.

    A materialised view is filled anew by a restore, from the tables of that moment: only whether it is populated
    counts. Of a foreign table only its presence counts.

    :returns: ``[{"object": "public.students", "attribute": "rows", "expected": 3, "found": 2}]``; the attribute is
        ``presence`` where one side lacks the table.
    """
    differences: list[dict[str, Any]] = []
    for name in sorted(set(expected) | set(found)):
        left, right = expected.get(name), found.get(name)
        if left is None or right is None:
            told = ("absent" if left is None else "present", "absent" if right is None else "present")
            differences.append({"object": name, "attribute": "presence", "expected": told[0], "found": told[1]})
            continue
        compared = {"table": ("rows", "hash"), "materialized view": ("populated",)}.get(
            str(left.get("kind", "table")), ()
        )
        for attribute in compared:
            if left.get(attribute) != right.get(attribute):
                differences.append(
                    {
                        "object": name,
                        "attribute": attribute,
                        "expected": left.get(attribute),
                        "found": right.get(attribute),
                    }
                )
    return differences
