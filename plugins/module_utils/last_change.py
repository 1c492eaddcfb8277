# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What was done to a database last - versions applied or reverted, names swapped, its cluster restored -, as its own ledger tells it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all, fetch_one

APPLY = "apply"
DOWN = "down"
SWAP = "swap"
CLUSTER_RESTORED = "cluster_restored"
NOTHING = "nothing"

# All by the server's clock. A version that failed is in no audit row; one that was resumed keeps the time of its first beginning.
_LAST = """
WITH change AS (
    SELECT 'swap' AS kind, a.at, a.run_id, a.detail ->> 'aside' AS aside FROM pgops.audit AS a WHERE a.event = 'database_swapped'
    UNION ALL
    SELECT 'cluster_restored', a.at, a.run_id, NULL FROM pgops.audit AS a WHERE a.event = 'cluster_restored'
    UNION ALL
    SELECT 'down', a.at, a.run_id, NULL FROM pgops.audit AS a WHERE a.event IN ('revert_started', 'reverted')
    UNION ALL
    SELECT 'apply', a.at, a.run_id, NULL FROM pgops.audit AS a WHERE a.event = 'applied'
    UNION ALL
    SELECT 'apply', m.started_at, m.run_id, NULL FROM pgops.migration AS m)
SELECT c.kind, coalesce(c.run_id, '') AS run_id, coalesce(c.aside, '') AS aside,
       to_char(c.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS at
FROM change AS c ORDER BY c.at DESC LIMIT 1
"""

_LAST_ASIDE = """
SELECT a.detail ->> 'aside' AS aside FROM pgops.audit AS a WHERE a.event = 'database_swapped' ORDER BY a.seq DESC LIMIT 1
"""

_OUTAGES = """
SELECT (a.detail ->> 'outage_ms')::float AS outage_ms FROM pgops.audit AS a
WHERE a.event = 'database_swapped' AND a.detail ->> 'outage_ms' IS NOT NULL ORDER BY a.seq DESC LIMIT 10
"""


@dataclass(frozen=True)
class LastChange:
    """The last change of a database.

    :ivar kind: ``apply``, ``down``, ``swap``, ``cluster_restored``, or ``nothing``.
    :ivar run_id: the run that made it.
    :ivar versions: of an apply those of that run that are there now, be it in part; of a way down the one that is half gone.
    :ivar aside: where the last swap has put the database that it replaced, also where that is not the last change.
    """

    kind: str
    at: str = ""
    run_id: str = ""
    versions: tuple[str, ...] = ()
    aside: str = ""

    @property
    def told(self) -> str:
        """As it follows on "the last change:"."""
        if self.kind == SWAP:
            return f"the swap of run {self.run_id} at {self.at}, which put {self.aside} aside"
        if self.kind == CLUSTER_RESTORED:
            return f"the rollback of the whole cluster by run {self.run_id} at {self.at}"
        if self.kind == DOWN:
            half = f", half done: {', '.join(self.versions)}" if self.versions else ""
            return f"the way down of run {self.run_id} at {self.at}{half}"
        if self.kind == APPLY:
            return f"run {self.run_id} at {self.at}, which applied {', '.join(self.versions) or 'nothing that is still there'}"
        return "none that this tool made"

    def as_dict(self) -> dict[str, Any]:
        """:return: for a module's result."""
        return {**asdict(self), "versions": list(self.versions), "told": self.told}


def look(conn: Connection) -> LastChange:
    """Read the ledger of the connected database; writes nothing.

    :raises PgopsError: a newer tool's ledger.
    """
    if ledger.schema_version(conn) == 0:
        return LastChange(NOTHING)
    row = fetch_one(conn, _LAST)
    if row is None:
        return LastChange(NOTHING)
    swap = fetch_one(conn, _LAST_ASIDE)
    aside = str(swap["aside"]) if swap and swap["aside"] else ""
    rows = ledger.read(conn).migrations
    half = tuple(one.version for one in rows if one.state == "reverting")
    if half and row["kind"] != CLUSTER_RESTORED:
        return LastChange(DOWN, row["at"], row["run_id"], half, aside)
    there = tuple(one.version for one in rows if one.run_id == row["run_id"] and one.state != "reverted")
    return LastChange(row["kind"], row["at"], row["run_id"], there if row["kind"] == APPLY else (), aside)


def outages_ms(conn: Connection) -> list[float]:
    """:return: for how long the last ten swaps kept clients out, newest first, as far as the audit has it; milliseconds."""
    if ledger.schema_version(conn) == 0:
        return []
    return [float(row["outage_ms"]) for row in fetch_all(conn, _OUTAGES)]
