# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Lint of the files of other tools: what each tool puts around them, its placeholders, its ledger, its ways down, its names."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_lint import command, files, reading, rules
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_lint.script import read
from support.lint_corpus import ToolPiece, tool_pieces

TIMEOUT = "SET lock_timeout = '2s';\n"
CHECK = "ALTER TABLE users ADD CONSTRAINT c CHECK (age > 0) NOT VALID;\nALTER TABLE users VALIDATE CONSTRAINT c;\n"
CONCURRENTLY = "CREATE INDEX CONCURRENTLY i ON users (a);\n"


def lint(text: str, file: str = "f.sql", transaction: str = "auto") -> list[reading.Problem]:
    return reading.lint_script(read(text, file, transaction), rules.levels_of({}))[0]


def found(text: str, file: str = "f.sql", transaction: str = "auto") -> list[tuple[str, str, int]]:
    return [(p.rule, p.level, p.line) for p in lint(text, file, transaction)]


# --- what a tool puts around a file -----------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", tool_pieces(), ids=lambda p: p.file)
def test_a_file_is_read_as_its_tool_runs_it(tmp_path: Path, piece: ToolPiece) -> None:
    problems = files.lint_scripts(files.scripts_of([piece.put(tmp_path)]))
    if piece.rule:
        assert piece.rule in {p.rule for p in problems if p.level == rules.ERROR}
    else:
        assert [p for p in problems if p.level != rules.NOTE] == []


def test_flyway_runs_a_file_without_a_transaction_or_refuses_it() -> None:
    (problem,) = lint(f"{CONCURRENTLY}COMMENT ON TABLE users IS 'x';", "V1__x.sql")
    assert (problem.rule, problem.line) == ("R06", 1)
    assert problem.message.startswith("Flyway refuses a file in which CREATE INDEX CONCURRENTLY stands beside")
    allowed = f"-- pgops: allow R06 because flyway.mixed is on\n{CONCURRENTLY}{TIMEOUT}{CHECK}"
    # Then it has no transaction at all.
    assert lint(allowed, "V1__x.sql") == []


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("V1__x.sql", "the transaction that Flyway opens around the file"),
        ("1_x.up.sql", "the one query that golang-migrate makes of the file"),
        ("20240101000000_x/migration.sql", "the one query that Prisma makes of the file"),
    ],
)
def test_the_transaction_that_nobody_wrote_is_named(file: str, place: str) -> None:
    (problem,) = lint(TIMEOUT + CHECK, file)
    assert (
        f"while ACCESS EXCLUSIVE of line 2 is held, in {place}; instead: VALIDATE CONSTRAINT in a later file"
        in problem.message
    )
    (problem,) = lint("SELECT 1;\nREINDEX TABLE CONCURRENTLY users;\n", file)
    assert (
        f"REINDEX CONCURRENTLY cannot run in {place}; instead: a file of its own, with nothing beside it"
        in problem.message
    )


@pytest.mark.parametrize(
    ("file", "transaction", "rule"),
    [
        ("x.sql", "auto", None),
        ("1_clean_up.sql", "auto", None),
        ("1_x.down.sql", "auto", "R19"),
        ("U1__x.sql", "auto", "R19"),
        ("x.sql", "statement", None),
        ("x.sql", "file", "R19"),
        ("V1__x.sql", "statement", None),
        ("1_x.up.sql", "statement", None),
        ("V1__x.sql", "file", "R19"),
    ],
)
def test_how_other_tools_run_a_file_is_said(file: str, transaction: str, rule: str | None) -> None:
    assert [p.rule for p in lint(TIMEOUT + CHECK, file, transaction)] == ([rule] if rule else [])


def test_a_mark_in_the_file_says_more_than_its_name_and_the_choice() -> None:
    alone = f"-- +goose NO TRANSACTION\n-- +goose Up\n{TIMEOUT}{CHECK}"
    assert lint(alone, "V1__x.sql", "file") == []
    assert [p.rule for p in lint(f"-- migrate:up\n{TIMEOUT}{CHECK}", "x.sql", "statement")] == ["R19"]


def test_a_begin_in_a_file_of_one_query_is_no_second_one() -> None:
    text = f"BEGIN;\n{TIMEOUT}ALTER TABLE users ADD COLUMN a int;\nCOMMIT;\n"
    assert lint(text, "1_x.up.sql") == []
    assert found(text, "V1__x.sql") == [("R55", "error", 1)]
    assert "inside of a transaction, Flyway's own, is only" in lint(text, "V1__x.sql")[0].message
    assert found(f"BEGIN;\n{TIMEOUT}ALTER TABLE users ADD COLUMN a int;\n", "1_x.up.sql") == [("R55", "error", 1)]


