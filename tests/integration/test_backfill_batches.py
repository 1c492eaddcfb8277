# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Batches by keys of several columns, as large as their time allows; what they may not remove, and what they leave."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import InterruptAt, Told, When, do, holding, rows, state, way
from support.tree import TestTree

V1 = "20260101000001"
ROWS = "(school, pupil) BETWEEN ($1, $2) AND ($3, $4)"
UP = f"UPDATE public.grades SET touched = touched + 1 WHERE {ROWS};"
FILL = "UPDATE public.people SET upper_name = upper(name) WHERE id BETWEEN $1 AND $2 AND upper_name IS NULL;"
LEFT = "SELECT count(*) FROM public.people WHERE upper_name IS NULL;"


def migrations(tmp_path: Any, statement: str, files: dict[str, str] | None = None, **step: Any) -> list[dict[str, Any]]:
    tree = TestTree(tmp_path / "sql")
    budgets = {"budgets": step.pop("budgets")} if "budgets" in step else {}
    given = {"table": "people", "key": "id", "statement": "fill.sql.j2"} | step
    rollback = {"safety": "partial", "stays": "what was filled"}
    tree.add(
        V1, "fill", [{"backfill": given}], {"fill.sql.j2": statement, **(files or {})}, rollback=rollback, **budgets
    )
    return tree.render()


def grades(target: Any) -> None:
    """Three columns of key; of the last one every value is there for many of the first."""
    do(
        target,
        "CREATE TABLE grades (school uuid, pupil integer, note text, touched integer NOT NULL DEFAULT 0, "
        "PRIMARY KEY (school, pupil))",
        "INSERT INTO grades SELECT ('00000000-0000-0000-0000-' || lpad((n / 40)::text, 12, '0'))::uuid, n % 40 "
        "FROM generate_series(1, 1050) n",
    )


def people(target: Any, count: int = 3000) -> None:
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY, name text, upper_name text)",
        f"INSERT INTO people (id, name) SELECT n, 'p' || n FROM generate_series(1, {count}) n",
        "ANALYZE people",
    )


def fill_sizes(target: Any) -> None:
    """Each batch notes how many rows it changed."""
    do(
        target,
        "CREATE TABLE sizes (n integer)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO sizes SELECT count(*) FROM changed; RETURN NULL; END'",
        "CREATE TRIGGER note AFTER UPDATE ON people REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note()",
    )


def sizes(target: Any) -> list[int]:
    return [row["n"] for row in rows(target, "SELECT n FROM sizes ORDER BY ctid")]


# Keys


@pytest.mark.majors(15, 18)
def test_a_key_of_several_columns_touches_every_row_once(target: Any, tmp_path: Any) -> None:
    grades(target)
    given = migrations(tmp_path, UP, table="grades", key=["school", "pupil"], batch_size=100, adapt=False)
    control = Control()
    with pytest.raises(Interrupted):
        stop = InterruptAt(control, "backfilling", field="done")
        migrate.apply(target, given, Selection(), way(control=control, progress=stop))
    assert rows(target, "SELECT count(*) AS n FROM grades WHERE touched = 1") == [{"n": 100}]
    # Of a run of before there may be a key that is one text.
    assert len(rows(target, "SELECT progress->'last' AS last FROM pgops.step")[0]["last"]) == 2
    migrate.apply(target, given, Selection(), way())
    assert rows(target, "SELECT touched, count(*) AS n FROM grades GROUP BY 1") == [{"touched": 1, "n": 1050}]


def test_each_batch_of_such_a_key_reads_its_own_rows_only(target: Any, tmp_path: Any) -> None:
    grades(target)
    do(target, "ANALYZE grades")
    given = migrations(tmp_path, UP, table="grades", key=["school", "pupil"], batch_size=100, adapt=False)
    migrate.apply(target, given, Selection(), way())
    do(target, "SELECT pg_stat_force_next_flush()")
    scans = rows(target, "SELECT seq_scan, seq_tup_read FROM pg_stat_user_tables WHERE relname = 'grades'")[0]
    # By ANALYZE's estimate a row comparison takes a quarter of the table: eleven batches would read it eleven times.
    assert scans["seq_tup_read"] <= 1050


