# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's own tools for documentation and changelog read the collection and have nothing to say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.podman import ROOT

BIN = Path(sys.executable).parent
COLLECTION = ROOT / "collections" / "ansible_collections" / "whitecross" / "pgops"


def tool(name: str, *arguments: str, folder: Path = COLLECTION) -> tuple[int, str]:
    """:return: the exit code, and all that was said."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")},
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
    }
    done = subprocess.run(
        [str(BIN / name), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_changelog_is_one_that_a_release_can_be_made_of() -> None:
    assert tool("antsibull-changelog", "lint") == (0, "")


@pytest.mark.slow
def test_a_fragment_that_is_none_is_seen(tmp_path: Path) -> None:
    shutil.copy(ROOT / "galaxy.yml", tmp_path)
    shutil.copytree(ROOT / "changelogs", tmp_path / "changelogs")
    (tmp_path / "changelogs" / "fragments" / "9999-x.yml").write_text("---\nsmall_changes:\n  - nobody's section\n")
    code, said = tool("antsibull-changelog", "lint", folder=tmp_path)
    assert code != 0 and "9999-x.yml" in said and "small_changes" in said


@pytest.mark.slow
def test_every_plugin_and_role_is_documented_without_a_fault() -> None:
    told = tool("antsibull-docs", "lint-collection-docs", "--plugin-docs", "--disallow-unknown-collection-refs", ".")
    assert told == (0, "")


@pytest.mark.slow
def test_the_pages_of_the_docs_site_are_made_without_a_warning(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    told = tool(
        "antsibull-docs", "collection", "--use-current", "--fail-on-error", "--dest-dir", str(tmp_path), "whitecross.pgops"
    )  # fmt: skip
    assert told == (0, "")
    pages = {page.name for page in tmp_path.rglob("*.rst")}
    modules = {path.stem for path in (ROOT / "plugins" / "modules").glob("*.py")} - {"__init__"}
    assert {f"{name}_module.rst" for name in modules} <= pages
    assert {f"{path.name}_role.rst" for path in (ROOT / "roles").iterdir()} <= pages
