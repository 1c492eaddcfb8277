# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""An enum type: the columns that use it, and what stands on them; :mod:`enum_statements` puts that back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all, fetch_one
from psycopg2 import sql

MAX_NAME_BYTES = 63
_ENDING = "_pgops_new"


@dataclass(frozen=True)
class Column:
    """A column that has the type itself, not an array of it. ``grants`` and the like are statements."""

    number: int
    name: str
    not_null: bool
    not_null_name: str | None
    default: str | None
    comment: str | None
    grants: tuple[str, ...]
    statistics: int | None
    options: tuple[str, ...]


@dataclass(frozen=True)
class Index:
    """:ivar texts: whether an expression or its predicate reads the column or names a label."""

    schema: str
    name: str
    definition: str
    comment: str | None
    texts: bool


@dataclass(frozen=True)
class Check:
    """A check that reads the column or names a label."""

    name: str
    definition: str
    validated: bool
    comment: str | None


@dataclass(frozen=True)
class Late:
    """A check or NOT NULL that is NOT VALID: rows of before may break it, and cannot be written again then."""

    name: str
    condition: str


@dataclass(frozen=True)
class Table:
    """:ivar size: bytes with indexes and partitions, as far as they are looked at here.
    :ivar key: a column that batches can go by.
    :ivar stranger: its owner, where the session is no member of that role.
    :ivar room: whether the session may create in its schema."""

    oid: int
    schema: str
    name: str
    size: int
    hidden: bool
    key: str | None
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...]
    checks: tuple[Check, ...]
    late: tuple[Late, ...]
    stranger: str | None
    room: bool

    @property
    def full(self) -> str:
        """:return: the name as a person says it."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        """:return: the name for a statement."""
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True)
class Policy:
    """A policy that reads the column or names a label."""

    schema: str
    table: str
    name: str
    definition: str
    comment: str | None
    stranger: str | None


@dataclass(frozen=True)
class Enum:
    """:ivar written: the type as the server writes it after a literal.
    :ivar stranger: its owner, where the session is no member of that role.
    :ivar room: whether the session may create in its schema.
    :ivar strangers: what stands on the type and can be carried over by no way of ours, in the server's words.
    :ivar rewritten: what only a rewrite of the table carries over."""

    oid: int
    schema: str
    name: str
    written: str
    labels: tuple[str, ...]
    owner: str
    stranger: str | None
    room: bool
    comment: str | None
    grants: tuple[tuple[str | None, bool], ...]
    tables: tuple[Table, ...]
    policies: tuple[Policy, ...]
    strangers: tuple[str, ...]
    rewritten: tuple[str, ...]

    @property
    def size(self) -> int:
        """:return: bytes of all tables that use it."""
        return sum(table.size for table in self.tables)

    @property
    def identifier(self) -> sql.Identifier:
        """:return: the name for a statement."""
        return sql.Identifier(self.schema, self.name)


def aside(name: str) -> str:
    """:return: the name under which something is made while what has the name still serves."""
    whole = name.encode()
    if len(whole) + len(_ENDING) > MAX_NAME_BYTES:
        # Two long names may begin alike.
        ending = f"_{hashlib.sha256(whole).hexdigest()[:8]}{_ENDING}"
        return whole[: MAX_NAME_BYTES - len(ending)].decode(errors="ignore") + ending
    return name + _ENDING


_SET_PATH = "SELECT set_config('search_path', %s, true)"
_ENUM = """
SELECT t.oid::int8 AS oid, t.typarray::int8 AS array_oid, pg_get_userbyid(t.typowner)::text AS owner,
       format_type(t.oid, NULL) AS written, has_schema_privilege(n.oid, 'CREATE') AS room,
       CASE WHEN NOT pg_has_role(t.typowner, 'USAGE') THEN pg_get_userbyid(t.typowner)::text END AS stranger,
       obj_description(t.oid, 'pg_type') AS comment,
       ARRAY(SELECT e.enumlabel::text FROM pg_enum AS e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) AS labels
  FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace
 WHERE n.nspname = %s AND t.typname = %s AND t.typtype = 'e'
"""
_GRANTS = """
SELECT g.rolname::text AS grantee, a.is_grantable AS grantable
  FROM pg_type AS t CROSS JOIN aclexplode(coalesce(t.typacl, acldefault('T', t.typowner))) AS a
  LEFT JOIN pg_roles AS g ON g.oid = a.grantee
 WHERE t.oid = %s AND a.grantee <> t.typowner ORDER BY 1
