# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""adopt.yml as an operator types it: what it shows, writes and records, and that migrate.yml goes on from there."""

from __future__ import annotations

from typing import Any

import pytest
from support import engine, legacy
from support.site import Playbook


@pytest.fixture
def site(playbook: Playbook) -> Playbook:
    playbook.copy_sql()
    return playbook


def folders(site: Playbook) -> list[str]:
    return sorted(path.name for path in (site.folder / "sql" / "migrations").iterdir())


def schemas(target: Any) -> list[str]:
    return [
        row["n"] for row in engine.rows(target, "SELECT nspname::text AS n FROM pg_namespace WHERE nspname = 'pgops'")
    ]


def test_check_mode_shows_the_table_and_the_repair_and_writes_nothing(site: Playbook, target: Any) -> None:
    legacy.sequelize(target, legacy.FIRST_THREE)
    before = folders(site)
    result = site("adopt.yml", "--check", "--diff")
    assert result.rc == 0, result.output
    assert "VERSION         THEIR LEDGER  CATALOG" in result.stdout
    assert "20250103000000  applied       partly present" in result.stdout
    assert "adopt and repair" in result.stdout
    assert '+    ALTER TYPE public.enum_users_role RENAME TO "UserRole";' in result.stdout
    assert folders(site) == before
    assert schemas(target) == []
    assert result.json is not None
    found = result.json["hosts"]["local-1"][site.database]["adopt"]
    assert found["adopted"][:3] == list(legacy.FIRST_THREE)
    assert found["recorded"] == []


def test_adopt_writes_the_repair_records_and_migrate_goes_on(site: Playbook, target: Any) -> None:
    legacy.sequelize(target, legacy.FIRST_THREE)
    before = folders(site)
    result = site("adopt.yml")
    assert result.rc == 0, result.output
    (repair,) = set(folders(site)) - set(before)
    assert repair == "20250103000004_repair_adopted_schema"
    assert "versions adopted" in result.stdout
    assert engine.state(target, "20250103000002")["state"] == "applied"
    status = site("status.yml")
    assert "applied (adopted)" in status.stdout
    migrated = site("migrate.yml")
    assert migrated.rc == 0, migrated.output
    again = site("adopt.yml")
    assert again.rc == 0, again.output
    assert "changed=0" in again.stdout
    assert set(folders(site)) == {*before, repair}
