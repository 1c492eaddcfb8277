# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""restore_table.yml: rows of a backup beside the live ones, equal, closed to others, whole or not there; the live table untouched."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import export, restore_table, side_schema
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work
from ansible_collections.whitecross.pgops.plugins.module_utils.restore_table import Asked
from psycopg2 import sql
from support.backups import PATIENT, RUN, back_up, fill, names, recompute, start_python
from support.engine import When, target_of
from support.server import APP, BACKUP, MIGRATOR, OWNER, RESTORE
from support.standby import standby_of

MOMENT = datetime(2026, 11, 22, 20, 15, 0, tzinfo=UTC)
SIDE = "restored_20261122_201500"


@pytest.fixture
def filled(server: Any, database: str) -> str:
    fill(server, database, 100)
    server.execute("ALTER TABLE visits ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", database=database)
    return database


def restored(target: Any, path: str, table: str = "students", work: Work | None = None, **asked: Any) -> dict[str, Any]:
    return restore_table.run(target, Asked(path, table=table, **asked), work or Work(RUN), now=lambda: MOMENT)


def schemas(server: Any, database: str) -> list[str]:
    rows = server.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'restored%'", database=database)
    return [name for (name,) in rows]


def refused(server: Any, target: Any, path: str, *arguments: Any, **asked: Any) -> PgopsError:
    """The error; no side schema and no scratch database is left."""
    with pytest.raises(PgopsError) as caught:
        restored(target, path, *arguments, **asked)
    assert schemas(server, target.database) == []
    assert [name for name in names(server, target.database) if "scratch" in name] == []
    assert PATIENT not in json.dumps([caught.value.message, caught.value.extra, caught.value.hint], default=str)
    return caught.value


def typed(server: Any, database: str, statement: str, user: str = RESTORE) -> list[tuple]:
    """What psql shows of a printed statement, under the printed preamble."""
    with server.session(database, user) as conn, conn.cursor() as cursor:
        cursor.execute("SET row_security = off")
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


