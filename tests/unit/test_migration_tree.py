# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What a migration tree may look like, what is refused, and what it renders to."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_tree, template_rendering
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import read_tree, render

ROOT = Path(__file__).resolve().parents[2]
FIRST = "20250101000000_make_things"
METADATA: dict[str, Any] = {
    "title": "Things",
    "why": "A test needs them.",
    "risk": "low",
    "phi": False,
    "rollback": {"safety": "complete"},
    "steps": [{"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}}],
}
VERIFY = "SELECT 'x' AS object, 'a' AS expected, 'b' AS found WHERE FALSE;\n"


class Dumper(yaml.SafeDumper):
    """Writes a value twice instead of an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def as_yaml(data: Any) -> str:
    return yaml.dump(data, Dumper=Dumper, sort_keys=False)


class Sql:
    """A folder with migrations/, made of small files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "migrations").mkdir()

    def folder(self, name: str = FIRST) -> Path:
        return self.root / "migrations" / name

    def add(self, name: str = FIRST, *, files: dict[str, str | bytes] | None = None, **metadata: Any) -> Path:
        folder = self.folder(name)
        folder.mkdir()
        data = copy.deepcopy(METADATA) | metadata
        table = name.split("_", 1)[1]
        contents: dict[str, str | bytes] = {
            "migration.yml": as_yaml(data),
            "up.sql.j2": f"CREATE TABLE {table} (id int PRIMARY KEY);\n",
            "down.sql.j2": f"DROP TABLE {table};\n",
            "verify.sql.j2": VERIFY,
        } | (files or {})
        for file, text in contents.items():
            (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
        return folder

    def faults(self, variables: dict[str, Any] | None = None) -> list[str]:
        tree = migration_tree.scan_tree(self.root)
        _, found = migration_tree.scan_render(tree, variables)
        return [str(finding) for finding in (*tree.findings, *found)]

    def fault(self, variables: dict[str, Any] | None = None) -> str:
        (only,) = self.faults(variables)
        return only

    def render(self, variables: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        return render(read_tree(self.root), variables)


@pytest.fixture
def sql(tmp_path: Path) -> Sql:
    return Sql(tmp_path)


def test_a_sound_tree_is_read_in_the_order_of_versions(sql: Sql) -> None:
    sql.add("20250102000000_second", depends_on=["20250101000000"])
    sql.add("20250103000000_third", repairs=["20250101000000"])
    sql.add("20250101000000_first")
    assert sql.faults() == []
    assert [item["name"] for item in sql.render()] == ["first", "second", "third"]
    assert sql.render()[1]["depends_on"] == ["20250101000000"]
    # What a version repairs comes before it, and does not go alone.
    assert (sql.render()[2]["repairs"], sql.render()[2]["depends_on"]) == (["20250101000000"], ["20250101000000"])


def test_a_missing_folder_is_told_with_the_variable_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(PgopsError, match=r"There is no folder .*migrations; pgops_sql must name"):
        read_tree(tmp_path)


def test_a_misspelt_key_is_told_before_the_one_that_is_missing_for_it(sql: Sql) -> None:
    path = sql.add()
    (path / "migration.yml").write_text((path / "migration.yml").read_text().replace("risk:", "riks:"))
    with pytest.raises(PgopsError, match="unknown key 'riks'; did you mean 'risk'") as caught:
        read_tree(sql.root)
    told = [finding["rule"] for finding in caught.value.extra["findings"]]
    assert told == ["missing-key", "unknown-key"] and caught.value.location != f"{FIRST}/migration.yml:1"


def test_read_tree_raises_the_first_fault_and_counts_the_others(sql: Sql) -> None:
    sql.add(titel="x", risc="low")
    with pytest.raises(PgopsError) as caught:
        read_tree(sql.root)
    assert caught.value.message.endswith(" (1 more)")
    assert caught.value.location == f"{FIRST}/migration.yml:11"
    assert len(caught.value.extra["findings"]) == 2


# --- metadata ---------------------------------------------------------------------------------------------------------


def test_the_shipped_versions_with_an_estimate_expect_its_upper_end() -> None:
    expected = {item["version"]: item["expected_seconds"] for item in render(read_tree(ROOT / "sql"))}
    assert {version: seconds for version, seconds in expected.items() if seconds} == {
        "20251106000000": 5,
        "20251106000001": 30,
        "20251106000002": 5,
        "20251106000003": 60,
    }


def test_the_shipped_versions_with_an_estimate_have_the_four_classes_of_the_handbook() -> None:
    by_rows = {item["version"]: item["expected_by_rows"] for item in render(read_tree(ROOT / "sql"))}
    given = {version: classes for version, classes in by_rows.items() if classes}
    assert sorted(given) == ["20251106000000", "20251106000001", "20251106000002", "20251106000003"]
    totals = {rows: sum(classes[rows] for classes in given.values()) for rows in given["20251106000000"]}
    assert totals == {"10000": 20, "100000": 50, "500000": 110, "1000000": 210}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"titel": "x"}, "unknown key 'titel'; did you mean 'title'?"),
        ({"rollback": {"safty": "complete", "safety": "complete"}}, "unknown key 'safty' under 'rollback'; did you"),
        (
            {"budgets": {"lock_timeout": 5}},
            "unknown key 'lock_timeout' under 'budgets'; did you mean 'lock_timeout_ms'?",
        ),
        ({"steps": [{"sql": {"up": "up.sql.j2", "dwn": "x", "down": "down.sql.j2"}}]}, "did you mean 'down'?"),
        ({"steps": [{"squel": {}}]}, "unknown step kind 'squel'; did you mean 'sql'?"),
        ({"risk": "huge"}, "'risk' is 'huge'"),
        ({"risk": "hig"}, "'risk' is 'hig'; did you mean 'high'?"),
        ({"phase": "cor"}, "did you mean 'core'?"),
        ({"phi": "no"}, "'phi' must be true or false, not 'no'"),
        ({"title": 5}, "'title' must be text, not 5"),
        ({"title": " "}, "'title' is empty"),
        ({"steps": []}, "'steps' is empty"),
        ({"steps": {}}, "'steps' must be a list, not a mapping"),
        ({"steps": ["up"]}, "step 1 must be a mapping"),
        ({"transaction": "yes please"}, "'transaction' must be true or false"),
        ({"budgets": {"lock_timeout_ms": 0}}, "'lock_timeout_ms' is 0"),
        ({"budgets": {"rewrite_limit_mb": -1}}, "'rewrite_limit_mb' is -1: at least 0"),
        ({"budgets": {"lock_timeout_ms": True}}, "'lock_timeout_ms' must be a whole number, not True"),
        ({"expected_seconds": 0}, "'expected_seconds' is 0; give 1 or more, or leave the key out"),
        ({"expected_seconds": "5 s"}, "'expected_seconds' must be a whole number, not '5 s'"),
        ({"expected_by_rows": {"many": 5}}, "'many: 5' under 'expected_by_rows' is not 'up to how many rows: seconds'"),
        ({"expected_by_rows": {"10000": 0}}, "'10000: 0' under 'expected_by_rows' is not"),
        ({"expected_by_rows": [5]}, "'expected_by_rows' must be a mapping, not a list"),
        ({"expected_second": 5}, "unknown key 'expected_second'; did you mean 'expected_seconds'?"),
        ({"rollback": {"safety": "partial"}}, "must say under 'stays' what stays behind"),
        ({"rollback": {"safety": "none", "stays": " "}}, "must say under 'stays' what stays behind"),
        ({"variables": {"Upper": 1}}, "lower case letters"),
        ({"variables": {"schema": "x"}}, "'schema' is always there"),
        ({"variables": {"n": None}}, "the variable 'n' has no default"),
        ({"depends_on": ["20240101000000"]}, "depends_on names 20240101000000, which is not in the tree"),
        ({"depends_on": ["20250101000000"]}, "which does not come before 20250101000000"),
        ({"repairs": ["20240101000000"]}, "repairs names 20240101000000, which is not in the tree"),
        ({"verify": "verfy.sql.j2"}, "the file 'verfy.sql.j2' is missing; did you mean 'verify.sql.j2'?"),
    ],
)
def test_a_fault_of_the_metadata_is_named_with_file_and_line(sql: Sql, metadata: dict[str, Any], message: str) -> None:
    sql.add(**metadata)
    found = [fault for fault in sql.faults() if message in fault]
    assert len(found) == 1, sql.faults()
    assert found[0].startswith(f"{FIRST}/migration.yml:")


