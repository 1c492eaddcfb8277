# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of preflight as data: what the files say, what a fault in them is called, and that the page and the role follow them."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.whitecross.pgops.plugins.module_utils import preflight_checks, timer_state
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import ops_clock, preflight_data, reporting, timer_files

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def load_page() -> Any:
    spec = importlib.util.spec_from_file_location("preflight_page", ROOT / "tests" / "setup" / "preflight_page.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


preflight_page = load_page()


def test_each_check_has_what_a_person_needs() -> None:
    checks = preflight_data.read().checks
    assert len(checks) >= 30
    for check in checks:
        assert re.fullmatch(r"[a-z][a-z0-9_]+", check["name"])
        assert check["means"].endswith(".")
        assert check["fix"]
        # Everything that a sentence wants is a column that its query names, or a word of every row.
        made = preflight_checks.Check.of(check)
        if check["query"]:
            for name in re.findall(r"\{(\w+)(?::I|!r)?\}", made.found + made.fix):
                assert re.search(rf"\b{name}\b", made.query), f"{check['name']}: no column {name}"
            assert len(made.levels) == 1 or re.search(r"\bAS level\b|\.level\b", made.query), check["name"]


def test_each_threshold_is_used_and_is_a_variable_of_the_role_with_the_same_default() -> None:
    data = preflight_data.read()
    queries = "".join(check["query"] for check in data.checks)
    looks = (ROOT / "plugins" / "module_utils" / "preflight_looks.py").read_text(encoding="utf-8")
    looks += (ROOT / "plugins" / "module_utils" / "preflight.py").read_text(encoding="utf-8")
    for name in data.thresholds:
        assert f"%({name})s" in queries or f'"{name}"' in looks, name
    defaults = yaml.safe_load((ROOT / "roles" / "preflight" / "defaults" / "main.yml").read_text(encoding="utf-8"))
    defaults.pop("preflight_waive")
    assert defaults == {preflight_data.VARIABLE.format(name): value for name, value in data.thresholds.items()}


def test_every_parameter_of_a_query_is_known() -> None:
    data = preflight_data.read()
    known = {*data.thresholds, "user", "owner", "backup", "restore", "production", "limit", "member_privilege"}
    for check in data.checks:
        query = preflight_checks.expand(check["query"])
        assert set(re.findall(r"%\((\w+)\)s", query)) <= known, check["name"]
        # A percent sign that is no parameter is written twice.
        assert "%" not in re.sub(r"%%|%\(\w+\)s", "", query), check["name"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "preflight"
    shutil.copytree(preflight_data.FOLDER, copy)
    return copy


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    file = folder / preflight_data.CHECKS
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    change(data)
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data["checks"].append({**data["checks"][0], "level": ["stop"]}), "the check server stands twice"),
        (lambda data: data["checks"][0].update(level=["fatal"]), r"the level of server is \[warn\], \[stop\]"),
        (lambda data: data["checks"][0].update(scope="cluster"), "'scope' is 'cluster'"),
        (lambda data: data["checks"][0].update(fixes="x"), "unknown key 'fixes'"),
        (lambda data: data["checks"][0].pop("means"), "the key 'means' is missing"),
        (lambda data: data["checks"][0].update(needs="luck"), "server needs luck, which is no need above"),
        (lambda data: data["checks"][0].update(found="{x}"), r"there is no server\.sql"),
        (
            lambda data: data["checks"].remove(next(check for check in data["checks"] if check["name"] == "sequences")),
            r"sequences\.sql belongs to no check",
        ),
        (
            lambda data: next(check for check in data["checks"] if check["name"] == "sequences").pop("well"),
            "sequences has a query and no words for what it finds",
        ),
    ],
)
def test_a_fault_in_the_data_is_one_sentence(
    folder: Path, change: Callable[[dict[str, Any]], Any], sentence: str
) -> None:
    with pytest.raises(PgopsError, match=sentence):
        preflight_data.read(changed(folder, change))


def test_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(PgopsError, match=r"checks\.yml cannot be read: No such file"):
        preflight_data.read(tmp_path)


def test_sql_that_nobody_shares_is_told() -> None:
    with pytest.raises(PgopsError, match=r"names \{\{NOBODY\}\}, and there is no such SQL; choose from ALL_OWNERS"):
        preflight_checks.expand("SELECT {{NOBODY}}")


def test_the_page_is_current() -> None:
    text = preflight_page.PAGE.read_text(encoding="utf-8")
    assert preflight_page.page(text) == text, (
        f"docs/preflight.md is not what the data says; type: {preflight_page.COMMAND}"
    )
    assert f"`preflight.yml` looks at {len(preflight_data.read().checks)} things" in text


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="has no place for its checks"):
        preflight_page.page("# Preflight\n")


# -- what the timers of the ops host leave --------------------------------------------------------------------------------


