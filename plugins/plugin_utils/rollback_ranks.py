# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How safely each version is taken back: ``rollback_rank.yml`` beside the ``migrations`` of a tree."""

from __future__ import annotations

from pathlib import Path

import yaml
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

FILE = "rollback_rank.yml"


def read_ranks(directory: Path) -> dict[str, str]:
    """:param directory: the folder that ``pgops_sql`` names.
    :return: version -> its rank in a few words; nothing where the tree has no such file.
    :raises PgopsError: it is not what it should be."""
    path = directory / FILE
    if not path.is_file():
        return {}
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
        return {str(version): f"{entry['rank']}, {entry['told']}" for entry in entries for version in entry["versions"]}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PgopsError(f"{path} cannot be read: {error}") from None
    except (TypeError, KeyError):
        raise PgopsError(f"{path} is no list of rank, told and versions") from None
