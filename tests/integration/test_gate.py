# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing is applied behind a gate before people have signed for exactly that; each thing that is missing is told with its command."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import rehearsal_file
from support.signers import People
from support.site import Playbook, Result
from support.tree import TestTree

V1, V2 = "20260101000000", "20260101000001"
GLASS = {
    "gate_break_glass_reason": "the index is missing and the clinic waits",
    "gate_break_glass_by": "Ada Byron",
}


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path / "people")


@pytest.fixture
def site(playbook: Playbook, people: People) -> Playbook:
    """An environment with a gate, whose versions are applied in a moment; of the risk LOW, which a database administrator approves."""
    shutil.rmtree(playbook.copy_sql() / "migrations")
    add(playbook)
    playbook.variables |= {
        "pgops_phases": ["plan", "gate", "apply", "report"],
        "gate_required": True,
        "gate_signers": {
            "database_admin": people.signers("database_admin", "dana"),
            "cto": people.signers("cto", "carol", "dana"),
            "executive": people.signers("executive", "eve"),
        },
    }
    return playbook


def add(site: Playbook, column: str = "integer", **keys: Any) -> Path:
    up = f"CREATE TABLE public.rooms (\n    id {column} PRIMARY KEY\n);\n"
    return TestTree(site.folder / "sql").add_sql(V1, "rooms", up, "DROP TABLE public.rooms;\n", **keys)


def refused(site: Playbook, result: Result, why: str, phase: str = "gate") -> list[str]:
    """The gate ended the run, and nothing was written. Returns the commands."""
    assert result.rc == 2, result.output
    assert why in result.json["error"]["message"], result.json["error"]["message"]
    assert result.json["error"]["phase"] == phase
    assert "Traceback" not in result.output
    assert site.server.execute("SELECT to_regnamespace('pgops'), to_regclass('rooms')", database=site.database) == [
        (None, None)
    ]
    return list(result.json["error"]["next"])


def verdict(site: Playbook, result: Result) -> dict[str, Any]:
    return result.json["hosts"]["local-1"][site.database]["gate"]["gate"]


def approve(site: Playbook, people: People, role: str = "database_admin", name: str = "dana", **more: Any) -> Result:
    return site("approve.yml", approve_as=role, approve_key=people.key(name), **more)


def test_what_nobody_has_approved_is_not_applied_and_what_was_approved_is(site: Playbook, people: People) -> None:
    commands = refused(site, site("migrate.yml"), "there is missing the approval of database_admin")
    assert commands[0].startswith("ansible-playbook approve.yml -l local ")
    assert "approve_as=database_admin" in commands[0] and "approve_key=FILE" in commands[0]
    wrong = approve(site, people, name="carol")
    assert wrong.rc == 2 and "is signed with a key that" in wrong.json["error"]["message"], wrong.output
    other = approve(site, people, role="executive", name="eve")
    assert other.rc == 2 and "executive is not asked to approve this, which needs database_admin" in other.output
    made = approve(site, people)
    assert made.rc == 0, made.output
    assert "risk LOW, WITHOUT A REHEARSAL" in made.stdout
    (kept,) = (site.state / "approvals" / "local").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    told = site("gate.yml")
    assert told.rc == 0 and verdict(site, told)["allowed"] is True, told.output
    applied = site("migrate.yml")
    assert applied.rc == 0, applied.output
    (approval,) = verdict(site, applied)["approvals"]
    assert (approval["role"], approval["by"]) == ("database_admin", "dana@hospital.org")
    assert "PRIVATE KEY" not in applied.output + made.output


@pytest.mark.slow
def test_one_changed_byte_of_sql_voids_the_approval(site: Playbook, people: People) -> None:
    assert approve(site, people).rc == 0
    add(site, "bigint ")
    why = f"{V1} has other SQL than what was approved"
    refused(site, site("migrate.yml"), why)
    told = site("gate.yml")
    assert told.rc == 2 and why in told.json["error"]["message"]
    assert verdict(site, told)["allowed"] is False
    assert approve(site, people).rc == 0
    assert site("migrate.yml").rc == 0


