# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Each rule of lint: one tree that breaks it, one that does not."""

from __future__ import annotations

import copy
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_tree, quality, scaffold
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import RULES, Finding, of_versions
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_lint import lint

SQL = Path(__file__).resolve().parents[2] / "sql"
VERIFY = "SELECT 'x' AS object, 'a' AS expected, 'b' AS found WHERE FALSE;"
OLD = "CREATE TABLE old (id int PRIMARY KEY, a int);"
METADATA: dict[str, Any] = {
    "title": "t",
    "why": "w",
    "risk": "low",
    "phi": False,
    "rollback": {"safety": "complete"},
    "steps": [{"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}}],
}


def check(root: Path, *ups: str, files: dict[str, str] | None = None, **metadata: Any) -> list[Finding]:
    """Lint a tree of one version an up; `files` and `metadata` are the last one's."""
    shutil.rmtree(root / "migrations", ignore_errors=True)
    for number, up in enumerate(ups):
        folder = root / "migrations" / f"2025010100000{number}_v{number}"
        folder.mkdir(parents=True)
        last = number == len(ups) - 1
        texts = {"up.sql.j2": up, "down.sql.j2": "SELECT 1;", "verify.sql.j2": VERIFY}
        data = copy.deepcopy(METADATA) | (metadata if last else {})
        texts |= {"migration.yml": yaml.safe_dump(data)} | ((files or {}) if last else {})
        for name, text in texts.items():
            if text:
                (folder / name).write_text(text)
    return lint(migration_tree.scan_tree(root))


def rules(findings: list[Finding]) -> list[str]:
    return [finding.rule for finding in findings]


def test_the_shipped_tree_has_no_finding() -> None:
    assert lint(migration_tree.scan_tree(SQL)) == []


def test_a_clean_migration_has_no_finding(tmp_path: Path) -> None:
    assert check(tmp_path, OLD) == []


def test_faults_of_the_tree_and_of_the_sql_are_listed_together(tmp_path: Path) -> None:
    found = check(tmp_path, "SELEC 1;", files={"stray.sql.j2": "SELECT 1"}, titel="x")
    assert rules(found) == ["unknown-key"]
    found = check(tmp_path, "SELEC 1;", files={"stray.sql.j2": "SELECT 1"})
    assert rules(found) == ["file-unused", "syntax"]


def test_of_a_plan_only_the_pending_versions_are_asked(tmp_path: Path) -> None:
    check(tmp_path, OLD, "CREATE INDEX i ON old (a);", "CREATE INDEX j ON old (a);")
    tree = migration_tree.scan_tree(tmp_path)
    assert len(lint(tree)) == 2
    (found,) = of_versions(lint(tree), ["20250101000002"])
    assert found.location == "20250101000002_v2/up.sql.j2:1"


# (rule, up that breaks it on a table of an earlier version, up that does not)
ON_AN_EXISTING_TABLE = [
    ("index-blocking", "CREATE INDEX i ON old (a);", "CREATE TABLE n (a int); CREATE INDEX i ON n (a);"),
    (
        "constraint-blocking",
        "ALTER TABLE old ADD CONSTRAINT c CHECK (a > 0);",
        "CREATE TABLE n (a int); ALTER TABLE n ADD CONSTRAINT c CHECK (a > 0);",
    ),
    (
        "constraint-blocking",
        (
            "CREATE TABLE n (a int); CREATE TABLE p (id int PRIMARY KEY);"
            "ALTER TABLE old ADD CONSTRAINT f FOREIGN KEY (id) REFERENCES p;"
        ),
        (
            "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE n (id int PRIMARY KEY);"
            "ALTER TABLE n ADD CONSTRAINT f FOREIGN KEY (id) REFERENCES p;"
        ),
    ),
    (
        "constraint-blocking",
        "ALTER TABLE old ADD CONSTRAINT u UNIQUE (a);",
        "ALTER TABLE old ADD CONSTRAINT u UNIQUE USING INDEX i;",
    ),
    (
        "constraint-blocking",
        "ALTER TABLE old ADD COLUMN b int CHECK (b > 0);",
        "ALTER TABLE old ADD COLUMN b int NOT NULL DEFAULT 0;",
    ),
    (
        "column-rewrite",
        "ALTER TABLE old ADD COLUMN b uuid DEFAULT gen_random_uuid();",
        "ALTER TABLE old ADD COLUMN b timestamptz DEFAULT now();",
    ),
    (
        "column-rewrite",
        "ALTER TABLE old ADD COLUMN b timestamptz DEFAULT clock_timestamp() + interval '1 day';",
        "CREATE TABLE n (a int); ALTER TABLE n ADD COLUMN b uuid DEFAULT gen_random_uuid();",
    ),
    ("column-rewrite", "ALTER TABLE old ADD COLUMN b bigserial;", "ALTER TABLE old ADD COLUMN b bigint;"),
    (
        "column-rewrite",
        "ALTER TABLE old ADD COLUMN b int GENERATED ALWAYS AS IDENTITY;",
        "ALTER TABLE old ADD COLUMN b int;",
    ),
    (
        "column-rewrite",
        "ALTER TABLE old ADD COLUMN b int GENERATED ALWAYS AS (a + 1) STORED;",
        "ALTER TABLE old ADD COLUMN b int DEFAULT 1 + 1;",
    ),
    (
        "destructive",
        "ALTER TABLE old DROP COLUMN a;",
        "CREATE TABLE n (a int, b int); ALTER TABLE n DROP COLUMN a;",
    ),
    ("destructive", "DROP TABLE old;", "CREATE TABLE n (a int); DROP TABLE n;"),
    ("destructive", "TRUNCATE old;", "CREATE TABLE n (a int); TRUNCATE n;"),
    (
        "destructive",
        "WITH gone AS (DELETE FROM old RETURNING id) UPDATE kept SET a = 1 FROM gone WHERE kept.id = gone.id;",
        "WITH found AS (SELECT id FROM old) UPDATE kept SET a = 1 FROM found WHERE kept.id = found.id;",
    ),
    (
        "destructive",
        "MERGE INTO old USING kept ON old.id = kept.id WHEN MATCHED THEN DELETE;",
        "MERGE INTO old USING kept ON old.id = kept.id WHEN MATCHED THEN UPDATE SET a = 1;",
    ),
    (
        "enum-value-used",
        "ALTER TYPE kind ADD VALUE 'NEW'; INSERT INTO old SELECT 1 WHERE 'NEW' = 'x';",
        "ALTER TYPE kind ADD VALUE 'NEW'; INSERT INTO old SELECT 1 WHERE 'OTHER' = 'x';",
    ),
    (
        "enum-value-used",
        "ALTER TYPE kind ADD VALUE 'NEW'; DO $$ BEGIN UPDATE old SET a = 1 WHERE k = 'NEW'; END $$;",
        "CREATE TYPE k2 AS ENUM ('A'); ALTER TYPE k2 ADD VALUE 'NEW'; SELECT 'NEW'::k2;",
    ),
    ("if-not-exists", "CREATE TABLE IF NOT EXISTS n (a int);", "CREATE EXTENSION IF NOT EXISTS pg_trgm;"),
    ("if-not-exists", "ALTER TABLE old ADD COLUMN IF NOT EXISTS b int;", "ALTER TABLE old ADD COLUMN b int;"),
    (
        "not-validated",
        "ALTER TABLE old ADD CONSTRAINT c CHECK (a > 0) NOT VALID;",
        "ALTER TABLE old ADD CONSTRAINT c CHECK (a > 0) NOT VALID; ALTER TABLE old DROP CONSTRAINT c;",
    ),
    (
        "one-drop",
        "ALTER TABLE old DROP COLUMN a, DROP COLUMN b;",
        "ALTER TABLE old DROP COLUMN a; ALTER TABLE old DROP COLUMN b;",
    ),
    (
        "one-drop",
        "ALTER TABLE old DROP COLUMN IF EXISTS a, ALTER COLUMN b DROP NOT NULL;",
        "ALTER TABLE old ALTER COLUMN a DROP NOT NULL, ALTER COLUMN b DROP NOT NULL;",
    ),
    (
        "one-drop",
        "ALTER TABLE old DROP CONSTRAINT a, ADD COLUMN b int;",
        "ALTER TABLE old ADD COLUMN a int, ADD COLUMN b int;",
    ),
    ("one-drop", "CREATE TABLE n (a int); CREATE TABLE m (a int); DROP TABLE n, m;", "SELECT 1;"),
    (
        "one-drop",
        "WITH gone AS (DELETE FROM old RETURNING a) DELETE FROM kept USING gone WHERE kept.a = gone.a;",
        "WITH gone AS (SELECT a FROM old) DELETE FROM kept USING gone WHERE kept.a = gone.a;",
    ),
    ("cascade", "CREATE TABLE n (a int); DROP TABLE n CASCADE;", "CREATE TABLE n (a int); DROP TABLE n;"),
    (
        "index-clock",
        "CREATE TABLE n (t timestamptz); CREATE INDEX i ON n (t) WHERE t > now();",
        "CREATE TABLE n (t timestamptz); CREATE INDEX i ON n (t) WHERE t IS NOT NULL;",
    ),
]


@pytest.mark.parametrize(("rule", "bad", "good"), ON_AN_EXISTING_TABLE)
def test_a_rule_sees_its_fault_and_not_its_neighbour(tmp_path: Path, rule: str, bad: str, good: str) -> None:
    found = [finding for finding in check(tmp_path, OLD, f"SELECT 1;\n{bad}") if finding.rule == rule]
    assert len(found) == 1
    assert (found[0].file, found[0].line) == ("20250101000001_v1/up.sql.j2", 2)
    assert rule not in rules(check(tmp_path, OLD, f"SELECT 1;\n{good}"))


@pytest.mark.parametrize(
    ("rule", "up"),
    [
        ("R20", "ALTER TABLE old ALTER COLUMN a SET NOT NULL;"),
        ("R24", "ALTER TABLE old ALTER COLUMN a TYPE bigint;"),
        ("R37", "ALTER TABLE old RENAME COLUMN a TO b;"),
        ("R50", "ALTER TABLE old ENABLE ROW LEVEL SECURITY;"),
        ("R52", "ALTER TABLE old DISABLE TRIGGER ALL;"),
        ("column-rewrite", "DO $$ BEGIN EXECUTE 'ALTER TABLE old ADD COLUMN b bigserial'; END $$;"),
    ],
)
def test_the_rules_for_sql_are_asked_of_a_tree(tmp_path: Path, rule: str, up: str) -> None:
    assert rule in rules(check(tmp_path, OLD, up))
    assert rule not in rules(check(tmp_path, OLD, f"-- pgops: allow {number(rule)} because it has ten rows\n{up}"))
    assert rule not in rules(check(tmp_path, OLD, f"{{# pgops: allow {number(rule)} because it has ten rows #}}\n{up}"))
    assert "allow" in rules(check(tmp_path, OLD, f"-- pgops: allow {number(rule)}\n{up}"))


def number(rule: str) -> str:
    return {"column-rewrite": "R29"}.get(rule, rule)


def test_a_table_of_an_earlier_version_of_the_same_run_is_new(tmp_path: Path) -> None:
    check(tmp_path, OLD, "ALTER TABLE old ALTER COLUMN a TYPE bigint;")
    tree = migration_tree.scan_tree(tmp_path)
    assert rules(lint(tree)) == ["R24"]
    assert lint(tree, together=["20250101000000", "20250101000001"]) == []
    assert rules(lint(tree, together=["20250101000001"])) == ["R24"]


def test_an_unknown_function_as_default_is_a_warning(tmp_path: Path) -> None:
    (found,) = check(tmp_path, OLD, "ALTER TABLE old ADD COLUMN b int DEFAULT my_number();")
    assert (found.rule, found.severity) == ("column-rewrite", "warning")


def test_a_declared_risk_allows_what_destroys(tmp_path: Path) -> None:
    assert check(tmp_path, OLD, "DROP TABLE old;", risk="high") == []


def test_a_missing_verification_is_named_where_there_is_sql_to_verify(tmp_path: Path) -> None:
    (found,) = check(tmp_path, OLD, files={"verify.sql.j2": ""})
    assert (found.rule, found.file) == ("verify-missing", "20250101000000_v0/migration.yml")
    index = "- {name: i, table: old, columns: [a], why: w}\n"
    files = {"verify.sql.j2": "", "up.sql.j2": "", "down.sql.j2": "", "indexes.yml": index}
    assert check(tmp_path, OLD, "SELECT 1;", files=files, steps=[{"indexes": "indexes.yml"}]) == []


@pytest.mark.parametrize("select", ["SELECT 1", "SELECT 1, 2, 3, 4"])
def test_a_verification_has_three_columns(tmp_path: Path, select: str) -> None:
    (found,) = check(tmp_path, OLD, files={"verify.sql.j2": f"{VERIFY}\n{select};\n"})
    assert (found.rule, found.line) == ("verify-columns", 2)
    assert check(tmp_path, OLD, files={"verify.sql.j2": "SELECT * FROM (VALUES (1, 2, 3)) AS v;"}) == []


# --- a foreign key has an index ---------------------------------------------------------------------------------------

CHILD = "CREATE TABLE child (id int PRIMARY KEY, old_id int REFERENCES old ON UPDATE CASCADE ON DELETE CASCADE, b int);"


@pytest.mark.parametrize(
    ("index", "covered"),
    [
        ("", False),
        ("CREATE INDEX i ON child (old_id);", True),
        ("CREATE INDEX i ON child (old_id, b);", True),
        ("CREATE INDEX i ON child (b, old_id);", False),
        ("CREATE INDEX i ON child (old_id) WHERE b > 0;", False),
        ("CREATE INDEX i ON child (old_id) WHERE old_id IS NOT NULL;", True),
        ("CREATE INDEX i ON child (old_id); DROP INDEX i;", False),
        ("CREATE UNIQUE INDEX i ON child (old_id);", True),
        ("ALTER TABLE child ADD CONSTRAINT u UNIQUE (old_id, b);", True),
        ("ALTER TABLE child DROP CONSTRAINT child_old_id_fkey;", True),
        ("ALTER TABLE child DROP COLUMN old_id;", True),
        ("DROP TABLE child;", True),
    ],
)
def test_a_foreign_key_wants_an_index_that_leads_with_it(tmp_path: Path, index: str, covered: bool) -> None:
    found = check(tmp_path, f"{OLD}\n{CHILD}\n{index}")
    assert ("foreign-key-index" in rules(found)) is not covered
    if not covered:
        (finding,) = found
        assert (finding.line, "old_id" in finding.message) == (2, True)


@pytest.mark.parametrize(
    ("up", "named"),
    [
        ("ALTER TABLE old ADD CONSTRAINT old_a_not_null CHECK (a IS NOT NULL) NOT VALID;", "old_a_required"),
        ("CREATE TABLE new (id int PRIMARY KEY, b int CONSTRAINT new_b_not_null CHECK (b > 0));", "new_b_required"),
        ("CREATE TABLE new (id int PRIMARY KEY, b int CONSTRAINT new_b_not_null NOT NULL);", None),
        ("ALTER TABLE old ADD CONSTRAINT a_not_null CHECK (a IS NOT NULL) NOT VALID;", None),
    ],
)
def test_the_name_that_18_gives_to_not_null_is_left_to_it(tmp_path: Path, up: str, named: str | None) -> None:
    found = [finding for finding in check(tmp_path, OLD, up) if finding.rule != "not-validated"]
    assert rules(found) == (["not-null-name"] if named else [])
    assert all(finding.message.endswith(f"call it {named}") for finding in found)


@pytest.mark.parametrize(
    ("key", "unsaid"),
    [
        ("REFERENCES old", "ON UPDATE and ON DELETE"),
        ("REFERENCES old ON UPDATE CASCADE", "ON DELETE"),
        ("REFERENCES old ON DELETE SET NULL", "ON UPDATE"),
        ("REFERENCES old ON UPDATE NO ACTION ON DELETE RESTRICT", "ON UPDATE"),
        ("REFERENCES old ON UPDATE CASCADE ON DELETE RESTRICT", ""),
    ],
)
def test_a_foreign_key_says_what_happens_to_its_rows(tmp_path: Path, key: str, unsaid: str) -> None:
    index = "CREATE INDEX i ON child (old_id);"
    for child in (
        f"CREATE TABLE child (id int PRIMARY KEY, old_id int {key}); {index}",
        f"CREATE TABLE child (id int PRIMARY KEY, old_id int, CONSTRAINT k FOREIGN KEY (old_id) {key}); {index}",
        f"CREATE TABLE child (id int PRIMARY KEY); ALTER TABLE child ADD COLUMN old_id int {key}; {index}",
    ):
        found = check(tmp_path, OLD, child)
        assert rules(found) == (["foreign-key-rules"] if unsaid else [])
        assert all(f"what happens {unsaid}: " in finding.message for finding in found)


RULED = "ON UPDATE CASCADE ON DELETE CASCADE"


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (f"old_id bigint REFERENCES old {RULED}", "child.old_id (bigint) to old.id (integer)"),
        (f"old_id text REFERENCES old (id) {RULED}", "child.old_id (text) to old.id (integer)"),
        (f"old_id int REFERENCES old {RULED}", ""),
        (f"old_id serial REFERENCES old {RULED}", ""),
        (f"old_id bigint REFERENCES elsewhere (id) {RULED}", ""),
    ],
)
def test_both_sides_of_a_foreign_key_have_one_type(tmp_path: Path, column: str, told: str) -> None:
    found = check(
        tmp_path, OLD, f"CREATE TABLE child (id int PRIMARY KEY, {column}); CREATE INDEX i ON child (old_id);"
    )
    assert rules(found) == (["foreign-key-types"] if told else [])
    assert all(told in finding.message for finding in found)
    changed = "ALTER TABLE old ALTER COLUMN id TYPE bigint;"
    later = check(
        tmp_path, OLD, changed, f"CREATE TABLE child (id int PRIMARY KEY, {column}); CREATE INDEX i ON child (old_id);"
    )
    assert "foreign-key-types" not in rules(later)


