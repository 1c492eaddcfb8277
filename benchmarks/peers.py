# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tools that people migrate with today, each with the same versions of the same SQL, as its own documentation sets it up.

psql comes with the server. The others are pinned in ``peer_packages`` and come from the registries of npm and PyPI once, into
``.local/benchmark_peers``. One that cannot be had here is named with the reason, and left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support import server as servers

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ROOT / "benchmarks" / "peer_packages"
NODE_LOCK = ("package.json", "package-lock.json")
PYTHON_LOCK = ("requirements.lock",)

ALEMBIC_ENVIRONMENT = """\
from alembic import context
from sqlalchemy import create_engine, pool

engine = create_engine("postgresql+psycopg2://", poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
SEQUELIZE_CONFIG = """\
const { PGHOST: host, PGPORT: port, PGUSER: username, PGDATABASE: database } = process.env;
module.exports = { dialect: 'postgres', host, port, username, database, logging: false };
"""


class Missing(Exception):
    """A program cannot be had here; the message says why."""


@dataclass(frozen=True)
class Version:
    """One migration: its number, its name, and its statements, each without a semicolon at its end."""

    number: str
    name: str
    statements: Sequence[str]

    @property
    def script(self) -> str:
        """:return: the statements as one SQL script."""
        return "".join(f"{statement};\n" for statement in self.statements)


class Peer(ABC):
    """The command line of a tool, on a folder of versions that it was given."""

    name = ""

    def __init__(self, folder: Path, server: servers.Server, versions: Sequence[Version]) -> None:
        """Write the versions as the tool wants them.

        :raises Missing: the tool cannot be had on this machine.
        """
        self.folder, self.server = folder, server
        self.folder.mkdir(parents=True)
        self.lay_out(versions)

    @abstractmethod
    def lay_out(self, versions: Sequence[Version]) -> None:
        """Write the folder."""

    @abstractmethod
    def commands(self, database: str) -> list[list[str]]:
        """:return: what a person types, in turn, to bring the database to the last version."""

    def environment(self, database: str) -> dict[str, str]:
        """:return: how the tool finds the database; the password is in the pass file."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PG", "NODE_", "PYTHON"))},
            "PGHOST": self.server.host,
            "PGPORT": str(self.server.port),
            "PGUSER": servers.MIGRATOR,
            "PGDATABASE": database,
            "PGPASSFILE": str(self.server.passfile),
            "NO_COLOR": "1",
        }

    def run(self, database: str) -> float:
        """:return: seconds of the whole command line.
        :raises RuntimeError: it failed; with what it said.
        """
        environment = self.environment(database)
        begun = time.monotonic()
        for command in self.commands(database):
            done = subprocess.run(
                command, cwd=self.folder, env=environment, text=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                raise RuntimeError(f"{self.name} exited with {done.returncode}: {done.stdout.strip()[-2000:]}")
        return time.monotonic() - begun


class Psql(Peer):
    """``psql -1 -f`` a file: one transaction a version. It keeps no record, so it has no run with nothing to do."""

    name = "psql -1"

    def lay_out(self, versions: Sequence[Version]) -> None:
        self.files = []
        for version in versions:
            self.files.append(self.folder / f"{version.number}_{version.name}.sql")
            self.files[-1].write_text(version.script, encoding="utf-8")

    def commands(self, database: str) -> list[list[str]]:
        psql = [str(self.server.bindir / "psql"), "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-f"]
        return [[*psql, str(file)] for file in self.files]


class Sequelize(Peer):
    """``sequelize-cli db:migrate``, each version in the managed transaction of its documentation."""

    name = "sequelize-cli"

    def lay_out(self, versions: Sequence[Version]) -> None:
        (self.folder / "node_modules").symlink_to(node_modules())
        (self.folder / "config.js").write_text(SEQUELIZE_CONFIG, encoding="utf-8")
        (self.folder / ".sequelizerc").write_text(
            "module.exports = { config: 'config.js', 'migrations-path': 'migrations' };\n", encoding="utf-8"
        )
        (self.folder / "migrations").mkdir()
        for version in versions:
            sent = "\n".join(
                f"    await query.sequelize.query({json.dumps(one)}, {{ transaction }});" for one in version.statements
            )
            (self.folder / "migrations" / f"{version.number}-{version.name}.js").write_text(
                "module.exports = {\n  up: (query) => query.sequelize.transaction(async (transaction) => {\n"
                f"{sent}\n  }}),\n  down: async () => {{}},\n}};\n",
                encoding="utf-8",
            )

    def commands(self, database: str) -> list[list[str]]:
        return [["node", "--no-deprecation", "node_modules/sequelize-cli/lib/sequelize", "db:migrate"]]


class Dbmate(Peer):
    """``dbmate migrate``: a file of SQL a version, in one transaction."""

    name = "dbmate"

    def lay_out(self, versions: Sequence[Version]) -> None:
        self.program = node_modules() / "@dbmate" / "linux-x64" / "bin" / "dbmate"
        if not self.program.exists():
            raise Missing(
                "npm has its program for Linux on x86-64 only, as far as peer_packages/package.json asks for it"
            )
        (self.folder / "migrations").mkdir()
        for version in versions:
            (self.folder / "migrations" / f"{version.number}_{version.name}.sql").write_text(
                f"-- migrate:up\n{version.script}\n-- migrate:down\n", encoding="utf-8"
            )

    def commands(self, database: str) -> list[list[str]]:
        url = f"postgres://{servers.MIGRATOR}@{self.server.host}:{self.server.port}/{database}?sslmode=disable"
        return [[str(self.program), "--url", url, "-d", "migrations", "--no-dump-schema", "migrate"]]


class Alembic(Peer):
    """``alembic upgrade head``: all versions in one transaction, as its template has it."""

    name = "alembic"

    def lay_out(self, versions: Sequence[Version]) -> None:
        self.packages = python_packages()
        versions_folder = self.folder / "migrations" / "versions"
        versions_folder.mkdir(parents=True)
        (self.folder / "alembic.ini").write_text("[alembic]\nscript_location = migrations\n", encoding="utf-8")
        (self.folder / "migrations" / "env.py").write_text(ALEMBIC_ENVIRONMENT, encoding="utf-8")
        before = None
        for version in versions:
            sent = "\n".join(
                f"    op.execute(sa.text({json.dumps(one.replace(':', chr(92) + ':'))}))" for one in version.statements
            )
            (versions_folder / f"{version.number}_{version.name}.py").write_text(
                f"import sqlalchemy as sa\nfrom alembic import op\n\nrevision = {version.number!r}\ndown_revision = {before!r}\n"
                f"\n\ndef upgrade():\n{sent}\n\n\ndef downgrade():\n    pass\n",
                encoding="utf-8",
            )
            before = version.number

    def environment(self, database: str) -> dict[str, str]:
        return {**super().environment(database), "PYTHONPATH": str(self.packages)}

    def commands(self, database: str) -> list[list[str]]:
        return [[sys.executable, "-m", "alembic", "upgrade", "head"]]


class NodePgMigrate(Peer):
    """``node-pg-migrate up``: a file of SQL a version, all of them in one transaction, which is its default."""

    name = "node-pg-migrate"

    def lay_out(self, versions: Sequence[Version]) -> None:
        (self.folder / "node_modules").symlink_to(node_modules())
        (self.folder / "migrations").mkdir()
        for version in versions:
            (self.folder / "migrations" / f"{version.number}_{version.name}.sql").write_text(
                f"-- Up Migration\n{version.script}\n-- Down Migration\n", encoding="utf-8"
            )

    def commands(self, database: str) -> list[list[str]]:
        return [["node", "node_modules/node-pg-migrate/bin/node-pg-migrate.js", "up", "--verbose", "false"]]


PEERS: tuple[type[Peer], ...] = (Psql, Sequelize, Dbmate, Alembic, NodePgMigrate)


def had(folder: Path, server: servers.Server, versions: Sequence[Version]) -> tuple[list[Peer], dict[str, str]]:
    """:return: those that can be had here, ready to run, and why each of the others cannot."""
    ready, missing = [], {}
    for kind in PEERS:
        try:
            ready.append(kind(folder / kind.__name__.lower(), server, versions))
        except Missing as why:
            missing[kind.name] = str(why)
            print(f"{kind.name} is left out: {why}", flush=True)
    return ready, missing


def act_as_owner(server: servers.Server) -> None:
    """Let every session of the migrator act as the owner, whatever tool opens it."""
    server.execute(f"ALTER ROLE {servers.MIGRATOR} SET role = '{servers.OWNER}'")


def versions_of_programs() -> dict[str, str]:
    """:return: what is pinned, by name."""
    package = json.loads((PACKAGES / "package.json").read_text(encoding="utf-8"))
    pinned = {**package["dependencies"], **package["optionalDependencies"]}
    python = (PACKAGES / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned.update(line.split("==", 1) for line in python if "==" in line and not line.startswith("#"))
    return dict(sorted(pinned.items()))


def node_modules() -> Path:
    """:return: what ``npm ci`` has installed, now or before. :raises Missing: there is no node that is new enough, or no npm."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Missing("node and npm are not installed")
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(int(part) for part in told.lstrip("v").split(".")[:2]) < (20, 11):
        raise Missing(f"node is {told}, and node-pg-migrate needs v20.11 or later")
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    return _installed("node", NODE_LOCK, command) / "node_modules"


def python_packages() -> Path:
    """:return: the folder of the Python packages, installed now or before. :raises Missing: pip could not install them."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    return _installed("python", PYTHON_LOCK, [*command, "--target", "packages", "-r", "requirements.lock"]) / "packages"


def _installed(kind: str, lock: Sequence[str], command: list[str]) -> Path:
    digest = hashlib.sha256(b"".join((PACKAGES / name).read_bytes() for name in lock)).hexdigest()[:12]
    folder = ROOT / ".local" / "benchmark_peers" / f"{kind}-{digest}"
    if folder.exists():
        return folder
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    for name in lock:
        shutil.copy2(PACKAGES / name, partial)
    print(f"installing {', '.join(lock)} of {PACKAGES.relative_to(ROOT)} into {folder.relative_to(ROOT)}", flush=True)
    done = subprocess.run(command, cwd=partial, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        shutil.rmtree(partial)
        raise Missing(f"'{' '.join(command[:4])}' failed: {done.stderr.strip().splitlines()[-1:]}")
    partial.rename(folder)
    return folder
