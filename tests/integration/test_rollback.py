# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""rollback.yml as an operator types it: what is lost is shown, the database is named, and then it goes."""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, ledger, migrate, swap
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.extra_variables import extra_variables_argument
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import EQUAL
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support import engine
from support.backups import RUN, back_up, names, proved, stage
from support.keys import age_key
from support.server import OWNER
from support.tree import TestTree

V1, V2, V3, V4 = (f"2026010100000{number}" for number in range(1, 5))


@pytest.fixture
def applied(playbook: Any, server: Any, target: Any, database: str, tmp_path: Path) -> Any:
    """Three small versions, applied after a proved backup, as migrate.yml does; then three rows."""
    tree = TestTree(tmp_path / "own sql")
    tree.add_sql(V1, "create_people", "CREATE TABLE people (id int PRIMARY KEY, name text);\n", "DROP TABLE people;\n")
    tree.add_sql(V2, "add_age", "ALTER TABLE people ADD COLUMN age int;\n", "ALTER TABLE people DROP COLUMN age;\n")
    tree.add_sql(V3, "create_pets", "CREATE TABLE pets (id int PRIMARY KEY);\n", "DROP TABLE pets;\n")
    playbook.variables["pgops_sql"] = str(tree.folder)
    playbook.variables["pgops_phases"] = ["plan", "backup", "prove", "apply"]
    backup = proved(target, playbook.backups)
    run = ledger.Run(RUN, "migrate", "local", "tester", "ops", backup={"path": backup.path})
    migrate.apply(target, tree.render(), Selection(), migrate.Way(run))
    server.execute(
        "INSERT INTO people VALUES (1, 'a', 10), (2, 'b', NULL); INSERT INTO pets VALUES (1)", database=database
    )
    return playbook


@pytest.fixture
def second(applied: Any, tmp_path: Path) -> Path:
    """A second place of the backups."""
    place = tmp_path / "second"
    place.mkdir()
    applied.variables["backup_copies"] = [{"path": str(place), "same_file_system": True}]
    return place


def versions(server: Any, database: str) -> list[str]:
    rows = server.execute("SELECT version FROM pgops.migration WHERE state = 'applied' ORDER BY 1", database=database)
    return [version for (version,) in rows]


def run_printed(applied: Any, command: str) -> subprocess.CompletedProcess[str]:
    applied.write_inventory()
    return subprocess.run(
        shlex.split(command), cwd=applied.folder, env=applied.environment(), capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=120, check=False,
    )  # fmt: skip


def phases(result: Any, database: str) -> dict[str, Any]:
    return result.json["hosts"]["local-1"][database]


@pytest.mark.parametrize("tags", [("--tags", "rollback"), ("--skip-tags", "prove")])
def test_tags_do_not_let_a_version_go_without_a_proved_backup(
    applied: Any, server: Any, database: str, tags: tuple[str, str]
) -> None:
    done = applied("rollback.yml", *tags, rollback_confirm=database)
    assert done.rc == 2, done.output
    missing = "no backup and no prove" if "--tags" in tags else "no prove"
    assert (
        f"Nothing was reverted in {database}: this run has {missing} (left out by --tags or --skip-tags?)"
        in done.stdout
    )
    assert "incident" not in done.json
    assert versions(server, database) == [V1, V2, V3]
    assert server.execute("SELECT count(*) FROM pets", database=database) == [(1,)]


# -- down -------------------------------------------------------------------------------------------------------------


def test_without_a_selection_the_last_version_goes_after_a_proved_backup(
    applied: Any, server: Any, database: str
) -> None:
    applied.variables["pgops_phases"].append("verify")
    done = applied("rollback.yml", rollback_confirm=database)
    assert done.rc == 0, done.output
    assert versions(server, database) == [V1, V2]
    found = phases(done, database)
    backup = backup_store.read_backup(found["backup"]["path"])
    assert backup.proved
    assert backup.manifest["purpose"] == "before_rollback"
    assert "public.pets" in backup.manifest["tables"]
    assert "would be lost: public.pets: 1 rows" in done.stdout
    steps = re.findall(r"^local-1: (\(\d/6\) .*)$", done.stdout, re.MULTILINE)
    assert steps == [
        "(1/6) divert traffic: not applicable, no hook is due", "(2/6) status", "(3/6) backup", "(3/6) verify backup",
        "(4/6) revert", "(5/6) status", "(5/6) verification", "(6/6) restore traffic: not applicable, no hook is due",
    ]  # fmt: skip
    before, _, after = done.stdout.partition("(4/6) revert")
    assert f"{database}: 3 applied" in before
    assert f"{database}: 2 applied, 1 pending" in after


