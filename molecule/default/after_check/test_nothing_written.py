# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-playbook --check wrote nothing, not even the ledger."""

from __future__ import annotations

from support.hosts import databases, query


def test_no_table_and_no_ledger_exist(host):
    assert query(host, "SELECT nspname FROM pg_namespace WHERE nspname = 'pgops'") == []
    assert query(host, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []


def test_no_backup_and_no_scratch_database_exist(host):
    assert host.run("find /var/backups/pgops -type f").stdout == ""
    assert databases(host) == ["postgres", "white_cross"]
