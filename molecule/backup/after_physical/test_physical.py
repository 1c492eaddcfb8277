# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The other engine: proved where pgBackRest knows the server, refused where it does not, and nothing left of either."""

from __future__ import annotations

import json

from support.backups_of_hosts import ids
from support.hosts import databases, major

PROOFS = "/var/backups/pgops/physical-main"
PGBACKREST = "runuser -u postgres -- pgbackrest --config=/etc/pgbackrest/pgops.conf --stanza=main"


def test_it_is_proved_or_there_is_none(host):
    proofs = host.run(f"find {PROOFS} -name '*.proof.json'").stdout.split()
    if major(host) > 15:
        assert proofs == []
        return
    (path,) = proofs
    proof = json.loads(host.file(path).content_string)
    assert proof["databases"]["white_cross"]["rows"] > 0
    assert proof["level"] == 4
    assert host.run(f"{PGBACKREST} check").rc == 0
    (stanza,) = json.loads(host.run(f"{PGBACKREST} --output=json info").stdout)
    assert [(backup["type"], backup["error"]) for backup in stanza["backup"]] == [("full", False)]
    assert stanza["cipher"] == "aes-256-cbc"


def test_nothing_is_left_and_the_logical_backups_are_as_they_were(host):
    assert (
        host.run("ls -d /var/lib/postgresql/*/main.pgops_new_* /var/lib/postgresql/*/main.pgops_proof_*").stdout == ""
    )
    assert databases(host) == ["postgres", "white_cross"]
    assert len(ids(host)) == 3