def test_what_a_client_commits_after_the_backup_stops_the_drop_that_waited_for_it(
    applied: Any, server: Any, target: Any, database: str
) -> None:
    with engine.holding(target, "INSERT INTO pets SELECT generate_series(2, 51)", name="the application") as client:

        def commit() -> None:
            going = "SELECT 1 FROM pgops.migration WHERE version = %s AND state = 'reverting'"
            engine.wait_for(lambda: engine.rows(target, going, (V3,)), 120, "the way down")
            execute(client, "COMMIT")

        committing = threading.Thread(target=commit)
        committing.start()
        done = applied("rollback.yml", rollback_confirm=database)
        committing.join()
    assert done.rc == 2, done.output
    assert "there is no copy of them: 50 of public.pets" in done.stdout
    assert "let them go with -e rollback_lose_writes=true" in done.stdout
    assert f"To go on: ansible-playbook rollback.yml -l local -e rollback_through={V3}" in done.stdout
    assert server.execute("SELECT count(*) FROM pets", database=database) == [(51,)]


@pytest.mark.slow
def test_what_is_said_of_versions_reaches_the_engine(applied: Any, server: Any, database: str) -> None:
    applied.variables["pgops_phases"] = ["apply"]
    done = applied("rollback.yml", rollback_confirm=database, rollback_version=V2)
    assert done.rc == 0, done.output
    assert versions(server, database) == [V1, V3]
    assert "1 values of column age" in done.stdout
    assert "backup" not in phases(done, database)
    done = applied("rollback.yml", rollback_confirm=database, rollback_keep=V1)
    assert done.rc == 0, done.output
    assert versions(server, database) == [V1]


@pytest.mark.slow
def test_nothing_to_revert_makes_no_backup(playbook: Any, server: Any, database: str) -> None:
    done = playbook("rollback.yml", "--skip-tags", "verify")
    assert done.rc == 0, done.output
    assert f"{database}: no version is applied, so there is nothing to revert" in done.stdout
    assert f"{database}: to see the versions: ansible-playbook status.yml -l local" in done.stdout
    assert "backup" not in phases(done, database)


@pytest.mark.slow
def test_a_version_that_is_half_reverted_is_the_one_that_is_told_to_be_finished(
    applied: Any, server: Any, target: Any, database: str
) -> None:
    applied.variables["pgops_phases"] = ["plan", "apply"]
    server.execute(
        "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not now''; END'; "
        "CREATE EVENT TRIGGER no ON sql_drop EXECUTE FUNCTION no()", database=database,
    )  # fmt: skip
    with pytest.raises(PgopsError, match=r"function no\(\) line 1 at RAISE"):
        migrate.revert(target, Reverts(version=V2), engine.way())
    server.execute("DROP EVENT TRIGGER no; DROP FUNCTION no()", database=database)
    finish = f"ansible-playbook rollback.yml -l local -e rollback_version={V2}"
    for asked in ("migrate.yml", "rollback.yml"):
        more = {"rollback_confirm": database} if asked == "rollback.yml" else {}
        done = applied(asked, **more)
        assert done.rc == 2, done.output
        assert f"ersion {V2} is half reverted" in done.json["error"]["message"]
        assert done.json["error"]["next"] == [finish]
        assert versions(server, database) == [V1, V3]
    done = applied("rollback.yml", rollback_version=V2, rollback_confirm=database)
    assert done.rc == 0, done.output
    assert versions(server, database) == [V1, V3]
    assert engine.state(target, V2)["state"] == "reverted"