def test_tags_do_not_lead_past_the_gate(site: Playbook) -> None:
    site.variables["hooks_maintenance_on"] = site.variables["hooks_maintenance_off"] = [
        {"argv": ["touch", str(site.folder / "shut")]}
    ]
    for parts in (["--tags", "plan,apply"], ["--skip-tags", "gate"]):
        past = site("migrate.yml", *parts)
        refused(
            site,
            past,
            "this run has no gate (left out by --tags or --skip-tags), and local applies nothing without",
            "plan",
        )
        assert (
            past.json["error"]["next"] == ["ansible-playbook migrate.yml -l local"]
            and not (site.folder / "shut").exists()
        )
    early = site("migrate.yml", "--tags", "apply")
    assert early.rc == 2 and "this run has no plan and no gate" in early.json["error"]["message"], early.output
    assert not (site.folder / "shut").exists(), "before the application is taken away"
    shown = site("migrate.yml", "--check", "--tags", "plan,apply")
    assert shown.rc == 0, shown.output
    site.variables["pgops_phases"] = ["plan", "apply", "report"]
    off = site("migrate.yml")
    assert off.rc == 2 and "pgops_phases leaves out gate, and local has one" in off.json["error"]["message"]
    site.variables["pgops_phases"] = ["plan", "gate", "apply", "report"]
    told = site("migrate.yml", __gate_stage="look", __pgops_only_tell=True)
    assert told.rc == 2 and "__gate_stage, __pgops_only_tell are typed with -e" in told.json["error"]["message"], (
        "no internal variable leads past it either"
    )


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "typed",
    [
        {"gate_required": False},
        {"pgops_production_environments": ["nowhere"]},
        {"pgops_environments": ["production", "local"]},
        {"gate_signers": {"database_admin": "own"}, "gate_roles": {"LOW": ["cto"]}},
        {"gate_soak_hours": 0},
        {"migrate_windows": [{"opens": "*:00 UTC", "lasts": "2h"}]},
        {"pgops_phases": ["plan", "gate", "apply"]},
        {
            "__pgops_kept": ["rehearse"],
            "audit_phi_required": False,
            "backup_level_required": 1,
            "migrate_review_required": False,
            "pgops_host": "another",
            "preflight_waive": [{"check": "disk", "reason": "it will do"}],
            "rehearse_blocked_reads": 60,
            "rehearse_duration": 9000,
        },
    ],
)
def test_who_types_the_command_does_not_choose_what_the_gate_asks_for(site: Playbook, typed: dict[str, Any]) -> None:
    site.variables |= {"audit_phi_required": True, "migrate_review_required": True, "rehearse_duration": 600}
    past = site("migrate.yml", **typed)
    names = ", ".join(sorted(typed))
    assert (
        past.rc == 2 and f"{names} {'is' if len(typed) == 1 else 'are'} typed with -e" in past.json["error"]["message"]
    )
    assert not site.server.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'", database=site.database)
    (command,) = past.json["error"]["next"]
    assert command.startswith("ansible-playbook migrate.yml -l local") and not any(name in command for name in typed)


@pytest.mark.slow
def test_the_server_of_an_environment_with_a_gate_is_not_named_from_another_one(site: Playbook) -> None:
    site.variables["gate_required"] = False
    site.hosts["production"] = {"production-1": {"gate_required": True, "pgops_host": "{{ 'db1' }}.hospital.org"}}
    past = site("migrate.yml", pgops_host="localhost,db1.hospital.org")
    assert past.rc == 2, past.output
    assert (
        "pgops_host is typed with -e and names the server of production-1, and production has a gate"
        in past.json["error"]["message"]
    )
    assert past.json["error"]["next"] == ["ansible-playbook migrate.yml -l production"]
    assert site("migrate.yml", "--tags", "plan", pgops_host=site.server.host).rc == 0, "its own server may be typed"
    other = site("migrate.yml", "--tags", "plan", pgops_host="db1.hospital.org", pgops_port=1)
    assert "has a gate" not in other.output, "another cluster on that machine"


