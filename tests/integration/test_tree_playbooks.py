# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""lint.yml and new_migration.yml as an operator types them: no limit, no database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.site import Playbook


@pytest.fixture
def sql(playbook: Playbook) -> Path:
    return playbook.copy_sql()


@pytest.mark.slow
def test_lint_needs_no_limit_and_finds_the_shipped_tree_sound(playbook: Playbook) -> None:
    result = playbook("lint.yml", limit=None)
    assert result.rc == 0, result.output
    assert ", 0 errors, 0 warnings in " in result.stdout
    assert result.json is not None
    assert (result.json["playbook"], result.json["ok"], result.json["findings"]) == ("lint", True, [])


def test_lint_lists_every_fault_with_file_and_line_and_fails(playbook: Playbook, sql: Path) -> None:
    folder = sql / "migrations" / "20250103000000_create_base_schema"
    with (folder / "up.sql.j2").open("a") as file:
        file.write("SELEC 1;\n")
    (folder / "stray.sql.j2").write_text("SELECT 1;\n")
    result = playbook("lint.yml", limit=None, pgops_sql=str(sql))
    assert result.rc == 2
    lines = len((folder / "up.sql.j2").read_text().splitlines())
    assert f'{folder.name}/up.sql.j2:{lines}  syntax error at or near "SELEC" [syntax]' in result.stdout
    assert f"{folder.name}/stray.sql.j2  migration.yml does not name the file" in result.stdout
    assert result.json is not None
    assert result.json["ok"] is False
    # Later versions miss what the broken file makes; that is told as well.
    of_folder = [finding for finding in result.json["findings"] if finding["file"].startswith(folder.name)]
    assert {finding["rule"] for finding in of_folder} == {"syntax", "file-unused"}
    assert result.json["error"]["message"].startswith(f"{folder.name}/stray.sql.j2: ")
    assert result.json["error"]["next"]
    met = sum(criterion["met"] for criterion in result.json["criteria"])
    assert (result.json["score"], len(result.json["criteria"])) == (met, 10)
    assert f"quality: {met} of 10 criteria are met" in result.stdout
    assert "not met: Every change is a migration that can be read (file-unused, syntax)" in result.stdout
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"pgops_sql": "/nowhere"}, "There is no folder /nowhere/migrations; pgops_sql must name"),
        ({"pgops_sq": "x"}, "pgops_sq (did you mean pgops_sql?)"),
    ],
)
def test_lint_refuses_what_it_does_not_know_in_one_sentence(
    playbook: Playbook, extra: dict[str, object], message: str
) -> None:
    result = playbook("lint.yml", limit=None, **extra)
    assert result.rc == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_lint_reads_files_of_any_tool_and_leaves_reports(playbook: Playbook, tmp_path: Path) -> None:
    folder = tmp_path / "other tool"
    folder.mkdir()
    (folder / "V1__users.sql").write_text("CREATE TABLE users (id bigint PRIMARY KEY);\n")
    bad = folder / "V2__email.sql"
    bad.write_text("SET lock_timeout = '1s';\n\nALTER TABLE users ALTER COLUMN email SET NOT NULL;\n")
    sarif, junit = tmp_path / "lint.sarif", tmp_path / "lint.xml"
    result = playbook("lint.yml", limit=None, lint_paths=str(folder), lint_report=[str(sarif), str(junit)])
    assert result.rc == 2
    assert f"error    {bad}:3  SET NOT NULL reads every row of users" in result.stdout
    assert result.json is not None
    (found,) = result.json["findings"]
    assert found.pop("message").startswith("SET NOT NULL reads every row of users")
    assert found == {"file": str(bad), "line": 3, "rule": "R20", "level": "error"}
    assert (result.json["errors"], result.json["ok"]) == (1, False)
    assert json.loads(sarif.read_text())["runs"][0]["results"][0]["ruleId"] == "R20"
    assert 'failures="1"' in junit.read_text()
    assert f'"lint_paths": "{folder}"' in result.json["error"]["next"][0]
    safe = playbook("lint.yml", limit=None, lint_paths=str(folder), lint_levels={"R20": "warning"})
    assert (safe.rc, safe.json["ok"], safe.json["warnings"]) == (0, True, 1)


