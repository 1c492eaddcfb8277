# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What in a database belongs to a role, as parts of queries on the catalogs."""

from __future__ import annotations

USER_SCHEMA = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"


def not_of_extension(catalog: str, oid: str) -> str:
    """What an extension brought is the extension's, not ours to own."""
    return (
        f"NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.{catalog}'::regclass "
        f"AND d.objid = {oid} AND d.deptype = 'e')"
    )


# A sequence of a column goes with its table, and cannot be given away alone.
NOT_OF_COLUMN = """NOT (c.relkind = 'S' AND EXISTS (
                    SELECT FROM pg_catalog.pg_depend s WHERE s.classid = 'pg_catalog.pg_class'::regclass AND s.objid = c.oid
                       AND s.refclassid = 'pg_catalog.pg_class'::regclass AND s.refobjsubid > 0 AND s.deptype IN ('a', 'i')))"""
RELATION_NOT_OF_EXTENSION = not_of_extension("pg_class", "c.oid")
_RELATIONS = f"""
              FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND {USER_SCHEMA} AND {RELATION_NOT_OF_EXTENSION}"""
# Not the type of a table's rows, of arrays and of multiranges, which go with what they are of.
TYPES = f"""
              FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
             WHERE {USER_SCHEMA} AND t.typtype <> 'm' AND {not_of_extension("pg_type", "t.oid")}
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = t.oid)
               AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))"""
ROUTINES = f"""
              FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             WHERE {USER_SCHEMA} AND {not_of_extension("pg_proc", "p.oid")}
               -- Not what makes a range of two values, which goes with the type.
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend i WHERE i.classid = 'pg_catalog.pg_proc'::regclass
                                  AND i.objid = p.oid AND i.refclassid = 'pg_catalog.pg_type'::regclass AND i.deptype = 'i')"""


def _owners_of(catalog: str, owner: str, schema: str | None = None) -> str:
    """Owners of what a catalog holds beyond what initdb made, by the columns that name owner and schema."""
    of_users = (
        f"JOIN pg_catalog.pg_namespace n ON n.oid = o.{schema} WHERE {USER_SCHEMA}"
        if schema
        else "WHERE o.oid >= 16384"
    )
    holder = "n.nspowner" if schema else "NULL::oid"
    return f"SELECT o.{owner} AS owner, {holder} AS holder FROM pg_catalog.{catalog} o {of_users} AND {not_of_extension(catalog, 'o.oid')}"


# Every kind of object that a restore gives back to its owner, as the comparison of catalogs reads them: who owns it, and who
# its schema, where it is in one.
ALL_OWNERS = "\nUNION ".join(
    (
        f"SELECT c.relowner AS owner, n.nspowner AS holder {_RELATIONS}",
        f"SELECT t.typowner, n.nspowner {TYPES}",
        f"SELECT p.proowner, n.nspowner {ROUTINES}",
        f"SELECT n.nspowner, NULL::oid FROM pg_catalog.pg_namespace n WHERE {USER_SCHEMA} AND {not_of_extension('pg_namespace', 'n.oid')}",
        "SELECT datdba, NULL::oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()",
        _owners_of("pg_statistic_ext", "stxowner", "stxnamespace"),
        _owners_of("pg_collation", "collowner", "collnamespace"),
        _owners_of("pg_operator", "oprowner", "oprnamespace"),
        _owners_of("pg_opfamily", "opfowner", "opfnamespace"),
        _owners_of("pg_opclass", "opcowner", "opcnamespace"),
        _owners_of("pg_conversion", "conowner", "connamespace"),
        _owners_of("pg_ts_dict", "dictowner", "dictnamespace"),
        _owners_of("pg_ts_config", "cfgowner", "cfgnamespace"),
        _owners_of("pg_event_trigger", "evtowner"),
        _owners_of("pg_publication", "pubowner"),
        _owners_of("pg_subscription", "subowner"),
        _owners_of("pg_foreign_data_wrapper", "fdwowner"),
        _owners_of("pg_foreign_server", "srvowner"),
        _owners_of("pg_language", "lanowner"),
    )
)
