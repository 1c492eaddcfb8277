# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The rules for SQL: the rates over the corpus, each rule's table entry, comments that allow, files of other tools, reports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_lint import command, files, reading, reports, rules
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_lint.script import read
from support.lint_corpus import Piece, pieces

ROOT = Path(__file__).resolve().parents[2]
FOUND_AT_LEAST = 0.92
ALARMS_AT_MOST = 0.04


def lint(text: str, **how: object) -> list[reading.Problem]:
    return reading.lint_script(read(text, "f.sql"), rules.levels_of({}), **how)[0]  # type: ignore[arg-type]


def errors(text: str) -> set[str]:
    return {problem.rule for problem in lint(text) if problem.level == rules.ERROR}


@pytest.mark.parametrize("piece", [p for p in pieces("dangerous") if not p.catalog], ids=lambda p: p.id)
def test_what_hurts_is_found_under_its_rule(piece: Piece) -> None:
    assert piece.rule in errors(piece.text)


@pytest.mark.parametrize("piece", [p for p in pieces("safe") if not p.catalog], ids=lambda p: p.id)
def test_what_hurts_nobody_is_left_alone(piece: Piece) -> None:
    assert lint(piece.text) == []


def test_the_rates_over_the_corpus() -> None:
    dangerous = [p for p in pieces("dangerous") if not p.catalog]
    safe = [p for p in pieces("safe") if not p.catalog]
    found = sum(bool(errors(p.text)) for p in dangerous)
    alarms = sum(any(problem.level in (rules.ERROR, rules.WARNING) for problem in lint(p.text)) for p in safe)
    assert found / len(dangerous) > FOUND_AT_LEAST
    assert alarms / len(safe) < ALARMS_AT_MOST


def test_the_corpus_has_every_rule_that_is_an_error_by_itself() -> None:
    tried = {p.rule for p in pieces("dangerous")}
    by_itself = {name for name, rule in rules.table().items() if rule.level == rules.ERROR}
    # R68 would end the sessions of the test's own server.
    assert by_itself - tried == {"allow", "R68"}


def test_every_rule_is_told_whole_and_has_a_function() -> None:
    registered = {name for kind in rules._REGISTRY.checks.values() for name, _ in kind}
    for rule in rules.table().values():
        assert rule.level in rules.LEVELS
        assert rule.title
        assert rule.why.endswith(".")
        assert rule.instead
        assert rule.source
    assert registered | {"R16", "R53", "R57", "syntax", "allow"} == set(rules.table())


BLOCKING = "CREATE INDEX i ON users (a);"
TIMEOUT = "SET lock_timeout = '2s';\n"


@pytest.mark.parametrize(
    "text",
    [
        f"{TIMEOUT}-- pgops: allow R05 because it is a table of ten rows\n{BLOCKING}",
        f"{TIMEOUT}{BLOCKING} -- pgops: allow R05 because it is a table of ten rows",
        f"{TIMEOUT}/* pgops: allow R05, R11 because it is a table of ten rows */ {BLOCKING}",
        f"{TIMEOUT}{{# pgops: allow R05 because it is a table of ten rows #}}\n{BLOCKING}",
        f"-- pgops: allow-file R05 because it is a table of ten rows\n{TIMEOUT}SELECT 1;\n{BLOCKING}",
    ],
)
def test_a_comment_with_a_reason_allows_a_rule(text: str) -> None:
    assert lint(text) == []


@pytest.mark.parametrize("comment", ["pgops: allow R05", "pgops: allow R05 because", "pgops: allow R05 because ."])
def test_without_a_reason_it_allows_nothing_and_is_a_fault_itself(comment: str) -> None:
    assert errors(f"{TIMEOUT}-- {comment}\n{BLOCKING}") == {"allow", "R05"}


def test_it_allows_the_next_statement_only_and_no_other_rule() -> None:
    text = f"{TIMEOUT}-- pgops: allow R11 because it is small\n{BLOCKING}\n{BLOCKING}"
    assert [p.line for p in lint(text) if p.rule == "R05"] == [3, 4]
    assert errors(f"{TIMEOUT}-- pgops: allow R99 because it is small\n{BLOCKING}") == {"allow", "R05"}


def test_the_line_is_that_of_the_statement_and_inside_a_block_that_of_its_own() -> None:
    text = f"-- a remark\n{TIMEOUT}\n\n  -- another\n  {BLOCKING}\nDO $$\nBEGIN\n\n  UPDATE users SET a = 1;\nEND $$;\n"
    assert [(p.rule, p.line) for p in lint(text)] == [("R05", 6), ("R41", 10)]


