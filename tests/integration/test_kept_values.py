# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What a pattern keeps beside a table is as closed as the table was: nobody reads there what they could not read before."""

from __future__ import annotations

from pathlib import Path

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_lint, migration_tree, scaffold
from support.engine import do, rows, way
from support.server import APP, BACKUP, OWNER, Server

NOTE = {"column": "note", "type": "text", "not_null": "false", "value": "none", "comment": "PHI"}
ILL = {"column": "state", "enum": "State", "value": "ILL", "to_value": "WELL", "neighbour": "WELL"}
KEPT = {"remove_column": ("children_note_kept", NOTE, 2), "remove_enum_value": ("children_state_replaced", ILL, 1)}
CHILDREN = (
    "CREATE TYPE \"State\" AS ENUM ('WELL', 'ILL')",
    "CREATE TABLE children (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), note text, state \"State\" NOT NULL DEFAULT 'WELL')",
    "COMMENT ON COLUMN children.note IS 'PHI'",
    "INSERT INTO children (note, state) VALUES ('asthma', 'ILL')",
    f"GRANT SELECT ON children TO {BACKUP}",
    f"GRANT SELECT (id), INSERT (id) ON children TO {APP}",
)
OPEN_TO_ALL = f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} IN SCHEMA public GRANT ALL ON TABLES TO {APP}, PUBLIC"


def keep(target: Target, folder: Path, pattern: str) -> str:
    """:return: the table beside ``children`` that the pattern has filled."""
    kept, variables, parts = KEPT[pattern]
    (folder / "migrations").mkdir()
    given = {"table": "children", **variables}
    scaffold.write_all(scaffold.plan(folder, "change_it", pattern=pattern, variables=given))
    tree = migration_tree.scan_tree(folder)
    assert [*tree.findings, *migration_lint.lint(tree)] == []
    migrate.apply(target, migration_tree.render(tree), Selection(steps=parts), way())
    assert len(rows(target, f"SELECT FROM {kept}")) == 1
    return kept


@pytest.mark.parametrize("pattern", list(KEPT))
def test_default_privileges_open_nothing_that_was_closed(
    server: Server, target: Target, tmp_path: Path, pattern: str
) -> None:
    do(target, *CHILDREN, OPEN_TO_ALL)
    kept = keep(target, tmp_path, pattern)
    with server.session(target.database, APP) as conn, pytest.raises(psycopg2.errors.InsufficientPrivilege):
        fetch_all(conn, f"SELECT * FROM {kept}")
    with server.session(target.database, BACKUP) as conn:
        assert len(fetch_all(conn, f"SELECT * FROM {kept}")) == 1
        assert fetch_all(conn, f"SELECT has_table_privilege('{APP}', '{kept}', 'INSERT') AS may") == [{"may": False}]


@pytest.mark.parametrize("pattern", list(KEPT))
def test_where_rows_are_hidden_those_kept_are_hidden_too(
    server: Server, target: Target, tmp_path: Path, pattern: str
) -> None:
    do(
        target,
        *CHILDREN,
        f"GRANT SELECT ON children TO {APP}",
        "ALTER TABLE children ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY none ON children FOR SELECT TO {APP} USING (false)",
    )
    kept = keep(target, tmp_path, pattern)
    with server.session(target.database, APP) as conn:
        assert fetch_all(conn, f"SELECT * FROM {kept}") == []
    with server.session(target.database, BACKUP) as conn:
        assert len(fetch_all(conn, f"SELECT * FROM {kept}")) == 1
    migrate.revert(target, Reverts(), way("20260101T000000Z-000002"))
    assert rows(target, "SELECT note, state::text FROM children") == [{"note": "asthma", "state": "ILL"}]
