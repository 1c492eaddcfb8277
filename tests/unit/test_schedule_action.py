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


def asked(hosts: dict[str, dict[str, Any]], given: dict[str, Any] | None = None, **args: Any) -> dict[str, Any]:
    """:return: what the module gets. :param given: variables behind -e"""
    seen = variables(
        ["school"], playbook="schedule", given={"variables": given or {}, "files": [], "inventory": ["inventories"]}
    )
    first = next(iter(hosts.values()))
    task_vars = {
        **first, **seen, "groups": {"staging": list(hosts)}, "hostvars": SimpleNamespace(raw_get=hosts.__getitem__),
        "ansible_play_hosts_all": list(hosts)[:1],
    }  # fmt: skip
    return action(ActionModule, **{**ARGUMENTS, **args}).module_arguments(task_vars)


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
