# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a migration that failed, or was found unwell, says about going back, and what it does itself where that is allowed."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store
from support.application import Application
from support.engine import wait_for
from support.hooked_site import AWAY, BACK, PATHS
from support.server import OWNER, Server
from support.site import Playbook, Result
from support.tree import TestTree

V1, V2, V3 = "20260101000000", "20260101000001", "20260101000002"
PROVED = ["plan", "backup", "prove", "apply", "verify", "report"]
SLOW = "CREATE OR REPLACE FUNCTION public.answer() RETURNS integer LANGUAGE sql AS 'SELECT 1 FROM pg_sleep({0})';\n"


@pytest.fixture
def site(playbook: Playbook) -> Playbook:
    """A version that applies and one that fails in the second of its steps; no backup, where a test does not ask for one."""
    shutil.rmtree(playbook.copy_sql() / "migrations")
    tree = TestTree(playbook.folder / "sql")
    tree.add_sql(V1, "rooms", "CREATE TABLE public.rooms (id integer PRIMARY KEY);\n", "DROP TABLE public.rooms;\n")
    playbook.variables["pgops_phases"] = ["plan", "apply", "report"]
    return playbook


def add_failing(site: Playbook, version: str = V2, down: str = "DROP TABLE public.beds;\n", **keys: Any) -> None:
    steps = [
        {"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}},
        {"sql": {"up": "second.sql.j2", "down": "second_down.sql.j2"}},
    ]
    files = {
        "up.sql.j2": "CREATE TABLE public.beds (id integer PRIMARY KEY);\n",
        "down.sql.j2": down,
        "second.sql.j2": "INSERT INTO public.beds VALUES (1), (1);\n",
        "second_down.sql.j2": "DELETE FROM public.beds;\n",
        "verify.sql.j2": "SELECT 'x' AS object, 'x' AS expected, 'x' AS found WHERE false;\n",
    }
    TestTree(site.folder / "sql").add(version, "beds", steps, files, **keys)


def tables(site: Playbook) -> list[str]:
    rows = site.server.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1", database=site.database
    )
    return [name for (name,) in rows]


def incident(result: Result) -> tuple[dict[str, Any], str]:
    """The record of an incident as a machine and as a person reads it; nobody else may."""
    assert result.json is not None
    page = Path(result.json["incident"])
    data = page.with_suffix(".json")
    for file in (page, data):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    return json.loads(data.read_text()), page.read_text()


def test_a_failed_migration_says_that_it_is_rolled_back_why_how_urgently_and_what_to_type(site: Playbook) -> None:
    add_failing(site)
    result = site("migrate.yml")
    assert result.rc == 2, result.output
    advice = result.json["advice"]
    assert advice["roll_back"] is True
    (finding,) = advice["findings"]
    assert (finding["criterion"], finding["requirement"], finding["database"]) == (
        "migration_failed", "R9.1", site.database,
    )  # fmt: skip
    assert advice["severity"]["level"] == "P1"
    assert advice["severity"]["respond_min"] == 15
    (target,) = advice["targets"]
    assert (target["strategy"], target["versions"]) == ("down", [V1, V2])
    command = f"ansible-playbook rollback.yml -l local -e rollback_through={V1}"
    assert advice["commands"] == [command]
    said = result.stdout.partition("advice: ROLL BACK: the migration failed with an error")[2]
    assert "P1 [R9.1]" in said
    assert "severity P1 high, within 15 minutes: roll back and investigate" in said
    assert f"type: {command}" in said
    page = Path(result.json["report"])
    assert "advice: ROLL BACK" in page.read_text()
    assert json.loads(page.with_suffix(".json").read_text())["advice"] == advice
    # What it says is what goes back.
    words = shlex.split(command)[1:]
    back = site(words[0], *words[3:], limit=words[2], rollback_confirm=site.database)
    assert back.rc == 0, back.output
    assert tables(site) == []


def test_what_was_wrong_before_and_no_version_makes_takes_no_version_back(site: Playbook, server: Server) -> None:
    server.execute("CREATE TABLE public.p (id int PRIMARY KEY); CREATE TABLE public.c (p int REFERENCES public.p)",
                   database=site.database)  # fmt: skip
    site.variables["pgops_phases"] = PROVED
    result = site("migrate.yml", migrate_auto_rollback=True)
    assert result.rc == 2, result.output
    assert "constraint public.c.c_p_fkey: expected index on (p), found MISSING" in result.output
    assert result.json["advice"]["roll_back"] is False
    assert "rooms" in tables(site), "nothing that the version made is wrong"
    assert not [command for command in result.json["error"]["next"] if "rollback.yml" in command]


