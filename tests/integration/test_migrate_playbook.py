# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""migrate.yml from end to end: the literal command on a real server, its log, its reports, its failures."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from support.engine import wait_for
from support.server import Server
from support.site import Playbook
from support.tree import NO_DIFFERENCE, TestTree

VERSIONS = ("20260101000000", "20260101000001")
STEPS = [
    "(1/8) health check",
    "(2/8) backup",
    "(3/8) verify backup",
    "(4/8) status",
    "(5/8) apply",
    "(6/8) status",
    "(7/8) verification queries",
    "(8/8) health check",
]


def tree_of(site: Playbook) -> TestTree:
    return TestTree(site.folder / "sql")


@pytest.fixture
def site(playbook: Playbook) -> Playbook:
    """An operator's folder with a tree of two small versions."""
    shutil.rmtree(playbook.copy_sql() / "migrations")
    for version, table in zip(VERSIONS, ("rooms", "beds"), strict=True):
        up = f"CREATE TABLE public.{table} (\n    id integer PRIMARY KEY\n);\n"
        tree_of(playbook).add_sql(version, table, up, f"DROP TABLE public.{table};\n")
    return playbook


def relations(site: Playbook) -> set[str]:
    rows = site.server.execute(
        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname IN ('public', 'pgops') AND c.relkind = 'r'",
        database=site.database,
    )
    return {name for (name,) in rows}


def journal(site: Playbook, result: Any) -> list[dict[str, Any]]:
    path = site.state / "journal" / "local" / f"{result.json['run_id']}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def finished(site: Playbook, result: Any) -> list[str]:
    return [event["phase"] for event in journal(site, result) if event["event"] == "phase_finished"]


def test_check_and_diff_show_the_sql_and_write_nothing(site: Playbook) -> None:
    result = site("migrate.yml", "--check", "--diff")
    assert result.rc == 0, result.output
    assert "CREATE TABLE public.rooms" in result.stdout
    assert not re.search(r"changed=0 ", result.stdout), "a run that would change something says so"
    assert relations(site) == set()
    assert not site.state.exists()
    assert not site.backups.exists()
    assert result.json["ok"] is True
    assert result.json["report"] is None


def test_a_playbook_of_the_site_that_imports_it_keeps_its_backup_as_one_of_a_migration(site: Playbook) -> None:
    """How long a backup is kept goes by its purpose."""
    (site.folder / "release.yml").write_text("---\n- import_playbook: migrate.yml\n", encoding="utf-8")
    result = site("release.yml")
    assert result.rc == 0, result.output
    (manifest,) = site.backups.rglob("manifest.json")
    assert json.loads(manifest.read_text(encoding="utf-8"))["purpose"] == "before_migration"
    assert result.json["playbook"] == "migrate", "what stop.yml and the guards of production go by"
    assert result.json["state"] == "complete"


def test_a_run_takes_the_eight_steps_and_a_second_changes_nothing(site: Playbook) -> None:
    first = site("migrate.yml")
    assert first.rc == 0, first.output
    assert {"public.rooms", "public.beds", "pgops.migration"} <= relations(site)
    assert re.findall(r"^local-1: (\(\d/8\) .*)$", first.stdout, re.MULTILINE) == STEPS
    for version in VERSIONS:
        assert re.search(rf"^    {version} \w+: applied in \d+\.\d\d s$", first.stdout, re.MULTILINE)
    assert re.search(r"^pgops run \S+: migrate in local succeeded after .* s, at 20", first.stdout, re.MULTILINE)
    assert f"report: {first.json['report']}" in first.stdout
    # A line an object is verify.yml's own.
    assert re.search(r"^    table +\d+ passed$", first.stdout, re.MULTILINE)
    assert "pass   table" not in first.stdout
    assert finished(site, first) == [
        "preflight", "plan", "backup", "prove", "status", "preflight_again", "apply", "status", "analyze", "verify",
        "preflight_after",
    ]  # fmt: skip
    events = journal(site, first)
    assert (events[0]["event"], events[-1]["event"]) == ("run_started", "run_finished")

    backups = sorted(site.backups.rglob("manifest.json"))
    second = site("migrate.yml")
    assert second.rc == 0, second.output
    assert re.search(r"local-1 +: ok=\d+ +changed=0 ", second.stdout)
    assert finished(site, second) == ["preflight", "plan", "verify"]
    assert sorted(site.backups.rglob("manifest.json")) == backups


