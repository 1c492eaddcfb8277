# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What there is to do, what is refused before anything changes, and what status tells."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import bounded_look, locks, migrate, plan, preview
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import seconds, table
from support.engine import RUN, do, holding, rows, way
from support.tree import NO_DIFFERENCE, TestTree

V0, V1, V2, V3 = (f"2026010100000{n}" for n in range(4))


@pytest.fixture
def tree(tmp_path: Path) -> TestTree:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "people", "CREATE TABLE public.people (id integer PRIMARY KEY);", "DROP TABLE public.people;")
    tree.add_sql(V2, "pets", "CREATE TABLE public.pets (id integer);", "DROP TABLE public.pets;", risk="high")
    return tree


@pytest.fixture
def applied(target: Any, tree: TestTree) -> TestTree:
    migrate.apply(target, tree.render(), Selection(), way())
    return tree


def told(target: Any, tree: TestTree) -> dict[str, str]:
    return {row["version"]: row["told"] for row in plan.status(target, tree.render())["versions"]}


def test_the_plan_tells_risk_and_state(target: Any, tree: TestTree) -> None:
    found = preview.preview(target, tree.render(), Selection())
    assert found["risk"] == "high"
    assert [item["risk"] for item in found["pending"]] == ["low", "high"]
    assert set(found["state"]) == {"ledger_head", "catalog_fingerprint", "rendered_checksum"}


@pytest.mark.parametrize(("asked", "meant"), [("20990101000000", V2), ("20250101000000", V1)])
def test_a_target_that_there_is_not_is_told_with_the_next_one_in_time(
    target: Any, tree: TestTree, asked: str, meant: str
) -> None:
    with pytest.raises(PgopsError, match=f"There is no version {asked} to apply up to; the nearest is {meant}[.]"):
        preview.preview(target, tree.render(), Selection(target=asked))


def test_an_edited_file_is_named_with_its_difference(target: Any, applied: TestTree) -> None:
    path = applied.folder / "migrations" / f"{V1}_people" / "up.sql.j2"
    path.write_text("CREATE TABLE public.people (id bigint PRIMARY KEY);")
    with pytest.raises(
        PgopsError, match=rf"Version {V1} was applied .* differ since: {V1}_people/up.sql.j2 \(edited\)"
    ) as caught:
        preview.preview(target, applied.render(), Selection())
    (file,) = caught.value.extra["files"]
    assert "-CREATE TABLE public.people (id integer PRIMARY KEY);" in file["diff"]
    assert "+CREATE TABLE public.people (id bigint PRIMARY KEY);" in file["diff"]
    assert told(target, applied)[V1] == "applied, changed on disk"


def test_a_folder_that_cannot_be_read_is_neither_missing_nor_forgotten(target: Any, applied: TestTree) -> None:
    found = plan.status(target, [], unreadable={V1: "people", "20990101000000": "beds"})
    rows = {row["version"]: row for row in found["versions"]}
    assert rows[V1]["told"] == "applied, its files cannot be read"
    assert (rows["20990101000000"]["state"], rows["20990101000000"]["on_disk"]) == ("pending", "unreadable")
    assert found["counts"]["pending"] == 1


def test_a_file_more_is_an_edit_too(target: Any, applied: TestTree) -> None:
    folder = applied.folder / "migrations" / f"{V1}_people"
    (folder / "more.sql.j2").write_text("SELECT 1, 2, 3 WHERE false;")
    (folder / "less.sql.j2").write_text("SELECT 1;")
    (folder / "less.sql.j2").write_text("SELECT 1, 2, 3 WHERE false;")
    metadata = folder / "migration.yml"
    metadata.write_text(metadata.read_text() + "- sql: {up: more.sql.j2, down: less.sql.j2}\n")
    with pytest.raises(PgopsError, match=r"more.sql.j2 \(added\)"):
        preview.preview(target, applied.render(), Selection())


def test_a_missing_folder_is_named(target: Any, applied: TestTree) -> None:
    shutil.rmtree(applied.folder / "migrations" / f"{V1}_people")
    with pytest.raises(PgopsError, match=f"{V1}_people is in the ledger of {target.database} but not in the tree"):
        preview.preview(target, applied.render(), Selection())
    assert told(target, applied)[V1] == "applied, missing on disk"


def test_a_new_version_before_an_applied_one_is_refused(target: Any, applied: TestTree) -> None:
    applied.add_sql(V0, "early", "CREATE TABLE public.early (id integer);", "DROP TABLE public.early;")
    with pytest.raises(PgopsError, match=f"{V0}_early sorts before version {V2}"):
        migrate.apply(target, applied.render(), Selection(), way())
    result = migrate.apply(target, applied.render(), Selection(allow_out_of_order=True), way())
    assert [item["version"] for item in result["applied"]] == [V0]


