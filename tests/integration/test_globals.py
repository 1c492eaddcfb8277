# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup keeps the roles that its database needs, and an empty server can have them: nothing is lost on the way."""

from __future__ import annotations

import gzip
import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    dump,
    encrypted_dump,
    needed_roles,
    restore_database,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work
from ansible_collections.whitecross.pgops.plugins.module_utils.restore_plan import CREATE, Asked
from support.backups import RUN, back_up
from support.keys import age_key
from support.roles import (
    PASSWORD,
    SECRET,
    add_role,
    drop_roles,
    empty_server,
    make_roles,
    reaches,
    roles_of,
    target_on,
    told_by,
)
from support.server import BACKUP, SUPERUSER, Server


@pytest.fixture(scope="module")
def empty(server: Server) -> Iterator[Server]:
    with empty_server(server.major) as made:
        yield made


@pytest.fixture
def filled(server: Server, database: str) -> Iterator[str]:
    make_roles(server, database)
    yield database
    drop_roles(server, database)


def kept(backup: backup_store.Backup) -> dict[str, Any]:
    with gzip.open(Path(backup.path) / backup_store.GLOBALS) as file:
        found: dict[str, Any] = json.load(file)
    return found


# -- onto an empty server ---------------------------------------------------------------------------------------------------


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_a_database_comes_back_on_an_empty_server_with_everything_that_it_needs(
    server: Server, target: Any, filled: str, empty: Server, tmp_path: Path
) -> None:
    before = told_by(server, filled)
    assert roles_of(empty, filled) == []
    backup = back_up(target, tmp_path, role_passwords=True)
    asked = Asked(backup.path, into=filled, roles=CREATE)
    try:
        found = restore_database.run(target_on(empty, filled), asked, Work(RUN))
        assert found["owners"]
        assert found["roles"]["not_made"] == found["roles"]["differences"] == []
        after = told_by(empty, filled)
        for kind, rows in before.items():
            # The one that is a member of a group of a role of the database, and not of the database's business.
            assert after[kind] == [row for row in rows if f"'{filled}_other'" not in row], kind
        assert all(rows for rows in after.values())
        assert reaches(empty, filled, f"{filled}_app", PASSWORD) == f"{filled}_app"
    finally:
        drop_roles(empty, filled)
        empty.execute(f"DROP ROLE IF EXISTS {BACKUP}")


