# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Random walks up and down the shipped chain with rows in the tables: a set of versions is one schema, whatever the way."""

from __future__ import annotations

import itertools
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, connection, ledger, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.clients import load_sample_data
from support.engine import Told, way
from support.rows import contents, fill_empty_tables, lost_rows
from support.server import OWNER, Server
from support.tree import TestTree, shipped_chain

SQL = Path(__file__).resolve().parents[2] / "sql"
SETTINGS, SAFETY = "20250103000003", "20251103204744"
STUDENTS = 40

# 20251103000000 fills these from the older columns beside them, and says that it leaves them filled.
FILLED = {"allergies": {"active", "reactions"}, "chronic_conditions": {"carePlan"}}

NUMBERS = st.integers(0, 1000)
# Down first: walks begin at the top.
MOVES = st.tuples(
    st.tuples(st.sampled_from(["down by", "down to", "alone", "refused"]), NUMBERS),
    st.tuples(st.sampled_from(["up to", "up by", "up"]), NUMBERS),
)

# A walk that fails is told whole; to look for a shorter one would take minutes.
COMMON: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@pytest.fixture(scope="module")
def chain() -> list[dict[str, Any]]:
    return shipped_chain()


class Walker:
    """Databases that all begin alike, and what each set of versions was seen to be, in any of them."""

    def __init__(self, server: Server, start: Any, chain: list[dict[str, Any]]) -> None:
        self.server, self.start, self.chain = server, start, chain
        self.versions = [str(item["version"]) for item in chain]
        self.schemas: dict[frozenset[str], catalog.Inventory] = {}
        self.met_again = 0
        self._numbers = itertools.count(1)

    def walk(self, moves: list[tuple[str, int]]) -> None:
        name = f"{self.start.database}_{next(self._numbers)}"
        self.server.execute(f"CREATE DATABASE {name} TEMPLATE {self.start.database} OWNER {OWNER}")
        try:
            walk = Walk(self, self.start.with_(database=name))
            for kind, number in moves:
                walk.move(kind, number)
        finally:
            self.server.drop_databases(name)

    def look(self, target: Any) -> tuple[frozenset[str], list[str]]:
        """:return: the applied versions, and in what the catalog differs from how it was seen with them before."""
        with closing(connection.connect(target, application_name="pgops test")) as conn:
            found = catalog.inventory(conn)
            kept = ledger.read(conn)
        applied = frozenset(row.version for row in kept.migrations if row.state == "applied")
        if applied not in self.schemas:
            self.schemas[applied] = found
            return applied, []
        self.met_again += 1
        return applied, [str(difference) for difference in catalog.compare(self.schemas[applied], found, ignore=())]


class Walk:
    """One database on its way."""

    def __init__(self, walker: Walker, target: Any) -> None:
        self.walker, self.target = walker, target
        self.told = ["all"]
        self.applied, differences = walker.look(target)
        assert differences == []

    def move(self, kind: str, number: int) -> None:
        before = self.rows()
        if kind.startswith("up"):
            self.up(kind, number)
        elif self.applied:
            {"down by": self.down, "down to": self.down, "alone": self.alone, "refused": self.refused}[kind](
                kind, number
            )
        told = f"after {'; '.join(self.told)}"
        self.applied, differences = self.walker.look(self.target)
        assert differences == [], told
        # Each change of a row leaves one in the audit log, also that of a batch.
        lost = lost_rows(before, self.rows(), not_compared=FILLED, may_grow=("audit_logs",))
        assert lost == [], told
        with self.walker.server.session(self.target.database) as conn:
            fill_empty_tables(conn)

    def rows(self) -> Any:
        with self.walker.server.session(self.target.database) as conn:
            return contents(conn)

    def up(self, kind: str, number: int) -> None:
        versions = self.walker.versions
        pending = [version for version in versions if version not in self.applied]
        if kind == "up by":
            chosen: dict[str, Any] = {"steps": 1 + number % 4}
            wanted = pending[: 1 + number % 4]
        else:
            chosen = {"target": versions[number % len(versions)] if kind == "up to" else versions[-1]}
            wanted = [version for version in pending if version <= chosen["target"]]
        # What was reverted alone is applied again where it stood, before its pending successors.
        self.told.append(f"up {chosen}")
        done = migrate.apply(self.target, self.walker.chain, Selection(**chosen), way())
        assert [item["version"] for item in done["applied"]] == wanted

    def down(self, kind: str, number: int) -> None:
        there = sorted(self.applied)
        chosen = {"steps": 1 + number % 8} if kind == "down by" else {"keep": there[number % len(there)]}
        wanted = there[-chosen["steps"] :] if kind == "down by" else [one for one in there if one > chosen["keep"]]
        self.told.append(f"down {chosen}")
        assert self.revert(Reverts(**chosen)) == wanted[::-1]

    def alone(self, _kind: str, number: int) -> None:
        there = sorted(self.applied)
        chosen = there[number % len(there)]
        self.told.append(f"down {chosen} alone")
        try:
            assert self.revert(Reverts(version=chosen)) == [chosen]
        except PgopsError as error:
            # A later version stands on it: nothing is done, which the look after the move sees.
            assert error.extra["reason"] == "needed", error
            assert set(there) - {chosen} >= {error.extra["needed_by"]}
            self.told[-1] += " (refused)"

    def refused(self, _kind: str, number: int) -> None:
        """A value that only a version knows is in use: its way down stops, and goes on when the row has another."""
        there = sorted(self.applied)
        if SAFETY not in there or there[0] == SAFETY:
            return
        below = [version for version in there if version < SAFETY]
        chosen = below[number % len(below)]
        self.told.append(f"down to {chosen}, refused first")
        database, server = self.target.database, self.walker.server
        ((incident, kind),) = server.execute("SELECT id, type FROM incident_reports LIMIT 1", database=database)
        change = f"UPDATE incident_reports SET type = '{{}}' WHERE id = '{incident}'"
        server.execute(change.format("SAFETY"), database=database)
        with pytest.raises(PgopsError, match="SAFETY cannot be removed") as caught:
            self.revert(Reverts(keep=chosen))
        assert caught.value.sqlstate == "55006"
        gone = caught.value.extra["reverted"]
        assert gone == [version for version in there if version > SAFETY][::-1]
        server.execute(change.format(kind), database=database)
        assert self.revert(Reverts(keep=chosen)) == [one for one in there if chosen < one <= SAFETY][::-1]

    def revert(self, chosen: Reverts) -> list[str]:
        return [item["version"] for item in migrate.revert(self.target, chosen, way())["reverted"]]