def test_lint_asks_the_database_that_is_named(playbook: Playbook, tmp_path: Path) -> None:
    file = tmp_path / "a.sql"
    file.write_text("SET lock_timeout = '1s';\nALTER TABLE users ALTER COLUMN name TYPE varchar(200);\n")
    server = playbook.server
    server.execute("CREATE TABLE users (name varchar(20)); INSERT INTO users VALUES ('x')", database=playbook.database)
    alone = playbook("lint.yml", limit=None, lint_paths=str(file))
    assert alone.json is not None
    assert [(f["rule"], f["level"]) for f in alone.json["findings"]] == [("R25", "warning")]
    at_hand = {
        "pgops_host": server.host,
        "pgops_port": server.port,
        "pgops_database": playbook.database,
        "pgops_user": "postgres",
        "pgops_passfile": str(server.passfile),
    }
    asked = playbook("lint.yml", limit=None, lint_paths=str(file), **at_hand)
    assert (asked.rc, asked.json["findings"]) == (0, [])
    lost = playbook("lint.yml", limit=None, lint_paths=str(file), **{**at_hand, "pgops_port": 1})
    assert lost.rc == 2
    assert "-e lint_catalog=false reads the files alone" in lost.json["error"]["message"]


def test_lint_reads_as_it_is_told_and_never_nothing(playbook: Playbook, tmp_path: Path) -> None:
    folder = tmp_path / "db"
    folder.mkdir()
    empty = playbook("lint.yml", limit=None, lint_paths=str(folder))
    assert empty.rc == 2
    message = f"Nothing is read, {folder} holds no file that ends with .sql; correct lint_paths"
    assert empty.json["error"]["message"] == message
    check = "ALTER TABLE users ADD CONSTRAINT c CHECK (age > 0) NOT VALID;\nALTER TABLE users VALIDATE CONSTRAINT c;\n"
    (folder / "A.SQL").write_text(f"SET lock_timeout = '1s';\n{check}")
    (folder / "A.down.sql").write_text("SET lock_timeout = '1s';\nALTER TABLE users DROP CONSTRAINT c;\n")
    plain = playbook("lint.yml", limit=None, lint_paths=str(folder))
    assert (plain.rc, plain.json["findings"], plain.json["left_out"]) == (0, [], 1)
    assert "1 files, 0 errors, 0 warnings, 0 notes" in plain.stdout
    assert "1 way down left out; -e lint_ways_down=true reads them" in plain.stdout
    told = {"lint_transaction": "file", "lint_ways_down": True}
    whole = playbook("lint.yml", limit=None, lint_paths=str(folder), **told)
    assert whole.rc == 2
    assert [(Path(f["file"]).name, f["rule"]) for f in whole.json["findings"]] == [
        ("A.SQL", "R19"),
        ("A.down.sql", "R36"),
    ]
    assert "-e lint_transaction=file" in whole.json["error"]["next"][0]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            {"lint_paths": "lint.yml", "lint_transaction": "files"},
            "lint_transaction is 'files': it is auto, file, statement",
        ),
        ({"lint_paths": "/nowhere"}, "There is no file or folder /nowhere; correct lint_paths"),
        (
            {"lint_paths": "lint.yml", "lint_levels": {"R5": "off"}},
            "lint_levels: there is no rule 'R5'; did you mean 'R5",
        ),
        (
            {"lint_paths": "lint.yml", "lint_report": "x.pdf"},
            "lint_report: x.pdf ends with none of .json, .sarif, .xml",
        ),
        ({"lint_pathss": "x"}, "lint_pathss (did you mean lint_paths?)"),
    ],
)
def test_lint_of_files_refuses_what_it_cannot_use_in_one_sentence(
    playbook: Playbook, extra: dict[str, object], message: str
) -> None:
    result = playbook("lint.yml", limit=None, **extra)
    assert result.rc == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_the_command_for_a_safe_name_is_for_the_same_tree(playbook: Playbook, sql: Path) -> None:
    result = playbook("new_migration.yml", limit=None, new_migration_name="../../x", pgops_sql=str(sql))
    assert result.rc == 2
    assert result.json is not None
    told = result.json["error"]["message"].partition("type: ")[2]
    assert "new_migration_name=x" in told
    assert f'{{"pgops_sql": "{sql}"}}' in told


