# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A batch changes the rows of its keys: statements that are held to them, and statements that are not."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils.batch_bounds import Bounds
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar


def bounds(statement: str, *key: str) -> Bounds:
    (raw,) = grammar().parser.parse_sql(statement)
    return Bounds(raw.stmt, ("public", "people"), key or ("id",))


UPDATE = "UPDATE public.people SET done = done + 1 WHERE "


@pytest.mark.parametrize(
    "statement",
    [
        UPDATE + "id BETWEEN $1 AND $2",
        UPDATE + "id >= $1 AND id <= $2 AND done IS NULL",
        UPDATE + "$1 <= people.id AND $2 >= people.id",
        UPDATE + "(done = 1 OR name = 'x') AND (id BETWEEN $1 AND $2)",
        UPDATE + "id BETWEEN $1::uuid AND $2::uuid",
        "UPDATE people SET done = 1 WHERE id BETWEEN $1 AND $2",
        "UPDATE public.people AS p SET done = k.n FROM public.kept AS k WHERE k.id = p.id AND p.id BETWEEN $1 AND $2",
        "UPDATE public.people AS p SET done = k.n FROM public.kept AS k WHERE k.id = p.id AND k.id BETWEEN $1 AND $2",
        ("UPDATE public.people AS p SET done = k.n FROM (SELECT id, 1 AS n FROM public.people WHERE id BETWEEN $1 AND $2) AS k "
        "WHERE p.id = k.id"),
        ("WITH k AS (SELECT id FROM public.people WHERE id BETWEEN $1 AND $2 FOR UPDATE) "
        "UPDATE public.people AS p SET done = 1 FROM k WHERE p.id = k.id"),
        "UPDATE public.people SET done = 1 WHERE id IN (SELECT id FROM public.people WHERE id BETWEEN $1 AND $2)",
        "UPDATE public.pets SET done = 1 FROM public.people AS p WHERE pets.owner = p.id AND p.id BETWEEN $1 AND $2",
        "UPDATE public.pets SET done = 1 WHERE EXISTS (SELECT FROM public.people AS p WHERE p.id = owner AND p.id BETWEEN $1 AND $2)",
        "DELETE FROM public.people WHERE id BETWEEN $1 AND $2 AND done = 1",
        "DELETE FROM public.people AS p USING public.kept AS k WHERE k.id = p.id AND p.id BETWEEN $1 AND $2",
        "INSERT INTO public.kept SELECT id, name FROM public.people WHERE id BETWEEN $1 AND $2 ON CONFLICT DO NOTHING",
        "INSERT INTO public.kept SELECT p.id FROM public.people AS p JOIN public.pets AS t ON t.owner = p.id AND p.id BETWEEN $1 AND $2",
        "INSERT INTO public.kept SELECT id FROM public.people LEFT JOIN public.pets ON owner = people.id WHERE people.id BETWEEN $1 AND $2",
        ("WITH changed AS (UPDATE public.people SET done = 1 WHERE id BETWEEN $1 AND $2 RETURNING id) "
        "INSERT INTO public.kept SELECT id FROM changed"),
        ("MERGE INTO public.people AS p USING (SELECT id FROM public.people WHERE id BETWEEN $1 AND $2) AS s ON s.id = p.id "
        "WHEN MATCHED THEN UPDATE SET done = 1"),
        "SELECT public.touch(id) FROM public.people WHERE id BETWEEN $1 AND $2",
    ],
)  # fmt: skip
def test_both_ends_of_the_key_hold_a_batch(statement: str) -> None:
    assert bounds(statement).fault is None


