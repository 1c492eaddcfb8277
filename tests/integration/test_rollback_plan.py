# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rollback of production has a plan, a window or an emergency, is announced, and says what is done where it fails."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.extra_variables import extra_variables_argument
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from support.backups import RUN
from support.server import Server
from support.site import Playbook, Result
from support.tree import TestTree
from support.webhook import Webhook

V1, V2 = "20260101000001", "20260101000002"
ALL = ["preflight", "plan", "backup", "prove", "apply", "analyze", "verify", "report"]
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Webhook() as made:
        yield made


@pytest.fixture
def site(playbook: Playbook, webhook: Webhook) -> Playbook:
    shutil.rmtree(playbook.copy_sql() / "migrations")
    tree = TestTree(playbook.folder / "sql")
    tree.add_sql(V1, "rooms", "CREATE TABLE rooms (id int PRIMARY KEY);\n", "DROP TABLE rooms;\n")
    tree.add_sql(V2, "beds", "CREATE TABLE beds (id int PRIMARY KEY);\n", "DROP TABLE beds;\n")
    ranks = [{"rank": "2", "told": "a table", "versions": [V2]}]
    (playbook.folder / "sql" / "rollback_rank.yml").write_text(yaml.safe_dump(ranks))
    file = playbook.folder / "webhook"
    file.touch(0o600)
    file.write_text(webhook.url)
    playbook.variables |= {"pgops_webhook_file": str(file), "backup_scratch_reason": "a test has one server"}
    playbook.variables["pgops_phases"] = ["plan", "apply", "report"]
    return playbook


def shut() -> list[dict[str, str]]:
    """A window that opens in three hours, and on no other day."""
    return [{"opens": f"{datetime.now(UTC) + timedelta(hours=3):%Y-%m-%d %H:%M} UTC", "lasts": "2h"}]


def apply(site: Playbook, target: Any) -> None:
    """Both versions, by the engine: it takes less than a playbook."""
    tree = TestTree(site.folder / "sql")
    migrate.apply(target, tree.render(), Selection(), migrate.Way(ledger.Run(RUN, "migrate", "local", "tester", "ops")))


def applied(site: Playbook, server: Server) -> list[str]:
    rows = server.execute(
        "SELECT version FROM pgops.migration WHERE state = 'applied' ORDER BY 1", database=site.database
    )
    return [version for (version,) in rows]


def refused(result: Result, why: str, command: str) -> None:
    assert result.rc == 2, result.output
    assert why in result.json["error"]["message"]
    assert result.json["error"]["next"] == [command]
    assert result.json["run_id"] is None, "nothing was reached"


def test_production_is_refused_without_a_target_and_outside_its_windows(site: Playbook) -> None:
    site.variables["pgops_phases"] = ALL
    refused(
        site("rollback.yml", limit="production"),
        "A rollback of production says where it goes, and no version is named",
        "ansible-playbook rollback.yml -l production -e rollback_strategy=auto",
    )
    refused(
        site("rollback.yml", "--skip-tags", "verify", limit="production", rollback_through=V2),
        "leaves out verify",
        f"ansible-playbook rollback.yml -l production -e rollback_through={V2}",
    )
    site.variables["migrate_windows"] = shut()
    refused(
        site("rollback.yml", limit="production", rollback_through=V2),
        "begins in a window, and this is outside of each window",
        f"ansible-playbook rollback.yml -l production -e rollback_through={V2} -e rollback_emergency=true",
    )


def test_what_is_production_and_its_windows_are_not_typed_away(site: Playbook) -> None:
    site.variables |= {"pgops_phases": ALL, "migrate_windows": shut()}
    command = f"ansible-playbook rollback.yml -l production -e rollback_through={V2}"
    refused(
        site("rollback.yml", limit="production", rollback_through=V2, migrate_windows=[]),
        "migrate_windows is typed with -e, and which environment is production, and its windows, stand in the inventory alone; outside of "
        "them an emergency is declared with -e rollback_emergency=true; without it",
        command,
    )
    refused(
        site("rollback.yml", limit="production", rollback_through=V2, pgops_production_environments=["nowhere"]),
        "pgops_production_environments is typed with -e",
        command,
    )
    refused(
        site("backup.yml", limit="production", pgops_production_environments=["nowhere"]),
        "pgops_production_environments is typed with -e",
        "ansible-playbook backup.yml -l production",
    )
    # Who declares an emergency waits for no window, so typing one is no way round it.
    refused(
        site("rollback.yml", limit="production", migrate_windows=[], rollback_emergency="true"),
        "A rollback of production says where it goes",
        "ansible-playbook rollback.yml -l production -e rollback_emergency=true -e rollback_strategy=auto",
    )


def test_check_mode_shows_rank_rehearsal_and_window(site: Playbook, target: Any, webhook: Webhook) -> None:
    apply(site, target)
    site.variables |= {"pgops_phases": ALL, "migrate_windows": shut()}
    looked = site("rollback.yml", "--check", limit="production", rollback_through=V2)
    assert looked.rc == 0, looked.output
    assert "rollback of production outside of each window at" in looked.stdout
    assert re.search(rf"{V2} +beds +2, a table +complete", looked.stdout)
    assert f"NOT REHEARSED: no rollback by {V2} in staging is known on this ops host" in looked.stdout
    assert f"ansible-playbook rollback.yml -l staging -e rollback_through={V2}" in looked.stdout
    assert not webhook.texts, "check mode announces nothing"


