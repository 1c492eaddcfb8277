# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""preflight.yml as it is typed, and the look that migrate.yml takes just before it changes something."""

from __future__ import annotations

import json
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal
from support import health
from support.server import Server
from support.site import Playbook
from support.tree import TestTree


def test_it_ends_with_what_it_has_seen_on_screen_in_the_file_and_on_the_page(
    server: Server, playbook: Playbook
) -> None:
    server.execute("CREATE TABLE public.loose (id int)", database=playbook.database)
    heartbeats = playbook.state / "journal" / "local" / "timers"
    heartbeats.mkdir(parents=True)
    then = (datetime.now(UTC) - timedelta(days=12)).isoformat()
    beat = {"name": "drill", "last_success": then, "expected_every_s": 604800, "result": "success"}
    (heartbeats / "drill.json").write_text(json.dumps(beat))
    never_ran = {"playbook": "backup.yml", "on_calendar": "daily", "expected_every_s": 86400, "installed_at": then}
    (playbook.state / "schedule").mkdir()
    (playbook.state / "schedule" / "local.json").write_text(json.dumps({"jobs": {"backup": never_ran}}))

    stopped = playbook("preflight.yml", pgops_json=str(playbook.folder / "out.json"))
    assert stopped.rc == 2, stopped.output
    assert "changed=0" in stopped.stdout
    found = json.loads((playbook.folder / "out.json").read_text())
    assert (found["ok"], found["playbook"]) == (False, "preflight")
    assert found["error"]["message"].startswith(
        f"Preflight stops {playbook.database} at ownership: public.loose belongs to"
    )
    checks = {check["check"]: check for check in found["hosts"]["local-1"][playbook.database]["preflight"]["checks"]}
    assert list(checks) == health.shipped().names
    # The server of the tests is not durable.
    assert {name for name, check in checks.items() if check["level"] != "ok"} == {
        "ownership", "primary_keys", "unsafe_settings", "timers",
    }  # fmt: skip
    assert checks["timers"]["evidence"] == (
        f"backup: it has never succeeded since it was installed ({then}) and is expected every 1 d; "
        "drill succeeded last 288 hours ago and should every 168 hours"
    )
    page = Path(str(found["report"])).read_text(encoding="utf-8")
    assert "table public.loose has no primary key" in page
    assert "<code>primary_keys</code>" in page

    waived = playbook(
        "preflight.yml",
        "--check",
        preflight_waive=[{"check": "ownership", "reason": "of the audit team", "until": "2099-01-31"}],
        preflight_superusers=1,
    )
    assert waived.rc == 0, waived.output
    assert "waived: of the audit team (until 2099-01-31)" in waived.stdout
    assert "2 superusers may connect, more than 1" in waived.stdout


def test_a_threshold_that_is_no_number_is_refused(playbook: Playbook) -> None:
    refused = playbook("preflight.yml", preflight_superusers="many")
    assert refused.rc != 0
    assert "preflight_superusers" in refused.output


@pytest.fixture
def site(playbook: Playbook) -> Playbook:
    shutil.rmtree(playbook.copy_sql() / "migrations")
    up, down = "CREATE TABLE public.rooms (id int PRIMARY KEY);", "DROP TABLE public.rooms;"
    TestTree(playbook.folder / "sql").add_sql("20260101000000", "create_rooms", up, down)
    playbook.variables["pgops_phases"] = ["preflight", "plan", "backup", "apply", "report"]
    return playbook


def test_what_went_wrong_since_the_first_look_stops_before_anything_is_applied(server: Server, site: Playbook) -> None:
    ended = threading.Event()

    def break_it_after_the_plan() -> None:
        """While the backup is made."""
        while not ended.wait(0.02):
            for journal in site.state.rglob("*.jsonl"):
                if any(
                    event["event"] == "phase_finished" and event["phase"] == "plan" for event in Journal.read(journal)
                ):
                    server.execute("CREATE TABLE public.loose (id int PRIMARY KEY)", database=site.database)
                    return

    thread = threading.Thread(target=break_it_after_the_plan)
    thread.start()
    try:
        stopped = site("migrate.yml")
    finally:
        ended.set()
        thread.join()
    assert stopped.rc == 2, stopped.output
    assert stopped.json["error"]["phase"] == "preflight_again"
    assert "Preflight stops" in stopped.json["error"]["message"]
    found = stopped.json["hosts"]["local-1"][site.database]
    assert {check["check"] for check in found["preflight"]["checks"] if check["level"] == "stop"} == set()
    assert {check["check"] for check in found["preflight_again"]["checks"] if check["level"] == "stop"} == {"ownership"}
    assert "apply" not in found
    ledger = server.execute(
        "SELECT to_regclass('public.rooms'), to_regclass('pgops.migration')", database=site.database
    )
    assert ledger == [(None, None)]
