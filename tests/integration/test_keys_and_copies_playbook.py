# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shipped playbooks with encrypted backups and a second place: each phase gets its key, and production waits for the copy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store
from support.backups import back_up
from support.keys import Key, age_key
from support.podman import ROOT, environment
from support.ssh_host import ssh_host
from support.tree import TestTree

V1, V2 = "20260101000001", "20260101000002"


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return age_key(tmp_path)


@pytest.fixture
def site(playbook: Any, tmp_path: Path, key: Key) -> Any:
    """Two small versions, one of them applied; encrypted, with a second place."""
    tree = TestTree(tmp_path / "own sql")
    tree.add_sql(V1, "create_people", "CREATE TABLE people (id int PRIMARY KEY, name text);\n", "DROP TABLE people;\n")
    tree.add_sql(V2, "add_age", "ALTER TABLE people ADD COLUMN age int;\n", "ALTER TABLE people DROP COLUMN age;\n")
    (tmp_path / "second").mkdir()
    playbook.variables |= {
        "pgops_sql": str(tree.folder),
        "pgops_phases": ["plan", "backup", "prove", "apply"],
        "backup_encrypt_to": [key.public],
        "backup_identity_file": str(key.file),
        "backup_copies": [{"path": str(tmp_path / "second"), "same_file_system": True}],
    }
    return playbook


def phases(done: Any, database: str) -> dict[str, Any]:
    (host,) = done.json["hosts"].values()
    found: dict[str, Any] = host[database]
    return found


def test_a_migration_and_its_rollback_by_restore_with_an_encrypted_backup(
    site: Any, server: Any, database: str, key: Key, tmp_path: Path
) -> None:
    done = site("migrate.yml", migrate_target=V1)
    assert done.rc == 0, done.output
    found = phases(done, database)
    assert found["backup"]["encryption"]["recipients"] == [key.public]
    (entry,) = found["backup_copy"]["copies"]
    assert backup_store.read_backup(entry["path"]).proved
    assert f"{database}: copied to {entry['path']}" in done.stdout
    assert ", encrypted to 1 key)" in done.stdout
    # Where the copy is stands in the run's record.
    ((recorded,),) = server.execute("SELECT backup FROM pgops.run WHERE playbook = 'migrate'", database=database)
    assert recorded["copies"] == [entry["path"]]
    refused = site("rollback.yml", rollback_strategy="restore", rollback_confirm=database, backup_identity_file="")
    assert refused.rc != 0
    assert "is encrypted and no private key was given; nothing was restored" in refused.output
    assert server.execute("SELECT count(*) FROM people", database=database) == [(0,)]
    back = site("rollback.yml", rollback_strategy="restore", rollback_confirm=database)
    assert back.rc == 0, back.output
    assert server.execute("SELECT to_regclass('people')", database=database) == [(None,)]
    assert "AGE-SECRET-KEY" not in done.output + refused.output + back.output
    secret = key.file.read_text(encoding="ascii").splitlines()[-1].encode()
    written = [path for path in Path(site.folder).rglob("*") if path.is_file()]
    assert not [path for path in written if secret in path.read_bytes()]


def test_a_run_that_could_not_prove_its_encrypted_backup_does_not_begin_it(
    site: Any, server: Any, database: str
) -> None:
    done = site("migrate.yml", backup_identity_file="")
    assert done.rc != 0
    assert "the backup of this run could not be proved, so it was not begun" in done.output
    assert not list(site.backups.rglob("manifest.json"))
    assert server.execute("SELECT to_regclass('people')", database=database) == [(None,)]
    unproved = site("backup.yml", "--skip-tags", "prove", backup_identity_file="")
    assert unproved.rc == 0, unproved.output
    assert list(site.backups.rglob("dump.age"))


@pytest.mark.slow
def test_a_rollback_that_may_go_without_goes_on_with_an_encrypted_backup_that_it_cannot_prove(
    site: Any, server: Any, database: str
) -> None:
    assert site("migrate.yml", migrate_target=V1).rc == 0
    done = site("rollback.yml", rollback_confirm=database, rollback_emergency_backup="try", backup_identity_file="")
    assert done.rc == 0, done.output
    found = phases(done, database)
    assert found["backup"]["encryption"]
    assert found["prove"]["missed"].startswith("no proof: ")
    assert "no private key was given" in found["prove"]["missed"]
    assert found["backup_copy"]["path"] == found["backup"]["path"]
    assert server.execute("SELECT to_regclass('people')", database=database) == [(None,)]