@pytest.mark.slow
def test_an_emergency_goes_back_outside_a_window_is_recorded_and_announced(
    site: Playbook, server: Server, target: Any, webhook: Webhook
) -> None:
    apply(site, target)
    site.variables |= {"pgops_phases": ALL, "migrate_windows": shut()}
    given = {"rollback_through": V2, "rollback_emergency": "true", "rollback_confirm": site.database}
    done = site("rollback.yml", limit="production", **given)
    assert done.rc == 0, done.output
    assert applied(site, server) == [V1]
    assert done.json["emergency"] == "declared"
    assert done.json["window"].startswith("outside of each window at ")
    begun, ended = webhook.texts
    assert re.match(rf"pgops: EMERGENCY rollback in production begins at {STAMP}\ndatabase: {site.database}\n", begun)
    assert re.match(rf"pgops: rollback in production complete after \d+ s, at {STAMP}\n", ended)
    assert f"{site.database} on production-1: the rollback (down) begins at 20" in done.stdout
    record = json.loads(Path(done.json["incident"]).with_suffix(".json").read_text())
    assert record["emergency"] == "declared" and record["window"].startswith("outside of each window")
    assert any(row["what"] == "the start was announced" for row in record["timeline"])
    assert "- emergency: declared" in Path(done.json["incident"]).read_text()


@pytest.mark.slow
def test_a_rollback_that_fails_says_what_is_done_now(site: Playbook, server: Server) -> None:
    site.variables["pgops_phases"] = ["plan", "backup", "prove", "apply", "report"]
    up = site("migrate.yml")
    assert up.rc == 0, up.output
    backup = up.json["hosts"]["local-1"][site.database]["backup"]["path"]
    server.execute(
        "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not now''; END'; "
        "CREATE EVENT TRIGGER no ON sql_drop EXECUTE FUNCTION no()", database=site.database,
    )  # fmt: skip
    site.variables["pgops_phases"] = ["plan", "apply", "report"]
    site.variables["hooks_maintenance_on"] = site.variables["hooks_maintenance_off"] = [{"argv": ["true"]}]
    failed = site("rollback.yml", rollback_through=V2, rollback_confirm=site.database)
    assert failed.rc == 2, failed.output
    steps = failed.json["after_failure"]
    choice = {"rollback_strategy": "restore", "rollback_backup": backup}
    assert [(step["what"].partition(" by 2")[0], step["command"]) for step in steps] == [
        ("stop all traffic", "ansible-playbook hooks.yml -l local -e hooks_run=maintenance_on"),
        (
            "if data is damaged, restore the backup from before the migration",
            f"ansible-playbook rollback.yml -l local {extra_variables_argument(choice)}",
        ),
        ("count the students", "ansible-playbook inspect.yml -l local -e inspect_query=data_age"),
        ("list the sizes of the tables", "ansible-playbook inspect.yml -l local -e inspect_query=sizes"),
        ("notify incident response", ""),
        ("hold a post-mortem", ""),
    ]
    assert re.search(r"hold a post-mortem by \d{4}-", steps[-1]["what"])
    assert "the rollback failed; what is done now:" in failed.stdout
    record = Path(failed.json["incident"]).read_text()
    assert "## The rollback failed: what is done now" in record and backup in record
    server.execute("DROP EVENT TRIGGER no; DROP FUNCTION no()", database=site.database)
    # The commands do what they say.
    restored = site("rollback.yml", rollback_strategy="restore", rollback_backup=backup, rollback_confirm=site.database)
    assert restored.rc == 0, restored.output
    assert "after_failure" not in restored.json
    assert server.execute("SELECT to_regclass('rooms'), to_regclass('beds')", database=site.database) == [(None, None)]


@pytest.mark.slow
def test_what_staging_has_rehearsed_is_told(site: Playbook, target: Any) -> None:
    apply(site, target)
    rehearsed = site("rollback.yml", limit="staging", rollback_through=V2, rollback_confirm=site.database)
    assert rehearsed.rc == 0, rehearsed.output
    apply(site, target)
    site.variables["pgops_phases"] = ALL
    shown = site("rollback.yml", "--check", limit="production", rollback_through=V2)
    assert shown.rc == 0, shown.output
    assert re.search(
        rf"rehearsed: staging has gone back by {V2} at {STAMP} \(run {rehearsed.json['run_id']}\)", shown.stdout
    )


def test_a_failure_of_the_announcement_stops_no_rollback(site: Playbook, target: Any, webhook: Webhook) -> None:
    webhook.status = 500
    apply(site, target)
    done = site("rollback.yml", rollback_confirm=site.database)
    assert done.rc == 0, done.output
    assert "Nobody was told that this rollback begins: the webhook answered 500" in done.output
