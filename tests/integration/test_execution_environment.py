# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""AWX and navigator run the playbooks in a container: its definition is read by the tool that builds it, and nothing is left inside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.podman import IMAGE, ROOT, podman
from support.site import Playbook

BIN = Path(sys.executable).parent


def tool(name: str, *arguments: str, folder: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")}
    done = subprocess.run(
        [str(BIN / name), *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_builder_reads_the_definition_of_the_image(tmp_path: Path) -> None:
    tool("ansible-builder", "create", "-f", str(ROOT / "execution-environment.yml"), "-c", str(tmp_path), folder=ROOT)
    (written,) = tmp_path.glob("*file")
    text = written.read_text(encoding="utf-8")
    assert "ansible-core==2.19.14" in text
    # Before the clients are asked for, in every stage.
    assert text.index("pgdg-redhat-repo") < text.index("AS builder")
    assert "postgresql18" in (tmp_path / "_build" / "bindep.txt").read_text(encoding="utf-8")
    assert "psycopg2-binary==" in (tmp_path / "_build" / "requirements.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_builder_finds_what_the_collection_needs_in_somebody_elses_image() -> None:
    told = tool("ansible-builder", "introspect", "collections", folder=ROOT)
    assert "psycopg2-binary==" in told and "postgresql18 [platform:rpm]" in told
    assert told.count("from collection whitecross.pgops") > 5


def test_a_project_of_this_repository_needs_no_other_collection(tmp_path: Path) -> None:
    tool(
        "ansible-galaxy", "collection", "install", "--offline", "-r", str(ROOT / "collections" / "requirements.yml"), "-p", str(tmp_path),
        folder=tmp_path,
    )  # fmt: skip
    assert list(tmp_path.glob("ansible_collections/*/*")) == []


# -- nothing is left inside ---------------------------------------------------------------------------------------------


def test_a_run_inside_says_where_it_would_lose_its_journal(playbook: Playbook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCHED_BY_RUNNER", "1")
    monkeypatch.setenv("AWX_ISOLATED_DATA_DIR", str(playbook.folder / "artifacts" / "17"))
    refused = playbook("status.yml", "--check")
    assert refused.rc == 2, refused.output
    message = refused.json["error"]["message"]
    assert message.startswith(f"pgops_state_directory={playbook.state} lies inside the execution environment, below ")
    assert "mount a volume" in message
    assert refused.json["error"]["next"] == [
        "ansible-playbook status.yml --check -l local -e pgops_state_directory=/srv/pgops/state"
    ]
    assert not playbook.state.exists()


LOOK = """
import json, sys
sys.path.insert(0, "/guard")
import execution_environment as inside
paths = ["/var/lib/state", "/srv/pgops/state", "/memory/state", "/runner/project/state"]
print(json.dumps([inside.inside_one(), *map(inside.why_lost, paths)]))
"""


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[list[str]]:
    """What a container gets: a folder of the host, the private folder of a job, one in memory, and the guard's own code."""
    for name in ("pgops", "private"):
        (tmp_path / name).mkdir()
    code = ROOT / "plugins" / "plugin_utils" / "execution_environment.py"
    yield [
        "--volume", f"{tmp_path}/pgops:/srv/pgops", "--volume", f"{tmp_path}/private:/runner", "--tmpfs", "/memory",
        "--volume", f"{code}:/guard/execution_environment.py:ro",
    ]  # fmt: skip


def in_a_container(volume: list[str], *arguments: str) -> list:
    told = podman("run", "--rm", "--network", "none", *volume, *arguments, IMAGE, "python3", "-B", "-c", LOOK)
    return json.loads(told)


@pytest.mark.slow
@pytest.mark.container
def test_a_real_container_keeps_what_a_volume_holds_and_nothing_else(volume: list[str]) -> None:
    job = ("--env", "LAUNCHED_BY_RUNNER=1", "--env", "AWX_ISOLATED_DATA_DIR=/runner/artifacts/17")
    assert in_a_container(volume, *job) == [
        True, "in the container's own file system", None, "in memory (tmpfs at /memory)", "below /runner, the private folder of one job",
    ]  # fmt: skip
    # A container that is no execution environment is somebody's workshop: its files are his affair.
    assert in_a_container(volume)[0] is False
