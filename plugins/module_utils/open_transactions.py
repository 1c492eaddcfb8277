# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which transactions a standby's snapshot does not see though they began before it.

``pg_current_snapshot()`` lists them on a primary. On a standby that list is always empty, and a row of such a transaction would
pass for one that the backup holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one

# Each is looked up on its own, some hundred thousand a second.
MOST_LOOKED_AT = 1_000_000

_BOUNDS = """
SELECT pg_snapshot_xmin(s)::text::bigint AS xmin, pg_snapshot_xmax(s)::text::bigint AS xmax
  FROM pg_current_snapshot() AS s WHERE pg_is_in_recovery()
"""
_OPEN = """
SELECT ARRAY(SELECT x FROM generate_series(%s::bigint, %s::bigint - 1) AS x
              WHERE pg_xact_status(x::text::xid8) = 'in progress') AS xids
"""


@dataclass(frozen=True)
class OpenTransactions:
    """Those of a moment just before a snapshot: each one that had ended by then is seen by it.

    :ivar xmin: the oldest, 64 bits.
    :ivar xmax: the first that had not begun.
    :ivar xids: those between that were open, subtransactions too; None where there are too many to look at.
    """

    xmin: int
    xmax: int
    xids: tuple[int, ...] | None

    def unseen(self, xmax: int) -> tuple[int, list[int]]:
        """:param xmax: of the snapshot that was taken since.
        :return: ``xmax`` and ``xip`` of a snapshot that counts as not seen whatever may not be: a few too many, never one too few."""
        if self.xids is None:
            return self.xmin, []
        return xmax, sorted({*self.xids, *range(self.xmax, xmax)})


def just_now(conn: Connection) -> OpenTransactions | None:
    """:param conn: in no transaction, since its statements have snapshots of their own.
    :return: None on a primary, whose snapshots tell it themselves."""
    bounds = fetch_one(conn, _BOUNDS)
    if bounds is None:
        return None
    xmin, xmax = int(bounds["xmin"]), int(bounds["xmax"])
    if xmax - xmin > MOST_LOOKED_AT:
        return OpenTransactions(xmin, xmax, None)
    row = fetch_one(conn, _OPEN, (xmin, xmax))
    return OpenTransactions(xmin, xmax, tuple(int(xid) for xid in row["xids"]) if row else ())