def test_the_index_of_a_foreign_key_may_come_in_a_later_version(tmp_path: Path) -> None:
    files = {"indexes.yml": "- {name: i, table: child, columns: [old_id], why: w}\n"}
    steps = [*METADATA["steps"], {"indexes": "indexes.yml"}]
    assert check(tmp_path, OLD, CHILD, "SELECT 1;", files=files, steps=steps) == []


def test_two_indexes_of_one_name_are_seen_over_versions(tmp_path: Path) -> None:
    files = {"indexes.yml": "- {name: i, table: old, columns: [a], why: w}\n"}
    steps = [*METADATA["steps"], {"indexes": "indexes.yml"}]
    (found,) = check(tmp_path, f"{OLD} CREATE INDEX i ON old (id);", "SELECT 1;", files=files, steps=steps)
    assert (found.rule, found.location) == ("duplicate-index", "20250101000001_v1/indexes.yml:1")
    assert check(tmp_path, f"{OLD} CREATE INDEX i ON old (id);", "DROP INDEX i;", files=files, steps=steps) == []


def test_the_same_index_again_is_for_databases_that_do_not_have_it(tmp_path: Path) -> None:
    files = {"indexes.yml": "- {name: i, table: old, columns: [id], why: w}\n"}
    steps = [*METADATA["steps"], {"indexes": "indexes.yml"}]
    assert check(tmp_path, f"{OLD} CREATE INDEX i ON old (id);", "SELECT 1;", files=files, steps=steps) == []


