# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster that archives through pgBackRest, in a container of its own, and the engine run in there beside it."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from support.podman import IMAGE, ROOT, environment, podman
from support.server import (
    MIGRATOR,
    OWNER,
    RESTORE,
    SETTINGS,
    SUPERUSER,
    Server,
    create_roles,
    free_port,
    write_passfile,
)

DEBIAN_12 = "/usr/bin/pgbackrest"
DEBIAN_13 = "/opt/pgbackrest/usr/bin/pgbackrest"
CONFIG = "/etc/pgbackrest/pgops.conf"
REPOSITORY = "/var/lib/pgbackrest"
STANZA = "main"
PROOFS = "/var/backups/pgops"
RUN = "20261122T120000Z-0a1b2c"

# What a script of a test has at hand in the container.
PREAMBLE = """
import contextlib, json, os, sys
sys.path.insert(0, "/pgops/collections")
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    cluster_change, cluster_layout, cluster_resume, connection, pgbackrest, physical_backup, physical_list, physical_proof,
    physical_rollback,
    point_in_time, recorded_moment, restore_point, wal_archive)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.os_user import OsUser
given = json.loads(sys.argv[1])
run_id, values = given["run_id"], given["values"]
targets = {name: connection.Target(**{**given["target"], "database": name}) for name in given["databases"]}
target = next(iter(targets.values()))
tool = pgbackrest.PgBackRest(given["command"], given["config"], given["stanza"], OsUser("postgres"))
def work(after=lambda step: None, **asked):
    return physical_rollback.Work(targets, tool, physical_rollback.Request(run_id, archive_seconds=60, **asked), after)
def declared(**more):
    return physical_backup.Declared({"repo1-path": "/var/lib/pgbackrest", **more}, {}, None)
"""