@pytest.mark.slow
def test_the_command_that_is_printed_behind_a_time_limit_has_a_larger_one(
    applied: Any, server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    tree = TestTree(tmp_path / "own sql")
    up, down = "CREATE TABLE visits (id int PRIMARY KEY);\n", "SELECT pg_sleep(1.5);\nDROP TABLE visits;\n"
    tree.add_sql(V4, "create_visits", up, down, budgets={"statement_timeout_s": 1})
    migrate.apply(target, tree.render(), Selection(), engine.way())
    given = {"rollback_confirm": database, "rollback_emergency_backup": "skip"}
    done = applied("rollback.yml", rollback_keep=V3, **given)
    assert done.rc == 2 and "hit its time limit of 1 s" in done.json["error"]["message"], done.output
    (printed,) = done.json["error"]["next"]
    assert f"-e rollback_keep={V3}" in printed and "-e rollback_statement_timeout=2" in printed
    assert "-e rollback_statement_timeout=SECONDS" in done.json["error"]["hint"]
    # With the selection that was not typed it is told apart by its number, and keeps what gives it longer.
    done = applied("rollback.yml", rollback_statement_timeout=1, **given)
    (printed,) = done.json["error"]["next"]
    assert f"-e rollback_through={V4}" in printed and "-e rollback_statement_timeout=2" in printed
    done = applied("rollback.yml", rollback_through=V4, rollback_statement_timeout=2, **given)
    assert done.rc == 0, done.output
    assert versions(server, database) == [V1, V2, V3]


def test_what_stands_on_a_column_is_told_in_check_mode_as_in_earnest(
    applied: Any, server: Any, target: Any, database: str
) -> None:
    server.execute("CREATE VIEW ages AS SELECT age FROM people", database=database)
    for how in ({}, {"rollback_confirm": database}):
        done = applied("rollback.yml", *([] if how else ["--check"]), rollback_version=V2, **how)
        assert done.rc == 2, done.output
        assert "drops column public.people.age, and on it stands view public.ages" in done.json["error"]["message"]
        assert versions(server, database) == [V1, V2, V3]


def test_without_the_name_nothing_changes_and_the_loss_is_shown(applied: Any, server: Any, database: str) -> None:
    other = applied("rollback.yml", rollback_through=V1, rollback_confirm="something-else")
    assert other.rc != 0
    assert "something-else was given" in other.json["error"]["message"]
    done = applied("rollback.yml", rollback_through=V1)
    assert done.rc != 0
    assert "would be lost: public.people: 2 rows" in done.stdout
    shown = done.stdout.partition("these versions would be reverted, in this order")[2].splitlines()
    assert shown[1].split() == ["VERSION", "NAME", "ROLLBACK", "STAYS"]
    assert [line.split()[:3] for line in shown[3:6]] == [
        [V3, "create_pets", "complete"], [V2, "add_age", "complete"], [V1, "create_people", "complete"],
    ]  # fmt: skip
    assert "was not confirmed" in done.json["error"]["message"]
    assert "incident" not in done.json, "nothing was touched"
    assert f"-e rollback_through={V1} -e rollback_confirm={database}" in str(done.json["error"]["next"])
    typed = applied("rollback.yml", rollback_strategy="down", rollback_through=V1, rollback_keep_days=90)
    assert (
        f"-e rollback_strategy=down -e rollback_through={V1} -e rollback_confirm={database}"
        in typed.json["error"]["next"][0]
    )
    assert "rollback_keep_days" in typed.json["error"]["next"][0], "an inventory may say otherwise"
    assert versions(server, database) == [V1, V2, V3]
    assert len(list((applied.backups / database).glob("*_*"))) == 1


def test_a_strategy_that_a_template_comes_to_is_checked_by_the_spec(applied: Any, database: str) -> None:
    """The guard leaves templates to it; unchecked it would be the name of a file that is not there."""
    result = applied("rollback.yml", rollback_strategy="{{ 'dwon' }}", rollback_confirm=database)
    assert result.rc == 2
    assert "rollback_strategy must be one of: down, restore, swap" in result.json["error"]["message"]
    assert "Could not find or access" not in result.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"rollback_keep": "20260101000009"}, "Version 20260101000009 is not applied"),
        ({"rollback_steps": 1, "rollback_keep": V1}, "rollback_steps and rollback_keep were given; give one of them"),
    ],
)
def test_a_choice_that_cannot_be_is_not_told_to_be_typed_again(
    applied: Any, server: Any, database: str, given: dict[str, Any], told: str
) -> None:
    result = applied("rollback.yml", rollback_confirm=database, **given)
    assert result.rc == 2
    assert told in result.json["error"]["message"]
    assert result.json["error"]["next"] == ["ansible-playbook status.yml -l local"]
    assert versions(server, database) == [V1, V2, V3]


def test_check_mode_shows_the_same_and_writes_nothing(applied: Any, server: Any, database: str) -> None:
    done = applied("rollback.yml", "--check", rollback_through=V1)
    assert done.rc == 0, done.output
    assert "changed=0" in done.stdout
    assert "would be lost: public.people: 2 rows" in done.stdout
    assert versions(server, database) == [V1, V2, V3]
    assert len(list((applied.backups / database).glob("*_*"))) == 1


@pytest.mark.slow
def test_at_a_terminal_it_asks(applied: Any, server: Any, database: str) -> None:
    applied.variables["pgops_phases"] = ["apply"]
    assert typed(applied, "no") != 0
    assert versions(server, database) == [V1, V2, V3]
    assert typed(applied, database) == 0
    assert versions(server, database) == [V1, V2]


def typed(playbook: Any, answer: str) -> int:
    """Run at a pseudo-terminal and type an answer when the question comes. Returns the exit status."""
    playbook.write_inventory()
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *playbook.command("rollback.yml")], cwd=playbook.folder, env=playbook.environment(),
        stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    seen, asked = b"", False
    try:
        while True:
            seen += os.read(main, 4096)
            if not asked and b"Type the name of the database" in seen:
                asked = True
                time.sleep(0.3)
                os.write(main, answer.encode() + b"\n")
    except OSError:
        pass  # the end of a terminal
    finally:
        os.close(main)
    assert asked, seen.decode(errors="replace")
    return process.wait(timeout=60)


# -- the copy of the present state ------------------------------------------------------------------------------------


def test_a_copy_that_cannot_be_made_in_time_is_gone_without_where_that_is_allowed(
    applied: Any, server: Any, database: str, second: Path
) -> None:
    done = applied(
        "rollback.yml",
        rollback_confirm=database,
        rollback_emergency_backup="try",
        rollback_emergency_backup_timeout=0.001,
    )
    assert done.rc == 0, done.output
    assert versions(server, database) == [V1, V2]
    assert not list(second.iterdir())
    missed = phases(done, database)["backup"]["missed"]
    assert missed.startswith("no backup: Interrupted: its time of 0.001 s is over")
    assert f"{database}: {missed} The rollback goes on without it (rollback_emergency_backup=try)" in done.stdout
    assert done.json["steps"][2]["told"] == f"{database}: {missed}"
    assert len(list((applied.backups / database).glob("*_*"))) == 1
    assert [step["step"] for step in done.json["steps"]] == [1, 2, 3, 4, 5, 6]
    assert all(done.json["steps"][number]["seconds"] > 0 for number in (1, 2, 3, 4))
    assert re.search(r"^    \(4/6\) go back +\d+\.\d\d s$", done.stdout, re.MULTILINE)
    (report,) = (applied.state / "reports" / "local").glob("*.log")
    assert "(3/6) copy of the present state" in report.read_text(encoding="utf-8")