def test_an_index_of_the_same_name_in_another_schema_is_another_index(tmp_path: Path) -> None:
    other = "CREATE SCHEMA s; CREATE TABLE s.old (a int); CREATE INDEX i ON s.old (a);"
    assert check(tmp_path, f"{OLD} CREATE INDEX i ON old (id); {other}") == []


# --- validate ---------------------------------------------------------------------------------------------------------


def test_a_validate_step_names_a_constraint_that_some_version_adds(tmp_path: Path) -> None:
    up = "ALTER TABLE old ADD CONSTRAINT old_check CHECK (a > 0) NOT VALID;"
    good = [*METADATA["steps"], {"validate": [{"table": "old", "constraint": "old_check"}]}]
    assert check(tmp_path, OLD, up, steps=good) == []
    bad = [*METADATA["steps"], {"validate": [{"table": "old", "constraint": "old_chek"}]}]
    found = check(tmp_path, OLD, up, steps=bad)
    assert rules(found) == ["validate-unknown", "not-validated"]
    assert "did you mean 'old_check'?" in found[0].message


# --- a new migration --------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(SQL, tmp_path / "sql")
    return tmp_path / "sql"


def test_a_scaffolded_migration_passes_lint_and_comes_last(tree: Path) -> None:
    (new,) = scaffold.plan(tree, "add_x")
    scaffold.write(new)
    read = migration_tree.scan_tree(tree)
    assert lint(read) == []
    assert read.migrations[-1].folder == new.folder.name
    assert sorted(path.name for path in new.folder.iterdir()) == [
        "down.sql.j2",
        "migration.yml",
        "up.sql.j2",
        "verify.sql.j2",
    ]
    assert not [path for path in new.folder.parent.iterdir() if path.name.startswith(".")]


