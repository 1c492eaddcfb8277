# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application's hooks in the literal commands: users are sent away, and they come back whatever ends the run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from support.application import Application
from support.hooked_site import AWAY, BACK, VERSION, away, recorded, with_hooks, without_hooks
from support.podman import ROOT
from support.server import Server
from support.site import Playbook, Result
from support.tree import TestTree
from support.webhook import Webhook

# A run that is told to end does so after the statement in hand, a second at most, and users come back after it.
SLOW = "SELECT pg_sleep(1) /* pg_sleep(60) */;\n" * 60


@pytest.fixture
def application() -> Iterator[Application]:
    with Application() as made:
        yield made


@pytest.fixture
def site(playbook: Playbook, application: Application) -> Playbook:
    return with_hooks(playbook, application)


def report_of(result: Result, kind: str) -> str:
    assert result.json is not None
    return Path(result.json["report"]).with_suffix(f".{kind}").read_text(encoding="utf-8")


def steps(output: str) -> list[str]:
    """The numbered steps of the screen, each once."""
    found = [word for line in output.splitlines() for word in [line.partition(": ")[2].partition(":")[0]]]
    return list(dict.fromkeys(word for word in found if word.startswith("(")))


@pytest.mark.slow
def test_a_migration_and_a_rollback_send_users_away_and_bring_them_back(
    site: Playbook, application: Application
) -> None:
    up = site("migrate.yml")
    assert up.rc == 0, up.output
    looks = [
        "GET /metrics",
        *AWAY,
        "POST /start",
        "POST /maintenance/off",
        "GET /health",
        "POST /smoke",
        "POST /undrain",
    ]
    assert application.asked == [*looks, "GET /metrics"]
    assert set(recorded(up).values()) == {"yes", "not applicable"}
    assert [kind for kind, done in recorded(up).items() if done != "yes"] == ["alert"]
    assert up.json["state"] == "complete"
    (after,) = [hook for hook in up.json["hooks"] if hook["kind"] == "metrics" and hook["stage"] == "after"]
    assert after["metrics"] == {"error_rate": 0.0, "p50_ms": 3.0, "p95_ms": 9.0, "p99_ms": 20.0, "throughput": 80.0}
    assert "health (web) on localhost: yes" in up.stdout
    assert "hooks: divert traffic yes, maintenance mode on yes, stop yes, start yes" in up.stdout
    assert "<td>health (web)</td>" in report_of(up, "html")
    assert json.loads(report_of(up, "json"))["hooks"] == up.json["hooks"]
    assert "Ada" not in up.output + report_of(up, "json") + report_of(up, "html")
    assert away(site) == []
    application.asked.clear()
    down = site("rollback.yml", rollback_confirm=site.database)
    assert down.rc == 0, down.output
    assert application.asked == [*looks, "GET /metrics"]
    assert steps(down.stdout) == [
        "(1/6) divert traffic", "(2/6) status", "(4/6) revert", "(5/6) status", "(6/6) restore traffic",
    ]  # fmt: skip


def test_nobody_is_sent_away_for_a_rollback_that_has_nothing_to_revert(
    site: Playbook, application: Application, server: Server
) -> None:
    done = site("rollback.yml")
    assert done.rc == 0, done.output
    assert application.asked == []
    assert f"{site.database}: no version is applied, so there is nothing to revert" in done.stdout
    assert "(1/6)" not in "".join(steps(done.stdout))


def test_a_hook_that_fails_stops_the_run_and_users_come_back(
    site: Playbook, application: Application, server: Server
) -> None:
    application.answers = {"/stop": 500}
    result = site("migrate.yml")
    assert result.rc == 2
    assert application.asked == ["GET /metrics", *AWAY, *BACK]
    assert result.json["state"] == "failed"
    assert (
        f"The hook stop on localhost failed: {application.url}/stop answered 500, expected 2xx"
        in result.json["error"]["message"]
    )
    assert "this run has applied no version" in result.json["error"]["message"]
    assert {kind for kind, done in recorded(result).items() if done == "no"} == {"stop", "health", "smoke_test"}
    assert server.execute("SELECT to_regclass('public.rooms')", database=site.database) == [(None,)]
    assert away(site) == []


