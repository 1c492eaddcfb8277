# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a way down drops is read from its text, the database before the schema of a name or not."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.going_down import Drop, dropped

VERSION = "20260101000001"
DROPS = {
    "DROP TABLE IF EXISTS db.s.a CASCADE": Drop(VERSION, "table", "s", "a", cascade=True),
    "DROP VIEW a": Drop(VERSION, "view", "public", "a"),
    'ALTER TABLE "D b".s.a DROP COLUMN b': Drop(VERSION, "column", "s", "b", "a"),
    "DROP TRIGGER t ON db.s.a": Drop(VERSION, "trigger", "s", "t", "a"),
    "DROP FUNCTION db.s.f(integer)": Drop(VERSION, "function", "s", "f", arguments="(integer)"),
}


@pytest.mark.parametrize("text", DROPS)
def test_a_drop_is_read_with_its_schema(text: str) -> None:
    assert dropped(VERSION, {"sql": text}) == [DROPS[text]]
    assert dropped(VERSION, {"sql": f"DO $$ BEGIN {text}; END $$"}) == [DROPS[text]]
