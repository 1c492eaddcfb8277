# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The risk of a version: declared, read off its statements, seen in its rehearsal; the highest counts, and each reason is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import risk
from ansible_collections.whitecross.pgops.plugins.plugin_utils.risk_changes import changes_of
from support.tree import TestTree, shipped_chain

V1 = "20260101000000"
NEW = "CREATE TABLE public.t (id integer PRIMARY KEY, p integer REFERENCES public.old (id));"


def changes(tmp_path: Path, up: str) -> list[tuple[str, str]]:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "x", up, "SELECT 1;")
    (migration,) = tree.render()
    return [(change["change"], change["object"]) for change in changes_of(migration)]


@pytest.mark.parametrize(
    ("up", "change", "level"),
    [
        (NEW, "new object", "LOW"),
        (f"{NEW} ALTER TABLE public.t ADD FOREIGN KEY (id) REFERENCES public.old (id);", "new object", "LOW"),
        (f"{NEW} INSERT INTO public.t (id) VALUES (1);", "seed", "LOW"),
        ("ALTER TABLE public.old ADD COLUMN c text;", "nullable column", "LOW"),
        ("COMMENT ON TABLE public.old IS 'x';", "other", "LOW"),
        ("ALTER TABLE public.old ADD COLUMN c text NOT NULL DEFAULT '';", "not null", "MEDIUM"),
        ("ALTER TABLE public.old ALTER COLUMN c SET NOT NULL;", "not null", "MEDIUM"),
        ("ALTER TYPE public.kind ADD VALUE 'x';", "enum", "MEDIUM"),
        ("CREATE INDEX i ON public.old (c);", "blocking index", "MEDIUM"),
        ("ALTER TABLE public.old ADD CONSTRAINT k CHECK (c <> '') NOT VALID;", "constraint", "MEDIUM"),
        ("GRANT SELECT ON public.old TO PUBLIC;", "access", "MEDIUM"),
        ("ALTER TABLE public.old ENABLE ROW LEVEL SECURITY;", "access", "MEDIUM"),
        ("DO $$ BEGIN EXECUTE current_setting('x.y'); END $$;", "unread", "MEDIUM"),
        ("SELECT public.purge();", "unread", "MEDIUM"),
        ("SELECT setval('public.s', (SELECT max(id) FROM public.old));", "other", "LOW"),
        ("UPDATE public.old SET c = 'x';", "data", "HIGH"),
        ("DO $$ BEGIN UPDATE public.old SET c = 'x'; END $$;", "data", "HIGH"),
        ("WITH gone AS (DELETE FROM public.old RETURNING id) SELECT count(*) FROM gone;", "data", "HIGH"),
        ("ALTER TABLE public.old DROP COLUMN c;", "column removal", "HIGH"),
        ("DROP TABLE public.old;", "removal", "HIGH"),
        ("TRUNCATE public.old;", "removal", "HIGH"),
        ("ALTER TABLE public.old ADD CONSTRAINT k FOREIGN KEY (c) REFERENCES public.o (id) NOT VALID;", "foreign key", "CRITICAL"),
        ("ALTER TABLE public.old ADD COLUMN c integer REFERENCES public.o (id);", "foreign key", "CRITICAL"),
        ("DO $$ BEGIN EXECUTE 'ALTER TABLE public.old ADD FOREIGN KEY (c) REFERENCES public.o'; END $$;", "foreign key", "CRITICAL"),
        ("ALTER TABLE public.old DROP CONSTRAINT old_c_fkey;", "foreign key", "CRITICAL"),
        ("ALTER TABLE public.old ALTER COLUMN c TYPE bigint;", "restructuring", "CRITICAL"),
        ("ALTER TABLE public.old RENAME COLUMN c TO d;", "restructuring", "CRITICAL"),
        ("ALTER TABLE public.old RENAME TO older;", "restructuring", "CRITICAL"),
    ],
)  # fmt: skip
def test_a_statement_has_the_level_of_the_matrix(tmp_path: Path, up: str, change: str, level: str) -> None:
    found = changes(tmp_path, up)
    assert change in [kind for kind, _ in found], found
    assert risk.highest(risk.OF_CHANGE[kind][0] for kind, _ in found) == level


