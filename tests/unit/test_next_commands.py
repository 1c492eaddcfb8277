# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is offered as the next command: one that can be typed, and none that repeats what is refused for good."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.action import prove, restore, restore_database
from ansible_collections.whitecross.pgops.plugins.module_utils import errors, preflight
from ansible_collections.whitecross.pgops.plugins.module_utils.command_text import is_command, together
from ansible_collections.whitecross.pgops.plugins.module_utils.preflight_checks import Check
from ansible_collections.whitecross.pgops.plugins.plugin_utils import reporting, typed_commands, unusable
from ansible_collections.whitecross.pgops.plugins.plugin_utils.preflight_data import read
from ansible_collections.whitecross.pgops.plugins.plugin_utils.variables import known_variables
from support.actions import action, variables

PATH = "/backups/school/one"
LIST = "ansible-playbook backup_list.yml -l staging -e backup_list_only=proved"


@pytest.mark.parametrize(
    "text",
    [
        "ansible-playbook migrate.yml -l a,b -e '{\"a\": true}'",
        "ansible db2 -m ansible.builtin.ping",
        "GRANT a TO b;",
        "ALTER SYSTEM RESET fsync; SELECT pg_reload_conf();",
        "DO $$ BEGIN PERFORM 1; END $$;",
        "vacuumdb --freeze --dbname school",
        "pip install prometheus-client",
        "loginctl enable-linger ada",
        "ansible-doc -t role whitecross.pgops.migrate",
        "chmod 600 /etc/pgops/passfile",
        "ALTER TABLE a OWNER TO b; ALTER TABLE c OWNER TO b; -- and 2 more",
    ],
)
def test_what_can_be_typed_is_a_command(text: str) -> None:
    assert is_command(text)


@pytest.mark.parametrize(
    "text",
    [
        "set pgops_host and pgops_port to the server's own",
        "set pgops_sslmode: verify-full",
        "name a superuser in pgops_restore_user, or give what belongs to postgres to another owner",
        "ROLLBACK PREPARED 'x'; or COMMIT PREPARED 'x';",
        "SELECT pg_terminate_backend(7); and set idle_in_transaction_session_timeout for the application's role",
        "SELECT pg_drop_replication_slot('x'); unless its consumer comes back",
        "ALTER TABLE a ADD PRIMARY KEY (...); with the columns that tell its rows apart",
        "ALTER ROLE ... NOSUPERUSER;",
        "ALTER TABLE a OWNER TO b; and 2 more",
        "pgbackrest info, on the host of the database",
        "systemctl status and journalctl -u of the unit that is named",
        "blue_green.yml -e blue_green_stage=give_up, or -e blue_green_stage=prepare to begin anew",
        "correct the files and type: ansible-playbook lint.yml",
        "",
    ],
)
def test_a_sentence_is_no_command(text: str) -> None:
    assert not is_command(text)


def test_several_commands_are_one_and_sentences_stay_apart() -> None:
    assert together(["GRANT a TO b;", "GRANT c TO b;"]) == "GRANT a TO b; GRANT c TO b;"
    assert together(["vacuumdb -d a", "vacuumdb -d b"]) == "vacuumdb -d a && vacuumdb -d b"
    assert together(["name a superuser", "free space there"]) == "name a superuser; free space there"
    assert together(["GRANT a TO b;", "name a superuser"]) == "GRANT a TO b; name a superuser"
    assert together(["wait"]) == "wait"


def test_each_fix_of_preflight_is_a_command_or_a_sentence_that_no_shell_takes_for_one() -> None:
    fixes = {str(check["name"]): str(check["fix"]) for check in read().checks}
    commands = {name for name, fix in fixes.items() if is_command(fix)}
    assert {"ownership", "schema_rights", "wraparound", "backup_age", "backup_large_objects"} <= commands
    assert not {"pooler", "server", "tls", "restore_extensions", "encoding", "blue_green"} & commands


