# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore onto a server that lacks roles: named before anything is made, made only when asked for, and never more than may be given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    export,
    missing_roles,
    restore,
    restore_database,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work
from ansible_collections.whitecross.pgops.plugins.module_utils.restore_plan import CREATE, Asked
from support.backups import RUN, back_up, prove, start_python
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
)
from support.server import BACKUP, SUPERUSER, Server

HASH = "SCRAM-SHA-256$"


@pytest.fixture(scope="module")
def another(server: Server) -> Iterator[Server]:
    with empty_server(server.major) as made:
        yield made


@pytest.fixture
def filled(server: Server, database: str) -> Iterator[str]:
    make_roles(server, database)
    yield database
    drop_roles(server, database)


@pytest.fixture
def empty(another: Server, database: str) -> Iterator[Server]:
    """It has none of the roles, and loses them again."""
    yield another
    drop_roles(another, database)
    another.execute(f"DROP ROLE IF EXISTS {BACKUP}")


@pytest.fixture
def backup(target: Target, filled: str, tmp_path: Path) -> str:
    """The folder of a backup, with hashes."""
    return back_up(target, tmp_path / "backups", role_passwords=True).path


def restored(target: Target, path: str, **asked: Any) -> dict[str, Any]:
    asked = {"into": target.database, "roles": CREATE, **asked}
    return restore_database.run(target, Asked(path, **asked), Work(RUN))


def nothing_made(server: Server, database: str) -> None:
    assert roles_of(server, database) == []
    assert server.execute(f"SELECT datname FROM pg_database WHERE datname LIKE '{database}%'") == []


# -- named and left ---------------------------------------------------------------------------------------------------------


def test_missing_roles_are_named_in_one_sentence_with_what_to_type_and_nothing_is_made(
    filled: str, empty: Server, backup: str
) -> None:
    with pytest.raises(PgopsError) as caught:
        restored(target_on(empty, filled), backup, roles="leave")
    assert f"policies for roles that are not on this server: {filled}_nurse, {filled}_reader; nothing was done" in (
        caught.value.message
    )
    assert "or -e restore_roles=create makes them" in str(caught.value.hint)
    nothing_made(empty, filled)


def test_where_no_policy_needs_them_the_rest_comes_back_without_owners_as_before(
    server: Server, target: Target, filled: str, empty: Server, tmp_path: Path
) -> None:
    server.execute("DROP POLICY theirs ON clinic.visits; DROP POLICY nobody ON clinic.visits", database=filled)
    path = back_up(target, tmp_path).path
    found = restored(target_on(empty, filled), path, roles="leave")
    assert not found["owners"]
    (told,) = [text for text in found["reservations"] if "_nurse" in text]
    assert told.startswith("owners, privileges and settings of roles are not restored")
    assert f'the server has no role {filled} "odd"; --, {filled}_app, {filled}_idle, {filled}_lead' in told
    assert told.endswith("; -e restore_roles=create makes them as the backup holds them")
    assert roles_of(empty, filled) == []


def test_what_holds_no_roles_cannot_make_them(target: Target, filled: str, empty: Server, backup: str) -> None:
    asked = export.Export(str(Path(backup).parents[2] / "exports"), RUN, "custom", "")
    dump = export.create_export(target, asked)["path"]
    with pytest.raises(PgopsError, match="holds no roles: only a backup of backup.yml does"):
        restored(target_on(empty, filled), dump)
    # As an earlier version made it.
    manifest = Path(backup) / backup_store.MANIFEST
    told = json.loads(manifest.read_text(encoding="utf-8"))
    del told["files"][backup_store.GLOBALS]
    manifest.write_text(json.dumps(told), encoding="utf-8")
    (Path(backup) / backup_store.GLOBALS).unlink()
    with pytest.raises(PgopsError, match="it was made by an earlier version"):
        restored(target_on(empty, filled), backup)
    nothing_made(empty, filled)


def test_an_altered_file_of_roles_is_refused(filled: str, empty: Server, backup: str) -> None:
    file = Path(backup) / backup_store.GLOBALS
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)
    with pytest.raises(PgopsError, match=r"globals\.json\.gz has other contents than the manifest says"):
        restored(target_on(empty, filled), backup)
    nothing_made(empty, filled)


# -- shown ------------------------------------------------------------------------------------------------------------------


