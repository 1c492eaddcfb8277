# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a session knows at each statement of a file: its transaction, its settings, and the objects that the file has made."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import relation_name

from .locks import Relation, strong_locks
from .plpgsql_variables import Definition
from .script import Part
from .search_path import HIDDEN_PUBLIC
from .tools import SINGLY, Runner

# Some hundred rows, their indexes included: read or written anew in a millisecond.
SMALL_BYTES = 128 * 1024
# The longest that a lock may be waited for.
LONGEST_MS = 5000.0
TIMEOUTS = ("lock_timeout", "statement_timeout", "transaction_timeout", "idle_in_transaction_session_timeout")


@dataclass
class Column:
    """A column that the file made."""

    type: str
    not_null: bool = False
    has_default: bool = False


@dataclass
class Constraint:
    """A constraint that the file made."""

    kind: str
    columns: tuple[str, ...] = ()
    # Columns that it keeps from being NULL.
    not_null: frozenset[str] = frozenset()
    valid: bool = True
    # Of a CHECK.
    expression: Any = None


@dataclass
class Function:
    """A function that the file made: it does what its body does, once it is called."""

    node: Any
    text: str
    line: int
    offset: int
    language: str
    volatile: bool
    # Its SET clauses.
    settings: tuple[tuple[str, Any], ...] = ()


@dataclass
class Objects:
    """What the file has made, dropped and proved so far."""

    relations: dict[Relation, str] = field(default_factory=dict)
    # Of them those that may have been there before: made IF NOT EXISTS, or in a branch, and no catalog tells.
    perhaps: set[Relation] = field(default_factory=set)
    # Of them those that were filled from a whole table.
    filled: set[Relation] = field(default_factory=set)
    dropped: dict[Relation, int] = field(default_factory=dict)
    # Of them those that the file itself had made.
    dropped_own: set[Relation] = field(default_factory=set)
    attached: set[Relation] = field(default_factory=set)
    # Foreign keys of new columns by table and columns, with the line.
    foreign_keys: dict[tuple[Relation, tuple[str, ...]], int] = field(default_factory=dict)
    index_tables: dict[Relation, Relation] = field(default_factory=dict)
    indexes: dict[Relation, tuple[Relation, tuple[str, ...]]] = field(default_factory=dict)
    columns: dict[Relation, dict[str, Column]] = field(default_factory=dict)
    constraints: dict[tuple[Relation, str], Constraint] = field(default_factory=dict)
    # Constraints that were validated here and made elsewhere.
    validated: set[tuple[Relation, str]] = field(default_factory=set)
    not_null: set[tuple[Relation, str]] = field(default_factory=set)
    # Of them those that are so by SET NOT NULL, and need no constraint for it.
    set_not_null: set[tuple[Relation, str]] = field(default_factory=set)
    # Constraints that are gone, whoever made them.
    dropped_constraints: set[tuple[Relation, str]] = field(default_factory=set)
    partitioned: set[Relation] = field(default_factory=set)
    # The columns of the key, where it has no expression.
    partition_keys: dict[Relation, tuple[str, ...]] = field(default_factory=dict)
    types: dict[Relation, str] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    policies: set[Relation] = field(default_factory=set)
    settings: dict[str, Any] = field(default_factory=dict)
    # The first schema of search_path: where a name without a schema is made, which is told as public.
    schema: str = "public"

    def copy(self) -> Objects:
        """:return: the same, to come back to after ROLLBACK."""
        # No statement is changed in place, only the collections around it.
        return Objects(**{name: copy.copy(value) for name, value in vars(self).items()})

    def drop_constraint(self, table: Relation, name: str) -> None:
        """A constraint goes, and with it what it alone has proved."""
        gone = self.constraints.pop((table, name), None)
        self.validated.discard((table, name))
        self.dropped_constraints.add((table, name))
        kept = {column for (on, column) in self.set_not_null if on == table}
        for (on, _), other in self.constraints.items():
            if on == table and other.valid:
                kept |= other.not_null
        self.not_null -= {(table, column) for column in (gone.not_null if gone else ()) if column not in kept}


