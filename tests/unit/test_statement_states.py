# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""An ALTER TABLE taken apart: each part as it was written, and what of it turns a state on or off."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import split
from ansible_collections.whitecross.pgops.plugins.plugin_utils.statement_states import parts_of


def parts(text: str) -> tuple[str, list[tuple[str, str | None]]] | None:
    (statement,), _ = split(text, "f")
    told = parts_of(statement.node, statement.sql)
    if told is None:
        return None
    return told["table"], [(part["sql"], part["state"] and part["state"]["kind"]) for part in told["parts"]]


@pytest.mark.parametrize(
    ("text", "table", "wanted"),
    [
        (
            "ALTER TABLE t NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;",
            "ALTER TABLE t",
            [("NO FORCE ROW LEVEL SECURITY", "forced_row_security"), ("DISABLE ROW LEVEL SECURITY", "row_security")],
        ),
        (
            """alter table /* é, */ if exists "S,".t * -- here, too
                ALTER COLUMN "a,b" SET DEFAULT ARRAY['(', 'é,'], -- because
                ADD CHECK (a IN (1, 2)),
                ADD COLUMN n numeric(3, 1) DEFAULT 0, /* end */
                ALTER c DROP NOT NULL -- that is all""",
            'alter table /* é, */ if exists "S,".t *',
            [
                ("ALTER COLUMN \"a,b\" SET DEFAULT ARRAY['(', 'é,']", "default"),
                ("ADD CHECK (a IN (1, 2))", None),
                ("ADD COLUMN n numeric(3, 1) DEFAULT 0", None),
                ("ALTER c DROP NOT NULL", "not_null"),
            ],
        ),
        (
            "ALTER TABLE ONLY (public.t) ALTER a DROP DEFAULT",
            "ALTER TABLE ONLY (public.t)",
            [("ALTER a DROP DEFAULT", "default")],
        ),
    ],
)
def test_each_part_is_as_it_was_written(text: str, table: str, wanted: list[tuple[str, str | None]]) -> None:
    assert parts(text) == (table, wanted)


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE t ADD COLUMN a integer, DROP COLUMN IF EXISTS b",
        "ALTER VIEW v ALTER COLUMN a SET DEFAULT 1",
        "ALTER TABLE t RENAME TO u",
        "DROP POLICY IF EXISTS p ON t",
    ],
)
def test_of_other_statements_nothing_is_told(text: str) -> None:
    assert parts(text) is None