def test_without_hashes_the_roles_come_without_a_password(
    server: Server, target: Any, filled: str, empty: Server, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    assert kept(backup)["passwords"] == {}
    try:
        restore_database.run(target_on(empty, filled), Asked(backup.path, into=filled, roles=CREATE), Work(RUN))
        assert empty.execute("SELECT rolname FROM pg_authid WHERE rolpassword IS NOT NULL") == [(SUPERUSER,)]
        assert empty.execute(f"SELECT rolcanlogin FROM pg_roles WHERE rolname = '{filled}_app'") == [(True,)]
    finally:
        drop_roles(empty, filled)
        empty.execute(f"DROP ROLE IF EXISTS {BACKUP}")


# -- in the backup ----------------------------------------------------------------------------------------------------------


def test_only_the_roles_that_the_database_needs_are_kept_and_its_user_alone_may_read_them(
    server: Server, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    file = Path(backup.path) / backup_store.GLOBALS
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert backup.manifest["files"][file.name]["sha256"] == backup_store.hash_file(str(file))
    found = kept(backup)
    assert {name.removeprefix(filled) for name in found["roles"]} == {
        "_owner", "_nurse", "_reader", "_app", "_lead", "_idle", "_staff", ' "odd"; --', SUPERUSER, BACKUP,
    }  # fmt: skip
    pairs = {
        (entry["role"].removeprefix(filled), entry["member"].removeprefix(filled)) for entry in found["memberships"]
    }
    assert pairs == {
        ("_nurse", "_lead"), ("_nurse", "_idle"), ("_nurse", "_app"), ("_reader", "_nurse"), ("_staff", "_app"),
        ("pg_read_all_settings", "_app"), ("pg_read_all_data", BACKUP),
    }  # fmt: skip
    told = backup.manifest["globals"]
    assert told == {"roles": sorted(found["roles"]), "role_passwords": False, "tablespaces": []}


def test_a_tablespace_that_the_database_uses_is_named(
    server: Server, target: Any, filled: str, empty: Server, tmp_path: Path
) -> None:
    with server.session() as conn, conn.cursor() as cursor:
        cursor.execute("SET allow_in_place_tablespaces = on")
        cursor.execute("CREATE TABLESPACE t_fast LOCATION ''")
    try:
        server.execute("ALTER TABLE clinic.rooms SET TABLESPACE t_fast", database=filled)
        backup = back_up(target, tmp_path)
        assert [entry["name"] for entry in kept(backup)["tablespaces"]] == ["t_fast"]
        assert backup.manifest["globals"]["tablespaces"] == ["t_fast"]
        asked = Asked(backup.path, into=filled, roles=CREATE)
        told = restore_database.preview(target_on(empty, filled), asked, Work(RUN))["reservations"]
        assert "what lay in the tablespaces t_fast lies in pg_default: they are the other cluster's" in told
    finally:
        server.drop_databases(filled)
        server.execute("DROP TABLESPACE t_fast")


# -- password hashes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def lean(server: Server, filled: str) -> Iterator[str]:
    """A role that backs up with the right to read each table, and not pg_read_all_data, which reads the hashes too."""
    passwords = server.passfile.read_text(encoding="ascii")
    name = add_role(server, f"x{filled}", "BYPASSRLS")
    server.execute(
        f"GRANT USAGE ON SCHEMA clinic TO {name}; GRANT SELECT ON ALL TABLES IN SCHEMA clinic TO {name}; "
        f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA clinic TO {name}; GRANT CONNECT ON DATABASE {filled} TO {name}",
        database=filled,
    )
    yield name
    server.passfile.write_text(passwords, encoding="ascii")
    drop_roles(server, filled)
    server.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_hashes_that_cannot_be_read_are_refused_before_the_dump(
    target: Any, filled: str, lean: str, tmp_path: Path
) -> None:
    for refused in (dump.preview, dump.create_backup):
        with pytest.raises(PgopsError) as caught:
            refused(target.with_(backup_user=lean), directory=str(tmp_path / "b"), run_id=RUN, role_passwords=True)
        assert f"role {lean} may not read the password hashes" in caught.value.message
        assert "nothing was written" in caught.value.message
        assert "GRANT SELECT (rolname, rolpassword) ON pg_catalog.pg_authid" in str(caught.value.hint)
    assert not (tmp_path / "b").exists()


def test_the_grant_that_the_refusal_names_is_enough_and_is_in_no_dump(
    server: Server, target: Any, filled: str, lean: str, tmp_path: Path
) -> None:
    server.execute(f"GRANT SELECT (rolname, rolpassword) ON pg_catalog.pg_authid TO {lean}")
    backup = back_up(target.with_(backup_user=lean), tmp_path, role_passwords=True)
    assert list(kept(backup)["passwords"]) == [f"{filled}_app", BACKUP, lean]
    assert backup.manifest["globals"]["role_passwords"]
    restored = subprocess.run(
        [f"{server.bindir}/pg_restore", "--file=-", "--schema-only", f"{backup.path}/dump"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "clinic.visits" in restored.stdout
    assert "pg_authid" not in restored.stdout


def test_hashes_and_secrets_are_encrypted_where_the_backup_is_and_shown_nowhere(
    server: Server, target: Any, filled: str, tmp_path: Path
) -> None:
    ((secret,),) = server.execute(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{filled}_app'")
    key = age_key(tmp_path)
    made = dump.create_backup(
        target, directory=str(tmp_path / "b"), run_id=RUN, encrypt_to=[key.public], role_passwords=True
    )
    backup = backup_store.read_backup(made["path"])
    for file in Path(backup.path).rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert not data.startswith(b"\x1f\x8b"), file
            assert secret.encode() not in data, file
            assert SECRET.encode() not in data, file
    assert secret not in json.dumps(made)
    needed = needed_roles.of_backup(encrypted_dump.unlock(backup, key.identity))
    assert needed is not None
    assert needed.passwords[f"{filled}_app"] == secret
    assert secret not in repr(needed)
    with pytest.raises(PgopsError, match="encrypted"):
        needed_roles.of_backup(backup)