def test_a_copy_that_cannot_be_proved_as_it_should_is_gone_on_with_where_that_is_allowed(
    applied: Any, server: Any, database: str, tmp_path: Path
) -> None:
    """A key that anybody may read, and a climb that ends below what is needed; the backup is not encrypted."""
    key = age_key(tmp_path).file
    key.chmod(0o644)
    given = {"backup_identity_file": str(key), "backup_prove_level": 1, "backup_level_required": 4}
    done = applied("rollback.yml", rollback_confirm=database, rollback_emergency_backup="try", **given)
    assert done.rc == 0, done.output
    assert versions(server, database) == [V1, V2]
    assert (
        f"{database}: level 4 is needed here; the rollback goes on with level 1 (rollback_emergency_backup=try)"
        in done.stdout
    )


@pytest.mark.parametrize("given", [{"rollback_export_writes": "FILE/out"}, {"backup_encrypt_to": ["age1x"]}], ids=str)
def test_an_export_that_could_not_be_written_is_refused_before_the_swap(
    applied: Any, server: Any, database: str, tmp_path: Path, given: dict[str, Any]
) -> None:
    (tmp_path / "file").write_text("")
    out = given.get("rollback_export_writes", "out").replace("FILE", str(tmp_path / "file"))
    done = applied(
        "rollback.yml", rollback_strategy="restore", rollback_confirm=database,
        **{**given, "rollback_export_writes": str(tmp_path / out)},
    )  # fmt: skip
    assert done.rc == 2, done.output
    assert names(server, database) == [database]
    error = done.json["error"]
    assert "Nothing was changed." in error["message"] or "Recipient 1" in error["message"]
    assert "incident" not in done.json
    assert is_open(server, database)


@pytest.mark.slow
def test_where_the_copy_is_required_nothing_is_rolled_back_without_it(
    applied: Any, server: Any, database: str, second: Path
) -> None:
    done = applied("rollback.yml", rollback_confirm=database, rollback_emergency_backup_timeout=0.001)
    assert done.rc == 2, done.output
    assert "its time of 0.001 s is over" in done.json["error"]["message"]
    assert "go on where none can be made: -e rollback_emergency_backup=try" in done.json["error"]["hint"]
    assert versions(server, database) == [V1, V2, V3]
    skipped = applied("rollback.yml", rollback_confirm=database, rollback_emergency_backup="skip")
    assert skipped.rc == 0, skipped.output
    assert not {"backup", "backup_copy"} & {*phases(skipped, database)}
    # The backup from before the migration is no copy of what is destroyed now.
    assert not list(second.iterdir())
    assert versions(server, database) == [V1, V2]


@pytest.mark.slow
def test_a_copy_that_is_made_but_not_proved_in_time_stays_and_is_told(applied: Any, server: Any, database: str) -> None:
    server.execute("INSERT INTO people SELECT g FROM generate_series(100, 100000) g", database=database)
    applied.variables["backup_scratch_database"] = f"{database}_slow"
    # Somebody holds the name of the scratch database: the proof fails, the backup does not.
    server.execute(f"CREATE DATABASE {database}_slow")
    done = applied("rollback.yml", rollback_confirm=database, rollback_emergency_backup="try")
    assert done.rc == 0, done.output
    assert phases(done, database)["prove"]["missed"].startswith("no proof: ")
    assert len(list((applied.backups / database).glob("*_*"))) == 2
    assert versions(server, database) == [V1, V2]


@pytest.mark.slow
def test_production_never_destroys_without_trying_to_keep_a_copy(applied: Any, server: Any, database: str) -> None:
    applied.variables["pgops_phases"] = ["preflight", "plan", "backup", "prove", "apply", "verify", "report"]
    done = applied(
        "rollback.yml",
        limit="production",
        rollback_through=V3,
        rollback_confirm=database,
        rollback_emergency_backup="skip",
    )
    assert done.rc == 2, done.output
    assert "rollback_emergency_backup=skip is refused in production" in done.json["error"]["message"]
    assert versions(server, database) == [V1, V2, V3]


# -- restore and swap -------------------------------------------------------------------------------------------------