def test_one_wrong_statement_does_not_hide_the_others() -> None:
    found = lint(f"{TIMEOUT}SELEC 1;\n{BLOCKING}")
    assert [(p.rule, p.line) for p in found] == [("syntax", 2), ("R05", 3)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"-- migrate:up\n{TIMEOUT}CREATE INDEX CONCURRENTLY i ON users (a);\n-- migrate:down\nDROP TABLE users;", {"R06"}),
        ("-- migrate:up transaction:false\nCREATE INDEX CONCURRENTLY i ON users (a);\n-- migrate:down\nDROP TABLE users;", set()),
        ("-- +goose Up\n-- +goose StatementBegin\nDROP TABLE users;\n-- +goose StatementEnd\n-- +goose Down\nSELECT 1;", {"R01", "R34"}),
        ("-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY i ON users (a);\n-- +goose Down\nDROP INDEX i;", set()),
        ("-- Up\nSELECT 1;\n-- Down\nDROP TABLE users;", set()),
    ],
)  # fmt: skip
def test_the_sections_of_other_tools_are_known(text: str, wanted: set[str]) -> None:
    assert errors(text) == wanted


def test_psql_around_the_sql_is_put_aside() -> None:
    text = f"\\set ON_ERROR_STOP on\n{TIMEOUT}\\echo 'x'\nCOPY t (a) FROM stdin;\n1\tx;y\n\\.\nALTER TABLE :t ADD COLUMN a int;\n"
    assert lint(text) == []
    assert errors("SELECT 'DROP TABLE ' || quote_ident(relname) FROM pg_class \\gexec") == {"R01", "R34", "R44"}


def test_a_folder_is_read_by_name_without_the_ways_down(tmp_path: Path) -> None:
    for name in ("V10__b.sql", "V2__a.sql", "U2__a.sql", "3.up.sql", "3.down.sql", ".hidden/x.sql", "x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("SELECT 1;")
    assert [path.name for path in files.files_of([tmp_path]).files] == ["3.up.sql", "V2__a.sql", "V10__b.sql"]
    with pytest.raises(FileNotFoundError):
        files.files_of([tmp_path / "nowhere"])


def test_files_stand_alone_unless_they_run_together(tmp_path: Path) -> None:
    (tmp_path / "1.sql").write_text("CREATE TABLE rooms (id bigint PRIMARY KEY);")
    (tmp_path / "2.sql").write_text("CREATE INDEX i ON rooms (id);")
    scripts = files.scripts_of(files.files_of([tmp_path]).files)
    assert {p.rule for p in files.lint_scripts(scripts)} == {"R01", "R05"}
    assert files.lint_scripts(scripts, together=True) == []


def test_a_level_is_a_choice_and_a_wrong_one_is_refused() -> None:
    script = read(f"{TIMEOUT}{BLOCKING}", "f.sql")
    assert reading.lint_script(script, rules.levels_of({"R05": "off"}))[0] == []
    assert [p.level for p in reading.lint_script(script, rules.levels_of({"R05": "note"}))[0]] == ["note"]
    assert {p.rule for p in reading.lint_script(script, rules.levels_of({"R05": False, "R03": "warning"}))[0]} == {
        "R03"
    }
    with pytest.raises(ValueError, match="R5"):
        rules.levels_of({"R5": "off"})
    with pytest.raises(ValueError, match="fatal"):
        rules.levels_of({"R05": "fatal"})


def test_the_reports_say_file_line_rule_and_level(tmp_path: Path) -> None:
    file = tmp_path / "a.sql"
    file.write_text(f"{TIMEOUT}{BLOCKING}\nCREATE TABLE t (id int PRIMARY KEY);\n")
    names = [str(file)]
    problems = files.lint_scripts(files.scripts_of([file]))
    assert json.loads(reports.as_json(problems, names))["findings"][0]["line"] == 2
    sarif = json.loads(reports.as_sarif(problems, names))
    assert sarif["version"] == "2.1.0"
    (run,) = sarif["runs"]
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [("R05", "error"), ("R56", "note")]
    assert [run["tool"]["driver"]["rules"][r["ruleIndex"]]["id"] for r in run["results"]] == ["R05", "R56"]
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]) == (file.as_uri(), {"startLine": 2})
    suite = ElementTree.fromstring(reports.as_junit(problems, names))
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.get("type") == "R05"
    with pytest.raises(ValueError, match=r"\.sarif"):
        reports.write(tmp_path / "x.pdf", problems, names)


def test_the_command_ends_with_1_for_an_error_and_2_where_it_cannot_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.sql", tmp_path / "bad.sql"
    good.write_text("SELECT 1;")
    bad.write_text(BLOCKING)
    assert command.main([str(good)]) == 0
    assert command.main([str(bad), "--report", str(tmp_path / "r.sarif")]) == 1
    assert f"{bad}:1" in capsys.readouterr().out
    assert (tmp_path / "r.sarif").is_file()
    assert command.main([str(bad), "--level", "R05=off", "--level", "R01=note"]) == 0
    assert command.main([str(tmp_path / "nowhere")]) == 2
    assert re.search("there is no .*nowhere", capsys.readouterr().err)


def test_one_missing_lock_timeout_is_told_once_a_file() -> None:
    text = "ALTER TABLE users ADD COLUMN a int;\nALTER TABLE users ADD COLUMN b int;\n"
    assert [(p.rule, p.line) for p in lint(text)] == [("R01", 1)]


