# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The shipped chain, cut off at every step of every version and in the middle of builds and batches, ends as if it never was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, connection, ledger, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.clients import load_sample_data
from support.engine import Told, way
from support.rows import contents
from support.server import Server
from support.tree import shipped_chain

SQL = Path(__file__).resolve().parents[2] / "sql"
SETTINGS = "20250103000003"
STUDENTS = 40

# Several batches even of so few rows.
BATCH = 7

# Their rows come from the versions themselves, with ids and times of their own.
OWN_ROWS = ("system_configurations", "configuration_history", "audit_logs")

Place = tuple[str, int, str]

# Keys and indexes of users, schools and districts that the base has already: nothing is built, nothing is validated. Tables
# that the sample data leaves empty: nothing is filled.
NOTHING_TO_DO: set[Place] = {
    ("20251009011130", 4, "middle"),
    ("20251009011130", 7, "begin"),
    ("20251104000002", 3, "begin"),
    ("20251104000002", 3, "middle"),
    ("20251106100000", 2, "begin"),
    ("20251106100000", 2, "middle"),
    ("20251106100000", 3, "begin"),
    ("20251106100000", 3, "middle"),
}


@pytest.fixture(scope="module")
def chain() -> list[dict[str, Any]]:
    chain = shipped_chain()
    for migration in chain:
        for step in migration["steps"]:
            if step["kind"] == "backfill":
                step |= {"batch_size": BATCH, "adapt": False}
    return chain


def places(chain: list[dict[str, Any]]) -> set[Place]:
    """Each step of each version, and the middle of those that build several indexes or fill a table of the demo."""
    found: set[Place] = set()
    for migration in chain:
        for ordinal, step in enumerate(migration["steps"], 1):
            found.add((migration["version"], ordinal, "begin"))
            if step["kind"] == "backfill" or len(step.get("indexes", [])) > 1:
                found.add((migration["version"], ordinal, "middle"))
    return found - NOTHING_TO_DO


class InterruptOnce(Told):
    """Asks for an end at the first place where none was asked for before."""

    def __init__(self, control: Control, been: set[Place]) -> None:
        super().__init__()
        self.control, self.been = control, been
        self.built: set[str] = set()

    def emit(self, text: str, **fields: Any) -> None:
        super().emit(text, **fields)
        if "version" not in fields or fields.get("step") is None or self.control.reason is not None:
            return
        step = (str(fields["version"]), int(fields["step"]))
        middle = bool(fields.get("done")) and fields.get("unit") == "rows"
        if text.startswith(("building index ", "dropping index ")):
            self.built.add(text)
            middle = len(self.built) > 1
        if (*step, "begin") not in self.been:
            self.been.add((*step, "begin"))
        elif middle and (*step, "middle") not in self.been:
            self.been.add((*step, "middle"))
        else:
            return
        # As the lease's thread does it: not in the thread that works.
        asking = threading.Thread(target=self.control.request, args=("a test asked for it",))
        asking.start()
        asking.join()


def over_and_over(been: set[Place], work: Callable[[migrate.Way], Any], *, at_most: int) -> int:
    """Run it again until nobody interrupts it any more. :return: how often it was interrupted."""
    for number in range(at_most + 1):
        control = Control()
        try:
            work(way(control=control, progress=InterruptOnce(control, been)))
            return number
        except Interrupted as error:
            assert error.extra["reason"] == "interrupted"
            assert error.extra["recorded"] is True
    raise AssertionError(f"it was interrupted {at_most} times and has not come to its end")


def look(server: Server, target: Any) -> tuple[catalog.Inventory, Any]:
    with closing(connection.connect(target, application_name="pgops test")) as conn:
        found = catalog.inventory(conn)
        assert ledger.broken_link(ledger.audit_rows(conn)) is None
    with server.session(target.database) as conn:
        rows = {table: sorted(map(repr, held)) for table, held in contents(conn).items() if table not in OWN_ROWS}
    return found, rows


def whole_chain(server: Server, target: Any, chain: list[dict[str, Any]], apply: Callable[[Selection], Any]) -> None:
    apply(Selection(target=SETTINGS))
    load_sample_data(server, target.database, STUDENTS)
    apply(Selection())


def interrupted_everywhere(server: Server, target: Any, chain: list[dict[str, Any]]) -> None:
    name = f"{target.database}_clean"
    server.create_database(name)
    clean = target.with_(database=name)
    whole_chain(server, clean, chain, lambda selection: migrate.apply(clean, chain, selection, way()))
    wanted = places(chain)
    been: set[Place] = set()
    whole_chain(
        server,
        target,
        chain,
        lambda selection: over_and_over(
            been, lambda way: migrate.apply(target, chain, selection, way), at_most=len(wanted)
        ),
    )
    assert been == wanted
    (clean_schema, clean_rows), (schema, rows) = look(server, clean), look(server, target)
    assert catalog.compare(clean_schema, schema, ignore=()) == []
    assert rows == clean_rows
    assert server.execute(
        "SELECT version FROM pgops.migration WHERE state <> 'applied' UNION ALL "
        "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid UNION ALL "
        "SELECT conname FROM pg_constraint WHERE NOT convalidated",
        database=target.database,
    ) == []  # fmt: skip


@pytest.mark.slow
def test_an_apply_that_is_interrupted_at_every_step_ends_as_an_uninterrupted_one(
    server: Server, target: Any, chain: list[dict[str, Any]]
) -> None:
    interrupted_everywhere(server, target, chain)


@pytest.mark.slow
@pytest.mark.majors(15, 16, 17)
def test_an_apply_that_is_interrupted_at_every_step_ends_as_an_uninterrupted_one_on_the_other_majors(
    server: Server, target: Any, chain: list[dict[str, Any]]
) -> None:
    interrupted_everywhere(server, target, chain)


@pytest.mark.slow
def test_a_way_back_that_is_interrupted_at_every_step_ends_where_an_uninterrupted_one_does(
    server: Server, target: Any, chain: list[dict[str, Any]]
) -> None:
    migrate.apply(target, chain, Selection(target=SETTINGS), way())
    load_sample_data(server, target.database, STUDENTS)
    before = look(server, target)
    migrate.apply(target, chain, Selection(), way())
    been: set[Place] = set()
    interrupted = over_and_over(
        been, lambda way: migrate.revert(target, Reverts(keep=SETTINGS), way), at_most=len(places(chain))
    )
    # A step without a way back of its own (analyze, a data migration) tells nothing to be interrupted at.
    undone = {
        (migration["version"], ordinal)
        for migration in chain
        if migration["version"] > SETTINGS
        for ordinal, step in enumerate(migration["steps"], 1)
        if step["kind"] in ("sql", "indexes") or step.get("down")
    }
    assert {place[:2] for place in been} >= undone
    assert interrupted >= len(undone) - 1
    after = look(server, target)
    assert catalog.compare(before[0], after[0], ignore=()) == []
    assert before[1] == after[1]
