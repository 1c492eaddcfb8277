# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Whoever looks into pg_stat_activity sees of each of our sessions to which run it belongs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import stopping
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    APPLICATION_NAME_LIMIT,
    Target,
    connect,
    session_name,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils import preflight_data
from support.engine import rows, wait_for
from support.module import call
from support.tree import TestTree

RUN = "20260101T000000Z-0a1b2c"
V1 = "20260101000001"
# The name is logged as pg_stat_activity shows it, also of a session that is gone before anybody could look.
_AUTHORIZED = re.compile(
    r"connection authorized: user=\S+ database=\S+ application_name=(pgops .*?)(?: SSL enabled.*)?$"
)


@pytest.fixture
def logged(server: Any) -> Iterator[Any]:
    """The names of our sessions since the last call."""
    server.execute("ALTER SYSTEM SET log_connections = on")
    server.execute("SELECT pg_reload_conf()")
    log: Path = server.directory / "log"
    place = log.stat().st_size

    def since() -> set[str]:
        nonlocal place
        text = log.read_bytes()[place:]
        place += len(text)
        found = (_AUTHORIZED.search(line) for line in text.decode(errors="replace").splitlines())
        return {match.group(1) for match in found if match and match.group(1) != "pgops tests"}

    def begun() -> bool:
        server.execute("SELECT 1")
        return b"application_name=pgops tests" in log.read_bytes()[place:]

    try:
        wait_for(begun, what="a session in the log")
        yield since
    finally:
        server.execute("ALTER SYSTEM RESET log_connections")
        server.execute("SELECT pg_reload_conf()")


def test_every_module_tells_its_run(target: Any, tmp_path: Path, logged: Any) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "people", "CREATE TABLE public.people (id integer PRIMARY KEY);", "DROP TABLE public.people;")
    migrations, checks = tree.render(), preflight_data.read()
    calls: dict[str, dict[str, Any]] = {
        "databases": {"query": "SELECT datname FROM pg_database WHERE datname = 'template1' AND false"},
        "status": {"migrations": migrations},
        "lint_facts": {"relations": ["public.people"]},
        "inspect": {"query": "one", "text": "SELECT 1 AS one"},
        "preflight": {"checks": checks.checks, "thresholds": checks.thresholds, "versions": checks.versions},
        "plan": {"migrations": migrations},
        "adopt": {"migrations": migrations, "record": False},
        "apply": {"migrations": migrations},
        "verify": {},
        "analyze": {"all_tables": True},
        "swap": {"state": "resumed"},
        "strategies": {"directory": str(tmp_path)},
        "kept_databases": {},
        "revert": {},
        "test_migration": {"migrations": migrations, "version": V1},
        "stop": {},
    }
    logged()
    for module, options in calls.items():
        call(module, target, run_id=RUN, **options)
        names = logged()
        assert names, module
        assert [name for name in names if name.split()[1] != RUN] == [], module


@pytest.mark.parametrize(
    ("run_id", "name", "shown"),
    [
        (RUN, "pgops status", f"pgops {RUN} status"),
        (RUN, f"pgops {RUN} backup", f"pgops {RUN} backup"),
        (RUN, f"pgops {RUN}", f"pgops {RUN}"),
        (None, "pgops status", "pgops status"),
        (RUN, "test", "test"),
        (RUN, "pgops " + "x" * 80, f"pgops {RUN} " + "x" * (APPLICATION_NAME_LIMIT - 7 - len(RUN))),
    ],
)
def test_a_session_is_named_after_its_run(run_id: str | None, name: str, shown: str) -> None:
    assert session_name(Target(host="h", database="d", run_id=run_id), name) == shown


@pytest.mark.parametrize(("purpose", "found"), [("", [RUN]), (" verify", [RUN]), (" status", []), (" stop", [])])
def test_stop_passes_over_who_only_looks(target: Any, purpose: str, found: list[str]) -> None:
    """Its own sessions have a run of their own by now, and nobody has to end those."""
    other = connect(target, application_name=f"pgops {RUN}{purpose}")
    try:
        asked = target.with_(run_id="20260101T000000Z-ffffff")
        assert stopping.stop(asked, by="a test")["sessions"] == found
        assert rows(
            target, "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name LIKE %s", (f"pgops {RUN}%",)
        ) == [{"n": 1}]
    finally:
        other.close()
