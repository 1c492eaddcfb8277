# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A database that does not hold every text: the ledger keeps the files of a version, with whatever letters are in them."""

from __future__ import annotations

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from psycopg2 import errorcodes

NEEDED = "UTF8"
# To be typed, or done, against another one; docs/preflight.md has the commands.
FIX = f"dump the database, restore it into one made with TEMPLATE template0 ENCODING '{NEEDED}', and give that one its name"


def refuse(conn: Connection, nothing_was: str) -> None:
    """Looks at what the session knows already.

    SQL_ASCII converts nothing and checks nothing: what is in it may be no text at all, and jsonb takes no letter beyond ASCII there.

    :param nothing_was: what the call would have done, e.g. ``applied to``.
    :raises PgopsError: the database is not encoded in UTF8.
    """
    encoding = str(conn.info.parameter_status("server_encoding"))
    if encoding == NEEDED:
        return
    database = str(conn.info.dbname)
    raise PgopsError(
        f"Nothing was {nothing_was} {database}: it is encoded in {encoding}, and the texts of the versions and of the ledger need "
        f"{NEEDED}; {FIX}.",
        sqlstate=errorcodes.FEATURE_NOT_SUPPORTED,
        database=database,
        extra={"reason": "encoding", "encoding": encoding},
    )