def test_the_page_has_the_table_of_the_rules() -> None:
    page = (ROOT / "docs" / "lint.md").read_text()
    for name, rule in rules.table().items():
        assert f"| `{name}` | {rule.level} | {rule.title}. | {rule.instead} |\n" in page
    assert page.count("\n| `") == len(rules.table()) + 7


def test_the_hook_runs_what_the_package_installs_without_ansible_and_psycopg2(tmp_path: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"][hook["entry"]].partition(":")
    (pinned,) = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("pglast==")]
    assert pinned in project["dependencies"]
    file = tmp_path / "a.sql"
    file.write_text(BLOCKING)
    start = f"import sys; sys.modules['ansible'] = sys.modules['psycopg2'] = None; from {module} import {function}; sys.exit({function}())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "collections")}
    done = subprocess.run(
        [sys.executable, "-c", start, str(file)], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert f"{file}:1" in done.stdout


def test_a_foreign_key_of_a_new_column_wants_its_index_in_the_file() -> None:
    made = f"{TIMEOUT}CREATE TABLE b (id bigint PRIMARY KEY, a_id bigint REFERENCES a);\n"
    assert [(p.rule, p.level) for p in lint(made)] == [("R16", "note")]
    assert lint(f"{made}CREATE INDEX ON b (a_id);\n") == []


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        ("lock_timeout = '3s'", [("R08", "error")]),
        ("lock_timeout = '5s'", [("R08", "note")]),
        ("lock_timeout = '6s'", []),
        ("statement_timeout = '5s'", [("R08", "error")]),
        ("statement_timeout = '30s'", [("R08", "note")]),
        ("statement_timeout = '10min'", []),
        ("lock_timeout = 0", []),
    ],
)
@pytest.mark.parametrize(
    "statement",
    ["CREATE INDEX CONCURRENTLY i ON users (a);", "REINDEX TABLE CONCURRENTLY users;", "DROP INDEX CONCURRENTLY i;"],
)
def test_a_short_timeout_at_a_concurrent_statement(statement: str, limit: str, found: list[tuple[str, str]]) -> None:
    assert [(p.rule, p.level) for p in lint(f"SET {limit};\n{statement}")] == found
    assert lint(f"SET {limit};\nRESET ALL;\n{statement}") == []


def test_in_a_transaction_it_is_refused_and_nothing_invalid_stays() -> None:
    assert errors(f"{TIMEOUT}BEGIN; CREATE INDEX CONCURRENTLY i ON users (a); COMMIT;") == {"R06"}


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("users_email_address_not_null", None),
        ("chk_users_email_nn", None),
        ("emailNotNull", None),
        ("users_email_address_null", None),
        ("user_not_null", None),
        ("users_email_address_check", "note"),
        ("users_age_not_null", "error"),
        ("email_short", "error"),
    ],
)
def test_what_the_name_of_a_constraint_that_goes_later_proves(name: str, level: str | None) -> None:
    text = f'{TIMEOUT}ALTER TABLE users ALTER COLUMN email_address SET NOT NULL;\nALTER TABLE users DROP CONSTRAINT "{name}";'
    assert [p.level for p in lint(text) if p.rule == "R20"] == ([level] if level else [])


def test_a_constraint_with_another_name_still_proves() -> None:
    made = (
        "ALTER TABLE users ADD CONSTRAINT c CHECK (age IS NOT NULL) NOT VALID; ALTER TABLE users VALIDATE CONSTRAINT c;"
    )
    renamed = f"{TIMEOUT}{made}ALTER TABLE users RENAME CONSTRAINT c TO d;"
    assert errors(f"{renamed}ALTER TABLE users ALTER COLUMN age SET NOT NULL;") == set()
    gone = f"{renamed}ALTER TABLE users DROP CONSTRAINT d; ALTER TABLE users ALTER COLUMN age SET NOT NULL;"
    assert errors(gone) == {"R20"}
    assert (
        errors(
            f"{renamed}BEGIN; ALTER TABLE users DROP CONSTRAINT d; ROLLBACK; ALTER TABLE users ALTER age SET NOT NULL;"
        )
        - {"R04"}
        == set()
    )


@pytest.mark.parametrize(
    ("condition", "level"),
    [
        ("id BETWEEN 1 AND 10000", None),
        ("id BETWEEN 1 AND 50000", None),
        ("id BETWEEN '1' AND '1000000'", "error"),
        ("id BETWEEN 3000000000 AND 3000005000", None),
        ("id BETWEEN 3000000000 AND 3000500000", "error"),
        ("id > 0 AND id < 1000000 AND org_id = 5", None),
        ("id >= $1 AND id < $2", None),
        ("id < 5000", None),
        ("id IN (SELECT id FROM users LIMIT 5000)", None),
        ("id IN (SELECT id FROM users LIMIT $1)", None),
        ("id IN (SELECT id FROM users WHERE age > 3 LIMIT ALL)", "error"),
        ("id = ANY (ARRAY(SELECT id FROM users LIMIT 100000000))", "error"),
        ("id BETWEEN 1 AND (SELECT max(id) FROM users)", "error"),
        ("id BETWEEN (SELECT coalesce(min(id), 0) FROM users) AND (SELECT max(id) FROM users)", "error"),
        ("id >= (SELECT min(id) FROM users) AND id <= (SELECT max(id) FROM users)", "error"),
        ("id BETWEEN (SELECT done FROM progress) AND (SELECT done + 1000 FROM progress)", None),
        ("id BETWEEN (SELECT max(id) - 1000 FROM users) AND (SELECT max(id) FROM users)", None),
    ],
)
def test_a_range_or_limit_of_everything_is_none(condition: str, level: str | None) -> None:
    assert [p.level for p in lint(f"DELETE FROM users WHERE {condition};")] == ([level] if level else [])


