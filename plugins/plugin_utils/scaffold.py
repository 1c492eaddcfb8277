# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The files of a new migration, or of all migrations of a pattern: from ``sql/scaffold``, under the next versions."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import patterns
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration import FOLDER
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import sql_directory

TEMPLATES = sql_directory(None) / "scaffold"


@dataclass(frozen=True)
class NewMigration:
    """A migration that is not written yet: the text of each file by name."""

    version: str
    name: str
    folder: Path
    files: dict[str, str]


def plan(
    directory: Path,
    name: str,
    now: datetime | None = None,
    *,
    pattern: str = "",
    variables: Mapping[str, object] | None = None,
    command: Callable[[str], str] = "ansible-playbook new_migration.yml -e new_migration_name={}".format,
) -> list[NewMigration]:
    """Choose the versions and fill in the files.

    :param directory: the folder that ``pgops_sql`` names.
    :param name: what the migration does, in lower case with underscores.
    :param now: the time that becomes the version, by default the clock's in UTC.
    :param pattern: one of ``sql/scaffold/patterns``; without one the files are empty examples.
    :param variables: what the pattern asks for.
    :param command: what to type for another name.
    :return: one migration, or one for each part of the pattern, in their order.
    :raises PgopsError: if the name is missing, not safe or taken, the folder does not exist, or a variable is missing,
        unknown or not safe.
    """
    if not name:
        raise PgopsError(f"The new migration needs a name that says what it does, type: {command('add_x')}")
    _refuse_unsafe(name, command)
    if not directory.is_dir():
        raise PgopsError(f"There is no folder {directory}; pgops_sql must name the folder that holds 'migrations'")
    parts = patterns.parts(pattern) if pattern else {"": TEMPLATES}
    words = patterns.words(pattern, variables or {})
    migrations = directory / "migrations"
    names = [f"{name}_{part}" if part else name for part in parts]
    for part_name in names:
        _refuse_unsafe(part_name, command)
    first = _next_version(migrations, names, now)
    versions = [f"{first + number:014d}" for number in range(len(names))]
    words |= {f"version_{number}": version for number, version in enumerate(versions, 1)}
    made = []
    for version, part_name, folder in zip(versions, names, parts.values(), strict=True):
        own = {**words, "version": version, "name": part_name, "title": part_name.replace("_", " ").capitalize()}
        files = {path.name: patterns.filled(path, own) for path in sorted(folder.iterdir()) if path.is_file()}
        made.append(NewMigration(version, part_name, migrations / f"{version}_{part_name}", files))
    return made


def _refuse_unsafe(name: str, command: Callable[[str], str]) -> None:
    if not FOLDER.fullmatch(f"{'0' * 14}_{name}"):
        safe = re.sub(r"_+", "_", re.sub(r"[^a-z0-9]+", "_", name.lower())).strip("_0123456789")[:100]
        raise PgopsError(
            f"'{name}' is not a safe name, it starts with a letter and has lower case letters, digits and underscores "
            f"only, type: {command(safe or 'add_x')}"
        )


def _next_version(migrations: Path, names: Iterable[str], now: datetime | None) -> int:
    versions = []
    for entry in sorted(path.name for path in migrations.iterdir()) if migrations.is_dir() else []:
        match = FOLDER.fullmatch(entry)
        if match is None:
            continue
        if match["name"] in names:
            raise PgopsError(f"{migrations / entry} exists already and is not overwritten; choose another name")
        versions.append(int(match["version"]))
    moment = int((now or datetime.now(UTC)).strftime("%Y%m%d%H%M%S"))
    # Later than every version that exists, also when one of them was dated ahead: a new version must come last.
    return max([moment, *(known + 1 for known in versions)])


def write_all(new: Iterable[NewMigration]) -> None:
    """Write all folders or none.

    :raises PgopsError: if one exists by now.
    :raises OSError: if one cannot be written; nothing is left behind.
    """
    written: list[Path] = []
    try:
        for migration in new:
            write(migration)
            written.append(migration.folder)
    except BaseException:
        for folder in written:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def write(new: NewMigration) -> None:
    """Write the folder, whole or not at all.

    :raises PgopsError: if it exists by now.
    :raises OSError: if it cannot be written; nothing is left behind.
    """
    new.folder.parent.mkdir(exist_ok=True)
    if new.folder.exists():
        raise PgopsError(f"{new.folder} exists already and is not overwritten; choose another name")
    # A leading dot: a reader of the tree passes over it while it is made.
    partial = Path(tempfile.mkdtemp(prefix=".new-", dir=new.folder.parent))
    try:
        for name, text in new.files.items():
            (partial / name).write_text(text, encoding="utf-8")
        partial.chmod(0o777 & ~_umask())
        partial.rename(new.folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
