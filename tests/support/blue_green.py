# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A database whose next version cannot be online, and how its server reaches itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import blue_green, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_change import Change
from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_link import Settings
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work

from support.engine import way
from support.server import RESTORE, Server
from support.tree import TestTree

RUN = "20261123T120000Z-b1ce00"
AGAIN = "20261123T130000Z-b1ce01"

TABLES = """
CREATE TYPE {{ schema }}.mood AS ENUM ('calm', 'upset');
CREATE TABLE {{ schema }}.students (
    id serial PRIMARY KEY, name text NOT NULL, mood {{ schema }}.mood NOT NULL DEFAULT 'calm', score numeric(8, 2), seen timestamptz,
    old_note text, twice int GENERATED ALWAYS AS (length(name) * 2) STORED
);
CREATE TABLE {{ schema }}.visits (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, student_id int NOT NULL REFERENCES {{ schema }}.students ON DELETE CASCADE,
    at date NOT NULL
);
CREATE INDEX visits_student ON {{ schema }}.visits (student_id);
CREATE TABLE {{ schema }}.events (id int NOT NULL, at date NOT NULL, text text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE {{ schema }}.events_2025 PARTITION OF {{ schema }}.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE {{ schema }}.events_2026 PARTITION OF {{ schema }}.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE MATERIALIZED VIEW {{ schema }}.busy AS SELECT student_id, count(*) AS visits FROM {{ schema }}.visits GROUP BY 1;
"""
WITHOUT_TABLES = """
DROP MATERIALIZED VIEW {{ schema }}.busy;
DROP TABLE {{ schema }}.visits, {{ schema }}.students, {{ schema }}.events;
DROP TYPE {{ schema }}.mood;
"""
ROWS = """
INSERT INTO students (name, score, seen, old_note) SELECT 'student ' || g, g / 3.0, '2026-01-01'::date + g % 1000, 'x' FROM generate_series(1, {rows}) g;
INSERT INTO visits (student_id, at) SELECT g, '2026-01-01'::date + g % 300 FROM generate_series(1, {rows}) g;
INSERT INTO events SELECT g, '2025-11-01'::date + g % 300, 'event' FROM generate_series(1, {rows}) g;
REFRESH MATERIALIZED VIEW busy;
"""

ONLINE = "20260101000000"
WIDE = "20260101000001"

UP = """
DROP MATERIALIZED VIEW {{ schema }}.busy;
ALTER TABLE {{ schema }}.students ALTER COLUMN id TYPE bigint, ALTER COLUMN score TYPE numeric(12, 3), DROP COLUMN old_note,
    ADD COLUMN level text NOT NULL DEFAULT 'low';
ALTER SEQUENCE {{ schema }}.students_id_seq AS bigint;
ALTER TABLE {{ schema }}.visits ALTER COLUMN id TYPE bigint, ALTER COLUMN student_id TYPE bigint;
CREATE MATERIALIZED VIEW {{ schema }}.busy AS SELECT student_id, count(*) AS visits FROM {{ schema }}.visits GROUP BY 1;
"""
DOWN = "ALTER TABLE {{ schema }}.students DROP COLUMN level;\n"


def fill(server: Server, target: Target, migrations: list[dict[str, Any]], rows: int = 200) -> None:
    """Apply what is online - tables with keys, an identity, an enum, partitions, an expression, a materialized view - and fill it."""
    migrate.apply(target, migrations, Selection(target=ONLINE), way())
    server.execute(ROWS.format(rows=rows), database=target.database)


def versions(tree: TestTree, up: str = UP, **keys: Any) -> list[dict[str, Any]]:
    """One version that is applied online, and one that is not."""
    tree.add_sql(ONLINE, "tables", TABLES, WITHOUT_TABLES)
    tree.add_sql(
        WIDE, "wide_ids", up, DOWN, strategy="blue_green", rollback={"safety": "partial", "stays": "the types"}, **keys
    )
    return tree.render()


def connection_of(server: Server) -> dict[str, str]:
    """How the server reaches itself: by a password file of its own user's, or as that user over its socket."""
    if server.container:
        return {"user": "postgres"}
    passfile = server.directory / "own_passfile"
    if not passfile.exists():
        passfile.touch(mode=0o600)
        passfile.write_text(server.passfile.read_text(encoding="ascii"), encoding="ascii")
        if server.owner_uid is not None:
            os.chown(passfile, server.owner_uid, server.owner_uid)
    return {"host": "127.0.0.1", "user": RESTORE, "passfile": str(passfile)}


def change_of(server: Server, target: Target, run_id: str = RUN, **more: Any) -> Change:
    settings = {"connection": connection_of(server), **more.pop("settings", {})}
    work = more.pop("work", None) or Work(run_id, jobs=1)
    return Change(target, work, Settings(**settings), **more)


def prepared(server: Server, target: Target, migrations: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return blue_green.prepare(change_of(server, target, **more), migrations, way(more.get("run_id", RUN)))


def slots(server: Server, database: str) -> int:
    """How many replication slots there are of a database and whatever was made of it."""
    return int(server.execute(f"SELECT count(*) FROM pg_replication_slots WHERE database LIKE '%{database}%'")[0][0])


def _stage(target: Target, migrations: list[dict[str, Any]], connection: dict[str, str], stage: str, step: str) -> None:
    def after(done: str) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    change = Change(target, Work(RUN, jobs=1), Settings(connection=connection), after=after)
    if stage == "prepare":
        blue_green.prepare(change, migrations, way(RUN))
    else:
        blue_green.change_over(change, migrations, confirmed=True)


def killed(server: Server, target: Target, migrations: list[dict[str, Any]], stage: str, step: str) -> int:
    """Run a stage in a process of its own that is killed, for good, right after a step. :return: how it ended."""
    process = multiprocessing.get_context("spawn").Process(
        target=_stage, args=(target, migrations, connection_of(server), stage, step)
    )
    process.start()
    process.join()
    return int(process.exitcode or 0)
