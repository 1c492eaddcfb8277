# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which files are read, and in what order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import reading, rules, tools
from .reading import Problem
from .script import Script, read
from .session import Objects


@dataclass(frozen=True)
class Chosen:
    """Which of the files that somebody names are read."""

    files: list[Path]
    # The ways down among them, which are not.
    left_out: list[Path]

    @property
    def told(self) -> str:
        """:return: what is left out, for people; nothing where nothing is."""
        number = len(self.left_out)
        return f"{number} {'way' if number == 1 else 'ways'} down left out" if number else ""


def files_of(paths: Iterable[str | Path], *, ways_down: bool = False) -> Chosen:
    """:param paths: files, and folders that hold ``*.sql`` at any depth, in capitals too.
    :param ways_down: read them too, which are files of their own in some tools.
    :return: the files, those of a folder by their names.
    :raises FileNotFoundError: there is no such path.
    :raises ValueError: a folder has nothing to read."""
    named: list[Path] = []
    for given in paths:
        path = Path(given).expanduser()
        if path.is_dir():
            inside = _inside(path)
            if not inside:
                raise ValueError(f"{path} holds no file that ends with .sql")
            if not ways_down and all(tools.is_way_down(p) for p in inside):
                raise ValueError(f"{path} holds ways down only, {len(inside)} of them")
            named += inside
        elif path.is_file():
            named.append(path)
        else:
            raise FileNotFoundError(str(given))
    down = {path: not ways_down and tools.is_way_down(path) for path in named}
    return Chosen([path for path in down if not down[path]], [path for path in down if down[path]])


def _inside(folder: Path) -> list[Path]:
    """:return: the SQL files of a folder that are not hidden, in the order in which a tool runs them."""
    found = {p: p.relative_to(folder).parts for p in folder.rglob("*") if p.suffix.lower() == ".sql" and p.is_file()}
    seen = [p for p, parts in found.items() if not any(part.startswith(".") for part in parts)]
    return sorted(seen, key=lambda p: [_natural(part) for part in found[p]])


def _natural(name: str) -> list[tuple[int, int, str]]:
    """V2 runs before V10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", name)]


def scripts_of(files: Iterable[Path], transaction: str = tools.AUTO) -> list[Script]:
    """:param transaction: how a file is run where its own marks do not tell, one of ``tools.CHOICES``.
    :return: each file as statements."""
    found = []
    for path in files:
        try:
            found.append(read(path.read_text(encoding="utf-8-sig"), str(path), transaction))
        except UnicodeDecodeError:
            found.append(Script(str(path), faults=[(1, "syntax", "the file is not UTF-8")]))
    return found


def lint_scripts(
    scripts: Iterable[Script],
    levels: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
    *,
    together: bool = False,
) -> list[Problem]:
    """:param together: the files run one after the other on one database: what one makes is new for the next.
    :return: what is wrong in all of them."""
    known = levels if levels is not None else rules.levels_of(None)
    found: list[Problem] = []
    objects: Objects | None = None
    for script in scripts:
        problems, made = reading.lint_script(script, known, facts, objects=objects)
        found += problems
        if together:
            objects = made
            # A setting ends with the session of its file.
            objects.settings.clear()
    return found


def names_in(scripts: Iterable[Script]) -> tuple[list[str], list[str]]:
    """:return: the relations, types of columns with them, and the functions that files name, for a question to the catalog."""
    from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, relation_name, walk

    from .effects import do_block
    from .locks import qualified, strong_locks
    from .procedural import steps_of

    ast, parser = grammar().ast, grammar().parser
    relations: set[str] = set()
    functions: set[str] = set()

    def look(node: Any, depth: int) -> None:
        relations.update(".".join(table) for table, _ in strong_locks(node))
        for item in walk(node):
            if isinstance(item, ast.RangeVar):
                relations.add(".".join(relation_name(item)))
            elif isinstance(item, ast.ColumnDef) and item.typeName is not None:
                # A domain, perhaps.
                relations.add(".".join(qualified(item.typeName.names)))
            elif isinstance(item, ast.FuncCall):
                functions.add(item.funcname[-1].sval)

    for script in scripts:
        for part in script.parts:
            try:
                look(part.node, 0)
            except RecursionError:
                # The rules say so of it.
                continue
            if isinstance(part.node, ast.DoStmt) and (body := do_block(part.node, part)) is not None:
                try:
                    for step in steps_of(body.text):
                        for raw in parser.parse_sql(step.text):
                            look(raw.stmt, 1)
                except (ValueError, RecursionError, parser.ParseError):
                    continue
    return sorted(relations), sorted(functions)
