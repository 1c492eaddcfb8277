# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What a night has come to: it succeeds when something that was due was done, or nothing was due, and never over a freeze that was not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import maintenance
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_plan import Item, Needs
from support.engine import rows, target_of
from support.maintained import do, filled, maintain, plan, states, work
from support.server import OWNER, Server
from support.site import Playbook

NEVER_FITS = 999.0


def failed(target: Any, items: Sequence[Item], planned: str, **more: Any) -> tuple[PgopsError, dict[str, Any]]:
    """:return: the failure that was expected, and the result that it carries."""
    with pytest.raises(PgopsError) as caught:
        maintenance.maintain(target, items, work(**more), planned=planned)
    return caught.value, caught.value.extra["databases"][target.database]


def worn(target: Any, *names: str) -> None:
    for name in names:
        filled(target, name)
        do(target, f"DELETE FROM {name} WHERE id <= 500")


def test_where_nothing_is_due_it_succeeds_and_says_so(target: Any) -> None:
    filled(target, "calm")
    assert maintain(target)["ended"] == "nothing due"


def test_a_night_in_which_nothing_fitted_has_failed_and_says_what_is_due(target: Any) -> None:
    worn(target, "first", "second")
    made = plan(target)
    error, result = failed(target, [replace(item, forecast_s=NEVER_FITS) for item in made.items], made.at)
    assert result["ended"] == "nothing done"
    assert error.message.startswith(f"None of 2 pieces of work that are due in {target.database} was done")
    assert "it is expected to take 999.0 s" in error.message
    assert "maintenance_budget_s" in str(error.hint)


def test_where_some_was_done_it_succeeds_and_the_rest_is_told(target: Any) -> None:
    worn(target, "small", "large")
    made = plan(target)
    items = [replace(item, forecast_s=NEVER_FITS if item.name == "large" else 0.1) for item in made.items]
    result = maintenance.maintain(target, items, work(), planned=made.at)
    assert result["ended"] == "left some"
    assert result["verdict"].startswith("1 of 2 pieces of work that are due are left, vacuum of public.large first: ")


def test_a_freeze_that_is_due_and_was_not_done_fails_whatever_else_was_done(target: Any) -> None:
    worn(target, "worn")
    filled(target, "old")
    do(target, "DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
    made = plan(target)
    (old,) = [
        item for item in plan(target, Needs(freeze_percent=0.001, index_least_mb=1000)).items if item.name == "old"
    ]
    assert old.action == "freeze"
    items = [*made.items, replace(old, forecast_s=NEVER_FITS)]
    error, result = failed(target, items, made.at)
    assert states(result) == {"public.worn": "done", "public.old": "not begun"}
    assert result["ended"] == "freeze left"
    assert error.message.startswith("The freeze of public.old is due and was not done: it is expected to take 999.0 s")
    assert error.object_name == "public.old"
    (ended,) = rows(target, "SELECT result FROM pgops.run")
    assert ended["result"] == "failed"


def test_what_somebody_else_has_done_meanwhile_is_not_left(target: Any) -> None:
    worn(target, "t")
    made = plan(target)
    do(target, "VACUUM (ANALYZE) t")
    result = maintenance.maintain(target, made.items, work(), planned=made.at)
    assert states(result) == {"public.t": "skipped"}
    assert result["ended"] == "done"


def test_a_database_that_cannot_be_maintained_keeps_no_other_one_from_it(
    server: Server, target: Any, playbook: Playbook
) -> None:
    other = target_of(server, f"{target.database}_other")
    server.create_database(other.database, OWNER)
    for one in (target, other):
        worn(one, "t")
    conn = connect(target, application_name="another one")
    conn.cursor().execute("SELECT pg_advisory_lock(%s)", (maintenance.ONE_KEY,))
    done = playbook(
        "maintenance.yml",
        pgops_databases=[target.database, other.database],
        maintenance_rows_least=100,
        maintenance_index_least_mb=0,
    )
    conn.close()
    assert done.rc == 2
    assert f"Another maintenance of {target.database} is under way" in done.json["error"]["message"]
    assert done.json["hosts"]["local-1"][other.database]["maintenance"]["ended"] == "done"
    assert [item.name for item in plan(other).items] == []


def test_the_run_fails_and_its_page_says_why_where_nothing_was_done(target: Any, playbook: Playbook) -> None:
    worn(target, "t")
    done = playbook("maintenance.yml", maintenance_rows_least=100, maintenance_index_least_mb=0, maintenance_budget_s=0)
    assert done.rc == 2, done.output
    assert "None of 1 pieces of work that are due" in done.json["error"]["message"]
    assert done.json["hosts"]["local-1"][target.database]["maintenance"]["ended"] == "nothing done"
    page = Path(done.json["report"]).read_text(encoding="utf-8")
    assert "It ended: nothing done" in page
