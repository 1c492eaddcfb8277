# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Each state in which Sequelize's chain stops is carried to the end of ours, or refused before anything is recorded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import adoption, migrate, verify
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils import legacy_names, migration_lint, migration_tree
from support import engine, legacy

NAMES = legacy_names.read_names(legacy.SQL)
SECURITY, ENHANCED, RECORDS, INDEXES, ROWS, INCIDENTS = (
    "20250104000006",
    "20251009013303",
    "20251010000000",
    "20251011000000",
    "20251103000000",
    "20251103204744",
)
FIVE = ("20250104",)
STATES = {
    "five": FIVE,
    "six": (*FIVE, ENHANCED),
    "seven": (*FIVE, ENHANCED, RECORDS),
    "incident": (*FIVE, INCIDENTS, "20251104160219"),
    "all": (*FIVE, ENHANCED, RECORDS, INDEXES, INCIDENTS, "20251104160219"),
}
# Rows that each conversion, default and foreign key has to take.
ROWS_OF_THEIRS = """
INSERT INTO districts (id, name, code) VALUES ('00000000-0000-4000-8000-000000000001', 'd', 'd');
INSERT INTO schools (id, name, code, "districtId")
VALUES ('00000000-0000-4000-8000-000000000002', 's', 's', '00000000-0000-4000-8000-000000000001');
INSERT INTO users (id, email, password, "firstName", "lastName", role)
VALUES ('00000000-0000-4000-8000-000000000003', 'e', 'p', 'f', 'l', 'NURSE');
INSERT INTO students (id, "studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender, "schoolId")
VALUES ('00000000-0000-4000-8000-000000000004', 'n', 'f', 'l', '2015-01-01', '1', 'MALE',
        '00000000-0000-4000-8000-000000000002');
"""


def state(target: Any, name: str, *, record_types: bool = True) -> None:
    """A database on which Sequelize has run so much of its chain."""
    legacy.sequelize(target, record_types=record_types)
    legacy.sequelize_later(target, *STATES[name])
    engine.do(target, ROWS_OF_THEIRS)


def adopt(target: Any, tree: list[dict[str, Any]], **asked: Any) -> dict[str, Any]:
    return adoption.adopt(target, tree, adoption.Request(NAMES, **asked), engine.way())


def write(folder: Path, found: dict[str, Any]) -> list[str]:
    """Put the repairs into the tree, whose lint they pass. :return: their versions."""
    for repair in found["repairs"]:
        path = folder / "migrations" / f"{repair['version']}_{repair['name']}"
        path.mkdir()
        for name, text in repair["files"].items():
            (path / name).write_text(text, encoding="utf-8")
    assert migration_lint.lint(migration_tree.read_tree(folder), {}) == []
    return [repair["version"] for repair in found["repairs"]]


def carry(target: Any, folder: Path, **asked: Any) -> list[str]:
    """Adopt, write the repairs and apply what is pending; the result is what the tree declares. :return: the repairs."""
    found = adopt(target, legacy.tree(folder), **asked)
    repairs = write(folder, found)
    done = migrate.apply(target, legacy.tree(folder), Selection(), engine.way("20260101T000000Z-000002"))
    assert [item["version"] for item in done["applied"]] == found["pending"]
    assert verify.verify({target.database: target})[target.database]["passed"]
    assert engine.rows(target, "SELECT (SELECT count(*) FROM students) AS s, (SELECT count(*) FROM users) AS u") == [
        {"s": 1, "u": 1}
    ]
    return repairs


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    """The shipped tree, to write repairs into."""
    folder = tmp_path / "sql"
    shutil.copytree(legacy.SQL, folder)
    return folder


@pytest.fixture
def short(sql: Path) -> Path:
    """So much of it as shows that a version in between meets repaired types."""
    kept = {*legacy.FILES, SECURITY, ENHANCED}
    for folder in (sql / "migrations").iterdir():
        if folder.name.partition("_")[0] not in kept:
            shutil.rmtree(folder)
    return sql


def test_a_pending_version_between_adopted_ones_meets_what_they_declare(target: Any, short: Path) -> None:
    state(target, "six", record_types=False)
    # The version between the repairs uses a type that the first of them puts right.
    repairs = carry(target, short)
    assert repairs == ["20250103000004", "20251009013304"]
    # Down they go after what stands on them, and up again.
    done = migrate.revert(target, Reverts(keep="20250103000003"), engine.way("20260101T000000Z-000003"))
    gone = [item["version"] for item in done["reverted"]]
    assert gone == ["20251009013304", ENHANCED, SECURITY, "20250103000004"]
    done = migrate.apply(target, legacy.tree(short), Selection(), engine.way("20260101T000000Z-000004"))
    assert [item["version"] for item in done["applied"]] == gone[::-1]
    assert verify.verify({target.database: target})[target.database]["passed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "repairs"),
    [
        ("five", ["20250103000004"]),
        ("six", ["20250103000004", "20251009013304"]),
        ("incident", ["20250103000004", "20251103204745"]),
    ],
)
def test_R2_7_a_later_state_is_carried_to_the_end_and_keeps_its_rows(
    name: str, repairs: list[str], target: Any, sql: Path
) -> None:
    state(target, name)
    assert carry(target, sql) == repairs


@pytest.mark.parametrize("name", ["seven", pytest.param("all", marks=pytest.mark.slow)])
def test_a_state_that_differs_is_refused_and_is_carried_to_the_end_as_somebody_accepts_it(
    name: str, target: Any, sql: Path
) -> None:
    state(target, name)
    with pytest.raises(PgopsError, match="cannot be adopted as it is") as caught:
        adopt(target, legacy.tree())
    assert engine.rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []
    refused = [item["object"] for item in caught.value.extra["differences"]]
    assert 'column public.allergies."epiPenExpiration"' in refused
    repairs = carry(target, sql, accept=refused)
    # What a version that changes rows needs is there before it.
    assert any(RECORDS < version < ROWS for version in repairs)
    assert engine.state(target, ROWS)["state"] == "applied"


def whole_without_a_ledger(target: Any, tree: list[dict[str, Any]], *damage: str) -> None:
    migrate.apply(target, tree, Selection(), engine.way("20260101T000000Z-000001"))
    engine.do(target, "DROP SCHEMA pgops CASCADE", *damage)


@pytest.mark.slow
def test_an_index_that_is_missing_of_a_version_that_fills_rows_is_repaired(target: Any, sql: Path) -> None:
    """The column that comes of the filling is there: the rows are done."""
    whole_without_a_ledger(
        target, legacy.tree(sql), 'DROP INDEX "chronic_conditions_healthRecordId_idx"', ROWS_OF_THEIRS
    )
    (repaired,) = carry(target, sql)
    assert repaired > RECORDS


@pytest.mark.slow
def test_a_version_that_its_own_up_cannot_complete_is_refused_before_anything_is_recorded(
    target: Any, sql: Path
) -> None:
    """Its tables are as later versions have made them: the up would stop there, and nobody gets on from that."""
    (file,) = sql.glob(f"migrations/{RECORDS}_*/migration.yml")
    file.write_text(file.read_text(encoding="utf-8").replace(", ends_as: status", ""), encoding="utf-8")
    tree = legacy.tree(sql)
    whole_without_a_ledger(target, tree, 'DROP INDEX "chronic_conditions_healthRecordId_idx"')
    with pytest.raises(PgopsError, match="its own up cannot complete it: .* is as a later version makes it"):
        adopt(target, tree)
    assert engine.rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []
