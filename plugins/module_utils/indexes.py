# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A step of indexes, each built CONCURRENTLY on its own.

A concurrent build waits for every older snapshot of the database. A short lock_timeout kills it and leaves an INVALID
index that IF NOT EXISTS takes for done (measured). So builds have a budget of their own and no lock_timeout, what an
earlier build of ours left behind is dropped and built again, and no two builds run on one table (they deadlock).

An index that replaces one of its name is built under a name of its own, then the other is dropped, then it is renamed:
queries have one of the two at any time, and wherever this is cut off, the two names tell how far it came.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import existing
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import (
    aside,
    create_index,
    drop_index,
    rename_index,
    schema_of,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext, is_time_limit
from psycopg2 import errorcodes, sql

# Two tables side by side take 0.76 of one after the other; each build has a parallel worker of its own already.
SIDE_BY_SIDE = 2
# A deadlock or a build cancelled by an autovacuum's end is worth one more try (the original tried again too).
TRIES = 2
# Who asked for an end waits for it: longer than this nobody tidies up.
CLEAN_UP_S = 10
# A vacuum of a small table is over by then; it holds the lock of a build too.
BUILDER_LOOKS = 20
BUILDER_POLL_S = 0.5

_INVALID_OF_OTHERS = """
SELECT n.nspname || '.' || c.relname AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_class t ON t.oid = i.indrelid
  JOIN pg_namespace tn ON tn.oid = t.relnamespace
 WHERE NOT i.indisvalid AND (tn.nspname, t.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
   AND NOT (n.nspname || '.' || c.relname) = ANY(%s)
 ORDER BY 1
"""
# pg_stat_progress_create_index hides the builds of other roles; their locks are for all to see.
_BUILDERS = """
SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
 WHERE l.locktype = 'relation' AND l.granted AND l.mode = 'ShareUpdateExclusiveLock' AND l.relation = to_regclass(%s)
   AND l.pid <> pg_backend_pid()
 ORDER BY 1
"""


def up(context: StepContext, wanted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Build what is missing, largest kinds last, several tables side by side.

    Takes SHARE UPDATE EXCLUSIVE on each table while it builds: no reader and no writer waits.

    :return: indexes that were there already.
    :raises PgopsError: an index of that name is there with another definition, a build failed or hit its limit.
    :raises Interrupted: asked to end; the build in hand is cancelled and its remains are dropped.
    """
    state = _State(context)
    replacing = [index for index in wanted if state.replaces(index)]
    taken = _taken_names(context, wanted)
    todo = [
        index for index in wanted if index not in replacing and (_full(index) not in taken or state.is_missing(index))
    ]
    _tell_invalid_of_others(context, wanted)
    todo.sort(key=lambda index: (index.get("method") or "btree") != "btree")
    tables: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for index in todo:
        tables.setdefault((schema_of(index), index["table"]), []).append(index)
    if len(tables) == 1:
        for index in todo:
            _build(context, state, context.conn, index)
    elif tables:
        _side_by_side(context, state, list(tables.values()))
    for index in replacing:
        _replace(context, state, index, index["replaces"])
    state.save("done")
    return state.present


def down(context: StepContext, wanted: Sequence[Mapping[str, Any]], made: Mapping[str, Any]) -> list[str]:
    """Drop what this version built, in reverse order. What was there before it stays, and so does what a later version
    made of it; what it replaced comes back, unless the version that made that is gone.

    Takes SHARE UPDATE EXCLUSIVE, and waits for transactions that use the index.

    :param made: the progress of the step on the way up: ``built``, ``present``, ``replaced`` and ``taken``.
    :return: indexes that were gone already or stay.
    """
    built, replaced = set(made.get("built", [])), made.get("replaced", {})
    state = _State(context, built)
    skipped = []
    for index in reversed(wanted):
        name = _full(index)
        if name in replaced and index["replaces"]["version"] in context.applied:
            _replace(context, state, index["replaces"], index)
            _comment(context, index, replaced[name].get("comment"))
            continue
        if name in replaced and _full(aside(index)) in built and state.found(aside(index)) is not None:
            _drop(context, context.conn, schema_of(index), aside(index)["name"])
        found = state.found(index)
        if found is None:
            context.tell(f"index {name} is gone already: skipped")
            skipped.append(f"index {name}")
            continue
        if name not in built and name not in replaced:
            context.tell(f"index {name} was there before this version: it stays")
            skipped.append(f"index {name}")
            continue
        if state.is_another(index, found):
            context.tell(f"index {name} is not as this version made it, a later one's or somebody's own: it stays")
            skipped.append(f"index {name}")
            continue
        context.control.check()
        _drop(context, context.conn, schema_of(index), index["name"])
    context.save("done")
    return skipped


class _State:
    """What this step has built, remembered in the ledger as soon as it is known: the way down drops that and no more."""

    def __init__(self, context: StepContext, built: Collection[str] = ()) -> None:
        self._context = context
        self._lock = threading.Lock()
        self.built: list[str] = [*context.progress_so_far.get("built", [])]
        self.built += [name for name in sorted(built) if name not in self.built]
        self.present: list[str] = []
        self.replaced: dict[str, Any] = dict(context.progress_so_far.get("replaced", {}))
        # Ours, but as a later version makes it: the way down of that one may make it ours again.
        self.taken: list[str] = list(context.progress_so_far.get("taken", []))

    def replaces(self, index: Mapping[str, Any]) -> bool:
        """:return: whether the one that it replaces is there, or was when this step began to replace it."""
        name = _full(index)
        if index.get("replaces") and name not in self.replaced:
            found = self.found(index)
            if found is not None and not self.differences(index["replaces"], found):
                # A comment is the index's own and goes with it.
                self.replaced[name] = {"comment": found["comment"]}
        return name in self.replaced

    def found(self, index: Mapping[str, Any]) -> dict[str, Any] | None:
        """:return: the index of that name as it is in the database."""
        return existing.index_definition(self._context.conn, schema_of(index), index["name"])

    def is_missing(self, index: Mapping[str, Any]) -> bool:
        conn, name = self._context.conn, _full(index)
        found = existing.index_definition(conn, schema_of(index), index["name"])
        if found is None:
            other = fetch_one(
                conn,
                "SELECT c.relkind::text AS kind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE n.nspname = %s AND c.relname = %s",
                (schema_of(index), index["name"]),
            )
            if other:
                raise self.unequal(index, [f"wanted an index, found another relation (relkind {other['kind']})"])
            return True
        differences = self.differences(index, found)
        on_ours = (found["schema"], found["table"]) == (schema_of(index), index["table"])
        if differences and not (not found["valid"] and name in self.built and on_ours):
            if found["valid"] and self._is_replaced_later(index, found):
                self.built += [name] if name not in self.built else []
                self.taken += [name] if name not in self.taken else []
                self.present.append(f"index {name}")
                self._context.tell(f"index {name} is there as a later version makes it: skipped")
                return False
            raise self.unequal(index, differences)
        if not found["valid"]:
            self._wait_for_builders(index)
            # Same name and same definition, or begun by us: the remains of a build that was cut off.
            self._context.tell(f"index {name} is invalid, left by a build that was cut off: dropped and built again")
            _drop(self._context, conn, schema_of(index), index["name"])
            return True
        if name not in self.built:
            self.present.append(f"index {name}")
            self._context.tell(f"index {name} is there already, with the same definition: skipped")
        return False

    def _wait_for_builders(self, index: Mapping[str, Any]) -> None:
        """:raises PgopsError: somebody else may be building it: the lock of a build is held on its table."""
        conn, name = self._context.conn, _full(index)
        table = sql.Identifier(schema_of(index), index["table"]).as_string(conn)
        for attempt in range(BUILDER_LOOKS):
            self._context.control.check()
            pids = [str(row["pid"]) for row in fetch_all(conn, _BUILDERS, (table,))]
            if not pids:
                return
            if attempt == 0:
                self._context.tell(f"index {name} is invalid, and pid {', '.join(pids)} may be building it: waiting")
            self._context.sleep(BUILDER_POLL_S)
        raise PgopsError(
            f"{self._context.doing} failed: index {name} is invalid, and pid {', '.join(pids)} may be building it.",
            sqlstate=errorcodes.OBJECT_IN_USE,
            database=self._context.database,
            object_name=name,
            hint="Wait for it, then run it again: an index that has become valid is taken over, another is built anew.",
        )

    def is_another(self, index: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
        """:return: whether the index of that name is not the wanted one, on another table or with another definition."""
        try:
            return bool(self.differences(index, found))
        except (psycopg2.errors.UndefinedColumn, psycopg2.errors.UndefinedTable):
            return True  # what it would be made of is gone

    def forget(self, index: Mapping[str, Any]) -> None:
        """It is not ours after all: somebody made one of that name before us."""
        with self._lock:
            self.built.remove(_full(index))
            self._write("running")

    def _is_replaced_later(self, index: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
        later = self._context.replacements.get((schema_of(index), str(index["name"])), ())
        return any(not self.differences(other, found) for other in later)

    def differences(self, index: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
        """:return: how the index of that name differs from the wanted definition; empty when they are equal."""
        conn = self._context.conn
        with transaction(conn), existing.shadow(conn) as shadow:
            existing.shadow_table(conn, shadow, schema_of(index), index["table"])
            execute(conn, create_index(index, concurrently=False, schema=shadow))
            wanted = existing.index_definition(conn, shadow, index["name"])
            # In the shadow's transaction too, so that both print under one search_path.
            again = existing.index_definition(conn, schema_of(index), index["name"])
        return existing.index_differences(wanted or {}, again or found)

    def unequal(self, index: Mapping[str, Any], differences: list[str]) -> existing.Unequal:
        """:return: the error of an index whose name another one has."""
        name = _full(index)
        return existing.Unequal(
            f"{self._context.doing} failed: index {name} exists already with another definition: {'; '.join(differences)}",
            sqlstate=errorcodes.DUPLICATE_OBJECT,
            database=self._context.database,
            object_name=name,
            hint="Drop or rename that index if nobody needs it, or give the wanted one another name.",
            extra={"differences": differences},
        )

    def began(self, index: Mapping[str, Any]) -> None:
        with self._lock:
            if _full(index) not in self.built:
                self.built.append(_full(index))
            self._write("running")

    def save(self, state: str) -> None:
        with self._lock:
            self._write(state)

    def _write(self, state: str) -> None:
        progress: dict[str, Any] = {"built": self.built, "present": self.present}
        progress.update({key: value for key, value in (("replaced", self.replaced), ("taken", self.taken)) if value})
        self._context.save(state, progress)


def _replace(context: StepContext, state: _State, wanted: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Bring the index of that name from the other definition to the wanted one, from wherever it was left."""
    conn, schema, name, new = context.conn, schema_of(wanted), str(wanted["name"]), aside(wanted)
    context.control.check()
    found, beside = state.found(wanted), state.found(new)
    if beside is not None and _full(new) not in state.built:
        raise state.unequal(new, [f"it is not ours, and {name} is to be built under that name first"])
    ready = beside is not None and beside["valid"] and not state.differences(new, beside)
    is_wanted = found is not None and not state.differences(wanted, found)
    if found is not None and is_wanted and not found["valid"]:
        _drop(context, conn, schema, name)
        found = None
    if found is not None and is_wanted:
        if beside is not None:
            _drop(context, conn, schema, new["name"])
        return
    if found is None and not ready:
        # Neither serves under its name: the wanted one needs no other name. What is beside it serves until then.
        if beside is not None and not beside["valid"]:
            _drop(context, conn, schema, new["name"])
            beside = None
        _build(context, state, conn, wanted)
        if beside is not None:
            _drop(context, conn, schema, new["name"])
        return
    if found is not None:
        differences = state.differences(other, found)
        if differences:
            raise state.unequal(other, differences)
        if not ready:
            if beside is not None:
                _drop(context, conn, schema, new["name"])
            _build(context, state, conn, new)
        context.control.check()
        _drop(context, conn, schema, name)
        context.control.check()
    _alter(
        context,
        conn,
        rename_index(schema, new["name"], name),
        telling=f"renaming index {schema}.{new['name']} to {name}",
        failing=f"renamed index {schema}.{new['name']} to {name}",
    )


def _comment(context: StepContext, index: Mapping[str, Any], comment: str | None) -> None:
    found = existing.index_definition(context.conn, schema_of(index), index["name"])
    if found is None or found["comment"] == comment:
        return
    full = sql.Identifier(schema_of(index), index["name"])
    statement = sql.SQL("COMMENT ON INDEX {} IS {}").format(full, sql.Literal(comment))
    telling = f"commenting on index {_full(index)}"
    _alter(context, context.conn, statement, telling=telling, failing=f"commented on index {_full(index)}")


def _side_by_side(context: StepContext, state: _State, tables: list[list[Mapping[str, Any]]]) -> None:
    """Two sessions take table after table; the session with the runner lock stays free for the ledger."""
    waiting = list(tables)
    guard = threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        conn: Connection | None = None
        try:
            conn = context.connect()
            while True:
                with guard:
                    if failures or not waiting:
                        return
                    mine = waiting.pop(0)
                for index in mine:
                    if failures:
                        return
                    _build(context, state, conn, index)
        except BaseException as exc:  # noqa: BLE001 - raised again in the main thread
            failures.append(exc)
        finally:
            if conn is not None:
                conn.close()

    threads = [
        threading.Thread(target=work, name=f"pgops-build-{number}") for number in range(min(SIDE_BY_SIDE, len(tables)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        # An interruption ends all of them; what failed by itself is the better story.
        own = [exc for exc in failures if not isinstance(exc, Interrupted)]
        raise (own or failures)[0]


class _Nothing:
    """Stands for the state where the name of an index tells whose it is."""

    def began(self, index: Mapping[str, Any]) -> None:
        """Note nothing."""

    def forget(self, index: Mapping[str, Any]) -> None:
        """Nothing was noted."""


def build_by_text(context: StepContext, index: Mapping[str, Any]) -> None:
    """Build an index of another kind of step, whose name says that it is ours; its remains are dropped first.

    Takes SHARE UPDATE EXCLUSIVE on the table.

    :param index: ``schema``, ``name``, and ``statement``: CREATE INDEX CONCURRENTLY as the server is to get it.
    """
    found = existing.index_definition(context.conn, schema_of(index), index["name"])
    if found is not None and not found["valid"]:
        _drop(context, context.conn, schema_of(index), index["name"])
    _build(context, _Nothing(), context.conn, index)


def _creation(index: Mapping[str, Any]) -> sql.Composable:
    return sql.SQL(index["statement"]) if "statement" in index else create_index(index)


def _build(context: StepContext, state: _State | _Nothing, conn: Connection, index: Mapping[str, Any]) -> None:
    name = _full(index)
    for attempt in range(1, TRIES + 1):
        context.control.check()
        # Before the build: whoever finds the remains must know that they are ours.
        state.began(index)
        execute(
            conn,
            sql.SQL("SET lock_timeout = 0; SET statement_timeout = {}").format(
                sql.Literal(f"{context.budget('index_timeout_s')}s")
            ),
        )
        try:
            with context.watched(f"building index {name}", conn=conn, cancel=True):
                execute(conn, _creation(index))
            return
        except psycopg2.Error as exc:
            if conn.closed:
                raise
            execute(conn, "SET statement_timeout = 0")
            if exc.pgcode == errorcodes.DUPLICATE_TABLE:
                state.forget(index)
                raise _build_error(context, exc, conn, index) from None
            _drop_remains(context, conn, index)
            context.control.check()
            if exc.pgcode == errorcodes.DEADLOCK_DETECTED and attempt < TRIES:
                context.tell(f"the build of index {name} deadlocked with another session: once more")
                continue
            raise _build_error(context, exc, conn, index) from None
        except Interrupted:
            _drop_remains(context, conn, index)
            raise
        finally:
            if not conn.closed:
                execute(conn, "SET statement_timeout = 0")


def _drop_remains(context: StepContext, conn: Connection, index: Mapping[str, Any]) -> None:
    found = existing.index_definition(conn, schema_of(index), index["name"])
    if found is None or found["valid"]:
        return
    try:
        _drop(context, conn, schema_of(index), index["name"], limit_s=CLEAN_UP_S)
    except PgopsError:
        # Somebody holds the table. The ledger knows that these are our remains: the next run drops them first.
        context.tell(f"index {_full(index)} stays invalid for now, its table is in use: the next run drops it first")


def _drop(context: StepContext, conn: Connection, schema: str, name: str, limit_s: int | None = None) -> None:
    telling, failing = f"dropping index {schema}.{name}", f"dropped index {schema}.{name}"
    _alter(context, conn, drop_index(schema, name), telling=telling, failing=failing, limit_s=limit_s)


def _alter(
    context: StepContext,
    conn: Connection,
    statement: sql.Composed,
    *,
    telling: str,
    failing: str,
    limit_s: int | None = None,
) -> None:
    """Drop an index concurrently, or rename it: a session that holds it makes this wait, not fail, up to the limit.

    Neither asks for a lock that a reader or a writer would queue behind.
    """
    limit = min(limit_s or context.budget("index_timeout_s"), context.budget("index_timeout_s"))
    execute(conn, sql.SQL("SET lock_timeout = 0; SET statement_timeout = {}").format(sql.Literal(f"{limit}s")))
    try:
        with context.watched(telling, conn=conn):
            execute(conn, statement)
    except psycopg2.Error as exc:
        if exc.pgcode is None:
            raise
        raise from_psycopg(
            exc,
            f"{context.doing} failed when it {failing}",
            statement=statement.as_string(conn),
            database=context.database,
        ) from None
    finally:
        if not conn.closed:
            execute(conn, "SET statement_timeout = 0")


def _build_error(context: StepContext, exc: psycopg2.Error, conn: Connection, index: Mapping[str, Any]) -> PgopsError:
    statement = _creation(index).as_string(conn)
    name = _full(index)
    error = from_psycopg(
        exc, f"{context.doing} failed when it built index {name}", statement=statement, database=context.database
    )
    error.object_name = name
    if is_time_limit(exc.pgcode, str(exc)):
        error.message = (
            f"{context.doing} hit its time limit of {context.budget('index_timeout_s')} s when it built index {name}; "
            f"its remains were dropped (SQLSTATE {exc.pgcode})"
        )
        error.args = (error.message,)
        error.hint = "Run it again in a quiet period, or raise budgets.index_timeout_s in its migration.yml."
        error.extra["reason"] = "time_limit"
    return error


def _tell_invalid_of_others(context: StepContext, wanted: Sequence[Mapping[str, Any]]) -> None:
    ours = [*wanted, *(aside(index) for index in wanted if index.get("replaces"))]
    rows = fetch_all(
        context.conn,
        _INVALID_OF_OTHERS,
        (
            [schema_of(index) for index in wanted],
            [index["table"] for index in wanted],
            [_full(index) for index in ours],
        ),
    )
    for row in rows:
        context.tell(f"index {row['name']} is invalid and not ours: it is left alone, drop or rebuild it yourself")


def _taken_names(context: StepContext, wanted: Sequence[Mapping[str, Any]]) -> set[str]:
    """:return: those of the names that a relation has, whatever it is: only these are looked at one by one."""
    rows = fetch_all(
        context.conn,
        "SELECT n.nspname || '.' || c.relname AS name FROM unnest(%s::text[], %s::text[]) AS given(schema, name) "
        "JOIN pg_namespace n ON n.nspname = given.schema "
        "JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = given.name",
        ([schema_of(index) for index in wanted], [index["name"] for index in wanted]),
    )
    return {str(row["name"]) for row in rows}


def _full(index: Mapping[str, Any]) -> str:
    return f"{schema_of(index)}.{index['name']}"
