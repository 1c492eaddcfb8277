# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restore any dump into a new database beside the live one; only when that is asked for and typed does it take the live one's place.

Nothing is ever poured over a database. Whatever fails on the way, the new database is dropped and what was there is as it was; it
carries our mark until it is whole, so that the next run drops what a killed one has left.
"""

from __future__ import annotations

import secrets
import subprocess
import time
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Callable

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    database_marks,
    database_properties,
    dump_source,
    masking,
    missing_roles,
    plain_sql,
    restore,
    restored_state,
    row_versions,
    standby_readers,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import POLL_SECONDS, ClientProcess
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    client_tool,
    connect,
    execute,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import Mark
from ansible_collections.whitecross.pgops.plugins.module_utils.dump import Contents
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import BACKUP, PgopsError, as_pgops_error
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work
from ansible_collections.whitecross.pgops.plugins.module_utils.restore_plan import Asked, Plan, look
from ansible_collections.whitecross.pgops.plugins.module_utils.swap import Swap
from psycopg2 import sql

_TELL_SECONDS = 1.0
_KEPT_DIFFERENCES = 200  # in the result
_TOLD_DIFFERENCES = 5  # in the message
_FED_LINES = 2_000  # between two looks at whether to go on

# Minors from which psql knows \restrict; with it, it obeys no other backslash command.
_RESTRICT_SINCE = {15: 14, 16: 10, 17: 6}


def preview(
    target: Target, asked: Asked, work: Work, *, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
) -> dict[str, Any]:
    """:return: what :func:`run` would do, after all that it would refuse; with ``replace`` also ``standbys``, whose readers stay in the
        replaced database. Writes nothing.
    :raises PgopsError: as :func:`restore_plan.look`."""
    found = look(target, asked, work, now()).as_dict()
    if asked.replace:
        with closing(connect(target.maintenance(), application_name=work.application_name)) as conn:
            found["standbys"] = standby_readers.look(conn, target.database)
    return found


def run(
    target: Target, asked: Asked, work: Work, *, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
) -> dict[str, Any]:
    """Restore a dump into a new database, compared, with statistics.

    :param target: where: its server, and what stands beside the new database.
    :return: what :meth:`Plan.as_dict` tells, and restore_seconds, key_tables, sizes, database_bytes, ledger; with ``replace`` also
        ``swap``, as ``swap.Swap.run`` returns it.
    :raises PgopsError: refused before anything was written, or failed: file, step and what remains are in the message and in ``extra``.
    """
    if asked.replace and asked.confirm != target.database:
        raise PgopsError(
            f"{target.database} is to be replaced, and that was not confirmed; nothing was done.",
            database=target.database,
            hint=f"Look with --check first, then add -e restore_confirm={target.database}.",
        )
    plan = look(target, asked, work, now())
    for told in plan.reservations:
        work.progress.emit(told, database=target.database)
    return _Restore(target, asked, plan, work).work()


class _Restore:
    """One restore; it knows its step, so that whatever fails can say where it was."""

    def __init__(self, target: Target, asked: Asked, plan: Plan, work: Work) -> None:
        self._target = target
        self._asked = asked
        self._plan = plan
        self._work = work
        self._destination = target.as_restore().with_(database=plan.name)
        self._step = ""
        self._ours = False
        self._made_roles: list[str] = []
        self._undone = False

    def work(self) -> dict[str, Any]:
        """:return: as :func:`run`."""
        try:
            with closing(connect(self._target.maintenance(), application_name=self._work.application_name)) as conn:
                found = self._restore(conn)
        except (PgopsError, psycopg2.Error) as error:
            raise self._failed(as_pgops_error(error, f"The restore of {self._plan.source.path} failed")) from None
        except BaseException:
            self._drop()
            raise
        if not self._plan.replace:
            return found
        return {**found, "swap": self._swap()}

    def _restore(self, conn: Connection) -> dict[str, Any]:
        plan, name, database = self._plan, self._plan.name, self._target.database
        self._make_roles(conn)
        self._begin("making the new database")
        roles = (database_marks.SCRATCH, database_marks.RESTORED) if plan.replace else (database_marks.SCRATCH,)
        for role in roles:
            for leftover in restore.remove_dead(conn, database, role):
                self._work.progress.emit(f"removed {leftover}, left by a dead run", database=database)
        if not database_marks.try_lock(conn, f"restore {name}"):
            raise PgopsError(f"Another run restores into {name}.", database=database)
        mark = self._mark()
        restore.create(conn, name, plan.properties, mark, whole=plan.owners)
        self._ours = True
        if self._asked.masking:
            self._limit(conn, 0)  # superusers alone may connect, not its owner either
        self._begin("restoring")
        seconds = self._fill()
        mark = replace(mark, restored_xid=row_versions.next_xid(conn) if plan.replace else 0)
        self._begin("comparing")
        rows = self._compare()
        masked = None
        if self._asked.masking:
            self._begin("masking")
            masked = masking.mask(self._destination, self._asked.masking, work=self._work)
            rows |= {name: 0 for name in rows if self._is_emptied(name)}
        self._begin("collecting statistics")
        missed = restored_state.analyze(self._destination, self._work)
        if missed:
            plan.reservations.append(f"{plan.able.role} may not analyze {', '.join(missed)}: they have no statistics")
        self._begin("giving the database its owner, privileges and settings")
        if plan.owners:
            database_properties.apply(conn, name, plan.properties)
        elif self._asked.masking:
            self._limit(conn, -1)
        self._begin("looking at what was restored")
        found = restored_state.look(self._destination, self._work, rows, self._asked.key_tables)
        self._work.control.check()
        self._begin("writing down that it is whole")
        if plan.replace:
            database_marks.set_mark(conn, name, replace(mark, state=database_marks.VERIFIED))
        else:
            # From here on it is the user's, and no run of ours drops it. This commit waits for the disk, and with it all before it.
            database_marks.set_comment(conn, name, plan.properties["comment"] if plan.backup else None)
        return {**plan.as_dict(), "restore_seconds": round(seconds, 3), "masked": masked, **found}

    def _make_roles(self, conn: Connection) -> None:
        roles = self._plan.roles
        if not roles.made:
            return
        self._begin("making the roles")
        missing_roles.make(conn, roles, self._target.database)
        self._made_roles = roles.made

    def _begin(self, step: str) -> None:
        self._work.control.check()
        self._step = step
        self._work.progress.emit(step, database=self._target.database)

    def _limit(self, conn: Connection, connections: int) -> None:
        name = sql.Identifier(self._plan.name)
        execute(conn, sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(name, sql.Literal(connections)))

    def _is_emptied(self, table: str) -> bool:
        return self._asked.masking.get(".".join(plain_sql.parts(table))) == masking.EMPTY_TABLE

    def _mark(self) -> Mark:
        plan = self._plan
        since = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        role = database_marks.RESTORED if plan.replace else database_marks.SCRATCH
        return Mark(
            role, self._target.database, self._work.run_id, since, state=restore.RESTORING, backup=plan.source.path,
            manifest_sha256=plan.backup.manifest_sha256 if plan.backup else "", comment=plan.properties["comment"],
        )  # fmt: skip

    # -- filling it ------------------------------------------------------------------------------------------------------

    def _fill(self) -> float:
        if self._plan.backup:
            return restore.restore_into(self._destination, self._plan.backup, self._plan.able, self._work)
        began = time.monotonic()
        if self._plan.source.archive:
            self._from_archive()
        else:
            self._from_sql()
        return time.monotonic() - began

    def _client(self, tool: str, arguments: list[str], stdin: int = subprocess.DEVNULL) -> ClientProcess:
        with closing(connect(self._destination, application_name=self._work.application_name)) as conn:
            path = client_tool(self._destination, conn, tool)
        return ClientProcess(
            path, arguments, self._destination, application_name=f"{self._work.application_name} restore",
            options=restore.session_options(self._plan.able.superuser, self._plan.able.server[0]), stdin=stdin,
        )  # fmt: skip

    def _from_archive(self) -> None:
        arguments = ["--exit-on-error", f"--jobs={self._work.jobs}", "--no-subscriptions", "--no-tablespaces"]
        if not self._plan.owners:
            arguments += ["--no-owner", "--no-privileges"]
        client = self._client("pg_restore", [*arguments, self._plan.source.path])
        try:
            told = time.monotonic()
            while not client.wait(POLL_SECONDS):
                self._work.control.check()
                if time.monotonic() - told >= _TELL_SECONDS:
                    told = time.monotonic()
                    self._tell_size()
        finally:
            client.end()
        client.result(f"The restore of {self._plan.source.path} failed", hints=_hint)

    def _from_sql(self) -> None:
        arguments = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction"]
        if self._psql_knows_restrict():
            # A key that nobody who wrote the file could know: psql itself then obeys no command of the file.
            arguments.append(f"--command=\\restrict {secrets.token_hex(16)}")
        client = self._client("psql", [*arguments, "--file=-"], stdin=subprocess.PIPE)
        forget = self._work.control.on_interrupt(client.end)
        try:
            self._feed(client)
            while not client.wait(POLL_SECONDS):
                self._work.control.check()
        finally:
            forget()
            client.end()
        self._work.control.check()
        client.result(f"The restore of {self._plan.source.path} failed", hints=_hint)

    def _psql_knows_restrict(self) -> bool:
        major, minor = self._plan.able.server
        return minor >= _RESTRICT_SINCE.get(major, 0)  # the client is no older than the server

    def _feed(self, client: ClientProcess) -> None:
        scan = self._plan.scan
        left_out = scan.session_lines if self._plan.owners else scan.session_lines | scan.owner_lines
        # psql that has ended says why itself.
        with suppress(BrokenPipeError), dump_source.open_plain(self._plan.source) as lines, client.stdin as pipe:
            told = time.monotonic()
            for number, line in enumerate(plain_sql.kept(lines, left_out), 1):
                pipe.write(line)
                if number % _FED_LINES == 0:
                    self._work.control.check()
                    if time.monotonic() - told >= _TELL_SECONDS:
                        told = time.monotonic()
                        self._work.progress.emit(
                            "restoring", database=self._target.database, done=number, total=scan.lines, unit="lines"
                        )

    def _tell_size(self) -> None:
        with closing(connect(self._target.maintenance(), application_name="pgops progress")) as conn:
            row = fetch_one(conn, "SELECT pg_database_size(%s) AS bytes", (self._plan.name,))
        done = int(row["bytes"]) if row else 0
        self._work.progress.emit("restoring", database=self._target.database, done=done, unit="bytes")

    # -- comparing -------------------------------------------------------------------------------------------------------

    def _compare(self) -> dict[str, int | None]:
        """:return: the rows of each table. :raises PgopsError: they are not what the dump holds."""
        plan = self._plan
        same_major = plan.backup and int(plan.backup.manifest["server_version"][0]) == plan.able.server[0]
        if plan.backup and same_major:
            known = len(plan.able.reservations)
            self._refuse(restore.differences(self._destination, plan.backup, plan.able, self._work))
            plan.reservations += plan.able.reservations[known:]
            return {name: entry["rows"] for name, entry in plan.backup.manifest["tables"].items()}
        found = self._contents()
        rows = {name: entry["rows"] for name, entry in found.items()}
        if plan.backup:
            expected = {n: e["rows"] for n, e in plan.backup.manifest["tables"].items() if e["kind"] == "table"}
        else:
            expected = dict(plan.scan.rows)
        by_parts = {plain_sql.parts(name): count for name, count in rows.items()}
        different = []
        for name, count in expected.items():
            there = by_parts.get(plain_sql.parts(name), "absent")
            # A partitioned table that was dumped through its root has its rows in its partitions.
            if there != count and not (there == "absent" and self._is_partitioned(name)):
                different.append({"object": name, "attribute": "rows", "expected": count, "found": there})
        self._refuse(different)
        return rows

    def _contents(self) -> dict[str, dict[str, Any]]:
        contents = Contents(
            self._destination, workers=self._work.jobs, application_name=f"{self._work.application_name} compare",
            progress=self._work.progress,
        ).start()  # fmt: skip
        forget = self._work.control.on_interrupt(contents.cancel)
        try:
            return contents.result(f"What was restored from {self._plan.source.path} cannot be read")
        finally:
            forget()
            contents.cancel()
            contents.join()

    def _is_partitioned(self, name: str) -> bool:
        with closing(connect(self._destination, application_name=self._work.application_name)) as conn:
            row = fetch_one(
                conn, "SELECT relkind = 'p' AS yes FROM pg_catalog.pg_class WHERE oid = to_regclass(%s)", (name,)
            )
        return bool(row and row["yes"])

    def _refuse(self, different: list[dict[str, Any]]) -> None:
        self._work.control.check()
        if not different:
            return
        told = "; ".join(_told(entry) for entry in different[:_TOLD_DIFFERENCES])
        more = f"; and {len(different) - _TOLD_DIFFERENCES} more" if len(different) > _TOLD_DIFFERENCES else ""
        raise PgopsError(
            f"What was restored from {self._plan.source.path} differs from what it says: {told}{more}",
            object_name=str(different[0]["object"]),
            hint="It cannot be trusted; take another one.",
            unusable=BACKUP,
            extra={"differences": different[:_KEPT_DIFFERENCES], "differences_total": len(different)},
        )

    # -- the end of it ---------------------------------------------------------------------------------------------------

    def _swap(self) -> dict[str, Any]:
        self._step = "swapping the names"
        swap = Swap(
            self._target,
            self._plan.name,
            run_id=self._work.run_id,
            progress=self._work.progress,
            control=self._work.control,
        )
        try:
            return swap.run()
        except PgopsError as error:
            error.extra.setdefault("staged", self._plan.name)
            error.message = (
                f"{error.message.rstrip('.')}; {self._plan.name}, restored from {self._plan.source.path} and compared, stays until the "
                "next restore of this database"
            )
            raise

    def _failed(self, error: PgopsError) -> PgopsError:
        path, name = self._plan.source.path, self._plan.name
        dropped = self._drop()
        if not self._ours:
            remains = "nothing was made"
        elif dropped:
            remains = f"the half-restored {name} was dropped"
        else:
            remains = f"the half-restored {name} could not be dropped, and the next restore drops it"
        if self._made_roles and not self._ours:
            remains = "no database was made"
        if self._made_roles:
            remains += f", the roles that it made {'were dropped' if self._undone else 'stay'}"
        file = "" if path in error.message else f" of {path}"
        error.message = f"{error.message.rstrip('.')} (at the step '{self._step}'{file}); {remains}, and {self._target.database} was not touched."
        error.database = error.database or self._target.database
        error.extra.update({"file": path, "step": self._step, "remains": remains})
        return error

    def _drop(self) -> bool:
        """:return: whether nothing of it is left. Over a fresh connection: the old one may be what failed."""
        if not self._ours and not self._made_roles:
            return True
        try:
            with closing(connect(self._target.maintenance(), application_name=self._work.application_name)) as conn:
                found = database_marks.database(conn, self._plan.name) if self._ours else None
                if found and found.mark and found.mark.run_id == self._work.run_id:
                    restore.drop(conn, self._plan.name)
                if self._made_roles:
                    # Refused, and rightly, where somebody has used them meanwhile.
                    with suppress(psycopg2.Error):
                        missing_roles.drop(conn, self._made_roles)
                        self._undone = True
        except (PgopsError, psycopg2.Error):
            return False
        return True


def _told(entry: dict[str, Any]) -> str:
    if isinstance(entry.get("expected"), (dict, list)) or isinstance(entry.get("found"), (dict, list)):
        return f"{entry['object']}: {entry.get('attribute')} differs"
    if entry.get("kind") in ("missing", "unexpected"):
        return f"{entry['object']} is {entry['kind']}"
    return f"{entry['object']}: {entry.get('attribute')} expected {entry['expected']}, found {entry['found']}"


_HINTS = (
    ("No space left on device", "Free space on the server, then type the command again."),
    ("could not extend file", "Free space on the server, then type the command again."),
    ("out of shared memory", "A plain dump is one transaction and locks each object: raise max_locks_per_transaction, or restore a custom one."),
    ('role "', "The server lacks a role that the dump names; CREATE ROLE it there (NOLOGIN)."),
    ("is not available", "The server lacks an extension of the dump; install its package there."),
    ("permission denied", "pgops_restore_user lacks a right; name a superuser or the provider's admin role."),
    ("must be owner", "pgops_restore_user lacks a right; name a superuser or the provider's admin role."),
    ("already exists", "The dump makes something that a new database has: make it without --create and --clean."),
    ("unrecognized configuration parameter", "The dump was written by a client that is newer than this server; make it with this server's own."),
    ("server closed the connection", "The server or its session ended; see its log, then type the command again."),
    ("terminating connection", "The server or its session ended; see its log, then type the command again."),
)  # fmt: skip


def _hint(text: str) -> str | None:
    return next((hint for needle, hint in _HINTS if needle in text), None) or (
        "See its messages in the report; nothing is left of this restore."
    )
