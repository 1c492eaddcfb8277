# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which indexes were rebuilt and when, which rebuild is not known to have ended, and what it has left. Kept in the audit.

REINDEX CONCURRENTLY that is cut off leaves an invalid index beside the one that it was about: ``<name>_ccnew`` before the two
change their names, ``<name>_ccold`` after. An index of somebody else may have such a name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import BEING_BUILT
from psycopg2 import sql

STARTED, REBUILT, STOPPED = "index_rebuild_started", "index_rebuilt", "index_rebuild_stopped"
NAME_BYTES = 63
_SUFFIX = re.compile(r"_cc(?:new|old)\d*\Z")

_RECENT = """
SELECT detail ->> 'index' AS name,
       pg_catalog.to_char(max(at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS at
  FROM pgops.audit WHERE event = %s AND at > pg_catalog.clock_timestamp() - %s * interval '1 day' GROUP BY 1
"""
_OPEN = """
SELECT s.seq, s.detail FROM pgops.audit s
 WHERE s.event = %s AND NOT EXISTS (SELECT FROM pgops.audit e
       WHERE e.event IN (%s, %s) AND e.seq > s.seq AND e.detail ->> 'started' = s.seq::text)
 ORDER BY s.seq
"""
_BEFORE = """
SELECT pg_catalog.array_agg(i.indexrelid::bigint ORDER BY i.indexrelid) AS indexes,
       pg_catalog.pg_current_xact_id()::text::numeric %% 4294967296 AS xid
  FROM pg_catalog.pg_index i WHERE i.indrelid = %s
"""
# The same index again: on the same table, of the same columns in the same way, made since the rebuild began. Nobody may be at it.
_REMAINS = f"""
SELECT i.indexrelid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name
  FROM pg_catalog.pg_index o
  JOIN pg_catalog.pg_class oc ON oc.oid = o.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = oc.relnamespace
  JOIN pg_catalog.pg_index i ON i.indrelid = o.indrelid AND i.indexrelid <> o.indexrelid
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid AND c.relnamespace = oc.relnamespace AND c.relam = oc.relam
 WHERE n.nspname = %(schema)s AND oc.relname = %(name)s
   AND NOT (i.indisvalid AND i.indisready AND i.indislive)
   AND NOT i.indexrelid::bigint = ANY(%(before)s::bigint[])
   AND (i.indkey, i.indclass, i.indcollation, i.indoption)::text = (o.indkey, o.indclass, o.indcollation, o.indoption)::text
   AND i.indisunique = o.indisunique
   AND pg_catalog.pg_get_expr(i.indexprs, i.indrelid) IS NOT DISTINCT FROM pg_catalog.pg_get_expr(o.indexprs, o.indrelid)
   AND pg_catalog.pg_get_expr(i.indpred, i.indrelid) IS NOT DISTINCT FROM pg_catalog.pg_get_expr(o.indpred, o.indrelid)
   AND pg_catalog.age(c.xmin) <= pg_catalog.age(%(xid)s::text::xid)
   AND NOT {BEING_BUILT}
 ORDER BY 3
"""


@dataclass(frozen=True)
class Started:
    """A rebuild that has begun.

    :ivar seq: of its row in the audit.
    :ivar before: OIDs of the indexes that the table had then; ``xid`` the transaction of then.
    """

    seq: int
    schema: str
    name: str
    before: tuple[int, ...]
    xid: str

    @property
    def full_name(self) -> str:
        """``schema.name``."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Remain:
    """An invalid index that a rebuild of ours has left."""

    oid: int
    schema: str
    name: str

    @property
    def full_name(self) -> str:
        """``schema.name``."""
        return f"{self.schema}.{self.name}"


def recent(conn: Connection, days: float) -> dict[str, str]:
    """:return: when each index was rebuilt by us within so many days, by its name; ISO 8601 in UTC."""
    if days <= 0 or ledger.schema_version(conn) == 0:
        return {}
    return {str(row["name"]): str(row["at"]) for row in fetch_all(conn, _RECENT, (REBUILT, days))}


def start(conn: Connection, schema: str, name: str, table_oid: int, run_id: str) -> Started:
    """Write down that a rebuild begins, before it does: whoever finds what it leaves must know that it is ours."""
    with transaction(conn):
        seen: dict[str, Any] = fetch_one(conn, _BEFORE, (table_oid,)) or {}
        detail = {"index": f"{schema}.{name}", "schema": schema, "name": name,
                  "before": seen["indexes"] or [], "xid": str(seen["xid"])}  # fmt: skip
        head = ledger.append_audit(conn, STARTED, run_id=run_id, detail=detail)
    return _started(int(head["seq"]), detail)


def end(conn: Connection, started: Started, *, done: bool, run_id: str, detail: Mapping[str, Any]) -> None:
    """Write down how it ended. Only what has left nothing is ended: the rest is looked for by the next run."""
    told = {**detail, "index": started.full_name, "started": started.seq}
    ledger.append_audit(conn, REBUILT if done else STOPPED, run_id=run_id, detail=told)


def still_open(conn: Connection) -> list[Started]:
    """:return: the rebuilds that are not known to have ended, oldest first."""
    if ledger.schema_version(conn) == 0:
        return []
    return [_started(int(row["seq"]), row["detail"]) for row in fetch_all(conn, _OPEN, (STARTED, REBUILT, STOPPED))]


def _started(seq: int, detail: Mapping[str, Any]) -> Started:
    return Started(
        seq, str(detail["schema"]), str(detail["name"]), tuple(map(int, detail["before"])), str(detail["xid"])
    )


def remains(conn: Connection, started: Started) -> list[Remain]:
    """:return: what that rebuild has left. Takes no lock."""
    given = {"schema": started.schema, "name": started.name, "before": list(started.before), "xid": started.xid}
    found = [Remain(int(row["oid"]), str(row["schema"]), str(row["name"])) for row in fetch_all(conn, _REMAINS, given)]
    return [one for one in found if is_named_after(one.name, started.name)]


def is_named_after(name: str, index: str) -> bool:
    """:return: whether the server would give this name to what REINDEX CONCURRENTLY makes beside that index: as much of the index's name as
    63 bytes leave room for."""
    suffix = _SUFFIX.search(name)
    if suffix is None:
        return False
    room = NAME_BYTES - len(suffix.group().encode())
    return name[: suffix.start()] == index.encode()[:room].decode("utf-8", "ignore")


def drop_statement(remain: Remain) -> sql.Composed:
    """:return: waits for transactions that use the table, and lets nobody wait."""
    return sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(remain.schema, remain.name))
