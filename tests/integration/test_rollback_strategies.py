# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which way back: all of them weighed before anything happens, the last swap undone, and `auto` that goes no further than asked."""

from __future__ import annotations

import re
from contextlib import closing
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_choice,
    backup_store,
    connection,
    ledger,
    migrate,
    needed_backups,
    restore,
    strategies,
    swap,
    weighed_ways,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils import losses
from support import engine
from support.backups import RUN, fill, names, proved, stage
from support.tree import TestTree

V1, V2, V3 = (f"2026010100000{number}" for number in range(1, 4))
OF_THE_APPLY = "20261121T120002Z-0a1b2c"


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
def tree(tmp_path: Path) -> TestTree:
    made = TestTree(tmp_path / "own sql")
    made.add_sql(V1, "create_people", "CREATE TABLE people (id int PRIMARY KEY);\n", "DROP TABLE people;\n")
    return made


def apply(target: Any, tree: TestTree, backup: Any = None, *, run: str = RUN, to: str | None = None) -> None:
    told = ledger.Run(run, "migrate", "local", "tester", "ops", backup={"path": backup.path} if backup else None)
    migrate.apply(target, tree.render(), Selection(target=to), migrate.Way(told))


@pytest.fixture
def migrated(server: Any, target: Any, database: str, tree: TestTree, backups: Path) -> str:
    """One version applied, then, after a proved backup, one more; then a row."""
    apply(target, tree)
    tree.add_sql(V2, "create_pets", "CREATE TABLE pets (id int PRIMARY KEY);\n", "DROP TABLE pets;\n")
    apply(target, tree, proved(target, backups), run=OF_THE_APPLY)
    server.execute("INSERT INTO people VALUES (1), (2); INSERT INTO pets VALUES (1)", database=database)
    return database


def weigh(target: Any, backups: Path, strategy: str = "auto", **asked: Any) -> dict[str, Any]:
    told = strategies.Asked(strategy, **asked)
    return strategies.weigh(target, told, directory=str(backups), work=restore.Work(RUN))


def refused(target: Any, backups: Path, strategy: str = "auto", **asked: Any) -> PgopsError:
    with pytest.raises(PgopsError) as caught:
        weigh(target, backups, strategy, **asked)
    return caught.value


def screen(database: str, found: dict[str, Any]) -> str:
    return "\n".join(losses.strategy_lines(database, found))


# -- the table ----------------------------------------------------------------------------------------------------------


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_each_way_says_what_it_needs_loses_and_takes(target: Any, migrated: str, backups: Path) -> None:
    ways = weigh(target, backups, "restore")["ways"]
    assert list(ways) == ["down", "restore", "undo_swap"]
    assert [way["possible"] for way in ways.values()] == [True, True, False]
    assert ways["down"]["lost"] == "1 rows, destroyed"
    assert ways["down"]["back"] == "migrate.yml, without those"
    assert ways["restore"]["lost"] == "3 rows written since, kept"
    assert ways["restore"]["lost_rows"] == (3, 3)
    assert ways["restore"]["seconds"] > 0
    assert "none measured here" in ways["restore"]["outage"]
    assert ways["restore"]["needs"][0].startswith("proved backup: there, ")
    assert ways["undo_swap"]["why_not"] == "no database is kept that a swap has put aside"


def test_nothing_is_written_by_a_look(server: Any, target: Any, migrated: str, backups: Path) -> None:
    before = server.execute("SELECT count(*) FROM pgops.audit", database=migrated)
    for strategy in ("auto", "down", "restore"):
        weigh(target, backups, strategy)
    assert server.execute("SELECT count(*) FROM pgops.audit", database=migrated) == before
    assert names(server, migrated) == [migrated]