def test_a_name_of_a_with_inside_the_query_is_known() -> None:
    few = "WITH names AS (SELECT 1 AS id, 'x' AS name) SELECT id, name FROM names"
    upsert = f"INSERT INTO orgs {few} ON CONFLICT (id) DO UPDATE SET name = excluded.name;"
    assert lint(upsert) == []
    assert errors(upsert.replace("FROM names", "FROM users")) == {"R41"}


@pytest.mark.parametrize(("rows", "found"), [(15_000, {"R41"}), (90_000, {"R41"}), (9_000_000, set())])
def test_with_the_catalog_a_large_batch_is_compared_with_the_table(rows: int, found: set[str]) -> None:
    facts = {"tables": {"public.users": {"rows": rows, "bytes": rows * 100}}}
    assert {p.rule for p in lint("DELETE FROM users WHERE id BETWEEN 1 AND 50000;", facts=facts)} == found
    assert lint("DELETE FROM users WHERE id BETWEEN 1 AND 10000;", facts=facts) == []


ATTACH = "ALTER TABLE p ATTACH PARTITION c FOR VALUES {};"
YEAR = "FROM ('2025-01-01') TO ('2026-01-01')"


@pytest.mark.parametrize(
    ("check", "bound", "level"),
    [
        ("at >= '2025-01-01' AND at < '2026-01-01'", YEAR, None),
        ("'2025-01-01'::date <= at AND '2026-01-01'::date > at", YEAR, None),
        ("at >= '2025-03-01' AND at <= '2025-12-31' AND id > 0", YEAR, None),
        ("at >= '2025-01-01 00:00:00+00' AND at < '2026-01-01 00:00:00+00'", YEAR, None),
        ("at < '2026-01-01'", YEAR, "error"),
        ("at >= '2025-01-01' AND other < '2026-01-01'", YEAR, "error"),
        ("at >= '2024-01-01' AND at < '2026-01-01'", YEAR, "error"),
        ("at >= '2025-01-01' OR at < '2026-01-01'", YEAR, "warning"),
        ("date_trunc('year', at) = '2025-01-01'", YEAR, "warning"),
        ("id >= 9 AND id < 100", "FROM (9) TO (100)", None),
        ("id < 100", "FROM (MINVALUE) TO (100)", None),
        ("region IN ('eu', 'uk')", "IN ('eu', 'uk', 'ch')", None),
        ("region = 'eu'", "IN ('eu', 'uk')", None),
        ("region IN ('eu', 'us')", "IN ('eu', 'uk')", "error"),
        ("id > 0", "WITH (MODULUS 4, REMAINDER 1)", "error"),
        ("a >= 1 AND b >= 2 AND a < 3 AND b < 4", "FROM (1, 2) TO (3, 4)", None),
        ("a >= 1", "FROM (1, 2) TO (3, 4)", "warning"),
    ],
)
def test_what_proves_the_bounds_of_a_partition(check: str, bound: str, level: str | None) -> None:
    made = f"ALTER TABLE c ADD CONSTRAINT k CHECK ({check}) NOT VALID; ALTER TABLE c VALIDATE CONSTRAINT k;"
    text = f"{TIMEOUT}{made}{ATTACH.format(bound)}"
    assert [(p.rule, p.level) for p in lint(text)] == ([("R46", level)] if level else [])


def test_a_check_without_a_name_goes_by_the_one_that_the_server_gives_it() -> None:
    text = f"{TIMEOUT}ALTER TABLE users ADD CHECK (age IS NOT NULL); ALTER TABLE users DROP CONSTRAINT users_age_check;"
    assert errors(f"{text}ALTER TABLE users ALTER COLUMN age SET NOT NULL;") == {"R18", "R20"}


def test_two_checks_prove_an_end_each() -> None:
    two = [
        f"ALTER TABLE c ADD CONSTRAINT {name} CHECK ({check}) NOT VALID; ALTER TABLE c VALIDATE CONSTRAINT {name};"
        for name, check in (("a", "at >= '2025-01-01'"), ("b", "at < '2026-01-01'"))
    ]
    assert lint(f"{TIMEOUT}{''.join(two)}{ATTACH.format(YEAR)}") == []
    assert errors(f"{TIMEOUT}{''.join(two)}ALTER TABLE c DROP CONSTRAINT a;{ATTACH.format(YEAR)}") == {"R46"}