def test_a_private_key_among_the_recipients_is_not_repeated(site: Any, key: Key) -> None:
    secret = key.file.read_text(encoding="ascii").splitlines()[-1]
    done = site("backup.yml", "-vvv", backup_encrypt_to=[secret])
    assert done.rc != 0
    assert "Recipient 1 of backup_encrypt_to is a private key" in done.output
    assert secret not in json.dumps(done.json)
    assert secret not in done.output


@pytest.mark.container
@pytest.mark.slow
def test_the_key_is_on_the_other_host_only_while_it_is_read(
    site: Any, server: Any, database: str, key: Key, tmp_path: Path
) -> None:
    """Over SSH, as in production: the ops host has the key, the host where the restore runs gets it for that moment."""
    with ssh_host(tmp_path) as host:
        passwords = Path(server.passfile).read_bytes()
        subprocess.run(
            ["podman", "exec", "-i", host.name, "sh", "-c", "umask 077 && cat > /root/passfile"],
            input=passwords, env=environment(), check=True,
        )  # fmt: skip
        site.variables |= {
            "ansible_connection": "ssh",
            "ansible_host": "vault",
            "ansible_user": "root",
            "ansible_ssh_common_args": f"-F '{host.config}'",
            "ansible_python_interpreter": "/usr/bin/python3",
            "pgops_passfile": "/root/passfile",
            "pgops_bindir": "",
            "backup_directory": "/srv/backups",
            "backup_copies": [],
        }
        done = site("backup.yml")
        assert done.rc == 0, done.output
        assert "backup proved" in done.stdout
        assert host.run("find /srv/backups -name dump.age")
        assert host.run("grep -rls AGE-SECRET-KEY /root /tmp /var /srv /dev/shm /run || true") == ""
        assert host.run("ls -A /dev/shm") == ""
        key.file.chmod(0o644)
        refused = site("prove.yml")
        assert "may be read by others (mode 0644)" in refused.output


@pytest.mark.slow
def test_where_a_copy_is_required_nothing_is_applied_without_it(
    site: Any, server: Any, database: str, tmp_path: Path
) -> None:
    (tmp_path / "second").rmdir()
    stopped = site("migrate.yml", migrate_target=V1, backup_copies_required=True)
    assert stopped.rc != 0
    assert f"{database}: there is no verified copy in {tmp_path / 'second'}" in stopped.output
    assert server.execute("SELECT to_regclass('people'), to_regnamespace('pgops')", database=database) == [(None, None)]
    warned = site("migrate.yml", migrate_target=V1)
    assert warned.rc == 0, warned.output
    assert f"{database}: there is no copy in {tmp_path / 'second'}" in " ".join(warned.output.split())
    assert server.execute("SELECT count(*) FROM people", database=database) == [(0,)]


def test_a_named_backup_does_not_stand_in_for_the_one_of_the_run(
    site: Any, server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    """An older backup, proved, says nothing of the state that is changed."""
    older = back_up(target, tmp_path / "older")
    for words in (("migrate.yml",), ("backup.yml", "--check")):
        stopped = site(*words, backup_path=older.path)
        assert stopped.rc != 0, stopped.output
        assert (
            f"backup_path names {older.path}, and this run makes a backup of its own"
            in stopped.json["error"]["message"]
        )
        assert "backup_path" not in stopped.json["error"]["next"][0]
    assert not list(site.backups.rglob("manifest.json"))
    assert server.execute("SELECT to_regclass('people')", database=database) == [(None,)]


def test_production_requires_its_copies_by_its_own_variables() -> None:
    found = yaml.safe_load((ROOT / "inventories" / "group_vars" / "production" / "run.yml").read_text(encoding="utf-8"))
    assert found["backup_copies_required"] is True


def test_of_a_physical_backup_the_role_copies_nothing_and_says_where_its_copies_are_declared(
    tmp_path: Path, database: str
) -> None:
    play = [
        {
            "hosts": "localhost",
            "gather_facts": False,
            "vars": {
                "backup_engine": "physical",
                "backup_copies": [{"path": str(tmp_path)}],
                "pgops_database": database,
            },
            "tasks": [{"ansible.builtin.import_role": {"name": "whitecross.pgops.backup", "tasks_from": "copy"}}],
        }
    ]
    file = tmp_path / "copy.yml"
    file.write_text(yaml.safe_dump(play), encoding="utf-8")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local", str(file)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("nothing was copied") == 1
    assert "declare repo2-path" in done.stdout
    assert list(tmp_path.iterdir()) == [file]