@pytest.mark.parametrize(
    ("change", "key", "told"),
    [
        (None, ["pupil", "school"], r"grades\.\(pupil, school\): no valid btree index begins with it"),
        (None, ["school", "nobody"], "there is no column nobody"),
        (None, ["school", "note"], "note may be NULL"),
        ("ALTER TABLE grades DROP CONSTRAINT grades_pkey; CREATE INDEX ON grades (school, pupil DESC)",
         ["school", "pupil"], "no valid btree index begins with it"),
        ("ALTER TABLE grades DROP CONSTRAINT grades_pkey; CREATE INDEX ON grades (school)",
         ["school", "pupil"], "no valid btree index begins with it"),
    ],
)  # fmt: skip
def test_a_key_of_several_columns_that_no_index_serves_is_refused(
    target: Any, tmp_path: Any, change: str | None, key: list[str], told: str
) -> None:
    grades(target)
    if change:
        do(target, *change.split("; "))
    by_key = UP.replace("(school, pupil)", f"({', '.join(key)})")
    with pytest.raises(PgopsError, match=told):
        migrate.apply(target, migrations(tmp_path, by_key, table="grades", key=key), Selection(), way())


# Sizes


def test_batches_that_cost_more_than_their_rows_become_larger(target: Any, tmp_path: Any) -> None:
    people(target)
    fill_sizes(target)
    result = migrate.apply(target, migrations(tmp_path, FILL, batch_size=10), Selection(), way())
    found = sizes(target)
    assert found[0] == 10
    assert max(found) > 100
    assert sum(found) == 3000
    (step,) = result["applied"][0]["step_durations"]
    assert (step["rows"], step["batches"]) == (3000, len(found))


def test_batches_that_take_longer_than_the_target_become_smaller(target: Any, tmp_path: Any) -> None:
    people(target, 300)
    fill_sizes(target)
    slow = FILL.replace("upper(name)", "upper(name) || pg_sleep(0.002)::text")
    migrate.apply(
        target, migrations(tmp_path, slow, batch_size=60, budgets={"batch_target_ms": 60}), Selection(), way()
    )
    found = sizes(target)
    # 60 rows of 2 ms each are 120 ms and more, and 30 are the most in 60 ms.
    assert found[0] == 60
    assert max(found[2:]) <= 30
    assert sum(found) == 300


def test_a_batch_that_takes_far_too_long_is_taken_back_and_tried_with_fewer_rows(target: Any, tmp_path: Any) -> None:
    people(target, 200)
    fill_sizes(target)
    told = Told()
    slow = FILL.replace("upper(name)", "upper(name) || pg_sleep(0.01)::text")
    migrate.apply(target, migrations(tmp_path, slow, budgets={"batch_target_ms": 100}), Selection(), way(progress=told))
    assert told.said("in batches of 500 rows, since the last one took too long")
    # 200 rows of 10 ms each are 2 s, and the row locks of a batch last for half a second at most.
    assert max(sizes(target)) <= 50
    assert rows(target, LEFT) == [{"count": 0}]


def test_that_a_batch_took_too_long_is_known_in_any_language_of_the_server(target: Any, tmp_path: Any) -> None:
    people(target, 60)
    do(
        target,
        "CREATE FUNCTION slowly(given text) RETURNS text LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_sleep(0.02); RETURN upper(given); EXCEPTION WHEN query_canceled THEN "
        "RAISE EXCEPTION $$storniere Anfrage wegen Zeitüberschreitung der Anfrage$$ USING ERRCODE = $$57014$$; END'",
    )
    told = Told()
    given = migrations(tmp_path, FILL.replace("upper(name)", "public.slowly(name)"), batch_size=40)
    migrate.apply(target, given, Selection(), way(progress=told))
    assert told.said("in batches of 4 rows, since the last one took too long")
    assert rows(target, LEFT) == [{"count": 0}]