@pytest.mark.parametrize("key", ["title", "why", "risk", "phi", "rollback", "steps"])
def test_a_missing_required_key_is_named(sql: Sql, key: str) -> None:
    data = {name: value for name, value in METADATA.items() if name != key}
    sql.add(files={"migration.yml": as_yaml(data)})
    assert sql.fault() == f"{FIRST}/migration.yml:1: the key '{key}' is missing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: a\n  b: c\n", ":2: not valid YAML"),
        ("title: 'a\n", "not valid YAML"),
        ("title: a\nwhy: b\ntitle: c\n", ":3: the key 'title' stands twice (first in line 1)"),
        ("title: &x a\nwhy: *x\n", "anchors and aliases are not used here"),
        ("title: !!python/name:os.system\n", "the tag"),
        ("title: !mine a\n", "the tag '!mine' is not used here"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("- a\n", "the file must be a mapping of keys"),
        ("# only a comment\n", "the file must be a mapping of keys"),
        ("{a: b}: c\n", "a key must be a plain word"),
        ("title: 2025-02-30\n", "not valid YAML"),
        ("a: &x [*x]\n", "anchors and aliases"),
        ("a: " + "[" * 5000 + "\n", "not valid YAML"),
    ],
)
def test_bad_yaml_is_one_sentence_with_its_line(sql: Sql, text: str, message: str) -> None:
    sql.add(files={"migration.yml": text})
    fault = next(f for f in sql.faults() if "migration.yml" in f)
    assert message in fault, fault


