# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A full disk published nothing, a damaged backup was not restored, and the database is untouched."""

from __future__ import annotations

from support.hosts import databases, value


def test_a_full_disk_publishes_no_backup(host):
    assert host.run("find /var/backups/small -name manifest.json").stdout == ""
    assert host.run("find /var/backups/small -name '*.dat*'").stdout == ""


def test_the_database_is_untouched(host):
    assert databases(host) == ["postgres", "white_cross"]
    assert value(host, "SELECT count(*) FROM students") > 0
