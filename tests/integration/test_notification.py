# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A webhook is told how migrate.yml and rollback.yml ended, by the literal commands, and its address is shown nowhere."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.mail_server import MailServer
from support.server import Server
from support.site import Playbook
from support.tree import TestTree
from support.webhook import Webhook

VERSION = "20260101000000"


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Webhook() as made:
        yield made


@pytest.fixture
def site(playbook: Playbook, webhook: Webhook) -> Playbook:
    """An operator's folder with one small version and the address in a file; no backup, which has nothing to do with it."""
    shutil.rmtree(playbook.copy_sql() / "migrations")
    up = "CREATE TABLE public.rooms (id integer PRIMARY KEY);\n"
    TestTree(playbook.folder / "sql").add_sql(VERSION, "rooms", up, "DROP TABLE public.rooms;\n")
    file = playbook.folder / "webhook"
    file.touch(0o600)
    file.write_text(webhook.url)
    playbook.variables["pgops_webhook_file"] = str(file)
    playbook.variables["pgops_phases"] = ["plan", "apply", "report"]
    return playbook


def shown_nowhere(site: Playbook, *outputs: str) -> bool:
    files = [path for path in site.state.rglob("*") if path.is_file()] + list(site.folder.glob("result-*.json"))
    assert files
    return not any(Webhook.SECRET in text for text in [*outputs, *(path.read_text() for path in files)])


@pytest.mark.slow
def test_a_migration_and_its_rollback_tell_how_they_ended(site: Playbook, webhook: Webhook) -> None:
    up = site("migrate.yml", "-vvv")
    assert up.rc == 0, up.output
    down = site("rollback.yml", rollback_confirm=site.database)
    assert down.rc == 0, down.output
    started, first, begun, second = (text.splitlines() for text in webhook.texts)
    assert started[0].startswith("pgops: migrate in local BEGINS at 20")
    assert started[1] == f"database: {site.database} on local-1 (1 pending)"
    assert first[0].startswith("pgops: migrate in local complete after ")
    assert first[1] == f"database: {site.database} on local-1"
    assert up.json["run_id"] in first[2]
    assert begun[0].startswith("pgops: rollback in local BEGINS at 20")
    assert second[0].startswith("pgops: rollback in local complete after ")
    # Given with -e it is named in no command and kept in no file.
    site.variables.pop("pgops_webhook_file")
    site("status.yml")
    again = site("migrate.yml", "-vvv", pgops_webhook=webhook.url, migrate_target="1")
    assert again.rc == 2
    assert webhook.texts[4].startswith("pgops: migrate in local FAILED")
    assert "phase: plan" in webhook.texts[4]
    assert len(webhook.texts) == 5, "status.yml tells nobody, and what is refused does not begin"
    assert shown_nowhere(site, up.output, down.output, again.output)


@pytest.mark.slow
def test_of_a_run_that_applies_nothing_it_is_told_that_it_planned(site: Playbook, webhook: Webhook) -> None:
    for parts in (["--tags", "plan"], ["--skip-tags", "apply"], []):
        if not parts:
            site.variables["pgops_phases"] = ["plan", "report"]
        run = site("migrate.yml", *parts)
        assert run.rc == 0, run.output
        (text,) = webhook.texts
        assert text.startswith("pgops: migrate in local is planned, and nothing was applied\n"), text
        assert f"database: {site.database} on local-1\nversions: {VERSION}\n" in text
        webhook.texts.clear()
    assert site("rollback.yml", "--tags", "preflight", rollback_confirm=site.database).rc == 0
    assert webhook.texts == [], "nothing was rolled back"


