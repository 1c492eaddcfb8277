# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""--check has planned what was worn and nothing else, and the server has seen none of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from support.hosts import query, value

PLANNED = [
    ("vacuum", "public.worn"),
    ("analyze", "public.grown"),
    ("reindex", "public.hollow_pkey"),
    ("reindex", "public.hollow_said"),
]


def plan(host):
    document = json.loads((Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "planned.json").read_text())
    return document["hosts"][host.backend.name]["white_cross"]["maintenance_plan"]


def test_what_was_worn_is_planned_with_its_evidence(host):
    items = plan(host)["items"]
    assert sorted((item["action"], item["object"]) for item in items) == sorted(PLANNED)
    why = {item["object"]: " ".join(item["reasons"]) for item in items}
    assert "10,000 dead rows beside 10,000" in why["public.worn"]
    assert "1,500 rows modified since the last ANALYZE" in why["public.grown"]
    assert "as measured" in why["public.hollow_pkey"] and "as measured" in why["public.hollow_said"]


def test_the_air_in_the_table_is_told_with_the_way_out(host):
    (told,) = plan(host)["report"]["table_bloat"]
    assert told["table"] == "public.hollow" and told["percent"] > 80
    assert "VACUUM (FULL" in told["way_out"]


def test_nothing_was_written(host):
    counted = "SELECT relname::text, vacuum_count, analyze_count FROM pg_stat_user_tables WHERE relname IN ('worn', 'grown') ORDER BY 1"
    assert query(host, counted) == [["grown", 1, 1], ["worn", 1, 1]]
    assert value(host, "SELECT to_regnamespace('pgops')::text") is None
    assert value(host, "SELECT pg_relation_size('hollow_pkey')") > 2_000_000
