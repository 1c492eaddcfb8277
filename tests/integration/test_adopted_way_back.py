# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A version that was adopted goes down, and up again, as if we had applied it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import adoption, catalog, connection, migrate, verify
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts, preview_revert
from ansible_collections.whitecross.pgops.plugins.plugin_utils import legacy_names
from support import legacy
from support.clients import load_sample_data
from support.engine import do, rows, state, way
from support.rows import contents, fill_empty_tables, lost_rows
from support.server import Server
from support.tree import TestTree

V1, V2, V3 = "20260101000001", "20260101000002", "20260101000003"
NAMES = legacy_names.read_names(legacy.SQL)
RESTRICT = "20251104000000"
# Rows only, and privileges only: the catalog does not tell that they ran.
UNTOLD = ("20251103000000", "20251107000000")
STUDENTS = 20


def inventory(target: Any) -> catalog.Inventory:
    with closing(connection.connect(target, application_name="test")) as conn:
        return catalog.inventory(conn)


def differences(expected: catalog.Inventory, target: Any) -> list[str]:
    return [str(difference) for difference in catalog.compare(expected, inventory(target), ignore=())]


def apply(target: Any, tree: list[dict[str, Any]], **chosen: Any) -> list[str]:
    return [item["version"] for item in migrate.apply(target, tree, Selection(**chosen), way())["applied"]]


def revert(target: Any, **chosen: Any) -> list[str]:
    """What the preview shows is what goes."""
    shown = [item["version"] for item in preview_revert(target, Reverts(**chosen))["versions"]]
    done = [item["version"] for item in migrate.revert(target, Reverts(**chosen), way())["reverted"]]
    assert done == shown
    return done


def forget_and_adopt(server: Server, target: Any, tree: list[dict[str, Any]], **asked: Any) -> dict[str, Any]:
    server.execute("DROP SCHEMA IF EXISTS pgops CASCADE", database=target.database)
    return adoption.adopt(target, tree, adoption.Request(NAMES, **asked), way())


def write_repair(tree: TestTree, found: dict[str, Any]) -> str:
    """Put the repair of an adoption into the tree. :return: its version."""
    (repair,) = found["repairs"]
    path = tree.folder / "migrations" / f"{repair['version']}_{repair['name']}"
    path.mkdir()
    for name, text in repair["files"].items():
        (path / name).write_text(text, encoding="utf-8")
    return str(repair["version"])


def stages(target: Any, tree: list[dict[str, Any]]) -> list[catalog.Inventory]:
    """Apply the tree version by version. :return: the schema before the first, and after each."""
    seen = [inventory(target)]
    while apply(target, tree, steps=1):
        seen.append(inventory(target))
    return seen


@pytest.fixture
def tree(tmp_path: Path) -> TestTree:
    return TestTree(tmp_path / "sql")


# What V1 makes and V2 changes, or names though it is there; and how V2 takes it back.
V1_UP = """
CREATE TABLE public.pupils (
    id integer PRIMARY KEY, grade varchar(10), code varchar(10), number integer NOT NULL, note text DEFAULT 'none', old text,
    school integer, CONSTRAINT coded CHECK (code IN ('a', 'b'))
);
CREATE INDEX pupils_old ON public.pupils (old);
ALTER TABLE public.pupils ADD CONSTRAINT counted CHECK (number > 0) NOT VALID;
CREATE TYPE public.kind AS ENUM ('a', 'b');
ALTER TABLE public.pupils ENABLE ROW LEVEL SECURITY;
"""
V1_DOWN = "DROP TABLE IF EXISTS public.pupils;\nDROP TYPE IF EXISTS public.kind;\n"
V2_UP = """
ALTER TABLE public.pupils ALTER COLUMN grade SET DEFAULT 'K';
ALTER TABLE public.pupils ALTER COLUMN number SET NOT NULL;
ALTER TABLE public.pupils ALTER COLUMN note SET DEFAULT 'any';
ALTER TABLE public.pupils ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.pupils ADD COLUMN school integer;
ALTER TABLE public.pupils DROP CONSTRAINT coded;
ALTER TABLE public.pupils ADD CONSTRAINT coded CHECK (code IN ('a', 'b', 'c'));
DROP INDEX public.pupils_old;
ALTER TABLE public.pupils DROP COLUMN old;
CREATE TYPE public.kind AS ENUM ('a', 'b');
"""
V2_DOWN = """
DROP TYPE IF EXISTS public.kind;
ALTER TABLE public.pupils ADD COLUMN old text;
CREATE INDEX pupils_old ON public.pupils (old);
ALTER TABLE public.pupils DROP CONSTRAINT coded;
ALTER TABLE public.pupils ADD CONSTRAINT coded CHECK (code IN ('a', 'b'));
ALTER TABLE public.pupils DROP COLUMN IF EXISTS school;
ALTER TABLE public.pupils DISABLE ROW LEVEL SECURITY;
ALTER TABLE public.pupils ALTER COLUMN note DROP DEFAULT;
ALTER TABLE public.pupils ALTER COLUMN number DROP NOT NULL;
ALTER TABLE public.pupils ALTER COLUMN grade DROP DEFAULT;
"""
SCHOOL = {"name": "pupils_school", "table": "pupils", "columns": ["school"], "why": "a test"}
WIDER = {**SCHOOL, "columns": ["school", "number"], "replaces": V1}
GRADE = {"name": "pupils_grade", "table": "pupils", "columns": ["grade"], "why": "a test"}


