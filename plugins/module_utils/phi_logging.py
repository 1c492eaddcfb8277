# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether every query through an index of PHI is in the server's log: of all tables or of its own by pgaudit, or by log_statement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all, fetch_one

# What is loaded has a row there, also for a role that may not see shared_preload_libraries.
_SETTINGS = """
SELECT coalesce(json_object_agg(s.name, s.setting), '{}') AS settings FROM pg_catalog.pg_settings s
 WHERE s.name IN ('log_statement', 'log_min_duration_statement', 'pgaudit.log', 'pgaudit.role')
"""
_INDEXES = """
SELECT format('%%I.%%I', n.nspname, c.relname) AS name,
       EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = %s AND has_table_privilege(r.oid, i.indrelid, 'SELECT')) AS by_object
  FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE pg_catalog.obj_description(c.oid, 'pg_class') ~ '^PHI\\y' AND n.nspname <> 'pgops'
 ORDER BY 1
"""
_EXCEPTIONS = """
SELECT format('%%s in %%s', coalesce(r.rolname, 'every role'), coalesce(d.datname, 'every database')) AS name,
       substr(c, strpos(c, '=') + 1) AS value
  FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
  LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole CROSS JOIN LATERAL unnest(s.setconfig) AS c
 WHERE (s.setdatabase = 0 OR d.datname = current_database()) AND split_part(c, '=', 1) = %s ORDER BY 1
"""


@dataclass(frozen=True)
class Searches:
    """The indexes of PHI of a database.

    :ivar indexes: those whose comment begins with PHI.
    :ivar logged_by: the setting that has every query logged; None where none has.
    :ivar bare: indexes through which queries leave no line in the log.
    :ivar exceptions: whose sessions have a setting of their own, such as ``app in clinic``.
    """

    indexes: list[str]
    logged_by: str | None
    bare: list[str]
    exceptions: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """:return: for the audit."""
        return {
            "indexes": self.indexes,
            "logged_by": self.logged_by,
            "not_logged": self.bare,
            "exceptions": self.exceptions,
        }


def searches(conn: Connection) -> Searches:
    """Look at marks and settings; as the role in hand has them, which is no role of the application. No lock on tables."""
    settings = dict((fetch_one(conn, _SETTINGS) or {}).get("settings") or {})
    found = fetch_all(conn, _INDEXES, (settings.get("pgaudit.role") or None,))
    names = [str(row["name"]) for row in found]
    if not names:
        return Searches([], None, [])
    setting = logged_by(settings)
    bare = [] if setting else [str(row["name"]) for row in found if not row["by_object"]]
    how = setting or (None if bare else "pgaudit.role")
    own = fetch_all(conn, _EXCEPTIONS, (how,)) if how else []
    exceptions = [
        str(row["name"]) for row in own if how == "pgaudit.role" or not logged_by({str(how): str(row["value"])})
    ]
    return Searches(names, how, bare, exceptions)


def logged_by(settings: Mapping[str, str]) -> str | None:
    """:return: the setting by which every query is logged."""
    classes = [word.strip().lower() for word in settings.get("pgaudit.log", "").split(",")]
    # The last word counts: "all, -read" logs no query.
    chosen = [word for word in classes if word.lstrip("-") in ("all", "read", "none")]
    if chosen and chosen[-1] in ("all", "read"):
        return "pgaudit.log"
    if settings.get("log_statement") == "all":
        return "log_statement"
    return "log_min_duration_statement" if settings.get("log_min_duration_statement") == "0" else None
