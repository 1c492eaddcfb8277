# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An ops host: the test image with systemd as its first process, a checkout in /srv/pgops, Ansible, and a PostgreSQL of its own.

The Ansible is that of the tests, mounted: the image's Python runs it, since the machine's own may need a newer C library.
"""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support.podman import IMAGE, ROOT, environment, podman
from support.server import MEMBERSHIPS, ROLE_ATTRIBUTES
from support.site import COPIED_FOLDERS, Result

MAJOR = 18
DATABASE = "white_cross"
CHECKOUT = "/srv/pgops"
PACKAGES = "/opt/site-packages"
ENVIRONMENT = "production"
STATE = "/var/lib/pgops"
BACKUPS = "/var/backups/pgops"

# cryptography is left out, whose binary fits one Python only, and Ansible does without.
PREPARE = f"""{Path(__file__).with_suffix(".sh").read_text(encoding="utf-8")}
pg_createcluster --start --port=5432 --locale=C.UTF-8 --pgoption=fsync=off {MAJOR} main -- --data-checksums > /dev/null
"""


@dataclass
class OpsHost:
    """A running one. `folder` is its /srv/pgops."""

    name: str
    folder: Path
    password: str
    runs: int = 0

    def run(
        self, script: str, *, user: str = "root", check: bool = True, given: str | None = None, runtime: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """A shell of this user. :param runtime: whether it knows where its own manager is."""
        if runtime:
            script = f"export XDG_RUNTIME_DIR=/run/user/$(id -u); {script}"
        done = subprocess.run(
            ["podman", "exec", "--interactive", "--user", user, "--workdir", CHECKOUT, "--env", "LANG=C.UTF-8", self.name, "sh", "-c", script],
            env=environment(), input=given or "", capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done

    def __call__(self, name: str, *arguments: str, user: str = "root", **extra_vars: Any) -> Result:
        """The literal command of an operator, for the environment production."""
        self.runs += 1
        document = self.folder / "results" / f"{self.runs}.json"
        extra_vars["pgops_json"] = f"{CHECKOUT}/results/{document.name}"
        words = ["ansible-playbook", name, "-l", ENVIRONMENT, "-e", json.dumps(extra_vars), *arguments]
        done = self.run(shlex.join(words), user=user, check=False)
        found = json.loads(document.read_text(encoding="utf-8")) if document.exists() else None
        return Result(done.returncode, done.stdout, done.stderr, found)

    def wait(self, what: str, answer: Callable[[], Any], seconds: float = 180) -> Any:
        """Until it is so: systemd's clock is not ours. :return: the answer"""
        deadline = time.monotonic() + seconds
        while not (found := answer()):
            if time.monotonic() > deadline:
                journal = self.run(
                    "systemctl list-timers --all 'pgops-*'; journalctl --no-pager -n 60", check=False
                ).stdout
                raise AssertionError(f"{what} was waited for in vain:\n{journal}")
            time.sleep(0.5)
        return found

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """What systemd knows of a unit."""
        words = " ".join(f"--property={name}" for name in names)
        return dict(line.partition("=")[::2] for line in self.run(f"systemctl show {words} {unit}").stdout.splitlines())

    def heartbeat(self, job: str) -> dict[str, Any] | None:
        """What the last run of a job has left."""
        found = self.run(f"cat {STATE}/journal/{ENVIRONMENT}/timers/{job}.json", check=False)
        return json.loads(found.stdout) if found.returncode == 0 else None

    def files(self, pattern: str) -> list[str]:
        """All files of the host whose name is like that, but for those of the checkout."""
        found = self.run(
            f"find / -xdev -name {shlex.quote(pattern)} -not -path '{CHECKOUT}/*' -not -path '/proc/*' | sort"
        )
        return found.stdout.split()


@contextmanager
def ops_host(folder: Path) -> Iterator[OpsHost]:
    """One that is gone at the end of the block; the checkout lies in the folder."""
    name = f"pgops-test-ops-{secrets.token_hex(4)}"
    packages = sysconfig.get_paths()["purelib"]
    _lay_out(folder)
    podman(
        "run", "--detach", "--name", name, "--label", "pgops-test=1", "--hostname", "ops1", "--systemd=always", "--shm-size=256m",
        # Without it systemd leaves out what shuts a service in, and says nothing.
        "--cap-add=SYS_ADMIN", "--volume", f"{folder}:{CHECKOUT}", "--volume", f"{packages}:{PACKAGES}:ro",
        "--tmpfs", f"{PACKAGES}/cryptography", IMAGE,
    )  # fmt: skip
    try:
        host = OpsHost(name, folder, secrets.token_urlsafe(16))
        host.run(PREPARE)
        roles = [
            f"CREATE ROLE {role} {attributes}"
            + ("" if "NOLOGIN" in attributes else f" PASSWORD '{host.password}'")
            + ";"
            for role, attributes in ROLE_ATTRIBUTES.items()
        ]
        roles += [f"GRANT {group} TO {member};" for group, member in MEMBERSHIPS]
        roles.append(f"CREATE DATABASE {DATABASE} OWNER white_cross_owner;")
        psql = f"runuser -u postgres -- psql --cluster {MAJOR}/main --no-psqlrc --quiet --set=ON_ERROR_STOP=1"
        host.run(psql, given="\n".join(roles))
        tables = "CREATE TABLE students AS SELECT id, 'name ' || id AS name FROM generate_series(1, 500) AS id;"
        host.run(f"{psql} {DATABASE}", given=tables)
        host.run(
            "mkdir -m 700 /etc/pgops && umask 077 && cat > /etc/pgops/passfile", given=f"*:*:*:*:{host.password}\n"
        )
        yield host
    finally:
        subprocess.run(
            ["podman", "rm", "--force", "--time", "0", "--volumes", name],
            env=environment(),
            check=False,
            capture_output=True,
        )


def _lay_out(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for entry in ROOT.iterdir():
        if entry.name in COPIED_FOLDERS:
            shutil.copytree(entry, folder / entry.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif entry.is_file() and entry.suffix in (".yml", ".cfg"):
            shutil.copy2(entry, folder)
    (folder / "results").mkdir(mode=0o777)
    (folder / "results").chmod(0o777)
    (folder / "inventories").mkdir()
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "/usr/bin/python3",
        "pgops_host": "127.0.0.1",
        "pgops_port": 5432,
        "pgops_database": DATABASE,
        "pgops_user": "white_cross_migrator",
        "pgops_owner": "white_cross_owner",
        "pgops_backup_user": "white_cross_backup",
        "pgops_restore_user": "white_cross_restore",
        "pgops_passfile": "/etc/pgops/passfile",
        "pgops_bindir": f"/usr/lib/postgresql/{MAJOR}/bin",
        "pgops_state_directory": STATE,
        "pgops_progress": "never",
        "backup_directory": BACKUPS,
        "backup_scratch_reason": "the only server of this test",
    }
    text = yaml.safe_dump({ENVIRONMENT: {"hosts": {"db1": variables}}})
    (folder / "inventories" / f"{ENVIRONMENT}.yml").write_text(text, encoding="utf-8")
