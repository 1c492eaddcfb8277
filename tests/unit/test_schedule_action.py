# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What schedule.yml makes of the inventory: which secrets are loaded, what a run may write, what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.action.schedule import ActionModule
from support.actions import action, variables

ARGUMENTS: dict[str, Any] = {
    "state": "present", "manager": "auto", "jobs": {"backup": {}}, "variables": {}, "credentials": {}, "write_paths": [], "directives": [],
    "lock_wait": 60, "grace": 60, "directory": str(Path(__file__).resolve().parents[2]), "ansible_playbook": "/opt/ansible-playbook",
}  # fmt: skip


def asked(
    hosts: dict[str, dict[str, Any]], given: dict[str, Any] | None = None, *, remote: bool = False, **args: Any
) -> dict[str, Any]:
    """:return: what the module gets. :param given: variables behind -e :param remote: whether another host has the timers"""
    seen = variables(
        ["school"], playbook="schedule", given={"variables": given or {}, "files": [], "inventory": ["inventories"]}
    )
    first = next(iter(hosts.values()))
    task_vars = {
        **first, **seen, "groups": {"staging": list(hosts)}, "hostvars": SimpleNamespace(raw_get=hosts.__getitem__),
        "ansible_play_hosts_all": list(hosts)[:1],
    }  # fmt: skip
    made = action(ActionModule, **{**ARGUMENTS, **args})
    if remote:
        made._connection.transport = "ssh"
    return made.module_arguments(task_vars)


LOCAL = {"ansible_connection": "local", "pgops_passfile": "/etc/pgops/passfile", "backup_directory": "/srv/backups"}


def test_a_local_host_s_secrets_and_backups() -> None:
    found = asked({"db1": {**LOCAL, "backup_identity_file": "/root/age.key"}}, vault_password_file="/root/vault")
    assert found["credentials"] == {
        "pgops_passfile": "/etc/pgops/passfile", "backup_identity_file": "/root/age.key", "vault_password": "/root/vault",
    }  # fmt: skip
    assert found["write_paths"] == ["/srv/backups"]
    (job,) = found["jobs"]
    assert job["command"][:2] == ["/opt/ansible-playbook", "backup.yml"]
    assert job["command"][2] == "-i" and Path(job["command"][3]).is_absolute()
    assert job["command"][4:] == ["-l", "staging"]


def test_a_remote_host_s_password_file_is_not_the_ops_host_s() -> None:
    found = asked({"db1": LOCAL, "db2": {**LOCAL, "ansible_connection": "ssh"}})
    assert found["credentials"] == {}
    assert found["write_paths"] == []


def test_what_two_hosts_say_differently_is_not_taken_for_both() -> None:
    assert asked({"db1": LOCAL, "db2": {**LOCAL, "pgops_passfile": "/etc/pgops/other"}})["credentials"] == {}


def test_a_copy_s_folder_is_not_made_where_nothing_is_mounted() -> None:
    assert asked({"db1": {**LOCAL, "backup_copies": [{"path": "/mnt/second"}]}})["write_paths"] == [
        "/srv/backups",
        "-/mnt/second",
    ]


def test_a_run_may_write_to_the_folder_of_the_metrics() -> None:
    """Wherever the databases are: the file lies on the ops host."""
    remote = {**LOCAL, "ansible_connection": "ssh", "pgops_metrics_directory": "/var/lib/node_exporter"}
    assert asked({"db1": remote})["write_paths"] == ["-/var/lib/node_exporter"]


def test_how_a_failure_is_told_holds_no_secret() -> None:
    mail = {"to": ["dana@hospital.org"], "host": "mail", "user": "pgops", "password_file": "/etc/pgops/mail"}
    found = asked({"db1": {**LOCAL, "pgops_mail": mail, "pgops_webhook_file": "/etc/pgops/hook"}})
    assert found["told_with"] == {
        "pgops_webhook_file": "/etc/pgops/hook",
        "pgops_mail_password_file": "/etc/pgops/mail",
    }
    assert "password_file" not in found["tell"]["pgops_mail"]


