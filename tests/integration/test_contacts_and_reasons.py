# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Production begins no migration while nobody could be called, goes back only for a reason, and by itself only for another one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.podman import ROOT
from support.server import Server
from support.site import CONTACTS, Playbook, Result
from support.tree import TestTree

V1 = "20260101000000"


@pytest.fixture
def site(playbook: Playbook) -> Playbook:
    shutil.rmtree(playbook.copy_sql() / "migrations")
    up = "CREATE TABLE public.rooms (id integer PRIMARY KEY);\nINSERT INTO public.rooms VALUES (1), (1);\n"
    TestTree(playbook.folder / "sql").add_sql(V1, "rooms", up, "DROP TABLE IF EXISTS public.rooms;\n")
    playbook.variables["backup_scratch_reason"] = "a test has one server"
    # A rehearsal would find what these tests let an apply find.
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


def refused(result: Result, why: str, command: str) -> None:
    """By the guard, in one sentence, with what to type; nothing was reached."""
    assert result.rc == 2, result.output
    assert why in result.json["error"]["message"]
    assert result.json["error"]["next"] == [command]
    assert result.json["run_id"] is None


def test_production_begins_no_migration_while_nobody_could_be_called(site: Playbook) -> None:
    site.variables["pgops_contacts"] = {
        **CONTACTS,
        "cto": {"name": "FILL IN", "phone": "", "email": "cto@hospital.org"},
    }
    refused(
        site("migrate.yml", limit="production"),
        "pgops_contacts does not say whom to call should this migration of production fail: cto.name, cto.phone not filled in",
        "ansible-playbook migrate.yml -l production",
    )


def test_production_begins_no_migration_while_its_copies_have_no_place(site: Playbook) -> None:
    """As shipped: its own variables require copies, and the place is an example in a comment."""
    site.variables.pop("backup_copies_required")
    result = site("migrate.yml", limit="production")
    refused(
        result,
        "backup_copies_required is on and backup_copies names no place (for production-1)",
        "ansible-playbook migrate.yml -l production",
    )
    assert not list(site.backups.rglob("*"))


def test_who_only_looks_is_told_what_production_will_ask_for_and_shown_the_sql(site: Playbook) -> None:
    site.variables.pop("pgops_contacts")
    site.variables |= {"backup_copies_required": True, "audit_justification_required": True}
    looked = site("migrate.yml", "--check", "--diff", limit="production")
    assert looked.rc == 0, looked.output
    for lack in ("pgops_contacts does not say", "audit_justification is not set", "backup_copies names no place"):
        assert f"will be missing: {lack}" in looked.stdout.replace(
            "A migration of production is audited with its justification, and ", ""
        ).replace("backup_copies_required is on and ", "")
    assert "CREATE TABLE public.rooms" in looked.stdout


@pytest.mark.slow
def test_what_only_production_asks_for_is_not_asked_elsewhere(site: Playbook) -> None:
    for name in ("pgops_contacts", "rollback_reason"):
        site.variables.pop(name)
    site.variables["pgops_phases"] = ["plan", "report"]
    assert site("migrate.yml", "--check").rc == 0
    assert "rollback_reason" not in site("rollback.yml", "--check").output
    assert "pgops_contacts" not in site("status.yml", limit="production").output


def test_the_example_of_production_is_refused_until_it_is_filled_in(site: Playbook) -> None:
    folder = ROOT / "inventories" / "group_vars" / "production"
    given: dict[str, Any] = {}
    for file in folder.glob("*.yml"):
        given.update(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    example = given["pgops_contacts"]
    assert {role: sorted(person) for role, person in example.items()} == {
        role: sorted(CONTACTS[role]) for role in CONTACTS
    }
    site.variables.pop("pgops_contacts")
    result = site("migrate.yml", limit="production")
    assert result.rc == 2
    assert "database_admin.name, database_admin.phone, database_admin.email and 9 more not filled in" in result.output


def test_production_goes_back_by_itself_only_for_a_reason(site: Playbook) -> None:
    refused(
        site("migrate.yml", limit="production", migrate_auto_rollback=True),
        "production goes back without anybody being asked only where somebody has said why; set migrate_auto_rollback_reason",
        "ansible-playbook migrate.yml -l production",
    )


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"rollback_strategy": "restore"}, "rollback_strategy says how rollback.yml goes back"),
        ({"rollback_lose_writes": True}, "rollback_lose_writes says how rollback.yml goes back"),
    ],
)
@pytest.mark.slow
def test_what_says_how_to_go_back_is_not_for_a_migration_that_does_so_by_itself(
    site: Playbook, more: dict[str, Any], why: str
) -> None:
    result = site("migrate.yml", migrate_auto_rollback=True, **more)
    assert result.rc == 2
    assert why in result.output


def test_a_rollback_of_production_says_why(site: Playbook) -> None:
    site.variables.pop("rollback_reason")
    refused(
        site("rollback.yml", limit="production"),
        "A rollback of production is recorded with its reason, and rollback_reason is not set; say why",
        "ansible-playbook rollback.yml -l production -e rollback_reason=WHY",
    )


def test_a_failed_migration_of_production_says_whom_to_call_and_leaves_a_record(site: Playbook, server: Server) -> None:
    evidence = [{"check": name, "version": V1, "reason": "a test"} for name in ("evidence", "window")]
    result = site("migrate.yml", limit="production", migrate_waive=evidence)
    assert result.rc == 2, result.output
    for person in CONTACTS.values():
        assert f"{person['name']}, {person['phone']}, {person['email']}" in result.stdout
    assert result.json["contacts"] == CONTACTS
    page = Path(result.json["incident"])
    assert f"incident record: {page}" in result.stdout
    record = json.loads(page.with_suffix(".json").read_text())
    assert (record["production"], record["severity"]["level"], record["contacts"]) == (True, "P1", CONTACTS)
    assert "## Call" in page.read_text()
    assert server.execute("SELECT to_regclass('public.rooms')", database=site.database) == [(None,)]


def test_a_migration_of_production_says_why(site: Playbook) -> None:
    site.variables["audit_justification_required"] = True
    refused(
        site("migrate.yml", limit="production"),
        "A migration of production is audited with its justification, and audit_justification is not set; say why",
        "ansible-playbook migrate.yml -l production -e audit_justification=WHY",
    )
