# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rollback has lost: told exactly against the database that is kept, exported, and brought back with psql."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    connection,
    content,
    database_marks,
    encryption,
    ledger,
    lost_comparison,
    lost_writes,
    migrate,
    row_versions,
    swap,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import Mark
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.plugin_utils import losses
from support import engine
from support.backups import PATIENT, RUN, fill, proved, stage
from support.keys import age_key
from support.server import MIGRATOR, OWNER, Server
from support.tree import TestTree


def roll_back(target: Any, backup: Any) -> str:
    """Put the database aside for the backup. Returns its name."""
    return str(swap.Swap(target, stage(target, backup), run_id=RUN).run()["aside"])


class Parted:
    """A live database and a kept one that were the same a moment ago, as a restore and a swap leave them, in a fraction of their
    time. What a test then does in the kept one is what was lost."""

    def __init__(self, server: Server, database: str) -> None:
        self.server, self.database, self.kept = server, database, f"{database}_failed_20261122_120000"
        server.execute(f'ALTER DATABASE {database} RENAME TO "{self.kept}"')
        server.create_database(database, template=self.kept)
        with closing(server.connect()) as conn:
            mark = Mark(database_marks.FAILED, database, RUN, "2026-11-22T12:00:00Z", xid=row_versions.next_xid(conn))
            database_marks.set_mark(conn, self.kept, mark)

    def lost(self, statements: str) -> None:
        self.server.execute(statements, database=self.kept)

    def since(self, statements: str) -> None:
        self.server.execute(statements, database=self.database)

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        return self.server.execute(f"SELECT * FROM {table} ORDER BY 1", database=self.database)


@pytest.fixture
def parted(server: Any, database: str) -> Any:
    """Called with what makes the tables."""

    def part(schema: str) -> Parted:
        server.execute(f"SET ROLE {OWNER}; {schema}", database=database)
        return Parted(server, database)

    return part


def look(target: Any, name: str | None = None, **settings: Any) -> dict[str, Any]:
    found = lost_comparison.look(target, name, application_name="test", **settings)
    return {**found, "tables": {entry["table"]: entry for entry in found["tables"]}}


def figures(entry: dict[str, Any]) -> tuple[int, int, int, int]:
    return entry["inserted"], entry["updated"], entry["deleted"], entry["both"]


