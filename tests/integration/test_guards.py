# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each guard, seen to fall: the literal command, one sentence that says what to type, nothing written anywhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from support.site import Playbook, Result

# A play of the shape that all plays have; the phase in it would connect, so that a guard that let it through is seen.
GUARDED = """\
- name: Guarded
  hosts: all
  gather_facts: false
  any_errors_fatal: true
  tasks:
    - name: Guarded
      block:
        - name: Guard
          ansible.builtin.import_role:
            name: whitecross.pgops.guard
          tags: [always]
        - name: Phase
          ansible.builtin.import_role:
            name: whitecross.pgops.preflight
          tags: [preflight]
      always:
        - name: Report
          ansible.builtin.import_role:
            name: whitecross.pgops.report
          tags: [always]
"""


@pytest.fixture
def guarded(playbook: Playbook) -> Playbook:
    (playbook.folder / "guarded.yml").write_text(GUARDED)
    return playbook


def refused(site: Playbook, result: Result, sentence: str) -> None:
    """The run ended with that sentence, reached no host and left nothing but the answer it was asked for."""
    assert result.rc == 2, result.output
    assert result.json is not None
    assert result.json["ok"] is False
    message = result.json["error"]["message"]
    assert sentence in message
    assert "\n" not in message
    assert message in result.output
    # What the sentence says to type is there for machines too.
    assert result.json["error"]["next"] == re.findall(r"; type: (.*)$", message)
    assert "Traceback" not in result.output
    assert result.json["hosts"] == {}
    assert "health of" not in result.output
    assert not site.state.exists()
    assert not site.backups.exists()


def test_a_run_that_may_start_does(guarded: Playbook) -> None:
    result = guarded("guarded.yml", limit="local")
    assert result.rc == 0, result.output
    assert result.json["ok"] is True
    assert result.json["environment"] == "local"


def test_no_limit_with_production_in_reach(guarded: Playbook) -> None:
    result = guarded("guarded.yml", limit=None)
    refused(
        guarded,
        result,
        "No -l was given and production is in reach, so name the environment; type: ansible-playbook guarded.yml -l local",
    )


def test_what_is_production_may_be_written_as_a_text(guarded: Playbook) -> None:
    guarded.variables["pgops_production_environments"] = "production"
    refused(guarded, guarded("guarded.yml", limit=None), "No -l was given and production is in reach")
    typed = guarded("guarded.yml", limit="production", pgops_production_environments="prodction, staging")
    refused(guarded, typed, "pgops_production_environments is typed with -e, and which environment is production")
    guarded.variables["pgops_production_environments"] = {"production": True}
    sentence = "pgops_production_environments is {'production': True}, and it takes a list of groups, or their names with commas"
    refused(guarded, guarded("guarded.yml"), sentence)


@pytest.mark.parametrize(
    "given",
    [
        {"pgops_environments": "web,production"},
        {"__pgops_part_of": "20260101T000000Z-aaaaaa"},
        {"__rollback_shown": {}},
    ],
)
def test_who_types_a_rollback_of_production_chooses_neither_its_environment_nor_what_is_shown(
    guarded: Playbook, given: dict[str, object]
) -> None:
    result = guarded("rollback.yml", limit="production", rollback_steps="1", **given)
    refused(guarded, result, f"{next(iter(given))} is typed with -e, and ")
    assert result.json["error"]["next"] == ["ansible-playbook rollback.yml -l production -e rollback_steps=1"]


def test_no_limit_with_one_harmless_environment_in_reach_is_taken(guarded: Playbook) -> None:
    guarded.write_inventory()
    result = guarded("guarded.yml", "-i", "inventories/local.yml", limit=None)
    assert result.rc == 0, result.output


def test_no_limit_with_production_alone(guarded: Playbook) -> None:
    result = guarded("guarded.yml", "-i", "inventories/production.yml", limit=None)
    refused(guarded, result, "No -l was given and production is in reach")


def test_limit_all(guarded: Playbook) -> None:
    refused(guarded, guarded("guarded.yml", limit="all"), "-l all names no environment")


def test_a_limit_that_spans_two_environments(guarded: Playbook) -> None:
    result = guarded("guarded.yml", limit="local,staging")
    refused(
        guarded,
        result,
        "-l local,staging reaches two environments, local and staging, and a run has one; type: ansible-playbook guarded.yml -l local",
    )


def test_a_limit_that_names_something_unknown_beside_an_environment(guarded: Playbook) -> None:
    refused(guarded, guarded("guarded.yml", limit="local,stagign"), "-l names stagign, which is no environment")


