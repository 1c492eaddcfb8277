# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of environments: production takes what staging has applied and verified with the same files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import promotion
from support.engine import wait_for
from support.server import Server
from support.site import Playbook, Result
from support.tree import TestTree

V1, V2 = "20260101000000", "20260101000001"
ORDER, PRODUCTION = ["local", "staging", "production"], ["production"]


@pytest.fixture
def site(playbook: Playbook, server: Server) -> Playbook:
    """Staging and production with a database each, on one ops host."""
    shutil.rmtree(playbook.copy_sql() / "migrations")
    add(playbook, V1, "rooms")
    server.create_database(f"{playbook.database}_staging")
    playbook.hosts["staging"] = {"staging-1": {"pgops_database": f"{playbook.database}_staging"}}
    playbook.variables["backup_scratch_reason"] = "a test has one server"
    # These tests go through both environments many times, and are not about rehearsals.
    playbook.variables["pgops_phases"] = [
        "preflight",
        "plan",
        "backup",
        "prove",
        "apply",
        "analyze",
        "verify",
        "report",
    ]
    return playbook


def add(site: Playbook, version: str, table: str) -> Path:
    up = f"CREATE TABLE public.{table} (\n    id integer PRIMARY KEY\n);\n"
    return TestTree(site.folder / "sql").add_sql(version, table, up, f"DROP TABLE public.{table};\n")


def refused(result: Result, why: str) -> list[str]:
    """The run was ended by its plan; returns what it says to type."""
    assert result.rc == 2, result.output
    assert why in result.json["error"]["message"]
    assert result.json["error"]["phase"] == "plan"
    assert "Traceback" not in result.output
    return result.json["error"]["next"]


def evidence(site: Playbook) -> Path:
    return site.state / "evidence" / "staging.json"


@pytest.mark.slow
def test_production_takes_what_staging_has_verified_with_the_same_files_and_nothing_else(site: Playbook) -> None:
    commands = refused(
        site("migrate.yml", "--tags", "plan", limit="production"), "was not applied and verified in staging"
    )
    assert commands == [
        "ansible-playbook migrate.yml -l staging", "ansible-playbook migrate.yml --tags plan -l production"
    ]  # fmt: skip
    assert site("migrate.yml", limit="staging").rc == 0
    assert stat.S_IMODE(evidence(site).stat().st_mode) == 0o600
    assert json.loads(evidence(site).read_text())["versions"][V1]["database"] == f"{site.database}_staging"
    applied = site("migrate.yml", limit="production")
    assert applied.rc == 0, applied.output
    assert site.server.execute("SELECT version FROM pgops.migration", database=site.database) == [(V1,)]


@pytest.mark.slow
def test_other_files_are_another_version_and_a_waiver_names_it_with_its_reason(site: Playbook) -> None:
    assert site("migrate.yml", limit="staging").rc == 0
    folder = add(site, V1, "rooms")
    (folder / "up.sql.j2").write_text("CREATE TABLE public.rooms (\n    id bigint PRIMARY KEY\n);\n")
    why = "with other files than these"
    refused(site("migrate.yml", "--tags", "plan", limit="production"), why)
    shown = site("migrate.yml", "--check", "--diff", limit="production")
    assert shown.rc == 0, shown.output
    assert why in shown.stdout, "the SQL may be looked at, and what is lacking is told"
    waiver = {"check": "evidence", "version": V1, "reason": "the outage needs it now"}
    for wrong in ({**waiver, "reason": ""}, {**waiver, "check": "evidense"}):
        refused(site("migrate.yml", "--tags", "plan", limit="production", migrate_waive=[wrong]), "migrate_waive has")
    let = site("migrate.yml", limit="production", migrate_waive=[waiver])
    assert let.rc == 0, let.output
    assert let.json["hosts"]["production-1"][site.database]["plan"]["waived"] == [waiver]


@pytest.mark.slow
def test_the_file_of_another_ops_host_is_taken_and_that_of_another_environment_is_not(site: Playbook) -> None:
    file = site.folder / "from staging.json"
    assert site("migrate.yml", limit="staging").rc == 0
    assert site("verify.yml", limit="staging", verify_evidence=str(file)).rc == 0
    evidence(site).unlink()
    taken = site("migrate.yml", "--tags", "plan", limit="production", migrate_evidence=str(file))
    assert taken.rc == 0, taken.output
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "environment": "local"}))
    other = site("migrate.yml", "--tags", "plan", limit="production", migrate_evidence=str(file))
    refused(other, "is the evidence of local, not of staging")