@pytest.mark.slow
def test_what_asks_for_more_may_be_typed(site: Playbook) -> None:
    stricter = {
        "gate_soak_hours": 48,
        "rehearse_blocked_reads": 1,
        "rehearse_duration": 60,
        "migrate_without_window": [],
    }
    more = {
        "pgops_phases": ["preflight", *site.variables["pgops_phases"]],
        "preflight_waive": site.variables["preflight_waive"],
    }
    refused(site, site("migrate.yml", **stricter, **more), "there is missing the approval of database_admin")
    assert site("migrate.yml", "--tags", "plan", migrate_review_required="no", gate_soak_hours="24").rc == 0, "the same"


@pytest.mark.slow
def test_what_is_waived_behind_e_has_a_name_a_reason_and_an_end(site: Playbook, people: People) -> None:
    site.variables |= {
        "migrate_windows": [{"opens": f"{datetime.now(UTC) + timedelta(hours=3):%Y-%m-%d %H:%M} UTC", "lasts": "2h"}],
        "migrate_without_window": [],
    }
    assert approve(site, people).rc == 0
    entry = {"check": "window", "version": V1, "reason": "the vendor is on the telephone"}
    named = {**entry, "by": "Ada Byron", "until": f"{datetime.now(UTC):%Y-%m-%d}"}
    for wrong, why in (
        (entry, "has no by"),
        ({**named, "until": "soon"}, "takes a day"),
        ({**named, "until": "2020-01-31"}, "is over"),
        ({**named, "until": "2099-01-31"}, "more than 7 days ahead"),
        ({**named, "reason": "x"}, "nobody learns anything"),
    ):
        past = site("migrate.yml", migrate_waive=[wrong])
        assert past.rc == 2 and why in past.json["error"]["message"], past.output
    let = site("migrate.yml", migrate_waive=[named])
    assert let.rc == 0, let.output
    assert (
        f"waived: window of {V1} to begin, because {entry['reason']} (by Ada Byron, until {named['until']})"
        in let.stdout
    )
    (told,) = let.json["hosts"]["local-1"][site.database]["plan"]["waived"]
    assert (told["by"], told["until"]) == ("Ada Byron", named["until"])


@pytest.mark.slow
def test_a_waiver_of_the_inventory_ends_with_its_day(site: Playbook, people: People) -> None:
    shut = [{"opens": f"{datetime.now(UTC) + timedelta(hours=3):%Y-%m-%d %H:%M} UTC", "lasts": "2h"}]
    waiver = {"check": "window", "version": V1, "reason": "a test", "until": "2020-01-31"}
    site.variables |= {"migrate_windows": shut, "migrate_without_window": [], "migrate_waive": [waiver]}
    refused(site, site("migrate.yml"), "needs a window, and it is", "plan")
    site.variables["migrate_waive"] = [{**waiver, "until": "tomorrow"}]
    refused(site, site("migrate.yml"), "takes a day", "plan")


@pytest.mark.slow
def test_behind_a_broken_glass_settings_are_typed_and_it_is_shouted(site: Playbook) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    glass = {**GLASS, "gate_break_glass_expires": soon}
    never = site("migrate.yml", **glass, pgops_production_environments=["nowhere"])
    assert never.rc == 2 and "pgops_production_environments is typed with -e" in never.json["error"]["message"]
    broken = site("migrate.yml", **glass, preflight_disk_stop_percent=1, migrate_review_required=False)
    assert broken.rc == 0, broken.output
    assert (
        "WITHOUT the approval of database_admin; what the inventory says of preflight_disk_stop_percent"
        in broken.stdout
    )
    assert "migrate_review_required" not in verdict(site, broken)["break_glass"]["told"], "the inventory says the same"


@pytest.mark.slow
def test_a_rehearsal_that_the_gate_will_take_is_held_to_the_inventory_too(site: Playbook) -> None:
    eased = site("rehearse.yml", rehearse_blocked_reads=600)
    assert eased.rc == 2 and "rehearse_blocked_reads is typed with -e" in eased.json["error"]["message"], eased.output


@pytest.mark.slow
def test_who_can_sign_for_nobody_is_told_right_after_the_plan(site: Playbook, people: People) -> None:
    del site.variables["gate_signers"]["database_admin"]
    commands = refused(
        site, site("migrate.yml"), "who may sign as database_admin (gate_signers has no database_admin)", "gate_early"
    )
    assert commands
    del site.variables["gate_required"]
    assert site("migrate.yml").rc == 0, "without a word about it only production has a gate"