def test_restore_goes_back_to_before_the_last_apply_and_the_printed_command_comes_back(
    applied: Any, server: Any, database: str
) -> None:
    shown = applied("rollback.yml", "--check", rollback_strategy="restore")
    assert shown.rc == 0, shown.output
    assert names(server, database) == [database]
    done = applied("rollback.yml", rollback_strategy="restore", rollback_confirm=database)
    assert done.rc == 0, done.output
    found = phases(done, database)
    assert "public.people" in shown.stdout
    lost = {entry["table"]: entry for entry in found["disclose"]["lost"]["tables"]}
    assert lost["public.people"]["rows_now"] == 2
    assert [entry["version"] for entry in found["disclose"]["lost"]["versions"]] == [V1, V2, V3]
    assert server.execute("SELECT to_regclass('people')", database=database) == [(None,)]
    assert versions(server, database) == []
    aside = found["swap"]["aside"]
    command = found["swap"]["way_back"]
    assert f"-e rollback_swap_to={aside} -e rollback_confirm={database}" in command
    assert command in done.stdout

    back = run_printed(applied, command)
    assert back.returncode == 0, back.stdout + back.stderr
    assert server.execute("SELECT count(*) FROM people", database=database) == [(2,)]
    assert versions(server, database) == [V1, V2, V3]


@pytest.mark.slow
def test_a_named_backup_is_taken_and_an_unproved_one_refused(
    applied: Any, server: Any, target: Any, database: str
) -> None:
    path = back_up(target, applied.backups, run_id="20261121T120001Z-0a1b2c").path
    server.execute("DELETE FROM people", database=database)
    ask = {"rollback_strategy": "restore", "rollback_backup": path, "rollback_confirm": database}
    refused = applied("rollback.yml", **ask)
    assert refused.rc != 0
    assert "never proved" in refused.json["error"]["message"] and "…" not in refused.json["error"]["hint"]
    prove, again = refused.json["error"]["next"]
    climb = extra_variables_argument({"backup_path": path, "backup_prove_level": EQUAL})
    assert prove == f"ansible-playbook prove.yml -l local {climb}"
    assert again.startswith("ansible-playbook rollback.yml -l local -e rollback_strategy=restore")
    assert run_printed(applied, prove).returncode == 0
    done = applied("rollback.yml", **ask)
    assert done.rc == 0, done.output
    assert server.execute("SELECT count(*) FROM people", database=database) == [(2,)]


def test_backup_yml_leaves_a_proved_backup(applied: Any, database: str) -> None:
    found = phases(applied("backup.yml"), database)
    assert found["backup"]["path"] == found["prove"]["path"]
    assert backup_store.read_backup(found["backup"]["path"]).proved


def test_a_rollback_without_any_proved_backup_says_so(applied: Any, server: Any, database: str) -> None:
    for proof in applied.backups.rglob("proof.json"):
        proof.unlink()
    done = applied("rollback.yml", rollback_strategy="restore", rollback_confirm=database)
    assert done.rc != 0
    assert "has no proof that holds" in done.json["error"]["message"]
    assert "-e rollback_backup=PATH" in done.json["error"]["hint"]
    assert "hint: Prove it with prove.yml -e backup_path=" in done.stdout
    assert (
        f"rollback.yml -l local -e rollback_strategy=restore -e rollback_confirm={database}"
        in done.json["error"]["next"][-1]
    )
    assert names(server, database) == [database]


@pytest.mark.slow
def test_swap_needs_the_database_to_swap_in(applied: Any, database: str) -> None:
    done = applied("rollback.yml", rollback_strategy="swap", rollback_confirm=database)
    assert done.rc != 0
    assert "rollback_swap_to=NAME" in done.output


# -- which way --------------------------------------------------------------------------------------------------------


def test_auto_undoes_the_last_swap_and_says_why(applied: Any, server: Any, target: Any, database: str) -> None:
    (backup,) = backup_store.backups_of(str(applied.backups), database)
    done = swap.Swap(target, stage(target, backup), run_id=RUN).run()
    assert versions(server, database) == []
    found = applied("rollback.yml", rollback_strategy="auto", rollback_confirm=database)
    assert found.rc == 0, found.output
    weighed = phases(found, database)["strategies"]
    assert (weighed["chosen"], weighed["to"]) == ("undo_swap", done["aside"])
    table, _, rest = found.stdout.partition(f"{database}: undo_swap, since the last change was the swap of run {RUN}")
    assert re.search(
        r"strategy +possible +data lost +outage +taken back by\n +down +no .*\n +restore +no .*\n +\* undo_swap +yes +nothing ",
        table,
    )
    assert f"{database}: not restore: it would go back to before that swap, too" in rest
    assert versions(server, database) == [V1, V2, V3]
    assert phases(found, database)["swap"]["outage_ms"] < 1000


@pytest.mark.slow
def test_auto_goes_down_through_what_the_last_run_applied(applied: Any, server: Any, database: str) -> None:
    shown = applied("rollback.yml", "--check", rollback_strategy="auto")
    assert shown.rc == 0, shown.output
    done = applied("rollback.yml", rollback_strategy="auto", rollback_confirm=database)
    assert done.rc == 0, done.output
    for result in (shown, done):
        assert f"{database}: down, since the last change was run {RUN}" in result.stdout
        assert "would be lost: public.people: 2 rows" in result.stdout
    assert versions(server, database) == []
    again = applied("rollback.yml", rollback_strategy="auto", rollback_confirm=database)
    assert again.rc == 2
    assert "whatever comes next would go further back" in again.json["error"]["message"]
    assert again.json["error"]["next"] == ["ansible-playbook status.yml -l local"]


