# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What each version of a tree makes of the catalog, and how much of that is in a database.

The tree is run, version by version, in an empty database on the scratch server, and the catalog is read after each. So a
version's effects are what PostgreSQL made of it, not what its text seems to say; and an object that a later version
changes again is known in each of its states.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    appeared,
    as_if_made,
    attributes_before,
    catalog,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, connect, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.declared import refuse_other_major, replay
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.scratch import empty_database

# Alone they are no sign that a version ran: downs leave types behind, extensions belong to nobody.
_BYSTANDERS = frozenset({"type", "extension", "schema", "function", "sequence"})

# A template's line ends are made one, so such a name would come out as another.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

PRESENT = "present"
ABSENT = "absent"
DIFFERENT = "different"


@dataclass
class Chain:
    """A tree as its effects.

    :ivar versions: in order.
    :ivar states: object -> its states in order, each with the position of the version that brought it; the first is that
        of an empty database (position -1), None where it does not exist.
    :ivar effects: version -> objects that it makes, changes or drops; where there are none, those that it names although
        an earlier one made them.
    :ivar progress: version -> of each of its steps what the way up would have recorded, see :mod:`as_if_made`.
    """

    versions: list[str]
    states: dict[str, list[tuple[int, catalog.Definition | None]]] = field(default_factory=dict)
    effects: dict[str, list[str]] = field(default_factory=dict)
    progress: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def depth(self, key: str, version: str) -> int:
        """:return: which state of the object holds after that version."""
        position = self.versions.index(version)
        return max(number for number, (since, _) in enumerate(self.states[key]) if since <= position)

    def first(self, key: str) -> str:
        """:return: the version that makes the object first."""
        return self.versions[self.states[key][1][0]]

    def at(self, key: str, version: str) -> catalog.Definition | None:
        """:return: the object as it is after that version; None where it does not exist."""
        return self.states[key][self.depth(key, version)][1]

    def since(self, key: str, version: str) -> list[catalog.Definition | None]:
        """:return: the object as it is after that version, and after each later one that changes it."""
        return [state for _, state in self.states[key][self.depth(key, version) :]]

    def ever(self, key: str) -> list[catalog.Definition]:
        """:return: every state in which the object exists."""
        return [state for _, state in self.states.get(key, []) if state is not None]


@contextmanager
def replayed(
    target: Target,
    conn: Connection,
    migrations: Sequence[Mapping[str, Any]],
    *,
    control: Control,
    run_id: str | None = None,
) -> Iterator[tuple[Chain, Connection]]:
    """Run the tree in a scratch database.

    :param conn: a session on the database itself; only its version and encoding count.
    :param migrations: the whole tree, rendered.
    :return: the chain, and the session on the scratch database, where expressions can be parsed again.
    :raises PgopsError: no scratch database, or a version that does not run in an empty database.
    """
    encoding = str(conn.info.parameter_status("server_encoding"))
    with ExitStack() as stack:
        scratch = stack.enter_context(empty_database(target, encoding=encoding, run_id=run_id))
        other = stack.enter_context(closing(connect(scratch, application_name="pgops adopt")))
        refuse_other_major(target, conn, other)
        forget = control.on_interrupt(other.cancel)
        try:
            chain = Chain([str(migration["version"]) for migration in migrations])
            before = catalog.inventory(other)
            for key, state in before.items():
                chain.states[key] = [(-1, state)]
            for position, migration in enumerate(migrations):
                control.check()
                made = chain.progress[str(migration["version"])] = []
                replay(other, migration, partial(_noting, other, migration, made))
                after = catalog.inventory(other)
                changed = [key for key in {*before, *after} if not _equal(before.get(key), after.get(key))]
                for key in changed:
                    chain.states.setdefault(key, [(-1, None)]).append((position, after.get(key)))
                # What earlier versions have made already is no sign of this one, unless it makes nothing else.
                named = [key for key in _named(other, migration, after) if key in chain.states] if not changed else []
                chain.effects[str(migration["version"])] = sorted({*changed, *named})
                before = after
            yield chain, other
        finally:
            forget()