@pytest.mark.slow
def test_a_hook_that_fails_after_the_apply_leaves_the_run_partial_and_tells_the_way_back(
    site: Playbook, application: Application
) -> None:
    application.answers = {"/smoke": 503}
    result = site("migrate.yml")
    assert result.rc == 2
    assert result.json["state"] == "partial"
    assert f"{VERSION} applied by this run stand" in result.json["error"]["message"]
    assert result.json["error"]["next"][1].endswith(f"rollback_through={VERSION}")
    assert application.asked[-2:] == ["POST /smoke", "POST /undrain"]
    assert away(site) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "whole_group"),
    [
        pytest.param(signal.SIGINT, True, id="ctrl-c"),
        pytest.param(signal.SIGTERM, False, id="sigterm", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, False, id="sighup", marks=pytest.mark.slow),
    ],
)
def test_users_come_back_after_an_interrupt(
    site: Playbook, application: Application, number: int, whole_group: bool
) -> None:
    TestTree(site.folder / "sql").add_sql("20260101000001", "slow", SLOW, "SELECT 1;\n")
    result = site.folder / "result.json"
    process = site.start("migrate.yml", pgops_lease=5, pgops_json=str(result))
    output = site.interrupt(process, number, whole_group=whole_group)
    assert process.returncode != 0
    assert application.asked == ["GET /metrics", *AWAY, *BACK], output
    assert "It is back." in output
    assert away(site) == []
    document = json.loads(result.read_text())
    assert (document["playbook"], document["ok"], document["state"]) == ("migrate", False, "partial")
    assert {hook["kind"]: hook["done"] for hook in document["hooks"]}["restore_traffic"] == "yes"


def killed(site: Playbook, application: Application) -> str:
    """A run that was killed with all that it started, while it applied. Returns what it said."""
    TestTree(site.folder / "sql").add_sql("20260101000001", "slow", SLOW, "SELECT 1;\n")
    process = site.start("migrate.yml", pgops_lease=2)
    output = site.interrupt(process, signal.SIGKILL, whole_group=True)
    assert application.asked == ["GET /metrics", *AWAY]
    assert away(site) == ["divert_traffic", "maintenance_on", "stop"]
    application.asked.clear()
    return output


@pytest.mark.slow
def test_what_a_killed_run_took_away_comes_back_by_the_command_that_it_printed(
    site: Playbook, application: Application
) -> None:
    output = killed(site, application)
    told = "should this run be killed, bring it back: ansible-playbook stop.yml -l local"
    assert told in output
    assert site("stop.yml", "--check").rc == 0
    assert application.asked == []
    stopped = site("stop.yml")
    assert stopped.rc == 0, stopped.output
    assert application.asked == BACK
    assert away(site) == []
    assert site("stop.yml").rc == 0
    assert application.asked == BACK, "it is brought back once"


@pytest.mark.slow
def test_what_a_killed_run_took_away_comes_back_at_the_end_of_the_next_one(
    site: Playbook, application: Application
) -> None:
    killed(site, application)
    # Nothing that this one does sends users away: it fails in its plan.
    site("migrate.yml", migrate_target="1")
    assert application.asked == BACK
    assert away(site) == []


@pytest.mark.slow
def test_what_is_not_brought_back_is_said_and_stays_noted(site: Playbook, application: Application) -> None:
    application.answers = {"/undrain": 500}
    result = site("migrate.yml")
    assert result.rc == 2
    assert application.asked.count("POST /undrain") == 2, "the end of the run has tried again"
    assert away(site) == ["divert_traffic"]
    assert "it is NOT brought back. Mend it and type: ansible-playbook hooks.yml -l local" in result.output
    error = result.json["error"]
    assert error["next"][0] == "ansible-playbook hooks.yml -l local"
    assert error["message"].endswith(
        "NOT brought back: divert traffic for local-1. Mend it and type: ansible-playbook hooks.yml -l local"
    )
    assert "comes back at its end" not in error["message"], "it has not"
    told = [line.strip() for line in result.stdout.splitlines() if line.startswith("    next: ")]
    assert told == [f"next: {command}" for command in error["next"]]
    site.variables.pop("hooks_divert_traffic")
    undrain = site.variables.pop("hooks_restore_traffic")
    lost = site("hooks.yml")
    assert lost.rc == 2
    assert "hooks_restore_traffic is declared no more" in lost.output
    site.variables["hooks_restore_traffic"] = undrain
    application.answers = {}
    assert site("hooks.yml").rc == 0
    assert away(site) == []


