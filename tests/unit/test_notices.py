# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which events are told, to whom and in which form; a real HTTP and a real mail server on loopback take them."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils import mailbox, notices, notification
from ansible_collections.whitecross.pgops.plugins.plugin_utils.notification import NotNotified
from support.mail_server import MailServer, certificate
from support.webhook import Webhook

RUN = {
    "id": "20260101T120000Z-0a1b2c",
    "who": "ada",
    "ops_host": "ops1",
    "playbook": "migrate",
    "environment": "staging",
}
REPORT: dict[str, Any] = {
    **{name: value for name, value in RUN.items() if name != "id"},
    "run_id": RUN["id"], "limit": "staging", "command": "ansible-playbook migrate.yml", "result": "succeeded", "ok": True,
    "duration_s": 34.4, "results": {"db1": {"school": {}}}, "error": None, "next": [], "check_mode": False,
}  # fmt: skip
FAILURE = {"result": "failed", "ok": False, "error": {"message": "INSERT ... 'Ada Lovelace'", "phase": "apply"}}
KEY = "a-key-that-only-two-know"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as made:
        yield made


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return secret(tmp_path / "key", KEY)


def secret(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(f"{text}\n", encoding="utf-8")
    return path


def all_events() -> list[notices.Notice]:
    return [
        notices.of_plan(RUN, "2026-12-05T22:00:00Z", [{"host": "db1", "database": "school", "pending": [{"version": "2026"}]}]),
        notices.of_migration(RUN, {"db1": {"school": 3}}),
        notices.of_rollback(RUN, "db1", "2026-01-01T00:00:00Z", "down", ["school"]),
        notices.of_success(RUN, {"db1": ["school"]}),
        notices.of_end({**REPORT, **FAILURE}),
        notices.of_end({**REPORT, "playbook": "rollback"}),
        notices.of_end({**REPORT, **FAILURE, "automatic": {"ok": True}}),
        notices.of_end({**REPORT, **FAILURE, "automatic": {"ok": False}}),
        notices.of_end(REPORT),
    ]  # fmt: skip


def test_each_event_has_its_name() -> None:
    assert [notice.event for notice in all_events()] == [
        "planned", "started", "started", "succeeded", "failed", "rolled_back", "rolled_back", "failed", "completed",
    ]  # fmt: skip
    assert {notice.event for notice in all_events()} == set(notices.EVENTS)


def test_no_event_tells_a_message_or_a_value() -> None:
    for notice in all_events():
        assert "Lovelace" not in json.dumps(notice.document())
        assert notice.facts["databases"] == [{"host": "db1", "database": "school"}]
        assert "school" in notice.text


def test_a_machine_gets_all_of_it_signed(webhook: Webhook, key_file: Path) -> None:
    settings = {"pgops_webhook": webhook.url, "pgops_webhook_form": "json", "pgops_webhook_secret_file": str(key_file)}
    assert notices.deliver(notices.of_end({**REPORT, **FAILURE}), settings) is True
    (body,), (headers,) = webhook.bodies, webhook.received
    signature = hmac.new(KEY.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Pgops-Signature"] == f"sha256={signature}"
    assert headers["X-Pgops-Event"] == "failed"
    document = json.loads(body)
    assert document.pop("at").endswith("Z")
    assert document.pop("text").startswith("pgops: migrate in staging FAILED")
    assert document == {
        "format": 1, "event": "failed", "playbook": "migrate", "environment": "staging", "run_id": RUN["id"], "who": "ada",
        "ops_host": "ops1", "databases": [{"host": "db1", "database": "school"}], "result": "failed", "seconds": 34.4, "phase": "apply",
    }  # fmt: skip
    assert KEY not in str(webhook.received)


def test_a_chat_gets_a_text_alone_and_signed_where_there_is_a_key(webhook: Webhook, key_file: Path) -> None:
    notices.deliver(notices.of_end(REPORT), {"pgops_webhook": webhook.url})
    notices.deliver(notices.of_end(REPORT), {"pgops_webhook": webhook.url, "pgops_webhook_secret_file": str(key_file)})
    assert [set(json.loads(body)) for body in webhook.bodies] == [{"text"}, {"text"}]
    assert ["X-Pgops-Signature" in headers for headers in webhook.received] == [False, True]


def test_only_the_events_that_are_wanted_are_told(webhook: Webhook) -> None:
    succeeded = notices.of_success(RUN, {"db1": ["school"]})
    settings: dict[str, Any] = {"pgops_webhook": webhook.url}
    assert notices.deliver(succeeded, settings) is False, "the end comes right after it"
    assert notices.deliver(succeeded, {**settings, "pgops_notify_events": ["succeeded"]}) is True
    assert notices.deliver(notices.of_end(REPORT), {**settings, "pgops_notify_events": ["failed"]}) is False
    assert len(webhook.texts) == 1


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"pgops_notify_events": ["finished"]}, "pgops_notify_events is a list of planned.*, and has finished"),
        ({"pgops_notify_events": "failed"}, "pgops_notify_events is a list of planned.*, and has failed"),
        ({"pgops_webhook_form": "xml"}, "pgops_webhook_form is xml; it is one of slack and json"),
        ({"pgops_webhook_secret_file": "/nowhere/key"}, "pgops_webhook_secret_file=/nowhere/key cannot be read"),
        ({"pgops_mail": {"too": "a@b.org"}}, "pgops_mail has too, and takes only to, from"),
        ({"pgops_mail": {"to": []}}, "names nobody"),
        ({"pgops_mail": {"to": ["ada"]}}, "'ada', which is no address"),
        ({"pgops_mail": {"to": ["a@b.org\nBcc: c@d.org"]}}, "which is no address"),
        ({"pgops_mail": {"to": ["a@b.org"], "tls": "ssl"}}, "tls ssl; it is one of"),
        ({"pgops_mail": {"to": ["a@b.org"], "tls": "none", "user": "u", "password_file": "/p"}}, "everybody on the way could read it"),
        ({"pgops_mail": {"to": ["a@b.org"], "user": "u"}}, "both or neither"),
        ({"pgops_mail": "a@b.org"}, "pgops_mail is a mapping"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_meant_is_told(webhook: Webhook, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(NotNotified, match=told):
        notices.deliver(notices.of_end({**REPORT, **FAILURE}), {"pgops_webhook": webhook.url, **wrong})


def test_a_key_that_others_may_read_signs_nothing(webhook: Webhook, key_file: Path) -> None:
    key_file.chmod(0o644)
    with pytest.raises(NotNotified, match=r"may be read by others, and who knows the key may sign as pgops; chmod 600"):
        notices.deliver(
            notices.of_end(REPORT), {"pgops_webhook": webhook.url, "pgops_webhook_secret_file": str(key_file)}
        )
    assert webhook.bodies == []


def test_a_mail_is_encrypted_and_comes_with_a_password(tmp_path: Path) -> None:
    made, key = certificate(tmp_path)
    mail = {
        "to": ["dana@hospital.org", "oncall@hospital.org"], "from": "pgops@hospital.org", "host": "127.0.0.1", "ca_path": str(made),
        "user": "pgops", "password_file": str(secret(tmp_path / "password", "hunter2")),
    }  # fmt: skip
    with MailServer((made, key), password="hunter2") as server:
        assert (
            notices.deliver(notices.of_end({**REPORT, **FAILURE}), {"pgops_mail": {**mail, "port": server.port}})
            is True
        )
    (sent,) = server.mails
    assert (server.encrypted, server.recipients) == ([True], ["dana@hospital.org", "oncall@hospital.org"])
    assert sent["Subject"] == "pgops: migrate in staging FAILED after 34 s"
    assert (sent["X-Pgops-Event"], sent["X-Pgops-Environment"], sent["Auto-Submitted"]) == (
        "failed",
        "staging",
        "auto-generated",
    )
    assert "phase: apply" in sent.get_content()
    assert "Lovelace" not in sent.as_string()


def test_a_mail_server_that_nobody_vouches_for_gets_no_password(tmp_path: Path) -> None:
    mail = {
        "to": ["dana@hospital.org"], "host": "127.0.0.1",
        "user": "pgops", "password_file": str(secret(tmp_path / "password", "hunter2")),
    }  # fmt: skip
    with (
        MailServer(certificate(tmp_path), password="hunter2") as server,
        pytest.raises(
            NotNotified, match="the certificate of the mail server is not trusted: CERTIFICATE_VERIFY_FAILED"
        ),
    ):
        notices.deliver(notices.of_end(REPORT), {"pgops_mail": {**mail, "port": server.port}})
    assert server.mails == []


def test_a_mail_server_without_tls_is_not_taken_for_one_with_it() -> None:
    mail = {"to": "dana@hospital.org", "host": "127.0.0.1"}
    with MailServer() as server:
        with pytest.raises(NotNotified, match="the mail server does not offer what tls=starttls and a password need"):
            notices.deliver(notices.of_end(REPORT), {"pgops_mail": {**mail, "port": server.port}})
        assert server.mails == []
        assert (
            notices.deliver(notices.of_end(REPORT), {"pgops_mail": {**mail, "port": server.port, "tls": "none"}})
            is True
        )
    assert server.mails[0]["From"].startswith("pgops@")


def test_one_who_cannot_be_reached_keeps_nobody_else_from_being_told(webhook: Webhook) -> None:
    with MailServer() as server:
        settings = {
            "pgops_webhook": webhook.url,
            "pgops_mail": {"to": "dana@hospital.org", "host": "127.0.0.1", "port": server.port, "tls": "none"},
        }
        webhook.status = 500
        with pytest.raises(NotNotified, match=r"^the webhook answered 500$") as half:
            notices.deliver(notices.of_end(REPORT), settings)
        assert len(server.mails) == 1
        server.answer = "552 no room for SECRET-PATH"
        with pytest.raises(NotNotified, match=r"^the webhook answered 500; the mail server answered 552$") as none:
            notices.deliver(notices.of_end(REPORT), settings)
    assert [notices.who_was(fault.value) for fault in (half, none)] == ["Not everybody", "Nobody"]


@pytest.mark.parametrize("threads", [True, False])
def test_a_mail_server_that_hangs_costs_the_time_limit(monkeypatch: pytest.MonkeyPatch, threads: bool) -> None:
    import socket

    monkeypatch.setattr(mailbox, "TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mail = {"to": "dana@hospital.org", "host": "127.0.0.1", "port": silent.getsockname()[1], "tls": "none"}
        with pytest.raises(NotNotified, match=r"the mail server has not answered for 0.5 s"):
            notices.deliver(notices.of_end(REPORT), {"pgops_mail": mail}, threads=threads)


def test_what_a_process_tells_that_forks_after_it_leaves_no_thread(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr(notification, "TIMEOUT_S", 0.5)
    webhook.delay_s = 20
    before = set(threading.enumerate())

    def told() -> None:
        with pytest.raises(NotNotified, match="the webhook has not answered"):
            notification.send(webhook.url, "x", timeout=0.5, threads=False)

    told()
    # The server has one for each request, this process none that waits.
    assert not [thread for thread in set(threading.enumerate()) - before if "process_request" not in thread.name]
