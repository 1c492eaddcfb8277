# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who alone may read a side schema: the owner of the live tables, where they have one."""

from __future__ import annotations

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.side_schema import Wanted

_OWNER = """
SELECT coalesce((SELECT pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class AS c WHERE c.oid = pg_catalog.to_regclass(%s)),
                (SELECT pg_catalog.pg_get_userbyid(d.datdba) FROM pg_catalog.pg_database AS d
                 WHERE d.datname = pg_catalog.current_database()))::text AS owner
"""


def of(conn: Connection, tables: list[Wanted]) -> str:
    """:return: the owner of the live tables; of a table that is gone, that of the database.
    :raises PgopsError: they have several, and one of them would read the rows of the others."""
    owners: dict[str, list[str]] = {}
    for table in tables:
        row = fetch_one(conn, _OWNER, (table.regclass,))
        owners.setdefault(str(row["owner"]) if row else "", []).append(f"{table.schema}.{table.name}")
    if len(owners) > 1:
        told = ", ".join(
            f"{owner} ({names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''})"
            for owner, names in sorted(owners.items())
        )
        raise PgopsError(
            f"The tables of {tables[0].schema} belong to several roles: {told}; a side schema is one role's to read, and nothing was done.",
            object_name=tables[0].schema,
            hint="Name one table with -e restore_table=NAME.",
            extra={"owners": owners},
        )
    return next(iter(owners))
