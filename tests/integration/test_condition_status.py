# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The status of a condition, from text to enum and back: what somebody decided since, and what somebody hung on it, stays."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, connection, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_tree
from support.engine import Told, do, rows, way
from support.people import HEALTH, enhanced, ready
from support.tree import shipped_chain

SQL = Path(__file__).resolve().parents[2] / "sql"
LEGACY = "20251103000000"
BEFORE = pytest.mark.begins(at=lambda server: ready(server, HEALTH))
AFTER = pytest.mark.begins(at=lambda server: enhanced(server, HEALTH))
TEXTS = (
    'SELECT status::text, "legacyStatus", count(*) FROM chronic_conditions WHERE "legacyStatus" IS NOT NULL '
    "GROUP BY 1, 2 ORDER BY 1, 2"
)


class EndsAt(Told):
    """Asks the run to end when it begins a step."""

    def __init__(self, step: int, control: Any) -> None:
        super().__init__()
        self.step, self.control = step, control

    def emit(self, text: str, **fields: Any) -> None:
        super().emit(text, **fields)
        if fields.get("step") == self.step:
            self.control.request("the test ends it")


def up(target: Any, version: str = HEALTH, **variables: Any) -> Told:
    told = Told()
    chain = migration_tree.render(migration_tree.read_tree(SQL), variables) if variables else shipped_chain()
    migrate.apply(target, chain, Selection(target=version), way(progress=told))
    return told


def down(target: Any) -> Told:
    told = Told()
    migrate.revert(target, Reverts(), way(progress=told))
    return told


def inventory(target: Any) -> catalog.Inventory:
    with closing(connection.connect(target, application_name="pgops test")) as conn:
        return catalog.inventory(conn)


def found(target: Any, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in rows(target, query)]


@AFTER
def test_a_condition_that_a_nurse_made_active_again_stays_active(target: Any) -> None:
    do(target, "UPDATE chronic_conditions SET status = 'ACTIVE' WHERE \"legacyStatus\" = 'inactive'")
    then = [("ACTIVE", "inactive", 3), ("RESOLVED", " Resolved ", 3)]
    assert found(target, TEXTS) == then
    up(target, LEGACY)
    assert found(target, TEXTS) == then
    down(target)
    assert found(target, TEXTS) == then


# The type stands there, of an incomplete way down say, while the status is text.
ENUM = "CREATE TYPE public.\"ConditionStatus\" AS ENUM ('ACTIVE', 'MANAGED', 'RESOLVED', 'MONITORING', 'INACTIVE')"
COUNTED = "SELECT status::text, count(*) FROM chronic_conditions GROUP BY 1 ORDER BY 1"


@BEFORE
def test_the_texts_come_back_where_only_the_type_was_there_before(target: Any) -> None:
    do(target, ENUM)
    schema, texts = inventory(target), found(target, COUNTED)
    up(target)
    assert found(target, "SELECT DISTINCT pg_typeof(status)::text FROM chronic_conditions") == [('"ConditionStatus"',)]
    told = down(target)
    assert not told.said("this version did not convert it")
    assert found(target, COUNTED) == texts
    assert catalog.compare(schema, inventory(target), ignore=()) == []


@BEFORE
def test_a_status_that_was_an_enum_before_is_left_one(target: Any) -> None:
    do(
        target,
        ENUM,
        "UPDATE chronic_conditions SET status = upper(btrim(status))",
        "ALTER TABLE chronic_conditions ALTER status DROP DEFAULT",
        'ALTER TABLE chronic_conditions ALTER status TYPE "ConditionStatus" USING status::"ConditionStatus"',
        "ALTER TABLE chronic_conditions ALTER status SET DEFAULT 'ACTIVE'",
        # Nothing is converted, so it is in nobody's way.
        "CREATE VIEW open_conditions AS SELECT id FROM chronic_conditions WHERE status = 'ACTIVE'",
    )
    schema, labels = inventory(target), found(target, COUNTED)
    up(target)
    told = down(target)
    assert told.said("chronic_conditions.status stays as it is: this version did not convert it")
    assert found(target, COUNTED) == labels
    assert catalog.compare(schema, inventory(target), ignore=()) == []