def test_what_goes_in_the_same_statement_proves_nothing() -> None:
    proved = f"{TIMEOUT}ALTER TABLE users VALIDATE CONSTRAINT c;"
    assert (
        errors(f"{proved}ALTER TABLE users ALTER COLUMN age SET NOT NULL; ALTER TABLE users DROP CONSTRAINT c;")
        == set()
    )
    assert errors(f"{proved}ALTER TABLE users ALTER COLUMN age SET NOT NULL, DROP CONSTRAINT c;") == {"R20"}


def test_the_check_is_about_the_key_where_somebody_knows_it() -> None:
    """As the catalog writes it; a column that may be NULL is in no partition by a comparison."""
    check = "CHECK (((at >= '2025-01-01'::date) AND (at < '2026-01-01'::date)))"
    columns = {"at": {"type": "date", "not_null": True, "checked_not_null": []}}
    child = {"rows": 9_000_000, "bytes": 900_000_000, "columns": columns, "checks": {"k": check}}
    facts = {"tables": {"public.p": {"partition_key": ["at"]}, "public.c": child}}
    text = f"{TIMEOUT}{ATTACH.format(YEAR)}"
    assert lint(text, facts=facts) == []
    gone = f"ALTER TABLE c ADD CONSTRAINT l CHECK (id > 0) NOT VALID; ALTER TABLE c DROP CONSTRAINT k;{text}"
    assert [p.rule for p in lint(f"{TIMEOUT}{gone}", facts=facts)] == ["R46"]
    columns["at"]["not_null"] = False
    assert [p.rule for p in lint(text, facts=facts)] == ["R46"]
    columns["at"]["not_null"] = True
    facts["tables"]["public.p"]["partition_key"] = ["day"]
    assert [p.rule for p in lint(text, facts=facts)] == ["R46"]
    own = "CREATE TABLE p (day date, at date) PARTITION BY RANGE (day);"
    made = f"ALTER TABLE c ADD CONSTRAINT k {check} NOT VALID; ALTER TABLE c VALIDATE CONSTRAINT k;"
    assert "R46" in errors(f"{TIMEOUT}{own}{made}{ATTACH.format(YEAR)}")


def test_a_new_table_that_refers_to_two_is_a_note() -> None:
    keys = "a_id bigint REFERENCES a, b_id bigint REFERENCES b"
    text = (
        f"{TIMEOUT}CREATE TABLE c (id bigint PRIMARY KEY, {keys}); CREATE INDEX ON c (a_id); CREATE INDEX ON c (b_id);"
    )
    assert [(p.rule, p.level) for p in lint(text)] == [("R44", "note")]
    text = (
        f"{TIMEOUT}BEGIN; CREATE TABLE c (a_id bigint REFERENCES a); CREATE TABLE d (b_id bigint REFERENCES b); COMMIT;"
    )
    assert [(p.rule, p.level) for p in lint(text) if p.rule != "R16"] == [("R44", "note")]
    assert "R44" not in {p.rule for p in lint(text.replace("BEGIN;", "").replace("COMMIT;", ""))}


def test_what_is_put_together_from_rows_cannot_be_read() -> None:
    text = "DO $$ DECLARE r record; BEGIN FOR r IN SELECT ddl FROM queue LOOP EXECUTE r.ddl; END LOOP; END $$;"
    assert errors(text) == {"R53"}


@pytest.mark.parametrize(
    "name", sorted({p.rule for p in pieces("dangerous") if not p.catalog} - {"R53", "R57", "syntax"})
)
def test_without_its_function_a_rule_finds_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {kind: [one for one in checks if one[0] != name] for kind, checks in rules._REGISTRY.checks.items()}
    monkeypatch.setattr(rules._REGISTRY, "checks", kept)
    left = [p for p in pieces("dangerous") if p.rule == name and not p.catalog and name in errors(p.text)]
    # What the end of the file tells is no function of a statement.
    assert [p.does for p in left] == (["loses_change"] if name == "R55" else [])


BRANCH = "DO $$ BEGIN IF to_regclass('students') IS NULL THEN {} END IF; END $$;"
HANDLED = "DO $$ BEGIN CREATE TABLE students (id bigint PRIMARY KEY, ssn text); EXCEPTION WHEN duplicate_table THEN NULL; END $$;"
MADE = "CREATE TABLE students (id bigint PRIMARY KEY, ssn text);"
MAYBE = "CREATE TABLE IF NOT EXISTS students (id bigint PRIMARY KEY, ssn text);"


@pytest.mark.parametrize("maker", [MAYBE, BRANCH.format(MADE), HANDLED], ids=["if-not-exists", "branch", "handled"])
def test_a_table_that_may_have_been_there_is_not_taken_for_new(maker: str) -> None:
    loss = "ALTER TABLE students DROP COLUMN ssn; TRUNCATE students; UPDATE students SET ssn = ''; DROP TABLE students;"
    assert errors(f"{TIMEOUT}{maker}{loss}") == {"R33", "R34", "R35", "R41"}
    assert errors(f"{TIMEOUT}{maker}ALTER TABLE students ALTER COLUMN id TYPE numeric;") == {"R24"}
    assert errors(f"{TIMEOUT}{maker}DROP TABLE students; CREATE TABLE students (id int);") == {"R34", "R58"}


