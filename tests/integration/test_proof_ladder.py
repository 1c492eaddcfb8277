# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ladder of a proof: how far it climbs, what stops it on each level, what is noted of it, and who asks for how much."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    amcheck,
    backup_store,
    proof_ladder,
    restore,
    restore_times,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from support.backups import PATIENT, RUN, back_up, fill, names, prove, proved, recompute, stage
from support.engine import target_of
from support.server import OWNER, Server

QUERY = {
    "name": "pupils", "title": "every pupil has a name", "versions": [], "level": "fail",
    "query": "SELECT id, 'a name', 'none' FROM students WHERE name = ''", "expect": {"no_rows": True},
}  # fmt: skip
FAILING = {**QUERY, "name": "visits", "query": "SELECT id, 'x', data FROM visits", "expect": {"rows": 3}}
PLAN = {**QUERY, "name": "plan", "expect": {"uses": [["nothing"]], "from": {"table": "students", "rows": 0}}}
WAITING = {**QUERY, "name": "later", "versions": ["20990101000000"]}


@pytest.fixture
def filled(server: Any, database: str) -> str:
    fill(server, database)
    return database


def refused(server: Server, target: Any, backup: Any, **settings: Any) -> PgopsError:
    """The refusal, after a look that nothing is left of the restore and no row is told."""
    with pytest.raises(PgopsError) as caught:
        prove(target, backup, **settings)
    assert names(server, target.database) == [target.database]
    assert PATIENT not in json.dumps([caught.value.message, caught.value.as_dict()], default=str)
    return caught.value


def after_the_restore(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]) -> None:
    """What happens to the copy between its comparison and the next level."""
    look = restore.soundness.look

    def changed(copy: Any, *given: Any, **settings: Any) -> Any:
        change(copy)
        return look(copy, *given, **settings)

    monkeypatch.setattr(restore.soundness, "look", changed)


# -- how far ----------------------------------------------------------------------------------------------------------------


def test_a_proof_notes_each_level_with_its_seconds_and_climbs_to_the_fourth_by_itself(
    target: Any, filled: str, tmp_path: Path
) -> None:
    backup = proved(target, tmp_path)
    assert backup.proof is not None
    assert backup.proof_level == backup.proof["level"] == 4
    assert [entry["level"] for entry in sorted(backup.proof["levels"], key=lambda entry: entry["level"])] == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert all(entry["ok"] and entry["seconds"] >= 0 and entry["name"] for entry in backup.proof["levels"])
    (read,) = [entry for entry in backup.proof["levels"] if entry["level"] == 1]
    assert read["detail"] == "not read apart: the restore of level 2 reads all of it"


