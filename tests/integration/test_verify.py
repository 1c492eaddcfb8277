# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verify: each check sees its fault, names object, expected and found, and a clean database passes."""

from __future__ import annotations

import secrets
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    catalog,
    connection,
    content,
    integrity,
    ledger,
    migrate,
    plan,
    private_store,
    remembered_schema,
    scratch,
)
from ansible_collections.whitecross.pgops.plugins.module_utils import verify as verification
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_tree
from ansible_collections.whitecross.pgops.plugins.plugin_utils.verification import screen
from support.engine import Told, target_of
from support.server import APP, OWNER, RESTORE, Server

MAJORS = (15, 16, 17, 18)
HEADER = "-- SPDX-License-Identifier: GPL-3.0-or-later\n-- Copyright (c) 2026 White Cross pgops contributors\n\n"

UP = """
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE TABLE school (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE student (
    id integer PRIMARY KEY,
    school_id integer NOT NULL,
    status varchar(10) DEFAULT 'here' CONSTRAINT status_known CHECK (status IN ('here', 'gone')),
    mood mood,
    CONSTRAINT student_school FOREIGN KEY (school_id) REFERENCES school
);
CREATE INDEX student_school_idx ON student (school_id);
CREATE VIEW here AS SELECT id FROM student WHERE status IN ('here');
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER student_touch BEFORE UPDATE ON student FOR EACH ROW EXECUTE FUNCTION touch();
"""
DOWN = """
DROP VIEW here;
DROP TABLE student;
DROP TABLE school;
DROP FUNCTION touch();
DROP TYPE mood;
"""
VERIFY = """
SELECT 'school ' || id AS object, 'a name' AS expected, 'none' AS found FROM school WHERE name = '';
"""


def write_migration(tree: Path, version: str, name: str, **files: str) -> None:
    folder = tree / "migrations" / f"{version}_{name}"
    folder.mkdir(parents=True)
    for file, text in files.items():
        if file == "migration":
            head = HEADER.replace("--", "#")
            (folder / "migration.yml").write_text("---\n" + head + textwrap.dedent(text), encoding="utf-8")
        else:
            (folder / f"{file}.sql.j2").write_text(HEADER + text, encoding="utf-8")


def write_tree(tree: Path) -> Path:
    write_migration(
        tree, "20250101000000", "make_it",
        migration="""
            title: Make it
            why: The tests need something.
            risk: low
            phi: false
            phase: core
            rollback: {safety: complete}
            steps:
              - sql: {up: up.sql.j2, down: down.sql.j2}
        """,
        up=UP, down=DOWN, verify=VERIFY,
    )  # fmt: skip
    return tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path)


def apply_tree(target: Any, tree: Path) -> None:
    migrations = migration_tree.render(migration_tree.read_tree(tree))
    migrate.apply(target, migrations, plan.Selection(), migrate.Way(run=migrate.run_of("test", {}, target.database)))