def test_tags_plan_runs_guard_plan_and_report_and_touches_nothing(site: Playbook) -> None:
    result = site("migrate.yml", "--tags", "plan")
    assert result.rc == 0, result.output
    assert finished(site, result) == ["plan"]
    assert relations(site) == set()
    assert result.json["ok"] is True
    assert result.json["hosts"]["local-1"][site.database]["plan"]["pending"]
    assert Path(result.json["report"]).is_file()


@pytest.mark.slow
def test_a_phase_is_switched_off_by_a_variable(site: Playbook) -> None:
    result = site("migrate.yml", pgops_phases=["preflight", "plan", "verify", "report"])
    assert result.rc == 0, result.output
    assert finished(site, result) == ["preflight", "plan", "verify", "preflight_after"]
    assert relations(site) == set()


def test_nothing_is_written_to_the_database_before_its_backup_is_proved(site: Playbook) -> None:
    result = site("migrate.yml", pgops_scratch_host="127.0.0.1", pgops_scratch_port="9")
    assert result.rc == 2, result.output
    assert result.json["error"]["phase"] == "prove"
    assert relations(site) == set()
    assert "apply" not in finished(site, result)


def test_a_failing_statement_ends_the_run_with_report_and_next_commands(site: Playbook) -> None:
    tree_of(site).add_sql(
        "20260101000002", "broken",
        "CREATE TABLE public.desks (id integer);\nINSERT INTO public.nowhere VALUES (1);\n", "DROP TABLE public.desks;\n",
    )  # fmt: skip
    result = site("migrate.yml")
    assert result.rc == 2, result.output
    assert "public.desks" not in relations(site)
    assert "public.beds" in relations(site)
    error = result.json["error"]
    assert error["sqlstate"] == "42P01"
    assert error["location"].endswith("up.sql.j2:2")
    assert 'in the statement "INSERT INTO public.nowhere VALUES (?)"' in error["message"]
    assert any("migrate.yml -l local" in command for command in error["next"])
    assert any("rollback.yml -l local" in command for command in error["next"])
    assert "verify" not in finished(site, result)
    assert "Traceback" not in result.output
    # What went well before the failure is in the report too.
    report = json.loads(Path(result.json["report"]).with_suffix(".json").read_text())
    assert report["result"] == "failed"
    assert [version["version"] for version in report["versions"]][:2] == list(VERSIONS)
    page = Path(result.json["report"]).read_text()
    assert "INSERT INTO public.nowhere" in page
    assert "42P01" in page
    assert journal(site, result)[-1]["event"] == "run_failed"


@pytest.mark.slow
def test_a_verification_that_fails_ends_the_run_with_its_list_and_the_way_back(site: Playbook) -> None:
    folder = tree_of(site).add_sql(
        "20260101000002", "desks", "CREATE TABLE public.desks (id integer PRIMARY KEY);\n", "DROP TABLE public.desks;\n"
    )
    (folder / "verify.sql.j2").write_text("SELECT 'desk 7' AS object, 'a lid' AS expected, 'none' AS found;\n")
    result = site("migrate.yml")
    assert result.rc == 2, result.output
    assert result.json["ok"] is False
    error = result.json["error"]
    assert error["phase"] == "verify"
    assert "desk 7: expected a lid, found none" in error["message"]
    # It was applied before it was looked at: the command that takes it back again names where this run began.
    assert "public.desks" in relations(site)
    assert f"ansible-playbook rollback.yml -l local -e rollback_through={VERSIONS[0]}" in error["next"]
    report = json.loads(Path(result.json["report"]).with_suffix(".json").read_text())
    assert report["result"] == "failed"
    found = report["results"]["local-1"][site.database]["verify"]
    assert found["passed"] is False
    assert [(line["object"], line["found"]) for line in found["findings"]] == [("desk 7", "none")]
    assert (found["versions"][-1], bool(found["lines"])) == ("20260101000002", True)