def test_a_batch_that_somebody_cancels_is_not_taken_for_a_slow_one(target: Any, tmp_path: Any) -> None:
    people(target, 60)
    do(
        target,
        "CREATE FUNCTION cancelled() RETURNS text LANGUAGE plpgsql AS "
        "'BEGIN RAISE EXCEPTION $$canceling statement due to user request$$ USING ERRCODE = $$57014$$; END'",
    )
    told = Told()
    given = migrations(tmp_path, FILL.replace("upper(name)", "public.cancelled()"))
    with pytest.raises(PgopsError) as caught:
        migrate.apply(target, given, Selection(), way(progress=told))
    assert caught.value.sqlstate == "57014"
    assert not told.said("took too long")


def test_a_batch_that_may_not_adapt_fails_at_the_time_limit(target: Any, tmp_path: Any) -> None:
    people(target, 200)
    slow = FILL.replace("upper(name)", "upper(name) || pg_sleep(0.01)::text")
    given = migrations(tmp_path, slow, adapt=False, budgets={"statement_timeout_s": 1})
    with pytest.raises(PgopsError, match="hit its time limit of 1 s"):
        migrate.apply(target, given, Selection(), way())
    assert state(target, V1)["reason"] == "time_limit"


# Rows before and after


def test_a_batch_that_removes_rows_is_taken_back(target: Any, tmp_path: Any) -> None:
    people(target, 100)
    do(
        target,
        "CREATE FUNCTION away() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN DELETE FROM people WHERE id = NEW.id + 1 AND id % 50 = 0; RETURN NULL; END'",
        "CREATE TRIGGER away AFTER UPDATE ON people FOR EACH ROW EXECUTE FUNCTION away()",
    )
    with pytest.raises(
        PgopsError, match=r"a batch of 20 rows removed 1 rows of public\.people, and none may go"
    ) as caught:
        migrate.apply(target, migrations(tmp_path, FILL, batch_size=20, adapt=False), Selection(), way())
    assert caught.value.location is None or "p50" not in caught.value.message
    # The third batch is gone as a whole, the first two stay.
    assert rows(target, "SELECT count(*) AS n, count(upper_name) AS filled FROM people") == [{"n": 100, "filled": 40}]


@pytest.mark.parametrize("statement", [FILL, FILL.replace(" AND upper_name IS NULL", "")])
def test_what_clients_remove_meanwhile_is_none_of_its_business(target: Any, tmp_path: Any, statement: str) -> None:
    people(target, 2000)
    ended = threading.Event()

    def client() -> None:
        number = 2000
        while not ended.is_set() and number > 1000:
            do(target, f"DELETE FROM people WHERE id = {number}")
            number -= 1

    working = threading.Thread(target=client)
    working.start()
    try:
        migrate.apply(target, migrations(tmp_path, statement, batch_size=50, adapt=False), Selection(), way())
    finally:
        ended.set()
        working.join()
    assert rows(target, LEFT) == [{"count": 0}]


def test_a_delete_in_batches_takes_what_it_says(target: Any, tmp_path: Any) -> None:
    people(target, 1000)
    purge = "DELETE FROM public.people WHERE id BETWEEN $1 AND $2 AND id % 2 = 0"
    migrate.apply(target, migrations(tmp_path, purge, batch_size=100, adapt=False), Selection(), way())
    assert rows(target, "SELECT count(*) AS n FROM people") == [{"n": 500}]