def test_a_stop_says_what_to_do_and_only_a_command_is_to_be_typed() -> None:
    checks = {name: Check(name, name) for name in ("pooler", "ownership")}

    def stopped(name: str, fix: str) -> errors.PgopsError:
        found = {"check": name, "level": "stop", "evidence": "it is wrong", "fix": fix}
        with pytest.raises(errors.PgopsError) as caught:
            preflight._refuse_stops({"school": {"checks": [found]}}, checks)
        return caught.value

    sentence = "set pgops_host and pgops_port to the server's own"
    by_hand = stopped("pooler", sentence)
    assert by_hand.message == f"Preflight stops school at pooler: it is wrong; {sentence}"
    assert by_hand.hint == sentence
    assert stopped("ownership", "ALTER TABLE x OWNER TO y;").message.endswith("; type: ALTER TABLE x OWNER TO y;")


def test_in_a_report_what_is_no_command_is_the_hint() -> None:
    told = ["set pgops_host to the server's own", "ansible-playbook status.yml -l local"]
    error = reporting.error_of({"msg": "It stops", "next": told})
    assert (error["next"], error["hint"]) == (told[1:], told[0])
    assert reporting.error_of({"msg": "It stops", "hint": "look", "next": told})["hint"] == "look"


def test_what_a_playbook_alone_takes_is_told_again_and_no_other_playbook_inherits_it() -> None:
    given = {"test_migration_version": "20260101000001", "new_migration_table": "people", "stranger_x": 1}
    kept = typed_commands.tellable(given)
    assert set(kept) == {"test_migration_version", "new_migration_table"}
    run = {"command": "ansible-playbook test_migration.yml", "environment": "local", "given": {"variables": kept}}
    again = typed_commands.again(run, "local")
    assert "test_migration_version=20260101000001" in again
    names = (*kept, "lint_paths", "audit_verify_folder")
    run["given"] = {"variables": dict.fromkeys(names, "x")}
    assert typed_commands.other(run, "status", "local") == "ansible-playbook status.yml -l local"


def test_each_variable_that_names_what_is_refused_is_one_of_the_collection() -> None:
    assert {name for names in unusable.NAMED_BY.values() for name in names} <= set(known_variables())


def refused(kind: Any, what: str, playbook: str, typed: dict[str, Any], phase: str = "", **run: Any) -> list[str]:
    """:return: what is typed after a refusal of ``what``."""
    given = {"variables": typed, "files": [], "inventory": [], "options": []}
    made = action(kind)
    made.PHASE = phase or made.PHASE
    of_run = variables(["school"], playbook=playbook, command=f"ansible-playbook {playbook}.yml", given=given, **run)
    return unusable.commands(made, what, of_run)


def test_a_backup_that_no_proof_passes_is_not_named_again() -> None:
    backup = "ansible-playbook backup.yml -l staging"
    assert refused(prove.ActionModule, errors.BACKUP, "prove", {"backup_path": PATH}) == [LIST, backup]
    assert refused(prove.ActionModule, errors.BACKUP, "prove", {}) == [LIST, backup]


def test_a_backup_that_no_restore_takes_is_not_named_again() -> None:
    typed = {"rollback_strategy": "restore", "rollback_backup": PATH}
    without = "ansible-playbook rollback.yml -l staging -e rollback_strategy=restore"
    assert refused(restore.ActionModule, errors.BACKUP, "rollback", typed, "disclose") == [LIST, without]
    del typed["rollback_backup"]
    assert refused(restore.ActionModule, errors.BACKUP, "rollback", typed, "disclose") == [LIST]
    assert refused(restore_database.ActionModule, errors.BACKUP, "restore", {"restore_from": PATH}) == [LIST]


def test_a_run_whose_own_backup_is_damaged_is_typed_again_for_it_makes_another() -> None:
    made = {"school": {"path": PATH}}
    assert refused(prove.ActionModule, errors.BACKUP, "migrate", {}, backup=made) == []
    assert refused(prove.ActionModule, errors.BACKUP, "rollback", {}, backup=made) == []


def test_a_name_that_cannot_be_made_is_left_out() -> None:
    typed = {"backup_path": PATH, "backup_scratch_database": "school"}
    (command,) = refused(prove.ActionModule, errors.SCRATCH_DATABASE, "prove", typed)
    assert command == f"ansible-playbook prove.yml -l staging -e backup_path={PATH}"
    typed = {"restore_from": PATH, "restore_into": "school"}
    (command,) = refused(restore_database.ActionModule, errors.NEW_DATABASE, "restore", typed)
    assert command == f"ansible-playbook restore.yml -l staging -e restore_from={PATH}"
    assert refused(prove.ActionModule, errors.SCRATCH_DATABASE, "prove", {}) == []
