# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Privileges, comments and function definitions of a database: how they are, and the statements that make them so.

They hang on objects that stay while they change, so that nothing is there or gone by which a change could be told.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.sql_names import NAME
from psycopg2 import sql

PRIVILEGES, COMMENT, DEFINITION = "privileges", "comment", "definition"

# pg_class.oid and the like, with the column's number or 0: an object keeps it under another name.
Key = tuple[str, int, int]
# Who is granted (None is PUBLIC), what, with grant option, by whom.
Grant = tuple["str | None", str, bool, str]

_MEMBER = "EXISTS (SELECT FROM pg_depend m WHERE m.classid = '{0}'::regclass AND m.objid = {1} AND m.deptype = 'e')"
_OTHERS = "{0} IN ('pg_catalog', 'information_schema', 'pgops') OR {0} ~ '^pg_(toast|temp)'"
# In one query, since each look is a round trip. 16384 is FirstNormalObjectId: what is below belongs to the server.
_LOOK = f"""
WITH schemas AS MATERIALIZED (
    SELECT oid, nspname, nspacl, nspowner FROM pg_namespace WHERE NOT ({_OTHERS.format("nspname")})),
granted AS (
    SELECT 'pg_class'::regclass AS class, c.oid, 0 AS sub, c.relowner AS owner, NULL AS part,
           coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)) AS acl
      FROM pg_class c JOIN schemas n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    UNION ALL
    SELECT 'pg_class'::regclass, c.oid, a.attnum, c.relowner, quote_ident(a.attname), a.attacl
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN schemas n ON n.oid = c.relnamespace
     WHERE a.attacl IS NOT NULL AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT 'pg_proc'::regclass, p.oid, 0, p.proowner, NULL, coalesce(p.proacl, acldefault('f', p.proowner))
      FROM pg_proc p JOIN schemas n ON n.oid = p.pronamespace
     WHERE p.prokind <> 'a' AND NOT {_MEMBER.format("pg_proc", "p.oid")}
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid, 0, t.typowner, NULL, coalesce(t.typacl, acldefault('T', t.typowner))
      FROM pg_type t JOIN schemas n ON n.oid = t.typnamespace
     WHERE (t.typtype IN ('d', 'e', 'r') OR t.typrelid IN (SELECT oid FROM pg_class WHERE relkind = 'c'))
    UNION ALL
    SELECT 'pg_namespace'::regclass, n.oid, 0, n.nspowner, NULL, coalesce(n.nspacl, acldefault('n', n.nspowner))
      FROM schemas n),
objects AS (
    SELECT c.tableoid AS class, c.oid FROM pg_class c WHERE c.relkind <> 't' UNION ALL
    SELECT tableoid, oid FROM pg_proc UNION ALL SELECT tableoid, oid FROM pg_type WHERE typcategory <> 'A' UNION ALL
    SELECT tableoid, oid FROM pg_namespace UNION ALL SELECT tableoid, oid FROM pg_constraint UNION ALL
    SELECT tableoid, oid FROM pg_trigger WHERE NOT tgisinternal UNION ALL SELECT tableoid, oid FROM pg_policy UNION ALL
    SELECT tableoid, oid FROM pg_statistic_ext UNION ALL SELECT tableoid, oid FROM pg_rewrite)
SELECT json_build_object(
    'database', (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),
    'privileges', (
        SELECT json_agg(json_build_array(g.class::text, g.oid::bigint, g.sub, i.type, i.identity, json_build_array(
                   pg_get_userbyid(g.owner), g.part, (
                   SELECT json_agg(json_build_array(CASE WHEN e.grantee <> 0 THEN pg_get_userbyid(e.grantee) END,
                              e.privilege_type, e.is_grantable, pg_get_userbyid(e.grantor))) FROM aclexplode(g.acl) e))))
          FROM granted g CROSS JOIN LATERAL pg_identify_object(g.class, g.oid, g.sub) i),
    'comment', (
        SELECT json_agg(json_build_array(d.classoid::regclass::text, d.objoid::bigint, d.objsubid, i.type, i.identity, d.description,
                   quote_ident(a.attname)))
          FROM pg_description d CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) i
          LEFT JOIN pg_attribute a ON d.classoid = 'pg_class'::regclass AND a.attrelid = d.objoid AND a.attnum = nullif(d.objsubid, 0)
         WHERE (d.objoid >= 16384 OR d.objoid = to_regnamespace('public')) AND NOT EXISTS (
               SELECT FROM pg_depend m WHERE m.classid = d.classoid AND m.objid = d.objoid AND m.deptype = 'e')
           AND NOT coalesce({_OTHERS.format("coalesce(i.schema, i.identity)")}, false)),
    'definition', (
        SELECT json_agg(json_build_array('pg_proc', p.oid::bigint, 0, i.type, i.identity, pg_get_functiondef(p.oid)))
          FROM pg_proc p JOIN schemas n ON n.oid = p.pronamespace
         CROSS JOIN LATERAL pg_identify_object('pg_proc'::regclass, p.oid, 0) i
         WHERE p.prokind <> 'a' AND NOT {_MEMBER.format("pg_proc", "p.oid")}),
    'there', (
        SELECT json_object_agg(class, oids) FROM (
            SELECT class::regclass::text AS class, json_agg(oid::bigint) AS oids FROM objects WHERE oid >= 16384 GROUP BY 1) o),
    'columns', (SELECT json_object_agg(c.oid, c.relnatts) FROM pg_class c JOIN schemas n ON n.oid = c.relnamespace
                 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')),
    'dropped', (
        SELECT json_object_agg(relation, numbers) FROM (
            SELECT a.attrelid AS relation, json_agg(a.attnum) AS numbers
              FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN schemas n ON n.oid = c.relnamespace
             WHERE a.attisdropped GROUP BY 1) d)
    )::text AS found
"""
# A column that was dropped keeps its row in pg_attribute, and pg_identify_object gives the name that it has there.
_NAMES = """
SELECT asked.class, asked.oid, asked.sub, i.type, i.identity, quote_ident(a.attname)
  FROM jsonb_to_recordset(%s) AS asked(class text, oid oid, sub int)
  LEFT JOIN pg_attribute a ON asked.class::regclass = 'pg_class'::regclass AND a.attrelid = asked.oid
                          AND a.attnum = nullif(asked.sub, 0)
 CROSS JOIN LATERAL pg_identify_object(asked.class::regclass, asked.oid, asked.sub) i
 WHERE i.identity IS NOT NULL AND a.attisdropped IS NOT TRUE
"""
# By name, also in a table that was dropped and made again.
_COLUMNS_NOW = """
SELECT asked.number, a.attrelid, a.attnum
  FROM jsonb_to_recordset(%s) AS asked(number int, relation text, part text)
  JOIN pg_attribute a ON a.attrelid = to_regclass(asked.relation) AND quote_ident(a.attname) = asked.part AND NOT a.attisdropped
"""


