# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Five backups of five days, and what an expiry makes of them: in the folder, in its record and in the audit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_catalogue,
    backup_deletion,
    backup_expiry,
    backup_pins,
    backup_store,
    connection,
    ledger,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.retention import Policy

from support.backups import RUN, small

NOW = datetime(2026, 1, 14, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
# Keeps the two newest and nothing else.
TWO = Policy(last=2, daily=0, weekly=0, monthly=0, yearly=0)


def expire(target: Any, directory: Path, policy: Policy = TWO, **settings: Any) -> dict[str, Any]:
    asked = backup_expiry.Asked(
        policy,
        environment=settings.pop("environment", "local"),
        run_id=settings.pop("run_id", RUN),
        who="tester on here",
        offline=settings.pop("offline", False),
    )
    return backup_expiry.expire(target, str(directory), asked, now=lambda: NOW, **settings)


def refused(target: Any, directory: Path, policy: Policy = TWO, **settings: Any) -> PgopsError:
    """The refusal, after a look that nothing has gone."""
    before = present(directory, target.database)
    with pytest.raises(PgopsError) as caught:
        expire(target, directory, policy, **settings)
    assert present(directory, target.database) == before
    return caught.value


def present(directory: Path, database: str) -> list[str]:
    """The names in the database's folder, without what is no backup's."""
    own = {backup_store.LOCK, backup_pins.LOCK, backup_catalogue.DELETIONS}
    return sorted(path.name for path in (directory / database).iterdir() if path.name not in own)


def ids(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["id"] for entry in entries]


def record(directory: Path, database: str, event: str) -> list[str]:
    lines = [line for line in backup_deletion.recorded(str(directory / database)) if line["event"] == event]
    return [name for line in lines for name in line.get("ids", [line.get("id")])]


def audited(server: Any, database: str) -> list[str]:
    rows = server.execute(
        "SELECT detail ->> 'id' FROM pgops.audit WHERE event = 'backup_deleted' ORDER BY seq", database=database
    )
    return [name for (name,) in rows]


def make_ledger(target: Any) -> None:
    conn = connection.connect(target, application_name="test")
    ledger.ensure(conn)
    conn.close()


def five(directory: Path, database: str, **settings: Any) -> list[Path]:
    """Five backups, a day apart, the oldest first; the policy of two lets the first three go."""
    return [small(directory, database, NOW - (5 - day) * DAY, **settings) for day in range(5)]
