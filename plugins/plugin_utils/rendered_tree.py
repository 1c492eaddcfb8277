# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rendered tree, its lint and its checks, remembered below Ansible's home: each task is a process, and would parse it all again.

An entry is found by the hash of every file of the tree and of the code that reads it, so an edit is a new entry. Only a tree without
faults and without ``migrate_variables`` is remembered: a variable may be nobody else's business.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ansible import constants
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding

# Trees that a person works on side by side; each is about a megabyte.
KEPT = 8
_LIBRARIES = ("pglast", "jinja2", "pyyaml")
_CODE = Path(__file__).resolve().parents[1]


def rendered_tree(directory: Path, variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """:return: every migration of ``<directory>/migrations``, rendered.

    :raises PgopsError: the first fault of the tree, in one sentence."""

    def make() -> list[dict[str, Any]]:
        # Only here: the parser behind it takes a moment to load.
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import read_tree, render

        return render(read_tree(directory), variables)

    found: list[dict[str, Any]] = _remembered("rendered", directory / "migrations", variables, make)
    return found


def lint_findings(directory: Path, variables: Mapping[str, Any]) -> list[Finding]:
    """:return: what lint finds in the whole tree.

    :raises PgopsError: the tree cannot be read."""

    def make() -> list[dict[str, Any]]:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_lint import lint
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import read_tree

        return [finding.as_dict() for finding in lint(read_tree(directory), variables)]

    return [Finding(**finding) for finding in _remembered("lint", directory / "migrations", variables, make)]


def checks(directory: Path) -> list[dict[str, Any]]:
    """:return: the named checks of ``<directory>/checks``.

    :raises PgopsError: the first fault, in one sentence."""

    def make() -> list[dict[str, Any]]:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.named_checks import read_checks

        return read_checks(directory)

    found: list[dict[str, Any]] = _remembered("checks", directory / "checks", {}, make)
    return found


def _remembered(what: str, folder: Path, variables: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    if variables:
        return make()
    try:
        home = Path(constants.config.get_config_value("ANSIBLE_HOME")) / "whitecross.pgops"
        entry = home / f"{what}-{_key(folder)}.json"
    except OSError:
        return make()
    with suppress(OSError, ValueError):
        return json.loads(entry.read_text(encoding="utf-8"))
    made = make()
    # A folder that cannot be written costs time, no more.
    with suppress(OSError):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = entry.with_name(f"{entry.name}.{os.getpid()}.partial")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(made, file)
        partial.replace(entry)
        entries = sorted(home.glob(f"{what}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in entries[KEPT:]:
            old.unlink(missing_ok=True)
    return made


def _key(root: Path) -> str:
    """:return: a hash over the files of a folder with their kind, the code and the libraries.

    :raises OSError: something cannot be read."""
    digest = hashlib.sha256(repr([(name, version(name)) for name in _LIBRARIES]).encode())
    code = [path for folder in ("plugin_utils", "module_utils") for path in sorted((_CODE / folder).glob("*.py"))]
    for path in [*code, root, *sorted(root.rglob("*"))]:
        mode = path.lstat().st_mode
        content = path.read_bytes() if stat.S_ISREG(mode) else b""
        name = path.relative_to(root) if path.is_relative_to(root) else path.name
        digest.update(f"\0{name}\0{stat.S_IFMT(mode)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
