# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A sound database to look at with the shipped checks, and to break."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import preflight
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.preflight_checks import Check
from ansible_collections.whitecross.pgops.plugins.plugin_utils import preflight_data

from support.server import OWNER, RESTORE, SUPERUSER, Server

PLENTY = 1 << 50
# What the servers of the tests do without, and nobody else should.
DURABLE = ("fsync", "full_page_writes")
# Seen only where the server's own disk is.
DISKS = {"disk_data", "disk_wal", "disk_temp"}


def shipped(**changes: Any) -> preflight.Look:
    """The checks that are shipped, with their thresholds; `changes` are fields of the look."""
    data = preflight_data.read()
    look = preflight.Look([Check.of(check) for check in data.checks], data.thresholds, data.versions)
    return replace(look, **changes)


@contextmanager
def durable() -> Iterator[Callable[[Server], None]]:
    """Make servers as durable as a sound one is, each once; at the end all of them are as they were."""
    made: list[Server] = []

    def set_all(server: Server, statement: str, value: str) -> None:
        for name in DURABLE:
            server.execute(statement.format(name))
        server.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and any(server.execute(f"SHOW {name}") != [(value,)] for name in DURABLE):
            time.sleep(0.02)

    def make(server: Server) -> None:
        if server not in made:
            made.append(server)
            set_all(server, "ALTER SYSTEM SET {} = on", "on")

    yield make
    for server in made:
        set_all(server, "ALTER SYSTEM RESET {}", "off")


@dataclass
class World:
    """What a fault is made with; what it changes outside the database is undone by `after`."""

    server: Server
    database: str
    target: Target
    patch: pytest.MonkeyPatch
    after: ExitStack
    free: Callable[[str], int] = lambda path: PLENTY
    backup_directory: str | None = "/tmp"
    health_url: str | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)

    def sql(self, *statements: str, user: str = SUPERUSER) -> None:
        for statement in statements:
            self.server.execute(statement, database=self.database, user=user)

    def undo(self, *statements: str) -> None:
        self.after.callback(self.sql, *statements)

    def session(self, user: str = SUPERUSER, *, autocommit: bool = True) -> Any:
        return self.after.enter_context(self.server.session(self.database, user, autocommit=autocommit))

    def plain_restore_role(self, *granted: str, attributes: str = "CREATEDB") -> None:
        """As on a managed server: the restore role is no superuser."""
        self.undo(f"ALTER ROLE {RESTORE} SUPERUSER NOCREATEDB NOBYPASSRLS")
        self.sql(f"ALTER ROLE {RESTORE} NOSUPERUSER {attributes}")
        for role in granted:
            self.undo(f"REVOKE {role} FROM {RESTORE}")
            self.sql(f"GRANT {role} TO {RESTORE}")

    def seen(self) -> preflight.Look:
        """With what a look is made: the shipped one, with what the fault has changed of it."""
        shipped_thresholds = shipped().thresholds
        assert self.thresholds.keys() <= shipped_thresholds.keys()
        return shipped(
            thresholds={**shipped_thresholds, **self.thresholds},
            backup_directory=self.backup_directory,
            health_url=self.health_url,
            free_bytes=self.free,
            **self.changes,
        )

    def look(self) -> dict[str, Any]:
        return preflight.report(self.target, self.seen(), application_name="pgops preflight")

    def until(self, query: str, *, seconds: float = 20) -> None:
        """Wait until the query has a row: what a session did reaches the statistics when it ends."""
        deadline = time.monotonic() + seconds
        while not self.server.execute(query, database=self.database):
            assert time.monotonic() < deadline, f"never seen: {query}"
            time.sleep(0.02)


@contextmanager
def made(server: Server, database: str, target: Target, patch: pytest.MonkeyPatch) -> Iterator[World]:
    """A database with one table of two rows, in which nothing is wrong."""
    with ExitStack() as after:
        world = World(server, database, target, patch, after)
        world.sql("CREATE TABLE public.students (id int PRIMARY KEY, name text)", user=SUPERUSER)
        world.sql(
            f"ALTER TABLE public.students OWNER TO {OWNER}", "INSERT INTO public.students VALUES (1, 'a'), (2, 'a')"
        )
        yield world


def red(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is not ok, by check."""
    return {check["check"]: check for check in report["checks"] if check["level"] != "ok" and not check.get("unknown")}


def blind(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What could not be seen, by check."""
    return {check["check"]: check for check in report["checks"] if check.get("unknown")}
