# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The built artefact works from an empty folder, and ansible-doc shows everything in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.podman import ROOT
from support.site import Playbook

BIN = Path(sys.executable).parent
MODULES = sorted(p.stem for p in (ROOT / "plugins" / "modules").glob("*.py") if p.stem != "__init__")
ROLES = sorted(p.parent.parent.name for p in (ROOT / "roles").glob("*/meta/argument_specs.yml"))
PLAYBOOKS = sorted(p.stem for p in (ROOT / "playbooks").glob("*.yml"))


def ansible(
    command: str, *arguments: str, cwd: Path, collections: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    values = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "PG"))}
    values |= {
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_HOME": str(cwd / ".ansible"),
    }
    values["PATH"] = f"{BIN}{os.pathsep}{values.get('PATH', os.defpath)}"
    return subprocess.run(
        [BIN / command, *arguments], cwd=cwd, env=values | environment, capture_output=True, text=True, timeout=300, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built artefact")
    done = ansible(
        "ansible-galaxy", "collection", "build", str(ROOT), "--output-path", str(folder), cwd=folder, collections=folder
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("whitecross-pgops-*.tar.gz")
    return built


@pytest.fixture(scope="module")
def installed(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the collection lies, installed without asking any server."""
    collections = tmp_path_factory.mktemp("collections of a user")
    done = ansible(
        "ansible-galaxy", "collection", "install", "--offline", "--no-deps", "-p", str(collections), str(artefact),
        cwd=collections, collections=collections,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return collections


def test_the_artefact_holds_what_a_run_needs_and_nothing_of_the_workshop(artefact: Path) -> None:
    with tarfile.open(artefact) as tar:
        names = {name.split("/")[0] for name in tar.getnames()}
    assert {"playbooks", "roles", "plugins", "sql", "meta", "LICENSE", "README.md"} <= names
    assert names & {"collections", "tests", "molecule", "demo", ".venv", ".local", ".git", ".ci", "benchmarks"} == set()
    assert artefact.stat().st_size < 3_000_000


@pytest.mark.slow
def test_a_run_from_an_empty_folder_migrates(installed: Path, playbook: Playbook, tmp_path: Path) -> None:
    playbook.write_inventory()
    empty = tmp_path / "empty"
    empty.mkdir()
    document = tmp_path / "result.json"
    done = ansible(
        "ansible-playbook", "whitecross.pgops.migrate", "-i", str(playbook.folder / "inventories"), "-l", "local",
        "-e", json.dumps({"pgops_json": str(document)}), cwd=empty, collections=installed,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(document.read_text(encoding="utf-8"))["ok"] is True
    applied = playbook.server.execute(
        "SELECT count(*) FROM pgops.migration WHERE state = 'applied'", database=playbook.database
    )
    assert applied == [(len(list((ROOT / "sql" / "migrations").iterdir())),)]


def test_ansible_doc_lists_every_module_and_role(installed: Path, tmp_path: Path) -> None:
    modules = ansible("ansible-doc", "--list", "--json", "whitecross.pgops", cwd=tmp_path, collections=installed)
    assert sorted(json.loads(modules.stdout)) == [f"whitecross.pgops.{name}" for name in MODULES]
    roles = ansible(
        "ansible-doc", "-t", "role", "--list", "--json", "whitecross.pgops", cwd=tmp_path, collections=installed
    )
    assert sorted(json.loads(roles.stdout)) == [f"whitecross.pgops.{name}" for name in ROLES]


def test_ansible_doc_shows_every_module(installed: Path, tmp_path: Path) -> None:
    names = [f"whitecross.pgops.{name}" for name in MODULES]
    shown = ansible("ansible-doc", "--json", *names, cwd=tmp_path, collections=installed)
    assert shown.returncode == 0, shown.stderr
    documents = json.loads(shown.stdout)
    assert sorted(documents) == names
    for name, document in documents.items():
        assert document["examples"] and document["return"], name
        assert "error" not in document, name
        assert document["doc"]["attributes"]["check_mode"]["support"] in ("full", "partial", "none"), name
    text = ansible("ansible-doc", *names, cwd=tmp_path, collections=installed)
    assert text.returncode == 0 and "ERROR" not in text.stderr, text.stderr


def test_ansible_doc_shows_every_role(installed: Path, tmp_path: Path) -> None:
    names = [f"whitecross.pgops.{name}" for name in ROLES]
    shown = ansible("ansible-doc", "-t", "role", "--json", *names, cwd=tmp_path, collections=installed)
    assert shown.returncode == 0, shown.stderr
    for name, document in json.loads(shown.stdout).items():
        assert document["entry_points"], name
        for entry_point in document["entry_points"].values():
            assert entry_point["short_description"], name