def test_the_fifth_level_looks_at_pages_rows_and_queries(target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    proof = prove(target, backup, level=5, queries=[QUERY, PLAN, WAITING])
    assert proof["level"] == backup_store.read_backup(backup.path).proof_level == 5
    detail = proof["levels"][-1]["detail"]
    assert "6 indexes by amcheck" in detail
    assert "1 foreign keys, 1 checks and 6 NOT NULL on their rows" in detail
    assert "1 queries of sql/checks pass, 1 wait for later versions" in detail


def test_the_source_s_own_cluster_is_not_another_host(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    error = refused(server, target, backup, level=6)
    assert "level 6 (restored on another host within the RTO) is needed" in error.message
    assert "the cluster that it comes from" in error.message
    assert backup_store.read_backup(backup.path).proof_level == 5
    assert prove(target, backup, level=6, needed=5)["level"] == 5


def test_a_lower_climb_takes_no_higher_proof_away(target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    high = prove(target, backup, level=5)
    assert prove(target, backup_store.read_backup(backup.path), level=4)["level"] == 4
    assert (backup_store.read_backup(backup.path).proof or {})["proved_at"] == high["proved_at"]


def test_a_proof_without_a_level_compared_everything_and_one_of_another_manifest_is_none(
    target: Any, filled: str, tmp_path: Path
) -> None:
    backup = proved(target, tmp_path)
    path = Path(backup.path, "proof.json")
    proof = json.loads(path.read_text(encoding="utf-8"))
    del proof["level"]
    path.write_text(json.dumps(proof), encoding="utf-8")
    assert backup_store.read_backup(backup.path).proof_level == 4
    for nonsense in ("5", 99, None):
        path.write_text(json.dumps({**proof, "level": nonsense}), encoding="utf-8")
        assert backup_store.read_backup(backup.path).proof_level == 0
    path.write_text(json.dumps({**proof, "level": 6, "manifest_sha256": "0" * 64}), encoding="utf-8")
    assert backup_store.read_backup(backup.path).proof_level == 0


# -- reading alone ------------------------------------------------------------------------------------------------------------


def test_the_first_level_reads_the_dump_and_restores_nothing(
    server: Any, target: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "create", None)
    backup = back_up(target, tmp_path)
    assert prove(target, backup, level=1)["level"] == 1
    found = backup_store.read_backup(backup.path)
    assert (found.proof_level, found.proved) == (1, False)
    with pytest.raises(PgopsError, match="proved to level 1 .* and level 4 .* is needed"):
        restore.refuse_unproved(found)


@pytest.mark.few(1)
@pytest.mark.parametrize("compression", ["0", "1"])
def test_the_first_level_finds_a_cut_dump_though_every_checksum_was_made_anew(
    server: Any, target: Any, filled: str, tmp_path: Path, compression: str
) -> None:
    backup = back_up(target, tmp_path, compression=compression)
    toc = Path(backup.path) / "dump" / "toc.dat"
    toc.write_bytes(toc.read_bytes()[: toc.stat().st_size // 2])
    error = refused(server, target, recompute(backup, toc), level=1)
    assert "cannot be read to its end" in error.message


def test_one_flipped_bit_passes_the_reading_and_is_named_on_the_level_of_the_hashes(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    """Fact 2, with the checksum in the manifest made anew: reading, restore and counts hold, the hash does not."""
    backup = back_up(target, tmp_path, compression="0")
    file = next(
        path for path in Path(backup.path, "dump").glob("*.dat") if PATIENT.encode() in path.read_bytes()
    )  # fmt: skip
    data = bytearray(file.read_bytes())
    data[data.find(PATIENT.encode()) + 3] ^= 1
    file.write_bytes(data)
    forged = recompute(backup, file)
    assert prove(target, forged, level=1)["level"] == 1
    ladder = proof_ladder.Ladder()
    error = refused(server, target, forged, ladder=ladder)
    assert "public.students: hash" in error.message
    assert (ladder.reached, (ladder.failed or {})["level"]) == (3, 4)
    assert backup_store.read_backup(backup.path).proof_level == 0


# -- pages --------------------------------------------------------------------------------------------------------------------


def test_amcheck_finds_a_damaged_index_that_counts_and_hashes_do_not_see(
    own_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = "damaged"
    own_server.create_database(database, OWNER)
    fill(own_server, database)
    target = target_of(own_server, database)
    backup = back_up(target, tmp_path)
    after_the_restore(monkeypatch, lambda copy: damage(own_server, copy.database, "visits_student"))
    error = refused(own_server, target, backup, level=5)
    assert "equals its source, and is not sound: index public.visits_student is corrupted" in error.message
    found = backup_store.read_backup(backup.path)
    assert found.proof_level == 4
    assert [entry["ok"] for entry in (found.proof or {})["levels"]] == [True] * 5 + [False]


def damage(server: Server, database: str, index: str) -> None:
    """Overwrite the middle of the index's file, behind the back of the server and of its cache."""
    with server.session(database) as conn, conn.cursor() as cursor:
        cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_buffercache; CHECKPOINT")
        cursor.execute("SELECT pg_relation_filepath(%s), current_setting('data_directory')", (index,))
        path, data = cursor.fetchone()
        cursor.execute(
            "SELECT count(*) FILTER (WHERE pg_buffercache_evict(bufferid)::text IS NULL) FROM pg_buffercache "
            "WHERE relfilenode = pg_relation_filenode(%s)", (index,),
        )  # fmt: skip
    file = Path(data, path)
    contents = bytearray(file.read_bytes())
    middle = 8192 + 4096
    contents[middle : middle + 2048] = bytes(2048)
    file.write_bytes(contents)


def test_an_index_that_lacks_rows_is_found(
    server: Any, target: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages are whole: only a comparison with the table tells (heapallindexed)."""
    backup = back_up(target, tmp_path)
    after_the_restore(
        monkeypatch,
        lambda copy: server.execute(
            "CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'; CREATE TABLE t AS SELECT 1 AS n; "
            "CREATE INDEX lacking ON t (f(n)); CREATE OR REPLACE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT -$1'",
            database=copy.database,
        ),
    )
    assert "index public.lacking is corrupted" in refused(server, target, backup, level=5).message


def test_without_amcheck_the_fifth_level_is_not_reached_and_says_so(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    role = f"{filled}_admin"
    server.execute(f"CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'x'; GRANT {OWNER} TO {role}")
    passfile = tmp_path / "passfile"
    passfile.write_text(Path(server.passfile).read_text(encoding="ascii") + f"*:*:*:{role}:x\n", encoding="ascii")
    passfile.chmod(0o600)
    try:
        backup = back_up(target, tmp_path / "backups")
        managed = target.with_(restore_user=role, passfile=str(passfile))
        error = refused(server, managed, backup, level=5, queries=[QUERY])
        found = prove(managed, backup, level=5, needed=4, queries=[QUERY])
    finally:
        server.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert "amcheck was not done: only a superuser may install it" in error.message
    assert found["level"] == 4
    assert "1 foreign keys, 1 checks and 6 NOT NULL on their rows; 1 queries" in found["levels"][-1]["detail"]


def test_an_amcheck_that_is_not_there_is_told(
    server: Any, target: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amcheck, "EXTENSION", "amcheck_of_nowhere")
    backup = back_up(target, tmp_path)
    error = refused(server, target, backup, level=5)
    assert "it cannot be installed on the scratch server" in error.message
    assert backup_store.read_backup(backup.path).proof_level == 4


# -- rows and queries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "SET session_replication_role = replica; UPDATE visits SET student_id = 10000 WHERE id < 4",
            "foreign key public.visits.visits_student_id_fkey: 3 rows have no parent in public.students",
        ),
        (
            (
                "CREATE TABLE c (n int CHECK (n > 0)); INSERT INTO c VALUES (1); ALTER TABLE c DROP CONSTRAINT c_n_check; "
                "UPDATE c SET n = -1; ALTER TABLE c ADD CHECK (n > 0) NOT VALID; "
                "UPDATE pg_constraint SET convalidated = true WHERE conname = 'c_n_check'"
            ),
            "check public.c.c_n_check: 1 rows do not hold",
        ),
        (
            (
                "CREATE TABLE c (\"a%b\" json); INSERT INTO c VALUES (NULL), ('{}'); "
                "UPDATE pg_attribute SET attnotnull = true WHERE attrelid = 'c'::regclass AND attname = 'a%b'"
            ),
            "NOT NULL of public.c.a%b: 1 rows do not hold",
        ),
    ],
)
def test_constraints_are_looked_at_row_by_row_and_not_believed(
    server: Any, target: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, said: str
) -> None:
    backup = back_up(target, tmp_path)
    after_the_restore(
        monkeypatch,
        lambda copy: server.execute("SET allow_system_table_mods = on; " + change, database=copy.database),
    )
    error = refused(server, target, backup, level=5)
    assert said in error.message
    assert backup_store.read_backup(backup.path).proof_level == 4


def test_what_cannot_be_looked_at_is_told_and_is_no_fault_of_the_copy(
    server: Any, target: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function of a check that is gone, as after a change of the path that it is looked for in."""
    backup = back_up(target, tmp_path)
    after_the_restore(
        monkeypatch,
        lambda copy: server.execute(
            "CREATE FUNCTION g(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN public.elsewhere($1); END'; "
            "CREATE FUNCTION elsewhere(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'; "
            "CREATE TABLE t (n int CHECK (g(n) > 0)); INSERT INTO t VALUES (1); CREATE INDEX odd ON t (g(n)); "
            "DROP FUNCTION elsewhere(int)",
            database=copy.database,
        ),
    )
    error = refused(server, target, backup, level=5)
    assert error.extra["reason"] == "level"
    assert "index public.odd cannot be checked" in error.message
    assert "the constraints of public.t cannot be checked" in error.message


def test_a_constraint_that_never_promised_anything_is_no_fault(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    server.execute(
        "CREATE TABLE c (n int, s bigint); INSERT INTO c VALUES (-1, 99999); ALTER TABLE c ADD CHECK (n > 0) NOT VALID; "
        "ALTER TABLE c ADD FOREIGN KEY (s) REFERENCES students NOT VALID", database=filled,
    )  # fmt: skip
    assert prove(target, back_up(target, tmp_path), level=5)["level"] == 5


def test_a_query_of_the_application_that_fails_is_named_and_its_rows_are_not(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    error = refused(server, target, back_up(target, tmp_path), level=5, queries=[QUERY, FAILING])
    assert "query visits of sql/checks does not find what it should" in error.message


# -- needed -----------------------------------------------------------------------------------------------------------------------


def test_a_restore_refuses_a_backup_below_the_level_that_is_needed(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = proved(target, tmp_path)
    with pytest.raises(PgopsError, match=r"is proved to level 4 .* and level 5 .* is needed") as caught:
        restore.stage(target, backup, work=restore.Work(RUN), level=5)
    assert caught.value.hint == "Climb with prove.yml -e backup_prove_level=5."
    assert names(server, filled) == [filled]
    prove(target, backup, level=5)
    restore.refuse_unfit(target, backup_store.read_backup(backup.path), restore.Work(RUN), 5)


# -- how long ---------------------------------------------------------------------------------------------------------------------


def test_each_restore_that_was_compared_is_noted_and_a_torn_line_is_passed_over(
    target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    history = Path(backup.path).parent / "restores.jsonl"
    prove(target, backup, level=1)
    assert not history.exists()
    proof = prove(target, backup)
    assert proof["forecast"]["measured"] == 1
    assert proof["forecast"]["trend"] is None
    history.write_bytes(history.read_bytes()[:-20])
    stage(target, backup_store.read_backup(backup.path))
    (noted,) = restore_times.read(backup.path)
    assert {
        "time",
        "bytes",
        "restore_seconds",
        "check_seconds",
        "ready_seconds",
        "seconds",
        "level",
        "host",
        "jobs",
    } <= set(noted)
    assert noted["bytes"] == backup.manifest["database_bytes"]
    assert noted["host"] == f"{target.host}:{target.port}"
    assert history.stat().st_mode & 0o777 == 0o600


def test_a_history_that_cannot_be_written_stops_no_restore(target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    history = Path(backup.path).parent / "restores.jsonl"
    history.symlink_to("/dev/full")
    proof = prove(target, backup)
    assert proof["level"] == 4
    assert "the time of this restore could not be noted" in proof["reservations"][-1]


def test_a_restore_over_the_rto_fails_and_says_so(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    error = refused(server, target, backup, level=6, needed=4, rto_seconds=0.001)
    assert "took too long" in error.message
    assert "backup_rto_seconds is 0.001" in error.message


@pytest.mark.few(1)
@pytest.mark.parametrize("nothing", [0, -1.5, float("nan")])
def test_an_rto_that_nothing_keeps_is_refused_and_not_taken_for_none(
    server: Any, target: Any, filled: str, tmp_path: Path, nothing: float
) -> None:
    error = refused(server, target, back_up(target, tmp_path), level=6, needed=4, rto_seconds=nothing)
    assert "it takes a number above 0; nothing was restored" in error.message


def entry(seconds: float, size: int = 1000, host: str = "a:1") -> dict[str, Any]:
    return {"bytes": size, "ready_seconds": seconds, "host": host, "time": "2026-01-01T00:00:00Z"}


def test_a_forecast_goes_by_bytes_by_the_median_of_ten_and_by_the_same_host() -> None:
    assert restore_times.forecast([], 1000) is None
    old = [entry(500.0)] * 5
    ten = [entry(seconds) for seconds in (8, 9, 10, 10, 10, 10, 10, 11, 12, 15)]
    found = restore_times.forecast(old + ten, 2000, "a:1")
    assert found is not None
    assert (found["seconds"], found["low"], found["high"], found["measured"]) == (20.0, 16.0, 30.0, 10)
    assert (found["host"], found["trend"]) == ("a:1", 0.5)
    there = restore_times.forecast([entry(10.0), entry(40.0, host="b:1"), entry(10.0)], 1000, "b:1")
    assert there is not None
    assert (there["seconds"], there["measured"], there["host"]) == (40.0, 1, "b:1")
    mixed = restore_times.forecast([entry(10.0), entry(40.0, host="b:1")], 1000, "c:1")
    assert mixed is not None
    assert (mixed["measured"], mixed["host"]) == (2, None)