@dataclass
class Transaction:
    """A transaction and what it holds."""

    line: int
    before: Objects
    # A DO block or a file of a tool brings its own; nobody wrote BEGIN.
    implicit: bool = False
    locked: dict[Relation, tuple[str, int]] = field(default_factory=dict)
    # Tables that a new one refers to: their writers wait as for another lock, but an empty table is made in a moment.
    referenced: dict[Relation, int] = field(default_factory=dict)
    nowait: set[Relation] = field(default_factory=set)
    not_valid: set[tuple[Relation, str]] = field(default_factory=set)
    labels: dict[str, str] = field(default_factory=dict)
    foreign_keys: int = 0
    # Names that are free again in it: a table, or a column of one.
    freed: set[tuple[Relation, str]] = field(default_factory=set)
    # A table's name in it, and the one before.
    renamed: dict[Relation, Relation] = field(default_factory=dict)
    local: dict[str, Any] = field(default_factory=dict)
    savepoints: dict[str, tuple[Objects, dict[str, Any]]] = field(default_factory=dict)
    reported: set[str] = field(default_factory=set)
    # The tool that opens it, where nobody wrote BEGIN.
    runner: Runner | None = None

    @property
    def place(self) -> str:
        """:return: which transaction it is, for messages."""
        return self.runner.place if self.runner is not None else f"the transaction of line {self.line}"

    def copy(self) -> Transaction:
        """:return: the same, to come back to in another arm of psql's \\if."""
        return Transaction(**{name: copy.copy(value) for name, value in vars(self).items()})


