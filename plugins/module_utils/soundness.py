# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a restored copy could serve: its pages (amcheck), its constraints, the application's own queries and writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import amcheck, checks, ledger, revalidation
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.declared import FAIL
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from psycopg2 import errorcodes

TOLD = 3  # faults in a sentence
KEPT = 200  # in the result


@dataclass
class Soundness:
    """What was looked at (``looked``), what is wrong (``faults``), and what could not be looked at (``lacking``)."""

    looked: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything was looked at and nothing is wrong."""
        return not self.faults and not self.lacking

    def detail(self) -> str:
        """:return: it in one line: what is wrong, else what is lacking, and what was looked at."""
        told: list[str] = []
        for found in (self.faults, self.lacking):
            told += found[:TOLD]
            if len(found) > TOLD:
                told.append(f"and {len(found) - TOLD} more")
        return "; ".join([*told, *self.looked])

    def refuse(self, path: str, database: str) -> None:
        """:raises PgopsError: something is wrong with the copy; the faults are in ``extra["faults"]``."""
        if self.faults:
            raise PgopsError(
                f"The copy that was restored from {path} equals its source, and is not sound: {self.detail()}.",
                database=database,
                hint="A damaged index or table is of the scratch server: look at its disks and memory, then prove it again. Rows that "
                "break a constraint, or fail a query, are in the source too. The backup is proved to level 4.",
                extra={"reason": "unsound", "faults": self.faults[:KEPT]},
            )


def look(
    copy: Target,
    queries: Sequence[Mapping[str, Any]],
    *,
    database: str,
    jobs: int,
    application_name: str,
    progress: Progress,
    control: Control,
) -> Soundness:
    """Look at a restored copy that nobody else uses.

    :param copy: the scratch database, as the restore role; the extension amcheck is made in it.
    :param queries: the named checks of the tree, and what has ``statements`` instead of a query, the application's writes. Checks that
        judge a plan are left out: a copy without statistics has others.
    :param database: what it is a copy of, for who watches.
    :return: what was found; errors of single objects are faults in it.
    :raises Interrupted: asked to end.
    :raises PgopsError: the copy cannot be reached.

    Takes SHARE on each table while its indexes are checked.
    """
    found = Soundness()
    with closing(connect(copy, application_name=application_name)) as conn:
        forget = control.on_interrupt(conn.cancel)
        try:
            reason = amcheck.install(conn)
            if reason:
                found.lacking.append(f"amcheck was not done: {reason}")
            else:
                faults, unchecked, counts = amcheck.corrupted(
                    copy,
                    jobs=jobs,
                    application_name=application_name,
                    progress=progress,
                    control=control,
                    database=database,
                )
                found.faults += faults
                found.lacking += unchecked
                found.looked.append(f"{counts['tables']} tables and {counts['indexes']} indexes by amcheck")
                if counts["other"]:
                    found.looked.append(f"{counts['other']} indexes of kinds that amcheck does not know")
            faults, unchecked, counts = revalidation.violated(
                conn, control=control, progress=progress, database=database
            )
            found.faults += faults
            found.lacking += unchecked
            found.looked.append(
                f"{counts['foreign_keys']} foreign keys, {counts['checks']} checks and {counts['not_null']} NOT NULL on their rows"
            )
            applied = {row.version for row in ledger.read(conn).in_state("applied")}
            _ask(conn, [query for query in queries if "query" in query], applied, found, control)
            _write(conn, [write for write in queries if "statements" in write], applied, found, control)
        finally:
            forget()
    return found


def _ask(
    conn: Connection, queries: Sequence[Mapping[str, Any]], applied: Collection[str], found: Soundness, control: Control
) -> None:
    data = [query for query in queries if "uses" not in query["expect"]]
    lines, findings = checks.run(conn, data, applied, control=control)
    # The names only: what a query found may be of rows.
    failing = sorted({finding.check for finding in findings if finding.level == FAIL})
    found.faults += [
        f"query {name.removeprefix('check ')} of sql/checks does not find what it should" for name in failing
    ]
    passed = sum(1 for line in lines if line["state"] == checks.PASSED)
    left_out = sum(1 for line in lines if line["state"] == checks.LEFT_OUT)
    found.looked.append(
        f"{passed} queries of sql/checks pass" + (f", {left_out} wait for later versions" if left_out else "")
    )


def _write(
    conn: Connection, writes: Sequence[Mapping[str, Any]], applied: Collection[str], found: Soundness, control: Control
) -> None:
    """Do each in a transaction of its own that is taken back. Each statement has to find or touch a row."""
    due = [write for write in writes if not set(write["versions"]) - set(applied)]
    done = 0
    for write in due:
        control.check()
        fault, lacking = _written(conn, write, control)
        found.faults += [f"writes {write['name']} of sql/checks: {fault}"] if fault else []
        found.lacking += [f"writes {write['name']} of sql/checks were not done: {lacking}"] if lacking else []
        done += not fault and not lacking
    if writes:
        waiting = f", {len(writes) - len(due)} wait for later versions" if len(due) < len(writes) else ""
        found.looked.append(f"{done} writes of sql/checks are done and taken back{waiting}")


def _written(conn: Connection, write: Mapping[str, Any], control: Control) -> tuple[str | None, str | None]:
    """:return: what is wrong, and why nothing can be said; neither where all is well. No value of a row is in them."""
    number = 0
    try:
        execute(conn, f"BEGIN; SET LOCAL statement_timeout = {checks.STATEMENT_TIMEOUT_MS}")
        with conn.cursor() as cursor:
            for number, statement in enumerate(write["statements"], 1):
                # Without parameters psycopg2 leaves every % alone.
                cursor.execute(statement)
                if not cursor.rowcount:
                    return f"statement {number} finds no row", None
            number += 1
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except psycopg2.Error as exc:
        control.check()
        if exc.pgcode == errorcodes.INSUFFICIENT_PRIVILEGE:
            return None, "the restore role may not"
        where = f"statement {number}" if number <= len(write["statements"]) else "a constraint at the end"
        named = [name for name in (exc.diag.table_name, exc.diag.column_name, exc.diag.constraint_name) if name]
        return f"{where} fails with SQLSTATE {exc.pgcode}" + (f" ({', '.join(named)})" if named else ""), None
    finally:
        # A session that is gone has taken it back itself.
        with suppress(psycopg2.Error):
            execute(conn, "ROLLBACK")
    return None, None
