# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""After the kill the same command went on: every index serves, and the clients' own log has no failed transaction."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from support.hosts import query, value

DECLARED = ["doses_pupil", "pupils_changed", "pupils_name", "pupils_notes", "visits_minutes", "visits_pupil"]


@pytest.fixture(scope="module")
def log(host):
    lines = host.file("/var/log/molecule-clients.jsonl").content_string.splitlines()
    return [json.loads(line) for line in lines]


def test_every_declared_index_is_valid_and_none_is_not(host):
    found = query(
        host,
        "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE NOT indisprimary AND indrelid IN "
        "('pupils'::regclass, 'visits'::regclass, 'doses'::regclass) ORDER BY 1",
    )
    assert found == [[name, True] for name in DECLARED]
    assert query(host, "SELECT 1 FROM pg_index WHERE NOT indisvalid") == []


def test_the_remains_under_our_name_were_built_as_declared(host):
    assert value(host, "SELECT indisunique FROM pg_index WHERE indexrelid = 'pupils_name'::regclass") is True


def test_the_ledger_says_applied_and_that_it_was_gone_on_with(host):
    assert query(host, "SELECT state FROM pgops.migration ORDER BY version") == [["applied"], ["applied"]]
    events = [
        row[0] for row in query(host, "SELECT event FROM pgops.audit WHERE version = '20260101000002' ORDER BY seq")
    ]
    assert events == ["apply_started", "apply_resumed", "applied"]


def test_no_transaction_of_a_client_failed(log):
    assert [line for line in log if line["error"]] == []
    assert log[-1]["end"]


def test_the_clients_were_at_work_all_the_while(host, log):
    began, ended = query(
        host,
        "SELECT extract(epoch FROM min(at)), extract(epoch FROM max(at)) FROM pgops.audit WHERE version = '20260101000002'",
    )[0]
    during = sorted(line["at"] for line in log if float(began) <= line["at"] <= float(ended))
    assert len(during) > 200
    # Nobody stood still for as long as a build takes.
    assert max(later - earlier for earlier, later in pairwise(during)) < 5


def test_what_was_committed_is_there(host, log):
    committed = sum(line["error"] is None and not line.get("end") for line in log)
    assert value(host, "SELECT sum(changed) FROM pupils") == committed
    assert value(host, "SELECT count(*) FROM visits WHERE id > 200000") == committed