def test_a_step_has_one_kind(sql: Sql) -> None:
    sql.add(steps=[{"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}, "analyze": ["a"]}, {"name": "x"}])
    faults = sql.faults()
    assert any("step 1 has sql and analyze; a step is one of sql, indexes, backfill" in fault for fault in faults)
    assert any("step 2 has no kind" in fault for fault in faults)


def test_a_sql_step_without_down_needs_a_rollback_that_says_so(sql: Sql) -> None:
    folder = sql.add(steps=[{"sql": {"up": "up.sql.j2"}}])
    (folder / "down.sql.j2").unlink()
    assert "has no 'down' although rollback.safety is 'complete'" in sql.fault()
    (folder / "migration.yml").write_text(
        as_yaml(METADATA | {"steps": [{"sql": {"up": "up.sql.j2"}}], "rollback": {"safety": "none", "stays": "all"}})
    )
    assert sql.faults() == []
    assert sql.render()[0]["steps"][0]["down"] == []


# --- folders and files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "20250101_short",
        "20250101000000",
        "20250101000000_Upper",
        "20250101000000_with-dash",
        "20250101000000_",
        "20250101000000_a;drop",
        "20250101000000_é",
        "v1_x",
        f"20250101000000_{'a' * 101}",
    ],
)
def test_a_misnamed_folder_is_refused(sql: Sql, name: str) -> None:
    sql.add()
    sql.folder(name).mkdir()
    assert sql.fault().startswith(f"{name}: a migration's folder is named <14 digits>_<lower_case_name>")


def test_a_name_that_is_not_utf_8_is_told_in_a_way_that_can_be_printed(sql: Sql) -> None:
    sql.add()
    (sql.root / "migrations" / os.fsdecode(b"2025\xff")).mkdir()
    (sql.folder() / os.fsdecode(b"\xff.sql.j2")).write_text("SELECT 1")
    faults = sql.faults()
    assert len(faults) == 2
    assert all(fault.encode() for fault in faults)


def test_lines_of_windows_are_lines(sql: Sql) -> None:
    sql.add(files={"up.sql.j2": "SELECT 1;\r\nSELECT 2;\r\n\r\nSELECT 3;"})
    assert [s["line"] for s in sql.render()[0]["steps"][0]["up"]] == [1, 2, 4]


def test_a_file_beside_the_folders_is_refused_and_a_readme_is_not(sql: Sql) -> None:
    sql.add()
    (sql.root / "migrations" / "README.md").write_text("hello")
    (sql.root / "migrations" / ".gitkeep").write_text("")
    assert sql.faults() == []
    (sql.root / "migrations" / "20250102000000_x.sql").write_text("SELECT 1")
    assert "only folders" in sql.fault()


def test_two_folders_with_one_version_name_each_other(sql: Sql) -> None:
    sql.add("20250101000000_a")
    sql.add("20250101000000_b")
    assert sql.fault() == "20250101000000_b: the version 20250101000000 is 20250101000000_a too; rename one"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": the file is empty"),
        (b" \n\t\n", ": the file is empty"),
        (b"SELECT 1;\nSELECT '\xff';\n", ":2: the file is not UTF-8"),
        (b"\xef\xbb\xbfSELECT 1;\n", ":1: the file starts with a byte order mark"),
        ("SELECT 1;".encode("utf-16"), ":1: the file starts with a byte order mark"),
        (b"SELECT 1;\n\nSELECT '\0';\n", ":3: the file holds a NUL byte"),
    ],
)
@pytest.mark.parametrize("name", ["up.sql.j2", "migration.yml"])
def test_a_file_that_is_no_text_is_refused(sql: Sql, name: str, content: bytes, message: str) -> None:
    sql.add(files={name: content})
    assert f"{FIRST}/{name}{message}" in sql.faults()[0]


