# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What was applied to a database, kept in its schema ``pgops``: versions, steps, runs, and an append-only audit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import audit_verifier, ledger_rights
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

SCHEMA_VERSION = 4

# What came with version 2: which versions another tool had applied, and what was found when they were taken over.
# The two texts of a version are stored as they are: to compress them took half of the time of the row (measured).
_ADOPTION = """
ALTER TABLE pgops.migration ADD COLUMN adopted jsonb, ALTER COLUMN files SET STORAGE EXTERNAL,
    ALTER COLUMN rendered SET STORAGE EXTERNAL;
CREATE TABLE pgops.adoption (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_id text,
    who text NOT NULL,
    why text,
    pending text[] NOT NULL,
    detail jsonb NOT NULL
);
-- Which versions have a row in another tool's ledger, while that is kept in step.
CREATE TABLE pgops.mirror (
    version text PRIMARY KEY,
    schema text NOT NULL,
    relation text NOT NULL,
    name text NOT NULL
);
REVOKE ALL ON pgops.adoption, pgops.mirror FROM PUBLIC;
"""
# What came with version 3: a database on which the tree is not used, as it was when it was taken over.
_BASELINE = """
CREATE TABLE pgops.baseline (
    name text PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_id text,
    who text NOT NULL,
    why text,
    fingerprint text NOT NULL,
    objects jsonb NOT NULL,
    detail jsonb NOT NULL,
    ended_at timestamptz
);
REVOKE ALL ON pgops.baseline FROM PUBLIC;
"""
# What came with version 4: which transactions were a step's own, so that a rollback can tell the rows that a version wrote
# from those of the application. A transaction's number means nothing in another database, nor does it after a restore.
_TRANSACTIONS = """
CREATE TABLE pgops.step_transaction (
    database oid NOT NULL,
    xid xid8 NOT NULL,
    version text NOT NULL,
    direction text NOT NULL,
    ordinal integer NOT NULL,
    PRIMARY KEY (database, xid)
);
REVOKE ALL ON pgops.step_transaction FROM PUBLIC;
"""
_CREATE = f"""
CREATE SCHEMA IF NOT EXISTS pgops;
COMMENT ON SCHEMA pgops IS 'Ledger of the Ansible collection whitecross.pgops: written by the tool, not by hand';
CREATE TABLE pgops.meta (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    schema_version integer NOT NULL,
    upgraded_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE pgops.run (
    id text PRIMARY KEY,
    playbook text,
    environment text,
    who text,
    ops_host text,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    why text,
    backup jsonb,
    result text,
    stop_requested_at timestamptz,
    stop_requested_by text
);
CREATE TABLE pgops.migration (
    version text PRIMARY KEY,
    name text NOT NULL,
    title text NOT NULL,
    checksum text NOT NULL,
    rendered_checksum text NOT NULL,
    files jsonb NOT NULL,
    rendered jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('applying', 'applied', 'failed', 'reverting', 'reverted')),
    failed_step integer,
    reason text,
    error text,
    run_id text,
    applied_by text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    duration_s double precision NOT NULL DEFAULT 0
);
CREATE TABLE pgops.step (
    version text NOT NULL REFERENCES pgops.migration ON DELETE CASCADE,
    direction text NOT NULL CHECK (direction IN ('up', 'down')),
    ordinal integer NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'running', 'done')),
    progress jsonb NOT NULL DEFAULT '{{}}',
    started_at timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (version, direction, ordinal)
);
-- The primary key keeps the chain one chain: of two writers that saw the same last row, one gets no row and looks again.
-- detail is json, not jsonb: the hash is over its text.
CREATE TABLE pgops.audit (
    seq bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    run_id text,
    event text NOT NULL,
    version text,
    actor text NOT NULL,
    detail json NOT NULL,
    previous text NOT NULL,
    hash text NOT NULL
);
CREATE FUNCTION pgops.refuse_audit_change() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $refuse${audit_verifier.REFUSAL}$refuse$;
-- For each statement, since a row trigger does not see TRUNCATE; ALWAYS, since session_replication_role = replica
-- switches the others off.
CREATE TRIGGER audit_no_update BEFORE UPDATE ON pgops.audit
    FOR EACH STATEMENT EXECUTE FUNCTION pgops.refuse_audit_change();
CREATE TRIGGER audit_no_delete BEFORE DELETE ON pgops.audit
    FOR EACH STATEMENT EXECUTE FUNCTION pgops.refuse_audit_change();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON pgops.audit
    FOR EACH STATEMENT EXECUTE FUNCTION pgops.refuse_audit_change();
ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER audit_no_update;
ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER audit_no_delete;
ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER audit_no_truncate;
{_ADOPTION}
{_BASELINE}
{_TRANSACTIONS}
REVOKE ALL ON ALL TABLES IN SCHEMA pgops FROM PUBLIC;
INSERT INTO pgops.meta (schema_version) VALUES ({SCHEMA_VERSION});
"""

