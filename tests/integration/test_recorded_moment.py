# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a database holds at a restore point while clients write on, and a restored one beside it; the live one stands for that here."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    moment_comparison,
    physical_proof,
    recorded_moment,
    restore_point,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import EQUAL, RESTORES, Ladder
from ansible_collections.whitecross.pgops.plugins.module_utils.recorded_moment import Visible

TABLES = """
CREATE TABLE students (id int PRIMARY KEY, name text);
CREATE TABLE visits (id serial PRIMARY KEY, student int REFERENCES students);
CREATE UNLOGGED TABLE sessions (id int);
CREATE MATERIALIZED VIEW names AS SELECT 'ada'::text AS name;
INSERT INTO students VALUES (1, 'ada'), (2, 'grace');
INSERT INTO visits (student) VALUES (1);
INSERT INTO sessions VALUES (1);
"""


@pytest.fixture
def admin(server: Any, target: Any, database: str) -> Iterator[Any]:
    """A session of the role that makes restore points; the database has its tables."""
    server.execute(TABLES, database=database)
    conn = connect(target.maintenance(), application_name="pgops test")
    yield conn
    conn.close()


def record(admin: Any, target: Any, monkeypatch: pytest.MonkeyPatch, **more: Any) -> dict[str, Any]:
    """The moment of a restore point; this server archives nothing, so nothing is waited for."""
    monkeypatch.setattr(restore_point, "refuse_unfit", lambda conn: None)
    monkeypatch.setattr(restore_point, "archive_through", lambda *given, **named: 0.0)
    given = {"control": Control(None), **more}
    return recorded_moment.record(
        admin, {target.database: target}, "here", seconds=1, workers=2, application_name="pgops test",
        progress=Progress(None), **given,
    )  # fmt: skip


def compare(target: Any, moment: dict[str, Any], beyond: list[int] | None = None) -> moment_comparison.Differences:
    described = moment["databases"][target.database]
    return moment_comparison.compare(
        target.as_restore(), described, beyond or [], workers=2, application_name="pgops test", progress=Progress(None),
        control=Control(None),
    )  # fmt: skip


