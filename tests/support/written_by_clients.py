# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the clients of the scenario `rollback` have logged, and where it is."""

from __future__ import annotations

import json
from typing import Any

from support.hosts import databases, execute, query

CODES = "SELECT code FROM districts WHERE name = 'written by a client'"


def log(host: Any) -> list[dict[str, Any]]:
    """All writes so far, in order; what is being written just now is left out."""
    text = host.file("/var/log/molecule-clients.jsonl").content_string.splitlines(keepends=True)
    lines = [json.loads(line) for line in text if line.endswith("\n")]
    return [line for line in lines if not line.get("end")]


def put_aside(host: Any) -> str:
    """The one database that a swap has put aside."""
    (name,) = [name for name in databases(host) if name not in ("postgres", "white_cross")]
    return name


def inside(host: Any, name: str, statement: str) -> list[list[Any]]:
    """The rows of a SELECT in a database that lets nobody in: it is opened for as long as that takes."""
    execute(host, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true', "postgres")
    try:
        return query(host, statement, name)
    finally:
        execute(host, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false', "postgres")


def assert_kept(host: Any) -> None:
    """Every write that a client was told to be done is in the live database or in the one put aside, and in one only; nobody has ever
    met a server without a database of that name."""
    seen = log(host)
    live = {row[0] for row in query(host, CODES)}
    aside = {row[0] for row in inside(host, put_aside(host), CODES)}
    assert live
    assert aside
    assert live & aside == set()
    assert {line["code"] for line in seen if line["error"] is None} - live - aside == set()
    assert [line for line in seen if "does not exist" in (line["error"] or "")] == []