def test_its_version_is_the_time_in_utc_or_later_than_the_last(tree: Path) -> None:
    now = datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)
    last = max(folder.name.partition("_")[0] for folder in (tree / "migrations").iterdir())
    assert scaffold.plan(tree, "add_x", now)[0].version == "20310203040506"
    assert scaffold.plan(tree, "add_x", datetime(2020, 1, 1, tzinfo=UTC))[0].version == str(int(last) + 1)


def test_the_same_name_is_never_overwritten(tree: Path) -> None:
    scaffold.write_all(scaffold.plan(tree, "add_x"))
    with pytest.raises(PgopsError, match="exists already and is not overwritten"):
        scaffold.plan(tree, "add_x")
    (new,) = scaffold.plan(tree, "add_y")
    scaffold.write(new)
    with pytest.raises(PgopsError, match="exists already and is not overwritten"):
        scaffold.write(new)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("Add X-y", "new_migration_name=add_x_y"),
        ("../x", "new_migration_name=x"),
        ("1x", "new_migration_name=x"),
        ("a" * 101, "new_migration_name=" + "a" * 100),
        ("é", "new_migration_name=add_x"),
        ("", "new_migration_name=add_x"),
    ],
)
def test_an_unsafe_name_is_refused_with_a_safe_one(tree: Path, name: str, suggestion: str) -> None:
    with pytest.raises(PgopsError) as caught:
        scaffold.plan(tree, name)
    assert caught.value.message.endswith(suggestion)