@pytest.mark.slow
def test_users_come_back_where_the_database_host_is_lost(site: Playbook, application: Application) -> None:
    """Ansible runs no task any more for a host that cannot be reached, and no `always`."""
    lost = site.folder / "lost"
    site.hosts["local"]["local-1"] = {
        "ansible_connection": f"{{{{ 'ssh' if '{lost}' is exists else 'local' }}}}",
        "ansible_host": "127.0.0.1",
        "ansible_port": 9,
    }
    site.variables["hooks_stop"] = [{"argv": ["touch", str(lost)]}]
    result = site("migrate.yml")
    assert result.rc == 4, result.output
    assert application.asked == ["GET /metrics", *AWAY[:2], *BACK]
    assert away(site) == []
    assert recorded(result)["restore_traffic"] == "yes"


def test_a_hook_that_cannot_be_meant_ends_the_run_before_it_begins(site: Playbook, application: Application) -> None:
    site.variables.pop("hooks_start")
    result = site("migrate.yml")
    assert result.rc == 2
    assert "hooks_stop is set and hooks_start is not, so nothing would bring it back" in result.output
    assert application.asked == []


@pytest.mark.slow
def test_in_check_mode_hooks_are_shown_and_not_run(site: Playbook, application: Application) -> None:
    site.variables["hooks_stop"] = [{"argv": ["systemctl", "stop", "white cross"], "delegate_to": "app-1"}]
    result = site("migrate.yml", "--check")
    assert result.rc == 0, result.output
    assert application.asked == []
    assert "stop on app-1: would be run, systemctl stop 'white cross'" in result.stdout
    assert f"restore traffic on localhost: would be run, POST {application.url}/undrain" in result.stdout
    assert not (site.state / "hooks").exists()


@pytest.mark.slow
def test_a_secret_is_shown_nowhere(site: Playbook, application: Application) -> None:
    token = site.folder / "token"
    token.touch(0o600)
    token.write_text("hunter2-file")
    vault = site.folder / "vault-password"
    vault.touch(0o600)
    vault.write_text("x")
    made = subprocess.run(
        ["ansible-vault", "encrypt_string", "--vault-password-file", str(vault), "--stdin-name", "lb_token"],
        input="hunter2-vault", capture_output=True, text=True, check=True, env=site.environment(), cwd=site.folder,
    )  # fmt: skip
    (site.folder / "inventories" / "group_vars" / "local" / "vault.yml").write_text(made.stdout)
    site.variables["hooks_divert_traffic"] = [
        {
            "url": f"{application.url}/drain", "method": "POST", "headers": {"X-Vault": "{{ lb_token }}"},
            "header_files": {"X-File": str(token)},
        },
        {"argv": ["sh", "-c", 'echo "$TOKEN" >&2; exit 1'], "environment": {"TOKEN": "{{ lb_token }}"}},
    ]  # fmt: skip
    result = site("migrate.yml", "-vvvv", "--vault-password-file", str(vault))
    assert result.rc == 2
    headers = application.headers[application.asked.index("POST /drain")]
    assert (headers["X-Vault"], headers["X-File"]) == ("hunter2-vault", "hunter2-file")
    assert "sh ended with exit code 1 and said: ***" in result.json["error"]["message"]
    files = [path for path in site.state.rglob("*") if path.is_file()] + list(site.folder.glob("result-*.json"))
    for text in [result.output, *(path.read_text() for path in files)]:
        assert "hunter2" not in text


