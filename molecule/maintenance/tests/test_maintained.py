# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was planned is done as the server itself counts it, once; what was archived is what is gone."""

from __future__ import annotations

import json
import os
from pathlib import Path

from support.hosts import query, value


def told(host, name):
    document = json.loads((Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / f"{name}.json").read_text())
    return document["hosts"][host.backend.name]["white_cross"]


def test_everything_that_was_planned_was_done_and_proved(host):
    done = told(host, "done")["maintenance"]
    assert done["counts"] == {"done": len(told(host, "planned")["maintenance_plan"]["items"])}
    proof = {item["object"]: item for item in done["items"]}
    assert set(proof) == {"public.worn", "public.grown", "public.hollow_pkey", "public.hollow_said"}
    for index in ("hollow_pkey", "hollow_said"):
        item = proof[f"public.{index}"]
        assert item["bytes_after"] == value(host, f"SELECT pg_relation_size('{index}')") < item["bytes_before"] / 4
    assert done["given_back"] > 3_000_000


def test_the_server_has_counted_it_and_what_needed_nothing_was_left_alone(host):
    counted = "SELECT relname::text, vacuum_count, analyze_count FROM pg_stat_user_tables WHERE schemaname = 'public' ORDER BY 1"
    assert query(host, counted) == [
        ["calm", 1, 1], ["deliveries", 1, 1], ["grown", 1, 2], ["hollow", 1, 1], ["worn", 2, 2],
    ]  # fmt: skip
    assert value(host, "SELECT count(*) FROM pg_class WHERE relname ~ '_cc(new|old)'") == 0


def test_the_next_run_has_found_nothing_to_do(host):
    again = told(host, "again")
    assert again["maintenance_plan"]["items"] == []
    assert value(host, "SELECT count(*) FROM pgops.audit WHERE event = 'maintained'") == 1
    assert value(host, "SELECT count(*) FROM pgops.audit WHERE event = 'index_rebuilt'") == 2


def test_rows_that_are_kept_no_longer_are_archived_and_gone(host):
    assert query(host, "SELECT count(*), min(id) FROM deliveries") == [[200, 301]]
    files = host.check_output("find /var/backups/retired -type f").split()
    assert host.check_output(f"stat -c %a {files[0]}") == "600"
    archived = [json.loads(line) for file in files for line in host.file(file).content_string.splitlines()]
    assert sorted(row["id"] for row in archived if "id" in row) == list(range(1, 301))
    assert value(host, "SELECT count(*) FROM pgops.audit WHERE event = 'rows_retired'") >= 1