def test_a_reverted_version_may_change_or_go(target: Any, applied: TestTree) -> None:
    migrate.revert(target, Reverts(), way())
    applied.add_sql(V2, "pets", "CREATE TABLE public.pets (id bigint);", "DROP TABLE public.pets;")
    assert [item["version"] for item in preview.preview(target, applied.render(), Selection())["pending"]] == [V2]
    assert told(target, applied)[V2] == "pending (reverted)"
    shutil.rmtree(applied.folder / "migrations" / f"{V2}_pets")
    assert preview.preview(target, applied.render(), Selection())["pending"] == []


COLUMNS = "(id integer PRIMARY KEY, name text, born date)"


@pytest.fixture
def rooms(tmp_path: Path) -> TestTree:
    """A tree whose first version makes two tables."""
    tree = TestTree(tmp_path / "sql")
    up = f"CREATE TABLE public.rooms {COLUMNS};\nCREATE TABLE public.beds {COLUMNS};\n"
    tree.add_sql(V1, "rooms", up, "DROP TABLE public.beds;\nDROP TABLE public.rooms;\n")
    return tree


def no_ledger(target: Any) -> bool:
    return rows(target, "SELECT to_regnamespace('pgops') IS NULL AS none") == [{"none": True}]


def test_the_first_tables_in_another_schema_are_named_and_nothing_is_made_beside_them(
    target: Any, server: Any, rooms: TestTree
) -> None:
    do(target, 'CREATE SCHEMA "The App"', *(f'CREATE TABLE "The App".{name} {COLUMNS}' for name in ("rooms", "beds")))
    server.execute(f'ALTER DATABASE {target.database} SET search_path = "The App"')
    told = re.escape(
        f'the tables of version {V1} stand in the schema "The App" (2 of 2: "The App".beds, "The App".rooms)'
    )
    with pytest.raises(
        PgopsError, match=f"Nothing was applied to .*: {told}, and the tree makes them in public"
    ) as caught:
        preview.preview(target, rooms.render(), Selection())
    assert caught.value.extra["reason"] == "schema"
    with pytest.raises(PgopsError, match=told):
        migrate.apply(target, rooms.render(), Selection(), way())
    assert no_ledger(target)
    # Who wants them twice says so.
    migrate.apply(target, rooms.render(), Selection(schemas=[V1]), way())
    assert rows(target, "SELECT count(*) AS n FROM pg_class WHERE relname = 'rooms'") == [{"n": 2}]


@pytest.mark.parametrize("there", [
    # The names alone, by another application.
    ["CREATE TABLE app.rooms (number text, price numeric)", "CREATE TABLE app.beds (number text, price numeric)"],
    # A copy beside the real ones, which the run finds as they are to be.
    [f"CREATE TABLE {schema}.{name} {COLUMNS}" for schema in ("app", "public") for name in ("rooms", "beds")],
])  # fmt: skip
def test_other_tables_in_another_schema_are_left_alone(target: Any, rooms: TestTree, there: list[str]) -> None:
    do(target, "CREATE SCHEMA app", *there)
    assert migrate.apply(target, rooms.render(), Selection(), way())["applied"]
    # Once the ledger knows the version, nobody asks where its tables came from.
    do(target, "DROP SCHEMA app CASCADE", "CREATE SCHEMA app", "CREATE TABLE app.rooms AS TABLE public.rooms",
       "CREATE TABLE app.beds AS TABLE public.beds")  # fmt: skip
    rooms.add_sql(V2, "pets", "CREATE TABLE public.pets (id integer);", "DROP TABLE public.pets;")
    assert migrate.apply(target, rooms.render(), Selection(), way("20260101T000000Z-000002"))["applied"]


def test_status_needs_no_ledger_and_writes_nothing(target: Any, tree: TestTree) -> None:
    found = plan.status(target, tree.render())
    assert (found["ledger"], found["counts"], found["running"]) == (False, {"pending": 2}, None)
    assert rows(target, "SELECT nspname FROM pg_namespace WHERE nspname = 'pgops'") == []