def test_a_large_database_is_not_counted_for_a_table(
    server: Any, target: Any, migrated: str, backups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.execute("ANALYZE", database=migrated)
    monkeypatch.setattr(weighed_ways, "EXACT_BYTES", 1)
    way = weigh(target, backups, "restore")["ways"]["restore"]
    assert way["lost_rows"] == (0, 3)
    assert way["lost"] == "up to about 3 rows, kept; counted before it asks"


def test_the_outage_is_forecast_from_the_swaps_that_were_measured(
    server: Any, target: Any, migrated: str, backups: Path
) -> None:
    done = swap.Swap(target, stage(target, newest(backups, migrated)), run_id=RUN).run()
    told = weigh(target, backups, "undo_swap")["ways"]["undo_swap"]["outage"]
    assert told == f"{done['outage_ms'] / 1000:.2f} s, the worst of 1 here"


def newest(backups: Path, database: str) -> Any:
    return backup_store.backups_of(str(backups), database)[0]


def test_a_missing_proof_is_told_in_the_table_of_any_way(target: Any, migrated: str, backups: Path) -> None:
    for proof in backups.rglob("proof.json"):
        proof.unlink()
    way = weigh(target, backups, "down")["ways"]["restore"]
    assert not way["possible"]
    assert way["why_not"].startswith("proved backup: missing (")
    assert "has no proof that holds" in way["why_not"]


def test_a_way_that_cannot_be_looked_at_stops_none_of_the_others(target: Any, migrated: str, backups: Path) -> None:
    newest(backups, migrated)
    for catalog in backups.rglob("manifest.json"):
        catalog.write_text("{", encoding="utf-8")
    found = weigh(target, backups, "down")
    assert found["ways"]["down"]["possible"]
    assert not found["ways"]["restore"]["possible"]
    (backups / migrated).rename(backups / "gone")
    (backups / migrated).write_text("no folder", encoding="utf-8")
    assert weigh(target, backups, "down")["ways"]["down"]["possible"]


# -- undo_swap ----------------------------------------------------------------------------------------------------------


def test_the_last_swap_is_undone_without_its_name_and_undone_again(
    server: Any, target: Any, migrated: str, backups: Path
) -> None:
    done = swap.Swap(target, stage(target, newest(backups, migrated)), run_id=RUN).run()
    server.execute("INSERT INTO people VALUES (7)", database=migrated)
    found = weigh(target, backups, "undo_swap")
    assert found["to"] == done["aside"]
    assert found["ways"]["undo_swap"]["lost"] == "1 rows written since, kept"
    swap.Swap(target, found["to"], run_id=RUN).run()
    assert server.execute("SELECT count(*) FROM people", database=migrated) == [(2,)]
    again = weigh(target, backups, "undo_swap")
    swap.Swap(target, again["to"], run_id=RUN).run()
    assert server.execute("SELECT array_agg(id) FROM people", database=migrated) == [([7],)]


def test_an_older_kept_database_is_not_taken_for_the_last_one(
    server: Any, target: Any, migrated: str, backups: Path
) -> None:
    backup = newest(backups, migrated)
    first = swap.Swap(target, stage(target, backup), run_id=RUN, now=lambda: at(1)).run()
    second = swap.Swap(target, stage(target, backup), run_id=RUN, now=lambda: at(2)).run()
    server.execute(f"DROP DATABASE {second['aside']}")
    error = refused(target, backups, "undo_swap")
    assert f"{second['aside']}, which the last swap has put aside, is gone" in error.message
    assert first["aside"] in error.message
    assert "nothing was changed" in error.message
    assert f"its last change was a swap, and {second['aside']}" in refused(target, backups).message


def at(second: int) -> Any:
    from datetime import datetime

    return datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)


def test_without_a_ledger_the_newest_kept_one_is_taken(server: Any, target: Any, database: str, backups: Path) -> None:
    fill(server, database, 10)
    backup = proved(target, backups)
    swap.Swap(target, stage(target, backup), run_id=RUN, now=lambda: at(2)).run()
    # The clock was set back meanwhile: the transactions of the swaps tell which was the last.
    last = swap.Swap(target, stage(target, backup), run_id=RUN, now=lambda: at(1)).run()
    assert weigh(target, backups, "undo_swap")["to"] == last["aside"]