def steps(indexes: str, *validated: str) -> list[dict[str, Any]]:
    return [
        {"sql": {"up": "up.sql.j2", "down": "down.sql.j2", "together": "a test"}},
        {"validate": [{"table": "pupils", "constraint": name} for name in validated]},
        {"indexes": indexes},
    ]


def every_kind(tree: TestTree) -> list[dict[str, Any]]:
    tree.add(
        V1, "pupils", steps("indexes.yml", "counted"), {"up.sql.j2": V1_UP, "down.sql.j2": V1_DOWN, "indexes.yml": [SCHOOL, GRADE]}
    )  # fmt: skip
    tree.add(
        V2, "changes", steps("indexes.yml", "counted"),
        {"up.sql.j2": V2_UP, "down.sql.j2": V2_DOWN, "indexes.yml": [WIDER, GRADE]},
    )  # fmt: skip
    tree.add_sql(
        V3, "lockers", "CREATE TABLE public.lockers (id integer PRIMARY KEY);", "DROP TABLE IF EXISTS public.lockers;"
    )
    return tree.render()


def progress(target: Any) -> list[Any]:
    """What the ledger keeps of each step on the way up, but for how far it came and what it built for a while."""
    found = rows(target, "SELECT progress FROM pgops.step WHERE direction = 'up' ORDER BY version, ordinal")
    told = [{name: made for name, made in row["progress"].items() if name != "statements"} for row in found]
    for made in told:
        for name in ("built", "skipped", "there_before", "present"):
            made[name] = sorted(item for item in made.get(name, []) if not item.endswith("_pgops_new"))
        # An object is known by its name in another database.
        made.get("attributes_before", {}).pop("database", None)
        for entry in made.get("attributes_before", {}).get("changed", []):
            del entry["key"]
    return told


def test_what_a_later_version_changed_goes_back_to_what_the_earlier_one_declares(
    server: Server, target: Any, tree: TestTree
) -> None:
    migrations = every_kind(tree)
    seen = stages(target, migrations)
    do(target, "INSERT INTO pupils (id, grade, code, number) VALUES (1, '3', 'a', 1)")
    ours = progress(target)
    assert forget_and_adopt(server, target, migrations)["recorded"] == [V1, V2, V3]
    assert progress(target) == ours
    assert preview_revert(target, Reverts(through=V1))["remaining"] == 0
    for version, before in ((V3, seen[2]), (V2, seen[1])):
        assert revert(target) == [version]
        assert differences(before, target) == []
        assert verify.verify({target.database: target})[target.database]["passed"]
    assert revert(target) == [V1]
    assert differences(seen[0], target) == []
    assert apply(target, migrations) == [V1, V2, V3]
    assert differences(seen[3], target) == []


def test_what_somebody_changed_by_hand_is_seen_before_a_newer_version_goes(
    server: Server, target: Any, tree: TestTree
) -> None:
    migrations = every_kind(tree)
    apply(target, migrations)
    forget_and_adopt(server, target, migrations)
    do(target, "ALTER TABLE pupils ALTER COLUMN school SET DEFAULT 7")
    with pytest.raises(PgopsError, match=f"Version {V1} was adopted.*public.pupils.school: default expected nothing"):
        preview_revert(target, Reverts(through=V1))
    # Nothing of the newest has to do with it.
    assert revert(target) == [V3]