@dataclass
class Session:
    """The state between two statements."""

    objects: Objects = field(default_factory=Objects)
    transaction: Transaction | None = None
    # The engine runs it: it takes care of timeouts and retries.
    engine: bool = False
    # The tool that runs the file.
    runner: Runner = SINGLY
    # Blocking advisory locks asked for, by line.
    advisory: int = 0
    # A lock_timeout that was set once and holds no more: why.
    lost_timeout: str = ""
    # What comes later in the file, by kind, for rules that look ahead.
    parts: list[Part] = field(default_factory=list)
    # Whether lock_timeout is set further down.
    sets_timeout_later: bool = False
    facts: Mapping[str, Any] | None = None
    # Tables that are small in every database that the SQL is for, each schema.name.
    small_tables: Collection[str] = ()
    # While it is true, what may have been there counts as there.
    doubt: bool = False
    # The variables of the body that is read; None where nobody knows them.
    variables: Mapping[str, Definition | None] | None = None

    def open(self, line: int) -> None:
        """The tool opens its transaction, where it has one."""
        self.transaction = None
        if self.runner.begins or self.runner.whole:
            self.transaction = Transaction(line, self.objects.copy(), implicit=True, runner=self.runner)

    def reopen(self, line: int) -> None:
        """The file has ended a transaction: of one query the rest is the next, and some drivers open one for each statement."""
        if self.runner.whole:
            # BEGIN of the tool is over, what the server makes of the query is left.
            self.runner = replace(self.runner, begins=False)
            self.open(line)
        elif self.runner.begins and self.runner.reopens:
            self.open(line)

    def setting(self, name: str) -> Any:
        """:return: a setting that the file made, as it holds now; None where the file made none."""
        if self.transaction and name in self.transaction.local:
            return self.transaction.local[name]
        return self.objects.settings.get(name)

    def made(self, relation: Relation) -> bool:
        """:return: whether the file itself made the relation: nobody uses it yet."""
        if self.doubt and relation in self.objects.perhaps:
            return False
        return relation in self.objects.relations or relation[0] == "pg_temp"

    def made_column(self, relation: Relation, column: str) -> bool:
        """:return: whether the file itself made the column."""
        known = column in self.objects.columns.get(relation, {})
        return known and not (self.doubt and relation in self.objects.perhaps)

    def existing(self, relation: Relation) -> bool:
        """:return: whether the relation was there before."""
        return not self.made(relation)

    def only_makes(self, node: Any) -> bool:
        """:return: whether a statement alters a table that the file made: other tables it locks for a moment at most."""
        relation = getattr(node, "relation", None)
        return type(node).__name__ == "AlterTableStmt" and self.made(relation_name(relation))

    def reconnect(self, line: int) -> None:
        """Another connection: what belongs to a session ends with it."""
        if self.setting("lock_timeout") is not None:
            self.lost_timeout = f"the SET lock_timeout ends with the session, at the \\connect of line {line}"
        self.transaction, self.advisory = None, 0
        self.objects.settings.clear()
        self.enter_schema("public")

    def enter_schema(self, schema: str) -> None:
        """Another schema leads search_path: what was made without a schema is in the one before, and no longer meant."""
        objects = self.objects
        before, objects.schema = objects.schema, schema
        if schema == before:
            return
        left, entered = (HIDDEN_PUBLIC if name == "public" else name for name in (before, schema))
        moved = {"public": left, entered: "public"}
        for own in (objects.perhaps, objects.filled, objects.dropped_own):
            names = {(moved.get(place, place), name) for place, name in own}
            own.clear()
            own.update(names)
        registers: tuple[dict[Relation, Any], ...] = (objects.relations, objects.columns, objects.dropped)
        for known in registers:
            entries = {(moved.get(place, place), name): value for (place, name), value in known.items()}
            known.clear()
            known.update(entries)

    def table_facts(self, relation: Relation) -> Mapping[str, Any] | None:
        """:return: what the catalog says of a table; None without a database, or where it has no such table."""
        found = (self.facts or {}).get("tables", {}).get(".".join(relation).replace(HIDDEN_PUBLIC, "public"))
        return found if isinstance(found, Mapping) else None

    def table_of(self, index: Relation) -> Relation:
        """:return: the table of an index, or the relation itself where it is none that anybody knows."""
        known = self.objects.index_tables.get(index)
        if known is None:
            schema, _, name = str((self.facts or {}).get("indexes", {}).get(".".join(index), "")).partition(".")
            known = (schema, name) if name else index
        return known

    def strong_locks(self, node: Any) -> list[tuple[Relation, str]]:
        """:return: the tables on which a statement takes a lock that stops writers, with the lock; that of an index that goes only
        where somebody knows it, or it stands for it itself where nobody runs it who would look it up."""
        drops_index = type(node).__name__ == "DropStmt" and node.removeType.name == "OBJECT_INDEX"
        found = [(self.table_of(relation), relation, mode) for relation, mode in strong_locks(node)]
        return [(t, mode) for t, relation, mode in found if t != relation or not (drops_index and self.engine)]

    def small(self, relation: Relation) -> bool:
        """:return: whether the catalog says that the table is small, its indexes and partitions with it.

        An empty one says nothing: it may be the schema of a larger database, unless the SQL is for that very one."""
        if ".".join(relation) in self.small_tables:
            return True
        facts = self.table_facts(relation)
        return facts is not None and 0 < int(facts["rows"]) and int(facts["bytes"]) <= SMALL_BYTES

    def column_is_not_null(self, relation: Relation, column: str) -> bool:
        """:return: whether no row can have NULL there, as far as the file or the catalog tells."""
        if (relation, column) in self.objects.not_null:
            return True
        known = self.objects.columns.get(relation, {}).get(column)
        if known is not None and known.not_null:
            return True
        facts = self.table_facts(relation)
        if facts is not None and column in facts.get("columns", {}):
            entry = facts["columns"][column]
            proofs = {(relation, name) for name in entry.get("checked_not_null") or ()}
            return bool(entry.get("not_null") or proofs - self.objects.dropped_constraints)
        return False


@dataclass
class Seen:
    """A statement in its session, as a rule gets it."""

    node: Any
    line: int
    session: Session
    part: Part
    # It stands in the body of a DO block or function.
    procedural: bool = False
    # It runs once for each turn of a loop, all in one transaction.
    loop: bool = False
    # Of a loop whose text tells that it has few.
    few_turns: bool = False
    # It runs only after an error has rolled back what came before in its block.
    handler: bool = False
    # Its text was put together while it ran: names in it are guessed.
    dynamic: bool = False

    @property
    def transaction(self) -> Transaction | None:
        """:return: the transaction in which it runs, None where it is one of its own."""
        return self.session.transaction
