# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The tables of the core and of health against a list of their own: type, NOT NULL and default of every column."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.whitecross.pgops.plugins.module_utils import connection, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from support import engine
from support.tree import shipped_chain

SQL = Path(__file__).resolve().parents[2] / "sql"
DECLARED = yaml.safe_load(Path(__file__).with_name("core_tables.yml").read_text(encoding="utf-8"))

COLUMNS = """
SELECT c.relname::text AS table,
       concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'not null' END,
                 'default ' || split_part(pg_get_expr(d.adbin, d.adrelid), '::', 1)) AS line
  FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
  LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
"""
DAMAGE = (
    "ALTER TABLE students ALTER COLUMN photo TYPE varchar(501)",
    "ALTER TABLE students ALTER COLUMN gender DROP NOT NULL",
    'ALTER TABLE students ALTER COLUMN "isActive" SET DEFAULT false',
    "ALTER TABLE students ADD COLUMN more text",
)


def found(target: Any) -> dict[str, list[str]]:
    """:return: the columns of each table. Their order is the history's business: old rows decide it."""
    tables: dict[str, list[str]] = {}
    with closing(connection.connect(target, application_name="pgops test")) as conn:
        for row in fetch_all(conn, COLUMNS):
            tables.setdefault(row["table"], []).append(row["line"])
    return {table: sorted(lines) for table, lines in tables.items()}


def differences(target: Any, version: str) -> list[str]:
    """:return: each line that only one side has, with its table."""
    told = []
    there = found(target)
    for table, text in DECLARED[version].items():
        wanted, has = set(text.splitlines()), set(there.get(table, []))
        told += [f"{table}: {line} is missing" for line in sorted(wanted - has)]
        told += [f"{table}: {line} is not declared" for line in sorted(has - wanted)]
    return told


@pytest.mark.majors(15, 18, slow=(15,))
def test_each_column_has_the_type_the_not_null_and_the_default_of_the_platforms_history(target: Any) -> None:
    chain = shipped_chain()
    for version in DECLARED:
        migrate.apply(target, chain, Selection(target=version), engine.way())
        assert differences(target, version) == [], version


def test_another_type_default_or_not_null_is_seen(target: Any) -> None:
    first = next(iter(DECLARED))
    chain = shipped_chain()
    migrate.apply(target, chain, Selection(target=first), engine.way())
    engine.do(target, *DAMAGE)
    assert differences(target, first) == [
        'students: gender "Gender" not null is missing',
        "students: isActive boolean not null default true is missing",
        "students: photo character varying(500) is missing",
        'students: gender "Gender" is not declared',
        "students: isActive boolean not null default false is not declared",
        "students: more text is not declared",
        "students: photo character varying(501) is not declared",
    ]


def test_the_list_holds_each_table_that_these_versions_make(target: Any) -> None:
    """Counted by the catalog: none is left out of the list."""
    chain = shipped_chain()
    migrate.apply(target, chain, Selection(target="20250103000002"), engine.way())
    made = {table for version, tables in DECLARED.items() if version <= "20250103000002" for table in tables}
    assert set(found(target)) == made
    assert len(made) == 14