"""
_COLUMNS = """
SELECT c.oid::int8 AS table_oid, n.nspname::text AS schema, c.relname::text AS table, a.attnum AS number,
       a.attname::text AS name, a.attnotnull AS not_null, pg_get_expr(d.adbin, d.adrelid) AS fallback,
       (SELECT k.conname::text FROM pg_constraint AS k
         WHERE k.conrelid = c.oid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum]) AS not_null_name,
       col_description(c.oid, a.attnum) AS comment, nullif(a.attstattarget, -1) AS statistics,
       coalesce(a.attoptions, '{}') AS options, row_security_active(c.oid) AS hidden,
       has_schema_privilege(n.oid, 'CREATE') AS room,
       CASE WHEN NOT pg_has_role(c.relowner, 'USAGE') THEN pg_get_userbyid(c.relowner)::text END AS stranger,
       c.relkind = 'p' OR c.relhassubclass OR c.relispartition AS has_children,
       coalesce((SELECT sum(pg_total_relation_size(p.relid)) FROM pg_partition_tree(c.oid) AS p),
                pg_total_relation_size(c.oid))::int8 AS size
  FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE a.atttypid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount = 0 AND a.attgenerated = ''
   AND c.relkind IN ('r', 'p')
 ORDER BY n.nspname, c.relname, a.attnum
"""
_COLUMN_GRANTS = """
SELECT a.attrelid::int8 AS table_oid, a.attnum AS number, x.grantor = c.relowner AS plain,
       format('GRANT %%s (%%I) ON %%I.%%I TO %%s%%s', x.privilege_type, a.attname, n.nspname, c.relname,
              coalesce(quote_ident(g.rolname), 'PUBLIC'), CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
         AS statement
  FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
 CROSS JOIN aclexplode(a.attacl) AS x LEFT JOIN pg_roles AS g ON g.oid = x.grantee
 WHERE a.attrelid = ANY (%s::oid[]) ORDER BY statement
"""
# A column that batches can go by: not the enum itself, NOT NULL, and first in a btree.
_KEYS = """
SELECT DISTINCT ON (i.indrelid) i.indrelid::int8 AS table_oid, a.attname::text AS name
  FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS m ON m.oid = c.relam
  JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
 WHERE i.indrelid = ANY (%s::oid[]) AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree' AND a.attnotnull
   AND a.atttypid <> %s
 ORDER BY i.indrelid, i.indisprimary DESC, i.indisunique DESC, i.indnkeyatts, a.attnum
"""
_DEPENDANTS = """
SELECT DISTINCT d.classid::regclass::text AS class, d.objid::int8 AS object, d.objsubid AS part,
       pg_describe_object(d.classid, d.objid, d.objsubid) AS what
  FROM pg_depend AS d
 WHERE d.refclassid = 'pg_type'::regclass AND d.refobjid = ANY (%(types)s::oid[])
    OR d.refclassid = 'pg_class'::regclass
   AND (d.refobjid, d.refobjsubid) IN (SELECT * FROM unnest(%(tables)s::oid[], %(numbers)s::int[]))
 ORDER BY what
"""
_INDEXES = """
SELECT c.oid::int8 AS oid, i.indrelid::int8 AS table_oid, n.nspname::text AS schema, c.relname::text AS name,
       pg_get_indexdef(c.oid) AS definition, obj_description(c.oid, 'pg_class') AS comment,
       coalesce(i.indexprs::text, '') || coalesce(i.indpred::text, '') AS nodes,
       i.indisclustered OR i.indisreplident OR c.reltablespace <> 0 OR NOT i.indisvalid AS special
  FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.oid = ANY (%s::oid[]) ORDER BY n.nspname, c.relname
"""
_CONSTRAINTS = """
SELECT k.oid::int8 AS oid, k.conrelid::int8 AS table_oid, k.conname::text AS name, k.contype::text AS type,
       k.convalidated AS validated, obj_description(k.oid, 'pg_constraint') AS comment,
       regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '') AS definition
  FROM pg_constraint AS k WHERE k.oid = ANY (%s::oid[]) ORDER BY k.conname