def test_one_command_ends_the_migration_switches_maintenance_on_alerts_and_goes_back(
    site: Playbook, application: Application, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("divert_traffic", "restore_traffic", "stop", "start", "metrics", "smoke_test", "health"):
        site.variables.pop(f"hooks_{name}")
    site.variables["hooks_alert"] = [{"url": f"{application.url}/alert", "method": "POST"}]
    TestTree(site.folder / "sql").add_sql("20260101000001", "slow", SLOW, "SELECT 1;\n")
    with Webhook() as webhook:
        process = site.start("migrate.yml")
        try:
            site.wait_for_its_sleep(process)
            application.asked.clear()
            result = site(
                "rollback.yml", rollback_emergency=True, rollback_confirm=site.database, rollback_through=VERSION,
                pgops_webhook=webhook.url,
            )  # fmt: skip
            process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        assert result.rc == 0, result.output
        assert webhook.texts[0].startswith("pgops: EMERGENCY rollback in local begins at 20")
        assert webhook.texts[1].startswith("pgops: rollback in local complete")
    # The migration's own end has switched it off, the rollback on again, and off at its end.
    assert application.asked == [
        "POST /maintenance/off", "POST /maintenance/on", "POST /alert", "POST /maintenance/off",
    ]  # fmt: skip
    assert server.execute("SELECT to_regclass('public.rooms')", database=site.database) == [(None,)]
    assert Webhook.SECRET not in result.output
    # Without the name of the database nobody is alerted.
    application.asked.clear()
    assert site("rollback.yml", rollback_emergency=True).rc == 2
    assert application.asked == []


@pytest.mark.slow
def test_a_watch_looks_again_and_a_failing_probe_makes_the_run_partial(
    site: Playbook, application: Application
) -> None:
    site.variables["hooks_watch_interval"] = 1
    application.answers = {"/health": [200, 200, 503]}
    site.variables["hooks_health"] = [{"url": f"{application.url}/health"}]
    result = site("migrate.yml", migrate_watch=0.05)
    assert result.rc == 2
    assert application.asked.count("GET /health") == 3
    assert application.asked.index("POST /undrain") < len(application.asked) - 3
    assert result.json["state"] == "partial"
    assert "/health answered 503" in result.json["error"]["message"]


def rolling_back(site: Playbook, over: threading.Event) -> None:
    """A client whose transactions fail from the apply on; the server counts those that have touched a table."""
    with closing(site.server.connect(site.database)) as conn, conn.cursor() as cursor:
        while not over.wait(0.02):
            cursor.execute("SELECT to_regclass('public.rooms')")
            if cursor.fetchone() != (None,):
                with suppress(psycopg2.Error):
                    cursor.execute("SELECT 1 / (relpages - relpages) FROM pg_class")


@pytest.mark.slow
def test_a_watch_for_which_nothing_is_declared_says_so_and_watches_the_databases(
    site: Playbook, application: Application
) -> None:
    for kind in ("health", "metrics"):
        site.variables.pop(f"hooks_{kind}")
    site.variables["hooks_watch_interval"] = 2
    over = threading.Event()
    client = threading.Thread(target=rolling_back, args=(site, over))
    client.start()
    try:
        result = site("migrate.yml", migrate_watch=0.2)
    finally:
        over.set()
        client.join()
    assert result.rc == 2, result.output
    assert "migrate_watch=0.2 and neither hooks_health nor hooks_metrics is declared for local-1" in unwrapped(result)
    assert application.asked[-1] == "POST /undrain", "the users are back when the watch begins"
    assert result.json["state"] == "partial"
    assert re.search(
        rf"The hook health \(databases\) on local-1 failed: {site.database}: \d+ of \d+ transactions rolled back within \d+ s",
        result.json["error"]["message"],
    )
    assert f"rollback_through={VERSION}" in result.json["error"]["next"][1]


@pytest.mark.slow
def test_a_watch_needs_no_hook_at_all(site: Playbook) -> None:
    result = without_hooks(site)("migrate.yml", migrate_watch=0.1, hooks_watch_interval=3)
    assert result.rc == 0, result.output
    assert "only the databases are watched" in unwrapped(result)
    looks = re.findall(r"local-1: health \(databases\) on local-1: yes .*", result.stdout)
    assert len(looks) == 4, "one before the apply, one when the watch begins, two in it"
    assert re.search(
        rf"{site.database} well: \d+ transactions since the last look(, 0\.0 % rolled back)?; standbys", looks[-1]
    )
    assert (result.json["state"], recorded(result)["health"]) == ("complete", "yes")
    application_hooks = [hook for hook in result.json["hooks"] if hook["done"] != "not applicable"]
    assert {hook["label"] for hook in application_hooks} == {"health (databases)"}


def unwrapped(result: Result) -> str:
    """Ansible wraps a warning at the width of the terminal."""
    return " ".join(result.output.split())


@pytest.mark.slow
def test_a_hook_runs_once_for_all_hosts_unless_it_is_for_each(
    site: Playbook, application: Application, server: Server, database: str
) -> None:
    other = f"{database}_2"
    server.create_database(other, "white_cross_owner")
    site.hosts["local"]["local-2"] = {"pgops_database": other}
    for kind in ("divert_traffic", "restore_traffic"):
        (hook,) = site.variables[f"hooks_{kind}"]
        own = {**hook, "url": hook["url"] + "/{{ inventory_hostname }}", "each_host": True}
        site.variables[f"hooks_{kind}"] = [hook, own]
    result = site("migrate.yml")
    assert result.rc == 0, result.output
    for path in ("/drain", "/drain/local-1", "/drain/local-2", "/stop", "/start", "/undrain", "/undrain/local-2"):
        assert application.asked.count(f"POST {path}") == 1, path
    assert away(site) == []


@pytest.mark.slow
def test_of_two_hosts_the_one_that_is_not_brought_back_is_named(
    site: Playbook, application: Application, server: Server, database: str
) -> None:
    other = f"{database}_2"
    server.create_database(other, "white_cross_owner")
    site.hosts["local"]["local-2"] = {"pgops_database": other}
    for kind in ("stop", "start"):
        (hook,) = site.variables[f"hooks_{kind}"]
        own = {**hook, "url": hook["url"] + "/{{ inventory_hostname }}", "each_host": True}
        site.variables[f"hooks_{kind}"] = [own]
    application.answers = {"/start/local-2": 500}
    result = site("migrate.yml")
    assert result.rc == 2
    assert f"{VERSION} applied by this run stand on local-2" in result.json["error"]["message"]
    assert "NOT brought back: stop for local-2. Mend it" in result.json["error"]["message"]
    assert result.json["error"]["next"][0] == "ansible-playbook hooks.yml -l local"
    assert away(site) == ["stop"]
    application.answers = {}
    application.asked.clear()
    assert site("hooks.yml").rc == 0
    assert (application.asked, away(site)) == (["POST /start/local-2"], [])


@pytest.mark.slow
def test_a_single_hook_can_be_run_by_hand(site: Playbook, application: Application) -> None:
    assert site("hooks.yml", hooks_run="maintenance_on").rc == 0
    assert site("hooks.yml").rc == 0
    assert application.asked == ["POST /maintenance/on"], "it stays on until it is switched off by hand"
    assert site("hooks.yml", hooks_run="maintenance_off").rc == 0
    assert application.asked[1:] == ["POST /maintenance/off"]
    refused: Any = site("hooks.yml", hooks_run="maintenance_of")
    assert refused.rc == 2
    assert "hooks_run=maintenance_off" in refused.output


@pytest.mark.slow
def test_without_hooks_a_run_has_no_more_tasks_and_says_so(site: Playbook) -> None:
    result = without_hooks(site)("migrate.yml")
    assert result.rc == 0, result.output
    assert "hooks: not applicable" in result.stdout
    assert set(recorded(result).values()) == {"not applicable"}
    # Each that is not skipped costs a process.
    assert re.search(r"\bok=(\d+)", result.stdout)[1] == "11", result.stdout


@pytest.mark.slow
def test_the_example_of_the_page_switches_the_platforms_setting(
    site: Playbook, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_hooks(site)
    shutil.copy(ROOT / "docs" / "examples" / "hooks.yml", site.folder / "inventories" / "group_vars" / "local")
    monkeypatch.setenv("PATH", f"{server.bindir}{os.pathsep}{os.environ['PATH']}")
    server.execute(
        "CREATE TABLE users (); CREATE TABLE system_configurations (key text, value text);"
        "INSERT INTO system_configurations VALUES ('MAINTENANCE_MODE', 'false');"
        "ALTER TABLE users OWNER TO white_cross_owner; ALTER TABLE system_configurations OWNER TO white_cross_owner",
        database=site.database,
    )

    def setting() -> Any:
        return server.execute("SELECT value FROM system_configurations", database=site.database)

    for kind, value in (("maintenance_on", "true"), ("maintenance_off", "false"), ("health", "false")):
        done = site("hooks.yml", hooks_run=kind)
        assert done.rc == 0, done.output
        assert setting() == [(value,)]
    metrics = site("hooks.yml", hooks_run="metrics")
    assert metrics.rc == 0, metrics.output
    (told,) = metrics.json["hooks"]
    assert set(told["metrics"]) == {"error_rate", "throughput"}
