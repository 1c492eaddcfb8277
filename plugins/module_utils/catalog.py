# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a database is made of, told in a way that two databases can be compared by.

An inventory names every object by its kind and quoted name, never by OID or column number, so that it is the same
before a dump and after its restore. Everything is printed under an empty ``search_path``: a name in a definition is
always qualified and does not depend on who asks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.catalog_queries import IN_SCHEMAS, OF_DATABASE, acl
from ansible_collections.whitecross.pgops.plugins.module_utils.expressions import Reparser
from ansible_collections.whitecross.pgops.plugins.module_utils.output_settings import pin
from psycopg2 import extensions

Definition = dict[str, Any]
Inventory = dict[str, Definition]

LEDGER_SCHEMA = "pgops"

# The first word or words of a key. The longest match wins ('table' against 'foreign table').
KINDS = (
    "access method",
    "aggregate",
    "cast",
    "collation",
    "column",
    "constraint",
    "conversion",
    "default privileges",
    "domain constraint",
    "event trigger",
    "extension",
    "foreign data wrapper",
    "foreign table",
    "function",
    "index",
    "language",
    "materialized view",
    "operator class",
    "operator family",
    "operator",
    "policy",
    "procedure",
    "publication",
    "rule",
    "schema",
    "sequence",
    "server",
    "statistics",
    "subscription",
    "table",
    "text search configuration",
    "text search dictionary",
    "transform",
    "trigger",
    "type",
    "user mapping",
    "view",
)
_LONGEST_FIRST = sorted(KINDS, key=len, reverse=True)
_KIND = re.compile(f"({'|'.join(_LONGEST_FIRST)}) ")

# Attributes that say where an object sits; they are for the reader of an inventory and never differ on their own.
_PLACE = frozenset({"schema", "table", "column"})
# Who owns an object, who may use it, what it is commented with and how it is tuned make it no other object.
ATTENDANT = frozenset(
    {
        "owner",
        "acl",
        "comment",
        "statistics",
        "toast_options",
        "tablespace",
        "clustered",
        "storage",
        "compression",
        "options",
    }
)


@dataclass(frozen=True)
class Difference:
    """One difference between two inventories.

    ``kind`` is ``missing`` (expected, not found), ``unexpected`` (found, not expected) or ``different``; then
    ``attribute`` names what differs.
    """

    object: str
    kind: str
    attribute: str | None
    expected: Any
    found: Any

    def as_dict(self) -> dict[str, Any]:
        """The difference as plain data for a module's result."""
        return asdict(self)

    def __str__(self) -> str:
        if self.kind == "missing":
            return f"{self.object}: expected, not found"
        if self.kind == "unexpected":
            return f"{self.object}: found, not expected"
        return f"{self.object}: {self.attribute} expected {_show(self.expected)}, found {_show(self.found)}"


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


@contextlib.contextmanager
def _reading(conn: Any) -> Iterator[Any]:
    """A cursor that sees one snapshot, with pinned settings, and leaves no trace in the session.

    In a transaction of the caller (an exported snapshot) a savepoint gives the settings back.
    """
    outside = conn.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE
    cursor = conn.cursor()
    try:
        if outside and conn.autocommit:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        else:
            cursor.execute("SAVEPOINT pgops_catalog")
        pin(cursor)
        yield cursor
    finally:
        if conn.info.transaction_status != extensions.TRANSACTION_STATUS_UNKNOWN:
            cursor.execute(
                "ROLLBACK"
                if outside and conn.autocommit
                else "ROLLBACK TO SAVEPOINT pgops_catalog; RELEASE SAVEPOINT pgops_catalog"
            )
        cursor.close()


def inventory(
    conn: Any, *, schemas: Sequence[str] | None = None, exclude_schemas: Sequence[str] = (LEDGER_SCHEMA,)
) -> Inventory:
    """Every object of the database by kind and name.

    :param conn: an open psycopg2 connection; in a transaction of the caller its snapshot is used.
    :param schemas: only these schemas, and then no objects of the whole database (extensions, publications, ...).
    :param exclude_schemas: schemas left out; by default the ledger's own.
    :returns: ``{'table public.students': {...}, 'column public.students.id': {...}, ...}``; values are JSON-able.
        Members of an extension are left out, the extension itself is in with its version.
    :raises psycopg2.Error: as the server gives it.

    Takes ACCESS SHARE on system catalogs, and for a moment on views and indexes while they are printed.
    """
    version = conn.server_version
    queries: list[Callable[[int], str]] = list(IN_SCHEMAS)
    if schemas is None:
        queries.extend(OF_DATABASE)
    parameters = {"schemas": None if schemas is None else list(schemas), "excluded": list(exclude_schemas)}
    found: Inventory = {}
    with _reading(conn) as cursor:
        for query in queries:
            cursor.execute(query(version), parameters)
            for key, definition in cursor.fetchall():
                found[key] = definition if isinstance(definition, dict) else json.loads(definition)
    return found


def kind_of(key: str) -> str:
    """The kind of the object that a key of an inventory names, ``table`` for ``table public.students``."""
    found = _KIND.match(key)
    return found[1] if found else ""