def test_a_tree_that_cannot_be_run_again_is_no_reason_to_go_back(site: Playbook, server: Server) -> None:
    server.execute(f"SET ROLE {OWNER}; CREATE TABLE public.old (id int PRIMARY KEY)", database=site.database)
    TestTree(site.folder / "sql").add_sql(
        V2, "on_old", "ALTER TABLE public.old ADD COLUMN note text;\n", "ALTER TABLE public.old DROP COLUMN note;\n"
    )
    site.variables["pgops_phases"] = ["plan", "apply", "verify", "report"]
    result = site("migrate.yml")
    assert result.rc == 2, result.output
    assert "set verify_compare_schema to false" in result.stdout, result.output
    assert (result.json["advice"]["roll_back"], result.json["advice"]["commands"]) == (False, [])
    assert site("verify.yml", verify_compare_schema=False).rc == 0


@pytest.mark.slow
def test_a_success_that_was_watched_says_that_nothing_speaks_for_a_rollback(site: Playbook) -> None:
    result = site("migrate.yml", migrate_watch=0.05, hooks_watch_interval=1)
    assert result.rc == 0, result.output
    assert result.json["advice"]["roll_back"] is False
    assert result.json["advice"]["watched_s"] >= 2
    assert "advice: do not roll back: no criterion is met" in result.stdout
    assert "advice" not in site("migrate.yml").json


# -- by itself --------------------------------------------------------------------------------------------------------


def test_a_failed_migration_goes_back_by_itself_what_it_has_applied_and_nothing_older(
    site: Playbook, server: Server
) -> None:
    site.variables["pgops_phases"] = ["apply", "report"]
    assert site("migrate.yml").rc == 0
    site.variables["pgops_phases"] = PROVED
    tree = TestTree(site.folder / "sql")
    tree.add_sql(V2, "wards", "CREATE TABLE public.wards (id integer PRIMARY KEY);\n", "DROP TABLE public.wards;\n")
    add_failing(site, V3)
    result = site("migrate.yml", migrate_auto_rollback=True)
    assert result.rc == 2, result.output
    assert tables(site) == ["rooms"], f"the version of the run before stays\n{result.output}"
    assert result.json["state"] == "rolled back"
    automatic = result.json["automatic"]
    assert automatic["ok"] is True
    (run,) = automatic["runs"]
    assert (run["databases"], run["state"]) == ([site.database], "complete")
    assert f"rolled back by itself: {site.database} on local-1" in result.stdout
    assert "these versions would be reverted, in this order" in result.stdout, "what goes is said as it is for a person"
    assert not [command for command in result.json["error"]["next"] if "rollback.yml" in command]
    assert "to go back" not in result.json["error"]["message"]
    backups = [backup_store.read_backup(str(folder)) for folder in (site.backups / site.database).glob("2*")]
    assert sorted(backup.manifest["purpose"] for backup in backups) == ["before_migration", "before_rollback"]
    assert all(backup.proved for backup in backups)
    reason = f"the migration failed with an error (run {result.json['run_id']}); by itself"
    assert server.execute("SELECT why FROM pgops.run WHERE playbook = 'rollback'", database=site.database) == [
        (reason,)
    ]
    audited = server.execute(
        "SELECT DISTINCT detail->>'reason' FROM pgops.audit WHERE event = 'revert_started'", database=site.database
    )
    assert audited == [(reason,)]
    data, page = incident(result)
    assert (data["severity"]["level"], data["state"]) == ("P1", "rolled back")
    assert [version["state"] for version in data["versions"] if version["version"] == V3] == [
        "failed at step 2 of 2",
        "reverted",
    ]
    for told in ("rollback.yml begun by", "migrate.yml begun by", f"begun by itself: {reason}", "post-mortem"):
        assert told in page
    assert {entry["what"] for entry in data["backups"]} == {"before the migration", "before the rollback"}
    times = [row["time"] for row in data["timeline"]]
    assert times == sorted(times)
    own = json.loads(Path(run["report"]).with_suffix(".incident.json").read_text())
    assert own["reason"] == reason
    assert own["severity"]["level"] == "P1"
    assert {row["run"] for row in own["timeline"]} == {"migrate", "rollback"}