def test_each_table_is_compared_by_its_contents_and_what_a_recovery_empties_is_named(
    admin: Any, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compare(target, record(admin, target, monkeypatch))
    assert found.all == []
    assert (found.compared, found.tables, found.rows) == (3, 4, 4)
    assert (found.moving, found.unlogged) == ([], ["public.sessions"])


@pytest.mark.parametrize(
    ("change", "level", "named"),
    [
        ("UPDATE students SET name = 'Ada' WHERE id = 1", "hashed", "public.students"),
        ("DELETE FROM visits", "counted", "public.visits"),
        ("DROP TABLE visits", "counted", "public.visits"),
        ("ALTER TABLE students ALTER name SET DEFAULT 'x'", "counted", "column public.students.name"),
        ("GRANT SELECT ON students TO PUBLIC", "counted", "table public.students"),
        ("SELECT lo_from_bytea(0, 'x')", "counted", "large objects"),
        ("DROP MATERIALIZED VIEW names; CREATE MATERIALIZED VIEW names AS SELECT 'eva'::text AS name", "hashed", "public.names"),
    ],
)  # fmt: skip
def test_whatever_differs_is_named(
    admin: Any, server: Any, target: Any, monkeypatch: pytest.MonkeyPatch, change: str, level: str, named: str
) -> None:
    moment = record(admin, target, monkeypatch)
    server.execute(change, database=target.database)
    found = compare(target, moment)
    assert named in {entry["object"] for entry in getattr(found, level)}
    ladder = Ladder()
    ladder.record(1, True, 0.0, "")
    ladder.record(2, True, 0.0, "")
    physical_proof.note_differences(ladder, {target.database: found})
    assert ladder.reached == (RESTORES if found.counted else EQUAL - 1)
    with pytest.raises(
        PgopsError, match=f"The restored {target.database} is not what the source held: .*; the backup is not proved"
    ):
        physical_proof.refuse_differences({target.database: found}, "the source held")


def before_the_second_look(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    ask = recorded_moment.fetch_one

    def asking(conn: Any, query: Any, *given: Any) -> Any:
        if query == recorded_moment._AFTER:
            act()
        return ask(conn, query, *given)

    monkeypatch.setattr(recorded_moment, "fetch_one", asking)


def test_where_a_transaction_ends_in_that_very_moment_it_is_done_again(
    admin: Any, server: Any, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = iter([3])
    before_the_second_look(
        monkeypatch,
        lambda: [
            server.execute(f"INSERT INTO students VALUES ({row}, 'eva')", database=target.database) for row in rows
        ],
    )
    moment = record(admin, target, monkeypatch)
    assert moment["name"] == "here_2"
    assert moment["databases"][target.database]["tables"]["public.students"]["rows"] == 3
    assert compare(target, moment).all == []


def test_where_each_attempt_meets_one_its_tables_are_known(
    admin: Any, server: Any, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that writes all the time: each of its transactions is there at the restore point and has ended by the second look."""
    with server.session(target.database) as writer, writer.cursor() as cursor:
        writer.autocommit = False

        def write_on() -> None:
            writer.commit()
            cursor.execute("INSERT INTO visits (student) VALUES (2)")

        write_on()
        before_the_second_look(monkeypatch, write_on)
        moment = record(admin, target, monkeypatch, attempts=3)
        writer.rollback()
    assert moment["name"] == "here_3"
    described = moment["databases"][target.database]
    ((xid, tables),) = described["writing"].items()
    assert tables == ["public.visits"]
    found = compare(target, moment, [int(xid)])
    assert (found.all, found.moving) == ([], ["public.visits"])


def test_a_transaction_whose_commit_waits_is_known_by_its_tables_and_only_these_are_not_compared(
    admin: Any, server: Any, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commit may be in the WAL before the restore point though no snapshot sees it; here it ends after the second look."""
    with server.session(target.database) as writer:
        writer.autocommit = False
        with writer.cursor() as cursor:
            cursor.execute("INSERT INTO visits (student) VALUES (2)")
            cursor.execute("SELECT pg_current_xact_id()::text::bigint")
            xid = int(cursor.fetchone()[0])
        moment = record(admin, target, monkeypatch)
        described = moment["databases"][target.database]
        assert described["writing"][str(xid)] == ["public.visits"]
        assert described["tables"]["public.visits"]["rows"] == 1
        writer.commit()
    assert [entry["object"] for entry in compare(target, moment).counted] == ["public.visits"]
    found = compare(target, moment, [xid])
    assert (found.all, found.moving, found.compared) == ([], ["public.visits"], 2)
    server.execute("UPDATE students SET name = 'Ada' WHERE id = 1", database=target.database)
    assert [entry["object"] for entry in compare(target, moment, [xid]).hashed] == ["public.students"]


def test_what_a_transaction_of_which_nothing_is_known_may_have_changed_proves_nothing(
    admin: Any, server: Any, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = record(admin, target, monkeypatch)
    server.execute("UPDATE students SET name = 'Ada' WHERE id = 1", database=target.database)
    with pytest.raises(
        PgopsError,
        match="public.students of .* differs, and a transaction .* may have changed it; the backup is not proved",
    ):
        compare(target, moment, [4711])
    server.execute("CREATE VIEW seen AS SELECT 1 AS one", database=target.database)
    with pytest.raises(PgopsError, match="may have changed it"):
        compare(target, moment, [4711])


def test_a_transaction_that_is_committed_beyond_the_snapshot_is_found(
    admin: Any, server: Any, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = record(admin, target, monkeypatch)
    with server.session(target.database) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()::text::bigint")
        xid = int(cursor.fetchone()[0])
    assert xid in moment_comparison.committed_beyond(admin, moment)[target.database]
    moment["databases"][target.database]["visible"]["end"] -= 1_000_000
    with pytest.raises(PgopsError, match="There is another restore point of that name|transactions behind"):
        moment_comparison.committed_beyond(admin, moment)


def test_no_table_can_be_emptied_while_it_is_read(admin: Any, server: Any, target: Any) -> None:
    """A snapshot does not see TRUNCATE: the table would be empty in it, and the hash that of no row."""
    held = recorded_moment._Held(target, "pgops test")
    try:
        held.lock()
        held.look()
        with (
            pytest.raises(psycopg2.errors.LockNotAvailable),
            server.session(target.database) as conn,
            conn.cursor() as cursor,
        ):
            cursor.execute("SET lock_timeout = '200ms'; TRUNCATE students, visits")
    finally:
        held.close()


def test_looks_know_who_has_ended_between_them() -> None:
    first = Visible.of("10:14:10,12")
    assert first == Visible(14, frozenset({10, 12}))
    assert first.ended_by(Visible.of("10:14:10,12")) == set()
    assert first.ended_by(Visible.of("12:14:12")) == {10}
    assert first.ended_by(Visible.of("10:16:10,12,15")) == {14}
    assert Visible.of("5:5:") == Visible(5, frozenset())


def test_it_is_kept_private_without_the_definitions_and_compares_all_the_same(
    admin: Any, server: Any, target: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = Path(recorded_moment.keep(str(tmp_path), "main", record(admin, target, monkeypatch)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["here.json.gz"]
    kept = recorded_moment.kept(str(tmp_path), "main", "here")
    assert kept is not None
    assert "inventory" not in kept["databases"][target.database]
    assert compare(target, kept).all == []
    server.execute("CREATE VIEW seen AS SELECT 1 AS one", database=target.database)
    assert [entry["object"] for entry in compare(target, kept).all] == ["catalog"]
    assert recorded_moment.kept(str(tmp_path), "main", "another") is None
    path.write_bytes(b"no gzip")
    with pytest.raises(PgopsError, match="What restore point here holds cannot be read from"):
        recorded_moment.kept(str(tmp_path), "main", "here")


def test_a_role_that_may_not_make_restore_points_is_told_what_it_lacks(
    server: Any, target: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weak = target.with_(restore_user=None, owner=None)
    conn = connect(weak.maintenance(), application_name="pgops test")
    try:
        with pytest.raises(PgopsError, match="may not make a restore point") as caught:
            record(conn, weak, monkeypatch)
        assert "GRANT EXECUTE ON FUNCTION pg_create_restore_point(text)" in str(caught.value.hint)
    finally:
        conn.close()


def fill(folder: Path) -> None:
    with contextlib.suppress(OSError), (folder / "fill").open("wb") as stream:
        while True:
            stream.write(b"x" * 4096)
            stream.flush()


def test_a_full_disk_leaves_no_half_of_it_and_is_told(
    admin: Any, target: Any, monkeypatch: pytest.MonkeyPatch, small_disk: Path
) -> None:
    moment = record(admin, target, monkeypatch)
    folder = Path(recorded_moment.path_of(str(small_disk), "main", "x")).parent
    folder.mkdir(parents=True)
    fill(small_disk)
    with pytest.raises(PgopsError, match="What restore point here holds cannot be kept in .*: No space left on device"):
        recorded_moment.keep(str(small_disk), "main", moment)
    assert list(folder.iterdir()) == []


def test_it_ends_when_the_job_has_to(admin: Any, target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    control = Control(None)
    control.request("its time of 1 s is over")
    with pytest.raises(Interrupted, match="its time of 1 s is over"):
        record(admin, target, monkeypatch, control=control)
    assert fetch_one(admin, "SELECT count(*) AS n FROM pg_locks WHERE database = (SELECT oid FROM pg_database WHERE datname = %s)", (target.database,)) == {"n": 0}  # fmt: skip


def test_without_a_recorded_moment_rows_are_counted_and_nothing_is_compared(admin: Any, target: Any) -> None:
    beside = SimpleNamespace(
        control=Control(None), progress=Progress(None), promote=lambda: None,
        connect=lambda _name: connect(target.as_restore(), application_name="pgops test"),
    )  # fmt: skip
    found = physical_proof.compare_beside(beside, [target.database], None, workers=1, application_name="pgops test")
    assert (found[target.database].compared, found[target.database].rows) == (0, 4)