"""
_POLICIES = """
SELECT p.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS table, p.polname::text AS name,
       obj_description(p.oid, 'pg_policy') AS comment,
       CASE WHEN NOT pg_has_role(c.relowner, 'USAGE') THEN pg_get_userbyid(c.relowner)::text END AS stranger,
       format('CREATE POLICY %%I ON %%I.%%I AS %%s FOR %%s TO %%s%%s%%s', p.polname, n.nspname, c.relname,
              CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
              CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
                            ELSE 'ALL' END,
              (SELECT string_agg(CASE WHEN r = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ')
                 FROM unnest(p.polroles) AS r),
              ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
              ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')') AS definition
  FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE p.oid = ANY (%s::oid[]) ORDER BY n.nspname, c.relname, p.polname
"""
# They would fire once more for every row that is copied.
_TRIGGERS = """
SELECT 'trigger ' || t.tgname || ' on ' || c.relname || ', which fires for every row that is copied' AS what
  FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
 WHERE t.tgrelid = ANY (%s::oid[]) AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 16 <> 0
   AND t.tgattr::text = '' AND t.tgname <> ALL (%s) ORDER BY t.tgname
"""
_LATE = """
SELECT k.conrelid::int8 AS table_oid, k.conname::text AS name,
       CASE k.contype WHEN 'c' THEN pg_get_expr(k.conbin, k.conrelid) ELSE format('%%I IS NOT NULL', a.attname) END AS condition
  FROM pg_constraint AS k LEFT JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
 WHERE k.conrelid = ANY (%s::oid[]) AND k.contype IN ('c', 'n') AND NOT k.convalidated
   AND pg_get_constraintdef(k.oid) NOT LIKE '%%NOT ENFORCED%%' ORDER BY k.conname
"""
# Columns that hold rows of a table: as it is, in an array, under a domain or inside another composite type.
_CARRIERS = """
WITH RECURSIVE carrier (oid) AS (
  SELECT c.reltype FROM pg_class AS c WHERE c.oid = ANY (%s::oid[])
  UNION
  SELECT next.oid FROM carrier AS t CROSS JOIN LATERAL (
    SELECT y.oid FROM pg_type AS y WHERE y.typelem = t.oid OR y.typbasetype = t.oid
    UNION ALL
    SELECT c.reltype FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
     WHERE a.atttypid = t.oid AND NOT a.attisdropped AND c.relkind = 'c'
  ) AS next
)
SELECT 'column ' || a.attname || ' of ' || n.nspname || '.' || c.relname || ', which holds rows of a table' AS what
  FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE a.atttypid IN (SELECT oid FROM carrier) AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'm') ORDER BY what