def test_looking_shows_the_statements_without_hash_or_secret_and_writes_nothing(
    filled: str, empty: Server, backup: str
) -> None:
    found = restore_database.preview(target_on(empty, filled), Asked(backup, into=filled, roles=CREATE), Work(RUN))
    nothing_made(empty, filled)
    statements = found["roles"]["statements"]
    assert (
        f"CREATE ROLE \"{filled}_app\" NOINHERIT LOGIN CONNECTION LIMIT 7 VALID UNTIL '2031-01-02 03:04:05+00'"
        in statements
    )
    assert f"ALTER ROLE \"{filled}_app\" PASSWORD '(its hash in the backup)'" in statements
    assert f'ALTER ROLE "{filled}_app" SET "app"."jwt_secret" TO \'…\'' in statements
    assert f"ALTER ROLE \"{filled}_app\" SET \"search_path\" TO '$user', 'clinic', 'public'" in statements
    assert f'GRANT "{filled}_nurse" TO "{filled}_lead" WITH ADMIN TRUE, INHERIT TRUE, SET TRUE' in statements
    assert (
        f'GRANT "{filled}_nurse" TO "{filled}_app" WITH INHERIT FALSE, SET TRUE GRANTED BY "{filled}_lead"'
        in statements
    )
    shown = json.dumps(found)
    assert HASH not in shown
    assert SECRET not in shown


def test_the_servers_log_has_no_hash(filled: str, empty: Server, backup: str) -> None:
    empty.execute("ALTER SYSTEM SET log_statement = 'all'; ")
    empty.execute("SELECT pg_reload_conf()")
    try:
        restored(target_on(empty, filled), backup)
    finally:
        empty.execute("ALTER SYSTEM RESET log_statement")
        empty.execute("SELECT pg_reload_conf()")
    log = (empty.directory / "log").read_text(encoding="utf-8", errors="replace")
    assert "CREATE DATABASE" in log
    assert HASH not in log


# -- roles that are there ---------------------------------------------------------------------------------------------------


def test_a_role_that_is_there_is_left_as_it_is_and_its_differences_are_told(
    filled: str, empty: Server, backup: str
) -> None:
    empty.execute(
        f"CREATE ROLE {filled}_app LOGIN CONNECTION LIMIT 3; CREATE ROLE {filled}_reader; CREATE ROLE {filled}_lead LOGIN CREATEDB "
        f"VALID UNTIL 'infinity'; GRANT {filled}_reader TO {filled}_app; ALTER ROLE {filled}_app SET work_mem = '9MB'"
    )
    roles = empty.execute(f"SELECT * FROM pg_authid WHERE rolname LIKE '{filled}%'")
    memberships = empty.execute("SELECT * FROM pg_auth_members")
    found = restored(target_on(empty, filled), backup)
    told = found["roles"]["differences"]
    begin = f"role {filled}_app is there and stays as it is: "
    assert {text.removeprefix(begin) for text in told if text.startswith(begin)} == {
        "inherit is on, in the backup off",
        "connection_limit is 3, in the backup 7",
        "valid_until is not set, in the backup 2031-01-02 03:04:05+00",
        "its settings of app.jwt_secret, search_path, statement_timeout, work_mem differ",
        f'it is no member of {filled}_nurse (GRANT "{filled}_nurse" TO "{filled}_app")',
        f'it is no member of {filled}_staff (GRANT "{filled}_staff" TO "{filled}_app")',
        'it is no member of pg_read_all_settings (GRANT "pg_read_all_settings" TO "' + filled + '_app")',
        f"it is a member of {filled}_reader, in the backup it is not",
    }
    assert (
        f'{filled}_lead is there and stays as it is: it is no member of {filled}_nurse (GRANT "{filled}_nurse" TO "{filled}_lead" WITH ADMIN OPTION)'
        in " ".join(told)
    )
    assert set(told) <= set(found["reservations"])
    assert set(roles) <= set(empty.execute("SELECT * FROM pg_authid"))
    assert set(memberships) <= set(empty.execute("SELECT * FROM pg_auth_members"))
    assert empty.execute(
        f"SELECT count(*) FROM pg_auth_members WHERE member IN ('{filled}_app'::regrole, '{filled}_lead'::regrole)"
    ) == [(1,)]
    assert SECRET not in json.dumps(found)


def test_a_second_restore_finds_all_of_them_and_nothing_to_tell(filled: str, empty: Server, backup: str) -> None:
    restored(target_on(empty, filled), backup)
    found = restored(target_on(empty, filled), backup, into=f"{filled}_2")
    assert found["roles"] == {"missing": [], "made": [], "statements": [], "not_made": [], "differences": []}
    assert found["owners"]


# -- what may be given ------------------------------------------------------------------------------------------------------


@pytest.fixture
def deployer(empty: Server, database: str) -> Iterator[str]:
    """May make roles and databases, and is no superuser; its own name is no role of the backup."""
    name = add_role(empty, f"x{database}", "CREATEROLE CREATEDB")
    yield name
    empty.drop_databases(database)
    empty.execute(f"DROP OWNED BY {name}")
    drop_roles(empty, database)
    empty.execute(f"DROP ROLE IF EXISTS {BACKUP}; DROP ROLE {name}")


