# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Goes through a file as a session would: asks the rules about each statement, then remembers what the statement has done."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, walk

from . import (  # noqa: F401 -- each registers its functions
    definitions,
    effects,
    procedural,
    rules,
    rules_columns,
    rules_constraints,
    rules_drops,
    rules_indexes,
    rules_locks,
    rules_rows,
    rules_server,
    rules_types,
    search_path,
)
from .locks import Relation
from .plpgsql_variables import Definition, variables_of
from .script import Part, Script
from .session import Function, Objects, Seen, Session, Transaction

_DEEPEST = 4
# What takes rows or names away, or writes a table anew: an error also where nobody knows whether the table was there.
_WORST = frozenset({"R13", "R24", "R27", "R29", "R30", "R33", "R34", "R35", "R37", "R41", "R51", "R58"})

# What is wrong because the transaction goes on.
_LASTING = frozenset({"R15", "R19", "R42", "R43", "R44"})


@dataclass(frozen=True)
class Problem:
    """What a rule found, where, and how much it matters there."""

    file: str
    line: int
    rule: str
    level: str
    message: str
    # The table that it is about, for whoever knows more of it.
    table: Relation | None = None

    def as_dict(self) -> dict[str, Any]:
        """:return: the problem as plain data."""
        return {"file": self.file, "line": self.line, "rule": self.rule, "level": self.level, "message": self.message}


def lint_script(
    script: Script,
    levels: Mapping[str, str],
    facts: Mapping[str, Any] | None = None,
    *,
    objects: Objects | None = None,
    engine: bool = False,
    small_tables: Collection[str] = (),
) -> tuple[list[Problem], Objects]:
    """:param levels: the level of each rule, as ``rules.levels_of`` gives them.
    :param facts: what the module ``lint_facts`` found of the tables in a database.
    :param objects: what files before this one have made in the same run.
    :param engine: the engine of this collection runs it, which looks after timeouts and retries.
    :param small_tables: tables that are small in every database that it is for, each ``schema.name``.
    :return: what is wrong, by line, and the objects with those of this file."""
    session = Session(
        objects=objects.copy() if objects else Objects(),
        engine=engine,
        facts=facts,
        small_tables=small_tables,
        parts=script.parts,
        runner=script.runner,
    )
    reader = _Reader(script, session, levels)
    for line, rule_id, message in script.faults:
        reader.add(rule_id, line, rules.Found(message), frozenset())
    for line, rule_id, message in script.notes:
        reader.add(rule_id, line, rules.Found(message, rules.NOTE), frozenset())
    reader.begin()
    arms = _Arms(session)
    last_timeout = max((number for number, part in enumerate(script.parts) if _sets_timeout(part.node)), default=-1)
    for number, part in enumerate(script.parts):
        session.parts = script.parts[number + 1 :]
        session.sets_timeout_later = number < last_timeout
        arms.enter(part.arms)
        if part.connect:
            session.reconnect(part.connect)
        if part.opens is not None:
            session.runner = replace(session.runner, begins=part.opens)
            session.open(part.line)
        reader.part(part)
    arms.enter(())
    reader.end()
    found = sorted(set(reader.problems), key=lambda p: (p.line, p.rule, p.message))
    # One SET at the beginning mends them all.
    asked = [p for p in found if p.rule == "R01"]
    first = next((p for p in asked if p.level == rules.ERROR), asked[0] if asked else None)
    return [p for p in found if p.rule != "R01" or p is first], session.objects


