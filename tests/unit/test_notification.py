# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of a run, to whom, and what happens where nobody listens; a real server on loopback takes it."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils import notices, notification
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import names_a_secret, without_secrets
from ansible_collections.whitecross.pgops.plugins.plugin_utils.notification import NotNotified
from ansible_collections.whitecross.pgops.plugins.plugin_utils.typed_commands import tellable
from support.webhook import Webhook

REPORT: dict[str, Any] = {
    "playbook": "migrate",
    "environment": "staging",
    "limit": "staging",
    "command": "ansible-playbook migrate.yml",
    "result": "succeeded",
    "duration_s": 34.4,
    "run_id": "20260101T120000Z-0a1b2c",
    "who": "ada",
    "ops_host": "ops1",
    "results": {"db1": {"school": {}, "other": {}}},
    "error": None,
    "next": [],
    "check_mode": False,
}
BACK = (
    "ansible-playbook rollback.yml -l staging -e rollback_through=20260101000000 -e pgops_database='Ada Lovelace' "
    """-e '{"migrate_variables": {"name": "Ada Lovelace"}}'"""
)
FAILED = {
    **REPORT,
    "result": "failed",
    "error": {
        "message": "Step 1 failed: INSERT INTO students VALUES ('Ada Lovelace')",
        "statement": "INSERT INTO students VALUES ('Ada Lovelace')",
        "phase": "apply",
    },
    "next": [
        "ALTER TABLE public.students OWNER TO ada;",
        BACK,
    ],
}


def tell(report: dict[str, Any], url: str, file: str) -> bool:
    return notices.tell(report, {"pgops_webhook": url, "pgops_webhook_file": file})


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as made:
        yield made


def test_a_success_is_told_with_databases_seconds_and_a_command(webhook: Webhook) -> None:
    assert tell(REPORT, webhook.url, "") is True
    (told,) = webhook.texts
    assert told.splitlines() == [
        "pgops: migrate in staging complete after 34 s",
        "database: school on db1, other on db1",
        "run: 20260101T120000Z-0a1b2c by ada on ops1",
        "next: ansible-playbook status.yml -l staging",
    ]
    assert webhook.content_types == ["application/json"]


def test_a_failure_is_told_without_its_message_statement_or_anybody_s_values() -> None:
    told = notification.message(FAILED)
    assert told.splitlines()[0] == "pgops: migrate in staging FAILED after 34 s"
    assert "phase: apply" in told
    assert (
        "next: ansible-playbook rollback.yml -l staging -e rollback_through=20260101000000 -e pgops_database=... -e ..."
        in told
    )
    assert "Lovelace" not in told
    assert "INSERT" not in told
    assert "ALTER" not in told


def test_a_run_that_reached_no_database_names_that_of_its_environment() -> None:
    interrupted = {**REPORT, "result": "interrupted", "duration_s": None, "results": {}}
    lines = notification.message(interrupted, ["school"]).splitlines()
    assert lines[:2] == ["pgops: migrate in staging INTERRUPTED", "database: school"]
    assert "database: none was reached" in notification.message(interrupted)


def test_nothing_in_the_text_calls_everybody(webhook: Webhook) -> None:
    notification.send(webhook.url, "<!channel> a & b")
    assert webhook.texts == ["&lt;!channel&gt; a &amp; b"]


@pytest.mark.parametrize("change", [{"playbook": "verify"}, {"check_mode": True}])
def test_other_playbooks_and_check_mode_tell_nobody(webhook: Webhook, change: dict[str, Any]) -> None:
    assert tell({**REPORT, **change}, webhook.url, "") is False
    assert tell(REPORT, "", "") is False
    assert webhook.texts == []


@pytest.mark.parametrize("status", [500, 404, 302])
def test_another_status_than_2xx_is_not_told(webhook: Webhook, status: int) -> None:
    webhook.status = status
    webhook.headers = {"Location": webhook.url}
    with pytest.raises(NotNotified, match=rf"^the webhook answered {status}$"):
        notification.send(webhook.url, "x")
    assert len(webhook.texts) == 1