def test_what_a_version_of_ours_changed_since_the_adoption_is_looked_at_in_its_turn(
    server: Server, target: Any, tree: TestTree
) -> None:
    tree.add_sql(V1, "pupils", V1_UP, V1_DOWN)
    seen = stages(target, tree.render())
    forget_and_adopt(server, target, tree.render())
    tree.add_sql(
        V2,
        "default",
        "ALTER TABLE public.pupils ALTER COLUMN grade SET DEFAULT 'K';",
        "ALTER TABLE public.pupils ALTER COLUMN grade DROP DEFAULT;",
    )
    assert apply(target, tree.render()) == [V2]
    assert revert(target, through=V1) == [V2, V1]
    assert differences(seen[0], target) == []


def test_a_version_that_stopped_half_way_down_goes_on(server: Server, target: Any, tree: TestTree) -> None:
    tree.add(
        V1,
        "pupils",
        [
            {"sql": {"up": "up.sql.j2", "down": "down.sql.j2", "together": "a test"}},
            {"sql": {"up": "more.sql.j2", "down": "more_down.sql.j2"}},
        ],
        {
            "up.sql.j2": V1_UP,
            "down.sql.j2": V1_DOWN,
            "more.sql.j2": "ALTER TABLE public.pupils ADD COLUMN more text;",
            "more_down.sql.j2": "ALTER TABLE public.pupils DROP COLUMN IF EXISTS more;",
        },
    )
    before = inventory(target)
    apply(target, tree.render())
    forget_and_adopt(server, target, tree.render())
    do(target, "CREATE TABLE lockers (pupil integer REFERENCES pupils)")
    with pytest.raises(PgopsError, match="lockers|other objects depend"):
        migrate.revert(target, Reverts(), way())
    if state(target, V1)["state"] == "reverting":
        assert "column public.pupils.more" not in inventory(target)
    do(target, "DROP TABLE lockers")
    assert revert(target) == [V1]
    assert differences(before, target) == []


def test_what_a_repair_had_completed_goes_down_after_the_repair(server: Server, target: Any, tree: TestTree) -> None:
    tree.add_sql(
        V1,
        "pupils",
        V1_UP + "CREATE INDEX pupils_grade ON public.pupils (grade);\n"
        "ALTER TABLE public.pupils ADD CONSTRAINT valued CHECK (number < 100);\n",
        V1_DOWN,
    )
    before = inventory(target)
    apply(target, tree.render())
    do(target, "ALTER TABLE pupils DROP CONSTRAINT valued, ADD CONSTRAINT valued CHECK (number < 100) NOT VALID")
    server.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'public.pupils_grade'::regclass",
        database=target.database,
    )
    found = forget_and_adopt(server, target, tree.render())
    repair = write_repair(tree, found)
    # Without it the way down was written for something else.
    with pytest.raises(PgopsError, match="what is there is not what its way down was written for") as caught:
        preview_revert(target, Reverts())
    assert repair in str(caught.value.hint)
    assert apply(target, tree.render()) == [repair]
    assert revert(target, through=V1) == [repair, V1]
    assert differences(before, target) == []


def test_what_was_accepted_goes_down_whatever_a_later_version_made_of_the_rest(
    server: Server, target: Any, tree: TestTree
) -> None:
    tree.add_sql(V1, "pupils", V1_UP, V1_DOWN)
    tree.add_sql(
        V2,
        "default",
        "ALTER TABLE public.pupils ALTER COLUMN grade SET DEFAULT 'K';",
        "ALTER TABLE public.pupils ALTER COLUMN grade DROP DEFAULT;",
    )
    before = inventory(target)
    apply(target, tree.render())
    do(target, "ALTER TABLE pupils ALTER COLUMN grade TYPE varchar(20)")
    found = forget_and_adopt(server, target, tree.render(), accept=("column public.pupils.grade",))
    assert found["recorded"] == [V1, V2]
    assert revert(target, through=V1) == [V2, V1]
    assert differences(before, target) == []


def test_what_was_accepted_is_no_sign_of_a_later_version_that_changes_it(
    server: Server, target: Any, tree: TestTree
) -> None:
    tree.add_sql(V1, "pupils", V1_UP, V1_DOWN)
    tree.add_sql(
        V2,
        "default",
        "ALTER TABLE public.pupils ADD COLUMN more text;\nALTER TABLE public.pupils ALTER COLUMN grade SET DEFAULT 'K';\n",
        "ALTER TABLE public.pupils ALTER COLUMN grade DROP DEFAULT;\nALTER TABLE public.pupils DROP COLUMN more;\n",
    )
    assert apply(target, tree.render(), steps=1) == [V1]
    do(target, "ALTER TABLE pupils ALTER COLUMN grade SET NOT NULL")
    before = inventory(target)
    found = forget_and_adopt(server, target, tree.render(), accept=("column public.pupils.grade",))
    assert (found["recorded"], found["repairs"]) == ([V1], [])
    assert apply(target, tree.render()) == [V2]
    assert verify.verify({target.database: target})[target.database]["passed"]
    assert revert(target) == [V2]
    assert differences(before, target) == []
    assert revert(target) == [V1]


