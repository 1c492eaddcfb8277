# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What ``retention.yml`` of a tree declares: for how many years the rows of a table are kept, by which column, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils.strict_yaml import YamlFault, load

FILE = "retention.yml"
_REQUIRED = {"table": str, "column": str, "years": int, "why": str}
_OPTIONAL = {"schema": str}


def read(path: Path) -> list[dict[str, Any]]:
    """:param path: of the policy.
    :return: its rules, in the order in which they are kept: what points at another table's rows before that table.
    :raises PgopsError: there is no such file, it declares nothing, or something that cannot be meant."""
    try:
        data = load(path.read_text(encoding="utf-8")).data
    except (OSError, UnicodeDecodeError) as fault:
        raise PgopsError(
            f"For how long rows are kept is declared in {path}, which cannot be read: {fault}; nothing was deleted."
        ) from None
    except YamlFault as fault:
        raise PgopsError(f"{path.name}:{fault.line}: {fault.message}.") from None
    if not isinstance(data, list) or not data:
        raise PgopsError(f"{path} is no list of tables; nothing was deleted.")
    seen: set[tuple[str, str]] = set()
    for number, rule in enumerate(data, 1):
        _refuse(path, number, rule)
        name = (str(rule.get("schema") or "public"), str(rule["table"]))
        if name in seen:
            raise PgopsError(f"{path}: {'.'.join(name)} is declared twice.")
        seen.add(name)
    return [dict(rule) for rule in data]


def _refuse(path: Path, number: int, rule: Any) -> None:
    if not isinstance(rule, dict):
        raise PgopsError(f"{path}: entry {number} is no mapping of {', '.join(_REQUIRED)}.")
    for key, value in rule.items():
        wanted = {**_REQUIRED, **_OPTIONAL}.get(key)
        if wanted is None:
            raise PgopsError(f"{path}: entry {number} has '{key}'; there are {', '.join([*_REQUIRED, *_OPTIONAL])}.")
        if not isinstance(value, wanted) or isinstance(value, bool) or value == "":
            raise PgopsError(f"{path}: {key} of entry {number} is {value!r}.")
    missing = [key for key in _REQUIRED if key not in rule]
    if missing:
        raise PgopsError(f"{path}: entry {number} lacks {', '.join(missing)}.")