def without_superusers_objects(server: Server, database: str) -> None:
    server.execute(
        f"DROP EVENT TRIGGER watch; DROP PUBLICATION everything; ALTER ROLE {database}_app IN DATABASE {database} RESET app.tenant",
        database=database,
    )


@pytest.mark.majors(15, 18, slow=(15,))
def test_a_restoring_role_that_is_no_superuser_gives_what_it_may_and_names_the_rest(
    server: Server, target: Target, filled: str, empty: Server, deployer: str, tmp_path: Path
) -> None:
    without_superusers_objects(server, filled)
    server.execute(f"CREATE ROLE {filled}_root SUPERUSER; GRANT {filled}_owner TO {filled}_root")
    path = back_up(target, tmp_path).path
    found = restored(target_on(empty, filled, deployer), path)
    later = server.major >= 16
    why = f"{deployer} does not have it itself" if later else "only a superuser may give it"
    expected = {
        f"role {filled}_root is made without SUPERUSER: only a superuser may give it",
        f"role {filled}_owner is made without BYPASSRLS: {why}",
        f"role {filled}_staff is made without REPLICATION: {why}",
        f"role {BACKUP} is made without BYPASSRLS: {why}",
        f"role {filled}_idle is made without its setting of log_min_duration_statement: {deployer} may not set it",
        f"role {filled}_app is made without its setting of app.jwt_secret: {deployer} may not set it",
        f"role {filled}_app is made no member of pg_read_all_settings: {deployer} has no ADMIN OPTION on it",
        f"role {BACKUP} is made no member of pg_read_all_data: {deployer} has no ADMIN OPTION on it",
    }
    if later:
        granted = f"role {filled}_app is a member of {filled}_nurse by {deployer} and not by {filled}_lead"
        expected.add(f"{granted}, which cannot grant it here")
    assert set(found["roles"]["not_made"]) == expected
    assert set(found["roles"]["not_made"]) <= set(found["reservations"])
    assert found["owners"]
    assert empty.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'visits'", database=filled) == [
        (f"{filled}_owner",)
    ]
    rights = "rolsuper OR rolreplication OR rolbypassrls"
    assert empty.execute(f"SELECT rolname FROM pg_roles WHERE ({rights}) AND oid >= 16384") == []


def test_a_role_that_may_make_none_is_refused_before_anything_is_made(
    filled: str, empty: Server, deployer: str, backup: str
) -> None:
    empty.execute(f"ALTER ROLE {deployer} NOCREATEROLE")
    with pytest.raises(PgopsError) as caught:
        restored(target_on(empty, filled, deployer), backup)
    assert f"Role {deployer} may not make the roles that this server lacks" in caught.value.message
    assert f'ALTER ROLE "{deployer}" CREATEROLE' in str(caught.value.hint)
    nothing_made(empty, filled)


# -- half-way ---------------------------------------------------------------------------------------------------------------


