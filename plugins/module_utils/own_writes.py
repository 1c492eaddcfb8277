# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which transactions of the versions themselves may have inserted or updated the rows of a table.

A row tells the transaction that wrote it last, and the ledger those that were a step's. A step counts for a table only where its
text inserts into that table, or changes its rows: else what looks like its work is the application's row beneath, that a
rewrite or a backfill of something else has touched. So a step that writes by way of a function or a trigger is taken for the
application, and never the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, row_versions
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.content import Table
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import without_comments

_INSERTS = r"(?:insert\s+into|merge\s+into|copy)"
_UPDATES = r"(?:insert\s+into|merge\s+into|update|alter\s+table(?:\s+if\s+exists)?)"

_STEPS = """
SELECT t.direction, m.rendered -> 'steps' -> (t.ordinal - 1) AS step, array_agg(t.xid::text::bigint) AS xids
FROM pgops.step_transaction AS t JOIN pgops.migration AS m USING (version)
JOIN pg_catalog.pg_database AS d ON d.oid = t.database AND d.datname = current_database()
GROUP BY t.version, t.direction, t.ordinal, m.rendered
"""


@dataclass(frozen=True)
class OwnWrites:
    """:ivar steps: the text of each step, and its transactions, 32 bits each."""

    steps: Sequence[tuple[str, Sequence[int]]] = ()

    def inserting(self, table: Table) -> list[int]:
        """:return: transactions that may have inserted rows into the table."""
        return self._naming(_INSERTS, table)

    def updating(self, table: Table) -> list[int]:
        """:return: transactions that may have changed rows of the table."""
        return self._naming(_UPDATES, table)

    def _naming(self, words: str, table: Table) -> list[int]:
        schema, name = (rf'(?:{re.escape(part)}|"{re.escape(part)}")' for part in (table.schema, table.name))
        said = re.compile(rf"\b{words}\s+(?:only\s+)?(?:{schema}\s*\.\s*)?{name}(?![\w$\"])", re.IGNORECASE)
        return [xid for text, xids in self.steps if said.search(text) for xid in xids]


def look(conn: Connection) -> OwnWrites:
    """:param conn: to a database, live or kept.
    :return: what its ledger knows; nothing where the ledger is older than that."""
    if ledger.schema_version(conn) < 4:
        return OwnWrites()
    return OwnWrites(
        [
            (_text(row["step"] or {}, str(row["direction"])), [xid % row_versions.XID_RANGE for xid in row["xids"]])
            for row in fetch_all(conn, _STEPS)
        ]
    )


def _text(step: Mapping[str, Any], direction: str) -> str:
    parts = [step.get("down")] if direction == "down" else [step.get("up"), step.get("statement")]
    return "\n".join(without_comments(sql) for sql in _statements(parts))


def _statements(node: Any) -> Iterator[str]:
    """:return: every statement below a part of a step."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "sql" and isinstance(value, str):
                yield value
            else:
                yield from _statements(value)
    elif isinstance(node, list):
        for value in node:
            yield from _statements(value)