@pytest.mark.slow
def test_a_host_that_cannot_be_reached_is_told_by_the_callback(site: Playbook, webhook: Webhook) -> None:
    site.hosts["local"]["local-1"] = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}
    result = site("migrate.yml")
    assert result.rc == 4, result.output
    (told,) = webhook.texts
    assert told.startswith("pgops: migrate in local FAILED")
    assert f"database: {site.database}" in told
    assert shown_nowhere(site, result.output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGINT, True), pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow)],
    ids=["ctrl-c", "sigterm"],
)
def test_an_interrupted_run_is_told_too(
    site: Playbook, webhook: Webhook, server: Server, number: int, whole_group: bool
) -> None:
    TestTree(site.folder / "sql").add_sql("20260101000001", "slow", "SELECT pg_sleep(60);\n", "SELECT 1;\n")
    process = site.start("migrate.yml", pgops_lease=5)
    output = site.interrupt(process, number, whole_group=whole_group)
    assert process.returncode != 0
    assert "Nobody was notified" not in output
    _begun, told = webhook.texts
    assert told.startswith("pgops: migrate in local INTERRUPTED")
    assert shown_nowhere(site, output)


def trouble(hook: Webhook, site: Playbook, what: str) -> str:
    """:return: what the warning says."""
    file = Path(site.variables["pgops_webhook_file"])
    if what == "error":
        hook.status = 500
        return "the webhook answered 500"
    if what == "hangs":
        hook.delay_s = 60
        return "the webhook has not answered for 5 s"
    if what == "refused":
        file.write_text(f"http://127.0.0.1:9/{Webhook.SECRET}")
        return "the webhook does not answer: Connection refused"
    file.chmod(0o644)
    return f"{file} may be read by others"


@pytest.mark.parametrize(
    "what", ["error", *(pytest.param(what, marks=pytest.mark.slow) for what in ("hangs", "refused", "open file"))]
)
def test_a_webhook_that_does_not_take_it_is_a_warning_and_the_run_succeeds(
    site: Playbook, webhook: Webhook, what: str
) -> None:
    told = trouble(webhook, site, what)
    result: Any = site("migrate.yml")
    assert result.rc == 0, result.output
    assert result.json["ok"] is True
    # Ansible breaks the lines of a warning.
    assert f"Nobody was notified of this run: {told}" in " ".join(result.output.split())
    assert shown_nowhere(site, result.output)


@pytest.mark.slow
def test_a_machine_and_a_mailbox_are_told_each_event_of_a_migration(
    site: Playbook, webhook: Webhook, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text("a-key-that-only-two-know", encoding="ascii")
    with MailServer() as mails:
        site.variables |= {
            "pgops_phases": ["plan", "apply", "verify", "report"],
            "pgops_webhook_form": "json",
            "pgops_webhook_secret_file": str(key),
            "pgops_notify_events": ["planned", "started", "succeeded", "completed", "rolled_back"],
            "pgops_mail": {"to": ["dana@hospital.org"], "host": "127.0.0.1", "port": mails.port, "tls": "none"},
        }
        soon = (datetime.now(UTC) + timedelta(days=4)).isoformat(timespec="seconds")
        planned = site("plan_timeline.yml", gate_planned_for=soon)
        assert planned.rc == 0, planned.output
        assert site("migrate.yml", "-vvv", migrate_watch=0).rc == 0
        down = site("rollback.yml", rollback_confirm=site.database)
        assert down.rc == 0, down.output
    documents = [json.loads(body) for body in webhook.bodies]
    events = ["planned", "started", "succeeded", "completed", "started", "rolled_back"]
    assert [document["event"] for document in documents] == events
    assert [mail["X-Pgops-Event"] for mail in mails.mails] == events
    assert documents[0]["versions"] == [VERSION]
    assert {document["databases"][0]["database"] for document in documents} == {site.database}
    assert documents[3]["seconds"] > 0
    for body, headers in zip(webhook.bodies, webhook.received, strict=True):
        signature = hmac.new(key.read_bytes(), body, hashlib.sha256).hexdigest()
        assert headers["X-Pgops-Signature"] == f"sha256={signature}"
    assert shown_nowhere(site, planned.output, down.output)
    assert not any(
        key.read_text(encoding="ascii") in path.read_text() for path in site.state.rglob("*") if path.is_file()
    )