def test_a_delete_that_had_to_give_way_is_counted_once(target: Any, tmp_path: Any) -> None:
    people(target, 300)
    purge = "DELETE FROM public.people WHERE id BETWEEN $1 AND $2"
    given = migrations(tmp_path, purge, batch_size=100, adapt=False)
    with holding(target, "UPDATE people SET name = 'x' WHERE id = 190") as other:
        told = When("gave way to pid", other.close)
        migrate.apply(target, given, Selection(), way(progress=told))
    assert told.said("gave way to pid")
    assert rows(target, "SELECT count(*) AS n FROM people") == [{"n": 0}]


def test_a_batch_that_changes_rows_of_other_batches_is_taken_back(target: Any, tmp_path: Any) -> None:
    people(target, 100)
    # Joined by the key to what one batch gives, and that is a row of another.
    wrong = (
        "UPDATE public.people SET upper_name = 'x' FROM (SELECT n.id FROM public.people AS s, public.people AS n "
        "WHERE s.id BETWEEN $1 AND $2) AS other WHERE people.id = other.id"
    )
    with pytest.raises(
        PgopsError, match=r"a batch of 20 rows changed 100 rows of public\.people, .* taken back"
    ) as caught:
        migrate.apply(target, migrations(tmp_path, wrong, batch_size=20, adapt=False), Selection(), way())
    assert caught.value.location is None or f"{V1}_fill/fill.sql.j2:1" in caught.value.message
    assert caught.value.extra["changed"] == 100
    assert "\n" not in caught.value.message
    assert rows(target, "SELECT count(upper_name) AS n FROM people") == [{"n": 0}]
    assert (state(target, V1)["state"], state(target, V1)["failed_step"]) == ("failed", 1)


@pytest.mark.parametrize("statement", ["UPDATE public.people SET name = 'x'", "DELETE FROM public.people"])
def test_a_key_that_repeats_has_more_rows_than_its_batches(target: Any, tmp_path: Any, statement: str) -> None:
    do(
        target,
        "CREATE TABLE people (school integer NOT NULL, name text)",
        "INSERT INTO people SELECT n / 30, 'p' || n FROM generate_series(1, 500) n",
        "CREATE INDEX ON people (school)",
    )
    given = migrations(
        tmp_path, f"{statement} WHERE school BETWEEN $1 AND $2", key="school", batch_size=100, adapt=False
    )
    result = migrate.apply(target, given, Selection(), way())
    (step,) = result["applied"][0]["step_durations"]
    assert (step["rows"], step["walked"]) == (500, 500)


def test_rows_that_come_between_the_keys_meanwhile_are_the_batch_s_too(target: Any, tmp_path: Any) -> None:
    people(target, 10)
    do(target, "UPDATE people SET id = id * 100")
    given = migrations(tmp_path, "UPDATE public.people SET name = 'x' WHERE id BETWEEN $1 AND $2", batch_size=10)
    with holding(target, "UPDATE people SET name = 'y' WHERE id = 500") as other:

        def come() -> None:
            do(target, "INSERT INTO people VALUES (501, 'new'), (502, 'new')")
            other.close()

        migrate.apply(target, given, Selection(), way(progress=When("gave way to pid", come)))
    assert rows(target, "SELECT name, count(*) AS n FROM people GROUP BY 1") == [{"name": "x", "n": 12}]


def test_a_batch_that_leaves_rows_which_its_statement_does_not_except_is_taken_back(target: Any, tmp_path: Any) -> None:
    people(target, 100)
    do(
        target,
        "CREATE FUNCTION not_these() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF OLD.id IN (50, 55) THEN RETURN NULL; END IF; RETURN NEW; END'",
        "CREATE TRIGGER not_these BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION not_these()",
    )
    every = FILL.replace(" AND upper_name IS NULL", "")
    with pytest.raises(PgopsError, match=r"a batch of 20 rows left 2 rows of public\.people as they were") as caught:
        migrate.apply(target, migrations(tmp_path, every, batch_size=20, adapt=False), Selection(), way())
    assert caught.value.extra["left"] == 2
    assert rows(target, "SELECT count(upper_name) AS n FROM people") == [{"n": 40}]
    do(target, "DROP TRIGGER not_these ON people")
    migrate.apply(target, migrations(tmp_path, every, batch_size=20, adapt=False), Selection(), way())
    assert rows(target, LEFT) == [{"count": 0}]