@pytest.mark.parametrize(("limit", "near"), [("prodution", "production"), ("stagging", "staging"), ("nosuch", None)])
def test_a_limit_that_names_no_environment_ends_with_those_there_are(
    guarded: Playbook, limit: str, near: str | None
) -> None:
    """Ansible ends such a run before any play, so that an older result would stay."""
    document = guarded.folder / "result.json"
    document.write_text('{"ok": true}')
    result = guarded("guarded.yml", limit=limit, pgops_json=str(document))
    assert result.rc != 0
    sentence = f"-l {limit} matches no host, so nothing was done; the inventory has local, production and staging"
    command = f"ansible-playbook guarded.yml -l {near}"
    # pgops_json is one run's and never repeated.
    assert sentence + (f"; type: {command}" if near else "") in result.output
    assert "Traceback" not in result.output
    assert result.json["ok"] is False
    assert result.json["error"]["message"].startswith(sentence)
    assert result.json["error"]["next"] == ([command] if near else [])
    assert not guarded.state.exists()


@pytest.mark.parametrize("limit", ["localhost", "ungrouped", "127.0.0.1"])
def test_a_limit_that_ansible_knows_and_no_inventory_names(guarded: Playbook, limit: str) -> None:
    """Ansible ends such a run with a sentence of its own; the older result would stay."""
    document = guarded.folder / "result.json"
    document.write_text('{"ok": true}')
    result = guarded("guarded.yml", limit=limit, pgops_json=str(document))
    assert result.rc != 0
    sentence = f"-l {limit} matches no host, so nothing was done; the inventory has local, production and staging"
    assert sentence in result.output
    assert result.json["ok"] is False
    assert result.json["error"]["message"].startswith(sentence)
    assert not guarded.state.exists()


def test_a_limit_to_a_group_without_hosts(guarded: Playbook) -> None:
    guarded.hosts["staging"] = {}
    document = guarded.folder / "result.json"
    document.write_text('{"ok": true}')
    result = guarded("guarded.yml", limit="staging", pgops_json=str(document))
    assert result.rc != 0
    assert result.json["error"]["message"].startswith("-l staging matches no host, so nothing was done")


def test_where_no_inventory_has_a_host_the_one_that_ansible_makes_up_is_left_to_it(playbook: Playbook) -> None:
    (playbook.folder / "empty.yml").write_text("local:\n")
    result = playbook("lint.yml", "-i", "empty.yml", limit="localhost")
    assert "matches no host" not in result.output
    assert result.json["ok"] is True


@pytest.mark.slow
def test_a_limit_that_is_a_pattern_is_left_to_ansible(guarded: Playbook) -> None:
    result = guarded("guarded.yml", limit="loc*")
    assert result.rc == 0, result.output


def test_an_inventory_without_hosts_is_no_success(guarded: Playbook) -> None:
    """Ansible passes over the play and exits with 0; the file says what became of it."""
    (guarded.folder / "empty.yml").write_text("local:\nstaging:\n")
    result = guarded("guarded.yml", "-i", "empty.yml", limit=None)
    sentence = "The play has no host, so nothing was done; the inventory has local and staging"
    assert sentence in result.stderr
    assert result.json["ok"] is False
    assert result.json["error"]["message"] == sentence
    assert "Traceback" not in result.output
    assert not guarded.state.exists()


def test_a_host_in_two_environments(guarded: Playbook) -> None:
    guarded.hosts["staging"]["production-1"] = {}
    result = guarded("guarded.yml", limit="production-1")
    refused(
        guarded, result, "Host production-1 is in two environments, staging and production; take it out of all but one"
    )


def test_a_host_in_no_known_environment(guarded: Playbook) -> None:
    guarded.hosts["qa"] = {"qa-1": {}}
    refused(
        guarded,
        guarded("guarded.yml", limit="qa"),
        "Host qa-1 is in no environment; put it into one of the groups local, staging and production",
    )


@pytest.mark.parametrize(("others", "warned"), [(["dev"], True), (["dev", "production"], False)])
def test_an_environment_of_ones_own_is_taken_when_it_is_named_and_warned_of_where_none_is_production(
    guarded: Playbook, others: list[str], warned: bool
) -> None:
    guarded.hosts["qa"] = {"qa-1": {"pgops_environments": ["qa", *others]}}
    result = guarded("guarded.yml", limit="qa")
    assert result.rc == 0, result.output
    assert result.json["environment"] == "qa"
    told = "None of the environments qa, dev counts as production (pgops_production_environments is production)"
    assert (told in " ".join(result.output.split())) is warned