# What brings a ledger of version N to N + 1, by N.
UPGRADES: dict[int, str] = {1: _ADOPTION, 2: _BASELINE, 3: _TRANSACTIONS}


@dataclass(frozen=True)
class Run:
    """One playbook run, as the controller knows it."""

    id: str
    playbook: str | None = None
    environment: str | None = None
    who: str | None = None
    ops_host: str | None = None
    why: str | None = None
    backup: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Step:
    """How far one step of a version is."""

    ordinal: int
    kind: str
    name: str
    state: str
    progress: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Migration:
    """One row of the ledger; times are ISO 8601 in UTC, durations seconds."""

    version: str
    name: str
    title: str
    checksum: str
    rendered_checksum: str
    files: dict[str, dict[str, str]]
    state: str
    failed_step: int | None
    reason: str | None
    error: str | None
    run_id: str | None
    applied_by: str
    started_at: str | None
    finished_at: str | None
    duration_s: float
    # How it was taken over from another tool; None for a version that this tool applied.
    adopted: dict[str, Any] | None = None
    steps: list[Step] = field(default_factory=list)
    down_steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class Baseline:
    """A database that is taken as it is, since no version of the tree fits it.

    :ivar at: ISO 8601 in UTC.
    :ivar tables: how many tables it had.
    :ivar ledgers: what the other tools' ledgers said then: tool, and how many migrations in which state.
    """

    name: str
    at: str
    who: str
    fingerprint: str
    tables: int
    ledgers: list[dict[str, Any]]


@dataclass(frozen=True)
class Ledger:
    """The whole ledger of one database.

    :ivar exists: False where the tool never wrote; then everything else is empty.
    :ivar head: sha256 over (version, checksum, state) of all rows, the same for an empty and for a missing ledger.
    :ivar adopted_around: versions that were not there when later ones were adopted; they are no newcomers.
    """

    exists: bool
    schema_version: int
    head: str
    migrations: list[Migration]
    adopted_around: frozenset[str] = frozenset()
    baseline: Baseline | None = None

    def get(self, version: str) -> Migration | None:
        """:return: the row of that version, or None."""
        return next((row for row in self.migrations if row.version == version), None)

    def in_state(self, *states: str) -> list[Migration]:
        """:return: the rows in one of these states, in version order."""
        return [row for row in self.migrations if row.state in states]


@contextmanager
def transaction(conn: Connection, first: str = "") -> Iterator[list[str]]:
    """One transaction on a connection in autocommit: committed at the end of the block, rolled back by any exception.

    :param first: statements that begin it, in the same round trip.
    :yield: a list for statements that end it, in the round trip of its COMMIT.
    """
    last: list[str] = []
    try:
        execute(conn, f"BEGIN; {first}" if first else "BEGIN")
        yield last
        execute(conn, "; ".join([*last, "COMMIT"]))
    except BaseException:
        if not conn.closed:
            try:
                execute(conn, "ROLLBACK")
            except psycopg2.Error:
                conn.close()  # a session that cannot even roll back is gone; the server rolls back for us
        raise


def _text(conn: Connection, query: str, params: Any) -> str:
    """:return: the statement with its values in place, to be sent together with others."""
    with conn.cursor() as cursor:
        text: bytes = cursor.mogrify(query, params)
    return text.decode(psycopg2.extensions.encodings[conn.encoding])