@pytest.mark.parametrize(
    ("args", "given", "told"),
    [
        ({}, {"pgops_port": 5433}, "pgops_port was given with -e, which no timer would have; nothing was installed"),
        ({}, {"backup_jobs": 1, "schedule_state": "present"}, "^backup_jobs was given with -e"),
        ({"jobs": {"x": {}}}, {}, "The job x needs a playbook.*; nothing was installed"),
        ({"jobs": {"backup": {"variables": {"pgops_webhook": "https://x/hunter2"}}}}, {}, "has pgops_webhook, which is a secret"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(args: dict[str, Any], given: dict[str, Any], told: str) -> None:
    with pytest.raises(AnsibleActionFail, match=told) as refused:
        asked({"db1": LOCAL}, given, **args)
    assert "hunter2" not in str(refused.value)


def test_to_remove_them_nothing_else_has_to_be_right() -> None:
    found = asked({"db1": LOCAL}, {"pgops_port": 5433}, state="absent", jobs={"x": {}})
    assert (found["state"], found["environment"]) == ("absent", "staging")


def policy(folder: Path) -> str:
    (folder / "retention.yml").write_text("- {table: t, column: at, years: 7, why: a test}\n", encoding="utf-8")
    return str(folder)


def usual(found: dict[str, Any]) -> set[str]:
    return {job["name"] for job in found["jobs"]}


def test_retention_has_a_timer_only_where_a_policy_and_a_folder_for_the_archives_are_declared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "retention" not in usual(asked({"db1": LOCAL}, jobs={}))
    assert "retention: no timer, since no policy is declared" in capsys.readouterr().out
    tree = {**LOCAL, "pgops_sql": policy(tmp_path)}
    assert "retention" not in usual(asked({"db1": tree}, jobs={}))
    assert "retention: no timer, since retention_archive_directory names no folder" in capsys.readouterr().out
    found = asked({"db1": {**tree, "retention_archive_directory": "/srv/retired"}}, jobs={})
    assert "retention" in usual(found)
    assert found["write_paths"] == ["/srv/backups", "/srv/retired"]
    assert "no timer" not in capsys.readouterr().out
    # As variables of the timers alone, too.
    own = {"retention_policy_file": f"{tmp_path}/retention.yml", "retention_archive_directory": "/srv/own"}
    found = asked({"db1": LOCAL}, jobs={"retention": {"variables": own}})
    assert (usual(found), found["write_paths"]) == ({"retention"}, ["/srv/backups", "/srv/own"])


def test_a_job_by_name_that_cannot_succeed_is_refused() -> None:
    with pytest.raises(
        AnsibleActionFail, match="job retention cannot succeed, since no policy is declared.*; nothing was installed"
    ):
        asked({"db1": LOCAL}, jobs={"retention": {}})


def test_what_a_job_writes_besides_backups_is_open_to_it() -> None:
    jobs = {
        "out": {"playbook": "export.yml", "on_calendar": "daily", "variables": {"export_directory": "/srv/exports"}}
    }
    assert asked({"db1": LOCAL}, jobs=jobs)["write_paths"] == ["/srv/backups", "/srv/exports"]
    assert asked({"db1": {**LOCAL, "export_directory": "/srv/exports"}})["write_paths"] == ["/srv/backups"]


# -- another host that has the timers -------------------------------------------------------------------------------------


def test_another_ops_host_has_the_backups_and_the_password_file_of_hosts_that_are_local_to_it() -> None:
    host = {**LOCAL, "pgops_passfile": "~/passfile", "backup_directory": "~/backups"}
    found = asked({"db1": host}, remote=True, vault_password_file="~/vault")
    assert found["credentials"] == {"pgops_passfile": "~/passfile", "vault_password": "~/vault"}, (
        "its homes are not ours"
    )
    assert found["write_paths"] == ["~/backups"]
    assert found["needed"]["inventory"] == str(Path("inventories").absolute())


def test_what_a_host_elsewhere_has_is_nothing_to_another_ops_host() -> None:
    found = asked({"db1": {**LOCAL, "ansible_connection": "ssh"}}, remote=True)
    assert (found["credentials"], found["write_paths"]) == ({}, [])
