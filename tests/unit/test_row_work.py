# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a version needs the rows that are there, and so does nothing in an empty copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tree import TestTree

V1 = "20260101000000"
NOTES = "CREATE TABLE public.notes (id bigint PRIMARY KEY, note text);\n"


def rendered(tmp_path: Path, up: str, strategy: str = "blue_green") -> dict[str, Any]:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "x", up, "SELECT 1;", strategy=strategy)
    (migration,) = tree.render()
    return migration


@pytest.mark.parametrize(
    ("up", "what"),
    [
        ("-- first\nUPDATE public.old SET a = 1;", "writes rows"),
        ("DELETE FROM public.old;", "writes rows"),
        ("MERGE INTO public.old o USING public.n n ON o.id = n.id WHEN MATCHED THEN DELETE;", "writes rows"),
        ("WITH gone AS (DELETE FROM public.old RETURNING id) SELECT count(*) FROM gone;", "writes rows"),
        (NOTES + "INSERT INTO public.notes SELECT id, note FROM public.old;", "takes from public.old"),
        (NOTES + "INSERT INTO public.notes VALUES ((SELECT max(id) FROM public.old), '');", "takes from public.old"),
        (NOTES + "INSERT INTO public.notes SELECT * FROM public.rows_of();", "takes from a function"),
        (NOTES + "WITH o AS (SELECT id FROM public.old) INSERT INTO public.notes SELECT id FROM o;", "from public.old"),
        (
            "WITH n AS (INSERT INTO public.n SELECT id FROM public.old RETURNING id) SELECT id FROM n;",
            "from public.old",
        ),
        ("CREATE TABLE public.levels AS SELECT id FROM public.old;", "takes from public.old"),
        ("CREATE TABLE public.levels AS TABLE public.old;", "takes from public.old"),
        ("SELECT id INTO public.levels FROM public.old;", "takes from public.old"),
        ("TRUNCATE public.old;", "empties public.old"),
        ("ALTER TABLE public.old ALTER COLUMN a TYPE bigint USING (a * 100)::bigint;", "computes the values of a"),
        ("ALTER TABLE public.old ALTER COLUMN a TYPE text USING a::integer;", "computes the values of a"),
        ("CALL public.fill();", "calls a procedure"),
        ("SELECT public.fill();", "calls a function"),
        ("SELECT fill();", "calls a function"),
        ("DO $$ BEGIN INSERT INTO public.notes SELECT id FROM public.old; END $$;", "takes from public.old"),
        ("DO $$ BEGIN EXECUTE format('UPDATE %I SET a = 1', 'old'); END $$;", "writes rows"),
        ("DO $$ DECLARE s text; BEGIN SELECT x INTO s FROM public.c; EXECUTE s; END $$;", "put"),
        ("DO $$ BEGIN PERFORM public.fill(); END $$;", "calls a function"),
        ("DO $$ BEGIN CALL public.fill(); END $$;", "calls a procedure"),
        ("DO LANGUAGE plperl 'x';", "cannot be read"),
    ],
)
def test_what_needs_the_rows_is_told_with_its_place(tmp_path: Path, up: str, what: str) -> None:
    found = rendered(tmp_path, up)["row_work"]
    assert found and what in found[0]["what"]
    assert found[0]["where"].split("/")[-1].startswith("up.sql.j2:")


@pytest.mark.parametrize(
    "up",
    [
        "ALTER TABLE public.old ALTER COLUMN a TYPE bigint;",
        "ALTER TABLE public.old ALTER COLUMN a TYPE bigint USING a::bigint, ALTER COLUMN b TYPE text USING b;",
        NOTES + "INSERT INTO public.notes VALUES (1, 'seed') ON CONFLICT DO NOTHING;",
        NOTES + "INSERT INTO public.notes SELECT g, 'seed' FROM generate_series(1, 3) AS g;",
        NOTES + "WITH o (id) AS (VALUES (1)) INSERT INTO public.notes SELECT id FROM o;",
        "CREATE TABLE public.levels AS SELECT id FROM public.old WITH NO DATA;",
        "CREATE MATERIALIZED VIEW public.busy AS SELECT count(*) FROM public.old;",
        "CREATE FUNCTION public.f() RETURNS void LANGUAGE sql AS 'UPDATE public.old SET a = 1';",
        "SELECT setval('public.s', 7);",
        """DO $$ DECLARE n int; BEGIN SELECT count(*) INTO n FROM public.old; n := n + 1;
        EXECUTE format('CREATE TABLE public.p%s (id int)', n); END $$;""",
    ],
)
def test_what_does_not_is_left_alone(tmp_path: Path, up: str) -> None:
    assert rendered(tmp_path, up)["row_work"] == []


def test_a_version_that_is_applied_online_is_not_looked_at(tmp_path: Path) -> None:
    assert "row_work" not in rendered(tmp_path, "UPDATE public.old SET a = 1;", strategy="online")