def head_of(rows: Sequence[tuple[str, str, str]]) -> str:
    """:return: sha256 over (version, checksum, state) of rows in version order."""
    return hashlib.sha256(json.dumps([list(row) for row in sorted(rows)], separators=(",", ":")).encode()).hexdigest()


EMPTY_HEAD = head_of([])

_READ = """
SELECT m.version, m.name, m.title, m.checksum, m.rendered_checksum, m.files, m.state, m.failed_step, m.reason, m.error,
       m.run_id, m.applied_by, pgops_iso(m.started_at) AS started_at, pgops_iso(m.finished_at) AS finished_at,
       m.duration_s, pgops_adopted AS adopted,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('direction', s.direction, 'ordinal', s.ordinal, 'kind', s.kind,
                        'name', s.name, 'state', s.state, 'progress', s.progress) ORDER BY s.ordinal), '[]')
          FROM pgops.step s WHERE s.version = m.version) AS steps
  FROM pgops.migration m ORDER BY m.version COLLATE "C"
"""


def _iso(expression: str) -> str:
    return f"""pg_catalog.to_char({expression} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""


_READ = _READ.replace("pgops_iso(m.started_at)", _iso("m.started_at")).replace(
    "pgops_iso(m.finished_at)", _iso("m.finished_at")
)


_READ_BASELINE = f"""
SELECT b.name, {_iso("b.at")} AS at, b.who, b.fingerprint, (b.detail ->> 'tables')::int AS tables,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('tool', l.value -> 'tool', 'entries',
                        (SELECT coalesce(jsonb_object_agg(state, n), '{{}}')
                           FROM (SELECT e.value ->> 'state' AS state, count(*) AS n
                                   FROM jsonb_array_elements(l.value -> 'entries') e GROUP BY 1) AS counted))), '[]')
          FROM jsonb_array_elements(b.detail -> 'ledgers') l) AS ledgers
  FROM pgops.baseline b WHERE b.ended_at IS NULL