def test_a_role_that_somebody_makes_meanwhile_ends_it_with_none_made_and_no_hash_told(
    filled: str, empty: Server, backup: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = missing_roles.make

    def too_late(*arguments: Any) -> None:
        empty.execute(f"CREATE ROLE {filled}_staff")
        make(*arguments)

    monkeypatch.setattr(missing_roles, "make", too_late)
    with pytest.raises(PgopsError) as caught:
        restored(target_on(empty, filled), backup)
    assert "none of them was" in caught.value.message
    assert "at the step 'making the roles'" in caught.value.message
    assert "nothing was made" in caught.value.message
    assert HASH not in json.dumps([caught.value.message, caught.value.as_dict()])
    assert roles_of(empty, filled) == ["_staff"]


def test_a_restore_that_fails_drops_the_roles_that_it_made_and_no_other(
    filled: str, empty: Server, backup: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty.execute(f"CREATE ROLE {filled}_idle LOGIN")

    def fail(*_arguments: Any) -> float:
        raise PgopsError("The restore failed")

    monkeypatch.setattr(restore_database._Restore, "_fill", fail)
    with pytest.raises(PgopsError) as caught:
        restored(target_on(empty, filled), backup)
    assert f"the half-restored {filled} was dropped, the roles that it made were dropped" in caught.value.message
    assert roles_of(empty, filled) == ["_idle"]


def test_a_statement_that_fails_is_shown_without_its_hash(empty: Server, database: str) -> None:
    from psycopg2 import sql

    roles = missing_roles.RolesToMake(
        ["x"],
        [
            missing_roles.Statement(
                sql.SQL("ALTER ROLE nobody_there PASSWORD 'SCRAM-SHA-256$1'"), "ALTER ROLE x PASSWORD …"
            )
        ],
    )
    with closing(empty.connect()) as conn, pytest.raises(PgopsError) as caught:
        missing_roles.make(conn, roles, database)
    assert caught.value.statement == "ALTER ROLE x PASSWORD …"
    assert HASH not in json.dumps([caught.value.message, caught.value.as_dict()]) + repr(roles)


# -- a copy on the scratch server -------------------------------------------------------------------------------------------


def test_a_proof_elsewhere_names_the_roles_of_policies_before_anything_is_made(
    filled: str, empty: Server, backup: str
) -> None:
    with pytest.raises(PgopsError) as caught:
        prove(target_on(empty, filled), backup_store.read_backup(backup))
    assert f"lacks: {filled}_nurse, {filled}_reader; nothing was restored" in caught.value.message
    assert "-e backup_scratch_roles=create" in str(caught.value.hint)
    assert backup_store.read_backup(backup).proof is None
    nothing_made(empty, filled)
    # Read to its end it is without any.
    assert prove(target_on(empty, filled), backup_store.read_backup(backup), level=1)["level"] == 1


def test_roles_made_for_a_copy_can_do_nothing_and_go_with_it(
    filled: str, empty: Server, backup: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty.execute(f"CREATE ROLE {filled}_reader LOGIN")
    seen: list[Any] = []
    look = restore.differences

    def watched(*arguments: Any) -> Any:
        seen.extend(
            empty.execute(f"SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname LIKE '{filled}%' ORDER BY 1")
        )
        return look(*arguments)

    monkeypatch.setattr(restore, "differences", watched)
    proof = prove(target_on(empty, filled), backup_store.read_backup(backup), make_roles=True)
    assert proof["level"] == 4
    assert seen == [(f"{filled}_nurse", False), (f"{filled}_reader", True)]
    assert roles_of(empty, filled) == ["_reader"]
    monkeypatch.setattr(
        restore, "differences", lambda *_arguments: [{"object": "x", "attribute": "y", "expected": 1, "found": 2}]
    )
    with pytest.raises(PgopsError, match="differs from its manifest"):
        prove(target_on(empty, filled), backup_store.read_backup(backup), make_roles=True)
    assert roles_of(empty, filled) == ["_reader"]


def test_what_a_killed_proof_has_left_goes_with_the_next(filled: str, empty: Server, backup: str) -> None:
    killed = start_python(
        """
        restore.differences = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
        restore.prove(target, values["path"], work=restore.Work("20260101T000000Z-aaaaaa"), make_roles=True)
        """,
        target_on(empty, filled),
        path=backup,
    )
    assert killed.wait(timeout=120) == -9, killed.communicate()
    assert roles_of(empty, filled) == ["_nurse", "_reader"]
    prove(target_on(empty, filled), backup_store.read_backup(backup), make_roles=True)
    nothing_made(empty, filled)


# -- as it is typed ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_playbooks_take_the_roles_along_and_print_no_hash(
    playbook: Any, server: Server, filled: str, empty: Server
) -> None:
    made = playbook("backup.yml", "-vvv", "--skip-tags", "prove", backup_role_passwords=True)
    assert made.rc == 0, made.output
    assert "with the password hashes of its roles" in made.stdout
    path = made.json["hosts"]["local-1"][filled]["backup"]["path"]
    there = {
        "pgops_port": empty.port, "pgops_user": SUPERUSER, "pgops_owner": SUPERUSER, "pgops_restore_user": SUPERUSER,
        "pgops_passfile": str(empty.passfile), "restore_from": path, "restore_into": filled,
    }  # fmt: skip
    left = playbook("restore.yml", **there)
    assert left.rc == 2
    assert "restore_roles=create" in left.stdout
    shown = playbook("restore.yml", "-vvv", "--check", restore_roles="create", **there)
    assert shown.rc == 0, shown.output
    assert f"{filled}: would make the roles that the server lacks: " in shown.stdout
    assert f'CREATE ROLE "{filled}_nurse"' in shown.stdout
    nothing_made(empty, filled)
    done = playbook("restore.yml", "-vvv", restore_roles="create", **there)
    assert done.rc == 0, done.output
    assert f"{filled}: made the roles that the server lacks: " in done.stdout
    assert reaches(empty, filled, f"{filled}_app", PASSWORD) == f"{filled}_app"
    for output in (made.output, left.output, shown.output, done.output, json.dumps([made.json, shown.json, done.json])):
        assert HASH not in output
        assert SECRET not in output
        assert PASSWORD not in output
    drop_roles(empty, filled)
    there.pop("restore_from")
    drilled = playbook("restore_drill.yml", drill_backup=path, drill_level=4, **there)
    assert drilled.rc == 2
    assert "backup_scratch_roles=create" in drilled.stdout
    drilled = playbook("restore_drill.yml", drill_backup=path, drill_level=4, backup_scratch_roles="create", **there)
    assert drilled.rc == 0, drilled.output
    nothing_made(empty, filled)