@dataclass(frozen=True)
class Name:
    """What an object is called.

    :ivar type: as pg_identify_object calls it: ``table``, ``table column``, ``function``.
    :ivar identity: its qualified and quoted name.
    :ivar part: of a column its own quoted name, with which the identity ends. A name may hold any character, a dot too.
    """

    type: str
    identity: str
    part: str | None = None

    def __str__(self) -> str:
        return f"{self.type} {self.identity}"

    @property
    def relation(self) -> str:
        """The table or view that has the column; the object itself where it is no column."""
        return self.identity if self.part is None else self.identity[: -len(f".{self.part}")]


@dataclass(frozen=True)
class Attribute:
    """One attribute of one object.

    :ivar called: the object's name.
    :ivar value: a comment or definition; of privileges a frozenset of grants.
    :ivar owner: of what has privileges.
    """

    key: Key
    called: Name
    value: Any
    owner: str | None = None

    @property
    def type(self) -> str:
        return self.called.type

    @property
    def name(self) -> str:
        return str(self.called)


class Look:
    """The attributes of a database at one moment.

    :ivar of: by kind (``privileges``, ``comment``, ``definition``), by key.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        found = json.loads(text)
        self.database = int(found["database"])
        self.of: dict[str, dict[Key, Attribute]] = {
            # What somebody drops at this moment has no name any more.
            kind: {(row[0], row[1], row[2]): _attribute(kind, row) for row in found[kind] or [] if None not in row[3:6]}
            for kind in (PRIVILEGES, COMMENT, DEFINITION)
        }
        self.named = {
            kind: {attribute.name: attribute for attribute in attributes.values()}
            for kind, attributes in self.of.items()
        }
        self._there = {name: set(oids) for name, oids in (found["there"] or {}).items()}
        self._columns = {int(oid): int(last) for oid, last in (found["columns"] or {}).items()}
        self._dropped = {int(oid): set(numbers) for oid, numbers in (found.get("dropped") or {}).items()}

    def has(self, key: Key) -> bool:
        """:return: whether the object was there, with or without the attribute."""
        name, oid, column = key
        if oid not in self._there.get(name, ()):
            return False
        return column <= self._columns.get(oid, 0) and column not in self._dropped.get(oid, ())

    def packed(self) -> str:
        """:return: the look as a word for a ledger's progress, from which :func:`unpacked` makes it again."""
        return base64.b64encode(zlib.compress(self.text.encode())).decode("ascii")


def unpacked(word: str) -> Look:
    """:return: what :meth:`Look.packed` gave."""
    return Look(zlib.decompress(base64.b64decode(word)).decode())


def look(conn: Connection) -> Look:
    """Look at all privileges, comments and function definitions but the server's and the ledger's own.

    Call inside a transaction; takes no lock on a table.
    """
    with qualified_names(conn):
        row = fetch_one(conn, _LOOK)
    assert row is not None
    return Look(row["found"])


