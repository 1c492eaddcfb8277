# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Timers that really fire: schedule.yml on a host whose first process is systemd, by the literal commands, on a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.ops_host import BACKUPS, CHECKOUT, ENVIRONMENT, STATE, OpsHost, ops_host

pytestmark = pytest.mark.container

UNIT = f"pgops-{ENVIRONMENT}-backup"
SOON = {"backup": {"on_calendar": "*:*:0/10", "delay": 0}}
# Never in a test.
LATER = {"backup": {"on_calendar": "*-01-01 00:00", "delay": 0}}

# Keeps what it is told in files, one a request.
LISTENER = """
import http.server, pathlib, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        folder = pathlib.Path("/run/told")
        folder.mkdir(exist_ok=True)
        (folder / f"{len(list(folder.iterdir()))}.json").write_bytes(body)
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", 8099), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpsHost]:
    with ops_host(tmp_path_factory.mktemp("ops") / "pgops") as made:
        yield made


@pytest.fixture
def host(machine: OpsHost) -> Iterator[OpsHost]:
    """The machine, without timers before and after."""
    yield machine
    machine.run("systemctl stop 'pgops-*.timer' 'pgops-*.service'", check=False)
    done = machine("schedule.yml", schedule_state="absent")
    assert done.rc == 0, done.output


def timers(host: OpsHost, user: str = "root") -> tuple[Any, dict[str, dict[str, Any]]]:
    """:return: a run of status.yml, and its rows by name."""
    done = host("status.yml", user=user)
    assert done.rc == 0, done.output
    found = done.json["hosts"]["db1"]["white_cross"]["timers"]  # type: ignore[index]
    return done, {row["name"]: row for row in found["timers"]}


def test_a_timer_fires_and_the_shipped_backup_is_made(host: OpsHost) -> None:
    first = host("schedule.yml", schedule_jobs=SOON)
    assert first.rc == 0, first.output
    assert "changed=1" in first.stdout
    heartbeat = host.wait(
        "a run of the timer", lambda: (found := host.heartbeat("backup")) and found["result"] == "success" and found
    )
    assert heartbeat["exit_code"] == 0 and heartbeat["expected_every_s"] == 10
    (manifest, *_others) = host.run(f"ls {BACKUPS}/white_cross/*/manifest.json").stdout.split()
    assert json.loads(host.run(f"cat {manifest}").stdout)["database"] == "white_cross"
    host.run(f"test -e {Path(manifest).parent}/proof.json")
    # Its words are in the journal of systemd, and nothing of them is a secret.
    journal = host.run(f"journalctl --no-pager -u {UNIT}.service").stdout
    assert "backup in production" in journal
    assert host.password not in journal
    again = host("schedule.yml", schedule_jobs=SOON)
    assert again.rc == 0, again.output
    assert "changed=0" in again.stdout
    done, rows = timers(host)
    row = rows["backup"]
    assert (row["state"], row["result"], row["unit"]) == ("ok", "success", f"{UNIT}.service")
    assert row["last_run"] and (row["next"] or row["running"])
    assert "timers of production:" in done.stdout


@pytest.mark.slow
def test_a_user_s_runs_have_their_secrets_from_systemd_alone(host: OpsHost) -> None:
    host.run("id pgops || useradd --create-home pgops; echo 'pgops ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/pgops")
    refused = host("schedule.yml", schedule_jobs=LATER, schedule_user="pgops")
    assert f"{STATE} does not belong to pgops, who is to run the playbooks" in refused.json["error"]["message"]  # type: ignore[index]
    host.run(f"mkdir -p {BACKUPS}; chown -R pgops {STATE} {BACKUPS}")
    try:
        made = host("schedule.yml", user="pgops", schedule_jobs=LATER, schedule_become=True)
        assert made.rc == 0, made.output
        again = host("schedule.yml", user="pgops", schedule_jobs=LATER, schedule_become=True)
        assert "changed=0" in again.stdout
        unit = host.run(f"systemctl cat {UNIT}.service").stdout
        assert {"User=pgops", "LoadCredential=pgops_passfile:/etc/pgops/passfile", "CapabilityBoundingSet="} <= set(
            unit.splitlines()
        )
        assert host.password not in unit
        # The password file is root's alone; this user has a copy for as long as the run goes on.
        assert host.run("cat /etc/pgops/passfile", user="pgops", check=False).returncode != 0
        started = host.run(f"systemctl start {UNIT}.service", check=False)
        journal = host.run(f"journalctl --no-pager -n 80 -u {UNIT}.service").stdout
        assert started.returncode == 0, journal
        assert f"/run/credentials/{UNIT}.service" not in "".join(
            line for line in journal.splitlines() if "next:" in line
        )
        assert (host.heartbeat("backup") or {})["result"] == "success"
        files = f"{STATE}/journal/{ENVIRONMENT}/timers/backup.json {STATE}/schedule/{ENVIRONMENT}.json"
        assert host.run(f"stat -c '%U %a' {files}").stdout.split() == ["pgops", "600"] * 2
        assert host("schedule.yml", user="pgops", schedule_state="absent", schedule_become=True).rc == 0
    finally:
        host.run(f"chown -R root {STATE} {BACKUPS}")


# The image has no pam_systemd, which would tell it.
RUNTIME = """
mkdir -p /etc/systemd/system/user@.service.d
printf '[Service]\\nEnvironment=XDG_RUNTIME_DIR=/run/user/%%i\\n' > /etc/systemd/system/user@.service.d/run.conf
systemctl daemon-reload
systemctl restart user@$(id -u pgops)
"""


@pytest.mark.slow
def test_a_user_without_root_has_timers_of_its_own(host: OpsHost) -> None:
    host.run("id pgops || useradd --create-home pgops")
    host.run(
        "install -d -m 700 -o pgops /home/pgops/state /home/pgops/backups; install -m 600 -o pgops /etc/pgops/passfile /home/pgops/passfile"
    )
    inventory = host.folder / "inventories" / f"{ENVIRONMENT}.yml"
    before = inventory.read_text(encoding="utf-8")
    own = (
        before.replace(STATE, "/home/pgops/state")
        .replace(BACKUPS, "/home/pgops/backups")
        .replace("/etc/pgops/passfile", "/home/pgops/passfile")
    )
    inventory.write_text(own, encoding="utf-8")
    units = "/home/pgops/.config/systemd/user"
    try:
        silent = host("schedule.yml", user="pgops", schedule_jobs=SOON)
        assert "The systemd of pgops does not answer" in silent.json["error"]["message"]  # type: ignore[index]
        assert host.files(f"{UNIT}.*") == []
        host.run(RUNTIME)
        made = host("schedule.yml", user="pgops", schedule_jobs=SOON)
        assert made.rc == 0, made.output
        assert "type: loginctl enable-linger pgops" in " ".join(made.output.split())
        folder = f"/home/pgops/state/journal/{ENVIRONMENT}/timers"
        host.wait(
            "a run of the timer", lambda: '"success"' in host.run(f"cat {folder}/backup.json", check=False).stdout
        )
        assert "User=" not in host.run(f"cat {units}/{UNIT}.service").stdout
        _done, rows = timers(host, user="pgops")
        assert rows["backup"]["state"] == "ok"
        assert rows["backup"]["look"] == f"journalctl --user -u {UNIT}.service -n 50"
        again = host("schedule.yml", user="pgops", schedule_jobs=SOON)
        assert "changed=0" in again.stdout
        host.run(f"systemctl --user stop {UNIT}.timer {UNIT}.service", user="pgops", runtime=True)
        gone = host("schedule.yml", user="pgops", schedule_state="absent")
        assert gone.rc == 0, gone.output
        assert [path for path in host.files(f"*pgops-{ENVIRONMENT}-*") if "pgops/" in path] == []
    finally:
        inventory.write_text(before, encoding="utf-8")


@pytest.mark.slow
def test_what_a_run_has_no_business_with_is_read_only_to_it(host: OpsHost) -> None:
    play = "- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.command: {argv: [touch, PATH]}\n"
    for name, path in (("inside", f"{STATE}/touched"), ("outside", "/etc/touched")):
        (host.folder / f"{name}.yml").write_text(play.replace("PATH", path), encoding="utf-8")
    jobs = {name: {"playbook": f"{name}.yml", "on_calendar": "yearly"} for name in ("inside", "outside")}
    assert host("schedule.yml", schedule_jobs=jobs).rc == 0
    assert host.run(f"systemctl start pgops-{ENVIRONMENT}-inside.service", check=False).returncode == 0
    assert host.run(f"systemctl start pgops-{ENVIRONMENT}-outside.service", check=False).returncode != 0
    assert "Read-only file system" in host.run(f"journalctl --no-pager -u pgops-{ENVIRONMENT}-outside.service").stdout
    # The exit code of ansible-playbook is the unit's.
    assert host.show(f"pgops-{ENVIRONMENT}-outside.service", "ExecMainStatus") == {"ExecMainStatus": "2"}


@pytest.mark.slow
def test_a_failure_is_told_and_stands_in_the_status(host: OpsHost) -> None:
    (host.folder / "listener.py").write_text(LISTENER, encoding="utf-8")
    host.run(f"systemd-run --quiet --unit=listener /usr/bin/python3 {CHECKOUT}/listener.py")
    host.run(
        "umask 077; rm -rf /run/told; echo http://127.0.0.1:8099/hunter2 > /etc/pgops/webhook; echo a-key > /etc/pgops/webhook_key"
    )
    variables = host.folder / "inventories" / "group_vars" / ENVIRONMENT
    variables.mkdir(parents=True, exist_ok=True)
    (variables / "told.yml").write_text(
        "pgops_webhook_file: /etc/pgops/webhook\npgops_webhook_secret_file: /etc/pgops/webhook_key\npgops_webhook_form: json\n",
        encoding="ascii",
    )
    try:
        broken = {"backup": {**LATER["backup"], "variables": {"pgops_bindir": "/nowhere"}}}
        assert host("schedule.yml", schedule_jobs=broken).rc == 0
        assert host.run(f"systemctl start {UNIT}.service", check=False).returncode != 0
        told = host.wait("a message", lambda: host.run("cat /run/told/0.json", check=False).stdout)
        document = json.loads(told)
        assert (document["event"], document["timer"], document["environment"], document["exit_code"]) == (
            "failed",
            "backup",
            ENVIRONMENT,
            2,
        )
        assert f"look: journalctl -u {UNIT}.service -n 50" in document["text"]
        assert "hunter2" not in told + host.run("journalctl --no-pager -u 'pgops-*'").stdout
        done, rows = timers(host)
        assert (rows["backup"]["state"], rows["backup"]["exit_code"]) == ("failed", 2)
        assert "The timer backup of production is FAILED: its last run failed at" in " ".join(done.output.split())
        assert f"journalctl -u {UNIT}.service -n 50" in " ".join(done.output.split())
    finally:
        (variables / "told.yml").unlink()
        host.run("systemctl stop listener", check=False)


@pytest.mark.slow
def test_a_timer_that_stands_still_is_seen_by_the_age_of_its_heartbeat(host: OpsHost) -> None:
    daily = {"backup": {"on_calendar": "*-*-* 01:30"}}
    assert host("schedule.yml", schedule_jobs=daily).rc == 0
    assert timers(host)[1]["backup"]["state"] == "waiting"
    old = {
        "name": "backup",
        "last_success": "2026-01-01T01:31:00Z",
        "expected_every_s": 86400,
        "result": "success",
        "at": "2026-01-01T01:31:00Z",
    }
    folder = f"{STATE}/journal/{ENVIRONMENT}/timers"
    host.run(f"mkdir -p {folder}; cat > {folder}/backup.json", given=json.dumps(old))
    done, rows = timers(host)
    assert rows["backup"]["state"] == "missed"
    assert "is MISSED: its last success was" in " ".join(done.output.split())
    host.run(
        f'date -u +%Y-%m-%dT%H:%M:%SZ | sed \'s/.*/{{"last_success": "&", "result": "success"}}/\' > {folder}/backup.json'
    )
    assert timers(host)[1]["backup"]["state"] == "ok"
    host.run(f"systemctl stop {UNIT}.timer")
    done, rows = timers(host)
    assert rows["backup"]["state"] == "stopped"
    assert "is STOPPED: it is not switched on" in " ".join(done.output.split())
    # The same command puts it right.
    mended = host("schedule.yml", schedule_jobs=daily)
    assert "changed=1" in mended.stdout
    assert timers(host)[1]["backup"]["state"] == "ok"


@pytest.mark.slow
def test_removal_leaves_nothing_and_takes_nothing_else(host: OpsHost) -> None:
    other = f"/etc/systemd/system/pgops-{ENVIRONMENT}-own.service"
    host.run(f"printf '[Service]\\nExecStart=/bin/true\\n' > {other}")
    assert host("schedule.yml", schedule_jobs={**LATER, "drill": {}}).rc == 0
    host.run(f"systemctl start {UNIT}.service", check=False)
    assert len(host.files(f"pgops-{ENVIRONMENT}-*")) > 5
    fewer = host("schedule.yml", schedule_jobs=LATER)
    assert fewer.rc == 0
    assert [path for path in host.files(f"*pgops-{ENVIRONMENT}-drill*")] == []
    checked = host("schedule.yml", "--check", schedule_state="absent")
    assert "changed=1" in checked.stdout
    assert host.files(f"{UNIT}.timer") != []
    gone = host("schedule.yml", schedule_state="absent")
    assert gone.rc == 0, gone.output
    assert host.files(f"*pgops-{ENVIRONMENT}-*") == [other]
    assert host.files("timers") == [] or not [path for path in host.files("timers") if path.startswith(STATE)]
    assert host.run(f"ls {STATE}/schedule", check=False).returncode != 0
    assert host.run(f"systemctl list-units --all --plain --no-legend 'pgops-{ENVIRONMENT}-backup*'").stdout == ""
    again = host("schedule.yml", schedule_state="absent")
    assert "changed=0" in again.stdout
    host.run(f"rm {other}")


@pytest.mark.slow
def test_what_cannot_be_is_refused_and_nothing_is_left(host: OpsHost) -> None:
    for given, told in (
        (
            {"backup": {"on_calendar": "at night"}},
            "The calendar 'at night' of the job backup is none that systemd understands",
        ),
        (
            {"x": {"playbook": "gone.yml", "on_calendar": "daily"}},
            "The job x names the playbook gone.yml, which is not in /srv/pgops of ops1",
        ),
        ({"backup": {"ping_url_file": "/nowhere"}}, "schedule_jobs.backup.ping_url_file=/nowhere cannot be read"),
    ):
        done = host("schedule.yml", schedule_jobs=given)
        assert done.rc == 2
        assert told in done.json["error"]["message"]  # type: ignore[index]
        assert "nothing was installed" in done.json["error"]["message"]  # type: ignore[index]
    typed = host("schedule.yml", schedule_jobs=LATER, pgops_port=5433)
    assert "pgops_port was given with -e, which no timer would have" in typed.json["error"]["message"]  # type: ignore[index]
    assert host.files(f"pgops-{ENVIRONMENT}-*") == []
    shown = host("schedule.yml", "--check", "--diff", schedule_jobs=LATER)
    assert shown.rc == 0, shown.output
    assert "+ExecStart=" in shown.stdout.replace("+ ", "+")
    assert host.files(f"pgops-{ENVIRONMENT}-*") == []