@contextmanager
def _noting(conn: Connection, migration: Mapping[str, Any], made: list[dict[str, Any]], ordinal: int) -> Iterator[None]:
    step = migration["steps"][ordinal - 1]
    made.append(as_if_made.progress(conn, migration, ordinal))
    if step["kind"] != "sql":
        yield
        return
    # What is told only by comparing with the time after the step.
    attributes = attributes_before.up(step["up"], step.get("down") or [], {})
    attributes.begin(conn, first=True, whole=True)
    before = appeared.before(conn, step["up"])
    yield
    made[-1][appeared.PROGRESS] = appeared.since(conn, before)
    made[-1] |= attributes.end(conn, last=True, tell=lambda _told: None)


def _equal(left: Mapping[str, Any] | None, right: Mapping[str, Any] | None) -> bool:
    if left is None or right is None:
        return left is right
    return {name: value for name, value in left.items() if name not in catalog.ATTENDANT} == {
        name: value for name, value in right.items() if name not in catalog.ATTENDANT
    }


def _named(conn: Connection, migration: Mapping[str, Any], there: catalog.Inventory) -> list[str]:
    """What the steps say they make, also where an earlier version has made it: a repair, or labels of an older lineage."""
    wanted: list[tuple[str, list[str]]] = []
    for step in migration["steps"]:
        for statement in step.get("up", []):
            made = statement.get("creates")
            if not made or made["kind"] in ("schema", "extension"):
                continue
            schema, kind = str(made.get("schema") or "public"), str(made["kind"])
            if kind == "enum_value":
                wanted.append(("type", [schema, str(made.get("type") or made.get("table"))]))
            elif kind in ("column", "constraint", "trigger"):
                wanted.append((kind, [schema, str(made["table"]), str(made["name"])]))
            elif kind in ("table", "index", "type"):
                wanted.append((kind, [schema, str(made["name"])]))
        for index in step.get("indexes", []):
            wanted.append(("index", [str(index.get("schema") or "public"), str(index["name"])]))
        for item in step.get("constraints", []):
            wanted.append(
                ("constraint", [str(item.get("schema") or "public"), str(item["table"]), str(item["constraint"])])
            )
    return [key for key in keys_of(conn, wanted) if key in there]