def test_a_foreign_key_is_critical_also_when_it_is_validated_and_a_concurrent_index_is_low(tmp_path: Path) -> None:
    tree = TestTree(tmp_path / "sql")
    up = "ALTER TABLE public.old ADD CONSTRAINT k FOREIGN KEY (c) REFERENCES public.o (id) NOT VALID;"
    steps: list[dict[str, Any]] = [
        {"indexes": "indexes.yml"},
        {"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}},
        {"validate": [{"table": "old", "constraint": "k"}]},
    ]
    index = [{"name": "old_c_idx", "table": "old", "columns": ["c"], "phi": True, "why": "a test"}]
    files = {"up.sql.j2": up, "down.sql.j2": "ALTER TABLE public.old DROP CONSTRAINT k;", "indexes.yml": index}
    tree.add(V1, "key", steps, files)
    tree.add("20260101000001", "index", steps[:1], {"indexes.yml": index})
    key, alone = tree.render()
    assert [change["change"] for change in changes_of(key)] == ["concurrent index", "foreign key", "foreign key"]
    assert risk.assess({"risk": "low", "phi": True}, changes_of(key)).level == "CRITICAL"
    assert risk.assess({"risk": "low", "phi": True}, changes_of(alone)).level == "LOW"


def test_the_shipped_chain_is_rated_no_lower_than_declared_and_the_key_of_the_medication_logs_critical() -> None:
    rated = {item["version"]: risk.assess(item, changes_of(item)) for item in shipped_chain()}
    declared = {item["version"]: item["risk"].upper() for item in shipped_chain()}
    assert all(risk.rank(rated[version].level) >= risk.rank(declared[version]) for version in rated)
    assert rated["20251106000000"].level == "CRITICAL"
    assert [rated[version].level for version in ("20250103000000", "20251106000002")] == ["LOW", "LOW"]


OLD = [{"change": "nullable column", "object": "public.old.c"}]


def rate(
    changes: Any = OLD, steps: Any = None, forecast: Any = None, down: bool | None = None, **version: Any
) -> list[str]:
    found = risk.assess({"risk": "low", "phi": False, **version}, changes, steps, forecast, down_equal=down)
    assert found.level == found.reasons[0].level
    return [found.level, *(f"{reason.source}: {reason.why}" for reason in found.reasons if reason.level != "LOW")]


def test_declared_health_data_way_back_and_length_count() -> None:
    data = [{"change": "not null", "object": "public.old.c"}]
    phi = "phi: it changes health data that is there, or who may see it"
    assert rate(risk="critical")[:2] == ["CRITICAL", "declared: its author declares it"]
    assert rate(phi=True) == ["MEDIUM", phi]
    assert rate([{"change": "new object", "object": "public.t"}], phi=True, rollback={"safety": "partial"}) == ["LOW"]
    assert rate(data, rollback={"safety": "none"})[:2] == ["HIGH", "way back: it has no way back but a backup"]
    assert rate(to_be_split=True, expected_seconds=90)[0] == "HIGH"


@pytest.mark.parametrize(
    ("seconds", "level"), [(0.9, "LOW"), (1.0, "MEDIUM"), (5.0, "HIGH"), (29.9, "HIGH"), (30.0, "CRITICAL")]
)
def test_how_long_clients_are_kept_out_counts(seconds: float, level: str) -> None:
    forecast = [{"step": "widen", "blocks_reads": 0, "blocks_writes": seconds, "high": 1}]
    told = rate(steps=[], forecast=forecast)
    assert told[0] == level
    assert level == "LOW" or told[1] == f"rehearsal: keeps writers out for {seconds:.1f} s in the step widen"


def test_what_the_trace_shows_and_no_statement_tells_counts() -> None:
    unread = [{"change": "unread", "object": "a DO block"}]
    assert rate(steps=[{"step": "s", "rewrites": ["public.old"]}])[:2] == [
        "MEDIUM", "rehearsal: rewrites public.old in the step s"
    ]  # fmt: skip
    assert rate(unread, steps=[{"step": "s", "rows": 1200}])[:2] == [
        "HIGH", "rehearsal: writes 1,200 rows that no statement tells of"
    ]  # fmt: skip
    hidden, own = {"statement": "SELECT purge()", "rows": 7}, {"statement": "INSERT INTO t", "rows": 900}
    seeded = [*unread, {"change": "seed", "object": "public.t"}]
    assert rate(seeded, steps=[own, hidden])[1] == "rehearsal: writes 7 rows that no statement tells of"
    assert rate(seeded, steps=[own])[0] == "MEDIUM"
    assert rate(steps=[], forecast=[{"step": "s", "high": 2000}])[:2] == ["HIGH", "rehearsal: may take 2000 s"]
    assert rate(steps=[], down=False)[:2] == ["HIGH", "rehearsal: its way down has left a difference"]


def test_the_locks_of_the_trace_stand_for_a_forecast_that_is_not_there() -> None:
    lock = {"table": "public.old", "mode": "AccessExclusiveLock", "seconds": 31}
    step = {"version": V1, "step": "s", "direction": "up", "seconds": 31, "locks": [lock]}
    down = {**step, "direction": "down", "locks": [{**lock, "seconds": 900}]}
    pending = [{"version": V1, "risk": "low", "changes": OLD}]
    rated = risk.of_database(pending, {"steps": [step, down], "down_equal": True})
    assert rated[V1]["level"] == "CRITICAL"
    assert rated[V1]["reasons"][0]["why"] == "keeps readers out for 31.0 s in the step s"
    assert risk.of_database(pending)[V1]["level"] == "LOW"


def test_a_way_down_that_was_not_gone_has_left_nothing() -> None:
    pending = [{"version": V1, "risk": "low", "changes": [{"change": "new object", "object": "public.t"}]}]
    seen: dict[str, Any] = {"steps": [], "down_equal": False}
    assert risk.of_database(pending, {**seen, "seconds": {"up": 1, "down": 1}})[V1]["level"] == "HIGH"
    assert risk.of_database(pending, {**seen, "seconds": {"up": 1, "again": 1}})[V1]["level"] == "LOW"