@pytest.mark.slow
def test_rows_without_a_parent_stop_a_run_until_somebody_says_what_becomes_of_them(site: Playbook) -> None:
    key = "FOREIGN KEY (id) REFERENCES public.rooms (id) ON UPDATE CASCADE ON DELETE RESTRICT NOT VALID"
    tree_of(site).add(
        "20260101000002",
        "beds_stand_in_rooms",
        [
            {
                "sql": {
                    "up": "up.sql.j2",
                    "down": "down.sql.j2",
                    "placeholders": [{"constraint": "beds_room", "row": {"note": "Room {key}"}}],
                }
            },
            {"validate": [{"table": "beds", "constraint": "beds_room"}]},
        ],
        {
            "up.sql.j2": f"ALTER TABLE public.rooms ADD COLUMN note text;\nALTER TABLE public.beds ADD CONSTRAINT beds_room {key};\n",
            "down.sql.j2": "ALTER TABLE public.beds DROP CONSTRAINT IF EXISTS beds_room;\n"
            "ALTER TABLE public.rooms DROP COLUMN IF EXISTS note;\n",
            "verify.sql.j2": NO_DIFFERENCE,
        },
    )
    first = site("migrate.yml", "-e", "migrate_steps=2")
    assert first.rc == 0, first.output
    site.server.execute("INSERT INTO beds VALUES (5)", database=site.database)
    stopped = site("migrate.yml")
    assert stopped.rc != 0
    assert "1 row(s) of public.beds have no parent in public.rooms, by id 5" in stopped.stdout
    assert "-e migrate_orphans=placeholder" in stopped.stdout
    made = site("migrate.yml", "-e", "migrate_orphans=placeholder")
    assert made.rc == 0, made.output
    assert "1 placeholder(s) made in public.rooms for public.beds.beds_room" in made.stdout
    assert site.server.execute("SELECT id, note FROM rooms", database=site.database) == [(5, "Room 5")]


def test_reports_are_private_and_in_three_forms(site: Playbook) -> None:
    result = site("migrate.yml", "--tags", "preflight")
    page = Path(result.json["report"])
    for kind in ("html", "json", "log"):
        assert page.with_suffix(f".{kind}").stat().st_mode & 0o777 == 0o600
    assert page.parent.stat().st_mode & 0o777 == 0o700
    assert not list(site.state.rglob("*.partial"))
    log = page.with_suffix(".log").read_text()
    assert re.search(r"^\S+Z START migrate in local, run ", log, re.MULTILINE)
    assert re.search(r"^\S+Z END succeeded after ", log, re.MULTILINE)


@pytest.mark.slow
def test_a_target_that_there_is_not_is_not_told_to_be_typed_again(site: Playbook) -> None:
    result = site("migrate.yml", "--tags", "plan", migrate_target="20270101000000")
    assert result.rc == 2
    assert "There is no version 20270101000000 to apply up to" in result.json["error"]["message"]
    assert result.json["error"]["next"] == ["ansible-playbook status.yml -l local"]


def test_a_wrong_argument_of_a_role_is_a_failed_run(site: Playbook) -> None:
    """The guard cannot see what a template comes to; Ansible checks it outside any phase, and only the callback tells the report."""
    result = site("migrate.yml", migrate_lock_wait="{{ 'soon' }}")
    assert result.rc == 2, result.output
    assert result.json["ok"] is False
    assert "migrate_lock_wait" in result.json["error"]["message"]
    assert journal(site, result)[-1]["event"] == "run_failed"
    assert relations(site) == set()


