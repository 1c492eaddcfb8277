# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of pgops_json: every playbook leaves one, and each fits the schema in docs/json.md."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.podman import ROOT
from support.site import Playbook, Result
from support.tree import TestTree

VERSION = "20260101000000"
SECRET_ROW = "Maria Musterkind"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    found = re.search(r"^```json\n(.*?)^```$", (ROOT / "docs" / "json.md").read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    document = json.loads(found.group(1))
    jsonschema.Draft202012Validator.check_schema(document)
    return document


@pytest.fixture
def site(playbook: Playbook) -> Playbook:
    shutil.rmtree(playbook.copy_sql() / "migrations")
    tree = TestTree(playbook.folder / "sql")
    tree.add_sql(
        VERSION, "rooms", "CREATE TABLE public.rooms (\n    name text PRIMARY KEY\n);\n", "DROP TABLE public.rooms;\n"
    )
    return playbook


def fits(schema: dict[str, Any], result: Result, playbook: str, *, ok: bool) -> dict[str, Any]:
    assert result.json is not None, result.output
    jsonschema.validate(result.json, schema, cls=jsonschema.Draft202012Validator)
    assert result.json["playbook"] == playbook
    assert result.json["ok"] is ok is (result.rc == 0), result.output
    assert SECRET_ROW not in json.dumps(result.json)
    return result.json


@pytest.mark.slow
def test_every_playbook_leaves_a_file_that_fits(site: Playbook, schema: dict[str, Any]) -> None:
    database = site.database

    def of(result: Result, playbook: str) -> dict[str, Any]:
        return fits(schema, result, playbook, ok=True)["hosts"]["local-1"][database]

    assert of(site("adopt.yml"), "adopt")["adopt"]["pending"] == [VERSION]
    assert of(site("migrate.yml", "--check"), "migrate")["plan"]["pending"]
    migrated = of(site("migrate.yml"), "migrate")
    assert migrated["apply"]["applied"][0]["version"] == VERSION
    assert Path(migrated["backup"]["path"]).is_dir()
    site.server.execute(f"INSERT INTO public.rooms VALUES ('{SECRET_ROW}')", database=database)
    assert [row["version"] for row in of(site("status.yml"), "status")["status"]["versions"]] == [VERSION]
    assert "verify" in of(site("verify.yml"), "verify")
    backup = of(site("backup.yml"), "backup")["backup"]
    assert backup["rows"] > 0
    assert "prove" in of(site("prove.yml"), "prove")
    assert "rehearse" in of(site("rehearse.yml"), "rehearse")
    assert of(site("restore_drill.yml"), "restore_drill")["drill"]["verdict"] == "passed"
    exported = of(site("export.yml", export_directory=str(site.folder / "exports")), "export")["export"]
    restored = of(site("restore.yml", restore_from=exported["path"]), "restore")["restore_database"]
    assert restored["rows"] > 0
    beside = site("restore_table.yml", restore_from=backup["path"], restore_table="rooms")
    assert of(beside, "restore_table")["restore_table"]["statements"]
    timers = site("schedule.yml", "--check", schedule_with="systemd", schedule_jobs={"backup": {}})
    assert of(timers, "schedule")["schedule"]["jobs"][0]["name"] == "backup"
    assert "stop" in of(site("stop.yml"), "stop")
    assert "kept" in of(site("rollback_cleanup.yml"), "rollback_cleanup")
    assert "items" in of(site("maintenance.yml", maintenance_rows_least=1), "maintenance")["maintenance"]
    policy = site.folder / "retention.yml.policy"
    policy.write_text("- {table: rooms, column: at, years: 7, why: a test}\n", encoding="utf-8")
    refused = site("retention.yml", "--check", retention_policy_file=str(policy))
    assert "its column at is not there" in fits(schema, refused, "retention", ok=False)["error"]["message"]
    folder = of(site("audit_export.yml", audit_export_directory=str(site.folder / "audit")), "audit_export")[
        "audit_export"
    ]["folder"]
    assert fits(schema, site("audit_verify.yml", limit=None, audit_verify_folder=folder), "audit_verify", ok=True)[
        "audit"
    ]["ok"]
    assert "revert" in of(site("rollback.yml", rollback_strategy="down", rollback_confirm=database), "rollback")


@pytest.mark.slow
def test_playbooks_that_touch_no_host_leave_one_too(playbook: Playbook, schema: dict[str, Any]) -> None:
    lint = fits(schema, playbook("lint.yml", limit=None), "lint", ok=True)
    assert (lint["environment"], lint["hosts"]) == (None, {})
    made = fits(schema, playbook("new_migration.yml", limit=None, new_migration_name="add_x"), "new_migration", ok=True)
    assert (made["environment"], made["hosts"]) == (None, {})


def test_a_refusal_of_a_playbook_that_touches_no_host_leaves_one(playbook: Playbook, schema: dict[str, Any]) -> None:
    refused = playbook("new_migration.yml", limit=None, new_migration_name="add-x")
    assert fits(schema, refused, "new_migration", ok=False)["error"]["next"] == []


def test_a_refused_run_leaves_one(site: Playbook, schema: dict[str, Any]) -> None:
    document = fits(schema, site("migrate.yml", limit="all"), "migrate", ok=False)
    assert (document["environment"], document["hosts"], document["run_id"]) == (None, {}, None)


def test_a_failed_statement_leaves_its_sqlstate_and_no_row(site: Playbook, schema: dict[str, Any]) -> None:
    TestTree(site.folder / "sql").add_sql(
        "20260101000001", "twice",
        f"INSERT INTO public.rooms VALUES ('{SECRET_ROW}');\nINSERT INTO public.rooms VALUES ('{SECRET_ROW[:5]}' || '{SECRET_ROW[5:]}');\n",
        "DELETE FROM public.rooms;\n",
    )  # fmt: skip
    result = site("migrate.yml")
    document = fits_without_statement(schema, result)
    assert document["error"]["sqlstate"] == "23505"
    assert document["error"]["phase"] == "apply"
    assert document["hosts"]["local-1"][site.database]["plan"]


def fits_without_statement(schema: dict[str, Any], result: Result) -> dict[str, Any]:
    """The statement is the migration's own text; what the server says of the row must not be there."""
    assert result.json is not None, result.output
    jsonschema.validate(result.json, schema, cls=jsonschema.Draft202012Validator)
    assert result.json["ok"] is False
    assert f"({SECRET_ROW})" not in json.dumps(result.json)
    assert f"({SECRET_ROW})" not in result.output
    return result.json


@pytest.mark.slow
def test_the_file_is_private_and_its_folder_is_made(site: Playbook, schema: dict[str, Any]) -> None:
    path = site.folder / "made" / "for it" / "result.json"
    fits(schema, site("migrate.yml", "--tags", "plan", pgops_json=str(path)), "migrate", ok=True)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_a_file_that_cannot_be_written_fails_the_run_in_one_sentence(site: Playbook) -> None:
    result = site("migrate.yml", "--tags", "plan", pgops_json="/proc/nothing/result.json")
    assert result.rc == 2
    assert "pgops_json=/proc/nothing/result.json cannot be written" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_device_or_a_link_keeps_its_place_and_the_run_does_not_begin(site: Playbook, kind: str) -> None:
    path, elsewhere = site.folder / "result.json", site.folder / "elsewhere"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        elsewhere.write_text("precious")
        path.symlink_to(elsewhere)
    result = site("migrate.yml", pgops_json=str(path))
    assert result.rc == 2
    assert (
        f"pgops_json={path} cannot be written: there is something that is no file; name a file that can"
        in result.output
    )
    assert path.is_fifo() if kind == "pipe" else (path.is_symlink() and elsewhere.read_text() == "precious")
    assert not site.state.exists(), "refused before a run began"
