# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Render ``.sql.j2`` templates, deterministic and with the way back from a rendered line to the template's line."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2
import jinja2.meta
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding, nearest
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import quote
from jinja2 import StrictUndefined, nodes
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.sandbox import ImmutableSandboxedEnvironment

# A NUL can stand neither in a template nor in a variable (both refuse it), so a mark is never mistaken for text.
_MARK = re.compile("\0([0-9]+)\0")


@dataclass(frozen=True)
class Rendered:
    """Rendered text and the map from it to the template."""

    text: str
    line_at: Callable[[int], int]


class _LineMarks(Extension):
    """Put the template's line number before each line of literal text."""

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        for token in stream:
            if token.type == "data":
                lines = token.value.split("\n")
                marked = "\n".join(f"\0{token.lineno + i}\0{line}" for i, line in enumerate(lines))
                yield Token(token.lineno, "data", marked)
            else:
                yield token


def _identifier(name: object) -> str:
    """Filter ``identifier``: a name as an SQL identifier."""
    return quote(str(name))


def _literal(value: object) -> str:
    """Filter ``literal``: a value as an SQL literal, a list or mapping as JSON."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (dict, list)):
        value = json.dumps(value, sort_keys=True, ensure_ascii=False)
    # standard_conforming_strings has been on by default since 9.1 and the connection does not change it.
    return "'" + str(value).replace("'", "''") + "'"


@cache
def _environment(*extensions: type[Extension]) -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        extensions=extensions,
    )
    environment.filters["identifier"] = _identifier
    environment.filters["literal"] = _literal
    # Rendering the same files twice must give the same SQL: an approval is bound to its checksum.
    del environment.filters["random"]
    del environment.globals["lipsum"]
    return environment


def render(source: str, file: str, variables: Mapping[str, Any]) -> tuple[Rendered | None, list[Finding]]:
    """Render one template.

    :param source: the template.
    :param file: its name for messages, relative to the tree.
    :param variables: the declared variables, the only names that the template may use.
    :return: the rendered text with its line map, or None; and the faults found.
    """
    if not any(mark in source for mark in ("{{", "{%", "{#")):
        # Most files are plain SQL: nothing to render, and each line is its own.
        text = source.replace("\r\n", "\n").replace("\r", "\n")
        return Rendered(text, lambda offset: text.count("\n", 0, offset) + 1), []
    environment = _environment()
    try:
        tree = environment.parse(source, name=file, filename=file)
        # It also finds filters and tests that do not exist.
        missing = jinja2.meta.find_undeclared_variables(tree) - set(variables) - set(environment.globals)
    except jinja2.TemplateSyntaxError as exc:
        return None, [Finding(file, exc.lineno, "template", f"template error: {exc.message or exc}")]
    findings = _undeclared(tree, file, missing, variables)
    findings += [
        Finding(file, node.lineno, "template", "a migration includes no other file: it must be readable on its own")
        for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends))
    ]
    if findings:
        return None, findings
    try:
        text = _run(environment, source, file, variables)
        marked = _run(_environment(_LineMarks), source, file, variables)
    except jinja2.TemplateError as exc:
        return None, [Finding(file, _line_of(exc, file), "template", f"template error: {exc.message or exc}")]
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as exc:
        return None, [Finding(file, _line_of(exc, file), "template", f"template error: {exc}")]
    return Rendered(text, _line_map(text, marked)), []


def _run(environment: jinja2.Environment, source: str, file: str, variables: Mapping[str, Any]) -> str:
    code = environment.compile(source, name=file, filename=file)
    template = jinja2.Template.from_code(environment, code, environment.make_globals(None))
    return template.render(dict(variables))


def _undeclared(tree: nodes.Template, file: str, missing: set[str], variables: Mapping[str, Any]) -> list[Finding]:
    """Find names that no variable declares, in branches that are not taken too."""
    found: dict[str, int] = {}
    for node in tree.find_all(nodes.Name):
        if node.name in missing and node.ctx == "load":
            found.setdefault(node.name, node.lineno)
    return [
        Finding(
            file,
            line,
            "undefined-variable",
            f"the variable '{name}' is not declared under 'variables' in migration.yml{nearest(name, variables)}",
        )
        for name, line in sorted(found.items(), key=lambda item: item[1])
    ]


def _line_of(exc: BaseException, file: str) -> int:
    """:return: the template's line in which an error was raised (Jinja writes it into the traceback), or 0."""
    line = 0
    trace = exc.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _line_map(text: str, marked: str) -> Callable[[int], int]:
    """Build the map from a character offset of ``text`` to a line of the template.

    Marks change what a block that is measured or cut renders to (``{% filter trim %}``, ``{{ caller() | length }}``).
    Then the map would lie, and the line of the rendered text is told instead.
    """
    offsets: list[int] = []
    lines: list[int] = []
    plain: list[str] = []
    length = position = 0
    for mark in _MARK.finditer(marked):
        piece = marked[position : mark.start()]
        plain.append(piece)
        length += len(piece)
        offsets.append(length)
        lines.append(int(mark.group(1)))
        position = mark.end()
    plain.append(marked[position:])
    if "".join(plain) != text or not offsets:
        return lambda offset: text.count("\n", 0, offset) + 1

    def line_at(offset: int) -> int:
        return lines[max(bisect.bisect_right(offsets, offset) - 1, 0)]

    return line_at