def test_status_of_applied_failed_and_pending(target: Any, applied: TestTree) -> None:
    applied.add_sql(V3, "broken", "SELECT 1/0;", "SELECT 1;")
    with pytest.raises(PgopsError):
        migrate.apply(target, applied.render(), Selection(), way())
    found = plan.status(target, applied.render())
    assert found["counts"] == {"applied": 2, "failed": 1}
    first, _, last = found["versions"]
    assert (first["told"], first["by"], first["name"]) == ("applied", "tester", "people")
    assert first["applied_at"].endswith("Z") and first["duration_s"] >= 0
    assert last["told"] == "failed at step 1 of 1"
    assert "division by zero" in last["error"]
    do(target, f"UPDATE pgops.migration SET state = 'applying', failed_step = NULL WHERE version = '{V3}'")
    assert told(target, applied)[V3] == "interrupted at step 1 of 1"


def test_status_names_who_runs_now(target: Any, applied: TestTree) -> None:
    conn = connect(target, application_name=locks.application_name(RUN))
    with locks.RunnerLock(conn, wait_s=0):
        running = plan.status(target, applied.render())["running"]
    conn.close()
    assert (running["run_id"], running["ops_host"], running["who"]) == (RUN, "ops-1", "tester")


def test_status_filters_and_turns_round(target: Any, applied: TestTree) -> None:
    found = plan.status(target, applied.render(), newest_first=True)
    assert [row["version"] for row in found["versions"]] == [V2, V1]
    assert [row["version"] for row in plan.status(target, applied.render(), prefix=V1)["versions"]] == [V1]


def test_a_connection_that_fails_is_no_empty_status(target: Any, tree: TestTree) -> None:
    with pytest.raises(PgopsError, match="nothing listens there"):
        plan.status(target.with_(port="1"), tree.render())


def test_tables_for_people() -> None:
    assert table(["A", "LONG"], [["x", None], ["wide", 3]]) == ["A     LONG", "----  ----", "x", "wide  3"]
    assert [seconds(value) for value in (None, 0.1234, 75, 3700)] == ["", "0.12 s", "1 min 15 s", "1 h 1 min"]


# What a person types and reads.


@pytest.fixture
def site(playbook: Any) -> Any:
    tree = TestTree(playbook.folder / "own sql")
    up, down = "CREATE TABLE public.people (id integer PRIMARY KEY);", "DROP TABLE public.people;"
    tree.add_sql(V1, "people", up, down, phase="core")
    tree.add_sql(
        V2, "pets", "CREATE TABLE public.pets (id integer);", "DROP TABLE public.pets;",
        rollback={"safety": "partial", "stays": "a sequence"},
    )  # fmt: skip
    playbook.variables["pgops_sql"] = str(tree.folder)
    playbook.variables["pgops_phases"] = ["plan", "apply", "analyze", "report"]
    playbook.tree = tree
    return playbook


def test_status_yml_prints_a_table_and_leaves_json(site: Any) -> None:
    planned = site("migrate.yml", "--tags", "plan")
    heading = ["VERSION", "NAME", "PHASE", "RISK", "ROLLBACK", "STEPS"]
    assert heading in [line.split() for line in planned.stdout.splitlines()]
    assert re.search(rf"{V1} +people +core +low +complete +1 step", planned.stdout), planned.stdout
    assert re.search(rf"{V2} +pets +enhancement +low +partial +1 step", planned.stdout), planned.stdout
    assert "tables that they name" not in planned.stdout, "none of them is there"
    assert site("migrate.yml", migrate_target=V1).rc == 0
    rc, stdout, document = site("status.yml", migrate_status_newest_first=True)
    assert rc == 0
    lines = [line.split() for line in stdout.splitlines()]
    assert ["VERSION", "NAME", "APPLIED", "AT", "(UTC)", "BY", "DURATION", "ROLLBACK", "STATE"] in lines
    shown = [line for line in lines if line and line[0] in (V1, V2)]
    assert [line[0] for line in shown] == [V2, V1]
    assert (shown[0][-1], shown[1][-1]) == ("pending", "applied")
    assert (shown[0][-2], shown[1][-2]) == ("partial", "complete")
    (found,) = document["hosts"]["local-1"].values()
    assert found["status"]["counts"] == {"applied": 1, "pending": 1}
    site.tree.add_sql(V3, "names", "ALTER TABLE public.people ADD nick text;", "ALTER TABLE public.people DROP nick;")
    planned = site("migrate.yml", "--tags", "plan")
    assert re.search(r"^    tables that they name: public\.people \d+ (bytes|kB)$", planned.stdout, re.MULTILINE)


