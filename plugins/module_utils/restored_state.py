# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a person looks at after a restore: rows of the key tables, the size of every table, the ledger's latest entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect, execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work

LATEST = 10

_SIZES = """
SELECT n.nspname AS schema, c.relname AS name, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS "table",
       pg_catalog.pg_total_relation_size(c.oid) AS bytes, c.reltuples < 0 AS without_statistics
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY bytes DESC, 3
"""


def analyze(destination: Target, work: Work) -> list[str]:
    """Collect statistics; without them the first queries take plans for empty tables.

    :return: tables that this role could not analyze: ANALYZE passes over them with a warning (fact 20).
    """
    work.progress.emit("collecting statistics", database=destination.database)
    with closing(connect(destination, application_name=work.application_name)) as conn:
        forget = work.control.on_interrupt(conn.cancel)
        try:
            execute(conn, "ANALYZE")
        finally:
            forget()
        return [row["table"] for row in fetch_all(conn, _SIZES) if row["without_statistics"]]


def look(destination: Target, work: Work, rows: Mapping[str, int | None], key_tables: Sequence[str]) -> dict[str, Any]:
    """:param rows: of each table, by its quoted name.
    :param key_tables: names without a schema, in any case of letters.
    :return: key_tables (name, rows; None where there is no such table), sizes (table, rows, bytes; largest first), database_bytes,
        ledger (the latest ten entries, newest first)."""
    with closing(connect(destination, application_name=work.application_name)) as conn:
        sizes = fetch_all(conn, _SIZES)
        total = fetch_all(conn, "SELECT pg_catalog.pg_database_size(pg_catalog.current_database()) AS bytes")[0][
            "bytes"
        ]
        entries = sorted(ledger.read(conn).migrations, key=lambda entry: (entry.started_at or "", entry.version))
    keys: dict[str, int | None] = {}
    for wanted in key_tables:
        found = [entry for entry in sizes if str(entry["name"]).lower() == wanted.lower()]
        for entry in found:
            keys[entry["table"]] = rows.get(entry["table"])
        if not found:
            keys[wanted] = None
    return {
        "key_tables": keys,
        "sizes": [{"table": e["table"], "rows": rows.get(e["table"]), "bytes": int(e["bytes"])} for e in sizes],
        "database_bytes": int(total),
        "ledger": [
            {
                "version": entry.version,
                "name": entry.name,
                "state": entry.state,
                "at": entry.finished_at or entry.started_at,
            }
            for entry in reversed(entries[-LATEST:])
        ],
    }