@contextmanager
def qualified_names(conn: Connection) -> Iterator[None]:
    """Names are printed and read with their schema inside the block, and bodies of functions not looked into. Call inside a
    transaction."""
    row = fetch_one(
        conn,
        "SELECT current_setting('search_path') AS path, current_setting('check_function_bodies') AS checked, "
        "set_config('search_path', 'pg_catalog', true), set_config('check_function_bodies', 'off', true)",
    )
    assert row is not None
    yield
    # After an error the transaction is rolled back, and these with it.
    execute(
        conn,
        "SELECT set_config('search_path', %s, true), set_config('check_function_bodies', %s, true)",
        (row["path"], row["checked"]),
    )


def names_now(conn: Connection, keys: Sequence[Key]) -> dict[Key, Name]:
    """:return: of those objects that are still there the name of now."""
    if not keys:
        return {}
    asked = json.dumps([dict(zip(("class", "oid", "sub"), key)) for key in keys])
    with conn.cursor() as cursor:
        cursor.execute(_NAMES, (asked,))
        return {(row[0], int(row[1]), row[2]): Name(*row[3:]) for row in cursor.fetchall()}


def columns_now(conn: Connection, names: Sequence[Name]) -> dict[Name, Key]:
    """:return: of those columns whose name a column has now the key of that one."""
    if not names:
        return {}
    asked = [{"number": number, "relation": name.relation, "part": name.part} for number, name in enumerate(names)]
    with conn.cursor() as cursor:
        cursor.execute(_COLUMNS_NOW, (json.dumps(asked),))
        return {names[row[0]]: ("pg_class", int(row[1]), row[2]) for row in cursor.fetchall()}


def comment_statement(name: Name, comment: str | None) -> sql.Composed:
    """:return: COMMENT ON the object of that name; None takes the comment away."""
    word, identity = name.type.upper(), name.identity
    if word.endswith(" COLUMN"):
        word = "COLUMN"
    elif word == "DOMAIN CONSTRAINT":
        # Its own name stands first, and may itself hold the word.
        word, identity = "CONSTRAINT", re.sub(rf"^({NAME}) on ", r"\1 ON DOMAIN ", identity)
    elif word == "TABLE CONSTRAINT":
        word = "CONSTRAINT"
    elif word == "STATISTICS OBJECT":
        word = "STATISTICS"
    return sql.SQL("COMMENT ON {} {} IS {}").format(sql.SQL(word), sql.SQL(identity), sql.Literal(comment))


def privilege_statements(
    name: Name, lost: Iterable[Grant], gained: Iterable[Grant]
) -> Iterator[tuple[str, sql.Composed]]:
    """The statements that take away ``gained`` and give back ``lost``.

    :return: each with the role that has to run it, since a privilege says who granted it.
    """
    target, part = _target(name)
    for grantee, privilege, _, grantor in sorted(gained, key=str):
        yield (
            grantor,
            sql.SQL("REVOKE {}{} ON {} FROM {}").format(sql.SQL(privilege), part, target, _role(grantee)),
        )
    for grantee, privilege, grantable, grantor in sorted(lost, key=str):
        option = sql.SQL(" WITH GRANT OPTION" if grantable else "")
        yield (
            grantor,
            sql.SQL("GRANT {}{} ON {} TO {}{}").format(sql.SQL(privilege), part, target, _role(grantee), option),
        )


def grants(listed: Iterable[Sequence[Any]]) -> frozenset[Grant]:
    """:return: privileges out of a ledger's progress."""
    return frozenset((item[0], item[1], item[2], item[3]) for item in listed)


def words(given: Iterable[Grant]) -> str:
    """:return: ``SELECT, INSERT of nurse``."""
    by_role: dict[str, list[str]] = {}
    for grantee, privilege, grantable, _ in sorted(given, key=str):
        by_role.setdefault(grantee or "PUBLIC", []).append(privilege + (" WITH GRANT OPTION" if grantable else ""))
    return "; ".join(f"{', '.join(privileges)} of {role}" for role, privileges in by_role.items())


def checksum(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def _target(name: Name) -> tuple[sql.SQL, sql.SQL]:
    if name.part is not None:
        return sql.SQL(f"TABLE {name.relation}"), sql.SQL(f" ({name.part})")
    words = {"sequence": "SEQUENCE", "schema": "SCHEMA", "type": "TYPE", "function": "ROUTINE", "procedure": "ROUTINE"}
    return sql.SQL(f"{words.get(name.type, 'TABLE')} {name.identity}"), sql.SQL("")


def _role(name: str | None) -> sql.Composable:
    return sql.SQL("PUBLIC") if name is None else sql.Identifier(name)


def _attribute(kind: str, row: Sequence[Any]) -> Attribute:
    key = (str(row[0]), int(row[1]), int(row[2]))
    if kind != PRIVILEGES:
        return Attribute(key, Name(row[3], row[4], *row[6:]), row[5])
    owner, part, grants = row[5]
    return Attribute(key, Name(row[3], row[4], part), frozenset(tuple(grant) for grant in grants or []), owner)