@pytest.mark.slow
def test_a_risk_that_the_rehearsal_shows_needs_other_people(site: Playbook, people: People) -> None:
    assert approve(site, people).rc == 0
    planned = site("migrate.yml", "--tags", "plan")
    pending = planned.json["hosts"]["local-1"][site.database]["plan"]["pending"]
    rehearsal_file.write(site.backups, site.database, pending, blocks=31.0)
    told = site("gate.yml")
    found = verdict(site, told)
    assert (found["risk"], found["roles"]) == ("CRITICAL", ["executive"])
    assert found["reasons"][0]["why"] == "keeps writers out for 31.0 s in the step up"
    refused(site, told, "there is missing the approval of executive", "gate")
    assert approve(site, people, "executive", "eve").rc == 0
    late = rehearsal_file.write(site.backups, site.database, pending, blocks=120.0)
    voided = site("gate.yml")
    assert (
        f"the rehearsal {late['id']} expects blocks writes 120.0 s, and 47.5 s were approved"
        in voided.json["error"]["message"]
    )
    failed = rehearsal_file.write(site.backups, site.database, pending, ok=False, why="The way down leaves public.x.")
    assert f"({failed['id']}: The way down leaves public.x)" in site("gate.yml").json["error"]["message"]


@pytest.mark.slow
def test_a_rehearsal_that_is_asked_for_and_not_there_is_missing(site: Playbook, people: People) -> None:
    assert approve(site, people).rc == 0
    site.variables["gate_rehearsal_required"] = True
    commands = refused(site, site("migrate.yml"), "a rehearsal of this very SQL")
    assert commands[0].startswith("ansible-playbook rehearse.yml -l local")
    planned = site("migrate.yml", "--tags", "plan")
    pending = planned.json["hosts"]["local-1"][site.database]["plan"]["pending"]
    old = rehearsal_file.write(site.backups, site.database, pending, at="2026-01-01T00:00:00Z")
    told = site("gate.yml", "--check")
    assert told.rc == 2, "the verdict is the exit code, with --check as well"
    assert f"a rehearsal of the last 168 hours ({old['id']} is of 2026-01-01" in told.json["error"]["message"]


def test_the_glass_is_broken_by_name_with_a_reason_and_an_end_and_never_silently(site: Playbook) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    for glass, why in (
        (GLASS, "gate_break_glass_expires have to be given as well"),
        ({**GLASS, "gate_break_glass_expires": "2020-01-01T00:00:00+00:00"}, "is over"),
        (
            {**GLASS, "gate_break_glass_expires": soon, "gate_break_glass_reason": "x"},
            "of which nobody learns anything later",
        ),
    ):
        refused(site, site("migrate.yml", **glass), why, "gate_early")
    shut = {"opens": f"{datetime.now(UTC) + timedelta(hours=3):%Y-%m-%d %H:%M} UTC", "lasts": "2h"}
    site.variables |= {"migrate_windows": [shut], "migrate_without_window": []}
    broken = site("migrate.yml", **GLASS, gate_break_glass_expires=soon)
    assert broken.rc == 0, broken.output
    shout = f"BREAK GLASS by Ada Byron until {soon}: {GLASS['gate_break_glass_reason']} WITHOUT an open window"
    assert shout in broken.stdout
    assert verdict(site, broken)["break_glass"]["by"] == "Ada Byron"
    assert shout in Path(broken.json["report"]).read_text()
    (row,) = site.server.execute("SELECT why FROM pgops.run", database=site.database)
    assert row[0].startswith(shout[:40])


@pytest.mark.slow
def test_the_glass_in_the_inventory_is_none(site: Playbook) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    site.variables |= {**GLASS, "gate_break_glass_expires": soon}
    refused(
        site,
        site("migrate.yml"),
        "is set in the inventory, and the glass is broken by somebody who types it",
        "gate_early",
    )


@pytest.mark.slow
def test_a_shut_window_is_told_right_after_the_plan_or_after_the_rehearsal(site: Playbook, people: People) -> None:
    shut = [{"opens": f"{datetime.now(UTC) + timedelta(hours=3):%Y-%m-%d %H:%M} UTC", "lasts": "2h"}]
    site.variables |= {"migrate_windows": shut, "migrate_without_window": []}
    assert approve(site, people).rc == 0
    refused(site, site("migrate.yml"), "needs a window, and it is", "plan")
    refused(site, site("migrate.yml", gate_rehearse_first=True), "an open window", "gate")


