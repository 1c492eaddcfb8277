# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo` as a new user types it, in a copy of the checkout whose path has a space."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from embedded_server import EmbeddedServer
from support import demo
from support.demo import Answer, Shell
from support.podman import ROOT

LATEST = max(folder.name.partition("_")[0] for folder in (ROOT / "sql" / "migrations").iterdir())


@dataclass
class Made:
    """A clone in which `make demo` has run, after a first run that was killed while it loaded its data."""

    folder: Path
    answer: Answer


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    # A worker of pytest has its own, and the tests below leave the demo as they find it: any order will do.
    with demo.place("demo") as parent:
        folder = demo.clone(parent / "white cross")
        first = start(folder)
        wait_for(first, "4/5")
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        shell = Shell(folder)
        yield Made(folder, shell("make demo"))
        shell.close()


@pytest.fixture
def clone(made: Made) -> Path:
    return made.folder


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


def test_make_demo_completes_a_first_run_that_was_killed_while_it_loaded(made):
    assert made.answer.rc == 0, made.answer.output
    assert "$ ansible-playbook migrate.yml -l local" in made.answer.output
    assert "is migrated, its backup was proved by a restore before the first change." in made.answer.output
    assert "Traceback" not in made.answer.output


def test_the_database_has_the_latest_version_and_data_about_invented_students(shell):
    shell(". .local/psql.env")
    applied = shell("psql -XAtc 'SELECT max(version) FROM pgops.migration'")
    assert applied.output == LATEST
    # The migrator itself sees no row of a table with row-level security; the owner's role, which it may take, sees all.
    students = shell("psql -XAtqc 'SET ROLE white_cross_owner' -c 'SELECT count(*) > 1000 FROM students'")
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
    count = "psql -XAtqc 'SET ROLE white_cross_owner' -c 'SELECT count(*) FROM health_records'"
    before = shell(count).output
    assert int(before) > 1000
    answer = shell("make demo")
    assert answer.rc == 0, answer.output
    assert "rows are there already" in answer.output
    assert "changed=0" in answer.output
    assert "is migrated, nothing was pending, so nothing was backed up or changed; it was verified." in answer.output
    assert "proved by a restore" not in answer.output
    assert shell(count).output == before


@pytest.mark.slow
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
    os.killpg(first.pid, signal.SIGINT)
    first.communicate(timeout=120)
    assert second.returncode == 1
    assert f"Another 'make demo' works in this folder (process {first.pid})" in second.stderr


@pytest.mark.parametrize(
    ("text", "seconds"), [("1/5", 0.0), ("5/5", 0.3), pytest.param("5/5", 1.2, marks=pytest.mark.slow)]
)
def test_ctrl_c_ends_it_without_a_traceback(clone, text, seconds):
    process = start(clone)
    wait_for(process, text)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "stopped by Ctrl-C" in output
    assert "Traceback" not in output


@pytest.mark.slow
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
    ("variable", "sentence"),
    [
        ("ENV=production", "ENV=production has no demo; type 'make demo' or 'make demo ENV=staging'."),
        ("ROWS=many", "ROWS=many is no number of rows"),
        ("ROWS=0", "ROWS=0 is no number of rows"),
    ],
)
def test_a_wrong_variable_is_one_sentence(variable, sentence):
    name, _, value = variable.partition("=")
    done = subprocess.run(
        [sys.executable, "demo/run.py"], cwd=ROOT, env={**demo.environment(), name: value}, text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a mount")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [("size=50m", "are free at .local, and the demo needs"), ("size=50m,ro", "the file system is read-only")],
    ids=["small", "read-only"],
)
def test_a_disk_that_takes_no_demo_is_one_sentence(options, sentence):
    with demo.place("disk") as parent:
        folder = demo.clone(parent / "white cross")
        (folder / ".local").mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", options, "pgops-test", str(folder / ".local")]
        if subprocess.run(mount, check=False).returncode != 0:
            pytest.skip("root may not mount here (a container without SYS_ADMIN)")
        try:
            output, _ = start(folder).communicate(timeout=60)
        finally:
            subprocess.run(["umount", str(folder / ".local")], check=True)
        assert sentence in output
        assert output.count("demo: ") == 1
        assert "Traceback" not in output


@pytest.mark.slow
def test_clean_leaves_nothing_and_ends_the_servers():
    with demo.place("clean") as parent:
        folder = demo.clone(parent / "white cross")
        servers = [EmbeddedServer(folder / ".local" / part) for part in (".", "staging")]
        for server in servers:
            server.start()
        pids = [server.status().pid for server in servers]
        shell = Shell(folder)
        answer = shell("make clean")
        shell.close()
        assert answer.rc == 0, answer.output
        assert not (folder / ".local").exists()
        assert not (folder / ".venv").exists()
        assert not any(Path(f"/proc/{pid}/cwd").exists() for pid in pids)
