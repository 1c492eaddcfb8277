# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo` as a new user types it, in a copy of the checkout whose path has a space."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import demo
from support.demo import Shell

LATEST = "20251103204744"


@pytest.fixture(scope="module")
def clone() -> Iterator[Path]:
    with demo.place("demo") as parent:
        yield demo.clone(parent / "white cross")


@pytest.fixture
def shell(clone: Path) -> Iterator[Shell]:
    shell = Shell(clone)
    yield shell
    shell.close()


def start(clone: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(clone / ".venv/bin/python"), "demo/run.py", *arguments], cwd=clone, env=demo.environment(), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    printed = ""
    assert process.stdout is not None
    for line in process.stdout:
        printed += line
        if text in line:
            return printed
    raise AssertionError(f"{text!r} was never printed:\n{printed}")


# The whole demo; these run in the order of this file, each on what the one before has left.


def test_a_first_run_killed_while_it_loads_is_completed_by_make_demo(clone, shell):
    first = start(clone)
    wait_for(first, "4/5")
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    answer = shell("make demo")
    assert answer.rc == 0, answer.output
    assert "$ ansible-playbook migrate.yml -l local" in answer.output
    assert "Done in" in answer.output
    assert "Traceback" not in answer.output


def test_the_database_has_the_latest_version_and_data_about_invented_students(shell):
    shell(". .local/psql.env")
    applied = shell("psql -XAtc 'SELECT max(version) FROM pgops.migration'")
    assert applied.output == LATEST
    students = shell("psql -XAtc 'SELECT count(*) > 1000 FROM students'")
    assert students.output == "t"
    # The application's role loaded them; PUBLIC may not even connect.
    public = shell("psql -XAtc \"SELECT has_database_privilege('public', current_database(), 'CONNECT')\"")
    assert public.output == "f"


def test_psql_env_names_a_role_that_is_no_superuser_and_no_password(clone, shell):
    text = (clone / ".local" / "psql.env").read_text(encoding="utf-8")
    for line in (clone / ".local" / "passfile").read_text(encoding="utf-8").splitlines():
        assert line.rpartition(":")[2] not in text
    shell(". .local/psql.env")
    assert shell("psql -XAtc 'SELECT rolsuper FROM pg_roles WHERE rolname = current_user'").output == "f"
    # Read twice in one shell, the path grows once.
    assert shell('before=$PATH; . .local/psql.env; [ "$before" = "$PATH" ]').rc == 0


def test_the_report_that_the_demo_names_is_there(clone):
    assert list((clone / ".local" / "state" / "reports" / "local").glob("*.html"))


def test_a_second_run_loads_nothing_twice_and_changes_nothing(shell):
    shell(". .local/psql.env")
    before = shell("psql -XAtc 'SELECT count(*) FROM health_records'").output
    answer = shell("make demo")
    assert answer.rc == 0, answer.output
    assert "rows are there already" in answer.output
    assert "changed=0" in answer.output
    assert shell("psql -XAtc 'SELECT count(*) FROM health_records'").output == before


def test_a_run_after_make_stop_starts_the_server_again(shell):
    stopped = shell("make stop")
    assert "Stopped the PostgreSQL of 'local'" in stopped.output
    assert shell(". .local/psql.env; psql -XAtc 'SELECT 1'").rc != 0
    answer = shell("make demo")
    assert answer.rc == 0, answer.output
    assert shell(". .local/psql.env; psql -XAtc 'SELECT 1'").output == "1"


def test_two_demos_at_once_are_refused_in_one_sentence(clone):
    first = start(clone)
    wait_for(first, "1/5")
    second = subprocess.run(
        [str(clone / ".venv/bin/python"), "demo/run.py"], cwd=clone, env=demo.environment(), text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    first.communicate(timeout=300)
    assert second.returncode == 1
    assert f"Another 'make demo' works in this folder (process {first.pid})" in second.stderr
    assert first.returncode == 0


def test_ctrl_c_ends_it_without_a_traceback(clone):
    process = start(clone)
    wait_for(process, "5/5")
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Traceback" not in output


def test_staging_is_answered_by_a_server_of_its_own(clone, shell):
    answer = shell("make demo ENV=staging")
    assert answer.rc == 0, answer.output
    assert "ansible-playbook migrate.yml -l staging" in answer.output
    local = (clone / ".local" / "port").read_text(encoding="utf-8")
    staging = (clone / ".local" / "staging" / "port").read_text(encoding="utf-8")
    assert local != staging
    shell(". .local/psql.env")
    assert shell("psql -XAtc 'SHOW port'").output == staging.strip()
    status = shell("ansible-playbook status.yml -l staging")
    assert status.rc == 0, status.output
    assert LATEST in status.output
    # The environments keep their journals apart, and the repository's own inventory is as it was.
    assert not list((clone / ".local" / "state").glob("*/staging"))


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ("ENV=production", "ENV=production has no demo; type 'make demo' or 'make demo ENV=staging'."),
        ("ROWS=many", "ROWS=many is no number of rows"),
        ("ROWS=0", "ROWS=0 is no number of rows"),
    ],
)
def test_a_wrong_variable_is_one_sentence(shell, variables, sentence):
    answer = shell(f"make demo {variables}")
    assert answer.rc != 0
    assert sentence in answer.output
    assert "Traceback" not in answer.output


def test_clean_leaves_nothing_and_ends_the_servers(clone, shell):
    pids = [
        (clone / ".local" / part / "data" / "postmaster.pid").read_text(encoding="utf-8").split()[0]
        for part in (".", "staging")
    ]
    answer = shell("make clean")
    assert answer.rc == 0, answer.output
    assert not (clone / ".local").exists()
    assert not (clone / ".venv").exists()
    assert not any(Path(f"/proc/{pid}/cwd").exists() for pid in pids)
