# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The files of a new migration: from ``sql/scaffold``, under the next version."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration import FOLDER
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import sql_directory

TEMPLATES = sql_directory(None) / "scaffold"
COMMAND = "ansible-playbook new_migration.yml -e new_migration_name="


@dataclass(frozen=True)
class NewMigration:
    """A migration that is not written yet: the text of each file by name."""

    version: str
    name: str
    folder: Path
    files: dict[str, str]


def plan(directory: Path, name: str, now: datetime | None = None) -> NewMigration:
    """Choose the version and fill in the files.

    :param directory: the folder that ``pgops_sql`` names.
    :param name: what the migration does, in lower case with underscores.
    :param now: the time that becomes the version, by default the clock's in UTC.
    :raises PgopsError: if the name is missing, not safe or taken, or the folder does not exist.
    """
    if not name:
        raise PgopsError(f"The new migration needs a name that says what it does, type: {COMMAND}add_x")
    if not FOLDER.fullmatch(f"{'0' * 14}_{name}"):
        safe = re.sub(r"_+", "_", re.sub(r"[^a-z0-9]+", "_", name.lower())).strip("_0123456789")[:100]
        raise PgopsError(
            f"'{name}' is not a safe name, it starts with a letter and has lower case letters, digits and underscores "
            f"only, type: {COMMAND}{safe or 'add_x'}"
        )
    if not directory.is_dir():
        raise PgopsError(f"There is no folder {directory}; pgops_sql must name the folder that holds 'migrations'")
    migrations = directory / "migrations"
    entries = sorted(path.name for path in migrations.iterdir()) if migrations.is_dir() else []
    versions = []
    for entry in entries:
        match = FOLDER.fullmatch(entry)
        if match is None:
            continue
        if match["name"] == name:
            raise PgopsError(f"{migrations / entry} exists already and is not overwritten; choose another name")
        versions.append(int(match["version"]))
    moment = int((now or datetime.now(UTC)).strftime("%Y%m%d%H%M%S"))
    # Later than every version that exists, also when one of them was dated ahead: a new version must come last.
    version = f"{max([moment, *(known + 1 for known in versions)]):014d}"
    words = {"@@version@@": version, "@@name@@": name, "@@title@@": name.replace("_", " ").capitalize()}
    files = {path.name: _filled(path.read_text(encoding="utf-8"), words) for path in sorted(TEMPLATES.iterdir())}
    return NewMigration(version, name, migrations / f"{version}_{name}", files)


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


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