class _Arms:
    """Of psql's \\if one arm is run: each begins where the first began."""

    def __init__(self, session: Session) -> None:
        self.session = session
        # By the place of the \\if: the arm that is read, the state before, and the transactions that the arms left.
        self.open: dict[int, tuple[int, Objects, Transaction | None, str]] = {}

    def enter(self, arms: tuple[tuple[int, int], ...]) -> None:
        """The next statement stands in these arms."""
        now = dict(arms)
        for place in [place for place in self.open if place not in now]:
            arm, _, transaction, _ = self.open.pop(place)
            if arm == 0 and transaction is not None and self.session.transaction is None:
                # Without an \\else it goes on where the arm is not run.
                self.session.transaction = transaction
        for place, arm in arms:
            if place not in self.open:
                lost = self.session.lost_timeout
                self.open[place] = (arm, self.session.objects.copy(), self._copied(), lost)
            elif self.open[place][0] != arm:
                _, objects, transaction, lost = self.open[place]
                self.open[place] = (arm, objects.copy(), transaction, lost)
                self.session.objects, self.session.lost_timeout = objects, lost
                self.session.transaction = transaction.copy() if transaction is not None else None

    def _copied(self) -> Transaction | None:
        return self.session.transaction.copy() if self.session.transaction is not None else None