@pytest.mark.slow
def test_a_probe_that_became_slow_ends_the_watch_and_the_migration_goes_back_by_itself(
    site: Playbook, server: Server
) -> None:
    server.execute(SLOW.format(0.001), database=site.database)
    server.execute(f"ALTER FUNCTION public.answer() OWNER TO {OWNER}", database=site.database)
    TestTree(site.folder / "sql").add_sql(V1, "slow_answer", SLOW.format(0.7), SLOW.format(0.001))
    probe = {"probe": "SELECT public.answer()", "probe_limit": 5000}
    result = site("migrate.yml", migrate_health=probe, migrate_auto_rollback=True, hooks_watch_interval=10)
    assert result.rc == 2, result.output
    assert result.json["state"] == "rolled back"
    (finding,) = result.json["advice"]["findings"]
    assert (finding["criterion"], finding["requirement"], finding["level"]) == ("performance", "R9.4", "P2")
    assert finding["value"] > finding["limit"] == 50
    assert "severity P2 medium, at once: roll back and investigate" in result.stdout
    assert result.json["advice"]["watched_s"] < 60, "five minutes are not waited for"
    ((source,),) = server.execute("SELECT prosrc FROM pg_proc WHERE proname = 'answer'", database=site.database)
    assert "0.001" in source


@pytest.fixture
def application() -> Iterator[Application]:
    with Application() as made:
        yield made


@pytest.mark.slow
def test_users_stay_away_until_the_rollback_is_done(site: Playbook, application: Application) -> None:
    for kind, path in PATHS.items():
        site.variables[f"hooks_{kind}"] = [{"url": application.url + path, "method": "POST"}]
    add_failing(site)
    result = site("migrate.yml", migrate_auto_rollback=True)
    assert result.rc == 2, result.output
    assert result.json["state"] == "rolled back", result.output
    assert application.asked == [*AWAY, *BACK[:2], "POST /smoke", "POST /undrain"]
    assert tables(site) == []


@pytest.mark.slow
def test_an_application_that_answers_no_more_brings_the_migration_back(
    site: Playbook, application: Application
) -> None:
    site.variables["hooks_health"] = [{"url": f"{application.url}/health"}]
    application.answers = {"/health": [200, 200, 503, 200, 200, 200, 200]}
    result = site("migrate.yml", migrate_auto_rollback=True, hooks_watch_interval=10)
    assert result.rc == 2, result.output
    assert result.json["state"] == "rolled back"
    assert {finding["requirement"] for finding in result.json["advice"]["findings"]} == {"R9.3"}
    assert tables(site) == []


@pytest.mark.slow
def test_a_version_without_a_way_down_goes_back_to_the_backup_of_this_run(site: Playbook) -> None:
    site.variables["pgops_phases"] = PROVED
    assert site("migrate.yml").rc == 0
    one_way = {"safety": "none", "stays": "everything"}
    add_failing(site, V2, rollback=one_way)
    result = site("migrate.yml", migrate_auto_rollback=True)
    assert result.rc == 2, result.output
    assert result.json["state"] == "rolled back", result.output
    (target,) = result.json["advice"]["targets"]
    assert target["strategy"] == "restore"
    assert target["backup"] == result.json["hosts"]["local-1"][site.database]["backup"]["path"]
    assert tables(site) == ["rooms"]
    ((reason,),) = site.server.execute(
        "SELECT detail->>'reason' FROM pgops.audit WHERE event = 'database_swapped'", database=site.database
    )
    assert reason == result.json["automatic"]["runs"][0]["reason"]
    (kept,) = incident(result)[0]["kept"]
    assert site.server.execute(f"SELECT 1 FROM pg_database WHERE datname = '{kept['kept_as']}'")


