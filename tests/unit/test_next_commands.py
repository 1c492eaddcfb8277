# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is offered as the next command: one that can be typed, and none that repeats what is refused for good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.action import drill, plan, prove, rehearse, restore, restore_database
from ansible_collections.whitecross.pgops.plugins.module_utils import dump_source, errors, preflight, restore_plan
from ansible_collections.whitecross.pgops.plugins.module_utils.command_text import is_command, together
from ansible_collections.whitecross.pgops.plugins.module_utils.preflight_checks import Check
from ansible_collections.whitecross.pgops.plugins.plugin_utils import lint_command, reporting, typed_commands, unusable
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
        "ansible-playbook backup.yml -i a.yml -l a --check --tags plan,apply -e @vault.yml -e 'rollback_reason=it is slow, and: we go && back'",
        "ansible-playbook -vv whitecross.pgops.status -l a -e \"backup_scratch_reason='why, and: who'\"",
        "ansible-playbook prove.yml -l a && ansible-playbook prove.yml -l b # and 3 more",
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
        "ansible-playbook rollback_cleanup.yml -l a -e rollback_cleanup_confirm=x takes it once it is old",
        "ansible-playbook rollback_cleanup.yml -l a; to swap it in: ansible-playbook rollback.yml -l a",
        "ansible-playbook lint.yml, then correct the files",
        "ansible-playbook prove.yml -l a && look at it",
        "ansible-playbook prove.yml -l a or another",
        "ansible db2 -m ansible.builtin.ping and look",
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


def test_a_backup_that_a_drill_or_a_rehearsal_names_is_not_named_again() -> None:
    backup = "ansible-playbook backup.yml -l staging"
    assert refused(drill.ActionModule, errors.BACKUP, "restore_drill", {"drill_backup": PATH}) == [LIST, backup]
    assert refused(drill.ActionModule, errors.BACKUP, "restore_drill", {}) == [LIST, backup], "the newest is the same"
    assert refused(rehearse.ActionModule, errors.BACKUP, "rehearse", {"rehearse_backup": PATH}) == [LIST]
    made = {"school": {"path": PATH}}
    assert refused(rehearse.ActionModule, errors.BACKUP, "rehearse", {}, backup=made) == []


@pytest.mark.parametrize("found", [b"no dump at all", b"PGDMP cut"])
def test_what_is_no_whole_dump_is_not_named_again(tmp_path: Path, found: bytes) -> None:
    (path := tmp_path / "x.dump").write_bytes(found)
    with pytest.raises(errors.PgopsError) as caught:
        dump_source.refuse_other_sums(dump_source.identify(str(path)))
        (tmp_path / "x.dump.sha256").write_text(f"{'0' * 64}  x.dump\n")
        dump_source.refuse_other_sums(dump_source.identify(str(path)))
    assert caught.value.unusable == errors.BACKUP
    assert refused(restore_database.ActionModule, errors.BACKUP, "restore", {"restore_from": str(path)}) == [LIST]


def test_two_ways_of_a_restore_tell_neither_as_if_it_had_been_chosen() -> None:
    asked = restore_plan.Asked("dump", replace=True, into="fresh")
    with pytest.raises(errors.PgopsError, match="two ways, and both are given") as caught:
        restore_plan.refuse_two_ways(asked, "school")
    assert caught.value.unusable is None
    assert "restore_replace to restore into a new database" in str(caught.value.hint)


@pytest.mark.parametrize("typed", [{}, {"pgops_sql": "/typed", "pgops_host": "db9"}])
def test_the_command_that_lists_all_faults_names_the_tree_of_the_inventory(typed: dict[str, Any]) -> None:
    faults = errors.PgopsError("a and b", extra={"findings": ["a", "b"]})
    run = {"command": "ansible-playbook migrate.yml", "given": {"variables": typed, "files": [], "inventory": []}}
    tree = typed.get("pgops_sql") or "/srv/school/sql"
    assert lint_command.told(faults, run, tree)["next"] == [f"ansible-playbook lint.yml -e pgops_sql={tree}"]
    assert lint_command.told(faults, run, None)["next"] == ["ansible-playbook lint.yml"]
    made, of_host = action(plan.ActionModule), variables(["school"])
    of_host["pgops_sql"] = "/srv/school/sql"
    with pytest.raises(AnsibleActionFail) as caught:
        made.refuse_tree(faults, of_host)
    assert caught.value.result["next"] == ["ansible-playbook lint.yml -e pgops_sql=/srv/school/sql"]


def test_a_name_that_cannot_be_made_is_left_out() -> None:
    typed = {"backup_path": PATH, "backup_scratch_database": "school"}
    (command,) = refused(prove.ActionModule, errors.SCRATCH_DATABASE, "prove", typed)
    assert command == f"ansible-playbook prove.yml -l staging -e backup_path={PATH}"
    typed = {"restore_from": PATH, "restore_into": "school"}
    (command,) = refused(restore_database.ActionModule, errors.NEW_DATABASE, "restore", typed)
    assert command == f"ansible-playbook restore.yml -l staging -e restore_from={PATH}"
    assert refused(prove.ActionModule, errors.SCRATCH_DATABASE, "prove", {}) == []