def test_a_failed_write_leaves_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (new,) = scaffold.plan(tree, "add_x")

    def full(self: Path, *_args: Any, **_kwargs: Any) -> int:
        raise OSError(28, "No space left on device")

    before = sorted(path.name for path in new.folder.parent.iterdir())
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        scaffold.write(new)
    assert sorted(path.name for path in new.folder.parent.iterdir()) == before


# --- a pattern --------------------------------------------------------------------------------------------------------

RENAME = {"table": "students", "column": "photo", "to": "picture", "type": "varchar(500)"}


def test_a_pattern_makes_all_its_versions_in_a_row_and_each_depends_on_the_one_before(tree: Path) -> None:
    now = datetime(2031, 2, 3, 4, 5, 59, tzinfo=UTC)
    new = scaffold.plan(tree, "rename_photo", now, pattern="rename_column", variables=RENAME)
    assert [f"{one.version}_{one.name}" for one in new] == [
        "20310203040559_rename_photo_expand",
        "20310203040560_rename_photo_backfill",
        "20310203040561_rename_photo_contract",
    ]
    scaffold.write_all(new)
    read = migration_tree.scan_tree(tree)
    assert [*read.findings, *lint(read)] == []
    assert [one.depends_on for one in read.migrations[-3:]] == [[], ["20310203040559"], ["20310203040560"]]
    assert "@@" not in "".join(text for one in new for text in one.files.values())
    with pytest.raises(PgopsError, match="rename_photo_expand exists already"):
        scaffold.plan(tree, "rename_photo", pattern="rename_column", variables=RENAME)