def test_a_misspelt_shared_variable(guarded: Playbook) -> None:
    result = guarded("guarded.yml", pgops_databse="other")
    refused(guarded, result, "pgops_databse (did you mean pgops_database?) is no variable of this collection")


def test_a_misspelt_role_variable(guarded: Playbook) -> None:
    result = guarded("guarded.yml", preflight_wave=[])
    refused(guarded, result, "preflight_wave (did you mean preflight_waive?) is no variable of this collection")


def test_a_misspelt_first_word_of_what_was_typed(guarded: Playbook) -> None:
    result = guarded("migrate.yml", migration_target="20250103000000")
    refused(
        guarded,
        result,
        "There is no variable migration_target (did you mean migrate_target?); correct the name behind -e",
    )


def test_a_variable_typed_with_a_dash(guarded: Playbook) -> None:
    result = guarded("migrate.yml", **{"migrate-target": "20250103000000"})
    refused(
        guarded,
        result,
        "There is no variable migrate-target (did you mean migrate_target?); correct the name behind -e",
    )


def test_a_misspelt_variable_in_the_inventory_of_one_host(guarded: Playbook) -> None:
    guarded.hosts["local"] = {"local-1": {}, "local-2": {"pgops_ssl_mode": "require"}}
    refused(
        guarded,
        guarded("guarded.yml"),
        "pgops_ssl_mode (did you mean pgops_sslmode?) is no variable of this collection (set for local-2)",
    )


def test_an_unknown_phase(guarded: Playbook) -> None:
    refused(
        guarded,
        guarded("guarded.yml", pgops_phases=["plan", "aply"]),
        "pgops_phases names aply, which is no phase; choose from",
    )


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("given", "sentence", "command"),
    [
        (
            {"rollback_strategy": "disclose_dwon"},
            "rollback_strategy is disclose_dwon, and it takes one of down, restore, swap",
            "-l local",
        ),
        ({"rollback_strategy": "don"}, "rollback_strategy is don, and", "-l local -e rollback_strategy=down"),
        (
            {"rollback_steps": "abc", "rollback_strategy": "down"},
            "rollback_steps is abc, and it takes a whole number from 1 on",
            "-l local -e rollback_strategy=down -e '{\"rollback_steps\": 1}'",
        ),
        (
            {"migrate_steps": "x"},
            "migrate_steps is x, and it takes a whole number from 1 on",
            "-e '{\"migrate_steps\": 1}'",
        ),
        (
            {"migrate_steps": 0},
            "migrate_steps is 0, and it takes a whole number from 1 on",
            "-e '{\"migrate_steps\": 1}'",
        ),
        ({"backup_jobs": "two"}, "backup_jobs is two, and it takes a whole number", "-l local"),
        ({"migrate_lock_wait": "soon"}, "migrate_lock_wait is soon, and it takes a number", "-l local"),
        ({"verify_verbose": "perhaps"}, "verify_verbose is perhaps, and it takes true or false", "-l local"),
    ],
)
def test_a_value_that_a_role_does_not_take(
    guarded: Playbook, given: dict[str, object], sentence: str, command: str
) -> None:
    result = guarded("guarded.yml", **given)
    refused(guarded, result, sentence)
    (told,) = result.json["error"]["next"]
    assert told.endswith(command)
    assert not any(
        f"{name}={value}" in told or f'"{name}": "{value}"' in told for name, value in given.items() if name in sentence
    )


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "name", ["rollback_keep", "rollback_steps", "rollback_backup", "rollback_strategy", "migrate_target"]
)
def test_an_empty_value_on_the_command_line_is_not_taken_for_none(guarded: Playbook, name: str) -> None:
    result = guarded("guarded.yml", "-e", f"{name}=")
    refused(guarded, result, f"{name} was given without a value, which would count as not given at all")
    assert result.json["error"]["next"] == ["ansible-playbook status.yml -l local"]