# -- what comes back -----------------------------------------------------------------------------------------------------


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_rows_that_were_lost_and_changed_are_shown_by_key_and_brought_back(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    server.execute(
        "DELETE FROM students WHERE id IN (7, 9); UPDATE students SET note = 'wrong', photo = NULL WHERE id = 11;"
        "INSERT INTO students (name) VALUES ('new one')",
        database=filled,
    )
    before = server.execute("SELECT count(*), sum(hashtextextended(s::text, 0)) FROM students s", database=filled)
    found = restored(target, backup.path)
    assert found["tables"] == [{"table": "public.students", "rows": 100}]
    assert (
        server.execute("SELECT count(*), sum(hashtextextended(s::text, 0)) FROM students s", database=filled) == before
    )
    told = found["statements"]['"public"."students"']
    assert typed(server, filled, told["missing"]) == [(7,), (9,)]
    assert typed(server, filled, told["changed"]) == [(11, ["note", "photo"])]
    typed(server, filled, told["bring_back"])
    typed(server, filled, told["set_back"])
    assert typed(server, filled, told["missing"]) == typed(server, filled, told["changed"]) == []
    assert server.execute("SELECT count(*) FROM students", database=filled) == [(101,)]
    assert [name for name in names(server, filled) if name != filled] == []


def test_only_its_owner_may_read_the_side_schema(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    server.execute(
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {RESTORE} GRANT SELECT ON TABLES TO {APP}, PUBLIC;"
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {RESTORE} GRANT USAGE ON SCHEMAS TO {APP}",
        database=filled,
    )
    restored(target, back_up(target, tmp_path).path, "visits")
    assert server.execute(
        f"SELECT nspowner::regrole::text, coalesce(array_length(nspacl, 1), 1), has_schema_privilege('{APP}', oid, 'USAGE'), "
        f"has_table_privilege('{APP}', '{SIDE}.visits', 'SELECT'), has_table_privilege('{OWNER}', '{SIDE}.visits', 'SELECT') "
        f"FROM pg_namespace WHERE nspname = '{SIDE}'",
        database=filled,
    ) == [(OWNER, 1, False, False, True)]
    others = f"SELECT count(*) FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = '{SIDE}.visits'::regclass AND a.grantee <> c.relowner"
    assert server.execute(others, database=filled) == [(0,)]


def test_tables_of_several_owners_are_not_given_to_one_of_them(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    """The second owner's rows would be the first one's to read."""
    server.execute(f"ALTER TABLE visits OWNER TO {APP}", database=filled)
    backup = back_up(target, tmp_path)
    error = refused(server, target, backup.path, "", schema="public")
    assert f"belong to several roles: {APP} (public.visits), {OWNER} (" in error.message
    assert "-e restore_table=NAME" in str(error.hint)
    with pytest.raises(PgopsError):
        restore_table.preview(target, Asked(backup.path, schema="public"), Work(RUN))
    assert restored(target, backup.path, "visits")["owner"] == APP


def test_nothing_of_a_side_table_reaches_a_live_one(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    server.execute(
        "CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';"
        "CREATE TRIGGER boom BEFORE DELETE ON visits FOR EACH ROW EXECUTE FUNCTION boom()",
        database=filled,
    )
    restored(target, back_up(target, tmp_path).path, "public.visits")
    assert server.execute(
        f"SELECT (SELECT array_agg(contype::text) FROM pg_constraint WHERE conrelid = '{SIDE}.visits'::regclass AND contype <> 'n'), "
        f"(SELECT count(*) FROM pg_trigger WHERE tgrelid = '{SIDE}.visits'::regclass), "
        f"(SELECT count(*) FROM pg_attrdef WHERE adrelid = '{SIDE}.visits'::regclass)",
        database=filled,
    ) == [(["p"], 0, 0)]


def test_a_whole_schema_comes_with_its_partitions_in_one_table_and_without_its_views(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    server.execute(
        "CREATE TABLE logs (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);"
        "CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');"
        "CREATE TABLE logs_2 PARTITION OF logs FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');"
        "INSERT INTO logs SELECT g, date '2026-01-01' + g FROM generate_series(1, 50) g;"
        "CREATE MATERIALIZED VIEW seen AS SELECT 1 AS one;"
        f"ALTER TABLE logs OWNER TO {OWNER}; ALTER TABLE logs_1 OWNER TO {OWNER}; ALTER TABLE logs_2 OWNER TO {OWNER}",
        database=filled,
    )
    found = restored(target, back_up(target, tmp_path).path, "", schema="public")
    assert {entry["table"]: entry["rows"] for entry in found["tables"]} == {
        "public.Odd Name; --": 2, "public.logs": 50, "public.students": 100, "public.visits": 100,
    }  # fmt: skip
    assert found["passed_over"] == ["materialized view public.seen", "view public.expensive"]
    assert server.execute(f"SELECT count(*) FROM {SIDE}.logs", database=filled) == [(50,)]
    told = found["statements"]['"public"."Odd Name; --"']
    assert "no primary key" in told["note"]
    assert typed(server, filled, told["missing"]) == []
    server.execute("DELETE FROM logs WHERE id = 3", database=filled)
    assert typed(server, filled, found["statements"]['"public"."logs"']["missing"])[0][0] == 3


def test_a_table_that_has_changed_its_shape_since_comes_back_as_it_was(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    server.execute(
        "CREATE DOMAIN short AS text CHECK (length(value) < 5); CREATE TYPE pair AS (a int, b text);"
        "CREATE TABLE shapes (id int PRIMARY KEY, m mood, ms mood[], d short, p pair, gone int, twice int GENERATED ALWAYS AS (id * 2) STORED,"
        ' j json, n text COLLATE "C");'
        "INSERT INTO shapes VALUES (1, 'calm', '{upset,calm}', 'abcd', '(1,x)', 5, DEFAULT, '{\"a\": 1}', 'z'), (2, NULL, NULL, NULL, NULL, NULL, DEFAULT, NULL, NULL)",
        database=filled,
    )
    backup = back_up(target, tmp_path)
    server.execute(
        "ALTER TABLE shapes DROP COLUMN gone, ADD added text; ALTER DOMAIN short DROP CONSTRAINT short_check;"
        "ALTER TYPE mood RENAME VALUE 'upset' TO 'angry'; UPDATE shapes SET d = 'q', j = '{\"a\": 2}' WHERE id = 1; DELETE FROM shapes WHERE id = 2",
        database=filled,
    )
    found = restored(target, backup.path, "shapes")
    told = found["statements"]['"public"."shapes"']
    assert "no column gone" in told["note"]
    assert server.execute(
        f"SELECT ms::text, gone, twice, pg_typeof(m)::text FROM {SIDE}.shapes WHERE id = 1", database=filled
    ) == [("{upset,calm}", 5, 2, "text")]
    assert typed(server, filled, told["changed"]) == [(1, ["ms", "d", "j"])]
    typed(server, filled, told["bring_back"])
    assert server.execute("SELECT id, twice, added FROM shapes WHERE id = 2", database=filled) == [(2, 4, None)]


def test_a_table_that_is_gone_comes_back_beside_and_the_way_is_told(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    server.execute("DROP TABLE visits CASCADE", database=filled)
    told = restored(target, backup.path, "visits")["statements"]['"public"."visits"']
    assert "not there any more" in told["note"]
    assert told["bring_back"] == ""
    assert server.execute(f"SELECT count(*) FROM {SIDE}.visits", database=filled) == [(100,)]


def test_an_identity_column_is_brought_back_with_its_value(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    server.execute("DELETE FROM visits WHERE id = 5; UPDATE visits SET price = 3 WHERE id = 6", database=filled)
    told = restored(target, backup.path, "visits")["statements"]['"public"."visits"']
    typed(server, filled, told["bring_back"])
    typed(server, filled, told["set_back"])
    assert server.execute(
        "SELECT id, student_id, price FROM visits WHERE id IN (5, 6) ORDER BY 1", database=filled
    ) == [(5, 5, 5), (6, 6, 6)]


# -- what is refused -----------------------------------------------------------------------------------------------------


def test_looking_shows_the_plan_and_writes_nothing(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    told = restore_table.preview(target, Asked(backup.path, table="visits"), Work(RUN), now=lambda: MOMENT)
    assert (told["schema"], told["owner"], told["tables"]) == (SIDE, OWNER, [{"table": "public.visits", "rows": 100}])
    assert schemas(server, filled) == []


def test_a_table_that_the_backup_does_not_hold_is_refused_with_those_near_it(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    error = refused(server, target, backup.path, "studnets")
    assert "near it are public.students" in error.message
    assert error.hint == "-e restore_table=public.students"
    assert "no schema pubic" in refused(server, target, backup.path, "", schema="pubic").message
    assert "not both" in refused(server, target, backup.path, "students", schema="public").message
    assert "none is set" in refused(server, target, backup.path, "").message
    server.execute("CREATE SCHEMA other; CREATE TABLE other.students (id int)", database=filled)
    again = back_up(target, tmp_path, run_id="20261121T120001Z-0a1b2c")
    assert "several tables" in refused(server, target, again.path, "students").message


def test_what_is_no_backup_of_this_database_is_refused(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    exported = export.create_export(target, export.Export(str(tmp_path / "exports"), RUN))["path"]
    assert "no backup of ours" in refused(server, target, exported).message
    other = f"{filled}_other"
    server.create_database(other)
    path = back_up(target.with_(database=other), tmp_path).path
    assert f"is a backup of {other}" in refused(server, target, path).message


def test_a_damaged_and_an_altered_backup_are_refused(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path, compression="0")
    file = next(file for file in (Path(backup.path) / "dump").glob("*.dat") if PATIENT.encode() in file.read_bytes())
    data = bytearray(file.read_bytes())
    data[data.find(PATIENT.encode()) + 3] ^= 1
    file.write_bytes(data)
    assert file.name in refused(server, target, backup.path).message
    # Fact 2: with the sha256 recomputed, its content tells.
    error = refused(server, target, recompute(backup, file).path)
    assert "public.students" in error.message
    assert "hash" in error.message
    assert error.extra["step"] == "comparing with the manifest"


def test_production_needs_another_cluster_or_a_reason(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    error = refused(server, target, back_up(target, tmp_path).path, other_cluster_only=True)
    assert "restore_scratch_reason" in str(error.hint)


def test_a_migration_that_is_under_way_is_not_disturbed(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    from contextlib import closing

    from ansible_collections.whitecross.pgops.plugins.module_utils import locks
    from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect

    backup = back_up(target, tmp_path)
    with closing(connect(target, application_name="pgops other")) as conn, locks.RunnerLock(conn):
        assert "being migrated" in refused(server, target, backup.path).message


def test_rows_that_the_backup_does_not_hold_are_not_taken_for_none(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    server.execute(
        "CREATE EXTENSION postgres_fdw; CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw;"
        "CREATE TABLE logs (day date) PARTITION BY RANGE (day);"
        "CREATE FOREIGN TABLE logs_1 PARTITION OF logs FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') SERVER other",
        database=filled,
    )
    backup = back_up(target, tmp_path)
    assert "no rows of public.logs_1" in refused(server, target, backup.path, "logs").message
    assert "holds no table logs_1" in refused(server, target, backup.path, "logs_1").message


def test_a_side_schema_of_the_same_second_is_not_touched(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    path = back_up(target, tmp_path).path
    restored(target, path)
    with pytest.raises(
        PgopsError, match=f"There is a schema {SIDE} in {filled} already, made in this very second"
    ) as caught:
        restored(target, path)
    assert caught.value.hint == "Type the command again."
    assert server.execute(f"SELECT count(*) FROM {SIDE}.students", database=filled) == [(100,)]


@pytest.mark.slow
def test_a_standby_takes_no_side_schema(own_server: Any, tmp_path: Path) -> None:
    own_server.create_database("white_cross")
    fill(own_server, "white_cross", 10)
    path = back_up(target_of(own_server, "white_cross"), tmp_path).path
    with standby_of(own_server) as standby, pytest.raises(PgopsError, match="is a standby, which takes no schema"):
        restored(target_of(standby, "white_cross"), path)


@pytest.mark.few(1)
@pytest.mark.parametrize("role", [BACKUP, MIGRATOR])
def test_a_role_that_may_make_no_schema_or_no_database_is_told_and_nothing_is_left(
    server: Any, target: Any, filled: str, tmp_path: Path, role: str
) -> None:
    backup = back_up(target, tmp_path)
    assert "may not" in refused(server, target.with_(restore_user=role), backup.path).message


# -- half-way ------------------------------------------------------------------------------------------------------------


@pytest.mark.few(2)
@pytest.mark.parametrize("when", ["restoring into", "comparing", "copying"])
def test_a_run_that_is_asked_to_end_leaves_nothing(
    server: Any, target: Any, filled: str, tmp_path: Path, when: str
) -> None:
    backup = back_up(target, tmp_path)
    control = Control(None)
    work = Work(RUN, progress=When(when, lambda: control.request("somebody asked it to stop")), control=control)
    error = refused(server, target, backup.path, "students", work)
    assert isinstance(error, Interrupted) or error.sqlstate == "57014"
    assert "no live table was touched" in error.message


def test_rows_that_do_not_arrive_as_they_left_are_found(
    server: Any, target: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_key = side_schema._add_key

    def lose_one(live: Any, schema: str, name: str, key: list[str]) -> None:
        add_key(live, schema, name, key)
        with live.cursor() as cursor:
            cursor.execute(sql.SQL("UPDATE {} SET note = 'x' WHERE id = 1").format(sql.Identifier(schema, name)))

    monkeypatch.setattr(side_schema, "_add_key", lose_one)
    error = refused(server, target, back_up(target, tmp_path).path)
    assert "contents are others" in error.message
    assert f"copying into {SIDE}" in error.extra["step"]


def test_a_reader_that_is_cut_off_leaves_nothing(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    """The writer takes the end of the pipe for the end of the rows."""
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%{RUN} read'"
    work = Work(RUN, progress=When("copying", lambda: server.execute(end)))
    refused(server, target, back_up(target, tmp_path).path, "students", work)


def test_a_killed_run_leaves_no_side_schema_and_the_next_one_its_scratch(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    killed = start_python(
        """
        from ansible_collections.whitecross.pgops.plugins.module_utils import export, restore_table, side_schema
        side_schema._refuse_others = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
        restore_table.run(target, restore_table.Asked(values["path"], table="students"), restore.Work("20260101T000000Z-aaaaaa"))
        """,
        target,
        path=backup.path,
    )
    assert killed.wait(timeout=120) == -9, killed.communicate()
    assert any("scratch" in name for name in names(server, filled))
    restored(target, backup.path)
    assert schemas(server, filled) == [SIDE]
    assert names(server, filled) == [filled]


# -- as it is typed ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_playbook_prints_sql_that_runs_as_it_stands(
    playbook: Any, server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    path = back_up(target, tmp_path).path
    server.execute("DELETE FROM students WHERE id = 42", database=filled)
    shown = playbook("restore_table.yml", "--check", restore_from=path, restore_table="students")
    assert shown.rc == 0, shown.output
    assert "100 rows of public.students" in shown.stdout
    assert "would be put in restored_" in shown.stdout
    assert schemas(server, filled) == []
    done = playbook("restore_table.yml", restore_from=path, restore_table="students")
    assert done.rc == 0, done.output
    insert = re.search(r"^INSERT INTO .*;$", done.stdout, re.MULTILINE)
    assert insert is not None, done.stdout
    typed(server, filled, insert[0])
    assert server.execute("SELECT count(*) FROM students WHERE id = 42", database=filled) == [(1,)]
    assert PATIENT not in done.output
    drop = re.search(r"^DROP SCHEMA .*;$", done.stdout, re.MULTILINE)
    assert drop is not None
    typed(server, filled, drop[0])
    production = playbook("restore_table.yml", limit="production", restore_from=path, restore_table="students")
    assert production.rc == 2
    assert "restore_scratch_reason" in production.output
