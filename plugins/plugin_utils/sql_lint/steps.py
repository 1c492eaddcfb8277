# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rules for SQL, for the steps of a migration tree: the engine runs them, so what it takes care of is not asked again."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import Statement

from . import reading, rules
from .script import Part, Script, allowance
from .session import Objects
from .tools import SINGLY, Runner

if TYPE_CHECKING:
    from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import RenderedMigration

# What takes data or a name away is a matter of the declared risk, which the gate and the plan read.
DECLARED = frozenset({"R33", "R34", "R35", "R37", "R58"})
HIGH = ("high", "critical")
_ENGINE = Runner("the engine", "step", begins=True)
# Several tables in one transaction, which a step may declare.
TOGETHER = "R44"
_ALLOW = re.compile(r"(?:--|/\*|\{#)[^\n]*pgops:\s*allow[^\n]*", re.IGNORECASE)


def lint_steps(
    rendered: Iterable[RenderedMigration], together: Collection[str] = (), small_tables: Collection[str] = ()
) -> Iterator[Finding]:
    """:param together: versions that run in one run: what an earlier one makes is new for the later.
    :param small_tables: tables that are small in every database that they are for, each ``schema.name``.
    :return: what the ups of sql steps would do to tables that are in use."""
    levels = rules.levels_of(None)
    carried, proved = Objects(), Objects()
    for item in rendered:
        joined = item.migration.version in together
        objects = (carried if joined else Objects()).copy()
        # A constraint of an earlier version is known, and a 'validate' step proves it.
        objects.constraints = {**proved.constraints, **objects.constraints}
        objects.not_null |= proved.not_null
        objects.set_not_null |= proved.set_not_null
        # The table of an index, which is locked when the index goes.
        objects.index_tables = {**proved.index_tables, **objects.index_tables}
        for source, step in zip(item.migration.steps, item.steps, strict=True):
            if step["kind"] == "validate":
                _validate(step, objects)
            for index in step.get("indexes", []):
                objects.index_tables[index["schema"], index["name"]] = (index["schema"], index["table"])
            if step["kind"] != "sql":
                continue
            script = _script(item, source, step["up"])
            problems, objects = reading.lint_script(
                script, levels, objects=objects, engine=True, small_tables=small_tables
            )
            yield from (_finding(problem) for problem in _once(problems) if _matters(problem, item))
        proved.constraints, proved.not_null = objects.constraints, objects.not_null
        proved.set_not_null, proved.index_tables = objects.set_not_null, objects.index_tables
        if joined:
            carried = objects


def _validate(step: Any, objects: Objects) -> None:
    for named in step.get("constraints", []):
        table = (named["schema"], named["table"])
        known = objects.constraints.get((table, named["constraint"]))
        if known is not None:
            objects.constraints[table, named["constraint"]] = replace(known, valid=True)
            objects.not_null |= {(table, column) for column in known.not_null}


def lint_statement(statement: Statement) -> list[Finding]:
    """:return: the errors of one statement on tables that are in use."""
    script = Script(statement.file, [_part(statement)])
    problems, _ = reading.lint_script(script, rules.levels_of(None), engine=True)
    return [_finding(p) for p in problems if p.level == rules.ERROR and p.rule not in DECLARED]


def _once(problems: Iterable[reading.Problem]) -> Iterator[reading.Problem]:
    """One step is split once, however many tables it locks."""
    told = False
    for problem in problems:
        if problem.rule != TOGETHER or not told:
            yield problem
        told = told or problem.rule == TOGETHER


def _matters(problem: reading.Problem, item: RenderedMigration) -> bool:
    if problem.level == rules.NOTE or problem.rule in DECLARED - {"R37"}:
        # The tree has older rules for what goes: 'destructive', 'cascade' and 'one-drop'.
        return False
    return problem.rule != "R37" or item.migration.risk not in HIGH


def _finding(problem: reading.Problem) -> Finding:
    name = rules.table()[problem.rule].tree or problem.rule
    return Finding(problem.file, problem.line, name, problem.message, problem.level)


def _script(item: RenderedMigration, source: Any, statements: list[Statement]) -> Script:
    file = item.migration.location(source["up"])
    script = Script(file, runner=_ENGINE if item.migration.transaction else SINGLY)
    if source.get("together"):
        script.allowed |= {TOGETHER}
    script.parts = [_part(statement) for statement in statements]
    # From the template: Jinja's own comments are gone from what is rendered.
    text = str(item.migration.files.get(source["up"], {}).get("text", ""))
    for match in _ALLOW.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        names, whole_file, fault = allowance(match.group(0))
        if fault:
            script.faults.append((line, "allow", fault))
        if whole_file:
            script.allowed |= names
            continue
        meant = next((number for number, part in enumerate(script.parts) if part.end_line >= line), None)
        if meant is not None:
            script.parts[meant] = replace(script.parts[meant], allowed=script.parts[meant].allowed | names)
    return script


def _part(statement: Statement) -> Part:
    return Part(statement.node, statement.sql, statement.line, statement.line + statement.sql.count("\n"), 0)