def test_a_file_that_is_only_a_comment_is_empty_too(sql: Sql) -> None:
    sql.add(files={"up.sql.j2": "-- nothing\n{# here #}\n"})
    assert sql.fault() == f"{FIRST}/up.sql.j2: the file renders to no statement"


def test_a_file_that_is_named_and_missing_is_told_with_the_nearest(sql: Sql) -> None:
    (sql.add() / "up.sql.j2").rename(sql.folder() / "upp.sql.j2")
    assert sql.fault() == f"{FIRST}/migration.yml:9: the file 'up.sql.j2' is missing; did you mean 'upp.sql.j2'?"


def test_a_file_that_no_step_names_is_refused(sql: Sql) -> None:
    sql.add(files={"up2.sql.j2": "SELECT 1;"})
    assert "migration.yml does not name the file" in sql.fault()


def test_a_file_is_used_once(sql: Sql) -> None:
    sql.add(steps=[{"sql": {"up": "up.sql.j2", "down": "up.sql.j2"}}], files={"down.sql.j2": "SELECT 1"})
    assert any("the file 'up.sql.j2' is used twice" in fault for fault in sql.faults())


@pytest.mark.parametrize("name", ["../up.sql.j2", "/etc/passwd", "sub/up.sql.j2", "up.sql", ".up.sql.j2"])
def test_a_step_names_files_of_its_own_folder_only(sql: Sql, name: str) -> None:
    sql.add(steps=[{"sql": {"up": name, "down": "down.sql.j2"}}], files={"up.sql.j2": "SELECT 1"})
    assert any("must be the name of a file *.sql.j2 in the same folder" in fault for fault in sql.faults())


def test_links_to_outside_are_refused(sql: Sql, tmp_path: Path) -> None:
    folder = sql.add()
    secret = tmp_path / "secret.sql"
    secret.write_text("SELECT 1")
    (folder / "up.sql.j2").unlink()
    (folder / "up.sql.j2").symlink_to(secret)
    assert sql.faults() == [f"{FIRST}/up.sql.j2: the file is a link to outside the migration's folder"]
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    sql.folder("20250102000000_linked").symlink_to(outside)
    assert "20250102000000_linked: the folder is a link to outside the tree" in sql.faults()


def test_a_link_to_itself_is_a_fault_of_that_file(sql: Sql) -> None:
    folder = sql.add()
    (folder / "up.sql.j2").unlink()
    (folder / "up.sql.j2").symlink_to("up.sql.j2")
    assert f"{FIRST}/up.sql.j2: the file cannot be read: Too many levels of symbolic links" in sql.faults()


def test_a_folder_with_a_fault_is_known_to_be_there(sql: Sql) -> None:
    (sql.add() / "migration.yml").write_text("title: [")
    assert migration_tree.scan_tree(sql.root).unreadable == {"20250101000000": "make_things"}


def test_what_is_no_regular_file_is_refused(sql: Sql) -> None:
    (sql.add() / "folder.sql.j2").mkdir()
    assert "only regular files" in sql.fault()


def test_files_of_an_editor_do_not_count(sql: Sql) -> None:
    folder = sql.add()
    before = sql.render()[0]["checksum"]
    (folder / ".up.sql.j2.swp").write_bytes(b"\0\1")
    assert sql.render()[0]["checksum"] == before


# --- checksums --------------------------------------------------------------------------------------------------------


def test_the_checksum_covers_each_file_and_its_name(sql: Sql) -> None:
    folder = sql.add()
    first = sql.render()[0]
    assert sorted(first["files"]) == ["down.sql.j2", "migration.yml", "up.sql.j2", "verify.sql.j2"]
    up = folder / "up.sql.j2"
    assert first["files"]["up.sql.j2"] == {
        "sha256": hashlib.sha256(up.read_bytes()).hexdigest(),
        "text": up.read_text(),
    }
    up.write_text(up.read_text() + "-- a comment\n")
    second = sql.render()[0]
    assert second["checksum"] != first["checksum"]
    # A comment runs nothing: what was approved is still what would run.
    assert second["rendered_checksum"] == first["rendered_checksum"]