class _Reader:
    def __init__(self, script: Script, session: Session, levels: Mapping[str, str]) -> None:
        self.script, self.session, self.levels = script, session, levels
        self.problems: list[Problem] = []

    def add(self, rule_id: str, line: int, found: rules.Found, allowed: Iterable[str]) -> None:
        """Take what a rule found, unless a comment allows it or it does not matter here."""
        entry = rules.table()[rule_id]
        if rule_id in allowed or rule_id in self.script.allowed or (self.session.engine and not entry.engine):
            return
        level = found.level if found.level and self.levels[rule_id] == entry.level else self.levels[rule_id]
        if entry.large and level == rules.ERROR and found.table is not None and self.session.small(found.table):
            level = rules.WARNING
        if level != rules.OFF:
            instead = (entry.step if self.session.engine else self._apart(entry)) or entry.instead
            text = f"{found.message}; instead: {instead}"
            self.problems.append(Problem(self.script.file, line, rule_id, level, text, found.table))

    def _apart(self, entry: rules.Rule) -> str | None:
        """:return: what to do instead where the transaction is that of the tool: the file has none to end."""
        transaction = self.session.transaction
        if entry.file is None or transaction is None or transaction.runner is None:
            return None
        return entry.file.replace("file", transaction.runner.around)

    def begin(self) -> None:
        """The tool opens what it opens around the file, now that its statements are known."""
        parts, runner = self.script.parts, self.session.runner
        alone = [(part, word) for part in parts if (word := rules_indexes.concurrent_word(part.node)) in runner.without]
        if alone:
            self.session.runner = replace(runner, begins=False)
        if 0 < len(alone) < len(parts):
            part, word = alone[0]
            message = f"{runner.tool} refuses a file in which {word} stands beside what can run in a transaction, SET too, unless 'mixed' is on"
            self.add("R06", part.line, rules.Found(message), part.allowed)
        if runner.whole and not runner.begins and len(parts) == 1:
            # A single statement is what it is by itself.
            self.session.runner = replace(runner, whole=False)
        self.session.open(1)

    def part(self, part: Part) -> None:
        """Read one statement of the file, unless its own depth is more than Python's."""
        before = self.session.transaction
        try:
            self.statement(part.node, part.line, part)
        except RecursionError:
            self.session.doubt, self.session.transaction = False, before
            self.add("syntax", part.line, rules.Found("it is nested too deep to be read"), part.allowed)

    def statement(self, node: Any, line: int, part: Part, depth: int = 0, **how: bool) -> None:
        """Ask the rules about one statement, look into what it runs, remember what it did."""
        ast = grammar().ast
        node = search_path.placed(node, self.session.objects.schema)
        if isinstance(node, ast.ExplainStmt):
            if any(option.defname == "analyze" for option in node.options or ()):
                self.statement(node.query, line, part, depth, **how)
            return
        if isinstance(node, ast.PrepareStmt):
            self.statement(node.query, line, part, depth, **how)
            return
        seen = Seen(node, line, self.session, part, **how)
        for rule_id, check in rules.checks_of(type(node).__name__):
            for found in self._asked(rule_id, check, seen):
                self.add(rule_id, line, found if self.session.engine else _placed(rule_id, found, seen), part.allowed)
        if depth < _DEEPEST:
            self._inside(node, line, part, depth, how)
        effects.apply(seen)

    def _asked(self, rule_id: str, check: rules.Check, seen: Seen) -> list[rules.Found]:
        """:return: what a rule finds; what holds only where a table was there before this file says so, and is a warning unless rows go."""
        certain = list(check(seen))
        if not self.session.objects.perhaps:
            return certain
        self.session.doubt = True
        possible = list(check(seen))
        self.session.doubt = False
        return [found if found in certain else _in_doubt(rule_id, found) for found in possible]

    def _inside(self, node: Any, line: int, part: Part, depth: int, how: Mapping[str, bool]) -> None:
        ast = grammar().ast
        if isinstance(node, ast.DoStmt):
            function = effects.do_block(node, part)
            if function is not None:
                self._body(function, line, part, depth, how, inside=False)
        elif part.run_result and isinstance(node, ast.SelectStmt) and depth == 0:
            for target in node.targetList or ():
                text = procedural.value_of(target.val, {})
                self._text(text, line, part, depth, dict(how) | {"dynamic": True, "loop": True})
        for name in _called(node):
            known = self.session.objects.functions.get(name)
            if known is None:
                known = _from_catalog(self.session.facts, name)
            if known is not None:
                self._body(known, line, part, depth, how, inside=True)

    def _body(
        self, function: Function, line: int, part: Part, depth: int, how: Mapping[str, bool], *, inside: bool
    ) -> None:
        """What a block or function runs; ``inside``: it is called, so that its own lines are elsewhere."""
        session = self.session
        own = session.transaction is None
        if own:
            session.transaction = Transaction(line, session.objects.copy(), implicit=True)
        first = None if inside else line + part.text.count("\n", 0, max(0, function.offset))
        around, session.variables = session.variables, _variables(function)
        before = _hold(session, function.settings)
        if function.language == "sql":
            self._text(function.text, line, part, depth, {**how, "procedural": True}, first=first)
        else:
            try:
                steps = procedural.steps_of(function.text)
            except ValueError as exc:
                self.add("syntax", line, rules.Found(f"in the body: {exc}"), part.allowed)
                steps = []
            branched: dict[Relation, tuple[int, ...]] = {}
            for step in steps:
                self._leave(branched, step.branches)
                known = set(session.objects.relations)
                place = line if first is None else first + step.line - 1
                turns = {"loop": step.loop and not step.commits, "few_turns": step.few_turns}
                state = {**how, "procedural": True, "handler": step.handler, **turns}
                if step.kind == "commit":
                    if not own:
                        message = "COMMIT in a block that runs inside a transaction is refused (2D000)"
                        self.add("R55", place, rules.Found(message), part.allowed)
                    session.transaction = Transaction(place, session.objects.copy(), implicit=True)
                elif step.kind == "sql":
                    self._text(step.text, place, part, depth, state)
                elif step.kind == "dynamic":
                    self._text(step.text, place, part, depth, {**state, "dynamic": True})
                if step.branches:
                    branched |= dict.fromkeys(set(session.objects.relations) - known, step.branches)
            self._leave(branched, ())
        session.variables = around
        _restore(session, before)
        if own:
            session.transaction = None

    def _leave(self, branched: dict[Relation, tuple[int, ...]], now: tuple[int, ...]) -> None:
        """Behind its branch nobody knows whether a table was made, or was there."""
        objects = self.session.objects
        for table, branches in list(branched.items()):
            if now[: len(branches)] != branches:
                del branched[table]
                unsure = self.session.facts is None or self.session.table_facts(table) is not None
                if unsure and table in objects.relations and table not in objects.dropped:
                    objects.perhaps.add(table)

    def _text(
        self, text: str, line: int, part: Part, depth: int, how: Mapping[str, bool], first: int | None = None
    ) -> None:
        raws = _parsed(text)
        if raws is None or (procedural.UNKNOWN in text and text.strip() == procedural.UNKNOWN):
            if how.get("dynamic"):
                self.add("R53", line, rules.Found("EXECUTE runs what is put together only then"), part.allowed)
            return
        for raw in raws:
            place = line
            if first is not None:
                begin = raw.stmt_location or 0
                lead = text[begin:]
                place = first + text.count("\n", 0, begin + len(lead) - len(lead.lstrip()))
            self.statement(raw.stmt, place, part, depth + 1, **how)

    def end(self) -> None:
        """The session ends."""
        open_now = self.session.transaction
        if open_now is not None and not open_now.implicit and not self.session.engine:
            message = f"the transaction of line {open_now.line} has no COMMIT: all of it is rolled back, without a word"
            self.add("R55", open_now.line, rules.Found(message), ())
        self._unindexed_keys()

    def _unindexed_keys(self) -> None:
        """R16, which only the end of the file can tell: a new column has no index that the file does not make."""
        objects = self.session.objects
        for (table, columns), line in objects.foreign_keys.items():
            led = any(
                on == table and set(keys[: len(columns)]) == set(columns) for on, keys in objects.indexes.values()
            )
            if not led:
                message = f"no index of {table[1]} leads with {', '.join(columns)}"
                self.add("R16", line, rules.Found(message), ())