HANGING = {
    "index dba_open": 'CREATE INDEX dba_open ON chronic_conditions ("studentId", status) WHERE notes IS NOT NULL',
    "index dba_notes": "CREATE INDEX dba_notes ON chronic_conditions (notes) WHERE status = 'ACTIVE'",
    "constraint dba_status on table chronic_conditions": (
        "ALTER TABLE chronic_conditions ADD CONSTRAINT dba_status CHECK (length(status) > 2)"
    ),
    "statistics object dba_statistics": 'CREATE STATISTICS dba_statistics ON status, "studentId" FROM chronic_conditions',
    "view open_conditions": "CREATE VIEW open_conditions AS SELECT id FROM chronic_conditions WHERE status = 'ACTIVE'",
    "trigger dba_touch on table chronic_conditions": (
        "CREATE TRIGGER dba_touch BEFORE UPDATE OF status ON chronic_conditions "
        "FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    ),
    "default value for column capitals of table chronic_conditions": (
        "ALTER TABLE chronic_conditions ADD COLUMN capitals text GENERATED ALWAYS AS (upper(status)) STORED"
    ),
    "policy dba_policy on table chronic_conditions": (
        "CREATE POLICY dba_policy ON chronic_conditions USING (status <> 'hidden')"
    ),
}
DROPPED = (
    "DROP INDEX dba_open, dba_notes",
    "ALTER TABLE chronic_conditions DROP CONSTRAINT dba_status, DROP COLUMN capitals",
    "DROP STATISTICS dba_statistics",
    "DROP VIEW open_conditions",
    "DROP TRIGGER dba_touch ON chronic_conditions",
    "DROP POLICY dba_policy ON chronic_conditions",
)


@pytest.mark.majors(15, 18, slow=(15,))
@BEFORE
def test_what_others_hung_on_the_status_is_named_before_anything_of_it_changes(target: Any) -> None:
    do(target, *HANGING.values())
    schema, texts = inventory(target), found(target, COUNTED)
    with pytest.raises(PgopsError) as caught:
        up(target)
    assert "Step 6 of 15" in caught.value.message
    assert f"chronic_conditions.status still has: {', '.join(sorted(HANGING))}" in caught.value.message
    assert "drop them" in str(caught.value.hint)
    assert found(target, COUNTED) == texts
    assert {str(item.object) for item in catalog.compare(schema, inventory(target))}.isdisjoint(
        {'column public.chronic_conditions."legacyStatus"', 'type public."ConditionStatus"'}
    )
    do(target, *DROPPED)
    up(target)


@BEFORE
def test_what_comes_onto_the_status_meanwhile_is_named_before_it_would_go(target: Any) -> None:
    stopped = way()
    stopped.progress = EndsAt(9, stopped.control)
    with pytest.raises(PgopsError, match="Step 9 of 15.*interrupted"):
        migrate.apply(target, shipped_chain(), Selection(target=HEALTH), stopped)
    do(target, HANGING["index dba_open"], HANGING["view open_conditions"])
    with pytest.raises(PgopsError, match="Step 10 of 15.*status still has: index dba_open, view open_conditions"):
        up(target)
    do(target, "DROP INDEX dba_open", "DROP VIEW open_conditions")
    up(target)


@pytest.mark.majors(15, 18, slow=(15,))
@BEFORE
def test_what_the_planner_was_told_of_the_status_stays(target: Any) -> None:
    do(
        target,
        "ALTER TABLE chronic_conditions ALTER status SET STATISTICS 500, ALTER status SET (n_distinct = 5)",
    )
    query = (
        "SELECT attstattarget, array(SELECT o FROM unnest(attoptions) AS o WHERE o !~ '^pg_attver=') FROM pg_attribute "
        "WHERE attrelid = 'chronic_conditions'::regclass AND attname = 'status'"
    )
    assert found(target, query) == [(500, ["n_distinct=5"])]
    up(target)
    assert found(target, query) == [(500, ["n_distinct=5"])]
    down(target)
    assert found(target, query) == [(500, ["n_distinct=5"])]


@BEFORE
@pytest.mark.parametrize("decided", ["before the mapping", "after the mapping"])
def test_the_way_back_of_the_mapping_leaves_what_a_nurse_decided(target: Any, decided: str) -> None:
    do(target, "UPDATE chronic_conditions SET status = 'Controlled' WHERE status IN ('MANAGED', 'MONITORING')")
    up(target)
    one = "WHERE id = (SELECT min(id::text)::uuid FROM chronic_conditions WHERE \"legacyStatus\" = 'Controlled')"
    if decided == "before the mapping":
        do(target, f"UPDATE chronic_conditions SET status = 'MANAGED' {one}")
        left = "MANAGED"
    up(target, LEGACY, condition_status={"CONTROLLED": "MANAGED"})
    unknown = "SELECT status::text, count(*) FROM chronic_conditions WHERE \"legacyStatus\" = 'Controlled' GROUP BY 1 ORDER BY 1"
    assert found(target, unknown) == [("MANAGED", 6)]
    if decided == "after the mapping":
        do(target, f"UPDATE chronic_conditions SET status = 'RESOLVED' {one}")
        left = "RESOLVED"
    down(target)
    assert found(target, unknown) == sorted([("ACTIVE", 5), (left, 1)])


@BEFORE
def test_what_was_mapped_once_is_not_mapped_again(target: Any) -> None:
    """As where the version runs once more because an adoption could not tell that it ran."""
    do(target, "UPDATE chronic_conditions SET status = 'Controlled' WHERE status = 'MANAGED'")
    up(target, LEGACY, condition_status={"CONTROLLED": "MANAGED"})
    do(target, "UPDATE chronic_conditions SET status = 'ACTIVE' WHERE \"legacyStatus\" = 'Controlled'")
    do(target, f"DELETE FROM pgops.migration WHERE version = '{LEGACY}'")
    up(target, LEGACY)
    assert found(target, TEXTS) == [
        ("ACTIVE", "Controlled", 3),
        ("INACTIVE", "inactive", 3),
        ("RESOLVED", " Resolved ", 3),
    ]


@BEFORE
def test_a_condition_without_a_status_keeps_none(target: Any) -> None:
    do(
        target,
        "ALTER TABLE chronic_conditions ALTER status DROP NOT NULL",
        "UPDATE chronic_conditions SET status = NULL WHERE status = 'MANAGED'",
    )
    schema, texts = inventory(target), found(target, COUNTED)
    assert (None, 3) in texts
    told = up(target)
    assert told.said("3 condition(s) have no status and keep none")
    assert found(target, COUNTED) == [("ACTIVE", 5), ("INACTIVE", 6), ("MONITORING", 3), ("RESOLVED", 3), (None, 3)]
    down(target)
    assert found(target, COUNTED) == texts
    assert catalog.compare(schema, inventory(target), ignore=()) == []


@AFTER
def test_the_way_back_says_nothing_untrue_of_the_proof(target: Any) -> None:
    told = down(target)
    assert not told.said("chronic_conditions_statusLabel_check")
    assert told.said("The rows were only read: there is nothing to take back")
