# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the tools before this one called the versions of a tree: ``legacy_names.yml`` beside its ``migrations``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.legacy_ledger import TABLES

FILE = "legacy_names.yml"


def read_names(directory: Path) -> dict[str, dict[str, Any]]:
    """:param directory: the folder that ``pgops_sql`` names.
    :return: tool -> version -> name or names; nothing where the tree has no such file.
    :raises PgopsError: it is not what it should be."""
    path = directory / FILE
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PgopsError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(names, dict) for names in found.values()):
        raise PgopsError(f"{path} is not 'tool: {{version: name}}'")
    for tool in found:
        if tool not in TABLES:
            raise PgopsError(f"{path} names the tool {tool}; known are {', '.join(TABLES)}")
    return {str(tool): {str(version): name for version, name in names.items()} for tool, names in found.items()}