def test_what_follows_a_commit_is_the_next_transaction() -> None:
    text = f"{TIMEOUT}ALTER TABLE users ADD COLUMN a int;\nCOMMIT;\nALTER TABLE orders ADD COLUMN a int;\n{{}}"
    for file in ("V1__x.sql", "1_x.up.sql"):
        assert found(text.format(""), file) == []
        assert found(text.format("ALTER TABLE users ADD COLUMN b int;"), file) == [("R44", "error", 5)]
    # A tool that sends each statement by itself has none left.
    assert found("-- +goose Up\n" + text.format("ALTER TABLE users ADD COLUMN b int;")) == []


def test_a_remark_about_a_migration_is_no_mark() -> None:
    assert found(f"-- Up migration of the users\n{TIMEOUT}{CHECK}") == []
    assert found(f"-- No down migration\n{TIMEOUT}DROP TABLE users;") == [("R34", "error", 3)]


def test_a_setting_of_an_earlier_changeset_holds_and_a_local_one_ends_with_it() -> None:
    text = "--liquibase formatted sql\n--changeset a:1\nSET {}lock_timeout = '2s';\n--changeset a:2\nALTER TABLE users ADD a int;\n"
    assert found(text.format("")) == []
    assert found(text.format("LOCAL ")) == [("R01", "error", 5)]
    (problem,) = lint(f"--liquibase formatted sql\n--changeset a:1\n{TIMEOUT}{CHECK}")
    assert problem.message.endswith("opens around the changeset; instead: VALIDATE CONSTRAINT in a later changeset")


# --- placeholders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("CREATE TABLE ${schema}.thing (id bigint PRIMARY KEY, name text DEFAULT '${name}');", []),
        ("ALTER TABLE ${table} ADD COLUMN a int;", []),
        ("ALTER TABLE ${user} ADD COLUMN a int;", []),
        ('ALTER TABLE "${schema}"."${table}" ADD COLUMN a int;', []),
        ("ALTER TABLE app_${env}_users ADD COLUMN a varchar(${length});", []),
        ("DROP TABLE ${schema}.users;", [("R34", "error", 2)]),
        ("DO $$\nBEGIN\n  DELETE FROM ${schema}.users;\nEND $$;", [("R41", "error", 4)]),
        ("DO $body$ BEGIN EXECUTE 'DROP TABLE ${schema}.users'; END $body$;", [("R34", "error", 2)]),
        ("INSERT INTO t VALUES ('${greeting} 5\" ', $${1}$$), (${id}, '{}');", []),
        ("${ddl};\nDROP TABLE users;", [("R53", "note", 2), ("R34", "error", 3)]),
    ],
)
def test_a_placeholder_stands_for_a_name_or_a_number(text: str, wanted: list[tuple[str, str, int]]) -> None:
    assert found(TIMEOUT + text) == wanted


def test_what_is_no_sql_can_be_allowed() -> None:
    text = f"{TIMEOUT}-- pgops: allow syntax because the tool reads it\nNOTIFY THE BOSS;\nSELEC 1;\nDROP TABLE users;\n"
    assert found(text) == [("syntax", "error", 4), ("R34", "error", 5)]


# --- ledgers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE alembic_version SET version_num='b' WHERE alembic_version.version_num = 'a'",
        "DELETE FROM public.schema_migrations WHERE version = '1'",
        'UPDATE "DATABASECHANGELOGLOCK" SET locked = false WHERE id = 1',
        "DELETE FROM \"SequelizeMeta\" WHERE name = 'x'",
    ],
)
def test_the_ledger_of_a_tool_is_its_own_affair(statement: str) -> None:
    text = f"{TIMEOUT}BEGIN;\nALTER TABLE users ADD COLUMN a int;\n{{}};\nCOMMIT;\n"
    assert found(text.format(statement)) == []
    assert found(text.format("UPDATE settings SET a = 1 WHERE id = 5")) == [("R42", "warning", 4)]
    # To empty it is no affair of a tool.
    assert ("R41", "error", 2) in found(f"{TIMEOUT}DELETE FROM alembic_version;")


# --- which files ------------------------------------------------------------------------------------------------------