@pytest.fixture(scope="session")
def applied_once(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A migrated database that the others of this server are copied from."""
    name = f"t_verify_{secrets.token_hex(4)}"
    server.create_database(name)
    apply_tree(target_of(server, name), write_tree(tmp_path_factory.mktemp("sql")))
    yield name
    server.drop_databases(name)


@pytest.fixture
def applied(server: Server, applied_once: str) -> Iterator[connection.Target]:
    name = f"t_{secrets.token_hex(4)}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {applied_once} OWNER {OWNER}")
    yield target_of(server, name)
    server.drop_databases(name)


@pytest.fixture
def change(server: Server, applied: Any) -> Callable[[str], None]:
    return lambda statement: server.execute(statement, database=applied.database) and None


def verify(target: Any, **options: Any) -> dict[str, Any]:
    """The result of one database, also where it did not pass."""
    try:
        return verification.verify({target.database: target}, **options)[target.database]
    except PgopsError as error:
        return error.extra["databases"][target.database]


def told(result: dict[str, Any], level: str = "fail") -> list[tuple[Any, ...]]:
    return [
        (finding["check"], finding["object"], finding["attribute"], finding["expected"], finding["found"])
        for finding in result["findings"]
        if finding["level"] == level
    ]


@pytest.fixture(autouse=True)
def no_scratch_is_left(server: Server) -> Iterator[None]:
    yield
    assert server.execute("SELECT datname FROM pg_database WHERE datname LIKE 'pgops\\_verify\\_%'") == []


@pytest.mark.majors(*MAJORS)
def test_a_database_that_is_as_declared_passes(server: Server, applied: Any) -> None:
    result = verify(applied)
    assert result["findings"] == []
    assert result["passed"]
    assert result["versions"] == ["20250101000000"]
    assert {"kind": "enum", "object": "public.mood", "passed": True} in result["lines"]
    assert {"kind": "table", "object": "public.student", "passed": True} in result["lines"]
    assert {"kind": "index", "object": "public.student_school_idx", "passed": True} in result["lines"]
    assert {"kind": "constraint", "object": "public.student.student_school", "passed": True} in result["lines"]


SCHEMA_FAULTS: list[tuple[str, str, Any, Any, Any]] = [
    ("ALTER TABLE student DROP COLUMN mood", "column public.student.mood", None, "present", "missing"),
    ("ALTER TABLE school ALTER name DROP NOT NULL", "column public.school.name", "not_null", True, False),
    ("ALTER TABLE school ALTER name TYPE varchar(9)", "column public.school.name", "type", "text",
     "character varying(9)"),
    ("ALTER TABLE student ALTER status SET DEFAULT 'gone'", "column public.student.status", "default",
     "'here'::character varying", "'gone'::character varying"),
    ("ALTER TYPE mood ADD VALUE 'odd'", "type public.mood", "labels", ["glad", "sad"], ["glad", "sad", "odd"]),
    ("DROP INDEX student_school_idx; CREATE INDEX student_school_idx ON student (school_id, id)",
     "index public.student_school_idx", "definition",
     "CREATE INDEX student_school_idx ON public.student USING btree (school_id)",
     "CREATE INDEX student_school_idx ON public.student USING btree (school_id, id)"),
    ("ALTER TABLE student DROP CONSTRAINT student_school", "constraint public.student.student_school", None,
     "present", "missing"),
    ("DROP VIEW here", "view public.here", None, "present", "missing"),
    ("DROP TRIGGER student_touch ON student", "trigger public.student.student_touch", None, "present", "missing"),
    ("ALTER TABLE student ENABLE ROW LEVEL SECURITY", "table public.student", "row_security", False, True),
]  # fmt: skip


@pytest.fixture(scope="session")
def drifted(server: Server, applied_once: str) -> Iterator[dict[str, Any]]:
    """The verification of a database with all the faults at once."""
    name = f"t_{secrets.token_hex(4)}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {applied_once} OWNER {OWNER}")
    for statement, *_ in SCHEMA_FAULTS:
        server.execute(statement, database=name)
    yield verify(target_of(server, name))
    server.drop_databases(name)


@pytest.mark.parametrize(
    ("statement", "name", "attribute", "expected", "found"),
    SCHEMA_FAULTS,
    ids=[fault[0][:40] for fault in SCHEMA_FAULTS],
)
def test_drift_fails_and_names_object_expected_and_found(
    drifted: dict[str, Any], statement: str, name: str, attribute: Any, expected: Any, found: Any
) -> None:
    assert ("schema", name, attribute, expected, found) in told(drifted)


def test_drift_fails_the_line_of_its_object_and_no_other(drifted: dict[str, Any]) -> None:
    assert not drifted["passed"]
    assert len([finding for finding in told(drifted) if finding[0] == "schema"]) == len(SCHEMA_FAULTS)
    assert {line["object"] for line in drifted["lines"] if not line["passed"]} == {
        "public.student", "public.school", "public.mood", "public.student_school_idx", "public.student.student_school",
        "public.here", "public.student.student_touch",
    }  # fmt: skip


def test_a_missing_table_is_told_once_and_not_by_its_parts(applied: Any, change: Callable[[str], None]) -> None:
    change("DROP VIEW here; DROP TABLE student")
    assert [finding[1] for finding in told(verify(applied))] == ["table public.student", "view public.here"]


def test_what_nobody_declared_is_told_and_does_not_fail(applied: Any, change: Callable[[str], None]) -> None:
    change(
        "CREATE TABLE stranger (id int PRIMARY KEY); CREATE INDEX own_idx ON student (status);"
        "ALTER TABLE student ADD extra int, ADD CONSTRAINT odd CHECK (extra > 0);"
        "CREATE TRIGGER more BEFORE INSERT ON student FOR EACH ROW EXECUTE FUNCTION touch()"
    )
    result = verify(applied)
    assert result["passed"]
    assert {finding[1] for finding in told(result, "warn")} == {
        "column public.student.extra", "constraint public.student.odd", "trigger public.student.more",
    }  # fmt: skip
    assert {finding[1] for finding in told(result, "notice")} == {
        "table public.stranger", "constraint public.stranger.stranger_pkey", "index public.own_idx",
    }  # fmt: skip


def test_what_refuses_writes_to_a_declared_table_from_beside_it_is_a_warning(
    applied: Any, change: Callable[[str], None]
) -> None:
    change(
        'CREATE SCHEMA "Odd"; CREATE TABLE "Odd"."Stray" (id int PRIMARY KEY REFERENCES school);'
        "CREATE UNIQUE INDEX stray_unique ON school (name); CREATE INDEX plain_idx ON school (name);"
        'CREATE UNIQUE INDEX own_unique ON "Odd"."Stray" (id, id);'
        'CREATE TABLE other (id int PRIMARY KEY REFERENCES "Odd"."Stray")'
    )
    result = verify(applied)
    assert result["passed"]
    # The one refuses an INSERT into school, the other a DELETE from it.
    assert {finding[1] for finding in told(result, "warn")} == {
        'constraint "Odd"."Stray"."Stray_id_fkey"', "index public.stray_unique",
    }  # fmt: skip
    assert {"index public.plain_idx", 'index "Odd".own_unique', "constraint public.other.other_id_fkey"} <= {
        finding[1] for finding in told(result, "notice")
    }


def test_tuning_is_a_warning(applied: Any, change: Callable[[str], None]) -> None:
    change("ALTER TABLE student SET (fillfactor = 70); ALTER TABLE student ALTER status SET STATISTICS 500")
    result = verify(applied)
    assert result["passed"]
    assert {finding[1:3] for finding in told(result, "warn")} == {
        ("table public.student", "options"), ("column public.student.status", "statistics"),
    }  # fmt: skip


def test_progress_tells_the_migrations_that_run_again(
    applied: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is remembered: they do run.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    progress = Told()
    assert verify(applied, progress=progress)["passed"]
    name = applied.database
    again = {"database": name, "done": 1, "total": 1, "unit": "versions"}
    assert {"text": "running the applied migrations again, to compare the schema", **again} in progress.events
    assert {"text": "comparing the schema with that of the migrations", "database": name} in progress.events
    # And the scan of the keys does not stand there when it is over.
    beside = [text for text in progress.texts if text.startswith(("rows without", "named checks"))]
    assert beside == ["rows without a parent", "named checks, invalid indexes and numbers of rows"]


def test_owner_and_privileges_of_tables_and_views_are_not_compared(applied: Any, change: Callable[[str], None]) -> None:
    change("GRANT SELECT ON student TO white_cross_app; ALTER VIEW here OWNER TO postgres")
    assert verify(applied)["findings"] == []


def test_a_check_that_prints_differently_after_a_restore_is_no_drift(
    applied: Any, change: Callable[[str], None]
) -> None:
    change(
        "ALTER TABLE student DROP CONSTRAINT status_known, ADD CONSTRAINT status_known CHECK "
        "(status::text = ANY (ARRAY['here'::varchar::text, 'gone'::varchar::text]))"
    )
    assert verify(applied)["findings"] == []


def test_a_row_of_a_versions_own_verification_is_a_difference(applied: Any, change: Callable[[str], None]) -> None:
    change("INSERT INTO school VALUES (7, '')")
    assert told(verify(applied)) == [("verify of 20250101000000", "school 7", None, "a name", "none")]


def test_a_verification_that_fails_or_answers_otherwise_is_told_with_its_place(
    server: Server, target: Any, tree: Path
) -> None:
    folder = tree / "migrations" / "20250101000000_make_it"
    (folder / "verify.sql.j2").write_text(
        HEADER + "SELECT 1 / (SELECT count(*) FROM school) AS object, 1 AS expected, 2 AS found;\nSELECT 1;\n"
        "WITH gone AS (DELETE FROM school RETURNING 1) SELECT 1, 2, 3 FROM gone;\n",
        encoding="utf-8",
    )
    apply_tree(target, tree)
    findings = told(verify(target))
    assert [(finding[1].rpartition("/")[2], finding[2]) for finding in findings] == [
        ("verify.sql.j2:4", "statement"), ("verify.sql.j2:5", "columns"), ("verify.sql.j2:6", "statement"),
    ]  # fmt: skip
    assert "22012" in findings[0][4]
    assert "25006" in findings[2][4]


@pytest.mark.majors(15, 18)
def test_rows_without_a_parent_are_counted_behind_a_constraint_that_says_it_is_valid(
    server: Server, applied: Any, change: Callable[[str], None]
) -> None:
    change("ALTER TABLE student DISABLE TRIGGER ALL; INSERT INTO student SELECT i, 99 FROM generate_series(1, 12) i")
    change("ALTER TABLE student ENABLE TRIGGER ALL")
    result = verify(applied)
    assert told(result) == [
        (
            "orphans",
            "constraint public.student.student_school",
            "public.student (school_id) to public.school (id)",
            "0 rows without a parent",
            "12 (key 1, 10, 11, 12, 2, 3, 4, 5, 6, 7, ...)",
        )
    ]
    key = next(key for key in result["foreign_keys"] if key["table"] == "public.student")
    assert (key["orphans"], len(key["ids"]), key["validated"]) == (12, 10, True)


def test_a_foreign_key_without_an_index_is_missing_it(applied: Any, change: Callable[[str], None]) -> None:
    change("CREATE TABLE note (id int PRIMARY KEY, a int REFERENCES school, b int REFERENCES school)")
    change("CREATE INDEX note_ab ON note (id, a); CREATE INDEX note_a ON note (a) WHERE id > 5")
    change("CREATE INDEX note_b ON note (b) WHERE b IS NOT NULL")
    result = verify(applied)
    assert told(result) == [
        ("foreign key index", "constraint public.note.note_a_fkey", None, "index on (a)", "MISSING")
    ]
    assert [found["declared"] for found in result["findings"] if found["level"] == "fail"] == [False]
    change("DROP INDEX student_school_idx")
    own = {found["object"]: found["declared"] for found in verify(applied)["findings"] if found["level"] == "fail"}
    assert own["constraint public.student.student_school"] is True
    assert own["constraint public.note.note_a_fkey"] is False


def test_an_index_may_lead_with_the_columns_in_another_order(server: Server, database: str, target: Any) -> None:
    server.execute(
        "CREATE TABLE p (a int, b int, PRIMARY KEY (a, b)); CREATE TABLE c (x int, y int, z int,"
        " FOREIGN KEY (x, y) REFERENCES p); CREATE INDEX c_yx ON c (y, x, z)",
        database=database,
    )
    with server.session(database) as conn:
        key = integrity.foreign_keys(conn, control=Control(), progress=verification.Progress(), database=database)[0]
    assert key.indexed


def test_an_invalid_index_fails(applied: Any, change: Callable[[str], None]) -> None:
    change("CREATE INDEX broken ON student (mood); UPDATE pg_index SET indisvalid = false"
           " WHERE indexrelid = 'broken'::regclass")  # fmt: skip
    result = verify(applied)
    assert told(result) == [("invalid index", "index public.broken", "valid", "valid", "invalid")]
    assert [found["declared"] for found in result["findings"] if found["level"] == "fail"] == [False]
    change("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'student_school_idx'::regclass")
    failed = told(verify(applied))
    assert ("schema", "index public.student_school_idx", "valid", True, False) in failed
    assert sum(finding[1] == "index public.student_school_idx" for finding in failed) == 1


@pytest.mark.majors(15, 18)
def test_a_constraint_that_was_never_validated_fails(
    server: Server, applied: Any, change: Callable[[str], None]
) -> None:
    change("ALTER TABLE student ADD CONSTRAINT late CHECK (id > 0) NOT VALID")
    assert told(verify(applied)) == [
        ("constraint", "constraint public.student.late", "validated", "validated", "not validated")
    ]
    change("ALTER TABLE student DROP CONSTRAINT late")
    if server.major >= 18:
        change("ALTER TABLE student ADD CONSTRAINT n NOT NULL mood NOT VALID")
        assert ("schema", "column public.student.mood", "not_null", False, "not valid") in told(verify(applied))
        change("ALTER TABLE student DROP CONSTRAINT n, ADD CONSTRAINT e CHECK (id > 0) NOT ENFORCED")
        assert ("constraint", "constraint public.student.e", "enforced", "enforced", "not enforced") in told(
            verify(applied)
        )


@pytest.mark.majors(15, 18)
def test_a_disabled_trigger_fails_also_that_of_a_foreign_key(applied: Any, change: Callable[[str], None]) -> None:
    change("ALTER TABLE student DISABLE TRIGGER student_touch")
    assert told(verify(applied)) == [
        ("schema", "trigger public.student.student_touch", "enabled", "origin", "disabled")
    ]
    change("ALTER TABLE student ENABLE TRIGGER student_touch; ALTER TABLE school DISABLE TRIGGER ALL")
    assert told(verify(applied)) == [
        ("schema", "constraint public.student.student_school", "triggers", ["O"], ["D", "O"])
    ]
    change("ALTER TABLE school ENABLE TRIGGER ALL; CREATE TABLE own (id int); CREATE TRIGGER t BEFORE UPDATE ON own"
           " EXECUTE FUNCTION touch(); ALTER TABLE own DISABLE TRIGGER t")  # fmt: skip
    assert told(verify(applied)) == [("trigger", "trigger public.own.t", "enabled", "enabled", "disabled")]


def test_what_a_migration_declares_not_valid_or_disabled_is_a_notice(server: Server, target: Any, tree: Path) -> None:
    folder = tree / "migrations" / "20250101000000_make_it"
    with (folder / "up.sql.j2").open("a", encoding="utf-8") as stream:
        stream.write("ALTER TABLE student ADD CONSTRAINT late CHECK (id > 0) NOT VALID;\n")
        stream.write("ALTER TABLE student DISABLE TRIGGER student_touch;\n")
    apply_tree(target, tree)
    result = verify(target)
    assert result["passed"]
    assert [finding[1] for finding in told(result, "notice")] == [
        "constraint public.student.late", "trigger public.student.student_touch",
    ]  # fmt: skip


def test_a_version_between_two_states_fails(server: Server, applied: Any, change: Callable[[str], None]) -> None:
    change("UPDATE pgops.migration SET state = 'failed', failed_step = 2")
    result = verify(applied)
    assert told(result) == [("ledger", "version 20250101000000", "state", "applied", "failed at step 2")]
    assert not result["passed"]


def test_a_database_without_a_ledger_is_looked_at_in_itself(server: Server, database: str, target: Any) -> None:
    server.execute("CREATE TABLE p (a int PRIMARY KEY); CREATE TABLE c (a int REFERENCES p)", database=database)
    result = verify(target)
    assert told(result, "notice") == [("schema", f"database {database}", None, "applied versions", "none")]
    assert [finding[0] for finding in told(result)] == ["foreign key index"]


def test_a_key_behind_a_policy_is_never_counted_as_sound(
    server: Server, applied: Any, change: Callable[[str], None]
) -> None:
    change("ALTER TABLE student FORCE ROW LEVEL SECURITY; ALTER TABLE student ENABLE ROW LEVEL SECURITY")
    change("GRANT SELECT ON ALL TABLES IN SCHEMA public TO white_cross_app")
    findings = {finding[1]: finding for finding in told(verify(applied.with_(backup_user=APP), compare_schema=False))}
    check, _name, _attribute, expected, found = findings["constraint public.student.student_school"]
    assert (check, expected) == ("orphans", "every row readable")
    assert "row-level security" in found


@pytest.mark.majors(15, 18)
def test_keys_of_every_shape(server: Server, database: str) -> None:
    server.execute(
        """
        CREATE TABLE p (a int, b int, PRIMARY KEY (a, b)); INSERT INTO p VALUES (1, 1);
        CREATE TABLE simple (x int, y int, CONSTRAINT k FOREIGN KEY (x, y) REFERENCES p);
        CREATE TABLE wholly (x int, y int, CONSTRAINT k FOREIGN KEY (x, y) REFERENCES p MATCH FULL);
        CREATE TABLE parted (id int, at int, PRIMARY KEY (id, at)) PARTITION BY LIST (at);
        CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
        CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2); INSERT INTO parted VALUES (1, 1), (2, 2);
        CREATE TABLE to_parted (id int, at int, CONSTRAINT k FOREIGN KEY (id, at) REFERENCES parted);
        CREATE TABLE mother (id int PRIMARY KEY); CREATE TABLE child () INHERITS (mother); INSERT INTO child VALUES (5);
        CREATE TABLE to_mother ("odd ""i"" d" uuid DEFAULT gen_random_uuid() PRIMARY KEY, m int
            CONSTRAINT k REFERENCES mother);
        CREATE TABLE tree (id int PRIMARY KEY, up int CONSTRAINT k REFERENCES tree);
        CREATE TABLE kids (id int, at int, CONSTRAINT k FOREIGN KEY (id, at) REFERENCES p) PARTITION BY LIST (at);
        CREATE TABLE kids_1 PARTITION OF kids DEFAULT;
        SET session_replication_role = replica;
        INSERT INTO simple VALUES (1, 1), (9, NULL), (9, 9); INSERT INTO wholly VALUES (1, 1), (NULL, NULL), (1, NULL), (9, 9);
        INSERT INTO to_parted VALUES (1, 1), (2, 2), (1, 2); INSERT INTO to_mother (m) VALUES (5), (NULL);
        INSERT INTO tree VALUES (1, 1), (2, 3), (4, NULL); INSERT INTO kids VALUES (1, 1), (7, 7);
        """,
        database=database,
    )
    with server.session(database) as conn:
        keys = integrity.foreign_keys(conn, control=Control(), progress=verification.Progress(), database=database)
    assert {key.table: key.orphans for key in keys} == {
        "public.simple": 1, "public.wholly": 2, "public.to_parted": 1, "public.to_mother": 1, "public.tree": 1,
        "public.kids": 1,
    }  # fmt: skip
    ids = {key.table: key.ids for key in keys}
    assert ids["public.tree"] == ["2"]
    assert ids["public.simple"] == ["(0,3)"]
    assert len(ids["public.to_mother"][0]) == 36


def test_a_temporal_key_is_covered_by_several_periods(server: Server, database: str) -> None:
    server.execute(
        "CREATE EXTENSION btree_gist; CREATE TABLE p (id int, at daterange, PRIMARY KEY (id, at WITHOUT OVERLAPS));"
        "CREATE TABLE c (id int, at daterange, CONSTRAINT k FOREIGN KEY (id, PERIOD at) REFERENCES p (id, PERIOD at));"
        "INSERT INTO p VALUES (1, '[2025-01-01,2025-02-01)'), (1, '[2025-02-01,2025-03-01)');"
        "INSERT INTO c VALUES (1, '[2025-01-15,2025-02-15)'); SET session_replication_role = replica;"
        "INSERT INTO c VALUES (1, '[2025-01-15,2025-03-15)'), (2, '[2025-01-15,2025-01-16)')",
        database=database,
    )
    with server.session(database) as conn:
        key = integrity.foreign_keys(conn, control=Control(), progress=verification.Progress(), database=database)[0]
    assert (key.orphans, key.error) == (2, None)


def test_row_counts_are_largest_first_and_estimates_say_so(server: Server, database: str) -> None:
    server.execute(
        "CREATE TABLE few AS SELECT 1 AS a; CREATE TABLE many AS SELECT i FROM generate_series(1, 500) i; ANALYZE",
        database=database,
    )
    with server.session(database) as conn:
        assert integrity.row_counts(conn) == [
            {"name": "public.many", "rows": 500, "estimate": False}, {"name": "public.few", "rows": 1, "estimate": False},
        ]  # fmt: skip
        assert integrity.row_counts(conn, exact_rows=100)[0] == {"name": "public.many", "rows": 500, "estimate": True}


@pytest.mark.majors(15, 18)
def test_every_table_index_and_constraint_is_listed_with_its_definition(server: Server, applied: Any) -> None:
    listed = {(line["kind"], line["object"]): line["definition"] for line in verify(applied)["definitions"]}
    assert listed == {
        ("table", "public.school"): "id integer NOT NULL, name text NOT NULL",
        ("table", "public.student"): "id integer NOT NULL, school_id integer NOT NULL, "
        "status character varying(10) DEFAULT 'here'::character varying, mood mood",
        ("index", "public.school_pkey"): "CREATE UNIQUE INDEX school_pkey ON public.school USING btree (id)",
        ("index", "public.student_pkey"): "CREATE UNIQUE INDEX student_pkey ON public.student USING btree (id)",
        (
            "index",
            "public.student_school_idx",
        ): "CREATE INDEX student_school_idx ON public.student USING btree (school_id)",
        ("constraint", "public.school.school_pkey"): "PRIMARY KEY (id)",
        ("constraint", "public.student.student_pkey"): "PRIMARY KEY (id)",
        ("constraint", "public.student.student_school"): "FOREIGN KEY (school_id) REFERENCES school(id)",
        ("constraint", "public.student.status_known"): "CHECK (((status)::text = ANY "
        "((ARRAY['here'::character varying, 'gone'::character varying])::text[])))",
    }
    # Also where no schema was compared: the report has them always.
    assert verify(applied, compare_schema=False)["definitions"]
    server.execute(
        'CREATE TABLE odd ("a b" int GENERATED ALWAYS AS IDENTITY, c int GENERATED ALWAYS AS (1 + 1) STORED)',
        database=applied.database,
    )
    definitions = {line["object"]: line["definition"] for line in verify(applied)["definitions"]}
    assert definitions["public.odd"] == '"a b" integer NOT NULL GENERATED AS IDENTITY, c integer GENERATED AS ((1 + 1))'


def test_the_database_is_not_written_to(server: Server, applied: Any) -> None:
    def everything() -> Any:
        with server.session(applied.database) as conn:
            return catalog.inventory(conn, exclude_schemas=()), content.table_contents(conn), content.sequences(conn)

    before = everything()
    verify(applied)
    assert everything() == before


def test_check_mode_makes_no_scratch_database(applied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_create", lambda *_: pytest.fail("a database was created"))
    result = verify(applied, compare_schema=False)
    assert told(result, "notice")[0][3:] == ("schema compared", "left out")


@pytest.fixture
def forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is remembered when the test begins; where it will be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "whitecross.pgops"


@pytest.fixture
def scratches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The scratch databases made since."""
    made: list[str] = []
    create = scratch._create
    monkeypatch.setattr(scratch, "_create", lambda conn, name, *rest: (made.append(name), create(conn, name, *rest)))
    return made


