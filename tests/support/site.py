# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A private copy of an operator's working folder, from which the literal `ansible-playbook X.yml -l ENV` runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support.podman import ROOT
from support.server import BACKUP, MIGRATOR, OWNER, RESTORE, Server

ENVIRONMENTS = ("local", "staging", "production")
# A copy, never links: a playbook that writes into its tree (new_migration.yml) must not write into the checkout.
COPIED_FOLDERS = ("plugins", "roles", "playbooks", "meta", "sql", "collections")


CONTACTS = {
    role: {"name": name, "phone": "+1 202 4567 890", "email": f"{name.partition(' ')[0].lower()}@hospital.org"}
    for role, name in (
        ("database_admin", "Ada Byron"), ("tech_lead", "Grace Murray"), ("cto", "Alan Turing"), ("hipaa_officer", "Mary Seacole"),
    )
}  # fmt: skip


@dataclass
class Result:
    """What an operator and a machine see of one run."""

    rc: int
    stdout: str
    stderr: str
    json: dict[str, Any] | None

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    def __iter__(self):
        """`rc, stdout, document = playbook(...)`."""
        return iter((self.rc, self.stdout, self.json))


class Playbook:
    """Call it: `playbook("migrate.yml", limit="local", migrate_target="...")`.

    The inventory has a host `<env>-1` for each environment, all on the given database. `variables` go to every host;
    keyword arguments of a call are extra vars.
    """

    def __init__(self, folder: Path, server: Server, database: str) -> None:
        self.folder = folder
        self.server = server
        self.database = database
        self.state = folder / "state"
        self.backups = folder / "backups"
        self.runs = 0
        self.variables: dict[str, Any] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "pgops_host": server.host,
            "pgops_port": server.port,
            "pgops_database": database,
            "pgops_user": MIGRATOR,
            "pgops_owner": OWNER,
            "pgops_backup_user": BACKUP,
            "pgops_restore_user": RESTORE,
            "pgops_passfile": str(server.passfile),
            "pgops_sslmode": "prefer",
            "pgops_bindir": str(server.bindir),
            "pgops_state_directory": str(self.state),
            "pgops_progress": "never",
            "backup_directory": str(self.backups),
            # Production asks for it, and few tests are about that.
            "migrate_review_required": False,
            "gate_required": False,
            # So does it for these, and for copies in a second place.
            "backup_copies_required": False,
            "audit_justification_required": False,
            "audit_phi_required": False,
            # The servers of the tests outlive no crash, which stops a run in production.
            "preflight_waive": [{"check": "unsafe_settings", "reason": "a server of the tests"}],
            "pgops_contacts": CONTACTS,
            "rollback_reason": "a test",
        }
        self.hosts: dict[str, dict[str, dict[str, Any]]] = {name: {f"{name}-1": {}} for name in ENVIRONMENTS}
        self._lay_out()

    def _lay_out(self) -> None:
        self.folder.mkdir(parents=True)
        for entry in ROOT.iterdir():
            if entry.name in COPIED_FOLDERS:
                shutil.copytree(entry, self.folder / entry.name, symlinks=True)
            elif entry.is_file() and entry.suffix in (".yml", ".cfg"):
                shutil.copy2(entry, self.folder)
        (self.folder / "inventories").mkdir()
        if (ROOT / "inventories" / "group_vars").is_dir():
            shutil.copytree(ROOT / "inventories" / "group_vars", self.folder / "inventories" / "group_vars")

    def copy_sql(self) -> Path:
        """The migration tree of this test's own, to edit; later runs name it. Returns the folder that holds migrations/."""
        tree = self.folder / "sql"
        self.variables["pgops_sql"] = str(tree)
        return tree

    def keep_versions(self, versions: Sequence[str]) -> None:
        """Leave these in the tree of this test's own: a short one is compared sooner."""
        for folder in (self.copy_sql() / "migrations").iterdir():
            if folder.name.partition("_")[0] not in versions:
                shutil.rmtree(folder)

    def write_inventory(self) -> None:
        for environment, hosts in self.hosts.items():
            text = yaml.safe_dump({environment: {"hosts": {h: {**self.variables, **own} for h, own in hosts.items()}}})
            (self.folder / "inventories" / f"{environment}.yml").write_text(text, encoding="utf-8")

    def environment(self) -> dict[str, str]:
        values = {
            name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PG", "PYTHON"))
        }
        values["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), values.get("PATH", os.defpath)])
        values["ANSIBLE_NOCOLOR"] = "1"
        values["ANSIBLE_LOCAL_TEMP"] = str(self.folder / "tmp")
        return values

    def command(self, name: str, *arguments: str, limit: str | None = "local", **extra_vars: Any) -> list[str]:
        words = ["ansible-playbook", name]
        if limit is not None:
            words += ["-l", limit]
        if extra_vars:
            words += ["-e", json.dumps(extra_vars)]
        return words + list(arguments)

    def start(
        self, name: str, *arguments: str, limit: str | None = "local", **extra_vars: Any
    ) -> subprocess.Popen[str]:
        """Begin a run and return at once, for tests that kill it; it leads its own process group."""
        self.write_inventory()
        return subprocess.Popen(
            self.command(name, *arguments, limit=limit, **extra_vars), cwd=self.folder, env=self.environment(), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def wait_for_its_sleep(self, process: subprocess.Popen[str]) -> None:
        """Until the run is in a statement of its tree that sleeps for a minute."""
        deadline = time.monotonic() + 240
        while not self.server.execute(
            f"SELECT 1 FROM pg_stat_activity WHERE datname = '{self.database}' AND query LIKE '%pg_sleep(60)%' "
            "AND state = 'active'"
        ):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the run has not come to its sleep within 240 s"
            time.sleep(0.2)  # between two looks at the server

    def interrupt(self, process: subprocess.Popen[str], number: int, *, whole_group: bool) -> str:
        """Send a signal into that sleep, as a terminal does to the whole group or `kill` to the one. Returns what was said."""
        try:
            self.wait_for_its_sleep(process)
            (os.killpg if whole_group else os.kill)(process.pid, number)
            output, _nothing = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        return output

    def __call__(
        self, name: str, *arguments: str, limit: str | None = "local", timeout: float = 300, **extra_vars: Any
    ) -> Result:
        """Run to the end; timeout in seconds. `limit=None` leaves -l out. Adds `pgops_json` unless given."""
        self.write_inventory()
        self.runs += 1
        document = Path(extra_vars.setdefault("pgops_json", str(self.folder / f"result-{self.runs}.json")))
        done = subprocess.run(
            self.command(name, *arguments, limit=limit, **extra_vars), cwd=self.folder, env=self.environment(), text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False,
        )  # fmt: skip
        found = (
            json.loads(document.read_text(encoding="utf-8"))
            if document.is_file() and not document.is_symlink()
            else None
        )
        return Result(done.returncode, done.stdout, done.stderr, found)
