# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Which of two indexes is needless: preflight and the report of maintenance say so of none whose loss somebody would notice."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import maintenance_report
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_plan import Needs
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_report import Reported
from ansible_collections.whitecross.pgops.plugins.module_utils.preflight_checks import expand
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from support.engine import RUN, rows
from support.health import shipped
from support.maintained import do

# What is there, and of which index it is said that it is needless.
CASES: dict[str, tuple[list[str], set[str]]] = {
    "the same twice": (["CREATE INDEX first ON t (a)", "CREATE INDEX second ON t (a)"], {"second"}),
    "unique does what a plain one does": (["CREATE INDEX plain ON t (a)", "CREATE UNIQUE INDEX one ON t (a)"], {"plain"}),
    "NULLS NOT DISTINCT refuses more": (
        ["CREATE UNIQUE INDEX plain ON t (a)", "CREATE UNIQUE INDEX strict ON t (a) NULLS NOT DISTINCT"], {"plain"},
    ),
    "a key that is checked at the end of the transaction is none at once": (
        ["ALTER TABLE t ADD CONSTRAINT late UNIQUE (a) DEFERRABLE INITIALLY DEFERRED", "CREATE UNIQUE INDEX at_once ON t (a)"], set(),
    ),
    "the identity of replication stays, and so it does where it is the younger one": (
        ["ALTER TABLE t ALTER a SET NOT NULL", "CREATE UNIQUE INDEX other ON t (a)", "CREATE UNIQUE INDEX identity ON t (a)",
         "ALTER TABLE t REPLICA IDENTITY USING INDEX identity"], {"other"},
    ),
    "what CLUSTER goes by stays": (
        ["CREATE INDEX other ON t (a)", "CREATE INDEX clustered ON t (a)", "ALTER TABLE t CLUSTER ON clustered"], {"other"},
    ),
    "both are of use": (
        ["ALTER TABLE t ALTER a SET NOT NULL", "CREATE UNIQUE INDEX identity ON t (a)", "CREATE UNIQUE INDEX clustered ON t (a)",
         "ALTER TABLE t REPLICA IDENTITY USING INDEX identity", "ALTER TABLE t CLUSTER ON clustered"], set(),
    ),
    "a foreign key stands on one": (
        ["CREATE UNIQUE INDEX referred ON t (a)", "CREATE TABLE child (a integer REFERENCES t (a))", "CREATE UNIQUE INDEX young ON t (a)"],
        {"young"},
    ),
    "the index of a constraint goes with no index": (
        ["ALTER TABLE t ADD CONSTRAINT key UNIQUE (a)", "CREATE UNIQUE INDEX other ON t (a)"], {"other"},
    ),
    "other columns are included": (
        ["CREATE INDEX with_b ON t (a) INCLUDE (b)", "CREATE INDEX with_c ON t (a) INCLUDE (c)"], set(),
    ),
    "another operator class": (["CREATE INDEX plain ON t (b)", "CREATE INDEX likes ON t (b text_pattern_ops)"], set()),
    "another collation": (["CREATE INDEX plain ON t (b)", 'CREATE INDEX posix ON t (b COLLATE "C")'], set()),
    "another signature length": (
        ["CREATE INDEX short ON t USING gist (v tsvector_ops (siglen = 100))", "CREATE INDEX long ON t USING gist (v tsvector_ops (siglen = 500))"],
        set(),
    ),
    "another condition": (
        ["CREATE INDEX a_few ON t (a) WHERE b IS NULL", "CREATE INDEX others ON t (a) WHERE b IS NOT NULL", "CREATE INDEX every ON t (a)"], set(),
    ),
    "another expression": (["CREATE INDEX lower ON t (lower(b))", "CREATE INDEX upper ON t (upper(b))"], set()),
    "another operator of an exclusion": (
        ["ALTER TABLE t ADD CONSTRAINT apart EXCLUDE USING gist (r WITH &&)", "ALTER TABLE t ADD CONSTRAINT not_beside EXCLUDE USING gist (r WITH -|-)"],
        set(),
    ),
}  # fmt: skip


@pytest.fixture
def table(target: Any) -> Any:
    do(target, "CREATE TABLE t (id integer, a integer, b text, c integer, v tsvector, r int4range)")
    return target


def told_by_preflight(target: Any) -> set[str]:
    query = expand(shipped().by_name["duplicate_indexes"].query).replace("%%", "%")
    return {row["object"].partition(".")[2] for row in rows(target, query)}


def told_by_report(target: Any) -> set[str]:
    found = maintenance_report.make(target, Needs(), Reported(), run_id=RUN, progress=Progress(), control=Control())
    return {one["name"] for one in found["duplicate_indexes"]}


@pytest.mark.parametrize("case", CASES)
def test_only_an_index_whose_loss_nobody_notices_is_called_needless(table: Any, case: str) -> None:
    statements, needless = CASES[case]
    do(table, *statements)
    assert told_by_preflight(table) == needless
    assert told_by_report(table) == needless


def test_of_three_the_one_that_stays_is_named_for_both_others(table: Any) -> None:
    do(table, "CREATE INDEX first ON t (a)", "CREATE UNIQUE INDEX second ON t (a)",
       "CREATE UNIQUE INDEX third ON t (a) NULLS NOT DISTINCT")  # fmt: skip
    query = expand(shipped().by_name["duplicate_indexes"].query).replace("%%", "%")
    assert {row["object"]: row["kept"] for row in rows(table, query)} == {
        "public.first": "third",
        "public.second": "third",
    }


def test_of_two_constraints_that_are_one_the_constraint_goes(table: Any) -> None:
    do(table, "ALTER TABLE t ADD CONSTRAINT first UNIQUE (a)", "ALTER TABLE t ADD CONSTRAINT second UNIQUE (a)")
    query = expand(shipped().by_name["duplicate_indexes"].query).replace("%%", "%")
    (row,) = rows(table, query)
    assert row["todo"] == "ALTER TABLE public.t DROP CONSTRAINT second;"


def test_an_index_of_a_partitioned_table_is_dropped_with_those_of_its_partitions(target: Any) -> None:
    do(target, "CREATE TABLE parts (a integer) PARTITION BY LIST (a)", "CREATE TABLE part PARTITION OF parts DEFAULT",
       "CREATE INDEX first ON parts (a)", "CREATE INDEX second ON parts (a)")  # fmt: skip
    query = expand(shipped().by_name["duplicate_indexes"].query).replace("%%", "%")
    (row,) = rows(target, query)
    do(target, str(row["todo"]))
    assert row["todo"] == "DROP INDEX public.second;"
