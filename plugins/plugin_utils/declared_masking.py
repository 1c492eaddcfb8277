# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What ``masking.yml`` of a tree declares of a copy on a less trusted server: table -> column -> what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.masking import EMPTY_TABLE, KINDS
from ansible_collections.whitecross.pgops.plugins.plugin_utils.strict_yaml import YamlFault, load

FILE = "masking.yml"


def read_masking(directory: str | Path) -> dict[str, Any]:
    """:param directory: the folder that ``pgops_sql`` names.
    :return: table -> column -> kind, or table -> ``empty``.
    :raises PgopsError: there is no such file, it declares nothing, or a kind that there is not."""
    path = Path(directory) / FILE
    try:
        data = load(path.read_text(encoding="utf-8")).data
    except (OSError, UnicodeDecodeError) as fault:
        raise PgopsError(f"What is to be masked is declared in {path}, which cannot be read: {fault}.") from None
    except YamlFault as fault:
        raise PgopsError(f"{FILE}:{fault.line}: {fault.message}.") from None
    if not isinstance(data, dict) or not data:
        raise PgopsError(f"{path} declares nothing to mask.")
    for table, columns in data.items():
        if columns == EMPTY_TABLE:
            continue
        if not isinstance(columns, dict) or not columns:
            raise PgopsError(f"{FILE}: {table} has neither columns nor the word {EMPTY_TABLE}.")
        for column, kind in columns.items():
            if kind not in KINDS:
                raise PgopsError(f"{FILE}: {table}.{column} is {kind}; there is {', '.join(KINDS)}.")
    return {str(table): columns for table, columns in data.items()}