def test_heartbeats_are_read_by_name_and_nonsense_is_told(tmp_path: Path) -> None:
    folder = timer_files.folder_of(tmp_path, "staging")
    assert timer_files.read(folder) is None
    folder.mkdir(parents=True)
    assert timer_files.read(folder) == []
    beat = {"name": "backup", "last_success": "2026-01-01T00:00:00Z", "expected_every_s": 86400, "result": "success"}
    (folder / "backup.json").write_text(json.dumps({**beat, "exit_code": 0}))
    (folder / "drill.json").write_text("{")
    (folder / "list.json").write_text("[]")
    (folder / ".backup.json.partial").write_text("{")
    assert timer_files.read(folder) == [
        beat,
        {"name": "drill", "fault": f"{folder / 'drill.json'} is no JSON object"},
        {"name": "list", "fault": f"{folder / 'list.json'} is no JSON object"},
    ]
    (tmp_path / "file").write_text("")
    assert "cannot be read" in (timer_files.read(tmp_path / "file") or [{}])[0]["fault"]


def installed(tmp_path: Path, **ages: timedelta) -> None:
    """:param ages: job -> since when it is installed; each is expected daily"""
    jobs = {
        name: {
            "playbook": f"{name}.yml", "on_calendar": "*-*-* 01:30", "delay_s": 0, "expected_every_s": 86400, "ping_url_file": None,
            "unit": None, "installed_at": timer_state.utc(NOW - age),
        }
        for name, age in ages.items()
    }  # fmt: skip
    record = {"format": 1, "environment": "staging", "manager": "cron", "scope": "user", "grace_s": 3600, "jobs": jobs}
    timer_state.write(timer_state.TimerPlace(str(tmp_path), "staging").record, record)


def test_a_timer_that_is_installed_and_never_ran_is_missed(tmp_path: Path) -> None:
    assert timer_files.known(tmp_path, "staging", NOW) is None
    installed(tmp_path, backup=timedelta(days=3), drill=timedelta(hours=3), maintenance=timedelta(days=30))
    folder = timer_files.folder_of(tmp_path, "staging")
    folder.mkdir(parents=True)
    beat = {"last_success": timer_state.utc(NOW - timedelta(hours=2)), "expected_every_s": 86400, "result": "success"}
    (folder / "maintenance.json").write_text(json.dumps({"name": "maintenance", **beat}))
    (folder / "broken.json").write_text("{")
    (folder / "own.json").write_text(json.dumps({"name": "own", **beat}))
    found = {timer["name"]: timer for timer in timer_files.known(tmp_path, "staging", NOW) or []}
    assert {name: timer.get("state") for name, timer in found.items()} == {
        "backup": "missed", "drill": "waiting", "maintenance": "ok", "broken": None, "own": None,
    }  # fmt: skip
    assert found["backup"]["why"].startswith("it has never succeeded since it was installed")
    assert found["broken"]["fault"] and found["own"] == {"name": "own", **beat}


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"jobs": []}', '{"jobs": {"backup": {}}}', '{"jobs": {"backup": 1}}']
)
def test_a_record_of_timers_that_cannot_be_read_is_told(tmp_path: Path, text: str) -> None:
    record = Path(timer_state.TimerPlace(str(tmp_path), "staging").record)
    record.parent.mkdir()
    record.write_text(text)
    assert timer_files.known(tmp_path, "staging", NOW) == [
        {"name": "timers of staging", "fault": f"{record} cannot be read, or is no record of timers"}
    ]


# -- the clock of the ops host --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "evidence"),
    [
        (100.0, None),
        (98.5, None),
        (111.9, None),
        (90.0, "at least 10 s behind that of"),
        (125.0, "at least 15 s ahead of that of"),
    ],
)
def test_the_clock_of_the_ops_host_is_another_one(told: float, evidence: str | None) -> None:
    clock = preflight_checks.Check("clock", "time of the server").entry("ok", "the same as this machine's")
    found = {"checks": [clock], "facts": {"clock": told}, "level": "ok"}
    ops_clock.compare(found, asked=100.0, answered=110.0, warn_s=2)
    assert (found["level"], clock["level"]) == (("warn", "warn") if evidence else ("ok", "ok"))
    assert (evidence or "the same as") in clock["evidence"]
    # Nothing was seen of a server that could not be reached.
    ops_clock.compare({"checks": [], "facts": {}, "level": "stop"}, 1, 2, 2)


# -- on the screen --------------------------------------------------------------------------------------------------------


def test_what_is_blind_for_one_reason_is_one_line() -> None:
    check = preflight_checks.Check("one", "x")
    checks = [
        check.unknown("may not see it", "GRANT x;"),
        preflight_checks.Check("two", "x").unknown("may not see it", "GRANT x;"),
        preflight_checks.Check("three", "x").unknown("is elsewhere", "look there"),
        {**preflight_checks.Check("four", "x").unknown("is elsewhere", "look there"), "waived": "a managed server"},
    ]
    lines = reporting.health_table("school", {"checks": checks, "facts": {}})
    assert [" ".join(line.split()) for line in lines] == [
        "health of school: 0 ok, 4 warn",
        "unknown one, two may not see it",
        "fix: GRANT x;",
        "unknown three is elsewhere",
        "fix: look there",
        "waived four is elsewhere",
        "waived: a managed server",
    ]