def run_sql(server: Server, database: str, folder: str, user: str = "postgres") -> subprocess.CompletedProcess[str]:
    """The exported file, as the page says to run it."""
    return subprocess.run(
        [str(server.bindir / "psql"), "-X", "-v", "ON_ERROR_STOP=1", "-h", server.host, "-p", str(server.port), "-U", user,
         "-f", str(Path(folder) / "lost_writes.sql"), database],
        env={**os.environ, "PGPASSFILE": str(server.passfile)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def uncommented(folder: str) -> None:
    """As a person does who wants the deletes as well."""
    path = Path(folder) / "lost_writes.sql"
    path.write_text(path.read_text(encoding="utf-8").replace("-- DELETE", "DELETE"), encoding="utf-8")


def write_ledger(target: Any) -> None:
    with closing(connection.connect(target, application_name="test")) as conn:
        ledger.ensure(conn)
        ledger.append_audit(conn, "applied", run_id=RUN)


# -- told ---------------------------------------------------------------------------------------------------------------


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_inserted_updated_and_deleted_rows_are_told_apart_and_come_back(
    server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    fill(server, database, 100)
    write_ledger(target)
    backup = proved(target, tmp_path)
    server.execute("INSERT INTO students (name) SELECT 'new' FROM generate_series(1, 7)", database=database)
    server.execute("UPDATE students SET note = 'changed' WHERE id <= 5", database=database)
    server.execute("DELETE FROM students WHERE id IN (10, 11)", database=database)
    kept = roll_back(target, backup)
    found = look(target, export=str(tmp_path / "out"))
    assert found["kept"] == kept
    assert figures(found["tables"]["public.students"]) == (7, 5, 2, 0)
    assert figures(found["tables"]["public.visits"]) == (0, 0, 2, 0)
    assert set(found["tables"]) == {"public.students", "public.visits"}
    assert found["rows"] == {"inserted": 7, "updated": 5, "deleted": 4, "both": 0, "application": 16, "versions": 0}
    assert found["bounds"] is None
    done = run_sql(server, database, found["export"])
    assert done.returncode == 0, done.stderr
    again = look(target)
    assert again["rows"] == {"inserted": 0, "updated": 0, "deleted": 4, "both": 0, "application": 4, "versions": 0}
    uncommented(found["export"])
    assert run_sql(server, database, found["export"]).returncode == 0
    assert look(target)["tables"] == {}
    assert server.execute("SELECT nextval('students_id_seq')", database=database) == [(108,)]


def test_after_a_swap_back_what_the_successor_wrote_is_lost_and_nothing_else(
    server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    fill(server, database, 100)
    write_ledger(target)
    backup = proved(target, tmp_path)
    server.execute("INSERT INTO students (name) SELECT 'first' FROM generate_series(1, 7)", database=database)
    first = roll_back(target, backup)
    # The id that the first rows have, too; the sequence gives out none of theirs again.
    server.execute("INSERT INTO students (id, name) VALUES (101, 'second')", database=database)
    server.execute(
        "UPDATE visits SET price = 99 WHERE id IN (3, 4); DELETE FROM visits WHERE id = 5", database=database
    )
    second = swap.Swap(target, first, run_id=RUN).run()["aside"]
    server.execute("UPDATE visits SET price = 1 WHERE id = 3", database=database)
    found = look(target)
    assert found["kept"] == second
    assert figures(found["tables"]["public.students"]) == (0, 0, 0, 1)
    assert figures(found["tables"]["public.visits"]) == (0, 1, 1, 1)
    # Of the first one nothing is lost any more: it is live.
    with pytest.raises(PgopsError, match="is no database that a swap of"):
        look(target, first)


def test_what_the_live_database_wrote_itself_is_not_lost(parted: Any, target: Any) -> None:
    both = parted(
        "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t SELECT g, 'x' FROM generate_series(1, 9) g"
    )
    both.since("INSERT INTO t VALUES (10, 'mine'); UPDATE t SET a = 'mine' WHERE id = 1")
    both.lost("UPDATE t SET a = 'lost' WHERE id IN (1, 2)")
    assert figures(look(target)["tables"]["public.t"]) == (0, 1, 0, 1)


def test_only_the_columns_that_both_have_are_compared(parted: Any, target: Any, tmp_path: Path) -> None:
    both = parted(
        "CREATE TABLE t (id int PRIMARY KEY, old text NOT NULL DEFAULT 'd', n int, p numeric(8, 2));"
        "INSERT INTO t (id, n, p) SELECT g, g, g FROM generate_series(1, 9) g"
    )
    both.lost(
        "ALTER TABLE t DROP old, ADD fresh text, ALTER n TYPE bigint, ALTER p TYPE numeric(12, 4);"
        "UPDATE t SET fresh = 'filled in'; UPDATE t SET n = 100 WHERE id = 3; INSERT INTO t VALUES (10, 1, 2.5, 'new');"
        "CREATE TABLE made AS SELECT 1 AS id; CREATE TABLE empty (id int)"
    )
    found = look(target, export=str(tmp_path))
    assert figures(found["tables"]["public.t"]) == (1, 1, 0, 0)
    assert found["tables"]["public.made"]["change"] == "new table"
    assert "public.empty" not in found["tables"]
    assert "column n is integer here and bigint there" in found["tables"]["public.t"]["notes"]
    assert run_sql(both.server, both.database, found["export"]).returncode == 0
    assert both.rows("t")[-1][:3] == (10, "d", 1)
    assert set(look(target)["tables"]) == {"public.made"}
    assert (Path(found["export"]) / "002_public.made.new_table.csv").read_text() == "id\n1\n"


def test_rows_without_a_key_are_counted_as_often_as_they_are_there(parted: Any, target: Any, tmp_path: Path) -> None:
    both = parted(
        "CREATE TABLE t (a text, b int); INSERT INTO t SELECT 'x', 1 FROM generate_series(1, 3); INSERT INTO t VALUES (NULL, 2)"
    )
    both.lost(
        "INSERT INTO t SELECT 'x', 1 FROM generate_series(1, 2); INSERT INTO t VALUES (NULL, NULL); DELETE FROM t WHERE b = 2"
    )
    found = look(target, export=str(tmp_path))
    assert figures(found["tables"]["public.t"]) == (3, 0, 1, 0)
    uncommented(found["export"])
    for _ in range(2):
        # Twice does nothing twice.
        assert run_sql(both.server, both.database, found["export"]).returncode == 0
        assert look(target)["tables"] == {}


def test_a_large_table_is_compared_in_buckets_and_parts(
    parted: Any, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "PART_PAGES", 20)
    both = parted(
        "CREATE TABLE t (id uuid PRIMARY KEY, a text); "
        "INSERT INTO t SELECT md5(g::text)::uuid, g FROM generate_series(1, 20000) g; ANALYZE t"
    )
    both.lost(
        "UPDATE t SET a = 'u' WHERE a::int % 2000 = 0; DELETE FROM t WHERE a = '77'; INSERT INTO t VALUES (gen_random_uuid(), 'i')"
    )
    assert figures(look(target)["tables"]["public.t"]) == (1, 10, 1, 0)
    both.lost("UPDATE t SET a = a || 'all'")
    assert figures(look(target)["tables"]["public.t"]) == (1, 19999, 1, 0)


def test_what_a_version_wrote_is_counted_apart_and_the_application_never_with_it(
    parted: Any, target: Any, tmp_path: Path
) -> None:
    both = parted(
        "CREATE TABLE people (id int PRIMARY KEY, name text, touched int NOT NULL DEFAULT 0);"
        "INSERT INTO people SELECT g, 'p' || g FROM generate_series(1, 200) g"
    )
    tree = TestTree(tmp_path / "sql")
    fill = {"table": "people", "key": "id", "batch_size": 30, "adapt": False}
    tree.add(
        "20260101000001",
        "fill",
        [
            {"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}},
            {"backfill": {**fill, "statement": "upper.sql.j2", "down": "no_upper.sql.j2"}},
            {"backfill": {**fill, "statement": "touch.sql.j2", "down": "no_touch.sql.j2"}},
            {"sql": {"up": "seed.sql.j2", "down": "unseed.sql.j2"}},
        ],
        {
            "up.sql.j2": "ALTER TABLE public.people ADD upper_name text;\n"
            "CREATE TABLE public.made (id int);\nINSERT INTO public.made VALUES (1);\n",
            "down.sql.j2": "ALTER TABLE public.people DROP upper_name;\nDROP TABLE public.made;\n",
            "upper.sql.j2": "UPDATE public.people SET upper_name = upper(name) WHERE id BETWEEN $1 AND $2;\n",
            "no_upper.sql.j2": "UPDATE public.people SET upper_name = NULL WHERE id BETWEEN $1 AND $2;\n",
            "touch.sql.j2": "UPDATE public.people SET touched = 1 WHERE id BETWEEN $1 AND $2 AND id <= 100;\n",
            "no_touch.sql.j2": "UPDATE public.people SET touched = 0 WHERE id BETWEEN $1 AND $2;\n",
            "seed.sql.j2": "INSERT INTO public.people VALUES (1000, 'seeded');\n",
            "unseed.sql.j2": "DELETE FROM public.people WHERE id = 1000;\n",
        },
    )
    both.lost("INSERT INTO people VALUES (500, 'before the version')")
    migrate.apply(target.with_(database=both.kept), tree.render(), Selection(), engine.way())
    both.lost("INSERT INTO people VALUES (501, 'after it'); UPDATE people SET name = 'changed' WHERE id IN (1, 150)")
    both.lost("INSERT INTO made VALUES (2)")
    found = look(target, export=str(tmp_path / "out"))
    people, made = found["tables"]["public.people"], found["tables"]["public.made"]
    assert figures(people) == (2, 2, 0, 0)
    # The seed went through the first backfill, which inserts nothing.
    assert (people["own_inserted"], people["own_updated"]) == (0, 99) or (
        people["own_inserted"],
        people["own_updated"],
    ) == (1, 99)
    assert (made["inserted"], made["own_inserted"]) == (1, 1)
    assert found["rows"]["versions"] == people["own_inserted"] + 100


# -- exported -----------------------------------------------------------------------------------------------------------

NASTY = [
    "it's", 'a "quote"', "back\\slash", "line\nbreak", "cr\rlf\r\n", "\\n literally", "-- comment", "/* open", ":name :'x' \\! true",
    "'; DROP TABLE t; --", "$$dollar$$", "tab\t", "Ä ö 漢 🎉", "", " ", "NULL", "\\\n'\r", "E'x'",
]  # fmt: skip


def test_every_value_comes_back_as_it_was(parted: Any, target: Any, tmp_path: Path) -> None:
    both = parted(
        "CREATE TYPE mood AS ENUM ('calm', 'up set'); CREATE DOMAIN short AS varchar(40);"
        'CREATE TABLE "Odd ""Name; --" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "a=b" text, c char(5), d short, m mood,'
        " f float8, n numeric, ts timestamptz, iv interval, by bytea, j json, jb jsonb, arr text[], r int4range, b bool,"
        ' p point, mo money, twice int GENERATED ALWAYS AS (id * 2) STORED); INSERT INTO "Odd ""Name; --" DEFAULT VALUES'
    )
    with closing(both.server.connect(both.kept)) as conn, conn.cursor() as cursor:
        for number, text in enumerate(NASTY):
            cursor.execute(
                """INSERT INTO "Odd ""Name; --" ("a=b", c, d, m, f, n, ts, iv, by, j, jb, arr, r, b, p, mo) VALUES
                (%(t)s, 'ab', left(%(t)s, 40), 'up set', 0.1::float8 + %(n)s, 1.10, '2026-01-01 08:00+02', '1 mon 2 days',
                 convert_to(%(t)s, 'UTF8'), '{"a":  1}', to_jsonb(%(t)s::text), ARRAY[%(t)s, NULL], '[1,5)', true,
                 '(1,2.5)', 12.34)""",
                {"t": text, "n": number},
            )
        cursor.execute('INSERT INTO "Odd ""Name; --" DEFAULT VALUES')
        cursor.execute("""UPDATE "Odd ""Name; --" SET "a=b" = E'two\nlines', arr = '{}' WHERE id = 1""")
    # A reader's own settings must not change what is read.
    both.server.execute(f"ALTER DATABASE {both.database} SET standard_conforming_strings = off")
    both.server.execute(f"ALTER DATABASE {both.database} SET DateStyle = 'SQL, DMY'")
    both.server.execute(f"ALTER DATABASE {both.database} SET TimeZone = 'Asia/Tokyo'")
    found = look(target, export=str(tmp_path))
    done = run_sql(both.server, both.database, found["export"])
    assert done.returncode == 0, done.stderr
    assert look(target)["tables"] == {}
    text = (Path(found["export"]) / "lost_writes.sql").read_text(encoding="utf-8")
    assert len([line for line in text.splitlines() if line.startswith("INSERT")]) == len(NASTY) + 1
    with next(Path(found["export"]).glob("*.inserted.csv")).open(encoding="utf-8", newline="") as file:
        assert [row["a=b"] for row in csv.DictReader(file)][: len(NASTY)] == NASTY


def test_parents_come_before_children_and_rows_that_refer_to_their_own_table_come_together(
    parted: Any, target: Any, tmp_path: Path
) -> None:
    both = parted(
        "CREATE TABLE z_parent (id int PRIMARY KEY, boss int REFERENCES z_parent);"
        "CREATE TABLE m_child (id int PRIMARY KEY, parent int NOT NULL REFERENCES z_parent) PARTITION BY RANGE (id);"
        "CREATE TABLE m_child_1 PARTITION OF m_child FOR VALUES FROM (0) TO (1000);"
        "CREATE TABLE a_grandchild (id int PRIMARY KEY, child int REFERENCES m_child)"
    )
    both.lost(
        "INSERT INTO z_parent VALUES (1, NULL), (2, 1); UPDATE z_parent SET boss = 2 WHERE id = 1;"
        "INSERT INTO m_child VALUES (5, 2); INSERT INTO a_grandchild VALUES (7, 5)"
    )
    found = look(target, export=str(tmp_path))
    done = run_sql(both.server, both.database, found["export"])
    assert done.returncode == 0, done.stderr
    assert look(target)["tables"] == {}


def test_an_update_leaves_what_was_changed_since_and_an_insert_a_key_that_is_taken(
    parted: Any, target: Any, tmp_path: Path
) -> None:
    both = parted(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text); INSERT INTO t SELECT g, 'x', 'y' FROM generate_series(1, 3) g"
    )
    both.lost("UPDATE t SET a = 'lost' WHERE id < 3; INSERT INTO t VALUES (4, 'lost', 'lost'), (5, 'lost', 'lost')")
    found = look(target, export=str(tmp_path))
    both.since(
        "UPDATE t SET a = 'newer' WHERE id = 1; UPDATE t SET b = 'newer' WHERE id = 2; INSERT INTO t VALUES (4, 'newer', 'newer')"
    )
    assert run_sql(both.server, both.database, found["export"]).returncode == 0
    assert both.rows("t") == [
        (1, "newer", "y"),
        (2, "lost", "newer"),
        (3, "x", "y"),
        (4, "newer", "newer"),
        (5, "lost", "lost"),
    ]


STUDENTS = (
    "CREATE TABLE students (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name text);"
    "CREATE TABLE allergies (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, student_id int REFERENCES students, what text);"
    "INSERT INTO students (name) SELECT 'before' FROM generate_series(1, 100);"
    "INSERT INTO allergies (student_id, what) SELECT g, 'before' FROM generate_series(1, 9) g;"
)


def test_what_belongs_to_a_key_that_both_gave_out_is_not_attached_to_the_other_row(
    parted: Any, target: Any, tmp_path: Path
) -> None:
    both = parted(STUDENTS)
    both.since("INSERT INTO students (name) VALUES ('Bob'); UPDATE students SET name = 'renamed here' WHERE id = 5")
    both.lost(
        "INSERT INTO students (name) VALUES ('Alice'), ('Carol'); UPDATE students SET name = 'renamed there' WHERE id = 5;"
        "INSERT INTO allergies (student_id, what) VALUES (101, 'nuts of Alice'), (102, 'milk of Carol');"
        "UPDATE allergies SET student_id = 101 WHERE id = 1; UPDATE allergies SET what = 'changed' WHERE id IN (2, 5)"
    )
    found = look(target, export=str(tmp_path))
    assert figures(found["tables"]["public.students"]) == (1, 0, 0, 2)
    assert figures(found["tables"]["public.allergies"]) == (2, 3, 0, 0)
    done = run_sql(both.server, both.database, found["export"])
    assert done.returncode == 0, done.stderr
    allergies = both.rows("allergies")
    # Bob has the key that Alice had.
    assert [row for row in allergies if row[1] == 101] == []
    # What belongs to no such key comes back, and so does a row whose own reference did not change.
    assert (11, 102, "milk of Carol") in allergies
    assert [allergies[number] for number in (0, 1, 4)] == [(1, 1, "before"), (2, 2, "changed"), (5, 5, "changed")]
    assert found["held_back"] == found["tables"]["public.allergies"]["held_back"] == 2
    assert found["tables"]["public.students"]["held_back"] == 0
    summary = json.loads((Path(found["export"]) / "lost_writes.json").read_text())
    assert summary["held_back"] == 2
    shown = losses.lost_rows(both.database, {**found, "tables": list(found["tables"].values())})
    assert any("2 rows stand in it as comments" in line for line in shown)
    lines = (Path(found["export"]) / "lost_writes.sql").read_text(encoding="utf-8").splitlines()
    headings = [number for number, line in enumerate(lines) if "a key that both databases wrote" in line]
    assert [lines[number + 1].split(" ")[:2] for number in headings] == [["--", "INSERT"], ["--", "UPDATE"]]
    assert "nuts of Alice" in lines[headings[0] + 1]


def test_a_key_that_both_gave_out_holds_back_all_that_belongs_to_it(parted: Any, target: Any, tmp_path: Path) -> None:
    both = parted(
        STUDENTS + "ALTER TABLE students ADD friend int REFERENCES students, ADD code text UNIQUE;"
        "CREATE TABLE plans (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, code text REFERENCES students (code));"
        "CREATE TABLE doses (id int, plan int REFERENCES plans, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);"
        "CREATE TABLE doses_1 PARTITION OF doses FOR VALUES FROM (0) TO (1000);"
        "CREATE TABLE signatures (id int, dose int, at int, FOREIGN KEY (dose, at) REFERENCES doses);"
        "CREATE TABLE stays (id int PRIMARY KEY, student_id int REFERENCES students);"
        "CREATE TABLE meals (id int PRIMARY KEY, stay int REFERENCES stays)"
    )
    both.since("INSERT INTO students (name, code) VALUES ('Bob', 'c101'); INSERT INTO stays VALUES (2, 101)")
    both.lost(
        "INSERT INTO students (name, code) VALUES ('Alice', 'c101'), ('Carol', 'c102');"
        # A circle, of which one names Alice.
        "INSERT INTO students (id, friend) VALUES (201, NULL), (202, 201), (203, 101), (204, 102);"
        "UPDATE students SET friend = 202 WHERE id = 201; INSERT INTO allergies (student_id) VALUES (201), (203);"
        "INSERT INTO plans (id, code) VALUES (1, 'c101'), (2, 'c102'); INSERT INTO doses VALUES (1, 1, 5), (2, 2, 6);"
        "INSERT INTO signatures VALUES (1, 1, 5), (2, 2, 6);"
        # The same row on both sides, of another student each.
        "INSERT INTO stays VALUES (2, 101); INSERT INTO meals VALUES (2, 2)"
    )
    found = look(target, export=str(tmp_path))
    done = run_sql(both.server, both.database, found["export"])
    assert done.returncode == 0, done.stderr
    assert [row[0] for row in both.rows("students") if row[0] > 101] == [102, 201, 202, 204]
    assert [row[1] for row in both.rows("allergies")][9:] == [201]
    assert both.rows("plans") == [(2, "c102")]
    assert both.rows("doses") == [(2, 2, 6)]
    assert both.rows("signatures") == [(2, 2, 6)]
    assert both.rows("meals") == []
    held = {name: entry["held_back"] for name, entry in found["tables"].items() if entry["held_back"]}
    assert held == {
        "public.students": 1, "public.allergies": 1, "public.plans": 1, "public.doses_1": 1, "public.signatures": 1, "public.meals": 1
    }  # fmt: skip


def test_what_belongs_to_a_row_of_before_comes_back_also_where_its_own_parent_was_written_in_both(
    server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    fill(server, database, 20)
    server.execute(
        f"SET ROLE {OWNER}; CREATE TABLE doses (id int PRIMARY KEY, visit bigint REFERENCES visits)", database=database
    )
    backup = proved(target, tmp_path)
    server.execute(
        "UPDATE students SET note = 'there' WHERE id IN (1, 2); UPDATE visits SET price = 77 WHERE id = 2;"
        "INSERT INTO visits (student_id) VALUES (1); INSERT INTO doses VALUES (1, 1), (2, 2), (3, 21)",
        database=database,
    )
    roll_back(target, backup)
    server.execute("UPDATE students SET note = 'here' WHERE id IN (1, 2)", database=database)
    found = look(target, export=str(tmp_path / "out"))
    done = run_sql(server, database, found["export"])
    assert done.returncode == 0, done.stderr
    assert server.execute("SELECT * FROM doses ORDER BY 1", database=database) == [(1, 1), (2, 2)]
    assert server.execute("SELECT price FROM visits WHERE id = 2", database=database)[0][0] == 77
    assert found["held_back"] == 2


# -- a key that is given out between the export and the run ---------------------------------------------------------------

# What was lost and belongs to Alice, student 101; then what the live database did after the export.
LATER = {
    "a child": ("INSERT INTO allergies VALUES (10, 101, 'nuts of Alice')", "INSERT INTO students VALUES (101, 'Bob')"),
    "a child that was there": ("UPDATE allergies SET student_id = 101 WHERE id = 1", "INSERT INTO students VALUES (101, 'Bob')"),
    "a child without a key": ("INSERT INTO notes VALUES (101, 'of Alice')", "INSERT INTO students VALUES (101, 'Bob')"),
    "a child by another key": ("INSERT INTO plans VALUES (1, 'c101')", "INSERT INTO students VALUES (150, 'Bob', NULL, 'c101')"),
    "a child of its own table": ("INSERT INTO students VALUES (102, 'Carol', 101)", "INSERT INTO students VALUES (101, 'Bob')"),
    "a child of a child": (
        "INSERT INTO allergies VALUES (10, 101, 'nuts of Alice'); INSERT INTO doses VALUES (1, 10)",
        "INSERT INTO allergies VALUES (10, 5, 'milk of another')",
    ),
    "a child of a partition": ("INSERT INTO stays VALUES (1, 101); INSERT INTO meals VALUES (1, 1)", "INSERT INTO stays VALUES (1, 5)"),
}  # fmt: skip
WARD = (
    STUDENTS
    + "ALTER TABLE students ADD friend int REFERENCES students, ADD code text UNIQUE;"
    + "CREATE TABLE notes (student_id int REFERENCES students, what text);"
    + "CREATE TABLE plans (id int PRIMARY KEY, code text REFERENCES students (code));"
    + "CREATE TABLE doses (id int PRIMARY KEY, allergy int REFERENCES allergies);"
    + "CREATE TABLE stays (id int PRIMARY KEY, student_id int REFERENCES students) PARTITION BY RANGE (id);"
    + "CREATE TABLE stays_1 PARTITION OF stays FOR VALUES FROM (0) TO (1000);"
    + "CREATE TABLE meals (id int PRIMARY KEY, stay int REFERENCES stays);"
)
TABLES = ("students", "allergies", "notes", "plans", "doses", "stays", "meals")


@pytest.mark.few(4)
@pytest.mark.parametrize("case", LATER)
def test_what_belongs_to_a_key_that_was_given_out_after_the_export_ends_the_file(
    parted: Any, target: Any, tmp_path: Path, case: str
) -> None:
    both = parted(WARD)
    of_alice, since = LATER[case]
    both.lost(f"INSERT INTO students VALUES (101, 'Alice', NULL, 'c101'); {of_alice}")
    found = look(target, export=str(tmp_path))
    assert found["held_back"] == 0
    both.since(since)
    before = {table: both.rows(table) for table in TABLES}
    done = run_sql(both.server, both.database, found["export"])
    assert done.returncode == 3
    assert re.search(
        r"ERROR: +a row of public\.\w+ \(\w+\) = \(\w+\) belongs to public\.\w+ \(\w+\) = \(\w+\), which ", done.stderr
    )
    assert "nothing of this file was done" in done.stderr
    assert f"lost_writes_kept={both.kept}" in done.stderr
    assert {table: both.rows(table) for table in TABLES} == before
    # The next export holds it apart, and the rest comes in.
    again = look(target, export=str(tmp_path / "again"))
    if case != "a child by another key":
        assert again["held_back"] > 0
        done = run_sql(both.server, both.database, again["export"])
        assert done.returncode == 0, done.stderr


def test_a_key_that_is_given_out_while_the_file_runs_ends_it(parted: Any, target: Any, tmp_path: Path) -> None:
    both = parted(WARD)
    both.lost("INSERT INTO students VALUES (101, 'Alice'); INSERT INTO allergies VALUES (10, 101, 'nuts of Alice')")
    found = look(target, export=str(tmp_path))
    with closing(both.server.connect(both.database)) as bob, ThreadPoolExecutor(1) as pool:
        bob.autocommit = False
        bob.cursor().execute("INSERT INTO students VALUES (101, 'Bob')")
        running = pool.submit(run_sql, both.server, both.database, found["export"])
        for _ in range(600):
            waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'psql'"
            if both.server.execute(waits):
                break
            time.sleep(0.1)  # until the file stands before his row
        bob.commit()
        done = running.result()
    assert done.returncode == 3
    assert "could not serialize access" in done.stderr
    assert [row[1] for row in both.rows("students") if row[0] == 101] == ["Bob"]
    assert [row for row in both.rows("allergies") if row[1] == 101] == []


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_the_file_does_nothing_twice_also_where_its_rows_were_changed_since(
    parted: Any, target: Any, tmp_path: Path
) -> None:
    both = parted(
        WARD
        + "CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.name := NEW.name || '!'; RETURN NEW; END$$;"
    )
    both.since("CREATE TRIGGER mark BEFORE INSERT ON students FOR EACH ROW EXECUTE FUNCTION mark()")
    both.lost(
        "INSERT INTO students VALUES (101, 'Alice', NULL, 'c101'), (102, 'Carol', 101, NULL); UPDATE allergies SET student_id = 101 WHERE id = 1;"
        "INSERT INTO allergies VALUES (10, 101, 'nuts'), (11, 102, 'milk'); INSERT INTO notes VALUES (101, 'x'), (101, 'x');"
        "INSERT INTO plans VALUES (1, 'c101'); INSERT INTO stays VALUES (1, 101); INSERT INTO meals VALUES (1, 1)"
    )
    found = look(target, export=str(tmp_path))
    for _ in range(2):
        done = run_sql(both.server, both.database, found["export"])
        assert done.returncode == 0, done.stderr
        assert [row[1] for row in both.rows("students") if row[0] > 100] == ["Alice!", "Carol!"]
        assert [row[1] for row in both.rows("allergies") if row[0] in (1, 10, 11)] == [101, 101, 102]
        assert both.rows("notes") == [(101, "x"), (101, "x")]
        both.since("UPDATE students SET friend = 5 WHERE id = 101")


ODD_NAMES = ["50%", "%s %(x)s", 'a "quote" it\'s', "Ärzte 漢", "a\\b :c", "$pgops$"]


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_can_be_compared_exported_and_counted(parted: Any, target: Any, tmp_path: Path, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    both = parted(
        f"CREATE SCHEMA {quoted}; CREATE TABLE {quoted}.{quoted} ({quoted} int PRIMARY KEY, other text);"
        f"CREATE TABLE {quoted}.child (id int PRIMARY KEY, {quoted} int REFERENCES {quoted}.{quoted});"
        f"INSERT INTO {quoted}.{quoted} VALUES (1, 'x')"
    )
    both.lost(
        f"INSERT INTO {quoted}.{quoted} VALUES (2, 'y'); INSERT INTO {quoted}.child VALUES (1, 2);"
        f"UPDATE {quoted}.{quoted} SET other = 'z' WHERE {quoted} = 1"
    )
    found = look(target, export=str(tmp_path))
    assert found["rows"]["inserted"] == 2
    assert found["rows"]["updated"] == 1
    done = run_sql(both.server, both.database, found["export"])
    assert done.returncode == 0, done.stderr
    assert look(target)["tables"] == {}
    assert lost_writes.written_since(target, 1, application_name="test")["rows_written"] == 3


def test_a_statement_that_fails_leaves_nothing_of_the_file(parted: Any, target: Any, tmp_path: Path) -> None:
    both = parted("CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE u (id int PRIMARY KEY, a text)")
    both.lost("INSERT INTO t VALUES (1, 'x'); INSERT INTO u VALUES (1, 'x')")
    found = look(target, export=str(tmp_path))
    both.since("ALTER TABLE u ADD CHECK (a <> 'x')")
    assert run_sql(both.server, both.database, found["export"]).returncode == 3
    assert both.rows("t") == []


def test_only_the_user_may_read_what_is_exported_and_no_part_of_it_bears_its_name(
    parted: Any, target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = parted("CREATE TABLE t (id int PRIMARY KEY, a text)")
    both.lost(f"INSERT INTO t VALUES (1, '{PATIENT}')")
    out = tmp_path / "made for it"
    folder = Path(look(target, export=str(out))["export"])
    assert {stat.S_IMODE(path.stat().st_mode) for path in (out, folder)} == {0o700}
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["001_public.t.inserted.csv", "lost_writes.json", "lost_writes.sql"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    summary = (folder / "lost_writes.json").read_text()
    assert PATIENT not in summary
    assert json.loads(summary)["rows"]["inserted"] == 1
    # Nothing lost, nothing made.
    both.lost("TRUNCATE t")
    assert look(target, export=str(tmp_path / "none"))["export"] is None
    assert list((tmp_path / "none").iterdir()) == []


def test_where_backups_are_encrypted_no_row_is_ever_plain_on_the_disk(
    parted: Any, target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [age_key(tmp_path), age_key(tmp_path, "second")]
    both = parted(
        "CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u SELECT generate_series(1, 9)"
    )
    # More than one read of the rows, and more than a pipe holds.
    both.lost(f"INSERT INTO t SELECT g, repeat('{PATIENT}', 20) FROM generate_series(1, 1200) g; DELETE FROM u")
    opened: list[str] = []
    real = os.open

    def seen(path: Any, flags: int, *mode: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            opened.append(Path(path).name)
        return real(path, flags, *mode, **named)

    monkeypatch.setattr(os, "open", seen)
    folder = Path(look(target, export=str(tmp_path / "out"), encrypt_to=[key.public for key in keys])["export"])
    rows = {"001_public.t.inserted.csv.age", "002_public.u.deleted.csv.age", "lost_writes.sql.age"}
    assert {path.name for path in folder.iterdir()} == {*rows, "lost_writes.json"}
    assert set(opened) == {*rows, "lost_writes.json", "0.places", "1.places"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert not [path.name for path in folder.iterdir() if PATIENT.encode() in path.read_bytes()]
    assert set(json.loads((folder / "lost_writes.json").read_text())["files"]) == {*rows, "lost_writes.json"}
    table = encryption.decrypt(str(folder / "001_public.t.inserted.csv.age"), keys[0].identity).decode()
    header, *found = [row[0] for row in csv.reader(table.splitlines())]
    assert (header, sorted(int(value) for value in found)) == ("id", list(range(1, 1201)))
    # Each recipient alone brings the rows back, and needs no plain file for it.
    statements = encryption.decrypt(str(folder / "lost_writes.sql.age"), keys[1].identity)
    assert f"age -d -i KEY lost_writes.sql.age | psql -X -v ON_ERROR_STOP=1 {both.database}" in statements.decode()
    (tmp_path / "lost_writes.sql").write_bytes(statements)
    assert run_sql(both.server, both.database, str(tmp_path)).returncode == 0
    assert both.server.execute("SELECT count(*) FROM t", database=both.database) == [(1200,)]


def test_an_export_that_cannot_be_encrypted_is_refused_before_anything_is_read(
    parted: Any, target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parted("CREATE TABLE t (id int PRIMARY KEY)")
    for recipients, told in (
        (["age1x"], "Recipient 1 of backup_encrypt_to"),
        (["AGE-SECRET-KEY-1X"], "is a private key"),
    ):
        with pytest.raises(PgopsError, match=told):
            look(target, export=str(tmp_path / "out"), encrypt_to=recipients)
    monkeypatch.setattr(encryption, "TOOL", "no-such-age")
    with pytest.raises(PgopsError, match="There is no no-such-age"):
        lost_comparison.refuse_unable(str(tmp_path / "out"), [age_key(tmp_path, "first").public])
    with pytest.raises(PgopsError, match="There is no no-such-age"):
        look(target, export=str(tmp_path / "out"), encrypt_to=[age_key(tmp_path).public])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["a full disk", "age dies"])
def test_an_encrypted_export_that_breaks_off_leaves_no_folder(
    parted: Any, target: Any, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    both = parted("CREATE TABLE t (id int PRIMARY KEY, a text)")
    both.lost("INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 3000) g")
    key = age_key(tmp_path)
    if way == "age dies":
        real = encryption.encrypting

        def killed(*arguments: Any, **named: Any) -> Any:
            process = real(*arguments, **named)
            os.kill(process.process_id, signal.SIGKILL)
            return process

        monkeypatch.setattr(encryption, "encrypting", killed)
    told = "No space left on device; nothing of it was kept" if way == "a full disk" else "killed by signal 9"
    with pytest.raises(PgopsError, match=told):
        look(target, export=str(small_disk), encrypt_to=[key.public])
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_leaves_no_folder_and_says_what_to_do(parted: Any, target: Any, small_disk: Path) -> None:
    both = parted("CREATE TABLE t (id int PRIMARY KEY, a text)")
    both.lost("INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 3000) g")
    with pytest.raises(PgopsError, match="No space left on device; nothing of it was kept") as caught:
        look(target, export=str(small_disk))
    assert "lost_writes.yml" in str(caught.value.hint)
    assert list(small_disk.iterdir()) == []


def test_what_a_killed_export_left_goes_with_the_next_one_and_one_that_runs_stays(
    parted: Any, target: Any, tmp_path: Path
) -> None:
    both = parted("CREATE TABLE t (id int PRIMARY KEY, a text)")
    both.lost("INSERT INTO t VALUES (1, 'x')")
    dead, alive = (tmp_path / f"{both.kept}_20261122_12000{n}.partial" for n in (1, 2))
    dead.mkdir()
    (dead / "x.csv").write_text("a row")
    alive.mkdir()
    descriptor = os.open(alive, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    look(target, export=str(tmp_path))
    os.close(descriptor)
    assert not dead.exists()
    assert alive.exists()


# -- guards -------------------------------------------------------------------------------------------------------------


def test_both_are_only_read_and_the_kept_one_lets_nobody_in_afterwards(parted: Any, target: Any, server: Any) -> None:
    both = parted("CREATE TABLE t (id int PRIMARY KEY, a text)")
    both.lost("INSERT INTO t VALUES (1, 'x')")
    server.execute(f'ALTER DATABASE "{both.kept}" ALLOW_CONNECTIONS false')
    seen: list[bool] = []

    class Looking:
        def emit(self, *_: Any, **__: Any) -> None:
            seen.append(server.execute(f"SELECT datallowconn FROM pg_database WHERE datname = '{both.kept}'")[0][0])

    assert figures(look(target, progress=Looking())["tables"]["public.t"]) == (1, 0, 0, 0)
    assert seen and not any(seen)
    with pytest.raises(psycopg2.OperationalError, match="not currently accepting"):
        server.connect(both.kept)


def test_what_cannot_be_compared_is_refused_by_name(parted: Any, target: Any, server: Any, tmp_path: Path) -> None:
    both = parted("CREATE TABLE t (id int PRIMARY KEY, a text)")
    with pytest.raises(PgopsError, match="postgres is no database that a swap of") as caught:
        look(target, "postgres")
    assert both.kept in str(caught.value.hint)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(PgopsError, match="cannot be exported below .*nothing was read"):
        look(target, export=str(file))
    with closing(server.connect()) as conn:
        assert database_marks.try_lock(conn, f"swap {both.database}")
        with pytest.raises(PgopsError, match="A swap of .* is running, .*nothing was read"):
            look(target)
    both.lost("ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY")
    with pytest.raises(PgopsError, match="row-level security would hide rows of public.t"):
        look(target.with_(restore_user=MIGRATOR))


def test_without_a_kept_database_it_says_so(target: Any) -> None:
    with pytest.raises(PgopsError, match="No swap has put a database aside"):
        look(target)


def test_an_interrupt_ends_it(parted: Any, target: Any) -> None:
    parted("CREATE TABLE t (id int PRIMARY KEY, a text)")
    control = Control(None)
    control.request("somebody said so")
    with pytest.raises(Interrupted):
        look(target, control=control)


# -- the playbooks ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_rollback_ends_with_what_it_lost_and_days_later_it_can_be_exported(
    playbook: Any, server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    fill(server, database, 50)
    write_ledger(target)
    playbook.variables["pgops_phases"] = []
    shutil.rmtree(playbook.copy_sql() / "migrations")
    (playbook.folder / "sql" / "migrations").mkdir()
    backup = proved(target, playbook.backups)
    server.execute(
        f"INSERT INTO students (name) VALUES ('{PATIENT}'); DELETE FROM visits WHERE id = 1", database=database
    )
    done = playbook(
        "rollback.yml", rollback_strategy="restore", rollback_backup=backup.path, rollback_confirm=database,
        rollback_export_writes=str(tmp_path / "out"),
    )  # fmt: skip
    assert done.rc == 0, done.output
    found = done.json["hosts"]["local-1"][database]["lost_writes"]
    assert found["rows"]["inserted"] == found["rows"]["deleted"] == 1
    assert {entry["table"]: entry["rows_written"] for entry in found["estimate"]}["public.students"] == 1
    assert re.search(r"public\.students +1 +0 +0 +0 +0 +1 written, 0 changed or deleted", done.output), done.output
    assert f"{database}: exported to {found['export']}" in done.output
    assert PATIENT not in done.output + json.dumps(done.json)
    assert PATIENT in (Path(found["export"]) / "lost_writes.sql").read_text()
    shown = playbook("lost_writes.yml", "--check", lost_writes_export=str(tmp_path / "later"))
    assert shown.rc == 0, shown.output
    assert f"would be compared with {found['kept']}" in shown.output
    again = playbook("lost_writes.yml")
    assert again.rc == 0, again.output
    assert "changed=0" in again.output
    assert f"lost_writes.yml -l local -e lost_writes_kept={found['kept']} -e lost_writes_export=PATH" in again.output
    assert not (tmp_path / "later").exists()
    later = playbook("lost_writes.yml", lost_writes_kept=found["kept"], lost_writes_export=str(tmp_path / "later"))
    folder = later.json["hosts"]["local-1"][database]["lost_writes"]["export"]
    assert run_sql(server, database, folder).returncode == 0
    left = playbook("lost_writes.yml").json["hosts"]["local-1"][database]["lost_writes"]
    assert left["rows"] == {"inserted": 0, "updated": 0, "deleted": 1, "both": 0, "application": 1, "versions": 0}


def test_lost_writes_yml_encrypts_to_whom_backups_are_encrypted(playbook: Any, parted: Any, tmp_path: Path) -> None:
    both = parted("CREATE TABLE t (id int PRIMARY KEY, a text)")
    both.lost(f"INSERT INTO t VALUES (1, '{PATIENT}')")
    key = age_key(tmp_path)
    done = playbook("lost_writes.yml", lost_writes_export=str(tmp_path / "out"), backup_encrypt_to=[key.public])
    assert done.rc == 0, done.output
    (folder,) = (tmp_path / "out").iterdir()
    assert f"exported to {folder}; read lost_writes.sql.age there before you run it" in done.output
    assert PATIENT in encryption.decrypt(str(folder / "lost_writes.sql.age"), key.identity).decode()
    assert not [path for path in folder.iterdir() if PATIENT.encode() in path.read_bytes()]
    secret = key.file.read_text(encoding="ascii").splitlines()[-1]
    refused = playbook("lost_writes.yml", lost_writes_export=str(tmp_path / "out"), backup_encrypt_to=[secret])
    assert refused.rc == 2
    assert secret not in refused.output


def test_lost_writes_yml_refuses_in_one_sentence(playbook: Any, database: str) -> None:
    result = playbook("lost_writes.yml", lost_writes_kept="elsewhere")
    assert result.rc == 2
    assert f"elsewhere is no database that a swap of {database} has put aside; nothing was read." in result.output
    assert "Traceback" not in result.output