@pytest.mark.slow
def test_a_database_that_fails_its_verification_is_no_evidence_any_longer(site: Playbook) -> None:
    assert site("migrate.yml", limit="staging").rc == 0
    site.server.execute("ALTER TABLE public.rooms ADD COLUMN odd integer", database=f"{site.database}_staging")
    site.server.execute("DROP TABLE public.rooms", database=f"{site.database}_staging")
    assert site("verify.yml", limit="staging").rc == 2
    refused(site("migrate.yml", "--tags", "plan", limit="production"), "was not applied and verified in staging")


@pytest.mark.slow
def test_tags_do_not_lead_past_the_plan(site: Playbook) -> None:
    past = site("migrate.yml", "--tags", "backup,prove,apply", limit="production")
    assert past.rc == 2, past.output
    assert "no preflight, no plan and no verify" in past.json["error"]["message"]
    assert site.server.execute("SELECT to_regnamespace('pgops') IS NULL", database=site.database) == [(True,)]


@pytest.mark.slow
def test_what_fails_after_the_verification_leaves_no_evidence(site: Playbook) -> None:
    staging = site.hosts["staging"]["staging-1"]
    assert site("migrate.yml", limit="staging").rc == 0
    add(site, V2, "beds")
    staging["hooks_smoke_test"] = [{"argv": ["false"]}]
    tried = site("migrate.yml", limit="staging")
    assert (tried.rc, tried.json["state"]) == (2, "partial"), tried.output
    assert list(promotion.read(evidence(site))["versions"]) == [V1]
    plan = site("migrate.yml", "--tags", "plan", limit="production")
    refused(plan, f"{V2}_beds was not applied and verified in staging by a run that ended well")
    # A whole verification that ends well counts, whoever made the version.
    assert site("verify.yml", limit="staging").rc == 0
    assert site("migrate.yml", "--tags", "plan", limit="production").rc == 0


@pytest.mark.slow
def test_a_run_that_is_killed_after_its_verification_leaves_no_evidence(site: Playbook) -> None:
    begun = site.folder / "smoke test"
    site.hosts["staging"]["staging-1"]["hooks_smoke_test"] = [{"argv": ["sh", "-c", f"touch '{begun}'; sleep 60"]}]
    process = site.start("migrate.yml", limit="staging")
    try:
        wait_for(begun.exists, seconds=280, what="the smoke test")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    staging = f"{site.database}_staging"
    assert site.server.execute("SELECT state FROM pgops.migration", database=staging) == [("applied",)]
    assert not evidence(site).exists()


@pytest.mark.slow
def test_what_goes_down_and_up_again_counts_when_that_run_has_ended_well(site: Playbook) -> None:
    assert site("migrate.yml", limit="staging").rc == 0
    promised = json.loads(evidence(site).read_text())
    staging = f"{site.database}_staging"
    down = site("rollback.yml", limit="staging", rollback_through=V1, rollback_confirm=staging)
    assert down.rc == 0, down.output
    assert promotion.read(evidence(site))["versions"] == {}
    # As if the way down had not been verified.
    evidence(site).write_text(json.dumps(promised))
    site.hosts["staging"]["staging-1"]["hooks_smoke_test"] = [{"argv": ["false"]}]
    assert site("migrate.yml", limit="staging").rc == 2
    assert promotion.read(evidence(site))["versions"] == {}


@pytest.mark.slow
def test_the_file_of_another_environment_takes_nothing_in(site: Playbook) -> None:
    shared = site.folder / "shared.json"
    site.server.create_database(f"{site.database}_local")
    site.hosts["local"] = {"local-1": {"pgops_database": f"{site.database}_local"}}
    assert site("migrate.yml", limit="local", verify_evidence=str(shared)).rc == 0
    before = shared.read_bytes()
    for playbook, phase in (("migrate.yml", "plan"), ("verify.yml", "verify")):
        other = site(playbook, limit="staging", verify_evidence=str(shared))
        assert (other.rc, other.json["error"]["phase"]) == (2, phase), other.output
        assert f"{shared} is the evidence of local, and what staging has verified" in other.json["error"]["message"]
    assert shared.read_bytes() == before
    staging = f"{site.database}_staging"
    assert site.server.execute("SELECT to_regnamespace('pgops') IS NULL", database=staging) == [(True,)]