def test_what_was_accepted_is_left_alone_by_a_later_version_that_names_it(
    server: Server, target: Any, tree: TestTree
) -> None:
    tree.add_sql(V1, "pupils", V1_UP, V1_DOWN)
    tree.add(
        V2,
        "again",
        [{"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}}, {"indexes": "indexes.yml"}],
        {
            "up.sql.j2": "ALTER TABLE public.pupils ADD COLUMN school integer;\nALTER TABLE public.pupils ADD COLUMN more text;\n",
            "down.sql.j2": "ALTER TABLE public.pupils DROP COLUMN IF EXISTS more;\n"
            "ALTER TABLE public.pupils DROP COLUMN IF EXISTS school;\n",
            "indexes.yml": [{**SCHOOL, "name": "pupils_old", "columns": ["old"]}],
        },
    )
    assert apply(target, tree.render(), steps=1) == [V1]
    do(
        target,
        "ALTER TABLE pupils ALTER COLUMN school SET NOT NULL",
        "DROP INDEX pupils_old",
        "CREATE INDEX pupils_old ON pupils (old, code)",
    )
    before = inventory(target)
    accepted = ("column public.pupils.school", "index public.pupils_old")
    found = forget_and_adopt(server, target, tree.render(), accept=accepted)
    assert (found["recorded"], found["repairs"]) == ([V1], [])
    assert apply(target, tree.render()) == [V2]
    assert verify.verify({target.database: target})[target.database]["passed"]
    assert revert(target) == [V2]
    assert differences(before, target) == []
    # It is another one by now than the one that was accepted.
    do(target, "ALTER TABLE pupils ALTER COLUMN school TYPE bigint")
    with pytest.raises(PgopsError, match="column public.pupils.school exists already with another definition"):
        apply(target, tree.render())


def test_a_function_with_arguments_that_a_repair_brought_goes_with_it(
    server: Server, target: Any, tree: TestTree
) -> None:
    tree.add_sql(
        V1,
        "words",
        "CREATE TABLE public.words (word text);\n"
        "CREATE FUNCTION public.longer(a text, b integer) RETURNS boolean LANGUAGE sql RETURN length(a) > b;\n"
        "REVOKE ALL ON FUNCTION public.longer(text, integer) FROM PUBLIC;\n",
        "DROP FUNCTION IF EXISTS public.longer(text, integer);\nDROP TABLE IF EXISTS public.words;\n",
    )
    before = inventory(target)
    apply(target, tree.render())
    do(target, "DROP FUNCTION longer(text, integer)")
    found = forget_and_adopt(server, target, tree.render())
    repair = write_repair(tree, found)
    assert "rollback:\n  safety: complete\n" in found["repairs"][0]["files"]["migration.yml"]
    assert apply(target, tree.render()) == [repair]
    assert verify.verify({target.database: target})[target.database]["findings"] == []
    assert revert(target, through=V1) == [repair, V1]
    assert differences(before, target) == []


def test_a_repair_gives_a_function_that_is_there_its_rights_back(server: Server, target: Any, tree: TestTree) -> None:
    up = "CREATE FUNCTION public.longer(a text) RETURNS boolean LANGUAGE sql RETURN length(a) > 1;\n"
    revoke = "REVOKE ALL ON FUNCTION public.longer(text) FROM PUBLIC;\n"
    tree.add_sql(V1, "words", f"CREATE TABLE public.words (word text);\n{up}{revoke}", "DROP TABLE public.words;\n")
    apply(target, tree.render())
    do(target, "DROP FUNCTION longer(text)")
    repair = write_repair(tree, forget_and_adopt(server, target, tree.render()))
    # Somebody makes it between the adoption and the repair.
    do(target, up)
    rights = "SELECT proacl::text AS rights FROM pg_proc WHERE proname = 'longer'"
    before = rows(target, rights)
    assert apply(target, tree.render()) == [repair]
    assert rows(target, rights) != before
    assert revert(target) == [repair]
    may = "SELECT has_function_privilege('public', oid, 'EXECUTE') AS may FROM pg_proc WHERE proname = 'longer'"
    assert rows(target, may) == [{"may": True}]


def test_an_extension_of_somebody_else_stays_and_a_function_is_named_before_any_change(
    server: Server, target: Any, tree: TestTree
) -> None:
    tree.add_sql(
        V1,
        "search",
        "CREATE EXTENSION pg_trgm WITH SCHEMA public;\nCREATE TABLE public.words (word text);\n"
        "CREATE FUNCTION public.alike(a text, b text) RETURNS boolean LANGUAGE sql RETURN a % b;\n",
        "DROP FUNCTION IF EXISTS public.alike(text, text);\nDROP TABLE IF EXISTS public.words;\n"
        "DROP EXTENSION IF EXISTS pg_trgm;\n",
    )
    before = inventory(target)
    server.execute("CREATE EXTENSION pg_trgm WITH SCHEMA public", database=target.database)
    apply(target, tree.render())
    server.execute("ALTER FUNCTION alike(text, text) OWNER TO postgres", database=target.database)
    with pytest.raises(
        PgopsError, match=r"may not change 1 function of .*\(public.alike\(a text, b text\)\)"
    ) as caught:
        forget_and_adopt(server, target, tree.render())
    server.execute(
        caught.value.message.rpartition(f"in {target.database}: ")[2].partition(". ")[0], database=target.database
    )
    forget_and_adopt(server, target, tree.render())
    assert revert(target) == [V1]
    assert {key for key in inventory(target) if key not in before} == {"extension pg_trgm"}


# ---------------------------------------------------------------------------------------------------- the shipped chain


def but_privileges(found: list[str]) -> list[str]:
    """Those of 20251107000000 were there before it was applied by us, so they stay on its way down."""
    return [difference for difference in found if ": acl expected" not in difference]


@pytest.mark.slow
def test_the_whole_chain_goes_down_version_by_version_and_up_again_with_its_rows(server: Server, target: Any) -> None:
    chain = legacy.tree()
    seen = [inventory(target)]
    for migration in chain:
        assert apply(target, chain, steps=1) == [migration["version"]]
        seen.append(inventory(target))
        if migration["version"] == "20250103000003":
            load_sample_data(server, target.database, STUDENTS)
    with server.session(target.database) as conn:
        fill_empty_tables(conn)
        before = contents(conn)
    found = forget_and_adopt(server, target, chain)
    assert (found["repairs"], found["pending"]) == ([], list(UNTOLD))
    assert len(found["recorded"]) == len(chain) - len(UNTOLD)
    assert apply(target, chain) == list(UNTOLD)
    assert differences(seen[-1], target) == []
    assert preview_revert(target, Reverts(through=chain[0]["version"]))["remaining"] == 0
    for migration, schema in list(zip(chain, seen))[:0:-1]:
        assert revert(target) == [migration["version"]]
        assert but_privileges(differences(schema, target)) == [], migration["version"]
        with server.session(target.database) as conn:
            after = contents(conn)
        not_compared = {"allergies": {"active", "reactions"}, "chronic_conditions": {"carePlan"}}
        assert lost_rows(before, after, not_compared=not_compared, may_grow=("audit_logs",)) == []
        before = after
    assert revert(target) == [chain[0]["version"]]
    assert but_privileges(differences(seen[0], target)) == []
    assert apply(target, chain) == [migration["version"] for migration in chain]
    assert differences(seen[-1], target) == []
    verify.verify({target.database: target})


@pytest.mark.slow
@pytest.mark.begins("20250104000007")
def test_foreign_keys_and_checks_that_were_accepted_as_missing_stop_no_later_version(
    server: Server, target: Any
) -> None:
    chain = legacy.tree()
    missing = rows(
        target,
        "SELECT format('constraint public.%I.%I', c.relname, k.conname) AS key, "
        "format('ALTER TABLE public.%I DROP CONSTRAINT %I', c.relname, k.conname) AS drop FROM pg_constraint k "
        "JOIN pg_class c ON c.oid = k.conrelid WHERE k.contype IN ('f', 'c') AND k.connamespace = 'public'::regnamespace",
    )
    do(target, *(row["drop"] for row in missing))
    before = inventory(target)
    found = forget_and_adopt(server, target, chain, accept=tuple(row["key"] for row in missing))
    assert found["accepted"] == sorted(row["key"] for row in missing)
    apply(target, chain)
    verify.verify({target.database: target})
    assert RESTRICT in revert(target, keep=found["recorded"][-1])
    left = {key for key in inventory(target) if key not in before}
    # The keys that it brings in the place of those that are missing are left as the tree declares them.
    assert left <= {row["key"] for row in missing}
    revert(target, through=chain[0]["version"])