def test_the_result_tells_how_many_rows_were_changed_of_those_that_were_walked(target: Any, tmp_path: Any) -> None:
    people(target, 100)
    some = FILL.replace("upper_name IS NULL", "id NOT IN (50, 55)")
    result = migrate.apply(target, migrations(tmp_path, some, batch_size=20, adapt=False), Selection(), way())
    (step,) = result["applied"][0]["step_durations"]
    assert (step["rows"], step["walked"]) == (98, 100)


# What is left


def test_rows_that_come_behind_the_batches_get_a_second_pass(target: Any, tmp_path: Any) -> None:
    people(target, 1000)

    class Client(Told):
        """Adds a row behind the keys that are done."""

        def emit(self, text: str, **fields: Any) -> None:
            if fields.get("done") == 500 and not self.said("once more"):
                do(target, "INSERT INTO people VALUES (-1, 'late') ON CONFLICT DO NOTHING")
            super().emit(text, **fields)

    told = Client()
    given = migrations(tmp_path, FILL, {"left.sql.j2": LEFT}, batch_size=100, adapt=False, remaining="left.sql.j2")
    result = migrate.apply(target, given, Selection(), way(progress=told))
    assert told.said("once more, for 1 rows that came meanwhile")
    assert rows(target, LEFT) == [{"count": 0}]
    (step,) = result["applied"][0]["step_durations"]
    assert (step["remaining_before"], step["remaining"], step["rows"]) == (1000, 0, 1001)


def test_rows_that_the_statement_leaves_fail_the_step_and_the_next_run_goes_through_again(
    target: Any, tmp_path: Any
) -> None:
    people(target, 1000)
    do(target, "UPDATE people SET name = NULL WHERE id > 990")
    given = migrations(tmp_path, FILL, {"left.sql.j2": LEFT}, remaining="left.sql.j2")
    with pytest.raises(PgopsError, match=r"the query at .*left\.sql\.j2:1 still counts 10 rows") as caught:
        migrate.apply(target, given, Selection(), way())
    assert caught.value.extra["remaining"] == 10
    assert state(target, V1)["state"] == "failed"
    do(target, "UPDATE people SET name = 'x' WHERE name IS NULL")
    migrate.apply(target, given, Selection(), way())
    assert rows(target, LEFT) == [{"count": 0}]


def test_where_nothing_is_left_no_batch_runs(target: Any, tmp_path: Any) -> None:
    people(target, 1000)
    do(target, "UPDATE people SET upper_name = 'x'")
    given = migrations(tmp_path, FILL, {"left.sql.j2": LEFT}, remaining="left.sql.j2")
    result = migrate.apply(target, given, Selection(), way())
    assert result["applied"][0]["step_durations"][0]["batches"] == 0


def test_a_count_of_what_is_left_that_is_no_number_is_refused(target: Any, tmp_path: Any) -> None:
    people(target, 10)
    given = migrations(tmp_path, FILL, {"left.sql.j2": "SELECT name FROM people"}, remaining="left.sql.j2")
    with pytest.raises(PgopsError, match="must return one row with one whole number"):
        migrate.apply(target, given, Selection(), way())


# The way back


def test_a_backfill_that_is_irreversible_says_so_on_its_way_back(target: Any, tmp_path: Any) -> None:
    people(target, 100)
    given = migrations(tmp_path, FILL, irreversible="which rows had no value is not known afterwards")
    migrate.apply(target, given, Selection(), way())
    result = migrate.revert(target, Reverts(), way())
    assert result["reverted"][0]["left"] == [
        "what backfill people changed: which rows had no value is not known afterwards"
    ]
    assert rows(target, "SELECT count(upper_name) AS n FROM people") == [{"n": 100}]