@pytest.mark.slow
def test_a_forecast_that_does_not_fit_into_what_is_left_of_the_window_waits(site: Playbook, people: People) -> None:
    opened = [{"opens": f"{datetime.now(UTC) - timedelta(hours=1):%Y-%m-%d %H:%M} UTC", "lasts": "2h"}]
    site.variables |= {"migrate_windows": opened, "migrate_without_window": []}
    planned = site("migrate.yml", "--tags", "plan", "--check")
    pending = planned.json["hosts"]["local-1"][site.database]["plan"]["pending"]
    rehearsal_file.write(site.backups, site.database, pending, seconds=7200)
    told = site("gate.yml")
    assert "is expected to end after 7200 s, and the window closes in 3" in told.json["error"]["message"]
    rehearsal_file.write(site.backups, site.database, pending, seconds=60)
    assert "window" not in [one["kind"] for one in verdict(site, site("gate.yml"))["missing"]]


@pytest.mark.slow
def test_databases_that_are_changed_one_after_another_share_what_is_left_of_the_window(
    site: Playbook, people: People
) -> None:
    opened = [{"opens": f"{datetime.now(UTC) - timedelta(hours=1):%Y-%m-%d %H:%M} UTC", "lasts": "2h"}]
    site.variables |= {"migrate_windows": opened, "migrate_without_window": []}
    second = f"{site.database}_2"
    site.server.create_database(second)
    site.variables |= {"pgops_databases": [site.database, second]}
    planned = site("migrate.yml", "--tags", "plan", "--check")
    for database in (site.database, second):
        pending = planned.json["hosts"]["local-1"][database]["plan"]["pending"]
        rehearsal_file.write(site.backups, database, pending, seconds=2400)
    told = site("gate.yml")
    found = {name: one["gate"]["gate"]["window"] for name, one in told.json["hosts"]["local-1"].items()}
    assert found[site.database]["open"] is True
    assert found[second]["open"] is False and "is expected to end after 4800 s" in found[second]["shut"][0]["why"]


@pytest.mark.slow
def test_what_was_rehearsed_for_another_host_is_no_rehearsal_of_this_one(site: Playbook, people: People) -> None:
    planned = site("migrate.yml", "--tags", "plan", "--check")
    pending = planned.json["hosts"]["local-1"][site.database]["plan"]["pending"]
    rehearsal_file.write(site.backups, site.database, pending, host="local-2")
    assert verdict(site, site("gate.yml", gate_rehearsal_required=True))["missing"][0]["kind"] == "rehearsal"
    rehearsal_file.write(site.backups, site.database, pending)
    assert "rehearsal" not in [
        one["kind"] for one in verdict(site, site("gate.yml", gate_rehearsal_required=True))["missing"]
    ]


@pytest.mark.slow
def test_nothing_pending_needs_nobody(site: Playbook, people: People) -> None:
    assert approve(site, people).rc == 0
    assert site("migrate.yml").rc == 0
    for name in ("migrate.yml", "gate.yml"):
        assert site(name).rc == 0
    nothing = approve(site, people)
    for hours in (0, -1, "nan", 5000):
        refusal = approve(site, people, approve_hours=hours)
        assert refusal.rc == 2 and "Traceback" not in refusal.output, refusal.output
    assert nothing.rc == 2 and "Nothing is pending in local" in nothing.json["error"]["message"]