def test_the_rendered_checksum_follows_the_variables_and_the_files_checksum_does_not(sql: Sql) -> None:
    sql.add(variables={"n": 1}, files={"up.sql.j2": "SELECT {{ n }};"})
    one, other = sql.render()[0], sql.render({"n": 2})[0]
    assert one["checksum"] == other["checksum"]
    assert one["rendered_checksum"] != other["rendered_checksum"]


def test_rendering_twice_gives_the_same_bytes(sql: Sql) -> None:
    sql.add(
        variables={"m": {"b": 1, "a": [1, 2]}, "names": ["x", "y"]},
        files={"up.sql.j2": "{% for n in names %}SELECT {{ n | literal }}, {{ m | literal }};\n{% endfor %}"},
    )
    assert json.dumps(sql.render()) == json.dumps(sql.render())


# --- templates --------------------------------------------------------------------------------------------------------


def test_an_undeclared_variable_gives_file_line_and_the_nearest_in_branches_not_taken_too(sql: Sql) -> None:
    sql.add(
        variables={"table_name": "t"},
        files={"up.sql.j2": "SELECT 1;\n{% if false %}\nSELECT {{ tabel_name }};\n{% endif %}\n"},
    )
    assert sql.fault() == (
        f"{FIRST}/up.sql.j2:3: the variable 'tabel_name' is not declared under 'variables' in migration.yml; "
        "did you mean 'table_name'?"
    )


def test_a_variable_of_the_play_is_not_seen(sql: Sql) -> None:
    sql.add(files={"up.sql.j2": "SELECT '{{ inventory_hostname }}';\n"})
    assert "the variable 'inventory_hostname' is not declared" in sql.fault()


def test_an_undefined_attribute_gives_its_line(sql: Sql) -> None:
    sql.add(variables={"m": {"a": 1}}, files={"up.sql.j2": "SELECT 1;\n\nSELECT {{ m.b }};\n"})
    assert sql.fault().startswith(f"{FIRST}/up.sql.j2:3: template error: ")


@pytest.mark.parametrize(
    ("template", "line", "message"),
    [
        ("SELECT 1;\n{% if %}\n", 2, "template error"),
        ("SELECT 1;\n\nSELECT {{ 1 / 0 }};", 3, "template error: division by zero"),
        ("SELECT {{ 'a' + 1 }};", 1, "template error"),
        ("SELECT {{ 1 | nofilter }};", 1, "template error: No filter named 'nofilter'"),
        ("SELECT {{ [1, 2] | random }};", 1, "template error: No filter named 'random'"),
        ("SELECT '{{ lipsum() }}';", 1, "the variable 'lipsum' is not declared"),
        ("SELECT 1;\n{% include 'x' %}", 2, "a migration includes no other file"),
        ("SELECT {{ ''.__class__.__mro__ }};", 1, "template error"),
        ("SELECT 1;\n{% for i in range(10 ** 9) %}{% endfor %}", 2, "template error"),
    ],
)
def test_a_template_error_is_one_sentence_with_its_line(sql: Sql, template: str, line: int, message: str) -> None:
    sql.add(files={"up.sql.j2": template})
    assert sql.fault().startswith(f"{FIRST}/up.sql.j2:{line}: {message}")


def test_a_statement_keeps_the_line_of_the_template(sql: Sql) -> None:
    sql.add(
        variables={"names": ["a", "b"], "block": "1,\n2,\n3", "on": True},
        files={
            "up.sql.j2": (
                "-- 1\n"
                "{# 2\n"
                "3 #}\n"
                "{% for n in names %}\n"
                "CREATE TABLE {{ n | identifier }} (\n"  # 5
                "    id int);\n"
                "\n"
                "{% endfor %}\n"
                "SELECT {{ block }},\n"  # 9
                "  4;\n"
                "   {% if on -%}\n"
                "   SELECT 5;\n"  # 12
                "   {%- endif %}\n"
                "{% raw %}SELECT '{{ x }}';{% endraw %}\n"  # 14
                "{% set t %}SELECT 6{% endset %}\n"
                "{{ t }}; SELECT 7;\n"  # 16
                "SELECT\n"
                "  8; SELECT 9;\n"  # 17, 18
            )
        },
    )
    statements = sql.render()[0]["steps"][0]["up"]
    assert [s["line"] for s in statements] == [5, 5, 9, 12, 14, 15, 16, 17, 18]
    assert {s["file"] for s in statements} == {f"{FIRST}/up.sql.j2"}


