# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A full disk published nothing, a damaged backup was not restored, and the database is untouched."""

from __future__ import annotations

from support.backups_of_hosts import FOLDER
from support.hosts import databases, value


def test_a_full_disk_publishes_no_backup_and_leaves_those_that_are_there(host):
    listed = "find {} -mindepth 1 -maxdepth 1 -type d -printf '%f\\n'"
    there, before = (
        set(host.run(listed.format(folder)).stdout.split()) for folder in ("/var/backups/small/white_cross", FOLDER)
    )
    assert there == before
    checked = host.run("sha256sum --check --quiet /root/small.sha256")
    assert (checked.rc, checked.stdout) == (0, "")


def test_the_database_is_untouched(host):
    assert databases(host) == ["postgres", "white_cross"]
    assert value(host, "SELECT count(*) FROM students") > 0