def test_a_folder_with_nothing_to_read_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.txt").write_text("")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.sql").write_text("SELECT 1;")
    with pytest.raises(ValueError, match=r"holds no file that ends with \.sql$"):
        files.files_of([tmp_path])
    assert command.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"pgops-lint: {tmp_path} holds no file that ends with .sql\n"
    (tmp_path / "1.down.sql").write_text("SELECT 1;")
    with pytest.raises(ValueError, match="holds ways down only, 1 of them$"):
        files.files_of([tmp_path])
    assert files.files_of([tmp_path], ways_down=True).files == [tmp_path / "1.down.sql"]


def test_an_ending_in_capitals_is_read(tmp_path: Path) -> None:
    for name in ("V1__A.SQL", "V2__b.Sql", "U1__A.SQL"):
        (tmp_path / name).write_text("DROP TABLE users;")
    assert [path.name for path in files.files_of([tmp_path]).files] == ["V1__A.SQL", "V2__b.Sql"]


@pytest.mark.parametrize(
    ("name", "beside", "is_down"),
    [
        ("1_x.down.sql", "", True),
        ("1_X.DOWN.SQL", "", True),
        ("down.sql", "", True),
        ("U2__x.sql", "", True),
        ("x.rollback.sql", "", True),
        ("20240101-x-down.sql", "20240101-x-up.sql", True),
        ("x_rollback.sql", "x.sql", True),
        ("V7__scale_down.sql", "", False),
        ("V8__rollback.sql", "", False),
        ("0009_slow_down.sql", "0008_x.sql", False),
        ("users.sql", "", False),
    ],
)
def test_what_is_a_way_down(tmp_path: Path, name: str, beside: str, is_down: bool) -> None:
    for file in filter(None, (name, beside)):
        (tmp_path / file).write_text("SELECT 1;")
    chosen = files.files_of([tmp_path / name])
    assert ([p.name for p in chosen.left_out], len(chosen.files)) == (([name], 0) if is_down else ([], 1))


def test_the_hook_leaves_ways_down_out_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    up, down = tmp_path / "000001_orders.up.sql", tmp_path / "000001_orders.down.sql"
    up.write_text("CREATE TABLE orders (id bigint PRIMARY KEY);")
    down.write_text("DROP TABLE orders;")
    assert command.main([str(up), str(down)]) == 0
    assert capsys.readouterr().out == "1 way down left out; --ways-down reads them\n"
    assert command.main([str(down)]) == 0
    capsys.readouterr()
    assert command.main([str(up), str(down), "--ways-down"]) == 1
    out = capsys.readouterr().out
    assert f"{down}:1" in out
    assert "left out" not in out


def test_the_command_takes_how_a_file_is_run(tmp_path: Path) -> None:
    file = tmp_path / "x.sql"
    file.write_text(TIMEOUT + CHECK)
    assert command.main([str(file)]) == 0
    assert command.main([str(file), "--transaction", "file"]) == 1


# --- a default that goes ----------------------------------------------------------------------------------------------

ADD = "ALTER TABLE users ADD COLUMN slug varchar(50) NOT NULL DEFAULT ''"
DROP = "ALTER TABLE users ALTER COLUMN slug DROP DEFAULT"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{ADD};\n{DROP};", 3),
        (f"BEGIN;\n{ADD};\n{DROP};\nCOMMIT;", 4),
        (f"{ADD}, ALTER COLUMN slug DROP DEFAULT;", 2),
        (f"{ADD.replace('NOT NULL', '')};\nALTER TABLE users ALTER COLUMN slug SET NOT NULL;\n{DROP};", 4),
        (f"{ADD.replace('NOT NULL', '')};\n{DROP};", None),
        (f"{ADD};\n{DROP};\nALTER TABLE users ALTER COLUMN slug SET DEFAULT 'x';", None),
        (f"{ADD};\n{DROP};\nALTER TABLE users ALTER COLUMN slug DROP NOT NULL;", None),
        (f"{ADD};\nALTER TABLE users ALTER COLUMN name DROP DEFAULT;", None),
        (f"CREATE TABLE users (id bigint PRIMARY KEY);\n{ADD};\n{DROP};", None),
        (DROP, None),
    ],
)
def test_a_new_required_column_keeps_its_default(text: str, line: int | None) -> None:
    assert [p.line for p in lint(TIMEOUT + text) if p.rule == "R31"] == ([line] if line else [])