def test_without_the_callback_a_run_that_broke_off_is_still_no_success(site: Playbook) -> None:
    config = site.folder / "ansible.cfg"
    config.write_text(config.read_text().replace("callbacks_enabled", "#callbacks_enabled"))
    result = site("migrate.yml", migrate_lock_wait="{{ 'soon' }}")
    assert result.rc == 2, result.output
    assert result.json["ok"] is False
    assert "before the phase" in result.json["error"]["message"]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGINT, True), pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow), (signal.SIGHUP, True)],
    ids=["ctrl-c", "sigterm", "closed terminal"],
)
def test_an_interrupted_run_leaves_its_end(site: Playbook, server: Server, number: int, whole_group: bool) -> None:
    tree_of(site).add_sql("20260101000002", "slow", "SELECT pg_sleep(60);\n", "SELECT 1;\n")
    document = site.folder / "interrupted.json"
    process = site.start("migrate.yml", pgops_json=str(document), pgops_lease=5)
    output = site.interrupt(process, number, whole_group=whole_group)
    assert process.returncode != 0
    assert "Traceback" not in output
    result = json.loads(document.read_text())
    assert result["ok"] is False
    assert "interrupted" in result["error"]["message"]
    assert result["error"]["next"]
    report = json.loads(Path(result["report"]).with_suffix(".json").read_text())
    assert report["result"] == "interrupted"


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_older_result(site: Playbook, server: Server) -> None:
    document = site.folder / "result.json"
    assert site("status.yml", pgops_json=str(document)).json["ok"] is True
    tree_of(site).add_sql("20260101000002", "slow", "SELECT pg_sleep(60);\n", "SELECT 1;\n")
    process = site.start("migrate.yml", pgops_json=str(document), pgops_lease=5)
    try:
        site.wait_for_its_sleep(process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    result = json.loads(document.read_text())
    assert (result["playbook"], result["ok"], result["hosts"]) == ("migrate", False, {})
    assert "has not ended, or was killed" in result["error"]["message"]


def test_without_the_callback_the_guard_takes_the_older_result_away(site: Playbook) -> None:
    """The inventory may name the file; nobody but the guard reads it before the report."""
    config = site.folder / "ansible.cfg"
    config.write_text(config.read_text().replace("callbacks_enabled", "#callbacks_enabled"))
    document = site.folder / "result.json"
    document.write_text('{"ok": true}')
    document.chmod(0o600)
    (site.folder / "begun.yml").write_text("- hosts: all\n  gather_facts: false\n  roles: [whitecross.pgops.guard]\n")
    result = site("begun.yml", pgops_json=str(document))
    assert result.rc == 0, result.output
    assert result.json["ok"] is False
    assert "has not ended" in result.json["error"]["message"]


@pytest.mark.slow
def test_several_databases_of_a_host_are_one_run(site: Playbook, server: Server) -> None:
    other = f"{site.database}_b"
    server.create_database(other)
    # As it is typed: a text.
    result = site("migrate.yml", pgops_databases=f"{site.database},{other}")
    assert result.rc == 0, result.output
    assert sorted(result.json["hosts"]["local-1"]) == [site.database, other]
    ended = f"SELECT count(*) FROM pgops.audit WHERE run_id = '{result.json['run_id']}' AND event = 'run_ended'"
    for name in (site.database, other):
        assert server.execute("SELECT count(*) FROM pgops.migration WHERE state = 'applied'", database=name) == [(2,)]
        assert server.execute(ended, database=name) == [(1,)]
    looked = site("status.yml", pgops_databases=[site.database, other])
    assert looked.rc == 0, looked.output
    assert sorted(looked.json["hosts"]["local-1"]) == [site.database, other]


ELSEWHERE = '''
DOCUMENTATION = """
name: elsewhere
short_description: this machine under another name
description: [Runs what a connection to another machine would run, and writes each command down.]
options: {}
"""
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as Local

BREAKS = []


class Connection(Local):
    transport = "elsewhere"

    def exec_command(self, cmd, in_data=None, sudoable=True):
        with open("commands", "a", encoding="utf-8") as stream:
            stream.write(cmd + "\\n")
        answer = super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        for part in list(BREAKS):
            if part in cmd:
                BREAKS.remove(part)
                with open("broken", "a", encoding="utf-8") as stream:
                    stream.write(part)
                raise AnsibleConnectionFailure("ssh: connection reset")
        return answer
'''


@pytest.mark.slow
def test_on_another_machine_the_modules_are_sent_and_a_long_one_goes_on_by_itself(site: Playbook) -> None:
    (site.folder / "connection_plugins").mkdir()
    (site.folder / "connection_plugins" / "elsewhere.py").write_text(ELSEWHERE, encoding="utf-8")
    site.variables["ansible_connection"] = "elsewhere"
    up = site.folder / "sql" / "migrations" / f"{VERSIONS[1]}_beds" / "up.sql.j2"
    up.write_text(up.read_text() + "SELECT pg_sleep(1.5);\n", encoding="utf-8")
    result = site("migrate.yml", pgops_progress="always")
    assert result.rc == 0, result.output
    assert {"public.rooms", "public.beds"} <= relations(site)
    assert "step 1 of 1 | [2/2] SELECT pg_sleep(1.5)" in result.stdout
    commands = (site.folder / "commands").read_text()
    assert "runpy" not in commands, "nothing of ours lies there"
    assert "/lease" in commands, "the apply took longer than its call and was polled for"
    failed = site("status.yml", pgops_port="1")
    assert failed.rc != 0
    assert "nothing listens there" in failed.stdout


def test_on_this_machine_a_module_runs_from_where_it_lies(site: Playbook) -> None:
    result = site("status.yml", "-vvv")
    assert result.rc == 0, result.output
    assert "runpy.run_module" in result.stdout
    # What a module is given goes through its standard input: a process list shows none of it.
    assert not re.search(r"EXEC .*(passfile|pgops_|ANSIBLE_MODULE_ARGS)", result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "seconds"),
    [
        ("/lease", 2),
        ("AnsiballZ_apply", 2),
        ("AnsiballZ_apply", 0),
    ],
)
def test_a_connection_that_breaks_once_does_not_end_the_run(site: Playbook, broken: str, seconds: int) -> None:
    (site.folder / "connection_plugins").mkdir()
    plugin = ELSEWHERE.replace("BREAKS = []", f"BREAKS = [{broken!r}]")
    if broken == "AnsiballZ_apply":
        # The call itself, which goes through the standard input.
        plugin = plugin.replace("if part in cmd:", 'if "whitecross.pgops.apply" in str(in_data):')
    (site.folder / "connection_plugins" / "elsewhere.py").write_text(plugin, encoding="utf-8")
    site.variables["ansible_connection"] = "elsewhere"
    up = site.folder / "sql" / "migrations" / f"{VERSIONS[1]}_beds" / "up.sql.j2"
    up.write_text(up.read_text() + f"SELECT pg_sleep({seconds});\n", encoding="utf-8")
    site.variables["ansible_async_dir"] = str(site.folder / "jobs")
    result = site("migrate.yml")
    assert result.rc == 0, result.output
    assert {"public.rooms", "public.beds"} <= relations(site)
    assert "verify" in finished(site, result)
    assert (site.folder / "broken").exists()
    assert list((site.folder / "jobs").iterdir()) == []


