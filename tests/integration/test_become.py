# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules run as whoever the inventory says: the user who logs in, or another by `become`; what they leave belongs to that one alone."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from support.server import BACKUP, MIGRATOR, OWNER, RESTORE, free_port
from support.site import Playbook
from support.ssh_host import SshHost, ssh_host
from support.tree import TestTree

pytestmark = pytest.mark.container
V1 = "20260101000001"


@dataclass(frozen=True)
class Host:
    """A host with a PostgreSQL 18 of its own, the user `ops`, who may become anybody, and a port."""

    ssh: SshHost
    port: int

    def run(self, script: str) -> str:
        return self.ssh.run(script)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with ssh_host(tmp_path_factory.mktemp("host")) as ssh:
        port, password = free_port(), secrets.token_hex(8)
        # '*' is a password that nobody can type; without one sshd takes the account for locked.
        ssh.run(
            "useradd --create-home --shell /bin/bash --password '*' ops && echo 'ops ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ops "
            f"&& pg_createcluster --start 18 main --port {port} --pgoption fsync=off --pgoption full_page_writes=off"
        )
        roles = (
            f"CREATE ROLE {OWNER} BYPASSRLS; CREATE ROLE {MIGRATOR} LOGIN IN ROLE {OWNER}; CREATE ROLE {RESTORE} LOGIN SUPERUSER; "
            f"CREATE ROLE {BACKUP} LOGIN BYPASSRLS IN ROLE pg_read_all_data; "
            + "".join(f"ALTER ROLE {role} PASSWORD '{password}'; " for role in (MIGRATOR, BACKUP, RESTORE))
        )
        ssh.run(f'su postgres -c "psql -q --cluster 18/main -c \\"{roles}\\""')
        for user in ("ops", "postgres", "root"):
            ssh.run(
                f"cd /etc && echo '*:*:*:*:{password}' > pass_{user} && chown {user} pass_{user} && chmod 600 pass_{user}"
            )
        yield Host(ssh, port)


@pytest.fixture
def site(host: Host, playbook: Playbook) -> Playbook:
    tree = TestTree(playbook.folder / "own")
    tree.add_sql(
        V1, "create_people", "CREATE TABLE public.people (id int PRIMARY KEY);\n", "DROP TABLE public.people;\n"
    )
    host.run(f'su postgres -c "createdb --cluster 18/main -O {OWNER} {playbook.database}"')
    playbook.variables |= {
        "ansible_connection": "ssh", "ansible_host": "vault", "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_common_args": f"-F '{host.ssh.config}' -o ControlPath=none",
        "pgops_host": "127.0.0.1", "pgops_port": host.port, "pgops_bindir": "/usr/lib/postgresql/18/bin",
        "pgops_sql": str(tree.folder), "pgops_phases": ["preflight", "plan", "backup", "prove", "apply", "analyze", "verify", "report"],
    }  # fmt: skip
    return playbook


@pytest.mark.slow
@pytest.mark.parametrize(
    ("login", "become"), [("ops", "postgres"), ("ops", None), ("root", "postgres"), ("root", None), ("ops", "root")]
)
def test_a_migration_runs_as_whom_the_inventory_names(
    host: Host, site: Playbook, login: str, become: str | None
) -> None:
    worker = become or login
    folder = f"/srv/{site.database}"
    host.run(f"mkdir {folder} && chown {worker} {folder} && chmod 700 {folder}")
    site.variables |= {
        "ansible_user": login, "pgops_passfile": f"/etc/pass_{worker}", "backup_directory": f"{folder}/backups",
    } | ({"ansible_become": True, "ansible_become_user": become} if become else {})  # fmt: skip
    done = site("migrate.yml")
    assert done.rc == 0, done.output
    assert "backup proved" in done.stdout
    again = site("migrate.yml")
    assert again.rc == 0 and "changed=0" in again.stdout, again.output
    # Nobody else's file, and nothing that others may read.
    assert host.run(f"find {folder} ! -user {worker}") == ""
    assert host.run(f"find {folder} -perm /077") == ""
    assert int(host.run(f"find {folder} -type f | wc -l")) > 3


@pytest.mark.slow
def test_a_pass_file_of_somebody_else_is_told_with_the_user_who_could_not_read_it(host: Host, site: Playbook) -> None:
    site.variables |= {
        "ansible_user": "ops", "ansible_become": True, "ansible_become_user": "postgres", "pgops_passfile": "/etc/pass_ops",
    }  # fmt: skip
    refused = site("status.yml")
    assert refused.rc == 2, refused.output
    told = host.run("id -u postgres")
    assert (
        f"cannot be read on {host.run('hostname')} by the user with the id {told}" in refused.json["error"]["message"]
    )