def test_a_name_gets_quotes_where_it_needs_them_and_text_is_a_literal(tree: Path) -> None:
    given = {
        "table": "Order",
        "column": "user",
        "type": 'public."Kind"',
        "comment": "PHI: what's meant",
        "phi": "False",
    }
    (new,) = scaffold.plan(tree, "add_x", pattern="add_column", variables=given)
    assert 'ALTER TABLE public."Order" ADD COLUMN "user" public."Kind";' in new.files["up.sql.j2"]
    assert """COMMENT ON COLUMN public."Order"."user" IS 'PHI: what''s meant';""" in new.files["up.sql.j2"]
    assert "\nphi: false\n" in new.files["migration.yml"]
    (plain,) = scaffold.plan(
        tree, "add_x", pattern="add_column", variables={"table": "a", "column": "b", "type": "text"}
    )
    assert "ALTER TABLE public.a ADD COLUMN b text;" in plain.files["up.sql.j2"]
    assert "COMMENT" not in plain.files["up.sql.j2"]
    assert "\nphi: true\n" in plain.files["migration.yml"]


@pytest.mark.parametrize(
    ("pattern", "changed", "message"),
    [
        (
            "rename_colum",
            {},
            "There is no pattern 'rename_colum', there are add_column, ",
        ),
        ("rename_column", {"to": None}, "needs new_migration_to (the new name), add: -e new_migration_to=TO"),
        ("rename_column", {"to": " "}, "needs new_migration_to (the new name), add: -e new_migration_to=TO"),
        (
            "rename_column",
            {"tabel": "x"},
            "takes no new_migration_tabel, it takes new_migration_table, ",
        ),
        ("rename_column", {"to": "photo"}, "new_migration_to and new_migration_column are both 'photo'"),
        (
            "rename_column",
            {"table": "students; DROP TABLE x"},
            "new_migration_table is 'students; DROP TABLE x': a name",
        ),
        ("rename_column", {"table": 'a"b'}, "without quotes"),
        ("rename_column", {"table": "public.students"}, "letters, digits and underscores only"),
        ("rename_column", {"table": "é"}, "letters, digits and underscores only"),
        ("rename_column", {"column": "x" * 64}, "a name has 63 bytes at most and this one 64"),
        # The trigger's name is made of both.
        ("rename_column", {"table": "x" * 30, "column": "y" * 30}, "new_migration_function is 'xxx"),
        ("rename_column", {"type": "varchar(10); DROP TABLE x"}, "it is not a type"),
        ("rename_column", {"type": "text NOT NULL"}, "it is more than a type"),
        ("rename_column", {"type": "text DEFAULT now()"}, "it is more than a type"),
        ("rename_column", {"type": "text, ADD COLUMN d text"}, "it is not a type"),
        ("rename_column", {"type": "varchar(1"}, "it is not a type"),
        ("rename_column", {"type": "bigserial"}, "a serial column rewrites the table"),
        ("rename_column", {"batch_size": "0"}, "it is not a whole number of 1 or more"),
        ("rename_column", {"phi": "perhaps"}, "it is true or false"),
        ("add_column", {"to": None, "comment": "{{ x }}"}, "cannot stand here"),
        ("add_column", {"to": None, "comment": "$body$"}, "cannot stand here"),
        ("add_column", {"to": None, "comment": "a\nb"}, r"new_migration_comment is 'a\nb': "),
        ("", {}, "is of use together with a pattern only"),
    ],
)
def test_what_a_pattern_cannot_use_is_refused_in_one_sentence(
    tree: Path, pattern: str, changed: dict[str, str | None], message: str
) -> None:
    given = {key: value for key, value in {**RENAME, **changed}.items() if value is not None}
    with pytest.raises(PgopsError) as caught:
        scaffold.plan(tree, "add_x", pattern=pattern, variables=given)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


CHANGE = {"condition": "true", "change": "ALTER TABLE a ADD b int", "undo": "ALTER TABLE a DROP b", "marker": "m"}


