# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lost rows as files that a person reads: a CSV for each table and kind, and one SQL file that brings them back.

With public keys each of them goes through age on its way to the disk; the summary, which has names and counts, stays readable.

The folder has mode 0700 and its files 0600; it gets its name when all of it is on the disk. What is found is kept as the
places of the rows until then, never as values: both snapshots are still open, and every value is read once more where it is
written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from itertools import chain, islice
from typing import IO, Any, Callable

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import encryption, export_folder, lost_rows, lost_sql
from ansible_collections.whitecross.pgops.plugins.module_utils.both_databases import Pair, Side
from ansible_collections.whitecross.pgops.plugins.module_utils.common_tables import Common, references
from ansible_collections.whitecross.pgops.plugins.module_utils.content import Table
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.lost_parents import LostParents
from ansible_collections.whitecross.pgops.plugins.module_utils.lost_places import RowPlaces
from ansible_collections.whitecross.pgops.plugins.module_utils.lost_rows import (
    BOTH,
    DELETED,
    INSERTED,
    UPDATED,
    LostRow,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.taken_keys import Places, TakenKeys
from psycopg2 import sql

SQL_FILE = "lost_writes.sql"
SUMMARY = "lost_writes.json"
ROWS = 500  # read and written at a time

# What refers to a key that both databases wrote, apart from the others of its kind.
_HELD_BACK = {INSERTED: "held_inserted", UPDATED: "held_updated"}

_ABOUT = """\
-- What {kept} has and {live} lacks, as of {now}.
-- Read it, then run it on a copy first:
--   {command}
-- One transaction: a statement that fails leaves nothing of it. To run it twice does nothing twice.
-- It sees one moment of the database. "could not serialize access": a row of it was written meanwhile; run it again.
-- What begins with DO ends it where a key that was free when it was made is another row's by now; export again then.
-- INSERT passes over a row whose key is there; UPDATE changes a row only where the columns are what they were.
-- What begins with "-- " below a heading is for you to decide, and is not run.
"""


class Export:
    """One folder of an export."""

    def __init__(
        self, directory: str, pair: Pair, *, control: Control, progress: Progress, encrypt_to: list[str] | None = None
    ) -> None:
        """
        :param directory: where the folder is made, on the host where the module runs.
        :param encrypt_to: public keys, of which each one's private key reads the rows; none for plain files.
        :raises OSError: it cannot be.
        """
        self._pair, self._control, self._progress = pair, control, progress
        self._recipients = encrypt_to or []
        self._now = datetime.now(timezone.utc)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self.path = os.path.join(directory, f"{pair.kept.database}_{self._now.strftime('%Y%m%d_%H%M%S')}")
        self._partial = f"{self.path}.partial"
        export_folder.remove_dead(directory, pair.kept.database)
        self._lock = export_folder.locked(self._partial)
        self._found: dict[str, RowPlaces] = {}
        self._written: list[str] = []

    def found(self, table: Common, row: LostRow) -> None:
        """Keep where a difference is."""
        if table.name not in self._found:
            self._found[table.name] = RowPlaces(os.path.join(self._partial, f"{len(self._found)}.places"))
        self._found[table.name].add(row)

    def write(self, tables: Sequence[Common], whole: Sequence[Table], summary: dict[str, Any]) -> str:
        """Write all of it and give the folder its name.

        :param tables: those that both have, parents first.
        :param whole: those that only the kept database has.
        :param summary: what was found; ``held_back`` is filled in.
        :return: the folder.
        :raises PgopsError: the disk is full, or something cannot be read; nothing is left of it then.
        """
        try:
            with_rows = [table for table in tables if table.name in self._found]
            for number, table in enumerate(with_rows, 1):
                self._control.check()
                self._progress.emit(
                    f"exporting {table.name}", database=self._pair.live.database, done=number, total=len(with_rows)
                )
                self._write_csv(number, table)
            for number, relation in enumerate(whole, len(with_rows) + 1):
                self._csv(
                    f"{number:03}_{export_folder.file_name(relation.quoted)}.new_table.csv",
                    self._pair.kept,
                    relation,
                    None,
                )
            self._hold_back(tables, with_rows, summary)
            self._write_sql(with_rows)
            for places in self._found.values():
                places.remove()
            with self._plain(SUMMARY) as file:
                file.write(
                    json.dumps({**summary, "files": sorted(self._written)}, indent=1, default=str).encode() + b"\n"
                )
            os.rename(self._partial, self.path)
            export_folder.sync(os.path.dirname(self.path))
        except psycopg2.Error as exc:
            self._control.check()
            raise from_psycopg(exc, "The lost writes cannot be exported", database=self._pair.live.database) from None
        except OSError as exc:
            raise PgopsError(
                f"The lost writes cannot be exported to {self.path}: {exc.strerror}; nothing of it was kept.",
                database=self._pair.live.database,
                hint="Free room or name another folder, and run lost_writes.yml: the kept database still has them.",
            ) from None
        return self.path

    def discard(self) -> None:
        """Remove what is not finished."""
        for places in self._found.values():
            with contextlib.suppress(OSError):  # what it still holds is not wanted, and the disk may be full
                places.close()
        shutil.rmtree(self._partial, ignore_errors=True)
        os.close(self._lock)

    # -- CSV ------------------------------------------------------------------------------------------------------------

    def _write_csv(self, number: int, table: Common) -> None:
        for kind in lost_rows.KINDS:
            side, relation = (self._pair.live, table.live) if kind == DELETED else (self._pair.kept, table.kept)
            for own in (False, True):
                rows = self._found[table.name].of(kind, own)
                places = (row.live if kind == DELETED else row.kept for row in rows)
                name = f"{number:03}_{export_folder.file_name(table.name)}.{kind}{'_by_a_version' if own else ''}.csv"
                self._csv(name, side, relation, places)

    def _csv(self, name: str, side: Side, relation: Table, places: Iterator[str] | None) -> None:
        chunks: Iterator[list[str] | None] = iter([None]) if places is None else _chunks(places)
        first = next(chunks, [])
        if first == []:
            return
        with self._open(name) as file, side.conn.cursor() as cursor:
            for number, chunk in enumerate(chain([first], chunks)):
                self._control.check()
                where: sql.Composable = sql.SQL("")
                if chunk is not None:
                    where = sql.SQL(" WHERE ctid = ANY ({}::tid[])").format(sql.Literal(chunk))
                copy = sql.SQL("COPY (SELECT * FROM ONLY {}{}) TO STDOUT WITH (FORMAT csv, HEADER {})").format(
                    sql.Identifier(relation.schema, relation.name), where, sql.Literal(number == 0)
                )
                cursor.copy_expert(copy, file)

    # -- SQL ------------------------------------------------------------------------------------------------------------

    def _hold_back(self, common: Sequence[Common], tables: Sequence[Common], summary: dict[str, Any]) -> None:
        """Keep apart what would be attached to another row than the one it belonged to."""
        both, same = (
            {
                table.name: Places(row.kept for row in self._found[table.name].all() if row.kind == kind)
                for table in tables
            }
            for kind in (BOTH, UPDATED)
        )
        taken = TakenKeys(self._pair, common, both, same)
        held = {table.name: self._split(table, taken) for table in tables if taken.concern(table)}
        for entry in summary["tables"]:
            entry["held_back"] = held.get(entry["table"], 0)
        summary["held_back"] = sum(held.values())

    def _split(self, table: Common, taken: TakenKeys) -> int:
        """:return: how many rows of the table are held back."""
        before = self._found[table.name]
        split = self._found[table.name] = RowPlaces(f"{before.path}.split")
        statements = lost_sql.Statements(self._pair, table)
        held = 0
        for chunk in _chunks(before.all()):
            self._control.check()
            rows = [row for row in chunk if row.kind in _HELD_BACK]
            columns = taken.columns(table, [row.kept for row in rows])
            updated = [row for row in rows if row.kind == UPDATED and row.kept in columns]
            # An update that leaves the reference as it is changes the row that it was made for.
            for row, changed in zip(updated, statements.changed(updated)):
                if not changed & columns[row.kept]:
                    del columns[row.kept]
            for row in chunk:
                hold = row.kind in _HELD_BACK and row.kept in columns
                held += hold
                split.add(replace(row, kind=_HELD_BACK[row.kind]) if hold else row)
        before.remove()
        return held

    def _write_sql(self, tables: Sequence[Common]) -> None:
        pair = self._pair
        own_parent = {child for child, parent in references(pair.live.conn) if child == parent}
        with self._open(SQL_FILE) as file:
            text = _Text(file, self._control)
            about = _ABOUT.format(
                kept=pair.kept.database,
                live=pair.live.database,
                now=self._now.strftime("%Y-%m-%d %H:%M:%S UTC"),
                command=self._command(),
            )
            text.line(about + ("" if pair.bounds is None else f"-- Mind that {pair.bounds}.\n"))
            # An insert passes over a key only where the checks saw it, too: what comes between the two is an error in one snapshot.
            begin = "BEGIN ISOLATION LEVEL REPEATABLE READ;"
            text.line(f"SET client_encoding = 'UTF8';\n{begin}\n{lost_sql.settings()}")
            told = [table for table in tables if self._fits_a_line(table, text)]
            self._write_checks(told, text)
            for table in told:
                statements = lost_sql.Statements(pair, table)
                rows = self._found[table.name].of(INSERTED, False)
                if table.name in own_parent and table.key:
                    text.one_statement(f"{table.name}: inserted", statements, rows)
                else:
                    text.section(f"{table.name}: inserted", rows, statements.inserts)
                if self._found[table.name].has(INSERTED, _HELD_BACK[INSERTED]):
                    for statement in lost_sql.sequences(pair, table):
                        text.line(statement)
            for table in told:
                rows = self._found[table.name].of(UPDATED, False)
                text.section(f"{table.name}: updated", rows, lost_sql.Statements(pair, table).updates)
            for table in reversed(told):
                rows = self._found[table.name].of(DELETED, False)
                title = f"{table.name}: deleted there; take the dashes away where they are to go here too"
                text.section(title, rows, lost_sql.Statements(pair, table).deletes, commented=True)
            for table in told:
                statements = lost_sql.Statements(pair, table)
                title = f"{table.name}: written last by a version that is undone"
                text.section(title, self._found[table.name].of(INSERTED, True), statements.inserts, commented=True)
                text.section(title, self._found[table.name].of(UPDATED, True), statements.updates, commented=True)
            for table in told:
                self._write_held_back(table, text)
            text.line("\nCOMMIT;")

    def _write_checks(self, tables: Sequence[Common], text: _Text) -> None:
        inserted = {
            table.name: Places(row.kept for row in self._found[table.name].all() if row.kind == INSERTED)
            for table in tables
        }
        parents = LostParents(self._pair, tables, inserted)
        for table in tables:
            for kind in (INSERTED, UPDATED):
                rows = chain(*(self._found[table.name].of(kind, own) for own in (False, True)))
                title = f"{table.name}: {kind}, and refers to rows that come back: are these keys free, or these very rows there?"
                text.section(title, rows, partial(parents.checks, table))

    def _write_held_back(self, table: Common, text: _Text) -> None:
        statements = lost_sql.Statements(self._pair, table)
        for kind, write in ((INSERTED, statements.inserts), (UPDATED, statements.updates)):
            rows = chain(*(self._found[table.name].of(_HELD_BACK[kind], own) for own in (False, True)))
            title = (
                f"{table.name}: {kind}, and refers to a key that both databases wrote since, or to a row that does; that key may be "
                "another one's here: put the right one in, then take the dashes away"
            )
            text.section(title, rows, write, commented=True)

    def _fits_a_line(self, table: Common, text: _Text) -> bool:
        fits = all(lost_sql.one_line(name) for name in (table.name, *(column for column, _ in table.columns)))
        if not fits:
            text.line(f"-- {table.name!r} has a line break in a name: its rows are in the CSV alone.")
            return False
        for note in table.notes:
            text.line(f"-- {table.name}: {note}")
        if self._found[table.name].has(BOTH):
            text.line(f"-- {table.name}: rows that were written in both databases since are in the CSV alone")
        return True

    def _command(self) -> str:
        psql = "psql -X -v ON_ERROR_STOP=1"
        if self._recipients:
            return f"age -d -i KEY {SQL_FILE}{encryption.SUFFIX} | {psql} {self._pair.live.database}"
        return f"{psql} -f {SQL_FILE} {self._pair.live.database}"

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        """A file of rows, which is on the disk when the block ends; encrypted where that is asked for."""
        if not self._recipients:
            with self._plain(name) as file:
                yield file
            return
        name += encryption.SUFFIX
        with (
            self._plain(name) as file,
            encryption.encrypted_file(file, self._recipients, os.path.join(self.path, name)) as pipe,
        ):
            yield pipe

    @contextlib.contextmanager
    def _plain(self, name: str) -> Iterator[IO[bytes]]:
        self._written.append(name)
        descriptor = os.open(os.path.join(self._partial, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            export_folder.to_disk(file)


class _Text:
    """The SQL file while it is written."""

    def __init__(self, file: IO[bytes], control: Control) -> None:
        self._file, self._control = file, control

    def line(self, text: str) -> None:
        self._file.write(text.encode() + b"\n")

    def section(
        self,
        title: str,
        rows: Iterator[LostRow],
        statements: Callable[[Sequence[LostRow]], Iterator[str]],
        *,
        commented: bool = False,
    ) -> None:
        begun = False
        for chunk in _chunks(rows):
            self._control.check()
            for statement in statements(chunk):
                if not begun:
                    self.line(f"\n-- {title}")
                    begun = True
                self.line(f"-- {statement}" if commented else statement)

    def one_statement(self, title: str, statements: lost_sql.Statements, rows: Iterator[LostRow]) -> None:
        """Rows that refer to each other come in together: the key is looked at when the statement ends."""
        begun = False
        for chunk in _chunks(rows):
            self._control.check()
            for values in statements.rows(chunk):
                self.line(
                    f",\n  ({', '.join(values)})"
                    if begun
                    else f"\n-- {title}\n{statements.insert} VALUES\n  ({', '.join(values)})"
                )
                begun = True
        if begun:
            self.line("ON CONFLICT DO NOTHING;")


def _chunks(rows: Iterator[Any]) -> Iterator[list[Any]]:
    while True:
        chunk = list(islice(rows, ROWS))
        if not chunk:
            return
        yield chunk