class Looking(Told):
    """Takes down the schema after each version."""

    def __init__(self, walker: Walker) -> None:
        super().__init__()
        self.walker = walker

    def emit(self, text: str, **fields: Any) -> None:
        if ": applied in " in text:
            assert self.walker.look(self.walker.start)[1] == []


@pytest.fixture
def walker(server: Server, target: Any, chain: list[dict[str, Any]]) -> Walker:
    """Walks begin at the end of the chain, with the demo's rows and some in every other table."""
    walker = Walker(server, target, chain)
    walker.look(target)
    migrate.apply(target, chain, Selection(target=SETTINGS), way(progress=Looking(walker)))
    load_sample_data(server, target.database, STUDENTS)
    migrate.apply(target, chain, Selection(), way(progress=Looking(walker)))
    with server.session(target.database) as conn:
        fill_empty_tables(conn)
        assert [table for table, rows in contents(conn).items() if not rows] == []
    assert len(walker.schemas) == len(chain) + 1
    return walker


@pytest.mark.slow
def test_a_set_of_versions_is_one_schema_and_rows_stay(walker: Walker) -> None:
    @settings(max_examples=4, derandomize=True, **COMMON)
    @given(moves=st.lists(MOVES, min_size=2, max_size=2))
    def walk(moves: list[Any]) -> None:
        walker.walk([move for pair in moves for move in pair])

    walk()
    assert walker.met_again >= 4 * 4


@pytest.mark.slow
def test_a_set_of_versions_is_one_schema_and_rows_stay_on_long_walks(walker: Walker) -> None:
    @settings(max_examples=40, **COMMON)
    @given(moves=st.lists(MOVES, min_size=2, max_size=5))
    def walk(moves: list[Any]) -> None:
        walker.walk([move for pair in moves for move in pair])

    walk()
    assert walker.met_again >= 40 * 4


@pytest.mark.parametrize(
    ("down", "told"),
    [
        ("ALTER TABLE public.people DROP COLUMN age;", None),
        ("ALTER TABLE public.people DROP COLUMN age;\nALTER TABLE public.people ALTER name TYPE varchar;", "name"),
        ("ALTER TABLE public.people DROP COLUMN age;\nDELETE FROM public.people WHERE id = 1;", "1 of 2 rows are not"),
        (
            "ALTER TABLE public.people DROP COLUMN age;\nUPDATE public.people SET name = 'x';",
            "2 of 2 rows are not what they were",
        ),
    ],
)
def test_a_way_back_that_leaves_or_loses_something_is_seen(
    server: Server, target: Any, tmp_path: Path, down: str, told: str | None
) -> None:
    first, second = "20260101000001", "20260101000002"
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(
        first, "people", "CREATE TABLE public.people (id integer PRIMARY KEY, name text);", "DROP TABLE public.people;"
    )
    tree.add_sql(second, "age", "ALTER TABLE public.people ADD COLUMN age integer;", down)
    walker = Walker(server, target, tree.render())
    migrate.apply(target, walker.chain, Selection(target=first), way())
    server.execute("INSERT INTO people VALUES (1, 'a'), (2, 'b')", database=target.database)
    moves = [("up", 0), ("down by", 0)]
    if told is None:
        walker.walk(moves)
    else:
        with pytest.raises(AssertionError, match=told):
            walker.walk(moves)