def test_a_syntax_error_behind_a_loop_gives_the_line_of_the_template(sql: Sql) -> None:
    sql.add(
        variables={"n": 40},
        files={"up.sql.j2": "{% for i in range(n) %}\nSELECT {{ i }};\n{% endfor %}\nSELEC 1;\n"},
    )
    assert sql.fault() == f'{FIRST}/up.sql.j2:4: syntax error at or near "SELEC"'


def test_where_marks_would_change_the_text_the_rendered_line_is_told_and_the_text_is_right() -> None:
    source = "{% filter upper %}\n  select {% filter trim %}  1 {% endfilter %};\n{% endfilter %}\nSELECT 2;"
    rendered, findings = template_rendering.render(source, "f", {})
    assert findings == []
    assert rendered is not None
    assert "\0" not in rendered.text
    assert "SELECT 1;" in rendered.text


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        ("O'Brien", "'O''Brien'"),
        (5, "5"),
        (True, "TRUE"),
        ({"b": 1, "a": "x'y"}, '\'{"a": "x\'\'y", "b": 1}\''),
        ([1, "é"], "'[1, \"é\"]'"),
    ],
)
def test_the_filter_literal_quotes(sql: Sql, value: Any, literal: str) -> None:
    sql.add(variables={"v": value}, files={"up.sql.j2": "SELECT {{ v | literal }};"})
    assert sql.render()[0]["steps"][0]["up"][0]["sql"] == f"SELECT {literal}"


def test_the_filter_identifier_quotes(sql: Sql) -> None:
    sql.add(variables={"v": 'my "x"; DROP TABLE y'}, files={"up.sql.j2": "SELECT 1 AS {{ v | identifier }};"})
    (statement,) = sql.render()[0]["steps"][0]["up"]
    assert statement["sql"] == 'SELECT 1 AS "my ""x""; DROP TABLE y"'


def test_migrate_variables_replace_defaults_and_unknown_names_are_refused(sql: Sql) -> None:
    sql.add(variables={"batch": 10, "label": "a"}, files={"up.sql.j2": "SELECT {{ batch }}, '{{ label }}';"})
    assert sql.render({"batch": 20})[0]["steps"][0]["up"][0]["sql"] == "SELECT 20, 'a'"
    assert (
        sql.fault({"bach": 20}) == "migrate_variables: no migration declares the variable 'bach'; did you mean 'batch'?"
    )
    assert "gives 'batch' as '20', its default is 10" in sql.fault({"batch": "20"})


def test_the_schema_is_always_there(sql: Sql) -> None:
    sql.add(files={"up.sql.j2": "CREATE TABLE {{ schema }}.t (i int);"})
    assert sql.render()[0]["steps"][0]["up"][0]["sql"] == "CREATE TABLE public.t (i int)"


# --- steps ------------------------------------------------------------------------------------------------------------

INDEX: dict[str, Any] = {"name": "t_a_idx", "table": "t", "columns": ["a"], "why": "a test"}


def with_indexes(sql: Sql, *indexes: Any) -> None:
    steps = [*METADATA["steps"], {"indexes": "indexes.yml"}]
    sql.add(steps=steps, files={"indexes.yml": as_yaml(list(indexes))})