@pytest.mark.slow
def test_what_was_signed_is_what_was_shown(site: Playbook, people: People) -> None:
    shown = approve(site, people, "database_admin", "dana")
    (kept,) = (site.state / "approvals" / "local").iterdir()
    statement = json.loads(kept.read_text())["statement"]
    (place,) = statement["places"]
    for part in (statement["expires"], place["versions"][0]["rendered_checksum"], place["database"]):
        assert part in shown.stdout
    checked = site("approve.yml", "--check", approve_as="database_admin", approve_key=people.key("dana"))
    assert checked.rc == 0 and len(list(kept.parent.iterdir())) == 1


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_under_its_id_with_its_backup_or_begins_anew(site: Playbook, people: People) -> None:
    site.variables["pgops_phases"] = ["preflight", "plan", "backup", "prove", "gate", "apply", "verify", "report"]
    stopped = site("migrate.yml")
    commands = refused(site, stopped, "the approval of database_admin")
    run, backup = stopped.json["run_id"], stopped.json["hosts"]["local-1"][site.database]["backup"]["path"]
    assert f"pgops_run_id={run}" in commands[-1]
    again = site("migrate.yml", pgops_run_id=run)
    refused(site, again, "the approval of database_admin")
    assert approve(site, people).rc == 0
    # The schema has moved since: everything is made anew, and said so.
    site.server.execute("CREATE TABLE public.other (id integer)", database=site.database)
    site.server.execute("DROP TABLE public.other", database=site.database)
    went_on = site("migrate.yml", pgops_run_id=run)
    assert went_on.rc == 0, went_on.output
    assert f"run {run} goes on with its proved backup {backup}" in went_on.stdout
    assert went_on.json["run_id"] == run and went_on.json["state"] == "complete"
    assert (
        len([path for path in (site.backups / site.database).iterdir() if path.is_dir() and "migration" in path.name])
        == 1
    )
    assert site.server.execute("SELECT run_id FROM pgops.migration", database=site.database) == [(run,)]
    over = site("migrate.yml", pgops_run_id=run)
    assert over.rc == 2 and "has ended well" in over.json["error"]["message"]


@pytest.mark.slow
def test_a_run_begins_anew_where_its_backup_is_of_another_state(site: Playbook, people: People) -> None:
    site.variables["pgops_phases"] = ["plan", "backup", "prove", "gate", "apply", "report"]
    stopped = site("migrate.yml")
    run = stopped.json["run_id"]
    assert approve(site, people).rc == 0
    site.server.execute("CREATE TABLE public.other (id integer)", database=site.database)
    site.variables["gate_backup_max_age_hours"] = 0
    old = site("migrate.yml", "--check", pgops_run_id=run)
    assert "begins anew with its backup, for its backup" in old.stdout and "is too old" in old.stdout, old.output
    del site.variables["gate_backup_max_age_hours"]
    anew = site("migrate.yml", pgops_run_id=run)
    assert anew.rc == 0, anew.output
    assert (
        f"run {run} begins anew with its backup, for the schema is another than when its backup was made" in anew.stdout
    )
    first = stopped.json["hosts"]["local-1"][site.database]["backup"]["path"]
    assert anew.json["hosts"]["local-1"][site.database]["backup"]["path"] != first


@pytest.mark.slow
def test_what_is_no_run_that_stopped_does_not_go_on(site: Playbook) -> None:
    for given, why in (
        ("nonsense", "There is no run nonsense"),
        ("20260101T000000Z-000000", "There is no run 20260101T"),
    ):
        found = site("migrate.yml", pgops_run_id=given)
        assert found.rc == 2 and why in found.json["error"]["message"], found.output


@pytest.fixture
def promoted(site: Playbook, people: People) -> Playbook:
    """Production behind a gate, staging before it, each with a database."""
    site.server.create_database(f"{site.database}_staging")
    site.hosts["staging"] = {"staging-1": {"pgops_database": f"{site.database}_staging", "gate_required": False}}
    site.variables |= {"gate_rehearsed_before": False, "gate_soak_hours": 0}
    site.variables["pgops_phases"] = ["preflight", "plan", "backup", "prove", "gate", "apply", "verify", "report"]
    site.variables["gate_signers"]["evidence"] = people.signers("evidence", "staging")
    return site


