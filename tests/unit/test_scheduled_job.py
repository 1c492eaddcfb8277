# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a timer starts, as its own process: the lock, the exit code, the heartbeat, the ping, and who is told of a failure."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.timer_state import TimerPlace
from support.podman import ROOT
from support.webhook import Webhook

PROGRAM = ROOT / "collections/ansible_collections/whitecross/pgops/plugins/plugin_utils/scheduled_job.py"
SH = str(shutil.which("sh"))


class Timers:
    """A record with the job backup, and what its runs leave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = TimerPlace(str(folder / "state"), "production")
        self.record: dict[str, Any] = {
            "lock_wait_s": 0,
            "jobs": {
                "backup": {"playbook": "backup.yml", "expected_every_s": 86400, "delay_s": 0, "unit": "pgops-production-backup.service"},
                "drill": {"playbook": "restore_drill.yml", "expected_every_s": 86400, "delay_s": 0, "unit": None},
            },
        }  # fmt: skip

    def start(self, verb: str, name: str, *command: str, **environment: str) -> subprocess.Popen[str]:
        Path(self.place.record).parent.mkdir(parents=True, exist_ok=True)
        Path(self.place.record).write_text(json.dumps(self.record), encoding="utf-8")
        behind = ["--", *command] if command else []
        return subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM), verb, self.place.record, name, *behind], text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={"PATH": os.environ["PATH"], "no_proxy": "127.0.0.1", **environment}, cwd="/",
        )  # fmt: skip

    def __call__(self, verb: str, name: str, *command: str, **environment: str) -> tuple[int, str]:
        process = self.start(verb, name, *command, **environment)
        output, _nothing = process.communicate(timeout=120)
        return process.returncode, output

    def heartbeat(self, name: str = "backup") -> dict[str, Any]:
        return dict(json.loads(Path(self.place.heartbeat(name)).read_text(encoding="utf-8")))


@pytest.fixture
def timers(tmp_path: Path) -> Timers:
    return Timers(tmp_path)


def secret(path: Path, text: str) -> str:
    path.touch(0o600)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_run_becomes_the_command_and_ends_with_its_exit_code(timers: Timers) -> None:
    assert timers("run", "backup", SH, "-c", "echo worked; exit 4") == (4, "worked\n")


def test_two_jobs_of_one_environment_never_overlap(timers: Timers) -> None:
    started, goes_on = timers.folder / "started", timers.folder / "go on"
    long = timers.start("run", "drill", SH, "-c", f"touch '{started}'; until [ -e '{goes_on}' ]; do sleep 0.1; done")
    try:
        while not started.exists():
            assert long.poll() is None, long.communicate()[0]
        code, output = timers("run", "backup", SH, "-c", "echo overlaps")
        assert code == 75
        assert output.startswith("backup was not begun: drill (process ")
        timers.record["lock_wait_s"] = 60
        waiting = timers.start("run", "backup", SH, "-c", "echo after it")
        assert waiting.stdout is not None
        assert waiting.stdout.readline().startswith("backup waits for drill (process ")
        goes_on.touch()
        assert waiting.communicate(timeout=120)[0] == "after it\n"
    finally:
        goes_on.touch()
        long.communicate(timeout=60)


@pytest.mark.parametrize(
    ("environment", "result", "code"),
    [
        ({"SERVICE_RESULT": "success", "EXIT_CODE": "exited", "EXIT_STATUS": "0"}, "success", 0),
        ({"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "2"}, "failed", 2),
        ({"SERVICE_RESULT": "success", "EXIT_CODE": "killed", "EXIT_STATUS": "TERM"}, "failed", None),
        ({"SERVICE_RESULT": "timeout", "EXIT_CODE": "exited", "EXIT_STATUS": "0"}, "failed", 0),
        ({}, "failed", None),
    ],
)
def test_the_heartbeat_is_what_systemd_says(
    timers: Timers, environment: dict[str, str], result: str, code: int | None
) -> None:
    rc, output = timers("ended", "backup", **environment)
    assert rc == 0
    assert f"backup of production: {result}" in output
    left = timers.heartbeat()
    assert (left["result"], left["exit_code"], left["expected_every_s"]) == (result, code, 86400)
    assert (left["last_success"] is not None) is (result == "success")


def test_where_runs_leave_metrics_the_end_of_a_timer_is_told_there(timers: Timers) -> None:
    """The run itself has written before its heartbeat was there, and so knows only of the one before."""
    folder, kept = timers.folder / "textfile collector", timers.folder / "state" / "metrics" / "production.json"
    folder.mkdir()
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({"format": 1, "directory": str(folder), "samples": []}))
    assert timers("ended", "backup", SERVICE_RESULT="success", EXIT_STATUS="0")[0] == 0
    file = folder / "pgops-production-timers.prom"
    line = 'pgops_timer_success{environment="production",timer="backup"}'
    assert f"\n{line} 1.0\n" in file.read_text()
    assert timers("ended", "backup", SERVICE_RESULT="exit-code", EXIT_STATUS="2")[0] == 0
    assert f"\n{line} 0.0\n" in file.read_text()
    shutil.rmtree(folder)
    code, output = timers("ended", "backup", SERVICE_RESULT="success", EXIT_STATUS="0")
    assert code == 0
    assert "The metrics of the timers were not written:" in output


def test_a_heartbeat_that_cannot_be_written_fails_the_unit(timers: Timers) -> None:
    Path(timers.place.heartbeats).parent.mkdir(parents=True)
    Path(timers.place.heartbeats).touch()
    rc, output = timers("ended", "backup", SERVICE_RESULT="success", EXIT_STATUS="0")
    assert rc != 0
    assert "Not a directory" in output or "File exists" in output


class Pinged:
    """An address that notes which of its paths were asked for."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        pinged = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pinged.paths.append(self.path)
                self.send_response(500 if "broken" in self.path else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hunter2"


@pytest.fixture
def pinged() -> Iterator[Pinged]:
    made = Pinged()
    Thread(target=made.server.serve_forever, daemon=True).start()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_each_end_is_heard_at_the_ping_address(timers: Timers, pinged: Pinged) -> None:
    timers.record["jobs"]["backup"]["ping_url_file"] = secret(timers.folder / "ping", pinged.url + "\n")
    timers("ended", "backup", SERVICE_RESULT="success", EXIT_STATUS="0")
    timers("ended", "backup", SERVICE_RESULT="exit-code", EXIT_STATUS="2")
    # What systemd has loaded for this run wins over the file.
    loaded = timers.folder / "credentials"
    loaded.mkdir()
    secret(loaded / "ping_url", f"{pinged.url}-broken")
    rc, output = timers("ended", "backup", SERVICE_RESULT="success", EXIT_STATUS="0", CREDENTIALS_DIRECTORY=str(loaded))
    assert pinged.paths == ["/hunter2", "/hunter2/fail", "/hunter2-broken"]
    assert rc == 0, "nobody fails because nobody listens"
    assert "was not heard at its ping address: 500" in output
    assert "hunter2" not in output


def test_a_failure_is_told_with_the_command_to_look_further(timers: Timers) -> None:
    timers("ended", "backup", SERVICE_RESULT="exit-code", EXIT_STATUS="2")
    with Webhook() as webhook:
        timers.record["told_with"] = {"pgops_webhook_file": secret(timers.folder / "hook", webhook.url)}
        timers.record["tell"] = {"pgops_webhook_form": "json", "pgops_notify_events": None}
        rc, output = timers("tell", "backup")
        assert rc == 0, output
        (document,) = map(json.loads, webhook.bodies)
        assert document["event"] == "failed"
        assert (document["timer"], document["playbook"], document["environment"], document["exit_code"]) == (
            "backup",
            "backup",
            "production",
            2,
        )
        lines = document["text"].splitlines()
        assert lines[0] == "pgops: timer backup in production FAILED with exit code 2"
        assert "look: journalctl -u pgops-production-backup.service -n 50" in lines
        assert lines[-1] == "next: ansible-playbook status.yml -l production"
        webhook.status = 500
        rc, output = timers("tell", "backup")
        assert rc == 1, "a unit that told nobody is a failed one"
        assert "Nobody was told of it: the webhook answered 500" in output
        assert Webhook.SECRET not in output


def test_where_nobody_is_named_the_failure_stands_in_the_log(timers: Timers) -> None:
    rc, output = timers("tell", "backup")
    assert rc == 0
    assert "Nobody is named to be told" in output
    assert "pgops: timer backup in production FAILED" in output


def test_secrets_are_given_as_the_names_of_files(timers: Timers) -> None:
    timers.record["credentials"] = {"pgops_passfile": "/etc/pgops/passfile", "vault_password": "/etc/pgops/vault"}
    loaded = timers.folder / "credentials"
    loaded.mkdir()
    secret(loaded / "pgops_passfile", "hunter2")
    code, output = timers("run", "backup", SH, "-c", 'printf "%s\\n" "$@"', "sh", CREDENTIALS_DIRECTORY=str(loaded))
    assert code == 0
    assert output.splitlines() == [
        "--vault-password-file", "/etc/pgops/vault", "-e", json.dumps({"pgops_passfile": f"{loaded}/pgops_passfile"})
    ]  # fmt: skip


def test_cron_runs_beats_and_tells_in_one(timers: Timers) -> None:
    assert timers("cron", "drill", SH, "-c", "echo worked") == (0, "worked\n")
    assert timers.heartbeat("drill")["result"] == "success"
    with Webhook() as webhook:
        timers.record["told_with"] = {"pgops_webhook_file": secret(timers.folder / "hook", webhook.url)}
        code, output = timers("cron", "drill", SH, "-c", "exit 3")
        assert code == 3, output
        assert timers.heartbeat("drill")["exit_code"] == 3
        assert webhook.texts[0].startswith("pgops: timer drill in production FAILED with exit code 3")
        assert timers("cron", "drill", "/nowhere/program")[0] == 78
    assert timers.heartbeat("drill")["last_success"] is not None


@pytest.mark.parametrize(
    ("arguments", "code"), [(("run", "gone", SH), 78), (("ended", "gone"), 78), (("walk", "backup"), 64)]
)
def test_a_job_that_is_there_no_more_says_so(timers: Timers, arguments: tuple[str, ...], code: int) -> None:
    assert timers(*arguments)[0] == code
