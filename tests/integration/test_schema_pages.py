# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""docs/schema.md and docs/order.md are what the tree makes, on every major; what they say is read from the database."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import connection
from support.tree import TestTree

ROOT = Path(__file__).resolve().parents[2]


def load() -> Any:
    spec = importlib.util.spec_from_file_location("schema_pages", ROOT / "tests" / "setup" / "schema_pages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its own module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


schema_pages = load()


@pytest.fixture
def db(target: Any) -> Iterator[Any]:
    conn = connection.connect(target, application_name="pgops test")
    yield conn
    conn.close()


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_the_pages_are_current(db: Any) -> None:
    for name, text in schema_pages.pages(schema_pages.apply(db)).items():
        page = schema_pages.PAGES[name]
        assert page.read_text(encoding="utf-8").splitlines() == text.splitlines(), (
            f"{page.relative_to(ROOT)} is not what sql/migrations makes any more. Write it anew: {schema_pages.COMMAND}"
        )


def test_the_makefile_has_the_command_that_the_pages_name() -> None:
    target = schema_pages.COMMAND.split()[1]
    assert re.search(rf"^{target}: .*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for page in schema_pages.PAGES.values():
        assert schema_pages.WRITTEN in page.read_text(encoding="utf-8")


FIRST = """
CREATE TYPE public."Mood" AS ENUM ('GLAD', 'SAD');
CREATE TABLE public.nurses (id uuid NOT NULL DEFAULT gen_random_uuid(), CONSTRAINT nurses_pkey PRIMARY KEY (id));
COMMENT ON TABLE public.nurses IS 'Staff.';
CREATE TABLE public.visits (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    "nurseId" uuid NOT NULL,
    mood public."Mood",
    text text CONSTRAINT visits_text CHECK (text <> 'a|b'),
    remark text,
    CONSTRAINT visits_pkey PRIMARY KEY (id),
    CONSTRAINT visits_nurse FOREIGN KEY ("nurseId") REFERENCES public.nurses (id) ON UPDATE CASCADE ON DELETE RESTRICT
);
CREATE INDEX visits_nurse_idx ON public.visits ("nurseId");
COMMENT ON TABLE public.visits IS 'PHI: What a nurse did.';
COMMENT ON COLUMN public.visits.text IS 'PHI: what happened';
COMMENT ON COLUMN public.visits.remark IS 'PHI: possible, free text';
COMMENT ON CONSTRAINT visits_nurse ON public.visits IS 'The log is kept.';
"""
DOWN = 'DROP TABLE public.visits; DROP TABLE public.nurses; DROP TYPE public."Mood";'


@pytest.fixture
def small(db: Any, tmp_path: Path) -> dict[str, str]:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql("20260101000000", "create_ward", FIRST, DOWN, phase="core", phi=True)
    tree.add(
        "20260102000000",
        "quicken",
        [
            {"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}, "name": "column"},
            {"indexes": "indexes.yml"},
        ],
        {
            "up.sql.j2": "ALTER TABLE public.nurses ADD COLUMN name text;",
            "down.sql.j2": "ALTER TABLE public.nurses DROP COLUMN name;",
            "indexes.yml": [
                {
                    "name": "visits_mood_idx",
                    "table": "visits",
                    "columns": ["mood"],
                    "phi": True,
                    "why": "By mood | alone.",
                }
            ],
            "verify.sql.j2": "SELECT 'x' AS object, 'x' AS expected, 'x' AS found WHERE false;\n",
        },
        risk="medium",
        depends_on=["20260101000000"],
        rollback={"safety": "partial", "stays": "A name."},
    )
    return schema_pages.pages(schema_pages.apply(db, tree.folder))


def test_the_schema_page_tells_tables_columns_keys_and_indexes(small: dict[str, str]) -> None:
    lines = small["schema"].splitlines()
    for line in (
        "## Ward",
        "### visits",
        "PHI: What a nurse did.",
        '    nurses ||--o{ visits : "nurseId"',
        "        uuid id PK",
        "        uuid nurseId FK",
        "| `id` | uuid | no | `gen_random_uuid()` |  |  |",
        "| `mood` | Mood | yes |  |  |  |",
        "| `text` | text | yes |  | yes | what happened |",
        "| `remark` | text | yes |  | possible | free text |",
        "| `visits_nurse` | nurseId | `nurses` | CASCADE | RESTRICT | The log is kept. |",
        "| `visits` (nurseId) | `nurses` | The log is kept. |",
        "| `visits_pkey` | unique `btree (id)` | Primary key. |",
        "| `visits_nurse_idx` | `btree (\"nurseId\")` | Rows of one parent in `nurses`, and its delete. |",
        "| `visits_mood_idx` | `btree (mood)` | By mood \\| alone. |",
        "| `Mood` | GLAD, SAD | `visits.mood` |",
    ):  # fmt: skip
        assert line in lines, line
    assert "a\\|b" in small["schema"]
    assert "these lack the column: `visits`" in small["schema"]


def test_the_order_page_tells_locks_dependencies_and_the_way_back(small: dict[str, str]) -> None:
    lines = small["order"].splitlines()
    for line in (
        "| 1 | [`20260101000000`](#20260101000000-create-ward) create_ward | core | low | yes | none | complete |",
        "| 2 | [`20260102000000`](#20260102000000-quicken) quicken | enhancement | medium | no | ACCESS EXCLUSIVE | partial |",
        "    v20260101000000 --> v20260102000000",
        "| depends on | `20260101000000` |",
        "| tables | `nurses`, `visits` |",
        "| columns of earlier tables | `nurses.name` |",
        "| enum types | `Mood` |",
        "| foreign keys | 1 |",
        "| steps | 1 sql (column), 2 indexes |",
        "| lock | ACCESS EXCLUSIVE on `nurses`; SHARE UPDATE EXCLUSIVE on `visits` |",
        "| way back | partial: A name. |",
    ):
        assert line in lines, line


def test_every_table_and_version_has_its_part() -> None:
    schema = schema_pages.PAGES["schema"].read_text(encoding="utf-8")
    order = schema_pages.PAGES["order"].read_text(encoding="utf-8")
    made = re.findall(r"^CREATE TABLE public\.(\w+)", "\n".join(
        file.read_text(encoding="utf-8") for file in (ROOT / "sql" / "migrations").glob("*/*.sql.j2")
    ), re.MULTILINE)  # fmt: skip
    assert len(made) >= 62
    for table in made:
        assert schema.count(f"\n### {table}\n") == 1, table
    for folder in (ROOT / "sql" / "migrations").glob("2*"):
        version, name = folder.name.split("_", 1)
        assert order.count(f"\n## {version} {name.replace('_', ' ')}\n") == 1, folder.name
    assert "no reason is given" not in schema
    assert "No purpose is given" not in schema