class PhysicalCluster:
    """One cluster in one container; `run` executes a script of the engine in there."""

    def __init__(self, major: int, command: str = DEBIAN_12, *, database: str = "white_cross") -> None:
        self.major = major
        self.command = command
        self.database = database
        self.name = f"pgops-physical-{secrets.token_hex(4)}"
        self.directory = Path(tempfile.mkdtemp(prefix="pgops-physical-"))
        self.data = f"/var/lib/postgresql/{major}/main"
        self.server = self._create()

    def _create(self) -> Server:
        podman("run", "--detach", "--name", self.name, "--label", "pgops-test=1", "--shm-size", "256m", "--network", "host",
               "--tmpfs", "/var/run/postgresql:mode=1777", "--volume", f"{ROOT}:/pgops:ro", IMAGE, "sleep", "infinity")  # fmt: skip
        passwords = {SUPERUSER: secrets.token_urlsafe(16)}
        passfile = self.directory / "passfile"
        write_passfile(passfile, passwords)
        port = free_port()
        archive = f"{self.command} --config={CONFIG} --stanza={STANZA} archive-push %p"
        settings = {**SETTINGS, "archive_mode": "on", "archive_command": archive, "shared_buffers": "64MB"}
        podman("exec", self.name, "pg_createcluster", str(self.major), "main", "--port", str(port), "--locale", "C.UTF-8",
               *(word for name, value in settings.items() for word in ("--pgoption", f"{name}={value}")),
               "--", "--data-checksums", "--no-sync")  # fmt: skip
        podman("exec", self.name, "pg_ctlcluster", str(self.major), "main", "start")
        subprocess.run(
            ["podman", "exec", "-i", "--user", "postgres", self.name, "psql", "--quiet", "--cluster", f"{self.major}/main"],
            input=f"ALTER ROLE postgres PASSWORD '{passwords[SUPERUSER]}';", text=True, env=environment(), check=True,
        )  # fmt: skip
        server = Server(major=self.major, host="127.0.0.1", port=port, passfile=passfile, bindir=Path("/nowhere"),
                        directory=self.directory, container=self.name)  # fmt: skip
        server.wait_until_ready()
        create_roles(server, passwords)
        podman("exec", self.name, "mkdir", "-p", "-m", "0700", "/etc/pgops")
        podman("cp", str(passfile), f"{self.name}:/etc/pgops/passfile")
        server.create_database(self.database)
        return server

    def run(
        self, code: str, *, run_id: str = RUN, databases: list[str] | None = None, check: bool = True, **values: Any
    ) -> Any:
        """What the script prints as JSON, or `{"refused": ..., "hint": ...}` where the engine refused."""
        given = {
            "run_id": run_id,
            "values": values,
            "databases": databases or [self.database],
            "command": self.command,
            "config": CONFIG,
            "stanza": STANZA,
            "target": {
                "host": "127.0.0.1", "port": str(self.server.port), "user": MIGRATOR, "owner": OWNER, "restore_user": RESTORE,
                "passfile": "/etc/pgops/passfile", "database": self.database,
            },
        }  # fmt: skip
        body = textwrap.indent(textwrap.dedent(code), "    ")
        program = (
            f"{PREAMBLE}\ntry:\n{body}\nexcept PgopsError as error:\n"
            '    print(json.dumps({"refused": error.message, "hint": error.hint, "extra": error.extra}, default=str))\n'
        )
        done = subprocess.run(
            ["podman", "exec", self.name, "python3", "-c", program, json.dumps(given)], env=environment(),
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        if not check:
            return done
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.strip().splitlines()[-1])

    def back_up(self, kind: str = "full") -> dict[str, Any]:
        """The stanza and a backup."""
        return self.run(
            """
            with physical_backup.session(target, run_id) as (conn, layout):
                physical_backup.prepare(tool, layout, declared())
                print(json.dumps(physical_backup.back_up(tool, layout, values["kind"])))
            """,
            kind=kind,
        )

    def mark(self, name: str) -> dict[str, Any]:
        """A restore point whose WAL is archived."""
        return self.run(
            """
            with physical_backup.session(target, run_id) as (conn, layout):
                print(json.dumps(restore_point.create(conn, values["name"], seconds=60)))
            """,
            name=name,
        )

    def roll_back(self, *, die_at: str | None = None, **asked: Any) -> Any:
        """Go back; killed after a step of the change where one is named."""
        return self.run(
            """
            def after(step):
                if step == values["die_at"]:
                    os.kill(os.getpid(), 9)
            print(json.dumps(physical_rollback.roll_back(work(after, **values["asked"]))))
            """,
            check=die_at is None,
            die_at=die_at,
            asked=asked,
        )

    def resume(self, strategy: str = "pitr", *, confirmed: bool = True, **target: Any) -> Any:
        """Finish or undo a change that was cut off; a target only where another is to be refused."""
        return self.run(
            """
            asked = cluster_resume.Asked(values["strategy"], values["confirmed"], **values["target"])
            print(json.dumps(cluster_resume.resume(
                given["config"], given["stanza"], tool.user, list(targets), asked, pretend=False)))
            """,
            strategy=strategy,
            confirmed=confirmed,
            target=target,
        )

    def prove(self, level: int = 4, before: str = "", databases: list[str] | None = None, **asked: Any) -> Any:
        """Prove the newest backup; what stands in `before` is run in the same process first."""
        return self.run(
            textwrap.dedent(before)
            + textwrap.dedent(
                """
                with physical_backup.session(target, run_id) as (conn, layout):
                    asked = physical_proof.Asked(values["directory"], values["level"], **values["asked"])
                    print(json.dumps(physical_proof.prove(
                        tool, layout, conn, targets, asked, run_id=run_id, seconds=60, application_name="pgops prove")))
                """
            ),
            level=level,
            asked=asked,
            directory=PROOFS,
            databases=databases,
        )

    def disclose(self, **asked: Any) -> Any:
        """Look, and touch nothing."""
        return self.run('print(json.dumps(physical_rollback.disclose(work(**values["asked"]))))', asked=asked)

    def shell(self, command: str) -> str:
        """Run a command in the container as root."""
        return podman("exec", self.name, "sh", "-c", command)

    def beside(self) -> list[str]:
        """What lies beside the data directory, but for the file that a run locks."""
        names = self.shell(f"ls -A /var/lib/postgresql/{self.major}").split()
        return sorted(name for name in names if name != "main" and not name.endswith(".lock"))

    def remove(self) -> None:
        podman("rm", "--force", "--ignore", "--time", "0", "--volumes", self.name)
        shutil.rmtree(self.directory, ignore_errors=True)