@pytest.mark.slow
def test_what_takes_longer_than_its_version_expects_is_a_warning(site: Any) -> None:
    site.tree.add_sql(
        V3, "slow", "CREATE TABLE public.slow (id integer); DO $$ BEGIN PERFORM pg_sleep(1.2); END $$;", "DROP TABLE public.slow;",
        expected_seconds=1,
    )  # fmt: skip
    site.tree.add_sql(
        V2, "pets", "CREATE TABLE public.pets (id integer);", "DROP TABLE public.pets;", expected_by_rows={10: 61}
    )
    rc, stdout, document = site("migrate.yml")
    assert rc == 0, stdout
    lines = [line.split() for line in stdout.splitlines()]
    assert ["VERSION", "NAME", "PHASE", "RISK", "ROLLBACK", "STEPS", "EXPECTED"] in lines
    assert re.search(rf"{V1} +people .* 1 steps$", stdout, re.MULTILINE), stdout
    assert re.search(rf"{V2} +pets .* 1 steps +61 s$", stdout, re.MULTILINE), stdout
    assert "    expected in all for 2 of 3: 62 s\n" in stdout
    assert f"    warn: {V2} is expected to take 61 s and is not in batches: split it" in stdout
    assert re.findall(r"^    warn   (\d+): took 1\.\d s, expected 1 s$", stdout, re.MULTILINE) == [V3]
    report = json.loads(Path(document["report"]).with_suffix(".json").read_text())
    assert [(item.get("expected_s"), item.get("slower")) for item in report["versions"]] == [
        (None, None), (61, False), (1, True),
    ]  # fmt: skip
    assert "expected 61" in Path(document["report"]).read_text()


def test_what_is_expected_goes_by_the_rows_that_are_there(target: Any, tmp_path: Path) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "people", "CREATE TABLE public.people (id integer);", "DROP TABLE public.people;")
    tree.add_sql(
        V2, "names", "ALTER TABLE public.people ADD name text;", "ALTER TABLE public.people DROP name;",
        expected_seconds=7, expected_by_rows={100: 2, 1000: 61},
    )  # fmt: skip

    def expected() -> tuple[Any, Any, Any]:
        (found,) = preview.preview(target, tree.render(), Selection())["pending"]
        return found["expected_seconds"], found["expected_for_rows"], found["to_be_split"]

    migrate.apply(target, tree.render(), Selection(target=V1), way())
    do(target, "INSERT INTO public.people SELECT generate_series(1, 100)")
    do(target, "ANALYZE public.people")
    assert expected() == (2, 100, False)
    do(target, "INSERT INTO public.people SELECT generate_series(1, 50)")
    do(target, "ANALYZE public.people")
    # More than a minute in one piece.
    assert expected() == (61, 150, True)
    do(target, "INSERT INTO public.people SELECT generate_series(1, 5000)")
    do(target, "ANALYZE public.people")
    assert expected() == (61, 5150, True)
    (applied,) = migrate.apply(target, tree.render(), Selection(), way("20260101T000000Z-000002"))["applied"]
    assert applied["expected_s"] == 61


def test_what_is_expected_of_a_partitioned_table_goes_by_all_its_partitions(target: Any, tmp_path: Path) -> None:
    do(
        target,
        "CREATE TABLE public.people (id integer) PARTITION BY RANGE (id)",
        "CREATE TABLE public.people_1 PARTITION OF public.people FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE public.people_2 PARTITION OF public.people FOR VALUES FROM (100) TO (1000)",
        "INSERT INTO public.people SELECT generate_series(1, 199)",
        "ANALYZE public.people_1, public.people_2",
    )
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(
        V2, "names", "ALTER TABLE public.people ADD name text;", "ALTER TABLE public.people DROP name;",
        expected_by_rows={150: 2, 1000: 61},
    )  # fmt: skip
    (found,) = preview.preview(target, tree.render(), Selection())["pending"]
    assert (found["expected_seconds"], found["expected_for_rows"]) == (61, 199)


@pytest.mark.slow
def test_migrate_yml_shows_how_an_applied_file_was_edited(site: Any) -> None:
    assert site("migrate.yml", migrate_target=V1).rc == 0
    (site.tree.folder / "migrations" / f"{V1}_people" / "up.sql.j2").write_text("SELECT 1;\n")
    rc, stdout, document = site("migrate.yml")
    assert rc != 0
    assert "+SELECT 1;" in stdout and "-CREATE TABLE public.people" in stdout
    assert "Traceback" not in stdout
    assert "its files differ since" in document["error"]["message"]
    assert "Restore the file as it is stored, or write a new version." in document["error"]["message"]
    assert document["error"]["next"] == ["ansible-playbook status.yml -l local"]