def test_an_index_is_rendered_in_one_shape(sql: Sql) -> None:
    with_indexes(
        sql,
        INDEX,
        INDEX
        | {
            "name": "t_gin",
            "method": "gin",
            "columns": [{"expression": 'lower("A")', "opclass": "gin_trgm_ops"}],
            "where": '"deletedAt" IS NULL',
            "phi": True,
        },
        INDEX | {"name": "t_d", "unique": True, "columns": [{"column": "a", "order": "desc"}, "b"], "include": ["c"]},
    )
    first, second, third = sql.render()[0]["steps"][1]["indexes"]
    plain = {"opclass": None, "order": None, "nulls": None}
    assert first == {
        "name": "t_a_idx",
        "schema": "public",
        "table": "t",
        "method": "btree",
        "unique": False,
        "columns": [{"column": "a"} | plain],
        "include": [],
        "where": None,
        "phi": False,
        "why": "a test",
    }
    assert second["columns"] == [{"expression": 'lower("A")'} | plain | {"opclass": "gin_trgm_ops"}]
    assert third["columns"] == [{"column": "a"} | plain | {"order": "desc"}, {"column": "b"} | plain]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colums": ["a"]}, "unknown key 'colums' under '#2'; did you mean 'columns'?"),
        ({"method": "gni"}, "'method' is 'gni'; did you mean 'gin'?"),
        ({"columns": []}, "'columns' is empty"),
        ({"columns": [5]}, "a column is a name or a mapping, not 5"),
        ({"columns": [{"column": "a", "expression": "b"}]}, "either 'column' or 'expression'"),
        ({"columns": [{"colum": "a"}]}, "did you mean 'column'?"),
        ({"columns": [{"expression": "lower(a"}]}, "'expression': syntax error"),
        ({"columns": [{"column": "a", "opclass": "x; drop"}]}, "is not the name of an operator class"),
        ({"columns": [{"column": "a", "order": "down"}]}, "'order' is 'down'"),
        ({"method": "gin", "columns": [{"column": "a", "order": "desc"}]}, "a gin index cannot have 'order'"),
        ({"method": "gin", "unique": True}, "a gin index cannot have 'unique'"),
        ({"method": "hash", "include": ["b"]}, "a hash index cannot have 'include'"),
        ({"where": "a >"}, "'where': syntax error"),
        ({"where": "a; DROP TABLE t"}, "'where': syntax error"),
        ({"where": '"lockoutUntil" > now()'}, "'where' uses now(): an index cannot ask the clock"),
        ({"columns": [{"expression": "a > CURRENT_DATE"}]}, "'expression' uses CURRENT_DATE"),
        ({"name": "i" * 64}, "64 bytes"),
        ({"why": ""}, "'why' is empty"),
    ],
)
def test_a_bad_index_is_refused_with_its_line(sql: Sql, change: dict[str, Any], message: str) -> None:
    with_indexes(sql, INDEX, INDEX | {"name": "second"} | change)
    faults = [fault for fault in sql.faults() if message in fault]
    assert len(faults) == 1, sql.faults()
    file, line, _ = faults[0].split(":", 2)
    assert file == f"{FIRST}/indexes.yml"
    assert int(line) > 5


def test_an_index_stands_once_in_a_file(sql: Sql) -> None:
    with_indexes(sql, INDEX, INDEX)
    assert sql.fault() == f"{FIRST}/indexes.yml:6: the index 't_a_idx' stands in line 1 too"


def test_indexes_yml_is_a_list(sql: Sql) -> None:
    steps = [*METADATA["steps"], {"indexes": "indexes.yml"}]
    sql.add(steps=steps, files={"indexes.yml": "name: a\n"})
    assert "must be a list of indexes" in sql.fault()


def backfill(sql: Sql, statement: str, *, safety: str = "partial", files: Any = None, **change: Any) -> None:
    step = {"table": "t", "key": "id", "statement": "backfill.sql.j2"} | change
    sql.add(
        steps=[*METADATA["steps"], {"backfill": step}],
        files={"backfill.sql.j2": statement, **(files or {})},
        rollback={"safety": safety, **({"stays": "a"} if safety == "partial" else {})},
    )


def test_a_backfill_is_one_statement_between_two_keys(sql: Sql) -> None:
    backfill(sql, "UPDATE t SET a = 1 WHERE id BETWEEN $1 AND $2;", batch_size=100, pause_ms=50)
    step = sql.render()[0]["steps"][1]
    assert (step["kind"], step["schema"], step["table"], step["key"]) == ("backfill", "public", "t", "id")
    assert (step["batch_size"], step["pause_ms"]) == (100, 50)
    assert step["statement"]["sql"] == "UPDATE t SET a = 1 WHERE id BETWEEN $1 AND $2"
    assert step["down"] is None


@pytest.mark.parametrize(
    ("statement", "change", "message"),
    [
        ("UPDATE t SET a = 1;", {}, "must be bounded by $1 and $2"),
        ("UPDATE t SET a = $3 WHERE id BETWEEN $1 AND $2", {}, "must be bounded by $1 and $2"),
        ("UPDATE t SET a = 1 WHERE id BETWEEN $1 AND $2; SELECT 1", {}, "a backfill is one statement"),
        ("UPDATE t SET a = 1 WHERE id BETWEEN $1 AND $2", {"batch_size": 0}, "'batch_size' is 0"),
        ("UPDATE t SET a = 1 WHERE id BETWEEN $1 AND $2", {"pause_ms": -1}, "'pause_ms' is -1"),
        ("UPDATE t SET a = 1 WHERE id BETWEEN $1 AND $2", {"batchsize": 5}, "did you mean 'batch_size'?"),
    ],
)
def test_a_bad_backfill_is_refused(sql: Sql, statement: str, change: dict[str, Any], message: str) -> None:
    backfill(sql, statement, **change)
    assert message in sql.fault()