@pytest.mark.parametrize(
    ("given", "sentence", "command"),
    [
        (
            {"rollback_backup": "/var/backups/x"},
            "rollback_backup belongs to rollback_strategy=restore, and this run's is down",
            "ansible-playbook guarded.yml -l local -e rollback_strategy=restore -e rollback_backup=/var/backups/x",
        ),
        (
            {"rollback_strategy": "restore", "rollback_steps": "1"},
            "rollback_steps belongs to rollback_strategy=down, and this run's is restore",
            "ansible-playbook guarded.yml -l local -e rollback_strategy=down -e rollback_steps=1",
        ),
        (
            {"rollback_strategy": "down", "rollback_swap_to": "kept"},
            "rollback_swap_to belongs to rollback_strategy=swap, and this run's is down",
            "ansible-playbook guarded.yml -l local -e rollback_strategy=swap -e rollback_swap_to=kept",
        ),
    ],
)
def test_a_selection_of_another_way_back_is_not_passed_over(
    guarded: Playbook, given: dict[str, str], sentence: str, command: str
) -> None:
    result = guarded("guarded.yml", **given)
    refused(guarded, result, sentence)
    assert result.json["error"]["next"] == [command]


def test_no_database(guarded: Playbook) -> None:
    refused(guarded, guarded("guarded.yml", pgops_database=""), "pgops_database is not set for local-1")


@pytest.mark.parametrize(
    ("patch", "sentence"),
    [
        (
            "import ansible.release; ansible.release.__version__ = '2.16.14'",
            "ansible-core 2.16.14 is too old, 2.17 or later is needed",
        ),
        (
            "import sys, ansible.cli; sys.version_info = (3, 10, 14, 'final', 0)",
            "Python 3.10 on the controller is too old, 3.11 or later",
        ),
    ],
    ids=["ansible-core", "python"],
)
def test_a_controller_that_is_too_old(guarded: Playbook, tmp_path: Path, patch: str, sentence: str) -> None:
    """An old Ansible is played by patching the version of this one as it starts; everything else is the real command."""
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(patch)
    guarded.write_inventory()
    done = subprocess.run(
        guarded.command("guarded.yml"),
        cwd=guarded.folder,
        env={**guarded.environment(), "PYTHONPATH": str(tmp_path / "patch")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert sentence in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not guarded.state.exists()


def test_hosts_that_cannot_be_reached(guarded: Playbook) -> None:
    guarded.hosts["staging"] = {
        "staging-1": {
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": 9,
            "ansible_ssh_common_args": "-o BatchMode=yes",
        }
    }
    result = guarded("guarded.yml", limit="staging")
    assert result.rc == 4, result.output
    assert "Host staging-1 cannot be reached" in result.output
    assert "type: ansible staging-1 -m ansible.builtin.ping" in result.output
    assert "Traceback" not in result.output
    # 'always' is skipped for such a host; the callback wrote the end of the run.
    assert result.json["ok"] is False
    assert result.json["environment"] == "staging"
    assert "cannot be reached" in result.json["error"]["message"]
    assert result.json["error"]["next"] == ["ansible staging-1 -m ansible.builtin.ping"]
    assert Path(result.json["report"]).is_file()


def test_the_run_is_journalled_with_names_of_extra_variables_and_never_values(guarded: Playbook) -> None:
    result = guarded("guarded.yml", some_secret="hunter2-geheim")
    journal = guarded.state / "journal" / "local" / f"{result.json['run_id']}.jsonl"
    began = json.loads(journal.read_text().splitlines()[0])
    assert began["event"] == "run_started"
    assert began["playbook"] == "guarded"
    assert "some_secret" in began["extra_variables"]
    for folder, _folders, files in os.walk(guarded.state):
        for name in files:
            assert "hunter2-geheim" not in (Path(folder) / name).read_text()


def test_check_mode_leaves_no_journal_and_no_report(guarded: Playbook) -> None:
    result = guarded("guarded.yml", "--check")
    assert result.rc == 0, result.output
    assert not guarded.state.exists()
    assert result.json["ok"] is True
    assert result.json["hosts"]["local-1"][guarded.database]["preflight"]["level"] == "ok"


@pytest.mark.slow
def test_two_hosts_of_one_environment_are_one_run(guarded: Playbook) -> None:
    guarded.hosts["local"] = {"local-1": {}, "local-2": {}}
    result = guarded("guarded.yml")
    assert result.rc == 0, result.output
    assert sorted(result.json["hosts"]) == ["local-1", "local-2"]
    assert len(list((guarded.state / "journal" / "local").iterdir())) == 1


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"migrate_canary": "tenant_9"}, "migrate_canary names tenant_9, which is no host and no database of this run"),
        ({"migrate_batches": "1,ten"}, "migrate_batches has ten, and it takes numbers from 1 on and percentages"),
        ({"migrate_canary": ""}, "migrate_canary was given without a value"),
    ],
    ids=["an unknown canary", "no size", "an empty canary"],
)
def test_batches_that_cannot_be_meant(guarded: Playbook, variables: dict[str, str], sentence: str) -> None:
    refused(guarded, guarded("guarded.yml", **variables), sentence)


