# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a migration is before it is rendered, and the names that its folder and files may have."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.strict_yaml import Document

FOLDER = re.compile(r"(?P<version>[0-9]{14})_(?P<name>[a-z][a-z0-9_]{0,99})")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
METADATA = "migration.yml"


@dataclass
class Migration:
    """One folder of the tree, read and checked, not rendered yet."""

    version: str
    name: str
    path: Path
    document: Document
    title: str = ""
    why: str = ""
    risk: str = ""
    phi: bool = False
    phase: str = "enhancement"
    rollback: dict[str, str] = field(default_factory=dict)
    depends_on: list[str] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)
    contract: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    budgets: dict[str, int] = field(default_factory=dict)
    expected_seconds: int | None = None
    expected_by_rows: dict[str, int] = field(default_factory=dict)
    transaction: bool = True
    strategy: str = "online"
    steps: list[dict[str, Any]] = field(default_factory=list)
    verify: str | None = None
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    checksum: str = ""

    @property
    def folder(self) -> str:
        """:return: the name of the folder."""
        return f"{self.version}_{self.name}"

    def location(self, file: str) -> str:
        """:return: a file of the folder as messages name it."""
        return f"{self.folder}/{file}"


def files_checksum(files: Mapping[str, Mapping[str, str]]) -> str:
    """:return: sha256 over the sorted names and sha256 of a migration's files; says whether one was edited."""
    text = "".join(f"{name}\0{files[name]['sha256']}\n" for name in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()
