# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The tables that a version touches, as they are told and analyzed."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import locks, statements


def test_a_table_that_several_statements_and_steps_touch_is_named_once() -> None:
    alter = {"sql": "ALTER TABLE public.pets ADD COLUMN a int; ALTER TABLE public.pets ADD COLUMN b int"}
    indexes = [{"schema": "public", "table": "pets"}, {"schema": "public", "table": "pets"}]
    steps = [{"kind": "sql", "up": [alter, alter]}, {"kind": "indexes", "indexes": indexes}]
    assert statements.tables_of([{"steps": steps}]) == ["public.pets"]


@pytest.mark.parametrize("name", ['P"a', "a -- b", "it's", "a; b", "/* a", "a.b", "ü $$ %s"])
def test_a_quoted_name_may_hold_anything(name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    text = f"ALTER TABLE s.{quoted} ADD COLUMN a text DEFAULT 'x -- it''s' /* ALTER TABLE b */; -- ALTER TABLE c"
    assert locks.tables_in(text) == (("s", name),)
