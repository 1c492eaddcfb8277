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


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES a (id) ON UPDATE CASCADE ON DELETE RESTRICT",
        "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES a (id) ON UPDATE NO ACTION",
        "UPDATE a SET b = 1; SELECT 1 FROM c FOR UPDATE NOWAIT",
        "CREATE TRIGGER t BEFORE INSERT OR UPDATE OF b ON a EXECUTE FUNCTION f()",
        "ALTER TABLE a ADD b int; CREATE POLICY p ON c FOR UPDATE TO nurse USING (true); GRANT UPDATE ON c TO nurse",
    ],
)
def test_a_word_behind_update_is_no_table(statement: str) -> None:
    assert locks.tables_in(statement) == (("public", "a"),)


def test_a_quoted_table_may_have_such_a_name() -> None:
    assert locks.tables_in('UPDATE "to" SET a = 1') == (("public", "to"),)