@pytest.mark.slow
def test_a_module_that_a_broken_connection_kept_from_beginning_does_not_begin_later(site: Playbook) -> None:
    (site.folder / "connection_plugins").mkdir()
    plugin = ELSEWHERE.replace("BREAKS = []", "BREAKS = ['apply']").replace(
        "        answer = super()",
        "        if BREAKS and 'whitecross.pgops.apply' in str(in_data):\n"
        "            BREAKS.clear()\n"
        "            raise AnsibleConnectionFailure('ssh: connection reset')\n"
        "        answer = super()",
    )
    (site.folder / "connection_plugins" / "elsewhere.py").write_text(plugin, encoding="utf-8")
    site.variables.update(ansible_connection="elsewhere", ansible_async_dir=str(site.folder / "jobs"))
    result = site("migrate.yml")
    assert result.rc != 0
    assert "nothing was changed on it by this step" in result.output
    (folder,) = (site.folder / "jobs").iterdir()
    assert [entry.name for entry in folder.iterdir()] == ["lease.stop"], (
        "a job that comes late finds that it is not wanted"
    )
    assert "public.rooms" not in relations(site)


@pytest.mark.slow
def test_stop_reaches_a_run_that_is_still_in_its_backup(site: Playbook) -> None:
    assert site("migrate.yml", migrate_steps=1).rc == 0
    holder = site.server.connect(site.database)
    run = site.start("migrate.yml")
    assert run.stdout is not None
    output = ""
    for line in run.stdout:
        output += line
        if "1 pending, highest risk" in line:
            # Waited for by the backup, which locks every table against a rewrite.
            holder.cursor().execute("BEGIN; LOCK TABLE public.rooms IN ACCESS EXCLUSIVE MODE")
            break
    wait_for(
        lambda: site.server.execute(
            "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgops 2% backup' AND wait_event_type = 'Lock'"
        ),
        seconds=60,
    )
    stopped = site("stop.yml", migrate_stop_wait=60)
    holder.close()
    rest, _ = run.communicate(timeout=60)
    assert run.returncode != 0, output + rest
    assert stopped.rc == 0, stopped.output
    assert "has ended before it took the lock" in stopped.stdout, stopped.stdout + rest
    assert "asked it to stop" in rest, rest
    assert "public.beds" not in relations(site)
    again = site("migrate.yml")
    assert again.rc == 0, again.output
    assert "public.beds" in relations(site)


@pytest.mark.slow
def test_a_folder_for_jobs_that_cannot_be_written_is_named(site: Playbook) -> None:
    result = site("migrate.yml", ansible_async_dir="/proc/nowhere")
    assert result.rc == 2
    message = result.json["error"]["message"]
    assert "the folder /proc/nowhere, in which a running job is kept, cannot be written" in message
    assert "ansible_async_dir" in message
    assert relations(site) == set()


@pytest.mark.slow
def test_a_relative_folder_for_jobs_is_refused(site: Playbook) -> None:
    result = site("migrate.yml", ansible_async_dir="jobs")
    assert result.rc == 2
    assert "ansible_async_dir is jobs, which is relative" in result.json["error"]["message"]
    assert not list(site.folder.rglob("jobs"))