def test_a_failure_names_the_way_on_and_the_way_back(site: Any) -> None:
    site.tree.add_sql(V3, "broken", "SELECT 1;\n\nSELECT 1/0;\n", "SELECT 1;")
    owner = site.variables["pgops_owner"]
    rc, stdout, document = site("migrate.yml", pgops_owner=owner, migrate_steps=3)
    assert rc != 0
    error = document["error"]
    assert error["sqlstate"] == "22012"
    assert f"{V3}_broken/up.sql.j2:3" in error["message"]
    assert f"Applied in this run: {V1}, {V2}; not applied: {V3}" in error["message"]
    assert error["next"] == [
        f"ansible-playbook migrate.yml -l local -e pgops_owner={owner} -e '{{\"migrate_steps\": 3}}'",
        f"ansible-playbook rollback.yml -l local -e pgops_owner={owner} -e rollback_through={V1}",
    ]
    assert "Traceback" not in stdout


def test_a_step_that_may_not_be_mended_any_more_has_the_command_that_reverts_it(site: Any) -> None:
    steps = [{"sql": {"up": f"{name}.sql.j2", "down": f"{name}_down.sql.j2"}} for name in ("one", "two")]
    files = {
        "one.sql.j2": "INSERT INTO public.people (id) VALUES (1);",
        "one_down.sql.j2": "DELETE FROM public.people WHERE id = 1;",
        "two.sql.j2": "SELECT 1/0;",
        "two_down.sql.j2": "SELECT 1;",
        "verify.sql.j2": NO_DIFFERENCE,
    }
    path = site.tree.add(V3, "two_steps", steps, files)
    assert site("migrate.yml").rc != 0
    (path / "one.sql.j2").write_text("INSERT INTO public.people (id) VALUES (2);")
    rc, _, document = site("migrate.yml")
    assert rc != 0
    assert "revert the version first" in document["error"]["message"]
    look, back = (
        "ansible-playbook status.yml -l local",
        f"ansible-playbook rollback.yml -l local -e rollback_version={V3}",
    )
    assert document["error"]["next"] == [look, back]
    assert document["error"]["message"].endswith(f"To look: {look}; to revert it: {back}")
    assert site("rollback.yml", rollback_version=V3, rollback_confirm=site.database).rc == 0


def test_the_command_that_lists_all_faults_is_of_the_same_tree(site: Any, tmp_path: Path) -> None:
    other = TestTree(tmp_path / "other")
    metadata = other.add_sql(V1, "fails", "SELECT 1;", "SELECT 1;") / "migration.yml"
    metadata.write_text(metadata.read_text().replace("risk:", "riks:"))
    rc, _, document = site("migrate.yml", "--tags", "plan", pgops_sql=str(other.folder))
    assert rc != 0
    lists = f"ansible-playbook lint.yml -e pgops_sql={other.folder}"
    assert (
        f"unknown key 'riks'; did you mean 'risk'? (1 more). To list them all: {lists}" in document["error"]["message"]
    )
    assert document["error"]["next"] == [lists]


def test_out_of_order_is_for_local_only(site: Any) -> None:
    rc, _, document = site("migrate.yml", limit="staging", migrate_allow_out_of_order=True)
    assert rc != 0
    assert "is for the environment local only, and this is staging" in document["error"]["message"]


def test_stop_yml_says_that_nothing_runs(site: Any) -> None:
    result = site("stop.yml")
    assert result.rc == 0
    assert "nothing is running" in result.stdout
    assert "changed=0" in result.stdout


def test_two_runs_at_once(site: Any, target: Any) -> None:
    """The second waits, bounded, then names the first; nothing of it happens."""
    conn = connect(target, application_name=locks.application_name("20260101T000000Z-0000aa"))
    with locks.RunnerLock(conn, wait_s=0):
        rc, _, document = site("migrate.yml", migrate_lock_wait=1)
    conn.close()
    assert rc != 0
    assert "is being migrated by run 20260101T000000Z-0000aa" in document["error"]["message"]
    assert document["error"]["next"][1].startswith("ansible-playbook stop.yml -l local")
    assert site("migrate.yml").rc == 0


def test_a_look_does_not_wait_for_ever_behind_a_lock(target: Any, tree: TestTree, monkeypatch: Any) -> None:
    migrate.apply(target, tree.render(), Selection(target=V1), way())
    monkeypatch.setattr(bounded_look, "LOOK_LOCK_TIMEOUT_S", 1)
    with holding(target, "LOCK TABLE people IN ACCESS EXCLUSIVE MODE"), pytest.raises(PgopsError) as caught:
        preview.preview(target, tree.render(), Selection())
    assert caught.value.sqlstate == "55P03"
    assert "locked by somebody else for more than 1 s" in caught.value.message
    assert preview.preview(target, tree.render(), Selection())["pending"]
