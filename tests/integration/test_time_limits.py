# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A time limit is told from a cancel by how long the statement ran: SQLSTATE 57014 is both, and the text is the server's language."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from support.engine import do, state, way
from support.tree import NO_DIFFERENCE, TestTree

V1 = "20260101000001"
# The embedded server has no translations, so this stands for one with lc_messages = de_DE: it ends the statement just before
# the limit of a second would.
GERMAN = ("storniere Anfrage wegen Zeitüberschreitung der Anfrage", 0.992)
# A person's pg_cancel_backend, who ends it early, whatever the text says.
EARLY = ("canceling statement due to statement timeout", 0.1)

STEPS: dict[str, dict[str, Any]] = {
    "sql": {"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}},
    "validate": {"validate": [{"table": "people", "constraint": "ended"}]},
    "indexes": {"indexes": "indexes.yml"},
    "backfill": {
        "backfill": {"table": "people", "key": "id", "statement": "up.sql.j2", "adapt": False, "irreversible": "a test"}
    },
}
UPS = {
    "sql": "SELECT public.ended(name) FROM public.people;",
    "backfill": "UPDATE public.people SET name = 'x' WHERE id BETWEEN $1 AND $2 AND public.ended(name);",
}


def migrations(folder: Path, kind: str) -> list[dict[str, Any]]:
    """One version of one step that runs into what ends it."""
    tree = TestTree(folder / "sql")
    files: dict[str, Any] = {"verify.sql.j2": NO_DIFFERENCE}
    if kind in UPS:
        files["up.sql.j2"] = UPS[kind]
    if kind == "sql":
        files["down.sql.j2"] = "SELECT 1;"
    if kind == "indexes":
        files["indexes.yml"] = [
            {"name": "people_ended", "table": "people", "columns": [{"expression": "public.ended(name)"}], "why": "x"}
        ]
    tree.add(
        V1,
        "slow",
        [STEPS[kind]],
        files,
        rollback={"safety": "partial", "stays": "a test"},
        budgets={"statement_timeout_s": 1, "index_timeout_s": 1},
    )
    return tree.render()


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize(("text", "seconds"), [GERMAN, EARLY], ids=["limit", "cancel"])
def test_whatever_the_text_says(target: Any, tmp_path: Path, kind: str, text: str, seconds: float) -> None:
    do(
        target,
        "CREATE TABLE public.people (id integer PRIMARY KEY, name text)",
        "INSERT INTO public.people VALUES (1, 'Doe')",
        f"""CREATE FUNCTION public.ended(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_sleep({seconds}); RAISE EXCEPTION '{text}' USING ERRCODE = '57014'; END $$""",
        "ALTER TABLE public.people ADD CONSTRAINT ended CHECK (public.ended(name)) NOT VALID",
    )
    if kind == "backfill":
        do(target, "ALTER TABLE public.people DROP CONSTRAINT ended")
    with pytest.raises(PgopsError) as caught:
        migrate.apply(target, migrations(tmp_path, kind), Selection(), way())
    error, limit = caught.value, seconds > 0.5
    assert error.sqlstate == "57014"
    assert ("hit its time limit of 1 s" in error.message) is limit
    assert (state(target, V1)["reason"] == "time_limit") is limit
    assert limit or "ended(text) line 2 at RAISE raised an error" in error.message