def test_a_file_that_makes_what_is_missing_is_no_error() -> None:
    indexed = "CREATE INDEX IF NOT EXISTS students_ssn_idx ON students (ssn);"
    bootstrap = f"{MAYBE}{indexed}ALTER TABLE students ADD COLUMN IF NOT EXISTS ssn text;INSERT INTO students VALUES (1) ON CONFLICT DO NOTHING;"
    assert {(p.rule, p.level) for p in lint(TIMEOUT + bootstrap)} == {("R05", "warning")}
    assert {(p.rule, p.level) for p in lint(bootstrap)} == {("R01", "warning"), ("R05", "warning")}
    assert lint(BRANCH.format(f"{MADE} {indexed} TRUNCATE students;")) == []
    assert (
        lint(f"DROP TABLE IF EXISTS pg_temp.s; CREATE TEMP TABLE IF NOT EXISTS s (id int); {MADE}{MAYBE}{indexed}")
        == []
    )
    assert "R01" in errors(f"{bootstrap}ALTER TABLE users ADD COLUMN a int;")


def test_a_catalog_without_the_table_says_that_it_is_new() -> None:
    assert lint(f"{MAYBE}TRUNCATE students;", facts={"tables": {}}) == []


@pytest.mark.parametrize(
    "deep", ["SELECT " + "||".join(["'a'"] * 1000), "SELECT 1" + " UNION ALL SELECT 1" * 6000], ids=["sum", "union"]
)
def test_what_is_nested_too_deep_is_a_finding_and_hides_nothing(deep: str, tmp_path: Path) -> None:
    file = tmp_path / "a.sql"
    file.write_text(f"{TIMEOUT}{deep};\n{BLOCKING}")
    assert [(p.rule, p.line) for p in files.lint_scripts(files.scripts_of([file]))] == [("syntax", 2), ("R05", 3)]
    assert command.main([str(file)]) == 1
    assert files.names_in(files.scripts_of([file]))[0] == ["public.users"]


def test_what_follows_a_nul_byte_is_read() -> None:
    assert [(p.rule, p.line) for p in lint(f"{TIMEOUT}SELECT 1;\n\0 DROP TABLE users;")] == [("R34", 3), ("syntax", 3)]


def test_the_time_for_a_file_grows_as_the_file_does() -> None:
    def seconds(number: int) -> float:
        def once() -> float:
            begin = time.process_time()
            lint("INSERT INTO users VALUES (1);\n" * number)
            return time.process_time() - begin

        return min(once() for _ in range(3))

    seconds(10)
    assert seconds(3200) < 8 * seconds(800)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"{TIMEOUT}DISCARD ALL;\nALTER TABLE users ADD COLUMN a int;", {"R01"}),
        ("BEGIN; SAVEPOINT a; SET LOCAL lock_timeout = '1s'; ROLLBACK TO a; ALTER TABLE users ADD COLUMN a int; COMMIT;", {"R04"}),
        ("BEGIN; SET LOCAL lock_timeout = '1s'; SAVEPOINT a; ROLLBACK TO a; ALTER TABLE users ADD COLUMN a int; COMMIT;", set()),
        (f"{TIMEOUT}SET search_path = archive; CREATE TABLE visits (id bigint); SET search_path = public; CREATE INDEX ON visits (id);", {"R05"}),
        ("SET search_path = archive, public; CREATE TABLE visits (id bigint); CREATE INDEX ON visits (id);", set()),
        ("SET search_path = archive; CREATE TABLE visits (id bigint); RESET search_path; CREATE INDEX ON archive.visits (id);", set()),
        ("CREATE FUNCTION f() RETURNS void LANGUAGE sql BEGIN ATOMIC SELECT 1; DELETE FROM visits; END; SELECT f();", {"R41"}),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1; SELECT f();", set()),
    ],
)  # fmt: skip
def test_what_a_session_loses_or_leaves_is_followed(text: str, wanted: set[str]) -> None:
    assert errors(text) == wanted


def test_a_file_that_another_one_runs_is_a_note() -> None:
    assert [(p.rule, p.level, p.line) for p in lint("SELECT 1;\n\\i other.sql\n")] == [("R53", "note", 2)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("UPDATE users SET a = :a WHERE id = :id;", set()),
        ("DELETE FROM :t WHERE id = ANY (:ids) AND email = :'email';", set()),
        ("UPDATE users SET a = 1 WHERE id BETWEEN :lo AND :hi;", set()),
        ('UPDATE :"schema".users SET a = :a;', {"R41"}),
        ("SET lock_timeout = :'limit';\nALTER TABLE :t ADD COLUMN a int;", set()),
        (f"{TIMEOUT}ALTER TABLE users ADD COLUMN a int\\; UPDATE users SET a = :a;", {"R41"}),
    ],
)
def test_a_variable_of_psql_stands_for_a_value_or_a_name(text: str, wanted: set[str]) -> None:
    assert errors(text) == wanted


