# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Triggers that fire for replicated rows too would do again what they did in the live database: an audit would have every row twice.

So they are lowered in the new database, and only there, while rows come over, and raised again behind the last row, before a client is let
in. Meanwhile they fire for every session that writes there by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import blue_green_state, catalog
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from psycopg2 import sql

# Of a partitioned table each partition has its own.
_FIRING = """
SELECT n.nspname::text AS schema, c.relname::text AS table, t.tgname::text AS name, t.tgenabled::text AS mode
FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT t.tgisinternal AND t.tgenabled IN ('A', 'R') AND n.nspname NOT IN (%(ledger)s, %(own)s)
ORDER BY 1, 2, 3
"""
_EXCLUDED = {"ledger": catalog.LEDGER_SCHEMA, "own": blue_green_state.SCHEMA}
_WORDS = {"A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}
# The worker that applied the last row may still be ending; clients wait meanwhile.
_LOCK_TIMEOUT = "2500ms"


def lower(green: Connection) -> list[dict[str, Any]]:
    """Let the triggers of the new database pass replicated rows over. Takes SHARE ROW EXCLUSIVE on their tables.

    :return: schema, table, name and mode of each as it was; they are to be given to :func:`raise_again`.
    """
    found = [dict(row) for row in fetch_all(green, _FIRING, _EXCLUDED)]
    _set(green, found, lambda mode: "ENABLE")
    return found


def raise_again(green: Connection, wanted: Sequence[Mapping[str, Any]]) -> None:
    """Make them what they were, when no row comes over any more.

    :param wanted: as :func:`lower` returned it.
    :raises PgopsError: they are not what they were, as the catalog says.
    :raises psycopg2.Error: a table is held.
    """
    _set(green, wanted, _WORDS.__getitem__)
    now = [dict(row) for row in fetch_all(green, _FIRING, _EXCLUDED)]
    lacking = [one for one in wanted if one not in now]
    if lacking or len(now) != len(wanted):
        one = (lacking or [row for row in now if row not in wanted])[0]
        raise PgopsError(
            f"The trigger {one['name']} of {one['schema']}.{one['table']} in {green.info.dbname} is not what the versions have made it.",
            object_name=f"{one['schema']}.{one['table']}",
            hint="Somebody changed it there. Give it up with -e blue_green_stage=give_up and prepare it again.",
            extra={"reason": "moved"},
        )


def _set(green: Connection, triggers: Sequence[Mapping[str, Any]], words: Callable[[str], str]) -> None:
    if not triggers:
        return
    statements = [
        sql.SQL("ALTER TABLE ONLY {} " + words(one["mode"]) + " TRIGGER {}").format(
            sql.Identifier(one["schema"], one["table"]), sql.Identifier(one["name"])
        )
        for one in triggers
    ]
    begin = [sql.SQL("BEGIN"), sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_LOCK_TIMEOUT))]
    try:
        execute(green, sql.SQL("; ").join([*begin, *statements, sql.SQL("COMMIT")]))
    except BaseException:
        if not green.closed:
            execute(green, "ROLLBACK")
        raise