def test_the_same_versions_are_run_again_once(applied: Any, forgotten: Path, scratches: list[str]) -> None:
    first = verify(applied)
    assert len(scratches) == 1
    assert verify(applied) == first
    assert len(scratches) == 1
    (entry,) = forgotten.iterdir()
    assert (entry.stat().st_mode & 0o777, forgotten.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_difference_is_told_only_after_they_were_run_again(
    applied: Any, change: Callable[[str], None], forgotten: Path, scratches: list[str]
) -> None:
    verify(applied)
    change("ALTER TABLE school ALTER name DROP NOT NULL")
    assert ("schema", "column public.school.name", "not_null", True, False) in told(verify(applied))
    assert len(scratches) == 2


@pytest.mark.parametrize("place", ["a file", "no home", "a full disk"])
def test_where_nothing_can_be_kept_they_are_run_again(
    applied: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scratches: list[str], place: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if place == "a file":
        (tmp_path / "cache").touch()
    elif place == "no home":
        # As a user that /etc/passwd does not have.
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(remembered_schema.os.path, "expanduser", lambda path: path)
        monkeypatch.chdir(tmp_path)
    else:
        monkeypatch.setattr(private_store.json, "dump", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    for _ in range(2):
        assert verify(applied)["passed"]
    assert len(scratches) == 2
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "cache"] == []


def test_a_job_that_outlives_the_archive_it_was_sent_in_still_knows_its_code(applied: Any, tmp_path: Path) -> None:
    archive = tmp_path / "module.zip"
    package = Path("ansible_collections/whitecross/pgops/plugins/module_utils")
    with zipfile.ZipFile(archive, "w") as made:
        for folder in (package, *package.parents[:-1]):
            made.writestr(f"{folder}/__init__.py", "")
        for file in Path(remembered_schema.__file__).parent.glob("*.py"):
            made.write(file, package / file.name)
    text = f"""
import os, sys
sys.path.insert(0, {str(archive)!r})
from {".".join(package.parts)} import connection, remembered_schema
assert remembered_schema.__file__.startswith({str(archive)!r})
os.unlink({str(archive)!r})
conn = connection.connect(connection.Target(**{asdict(applied)!r}), application_name="test")
print(remembered_schema.key(conn, [], "UTF8"))
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    conn = connection.connect(applied, application_name="test")
    try:
        assert (done.stdout.strip(), done.stderr) == (remembered_schema.key(conn, [], "UTF8"), "")
    finally:
        conn.close()


def test_another_server_or_tree_is_not_taken_for_the_same(
    server: Server, applied: Any, tmp_path: Path, forgotten: Path, scratches: list[str]
) -> None:
    verify(applied)
    server.execute("CREATE ROLE t_newcomer")
    try:
        verify(applied)
        assert len(scratches) == 2
    finally:
        server.execute("DROP ROLE t_newcomer")
    server.execute(f"ALTER ROLE {RESTORE} SET array_nulls = off")
    try:
        verify(applied)
        assert len(scratches) == 3
    finally:
        server.execute(f"ALTER ROLE {RESTORE} RESET array_nulls")
    more = write_tree(tmp_path / "sql")
    write_migration(
        more, "20250101000001", "make_more",
        migration="""
            title: Make more
            why: The tests need more.
            risk: low
            phi: false
            phase: core
            rollback: {safety: complete}
            steps:
              - sql: {up: up.sql.j2, down: down.sql.j2}
        """,
        up="CREATE TABLE more (id bigint PRIMARY KEY);", down="DROP TABLE more;",
    )  # fmt: skip
    apply_tree(applied, more)
    assert verify(applied)["passed"]
    assert len(scratches) == 4


def test_a_role_that_may_not_create_databases_is_told_so(applied: Any, server: Server) -> None:
    with pytest.raises(PgopsError, match="may not create a scratch database .* CREATEDB") as caught:
        verification.verify({applied.database: applied.with_(restore_user=APP)})
    assert caught.value.sqlstate == "42501"


@pytest.mark.slow
@pytest.mark.container
def test_a_scratch_server_of_another_major_is_refused(
    server: Server, applied: Any, containers: Any, tmp_path: Path
) -> None:
    other = containers.server(17)
    both = tmp_path / "passfile"
    both.touch(0o600)
    with both.open("a", encoding="utf-8") as stream:
        for one in (server, other):
            for line in one.passfile.read_text(encoding="utf-8").splitlines():
                _host, _port, rest = line.split(":", 2)
                stream.write(f"{one.host}:{one.port}:{rest}\n")
    target = applied.with_(scratch_host=other.host, scratch_port=str(other.port), passfile=str(both))
    with pytest.raises(
        PgopsError, match=r"is PostgreSQL 17 and .* is 18: .* point pgops_scratch_host at a PostgreSQL 18"
    ):
        verification.verify({target.database: target})


def test_the_scratch_of_a_killed_run_is_dropped_and_that_of_a_living_one_is_not(server: Server, applied: Any) -> None:
    server.execute("CREATE DATABASE pgops_verify_0123456789ab")
    with scratch.empty_database(applied, encoding="UTF8") as living:
        assert server.execute("SELECT 1 FROM pg_database WHERE datname = 'pgops_verify_0123456789ab'") == []
        with scratch.empty_database(applied, encoding="UTF8"):
            assert server.execute(f"SELECT 1 FROM pg_database WHERE datname = '{living.database}'") == [(1,)]


def test_a_stranger_with_such_a_name_is_left_alone(server: Server, applied: Any) -> None:
    server.execute("CREATE DATABASE pgops_verify_mine")
    server.execute("COMMENT ON DATABASE pgops_verify_mine IS 'my own'")
    try:
        verify(applied)
        assert server.execute("SELECT 1 FROM pg_database WHERE datname = 'pgops_verify_mine'") == [(1,)]
    finally:
        server.execute("DROP DATABASE pgops_verify_mine")


def test_an_interrupt_drops_the_scratch_database(applied: Any) -> None:
    control = Control()
    control.request("asked to stop")
    with pytest.raises(Interrupted):
        verification.verify({applied.database: applied}, control=control)


def test_an_interrupt_cancels_the_statement_in_hand(
    server: Server, applied: Any, change: Callable[[str], None]
) -> None:
    change(
        "UPDATE pgops.migration SET rendered = jsonb_set(rendered, '{verify,0,sql}', '\"SELECT pg_sleep(60), 1, 2\"')"
    )
    control = Control()
    timer = threading.Timer(2, control.request, ["asked to stop"])
    timer.start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        verification.verify({applied.database: applied}, control=control)
    assert time.monotonic() - started < 20


def test_a_migration_that_cannot_run_again_is_told_with_its_place(applied: Any, change: Callable[[str], None]) -> None:
    change(
        "UPDATE pgops.migration SET rendered = jsonb_set(rendered, '{steps,0,up,0,sql}', '\"CREATE TABLE broken (a nothing)\"')"
    )
    with pytest.raises(PgopsError, match=r"up.sql.j2:\d+ cannot be run again in an empty database") as caught:
        verification.verify({applied.database: applied})
    assert caught.value.sqlstate == "42704"


def test_the_error_names_the_first_difference_and_counts_the_others(
    applied: Any, change: Callable[[str], None]
) -> None:
    change("DROP VIEW here; ALTER TABLE school ALTER name DROP NOT NULL")
    with pytest.raises(PgopsError) as caught:
        verification.verify({applied.database: applied})
    assert caught.value.message == (
        f"Verification of {applied.database} failed: column public.school.name (not_null): expected True, found False, "
        "and 1 more."
    )


def test_the_screen_has_a_line_an_object_and_the_end_in_one_word(applied: Any, change: Callable[[str], None]) -> None:
    clean = screen(applied.database, verify(applied))
    assert any(line.split() == ["table", "2", "passed"] for line in clean)
    assert clean[-1].endswith("PASSED")
    change("DROP INDEX student_school_idx")
    result = verify(applied)
    short, full = screen(applied.database, result), screen(applied.database, result, verbose=True)
    assert any(line.split() == ["index", "2", "passed,", "1", "FAILED"] for line in short)
    assert "    FAIL   schema: index public.student_school_idx: expected present, found missing" in short
    assert short[-1].endswith("FAILED (2)")
    assert "    pass   table public.student" in full
    assert "    FAIL   index public.student_school_idx" in full
    assert any(line.endswith("0 without a parent, index MISSING") for line in full)


def test_a_version_that_somebody_else_took_back_meanwhile_fails(applied: Any, server: Server) -> None:
    ((version,),) = server.execute("SELECT max(version) FROM pgops.migration", database=applied.database)
    assert verify(applied, applied={applied.database: [version]})["passed"]
    server.execute(
        f"UPDATE pgops.migration SET state = 'reverted', run_id = 'another' WHERE version = '{version}'",
        database=applied.database,
    )
    result = verify(applied, applied={applied.database: [version]})
    expected = ("ledger", f"version {version}", "state", "applied, as by this run", "reverted by run another")
    assert not result["passed"]
    assert expected in told(result)


@pytest.mark.majors(*MAJORS, slow=(15,))
def test_the_shipped_chain_passes(server: Server, target: Any) -> None:
    sql = Path(__file__).resolve().parents[2] / "sql"
    apply_tree(target, sql)
    result = verify(target)
    assert [finding for finding in result["findings"] if finding["level"] != "notice"] == []
    # Counted, not claimed, and without the key of the ledger's own schema (R3.19).
    ((count,),) = server.execute(
        "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace",
        database=target.database,
    )
    assert count > 50
    assert len(result["foreign_keys"]) == count
    told = [line.split()[2:4] for line in screen(target.database, result) if "foreign key" in line]
    assert told == [[str(count), "read,"]]
    assert result["versions"] == [migration.version for migration in migration_tree.read_tree(sql).migrations]


def test_the_ledger_is_read_and_not_made(server: Server, database: str, target: Any) -> None:
    verify(target)
    with server.session(database) as conn:
        assert not ledger.read(conn).exists


def test_verify_yml(server: Server, applied: Any, change: Callable[[str], None], playbook: Any) -> None:
    playbook.variables["pgops_database"] = applied.database
    rc, output, document = playbook("verify.yml")
    assert rc == 0, output
    lines = [line.strip() for line in output.splitlines()]
    for passed in ("table public.student", "enum public.mood", "index public.student_school_idx"):
        assert f"pass   {passed}" in lines
    assert f"{applied.database}: PASSED" in lines
    assert document["ok"]
    change("ALTER TABLE student DROP CONSTRAINT student_school")
    rc, output, document = playbook("verify.yml")
    assert rc == 2
    # The journal and the file have all that was found; on the screen one line of it would be longer than all the others.
    assert max(map(len, output.splitlines())) < 2000
    assert document["hosts"]
    lines = [line.strip() for line in output.splitlines()]
    assert "FAIL   constraint public.student.student_school" in lines
    assert "pass   enum public.mood" in lines
    # Whoever scrolls back from the end meets the differences first, not the hundreds of lines that passed.
    end = lines.index(f"{applied.database}: FAILED (1)")
    missing = "FAIL   schema: constraint public.student.student_school: expected present, found missing"
    assert lines[end - 1] == missing
    assert not document["ok"]
    assert "constraint public.student.student_school: expected present, found missing" in document["error"]["message"]


@pytest.mark.slow
def test_verify_yml_counts_what_passed_when_asked_to(applied: Any, playbook: Any) -> None:
    playbook.variables["pgops_database"] = applied.database
    _rc, output, _document = playbook("verify.yml", verify_verbose=False)
    lines = [line.split() for line in output.splitlines()]
    assert ["table", "2", "passed"] in lines
    assert ["pass", "table", "public.student"] not in lines


def test_verify_yml_in_check_mode(applied: Any, playbook: Any) -> None:
    playbook.variables["pgops_database"] = applied.database
    rc, output, _document = playbook("verify.yml", "--check")
    assert rc == 0, output
    assert "schema compared" in output


def test_the_scratch_connection_is_pinned_like_every_other(applied: Any) -> None:
    with scratch.empty_database(applied, encoding="UTF8") as place:
        conn = connection.connect(place, application_name="pgops test")
        assert connection.fetch_one(conn, "SELECT current_setting('TimeZone') AS zone") == {"zone": "UTC"}
        conn.close()