def test_a_cut_off_undo_is_finished_by_who_types_it_again(
    server: Any, target: Any, migrated: str, backups: Path
) -> None:
    swap.Swap(target, stage(target, newest(backups, migrated)), run_id=RUN).run()
    kept = weigh(target, backups, "undo_swap")["to"]

    class Killed(BaseException):
        pass

    def die(step: str) -> None:
        if step == "fence: commit":
            raise Killed

    dying = swap.Swap(target, kept, run_id="killed", after=die)
    dying._lift = lambda mark: (_ for _ in ()).throw(Killed())  # type: ignore[method-assign]
    with pytest.raises(Killed):
        dying.run()
    with pytest.raises(PgopsError, match="is fenced and clients are kept out"):
        swap.resume(target, swap.Asked("auto", confirmed=True), run_id=RUN)
    assert swap.resume(target, swap.Asked("undo_swap", confirmed=True), run_id=RUN)["state"] == "completed"
    assert server.execute("SELECT count(*) FROM people", database=migrated) == [(2,)]


# -- auto ---------------------------------------------------------------------------------------------------------------


def test_versions_that_can_go_down_go_down_and_the_rows_of_others_stay(
    target: Any, migrated: str, backups: Path
) -> None:
    found = weigh(target, backups)
    assert (found["chosen"], found["through"]) == ("down", V2)
    assert found["ways"]["down"]["lost"] == "1 rows, destroyed"
    assert "all of it can go by its way down" in found["why"]
    assert set(found["why_not"]) == {"restore", "undo_swap"}
    told = screen(migrated, found)
    assert re.search(r"^\s+\* down +yes +1 rows, destroyed +none, locks are held briefly", told, re.MULTILINE)
    assert f"{migrated}: not restore: it would leave behind" in told


def test_all_versions_of_the_last_run_go_and_none_of_the_run_before(
    target: Any, database: str, tree: TestTree, backups: Path
) -> None:
    apply(target, tree)
    for version, name in ((V2, "pets"), (V3, "rooms")):
        tree.add_sql(version, f"create_{name}", f"CREATE TABLE {name} (id int);\n", f"DROP TABLE {name};\n")
    apply(target, tree, proved(target, backups), run=OF_THE_APPLY)
    found = weigh(target, backups)
    assert (found["chosen"], found["through"]) == ("down", V2)
    assert found["last_change"]["versions"] == [V2, V3]


def test_a_version_of_one_way_goes_by_the_backup_that_its_own_run_took(
    target: Any, database: str, tree: TestTree, backups: Path
) -> None:
    apply(target, tree)
    one_way(tree)
    own = proved(target, backups)
    apply(target, tree, own, run=OF_THE_APPLY)
    found = weigh(target, backups)
    assert (found["chosen"], found["backup"]) == ("restore", own.path)
    assert "cannot be reverted by its down" in found["why_not"]["down"]


def one_way(tree: TestTree) -> None:
    tree.add(
        V2, "clean", [{"sql": {"up": "up.sql.j2"}}],
        {"up.sql.j2": "CREATE TABLE pets (id int);\n", "verify.sql.j2": "SELECT 'x' AS object, 'x' AS expected, 'x' AS found WHERE false;\n"},
        rollback={"safety": "none", "stays": "the rows are gone"},
    )  # fmt: skip


def test_no_older_backup_is_chosen_in_the_place_of_the_runs_own(
    target: Any, database: str, tree: TestTree, backups: Path
) -> None:
    proved(target, backups)
    apply(target, tree)
    one_way(tree)
    apply(target, tree, None, run=OF_THE_APPLY)
    error = refused(target, backups)
    assert "restore: the backup that this run took itself is not there" in error.message
    assert error.extra["reason"] == "no_way"
    assert error.extra["databases"][database]["ways"]["restore"]["possible"]


def test_after_a_way_down_nothing_is_chosen(target: Any, migrated: str, backups: Path) -> None:
    migrate.revert(target, Reverts(), engine.way("20261121T120003Z-0a1b2c"))
    assert "whatever comes next would go further back" in refused(target, backups).message


def test_a_way_down_that_is_half_done_is_finished(server: Any, target: Any, migrated: str, backups: Path) -> None:
    server.execute(
        "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not now''; END'; "
        "CREATE EVENT TRIGGER no ON sql_drop EXECUTE FUNCTION no()", database=migrated,
    )  # fmt: skip
    with pytest.raises(PgopsError, match="not now|line 1 at RAISE"):
        migrate.revert(target, Reverts(), engine.way())
    server.execute("DROP EVENT TRIGGER no; DROP FUNCTION no()", database=migrated)
    found = weigh(target, backups)
    assert (found["chosen"], found["through"]) == ("down", V2)
    assert "half done" in found["why"]