@pytest.mark.parametrize(
    ("pattern", "given", "message"),
    [
        ("add_foreign_key", {"table": "a", "column": "b", "to": "c", "on_delete": "NOTHING"}, "it is one of RESTRICT, CASCADE"),
        ("large_data_migration", {"table": "a", "column": "b", "expression": "1; DROP TABLE a"}, "not one plain expression"),
        ("large_data_migration", {"table": "a", "column": "b", "expression": "1 WHERE true"}, "it is not an expression"),
        ("create_table", {"table": "a", "comment": "c", "columns": "b int); DROP TABLE a; CREATE TABLE x (c int"}, "not a list of columns"),
        ("create_table", {"table": "a", "comment": "c", "columns": "b int) WITH (fillfactor = 50"}, "not a list of columns"),
        ("create_table", {"table": "a", "comment": "c", "columns": "b"}, "not a list of columns"),
        ("create_table", {"table": "a", "comment": "c", "columns": "b int REFERENCES d"}, "keys and checks are written into the files"),
        ("create_table", {"table": "a", "comment": "c", "columns": "b int, CHECK (b > 0)"}, "keys and checks are written into the files"),
        ("create_type", {"enum": "a", "labels": "B,,C"}, "not a list of values"),
        ("create_type", {"enum": "a", "labels": "B, B"}, "there twice"),
        ("create_type", {"enum": "a", "labels": "B, " + "x" * 64}, "63 bytes at most"),
        ("conditional_change", {**CHANGE, "change": "DROP TABLE a"}, "not one ALTER TABLE, INSERT"),
        ("conditional_change", {**CHANGE, "change": "COMMIT"}, "not one ALTER TABLE, INSERT"),
        ("conditional_change", {**CHANGE, "change": "ALTER TABLE a ADD b int; ALTER TABLE a ADD c int"}, "not one ALTER TABLE, INSERT"),
        ("conditional_change", {**CHANGE, "change": "ALTER TABLE a ADD b int;"}, "without a semicolon"),
        ("conditional_change", {**CHANGE, "change": "ALTER TABLE a DROP b"}, "takes something away"),
        ("conditional_change", {**CHANGE, "change": "DELETE FROM a"}, "takes something away"),
        ("conditional_change", {**CHANGE, "change": "WITH g AS (DELETE FROM a RETURNING b) UPDATE c SET b = 1 FROM g"}, "takes something away"),
        ("conditional_change", {**CHANGE, "change": "WITH g AS (DELETE FROM a RETURNING b) INSERT INTO c SELECT b FROM g"}, "takes something away"),
        ("conditional_change", {**CHANGE, "change": "ALTER TABLE a ADD CHECK (b > 0)"}, "write NOT VALID here"),
        ("conditional_change", {**CHANGE, "change": "ALTER TABLE a ADD b uuid DEFAULT gen_random_uuid()"}, "is volatile"),
        ("conditional_change", {**CHANGE, "condition": "true), (true"}, "not an expression"),
    ],
)  # fmt: skip
def test_what_becomes_sql_is_checked(tree: Path, pattern: str, given: dict[str, str], message: str) -> None:
    with pytest.raises(PgopsError, match=message):
        scaffold.plan(tree, "add_x", pattern=pattern, variables=given)


def test_all_versions_of_a_pattern_are_written_or_none(tree: Path) -> None:
    new = scaffold.plan(tree, "rename_photo", pattern="rename_column", variables=RENAME)
    new[-1].folder.mkdir()
    before = sorted(path.name for path in new[0].folder.parent.iterdir())
    with pytest.raises(PgopsError, match="rename_photo_contract exists already"):
        scaffold.write_all(new)
    assert sorted(path.name for path in new[0].folder.parent.iterdir()) == before


# --- the score --------------------------------------------------------------------------------------------------------


def test_every_rule_belongs_to_one_criterion() -> None:
    assert len(quality.CRITERIA) == 10
    assert sorted(rule for rules in quality.CRITERIA.values() for rule in rules) == sorted(RULES)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_finding_costs_its_criterion_and_no_other(rule: str) -> None:
    (lost,) = [one for one in quality.score([Finding("f", 1, rule, "m", "warning")]) if not one["met"]]
    assert (lost["rules"], rule in quality.CRITERIA[lost["title"]]) == ([rule], True)


def test_the_shipped_tree_meets_all_ten() -> None:
    assert [one["title"] for one in quality.score(lint(migration_tree.scan_tree(SQL))) if not one["met"]] == []


@pytest.mark.parametrize(
    ("up", "found_rules"),
    [
        ("ALTER TABLE old ADD COLUMN b int; UPDATE old SET b = 1 WHERE b IS NULL;", ["data-apart"]),
        ("INSERT INTO old (a) VALUES (1); COMMENT ON TABLE old IS 'x';", ["data-apart"]),
        ("UPDATE old SET a = 1 WHERE a = 2; DELETE FROM old WHERE a = 3;", []),
        ("CREATE TABLE n (a int); INSERT INTO n (a) VALUES (1);", []),
        ("CREATE TABLE s.n (a int); INSERT INTO public.n (a) VALUES (1);", ["data-apart"]),
    ],
)
def test_rows_and_schema_change_apart(tmp_path: Path, up: str, found_rules: list[str]) -> None:
    found = check(tmp_path, OLD, up, risk="high")
    assert [rule for rule in rules(found) if rule == "data-apart"] == found_rules
    assert {finding.severity for finding in found if finding.rule == "data-apart"} <= {"warning"}


TWO = "CREATE TABLE old (id int PRIMARY KEY, a int); CREATE TABLE other (id int PRIMARY KEY, a int);"
BOTH = "ALTER TABLE old ADD COLUMN b int;\nALTER TABLE other ADD COLUMN b int;\nALTER TABLE old ADD COLUMN c int;"
NEW = "CREATE TABLE n (id int PRIMARY KEY, a int);"