def test_what_blocks_a_restore_is_named_before_it_begins(applied: Any, server: Any, database: str) -> None:
    with server.session(database, autocommit=False) as conn, conn.cursor() as cursor:
        cursor.execute("INSERT INTO pets VALUES (9); PREPARE TRANSACTION 'payment'")
    done = applied("rollback.yml", rollback_strategy="restore", rollback_confirm=database)
    assert done.rc == 2, done.output
    assert f"prepared transaction payment in {database} stands in the way" in done.json["error"]["message"]
    assert "in the way of restore: prepared transaction payment" in done.stdout
    assert f"COMMIT PREPARED or ROLLBACK PREPARED in {database}" in done.json["error"]["hint"]
    assert names(server, database) == [database]
    assert is_open(server, database)


# -- a swap that was cut off ------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a swap as kill -9 would: nothing is undone."""


@pytest.fixture
def copy(applied: Any, server: Any, database: str) -> str:
    """A verified staged restore with both people, while the live database has lost them."""
    staged = f"{database}_restore_x"
    server.execute(f"CREATE DATABASE {staged} TEMPLATE {database} OWNER {OWNER}")
    server.execute("DELETE FROM people", database=database)
    mark = swap.Mark(
        "restored", database, "killed", "2026-01-01T00:00:00Z", state="verified", backup="/nowhere", restored_xid=1
    )
    server.execute(f"COMMENT ON DATABASE {staged} IS '{mark.text()}'")
    return staged


def cut_off(target: Any, staged: str, at: str = "fence: commit") -> None:
    def die(step: str) -> None:
        if step == at:
            raise Killed

    dying = swap.Swap(target, staged, run_id="killed", after=die)
    dying._lift = lambda mark: (_ for _ in ()).throw(Killed())  # type: ignore[method-assign]
    with pytest.raises(Killed):
        dying.run()


def is_open(server: Any, database: str) -> bool:
    return bool(server.execute(f"SELECT datallowconn FROM pg_database WHERE datname = '{database}'")[0][0])


def people(server: Any, database: str) -> int:
    return int(server.execute("SELECT count(*) FROM people", database=database)[0][0])


def ways(database: str, staged: str, stays: str = "") -> list[str]:
    """What finishes a swap that was cut off, and what undoes it, for who has typed ``stays`` beside the choice."""
    command = f"ansible-playbook rollback.yml -l local {stays}-e rollback_strategy="
    return [
        f"{command}swap -e rollback_swap_to={staged} -e rollback_confirm={database}",
        f"{command}unfence -e rollback_confirm={database}",
    ]


def type_in(playbook: Any, command: str) -> subprocess.CompletedProcess[str]:
    playbook.write_inventory()
    return subprocess.run(
        shlex.split(command), cwd=playbook.folder, env=playbook.environment(), capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=120, check=False,
    )  # fmt: skip


def assert_only_told(done: Any, server: Any, database: str, staged: str, stays: str = "") -> None:
    finish, undo = ways(database, staged, stays)
    assert done.rc == 2, done.output
    assert not done.json["ok"]
    assert done.json["error"]["next"] == [finish, undo]
    told = done.json["error"]["message"]
    assert told.startswith(
        f"{database} is fenced and clients are kept out: the swap of {staged} into its place was cut off"
    )
    assert f"Finish it: {finish}; Or undo it: {undo}" in told
    assert not is_open(server, database)
    assert names(server, database) == [database, staged]


def test_a_fence_that_was_left_is_told_first_with_what_ends_it_and_a_look_ends_nothing(
    applied: Any, server: Any, database: str, target: Any, copy: str
) -> None:
    cut_off(target, copy)
    assert_only_told(applied("status.yml"), server, database, copy)
    assert_only_told(applied("rollback.yml", rollback_strategy="restore"), server, database, copy)


@pytest.mark.slow
def test_no_playbook_passes_over_a_fence_that_was_left(
    applied: Any, server: Any, database: str, target: Any, copy: str
) -> None:
    cut_off(target, copy)
    applied.variables["pgops_phases"] = ["preflight", *applied.variables["pgops_phases"]]
    confirmed = {"rollback_confirm": database}
    for playbook in ("migrate.yml", "verify.yml", "backup.yml", "stop.yml"):
        assert_only_told(applied(playbook), server, database, copy)
    assert_only_told(applied("rollback.yml", "--check", rollback_strategy="restore"), server, database, copy)
    for more in (
        {},  # who confirmed a way down has not confirmed this
        {"rollback_emergency": "true"},
        {"rollback_strategy": "swap", "rollback_swap_to": f"{database}_other"},
        {"rollback_strategy": "restore", "rollback_backup": "/elsewhere"},
    ):
        stays = "-e rollback_emergency=true " if "rollback_emergency" in more else ""
        assert_only_told(applied("rollback.yml", **more, **confirmed), server, database, copy, stays)


