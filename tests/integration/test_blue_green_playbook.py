# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""blue_green.yml, as an operator types it: prepare, look, change over, go back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import blue_green
from support.blue_green import WIDE, change_of, connection_of, fill, slots, versions
from support.engine import way
from support.site import Playbook
from support.tree import TestTree


@pytest.fixture
def site(playbook: Playbook, server: Any, target: Any, database: str, tmp_path: Path) -> Iterator[Playbook]:
    """A filled database in which what is online is applied, and one version that is not."""
    tree = TestTree(tmp_path / "tree")
    fill(server, target, versions(tree))
    playbook.variables["pgops_sql"] = str(tree.folder)
    playbook.variables["blue_green_connection"] = connection_of(server)
    yield playbook
    blue_green.give_up(change_of(server, target))


def state(result: Any, database: str) -> dict[str, Any]:
    return result.json["hosts"]["local-1"][database]["blue_green"]


@pytest.mark.slow
def test_prepare_look_change_over_and_back(site: Playbook, server: Any, database: str) -> None:
    refused = site("migrate.yml")
    assert refused.rc == 2 and "strategy: blue_green" in refused.output
    shown = site("blue_green.yml", "--check", blue_green_stage="prepare")
    assert shown.rc == 0 and state(shown, database)["versions"] == [WIDE]
    assert slots(server, database) == 0

    prepared = site("blue_green.yml", blue_green_stage="prepare")
    assert prepared.rc == 0, prepared.output
    assert f"{database}_green is in step with {WIDE} in it; the schema of {database} is frozen" in prepared.output
    assert "600 rows of 3 tables are equal" in prepared.output
    looked = site("blue_green.yml")
    assert state(looked, database)["state"] == "ready" and "holds back" in looked.output
    # Not without the name of the database.
    unsure = site("blue_green.yml", blue_green_stage="change_over")
    assert unsure.rc == 2 and f"blue_green_confirm={database}" in unsure.output

    server.execute("INSERT INTO students (name) VALUES ('meanwhile')", database=database)
    over = site("blue_green.yml", blue_green_stage="change_over", blue_green_confirm=database)
    assert over.rc == 0, over.output
    assert "clients were kept out for" in over.output
    assert state(over, database)["left"] is None and slots(server, database) == 0
    assert server.execute("SELECT count(*) FROM students WHERE level = 'low'", database=database) == [(201,)]
    assert site("migrate.yml", "--check").rc == 0

    back = site("rollback.yml", rollback_strategy="undo_swap", rollback_confirm=database)
    assert back.rc == 0, back.output
    assert server.execute("SELECT count(*) FROM students", database=database) == [(201,)]
    assert server.execute("SELECT evtname FROM pg_event_trigger", database=database) == []


@pytest.mark.slow
def test_give_up_leaves_nothing_and_a_gate_or_a_shut_window_refuses(
    site: Playbook, server: Any, target: Any, database: str
) -> None:
    blue_green.prepare(change_of(server, target), versions(TestTree(Path(site.variables["pgops_sql"]))), way())
    shut = site(
        "blue_green.yml", blue_green_stage="change_over", blue_green_confirm=database,
        migrate_windows=[{"opens": "*-02-29 02:00 UTC", "lasts": "1h"}],
    )  # fmt: skip
    assert shut.rc == 2 and "Nothing was changed over" in shut.output
    gated = site("blue_green.yml", blue_green_stage="change_over", blue_green_confirm=database, gate_required=True)
    assert gated.rc == 2 and "this environment has a gate" in gated.output
    given_up = site("blue_green.yml", blue_green_stage="give_up")
    assert given_up.rc == 0 and f"{database}_green" in given_up.output
    assert slots(server, database) == 0
    assert server.execute(f"SELECT count(*) FROM pg_database WHERE datname = '{database}_green'") == [(0,)]
    refused = site("blue_green.yml", blue_green_stage="prepare", blue_green_connection={"passwd": "x"})
    assert refused.rc == 2 and "password file" in refused.output
    assert slots(server, database) == 0


@pytest.mark.slow
def test_a_change_over_behind_a_broken_glass_is_shouted_and_kept(
    site: Playbook, server: Any, target: Any, database: str
) -> None:
    blue_green.prepare(change_of(server, target), versions(TestTree(Path(site.variables["pgops_sql"]))), way())
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    over = site(
        "blue_green.yml", blue_green_stage="change_over", blue_green_confirm=database, gate_required=True,
        gate_break_glass_by="Ada Byron", gate_break_glass_reason="the vendor's key runs out tonight", gate_break_glass_expires=soon,
    )  # fmt: skip
    assert over.rc == 0, over.output
    assert "BREAK GLASS" in over.stdout and "Ada Byron" in over.stdout
    kept = server.execute("SELECT string_agg(detail::text, ' ') FROM pgops.audit", database=database)[0][0]
    assert "Ada Byron" in kept and "the vendor's key runs out tonight" in kept
    assert any("Ada Byron" in line for line in over.json["break_glass"])
    assert "Ada Byron" in Path(over.json["report"]).read_text(encoding="utf-8")