@pytest.mark.parametrize(
    "statement",
    [
        UPDATE + "id > $1 AND id <= $2",
        UPDATE + "id >= $1 AND id < $2",
        UPDATE + "id >= $1 AND id >= $2",
        UPDATE + "id BETWEEN $2 AND $1",
        UPDATE + "id BETWEEN $1 AND $2 OR true",
        UPDATE + "NOT (id BETWEEN $1 AND $2)",
        UPDATE + "id NOT BETWEEN $1 AND $2",
        UPDATE + "id BETWEEN SYMMETRIC $1 AND $2",
        UPDATE + "id + 1 BETWEEN $1 AND $2",
        UPDATE + "id BETWEEN $1 AND $2 + 1",
        # Up to a day's first moment.
        UPDATE + "id BETWEEN $1::date AND $2::date",
        UPDATE + "done BETWEEN $1 AND $2",
        UPDATE + "true OR $1 = $2",
        "UPDATE public.pets SET done = 1 WHERE id BETWEEN $1 AND $2",
        "UPDATE public.people AS p SET done = 1 FROM public.kept AS k WHERE k.id BETWEEN $1 AND $2",
        "UPDATE public.people SET done = 1 FROM (SELECT id FROM public.people WHERE id BETWEEN $1 AND $2) AS k",
        "UPDATE public.people SET done = 1 WHERE EXISTS (SELECT FROM public.people WHERE id BETWEEN $1 AND $2)",
        "UPDATE public.people SET done = 1 WHERE id NOT IN (SELECT id FROM public.people WHERE id BETWEEN $1 AND $2)",
        "WITH k AS (SELECT id FROM public.people WHERE id BETWEEN $1 AND $2) UPDATE public.people SET done = 1",
        ("WITH changed AS (UPDATE public.people SET done = 1 RETURNING id) "
        "INSERT INTO public.kept SELECT id FROM public.people WHERE id BETWEEN $1 AND $2"),
        "INSERT INTO public.kept SELECT id FROM public.people UNION ALL SELECT id FROM public.people WHERE id BETWEEN $1 AND $2",
        "INSERT INTO public.kept SELECT s.id FROM public.pets AS s LEFT JOIN public.people AS p ON p.id BETWEEN $1 AND $2",
        "INSERT INTO public.kept VALUES ($1), ($2)",
    ],
)  # fmt: skip
def test_a_statement_that_is_not_held_to_its_keys_is_refused(statement: str) -> None:
    assert str(bounds(statement).fault).startswith(
        "a backfill must be bounded by $1 and $2, the first and the last key of a batch (both inclusive): "
        "WHERE id BETWEEN $1 AND $2, and what else must hold with AND"
    )


@pytest.mark.parametrize("more", ["$1 = $2", "done <> $1", "(id > $1 OR done = 1)", "id <> $2"])
def test_the_ends_of_a_batch_stand_nowhere_else(more: str) -> None:
    fault = bounds(f"{UPDATE} id BETWEEN $1 AND $2 AND {more}").fault
    assert "the first and the last key of a batch (both inclusive), and these stand nowhere else: WHERE id" in str(
        fault
    )


@pytest.mark.parametrize(
    ("condition", "right"),
    [
        ("(school, pupil) BETWEEN ($1, $2) AND ($3, $4)", True),
        ("(people.school, people.pupil) BETWEEN ($1, $2) AND ($3, $4) AND done IS NULL", True),
        ("(school, pupil) >= ($1, $2) AND (school, pupil) <= ($3, $4)", True),
        ("ROW(school, pupil) >= ROW($1, $2) AND ($3, $4) >= (school, pupil)", True),
        ("(pupil, school) BETWEEN ($1, $2) AND ($3, $4)", False),
        ("(school, pupil) BETWEEN ($1, $3) AND ($2, $4)", False),
        ("(school, pupil) > ($1, $2) AND (school, pupil) <= ($3, $4)", False),
        # Not the order of the key: a row of the school between is left out.
        ("school BETWEEN $1 AND $3 AND pupil BETWEEN $2 AND $4", False),
    ],
)
def test_a_key_of_several_columns_is_compared_as_a_row(condition: str, right: bool) -> None:
    fault = bounds(UPDATE + condition, "school", "pupil").fault
    assert (fault is None) is right
    assert right or "must be bounded by ($1, $2) and ($3, $4)" in str(fault)


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        (UPDATE + "id BETWEEN $1 AND $2", "all"),
        ("DELETE FROM public.people AS p WHERE p.id >= $1 AND p.id <= $2", "all"),
        (UPDATE + "id BETWEEN $1 AND $2 AND done IS NULL", "own"),
        ("UPDATE public.people AS p SET done = 1 FROM public.kept AS k WHERE k.id = p.id AND p.id BETWEEN $1 AND $2", "own"),
        ("WITH c AS (UPDATE public.people SET done = 1 WHERE id BETWEEN $1 AND $2 RETURNING id) INSERT INTO kept SELECT id FROM c", None),
        ("INSERT INTO public.kept SELECT id, 'a' FROM public.people WHERE id BETWEEN $1 AND $2", None),
        ("UPDATE public.pets SET done = 1 FROM public.people AS p WHERE pets.owner = p.id AND p.id BETWEEN $1 AND $2", None),
    ],
)  # fmt: skip
def test_it_tells_which_rows_of_the_table_it_counts(statement: str, rows: str | None) -> None:
    assert bounds(statement).rows == rows