def test_a_port_where_nobody_listens_is_told_without_the_address() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(NotNotified, match=r"^the webhook does not answer: Connection refused$"):
        notification.send(f"http://127.0.0.1:{port}/services/hunter2", "x")


def test_a_server_that_hangs_costs_the_time_limit(webhook: Webhook) -> None:
    webhook.delay_s = 20
    begun = time.monotonic()
    with pytest.raises(NotNotified, match=r"^the webhook has not answered for 0.5 s$"):
        notification.send(webhook.url, "x", timeout=0.5)
    assert time.monotonic() - begun < 5


class Refusing(threading.Thread):
    def start(self) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")


@pytest.mark.parametrize("threads", [True, False])
def test_a_server_that_drips_costs_the_time_limit_too(monkeypatch: pytest.MonkeyPatch, threads: bool) -> None:
    """Each byte begins the time limit of a socket anew; at the interpreter's end there is no thread to wait for it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        over = threading.Event()

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                while not over.wait(0.1):
                    try:
                        connection.sendall(b"H")
                    except OSError:
                        return

        threading.Thread(target=drip, daemon=True).start()
        if not threads:
            monkeypatch.setattr(notification, "threading", SimpleNamespace(Thread=Refusing))
        begun = time.monotonic()
        try:
            with pytest.raises(NotNotified, match="has not answered for 1 s"):
                notification.send(f"http://127.0.0.1:{server.getsockname()[1]}/", "x", timeout=1)
            assert time.monotonic() - begun < 5
        finally:
            over.set()


def test_where_no_thread_can_begin_it_is_told_all_the_same(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notification, "threading", SimpleNamespace(Thread=Refusing))
    notification.send(webhook.url, "x")
    assert webhook.texts == ["x"]


@pytest.mark.parametrize(
    "wrong",
    [
        "hooks.slack.com/hunter2",
        "file:///etc/hunter2",
        "ftp://a/hunter2",
        "https:///hunter2",
        "http://[hunter2",
        "http://a/ hunter2",
    ],
)
def test_what_is_no_address_is_refused_and_not_shown(wrong: str) -> None:
    with pytest.raises(NotNotified, match="pgops_webhook holds no address") as refused:
        tell(REPORT, wrong, "")
    assert "hunter2" not in str(refused.value)


def test_the_address_may_stand_in_a_file_that_is_the_user_s_alone(webhook: Webhook, tmp_path: Path) -> None:
    file = tmp_path / "webhook"
    file.write_text(webhook.url + "\n")
    file.chmod(0o600)
    assert tell(REPORT, "", str(file)) is True
    file.chmod(0o640)
    with pytest.raises(NotNotified, match=rf"may be read by others.*chmod 600 {file}") as refused:
        tell(REPORT, "", str(file))
    assert webhook.url not in str(refused.value)
    assert len(webhook.texts) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file"),
        (b"", "holds no address"),
        (b"\xff\xfe", "is no text"),
        (b"hunter2", "holds no address"),
    ],
)
def test_a_file_without_an_address_is_told(tmp_path: Path, content: bytes | None, told: str) -> None:
    file = tmp_path / "webhook"
    if content is not None:
        file.touch(0o600)
        file.write_bytes(content)
    with pytest.raises(NotNotified, match=told) as refused:
        tell(REPORT, "", str(file))
    assert "hunter2" not in str(refused.value)


def test_a_pipe_or_a_folder_in_the_place_of_the_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(NotNotified, match=r"is no file|Is a directory"):
            tell(REPORT, "", str(path))


def test_the_address_is_a_secret_to_the_journal_and_to_printed_commands() -> None:
    given = {"pgops_webhook": "https://hooks.example.org/hunter2", "pgops_webhook_file": "/etc/pgops/webhook"}
    assert names_a_secret("pgops_webhook") and not names_a_secret("pgops_webhook_file")
    assert tellable(given) == {"pgops_webhook_file": "/etc/pgops/webhook"}
    assert "hunter2" not in json.dumps(without_secrets(given))