"""


def schema_version(conn: Connection) -> int:
    """:return: the version of the ledger's own schema, 0 where there is none.

    :raises PgopsError: a newer tool wrote it; to read or write it with this one could lose what it means. Or the role may
        not read it.
    """
    there = fetch_one(
        conn,
        "SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS may "
        "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = 'pgops' AND c.relname = 'meta'",
    )
    if not there:
        return 0
    if not there["may"]:
        raise ledger_rights.unreadable(conn)
    row = fetch_one(conn, "SELECT schema_version FROM pgops.meta")
    found = int(row["schema_version"]) if row else 0
    if found > SCHEMA_VERSION:
        raise PgopsError(
            f"The ledger of database {conn.info.dbname} has schema version {found}, and this release of "
            f"whitecross.pgops knows {SCHEMA_VERSION} at most; install the release that wrote it, or a newer one.",
            database=conn.info.dbname,
        )
    return found


def read(conn: Connection) -> Ledger:
    """Read the ledger without writing anything.

    :raises PgopsError: a newer tool's ledger.
    """
    version = schema_version(conn)
    if version == 0:
        return Ledger(False, 0, EMPTY_HEAD, [])
    migrations = []
    for row in fetch_all(conn, _READ.replace("pgops_adopted", "m.adopted" if version > 1 else "NULL::jsonb")):
        steps = row.pop("steps")
        both: dict[str, list[Step]] = {"up": [], "down": []}
        for step in steps:
            both[step.pop("direction")].append(Step(**step))
        migrations.append(Migration(**row, steps=both["up"], down_steps=both["down"]))
    around = fetch_all(conn, "SELECT DISTINCT unnest(pending) AS version FROM pgops.adoption") if version > 1 else []
    return Ledger(
        True,
        version,
        head_of([(row.version, row.checksum, row.state) for row in migrations]),
        migrations,
        frozenset(str(row["version"]) for row in around),
        _baseline(conn) if version > 2 else None,
    )


def head(conn: Connection) -> str:
    """:return: the head of a ledger that is there; see :func:`head_of`."""
    rows = fetch_all(conn, "SELECT version, checksum, state FROM pgops.migration")
    return head_of([(row["version"], row["checksum"], row["state"]) for row in rows])


def _baseline(conn: Connection) -> Baseline | None:
    row = fetch_one(conn, _READ_BASELINE)
    return Baseline(**row) if row else None


def stored(conn: Connection, version: str) -> dict[str, Any]:
    """:return: the rendered migration as it was applied, so that a way back exists without its files."""
    return all_stored(conn, [version])[0]


def all_stored(conn: Connection, versions: Sequence[str]) -> list[dict[str, Any]]:
    """:return: the same of several, in their order."""
    if not versions:
        return []  # there may be no ledger yet
    rows = fetch_all(conn, "SELECT version, rendered FROM pgops.migration WHERE version = ANY(%s)", (list(versions),))
    found = {str(row["version"]): dict(row["rendered"]) for row in rows}
    for version in versions:
        if version not in found:
            raise PgopsError(
                f"Version {version} is not in the ledger of {conn.info.dbname}.", database=conn.info.dbname
            )
    return [found[version] for version in versions]


def ensure(conn: Connection) -> bool:
    """Create the ledger, or bring an older one up to date, in one transaction. Call with the runner lock held.

    Takes no lock on any table of the user. Needs CREATE on the database for the role that owns the objects.

    :return: whether anything was written.
    :raises PgopsError: a newer tool's ledger, or no right to create the schema or to write into it.
    """
    found = schema_version(conn)
    if found == SCHEMA_VERSION:
        ledger_rights.check(conn)
        return False
    try:
        with transaction(conn):
            if found == 0:
                execute(conn, _CREATE)
            else:
                for number in range(found, SCHEMA_VERSION):
                    execute(conn, UPGRADES[number])
                execute(conn, "UPDATE pgops.meta SET schema_version = %s, upgraded_at = now()", (SCHEMA_VERSION,))
    except psycopg2.errors.InsufficientPrivilege:
        raise ledger_rights.not_made(conn, upgraded=found > 0) from None
    return True


def start_run(conn: Connection, run: Run) -> None:
    """Record the run, once; a later module of the same run fills in what it knows more."""
    execute(
        conn,
        """
        INSERT INTO pgops.run (id, playbook, environment, who, ops_host, why, backup) VALUES (%s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT (id) DO UPDATE SET why = coalesce(excluded.why, run.why),
            backup = coalesce(excluded.backup, run.backup), stop_requested_at = NULL, finished_at = NULL, result = NULL
        """,
        (
            run.id,
            run.playbook,
            run.environment,
            run.who,
            run.ops_host,
            run.why,
            json.dumps(dict(run.backup)) if run.backup else None,
        ),
    )


def has_run(conn: Connection, run_id: str) -> bool:
    """:return: whether the run has its row."""
    return fetch_one(conn, "SELECT 1 AS yes FROM pgops.run WHERE id = %s", (run_id,)) is not None


def finish_run(conn: Connection, run_id: str, result: str) -> None:
    """Record how the run ended, in a word."""
    execute(conn, "UPDATE pgops.run SET finished_at = clock_timestamp(), result = %s WHERE id = %s", (result, run_id))


def stop_request(conn: Connection, run_id: str) -> str | None:
    """:return: who asked this run to stop, or None."""
    row = fetch_one(
        conn,
        "SELECT coalesce(stop_requested_by, 'somebody') AS by FROM pgops.run "
        "WHERE id = %s AND stop_requested_at IS NOT NULL",
        (run_id,),
    )
    return str(row["by"]) if row else None


def ask_to_stop(conn: Connection, run_id: str, by: str) -> bool:
    """Mark a run to end at its next safe point.

    :return: whether there is such a run.
    """
    return (
        execute(
            conn,
            "UPDATE pgops.run SET stop_requested_at = clock_timestamp(), stop_requested_by = %s WHERE id = %s",
            (by, run_id),
        )
        > 0
    )


def begin_text(
    conn: Connection, migration: Mapping[str, Any], run: Run, *, applied_by: str, resume: bool, again: bool = False
) -> str:
    """:return: the statements that write a version as ``applying``, with all its steps.

    :param resume: keep what is known of its steps.
    :param again: it was reverted before; forget the steps of then.
    """
    text = _text(
        conn,
        """
        INSERT INTO pgops.migration (version, name, title, checksum, rendered_checksum, files, rendered, state, run_id,
                                     applied_by, started_at)
        VALUES (%(version)s, %(name)s, %(title)s, %(checksum)s, %(rendered_checksum)s, %(files)s, %(rendered)s,
                'applying', %(run)s, %(by)s, clock_timestamp())
        ON CONFLICT (version) DO UPDATE SET name = excluded.name, title = excluded.title, checksum = excluded.checksum,
            rendered_checksum = excluded.rendered_checksum, files = excluded.files, rendered = excluded.rendered,
            state = 'applying', run_id = excluded.run_id, applied_by = excluded.applied_by,
            started_at = CASE WHEN %(resume)s THEN migration.started_at ELSE excluded.started_at END,
            duration_s = CASE WHEN %(resume)s THEN migration.duration_s ELSE 0 END,
            finished_at = NULL, failed_step = NULL, reason = NULL, error = NULL, adopted = NULL
        """,
        {
            "version": migration["version"],
            "name": migration["name"],
            "title": migration.get("title") or migration["name"],
            "checksum": migration["checksum"],
            "rendered_checksum": migration["rendered_checksum"],
            "files": json.dumps(migration["files"]),
            "rendered": json.dumps({key: value for key, value in migration.items() if key != "files"}),
            "run": run.id,
            "by": applied_by,
            "resume": resume,
        },
    )
    if again:
        text += _text(conn, "; DELETE FROM pgops.step WHERE version = %s", (migration["version"],))
    return text + _steps_text(conn, migration["version"], "up", migration["steps"])


def record_adopted(
    conn: Connection,
    migration: Mapping[str, Any],
    run: Run,
    *,
    applied_by: str,
    adopted: Mapping[str, Any],
    progress: Sequence[Mapping[str, Any]],
) -> None:
    """Write a version as ``applied`` that another tool has applied, in the caller's transaction.

    :param adopted: the proof: what was found, and the definitions that a way down may rely on.
    :param progress: of each step, as if it had made what is there: the way down takes that back.
    """
    version = str(migration["version"])
    statements = [
        begin_text(conn, migration, run, applied_by=applied_by, resume=False, again=True),
        *(step_state_text(conn, version, "up", ordinal, "done", made) for ordinal, made in enumerate(progress, 1)),
        finish_text(conn, version, "applied", 0.0),
        _text(
            conn,
            "UPDATE pgops.migration SET adopted = %s WHERE version = %s",
            (json.dumps(dict(adopted)), version),
        ),
    ]
    execute(conn, "; ".join(statements))


def record_adoption(conn: Connection, run: Run, *, who: str, pending: Sequence[str], detail: Mapping[str, Any]) -> None:
    """Keep what was found when a database was taken over, in the caller's transaction.

    :param pending: versions of the tree that were not there; they may be applied although later ones are adopted.
    """
    execute(
        conn,
        "INSERT INTO pgops.adoption (run_id, who, why, pending, detail) VALUES (%s, %s, %s, %s, %s)",
        (run.id, who, run.why, list(pending), json.dumps(dict(detail))),
    )


def record_baseline(
    conn: Connection,
    run: Run,
    name: str,
    fingerprint: str,
    objects: Mapping[str, Any],
    detail: Mapping[str, Any],
    *,
    who: str,
) -> None:
    """Write a baseline, in the caller's transaction; it takes the place of one before.

    :param objects: the inventory of the database.
    :param detail: ``tables``, ``ledgers`` and whatever else was found.
    """
    end_baselines(conn)
    execute(
        conn,
        "INSERT INTO pgops.baseline (name, run_id, who, why, fingerprint, objects, detail) VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (name, run.id, who, run.why, fingerprint, json.dumps(dict(objects)), json.dumps(dict(detail))),
    )


def end_baselines(conn: Connection) -> None:
    """The baseline counts no longer, in the caller's transaction; it stays to be read."""
    execute(conn, "UPDATE pgops.baseline SET ended_at = clock_timestamp() WHERE ended_at IS NULL")


def has_baseline(conn: Connection, found: Ledger, name: str) -> bool:
    """:return: whether there is or was a baseline of that name."""
    if found.schema_version < 3:
        return False
    return fetch_one(conn, "SELECT 1 AS yes FROM pgops.baseline WHERE name = %s", (name,)) is not None


def baseline_objects(conn: Connection, name: str) -> dict[str, dict[str, Any]]:
    """:return: the inventory as it was when that baseline was recorded."""
    row = fetch_one(conn, "SELECT objects FROM pgops.baseline WHERE name = %s", (name,))
    return dict(row["objects"]) if row else {}


def begin_down_text(conn: Connection, version: str, steps: Sequence[Mapping[str, Any]], run: Run) -> str:
    """:return: the statements that write a version as ``reverting`` with its steps on the way down; known ones are kept."""
    return _text(
        conn,
        "UPDATE pgops.migration SET state = 'reverting', run_id = %s, failed_step = NULL, reason = NULL, error = NULL "
        "WHERE version = %s",
        (run.id, version),
    ) + _steps_text(conn, version, "down", steps)


def _steps_text(conn: Connection, version: str, direction: str, steps: Sequence[Mapping[str, Any]]) -> str:
    if not steps:
        return ""
    return _text(
        conn,
        """;
        INSERT INTO pgops.step (version, direction, ordinal, kind, name, state)
        SELECT %s, %s, given.ordinal, given.kind, given.name, 'pending'
          FROM unnest(%s::int[], %s::text[], %s::text[]) AS given(ordinal, kind, name)
        ON CONFLICT (version, direction, ordinal) DO UPDATE SET kind = excluded.kind, name = excluded.name
        """,
        (
            version,
            direction,
            list(range(1, len(steps) + 1)),
            [step["kind"] for step in steps],
            [step.get("name") or step["kind"] for step in steps],
        ),
    )


def step_state_text(
    conn: Connection,
    version: str,
    direction: str,
    ordinal: int,
    state: str,
    progress: Mapping[str, Any] | None = None,
) -> str:
    """:return: the statements that record a step's state, when given its progress, and that this transaction is its own."""
    return _text(
        conn,
        """
        INSERT INTO pgops.step_transaction (database, xid, version, direction, ordinal)
        SELECT d.oid, pg_current_xact_id(), %(version)s, %(direction)s, %(ordinal)s
          FROM pg_catalog.pg_database AS d WHERE d.datname = current_database()
        ON CONFLICT DO NOTHING;
        UPDATE pgops.step SET state = %(state)s, progress = coalesce(%(progress)s, progress),
               started_at = coalesce(started_at, clock_timestamp()),
               finished_at = CASE WHEN %(state)s = 'done' THEN clock_timestamp() END
         WHERE version = %(version)s AND direction = %(direction)s AND ordinal = %(ordinal)s
        """,
        {
            "state": state,
            "progress": json.dumps(dict(progress)) if progress is not None else None,
            "version": version,
            "direction": direction,
            "ordinal": ordinal,
        },
    )


def step_progress_text(conn: Connection, version: str, direction: str, step: Step) -> str:
    """:return: the statement that records a step's progress and leaves its state and its times as they are."""
    return _text(
        conn,
        "UPDATE pgops.step SET progress = %s WHERE version = %s AND direction = %s AND ordinal = %s",
        (json.dumps(step.progress), version, direction, step.ordinal),
    )


def finish_text(conn: Connection, version: str, state: str, duration_s: float) -> str:
    """:return: the statement that records a version as ``applied`` or ``reverted``."""
    return _text(
        conn,
        "UPDATE pgops.migration SET state = %s, finished_at = clock_timestamp(), duration_s = duration_s + %s, "
        "failed_step = NULL, reason = NULL, error = NULL WHERE version = %s",
        (state, duration_s, version),
    )


def is_in_hand(conn: Connection, version: str, run_id: str) -> bool:
    """:return: whether that version is half way up or down by that run."""
    return (
        fetch_one(
            conn,
            "SELECT 1 AS yes FROM pgops.migration WHERE version = %s AND run_id = %s AND state IN ('applying', 'reverting')",
            (version, run_id),
        )
        is not None
    )


def fail(conn: Connection, version: str, state: str, step: int, reason: str, error: str, duration_s: float) -> None:
    """Record where and why a version stopped, in the caller's transaction.

    :param state: ``failed`` on the way up, ``reverting`` on the way down.
    :param reason: ``failed``, ``lock_wait``, ``time_limit`` or ``interrupted``.
    """
    execute(
        conn,
        "UPDATE pgops.migration SET state = %s, failed_step = %s, reason = %s, error = %s, duration_s = duration_s + %s "
        "WHERE version = %s",
        (state, step, reason, error, duration_s, version),
    )


_AT = """pg_catalog.to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""

# The hash as audit_verifier.entry_hash has it: to_json escapes a text as json.dumps does.
_APPEND = f"""
WITH last AS MATERIALIZED (
    SELECT coalesce(max(seq), 0) + 1 AS seq, clock_timestamp() AS at, session_user::text AS actor,
           coalesce((SELECT hash FROM pgops.audit ORDER BY seq DESC LIMIT 1), %(genesis)s) AS previous
      FROM pgops.audit)
INSERT INTO pgops.audit (seq, at, run_id, event, version, actor, detail, previous, hash)
SELECT seq, at, %(run)s, %(event)s, %(version)s, actor, %(detail)s::json, previous,
       encode(sha256(convert_to(concat('[', seq, ',', to_json({_AT.format("at")}), ',',
           coalesce(to_json(%(run)s::text)::text, 'null'), ',', to_json(%(event)s::text), ',',
           coalesce(to_json(%(version)s::text)::text, 'null'), ',', to_json(actor), ',',
           to_json(%(detail)s::text), ',', to_json(previous), ']'), 'UTF8')), 'hex')
  FROM last
ON CONFLICT DO NOTHING
RETURNING seq, hash
"""


def append_audit(
    conn: Connection,
    event: str,
    *,
    run_id: str | None = None,
    version: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Add a row to the chain, in the caller's transaction where there is one.

    :return: the new head, ``{"seq", "hash"}``; the journal on the ops host keeps it, since a chain alone hides a cut tail.
    """
    text = json.dumps(dict(detail or {}), ensure_ascii=False, sort_keys=True)
    while True:
        head = fetch_one(
            conn,
            _APPEND,
            {"run": run_id, "event": event, "version": version, "detail": text, "genesis": audit_verifier.GENESIS},
        )
        if head is not None:
            return head


def audit_head(conn: Connection) -> dict[str, Any] | None:
    """:return: ``{"seq", "hash"}`` of the last audit row, or None."""
    return fetch_one(conn, "SELECT seq, hash FROM pgops.audit ORDER BY seq DESC LIMIT 1")


def audit_rows(conn: Connection) -> list[dict[str, Any]]:
    """:return: the whole chain, oldest first, as :func:`broken_link` takes it."""
    return fetch_all(
        conn,
        f"SELECT seq, {_AT.format('at')} AS at, run_id, event, version, actor, detail::text AS detail, previous, hash "
        "FROM pgops.audit ORDER BY seq",
    )


def broken_link(
    rows: Sequence[Mapping[str, Any]],
    anchor: Mapping[str, Any] | None = None,
    start: tuple[int, str] = (0, audit_verifier.GENESIS),
) -> str | None:
    """Check the chain.

    :param start: number and hash of the row before the first one, where a checkpoint stands for an archived beginning.
    :param anchor: a head kept outside the database; without one, a cut tail or a full rewrite cannot be seen.
    :return: one sentence naming the first row that does not hold, or None.
    """
    before, previous = start
    for expected, row in enumerate(rows, before + 1):
        if row["seq"] != expected:
            return f"audit row {expected} is missing"
        if row["previous"] != previous:
            return f"audit row {expected} does not follow the row before it"
        wanted = audit_verifier.entry_hash(
            row["seq"], row["at"], row["run_id"], row["event"], row["version"], row["actor"], row["detail"], previous
        )
        if row["hash"] != wanted:
            return f"audit row {expected} was changed"
        previous = row["hash"]
    if anchor is not None:
        if before + len(rows) < int(anchor["seq"]):
            return f"the audit ends at row {before + len(rows)}, but row {anchor['seq']} was anchored"
        if rows[int(anchor["seq"]) - before - 1]["hash"] != anchor["hash"]:
            return f"audit row {anchor['seq']} is not the one that was anchored"
    return None