@pytest.mark.slow
def test_a_canary_outside_the_run_leaves_its_place_to_nobody(guarded: Playbook) -> None:
    guarded.hosts["local"] = {"local-1": {}, "local-2": {}}
    refused(guarded, guarded("guarded.yml", migrate_canary="staging-1"), "which is none of the 2 hosts of this run")
    refused(
        guarded,
        guarded("guarded.yml", migrate_canary="local-1,staging-1"),
        "staging-1, which is a host outside this run",
    )


@pytest.mark.slow
def test_batches_in_the_inventory_would_be_passed_over(guarded: Playbook) -> None:
    guarded.variables["migrate_canary"] = "local-1"
    refused(guarded, guarded("guarded.yml"), "batches are made before any host's variables are read")


@pytest.mark.parametrize(
    ("name", "near"), [("bakup_directory", "backup_directory"), ("pgop_phases", "pgops_phases"), ("gat_required", "gate_required")]
)  # fmt: skip
def test_a_misspelt_first_word_in_the_inventory(guarded: Playbook, name: str, near: str) -> None:
    guarded.variables[name] = True
    result = guarded("guarded.yml")
    refused(guarded, result, f"{name} (did you mean {near}?) is no variable of this collection (set for local-1)")
    role = near.partition("_")[0].replace("pgops", "migrate")
    assert result.json["error"]["next"] == [f"ansible-doc -t role whitecross.pgops.{role}"]


def test_a_sites_own_variables_in_the_inventory_are_none_of_the_guards_business(guarded: Playbook) -> None:
    guarded.variables.update(
        {"app_directory": "/srv", "scheduler_host": "s-1", "exports_directory": "/srv", "callback_version": 2, "backups_host": "nas-1", "migration_user": "ada", "ops_host": "ops-1", "BACKUP_DIRECTORY": "/b"}
    )  # fmt: skip
    result = guarded("guarded.yml")
    assert result.rc == 0, result.output


@pytest.mark.parametrize("name", ["pgops_database", "pgops_host", "pgops_json", "migrate_windows"])
def test_a_template_that_has_no_value_is_told_by_its_variable(guarded: Playbook, name: str) -> None:
    result = guarded("rollback.yml", "-e", f"{name}={{{{ nothing }}}}", rollback_strategy="down")
    sentence = f"{name} was given with -e, and its template has no value: 'nothing' is undefined; and without it"
    if name == "pgops_json":
        # There is no file then to look into.
        assert sentence in result.output
        return
    refused(guarded, result, sentence)
    assert result.json["error"]["next"] == ["ansible-playbook rollback.yml -l local -e rollback_strategy=down"]


def test_a_template_in_the_inventory_that_has_no_value_is_told_by_its_variable(guarded: Playbook) -> None:
    guarded.variables["pgops_scratch_host"] = "{{ site_scratch }}"
    guarded.variables["site_scratch"] = "{{ nothing }}"
    result = guarded("status.yml")
    refused(
        guarded,
        result,
        "pgops_scratch_host is set for local-1, and its template has no value: 'nothing' is undefined; correct it there, and then",
    )
    assert result.json["error"]["next"] == ["ansible-playbook status.yml -l local"]


def test_a_template_of_a_later_host_is_told_by_its_variable(guarded: Playbook) -> None:
    guarded.hosts["local"] = {"local-1": {}, "local-2": {"pgops_user": "{{ nothing }}"}}
    result = guarded("status.yml")
    assert result.rc == 2
    assert (
        "pgops_user is set for local-2, and its template has no value: 'nothing' is undefined"
        in result.json["error"]["message"]
    )


@pytest.mark.parametrize(
    ("name", "value", "takes"),
    [
        ("pgops_port", "abc", "a port from 1 to 65535, or one for each host with commas"),
        ("pgops_connect_timeout", "soon", "a whole number from 1 on"),
        ("pgops_lease", "-1", "a whole number from 1 on"),
    ],
)
def test_a_shared_value_that_cannot_be_meant(guarded: Playbook, name: str, value: str, takes: str) -> None:
    result = guarded("status.yml", "-e", f"{name}={value}")
    refused(guarded, result, f"{name} is {value}, and it takes {takes}; type: ansible-playbook status.yml -l local")