@pytest.mark.parametrize("command", ["\\c", "\\connect other", "\\c - admin"])
def test_a_setting_ends_with_its_connection(command: str) -> None:
    found = lint(f"{TIMEOUT}{command}\nALTER TABLE users ADD COLUMN a int;")
    assert [(p.rule, p.line) for p in found] == [("R04", 3)]
    assert "at the \\connect of line 2" in found[0].message
    assert lint(f"{TIMEOUT}{command}\n{TIMEOUT}ALTER TABLE users ADD COLUMN a int;") == []


@pytest.mark.parametrize(
    ("arms", "wanted"),
    [
        ("\\if :dry\nROLLBACK;\n\\else\nCOMMIT;\n\\endif", set()),
        ("\\if :dry\nROLLBACK;\n\\elif :wet\nCOMMIT;\n\\else\nCOMMIT;\n\\endif", set()),
        ("\\if :dry\nROLLBACK;\n\\quit\n\\endif\nCOMMIT;", set()),
        ("\\if :a\n\\if :b\nROLLBACK;\n\\else\nCOMMIT;\n\\endif\n\\else\nCOMMIT;\n\\endif", set()),
        ("\\if :dry\nROLLBACK;\n\\else\nSELECT 1;\n\\endif", {"R55"}),
        ("\\if :dry\nROLLBACK;\n\\else\nALTER TABLE users DROP COLUMN a;\nCOMMIT;\n\\endif", {"R33"}),
    ],
)
def test_of_the_arms_of_an_if_one_is_run(arms: str, wanted: set[str]) -> None:
    assert errors(f"BEGIN;\nSET LOCAL lock_timeout = '1s';\n{arms}\n") == wanted


@pytest.mark.parametrize(
    ("header", "wanted"), [("SET lock_timeout = '1s'", set()), ("SET lock_timeout = '1h'", {"R02"}), ("", {"R01"})]
)
def test_a_setting_in_the_header_of_a_function_holds_while_it_runs(header: str, wanted: set[str]) -> None:
    body = "AS $$ BEGIN ALTER TABLE users ADD COLUMN a int; END $$"
    made = f"CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql {header} {body};"
    assert errors(f"{made} SELECT f();") == wanted
    known = {"f": {"language": "plpgsql", "definition": made, "source": "", "volatile": True}}
    assert {p.rule for p in lint("SELECT f();", facts={"tables": {}, "functions": known})} == wanted
    # Behind the call it holds no more.
    assert errors(f"{made} SELECT f(); ALTER TABLE users ADD COLUMN b int;") & {"R01", "R02"}


BATCH = "(SELECT id FROM users ORDER BY id LIMIT 500) AS b"


@pytest.mark.parametrize(
    ("statement", "level"),
    [
        (f"UPDATE users SET a = 1 FROM {BATCH} WHERE b.id = users.id", None),
        (f"UPDATE users SET a = 1 FROM {BATCH} WHERE b.id <> users.id", "error"),
        (f"UPDATE users SET a = 1 FROM {BATCH}", "error"),
        (f"UPDATE users SET a = 1 FROM {BATCH} JOIN orders o ON o.user_id = b.id WHERE users.id = o.user_id", None),
        (f"UPDATE users SET a = 1 FROM orders o LEFT JOIN {BATCH} ON o.user_id = b.id WHERE users.id = o.user_id", "error"),
        (f"UPDATE users SET a = 1 FROM {BATCH} LEFT JOIN orders o ON o.user_id = b.id WHERE users.id = o.user_id", None),
        (f"UPDATE users SET a = 1 FROM {BATCH} WHERE users.status = 'new' AND b.id > 0", "warning"),
        ("UPDATE users SET a = 1 FROM (SELECT max(id) AS top FROM users) m WHERE users.id >= 1 AND users.id <= m.top", "error"),
        ("UPDATE users SET a = 1 FROM (SELECT id FROM users WHERE status = 'new') n WHERE n.id = users.id", "warning"),
        ("UPDATE users SET a = 1 FROM LATERAL (SELECT 1) x", "error"),
        ("UPDATE users SET a = 1 WHERE id IN (SELECT id FROM users)", "error"),
        ("UPDATE users SET a = 1 WHERE id IN (SELECT user_id FROM orders)", "warning"),
        ("UPDATE users SET a = 1 WHERE status IN (SELECT 'new')", "warning"),
        ("UPDATE users SET a = 1 WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER () AS n FROM users) x WHERE n = 1)", "warning"),
        ("UPDATE users SET a = 1 WHERE bio = ''", "warning"),
        ("UPDATE users SET a = 1 WHERE 5 = id", None),
        ("UPDATE users SET a = 1 WHERE 5 > id AND 1 < id", None),
        ("UPDATE users SET a = 1 WHERE 0 < id", "error"),
        ("UPDATE users SET a = 1 WHERE id BETWEEN 1 AND (SELECT last_value FROM users_id_seq)", "error"),
        ("UPDATE users SET a = 1 WHERE id = ANY (string_to_array((SELECT string_agg(id, ',') FROM users), ','))", "error"),
        ("UPDATE users SET a = 1 WHERE created::date = '2024-01-01'", "error"),
        ("MERGE INTO users USING (VALUES (1)) v (id) ON v.id = users.id WHEN NOT MATCHED THEN INSERT VALUES (1)", None),
        ("MERGE INTO users USING orders o ON o.user_id = users.id WHEN MATCHED AND users.id = 5 THEN DELETE", None),
        ("INSERT INTO users SELECT g FROM generate_series(1, 50000000) g ON CONFLICT (id) DO UPDATE SET a = 1", "error"),
        ("SELECT id FROM users WHERE a > 5 FOR UPDATE", "error"),
    ],
)  # fmt: skip
def test_only_a_condition_on_the_target_bounds_it(statement: str, level: str | None) -> None:
    assert [p.level for p in lint(f"{statement};")] == ([level] if level else [])


