# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Can the server make the extensions that pending versions ask for? Told before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all, server_version
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from psycopg2 import errorcodes

# Those that PostgreSQL's own contrib package brings and a migration is likely to ask for.
CONTRIB = frozenset(
    {
        "btree_gin",
        "btree_gist",
        "citext",
        "cube",
        "fuzzystrmatch",
        "hstore",
        "intarray",
        "ltree",
        "pg_stat_statements",
        "pg_trgm",
        "pgcrypto",
        "postgres_fdw",
        "tablefunc",
        "unaccent",
        "uuid-ossp",
    }
)

_LOOK = """
SELECT w.name, a.name IS NOT NULL AS available,
       coalesce(v.superuser AND NOT v.trusted, false) AS superuser,
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') AS may_create,
       (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user) AS is_superuser,
       current_user::text AS role
  FROM pg_catalog.unnest(%s::text[]) AS w(name)
  LEFT JOIN pg_catalog.pg_available_extensions a ON a.name = w.name
  LEFT JOIN pg_catalog.pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_extension x WHERE x.extname = w.name)
 ORDER BY 1
"""


def refuse(conn: Connection, migrations: Sequence[Mapping[str, Any]]) -> None:
    """Look for the extensions that versions create and the database does not have. Reads catalogs only.

    :param migrations: the versions that are to be applied.
    :raises PgopsError: the server does not have one, or the role may not create it.
    """
    wanted: dict[str, Mapping[str, Any]] = {}
    for migration in migrations:
        for step in migration["steps"]:
            for statement in step.get("up", []):
                made = statement.get("creates")
                if made and made["kind"] == "extension":
                    wanted.setdefault(str(made["name"]), migration)
    if not wanted:
        return
    found = fetch_all(conn, _LOOK, (sorted(wanted),))
    absent = [row["name"] for row in found if not row["available"]]
    if absent:
        raise _absent(conn, absent, wanted[absent[0]])
    for row in found:
        if row["is_superuser"] or (row["may_create"] and not row["superuser"]):
            continue
        version, database = wanted[row["name"]]["version"], str(conn.info.dbname)
        needs = "only a superuser may create it" if row["superuser"] else f"{row['role']} lacks CREATE on the database"
        raise PgopsError(
            f"Nothing was applied to {database}: version {version} needs the extension {row['name']}, and {needs}.",
            sqlstate=errorcodes.INSUFFICIENT_PRIVILEGE,
            database=database,
            object_name=f"extension {row['name']}",
            hint=f'As a superuser, in {database}: CREATE EXTENSION "{row["name"]}" SCHEMA public; then run it again.',
            extra={"reason": "extension", "extensions": [row["name"]]},
        )


def _absent(conn: Connection, names: Sequence[str], migration: Mapping[str, Any]) -> PgopsError:
    major = server_version(conn)[0]
    database = str(conn.info.dbname)
    listed = " and ".join(names)
    if CONTRIB.issuperset(names):
        package = (
            "install PostgreSQL's contrib package on it, postgresql-contrib on Debian and Ubuntu, "
            f"postgresql{major}-contrib on Red Hat"
        )
    else:
        package = f"install the package that brings it for PostgreSQL {major}"
    return PgopsError(
        f"Nothing was applied to {database}: version {migration['version']} needs the extension"
        f"{'s' if len(names) > 1 else ''} {listed}, which the server does not have; {package}, then run it again.",
        sqlstate=errorcodes.FEATURE_NOT_SUPPORTED,
        database=database,
        object_name=f"extension {names[0]}",
        extra={"reason": "extension", "extensions": list(names)},
    )