@pytest.mark.parametrize("write", [
    lambda path: promotion.record(path, "staging", "s1", "a", "run", {}),
    lambda path: promotion.withdraw(path, "staging", "s1", "a", None),
    lambda path: promotion.refuse_another(path, "staging"),
])  # fmt: skip
def test_evidence_of_two_environments_is_never_in_one_file(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "evidence.json"
    promotion.record(path, "local", "l1", "a", "run", {V1: {"checksum": "a"}})
    before = path.read_bytes()
    with pytest.raises(PgopsError, match="is the evidence of local, and what staging has verified is not put into it"):
        write(path)
    assert path.read_bytes() == before


def test_what_a_run_has_verified_is_left_in_the_file_that_it_was_given(tmp_path: Path) -> None:
    def verified(host: str, version: str, file: str | None) -> list[dict[str, Any]]:
        result = {"a": {"passed": True, "ledger": {version: {"checksum": "a"}}}}
        begun = {"event": "phase_started", "phase": "verify", "host": host, **({"evidence": file} if file else {})}
        return [begun, {"event": "phase_finished", "phase": "verify", "host": host, "result": result}]

    named = tmp_path / "named.json"
    other = {"event": "phase_finished", "phase": "apply", "host": "s3", "result": {"a": {"applied": []}}}
    events = [*verified("s1", V1, None), *verified("s2", V2, str(named)), other]
    usual = promotion.path_of(tmp_path, "staging")
    assert promotion.leave(tmp_path, "staging", "run", events) == [usual, named]
    assert [list(promotion.read(path)["versions"]) for path in (usual, named)] == [[V1], [V2]]


def test_what_holds_no_longer_is_taken_out_and_nothing_is_put_in(tmp_path: Path) -> None:
    path = tmp_path / "staging.json"
    promotion.withdraw(path, "staging", "s1", "a", {V1: {"checksum": "a"}})
    assert not path.exists()
    promotion.record(path, "staging", "s1", "a", "run", {V1: {"checksum": "a"}})
    promotion.record(path, "staging", "s1", "b", "run", {V2: {"checksum": "b"}})
    promotion.withdraw(path, "staging", "s1", "a", {V1: {"checksum": "other"}, "3": {"checksum": "c"}})
    assert list(promotion.read(path)["versions"]) == [V2]
    promotion.withdraw(path, "staging", "s1", "b", {V2: {"checksum": "b"}})
    assert list(promotion.read(path)["versions"]) == [V2]


def test_each_database_answers_for_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "evidence" / "staging.json"
    row = {"checksum": "a", "applied_at": None, "duration_s": 1.0}
    promotion.record(path, "staging", "s1", "a", "run", {V1: row, V2: row})
    promotion.record(path, "staging", "s1", "b", "run", {V2: {**row, "checksum": "b"}})
    assert {version: entry["database"] for version, entry in promotion.read(path)["versions"].items()} == {
        V1: "a",
        V2: "b",
    }
    promotion.withdraw(path, "staging", "s1", "a", None)
    assert list(promotion.read(path)["versions"]) == [V2]


def test_what_lacks_evidence_is_told_by_version() -> None:
    def item(version: str, checksum: str) -> dict[str, Any]:
        return {"version": version, "name": "x", "checksum": checksum}

    known = {"versions": {V1: {"checksum": "a", "verified_at": "2026-01-02T00:00:00Z"}}}
    assert promotion.lacking([item(V1, "a")], known, "staging", []) == []
    assert [lack.why for lack in promotion.lacking([item(V1, "b"), item(V2, "a")], known, "staging", [])] == [
        "was verified in staging on 2026-01-02 with other files than these",
        "was not applied and verified in staging by a run that ended well",
    ]
    assert promotion.lacking([item(V1, "a")], None, "staging", [V1]) == []


def test_the_environment_before_is_the_last_that_holds_no_production_data() -> None:
    assert promotion.previous("production", ORDER, PRODUCTION) == "staging"
    assert promotion.previous("staging", ORDER, PRODUCTION) is None
    assert promotion.previous("eu", ["local", "test", "us", "eu"], ["us", "eu"]) == "test"
    assert promotion.previous("production", ["production"], PRODUCTION) is None


@pytest.mark.parametrize("text", ["no json", "[]", '{"format": 2, "versions": {}}'])
def test_a_file_that_is_no_evidence_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(PgopsError, match="is no"):
        promotion.read(path)
