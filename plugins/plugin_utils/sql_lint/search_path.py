# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names with a schema, while another schema than public leads search_path: what has none is told as public all the same."""

from __future__ import annotations

import copy
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import DEFAULT_SCHEMA, grammar, walk

# public itself, in that time: a name that no schema can have.
HIDDEN_PUBLIC = "public\0"


def placed(node: Any, leading: str) -> Any:
    """:param leading: the first schema of search_path.
    :return: the statement as it is told then: without that schema where it names it, and with a public that is not the leading one."""
    ast = grammar().ast
    if leading == DEFAULT_SCHEMA or not isinstance(node, ast.Node):
        return node
    told = {leading: None, DEFAULT_SCHEMA: HIDDEN_PUBLIC}
    found = copy.deepcopy(node)
    for item in walk(found):
        if isinstance(item, ast.RangeVar) and item.schemaname in told:
            item.schemaname = told[item.schemaname]
        elif isinstance(item, ast.DropStmt):
            item.objects = tuple(_named(names, told) for names in item.objects)
    return found


def _named(names: Any, told: dict[str, str | None]) -> Any:
    if not isinstance(names, tuple) or len(names) < 2 or getattr(names[0], "sval", None) not in told:
        return names
    schema = told[names[0].sval]
    return names[1:] if schema is None else (grammar().ast.String(schema), *names[1:])
