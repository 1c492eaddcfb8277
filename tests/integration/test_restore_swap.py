# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Going back by a staged restore: equal in everything, swapped in a moment, undone on any failure, resumed after a kill."""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_choice,
    backup_store,
    catalog,
    connection,
    database_marks,
    database_properties,
    ledger,
    lost_writes,
    restore,
    swap,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.sequence_positions import SequencePositions
from ansible_collections.whitecross.pgops.plugins.plugin_utils import losses
from psycopg2 import sql
from support.backups import (
    PATIENT,
    RUN,
    back_up,
    fill,
    largest_file,
    names,
    prove,
    proved,
    recompute,
    stage,
    start_python,
)
from support.server import APP, BACKUP, MIGRATOR, OWNER, RESTORE, SUPERUSER


@pytest.fixture
def filled(server: Any, database: str) -> str:
    fill(server, database, 100)
    return database


# What the run that was killed had been typed for.
FINISH = swap.Asked(swap.RESTORE, confirmed=True)


def swapped(target: Any, staged: str, **settings: Any) -> dict[str, Any]:
    return swap.Swap(target, staged, run_id=settings.pop("run_id", RUN), **settings).run()


def count(server: Any, database: str, table: str = "students") -> int:
    return int(server.execute(f"SELECT count(*) FROM {table}", database=database)[0][0])


def is_open(server: Any, database: str) -> bool:
    query = sql.SQL("SELECT datallowconn FROM pg_database WHERE datname = {}").format(sql.Literal(database))
    return bool(server.execute(query)[0][0])


# -- the staged restore -------------------------------------------------------------------------------------------------


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_back_and_forth_on_every_major(server: Any, target: Any, database: str, tmp_path: Path) -> None:
    fill(server, database, 100)
    backup = proved(target, tmp_path)
    server.execute("DELETE FROM visits; DROP VIEW expensive", database=database)
    done = swapped(target, stage(target, backup))
    assert count(server, database, "visits") == 100
    assert done["outage_ms"] < 2000
    assert not is_open(server, done["aside"])
    back = swapped(target, done["aside"])
    assert count(server, database, "visits") == 0
    assert not is_open(server, back["aside"])


