# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A streaming standby of an embedded server, or of one in a container."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from support import server as servers
from support.engine import wait_for
from support.podman import environment, podman
from support.server import SUPERUSER, Server


@contextmanager
def standby_of(primary: Server) -> Iterator[Server]:
    """A streaming standby that the primary waits for with each commit that is not told to be lazy."""
    directory = Path(tempfile.mkdtemp(prefix="pgops-test-"))
    data = directory / "data"
    subprocess.run(
        [primary.bindir / "pg_basebackup", "-D", data, "-R", "-X", "stream", "-c", "fast", "--no-sync",
         "-h", primary.host, "-p", str(primary.port), "-U", SUPERUSER],
        check=True, env={**os.environ, "PGPASSFILE": str(primary.passfile)},
    )  # fmt: skip
    passfile = directory / "passfile"
    shutil.copy(primary.passfile, passfile)
    # libpq passes over a password file that others may read.
    passfile.chmod(0o600)
    conninfo = data / "postgresql.auto.conf"
    conninfo.write_text(
        conninfo.read_text(encoding="utf-8").replace(str(primary.passfile), str(passfile)), encoding="utf-8"
    )
    if primary.owner_uid is not None:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, primary.owner_uid, primary.owner_uid)
    data.chmod(0o700)
    port = servers.free_port()
    changed = {f"port={primary.port}": f"port={port}", str(primary.directory / "data"): str(data)}
    command = [changed.get(word, word) for word in primary.postgres]
    command = [f"unix_socket_directories={directory}" if word.startswith("unix_socket") else word for word in command]
    server = replace(primary, port=port, directory=directory, postgres=command, process=None)
    server.start()
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary.execute("SELECT pg_reload_conf()")
    wait_for(lambda: primary.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"), what="the standby")
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def standby_in_container(primary: Server) -> Iterator[Server]:
    """A streaming standby beside its primary in the same container; nobody's commit waits for it."""
    assert primary.container is not None
    port = servers.free_port()
    programs = f"/usr/lib/postgresql/{primary.major}/bin"
    folder = f"/var/lib/postgresql/standby-{port}"
    data, passfile = f"{folder}/data", f"{folder}/passfile"
    own = ("exec", "--user", "postgres", primary.container)
    podman("exec", primary.container, "install", "-d", "-o", "postgres", "-m", "0700", folder)
    # By stdin: the password is on no command line.
    subprocess.run(
        ["podman", "exec", "-i", "--user", "postgres", primary.container, "sh", "-c", f"umask 077 && cat > {passfile}"],
        input=primary.passfile.read_bytes(), env=environment(), check=True,
    )  # fmt: skip
    connection = f"host={primary.host} port={primary.port} user={SUPERUSER} passfile={passfile}"
    podman(
        *own, f"{programs}/pg_basebackup", "-D", data, "-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", connection
    )
    settings = {
        "config_file": f"/etc/postgresql/{primary.major}/main/postgresql.conf",
        "data_directory": data,
        "external_pid_file": "",
        "cluster_name": "",
        "port": str(port),
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    podman(*own, f"{programs}/pg_ctl", "start", "-w", "-D", data, "-l", f"{folder}/log", "-o", options)
    server = replace(primary, port=port)
    server.wait_until_ready()
    try:
        yield server
    finally:
        podman(*own, f"{programs}/pg_ctl", "stop", "-w", "-m", "immediate", "-D", data)
        podman("exec", primary.container, "rm", "-rf", folder)