def test_after_a_swap_that_one_is_undone_and_after_an_apply_upon_it_not(
    target: Any, migrated: str, tree: TestTree, backups: Path
) -> None:
    done = swap.Swap(target, stage(target, newest(backups, migrated)), run_id=RUN).run()
    found = weigh(target, backups)
    assert (found["chosen"], found["to"]) == ("undo_swap", done["aside"])
    assert "it would go back to before that swap, too" in found["why_not"]["restore"]
    apply(target, tree, proved(target, backups, run_id="20261121T120005Z-0a1b2c"), run="20261121T120006Z-0a1b2c")
    after = weigh(target, backups)
    assert (after["chosen"], after["through"]) == ("down", V2)
    assert "it would go back to before that one" in after["why_not"]["undo_swap"]


def test_after_a_rollback_of_the_whole_cluster_nothing_is_chosen_and_no_older_backup_is_taken(
    target: Any, migrated: str, tree: TestTree, backups: Path
) -> None:
    taken_back(target)
    error = refused(target, backups)
    assert "its last change was the rollback of the whole cluster by run pitr at " in error.message
    assert "whatever comes next would go further back" in error.message
    assert error.extra["databases"][migrated]["last_change"]["kind"] == "cluster_restored"
    with pytest.raises(PgopsError, match="any choice would go further back than that") as caught:
        backup_choice.choose(target, str(backups), None, application_name="test")
    assert caught.value.extra["reason"] == backup_choice.RESTORED_BEFORE
    assert needed_backups.gone_back_to(target, str(backups), application_name="test") == {}
    path = newest(backups, migrated).path
    assert weigh(target, backups, "restore", backup=path)["backup"] == path
    tree.add_sql(V3, "create_rooms", "CREATE TABLE rooms (id int);\n", "DROP TABLE rooms;\n")
    apply(target, tree, proved(target, backups, run_id="20261121T120005Z-0a1b2c"), run="20261121T120006Z-0a1b2c")
    after = weigh(target, backups)
    assert (after["chosen"], after["through"]) == ("down", V3)
    assert after["ways"]["restore"]["possible"]


def taken_back(target: Any) -> None:
    """The row that a rollback of the cluster leaves."""
    with closing(connection.connect(target, application_name="test")) as conn:
        ledger.append_audit(conn, "cluster_restored", run_id="pitr", detail={"target": "before"})


def test_the_backup_of_a_run_before_the_last_change_is_not_its_own(
    server: Any, target: Any, database: str, tree: TestTree, backups: Path
) -> None:
    own = proved(target, backups)
    apply(target, tree, own)
    tree.add_sql(V2, "create_pets", "CREATE TABLE pets (id int);\n", "DROP TABLE pets;\n")
    apply(target, tree, run=OF_THE_APPLY)
    # The ledger of before, with an audit that was carried across.
    server.execute(f"DELETE FROM pgops.migration WHERE version = '{V2}'", database=database)
    server.execute(f"DELETE FROM pgops.run WHERE id = '{OF_THE_APPLY}'", database=database)
    error = refused(target, backups)
    assert "restore: the backup that this run took itself is not there" in error.message
    assert error.extra["databases"][database]["ways"]["restore"]["backup"] == own.path


def test_where_the_tool_did_nothing_there_is_nothing_to_choose(target: Any, database: str, backups: Path) -> None:
    assert "nothing was done to it that this tool knows of" in refused(target, backups).message


def test_several_databases_of_a_host_go_the_same_way_or_are_named() -> None:
    strategies.refuse_several({"a": {"chosen": "down", "through": V1}, "b": {"chosen": "down", "through": V1}})
    with pytest.raises(PgopsError, match=r"different ways for these databases \(a: down; b: undo_swap\)"):
        strategies.refuse_several({"a": {"chosen": "down", "through": V1}, "b": {"chosen": "undo_swap"}})