def name_of(key: str) -> str:
    """The quoted name in a key of an inventory, ``public.students`` for ``table public.students``."""
    return key[len(kind_of(key)) + 1 :]


def fingerprint(found: Mapping[str, Mapping[str, Any]], *, ignore: Iterable[str] = ()) -> str:
    """A SHA-256 of an inventory in hexadecimal; two equal inventories have the same.

    :param ignore: attributes left out (``owner``, ``acl``, ...).

    It tells whether one database moved between two moments. After a dump and restore use :func:`compare`, since some
    expressions print differently then.
    """
    ignored = frozenset(ignore)
    reduced = {
        key: {name: value for name, value in definition.items() if name not in ignored}
        for key, definition in found.items()
    }
    text = json.dumps(reduced, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def compare(
    expected: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Mapping[str, Any]],
    *,
    reparse: Any | None = None,
    ignore: Iterable[str] = ("owner", "acl"),
) -> list[Difference]:
    """The differences between two inventories, sorted by object.

    :param reparse: an idle connection to a database that has the objects and where this role may create temporary
        tables (a scratch database). Expressions that differ in print are parsed again there, in a transaction that is
        rolled back, until they are stable: ``varchar IN (...)`` prints differently after a dump and a restore. Without
        it they are compared as printed.
    :param ignore: attributes that do not count.

    Takes ACCESS SHARE on the tables of differing expressions in the database of ``reparse``.
    """
    ignored = frozenset(ignore) | _PLACE
    differences: list[Difference] = []
    for key in sorted(set(expected) | set(found)):
        if key not in found:
            differences.append(Difference(key, "missing", None, dict(expected[key]), None))
            continue
        if key not in expected:
            differences.append(Difference(key, "unexpected", None, None, dict(found[key])))
            continue
        left, right = expected[key], found[key]
        for attribute in sorted((set(left) | set(right)) - ignored):
            wanted, given = left.get(attribute), right.get(attribute)
            if wanted != given:
                differences.append(Difference(key, "different", attribute, wanted, given))
    if reparse is not None and any(_is_expression(difference) for difference in differences):
        with Reparser.on(reparse) as reparser:
            differences = [
                difference
                for difference in differences
                if not (_is_expression(difference) and _same(reparser, difference, expected, found))
            ]
    return differences


def _is_expression(difference: Difference) -> bool:
    if difference.kind != "different" or difference.attribute is None:
        return False
    return Reparser.knows(kind_of(difference.object), difference.attribute)


def _same(
    reparser: Reparser,
    difference: Difference,
    expected: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Mapping[str, Any]],
) -> bool:
    if difference.expected is None or difference.found is None:
        return False
    kind, attribute = kind_of(difference.object), str(difference.attribute)
    left = reparser.stable(kind, attribute, expected[difference.object])
    right = reparser.stable(kind, attribute, found[difference.object])
    return left is not None and left == right


_PROPERTIES = """
SELECT pg_get_userbyid(d.datdba) AS owner, pg_encoding_to_char(d.encoding) AS encoding, d.datcollate AS collate,
       d.datctype AS ctype, d.datlocprovider::text AS locale_provider, {locale} AS locale, {rules} AS icu_rules,
       d.datconnlimit AS connection_limit, d.datistemplate AS is_template, d.datallowconn AS allow_connections,
       (SELECT t.spcname::text FROM pg_tablespace AS t WHERE t.oid = d.dattablespace) AS tablespace,
       {acl} AS acl, shobj_description(d.oid, 'pg_database') AS comment,
       (SELECT jsonb_object_agg(coalesce(r.rolname::text, ''), s.setconfig)
          FROM pg_db_role_setting AS s LEFT JOIN pg_roles AS r ON r.oid = s.setrole
         WHERE s.setdatabase = d.oid) AS settings
  FROM pg_database AS d
 WHERE d.datname = current_database()
"""


def database_properties(conn: Any) -> dict[str, Any]:
    """What belongs to the database itself and a restore into another one loses (measured: datacl, settings, comment).

    :param conn: an open psycopg2 connection to the database.
    :returns: owner, encoding, collate, ctype, locale_provider, locale, icu_rules, connection_limit, is_template,
        allow_connections, tablespace, acl (sorted, defaults written out), comment, settings (``ALTER DATABASE SET``),
        role_settings (``ALTER ROLE IN DATABASE SET``, by role).
    :raises psycopg2.Error: as the server gives it. Takes ACCESS SHARE on system catalogs.
    """
    version = conn.server_version
    query = _PROPERTIES.format(
        locale="d.datlocale" if version >= 170000 else "d.daticulocale",
        rules="d.daticurules" if version >= 160000 else "NULL::text",
        acl=acl("d.datacl", "d", "d.datdba"),
    )
    with _reading(conn) as cursor:
        cursor.execute(query)
        names = [column.name for column in cursor.description]
        properties = dict(zip(names, cursor.fetchone()))
    roles = {role: sorted(values) for role, values in (properties.pop("settings") or {}).items()}
    properties["settings"] = roles.pop("", [])
    properties["role_settings"] = roles
    return properties