def _hold(session: Session, settings: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The settings of a function's header hold while it runs. :return: what they were."""
    before = {name: session.setting(name) for name, _ in settings}
    for name, value in settings:
        effects.set_setting(session, name, value, True)
    return before


def _restore(session: Session, before: Mapping[str, Any]) -> None:
    if session.transaction is not None:
        for name, value in before.items():
            session.transaction.local[name] = value


def _variables(function: Function) -> Mapping[str, Definition | None] | None:
    """:return: the names that are variables in a body; None where nobody knows."""
    if function.language != "sql":
        return variables_of(function.text)
    if function.node is None:
        return None
    return {parameter.name: None for parameter in function.node.parameters or () if parameter.name}


def _sets_timeout(node: Any) -> bool:
    return isinstance(node, grammar().ast.VariableSetStmt) and node.name == "lock_timeout" and bool(node.args)


def _placed(rule_id: str, found: rules.Found, seen: Seen) -> rules.Found:
    """:return: what a rule finds; what lasts as long as a transaction says so of one that nobody has written into the file."""
    transaction = seen.transaction
    if rule_id not in _LASTING or transaction is None or transaction.runner is None:
        return found
    return found._replace(message=f"{found.message}, in {transaction.place}")


def _in_doubt(rule_id: str, found: rules.Found) -> rules.Found:
    level = found.level or rules.table()[rule_id].level
    if level == rules.ERROR:
        level = rules.ERROR if rule_id in _WORST else rules.WARNING
    return rules.Found(f"{found.message}, if it was there before this file", level, found.table)


def _parsed(text: str) -> Any:
    """:return: the statements of a text, also where what is not known stands in the place of a literal or number; None if it is none."""
    parser = grammar().parser
    for stands_for in (procedural.UNKNOWN, f"'{procedural.UNKNOWN}'", "1"):
        try:
            return parser.parse_sql(text.replace(procedural.UNKNOWN, stands_for))
        except parser.ParseError:
            if procedural.UNKNOWN not in text:
                return None
    return None


def _called(node: Any) -> Iterator[str]:
    """:return: the functions that a statement calls, by their names."""
    ast = grammar().ast
    if isinstance(node, (ast.SelectStmt, ast.CallStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt)):
        for item in walk(node):
            if isinstance(item, ast.FuncCall):
                yield item.funcname[-1].sval


def _from_catalog(facts: Mapping[str, Any] | None, name: str) -> Function | None:
    found = (facts or {}).get("functions", {}).get(name)
    if not found:
        return None
    if found["language"] == "sql":
        return Function(None, found["source"], 0, 0, "sql", bool(found["volatile"]))
    if found["language"] == "plpgsql":
        raws = _parsed(found["definition"])
        settings = definitions.header_settings(raws[0].stmt) if raws else ()
        return Function(None, found["definition"], 0, 0, "plpgsql", bool(found["volatile"]), settings)
    return None
