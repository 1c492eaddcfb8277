# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What makes a role a member of another one, so that it acts with its rights unasked."""

from __future__ import annotations

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one, server_version
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted

_INHERITS = """
SELECT r.rolinherit AND NOT pg_catalog.pg_has_role(r.oid, g.oid, 'MEMBER') AS plain
  FROM pg_catalog.pg_roles r, pg_catalog.pg_roles g WHERE r.rolname = %s AND g.rolname = %s
"""


def grant(conn: Connection, role: str, member: str) -> str:
    """:param member: which has no use of the rights of ``role``, as a member of it without INHERIT has none either.
    :return: what gives it, without the semicolon at the end."""
    told = f"GRANT {quoted(role)} TO {quoted(member)}"
    row = fetch_one(conn, _INHERITS, (member, role))
    if row is None or row["plain"]:
        return told
    # Until 15 the role says whether it inherits, since 16 each grant does.
    return (
        f"{told} WITH INHERIT TRUE" if server_version(conn)[0] >= 16 else f"{told}; ALTER ROLE {quoted(member)} INHERIT"
    )