@pytest.mark.parametrize(
    "asked",
    [{}, pytest.param({"rollback_strategy": "restore"}, marks=pytest.mark.slow)],
    ids=["printed", "typed-again"],
)
def test_a_swap_killed_under_its_fence_is_finished_by_who_asks_for_it(
    applied: Any, server: Any, database: str, target: Any, copy: str, asked: dict[str, str]
) -> None:
    cut_off(target, copy)
    if asked:
        done = applied("rollback.yml", rollback_confirm=database, **asked)
        assert done.rc == 0, done.output
        assert done.json["ok"]
        output = done.stdout
    else:
        typed = type_in(applied, ways(database, copy)[0])
        assert typed.returncode == 0, typed.stdout + typed.stderr
        output = typed.stdout
    assert "a swap that had been cut off was completed" in output
    assert people(server, database) == 2
    assert not is_open(server, next(name for name in names(server, database) if "_failed_" in name))


def test_the_printed_command_lifts_a_fence_that_was_left(
    applied: Any, server: Any, database: str, target: Any, copy: str
) -> None:
    cut_off(target, copy)
    typed = type_in(applied, ways(database, copy)[1])
    assert typed.returncode == 0, typed.stdout + typed.stderr
    assert f'the staged copy {copy} stays; where nobody needs it: DROP DATABASE "{copy}"' in typed.stdout
    assert people(server, database) == 0
    assert names(server, database) == [database, copy]


def test_where_somebody_has_let_clients_in_again_nothing_is_swapped(
    applied: Any, server: Any, database: str, target: Any, copy: str
) -> None:
    """Rows were written since; what was confirmed before them says nothing of them."""
    cut_off(target, copy)
    server.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
    server.execute("INSERT INTO people SELECT g, 'new' FROM generate_series(10, 1009) g", database=database)
    seen = applied("status.yml")
    assert seen.rc == 0, seen.output
    assert f"the swap of {copy} into its place was cut off" in seen.stdout
    assert "takes its marks off and swaps nothing" in seen.stdout
    look = applied("rollback.yml")
    assert look.rc == 2
    assert "was not confirmed" in look.json["error"]["message"]
    assert f'DROP DATABASE "{copy}"' in look.stdout
    assert people(server, database) == 1000
    assert names(server, database) == [database, copy]
    assert server.execute(
        f"SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{database}'"
    ) == [(None,)]
    assert swap.resume(target, swap.Asked("restore", confirmed=True), run_id=RUN) == {"state": "nothing"}


@pytest.mark.slow
def test_a_swap_that_had_gone_through_is_no_way_down(
    applied: Any, server: Any, database: str, target: Any, copy: str
) -> None:
    """The database is another one than the way down was typed for."""
    cut_off(target, copy, "swap: commit")
    done = applied("rollback.yml", rollback_confirm=database)
    assert done.rc == 2, done.output
    assert not done.json["ok"]
    assert f"what was asked for was not begun in {database}" in done.json["error"]["message"]
    assert done.json["error"]["next"][0] == "ansible-playbook status.yml -l local"
    assert "rollback_strategy=swap" in done.json["error"]["next"][1]
    assert versions(server, database) == [V1, V2, V3]
    assert people(server, database) == 2
    done = applied("rollback.yml", rollback_confirm=database)
    assert done.rc == 0, done.output
    assert versions(server, database) == [V1, V2]


# -- after a restore --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_after_ctrl_c_behind_a_swap_the_printed_commands_go_no_further_back(
    applied: Any, server: Any, database: str, tmp_path: Path
) -> None:
    tree = TestTree(tmp_path / "own sql")
    tree.add_sql(V4, "create_rooms", "CREATE TABLE rooms (id int);\n", "DROP TABLE rooms;\n")
    applied.variables["pgops_phases"].append("verify")
    migrated = applied("migrate.yml")
    assert migrated.rc == 0, migrated.output
    process = applied.start("rollback.yml", rollback_strategy="restore", rollback_confirm=database)
    output = ""
    for line in process.stdout:
        output += line
        if "swapped, clients were kept out" in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    output += process.communicate(timeout=60)[0]
    assert versions(server, database) == [V1, V2, V3]
    told = [line.partition("next: ")[2].strip() for line in output.splitlines() if "    next: " in line]
    assert told[:1] == ["ansible-playbook verify.yml -l local"], output
    assert "rollback_strategy=swap" in told[1]
    assert len(told) == 2
    back = type_in(applied, told[1])
    assert back.returncode == 0, back.stdout
    assert versions(server, database) == [V1, V2, V3, V4]
    assert people(server, database) == 2


@pytest.mark.slow
def test_a_second_restore_right_after_one_is_not_chosen(applied: Any, server: Any, target: Any, database: str) -> None:
    backup = proved(target, applied.backups, run_id="20261121T120009Z-0a1b2c")
    swap.Swap(target, stage(target, backup), run_id=RUN).run()
    aside = next(name for name in names(server, database) if "_failed_" in name)
    for how in (["--check"], []):
        done = applied("rollback.yml", *how, rollback_strategy="restore", rollback_confirm=database)
        assert done.rc == 2, done.output
        assert f"{database} was restored from {backup.path}" in done.json["error"]["message"]
        command = "ansible-playbook rollback.yml -l local -e rollback_strategy="
        assert done.json["error"]["next"] == [
            f"{command}swap -e rollback_swap_to={aside}",
            f"{command}restore {extra_variables_argument({'rollback_backup': backup.path})}",
        ]
        assert versions(server, database) == [V1, V2, V3]
    named = applied("rollback.yml", "--check", rollback_strategy="restore", rollback_backup=backup.path)
    assert named.rc == 0, named.output


