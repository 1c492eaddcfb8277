# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the roles of a server differ from those of the same name in a backup. They are somebody else's, so it is told and nothing more."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.needed_roles import ATTRIBUTES, LIMITS, NeededRoles

_MEMBERSHIPS = """
SELECT r.rolname::text AS role, m.rolname::text AS member, bool_or(a.admin_option) AS admin
FROM pg_catalog.pg_auth_members AS a JOIN pg_catalog.pg_roles AS r ON r.oid = a.roleid
JOIN pg_catalog.pg_roles AS m ON m.oid = a.member
WHERE m.rolname = ANY (%s::text[])
GROUP BY 1, 2
"""


def differences(conn: Connection, needed: NeededRoles, there: dict[str, dict[str, Any]]) -> list[str]:
    """:param there: the roles of the backup that the server has, as ``needed_roles.described``.
    :return: a sentence for each difference, without the values of settings, which may be secrets."""
    told = []
    for name, found in there.items():
        told += [f"role {name} is there and stays as it is: {what}" for what in _of_role(needed.roles[name], found)]
    told += [
        f"role {member} is there and stays as it is: {what}"
        for member, what in _of_memberships(conn, needed, sorted(there))
    ]
    return told


def _of_role(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    told = [
        f"{word} is {_shown(found[word])}, in the backup {_shown(expected[word])}"
        for word in (*ATTRIBUTES, *LIMITS)
        if expected[word] != found[word]
    ]
    if expected["comment"] != found["comment"]:
        told.append("it has another comment than in the backup")
    settings = {setting.partition("=")[0] for setting in set(expected["settings"]) ^ set(found["settings"])}
    if settings:
        told.append(f"its settings of {', '.join(sorted(settings))} differ")
    return told


def _of_memberships(conn: Connection, needed: NeededRoles, names: list[str]) -> list[tuple[str, str]]:
    present = {(row["role"], row["member"]): bool(row["admin"]) for row in fetch_all(conn, _MEMBERSHIPS, (names,))}
    wanted: dict[tuple[str, str], bool] = {}
    for entry in needed.memberships:
        if entry["member"] in names:
            key = (entry["role"], entry["member"])
            wanted[key] = wanted.get(key, False) or bool(entry["admin"])
    told = []
    for (group, member), admin in wanted.items():
        if (group, member) not in present:
            grant = f'GRANT "{group}" TO "{member}"' + (" WITH ADMIN OPTION" if admin else "")
            told.append((member, f"it is no member of {group} ({grant})"))
        elif admin != present[group, member]:
            shown = f"{_shown(present[group, member])}, in the backup {_shown(admin)}"
            told.append((member, f"ADMIN OPTION on {group} is {shown}"))
    for group, member in sorted(set(present) - set(wanted)):
        if group in needed.roles:
            told.append((member, f"it is a member of {group}, in the backup it is not"))
    return told


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "not set" if value is None else str(value)