@pytest.mark.slow
def test_a_rollback_goes_on_where_the_migration_that_began_it_is_killed(site: Playbook) -> None:
    slow = "SELECT pg_sleep(3) /* pg_sleep(60) */;\nDROP TABLE public.beds;\n"
    add_failing(site, V2, down=slow)
    process = site.start("migrate.yml", migrate_auto_rollback=True)
    site.interrupt(process, signal.SIGKILL, whole_group=True)
    wait_for(lambda: tables(site) == [], seconds=120)


@pytest.mark.slow
def test_production_goes_back_by_itself_whatever_windows_its_migration_was_typed_with(site: Playbook) -> None:
    add_failing(site)
    waiver = {
        "check": "evidence",
        "version": "*",
        "reason": "there is no staging",
        "by": "Ada Byron",
        "until": "2126-01-01",
    }
    site.variables |= {
        "pgops_phases": ["preflight", *PROVED], "migrate_windows": [{"opens": "2020-01-01 22:00 UTC", "lasts": "1h"}],
        "migrate_waive": [{**waiver, "version": version} for version in (V1, V2)],
        "migrate_auto_rollback_reason": "nobody is there at night", "backup_scratch_reason": "a test", "pgops_production_environments": "production",
    }  # fmt: skip
    result = site("migrate.yml", limit="production", migrate_auto_rollback=True, migrate_windows=[])
    assert result.rc == 2, result.output
    assert result.json["state"] == "rolled back", result.output
    (run,) = result.json["automatic"]["runs"]
    own = json.loads(Path(run["report"]).with_suffix(".incident.json").read_text())
    assert own["emergency"] == f"begun by itself, by run {result.json['run_id']}"
    assert own["window"].startswith("at any time"), "it inherits what the migration was typed with"
    assert tables(site) == []
    # What is printed for a person is not refused for the windows of the migration, and the word of a run that is over is not believed.
    assert not [command for command in result.json["advice"]["commands"] if "migrate_windows" in command]
    forged = {"__pgops_part_of": result.json["run_id"], "pgops_databases": [site.database]}
    late = site("rollback.yml", limit="production", rollback_through=V1, **forged)
    assert "begins in a window, and this is outside of each window" in late.json["error"]["message"]


def test_a_rollback_that_fails_stops_and_says_so(site: Playbook) -> None:
    add_failing(site, V2, down="SELECT 1 / (relpages - relpages) FROM pg_class;\n")
    result = site("migrate.yml", migrate_auto_rollback=True)
    assert result.rc == 2
    assert result.json["state"] == "partial"
    assert result.json["automatic"]["ok"] is False
    assert f"THE ROLLBACK of {site.database} on local-1 FAILED and nothing more is done by itself: " in result.stdout
    assert result.json["error"]["next"][0] == result.json["automatic"]["next"][0]
    assert incident(result)[0]["severity"]["level"] == "P0"
    assert tables(site) == ["beds", "rooms"]


def test_in_check_mode_it_is_said_and_nothing_is_begun(site: Playbook) -> None:
    add_failing(site)
    result = site("migrate.yml", "--check", migrate_auto_rollback=True)
    assert result.rc == 0, result.output
    assert "would be rolled back by rollback.yml without a question, should it fail" in result.stdout
    assert tables(site) == []


@pytest.mark.slow
def test_a_version_that_is_not_named_keeps_a_rollback_from_beginning(site: Playbook) -> None:
    assert site("migrate.yml").rc == 0
    result = site("rollback.yml", rollback_confirm=site.database, rollback_only=[V2])
    assert result.rc == 2
    assert f"Nothing was reverted: {V1} would go, too, and rollback_only names {V2}" in result.output
    assert tables(site) == ["rooms"]


@pytest.mark.slow
def test_a_host_that_does_not_allow_it_stays_as_it_is(site: Playbook, server: Server) -> None:
    other = f"{site.database}_2"
    server.create_database(other, OWNER)
    site.hosts["local"] = {
        "local-1": {"migrate_auto_rollback": True},
        "local-2": {"pgops_database": other, "migrate_auto_rollback": False},
    }
    add_failing(site)
    result = site("migrate.yml")
    assert result.rc == 2
    assert [run["host"] for run in result.json["automatic"]["runs"]] == ["local-1"], result.output
    assert tables(site) == []
    assert server.execute("SELECT to_regclass('public.rooms') IS NOT NULL", database=other) == [(True,)]
    assert {target["host"] for target in result.json["advice"]["targets"]} == {"local-1", "local-2"}
