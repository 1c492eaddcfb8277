# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The real `sequelize-cli` and `prisma`, in a project folder of a test's own.

They come from the npm registry once, into `.local/`; what runs afterwards reaches this machine only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from support.podman import ROOT
from support.server import APP, Server

PROJECT = ROOT / "tests" / "legacy_tools"
LOCK = ("package.json", "package-lock.json")
# The oldest that the tools of the lock run on; Debian 12 and Ubuntu 24.04 have it.
NODE = (18, 18)


def install() -> Path:
    """:return: the `node_modules` of the lock, installed by `npm ci` when it is not there yet."""
    found = _node_version()
    if found < NODE:
        raise RuntimeError(f"node is {found[0]}.{found[1]}, and the tools need {NODE[0]}.{NODE[1]} or later")
    digest = hashlib.sha256(b"".join((PROJECT / name).read_bytes() for name in LOCK)).hexdigest()[:12]
    folder = ROOT / ".local" / "legacy_tools" / digest
    if not folder.exists():
        partial = folder.with_name(f"{digest}.{os.getpid()}.partial")
        partial.mkdir(parents=True)
        for name in LOCK:
            shutil.copy2(PROJECT / name, partial)
        # No install scripts: prisma's would load engines from another host.
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"], cwd=partial,
            env={**os.environ, "npm_config_cache": str(folder.with_name("cache"))}, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=600, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            shutil.rmtree(partial)
            raise RuntimeError(f"npm ci of {PROJECT} failed: {done.stderr.strip()}")
        try:
            partial.rename(folder)
        except OSError:
            shutil.rmtree(partial)  # another worker was first
    return folder / "node_modules"


def _node_version() -> tuple[int, int]:
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise RuntimeError("node and npm are needed: apt-get install nodejs npm, or 'make test-all' as root")
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = told.strip().lstrip("v").split(".")[:2]
    return int(major), int(minor)


class Tool:
    """The command line of a tool, on one database as one login."""

    program = ""

    def __init__(self, folder: Path, modules: Path, server: Server, database: str, login: str = APP) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True)
        (folder / "node_modules").symlink_to(modules)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PG", "PRISMA", "NODE_"))},
            "PGHOST": server.host,
            "PGPORT": str(server.port),
            "PGUSER": login,
            "PGDATABASE": database,
            "PGPASSFILE": str(server.passfile),
            "CHECKPOINT_DISABLE": "1",
            "NO_COLOR": "1",
        }

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run it to the end; standard error is with the output."""
        command = [
            "node",
            "--no-deprecation",
            "--require",
            str(PROJECT / "loopback_only.js"),
            str(self.folder / "node_modules" / self.program),
        ]
        return subprocess.run(
            [*command, *words], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
        )  # fmt: skip


class Sequelize(Tool):
    """`sequelize-cli`: migrations are JavaScript, and it writes its row after each."""

    program = "sequelize-cli/lib/sequelize"

    def __init__(self, folder: Path, modules: Path, server: Server, database: str, login: str = APP) -> None:
        super().__init__(folder, modules, server, database, login)
        (folder / "migrations").mkdir()
        shutil.copy2(PROJECT / "sequelize.config.js", folder / "config.js")
        (folder / ".sequelizerc").write_text(
            "module.exports = { config: 'config.js', 'migrations-path': 'migrations' };\n"
        )

    def add(self, name: str, up: str, down: str = "") -> None:
        """:param up: the body of an async function of `query` (the query interface) and `Types`."""
        text = "module.exports = {\n"
        for way, body in (("up", up), ("down", down)):
            text += f"  {way}: async (query, Types) => {{\n{body}\n  }},\n"
        (self.folder / "migrations" / name).write_text(f"'use strict';\n\n{text}}};\n", encoding="utf-8")

    def add_sql(self, name: str, up: list[str], down: list[str] | None = None) -> None:
        """A migration that sends statements as they are."""
        self.add(name, *("\n".join(f"    await query.sequelize.query({json.dumps(one)});" for one in way or []) for way in (up, down)))  # fmt: skip

    def remove(self, name: str) -> None:
        (self.folder / "migrations" / name).unlink()

    def status(self) -> dict[str, str]:
        """:return: file -> `up` or `down`, as `db:migrate:status` says it."""
        done = self("db:migrate:status")
        if done.returncode != 0:
            raise RuntimeError(done.stdout)
        lines = [line.split() for line in done.stdout.splitlines()]
        return {words[1]: words[0] for words in lines if len(words) == 2 and words[0] in ("up", "down")}


class Prisma(Tool):
    """`prisma migrate`: migrations are SQL, and it writes its row before each."""

    program = "prisma/build/index.js"

    def __init__(self, folder: Path, modules: Path, server: Server, database: str, login: str = APP) -> None:
        super().__init__(folder, modules, server, database, login)
        migrations = folder / "prisma" / "migrations"
        migrations.mkdir(parents=True)
        (migrations / "migration_lock.toml").write_text('provider = "postgresql"\n')
        shutil.copy2(PROJECT / "schema.prisma", folder / "prisma")
        shutil.copy2(PROJECT / "prisma.config.mjs", folder)

    def add(self, name: str, text: str) -> None:
        folder = self.folder / "prisma" / "migrations" / name
        folder.mkdir()
        (folder / "migration.sql").write_text(text, encoding="utf-8")