"""
# Carried over by ALTER COLUMN ... TYPE, and not by a column beside.
_REWRITTEN = ("pg_statistic_ext", "pg_publication_rel")


def find(conn: Connection, schema: str, name: str) -> Enum | None:
    """Read an enum with everything that stands on it. Call inside a transaction.

    Takes ACCESS SHARE on the tables for a moment, to learn their size.

    :return: None where there is no enum of that name.
    """
    # Names in what is read are whole then, so that it means the same wherever it is run.
    before = fetch_one(conn, "SELECT current_setting('search_path') AS path") or {}
    fetch_one(conn, _SET_PATH, ("pg_catalog",))
    found = _find(conn, schema, name)
    fetch_one(conn, _SET_PATH, (before["path"],))
    return found


def _find(conn: Connection, schema: str, name: str) -> Enum | None:
    row = fetch_one(conn, _ENUM, (schema, name))
    if row is None:
        return None
    oid = int(row["oid"])
    found = fetch_all(conn, _COLUMNS, (oid,))
    oids = sorted({int(item["table_oid"]) for item in found})
    dependants = fetch_all(
        conn,
        _DEPENDANTS,
        {
            "types": [oid, int(row["array_oid"])],
            "tables": [int(item["table_oid"]) for item in found],
            "numbers": [int(item["number"]) for item in found],
        },
    )
    by_class: dict[str, list[Mapping[str, Any]]] = {}
    for item in dependants:
        by_class.setdefault(str(item["class"]), []).append(item)
    strangers: list[str] = []
    rewritten: list[str] = []
    ours = {(int(item["table_oid"]), int(item["number"])) for item in found}
    _other_relations(conn, by_class.pop("pg_class", []), ours, strangers)
    by_class["pg_type"] = [item for item in by_class.get("pg_type", []) if int(item["object"]) != int(row["array_oid"])]
    _other_defaults(conn, by_class.pop("pg_attrdef", []), ours, strangers)
    indexes = _indexes(conn, dependants, oid, found, strangers, rewritten)
    checks = _checks(conn, by_class.pop("pg_constraint", []), oids, strangers, rewritten)
    policies = fetch_all(conn, _POLICIES, (_objects(by_class.pop("pg_policy", [])),))
    for kind in _REWRITTEN:
        rewritten += [str(item["what"]) for item in by_class.pop(kind, [])]
    for rest in by_class.values():
        strangers += [str(item["what"]) for item in rest]
    grants, other_grants = _column_grants(conn, oids, ours)
    rewritten += other_grants
    rewritten += [str(item["what"]) for item in fetch_all(conn, _TRIGGERS, (oids, [trigger_name(oid) for oid in oids]))]
    rewritten += sorted(
        {f"table {item['table']}, which has partitions or children" for item in found if item["has_children"]}
    )
    strangers += [str(item["what"]) for item in fetch_all(conn, _CARRIERS, (oids,))]
    late: dict[int, list[Late]] = {}
    for item in fetch_all(conn, _LATE, (oids,)):
        if item["name"] != trigger_name(int(item["table_oid"])):
            late.setdefault(int(item["table_oid"]), []).append(Late(str(item["name"]), str(item["condition"])))
    keys = {int(item["table_oid"]): str(item["name"]) for item in fetch_all(conn, _KEYS, (oids, oid))}
    return Enum(
        oid=oid,
        schema=schema,
        name=name,
        written=str(row["written"]),
        labels=tuple(row["labels"]),
        owner=str(row["owner"]),
        stranger=row["stranger"],
        room=bool(row["room"]),
        comment=row["comment"],
        grants=tuple(_grants(conn, oid)),
        tables=tuple(
            _table([item for item in found if int(item["table_oid"]) == table], keys, grants, indexes, checks, late)
            for table in dict.fromkeys(int(item["table_oid"]) for item in found)
        ),
        policies=tuple(
            Policy(item["schema"], item["table"], item["name"], item["definition"], item["comment"], item["stranger"])
            for item in policies
        ),
        strangers=tuple(dict.fromkeys(strangers)),
        rewritten=tuple(dict.fromkeys(rewritten)),
    )


def rights(conn: Connection, schema: str, name: str) -> tuple[str | None, list[tuple[str | None, bool]]]:
    """:return: the owner of an enum, None where there is none, and to whom it is granted (None: PUBLIC), with or without GRANT
    OPTION."""
    found = fetch_one(conn, _ENUM, (schema, name))
    if found is None:
        return None, []
    return str(found["owner"]), _grants(conn, int(found["oid"]))


def _grants(conn: Connection, oid: int) -> list[tuple[str | None, bool]]:
    return [(row["grantee"], bool(row["grantable"])) for row in fetch_all(conn, _GRANTS, (oid,))]


def trigger_name(table_oid: int) -> str:
    """:return: the trigger that keeps a column beside, and its function. Triggers fire by name: this one last."""
    return f"~pgops_labels_{table_oid}"


def _table(
    found: Sequence[Mapping[str, Any]],
    keys: Mapping[int, str],
    grants: Mapping[tuple[int, int], list[str]],
    indexes: Mapping[int, list[Index]],
    checks: Mapping[int, list[Check]],
    late: Mapping[int, list[Late]],
) -> Table:
    first, oid = found[0], int(found[0]["table_oid"])
    return Table(
        oid=oid,
        schema=str(first["schema"]),
        name=str(first["table"]),
        size=int(first["size"]),
        hidden=bool(first["hidden"]),
        key=keys.get(oid),
        columns=tuple(
            Column(
                number=int(item["number"]),
                name=str(item["name"]),
                not_null=bool(item["not_null"]),
                not_null_name=item["not_null_name"],
                default=item["fallback"],
                comment=item["comment"],
                grants=tuple(grants.get((oid, int(item["number"])), [])),
                statistics=item["statistics"],
                options=tuple(option for option in item["options"] if not option.startswith("pg_attver=")),
            )
            for item in found
        ),
        indexes=tuple(indexes.get(oid, [])),
        checks=tuple(checks.get(oid, [])),
        late=tuple(late.get(oid, [])),
        stranger=first["stranger"],
        room=bool(first["room"]),
    )


def _objects(items: Sequence[Mapping[str, Any]]) -> list[int]:
    return [int(item["object"]) for item in items]


def _other_relations(
    conn: Connection, items: Sequence[Mapping[str, Any]], ours: set[tuple[int, int]], strangers: list[str]
) -> None:
    """Views, columns of arrays, of views and of other relations; partitions follow their parent."""
    kinds = {
        int(row["oid"]): (str(row["kind"]), bool(row["partition"]))
        for row in fetch_all(
            conn,
            "SELECT oid::int8 AS oid, relkind::text AS kind, relispartition AS partition FROM pg_class "
            "WHERE oid = ANY (%s::oid[])",
            (_objects(items),),
        )
    }
    for item in items:
        kind, partition = kinds.get(int(item["object"]), ("", False))
        if kind in ("i", "I") or partition or (int(item["object"]), int(item["part"])) in ours:
            continue
        strangers.append(str(item["what"]))


def _other_defaults(
    conn: Connection, items: Sequence[Mapping[str, Any]], ours: set[tuple[int, int]], strangers: list[str]
) -> None:
    """Defaults of columns of another type, and generated columns, that read the column or name a label."""
    columns = {
        int(row["oid"]): (int(row["table_oid"]), int(row["number"]))
        for row in fetch_all(
            conn,
            "SELECT d.oid::int8 AS oid, d.adrelid::int8 AS table_oid, d.adnum AS number FROM pg_attrdef AS d "
            "WHERE d.oid = ANY (%s::oid[])",
            (_objects(items),),
        )
    }
    strangers += [str(item["what"]) for item in items if columns.get(int(item["object"])) not in ours]


def _indexes(
    conn: Connection,
    dependants: Sequence[Mapping[str, Any]],
    enum: int,
    columns: Sequence[Mapping[str, Any]],
    strangers: list[str],
    rewritten: list[str],
) -> dict[int, list[Index]]:
    oids = [int(item["object"]) for item in dependants if item["class"] == "pg_class" and not item["part"]]
    tables = {int(item["table_oid"]) for item in columns}
    found: dict[int, list[Index]] = {}
    for row in fetch_all(conn, _INDEXES, (oids,)):
        table, nodes = int(row["table_oid"]), str(row["nodes"])
        if table not in tables:
            strangers.append(f"index {row['schema']}.{row['name']}")
            continue
        read = [f":varattno {item['number']} " for item in columns if int(item["table_oid"]) == table]
        texts = any(part in nodes for part in [*read, f":consttype {enum} "])
        if row["special"]:
            rewritten.append(f"index {row['name']}, which is invalid, clustered, a replica identity or in a tablespace")
        elif texts:
            rewritten.append(f"index {row['name']}, whose expression or predicate reads the column")
        index = Index(str(row["schema"]), str(row["name"]), str(row["definition"]), row["comment"], texts)
        found.setdefault(table, []).append(index)
    return found


def _checks(
    conn: Connection,
    items: Sequence[Mapping[str, Any]],
    tables: Sequence[int],
    strangers: list[str],
    rewritten: list[str],
) -> dict[int, list[Check]]:
    told = {int(item["object"]): str(item["what"]) for item in items}
    found: dict[int, list[Check]] = {}
    for row in fetch_all(conn, _CONSTRAINTS, (list(told),)):
        table, kind = int(row["table_oid"]), row["type"]
        if kind == "n" or (kind == "c" and row["name"] == trigger_name(table)):
            continue
        if kind == "c" and table in tables:
            check = Check(str(row["name"]), str(row["definition"]), bool(row["validated"]), row["comment"])
            found.setdefault(table, []).append(check)
        elif kind in ("p", "u", "x") and table in tables:
            rewritten.append(told[int(row["oid"])])
        else:
            strangers.append(told[int(row["oid"])])
    return found


def _column_grants(
    conn: Connection, oids: Sequence[int], ours: set[tuple[int, int]]
) -> tuple[dict[tuple[int, int], list[str]], list[str]]:
    grants: dict[tuple[int, int], list[str]] = {}
    others = []
    for row in fetch_all(conn, _COLUMN_GRANTS, (oids,)):
        key = (int(row["table_oid"]), int(row["number"]))
        if key not in ours:
            continue
        if row["plain"]:
            grants.setdefault(key, []).append(str(row["statement"]))
        else:
            others.append(f'the privilege of "{row["statement"]}", which another role than the owner gave')
    return grants, others
