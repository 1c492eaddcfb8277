# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""To whom functions belong and who may call them, held against what the applied migrations declare.

Only those are looked at that run with their owner's rights (SECURITY DEFINER), and those of which a version granted or revoked EXECUTE.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import catalog
from ansible_collections.whitecross.pgops.plugins.module_utils.function_statements import FunctionStatements
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted

# Each with what its definition is called in GRANT and in ALTER ... OWNER.
KINDS = {
    "function": ("FUNCTION", "FUNCTION"),
    "procedure": ("PROCEDURE", "PROCEDURE"),
    "aggregate": ("FUNCTION", "AGGREGATE"),
}
_PUBLIC = "PUBLIC"
_GRANTING = " WITH GRANT OPTION"

# An option stands in a line of its own that begins with one blank; the body comes behind AS.
_DEFINER = re.compile(r"^ (?:[^'\n]* )?SECURITY DEFINER(?: |$)", re.MULTILINE)
_BODY = re.compile(r"^(?:AS |BEGIN ATOMIC|RETURN )", re.MULTILINE)
_ACL_ITEM = re.compile(r'(?P<role>"(?:[^"]|"")*"|[^=]*)=(?P<rights>[^/]*)/', re.DOTALL)


@dataclass(frozen=True)
class RightsDifference:
    """One right that is not as declared.

    :ivar fails: the declared protection, or a declared right, is not there; else somebody has been given more, or less, than the default.
    :ivar mend: the statement that makes it as declared.
    """

    object: str
    attribute: str
    expected: str
    found: str
    fails: bool
    mend: str
    added: bool = False


def differences(
    declared: catalog.Inventory, found: catalog.Inventory, *, maker: str, role: str, statements: FunctionStatements
) -> list[RightsDifference]:
    """:param declared: what the migrations make in an empty database.
    :param found: the database.
    :param maker: the role that they were run as there; what belongs to it belongs here to the role that migrates.
    :param role: the role that migrates this database.
    :param statements: those of the migrations, which may name ``maker`` as an owner themselves.
    :return: by object, what differs. A right that a named role has beyond what is declared is an addition of the site.
    """
    owners = _owners(declared, found, maker, role)
    if maker not in owners and statements.acts_as(maker):
        owners.append(maker)
    told: list[RightsDifference] = []
    for key in sorted(declared):
        kind = catalog.kind_of(key)
        if kind in KINDS and key in found and _is_looked_at(declared[key]):
            named = statements.said(key).owner == declared[key]["owner"]
            right = owners if declared[key]["owner"] == maker and not named else [str(declared[key]["owner"])]
            told += _of_owner(key, KINDS[kind][1], found[key], right)
            told += _of_execute(key, KINDS[kind][0], declared[key], found[key], {maker, role, *owners})
    return told


def _owners(declared: catalog.Inventory, found: catalog.Inventory, maker: str, role: str) -> list[str]:
    """To whom what the migrations make belongs here: most of it, for an adopted database may have another owner than the role
    that migrates now, which is a member of that one; and this role itself."""
    counted = Counter(
        str(found[key]["owner"])
        for key, value in declared.items()
        if catalog.kind_of(key) not in KINDS and value.get("owner") == maker and found.get(key, {}).get("owner")
    )
    most = [owner for owner, _ in counted.most_common(1)]
    return list(dict.fromkeys([*most, role]))


def statements(key: str, definition: Mapping[str, Any]) -> list[str]:
    """:return: what a new function needs beside its CREATE, so that nobody else may call it than is declared; without semicolons."""
    if catalog.kind_of(key) not in KINDS or not definition.get("acl"):
        return []
    what = f"{KINDS[catalog.kind_of(key)][0]} {catalog.name_of(key)}"
    may = _may(definition, {str(definition.get("owner"))})
    taken = [] if _PUBLIC in may else [f"REVOKE ALL ON {what} FROM {_PUBLIC}"]
    given = [
        f"GRANT EXECUTE ON {what} TO {quoted(who)}{_GRANTING if who + _GRANTING in may else ''}"
        for who in sorted(may - {_PUBLIC})
        if not who.endswith(_GRANTING)
    ]
    return taken + given


def _is_looked_at(definition: catalog.Definition) -> bool:
    text = str(definition.get("definition") or "")
    body = _BODY.search(text)
    if _DEFINER.search(text[: body.start()] if body else text):
        return True
    owner = str(definition["owner"])
    return _may(definition, set()) != {_PUBLIC, owner}


def _of_owner(key: str, kind: str, found: catalog.Definition, right: list[str]) -> list[RightsDifference]:
    if found["owner"] in right:
        return []
    mend = f"ALTER {kind} {catalog.name_of(key)} OWNER TO {quoted(right[0])};"
    return [RightsDifference(key, "owner", right[0], str(found["owner"]), True, mend)]


def _of_execute(
    key: str, kind: str, declared: catalog.Definition, found: catalog.Definition, owners: set[str]
) -> list[RightsDifference]:
    # An owner has, and gives himself, whatever he wants; ALTER ... OWNER hands his entry on.
    ignored = {*owners, str(declared["owner"]), str(found["owner"])}
    wanted, there = _may(declared, ignored), _may(found, ignored)
    what = f"{kind} {catalog.name_of(key)}"
    told = []
    for who in sorted(there - wanted):
        role, option = who.removesuffix(_GRANTING), "GRANT OPTION FOR " if who.endswith(_GRANTING) else ""
        mend = f"REVOKE {option}EXECUTE ON {what} FROM {_written(role)};"
        # A site gives its own roles what they need; what every role has, nobody was given.
        told.append(
            RightsDifference(
                key, "EXECUTE", f"none for {who}", f"EXECUTE for {who}", who == _PUBLIC, mend, added=who != _PUBLIC
            )
        )
    for who in sorted(wanted - there):
        role, option = who.removesuffix(_GRANTING), _GRANTING if who.endswith(_GRANTING) else ""
        mend = f"GRANT EXECUTE ON {what} TO {_written(role)}{option};"
        told.append(RightsDifference(key, "EXECUTE", f"EXECUTE for {who}", f"none for {who}", who != _PUBLIC, mend))
    return told


def _written(role: str) -> str:
    return role if role == _PUBLIC else quoted(role)


def _may(definition: Mapping[str, Any], ignored: set[str]) -> set[str]:
    """:return: who may call it, and with ``WITH GRANT OPTION`` who may also let others."""
    who: set[str] = set()
    items: list[Any] = definition.get("acl") or []
    for item in items:
        entry = _ACL_ITEM.match(str(item))
        if entry is None or "X" not in entry["rights"]:
            continue
        role = entry["role"]
        name = role[1:-1].replace('""', '"') if role.startswith('"') else role or _PUBLIC
        if name in ignored:
            continue
        who.add(name)
        if "X*" in entry["rights"]:
            who.add(name + _GRANTING)
    return who