def body(text: str, declared: str = "lo int; hi int;") -> str:
    return f"DO $$ DECLARE {declared} BEGIN {text} END $$;"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("SELECT max(id) INTO hi FROM users; DELETE FROM users WHERE id BETWEEN 1 AND hi;", {"R41"}),
        ("hi := (SELECT max(id) FROM users); DELETE FROM users WHERE id BETWEEN 1 AND hi;", {"R41"}),
        ("SELECT max(id) INTO hi FROM users; lo := 0; LOOP DELETE FROM users WHERE id > lo AND id <= least(lo + 500, hi); COMMIT; END LOOP;", set()),
        ("SELECT min(id), max(id) INTO lo, hi FROM (SELECT id FROM users LIMIT 500) b; DELETE FROM users WHERE id BETWEEN lo AND hi;", set()),
        ("lo := (SELECT min(id) FROM users); hi := (SELECT max(id) FROM users); DELETE FROM users WHERE id >= lo AND id < least(lo + 500, hi);", set()),
        ("hi := (SELECT max(id) FROM users WHERE id BETWEEN 1 AND hi); DELETE FROM users WHERE id BETWEEN 1 AND hi;", set()),
        ("DELETE FROM users WHERE id = lo;", set()),
        ("DELETE FROM users WHERE id = other;", {"R41"}),
        ("FOR i IN 1..100 LOOP DELETE FROM users WHERE id = i; END LOOP;", set()),
        ("FOR i IN 1..100 LOOP DELETE FROM users WHERE id BETWEEN i * 500 AND i * 500 + 499; END LOOP;", {"R41"}),
        ("FOR i IN 1..900000 LOOP DELETE FROM users WHERE id = i; END LOOP;", {"R41"}),
    ],
)  # fmt: skip
def test_a_variable_is_what_fills_it(text: str, wanted: set[str]) -> None:
    assert errors(body(text)) == wanted


def test_a_record_has_the_columns_of_its_query() -> None:
    whole = "SELECT min(id) AS lo, max(id) AS hi INTO r FROM users; DELETE FROM users WHERE id BETWEEN r.lo AND r.hi;"
    assert errors(body(whole, "r record;")) == {"R41"}
    assert errors(body(whole.replace("FROM users; ", f"FROM {BATCH}; "), "r record;")) == set()


def test_what_only_the_catalog_tells_of_an_index_on_only_and_of_a_check() -> None:
    def known(**more: object) -> dict[str, object]:
        return {"tables": {"public.users": {"rows": 9_000_000, "bytes": 9_000_000_000, "columns": {}, **more}}}

    only = f"{TIMEOUT}CREATE INDEX ON ONLY users (a);"
    assert lint(only) == lint(only, facts=known(partitioned=True)) == []
    assert [p.rule for p in lint(only, facts=known(partitioned=False))] == ["R05"]
    required = f"{TIMEOUT}ALTER TABLE users ALTER COLUMN a SET NOT NULL;"
    proof = known(checks={"c": "CHECK ((NOT ((a IS NULL) OR (b IS NULL))))"})
    assert lint(required, facts=proof) == []
    without = required.replace("ALTER COLUMN", "DROP CONSTRAINT c, ALTER")
    assert [p.rule for p in lint(without, facts=proof)] == ["R20"]
    assert [p.rule for p in lint(required, facts=known(checks={"c": "CHECK ((a > 5))"}))] == ["R20"]


def test_a_trigger_that_is_enabled_again_is_a_note() -> None:
    off = f"{TIMEOUT}ALTER TABLE users DISABLE TRIGGER t; UPDATE users SET a = 1 WHERE id = 5; "
    assert [(p.rule, p.level) for p in lint(off)] == [("R52", "warning")]
    assert [(p.rule, p.level) for p in lint(f"{off}ALTER TABLE users ENABLE TRIGGER t;")] == [("R52", "note")]
    assert [(p.rule, p.level) for p in lint(f"{off}ALTER TABLE users ENABLE TRIGGER u;")] == [("R52", "warning")]
