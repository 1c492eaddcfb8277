# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Privileges, comments and function definitions as they were before a version: its way down leaves them so.

Each step of SQL records what it has changed of them, names and definitions only, and when the statements of its way down have run
they are put back: what the step changed as it was before the step, what only the way down changes as it was before that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    attributes,
    existing,
    made_again,
    own_objects,
    put_back,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.attributes import (
    COMMENT,
    DEFINITION,
    PRIVILEGES,
    Attribute,
    Grant,
    Key,
    Look,
    Name,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection
from ansible_collections.whitecross.pgops.plugins.module_utils.sql_names import without_literals

# The key of a step's progress that holds them.
PROGRESS = "attributes_before"
# A step of several transactions keeps there how all was at its beginning.
BEGINNING = "attributes_at_beginning"

# What else than one of these words leaves them alone: what is created has them from its beginning, and DROP COLUMN takes
# along only what nobody brings back. A function may do anything.
_CHANGES = re.compile(
    r"\b(GRANT|REVOKE|COMMENT|REPLACE|DO(?!\s+(?:NOTHING|UPDATE)\b)|DROP|FUNCTION|PROCEDURE|ROUTINE|"
    r"SELECT|CALL|PRIVILEGES|RENAME|OWNER|REASSIGN)\b",
    re.IGNORECASE,
)
Record = Mapping[str, Any]
_NOTHING: Record = {"changed": [], "made": []}
_SHOWN = 60


class AttributesBefore:
    """What one step of SQL records, or puts back.

    :param up: the way.
    :param active: False does nothing: see :func:`up` and :func:`down`.
    :param made: on the way down the step's progress on the way up.
    :param progress: its own progress so far.
    :param own: all that it makes, where it speaks of nothing else; None where it may speak of more.
    :param again: its way down drops something and makes it again, of which the comment comes back.
    """

    def __init__(
        self,
        up: bool,
        active: bool,
        made: Mapping[str, Any],
        progress: Mapping[str, Any],
        own: Sequence[Mapping[str, Any]] | None = None,
        again: bool = False,
    ) -> None:
        self._up, self.active, self._made, self._own, self._again = up, active, made, own, again
        self._saved = {name: progress[name] for name in (BEGINNING, PROGRESS) if name in progress}
        self._beginning: Look | None = None
        self._record: Record = _NOTHING

    def begin(self, conn: Connection, first: bool, whole: bool) -> None:
        """Before a transaction's first statement, in it.

        :param first: it is the step's first.
        :param whole: it is the step's only one. Where that speaks only of what it makes, and nothing of it is there, two looks at
            the whole database would show nothing: they took a third of a small version's time.
        """
        self._beginning = None if whole else self._beginning
        if not self.active or (whole and self._own is not None and not existing.present(conn, self._own)):
            return
        if first or (self._beginning is None and BEGINNING not in self._saved):
            self._beginning = attributes.look(conn)
            self._saved.pop(BEGINNING, None)
        elif self._beginning is None:
            self._beginning = attributes.unpacked(self._saved[BEGINNING])
        if not self._up:
            self._record = self._saved.get(PROGRESS) or recorded(self._made, self._beginning) or _NOTHING
            self._saved[PROGRESS] = self._record

    def end(self, conn: Connection, last: bool, tell: Callable[[str], None]) -> dict[str, Any]:
        """After a transaction's last statement, in it: on the way down put back what is to be put back.

        :param last: it is the step's last.
        :return: what to save in the step's progress.
        :raises PgopsError: this role may not put something back.
        """
        if not self.active or self._beginning is None:
            return {}
        if not last:
            if BEGINNING not in self._saved:
                self._saved[BEGINNING] = self._beginning.packed()
            return dict(self._saved)
        if self._up:
            return {PROGRESS: changes(self._beginning, attributes.look(conn))}
        put_back.run(conn, self._record, self._beginning, tell, again=self._again)
        return {}


def up(
    statements: Sequence[Mapping[str, Any]], down: Sequence[Mapping[str, Any]], progress: Mapping[str, Any]
) -> AttributesBefore:
    """:return: what records for a step; nothing is recorded where neither way could change what was there before."""
    spoken = [statement for statement in statements if _may_change(statement)]
    by_down = any(_may_change(statement) and not statement.get("destroys") for statement in down)
    by_down = by_down or made_again.any_of(down)
    own = None if by_down else own_objects.only(spoken, statements)
    return AttributesBefore(True, bool(spoken) or by_down, {}, progress, own)


def down(
    statements: Sequence[Mapping[str, Any]], made: Mapping[str, Any] | None, progress: Mapping[str, Any]
) -> AttributesBefore:
    """:return: what puts back; nothing where a step has no way down or an older tool applied it, which recorded nothing."""
    known = bool(made) and any(name in (made or {}) for name in (PROGRESS, BEGINNING))
    return AttributesBefore(
        False, known and bool(statements), made or {}, progress, again=made_again.any_of(statements)
    )


def recorded(progress: Mapping[str, Any], now: Look | None = None) -> Record | None:
    """Read the record of a step.

    :param progress: of the step on the way up.
    :param now: how all is, for a step that did not come to its end.
    :return: as :func:`changes` gives it; None where nothing was recorded.
    """
    if PROGRESS in progress:
        found: Record = progress[PROGRESS]
        return found
    if BEGINNING in progress and now is not None:
        return changes(attributes.unpacked(progress[BEGINNING]), now)
    return None


def changes(before: Look, after: Look) -> dict[str, Any]:
    """Compare two looks at a database; what was made between them does not count, only what was there before.

    :return: ``changed``: by object, under the name that it had before, ``lost`` and ``gained`` privileges, or ``before`` and
        ``after`` (of a function a checksum); ``after`` is missing where the object is gone. ``made``: the names of new objects.
        ``commented``: of those that came with a comment, but for columns, in the place of one without it, too.
    """
    # After a restore into another database only the names are the same.
    same = before.database == after.database
    changed: list[dict[str, Any]] = []
    for kind in (DEFINITION, PRIVILEGES, COMMENT):
        seen = set()
        for key, was in before.of[kind].items():
            now = after.of[kind].get(key) if same else None
            if now is None and not (same and after.has(key)):
                now = after.named[kind].get(was.name)
                # It took the name of what is gone, and has its own entry.
                now = None if now and same and before.has(now.key) else now
            if now is not None:
                seen.add(now.key)
            there = now is not None or (same and after.has(key))
            entry = _entry(kind, was, now, there)
            if entry:
                changed.append(_of(kind, was.called, (now or was).key, entry))
        for key, now in after.of[kind].items():
            if kind != DEFINITION and key not in seen and same and before.has(key):
                was = replace(now, value=frozenset() if kind == PRIVILEGES else None)
                entry = _entry(kind, was, now, True)
                if entry:
                    changed.append(_of(kind, now.called, key, entry))
    made, commented = (
        sorted(
            now.name
            for key, now in after.of[kind].items()
            if now.name not in before.named[kind]
            and not (same and before.has(key))
            and (kind == PRIVILEGES or not key[2])
        )
        for kind in (PRIVILEGES, COMMENT)
    )
    return {"changed": changed, "made": made, "commented": commented, "database": after.database}


def _of(kind: str, called: Name, key: Key, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "attribute": kind,
        "object": str(called),
        "type": called.type,
        "part": called.part,
        "key": list(key),
        **entry,
    }


def _entry(kind: str, was: Attribute, now: Attribute | None, there: bool) -> dict[str, Any]:
    if kind == PRIVILEGES:
        if not there:
            return {"before": _listed(was.value)}
        value = now.value if now else frozenset()
        lost, gained = was.value - value, value - was.value
        return {"lost": _listed(lost), "gained": _listed(gained)} if lost or gained else {}
    if not there:
        return {"before": was.value}
    value = now.value if now else None
    if was.value == value:
        return {}
    return {"before": was.value, "after": attributes.checksum(value) if kind == DEFINITION else value}


def told(progress: Mapping[str, Any]) -> list[str]:
    """:param progress: of a step on the way up.
    :return: what its way down puts back, a sentence each, for those who look before it runs."""
    if BEGINNING in progress and PROGRESS not in progress:
        return ["privileges, comments and functions that the step has changed are put back as they were before it"]
    record = recorded(progress)
    if record is None:
        return []
    lines = []
    for entry in record["changed"]:
        name = entry["object"]
        if entry["attribute"] == DEFINITION:
            lines.append(f"{name} is put back as it was before this version")
        elif entry["attribute"] == COMMENT:
            lines.append(f"{name}: its comment is put back as it was before this version, {_short(entry['before'])}")
        else:
            lost, gained = (
                attributes.grants(entry.get("lost") or entry.get("before") or []),
                attributes.grants(entry.get("gained") or []),
            )
            lines += [f"{name}: {attributes.words(lost)} is put back, as before this version"] if lost else []
            lines += [f"{name}: {attributes.words(gained)} goes, as before this version"] if gained else []
    lines.append("other privileges, comments and functions of before are put back where a statement above changes them")
    return lines


def _may_change(statement: Mapping[str, Any]) -> bool:
    made = statement.get("creates")
    if made and not made.get("replace") and not statement.get("destroys"):
        return bool(made["kind"] == "function")
    return bool(_CHANGES.search(without_literals(str(statement["sql"]))))


def _listed(grants: Iterable[Grant]) -> list[list[Any]]:
    return [list(grant) for grant in sorted(grants, key=str)]


def _short(comment: str | None) -> str:
    if comment is None:
        return "none"
    text = " ".join(comment.split())
    return f"'{text if len(text) <= _SHOWN else text[: _SHOWN - 1] + '…'}'"