@pytest.mark.slow
def test_a_restore_after_what_was_applied_since_one_is_chosen_as_ever(
    applied: Any, server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    backup = proved(target, applied.backups, run_id="20261121T120009Z-0a1b2c")
    swap.Swap(target, stage(target, backup), run_id=RUN).run()
    tree = TestTree(tmp_path / "own sql")
    tree.add_sql(V4, "create_rooms", "CREATE TABLE rooms (id int);\n", "DROP TABLE rooms;\n")
    migrated = applied("migrate.yml")
    assert migrated.rc == 0, migrated.output
    done = applied("rollback.yml", rollback_strategy="restore", rollback_confirm=database)
    assert done.rc == 0, done.output
    assert phases(done, database)["disclose"]["backup"] == phases(migrated, database)["backup"]["path"]
    assert phases(done, database)["disclose"]["lost"]["rows_written"] == 0
    assert versions(server, database) == [V1, V2, V3]


@pytest.mark.slow
def test_after_ctrl_c_the_printed_command_goes_no_further_back(
    applied: Any, server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    tree = TestTree(tmp_path / "own sql")
    tree.add_sql(V4, "create_rooms", "CREATE TABLE rooms (id int);\n", "DROP TABLE rooms;\nSELECT pg_sleep(3);\n")
    migrate.apply(target, tree.render(), Selection(), migrate.Way(ledger.Run(RUN, "migrate", "local", "tester", "ops")))
    process = applied.start("rollback.yml", rollback_confirm=database)
    engine.wait_for(
        lambda: server.execute("SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(3)%' AND pid <> pg_backend_pid()"),
        seconds=60,
    )  # fmt: skip
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert f"next: ansible-playbook rollback.yml -l local -e rollback_through={V4}\n" in output
    # What was in hand has come to its end by itself; typed again, the command finds nothing of it and takes nothing else.
    engine.wait_for(lambda: not server.execute("SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgops 2%'"))
    typed = applied("rollback.yml", rollback_through=V4, rollback_confirm=database)
    assert typed.rc == 0 or f"Version {V4} is not applied" in typed.output
    assert versions(server, database) == [V1, V2, V3]


@pytest.mark.slow
def test_rows_written_after_the_backup_stop_the_way_down(applied: Any, server: Any, database: str) -> None:
    process = applied.start("rollback.yml", rollback_confirm=database)
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if "(3/6) verify backup" in line:
            server.execute("INSERT INTO pets VALUES (2), (3)", database=database)
    assert process.wait(60) != 0
    assert "there is no copy of them: 2 of public.pets" in output
    assert server.execute("SELECT count(*) FROM pets", database=database) == [(3,)]
    done = applied("rollback.yml", rollback_confirm=database)
    assert done.rc == 0, done.output
    assert versions(server, database) == [V1, V2]


@pytest.mark.slow
def test_ctrl_c_while_it_restores_leaves_the_live_database_alone(
    applied: Any, server: Any, target: Any, database: str
) -> None:
    process = applied.start("rollback.yml", rollback_strategy="restore", rollback_confirm=database)
    deadline = time.monotonic() + 60
    while not any("_restore_" in name for name in names(server, database)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while server.execute("SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgops 2%'"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert server.execute(f"SELECT datallowconn FROM pg_database WHERE datname = '{database}'") == [(True,)]
    assert server.execute("SELECT count(*) FROM people", database=database) == [(2,)] or found_aside(server, database)
    # A restore that was whole when the signal came is a copy that the next one takes away.
    # By oid, since the next one may be of the same second and so have the same name.
    copies = f"SELECT oid FROM pg_database WHERE datname LIKE '{database}_restore_%'"
    left = server.execute(copies)
    stage(target, backup_store.backups_of(str(applied.backups), database)[0])
    assert not set(left) & set(server.execute(copies))


def found_aside(server: Any, database: str) -> bool:
    """Whether the swap had gone through before the signal."""
    return any("_failed_" in name for name in names(server, database))


def test_a_standby_is_no_way_back_and_no_recovery_goes_where_no_physical_backup_leads(applied: Any) -> None:
    done = applied("rollback.yml", rollback_strategy="standby")
    assert done.rc != 0
    assert "A paused or delayed standby is no way back" in done.output
    done = applied("rollback.yml", rollback_strategy="pitr", rollback_restore_point="before")
    assert done.rc != 0
    assert "backup_engine is logical here" in done.output
    done = applied("rollback.yml", rollback_strategy="restore", rollback_restore_point="before")
    assert "rollback_restore_point belongs to rollback_strategy=pitr" in done.output
