# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A playbook of a site's own gives the connection once, by module_defaults, and uses any module of the collection."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import yaml
from support.podman import ROOT
from support.server import BACKUP, MIGRATOR, OWNER, RESTORE
from support.site import Playbook


def run(playbook: Playbook, tasks: list[dict[str, Any]], defaults: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run a play with no variable of the collection, on the ops host; its result as JSON on stdout."""
    play = {
        "hosts": "localhost", "gather_facts": False, "connection": "local",
        "vars": {"ansible_python_interpreter": playbook.variables["ansible_python_interpreter"]},
        "module_defaults": {"group/whitecross.pgops.pgops": defaults}, "tasks": tasks,
    }  # fmt: skip
    (playbook.folder / "own.yml").write_text(yaml.safe_dump([play], sort_keys=False), encoding="utf-8")
    return subprocess.run(
        ["ansible-playbook", "own.yml", "-i", "localhost,"], cwd=playbook.folder, capture_output=True, text=True, check=False,
        env=playbook.environment(), timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_the_connection_is_given_once_and_no_module_refuses_it(playbook: Playbook) -> None:
    server = playbook.server
    defaults = {
        "host": server.host, "port": str(server.port), "databases": [playbook.database], "user": MIGRATOR, "owner": OWNER,
        "backup_user": BACKUP, "restore_user": RESTORE, "passfile": str(server.passfile), "bindir": str(server.bindir),
    }  # fmt: skip
    answers = playbook.folder / "answers.json"
    keep = {"content": "{{ [seen, tables] | map(attribute='databases') | to_json }}", "dest": str(answers)}
    tasks: list[dict[str, Any]] = [
        {"whitecross.pgops.status": {}, "register": "seen"},
        {"whitecross.pgops.inspect": {"query": "tables"}, "register": "tables"},
        {"whitecross.pgops.backup_list": {"directory": str(playbook.backups)}},
        # This one reaches no database, and takes no connection.
        {"whitecross.pgops.migration_lint": {}},
        {"ansible.builtin.copy": keep},
    ]
    done = run(playbook, tasks, defaults)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [list(found) for found in json.loads(answers.read_text(encoding="utf-8"))] == [[playbook.database]] * 2
    # Without the group there is nowhere to connect to.
    assert run(playbook, tasks[:1], {}).returncode == 2


@pytest.mark.slow
def test_no_module_of_the_group_takes_the_connection_for_something_else(playbook: Playbook) -> None:
    """Each is called with the connection alone, to a port where nobody listens: it may say that, or what else it needs."""
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text(encoding="utf-8"))
    modules = runtime["action_groups"]["pgops"]
    told = playbook.folder / "told.json"
    tasks: list[dict[str, Any]] = [{"ansible.builtin.set_fact": {"said": {}}}]
    for name in modules:
        kept = "{{ said | combine({'" + name + "': ansible_failed_result.msg | default('')}) }}"
        tasks.append(
            {
                "block": [{f"whitecross.pgops.{name}": {}, "check_mode": True, "timeout": 20}],
                "rescue": [{"ansible.builtin.set_fact": {"said": kept}}],
            }
        )
    tasks.append({"ansible.builtin.copy": {"content": "{{ said | to_json }}", "dest": str(told)}})
    defaults = {
        "host": "127.0.0.1", "port": "1", "databases": ["x"], "user": "y", "owner": "z", "backup_user": "b", "restore_user": "r",
        "passfile": str(playbook.server.passfile), "bindir": "/", "sslmode": "prefer", "connect_timeout": 2, "lease": 60,
        "maintenance_database": "postgres", "scratch_host": "127.0.0.1", "scratch_port": "1",
    }  # fmt: skip
    done = run(playbook, tasks, defaults)
    assert told.is_file(), done.stdout[-3000:] + done.stderr
    answers = json.loads(told.read_text(encoding="utf-8"))
    assert len(answers) > 30
    wrong = {
        name: text for name, text in answers.items() if "nvalid options" in text or "Unsupported parameters" in text or "takes no" in text
    }  # fmt: skip
    assert wrong == {}
    assert sum("nothing listens there" in text for text in answers.values()) > 10
