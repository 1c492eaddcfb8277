# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The named queries of sql/inspect: what each tells and which parameters it takes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

FOLDER = Path(__file__).parents[2] / "sql" / "inspect"
# What answers in any database, without a parameter; where none was named, and where a query needs the name of a table or an enum.
FIRST = "tables"
_NAMED_BY = {"table": FIRST, "enum": "enums"}
_PARAMETER = re.compile(r"%\((\w+)\)s")
_READS_ROWS = re.compile(r"^-- Reads rows$", re.MULTILINE)
_NEEDS = re.compile(r"^-- Needs: (\w+)$", re.MULTILINE)


@dataclass(frozen=True)
class Query:
    """One file: its name, its SQL, the parameters that it takes and those that it cannot do without.

    ``reads_rows`` says that it counts rows of tables, where a policy would hide some from the migrator.
    """

    name: str
    text: str
    parameters: frozenset[str]
    needs: frozenset[str]
    reads_rows: bool = False


def choose(name: str | None, given: Mapping[str, Any], folder: Path = FOLDER) -> Query:
    """The query of that name, with the parameters that it wants.

    :param name: the name of a file in ``folder``, without its ending
    :param given: the parameters that have a value
    :raises PgopsError: no such query (with the list of them), a parameter that is missing or that it does not take;
        ``extra["instead"]`` has the query that can be asked, None where none tells the parameter's values, ``extra["without"]`` the variables that it leaves out
    """
    files = {file.stem: file for file in sorted(folder.glob("*.sql"))}
    if name not in files:
        near = difflib.get_close_matches(name or "", files, n=1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        asked = f"inspect_query={name} is no query{guess}" if name else "No query is named"
        raise PgopsError(
            f"{asked}; choose with -e inspect_query=NAME from {', '.join(files)}.",
            extra={"instead": near[0] if near else FIRST, "without": [] if near else sorted(given)},
        )
    text = files[name].read_text(encoding="utf-8")
    parameters, needs = frozenset(_PARAMETER.findall(text)), frozenset(_NEEDS.findall(text))
    query = Query(name, text, parameters, needs, bool(_READS_ROWS.search(text)))
    lacking = sorted(query.needs - given.keys())
    if lacking:
        names = _NAMED_BY.get(lacking[0])
        raise PgopsError(
            f"The query {name} needs -e inspect_{lacking[0]}={lacking[0].upper()}{f'; {names} has their names' if names else ''}.",
            extra={"instead": names, "without": sorted(given)},
        )
    surplus = sorted(given.keys() - query.parameters)
    if surplus:
        raise PgopsError(
            f"The query {name} takes no inspect_{surplus[0]}; leave it out.",
            extra={"instead": name, "without": surplus},
        )
    return query
