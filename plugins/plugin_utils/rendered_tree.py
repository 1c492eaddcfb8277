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
import stat
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ansible import constants
from ansible_collections.whitecross.pgops.plugins.module_utils.private_store import PrivateStore
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding

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


def lint_findings(
    directory: Path, variables: Mapping[str, Any], together: Collection[str] = (), small_tables: Collection[str] = ()
) -> list[Finding]:
    """:param together: versions that are applied in one run.
    :param small_tables: tables that are small in every database, each ``schema.name``.
    :return: what lint finds in the whole tree.

    :raises PgopsError: the tree cannot be read."""

    def make() -> list[dict[str, Any]]:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_lint import lint
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import read_tree

        return [finding.as_dict() for finding in lint(read_tree(directory), variables, together, small_tables)]

    asked = repr([sorted(together), sorted(small_tables)]) if together or small_tables else ""
    what = f"lint-{hashlib.sha256(asked.encode()).hexdigest()[:8]}" if asked else "lint"
    return [Finding(**finding) for finding in _remembered(what, directory / "migrations", variables, make)]


def changes(directory: Path, variables: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    """:return: version -> what its statements are, see ``risk_changes``.

    :raises PgopsError: the first fault of the tree, in one sentence."""

    def make() -> list[dict[str, Any]]:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.risk_changes import changes_of

        found = rendered_tree(directory, variables)
        return [{"version": str(item["version"]), "changes": changes_of(item)} for item in found]

    made = _remembered("changes", directory / "migrations", variables, make)
    return {str(item["version"]): list(item["changes"]) for item in made}


def checks(directory: Path) -> list[dict[str, Any]]:
    """:return: the named checks of ``<directory>/checks``.

    :raises PgopsError: the first fault, in one sentence."""

    def make() -> list[dict[str, Any]]:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.named_checks import read_checks

        return read_checks(directory)

    found: list[dict[str, Any]] = _remembered("checks", directory / "checks", {}, make)
    return found


def _remembered(what: str, folder: Path, variables: Mapping[str, Any], make: Callable[[], list[dict[str, Any]]]) -> Any:
    if variables:
        return make()
    try:
        home = Path(constants.config.get_config_value("ANSIBLE_HOME")) / "whitecross.pgops"
        # Trees that a person works on side by side; each is about a megabyte.
        store = PrivateStore(home, what)
        seen = _contents(folder)
    except OSError:
        return make()
    if seen is None:
        return make()
    key = _key(seen)
    known = store.read(key)
    if isinstance(known, list) and all(isinstance(item, dict) for item in known):
        return known
    made = make()
    with suppress(OSError):
        # What was saved while it was read is nobody's entry, also where it was put back meanwhile.
        if _contents(folder) == seen and _is_of(made, seen):
            store.write(key, made)
    return made


def _is_of(made: list[dict[str, Any]], seen: Mapping[str, str]) -> bool:
    """:return: whether what was rendered was read from these very contents."""
    return all(
        seen.get(f"{item['version']}_{item['name']}/{name}") == file["sha256"]
        for item in made
        for name, file in (item.get("files") or {}).items()
    )


def _contents(root: Path) -> dict[str, str] | None:
    """:return: the sha256 of each file of a folder by its path; None with a link in it, which may lead anywhere.

    :raises OSError: something cannot be read."""
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return None
        name = str(path.relative_to(root))
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else str(stat.S_IFMT(mode))
    return found


def _key(seen: Mapping[str, str]) -> str:
    """:return: a hash over the contents of the files, the code and the libraries.

    :raises OSError: something cannot be read."""
    digest = hashlib.sha256(repr([(name, version(name)) for name in _LIBRARIES]).encode())
    for folder in ("plugin_utils", "module_utils"):
        for path in sorted((_CODE / folder).rglob("*")):
            if path.suffix in (".py", ".yml"):
                digest.update(path.read_bytes())
    digest.update(json.dumps(dict(seen)).encode())
    return digest.hexdigest()