def keys_of(conn: Connection, named: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """:param named: kind and parts of a name.
    :return: the keys that an inventory has for them; the server quotes, it knows its own keywords."""
    parts = sorted({part for _, names in named for part in names})
    quoted = {
        row["part"]: row["quoted"]
        for row in fetch_all(conn, "SELECT part, quote_ident(part) AS quoted FROM unnest(%s::text[]) AS part", (parts,))
    }
    return [f"{kind} " + ".".join(quoted[part] for part in names) for kind, names in named]


# ---------------------------------------------------------------------------------------------------------------- twins


@dataclass(frozen=True)
class Twin:
    """An enum that an ORM made for one column beside the named one that the tree declares.

    :ivar clash: why the named type cannot simply take its place, or None.
    """

    name: str
    named: str
    columns: tuple[str, ...]
    clash: str | None = None


def twins(chain: Chain, found: catalog.Inventory) -> list[Twin]:
    """:return: the enums that declared columns use instead of the declared type."""
    enums = {catalog.name_of(key) for key, value in found.items() if value.get("form") == "enum"}
    declared = {
        catalog.name_of(key)
        for key in chain.states
        if catalog.kind_of(key) == "type" and any(state.get("form") == "enum" for state in chain.ever(key))
    }
    used: dict[tuple[str, str], list[str]] = {}
    for key, value in found.items():
        if catalog.kind_of(key) != "column" or value["type"] not in enums - declared:
            continue
        for state in chain.ever(key):
            if state["type"] in declared:
                used.setdefault((value["type"], state["type"]), []).append(catalog.name_of(key))
                break
    made = []
    for (twin, named), columns in sorted(used.items()):
        others = sorted({other for other, wanted in used if wanted == named and other != twin})
        direct = sorted(
            catalog.name_of(key)
            for key, value in found.items()
            if catalog.kind_of(key) == "column" and value["type"] in (named, f"{named}[]")
        )
        clash = None
        if others:
            clash = f"{', '.join(others)} would have to become the same type"
        elif sum(1 for other, _ in used if other == twin) > 1:
            clash = "columns of several declared types use it"
        elif _CONTROL.search(twin):
            clash = f"the name of {twin!r} cannot be written into a file"
        elif direct:
            clash = f"{', '.join(direct)} has the type {named} already"
        made.append(Twin(twin, named, tuple(columns), clash))
    return made


def without_twins(found: catalog.Inventory, swapped: Sequence[Twin]) -> catalog.Inventory:
    """:return: the inventory as it reads when each twin has taken the place of its named type."""
    renames = [(re.compile(re.escape(twin.name) + r'(?![\w"$])'), twin.named) for twin in swapped]

    def spelled(value: Any) -> Any:
        if isinstance(value, str):
            for pattern, named in renames:
                # A backslash in a replacement would mean something.
                value = pattern.sub(named.replace("\\", "\\\\"), value)
            return value
        if isinstance(value, Mapping):
            return {key: spelled(item) for key, item in value.items()}
        return [spelled(item) for item in value] if isinstance(value, list) else value

    names = {twin.name: twin.named for twin in swapped}
    gone = {f"type {twin.named}" for twin in swapped}
    made = {}
    for key, value in found.items():
        if key in gone:
            continue
        name = catalog.name_of(key)
        made[f"type {names[name]}" if catalog.kind_of(key) == "type" and name in names else key] = spelled(value)
    return made


# ------------------------------------------------------------------------------------------------------------- presence


@dataclass
class Presence:
    """How much of a chain is in a database.

    :ivar matches: object -> the states that equal what was found; -1 stands for none of them.
    """

    chain: Chain
    found: catalog.Inventory
    matches: dict[str, set[int]]
    reparse: Connection
    _shown: dict[str, bool] = field(default_factory=dict)

    def of(self, key: str, version: str) -> str:
        """:return: whether the effect of a version on an object is there: ``present``, ``absent`` or ``different``.

        What a later version made of the object counts as present: the database may be further on than that version.
        """
        depth = self.chain.depth(key, version)
        matched = self.matches[key]
        if any(number >= depth for number in matched):
            # An object that later goes is not there before it comes either.
            if key not in self.found and 0 in matched and not self._has_gone(key, depth):
                return ABSENT
            return PRESENT
        return ABSENT if matched else DIFFERENT

    def _has_gone(self, key: str, depth: int) -> bool:
        """:return: whether a version that drops the object has run, so far as what else it and its neighbours do can tell."""
        states = self.chain.states[key]
        for number, (since, state) in enumerate(states):
            if number < depth or state is not None:
                continue
            version = self.chain.versions[since]
            if self._shows(version):
                return True
            signs = [other for other in self.chain.effects[version] if is_sign(other)]
            if any(other in self.found or self.chain.at(other, version) is not None for other in signs):
                continue
            # It only drops, and all that is gone: it is not needed where the versions around it have run.
            makers = [self.chain.versions[place] for place, made in states[1:number] if made is not None]
            if any(map(self._shows, [*makers, *self.chain.versions[since + 1 :]])):
                return True
        return False

    def _shows(self, version: str) -> bool:
        """:return: whether anything is there as that version, or a later one, makes it."""
        if version not in self._shown:
            self._shown[version] = any(
                is_sign(key)
                and key in self.found
                and any(n >= self.chain.depth(key, version) for n in self.matches[key])
                for key in self.chain.effects[version]
            )
        return self._shown[version]

    def effects(self, version: str) -> dict[str, str]:
        """:return: each object that a version has an effect on, and whether that is there."""
        return {key: self.of(key, version) for key in self.chain.effects[version]}

    def of_later(self, version: str) -> list[str]:
        """:return: the objects of a version that are there as later versions make them, and not as it does. A type with
        the labels of a later one counts for nothing: an up takes it as it is."""
        return [
            key
            for key in self.chain.effects[version]
            if key in self.found and catalog.kind_of(key) != "type"
            and self.chain.depth(key, version) < max(self.matches[key], default=-1)
            and self.chain.depth(key, version) not in self.matches[key]
        ]  # fmt: skip

    def differences(self, key: str, version: str, found: catalog.Definition | None) -> list[catalog.Difference]:
        """:return: how an object, as it was found or will be, differs from what a version makes of it."""
        wanted = self.chain.at(key, version)
        return catalog.compare(
            {key: wanted} if wanted is not None else {},
            {key: found} if found is not None else {},
            reparse=self.reparse,
            ignore=catalog.ATTENDANT,
        )

    def told(self, key: str, version: str, found: catalog.Definition | None) -> str:
        """:return: the differences in words, from the state that the object is nearest to: a database that is further on than
        that version would else be told what the later ones have changed, and the wrong way round."""
        differences, note = self.differences(key, version, found), ""
        if found is not None:
            for since, _ in self.chain.states[key][self.chain.depth(key, version) + 1 :]:
                later = self.chain.versions[since]
                nearer = self.differences(key, later, found)
                if len(nearer) < len(differences) or len(nearer) == len(differences) and self._shows(later):
                    differences, note = nearer, f" (as version {later} makes it)"
        return "; ".join(str(difference).removeprefix(f"{key}: ") for difference in differences) + note


def presence(chain: Chain, found: catalog.Inventory, reparse: Connection) -> Presence:
    """Compare every state of every object with what was found.

    :param found: the inventory of the database, already :func:`without_twins`.
    :param reparse: the session on the scratch database.
    """
    matches: dict[str, set[int]] = {key: set() for key in chain.states}
    for depth in range(max(len(states) for states in chain.states.values())):
        wanted = {key: states[depth][1] for key, states in chain.states.items() if len(states) > depth}
        expected = {key: state for key, state in wanted.items() if state is not None and key in found}
        unequal = {
            difference.object
            for difference in catalog.compare(
                expected, {key: found[key] for key in expected}, reparse=reparse, ignore=catalog.ATTENDANT
            )
            if not _more_labels(difference, chain, depth)
        }
        for key, state in wanted.items():
            if state is None and key not in found or key in expected and key not in unequal:
                matches[key].add(depth)
    return Presence(chain, found, matches, reparse)


def _more_labels(difference: catalog.Difference, chain: Chain, depth: int) -> bool:
    """An enum that has what the state wants, in order, and beside it only what later versions add."""
    if difference.attribute != "labels" or not difference.found or difference.expected is None:
        return False
    later = {
        label for _, state in chain.states[difference.object][depth:] if state for label in state.get("labels") or []
    }
    kept = [label for label in difference.found if label in difference.expected]
    return kept == list(difference.expected) and set(difference.found) <= later


def is_sign(key: str) -> bool:
    """:return: whether an object of this kind shows that a version ran at all."""
    return catalog.kind_of(key) not in _BYSTANDERS


def strangers(chain: Chain, found: catalog.Inventory, besides: Sequence[str] = ()) -> list[str]:
    """:param besides: objects that are known for another reason.
    :return: objects that no version declares; the columns, indexes and constraints of an unknown table are told by it."""
    known_tables = {
        (state["schema"], state["table"])
        for key in chain.states
        if catalog.kind_of(key) == "table"
        for state in chain.ever(key)
    }
    told = []
    for key, value in sorted(found.items()):
        if chain.ever(key) or key in besides:
            continue
        kind = catalog.kind_of(key)
        if (
            value.get("table") is not None
            and kind != "table"
            and (value.get("schema"), value["table"]) not in known_tables
        ):
            continue
        if kind == "index" and value.get("constraint"):
            continue
        told.append(key)
    return told