@pytest.mark.slow
def test_production_takes_signed_evidence_that_has_soaked(promoted: Playbook, people: People) -> None:
    site = promoted
    assert site("migrate.yml", limit="staging").rc == 0
    told = site("gate.yml", limit="production")
    assert told.rc == 2 and "is not signed: there is no staging.json.sig" in told.json["error"]["message"], told.output
    assert any(
        "verify.yml -l staging" in command and "verify_evidence_key=FILE" in command
        for command in told.json["error"]["next"]
    )
    assert site("verify.yml", limit="staging", verify_evidence_key=people.key("mallory")).rc == 0
    assert "is signed with a key that" in site("gate.yml", limit="production").json["error"]["message"]
    assert site("verify.yml", limit="staging", verify_evidence_key=people.key("staging")).rc == 0

    def kinds(**more: Any) -> list[str]:
        result = site("gate.yml", limit="production", **more)
        found = result.json["hosts"]["production-1"][site.database]["gate"]["gate"]
        return [one["kind"] for one in found["missing"]] + [lack["kind"] for lack in found["promotion"]["lacking"]]

    assert kinds() == ["approval"]
    assert kinds(gate_soak_hours=24) == ["promotion", "approval", "soak"]
    assert kinds(gate_rehearsed_before=True) == ["promotion", "approval", "rehearsal"]
    evidence = site.state / "evidence" / "staging.json"
    evidence.write_text(evidence.read_text().replace('"duration_s"', '"duration"'))
    assert kinds() == ["promotion", "approval", "signature"]
    # Told right after the plan, before hours are spent on a backup.
    early = site("migrate.yml", limit="production")
    assert early.rc == 2 and early.json["error"]["phase"] == "gate_early", early.output
    assert "backup" not in early.json["hosts"]["production-1"][site.database]


def test_a_plan_for_the_week_tells_what_is_late_and_who_owes_it(site: Playbook, people: People) -> None:
    wrong = site("plan_timeline.yml", gate_planned_for="next week")
    assert wrong.rc == 2 and "takes a moment with its time zone" in wrong.json["error"]["message"]
    planned = (datetime.now(UTC) + timedelta(days=4)).isoformat(timespec="seconds")
    made = site("plan_timeline.yml", gate_planned_for=planned, gate_timeline_done=["submitted", "go"])
    assert made.rc == 0, made.output
    (page,) = (site.state / "timelines" / "local").glob("*.md")
    document = json.loads(page.with_suffix(".json").read_text())
    assert [(step["name"], step["state"]) for step in document["steps"]] == [
        ("submitted", "done"), ("security", "late"), ("notified", "due"), ("go", "later"), ("executed", "later"),
    ]  # fmt: skip
    assert "database_admin (not signed yet)" in document["steps"][3]["who"], "a go without a signature is none"
    assert set(document["texts"]) == {"engineering", "product", "customer support", "infrastructure"}
    assert "rooms" not in "".join(document["texts"].values())
    for part in ("Purpose and scope", "Tables", "Expected", "Risk", "Rollback", "Verification", "Communication"):
        assert f"# {part}" in page.read_text(), part
    assert page.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_a_developer_is_told_what_a_version_does_and_needs(site: Playbook) -> None:
    add(site, phi=True, title="Rooms <b>of</b> schools")
    page = site.folder / "page.html"
    made = site("request.yml", request_version=V1, request_by="grace", request_page=str(page), gate_required=False)
    assert made.rc == 0, made.output
    document = json.loads(page.with_suffix(".json").read_text())
    assert (document["by"], document["ready"], document["why_not"]) == ("grace", True, [])
    (place,) = document["places"]
    assert (place["risk"], place["roles"], place["rehearsal"]) == ("LOW", ["database_admin"], None)
    assert "Rooms &lt;b&gt;of&lt;/b&gt; schools" in page.read_text() and "<b>of</b>" not in page.read_text()
    assert site.server.execute("SELECT to_regnamespace('pgops')", database=site.database) == [(None,)]
    TestTree(site.folder / "sql").add_sql(V1, "rooms", "DROP TABLE public.old CASCADE;", "SELECT 1;", risk="low")
    faulty = site("request.yml", request_version=V1, request_page=str(page))
    assert faulty.rc == 0, faulty.output
    assert json.loads(page.with_suffix(".json").read_text())["ready"] is False
    assert "not ready" in page.read_text() and "NOT READY" in faulty.stdout
    wrong = site("request.yml", request_version=V1, request_page=str(page.with_suffix(".json")))
    assert wrong.rc == 2 and "let it end in .html" in wrong.json["error"]["message"]
    unknown = site("request.yml", request_version="20990101000000")
    assert unknown.rc == 2 and "There is no version 20990101000000" in unknown.json["error"]["message"]
