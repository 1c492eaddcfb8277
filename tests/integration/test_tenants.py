# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A query names the databases of a run; what it gives is looked at before anything else is."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import tenants
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from support.server import Server
from support.site import Playbook


def test_the_order_is_the_query_s(server: Server, target: Target, database: str) -> None:
    server.create_database(f"{database}_b")
    listed = f"SELECT datname FROM pg_database WHERE datname LIKE '{database}%' ORDER BY datname DESC"
    assert tenants.named_by(target, listed) == [f"{database}_b", database]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("SELECT nothing", 'failed: column "nothing" does not exist'),
        ("SELECT datname FROM pg_database WHERE false", "names no database, so nothing was done"),
        ("SELECT datname, oid FROM pg_database", "gives 2 columns; give it one, the names"),
        ("VALUES ('postgres'), ('postgres')", "names postgres more than once"),
        (
            "VALUES ('template0'), ('nowhere')",
            "names template0, nowhere, which the server has not, or which takes no connections",
        ),
        ("CREATE TABLE public.tenants (name text)", "read-only transaction"),
        ("SET lock_timeout = 0", "gives no rows"),
    ],
    ids=["fails", "none", "columns", "twice", "gone", "writes", "no query"],
)
def test_what_names_no_databases_is_refused_in_one_sentence(target: Target, query: str, sentence: str) -> None:
    with pytest.raises(PgopsError) as refused:
        tenants.named_by(target, query)
    assert refused.value.message.startswith(f"pgops_databases_query, run in {target.database}, ")
    assert sentence in refused.value.message


def test_a_rollback_that_finds_the_server_down_is_told_to_name_the_databases(playbook: Playbook) -> None:
    playbook.variables["pgops_databases_query"] = "SELECT datname FROM pg_database"
    down = playbook("rollback.yml", pgops_port="1", rollback_strategy="pitr")
    assert down.rc == 2, down.output
    assert """-e '{"pgops_databases": ["NAME"]}'""" in down.json["error"]["hint"]
    looked = playbook("status.yml", pgops_port="1")
    assert "pgops_databases" not in str(looked.json["error"].get("hint"))
