# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a way down drops and makes again, where something of that name was there before the version.

It stays where the version has left it alone, or where it is as it would be made again. Else the version has changed it by what nobody
reads a drop in, such as ALTER POLICY or a block: what is its definition and no more is dropped and made again then, as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import existing
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection
from ansible_collections.whitecross.pgops.plugins.module_utils.sql_names import without_parentheses
from psycopg2 import errorcodes

Statement = Mapping[str, Any]

_DEFINITION_ONLY = ("constraint", "index", "trigger", "policy", "function")
# Of what else is dropped nobody has looked whether it was there before.
_DROPS_MORE = re.compile(r",|\bCASCADE\b", re.IGNORECASE)
# Of these classes an error says nothing about the statement: the connection, the server's means, its operator, or itself.
_NOT_ABOUT_IT = ("08", "53", "57", "58", "XX")


@dataclass
class MadeAgain:
    """The way down of one step, statement after statement.

    :ivar down: its statements.
    :ivar kept: what was there before the version, in the words of :func:`existing.describe`.
    :ivar up: the statements of its way up; ``committed`` of them have run.
    """

    down: Sequence[Statement] = ()
    kept: Collection[str] = ()
    up: Sequence[Statement] = ()
    committed: int = 0
    _equal: set[str] = field(default_factory=set)
    _dropped: set[str] = field(default_factory=set)

    def may_go(self, statement: Statement) -> bool:
        """:param statement: one that drops something which was there before.
        :return: whether it is to run where that is another one now."""
        gone = existing.dropped(statement) or {}
        again = self._again(statement)
        return (
            again is not None
            and gone["kind"] in _DEFINITION_ONLY
            and not _drops_more(statement)
            and not self._is_untouched(again)
        )

    def is_to_go(self, conn: Connection, statement: Statement) -> bool:
        """Call inside a transaction; see :func:`existing.compare` for the locks.

        :return: whether what :meth:`may_go` tells is another one now."""
        gone, again = existing.dropped(statement), self._again(statement)
        if gone is None or again is None or not self.may_go(statement) or not existing.present(conn, [gone]):
            return False
        word = existing.describe(gone)
        # A transaction that waited too long for its locks is run again.
        self._equal.discard(word)
        self._dropped.discard(word)
        is_another = bool(_differences(conn, again))
        (self._dropped if is_another else self._equal).add(word)
        return is_another

    def differences(self, conn: Connection, statement: Statement) -> list[str] | None:
        """Call inside a transaction; see :func:`existing.compare` for the locks.

        :return: of a statement that would make what was there before and stays, how that is another one; empty where it is the
            same, None where the statement is to run."""
        word = self._makes(statement)
        if word is None or word not in self.kept or word in self._dropped:
            return None
        if not existing.present(conn, [statement["creates"]]):
            return None
        return [] if word in self._equal or self._is_untouched(statement) else _differences(conn, statement)

    def _again(self, statement: Statement) -> Statement | None:
        """:return: the statement behind it that makes what it drops."""
        gone = existing.dropped(statement)
        place = next((number for number, one in enumerate(self.down) if one is statement), len(self.down))
        behind = self.down[place + 1 :] if gone else ()
        return next((one for one in behind if gone and self._makes(one) == existing.describe(gone)), None)

    def _makes(self, statement: Statement) -> str | None:
        made = statement.get("creates")
        return existing.describe(made) if made and not made.get("replace") else None

    def _is_untouched(self, statement: Statement) -> bool:
        """:return: whether the way up was to drop it itself and has not come to that, nor to anything else that names it."""
        made = statement["creates"]
        if existing.describe(made) not in existing.dropped_by(self.up):
            return False
        return not any(_names(one, made) for one in self.up[: self.committed])


def of(step: Statement, kept: Collection[str], progress: Mapping[str, Any]) -> MadeAgain:
    """:param step: of a version, rendered.
    :param kept: see :class:`MadeAgain`.
    :param progress: of the step on the way up."""
    up = step.get("up") or []
    return MadeAgain(step.get("down") or [], kept, up, int(progress.get("statements", len(up))))


def _drops_more(statement: Statement) -> bool:
    return bool(_DROPS_MORE.search(without_parentheses(str(statement["sql"]))))


def _names(statement: Statement, made: Mapping[str, Any]) -> bool:
    names = [str(made[part]) for part in ("table", "name") if made.get(part)]
    text = str(statement["sql"])
    return all(re.search(rf"(?<![\w$]){re.escape(name)}(?![\w$])", text, re.IGNORECASE) for name in names)


def _differences(conn: Connection, statement: Statement) -> list[str]:
    try:
        return existing.compare(conn, statement, exactly=True)
    except existing.Unequal as error:
        # What it speaks of may come on the way down only, such as a column, its old type or a label: then it is not what is there now.
        code = str(error.sqlstate or "")
        if not code or code.startswith(_NOT_ABOUT_IT) or code == errorcodes.INSUFFICIENT_PRIVILEGE:
            raise
        return [error.message]