def test_a_new_migration_is_shown_then_written_then_passes_lint_and_is_not_overwritten(
    playbook: Playbook, sql: Path
) -> None:
    before = sorted(path.name for path in (sql / "migrations").iterdir())
    extra = {"new_migration_name": "add_x", "pgops_sql": str(sql)}

    shown = playbook("new_migration.yml", "--check", "--diff", limit=None, **extra)
    assert shown.rc == 0, shown.output
    assert sorted(path.name for path in (sql / "migrations").iterdir()) == before
    for name in ("migration.yml", "up.sql.j2", "down.sql.j2", "verify.sql.j2"):
        assert f"_add_x/{name}" in shown.stdout
    assert "+title: 'Add x'" in shown.stdout

    written = playbook("new_migration.yml", limit=None, **extra)
    assert written.rc == 0, written.output
    (new,) = sorted({path.name for path in (sql / "migrations").iterdir()} - set(before))
    assert new.endswith("_add_x")
    assert new > max(before)
    assert written.json is not None
    assert written.json["version"] == new.split("_")[0]
    assert playbook("lint.yml", limit=None, pgops_sql=str(sql)).rc == 0

    again = playbook("new_migration.yml", limit=None, **extra)
    assert again.rc == 2
    assert "exists already and is not overwritten" in again.output


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            {},
            "needs a name that says what it does, type: ansible-playbook new_migration.yml -e new_migration_name=add_x",
        ),
        ({"new_migration_nam": "add_x"}, "new_migration_nam (did you mean new_migration_name?)"),
    ],
)
def test_a_new_migration_without_a_safe_name_is_refused(
    playbook: Playbook, sql: Path, extra: dict[str, str], message: str
) -> None:
    before = sorted((sql / "migrations").iterdir())
    result = playbook("new_migration.yml", limit=None, pgops_sql=str(sql), **extra)
    assert result.rc == 2
    assert message in result.output
    assert sorted((sql / "migrations").iterdir()) == before
    assert json.dumps(result.json)


@pytest.mark.slow
def test_what_is_scaffolded_applies_and_goes_back(playbook: Playbook, sql: Path) -> None:
    playbook("new_migration.yml", limit=None, new_migration_name="add_x", pgops_sql=str(sql))
    applied = playbook("migrate.yml", pgops_phases=["plan", "apply", "verify", "report"])
    assert applied.rc == 0, applied.output
    reverted = playbook("rollback.yml", rollback_strategy="down", rollback_confirm=playbook.database)
    assert reverted.rc == 0, reverted.output
    assert "add_x" in reverted.output


@pytest.mark.slow
def test_a_pattern_is_scaffolded_with_what_it_asks_for(playbook: Playbook, sql: Path) -> None:
    before = {path.name for path in (sql / "migrations").iterdir()}
    extra = {
        "pgops_sql": str(sql),
        "new_migration_name": "rename_photo",
        "new_migration_pattern": "rename_column",
        "new_migration_table": "students",
        "new_migration_column": "photo",
        "new_migration_to": "picture",
    }
    refused = playbook("new_migration.yml", limit=None, **extra)
    assert refused.rc == 2
    assert "The pattern rename_column needs new_migration_type (the type, such as varchar(100))" in refused.output
    assert {path.name for path in (sql / "migrations").iterdir()} == before
    misspelt = playbook("new_migration.yml", limit=None, new_migration_tpye="text", **extra)
    assert misspelt.rc == 2
    assert "new_migration_tpye (did you mean new_migration_type?)" in misspelt.output

    written = playbook("new_migration.yml", "--diff", limit=None, new_migration_type="varchar(500)", **extra)
    assert written.rc == 0, written.output
    new = sorted({path.name for path in (sql / "migrations").iterdir()} - before)
    assert [name.split("_", 1)[1] for name in new] == [
        "rename_photo_expand",
        "rename_photo_backfill",
        "rename_photo_contract",
    ]
    assert written.json is not None
    assert [made["version"] for made in written.json["migrations"]] == [name.split("_")[0] for name in new]
    assert "+ALTER TABLE public.students ADD COLUMN picture varchar(500);" in written.stdout
    assert playbook("lint.yml", limit=None, pgops_sql=str(sql)).rc == 0