def test_the_new_database_has_all_that_the_old_one_had(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    """Fact 6: a restore loses datacl, settings and comment, and PUBLIC regains CONNECT."""
    server.execute(
        f"""
        REVOKE ALL ON DATABASE {filled} FROM PUBLIC;
        GRANT CONNECT ON DATABASE {filled} TO {APP}, {BACKUP};
        GRANT TEMPORARY, CONNECT ON DATABASE {filled} TO {MIGRATOR} WITH GRANT OPTION;
        ALTER DATABASE {filled} SET search_path = public, "Odd Schema";
        ALTER DATABASE {filled} SET work_mem = '7MB';
        ALTER DATABASE {filled} SET log_min_duration_statement = '3s';
        ALTER DATABASE {filled} SET "DateStyle" = 'SQL, DMY';
        ALTER ROLE {APP} IN DATABASE {filled} SET statement_timeout = '5s';
        ALTER DATABASE {filled} CONNECTION LIMIT 77;
        COMMENT ON DATABASE {filled} IS 'the one that matters';
        """
    )
    with closing(server.connect(filled)) as conn:
        before = catalog.database_properties(conn)
        inventory = catalog.inventory(conn, exclude_schemas=())
    backup = proved(target, tmp_path)
    swapped(target, stage(target, backup))
    with closing(server.connect(filled)) as conn:
        assert catalog.database_properties(conn) == before
        assert catalog.compare(inventory, catalog.inventory(conn, exclude_schemas=()), reparse=conn, ignore=()) == []
    assert before["comment"] == "the one that matters"
    assert server.execute(
        "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'm') AND reltuples < 0 AND relnamespace = 'public'::regnamespace",
        database=filled,
    ) == [(0,)]


def test_unproved_altered_foreign_and_damaged_backups_are_refused(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    work = restore.Work(RUN)

    def refused() -> str:
        with pytest.raises(PgopsError) as caught:
            restore.stage(target, backup_store.read_backup(backup.path), work=work)
        with pytest.raises(PgopsError):
            restore.refuse_unfit(target, backup_store.read_backup(backup.path), work)
        assert names(server, filled) == [filled]
        return caught.value.message

    assert "never proved" in refused()
    prove(target, backup)
    path = Path(backup.path) / "manifest.json"
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"format"', b' "format"'))
    assert "altered" in refused()
    path.write_bytes(good)
    for name, value, said in (
        ("system_identifier", "1", "another cluster"),
        ("database", "elsewhere", "backup of elsewhere"),
        ("server_version", [99, 0], "newer server (PostgreSQL 99"),
    ):
        path.write_text(json.dumps({**json.loads(good), name: value}), encoding="utf-8")
        forge_proof(backup.path)
        assert said in refused()
    path.write_bytes(good)
    forge_proof(backup.path)
    file = largest_file(backup)
    file.write_bytes(file.read_bytes()[:-5])
    assert file.name in refused()


def forge_proof(path: str) -> None:
    found = backup_store.read_backup(path)
    backup_store.write_proof(found, {**(found.proof or {}), "manifest_sha256": found.manifest_sha256})


def test_a_staged_restore_that_differs_is_dropped_and_the_live_one_untouched(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = proved(target, tmp_path, compression="0")
    file = largest_file(backup)
    data = file.read_bytes()
    file.write_bytes(data.replace(b"Sentinel", b"Sentinem", 1))
    recompute(backup, file)
    forge_proof(backup.path)
    with pytest.raises(PgopsError, match="differs from its manifest"):
        stage(target, backup_store.read_backup(backup.path))
    assert names(server, filled) == [filled]


def test_without_rights_over_the_owners_it_is_refused_before_anything(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    server.execute(f"ALTER ROLE {MIGRATOR} CREATEDB; CREATE ROLE {filled}_other; ")
    server.execute(f"ALTER TABLE visits OWNER TO {filled}_other", database=filled)
    try:
        backup = proved(target, tmp_path)
        with pytest.raises(PgopsError, match=f"no member of {filled}_other"):
            stage(target.with_(restore_user=MIGRATOR), backup)
    finally:
        server.execute(f"ALTER ROLE {MIGRATOR} NOCREATEDB")
        server.execute(f"DROP OWNED BY {filled}_other CASCADE", database=filled)
        server.execute(f"DROP ROLE {filled}_other")


def test_without_superuser_a_member_of_the_owners_goes_the_whole_way(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    server.execute(f"ALTER ROLE {MIGRATOR} CREATEDB")
    try:
        backup = proved(target, tmp_path)
        managed = target.with_(restore_user=MIGRATOR)
        done = swapped(managed, stage(managed, backup))
        swapped(managed, done["aside"])
    finally:
        server.execute(f"ALTER ROLE {MIGRATOR} NOCREATEDB")
    assert count(server, filled) == 100
    assert server.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'students'", database=filled) == [
        (OWNER,)
    ]


# -- what is lost ---------------------------------------------------------------------------------------------------------


def lost(target: Any, backup: Any) -> dict[str, Any]:
    found = lost_writes.lost_writes(target, backup, application_name="test")
    return {**found, "tables": {entry["table"]: entry for entry in found["tables"]}}


def test_nothing_is_lost_where_nothing_was_written(target: Any, filled: str, tmp_path: Path) -> None:
    found = lost(target, back_up(target, tmp_path))
    assert (found["tables"], found["rows_written"], found["versions"], found["settings"]) == ({}, 0, [], [])


def test_rows_written_changed_and_deleted_since_are_counted_per_table(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    server.execute("INSERT INTO students (name) SELECT 'new' FROM generate_series(1, 7)", database=filled)
    server.execute("UPDATE students SET note = 'changed' WHERE id <= 5", database=filled)
    server.execute("DELETE FROM students WHERE id IN (10, 11)", database=filled)
    server.execute("CREATE TABLE fresh AS SELECT 1 AS id", database=filled)
    server.execute('DROP TABLE "Odd Name; --"', database=filled)
    server.execute(f"ALTER DATABASE {filled} SET work_mem = '9MB'")
    found = lost(target, backup)
    entry = found["tables"]["public.students"]
    # 100 - 2 deleted + 7; written: 7 new and 5 changed; of the old rows 5 changed, 2 deleted, and their visits went too
    assert (entry["rows_then"], entry["rows_now"], entry["rows_written"], entry["rows_gone"]) == (100, 105, 12, 7)
    assert found["tables"]["public.visits"]["rows_gone"] == 2
    assert found["tables"]["public.fresh"]["change"] == "new table"
    assert found["tables"]['public."Odd Name; --"']["change"] == "dropped table"
    assert found["settings"][0]["attribute"] == "settings"


def test_a_transaction_open_at_the_snapshot_and_committed_after_it_counts(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    with closing(server.connect(filled, autocommit=False)) as conn, conn.cursor() as cursor:
        cursor.execute("INSERT INTO students (name) VALUES ('early')")
        server.execute("INSERT INTO students (name) VALUES ('between')", database=filled)
        backup = back_up(target, tmp_path)
        conn.commit()
    assert lost(target, backup)["tables"]["public.students"]["rows_written"] == 1


def test_a_rewrite_of_the_same_contents_is_no_loss(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    server.execute("UPDATE students SET name = name", database=filled)
    found = lost(target, backup)
    assert found["tables"]["public.students"]["change"] == "rewritten"
    assert found["rows_written"] == 0


def test_the_way_back_says_what_was_written_since_the_swap(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    done = swapped(target, stage(target, proved(target, tmp_path)))
    server.execute("INSERT INTO students (name) VALUES ('after')", database=filled)
    told = swap.Swap(target, done["aside"], run_id=RUN).preview()
    assert told["lost"]["tables"] == [{"table": "public.students", "rows_now": 101, "rows_written": 1}]


def test_rows_that_a_restore_wrote_are_not_counted_as_written_since(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    """It gives each row a new transaction."""
    write_ledger(target, "first")
    backup = proved(target, tmp_path)
    swapped(target, stage(target, backup))
    assert lost(target, backup)["tables"] == {}
    server.execute("INSERT INTO students (name) VALUES ('the only new one')", database=filled)
    server.execute("DELETE FROM students WHERE id = 7", database=filled)
    entry = lost(target, backup)["tables"]["public.students"]
    assert (entry["rows_then"], entry["rows_now"], entry["rows_written"], entry["rows_gone"]) == (100, 100, 1, 1)
    assert "at_least" not in entry
    # ... nor where a backup is taken of the restored database
    second = back_up(target, tmp_path, run_id="20261121T120001Z-0a1b2c")
    assert lost(target, second)["tables"] == {}


def test_of_an_older_backup_than_the_one_restored_only_bounds_are_told_where_the_tables_differ(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    write_ledger(target, "first")
    oldest = back_up(target, tmp_path)
    server.execute("INSERT INTO students (name) SELECT 'later' FROM generate_series(1, 10)", database=filled)
    newer = proved(target, tmp_path, run_id="20261121T120001Z-0a1b2c")
    swapped(target, stage(target, newer))
    server.execute("INSERT INTO students (name) VALUES ('newest')", database=filled)
    server.execute("UPDATE visits SET price = 9 WHERE id = 1", database=filled)
    found = lost(target, oldest)
    students = found["tables"]["public.students"]
    assert (students["rows_then"], students["rows_now"]) == (100, 111)
    assert students["at_least"] == {"rows_written": 11, "rows_gone": 0}
    assert (students["rows_written"], students["rows_gone"]) == (111, 100)
    # the same in both backups, so each row is told
    visits = found["tables"]["public.visits"]
    assert (visits["rows_written"], visits["rows_gone"]) == (1, 1)
    assert "at_least" not in visits
    assert 'public."Odd Name; --"' not in found["tables"]
    assert "at least" in found["bounds"]
    assert "at least 11, at most 111" in "\n".join(
        losses.restore_losses(filled, {"lost": {**found, "tables": [students]}, "backup": "x", "why": "y"})
    )


def test_what_only_the_replaced_database_has_is_lost_with_a_backup_of_its_successor(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    write_ledger(target, "first")
    backup = proved(target, tmp_path)
    server.execute("INSERT INTO students (name) SELECT 'kept aside' FROM generate_series(1, 10)", database=filled)
    done = swapped(target, stage(target, backup))
    of_the_successor = back_up(target, tmp_path, run_id="20261121T120001Z-0a1b2c")
    swapped(target, done["aside"])
    entry = lost(target, of_the_successor)["tables"]["public.students"]
    assert entry["at_least"]["rows_written"] == 10
    assert lost(target, backup)["tables"]["public.students"]["rows_written"] == 10


def test_without_a_ledger_only_bounds_are_told_of_a_restored_database(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = proved(target, tmp_path)
    swapped(target, stage(target, backup))
    server.execute("INSERT INTO students (name) VALUES ('the only new one')", database=filled)
    found = lost(target, backup)
    assert list(found["tables"]) == ["public.students"]
    assert found["tables"]["public.students"]["at_least"] == {"rows_written": 1, "rows_gone": 0}


def test_two_swaps_back_only_what_was_written_since_the_first_is_told(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    write_ledger(target, "first")
    backup = proved(target, tmp_path)
    first = swapped(target, stage(target, backup))
    time.sleep(1)  # the second copy has a name of its own second
    swapped(target, stage(target, backup))
    server.execute("INSERT INTO students (name) VALUES ('after')", database=filled)
    told = swap.Swap(target, first["aside"], run_id=RUN).preview()
    assert told["lost"]["tables"] == [{"table": "public.students", "rows_now": 101, "rows_written": 1}]


# -- which backup ---------------------------------------------------------------------------------------------------------


def test_the_last_known_good_is_the_newest_proved_from_before_the_last_apply(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    def chosen() -> str:
        return backup_choice.choose(target, str(tmp_path), None, application_name="test")[0].path

    back_up(target, tmp_path, run_id="unproved")
    with pytest.raises(PgopsError, match="1 backups are there, 0 of them proved"):
        chosen()
    first = proved(target, tmp_path, run_id="first")
    second = proved(target, tmp_path, run_id="second")
    assert chosen() == second.path
    write_ledger(target, "apply-run", {"path": first.path})
    assert chosen() == first.path  # the run says that it made that one
    proved(target, tmp_path, run_id="after")
    assert chosen() == first.path
    # An older one loses more: it is not taken unless it is named.
    backup_store.remove_proof(first)
    with pytest.raises(
        PgopsError, match=f"{first.path}, the backup that the last apply, run apply-run, made"
    ) as caught:
        chosen()
    assert f"prove.yml -e backup_path={first.path}" in str(caught.value.hint)
    shutil.rmtree(first.path)
    backup, why = backup_choice.choose(target, str(tmp_path), None, application_name="test")
    assert backup.path == second.path and f"{first.path}, which it made itself, is not there any more" in why
    server.execute("UPDATE pgops.run SET backup = NULL", database=filled)
    assert chosen() == second.path
    assert backup_choice.choose(target, str(tmp_path), second.path, application_name="test")[0].path == second.path


def write_ledger(target: Any, run_id: str, backup: dict[str, Any] | None = None) -> None:
    """A ledger with one applied version and its audit, as a run leaves it."""
    with closing(connection.connect(target, application_name="test")) as conn:
        ledger.ensure(conn)
        ledger.start_run(conn, ledger.Run(run_id, "migrate", "local", "tester", "ops", backup=backup))
        migration = {
            "version": f"2025{len(ledger.read(conn).migrations):010d}",
            "name": "one", "checksum": "c", "rendered_checksum": "r", "files": {}, "steps": [],
        }  # fmt: skip
        beginning = ledger.begin_text(conn, migration, ledger.Run(run_id), applied_by="tester", resume=False)
        with ledger.transaction(conn, beginning) as ending:
            ending.append(ledger.finish_text(conn, migration["version"], "applied", 0.1))
        ledger.append_audit(conn, "applied", run_id=run_id, version=migration["version"])
        ledger.finish_run(conn, run_id, "applied")


def test_the_history_goes_along_and_the_ledger_equals_the_restored_schema(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    """R9.21; and a chain alone hides a cut tail, so its tail goes along."""
    write_ledger(target, "first")
    backup = proved(target, tmp_path)
    write_ledger(target, "second")
    with closing(server.connect(filled)) as conn:
        audit = ledger.audit_rows(conn)
    done = swapped(target, stage(target, backup), run_id="third")
    with closing(server.connect(filled)) as conn:
        assert [row.version for row in ledger.read(conn).migrations] == ["20250000000000"]
        rows = ledger.audit_rows(conn)
        assert rows[: len(audit)] == audit
        assert rows[-1]["event"] == "database_swapped"
        assert ledger.broken_link(rows) is None
    assert done["history"] == {"carried": True, "audit_rows": 1, "run_rows": 1}
    assert server.execute("SELECT id FROM pgops.run ORDER BY 1", database=filled) == [("first",), ("second",)]
    # ... and on the way back, too
    swapped(target, done["aside"], run_id="fourth")
    with closing(server.connect(filled)) as conn:
        assert [row.version for row in ledger.read(conn).migrations] == ["20250000000000", "20250000000001"]
        events = ledger.audit_rows(conn)
    assert [row["event"] for row in events][-2:] == ["database_swapped", "database_swapped"]
    assert ledger.broken_link(events) is None


def test_a_backup_from_before_the_ledger_gets_the_history_all_the_same(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = proved(target, tmp_path)
    write_ledger(target, "first")
    swapped(target, stage(target, backup))
    with closing(server.connect(filled)) as conn:
        assert ledger.read(conn).migrations == []
        assert len(ledger.audit_rows(conn)) == 2
        assert server.execute("SELECT tableowner FROM pg_tables WHERE schemaname = 'pgops'", database=filled)[0] == (
            OWNER,
        )


def test_a_rewritten_audit_is_told_and_does_not_stop_the_rollback(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    write_ledger(target, "first")
    backup = proved(target, tmp_path)
    write_ledger(target, "second")
    server.execute(
        "ALTER TABLE pgops.audit DISABLE TRIGGER ALL; UPDATE pgops.audit SET hash = 'forged' WHERE seq = 1",
        database=filled,
    )
    done = swapped(target, stage(target, backup))
    assert not done["history"]["carried"]
    assert "rewritten" in done["history"]["why"]


# -- blockers -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def staged(target: Any, filled: str, tmp_path: Path) -> str:
    return stage(target, believed(target, tmp_path))


def believed(target: Any, directory: Path, **settings: Any) -> Any:
    """A backup with the proof written by hand, where the restore is not what is tested."""
    backup = back_up(target, directory, **settings)
    forge_proof(backup.path)
    return backup_store.read_backup(backup.path)


def test_a_setting_that_came_out_otherwise_is_named_and_its_value_is_not(
    server: Any, target: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.execute(
        f"ALTER DATABASE {filled} SET app.encryption_key = '{PATIENT}'; ALTER DATABASE {filled} SET work_mem = '5MB';"
        f"ALTER ROLE {APP} IN DATABASE {filled} SET app.token = '{PATIENT}'"
    )
    backup = believed(target, tmp_path)
    real = database_properties.apply

    def otherwise(conn: Any, name: str, properties: dict[str, Any]) -> None:
        real(conn, name, properties)
        with conn.cursor() as cursor:
            cursor.execute(
                f"ALTER DATABASE {name} SET app.encryption_key = '{PATIENT} and more'; ALTER DATABASE {name} RESET work_mem;"
                f"ALTER ROLE {APP} IN DATABASE {name} SET app.other = '{PATIENT}'"
            )

    monkeypatch.setattr(database_properties, "apply", otherwise)
    with pytest.raises(PgopsError) as caught:
        stage(target, backup)
    assert PATIENT not in json.dumps(caught.value.as_dict(), default=str)
    assert caught.value.extra["refused"] is False
    assert (
        "setting app.encryption_key of the database is changed; "
        f"setting app.other of role {APP} in the database is unexpected; setting work_mem of the database is missing"
    ) in caught.value.message


SEQUENCES = """
SET ROLE white_cross_owner; CREATE SCHEMA "50% s"; CREATE SEQUENCE "50% s"."Odd ""Name" START 10;
CREATE SEQUENCE downwards INCREMENT -2; CREATE SEQUENCE round CYCLE MAXVALUE 3; CREATE SEQUENCE turned; CREATE SEQUENCE bounded MAXVALUE 50;
CREATE SEQUENCE ahead START 1000; CREATE SEQUENCE gone; CREATE SEQUENCE restarted;
"""


def next_of(server: Any, database: str, name: str) -> int:
    return int(server.execute(f"SELECT nextval('{name}')", database=database)[0][0])


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_sequences_go_on_from_where_the_replaced_database_had_them(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    server.execute(SEQUENCES, database=filled)
    write_ledger(target, RUN)
    staged = stage(target, believed(target, tmp_path))
    server.execute(
        """INSERT INTO students (name) SELECT 'x' FROM generate_series(1, 7); DELETE FROM students WHERE id > 100;
        SELECT nextval('"50% s"."Odd ""Name"') FROM generate_series(1, 3); SELECT nextval('downwards') FROM generate_series(1, 3);
        SELECT nextval('round'); ALTER SEQUENCE turned INCREMENT -1 MINVALUE -9 MAXVALUE -1 START -1 RESTART; SELECT nextval('turned');
        ALTER SEQUENCE bounded MAXVALUE 100; SELECT setval('bounded', 70); DROP SEQUENCE gone; CREATE SEQUENCE made;
        ALTER SEQUENCE restarted RESTART 500""",
        database=filled,
    )
    server.execute("SELECT nextval('ahead')", database=staged)
    done = swapped(target, staged)
    assert done["sequences"] == {
        "moved": [
            {"sequence": '"50% s"."Odd ""Name"', "from": 10, "to": 12},
            {"sequence": "public.downwards", "from": -1, "to": -5},
            {"sequence": "public.restarted", "from": 1, "to": 500},
            {"sequence": "public.students_id_seq", "from": 100, "to": 107},
        ],
        "left": [{"sequence": "public.bounded", "why": "70 is outside of its bounds"}],
        "why": None,
    }
    names_of = [
        '"50% s"."Odd ""Name"',
        "downwards",
        "round",
        "turned",
        "bounded",
        "ahead",
        "restarted",
        "students_id_seq",
    ]
    assert [next_of(server, filled, name) for name in names_of] == [13, -7, 1, 1, 1, 1001, 500, 108]
    # On the way back, too: what the successor gave out since is not given out again.
    back = swapped(target, done["aside"])
    assert next_of(server, filled, "students_id_seq") == 109
    assert {"sequence": "public.students_id_seq", "from": 107, "to": 108} in back["sequences"]["moved"]
    detail = server.execute(
        "SELECT detail FROM pgops.audit WHERE event = 'database_swapped' ORDER BY seq", database=filled
    )
    assert [row[0]["sequences_moved"] for row in detail][-1] == len(back["sequences"]["moved"])


def test_no_number_is_given_out_twice_by_clients_that_ask_to_the_last_moment(
    server: Any, target: Any, filled: str, staged: str
) -> None:
    given: list[list[int]] = [[] for _ in range(4)]

    def ask(numbers: list[int]) -> None:
        try:
            with closing(server.connect(filled)) as conn, conn.cursor() as cursor:
                while True:
                    cursor.execute("SELECT nextval('students_id_seq')")
                    numbers.append(cursor.fetchone()[0])
        except psycopg2.Error:
            pass

    clients = [threading.Thread(target=ask, args=(numbers,)) for numbers in given]
    for client in clients:
        client.start()
    while not all(given):
        time.sleep(0.01)  # until each client has got its first number
    done = swapped(target, staged)
    for client in clients:
        client.join()
    (moved,) = done["sequences"]["moved"]
    assert moved["to"] >= max(map(max, given))
    assert next_of(server, filled, "students_id_seq") == moved["to"] + 1
    assert done["outage_ms"] < 2000


def test_sequences_that_the_restore_role_may_not_set_are_named(
    server: Any, target: Any, filled: str, staged: str
) -> None:
    server.execute("CREATE SEQUENCE secret", database=filled)
    server.execute("CREATE SEQUENCE secret", database=staged)
    with (
        closing(connection.connect(target, application_name="t")) as live,
        closing(connection.connect(target.with_(database=staged), application_name="t")) as copy,
    ):
        positions = SequencePositions(live, copy)
        assert [entry["sequence"] for entry in positions.left] == ["public.secret"]
        positions.get_ready()
        assert positions.move_on() == []


def blocked(server: Any, target: Any, staged: str) -> str:
    with pytest.raises(PgopsError) as caught:
        swapped(target, staged)
    assert caught.value.extra["refused"] is True
    assert is_open(server, target.database)
    assert count(server, target.database) == 100
    assert staged in names(server, target.database)
    return caught.value.message


def test_a_prepared_transaction_is_named_before_any_fence(server: Any, target: Any, filled: str, staged: str) -> None:
    with closing(server.connect(filled, autocommit=False)) as conn, conn.cursor() as cursor:
        cursor.execute("INSERT INTO students (name) VALUES ('held'); PREPARE TRANSACTION 'payment'")
    assert "prepared transaction payment" in blocked(server, target, staged)
    server.execute("ROLLBACK PREPARED 'payment'", database=filled)
    swapped(target, staged)


def test_an_idle_logical_slot_does_not_block_and_a_subscription_does(
    server: Any, target: Any, filled: str, staged: str
) -> None:
    server.execute(f"SELECT pg_create_logical_replication_slot('{filled}_slot', 'pgoutput')", database=filled)
    server.execute(
        f"CREATE SUBSCRIPTION {filled}_sub CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false)", database=filled
    )
    assert f"subscription {filled}_sub" in blocked(server, target, staged)
    server.execute(
        f"ALTER SUBSCRIPTION {filled}_sub SET (slot_name = NONE); DROP SUBSCRIPTION {filled}_sub", database=filled
    )
    swapped(target, staged)


def test_a_session_that_may_not_be_ended_is_named_before_any_fence(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    server.execute(f"ALTER ROLE {MIGRATOR} CREATEDB")
    try:
        managed = target.with_(restore_user=MIGRATOR)
        staged = stage(managed, believed(managed, tmp_path))
        with closing(server.connect(filled, SUPERUSER)):
            message = blocked(server, managed, staged)
    finally:
        server.execute(f"ALTER ROLE {MIGRATOR} NOCREATEDB")
    assert "session that may not be ended" in message
    assert SUPERUSER in message


def test_a_database_that_is_none_of_ours_is_not_swapped_in(server: Any, target: Any, filled: str) -> None:
    server.create_database(f"{filled}_mine")
    with pytest.raises(PgopsError, match="neither a staged restore"):
        swapped(target, f"{filled}_mine")
    with pytest.raises(PgopsError, match="no database"):
        swapped(target, f"{filled}_nothing")


def test_a_fence_that_nobody_knows_is_left_alone(server: Any, target: Any, filled: str, staged: str) -> None:
    server.execute(f"ALTER DATABASE {filled} ALLOW_CONNECTIONS false")
    with pytest.raises(PgopsError, match="not a swap that fenced it"):
        swapped(target, staged)
    assert swap.resume(target, FINISH, run_id=RUN) == {"state": "nothing"}
    with pytest.raises(PgopsError, match="not a swap that fenced it"):
        swap.resume(target, swap.Asked(swap.UNFENCE, confirmed=True), run_id=RUN)
    server.execute(f"ALTER DATABASE {filled} ALLOW_CONNECTIONS true")


def test_a_session_that_does_not_end_lifts_the_fence_again(
    server: Any, target: Any, filled: str, staged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swap, "FENCE_SECONDS", 0.5)
    monkeypatch.setattr(swap, "_SIGNAL", "SELECT 0 AS signalled")
    with closing(server.connect(filled, APP)):
        with pytest.raises(PgopsError, match=f"of {APP} did not end within 0.5 s"):
            swapped(target, staged)
        assert is_open(server, filled)
    found = swap.resume(target, FINISH, run_id=RUN)
    assert found == {"state": "nothing"}


def test_a_busy_database_is_renamed_all_the_same(server: Any, target: Any, filled: str, staged: str) -> None:
    """Fact 9: RENAME alone waits 5 s and fails."""
    with closing(server.connect(filled, SUPERUSER)) as conn, conn.cursor() as cursor:
        cursor.execute("BEGIN; SELECT * FROM students LIMIT 1")
        done = swapped(target, staged)
        assert done["sessions_ended"] >= 1
        with pytest.raises(psycopg2.Error):
            cursor.execute("SELECT 1")


def test_two_swaps_at_once_are_one(server: Any, target: Any, filled: str, staged: str) -> None:
    with closing(connection.connect(target.maintenance(), application_name="test")) as conn:
        assert database_marks.try_lock(conn, f"swap {filled}")
        with pytest.raises(PgopsError, match="Another swap"):
            swapped(target, staged)
    swapped(target, staged)


def test_two_restores_of_one_second_are_one(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = proved(target, tmp_path)
    moment = datetime(2026, 1, 14, 12, 0, tzinfo=UTC)
    name = f"{filled}_restore_20260114_120000"
    with closing(connection.connect(target.maintenance(), application_name="test")) as conn:
        assert database_marks.try_lock(conn, f"restore {name}")
        with pytest.raises(PgopsError, match=f"Another run restores into {name}"):
            restore.stage(target, backup, work=restore.Work(RUN), now=lambda: moment)
    assert names(server, filled) == [filled]


def test_neither_the_maintenance_database_nor_one_that_is_not_there_is_replaced(
    target: Any, filled: str, staged: str
) -> None:
    with pytest.raises(PgopsError, match=f"No swap of {filled}: maintenance database {filled} stands in the way"):
        swapped(target.with_(maintenance_database=filled), staged)
    with pytest.raises(PgopsError, match=f"There is no database {filled}_nothing on {target.host}"):
        swapped(target.with_(database=f"{filled}_nothing"), staged)


def test_a_fence_is_not_lifted_under_a_swap_that_lives(target: Any, filled: str, staged: str) -> None:
    with closing(connection.connect(target.maintenance(), application_name="test")) as conn:
        assert database_marks.try_lock(conn, f"swap {filled}")
        with (
            closing(connection.connect(target.maintenance(), application_name="test")) as other,
            pytest.raises(PgopsError, match=f"Another swap of {filled} is running; nothing was touched") as caught,
        ):
            swap._lift_dead_fence(other, filled, staged)
    assert caught.value.extra == {"locked": True}


# -- the outage and the crash -----------------------------------------------------------------------------------------------


class Client(threading.Thread):
    """Connects again and again and remembers its longest time without an answer."""

    def __init__(self, server: Any, database: str, user: str) -> None:
        super().__init__(daemon=True)
        self.server, self.database, self.user = server, database, user
        self.worst, self.answers, self.ended = 0.0, 0, threading.Event()

    def run(self) -> None:
        last = time.monotonic()
        while not self.ended.is_set():
            try:
                with closing(self.server.connect(self.database, self.user)) as conn, conn.cursor() as cursor:
                    while not self.ended.is_set():
                        cursor.execute("SELECT 1")
                        self.worst = max(self.worst, time.monotonic() - last)
                        last = time.monotonic()
                        self.answers += 1
                        time.sleep(0.002)
            except psycopg2.Error:
                time.sleep(0.005)


def test_eight_reconnecting_clients_are_kept_out_for_less_than_two_seconds(
    server: Any, target: Any, filled: str, staged: str
) -> None:
    server.execute(f"GRANT CONNECT ON DATABASE {filled} TO {APP}")
    clients = [Client(server, filled, SUPERUSER if n == 0 else APP) for n in range(8)]
    for client in clients:
        client.start()
    time.sleep(0.5)
    try:
        done = swapped(target, staged)
        time.sleep(0.5)
    finally:
        for client in clients:
            client.ended.set()
            client.join()
    assert done["sessions_ended"] >= 8
    assert max(client.worst for client in clients) < 2
    assert all(client.answers > 50 for client in clients)


# Each transaction is one message to the server: it happens whole or not at all.
STEPS = [
    "history carried",
    "fence: commit",
    "sessions signalled",
    "sequences moved",
    "swap: commit",
    "audit written",
    "comment restored",
]

KILLED = """
def after(step):
    if step == values["at"]:
        os.kill(os.getpid(), signal.SIGKILL)
swap.Swap(target, values["staged"], run_id="killed", after=after).run()
"""


@pytest.mark.few(3)
@pytest.mark.parametrize("at", STEPS)
def test_killed_after_any_statement_the_next_run_converges(
    server: Any, target: Any, filled: str, tmp_path: Path, at: str
) -> None:
    """Acceptance 14: never two writable databases with the application's name, and none only until the next run."""
    write_ledger(target, "first")
    backup = believed(target, tmp_path)
    server.execute("DELETE FROM visits", database=filled)
    staged = stage(target, backup)
    with closing(server.connect(filled, SUPERUSER)):
        process = start_python(KILLED, target, staged=staged, at=at)
        _out, err = process.communicate(timeout=60)
    assert process.returncode == -9, err
    wait_until_gone(server)
    assert filled in names(server, filled)

    found = swap.resume(target, FINISH, run_id="next")

    assert is_open(server, filled)
    closed = [name for name in names(server, filled) if name != filled and "_failed_" in name]
    assert not any(is_open(server, name) for name in closed)
    if STEPS.index(at) < STEPS.index("fence: commit"):
        # Nothing was committed: the live database is the old one, and the same swap goes through.
        assert found == {"state": "nothing"}
        assert count(server, filled, "visits") == 0
        swapped(target, staged)
    assert count(server, filled, "visits") == 100
    assert len(names(server, filled)) == 2
    with closing(server.connect(filled)) as conn:
        rows = ledger.audit_rows(conn)
        assert ledger.broken_link(rows) is None
        assert "database_swapped" in {row["event"] for row in rows}
        mark = database_marks.database(conn, filled)
    assert mark is not None and mark.mark is None and mark.comment is None
    assert swap.resume(target, FINISH, run_id="again") == {"state": "nothing"}


def wait_until_gone(server: Any) -> None:
    """The server notices the end of a killed client's sessions in a moment."""
    deadline = time.monotonic() + 10
    while server.execute("SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgops killed%'"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_resuming_lifts_the_fence_where_the_swap_cannot_go_on(
    server: Any, target: Any, filled: str, staged: str
) -> None:
    process = start_python(KILLED, target, staged=staged, at="fence: commit")
    process.communicate(timeout=60)
    wait_until_gone(server)
    assert not is_open(server, filled)
    with pytest.raises(PgopsError, match="is fenced and clients are kept out"):
        swap.resume(target, FINISH, run_id=RUN, check_only=True)
    for asked in (swap.Asked(swap.RESTORE), swap.Asked("down", confirmed=True)):
        with pytest.raises(PgopsError, match="is fenced and clients are kept out"):
            swap.resume(target, asked, run_id=RUN)
    assert not is_open(server, filled)
    server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(staged)))
    found = swap.resume(target, FINISH, run_id=RUN)
    assert found == {"state": "lifted", "staged": staged, "why": f"{staged} is gone"}
    assert is_open(server, filled)
    assert count(server, filled) == 100


def test_a_server_that_dies_under_the_fence_is_unfenced_when_it_is_back(
    server: Any, target: Any, filled: str, staged: str
) -> None:
    process = start_python(KILLED, target, staged=staged, at="fence: commit")
    process.communicate(timeout=60)
    server.kill()
    server.start()
    assert not is_open(server, filled)
    assert swap.resume(target, FINISH, run_id=RUN)["state"] == "completed"
    assert count(server, filled) == 100
    assert server.execute("SELECT current_user", database=filled, user=RESTORE) == [(RESTORE,)]