ROWS = "(a, b) BETWEEN ($1, $2) AND ($3, $4)"


def test_a_key_of_several_columns_has_its_first_values_and_then_its_last_ones(sql: Sql) -> None:
    backfill(sql, f"UPDATE t SET c = 1 WHERE {ROWS};", key=["a", "b"], adapt=False, irreversible="nobody knows")
    step = sql.render()[0]["steps"][1]
    assert (step["key"], step["adapt"], step["irreversible"]) == (["a", "b"], False, "nobody knows")


@pytest.mark.parametrize(
    ("statement", "change", "message"),
    [
        ("UPDATE t SET c = 1 WHERE id BETWEEN $1 AND $2", {}, "must be bounded by ($1, $2) and ($3, $4)"),
        (f"UPDATE t SET c = 1 WHERE {ROWS}", {"key": ["a", "b", "d"]}, "bounded by ($1, $2, $3) and ($4, $5, $6)"),
        (f"UPDATE t SET c = 1 WHERE {ROWS}", {"key": ["a", "a"]}, "a list of different columns"),
        (f"UPDATE t SET c = 1 WHERE {ROWS}", {"key": ["a", 5]}, "a list of different columns"),
        (f"UPDATE t SET c = 1 WHERE {ROWS}", {"key": []}, "'key' is empty"),
        (f"UPDATE t SET c = 1 WHERE {ROWS}", {"key": "a"}, "must be bounded by $1 and $2"),
    ],
)
def test_a_bad_key_of_several_columns_is_refused(
    sql: Sql, statement: str, change: dict[str, Any], message: str
) -> None:
    backfill(sql, statement, **{"key": ["a", "b"]} | change)
    assert message in sql.fault()


FILL = "UPDATE t SET a = 1 WHERE id BETWEEN $1 AND $2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"safety": "complete"}, "the backfill has no 'down' although rollback.safety is 'complete', and no way down names 'a'"),
        ({"safety": "complete", "irreversible": "why"}, "is 'irreversible' although rollback.safety is 'complete'"),
        ({"irreversible": "why", "down": "x.sql.j2", "files": {"x.sql.j2": FILL}}, "either 'down' or 'irreversible'"),
        ({"irreversible": " "}, "it is empty"),
        ({"remaining": "x.sql.j2", "files": {"x.sql.j2": "DELETE FROM t"}}, "'remaining' is one SELECT"),
        ({"remaining": "x.sql.j2", "files": {"x.sql.j2": "SELECT 1; SELECT 2"}}, "'remaining' is one SELECT"),
        ({"remaining": "x.sql.j2", "files": {"x.sql.j2": "SELECT count(*) FROM t WHERE id > $1"}}, "'remaining' is one"),
    ],
)  # fmt: skip
def test_a_backfill_says_how_its_rows_come_back_and_what_is_left(
    sql: Sql, change: dict[str, Any], message: str
) -> None:
    backfill(sql, FILL, **change)
    assert message in sql.fault()


@pytest.mark.parametrize(
    "change",
    [
        {"safety": "complete", "down": "x.sql.j2", "files": {"x.sql.j2": FILL}},
        {"safety": "complete", "files": {"down.sql.j2": "ALTER TABLE t DROP COLUMN a;"}},
        {"irreversible": "which rows had no value is not known afterwards"},
        {},
    ],
)
def test_a_backfill_with_a_word_on_its_way_back_is_right(sql: Sql, change: dict[str, Any]) -> None:
    backfill(sql, FILL, **change)
    assert sql.render()


def test_validate_and_analyze_are_rendered(sql: Sql) -> None:
    sql.add(
        steps=[
            *METADATA["steps"],
            {"name": "check", "validate": [{"table": "t", "constraint": "c"}]},
            {"analyze": ["t", {"table": "u", "schema": "s"}]},
        ]
    )
    _, validate, analyze = sql.render()[0]["steps"]
    assert validate == {
        "kind": "validate",
        "name": "check",
        "constraints": [{"schema": "public", "table": "t", "constraint": "c"}],
    }
    assert analyze == {
        "kind": "analyze",
        "name": "analyze",
        "tables": [{"schema": "public", "table": "t"}, {"schema": "s", "table": "u"}],
    }


def test_a_verification_only_reads(sql: Sql) -> None:
    sql.add(files={"verify.sql.j2": "SELECT 1, 2, 3;\nDELETE FROM t;\n"})
    assert sql.fault() == f"{FIRST}/verify.sql.j2:2: a verification only reads: write a SELECT"