def of_one_step(root: Path, up: str, transaction: bool = True, **keys: Any) -> list[Finding]:
    """What lint finds in a step of SQL on two tables of an earlier version."""
    step = {"sql": {"up": "up.sql.j2", "down": "down.sql.j2", **keys}}
    return check(root, TWO, up, steps=[step], transaction=transaction)


def test_a_step_locks_one_table_that_is_in_use(tmp_path: Path) -> None:
    (found,) = of_one_step(tmp_path, BOTH)
    assert (found.rule, found.severity, found.line) == ("R44", "error", 2)
    assert "other is asked for while old of line 1 is held" in found.message
    assert "a sql step for each table" in found.message


@pytest.mark.parametrize(
    ("up", "found"),
    [
        (
            "ALTER TABLE old ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES other ON UPDATE CASCADE ON DELETE CASCADE NOT VALID;",
            False,
        ),
        (f"{NEW} ALTER TABLE n ADD COLUMN c int; ALTER TABLE old ADD COLUMN b int;", False),
        ("COMMENT ON TABLE old IS 'x'; COMMENT ON TABLE other IS 'x';", False),
        ("ALTER TABLE old SET (fillfactor = 90); ALTER TABLE other SET (fillfactor = 90);", False),
        ("ALTER TABLE old ADD COLUMN b int; ALTER TABLE old ADD COLUMN c int;", False),
        ("DROP INDEX i; DROP INDEX j;", False),
        ("DO $$ BEGIN ALTER TABLE old ADD COLUMN b int; ALTER TABLE other ADD COLUMN b int; END $$;", True),
        ("DROP TRIGGER t ON old; DROP TRIGGER t ON other;", True),
        (f"{NEW} DROP POLICY p ON old; DROP POLICY p ON other;", True),
    ],
)
def test_what_counts_as_several_tables(tmp_path: Path, up: str, found: bool) -> None:
    assert ("R44" in rules(of_one_step(tmp_path, up))) is found


def test_an_index_that_goes_locks_its_table_whichever_version_made_it(tmp_path: Path) -> None:
    up = "ALTER TABLE old ADD COLUMN b int; DROP INDEX other_a;"
    assert "R44" in rules(check(tmp_path, f"{TWO} CREATE INDEX other_a ON other (a);", up))
    assert "R44" not in rules(check(tmp_path, f"{TWO} CREATE INDEX other_a ON old (a);", up))
    index = yaml.safe_dump([{"name": "other_a", "table": "other", "columns": ["a"], "why": "w"}])
    steps = [{"indexes": "indexes.yml"}, {"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}}]
    assert "R44" in rules(check(tmp_path, TWO, up, files={"indexes.yml": index}, steps=steps))


def test_several_tables_are_declared_or_have_a_transaction_each(tmp_path: Path) -> None:
    assert of_one_step(tmp_path, BOTH, together="code reads them as one") == []
    assert of_one_step(tmp_path, BOTH, transaction=False) == []
    assert (
        of_one_step(
            tmp_path,
            BOTH.replace("\nALTER TABLE other", "\n-- pgops: allow R44 because they are one\nALTER TABLE other"),
        )
        == []
    )


@pytest.mark.parametrize(
    ("keys", "transaction", "told"),
    [
        ({"together": " "}, True, "says why"),
        ({"together": "one"}, False, "each has its own"),
        ({"togehter": "one"}, True, "did you mean 'together'?"),
        ({"together": True}, True, "together"),
    ],
)
def test_together_says_why(tmp_path: Path, keys: dict[str, Any], transaction: bool, told: str) -> None:
    found = of_one_step(tmp_path, BOTH, transaction, **keys)
    assert any(told in finding.message and finding.file.endswith("migration.yml") for finding in found)


def test_together_is_no_part_of_what_runs(tmp_path: Path) -> None:
    """An approval of the rendered SQL holds; the file is another, as with any key of migration.yml."""
    of_one_step(tmp_path, BOTH)
    before = migration_tree.render(migration_tree.read_tree(tmp_path))[-1]
    of_one_step(tmp_path, BOTH, together="code reads them as one")
    after = migration_tree.render(migration_tree.read_tree(tmp_path))[-1]
    assert (after["rendered_checksum"], after["steps"]) == (before["rendered_checksum"], before["steps"])


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_lists_each_rule_and_no_other() -> None:
    page = (SQL.parent / "docs" / "write-a-migration.md").read_text(encoding="utf-8")
    assert (
        dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", page.partition("## What lint finds")[2], re.MULTILINE)) == RULES
    )


def test_the_example_of_the_page_passes_lint(tree: Path) -> None:
    example = SQL.parent / "docs" / "examples" / "add_student_nickname"
    shutil.copytree(example, tree / "migrations" / "20260101000000_add_student_nickname")
    assert lint(migration_tree.scan_tree(tree)) == []
